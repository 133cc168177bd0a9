//! Fails the shipper's work at every single step on the disk and at every request to the bucket, runs it again, and
//! checks the result.
//!
//! Each step is failed in several ways: as an error, after which the same shipper goes on; as a death of the process,
//! after which nothing is done any more, not even cleaning up; and as two kinds of power cut, which also take with them
//! what was not synced: the content of files, and in one kind the new names in folders too. A request is failed before
//! it is done or after, or is acknowledged and its object lost.
//!
//! In one variant Prometheus removes every block that is claimed at the moment of the failure, and has other external
//! labels afterwards: the blocks must arrive all the same, with the labels that were pinned.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillion_base::error::Result;
use pillion_base::files::{Disk, Step};
use pillion_base::labels::Labels;
use pillion_base::limits;
use pillion_base::state::{PromState, Published};
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_bucket::{Bucket, FolderBucket};
use pillion_ship::metrics::ShipMetrics;
use pillion_ship::verify::{Audit, Summary, audit};
use pillion_ship::{ShipConfig, Shipper, TickReport};
use pillion_testing::bucket::{Fate, PartsBucket, PartsStore};
use pillion_testing::tsdb::{Block, Tsdb, fast_dir, ledger_text, tree, ulid};
use serde_json::Value;

use crate::unsynced::Unsynced;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Error,
    /// As an error, but a request is done before it fails.
    Unanswered,
    /// No error: an object is acknowledged and lost. Steps on the disk go well.
    Lost,
    Death,
    /// As a death, but a request is done before it.
    DeathAfter,
    PowerCutContent,
    PowerCutContentAndNames,
}

/// Counts steps, fails one, and knows what is not synced.
impl Mode {
    fn is_final(self) -> bool {
        !matches!(self, Mode::Error | Mode::Unanswered | Mode::Lost)
    }
}

/// Which kind of bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Folder,
    Parts,
}

#[derive(Default)]
struct Fault {
    n_steps: usize,
    at: usize,
    /// Whether every step after the failed one fails too.
    is_final: bool,
    failed: Option<String>,
    unsynced: Unsynced,
}

impl Fault {
    /// What becomes of a request to a bucket that is no folder.
    fn request(&mut self, request: &str, mode: Mode) -> Fate {
        self.n_steps += 1;
        if self.is_final && self.failed.is_some() {
            return Fate::Refused;
        }
        if self.n_steps != self.at {
            return Fate::Done;
        }
        self.failed.get_or_insert_with(|| request.to_owned());
        match mode {
            Mode::Unanswered | Mode::DeathAfter => Fate::Unanswered,
            Mode::Lost => Fate::Lost,
            _ => Fate::Refused,
        }
    }

    fn step(&mut self, step: &Step, mode: Mode) -> io::Result<()> {
        self.n_steps += 1;
        let is_dead = self.is_final && self.failed.is_some();
        if self.n_steps == self.at && mode == Mode::Lost {
            self.failed.get_or_insert_with(|| format!("{step:?} went well"));
        } else if is_dead || self.n_steps == self.at {
            self.failed.get_or_insert_with(|| format!("{step:?}"));
            return Err(io::Error::from_raw_os_error(28));
        }
        self.unsynced.note(step);
        Ok(())
    }

    /// Begins the next process: nothing fails any more, and what was not synced is still not synced.
    fn restart(&mut self) {
        (self.at, self.is_final, self.failed) = (0, false, None);
    }
}

/// A data directory with two good blocks, an empty one and a corrupted one, and a bucket.
struct World {
    tsdb: Tsdb,
    kind: Kind,
    bucket_dir: tempfile::TempDir,
    stored: Arc<Mutex<PartsStore>>,
    /// The files of the good blocks as they were made, by object name.
    originals: BTreeMap<String, Vec<u8>>,
    stop: Stop,
    _stopper: Stopper,
}

const GOOD: [u32; 2] = [1, 4];

impl World {
    fn new(kind: Kind) -> Self {
        let tsdb = Tsdb::in_dir(fast_dir());
        let first = if kind == Kind::Folder { 2 * limits::COPY_BUFFER_BYTES + 9 } else { 2100 };
        tsdb.add(&Block { chunk_bytes: vec![first, 40], ..Block::new(1) });
        tsdb.add(&Block { n_samples: 0, ..Block::new(2) });
        tsdb.add(&Block::new(3));
        std::fs::remove_file(tsdb.block_dir(3).join("index")).unwrap();
        tsdb.add(&Block { chunk_bytes: vec![100], ..Block::new(4) });
        let mut originals = BTreeMap::new();
        for n in GOOD {
            for name in tree(&tsdb.block_dir(n)).into_iter().filter(|name| name != "tombstones") {
                let bytes = std::fs::read(tsdb.block_dir(n).join(&name)).unwrap();
                originals.insert(format!("{}/{name}", ulid(n)), bytes);
            }
        }
        // What an earlier crash left behind.
        std::fs::create_dir_all(tsdb.path().join("thanos/upload/left")).unwrap();
        std::fs::write(tsdb.path().join("thanos/upload/left/index"), b"x").unwrap();
        let bucket_dir = fast_dir();
        std::fs::create_dir_all(bucket_dir.path().join("bucket").join(FolderBucket::TEMP_DIR)).unwrap();
        let left = bucket_dir.path().join("bucket").join(FolderBucket::TEMP_DIR).join(format!("{:032x}-{:032x}", 0, 1));
        std::fs::write(&left, b"x").unwrap();
        File::options().write(true).open(left).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let (stopper, stop) = stop_pair().unwrap();
        World { tsdb, kind, bucket_dir, stored: Arc::default(), originals, stop, _stopper: stopper }
    }

    fn bucket_path(&self) -> PathBuf {
        self.bucket_dir.path().join("bucket")
    }

    fn bucket(&self, disk: &Disk, judge: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Arc<dyn Bucket> {
        match self.kind {
            Kind::Folder => Arc::new(FolderBucket::open(&self.bucket_path(), disk.clone()).unwrap()),
            Kind::Parts => PartsBucket::new(&self.stored, judge),
        }
    }

    /// `pillion verify --repair`.
    fn repair(&self, disk: &Disk, judge: impl Fn(&str) -> Fate + Send + Sync + 'static) -> Result<Summary> {
        let bucket = self.bucket(disk, judge);
        let whole = Audit {
            disk,
            bucket: &*bucket,
            data_dir: self.tsdb.path(),
            meta_file_name: "thanos.shipper.json",
            upload_compacted: false,
            repair: true,
            labels: &Labels::new([("region", "eu")]),
            on_step: None,
        };
        audit(&whole, &mut |_| Ok(()), &self.stop)
    }

    /// Somebody removes an object.
    fn lose(&self, name: &str) {
        match self.kind {
            Kind::Folder => std::fs::remove_file(self.bucket_path().join(name)).unwrap(),
            Kind::Parts => drop(self.stored.lock().unwrap().objects.remove(name).unwrap()),
        }
    }

    /// Starts a sidecar whose Prometheus is in this region.
    fn start(&self, disk: &Disk, judge: impl Fn(&str) -> Fate + Send + Sync + 'static, region: &str) -> Shipper {
        let bucket = self.bucket(disk, judge);
        let labels = Labels::new([("region", region)]);
        let state = Published::new(PromState { external_labels: labels, ..PromState::unknown(0) });
        let config =
            ShipConfig { disk: disk.clone(), settle_time: Duration::ZERO, ..ShipConfig::new(self.tsdb.path()) };
        Shipper::new(config, bucket, state, ShipMetrics::default())
    }

    fn start_unharmed(&self, region: &str) -> Shipper {
        self.start(&Disk::real(), |_| Fate::Done, region)
    }

    fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        match self.kind {
            Kind::Folder => tree(&self.bucket_path())
                .into_iter()
                .filter(|name| !name.starts_with(FolderBucket::TEMP_DIR) && name != FolderBucket::MARKER)
                .map(|name| (name.clone(), std::fs::read(self.bucket_path().join(name)).unwrap()))
                .collect(),
            Kind::Parts => self.stored.lock().unwrap().objects.clone(),
        }
    }

    /// What the claim of a block says: `pinned`, `unpinned`, or nothing if there is no claim.
    fn claim(&self, n: u32) -> Option<String> {
        let path = self.tsdb.path().join("thanos/upload").join(ulid(n).as_str()).join("meta.json");
        let meta: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        Some(meta["pillion_claim"].as_str()?.to_owned())
    }

    /// The region under which a block is in the bucket.
    fn region(&self, n: u32) -> Option<String> {
        let meta: Value = serde_json::from_slice(self.objects().get(&format!("{}/meta.json", ulid(n)))?).unwrap();
        Some(meta["thanos"]["labels"]["region"].as_str().unwrap().to_owned())
    }

    /// Checks what must hold at every moment, whatever went wrong.
    fn check_always(&self, at: &str) {
        let mut whole = BTreeSet::new();
        let objects = self.objects();
        for (name, stored) in &objects {
            let (block, rel_path) = name.split_once('/').unwrap();
            if rel_path == "meta.json" {
                whole.insert(block.to_owned());
                let meta: Value = serde_json::from_slice(stored).unwrap_or_else(|err| panic!("{at}: {name}: {err}"));
                assert!(meta.get("pillion_claim").is_none(), "{at}: the mark of a claim is in the bucket");
                let files = meta["thanos"]["files"].as_array().unwrap_or_else(|| panic!("{at}: {name} has no files"));
                assert!(files.len() >= 3, "{at}: {files:?}");
                for file in files.iter().filter(|file| file["rel_path"] != "meta.json") {
                    let name = format!("{block}/{}", file["rel_path"].as_str().unwrap());
                    let size = objects.get(&name).map(|bytes| bytes.len() as u64);
                    assert_eq!(size, file["size_bytes"].as_u64(), "{at}: {name}");
                }
            } else {
                assert!(self.originals.get(name) == Some(stored), "{at}: {name} differs from the local file");
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

    /// Checks what must hold after a tick without failure; `is_all_local` if no block was removed.
    fn check_done(&self, at: &str, is_all_local: bool) {
        self.check_always(at);
        assert!(self.objects().keys().eq(self.originals.keys()), "{at}: {:?}", self.objects().keys());
        let staged = self.tsdb.path().join("thanos/upload");
        assert_eq!(std::fs::read_dir(staged).unwrap().count(), 0, "{at}: {:?}", self.tsdb.staged());
        assert!(self.stored.lock().unwrap().uploads.is_empty(), "{at}: parts are left in the bucket");
        if is_all_local {
            assert_eq!(self.tsdb.ledger(), ledger_text(&[1, 2, 3, 4], &[2, 3]), "{at}");
            for n in GOOD {
                let meta = std::fs::read(self.tsdb.block_dir(n).join("meta.json")).unwrap();
                let original = &self.originals[&format!("{}/meta.json", ulid(n))];
                assert_eq!(meta, *original, "{at}: Prometheus's own meta.json was edited");
            }
        }
        let data_dir = self.tsdb.path().read_dir().unwrap();
        let names: BTreeSet<_> = data_dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let ours: Vec<_> = names.iter().filter(|name| name.starts_with("thanos")).collect();
        // A death between writing and renaming leaves this file; the next change of the ledger replaces it.
        assert!(
            ours.iter().all(|name| ["thanos", "thanos.shipper.json", "thanos.shipper.json.tmp"].contains(&&***name))
        );
    }
}

fn clean(report: &TickReport) -> bool {
    report.error.is_none() && report.n_failed == 0
}

/// Runs one tick in which step `at` fails. Also returns what failed; `None` if there were fewer steps.
fn fail(world: &World, mode: Mode, at: usize) -> (Shipper, Arc<Mutex<Fault>>, Option<String>) {
    let fault = Arc::new(Mutex::new(Fault { at, is_final: mode.is_final(), ..Fault::default() }));
    let (watcher, asked) = (Arc::clone(&fault), Arc::clone(&fault));
    let disk = Disk::watched(move |step| watcher.lock().unwrap().step(step, mode));
    let mut shipper = world.start(&disk, move |request| asked.lock().unwrap().request(request, mode), "eu");
    shipper.tick(&world.stop);
    let failed = fault.lock().unwrap().failed.clone();
    match mode {
        Mode::PowerCutContent => fault.lock().unwrap().unsynced.cut_power(false),
        Mode::PowerCutContentAndNames => fault.lock().unwrap().unsynced.cut_power(true),
        _ => {}
    }
    if failed.is_none() {
        // What follows is not to fail in its place.
        fault.lock().unwrap().at = 0;
    }
    (shipper, fault, failed)
}

/// Each step is failed; in `make quick`, which is not optimised, one of so many.
const STRIDE: usize = if cfg!(debug_assertions) { 8 } else { 1 };

/// The numbers of the steps to be failed, from another one on each time.
fn steps() -> impl Iterator<Item = usize> {
    let first = 1 + usize::try_from(RandomState::new().build_hasher().finish() % STRIDE as u64).unwrap();
    (first..).step_by(STRIDE)
}

/// Fails step `at` in the given way; false when the work had fewer steps.
fn check(kind: Kind, mode: Mode, at: usize) -> bool {
    let world = World::new(kind);
    let (mut shipper, _, failed) = fail(&world, mode, at);
    let place = format!("{kind:?}, {mode:?} at step {at}: {failed:?}");
    if failed.is_none() {
        // A power cut comes after the work here, and what was not synced is gone, so only errors are checked.
        if !mode.is_final() {
            world.check_done(&place, true);
        }
        return false;
    }
    // After a power cut the content of the temporary ledger may be gone; only what has its final name counts.
    world.check_always(&place);

    if !mode.is_final() {
        let report = shipper.tick(&world.stop);
        assert!(clean(&report), "{place}: {report:?}");
        world.check_done(&place, true);
        return true;
    }
    let mut shipper = world.start_unharmed("eu");
    let report = shipper.tick(&world.stop);
    assert!(clean(&report), "{place}: {report:?}");
    world.check_done(&place, true);
    assert!(tree(&world.bucket_path().join(FolderBucket::TEMP_DIR)).is_empty() || kind == Kind::Parts, "{place}");
    let report = shipper.tick(&world.stop);
    assert!(clean(&report) && report.n_uploaded == 0, "{place}: {report:?}");
    world.check_done(&place, true);
    true
}

/// Fails step `at`; then Prometheus removes all blocks that are claimed or shipped, and has other labels.
fn check_retention(kind: Kind, mode: Mode, at: usize) -> bool {
    let world = World::new(kind);
    let (mut shipper, _, failed) = fail(&world, mode, at);
    let place = format!("retention, {kind:?}, {mode:?} at step {at}: {failed:?}");
    world.check_always(&place);
    let mut pinned = Vec::new();
    for n in GOOD {
        let (claim, region) = (world.claim(n), world.region(n));
        if claim.is_some() || region.is_some() {
            std::fs::remove_dir_all(world.tsdb.block_dir(n)).unwrap();
            // Labels were known when it was claimed.
            assert!(claim.is_none_or(|word| word == "pinned"), "{place}");
            pinned.push(n);
        }
    }
    if mode.is_final() {
        shipper = world.start_unharmed("us");
    }
    for _ in 0..2 {
        let report = shipper.tick(&world.stop);
        assert!(clean(&report) && report.n_given_up == 0, "{place}: {report:?}");
        world.check_done(&place, false);
    }
    for n in GOOD {
        let expected = if pinned.contains(&n) || !mode.is_final() { "eu" } else { "us" };
        assert_eq!(world.region(n).as_deref(), Some(expected), "{place}: labels of block {n}");
    }
    failed.is_some()
}

/// Loses objects of shipped blocks, fails step `at` of the repair, and repairs again; false when there were fewer
/// steps.
fn check_repair(kind: Kind, mode: Mode, at: usize) -> bool {
    let world = World::new(kind);
    assert!(clean(&world.start_unharmed("eu").tick(&world.stop)));
    world.lose(&format!("{}/chunks/000001", ulid(1)));
    world.lose(&format!("{}/meta.json", ulid(4)));
    let fault = Arc::new(Mutex::new(Fault { at, is_final: mode.is_final(), ..Fault::default() }));
    let (watcher, asked) = (Arc::clone(&fault), Arc::clone(&fault));
    let disk = Disk::watched(move |step| watcher.lock().unwrap().step(step, mode));
    let first = world.repair(&disk, move |request| asked.lock().unwrap().request(request, mode));
    let failed = fault.lock().unwrap().failed.clone();
    let place = format!("repair, {kind:?}, {mode:?} at step {at}: {failed:?}, {first:?}");
    if mode == Mode::PowerCutContentAndNames {
        fault.lock().unwrap().unsynced.cut_power(true);
    }
    let summary = world.repair(&Disk::real(), |_| Fate::Done).unwrap();
    // The corrupted block stays corrupted.
    assert_eq!((summary.n_whole + summary.n_repaired, summary.n_wrong, summary.n_gone), (2, 1, 0), "{place}");
    // No record is left of the parts of a repair that died; the bucket has to remove them.
    world.stored.lock().unwrap().uploads.clear();
    world.check_done(&place, true);
    let summary = world.repair(&Disk::real(), |_| Fate::Done).unwrap();
    assert_eq!((summary.n_whole, summary.n_repaired), (2, 0), "{place}");
    failed.is_some()
}

/// Dies at step `at`, starts again, ships everything, and then the power is cut; false when there were fewer steps.
fn check_second_cut(kind: Kind, at: usize) -> bool {
    let world = World::new(kind);
    let (_, fault, failed) = fail(&world, Mode::Death, at);
    let place = format!("{kind:?}, second cut after step {at}: {failed:?}");
    fault.lock().unwrap().restart();
    let watcher = Arc::clone(&fault);
    let disk = Disk::watched(move |step| watcher.lock().unwrap().step(step, Mode::Death));
    let report = world.start(&disk, |_| Fate::Done, "eu").tick(&world.stop);
    assert!(clean(&report), "{place}: {report:?}");
    fault.lock().unwrap().unsynced.cut_power(true);
    // What the ledger lists is in the bucket, and all of it is listed.
    world.check_always(&place);
    assert_eq!(world.tsdb.ledger(), ledger_text(&[1, 2, 3, 4], &[2, 3]), "{place}");
    failed.is_some()
}

/// Fails every step.
fn check_all(mode: Mode) {
    for kind in [Kind::Folder, Kind::Parts] {
        // A folder has no requests whose answers could be lost, so these modes are the same as an error.
        if kind == Kind::Folder && matches!(mode, Mode::Unanswered | Mode::Lost | Mode::DeathAfter) {
            continue;
        }
        let n_steps = steps().take_while(|at| check(kind, mode, *at)).count();
        assert!((n_steps + 1) * STRIDE > 100, "only {n_steps} steps: does everything go through the watched disk?");
    }
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

#[test]
fn an_answer_that_is_lost_after_any_request_is_made_good() {
    check_all(Mode::Unanswered);
    check_all(Mode::DeathAfter);
}

#[test]
fn an_object_that_the_bucket_loses_is_never_part_of_a_block() {
    check_all(Mode::Lost);
}

#[test]
fn a_claimed_block_arrives_with_its_labels_whatever_prometheus_removes() {
    for (kind, mode) in [
        (Kind::Folder, Mode::Error),
        (Kind::Folder, Mode::PowerCutContentAndNames),
        (Kind::Parts, Mode::Death),
        (Kind::Parts, Mode::DeathAfter),
        (Kind::Parts, Mode::PowerCutContentAndNames),
    ] {
        let n_steps = steps().take_while(|at| check_retention(kind, mode, *at)).count();
        assert!((n_steps + 1) * STRIDE > 100, "only {n_steps} steps");
    }
}

#[test]
fn a_power_cut_after_a_death_and_a_restart_loses_nothing_that_is_listed() {
    for kind in [Kind::Folder, Kind::Parts] {
        let n_steps = steps().take_while(|at| check_second_cut(kind, *at)).count();
        assert!((n_steps + 1) * STRIDE > 100, "only {n_steps} steps");
    }
}

#[test]
fn a_repair_that_fails_at_any_step_leaves_nothing_that_the_next_does_not_mend() {
    for (kind, mode) in [
        (Kind::Folder, Mode::Error),
        (Kind::Folder, Mode::PowerCutContentAndNames),
        (Kind::Parts, Mode::Error),
        (Kind::Parts, Mode::DeathAfter),
        (Kind::Parts, Mode::Lost),
    ] {
        let n_steps = steps().take_while(|at| check_repair(kind, mode, *at)).count();
        assert!((n_steps + 1) * STRIDE > 40, "only {n_steps} steps");
    }
}
