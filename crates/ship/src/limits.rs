//! Limits of the shipper: each with its number, its unit and its reason. Pure.

use std::time::Duration;

pub(crate) use pillion_base::limits::META_BYTES_MAX;

/// How often the shipper scans the data directory. `Source:` Thanos, a constant there too.
pub(crate) const SHIP_INTERVAL: Duration = Duration::from_secs(30);
/// A block is shipped once two looks that are so far apart saw the same files: one that is copied in grows meanwhile.
pub(crate) const SETTLE_TIME: Duration = Duration::from_secs(25);
/// A block that was written so long ago is not being copied in.
pub(crate) const SETTLED_AGE: Duration = Duration::from_secs(60);
/// For so long a block that the disk cannot read is tried again before it is given up.
pub(crate) const UNREADABLE_TIME: Duration = Duration::from_secs(24 * 3600);
/// Longest wait between two attempts of that.
pub(crate) const UNREADABLE_WAIT_MAX: Duration = Duration::from_secs(3600);
/// Claims must leave one in this many bytes of the file system free, unless --shipper.claim-reserve says otherwise.
pub(crate) const CLAIM_RESERVE_SHARE: u64 = 20;
/// Descriptors that hold pending blocks where hard links are refused, if half of the process's limit allows as many: a
/// two-hour block has two to four files, so this is weeks of them.
pub(crate) const HELD_FILES_MAX: usize = 1024;
/// Claims may use one in this many bytes of the file system, unless --shipper.claim-budget says otherwise.
pub(crate) const CLAIM_BUDGET_SHARE: u64 = 10;
/// How often one attempt sends an object that the bucket does not show afterwards. A store that lost an object once
/// does not lose it again; one that loses it always must not be sent the same gigabytes for ever.
pub(crate) const COMMIT_ROUNDS: usize = 3;
/// How much of a block's chunks is looked at for encodings that Thanos cannot read: some 300,000 chunks, read from where the
/// upload reads them again. Where floats are in such an encoding, the first chunk tells.
pub(crate) const LOOKED_AT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Largest cache of the bucket's blocks that is read: 500,000 of them.
pub(crate) const REMOTE_CACHE_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Largest memory of shipped blocks that is read: a block every ten minutes for ten years.
pub(crate) const HISTORY_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Scans in succession that must not need a shipped block before it is forgotten. Prometheus writes a compacted block for
/// minutes after it has read what it is made of.
pub(crate) const HISTORY_SCANS: u32 = 120;
/// Largest file of upload limits; a real one is three lines.
pub(crate) const UPLOAD_LIMITS_BYTES_MAX: u64 = 64 * 1024;
/// Largest state of an upload that is read: 10,000 parts of 100 bytes, for each of a few files.
pub(crate) const PROGRESS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Blocks of a kind that are listed for whoever asks what the shipper is doing; the others are counted.
pub(crate) const STANDING_LISTED_MAX: usize = 50;
/// Longest wait for an upload window before the clock is read again: it may have been set, or the machine slept.
pub(crate) const WINDOW_LOOK_INTERVAL: Duration = Duration::from_secs(60);

const _: () = assert!(COMMIT_ROUNDS > 1);
