//! What is known of Prometheus, published as one value: one writer (the heartbeat), many readers. A reader takes one
//! `Arc` per piece of work, so that no call sees new labels with an old time range.

use std::sync::{Arc, PoisonError, RwLock};

use crate::labels::Labels;

/// A snapshot of Prometheus, as of the last successful heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromState {
    /// The external labels; never empty after the start-up gate.
    pub external_labels: Labels,
    /// Oldest time that can be asked for: the later of `--min-time` and Prometheus's lowest timestamp. `Units:` ms.
    pub mint_ms: i64,
    /// Newest time that can be asked for. `Units:` ms.
    pub maxt_ms: i64,
    /// Prometheus's version, `0` when it does not say.
    pub version: String,
    /// Prometheus's retention time; `None` where it is unknown, or where blocks are kept by size only. `Units:` ms.
    pub retention_ms: Option<i64>,
    /// Whether it runs as an agent, which sends samples on and has none to query.
    pub is_agent: bool,
}

impl PromState {
    /// The state before the first heartbeat: only `--min-time` is known.
    pub fn unknown(min_time_ms: i64) -> Self {
        PromState {
            external_labels: Labels::default(),
            mint_ms: min_time_ms,
            maxt_ms: i64::MAX,
            version: "0".into(),
            retention_ms: None,
            is_agent: false,
        }
    }
}

/// A value that one thread replaces whole and many threads read.
#[derive(Debug)]
pub struct Published<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Published<T> {
    fn clone(&self) -> Self {
        Published(Arc::clone(&self.0))
    }
}

impl<T> Published<T> {
    /// Publishes the first value.
    pub fn new(value: T) -> Self {
        Published(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// The value as of now.
    pub fn read(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value.
    pub fn publish(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_keeps_its_snapshot() {
        let published = Published::new(PromState::unknown(5));
        let before = published.read();
        published.publish(PromState { mint_ms: 7, ..PromState::unknown(0) });
        assert_eq!((before.mint_ms, published.read().mint_ms), (5, 7));
    }
}
