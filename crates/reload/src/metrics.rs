//! The reloader's metrics: handles that the daemon registers under their names. Never registers anything.
//!
//! Fields are named after their metrics, so they carry no further docs.

#![allow(missing_docs)]

use prometheus::{Gauge, IntCounter, IntGauge, IntGaugeVec};

use pillion_base::error::Error;

/// Why a reload is due and has not happened: what [`Error::class`] says, or `other`.
pub const FAILURE_REASONS: [&str; 8] =
    ["files", "variable", "refused", "disabled", "unreachable", "process", "unconfirmed", "other"];

/// The metrics of the reloader; registered in every configuration, as in Thanos.
#[derive(Clone)]
pub struct ReloadMetrics {
    pub reloads: IntCounter,
    pub reloads_failed: IntCounter,
    pub last_reload_successful: IntGauge,
    pub last_reload_success_timestamp_seconds: Gauge,
    pub config_apply_operations: IntCounter,
    pub config_apply_operations_failed: IntCounter,
    pub config_environment_variable_expansion_errors: IntGauge,
    pub watches: IntGauge,
    pub watch_events: IntCounter,
    pub watch_errors: IntCounter,
    /// This one and those below are Pillion's own. Label `reason`: one of [`FAILURE_REASONS`].
    pub failing: IntGaugeVec,
    pub missing_paths: IntGauge,
}

impl ReloadMetrics {
    /// Shows why a reload is due and has not happened; nothing once it has.
    pub(crate) fn show_failure(&self, failure: Option<&Error>) {
        let class =
            failure.map(|err| FAILURE_REASONS.iter().find(|reason| **reason == err.class()).unwrap_or(&"other"));
        for reason in FAILURE_REASONS {
            self.failing.with_label_values(&[reason]).set(i64::from(class == Some(&reason)));
        }
    }
}
