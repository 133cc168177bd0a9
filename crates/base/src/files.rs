//! The disk: files that appear whole or not at all (write beside, sync, rename over, sync the folder), and the one
//! seam through which parts that must survive a crash touch files.
//!
//! A [`Disk`] can carry a watcher that is asked before every single operation and may refuse it. That is how the crash
//! test fails a tick at each of its steps; without a watcher the cost is one branch per operation.

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::limits;

/// One operation on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Asking what a name is.
    Stat,
    /// Asking how large a file system is.
    Capacity,
    /// Reading the names in a folder.
    List,
    /// Opening a file for reading.
    Open,
    /// Reading one buffer.
    Read,
    /// Creating a file, or truncating it.
    Create,
    /// Writing one buffer.
    Write,
    /// Syncing a file's content.
    SyncFile,
    /// Syncing the names in a folder.
    SyncDir,
    /// Renaming; `to` is set.
    Rename,
    /// Adding a second name to a file; `to` is set.
    Link,
    /// Creating a folder.
    CreateDir,
    /// Removing a file's name.
    RemoveFile,
    /// Removing an empty folder.
    RemoveDir,
}

/// An operation that is about to happen.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// What is done.
    pub op: Op,
    /// What it is done to.
    pub path: &'a Path,
    /// The new name, for a rename or a link.
    pub to: Option<&'a Path>,
}

type Watcher = dyn Fn(&Step<'_>) -> io::Result<()> + Send + Sync;

/// The disk, watched or not. Cheap to clone.
#[derive(Clone, Default)]
pub struct Disk(Option<Arc<Watcher>>);

/// A name in a folder.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name. Names that are not UTF-8 are left out of listings: no file that matters has one.
    pub name: String,
    /// What it is; a symbolic link is not followed.
    pub kind: FileType,
}

impl Disk {
    /// The disk as it is.
    pub fn real() -> Self {
        Disk(None)
    }

    /// The disk behind a watcher: an operation for which it returns an error is not done.
    pub fn watched(watcher: impl Fn(&Step<'_>) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Disk(Some(Arc::new(watcher)))
    }

    /// The disk for whoever only looks: whatever would change something fails as on a file system that is read-only.
    pub fn read_only() -> Self {
        Disk::watched(|step| match step.op {
            Op::Stat | Op::Capacity | Op::List | Op::Open | Op::Read => Ok(()),
            _ => Err(rustix::io::Errno::ROFS.into()),
        })
    }

    fn run<T>(&self, op: Op, path: &Path, body: impl FnOnce() -> io::Result<T>) -> Result<T> {
        self.run_to(op, path, None, body)
    }

    fn run_to<T>(&self, op: Op, path: &Path, to: Option<&Path>, body: impl FnOnce() -> io::Result<T>) -> Result<T> {
        let allowed = self.0.as_ref().map_or(Ok(()), |watcher| watcher(&Step { op, path, to }));
        allowed.and_then(|()| body()).map_err(|err| failed(&err, op, path, to))
    }

    /// What `path` is, symbolic links followed.
    pub fn stat(&self, path: &Path) -> Result<Metadata> {
        self.run(Op::Stat, path, || std::fs::metadata(path))
    }

    /// What `path` itself is.
    pub fn stat_link(&self, path: &Path) -> Result<Metadata> {
        self.run(Op::Stat, path, || std::fs::symlink_metadata(path))
    }

    /// Size of the file system that holds `path`. `Units:` bytes.
    pub fn capacity(&self, path: &Path) -> Result<u64> {
        self.run(Op::Capacity, path, || {
            let found = rustix::fs::statvfs(path)?;
            Ok(found.f_blocks.saturating_mul(found.f_frsize))
        })
    }

    /// Bytes of the file system that holds `path` which a user without privileges can still fill. `Units:` bytes.
    pub fn available(&self, path: &Path) -> Result<u64> {
        self.run(Op::Capacity, path, || {
            let found = rustix::fs::statvfs(path)?;
            Ok(found.f_bavail.saturating_mul(found.f_frsize))
        })
    }

    /// The names in `dir`, sorted bytewise.
    pub fn list(&self, dir: &Path) -> Result<Vec<Entry>> {
        let mut entries = self.run(Op::List, dir, || {
            let mut entries = Vec::new();
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                if let Ok(name) = entry.file_name().into_string() {
                    entries.push(Entry { name, kind: entry.file_type()? });
                }
            }
            Ok(entries)
        })?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The content of a file of at most `bytes_max` bytes; a larger one is an error of kind `Limit`.
    pub fn read(&self, path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
        let file = self.run(Op::Open, path, || File::open(path))?;
        let mut bytes = Vec::new();
        self.run(Op::Read, path, || file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes))?;
        if bytes.len() as u64 > bytes_max {
            return Err(Error::new(Kind::Limit, format!("{} is larger than {bytes_max} bytes", path.display())));
        }
        Ok(bytes)
    }

    /// Opens a file for reading at any offset, by several threads at once, even after its name is removed.
    pub fn open_source(&self, path: &Path) -> Result<Source> {
        let opened = self.run(Op::Open, path, || {
            let file = File::open(path)?;
            let size_bytes = file.metadata()?.len();
            Ok((file, size_bytes))
        });
        let (file, size_bytes) = opened.map_err(unreadable)?;
        Ok(Source { disk: self.clone(), file: Arc::new(file), path: path.to_owned(), size_bytes })
    }

    /// Creates a file that must not exist yet, for writing buffer by buffer.
    pub fn create_new(&self, path: &Path) -> Result<Writer> {
        let file = self.run(Op::Create, path, || File::create_new(path))?;
        Ok(Writer { disk: self.clone(), file, path: path.to_owned() })
    }

    /// Creates or truncates `path`, writes `bytes` and syncs them to the disk.
    fn write_synced(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = self.run(Op::Create, path, || File::create(path))?;
        let mut writer = Writer { disk: self.clone(), file, path: path.to_owned() };
        writer.write(bytes)?;
        writer.sync()
    }

    /// Replaces `path` with `bytes` in one step: a reader sees the old content or the new, and so does the next boot.
    ///
    /// `Errors:` of the disk; the old file is then untouched and the temporary one removed where possible.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.replace_by(path, |temporary| self.write_synced(temporary, bytes))
    }

    /// As [`Disk::replace`], for a file that others read: it keeps its mode, and its owner where this process may give files
    /// away. A new one gets `mode`, less what the umask takes.
    pub fn replace_shared(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
        let old = match self.stat(path) {
            Err(err) if err.kind() == Kind::NotFound => None,
            found => Some(found?),
        };
        self.replace_by(path, |temporary| {
            // One that a crash has left may have another mode.
            match self.remove_file(temporary) {
                Err(err) if err.kind() != Kind::NotFound => return Err(err),
                _ => {}
            }
            let mode = old.as_ref().map_or(mode, |old| old.mode() & 0o7777);
            let mut options = File::options();
            options.write(true).create_new(true).mode(mode);
            let file = self.run(Op::Create, temporary, || {
                let file = options.open(temporary)?;
                if let Some(old) = &old {
                    // Only root may give it away, others only to their groups. Before the mode, of which it clears bits.
                    if std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid())).is_err() {
                        let _ = std::os::unix::fs::fchown(&file, None, Some(old.gid()));
                    }
                    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
                }
                Ok(file)
            })?;
            let mut writer = Writer { disk: self.clone(), file, path: temporary.to_owned() };
            writer.write(bytes)?;
            writer.sync()
        })
    }

    fn replace_by(&self, path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let temporary = temporary(path)?;
        let written = write(&temporary).and_then(|()| self.rename(&temporary, path));
        if written.is_err() {
            let _ = self.remove_file(&temporary);
        }
        written?;
        self.sync_dir(parent(path))
    }

    /// Renames over whatever `to` is.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.run_to(Op::Rename, from, Some(to), || std::fs::rename(from, to))
    }

    /// Gives the file `from` a second name.
    pub fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.run_to(Op::Link, from, Some(to), || std::fs::hard_link(from, to))
    }

    /// Syncs a folder, so that names created, renamed or removed in it outlive a power cut.
    pub fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.run(Op::SyncDir, dir, || File::open(dir)?.sync_all())
    }

    /// Creates one folder with the given mode; an existing one is left as it is.
    pub fn create_dir(&self, dir: &Path, mode: u32) -> Result<()> {
        self.run(Op::CreateDir, dir, || match std::fs::DirBuilder::new().mode(mode).create(dir) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            other => other,
        })
    }

    /// Creates a folder and its missing parents, and syncs each new name to the disk.
    pub fn create_dirs_synced(&self, dir: &Path) -> Result<()> {
        let missing: Vec<&Path> =
            dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()).collect();
        for dir in missing.into_iter().rev() {
            self.create_dir(dir, 0o777)?;
            self.sync_dir(parent(dir))?;
        }
        Ok(())
    }

    /// Removes a file's name.
    pub fn remove_file(&self, path: &Path) -> Result<()> {
        self.run(Op::RemoveFile, path, || std::fs::remove_file(path))
    }

    /// Removes an empty folder.
    pub fn remove_dir(&self, dir: &Path) -> Result<()> {
        self.run(Op::RemoveDir, dir, || std::fs::remove_dir(dir))
    }

    /// Removes a folder with all that is in it; symbolic links are removed, not followed. A missing one is fine.
    pub fn remove_tree(&self, dir: &Path) -> Result<()> {
        let entries = match self.list(dir) {
            Err(err) if err.kind() == Kind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let path = dir.join(&entry.name);
            if entry.kind.is_dir() { self.remove_tree(&path)? } else { self.remove_file(&path)? }
        }
        self.remove_dir(dir)
    }
}

/// An open file of known size, read at any offset. Cheap to clone; the file stays readable after its name is removed.
#[derive(Clone)]
pub struct Source {
    disk: Disk,
    file: Arc<File>,
    path: PathBuf,
    size_bytes: u64,
}

impl Source {
    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size when it was opened.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Reads into `buffer` from `offset`; 0 is the end.
    ///
    /// `Errors:` of class [`UNREADABLE`] where the disk cannot read these bytes (EIO). It may be able to later: a bad sector
    /// stays, a bad cable does not.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        loop {
            let mut interrupted = false;
            let read = self.disk.run(Op::Read, &self.path, || {
                self.file
                    .read_at(buffer, offset)
                    .inspect_err(|err| interrupted = err.kind() == io::ErrorKind::Interrupted)
            });
            if !interrupted {
                return read.map_err(unreadable);
            }
        }
    }

    /// The error of a file that ends before the size it had.
    pub fn shrunk(&self) -> Error {
        Error::new(Kind::Retry, format!("{} became shorter while it was read", self.path.display()))
    }

    /// Feeds the bytes of `range` to `each`, buffer by buffer.
    ///
    /// `Errors:` `Retry` when the file has become shorter than it was.
    pub fn for_each(&self, range: Range<u64>, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; limits::COPY_BUFFER_BYTES];
        let mut offset = range.start;
        while offset < range.end {
            let want = usize::try_from(range.end - offset).unwrap_or(usize::MAX).min(buffer.len());
            let n_read = self.read_at(offset, buffer.get_mut(..want).unwrap_or_default())?;
            if n_read == 0 {
                return Err(self.shrunk());
            }
            each(buffer.get(..n_read).unwrap_or_default())?;
            offset += n_read as u64;
        }
        Ok(())
    }
}

/// A file that is written buffer by buffer.
pub struct Writer {
    disk: Disk,
    file: File,
    path: PathBuf,
}

impl Writer {
    /// Writes all of `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Writer { disk, file, path } = self;
        disk.run(Op::Write, path, || file.write_all(bytes))
    }

    /// Syncs what was written to the disk.
    pub fn sync(&self) -> Result<()> {
        self.disk.run(Op::SyncFile, &self.path, || self.file.sync_all())
    }

    /// Appends `length` bytes of `source` from `offset` and returns how many it did, at least one. Where the file systems
    /// can, the kernel copies them, or lets both files share them.
    ///
    /// `Errors:` as of [`Source::read_at`] and [`Writer::write`]; `Retry` when the source has become shorter.
    pub fn copy(&mut self, source: &Source, offset: u64, length: usize) -> Result<usize> {
        // Both seams are asked as if it were read and written here.
        source.disk.run(Op::Read, &source.path, || Ok(())).map_err(unreadable)?;
        self.disk.run(Op::Write, &self.path, || Ok(()))?;
        let mut from = offset;
        match rustix::fs::copy_file_range(&*source.file, Some(&mut from), &self.file, None, length) {
            Ok(n_copied) if n_copied > 0 => Ok(n_copied),
            // What the kernel cannot copy, and why it cannot, shows when the bytes are read and written.
            _ => {
                let mut buffer = vec![0; length.min(limits::COPY_BUFFER_BYTES)];
                let n_read = source.read_at(offset, &mut buffer)?;
                if n_read == 0 {
                    return Err(source.shrunk());
                }
                self.write(buffer.get(..n_read).unwrap_or_default())?;
                Ok(n_read)
            }
        }
    }

    /// Takes an advisory lock, which is held until the writer is dropped; `None` where there are no locks, and false if
    /// somebody else has it.
    pub fn lock(&self) -> Option<bool> {
        match self.file.try_lock() {
            Ok(()) => Some(true),
            Err(std::fs::TryLockError::WouldBlock) => Some(false),
            Err(std::fs::TryLockError::Error(_)) => None,
        }
    }

    /// Whether the path still names this file, and not nothing or another one.
    pub fn is_named(&self) -> Result<bool> {
        let ours = self.disk.run(Op::Stat, &self.path, || self.file.metadata())?;
        match self.disk.stat_link(&self.path) {
            Err(err) if err.kind() == Kind::NotFound => Ok(false),
            found => found.map(|found| (found.dev(), found.ino()) == (ours.dev(), ours.ino())),
        }
    }
}

/// Where [`Disk::replace`] writes what becomes `path`. `Errors:` a path that ends in no name.
pub fn temporary(path: &Path) -> Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::new(Kind::Permanent, format!("{} is not a file name", path.display())))?;
    let mut name = name.to_owned();
    name.push(".tmp");
    Ok(path.with_file_name(name))
}

/// The folder that holds `path`; `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `path` made absolute, with `.`, `..` and double slashes resolved lexically, as Go's `filepath.Abs` does.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in std::path::absolute(path).context(|| format!("make {} absolute", path.display()))?.components() {
        match part {
            std::path::Component::ParentDir => drop(clean.pop()),
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    Ok(clean)
}

/// The error of an operation in the words of Go's `os` package, which operators know from Thanos:
/// `open /x: no such file or directory`.
fn failed(err: &io::Error, op: Op, path: &Path, to: Option<&Path>) -> Error {
    let verb = match op {
        Op::Stat | Op::Capacity => "stat",
        Op::List | Op::Open => "open",
        Op::Read => "read",
        Op::Create => "create",
        Op::Write => "write",
        Op::SyncFile | Op::SyncDir => "sync",
        Op::Rename => "rename",
        Op::Link => "link",
        Op::CreateDir => "mkdir",
        Op::RemoveFile | Op::RemoveDir => "remove",
    };
    let kind = match (op, err.raw_os_error().map(Errno::from_raw_os_error)) {
        (Op::Read, Some(Errno::ISDIR)) => Kind::Corrupt,
        // The file system cannot do it, or must not: the next attempt would fail too.
        (Op::Link, Some(Errno::XDEV | Errno::OPNOTSUPP | Errno::MLINK)) => Kind::Permanent,
        (Op::Link | Op::Create | Op::CreateDir | Op::Rename, Some(Errno::PERM)) => Kind::Permanent,
        (_, Some(Errno::ACCESS | Errno::ROFS)) => Kind::Permanent,
        // A name below a file: there is nothing of that name.
        (_, Some(Errno::NOTDIR)) => Kind::NotFound,
        _ => Error::io(err).kind(),
    };
    let names = match to {
        Some(to) => format!("{} {}", path.display(), to.display()),
        None => path.display().to_string(),
    };
    let failed = Error::new(kind, os_text(err)).context(format!("{verb} {names}"));
    // A bad sector, a cable, a server that is away: nothing says that the bytes are lost.
    if err.raw_os_error() == Some(Errno::IO.raw_os_error()) { failed.classed(DISK) } else { failed }
}

/// The class of what a disk could not do.
const DISK: &str = "disk";
/// The class of what could not be read although it is there; see [`unreadable`].
pub const UNREADABLE: &str = "unreadable";

/// The same error; where the disk is at fault, with the class that says whose bytes it failed at: those of a file that is
/// to be read, and not those of the place it is copied to.
pub fn unreadable(err: Error) -> Error {
    if err.class() == DISK { err.classed(UNREADABLE) } else { err }
}

/// `no such file or directory` of `No such file or directory (os error 2)`.
fn os_text(err: &io::Error) -> String {
    let text = err.to_string();
    let text = text.split_once(" (os error").map_or(text.as_str(), |(head, _)| head);
    let mut chars = text.chars();
    match (err.raw_os_error(), chars.next()) {
        (Some(_), Some(first)) => first.to_lowercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_read_only_disk_reads_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, path) = (Disk::read_only(), dir.path().join("file"));
        std::fs::write(&path, b"one").unwrap();
        assert_eq!(disk.read(&path, 10).unwrap(), b"one");
        assert_eq!((disk.list(dir.path()).unwrap().len(), disk.stat(&path).unwrap().len()), (1, 3));
        let other = dir.path().join("other");
        assert!(disk.replace(&path, b"two").is_err() && disk.link(&path, &other).is_err());
        assert!(disk.create_dir(&other, 0o777).is_err() && disk.rename(&path, &other).is_err());
        assert!(disk.remove_file(&path).is_err() && disk.create_new(&other).is_err());
        assert_eq!(
            (std::fs::read(&path).unwrap(), std::fs::read_dir(dir.path()).unwrap().count()),
            (b"one".to_vec(), 1)
        );
    }

    #[test]
    fn replaced_whole_and_nothing_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        Disk::real().replace(&path, b"one").unwrap();
        Disk::real().replace(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_shared_file_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prometheus.yml");
        let mode = || std::fs::metadata(&path).unwrap().mode() & 0o7777;
        Disk::real().replace_shared(&path, b"one", 0o600).unwrap();
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        // What a crash has left.
        std::fs::write(dir.path().join("prometheus.yml.tmp"), b"half").unwrap();
        Disk::real().replace_shared(&path, b"two", 0o600).unwrap();
        assert_eq!((mode(), std::fs::read(&path).unwrap()), (0o666, b"two".to_vec()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replace_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let err = Disk::real().replace(&dir.path().join("missing").join("x"), b"one").unwrap_err();
        assert!(err.to_string().contains("missing"), "{err}");
        let path = dir.path().join("state.json");
        Disk::real().replace(&path, b"one").unwrap();
        let full = Disk::watched(|step| match step.op {
            Op::Write => Err(io::Error::from_raw_os_error(28)),
            _ => Ok(()),
        });
        let err = full.replace(&path, b"two").unwrap_err();
        assert_eq!(err.to_string(), format!("write {}.tmp: no space left on device", path.display()));
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_old_name_is_never_removed_and_content_is_synced_before_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        Disk::real().replace(&path, b"one").unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let disk = Disk::watched(move |step| {
            log.lock().unwrap().push(step.op);
            Ok(())
        });
        disk.replace(&path, b"two").unwrap();
        assert_eq!(*seen.lock().unwrap(), [Op::Create, Op::Write, Op::SyncFile, Op::Rename, Op::SyncDir]);
    }

    #[test]
    fn errors_read_as_go_writes_them() {
        let err = Disk::real().read(Path::new("/nonexistent/x"), 1).unwrap_err();
        assert_eq!(err.to_string(), "open /nonexistent/x: no such file or directory");
        assert_eq!(err.kind(), Kind::NotFound);
    }

    #[test]
    fn a_file_past_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(Disk::real().read(&path, 5).unwrap(), b"12345");
        assert_eq!(Disk::real().read(&path, 4).unwrap_err().kind(), Kind::Limit);
    }

    #[test]
    fn a_bad_sector_is_the_fault_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"12345").unwrap();
        let bad = Disk::watched(|step| match step.op {
            Op::Read => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        });
        let said = |err: Error| (err.kind(), err.class());
        assert_eq!(said(bad.read(&path, 9).unwrap_err()), (Kind::Retry, DISK));
        let source = bad.open_source(&path).unwrap();
        assert_eq!(said(source.for_each(0..5, |_| Ok(())).unwrap_err()), (Kind::Retry, UNREADABLE));
    }

    #[test]
    fn a_copy_has_the_bytes_and_its_faults_are_those_of_reading_and_writing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::write(&from, b"0123456789").unwrap();
        let source = Disk::real().open_source(&from).unwrap();
        let mut writer = Disk::real().create_new(&to).unwrap();
        assert_eq!((writer.copy(&source, 2, 3).unwrap(), writer.copy(&source, 8, 99).unwrap()), (3, 2));
        assert_eq!(std::fs::read(&to).unwrap(), b"23489");
        assert_eq!(writer.copy(&source, 10, 1).unwrap_err().kind(), Kind::Retry);
        let bad = Disk::watched(|step| match step.op {
            Op::Read => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        });
        assert_eq!(writer.copy(&bad.open_source(&from).unwrap(), 0, 1).unwrap_err().class(), UNREADABLE);
        assert!(writer.is_named().unwrap());
        std::fs::rename(&from, &to).unwrap();
        assert!(!writer.is_named().unwrap());
        std::fs::remove_file(&to).unwrap();
        assert!(!writer.is_named().unwrap());
    }

    #[test]
    fn a_tree_is_removed_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, other) = (dir.path().join("tree"), dir.path().join("other"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("kept"), b"x").unwrap();
        std::os::unix::fs::symlink(&other, tree.join("a/link")).unwrap();
        Disk::real().remove_tree(&tree).unwrap();
        Disk::real().remove_tree(&tree).unwrap();
        assert!(!tree.exists() && other.join("kept").exists());
    }

    #[test]
    fn paths_are_made_absolute_and_clean() {
        assert_eq!(absolute(Path::new("/a/./b/../c//d/")).unwrap(), Path::new("/a/c/d"));
        assert_eq!(absolute(Path::new("/../a")).unwrap(), Path::new("/a"));
    }
}
