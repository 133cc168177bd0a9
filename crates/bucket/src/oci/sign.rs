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

/// What is signed of every request, in this order.
const ALWAYS: [&str; 3] = ["date", "(request-target)", "host"];
/// What is signed of a request with a body that is not streamed.
const WITH_BODY: [&str; 3] = ["content-length", "content-type", "x-content-sha256"];

/// A request as far as it is signed.
pub(super) struct Signed<'a> {
    /// The HTTP method in lower case.
    pub method: &'a str,
    /// The URL, with its query.
    pub url: &'a Url,
    /// `host[:port]`.
    pub host: &'a str,
    /// The time, as a header writes it.
    pub date: &'a str,
    /// Type and content of a body that is signed.
    pub body: Option<(&'a str, &'a [u8])>,
}

/// The headers that authorise a request. The length of a body is added where it is sent.
pub(super) fn headers(request: &Signed<'_>, key_id: &str, key: &Key) -> Result<Vec<(String, String)>> {
    let mut headers = vec![("date".to_owned(), request.date.to_owned())];
    let mut names = ALWAYS.to_vec();
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
            "host" => request.host.to_owned(),
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

    /// `Source:` the request of Oracle's own example, "Request Signatures", sample GET and POST.
    #[test]
    fn the_signed_text_is_that_of_oracles_example() {
        let key = Key::read(KEY_PEM).unwrap();
        let url = Url::parse("https://iaas.us-phoenix-1.oraclecloud.com/20160918/instances?a=b%2Fc&d=e").unwrap();
        let host = "iaas.us-phoenix-1.oraclecloud.com";
        let date = "Thu, 05 Jan 2014 21:31:40 GMT";
        let get = Signed { method: "get", url: &url, host, date, body: None };
        let signed = headers(&get, "t/u/f", &key).unwrap();
        let (_, value) = signed.last().unwrap();
        assert!(
            value.starts_with(
                "Signature version=\"1\",keyId=\"t/u/f\",algorithm=\"rsa-sha256\",headers=\"date (request-target) host\",\
                 signature=\""
            ),
            "{value}"
        );
        assert_eq!(
            text(&get, &ALWAYS, &signed),
            "date: Thu, 05 Jan 2014 21:31:40 GMT\n(request-target): get /20160918/instances?a=b%2Fc&d=e\n\
             host: iaas.us-phoenix-1.oraclecloud.com"
        );
        let body: &[u8] = b"{}";
        let post = Signed { method: "post", body: Some(("application/json", body)), ..get };
        let signed = headers(&post, "t/u/f", &key).unwrap();
        assert_eq!(
            text(&post, &WITH_BODY, &signed),
            "content-length: 2\ncontent-type: application/json\n\
             x-content-sha256: RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o="
        );
        assert!(
            signed
                .last()
                .unwrap()
                .1
                .contains("headers=\"date (request-target) host content-length content-type x-content-sha256\"")
        );
    }
}
