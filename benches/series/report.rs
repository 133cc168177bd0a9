//! Rows, and how they are printed. Pure.

use serde::Serialize;

use crate::subject::Subject;

const MIB: f64 = 1024.0 * 1024.0;

/// One measurement of calls with large answers.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub subject: Subject,
    /// Which file measured it, and behind what: `streams`, `real 3.5`, `names`.
    pub group: String,
    pub workload: String,
    pub n_series: usize,
    /// Series per message that the client asks for.
    pub batch: usize,
    pub n_external_labels: usize,
    pub is_slow: bool,
    /// Calls at once.
    pub n_calls: usize,
    /// How many calls the process has answered before, if that matters.
    pub n_before: usize,
    /// Whether the process may hold no more than 64 MiB of memory.
    pub is_limited: bool,
    pub wall_seconds: f64,
    pub cpu_seconds: f64,
    pub idle_rss_bytes: u64,
    pub peak_rss_bytes: u64,
    /// From the first byte of data that Prometheus sent, or behind a real one from the request, to the first message at the
    /// client.
    pub first_message_ms: f64,
    pub n_bytes: u64,
    pub n_messages: u64,
    /// Why the call failed; empty if it did not.
    pub error: String,
}

impl Default for Row {
    fn default() -> Self {
        Row {
            subject: Subject::Pillion,
            group: String::new(),
            workload: String::new(),
            n_series: 0,
            batch: 0,
            n_external_labels: 0,
            is_slow: false,
            n_calls: 1,
            n_before: 0,
            is_limited: false,
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
}

/// One measurement of many small calls.
#[derive(Debug, Clone, Serialize)]
pub struct Calls {
    pub subject: Subject,
    pub setting: String,
    pub n_calls: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Of the sidecar; nothing for direct reading.
    pub cpu_ms_per_call: f64,
    pub error: String,
}

pub fn header() -> String {
    format!(
        "{:<9} {:<50} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "subject", "setting", "wall s", "cpu s", "us/series", "peak MiB", "+idle MiB", "first ms", "MiB out"
    )
}

pub fn calls_header() -> String {
    format!("{:<9} {:<50} {:>8} {:>8} {:>8} {:>12}", "subject", "setting", "calls", "p50 ms", "p99 ms", "cpu ms/call")
}

impl Row {
    /// The row's setting in words.
    pub fn setting(&self) -> String {
        let mut words = vec![format!("{} {}", self.group, self.workload), format!("{} ext", self.n_external_labels)];
        words.push(if self.batch > 1 { format!("batch {}", self.batch) } else { "unbatched".into() });
        if self.is_slow {
            words.push("slow".into());
        }
        if self.n_calls > 1 {
            words.push(format!("{} calls", self.n_calls));
        }
        if self.n_before > 0 {
            words.push(format!("after {}", self.n_before));
        }
        if self.is_limited {
            words.push("64 MiB limit".into());
        }
        words.join(", ")
    }

    pub fn line(&self) -> String {
        let line = format!(
            "{:<9} {:<50} {:>8.2} {:>8.2} {:>9.2} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
            self.subject.name(),
            self.setting(),
            self.wall_seconds,
            self.cpu_seconds,
            self.micros_per_series(),
            self.peak_rss_bytes as f64 / MIB,
            self.growth_mib(),
            self.first_message_ms,
            self.n_bytes as f64 / MIB,
        );
        if self.error.is_empty() { line } else { format!("{line}\n          FAILED: {}", self.error) }
    }

    pub fn micros_per_series(&self) -> f64 {
        self.cpu_seconds * 1e6 / (self.n_series * self.n_calls) as f64
    }

    pub fn growth_mib(&self) -> f64 {
        self.peak_rss_bytes.saturating_sub(self.idle_rss_bytes) as f64 / MIB
    }

    /// The same measurement of another subject. The relay knows nothing of labels, and one row of it stands for all.
    pub fn beside<'a>(&self, subject: Subject, rows: &'a [Row]) -> Option<&'a Row> {
        let key = |row: &Row| {
            let n_external_labels = if subject == Subject::Relay { 0 } else { row.n_external_labels };
            (row.batch, n_external_labels, row.is_slow, row.n_calls, row.n_before, row.is_limited)
        };
        rows.iter().find(|row| {
            row.subject == subject
                && row.error.is_empty()
                && (&row.group, &row.workload) == (&self.group, &self.workload)
                && key(row) == key(self)
        })
    }

    /// CPU over that of another; what is below the clock's tick counts as one.
    pub fn cpu_over(&self, other: &Row) -> f64 {
        self.cpu_seconds / other.cpu_seconds.max(0.01)
    }
}

impl Calls {
    pub fn line(&self) -> String {
        let Calls { subject, setting, n_calls, p50_ms, p99_ms, cpu_ms_per_call, error } = self;
        let name = subject.name();
        let line = format!("{name:<9} {setting:<50} {n_calls:>8} {p50_ms:>8.3} {p99_ms:>8.3} {cpu_ms_per_call:>12.3}");
        if error.is_empty() { line } else { format!("{line}\n          FAILED: {error}") }
    }

    pub fn beside<'a>(&self, subject: Subject, calls: &'a [Calls]) -> Option<&'a Calls> {
        calls.iter().find(|other| other.subject == subject && other.setting == self.setting && other.error.is_empty())
    }
}

/// Pillion's figures as shares of the others'.
pub fn ratios(rows: &[Row], calls: &[Calls]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |setting: &str, subject: Subject, shares: &[(&str, f64)]| {
        let shares: Vec<_> = shares.iter().map(|(what, share)| format!("{what} {share:.3}")).collect();
        lines.push(format!("of {:<9} {setting:<50} {}", subject.name(), shares.join(", ")));
    };
    let counts = |row: &&Row| row.subject == Subject::Pillion && row.error.is_empty() && row.n_before == 0;
    for row in rows.iter().filter(counts) {
        for subject in [Subject::Thanos, Subject::Relay, Subject::Direct, Subject::Buffered] {
            let Some(other) = row.beside(subject, rows) else { continue };
            let mut shares = vec![("wall", row.wall_seconds / other.wall_seconds)];
            if subject != Subject::Direct {
                shares.push(("CPU", row.cpu_over(other)));
            }
            if !matches!(subject, Subject::Direct | Subject::Relay) {
                shares.push(("growth", row.growth_mib() / other.growth_mib().max(0.1)));
                shares.push(("first message", row.first_message_ms / other.first_message_ms.max(0.001)));
            }
            line(&row.setting(), subject, &shares);
        }
    }
    for row in calls.iter().filter(|row| row.subject == Subject::Pillion && row.error.is_empty()) {
        for subject in [Subject::Thanos, Subject::Direct] {
            let Some(other) = row.beside(subject, calls) else { continue };
            let mut shares = vec![("p50", row.p50_ms / other.p50_ms), ("p99", row.p99_ms / other.p99_ms)];
            if subject == Subject::Thanos {
                shares.push(("CPU", row.cpu_ms_per_call / other.cpu_ms_per_call.max(0.001)));
            }
            line(&row.setting, subject, &shares);
        }
    }
    lines
}
