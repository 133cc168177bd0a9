//! Signs requests: Oracle's signature version 1, over some headers and the target. Pure.
//!
//! `Source:` Oracle's "Request Signatures". A body is signed by its SHA-256, but for objects and their parts, which
//! Oracle exempts so that they can be streamed; those carry their MD5.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use url::{Position, Url};

use super::key::Key;
use pillion_base::error::Result;

/// What is signed of every request, in this order; then the host.
const ALWAYS: [&str; 2] = ["date", "(request-target)"];
/// What is signed of a request with a body that is not streamed.
const WITH_BODY: [&str; 3] = ["content-length", "content-type", "x-content-sha256"];

/// A request as far as it is signed.
pub(super) struct Signed<'a> {
    /// The HTTP method in lower case.
    pub method: &'a str,
    /// The URL, with its query.
    pub url: &'a Url,
    /// `host[:port]`; `None` where it is not signed.
    pub host: Option<&'a str>,
    /// The time, as a header writes it.
    pub date: &'a str,
    /// Type and content of a body that is signed.
    pub body: Option<(&'a str, &'a [u8])>,
}

/// The headers that authorise a request. The length of a body is added where it is sent.
pub(super) fn headers(request: &Signed<'_>, key_id: &str, key: &Key) -> Result<Vec<(String, String)>> {
    let mut headers = vec![("date".to_owned(), request.date.to_owned())];
    let mut names = ALWAYS.to_vec();
    names.extend(request.host.map(|_| "host"));
    if let Some((content_type, bytes)) = request.body {
        headers.push(("content-type".into(), content_type.into()));
        headers.push(("x-content-sha256".into(), BASE64_STANDARD.encode(Sha256::digest(bytes))));
        names.extend(WITH_BODY);
    }
    let signature = key.sign(&text(request, &names, &headers))?;
    let names = names.join(" ");
    let authorization = format!(
        "Signature version=\"1\",keyId=\"{key_id}\",algorithm=\"rsa-sha256\",headers=\"{names}\",signature=\"{signature}\""
    );
    headers.push(("authorization".into(), authorization));
    Ok(headers)
}

/// The text that is signed: a line for each name.
fn text(request: &Signed<'_>, names: &[&str], headers: &[(String, String)]) -> String {
    let line = |name: &&str| {
        let value = match *name {
            "(request-target)" => {
                format!("{} {}", request.method, &request.url[Position::BeforePath..Position::AfterQuery])
            }
            "host" => request.host.unwrap_or_default().to_owned(),
            "content-length" => request.body.map_or(0, |(_, bytes)| bytes.len()).to_string(),
            name => headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone()).unwrap_or_default(),
        };
        format!("{name}: {value}")
    };
    names.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_testing::fake_oci::KEY_PEM;

    /// The signatures were made with oci-go-sdk 65.41.1, `common.DefaultRequestSigner`, and the key of the fake store.
    #[test]
    fn signatures_are_those_of_oracles_library() {
        let key = Key::read(KEY_PEM).unwrap();
        let check = |method: &str, path: &str, body: Option<(&str, &[u8])>, names: &str, want: &str| {
            let host = "objectstorage.eu-frankfurt-1.oraclecloud.com";
            let url = Url::parse(&format!("https://{host}{path}")).unwrap();
            let request = Signed { method, url: &url, host: Some(host), date: "Thu, 05 Jan 2014 21:31:40 GMT", body };
            let signed = headers(&request, "t/u/f", &key).unwrap();
            let want = format!(
                "Signature version=\"1\",keyId=\"t/u/f\",algorithm=\"rsa-sha256\",headers=\"{names}\",signature=\"{want}\""
            );
            assert_eq!(signed.last(), Some(&("authorization".to_owned(), want)), "{path}");
            signed.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let sent = check(
            "get",
            "/n/ns/b/bu/o?prefix=a%2Fb&delimiter=%2F",
            None,
            "date (request-target) host",
            "PwjolISyfdAIQzjm0W11GBBP5+6t5dv/KkC/vdkzP+cf6M51b8gQrZvpIAQkBCY9hEqmOV/a1u6xrHHlVSGLOyl51hVMMTVLRXi5kmDttkUziIxEb\
             7fgPcNBElEtuZcdJ5NzGs9DZ/VZbIcqhYToSIhs1XfTdgAOYrgEVnclJIFh9ip/JIGgAtkp+DDt6/QdgBq18eduRyu2QjQVLz+dn5lEZY5QSjPf0B\
             ZXU3WFJ5On6flDz5WTVOWWykoA16RGS4V5dgvA156W32CT59WWpRmhOwi3PkUGjImcIwY7xKlncFHbW5LosIoSCQpTrZKl5A0o0A1u4WIiUgbWAsR\
             UHQ==",
        );
        assert_eq!(sent, ["date", "authorization"]);
        let sent = check(
            "post",
            "/n/ns/b/bu/u",
            Some(("application/json", br#"{"object":"a"}"#)),
            "date (request-target) host content-length content-type x-content-sha256",
            "RhiB6sm3p9HOrPJL8BO/EWTEU2iHx9VBh57R5EZYpemPVXNFaorv8DSByMBvjiPVEijdfGcuHRuE21ULxYOJQQgwwbGbywhYfkLM3P/3EVGZTAfcO\
             bILEy/4pHhl4pJz8OC61hGkvVhVD/q4/ad4e7i/80s5WbNWWA0P7S1e7v8YyNzH6D9F+Cj75W/G0uR2uOBh1TdrsKQmPudaQPFg8qxN2yGi06Jw2/\
             y3F2JjJ8MdXHRA/HqKeWZPy2SsOrfHJtmDuN4HComqN9hv6s7jzXOv68dZgy6+c+Il4SAFD3q7PjGevNR+x1c/WTrWqYrE0/hoYocbEXp2HM3FGT+\
             pIw==",
        );
        assert_eq!(sent, ["date", "content-type", "x-content-sha256", "authorization"]);
    }
}
