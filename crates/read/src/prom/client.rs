//! All network to Prometheus.
//!
//! There are two kinds of exchange: the heartbeat's requests (one connection is kept, each request is bounded in time), and
//! [`Call`] for one StoreAPI call (a connection of its own for as long as it lasts, so that another thread can cut it when
//! the client goes away; then it is kept for the next call).

use std::io::{BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::Body;
use ureq::http::response::Parts;

use crate::limits;
use crate::prom::FrameReader;
use crate::prom::answers::{self, Answer};
use crate::prom::checks::Flags;
use crate::prom::listing::{self, SeriesLabels};
use crate::prom::send::{Sent, To, error_text};
use crate::prom::{advice, request};
use crate::spans::{Spans, Timed, request_name};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::secret::Secret;
use pillion_base::state::Published;
use pillion_http::client::{self as http, Access, ClientConfig, Line, Lines, OwnLine};

/// The content type of a streamed remote-read answer; parameters may follow.
const STREAMED: &str = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";
/// The content type of a sampled one, as Prometheus before 2.13 gives it; parameters may follow.
const SAMPLED: &str = "application/x-protobuf";
/// Largest sampled answer that is accepted, compressed, in bytes. Samples compress to about a half, and the decompressed
/// answer may take twice this.
const SAMPLED_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Where Prometheus is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromUrl {
    /// `http://host:port` or `https://host:port`.
    pub origin: String,
    /// Value of an `Authorization` header, from the userinfo of the URL.
    pub authorization: Option<Secret>,
    /// The path under which Prometheus lives, without a slash at its end.
    pub path: String,
    /// Query parameters of the base URL, already encoded; kept on every request.
    pub query: String,
}

impl PromUrl {
    /// The URL of an API path with these parameters.
    fn url(&self, path: &str, params: &str) -> String {
        let mut url = format!("{}{}{path}", self.origin, self.path);
        for (idx, query) in [params, &self.query].into_iter().filter(|query| !query.is_empty()).enumerate() {
            url.push(if idx == 0 { '?' } else { '&' });
            url.push_str(query);
        }
        url
    }
}

/// The client: its settings, and the heartbeat's connection.
pub struct PromClient {
    base: PromUrl,
    settings: Published<Settings>,
    /// `None` once it was interrupted. The second is what new settings have put an end to, for a request that still uses it.
    control: Mutex<Option<(Line, Option<Line>)>>,
    /// `None` once it was interrupted. The line of a reload that is under way.
    reloading: Mutex<Option<Option<Line>>>,
    control_timeout: Duration,
}

/// How Prometheus is reached.
struct Settings {
    access: Access,
    lines: Lines,
}

impl Settings {
    /// `Errors:` files that cannot be used, and for https a system without certificate authorities.
    fn new(base: &PromUrl, config: ClientConfig) -> Result<Self> {
        let access = Access::open(config, base.origin.starts_with("https:"))?;
        Ok(Settings { lines: Lines::new(http::USER_AGENT, access.clone()), access })
    }

    fn control(&self, timeout: Duration) -> Line {
        Line::new(http::USER_AGENT, &self.access, Some(timeout))
    }
}

impl PromClient {
    /// A client of the Prometheus at `base`, without a configuration; `control_timeout` bounds each request of the heartbeat.
    ///
    /// `Errors:` for https, when the system has no certificate authorities.
    pub fn new(base: PromUrl, control_timeout: Duration) -> Result<Self> {
        PromClient::with_config(base, ClientConfig::default(), control_timeout)
    }

    /// The same with a configuration.
    ///
    /// `Errors:` files of TLS that cannot be used, too.
    pub fn with_config(base: PromUrl, config: ClientConfig, control_timeout: Duration) -> Result<Self> {
        let settings = Settings::new(&base, config)?;
        let control = Mutex::new(Some((settings.control(control_timeout), None)));
        let reloading = Mutex::new(Some(None));
        Ok(PromClient { base, settings: Published::new(settings), control, reloading, control_timeout })
    }

    /// Reaches Prometheus in another way from the next request on; false where the configuration is as before. What is
    /// under way ends as it began.
    ///
    /// `Errors:` as [`PromClient::with_config`]; nothing changes then.
    pub fn set_config(&self, config: ClientConfig) -> Result<bool> {
        if *self.settings.read().access.config() == config {
            return Ok(false);
        }
        let settings = Settings::new(&self.base, config)?;
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((line, before)) = control.as_mut() {
            *before = Some(std::mem::replace(line, settings.control(self.control_timeout)));
        }
        self.settings.publish(settings);
        Ok(true)
    }

    /// Most remote reads that the configuration lets be open at once; `None` where it does not say.
    pub fn reads_max(&self) -> Option<usize> {
        self.settings.read().access.connections_max()
    }

    /// Cuts the heartbeat's request in flight, and a reload, and fails all later ones; called at the stop.
    pub fn interrupt(&self) {
        let lines = self.control.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((line, before)) = lines {
            line.cut();
            before.into_iter().for_each(Line::cut);
        }
        if let Some(Some(line)) = self.reloading.lock().unwrap_or_else(PoisonError::into_inner).take() {
            line.cut();
        }
    }

    /// One exchange for one StoreAPI call.
    pub fn call(&self) -> Call<'_> {
        let settings = self.settings.read();
        Call { base: &self.base, line: settings.lines.take(), settings, spans: None }
    }

    /// Has Prometheus load its configuration and rules, and waits until it has.
    ///
    /// `Errors:` with what Prometheus answers; of class `refused` where it cannot load them, `disabled` where it takes no such
    /// requests, `unreachable` where it is away or not ready. `Blocks:` until [`PromClient::interrupt`] at the longest.
    pub fn reload(&self) -> Result<()> {
        let settings = self.settings.read();
        // A connection of its own: a reload may take longer than a heartbeat may.
        let line = settings.control(limits::RELOAD_TIMEOUT);
        let under_way = |line: Option<Line>| {
            let mut reloading = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
            reloading.as_mut().map(|place| *place = line).ok_or_else(|| Error::new(Kind::Stopped, "stopping"))
        };
        under_way(Some(line.clone()))?;
        let to = To { line: &line, base: &self.base, access: &settings.access, headers: &[] };
        let sent = to.send(&self.base.url("/-/reload", ""), Sent::Nothing);
        under_way(None)?;
        let (head, body) = sent.map_err(|err| err.context("reload request failed").classed("unreachable"))?;
        let text = error_text(body);
        let status = head.status.as_u16();
        let (class, hint) = match status {
            200 => return Ok(()),
            403..=405 => ("disabled", Some("have you set `--web.enable-lifecycle` Prometheus flag?")),
            502..=504 => ("unreachable", None),
            // It tells its log only which rule file is wrong, and how.
            _ if text.contains("one or more errors occurred") => ("refused", Some("Prometheus's log says which")),
            _ => ("refused", advice::of_answer(status, &text)),
        };
        let said = format!("received non-200 response: {}: {text}", head.status);
        Err(refused(status, said, hint).with_kind(Kind::Retry).classed(class))
    }

    fn control(&self, path: &str) -> Result<(u16, Body)> {
        let settings = self.settings.read();
        // Nobody else looks after what calls have left.
        settings.lines.sweep();
        let line = match self.control.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            None => return Err(Error::new(Kind::Stopped, "stopping")),
            Some((line, _)) => {
                if !line.is_current() {
                    *line = settings.control(self.control_timeout);
                }
                line.clone()
            }
        };
        let to = To { line: &line, base: &self.base, access: &settings.access, headers: &[] };
        let url = self.base.url(path, "");
        let (head, body) = to.send(&url, Sent::Get).context(|| {
            format!("perform GET request against {} (time-out {:?})", redacted(&url), self.control_timeout)
        })?;
        Ok((head.status.as_u16(), body))
    }

    fn control_json<T: DeserializeOwned + Default>(&self, path: &str) -> Result<T> {
        let (status, body) = self.control(path)?;
        if status != 200 {
            let body = error_text(body);
            let kind = if matches!(status, 404 | 405) { Kind::NotFound } else { Kind::Retry };
            let said = format!("got non-200 response code: {status}, response: {body}");
            return Err(refused(status, said, advice::of_answer(status, &body)).with_kind(kind));
        }
        let body = http::read_body(body, limits::JSON_BYTES_MAX as u64, path)?;
        Ok(answers::json::<T>(&body)?.data)
    }

    /// Prometheus's flags; `None` when Prometheus is too old to give them.
    pub fn flags(&self) -> Result<Option<Flags>> {
        match self.control_json("/api/v1/status/flags") {
            Err(err) if err.kind() == Kind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Prometheus's runtime information; empty when Prometheus is too old to give it.
    pub fn runtime_info(&self) -> Result<answers::RuntimeInfo> {
        match self.control_json("/api/v1/status/runtimeinfo") {
            Err(err) if err.kind() == Kind::NotFound => Ok(answers::RuntimeInfo::default()),
            other => other,
        }
    }

    /// Prometheus's version; `0` when Prometheus is too old to give it.
    pub fn build_version(&self) -> Result<String> {
        match self.control_json::<answers::BuildInfo>("/api/v1/status/buildinfo") {
            Err(err) if err.kind() == Kind::NotFound => Ok("0".into()),
            other => other.map(|info| info.version),
        }
    }

    /// What is read of the configuration that Prometheus runs with.
    pub fn configuration(&self) -> Result<answers::Configuration> {
        let config = self.control_json::<answers::StatusConfig>("/api/v1/status/config")?;
        answers::configuration(&config.yaml)
    }

    /// The oldest time Prometheus can answer for. `Units:` ms. The page is not read past the gauge.
    pub fn lowest_timestamp(&self) -> Result<i64> {
        let (status, body) = self.control("/metrics")?;
        if status != 200 {
            let body = error_text(body);
            let said = format!("/metrics answered {status}: {body}");
            return Err(refused(status, said, advice::of_answer(status, &body)));
        }
        let page = body.into_reader().take(limits::METRICS_PAGE_BYTES_MAX);
        answers::lowest_timestamp(&mut BufReader::new(page))
    }
}

/// The answer to a remote read.
pub enum ReadAnswer<R> {
    /// Frames of chunks, to be read as they arrive.
    Streamed(FrameReader<R>),
    /// One snappy block of samples, already read.
    Sampled(Vec<u8>),
}

/// How the body of a remote-read answer is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyKind {
    Streamed,
    Sampled,
}

/// One exchange after the other with Prometheus, which can be cut from another thread. Answers are read before it is
/// dropped.
pub struct Call<'a> {
    base: &'a PromUrl,
    line: OwnLine,
    settings: Arc<Settings>,
    spans: Option<&'a dyn Spans>,
}

impl<'a> Call<'a> {
    /// The same, with each of its requests recorded and told whose it is.
    pub fn traced(self, spans: Option<&'a dyn Spans>) -> Self {
        Call { spans, ..self }
    }
}

impl Call<'_> {
    fn send(&self, url: &str, sent: Sent<'_>, span: &mut Timed) -> Result<(Parts, Body)> {
        let (line, access) = (self.line.line(), &self.settings.access);
        let is_post = !matches!(sent, Sent::Get);
        span.text("http.method", || if is_post { "POST" } else { "GET" }.into());
        let outcome = To { line, base: self.base, access, headers: &span.headers() }.send(url, sent);
        if let Ok((head, _)) = &outcome {
            span.number("http.status_code", head.status.as_u16().into());
        }
        outcome
    }

    /// Returns a function that cuts this exchange, from any thread and at any time.
    pub(crate) fn cutter(&self) -> impl Fn() + Send + Sync + 'static {
        self.line.cutter()
    }

    /// Asks a JSON endpoint.
    ///
    /// `Errors:` by HTTP status: 400 `BadRequest`, 404 `NotFound`, 503 and a broken connection `Retry`, else `Permanent`.
    pub fn json<T: DeserializeOwned + Default>(&self, path: &str, params: &[(&str, String)]) -> Result<Answer<T>> {
        let (span, body) = self.ask(path, params)?;
        span.end(http::read_body(body, limits::JSON_BYTES_MAX as u64, path).and_then(|body| answers::json(&body)))
    }

    /// Asks a JSON endpoint for a list of strings and calls `each` with them while they arrive; returns the warnings.
    ///
    /// `Errors:` as [`Call::json`], and those of `each`.
    pub(crate) fn each_string(
        &self,
        path: &str,
        params: &[(&str, String)],
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Vec<String>> {
        let (span, body) = self.ask(path, params)?;
        span.end(listing::each_string(body.into_reader(), each))
    }

    /// As [`Call::each_string`], for a list of series.
    pub(crate) fn each_series(
        &self,
        path: &str,
        params: &[(&str, String)],
        each: &mut dyn FnMut(&SeriesLabels) -> Result<()>,
    ) -> Result<Vec<String>> {
        let (span, body) = self.ask(path, params)?;
        span.end(listing::each_series(body.into_reader(), each))
    }

    /// Asks, and turns an answer that is not 2xx into an error.
    fn ask(&self, path: &str, params: &[(&str, String)]) -> Result<(Timed, Body)> {
        let mut span = Timed::request(self.spans, request_name(path));
        match self.asked(path, params, &mut span) {
            Ok(body) => Ok((span, body)),
            Err(err) => span.end(Err(err)),
        }
    }

    fn asked(&self, path: &str, params: &[(&str, String)], span: &mut Timed) -> Result<Body> {
        let query = request::query_string(params);
        let is_form = query.len() > limits::QUERY_BYTES_MAX && takes_form(path);
        // Without the query of the base URL, which may carry a token.
        span.text("http.url", || format!("{}{}{path}?{query}", self.base.origin, self.base.path));
        let (head, body) = if is_form {
            self.send(&self.base.url(path, ""), Sent::Form(&query), span)
        } else {
            self.send(&self.base.url(path, &query), Sent::Get, span)
        }
        .context(|| format!("perform {} request against {path}", if is_form { "POST" } else { "GET" }))?;
        let status = head.status.as_u16();
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let kind = match status {
            400 => Kind::BadRequest,
            404 => Kind::NotFound,
            503 => Kind::Retry,
            _ => Kind::Permanent,
        };
        let text = error_text(body);
        let said = format!("expected 2xx response, got {status}. Body: {text}");
        Err(refused(status, said, advice::of_answer(status, &text)).with_kind(kind))
    }

    /// Starts a remote read. A sampled answer is read to its end here, a streamed one by the caller, through what `hold`
    /// makes of its body.
    ///
    /// `Errors:` `Permanent` for an answer of another kind than asked for, `Limit` for a sampled one that is too large to
    /// be held, else as [`Call::json`].
    pub fn read<R: Read>(
        &self,
        body: &[u8],
        hold: impl FnOnce(Box<dyn Read + Send>) -> R,
    ) -> Result<ReadAnswer<BufReader<R>>> {
        self.read_within(&mut Timed::default(), body, hold)
    }

    /// The same, as this part of the call.
    pub(crate) fn read_within<R: Read>(
        &self,
        span: &mut Timed,
        body: &[u8],
        hold: impl FnOnce(Box<dyn Read + Send>) -> R,
    ) -> Result<ReadAnswer<BufReader<R>>> {
        let url = self.base.url("/api/v1/read", "");
        span.text("http.url", || redacted(&url).to_owned());
        let (head, body) =
            self.send(&url, Sent::Read(body), span).context(|| format!("send request: Post {:?}", redacted(&url)))?;
        if !head.status.is_success() {
            let text = error_text(body);
            let kind = match head.status.as_u16() {
                400 => Kind::BadRequest,
                // What Prometheus says of a matcher whose pattern does not compile.
                500 if text.contains("error parsing regexp") => Kind::BadRequest,
                503 => Kind::Retry,
                _ => Kind::Permanent,
            };
            let said = format!("request failed with code {}; msg {text}", head.status);
            return Err(
                refused(head.status.as_u16(), said, advice::of_answer(head.status.as_u16(), &text)).with_kind(kind)
            );
        }
        let content_type = head.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("");
        match body_kind(content_type)? {
            BodyKind::Streamed => {
                // Lengths and checksums are read in small pieces.
                let body = BufReader::with_capacity(limits::READ_BUFFER_BYTES, hold(Box::new(body.into_reader())));
                Ok(ReadAnswer::Streamed(FrameReader::new(body, limits::FRAME_BYTES_MAX)))
            }
            BodyKind::Sampled => http::read_body(body, SAMPLED_BYTES_MAX, "Prometheus's sampled answer")
                .context(|| "copy response")
                .map(ReadAnswer::Sampled),
        }
    }
}

/// `Errors:` `Permanent` for a content type that is neither. `Source:` Thanos compares prefixes, too.
fn body_kind(content_type: &str) -> Result<BodyKind> {
    if content_type.starts_with(STREAMED) {
        return Ok(BodyKind::Streamed);
    }
    if content_type.starts_with(SAMPLED) {
        return Ok(BodyKind::Sampled);
    }
    Err(Error::new(Kind::Permanent, format!("not supported remote read content type: {content_type}")))
}

/// Whether an endpoint also takes its parameters as a form, which may have any length.
fn takes_form(path: &str) -> bool {
    matches!(path, "/api/v1/series" | "/api/v1/labels" | "/api/v1/query_exemplars")
}

/// The error of an answer, with what to change where that is known.
fn refused(status: u16, said: String, advice: Option<&str>) -> Error {
    let kind = if status == 503 { Kind::Retry } else { Kind::Permanent };
    match advice {
        Some(advice) => Error::new(kind, format!("{said}; {advice}")),
        None => Error::new(kind, said),
    }
}

/// The URL without its query, which may carry a token.
fn redacted(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_keep_base_path_and_query() {
        let base = |path: &str, query: &str| PromUrl {
            origin: "http://p:9090".into(),
            authorization: None,
            path: path.into(),
            query: query.into(),
        };
        assert_eq!(base("", "").url("/metrics", ""), "http://p:9090/metrics");
        assert_eq!(base("/sub", "").url("/api/v1/labels", "a=b"), "http://p:9090/sub/api/v1/labels?a=b");
        assert_eq!(base("/sub", "t=1").url("/x", "a=b"), "http://p:9090/sub/x?a=b&t=1");
    }

    #[test]
    fn content_types_of_remote_read() {
        let check = |content_type: &str, expected: BodyKind| assert_eq!(body_kind(content_type).unwrap(), expected);
        check("application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse", BodyKind::Streamed);
        check("application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse; x=y", BodyKind::Streamed);
        check("application/x-protobuf", BodyKind::Sampled);
        check("application/x-protobuf; charset=utf-8", BodyKind::Sampled);
        for other in ["", "text/html", "application/x-streamed-protobuf", "application/protobuf"] {
            let err = body_kind(other).unwrap_err();
            let expected = format!("not supported remote read content type: {other}");
            assert_eq!((err.kind(), err.to_string()), (Kind::Permanent, expected));
        }
    }
}
