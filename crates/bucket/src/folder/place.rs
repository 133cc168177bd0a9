//! Whether the folder of a bucket is the one that earlier blocks went to. Where a file system is not mounted, another
//! folder has its name, or none: an object that is written there is lost, and listed as shipped.
//!
//! The first upload creates the folder and a marker in it, [`FolderBucket::MARKER`](super::FolderBucket::MARKER), with a
//! random id. From then on the folder is never created again, and the marker must be there. Never writes anything else.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::temp;
use crate::limits;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Disk;

/// What the marker says beside the id, for whoever finds it.
const TEXT: &str = "# Pillion put this file here with its first upload. It uploads nothing into a folder without it, because the file\n\
                    # system may not be mounted. If this is another bucket on purpose, empty this file.\n";

/// The folder and what is known of it.
pub(super) struct Place {
    root: PathBuf,
    marker: PathBuf,
    temp_dir: PathBuf,
    disk: Disk,
    seen: Mutex<Option<Seen>>,
}

/// The folder when its marker was last read.
#[derive(Clone, PartialEq, Eq)]
struct Seen {
    id: String,
    /// Device and inode.
    folder: (u64, u64),
}

impl Place {
    /// The folder `root` with its marker and the folder for temporary files.
    pub(super) fn new(root: &Path, marker: &str, temp_dir: &str, disk: Disk) -> Place {
        Place {
            root: root.to_owned(),
            marker: root.join(marker),
            temp_dir: root.join(temp_dir),
            disk,
            seen: Mutex::default(),
        }
    }

    /// Reads the marker and returns its id. `known` is the id that an earlier call gave, perhaps in another process; an
    /// empty one says that blocks were shipped here when there were no markers. Without it, and if no earlier call
    /// succeeded, the first upload is near: folder and marker are created.
    ///
    /// `Errors:` of class `no_bucket` when it is not the folder that it was.
    pub(super) fn check(&self, known: Option<&str>) -> Result<String> {
        // One at a time, so that threads of this process do not make two markers.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.as_ref().map(|seen| seen.id.as_str()).or(known);
        // Before the marker is read: what comes between is noticed the next time.
        let before = self.folder();
        let id = match (self.marked()?, known) {
            (Some(id), None | Some("")) if !id.is_empty() => id,
            (Some(id), Some(known)) if id == known => id,
            (Some(id), Some(_)) if !id.is_empty() => {
                return Err(self.wrong("has the marker of another bucket", "empty it"));
            }
            // Somebody has emptied it, to say that this is the right folder.
            (Some(_), _) => self.mark(true)?,
            (None, None) => {
                self.disk.create_dirs_synced(&self.root)?;
                let folder = self.folder()?;
                let id = self.mark(false)?;
                *seen = Some(Seen { id: id.clone(), folder });
                return Ok(id);
            }
            // From before there were markers.
            (None, Some("")) if self.has_content()? => self.mark(false)?,
            (None, Some(_)) => return Err(self.wrong("is not there, or has lost its marker", "create an empty one")),
        };
        *seen = Some(Seen { id: id.clone(), folder: before? });
        Ok(id)
    }

    /// As [`Place::check`] before an object is written. The marker is not read again while the folder is the same.
    pub(super) fn check_quickly(&self) -> Result<()> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (seen, self.folder()) {
            (Some(seen), Ok(folder)) if seen.folder == folder => Ok(()),
            _ => self.check(None).map(drop),
        }
    }

    /// Device and inode of the folder.
    fn folder(&self) -> Result<(u64, u64)> {
        self.disk.stat(&self.root).map(|found| (found.dev(), found.ino()))
    }

    /// The id in the marker; `None` without a marker.
    fn marked(&self) -> Result<Option<String>> {
        let bytes = match self.disk.read(&self.marker, limits::META_BYTES_MAX) {
            Err(err) if err.kind() == Kind::NotFound => return Ok(None),
            // Whatever a disk says of the marker, no local block is at fault.
            Err(err) if err.kind() == Kind::Corrupt => return Err(err.with_kind(Kind::Retry)),
            other => other.context(|| "read the marker of the bucket")?,
        };
        let text = String::from_utf8_lossy(&bytes);
        Ok(Some(text.lines().next().unwrap_or_default().trim().to_owned()))
    }

    /// Writes a marker and returns the id of the one that is there then: another daemon may have been faster.
    fn mark(&self, replaces: bool) -> Result<String> {
        self.disk.create_dir(&self.temp_dir, 0o777)?;
        let id = temp::random()?;
        let (mut writer, path) = temp::create(&self.disk, &self.temp_dir)?;
        let written = writer.write(format!("{id}\n{TEXT}").as_bytes()).and_then(|()| writer.sync()).and_then(|()| {
            // A link never replaces the marker of another daemon, where the file system has links.
            if replaces || (self.disk.link(&path, &self.marker).is_err() && self.marked()?.is_none()) {
                return self.disk.rename(&path, &self.marker);
            }
            self.disk.remove_file(&path)
        });
        if written.is_err() {
            let _ = self.disk.remove_file(&path);
        }
        written.and_then(|()| self.disk.sync_dir(&self.root)).context(|| "mark the bucket")?;
        Ok(self.marked()?.unwrap_or(id))
    }

    /// Whether the folder holds anything beside what file systems and this daemon put there.
    fn has_content(&self) -> Result<bool> {
        match self.disk.list(&self.root) {
            Err(err) if err.kind() == Kind::NotFound => Ok(false),
            found => Ok(found?.iter().any(|entry| !entry.name.starts_with('.') && entry.name != "lost+found")),
        }
    }

    fn wrong(&self, what: &str, remedy: &str) -> Error {
        let (root, marker) = (self.root.display(), self.marker.display());
        let text = format!(
            "the bucket {root}, to which blocks were shipped, {what}: is its file system mounted? If it is the right \
             folder, {remedy}: {marker}"
        );
        Error::new(Kind::Retry, text).classed("no_bucket")
    }
}
