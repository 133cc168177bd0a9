//! Sends requests to Google Cloud Storage and retries them, with a token that is renewed when the store refuses it.

use std::time::Duration;

use percent_encoding::utf8_percent_encode;
use rusty_s3::Method;
use url::Url;

use super::config::GcsConfig;
use super::credentials::Credentials;
use super::fault::{Fault, Next, Refusal, RequestContext, Tried};
use super::json;
use crate::limits;
use crate::pace::Pace;
use crate::rest::{
    Answer, Body, BodySink, Cause, ConnectionPool, Env, ExchangeError, Gate, Permit, RESERVED, SignedRequest,
    TokenCache, Waits, authority, millis, plain_words, wait_after,
};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::secret::Secret;
use pillion_base::stop::Stop;

/// What a request is about, and so its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// An object, or its content.
    Object(&'a str),
    /// The list of objects.
    List,
    /// An object that is made.
    Upload(&'a str),
    /// An upload that was begun: path and query, which let anybody go on with it, and the object.
    Session(&'a str, &'a str),
}

/// What tells a success from the page of a proxy or of a captive portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// A resource in JSON.
    Resource,
    /// The content of an object.
    Content,
    /// The address of an upload in the head of the answer.
    Location,
    /// A resource, or how far the upload is: 308.
    Progress,
    /// Nothing, such as after a deletion.
    Nothing,
}

/// A request before it is authorised, for all its attempts.
pub(super) struct Request<'a> {
    /// The operation, such as `objects.get`.
    pub operation: &'static str,
    /// The HTTP method.
    pub method: Method,
    /// What it is about.
    pub place: Place<'a>,
    /// What a success looks like.
    pub expected: Expected,
    /// Parameters, not escaped.
    pub query: Vec<(&'static str, String)>,
    /// Headers with lower-case names.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body<'a>,
}

impl<'a> Request<'a> {
    /// A request without parameters, headers and body.
    pub(super) fn new(operation: &'static str, method: Method, place: Place<'a>, expected: Expected) -> Request<'a> {
        Request { operation, method, place, expected, query: Vec::new(), headers: Vec::new(), body: Body::None }
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

    fn is_session(&self) -> bool {
        matches!(self.place, Place::Session(..))
    }
}

/// The client of one bucket.
pub(super) struct Client {
    connections: ConnectionPool,
    bucket: String,
    /// The URL of the service, without a path.
    service: Url,
    /// `None` for an emulator, which wants none.
    tokens: Option<TokenCache>,
    gate: Gate,
    waits: Waits,
    attempts_max: u32,
    pace: Pace,
}

impl Client {
    /// A client of the configured bucket; no request is made yet.
    pub(super) fn new(config: &GcsConfig, user_agent: &str, env: Env) -> Result<Self> {
        let emulator = env("STORAGE_EMULATOR_HOST").map(|host| host.trim().to_owned()).filter(|host| !host.is_empty());
        let is_emulator = emulator.is_some();
        let service = service(emulator.as_deref(), &config.endpoint)?;
        let connections = ConnectionPool::new(&config.http, &service, user_agent, &*env)?;
        let tokens = match is_emulator {
            true => None,
            false => {
                let credentials = Credentials::new(&config.service_account, env)?;
                Some(TokenCache::new(move |now| credentials.token(now)))
            }
        };
        let (step, step_max) = (limits::GCS_RETRY_DELAY, limits::GCS_RETRY_DELAY_MAX);
        Ok(Client {
            connections,
            bucket: config.bucket.clone(),
            service,
            tokens,
            gate: Gate::default(),
            waits: Waits { step, step_max, ..Waits::default() },
            attempts_max: config.max_attempts.max(1),
            pace: Pace::default(),
        })
    }

    /// Whether an emulator takes the place of the service.
    pub(super) fn is_emulator(&self) -> bool {
        self.tokens.is_none()
    }

    /// Attempts for each request.
    pub(super) fn attempts_max(&self) -> u32 {
        self.attempts_max
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

    /// Sends a request, with retries. The body of the answer is kept, up to the limit for a page of names.
    pub(super) fn send(&self, request: &Request<'_>, stop: &Stop) -> Result<Answer, Fault> {
        self.send_limited(request, limits::S3_XML_BYTES_MAX, stop)
    }

    /// As [`Client::send`], for an answer of up to `limit` bytes.
    pub(super) fn send_limited(&self, request: &Request<'_>, limit: u64, stop: &Stop) -> Result<Answer, Fault> {
        self.send_attempts(request, self.attempts_max, BodySink::Buffer(limit), stop)
    }

    /// Sends a request that must not be repeated before the store was asked what became of it.
    pub(super) fn send_once(&self, request: &Request<'_>, stop: &Stop) -> Result<Answer, Fault> {
        self.send_attempts(request, 1, BodySink::Buffer(limits::S3_XML_BYTES_MAX), stop)
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

    /// The loop over the attempts.
    fn send_attempts(
        &self,
        request: &Request<'_>,
        attempts_max: u32,
        mut sink: BodySink<'_>,
        stop: &Stop,
    ) -> Result<Answer, Fault> {
        let (mut tried, mut n_failed) = (Tried::default(), 0);
        let host = authority(&self.service);
        let context = self.context(request, &host);
        loop {
            let permit = self.connections.permit(stop)?;
            let passed = self.gate.pass(stop)?;
            let token = self.tokens.as_ref().map(|tokens| tokens.token(stop)).transpose()?;
            let result = self.attempt(request, &permit, token.as_ref(), sink.reborrow(), stop);
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
                    match tried.next(&refusal, request.is_session()) {
                        Next::GiveUp => return Err(fault),
                        // Whether content is missing the caller finds out.
                        Next::Retry if refusal.status == 404 && request.expected == Expected::Content => {
                            return Err(fault);
                        }
                        Next::Retry => (fault, false),
                        Next::Rest => {
                            let rest = self.gate.close(passed, refusal.retry_after, &self.waits);
                            log::warn!(bucket = self.bucket.as_str(), rest_ms = millis(rest), code = refusal.status;
                                "the object store asks for fewer requests; resting");
                            (fault, true)
                        }
                        Next::RenewToken => {
                            self.renew(token.as_ref(), fault, stop)?;
                            continue;
                        }
                    }
                }
            };
            n_failed += 1;
            if n_failed >= attempts_max {
                return Err(fault);
            }
            log::debug!(bucket = self.bucket.as_str(), attempt = n_failed, err = fault.error.to_string();
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
        permit: &Permit<'_>,
        token: Option<&Secret>,
        sink: BodySink<'_>,
        stop: &Stop,
    ) -> Result<Result<Answer, Refusal>, ExchangeError> {
        let mut headers = request.headers.clone();
        if let Some(token) = token {
            headers.push(("authorization".into(), format!("Bearer {}", token.0)));
        }
        let signed = SignedRequest { method: request.method, url: self.url(request), headers, body: request.body };
        let answer = self.connections.exchange(permit, &signed, sink, &self.pace, stop)?;
        match (answer.status, request.expected) {
            (200..300 | 308, expected) if is_expected(&answer, expected) => Ok(Ok(answer)),
            (200..300, _) => {
                Err(ExchangeError::Network(Cause::Answer, "the answer is not that of Google Cloud Storage".into()))
            }
            _ => Ok(Err(refusal(&answer))),
        }
    }

    fn url(&self, request: &Request<'_>) -> Url {
        let mut url = self.service.clone();
        let escaped = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
        let bucket = escaped(&self.bucket);
        let mut query: Vec<String> =
            request.query.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        match request.place {
            Place::Object(object) => url.set_path(&format!("/storage/v1/b/{bucket}/o/{}", escaped(object))),
            Place::List => url.set_path(&format!("/storage/v1/b/{bucket}/o")),
            Place::Upload(object) => {
                url.set_path(&format!("/upload/storage/v1/b/{bucket}/o"));
                query.push(format!("name={}", escaped(object)));
            }
            Place::Session(address, _) => {
                let (path, of_session) = address.split_once('?').unwrap_or((address, ""));
                url.set_path(path);
                query.insert(0, of_session.to_owned());
            }
        }
        url.set_query(Some(&query.join("&")).filter(|query| !query.is_empty()).map(String::as_str));
        url
    }

    /// Fetches another token than the one that was refused.
    fn renew(&self, used: Option<&Secret>, fault: Fault, stop: &Stop) -> Result<(), Fault> {
        let (Some(tokens), Some(used)) = (&self.tokens, used) else { return Err(fault) };
        match tokens.renew(used, stop) {
            Ok(token) if token != *used => Ok(()),
            Ok(_) => Err(fault),
            Err(err) if err.kind() == Kind::Stopped => Err(err.into()),
            // Both reasons: what the store said, and why there is no other token.
            Err(err) => {
                let error = err.context(fault.error.to_string());
                Err(Fault { error, ..fault })
            }
        }
    }

    /// What the text of an error names.
    fn context<'a>(&'a self, request: &Request<'a>, host: &'a str) -> RequestContext<'a> {
        let object = match request.place {
            Place::Object(object) | Place::Upload(object) | Place::Session(_, object) => Some(object),
            Place::List => None,
        };
        let (operation, is_session) = (request.operation, request.is_session());
        RequestContext { operation, bucket: &self.bucket, object, is_session, host }
    }

    /// The error of a success whose content is wrong.
    pub(super) fn integrity_error(&self, request: &Request<'_>, text: &str) -> Error {
        self.context(request, &authority(&self.service)).integrity_error(text)
    }
}

/// The URL of the service. `Source:` cloud.google.com/go/storage `newHTTPStorageClient`: an emulator has no scheme, or
/// one, and its path does not count.
fn service(emulator: Option<&str>, endpoint: &str) -> Result<Url> {
    let (name, text) = match emulator {
        Some(host) if host.contains("://") => ("STORAGE_EMULATOR_HOST", host.to_owned()),
        Some(host) => ("STORAGE_EMULATOR_HOST", format!("http://{host}")),
        None => ("the endpoint", endpoint.to_owned()),
    };
    let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host());
    let is_plain = |url: &Url| url.username().is_empty() && url.password().is_none();
    let mut url = url.filter(is_plain).ok_or_else(|| {
        Error::new(Kind::Permanent, format!("{name} must be host:port or a URL such as http://127.0.0.1:4443"))
    })?;
    url.set_path("");
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn is_expected(answer: &Answer, expected: Expected) -> bool {
    let has = |name: &str| !answer.header(name).is_empty();
    match expected {
        Expected::Progress if answer.status == 308 => !has("location"),
        _ if answer.status == 308 => false,
        Expected::Resource | Expected::Progress => json::is_resource(&answer.body),
        Expected::Content => ["x-goog-hash", "x-goog-generation", "x-guploader-uploadid"].into_iter().any(has),
        Expected::Location => has("location"),
        Expected::Nothing => answer.status == 204 || answer.header("content-type").starts_with("application/json"),
    }
}

/// Reads an answer that is no success.
fn refusal(answer: &Answer) -> Refusal {
    // An answer that came early may still have the frames of its chunks.
    let (start, end) = (answer.body.iter().position(|c| *c == b'{'), answer.body.iter().rposition(|c| *c == b'}'));
    let inner = start.zip(end).and_then(|(start, end)| answer.body.get(start..=end)).unwrap_or_default();
    let read = json::error(inner);
    // What is asked of content, and of uploads, is refused in plain words.
    let is_own = read.is_some()
        || !answer.header("x-guploader-uploadid").is_empty()
        || answer.body.starts_with(b"No such object");
    let error = read.unwrap_or_else(|| json::ErrorAnswer { message: plain_words(answer), reason: String::new() });
    Refusal {
        status: answer.status,
        reason: error.reason,
        message: error.message,
        is_own,
        retry_after: answer.header("retry-after").parse().ok().map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulator_takes_the_place_of_the_service() {
        let check = |emulator: Option<&str>, want: &str| {
            assert_eq!(service(emulator, "https://storage.googleapis.com").unwrap().as_str(), want, "{emulator:?}");
        };
        check(None, "https://storage.googleapis.com/");
        check(Some("localhost:4443"), "http://localhost:4443/");
        check(Some("https://fake:4443/storage/v1/"), "https://fake:4443/");
        for odd in ["ftp://x", "http://", "a b", "http://user:hunter2@x"] {
            let err = service(Some(odd), "").unwrap_err().to_string();
            assert!(err.starts_with("STORAGE_EMULATOR_HOST must be") && !err.contains("hunter2"), "{odd}: {err}");
        }
    }
}
