//! Sends requests to Oracle Cloud and retries them. Each attempt is signed anew, with the store's time and with the key
//! that is good now.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use percent_encoding::utf8_percent_encode;
use rusty_s3::Method;
use url::Url;

use super::config::OciConfig;
use super::fault::{By, Fault, Next, Refusal, RequestContext, Tried};
use super::principal::{Principal, Principals};
use super::sign::{self, Signed};
use super::{json, region};
use crate::limits;
use crate::pace::Pace;
use crate::rest::{
    Answer, Body, BodySink, Cause, ConnectionPool, Env, ExchangeError, Gate, Permit, RESERVED, RESERVED_IN_PATH,
    SignedRequest, Waits, authority, millis, plain_words, skew, wait_after,
};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::stop::Stop;

/// What a request is sent to, below the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// The tenancy, which knows its namespace.
    Tenancy,
    /// The bucket's objects.
    Objects,
    /// An object.
    Object(&'a str),
    /// The bucket's uploads in parts.
    Uploads,
    /// The uploads in parts of an object.
    Upload(&'a str),
}

impl<'a> Place<'a> {
    fn object(self) -> Option<&'a str> {
        match self {
            Place::Object(object) | Place::Upload(object) => Some(object),
            Place::Tenancy | Place::Objects | Place::Uploads => None,
        }
    }
}

/// A request before it is signed, for all its attempts.
pub(super) struct Request<'a> {
    /// The operation, such as `PutObject`.
    pub operation: &'static str,
    /// The HTTP method. The body of a POST is JSON, and signed.
    pub method: Method,
    /// What it is sent to.
    pub place: Place<'a>,
    /// Parameters, not escaped.
    pub query: Vec<(&'static str, String)>,
    /// Headers with lower-case names.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body<'a>,
}

impl<'a> Request<'a> {
    /// A request without parameters, headers and body.
    pub(super) fn new(operation: &'static str, method: Method, place: Place<'a>) -> Request<'a> {
        Request { operation, method, place, query: Vec::new(), headers: Vec::new(), body: Body::None }
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

/// The client of one bucket.
pub(super) struct Client {
    connections: ConnectionPool,
    /// The URL of Object Storage, without a path.
    endpoint: Url,
    bucket: String,
    principals: Principals,
    /// The tenancy's namespace, once it is known. Held while it is asked for, which ends with the stop.
    namespace: Mutex<Option<String>>,
    /// The store's clock minus ours.
    clock_offset_s: AtomicI64,
    gate: Gate,
    waits: Waits,
    attempts_max: u32,
    pace: Pace,
}

impl Client {
    /// A client of the configured bucket. Files with credentials are read; no request is made yet.
    pub(super) fn new(config: &OciConfig, user_agent: &str, env: Env) -> Result<Self> {
        let principals = Principals::new(config.auth.clone(), Env::clone(&env))?;
        let endpoint = match config.endpoint.as_str() {
            "" => region::endpoint("objectstorage", principals.region(), &env)?,
            given => given.to_owned(),
        };
        let endpoint = Url::parse(&endpoint)
            .map_err(|_| Error::new(Kind::Permanent, "the region makes no URL: correct region"))?;
        let connections = ConnectionPool::new(&config.http, &endpoint, user_agent, &*env)?;
        let waits = Waits { step: config.retry_delay, step_max: config.max_retry_delay, ..Waits::default() };
        Ok(Client {
            connections,
            endpoint,
            bucket: config.bucket.clone(),
            principals,
            namespace: Mutex::default(),
            clock_offset_s: AtomicI64::new(0),
            gate: Gate::default(),
            waits,
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

    /// Attempts for one request.
    pub(super) fn attempts_max(&self) -> u32 {
        self.attempts_max
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
        self.send_limited(request, limits::OCI_JSON_BYTES_MAX, stop)
    }

    /// As [`Client::send`], for an answer of up to `limit` bytes.
    pub(super) fn send_limited(&self, request: &Request<'_>, limit: u64, stop: &Stop) -> Result<Answer, Fault> {
        self.send_attempts(request, self.attempts_max, BodySink::Buffer(limit), stop)
    }

    /// As [`Client::send`], without retries.
    pub(super) fn send_once(&self, request: &Request<'_>, stop: &Stop) -> Result<Answer, Fault> {
        self.send_attempts(request, 1, BodySink::Buffer(limits::OCI_JSON_BYTES_MAX), stop)
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
        let url = self.url(request, stop)?;
        let (mut tried, mut n_failed) = (Tried::default(), 0);
        let host = authority(&self.endpoint);
        loop {
            let permit = self.connections.permit(stop)?;
            let passed = self.gate.pass(stop)?;
            let principal = self.principals.current(stop)?;
            let context = self.context(request, &host, principal.by);
            let clock_offset_s = self.clock_offset_s.load(Ordering::Relaxed);
            let now = Timestamp::now();
            let now = now.checked_add(SignedDuration::from_secs(clock_offset_s)).unwrap_or(now);
            let mut headers = self.signed(request, &url, &principal, now)?;
            headers.extend(request.headers.iter().cloned());
            let signed = SignedRequest { method: request.method, url: url.clone(), headers, body: request.body };
            let result = self.attempt(&signed, &permit, now, sink.reborrow(), stop);
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
                    match tried.next(&refusal) {
                        Next::GiveUp => return Err(fault),
                        Next::Retry => (fault, false),
                        Next::Rest => {
                            let rest = self.gate.close(passed, refusal.retry_after, &self.waits);
                            log::warn!(bucket = self.bucket.as_str(), rest_ms = millis(rest), code = refusal.code.as_str();
                                "the object store asks for fewer requests; resting");
                            (fault, true)
                        }
                        Next::RenewKey => {
                            self.renew(&principal, fault, stop)?;
                            continue;
                        }
                        Next::SetClock(skew_s) => {
                            self.set_clock(clock_offset_s, skew_s);
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
        signed: &SignedRequest<'_>,
        permit: &Permit<'_>,
        now: Timestamp,
        sink: BodySink<'_>,
        stop: &Stop,
    ) -> Result<Result<Answer, Refusal>, ExchangeError> {
        let begun = Instant::now();
        let answer = self.connections.exchange(permit, signed, sink, &self.pace, stop)?;
        // The page of a captive portal or a proxy must not pass for an object.
        let is_store = !answer.header("opc-request-id").is_empty();
        match answer.status {
            200..300 if is_store => Ok(Ok(answer)),
            200..300 => {
                Err(ExchangeError::Network(Cause::Answer, "the answer is not that of Oracle's Object Storage".into()))
            }
            _ => Ok(Err(refusal(&answer, begun, now))),
        }
    }

    /// The headers that authorise an attempt.
    fn signed(
        &self,
        request: &Request<'_>,
        url: &Url,
        principal: &Principal,
        now: Timestamp,
    ) -> Result<Vec<(String, String)>> {
        let date = jiff::fmt::rfc2822::DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&now)
            .map_err(|_| Error::new(Kind::Permanent, "this host's clock is beyond what a date can say"))?;
        let method = request.method.to_str().to_ascii_lowercase();
        let body = match (request.method, request.body) {
            (Method::Post, Body::Bytes(bytes)) => Some(("application/json", bytes)),
            (Method::Post, _) => Some(("application/json", b"".as_slice())),
            _ => None,
        };
        let signed = Signed { method: &method, url, host: Some(&authority(&self.endpoint)), date: &date, body };
        sign::headers(&signed, &principal.key_id, &principal.key)
    }

    /// The URL of a request. It asks for the namespace if that is not known yet.
    fn url(&self, request: &Request<'_>, stop: &Stop) -> Result<Url, Fault> {
        let mut path = "/n".to_owned();
        if request.place != Place::Tenancy {
            let namespace = self.namespace(stop)?;
            let escaped = |text| utf8_percent_encode(text, RESERVED);
            // Slashes stay, as with Oracle's own libraries.
            let escaped_object = |text| utf8_percent_encode(text, RESERVED_IN_PATH);
            path = format!("/n/{}/b/{}", escaped(&namespace), escaped(&self.bucket));
            match request.place {
                Place::Objects => path.push_str("/o"),
                Place::Object(object) => path.push_str(&format!("/o/{}", escaped_object(object))),
                Place::Uploads => path.push_str("/u"),
                Place::Upload(object) => path.push_str(&format!("/u/{}", escaped_object(object))),
                Place::Tenancy => {}
            }
        }
        let mut url = self.endpoint.clone();
        url.set_path(&path);
        let pair = |(name, value): &(&'static str, String)| format!("{name}={}", utf8_percent_encode(value, RESERVED));
        let query: Vec<String> = request.query.iter().map(pair).collect();
        if !query.is_empty() {
            url.set_query(Some(&query.join("&")));
        }
        Ok(url)
    }

    /// The tenancy's namespace, which is asked for once.
    fn namespace(&self, stop: &Stop) -> Result<String, Fault> {
        let mut known = self.namespace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = &*known {
            return Ok(name.clone());
        }
        let answer = self.send(&Request::new("GetNamespace", Method::Get, Place::Tenancy), stop)?;
        let name = json::namespace(&answer.body).context(|| "GetNamespace")?;
        *known = Some(name.clone());
        Ok(name)
    }

    /// Reads the files with credentials again, or fetches another token.
    fn renew(&self, used: &Principal, fault: Fault, stop: &Stop) -> Result<(), Fault> {
        match self.principals.renew(used, stop) {
            Ok(Some(_)) => {
                log::info!(bucket = self.bucket.as_str(); "read the credentials again, because the store refused them");
                Ok(())
            }
            Ok(None) => Err(fault),
            Err(err) if err.kind() == Kind::Stopped => Err(err.into()),
            // Both reasons: what the store said, and why there is no other key.
            Err(err) => {
                let error = err.context(fault.error.to_string());
                Err(Fault { error, ..fault })
            }
        }
    }

    /// What the text of an error names.
    fn context<'a>(&'a self, request: &Request<'a>, host: &'a str, by: By) -> RequestContext<'a> {
        let (operation, object) = (request.operation, request.place.object());
        RequestContext { operation, bucket: &self.bucket, object, host, by }
    }

    /// The error of a success whose content is wrong.
    pub(super) fn integrity_error(&self, request: &Request<'_>, text: &str) -> Error {
        self.context(request, &authority(&self.endpoint), By::User).integrity_error(text)
    }

    /// Corrects the clock by the difference to the one that signed. If several threads see it, only one corrects it.
    fn set_clock(&self, signed_with_s: i64, skew_s: i64) {
        let clock_offset_s = signed_with_s.saturating_add(skew_s);
        let set =
            self.clock_offset_s.compare_exchange(signed_with_s, clock_offset_s, Ordering::Relaxed, Ordering::Relaxed);
        if set.is_ok() {
            log::warn!(bucket = self.bucket.as_str(), difference_seconds = clock_offset_s;
                "this host's clock differs from the object store's; signing with the store's time. Synchronise the clock");
        }
    }
}

/// Reads an answer that is no success.
fn refusal(answer: &Answer, begun: Instant, signed_at: Timestamp) -> Refusal {
    let error = json::error(&answer.body)
        .unwrap_or_else(|| json::ErrorAnswer { message: plain_words(answer), ..json::ErrorAnswer::default() });
    Refusal {
        status: answer.status,
        code: error.code,
        message: error.message,
        request_id: answer.header("opc-request-id").to_owned(),
        skew_s: skew(answer.header("date"), begun, signed_at),
        retry_after: answer.header("retry-after").parse().ok().map(Duration::from_secs),
    }
}
