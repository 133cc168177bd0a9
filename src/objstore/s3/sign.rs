//! Signs requests: SigV4 in the query, for a short time. Pure.
//!
//! The signature is in the URL, so that a signed URL is a secret: [`Signed`] has no debug output, and only the module
//! that sends it takes it apart.

use jiff::Timestamp;
use rusty_s3::Method;
use url::Url;

use super::credentials::Keys;
use crate::limits;

/// A URL that may be used by whoever knows it.
pub struct Signed(Url);

impl Signed {
    /// For the sender only.
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

/// Signs a request without its body; without keys it goes as it is. `headers` have lower-case names and must be sent.
pub fn sign(
    method: Method,
    mut url: Url,
    query: &[(&str, String)],
    headers: &[(String, String)],
    keys: Option<&Keys>,
    region: &str,
    now: Timestamp,
) -> Signed {
    let mut query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    query.sort_unstable();
    let Some(keys) = keys else {
        if !query.is_empty() {
            // Not as a form: a space is `%20`, as in signed ones.
            let pairs: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
            url.set_query(Some(&pairs.join("&")));
        }
        return Signed(url);
    };
    let mut headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    headers.sort_unstable();
    let token = Some(keys.session_token.0.as_str()).filter(|token| !token.is_empty());
    Signed(rusty_s3::signing::sign(
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

fn escaped(text: &str) -> String {
    use std::fmt::Write;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a String takes everything");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objstore::s3::config::Secret;

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
