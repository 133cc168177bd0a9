//! A machine and the sidecar that ticks on it, dies and starts again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use pillion_base::files::Disk;
use pillion_base::stop::{Stop, stop_pair};
use pillion_ship::metrics::ShipMetrics;
use pillion_ship::{ShipConfig, Shipper, TickReport, Ulid};
use pillion_testing::tsdb::fast_dir;

use super::features::Feature;
use super::history::{Event, Setup, Weather};
use super::lines;
use super::machine::Machine;
use super::prometheus::{Duty, HOUR_MS, Prometheus, RANGE_MS};
use super::random::Random;
use super::sky::Sky;

/// A running sidecar.
struct Process {
    shipper: Shipper,
    stop: Stop,
    n_ticks: u64,
}

/// How it was before a tick.
pub(crate) struct Before {
    pub(super) claims: Vec<Ulid>,
    /// Blocks that had been whole in the bucket.
    pub(super) whole: BTreeSet<Ulid>,
    pub(super) n_lines: usize,
}

pub(crate) struct World {
    pub(crate) setup: Setup,
    tag: String,
    // Removed with the value.
    _dir: tempfile::TempDir,
    pub(crate) machine: Arc<Mutex<Machine>>,
    process: Option<Process>,
    /// Whether a process has had the chance to note that shipping has begun.
    has_run: bool,
    pub(crate) n_ticks: u64,
    pub(crate) n_processes: u64,
    /// Compacted blocks that overlapped others in the bucket, by tick.
    pub(crate) n_overlapping: usize,
    /// Samples whose only copy a dead process held open.
    pub(crate) dropped: BTreeSet<usize>,
}

impl Drop for World {
    fn drop(&mut self) {
        lines::stop_listening(&self.tag);
    }
}

impl World {
    pub(crate) fn new(setup: &Setup, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let letter = |n: u64| char::from(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[usize::try_from(n % 32).unwrap()]);
        let tag: String = "M0DE".chars().chain((0..9).map(|_| letter(random.next()))).collect();
        lines::listen(&tag);
        let dir = fast_dir();
        let data_dir = dir.path().join(&tag);
        std::fs::create_dir(&data_dir).unwrap();
        // Some moment of which all ranges are multiples, so that the same seed makes the same blocks; weeks ahead, so that
        // whatever the clock is set to, blocks are younger than what the shipper notes by the real one.
        let day_ms = 54 * HOUR_MS;
        let today_ms = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        let now_ms = (today_ms / day_ms + 10) * day_ms + i64::try_from(random.below(54)).unwrap() * HOUR_MS;
        let before_ms = i64::try_from(setup.hours_before).unwrap() * HOUR_MS;
        let mut settings = setup.prometheus.clone();
        let compacts_early = std::mem::replace(&mut settings.compacts_early, true);
        let mut prometheus = Prometheus::new(settings, &data_dir, &tag, now_ms - before_ms - 4 * RANGE_MS);
        prometheus.advance(before_ms, &mut random);
        prometheus.settings.compacts_early = compacts_early;
        let mut machine = Machine::new(prometheus, setup.features, &data_dir, random);
        machine.links_are_refused = setup.links_are_refused;
        World {
            setup: setup.clone(),
            tag,
            _dir: dir,
            machine: Arc::new(Mutex::new(machine)),
            process: None,
            has_run: false,
            n_ticks: 0,
            n_processes: 0,
            n_overlapping: 0,
            dropped: BTreeSet::new(),
        }
    }

    /// Something happens between two ticks.
    pub(crate) fn play(&mut self, event: Event, seed: u64) {
        let mut machine = self.machine.lock().unwrap();
        machine.play(event, &mut Random::new(seed));
        let ends = machine.is_dead || event == Event::Stop;
        drop(machine);
        if ends {
            self.end();
        }
    }

    /// The process is over. What it held open and nobody else has is lost.
    pub(crate) fn end(&mut self) {
        {
            // What a process says while it is dropped is heard unless it died before.
            let mut machine = self.machine.lock().unwrap();
            if !machine.is_dead {
                machine.hear();
                machine.metrics_are_over();
            }
        }
        self.process = None;
        drop(lines::take(&self.tag));
        let mut machine = self.machine.lock().unwrap();
        machine.is_dead = false;
        machine.stopper = None;
        machine.read_ledger();
        machine.check_untouched();
        for made in machine.prometheus.made.values_mut() {
            made.n_seen = 0;
        }
        let mut safe: BTreeSet<usize> = BTreeSet::new();
        let in_bucket = machine.in_bucket();
        let made_early = machine.features.has(Feature::EarlyCompaction);
        for (ulid, made) in &machine.prometheus.made {
            let is_dropped = machine.unlinked.contains(ulid) || machine.links_are_refused;
            // A compacted block is only of use if it is shipped in place of its sources.
            let is_of_use = made.level == 1 || self.setup.upload_compacted || made_early;
            let is_live = machine.prometheus.live.contains(ulid) && is_of_use;
            let is_there = is_live || machine.claim_meta(*ulid).exists();
            if is_there || in_bucket.contains_key(ulid) || is_of_use && made.is_owed && !is_dropped {
                safe.extend(&made.samples);
            }
        }
        for ulid in machine.compacted.keys() {
            safe.extend(machine.samples_of(*ulid));
        }
        let owed = machine.prometheus.samples.iter().enumerate().filter(|(_, (_, duty))| *duty == Duty::Owed);
        self.dropped.extend(owed.map(|(id, _)| id).filter(|id| !safe.contains(id)));
    }

    fn start(&mut self, seed: u64) -> Process {
        self.n_processes += 1;
        let (stopper, stop) = stop_pair().unwrap();
        let mut machine = self.machine.lock().unwrap();
        machine.stopper = Some(stopper);
        machine.random = Random::new(seed);
        machine.n_lines_before = machine.shown.lines.len();
        let is_known = machine.labels_known;
        machine.publish(is_known);
        let metrics = ShipMetrics::default();
        machine.metrics = Some(metrics.clone());
        let (data_dir, state) = (machine.data_dir.clone(), machine.state.clone());
        drop(machine);
        let watching = Arc::clone(&self.machine);
        let disk = Disk::watched(move |step| watching.lock().unwrap().step(step));
        let config = ShipConfig {
            disk,
            upload_compacted: self.setup.upload_compacted,
            allow_out_of_order_uploads: self.setup.allow_out_of_order,
            sha256: self.setup.sha256,
            claim_budget_bytes: self.setup.claim_budget_bytes,
            // Two looks, whatever the time between them; and waits that pass while other steps are played.
            settle_time: std::time::Duration::from_nanos(1),
            unreadable_wait: std::time::Duration::ZERO,
            ..ShipConfig::new(data_dir)
        };
        // Where nothing can be written from the first start on, it is said that a restart will not know of it.
        let is_remembered = config.data_dir.join("thanos/history.json").exists();
        let shipper = Shipper::new(config, Sky::new(&self.machine), state, metrics);
        if !self.has_run || !is_remembered {
            forgive_what_was_before(&mut self.machine.lock().unwrap().prometheus, self.setup.upload_compacted);
        }
        Process { shipper, stop, n_ticks: 0 }
    }

    /// One tick, with these events within it. `None` if the process did not live to its end.
    pub(crate) fn tick(&mut self, events: &[(u64, Event)], seed: u64) -> Option<TickReport> {
        let before = {
            let mut machine = self.machine.lock().unwrap();
            machine.prometheus.go_on_copying(&mut Random::new(seed));
            machine.prometheus.tick += 1;
            (machine.n_operations, machine.is_hit) = (0, false);
            machine.hit.clear();
            machine.pending = events.iter().copied().collect();
            machine.random = Random::new(seed);
            Before { claims: machine.claims(), whole: machine.whole_once.clone(), n_lines: machine.shown.lines.len() }
        };
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.start(seed),
        };
        process.n_ticks += 1;
        if process.n_ticks == 3 {
            self.machine.lock().unwrap().publish(true);
        }
        let report = process.shipper.tick(&process.stop);
        self.n_ticks += 1;
        let mut machine = self.machine.lock().unwrap();
        // What comes too late for this tick does not happen in the next one.
        machine.pending.clear();
        let is_over = machine.is_dead || process.stop.is_stopped();
        if is_over {
            drop(machine);
            self.process = Some(process);
            self.end();
            return None;
        }
        machine.hear();
        machine.saw();
        self.has_run |= !machine.is_hit;
        machine.read_ledger();
        if report.n_given_up > 0 {
            machine.check_given_up(self.setup.claim_budget_bytes, &before);
        }
        drop(machine);
        self.n_overlapping += report.n_overlapping;
        self.process = Some(process);
        Some(report)
    }

    /// All faults cease, what was begun is finished, and the sidecar ticks and starts often enough. Returns the last
    /// report.
    pub(crate) fn settle(&mut self, seed: u64) -> Option<TickReport> {
        let mut random = Random::new(seed);
        {
            let mut machine = self.machine.lock().unwrap();
            machine.heal_disk();
            machine.weather = Weather::Fine;
            machine.publish(true);
            machine.prometheus.end_copying(&mut random);
            machine.prometheus.repair(false, &mut random);
            if self.setup.has_lasting_fault {
                machine.break_for_ever(&mut random);
            }
        }
        let mut last = None;
        for _ in 0..3 {
            for _ in 0..4 {
                last = self.tick(&[], random.next());
            }
            self.end();
        }
        last
    }
}

/// Blocks that were compacted before the first start are only shipped if that is asked for.
fn forgive_what_was_before(prometheus: &mut Prometheus, upload_compacted: bool) {
    let level_one = |ulid: &&Ulid| prometheus.made[ulid].level == 1 || upload_compacted;
    let kept: BTreeSet<usize> =
        prometheus.live.iter().filter(level_one).flat_map(|ulid| prometheus.made[ulid].samples.clone()).collect();
    let all: BTreeSet<usize> = prometheus.live.iter().flat_map(|ulid| prometheus.made[ulid].samples.clone()).collect();
    for id in all.difference(&kept) {
        prometheus.samples[*id].1 = Duty::Forgiven;
    }
}
