//! One line for each request that is to be logged: which query was that, of whom, and what did it cost? Knows no server;
//! what it is not asked to log costs one look.

mod config;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use log::Level;
use log::kv::Value;

pub(crate) use config::RequestLogConfig;
use pillion_base::state::Published;
use pillion_base::time::format_rfc3339_nano;
use pillion_http::server::Served;

/// Which requests are logged, for all who serve some.
#[derive(Clone)]
pub(crate) struct RequestLog(Published<RequestLogConfig>);

/// A call over gRPC.
pub(crate) struct CallFacts<'a> {
    /// Type, service and method, as the metrics name them.
    pub(crate) name: (&'static str, &'static str, &'static str),
    /// Of the client, or the number of the call here.
    pub(crate) request_id: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) begun: SystemTime,
    /// The method and the matchers.
    pub(crate) query: &'a str,
    pub(crate) trace_id: Option<&'a str>,
}

/// How a call over gRPC ended.
pub(crate) struct CallEnd<'a> {
    /// By its name, and by its number.
    pub(crate) code: (&'static str, usize),
    pub(crate) error: &'a str,
    pub(crate) took: Duration,
    /// Until the first message was there to be sent; `None` when there was none.
    pub(crate) first_message: Option<Duration>,
    pub(crate) n_series: u64,
    pub(crate) n_chunks: u64,
    pub(crate) n_messages: u64,
    pub(crate) sent_bytes: u64,
}

impl RequestLog {
    /// Logs what the configuration says.
    pub(crate) fn new(config: RequestLogConfig) -> Self {
        RequestLog(Published::new(config))
    }

    /// Logs by another configuration from now on; whether it is another one.
    pub(crate) fn set(&self, config: RequestLogConfig) -> bool {
        let is_new = *self.0.read() != config;
        self.0.publish(config);
        is_new
    }

    /// Whether calls of a method may be logged.
    pub(crate) fn wants(&self, service: &str, method: &str) -> bool {
        self.0.read().grpc.choice(service, method).is_some()
    }

    /// A call begins.
    pub(crate) fn call_begins(&self, call: &CallFacts<'_>) {
        let Some(choice) = self.0.read().grpc.choice(call.name.1, call.name.2) else { return };
        // What will end well is not known yet.
        if choice.log_start && choice.level >= Level::Info {
            log_call(choice.level, "started call", call, None);
        }
    }

    /// A call has ended.
    pub(crate) fn call_ends(&self, call: &CallFacts<'_>, end: &CallEnd<'_>) {
        let Some(choice) = self.0.read().grpc.choice(call.name.1, call.name.2) else { return };
        let severity = severity_of_code(end.code.1);
        if choice.takes(severity, end.took, end.sent_bytes) {
            let level = if severity == Level::Info { choice.level.max(Level::Info) } else { severity };
            log_call(level, "finished call", call, Some(end));
        }
    }

    /// An HTTP request to the port was answered.
    pub(crate) fn page_was_served(&self, port: &str, peer: &IpAddr, served: &Served) {
        let config: Arc<RequestLogConfig> = self.0.read();
        let Some(choice) = config.http.choice(&served.path, port) else { return };
        let severity = match served.status {
            // A probe that says no is no fault of the page.
            400..500 | 503 => Level::Warn,
            500.. => Level::Error,
            _ => Level::Info,
        };
        if !choice.takes(severity, served.took, u64::try_from(served.body_bytes).unwrap_or(u64::MAX)) {
            return;
        }
        let level = if severity == Level::Info { choice.level.max(Level::Info) } else { severity };
        log::log!(
            level,
            protocol = "http",
            "http.component" = "server",
            "http.method" = format!("{} {}", served.method, served.path),
            "http.status_code" = served.status,
            "http.bytes" = served.body_bytes,
            "http.time_ms" = milliseconds(served.took),
            "http.remote_addr" = peer.to_string();
            "finished call"
        );
    }
}

fn log_call(level: Level, message: &str, call: &CallFacts<'_>, end: Option<&CallEnd<'_>>) {
    let begun = format_rfc3339_nano(call.begun);
    let mut pairs: Vec<(&str, Value<'_>)> = Vec::with_capacity(24);
    pairs.push(("service", "gRPC/server".into()));
    pairs.extend(call.trace_id.map(|id| ("traceID", id.into())));
    pairs.extend([
        ("requestID", call.request_id.into()),
        ("protocol", "grpc".into()),
        ("grpc.component", "server".into()),
        ("grpc.service", call.name.1.into()),
        ("grpc.method", call.name.2.into()),
        ("grpc.method_type", call.name.0.into()),
        ("peer.address", call.peer.into()),
        ("grpc.start_time", begun.as_str().into()),
    ]);
    pairs.push(("query", call.query.into()));
    if let Some(end) = end {
        pairs.push(("grpc.code", end.code.0.into()));
        if !end.error.is_empty() {
            pairs.push(("grpc.error", end.error.into()));
        }
        pairs.push(("grpc.time_ms", milliseconds(end.took).into()));
        pairs.extend(end.first_message.map(|time| ("first_message_ms", milliseconds(time).into())));
        pairs.extend([
            ("series", end.n_series.into()),
            ("chunks", end.n_chunks.into()),
            ("messages", end.n_messages.into()),
            ("bytes", end.sent_bytes.into()),
        ]);
    }
    let pairs = pairs.as_slice();
    log::logger().log(
        &log::Record::builder()
            .level(level)
            .target("pillion")
            .module_path_static(Some(module_path!()))
            .file_static(Some(file!()))
            .line(Some(line!()))
            .key_values(&pairs)
            .args(format_args!("{message}"))
            .build(),
    );
}

/// With three digits behind the point.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// How bad the end of a call is. `Source:` go-grpc-middleware, `DefaultServerCodeToLevel`.
fn severity_of_code(code: usize) -> Level {
    match code {
        // OK, Canceled, InvalidArgument, NotFound, AlreadyExists, Unauthenticated: well, or the client's own doing.
        0 | 1 | 3 | 5 | 6 | 16 => Level::Info,
        // DeadlineExceeded, PermissionDenied, ResourceExhausted, FailedPrecondition, Aborted, OutOfRange, Unavailable.
        4 | 7 | 8 | 9 | 10 | 11 | 14 => Level::Warn,
        // Unknown, Unimplemented, Internal, DataLoss.
        _ => Level::Error,
    }
}
