//! Keys from AWS's Security Token Service (STS), or another with the same interface: for the token of a web identity,
//! or for a role that is assumed with other keys.

use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;
use ureq::http::Method;
use url::form_urlencoded::Serializer;
use url::{Position, Url};

use super::answer::{element, sts_keys};
use super::sign::{self, Unsigned};
use super::{Found, Keys, Settings};
use crate::limits;
use crate::rest::{HttpAnswer, ask_present, kind, quoted, read_text};
use crate::s3::endpoint::{aws_domain, is_region};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::time::unix_ms;

const VERSION: &str = "2011-06-15";
const CONTENT_TYPE: &str = "application/x-www-form-urlencoded";
const TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
const ROLE: &str = "AWS_ROLE_ARN";

/// A role that is assumed.
pub(super) struct Role {
    /// Its ARN; may be empty for a web identity, if the service chooses the role.
    pub arn: String,
    /// The session's name in audit logs; empty for a generated one.
    pub session_name: String,
    /// The external id that the role's owner demands; empty for none.
    pub external_id: String,
    /// The lifetime of the keys, in seconds as text; empty for the service's default.
    pub duration: String,
    /// The region of STS, unless the environment names one; empty for none.
    pub region: String,
}

/// The keys for the web identity that the environment names.
///
/// `Source:` minio-go `pkg/credentials/sts_web_identity.go`.
pub(super) fn fetch(settings: &Settings, now: SystemTime) -> Result<Found> {
    let Some(token_file) = settings.var(TOKEN_FILE) else {
        return Ok(Found::Nothing(format!("{TOKEN_FILE} is not set")));
    };
    let arn = settings.var(ROLE).unwrap_or_default();
    if arn.is_empty() && settings.sts_endpoint.is_empty() {
        return Err(wrong(format!("{TOKEN_FILE} is set and {ROLE} is not: set it to the role's ARN")));
    }
    let role = Role {
        arn,
        session_name: settings.var("AWS_ROLE_SESSION_NAME").unwrap_or_default(),
        external_id: String::new(),
        duration: String::new(),
        region: String::new(),
    };
    Ok(Found::Keys(web_identity(settings, &role, Path::new(&token_file), now)?.into()))
}

/// The keys for the token in a file, which is read anew each time because its content changes.
pub(super) fn web_identity(settings: &Settings, role: &Role, token_file: &Path, now: SystemTime) -> Result<Keys> {
    let token =
        read_text(token_file, limits::CREDENTIALS_BYTES_MAX).context(|| "read the token of the web identity")?;
    let token = token.trim();
    if token.is_empty() {
        return Err(wrong(format!("the token of the web identity in {} is empty", token_file.display())));
    }
    let (url, _) = url(settings, &role.region)?;
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
    let answer = ask_present(&settings.env, false, Method::POST, &url, &headers, body.as_bytes())?;
    read(&answer, &[token])
}

/// The keys for a role that is assumed with the keys `source`.
pub(super) fn assume(settings: &Settings, role: &Role, source: &Keys, now: SystemTime) -> Result<Keys> {
    let (url, region) = url(settings, &role.region)?;
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
    let now = Timestamp::try_from(now).map_err(|_| wrong("this host's clock is beyond the calendar"))?;
    let date = now.strftime("%Y%m%dT%H%M%SZ").to_string();
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
    let answer = ask_present(&settings.env, false, Method::POST, &url, &headers, body.as_bytes())?;
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

fn read(answer: &HttpAnswer, secrets: &[&str]) -> Result<Keys> {
    let text = answer.text();
    if answer.status == 200 {
        return sts_keys(&text).context(|| "read the answer of STS");
    }
    let code = element(&text, "Code").unwrap_or_default();
    let said = match element(&text, "Message") {
        Some(message) => format!("{code}: {message}"),
        None => text,
    };
    // Errors that pass, or that a new token in the file ends.
    let passes = ["ExpiredTokenException", "IDPCommunicationError", "InvalidIdentityToken", "RequestTimeTooSkewed"];
    let kind = if passes.contains(&code.as_str()) { Kind::Retry } else { kind(answer.status) };
    Err(Error::new(kind, format!("STS answered {}: {}", answer.status, quoted(&said, secrets))))
}

/// The URL of STS, and the region to sign for.
fn url(settings: &Settings, region: &str) -> Result<(Url, String)> {
    let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| settings.var(name));
    let region = named.unwrap_or_else(|| region.to_owned());
    if !region.is_empty() && !is_region(&region) {
        return Err(wrong("AWS_REGION must be the name of a region, such as eu-west-1"));
    }
    let text = match (settings.sts_endpoint.as_str(), region.as_str()) {
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
            let settings = Settings { env, sts_endpoint: sts.into() };
            let (url, region) = url(&settings, of_profile).unwrap();
            assert_eq!((url.as_str(), region.as_str()), (expected, signed_for));
        };
        check("", "", "", "https://sts.amazonaws.com/", "us-east-1");
        check("", "eu-west-1", "us-west-2", "https://sts.eu-west-1.amazonaws.com/", "eu-west-1");
        check("", "", "us-west-2", "https://sts.us-west-2.amazonaws.com/", "us-west-2");
        check("", "cn-north-1", "", "https://sts.cn-north-1.amazonaws.com.cn/", "cn-north-1");
        check("http://minio:9000", "eu-west-1", "", "http://minio:9000/", "eu-west-1");
        let env: super::super::Env = Arc::new(|name| (name == "AWS_REGION").then(|| "evil.example/".into()));
        let settings = Settings { env, sts_endpoint: String::new() };
        assert!(url(&settings, "").unwrap_err().to_string().starts_with("AWS_REGION must be the name of a region"));
    }
}
