//! The metrics of the web configuration: handles that the daemon registers under their names. Moves nothing itself.
//!
//! Fields are named after their metrics, so they carry no further docs.

#![allow(missing_docs)]

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

use crate::tls::TlsMetrics;

const WHY: &str = "these names are valid";

/// The reasons for which a request gets no page.
pub const REFUSAL_REASONS: [&str; 4] = ["unauthorized", "wrong_passwords", "rate_limit", "busy"];

/// What the web configuration moves; registered only when there is one.
#[derive(Debug, Clone)]
pub struct WebMetrics {
    /// 1 while what lies in the file is what is used.
    pub config_reload_successful: IntGauge,
    /// Label `reason`: one of [`REFUSAL_REASONS`].
    pub refused: IntCounterVec,
    pub password_checks: IntCounter,
    pub tls: TlsMetrics,
}

impl Default for WebMetrics {
    /// Handles that nobody scrapes.
    fn default() -> Self {
        WebMetrics {
            config_reload_successful: IntGauge::new("reload_successful", "reload_successful").expect(WHY),
            refused: IntCounterVec::new(Opts::new("refused", "refused"), &["reason"]).expect(WHY),
            password_checks: IntCounter::new("password_checks", "password_checks").expect(WHY),
            tls: TlsMetrics::default(),
        }
    }
}
