//! Limits of Series calls: what one call may return, and what all calls together may hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::store::metrics::StoreMetrics;
use pillion_base::error::{Error, Kind, Result};

/// What one Series call may return; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PerCall {
    /// `--store.limits.request-series`
    pub series_max: u64,
    /// `--store.limits.request-samples`; a chunk counts as 120.
    pub samples_max: u64,
}

/// Samples a chunk counts as. `Source:` Thanos.
const SAMPLES_PER_CHUNK: u64 = 120;

/// Counts one call's series and chunks against its limits: while they arrive, or, where the request has a limit of its own,
/// while they are sent.
pub(super) struct Counter<'a> {
    limits: PerCall,
    metrics: &'a StoreMetrics,
    /// Series so far.
    pub n_series: u64,
    /// Chunks so far.
    pub n_chunks: u64,
}

impl<'a> Counter<'a> {
    /// Nothing counted yet.
    pub(super) fn new(limits: PerCall, metrics: &'a StoreMetrics) -> Self {
        Counter { limits, metrics, n_series: 0, n_chunks: 0 }
    }

    /// Counts one series, or one further frame of a series, which Thanos counts as another one, too.
    ///
    /// `Errors:` `Limit`, with Thanos's text. `Differs:` Thanos counts after it has read and sorted everything.
    pub(super) fn count(&mut self, n_chunks: u64) -> Result<()> {
        self.n_series += 1;
        self.n_chunks = self.n_chunks.saturating_add(n_chunks);
        let n_samples = self.n_chunks.saturating_mul(SAMPLES_PER_CHUNK);
        self.check("series", "series", self.limits.series_max, self.n_series)?;
        self.check("samples", "chunks", self.limits.samples_max, n_samples)
    }

    fn check(&self, what: &str, reason: &str, limit: u64, got: u64) -> Result<()> {
        if limit == 0 || got <= limit {
            return Ok(());
        }
        self.metrics.selects_dropped.with_label_values(&[reason]).inc();
        Err(Error::new(Kind::Limit, format!("failed to send {what}: limit {limit} violated (got {got})")))
    }
}

/// Bytes that all Series calls together may hold for sorting and batching.
#[derive(Debug, Clone)]
pub(super) struct InFlight(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes_max: AtomicUsize,
    used: AtomicUsize,
}

impl InFlight {
    /// At most `bytes_max`; 0 is no limit.
    pub(super) fn new(bytes_max: usize) -> Self {
        let in_flight = InFlight(Arc::new(Inner { bytes_max: AtomicUsize::new(0), used: AtomicUsize::new(0) }));
        in_flight.set_max(bytes_max);
        in_flight
    }

    /// At most `bytes_max` from now on; 0 is no limit. What is held already stays.
    pub(super) fn set_max(&self, bytes_max: usize) {
        let bytes_max = if bytes_max == 0 { usize::MAX } else { bytes_max };
        self.0.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// A reservation of nothing yet.
    pub(super) fn reserve(&self) -> Reservation {
        Reservation { of: self.clone(), bytes: 0 }
    }
}

/// One call's part of what may be held; given back when it is dropped.
pub(super) struct Reservation {
    of: InFlight,
    bytes: usize,
}

impl Reservation {
    /// Resizes the reservation to `bytes`; false, and nothing changes, when all calls together would hold too much.
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        let inner = &self.of.0;
        if bytes <= self.bytes {
            inner.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            self.bytes = bytes;
            return true;
        }
        let more = bytes - self.bytes;
        let before = inner.used.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) > inner.bytes_max.load(Ordering::Relaxed) {
            inner.used.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes = bytes;
        true
    }

    /// The error of a reservation that could not grow.
    pub(super) fn refusal(&self) -> Error {
        Error::new(
            Kind::Limit,
            format!(
                "Series calls hold more than {} bytes (--store.limits.bytes-in-flight); ask again later or for less",
                self.of.0.bytes_max.load(Ordering::Relaxed)
            ),
        )
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_thanos_texts_and_count_once() {
        let metrics = StoreMetrics::default();
        let check = |limits: PerCall, chunks: &[u64], expected: &str| {
            let mut counter = Counter::new(limits, &metrics);
            let err = chunks.iter().find_map(|n| counter.count(*n).err());
            assert_eq!(err.map_or_else(|| "ok".into(), |err| err.to_string()), expected);
        };
        let limits = |series_max, samples_max| PerCall { series_max, samples_max };
        check(limits(0, 0), &[1_000_000; 9], "ok");
        check(limits(5, 0), &[1; 5], "ok");
        check(limits(5, 0), &[1; 6], "failed to send series: limit 5 violated (got 6)");
        check(limits(0, 240), &[1, 1], "ok");
        check(limits(0, 50), &[1], "failed to send samples: limit 50 violated (got 120)");
        check(limits(1, 50), &[0, 1], "failed to send series: limit 1 violated (got 2)");
        assert_eq!(metrics.selects_dropped.with_label_values(&["series"]).get(), 2);
        assert_eq!(metrics.selects_dropped.with_label_values(&["chunks"]).get(), 1);
    }

    #[test]
    fn shares_never_exceed_the_whole_and_come_back() {
        let all = InFlight::new(100);
        let (mut a, mut b) = (all.reserve(), all.reserve());
        assert!(a.resize(60) && b.resize(40));
        assert!(!b.resize(41));
        assert!(a.resize(50) && b.resize(50));
        drop(a);
        assert_eq!(all.0.used.load(Ordering::Relaxed), 50);
        assert!(InFlight::new(0).reserve().resize(usize::MAX / 2));
    }
}
