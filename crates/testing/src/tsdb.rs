//! A TSDB folder with plausible blocks. Their index and chunks have no samples, so Prometheus cannot read them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use pillion_ship::Ulid;
use tempfile::TempDir;

/// A data directory that is removed with the value.
pub struct Tsdb {
    dir: TempDir,
}

/// What a block is like; [`Block::new`] gives an ordinary one.
pub struct Block {
    /// Its number, from which its name is made.
    pub n: u32,
    pub min_time_ms: i64,
    pub max_time_ms: i64,
    pub level: i64,
    /// The blocks of level 1 it was made of; itself if there are none.
    pub sources: Vec<u32>,
    pub n_samples: u64,
    /// Size of each file in `chunks/`.
    pub chunk_bytes: Vec<usize>,
    /// Members added to meta.json, each with a comma before it.
    pub more_meta: String,
}

/// Two hours, the length of a block.
pub const BLOCK_MS: i64 = 7_200_000;

/// The name of block `n`.
pub fn ulid(n: u32) -> Ulid {
    Ulid::parse(&format!("01J{n:023}")).unwrap()
}

impl Block {
    /// Block `n` of a chain of two-hour blocks of level 1, with two chunk files.
    pub fn new(n: u32) -> Self {
        let min_time_ms = i64::from(n) * BLOCK_MS;
        Block {
            n,
            min_time_ms,
            max_time_ms: min_time_ms + BLOCK_MS,
            level: 1,
            sources: Vec::new(),
            n_samples: 240,
            chunk_bytes: vec![3000, 500],
            more_meta: String::new(),
        }
    }

    /// meta.json as Prometheus writes it.
    pub fn meta_json(&self) -> String {
        let ulid = ulid(self.n);
        let mut text = String::from("{\n");
        let _ = writeln!(text, "\t\"ulid\": \"{ulid}\",");
        let _ = writeln!(text, "\t\"minTime\": {},\n\t\"maxTime\": {},", self.min_time_ms, self.max_time_ms);
        if self.n_samples > 0 {
            let (samples, chunks) = (self.n_samples, self.chunk_bytes.len() * 2);
            let _ = writeln!(
                text,
                "\t\"stats\": {{\n\t\t\"numSamples\": {samples},\n\t\t\"numSeries\": 2,\n\t\t\"numChunks\": {chunks}\n\t}},"
            );
        } else {
            text.push_str("\t\"stats\": {},\n");
        }
        let level = self.level;
        let own = [self.n];
        let sources = if self.sources.is_empty() { own.as_slice() } else { &self.sources };
        let names = sources.iter().map(|n| format!("\t\t\t\"{}\"", self::ulid(*n))).collect::<Vec<_>>().join(",\n");
        let _ =
            writeln!(text, "\t\"compaction\": {{\n\t\t\"level\": {level},\n\t\t\"sources\": [\n{names}\n\t\t]\n\t}},");
        let _ = write!(text, "\t\"version\": 1{}\n}}\n", self.more_meta);
        text
    }
}

/// Makes a block two hours old, as most are when a sidecar starts: nobody can be writing it any more.
pub fn age(dir: &Path) {
    let time = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    for folder in [dir.join("chunks"), dir.to_owned()] {
        for entry in std::fs::read_dir(&folder).unwrap() {
            std::fs::File::open(entry.unwrap().path()).unwrap().set_modified(time).unwrap();
        }
        std::fs::File::open(&folder).unwrap().set_modified(time).unwrap();
    }
}

impl Default for Tsdb {
    fn default() -> Self {
        Self::new()
    }
}

impl Tsdb {
    /// An empty data directory with a WAL.
    pub fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap())
    }

    /// A data directory with a WAL in a given folder.
    pub fn in_dir(dir: TempDir) -> Self {
        std::fs::create_dir(dir.path().join("wal")).unwrap();
        std::fs::write(dir.path().join("wal/00000000"), b"wal").unwrap();
        Tsdb { dir }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The folder of block `n`.
    pub fn block_dir(&self, n: u32) -> PathBuf {
        self.path().join(ulid(n).as_str())
    }

    /// Writes a block under its name.
    pub fn add(&self, block: &Block) -> Ulid {
        self.add_as(block, ulid(block.n).as_str())
    }

    /// Writes a block into a folder of another name.
    pub fn add_as(&self, block: &Block, name: &str) -> Ulid {
        let dir = self.path().join(name);
        std::fs::create_dir_all(dir.join("chunks")).unwrap();
        for (idx, size) in block.chunk_bytes.iter().enumerate() {
            let name = format!("chunks/{:06}", idx + 1);
            std::fs::write(dir.join(name), content(&[0x85, 0xBD, 0x40, 0xDD, 1, 0, 0, 0], *size, block.n)).unwrap();
        }
        std::fs::write(dir.join("index"), content(&[0xBA, 0xAA, 0xD7, 0x00, 2], 700, block.n)).unwrap();
        std::fs::write(dir.join("tombstones"), [0x0B, 0xA3, 0x0B, 0xA3, 1]).unwrap();
        std::fs::write(dir.join("meta.json"), block.meta_json()).unwrap();
        age(&dir);
        ulid(block.n)
    }

    /// The ledger's text without the time of the last upload; empty if there is none.
    pub fn ledger(&self) -> String {
        Self::ledger_of(&self.path().join("thanos.shipper.json"))
    }

    /// The text of any ledger without the time of the last upload.
    pub fn ledger_of(path: &Path) -> String {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        match text.split_once(",\n\t\"pillion_last_upload\": ") {
            Some((before, time)) => {
                let (time, after) = time.split_once('\n').unwrap();
                time.trim_matches('"').parse::<jiff::Timestamp>().unwrap();
                format!("{before}\n{after}")
            }
            None => text,
        }
    }

    /// Everything in the folder of claims.
    pub fn staged(&self) -> Vec<String> {
        tree(&self.path().join("thanos/upload"))
    }
}

/// A temporary folder, in memory where possible, for tests that sync thousands of times and do not depend on the disk.
pub fn fast_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// `head`, then bytes that differ from place to place and from block to block.
fn content(head: &[u8], size: usize, n: u32) -> Vec<u8> {
    let mut state = u64::from(n) + 1;
    let mut bytes = head.to_vec();
    bytes.resize_with(size, || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    });
    bytes
}

/// The text that the ledger must have: the listed blocks, and those of them that are not in the bucket.
pub fn ledger_text(listed: &[u32], unshipped: &[u32]) -> String {
    let names = |blocks: &[u32]| {
        let lines: Vec<String> = blocks.iter().map(|n| format!("\t\t\"{}\"", ulid(*n))).collect();
        format!("[\n{}\n\t]", lines.join(",\n"))
    };
    let uploaded = if listed.is_empty() { "null".to_owned() } else { names(listed) };
    let more =
        if unshipped.is_empty() { String::new() } else { format!(",\n\t\"pillion_unshipped\": {}", names(unshipped)) };
    format!("{{\n\t\"version\": 1,\n\t\"uploaded\": {uploaded}{more}\n}}\n")
}

/// The names of all files below `dir`, sorted; none if there is no such folder.
pub fn tree(dir: &Path) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found);
    found.sort();
    found
}

/// Every file and folder below `dir` and `dir` itself, with what changes when somebody touches it: size, time, content.
pub fn snapshot(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    fn walk(path: &Path, found: &mut Vec<String>) {
        let meta = std::fs::symlink_metadata(path).unwrap();
        let content = if meta.is_file() { std::fs::read(path).unwrap() } else { Vec::new() };
        let sum = content.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        found.push(format!("{} {} {:o} {} {times:?} {sum}", path.display(), meta.ino(), meta.mode(), content.len()));
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            walk(&entry.path(), found);
        }
    }
    let mut found = Vec::new();
    walk(dir, &mut found);
    found.sort();
    found
}
