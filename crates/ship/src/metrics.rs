//! The shipper's metrics: handles that the daemon registers under their names. Never registers anything.
//!
//! Fields are named after their metrics, so they carry no further docs.

#![allow(missing_docs)]

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts};

use crate::backlog::Backlog;
use crate::lag::ShippingLag;

const WHY: &str = "these names are valid";

/// The classes of failures, as [`pillion_base::error::Error::class`] returns them.
pub const FAILURE_CLASSES: [&str; 16] = [
    "network",
    "throttled",
    "denied",
    "credentials",
    "clock",
    "certificate",
    "no_bucket",
    "server",
    "integrity",
    "transient",
    "permanent",
    "missing",
    "limit",
    "corrupt",
    "disk",
    "unreadable",
];

/// The metrics of the shipper; registered only when a bucket is configured, as in Thanos.
#[derive(Clone)]
pub struct ShipMetrics {
    pub dir_syncs: IntCounter,
    pub dir_sync_failures: IntCounter,
    pub uploads: IntCounter,
    pub upload_failures: IntCounter,
    pub corrupted_blocks: IntCounter,
    pub upload_compacted_done: IntGauge,
    /// This one and those below are Pillion's own.
    pub pending_blocks: IntGauge,
    pub pending_bytes: IntGauge,
    pub oldest_pending_age_seconds: Gauge,
    pub oldest_pending_retention_seconds: Gauge,
    pub claimed_bytes: IntGauge,
    pub claims_given_up: IntCounter,
    pub stand_in_blocks: IntCounter,
    pub quarantined_blocks: IntGauge,
    /// Label `class`: one of [`FAILURE_CLASSES`].
    pub failures: IntCounterVec,
    pub resumed_bytes: IntCounter,
    pub upload_rate_limit_bytes: IntGauge,
    pub last_success_timestamp_seconds: Gauge,
}

impl ShipMetrics {
    /// Sets the metrics to what waits to be shipped and what has happened since the start.
    pub(crate) fn update(&self, backlog: &Backlog, lag: &ShippingLag) {
        let int = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.pending_blocks.set(int(backlog.pending.len() as u64));
        self.pending_bytes.set(int(backlog.bytes()));
        self.oldest_pending_age_seconds.set(lag.oldest_age_s);
        self.oldest_pending_retention_seconds.set(lag.retention_left_s);
        self.claimed_bytes.set(int(backlog.claimed_bytes));
        self.quarantined_blocks.set(int(backlog.quarantined.len() as u64));
        grow(&self.claims_given_up, backlog.n_given_up);
        grow(&self.resumed_bytes, backlog.resumed_bytes);
        let mut failures = FAILURE_CLASSES.map(|class| (class, 0_u64));
        for (class, number) in &backlog.failures {
            // A class without a counter of its own counts as transient, so that no failure is lost and no label is made
            // up.
            let known = if FAILURE_CLASSES.contains(class) { class } else { "transient" };
            for (_, sum) in failures.iter_mut().filter(|(name, _)| *name == known) {
                *sum += number;
            }
        }
        for (class, sum) in failures {
            grow(&self.failures.with_label_values(&[class]), sum);
        }
        if let Some(last) = backlog.last_upload {
            self.last_success_timestamp_seconds.set(last.as_millisecond() as f64 / 1000.0);
        }
    }
}

/// Brings a counter up to a sum that only grows.
fn grow(counter: &IntCounter, sum: u64) {
    counter.inc_by(sum.saturating_sub(counter.get()));
}

impl Default for ShipMetrics {
    /// Handles that are not registered.
    fn default() -> Self {
        let counter = |name: &str| IntCounter::new(name, name).expect(WHY);
        let int_gauge = |name: &str| IntGauge::new(name, name).expect(WHY);
        let gauge = |name: &str| Gauge::new(name, name).expect(WHY);
        ShipMetrics {
            dir_syncs: counter("dir_syncs"),
            dir_sync_failures: counter("dir_sync_failures"),
            uploads: counter("uploads"),
            upload_failures: counter("upload_failures"),
            corrupted_blocks: counter("corrupted_blocks"),
            upload_compacted_done: int_gauge("upload_compacted_done"),
            pending_blocks: int_gauge("pending_blocks"),
            pending_bytes: int_gauge("pending_bytes"),
            oldest_pending_age_seconds: gauge("oldest_pending_age"),
            oldest_pending_retention_seconds: gauge("oldest_pending_retention"),
            claimed_bytes: int_gauge("claimed_bytes"),
            claims_given_up: counter("claims_given_up"),
            stand_in_blocks: counter("stand_in_blocks"),
            quarantined_blocks: int_gauge("quarantined_blocks"),
            failures: IntCounterVec::new(Opts::new("failures", "failures"), &["class"]).expect(WHY),
            resumed_bytes: counter("resumed_bytes"),
            upload_rate_limit_bytes: int_gauge("upload_rate_limit_bytes"),
            last_success_timestamp_seconds: gauge("last_success_timestamp"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::error::{Error, Kind};
    use std::collections::BTreeMap;

    #[test]
    fn failures_are_counted_by_class_and_unknown_classes_make_no_label() {
        let ship = ShipMetrics::default();
        let failures = BTreeMap::from([("throttled", 2), ("transient", 1), ("made up", 3), ("new", 4)]);
        let mut backlog = Backlog { failures, n_given_up: 2, resumed_bytes: 7, ..Backlog::default() };
        let lag = ShippingLag::new(&[], 0, None);
        let count = |class: &str| ship.failures.with_label_values(&[class]).get();
        // The backlog has sums since the start: shown twice, counted once.
        for _ in 0..2 {
            ship.update(&backlog, &lag);
            assert_eq!((count("throttled"), count("transient"), count("network")), (2, 8, 0));
            assert_eq!((ship.claims_given_up.get(), ship.resumed_bytes.get()), (2, 7));
        }
        assert_eq!(ship.last_success_timestamp_seconds.get().to_string(), "0");
        backlog.failures.insert("throttled", 5);
        backlog.last_upload = jiff::Timestamp::from_millisecond(1_500).ok();
        ship.update(&backlog, &lag);
        assert_eq!((count("throttled"), ship.last_success_timestamp_seconds.get().to_string().as_str()), (5, "1.5"));
        // Every kind of failure has a counter; work that was stopped has not failed.
        for kind in [Kind::Retry, Kind::Permanent, Kind::NotFound, Kind::Limit, Kind::BadRequest, Kind::Corrupt] {
            assert!(FAILURE_CLASSES.contains(&Error::new(kind, "x").class()), "{kind:?}");
        }
    }
}
