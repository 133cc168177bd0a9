//! What the daemon is doing, for whoever asks: `/api/v1/status` for programs, `/` for people. Everything is put together
//! when it is asked for, from handles that the parts write anyway; no lock is held across anything that can wait, and every
//! list is bounded. Changes nothing.

mod html;
mod page;
mod report;
mod snapshot;
mod words;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use crate::config_files::ConfigFiles;
use crate::grpc::connections::Connections;
use crate::heartbeat::Pulse;
use crate::limits;
use crate::log_format::{Recent, recent};
use crate::metrics::CallGauges;
use crate::probes::Probes;
use crate::sys;
use crate::version;
use pillion_base::state::{PromState, Published};
use pillion_base::time::{YEAR_ZERO_MS, format_rfc3339_nano, unix_ms};
use pillion_http::server::Response;
use pillion_ship::{Schedule, Stand, Standing};
pub(crate) use report::{Fact, Report, Section, Table};
use snapshot::{Aside, Block, Build, Calls, LogLine, Pending, Process, Prometheus, SetAside, TimeRange, UploadLimits};
pub(crate) use snapshot::{Call, Limits, Snapshot};
use snapshot::{SCHEMA, Uploading, Uploads};

/// `Content-Type` of the endpoint.
const JSON: &str = "application/json; charset=utf-8";
/// It is of this moment, and no page of another site is to read it as something else.
const JSON_HEADERS: [(&str, &str); 2] = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")];

/// Answers for the daemon. It does so from the first moment on; what it has no handles of yet is not known. Cheap to clone.
#[derive(Clone)]
pub struct Status(Arc<Inner>);

struct Inner {
    begun: Instant,
    probes: Probes,
    parts: OnceLock<Parts>,
}

/// The handles of the parts.
pub(crate) struct Parts {
    /// Where Prometheus is, without user, password and query.
    pub(crate) prometheus_url: String,
    /// What it said.
    pub(crate) state: Published<PromState>,
    /// How it was reached.
    pub(crate) pulse: Pulse,
    /// How many calls are in which state.
    pub(crate) gauges: CallGauges,
    /// The open calls, in any order.
    pub(crate) calls: Box<dyn Fn() -> Vec<Call> + Send + Sync>,
    /// The clients of the gRPC port.
    pub(crate) connections: Connections,
    /// The limits in force.
    pub(crate) limits: Box<dyn Fn() -> Limits + Send + Sync>,
    /// The files that can be read again.
    pub(crate) config_files: ConfigFiles,
    /// The shipper; `None` without a bucket.
    pub(crate) shipping: Option<Shipping>,
}

/// The handles of what ships blocks.
pub(crate) struct Shipping {
    /// Name of the bucket.
    pub(crate) bucket: Published<String>,
    /// What the shipper does.
    pub(crate) standing: Standing,
    /// When it may.
    pub(crate) schedule: Schedule,
}

impl Status {
    /// Of a daemon whose parts are not there yet.
    pub fn new(probes: Probes) -> Self {
        Status(Arc::new(Inner { begun: Instant::now(), probes, parts: OnceLock::new() }))
    }

    /// The parts are there. Only the first ones count.
    pub(crate) fn attach(&self, parts: Parts) {
        // A daemon has one start.
        let _ = self.0.parts.set(parts);
    }

    /// The answer of the endpoint.
    pub(crate) fn json(&self) -> Response {
        // Numbers that are not finite become null; nothing else could keep the snapshot from being written.
        let mut body = serde_json::to_vec(&self.snapshot(SystemTime::now())).unwrap_or_default();
        body.push(b'\n');
        Response { headers: JSON_HEADERS.to_vec(), ..Response::ok(JSON, body) }
    }

    /// The page for people.
    pub(crate) fn page(&self) -> Response {
        page::page(&self.snapshot(SystemTime::now()))
    }

    fn snapshot(&self, now: SystemTime) -> Snapshot {
        let inner = &self.0;
        let uptime = inner.begun.elapsed();
        let bare = Snapshot {
            schema: SCHEMA,
            now: at(now),
            ready: inner.probes.is_ready(),
            reason: inner.probes.reason().map(|reason| short(&reason)),
            build: build(),
            started: at(now.checked_sub(uptime).unwrap_or(now)),
            uptime_seconds: uptime.as_secs_f64(),
            process: process(),
            recent_log: recent().into_iter().map(log_line).collect(),
            ..Snapshot::default()
        };
        let Some(parts) = inner.parts.get() else { return bare };
        let state = parts.state.read();
        Snapshot {
            prometheus: prometheus(parts, &state, now),
            external_labels: labels(&state),
            time_range: time_range(&state),
            calls: calls(parts),
            uploads: parts.shipping.as_ref().map(|shipping| uploads(shipping, &state, now)),
            connections: snapshot::Connections {
                grpc: parts.connections.n_open(),
                grpc_max: limits::GRPC_CONNECTIONS_MAX,
            },
            limits: (parts.limits)(),
            configuration: configuration(&parts.config_files),
            ..bare
        }
    }
}

fn configuration(files: &ConfigFiles) -> snapshot::Configuration {
    let file = |(name, reason): &(&'static str, String)| snapshot::BrokenFile {
        name: (*name).to_owned(),
        reason: short(reason),
    };
    snapshot::Configuration { broken: files.broken().iter().map(file).collect() }
}

/// The page that shows what an endpoint has answered: tests and examples have snapshots that no daemon reaches in a second.
///
/// `Errors:` text that is no such answer.
pub fn page_of(json: &str) -> Result<Response, serde_json::Error> {
    serde_json::from_str(json).map(|snapshot: Snapshot| page::page(&snapshot))
}

fn at(time: SystemTime) -> String {
    format_rfc3339_nano(time)
}

fn at_ms(ms: i64) -> String {
    let offset = Duration::from_millis(ms.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if ms < 0 { epoch.checked_sub(offset) } else { epoch.checked_add(offset) };
    time.map_or_else(String::new, at)
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// Seconds from then until now; what is in the future is now.
fn age(now: SystemTime, then: SystemTime) -> f64 {
    now.duration_since(then).unwrap_or_default().as_secs_f64()
}

/// The beginning of a text that others may have made long.
fn short(text: &str) -> String {
    match text.char_indices().nth(limits::STATUS_TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn build() -> Build {
    Build {
        version: version::VERSION.to_owned(),
        revision: version::REVISION.to_owned(),
        rustc: version::RUSTC_VERSION.to_owned(),
    }
}

fn process() -> Process {
    let stat = sys::process_stat();
    let of = |figure: fn(&sys::ProcessStat) -> i64| stat.as_ref().map(figure);
    Process {
        resident_bytes: of(|stat| stat.resident_bytes),
        memory_limit_bytes: sys::memory_limit(),
        threads: of(|stat| stat.threads),
        open_files: of(|stat| stat.open_fds),
        open_files_max: of(|stat| stat.max_fds),
    }
}

fn log_line(recent: Recent) -> LogLine {
    LogLine {
        first: recent.first,
        last: recent.last,
        count: recent.n,
        level: recent.level.to_owned(),
        component: recent.component,
        message: recent.message,
        fields: recent.fields.into_iter().collect(),
    }
}

fn prometheus(parts: &Parts, state: &PromState, now: SystemTime) -> Prometheus {
    let beaten = parts.pulse.read();
    let (failed, why) = beaten.last_error.unzip();
    Prometheus {
        url: parts.prometheus_url.clone(),
        version: Some(state.version.clone()).filter(|version| version != "0"),
        up: beaten.is_up,
        agent: state.is_agent,
        last_beat: beaten.last.map(at),
        last_beat_age_seconds: beaten.last.map(|then| age(now, then)),
        last_error: why.map(|why| short(&why)),
        last_error_time: failed.map(at),
        last_error_age_seconds: failed.map(|then| age(now, then)),
        retention_seconds: state.retention_ms.map(seconds),
    }
}

fn labels(state: &PromState) -> std::collections::BTreeMap<String, String> {
    let listed = state.external_labels.iter().take(limits::STATUS_LISTED_MAX);
    listed.map(|(name, value)| (short(name), short(value))).collect()
}

/// Before Prometheus is known only `--min-time` is, which is not shown as if data were there.
fn time_range(state: &PromState) -> TimeRange {
    let is_known = !state.external_labels.is_empty();
    let bound = |ms: i64| (is_known && ms != i64::MAX && ms > YEAR_ZERO_MS).then_some(ms);
    let (min_ms, max_ms) = (bound(state.mint_ms), bound(state.maxt_ms));
    TimeRange { min: min_ms.map(at_ms), min_ms, max: max_ms.map(at_ms), max_ms }
}

fn calls(parts: &Parts) -> Calls {
    let mut open = (parts.calls)();
    let n_open = open.len();
    open.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    open.truncate(limits::STATUS_LISTED_MAX);
    for call in &mut open {
        call.matchers = short(&call.matchers);
    }
    let more = n_open - open.len();
    let CallGauges { queued, working, waiting_for_client, waiting_for_prometheus } = &parts.gauges;
    Calls {
        working: working.get(),
        queued: queued.get(),
        waiting_for_client: waiting_for_client.get(),
        waiting_for_prometheus: waiting_for_prometheus.get(),
        open,
        more,
    }
}

fn uploads(shipping: &Shipping, state: &PromState, now: SystemTime) -> Uploads {
    let stand = shipping.standing.read();
    let now_ms = unix_ms(now);
    let retention_left = |end_ms: i64| {
        state.retention_ms.map(|retention_ms| seconds(end_ms.saturating_add(retention_ms).saturating_sub(now_ms)))
    };
    let since = |end_ms: i64| seconds(now_ms.saturating_sub(end_ms).max(0));
    let list = stand.pending.iter().map(|one| Block {
        ulid: one.block.ulid.to_string(),
        bytes: one.block.bytes,
        since: at_ms(one.block.max_time_ms),
        age_seconds: since(one.block.max_time_ms),
        retention_left_seconds: retention_left(one.block.max_time_ms),
        local: one.block.is_local,
        claimed: one.block.is_claimed,
        waits_for: one.waits_for.clone(),
    });
    let pending = Pending {
        blocks: stand.n_pending,
        bytes: stand.pending_bytes,
        oldest_age_seconds: stand.oldest_end_ms.map(since),
        retention_left_seconds: stand.oldest_end_ms.and_then(retention_left),
        list: list.collect(),
        more: stand.n_pending - stand.pending.len(),
    };
    let uploading = stand.uploading.map(|now| Uploading {
        ulid: now.ulid.to_string(),
        bytes: now.bytes,
        sent_bytes: now.stored_bytes,
        resumed_bytes: now.resumed_bytes,
        seconds: now.lasted.as_secs_f64(),
        bytes_per_second: now.rate,
        left_seconds: now.left.map(|left| left.as_secs_f64()),
    });
    let last_upload = stand.last_upload.map(|last| last.as_millisecond());
    let (looked, why) = stand.last_look.clone().unzip();
    Uploads {
        bucket: shipping.bucket.read().to_string(),
        pending,
        uploading,
        set_aside: set_aside(&stand),
        given_up: stand.n_given_up,
        claimed_bytes: stand.claimed_bytes,
        last_upload: last_upload.map(at_ms),
        last_upload_age_seconds: last_upload.map(since),
        last_look: looked.map(at),
        last_look_age_seconds: looked.map(|then| age(now, then)),
        last_look_error: why.flatten().map(|why| short(&why)),
        limits: upload_limits(&shipping.schedule),
    }
}

fn set_aside(stand: &Stand) -> SetAside {
    let aside = |(block, reason): &(String, String)| Aside { block: short(block), reason: short(reason) };
    let list: Vec<Aside> = stand.quarantined.iter().map(aside).collect();
    SetAside { blocks: stand.n_quarantined, more: stand.n_quarantined - list.len(), list }
}

fn upload_limits(schedule: &Schedule) -> UploadLimits {
    let limits = schedule.limits();
    UploadLimits {
        bytes_per_second: Some(limits.rate_bytes).filter(|rate| *rate > 0),
        jitter_seconds: limits.jitter.as_secs_f64(),
        windows: limits.windows.iter().map(ToString::to_string).collect(),
        opens_in_seconds: schedule.opens_in().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    /// Members are added to the example in the documents' test data; none is ever removed or renamed.
    #[test]
    fn the_example_has_every_member_and_no_other() {
        let text = include_str!("../../tests/data/status.json");
        let example: serde_json::Value = serde_json::from_str(text).unwrap();
        let snapshot: Snapshot = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&snapshot).unwrap(), example);
    }

    #[test]
    fn a_daemon_that_is_still_starting_answers() {
        let status = Status::new(Probes::new(Metrics::new().status));
        let answer: Snapshot = serde_json::from_slice(&status.json().body).unwrap();
        assert_eq!((answer.schema, answer.ready, answer.reason.as_deref()), (SCHEMA, false, Some("starting")));
        assert_eq!((answer.uploads, answer.prometheus.up), (None, None));
        assert!(String::from_utf8(status.page().body).unwrap().contains("Not ready: starting."));
    }

    #[test]
    fn times_before_1970_and_far_away() {
        assert_eq!(at_ms(-1000), "1969-12-31T23:59:59Z");
        assert_eq!(at_ms(1_500), "1970-01-01T00:00:01.5Z");
        assert!(at_ms(i64::MAX).starts_with("9999-") && !at_ms(i64::MIN).is_empty());
    }
}
