//! The HTTP client's settings, the same for everything that is asked over HTTP: blocking, with time-outs, the system's
//! certificate authorities, no surprise proxies.

mod access;
mod forward;
mod gather;
mod late;
mod lines;
mod secure;
mod socket;
mod tcp;
mod watched;
mod yaml;

use std::sync::Arc;
use std::time::Duration;

use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use ureq::{Agent, Proxy};

use crate::limits;
use crate::tls::system_certificates;
pub use access::{Access, basic};
pub use lines::{Line, Lines, OwnLine};
use pillion_base::error::{Context, Error, Kind, Result};
pub use tcp::{Connection, Tcp, before_waits, until_stopped};
pub use yaml::{ClientConfig, tls_config};

/// What this daemon calls itself.
pub const USER_AGENT: &str = concat!("Pillion/", env!("CARGO_PKG_VERSION"));

/// TLS settings that trust the system's certificate authorities, a company's own among them.
///
/// `Errors:` `Permanent` when no bundle can be read; it says which package brings one.
pub fn system_tls() -> Result<TlsConfig> {
    let certs = system_certificates()?.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    Ok(TlsConfig::builder().root_certs(RootCerts::Specific(Arc::new(certs))).build())
}

/// What an agent is made of. Status codes are answers, not errors; `timeout` bounds a whole exchange, none means that
/// something else ends it.
pub fn settings(
    user_agent: &str,
    tls: Option<&TlsConfig>,
    timeout: Option<Duration>,
    proxy: Option<Proxy>,
) -> ureq::config::Config {
    config(user_agent, tls, timeout, proxy).build()
}

fn config(
    user_agent: &str,
    tls: Option<&TlsConfig>,
    timeout: Option<Duration>,
    proxy: Option<Proxy>,
) -> ConfigBuilder<AgentScope> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(user_agent)
        .proxy(proxy)
        .timeout_connect(Some(limits::CONNECT_TIMEOUT))
        .timeout_resolve(Some(limits::CONNECT_TIMEOUT))
        .timeout_global(timeout)
        .input_buffer_size(limits::HTTP_CLIENT_BUFFER_BYTES)
        .output_buffer_size(limits::HTTP_CLIENT_BUFFER_BYTES);
    match tls {
        Some(tls) => config.tls_config(tls.clone()),
        None => config,
    }
}

/// A transport error as this daemon sees it: nearly always worth another try.
pub fn transport(err: ureq::Error) -> Error {
    let kind = match &err {
        ureq::Error::BadUri(_) | ureq::Error::TlsRequired | ureq::Error::Rustls(_) => Kind::Permanent,
        // Certificate errors arrive as this.
        ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => Kind::Permanent,
        _ => Kind::Retry,
    };
    Error::new(kind, err.to_string())
}

/// At most `limit` bytes of a body; more is an error. `what` names the body.
pub fn read_body(body: ureq::Body, limit: u64, what: &str) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    body.into_reader()
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|err| Error::new(Kind::Retry, err.to_string()))
        .context(|| format!("read {what}"))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(Kind::Limit, format!("{what} is larger than {limit} bytes")));
    }
    Ok(bytes)
}
