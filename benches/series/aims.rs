//! What the figures should be. Pure.

use serde::Serialize;

use crate::report::{Calls, Row};
use crate::subject::Subject;

/// An aim, and what was reached.
#[derive(Debug, Serialize)]
pub struct Aim {
    what: String,
    figure: f64,
    at_most: f64,
    reached: bool,
}

impl Aim {
    pub fn line(&self) -> String {
        let word = if self.reached { "reached" } else { "MISSED " };
        format!("{word}  {:>9.3} of {:>6.3}  {}", self.figure, self.at_most, self.what)
    }
}

/// What is aimed at, where the rows can tell.
pub fn aims(rows: &[Row], calls: &[Calls]) -> Vec<Aim> {
    let mut aims = Vec::new();
    for row in rows.iter().filter(|row| row.subject == Subject::Pillion) {
        let mut aim = |what: &str, figure: f64, at_most: f64| {
            let reached = figure <= at_most && row.error.is_empty();
            aims.push(Aim { what: format!("{what}: {}", row.setting()), figure, at_most, reached });
        };
        match row.group.split(' ').next() {
            Some("streams") => stream(row, rows, &mut aim),
            Some("real") => {
                if let Some(direct) = row.beside(Subject::Direct, rows) {
                    aim("wall clock over reading directly", row.wall_seconds / direct.wall_seconds, 1.0);
                }
                if let Some(thanos) = row.beside(Subject::Thanos, rows) {
                    aim("CPU over Thanos's", row.cpu_over(thanos), 1.0 / 8.0);
                }
            }
            _ => label(row, rows, &mut aim),
        }
    }
    for row in calls.iter().filter(|row| row.subject == Subject::Pillion) {
        let Some(thanos) = row.beside(Subject::Thanos, calls) else { continue };
        for (what, figure) in [
            ("p50 over Thanos's", row.p50_ms / thanos.p50_ms),
            ("CPU over Thanos's", row.cpu_ms_per_call / thanos.cpu_ms_per_call.max(0.001)),
        ] {
            let reached = figure <= 0.7 && row.error.is_empty();
            aims.push(Aim { what: format!("{what}: {}", row.setting), figure, at_most: 0.7, reached });
        }
    }
    aims
}

fn stream(row: &Row, rows: &[Row], aim: &mut impl FnMut(&str, f64, f64)) {
    let is_million = row.workload == "1000000x1";
    let is_labels = row.workload.ends_with("labels");
    if row.is_limited {
        aim("completes under a limit (0 is yes)", if row.error.is_empty() { 0.0 } else { 1.0 }, 0.0);
        return;
    }
    // Labels alone are sorted in memory and in a file.
    aim(
        "growth in MiB",
        row.growth_mib(),
        if row.n_calls > 1 {
            64.0
        } else if is_labels {
            24.0
        } else {
            16.0
        },
    );
    if row.is_slow || row.n_calls > 1 {
        return;
    }
    if !is_labels {
        aim("first message in ms after first frame", row.first_message_ms, 10.0);
    }
    if row.batch <= 1 {
        if is_million {
            aim("us of CPU per series", row.micros_per_series(), 8.0);
        }
        return;
    }
    if let Some(relay) = row.beside(Subject::Relay, rows).filter(|_| !is_labels) {
        aim("CPU over the relay's", row.cpu_over(relay), if is_million { 10.0 } else { 2.5 });
    }
    if let Some(thanos) = row.beside(Subject::Thanos, rows).filter(|_| is_million || is_labels) {
        aim("CPU over Thanos's", row.cpu_over(thanos), if is_labels { 1.0 / 4.0 } else { 1.0 / 10.0 });
    }
}

fn label(row: &Row, rows: &[Row], aim: &mut impl FnMut(&str, f64, f64)) {
    if row.workload.ends_with("values") {
        aim("growth in MiB", row.growth_mib(), 32.0);
        if let Some(thanos) = row.beside(Subject::Thanos, rows) {
            aim("CPU over Thanos's", row.cpu_over(thanos), 1.0 / 3.0);
        }
    } else if row.n_before > 0 {
        let first = rows.iter().find(|other| {
            (other.subject, &other.group, &other.workload, other.n_before)
                == (row.subject, &row.group, &row.workload, 0)
        });
        if let Some(first) = first {
            let peak = |row: &Row| row.peak_rss_bytes as f64;
            aim("peak over the first call's", peak(row) / peak(first), 1.1);
        }
    }
}
