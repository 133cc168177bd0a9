//! One HTTP exchange for credentials, with limits of time and size. It never follows a redirect. Services on this host
//! or link are asked directly, others through the proxy of the environment.
//!
//! Its waits end with the stop that was given to [`until_stopped`](super::wire::until_stopped).

use std::time::Duration;

use ureq::http::{Method, Request};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::{Agent, Proxy};
use url::{Position, Url};

use super::{Env, exchange, wire};
use crate::limits;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_http::client as http;

/// A whole answer.
pub(crate) struct HttpAnswer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// The body as text, with what is not UTF-8 replaced.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no answer.
pub(crate) struct Failure {
    /// The answer did not come in time.
    pub is_timeout: bool,
    /// The service cannot be reached.
    pub is_unreachable: bool,
    pub err: Error,
}

/// Sends one request, without retries.
///
/// `Blocks:` up to `timeout`.
pub(crate) fn ask(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    timeout: Duration,
    proxy: Option<Proxy>,
) -> Result<HttpAnswer, Failure> {
    let broken = |err: Error| Failure { is_timeout: false, is_unreachable: false, err };
    let tls = match url.starts_with("https:") {
        true => Some(http::system_tls().map_err(broken)?),
        false => None,
    };
    let settings = http::settings(http::USER_AGENT, tls.as_ref(), Some(timeout), proxy);
    let agent = Agent::with_parts(settings, wire::connector(), DefaultResolver::default());
    let mut request = Request::builder().method(method.clone()).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    // The error does not quote what cannot be sent: a header may hold a token.
    let unfit = |_| broken(Error::new(Kind::Permanent, "the URL or a header has characters that cannot be sent"));
    let answered = if method == Method::GET {
        let request = request.body(()).map_err(unfit)?;
        agent.run(agent.configure_request(request).max_redirects(0).max_redirects_will_error(false).build())
    } else {
        let request = request.body(body).map_err(unfit)?;
        agent.run(agent.configure_request(request).max_redirects(0).max_redirects_will_error(false).build())
    };
    let answer = answered.map_err(|err| Failure {
        is_timeout: matches!(err, ureq::Error::Timeout(_)),
        is_unreachable: matches!(err, ureq::Error::Io(_) | ureq::Error::ConnectionFailed | ureq::Error::HostNotFound),
        err: http::transport(err),
    })?;
    let status = answer.status().as_u16();
    let body = http::read_body(answer.into_body(), limits::CREDENTIALS_BYTES_MAX, "the answer").map_err(broken)?;
    Ok(HttpAnswer { status, body })
}

/// As [`ask`], for a peer that must exist. `is_near`: it is asked without a proxy.
pub(crate) fn ask_present(
    env: &Env,
    is_near: bool,
    method: Method,
    url: &Url,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<HttpAnswer> {
    let proxy = if is_near { None } else { exchange::proxy(url, &**env)? };
    ask(method, url.as_str(), headers, body, limits::CREDENTIALS_TIMEOUT, proxy).map_err(|failure| failure.err).context(
        || {
            format!(
                "ask {} (time-out {:?})",
                &url[Position::BeforeHost..Position::AfterPort],
                limits::CREDENTIALS_TIMEOUT
            )
        },
    )
}

/// The kind of error for a refusal: whether a later request may succeed.
pub(crate) fn kind(status: u16) -> Kind {
    if matches!(status, 408 | 429 | 500..) { Kind::Retry } else { Kind::Permanent }
}
