//! Which blocks are claimed: made at first sight, found again after a restart, pinned once the labels are known, ended
//! when they are shipped, and given up, newest first, when they take more disk than they may.
//!
//! Where hard links are refused, or cannot be made just now, a block's files are held open instead. That protects from
//! Prometheus's retention as well, but not over a restart.
//!
//! A claim that ends while an upload in parts is under way leaves its state file behind, until the bucket has dropped
//! the parts. Never touches a file of Prometheus, and never uploads.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::claim::{Claim, Files, Record};
use super::plan::Found;
use super::scan::{self, Examined};
use super::spool::{Held, Spool};
use super::ulid::Ulid;
use crate::error::{Error, Kind, Result};
use crate::files::Disk;
use crate::labels::Labels;
use crate::limits;
use crate::objstore::Bucket;
use crate::supervisor::Stop;

/// The claimed blocks.
pub struct Claims {
    spool: Spool,
    disk: Disk,
    bucket_name: String,
    /// Descriptors that may be held.
    open_max: usize,
    held: BTreeMap<Ulid, Claim>,
    /// Claims that have ended, of which the bucket may still hold parts.
    ended: Vec<(Ulid, Record)>,
    /// The claim that is being uploaded, and is therefore not in `held`.
    in_hand: Option<InHand>,
    /// Whether the last look may have missed claims.
    has_unread: bool,
    told: BTreeSet<&'static str>,
}

/// What is known of a claim while another has it.
struct InHand {
    ulid: Ulid,
    /// Its files, where it has names for them; else their size.
    files: Result<Vec<PathBuf>, u64>,
}

/// What became of the wish to claim a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secured {
    /// It is claimed.
    Claimed,
    /// There are no descriptors left to hold it with.
    NotNow,
    /// Prometheus has removed it.
    Gone,
}

/// What claims cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes that would be free without the claims.
    pub bytes: u64,
    /// How many there may be.
    pub budget_bytes: u64,
    /// Blocks that were given up for it.
    pub n_given_up: u64,
}

impl Claims {
    /// No claims yet; [`Claims::find`] finds those of an earlier run.
    pub fn new(spool: Spool, disk: Disk, bucket_name: &str, open_max: usize) -> Self {
        let (held, ended, told) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Claims {
            spool,
            disk,
            bucket_name: bucket_name.to_owned(),
            open_max,
            held,
            ended,
            in_hand: None,
            has_unread: false,
            told,
        }
    }

    /// The claimed blocks.
    pub fn iter(&self) -> impl Iterator<Item = (Ulid, &Claim)> {
        self.held.iter().map(|(ulid, claim)| (*ulid, claim))
    }

    /// Whether there may be claims on the disk that cannot be read now.
    pub fn has_unread(&self) -> bool {
        self.has_unread
    }

    /// The claim of a block.
    pub fn claim(&self, ulid: Ulid) -> Option<&Claim> {
        self.held.get(&ulid)
    }

    /// Takes a claim out while its block is uploaded; it must be put back.
    pub fn take(&mut self, ulid: Ulid) -> Option<Claim> {
        let claim = self.held.remove(&ulid)?;
        self.in_hand = Some(InHand { ulid, files: files(&claim) });
        Some(claim)
    }

    fn is_in_hand(&self, ulid: Ulid) -> bool {
        self.in_hand.as_ref().is_some_and(|claim| claim.ulid == ulid)
    }

    /// Puts a claim back.
    pub fn put_back(&mut self, claim: Claim) {
        self.in_hand = None;
        self.held.insert(claim.meta.ulid, claim);
    }

    /// Brings what is known and what is in the folder together: claims of an earlier run are found, leftovers removed,
    /// and claims whose folder somebody has removed are forgotten.
    pub fn find(&mut self) -> Result<()> {
        self.has_unread = false;
        let (there, failed) = match self.spool.list() {
            Err(err) if err.kind() == Kind::Permanent => {
                self.has_unread = true;
                self.tell_once("list", "cannot read claims of an earlier run", &err);
                return Ok(());
            }
            other => other?,
        };
        if let Some(err) = failed {
            self.tell_once("sweep", "what is no claim cannot be removed from thanos/upload", &err);
        }
        // The names are sorted.
        self.held.retain(|ulid, claim| matches!(claim.files, Files::Open { .. }) || there.binary_search(ulid).is_ok());
        for ulid in there {
            let is_linked = self.held.get(&ulid).is_some_and(|claim| matches!(claim.files, Files::Linked(_)));
            let is_ended = self.ended.iter().any(|(ended, _)| *ended == ulid);
            if is_linked || is_ended || self.is_in_hand(ulid) {
                continue;
            }
            let passed_over = "a claim of an earlier run cannot be read and is passed over";
            let held = match self.spool.load(ulid) {
                Err(err) if matches!(err.kind(), Kind::Permanent | Kind::Corrupt) => {
                    self.has_unread = true;
                    self.tell_once("load", passed_over, &err);
                    continue;
                }
                other => other?,
            };
            match held {
                Held::Claim { meta, is_pinned } => {
                    let record = Record::load(&self.bucket_name, &self.disk, self.spool.state_path(ulid));
                    let dir = self.spool.dir(ulid);
                    match scan::examine(&self.disk, &dir, &meta) {
                        Ok(Examined { chunks, bytes }) => {
                            let files = Files::Linked(dir);
                            let claim =
                                Claim { meta: *meta, is_pinned, is_pin_owed: false, chunks, bytes, files, record };
                            self.held.insert(ulid, claim);
                        }
                        Err(err) if err.kind() == Kind::Corrupt => {
                            log::error!(block = ulid.as_str(), err = err.to_string(); "claim of a block is damaged and given up");
                            self.leave(ulid, record);
                        }
                        Err(err) if err.kind() == Kind::Permanent => {
                            self.has_unread = true;
                            self.tell_once("load", passed_over, &err);
                        }
                        Err(err) => return Err(err.context(format!("read claim of block {ulid}"))),
                    }
                }
                Held::Leftover => {
                    let record = Record::load(&self.bucket_name, &self.disk, self.spool.state_path(ulid));
                    self.leave(ulid, record);
                }
            }
        }
        Ok(())
    }

    /// Claims a block that is in the data directory, with these labels if there are any. `force`: also past the number
    /// of descriptors, for the block that is to be shipped now.
    ///
    /// `Errors:` `Corrupt` when it is not whole; others when neither links nor descriptors can be had.
    pub fn secure(&mut self, found: &Found, labels: &Labels, force: bool) -> Result<Secured> {
        let ulid = found.ulid;
        let before = match self.held.get(&ulid).map(|claim| &claim.files) {
            // It was given up a moment ago, and its folder is that of the claim.
            None if !found.is_local => return Ok(Secured::Gone),
            Some(Files::Linked(_) | Files::Open { is_refused: true, .. }) => return Ok(Secured::Claimed),
            Some(Files::Open { is_refused: false, .. }) => self.held.remove(&ulid),
            None => None,
        };
        let Ok(meta) = &found.meta else { return Ok(Secured::Gone) };
        let Examined { chunks, bytes } = match scan::examine(&self.disk, &found.dir, meta) {
            Err(_) if !found.dir.exists() => return Ok(self.kept_open(before)),
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
        let linked = self.spool.claim(&found.dir, &chunks, &meta, is_pinned);
        let (files, record) = match linked {
            Ok(dir) => {
                let (Ok((record, _)) | Err(record)) = record;
                (Files::Linked(dir), record.in_file(&self.disk, self.spool.state_path(ulid)))
            }
            Err(err) => {
                // Whatever was made so far would be a leftover.
                if let Err(err) = self.spool.release(ulid) {
                    log::debug!(err = err.to_string(); "a leftover stays until the next look");
                }
                match record {
                    Ok((record, files)) => (files, record),
                    Err(_) if err.kind() == Kind::NotFound && !found.dir.exists() => return Ok(Secured::Gone),
                    Err(record) => match self.open(found, &chunks, &err, force)? {
                        Some(files) => (files, record),
                        None if found.dir.exists() => return Ok(Secured::NotNow),
                        None => return Ok(Secured::Gone),
                    },
                }
            }
        };
        self.held.insert(ulid, Claim { meta, is_pinned, is_pin_owed: false, chunks, bytes, files, record });
        Ok(Secured::Claimed)
    }

    /// Puts back a claim in descriptors that could not become one in links.
    fn kept_open(&mut self, before: Option<Claim>) -> Secured {
        match before {
            Some(claim) => {
                self.held.insert(claim.meta.ulid, claim);
                Secured::Claimed
            }
            None => Secured::Gone,
        }
    }

    /// Holds a block's files open, for links could not be made; `None` when there are no descriptors for it, or when
    /// it is gone.
    fn open(&mut self, found: &Found, chunks: &[String], why: &Error, force: bool) -> Result<Option<Files>> {
        let is_refused = why.kind() == Kind::Permanent;
        if is_refused {
            let text = "hard links of blocks into thanos/upload are refused: blocks are held open instead, which a restart \
                        does not survive";
            self.tell_once("links", text, why);
        } else {
            self.tell_once("claim", "claiming a block failed: it is held open and tried again", why);
        }
        let n_open: usize = self.held.values().map(Claim::n_open).sum();
        if !force && n_open + chunks.len() + 1 > self.open_max {
            self.tell_once("files", "too many blocks are pending to hold all of them open; the oldest are", why);
            return Ok(None);
        }
        let mut sources = BTreeMap::new();
        for name in chunks.iter().map(|name| format!("chunks/{name}")).chain(["index".to_owned()]) {
            match self.disk.open_source(&found.dir.join(&name)) {
                Ok(source) => sources.insert(name, source),
                Err(_) if !found.dir.exists() => return Ok(None),
                Err(err) => return Err(err.context(format!("hold block {}", found.ulid))),
            };
        }
        Ok(Some(Files::Open { sources, is_refused }))
    }

    /// Pins the labels of every claim that has none.
    pub fn pin(&mut self, labels: &Labels) {
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
                log::warn!(block = claim.meta.ulid.as_str(), err = err.to_string(); "pinned labels cannot be written yet");
            }
        }
    }

    /// What the claims cost; those that cost too much are given up, newest first. `is_local` tells whether Prometheus
    /// still has a block, for then its claim costs nothing.
    pub fn keep_within(&mut self, budget_bytes: u64, is_local: impl Fn(Ulid) -> bool) -> Cost {
        let mut held: Vec<(i64, Ulid, u64)> = self
            .held
            .values()
            .filter(|claim| !is_local(claim.meta.ulid))
            .map(|claim| (claim.meta.min_time_ms, claim.meta.ulid, self.cost(&files(claim))))
            .collect();
        held.sort_unstable();
        // What is being uploaded takes its room too, but is not given up.
        let in_hand = self.in_hand.as_ref().filter(|claim| !is_local(claim.ulid));
        let in_hand_bytes = in_hand.map_or(0, |claim| self.cost(&claim.files));
        let bytes = held.iter().map(|(.., bytes)| bytes).sum::<u64>() + in_hand_bytes;
        let mut cost = Cost { bytes, budget_bytes, n_given_up: 0 };
        if cost.bytes == 0 {
            return cost;
        }
        if budget_bytes == 0 {
            cost.budget_bytes = match self.spool.capacity() {
                Ok(bytes) => bytes / limits::CLAIM_BUDGET_SHARE,
                Err(err) => {
                    log::debug!(err = err.to_string(); "the size of the file system is not known");
                    u64::MAX
                }
            };
        }
        while cost.bytes > cost.budget_bytes
            && let Some((_, ulid, bytes)) = held.pop()
        {
            if bytes == 0 {
                continue;
            }
            if let Some(claim) = self.held.get(&ulid) {
                log::error!(block = ulid.as_str(), min_time = claim.meta.min_time_ms, max_time = claim.meta.max_time_ms,
                    bytes = bytes, claimed_bytes = cost.bytes, budget_bytes = cost.budget_bytes;
                    "block is given up and its samples are lost to the bucket: Prometheus has removed it, it was not \
                     shipped in time, and claims use up their disk budget; --shipper.claim-budget raises it");
            }
            self.end(ulid);
            cost.bytes -= bytes;
            cost.n_given_up += 1;
        }
        cost
    }

    /// Bytes that are on the disk only because of these files of a claim. Somebody else's link keeps a file with or
    /// without the claim.
    fn cost(&self, files: &Result<Vec<PathBuf>, u64>) -> u64 {
        let sizes = |paths: &Vec<PathBuf>| {
            let stats = paths.iter().filter_map(|path| self.disk.stat(path).ok());
            // Some file systems count no links.
            stats.filter(|file| file.nlink() <= 1).map(|file| file.len()).sum()
        };
        files.as_ref().map_or_else(|bytes| *bytes, sizes)
    }

    /// Ends a claim, because its block is shipped, or never will be.
    pub fn end(&mut self, ulid: Ulid) {
        let Some(claim) = self.held.remove(&ulid) else { return };
        match claim.files {
            Files::Linked(_) => self.leave(ulid, claim.record),
            Files::Open { .. } if claim.record.open_parts().is_empty() => {}
            Files::Open { .. } => self.ended.push((ulid, claim.record)),
        }
    }

    /// Removes the folder of a block; its state stays while the bucket may hold parts. What fails is tried again at
    /// the next look.
    fn leave(&mut self, ulid: Ulid, record: Record) {
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
            log::error!(err = err.to_string(); "failed to clean upload directory");
        }
    }

    /// Before a block is claimed again: what is left of its former claim must not be taken up, for the files may be
    /// other ones.
    fn detach_ended(&mut self, ulid: Ulid) {
        let (same, others) = std::mem::take(&mut self.ended).into_iter().partition(|(ended, _)| *ended == ulid);
        self.ended = others;
        let same: Vec<(Ulid, Record)> = same;
        self.ended.extend(same.into_iter().map(|(ulid, record)| (ulid, record.in_memory())));
    }

    /// Lets the bucket drop the parts of claims that have ended. What fails is tried again with the next call.
    pub fn abandon_ended(&mut self, bucket: &dyn Bucket, stop: &Stop) {
        for (ulid, record) in std::mem::take(&mut self.ended) {
            let mut abandoned = stop.check();
            for (name, parts) in record.open_parts() {
                abandoned = abandoned.and_then(|()| bucket.abandon(&format!("{ulid}/{name}"), &parts, stop));
            }
            let is_held = self.held.contains_key(&ulid) || self.is_in_hand(ulid);
            match abandoned {
                // The folder of that name is another claim by now.
                Ok(()) if is_held => {}
                Ok(()) => {
                    if let Err(err) = self.spool.release(ulid) {
                        log::error!(err = err.to_string(); "failed to clean upload directory");
                    }
                }
                Err(err) => {
                    if err.kind() != Kind::Stopped {
                        log::warn!(block = ulid.as_str(), err = err.to_string();
                            "parts of an upload that will not go on cannot be removed from the bucket yet");
                    }
                    self.ended.push((ulid, record));
                }
            }
        }
    }

    fn tell_once(&mut self, about: &'static str, text: &str, err: &Error) {
        if self.told.insert(about) {
            log::warn!(err = err.to_string(); "{text}");
        }
    }
}

/// The files of a claim, where it has names for them; else their size.
fn files(claim: &Claim) -> Result<Vec<PathBuf>, u64> {
    match &claim.files {
        Files::Linked(dir) => Ok(claim.names().map(|name| dir.join(name)).collect()),
        Files::Open { .. } => Err(claim.bytes),
    }
}
