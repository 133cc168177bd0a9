//! Asks for a token: tempauth's way, and the two of Keystone. Each question is one request, without retries.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rusty_s3::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::config::{Auth, Credential, Identity, Named, Project, SwiftConfig, User};
use super::fault::unanswered;
use crate::limits;
use crate::pace::Pace;
use crate::rest::{
    Answer, Body, BodySink, ConnectionPool, ExchangeError, SignedRequest, authority, kind, plain_words, quoted,
};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::secret::Secret;
use pillion_base::stop::Stop;

/// What authorises requests, and where they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// What is sent.
    pub text: Secret,
    /// The URL of the account.
    pub storage: Url,
    /// How long it is good from when it was given; `None` if nobody said.
    pub life: Option<Duration>,
}

/// Asks for tokens.
pub(super) struct Asker {
    auth: Auth,
    url: Url,
    region: String,
    connections: ConnectionPool,
}

impl Asker {
    /// Nothing is asked yet. `Errors:` each names the setting that is wrong.
    pub(super) fn new(config: &SwiftConfig, user_agent: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Asker> {
        let url = http_url(&config.auth_url)
            .ok_or_else(|| Error::new(Kind::Permanent, "auth_url is not a URL of http or https"))?;
        let mut http = config.http.clone();
        http.response_header_timeout = http.response_header_timeout.min(limits::SWIFT_TOKEN_TIMEOUT);
        let connections = ConnectionPool::new(&http, &url, user_agent, env)?;
        Ok(Asker { auth: config.auth.clone(), url, region: config.region.clone(), connections })
    }

    /// `Blocks:` as long as the server makes progress, or until the stop. `Errors:` they never hold a secret.
    pub(super) fn ask(&self, stop: &Stop) -> Result<Token> {
        match &self.auth {
            Auth::V1 { user, key } => self.ask_v1(user, key, stop),
            Auth::V2 { user, password, project } => self.ask_v2(user, password, project.as_ref(), stop),
            Auth::V3 { identity, project } => self.ask_v3(identity, project.as_ref(), stop),
        }
    }

    fn what(&self) -> String {
        format!("get a token from {}", authority(&self.url))
    }

    fn send(&self, method: Method, url: Url, headers: &[(&str, &str)], body: Body<'_>, stop: &Stop) -> Result<Answer> {
        let permit = self.connections.permit(stop)?;
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = SignedRequest { method, url, headers, body };
        let sink = BodySink::Buffer(limits::SWIFT_CATALOGUE_BYTES_MAX);
        self.connections.exchange(&permit, &request, sink, &Pace::default(), stop).map_err(|broken| match broken {
            ExchangeError::Network(cause, text) => unanswered(&self.what(), cause, &text),
            ExchangeError::Local(err) => err.context(self.what()),
        })
    }

    /// The URL of what is asked for, below `auth_url`.
    fn below(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        let whole = format!("{}/{path}", url.path().trim_end_matches('/'));
        url.set_path(&whole);
        url
    }

    /// `Source:` Swift's tempauth; ncw/swift `auth.go`.
    fn ask_v1(&self, user: &str, key: &Secret, stop: &Stop) -> Result<Token> {
        let headers = [("x-auth-user", user), ("x-auth-key", key.0.as_str())];
        let answer = self.send(Method::Get, self.url.clone(), &headers, Body::None, stop)?;
        if !(200..300).contains(&answer.status) {
            let hint = "correct username (with tempauth it is account:user), password and auth_url";
            return Err(self.refused(&answer, &[&key.0], hint));
        }
        let expires = answer.header("x-auth-token-expires").parse().ok().map(Duration::from_secs);
        self.token(answer.header("x-auth-token"), answer.header("x-storage-url"), expires)
    }

    /// `Source:` "Identity API v2.0"; ncw/swift `auth.go` `v2Auth`.
    fn ask_v2(&self, user: &str, password: &Secret, project: Option<&Named>, stop: &Stop) -> Result<Token> {
        // Rackspace has keys beside passwords. Which of both it is, only the server knows.
        let is_key_first = password.0.len() >= 32;
        let mut refused = None;
        for is_key in [is_key_first, !is_key_first] {
            let body = v2_body(user, password, project, is_key).to_string();
            let headers = [("content-type", "application/json"), ("accept", "application/json")];
            let answer = self.send(Method::Post, self.below("tokens"), &headers, Body::Bytes(body.as_bytes()), stop)?;
            if (200..300).contains(&answer.status) {
                let (token, storage, life) = read_v2(&answer.body, &self.region).map_err(|text| self.odd(&text))?;
                return self.token(&token, &storage, life);
            }
            let hint = "correct username, password and project_name (the tenant)";
            let error = self.refused(&answer, &[&password.0], hint);
            if !matches!(answer.status, 400 | 401) {
                return Err(error);
            }
            refused.get_or_insert(error);
        }
        Err(refused.unwrap_or_else(|| self.odd("is missing")))
    }

    /// `Source:` "Identity API v3"; ncw/swift `auth_v3.go`.
    fn ask_v3(&self, identity: &Identity, project: Option<&Project>, stop: &Stop) -> Result<Token> {
        let body = v3_body(identity, project).to_string();
        let headers = [("content-type", "application/json"), ("accept", "application/json")];
        let url = self.below("auth/tokens");
        let answer = self.send(Method::Post, url, &headers, Body::Bytes(body.as_bytes()), stop)?;
        if !(200..300).contains(&answer.status) {
            let (secret, hint) = match identity {
                Identity::Password { password, .. } => (
                    password,
                    "correct username, domain_name (the user's domain), password and project_name with \
                     project_domain_name; has the password been changed, or the user been locked?",
                ),
                Identity::Application { secret, .. } => (
                    secret,
                    "correct application_credential_id and application_credential_secret; has the credential expired or \
                     been removed?",
                ),
                Identity::Token(token) => (
                    token,
                    "without username and user_id the password is taken for a token, which has ended or is not one: set \
                     username",
                ),
            };
            return Err(self.refused(&answer, &[&secret.0], hint));
        }
        let (storage, life) = read_v3(&answer.body, &self.region).map_err(|text| self.odd(&text))?;
        self.token(answer.header("x-subject-token"), &storage, life)
    }

    fn token(&self, text: &str, storage: &str, life: Option<Duration>) -> Result<Token> {
        if text.is_empty() || !text.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(self.odd("has no token: correct auth_url and auth_version"));
        }
        let storage = http_url(storage)
            .ok_or_else(|| self.odd("has no URL of the object store: correct auth_url and auth_version"))?;
        Ok(Token { text: Secret(text.to_owned()), storage, life })
    }

    /// The error of an answer that is a success and lacks something.
    fn odd(&self, text: &str) -> Error {
        Error::new(Kind::Permanent, format!("{}: the answer {text}", self.what())).classed("credentials")
    }

    fn refused(&self, answer: &Answer, secrets: &[&str], hint: &str) -> Error {
        let keystones = keystones_words(&answer.body);
        let hint = match answer.status {
            400 | 401 | 403 => hint,
            // Keystone does not find a token or a credential; its URLs that are not there have no such answer.
            404 if keystones.is_some() => hint,
            300..=399 | 404 | 405 => {
                "correct auth_url and auth_version: Keystone's URL ends in /v3 (auth_version 3), tempauth's in /auth/v1.0"
            }
            410 => "this server has no such version any more: set auth_version 3, with an auth_url that ends in /v3",
            _ => "",
        };
        let mut text = format!("{}: {}", self.what(), answer.status);
        let said = quoted(&keystones.unwrap_or_else(|| plain_words(answer)), secrets);
        if !said.is_empty() {
            text.push_str(&format!(": {said}"));
        }
        if !hint.is_empty() {
            text.push_str(&format!("; {hint}"));
        }
        let (kind, class) = match kind(answer.status) {
            Kind::Retry if matches!(answer.status, 429 | 503) => (Kind::Retry, "throttled"),
            Kind::Retry => (Kind::Retry, "server"),
            _ => (Kind::Permanent, "credentials"),
        };
        Error::new(kind, text).classed(class)
    }
}

/// A URL that requests can go to. A name or a password in it would end up in errors, and a query has no place.
pub(super) fn http_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host())?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    (is_plain && url.fragment().is_none()).then_some(url)
}

fn v2_body(user: &str, password: &Secret, project: Option<&Named>, is_key: bool) -> Value {
    let mut auth = match is_key {
        true => json!({"RAX-KSKEY:apiKeyCredentials": {"username": user, "apiKey": password.0}}),
        false => json!({"passwordCredentials": {"username": user, "password": password.0}}),
    };
    match project {
        Some(Named::Id(id)) => auth["tenantId"] = json!(id),
        Some(Named::Name(name)) => auth["tenantName"] = json!(name),
        None => {}
    }
    json!({ "auth": auth })
}

fn named(named: &Named) -> Value {
    match named {
        Named::Id(id) => json!({ "id": id }),
        Named::Name(name) => json!({ "name": name }),
    }
}

fn user_json(user: &User) -> Value {
    match user {
        User::Id(id) => json!({ "id": id }),
        User::Name(name, None) => json!({ "name": name }),
        User::Name(name, Some(domain)) => json!({ "name": name, "domain": named(domain) }),
    }
}

fn v3_body(identity: &Identity, project: Option<&Project>) -> Value {
    let identity = match identity {
        Identity::Password { user, password } => {
            let mut user = user_json(user);
            user["password"] = json!(password.0);
            json!({"methods": ["password"], "password": {"user": user}})
        }
        Identity::Application { credential, secret } => {
            let application = match credential {
                Credential::Id(id) => json!({"id": id, "secret": secret.0}),
                Credential::Name(name, user) => json!({"name": name, "secret": secret.0, "user": user_json(user)}),
            };
            json!({"methods": ["application_credential"], "application_credential": application})
        }
        Identity::Token(token) => json!({"methods": ["token"], "token": {"id": token.0}}),
    };
    let mut auth = json!({ "identity": identity });
    match project {
        Some(Project::Id(id)) => auth["scope"] = json!({"project": {"id": id}}),
        Some(Project::Name(name, domain)) => {
            auth["scope"] = json!({"project": {"name": name, "domain": named(domain)}});
        }
        None => {}
    }
    json!({ "auth": auth })
}

/// What a refusal of Keystone says.
fn keystones_words(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        error: Message,
    }
    #[derive(Deserialize)]
    struct Message {
        message: String,
    }
    serde_json::from_slice(body).ok().map(|said: Said| said.error.message)
}

/// How long a token is good, by the server's own clock where it says both times.
fn life(issued_at: Option<&str>, expires_at: Option<&str>) -> Option<Duration> {
    let read = |text: &str| text.parse::<Timestamp>().ok();
    let until = read(expires_at?)?;
    let from = issued_at.and_then(read).unwrap_or_else(|| Timestamp::try_from(SystemTime::now()).unwrap_or(until));
    Some(Duration::try_from(until.duration_since(from)).unwrap_or_default())
}

/// The URL in `found`, which has those of the regions; the first if no region is wanted.
fn of_region(found: Vec<(String, String)>, region: &str) -> Result<String, String> {
    if let Some((_, url)) = found.iter().find(|(of, _)| region.is_empty() || of == region) {
        return Ok(url.clone());
    }
    if found.is_empty() {
        return Err(
            "names no object store with a public URL: give the user a role in a project of a cloud that has one, \
                    and set project_name or project_id"
                .into(),
        );
    }
    let mut regions: Vec<&str> = found.iter().map(|(of, _)| of.as_str()).collect();
    regions.sort_unstable();
    regions.dedup();
    Err(format!("names no object store in the region of region_name: it has {}", quoted(&regions.join(", "), &[])))
}

/// The URL of the object store, and how long the token is good.
fn read_v3(body: &[u8], region: &str) -> Result<(String, Option<Duration>), String> {
    #[derive(Deserialize)]
    struct Read {
        token: Token,
    }
    #[derive(Deserialize)]
    struct Token {
        issued_at: Option<String>,
        expires_at: Option<String>,
        #[serde(default)]
        catalog: Vec<Service>,
    }
    #[derive(Deserialize)]
    struct Service {
        #[serde(rename = "type", default)]
        kind: String,
        #[serde(default)]
        endpoints: Vec<Endpoint>,
    }
    #[derive(Deserialize)]
    struct Endpoint {
        interface: Option<String>,
        region: Option<String>,
        region_id: Option<String>,
        url: Option<String>,
    }
    let Ok(Read { token }) = serde_json::from_slice(body) else {
        return Err("is not Keystone's JSON: correct auth_url and auth_version".into());
    };
    let stores = token.catalog.into_iter().filter(|service| service.kind == "object-store");
    let public = stores.flat_map(|service| service.endpoints).filter(|at| at.interface.as_deref() == Some("public"));
    let found = public.filter_map(|at| Some((at.region.or(at.region_id).unwrap_or_default(), at.url?)));
    let life = life(token.issued_at.as_deref(), token.expires_at.as_deref());
    of_region(found.collect(), region).map(|url| (url, life))
}

/// The token, the URL of the object store, and how long the token is good.
fn read_v2(body: &[u8], region: &str) -> Result<(String, String, Option<Duration>), String> {
    #[derive(Deserialize)]
    struct Read {
        access: Access,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Access {
        token: Token,
        #[serde(default)]
        service_catalog: Vec<Service>,
    }
    #[derive(Deserialize)]
    struct Token {
        id: String,
        issued_at: Option<String>,
        expires: Option<String>,
    }
    #[derive(Deserialize)]
    struct Service {
        #[serde(rename = "type", default)]
        kind: String,
        #[serde(default)]
        endpoints: Vec<Endpoint>,
    }
    #[derive(Deserialize)]
    struct Endpoint {
        region: Option<String>,
        #[serde(rename = "publicURL")]
        url: Option<String>,
    }
    let Ok(Read { access }) = serde_json::from_slice(body) else {
        return Err("is not Keystone's JSON: correct auth_url and auth_version".into());
    };
    let stores = access.service_catalog.into_iter().filter(|service| service.kind == "object-store");
    let found =
        stores.flat_map(|service| service.endpoints).filter_map(|at| Some((at.region.unwrap_or_default(), at.url?)));
    let life = life(access.token.issued_at.as_deref(), access.token.expires.as_deref());
    of_region(found.collect(), region).map(|url| (access.token.id, url, life))
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
