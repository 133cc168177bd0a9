//! Ships finished TSDB blocks to a bucket: one tick every 30 s, oldest block first.
//!
//! One bad block never stops the rest: a block that cannot be read is set aside with its reason until its files
//! change. Anything that may pass (a bucket that does not answer, a full disk) holds the order instead, for a younger
//! block that arrives before an older one makes the compactor halt.

pub mod json;
pub mod ledger;
pub mod meta;
pub mod plan;
pub mod scan;
pub mod spool;
pub mod ulid;
pub mod upload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, CWD};

use crate::error::{Context, Error, Kind, Result};
use crate::files::Disk;
use crate::labels::Labels;
use crate::limits;
use crate::metrics::ShipMetrics;
use crate::objstore::Bucket;
use crate::state::{PromState, Published};
use crate::supervisor::Stop;
use ledger::{Ledger, Listed};
use meta::Meta;
use plan::{Action, BucketBlock, Found, Planned};
use scan::Fingerprint;
use spool::Spool;
use ulid::Ulid;
use upload::Uploader;

/// How often the shipper looks whether the external labels are known. `Source:` Thanos.
const LABELS_RETRY: Duration = Duration::from_secs(2);

/// What the shipper is told by the command line.
#[derive(Clone)]
pub struct ShipConfig {
    /// `--tsdb.path`.
    pub data_dir: PathBuf,
    /// `--shipper.meta-file-name`, relative to the data directory.
    pub meta_file_name: String,
    /// `--shipper.upload-compacted`.
    pub upload_compacted: bool,
    /// `--shipper.allow-out-of-order-uploads`.
    pub allow_out_of_order_uploads: bool,
    /// `--shipper.upload-concurrency`; 0 and 1 are the same.
    pub upload_concurrency: usize,
    /// `--hash-func=SHA256`.
    pub sha256: bool,
    /// `--prometheus.ready_timeout`: after this time without external labels a warning is logged.
    pub ready_timeout: Duration,
    /// The disk; watched in tests.
    pub disk: Disk,
}

impl ShipConfig {
    /// The defaults of the command line for a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        ShipConfig {
            data_dir: data_dir.into(),
            meta_file_name: "thanos.shipper.json".to_owned(),
            upload_compacted: false,
            allow_out_of_order_uploads: false,
            upload_concurrency: 0,
            sha256: false,
            ready_timeout: Duration::from_secs(600),
            disk: Disk::real(),
        }
    }
}

/// What one tick did.
#[derive(Debug, Default)]
pub struct TickReport {
    /// Blocks that were uploaded.
    pub n_uploaded: usize,
    /// Blocks whose upload failed.
    pub n_failed: usize,
    /// Blocks that cannot be read and are set aside.
    pub n_corrupted: usize,
    /// Compacted blocks that overlap one in the bucket.
    pub n_overlapping: usize,
    /// Why the tick ended before its last block, if it did.
    pub error: Option<Error>,
}

/// Why a block is set aside.
struct Aside {
    reason: String,
    /// The block as it was then. `None` where the reason is found anew each tick without reading much.
    fingerprint: Option<Fingerprint>,
}

/// What became of a block that was to be shipped.
enum Shipped {
    Uploaded,
    AlreadyThere,
    Overlaps(Ulid),
    /// Prometheus removed it meanwhile.
    Gone,
}

/// The shipper.
pub struct Shipper {
    config: ShipConfig,
    bucket: Arc<dyn Bucket>,
    state: Published<PromState>,
    metrics: ShipMetrics,
    ledger: Ledger,
    spool: Spool,
    /// Whether nothing is left in the staging folder; else the next tick sweeps it.
    is_swept: bool,
    aside: BTreeMap<Ulid, Aside>,
    /// Overlaps that were logged, by new block.
    overlaps: BTreeMap<Ulid, Ulid>,
}

impl Shipper {
    /// A shipper; creates the ledger at once if it is missing, for Prometheus may be waiting for it.
    pub fn new(config: ShipConfig, bucket: Arc<dyn Bucket>, state: Published<PromState>, metrics: ShipMetrics) -> Self {
        let ledger = Ledger::open(&config.data_dir.join(&config.meta_file_name), config.disk.clone());
        let spool = Spool::new(&config.data_dir, config.disk.clone());
        let (aside, overlaps) = (BTreeMap::new(), BTreeMap::new());
        Shipper { config, bucket, state, metrics, ledger, spool, is_swept: false, aside, overlaps }
    }

    /// Ships until the stop; no failure of disk, bucket or Prometheus ends it. `Blocks:` for the life of the daemon.
    pub fn run(mut self, stop: Stop) -> Result<()> {
        if self.wait_for_labels(&stop) {
            return Ok(());
        }
        let mut told = (0, 0, 0);
        loop {
            let report = self.tick(&stop);
            if stop.is_stopped() {
                return Ok(());
            }
            if let Some(err) = &report.error {
                log::warn!(err = err.to_string(), uploaded = report.n_uploaded; "syncing blocks failed");
            }
            let news = (report.n_failed, report.n_corrupted, report.n_overlapping);
            if news != told && news != (0, 0, 0) {
                let (failed, corrupted, overlapping) = news;
                log::warn!(failed = failed, corrupted = corrupted, overlapping = overlapping, uploaded = report.n_uploaded;
                    "failed to sync some blocks");
            }
            told = news;
            if stop.wait(limits::SHIP_INTERVAL) {
                return Ok(());
            }
        }
    }

    /// Waits for the external labels; true when the stop came first.
    ///
    /// `Differs:` Thanos ends the process after the ready time-out. Here that only makes a warning: a Prometheus that
    /// replays its WAL for long must not take the reading side down with it.
    fn wait_for_labels(&self, stop: &Stop) -> bool {
        let begun = Instant::now();
        let mut is_warned = false;
        while self.state.read().external_labels.is_empty() {
            if !is_warned && begun.elapsed() >= self.config.ready_timeout {
                is_warned = true;
                log::warn!(waited_seconds = begun.elapsed().as_secs();
                    "not uploading as no external labels are configured yet - is Prometheus healthy/reachable?");
            }
            if stop.wait(LABELS_RETRY) {
                return true;
            }
        }
        stop.is_stopped()
    }

    /// Looks at all blocks once and ships what is to be shipped. `Blocks:` while blocks are uploaded.
    pub fn tick(&mut self, stop: &Stop) -> TickReport {
        let mut report = TickReport::default();
        let result = self.sync(stop, &mut report);
        let is_clean = result.is_ok() && (report.n_failed, report.n_corrupted, report.n_overlapping) == (0, 0, 0);
        self.metrics.upload_compacted_done.set(i64::from(is_clean && self.config.upload_compacted));
        match &result {
            Ok(()) => self.metrics.dir_syncs.inc(),
            // A tick that the stop cut short has neither succeeded nor failed.
            Err(err) if err.kind() == Kind::Stopped => {}
            Err(_) => self.metrics.dir_sync_failures.inc(),
        }
        report.error = result.err();
        report
    }

    fn sync(&mut self, stop: &Stop, report: &mut TickReport) -> Result<()> {
        self.ledger.reload();
        self.save_ledger();
        if !self.is_swept {
            match self.spool.sweep() {
                Ok(()) => self.is_swept = true,
                Err(err) => log::error!(err = err.to_string(); "failed to clean upload directory"),
            }
        }
        let labels = self.state.read().external_labels.clone();
        let found = scan::scan(&self.config.disk, &self.config.data_dir)?;
        self.forget_all_but(&found);
        let ledger = &self.ledger;
        let is_shipped = |ulid| ledger.entry(ulid).is_some_and(|listed| listed.shipped);
        let planned = plan::plan(&found, is_shipped, self.config.upload_compacted);
        // What the ledger will list: what is known of each block before the first upload, and then block by block.
        let mut listing: Vec<Option<Listed>> = planned.iter().map(|planned| self.listed_now(planned, report)).collect();
        self.record(&listing);
        let mut in_bucket = None;
        for (idx, planned) in planned.iter().enumerate() {
            stop.check()?;
            let meta = match &planned.action {
                // An entry says that the block was set aside above.
                Action::Ship(_) if listing.get(idx).is_some_and(Option::is_some) => continue,
                Action::Ship(meta) => *meta,
                Action::Unreadable(err) => {
                    self.held_up((*err).clone(), report)?;
                    continue;
                }
                _ => continue,
            };
            let listed = self.attempt(planned.found, meta, &labels, &mut in_bucket, stop, report)?;
            if let Some(place) = listing.get_mut(idx) {
                *place = listed;
            }
            self.record(&listing);
        }
        Ok(())
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
            Action::ListCorrupt(err) => Some(self.set_aside(ulid, err, None, report)),
            Action::SkipCompacted => None,
            Action::Unreadable(_) => self.ledger.entry(ulid),
            // Not listed until it is shipped, also if it was listed as corrupted: Prometheus must wait for it.
            Action::Ship(meta) => self
                .found_corrupt(planned.found, meta)
                .map(|(err, fingerprint)| self.set_aside(ulid, &err, fingerprint, report)),
        }
    }

    /// Why a block cannot be shipped, if it is known or cheaply seen to be corrupted; asks nothing of the bucket.
    fn found_corrupt(&self, found: &Found, meta: &Meta) -> Option<(Error, Option<Fingerprint>)> {
        if let Some(Aside { reason, fingerprint: Some(fingerprint) }) = self.aside.get(&found.ulid) {
            if *fingerprint == scan::fingerprint(&self.config.disk, &found.dir) {
                return Some((Error::new(Kind::Corrupt, reason.clone()), Some(fingerprint.clone())));
            }
        }
        match scan::examine(&self.config.disk, &found.dir, meta) {
            Err(err) if err.kind() == Kind::Corrupt && found.dir.exists() => Some((err, None)),
            _ => None,
        }
    }

    /// Ships one block; its entry in the ledger. An error ends the tick.
    fn attempt(
        &mut self,
        found: &Found,
        meta: &Meta,
        labels: &Labels,
        in_bucket: &mut Option<Vec<BucketBlock>>,
        stop: &Stop,
        report: &mut TickReport,
    ) -> Result<Option<Listed>> {
        let ulid = found.ulid;
        let fingerprint = Some(scan::fingerprint(&self.config.disk, &found.dir));
        let object = format!("{ulid}/meta.json");
        let there = self.bucket.exists(&object, stop).map_err(|err| not_corrupt(err).context("check exists"))?;
        let shipped = if there { Ok(Shipped::AlreadyThere) } else { self.ship(found, meta, labels, in_bucket, stop) };
        let listed = match shipped {
            Ok(Shipped::Uploaded) => {
                report.n_uploaded += 1;
                self.metrics.uploads.inc();
                Some(Listed { ulid, shipped: true })
            }
            Ok(Shipped::AlreadyThere) => Some(Listed { ulid, shipped: true }),
            Ok(Shipped::Gone) => None,
            Ok(Shipped::Overlaps(other)) => {
                report.n_overlapping += 1;
                if self.overlaps.insert(ulid, other) != Some(other) {
                    log::error!(block = ulid.as_str(), overlaps = other.as_str();
                        "Found overlap or error during sync, cannot upload compacted block");
                }
                None
            }
            Err(err) if err.kind() == Kind::Corrupt => Some(self.set_aside(ulid, &err, fingerprint, report)),
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
        Ok(listed)
    }

    /// A failure that may pass: the error again where order counts, else logged and counted.
    fn held_up(&self, err: Error, report: &mut TickReport) -> Result<()> {
        report.n_failed += 1;
        if !self.config.allow_out_of_order_uploads {
            return Err(err);
        }
        log::error!(err = err.to_string(); "shipping failed");
        Ok(())
    }

    fn ship(
        &mut self,
        found: &Found,
        meta: &Meta,
        labels: &Labels,
        in_bucket: &mut Option<Vec<BucketBlock>>,
        stop: &Stop,
    ) -> Result<Shipped> {
        let (ulid, mut meta) = (found.ulid, meta.clone());
        let chunks = match scan::examine(&self.config.disk, &found.dir, &meta) {
            Err(_) if !found.dir.exists() => return Ok(Shipped::Gone),
            examined => examined?,
        };
        meta.ship_as(labels, &chunks);
        if meta.labels.is_empty() {
            return Err(Error::new(Kind::Retry, "empty external labels are not allowed for Thanos block."));
        }
        let as_shipped = BucketBlock::from(&meta);
        if meta.level > 1 && !self.config.allow_out_of_order_uploads {
            let others = match in_bucket {
                Some(others) => others,
                None => in_bucket.insert(self.blocks_in_bucket(ulid, stop)?),
            };
            if let Some(other) = plan::overlap(&as_shipped, others) {
                return Ok(Shipped::Overlaps(other.ulid));
            }
        }
        log::info!(id = ulid.as_str(); "upload new block");
        let uploader = Uploader {
            disk: &self.config.disk,
            bucket: &*self.bucket,
            concurrency: self.config.upload_concurrency,
            sha256: self.config.sha256,
        };
        let staged = self.spool.stage(ulid, &found.dir, &chunks, &meta.write()?);
        let result = match staged {
            Err(err) if err.kind() == Kind::NotFound && !found.dir.exists() => Ok(Shipped::Gone),
            Err(err) => Err(err),
            Ok(dir) => uploader.upload(&dir, &chunks, &mut meta, stop).map(|()| Shipped::Uploaded),
        };
        if let Err(err) = self.spool.release(ulid) {
            self.is_swept = false;
            log::error!(err = err.to_string(); "failed to clean upload directory");
        }
        if let (Ok(Shipped::Uploaded), Some(others)) = (&result, in_bucket) {
            others.push(as_shipped);
        }
        result
    }

    /// All whole blocks of the bucket. A folder without meta.json is a block that somebody is uploading, or gave up
    /// on; it cannot overlap anything.
    fn blocks_in_bucket(&self, ulid: Ulid, stop: &Stop) -> Result<Vec<BucketBlock>> {
        log::info!(id = ulid.as_str(); "gathering all existing blocks from the remote bucket for check");
        let mut blocks = Vec::new();
        let mut read = |name: &str| {
            let Some(block) = name.strip_suffix('/').and_then(Ulid::parse) else { return Ok(()) };
            match self.bucket.get(&format!("{block}/meta.json"), stop) {
                Err(err) if err.kind() == Kind::NotFound => Ok(()),
                Err(err) => Err(err.context(format!("meta.json bkt get for {block}"))),
                Ok(bytes) => match meta::parse(&bytes) {
                    Ok(meta) => {
                        blocks.push(BucketBlock::from(&meta));
                        Ok(())
                    }
                    Err(err) => {
                        log::warn!(block = block.as_str(), err = err.to_string();
                            "block in the bucket is left out of the overlap check");
                        Ok(())
                    }
                },
            }
        };
        self.bucket.iter("", &mut read, stop).map_err(|err| not_corrupt(err).context("get all block meta."))?;
        Ok(blocks)
    }

    /// Sets a block aside, and logs that once for each reason.
    fn set_aside(
        &mut self,
        ulid: Ulid,
        err: &Error,
        fingerprint: Option<Fingerprint>,
        report: &mut TickReport,
    ) -> Listed {
        report.n_corrupted += 1;
        self.metrics.corrupted_blocks.inc();
        let reason = err.to_string();
        if self.aside.get(&ulid).is_none_or(|aside| aside.reason != reason) {
            log::error!(block = ulid.as_str(), err = reason.as_str();
                "block is corrupted and set aside until its files change; other blocks are not held up");
        }
        self.aside.insert(ulid, Aside { reason, fingerprint });
        Listed { ulid, shipped: false }
    }

    fn forget_all_but(&mut self, found: &[Found]) {
        let is_there = |ulid: &Ulid| found.iter().any(|found| found.ulid == *ulid);
        self.aside.retain(|ulid, _| is_there(ulid));
        self.overlaps.retain(|ulid, _| is_there(ulid));
    }

    fn record(&mut self, listing: &[Option<Listed>]) {
        self.ledger.set(listing.iter().flatten().copied().collect());
        self.save_ledger();
    }

    fn save_ledger(&mut self) {
        if let Err(err) = self.ledger.save() {
            log::warn!(err = err.to_string(); "updating meta file failed");
        }
    }
}

/// An error of the bucket, of which no block can be at fault.
fn not_corrupt(err: Error) -> Error {
    if err.kind() == Kind::Corrupt { err.with_kind(Kind::Retry) } else { err }
}

/// Checks at start what uploads need of `--tsdb.path`.
///
/// `Errors:` when it is missing, not a folder, or not writable, with what to change. A missing `wal` is only logged,
/// as Thanos does: the directory may be shared in a moment.
pub fn check_data_dir(path: &Path) -> Result<()> {
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
    let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    if let Err(err) = rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS) {
        return Err(permanent(format!(
            "opening tsdb directory: {shown} is not writable ({}); run as the user that owns it, or give this one write \
             access: uploads stage blocks in its thanos/upload and keep thanos.shipper.json",
            std::io::Error::from(err)
        )));
    }
    if let Err(err) = Disk::real().stat(&path.join("wal")) {
        let text = "WAL dir is not accessible. Is this dir a TSDB directory? If yes it is shared with TSDB?";
        log::error!(err = format!("{text}: {err}"); "WAL dir is not accessible");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
