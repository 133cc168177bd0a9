//! Limits of the shipper: each with its number, its unit and its reason. Pure.

use std::time::Duration;

pub(crate) use pillion_base::limits::META_BYTES_MAX;

/// How often the shipper scans the data directory. `Source:` Thanos, a constant there too.
pub(crate) const SHIP_INTERVAL: Duration = Duration::from_secs(30);
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
/// Blocks of the bucket that the overlap check remembers; with more of them, all are fetched again each time.
pub(crate) const REMOTE_BLOCKS_MAX: usize = 20_000;
/// Largest file of upload limits; a real one is three lines.
pub(crate) const UPLOAD_LIMITS_BYTES_MAX: u64 = 64 * 1024;
/// Largest state of an upload that is read: 10,000 parts of 100 bytes, for each of a few files.
pub(crate) const PROGRESS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Longest wait for an upload window before the clock is read again: it may have been set, or the machine slept.
pub(crate) const WINDOW_LOOK_INTERVAL: Duration = Duration::from_secs(60);

const _: () = assert!(COMMIT_ROUNDS > 1);
