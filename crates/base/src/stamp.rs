//! What changes when a file does, without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file that changed less than this before it was looked at is read once more: the next change may leave the same times.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What a look at a file, or at what a link leads to, shows of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Looks at a file; `None` for what is no file or cannot be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|found: Metadata| Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    /// Whether the next change might leave the same stamp.
    pub fn is_unsettled(&self) -> bool {
        let seconds = u64::try_from(self.changed.0.max(self.modified.0)).unwrap_or(0);
        let changed = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        // A time to come, of a clock that was set back, tells nothing.
        changed.and_then(|at| SystemTime::now().duration_since(at).ok()).is_some_and(|age| age < SETTLED_AFTER)
    }
}

/// Whether one of the files has changed so lately that a further change may look the same.
pub fn are_unsettled(stamps: &[Option<Stamp>]) -> bool {
    stamps.iter().flatten().any(Stamp::is_unsettled)
}
