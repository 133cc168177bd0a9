//! Large answers behind each real Prometheus release that `scripts/prometheus.sh` provides, beside reading it directly.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::drain::Drained;
use crate::measure::{Before, settle};
use crate::options::Options;
use crate::report::Row;
use crate::role::Role;
use crate::streams::BATCH;
use crate::subject::{Running, Subject};
use crate::support::prometheus::{Prometheus, Release, Setup, releases};
use crate::workload::history;

/// Series at full size; each has one chunk.
const N_SERIES: usize = 150_000;
/// What a chunk holds. More would only make the blocks take longer.
const N_SAMPLES: i64 = 4;
/// Calls of each subject, in turns. The median of their wall clock counts, and the mean of their CPU.
const N_ROUNDS: usize = 7;
/// What `support/prometheus.rs` gives every Prometheus.
const N_EXTERNAL_LABELS: usize = 2;

pub fn run(options: &Options) -> Vec<Row> {
    let mut rows = Vec::new();
    let subjects: Vec<_> = [Subject::Direct].into_iter().chain(Subject::sidecars(options)).collect();
    let all = if options.may_want("real") { releases() } else { Vec::new() };
    for release in all {
        let group = format!("real {}.{}", release.version.0, release.version.1);
        if options.wants(&row(Subject::Pillion, &group, options).setting()) {
            for row in measure(&release, &group, &subjects, options) {
                println!("{}", row.line());
                rows.push(row);
            }
        }
    }
    rows
}

/// A Prometheus with this many series of one chunk each, some hours old.
pub fn prometheus(release: &Release, n_series: usize) -> Prometheus {
    let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // One block, whatever the time of day.
    let first = i64::try_from(now_seconds).unwrap() / 7200 * 7200 - 2 * 7200 + 60;
    Prometheus::start(release, &history(n_series, N_SAMPLES, first), Setup::default())
}

fn row(subject: Subject, group: &str, options: &Options) -> Row {
    Row {
        subject,
        group: group.into(),
        workload: format!("{N_SERIES}x1"),
        n_series: options.scaled(N_SERIES, 2),
        batch: BATCH,
        n_external_labels: N_EXTERNAL_LABELS,
        ..Row::default()
    }
}

fn measure(release: &Release, group: &str, subjects: &[Subject], options: &Options) -> Vec<Row> {
    let prometheus = prometheus(release, options.scaled(N_SERIES, 2));
    let url = prometheus.url();
    let address = url.trim_start_matches("http://");
    let start = |subject: &Subject| (*subject != Subject::Direct).then(|| Running::start(*subject, &url, options));
    let running: Vec<Option<Running>> = subjects.iter().map(start).collect();
    let batch = BATCH.to_string();
    let drain = |sidecar: &Option<Running>| match sidecar {
        None => Role::run(&["drain-raw", address, "false"]),
        Some(sidecar) => Role::run(&["drain", &sidecar.grpc(), &batch, "false", "1", "false"]),
    };
    let figures = |sidecar: &Option<Running>| sidecar.as_ref().map(|sidecar| Before::of(sidecar.pid()));
    let idle: Vec<Option<Before>> = running.iter().map(figures).collect();
    // The first answers have to be read from the disk.
    running.iter().for_each(|sidecar| drop(drain(sidecar)));
    let before: Vec<Option<Before>> = running.iter().map(figures).collect();
    let mut rounds: Vec<Vec<Drained>> = vec![Vec::new(); subjects.len()];
    for _ in 0..N_ROUNDS {
        for (sidecar, rounds) in running.iter().zip(&mut rounds) {
            rounds.push(Drained::parse(&drain(sidecar)));
            if let Some(sidecar) = sidecar {
                settle(sidecar.pid());
            }
        }
    }
    let rows = subjects.iter().zip(&running).zip(before.iter().zip(&idle)).zip(rounds);
    rows.map(|(((subject, sidecar), (before, idle)), rounds)| {
        let median = |of: fn(&Drained) -> u64| {
            let mut all: Vec<u64> = rounds.iter().map(of).collect();
            all.sort_unstable();
            all[all.len() / 2] as f64
        };
        let mut row = Row {
            wall_seconds: median(|drained| drained.wall_ns) / 1e9,
            first_message_ms: median(|drained| drained.first_ns.saturating_sub(drained.begun_ns)) / 1e6,
            n_bytes: rounds[0].n_bytes,
            n_messages: rounds[0].n_messages,
            error: rounds
                .iter()
                .find(|drained| !drained.error.is_empty())
                .map_or_else(String::new, |d| d.error.clone()),
            ..row(*subject, group, options)
        };
        if let (Some(before), Some(idle), Some(sidecar)) = (before, idle, sidecar) {
            let used = before.used();
            row.cpu_seconds = used.cpu_seconds / N_ROUNDS as f64;
            row.idle_rss_bytes = idle.rss_bytes;
            row.peak_rss_bytes = used.peak_rss_bytes;
            if !row.error.is_empty() {
                row.error.push_str(&format!("; its log ends in: {}", sidecar.log_tail()));
            }
        }
        row
    })
    .collect()
}
