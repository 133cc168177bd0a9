//! Files that appear whole or not at all: write beside, sync, rename over, sync the folder.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};

/// Replaces `path` with `bytes` in one step: a reader sees the old content or the new, and so does the next boot.
///
/// `Errors:` of the disk; the old file is then untouched and the temporary one removed where possible.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = sibling(path, ".tmp")?;
    let written = write_synced(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path).context(|| format!("rename to {}", path.display())))
        .and_then(|()| sync_dir(path.parent().unwrap_or(Path::new("."))));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Creates or truncates `path`, writes `bytes` and syncs them to the disk.
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).context(|| format!("create {}", path.display()))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).context(|| format!("write {}", path.display()))
}

/// Syncs a folder, so that names created, renamed or removed in it outlive a power cut.
pub fn sync_dir(dir: &Path) -> Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|dir| dir.sync_all()).context(|| format!("sync folder {}", dir.display()))
}

/// `path` with `suffix` added to its file name.
pub fn sibling(path: &Path, suffix: &str) -> Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::new(Kind::Permanent, format!("{} is not a file name", path.display())))?;
    let mut name = name.to_owned();
    name.push(suffix);
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_whole_and_nothing_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replace_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let err = replace(&dir.path().join("missing").join("x"), b"one").unwrap_err();
        assert!(err.to_string().contains("missing"), "{err}");
    }
}
