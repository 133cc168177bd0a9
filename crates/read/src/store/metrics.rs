//! The metrics of Series calls: handles that the daemon registers under their names.
//!
//! Fields are named after their metrics, so they carry no further docs.

#![allow(missing_docs)]

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts};

const WHY: &str = "these names are valid";

/// The metrics of Series calls.
#[derive(Clone)]
pub struct StoreMetrics {
    pub received_frames: Histogram,
    pub series_requested: Histogram,
    pub chunks_requested: Histogram,
    pub pending_series_requests: IntGauge,
    /// Label `reason`: `series` or `chunks`.
    pub selects_dropped: IntCounterVec,
    pub working_calls: IntGauge,
    pub calls_waiting_for_prometheus: IntGauge,
}

impl Default for StoreMetrics {
    /// Handles that nobody scrapes.
    fn default() -> Self {
        let histogram = |name: &str| Histogram::with_opts(HistogramOpts::new(name, name)).expect(WHY);
        StoreMetrics {
            received_frames: histogram("received_frames"),
            series_requested: histogram("series_requested"),
            chunks_requested: histogram("chunks_requested"),
            pending_series_requests: IntGauge::new("pending", "pending").expect(WHY),
            selects_dropped: IntCounterVec::new(Opts::new("dropped", "dropped"), &["reason"]).expect(WHY),
            working_calls: IntGauge::new("working", "working").expect(WHY),
            calls_waiting_for_prometheus: IntGauge::new("waiting", "waiting").expect(WHY),
        }
    }
}
