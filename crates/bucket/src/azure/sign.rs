//! SharedKey: the signature of a request with the account's key. Pure.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The header `authorization` for a request. `path` is the URL's, escaped as it is sent; `query` is not escaped;
/// `headers` have lower-case names.
///
/// `Source:` "Authorize with Shared Key", Blob service, version 2015-02-21 and later.
pub(super) fn authorization(
    account: &str,
    key: &[u8],
    method: &str,
    path: &str,
    query: &[(&str, String)],
    headers: &[(String, String)],
    body_bytes: u64,
) -> String {
    let text = string_to_sign(account, method, path, query, headers, body_bytes);
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(text.as_bytes());
    format!("SharedKey {account}:{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

fn string_to_sign(
    account: &str,
    method: &str,
    path: &str,
    query: &[(&str, String)],
    headers: &[(String, String)],
    body_bytes: u64,
) -> String {
    /// Those between the length and the headers of Azure's own, in their order. The date is in `x-ms-date`.
    const BEHIND_THE_LENGTH: [&str; 8] = [
        "content-md5",
        "content-type",
        "date",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ];
    let get = |name: &str| headers.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value.as_str());
    let length = if body_bytes == 0 { String::new() } else { body_bytes.to_string() };
    let mut text = format!("{method}\n{}\n{}\n{length}\n", get("content-encoding"), get("content-language"));
    for name in BEHIND_THE_LENGTH {
        text.push_str(get(name));
        text.push('\n');
    }
    let own: BTreeMap<&str, &str> =
        headers.iter().filter(|(name, _)| name.starts_with("x-ms-")).map(|(n, v)| (n.as_str(), v.as_str())).collect();
    for (name, value) in own {
        text.push_str(&format!("{name}:{}\n", value.trim()));
    }
    text.push_str(&format!("/{account}{path}"));
    let mut sorted: Vec<(String, &str)> =
        query.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.as_str())).collect();
    sorted.sort_unstable();
    for (name, value) in sorted {
        text.push_str(&format!("\n{name}:{value}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn the_text_is_that_of_the_documentation() {
        // "Authorize with Shared Key" has this example, with version 2009-09-19, in which an empty body counted 0.
        let date = header("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT");
        let query =
            [("comp", "metadata".to_owned()), ("restype", "container".to_owned()), ("timeout", "20".to_owned())];
        let headers = [header("x-ms-version", "2015-02-21"), date];
        assert_eq!(
            string_to_sign("myaccount", "GET", "/mycontainer", &query, &headers, 0),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
             /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
        );
        let headers = [
            header("x-ms-date", "D"),
            header("content-type", "text/plain"),
            header("range", "bytes=1-"),
            header("content-md5", "M=="),
            header("x-ms-blob-type", " BlockBlob "),
        ];
        assert_eq!(
            string_to_sign(
                "a",
                "PUT",
                "/a/c/b%20c",
                &[("comp", "block".into()), ("BlockId", "x=".into())],
                &headers,
                7
            ),
            "PUT\n\n\n7\nM==\ntext/plain\n\n\n\n\n\nbytes=1-\nx-ms-blob-type:BlockBlob\nx-ms-date:D\n\
             /a/a/c/b%20c\nblockid:x=\ncomp:block"
        );
    }

    #[test]
    fn the_signature_is_an_hmac_of_it() {
        // Made with `openssl dgst -sha256 -mac HMAC -macopt key:key -binary | base64` of the text.
        let headers = [header("x-ms-date", "D")];
        let got = authorization("a", b"key", "GET", "/c", &[], &headers, 0);
        assert_eq!(got, "SharedKey a:O9totGiTxj48hfVaUsXkwEqKgA2f/ZOSGTAFfuoQIEA=");
    }
}
