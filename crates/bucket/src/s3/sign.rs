//! Makes requests ready to be sent: the query, and the signature in the headers. So no URL is a secret, and a session token
//! stands in no proxy's log. Pure.

use jiff::Timestamp;
use percent_encoding::utf8_percent_encode;
use url::Url;

use super::client::Request;
use super::credentials::Keys;

use super::sigv4::{self, Canonical};
use crate::rest::{Body, RESERVED, authority};

/// What stands for the hash of a body that is not hashed before it is sent.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// The URL and the headers of a request whose object or bucket is at `url`; without keys nothing is signed.
pub(super) fn sign(
    request: &Request<'_>,
    mut url: Url,
    keys: Option<&Keys>,
    region: &str,
    now: Timestamp,
) -> (Url, Vec<(String, String)>) {
    let mut query: Vec<(&str, &str)> = request.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    query.sort_unstable();
    if !query.is_empty() {
        // Not encoded as a form: a space is `%20`.
        let pairs: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, RESERVED))).collect();
        url.set_query(Some(&pairs.join("&")));
    }
    let mut headers = request.headers.clone();
    let Some(keys) = keys else { return (url, headers) };
    let date = sigv4::date(now);
    let payload = payload(request);
    headers.push(("x-amz-content-sha256".to_owned(), payload.clone()));
    headers.push(("x-amz-date".to_owned(), date.clone()));
    if !keys.session_token.0.is_empty() {
        headers.push(("x-amz-security-token".to_owned(), keys.session_token.0.clone()));
    }
    let host = authority(&url);
    let mut signed: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    signed.push(("host", &host));
    signed.sort_unstable();
    let canonical = Canonical {
        method: request.method.to_str(),
        path: url.path(),
        query: url.query().unwrap_or_default(),
        headers: &signed,
        payload: &payload,
    };
    let authorization = sigv4::authorization(&canonical, "s3", region, &date, keys);
    headers.push(("authorization".to_owned(), authorization));
    (url, headers)
}

/// What is signed of the body.
fn payload(request: &Request<'_>) -> String {
    match request.body {
        Body::None => sigv4::sha256(b""),
        Body::Bytes(bytes) => sigv4::sha256(bytes),
        Body::File { .. } if request.sha256.is_empty() => UNSIGNED.to_owned(),
        Body::File { .. } => request.sha256.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::secret::Secret;
    use rusty_s3::Method;

    fn signed(token: Option<&str>, headers: &[(String, String)]) -> (String, Vec<(String, String)>) {
        let secret = |text: &str| Secret(text.to_owned());
        let keys = token.map(|token| Keys {
            access_key: secret("AKEY"),
            secret_key: secret("SKEY"),
            session_token: secret(token),
            expires: None,
        });
        let url = "http://s3.test:81/b/a%20b".parse().unwrap();
        let request = Request::new("GetObject", "s3:GetObject", Method::Get, Some("a b"))
            .with("uploads", "")
            .with("prefix", "a b/")
            .with_headers(headers);
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let (url, headers) = sign(&request, url, keys.as_ref(), "eu-1", now);
        (url.to_string(), headers)
    }

    #[test]
    fn headers_are_signed_and_the_url_holds_no_secret() {
        let (url, headers) = signed(Some("T/1"), &[("x-b".into(), "1".into()), ("content-md5".into(), "2".into())]);
        assert_eq!(url, "http://s3.test:81/b/a%20b?prefix=a%20b%2F&uploads=");
        let get = |name: &str| &headers.iter().find(|(other, _)| other == name).unwrap().1;
        assert_eq!(get("x-amz-security-token"), "T/1");
        assert_eq!(
            (get("x-amz-date").as_str(), get("x-amz-content-sha256")),
            ("20260102T030405Z", &sigv4::sha256(b""))
        );
        let begin = "AWS4-HMAC-SHA256 Credential=AKEY/20260102/eu-1/s3/aws4_request, SignedHeaders=content-md5;host;\
                     x-amz-content-sha256;x-amz-date;x-amz-security-token;x-b, Signature=";
        assert!(get("authorization").starts_with(begin), "{headers:?}");
        assert!(!signed(Some(""), &[]).1.iter().any(|(name, _)| name == "x-amz-security-token"));
    }

    #[test]
    fn without_keys_nothing_is_signed() {
        let given = [("x-b".to_owned(), "1".to_owned())];
        assert_eq!(signed(None, &given), ("http://s3.test:81/b/a%20b?prefix=a%20b%2F&uploads=".into(), given.to_vec()));
    }
}
