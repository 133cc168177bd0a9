//! The signed statement by which a service account proves who it is. It never shows the key.
//!
//! `Source:` "Using OAuth 2.0 for Server to Server Applications"; RFC 7515, 7519.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};

use crate::limits;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::secret::Secret;

/// A clock that is ahead by so much does no harm. `Source:` golang.org/x/oauth2 `jws`.
const BACKDATED: Duration = Duration::from_secs(10);

fn wrong(text: &str) -> Error {
    Error::new(Kind::Permanent, text)
}

/// Reads a private key in PEM: PKCS #8, as Google gives it, or PKCS #1. `Errors:` they never quote it.
fn key_pair(pem: &str) -> Result<RsaKeyPair> {
    let not_pem = || wrong("private_key of the service account is not in PEM: copy the JSON file whole");
    let body = |name: &str| {
        let (_, rest) = pem.split_once(&format!("-----BEGIN {name}-----"))?;
        let (body, _) = rest.split_once(&format!("-----END {name}-----"))?;
        BASE64_STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()
    };
    let read = match (body("PRIVATE KEY"), body("RSA PRIVATE KEY")) {
        (Some(der), _) => RsaKeyPair::from_pkcs8(&der),
        (None, Some(der)) => RsaKeyPair::from_der(&der),
        (None, None) => return Err(not_pem()),
    };
    read.map_err(|_| wrong("private_key of the service account is no RSA key of at least 2048 bits: make a new key"))
}

/// Whether a key can be read.
pub(super) fn check(pem: &str) -> Result<()> {
    key_pair(pem).map(drop)
}

/// The statement of the account `email` that it wants a token for `scope` from `audience`.
pub(super) fn assertion(
    email: &str,
    key_id: &str,
    pem: &Secret,
    scope: &str,
    audience: &str,
    now: SystemTime,
) -> Result<Secret> {
    let pair = key_pair(&pem.0)?;
    let now_s = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(BACKDATED).as_secs();
    let mut header = serde_json::json!({ "alg": "RS256", "typ": "JWT" });
    if !key_id.is_empty() {
        header["kid"] = key_id.into();
    }
    let claims = serde_json::json!({
        "iss": email,
        "scope": scope,
        "aud": audience,
        "iat": now_s,
        "exp": now_s + limits::GCS_TOKEN_LIFE_S,
    });
    let encoded = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let text = format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()));
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
        .map_err(|_| Error::new(Kind::Retry, "the service account's key cannot sign"))?;
    Ok(Secret(format!("{text}.{}", encoded(&signature))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_testing::fake_gcs::SERVICE_KEY;
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    #[test]
    fn a_statement_is_signed_with_the_key_and_lasts_an_hour() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_010);
        let made = assertion("me@p", "k1", &Secret(SERVICE_KEY.into()), "s", "https://a/token", now).unwrap();
        let parts: Vec<&str> = made.0.split('.').collect();
        let decoded = |idx: usize| BASE64_URL_SAFE_NO_PAD.decode(parts[idx]).unwrap();
        let json = |idx| serde_json::from_slice::<serde_json::Value>(&decoded(idx)).unwrap();
        assert_eq!(json(0), serde_json::json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }));
        let claims = serde_json::json!({
            "iss": "me@p", "scope": "s", "aud": "https://a/token", "iat": 1_000_000, "exp": 1_003_600
        });
        assert_eq!(json(1), claims);
        let pair = key_pair(SERVICE_KEY).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref());
        public.verify(format!("{}.{}", parts[0], parts[1]).as_bytes(), &decoded(2)).unwrap();
    }

    #[test]
    fn what_is_no_key_is_said_without_it() {
        let check = |pem: &str, part: &str| {
            let err = check(pem).unwrap_err().to_string();
            assert!(err.contains(part) && !err.contains("hunter2"), "{err}");
        };
        check("hunter2", "not in PEM");
        check("-----BEGIN PRIVATE KEY-----\nhunter2!\n-----END PRIVATE KEY-----", "not in PEM");
        check("-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----", "no RSA key");
    }
}
