//! The FILESYSTEM bucket: a folder in which an object appears whole or not at all, also across a power cut.
//!
//! An object is written into [`FolderBucket::TEMP_DIR`] inside the bucket, synced, and renamed to its name. Then its
//! folder is synced, and all folders above it up to the bucket, since an existing folder may be in memory only if its
//! creator died before the sync. A crash can leave temporary files. They are never listed as objects, and are swept
//! when the bucket is opened (`temp`). Nothing is written unless the folder is the one that it was (`place`).

mod place;
mod temp;

use std::path::{Path, PathBuf};

use self::place::Place;
use crate::limits;
use crate::pace::Pace;
use crate::{Attributes, Bucket, Compared, Journal, Parts, Stored, check_dir_name, check_key};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::{self, Disk, Source, Writer};
use pillion_base::stop::Stop;

/// A folder used as a bucket.
pub struct FolderBucket {
    root: PathBuf,
    name: String,
    disk: Disk,
    place: Place,
    pace: Pace,
}

impl FolderBucket {
    /// The folder in which objects are written before they get their names; no object may have this name.
    pub const TEMP_DIR: &str = ".pillion-tmp";
    /// The file that tells the bucket from an empty folder with its name; no object may have this name.
    pub const MARKER: &str = ".pillion-bucket";

    /// Opens the bucket in `dir` and sweeps what a crash left behind. The folder is created with the first upload.
    ///
    /// `Errors:` when `dir` exists and is no folder.
    pub fn open(dir: &Path, disk: Disk) -> Result<Self> {
        let root = files::absolute(dir)?;
        if root.exists() && !root.is_dir() {
            return Err(Error::new(Kind::Permanent, format!("{} is not a folder", root.display())));
        }
        let place = Place::new(&root, Self::MARKER, Self::TEMP_DIR, disk.clone());
        let bucket = FolderBucket { name: format!("fs: {}", root.display()), root, disk, place, pace: Pace::default() };
        if let Err(err) = temp::sweep(&bucket.disk, &bucket.root.join(Self::TEMP_DIR)) {
            log::warn!(bucket = bucket.name.as_str(), err = err.to_string(); "sweeping temporary files failed");
        }
        Ok(bucket)
    }

    /// Sets the pace of uploads.
    pub(crate) fn with_pace(self, pace: Pace) -> Self {
        FolderBucket { pace, ..self }
    }

    fn path(&self, object: &str) -> Result<PathBuf> {
        check_key(object)?;
        if Self::is_ours(object.split('/').next().unwrap_or_default()) {
            return Err(Error::new(Kind::BadRequest, format!("{object:?} is not an object name")));
        }
        // Empty parts are passed over.
        Ok(self.root.join(object).components().collect())
    }

    /// Whether a name in the bucket's own folder is none of an object.
    fn is_ours(name: &str) -> bool {
        name == Self::TEMP_DIR || name == Self::MARKER
    }

    /// Writes an object with `fill` and gives it its name.
    fn store<T>(&self, object: &str, stop: &Stop, fill: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        stop.check()?;
        let path = self.path(object)?;
        self.place.check_quickly()?;
        let temp_dir = self.root.join(Self::TEMP_DIR);
        self.disk.create_dir(&temp_dir, 0o777)?;
        let (mut writer, temp) = temp::create(&self.disk, &temp_dir)?;
        let stored = fill(&mut writer).and_then(|value| {
            writer.sync()?;
            stop.check()?;
            // The bucket itself is not created here: its file system may be gone.
            for dir in self.folders(&path).filter(|dir| *dir != self.root).collect::<Vec<_>>().into_iter().rev() {
                self.disk.create_dir(dir, 0o777)?;
            }
            if !writer.is_named()? {
                return Err(Error::new(Kind::Retry, format!("{} was removed by others", temp.display())));
            }
            self.disk.rename(&temp, &path)?;
            Ok(value)
        });
        if stored.is_err() && writer.is_named().is_ok_and(|is_ours| is_ours) {
            let _ = self.disk.remove_file(&temp);
        }
        let value = stored?;
        self.sync_folders(&path)?;
        // All of it happened in the same folder.
        self.place.check_quickly()?;
        Ok(value)
    }

    /// The folders above an object, its own first, the bucket last.
    fn folders<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        path.ancestors().skip(1).take_while(|dir| dir.starts_with(&self.root))
    }

    fn sync_folders(&self, path: &Path) -> Result<()> {
        self.folders(path).try_for_each(|dir| self.disk.sync_dir(dir))
    }

    /// Whether a folder holds an object, at any depth.
    fn holds_objects(&self, dir: &Path) -> Result<bool> {
        for entry in self.disk.list(dir)? {
            if entry.kind.is_file() || (entry.kind.is_dir() && self.holds_objects(&dir.join(&entry.name))?) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Bucket for FolderBucket {
    fn name(&self) -> &str {
        &self.name
    }

    fn check_place(&self, known: Option<&str>, stop: &Stop) -> Result<Option<String>> {
        stop.check()?;
        self.place.check(known).map(Some)
    }

    fn exists(&self, object: &str, stop: &Stop) -> Result<bool> {
        stop.check()?;
        let path = self.path(object)?;
        let is_there = match self.disk.stat_link(&path) {
            Err(err) if err.kind() == Kind::NotFound => false,
            found => found?.is_file(),
        };
        // The caller records for good that the object exists, so it must survive a power cut. It would not if its
        // writer died between the rename and the sync of the folder.
        if is_there {
            self.sync_folders(&path)?;
        }
        Ok(is_there)
    }

    fn get(&self, object: &str, stop: &Stop) -> Result<Vec<u8>> {
        stop.check()?;
        self.disk.read(&self.path(object)?, limits::META_BYTES_MAX)
    }

    fn read(&self, object: &str, each: &mut dyn FnMut(&[u8]) -> Result<()>, stop: &Stop) -> Result<()> {
        // A folder can be opened too.
        self.attributes(object, stop)?;
        let source = self.disk.open_source(&self.path(object)?)?;
        source.for_each(0..source.size_bytes(), |piece| {
            stop.check()?;
            each(piece)
        })
    }

    fn iter(&self, dir: &str, each: &mut dyn FnMut(&str) -> Result<()>, stop: &Stop) -> Result<()> {
        let dir = check_dir_name(dir)?;
        let path = if dir.is_empty() { self.root.clone() } else { self.path(dir)? };
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let mut names = Vec::new();
        match self.disk.list(&path) {
            Err(err) if err.kind() == Kind::NotFound => {}
            Err(err) => return Err(err),
            Ok(entries) => {
                for entry in entries {
                    stop.check()?;
                    if dir.is_empty() && Self::is_ours(&entry.name) {
                        continue;
                    }
                    if entry.kind.is_file() {
                        names.push(format!("{prefix}{}", entry.name));
                    } else if entry.kind.is_dir() && self.holds_objects(&path.join(&entry.name))? {
                        names.push(format!("{prefix}{}/", entry.name));
                    }
                }
            }
        }
        names.sort();
        for name in names {
            stop.check()?;
            each(&name)?;
        }
        Ok(())
    }

    fn attributes(&self, object: &str, stop: &Stop) -> Result<Attributes> {
        stop.check()?;
        let found = self.disk.stat_link(&self.path(object)?)?;
        if !found.is_file() {
            return Err(Error::new(Kind::NotFound, format!("{object} is not an object")));
        }
        Ok(Attributes { size_bytes: found.len(), tag: String::new() })
    }

    fn upload(&self, object: &str, source: &Source, _: &dyn Journal, stop: &Stop) -> Result<Stored> {
        let size_bytes = source.size_bytes();
        self.store(object, stop, |writer| {
            let mut offset = 0;
            while offset < size_bytes {
                let left = usize::try_from(size_bytes - offset).unwrap_or(usize::MAX);
                let piece = self.pace.piece(left.min(limits::FOLDER_COPY_BYTES));
                self.pace.take(piece, stop)?;
                offset += writer.copy(source, offset, piece)? as u64;
            }
            Ok(())
        })
        .context(|| format!("upload {object}"))?;
        Ok(Stored { attributes: Attributes { size_bytes, tag: String::new() }, resumed_bytes: 0 })
    }

    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared> {
        let stored = match self.attributes(object, stop) {
            Err(err) if err.kind() == Kind::NotFound => return Ok(Compared::Missing),
            other => other?,
        };
        if stored.size_bytes != source.size_bytes() {
            return Ok(Compared::Size { stored_bytes: stored.size_bytes });
        }
        let object = self.disk.open_source(&self.path(object)?)?;
        let (mut offset, mut is_same) = (0, true);
        let mut other = vec![0; limits::COPY_BUFFER_BYTES];
        source.for_each(0..source.size_bytes(), |buffer| {
            stop.check()?;
            let mut rest = buffer;
            while is_same && !rest.is_empty() {
                let want = other.get_mut(..rest.len()).unwrap_or_default();
                let n_read = object.read_at(offset, want)?;
                let (these, after) = rest.split_at(n_read.min(rest.len()));
                is_same = n_read > 0 && Some(these) == other.get(..n_read);
                offset += n_read as u64;
                rest = after;
            }
            Ok(())
        })?;
        Ok(if is_same { Compared::Same } else { Compared::Content })
    }

    /// Nothing is stored in parts here.
    fn abandon(&self, _: &str, _: &Parts, _: &Stop) -> Result<()> {
        Ok(())
    }

    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()> {
        self.store(object, stop, |writer| writer.write(bytes)).context(|| format!("upload {object}"))
    }

    fn delete(&self, object: &str, stop: &Stop) -> Result<()> {
        stop.check()?;
        let path = self.path(object)?;
        self.disk.remove_file(&path)?;
        // Folders that are now empty are removed too, because a store of objects has none. The first that is not empty
        // ends the loop.
        let mut dir = files::parent(&path);
        while dir != self.root && self.disk.remove_dir(dir).is_ok() {
            dir = files::parent(dir);
        }
        self.disk.sync_dir(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoJournal;
    use pillion_base::files::Op;
    use pillion_base::stop::stop_pair;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    #[test]
    fn content_is_synced_before_its_name_and_then_every_folder_up_to_the_bucket() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("b");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let disk = Disk::watched(move |step| {
            log.lock().unwrap().push((step.op, step.path.to_owned()));
            Ok(())
        });
        let (_stopper, stop) = stop_pair().unwrap();
        let bucket = FolderBucket::open(&root, disk).unwrap();
        bucket.check_place(None, &stop).unwrap();
        seen.lock().unwrap().clear();
        bucket.upload_bytes("x/y", b"1", &stop).unwrap();
        let steps = seen.lock().unwrap();
        let temp = steps.iter().find(|(op, _)| *op == Op::Create).unwrap().1.clone();
        assert_eq!(
            *steps,
            [
                (Op::Stat, root.clone()),
                (Op::CreateDir, root.join(FolderBucket::TEMP_DIR)),
                (Op::Create, temp.clone()),
                (Op::Stat, temp.clone()),
                (Op::Stat, temp.clone()),
                (Op::Write, temp.clone()),
                (Op::SyncFile, temp.clone()),
                (Op::CreateDir, root.join("x")),
                (Op::Stat, temp.clone()),
                (Op::Stat, temp.clone()),
                (Op::Rename, temp),
                (Op::SyncDir, root.join("x")),
                (Op::SyncDir, root.clone()),
                (Op::Stat, root.clone()),
            ]
        );
    }

    #[test]
    fn a_stop_ends_a_copy_between_buffers_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (file, root) = (dir.path().join("file"), dir.path().join("b"));
        std::fs::write(&file, vec![7; 3 * limits::COPY_BUFFER_BYTES]).unwrap();
        let (stopper, stop) = stop_pair().unwrap();
        let n_writes = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&n_writes);
        let disk = Disk::watched(move |step| {
            if step.op == Op::Write {
                count.fetch_add(1, Ordering::SeqCst);
                stopper.stop();
            }
            Ok(())
        });
        let bucket = FolderBucket::open(&root, disk).unwrap();
        let err = bucket.upload("x/y", &Disk::real().open_source(&file).unwrap(), &NoJournal, &stop).unwrap_err();
        assert_eq!((err.kind(), n_writes.load(Ordering::SeqCst)), (Kind::Stopped, 1));
        assert!(!root.join("x").exists());
        assert_eq!(std::fs::read_dir(root.join(FolderBucket::TEMP_DIR)).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_not_a_bucket() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        let err = FolderBucket::open(&file, Disk::real()).err().unwrap();
        assert!(err.to_string().ends_with("file is not a folder"), "{err}");
    }
}
