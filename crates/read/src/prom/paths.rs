//! Checks on the disk whether Prometheus waits for the file that the sidecar writes. It reads names, never content.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::prom::checks::{self, Files, FlagCheck, FlagWarning, Flags, Sameness};
use pillion_base::error::Result;

/// Checks Prometheus's flags before blocks are shipped, as Thanos does, in its order and with its words. `cwd` is the
/// folder in which Prometheus runs, if Prometheus says so.
///
/// `Errors:` `Permanent`: somebody has to change a flag of Prometheus or of the sidecar. `Corrupt` for an answer that makes
/// no sense.
/// `Differs:` Thanos compares the two paths of the ledger as texts only, and knows no way around a difference.
pub fn check_flags(flags: &Flags, expected: &FlagCheck, cwd: Option<&Path>) -> Result<Vec<FlagWarning>> {
    checks::check_flags(flags, expected, cwd, &OnDisk)
}

/// The disk as it is.
struct OnDisk;

/// A folder, and a name in it. The file's own inode number would not do: the ledger is replaced by a rename, so the number
/// changes with every write, and a hard link to it is another file after the next write.
#[derive(PartialEq, Eq)]
struct Place {
    device: u64,
    inode: u64,
    name: OsString,
}

/// Where a file lies. Links in its folder's path are followed; `None` when that folder cannot be seen.
fn place(path: &Path) -> Option<Place> {
    let folder = std::fs::metadata(path.parent()?).ok().filter(std::fs::Metadata::is_dir)?;
    Some(Place { device: folder.dev(), inode: folder.ino(), name: path.file_name()?.to_owned() })
}

impl Files for OnDisk {
    fn absolute(&self, path: &Path) -> PathBuf {
        // Without a working folder there is nothing better than what was given.
        std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
    }

    fn compare(&self, theirs: &Path, ours: &Path) -> Sameness {
        let Some(ours) = place(ours) else { return Sameness::Unseen };
        // Prometheus follows a link in place of the file; our rename would replace such a link.
        let followed = std::fs::canonicalize(theirs);
        let is_there = followed.is_ok();
        match place(&followed.unwrap_or_else(|_| theirs.to_owned())) {
            Some(theirs) if theirs == ours => Sameness::Same,
            Some(_) if is_there => Sameness::Different,
            _ => Sameness::Unseen,
        }
    }

    fn ledger_fault(&self, ours: &Path) -> Option<String> {
        match std::fs::metadata(ours) {
            Ok(file) if file.is_file() => None,
            Ok(_) => Some("not a file".to_owned()),
            Err(err) => Some(err.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_under_several_names() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("data")).unwrap();
        std::fs::create_dir(at("other")).unwrap();
        for file in ["data/ledger", "data/another", "other/ledger"] {
            std::fs::write(at(file), "x").unwrap();
        }
        std::os::unix::fs::symlink(at("data"), at("folder-link")).unwrap();
        std::os::unix::fs::symlink(at("data/ledger"), at("file-link")).unwrap();
        std::os::unix::fs::symlink(at("data/nothing"), at("dead-link")).unwrap();
        std::fs::hard_link(at("data/ledger"), at("other/hard-link")).unwrap();
        let check = |theirs: &str, ours: &str, expected: Sameness| {
            assert_eq!(OnDisk.compare(&at(theirs), &at(ours)), expected, "{theirs} {ours}");
        };
        check("data/ledger", "data/ledger", Sameness::Same);
        check("other/../data/ledger", "data/ledger", Sameness::Same);
        check("folder-link/ledger", "data/ledger", Sameness::Same);
        check("data/ledger", "folder-link/ledger", Sameness::Same);
        check("file-link", "data/ledger", Sameness::Same);
        check("data/another", "data/ledger", Sameness::Different);
        check("other/ledger", "data/ledger", Sameness::Different);
        // The next write makes two files of it.
        check("other/hard-link", "data/ledger", Sameness::Different);
        // A ledger that was never written has a place all the same.
        check("folder-link/new", "data/new", Sameness::Same);
        check("nowhere/ledger", "data/ledger", Sameness::Unseen);
        check("other/new", "data/new", Sameness::Unseen);
        check("dead-link", "data/ledger", Sameness::Unseen);
        check("data/ledger", "nowhere/ledger", Sameness::Unseen);
        assert_eq!(OnDisk.ledger_fault(&at("data/ledger")), None);
        assert_eq!(OnDisk.ledger_fault(&at("data")).as_deref(), Some("not a file"));
        assert!(OnDisk.ledger_fault(&at("nowhere/x")).is_some());
        assert!(OnDisk.absolute(Path::new("x")).is_absolute());
    }
}
