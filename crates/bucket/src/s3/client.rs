//! Sends requests to the store and retries them. Each attempt is signed anew, for the bucket's region, with the store's
//! time, and with keys that are renewed when they have expired.

use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rusty_s3::Method;
use url::Url;

use super::config::S3Config;
use super::credentials::CredentialsProvider;
use super::endpoint::Endpoint;
use super::fault::{Fault, Refusal, RequestContext};
use super::parts::hex;
use super::retry::{Attempts, Next};
use super::sign;
use super::xml;
use crate::limits;
use crate::pace::Pace;
use crate::rest::{
    Answer, Body, BodySink, Cause, ConnectionPool, ExchangeError, Gate, Permit, SignedRequest, Waits, authority,
    millis, plain_words, skew, wait_after,
};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::stop::Stop;

/// The region to sign for if none is known.
const DEFAULT_REGION: &str = "us-east-1";

/// Values of `hashing`.
const NOT_HASHING: u8 = 0;
const HASHING: u8 = 1;
const HASHING_IS_NO_USE: u8 = 2;

/// A request before it is signed, for all its attempts.
pub(super) struct Request<'a> {
    /// The operation of S3, such as `PutObject`.
    pub operation: &'static str,
    /// The permission it needs.
    pub permission: &'static str,
    /// The HTTP method.
    pub method: Method,
    /// The object; `None` for the bucket itself.
    pub object: Option<&'a str>,
    /// Parameters, not escaped.
    pub query: Vec<(&'static str, String)>,
    /// Headers with lower-case names; they are signed.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body<'a>,
    /// SHA-256 of a body that is part of a file, in hex; empty if it is not signed.
    pub sha256: String,
}

impl<'a> Request<'a> {
    /// A request without parameters, headers and body.
    pub(super) fn new(
        operation: &'static str,
        permission: &'static str,
        method: Method,
        object: Option<&'a str>,
    ) -> Request<'a> {
        Request {
            operation,
            permission,
            method,
            object,
            query: Vec::new(),
            headers: Vec::new(),
            body: Body::None,
            sha256: String::new(),
        }
    }

    /// Adds a parameter.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Adds headers.
    pub(super) fn with_headers(mut self, headers: &[(String, String)]) -> Self {
        self.headers.extend_from_slice(headers);
        self
    }

    /// Sets the body.
    pub(super) fn with_body(self, body: Body<'a>) -> Self {
        Request { body, ..self }
    }

    /// Sets the SHA-256 of a body that is part of a file.
    pub(super) fn with_sha256(self, sha256: Option<[u8; 32]>) -> Self {
        Request { sha256: sha256.map(|hash| hex(&hash)).unwrap_or_default(), ..self }
    }
}

/// The client of one bucket.
pub(super) struct Client {
    connections: ConnectionPool,
    bucket: String,
    endpoint: Endpoint,
    is_tls: bool,
    is_anonymous: bool,
    /// Whether files are hashed although there is TLS.
    hashing: AtomicU8,
    credentials: Box<dyn CredentialsProvider>,
    /// The endpoint once its region is known.
    regional: Mutex<Option<Endpoint>>,
    /// The store's clock minus ours.
    clock_offset_s: AtomicI64,
    gate: Gate,
    waits: Waits,
    attempts_max: u32,
    has_trace: bool,
    pace: Pace,
}

impl Client {
    /// A client of the configured bucket; no request is made yet.
    pub(super) fn new(
        config: &S3Config,
        credentials: Box<dyn CredentialsProvider>,
        user_agent: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let endpoint = Endpoint::new(config)?;
        Ok(Client {
            connections: ConnectionPool::new(&config.http, &endpoint.bucket_url(), user_agent, env)?,
            bucket: config.bucket.clone(),
            regional: Mutex::new(endpoint.region().map(|region| endpoint.in_region(region))),
            endpoint,
            is_tls: !config.insecure,
            is_anonymous: config.anonymous,
            hashing: AtomicU8::new(NOT_HASHING),
            credentials,
            clock_offset_s: AtomicI64::new(0),
            gate: Gate::default(),
            waits: Waits::default(),
            attempts_max: config.max_attempts.max(1),
            has_trace: config.trace,
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

    /// The most attempts that a request gets.
    pub(super) fn attempts_max(&self) -> u32 {
        self.attempts_max
    }

    /// Whether files are hashed before they are sent, so that their hash is signed. With TLS nobody can change them, so they
    /// are not, unless the bucket's policy forbids it. `Source:` minio-go.
    pub(super) fn hashes_files(&self) -> bool {
        !self.is_anonymous && (!self.is_tls || self.hashing.load(Ordering::Relaxed) == HASHING)
    }

    /// Whether a refusal may mean that files must be hashed, which is tried once; from then on they are.
    pub(super) fn begins_hashing(&self, refused: &Error) -> bool {
        let is_open = self.is_tls && !self.is_anonymous && refused.class() == "denied";
        let order = Ordering::Relaxed;
        is_open && self.hashing.compare_exchange(NOT_HASHING, HASHING, order, order).is_ok()
    }

    /// Ends it if that was not the reason.
    pub(super) fn judges_hashing(&self, outcome: Option<&Error>) {
        match outcome {
            Some(err) if err.class() == "denied" => self.hashing.store(HASHING_IS_NO_USE, Ordering::Relaxed),
            Some(_) => {}
            None => {
                log::info!(bucket = self.bucket.as_str(); "the bucket wants the hash of each file signed; hashing files")
            }
        }
    }

    /// The waits between attempts.
    pub(super) fn waits(&self) -> &Waits {
        &self.waits
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

    /// Sends a request without retries, except to correct keys, region or clock.
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

    fn send_attempts(
        &self,
        request: &Request<'_>,
        attempts_max: u32,
        sink: BodySink<'_>,
        stop: &Stop,
    ) -> Result<Answer, Fault> {
        let endpoint = self.regional_endpoint(stop)?;
        self.send_to(request, endpoint, attempts_max, sink, stop)
    }

    /// The loop over the attempts.
    fn send_to(
        &self,
        request: &Request<'_>,
        mut endpoint: Endpoint,
        attempts_max: u32,
        mut sink: BodySink<'_>,
        stop: &Stop,
    ) -> Result<Answer, Fault> {
        let (mut attempts, mut has_moved) = (Attempts::default(), false);
        loop {
            let permit = self.connections.permit(stop)?;
            let passed = self.gate.pass(stop)?;
            let keys = self.credentials.keys(stop)?;
            let (region, url) = (endpoint.region().unwrap_or(DEFAULT_REGION), url(&endpoint, request));
            let host = authority(&url);
            let context = self.context(request, &host);
            let clock_offset_s = self.clock_offset_s.load(Ordering::Relaxed);
            let now = Timestamp::now();
            let now = now.checked_add(SignedDuration::from_secs(clock_offset_s)).unwrap_or(now);
            let (url, headers) = sign::sign(request, url, keys.as_ref(), region, now);
            let signed = SignedRequest { method: request.method, url, headers, body: request.body };
            let result = self.attempt(request, &permit, &signed, now, sink.reborrow(), stop);
            drop(permit);
            let (fault, wait) = match result {
                Ok(Ok(answer)) => {
                    self.gate.succeeded();
                    // Only a success proves that the region is right: a refusal may name any.
                    if has_moved {
                        *self.regional.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint);
                    }
                    return Ok(answer);
                }
                Err(ExchangeError::Local(err)) => return Err(err.into()),
                Err(ExchangeError::Network(cause, text)) => {
                    let fault = context.unanswered(cause, &text);
                    if matches!(cause, Cause::Certificate | Cause::NoTls) {
                        return Err(fault);
                    }
                    (fault, None)
                }
                Ok(Err((mut refusal, retry_after))) => {
                    // Some stores name their region in every refusal, which means nothing if it is ours already. Only a
                    // redirect to our own region is odd.
                    if refusal.region == region && !(300..400).contains(&refusal.status) {
                        refusal.region.clear();
                    }
                    let fault = context.refused(&refusal);
                    let has_token = keys.as_ref().is_some_and(|keys| !keys.session_token.0.is_empty());
                    match attempts.next(&refusal, has_token, region) {
                        Next::GiveUp => return Err(fault),
                        Next::Retry => (fault, None),
                        Next::Rest => {
                            let rest = self.gate.close(passed, retry_after, &self.waits);
                            log::warn!(bucket = self.bucket.as_str(), rest_ms = millis(rest), code = refusal.code.as_str();
                                "the object store asks for fewer requests; resting");
                            (fault, Some(()))
                        }
                        Next::RenewKeys => {
                            let Some(used) = &keys else { return Err(fault) };
                            match self.credentials.renew(used, stop) {
                                Ok(Some(keys))
                                    if keys.access_key != used.access_key
                                        || keys.secret_key != used.secret_key
                                        || keys.session_token != used.session_token =>
                                {
                                    continue;
                                }
                                Ok(_) => return Err(fault),
                                Err(err) if err.kind() == Kind::Stopped => return Err(err.into()),
                                // Both reasons: what the store said, and why there are no other keys.
                                Err(err) => {
                                    let error = err.context(fault.error.to_string());
                                    return Err(Fault { error, ..fault });
                                }
                            }
                        }
                        Next::MoveToRegion(to) => {
                            let moved = self.endpoint.in_region(&to);
                            if moved.region() != Some(to.as_str()) {
                                return Err(fault);
                            }
                            log::warn!(bucket = self.bucket.as_str(), region = to.as_str(), signed_for = region;
                                "the bucket is in another region; going on there");
                            (endpoint, has_moved) = (moved, true);
                            continue;
                        }
                        Next::SetClock(skew_s) => {
                            self.set_clock(clock_offset_s, skew_s);
                            continue;
                        }
                    }
                }
            };
            let Some(n_failed) = attempts.failed(attempts_max) else { return Err(fault) };
            log::debug!(bucket = self.bucket.as_str(), attempt = n_failed, err = fault.error.to_string();
                "request to the object store failed; trying again");
            // If the store asked for a rest, the gate waits instead.
            if wait.is_none() {
                self.wait(n_failed, stop)?;
            }
        }
    }

    /// Makes one attempt.
    fn attempt(
        &self,
        request: &Request<'_>,
        permit: &Permit<'_>,
        signed: &SignedRequest<'_>,
        now: Timestamp,
        sink: BodySink<'_>,
        stop: &Stop,
    ) -> Result<Result<Answer, (Refusal, Option<Duration>)>, ExchangeError> {
        let begun = Instant::now();
        let result = self.connections.exchange(permit, signed, sink, &self.pace, stop);
        if self.has_trace {
            self.trace(request, &result, begun.elapsed());
        }
        let answer = result?;
        if (200..300).contains(&answer.status) && !is_hidden_error(request, &answer) {
            return Ok(Ok(answer));
        }
        let retry_after = answer.header("retry-after").parse().ok().map(Duration::from_secs);
        let mut refusal = refusal(&answer, begun, now);
        // The answer to a HEAD has no body that could say more.
        let says_nothing = refusal.code.is_empty() && refusal.request_id.is_empty();
        refusal.is_alien = says_nothing && request.method != Method::Head;
        Ok(Err((refusal, retry_after)))
    }

    fn trace(&self, request: &Request<'_>, result: &Result<Answer, ExchangeError>, time: Duration) {
        let (status, request_id) = match result {
            Ok(answer) => (answer.status.to_string(), answer.header("x-amz-request-id")),
            Err(ExchangeError::Network(_, text)) => (text.clone(), ""),
            Err(ExchangeError::Local(err)) => (err.to_string(), ""),
        };
        log::debug!(operation = request.operation, method = request.method.to_str(),
            object = request.object.unwrap_or_default(), status = status, duration_ms = millis(time),
            request_id = request_id; "request to the object store");
    }

    /// What the text of an error names.
    fn context<'a>(&'a self, request: &Request<'a>, host: &'a str) -> RequestContext<'a> {
        RequestContext {
            operation: request.operation,
            permission: request.permission,
            bucket: &self.bucket,
            object: request.object,
            host,
            is_tls: self.is_tls,
        }
    }

    /// The error of a success whose content is wrong.
    pub(super) fn integrity_error(&self, request: &Request<'_>, text: &str) -> Error {
        self.context(request, &authority(&self.endpoint.bucket_url())).integrity_error(text)
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

    /// The endpoint in the bucket's region. The store is asked for the region once.
    ///
    /// `Source:` minio-go `bucket-cache.go`.
    fn regional_endpoint(&self, stop: &Stop) -> Result<Endpoint, Fault> {
        if let Some(endpoint) = &*self.regional.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(endpoint.clone());
        }
        let request = Request::new("GetBucketLocation", "s3:GetBucketLocation", Method::Get, None).with("location", "");
        let sink = BodySink::Buffer(limits::S3_XML_BYTES_MAX);
        let answer = self.send_to(&request, self.endpoint.clone(), self.attempts_max, sink, stop);
        let mut moved = self.regional.lock().unwrap_or_else(PoisonError::into_inner);
        // A refusal may have named the region already.
        if let Some(endpoint) = &*moved {
            return Ok(endpoint.clone());
        }
        let region = match answer {
            Ok(answer) => xml::location(&answer.body)?,
            // Without the right to ask, or from a store that cannot answer, the oldest region is assumed: it redirects
            // to others.
            Err(fault)
                if matches!(fault.status, 400 | 403 | 405 | 501)
                    && fault.error.class() != "credentials"
                    && fault.error.class() != "clock" =>
            {
                log::debug!(bucket = self.bucket.as_str(), err = fault.error.to_string();
                    "cannot ask for the bucket's region; assuming us-east-1");
                DEFAULT_REGION.to_owned()
            }
            Err(fault) => return Err(fault),
        };
        let endpoint = self.endpoint.in_region(&region);
        *moved = Some(endpoint.clone());
        Ok(endpoint)
    }
}

fn url(endpoint: &Endpoint, request: &Request<'_>) -> Url {
    match request.object {
        Some(object) => endpoint.object_url(object),
        None if request.operation == "GetBucketLocation" => endpoint.location_url(),
        None => endpoint.bucket_url(),
    }
}

/// Whether a success carries an error: some stores notice one after they have sent the status 200. The content of an
/// object is never an error.
fn is_hidden_error(request: &Request<'_>, answer: &Answer) -> bool {
    let is_small = answer.body.len() as u64 <= limits::ERROR_BODY_BYTES_MAX;
    is_small && request.operation != "GetObject" && xml::error(&answer.body).is_some()
}

/// Reads an answer that is no success.
fn refusal(answer: &Answer, begun: Instant, signed_at: Timestamp) -> Refusal {
    let error = xml::error(&answer.body)
        .unwrap_or_else(|| xml::ErrorAnswer { message: plain_words(answer), ..xml::ErrorAnswer::default() });
    let header = |names: [&str; 2]| names.map(|name| answer.header(name)).into_iter().find(|value| !value.is_empty());
    let first = |text: String, header: Option<&str>| match header {
        Some(header) if text.is_empty() => header.to_owned(),
        _ => text,
    };
    Refusal {
        status: answer.status,
        code: first(error.code, header(["x-minio-error-code", "x-amz-error-code"])),
        message: first(error.message, header(["x-minio-error-desc", "x-amz-error-message"])),
        request_id: first(error.request_id, header(["x-amz-request-id", "x-amz-id-2"])),
        region: first(error.region, header(["x-amz-bucket-region", "x-amz-region"])),
        skew_s: skew(answer.header("date"), begun, signed_at),
        is_alien: false,
    }
}
