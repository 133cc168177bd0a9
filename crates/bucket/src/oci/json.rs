//! Answers of Oracle's Object Storage. Unknown fields do not count. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use pillion_base::error::{Error, Kind, Result};

/// Reads an answer. `Errors:` `Retry`, for an answer that broke off looks the same.
fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|_| Error::new(Kind::Retry, "the answer is not the expected JSON").classed("server"))
}

/// What a refusal says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ErrorAnswer {
    pub code: String,
    pub message: String,
}

/// What a refusal says; `None` if it is not the store's. One that came early may have the frame of a chunk around it.
pub(super) fn error(body: &[u8]) -> Option<ErrorAnswer> {
    let (start, end) = (body.iter().position(|c| *c == b'{')?, body.iter().rposition(|c| *c == b'}')?);
    serde_json::from_slice(body.get(start..=end)?).ok()
}

/// The name of the tenancy's namespace.
pub(super) fn namespace(body: &[u8]) -> Result<String> {
    let name: String = read(body)?;
    let is_name = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    match (1..=256).contains(&name.len()) && name.bytes().all(is_name) {
        true => Ok(name),
        false => Err(Error::new(Kind::Retry, "the answer is no name of a namespace").classed("server")),
    }
}

/// A page of a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// Objects, and folders with their slash.
    pub names: Vec<String>,
    /// Where the next page begins.
    pub next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListAnswer {
    objects: Vec<Named>,
    prefixes: Option<Vec<String>>,
    next_start_with: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// A page of a listing.
pub(super) fn listing(body: &[u8]) -> Result<Listing> {
    let answer: ListAnswer = read(body)?;
    let mut names: Vec<String> = answer.objects.into_iter().map(|object| object.name).collect();
    names.extend(answer.prefixes.unwrap_or_default());
    names.sort_unstable();
    names.dedup();
    Ok(Listing { names, next: answer.next_start_with.filter(|next| !next.is_empty()) })
}

/// An upload in parts that is under way.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct UploadAnswer {
    pub object: String,
    pub upload_id: String,
}

/// The upload that was begun.
pub(super) fn upload(body: &[u8]) -> Result<UploadAnswer> {
    let upload: UploadAnswer = read(body)?;
    match upload.upload_id.is_empty() {
        true => Err(Error::new(Kind::Retry, "the answer has no uploadId").classed("server")),
        false => Ok(upload),
    }
}

/// A page of uploads that are under way.
pub(super) fn uploads(body: &[u8]) -> Result<Vec<UploadAnswer>> {
    read(body)
}

/// A part that the store has.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub(super) struct StoredPart {
    pub etag: String,
    /// In base64.
    #[serde(default)]
    pub md5: String,
    #[serde(rename = "size")]
    pub size_bytes: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Numbered {
    part_number: u32,
    #[serde(flatten)]
    part: StoredPart,
}

/// A page of an upload's parts, by their numbers.
pub(super) fn parts(body: &[u8]) -> Result<BTreeMap<u32, StoredPart>> {
    let parts: Vec<Numbered> = read(body)?;
    Ok(parts.into_iter().map(|numbered| (numbered.part_number, numbered.part)).collect())
}

#[derive(Serialize)]
struct Begin<'a> {
    object: &'a str,
    #[serde(rename = "contentType")]
    content_type: &'a str,
}

/// The body that begins an upload in parts.
pub(super) fn begin(object: &str, content_type: &str) -> Vec<u8> {
    serde_json::to_vec(&Begin { object, content_type }).unwrap_or_default()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Commit<'a> {
    parts_to_commit: Vec<CommittedPart<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CommittedPart<'a> {
    part_num: usize,
    etag: &'a str,
}

/// The body that makes an object of parts, by their ETags.
pub(super) fn commit<'a>(tags: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let parts_to_commit = tags.enumerate().map(|(idx, etag)| CommittedPart { part_num: idx + 1, etag }).collect();
    serde_json::to_vec(&Commit { parts_to_commit }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        assert_eq!(namespace(b"\"axunmw4f0mln\"").unwrap(), "axunmw4f0mln");
        let text = r#"{"objects":[{"name":"b","size":1},{"name":"a"}],"prefixes":["a/"],"nextStartWith":"c"}"#;
        let names = ["a", "a/", "b"].map(str::to_owned).to_vec();
        assert_eq!(listing(text.as_bytes()).unwrap(), Listing { names, next: Some("c".into()) });
        assert_eq!(listing(br#"{"objects":[],"prefixes":null,"nextStartWith":null}"#).unwrap(), Listing::default());
        let text = r#"[{"partNumber":2,"etag":"e","md5":"m","size":7},{"partNumber":1,"etag":"d","size":8}]"#;
        let read = parts(text.as_bytes()).unwrap();
        assert_eq!(read.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(read[&2], StoredPart { etag: "e".into(), md5: "m".into(), size_bytes: 7 });
        let text = r#"{"namespace":"n","bucket":"b","object":"o","uploadId":"u","timeCreated":"t"}"#;
        assert_eq!(upload(text.as_bytes()).unwrap().upload_id, "u");
        assert_eq!(uploads(format!("[{text}]").as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_an_answer_is_an_error() {
        for text in ["", "{", "\"\"", "\"a/b\"", "[]", "7"] {
            assert_eq!(namespace(text.as_bytes()).unwrap_err().kind(), Kind::Retry, "{text}");
        }
        assert_eq!(listing(b"[]").unwrap_err().kind(), Kind::Retry);
        assert_eq!(upload(br#"{"object":"o","uploadId":""}"#).unwrap_err().kind(), Kind::Retry);
        assert_eq!(parts(b"{}").unwrap_err().kind(), Kind::Retry);
        assert!(error(b"<html>").is_none() && error(b"}{").is_none());
        assert_eq!(error(b"19\r\n{\"code\":\"X\"}\r\n0\r\n\r\n").unwrap().code, "X");
        assert_eq!(error(br#"{"code":"X","message":"y"}"#).unwrap().code, "X");
    }

    #[test]
    fn bodies_are_what_the_store_expects() {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(text(begin("a/\"b", "x/y")), r#"{"object":"a/\"b","contentType":"x/y"}"#);
        assert_eq!(
            text(commit(["d", "e"].into_iter())),
            r#"{"partsToCommit":[{"partNum":1,"etag":"d"},{"partNum":2,"etag":"e"}]}"#
        );
    }
}
