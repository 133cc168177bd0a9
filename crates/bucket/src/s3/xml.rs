//! What S3 servers answer, read from their XML. Pure.
//!
//! Namespaces and the names of roots are ignored, because servers differ in both. A document becomes a tree of
//! elements, whose depth and number are limited.

use percent_encoding::percent_decode_str;

use pillion_base::error::{Error, Kind, Result};

/// Deeper than any answer of S3.
const DEPTH_MAX: usize = 16;
/// More than any answer of S3 has: a page of 1000 objects has a dozen for each. Without this limit a small answer could
/// fill the memory, where an element is many times as large as its text.
const ELEMENTS_MAX: usize = 200_000;

/// An element: its name without prefix, its own text, its children.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Whether this is its name.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.name == name
    }

    /// The first child of this name.
    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of that child; empty without one.
    pub(crate) fn text_of(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| &child.text)
    }

    /// All children of this name.
    pub(crate) fn all<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    fn is_true(&self, name: &str) -> bool {
        self.text_of(name).trim().eq_ignore_ascii_case("true")
    }
}

/// The error of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorAnswer {
    /// Such as `NoSuchKey`.
    pub code: String,
    /// The message for people.
    pub message: String,
    /// The region of the bucket, if the server names it.
    pub region: String,
    /// The request's id, for the operator of the server.
    pub request_id: String,
}

/// A page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Names of objects.
    pub keys: Vec<String>,
    /// Common prefixes.
    pub prefixes: Vec<String>,
    /// The start of the next page: a token (v2) or a name (v1); `None` after the last.
    pub next: Option<String>,
}

/// A part as ListParts shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedPart {
    /// Its number, from 1.
    pub number: u32,
    /// Its ETag without quotes; empty if the server gives none.
    pub tag: String,
    /// Its size.
    pub size_bytes: u64,
}

/// A page of ListParts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartsPage {
    /// The parts, in the server's order.
    pub parts: Vec<ListedPart>,
    /// The marker of the next page.
    pub next: Option<u32>,
}

/// A page of ListMultipartUploads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadsPage {
    /// Names of objects and upload ids.
    pub uploads: Vec<(String, String)>,
    /// The markers of the next page: key and upload id.
    pub next: Option<(String, String)>,
}

/// The error in a body; `None` if there is none, or it cannot be read.
pub fn error(body: &[u8]) -> Option<ErrorAnswer> {
    let root = parse(body).ok()?;
    // Some wrap it, as AWS's STS does.
    let error = if root.name == "Error" { &root } else { root.child("Error")? };
    let request_id = [error.text_of("RequestId"), root.text_of("RequestId")].into_iter().find(|id| !id.is_empty());
    Some(ErrorAnswer {
        code: error.text_of("Code").trim().to_owned(),
        message: error.text_of("Message").trim().to_owned(),
        region: error.text_of("Region").trim().to_owned(),
        request_id: request_id.unwrap_or_default().trim().to_owned(),
    })
}

/// The text of the first element with a name, at any depth; `None` if there is none, or the body is no XML.
pub fn first(body: &[u8], name: &str) -> Option<String> {
    fn find<'a>(element: &'a Element, name: &str) -> Option<&'a Element> {
        if element.name == name { Some(element) } else { element.children.iter().find_map(|child| find(child, name)) }
    }
    find(&parse(body).ok()?, name).map(|element| element.text.trim().to_owned())
}

/// A page of ListObjects or ListObjectsV2.
pub fn listing(body: &[u8]) -> Result<Listing> {
    let root = parse(body)?;
    let is_encoded = root.text_of("EncodingType").trim().eq_ignore_ascii_case("url");
    let name = |text: &str| decoded(text, is_encoded);
    let keys: Vec<String> = root.all("Contents").map(|object| name(object.text_of("Key"))).collect::<Result<_>>()?;
    let prefixes: Vec<String> =
        root.all("CommonPrefixes").map(|object| name(object.text_of("Prefix"))).collect::<Result<_>>()?;
    let next = match (root.is_true("IsTruncated"), root.text_of("NextContinuationToken"), root.text_of("NextMarker")) {
        (false, _, _) => None,
        // Tokens are not encoded.
        (true, token, _) if !token.is_empty() => Some(token.to_owned()),
        (true, _, marker) if !marker.is_empty() => Some(name(marker)?),
        // ListObjects gives no marker without a delimiter: then it is the last name.
        (true, _, _) => keys.iter().chain(&prefixes).max().cloned(),
    };
    Ok(Listing { keys, prefixes, next })
}

/// The id that CreateMultipartUpload gives.
pub fn upload_id(body: &[u8]) -> Result<String> {
    match parse(body)?.text_of("UploadId").trim() {
        "" => Err(odd("no UploadId")),
        id => Ok(id.to_owned()),
    }
}

/// A page of ListParts.
pub fn parts(body: &[u8]) -> Result<PartsPage> {
    let root = parse(body)?;
    let mut parts = Vec::new();
    for part in root.all("Part") {
        let number = part.text_of("PartNumber").trim().parse().map_err(|_| odd("PartNumber is no number"))?;
        let size_bytes = part.text_of("Size").trim().parse().map_err(|_| odd("Size is no number"))?;
        parts.push(ListedPart { number, tag: unquoted(part.text_of("ETag")).to_owned(), size_bytes });
    }
    let next = if root.is_true("IsTruncated") {
        let marker = root.text_of("NextPartNumberMarker").trim().parse().ok();
        marker.or(parts.iter().map(|part| part.number).max())
    } else {
        None
    };
    Ok(PartsPage { parts, next })
}

/// A page of ListMultipartUploads.
pub fn uploads(body: &[u8]) -> Result<UploadsPage> {
    let root = parse(body)?;
    let is_encoded = root.text_of("EncodingType").trim().eq_ignore_ascii_case("url");
    let uploads: Vec<(String, String)> = root
        .all("Upload")
        .map(|upload| Ok((decoded(upload.text_of("Key"), is_encoded)?, upload.text_of("UploadId").to_owned())))
        .collect::<Result<_>>()?;
    let next = if root.is_true("IsTruncated") {
        let key = decoded(root.text_of("NextKeyMarker"), is_encoded)?;
        Some((key, root.text_of("NextUploadIdMarker").to_owned()))
    } else {
        None
    };
    Ok(UploadsPage { uploads, next })
}

/// Checks that the answer to CompleteMultipartUpload is complete. Its ETag is ignored: some servers give a wrong one.
pub(super) fn check_completed(body: &[u8]) -> Result<()> {
    parse(body).map(drop)
}

/// The bucket's region. The two oldest have other names here: `""` and `EU`.
pub fn location(body: &[u8]) -> Result<String> {
    let root = parse(body)?;
    // MinIO and others wrap it in another element.
    let text = root.child("LocationConstraint").unwrap_or(&root).text.trim();
    Ok(match text {
        "" => "us-east-1",
        "EU" => "eu-west-1",
        region => region,
    }
    .to_owned())
}

/// An ETag without its quotes and without the mark of a weak one.
pub(super) fn unquoted(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"')
}

/// Escapes `text` for an element.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Decodes a name. With `encoding-type=url` servers escape it as in a form, in which `+` is a space.
fn decoded(text: &str, is_encoded: bool) -> Result<String> {
    if !is_encoded {
        return Ok(text.to_owned());
    }
    let is_whole = |rest: &str| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if !text.split('%').skip(1).all(is_whole) {
        return Err(odd("a name with an incomplete %"));
    }
    let text = text.replace('+', " ");
    let name = percent_decode_str(&text).decode_utf8().map_err(|_| odd("a name that is not UTF-8"))?;
    Ok(name.into_owned())
}

/// An error that may be gone at the next attempt, because proxies and captive portals answer too.
fn odd(text: &str) -> Error {
    Error::new(Kind::Retry, format!("unexpected answer of the server: {text}"))
}

/// Parses a document into its tree.
pub(crate) fn parse(body: &[u8]) -> Result<Element> {
    let text = std::str::from_utf8(body).map_err(|_| odd("it is not UTF-8"))?;
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    // The open elements, from the outside in; the first is a frame around the root.
    let mut open = vec![Element::default()];
    let mut n_elements = 0;
    while let Some(begin) = rest.find('<') {
        let (before, tag) = rest.split_at(begin);
        if let Some(element) = open.last_mut() {
            unescape(before, &mut element.text)?;
        }
        rest = if let Some(after) = tag.strip_prefix("<?") {
            past(after, "?>")?.1
        } else if let Some(after) = tag.strip_prefix("<!--") {
            past(after, "-->")?.1
        } else if let Some(after) = tag.strip_prefix("<![CDATA[") {
            let (plain, after) = past(after, "]]>")?;
            if let Some(element) = open.last_mut() {
                element.text.push_str(plain);
            }
            after
        } else if let Some(after) = tag.strip_prefix("</") {
            let (name, after) = past(after, ">")?;
            close(&mut open, Some(local(name.trim_end())))?;
            after
        } else if let Some(after) = tag.strip_prefix('<').filter(|after| !after.starts_with('!')) {
            let (inside, after) = start_tag(after)?;
            let (inside, is_empty) = inside.strip_suffix('/').map_or((inside, false), |inside| (inside, true));
            let name = inside.split(|c: char| c.is_ascii_whitespace()).next().unwrap_or_default();
            n_elements += 1;
            if name.is_empty() || open.len() > DEPTH_MAX || n_elements > ELEMENTS_MAX {
                return Err(odd("it is not XML of S3"));
            }
            open.push(Element { name: local(name).to_owned(), ..Element::default() });
            if is_empty {
                close(&mut open, None)?;
            }
            after
        } else {
            // A document type, such as HTML has.
            return Err(odd("it is not XML of S3"));
        };
    }
    let root = open.pop().and_then(|mut frame| frame.children.pop());
    match root {
        Some(root) if open.is_empty() && root.name.eq_ignore_ascii_case("html") => Err(odd("it is a web page")),
        Some(root) if open.is_empty() => Ok(root),
        _ => Err(odd(if body.is_empty() { "it is empty" } else { "its XML breaks off" })),
    }
}

/// Closes the innermost element, whose name must be `name`.
fn close(open: &mut Vec<Element>, name: Option<&str>) -> Result<()> {
    let element = open.pop().filter(|element| name.is_none_or(|name| element.name == name));
    match (element, open.last_mut()) {
        (Some(element), Some(parent)) => {
            parent.children.push(element);
            Ok(())
        }
        _ => Err(odd("its XML has an end without a start")),
    }
}

/// Splits at `end`.
fn past<'a>(text: &'a str, end: &str) -> Result<(&'a str, &'a str)> {
    text.split_once(end).ok_or_else(|| odd("its XML breaks off"))
}

/// Splits at the end of a tag. The values of attributes may hold `>`.
fn start_tag(text: &str) -> Result<(&str, &str)> {
    let mut quote = None;
    for (idx, c) in text.char_indices() {
        match (quote, c) {
            (None, '>') => return text.get(..idx).zip(text.get(idx + 1..)).ok_or_else(|| odd("its XML breaks off")),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    Err(odd("its XML breaks off"))
}

fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

/// Appends `text` with its entities and numeric references resolved.
fn unescape(text: &str, to: &mut String) -> Result<()> {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        to.push_str(before);
        let (name, after) = past(after, ";")?;
        to.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            name => {
                let number = name.strip_prefix('#').and_then(|number| match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok(),
                    None => number.parse().ok(),
                });
                number.and_then(char::from_u32).ok_or_else(|| odd("its XML has an unknown entity"))?
            }
        });
        rest = after;
    }
    to.push_str(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_of_both_versions() {
        let check = |body: &str, keys: &[&str], prefixes: &[&str], next: Option<&str>| {
            let page = listing(body.as_bytes()).unwrap();
            assert_eq!((page.keys, page.prefixes), (strings(keys), strings(prefixes)), "{body}");
            assert_eq!(page.next.as_deref(), next, "{body}");
        };
        check("<ListBucketResult/>", &[], &[], None);
        check(
            "\u{feff} <?xml version='1.0'?>\n<!-- <x> --><s3:List xmlns:s3=\"a>b\"><s3:IsTruncated>true</s3:IsTruncated>\
             <Contents><Key>a&amp;b&#x43;&#68;<![CDATA[<&]]></Key><Size>1</Size></Contents>\
             <CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>\
             <NextContinuationToken>a+b%2F</NextContinuationToken></s3:List>",
            &["a&bCD<&"],
            &["p/"],
            Some("a+b%2F"),
        );
        check(
            "<L><EncodingType>url</EncodingType><Contents><Key>a+b%2Fc%C3%BC</Key></Contents></L>",
            &["a b/cü"],
            &[],
            None,
        );
        check("<L><Contents><Key>a+b%2F</Key></Contents></L>", &["a+b%2F"], &[], None);
        check(
            "<L><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextMarker>a%20b</NextMarker></L>",
            &[],
            &[],
            Some("a b"),
        );
        let last =
            "<L><IsTruncated>true</IsTruncated><Contents><Key>a</Key></Contents><Contents><Key>b</Key></Contents></L>";
        check(last, &["a", "b"], &[], Some("b"));
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn parts_and_uploads() {
        let page = parts(
            b"<ListPartsResponse><Part><PartNumber>2</PartNumber><Size>7</Size><ETag>&quot;ab&quot;</ETag></Part>\
              <Part><Size>5</Size><PartNumber>1</PartNumber></Part><IsTruncated>true</IsTruncated></ListPartsResponse>",
        )
        .unwrap();
        let part = |number, tag: &str, size_bytes| ListedPart { number, tag: tag.into(), size_bytes };
        assert_eq!(page, PartsPage { parts: vec![part(2, "ab", 7), part(1, "", 5)], next: Some(2) });
        let page = uploads(
            b"<R><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>i</NextUploadIdMarker>\
              <Upload><Key>k</Key><UploadId>i</UploadId></Upload></R>",
        )
        .unwrap();
        assert_eq!(page.uploads, [("k".to_owned(), "i".to_owned())]);
        assert_eq!(page.next, Some(("k".to_owned(), "i".to_owned())));
        assert_eq!(upload_id(b"<X><UploadId>2~x</UploadId></X>").unwrap(), "2~x");
        upload_id(b"<X/>").unwrap_err();
        check_completed(b"  \n <R><ETag>\"a-2\"</ETag></R>").unwrap();
        check_completed(b"<R><ETag>").unwrap_err();
    }

    #[test]
    fn locations() {
        let check = |body: &str, expected: &str| assert_eq!(location(body.as_bytes()).unwrap(), expected);
        check("<LocationConstraint xmlns='x'/>", "us-east-1");
        check("<LocationConstraint>EU</LocationConstraint>", "eu-west-1");
        check("<LocationConstraint>garage</LocationConstraint>", "garage");
        check("<R><LocationConstraint>x-1</LocationConstraint></R>", "x-1");
    }

    #[test]
    fn errors() {
        let check = |body: &str, code: &str, region: &str| {
            let error = error(body.as_bytes()).unwrap();
            assert_eq!((error.code.as_str(), error.region.as_str()), (code, region));
        };
        check("<Error><Code>NoSuchKey</Code></Error>", "NoSuchKey", "");
        check("<R><Error><Code>A</Code><Region>b</Region></Error></R>", "A", "b");
        assert!(listing(b"<HTML></HTML>").unwrap_err().to_string().contains("web page"));
        for none in ["", "<html><body/></html>", "<!DOCTYPE html><html>", "not xml", "<Error>", "\u{1}"] {
            assert_eq!(error(none.as_bytes()), None, "{none:?}");
        }
    }

    #[test]
    fn broken_documents_are_refused() {
        for broken in
            ["<a", "<a>", "<a></b>", "</a>", "<a>&x;</a>", "<a>&#xd800;</a>", "<a>&amp</a>", "<a b='></a>", "<>"]
        {
            assert_eq!(parse(broken.as_bytes()).unwrap_err().kind(), Kind::Retry, "{broken}");
        }
        parse("<a>".repeat(DEPTH_MAX + 5).as_bytes()).unwrap_err();
        let of = |n_elements: usize| format!("<a>{}</a>", "<b/>".repeat(n_elements - 1));
        assert_eq!(parse(of(ELEMENTS_MAX).as_bytes()).unwrap().children.len(), ELEMENTS_MAX - 1);
        parse(of(ELEMENTS_MAX + 1).as_bytes()).unwrap_err();
        parse(b"<a>\xff</a>").unwrap_err();
        listing(b"<L><EncodingType>url</EncodingType><Contents><Key>a%2</Key></Contents></L>").unwrap_err();
    }

    #[test]
    fn random_answers_never_panic() {
        let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
        let pieces =
            ["<", ">", "/", "a", "&", ";", "#x41", "<![CDATA[", "]]>", "<Error>", "</Error>", "\"", "ü", "%", "?"];
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                text.push_str(pieces[usize::try_from(random % pieces.len() as u64).unwrap()]);
            }
            let _ = (parse(text.as_bytes()), error(text.as_bytes()), decoded(&text, true));
        }
    }
}
