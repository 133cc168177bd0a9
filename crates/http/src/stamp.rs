//! Tells whether a file has changed, without reading it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file that changed less than this before it was read is read once more: the next change may leave the same time.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What changes when a file does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that a path leads to, through symbolic links as reading does; `None` for what cannot be looked at.
    pub(crate) fn of(path: &Path) -> Option<Stamp> {
        std::fs::metadata(path).ok().map(|found| Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Whether one of the files has changed so lately that a further change may look the same.
pub(crate) fn are_unsettled(stamps: &[Option<Stamp>]) -> bool {
    let now = SystemTime::now();
    stamps.iter().flatten().any(|stamp| {
        let changed =
            UNIX_EPOCH + Duration::from_secs(u64::try_from(stamp.changed.0.max(stamp.modified.0)).unwrap_or(0));
        // A time to come, of a clock that was set back, tells nothing.
        now.duration_since(changed).is_ok_and(|age| age < SETTLED_AFTER)
    })
}
