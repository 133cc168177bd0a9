//! Rows, what they should be, and how they are printed.

use serde::Serialize;

const MIB: f64 = 1024.0 * 1024.0;

/// Who was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    Pillion,
    Relay,
    Buffered,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub subject: Subject,
    pub workload: String,
    pub n_series: usize,
    /// Series per message that the client asks for.
    pub batch: usize,
    pub n_external_labels: usize,
    pub is_slow: bool,
    pub n_calls: usize,
    /// Whether the process may hold no more than 64 MiB of memory.
    pub is_limited: bool,
    pub wall_seconds: f64,
    pub cpu_seconds: f64,
    pub idle_rss_bytes: u64,
    pub peak_rss_bytes: u64,
    /// From the first byte of data that Prometheus sent to the first message at the client.
    pub first_message_ms: f64,
    pub n_bytes: u64,
    pub n_messages: u64,
    /// Why the call failed; empty if it did not.
    pub error: String,
}

/// An aim, and what was reached.
#[derive(Debug, Serialize)]
pub struct Aim {
    pub what: String,
    pub figure: f64,
    pub at_most: f64,
    pub reached: bool,
}

impl Row {
    /// The row's setting in words.
    pub fn setting(&self) -> String {
        let mut words = vec![self.workload.clone(), format!("{} ext", self.n_external_labels)];
        words.push(if self.batch > 1 { format!("batch {}", self.batch) } else { "unbatched".into() });
        if self.is_slow {
            words.push("slow".into());
        }
        if self.n_calls > 1 {
            words.push(format!("{} calls", self.n_calls));
        }
        if self.is_limited {
            words.push("64 MiB limit".into());
        }
        words.join(", ")
    }

    pub fn header() -> String {
        format!(
            "{:<9} {:<44} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "subject", "setting", "wall s", "cpu s", "us/series", "peak MiB", "+idle MiB", "first ms", "MiB out"
        )
    }

    pub fn line(&self) -> String {
        let subject = format!("{:?}", self.subject).to_lowercase();
        let line = format!(
            "{subject:<9} {:<44} {:>8.2} {:>8.2} {:>9.2} {:>9.1} {:>9.1} {:>9.1} {:>9.1}",
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

    fn micros_per_series(&self) -> f64 {
        self.cpu_seconds * 1e6 / (self.n_series * self.n_calls) as f64
    }

    fn growth_mib(&self) -> f64 {
        self.peak_rss_bytes.saturating_sub(self.idle_rss_bytes) as f64 / MIB
    }
}

/// What the issue asks for, where the rows can tell.
pub fn aims(rows: &[Row]) -> Vec<Aim> {
    let mut aims = Vec::new();
    let mut aim = |row: &Row, what: &str, figure: f64, at_most: f64| {
        let reached = figure <= at_most && row.error.is_empty();
        aims.push(Aim { what: format!("{what}: {}", row.setting()), figure, at_most, reached });
    };
    for row in rows.iter().filter(|row| row.subject == Subject::Pillion) {
        let one_million_chunks = row.workload == "1000000x1";
        if row.is_limited {
            aim(row, "completes under a limit (0 is yes)", if row.error.is_empty() { 0.0 } else { 1.0 }, 0.0);
            continue;
        }
        if one_million_chunks {
            aim(row, "growth in MiB", row.growth_mib(), if row.n_calls > 1 { 96.0 } else { 16.0 });
        }
        if row.is_slow || row.n_calls > 1 {
            continue;
        }
        if !row.workload.ends_with("labels") {
            aim(row, "first message in ms after first frame", row.first_message_ms, 10.0);
        }
        if row.batch <= 1 {
            if one_million_chunks {
                aim(row, "us of CPU per series", row.micros_per_series(), 8.0);
            }
            continue;
        }
        let yardstick = |subject: Subject| {
            rows.iter().find(|other| {
                other.subject == subject
                    && other.workload == row.workload
                    && (subject == Subject::Relay
                        || (other.batch, other.n_external_labels) == (row.batch, row.n_external_labels))
            })
        };
        if let Some(relay) = yardstick(Subject::Relay) {
            aim(row, "CPU over the relay's", row.cpu_seconds / relay.cpu_seconds.max(0.01), 4.0);
        }
        if let Some(buffered) = yardstick(Subject::Buffered) {
            aim(row, "CPU over the buffered yardstick's", row.cpu_seconds / buffered.cpu_seconds.max(0.01), 0.25);
        }
    }
    aims
}
