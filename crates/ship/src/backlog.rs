//! What is still to be shipped, and what never will be: the figures behind the shipper's metrics. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::ulid::Ulid;

/// A block that waits to be shipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingBlock {
    /// Its name.
    pub ulid: Ulid,
    /// Size of its chunk files and its index.
    pub bytes: u64,
    /// Time after its last sample. `Units:` ms since 1970.
    pub max_time_ms: i64,
    /// Whether Prometheus still has it.
    pub is_local: bool,
    /// Whether it is claimed, so that Prometheus may remove it without harm.
    pub is_claimed: bool,
}

/// The backlog at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backlog {
    /// What is to be shipped, oldest first.
    pub pending: Vec<PendingBlock>,
    /// What cannot be shipped, by folder name, with the reason.
    pub quarantined: BTreeMap<String, String>,
    /// Blocks that were given up since the start, because claims had used up their disk budget.
    pub n_given_up: u64,
    /// Bytes on the disk that are there only because blocks are claimed.
    pub claimed_bytes: u64,
    /// Failures since the start, by class; see [`pillion_base::error::Error::class`].
    pub failures: BTreeMap<&'static str, u64>,
    /// Bytes that did not have to be sent again, since the start.
    pub resumed_bytes: u64,
    /// When the last whole block was shipped, also by an earlier run.
    pub last_upload: Option<Timestamp>,
}

impl Backlog {
    /// Bytes that are to be shipped.
    pub(crate) fn bytes(&self) -> u64 {
        self.pending.iter().fold(0, |sum, block| sum.saturating_add(block.bytes))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn pending(max_time_ms: i64, bytes: u64) -> PendingBlock {
        let ulid = Ulid::parse(&format!("{:026}", 1)).unwrap();
        PendingBlock { ulid, bytes, max_time_ms, is_local: true, is_claimed: true }
    }

    #[test]
    fn the_sum_of_bytes_does_not_overflow() {
        let bytes = |sizes: &[u64]| {
            let pending = sizes.iter().map(|bytes| pending(0, *bytes)).collect();
            Backlog { pending, ..Backlog::default() }.bytes()
        };
        assert_eq!((bytes(&[]), bytes(&[5, 7]), bytes(&[u64::MAX, 1])), (0, 12, u64::MAX));
    }
}
