//! Google's credentials: reads their JSON, and looks where they are. It never shows a key or a token.
//!
//! The first place that is configured decides; if it fails, that is the error.
//!
//! `Source:` "How Application Default Credentials works"; AIP-4110 to 4117; cloud.google.com/go/auth/credentials.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;
use url::Url;

use super::{exchange, jwt};
use crate::limits;
use crate::rest::{Env, Token, read_text};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::secret::Secret;

const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
/// The file that `gcloud auth application-default login` writes, below the home folder.
const WELL_KNOWN: &str = ".config/gcloud/application_default_credentials.json";

/// Credentials that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A service account with its key.
    Account {
        /// Its address.
        email: String,
        /// Which of its keys; empty if that is not said.
        key_id: String,
        /// In PEM.
        key: Secret,
        token_url: Url,
    },
    /// A person who has logged in with gcloud.
    User { client_id: String, client_secret: Secret, refresh_token: Secret, token_url: Url },
    /// An identity of another issuer, through a pool of workload identities.
    External(Box<External>),
    /// Whoever `source` is, in the place of a service account.
    Impersonated { source: Box<Source>, account: Impersonated },
}

/// An identity of another issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct External {
    /// The pool and its provider.
    pub audience: String,
    /// What kind of token the issuer gives.
    pub subject_token_type: String,
    pub token_url: Url,
    /// Where the issuer's token is.
    pub subject: Subject,
    /// The field of the issuer's token in a JSON; `None` if the text is the token.
    pub subject_field: Option<String>,
    /// An OAuth client and its secret.
    pub client: Option<(String, Secret)>,
    /// The project of a pool of people.
    pub user_project: String,
    /// The service account to act as.
    pub account: Option<Impersonated>,
}

/// Where an issuer's token is; it is read anew for each of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    File(PathBuf),
    Url(Url, Vec<(String, Secret)>),
}

/// A service account in whose place somebody acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Impersonated {
    pub url: Url,
    pub delegates: Vec<String>,
    pub lifetime_s: u64,
}

/// What Google's JSON has, of all kinds.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    r#type: String,
    universe_domain: String,
    client_email: String,
    private_key_id: String,
    private_key: String,
    token_uri: String,
    client_id: String,
    client_secret: String,
    refresh_token: String,
    audience: String,
    subject_token_type: String,
    token_url: String,
    credential_source: RawSource,
    service_account_impersonation_url: String,
    service_account_impersonation: RawLifetime,
    workforce_pool_user_project: String,
    delegates: Vec<String>,
    source_credentials: Option<serde_json::Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawLifetime {
    token_lifetime_seconds: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawSource {
    file: String,
    url: String,
    headers: std::collections::BTreeMap<String, String>,
    format: RawFormat,
    environment_id: String,
    executable: Option<serde_json::Value>,
    certificate: Option<serde_json::Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawFormat {
    r#type: String,
    subject_token_field_name: String,
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text)
}

fn required(name: &str, value: String) -> Result<String> {
    match value.is_empty() {
        true => Err(wrong(format!("the credentials have no {name}: copy the JSON file whole"))),
        false => Ok(value),
    }
}

/// Tokens and statements go over TLS, or stay on this host.
fn secure_url(name: &str, text: &str) -> Result<Url> {
    let url = Url::parse(text).ok().filter(|url| {
        let is_loopback = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        url.has_host() && (url.scheme() == "https" || url.scheme() == "http" && is_loopback)
    });
    url.ok_or_else(|| wrong(format!("{name} of the credentials must be a URL that begins with https://")))
}

/// Reads credentials in Google's JSON. `Errors:` they never quote a value.
pub(super) fn parse(text: &str) -> Result<Source> {
    let raw: Raw = serde_json::from_str(text).map_err(|err| {
        wrong(format!(
            "the credentials are not the JSON of a key file of Google (line {}, column {})",
            err.line(),
            err.column()
        ))
    })?;
    parse_raw(raw, true)
}

fn parse_raw(raw: Raw, may_impersonate: bool) -> Result<Source> {
    if !matches!(raw.universe_domain.as_str(), "" | "googleapis.com") {
        return Err(wrong("universe_domain of the credentials is another than googleapis.com, which is not supported"));
    }
    let token_url = |text: &str| secure_url("token_uri", if text.is_empty() { TOKEN_URL } else { text });
    match raw.r#type.as_str() {
        "service_account" => {
            let key = required("private_key", raw.private_key)?;
            jwt::check(&key)?;
            Ok(Source::Account {
                email: required("client_email", raw.client_email)?,
                key_id: raw.private_key_id,
                key: Secret(key),
                token_url: token_url(&raw.token_uri)?,
            })
        }
        "authorized_user" => Ok(Source::User {
            client_id: required("client_id", raw.client_id)?,
            client_secret: Secret(required("client_secret", raw.client_secret)?),
            refresh_token: Secret(required("refresh_token", raw.refresh_token)?),
            token_url: token_url(&raw.token_uri)?,
        }),
        "external_account" => external(raw).map(|external| Source::External(Box::new(external))),
        "impersonated_service_account" if may_impersonate => {
            let account = impersonated(&raw)?.ok_or_else(|| {
                wrong("the credentials have no service_account_impersonation_url: copy the JSON file whole")
            })?;
            let inner = raw.source_credentials.and_then(|inner| serde_json::from_value(inner).ok());
            let inner = inner.ok_or_else(|| wrong("the credentials have no source_credentials"))?;
            Ok(Source::Impersonated { source: Box::new(parse_raw(inner, false)?), account })
        }
        "gdch_service_account" | "external_account_authorized_user" | "impersonated_service_account" => {
            Err(wrong(format!(
                "credentials of type {} are not supported here: use service_account, authorized_user, external_account or \
                 impersonated_service_account",
                raw.r#type
            )))
        }
        "" => Err(wrong(
            "the credentials have no type: they must be the JSON of a service account's key, or of \
             `gcloud auth application-default login`",
        )),
        _ => Err(wrong(
            "the credentials have an unknown type: it must be service_account, authorized_user, external_account or \
             impersonated_service_account",
        )),
    }
}

fn impersonated(raw: &Raw) -> Result<Option<Impersonated>> {
    if raw.service_account_impersonation_url.is_empty() {
        return Ok(None);
    }
    let url = secure_url("service_account_impersonation_url", &raw.service_account_impersonation_url)?;
    let lifetime_s = match raw.service_account_impersonation.token_lifetime_seconds {
        0 => limits::GCS_TOKEN_LIFE_S,
        seconds @ 600..=43_200 => seconds,
        _ => return Err(wrong("token_lifetime_seconds of the credentials must be from 600 to 43200")),
    };
    Ok(Some(Impersonated { url, delegates: raw.delegates.clone(), lifetime_s }))
}

fn external(raw: Raw) -> Result<External> {
    let account = impersonated(&raw)?;
    let source = raw.credential_source;
    let unsupported = [
        (!source.environment_id.is_empty(), "environment_id (AWS)"),
        (source.executable.is_some(), "executable"),
        (source.certificate.is_some(), "certificate"),
    ];
    if let Some((_, name)) = unsupported.iter().find(|(is_set, _)| *is_set) {
        return Err(wrong(format!(
            "credential_source of the credentials has {name}, which is not supported: use file or url"
        )));
    }
    let subject = match (source.file.as_str(), source.url.as_str()) {
        ("", "") => return Err(wrong("credential_source of the credentials has neither file nor url")),
        (file, "") => Subject::File(PathBuf::from(file)),
        ("", url) => {
            // The services that give such tokens are on this host or link, often without TLS.
            let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
            let url = url.ok_or_else(|| wrong("credential_source.url of the credentials must be a URL"))?;
            Subject::Url(url, source.headers.into_iter().map(|(name, value)| (name, Secret(value))).collect())
        }
        _ => return Err(wrong("credential_source of the credentials has file and url: remove one")),
    };
    let subject_field = match source.format.r#type.as_str() {
        "" | "text" => None,
        "json" => Some(required("subject_token_field_name", source.format.subject_token_field_name)?),
        _ => return Err(wrong("credential_source.format.type of the credentials must be text or json")),
    };
    let client = (!raw.client_id.is_empty()).then_some((raw.client_id, Secret(raw.client_secret)));
    Ok(External {
        audience: required("audience", raw.audience)?,
        subject_token_type: required("subject_token_type", raw.subject_token_type)?,
        token_url: secure_url("token_url", &raw.token_url)?,
        subject,
        subject_field,
        client,
        user_project: raw.workforce_pool_user_project,
        account,
    })
}

/// The credentials of a bucket: those of its configuration, or those that the environment names.
pub(super) struct Credentials {
    configured: Option<Source>,
    env: Env,
}

impl Credentials {
    /// Nothing is looked for yet. `Errors:` the text is not what Google gives.
    pub(super) fn new(configured: &Secret, env: Env) -> Result<Credentials> {
        let configured = match configured.0.trim() {
            "" => None,
            text => Some(parse(text).map_err(|err| err.context("service_account"))?),
        };
        Ok(Credentials { configured, env })
    }

    /// Fetches a token, and says from where. `Blocks:` for a bounded time.
    pub(super) fn token(&self, now: SystemTime) -> Result<(&'static str, Token)> {
        if let Some(source) = &self.configured {
            let token = exchange::token(&self.env, source, now);
            return Ok(("service_account", token.map_err(|err| err.context("get a token for service_account"))?));
        }
        let var = |name: &str| (self.env)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        if let Some(path) = var("GOOGLE_APPLICATION_CREDENTIALS") {
            let token = self.of_file(Path::new(&path), now);
            return Ok((
                "GOOGLE_APPLICATION_CREDENTIALS",
                token.map_err(|err| err.context("get a token for GOOGLE_APPLICATION_CREDENTIALS"))?,
            ));
        }
        let well_known = var("HOME").map(|home| Path::new(&home).join(WELL_KNOWN));
        if let Some(path) = well_known.filter(|path| path.exists()) {
            let token = self.of_file(&path, now);
            return Ok(("gcloud", token.map_err(|err| err.context("get a token for gcloud's credentials"))?));
        }
        match exchange::machine(var("GCE_METADATA_HOST").as_deref(), now)? {
            Some(token) => Ok(("metadata server", token)),
            None => Err(wrong(format!(
                "no credentials found: set service_account, or fill one of the places that were looked at: \
                 GOOGLE_APPLICATION_CREDENTIALS (not set), ~/{WELL_KNOWN} (not there), the machine's metadata server (it \
                 does not answer)"
            ))),
        }
    }

    /// The file is read anew each time: it may have been replaced.
    fn of_file(&self, path: &Path, now: SystemTime) -> Result<Token> {
        let source = parse(&read_text(path, limits::CREDENTIALS_BYTES_MAX)?)
            .map_err(|err| err.context(path.display().to_string()))?;
        exchange::token(&self.env, &source, now)
    }
}

/// Whether a text is credentials.
pub(crate) fn check(text: &str) -> Result<()> {
    parse(text).map(drop)
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
