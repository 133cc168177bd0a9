//! A walk over a rule dir: real folders are entered, links are not. What begins with two dots is left out: in these folders
//! Kubernetes keeps the files of a ConfigMap, to which links of their names lead.

use std::fs::FileType;
use std::path::Path;

use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Disk;

use crate::limits;

/// What there is below a rule dir.
pub(crate) enum Found {
    /// A folder, whose names are read next.
    Folder,
    /// Anything else; a link is not followed.
    Entry(FileType),
}

/// Calls `each` for `root` and what is below it, with paths that begin with `root`, names in order.
///
/// `Errors:` when `root` cannot be read, or is too large; a folder below that vanishes meanwhile is passed over.
pub(crate) fn walk(disk: &Disk, root: &Path, each: &mut dyn FnMut(&Path, Found) -> Result<()>) -> Result<()> {
    let mut n_folders = 0;
    folder(disk, root, 0, &mut n_folders, each)
}

fn folder(
    disk: &Disk,
    dir: &Path,
    depth: usize,
    n_folders: &mut usize,
    each: &mut dyn FnMut(&Path, Found) -> Result<()>,
) -> Result<()> {
    *n_folders += 1;
    if depth > limits::DEPTH_MAX || *n_folders > limits::FOLDERS_MAX {
        let text = format!(
            "{}: more than {} folders below each other, or {} in all",
            dir.display(),
            limits::DEPTH_MAX,
            limits::FOLDERS_MAX
        );
        return Err(Error::new(Kind::Limit, text));
    }
    // Before its names are read, so that who watches it misses none.
    each(dir, Found::Folder)?;
    let entries = match disk.list(dir) {
        Err(err) if depth > 0 && err.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries.iter().filter(|entry| !entry.name.starts_with("..")) {
        let path = dir.join(&entry.name);
        if entry.kind.is_dir() {
            folder(disk, &path, depth + 1, n_folders, each)?;
        } else {
            each(&path, Found::Entry(entry.kind))?;
        }
    }
    Ok(())
}
