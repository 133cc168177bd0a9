//! Requests to the store, each made again as long as that makes sense: signed anew for every attempt, in the bucket's
//! region, at the store's time, with keys that are renewed when they have ended.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rusty_s3::Method;
use url::Url;

use super::config::S3Config;
use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::exchange::{Answer, Body, Broken, Line, Outgoing, Take, authority};
use super::fault::{Asked, Cause, Fault, Refusal};
use super::retry::{Attempts, Gate, Next, Waits, wait_after};
use super::sign::{self, Signed};
use super::xml;
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::objstore::pace::Pace;
use crate::supervisor::Stop;

/// The region that is signed for where none is known.
const FIRST_REGION: &str = "us-east-1";

/// A request, as often as it must be made.
pub struct Request<'a> {
    /// The operation of S3, such as `PutObject`.
    pub operation: &'static str,
    /// The permission it needs.
    pub permission: &'static str,
    /// How.
    pub method: Method,
    /// The object; `None` for the bucket itself.
    pub object: Option<&'a str>,
    /// Parameters, not escaped.
    pub query: Vec<(&'static str, String)>,
    /// Headers with lower-case names; they are signed.
    pub headers: Vec<(String, String)>,
    /// What it carries.
    pub body: Body<'a>,
}

impl<'a> Request<'a> {
    /// A request without parameters, headers and body.
    pub fn new(
        operation: &'static str,
        permission: &'static str,
        method: Method,
        object: Option<&'a str>,
    ) -> Request<'a> {
        Request { operation, permission, method, object, query: Vec::new(), headers: Vec::new(), body: Body::None }
    }

    /// With a parameter.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// With headers.
    pub fn with_headers(mut self, headers: &[(String, String)]) -> Self {
        self.headers.extend_from_slice(headers);
        self
    }

    /// With a body.
    pub fn with_body(self, body: Body<'a>) -> Self {
        Request { body, ..self }
    }
}

/// Speaks to one bucket.
pub struct Client {
    line: Line,
    bucket: String,
    endpoint: Endpoint,
    is_tls: bool,
    who: Box<dyn Credentials>,
    /// The endpoint once its region is known.
    place: Mutex<Option<Endpoint>>,
    /// The store's clock minus ours.
    offset_s: AtomicI64,
    gate: Gate,
    waits: Waits,
    attempts_max: u32,
    has_trace: bool,
    pace: Pace,
}

impl Client {
    /// A client of the configured bucket; it asks nothing yet.
    pub fn new(
        config: &S3Config,
        who: Box<dyn Credentials>,
        user_agent: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let endpoint = Endpoint::new(config)?;
        Ok(Client {
            line: Line::new(config, &endpoint.bucket_url(), user_agent, env)?,
            bucket: config.bucket.clone(),
            place: Mutex::new(endpoint.region().map(|region| endpoint.in_region(region))),
            endpoint,
            is_tls: !config.insecure,
            who,
            offset_s: AtomicI64::new(0),
            gate: Gate::default(),
            waits: Waits::default(),
            attempts_max: config.max_attempts.max(1),
            has_trace: config.trace,
            pace: Pace::default(),
        })
    }

    /// Sends files at this pace.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Waits in another way between attempts.
    pub fn set_waits(&mut self, waits: Waits) {
        self.waits = waits;
    }

    /// How often a request is made at most.
    pub fn attempts_max(&self) -> u32 {
        self.attempts_max
    }

    /// Waits before another attempt of something that is more than one request. `Errors:` `Stopped`.
    pub fn wait(&self, n_failed: u32, stop: &Stop) -> Result<()> {
        match stop.wait(wait_after(n_failed, &self.waits)) {
            true => Err(Error::new(Kind::Stopped, "stopping")),
            false => Ok(()),
        }
    }

    /// Asks until there is an answer that counts; success is 2xx. The body is held, if it is no larger than XML may be.
    pub fn ask(&self, request: &Request<'_>, stop: &Stop) -> Result<Answer, Fault> {
        self.ask_held(request, limits::S3_XML_BYTES_MAX, stop)
    }

    /// As [`Client::ask`], with a body of up to `limit` bytes.
    pub fn ask_held(&self, request: &Request<'_>, limit: u64, stop: &Stop) -> Result<Answer, Fault> {
        self.ask_times(request, self.attempts_max, Take::Held(limit), stop)
    }

    /// Asks once, but for what can be put right: keys, region, clock.
    pub fn ask_once(&self, request: &Request<'_>, stop: &Stop) -> Result<Answer, Fault> {
        self.ask_times(request, 1, Take::Held(limits::S3_XML_BYTES_MAX), stop)
    }

    /// Asks once and gives on the body while it arrives.
    pub fn stream(
        &self,
        request: &Request<'_>,
        each: &mut dyn FnMut(u16, &[u8]) -> Result<()>,
        stop: &Stop,
    ) -> Result<Answer, Fault> {
        self.ask_times(request, 1, Take::Each(each), stop)
    }

    fn ask_times(
        &self,
        request: &Request<'_>,
        attempts_max: u32,
        take: Take<'_>,
        stop: &Stop,
    ) -> Result<Answer, Fault> {
        let place = self.place(stop)?;
        self.ask_at(request, place, attempts_max, take, stop)
    }

    /// The loop over the attempts.
    fn ask_at(
        &self,
        request: &Request<'_>,
        mut place: Endpoint,
        attempts_max: u32,
        mut take: Take<'_>,
        stop: &Stop,
    ) -> Result<Answer, Fault> {
        let (mut attempts, mut has_moved) = (Attempts::default(), false);
        loop {
            let passed = self.gate.pass(stop)?;
            let keys = self.who.keys(stop)?;
            let (region, url) = (place.region().unwrap_or(FIRST_REGION), url(&place, request));
            let host = authority(&url);
            let asked = self.asked(request, &host);
            let offset_s = self.offset_s.load(Ordering::Relaxed);
            let now = Timestamp::now();
            let now = now.checked_add(SignedDuration::from_secs(offset_s)).unwrap_or(now);
            let url = sign::sign(request.method, url, &request.query, &request.headers, keys.as_ref(), region, now);
            let result = self.attempt(request, url, now, take.again(), stop);
            let (fault, wait) = match result {
                Ok(Ok(answer)) => {
                    self.gate.succeeded();
                    // Only now it is sure that the region is the right one: a refusal may name any.
                    if has_moved {
                        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
                    }
                    return Ok(answer);
                }
                Err(Broken::Ours(err)) => return Err(err.into()),
                Err(Broken::Network(cause, text)) => {
                    let fault = asked.unanswered(cause, &text);
                    if matches!(cause, Cause::Certificate | Cause::NoTls) {
                        return Err(fault);
                    }
                    (fault, None)
                }
                Ok(Err((mut refusal, retry_after))) => {
                    // Some stores name their region whatever they refuse; only a redirection to where we are is odd.
                    if refusal.region == region && !(300..400).contains(&refusal.status) {
                        refusal.region.clear();
                    }
                    let fault = asked.refused(&refusal);
                    let has_token = keys.as_ref().is_some_and(|keys| !keys.session_token.0.is_empty());
                    match attempts.next(&refusal, has_token, region) {
                        Next::Give => return Err(fault),
                        Next::Again => (fault, None),
                        Next::Rest => {
                            let rest = self.gate.close(passed, retry_after, &self.waits);
                            log::warn!(bucket = self.bucket.as_str(), rest_ms = millis(rest), code = refusal.code.as_str();
                                "the object store asks for fewer requests; resting");
                            (fault, Some(()))
                        }
                        Next::Renew => {
                            let Some(used) = &keys else { return Err(fault) };
                            match self.who.renew(used, stop) {
                                Ok(Some(keys))
                                    if keys.access_key != used.access_key
                                        || keys.secret_key != used.secret_key
                                        || keys.session_token != used.session_token =>
                                {
                                    continue;
                                }
                                Ok(_) => return Err(fault),
                                Err(err) if err.kind() == Kind::Stopped => return Err(err.into()),
                                // Why there are no others, after what the store has said.
                                Err(err) => {
                                    let error = err.context(fault.error.to_string());
                                    return Err(Fault { error, ..fault });
                                }
                            }
                        }
                        Next::Move(to) => {
                            let moved = self.endpoint.in_region(&to);
                            if moved.region() != Some(to.as_str()) {
                                return Err(fault);
                            }
                            log::warn!(bucket = self.bucket.as_str(), region = to.as_str(), signed_for = region;
                                "the bucket is in another region; going on there");
                            (place, has_moved) = (moved, true);
                            continue;
                        }
                        Next::SetClock(skew_s) => {
                            self.set_clock(offset_s, skew_s);
                            continue;
                        }
                    }
                }
            };
            let Some(n_failed) = attempts.failed(attempts_max) else { return Err(fault) };
            log::debug!(bucket = self.bucket.as_str(), attempt = n_failed, err = fault.error.to_string();
                "request to the object store failed; trying again");
            // The gate waits where the store asked for a rest.
            if wait.is_none() {
                self.wait(n_failed, stop)?;
            }
        }
    }

    /// One attempt.
    fn attempt(
        &self,
        request: &Request<'_>,
        url: Signed,
        now: Timestamp,
        take: Take<'_>,
        stop: &Stop,
    ) -> Result<Result<Answer, (Refusal, Option<Duration>)>, Broken> {
        let begun = Instant::now();
        let outgoing = Outgoing { method: request.method, url, headers: &request.headers, body: request.body };
        let result = self.line.exchange(&outgoing, take, &self.pace, stop);
        if self.has_trace {
            self.trace(request, &result, begun.elapsed());
        }
        let answer = result?;
        if (200..300).contains(&answer.status) && !is_hidden_error(request, &answer) {
            return Ok(Ok(answer));
        }
        let retry_after = answer.header("retry-after").parse().ok().map(Duration::from_secs);
        Ok(Err((refusal(&answer, begun, now), retry_after)))
    }

    fn trace(&self, request: &Request<'_>, result: &Result<Answer, Broken>, time: Duration) {
        let (status, request_id) = match result {
            Ok(answer) => (answer.status.to_string(), answer.header("x-amz-request-id")),
            Err(Broken::Network(_, text)) => (text.clone(), ""),
            Err(Broken::Ours(err)) => (err.to_string(), ""),
        };
        log::debug!(operation = request.operation, method = request.method.to_str(),
            object = request.object.unwrap_or_default(), status = status, duration_ms = millis(time),
            request_id = request_id; "request to the object store");
    }

    /// What faults name.
    fn asked<'a>(&'a self, request: &Request<'a>, host: &'a str) -> Asked<'a> {
        Asked {
            operation: request.operation,
            permission: request.permission,
            bucket: &self.bucket,
            object: request.object,
            host,
            is_tls: self.is_tls,
        }
    }

    /// For errors about answers that were successes.
    pub fn altered(&self, request: &Request<'_>, text: &str) -> Error {
        self.asked(request, &authority(&self.endpoint.bucket_url())).altered(text)
    }

    /// The difference is that to the clock that was signed with; of several threads that see it, one sets it right.
    fn set_clock(&self, signed_with_s: i64, skew_s: i64) {
        let offset_s = signed_with_s.saturating_add(skew_s);
        let set = self.offset_s.compare_exchange(signed_with_s, offset_s, Ordering::Relaxed, Ordering::Relaxed);
        if set.is_ok() {
            log::warn!(bucket = self.bucket.as_str(), difference_seconds = offset_s;
                "this host's clock differs from the object store's; signing with the store's time. Synchronise the clock");
        }
    }

    /// The endpoint in the bucket's region, which is asked for once.
    ///
    /// `Source:` minio-go `bucket-cache.go`.
    fn place(&self, stop: &Stop) -> Result<Endpoint, Fault> {
        if let Some(place) = &*self.place.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(place.clone());
        }
        let request = Request::new("GetBucketLocation", "s3:GetBucketLocation", Method::Get, None).with("location", "");
        let take = Take::Held(limits::S3_XML_BYTES_MAX);
        let asked = self.ask_at(&request, self.endpoint.clone(), self.attempts_max, take, stop);
        let mut moved = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        // The attempts may have been led to the region already.
        if let Some(place) = &*moved {
            return Ok(place.clone());
        }
        let region = match asked {
            Ok(answer) => xml::location(&answer.body)?,
            // Who may not ask, and a store that cannot answer, get the oldest region, from which others lead on.
            Err(fault)
                if matches!(fault.status, 400 | 403 | 405 | 501)
                    && fault.error.class() != "credentials"
                    && fault.error.class() != "clock" =>
            {
                log::debug!(bucket = self.bucket.as_str(), err = fault.error.to_string();
                    "cannot ask for the bucket's region; assuming us-east-1");
                FIRST_REGION.to_owned()
            }
            Err(fault) => return Err(fault),
        };
        let place = self.endpoint.in_region(&region);
        *moved = Some(place.clone());
        Ok(place)
    }
}

fn url(place: &Endpoint, request: &Request<'_>) -> Url {
    match request.object {
        Some(object) => place.object_url(object),
        None if request.operation == "GetBucketLocation" => place.location_url(),
        None => place.bucket_url(),
    }
}

/// Whether a success carries an error: some stores find out what is wrong after they have said 200. The content of an
/// object is nobody's error.
fn is_hidden_error(request: &Request<'_>, answer: &Answer) -> bool {
    let is_small = answer.body.len() as u64 <= limits::ERROR_BODY_BYTES_MAX;
    is_small && request.operation != "GetObject" && xml::error(&answer.body).is_some()
}

/// What an answer that is no success says.
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
    }
}

/// The store's clock minus the one that signed, a request ago; 0 where the answer has no date.
fn skew(date: &str, begun: Instant, signed_at: Timestamp) -> i64 {
    let Ok(theirs) = jiff::fmt::rfc2822::parse(date) else { return 0 };
    let ours = signed_at.as_second().saturating_add(i64::try_from(begun.elapsed().as_secs()).unwrap_or_default());
    theirs.timestamp().as_second().saturating_sub(ours)
}

/// The text of an answer that is not S3's, such as a proxy's.
fn plain_words(answer: &Answer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let mut is_tag = false;
    let words: String = text
        .chars()
        .filter_map(|c| {
            match c {
                '<' => is_tag = true,
                '>' => {
                    is_tag = false;
                    return Some(' ');
                }
                c if !is_tag => return Some(c),
                _ => {}
            }
            None
        })
        .collect();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
