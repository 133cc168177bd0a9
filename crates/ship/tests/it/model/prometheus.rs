//! A Prometheus that only has blocks: cuts them from a head, compacts them as its planner does, deletes them by time
//! and size, writes late and stale samples early, dies in the middle. `Source:` Prometheus `tsdb/db.go`, `compact.go`.
//!
//! A sample is a number and a time. Every block ever made is remembered with its samples and the bytes of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use pillion_ship::Ulid;
use serde_json::Value;

use super::random::Random;

pub(crate) const HOUR_MS: i64 = 3_600_000;
pub(crate) const RANGE_MS: i64 = 2 * HOUR_MS;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
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
    parents: Vec<Ulid>,
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
}

/// A block that is being copied into the data directory, file by file.
struct Copying {
    ulid: Ulid,
    /// What is still to be written: a file and the rest of its bytes.
    left: Vec<(String, Vec<u8>)>,
}

pub(crate) struct Prometheus {
    settings: Settings,
    dir: PathBuf,
    tag: String,
    n_named: u64,
    pub(crate) now_ms: i64,
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
    copying: Vec<Copying>,
    /// Whether its disk has no room.
    pub(crate) is_full: bool,
    /// Whether it dies before it removes what it has compacted.
    pub(crate) dies_next: bool,
    /// Dead until time passes.
    is_down: bool,
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

    fn sample(&mut self, time_ms: i64) -> usize {
        self.samples.push((time_ms, Duty::Unseen));
        self.samples.len() - 1
    }

    /// Cuts, compacts and deletes.
    fn work(&mut self, random: &mut Random) {
        let mut has_cut = false;
        while !self.is_full && !self.is_down {
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

    fn cut(&mut self, ids: Vec<usize>, min_ms: i64, max_ms: i64, hint: &str, random: &mut Random) {
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
        if self.is_full || self.is_down {
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

    /// Somebody makes blocks of old samples and moves or copies them into the data directory.
    pub(crate) fn backfill(&mut self, is_slow: bool, random: &mut Random) {
        if self.is_full {
            return;
        }
        let back_ms = i64::try_from(random.between(4, 40)).unwrap() * HOUR_MS;
        let from_ms = window(self.now_ms - back_ms);
        let samples: BTreeSet<usize> =
            (0..random.between(1, 3)).map(|n| self.sample(from_ms + i64::try_from(n).unwrap() * 1000)).collect();
        let ulid = self.name();
        // Some programs write blocks that look compacted.
        let level = if random.percent(25) { 2 } else { 1 };
        let draft = Draft { samples, min_ms: from_ms, max_ms: from_ms + RANGE_MS, level, ..Draft::default() };
        self.make(ulid, draft, random);
        if !is_slow {
            self.rename_in(ulid);
            return;
        }
        let dir = self.block_dir(ulid);
        std::fs::create_dir_all(dir.join("chunks")).unwrap();
        self.live.insert(ulid);
        let mut left: Vec<_> = self.made[&ulid].files.clone().into_iter().collect();
        if random.percent(50) {
            // The order of rsync or cp: by name, with meta.json after index.
            left.reverse();
        }
        self.copying.push(Copying { ulid, left });
        self.go_on_copying(random);
    }

    /// Every copy makes some progress.
    pub(crate) fn go_on_copying(&mut self, random: &mut Random) {
        if self.is_full {
            return;
        }
        for mut copy in std::mem::take(&mut self.copying) {
            let dir = self.block_dir(copy.ulid);
            if !dir.is_dir() {
                continue;
            }
            let Some((name, bytes)) = copy.left.last_mut() else { continue };
            let n_bytes = if random.percent(50) { bytes.len() } else { bytes.len().div_ceil(2) };
            let rest = bytes.split_off(n_bytes);
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(dir.join(&*name)).unwrap();
            std::io::Write::write_all(&mut file, bytes).unwrap();
            *bytes = rest;
            if bytes.is_empty() {
                copy.left.pop();
            }
            if copy.left.is_empty() {
                let tick = self.tick;
                let made = self.made.get_mut(&copy.ulid).unwrap();
                (made.is_whole, made.born) = (true, tick);
            } else {
                self.copying.push(copy);
            }
        }
    }

    /// Waits for all copies.
    pub(crate) fn end_copying(&mut self, random: &mut Random) {
        while !self.copying.is_empty() {
            self.go_on_copying(random);
        }
    }

    /// `clean_tombstones` of the admin API: a block is written anew without what was deleted.
    pub(crate) fn clean_tombstones(&mut self, random: &mut Random) {
        let Some(old) = self.pick(random) else { return };
        if self.is_full || self.is_down {
            return;
        }
        let mut samples = self.made[&old].samples.clone();
        if samples.len() > 1
            && let Some(deleted) = samples.pop_first()
        {
            self.samples[deleted].1 = Duty::Forgiven;
        }
        let (min_ms, max_ms) = (self.made[&old].min_ms, self.made[&old].max_ms);
        let draft = Draft { samples, min_ms, max_ms, level: 1, parents: vec![old], ..Draft::default() };
        let ulid = self.name();
        self.make(ulid, draft, random);
        self.rename_in(ulid);
        self.reload();
    }

    /// A block that is whole and there.
    fn pick(&self, random: &mut Random) -> Option<Ulid> {
        let whole: Vec<Ulid> = self.whole().collect();
        random.pick(&whole)
    }

    /// The blocks that are whole, not damaged, and there.
    pub(crate) fn whole(&self) -> impl Iterator<Item = Ulid> + '_ {
        let is_whole = |ulid: &Ulid| self.made[ulid].is_whole && !self.made[ulid].is_damaged;
        self.live.iter().copied().filter(move |ulid| is_whole(ulid))
    }

    /// A block loses a file, or has an empty one in its place. What is linked elsewhere stays as it is.
    pub(crate) fn damage(&mut self, random: &mut Random) {
        let Some(ulid) = self.pick(random) else { return };
        let name = random.pick(&["index", "chunks/000001", "meta.json"]).unwrap();
        let path = self.block_dir(ulid).join(name);
        std::fs::remove_file(&path).unwrap();
        if random.percent(50) {
            std::fs::write(&path, b"").unwrap();
        }
        let made = self.made.get_mut(&ulid).unwrap();
        (made.is_damaged, made.was_damaged) = (true, true);
    }

    /// Somebody sees to the damaged blocks: puts back what is missing, or removes them.
    pub(crate) fn repair(&mut self, may_remove: bool, random: &mut Random) {
        let damaged: Vec<Ulid> = self.live.iter().copied().filter(|ulid| self.made[ulid].is_damaged).collect();
        for ulid in damaged {
            if may_remove && random.percent(30) {
                self.remove(ulid);
                continue;
            }
            let dir = self.block_dir(ulid);
            let tick = self.tick;
            let made = self.made.get_mut(&ulid).unwrap();
            for (name, bytes) in &made.files {
                if std::fs::read(dir.join(name)).ok().as_ref() != Some(bytes) {
                    std::fs::write(dir.join(name).with_extension("new"), bytes).unwrap();
                    std::fs::rename(dir.join(name).with_extension("new"), dir.join(name)).unwrap();
                }
            }
            (made.is_damaged, made.born, made.n_seen) = (false, tick, 0);
        }
    }

    /// Removes what was compacted, and what is too old or too much.
    fn reload(&mut self) {
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

    fn remove(&mut self, ulid: Ulid) {
        if self.live.remove(&ulid) {
            let away = self.dir.join(format!("{ulid}.tmp-for-deletion"));
            std::fs::rename(self.block_dir(ulid), &away).unwrap();
            std::fs::remove_dir_all(away).unwrap();
        }
    }

    /// Compacts as long as there is something to compact.
    fn compact(&mut self, random: &mut Random) {
        while !self.is_full && !self.is_down {
            let plan = self.plan();
            if plan.is_empty() || plan.iter().any(|ulid| self.made[ulid].is_damaged) {
                return;
            }
            let of = |ulid: &Ulid| &self.made[ulid];
            let draft = Draft {
                samples: plan.iter().flat_map(|ulid| of(ulid).samples.clone()).collect(),
                min_ms: plan.iter().map(|ulid| of(ulid).min_ms).min().unwrap_or(0),
                max_ms: plan.iter().map(|ulid| of(ulid).max_ms).max().unwrap_or(0),
                level: plan.iter().map(|ulid| of(ulid).level).max().unwrap_or(0) + 1,
                sources: plan.iter().flat_map(|ulid| of(ulid).sources.clone()).collect(),
                parents: plan,
                hint: "",
            };
            let ulid = self.name();
            self.make(ulid, draft, random);
            self.rename_in(ulid);
            if std::mem::take(&mut self.dies_next) {
                self.is_down = true;
                return;
            }
            self.reload();
        }
    }

    /// What is compacted next: blocks that overlap, else those that fill a longer range.
    fn plan(&self) -> Vec<Ulid> {
        let listed = self.settings.has_delay_file.then(|| self.listed()).flatten();
        let is_held = |ulid: &Ulid| {
            self.made[ulid].level == 1 && listed.as_ref().is_some_and(|listed| !listed.contains(ulid.as_str()))
        };
        let whole = self.live.iter().copied().filter(|ulid| self.made[ulid].is_whole);
        let mut blocks: Vec<Ulid> = whole.take_while(|ulid| !is_held(ulid)).collect();
        blocks.sort_by_key(|ulid| self.made[ulid].min_ms);
        let overlapping = self.overlapping(&blocks);
        if !overlapping.is_empty() {
            return overlapping;
        }
        // The youngest may have been cut just now.
        blocks.pop();
        let ranges: &[i64] = if self.settings.equal_durations { &[] } else { &[3 * RANGE_MS, 9 * RANGE_MS] };
        let Some(high_ms) = blocks.last().map(|ulid| self.made[ulid].min_ms) else { return Vec::new() };
        for range_ms in ranges {
            let mut parts: BTreeMap<i64, Vec<Ulid>> = BTreeMap::new();
            for ulid in &blocks {
                let made = &self.made[ulid];
                let from_ms = made.min_ms - made.min_ms.rem_euclid(*range_ms);
                if made.max_ms <= from_ms + range_ms {
                    parts.entry(from_ms).or_default().push(*ulid);
                }
            }
            for part in parts.into_values().filter(|part| part.len() > 1) {
                let (min_ms, max_ms) = (self.made[&part[0]].min_ms, self.made[&part[part.len() - 1]].max_ms);
                if max_ms - min_ms == *range_ms || max_ms <= high_ms {
                    return part;
                }
            }
        }
        Vec::new()
    }

    fn overlapping(&self, blocks: &[Ulid]) -> Vec<Ulid> {
        let mut found = Vec::new();
        let Some(first) = blocks.first() else { return found };
        let mut end_ms = self.made[first].max_ms;
        for pair in blocks.windows(2) {
            let made = &self.made[&pair[1]];
            if made.min_ms < end_ms {
                if found.is_empty() {
                    found.push(pair[0]);
                }
                found.push(pair[1]);
            } else if !found.is_empty() {
                break;
            }
            end_ms = end_ms.max(made.max_ms);
        }
        found
    }

    /// The blocks in the shipper's file; `None` if it is missing or cannot be read, and then nothing is held up.
    fn listed(&self) -> Option<BTreeSet<String>> {
        let ledger: Value = serde_json::from_slice(&std::fs::read(self.ledger_path()).ok()?).ok()?;
        let names = ledger["uploaded"].as_array().into_iter().flatten();
        Some(names.filter_map(|name| Some(name.as_str()?.to_owned())).collect())
    }

    pub(crate) fn ledger_path(&self) -> PathBuf {
        self.dir.join("thanos.shipper.json")
    }

    pub(crate) fn block_dir(&self, ulid: Ulid) -> PathBuf {
        self.dir.join(ulid.as_str())
    }

    /// A new name, made of the time, the history, and a number that is only nearly in order.
    pub(crate) fn name(&mut self) -> Ulid {
        self.n_named += 1;
        let mut time = u64::try_from(self.now_ms).unwrap();
        let mut digits = [0_u8; 10];
        for digit in digits.iter_mut().rev() {
            *digit = ALPHABET[usize::try_from(time % 32).unwrap()];
            time /= 32;
        }
        let jumbled = Random::new(self.n_named).below(32);
        let digit = |n: u64| char::from(ALPHABET[usize::try_from(n % 32).unwrap()]);
        let tail = format!("{}{}{}", digit(jumbled), digit(self.n_named / 32), digit(self.n_named));
        let text = format!("{}{tail}{}", std::str::from_utf8(&digits).unwrap(), self.tag);
        Ulid::parse(&text).unwrap_or_else(|| panic!("{text}"))
    }

    /// Makes the bytes of a block, in memory only.
    pub(crate) fn make(&mut self, ulid: Ulid, draft: Draft, random: &mut Random) {
        let Draft { samples, min_ms, max_ms, level, mut sources, parents, hint } = draft;
        if sources.is_empty() {
            sources.insert(ulid);
        }
        let mut files = BTreeMap::new();
        for n in 1..=random.between(1, 2) {
            let mut bytes = vec![0x85, 0xBD, 0x40, 0xDD, 1, 0, 0, 0];
            bytes.extend_from_slice(format!("{ulid} {n} {samples:?}").as_bytes());
            let size = if random.percent(20) { 1500 } else { 60 };
            bytes.resize(bytes.len() + size, b'.');
            files.insert(format!("chunks/{n:06}"), bytes);
        }
        files.insert("index".to_owned(), format!("index of {ulid} {samples:?}").into_bytes());
        files.insert("tombstones".to_owned(), vec![0x0B, 0xA3, 0x0B, 0xA3, 1]);
        let list = |ulids: &mut dyn Iterator<Item = &Ulid>| {
            ulids.map(|ulid| format!("\"{ulid}\"")).collect::<Vec<_>>().join(", ")
        };
        let mut meta = format!("{{\"ulid\": \"{ulid}\", \"minTime\": {min_ms}, \"maxTime\": {max_ms}, ");
        let n_samples = samples.len();
        let _ = write!(meta, "\"stats\": {{\"numSamples\": {n_samples}, \"numSeries\": 1, \"numChunks\": 1}}, ");
        let _ = write!(
            meta,
            "\"compaction\": {{\"level\": {level}, \"sources\": [{}], \"parents\": [",
            list(&mut sources.iter())
        );
        for (idx, parent) in parents.iter().enumerate() {
            let comma = if idx == 0 { "" } else { ", " };
            let _ = write!(meta, "{comma}{{\"ulid\": \"{parent}\", \"minTime\": {min_ms}, \"maxTime\": {max_ms}}}");
        }
        let hints = if hint.is_empty() { String::new() } else { format!(", \"hints\": [\"{hint}\"]") };
        let _ = write!(meta, "]{hints}}}, \"version\": 1}}");
        files.insert("meta.json".to_owned(), meta.into_bytes());
        let made = Made {
            samples,
            files,
            min_ms,
            max_ms,
            level,
            sources,
            parents,
            is_whole: false,
            is_damaged: false,
            was_damaged: false,
            born: self.tick,
            n_seen: 0,
        };
        self.made.insert(ulid, made);
    }

    /// Writes a block under a temporary name and renames it.
    fn rename_in(&mut self, ulid: Ulid) {
        let temporary = self.dir.join(format!("{ulid}.tmp-for-creation"));
        let made = self.made.get_mut(&ulid).unwrap();
        std::fs::create_dir_all(temporary.join("chunks")).unwrap();
        for (name, bytes) in &made.files {
            std::fs::write(temporary.join(name), bytes).unwrap();
        }
        std::fs::rename(temporary, self.dir.join(ulid.as_str())).unwrap();
        (made.is_whole, made.born) = (true, self.tick);
        self.live.insert(ulid);
    }
}

/// A block before it has bytes.
#[derive(Default)]
pub(crate) struct Draft<'a> {
    pub(crate) samples: BTreeSet<usize>,
    pub(crate) min_ms: i64,
    pub(crate) max_ms: i64,
    pub(crate) level: i64,
    pub(crate) sources: BTreeSet<Ulid>,
    pub(crate) parents: Vec<Ulid>,
    pub(crate) hint: &'a str,
}

fn window(time_ms: i64) -> i64 {
    time_ms - time_ms.rem_euclid(RANGE_MS)
}
