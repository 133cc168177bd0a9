//! What a Series call costs, measured from outside: a process that replays Prometheus's answer from memory, the real
//! binary, and a process that drains it over gRPC. Prints a table and the aims, and writes both as JSON.
//!
//! Beside Pillion, in the same run: a relay that copies the same bytes between two sockets (the floor), and the way
//! Thanos goes, which decodes, sorts and encodes everything with ordinary protobuf structs. Every measurement has a
//! fresh process, and nothing else runs meanwhile.
//!
//! `BENCH_SCALE=0.01` makes the workloads smaller; below a tenth, CPU time is too coarse to compare. `BENCH_ONLY=text`
//! runs the settings that contain the text, `BENCH_SKIP=text` leaves them out, and `BENCH_JSON=path` says where the JSON
//! goes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp
)]

mod drain;
mod generator;
mod measure;
mod report;
mod role;
#[allow(dead_code, clippy::print_stderr)]
#[path = "../../tests/support/mod.rs"]
mod support;
mod workload;
mod yardsticks;

use drain::Drained;
use measure::{Before, MemoryLimit, settle};
use report::{Row, Subject};
use role::Role;
use support::sidecar::Sidecar;
use workload::{WORKLOADS, Workload};

/// Memory that a limited process may hold. `Units:` bytes.
const LIMIT_BYTES: u64 = 64 * 1024 * 1024;
const BATCH: usize = 64;

/// One measurement to be made.
#[derive(Clone, Copy)]
struct Setting {
    subject: Subject,
    batch: usize,
    n_external_labels: usize,
    is_slow: bool,
    n_calls: usize,
    is_limited: bool,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["generator"] => generator::run(),
        ["drain", args @ ..] => drain::run(args),
        ["drain-raw", args @ ..] => drain::run_raw(args),
        ["relay", args @ ..] => yardsticks::relay(args),
        ["buffered", args @ ..] => yardsticks::buffered(args),
        // cargo adds `--bench`.
        _ => run(),
    }
}

fn run() {
    let scale: f64 = std::env::var("BENCH_SCALE").map_or(1.0, |scale| scale.parse().expect("BENCH_SCALE is a number"));
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let skip = std::env::var("BENCH_SKIP").unwrap_or_default();
    let mut rows = Vec::new();
    println!("{}", Row::header());
    for full in WORKLOADS {
        let mut bench = Bench { scale, full, workload: full.scaled(scale), generator: None };
        for setting in settings(&full) {
            let words = bench.row(setting).setting();
            if words.contains(&only) && (skip.is_empty() || !words.contains(&skip)) {
                let row = bench.measure(setting);
                println!("{}", row.line());
                rows.push(row);
            }
        }
    }
    let aims = report::aims(&rows);
    println!();
    for aim in &aims {
        let word = if aim.reached { "reached" } else { "MISSED " };
        println!("{word}  {:>9.2} of {:>6.2}  {}", aim.figure, aim.at_most, aim.what);
    }
    let path = std::env::var("BENCH_JSON").unwrap_or_else(|_| "target/bench.json".into());
    let json = serde_json::json!({"scale": scale, "rows": rows, "aims": aims});
    if let Some(dir) = std::path::Path::new(&path).parent() {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::write(&path, serde_json::to_string_pretty(&json).unwrap()).unwrap();
    println!("\nwritten to {path}");
}

/// Yardsticks first, then every number of external labels with a fast client; a slow client, many calls and a tight
/// memory limit with one external label.
fn settings(workload: &Workload) -> Vec<Setting> {
    let plain = Setting {
        subject: Subject::Pillion,
        batch: BATCH,
        n_external_labels: 1,
        is_slow: false,
        n_calls: 1,
        is_limited: false,
    };
    let mut settings = vec![Setting { subject: Subject::Relay, ..plain }];
    for n_external_labels in [0, 1, 3] {
        for batch in [BATCH, 0] {
            for subject in [Subject::Buffered, Subject::Pillion] {
                settings.push(Setting { subject, batch, n_external_labels, ..plain });
            }
        }
    }
    for batch in [BATCH, 0] {
        settings.push(Setting { batch, is_slow: true, ..plain });
        if workload.name == "1000000x1" {
            settings.push(Setting { batch, n_calls: 16, ..plain });
            settings.push(Setting { batch, is_limited: true, ..plain });
        }
    }
    settings
}

struct Bench {
    scale: f64,
    full: Workload,
    workload: Workload,
    /// Loaded when first needed.
    generator: Option<Role>,
}

impl Bench {
    fn row(&self, setting: Setting) -> Row {
        Row {
            subject: setting.subject,
            workload: self.full.name.to_owned(),
            n_series: self.workload.n_series,
            batch: setting.batch,
            n_external_labels: setting.n_external_labels,
            is_slow: setting.is_slow,
            n_calls: setting.n_calls,
            is_limited: setting.is_limited,
            wall_seconds: 0.0,
            cpu_seconds: 0.0,
            idle_rss_bytes: 0,
            peak_rss_bytes: 0,
            first_message_ms: 0.0,
            n_bytes: 0,
            n_messages: 0,
            error: String::new(),
        }
    }

    fn measure(&mut self, setting: Setting) -> Row {
        let load = format!("load {}@{}", self.full.name, self.scale);
        let labels_only = if self.full.n_chunks == 0 { "true" } else { "false" };
        let row = self.row(setting);
        let generator = self.generator.get_or_insert_with(|| {
            let mut generator = Role::serve(&["generator"]);
            generator.ask(&load);
            generator
        });
        let n_labels = setting.n_external_labels.to_string();
        let (batch, n_calls) = (setting.batch.to_string(), setting.n_calls.to_string());
        let slow = setting.is_slow.to_string();
        let drain = |address: &str| Role::run(&["drain", address, &batch, labels_only, &n_calls, &slow]);
        match setting.subject {
            Subject::Relay => {
                let relay = Role::serve(&["relay", &generator.address]);
                finish(row, generator, relay.pid(), || Role::run(&["drain-raw", &relay.address, labels_only]))
            }
            Subject::Buffered => {
                let buffered = Role::serve(&["buffered", &generator.address, &n_labels]);
                finish(row, generator, buffered.pid(), || drain(&buffered.address))
            }
            Subject::Pillion => {
                // Declared before the process, so that it goes after it.
                let limit;
                let sidecar = start(generator, setting.n_external_labels);
                if setting.is_limited {
                    limit = MemoryLimit::put(sidecar.pid(), LIMIT_BYTES);
                    if let Err(why) = &limit {
                        return Row { error: format!("no memory limit can be set here: {why}"), ..row };
                    }
                }
                // A series split over frames may count once or per part, a chunk only once.
                let (counter, n_each) = match self.workload.n_chunks {
                    0 => ("thanos_store_server_series_requested_sum", 1),
                    n => ("thanos_store_server_chunks_requested_sum", n),
                };
                let n_expected = (row.n_series * row.n_calls * n_each) as f64;
                let mut row = finish(row, generator, sidecar.pid(), || drain(&sidecar.grpc.to_string()));
                if row.error.is_empty() {
                    let n_seen = sidecar.metric(counter);
                    assert!(n_seen == n_expected, "{counter} is {n_seen} and should be {n_expected}");
                } else if sidecar.get("/-/healthy").is_none() {
                    row.error.push_str(" (the process ended)");
                }
                if !row.error.is_empty() {
                    row.error.push_str(&format!("; its log ends in: {}", tail(&sidecar.log())));
                }
                row
            }
        }
    }
}

/// The last lines of a log in one.
fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}

/// Pillion beside a Prometheus with this many external labels. It refuses to start without any, so the last one goes
/// when it runs.
fn start(generator: &mut Role, n_external_labels: usize) -> Sidecar {
    generator.ask(&format!("labels {}", n_external_labels.max(1)));
    let sidecar = Sidecar::ready(&format!("http://{}", generator.address), &["--prometheus.get_config_interval=1s"]);
    if n_external_labels == 0 {
        generator.ask("labels 0");
        sidecar.wait_line("external labels of Prometheus changed");
    }
    sidecar
}

/// Drains once and fills in what it took.
fn finish(row: Row, generator: &mut Role, pid: u32, drain: impl FnOnce() -> String) -> Row {
    generator.ask("first");
    let before = Before::of(pid);
    let drained = Drained::parse(&drain());
    settle(pid);
    let used = before.used();
    let first_frame_ns: u64 = generator.ask("first").parse().unwrap();
    Row {
        wall_seconds: drained.wall_ns as f64 / 1e9,
        cpu_seconds: used.cpu_seconds,
        idle_rss_bytes: before.rss_bytes,
        peak_rss_bytes: used.peak_rss_bytes,
        first_message_ms: drained.first_ns.saturating_sub(first_frame_ns) as f64 / 1e6,
        n_bytes: drained.n_bytes,
        n_messages: drained.n_messages,
        error: drained.error,
        ..row
    }
}
