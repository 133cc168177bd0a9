//! How blocks come to be on the disk and what befalls them there: written and renamed, copied in file by file, written
//! anew without what was deleted, damaged and mended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use pillion_ship::Ulid;

use super::prometheus::{Duty, HOUR_MS, Made, Prometheus, RANGE_MS, window};
use super::random::Random;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

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

/// A block that is being copied into the data directory, file by file.
pub(super) struct Copying {
    ulid: Ulid,
    /// What is still to be written: a file and the rest of its bytes.
    left: Vec<(String, Vec<u8>)>,
}

impl Prometheus {
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
        let level = if random.percent(25) && self.settings.compacts_early { 2 } else { 1 };
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

    /// Every copy makes some progress, also on a full disk: its room was reserved when it began. A copy that stands
    /// still for two ticks looks like a block that is done.
    pub(crate) fn go_on_copying(&mut self, random: &mut Random) {
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
        if self.is_stuck() {
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
        let n_chunks = random.between(1, 2);
        for n in 1..=n_chunks {
            let mut data = format!("{ulid} {n} {samples:?}").into_bytes();
            let size = if random.percent(20) { 1500 } else { 60 };
            data.resize(data.len() + size, b'.');
            files.insert(format!("chunks/{n:06}"), segment(&data));
        }
        files.insert("index".to_owned(), index(format!("index of {ulid} {samples:?}").into_bytes()));
        files.insert("tombstones".to_owned(), vec![0x0B, 0xA3, 0x0B, 0xA3, 1]);
        let list = |ulids: &mut dyn Iterator<Item = &Ulid>| {
            ulids.map(|ulid| format!("\"{ulid}\"")).collect::<Vec<_>>().join(", ")
        };
        let mut meta = format!("{{\"ulid\": \"{ulid}\", \"minTime\": {min_ms}, \"maxTime\": {max_ms}, ");
        let n_samples = samples.len();
        let _ =
            write!(meta, "\"stats\": {{\"numSamples\": {n_samples}, \"numSeries\": 1, \"numChunks\": {n_chunks}}}, ");
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
            n_labels: self.n_labels,
            n_pinned: None,
            is_owed: false,
        };
        self.made.insert(ulid, made);
    }

    /// Writes a block under a temporary name and renames it.
    pub(super) fn rename_in(&mut self, ulid: Ulid) {
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

/// A file of one chunk, framed and summed as Prometheus does.
fn segment(data: &[u8]) -> Vec<u8> {
    let mut file = vec![0x85, 0xBD, 0x40, 0xDD, 1, 0, 0, 0];
    let mut length = data.len();
    while length >= 0x80 {
        file.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    file.push(u8::try_from(length).unwrap());
    let content = [&[1], data].concat();
    file.extend_from_slice(&content);
    file.extend_from_slice(&crc32c::crc32c(&content).to_be_bytes());
    file
}

/// An index with a table of contents at its end.
fn index(mut file: Vec<u8>) -> Vec<u8> {
    let contents = [0_u8; 48];
    file.extend_from_slice(&contents);
    file.extend_from_slice(&crc32c::crc32c(&contents).to_be_bytes());
    file
}
