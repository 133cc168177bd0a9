//! All network to Prometheus.
//!
//! Two kinds of exchange: `Control` for the heartbeat (one connection kept, bounded in time) and `Call` for one StoreAPI
//! call (a connection of its own, so that it can be cut from another thread when the client goes away).

use std::io::{BufReader, Read};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

use crate::error::{Context, Error, Kind, Result};
use crate::labels::Labels;
use crate::prom::answers::{self, Answer};
use crate::prom::checks::Flags;
use crate::prom::frames::FrameReader;
use crate::prom::listing;
use crate::prom::request;
use crate::{http, limits};

/// The content type of a streamed remote-read answer; parameters may follow.
const STREAMED: &str = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";
/// The content type of a sampled one, as Prometheus before 2.13 gives it; parameters may follow.
const SAMPLED: &str = "application/x-protobuf";
/// Largest sampled answer that is taken, compressed, in bytes. Samples compress to about a half, and twice this is what
/// the decompressed answer may take.
const SAMPLED_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Where Prometheus is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `http://host:port` or `https://host:port`.
    pub origin: String,
    /// Value of an `Authorization` header, from the userinfo of the URL.
    pub authorization: Option<String>,
    /// The path under which Prometheus lives, without a slash at its end.
    pub path: String,
    /// Query parameters of the base URL, already encoded; kept on every request.
    pub query: String,
}

impl Target {
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

/// The client: settings, and the heartbeat's connection.
pub struct Client {
    target: Target,
    tls: Option<TlsConfig>,
    control: Mutex<Option<Agent>>,
    control_timeout: Duration,
}

impl Client {
    /// A client of the Prometheus at `target`; `control_timeout` bounds each request of the heartbeat.
    ///
    /// `Errors:` for https, when the system has no certificate authorities.
    pub fn new(target: Target, control_timeout: Duration) -> Result<Self> {
        let tls = if target.origin.starts_with("https:") { Some(http::system_tls()?) } else { None };
        let control = http::agent(http::USER_AGENT, tls.as_ref(), Some(control_timeout));
        Ok(Client { target, tls, control: Mutex::new(Some(control)), control_timeout })
    }

    /// Breaks the heartbeat's request in flight; later ones fail. For the stop.
    pub fn interrupt(&self) {
        if let Some(agent) = self.control.lock().unwrap_or_else(PoisonError::into_inner).take() {
            agent.shutdown();
        }
    }

    /// One exchange for one StoreAPI call.
    pub fn call(&self) -> Call<'_> {
        Call { target: &self.target, agent: http::agent(http::USER_AGENT, self.tls.as_ref(), None) }
    }

    fn control(&self, path: &str) -> Result<(u16, Body)> {
        let agent = self.control.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(agent) = agent else { return Err(Error::new(Kind::Stopped, "stopping")) };
        let url = self.target.url(path, "");
        let (status, _, body) = get(&agent, &self.target, &url)
            .context(|| format!("perform GET request against {url} (time-out {:?})", self.control_timeout))?;
        Ok((status, body))
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

    /// Prometheus's flags; `None` when it is too old to tell.
    pub fn flags(&self) -> Result<Option<Flags>> {
        match self.control_json("/api/v1/status/flags") {
            Err(err) if err.kind() == Kind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// What Prometheus says of how it runs; empty when it is too old to tell.
    pub fn runtime_info(&self) -> Result<answers::RuntimeInfo> {
        match self.control_json("/api/v1/status/runtimeinfo") {
            Err(err) if err.kind() == Kind::NotFound => Ok(answers::RuntimeInfo::default()),
            other => other,
        }
    }

    /// Prometheus's version; `0` when it is too old to tell.
    pub fn build_version(&self) -> Result<String> {
        match self.control_json::<answers::BuildInfo>("/api/v1/status/buildinfo") {
            Err(err) if err.kind() == Kind::NotFound => Ok("0".into()),
            other => other.map(|info| info.version),
        }
    }

    /// The external labels Prometheus runs with.
    pub fn external_labels(&self) -> Result<Labels> {
        let config = self.control_json::<answers::StatusConfig>("/api/v1/status/config")?;
        answers::external_labels(&config.yaml)
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

/// What a remote read brings.
pub enum ReadAnswer<R> {
    /// Frames of chunks, still on their way.
    Streamed(FrameReader<R>),
    /// A snappy block of samples, all of it.
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
    target: &'a Target,
    agent: Agent,
}

impl Call<'_> {
    /// Cuts this exchange when called, from any thread, at any time.
    pub fn cutter(&self) -> impl Fn() + Send + Sync + 'static {
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

    /// Asks a JSON endpoint for a list and calls `each` with its items while they arrive; gives back the warnings.
    ///
    /// `Errors:` as [`Call::json`], and those of `each`.
    pub fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        params: &[(&str, String)],
        each: &mut dyn FnMut(T) -> Result<()>,
    ) -> Result<Vec<String>> {
        let (status, body) = self.ask(path, params)?;
        if status == 204 {
            return Ok(Vec::new());
        }
        listing::each(BufReader::with_capacity(limits::READ_BUFFER_BYTES, body.into_reader()), each)
    }

    /// Asks, and turns an answer that is not 2xx into an error.
    fn ask(&self, path: &str, params: &[(&str, String)]) -> Result<(u16, Body)> {
        let query = request::query_string(params);
        let (status, _, body) = if query.len() > limits::QUERY_BYTES_MAX && takes_form(path) {
            post_form(&self.agent, self.target, &self.target.url(path, ""), &query)
        } else {
            get(&self.agent, self.target, &self.target.url(path, &query))
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
        let url = self.target.url("/api/v1/read", "");
        let mut request = self
            .agent
            .post(&url)
            .header("Content-Encoding", "snappy")
            .header("Content-Type", "application/x-stream-protobuf")
            .header("X-Prometheus-Remote-Read-Version", "0.1.0");
        if let Some(authorization) = &self.target.authorization {
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

/// `Errors:` `Permanent` for a content type that is neither. `Source:` Thanos compares beginnings, too.
fn body_kind(content_type: &str) -> Result<BodyKind> {
    if content_type.starts_with(STREAMED) {
        return Ok(BodyKind::Streamed);
    }
    if content_type.starts_with(SAMPLED) {
        return Ok(BodyKind::Sampled);
    }
    Err(Error::new(Kind::Permanent, format!("not supported remote read content type: {content_type}")))
}

fn get(agent: &Agent, target: &Target, url: &str) -> Result<(u16, String, Body)> {
    let mut request = agent.get(url);
    if let Some(authorization) = &target.authorization {
        request = request.header("Authorization", authorization);
    }
    answer(request.call())
}

/// Whether an endpoint takes its parameters as a form too, which has no limit of length.
fn takes_form(path: &str) -> bool {
    matches!(path, "/api/v1/series" | "/api/v1/labels" | "/api/v1/query_exemplars")
}

fn post_form(agent: &Agent, target: &Target, url: &str, form: &str) -> Result<(u16, String, Body)> {
    let mut request = agent.post(url).header("Content-Type", "application/x-www-form-urlencoded");
    if let Some(authorization) = &target.authorization {
        request = request.header("Authorization", authorization);
    }
    answer(request.send(form))
}

fn answer(response: std::result::Result<ureq::http::Response<Body>, ureq::Error>) -> Result<(u16, String, Body)> {
    let (head, body) = response.map_err(http::transport)?.into_parts();
    let content_type = head.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("");
    Ok((head.status.as_u16(), content_type.to_owned(), body))
}

/// What an error body says, cut to a length fit for a log line or a status message.
fn error_text(body: Body) -> String {
    let mut bytes = Vec::new();
    // A body that breaks off still tells something.
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
        let target = |path: &str, query: &str| Target {
            origin: "http://p:9090".into(),
            authorization: None,
            path: path.into(),
            query: query.into(),
        };
        assert_eq!(target("", "").url("/metrics", ""), "http://p:9090/metrics");
        assert_eq!(target("/sub", "").url("/api/v1/labels", "a=b"), "http://p:9090/sub/api/v1/labels?a=b");
        assert_eq!(target("/sub", "t=1").url("/x", "a=b"), "http://p:9090/sub/x?a=b&t=1");
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
