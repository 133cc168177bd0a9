//! Fails the shipper's work at every single step on the disk, runs it again, and looks at what is there.
//!
//! Each step is failed in four ways: as an error, after which the same shipper goes on; as a death of the process, after
//! which nothing is done any more, not even cleaning up; and as two kinds of power cut, which also take with them what
//! was not synced: the content of files, and in one kind the new names in folders too.

#[path = "support/tsdb.rs"]
mod tsdb;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pillion::files::{Disk, Op, Step};
use pillion::labels::Labels;
use pillion::limits;
use pillion::metrics::Metrics;
use pillion::objstore::Bucket;
use pillion::objstore::dir::{DirBucket, TEMP_DIR};
use pillion::ship::{ShipConfig, Shipper, TickReport};
use pillion::state::{PromState, Published};
use pillion::supervisor::{Stop, Stopper, stop_pair};
use serde_json::Value;
use tsdb::{Block, Tsdb, fast_dir, ledger_text, tree, ulid};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Error,
    Death,
    PowerCutContent,
    PowerCutContentAndNames,
}

/// Counts steps, fails one, and knows what is not synced.
#[derive(Default)]
struct Fault {
    n_steps: usize,
    at: usize,
    /// Whether every step after the failed one fails too.
    is_final: bool,
    failed: Option<String>,
    unsynced_files: BTreeSet<PathBuf>,
    unsynced_names: BTreeSet<PathBuf>,
}

impl Fault {
    fn step(&mut self, step: &Step) -> io::Result<()> {
        self.n_steps += 1;
        let is_dead = self.is_final && self.failed.is_some();
        if is_dead || self.n_steps == self.at {
            self.failed.get_or_insert_with(|| format!("{step:?}"));
            return Err(io::Error::from_raw_os_error(28));
        }
        let path = step.path.to_owned();
        match (step.op, step.to) {
            (Op::Create, _) => {
                self.name(&path);
                self.unsynced_files.insert(path);
            }
            (Op::Write, _) => drop(self.unsynced_files.insert(path)),
            (Op::SyncFile, _) => drop(self.unsynced_files.remove(&path)),
            (Op::SyncDir, _) => self.unsynced_names.retain(|name| name.parent() != Some(&path)),
            (Op::CreateDir, _) => self.name(&path),
            (Op::Link, Some(to)) => self.name(to),
            (Op::Rename, Some(to)) => {
                self.name(to);
                self.unsynced_names.remove(&path);
                if self.unsynced_files.remove(&path) {
                    self.unsynced_files.insert(to.to_owned());
                }
            }
            (Op::RemoveFile | Op::RemoveDir, _) => {
                self.unsynced_files.remove(&path);
                self.unsynced_names.remove(&path);
            }
            _ => {}
        }
        Ok(())
    }

    /// A name that appears; one that was there before does not vanish.
    fn name(&mut self, path: &Path) {
        if !path.exists() {
            self.unsynced_names.insert(path.to_owned());
        }
    }

    /// Takes away what was not synced.
    fn cut_power(&self, names_too: bool) {
        for path in &self.unsynced_files {
            if path.exists() {
                std::fs::write(path, b"").unwrap();
            }
        }
        for path in self.unsynced_names.iter().filter(|_| names_too) {
            let _ = std::fs::remove_file(path);
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// A data directory with two good blocks, an empty one and a corrupted one, and a bucket.
struct World {
    tsdb: Tsdb,
    bucket_dir: tempfile::TempDir,
    stop: Stop,
    _stopper: Stopper,
}

const GOOD: [u32; 2] = [1, 4];

impl World {
    fn new() -> Self {
        let tsdb = Tsdb::in_dir(fast_dir());
        tsdb.add(&Block { chunk_bytes: vec![2 * limits::COPY_BUFFER_BYTES + 9, 40], ..Block::new(1) });
        tsdb.add(&Block { n_samples: 0, ..Block::new(2) });
        tsdb.add(&Block::new(3));
        std::fs::remove_file(tsdb.block_dir(3).join("index")).unwrap();
        tsdb.add(&Block { chunk_bytes: vec![100], ..Block::new(4) });
        // What an earlier crash left behind.
        std::fs::create_dir_all(tsdb.path().join("thanos/upload/left")).unwrap();
        std::fs::write(tsdb.path().join("thanos/upload/left/index"), b"x").unwrap();
        let bucket_dir = fast_dir();
        std::fs::create_dir_all(bucket_dir.path().join("bucket").join(TEMP_DIR)).unwrap();
        std::fs::write(bucket_dir.path().join("bucket").join(TEMP_DIR).join("1-1"), b"x").unwrap();
        let (stopper, stop) = stop_pair().unwrap();
        World { tsdb, bucket_dir, stop, _stopper: stopper }
    }

    fn bucket_path(&self) -> PathBuf {
        self.bucket_dir.path().join("bucket")
    }

    /// A sidecar that starts.
    fn start(&self, disk: &Disk) -> Shipper {
        let bucket: Arc<dyn Bucket> = Arc::new(DirBucket::open(&self.bucket_path(), disk.clone()).unwrap());
        let labels = Labels::new([("region", "eu")]);
        let state = Published::new(PromState { external_labels: labels, ..PromState::unknown(0) });
        let config = ShipConfig { disk: disk.clone(), ..ShipConfig::new(self.tsdb.path()) };
        Shipper::new(config, bucket, state, Metrics::new().shipper())
    }

    fn objects(&self) -> Vec<String> {
        let mut names = tree(&self.bucket_path());
        names.retain(|name| !name.starts_with(TEMP_DIR));
        names
    }

    /// What holds at every moment, whatever went wrong.
    fn check_always(&self, at: &str) {
        let mut whole = BTreeSet::new();
        for name in self.objects() {
            let (block, rel_path) = name.split_once('/').unwrap();
            let stored = std::fs::read(self.bucket_path().join(&name)).unwrap();
            if rel_path == "meta.json" {
                whole.insert(block.to_owned());
                let meta: Value = serde_json::from_slice(&stored).unwrap_or_else(|err| panic!("{at}: {name}: {err}"));
                let files = meta["thanos"]["files"].as_array().unwrap_or_else(|| panic!("{at}: {name} has no files"));
                assert!(files.len() >= 3, "{at}: {files:?}");
                for file in files.iter().filter(|file| file["rel_path"] != "meta.json") {
                    let path = self.bucket_path().join(block).join(file["rel_path"].as_str().unwrap());
                    let size = std::fs::metadata(&path).map(|found| found.len()).ok();
                    assert_eq!(size, file["size_bytes"].as_u64(), "{at}: {}", path.display());
                }
            } else {
                let local = std::fs::read(self.tsdb.path().join(&name)).unwrap();
                assert!(stored == local, "{at}: {name} differs from the local file");
            }
        }
        let ledger = self.tsdb.ledger();
        if !ledger.is_empty() || self.tsdb.path().join("thanos.shipper.json").exists() {
            let ledger: Value = serde_json::from_str(&ledger).unwrap_or_else(|err| panic!("{at}: ledger: {err}"));
            let names = |member: &str| -> BTreeSet<String> {
                let items = ledger[member].as_array().cloned().unwrap_or_default();
                items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
            };
            for block in names("uploaded").difference(&names("pillion_unshipped")) {
                assert!(whole.contains(block), "{at}: {block} is listed and not in the bucket");
            }
        }
    }

    /// What holds once a tick went through.
    fn check_done(&self, at: &str) {
        self.check_always(at);
        let expected: Vec<String> = GOOD
            .iter()
            .flat_map(|n| {
                let mut files = tree(&self.tsdb.block_dir(*n));
                files.retain(|name| name != "tombstones");
                files.into_iter().map(|name| format!("{}/{name}", ulid(*n)))
            })
            .collect();
        assert_eq!(self.objects(), expected, "{at}");
        assert_eq!(self.tsdb.ledger(), ledger_text(&[1, 2, 3, 4], &[2, 3]), "{at}");
        let staged = self.tsdb.path().join("thanos/upload");
        assert_eq!(std::fs::read_dir(staged).unwrap().count(), 0, "{at}");
        for n in GOOD {
            let meta = std::fs::read_to_string(self.tsdb.block_dir(n).join("meta.json")).unwrap();
            assert_eq!(meta, self.original_meta(n), "{at}: Prometheus's own meta.json was edited");
        }
        let data_dir = self.tsdb.path().read_dir().unwrap();
        let names: BTreeSet<_> = data_dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let ours: Vec<_> = names.iter().filter(|name| name.starts_with("thanos")).collect();
        // A death between writing and renaming leaves this file; the next change of the ledger replaces it.
        assert!(
            ours.iter().all(|name| ["thanos", "thanos.shipper.json", "thanos.shipper.json.tmp"].contains(&&***name))
        );
    }

    fn original_meta(&self, n: u32) -> String {
        match n {
            1 => Block { chunk_bytes: vec![0, 0], ..Block::new(1) }.meta_json(),
            _ => Block { chunk_bytes: vec![0], ..Block::new(n) }.meta_json(),
        }
    }
}

fn clean(report: &TickReport) -> bool {
    report.error.is_none() && report.n_failed == 0
}

/// Fails step `at` in the given way; false when the work had fewer steps.
fn check(mode: Mode, at: usize) -> bool {
    let world = World::new();
    let fault = Arc::new(Mutex::new(Fault { at, is_final: mode != Mode::Error, ..Fault::default() }));
    let watcher = Arc::clone(&fault);
    let disk = Disk::watched(move |step| watcher.lock().unwrap().step(step));
    let mut shipper = world.start(&disk);
    shipper.tick(&world.stop);
    let failed = fault.lock().unwrap().failed.clone();
    let place = format!("{mode:?} at step {at}: {failed:?}");
    let Some(_) = failed else {
        world.check_done(&place);
        return false;
    };
    match mode {
        Mode::Error | Mode::Death => {}
        Mode::PowerCutContent => fault.lock().unwrap().cut_power(false),
        Mode::PowerCutContentAndNames => fault.lock().unwrap().cut_power(true),
    }
    // After a power cut the content of the temporary ledger may be gone; only what has its final name counts.
    world.check_always(&place);

    if mode == Mode::Error {
        let report = shipper.tick(&world.stop);
        assert!(clean(&report), "{place}: {report:?}");
        world.check_done(&place);
        return true;
    }
    let mut shipper = world.start(&Disk::real());
    let report = shipper.tick(&world.stop);
    assert!(clean(&report), "{place}: {report:?}");
    world.check_done(&place);
    assert!(tree(&world.bucket_path().join(TEMP_DIR)).is_empty(), "{place}");
    let report = shipper.tick(&world.stop);
    assert!(clean(&report) && report.n_uploaded == 0, "{place}: {report:?}");
    world.check_done(&place);
    true
}

/// Fails every step; how many there were.
fn check_all(mode: Mode) -> usize {
    let n_steps = (1..).take_while(|at| check(mode, *at)).count();
    assert!(n_steps > 100, "only {n_steps} steps: does everything go through the watched disk?");
    n_steps
}

#[test]
fn an_error_at_any_step_is_made_good_by_the_next_tick() {
    check_all(Mode::Error);
}

#[test]
fn a_death_at_any_step_is_made_good_by_the_next_start() {
    check_all(Mode::Death);
}

#[test]
fn a_power_cut_at_any_step_loses_no_synced_block() {
    check_all(Mode::PowerCutContent);
}

#[test]
fn a_power_cut_that_takes_new_names_too_loses_no_synced_block() {
    check_all(Mode::PowerCutContentAndNames);
}
