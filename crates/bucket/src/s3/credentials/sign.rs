//! The signature of a request to STS, in its headers. Pure.

use super::Keys;
use crate::s3::sigv4::{self, Canonical};

/// A request to be signed. It has no query.
pub(super) struct Unsigned<'a> {
    pub host: &'a str,
    /// The path as it is sent; `/` for AWS.
    pub path: &'a str,
    pub region: &'a str,
    pub content_type: &'a str,
    pub body: &'a str,
    /// In the form `20260102T030405Z`.
    pub date: &'a str,
}

/// The value of the header `Authorization`; the headers `X-Amz-Date` and, if there is a token, `X-Amz-Security-Token`
/// must be sent too.
pub(super) fn authorization(request: &Unsigned<'_>, keys: &Keys) -> String {
    let Unsigned { host, path, region, content_type, body, date } = request;
    let mut headers = vec![("content-type", *content_type), ("host", *host), ("x-amz-date", *date)];
    let token = keys.session_token.0.as_str();
    if !token.is_empty() {
        headers.push(("x-amz-security-token", token));
    }
    let payload = sigv4::sha256(body.as_bytes());
    let canonical = Canonical { method: "POST", path, query: "", headers: &headers, payload: &payload };
    sigv4::authorization(&canonical, "sts", region, date, keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::secret::Secret;

    #[test]
    fn a_request_is_signed_with_all_its_headers() {
        let secret = |text: &str| Secret(text.into());
        let mut keys = Keys {
            access_key: secret("AKIDEXAMPLE"),
            secret_key: secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: secret(""),
            expires: None,
        };
        let request = Unsigned {
            host: "sts.us-east-1.amazonaws.com",
            path: "/",
            region: "us-east-1",
            content_type: "application/x-www-form-urlencoded",
            body: "Action=GetCallerIdentity&Version=2011-06-15",
            date: "20150830T123600Z",
        };
        // What botocore's SigV4Auth makes of the same.
        assert_eq!(
            authorization(&request, &keys),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/sts/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=94405bc26f219569999dadb25c560bc61134371b330f394151ebb698c4d5fb3a"
        );
        keys.session_token = secret("token");
        assert_eq!(
            authorization(&request, &keys),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/sts/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, \
             Signature=aa8c06f6991cf9373c4a55bc0a107e8175d76b08d008bb4c7b1f36888af368a2"
        );
    }
}
