//! What is still to be shipped, and what never will be: the figures behind the shipper's metrics. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::ulid::Ulid;

/// A block that is to be shipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Which one.
    pub ulid: Ulid,
    /// Size of its chunk files and its index.
    pub bytes: u64,
    /// Time of its first sample. `Units:` ms.
    pub min_time_ms: i64,
    /// Time after its last sample. `Units:` ms.
    pub max_time_ms: i64,
    /// Whether Prometheus still has it.
    pub is_local: bool,
    /// Whether it is claimed, so that Prometheus may remove it without harm.
    pub is_claimed: bool,
}

/// All of it, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backlog {
    /// What is to be shipped, oldest first.
    pub pending: Vec<Pending>,
    /// What cannot be shipped, by folder name, with the reason.
    pub quarantined: BTreeMap<String, String>,
    /// Blocks that were given up since the start, because the disk budget of claims was used up.
    pub n_given_up: u64,
    /// Bytes on the disk that are there only because blocks are claimed.
    pub claimed_bytes: u64,
    /// How many of those there may be; 0 while there are none and nobody has said.
    pub claim_budget_bytes: u64,
    /// Failures since the start, by what was at fault; see [`crate::error::Error::class`].
    pub failures: BTreeMap<&'static str, u64>,
    /// Bytes that did not have to be sent again, since the start.
    pub resumed_bytes: u64,
    /// When the last whole block was shipped, also by an earlier run.
    pub last_upload: Option<Timestamp>,
}

impl Backlog {
    /// Bytes that are to be shipped.
    pub fn bytes(&self) -> u64 {
        self.pending.iter().map(|block| block.bytes).sum()
    }

    /// End of the oldest block that is to be shipped. `Units:` ms.
    pub fn oldest_end_ms(&self) -> Option<i64> {
        self.pending.iter().map(|block| block.max_time_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_the_oldest() {
        let pending = |n: u32, bytes| Pending {
            ulid: Ulid::parse(&format!("{n:026}")).unwrap(),
            bytes,
            min_time_ms: i64::from(n),
            max_time_ms: i64::from(n) + 10,
            is_local: true,
            is_claimed: true,
        };
        let backlog = Backlog { pending: vec![pending(3, 5), pending(2, 7)], ..Backlog::default() };
        assert_eq!((backlog.bytes(), backlog.oldest_end_ms()), (12, Some(12)));
        assert_eq!((Backlog::default().bytes(), Backlog::default().oldest_end_ms()), (0, None));
    }
}
