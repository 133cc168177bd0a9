//! Sends requests to Swift and retries them. Each attempt carries the token of the moment, which also says where the
//! account is; a token that the store refuses is renewed once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use percent_encoding::utf8_percent_encode;
use rusty_s3::Method;
use url::Url;

use super::config::SwiftConfig;
use super::fault::{self, Fault, Next, Refusal, RequestContext};
use super::identity::{Asker, Token};
use super::json::{self, Abilities};
use super::token::Tokens;
use crate::limits;
use crate::pace::Pace;
use crate::rest::{
    Answer, Body, BodySink, Cause, ConnectionPool, Env, ExchangeError, Gate, HttpConfig, Permit, RESERVED,
    RESERVED_IN_PATH, SignedRequest, Waits, authority, millis, plain_words, quoted, wait_after,
};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::stop::Stop;

/// What a request is about.
#[derive(Debug, Clone, Copy)]
enum Target<'a> {
    Object(&'a str, &'a str),
    Container(&'a str),
    /// What the store says of itself.
    Info,
}

/// A request before it is authorised, for all its attempts.
pub(super) struct Request<'a> {
    /// The operation, such as `PUT object`.
    operation: &'static str,
    method: Method,
    target: Target<'a>,
    is_segment: bool,
    /// Parameters, not escaped.
    query: Vec<(&'static str, String)>,
    headers: Vec<(String, String)>,
    body: Body<'a>,
}

impl<'a> Request<'a> {
    fn new(operation: &'static str, method: Method, target: Target<'a>) -> Request<'a> {
        Request {
            operation,
            method,
            target,
            is_segment: false,
            query: Vec::new(),
            headers: Vec::new(),
            body: Body::None,
        }
    }

    /// A request about an object, without parameters, headers and body.
    pub(super) fn object(operation: &'static str, method: Method, container: &'a str, object: &'a str) -> Request<'a> {
        Request::new(operation, method, Target::Object(container, object))
    }

    /// A request about a container.
    pub(super) fn container(operation: &'static str, method: Method, container: &'a str) -> Request<'a> {
        Request::new(operation, method, Target::Container(container))
    }

    /// Says that it is about the container of segments, or one of them.
    pub(super) fn of_segments(self) -> Self {
        Request { is_segment: true, ..self }
    }

    /// Adds a parameter.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Adds a header.
    pub(super) fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the body.
    pub(super) fn with_body(self, body: Body<'a>) -> Self {
        Request { body, ..self }
    }
}

/// The connections to the server that has the account.
struct Server {
    origin: String,
    connections: ConnectionPool,
}

/// The client of one account.
pub(super) struct Client {
    tokens: Tokens,
    http: HttpConfig,
    user_agent: String,
    env: Env,
    /// Known as soon as there is a token.
    server: Mutex<Option<Arc<Server>>>,
    abilities: Mutex<Option<Abilities>>,
    /// The store gives every request an id, as Swift and Ceph do: an answer without one is somebody else's.
    has_ids: AtomicBool,
    container: String,
    gate: Gate,
    waits: Waits,
    attempts_max: u32,
    pace: Pace,
}

impl Client {
    /// A client of the configured account; no request is made yet.
    pub(super) fn new(config: &SwiftConfig, user_agent: &str, env: Env) -> Result<Self> {
        Ok(Client {
            tokens: Tokens::new(Asker::new(config, user_agent, &*env)?),
            http: config.http.clone(),
            user_agent: user_agent.to_owned(),
            env,
            server: Mutex::default(),
            abilities: Mutex::default(),
            has_ids: AtomicBool::new(false),
            container: config.container.clone(),
            gate: Gate::default(),
            waits: Waits::default(),
            attempts_max: config.max_attempts.max(1),
            pace: Pace::default(),
        })
    }

    /// Sets the pace at which files are sent.
    pub(super) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Sets the waits between attempts.
    pub(super) fn set_waits(&mut self, waits: Waits) {
        self.waits = waits;
    }

    /// Waits before another attempt of an operation that has several requests. `Errors:` `Stopped`.
    pub(super) fn wait(&self, n_failed: u32, stop: &Stop) -> Result<()> {
        match stop.wait(wait_after(n_failed, &self.waits)) {
            true => Err(Error::new(Kind::Stopped, "stopping")),
            false => Ok(()),
        }
    }

    /// Sends a request, with retries; success is 2xx. The body of the answer is kept, up to the limit for listings.
    pub(super) fn send(&self, request: &Request<'_>, stop: &Stop) -> Result<Answer, Fault> {
        self.send_limited(request, limits::S3_XML_BYTES_MAX, stop)
    }

    /// As [`Client::send`], for an answer of up to `limit` bytes.
    pub(super) fn send_limited(&self, request: &Request<'_>, limit: u64, stop: &Stop) -> Result<Answer, Fault> {
        self.send_attempts(request, self.attempts_max, BodySink::Buffer(limit), stop)
    }

    /// Sends a request without retries and passes on the body of the answer while it arrives.
    pub(super) fn stream(
        &self,
        request: &Request<'_>,
        each: &mut dyn FnMut(u16, &[u8]) -> Result<()>,
        stop: &Stop,
    ) -> Result<Answer, Fault> {
        self.send_attempts(request, 1, BodySink::Stream(each), stop)
    }

    /// What the store can do, asked for once. What it does not say is taken to be as Swift has it by default.
    pub(super) fn abilities(&self, stop: &Stop) -> Result<Abilities> {
        if let Some(known) = *self.abilities.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(known);
        }
        let request = Request::new("GET info", Method::Get, Target::Info);
        let found = match self.send_attempts(&request, 1, BodySink::Buffer(limits::CREDENTIALS_BYTES_MAX), stop) {
            Ok(answer) => json::abilities(&answer.body),
            Err(fault) if fault.error.kind() == Kind::Stopped => return Err(fault.into()),
            // It may be switched off.
            Err(fault) if (400..500).contains(&fault.status) => None,
            // Another time it may answer.
            Err(fault) => {
                log::debug!(bucket = self.container.as_str(), err = fault.error.to_string();
                    "the object store does not say what it can do");
                return Ok(Abilities::default());
            }
        };
        let found = found.unwrap_or_default();
        *self.abilities.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(found)
    }

    /// The connections to the server of this token.
    fn server(&self, token: &Token) -> Result<Arc<Server>> {
        let origin = token.storage.origin().ascii_serialization();
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = server.as_ref().filter(|server| server.origin == origin) {
            return Ok(Arc::clone(server));
        }
        let connections = ConnectionPool::new(&self.http, &token.storage, &self.user_agent, &*self.env)?;
        Ok(Arc::clone(server.insert(Arc::new(Server { origin, connections }))))
    }

    /// The loop over the attempts.
    fn send_attempts(
        &self,
        request: &Request<'_>,
        attempts_max: u32,
        mut sink: BodySink<'_>,
        stop: &Stop,
    ) -> Result<Answer, Fault> {
        // No token opens what anybody may ask.
        let (mut is_renewed, mut n_failed) = (matches!(request.target, Target::Info), 0);
        loop {
            let server = self.server(&*self.tokens.token(stop)?)?;
            let permit = server.connections.permit(stop)?;
            let passed = self.gate.pass(stop)?;
            // Others may have had the connection, and the store its rest, for longer than a token lives.
            let token = self.tokens.token(stop)?;
            if token.storage.origin().ascii_serialization() != server.origin {
                continue;
            }
            let host = authority(&token.storage);
            let context = Client::context(request, &host);
            let result = self.attempt(request, &server, &permit, &token, sink.reborrow(), stop);
            drop(permit);
            let (fault, has_rested) = match result {
                Ok(Ok(answer)) => {
                    self.gate.succeeded();
                    return Ok(answer);
                }
                Err(ExchangeError::Local(err)) => return Err(err.into()),
                Err(ExchangeError::Network(cause, text)) => {
                    let fault = context.unanswered(cause, &text);
                    if matches!(cause, Cause::Certificate | Cause::NoTls) {
                        return Err(fault);
                    }
                    (fault, false)
                }
                Ok(Err(refusal)) => {
                    let fault = context.refused(&refusal);
                    match fault::next(&refusal, is_renewed) {
                        Next::GiveUp => return Err(fault),
                        Next::Retry => (fault, false),
                        Next::Rest => {
                            let rest = self.gate.close(passed, refusal.retry_after, &self.waits);
                            log::warn!(bucket = self.container.as_str(), rest_ms = millis(rest), status = refusal.status;
                                "the object store asks for fewer requests; resting");
                            (fault, true)
                        }
                        Next::RenewToken => {
                            is_renewed = true;
                            self.renew(&token, fault, stop)?;
                            continue;
                        }
                    }
                }
            };
            n_failed += 1;
            if n_failed >= attempts_max {
                return Err(fault);
            }
            log::debug!(bucket = self.container.as_str(), attempt = n_failed, err = fault.error.to_string();
                "request to the object store failed; trying again");
            // If the store asked for a rest, the gate waits instead.
            if !has_rested {
                self.wait(n_failed, stop)?;
            }
        }
    }

    /// Makes one attempt.
    fn attempt(
        &self,
        request: &Request<'_>,
        server: &Server,
        permit: &Permit<'_>,
        token: &Token,
        sink: BodySink<'_>,
        stop: &Stop,
    ) -> Result<Result<Answer, Refusal>, ExchangeError> {
        let mut headers = request.headers.clone();
        if !matches!(request.target, Target::Info) {
            headers.push(("x-auth-token".into(), token.text.0.clone()));
        }
        let url = url(&token.storage, request);
        let signed = SignedRequest { method: request.method, url, headers, body: request.body };
        let answer = server.connections.exchange(permit, &signed, sink, &self.pace, stop)?;
        let has_id = !request_id(&answer).is_empty();
        match answer.status {
            200..300 if has_id || is_swift(&answer) || matches!(request.target, Target::Info) => {
                self.has_ids.fetch_or(has_id, Ordering::Relaxed);
                Ok(Ok(answer))
            }
            200..300 => Err(ExchangeError::Network(Cause::Answer, "the answer is not that of Swift".into())),
            _ => Ok(Err(refusal(&answer, token, has_id || !self.has_ids.load(Ordering::Relaxed)))),
        }
    }

    /// Asks for another token than the one that was refused.
    fn renew(&self, used: &Token, fault: Fault, stop: &Stop) -> Result<(), Fault> {
        match self.tokens.renew(used, stop) {
            // A server may give out one token until its end. If the store refuses that, it will again.
            Ok(token) if token.text != used.text => Ok(()),
            Ok(_) => Err(fault),
            Err(err) if err.kind() == Kind::Stopped => Err(err.into()),
            // Both reasons: what the store said, and why there is no other token.
            Err(err) => Err(Fault { error: err.context(fault.error.to_string()), ..fault }),
        }
    }

    /// What the text of an error names.
    fn context<'a>(request: &Request<'a>, host: &'a str) -> RequestContext<'a> {
        let (container, object) = match request.target {
            Target::Object(container, object) => (container, Some(object)),
            Target::Container(container) => (container, None),
            Target::Info => ("", None),
        };
        RequestContext { operation: request.operation, container, object, is_segment: request.is_segment, host }
    }

    /// The error of a success whose content is wrong.
    pub(super) fn integrity_error(&self, request: &Request<'_>, text: &str) -> Error {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = server.as_ref().map_or("", |server| server.origin.as_str());
        let host = origin.split_once("://").map_or(origin, |(_, host)| host);
        Client::context(request, host).integrity_error(text)
    }
}

/// The URL of what a request is about.
fn url(storage: &Url, request: &Request<'_>) -> Url {
    let mut url = storage.clone();
    let account = url.path().trim_end_matches('/').to_owned();
    let escaped = |container| utf8_percent_encode(container, RESERVED);
    let path = match request.target {
        Target::Object(container, object) => {
            format!("{account}/{}/{}", escaped(container), utf8_percent_encode(object, RESERVED_IN_PATH))
        }
        Target::Container(container) => format!("{account}/{}", escaped(container)),
        // Beside the version: the account's URL ends in `/v1/AUTH_…`, and with Ceph in `/v1`.
        Target::Info => {
            let parts: Vec<&str> = account.split('/').collect();
            let is_version = |part: &&str| matches!(*part, "v1" | "v1.0");
            let n_above = parts.iter().rposition(is_version).unwrap_or(parts.len().saturating_sub(2));
            format!("{}/info", parts.get(..n_above).unwrap_or_default().join("/"))
        }
    };
    url.set_path(&path);
    let pair = |(name, value): &(&'static str, String)| format!("{name}={}", utf8_percent_encode(value, RESERVED));
    if !request.query.is_empty() {
        let query: Vec<String> = request.query.iter().map(pair).collect();
        url.set_query(Some(&query.join("&")));
    }
    url
}

/// The id that the store gave a request.
fn request_id(answer: &Answer) -> &str {
    let ids = ["x-trans-id", "x-openstack-request-id"].map(|name| answer.header(name));
    ids.into_iter().find(|id| !id.is_empty()).unwrap_or_default()
}

/// Whether a success without an id is one of a store that speaks Swift: the page of a captive portal or a proxy must not
/// pass for an object.
fn is_swift(answer: &Answer) -> bool {
    let has = |name: &str| !answer.header(name).is_empty();
    has("x-timestamp")
        || has("x-container-object-count")
        || matches!(answer.status, 201 | 204)
        || answer.header("content-type").starts_with("application/json")
}

/// Reads an answer that is no success.
fn refusal(answer: &Answer, token: &Token, is_swift: bool) -> Refusal {
    let secrets = [token.text.0.as_str()];
    Refusal {
        status: answer.status,
        message: quoted(&plain_words(answer), &secrets),
        request_id: quoted(request_id(answer), &secrets),
        retry_after: answer.header("retry-after").parse().ok().map(Duration::from_secs),
        is_swift,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let check = |storage: &str, request: Request<'_>, want: &str| {
            assert_eq!(url(&Url::parse(storage).unwrap(), &request).as_str(), want);
        };
        let object = || Request::object("GET object", Method::Get, "a b/", "x/y z?#%41").with("marker", "a&b=");
        let want = "https://h:8080/v1/AUTH_p/a%20b%2F/x/y%20z%3F%23%2541?marker=a%26b%3D";
        check("https://h:8080/v1/AUTH_p", object(), want);
        check("https://h:8080/v1/AUTH_p/", object(), want);
        let info = || Request::new("GET info", Method::Get, Target::Info);
        check("https://h/v1/AUTH_p", info(), "https://h/info");
        check("https://h/swift/v1/AUTH_p/", info(), "https://h/swift/info");
        check("https://h/swift/v1", info(), "https://h/swift/info");
        check("https://h/rest/AUTH_p", info(), "https://h/info");
        check("https://h/", info(), "https://h/info");
    }
}
