//! Tokens from Microsoft's directory and from the machine's managed identity: one request for each. It never shows a
//! secret, an assertion or a token.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use ureq::http::Method;
use url::Url;
use url::form_urlencoded::Serializer;

use crate::limits;
use crate::rest::{Env, Failure, HttpAnswer, Token, ask, kind, proxy, quoted, read_text};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::secret::Secret;

/// What tokens are for.
const RESOURCE: &str = "https://storage.azure.com";
const PUBLIC_AUTHORITY: &str = "https://login.microsoftonline.com";
const METADATA_HOST: &str = "http://169.254.169.254";

/// What a place for credentials gave.
pub(super) enum Found {
    Token(Token),
    /// It is not configured; with the reason, for the error that names all places.
    Nothing(String),
}

/// How an application proves who it is.
pub(super) enum Proof<'a> {
    /// With its secret.
    Secret(&'a Secret),
    /// With a token of another issuer, such as Kubernetes.
    Assertion(Secret),
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text)
}

/// An environment variable that is set and not empty.
pub(super) fn var(env: &Env, name: &str) -> Option<String> {
    env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Asks the directory for a token of an application.
///
/// `Source:` "Microsoft identity platform and the OAuth 2.0 client credentials flow".
pub(super) fn application(env: &Env, tenant: &str, client: &str, proof: &Proof<'_>, now: SystemTime) -> Result<Token> {
    let is_tenant = !tenant.is_empty() && tenant.bytes().all(|c| c.is_ascii_alphanumeric() || b"-.".contains(&c));
    if !is_tenant {
        return Err(wrong(
            "the tenant is not the id or the domain of a directory: correct az_tenant_id or AZURE_TENANT_ID",
        ));
    }
    let authority = var(env, "AZURE_AUTHORITY_HOST").unwrap_or_else(|| PUBLIC_AUTHORITY.to_owned());
    let unfit = || wrong("AZURE_AUTHORITY_HOST must be a URL such as https://login.microsoftonline.com");
    let base = Url::parse(&authority).ok().filter(Url::has_host).ok_or_else(unfit)?;
    let is_loopback = matches!(base.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    if base.scheme() != "https" && !(base.scheme() == "http" && is_loopback) {
        return Err(unfit());
    }
    let url = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
    let url = Url::parse(&url).map_err(|_| unfit())?;
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials")
        .append_pair("client_id", client)
        .append_pair("scope", &format!("{RESOURCE}/.default"));
    let secret = match proof {
        Proof::Secret(secret) => {
            form.append_pair("client_secret", &secret.0);
            secret.0.as_str()
        }
        Proof::Assertion(assertion) => {
            form.append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
            form.append_pair("client_assertion", &assertion.0);
            assertion.0.as_str()
        }
    };
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let proxy = proxy(&url, &**env)?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let answer =
        ask(Method::POST, url.as_str(), &headers, form.finish().as_bytes(), limits::CREDENTIALS_TIMEOUT, proxy)
            .map_err(|failure| failure.err)
            .context(|| format!("ask {host} for a token"))?;
    token(&answer, &[secret], now).context(|| format!("ask {host} for a token"))
}

/// The token of a pod or a workflow, whose own token lies in a file; the file is read anew each time.
///
/// `Source:` azidentity `WorkloadIdentityCredential`.
pub(super) fn workload(env: &Env, now: SystemTime) -> Result<Found> {
    let names = ["AZURE_FEDERATED_TOKEN_FILE", "AZURE_TENANT_ID", "AZURE_CLIENT_ID"];
    let (Some(file), Some(tenant), Some(client)) = (var(env, names[0]), var(env, names[1]), var(env, names[2])) else {
        let missing: Vec<&str> = names.into_iter().filter(|name| var(env, name).is_none()).collect();
        return Ok(Found::Nothing(format!("{} not set", missing.join(", "))));
    };
    let assertion = read_text(std::path::Path::new(&file), limits::CREDENTIALS_BYTES_MAX)
        .map_err(|err| err.with_kind(Kind::Retry).context("AZURE_FEDERATED_TOKEN_FILE"))?;
    let proof = Proof::Assertion(Secret(assertion.trim().to_owned()));
    application(env, &tenant, &client, &proof, now).map(Found::Token)
}

/// The token of the application that the environment names.
///
/// `Source:` azidentity `EnvironmentCredential`.
pub(super) fn environment(env: &Env, now: SystemTime) -> Result<Found> {
    let (Some(tenant), Some(client)) = (var(env, "AZURE_TENANT_ID"), var(env, "AZURE_CLIENT_ID")) else {
        return Ok(Found::Nothing("AZURE_TENANT_ID or AZURE_CLIENT_ID not set".into()));
    };
    if let Some(secret) = var(env, "AZURE_CLIENT_SECRET") {
        return application(env, &tenant, &client, &Proof::Secret(&Secret(secret)), now).map(Found::Token);
    }
    for name in ["AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_USERNAME"] {
        if var(env, name).is_some() {
            return Err(wrong(format!("{name} is not supported: use AZURE_CLIENT_SECRET or a workload identity")));
        }
    }
    Ok(Found::Nothing("AZURE_CLIENT_SECRET not set".into()))
}

/// The token of the managed identity of this machine, or of this app. `client` chooses among several; `is_sure`: there
/// must be one.
///
/// `Source:` "How to use managed identities for Azure resources on an Azure VM"; "… for App Service".
pub(super) fn managed(env: &Env, client: Option<&str>, is_sure: bool, now: SystemTime) -> Result<Found> {
    let endpoint = var(env, "IDENTITY_ENDPOINT");
    let kind = match (&endpoint, var(env, "IDENTITY_HEADER")) {
        (Some(_), Some(_)) if var(env, "IDENTITY_SERVER_THUMBPRINT").is_some() => Err("Service Fabric"),
        (Some(endpoint), Some(header)) => Ok(Some((endpoint, header))),
        (Some(_), None) if var(env, "IMDS_ENDPOINT").is_some() => Err("Azure Arc"),
        _ if var(env, "MSI_ENDPOINT").is_some() => Err("Cloud Shell and Azure Machine Learning (MSI_ENDPOINT)"),
        _ => Ok(None),
    };
    let app = kind.map_err(|name| {
        wrong(format!("managed identities of {name} are not supported: use client_id and client_secret, or a key"))
    })?;
    let (url, api, header) = match &app {
        Some((endpoint, header)) => ((*endpoint).clone(), "2019-08-01", ("x-identity-header", header.as_str())),
        None => {
            let host = var(env, "AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| METADATA_HOST.to_owned());
            let host = host.trim_end_matches('/');
            (format!("{host}/metadata/identity/oauth2/token"), "2018-02-01", ("metadata", "true"))
        }
    };
    let mut url = Url::parse(&url).map_err(|_| wrong("IDENTITY_ENDPOINT is not a URL"))?;
    url.query_pairs_mut().append_pair("api-version", api).append_pair("resource", RESOURCE);
    if let Some(client) = client {
        url.query_pairs_mut().append_pair("client_id", client);
    }
    let timeout = if is_sure { limits::CREDENTIALS_TIMEOUT } else { limits::METADATA_TIMEOUT };
    let answer = match ask(Method::GET, url.as_str(), &[header], b"", timeout, None) {
        Ok(answer) => answer,
        Err(Failure { is_timeout, is_unreachable, err }) => {
            if !is_sure && app.is_none() && (is_timeout || is_unreachable) {
                return Ok(Found::Nothing("no metadata service answers".into()));
            }
            return Err(err.context("ask the managed identity for a token"));
        }
    };
    // What the service says when the machine has no identity.
    if !is_sure && app.is_none() && answer.status == 400 {
        return Ok(Found::Nothing("the machine has no such managed identity".into()));
    }
    let got = token(&answer, &[app.as_ref().map_or("", |(_, header)| header.as_str())], now);
    let got = got.map_err(|err| match answer.status {
        // The service has no directory of its own for some seconds after the machine has started.
        404 | 410 => err.with_kind(Kind::Retry),
        400 => err.context("this machine has no such managed identity: assign it, or correct user_assigned_id"),
        _ => err,
    });
    got.context(|| "ask the managed identity for a token").map(Found::Token)
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    access_token: Option<String>,
    expires_in: Option<serde_json::Value>,
    error: Option<String>,
    error_description: Option<String>,
}

/// Reads a token from an answer. `Errors:` they never quote a token or one of `secrets`.
fn token(answer: &HttpAnswer, secrets: &[&str], now: SystemTime) -> Result<Token> {
    let read: Option<Answer> = serde_json::from_slice(&answer.body).ok();
    if answer.status != 200 {
        let said = read.and_then(|read| read.error_description.or(read.error)).unwrap_or_default();
        let line = said.lines().next().unwrap_or_default();
        let mut text = format!("{} {}", answer.status, quoted(line, secrets));
        if let Some(hint) = hint(line) {
            text.push_str(&format!("; {hint}"));
        }
        return Err(Error::new(kind(answer.status), text));
    }
    let odd = |text: &str| wrong(format!("the answer {text}"));
    let read = read.ok_or_else(|| odd("is not the expected JSON"))?;
    let text = read.access_token.filter(|text| !text.is_empty()).ok_or_else(|| odd("has no access_token"))?;
    if !text.bytes().all(|c| c.is_ascii_graphic()) {
        return Err(odd("has an access_token with characters that no token has"));
    }
    // A number or, from some services, a text.
    let seconds = match read.expires_in {
        Some(serde_json::Value::Number(number)) => number.as_u64(),
        Some(serde_json::Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    let seconds = seconds.ok_or_else(|| odd("has no expires_in"))?;
    // A day is the longest that Azure gives.
    Ok(Token { text: Secret(text), expires: now + Duration::from_secs(seconds.min(7 * 86_400)) })
}

/// What to change, for the codes of the directory that operators meet. `Source:` "Microsoft Entra authentication and
/// authorization error codes".
fn hint(text: &str) -> Option<&'static str> {
    let code = text.split(|c: char| !c.is_ascii_alphanumeric()).find(|word| word.starts_with("AADSTS"))?;
    Some(match code {
        "AADSTS7000215" => "client_secret is wrong: it is the secret's value, not its id",
        "AADSTS7000222" => "client_secret has expired: make a new one for the application",
        "AADSTS700016" | "AADSTS700027" => {
            "correct client_id and az_tenant_id: the directory does not know the application"
        }
        "AADSTS90002" | "AADSTS900023" => "correct az_tenant_id: there is no such directory",
        "AADSTS70021" | "AADSTS700211" | "AADSTS700212" | "AADSTS700213" => {
            "the application needs a federated credential for this issuer, subject and audience"
        }
        "AADSTS700024" => "the token in AZURE_FEDERATED_TOKEN_FILE has expired, or this host's clock is wrong",
        _ => return None,
    })
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
