//! What shipping a block costs, measured from outside: the real binary beside a fake Prometheus ships a block of 2 GiB
//! (four chunk files of 512 MiB) to a folder and to Ceph's S3 server. Prints a table and the aims, and writes both as
//! JSON.
//!
//! Beside Pillion, in the same run and just before it: `curl -T` of the same four files, over as many connections. Every
//! measurement has a fresh process and a fresh, empty server, and nothing else runs meanwhile.
//!
//! `BENCH_SCALE=0.1` makes the block smaller; `BENCH_RUNS=3` measures everything three times and keeps each setting's
//! fastest run; `BENCH_ONLY=text` and `BENCH_SKIP=text` choose settings by their words, and `BENCH_JSON=path` says where
//! the JSON goes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::float_cmp
)]

#[path = "../series/measure.rs"]
#[allow(dead_code)]
mod measure;
mod report;
#[allow(dead_code, clippy::print_stderr)]
#[path = "../../tests/support/mod.rs"]
mod support;
mod yardstick;

use std::path::{Path, PathBuf};
use std::time::Instant;

use measure::{Before, settle};
use pillion_testing::tsdb::{Block, Tsdb, tree, ulid};
use report::{Row, Setting, Target};
use rusty_s3::Method;
use support::fake_prometheus::FakePrometheus;
use support::rgw::{Bucket, Rgw};
use support::sidecar::{PATIENCE, Sidecar, pause};

/// Of one chunk file, at full scale: the size at which Prometheus begins another.
const SEGMENT_BYTES: f64 = 512.0 * 1024.0 * 1024.0;
const N_SEGMENTS: usize = 4;

fn main() {
    let scale: f64 = std::env::var("BENCH_SCALE").map_or(1.0, |scale| scale.parse().expect("BENCH_SCALE is a number"));
    let n_runs: usize = std::env::var("BENCH_RUNS").map_or(1, |n| n.parse().expect("BENCH_RUNS is a number"));
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let skip = std::env::var("BENCH_SKIP").unwrap_or_default();

    // Beside the build, where there is room for the block and for its copy.
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bench = Bench::new(scratch.path(), (SEGMENT_BYTES * scale) as usize);
    println!("a block of {:.0} MiB in {N_SEGMENTS} chunk files", bench.n_bytes as f64 / report::MIB);
    let is_chosen = |words: &str| words.contains(&only) && (skip.is_empty() || !words.contains(&skip));
    let settings: Vec<Setting> = Setting::all().into_iter().filter(|setting| is_chosen(&setting.words())).collect();
    let mut rows: Vec<Row> = Vec::new();
    // All settings once, then all again: what else the machine does meanwhile does not hit one of them only.
    for run in 1..=n_runs {
        println!("{}  run {run} of {n_runs}", Row::header());
        for (idx, setting) in settings.iter().enumerate() {
            let row = bench.measure(*setting);
            println!("{}", row.line());
            match rows.get_mut(idx) {
                Some(best) if row.wall_seconds < best.wall_seconds => *best = row,
                Some(_) => {}
                None => rows.push(row),
            }
        }
    }
    if n_runs > 1 {
        println!("\n{}  the fastest runs", Row::header());
        rows.iter().for_each(|row| println!("{}", row.line()));
    }
    let aims = report::aims(&rows);
    println!();
    for aim in &aims {
        println!("{}", aim.line());
    }
    let path = std::env::var("BENCH_JSON").unwrap_or_else(|_| "target/bench-ship.json".into());
    let json =
        serde_json::json!({"scale": scale, "runs": n_runs, "block_bytes": bench.n_bytes, "rows": rows, "aims": aims});
    if let Some(dir) = Path::new(&path).parent() {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::write(&path, serde_json::to_string_pretty(&json).unwrap()).unwrap();
    println!("\nwritten to {path}");
}

struct Bench {
    /// What everything is made in.
    scratch: PathBuf,
    /// Where the block waits.
    block: PathBuf,
    /// Its chunk files and its index.
    n_bytes: u64,
}

impl Bench {
    fn new(scratch: &Path, segment_bytes: usize) -> Self {
        let tsdb = Tsdb::in_dir(tempfile::tempdir_in(scratch).unwrap());
        tsdb.add(&Block { chunk_bytes: vec![segment_bytes; N_SEGMENTS], ..Block::new(1) });
        let block = scratch.join("block");
        std::fs::rename(tsdb.block_dir(1), &block).unwrap();
        let shipped = tree(&block).into_iter().filter(|name| name.starts_with("chunks/") || name == "index");
        let n_bytes = shipped.map(|name| block.join(name).metadata().unwrap().len()).sum();
        // What the kernel has not written yet would be written while something is measured.
        std::process::Command::new("sync").status().unwrap();
        Bench { scratch: scratch.to_owned(), block, n_bytes }
    }

    fn chunk_files(&self) -> Vec<PathBuf> {
        (1..=N_SEGMENTS).map(|idx| self.block.join(format!("chunks/{idx:06}"))).collect()
    }

    /// One measurement, on a server of its own.
    fn measure(&self, setting: Setting) -> Row {
        match setting.target {
            Target::Folder => {
                let dir = tempfile::tempdir_in(&self.scratch).unwrap();
                let config = format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", dir.path().display());
                self.ship(setting, &config, |name| dir.path().join(name).metadata().unwrap().len())
            }
            Target::Rgw => {
                let Some(rgw) = Rgw::start_with(3 * self.n_bytes + (1 << 30)) else {
                    return Row { error: "there is no S3 server here".into(), ..Row::new(setting, self.n_bytes) };
                };
                let bucket = rgw.bucket();
                // The first object of a server takes a while, and so does the first upload in parts.
                bucket.put("warm", b"warm");
                bucket.request(Method::Post, "warm", &[("uploads", "")], &[], b"").unwrap();
                bucket.abort_uploads();
                if setting.is_curl {
                    return yardstick::curl(Row::new(setting, 0), &bucket, &self.chunk_files());
                }
                let config = bucket.config(rgw.endpoint(), &format!("send_content_md5: {}", setting.md5));
                self.ship(setting, &config, |name| size(&bucket, name))
            }
        }
    }

    /// Ships the block from a data directory of its own. `size` is asked for every object afterwards.
    fn ship(&self, setting: Setting, config: &str, size: impl Fn(&str) -> u64) -> Row {
        let tsdb = Tsdb::in_dir(tempfile::tempdir_in(&self.scratch).unwrap());
        let prometheus = FakePrometheus::start();
        let concurrency = format!("--shipper.upload-concurrency={}", setting.n_connections);
        let mut args =
            vec![format!("--tsdb.path={}", tsdb.path().display()), format!("--objstore.config={config}"), concurrency];
        args.extend(setting.sha256.then(|| "--hash-func=SHA256".to_owned()));
        let sidecar = Sidecar::ready(&prometheus.url(), &args.iter().map(String::as_str).collect::<Vec<_>>());
        settle(sidecar.pid());
        let before = Before::of(sidecar.pid());
        // By one rename, as Prometheus does it. The next tick finds it.
        std::fs::rename(&self.block, tsdb.block_dir(1)).unwrap();
        sidecar.wait_line("upload new block");
        let begun = Instant::now();
        // The ledger is written right after meta.json; looking at it costs the process nothing.
        while !tsdb.ledger().contains(ulid(1).as_str()) {
            assert!(begun.elapsed() < 10 * PATIENCE, "the block was not shipped:\n{}", sidecar.log());
            pause();
        }
        let wall_seconds = begun.elapsed().as_secs_f64();
        settle(sidecar.pid());
        let used = before.used();
        std::fs::rename(tsdb.block_dir(1), &self.block).unwrap();
        for name in tree(&self.block).iter().filter(|name| name.starts_with("chunks/") || *name == "index") {
            let shipped = size(&format!("{}/{name}", ulid(1)));
            assert_eq!(shipped, self.block.join(name).metadata().unwrap().len(), "{name} in the bucket");
        }
        assert!(sidecar.metric("thanos_shipper_uploads_total") == 1.0);
        Row {
            wall_seconds,
            cpu_seconds: used.cpu_seconds,
            idle_rss_bytes: before.rss_bytes,
            peak_rss_bytes: used.peak_rss_bytes,
            ..Row::new(setting, self.n_bytes)
        }
    }
}

fn size(bucket: &Bucket, name: &str) -> u64 {
    *bucket.list(name).get(name).unwrap_or_else(|| panic!("{name} is not in the bucket"))
}
