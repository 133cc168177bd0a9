//! `thanos.shipper.json`: the blocks that need no more work, for the shipper and for Prometheus.
//!
//! Prometheus may read this file too (`--storage.tsdb.delay-compact-file.path`): it compacts no block of level 1 that
//! is not listed, and it compacts freely when the file is missing or unreadable. So the file exists before anything
//! else happens, and it is only ever replaced by a rename. It also lists blocks that will not be shipped (empty and
//! unreadable ones), because local compaction would stop for good at the first unlisted block.
//!
//! Listed blocks that are *not* in the bucket are named a second time in a member of our own, which other readers of
//! the file ignore. Without it a block that was repaired would never be shipped after a restart, because it would look
//! like an uploaded one. Asking the bucket instead would bring back blocks that the compactor has removed there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::LOG_TARGET;
use crate::history;
use crate::json::{self, Json, Object};
use crate::limits;
use crate::ulid::Ulid;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::{self, Disk};

/// The member that names listed blocks which are not in the bucket; absent when there are none.
const UNSHIPPED: &str = "pillion_unshipped";
/// The member that says when the last whole block was shipped, so that a restart does not forget it; RFC 3339.
const LAST_UPLOAD: &str = "pillion_last_upload";

/// A block in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LedgerEntry {
    /// Its name.
    pub(crate) ulid: Ulid,
    /// Whether it is in the bucket, or was once; false for a block that is listed only for Prometheus.
    pub(crate) shipped: bool,
}

/// What `thanos.shipper.json` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerFile {
    /// In the order of the file.
    entries: Vec<LedgerEntry>,
    last_upload: Option<Timestamp>,
}

/// The ledger and the file that holds it.
pub(crate) struct Ledger {
    path: PathBuf,
    disk: Disk,
    content: LedgerFile,
    /// The bytes that the file is known to hold; `None` if it must be written whatever it holds.
    on_disk: Option<Vec<u8>>,
    /// Why nothing is known of the file, which is there. It must not be written then.
    unread: Option<Error>,
    /// Whether a ledger was set aside: blocks were shipped of which nothing is known.
    was_damaged: bool,
}

impl Ledger {
    /// Reads the ledger, and creates it empty if it is missing. One that cannot be understood is kept under another name.
    ///
    /// `Errors:` none. A file that cannot be written now is logged and written by the next [`Ledger::save`]; one that cannot
    /// be read now is not written at all, see [`Ledger::reload`].
    pub(crate) fn open(path: &Path, disk: Disk) -> Self {
        let content = LedgerFile::default();
        let mut ledger =
            Ledger { path: path.to_owned(), disk, content, on_disk: None, unread: None, was_damaged: false };
        if let Err(err) = ledger.load(true) {
            log::error!(target: LOG_TARGET, err = err.to_string(); "nothing is shipped until the meta file can be read");
        }
        if let Err(err) = ledger.save() {
            log::warn!(target: LOG_TARGET, err = err.to_string(); "updating meta file failed");
        }
        ledger
    }

    /// Reads the file again, because an operator may have edited or removed it. A missing file is an empty ledger. A
    /// file that cannot be read or understood changes nothing. The file is not read while it has yet to be saved,
    /// because it is older than what is known.
    ///
    /// `Errors:` when the file is there and has never been read: nobody knows what was shipped.
    pub(crate) fn reload(&mut self) -> Result<()> {
        if self.on_disk.is_some() || self.unread.is_some() {
            return self.load(false);
        }
        Ok(())
    }

    /// Whether this process has set aside a ledger that could not be understood.
    pub(crate) fn was_damaged(&self) -> bool {
        self.was_damaged
    }

    fn load(&mut self, is_first: bool) -> Result<()> {
        let is_known = !is_first && self.unread.is_none();
        let bytes = match self.disk.read(&self.path, limits::META_BYTES_MAX) {
            // A data directory that is gone for a moment is no reason to forget what was shipped.
            Err(err) if err.kind() == Kind::NotFound && !files::parent(&self.path).is_dir() => {
                log::error!(target: LOG_TARGET, err = failed_to_read(err, &self.path).to_string();
                    "failed to read meta file, as its directory is missing");
                return Ok(());
            }
            Err(err) if err.kind() == Kind::NotFound => {
                log::info!(target: LOG_TARGET, "no meta file found, creating empty meta data to write later");
                self.begin_anew();
                return Ok(());
            }
            Err(err) => {
                let err = failed_to_read(err, &self.path);
                if is_known {
                    log::error!(target: LOG_TARGET, err = err.to_string(); "failed to read meta file; it is written again from memory");
                    self.on_disk = None;
                    return Ok(());
                }
                self.unread = Some(err.clone());
                return Err(err);
            }
            Ok(bytes) => bytes,
        };
        match LedgerFile::parse(&bytes, &self.path) {
            Ok(LedgerFile { entries, last_upload }) => {
                // A file without the time, or with one that cannot be read, does not make it unknown.
                let last_upload = last_upload.or(self.content.last_upload);
                self.content = LedgerFile { entries, last_upload };
                self.on_disk = Some(bytes);
                self.unread = None;
            }
            Err(err) => {
                let aside = history::aside(&self.path);
                let kept = self
                    .disk
                    .rename(&self.path, &aside)
                    .err()
                    .map_or(aside.display().to_string(), |err| err.to_string());
                log::error!(target: LOG_TARGET, err = err.to_string(), kept_as = kept;
                    "failed to read meta file, creating empty meta data to write later");
                if is_known {
                    self.on_disk = None;
                } else {
                    self.begin_anew();
                    self.was_damaged = true;
                }
            }
        }
        Ok(())
    }

    fn begin_anew(&mut self) {
        self.content.entries.clear();
        self.on_disk = None;
        self.unread = None;
    }

    /// The entry of a block.
    pub(crate) fn entry(&self, ulid: Ulid) -> Option<LedgerEntry> {
        self.content.entries.iter().find(|entry| entry.ulid == ulid).copied()
    }

    /// The listed blocks for which `wanted` is true.
    pub(crate) fn ulids(&self, wanted: impl Fn(&LedgerEntry) -> bool) -> BTreeSet<Ulid> {
        self.content.entries.iter().filter(|entry| wanted(entry)).map(|entry| entry.ulid).collect()
    }

    /// All entries in the order of the file.
    pub(crate) fn entries(&self) -> &[LedgerEntry] {
        &self.content.entries
    }

    /// When the last whole block was shipped.
    pub(crate) fn last_upload(&self) -> Option<Timestamp> {
        self.content.last_upload
    }

    /// Records that a whole block was shipped at `time`; [`Ledger::save`] writes it.
    pub(crate) fn uploaded_at(&mut self, time: Timestamp) {
        self.content.last_upload = Some(time);
    }

    /// Replaces the entries; [`Ledger::save`] writes them.
    pub(crate) fn set(&mut self, entries: Vec<LedgerEntry>) {
        self.content.entries = entries;
    }

    /// Writes the file unless it holds the same already. Returns whether it was written.
    pub(crate) fn save(&mut self) -> Result<bool> {
        if self.unread.is_some() {
            return Ok(false);
        }
        let bytes = self.content.write();
        if self.on_disk.as_ref() == Some(&bytes) {
            return Ok(false);
        }
        // Not known until the write has succeeded: it may fail after the rename.
        self.on_disk = None;
        self.disk.replace(&self.path, &bytes).context(|| "write meta file")?;
        self.on_disk = Some(bytes);
        Ok(true)
    }
}

/// The blocks that the file lists as shipped; changes nothing. A missing file lists none.
pub(crate) fn shipped(disk: &Disk, path: &Path) -> Result<BTreeSet<Ulid>> {
    let entries = match read(disk, path) {
        Err(err) if err.kind() == Kind::NotFound => return Ok(BTreeSet::new()),
        other => other?.entries,
    };
    Ok(entries.into_iter().filter(|entry| entry.shipped).map(|entry| entry.ulid).collect())
}

fn read(disk: &Disk, path: &Path) -> Result<LedgerFile> {
    let bytes = disk.read(path, limits::META_BYTES_MAX).map_err(|err| failed_to_read(err, path))?;
    LedgerFile::parse(&bytes, path)
}

fn failed_to_read(err: Error, path: &Path) -> Error {
    err.context(format!("failed to read {}", path.display()))
}

impl LedgerFile {
    /// Reads the bytes of the file. `path` only names it in errors; the disk is not touched.
    ///
    /// `Errors:` `Corrupt`, in Thanos's words.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<LedgerFile> {
        let no_ledger = |err: Error| {
            let text = String::from_utf8_lossy(bytes.get(..bytes.len().min(256)).unwrap_or_default()).into_owned();
            err.context(format!("failed to parse {} as JSON: {text:?}", path.display()))
        };
        let corrupt = |text: &str| Error::new(Kind::Corrupt, text);
        let Json::Object(root) = json::parse(bytes).map_err(no_ledger)? else {
            return Err(no_ledger(corrupt("not an object")));
        };
        match root.value("version") {
            Some(Json::Number(version)) if version == "1" => {}
            Some(Json::Number(version)) => return Err(corrupt(&format!("unexpected meta file version {version}"))),
            _ => return Err(corrupt("unexpected meta file version 0")),
        }
        let names = |member: &str| match root.value(member) {
            None | Some(Json::Null) => Ok(Vec::new()),
            Some(Json::Array(items)) => items
                .iter()
                .map(|item| match item {
                    Json::Text(text) => Ulid::parse(text).ok_or_else(|| no_ledger(corrupt("not a ULID"))),
                    _ => Err(no_ledger(corrupt("not a text"))),
                })
                .collect(),
            Some(_) => Err(no_ledger(corrupt("not a list"))),
        };
        let unshipped: BTreeSet<Ulid> = names(UNSHIPPED)?.into_iter().collect();
        let uploaded = names("uploaded")?.into_iter();
        let entries = uploaded.map(|ulid| LedgerEntry { ulid, shipped: !unshipped.contains(&ulid) }).collect();
        // Only people and metrics need it, so a time that cannot be read spoils nothing.
        let last_upload = match root.value(LAST_UPLOAD) {
            Some(Json::Text(text)) => text.parse().ok(),
            _ => None,
        };
        Ok(LedgerFile { entries, last_upload })
    }

    /// The file as Thanos writes it, with two members of our own.
    pub fn write(&self) -> Vec<u8> {
        let names = |wanted: &dyn Fn(&LedgerEntry) -> bool| -> Vec<Json> {
            self.entries.iter().filter(|entry| wanted(entry)).map(|entry| Json::text(entry.ulid.as_str())).collect()
        };
        let mut root = Object::default();
        root.set("version", Json::number(1));
        let all = names(&|_| true);
        root.set("uploaded", if all.is_empty() { Json::Null } else { Json::Array(all) });
        let unshipped = names(&|entry| !entry.shipped);
        if !unshipped.is_empty() {
            root.set(UNSHIPPED, Json::Array(unshipped));
        }
        if let Some(time) = self.last_upload {
            root.set(LAST_UPLOAD, Json::text(time.to_string()));
        }
        json::write(&Json::Object(root)).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::files::Op;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn ulid(n: u32) -> Ulid {
        Ulid::parse(&format!("{n:026}")).unwrap()
    }

    #[test]
    fn a_missing_ledger_is_created_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thanos.shipper.json");
        let ledger = Ledger::open(&path, Disk::real());
        assert!(ledger.entries().is_empty());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\n\t\"version\": 1,\n\t\"uploaded\": null\n}\n");
    }

    #[test]
    fn blocks_are_listed_in_thanoss_form_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thanos.shipper.json");
        let mut ledger = Ledger::open(&path, Disk::real());
        ledger.set(vec![LedgerEntry { ulid: ulid(1), shipped: true }, LedgerEntry { ulid: ulid(2), shipped: true }]);
        assert!(ledger.save().unwrap());
        assert!(!ledger.save().unwrap());
        let (one, two) = (ulid(1), ulid(2));
        let expected = format!("{{\n\t\"version\": 1,\n\t\"uploaded\": [\n\t\t\"{one}\",\n\t\t\"{two}\"\n\t]\n}}\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);

        ledger.set(vec![LedgerEntry { ulid: ulid(1), shipped: true }, LedgerEntry { ulid: ulid(2), shipped: false }]);
        assert!(ledger.save().unwrap());
        let again = Ledger::open(&path, Disk::real());
        assert_eq!(again.entries(), ledger.entries());
        assert_eq!(again.entry(ulid(2)), Some(LedgerEntry { ulid: ulid(2), shipped: false }));
        assert_eq!(again.entry(ulid(3)), None);
    }

    #[test]
    fn the_time_of_the_last_upload_survives_and_nothing_depends_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thanos.shipper.json");
        let time: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let mut ledger = Ledger::open(&path, Disk::real());
        ledger.set(vec![LedgerEntry { ulid: ulid(1), shipped: true }]);
        ledger.uploaded_at(time);
        ledger.save().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("],\n\t\"pillion_last_upload\": \"2026-01-02T03:04:05Z\"\n}\n"), "{text}");
        assert_eq!(Ledger::open(&path, Disk::real()).last_upload(), Some(time));
        std::fs::write(&path, text.replace("2026-", "x")).unwrap();
        let again = Ledger::open(&path, Disk::real());
        assert_eq!((again.last_upload(), again.entries().len()), (None, 1));
    }

    #[test]
    fn an_unchanged_ledger_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thanos.shipper.json");
        let n_renames = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&n_renames);
        let disk = Disk::watched(move |step| {
            assert!(step.op != Op::RemoveFile, "{step:?}");
            count.fetch_add(usize::from(step.op == Op::Rename), Ordering::SeqCst);
            Ok(())
        });
        let mut ledger = Ledger::open(&path, disk.clone());
        ledger.reload().unwrap();
        ledger.save().unwrap();
        let mut ledger = Ledger::open(&path, disk);
        ledger.set(vec![LedgerEntry { ulid: ulid(1), shipped: true }]);
        ledger.save().unwrap();
        ledger.save().unwrap();
        assert_eq!(n_renames.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn garbage_is_replaced_and_said_in_thanoss_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thanos.shipper.json");
        let shown = path.display();
        for (content, expected) in [
            ("{", format!("failed to parse {shown} as JSON: \"{{\": unexpected end of JSON input")),
            (r#"{"version":2}"#, "unexpected meta file version 2".to_owned()),
            (r#"{"version":1,"uploaded":["x"]}"#, String::new()),
            ("\0\0\0", String::new()),
        ] {
            std::fs::write(&path, content).unwrap();
            let err = read(&Disk::real(), &path).unwrap_err();
            assert!(expected.is_empty() || err.to_string() == expected, "{err}");
            let ledger = Ledger::open(&path, Disk::real());
            assert!(ledger.entries().is_empty() && ledger.was_damaged());
            assert!(read(&Disk::real(), &path).is_ok());
            // What it held is kept.
            let entries = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
            let aside: Vec<_> = entries.filter(|path| path.to_str().unwrap().contains(".bad-")).collect();
            assert_eq!(aside.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>(), [content]);
            std::fs::remove_file(&aside[0]).unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        let err = read(&Disk::real(), &path).unwrap_err();
        assert_eq!(err.to_string(), format!("failed to read {shown}: open {shown}: no such file or directory"));
    }

    #[test]
    fn a_ledger_that_is_there_and_cannot_be_read_is_not_replaced_by_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thanos.shipper.json");
        let mut ledger = Ledger::open(&path, Disk::real());
        ledger.set(vec![LedgerEntry { ulid: ulid(1), shipped: true }]);
        ledger.save().unwrap();
        let before = std::fs::read(&path).unwrap();
        // EIO, EACCES, ESTALE.
        for errno in [5, 13, 116] {
            let fails = Arc::new(AtomicUsize::new(1));
            let flag = Arc::clone(&fails);
            let disk = Disk::watched(move |step| match (step.op, flag.load(Ordering::SeqCst)) {
                (Op::Open, 1) if step.path.ends_with("thanos.shipper.json") => {
                    Err(std::io::Error::from_raw_os_error(errno))
                }
                _ => Ok(()),
            });
            let mut ledger = Ledger::open(&path, disk);
            ledger.reload().unwrap_err();
            assert!(!ledger.save().unwrap() && !ledger.was_damaged());
            assert_eq!(std::fs::read(&path).unwrap(), before, "{errno}");
            fails.store(0, Ordering::SeqCst);
            ledger.reload().unwrap();
            assert_eq!(ledger.entries(), [LedgerEntry { ulid: ulid(1), shipped: true }], "{errno}");
        }
    }

    #[test]
    fn what_could_not_be_written_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thanos.shipper.json");
        let full = Arc::new(AtomicUsize::new(0));
        let flag = Arc::clone(&full);
        let disk = Disk::watched(move |step| match (step.op, flag.load(Ordering::SeqCst)) {
            (Op::Write, 1) => Err(std::io::Error::from_raw_os_error(28)),
            _ => Ok(()),
        });
        let mut ledger = Ledger::open(&path, disk);
        full.store(1, Ordering::SeqCst);
        ledger.set(vec![LedgerEntry { ulid: ulid(1), shipped: true }]);
        ledger.save().unwrap_err();
        ledger.reload().unwrap();
        assert_eq!(ledger.entries().len(), 1);
        full.store(0, Ordering::SeqCst);
        assert!(ledger.save().unwrap());
        assert_eq!(Ledger::open(&path, Disk::real()).entries().len(), 1);
    }

    #[test]
    fn a_data_directory_that_comes_back_has_lost_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (data, away) = (dir.path().join("data"), dir.path().join("away"));
        std::fs::create_dir(&data).unwrap();
        let path = data.join("thanos.shipper.json");
        let mut ledger = Ledger::open(&path, Disk::real());
        let listed = vec![LedgerEntry { ulid: ulid(1), shipped: true }];
        ledger.set(listed.clone());
        ledger.save().unwrap();
        std::fs::rename(&data, &away).unwrap();
        ledger.reload().unwrap();
        assert!(!ledger.save().unwrap());
        std::fs::rename(&away, &data).unwrap();
        ledger.reload().unwrap();
        assert_eq!(ledger.entries(), listed);
        // The same with an empty folder in its place, as of a disk that is not mounted.
        std::fs::rename(&data, &away).unwrap();
        std::fs::create_dir(&data).unwrap();
        ledger.reload().unwrap();
        ledger.save().unwrap();
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::rename(&away, &data).unwrap();
        ledger.reload().unwrap();
        assert_eq!(ledger.entries(), listed);
    }

    #[test]
    fn a_file_that_breaks_while_we_run_loses_nothing_and_one_that_is_removed_is_a_reset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thanos.shipper.json");
        let mut ledger = Ledger::open(&path, Disk::real());
        ledger.set(vec![LedgerEntry { ulid: ulid(1), shipped: true }]);
        ledger.save().unwrap();
        std::fs::write(&path, "").unwrap();
        ledger.reload().unwrap();
        assert!(ledger.save().unwrap());
        assert_eq!(ledger.entries().len(), 1);
        std::fs::remove_file(&path).unwrap();
        ledger.reload().unwrap();
        assert!(ledger.save().unwrap());
        assert!(ledger.entries().is_empty());
    }
}
