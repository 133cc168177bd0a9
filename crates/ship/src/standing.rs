//! What the shipper is doing at this moment, for whoever asks: written at each look, at each block and at each part that a
//! store has taken. Nothing is worked out while nobody asks, and no lock is held while anything else is done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

use crate::backlog::{Backlog, PendingBlock};
use crate::limits;
use crate::ulid::Ulid;
use pillion_bucket::Pace;

/// Where the shipper writes what it is doing. Cheap to clone; clones share everything.
#[derive(Clone, Default)]
pub struct Standing(Arc<Shared>);

#[derive(Default)]
struct Shared {
    pace: Pace,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    stand: Stand,
    under_way: Option<UnderWay>,
}

/// The block that is being uploaded.
struct UnderWay {
    ulid: Ulid,
    bytes: u64,
    begun: Instant,
    /// What the bucket has of it, in bytes.
    stored: Arc<AtomicU64>,
    resumed_bytes: u64,
    /// What all uploads had sent when this one began.
    sent_before: u64,
}

/// What the shipper was doing when it was asked.
#[derive(Debug, Clone, Default)]
pub struct Stand {
    /// Blocks that wait, the one that is uploaded among them.
    pub n_pending: usize,
    /// Their bytes.
    pub pending_bytes: u64,
    /// The first of them, in the order of their upload.
    pub pending: Vec<Pending>,
    /// Time after the last sample of the oldest that waits. `Units:` ms since 1970.
    pub oldest_end_ms: Option<i64>,
    /// What is set aside.
    pub n_quarantined: usize,
    /// The first of them: folder name and reason.
    pub quarantined: Vec<(String, String)>,
    /// Blocks that were given up since the start, because claims had used up their disk budget.
    pub n_given_up: u64,
    /// Bytes on the disk that are there only because blocks are claimed.
    pub claimed_bytes: u64,
    /// When the last whole block was shipped, also by an earlier run.
    pub last_upload: Option<Timestamp>,
    /// When the last look ended, and why it ended before its last block, if it did.
    pub last_look: Option<(SystemTime, Option<String>)>,
    /// The block that is being uploaded.
    pub uploading: Option<Uploading>,
}

/// A block that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The block.
    pub block: PendingBlock,
    /// What it waits for, besides its turn.
    pub waits_for: Option<String>,
}

/// How far the upload of a block has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Uploading {
    /// The block.
    pub ulid: Ulid,
    /// Size of its chunk files and its index.
    pub bytes: u64,
    /// How much of that the bucket has.
    pub stored_bytes: u64,
    /// How much of that an earlier attempt had sent.
    pub resumed_bytes: u64,
    /// How long this attempt has lasted.
    pub lasted: Duration,
    /// Bytes per second of this attempt, sent twice or not.
    pub rate: f64,
    /// How long the rest takes at this rate; unknown until something was sent.
    pub left: Option<Duration>,
}

impl Standing {
    /// Of a shipper whose uploads go at this pace.
    pub fn new(pace: Pace) -> Self {
        Standing(Arc::new(Shared { pace, written: Mutex::default() }))
    }

    /// What the shipper is doing now. Never waits for the shipper's work.
    pub fn read(&self) -> Stand {
        let sent = self.0.pace.sent_bytes();
        let written = self.lock();
        let uploading = written.under_way.as_ref().map(|under_way| under_way.at(Instant::now(), sent));
        Stand { uploading, ..written.stand.clone() }
    }

    /// Writes down what waits and what is set aside. `waits_for` says what a block waits for; it is asked for those that
    /// are listed.
    pub(crate) fn show(&self, backlog: &Backlog, waits_for: impl Fn(&PendingBlock) -> Option<String>) {
        let listed = backlog.pending.iter().take(limits::STANDING_LISTED_MAX);
        let pending = listed.map(|block| Pending { block: block.clone(), waits_for: waits_for(block) }).collect();
        let quarantined = backlog.quarantined.iter().take(limits::STANDING_LISTED_MAX);
        let quarantined = quarantined.map(|(name, reason)| (name.clone(), reason.clone())).collect();
        let stand = Stand {
            n_pending: backlog.pending.len(),
            pending_bytes: backlog.bytes(),
            pending,
            oldest_end_ms: backlog.pending.iter().map(|block| block.max_time_ms).min(),
            n_quarantined: backlog.quarantined.len(),
            quarantined,
            n_given_up: backlog.n_given_up,
            claimed_bytes: backlog.claimed_bytes,
            last_upload: backlog.last_upload,
            last_look: None,
            uploading: None,
        };
        let mut written = self.lock();
        let last_look = written.stand.last_look.take();
        written.stand = Stand { last_look, ..stand };
    }

    /// A look has ended, before its last block for this reason.
    pub(crate) fn looked(&self, why: Option<String>) {
        self.lock().stand.last_look = Some((SystemTime::now(), why));
    }

    /// A block is being uploaded for as long as the value lives. `stored` is how much of it the bucket has, in bytes.
    pub(crate) fn begin(&self, ulid: Ulid, bytes: u64, stored: Arc<AtomicU64>) -> Underway<'_> {
        let (resumed_bytes, sent_before) = (stored.load(Ordering::Relaxed), self.0.pace.sent_bytes());
        let begun = Instant::now();
        self.lock().under_way = Some(UnderWay { ulid, bytes, begun, stored, resumed_bytes, sent_before });
        Underway(self)
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends with the upload.
pub(crate) struct Underway<'a>(&'a Standing);

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way = None;
    }
}

impl UnderWay {
    fn at(&self, now: Instant, sent: u64) -> Uploading {
        let lasted = now.saturating_duration_since(self.begun);
        let stored_bytes = self.stored.load(Ordering::Relaxed).min(self.bytes);
        let sent_bytes = sent.saturating_sub(self.sent_before);
        let rate = if lasted.is_zero() { 0.0 } else { sent_bytes as f64 / lasted.as_secs_f64() };
        let left_bytes = self.bytes - stored_bytes;
        let left = (rate > 0.0).then(|| Duration::try_from_secs_f64(left_bytes as f64 / rate).unwrap_or(Duration::MAX));
        let (ulid, bytes, resumed_bytes) = (self.ulid, self.bytes, self.resumed_bytes.min(self.bytes));
        Uploading { ulid, bytes, stored_bytes, resumed_bytes, lasted, rate, left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backlog::tests::pending;

    #[test]
    fn lists_are_short_and_their_sums_whole() {
        let standing = Standing::default();
        let pending: Vec<_> = (0..200).map(|n| pending(1000 - n, 2)).collect();
        let quarantined = (0..200).map(|n| (n.to_string(), "why".to_owned())).collect();
        let backlog = Backlog { pending, quarantined, ..Backlog::default() };
        standing.looked(Some("no bucket".into()));
        standing.show(&backlog, |block| (block.max_time_ms == 999).then(|| "x".to_owned()));
        let stand = standing.read();
        assert_eq!((stand.n_pending, stand.pending_bytes, stand.n_quarantined), (200, 400, 200));
        assert_eq!((stand.pending.len(), stand.quarantined.len()), (limits::STANDING_LISTED_MAX, 50));
        assert_eq!((stand.pending[0].waits_for.as_deref(), stand.pending[1].waits_for.as_deref()), (None, Some("x")));
        // The oldest may be one that is not listed.
        assert_eq!(stand.oldest_end_ms, Some(801));
        assert_eq!(stand.last_look.unwrap().1.as_deref(), Some("no bucket"));
        assert_eq!(stand.uploading, None);
    }

    #[test]
    fn how_far_an_upload_has_come() {
        let ulid = Ulid::parse(&format!("{:026}", 1)).unwrap();
        let begun = Instant::now();
        let check = |seconds: u64, stored: u64, sent: u64, expected: (u64, f64, Option<u64>)| {
            let stored = Arc::new(AtomicU64::new(stored));
            let under_way = UnderWay { ulid, bytes: 1000, begun, stored, resumed_bytes: 300, sent_before: 50 };
            let now = under_way.at(begun + Duration::from_secs(seconds), sent);
            assert_eq!((now.stored_bytes, now.rate, now.left.map(|left| left.as_secs())), expected);
        };
        check(0, 300, 50, (300, 0.0, None));
        check(10, 300, 50, (300, 0.0, None));
        check(10, 500, 250, (500, 20.0, Some(25)));
        // What was sent twice counts for the rate.
        check(10, 500, 450, (500, 40.0, Some(12)));
        check(10, 5000, 450, (1000, 40.0, Some(0)));
        // A store that takes a byte an hour.
        check(3600, 0, 51, (0, 1.0 / 3600.0, Some(3_600_000)));
    }

    #[test]
    fn an_upload_is_shown_while_it_lasts() {
        let standing = Standing::default();
        let ulid = Ulid::parse(&format!("{:026}", 1)).unwrap();
        let stored = Arc::new(AtomicU64::new(4));
        let under_way = standing.begin(ulid, 10, Arc::clone(&stored));
        stored.store(7, Ordering::Relaxed);
        let seen = standing.read().uploading.unwrap();
        assert_eq!((seen.ulid, seen.bytes, seen.stored_bytes, seen.resumed_bytes), (ulid, 10, 7, 4));
        drop(under_way);
        assert_eq!(standing.read().uploading, None);
    }
}
