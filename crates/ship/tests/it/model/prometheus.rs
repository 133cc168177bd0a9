//! A Prometheus that only has blocks: cuts them from a head, compacts them as its planner does, deletes them by time
//! and size, writes late and stale samples early, dies in the middle. `Source:` Prometheus `tsdb/db.go`, `compact.go`.
//!
//! A sample is a number and a time. Every block ever made is remembered with its samples and the bytes of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pillion_ship::Ulid;

use super::blocks::{Copying, Draft};
use super::random::Random;

pub(crate) const HOUR_MS: i64 = 3_600_000;
pub(crate) const RANGE_MS: i64 = 2 * HOUR_MS;
/// Ticks of one process that must have seen a block before the shipper answers for it: what is still being written, as
/// a copy may be, is to be left alone.
pub(crate) const SEEN_TICKS: u32 = 2;

/// How this Prometheus is set up.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Whether the shortest block is the longest too, as Thanos wants it.
    pub(crate) equal_durations: bool,
    /// `--storage.tsdb.delay-compact-file.path`.
    pub(crate) has_delay_file: bool,
    pub(crate) retention_ms: Option<i64>,
    pub(crate) retention_bytes: Option<usize>,
    /// Whether it may compact what the shipper has not seen yet; see [`super::features::Feature::EarlyCompaction`].
    pub(crate) compacts_early: bool,
}

/// What is to become of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// No tick without a fault has seen it in a block.
    Unseen,
    /// It must be in the bucket, or its loss be named.
    Owed,
    /// It may be missing: it was deleted on purpose, or compacted before shipping began.
    Forgiven,
}

/// A block that was made at some time.
pub(crate) struct Made {
    pub(crate) samples: BTreeSet<usize>,
    /// Its files, by their names inside it.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) min_ms: i64,
    pub(crate) max_ms: i64,
    pub(crate) level: i64,
    pub(crate) sources: BTreeSet<Ulid>,
    pub(super) parents: Vec<Ulid>,
    /// Whether it has its final files under its final name.
    pub(crate) is_whole: bool,
    /// Whether somebody has damaged it.
    pub(crate) is_damaged: bool,
    /// Whether it was damaged at any time.
    pub(crate) was_damaged: bool,
    /// Number of the tick in which or after which it became whole.
    pub(crate) born: u64,
    /// Ticks of this process that saw it.
    pub(crate) n_seen: u32,
    /// Number of the external labels when it was made.
    pub(crate) n_labels: u64,
    /// Number of the external labels when they were surely pinned in its claim.
    pub(crate) n_pinned: Option<u64>,
    /// Whether a tick without a fault has answered for it.
    pub(crate) is_owed: bool,
}

pub(crate) struct Prometheus {
    pub(super) settings: Settings,
    pub(super) dir: PathBuf,
    pub(super) tag: String,
    pub(super) n_named: u64,
    pub(crate) now_ms: i64,
    /// Number of the external labels.
    pub(crate) n_labels: u64,
    /// Number of the tick that runs, or ran last.
    pub(crate) tick: u64,
    /// In-order samples that are in no block, and late ones.
    head: Vec<usize>,
    late: Vec<usize>,
    /// Time and duty of each sample.
    pub(crate) samples: Vec<(i64, Duty)>,
    /// Every block ever made.
    pub(crate) made: BTreeMap<Ulid, Made>,
    /// The blocks whose folders are there.
    pub(crate) live: BTreeSet<Ulid>,
    pub(super) copying: Vec<Copying>,
    /// Whether its disk has no room.
    pub(crate) is_full: bool,
    /// Whether it dies before it removes what it has compacted.
    pub(crate) dies_next: bool,
    /// Dead until time passes.
    pub(super) is_down: bool,
}

impl Prometheus {
    pub(crate) fn new(settings: Settings, dir: &Path, tag: &str, now_ms: i64) -> Self {
        std::fs::create_dir(dir.join("wal")).unwrap();
        Prometheus {
            settings,
            dir: dir.to_owned(),
            tag: tag.to_owned(),
            n_named: 0,
            now_ms,
            n_labels: 0,
            tick: 0,
            head: Vec::new(),
            late: Vec::new(),
            samples: Vec::new(),
            made: BTreeMap::new(),
            live: BTreeSet::new(),
            copying: Vec::new(),
            is_full: false,
            dies_next: false,
            is_down: false,
        }
    }

    /// Time passes: samples come in, and all that a Prometheus does about every minute.
    pub(crate) fn advance(&mut self, by_ms: i64, random: &mut Random) {
        let newest_ms = self.head.iter().map(|id| self.samples[*id].0).max();
        let step_ms = HOUR_MS / 2;
        let mut time_ms = self.now_ms - self.now_ms.rem_euclid(step_ms) + step_ms;
        self.now_ms += by_ms;
        self.is_down = false;
        while time_ms <= self.now_ms {
            if newest_ms.is_none_or(|newest_ms| time_ms > newest_ms) {
                let id = self.sample(time_ms);
                self.head.push(id);
            }
            time_ms += step_ms;
        }
        self.work(random);
    }

    pub(super) fn sample(&mut self, time_ms: i64) -> usize {
        self.samples.push((time_ms, Duty::Unseen));
        self.samples.len() - 1
    }

    /// Whether it can neither cut nor compact: its disk is full, it is dead, or a block that it cannot open fails each
    /// reload, and then it removes at once what it has written.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_full || self.is_down || self.live.iter().any(|ulid| self.made[ulid].is_damaged)
    }

    /// Cuts, compacts and deletes.
    pub(super) fn work(&mut self, random: &mut Random) {
        let mut has_cut = false;
        while !self.is_stuck() {
            let times = self.head.iter().map(|id| self.samples[*id].0);
            let (Some(first_ms), Some(last_ms)) = (times.clone().min(), times.max()) else { break };
            if last_ms - first_ms < RANGE_MS * 3 / 2 {
                break;
            }
            let end_ms = window(first_ms) + RANGE_MS;
            let (cut, rest) = self.head.iter().partition(|id| self.samples[**id].0 < end_ms);
            self.head = rest;
            self.cut(cut, first_ms, end_ms, "", random);
            has_cut = true;
        }
        if has_cut {
            let late = std::mem::take(&mut self.late);
            self.cut_windows(&late, "from-out-of-order", random);
        }
        self.reload();
        self.compact(random);
    }

    /// Writes one block of level 1 for each window of two hours.
    fn cut_windows(&mut self, ids: &[usize], hint: &str, random: &mut Random) {
        let mut windows: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for id in ids {
            windows.entry(window(self.samples[*id].0)).or_default().push(*id);
        }
        for (from_ms, ids) in windows {
            self.cut(ids, from_ms, from_ms + RANGE_MS, hint, random);
        }
    }

    pub(super) fn cut(&mut self, ids: Vec<usize>, min_ms: i64, max_ms: i64, hint: &str, random: &mut Random) {
        let ulid = self.name();
        let block = Draft { samples: ids.into_iter().collect(), min_ms, max_ms, level: 1, hint, ..Draft::default() };
        self.make(ulid, block, random);
        self.rename_in(ulid);
    }

    /// Late samples arrive: they go into blocks of their own when the head is cut next.
    pub(crate) fn take_late(&mut self, random: &mut Random) {
        for _ in 0..random.between(1, 4) {
            let time_ms = self.now_ms - i64::try_from(random.between(1, 24)).unwrap() * HOUR_MS;
            let id = self.sample(time_ms);
            self.late.push(id);
        }
    }

    /// Series that have become stale leave the head early.
    pub(crate) fn cut_stale(&mut self, random: &mut Random) {
        if self.is_stuck() {
            return;
        }
        let mut stale = Vec::new();
        self.head.retain(|id| {
            let goes = random.percent(50);
            stale.extend(goes.then_some(*id));
            !goes
        });
        self.cut_windows(&stale, "from-stale-series", random);
        self.work(random);
    }

    /// A block that is whole and there.
    pub(super) fn pick(&self, random: &mut Random) -> Option<Ulid> {
        let whole: Vec<Ulid> = self.whole().collect();
        random.pick(&whole)
    }

    /// The blocks that are whole, not damaged, and there.
    pub(crate) fn whole(&self) -> impl Iterator<Item = Ulid> + '_ {
        let is_whole = |ulid: &Ulid| self.made[ulid].is_whole && !self.made[ulid].is_damaged;
        self.live.iter().copied().filter(move |ulid| is_whole(ulid))
    }

    /// Removes what was compacted, and what is too old or too much.
    pub(super) fn reload(&mut self) {
        if self.is_down || self.live.iter().any(|ulid| self.made[ulid].is_damaged) {
            // A block that cannot be opened fails the whole reload.
            return;
        }
        let whole: Vec<Ulid> = self.whole().collect();
        let mut gone: BTreeSet<Ulid> = whole.iter().flat_map(|ulid| self.made[ulid].parents.clone()).collect();
        let mut by_age: Vec<Ulid> = whole.iter().copied().filter(|ulid| !gone.contains(ulid)).collect();
        by_age.sort_by_key(|ulid| std::cmp::Reverse(self.made[ulid].max_ms));
        let newest_ms = by_age.first().map_or(0, |ulid| self.made[ulid].max_ms);
        let mut bytes = 0;
        for ulid in by_age {
            let made = &self.made[&ulid];
            bytes += made.files.values().map(Vec::len).sum::<usize>();
            let is_old = self.settings.retention_ms.is_some_and(|keep_ms| newest_ms - made.max_ms >= keep_ms);
            if is_old || self.settings.retention_bytes.is_some_and(|max| bytes > max) {
                gone.insert(ulid);
            }
        }
        for ulid in gone {
            self.remove(ulid);
        }
    }

    pub(super) fn remove(&mut self, ulid: Ulid) {
        if self.live.remove(&ulid) {
            let away = self.dir.join(format!("{ulid}.tmp-for-deletion"));
            std::fs::rename(self.block_dir(ulid), &away).unwrap();
            std::fs::remove_dir_all(away).unwrap();
        }
    }

    pub(crate) fn ledger_path(&self) -> PathBuf {
        self.dir.join("thanos.shipper.json")
    }

    pub(crate) fn block_dir(&self, ulid: Ulid) -> PathBuf {
        self.dir.join(ulid.as_str())
    }
}

pub(super) fn window(time_ms: i64) -> i64 {
    time_ms - time_ms.rem_euclid(RANGE_MS)
}
