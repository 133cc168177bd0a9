//! Ships finished TSDB blocks to a bucket: one tick every 30 s, oldest block first.
//!
//! A block is claimed when it is first seen, with the external labels of that moment, and shipped from its claim. So it
//! arrives whatever Prometheus removes or changes meanwhile, and a restart finds it again. Claims are also made while
//! uploads run, and before Prometheus has answered; their labels are pinned as soon as it has. Never changes a file of
//! Prometheus.
//!
//! One bad block never stops the rest: a damaged block is quarantined, with its reason, until its files change, and one that
//! the disk cannot read is tried again for a day. A failure that may pass (a bucket that does not answer, a full disk) holds the order instead, because a
//! younger block that arrives before an older one makes the compactor halt.
//!
//! A quarantined block is not claimed while Prometheus has it, because links would hide its repair. Once Prometheus has
//! removed it, its claim is the last copy. That claim stays while the disk budget lasts, and each start tries it again.

mod settle;
mod sync;
mod unreadable;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::LOG_TARGET;
use crate::backlog::{Backlog, PendingBlock};
use crate::claims::Claims;
use crate::history::History;
use crate::lag::ShippingLag;
use crate::ledger::Ledger;
use crate::limits;
use crate::meta::Meta;
use crate::metrics::ShipMetrics;
use crate::next_bucket::NextBucket;
use crate::place::Place;
use crate::remote::Remote;
use crate::scan::{self, Fingerprint};
use crate::spool::Spool;
use crate::standing::Standing;
use crate::ulid::Ulid;
use crate::upload::UploadGate;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Disk;
use pillion_base::state::{PromState, Published};
use pillion_base::stop::Stop;
use pillion_base::time::unix_ms;
use pillion_bucket::Bucket;

/// How often the shipper checks whether the external labels are known. `Source:` Thanos.
const LABELS_RETRY: Duration = Duration::from_secs(2);

/// The shipper's part of the command line.
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
    /// Bytes of disk for claims whose blocks Prometheus has removed; 0 is a tenth of the file system.
    pub claim_budget_bytes: u64,
    /// Bytes of disk that such claims leave free for Prometheus; 0 is a twentieth of the file system.
    pub claim_reserve_bytes: u64,
    /// Two looks so far apart must see the same files before a block is shipped.
    pub settle_time: Duration,
    /// The first wait before a block is tried again that the disk cannot read; it doubles with each further one.
    pub unreadable_wait: Duration,
    /// For how long that goes on.
    pub unreadable_time: Duration,
    /// Time between two scans of the data directory, also while a block is uploaded.
    pub interval: Duration,
    /// Descriptors that may hold blocks open where hard links are refused.
    pub held_files_max: usize,
    /// Called before the first request for a block and before every object of it, for jitter and upload windows.
    pub upload_gate: Option<UploadGate>,
    /// Called when nothing is left to be shipped, perhaps many times; must not wait.
    pub on_idle: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Where a bucket waits that takes the place of the one in use.
    pub next_bucket: NextBucket,
    /// Where it says what it is doing.
    pub standing: Standing,
    /// The disk; tests watch it.
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
            claim_reserve_bytes: 0,
            settle_time: limits::SETTLE_TIME,
            unreadable_wait: limits::SHIP_INTERVAL,
            unreadable_time: limits::UNREADABLE_TIME,
            interval: limits::SHIP_INTERVAL,
            held_files_max: held_files_max(),
            upload_gate: None,
            on_idle: None,
            next_bucket: NextBucket::default(),
            standing: Standing::default(),
            disk: Disk::real(),
        }
    }
}

/// Half of what the process may open; the other half serves queries.
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
    /// Blocks that cannot be read and are quarantined.
    pub n_corrupted: usize,
    /// Compacted blocks that overlap one in the bucket.
    pub n_overlapping: usize,
    /// Blocks that wait for the external labels.
    pub n_waiting: usize,
    /// Blocks whose files may still be written.
    pub n_unsettled: usize,
    /// Compacted blocks among the uploaded ones that stood in for blocks which were never shipped.
    pub n_stand_ins: usize,
    /// Blocks that were given up because claims had used up their disk budget.
    pub n_given_up: u64,
    /// Bytes that did not have to be sent again.
    pub resumed_bytes: u64,
    /// Failures by class; see [`Error::class`].
    pub failures: BTreeMap<&'static str, u64>,
    /// What is left to be done.
    pub backlog: Backlog,
    /// Why the tick ended before its last block, if it did.
    pub error: Option<Error>,
}

/// Why a block is quarantined.
struct Quarantined {
    reason: String,
    /// The block as it was then. `None` where each tick finds the reason anew without reading much.
    fingerprint: Option<Fingerprint>,
}

/// A block that the disk cannot read.
struct Unreadable {
    since: Instant,
    next: Instant,
    n_failed: u32,
    fingerprint: Fingerprint,
}

/// What a block's files were like when they were first seen so.
struct Look {
    since: Instant,
    fingerprint: Fingerprint,
}

/// The shipper.
pub struct Shipper {
    config: ShipConfig,
    bucket: Arc<dyn Bucket>,
    state: Published<PromState>,
    metrics: ShipMetrics,
    ledger: Ledger,
    history: History,
    claims: Claims,
    /// Absent only while a block is shipped.
    remote: Option<Remote>,
    place: Place,
    quarantine: BTreeMap<Ulid, Quarantined>,
    /// Blocks that are tried again although the disk could not read them.
    unreadable: BTreeMap<Ulid, Unreadable>,
    /// Blocks whose files may still be written.
    looks: BTreeMap<Ulid, Look>,
    /// Blocks that two looks saw the same, as they were then; empty where only the claim is left.
    settled: BTreeMap<Ulid, Fingerprint>,
    /// Whether it was said that Prometheus compacts blocks before they are shipped. Once is enough.
    stand_in_is_said: bool,
    /// All that a tick needs of the meta.json of the shipped blocks that Prometheus still has.
    shipped_stubs: BTreeMap<Ulid, Meta>,
    /// Folders that look like blocks and have impossible names.
    misnamed: BTreeSet<String>,
    /// Overlaps that were logged: the new block and the one in the bucket.
    overlaps: BTreeMap<Ulid, Ulid>,
    backlog: Backlog,
    /// Whether it was said that a block has chunks that Thanos cannot read. Once is enough.
    encoding_is_said: bool,
    /// The last logged failure to write the ledger, if nothing has been written since.
    ledger_error_logged: Option<String>,
}

impl Shipper {
    /// A shipper; creates the ledger at once if it is missing, because Prometheus may be waiting for it. At the first start
    /// of all it looks which blocks are there: what Prometheus compacts from now on is shipped.
    pub fn new(config: ShipConfig, bucket: Arc<dyn Bucket>, state: Published<PromState>, metrics: ShipMetrics) -> Self {
        let mut history = History::new(&config.data_dir, config.disk.clone());
        let begun = history.begin(|| scan::scan(&config.disk, &config.data_dir, |_| None));
        if let Err(err) = begun {
            log::warn!(target: LOG_TARGET, err = err.to_string(); "compacted blocks wait until it is known what was shipped");
        }
        let ledger = Ledger::open(&config.data_dir.join(&config.meta_file_name), config.disk.clone());
        let spool = Spool::new(&config.data_dir, config.disk.clone());
        let claims = Claims::new(spool, config.disk.clone(), bucket.name(), config.held_files_max);
        let backlog = Backlog { last_upload: ledger.last_upload(), ..Backlog::default() };
        let place = Place::new(&config.data_dir, config.disk.clone());
        let remote = Remote::new(&config.data_dir, config.disk.clone(), bucket.name());
        let shipper = Shipper {
            config,
            bucket,
            state,
            metrics,
            ledger,
            history,
            claims,
            remote: Some(remote),
            place,
            quarantine: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            looks: BTreeMap::new(),
            settled: BTreeMap::new(),
            stand_in_is_said: false,
            shipped_stubs: BTreeMap::new(),
            misnamed: BTreeSet::new(),
            overlaps: BTreeMap::new(),
            backlog,
            encoding_is_said: false,
            ledger_error_logged: None,
        };
        shipper.publish_metrics();
        shipper
    }

    /// Ships until the stop; no failure of disk, bucket or Prometheus ends it. `Blocks:` for the life of the daemon.
    ///
    /// `Differs:` Thanos waits for the external labels and ends the process after the ready time-out. Here blocks are
    /// claimed at once, and the time-out only logs a warning: a Prometheus that replays its WAL for long must not take
    /// the reading side down with it.
    pub fn run(mut self, stop: Stop) -> Result<()> {
        let begun = Instant::now();
        let (mut logged, mut is_warned) = ((0, 0, 0), false);
        loop {
            let has_labels = self.has_labels();
            let report = self.tick(&stop);
            if stop.is_stopped() {
                return Ok(());
            }
            if let Some(err) = &report.error {
                log::warn!(target: LOG_TARGET, err = err.to_string(), uploaded = report.n_uploaded; "syncing blocks failed");
            }
            let news = (report.n_failed, report.n_corrupted, report.n_overlapping);
            if news != logged && news != (0, 0, 0) {
                let (failed, corrupted, overlapping) = news;
                log::warn!(target: LOG_TARGET, failed = failed, corrupted = corrupted, overlapping = overlapping, uploaded = report.n_uploaded;
                    "failed to sync some blocks");
            }
            logged = news;
            let ticked = Instant::now();
            while ticked.elapsed() < self.config.interval {
                if !has_labels && self.has_labels() {
                    // What was claimed can be shipped now.
                    break;
                }
                if !has_labels && !is_warned && begun.elapsed() >= self.config.ready_timeout {
                    is_warned = true;
                    log::warn!(target: LOG_TARGET, waited_seconds = begun.elapsed().as_secs();
                        "not uploading as no external labels are configured yet - is Prometheus healthy/reachable?");
                }
                let left = self.config.interval.saturating_sub(ticked.elapsed());
                if stop.wait(if has_labels { left } else { left.min(LABELS_RETRY) }) {
                    return Ok(());
                }
            }
        }
    }

    /// Ships to another bucket from now on, if one waits. What is remembered of a bucket is asked anew; claims stay, since
    /// where links are refused they are all that is left of a block.
    fn take_next_bucket(&mut self) {
        let Some(bucket) = self.config.next_bucket.take() else { return };
        if bucket.name() != self.bucket.name() {
            log::warn!(target: LOG_TARGET, before = self.bucket.name(), now = bucket.name();
                "blocks go to another bucket from now on; what was shipped before stays where it is");
            self.claims.set_bucket_name(bucket.name());
            self.remote = Some(Remote::new(&self.config.data_dir, self.config.disk.clone(), bucket.name()));
            self.place = self.place.of_another();
        }
        self.bucket = bucket;
    }

    fn has_labels(&self) -> bool {
        !self.state.read().external_labels.is_empty()
    }

    /// Scans all blocks once, claims those that are to be shipped, and ships those whose labels are known. `Blocks:`
    /// while blocks are uploaded.
    pub fn tick(&mut self, stop: &Stop) -> TickReport {
        let mut report = TickReport::default();
        let n_given_up = self.backlog.n_given_up;
        let result = self.sync(stop, &mut report);
        let left = report.n_failed + report.n_corrupted + report.n_overlapping + report.n_waiting + report.n_unsettled;
        let is_clean = result.is_ok() && left == 0;
        self.metrics.upload_compacted_done.set(i64::from(is_clean && self.config.upload_compacted));
        match &result {
            Ok(()) => self.metrics.dir_syncs.inc(),
            // A tick that the stop has cut short neither succeeded nor failed.
            Err(err) if err.kind() == Kind::Stopped => {}
            Err(_) => self.metrics.dir_sync_failures.inc(),
        }
        if !stop.is_stopped() {
            self.config.standing.looked(result.as_ref().err().map(ToString::to_string));
        }
        report.error = result.err();
        report.n_given_up = self.backlog.n_given_up - n_given_up;
        report.backlog = self.backlog.clone();
        self.publish_metrics();
        report
    }

    /// What a block that is to be shipped waits for, besides its turn.
    fn waits_for(&self, block: &PendingBlock) -> Option<String> {
        let ulid = &block.ulid;
        if let Some(other) = self.overlaps.get(ulid) {
            return Some(format!("it overlaps {other} in the bucket"));
        }
        if self.looks.contains_key(ulid) {
            return Some("its files may still be written".to_owned());
        }
        if self.unreadable.contains_key(ulid) {
            return Some("the disk cannot read it now".to_owned());
        }
        let is_pinned = self.claims.get(*ulid).is_some_and(|claim| claim.is_pinned);
        (!is_pinned && !self.has_labels()).then(|| "the external labels of Prometheus".to_owned())
    }

    /// Brings the metrics up to date, after each block and each tick, and says so when nothing is left to be shipped.
    fn publish_metrics(&self) {
        let pending = &self.backlog.pending;
        let lag = ShippingLag::new(pending, unix_ms(SystemTime::now()), self.state.read().retention_ms);
        self.metrics.update(&self.backlog, &lag);
        self.config.standing.show(&self.backlog, |block| self.waits_for(block));
        if let Some(on_idle) = self.config.on_idle.as_ref().filter(|_| pending.is_empty()) {
            on_idle();
        }
    }
}
