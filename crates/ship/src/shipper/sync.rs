//! One tick: scan all blocks, claim them, ship them oldest first, and list each in the ledger before its claim ends.
//! Never ends a claim before the disk has its entry.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Quarantined, Shipper, TickReport};
use crate::LOG_TARGET;
use crate::background::run_in_background;
use crate::backlog::PendingBlock;
use crate::claim::{Claim, Files};
use crate::claims::{Budget, ClaimOutcome};
use crate::encodings;
use crate::ledger::LedgerEntry;
use crate::meta::Meta;
use crate::plan::{self, Action, BucketBlock, Found, Past, Planned};
use crate::remote::{self, Remote};
use crate::scan::{self, Fingerprint};
use crate::ulid::Ulid;
use crate::upload::{ExistingBlock, Uploader};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::{Disk, UNREADABLE};
use pillion_base::stop::Stop;

/// How a block came to be in the bucket, or why it is not shipped.
enum Shipped {
    Uploaded {
        resumed_bytes: u64,
    },
    Repaired,
    AlreadyThere,
    Overlaps(Ulid),
    /// The bucket has a block that was compacted of it.
    Compacted(Ulid),
    /// Its files changed while it was uploaded.
    Changed,
}

/// What the bucket is looked through for before a block goes up.
#[derive(Debug)]
struct Checks {
    /// For blocks that overlap it.
    overlaps: bool,
    /// For blocks that were compacted of it.
    compacted: bool,
    /// The blocks of level 1 that are or were here.
    ours: BTreeSet<Ulid>,
}

/// How the attempt to ship a block ended.
enum Attempt {
    /// It is over, and the ledger gets this entry, if any.
    Ended(Option<LedgerEntry>),
    /// The block waits for the external labels.
    WaitsForLabels,
}

impl Shipper {
    /// One tick. `Errors:` a failure that holds the order; what was done before it is kept.
    pub(super) fn sync(&mut self, stop: &Stop, report: &mut TickReport) -> Result<()> {
        self.take_next_bucket();
        let is_ledger_known = self.ledger.reload();
        self.save_ledger();
        self.remote.iter_mut().for_each(Remote::begin_tick);
        let shipped = self.ledger.ulids(|listed| listed.shipped);
        let found = match self.find_blocks(&shipped) {
            Err(err) => {
                self.count(&err, report);
                return Err(err);
            }
            Ok(found) => found,
        };
        self.forget_all_but(&found);
        let history = self.begin_history(&found, &shipped);
        if let Err(err) = is_ledger_known {
            // Nobody knows what was shipped. What is claimed too much is let go later.
            let is_shipped = |ulid: Ulid| self.history.has_shipped(ulid);
            let planned = self.plan(&found, &is_shipped);
            self.look(&planned);
            self.claim(planned.iter(), stop);
            self.count(&err, report);
            return Err(err);
        }
        let planned = self.plan(&found, &|ulid| shipped.contains(&ulid));
        self.look(&planned);
        let done = planned.iter().filter(|planned| matches!(planned.action, Action::Done));
        self.shipped_stubs =
            done.filter_map(|done| Some((done.found.ulid, done.found.meta.as_ref().ok()?.stub()))).collect();
        // What the ledger will list: entries that are known before the first upload, then one after each block.
        let mut listing: Vec<Option<LedgerEntry>> =
            planned.iter().map(|planned| self.entry_before_upload(planned, report)).collect();
        let coming = plan::coming(&found);
        let open = |listing: &[Option<LedgerEntry>], idx: usize| !listing.get(idx).is_some_and(Option::is_some);
        let to_ship = planned.iter().enumerate().filter(|(idx, _)| open(&listing, *idx));
        self.claim(to_ship.map(|(_, planned)| planned), stop);
        // An upload may take hours, so the metrics come first.
        self.publish_metrics();
        self.record(&listing);
        for (idx, planned) in planned.iter().enumerate() {
            stop.check()?;
            match &planned.action {
                // It has an entry because it was quarantined above.
                Action::Ship(_) | Action::StandIn(_) if !open(&listing, idx) => continue,
                // A block that was shipped since the plan was made may have had the same samples.
                Action::StandIn(meta) if self.is_stood_in(meta, &coming) => {
                    self.backlog.pending.retain(|block| block.ulid != planned.found.ulid);
                    continue;
                }
                Action::Ship(_) | Action::StandIn(_) => {}
                Action::Unreadable(err) if err.class() == UNREADABLE => {
                    let listed = self.cannot_read(planned.found, err, report);
                    if let Some(place) = listing.get_mut(idx) {
                        *place = listed;
                    }
                    continue;
                }
                Action::Unreadable(err) => {
                    self.fail_block((*err).clone(), report)?;
                    continue;
                }
                _ => continue,
            }
            if self.looks.contains_key(&planned.found.ulid) {
                report.n_unsettled += 1;
                continue;
            }
            if self.rests(planned.found) {
                report.n_failed += 1;
                continue;
            }
            self.take_next_bucket();
            match self.attempt(planned, stop, report)? {
                Attempt::Ended(listed) => {
                    if listed.is_some() {
                        self.backlog.pending.retain(|block| block.ulid != planned.found.ulid);
                    }
                    if let Some(place) = listing.get_mut(idx) {
                        *place = listed;
                    }
                }
                Attempt::WaitsForLabels => {
                    report.n_waiting += 1;
                    if !self.config.allow_out_of_order_uploads {
                        break;
                    }
                }
            }
            self.record(&listing);
            self.publish_metrics();
        }
        history?;
        let bucket = Arc::clone(&self.bucket);
        self.claims.abandon_ended(&*bucket, stop);
        Ok(())
    }

    /// Brings the memory of shipped blocks up to date. `Errors:` when it cannot be read now; then compacted blocks wait.
    fn begin_history(&mut self, found: &[Found], shipped: &BTreeSet<Ulid>) -> Result<()> {
        let config = &self.config;
        self.history.begin(|| scan::scan(&config.disk, &config.data_dir, |_| None))?;
        self.history.add(shipped.iter().copied());
        self.history.prune(found);
        self.history.save();
        Ok(())
    }

    fn plan<'a>(&self, found: &'a [Found], is_shipped: &dyn Fn(Ulid) -> bool) -> Vec<Planned<'a>> {
        let upload_compacted = self.config.upload_compacted;
        // Nothing is known of compacted blocks while the memory cannot be read.
        let is_covered = |ulid: Ulid| !self.history.is_known() || self.history.covers(ulid);
        plan::plan(found, &Past { is_shipped, is_covered: &is_covered, upload_compacted })
    }

    fn is_stood_in(&self, meta: &Meta, coming: &BTreeSet<Ulid>) -> bool {
        meta.covered().all(|ulid| coming.contains(&ulid) || self.history.covers(ulid))
    }

    /// All blocks: those that Prometheus has, and those that only a claim has kept. A claimed block has the meta.json
    /// of its claim. There may be thousands of `shipped` blocks, so their meta.json is read once.
    fn find_blocks(&mut self, shipped: &BTreeSet<Ulid>) -> Result<Vec<Found>> {
        let (disk, data_dir) = (self.config.disk.clone(), self.config.data_dir.clone());
        self.claims.find(|ulid| !scan::is_gone(&disk, &data_dir.join(ulid.as_str())));
        let known = |ulid| self.shipped_stubs.get(&ulid).filter(|_| shipped.contains(&ulid)).cloned();
        // The scan sorts by name.
        let mut found = scan::scan(&self.config.disk, &self.config.data_dir, known)?;
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

    /// Claims blocks, oldest first, and lists them as pending. At the first start there may be thousands, and each
    /// claim is synced to the disk, so the stop is checked between two blocks.
    fn claim<'a>(&mut self, planned: impl Iterator<Item = &'a Planned<'a>>, stop: &Stop) {
        let labels = self.state.read().external_labels.clone();
        let mut pending = Vec::new();
        for planned in planned {
            let Some(meta) = planned.action.to_ship() else { continue };
            let found = planned.found;
            match self.claims.claim_block(found, &labels, false) {
                Ok(ClaimOutcome::Gone) => continue,
                Ok(_) => {}
                // Handled when the block is to be shipped.
                Err(err) => {
                    log::debug!(target: LOG_TARGET, block = found.ulid.as_str(), err = err.to_string(); "block cannot be claimed")
                }
            }
            pending.push(self.pending(found, meta));
            if stop.is_stopped() {
                break;
            }
        }
        self.claims.pin(&labels);
        self.backlog.pending = pending;
        self.enforce_claim_budget();
    }

    fn pending(&self, found: &Found, meta: &Meta) -> PendingBlock {
        let claim = self.claims.get(found.ulid);
        let bytes = claim.map_or_else(
            || scan::examine(&self.config.disk, &found.dir, meta).map_or(0, |examined| examined.bytes),
            |claim| claim.bytes,
        );
        PendingBlock {
            ulid: found.ulid,
            bytes,
            max_time_ms: meta.max_time_ms,
            is_local: found.is_local,
            is_claimed: claim.is_some(),
        }
    }

    fn enforce_claim_budget(&mut self) {
        // The claim of a shipped block stays while the ledger cannot be written. Once Prometheus has removed the block,
        // it needs no entry, because nothing is left that could be shipped again. And on a full disk the claim itself
        // may be what keeps the ledger from being written.
        let is_over =
            |ulid: &Ulid| self.ledger.entry(*ulid).is_some_and(|listed| listed.shipped) && self.is_removed(*ulid);
        for ulid in self.claims.iter().map(|(ulid, _)| ulid).filter(is_over).collect::<Vec<_>>() {
            self.claims.end(ulid);
        }
        let (disk, data_dir) = (self.config.disk.clone(), self.config.data_dir.clone());
        // A failed look proves nothing, and a block that may be there is not given up.
        let is_local = |ulid: Ulid| !scan::is_gone(&disk, &data_dir.join(ulid.as_str()));
        let (overlaps, history) = (&self.overlaps, &self.history);
        let idleness = |meta: &Meta| match () {
            // It is not shipped as things are: the bucket has its time already.
            () if overlaps.contains_key(&meta.ulid) => 2,
            // The bucket has its samples.
            () if meta.level > 1 && meta.covered().all(|ulid| history.covers(ulid)) => 1,
            () => 0,
        };
        let budget = Budget { bytes: self.config.claim_budget_bytes, reserve_bytes: self.config.claim_reserve_bytes };
        let cost = self.claims.enforce_budget(&budget, is_local, idleness);
        self.backlog.claimed_bytes = cost.bytes;
        self.backlog.n_given_up += cost.n_given_up;
        if cost.n_given_up > 0 {
            let is_there = |block: &PendingBlock| block.is_local || self.claims.get(block.ulid).is_some();
            self.backlog.pending.retain(is_there);
        }
    }

    /// Claims what has appeared since the tick began, while a block is uploaded.
    fn claim_new_blocks(&mut self, uploading: Ulid, stop: &Stop) {
        let listed = self.ledger.ulids(|_| true);
        let found = match self.find_blocks(&listed) {
            Ok(found) => found,
            Err(err) => {
                log::debug!(target: LOG_TARGET, err = err.to_string(); "new blocks are claimed later");
                return;
            }
        };
        let planned = self.plan(&found, &|ulid| listed.contains(&ulid));
        self.look(&planned);
        let others = planned.iter().filter(|planned| planned.found.ulid != uploading);
        let before: Vec<PendingBlock> =
            self.backlog.pending.iter().filter(|block| block.ulid == uploading).cloned().collect();
        self.claim(others, stop);
        self.backlog.pending.splice(0..0, before);
        self.publish_metrics();
    }

    /// The entry of a block before anything is uploaded; quarantines corrupted blocks.
    fn entry_before_upload(&mut self, planned: &Planned, report: &mut TickReport) -> Option<LedgerEntry> {
        let ulid = planned.found.ulid;
        match planned.action {
            Action::Done => Some(LedgerEntry { ulid, shipped: true }),
            Action::ListEmpty => {
                self.history.add([ulid]);
                log::debug!(target: LOG_TARGET, block = ulid.as_str(); "ignoring empty block");
                Some(LedgerEntry { ulid, shipped: false })
            }
            Action::ListCorrupt(_) if self.looks.contains_key(&ulid) => self.ledger.entry(ulid),
            Action::ListCorrupt(err) => Some(self.quarantine(planned.found, err, None, report)),
            Action::SkipCompacted => {
                // An earlier run that shipped compacted blocks may have claimed it.
                if self.history.is_known() {
                    self.claims.end(ulid);
                }
                None
            }
            Action::Unreadable(_) => self.ledger.entry(ulid),
            // Not listed until it is shipped, not even if it was listed as corrupted: Prometheus must wait for it.
            Action::Ship(_) | Action::StandIn(_) if self.looks.contains_key(&ulid) => self.ledger.entry(ulid),
            Action::Ship(meta) | Action::StandIn(meta) => self
                .found_corrupt(planned.found, meta)
                .map(|(err, fingerprint)| self.quarantine(planned.found, &err, fingerprint, report)),
        }
    }

    /// Why a block cannot be shipped, if it is known to be corrupted or a cheap check finds that; the bucket is not
    /// asked.
    fn found_corrupt(&self, found: &Found, meta: &Meta) -> Option<(Error, Option<Fingerprint>)> {
        if let Some(Quarantined { reason, fingerprint: Some(fingerprint) }) = self.quarantine.get(&found.ulid)
            && *fingerprint == scan::fingerprint(&self.config.disk, &found.dir)
        {
            return Some((Error::new(Kind::Corrupt, reason.clone()), Some(fingerprint.clone())));
        }
        // It was examined when it was claimed.
        if self.claims.get(found.ulid).is_some() {
            return None;
        }
        match scan::examine(&self.config.disk, &found.dir, meta) {
            Err(err) if err.kind() == Kind::Corrupt && found.dir.exists() => Some((err, None)),
            _ => None,
        }
    }

    /// Ships one block. An error ends the tick.
    fn attempt(&mut self, planned: &Planned, stop: &Stop, report: &mut TickReport) -> Result<Attempt> {
        let (found, ulid) = (planned.found, planned.found.ulid);
        let stands_in = matches!(planned.action, Action::StandIn(_));
        let labels = self.state.read().external_labels.clone();
        if labels.is_empty() && !self.claims.get(ulid).is_some_and(|claim| claim.is_pinned) {
            return Ok(Attempt::WaitsForLabels);
        }
        let look = if found.is_local { scan::look(&self.config.disk, &found.dir).map(Some) } else { Ok(None) };
        let look = match look {
            Err(err) if err.class() == UNREADABLE => {
                return Ok(Attempt::Ended(self.cannot_read(found, &err, report)));
            }
            Err(err) => {
                self.fail_block(err.context(format!("upload {ulid}")), report)?;
                return Ok(Attempt::Ended(None));
            }
            Ok(look) => look,
        };
        if look.as_ref().is_some_and(|look| self.has_gone_on(found, look)) {
            report.n_unsettled += 1;
            return Ok(Attempt::Ended(None));
        }
        let secured = match self.claims.claim_block(found, &labels, true) {
            Err(err) if err.kind() == Kind::Corrupt => {
                return Ok(Attempt::Ended(Some(self.quarantine(found, &err, None, report))));
            }
            Err(err) if err.class() == UNREADABLE => {
                return Ok(Attempt::Ended(self.cannot_read(found, &err, report)));
            }
            // Its claim cannot be used now, and must not be replaced. It was said already, and is looked at again.
            Err(err) if self.claims.unread().any(|(unread, _)| unread == ulid) => {
                report.n_failed += 1;
                self.count(&err, report);
                return Ok(Attempt::Ended(None));
            }
            Err(err) => {
                self.metrics.upload_failures.inc();
                self.fail_block(err.context(format!("upload {ulid}")), report)?;
                return Ok(Attempt::Ended(None));
            }
            Ok(secured) => secured,
        };
        self.claims.pin(&labels);
        let Some(claim) = self.claims.take(ulid).filter(|_| secured == ClaimOutcome::Claimed) else {
            return Ok(Attempt::Ended(None));
        };
        let shipped = self.ship_in_background(&claim, stands_in, found, look.as_ref(), stop);
        let covered: Vec<Ulid> = claim.meta.covered().chain([ulid]).collect();
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
                if stands_in {
                    self.has_stood_in(ulid, report);
                }
                report.resumed_bytes += resumed_bytes;
                self.backlog.resumed_bytes += resumed_bytes;
                Some(self.uploaded(ulid, report))
            }
            Ok(Shipped::Repaired) => {
                report.n_repaired += 1;
                Some(self.uploaded(ulid, report))
            }
            Ok(Shipped::AlreadyThere) => Some(LedgerEntry { ulid, shipped: true }),
            Ok(Shipped::Compacted(other)) => {
                log::info!(target: LOG_TARGET, block = ulid.as_str(), compacted = other.as_str();
                    "the bucket has a block that was compacted of this one; it is not uploaded again");
                Some(LedgerEntry { ulid, shipped: true })
            }
            Ok(Shipped::Changed) => {
                log::warn!(target: LOG_TARGET, block = ulid.as_str(); "block changed while it was uploaded; it is uploaded anew");
                self.settled.remove(&ulid);
                self.claims.end(ulid);
                report.n_unsettled += 1;
                None
            }
            Ok(Shipped::Overlaps(other)) => {
                report.n_overlapping += 1;
                if self.overlaps.insert(ulid, other) != Some(other) {
                    log::error!(target: LOG_TARGET, block = ulid.as_str(), overlaps = other.as_str();
                        "Found overlap or error during sync, cannot upload compacted block");
                }
                None
            }
            Err(err) if err.kind() == Kind::Corrupt => {
                let look = look.unwrap_or_else(|| scan::fingerprint(&self.config.disk, &found.dir));
                Some(self.quarantine(found, &err, Some(look), report))
            }
            Err(err) if err.kind() == Kind::Stopped => return Err(err),
            Err(err) if err.class() == UNREADABLE => self.cannot_read(found, &err, report),
            Err(err) => {
                self.metrics.upload_failures.inc();
                self.fail_block(err.context(format!("upload {ulid}")), report)?;
                None
            }
        };
        if listed.is_some_and(|listed| listed.shipped) {
            self.unreadable.remove(&ulid);
            self.history.add(covered);
            self.history.save();
        }
        if listed.is_some_and(|listed| listed.shipped) && self.quarantine.remove(&ulid).is_some() {
            log::info!(target: LOG_TARGET, block = ulid.as_str(); "block that was set aside is shipped");
        }
        Ok(Attempt::Ended(listed))
    }

    fn uploaded(&mut self, ulid: Ulid, report: &mut TickReport) -> LedgerEntry {
        report.n_uploaded += 1;
        self.metrics.uploads.inc();
        let now = jiff::Timestamp::now();
        self.ledger.uploaded_at(now);
        self.backlog.last_upload = Some(now);
        LedgerEntry { ulid, shipped: true }
    }

    /// Counts a compacted block that was shipped for others that never were, and says once how to avoid it.
    fn has_stood_in(&mut self, ulid: Ulid, report: &mut TickReport) {
        report.n_stand_ins += 1;
        self.metrics.stand_in_blocks.inc();
        if !std::mem::replace(&mut self.stand_in_is_said, true) {
            let flag = format!(
                "--storage.tsdb.delay-compact-file.path={}",
                self.config.data_dir.join(&self.config.meta_file_name).display()
            );
            log::warn!(target: LOG_TARGET, block = ulid.as_str(), flag = flag;
                "Prometheus has compacted blocks before they were shipped, so the compacted block is shipped in their place; \
                 with this flag Prometheus 3 waits for the sidecar. The compactor needs --compact.enable-vertical-compaction \
                 where samples come out of order");
        }
    }

    /// Does all the work with the bucket for one block on a thread of its own, and claims new blocks meanwhile. The
    /// outer error means that the bucket could not be asked whether it has the block.
    fn ship_in_background(
        &mut self,
        claim: &Claim,
        stands_in: bool,
        found: &Found,
        before: Option<&Fingerprint>,
        stop: &Stop,
    ) -> Result<Result<Shipped>> {
        let (disk, bucket, gate) =
            (self.config.disk.clone(), Arc::clone(&self.bucket), self.config.upload_gate.clone());
        let uploader = Uploader {
            disk: &disk,
            bucket: &*bucket,
            concurrency: self.config.upload_concurrency,
            sha256: self.config.sha256,
            gate: gate.as_ref(),
        };
        let ulid = claim.meta.ulid;
        let compacted = self.ledger.was_damaged() || self.history.has_shipped(ulid);
        let checks = Checks {
            // What stands in for others has samples that are nowhere else.
            overlaps: claim.meta.level > 1 && !stands_in && !self.config.allow_out_of_order_uploads,
            // It was shipped once, says the history, but the ledger that said so is gone.
            compacted,
            ours: if compacted { self.ours(claim) } else { BTreeSet::new() },
        };
        let is_unchanged = || match before {
            Some(before) if !scan::is_gone(&disk, &found.dir) => {
                let now = scan::look(&disk, &found.dir)?;
                // Prometheus may be removing it.
                Ok(scan::is_same_content(before, &now) || scan::is_gone(&disk, &found.dir))
            }
            _ => Ok(true),
        };
        let mut remote = self.remote.take();
        let mut encoding_is_said = self.encoding_is_said;
        let has_shipped = self.ledger.entries().iter().any(|listed| listed.shipped);
        let mut place = self.place.clone();
        let standing = self.config.standing.clone();
        let work = || -> Result<Result<Shipped>> {
            uploader.wait(stop)?;
            place.check(uploader.bucket, has_shipped, stop).map_err(remote::bucket_fault)?;
            let meta_object = format!("{ulid}/meta.json");
            let is_there = uploader.bucket.exists(&meta_object, stop).map_err(remote::bucket_fault)?;
            if !is_there && !encoding_is_said {
                encoding_is_said = say_newer_encoding(claim, &disk);
            }
            let _under_way = standing.begin(ulid, claim.bytes, claim.record.stored_bytes());
            Ok(ship(&uploader, claim, is_there, remote.as_mut(), &checks, &is_unchanged, stop))
        };
        let shipped = run_in_background(work, self.config.interval, || {
            if !stop.is_stopped() {
                self.claim_new_blocks(ulid, stop);
            }
        });
        self.remote = remote;
        self.place = place;
        self.encoding_is_said = encoding_is_said;
        shipped
    }

    /// The blocks of level 1 that are or were here.
    fn ours(&self, claim: &Claim) -> BTreeSet<Ulid> {
        self.history.shipped().chain(claim.meta.covered()).chain(self.claims.iter().map(|(ulid, _)| ulid)).collect()
    }

    /// Counts a failure that may pass. Returns the error where order counts, else logs it.
    fn fail_block(&mut self, err: Error, report: &mut TickReport) -> Result<()> {
        report.n_failed += 1;
        self.count(&err, report);
        if !self.config.allow_out_of_order_uploads {
            return Err(err);
        }
        log::error!(target: LOG_TARGET, err = err.to_string(); "shipping failed");
        Ok(())
    }

    pub(super) fn count(&mut self, err: &Error, report: &mut TickReport) {
        for failures in [&mut report.failures, &mut self.backlog.failures] {
            *failures.entry(err.class()).or_default() += 1;
        }
    }

    /// Quarantines a block, and logs that once for each reason.
    pub(super) fn quarantine(
        &mut self,
        found: &Found,
        err: &Error,
        fingerprint: Option<Fingerprint>,
        report: &mut TickReport,
    ) -> LedgerEntry {
        let ulid = found.ulid;
        report.n_corrupted += 1;
        self.metrics.corrupted_blocks.inc();
        let reason = err.to_string();
        if self.quarantine.get(&ulid).is_none_or(|known| known.reason != reason) {
            self.count(err, report);
            log::error!(target: LOG_TARGET, block = ulid.as_str(), err = reason.as_str();
                "block is corrupted and set aside until its files change; other blocks are not held up");
        }
        self.backlog.quarantined.insert(ulid.to_string(), reason.clone());
        self.quarantine.insert(ulid, Quarantined { reason, fingerprint });
        // Checked again: Prometheus may have removed it during the hours of an upload. What the disk could not read may be
        // readable one day.
        if found.is_local && found.dir.is_dir() && err.class() != UNREADABLE {
            self.claims.end(ulid);
        }
        LedgerEntry { ulid, shipped: false }
    }

    fn forget_all_but(&mut self, found: &[Found]) {
        let is_there = |ulid: &Ulid| found.iter().any(|found| found.ulid == *ulid);
        self.quarantine.retain(|ulid, _| is_there(ulid));
        self.unreadable.retain(|ulid, _| is_there(ulid));
        self.settled.retain(|ulid, _| is_there(ulid));
        self.overlaps.retain(|ulid, _| is_there(ulid));
        let unread = self.claims.unread().map(|(ulid, err)| (ulid.to_string(), err.to_string()));
        self.backlog.quarantined = unread.collect();
        let misnamed = scan::misnamed(&self.config.disk, &self.config.data_dir).unwrap_or_default();
        for name in misnamed {
            let reason = "its name is not that of a block: a ULID has 26 digits and capitals and begins with 0 to 7";
            if self.misnamed.insert(name.clone()) {
                log::error!(target: LOG_TARGET, dir = name.as_str(), err = reason; "folder with a meta.json is not shipped");
            }
            self.backlog.quarantined.insert(name, reason.to_owned());
        }
    }

    /// Lists blocks in the ledger; the claim of a block ends once the disk has its entry.
    fn record(&mut self, listing: &[Option<LedgerEntry>]) {
        let mut listed: Vec<LedgerEntry> = listing.iter().flatten().copied().collect();
        if self.claims.has_unread() {
            // A claim that cannot be read now, and could not be ended, may be readable one day. It must not be shipped
            // once more: the compactor may have removed its block from the bucket by then.
            let there: BTreeSet<Ulid> = listed.iter().map(|listed| listed.ulid).collect();
            let others = self.ledger.entries().iter().filter(|old| old.shipped && !there.contains(&old.ulid));
            listed.extend(others);
        }
        self.ledger.set(listed);
        if self.save_ledger() {
            for listed in listing.iter().flatten().filter(|listed| listed.shipped) {
                self.claims.end(listed.ulid);
            }
        }
    }

    /// Whether Prometheus has surely removed a block.
    fn is_removed(&self, ulid: Ulid) -> bool {
        scan::is_gone(&self.config.disk, &self.block_dir(ulid))
    }

    /// Writes the ledger. Whether its entries are as safe as they will ever be.
    fn save_ledger(&mut self) -> bool {
        let Err(err) = self.ledger.save() else {
            self.ledger_error_logged = None;
            return true;
        };
        let text = err.to_string();
        if self.ledger_error_logged.as_ref() != Some(&text) {
            log::warn!(target: LOG_TARGET, err = text.as_str(); "updating meta file failed");
            self.ledger_error_logged = Some(text);
        }
        // A permanent failure will not pass: what is shipped is remembered until the next restart, and after that the
        // bucket is asked.
        err.kind() == Kind::Permanent
    }
}

/// Says so if the block has chunks that Thanos cannot read; whether it has. What cannot be read here is the upload's concern.
fn say_newer_encoding(claim: &Claim, disk: &Disk) -> bool {
    let Ok(Some(newer)) = encodings::newer_encoding(claim, disk) else { return false };
    log::warn!(target: LOG_TARGET, block = claim.meta.ulid.as_str(), encoding = newer.name, switch = newer.switch;
        "the block has chunks that Thanos's compactor and store gateway cannot read; it is uploaded all the same, and so are \
         those that follow, until the switch is turned off in Prometheus");
    true
}

/// Ships a block to the bucket. `is_unchanged` says whether Prometheus's files are still those that were claimed.
fn ship(
    uploader: &Uploader,
    claim: &Claim,
    is_there: bool,
    mut remote: Option<&mut Remote>,
    checks: &Checks,
    is_unchanged: &dyn Fn() -> Result<bool>,
    stop: &Stop,
) -> Result<Shipped> {
    if is_there {
        match uploader.check_existing(claim, stop)? {
            ExistingBlock::Whole => return Ok(Shipped::AlreadyThere),
            ExistingBlock::Repaired => return Ok(Shipped::Repaired),
            ExistingBlock::Unusable => {}
        }
    }
    if let Some(remote) = remote.as_mut().filter(|_| checks.compacted) {
        match remote.compacted_of(&claim.meta, &checks.ours, uploader.bucket, stop) {
            Ok(None) => {}
            Ok(Some(other)) => return Ok(Shipped::Compacted(other)),
            Err(err) if err.kind() == Kind::Permanent => {
                log::warn!(target: LOG_TARGET, block = claim.meta.ulid.as_str(), err = err.to_string();
                "the bucket cannot be looked through for blocks that were compacted of this one; it is uploaded")
            }
            Err(err) => return Err(err),
        }
    }
    let block = BucketBlock::from(&claim.meta);
    if let Some(remote) = remote.as_mut().filter(|_| checks.overlaps)
        && let Some(other) = remote.overlap(&block, uploader.bucket, stop)?
    {
        return Ok(Shipped::Overlaps(other));
    }
    log::info!(target: LOG_TARGET, id = claim.meta.ulid.as_str(); "upload new block");
    let Some(resumed_bytes) = uploader.upload(claim, is_unchanged, stop)? else { return Ok(Shipped::Changed) };
    if let Some(remote) = remote {
        remote.add(&claim.meta);
    }
    Ok(Shipped::Uploaded { resumed_bytes })
}
