//! The token of this machine: its certificate from the metadata service, with which the Auth service gives a token for a
//! session's key. It never shows a token or a key.
//!
//! `Source:` oci-go-sdk `common/auth`; "Calling Services from an Instance". `Differs:` Oracle's libraries make a new session
//! key for each token. Here it comes from the configuration, because nothing in this program makes RSA keys; without a
//! token it opens nothing.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use ureq::http::Method;
use url::Url;

use super::fault::By;
use super::key::{self, Key};
use super::principal::Principal;
use super::sign::{self, Signed};
use super::{json, region};
use crate::rest::{Env, HttpAnswer, ask_present, kind, quoted};
use pillion_base::error::{Context, Error, Kind, Result};

const METADATA: &str = "http://169.254.169.254/opc/v2";
/// What the metadata service wants to see, against requests that others make us send.
const METADATA_HEADER: (&str, &str) = ("authorization", "Bearer Oracle");

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    certificate: String,
    intermediate_certificates: Vec<String>,
    public_key: String,
    fingerprint_algorithm: &'static str,
}

#[derive(Deserialize)]
struct Given {
    token: String,
}

#[derive(Deserialize)]
struct Claims {
    exp: u64,
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text)
}

/// Fetches a token for the key of a session.
///
/// `Blocks:` for four exchanges of bounded length.
pub(super) fn instance(env: &Env, region: &str, session_key: &str) -> Result<Principal> {
    let session = Key::read(session_key).context(|| "privatekey")?;
    let metadata = env("OCI_METADATA_BASE_URL").unwrap_or_else(|| METADATA.to_owned());
    let fetch = |name: &str| {
        let url = format!("{}/identity/{name}", metadata.trim_end_matches('/'));
        let url = Url::parse(&url).map_err(|_| wrong("OCI_METADATA_BASE_URL is not a URL"))?;
        let answer = ask_present(env, true, Method::GET, &url, &[METADATA_HEADER], b"")?;
        match answer.status {
            200 => Ok(answer.text()),
            status => Err(Error::new(kind(status), format!("{name}: the answer is {status}"))),
        }
    };
    let fetch = |name: &str| fetch(name).context(|| "ask the metadata service, which instances of Oracle Cloud have");
    let odd = |name: &str| wrong(format!("{name} of the metadata service is not what it should be"));
    let leaf = key::certificate(&fetch("cert.pem")?).ok_or_else(|| odd("cert.pem"))?;
    let tenancy = tenancy(&leaf).ok_or_else(|| odd("the tenancy in cert.pem"))?;
    let leaf_key = Key::read(&fetch("key.pem")?).context(|| "key.pem of the metadata service")?;
    let above = key::certificate(&fetch("intermediate.pem")?).ok_or_else(|| odd("intermediate.pem"))?;
    let asked = Asked {
        certificate: BASE64_STANDARD.encode(&leaf),
        intermediate_certificates: vec![BASE64_STANDARD.encode(above)],
        public_key: session.public(),
        fingerprint_algorithm: "SHA256",
    };
    let body = serde_json::to_vec(&asked).map_err(|_| wrong("the request for a token cannot be written"))?;
    let url = auth_url(env, region)?;
    let date = jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&Timestamp::now())
        .map_err(|_| wrong("this host's clock is beyond what a date can say"))?;
    // The Auth service wants the host not to be signed.
    let request =
        Signed { method: "post", url: &url, host: None, date: &date, body: Some(("application/json", &body)) };
    let key_id = format!("{tenancy}/fed-x509-sha256/{}", key::colons(&Sha256::digest(&leaf)));
    let headers = sign::headers(&request, &key_id, &leaf_key)?;
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let answer = ask_present(env, false, Method::POST, &url, &headers, &body)?;
    let (token, expires) = token(&answer).context(|| "ask the Auth service for a token of this instance")?;
    Ok(Principal { key_id: format!("ST${token}"), key: session, by: By::Instance, expires: Some(expires) })
}

fn auth_url(env: &Env, region: &str) -> Result<Url> {
    const NAME: &str = "OCI_SDK_AUTH_CLIENT_REGION_URL";
    let unfit = || wrong(format!("{NAME} must be a URL such as https://auth.eu-frankfurt-1.oraclecloud.com"));
    let base = match env(NAME).filter(|text| !text.is_empty()) {
        Some(given) => given,
        None => region::endpoint("auth", region, env)?,
    };
    let url = Url::parse(&format!("{}/v1/x509", base.trim_end_matches('/'))).map_err(|_| unfit())?;
    let is_loopback = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback) {
        return Err(unfit());
    }
    Ok(url)
}

/// The tenancy's OCID in the subject of an instance's certificate: a text that begins with a mark, after its length.
fn tenancy(certificate: &[u8]) -> Option<String> {
    const MARK: &[u8] = b"opc-tenant:";
    let start = certificate.windows(MARK.len()).position(|window| window == MARK)?;
    let length = usize::from(*certificate.get(start.checked_sub(1)?)?);
    let text = certificate.get(start..start.checked_add(length)?)?.strip_prefix(MARK)?;
    let is_ocid = !text.is_empty() && text.iter().all(|c| c.is_ascii_alphanumeric() || b".-_".contains(c));
    if is_ocid { String::from_utf8(text.to_vec()).ok() } else { None }
}

/// Reads a token and its end from an answer. `Errors:` they never quote a token.
fn token(answer: &HttpAnswer) -> Result<(String, SystemTime)> {
    if answer.status != 200 {
        let said = json::error(&answer.body).unwrap_or_default();
        let text = format!("{} {}: {}", answer.status, quoted(&said.code, &[]), quoted(&said.message, &["ST$"]));
        let hint = match answer.status {
            401 => "; this host's clock may be wrong, or region is not that of this instance",
            _ => "",
        };
        return Err(Error::new(kind(answer.status), text + hint));
    }
    let odd = |text: &str| wrong(format!("the answer {text}"));
    let given: Given = serde_json::from_slice(&answer.body).map_err(|_| odd("has no token"))?;
    let token = given.token.strip_prefix("ST$").unwrap_or(&given.token);
    if token.is_empty() || !token.bytes().all(|c| c.is_ascii_graphic() && c != b'"') {
        return Err(odd("has a token with characters that no token has"));
    }
    let claims =
        token.split('.').nth(1).and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
    let claims: Option<Claims> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    let end = claims.ok_or_else(|| odd("has a token that does not say when it ends"))?.exp;
    // Far beyond what any token says, and within what a time can.
    Ok((token.to_owned(), SystemTime::UNIX_EPOCH + Duration::from_secs(end.min(1 << 40))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use pillion_testing::fake_oci::{FakeOci, Fault, KEY_PEM, LEAF_CERT_PEM, TENANCY};

    fn env(fake: &FakeOci) -> Env {
        let (metadata, auth) = (fake.metadata(), fake.endpoint());
        Arc::new(move |name: &str| match name {
            "OCI_METADATA_BASE_URL" => Some(metadata.clone()),
            "OCI_SDK_AUTH_CLIENT_REGION_URL" => Some(auth.clone()),
            _ => None,
        })
    }

    #[test]
    fn the_tenancy_stands_in_the_certificate() {
        let leaf = key::certificate(LEAF_CERT_PEM).unwrap();
        assert_eq!(tenancy(&leaf).as_deref(), Some(TENANCY));
        for odd in [&b"opc-tenant:x"[..], b"\x0bopc-tenant:x", b"\xffopc-tenant:x", b"\x0copc-tenant:\"", b""] {
            assert_eq!(tenancy(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn a_token_is_fetched_with_the_certificate_of_the_machine() {
        let fake = FakeOci::start();
        let principal = instance(&env(&fake), "eu-frankfurt-1", KEY_PEM).unwrap();
        assert_eq!(principal.key_id, fake.with(|state| state.key_id.clone()));
        let end = Duration::from_secs(fake.with(|state| state.tokens_issued_at_s) + 3600);
        assert_eq!(principal.expires, Some(SystemTime::UNIX_EPOCH + end));
        assert_eq!(fake.operations(), ["metadata", "metadata", "metadata", "x509"]);
    }

    #[test]
    fn what_goes_wrong_on_the_way_is_said() {
        let check = |operation, skip, fault: Fault, kind: Kind, part: &str| {
            let fake = FakeOci::start();
            fake.rule(operation, "", skip, 9, fault);
            let Err(err) = instance(&env(&fake), "eu-frankfurt-1", KEY_PEM) else { panic!("{part}: given") };
            assert!(err.kind() == kind && err.to_string().contains(part), "{err} lacks {part}");
        };
        check("metadata", 0, Fault::Refuse(404, "NotFound"), Kind::Permanent, "cert.pem: the answer is 404");
        check("metadata", 1, Fault::Refuse(503, "x"), Kind::Retry, "key.pem: the answer is 503");
        check("metadata", 0, Fault::Portal(200), Kind::Permanent, "cert.pem of the metadata service is not what");
        check("metadata", 1, Fault::Portal(200), Kind::Permanent, "key.pem of the metadata service: it is not a key");
        check("x509", 0, Fault::Refuse(401, "NotAuthenticated"), Kind::Permanent, "clock may be wrong");
        check("x509", 0, Fault::Refuse(429, "TooManyRequests"), Kind::Retry, "429 TooManyRequests: told so");
        check("x509", 0, Fault::Portal(200), Kind::Permanent, "the answer has no token");
    }

    #[test]
    fn tokens_that_are_none_are_not_quoted() {
        let check = |body: &str, part: &str| {
            let err = token(&HttpAnswer { status: 200, body: body.into() }).unwrap_err().to_string();
            assert!(err.contains(part) && !err.contains("hunter2"), "{err} lacks {part}");
        };
        check(r#"{"token":""}"#, "no token has");
        check(r#"{"token":"hunter2\""}"#, "no token has");
        check(r#"{"token":"hunter2"}"#, "does not say when it ends");
        check(r#"{"token":"a.hunter2.c"}"#, "does not say when it ends");
        // {"exp":1}
        let (text, end) =
            token(&HttpAnswer { status: 200, body: br#"{"token":"ST$a.eyJleHAiOjF9.c"}"#.to_vec() }).unwrap();
        assert_eq!((text.as_str(), end), ("a.eyJleHAiOjF9.c", SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
    }

    #[test]
    fn where_tokens_are_asked_for() {
        let check = |value: Option<&str>, want: Option<&str>| {
            let value = value.map(str::to_owned);
            let env: Env =
                Arc::new(move |name: &str| value.clone().filter(|_| name == "OCI_SDK_AUTH_CLIENT_REGION_URL"));
            assert_eq!(auth_url(&env, "us-gov-ashburn-1").ok().as_ref().map(Url::as_str), want);
        };
        check(None, Some("https://auth.us-gov-ashburn-1.oraclegovcloud.com/v1/x509"));
        check(Some("https://auth.example/"), Some("https://auth.example/v1/x509"));
        check(Some("http://127.0.0.1:1"), Some("http://127.0.0.1:1/v1/x509"));
        check(Some("http://auth.example"), None);
        check(Some("auth.example"), None);
    }
}
