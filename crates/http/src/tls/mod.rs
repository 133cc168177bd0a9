//! The one TLS stack, and the one place that reads PEM files: a stream that is plain or TLS ([`Wire`]), what a server
//! needs ([`ServerTls`], which reads its files again when they change) and what a client needs ([`ClientTls`]).
//!
//! It never blocks on a peer: sockets are non-blocking, and the caller polls. Sessions are never resumed, so that a new
//! certificate or a new client CA holds for every connection that begins after it.

mod client;
mod der;
mod explain;
mod metrics;
mod names;
mod pem;
mod server;
mod session;
mod verify;
mod wire;

pub use client::{ClientSettings, ClientTls, read_pair};
pub use der::{Validity, subject_alt_names, validity};
pub(crate) use explain::{Peer, explain};
pub use metrics::TlsMetrics;
pub use names::{CipherSuite, ClientAuth, Curve, Version, parse_cipher_suite, parse_curve, parse_min_version};
pub(crate) use names::{parse_client_auth, parse_yaml_version};
pub(crate) use pem::system_certificates;
pub use pem::{Pem, PemSource};
pub use rustls::pki_types::CertificateDer;
pub use server::{ServerSettings, ServerTls};
pub use wire::{Handshake, Wire};
