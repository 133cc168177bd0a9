//! What Azure's Blob service answers, read from its XML, and the list of blocks that is sent to it. Pure.

use crate::s3::xml::{Element, parse};
use pillion_base::error::{Error, Kind, Result};

/// A page of List Blobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Names of blobs and, with a slash at the end, of common prefixes.
    pub names: Vec<String>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<String>,
}

/// A page of a listing.
///
/// An account with folders of its own (Data Lake Storage) lists some of them as blobs; they are left out.
pub fn listing(body: &[u8]) -> Result<Listing> {
    let root = parse(body)?;
    let blobs = root.child("Blobs").ok_or_else(|| odd("a listing without Blobs"))?;
    let is_folder = |blob: &&Element| {
        let says = |part: &str, name: &str, value: &str| {
            blob.child(part).is_some_and(|part| part.text_of(name).trim().eq_ignore_ascii_case(value))
        };
        says("Properties", "ResourceType", "directory") || says("Metadata", "hdi_isfolder", "true")
    };
    let mut names: Vec<String> =
        blobs.all("Blob").filter(|blob| !is_folder(blob)).map(|blob| blob.text_of("Name").to_owned()).collect();
    names.extend(blobs.all("BlobPrefix").map(|prefix| prefix.text_of("Name").to_owned()));
    let next = Some(root.text_of("NextMarker").trim().to_owned()).filter(|marker| !marker.is_empty());
    Ok(Listing { names, next })
}

/// The blocks of Get Block List that are in no blob yet: ids in base64, and sizes.
pub fn uncommitted(body: &[u8]) -> Result<Vec<(String, u64)>> {
    let root = parse(body)?;
    let Some(list) = root.child("UncommittedBlocks") else { return Ok(Vec::new()) };
    let block = |block: &Element| {
        let size_bytes = block.text_of("Size").trim().parse().map_err(|_| odd("a block's Size is no number"))?;
        Ok((block.text_of("Name").trim().to_owned(), size_bytes))
    };
    list.all("Block").map(block).collect()
}

/// The body of Put Block List: the blob's blocks in their order.
pub(super) fn block_list<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
    for id in ids {
        // Base64 has nothing to escape.
        text.push_str(&format!("<Latest>{id}</Latest>"));
    }
    text + "</BlockList>"
}

/// The error of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorAnswer {
    /// Such as `BlobNotFound`.
    pub code: String,
    /// The first line of the message for people; the others are a request id and a time.
    pub message: String,
    /// More about a refused signature; it may repeat what was signed.
    pub detail: String,
}

/// The error in a body; `None` if there is none, or it cannot be read.
pub fn error(body: &[u8]) -> Option<ErrorAnswer> {
    let root = parse(body).ok().filter(|root| root.is_named("Error"))?;
    let message = root.text_of("Message").trim().lines().next().unwrap_or_default().to_owned();
    Some(ErrorAnswer {
        code: root.text_of("Code").trim().to_owned(),
        message,
        detail: root.text_of("AuthenticationErrorDetail").trim().to_owned(),
    })
}

fn odd(text: &str) -> Error {
    Error::new(Kind::Retry, format!("unexpected answer of the server: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings() {
        let check = |body: &str, names: &[&str], next: Option<&str>| {
            let page = listing(body.as_bytes()).unwrap();
            assert_eq!((page.names, page.next.as_deref()), (names.iter().map(|n| (*n).to_owned()).collect(), next));
        };
        check("<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>", &[], None);
        check(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ServiceEndpoint=\"https://x/\" \
             ContainerName=\"c\"><Prefix>a/</Prefix><Blobs><Blob><Name>a/b&amp;c ü</Name><Properties><Content-Length>1\
             </Content-Length><ResourceType>file</ResourceType></Properties></Blob><BlobPrefix><Name>a/d/</Name>\
             </BlobPrefix></Blobs><NextMarker>2!76!x</NextMarker></EnumerationResults>",
            &["a/b&c ü", "a/d/"],
            Some("2!76!x"),
        );
        check(
            "<R><Blobs><Blob><Name>f</Name><Properties><ResourceType>directory</ResourceType></Properties></Blob>\
             <Blob><Name>g</Name><Metadata><hdi_isfolder>true</hdi_isfolder></Metadata></Blob><Blob><Name>h</Name></Blob>\
             </Blobs></R>",
            &["h"],
            None,
        );
        for odd in ["", "<html/>", "<R/>", "<R><Blobs>"] {
            assert_eq!(listing(odd.as_bytes()).unwrap_err().kind(), Kind::Retry, "{odd}");
        }
    }

    #[test]
    fn blocks() {
        let body = "<BlockList><CommittedBlocks><Block><Name>eA==</Name><Size>9</Size></Block></CommittedBlocks>\
                    <UncommittedBlocks><Block><Name>eQ==</Name><Size>5</Size></Block></UncommittedBlocks></BlockList>";
        assert_eq!(uncommitted(body.as_bytes()).unwrap(), [("eQ==".to_owned(), 5)]);
        assert_eq!(uncommitted(b"<BlockList/>").unwrap(), []);
        uncommitted(b"<BlockList><UncommittedBlocks><Block/></UncommittedBlocks></BlockList>").unwrap_err();
        assert_eq!(
            block_list(["a=", "b="].into_iter()),
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList><Latest>a=</Latest><Latest>b=</Latest></BlockList>"
        );
    }

    #[test]
    fn errors() {
        let body = "<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code><Message>Server failed.\nRequestId:1\n\
                    Time:2</Message><AuthenticationErrorDetail>too old</AuthenticationErrorDetail></Error>";
        let want = ErrorAnswer {
            code: "AuthenticationFailed".into(),
            message: "Server failed.".into(),
            detail: "too old".into(),
        };
        assert_eq!(error(body.as_bytes()), Some(want));
        assert_eq!(error(b"<html>Error</html>"), None);
        assert_eq!(error(b""), None);
    }
}
