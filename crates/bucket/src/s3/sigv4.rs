//! AWS Signature Version 4 in the header `Authorization`, for any service. rusty-s3 signs in the query only. Pure.

use std::fmt::Write;

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::credentials::Keys;
use super::parts::hex;

/// A request as it is signed.
pub(super) struct Canonical<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// The path as it is sent, escaped.
    pub path: &'a str,
    /// The query as it is sent: sorted by name, escaped.
    pub query: &'a str,
    /// All headers that are signed, with lower-case names and sorted by them; `host` and `x-amz-date` among them.
    pub headers: &'a [(&'a str, &'a str)],
    /// SHA-256 of the body in hex, or what stands for it.
    pub payload: &'a str,
}

/// The value of `x-amz-date`.
pub(super) fn date(now: Timestamp) -> String {
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// The value of `Authorization`. `date` is that of [`date`].
///
/// `Source:` "Create a signed AWS API request", IAM User Guide.
pub(super) fn authorization(request: &Canonical<'_>, service: &str, region: &str, date: &str, keys: &Keys) -> String {
    let Canonical { method, path, query, headers, payload } = request;
    let mut canonical = format!("{method}\n{path}\n{query}\n");
    for (name, value) in *headers {
        // Runs of white space count as one space.
        let value = value.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let _ = write!(canonical, "\n{names}\n{payload}");
    let day = date.get(..8).unwrap_or_default();
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let first = format!("AWS4{}", keys.secret_key.0);
    let key =
        [day, region, service, "aws4_request"].iter().fold(first.into_bytes(), |key, part| hmac(&key, part).to_vec());
    let signature = hex(&hmac(&key, &text));
    format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", keys.access_key.0)
}

/// SHA-256 in hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hmac(key: &[u8], text: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::secret::Secret;

    /// The examples of "Signature Calculations for the Authorization Header", Amazon S3 API Reference.
    #[test]
    fn the_examples_of_amazon() {
        let secret = |text: &str| Secret(text.into());
        let keys = Keys {
            access_key: secret("AKIAIOSFODNN7EXAMPLE"),
            secret_key: secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            session_token: secret(""),
            expires: None,
        };
        let at = date("2013-05-24T00:00:00Z".parse().unwrap());
        assert_eq!(at, "20130524T000000Z");
        let nothing = sha256(b"");
        let check = |method: &str, path: &str, query: &str, more: &[(&str, &str)], payload: &str, expected: &str| {
            let mut headers = vec![
                ("host", "examplebucket.s3.amazonaws.com"),
                ("x-amz-content-sha256", payload),
                ("x-amz-date", at.as_str()),
            ];
            headers.extend_from_slice(more);
            headers.sort_unstable();
            let request = Canonical { method, path, query, headers: &headers, payload };
            let said = authorization(&request, "s3", "us-east-1", &at, &keys);
            let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
            let begin = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, ";
            assert_eq!(said, format!("{begin}SignedHeaders={names}, Signature={expected}"));
        };
        let range = [("range", "bytes=0-9")];
        let expected = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        check("GET", "/test.txt", "", &range, &nothing, expected);
        let put = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", " REDUCED_REDUNDANCY ")];
        let expected = "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd";
        check("PUT", "/test%24file.text", "", &put, &sha256(b"Welcome to Amazon S3."), expected);
        let expected = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543";
        check("GET", "/", "lifecycle=", &[], &nothing, expected);
        let expected = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7";
        check("GET", "/", "max-keys=2&prefix=J", &[], &nothing, expected);
    }
}
