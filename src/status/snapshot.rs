//! What `/api/v1/status` answers, member for member; docs/status-api.md describes it to its readers. Members are added and
//! never change their meaning, so that a reader takes what it knows, and what it misses is at its default. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The schema of this build. It would change if a member had to change its meaning.
pub(crate) const SCHEMA: u32 = 1;

/// The daemon at one moment. Times are RFC 3339 in UTC, spans are seconds, sizes are bytes; what is not known is null.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Snapshot {
    pub(crate) schema: u32,
    pub(crate) now: String,
    pub(crate) ready: bool,
    /// Why it is not.
    pub(crate) reason: Option<String>,
    pub(crate) build: Build,
    pub(crate) started: String,
    pub(crate) uptime_seconds: f64,
    pub(crate) prometheus: Prometheus,
    pub(crate) external_labels: BTreeMap<String, String>,
    pub(crate) time_range: TimeRange,
    pub(crate) calls: Calls,
    /// Null without a bucket.
    pub(crate) uploads: Option<Uploads>,
    pub(crate) connections: Connections,
    pub(crate) limits: Limits,
    pub(crate) configuration: Configuration,
    pub(crate) process: Process,
    pub(crate) recent_log: Vec<LogLine>,
}

/// What was built, from what, and by which compiler.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Build {
    pub(crate) version: String,
    pub(crate) revision: String,
    pub(crate) rustc: String,
}

/// The Prometheus beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Prometheus {
    /// Without user, password and query.
    pub(crate) url: String,
    /// Null until it has said so.
    pub(crate) version: Option<String>,
    /// Whether the last heartbeat was answered; null before the first one ended.
    pub(crate) up: Option<bool>,
    pub(crate) agent: bool,
    pub(crate) last_beat: Option<String>,
    pub(crate) last_beat_age_seconds: Option<f64>,
    pub(crate) last_error: Option<String>,
    pub(crate) last_error_time: Option<String>,
    pub(crate) last_error_age_seconds: Option<f64>,
    /// Null where it keeps blocks by size only, or has not said.
    pub(crate) retention_seconds: Option<f64>,
}

/// What can be asked for. Null is no bound.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TimeRange {
    pub(crate) min: Option<String>,
    pub(crate) min_ms: Option<i64>,
    pub(crate) max: Option<String>,
    pub(crate) max_ms: Option<i64>,
}

/// Calls of queriers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Calls {
    pub(crate) working: i64,
    pub(crate) queued: i64,
    pub(crate) waiting_for_client: i64,
    pub(crate) waiting_for_prometheus: i64,
    /// The longest first.
    pub(crate) open: Vec<Call>,
    /// Open calls that are not listed.
    pub(crate) more: usize,
}

/// A call that is being answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) peer: String,
    /// As PromQL writes them; empty where the method has none.
    pub(crate) matchers: String,
    pub(crate) seconds: f64,
    /// What was sent so far.
    pub(crate) series: u64,
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    /// Whether it waits for its client to take what was sent.
    pub(crate) waits_for_client: bool,
    pub(crate) trace_id: Option<String>,
}

/// What goes to the bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Uploads {
    pub(crate) bucket: String,
    pub(crate) pending: Pending,
    pub(crate) uploading: Option<Uploading>,
    pub(crate) set_aside: SetAside,
    /// Blocks that were given up since the start, because claims had used up their disk budget.
    pub(crate) given_up: u64,
    /// Bytes on the disk that are there only because blocks wait.
    pub(crate) claimed_bytes: u64,
    pub(crate) last_upload: Option<String>,
    pub(crate) last_upload_age_seconds: Option<f64>,
    pub(crate) last_look: Option<String>,
    pub(crate) last_look_age_seconds: Option<f64>,
    /// Why the last look ended before its last block.
    pub(crate) last_look_error: Option<String>,
    pub(crate) limits: UploadLimits,
}

/// Blocks that wait.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pending {
    pub(crate) blocks: usize,
    pub(crate) bytes: u64,
    /// Time since the last sample of the oldest one.
    pub(crate) oldest_age_seconds: Option<f64>,
    /// Time until Prometheus's retention takes the oldest one; below zero once it may have.
    pub(crate) retention_left_seconds: Option<f64>,
    /// In the order of their upload.
    pub(crate) list: Vec<Block>,
    /// Blocks that are not listed.
    pub(crate) more: usize,
}

/// A block that waits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Block {
    pub(crate) ulid: String,
    pub(crate) bytes: u64,
    /// The end of its last sample: since when it could have been shipped.
    pub(crate) since: String,
    pub(crate) age_seconds: f64,
    pub(crate) retention_left_seconds: Option<f64>,
    /// Whether Prometheus still has it.
    pub(crate) local: bool,
    /// Whether it is kept for the upload when Prometheus removes it.
    pub(crate) claimed: bool,
    /// What it waits for besides its turn.
    pub(crate) waits_for: Option<String>,
}

/// The block that goes up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Uploading {
    pub(crate) ulid: String,
    pub(crate) bytes: u64,
    /// What the bucket has of it.
    pub(crate) sent_bytes: u64,
    /// What it had of it before this attempt.
    pub(crate) resumed_bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) left_seconds: Option<f64>,
}

/// Blocks that cannot be shipped as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SetAside {
    pub(crate) blocks: usize,
    pub(crate) list: Vec<Aside>,
    pub(crate) more: usize,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Aside {
    /// Its folder.
    pub(crate) block: String,
    pub(crate) reason: String,
}

/// When and how fast uploads may go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct UploadLimits {
    /// Null is no limit.
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) jitter_seconds: f64,
    /// Times of day; none is always.
    pub(crate) windows: Vec<String>,
    /// Zero while uploads may go on.
    pub(crate) opens_in_seconds: f64,
}

/// Clients of the gRPC port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Connections {
    pub(crate) grpc: usize,
    pub(crate) grpc_max: usize,
}

/// The limits in force. Null is no limit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    pub(crate) concurrent_calls: usize,
    pub(crate) queued_calls: usize,
    pub(crate) bytes_in_flight: Option<usize>,
    pub(crate) request_series: Option<u64>,
    pub(crate) request_samples: Option<u64>,
    pub(crate) request_bytes: usize,
    pub(crate) stalled_call_seconds: Option<f64>,
}

/// What was read of files that can be read again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Configuration {
    /// Files that cannot be used, so that what they said before is.
    pub(crate) broken: Vec<BrokenFile>,
}

/// A configuration whose file cannot be used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BrokenFile {
    /// As the log calls it.
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// What the process takes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Process {
    pub(crate) resident_bytes: Option<i64>,
    /// Of the control group; null without one.
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) threads: Option<i64>,
    pub(crate) open_files: Option<i64>,
    pub(crate) open_files_max: Option<i64>,
}

/// A warning or an error of the log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LogLine {
    pub(crate) first: String,
    pub(crate) last: String,
    /// How often it was logged, whatever numbers were in it.
    pub(crate) count: u64,
    pub(crate) level: String,
    pub(crate) component: String,
    pub(crate) message: String,
    pub(crate) fields: BTreeMap<String, String>,
}
