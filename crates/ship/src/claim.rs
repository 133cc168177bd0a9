//! A claimed block: where its files can be read even after Prometheus has removed its own folder, and the record of its
//! upload. Never uploads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::LOG_TARGET;
use crate::limits;
use crate::meta::Meta;
use crate::progress::{Progress, Sent};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::{Disk, Source};
use pillion_bucket::{Attributes, Journal, Parts};

/// A block that can be shipped even after Prometheus has removed it.
pub(crate) struct Claim {
    /// Its meta.json; with the Thanos section once the labels are pinned.
    pub(crate) meta: Meta,
    /// Whether the labels are pinned: decided, never to change again.
    pub(crate) is_pinned: bool,
    /// Whether the pinned labels have yet to be written to the disk.
    pub(crate) is_pin_owed: bool,
    /// The names in its `chunks/`, sorted.
    pub(crate) chunks: Vec<String>,
    /// Size of its chunk files and its index.
    pub(crate) bytes: u64,
    /// Where they are.
    pub(crate) files: Files,
    /// How far the upload has come.
    pub(crate) record: Record,
}

/// Where the files of a claim are.
pub(crate) enum Files {
    /// Hard links in this folder.
    Linked(PathBuf),
    /// Open descriptors, by the names of the files inside the block.
    Open {
        /// The files.
        sources: BTreeMap<String, Source>,
        /// Whether hard links are refused for good; otherwise they are tried again.
        is_refused: bool,
    },
}

impl Claim {
    /// The names of its files inside the block, in the order of their upload.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.chunks.iter().map(|name| format!("chunks/{name}")).chain(["index".to_owned()])
    }

    /// Opens one of its files.
    pub(crate) fn open(&self, disk: &Disk, name: &str) -> Result<Source> {
        match &self.files {
            Files::Linked(dir) => disk.open_source(&dir.join(name)),
            Files::Open { sources, .. } => sources
                .get(name)
                .cloned()
                .ok_or_else(|| Error::new(Kind::NotFound, format!("{name} of block {} is not open", self.meta.ulid))),
        }
    }

    /// How many descriptors the claim holds.
    pub(crate) fn n_open(&self) -> usize {
        match &self.files {
            Files::Linked(_) => 0,
            Files::Open { sources, .. } => sources.len(),
        }
    }
}

/// How far an upload has come; written after every change, if there is a folder for it. Several threads use it at once.
pub(crate) struct Record {
    progress: Mutex<Progress>,
    /// The state file.
    file: Option<(Disk, PathBuf)>,
    bucket: String,
    is_logged: AtomicBool,
    /// What the bucket has of the block, for who wants to see it move.
    stored_bytes: Arc<AtomicU64>,
}

impl Record {
    /// An empty record, kept in `file`, or in memory only.
    pub(crate) fn new(bucket: &str, file: Option<(Disk, PathBuf)>) -> Record {
        Record {
            progress: Mutex::default(),
            file,
            bucket: bucket.to_owned(),
            is_logged: AtomicBool::new(false),
            stored_bytes: Arc::default(),
        }
    }

    /// The record that an earlier run left at `path`; an empty one if it cannot be read.
    pub(crate) fn load(bucket: &str, disk: &Disk, path: PathBuf) -> Record {
        let progress = disk.read(&path, limits::PROGRESS_BYTES_MAX).ok();
        let progress = progress.and_then(|bytes| Progress::parse(&bytes, bucket)).unwrap_or_default();
        let stored_bytes = Arc::new(AtomicU64::new(progress.stored_bytes()));
        let record = Record::new(bucket, Some((disk.clone(), path)));
        Record { progress: Mutex::new(progress), stored_bytes, ..record }
    }

    /// The same record, from now on without a file.
    pub(crate) fn in_memory(self) -> Record {
        Record { file: None, ..self }
    }

    /// The same record in a file, which is written at once unless the record is empty.
    pub(crate) fn in_file(self, disk: &Disk, path: PathBuf) -> Record {
        let record = Record { file: Some((disk.clone(), path)), ..self };
        if *record.lock() != Progress::default() {
            record.update(|_| ());
        }
        record
    }

    /// The attributes that the bucket gave an object when all of it was stored.
    pub(crate) fn done(&self, name: &str) -> Option<Attributes> {
        match self.lock().objects.get(name) {
            Some(Sent::Done(attributes)) => Some(attributes.clone()),
            _ => None,
        }
    }

    /// Records that all of an object is stored.
    pub(crate) fn set_done(&self, name: &str, attributes: Attributes) {
        self.update(|progress| drop(progress.objects.insert(name.to_owned(), Sent::Done(attributes))));
    }

    /// Forgets an object, because it has to be sent again.
    pub(crate) fn forget(&self, name: &str) {
        self.update(|progress| drop(progress.objects.remove(name)));
    }

    /// The SHA-256 of a file, if it is known.
    pub(crate) fn sha256(&self, name: &str) -> Option<String> {
        self.lock().sha256.get(name).cloned()
    }

    /// Records the SHA-256 of a file.
    pub(crate) fn set_sha256(&self, name: &str, hash: String) {
        self.update(|progress| drop(progress.sha256.insert(name.to_owned(), hash)));
    }

    /// What is under way in parts, by the names of objects inside the block.
    pub(crate) fn open_parts(&self) -> Vec<(String, Parts)> {
        self.lock().open_parts()
    }

    /// Bytes of the block that the bucket has; it moves with the upload.
    pub(crate) fn stored_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.stored_bytes)
    }

    /// The journal of one object.
    pub(crate) fn journal<'a>(&'a self, name: &'a str) -> ObjectJournal<'a> {
        ObjectJournal { record: self, name }
    }

    /// Changes the record and writes it. On a full disk the upload cannot be resumed after a restart. That is no reason
    /// to stop shipping, because shipping is what makes room again.
    fn update(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.lock();
        change(&mut progress);
        self.stored_bytes.store(progress.stored_bytes(), Ordering::Relaxed);
        let Some((disk, path)) = &self.file else { return };
        // Written under the lock, so that an older text never replaces a newer one.
        let written = disk.replace(path, &progress.write(&self.bucket));
        if let Err(err) = written
            && !self.is_logged.swap(true, Ordering::Relaxed)
        {
            log::warn!(target: LOG_TARGET, err = err.to_string(); "the state of an upload cannot be written; after a restart it begins anew");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The journal of one object of a block.
pub(crate) struct ObjectJournal<'a> {
    record: &'a Record,
    name: &'a str,
}

impl Journal for ObjectJournal<'_> {
    fn parts(&self) -> Option<Parts> {
        match self.record.lock().objects.get(self.name) {
            Some(Sent::Parts(parts)) => Some(parts.clone()),
            _ => None,
        }
    }

    fn record(&self, parts: Option<&Parts>) -> Result<()> {
        self.record.update(|progress| match parts {
            Some(parts) => drop(progress.objects.insert(self.name.to_owned(), Sent::Parts(parts.clone()))),
            None => drop(progress.objects.remove(self.name)),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::files::Op;

    fn attributes() -> Attributes {
        Attributes { size_bytes: 5, tag: "t".into() }
    }

    #[test]
    fn what_was_recorded_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pillion.json");
        let record = Record::load("b", &Disk::real(), path.clone());
        record.set_done("index", attributes());
        let parts = Parts { upload_id: "u".into(), part_bytes: 3, size_bytes: 9, sent: Vec::new() };
        record.journal("chunks/000001").record(Some(&parts)).unwrap();
        record.set_sha256("index", "ab".into());

        let again = Record::load("b", &Disk::real(), path.clone());
        assert_eq!(again.done("index"), Some(attributes()));
        assert_eq!(again.done("chunks/000001"), None);
        assert_eq!(again.journal("chunks/000001").parts(), Some(parts.clone()));
        assert_eq!(again.journal("index").parts(), None);
        assert_eq!(again.sha256("index").as_deref(), Some("ab"));
        assert_eq!(again.open_parts(), [("chunks/000001".to_owned(), parts)]);
        assert_eq!(again.stored_bytes().load(Ordering::Relaxed), 5);
        again.journal("chunks/000001").record(None).unwrap();
        again.forget("index");
        assert!(Record::load("b", &Disk::real(), path.clone()).open_parts().is_empty());

        std::fs::write(&path, "garbage").unwrap();
        assert_eq!(Record::load("b", &Disk::real(), path).sha256("index"), None);
    }

    #[test]
    fn a_full_disk_loses_the_record_only_at_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pillion.json");
        let full = Disk::watched(|step| match step.op {
            Op::Write => Err(std::io::Error::from_raw_os_error(28)),
            _ => Ok(()),
        });
        let record = Record::new("b", Some((full, path.clone())));
        record.set_done("index", attributes());
        assert_eq!(record.done("index"), Some(attributes()));
        assert!(!path.exists());
        let record = record.in_memory().in_file(&Disk::real(), path.clone());
        assert_eq!(record.done("index"), Some(attributes()));
        assert_eq!(Record::load("b", &Disk::real(), path).done("index"), Some(attributes()));
    }
}
