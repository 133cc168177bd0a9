//! Keys from AWS's Security Token Service, or another with its interface: for the token of a web identity, and for a
//! role that other keys may assume.

use std::path::Path;
use std::time::SystemTime;

use ureq::http::Method;
use url::form_urlencoded::Serializer;
use url::{Position, Url};

use super::answer::{element, quoted, sts_keys};
use super::sign::{self, Unsigned};
use super::{Found, Keys, Surroundings, exchange, read_text};
use crate::error::{Context, Error, Kind, Result};
use crate::limits;
use crate::objstore::s3::endpoint::{aws_domain, is_region};
use crate::time::{format_rfc3339_ms, unix_ms};

const VERSION: &str = "2011-06-15";
const CONTENT_TYPE: &str = "application/x-www-form-urlencoded";
const TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
const ROLE: &str = "AWS_ROLE_ARN";

/// A role that is assumed.
pub(super) struct Role {
    /// Its ARN; may be empty for a web identity where the service chooses.
    pub arn: String,
    /// How the session is called in audit logs; empty for a name of ours.
    pub session_name: String,
    /// Agreed with the owner of the role; empty for none.
    pub external_id: String,
    /// How long the keys live, in seconds as text; empty for the service's choice.
    pub duration: String,
    /// Region of the STS to ask, unless the environment names one; empty for none.
    pub region: String,
}

/// The keys for the web identity that the environment names.
///
/// `Source:` minio-go `pkg/credentials/sts_web_identity.go`.
pub(super) fn fetch(around: &Surroundings, now: SystemTime) -> Result<Found> {
    let Some(token_file) = around.var(TOKEN_FILE) else {
        return Ok(Found::Nothing(format!("{TOKEN_FILE} is not set")));
    };
    let arn = around.var(ROLE).unwrap_or_default();
    if arn.is_empty() && around.sts_endpoint.is_empty() {
        return Err(wrong(format!("{TOKEN_FILE} is set and {ROLE} is not: set it to the role's ARN")));
    }
    let role = Role {
        arn,
        session_name: around.var("AWS_ROLE_SESSION_NAME").unwrap_or_default(),
        external_id: String::new(),
        duration: String::new(),
        region: String::new(),
    };
    Ok(Found::Keys(web_identity(around, &role, Path::new(&token_file), now)?.into()))
}

/// The keys for the token in a file, which is read anew each time because its content changes.
pub(super) fn web_identity(around: &Surroundings, role: &Role, token_file: &Path, now: SystemTime) -> Result<Keys> {
    let token =
        read_text(token_file, limits::CREDENTIALS_BYTES_MAX).context(|| "read the token of the web identity")?;
    let token = token.trim();
    if token.is_empty() {
        return Err(wrong(format!("the token of the web identity in {} is empty", token_file.display())));
    }
    let (url, _) = url(around, &role.region)?;
    let mut form = Serializer::new(String::new());
    form.append_pair("Action", "AssumeRoleWithWebIdentity").append_pair("Version", VERSION);
    if !role.arn.is_empty() {
        form.append_pair("RoleArn", &role.arn).append_pair("RoleSessionName", &session_name(role, now));
    }
    if !role.duration.is_empty() {
        form.append_pair("DurationSeconds", &role.duration);
    }
    form.append_pair("WebIdentityToken", token);
    let (headers, body) = ([("Content-Type", CONTENT_TYPE)], form.finish());
    let answer = exchange::ask_present(around, false, Method::POST, &url, &headers, body.as_bytes())?;
    read(&answer, &[token])
}

/// The keys for a role that `source` may assume.
pub(super) fn assume(around: &Surroundings, role: &Role, source: &Keys, now: SystemTime) -> Result<Keys> {
    let (url, region) = url(around, &role.region)?;
    let mut form = Serializer::new(String::new());
    form.append_pair("Action", "AssumeRole")
        .append_pair("Version", VERSION)
        .append_pair("RoleArn", &role.arn)
        .append_pair("RoleSessionName", &session_name(role, now));
    for (name, value) in [("ExternalId", &role.external_id), ("DurationSeconds", &role.duration)] {
        if !value.is_empty() {
            form.append_pair(name, value);
        }
    }
    let body = form.finish();
    // 2026-01-02T03:04:05.000Z without its punctuation and its milliseconds.
    let time = format_rfc3339_ms(unix_ms(now));
    let digits: String = time.chars().filter(char::is_ascii_digit).take(14).collect();
    let (day, clock) = digits.split_at_checked(8).unwrap_or_default();
    let date = format!("{day}T{clock}Z");
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let unsigned =
        Unsigned { host, path: url.path(), region: &region, content_type: CONTENT_TYPE, body: &body, date: &date };
    let authorization = sign::authorization(&unsigned, source);
    let mut headers =
        vec![("Content-Type", CONTENT_TYPE), ("X-Amz-Date", date.as_str()), ("Authorization", authorization.as_str())];
    let token = source.session_token.0.as_str();
    if !token.is_empty() {
        headers.push(("X-Amz-Security-Token", token));
    }
    let answer = exchange::ask_present(around, false, Method::POST, &url, &headers, body.as_bytes())?;
    read(&answer, &[token, &source.secret_key.0, &role.external_id, &authorization])
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text)
}

fn session_name(role: &Role, now: SystemTime) -> String {
    match role.session_name.as_str() {
        "" => format!("pillion-{}", unix_ms(now)),
        name => name.to_owned(),
    }
}

fn read(answer: &exchange::Answer, secrets: &[&str]) -> Result<Keys> {
    let text = answer.text();
    if answer.status == 200 {
        return sts_keys(&text).context(|| "read the answer of STS");
    }
    let code = element(&text, "Code").unwrap_or_default();
    let said = match element(&text, "Message") {
        Some(message) => format!("{code}: {message}"),
        None => text,
    };
    // What passes, or a new token in the file changes.
    let passes = ["ExpiredTokenException", "IDPCommunicationError", "InvalidIdentityToken", "RequestTimeTooSkewed"];
    let kind = if passes.contains(&code.as_str()) { Kind::Retry } else { exchange::kind(answer.status) };
    Err(Error::new(kind, format!("STS answered {}: {}", answer.status, quoted(&said, secrets))))
}

/// Where STS is, and the region to sign for.
fn url(around: &Surroundings, region: &str) -> Result<(Url, String)> {
    let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| around.var(name));
    let region = named.unwrap_or_else(|| region.to_owned());
    if !region.is_empty() && !is_region(&region) {
        return Err(wrong("AWS_REGION must be the name of a region, such as eu-west-1"));
    }
    let text = match (around.sts_endpoint.as_str(), region.as_str()) {
        ("", "") => "https://sts.amazonaws.com".to_owned(),
        ("", region) => format!("https://sts.{region}.{}", aws_domain(region)),
        (endpoint, _) => endpoint.to_owned(),
    };
    let url = Url::parse(&text).map_err(|_| wrong("the URL of STS is not one"))?;
    let region = if region.is_empty() { "us-east-1".to_owned() } else { region };
    Ok((url, region))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_region_decides_which_sts_is_asked() {
        let check = |sts: &str, variable: &str, of_profile: &str, expected: &str, signed_for: &str| {
            let owned = variable.to_owned();
            let env = Arc::new(move |name: &str| (name == "AWS_REGION").then(|| owned.clone()));
            let around = Surroundings { env, sts_endpoint: sts.into() };
            let (url, region) = url(&around, of_profile).unwrap();
            assert_eq!((url.as_str(), region.as_str()), (expected, signed_for));
        };
        check("", "", "", "https://sts.amazonaws.com/", "us-east-1");
        check("", "eu-west-1", "us-west-2", "https://sts.eu-west-1.amazonaws.com/", "eu-west-1");
        check("", "", "us-west-2", "https://sts.us-west-2.amazonaws.com/", "us-west-2");
        check("", "cn-north-1", "", "https://sts.cn-north-1.amazonaws.com.cn/", "cn-north-1");
        check("http://minio:9000", "eu-west-1", "", "http://minio:9000/", "eu-west-1");
        let env: super::super::Env = Arc::new(|name| (name == "AWS_REGION").then(|| "evil.example/".into()));
        let around = Surroundings { env, sts_endpoint: String::new() };
        assert!(url(&around, "").unwrap_err().to_string().starts_with("AWS_REGION must be the name of a region"));
    }
}
