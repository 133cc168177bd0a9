//! What ships blocks: the limits of uploads, the bucket, which a changed file replaces while the sidecar runs, the shipper.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cli::config::{self, ShipperOptions};
use crate::cli::{Config, HashFunc};
use crate::config_files::{ConfigFiles, Reread};
use crate::metrics::Metrics;
use crate::status::Shipping;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Disk;
use pillion_base::state::{PromState, Published};
use pillion_bucket::{Bucket, BucketConfig, BucketMetrics, Metered, Pace};
use pillion_ship as ship;
use pillion_ship::metrics::ShipMetrics;
use pillion_ship::{DryRun, NextBucket, Schedule, ShipConfig, Shipper, Standing, UploadLimits};

/// The schedule of uploads, whose limits SIGHUP reads again.
pub(super) struct Uploads {
    options: ShipperOptions,
    schedule: Schedule,
    pace: Pace,
    standing: Standing,
    metrics: ShipMetrics,
}

impl Uploads {
    /// `None` without a bucket. `Errors:` a file of upload limits that cannot be read or understood.
    pub(super) fn new(config: &Config, metrics: &Metrics) -> Result<Option<Self>> {
        let options = config.shipper.clone();
        let limits = options.upload_limits.with_file(&options.upload_limits_file)?;
        if config.bucket.is_none() {
            return Ok(None);
        }
        log::info!(limits = limits.to_string(); "upload limits");
        let (pace, metrics) = (Pace::default(), metrics.shipper());
        let (schedule, standing) = (Schedule::new(limits.clone(), pace.clone()), Standing::new(pace.clone()));
        let uploads = Uploads { options, schedule, pace, standing, metrics };
        uploads.show(&limits);
        Ok(Some(uploads))
    }

    fn show(&self, limits: &UploadLimits) {
        self.metrics.upload_rate_limit_bytes.set(i64::try_from(limits.rate_bytes).unwrap_or(i64::MAX));
    }

    /// What the status shows of them; `bucket` is the name of the one in use.
    pub(super) fn shown(&self, bucket: Published<String>) -> Shipping {
        Shipping { bucket, standing: self.standing.clone(), schedule: self.schedule.clone() }
    }

    /// Follows the file of upload limits, if there is one.
    pub(super) fn follow(self, config_files: &ConfigFiles) {
        if !self.options.upload_limits_file.is_empty() {
            let files = vec![PathBuf::from(&self.options.upload_limits_file)];
            config_files.add("upload limits", files, move |_| self.reload());
        }
    }

    /// Reads the file again; one that is broken changes nothing.
    fn reload(&self) -> Result<Reread> {
        let before = self.schedule.limits();
        let now = self.options.upload_limits.with_file(&self.options.upload_limits_file)?;
        if now == before {
            return Ok(Reread::AsBefore);
        }
        log::info!(before = before.to_string(), now = now.to_string(); "upload limits changed");
        self.show(&now);
        self.schedule.set_limits(now);
        Ok(Reread::Said)
    }
}

/// The shipper, or with `--dry-run` the one that only says what it would do.
pub(super) enum Ships {
    Really(Box<Shipper>),
    Never(Box<DryRun>),
}

/// The shipper, and the name of its bucket.
pub(super) fn shipper(
    config: &Config,
    state: &Published<PromState>,
    metrics: &Metrics,
    uploads: &Uploads,
    config_files: &ConfigFiles,
) -> Result<(Ships, Published<String>)> {
    ship::check_data_dir(&config.tsdb_path)?;
    let disk = if config.dry_run { Disk::read_only() } else { Disk::real() };
    let Some(wanted) = &config.bucket else { return Err(Error::new(Kind::Permanent, "no bucket is configured")) };
    let opener =
        Opener { disk: disk.clone(), pace: uploads.pace.clone(), metrics: metrics.clone(), known: RefCell::default() };
    let (bucket, bucket_metrics) = opener.open(wanted)?;
    let name = Published::new(bucket.name().to_owned());
    let next_bucket = NextBucket::default();
    let (source, last, next) = (config.bucket_source.clone(), RefCell::new(wanted.clone()), next_bucket.clone());
    let (shown, files) = (name.clone(), source.files());
    let reread = move |is_asked| {
        let env = |name: &str| std::env::var(name).ok();
        let now = config::bucket(&source.file, &source.content.0, &env)?.ok_or_else(|| {
            Error::new(Kind::Permanent, "it is empty; uploads can only be turned off by a restart without a bucket")
        })?;
        let is_new = now != *last.borrow();
        // Whoever asks may have changed a file that the configuration or the environment names.
        if is_new || is_asked {
            let bucket = opener.open(&now)?.0;
            shown.publish(bucket.name().to_owned());
            next.put(bucket);
            last.replace(now);
        }
        Ok(if is_new { Reread::Changed } else { Reread::AsBefore })
    };
    // A dry run keeps the bucket of its start.
    if !config.dry_run {
        config_files.add("bucket configuration", files, reread);
    }
    let (schedule, idle) = (uploads.schedule.clone(), uploads.schedule.clone());
    let ship = ShipConfig {
        meta_file_name: config.shipper.meta_file_name.clone(),
        upload_compacted: config.shipper.upload_compacted,
        allow_out_of_order_uploads: config.shipper.allow_out_of_order_uploads,
        upload_concurrency: config.shipper.upload_concurrency,
        sha256: config.hash_func == HashFunc::Sha256,
        ready_timeout: config.ready_timeout,
        disk,
        claim_budget_bytes: config.shipper.claim_budget_bytes,
        claim_reserve_bytes: config.shipper.claim_reserve_bytes,
        upload_gate: Some(Arc::new(move |stop| schedule.wait_to_start(stop))),
        on_idle: Some(Arc::new(move || idle.reset_jitter())),
        next_bucket,
        standing: uploads.standing.clone(),
        ..ShipConfig::new(&config.tsdb_path)
    };
    if config.dry_run {
        return Ok((Ships::Never(Box::new(DryRun::new(ship, bucket, state.clone()))), name));
    }
    let shipper = Shipper::new(ship, bucket, state.clone(), uploads.metrics.clone());
    // What the ledger remembers of an earlier run; 0 where it has nothing.
    bucket_metrics.last_successful_upload_time.set(uploads.metrics.last_success_timestamp_seconds.get());
    Ok((Ships::Really(Box::new(shipper)), name))
}

/// Opens buckets, each with the metrics of its name.
struct Opener {
    disk: Disk,
    pace: Pace,
    metrics: Metrics,
    /// Metrics are declared once.
    known: RefCell<BTreeMap<String, BucketMetrics>>,
}

impl Opener {
    fn open(&self, config: &BucketConfig) -> Result<(Arc<dyn Bucket>, BucketMetrics)> {
        let bucket = pillion_bucket::open(config, &self.disk, self.pace.clone())?;
        let name = bucket.name().to_owned();
        let declare = || self.metrics.bucket(&name);
        let metrics = self.known.borrow_mut().entry(name.clone()).or_insert_with(declare).clone();
        Ok((Metered::wrap(bucket, metrics.clone()), metrics))
    }
}
