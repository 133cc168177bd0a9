//! Tokens of Google: one request for each, or two where somebody acts in the place of a service account. It never shows a
//! secret, a statement or a token.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use ureq::http::Method;
use url::Url;
use url::form_urlencoded::Serializer;

use super::credentials::{External, Impersonated, Source, Subject};
use super::jwt;
use crate::limits;
use crate::rest::{Env, Failure, HttpAnswer, Token, ask, ask_present, kind, quoted, read_text};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::secret::Secret;

/// What tokens are for: to read and write objects, and not to administer buckets.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// What the token is for that asks for one of a service account.
const PLATFORM_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const METADATA_HOST: &str = "169.254.169.254";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// The longest life that is believed. No token of Google lasts longer than twelve hours.
const LIFE_MAX: Duration = Duration::from_secs(86_400);

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text)
}

/// Fetches a token.
pub(super) fn token(env: &Env, source: &Source, now: SystemTime) -> Result<Token> {
    match source {
        Source::External(external) => federated(env, external, now),
        Source::Impersonated { source, account } => {
            let own = simple(env, source, PLATFORM_SCOPE, now)?;
            impersonate(env, account, &own, now)
        }
        other => simple(env, other, SCOPE, now),
    }
}

/// One request.
fn simple(env: &Env, source: &Source, scope: &str, now: SystemTime) -> Result<Token> {
    let mut form = Serializer::new(String::new());
    let (url, secrets): (&Url, Vec<Secret>) = match source {
        Source::Account { email, key_id, key, token_url } => {
            let assertion = jwt::assertion(email, key_id, key, scope, token_url.as_str(), now)?;
            form.append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
                .append_pair("assertion", &assertion.0);
            (token_url, vec![assertion])
        }
        Source::User { client_id, client_secret, refresh_token, token_url } => {
            form.append_pair("grant_type", "refresh_token")
                .append_pair("client_id", client_id)
                .append_pair("client_secret", &client_secret.0)
                .append_pair("refresh_token", &refresh_token.0);
            (token_url, vec![client_secret.clone(), refresh_token.clone()])
        }
        Source::External(external) => return federated(env, external, now),
        Source::Impersonated { .. } => return Err(wrong("credentials cannot stand in for each other in a chain")),
    };
    let answer = ask_present(env, false, Method::POST, url, &[FORM], form.finish().as_bytes())?;
    let secrets: Vec<&str> = secrets.iter().map(|secret| secret.0.as_str()).collect();
    read(&answer, &secrets, now).context(|| asking(url))
}

fn asking(url: &Url) -> String {
    format!("ask {} for a token", url.host_str().unwrap_or_default())
}

/// Changes the token of another issuer for one of Google. `Source:` RFC 8693; AIP-4117.
fn federated(env: &Env, external: &External, now: SystemTime) -> Result<Token> {
    let subject = subject(env, external)?;
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
        .append_pair("audience", &external.audience)
        .append_pair("scope", if external.account.is_some() { PLATFORM_SCOPE } else { SCOPE })
        .append_pair("requested_token_type", "urn:ietf:params:oauth:token-type:access_token")
        .append_pair("subject_token", &subject.0)
        .append_pair("subject_token_type", &external.subject_token_type);
    if !external.user_project.is_empty() && external.client.is_none() {
        form.append_pair("options", &serde_json::json!({ "userProject": external.user_project }).to_string());
    }
    let basic = external
        .client
        .as_ref()
        .map(|(id, secret)| format!("Basic {}", BASE64_STANDARD.encode(format!("{id}:{}", secret.0))));
    let mut headers = vec![FORM];
    if let Some(basic) = &basic {
        headers.push(("authorization", basic));
    }
    let url = &external.token_url;
    let answer = ask_present(env, false, Method::POST, url, &headers, form.finish().as_bytes())?;
    let secret = external.client.as_ref().map_or("", |(_, secret)| secret.0.as_str());
    let token = read(&answer, &[&subject.0, secret], now).context(|| asking(url))?;
    match &external.account {
        Some(account) => impersonate(env, account, &token, now),
        None => Ok(token),
    }
}

/// The token of the other issuer.
fn subject(env: &Env, external: &External) -> Result<Secret> {
    let (text, from) = match &external.subject {
        Subject::File(path) => {
            let text = read_text(path, limits::CREDENTIALS_BYTES_MAX)
                .map_err(|err| err.with_kind(Kind::Retry).context("credential_source.file"))?;
            (text, "credential_source.file")
        }
        Subject::Url(url, headers) => {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.0.as_str())).collect();
            let answer = ask_present(env, url.scheme() == "http", Method::GET, url, &headers, b"")?;
            if answer.status != 200 {
                let text = format!("credential_source.url: the answer is {}", answer.status);
                return Err(Error::new(kind(answer.status), text));
            }
            (answer.text(), "credential_source.url")
        }
    };
    let token = match &external.subject_field {
        None => text.trim().to_owned(),
        Some(field) => {
            let value: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            let token = value.as_ref().and_then(|value| value.get(field)).and_then(serde_json::Value::as_str);
            token
                .ok_or_else(|| wrong(format!("{from} is no JSON with the field that subject_token_field_name names")))?
                .to_owned()
        }
    };
    match token.is_empty() {
        true => Err(wrong(format!("{from} is empty")).with_kind(Kind::Retry)),
        false => Ok(Secret(token)),
    }
}

/// Gets the token of a service account with that of somebody who may act in its place.
///
/// `Source:` IAM Service Account Credentials API, `generateAccessToken`.
fn impersonate(env: &Env, account: &Impersonated, own: &Token, now: SystemTime) -> Result<Token> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Given {
        access_token: String,
        expire_time: String,
    }
    let mut body = serde_json::json!({ "scope": [SCOPE], "lifetime": format!("{}s", account.lifetime_s) });
    if !account.delegates.is_empty() {
        body["delegates"] = account.delegates.clone().into();
    }
    let bearer = format!("Bearer {}", own.text.0);
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    let act = || "act in the place of the service account".to_owned();
    let answer =
        ask_present(env, false, Method::POST, &account.url, &headers, body.to_string().as_bytes()).context(act)?;
    if answer.status != 200 {
        let said = super::json::error(&answer.body).unwrap_or_default().message;
        let mut text = format!("{} {}", answer.status, quoted(&said, &[&own.text.0]));
        if answer.status == 403 {
            text.push_str(
                "; the identity needs the role roles/iam.workloadIdentityUser or roles/iam.serviceAccountTokenCreator on \
                 the service account",
            );
        }
        return Err(Error::new(kind(answer.status), text).context(act()));
    }
    let given: Given = serde_json::from_slice(&answer.body)
        .map_err(|_| Error::new(Kind::Retry, "the answer is not the expected JSON").context(act()))?;
    let ends: Option<jiff::Timestamp> = given.expire_time.parse().ok();
    let ends = ends.and_then(|ends| u64::try_from(ends.as_second()).ok());
    let ends = ends.ok_or_else(|| Error::new(Kind::Retry, "the answer has no expireTime").context(act()))?;
    let expires = (SystemTime::UNIX_EPOCH + Duration::from_secs(ends.min(u64::from(u32::MAX)))).min(now + LIFE_MAX);
    checked(given.access_token).map(|text| Token { text, expires }).context(act)
}

/// The token of this machine's service account; `None` if no metadata server answers. `host` is one that must be there.
///
/// `Source:` "Access VM metadata"; cloud.google.com/go/compute/metadata.
pub(super) fn machine(host: Option<&str>, now: SystemTime) -> Result<Option<Token>> {
    let is_sure = host.is_some();
    let host = host.unwrap_or(METADATA_HOST);
    let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
    let url = Url::parse(&url).map_err(|_| wrong("GCE_METADATA_HOST must be a host or host:port"))?;
    let timeout = if is_sure { limits::CREDENTIALS_TIMEOUT } else { limits::METADATA_TIMEOUT };
    let asking = || "ask the metadata server for a token".to_owned();
    let answer = match ask(Method::GET, url.as_str(), &[("metadata-flavor", "Google")], b"", timeout, None) {
        Ok(answer) => answer,
        Err(Failure { is_timeout, is_unreachable, .. }) if !is_sure && (is_timeout || is_unreachable) => {
            return Ok(None);
        }
        Err(failure) => return Err(failure.err.context(asking())),
    };
    if answer.status == 404 {
        let text = "404; the machine has no service account: attach one, or set service_account";
        return Err(wrong(text).context(asking()));
    }
    read(&answer, &[], now).map(Some).context(asking)
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Said {
    access_token: String,
    expires_in: Option<serde_json::Value>,
    error: serde_json::Value,
    error_description: String,
}

/// Reads a token from an answer. `Errors:` they never quote a token or one of `secrets`.
fn read(answer: &HttpAnswer, secrets: &[&str], now: SystemTime) -> Result<Token> {
    let said: Option<Said> = serde_json::from_slice(&answer.body).ok();
    if answer.status != 200 {
        let said = said.unwrap_or_default();
        let code = said.error.as_str().unwrap_or_default();
        let line = said.error_description.lines().next().unwrap_or_default();
        let mut text = format!("{} {}", answer.status, quoted(&format!("{code}: {line}"), secrets));
        let (class, hint) = hint(code, line);
        if !hint.is_empty() {
            text.push_str(&format!("; {hint}"));
        }
        return Err(Error::new(kind(answer.status), text).classed(class));
    }
    let odd = |text: &str| Error::new(Kind::Retry, format!("the answer {text}"));
    let said = said.ok_or_else(|| odd("is not the expected JSON"))?;
    let seconds = match said.expires_in {
        Some(serde_json::Value::Number(number)) => number.as_u64(),
        Some(serde_json::Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    let life = Duration::from_secs(seconds.ok_or_else(|| odd("has no expires_in"))?).min(LIFE_MAX);
    Ok(Token { text: checked(said.access_token)?, expires: now + life })
}

fn checked(text: String) -> Result<Secret> {
    let odd = |text: &str| Err(Error::new(Kind::Retry, format!("the answer {text}")));
    // The metadata server fills tokens up with dots, which belong to them.
    match text.as_str() {
        "" => odd("has no token"),
        text if !text.bytes().all(|c| c.is_ascii_graphic()) => odd("has a token with characters that no token has"),
        _ => Ok(Secret(text)),
    }
}

/// The class of a refused token and what to change, for what operators meet.
fn hint(code: &str, line: &str) -> (&'static str, &'static str) {
    let says = |words: &str| line.contains(words);
    let hint = match code {
        "invalid_grant" if says("reasonable timeframe") || says("short-lived") => {
            return ("clock", "this host's clock is wrong: synchronise it");
        }
        "invalid_grant" if says("Invalid JWT Signature") => {
            "the key has been deleted or disabled: make a new one for the service account"
        }
        "invalid_grant" if says("account not found") => "the service account has been deleted or disabled",
        "invalid_grant" if says("expired or revoked") || says("Bad Request") => {
            "log in again: gcloud auth application-default login"
        }
        "invalid_grant" => {
            "the token of the other issuer has expired, or its issuer, audience or signature is not accepted"
        }
        "invalid_target" => "correct audience: there is no such pool or provider of workload identities",
        "unauthorized_client" if says("attribute condition") => {
            "the provider's attribute condition does not admit this identity"
        }
        "invalid_client" => "correct client_id and client_secret",
        _ => "",
    };
    ("credentials", hint)
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
