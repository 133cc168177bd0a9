//! The machine of a history: its disk with faults, its bucket, its Prometheus, and the sidecar that ticks on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pillion_base::files::{Disk, Op, Step as DiskStep};
use pillion_base::labels::Labels;
use pillion_base::state::{PromState, Published};
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_ship::metrics::ShipMetrics;
use pillion_ship::{ShipConfig, Shipper, TickReport, Ulid};
use pillion_testing::bucket::{Fate, PartsBucket, PartsStore};
use pillion_testing::tsdb::fast_dir;
use serde_json::{Value, json};

use super::history::{Event, FaultKind, Setup, Weather};
use super::lines;
use super::prometheus::{Draft, Duty, HOUR_MS, Prometheus, RANGE_MS, SEEN_TICKS};
use super::random::Random;
use crate::unsynced::Unsynced;

const EIO: i32 = 5;
const EACCES: i32 = 13;
const ENOSPC: i32 = 28;
const ESTALE: i32 = 116;
const EPERM: i32 = 1;

/// Operations on the disk that fail.
struct Fault {
    /// For people.
    kind: FaultKind,
    fails: Box<dyn Fn(&DiskStep<'_>) -> bool + Send>,
    errno: i32,
    /// How many of them go well first, and how many fail.
    n_spared: u64,
    n_left: u64,
    /// The block that is hit; all may be if there is none.
    block: Option<Ulid>,
}

/// What the sidecar's operations meet. Events within a tick change it too.
pub(crate) struct Machine {
    pub(crate) prometheus: Prometheus,
    stored: Arc<Mutex<PartsStore>>,
    data_dir: PathBuf,
    state: Published<PromState>,
    labels_known: bool,
    n_labels: u64,
    faults: Vec<Fault>,
    pub(crate) weather: Weather,
    links_are_refused: bool,
    unsynced: Unsynced,
    stopper: Option<Stopper>,
    /// Operations of this tick, and what happens at which of them.
    n_operations: u64,
    pending: VecDeque<(u64, Event)>,
    random: Random,
    is_dead: bool,
    /// Whether a fault hit this tick as a whole, and the blocks that were hit alone.
    is_hit: bool,
    hit: BTreeSet<Ulid>,
    /// Blocks that the bucket's own compactor made, with their samples.
    pub(crate) compacted: BTreeMap<Ulid, (BTreeSet<usize>, Value)>,
    /// Blocks that it removed.
    pub(crate) cleaned: BTreeSet<Ulid>,
}

impl Machine {
    /// One operation of the sidecar on the disk.
    fn step(&mut self, step: &DiskStep<'_>) -> io::Result<()> {
        self.happen();
        if self.is_dead {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if step.op == Op::Link && self.links_are_refused {
            return Err(io::Error::from_raw_os_error(EPERM));
        }
        let writes = matches!(step.op, Op::Create | Op::Write | Op::CreateDir | Op::Link);
        if self.prometheus.is_full && writes {
            self.is_hit = true;
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        for fault in &mut self.faults {
            if fault.n_left == 0 || !(fault.fails)(step) {
                continue;
            }
            if fault.n_spared > 0 {
                fault.n_spared -= 1;
                continue;
            }
            fault.n_left -= 1;
            match fault.block {
                Some(block) => drop(self.hit.insert(block)),
                None => self.is_hit = true,
            }
            return Err(io::Error::from_raw_os_error(fault.errno));
        }
        self.unsynced.note(step);
        Ok(())
    }

    /// One request of the sidecar to the bucket.
    fn request(&mut self, request: &str) -> Fate {
        self.happen();
        if self.is_dead {
            return Fate::Refused;
        }
        let is_write = request.starts_with("complete ") || request.starts_with("put ");
        match self.weather {
            Weather::Down => Fate::Refused,
            Weather::Flaky if self.random.percent(10) => {
                if self.random.percent(50) {
                    Fate::Unanswered
                } else {
                    Fate::Refused
                }
            }
            Weather::Lossy if is_write && self.random.percent(20) => Fate::Lost,
            _ => Fate::Done,
        }
    }

    /// Lets happen within a tick what is due.
    fn happen(&mut self) {
        self.n_operations += 1;
        while !self.is_dead
            && let Some((at, event)) = self.pending.front().copied()
            && at <= self.n_operations
        {
            self.pending.pop_front();
            let mut random = Random::new(self.random.next());
            self.play(event, &mut random);
        }
    }

    pub(crate) fn play(&mut self, event: Event, random: &mut Random) {
        match event {
            Event::Minutes(minutes) => self.prometheus.advance(i64::from(minutes) * 60_000, random),
            Event::Late => self.prometheus.take_late(random),
            Event::Stale => self.prometheus.cut_stale(random),
            Event::Backfill { is_slow } => self.prometheus.backfill(is_slow, random),
            Event::CleanTombstones => self.prometheus.clean_tombstones(random),
            Event::PrometheusDies => self.prometheus.dies_next = true,
            Event::Relabel => self.relabel(),
            Event::ClockJump { minutes } => self.prometheus.now_ms += i64::from(minutes) * 60_000,
            Event::DiskFull(is_full) => self.prometheus.is_full = is_full,
            Event::DiskFault(kind) => self.break_disk(kind, random),
            Event::DiskHeals => self.heal_disk(),
            Event::Bucket(weather) => self.weather = weather,
            Event::BucketCompacts => self.compact_bucket(random),
            Event::BucketCleans => self.clean_bucket(),
            Event::LedgerRemoved => drop(std::fs::remove_file(self.prometheus.ledger_path())),
            Event::LedgerGarbage => std::fs::write(self.prometheus.ledger_path(), b"{\"version\": 1,").unwrap(),
            Event::Damage => self.prometheus.damage(random),
            Event::Repair => self.prometheus.repair(true, random),
            Event::Die => self.is_dead = true,
            Event::Stop => self.stop(),
            Event::PowerCut { names_too } => {
                self.is_dead = true;
                self.unsynced.cut_power(names_too);
                self.unsynced = Unsynced::default();
            }
            Event::LabelsUnknown => self.labels_known = false,
        }
    }

    pub(crate) fn heal_disk(&mut self) {
        self.prometheus.is_full = false;
        self.faults.clear();
    }

    fn stop(&self) {
        if let Some(stopper) = &self.stopper {
            stopper.stop();
        }
    }

    fn labels(&self) -> Labels {
        Labels::new([("region".to_owned(), format!("r{}", self.n_labels))])
    }

    fn relabel(&mut self) {
        self.n_labels += 1;
        self.publish(true);
    }

    pub(crate) fn publish(&mut self, is_known: bool) {
        self.labels_known = is_known;
        let external_labels = if is_known { self.labels() } else { Labels::default() };
        self.state.publish(PromState { external_labels, ..PromState::unknown(0) });
    }

    /// Makes operations fail, of a block that is there where one is needed.
    pub(crate) fn break_disk(&mut self, kind: FaultKind, random: &mut Random) {
        let all: Vec<Ulid> = match kind {
            FaultKind::Claim => self.claims(),
            _ => self.prometheus.whole().collect(),
        };
        let block = random.pick(&all);
        let (data_dir, ledger) = (self.data_dir.clone(), self.prometheus.ledger_path());
        let claims_dir = data_dir.join("thanos/upload");
        let of_block = block.map(|ulid| data_dir.join(ulid.as_str()));
        let of_claim = block.map(|ulid| claims_dir.join(ulid.as_str()));
        let is_in = |path: &Path, dir: &Option<PathBuf>| dir.as_ref().is_some_and(|dir| path.starts_with(dir));
        let name = random.pick(&["", "", "meta.json", "index", "chunks"]).unwrap_or("");
        let n_many = random.pick(&[1, 3, 20, u64::MAX]).unwrap_or(1);
        let is_needed = !matches!(kind, FaultKind::BlockRead | FaultKind::BlockStat | FaultKind::Claim);
        if block.is_none() && !is_needed {
            return;
        }
        type Fails = Box<dyn Fn(&DiskStep<'_>) -> bool + Send>;
        let fails: Fails = match kind {
            FaultKind::Once => Box::new(|_| true),
            // The bad sector is under all links of a file.
            FaultKind::BlockRead => Box::new(move |step| {
                let is_its = is_in(step.path, &of_block) || (is_in(step.path, &of_claim) && name != "meta.json");
                matches!(step.op, Op::Read) && is_its && (name.is_empty() || step.path.to_string_lossy().contains(name))
            }),
            FaultKind::BlockStat => {
                Box::new(move |step| matches!(step.op, Op::Stat | Op::List | Op::Open) && is_in(step.path, &of_block))
            }
            FaultKind::Claim => Box::new(move |step| {
                matches!(step.op, Op::Stat | Op::List | Op::Open | Op::Read) && is_in(step.path, &of_claim)
            }),
            FaultKind::Claims => Box::new(move |step| step.op == Op::List && step.path == claims_dir),
            FaultKind::Ledger => Box::new(move |step| matches!(step.op, Op::Open | Op::Read) && step.path == ledger),
            FaultKind::DataDir => Box::new(move |step| step.op == Op::List && step.path == data_dir),
            FaultKind::Links => Box::new(|step| step.op == Op::Link),
        };
        let errno = match kind {
            FaultKind::BlockRead => EIO,
            _ => random.pick(&[EIO, EIO, EACCES, ESTALE]).unwrap_or(EIO),
        };
        let is_once = kind == FaultKind::Once;
        self.faults.push(Fault {
            kind,
            fails,
            errno,
            n_spared: if is_once { random.below(100) } else { random.pick(&[0, 0, 1, 3]).unwrap_or(0) },
            n_left: if is_once { 1 } else { n_many },
            block: block.filter(|_| !is_needed),
        });
    }

    /// The blocks that have a folder of a claim.
    pub(crate) fn claims(&self) -> Vec<Ulid> {
        let entries = std::fs::read_dir(self.data_dir.join("thanos/upload")).into_iter().flatten().flatten();
        let mut ulids: Vec<Ulid> =
            entries.filter_map(|entry| Ulid::parse(entry.file_name().to_str().unwrap())).collect();
        ulids.sort_unstable();
        ulids
    }

    /// Whether a finished claim of this block is on the disk.
    pub(crate) fn has_claim(&self, ulid: Ulid) -> bool {
        self.data_dir.join("thanos/upload").join(ulid.as_str()).join("meta.json").exists()
    }

    fn compact_bucket(&mut self, random: &mut Random) {
        let whole = self.in_bucket();
        let mut stored = self.stored.lock().unwrap();
        let is_marked = |ulid: &Ulid| stored.objects.contains_key(&format!("{ulid}/deletion-mark.json"));
        let mut free: Vec<Ulid> = whole.keys().copied().filter(|ulid| !is_marked(ulid)).collect();
        let Some(first) = random.pick(&free) else { return };
        free.retain(|ulid| whole[ulid]["thanos"]["labels"] == whole[&first]["thanos"]["labels"]);
        let from = random.below(free.len() as u64).try_into().unwrap();
        let old: Vec<Ulid> = free.into_iter().skip(from).take(3).collect();
        if old.len() < 2 {
            return;
        }
        let ulid = self.prometheus.name();
        let samples: BTreeSet<usize> = old.iter().flat_map(|ulid| samples_of(&self.prometheus, &self.compacted, *ulid)).collect();
        let time = |member: &str, ulid: &Ulid| whole[ulid][member].as_i64().unwrap();
        let min_ms = old.iter().map(|ulid| time("minTime", ulid)).min().unwrap();
        let max_ms = old.iter().map(|ulid| time("maxTime", ulid)).max().unwrap();
        let sources: BTreeSet<String> = old
            .iter()
            .flat_map(|ulid| whole[ulid]["compaction"]["sources"].as_array().unwrap().clone())
            .map(|source| source.as_str().unwrap().to_owned())
            .collect();
        let level = old.iter().map(|ulid| whole[ulid]["compaction"]["level"].as_i64().unwrap()).max().unwrap() + 1;
        let meta = json!({
            "ulid": ulid.as_str(), "minTime": min_ms, "maxTime": max_ms, "version": 1,
            "stats": {"numSamples": samples.len(), "numSeries": 1, "numChunks": 1},
            "compaction": {"level": level, "sources": sources},
            "thanos": {"labels": whole[&first]["thanos"]["labels"], "downsample": {"resolution": 0}, "source": "compactor"},
        });
        for (name, bytes) in [("chunks/000001", "chunks"), ("index", "index"), ("meta.json", &meta.to_string())] {
            stored.objects.insert(format!("{ulid}/{name}"), bytes.as_bytes().to_vec());
        }
        for ulid in old {
            stored.objects.insert(format!("{ulid}/deletion-mark.json"), b"{}".to_vec());
        }
        self.compacted.insert(ulid, (samples, meta));
    }

    fn clean_bucket(&mut self) {
        let mut stored = self.stored.lock().unwrap();
        let marked = stored.objects.keys().filter_map(|name| name.strip_suffix("/deletion-mark.json"));
        for block in marked.map(str::to_owned).collect::<Vec<_>>() {
            stored.objects.retain(|name, _| !name.starts_with(&block));
            self.cleaned.insert(Ulid::parse(&block).unwrap());
        }
    }

    /// The blocks in the bucket that have a meta.json, with it.
    pub(crate) fn in_bucket(&self) -> BTreeMap<Ulid, Value> {
        let stored = self.stored.lock().unwrap();
        let metas = stored.objects.iter().filter_map(|(name, bytes)| {
            Some((Ulid::parse(name.strip_suffix("/meta.json")?)?, serde_json::from_slice(bytes).ok()?))
        });
        metas.collect()
    }
}

/// The samples of a block of Prometheus or of the bucket.
pub(crate) fn samples_of(
    prometheus: &Prometheus,
    compacted: &BTreeMap<Ulid, (BTreeSet<usize>, Value)>,
    ulid: Ulid,
) -> BTreeSet<usize> {
    let made = prometheus.made.get(&ulid).map(|made| made.samples.clone());
    made.or_else(|| compacted.get(&ulid).map(|(samples, _)| samples.clone())).unwrap_or_default()
}

/// A running sidecar.
struct Process {
    shipper: Shipper,
    stop: Stop,
    metrics: ShipMetrics,
    n_ticks: u64,
}

/// What the metrics have shown so far, over all processes.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) n_given_up: u64,
    pub(crate) n_corrupted: u64,
}

pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) tag: String,
    // Removed with the value.
    _dir: tempfile::TempDir,
    pub(crate) machine: Arc<Mutex<Machine>>,
    pub(crate) stored: Arc<Mutex<PartsStore>>,
    process: Option<Process>,
    has_run: bool,
    pub(crate) shown: Shown,
    pub(crate) lines: Vec<String>,
    pub(crate) n_ticks: u64,
    /// Samples whose only copy a dead process held open.
    pub(crate) dropped: BTreeSet<usize>,
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
        // Some moment of which all ranges are multiples, so that the same seed makes the same blocks.
        let day_ms = 54 * HOUR_MS;
        let today_ms = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        let now_ms = (today_ms / day_ms) * day_ms + i64::try_from(random.below(54)).unwrap() * HOUR_MS;
        let before_ms = i64::try_from(setup.hours_before).unwrap() * HOUR_MS;
        let mut prometheus = Prometheus::new(setup.prometheus.clone(), &data_dir, &tag, now_ms - before_ms - 4 * RANGE_MS);
        prometheus.advance(before_ms, &mut random);
        let stored: Arc<Mutex<PartsStore>> = Arc::default();
        let machine = Machine {
            prometheus,
            stored: Arc::clone(&stored),
            data_dir,
            state: Published::new(PromState::unknown(0)),
            labels_known: true,
            n_labels: 0,
            faults: Vec::new(),
            weather: Weather::Fine,
            links_are_refused: setup.links_are_refused,
            unsynced: Unsynced::default(),
            stopper: None,
            n_operations: 0,
            pending: VecDeque::new(),
            random,
            is_dead: false,
            is_hit: false,
            hit: BTreeSet::new(),
            compacted: BTreeMap::new(),
            cleaned: BTreeSet::new(),
        };
        World {
            setup: setup.clone(),
            tag,
            _dir: dir,
            machine: Arc::new(Mutex::new(machine)),
            stored,
            process: None,
            has_run: false,
            shown: Shown::default(),
            lines: Vec::new(),
            n_ticks: 0,
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
        self.process = None;
        self.lines.extend(lines::take(&self.tag));
        let mut machine = self.machine.lock().unwrap();
        machine.is_dead = false;
        machine.stopper = None;
        for made in machine.prometheus.made.values_mut() {
            made.n_seen = 0;
        }
        let mut safe: BTreeSet<usize> = BTreeSet::new();
        let in_bucket = machine.in_bucket();
        for (ulid, made) in &machine.prometheus.made {
            if machine.prometheus.live.contains(ulid) || in_bucket.contains_key(ulid) || machine.has_claim(*ulid) {
                safe.extend(&made.samples);
            }
        }
        for ulid in machine.compacted.keys() {
            safe.extend(samples_of(&machine.prometheus, &machine.compacted, *ulid));
        }
        let owed = machine.prometheus.samples.iter().enumerate().filter(|(_, (_, duty))| *duty == Duty::Owed);
        self.dropped.extend(owed.map(|(id, _)| id).filter(|id| !safe.contains(id)));
    }

    fn start(&mut self, seed: u64) -> Process {
        let (stopper, stop) = stop_pair().unwrap();
        let mut machine = self.machine.lock().unwrap();
        machine.stopper = Some(stopper);
        machine.random = Random::new(seed);
        let is_known = machine.labels_known;
        machine.publish(is_known);
        if !self.has_run {
            self.has_run = true;
            forgive_what_was_before(&mut machine.prometheus, self.setup.upload_compacted);
        }
        let (watching, asked) = (Arc::clone(&self.machine), Arc::clone(&self.machine));
        let disk = Disk::watched(move |step| watching.lock().unwrap().step(step));
        let bucket = PartsBucket::new(&self.stored, move |request| asked.lock().unwrap().request(request));
        let config = ShipConfig {
            disk,
            upload_compacted: self.setup.upload_compacted,
            allow_out_of_order_uploads: self.setup.allow_out_of_order,
            sha256: self.setup.sha256,
            claim_budget_bytes: self.setup.claim_budget_bytes,
            ..ShipConfig::new(&machine.data_dir)
        };
        let state = machine.state.clone();
        drop(machine);
        let metrics = ShipMetrics::default();
        let shipper = Shipper::new(config, bucket, state, metrics.clone());
        Process { shipper, stop, metrics, n_ticks: 0 }
    }

    /// One tick, with these events within it. `None` if the process did not live to its end.
    pub(crate) fn tick(&mut self, events: &[(u64, Event)], seed: u64) -> Option<TickReport> {
        {
            let mut machine = self.machine.lock().unwrap();
            machine.prometheus.go_on_copying(&mut Random::new(seed));
            machine.prometheus.tick += 1;
            (machine.n_operations, machine.is_hit) = (0, false);
            machine.hit.clear();
            machine.pending = events.iter().copied().collect();
            machine.random = Random::new(seed);
        }
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.start(seed),
        };
        let before = Shown::of(&process.metrics);
        process.n_ticks += 1;
        if process.n_ticks == 3 {
            self.machine.lock().unwrap().publish(true);
        }
        let report = process.shipper.tick(&process.stop);
        self.n_ticks += 1;
        let after = Shown::of(&process.metrics);
        self.shown.n_given_up += after.n_given_up - before.n_given_up;
        self.shown.n_corrupted += after.n_corrupted - before.n_corrupted;
        self.lines.extend(lines::take(&self.tag));
        let mut machine = self.machine.lock().unwrap();
        // What comes too late for this tick does not happen in the next one.
        machine.pending.clear();
        let is_over = machine.is_dead || process.stop.is_stopped();
        if is_over {
            drop(machine);
            drop(process);
            self.end();
            return None;
        }
        machine.saw();
        drop(machine);
        self.process = Some(process);
        Some(report)
    }
}

impl Shown {
    fn of(metrics: &ShipMetrics) -> Shown {
        Shown { n_given_up: metrics.claims_given_up.get(), n_corrupted: metrics.corrupted_blocks.get() }
    }
}

impl Machine {
    /// A tick is over: what it must have seen is owed from now on.
    fn saw(&mut self) {
        if self.is_hit {
            return;
        }
        let tick = self.prometheus.tick;
        for ulid in self.prometheus.live.clone() {
            let made = self.prometheus.made.get_mut(&ulid).unwrap();
            if !made.is_whole || made.is_damaged || made.born >= tick || self.hit.contains(&ulid) {
                continue;
            }
            made.n_seen += 1;
            if made.n_seen >= SEEN_TICKS {
                for id in made.samples.clone() {
                    let duty = &mut self.prometheus.samples[id].1;
                    if *duty == Duty::Unseen {
                        *duty = Duty::Owed;
                    }
                }
            }
        }
    }

    pub(crate) fn fault_names(&self) -> Vec<FaultKind> {
        self.faults.iter().map(|fault| fault.kind).collect()
    }
}

/// Blocks that were compacted before the first start are only shipped if that is asked for.
fn forgive_what_was_before(prometheus: &mut Prometheus, upload_compacted: bool) {
    let level_one = |ulid: &&Ulid| prometheus.made[ulid].level == 1 || upload_compacted;
    let kept: BTreeSet<usize> =
        prometheus.live.iter().filter(level_one).flat_map(|ulid| prometheus.made[ulid].samples.clone()).collect();
    let all: BTreeSet<usize> =
        prometheus.live.iter().flat_map(|ulid| prometheus.made[ulid].samples.clone()).collect();
    for id in all.difference(&kept) {
        prometheus.samples[*id].1 = Duty::Forgiven;
    }
}
