//! Answers of Google Cloud Storage. Any bytes are an answer, or an error that is worth another attempt. Pure.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

use pillion_base::error::{Error, Kind, Result};

/// What the store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its size.
    pub size_bytes: u64,
    /// The CRC-32C of its content, if it is said.
    pub crc32c: Option<u32>,
    /// The MD5 of its content; objects that were composed have none.
    pub md5: Option<[u8; 16]>,
    /// The number of this version; empty if it is not said.
    pub generation: String,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Full names, folders with a slash at their end; in no order.
    pub names: Vec<String>,
    /// Where the next page begins; `None` for the last one.
    pub next: Option<String>,
}

/// What a refusal says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorAnswer {
    /// Such as `notFound`; empty if none is named.
    pub reason: String,
    /// The store's sentence.
    pub message: String,
}

fn odd(text: &str) -> Error {
    Error::new(Kind::Retry, format!("the answer is not that of Google Cloud Storage: {text}")).classed("server")
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

/// A whole number, which Google writes as a text.
fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn read(body: &[u8], kind: &str) -> Result<Value> {
    let value: Value = serde_json::from_slice(body).map_err(|_| odd("no JSON"))?;
    match text(value.get("kind")) == kind {
        true => Ok(value),
        false => Err(odd(&format!("no {kind}"))),
    }
}

/// Whether a body is a resource of the store, and not something that a proxy or a portal says.
pub(super) fn is_resource(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Any {
        kind: String,
    }
    serde_json::from_slice(body).is_ok_and(|any: Any| any.kind.starts_with("storage#"))
}

/// Reads what the store says of an object.
pub fn object(body: &[u8]) -> Result<Object> {
    let value = read(body, "storage#object")?;
    Ok(Object {
        size_bytes: number(value.get("size")).ok_or_else(|| odd("an object without a size"))?,
        crc32c: crc32c(text(value.get("crc32c"))),
        md5: BASE64_STANDARD.decode(text(value.get("md5Hash"))).ok().and_then(|bytes| bytes.try_into().ok()),
        generation: number(value.get("generation")).map(|number| number.to_string()).unwrap_or_default(),
    })
}

/// A CRC-32C as Google writes it: its bytes, the highest first, in base64.
pub(super) fn crc32c(text: &str) -> Option<u32> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok().map(u32::from_be_bytes)
}

/// The sum that a header `x-goog-hash` has for the whole object.
pub(super) fn crc32c_of_header(header: &str) -> Option<u32> {
    header.split(',').find_map(|pair| pair.trim().strip_prefix("crc32c=")).and_then(crc32c)
}

/// Reads a page of a listing.
pub fn listing(body: &[u8]) -> Result<Listing> {
    let value = read(body, "storage#objects")?;
    let list = |name: &str| match value.get(name) {
        None | Some(Value::Null) => Ok([].as_slice()),
        Some(Value::Array(list)) => Ok(list.as_slice()),
        Some(_) => Err(odd(&format!("{name} is no list"))),
    };
    let mut names = Vec::new();
    for item in list("items")? {
        names.push(item.get("name").and_then(Value::as_str).ok_or_else(|| odd("an object without a name"))?.to_owned());
    }
    for prefix in list("prefixes")? {
        names.push(prefix.as_str().ok_or_else(|| odd("a prefix that is no text"))?.to_owned());
    }
    let next = Some(text(value.get("nextPageToken"))).filter(|token| !token.is_empty()).map(str::to_owned);
    Ok(Listing { names, next })
}

/// Reads a refusal; `None` if it is not one of the store's own.
pub fn error(body: &[u8]) -> Option<ErrorAnswer> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let error = value.get("error").filter(|error| error.is_object())?;
    let first = error.get("errors").and_then(|errors| errors.get(0));
    let reason = first.map(|first| text(first.get("reason"))).unwrap_or_default();
    Some(ErrorAnswer { reason: reason.to_owned(), message: text(error.get("message")).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_sizes_and_sums() {
        let body = br#"{"kind":"storage#object","size":"5","crc32c":"yZRlqg==","md5Hash":"XrY7u+Ae7tCTyyK7j1rNww==","generation":"17"}"#;
        let got = object(body).unwrap();
        assert_eq!((got.size_bytes, got.crc32c, got.generation.as_str()), (5, Some(0xC994_65AA), "17"));
        assert_eq!(got.md5.map(|md5| md5[0]), Some(0x5e));
        let least = object(br#"{"kind":"storage#object","size":7}"#).unwrap();
        assert_eq!(least, Object { size_bytes: 7, crc32c: None, md5: None, generation: String::new() });
        assert_eq!(crc32c_of_header("md5=x, crc32c=yZRlqg=="), Some(0xC994_65AA));
        assert_eq!(crc32c_of_header("md5=x"), None);
    }

    #[test]
    fn listings_have_names_and_a_next_page() {
        let body = br#"{"kind":"storage#objects","nextPageToken":"t","prefixes":["a/"],"items":[{"name":"b\u00fc"}]}"#;
        let want = Listing { names: vec!["bü".into(), "a/".into()], next: Some("t".into()) };
        assert_eq!(listing(body).unwrap(), want);
        assert_eq!(listing(br#"{"kind":"storage#objects"}"#).unwrap(), Listing::default());
    }

    #[test]
    fn what_is_no_answer_of_the_store_may_pass() {
        let bodies: [&[u8]; 9] = [
            b"",
            b"<html>",
            b"null",
            b"[]",
            br#"{"kind":"storage#object"}"#,
            br#"{"kind":"storage#object","size":"-1"}"#,
            br#"{"kind":"storage#objects","items":{}}"#,
            br#"{"kind":"storage#objects","items":[{}]}"#,
            br#"{"kind":"storage#objects","prefixes":[1]}"#,
        ];
        for body in bodies {
            for err in [object(body).unwrap_err(), listing(body).unwrap_err()] {
                assert_eq!(err.kind(), Kind::Retry, "{}: {err}", String::from_utf8_lossy(body));
            }
        }
    }

    #[test]
    fn refusals_have_a_reason_and_a_sentence() {
        let body = br#"{"error":{"code":404,"message":"No such object: b/o","errors":[{"reason":"notFound","domain":"global"}]}}"#;
        let want = ErrorAnswer { reason: "notFound".into(), message: "No such object: b/o".into() };
        assert_eq!(error(body), Some(want));
        assert_eq!(error(br#"{"error":{"errors":{}}}"#), Some(ErrorAnswer::default()));
        assert_eq!(error(br#"{"error":"invalid_grant"}"#), None);
        assert_eq!(error(b"Not Found"), None);
    }
}
