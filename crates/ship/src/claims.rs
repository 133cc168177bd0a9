//! The life of claims. A block is claimed when it is first seen, and its claim is found again after a restart. Its
//! labels are pinned once they are known. The claim ends when the block is shipped. When claims take more disk than
//! they may, the newest are given up first.
//!
//! Where hard links are refused, or cannot be made just now, a block's files are held open instead. That protects from
//! Prometheus's retention too, but not over a restart.
//!
//! A claim that ends while an upload in parts is under way leaves its state file behind, until the bucket has dropped
//! the parts. Never touches a file of Prometheus, and never uploads.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::LOG_TARGET;
use crate::claim::{Claim, Files, Record};
use crate::limits;
use crate::meta::Meta;
use crate::plan::Found;
use crate::scan::{self, Examined};
use crate::spool::{Spool, SpoolEntry};
use crate::ulid::Ulid;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Disk;
use pillion_base::labels::Labels;
use pillion_base::stop::Stop;
use pillion_bucket::Bucket;

/// The claimed blocks.
pub(crate) struct Claims {
    spool: Spool,
    disk: Disk,
    bucket_name: String,
    /// Descriptors that may hold blocks open.
    open_max: usize,
    held: BTreeMap<Ulid, Claim>,
    /// Ended claims whose parts the bucket may still hold.
    ended: Vec<(Ulid, Record)>,
    /// The claim that is being uploaded, which is therefore not in `held`.
    uploading: Option<Uploading>,
    /// Whether the last [`Claims::find`] may have missed claims.
    has_unread: bool,
    /// Folders of claims that cannot be used now, with the reason.
    unread: BTreeMap<Ulid, Error>,
    /// The subjects that were logged; each is logged once.
    logged: BTreeSet<String>,
}

/// What is known of the claim that is being uploaded.
struct Uploading {
    ulid: Ulid,
    /// The paths of its files, or their total size if the files have no path.
    files: Result<Vec<PathBuf>, u64>,
}

/// How an attempt to claim a block ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimOutcome {
    /// It is claimed.
    Claimed,
    /// Its files would have to be held open, and no descriptors are left for that.
    NoDescriptors,
    /// Prometheus has removed it.
    Gone,
}

/// What claims may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// At most so many bytes; 0 is a share of the file system.
    pub(crate) bytes: u64,
    /// So many bytes of the file system stay free; 0 is a share of it.
    pub(crate) reserve_bytes: u64,
}

/// What claims cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Bytes that would be free without the claims.
    pub(crate) bytes: u64,
    /// Blocks that were given up because claims were over their budget.
    pub(crate) n_given_up: u64,
}

impl Claims {
    /// No claims yet; [`Claims::find`] finds those of an earlier run.
    pub(crate) fn new(spool: Spool, disk: Disk, bucket_name: &str, open_max: usize) -> Self {
        let (held, ended, logged) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Claims {
            spool,
            disk,
            bucket_name: bucket_name.to_owned(),
            open_max,
            held,
            ended,
            uploading: None,
            has_unread: false,
            unread: BTreeMap::new(),
            logged,
        }
    }

    /// The bucket that uploads go to from now on. What another one holds of a block is not taken for what this one holds.
    pub(crate) fn set_bucket_name(&mut self, name: &str) {
        name.clone_into(&mut self.bucket_name);
        for (ulid, claim) in &mut self.held {
            claim.record = match &claim.files {
                Files::Linked(_) => Record::load(name, &self.disk, self.spool.state_path(*ulid)),
                Files::Open { .. } => Record::new(name, None),
            };
        }
        // Only the other one could drop their parts; its lifecycle rules do.
        self.ended.clear();
    }

    /// The claimed blocks.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ulid, &Claim)> {
        self.held.iter().map(|(ulid, claim)| (*ulid, claim))
    }

    /// Whether there may be claims on the disk that cannot be read now.
    pub(crate) fn has_unread(&self) -> bool {
        self.has_unread
    }

    /// Folders of claims that cannot be used now, with the reason.
    pub(crate) fn unread(&self) -> impl Iterator<Item = (Ulid, &Error)> {
        self.unread.iter().map(|(ulid, err)| (*ulid, err))
    }

    /// The claim of a block.
    pub(crate) fn get(&self, ulid: Ulid) -> Option<&Claim> {
        self.held.get(&ulid)
    }

    /// Takes a claim out while its block is uploaded; [`Claims::put_back`] must follow.
    pub(crate) fn take(&mut self, ulid: Ulid) -> Option<Claim> {
        let claim = self.held.remove(&ulid)?;
        self.uploading = Some(Uploading { ulid, files: files(&claim) });
        Some(claim)
    }

    fn is_uploading(&self, ulid: Ulid) -> bool {
        self.uploading.as_ref().is_some_and(|claim| claim.ulid == ulid)
    }

    /// Puts a claim back.
    pub(crate) fn put_back(&mut self, claim: Claim) {
        self.uploading = None;
        self.held.insert(claim.meta.ulid, claim);
    }

    /// Reads the folder of claims: finds the claims of an earlier run, removes leftovers, and forgets claims whose folder
    /// somebody has removed. What cannot be read is passed over: it hides no other claim. `is_local` says whether Prometheus
    /// still has a block.
    pub(crate) fn find(&mut self, is_local: impl Fn(Ulid) -> bool) {
        self.has_unread = false;
        self.unread.clear();
        let (there, failed) = match self.spool.list() {
            Err(err) => {
                self.has_unread = true;
                self.warn_once("list", "cannot read claims of an earlier run", &err);
                return;
            }
            Ok(listed) => listed,
        };
        if let Some(err) = failed {
            self.warn_once("sweep", "what is no claim cannot be removed from thanos/upload", &err);
        }
        // The list is sorted.
        self.held.retain(|ulid, claim| matches!(claim.files, Files::Open { .. }) || there.binary_search(ulid).is_ok());
        for ulid in there {
            let is_linked = self.held.get(&ulid).is_some_and(|claim| matches!(claim.files, Files::Linked(_)));
            let is_ended = self.ended.iter().any(|(ended, _)| *ended == ulid);
            if is_linked || is_ended || self.is_uploading(ulid) {
                continue;
            }
            if let Err(err) = self.find_one(ulid, &is_local) {
                self.has_unread = true;
                self.warn_once(
                    ulid.as_str(),
                    "a claim cannot be used and is passed over; it is looked at again and again",
                    &err,
                );
                self.unread.insert(ulid, err);
            }
        }
    }

    fn find_one(&mut self, ulid: Ulid, is_local: &impl Fn(Ulid) -> bool) -> Result<()> {
        let record = || Record::load(&self.bucket_name, &self.disk, self.spool.state_path(ulid));
        match self.spool.load(ulid)? {
            SpoolEntry::Claim { meta, is_pinned } => {
                let (record, dir) = (record(), self.spool.dir(ulid));
                match scan::examine(&self.disk, &dir, &meta) {
                    Ok(Examined { chunks, bytes }) => {
                        let files = Files::Linked(dir);
                        let claim = Claim { meta: *meta, is_pinned, is_pin_owed: false, chunks, bytes, files, record };
                        self.held.insert(ulid, claim);
                    }
                    Err(err) if err.kind() == Kind::Corrupt => {
                        log::error!(target: LOG_TARGET, block = ulid.as_str(), err = err.to_string(); "claim of a block is damaged and given up");
                        self.remove_folder(ulid, record);
                    }
                    Err(err) => return Err(err.context(format!("read claim of block {ulid}"))),
                }
            }
            SpoolEntry::Leftover => {
                let record = record();
                self.remove_folder(ulid, record);
            }
            // Prometheus's own meta.json says the same.
            SpoolEntry::Damaged(err) if is_local(ulid) => {
                log::warn!(target: LOG_TARGET, block = ulid.as_str(), err = err.to_string();
                    "the meta.json of a claim is damaged; the block is claimed anew");
                let record = record();
                self.remove_folder(ulid, record);
            }
            SpoolEntry::Damaged(err) => {
                let dir = self.spool.dir(ulid);
                return Err(err.context(format!(
                    "the meta.json of the last copy of block {ulid} is damaged: mend or remove {}",
                    dir.display()
                )));
            }
        }
        Ok(())
    }

    /// Claims a block of the data directory, and pins these labels if there are any. `force` ignores the limit of
    /// descriptors, for the block that is to be shipped now.
    ///
    /// `Errors:` `Corrupt` if the block is not whole; others if it can neither be linked nor be held open.
    pub(crate) fn claim_block(&mut self, found: &Found, labels: &Labels, force: bool) -> Result<ClaimOutcome> {
        let ulid = found.ulid;
        let before = match self.held.get(&ulid).map(|claim| &claim.files) {
            // Its folder is that of a claim that was given up a moment ago.
            None if !found.is_local => return Ok(ClaimOutcome::Gone),
            Some(Files::Linked(_) | Files::Open { is_refused: true, .. }) => return Ok(ClaimOutcome::Claimed),
            Some(Files::Open { is_refused: false, .. }) => self.held.remove(&ulid),
            None => None,
        };
        let Ok(meta) = &found.meta else { return Ok(ClaimOutcome::Gone) };
        let Examined { chunks, bytes } = match scan::examine(&self.disk, &found.dir, meta) {
            Err(_) if scan::is_gone(&self.disk, &found.dir) => return Ok(self.kept_open(before)),
            Err(err) => {
                self.kept_open(before);
                return Err(err);
            }
            Ok(examined) => examined,
        };
        self.detach_ended(ulid);
        let (meta, is_pinned, record) = match before {
            Some(claim) => (claim.meta, claim.is_pinned, Ok((claim.record, claim.files))),
            None => {
                let mut meta = meta.clone();
                if !labels.is_empty() {
                    meta.ship_as(labels, &chunks);
                }
                (meta, !labels.is_empty(), Err(Record::new(&self.bucket_name, None)))
            }
        };
        // A new claim would remove the one that cannot be read now, with the labels that it has pinned.
        let unread = self.unread.get(&ulid).map(|err| err.clone().with_kind(Kind::Retry));
        let is_unread = unread.is_some();
        let linked = unread.map_or_else(|| self.spool.claim(&found.dir, &chunks, &meta, is_pinned), Err);
        // A file may have been damaged between the look at it and the link to it.
        if let Ok(dir) = &linked
            && let Err(err) = scan::examine(&self.disk, dir, &meta)
            && err.kind() == Kind::Corrupt
        {
            if let Err(err) = self.spool.release(ulid) {
                log::debug!(target: LOG_TARGET, err = err.to_string(); "a leftover stays until the next look");
            }
            return Err(err);
        }
        let (files, record) = match linked {
            Ok(dir) => {
                let (Ok((record, _)) | Err(record)) = record;
                (Files::Linked(dir), record.in_file(&self.disk, self.spool.state_path(ulid)))
            }
            Err(err) => {
                // What was made so far is a leftover.
                if !is_unread && let Err(err) = self.spool.release(ulid) {
                    log::debug!(target: LOG_TARGET, err = err.to_string(); "a leftover stays until the next look");
                }
                match record {
                    Ok((record, files)) => (files, record),
                    Err(_) if err.kind() == Kind::NotFound && scan::is_gone(&self.disk, &found.dir) => {
                        return Ok(ClaimOutcome::Gone);
                    }
                    Err(record) => match self.open(found, &chunks, &err, force)? {
                        Some(files) => (files, record),
                        None if scan::is_gone(&self.disk, &found.dir) => return Ok(ClaimOutcome::Gone),
                        None => return Ok(ClaimOutcome::NoDescriptors),
                    },
                }
            }
        };
        self.held.insert(ulid, Claim { meta, is_pinned, is_pin_owed: false, chunks, bytes, files, record });
        Ok(ClaimOutcome::Claimed)
    }

    /// Puts back a claim in descriptors that could not be turned into links.
    fn kept_open(&mut self, before: Option<Claim>) -> ClaimOutcome {
        match before {
            Some(claim) => {
                self.held.insert(claim.meta.ulid, claim);
                ClaimOutcome::Claimed
            }
            None => ClaimOutcome::Gone,
        }
    }

    /// Holds a block's files open, because links could not be made. `None` if there are no descriptors for it, or if
    /// the block is gone.
    fn open(&mut self, found: &Found, chunks: &[String], why: &Error, force: bool) -> Result<Option<Files>> {
        let is_refused = why.kind() == Kind::Permanent;
        if is_refused {
            let text = "hard links of blocks into thanos/upload are refused: blocks are held open instead, which a restart \
                        does not survive";
            self.warn_once("links", text, why);
        } else {
            self.warn_once("claim", "claiming a block failed: it is held open and tried again", why);
        }
        let n_open: usize = self.held.values().map(Claim::n_open).sum();
        if !force && n_open + chunks.len() + 1 > self.open_max {
            self.warn_once("files", "too many blocks are pending to hold all of them open; the oldest are", why);
            return Ok(None);
        }
        let mut sources = BTreeMap::new();
        for name in chunks.iter().map(|name| format!("chunks/{name}")).chain(["index".to_owned()]) {
            match self.disk.open_source(&found.dir.join(&name)) {
                Ok(source) if source.size_bytes() == 0 => {
                    return Err(Error::new(Kind::Corrupt, format!("{} is empty", source.path().display())));
                }
                Ok(source) => sources.insert(name, source),
                Err(_) if scan::is_gone(&self.disk, &found.dir) => return Ok(None),
                Err(err) => return Err(err.context(format!("hold block {}", found.ulid))),
            };
        }
        Ok(Some(Files::Open { sources, is_refused }))
    }

    /// Whether a claim has other files than the block in `dir` has now. Of files that are held open it is not known how long
    /// they were then, so they count as others.
    ///
    /// `Errors:` when the files cannot be examined.
    pub(crate) fn is_of_others(&self, ulid: Ulid, dir: &Path) -> Result<bool> {
        let Some(claim) = self.held.get(&ulid) else { return Ok(false) };
        let Files::Linked(links) = &claim.files else { return Ok(true) };
        let chunks = self.disk.list(&dir.join("chunks"))?;
        if !chunks.iter().map(|entry| &entry.name).eq(&claim.chunks) {
            return Ok(true);
        }
        let inode = |path: PathBuf| self.disk.stat(&path).map(|file| (file.dev(), file.ino()));
        for name in claim.names() {
            if inode(dir.join(&name))? != inode(links.join(&name))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Pins the labels of every claim that is not pinned yet.
    pub(crate) fn pin(&mut self, labels: &Labels) {
        if labels.is_empty() {
            return;
        }
        for claim in self.held.values_mut().filter(|claim| !claim.is_pinned || claim.is_pin_owed) {
            if !claim.is_pinned {
                claim.meta.ship_as(labels, &claim.chunks);
                claim.is_pinned = true;
            }
            claim.is_pin_owed = false;
            if let Files::Linked(_) = claim.files
                && let Err(err) = self.spool.write_meta(&claim.meta, true)
            {
                claim.is_pin_owed = true;
                log::warn!(target: LOG_TARGET, block = claim.meta.ulid.as_str(), err = err.to_string(); "pinned labels cannot be written yet");
            }
        }
    }

    /// Gives claims up, newest first, until they cost no more than the budget and leave the reserve free. `is_local` says
    /// whether Prometheus still has a block: then its claim costs nothing. `idleness` says how well a claim can be done
    /// without; those that can be best go first.
    pub(crate) fn enforce_budget(
        &mut self,
        budget: &Budget,
        is_local: impl Fn(Ulid) -> bool,
        idleness: impl Fn(&Meta) -> u8,
    ) -> Cost {
        let mut held: Vec<((u8, i64), Ulid, u64)> = self
            .held
            .values()
            .filter(|claim| !is_local(claim.meta.ulid))
            .map(|claim| {
                let ulid = claim.meta.ulid;
                ((idleness(&claim.meta), claim.meta.min_time_ms), ulid, self.cost(&files(claim)))
            })
            .collect();
        held.sort_unstable();
        // The claim that is being uploaded costs room too, but is not given up.
        let uploading = self.uploading.as_ref().filter(|claim| !is_local(claim.ulid));
        let uploading_bytes = uploading.map_or(0, |claim| self.cost(&claim.files));
        let bytes = held.iter().map(|(.., bytes)| bytes).sum::<u64>() + uploading_bytes;
        let mut cost = Cost { bytes, n_given_up: 0 };
        if cost.bytes == 0 {
            return cost;
        }
        let budget_bytes = self.budget_bytes(budget, cost.bytes);
        while cost.bytes > budget_bytes
            && let Some((_, ulid, bytes)) = held.pop()
        {
            if bytes == 0 {
                continue;
            }
            if let Some(claim) = self.held.get(&ulid) {
                log::error!(target: LOG_TARGET, block = ulid.as_str(), min_time = claim.meta.min_time_ms, max_time = claim.meta.max_time_ms,
                    bytes = bytes, claimed_bytes = cost.bytes, budget_bytes = budget_bytes;
                    "block is given up and its samples are lost to the bucket: Prometheus has removed it, it was not \
                     shipped in time, and claims use up their disk budget, or the disk is full; --shipper.claim-budget raises \
                     it, --shipper.claim-reserve is what stays free");
            }
            self.end(ulid);
            cost.bytes -= bytes;
            cost.n_given_up += 1;
        }
        cost
    }

    /// What claims may cost now, if they cost `bytes`: less than the budget where the disk is nearly full, for Prometheus
    /// must not be stopped by what is kept for the bucket.
    fn budget_bytes(&self, budget: &Budget, bytes: u64) -> u64 {
        let (most, reserve) = match self.capacity() {
            Some(capacity) => claim_room(budget.bytes, budget.reserve_bytes, capacity),
            None => (if budget.bytes > 0 { budget.bytes } else { u64::MAX }, budget.reserve_bytes),
        };
        let free = self.spool.available().unwrap_or(u64::MAX);
        most.min(bytes.saturating_add(free).saturating_sub(reserve))
    }

    fn capacity(&self) -> Option<u64> {
        self.spool.capacity().inspect_err(|err| log::debug!(target: LOG_TARGET, err = err.to_string(); "the size of the file system is not known")).ok()
    }

    /// Bytes that would be free without these files of a claim. A file that another link keeps costs nothing.
    fn cost(&self, files: &Result<Vec<PathBuf>, u64>) -> u64 {
        let sizes = |paths: &Vec<PathBuf>| {
            let stats = paths.iter().filter_map(|path| self.disk.stat(path).ok());
            // Some file systems do not count links and report 0.
            stats.filter(|file| file.nlink() <= 1).map(|file| file.len()).sum()
        };
        files.as_ref().map_or_else(|bytes| *bytes, sizes)
    }

    /// Ends a claim, because its block is shipped or never will be.
    pub(crate) fn end(&mut self, ulid: Ulid) {
        let Some(claim) = self.held.remove(&ulid) else { return };
        match claim.files {
            Files::Linked(_) => self.remove_folder(ulid, claim.record),
            Files::Open { .. } if claim.record.open_parts().is_empty() => {}
            Files::Open { .. } => self.ended.push((ulid, claim.record)),
        }
    }

    /// Removes the folder of a claim; its state stays while the bucket may hold parts. A failure is logged, and the
    /// next [`Claims::find`] tries again.
    fn remove_folder(&mut self, ulid: Ulid, record: Record) {
        let removed = if record.open_parts().is_empty() {
            self.spool.release(ulid)
        } else {
            let emptied = self.spool.empty(ulid);
            if emptied.is_ok() {
                self.ended.push((ulid, record));
            }
            emptied
        };
        if let Err(err) = removed {
            log::error!(target: LOG_TARGET, err = err.to_string(); "failed to clean upload directory");
        }
    }

    /// Detaches the state of a former claim from the folder before the block is claimed again: the files may be others,
    /// so the upload must not be resumed.
    fn detach_ended(&mut self, ulid: Ulid) {
        let (same, others) = std::mem::take(&mut self.ended).into_iter().partition(|(ended, _)| *ended == ulid);
        self.ended = others;
        let same: Vec<(Ulid, Record)> = same;
        self.ended.extend(same.into_iter().map(|(ulid, record)| (ulid, record.in_memory())));
    }

    /// Makes the bucket drop the parts of claims that have ended. The next call tries again what fails.
    pub(crate) fn abandon_ended(&mut self, bucket: &dyn Bucket, stop: &Stop) {
        for (ulid, record) in std::mem::take(&mut self.ended) {
            let mut abandoned = stop.check();
            for (name, parts) in record.open_parts() {
                abandoned = abandoned.and_then(|()| bucket.abandon(&format!("{ulid}/{name}"), &parts, stop));
            }
            let is_held = self.held.contains_key(&ulid) || self.is_uploading(ulid);
            match abandoned {
                // The folder of that name belongs to a new claim.
                Ok(()) if is_held => {}
                Ok(()) => {
                    if let Err(err) = self.spool.release(ulid) {
                        log::error!(target: LOG_TARGET, err = err.to_string(); "failed to clean upload directory");
                    }
                }
                Err(err) => {
                    if err.kind() != Kind::Stopped {
                        log::warn!(target: LOG_TARGET, block = ulid.as_str(), err = err.to_string();
                            "parts of an upload that will not go on cannot be removed from the bucket yet");
                    }
                    self.ended.push((ulid, record));
                }
            }
        }
    }

    fn warn_once(&mut self, about: &str, text: &str, err: &Error) {
        if self.logged.insert(about.to_owned()) {
            log::warn!(target: LOG_TARGET, err = err.to_string(); "{text}");
        }
    }
}

/// How many bytes claims may take of a file system of this capacity, and how many they leave free. 0 is a share of it.
pub fn claim_room(budget_bytes: u64, reserve_bytes: u64, capacity: u64) -> (u64, u64) {
    let share = |wanted: u64, share: u64| if wanted > 0 { wanted } else { capacity / share };
    (share(budget_bytes, limits::CLAIM_BUDGET_SHARE), share(reserve_bytes, limits::CLAIM_RESERVE_SHARE))
}

/// The paths of a claim's files, or their total size if the files have no path.
fn files(claim: &Claim) -> Result<Vec<PathBuf>, u64> {
    match &claim.files {
        Files::Linked(dir) => Ok(claim.names().map(|name| dir.join(name)).collect()),
        Files::Open { .. } => Err(claim.bytes),
    }
}
