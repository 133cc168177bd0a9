//! All network to Prometheus.
//!
//! There are two kinds of exchange: the heartbeat's requests (one connection is kept, each request is bounded in time), and
//! [`Call`] for one StoreAPI call (a connection of its own, so that another thread can cut it when the client goes away).

use std::io::{BufReader, Read};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

use crate::limits;
use crate::prom::FrameReader;
use crate::prom::answers::{self, Answer};
use crate::prom::checks::Flags;
use crate::prom::listing;
use crate::prom::request;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_http::client as http;

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
    pub authorization: Option<String>,
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
    tls: Option<TlsConfig>,
    control: Mutex<Option<Agent>>,
    control_timeout: Duration,
}

impl PromClient {
    /// A client of the Prometheus at `base`; `control_timeout` bounds each request of the heartbeat.
    ///
    /// `Errors:` for https, when the system has no certificate authorities.
    pub fn new(base: PromUrl, control_timeout: Duration) -> Result<Self> {
        let tls = if base.origin.starts_with("https:") { Some(http::system_tls()?) } else { None };
        let control = http::agent(http::USER_AGENT, tls.as_ref(), Some(control_timeout));
        Ok(PromClient { base, tls, control: Mutex::new(Some(control)), control_timeout })
    }

    /// Cuts the heartbeat's request in flight and fails all later ones; called at the stop.
    pub fn interrupt(&self) {
        if let Some(agent) = self.control.lock().unwrap_or_else(PoisonError::into_inner).take() {
            agent.shutdown();
        }
    }

    /// One exchange for one StoreAPI call.
    pub fn call(&self) -> Call<'_> {
        Call { base: &self.base, agent: http::agent(http::USER_AGENT, self.tls.as_ref(), None) }
    }

    fn control(&self, path: &str) -> Result<(u16, Body)> {
        let agent = self.control.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(agent) = agent else { return Err(Error::new(Kind::Stopped, "stopping")) };
        let url = self.base.url(path, "");
        get(&agent, &self.base, &url)
            .context(|| format!("perform GET request against {url} (time-out {:?})", self.control_timeout))
    }

    fn control_json<T: DeserializeOwned + Default>(&self, path: &str) -> Result<T> {
        let (status, body) = self.control(path)?;
        if status != 200 {
            let body = error_text(body);
            let kind = if matches!(status, 404 | 405) { Kind::NotFound } else { Kind::Retry };
            return Err(Error::new(kind, format!("got non-200 response code: {status}, response: {body}")));
        }
        let body = http::read_body(body, limits::JSON_BYTES_MAX, path)?;
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
            return Err(Error::new(Kind::Retry, format!("/metrics answered {status}: {body}")));
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

/// One exchange with Prometheus that can be cut from another thread.
pub struct Call<'a> {
    base: &'a PromUrl,
    agent: Agent,
}

impl Call<'_> {
    /// Returns a function that cuts this exchange, from any thread and at any time.
    pub(crate) fn cutter(&self) -> impl Fn() + Send + Sync + 'static {
        let agent = self.agent.clone();
        move || agent.clone().shutdown()
    }

    /// Asks a JSON endpoint.
    ///
    /// `Errors:` by HTTP status: 400 `BadRequest`, 404 `NotFound`, 503 and a broken connection `Retry`, else `Permanent`.
    pub fn json<T: DeserializeOwned + Default>(&self, path: &str, params: &[(&str, String)]) -> Result<Answer<T>> {
        let (_, body) = self.ask(path, params)?;
        answers::json(&http::read_body(body, limits::JSON_BYTES_MAX, path)?)
    }

    /// Asks a JSON endpoint for a list and calls `each` with its items while they arrive; returns the warnings.
    ///
    /// `Errors:` as [`Call::json`], and those of `each`.
    pub(crate) fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        params: &[(&str, String)],
        each: &mut dyn FnMut(T) -> Result<()>,
    ) -> Result<Vec<String>> {
        let (status, body) = self.ask(path, params)?;
        if status == 204 {
            return Ok(Vec::new());
        }
        listing::for_each_item(BufReader::with_capacity(limits::READ_BUFFER_BYTES, body.into_reader()), each)
    }

    /// Asks, and turns an answer that is not 2xx into an error.
    fn ask(&self, path: &str, params: &[(&str, String)]) -> Result<(u16, Body)> {
        let query = request::query_string(params);
        let (status, body) = if query.len() > limits::QUERY_BYTES_MAX && takes_form(path) {
            post_form(&self.agent, self.base, &self.base.url(path, ""), &query)
        } else {
            get(&self.agent, self.base, &self.base.url(path, &query))
        }
        .context(|| format!("perform GET request against {path}"))?;
        if (200..300).contains(&status) {
            return Ok((status, body));
        }
        let kind = match status {
            400 => Kind::BadRequest,
            404 => Kind::NotFound,
            503 => Kind::Retry,
            _ => Kind::Permanent,
        };
        Err(Error::new(kind, format!("expected 2xx response, got {status}. Body: {}", error_text(body))))
    }

    /// Starts a remote read. A sampled answer is read to its end here, a streamed one by the caller.
    ///
    /// `Errors:` `Permanent` for an answer of another kind than asked for, `Limit` for a sampled one that is too large to
    /// be held, else as [`Call::json`].
    pub fn read(&self, body: &[u8]) -> Result<ReadAnswer<impl Read + use<>>> {
        let url = self.base.url("/api/v1/read", "");
        let mut request = self
            .agent
            .post(&url)
            .header("Content-Encoding", "snappy")
            .header("Content-Type", "application/x-stream-protobuf")
            .header("X-Prometheus-Remote-Read-Version", "0.1.0");
        if let Some(authorization) = &self.base.authorization {
            request = request.header("Authorization", authorization);
        }
        let response = request
            .send(body)
            .map_err(http::transport)
            .context(|| format!("send request: Post {:?}", redacted(&url)))?;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            let text = error_text(body);
            let kind = match head.status.as_u16() {
                400 => Kind::BadRequest,
                // What Prometheus says of a matcher whose pattern does not compile.
                500 if text.contains("error parsing regexp") => Kind::BadRequest,
                503 => Kind::Retry,
                _ => Kind::Permanent,
            };
            return Err(Error::new(kind, format!("request failed with code {}; msg {text}", head.status)));
        }
        let content_type = head.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("");
        match body_kind(content_type)? {
            BodyKind::Streamed => {
                // Lengths and checksums are read in small pieces.
                let body = BufReader::with_capacity(limits::READ_BUFFER_BYTES, body.into_reader());
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

fn get(agent: &Agent, base: &PromUrl, url: &str) -> Result<(u16, Body)> {
    let mut request = agent.get(url);
    if let Some(authorization) = &base.authorization {
        request = request.header("Authorization", authorization);
    }
    answer(request.call())
}

/// Whether an endpoint also takes its parameters as a form, which may have any length.
fn takes_form(path: &str) -> bool {
    matches!(path, "/api/v1/series" | "/api/v1/labels" | "/api/v1/query_exemplars")
}

fn post_form(agent: &Agent, base: &PromUrl, url: &str, form: &str) -> Result<(u16, Body)> {
    let mut request = agent.post(url).header("Content-Type", "application/x-www-form-urlencoded");
    if let Some(authorization) = &base.authorization {
        request = request.header("Authorization", authorization);
    }
    answer(request.send(form))
}

fn answer(response: std::result::Result<ureq::http::Response<Body>, ureq::Error>) -> Result<(u16, Body)> {
    let (head, body) = response.map_err(http::transport)?.into_parts();
    Ok((head.status.as_u16(), body))
}

/// The text of an error body, cut to fit a log line or a status message.
fn error_text(body: Body) -> String {
    let mut bytes = Vec::new();
    // The part of a body that did arrive is still worth showing.
    let _ = body.into_reader().take(limits::ERROR_BODY_BYTES_MAX).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
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
