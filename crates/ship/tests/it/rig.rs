//! A shipper over a folder bucket, for tests: what it sees, what it did, and disks that fail.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pillion_base::files::{Disk, Op, Step};
use pillion_base::labels::Labels;
use pillion_base::state::{PromState, Published};
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_bucket::{Bucket, BucketMetrics, FolderBucket, Metered};
use pillion_ship::metrics::ShipMetrics;
use pillion_ship::{ShipConfig, Shipper, TickReport};
use pillion_testing::bucket::Faulty;
use pillion_testing::tsdb::{Block, Tsdb, ulid};
use serde_json::Value;

/// A shipper with its data directory, its bucket and its metrics.
pub struct Rig {
    pub tsdb: Tsdb,
    pub bucket_dir: tempfile::TempDir,
    pub bucket: Arc<Faulty>,
    pub bucket_metrics: BucketMetrics,
    pub metrics: ShipMetrics,
    pub state: Published<PromState>,
    pub config: ShipConfig,
    pub shipper: Option<Shipper>,
    pub stopper: Stopper,
    pub stop: Stop,
}

pub fn state_with(labels: &[(&str, &str)]) -> PromState {
    PromState { external_labels: Labels::new(labels.iter().copied()), ..PromState::unknown(0) }
}

impl Rig {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut ShipConfig)) -> Self {
        let (tsdb, bucket_dir) = (Tsdb::new(), tempfile::tempdir().unwrap());
        let folder: Arc<dyn Bucket> = Arc::new(FolderBucket::open(bucket_dir.path(), Disk::real()).unwrap());
        let bucket_metrics = BucketMetrics::default();
        let bucket = Faulty::new(Metered::wrap(folder, bucket_metrics.clone()));
        // Blocks of tests are whole at once; those of some tests are not.
        let mut config = ShipConfig { settle_time: Duration::ZERO, ..ShipConfig::new(tsdb.path()) };
        change(&mut config);
        let (stopper, stop) = stop_pair().unwrap();
        let state = Published::new(state_with(&[("region", "eu"), ("az", "1")]));
        let ship = ShipMetrics::default();
        Rig { tsdb, bucket_dir, bucket, bucket_metrics, metrics: ship, state, config, shipper: None, stopper, stop }
    }

    /// Forgets what the shipper has in memory.
    pub fn restart(&mut self) {
        self.shipper = None;
    }

    pub fn start(&self) -> Shipper {
        let bucket: Arc<dyn Bucket> = Arc::<Faulty>::clone(&self.bucket);
        Shipper::new(self.config.clone(), bucket, self.state.clone(), self.metrics.clone())
    }

    pub fn tick(&mut self) -> TickReport {
        let mut shipper = self.shipper.take().unwrap_or_else(|| self.start());
        let report = shipper.tick(&self.stop);
        self.shipper = Some(shipper);
        report
    }

    /// A tick without any trouble; how many blocks it uploaded.
    pub fn clean_tick(&mut self) -> usize {
        let report = self.tick();
        assert!(report.error.is_none(), "{report:?}");
        assert_eq!((report.n_failed, report.n_corrupted, report.n_overlapping), (0, 0, 0), "{report:?}");
        report.n_uploaded
    }

    /// The blocks whose meta.json is in the bucket.
    pub fn in_bucket(&self) -> Vec<u32> {
        (0..100).filter(|n| self.object(*n, "meta.json").exists()).collect()
    }

    pub fn object(&self, n: u32, rel_path: &str) -> PathBuf {
        self.bucket_dir.path().join(ulid(n).as_str()).join(rel_path)
    }

    pub fn meta(&self, n: u32) -> Value {
        serde_json::from_slice(&std::fs::read(self.object(n, "meta.json")).unwrap()).unwrap()
    }

    /// The blocks that are claimed on the disk.
    pub fn claimed(&self) -> Vec<u32> {
        let dir = |n| self.tsdb.path().join("thanos/upload").join(ulid(n).as_str());
        (0..100).filter(|n| dir(*n).join("meta.json").exists()).collect()
    }

    /// Removes a block, as Prometheus does.
    pub fn remove(&self, n: u32) {
        std::fs::remove_dir_all(self.tsdb.block_dir(n)).unwrap();
    }

    /// Checks that an ordinary block is in the bucket as it was made.
    pub fn check_whole(&self, n: u32) {
        let original = Tsdb::new();
        original.add(&Block::new(n));
        for name in ["chunks/000001", "chunks/000002", "index"] {
            let local = std::fs::read(original.block_dir(n).join(name)).unwrap();
            assert_eq!(std::fs::read(self.object(n, name)).unwrap(), local, "{n}: {name}");
            let files = self.meta(n)["thanos"]["files"].clone();
            let file = files.as_array().unwrap().iter().find(|file| file["rel_path"] == name).cloned();
            assert_eq!(file.unwrap()["size_bytes"], local.len(), "{n}: {name}");
        }
    }

    pub fn syncs(&self) -> (u64, u64) {
        (self.metrics.dir_syncs.get(), self.metrics.dir_sync_failures.get())
    }

    pub fn uploads(&self) -> (u64, u64) {
        (self.metrics.uploads.get(), self.metrics.upload_failures.get())
    }
}

/// Refuses links with an error number.
pub fn without_links(errno: i32) -> Disk {
    Disk::watched(move |step| match step.op {
        Op::Link => Err(std::io::Error::from_raw_os_error(errno)),
        _ => Ok(()),
    })
}

/// A disk whose operations at `at` fail with an error number while the flag is 1.
pub fn failing(errno: i32, at: impl Fn(&Step) -> bool + Send + Sync + 'static) -> (Disk, Arc<AtomicUsize>) {
    let fails = Arc::new(AtomicUsize::new(0));
    let flag = Arc::clone(&fails);
    let disk = Disk::watched(move |step| match flag.load(Ordering::SeqCst) == 1 && at(step) {
        true => Err(std::io::Error::from_raw_os_error(errno)),
        false => Ok(()),
    });
    (disk, fails)
}
