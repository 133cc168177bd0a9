//! `<data dir>/thanos/upload`: claims on the disk. A claim is a folder with hard links to a block's files, so that
//! neither Prometheus's retention nor a restart loses the block before it is shipped.
//!
//! Only meta.json is written and not linked, because editing a link would edit Prometheus's own file. It carries a mark
//! and is written last, when all else is synced, and removed first when a claim ends. So a folder without a marked
//! meta.json is no claim but a leftover: a claim that was not finished, or the work of another program. `pillion.json`
//! in the folder says how far the upload has come. Never decides what is claimed or for how long; `claims` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::limits;
use crate::meta::Meta;
use crate::plan::Found;
use crate::ulid::Ulid;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Disk;

/// Mode of the folders, as in Thanos.
const DIR_MODE: u32 = 0o750;
/// Name of the file with the state of the upload.
const STATE: &str = "pillion.json";

/// The folder of claims.
pub(crate) struct Spool {
    dir: PathBuf,
    disk: Disk,
}

/// What a folder with the name of a block is.
pub(crate) enum SpoolEntry {
    /// A claim.
    Claim {
        /// Its meta.json without the mark.
        meta: Box<Meta>,
        /// Whether its labels are pinned.
        is_pinned: bool,
    },
    /// Not a claim, or a claim that was not finished.
    Leftover,
    /// A folder with a state or with all links of a block, whose meta.json cannot be understood.
    Damaged(Error),
}

impl Spool {
    /// The claims of `data_dir`; the folder is created with the first one.
    pub(crate) fn new(data_dir: &Path, disk: Disk) -> Self {
        Spool { dir: data_dir.join("thanos").join("upload"), disk }
    }

    /// The folder of a block's claim.
    pub(crate) fn dir(&self, ulid: Ulid) -> PathBuf {
        self.dir.join(ulid.as_str())
    }

    /// The state file of a block's claim.
    pub(crate) fn state_path(&self, ulid: Ulid) -> PathBuf {
        self.dir(ulid).join(STATE)
    }

    /// Size of the file system that holds the claims. `Units:` bytes.
    pub(crate) fn capacity(&self) -> Result<u64> {
        self.disk.capacity(&self.dir).or_else(|_| {
            let data_dir = self.dir.ancestors().nth(2).unwrap_or(&self.dir);
            self.disk.capacity(data_dir)
        })
    }

    /// Bytes of that file system that are free. `Units:` bytes.
    pub(crate) fn available(&self) -> Result<u64> {
        self.disk.available(&self.dir)
    }

    /// The blocks that have a folder, claim or not. Removes everything else; a failure to do so is returned beside the
    /// blocks, because it is no reason to pass over the claims.
    pub(crate) fn list(&self) -> Result<(Vec<Ulid>, Option<Error>)> {
        let entries = match self.disk.list(&self.dir) {
            Err(err) if err.kind() == Kind::NotFound => return Ok((Vec::new(), None)),
            other => other.context(|| "read claims")?,
        };
        let (mut ulids, mut failed) = (Vec::new(), None);
        for entry in entries {
            let path = self.dir.join(&entry.name);
            let removed = match Ulid::parse(&entry.name) {
                Some(ulid) if entry.kind.is_dir() => {
                    ulids.push(ulid);
                    continue;
                }
                _ if entry.kind.is_dir() => self.disk.remove_tree(&path),
                _ => self.disk.remove_file(&path),
            };
            failed = failed.or(removed.err());
        }
        Ok((ulids, failed))
    }

    /// The blocks that have a folder; changes nothing.
    pub(crate) fn names(&self) -> Result<Vec<Ulid>> {
        let entries = match self.disk.list(&self.dir) {
            Err(err) if err.kind() == Kind::NotFound => return Ok(Vec::new()),
            other => other.context(|| "read claims")?,
        };
        Ok(entries.iter().filter_map(|entry| Ulid::parse(&entry.name)).collect())
    }

    /// What the folder of a block is.
    ///
    /// `Errors:` when it cannot be read, also on a bad sector: it may be the last copy of a block.
    pub(crate) fn load(&self, ulid: Ulid) -> Result<SpoolEntry> {
        let bytes = match self.disk.read(&self.dir(ulid).join("meta.json"), limits::META_BYTES_MAX) {
            Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Limit) => return Ok(SpoolEntry::Leftover),
            other => other.context(|| format!("read claim of block {ulid}"))?,
        };
        let parsed = match Meta::parse(&bytes) {
            // It is written last, so only a bad disk damages it; other programs leave it half written.
            Err(err) => {
                return match self.disk.stat(&self.dir(ulid).join("index")) {
                    Ok(_) => Ok(SpoolEntry::Damaged(err)),
                    Err(gone) if gone.kind() == Kind::NotFound => Ok(SpoolEntry::Leftover),
                    // What nobody can look at now must not be removed.
                    Err(unknown) => Err(unknown.context(format!("read claim of block {ulid}"))),
                };
            }
            Ok(parsed) => parsed,
        };
        let mut meta = Box::new(parsed);
        Ok(match meta.take_claim() {
            Some(is_pinned) if meta.ulid == ulid => SpoolEntry::Claim { meta, is_pinned },
            _ => SpoolEntry::Leftover,
        })
    }

    /// Claims the block in `block_dir`: links its chunk files and its index, then writes `meta`. Returns the folder.
    /// From then on the claim survives a power cut; before, it is a leftover.
    ///
    /// `Errors:` `Permanent` if links are refused, or nothing can be written at all. `NotFound` if Prometheus removes
    /// the block meanwhile.
    pub(crate) fn claim(&self, block_dir: &Path, chunks: &[String], meta: &Meta, is_pinned: bool) -> Result<PathBuf> {
        let dir = self.dir(meta.ulid);
        self.release(meta.ulid)?;
        let above = self.dir.parent().unwrap_or(&self.dir);
        let chunks_dir = dir.join("chunks");
        for folder in [above, &self.dir, &dir, &chunks_dir] {
            self.disk.create_dir(folder, DIR_MODE)?;
        }
        for chunk in chunks {
            self.disk.link(&block_dir.join("chunks").join(chunk), &chunks_dir.join(chunk))?;
        }
        self.disk.link(&block_dir.join("index"), &dir.join("index"))?;
        // The mark says that all of this is on the disk, so it is synced first, from the bottom up.
        let data_dir = above.parent().unwrap_or(above);
        for folder in [&chunks_dir, &dir, &self.dir, above, data_dir] {
            self.disk.sync_dir(folder)?;
        }
        self.write_meta(meta, is_pinned)?;
        Ok(dir)
    }

    /// Writes or replaces the meta.json of a claim.
    pub(crate) fn write_meta(&self, meta: &Meta, is_pinned: bool) -> Result<()> {
        let bytes = meta.claimed(is_pinned).write()?;
        self.disk.replace(&self.dir(meta.ulid).join("meta.json"), &bytes)
    }

    /// Ends a claim and removes its files, but keeps its state.
    pub(crate) fn empty(&self, ulid: Ulid) -> Result<()> {
        let dir = self.dir(ulid);
        self.unmark(&dir)?;
        self.disk.remove_tree(&dir.join("chunks")).context(|| "failed to clean upload directory")?;
        match self.disk.remove_file(&dir.join("index")) {
            Err(err) if err.kind() != Kind::NotFound => Err(err.context("failed to clean upload directory")),
            _ => Ok(()),
        }
    }

    /// Ends a claim and removes all of it. A claim that is not there is no error.
    pub(crate) fn release(&self, ulid: Ulid) -> Result<()> {
        let dir = self.dir(ulid);
        let removed = self.unmark(&dir).and_then(|()| self.disk.remove_tree(&dir));
        removed.context(|| "failed to clean upload directory")
    }

    /// Removes the mark. Then the folder is a leftover, also after a power cut: a claim never lacks some of its files.
    fn unmark(&self, dir: &Path) -> Result<()> {
        match self.disk.remove_file(&dir.join("meta.json")) {
            Err(err) if err.kind() == Kind::NotFound => Ok(()),
            other => other.and_then(|()| self.disk.sync_dir(dir)),
        }
    }
}

/// Which blocks are claimed, and whether their labels are pinned. Blocks that only a claim has kept are added to
/// `found`; other claimed blocks get the meta.json of their claim. Changes nothing.
pub(crate) fn claimed(disk: &Disk, data_dir: &Path, found: &mut Vec<Found>) -> Result<BTreeMap<Ulid, bool>> {
    let spool = Spool::new(data_dir, disk.clone());
    let mut claims = BTreeMap::new();
    for ulid in spool.names()? {
        let meta = match spool.load(ulid) {
            Ok(SpoolEntry::Claim { meta, is_pinned }) => {
                claims.insert(ulid, is_pinned);
                Ok(*meta)
            }
            Ok(SpoolEntry::Leftover) => continue,
            Ok(SpoolEntry::Damaged(err)) | Err(err) => Err(err),
        };
        match found.iter_mut().find(|found| found.ulid == ulid) {
            Some(found) if meta.is_ok() => found.meta = meta,
            Some(_) => {}
            None => found.push(Found { ulid, dir: spool.dir(ulid), is_local: false, meta }),
        }
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::files::Op;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::sync::{Arc, Mutex};

    const ULID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn block(data_dir: &Path) -> (Meta, PathBuf) {
        let text = format!(r#"{{"version":1,"ulid":"{ULID}"}}"#);
        let dir = data_dir.join(ULID);
        std::fs::create_dir_all(dir.join("chunks")).unwrap();
        for name in ["meta.json", "index", "tombstones", "chunks/000001"] {
            std::fs::write(dir.join(name), name).unwrap();
        }
        (Meta::parse(text.as_bytes()).unwrap(), dir)
    }

    fn is_claim(spool: &Spool, meta: &Meta) -> Option<bool> {
        match spool.load(meta.ulid).unwrap() {
            SpoolEntry::Claim { meta: loaded, is_pinned } => {
                assert_eq!(loaded.write().unwrap(), meta.write().unwrap());
                Some(is_pinned)
            }
            SpoolEntry::Leftover | SpoolEntry::Damaged(_) => None,
        }
    }

    #[test]
    fn chunks_and_index_are_links_and_meta_json_is_not() {
        let data_dir = tempfile::tempdir().unwrap();
        let (meta, dir) = block(data_dir.path());
        let spool = Spool::new(data_dir.path(), Disk::real());
        let chunks = ["000001".to_owned()];
        let claim = spool.claim(&dir, &chunks, &meta, false).unwrap();
        let inode = |dir: &Path, name: &str| std::fs::metadata(dir.join(name)).unwrap().ino();
        for name in ["index", "chunks/000001"] {
            assert_eq!(inode(&dir, name), inode(&claim, name), "{name}");
        }
        assert_eq!(std::fs::read(dir.join("meta.json")).unwrap(), b"meta.json");
        assert!(!claim.join("tombstones").exists());
        assert_eq!(std::fs::metadata(&claim).unwrap().permissions().mode() & 0o777, DIR_MODE);
        assert_eq!(is_claim(&spool, &meta), Some(false));
        spool.write_meta(&meta, true).unwrap();
        assert_eq!(is_claim(&spool, &meta), Some(true));
        spool.claim(&dir, &chunks, &meta, false).unwrap();
        spool.release(meta.ulid).unwrap();
        spool.release(meta.ulid).unwrap();
        assert!(!claim.exists());
        assert_eq!(std::fs::metadata(dir.join("index")).unwrap().nlink(), 1);
    }

    #[test]
    fn the_mark_comes_last_and_goes_first_with_a_sync_before_and_after() {
        let data_dir = tempfile::tempdir().unwrap();
        let (meta, dir) = block(data_dir.path());
        let steps = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&steps);
        let root = data_dir.path().to_owned();
        let disk = Disk::watched(move |step| {
            let path = step.to.unwrap_or(step.path);
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            seen.lock().unwrap().push((step.op, name.replace(ULID, "_").replace("thanos/upload/_", "claim")));
            Ok(())
        });
        let spool = Spool::new(data_dir.path(), disk);
        spool.claim(&dir, &["000001".to_owned()], &meta, true).unwrap();
        let seen = std::mem::take(&mut *steps.lock().unwrap());
        let steps_of = |wanted: &[Op]| -> Vec<String> {
            seen.iter().filter(|(op, _)| wanted.contains(op)).map(|(_, name)| name.clone()).collect()
        };
        assert_eq!(
            steps_of(&[Op::Link, Op::SyncDir, Op::Rename]),
            [
                "claim/chunks/000001",
                "claim/index",
                "claim/chunks",
                "claim",
                "thanos/upload",
                "thanos",
                "",
                "claim/meta.json",
                "claim"
            ]
        );
        spool.release(meta.ulid).unwrap();
        let ended = std::mem::take(&mut *steps.lock().unwrap());
        let first: Vec<_> = ended.iter().take(2).map(|(op, name)| (*op, name.as_str())).collect();
        assert_eq!(first, [(Op::RemoveFile, "claim/meta.json"), (Op::SyncDir, "claim")]);
    }

    #[test]
    fn what_is_not_a_claim_is_told_apart() {
        let data_dir = tempfile::tempdir().unwrap();
        let (meta, dir) = block(data_dir.path());
        let spool = Spool::new(data_dir.path(), Disk::real());
        assert!(spool.list().unwrap().0.is_empty());
        let claim = spool.claim(&dir, &["000001".to_owned()], &meta, true).unwrap();
        std::fs::write(claim.with_file_name("stray"), b"x").unwrap();
        std::fs::create_dir(claim.with_file_name("folder")).unwrap();
        assert_eq!(spool.list().unwrap(), (vec![meta.ulid], None));
        assert_eq!(std::fs::read_dir(claim.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(is_claim(&spool, &meta), Some(true));
        let path = claim.join("meta.json");
        let marked = std::fs::read_to_string(&path).unwrap();
        // The disk fails while it is looked at what a damaged one is.
        std::fs::write(&path, "{").unwrap();
        let failing = Disk::watched(|step| match step.op {
            Op::Stat => Err(std::io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        });
        assert!(Spool::new(data_dir.path(), failing).load(meta.ulid).is_err());
        assert!(matches!(spool.load(meta.ulid).unwrap(), SpoolEntry::Damaged(_)));
        // Of another block, of another program, half written, and not there.
        for text in [marked.replace("FAV", "FAW"), marked.replace("pillion_claim", "x"), "{".to_owned()] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(is_claim(&spool, &meta), None);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(is_claim(&spool, &meta), None);
        std::fs::write(spool.state_path(meta.ulid), b"state").unwrap();
        spool.empty(meta.ulid).unwrap();
        spool.empty(meta.ulid).unwrap();
        assert_eq!(std::fs::read_dir(&claim).unwrap().count(), 1);
    }
}
