//! Sends requests to Azure and retries them. Each attempt is signed anew, with the store's time, or carries a token that
//! is renewed when the store refuses it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::utf8_percent_encode;
use rusty_s3::Method;
use url::Url;

use super::config::{Auth, AzureConfig};
use super::fault::{By, Fault, Next, Refusal, RequestContext, Tried};
use super::token::Tokens;
use super::{sign, xml};
use crate::limits;
use crate::pace::Pace;
use crate::rest::{
    Answer, Body, BodySink, Cause, ConnectionPool, Env, ExchangeError, Gate, Permit, RESERVED, RESERVED_IN_PATH,
    SignedRequest, Waits, authority, millis, plain_words, skew, wait_after,
};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::secret::Secret;
use pillion_base::stop::Stop;

/// The version of Azure's interface: the oldest that has everything used here, so that emulators know it.
const VERSION: &str = "2020-10-02";

/// A request before it is authorised, for all its attempts.
pub(super) struct Request<'a> {
    /// The operation, such as `Put Blob`.
    pub operation: &'static str,
    /// The letter of a shared access signature's permission for it.
    pub letter: char,
    /// The HTTP method.
    pub method: Method,
    /// The blob; `None` for the container itself.
    pub object: Option<&'a str>,
    /// Parameters, not escaped, with names in lower case.
    pub query: Vec<(&'static str, String)>,
    /// Headers with lower-case names.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body<'a>,
}

impl<'a> Request<'a> {
    /// A request without parameters, headers and body.
    pub(super) fn new(operation: &'static str, letter: char, method: Method, object: Option<&'a str>) -> Request<'a> {
        Request { operation, letter, method, object, query: Vec::new(), headers: Vec::new(), body: Body::None }
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

    fn body_bytes(&self) -> u64 {
        match self.body {
            Body::None => 0,
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { range: (start, end), .. } => end.saturating_sub(start),
        }
    }
}

/// What authorises requests.
enum Authority {
    /// The account's key, decoded.
    Key(Vec<u8>),
    /// A part of the query.
    Sas(Secret),
    Tokens(Box<Tokens>),
}

/// The client of one container.
pub(super) struct Client {
    connections: ConnectionPool,
    account: String,
    container: String,
    /// The URL of the account, without a slash at its end.
    service: Url,
    authority: Authority,
    by: By,
    creates_container: bool,
    /// The store's clock minus ours.
    clock_offset_s: AtomicI64,
    gate: Gate,
    waits: Waits,
    attempts_max: u32,
    pace: Pace,
}

impl Client {
    /// A client of the configured container; no request is made yet.
    pub(super) fn new(config: &AzureConfig, user_agent: &str, env: Env) -> Result<Self> {
        let service = Url::parse(&config.service)
            .map_err(|_| Error::new(Kind::Permanent, "storage_account and endpoint make no URL together"))?;
        let connections = ConnectionPool::new(&config.http, &service, user_agent, &*env)?;
        let authority = match &config.auth {
            Auth::Key(key) => Authority::Key(
                BASE64_STANDARD
                    .decode(&key.0)
                    .map_err(|_| Error::new(Kind::Permanent, "the account key is not in base64"))?,
            ),
            Auth::Sas(signature) => Authority::Sas(signature.clone()),
            other => Authority::Tokens(Box::new(Tokens::new(other.clone(), env))),
        };
        let waits = Waits { step: config.retry_delay, step_max: config.max_retry_delay, ..Waits::default() };
        Ok(Client {
            connections,
            account: config.account.clone(),
            container: config.container.clone(),
            service,
            authority,
            by: By::from(&config.auth),
            creates_container: config.creates_container,
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

    /// Waits before another attempt of an operation that has several requests. `Errors:` `Stopped`.
    pub(super) fn wait(&self, n_failed: u32, stop: &Stop) -> Result<()> {
        match stop.wait(wait_after(n_failed, &self.waits)) {
            true => Err(Error::new(Kind::Stopped, "stopping")),
            false => Ok(()),
        }
    }

    /// Sends a request, with retries; success is 2xx. The body of the answer is kept, up to the limit for XML.
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
            let token = match &self.authority {
                Authority::Tokens(tokens) => Some(tokens.token(stop)?),
                _ => None,
            };
            let clock_offset_s = self.clock_offset_s.load(Ordering::Relaxed);
            let now = Timestamp::now();
            let now = now.checked_add(SignedDuration::from_secs(clock_offset_s)).unwrap_or(now);
            let result = self.attempt(request, &permit, token.as_ref(), now, sink.reborrow(), stop);
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
                    let creates = self.creates_container && request.operation != "Create Container";
                    match tried.next(&refusal, self.by, creates) {
                        Next::GiveUp => return Err(fault),
                        Next::Retry => (fault, false),
                        Next::Rest => {
                            let rest = self.gate.close(passed, refusal.retry_after, &self.waits);
                            log::warn!(bucket = self.container.as_str(), rest_ms = millis(rest), code = refusal.code.as_str();
                                "the object store asks for fewer requests; resting");
                            (fault, true)
                        }
                        Next::RenewToken => {
                            self.renew(token.as_ref(), fault, stop)?;
                            continue;
                        }
                        Next::SetClock(skew_s) => {
                            self.set_clock(clock_offset_s, skew_s);
                            continue;
                        }
                        Next::CreateContainer => {
                            self.create_container(stop)?;
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
        permit: &Permit<'_>,
        token: Option<&Secret>,
        now: Timestamp,
        sink: BodySink<'_>,
        stop: &Stop,
    ) -> Result<Result<Answer, Refusal>, ExchangeError> {
        let begun = Instant::now();
        let (url, headers) = self.authorised(request, token, now).map_err(ExchangeError::Local)?;
        let signed = SignedRequest { method: request.method, url, headers, body: request.body };
        let answer = self.connections.exchange(permit, &signed, sink, &self.pace, stop)?;
        // The page of a captive portal or a proxy must not pass for a blob.
        let is_azure = ["x-ms-request-id", "x-ms-version"].iter().any(|name| !answer.header(name).is_empty());
        match answer.status {
            200..300 if is_azure => Ok(Ok(answer)),
            200..300 => {
                Err(ExchangeError::Network(Cause::Answer, "the answer is not that of Azure's Blob service".into()))
            }
            _ => Ok(Err(refusal(&answer, begun, now))),
        }
    }

    /// The URL and the headers of an attempt.
    fn authorised(
        &self,
        request: &Request<'_>,
        token: Option<&Secret>,
        now: Timestamp,
    ) -> Result<(Url, Vec<(String, String)>)> {
        let mut url = self.url(request.object);
        let date = jiff::fmt::rfc2822::DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&now)
            .map_err(|_| Error::new(Kind::Permanent, "this host's clock is beyond what a date can say"))?;
        let mut headers = request.headers.clone();
        headers.push(("x-ms-date".into(), date));
        headers.push(("x-ms-version".into(), VERSION.into()));
        let pair = |(name, value): &(&'static str, String)| format!("{name}={}", utf8_percent_encode(value, RESERVED));
        let mut query: Vec<String> = request.query.iter().map(pair).collect();
        match (&self.authority, token) {
            (Authority::Key(key), _) => {
                let (method, path) = (request.method.to_str(), url.path());
                let signature = sign::authorization(
                    &self.account,
                    key,
                    method,
                    path,
                    &request.query,
                    &headers,
                    request.body_bytes(),
                );
                headers.push(("authorization".into(), signature));
            }
            (Authority::Sas(signature), _) => query.push(signature.0.clone()),
            (Authority::Tokens(_), token) => {
                let token = token.map_or("", |token| &token.0);
                headers.push(("authorization".into(), format!("Bearer {token}")));
            }
        }
        if !query.is_empty() {
            url.set_query(Some(&query.join("&")));
        }
        Ok((url, headers))
    }

    /// The URL of a blob, or of the container, without a query.
    fn url(&self, object: Option<&str>) -> Url {
        let mut url = self.service.clone();
        let account = url.path().trim_end_matches('/').to_owned();
        let path = match object {
            Some(object) => {
                format!("{account}/{}/{}", self.container, utf8_percent_encode(object, RESERVED_IN_PATH))
            }
            None => format!("{account}/{}", self.container),
        };
        url.set_path(&path);
        url
    }

    /// Fetches another token than the one that was refused.
    fn renew(&self, used: Option<&Secret>, fault: Fault, stop: &Stop) -> Result<(), Fault> {
        let (Authority::Tokens(tokens), Some(used)) = (&self.authority, used) else { return Err(fault) };
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

    /// Makes the container, which is missing. It is no error if somebody else was faster.
    fn create_container(&self, stop: &Stop) -> Result<(), Fault> {
        let request = Request::new("Create Container", 'c', Method::Put, None)
            .with("restype", "container")
            .with_body(Body::Bytes(b""));
        match self.send(&request, stop) {
            Ok(_) => {
                log::info!(bucket = self.container.as_str(); "created the container, which was missing");
                Ok(())
            }
            Err(fault) if fault.code == "ContainerAlreadyExists" => Ok(()),
            Err(fault) => {
                let error = fault.error.context("the container is missing, and storage_create_container is on");
                Err(Fault { error, ..fault })
            }
        }
    }

    /// What the text of an error names.
    fn context<'a>(&'a self, request: &Request<'a>, host: &'a str) -> RequestContext<'a> {
        RequestContext {
            operation: request.operation,
            letter: request.letter,
            account: &self.account,
            container: &self.container,
            object: request.object,
            host,
            by: self.by,
        }
    }

    /// The error of a success whose content is wrong.
    pub(super) fn integrity_error(&self, request: &Request<'_>, text: &str) -> Error {
        self.context(request, &authority(&self.service)).integrity_error(text)
    }

    /// Corrects the clock by the difference to the one that signed. If several threads see it, only one corrects it.
    fn set_clock(&self, signed_with_s: i64, skew_s: i64) {
        let clock_offset_s = signed_with_s.saturating_add(skew_s);
        let set =
            self.clock_offset_s.compare_exchange(signed_with_s, clock_offset_s, Ordering::Relaxed, Ordering::Relaxed);
        if set.is_ok() {
            log::warn!(bucket = self.container.as_str(), difference_seconds = clock_offset_s;
                "this host's clock differs from the object store's; signing with the store's time. Synchronise the clock");
        }
    }
}

/// Reads an answer that is no success.
fn refusal(answer: &Answer, begun: Instant, signed_at: Timestamp) -> Refusal {
    let error = xml::error(&answer.body)
        .unwrap_or_else(|| xml::ErrorAnswer { message: plain_words(answer), ..xml::ErrorAnswer::default() });
    // The answer to a HEAD has the code in its head only.
    let code = if error.code.is_empty() { answer.header("x-ms-error-code").to_owned() } else { error.code };
    Refusal {
        status: answer.status,
        code,
        message: error.message,
        detail: error.detail,
        request_id: answer.header("x-ms-request-id").to_owned(),
        skew_s: skew(answer.header("date"), begun, signed_at),
        retry_after: answer.header("retry-after").parse().ok().map(Duration::from_secs),
    }
}
