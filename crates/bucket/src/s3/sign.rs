//! Signs requests: SigV4 in the query, for a short time. Pure.
//!
//! The signature is in the URL, so a signed URL is a secret: [`SignedUrl`] has no debug output, and only the module
//! that sends it sees its text.

use jiff::Timestamp;
use percent_encoding::utf8_percent_encode;
use rusty_s3::Method;
use url::Url;

use super::credentials::Keys;
use super::endpoint::RESERVED;
use crate::limits;

/// A URL that works for everybody who knows it.
pub(crate) struct SignedUrl(Url);

impl SignedUrl {
    /// A URL that another way of signing has made.
    pub(crate) fn new(url: Url) -> SignedUrl {
        SignedUrl(url)
    }

    /// The URL itself, for the module that sends it.
    pub(super) fn expose(&self) -> &Url {
        &self.0
    }
}

/// Signs a request without its body; without keys nothing is signed. `headers` have lower-case names and must be sent.
pub(super) fn sign(
    method: Method,
    mut url: Url,
    query: &[(&str, String)],
    headers: &[(String, String)],
    keys: Option<&Keys>,
    region: &str,
    now: Timestamp,
) -> SignedUrl {
    let mut query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    query.sort_unstable();
    let Some(keys) = keys else {
        if !query.is_empty() {
            // Not encoded as a form: a space is `%20`, as in signed requests.
            let pairs: Vec<String> =
                query.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, RESERVED))).collect();
            url.set_query(Some(&pairs.join("&")));
        }
        return SignedUrl(url);
    };
    let mut headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    headers.sort_unstable();
    let token = Some(keys.session_token.0.as_str()).filter(|token| !token.is_empty());
    SignedUrl(rusty_s3::signing::sign(
        &now,
        method,
        url,
        &keys.access_key.0,
        &keys.secret_key.0,
        token,
        region,
        limits::S3_SIGNATURE_LIFETIME.as_secs(),
        query.into_iter(),
        headers.into_iter(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::secret::Secret;

    fn keys(token: &str) -> Keys {
        let secret = |text: &str| Secret(text.to_owned());
        Keys { access_key: secret("AKEY"), secret_key: secret("SKEY"), session_token: secret(token), expires: None }
    }

    fn signed(token: Option<&str>, headers: &[(String, String)]) -> String {
        let keys = token.map(keys);
        let url = "http://s3.test/b/a%20b".parse().unwrap();
        let query = [("uploads", String::new()), ("prefix", "a b/".to_owned())];
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        sign(Method::Get, url, &query, headers, keys.as_ref(), "eu-1", now).expose().to_string()
    }

    #[test]
    fn queries_are_sorted_and_headers_named() {
        let url = signed(Some(""), &[("x-b".into(), "1".into()), ("content-md5".into(), "2".into())]);
        for part in [
            "http://s3.test/b/a%20b?X-Amz-Algorithm=AWS4-HMAC-SHA256&",
            "X-Amz-Credential=AKEY%2F20260102%2Feu-1%2Fs3%2Faws4_request&X-Amz-Date=20260102T030405Z&",
            "X-Amz-SignedHeaders=content-md5%3Bhost%3Bx-b&prefix=a%20b%2F&uploads=&X-Amz-Signature=",
        ] {
            assert!(url.contains(part), "{url} lacks {part}");
        }
        assert!(!url.contains("Security-Token"), "{url}");
        assert!(signed(Some("T/1"), &[]).contains("X-Amz-Security-Token=T%2F1&"));
    }

    #[test]
    fn without_keys_nothing_is_signed() {
        assert_eq!(signed(None, &[]), "http://s3.test/b/a%20b?prefix=a%20b%2F&uploads=");
    }
}
