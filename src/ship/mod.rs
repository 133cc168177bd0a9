//! Ships finished TSDB blocks to a bucket: one tick every 30 s, oldest block first.
//!
//! A block is claimed when it is first seen, with the external labels of that moment, and shipped from its claim: so it
//! arrives whatever Prometheus removes or changes meanwhile, and a restart finds it again. Claims are made while uploads
//! run, and before Prometheus is known; their labels are pinned as soon as it is.
//!
//! One bad block never stops the rest: a block that cannot be read is set aside with its reason until its files
//! change. Anything that may pass (a bucket that does not answer, a full disk) holds the order instead, for a younger
//! block that arrives before an older one makes the compactor halt.
//!
//! A block that is set aside is not claimed while Prometheus has it, for links would hide its repair. Once Prometheus
//! has removed it, its claim is the last copy, and stays while the disk budget lasts; each start tries it again.

pub mod backlog;
mod beside;
pub mod calm;
pub mod claim;
mod claims;
mod form;
pub mod json;
pub mod ledger;
pub mod meta;
pub mod plan;
pub mod progress;
mod remote;
pub mod scan;
pub mod spool;
mod sync;
pub mod truth;
pub mod ulid;
pub mod upload;
pub mod window;

pub mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, Kind, Result};
use crate::files::Disk;
use crate::limits;
use crate::metrics::ShipMetrics;
use crate::objstore::Bucket;
use crate::state::{PromState, Published};
use crate::supervisor::Stop;
use crate::time::unix_ms;
pub use scan::check_data_dir;
pub use upload::Calm;

use backlog::Backlog;
use claims::Claims;
use ledger::Ledger;
use remote::Remote;
use scan::Fingerprint;
use spool::Spool;
use truth::Truth;
use ulid::Ulid;

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
    /// Bytes of disk that claims of blocks may take which Prometheus has removed; 0 is a tenth of the file system.
    pub claim_budget_bytes: u64,
    /// Time between two looks at the data directory, also while a block is uploaded.
    pub interval: Duration,
    /// Descriptors that hold blocks where hard links are refused.
    pub held_files_max: usize,
    /// Called before the first upload of a block and before every object of it, for jitter and upload windows.
    pub calm: Option<Calm>,
    /// Called when nothing is left to be shipped, perhaps again and again; must not wait.
    pub on_idle: Option<Arc<dyn Fn() + Send + Sync>>,
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
            claim_budget_bytes: 0,
            interval: limits::SHIP_INTERVAL,
            held_files_max: held_files_max(),
            calm: None,
            on_idle: None,
            disk: Disk::real(),
        }
    }
}

/// Half of what the process may open, for the other half serves queries.
fn held_files_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let half = limit.and_then(|limit| usize::try_from(limit / 2).ok()).unwrap_or(usize::MAX);
    half.min(limits::HELD_FILES_MAX)
}

/// What one tick did.
#[derive(Debug, Default)]
pub struct TickReport {
    /// Blocks that were uploaded, repaired ones included.
    pub n_uploaded: usize,
    /// Blocks that were in the bucket with their meta.json, but not whole.
    pub n_repaired: usize,
    /// Blocks whose upload failed.
    pub n_failed: usize,
    /// Blocks that cannot be read and are set aside.
    pub n_corrupted: usize,
    /// Compacted blocks that overlap one in the bucket.
    pub n_overlapping: usize,
    /// Blocks that wait for the external labels.
    pub n_waiting: usize,
    /// Blocks that were given up, because the disk budget of claims was used up.
    pub n_given_up: u64,
    /// Bytes that did not have to be sent again.
    pub resumed_bytes: u64,
    /// Failures by what was at fault; see [`Error::class`].
    pub failures: BTreeMap<&'static str, u64>,
    /// What is left to be done.
    pub backlog: Backlog,
    /// Why the tick ended before its last block, if it did.
    pub error: Option<Error>,
}

/// Why a block is set aside.
struct Aside {
    reason: String,
    /// The block as it was then. `None` where the reason is found anew each tick without reading much.
    fingerprint: Option<Fingerprint>,
}

/// The shipper.
pub struct Shipper {
    config: ShipConfig,
    bucket: Arc<dyn Bucket>,
    state: Published<PromState>,
    metrics: ShipMetrics,
    ledger: Ledger,
    claims: Claims,
    remote: Remote,
    aside: BTreeMap<Ulid, Aside>,
    /// When the samples of shipped blocks begin that Prometheus still has: all that is asked of them at every tick.
    places: BTreeMap<Ulid, i64>,
    /// Folders that look like blocks and have impossible names.
    misnamed: BTreeSet<String>,
    /// Overlaps that were logged, by new block.
    overlaps: BTreeMap<Ulid, Ulid>,
    backlog: Backlog,
    /// The last failure of the ledger that was logged, if nothing has been written since.
    ledger_told: Option<String>,
}

impl Shipper {
    /// A shipper; creates the ledger at once if it is missing, for Prometheus may be waiting for it.
    pub fn new(config: ShipConfig, bucket: Arc<dyn Bucket>, state: Published<PromState>, metrics: ShipMetrics) -> Self {
        let ledger = Ledger::open(&config.data_dir.join(&config.meta_file_name), config.disk.clone());
        let spool = Spool::new(&config.data_dir, config.disk.clone());
        let claims = Claims::new(spool, config.disk.clone(), bucket.name(), config.held_files_max);
        let backlog = Backlog { last_upload: ledger.last_upload(), ..Backlog::default() };
        let shipper = Shipper {
            config,
            bucket,
            state,
            metrics,
            ledger,
            claims,
            remote: Remote::default(),
            aside: BTreeMap::new(),
            places: BTreeMap::new(),
            misnamed: BTreeSet::new(),
            overlaps: BTreeMap::new(),
            backlog,
            ledger_told: None,
        };
        shipper.show();
        shipper
    }

    /// Ships until the stop; no failure of disk, bucket or Prometheus ends it. `Blocks:` for the life of the daemon.
    ///
    /// `Differs:` Thanos waits for the external labels and ends the process after the ready time-out. Here blocks are
    /// claimed at once, and that only makes a warning: a Prometheus that replays its WAL for long must not take the
    /// reading side down with it.
    pub fn run(mut self, stop: Stop) -> Result<()> {
        let begun = Instant::now();
        let (mut told, mut is_warned) = ((0, 0, 0), false);
        loop {
            let has_labels = self.has_labels();
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
            let ticked = Instant::now();
            while ticked.elapsed() < self.config.interval {
                if !has_labels && self.has_labels() {
                    // What was claimed can be shipped now.
                    break;
                }
                if !has_labels && !is_warned && begun.elapsed() >= self.config.ready_timeout {
                    is_warned = true;
                    log::warn!(waited_seconds = begun.elapsed().as_secs();
                        "not uploading as no external labels are configured yet - is Prometheus healthy/reachable?");
                }
                let left = self.config.interval.saturating_sub(ticked.elapsed());
                if stop.wait(if has_labels { left } else { left.min(LABELS_RETRY) }) {
                    return Ok(());
                }
            }
        }
    }

    fn has_labels(&self) -> bool {
        !self.state.read().external_labels.is_empty()
    }

    /// Looks at all blocks once, claims what is to be shipped, and ships what has its labels. `Blocks:` while blocks are
    /// uploaded.
    pub fn tick(&mut self, stop: &Stop) -> TickReport {
        let mut report = TickReport::default();
        let n_given_up = self.backlog.n_given_up;
        let result = self.sync(stop, &mut report);
        let is_clean = result.is_ok()
            && (report.n_failed, report.n_corrupted, report.n_overlapping, report.n_waiting) == (0, 0, 0, 0);
        self.metrics.upload_compacted_done.set(i64::from(is_clean && self.config.upload_compacted));
        match &result {
            Ok(()) => self.metrics.dir_syncs.inc(),
            // A tick that the stop cut short has neither succeeded nor failed.
            Err(err) if err.kind() == Kind::Stopped => {}
            Err(_) => self.metrics.dir_sync_failures.inc(),
        }
        report.error = result.err();
        report.n_given_up = self.backlog.n_given_up - n_given_up;
        report.backlog = self.backlog.clone();
        self.show();
        report
    }

    /// Shows what is left to be done, and what went wrong since the start, after each block and each tick.
    fn show(&self) {
        let pending: Vec<truth::Pending> = self.backlog.pending.iter().map(truth::Pending::from).collect();
        let retention_ms = self.state.read().retention_ms;
        self.metrics.show(&self.backlog, &Truth::new(&pending, unix_ms(SystemTime::now()), retention_ms));
        if let Some(on_idle) = self.config.on_idle.as_ref().filter(|_| pending.is_empty()) {
            on_idle();
        }
    }
}
