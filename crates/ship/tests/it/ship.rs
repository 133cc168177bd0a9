//! What a user sees of the shipper over a folder bucket: which blocks arrive, with which content, and what is recorded.

use pillion_testing::bucket;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bucket::{Fate, Faulty, PART_BYTES, PartsBucket, PartsStore};
use pillion_base::error::Kind;
use pillion_base::files::{Disk, Op, Step};
use pillion_base::labels::Labels;
use pillion_base::state::{PromState, Published};
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_base::threads::spawn_thread;
use pillion_bucket::{Bucket, BucketMetrics, FolderBucket, Metered, Prefixed};
use pillion_ship::metrics::ShipMetrics;
use pillion_ship::{ShipConfig, Shipper, TickReport};
use pillion_testing::tsdb::{BLOCK_MS, Block, Tsdb, ledger_text, tree, ulid};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A shipper with its data directory, its bucket and its metrics.
struct Rig {
    tsdb: Tsdb,
    bucket_dir: tempfile::TempDir,
    bucket: Arc<Faulty>,
    bucket_metrics: BucketMetrics,
    metrics: ShipMetrics,
    state: Published<PromState>,
    config: ShipConfig,
    shipper: Option<Shipper>,
    stopper: Stopper,
    stop: Stop,
}

fn state_with(labels: &[(&str, &str)]) -> PromState {
    PromState { external_labels: Labels::new(labels.iter().copied()), ..PromState::unknown(0) }
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ShipConfig)) -> Self {
        let (tsdb, bucket_dir) = (Tsdb::new(), tempfile::tempdir().unwrap());
        let folder: Arc<dyn Bucket> = Arc::new(FolderBucket::open(bucket_dir.path(), Disk::real()).unwrap());
        let bucket_metrics = BucketMetrics::default();
        let bucket = Faulty::new(Metered::wrap(folder, bucket_metrics.clone()));
        let mut config = ShipConfig::new(tsdb.path());
        change(&mut config);
        let (stopper, stop) = stop_pair().unwrap();
        let state = Published::new(state_with(&[("region", "eu"), ("az", "1")]));
        let ship = ShipMetrics::default();
        Rig { tsdb, bucket_dir, bucket, bucket_metrics, metrics: ship, state, config, shipper: None, stopper, stop }
    }

    /// Forgets what the shipper has in memory.
    fn restart(&mut self) {
        self.shipper = None;
    }

    fn start(&self) -> Shipper {
        let bucket: Arc<dyn Bucket> = Arc::<Faulty>::clone(&self.bucket);
        Shipper::new(self.config.clone(), bucket, self.state.clone(), self.metrics.clone())
    }

    fn tick(&mut self) -> TickReport {
        let mut shipper = self.shipper.take().unwrap_or_else(|| self.start());
        let report = shipper.tick(&self.stop);
        self.shipper = Some(shipper);
        report
    }

    /// A tick without any trouble; how many blocks it uploaded.
    fn clean_tick(&mut self) -> usize {
        let report = self.tick();
        assert!(report.error.is_none(), "{report:?}");
        assert_eq!((report.n_failed, report.n_corrupted, report.n_overlapping), (0, 0, 0), "{report:?}");
        report.n_uploaded
    }

    /// The blocks whose meta.json is in the bucket.
    fn in_bucket(&self) -> Vec<u32> {
        (0..100).filter(|n| self.object(*n, "meta.json").exists()).collect()
    }

    fn object(&self, n: u32, rel_path: &str) -> PathBuf {
        self.bucket_dir.path().join(ulid(n).as_str()).join(rel_path)
    }

    fn meta(&self, n: u32) -> Value {
        serde_json::from_slice(&std::fs::read(self.object(n, "meta.json")).unwrap()).unwrap()
    }

    /// The blocks that are claimed on the disk.
    fn claimed(&self) -> Vec<u32> {
        let dir = |n| self.tsdb.path().join("thanos/upload").join(ulid(n).as_str());
        (0..100).filter(|n| dir(*n).join("meta.json").exists()).collect()
    }

    /// Removes a block, as Prometheus does.
    fn remove(&self, n: u32) {
        std::fs::remove_dir_all(self.tsdb.block_dir(n)).unwrap();
    }

    /// Checks that an ordinary block is in the bucket as it was made.
    fn check_whole(&self, n: u32) {
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

    fn syncs(&self) -> (u64, u64) {
        (self.metrics.dir_syncs.get(), self.metrics.dir_sync_failures.get())
    }

    fn uploads(&self) -> (u64, u64) {
        (self.metrics.uploads.get(), self.metrics.upload_failures.get())
    }
}

#[test]
fn the_folder_bucket_is_a_bucket() {
    let dir = tempfile::tempdir().unwrap();
    bucket::suite(&FolderBucket::open(dir.path(), Disk::real()).unwrap());
    let folder: Arc<dyn Bucket> = Arc::new(FolderBucket::open(dir.path(), Disk::real()).unwrap());
    bucket::suite(&*Prefixed::wrap(folder, "/p/q/").unwrap());
}

#[test]
fn a_block_arrives_byte_for_byte_with_a_thanos_section() {
    let mut rig = Rig::new();
    rig.tsdb.add(&Block::new(1));
    assert_eq!(rig.clean_tick(), 1);
    let mut objects = tree(rig.bucket_dir.path());
    objects.retain(|name| !name.starts_with('.'));
    let block = ulid(1);
    let expected = ["chunks/000001", "chunks/000002", "index", "meta.json"].map(|name| format!("{block}/{name}"));
    assert_eq!(objects, expected);
    for name in ["chunks/000001", "chunks/000002", "index"] {
        let local = std::fs::read(rig.tsdb.block_dir(1).join(name)).unwrap();
        assert_eq!(std::fs::read(rig.object(1, name)).unwrap(), local, "{name}");
    }
    let text = std::fs::read_to_string(rig.object(1, "meta.json")).unwrap();
    let upload_time = rig.meta(1)["thanos"]["upload_time"].as_str().unwrap().to_owned();
    upload_time.parse::<jiff::Timestamp>().unwrap();
    let thanos = "\t\"version\": 1,\n\t\"thanos\": {\n\t\t\"labels\": {\n\t\t\t\"az\": \"1\",\n\t\t\t\"region\": \"eu\"\n\t\t},\n\
        \t\t\"downsample\": {\n\t\t\t\"resolution\": 0\n\t\t},\n\t\t\"source\": \"sidecar\",\n\
        \t\t\"segment_files\": [\n\t\t\t\"000001\",\n\t\t\t\"000002\"\n\t\t],\n\t\t\"files\": [\n\
        \t\t\t{\n\t\t\t\t\"rel_path\": \"chunks/000001\",\n\t\t\t\t\"size_bytes\": 3000\n\t\t\t},\n\
        \t\t\t{\n\t\t\t\t\"rel_path\": \"chunks/000002\",\n\t\t\t\t\"size_bytes\": 500\n\t\t\t},\n\
        \t\t\t{\n\t\t\t\t\"rel_path\": \"index\",\n\t\t\t\t\"size_bytes\": 700\n\t\t\t},\n\
        \t\t\t{\n\t\t\t\t\"rel_path\": \"meta.json\"\n\t\t\t}\n\t\t],\n\t\t\"index_stats\": {},\n\
        \t\t\"upload_time\": \"UPLOAD_TIME\"\n\t}\n}\n"
        .replace("UPLOAD_TIME", &upload_time);
    let expected = Block::new(1).meta_json().replace("\t\"version\": 1\n}\n", &thanos);
    assert_eq!(text, expected);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1], &[]));
    assert!(rig.tsdb.staged().is_empty());
    assert_eq!((rig.syncs(), rig.uploads()), ((1, 0), (1, 0)));
}

#[test]
fn labels_and_unknown_fields_of_a_block_survive_and_external_labels_win() {
    let mut rig = Rig::new();
    let more_meta = r#", "futureField": {"b": 1e3, "a": 12345678901234567890},
        "thanos": {"labels": {"region": "old", "kept": "x<y"}, "futureToo": true}"#;
    rig.tsdb.add(&Block { more_meta: more_meta.to_owned(), ..Block::new(1) });
    assert_eq!(rig.clean_tick(), 1);
    let meta = rig.meta(1);
    let labels = serde_json::json!({"az": "1", "kept": "x<y", "region": "eu"});
    assert_eq!(meta["thanos"]["labels"], labels);
    assert_eq!(meta["thanos"]["futureToo"], true);
    let text = std::fs::read_to_string(rig.object(1, "meta.json")).unwrap();
    assert!(text.contains("\"kept\": \"x\\u003cy\""), "{text}");
    assert!(text.contains("\"futureField\": {\n\t\t\"b\": 1e3,\n\t\t\"a\": 12345678901234567890\n\t}\n}\n"), "{text}");
}

#[test]
fn blocks_go_oldest_first_as_they_appear_and_each_once() {
    let mut rig = Rig::new();
    assert_eq!(rig.clean_tick(), 0);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[], &[]));

    // A block that is being written has another name, and is uploaded once it has its own.
    rig.tsdb.add_as(&Block::new(2), &format!("{}.tmp-for-creation", ulid(2)));
    rig.tsdb.add(&Block { level: 2, ..Block::new(0) });
    assert_eq!(rig.clean_tick(), 0);
    std::fs::rename(rig.tsdb.path().join(format!("{}.tmp-for-creation", ulid(2))), rig.tsdb.block_dir(2)).unwrap();
    assert_eq!(rig.clean_tick(), 1);

    // Name and time need not agree; time counts.
    rig.tsdb.add(&Block { min_time_ms: 8 * BLOCK_MS, max_time_ms: 9 * BLOCK_MS, ..Block::new(3) });
    rig.tsdb.add(&Block { min_time_ms: 4 * BLOCK_MS, max_time_ms: 5 * BLOCK_MS, ..Block::new(9) });
    rig.bucket.calls();
    assert_eq!(rig.clean_tick(), 2);
    let calls = rig.bucket.calls();
    let (nine, three) = (ulid(9), ulid(3));
    let expected: Vec<String> = [nine, three]
        .iter()
        .flat_map(|block| {
            [
                "exists _/meta.json",
                "upload _/chunks/000001",
                "upload _/chunks/000002",
                "upload _/index",
                "attributes _/chunks/000001",
                "attributes _/chunks/000002",
                "attributes _/index",
                "upload _/meta.json",
                "attributes _/meta.json",
            ]
            .map(|call| call.replace('_', block.as_str()))
        })
        .collect();
    assert_eq!(calls, expected);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[2, 9, 3], &[]));
    assert_eq!(rig.in_bucket(), [2, 3, 9]);

    // Nothing to do: the bucket is not asked, also after a restart.
    assert_eq!(rig.clean_tick(), 0);
    rig.restart();
    assert_eq!(rig.clean_tick(), 0);
    assert!(rig.bucket.calls().is_empty());

    // A block that the compactor removed from the bucket does not come back.
    std::fs::remove_dir_all(rig.object(2, "")).unwrap();
    assert_eq!(rig.clean_tick(), 0);
    rig.restart();
    assert_eq!(rig.clean_tick(), 0);
    assert_eq!(rig.in_bucket(), [3, 9]);

    // A block that Prometheus removed leaves the ledger.
    std::fs::remove_dir_all(rig.tsdb.block_dir(9)).unwrap();
    assert_eq!(rig.clean_tick(), 0);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[2, 3], &[]));

    let count = |operation: &str| rig.bucket_metrics.operations.with_label_values(&[operation]).get();
    assert_eq!((count("exists"), count("upload"), count("iter"), count("get"), count("delete")), (3, 12, 0, 0, 0));
    assert_eq!(rig.uploads(), (3, 0));
}

#[test]
fn a_block_that_is_in_the_bucket_already_is_listed_and_not_uploaded() {
    let mut rig = Rig::new();
    rig.tsdb.add(&Block::new(1));
    rig.clean_tick();
    std::fs::remove_file(rig.tsdb.path().join("thanos.shipper.json")).unwrap();
    rig.restart();
    assert_eq!(rig.clean_tick(), 0);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1], &[]));
    assert_eq!(rig.uploads(), (1, 0));
}

#[test]
fn the_ledger_is_there_before_prometheus_is() {
    let rig = Rig::new();
    rig.state.publish(PromState::unknown(0));
    rig.start();
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[], &[]));
}

#[test]
fn an_unchanged_ledger_is_not_written_again_and_is_never_removed() {
    let n_renames = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&n_renames);
    let mut rig = Rig::with(|config| {
        config.disk = Disk::watched(move |step| {
            if step.to.is_some_and(|to| to.ends_with("thanos.shipper.json")) {
                count.fetch_add(1, Ordering::SeqCst);
            }
            assert!(!(step.op == Op::RemoveFile && step.path.ends_with("thanos.shipper.json")));
            Ok(())
        });
    });
    rig.tsdb.add(&Block::new(1));
    rig.clean_tick();
    rig.clean_tick();
    rig.restart();
    rig.clean_tick();
    // Once empty, once with the block.
    assert_eq!(n_renames.load(Ordering::SeqCst), 2);
}

#[test]
fn the_ledger_is_written_after_every_block() {
    let ledgers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ledgers);
    let mut rig = Rig::with(|config| {
        let path = config.data_dir.join(&config.meta_file_name);
        config.disk = Disk::watched(move |step| {
            // Read whenever the upload of a block opens its index.
            if step.op == Op::Open && step.path.ends_with("index") {
                let text = Tsdb::ledger_of(&path);
                let mut seen = seen.lock().unwrap();
                if seen.last() != Some(&text) {
                    seen.push(text);
                }
            }
            Ok(())
        });
    });
    for n in [1, 2, 3] {
        rig.tsdb.add(&Block::new(n));
    }
    rig.bucket.fail(&format!("upload {}/index", ulid(3)), Kind::Retry);
    let report = rig.tick();
    assert_eq!((report.n_uploaded, report.n_failed), (2, 1));
    let expected = [ledger_text(&[], &[]), ledger_text(&[1], &[]), ledger_text(&[1, 2], &[])];
    assert_eq!(*ledgers.lock().unwrap(), expected);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1, 2], &[]));
}

#[test]
fn empty_blocks_are_listed_and_stay_at_home() {
    let mut rig = Rig::new();
    rig.tsdb.add(&Block { n_samples: 0, ..Block::new(1) });
    rig.tsdb.add(&Block::new(2));
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1, 2], &[1]));
    assert_eq!(rig.in_bucket(), [2]);
}

/// Damages block 1 of three; the others must ship, and block 1 too once it is repaired.
fn check_isolated(damage: impl FnOnce(&Tsdb), repair: impl FnOnce(&Tsdb)) {
    let mut rig = Rig::new();
    for n in [1, 2, 3] {
        rig.tsdb.add(&Block::new(n));
    }
    damage(&rig.tsdb);
    let report = rig.tick();
    assert_eq!((report.n_uploaded, report.n_corrupted, report.n_failed), (2, 1, 0), "{report:?}");
    assert!(report.error.is_none(), "{report:?}");
    assert_eq!(rig.in_bucket(), [2, 3]);
    assert_eq!((rig.syncs(), rig.uploads(), rig.metrics.corrupted_blocks.get()), ((1, 0), (2, 0), 1));
    // A name gives the time of a block whose meta.json cannot be read, so its place in the list may differ.
    let listed: Value = serde_json::from_str(&rig.tsdb.ledger()).unwrap();
    assert_eq!(listed["uploaded"].as_array().unwrap().len(), 3, "{listed}");
    assert_eq!(listed["pillion_unshipped"], serde_json::json!([ulid(1).as_str()]));
    rig.bucket.calls();
    assert_eq!(rig.tick().n_uploaded, 0);
    rig.restart();
    assert_eq!(rig.tick().n_uploaded, 0);
    assert!(rig.bucket.calls().is_empty(), "the bucket is asked for nothing while nothing changed");
    repair(&rig.tsdb);
    // An earlier run has listed it, and still it is not lost.
    rig.restart();
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(rig.in_bucket(), [1, 2, 3]);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1, 2, 3], &[]));
}

#[test]
fn one_bad_block_does_not_stop_the_others_and_ships_when_repaired() {
    let repair = |tsdb: &Tsdb| {
        tsdb.add(&Block::new(1));
    };
    let write = |name: &'static str, text: &'static str| {
        move |tsdb: &Tsdb| std::fs::write(tsdb.block_dir(1).join(name), text).unwrap()
    };
    let remove = |name: &'static str| move |tsdb: &Tsdb| std::fs::remove_file(tsdb.block_dir(1).join(name)).unwrap();
    check_isolated(write("meta.json", ""), repair);
    check_isolated(write("meta.json", "{"), repair);
    check_isolated(write("meta.json", "{\"version\": 2}"), repair);
    check_isolated(remove("meta.json"), repair);
    check_isolated(remove("index"), repair);
    check_isolated(write("index", ""), repair);
    check_isolated(write("chunks/000002", ""), repair);
    check_isolated(remove("chunks/000001"), repair);
}

#[test]
fn a_block_on_a_bad_sector_is_set_aside_until_it_changes() {
    let is_bad = Arc::new(AtomicUsize::new(1));
    let bad = Arc::clone(&is_bad);
    let disk = Disk::watched(move |step| {
        let name = format!("{}/chunks/000002", ulid(1));
        if step.op == Op::Read && step.path.ends_with(name) && bad.load(Ordering::SeqCst) == 1 {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        Ok(())
    });
    let mut rig = Rig::with(|config| config.disk = disk);
    rig.tsdb.add(&Block::new(1));
    rig.tsdb.add(&Block::new(2));
    let report = rig.tick();
    assert_eq!((report.n_uploaded, report.n_corrupted, report.n_failed), (1, 1, 0), "{report:?}");
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1, 2], &[1]));
    assert!(rig.tsdb.staged().is_empty());
    rig.bucket.calls();
    assert_eq!(rig.tick().n_corrupted, 1);
    assert!(rig.bucket.calls().is_empty());
    is_bad.store(0, Ordering::SeqCst);
    rig.tsdb.add(&Block { chunk_bytes: vec![3000, 600], ..Block::new(1) });
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1, 2], &[]));
}

#[test]
fn what_may_pass_holds_the_order() {
    let mut rig = Rig::new();
    for n in [1, 2, 3] {
        rig.tsdb.add(&Block::new(n));
    }
    rig.bucket.fail(&format!("upload {}/chunks/000002", ulid(2)), Kind::Retry);
    let report = rig.tick();
    let text = report.error.unwrap().to_string();
    let staged = rig.tsdb.path().join("thanos/upload").join(ulid(2).as_str());
    let expected =
        format!("upload {}: upload chunks: upload file {}/chunks/000002: on purpose", ulid(2), staged.display());
    assert_eq!(text, expected);
    assert_eq!((report.n_uploaded, report.n_failed), (1, 1));
    assert_eq!(rig.in_bucket(), [1]);
    assert_eq!((rig.syncs(), rig.uploads()), ((0, 1), (1, 1)));
    assert_eq!(report.failures.into_iter().collect::<Vec<_>>(), [("transient", 1)]);
    assert_eq!(rig.claimed(), [2, 3]);

    rig.bucket.fail("exists", Kind::Retry);
    let text = rig.tick().error.unwrap().to_string();
    assert_eq!(text, "check exists: on purpose");

    rig.bucket.heal();
    assert_eq!(rig.clean_tick(), 2);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1, 2, 3], &[]));
}

#[test]
fn blocks_wait_while_the_file_system_of_the_bucket_is_not_mounted_also_after_a_restart() {
    for leaves_folder in [false, true] {
        let mut rig = Rig::new();
        rig.tsdb.add(&Block::new(1));
        assert_eq!(rig.clean_tick(), 1);
        let (root, away) = (rig.bucket_dir.path().to_owned(), rig.bucket_dir.path().with_extension("away"));
        let ledger = || std::fs::read(rig.tsdb.path().join("thanos.shipper.json")).unwrap();
        let listed = ledger();
        std::fs::rename(&root, &away).unwrap();
        if leaves_folder {
            std::fs::create_dir(&root).unwrap();
        }
        rig.tsdb.add(&Block::new(2));
        for _ in 0..2 {
            // A new process.
            let bucket = Arc::new(FolderBucket::open(&root, Disk::real()).unwrap());
            let mut shipper = Shipper::new(rig.config.clone(), bucket, rig.state.clone(), rig.metrics.clone());
            for _ in 0..2 {
                let report = shipper.tick(&rig.stop);
                let err = report.error.unwrap();
                assert_eq!((err.class(), report.failures.get("no_bucket")), ("no_bucket", Some(&1)), "{err}");
                assert!(err.to_string().contains("is its file system mounted?"), "{err}");
                assert_eq!((ledger(), report.n_uploaded), (listed.clone(), 0));
            }
        }
        assert_eq!(root.exists(), leaves_folder);
        assert!(!leaves_folder || std::fs::read_dir(&root).unwrap().next().is_none());
        let _ = std::fs::remove_dir(&root);
        std::fs::rename(&away, &root).unwrap();
        assert_eq!(rig.clean_tick(), 1);
        assert_eq!(rig.in_bucket(), [1, 2]);
    }
}

#[test]
fn out_of_order_uploads_go_on_after_a_failure_when_allowed() {
    let mut rig = Rig::with(|config| config.allow_out_of_order_uploads = true);
    for n in [1, 2, 3] {
        rig.tsdb.add(&Block::new(n));
    }
    rig.bucket.fail(&format!("upload {}/index", ulid(1)), Kind::Retry);
    let report = rig.tick();
    assert_eq!((report.n_uploaded, report.n_failed), (2, 1));
    assert!(report.error.is_none());
    assert_eq!((rig.syncs(), rig.uploads()), ((1, 0), (2, 1)));
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[2, 3], &[]));
    rig.bucket.heal();
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1, 2, 3], &[]));
}

/// The files of a block that are in the bucket after `failing` could not be uploaded.
fn check_left_behind(failing: &str, context: &str, left: &[&str]) {
    let mut rig = Rig::new();
    rig.tsdb.add(&Block::new(1));
    rig.bucket.fail(&format!("upload {}/{failing}", ulid(1)), Kind::Retry);
    let err = rig.tick().error.unwrap().to_string();
    assert!(err.starts_with(&format!("upload {}: {context}: ", ulid(1))), "{err}");
    assert_eq!(tree(&rig.object(1, "")), left);
    rig.bucket.heal();
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(tree(&rig.object(1, "")), ["chunks/000001", "chunks/000002", "index", "meta.json"]);
}

#[test]
fn chunks_go_before_the_index_and_meta_json_last() {
    check_left_behind("chunks/000001", "upload chunks", &[]);
    check_left_behind("chunks/000002", "upload chunks", &["chunks/000001"]);
    check_left_behind("index", "upload index", &["chunks/000001", "chunks/000002"]);
    check_left_behind("meta.json", "upload meta file", &["chunks/000001", "chunks/000002", "index"]);
}

#[test]
fn a_file_that_did_not_arrive_whole_gets_no_meta_json() {
    for name in ["chunks/000002", "index"] {
        let mut rig = Rig::new();
        rig.tsdb.add(&Block::new(1));
        rig.bucket.shorten(name);
        let err = rig.tick().error.unwrap().to_string();
        let expected = "sent 3 times, and the bucket does not hold what was sent: ";
        assert!(err.contains(expected) && err.contains(&format!("{name} has ")), "{err}");
        assert!(rig.in_bucket().is_empty());
        rig.bucket.heal();
        assert_eq!(rig.clean_tick(), 1);
    }
}

#[test]
fn many_chunk_files_at_once_make_the_same_block() {
    let mut rig = Rig::with(|config| config.upload_concurrency = 4);
    rig.tsdb.add(&Block { chunk_bytes: (1..=20).map(|n| n * 100).collect(), ..Block::new(1) });
    rig.bucket.fail("chunks/000013", Kind::Retry);
    assert_eq!(rig.tick().n_failed, 1);
    assert!(!rig.object(1, "index").exists());
    rig.bucket.heal();
    assert_eq!(rig.clean_tick(), 1);
    let files = rig.meta(1)["thanos"]["files"].as_array().unwrap().clone();
    assert_eq!(files.len(), 22);
    for file in files.iter().filter(|file| file["rel_path"] != "meta.json") {
        let name = file["rel_path"].as_str().unwrap();
        let local = std::fs::read(rig.tsdb.block_dir(1).join(name)).unwrap();
        assert_eq!(std::fs::read(rig.object(1, name)).unwrap(), local, "{name}");
        assert_eq!(file["size_bytes"], local.len());
    }
}

#[test]
fn hashes_are_stated_when_asked_for() {
    let mut rig = Rig::with(|config| config.sha256 = true);
    rig.tsdb.add(&Block::new(1));
    assert_eq!(rig.clean_tick(), 1);
    for file in rig.meta(1)["thanos"]["files"].as_array().unwrap() {
        let name = file["rel_path"].as_str().unwrap();
        if name == "meta.json" {
            assert_eq!(file["hash"], Value::Null);
            continue;
        }
        let digest = Sha256::digest(std::fs::read(rig.object(1, name)).unwrap());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(file["hash"], serde_json::json!({"hashFunc": "SHA256", "value": hex}), "{name}");
    }
}

#[test]
fn without_external_labels_blocks_are_claimed_and_wait() {
    let mut rig = Rig::new();
    rig.state.publish(state_with(&[]));
    rig.tsdb.add(&Block::new(1));
    rig.tsdb.add(&Block::new(2));
    let report = rig.tick();
    assert!(report.error.is_none(), "{report:?}");
    assert_eq!((report.n_uploaded, report.n_failed, report.n_waiting), (0, 0, 1));
    assert_eq!(report.backlog.pending.len(), 2);
    assert!(rig.bucket.calls().is_empty() && rig.in_bucket().is_empty());
    assert_eq!(rig.claimed(), [1, 2]);
    // Prometheus removes one block before its external labels are known.
    rig.remove(1);
    rig.restart();
    assert_eq!(rig.tick().n_uploaded, 0);
    rig.state.publish(state_with(&[("a", "b")]));
    assert_eq!(rig.clean_tick(), 2);
    assert_eq!(rig.meta(1)["thanos"]["labels"], serde_json::json!({"a": "b"}));
    rig.check_whole(1);
    rig.check_whole(2);
}

#[test]
fn compacted_blocks_ship_when_asked_for() {
    let mut rig = Rig::with(|config| config.upload_compacted = true);
    rig.tsdb.add(&Block { level: 3, ..Block::new(1) });
    rig.tsdb.add(&Block { level: 2, ..Block::new(2) });
    rig.tsdb.add(&Block::new(3));
    assert_eq!(rig.clean_tick(), 3);
    assert_eq!(rig.metrics.upload_compacted_done.get(), 1);
    let gathered = rig.bucket.calls().iter().filter(|call| call.starts_with("iter")).count();
    assert_eq!(gathered, 1, "the bucket is listed once a tick");
}

#[test]
fn a_compacted_block_is_held_back_only_by_a_real_overlap() {
    let mut rig = Rig::with(|config| config.upload_compacted = true);
    rig.tsdb.add(&Block::new(1));
    rig.clean_tick();
    // The bucket has a block of another Prometheus at the same time, and one that is still being uploaded.
    rig.state.publish(state_with(&[("region", "us")]));
    rig.tsdb.add(&Block::new(5));
    rig.clean_tick();
    rig.state.publish(state_with(&[("region", "eu"), ("az", "1")]));
    std::fs::create_dir_all(rig.object(90, "chunks")).unwrap();
    std::fs::write(rig.object(90, "chunks/000001"), b"x").unwrap();

    let long = |n: u32, from: i64, to: i64| Block {
        level: 2,
        min_time_ms: from * BLOCK_MS,
        max_time_ms: to * BLOCK_MS,
        ..Block::new(n)
    };
    rig.tsdb.add(&long(10, 0, 2)); // over block 1
    rig.tsdb.add(&long(11, 2, 4)); // free
    rig.tsdb.add(&long(12, 3, 6)); // over block 11, which this very tick uploads
    rig.tsdb.add(&long(13, 6, 7)); // free
    rig.tsdb.add(&long(14, 5, 6)); // over block 5, but that has other labels
    let report = rig.tick();
    assert!(report.error.is_none(), "{report:?}");
    assert_eq!((report.n_uploaded, report.n_overlapping), (3, 2), "{report:?}");
    assert_eq!(rig.in_bucket(), [1, 5, 11, 13, 14]);
    assert_eq!(rig.metrics.upload_compacted_done.get(), 0);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1, 11, 5, 14, 13], &[]));

    rig.bucket.fail("iter", Kind::Retry);
    assert_eq!(rig.tick().error.unwrap().to_string(), format!("upload {}: get all block meta.: on purpose", ulid(10)));
}

#[test]
fn overlapping_compacted_blocks_ship_when_order_does_not_count() {
    let mut rig = Rig::with(|config| {
        config.upload_compacted = true;
        config.allow_out_of_order_uploads = true;
    });
    rig.tsdb.add(&Block::new(1));
    rig.tsdb.add(&Block { level: 2, min_time_ms: 0, max_time_ms: 9 * BLOCK_MS, ..Block::new(2) });
    assert_eq!(rig.clean_tick(), 2);
    assert!(!rig.bucket.calls().iter().any(|call| call.starts_with("iter")));
}

#[test]
fn a_claimed_block_arrives_with_its_labels_whatever_becomes_of_prometheus() {
    let mut rig = Rig::new();
    for n in [1, 2, 3] {
        rig.tsdb.add(&Block::new(n));
    }
    rig.bucket.fail("", Kind::Retry);
    assert_eq!(rig.tick().error.unwrap().to_string(), "check exists: on purpose");
    assert_eq!(rig.claimed(), [1, 2, 3]);
    // Retention takes two, the labels change, the sidecar is started anew, and one more block appears.
    rig.remove(1);
    rig.remove(2);
    rig.state.publish(state_with(&[("region", "us")]));
    rig.restart();
    rig.tsdb.add(&Block::new(4));
    rig.tick().error.unwrap();
    // Prometheus is gone altogether.
    rig.state.publish(state_with(&[]));
    rig.restart();
    rig.bucket.heal();
    assert_eq!(rig.clean_tick(), 4);
    for n in [1, 2, 3, 4] {
        rig.check_whole(n);
        let region = if n == 4 { "us" } else { "eu" };
        assert_eq!(rig.meta(n)["thanos"]["labels"]["region"], region, "{n}");
        let text = std::fs::read_to_string(rig.object(n, "meta.json")).unwrap();
        assert!(!text.contains("pillion"), "{text}");
    }
    assert!(rig.tsdb.staged().is_empty());
    assert_eq!(rig.clean_tick(), 0);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[3, 4], &[]));
}

#[test]
fn past_their_budget_claims_are_given_up_newest_first() {
    // A block has 4200 bytes in its chunk files and its index.
    let mut rig = Rig::with(|config| config.claim_budget_bytes = 2 * 4200 + 1);
    for n in 1..=4 {
        rig.tsdb.add(&Block::new(n));
    }
    rig.bucket.fail("", Kind::Retry);
    let report = rig.tick();
    assert_eq!((report.n_given_up, report.backlog.claimed_bytes), (0, 0), "links to what is there cost nothing");
    assert!(report.backlog.pending.iter().all(|block| block.is_claimed && block.is_local && block.bytes == 4200));
    for n in [1, 2, 3] {
        rig.remove(n);
    }
    let report = rig.tick();
    assert_eq!((report.n_given_up, report.backlog.n_given_up, report.backlog.claimed_bytes), (1, 1, 2 * 4200));
    assert_eq!(rig.claimed(), [1, 2, 4]);
    assert_eq!(rig.tick().n_given_up, 0);
    rig.restart();
    rig.bucket.heal();
    assert_eq!(rig.clean_tick(), 3);
    assert_eq!(rig.in_bucket(), [1, 2, 4]);
}

/// Refuses links with an error number.
fn without_links(errno: i32) -> Disk {
    Disk::watched(move |step| match step.op {
        Op::Link => Err(std::io::Error::from_raw_os_error(errno)),
        _ => Ok(()),
    })
}

#[test]
fn where_hard_links_are_refused_blocks_are_held_open() {
    for errno in [1, 13, 18, 30, 31, 95] {
        let mut rig = Rig::with(|config| config.disk = without_links(errno));
        rig.tsdb.add(&Block::new(1));
        rig.tsdb.add(&Block::new(2));
        rig.bucket.fail(&format!("upload {}/index", ulid(1)), Kind::Retry);
        let report = rig.tick();
        assert_eq!((report.n_failed, report.n_corrupted), (1, 0), "{errno}: {report:?}");
        assert!(report.backlog.pending.iter().all(|block| block.is_claimed));
        assert!(rig.tsdb.staged().is_empty(), "{errno}");
        // They are held after Prometheus has removed them, and what was sent is not sent again.
        rig.remove(1);
        rig.remove(2);
        rig.state.publish(state_with(&[("region", "us")]));
        rig.bucket.heal();
        rig.bucket.calls();
        let report = rig.tick();
        assert!(report.error.is_none(), "{errno}: {report:?}");
        assert_eq!((report.n_uploaded, report.resumed_bytes), (2, 3500));
        assert_eq!(rig.bucket.calls()[1], format!("upload {}/index", ulid(1)));
        for n in [1, 2] {
            rig.check_whole(n);
            assert_eq!(rig.meta(n)["thanos"]["labels"]["region"], "eu");
        }
    }
}

#[test]
fn only_so_many_descriptors_hold_blocks_and_the_oldest_have_them() {
    let mut rig = Rig::with(|config| {
        config.disk = without_links(1);
        config.held_files_max = 7;
    });
    for n in 1..=4 {
        rig.tsdb.add(&Block::new(n));
    }
    rig.bucket.fail("", Kind::Retry);
    let report = rig.tick();
    let held: Vec<bool> = report.backlog.pending.iter().map(|block| block.is_claimed).collect();
    assert_eq!(held, [true, true, false, false]);
    rig.bucket.heal();
    assert_eq!(rig.clean_tick(), 4);
}

#[test]
fn a_full_disk_delays_the_claim_and_not_the_upload() {
    let is_full = Arc::new(AtomicUsize::new(1));
    let full = Arc::clone(&is_full);
    let mut rig = Rig::with(|config| {
        config.disk = Disk::watched(move |step| match (step.op, full.load(Ordering::SeqCst)) {
            (Op::Write | Op::CreateDir, 1) => Err(std::io::Error::from_raw_os_error(28)),
            _ => Ok(()),
        });
    });
    rig.tsdb.add(&Block::new(1));
    rig.tsdb.add(&Block::new(2));
    rig.bucket.fail(&format!("{}/index", ulid(2)), Kind::Retry);
    let report = rig.tick();
    assert_eq!((report.n_uploaded, report.n_failed), (1, 1), "{report:?}");
    assert!(rig.claimed().is_empty());
    is_full.store(0, Ordering::SeqCst);
    rig.tick().error.unwrap();
    assert_eq!(rig.claimed(), [2]);
    let state =
        std::fs::read_to_string(rig.tsdb.path().join("thanos/upload").join(ulid(2).as_str()).join("pillion.json"));
    assert!(state.unwrap().contains("chunks/000002"), "what was sent before is known in the claim too");
    rig.remove(2);
    rig.restart();
    rig.bucket.heal();
    let report = rig.tick();
    assert_eq!((report.n_uploaded, report.resumed_bytes), (1, 3500), "{report:?}");
    rig.check_whole(2);
}

#[test]
fn a_data_directory_that_cannot_be_written_still_ships() {
    let mut rig = Rig::with(|config| {
        config.disk = Disk::watched(move |step| match step.op {
            Op::Create | Op::CreateDir | Op::Link | Op::Rename | Op::RemoveFile | Op::RemoveDir => {
                Err(std::io::Error::from_raw_os_error(30))
            }
            _ => Ok(()),
        });
    });
    rig.tsdb.add(&Block::new(1));
    assert_eq!(rig.clean_tick(), 1);
    rig.check_whole(1);
    rig.bucket.calls();
    assert_eq!(rig.clean_tick(), 0);
    assert!(rig.bucket.calls().is_empty(), "what is shipped is remembered");
    rig.restart();
    assert_eq!(rig.clean_tick(), 0);
    assert_eq!(rig.uploads(), (1, 0));
    assert_eq!(tree(rig.tsdb.path()).len(), 6, "{:?}", tree(rig.tsdb.path()));
}

#[test]
fn an_object_that_the_bucket_has_lost_is_sent_again_before_meta_json() {
    for name in ["chunks/000002", "index", "meta.json"] {
        let mut rig = Rig::new();
        rig.tsdb.add(&Block::new(1));
        rig.bucket.lose(&format!("{}/{name}", ulid(1)), 1);
        assert_eq!(rig.clean_tick(), 1);
        rig.check_whole(1);
        let n_sent = rig.bucket.calls().iter().filter(|call| **call == format!("upload {}/{name}", ulid(1))).count();
        assert_eq!(n_sent, 2, "{name}");

        rig.tsdb.add(&Block::new(2));
        rig.bucket.lose(&format!("{}/{name}", ulid(2)), usize::MAX);
        let report = rig.tick();
        let err = report.error.unwrap();
        assert!(err.to_string().ends_with(&format!("does not hold what was sent: {name} is missing")), "{err}");
        assert_eq!(report.failures.into_iter().collect::<Vec<_>>(), [("integrity", 1)]);
        assert_eq!(rig.in_bucket(), [1]);
        assert_eq!(rig.tsdb.ledger(), ledger_text(&[1], &[]));
        rig.bucket.heal();
        assert_eq!(rig.clean_tick(), 1);
        rig.check_whole(2);
    }
}

#[test]
fn a_meta_json_in_the_bucket_is_not_believed_blindly() {
    // What is done to the bucket; uploads and repairs that follow.
    let check = |damage: &dyn Fn(&Rig), expected: (usize, usize)| {
        let mut rig = Rig::new();
        rig.tsdb.add(&Block::new(1));
        rig.clean_tick();
        damage(&rig);
        std::fs::remove_file(rig.tsdb.path().join("thanos.shipper.json")).unwrap();
        rig.restart();
        let report = rig.tick();
        assert!(report.error.is_none(), "{report:?}");
        assert_eq!((report.n_uploaded, report.n_repaired), expected);
        assert_eq!(rig.tsdb.ledger(), ledger_text(&[1], &[]));
        assert!(rig.tsdb.staged().is_empty());
        rig
    };
    let remove = |name: &'static str| move |rig: &Rig| std::fs::remove_file(rig.object(1, name)).unwrap();
    let write =
        |name: &'static str, text: &'static str| move |rig: &Rig| std::fs::write(rig.object(1, name), text).unwrap();
    check(&|_| (), (0, 0));
    check(&remove("index"), (1, 1)).check_whole(1);
    check(&remove("chunks/000002"), (1, 1)).check_whole(1);
    check(&write("chunks/000001", "short"), (1, 1)).check_whole(1);
    check(&write("meta.json", "{"), (1, 0)).check_whole(1);
    check(&write("meta.json", ""), (1, 0)).check_whole(1);
    let of_other_files = |rig: &Rig| {
        let text = std::fs::read_to_string(rig.object(1, "meta.json")).unwrap();
        std::fs::write(rig.object(1, "meta.json"), text.replace("3000", "3007")).unwrap();
    };
    check(&of_other_files, (1, 0)).check_whole(1);
    // The compactor has begun to remove it.
    let marked = |rig: &Rig| {
        std::fs::write(rig.object(1, "deletion-mark.json"), "{}").unwrap();
        std::fs::remove_file(rig.object(1, "index")).unwrap();
    };
    let rig = check(&marked, (0, 0));
    assert!(!rig.object(1, "index").exists());
}

#[test]
fn a_block_with_an_impossible_name_is_reported_and_holds_nothing_up() {
    let mut rig = Rig::new();
    rig.tsdb.add(&Block::new(1));
    rig.tsdb.add_as(&Block::new(2), &ulid(2).as_str().to_lowercase());
    rig.tsdb.add_as(&Block::new(3), &ulid(3).as_str().replacen('0', "8", 1));
    let report = rig.tick();
    assert_eq!(report.n_uploaded, 1, "{report:?}");
    assert_eq!(report.backlog.quarantined.len(), 2, "{report:?}");
}

#[test]
fn every_object_waits_for_its_time() {
    let n_calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&n_calls);
    let mut rig = Rig::with(|config| {
        config.upload_gate = Some(Arc::new(move |stop| {
            count.fetch_add(1, Ordering::SeqCst);
            stop.check()
        }));
    });
    assert_eq!(rig.clean_tick(), 0);
    assert_eq!(n_calls.load(Ordering::SeqCst), 0);
    rig.tsdb.add(&Block::new(1));
    assert_eq!(rig.clean_tick(), 1);
    // Called once for the block, and once for each of its four objects.
    assert_eq!(n_calls.load(Ordering::SeqCst), 5);
}

#[test]
fn new_blocks_are_claimed_while_an_upload_takes_its_time() {
    let (asked, answer) = crossbeam_channel::bounded::<()>(1);
    let (go_on, wait) = crossbeam_channel::bounded::<()>(1);
    let mut rig = Rig::with(|config| {
        config.interval = Duration::from_millis(5);
        let n_asked = AtomicUsize::new(0);
        config.upload_gate = Some(Arc::new(move |stop| {
            // The first object waits until the test lets it go.
            if n_asked.fetch_add(1, Ordering::SeqCst) == 0 {
                asked.send(()).unwrap();
                let _ = wait.recv_timeout(Duration::from_secs(60));
            }
            stop.check()
        }));
    });
    rig.tsdb.add(&Block::new(1));
    let (mut shipper, stop) = (rig.start(), rig.stop.clone());
    let thread = spawn_thread("ship", None, move || {
        let report = shipper.tick(&stop);
        (shipper, report)
    })
    .unwrap();
    answer.recv_timeout(Duration::from_secs(20)).unwrap();
    rig.tsdb.add(&Block::new(2));
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.claimed() != [1, 2] {
        assert!(Instant::now() < deadline, "{:?}", rig.claimed());
        std::thread::yield_now();
    }
    rig.remove(2);
    go_on.send(()).unwrap();
    let (shipper, report) = thread.join().unwrap();
    assert_eq!(report.n_uploaded, 1, "{report:?}");
    assert_eq!(report.backlog.pending.iter().map(|block| block.ulid).collect::<Vec<_>>(), [ulid(2)]);
    rig.shipper = Some(shipper);
    assert_eq!(rig.clean_tick(), 1);
    rig.check_whole(2);
    assert!(rig.tsdb.staged().is_empty());
}

/// A shipper over a bucket that takes parts; `judge` decides the fate of each request.
fn parts_shipper(
    rig: &Rig,
    stored: &Arc<Mutex<PartsStore>>,
    judge: impl Fn(&str) -> Fate + Send + Sync + 'static,
) -> Shipper {
    Shipper::new(rig.config.clone(), PartsBucket::new(stored, judge), rig.state.clone(), rig.metrics.clone())
}

#[test]
fn what_was_sent_is_not_sent_again_after_a_restart() {
    let rig = Rig::new();
    let stored = Arc::new(Mutex::new(PartsStore::default()));
    rig.tsdb.add(&Block::new(1));
    // The link is cut at the third part of the first file.
    let n_parts = AtomicUsize::new(0);
    let cut = move |request: &str| match request.starts_with("part ") && n_parts.fetch_add(1, Ordering::SeqCst) == 2 {
        true => Fate::Refused,
        false => Fate::Done,
    };
    let report = parts_shipper(&rig, &stored, cut).tick(&rig.stop);
    assert_eq!(report.n_failed, 1, "{report:?}");
    std::fs::remove_dir_all(rig.tsdb.block_dir(1)).unwrap();
    let report = parts_shipper(&rig, &stored, |_| Fate::Done).tick(&rig.stop);
    assert_eq!((report.n_uploaded, report.resumed_bytes), (1, 2 * PART_BYTES), "{report:?}");
    let stored = stored.lock().unwrap();
    assert_eq!((stored.sent_bytes, stored.uploads.len(), stored.objects.len()), (4200, 0, 4));
    assert!(rig.tsdb.staged().is_empty());
}

#[test]
fn parts_of_a_block_that_is_given_up_leave_the_bucket_once_it_answers() {
    let mut rig = Rig::new();
    rig.config.claim_budget_bytes = 1;
    let stored = Arc::new(Mutex::new(PartsStore::default()));
    rig.tsdb.add(&Block::new(1));
    let cut = |request: &str| if request.starts_with("complete") { Fate::Refused } else { Fate::Done };
    parts_shipper(&rig, &stored, cut).tick(&rig.stop);
    assert_eq!(stored.lock().unwrap().uploads.len(), 1);
    std::fs::remove_dir_all(rig.tsdb.block_dir(1)).unwrap();
    let report = parts_shipper(&rig, &stored, |_| Fate::Refused).tick(&rig.stop);
    assert_eq!(report.n_given_up, 1, "{report:?}");
    assert_eq!(rig.tsdb.staged(), [format!("{}/pillion.json", ulid(1))]);
    let report = parts_shipper(&rig, &stored, |_| Fate::Done).tick(&rig.stop);
    assert!(report.error.is_none() && report.n_given_up == 0, "{report:?}");
    assert!(stored.lock().unwrap().uploads.is_empty());
    assert!(rig.tsdb.staged().is_empty());
}

/// Removes block 1, as Prometheus does, just before the first operation on the disk for which `at` is true.
fn rig_that_loses_the_block(at: impl Fn(&Step) -> bool + Send + Sync + 'static) -> Rig {
    let mut rig = Rig::new();
    rig.tsdb.add(&Block::new(1));
    rig.tsdb.add(&Block::new(2));
    let dir = rig.tsdb.block_dir(1);
    rig.config.disk = Disk::watched(move |step| {
        if dir.exists() && at(step) {
            std::fs::remove_dir_all(&dir)?;
        }
        Ok(())
    });
    rig
}

#[test]
fn a_block_that_prometheus_removes_once_it_is_staged_still_arrives() {
    let mut rig = rig_that_loses_the_block(|step| {
        step.op == Op::Open && step.path.ends_with("upload/01J00000000000000000000001/index")
    });
    assert_eq!(rig.clean_tick(), 2);
    assert_eq!(rig.in_bucket(), [1, 2]);
    assert_eq!(tree(&rig.object(1, "")), ["chunks/000001", "chunks/000002", "index", "meta.json"]);
    assert_eq!(rig.clean_tick(), 0);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[2], &[]));
}

#[test]
fn a_block_that_prometheus_removes_before_it_is_staged_is_no_failure() {
    let first_link = |step: &Step| step.op == Op::Link;
    let in_scan = |step: &Step| step.op == Op::Open && step.path.ends_with("meta.json");
    let in_examination = |step: &Step| step.op == Op::Stat && step.path.ends_with("index");
    for mut rig in [
        rig_that_loses_the_block(first_link),
        rig_that_loses_the_block(in_scan),
        rig_that_loses_the_block(in_examination),
    ] {
        assert_eq!(rig.clean_tick(), 1);
        assert_eq!(rig.in_bucket(), [2]);
        assert_eq!(rig.tsdb.ledger(), ledger_text(&[2], &[]));
        assert!(rig.tsdb.staged().is_empty());
        assert_eq!(rig.uploads(), (1, 0));
    }
}

#[test]
fn leftovers_of_a_crash_are_swept_although_their_block_is_gone() {
    let mut rig = Rig::new();
    let left = rig.tsdb.path().join("thanos/upload").join(ulid(7).as_str());
    std::fs::create_dir_all(left.join("chunks")).unwrap();
    std::fs::write(left.join("chunks/000001"), b"pinned").unwrap();
    assert_eq!(rig.clean_tick(), 0);
    assert!(!left.exists());
}

#[test]
fn a_stop_ends_the_tick_between_files() {
    let mut rig = Rig::new();
    rig.tsdb.add(&Block::new(1));
    rig.stopper.stop();
    let report = rig.tick();
    assert_eq!(report.error.unwrap().kind(), Kind::Stopped);
    assert!(rig.in_bucket().is_empty());
    assert_eq!((rig.syncs(), rig.uploads()), ((0, 0), (0, 0)));
    assert_eq!(rig.claimed(), [1]);
}

#[test]
fn a_stop_ends_the_claims_of_a_long_first_tick() {
    let mut rig = Rig::new();
    for n in 1..=3 {
        rig.tsdb.add(&Block::new(n));
    }
    let stopper = Mutex::new(Some(std::mem::replace(&mut rig.stopper, stop_pair().unwrap().0)));
    rig.config.disk = Disk::watched(move |step| {
        if step.op == Op::Link
            && let Some(stopper) = stopper.lock().unwrap().take()
        {
            stopper.stop();
        }
        Ok(())
    });
    assert_eq!(rig.tick().error.unwrap().kind(), Kind::Stopped);
    assert_eq!(rig.claimed(), [1]);
}

/// A disk whose operations at `at` fail with an error number while the flag is 1.
fn failing(errno: i32, at: impl Fn(&Step) -> bool + Send + Sync + 'static) -> (Disk, Arc<AtomicUsize>) {
    let fails = Arc::new(AtomicUsize::new(0));
    let flag = Arc::clone(&fails);
    let disk = Disk::watched(move |step| match flag.load(Ordering::SeqCst) == 1 && at(step) {
        true => Err(std::io::Error::from_raw_os_error(errno)),
        false => Ok(()),
    });
    (disk, fails)
}

#[test]
fn a_block_that_cannot_be_read_for_a_moment_holds_younger_ones() {
    let meta = format!("{}/meta.json", ulid(2));
    let (disk, fails) = failing(24, move |step| step.op == Op::Open && step.path.ends_with(&meta));
    let mut rig = Rig::with(|config| config.disk = disk);
    for n in 1..=3 {
        rig.tsdb.add(&Block::new(n));
    }
    fails.store(1, Ordering::SeqCst);
    let report = rig.tick();
    assert!(report.error.is_some() && report.n_uploaded == 1, "{report:?}");
    assert_eq!(rig.in_bucket(), [1]);
    fails.store(0, Ordering::SeqCst);
    assert_eq!(rig.clean_tick(), 2);
}

#[test]
fn a_full_disk_on_which_nothing_is_recorded_does_not_keep_what_is_shipped_and_removed() {
    let (disk, fails) = failing(28, |step| step.op == Op::Create && step.path.ends_with("thanos.shipper.json.tmp"));
    let mut rig = Rig::with(|config| {
        config.disk = disk;
        config.claim_budget_bytes = 1;
    });
    rig.tsdb.add(&Block::new(1));
    rig.tsdb.add(&Block::new(2));
    assert_eq!(rig.tick().n_uploaded, 2);
    rig.tsdb.add(&Block::new(3));
    fails.store(1, Ordering::SeqCst);
    assert_eq!(rig.tick().n_uploaded, 1);
    assert_eq!(rig.claimed(), [3], "while Prometheus has the block, its claim takes no room");
    rig.remove(3);
    let report = rig.tick();
    assert_eq!((report.n_given_up, report.backlog.claimed_bytes), (0, 0), "what is shipped is not lost: {report:?}");
    assert!(rig.claimed().is_empty());
    fails.store(0, Ordering::SeqCst);
    rig.restart();
    rig.bucket.calls();
    assert_eq!(rig.clean_tick(), 0);
    assert!(rig.bucket.calls().is_empty());
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1, 2], &[]));
}

#[test]
fn a_folder_among_the_claims_that_cannot_be_read_or_removed_does_not_hide_the_others() {
    let (foreign, stray) = (ulid(9), "lost+found");
    let (disk, fails) = failing(13, move |step| {
        step.path.ends_with(format!("upload/{foreign}/meta.json")) || step.path.ends_with(stray)
    });
    let mut rig = Rig::with(|config| config.disk = disk);
    fails.store(1, Ordering::SeqCst);
    rig.tsdb.add(&Block::new(1));
    rig.bucket.fail("", Kind::Retry);
    rig.tick();
    let upload = rig.tsdb.path().join("thanos/upload");
    std::fs::create_dir_all(upload.join(ulid(9).as_str())).unwrap();
    std::fs::create_dir_all(upload.join(stray)).unwrap();
    rig.remove(1);
    rig.restart();
    rig.bucket.heal();
    assert_eq!(rig.clean_tick(), 1);
    rig.check_whole(1);
}

#[test]
fn a_claim_that_outlives_its_block_and_is_out_of_sight_for_a_time_is_not_shipped_twice() {
    let phase = Arc::new(AtomicUsize::new(0));
    let flag = Arc::clone(&phase);
    let mut rig = Rig::with(|config| {
        config.disk = Disk::watched(move |step| match (flag.load(Ordering::SeqCst), step.op) {
            (1 | 2, Op::RemoveFile) if step.path.ends_with("meta.json") => Err(std::io::Error::from_raw_os_error(5)),
            (2, Op::List) if step.path.ends_with("thanos/upload") => Err(std::io::Error::from_raw_os_error(13)),
            _ => Ok(()),
        });
    });
    rig.tsdb.add(&Block::new(1));
    rig.bucket.fail("", Kind::Retry);
    rig.tick();
    rig.bucket.heal();
    phase.store(1, Ordering::SeqCst);
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(rig.claimed(), [1], "it could not be ended");
    rig.remove(1);
    phase.store(2, Ordering::SeqCst);
    rig.restart();
    rig.clean_tick();
    // The compactor has merged it into another block.
    std::fs::remove_dir_all(rig.object(1, "")).unwrap();
    phase.store(3, Ordering::SeqCst);
    rig.restart();
    assert_eq!(rig.clean_tick(), 0);
    assert!(rig.in_bucket().is_empty());
    assert!(rig.claimed().is_empty());
    rig.clean_tick();
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[], &[]));
}

#[test]
fn a_claim_on_a_bad_sector_is_not_thrown_away() {
    let (disk, fails) = failing(5, |step| step.op == Op::Read && step.path.ends_with("meta.json"));
    let mut rig = Rig::with(|config| config.disk = disk);
    rig.tsdb.add(&Block::new(1));
    rig.bucket.fail("", Kind::Retry);
    rig.tick();
    rig.remove(1);
    rig.restart();
    rig.bucket.heal();
    fails.store(1, Ordering::SeqCst);
    rig.tick();
    assert_eq!(rig.claimed(), [1]);
    fails.store(0, Ordering::SeqCst);
    assert_eq!(rig.clean_tick(), 1);
    rig.check_whole(1);
}

#[test]
fn a_block_that_is_given_up_and_whose_folder_stays_is_not_called_corrupted() {
    let (disk, fails) = failing(5, |step| step.op == Op::RemoveFile && step.path.ends_with("chunks/000001"));
    let mut rig = Rig::with(|config| {
        config.claim_budget_bytes = 1;
        config.disk = disk;
    });
    rig.tsdb.add(&Block::new(1));
    rig.bucket.fail("", Kind::Retry);
    rig.tick();
    rig.remove(1);
    rig.bucket.heal();
    fails.store(1, Ordering::SeqCst);
    let report = rig.tick();
    assert_eq!((report.n_given_up, report.n_corrupted, report.n_uploaded), (1, 0, 0), "{report:?}");
    assert!(report.backlog.pending.is_empty() && report.backlog.quarantined.is_empty(), "{report:?}");
    fails.store(0, Ordering::SeqCst);
    assert_eq!(rig.clean_tick(), 0);
    assert!(rig.tsdb.staged().is_empty());
}

#[test]
fn a_claim_that_cannot_be_read_and_became_the_last_copy_while_it_was_uploaded_is_kept() {
    let mut rig = Rig::new();
    rig.tsdb.add(&Block::new(1));
    let dir = rig.tsdb.block_dir(1);
    rig.config.disk = Disk::watched(move |step| {
        if step.op != Op::Read || !step.path.ends_with("upload/01J00000000000000000000001/index") {
            return Ok(());
        }
        let _ = std::fs::remove_dir_all(&dir);
        Err(std::io::Error::from_raw_os_error(5))
    });
    assert_eq!(rig.tick().n_corrupted, 1);
    assert_eq!(rig.claimed(), [1]);
    rig.config.disk = Disk::real();
    rig.restart();
    assert_eq!(rig.clean_tick(), 1);
    rig.check_whole(1);
}

#[test]
fn a_tick_without_work_reads_no_block() {
    let looks = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&looks);
    let mut rig = Rig::with(|config| {
        config.disk = Disk::watched(move |step| {
            if matches!(step.op, Op::Open | Op::Stat | Op::Read) && !step.path.ends_with("thanos.shipper.json") {
                seen.lock().unwrap().push(format!("{step:?}"));
            }
            Ok(())
        });
    });
    for n in 1..=3 {
        rig.tsdb.add(&Block::new(n));
    }
    assert_eq!(rig.clean_tick(), 3);
    rig.restart();
    rig.clean_tick();
    looks.lock().unwrap().clear();
    rig.clean_tick();
    assert_eq!(*looks.lock().unwrap(), [""; 0]);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1, 2, 3], &[]));
    // The operator wants one of them shipped again.
    let ledger = rig.tsdb.path().join("thanos.shipper.json");
    std::fs::write(ledger, ledger_text(&[1, 3], &[])).unwrap();
    std::fs::remove_dir_all(rig.object(2, "")).unwrap();
    assert_eq!(rig.clean_tick(), 1);
    rig.check_whole(2);
}

#[test]
fn what_is_uploaded_counts_among_the_claims_while_it_is() {
    let mut rig = Rig::with(|config| config.interval = Duration::from_millis(1));
    rig.tsdb.add(&Block::new(1));
    rig.bucket.fail("", Kind::Retry);
    rig.tick();
    rig.remove(1);
    rig.restart();
    rig.bucket.heal();
    let claimed = rig.metrics.claimed_bytes.clone();
    // The upload waits until the metric has been read a few times.
    let readings = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&readings);
    rig.config.upload_gate = Some(Arc::new(move |stop: &Stop| {
        for _ in 0..50 {
            stop.wait(Duration::from_millis(2));
            seen.lock().unwrap().push(claimed.get());
        }
        Ok(())
    }));
    assert_eq!(rig.clean_tick(), 1);
    let seen = readings.lock().unwrap();
    assert!(seen.iter().all(|bytes| *bytes == 4200), "{seen:?}");
    drop(seen);
    rig.clean_tick();
    assert_eq!(rig.metrics.claimed_bytes.get(), 0);
}

#[test]
fn the_loop_waits_for_labels_ships_at_once_and_ends_with_the_stop() {
    let rig = Rig::new();
    rig.state.publish(PromState::unknown(0));
    rig.tsdb.add(&Block::new(1));
    // The thread sends one message, when the loop has ended.
    let (ended, wait) = crossbeam_channel::unbounded();
    let (shipper, stop) = (rig.start(), rig.stop.clone());
    let thread = spawn_thread("ship", None, move || {
        let result = shipper.run(stop);
        let _ = ended.send(());
        result
    })
    .unwrap();
    assert!(wait.recv_timeout(Duration::from_millis(100)).is_err());
    assert!(rig.in_bucket().is_empty());
    rig.state.publish(state_with(&[("a", "b")]));
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.in_bucket().is_empty() {
        assert!(Instant::now() < deadline, "nothing was shipped");
        assert!(wait.recv_timeout(Duration::from_millis(10)).is_err(), "the loop ended by itself");
    }
    let begun = Instant::now();
    rig.stopper.stop();
    wait.recv_timeout(Duration::from_secs(20)).unwrap();
    thread.join().unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
}
