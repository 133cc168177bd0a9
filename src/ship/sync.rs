//! One tick: look at all blocks, claim them, ship them oldest first, and list each in the ledger before its claim ends.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::backlog::Pending;
use super::beside::beside;
use super::claim::{Claim, Files};
use super::claims::Secured;
use super::ledger::Listed;
use super::meta::Meta;
use super::plan::{self, Action, BucketBlock, Found, Planned};
use super::remote::{self, Remote};
use super::scan::{self, Fingerprint};
use super::ulid::Ulid;
use super::upload::{There, Uploader};
use super::{Aside, Shipper, TickReport};
use crate::error::{Error, Kind, Result};
use crate::supervisor::Stop;

/// What became of a block that was to be shipped.
enum Shipped {
    Uploaded { resumed_bytes: u64 },
    Repaired,
    AlreadyThere,
    Overlaps(Ulid),
}

/// How a block leaves its turn.
enum Turn {
    /// With this entry in the ledger, if any.
    Listed(Option<Listed>),
    /// It waits for the external labels.
    Waiting,
}

impl Shipper {
    /// One tick. `Errors:` what holds the order; what was done before is kept.
    pub(super) fn sync(&mut self, stop: &Stop, report: &mut TickReport) -> Result<()> {
        self.ledger.reload();
        self.save_ledger();
        self.remote.age();
        let shipped = self.ledger.ulids(|listed| listed.shipped);
        let found = match self.look(&shipped) {
            Err(err) => {
                self.count(&err, report);
                return Err(err);
            }
            Ok(found) => found,
        };
        self.forget_all_but(&found);
        let planned = plan::plan(&found, |ulid| shipped.contains(&ulid), self.config.upload_compacted);
        let done = planned.iter().filter(|planned| matches!(planned.action, Action::Done));
        self.places =
            done.filter_map(|done| Some((done.found.ulid, done.found.meta.as_ref().ok()?.min_time_ms))).collect();
        // What the ledger will list: what is known of each block before the first upload, and then block by block.
        let mut listing: Vec<Option<Listed>> = planned.iter().map(|planned| self.listed_now(planned, report)).collect();
        let open = |listing: &[Option<Listed>], idx: usize| !listing.get(idx).is_some_and(Option::is_some);
        let to_ship = planned.iter().enumerate().filter(|(idx, _)| open(&listing, *idx));
        self.claim(to_ship.map(|(_, planned)| planned), stop);
        // An upload may take hours.
        self.show();
        self.record(&listing);
        for (idx, planned) in planned.iter().enumerate() {
            stop.check()?;
            match &planned.action {
                // An entry says that the block was set aside above.
                Action::Ship(_) if !open(&listing, idx) => continue,
                Action::Ship(_) => {}
                Action::Unreadable(err) => {
                    self.held_up((*err).clone(), report)?;
                    continue;
                }
                _ => continue,
            }
            match self.attempt(planned.found, stop, report)? {
                Turn::Listed(listed) => {
                    if listed.is_some() {
                        self.backlog.pending.retain(|block| block.ulid != planned.found.ulid);
                    }
                    if let Some(place) = listing.get_mut(idx) {
                        *place = listed;
                    }
                }
                Turn::Waiting => {
                    report.n_waiting += 1;
                    if !self.config.allow_out_of_order_uploads {
                        break;
                    }
                }
            }
            self.record(&listing);
            self.show();
        }
        let bucket = Arc::clone(&self.bucket);
        self.claims.abandon_ended(&*bucket, stop);
        Ok(())
    }

    /// All blocks: those that Prometheus has, and those that only a claim has kept. What is claimed has the meta.json of
    /// its claim. Of blocks that are `shipped` the meta.json is read once, for there may be thousands.
    fn look(&mut self, shipped: &BTreeSet<Ulid>) -> Result<Vec<Found>> {
        self.claims.find()?;
        let place = |ulid| Some(Meta::of_place(ulid, *self.places.get(&ulid).filter(|_| shipped.contains(&ulid))?));
        // Sorted by name.
        let mut found = scan::scan(&self.config.disk, &self.config.data_dir, place)?;
        let mut gone = Vec::new();
        for (ulid, claim) in self.claims.iter() {
            let meta = Ok(claim.meta.clone());
            match found.binary_search_by_key(&ulid, |found| found.ulid) {
                Ok(idx) => {
                    if let Some(found) = found.get_mut(idx) {
                        found.meta = meta;
                    }
                }
                Err(_) => {
                    let dir = match &claim.files {
                        Files::Linked(dir) => dir.clone(),
                        Files::Open { .. } => self.block_dir(ulid),
                    };
                    gone.push(Found { ulid, dir, is_local: false, meta });
                }
            }
        }
        found.extend(gone);
        Ok(found)
    }

    fn block_dir(&self, ulid: Ulid) -> PathBuf {
        self.config.data_dir.join(ulid.as_str())
    }

    /// Claims blocks, oldest first, and lists them as pending. At the first start there may be thousands, each synced to
    /// the disk, so the stop ends it between two.
    fn claim<'a>(&mut self, planned: impl Iterator<Item = &'a Planned<'a>>, stop: &Stop) {
        let labels = self.state.read().external_labels.clone();
        let mut pending = Vec::new();
        for planned in planned {
            let Action::Ship(meta) = planned.action else { continue };
            let found = planned.found;
            match self.claims.secure(found, &labels, false) {
                Ok(Secured::Gone) => continue,
                Ok(_) => {}
                // It has its turn below, where that is handled.
                Err(err) => log::debug!(block = found.ulid.as_str(), err = err.to_string(); "block cannot be claimed"),
            }
            pending.push(self.pending(found, meta));
            if stop.is_stopped() {
                break;
            }
        }
        self.claims.pin(&labels);
        self.backlog.pending = pending;
        self.keep_within_budget();
    }

    fn pending(&self, found: &Found, meta: &Meta) -> Pending {
        let claim = self.claims.claim(found.ulid);
        let bytes = claim.map_or_else(
            || scan::examine(&self.config.disk, &found.dir, meta).map_or(0, |examined| examined.bytes),
            |claim| claim.bytes,
        );
        Pending {
            ulid: found.ulid,
            bytes,
            min_time_ms: meta.min_time_ms,
            max_time_ms: meta.max_time_ms,
            is_local: found.is_local,
            is_claimed: claim.is_some(),
        }
    }

    fn keep_within_budget(&mut self) {
        // A claim that is left because the ledger cannot be written. Without its block it needs no entry, for nothing is
        // left that could be shipped again; and on a full disk it may be what keeps the ledger from being written.
        let is_over =
            |ulid: &Ulid| self.is_removed(*ulid) && self.ledger.entry(*ulid).is_some_and(|listed| listed.shipped);
        for ulid in self.claims.iter().map(|(ulid, _)| ulid).filter(is_over).collect::<Vec<_>>() {
            self.claims.end(ulid);
        }
        let data_dir = self.config.data_dir.clone();
        let is_local = |ulid: Ulid| data_dir.join(ulid.as_str()).is_dir();
        let cost = self.claims.keep_within(self.config.claim_budget_bytes, is_local);
        self.backlog.claimed_bytes = cost.bytes;
        self.backlog.claim_budget_bytes = cost.budget_bytes;
        self.backlog.n_given_up += cost.n_given_up;
        if cost.n_given_up > 0 {
            let is_there = |block: &Pending| block.is_local || self.claims.claim(block.ulid).is_some();
            self.backlog.pending.retain(is_there);
        }
    }

    /// Claims what has appeared since the tick began, while a block is uploaded.
    fn tend(&mut self, in_hand: Ulid, stop: &Stop) {
        let listed = self.ledger.ulids(|_| true);
        let found = match self.look(&listed) {
            Ok(found) => found,
            Err(err) => {
                log::debug!(err = err.to_string(); "new blocks are claimed later");
                return;
            }
        };
        let planned = plan::plan(&found, |ulid| listed.contains(&ulid), self.config.upload_compacted);
        let others = planned.iter().filter(|planned| planned.found.ulid != in_hand);
        let before: Vec<Pending> = self.backlog.pending.iter().filter(|block| block.ulid == in_hand).cloned().collect();
        self.claim(others, stop);
        self.backlog.pending.splice(0..0, before);
        self.show();
    }

    /// The entry of a block before anything is uploaded; logs and counts the corrupted ones.
    fn listed_now(&mut self, planned: &Planned, report: &mut TickReport) -> Option<Listed> {
        let ulid = planned.found.ulid;
        match planned.action {
            Action::Done => Some(Listed { ulid, shipped: true }),
            Action::ListEmpty => {
                log::debug!(block = ulid.as_str(); "ignoring empty block");
                Some(Listed { ulid, shipped: false })
            }
            Action::ListCorrupt(err) => Some(self.set_aside(planned.found, err, None, report)),
            Action::SkipCompacted => {
                // Claimed by a run that was to ship such blocks.
                self.claims.end(ulid);
                None
            }
            Action::Unreadable(_) => self.ledger.entry(ulid),
            // Not listed until it is shipped, also if it was listed as corrupted: Prometheus must wait for it.
            Action::Ship(meta) => self
                .found_corrupt(planned.found, meta)
                .map(|(err, fingerprint)| self.set_aside(planned.found, &err, fingerprint, report)),
        }
    }

    /// Why a block cannot be shipped, if it is known or cheaply seen to be corrupted; asks nothing of the bucket.
    fn found_corrupt(&self, found: &Found, meta: &Meta) -> Option<(Error, Option<Fingerprint>)> {
        if let Some(Aside { reason, fingerprint: Some(fingerprint) }) = self.aside.get(&found.ulid)
            && *fingerprint == scan::fingerprint(&self.config.disk, &found.dir)
        {
            return Some((Error::new(Kind::Corrupt, reason.clone()), Some(fingerprint.clone())));
        }
        // Examined when it was claimed.
        if self.claims.claim(found.ulid).is_some() {
            return None;
        }
        match scan::examine(&self.config.disk, &found.dir, meta) {
            Err(err) if err.kind() == Kind::Corrupt && found.dir.exists() => Some((err, None)),
            _ => None,
        }
    }

    /// Ships one block. An error ends the tick.
    fn attempt(&mut self, found: &Found, stop: &Stop, report: &mut TickReport) -> Result<Turn> {
        let ulid = found.ulid;
        let labels = self.state.read().external_labels.clone();
        if labels.is_empty() && !self.claims.claim(ulid).is_some_and(|claim| claim.is_pinned) {
            return Ok(Turn::Waiting);
        }
        let fingerprint = Some(scan::fingerprint(&self.config.disk, &found.dir));
        let secured = match self.claims.secure(found, &labels, true) {
            Err(err) if err.kind() == Kind::Corrupt => {
                return Ok(Turn::Listed(Some(self.set_aside(found, &err, None, report))));
            }
            Err(err) => {
                self.metrics.upload_failures.inc();
                self.held_up(err.context(format!("upload {ulid}")), report)?;
                return Ok(Turn::Listed(None));
            }
            Ok(secured) => secured,
        };
        self.claims.pin(&labels);
        let Some(claim) = self.claims.take(ulid).filter(|_| secured == Secured::Claimed) else {
            return Ok(Turn::Listed(None));
        };
        let shipped = self.carry(&claim, stop);
        self.claims.put_back(claim);
        let shipped = match shipped {
            Err(err) if err.kind() == Kind::Stopped => return Err(err),
            // The bucket cannot be asked: no block can be shipped then, in whatever order.
            Err(err) => {
                self.count(&err, report);
                return Err(err.context("check exists"));
            }
            Ok(shipped) => shipped,
        };
        let listed = match shipped {
            Ok(Shipped::Uploaded { resumed_bytes }) => {
                report.resumed_bytes += resumed_bytes;
                self.backlog.resumed_bytes += resumed_bytes;
                Some(self.uploaded(ulid, report))
            }
            Ok(Shipped::Repaired) => {
                report.n_repaired += 1;
                Some(self.uploaded(ulid, report))
            }
            Ok(Shipped::AlreadyThere) => Some(Listed { ulid, shipped: true }),
            Ok(Shipped::Overlaps(other)) => {
                report.n_overlapping += 1;
                if self.overlaps.insert(ulid, other) != Some(other) {
                    log::error!(block = ulid.as_str(), overlaps = other.as_str();
                        "Found overlap or error during sync, cannot upload compacted block");
                }
                None
            }
            Err(err) if err.kind() == Kind::Corrupt => Some(self.set_aside(found, &err, fingerprint, report)),
            Err(err) if err.kind() == Kind::Stopped => return Err(err),
            Err(err) => {
                self.metrics.upload_failures.inc();
                self.held_up(err.context(format!("upload {ulid}")), report)?;
                None
            }
        };
        if listed.is_some_and(|listed| listed.shipped) && self.aside.remove(&ulid).is_some() {
            log::info!(block = ulid.as_str(); "block that was set aside is shipped");
        }
        Ok(Turn::Listed(listed))
    }

    fn uploaded(&mut self, ulid: Ulid, report: &mut TickReport) -> Listed {
        report.n_uploaded += 1;
        self.metrics.uploads.inc();
        let now = jiff::Timestamp::now();
        self.ledger.uploaded_at(now);
        self.backlog.last_upload = Some(now);
        Listed { ulid, shipped: true }
    }

    /// All that is done with the bucket for one block, on a thread of its own; meanwhile new blocks are claimed. The
    /// outer error is that of the question whether the block is there.
    fn carry(&mut self, claim: &Claim, stop: &Stop) -> Result<Result<Shipped>> {
        let (disk, bucket, calm) = (self.config.disk.clone(), Arc::clone(&self.bucket), self.config.calm.clone());
        let uploader = Uploader {
            disk: &disk,
            bucket: &*bucket,
            concurrency: self.config.upload_concurrency,
            sha256: self.config.sha256,
            calm: calm.as_ref(),
        };
        let is_checked = claim.meta.level > 1 && !self.config.allow_out_of_order_uploads;
        let mut remote = std::mem::take(&mut self.remote);
        let work = || -> Result<Result<Shipped>> {
            uploader.wait(stop)?;
            let meta_object = format!("{}/meta.json", claim.meta.ulid);
            let is_there = uploader.bucket.exists(&meta_object, stop).map_err(remote::fault)?;
            Ok(ship(&uploader, claim, is_there, is_checked.then_some(&mut remote), stop))
        };
        let shipped = beside(work, self.config.interval, || {
            if !stop.is_stopped() {
                self.tend(claim.meta.ulid, stop);
            }
        });
        self.remote = remote;
        shipped
    }

    /// A failure that may pass: the error again where order counts, else logged and counted.
    fn held_up(&mut self, err: Error, report: &mut TickReport) -> Result<()> {
        report.n_failed += 1;
        self.count(&err, report);
        if !self.config.allow_out_of_order_uploads {
            return Err(err);
        }
        log::error!(err = err.to_string(); "shipping failed");
        Ok(())
    }

    fn count(&mut self, err: &Error, report: &mut TickReport) {
        for failures in [&mut report.failures, &mut self.backlog.failures] {
            *failures.entry(err.class()).or_default() += 1;
        }
    }

    /// Sets a block aside, and logs that once for each reason.
    fn set_aside(
        &mut self,
        found: &Found,
        err: &Error,
        fingerprint: Option<Fingerprint>,
        report: &mut TickReport,
    ) -> Listed {
        let ulid = found.ulid;
        report.n_corrupted += 1;
        self.metrics.corrupted_blocks.inc();
        let reason = err.to_string();
        if self.aside.get(&ulid).is_none_or(|aside| aside.reason != reason) {
            self.count(err, report);
            log::error!(block = ulid.as_str(), err = reason.as_str();
                "block is corrupted and set aside until its files change; other blocks are not held up");
        }
        self.backlog.quarantined.insert(ulid.to_string(), reason.clone());
        self.aside.insert(ulid, Aside { reason, fingerprint });
        // Looked at anew: the upload may have taken hours, in which Prometheus removed it.
        if found.is_local && found.dir.is_dir() {
            self.claims.end(ulid);
        }
        Listed { ulid, shipped: false }
    }

    fn forget_all_but(&mut self, found: &[Found]) {
        let is_there = |ulid: &Ulid| found.iter().any(|found| found.ulid == *ulid);
        self.aside.retain(|ulid, _| is_there(ulid));
        self.overlaps.retain(|ulid, _| is_there(ulid));
        self.backlog.quarantined.clear();
        let misnamed = scan::misnamed(&self.config.disk, &self.config.data_dir).unwrap_or_default();
        for name in misnamed {
            let reason = "its name is not that of a block: a ULID has 26 digits and capitals and begins with 0 to 7";
            if self.misnamed.insert(name.clone()) {
                log::error!(dir = name.as_str(), err = reason; "folder with a meta.json is not shipped");
            }
            self.backlog.quarantined.insert(name, reason.to_owned());
        }
    }

    /// Lists blocks; a block's claim ends once the disk has its entry.
    fn record(&mut self, listing: &[Option<Listed>]) {
        let mut listed: Vec<Listed> = listing.iter().flatten().copied().collect();
        if self.claims.has_unread() {
            // A claim that could not be ended, and can be read again one day, must not be shipped once more: the
            // compactor may have removed its block from the bucket by then.
            let there: BTreeSet<Ulid> = listed.iter().map(|listed| listed.ulid).collect();
            let others = self.ledger.listed().iter().filter(|old| old.shipped && !there.contains(&old.ulid));
            listed.extend(others);
        }
        self.ledger.set(listed);
        if self.save_ledger() {
            for listed in listing.iter().flatten().filter(|listed| listed.shipped) {
                self.claims.end(listed.ulid);
            }
        }
    }

    /// Whether Prometheus has removed a block, as far as can be seen.
    fn is_removed(&self, ulid: Ulid) -> bool {
        self.config.disk.stat_link(&self.block_dir(ulid)).is_err_and(|err| err.kind() == Kind::NotFound)
    }

    /// Whether what is listed is as safe as it will ever be.
    fn save_ledger(&mut self) -> bool {
        let Err(err) = self.ledger.save() else {
            self.ledger_told = None;
            return true;
        };
        let text = err.to_string();
        if self.ledger_told.as_ref() != Some(&text) {
            log::warn!(err = text.as_str(); "updating meta file failed");
            self.ledger_told = Some(text);
        }
        // Where nothing can be written, nothing ever will be: what is shipped is remembered until the next restart,
        // after which the bucket is asked.
        err.kind() == Kind::Permanent
    }
}

/// Brings a block to the bucket. `remote` where overlaps count.
fn ship(
    uploader: &Uploader,
    claim: &Claim,
    is_there: bool,
    mut remote: Option<&mut Remote>,
    stop: &Stop,
) -> Result<Shipped> {
    if is_there {
        match uploader.check_there(claim, stop)? {
            There::Whole => return Ok(Shipped::AlreadyThere),
            There::Repaired => return Ok(Shipped::Repaired),
            There::Unusable => {}
        }
    }
    let block = BucketBlock::from(&claim.meta);
    if let Some(remote) = remote.as_mut()
        && let Some(other) = remote.overlap(&block, uploader.bucket, stop)?
    {
        return Ok(Shipped::Overlaps(other));
    }
    log::info!(id = claim.meta.ulid.as_str(); "upload new block");
    let resumed_bytes = uploader.upload(claim, stop)?;
    if let Some(remote) = remote {
        remote.add(block);
    }
    Ok(Shipped::Uploaded { resumed_bytes })
}
