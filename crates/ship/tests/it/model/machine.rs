//! The machine of a history: its disk with faults, its Prometheus, and what the sidecar has shown so far. Events happen
//! between ticks or within one, before one of the operations of the sidecar.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pillion_base::files::{Op, Step as DiskStep};
use pillion_base::state::{PromState, Published};
use pillion_base::stop::Stopper;
use pillion_ship::Ulid;
use pillion_ship::metrics::ShipMetrics;
use pillion_testing::bucket::{Fate, PartsStore};
use serde_json::Value;

use super::faults::Fault;
use super::features::Features;
use super::history::{Event, Weather};
use super::lines;
use super::prometheus::{Duty, Prometheus, SEEN_TICKS};
use super::random::Random;
use crate::unsynced::Unsynced;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EPERM: i32 = 1;

/// What metrics and log have shown, over all processes.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) n_given_up: u64,
    pub(crate) n_corrupted: u64,
    pub(crate) n_failures: u64,
    pub(crate) lines: Vec<String>,
}

impl Shown {
    fn add(&mut self, metrics: &ShipMetrics) {
        self.n_given_up += metrics.claims_given_up.get();
        self.n_corrupted += metrics.corrupted_blocks.get();
        let failures = pillion_ship::metrics::FAILURE_CLASSES.iter();
        self.n_failures += failures.map(|class| metrics.failures.with_label_values(&[class]).get()).sum::<u64>();
    }
}

/// What the sidecar's operations meet.
pub(crate) struct Machine {
    pub(crate) prometheus: Prometheus,
    pub(crate) features: Features,
    pub(crate) stored: Arc<Mutex<PartsStore>>,
    pub(crate) data_dir: PathBuf,
    pub(crate) tag: String,
    pub(crate) state: Published<PromState>,
    pub(crate) labels_known: bool,
    pub(crate) faults: Vec<Fault>,
    pub(crate) weather: Weather,
    pub(crate) links_are_refused: bool,
    pub(super) unsynced: Unsynced,
    pub(crate) stopper: Option<Stopper>,
    /// The metrics of the process that runs.
    pub(crate) metrics: Option<ShipMetrics>,
    pub(crate) shown: Shown,
    /// Lines that were logged before that process began.
    pub(crate) n_lines_before: usize,
    /// Operations of this tick, and what happens at which of them.
    pub(crate) n_operations: u64,
    pub(crate) pending: VecDeque<(u64, Event)>,
    pub(crate) random: Random,
    pub(crate) is_dead: bool,
    /// Whether a fault hit this tick as a whole, and the blocks that were hit alone.
    pub(crate) is_hit: bool,
    pub(crate) hit: BTreeSet<Ulid>,
    /// Blocks whose claim could not be written at some time, so that they were held open instead.
    pub(crate) unlinked: BTreeSet<Ulid>,
    /// Blocks whose claim could not be read or written at some time.
    pub(crate) unpinned: BTreeSet<Ulid>,
    /// Blocks whose claim somebody has spoilt.
    pub(crate) garbled: BTreeSet<Ulid>,
    /// The block that stays unreadable.
    pub(crate) lasting: Option<Ulid>,
    /// Whether somebody has spoilt the ledger, and it was not written since.
    pub(crate) ledger_is_garbled: bool,
    /// Blocks that were whole in the bucket at some time, and those that the ledger listed as shipped.
    pub(crate) whole_once: BTreeSet<Ulid>,
    pub(crate) listed_once: BTreeSet<Ulid>,
    /// Blocks that the bucket's own compactor made, with their samples.
    pub(crate) compacted: BTreeMap<Ulid, (BTreeSet<usize>, Value)>,
    /// Blocks that it removed.
    pub(crate) cleaned: BTreeSet<Ulid>,
    /// What must never be, and was.
    pub(crate) violations: Vec<String>,
}

impl Machine {
    pub(crate) fn new(prometheus: Prometheus, features: Features, data_dir: &Path, random: Random) -> Self {
        Machine {
            tag: prometheus.tag.clone(),
            prometheus,
            features,
            stored: Arc::default(),
            data_dir: data_dir.to_owned(),
            state: Published::new(PromState::unknown(0)),
            labels_known: true,
            faults: Vec::new(),
            weather: Weather::Fine,
            links_are_refused: false,
            unsynced: Unsynced::default(),
            stopper: None,
            metrics: None,
            shown: Shown::default(),
            n_lines_before: 0,
            n_operations: 0,
            pending: VecDeque::new(),
            random,
            is_dead: false,
            is_hit: false,
            hit: BTreeSet::new(),
            unlinked: BTreeSet::new(),
            unpinned: BTreeSet::new(),
            garbled: BTreeSet::new(),
            lasting: None,
            ledger_is_garbled: false,
            whole_once: BTreeSet::new(),
            listed_once: BTreeSet::new(),
            compacted: BTreeMap::new(),
            cleaned: BTreeSet::new(),
            violations: Vec::new(),
        }
    }

    /// One operation of the sidecar on the disk.
    pub(crate) fn step(&mut self, step: &DiskStep<'_>) -> io::Result<()> {
        self.happen();
        if self.is_dead {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let result = self.judge(step).map_err(io::Error::from_raw_os_error);
        match &result {
            Ok(()) => self.unsynced.note(step),
            Err(_) => self.note_unlinked(step),
        }
        result
    }

    /// The number of the error with which a step fails, if it does.
    fn judge(&mut self, step: &DiskStep<'_>) -> Result<(), i32> {
        if step.op == Op::Link && self.links_are_refused {
            return Err(EPERM);
        }
        let writes = matches!(step.op, Op::Create | Op::Write | Op::CreateDir | Op::Link);
        if self.prometheus.is_full && writes {
            self.is_hit = true;
            return Err(ENOSPC);
        }
        for fault in &mut self.faults {
            if fault.strikes(step) {
                match fault.block {
                    Some(block) => drop(self.hit.insert(block)),
                    None => self.is_hit = true,
                }
                return Err(fault.errno);
            }
        }
        Ok(())
    }

    /// A claim that cannot be made or written leaves its block held open, and only that. One that cannot be read may be
    /// made anew, with other labels.
    fn note_unlinked(&mut self, step: &DiskStep<'_>) {
        let path = step.to.unwrap_or(step.path);
        // A claim is linked once the names of all folders above it are synced too.
        let is_above = step.op == Op::SyncDir && path == self.data_dir;
        if !is_above && !path.starts_with(self.data_dir.join("thanos")) {
            return;
        }
        let block = path.iter().rev().find_map(|part| Ulid::parse(part.to_str()?));
        let blocks = block.map_or_else(|| self.prometheus.live.clone(), |block| BTreeSet::from([block]));
        self.unpinned.extend(&blocks);
        if !matches!(step.op, Op::Stat | Op::Capacity | Op::List | Op::Open | Op::Read) {
            self.unlinked.extend(&blocks);
        }
    }

    /// One request of the sidecar to the bucket.
    pub(crate) fn request(&mut self, request: &str) -> Fate {
        self.happen();
        if self.is_dead {
            return Fate::Refused;
        }
        let is_write = request.starts_with("complete ") || request.starts_with("put ");
        match self.weather {
            Weather::Down | Weather::Denied => Fate::Refused,
            Weather::Busy if self.random.percent(50) => Fate::Refused,
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

    /// Takes in what was logged.
    pub(crate) fn hear(&mut self) {
        self.shown.lines.extend(lines::take(&self.tag));
    }

    /// Takes in the metrics of a process that ends.
    pub(crate) fn metrics_are_over(&mut self) {
        if let Some(metrics) = self.metrics.take() {
            self.shown.add(&metrics);
        }
    }

    /// The blocks that have a folder of a claim.
    pub(crate) fn claims(&self) -> Vec<Ulid> {
        let entries = std::fs::read_dir(self.data_dir.join("thanos/upload")).into_iter().flatten().flatten();
        let mut ulids: Vec<Ulid> =
            entries.filter_map(|entry| Ulid::parse(entry.file_name().to_str().unwrap())).collect();
        ulids.sort_unstable();
        ulids
    }

    pub(super) fn claim_meta(&self, ulid: Ulid) -> PathBuf {
        self.data_dir.join("thanos/upload").join(ulid.as_str()).join("meta.json")
    }

    /// A tick is over: what it must have seen is owed from now on.
    pub(crate) fn saw(&mut self) {
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
                made.is_owed = true;
                // A compacted block is claimed once it has to stand in for others.
                let is_claimed = self.labels_known && !self.links_are_refused && !self.unpinned.contains(&ulid);
                let is_sure = is_claimed && made.level == 1;
                made.n_pinned = made.n_pinned.or(is_sure.then_some(self.prometheus.n_labels));
                for id in made.samples.clone() {
                    let duty = &mut self.prometheus.samples[id].1;
                    if *duty == Duty::Unseen {
                        *duty = Duty::Owed;
                    }
                }
            }
        }
    }
}
