//! Large answers, from a process that replays Prometheus's from memory.

use crate::drain::Drained;
use crate::measure::{Before, MemoryLimit, settle};
use crate::options::{Options, Replay};
use crate::report::Row;
use crate::role::Role;
use crate::subject::{Running, Subject};
use crate::workload::{WORKLOADS, Workload};

/// Memory that a limited process may hold. `Units:` bytes.
const LIMIT_BYTES: u64 = 64 * 1024 * 1024;
/// What a querier asks for.
pub const BATCH: usize = 64;

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

pub fn run(options: &Options) -> Vec<Row> {
    let mut rows = Vec::new();
    for full in WORKLOADS {
        let mut bench = Bench { options, full, workload: full.scaled(options.scale), generator: None };
        for setting in settings(&full, options) {
            if options.wants(&bench.row(setting).setting()) {
                let row = bench.measure(setting);
                println!("{}", row.line());
                rows.push(row);
            }
        }
    }
    rows
}

/// Yardsticks first, then every number of external labels with a fast client; a slow client, many calls and a tight
/// memory limit with one external label.
fn settings(workload: &Workload, options: &Options) -> Vec<Setting> {
    let plain = Setting {
        subject: Subject::Pillion,
        batch: BATCH,
        n_external_labels: 1,
        is_slow: false,
        n_calls: 1,
        is_limited: false,
    };
    let sidecars = Subject::sidecars(options);
    let mut settings = vec![Setting { subject: Subject::Relay, ..plain }];
    for batch in [BATCH, 0] {
        settings.push(Setting { subject: Subject::Buffered, batch, ..plain });
        settings.extend(sidecars.iter().map(|subject| Setting { subject: *subject, batch, ..plain }));
        settings.extend([0, 3].map(|n_external_labels| Setting { batch, n_external_labels, ..plain }));
    }
    if workload.name == "1000000x1" {
        // Thanos would need as many times its memory.
        settings.extend(sidecars.iter().map(|subject| Setting { subject: *subject, n_calls: 4, ..plain }));
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

struct Bench<'a> {
    options: &'a Options,
    full: Workload,
    workload: Workload,
    /// Loaded when first needed.
    generator: Option<Role>,
}

impl Bench<'_> {
    fn row(&self, setting: Setting) -> Row {
        Row {
            subject: setting.subject,
            group: "streams".into(),
            workload: self.full.name.to_owned(),
            n_series: self.workload.n_series,
            batch: setting.batch,
            n_external_labels: setting.n_external_labels,
            is_slow: setting.is_slow,
            n_calls: setting.n_calls,
            n_before: 0,
            is_limited: setting.is_limited,
            ..Row::default()
        }
    }

    fn measure(&mut self, setting: Setting) -> Row {
        let load = format!("load {}@{}", self.full.name, self.options.scale);
        let labels_only = if self.full.n_chunks == 0 { "true" } else { "false" };
        let row = self.row(setting);
        let generator = self.generator.get_or_insert_with(|| {
            let mut generator = start_generator(self.options);
            generator.ask(&load);
            generator
        });
        let n_labels = setting.n_external_labels.to_string();
        let (batch, n_calls) = (setting.batch.to_string(), setting.n_calls.to_string());
        let slow = setting.is_slow.to_string();
        let drain = |address: &str| Role::run(&["drain", address, &batch, labels_only, &n_calls, &slow]);
        match setting.subject {
            Subject::Relay | Subject::Direct => {
                let relay = Role::serve(&["relay", &generator.address]);
                finish(row, generator, relay.pid(), || Role::run(&["drain-raw", &relay.address, labels_only]))
            }
            Subject::Buffered => {
                let buffered = Role::serve(&["buffered", &generator.address, &n_labels]);
                finish(row, generator, buffered.pid(), || drain(&buffered.address))
            }
            Subject::Pillion | Subject::Thanos => {
                // Declared before the process, so that it goes after it.
                let limit;
                let sidecar = start(setting.subject, generator, setting.n_external_labels, self.options);
                if setting.is_limited {
                    limit = MemoryLimit::put(sidecar.pid(), LIMIT_BYTES);
                    if let Err(why) = &limit {
                        return Row { error: format!("no memory limit can be set here: {why}"), ..row };
                    }
                }
                let row = finish(row, generator, sidecar.pid(), || drain(&sidecar.grpc()));
                check(row, &sidecar, self.workload.n_chunks)
            }
        }
    }
}

/// A process that replays as the options say.
pub fn start_generator(options: &Options) -> Role {
    let replay = if options.replay == Replay::Whole { "whole" } else { "flushed" };
    Role::serve(&["generator", replay])
}

/// A sidecar beside a Prometheus with this many external labels. It refuses to start without any, so the last one goes
/// when it runs.
fn start(subject: Subject, generator: &mut Role, n_external_labels: usize, options: &Options) -> Running {
    generator.ask(&format!("labels {}", n_external_labels.max(1)));
    let sidecar = Running::start(subject, &format!("http://{}", generator.address), options);
    if let (0, Running::Pillion(pillion)) = (n_external_labels, &sidecar) {
        generator.ask("labels 0");
        pillion.wait_line("external labels of Prometheus changed");
    }
    sidecar
}

/// Drains once and fills in what it took.
pub fn finish(row: Row, generator: &mut Role, pid: u32, drain: impl FnOnce() -> String) -> Row {
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

/// Pillion must have sent all of it; what went wrong is completed with the log.
fn check(mut row: Row, sidecar: &Running, n_chunks: usize) -> Row {
    if let (Running::Pillion(pillion), true) = (sidecar, row.error.is_empty()) {
        // A series split over frames may count once or per part, a chunk only once.
        let (counter, n_each) = match n_chunks {
            0 => ("thanos_store_server_series_requested_sum", 1),
            n => ("thanos_store_server_chunks_requested_sum", n),
        };
        let n_expected = (row.n_series * row.n_calls * n_each) as f64;
        let n_seen = pillion.metric(counter);
        assert!(n_seen == n_expected, "{counter} is {n_seen} and should be {n_expected}");
    }
    if !row.error.is_empty() {
        row.error.push_str(&format!("; its log ends in: {}", sidecar.log_tail()));
    }
    row
}
