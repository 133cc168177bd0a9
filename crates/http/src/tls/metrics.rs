//! The metrics of a TLS server: handles that the daemon registers under their names. Moves nothing itself.
//!
//! Fields are named after their metrics, so they carry no further docs.

#![allow(missing_docs)]

use prometheus::{Gauge, IntCounter, IntGauge};

const WHY: &str = "these names are valid";

/// Metrics of one server's certificate and of the handshakes with it.
#[derive(Debug, Clone)]
pub struct TlsMetrics {
    /// When the certificate in use ends, in seconds since 1970. The days that are left are
    /// `(this - time()) / 86400`.
    pub not_after_timestamp_seconds: Gauge,
    /// 1 while what lies in the files is what is used, 0 while the files are bad and older ones are used.
    pub reload_successful: IntGauge,
    /// Files that were read again and could not be used.
    pub reloads_failed: IntCounter,
    /// Handshakes that were completed.
    pub handshakes: IntCounter,
    /// Handshakes that failed, by the client's fault or ours.
    pub handshakes_failed: IntCounter,
}

impl Default for TlsMetrics {
    /// Handles that nobody scrapes.
    fn default() -> Self {
        let counter = |name: &str| IntCounter::new(name, name).expect(WHY);
        TlsMetrics {
            not_after_timestamp_seconds: Gauge::new("not_after", "not_after").expect(WHY),
            reload_successful: IntGauge::new("reload_successful", "reload_successful").expect(WHY),
            reloads_failed: counter("reloads_failed"),
            handshakes: counter("handshakes"),
            handshakes_failed: counter("handshakes_failed"),
        }
    }
}
