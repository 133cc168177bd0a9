//! The FILESYSTEM bucket: a folder in which an object appears whole or not at all, also across a power cut.
//!
//! An object is written into [`FolderBucket::TEMP_DIR`] inside the bucket, synced, and renamed to its name. Then its
//! folder is synced, and all folders above it up to the bucket, since an existing folder may be in memory only if its
//! creator died before the sync. A crash can leave temporary files. They are never listed as objects, and are swept
//! when the bucket is opened. Another daemon may use the same folder: a temporary file is locked while it is written,
//! and a locked one is not swept.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits;
use crate::pace::Pace;
use crate::{Attributes, Bucket, Compared, Journal, Parts, Stored, check_dir_name, check_name};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::{self, Disk, Source, Writer};
use pillion_base::stop::Stop;

/// Tells apart the temporary files of one process.
static TEMP_IDX: AtomicU64 = AtomicU64::new(0);

/// A folder used as a bucket.
pub struct FolderBucket {
    root: PathBuf,
    name: String,
    disk: Disk,
    pace: Pace,
}

impl FolderBucket {
    /// The folder in which objects are written before they get their names; no object may have this name.
    pub const TEMP_DIR: &str = ".pillion-tmp";

    /// Opens the bucket in `dir` and sweeps what a crash left behind. The folder is created with the first upload.
    ///
    /// `Errors:` when `dir` exists and is no folder.
    pub fn open(dir: &Path, disk: Disk) -> Result<Self> {
        let root = files::absolute(dir)?;
        if root.exists() && !root.is_dir() {
            return Err(Error::new(Kind::Permanent, format!("{} is not a folder", root.display())));
        }
        let bucket = FolderBucket { name: format!("fs: {}", root.display()), root, disk, pace: Pace::default() };
        if let Err(err) = bucket.sweep() {
            log::warn!(bucket = bucket.name.as_str(), err = err.to_string(); "sweeping temporary files failed");
        }
        Ok(bucket)
    }

    /// Sets the pace of uploads.
    pub(crate) fn with_pace(self, pace: Pace) -> Self {
        FolderBucket { pace, ..self }
    }

    fn sweep(&self) -> Result<()> {
        let dir = self.root.join(Self::TEMP_DIR);
        let entries = match self.disk.list(&dir) {
            Err(err) if err.kind() == Kind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let path = dir.join(&entry.name);
            let locked = std::fs::File::open(&path)
                .is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)));
            if !locked {
                self.disk.remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, object: &str) -> Result<PathBuf> {
        check_name(object)?;
        if object.split('/').next() == Some(Self::TEMP_DIR) {
            return Err(Error::new(Kind::BadRequest, format!("{object:?} is not an object name")));
        }
        Ok(self.root.join(object))
    }

    /// Writes an object with `fill` and gives it its name.
    fn store<T>(&self, object: &str, stop: &Stop, fill: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        stop.check()?;
        let path = self.path(object)?;
        let temp_dir = self.root.join(Self::TEMP_DIR);
        self.disk.create_dirs_synced(&temp_dir)?;
        let temp_idx = TEMP_IDX.fetch_add(1, Ordering::Relaxed);
        let temp = temp_dir.join(format!("{}-{temp_idx}", std::process::id()));
        let stored = self.write_temp(&temp, fill).and_then(|value| {
            stop.check()?;
            for dir in self.folders(&path).collect::<Vec<_>>().into_iter().rev() {
                self.disk.create_dir(dir, 0o777)?;
            }
            self.disk.rename(&temp, &path)?;
            Ok(value)
        });
        if stored.is_err() {
            let _ = self.disk.remove_file(&temp);
        }
        let value = stored?;
        self.sync_folders(&path)?;
        Ok(value)
    }

    /// The folders above an object, its own first, the bucket last.
    fn folders<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        path.ancestors().skip(1).take_while(|dir| dir.starts_with(&self.root))
    }

    fn sync_folders(&self, path: &Path) -> Result<()> {
        self.folders(path).try_for_each(|dir| self.disk.sync_dir(dir))
    }

    fn write_temp<T>(&self, temp: &Path, fill: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        let mut writer = self.disk.create_new(temp).or_else(|err| {
            // A process with the same id left this file behind, and nobody writes to it any more.
            if self.disk.remove_file(temp).is_ok() { self.disk.create_new(temp) } else { Err(err) }
        })?;
        // Without locks, another daemon that starts now may sweep this file. Then the rename fails, and the next tick
        // uploads again.
        let _ = writer.lock();
        let value = fill(&mut writer)?;
        writer.sync()?;
        Ok(value)
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
                    if entry.kind.is_file() {
                        names.push(format!("{prefix}{}", entry.name));
                    } else if entry.kind.is_dir()
                        && !(dir.is_empty() && entry.name == Self::TEMP_DIR)
                        && self.holds_objects(&path.join(&entry.name))?
                    {
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
            source.for_each(0..size_bytes, |buffer| {
                self.pace.take(buffer.len(), stop)?;
                writer.write(buffer)
            })
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
    use std::sync::{Arc, Mutex};

    #[test]
    fn leftovers_are_swept_unless_somebody_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let temp_dir = dir.path().join(FolderBucket::TEMP_DIR);
        std::fs::create_dir(&temp_dir).unwrap();
        std::fs::write(temp_dir.join("1-0"), b"left").unwrap();
        let busy = Disk::real().create_new(&temp_dir.join("2-0")).unwrap();
        assert!(busy.lock());
        let (_stopper, stop) = stop_pair().unwrap();
        let bucket = FolderBucket::open(dir.path(), Disk::real()).unwrap();
        let mut seen = Vec::new();
        bucket
            .iter(
                "",
                &mut |name| {
                    seen.push(name.to_owned());
                    Ok(())
                },
                &stop,
            )
            .unwrap();
        assert!(seen.is_empty(), "{seen:?}");
        assert!(!temp_dir.join("1-0").exists() && temp_dir.join("2-0").exists());
        assert!(bucket.exists(&format!("{}/2-0", FolderBucket::TEMP_DIR), &stop).is_err());
        bucket.iter(FolderBucket::TEMP_DIR, &mut |_| Ok(()), &stop).unwrap_err();
    }

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
        seen.lock().unwrap().clear();
        bucket.upload_bytes("x/y", b"1", &stop).unwrap();
        let steps = seen.lock().unwrap();
        let temp = steps.iter().find(|(op, _)| *op == Op::Create).unwrap().1.clone();
        assert_eq!(
            *steps,
            [
                (Op::CreateDir, root.clone()),
                (Op::SyncDir, dir.path().to_owned()),
                (Op::CreateDir, root.join(FolderBucket::TEMP_DIR)),
                (Op::SyncDir, root.clone()),
                (Op::Create, temp.clone()),
                (Op::Write, temp.clone()),
                (Op::SyncFile, temp.clone()),
                (Op::CreateDir, root.clone()),
                (Op::CreateDir, root.join("x")),
                (Op::Rename, temp),
                (Op::SyncDir, root.join("x")),
                (Op::SyncDir, root.clone()),
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
