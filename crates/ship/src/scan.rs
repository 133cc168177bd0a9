//! Reads the data directory: whether the shipper can work in it, which blocks it has, and whether their files are all
//! there. Never changes it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{Access, AtFlags, CWD};

use crate::LOG_TARGET;
use crate::limits;
use crate::meta::Meta;
use crate::plan::Found;
use crate::ulid::Ulid;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::{Disk, Entry, unreadable};

/// All blocks in `data_dir`, with their meta.json or the reason why it cannot be read. What `known` returns for a block
/// is taken instead of its meta.json.
///
/// Folders whose name is not strictly a ULID, such as `<ULID>.tmp-for-creation`, are no blocks. Neither is a symbolic
/// link that leads out of the data directory.
pub(crate) fn scan(disk: &Disk, data_dir: &Path, known: impl Fn(Ulid) -> Option<Meta>) -> Result<Vec<Found>> {
    let mut blocks = Vec::new();
    for entry in disk.list(data_dir).context(|| "read dir")? {
        let Some(ulid) = Ulid::parse(&entry.name) else { continue };
        let dir = data_dir.join(&entry.name);
        if !is_block_dir(data_dir, &dir, &entry) {
            continue;
        }
        match known(ulid).map_or_else(|| read_meta(disk, &dir, ulid), Ok) {
            // Prometheus has removed it since the listing.
            Err(_) if is_gone(disk, &dir) => {}
            meta => blocks.push(Found { ulid, dir, meta, is_local: true }),
        }
    }
    Ok(blocks)
}

fn is_block_dir(data_dir: &Path, dir: &Path, entry: &Entry) -> bool {
    if !entry.kind.is_symlink() {
        return entry.kind.is_dir();
    }
    let inside = || Some(dir.canonicalize().ok()?.starts_with(data_dir.canonicalize().ok()?));
    dir.is_dir() && inside().unwrap_or(false)
}

fn read_meta(disk: &Disk, dir: &Path, ulid: Ulid) -> Result<Meta> {
    let path = dir.join("meta.json");
    let meta = disk.read(&path, limits::META_BYTES_MAX).and_then(|bytes| Meta::parse(&bytes)).map_err(block_fault);
    let meta = meta.context(|| format!("read metadata for block {ulid}"))?;
    if meta.ulid != ulid {
        let text = format!("read metadata for block {ulid}: meta.json is that of block {}", meta.ulid);
        return Err(Error::new(Kind::Corrupt, text));
    }
    Ok(meta)
}

/// A missing or absurdly large file is the block's fault. What the disk cannot read is not.
fn block_fault(err: Error) -> Error {
    match err.kind() {
        Kind::NotFound | Kind::Limit => err.with_kind(Kind::Corrupt),
        _ => unreadable(err),
    }
}

/// Whether nothing of that name is there for sure. A failed look proves nothing.
pub(crate) fn is_gone(disk: &Disk, path: &Path) -> bool {
    disk.stat_link(path).is_err_and(|err| err.kind() == Kind::NotFound)
}

/// The files of a block that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Examined {
    /// The names in its `chunks/`, sorted.
    pub(crate) chunks: Vec<String>,
    /// Size of its chunk files and its index.
    pub(crate) bytes: u64,
}

/// Checks that a block's files are all there and not empty.
///
/// `Errors:` `Corrupt`, with the file and what is wrong with it.
pub(crate) fn examine(disk: &Disk, dir: &Path, meta: &Meta) -> Result<Examined> {
    let corrupt = |text: String| Error::new(Kind::Corrupt, text);
    let check_file = |path: &Path| {
        let found = disk.stat(path).map_err(block_fault)?;
        if !found.is_file() {
            return Err(corrupt(format!("{} is not a file", path.display())));
        }
        if found.len() == 0 {
            return Err(corrupt(format!("{} is empty", path.display())));
        }
        Ok(found.len())
    };
    let mut bytes = check_file(&dir.join("index"))?;
    let chunks = dir.join("chunks");
    let mut names = Vec::new();
    for entry in disk.list(&chunks).map_err(block_fault)? {
        bytes += check_file(&chunks.join(&entry.name))?;
        names.push(entry.name);
    }
    if names.is_empty() && meta.n_chunks > 0 {
        return Err(corrupt(format!("{} has no files, but the block has {} chunks", chunks.display(), meta.n_chunks)));
    }
    // Prometheus numbers segments from 1; a gap is a file that was lost.
    let numbers: Option<Vec<usize>> = names.iter().map(|name| name.parse().ok()).collect();
    let missing = numbers.and_then(|numbers| (1..).zip(numbers).find(|(expected, found)| expected != found));
    if let Some((expected, _)) = missing {
        return Err(corrupt(format!("{} is missing", chunks.join(format!("{expected:06}")).display())));
    }
    Ok(Examined { chunks: names, bytes })
}

/// Sizes, times and inodes of a block's files: they show a change without reading the files.
pub(crate) type Fingerprint = Vec<(String, u64, i64, i64, u64)>;

/// The fingerprint of a block as it is.
///
/// `Errors:` when something of it cannot be examined: then nothing is known of a change.
pub(crate) fn look(disk: &Disk, dir: &Path) -> Result<Fingerprint> {
    let mut files = Vec::new();
    for folder in [dir.to_owned(), dir.join("chunks")] {
        for entry in there(disk.list(&folder))?.unwrap_or_default() {
            let path = folder.join(&entry.name);
            if let Some(found) = there(disk.stat(&path))? {
                files.push((path.display().to_string(), found.len(), found.mtime(), found.mtime_nsec(), found.ino()));
            }
        }
    }
    Ok(files)
}

/// Whether what is shipped of a block is the same. Prometheus may write tombstones and meta.json anew at any time.
pub(crate) fn is_same_content(before: &Fingerprint, now: &Fingerprint) -> bool {
    let is_content = |file: &&(String, u64, i64, i64, u64)| {
        let is_other = ["/tombstones", "/meta.json", ".tmp"].iter().any(|end| file.0.ends_with(end));
        !is_other
    };
    before.iter().filter(is_content).eq(now.iter().filter(is_content))
}

fn there<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(err) if err.kind() == Kind::NotFound => Ok(None),
        other => other.map(Some).map_err(unreadable),
    }
}

/// As [`look`], of a block that is set aside; empty if it cannot be examined.
pub(crate) fn fingerprint(disk: &Disk, dir: &Path) -> Fingerprint {
    look(disk, dir).unwrap_or_default()
}

/// Whether nothing of a block was written in the last `time`, folders included: a copy writes its folders until the end.
pub(crate) fn is_old(disk: &Disk, dir: &Path, time: Duration) -> bool {
    let is_old = |path: &Path| {
        let written = disk.stat(path).ok().and_then(|found| found.modified().ok());
        written.and_then(|written| SystemTime::now().duration_since(written).ok()).is_some_and(|age| age >= time)
    };
    let folders = [dir.to_owned(), dir.join("chunks")];
    folders.iter().all(|folder| {
        is_old(folder)
            && disk.list(folder).is_ok_and(|entries| entries.iter().all(|entry| is_old(&folder.join(&entry.name))))
    })
}

/// Folders that look like blocks but have impossible names, such as a ULID in small letters or one that begins with 8.
/// They are never shipped, so the operator should know.
pub(crate) fn misnamed(disk: &Disk, data_dir: &Path) -> Result<Vec<String>> {
    let entries = disk.list(data_dir).context(|| "read dir")?;
    let looks_so = |entry: &Entry| {
        let name = entry.name.as_str();
        name.len() == 26 && name.bytes().all(|byte| byte.is_ascii_alphanumeric()) && Ulid::parse(name).is_none()
    };
    let suspects = entries.into_iter().filter(|entry| entry.kind.is_dir() && looks_so(entry));
    Ok(suspects.map(|entry| entry.name).filter(|name| data_dir.join(name).join("meta.json").exists()).collect())
}

/// What a data directory lacks in which the shipper works nevertheless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirWarning {
    /// It cannot be written, which costs claims and ledger; why.
    NotWritable(String),
    /// It has no `wal`; why it cannot be seen.
    NoWal(String),
}

/// Looks at start whether `--tsdb.path` is fit for uploads, and says what it lacks. Changes nothing.
///
/// `Errors:` when it is missing, not a folder, or not readable, with what to change.
pub fn look_at_data_dir(path: &Path) -> Result<Vec<DirWarning>> {
    let shown = path.display();
    let hint = "set --tsdb.path to the directory that Prometheus has as --storage.tsdb.path";
    let permanent = |text: String| Error::new(Kind::Permanent, text);
    let is_dir = match std::fs::metadata(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            return Err(permanent(format!("opening tsdb directory: {shown} does not exist; {hint}")));
        }
        found => found.context(|| format!("opening tsdb directory: {shown}; {hint}"))?.is_dir(),
    };
    if !is_dir {
        return Err(permanent(format!("opening tsdb directory: {shown} is not a directory; {hint}")));
    }
    let refused = |access: Access| match rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS) {
        Ok(()) => None,
        Err(err) => Some(std::io::Error::from(err)),
    };
    if let Some(err) = refused(Access::READ_OK | Access::EXEC_OK) {
        return Err(permanent(format!(
            "opening tsdb directory: {shown} is not readable ({err}); run as the user that owns it, or give this one access"
        )));
    }
    let not_writable = refused(Access::WRITE_OK).map(|err| DirWarning::NotWritable(err.to_string()));
    let wal = Disk::real().stat(&path.join("wal"));
    Ok(not_writable.into_iter().chain(wal.err().map(|err| DirWarning::NoWal(err.to_string()))).collect())
}

/// As [`look_at_data_dir`], with what it lacks as lines of the log. A missing `wal` is no more than that, as in Thanos: the
/// directory may be mounted later.
pub fn check_data_dir(path: &Path) -> Result<()> {
    for warning in look_at_data_dir(path)? {
        match warning {
            DirWarning::NotWritable(err) => {
                log::warn!(target: LOG_TARGET, dir = path.display().to_string(), err = err;
                    "tsdb directory is not writable: blocks are shipped, but what is shipped is remembered only until the next \
                     restart, and a block that Prometheus removes meanwhile is lost; give the sidecar write access to keep \
                     thanos.shipper.json and claims in thanos/upload");
            }
            DirWarning::NoWal(err) => {
                let text = "WAL dir is not accessible. Is this dir a TSDB directory? If yes it is shared with TSDB?";
                log::error!(target: LOG_TARGET, err = format!("{text}: {err}"); "WAL dir is not accessible");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const ULID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn block(data_dir: &Path) -> PathBuf {
        let dir = data_dir.join(ULID);
        std::fs::create_dir_all(dir.join("chunks")).unwrap();
        let meta = format!(r#"{{"version":1,"ulid":"{ULID}","stats":{{"numSamples":1,"numChunks":1}}}}"#);
        std::fs::write(dir.join("meta.json"), meta).unwrap();
        std::fs::write(dir.join("index"), b"index").unwrap();
        std::fs::write(dir.join("chunks/000001"), b"chunk").unwrap();
        dir
    }

    /// Scans after `break_it`; the error of the one block, or the names of its chunk files.
    fn check(break_it: impl FnOnce(&Path), expected: &str) {
        let data_dir = tempfile::tempdir().unwrap();
        let dir = block(data_dir.path());
        break_it(&dir);
        let found = scan(&Disk::real(), data_dir.path(), |_| None).unwrap();
        let [found] = found.as_slice() else { panic!("{found:?}") };
        let examined = found.meta.as_ref().map_err(Clone::clone);
        let examined = examined.and_then(|meta| examine(&Disk::real(), &found.dir, meta));
        match examined {
            Ok(examined) => assert_eq!(examined.chunks.join(" "), expected),
            Err(err) => {
                assert_eq!(err.kind(), Kind::Corrupt);
                let text = err.to_string().replace(&format!("{}/", dir.display()), "");
                assert_eq!(text, expected);
            }
        }
    }

    #[test]
    fn a_block_with_a_missing_or_empty_file_is_corrupt() {
        let remove = |name: &'static str| move |dir: &Path| std::fs::remove_file(dir.join(name)).unwrap();
        let write =
            |name: &'static str, text: &'static str| move |dir: &Path| std::fs::write(dir.join(name), text).unwrap();
        check(|_| {}, "000001");
        check(write("tombstones", ""), "000001");
        let meta = "read metadata for block 01ARZ3NDEKTSV4RRFFQ69G5FAV: ";
        check(remove("meta.json"), &format!("{meta}open meta.json: no such file or directory"));
        check(write("meta.json", ""), &format!("{meta}unexpected end of JSON input"));
        check(
            write("meta.json", r#"{"version":1,"ulid":"01ARZ3NDEKTSV4RRFFQ69G5FAW"}"#),
            &format!("{meta}meta.json is that of block 01ARZ3NDEKTSV4RRFFQ69G5FAW"),
        );
        check(remove("index"), "stat index: no such file or directory");
        check(write("index", ""), "index is empty");
        check(remove("chunks/000001"), "chunks has no files, but the block has 1 chunks");
        check(write("chunks/000001", ""), "chunks/000001 is empty");
        check(write("chunks/000003", "x"), "chunks/000002 is missing");
        check(|dir| std::fs::create_dir(dir.join("chunks/000002")).unwrap(), "chunks/000002 is not a file");
        check(|dir| std::fs::remove_dir_all(dir.join("chunks")).unwrap(), "open chunks: no such file or directory");
    }

    #[test]
    fn only_folders_with_the_name_of_a_block_are_blocks() {
        let data_dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let dir = block(data_dir.path());
        let outside = block(other.path());
        for name in ["wal", "01ARZ3NDEKTSV4RRFFQ69G5FAV.tmp-for-creation", "01arz3ndektsv4rrffq69g5fav", "thanos"] {
            std::fs::create_dir(data_dir.path().join(name)).unwrap();
        }
        std::fs::write(data_dir.path().join("01ARZ3NDEKTSV4RRFFQ69G5FAW"), b"a file").unwrap();
        std::os::unix::fs::symlink(outside, data_dir.path().join("01ARZ3NDEKTSV4RRFFQ69G5FAX")).unwrap();
        let found = scan(&Disk::real(), data_dir.path(), |_| None).unwrap();
        assert_eq!(found.iter().map(|found| &found.dir).collect::<Vec<_>>(), [&dir]);
    }

    #[test]
    fn a_block_with_an_impossible_name_is_noticed() {
        let data_dir = tempfile::tempdir().unwrap();
        block(data_dir.path());
        for name in ["01arz3ndektsv4rrffq69g5fav", "81ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAU"] {
            std::fs::create_dir(data_dir.path().join(name)).unwrap();
        }
        assert!(misnamed(&Disk::real(), data_dir.path()).unwrap().is_empty());
        for name in ["01arz3ndektsv4rrffq69g5fav", "81ARZ3NDEKTSV4RRFFQ69G5FAV"] {
            std::fs::write(data_dir.path().join(name).join("meta.json"), b"{}").unwrap();
        }
        let expected = ["01arz3ndektsv4rrffq69g5fav", "81ARZ3NDEKTSV4RRFFQ69G5FAV"];
        assert_eq!(misnamed(&Disk::real(), data_dir.path()).unwrap(), expected);
    }

    #[test]
    fn a_change_shows_in_the_fingerprint() {
        let data_dir = tempfile::tempdir().unwrap();
        let dir = block(data_dir.path());
        let before = fingerprint(&Disk::real(), &dir);
        assert_eq!(fingerprint(&Disk::real(), &dir), before);
        std::fs::write(dir.join("chunks/000001"), b"longer chunk").unwrap();
        assert_ne!(fingerprint(&Disk::real(), &dir), before);
    }

    #[test]
    fn a_data_directory_that_cannot_work_is_refused_with_what_to_change() {
        let dir = tempfile::tempdir().unwrap();
        check_data_dir(dir.path()).unwrap();
        let missing = check_data_dir(&dir.path().join("data")).unwrap_err().to_string();
        assert!(missing.contains("data does not exist; set --tsdb.path to"), "{missing}");
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let no_dir = check_data_dir(&file).unwrap_err().to_string();
        assert!(no_dir.contains("file is not a directory; set --tsdb.path to"), "{no_dir}");
    }
}
