//! The settings of the HTTP client of a store, which `crate::config` reads from YAML. Pure.

use std::path::PathBuf;
use std::time::Duration;

use crate::limits;

/// Settings of the HTTP client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// How long an idle connection is kept.
    pub idle_conn_timeout: Duration,
    /// From the end of a request to the head of its answer.
    pub response_header_timeout: Duration,
    /// Time to establish a connection, before TLS.
    pub connect_timeout: Duration,
    /// Limit of connecting and the TLS handshake together.
    pub tls_handshake_timeout: Duration,
    /// Do not check certificates.
    pub insecure_skip_verify: bool,
    /// Idle connections kept in all.
    pub max_idle_conns: usize,
    /// Idle connections kept to one host.
    pub max_idle_conns_per_host: usize,
    /// Open connections to one host; 0 is no limit.
    pub max_conns_per_host: usize,
    /// Certificate authorities that replace the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have; empty for the endpoint's host.
    pub server_name: String,
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            idle_conn_timeout: Duration::from_secs(90),
            response_header_timeout: Duration::from_secs(120),
            connect_timeout: limits::STORE_CONNECT_TIMEOUT,
            tls_handshake_timeout: Duration::from_secs(10),
            insecure_skip_verify: false,
            max_idle_conns: 100,
            max_idle_conns_per_host: 100,
            max_conns_per_host: 0,
            ca_file: None,
            client_cert: None,
            server_name: String::new(),
        }
    }
}
