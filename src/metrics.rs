//! Every metric of the daemon, declared once, under Thanos's names, present with a defined value from the first scrape.
//!
//! Fields are named after their metrics, and the help text at the declaration says what each one is, so they carry no
//! further docs. The fields are handles: cloning one is an `Arc` clone, and parts get clones of what they move.

#![allow(missing_docs)]

mod exemplars;
mod exposition;
mod negotiation;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

use crate::log_format::n_complaints;
pub(crate) use exemplars::{Exemplar, Exemplars};
pub(crate) use negotiation::{Format, takes_gzip};
use pillion_bucket::{BUCKET_OPERATIONS, BucketMetrics};
use pillion_http::tls::TlsMetrics;
use pillion_http::web::{REFUSAL_REASONS, WebMetrics};
use pillion_read::store::StoreMetrics;
use pillion_reload::metrics::{FAILURE_REASONS, ReloadMetrics};
use pillion_ship::metrics::{FAILURE_CLASSES, ShipMetrics};
use pillion_trace::TraceMetrics;

const WHY: &str = "metric names and labels are constants, checked by a test";
/// Buckets of every latency histogram. `Units:` seconds. `Source:` Thanos.
const LATENCY_BUCKETS: [f64; 14] = [0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0, 120.0];
/// The methods of the served `thanos.*` services: type, service, method.
pub(crate) const GRPC_METHODS: [(&str, &str, &str); 9] = [
    ("unary", "thanos.info.Info", "Info"),
    ("server_stream", "thanos.Store", "Series"),
    ("unary", "thanos.Store", "LabelNames"),
    ("unary", "thanos.Store", "LabelValues"),
    ("server_stream", "thanos.Rules", "Rules"),
    ("server_stream", "thanos.Targets", "Targets"),
    ("server_stream", "thanos.Metadata", "MetricMetadata"),
    ("server_stream", "thanos.Exemplars", "Exemplars"),
    ("server_stream", "thanos.Status", "TSDBStatistics"),
];
/// Names of the 17 gRPC status codes by number, as Go prints them.
pub(crate) const GRPC_CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
/// All metrics and the registry that prints them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    pub status: StatusMetrics,
    pub heartbeat: HeartbeatMetrics,
    pub store: StoreMetrics,
    pub grpc: GrpcMetrics,
    pub config: ConfigMetrics,
    tls: TlsFamilies,
    process: ProcessMetrics,
    core_errors: IntCounter,
}

/// By server; nothing is shown of a server without TLS.
#[derive(Clone)]
struct TlsFamilies {
    not_after: GaugeVec,
    reload_successful: IntGaugeVec,
    reloads_failed: IntCounterVec,
    handshakes: IntCounterVec,
    handshakes_failed: IntCounterVec,
}

/// `thanos_status`.
#[derive(Clone)]
pub struct StatusMetrics {
    pub ready: IntGauge,
    pub healthy: IntGauge,
}

/// What the heartbeat moves.
#[derive(Clone)]
pub struct HeartbeatMetrics {
    pub prometheus_up: IntGauge,
    /// Labels `floats` and `histograms`: one child, which is 1.
    pub chunk_encoding_info: IntGaugeVec,
}

impl HeartbeatMetrics {
    /// Shows other encodings instead of those that were shown before.
    pub(crate) fn show_chunk_encodings(&self, floats: &str, histograms: &str) {
        self.chunk_encoding_info.reset();
        self.chunk_encoding_info.with_label_values(&[floats, histograms]).set(1);
    }
}

/// What reading the configuration again moves.
#[derive(Clone)]
pub struct ConfigMetrics {
    pub successful: IntGauge,
    pub success_timestamp_seconds: Gauge,
}

/// What the gRPC server and its front door move.
#[derive(Clone)]
pub struct GrpcMetrics {
    pub started: IntCounterVec,
    pub handled: IntCounterVec,
    pub msg_received: IntCounterVec,
    pub msg_sent: IntCounterVec,
    pub handling_seconds: HistogramVec,
    /// Of `handling_seconds`.
    pub(crate) exemplars: Exemplars,
    pub panics_recovered: IntCounter,
    pub calls: CallGauges,
    /// Label `reason`: `stalled` or `crowded`.
    pub given_up: IntCounterVec,
    pub front: FrontMetrics,
}

/// How many calls are in which state.
#[derive(Clone)]
pub struct CallGauges {
    pub queued: IntGauge,
    pub working: IntGauge,
    pub waiting_for_client: IntGauge,
    pub waiting_for_prometheus: IntGauge,
}

/// What the gRPC front door moves. These are Pillion's own.
#[derive(Clone)]
pub struct FrontMetrics {
    pub connections: IntGauge,
    pub accepted: IntCounter,
    /// Label `reason`.
    pub refused: IntCounterVec,
    pub refused_requests: IntCounter,
}

#[derive(Clone)]
struct ProcessMetrics {
    cpu_seconds: Counter,
    open_fds: IntGauge,
    max_fds: IntGauge,
    virtual_bytes: IntGauge,
    resident_bytes: IntGauge,
    start_time: Gauge,
    threads: IntGauge,
}

/// The reasons for which the front door turns a connection away or closes it.
pub const FRONT_REASONS: [&str; 10] =
    ["connections", "handshake", "tls", "settings_ack", "abuse", "protocol", "streams", "requests", "frozen", "stop"];

impl Metrics {
    /// Declares everything that exists in every configuration.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let build = int_gauge_vec(
            r,
            "thanos_build_info",
            "A metric with a constant '1' value labeled by version, revision, branch, goversion from which thanos was \
             built, and the goos and goarch for the build.",
            &["version", "revision", "branch", "goversion", "goos", "goarch", "tags"],
        );
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        build
            .with_label_values(&[
                crate::version::VERSION,
                crate::version::REVISION,
                "",
                crate::version::RUSTC_VERSION,
                std::env::consts::OS,
                arch,
                "pillion",
            ])
            .set(1);
        let status = int_gauge_vec(
            r,
            "thanos_status",
            "Represents status (0 indicates failure, 1 indicates success) of the component.",
            &["component", "check"],
        );
        let dropped = int_counter_vec(
            r,
            "thanos_store_selects_dropped_total",
            "Number of select queries that were dropped due to configured limits.",
            &["reason"],
        );
        for reason in ["series", "chunks"] {
            dropped.with_label_values(&[reason]);
        }
        let grpc = GrpcMetrics::new(r);
        let chunk_encoding_info = int_gauge_vec(
            r,
            "pillion_prometheus_chunk_encoding_info",
            "A metric with a constant '1' value labeled by the encodings in which Prometheus writes chunks: floats xor or \
             xor2, histograms plain or st (with start timestamps), both unknown until Prometheus is reached.",
            &["floats", "histograms"],
        );
        chunk_encoding_info.with_label_values(&["unknown", "unknown"]).set(1);
        Metrics {
            status: StatusMetrics {
                ready: status.with_label_values(&["sidecar", "ready"]),
                healthy: status.with_label_values(&["sidecar", "healthy"]),
            },
            heartbeat: HeartbeatMetrics {
                prometheus_up: int_gauge(
                    r,
                    "thanos_sidecar_prometheus_up",
                    "Boolean indicator whether the sidecar can reach its Prometheus peer.",
                ),
                chunk_encoding_info,
            },
            store: StoreMetrics {
                received_frames: histogram(
                    r,
                    "prometheus_store_received_frames",
                    "Number of frames received per streamed response.",
                    &[10.0, 100.0, 1e3, 1e4, 1e5],
                ),
                series_requested: histogram(
                    r,
                    "thanos_store_server_series_requested",
                    "Number of requested series for Series calls",
                    &[1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6],
                ),
                chunks_requested: histogram(
                    r,
                    "thanos_store_server_chunks_requested",
                    "Number of requested chunks for Series calls",
                    &[1.0, 100.0, 1e3, 1e4, 1e5, 1e7, 1e8, 1e9],
                ),
                pending_series_requests: int_gauge(
                    r,
                    "thanos_store_server_pending_series_requests",
                    "Number of pending series requests",
                ),
                selects_dropped: dropped,
                working_calls: grpc.calls.working.clone(),
                calls_waiting_for_prometheus: grpc.calls.waiting_for_prometheus.clone(),
            },
            grpc,
            config: ConfigMetrics {
                successful: int_gauge(
                    r,
                    "pillion_config_last_reload_successful",
                    "1 while the configuration in the files is what is used, 0 while a file cannot be used and what it said \
                     before is.",
                ),
                success_timestamp_seconds: gauge(
                    r,
                    "pillion_config_last_reload_success_timestamp_seconds",
                    "When all files were last read again and used, or first read, in seconds since 1970.",
                ),
            },
            tls: TlsFamilies::new(r),
            process: ProcessMetrics::new(r),
            core_errors: int_counter(
                r,
                "pillion_grpc_core_errors_total",
                "Total number of complaints of the gRPC core, mostly about what clients sent.",
            ),
            registry,
        }
    }

    /// The metrics of one server's TLS: `grpc` or `http`.
    pub fn tls(&self, server: &str) -> TlsMetrics {
        let of = |counters: &IntCounterVec| counters.with_label_values(&[server]);
        TlsMetrics {
            not_after_timestamp_seconds: self.tls.not_after.with_label_values(&[server]),
            reload_successful: self.tls.reload_successful.with_label_values(&[server]),
            reloads_failed: of(&self.tls.reloads_failed),
            handshakes: of(&self.tls.handshakes),
            handshakes_failed: of(&self.tls.handshakes_failed),
        }
    }

    /// Declares what exists only with `--http.config`.
    pub fn web(&self) -> WebMetrics {
        let r = &self.registry;
        let metrics = WebMetrics {
            config_reload_successful: int_gauge(
                r,
                "pillion_http_config_last_reload_successful",
                "1 while the file of --http.config is what is used, 0 while it cannot be used and an older one is.",
            ),
            refused: int_counter_vec(
                r,
                "pillion_http_requests_refused_total",
                "Total number of HTTP requests that got no page: no or wrong credentials (unauthorized), too many wrong \
                 passwords (wrong_passwords), too many requests (rate_limit), too many passwords waiting (busy).",
                &["reason"],
            ),
            password_checks: int_counter(
                r,
                "pillion_http_password_checks_total",
                "Total number of passwords that were checked with bcrypt. Known ones are not checked again.",
            ),
            tls: self.tls("http"),
        };
        for reason in REFUSAL_REASONS {
            metrics.refused.with_label_values(&[reason]);
        }
        metrics
    }

    /// Declares what the reloader moves, in every configuration, as Thanos does; `method` is `http` or `signal`.
    pub fn reloader(&self, method: &str) -> ReloadMetrics {
        let r = &self.registry;
        int_gauge_vec(
            r,
            "thanos_sidecar_reloader_info",
            "A metric with a constant '1' value labeled by reload method (either 'http' or 'signal').",
            &["method"],
        )
        .with_label_values(&[method])
        .set(1);
        let counter = |name: &str, help: &str| int_counter(r, &format!("thanos_sidecar_reloader_{name}"), help);
        let metrics = ReloadMetrics {
            reloads: counter("reloads_total", "Total number of reload requests."),
            reloads_failed: counter("reloads_failed_total", "Total number of reload requests that failed."),
            last_reload_successful: int_gauge(
                r,
                "thanos_sidecar_reloader_last_reload_successful",
                "Whether the last reload attempt was successful",
            ),
            last_reload_success_timestamp_seconds: gauge(
                r,
                "thanos_sidecar_reloader_last_reload_success_timestamp_seconds",
                "Timestamp of the last successful reload",
            ),
            config_apply_operations: counter(
                "config_apply_operations_total",
                "Total number of config apply operations.",
            ),
            config_apply_operations_failed: counter(
                "config_apply_operations_failed_total",
                "Total number of config apply operations that failed.",
            ),
            config_environment_variable_expansion_errors: int_gauge(
                r,
                "thanos_sidecar_reloader_config_environment_variable_expansion_errors",
                "Number of environment variable expansions that failed during the last operation.",
            ),
            watches: int_gauge(r, "thanos_sidecar_reloader_watches", "Number of resources watched by the reloader."),
            watch_events: counter(
                "watch_events_total",
                "Total number of events received by the reloader from the watcher.",
            ),
            watch_errors: counter(
                "watch_errors_total",
                "Total number of errors received by the reloader from the watcher.",
            ),
            failing: int_gauge_vec(
                r,
                "pillion_reloader_failing",
                "1 for the reason for which Prometheus does not have the watched files as they are: they cannot be read or \
                 written (files), a variable is not set (variable), Prometheus refuses them (refused), takes no reloads \
                 (disabled), is away (unreachable), has no process to be signalled (process), does not say that it has \
                 reloaded (unconfirmed), else (other).",
                &["reason"],
            ),
            missing_paths: int_gauge(
                r,
                "pillion_reloader_missing_paths",
                "Number of configured files and folders that are not there and are waited for.",
            ),
        };
        for reason in FAILURE_REASONS {
            metrics.failing.with_label_values(&[reason]);
        }
        metrics
    }

    /// Declares what exists only with `--tracing.config`.
    pub fn tracing(&self) -> TraceMetrics {
        let r = &self.registry;
        TraceMetrics {
            exported: int_counter(
                r,
                "pillion_tracing_spans_exported_total",
                "Total number of spans that the collector has taken.",
            ),
            dropped: int_counter(
                r,
                "pillion_tracing_spans_dropped_total",
                "Total number of spans that were dropped because too many were waiting for the collector.",
            ),
            failed: int_counter(
                r,
                "pillion_tracing_spans_failed_total",
                "Total number of spans that the collector has refused or could not be given.",
            ),
        }
    }

    /// Declares what exists only when blocks are shipped.
    pub fn shipper(&self) -> ShipMetrics {
        let r = &self.registry;
        let metrics = ShipMetrics {
            dir_syncs: int_counter(r, "thanos_shipper_dir_syncs_total", "Total number of dir syncs"),
            dir_sync_failures: int_counter(
                r,
                "thanos_shipper_dir_sync_failures_total",
                "Total number of failed dir syncs",
            ),
            uploads: int_counter(r, "thanos_shipper_uploads_total", "Total number of uploaded blocks"),
            upload_failures: int_counter(
                r,
                "thanos_shipper_upload_failures_total",
                "Total number of block upload failures",
            ),
            corrupted_blocks: int_counter(
                r,
                "thanos_shipper_corrupted_blocks_total",
                "Total number of corrupted blocks",
            ),
            upload_compacted_done: int_gauge(
                r,
                "thanos_shipper_upload_compacted_done",
                "If 1 it means shipper uploaded all compacted blocks from the filesystem.",
            ),
            pending_blocks: int_gauge(
                r,
                "pillion_shipper_pending_blocks",
                "Number of finished blocks that are not in the bucket yet.",
            ),
            pending_bytes: int_gauge(
                r,
                "pillion_shipper_pending_bytes",
                "Size of the finished blocks that are not in the bucket yet.",
            ),
            oldest_pending_age_seconds: gauge(
                r,
                "pillion_shipper_oldest_pending_age_seconds",
                "Time since the end of the oldest block that is not in the bucket yet; 0 when there is none.",
            ),
            oldest_pending_retention_seconds: gauge(
                r,
                "pillion_shipper_oldest_pending_retention_seconds",
                "Time until Prometheus's time retention may delete the oldest block that is not in the bucket yet, below 0 \
                 once it may have; +Inf when there is no such block, NaN when Prometheus's retention is not known.",
            ),
            claimed_bytes: int_gauge(
                r,
                "pillion_shipper_claimed_bytes",
                "Size of the blocks that Prometheus has deleted and that are kept until they are in the bucket.",
            ),
            claims_given_up: int_counter(
                r,
                "pillion_shipper_claims_given_up_total",
                "Total number of blocks that were deleted before they were in the bucket, because of the budget for claims.",
            ),
            stand_in_blocks: int_counter(
                r,
                "pillion_shipper_stand_in_blocks_total",
                "Total number of compacted blocks that were uploaded in place of blocks which Prometheus had compacted before \
                 they were in the bucket.",
            ),
            quarantined_blocks: int_gauge(
                r,
                "pillion_shipper_quarantined_blocks",
                "Number of blocks that cannot be read and are set aside until their files change.",
            ),
            failures: int_counter_vec(
                r,
                "pillion_shipper_failures_total",
                "Total number of failures to ship, by what was at fault.",
                &["class"],
            ),
            resumed_bytes: int_counter(
                r,
                "pillion_shipper_resumed_bytes_total",
                "Total number of bytes that were not sent again because an earlier attempt had sent them.",
            ),
            upload_rate_limit_bytes: int_gauge(
                r,
                "pillion_shipper_upload_rate_limit_bytes",
                "Most bytes per second that uploads send; 0 is no limit.",
            ),
            last_success_timestamp_seconds: gauge(
                r,
                "pillion_shipper_last_success_timestamp_seconds",
                "Time at which a whole block was last in the bucket, also before a restart; 0 when there was none.",
            ),
        };
        for class in FAILURE_CLASSES {
            metrics.failures.with_label_values(&[class]);
        }
        // Nothing waits as far as is known.
        metrics.oldest_pending_retention_seconds.set(f64::INFINITY);
        metrics
    }

    /// Declares the metrics of the bucket called `name`.
    pub fn bucket(&self, name: &str) -> BucketMetrics {
        let r = &self.registry;
        let opts = |metric: &str, help: &str| Opts::new(metric, help).const_label("bucket", name);
        let counter =
            |metric: &str, help: &str| register(r, IntCounterVec::new(opts(metric, help), &["operation"]).expect(WHY));
        let histogram = |metric: &str, help: &str, buckets: Vec<f64>| {
            let opts = HistogramOpts::from(opts(metric, help)).buckets(buckets);
            register(r, HistogramVec::new(opts, &["operation"]).expect(WHY))
        };
        let metrics = BucketMetrics {
            operations: counter(
                "thanos_objstore_bucket_operations_total",
                "Total number of all attempted operations against a bucket.",
            ),
            failures: counter(
                "thanos_objstore_bucket_operation_failures_total",
                "Total number of operations against a bucket that failed, but were not expected to fail in certain way \
                 from caller perspective. Those errors have to be investigated.",
            ),
            fetched_bytes: counter(
                "thanos_objstore_bucket_operation_fetched_bytes_total",
                "Total number of bytes fetched from bucket, per operation.",
            ),
            transferred_bytes: histogram(
                "thanos_objstore_bucket_operation_transferred_bytes",
                "Number of bytes transferred from/to bucket per operation.",
                (0..16).map(|n| f64::from(32 * 1024) * f64::from(1 << n)).collect(),
            ),
            duration_seconds: histogram(
                "thanos_objstore_bucket_operation_duration_seconds",
                "Duration of successful operations against the bucket per operation - iter operations include time \
                 spent on each callback.",
                LATENCY_BUCKETS.to_vec(),
            ),
            last_successful_upload_time: register(
                r,
                Gauge::with_opts(opts(
                    "thanos_objstore_bucket_last_successful_upload_time",
                    "Second timestamp of the last successful upload to the bucket.",
                ))
                .expect(WHY),
            ),
        };
        for operation in BUCKET_OPERATIONS {
            metrics.operations.with_label_values(&[operation]);
            metrics.failures.with_label_values(&[operation]);
            metrics.duration_seconds.with_label_values(&[operation]);
        }
        for operation in ["get", "get_range", "upload"] {
            metrics.fetched_bytes.with_label_values(&[operation]);
            metrics.transferred_bytes.with_label_values(&[operation]);
        }
        metrics
    }

    /// The page of `/metrics` in the older text format.
    pub fn render(&self) -> Vec<u8> {
        self.page(Format::Text)
    }

    /// The page of `/metrics`.
    pub(crate) fn page(&self, format: Format) -> Vec<u8> {
        self.process.refresh();
        self.core_errors.inc_by(n_complaints().saturating_sub(self.core_errors.get()));
        let mut page = String::with_capacity(32 * 1024);
        exposition::write(&self.registry.gather(), &self.grpc.exemplars, format, &mut page);
        page.into_bytes()
    }
}

impl GrpcMetrics {
    /// Observes how long a call took; a traced one can be found again.
    pub(crate) fn observe(&self, labels: [&str; 3], took: Duration, trace_id: Option<&str>) {
        self.handling_seconds.with_label_values(&labels).observe(took.as_secs_f64());
        if let Some(trace_id) = trace_id {
            let names = ["grpc_type", "grpc_service", "grpc_method"];
            let labels: Vec<_> = names.into_iter().zip(labels).collect();
            let at_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let exemplar = Exemplar { trace_id: trace_id.to_owned(), value: took.as_secs_f64(), at_s };
            self.exemplars.put("grpc_server_handling_seconds", &labels, &LATENCY_BUCKETS, exemplar);
        }
    }
}

impl TlsFamilies {
    fn new(r: &Registry) -> Self {
        let not_after = Opts::new(
            "pillion_tls_certificate_not_after_timestamp_seconds",
            "When the certificate in use ends, in seconds since 1970.",
        );
        TlsFamilies {
            not_after: register(r, GaugeVec::new(not_after, &["server"]).expect(WHY)),
            reload_successful: int_gauge_vec(
                r,
                "pillion_tls_last_reload_successful",
                "1 while the certificate, key and client CA that lie in the files are what is used, 0 while older ones are.",
                &["server"],
            ),
            reloads_failed: int_counter_vec(
                r,
                "pillion_tls_reload_failures_total",
                "Total number of changes of certificate, key or client CA that could not be used.",
                &["server"],
            ),
            handshakes: int_counter_vec(
                r,
                "pillion_tls_handshakes_total",
                "Total number of TLS handshakes with clients that were completed.",
                &["server"],
            ),
            handshakes_failed: int_counter_vec(
                r,
                "pillion_tls_handshake_failures_total",
                "Total number of TLS handshakes with clients that failed.",
                &["server"],
            ),
        }
    }
}

impl GrpcMetrics {
    fn new(r: &Registry) -> Self {
        const LABELS: [&str; 3] = ["grpc_type", "grpc_service", "grpc_method"];
        let opts = HistogramOpts::new(
            "grpc_server_handling_seconds",
            "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
        );
        let metrics = GrpcMetrics {
            started: int_counter_vec(
                r,
                "grpc_server_started_total",
                "Total number of RPCs started on the server.",
                &LABELS,
            ),
            handled: int_counter_vec(
                r,
                "grpc_server_handled_total",
                "Total number of RPCs completed on the server, regardless of success or failure.",
                &["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
            ),
            msg_received: int_counter_vec(
                r,
                "grpc_server_msg_received_total",
                "Total number of RPC stream messages received on the server.",
                &LABELS,
            ),
            msg_sent: int_counter_vec(
                r,
                "grpc_server_msg_sent_total",
                "Total number of gRPC stream messages sent by the server.",
                &LABELS,
            ),
            handling_seconds: register(
                r,
                HistogramVec::new(opts.buckets(LATENCY_BUCKETS.to_vec()), &LABELS).expect(WHY),
            ),
            exemplars: Exemplars::default(),
            panics_recovered: int_counter(
                r,
                "grpc_req_panics_recovered_total",
                "Total number of gRPC requests recovered from internal panic.",
            ),
            calls: {
                let calls = int_gauge_vec(
                    r,
                    "pillion_grpc_calls",
                    "Number of Series, label and API calls at present: queued, at work, waiting for Prometheus, or waiting for \
                     a client that does not read.",
                    &["state"],
                );
                let state = |state: &str| calls.with_label_values(&[state]);
                CallGauges {
                    queued: state("queued"),
                    working: state("working"),
                    waiting_for_client: state("waiting_for_client"),
                    waiting_for_prometheus: state("waiting_for_prometheus"),
                }
            },
            given_up: int_counter_vec(
                r,
                "pillion_grpc_calls_given_up_total",
                "Total number of calls that were ended because their clients did not read their answers: for too long \
                 (stalled), or while too many calls waited (crowded).",
                &["reason"],
            ),
            front: FrontMetrics {
                connections: int_gauge(r, "pillion_grpc_connections", "Number of open gRPC client connections."),
                accepted: int_counter(
                    r,
                    "pillion_grpc_connections_accepted_total",
                    "Total number of gRPC client connections that were accepted.",
                ),
                refused: int_counter_vec(
                    r,
                    "pillion_grpc_connections_refused_total",
                    "Total number of gRPC client connections that were turned away or closed by the front door, by reason.",
                    &["reason"],
                ),
                refused_requests: int_counter(
                    r,
                    "pillion_grpc_requests_too_large_total",
                    "Total number of gRPC requests that were refused before they had come whole, because they are larger than \
                     --grpc-server-max-request-size or too many such are under way.",
                ),
            },
        };
        for reason in ["stalled", "crowded"] {
            metrics.given_up.with_label_values(&[reason]);
        }
        for reason in FRONT_REASONS {
            metrics.front.refused.with_label_values(&[reason]);
        }
        for (kind, service, method) in GRPC_METHODS {
            let labels = [kind, service, method];
            metrics.started.with_label_values(&labels);
            metrics.msg_received.with_label_values(&labels);
            metrics.msg_sent.with_label_values(&labels);
            metrics.handling_seconds.with_label_values(&labels);
            for code in GRPC_CODES {
                metrics.handled.with_label_values(&[kind, service, method, code]);
            }
        }
        metrics
    }
}

impl ProcessMetrics {
    fn new(r: &Registry) -> Self {
        ProcessMetrics {
            cpu_seconds: register(
                r,
                Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
                    .expect(WHY),
            ),
            open_fds: int_gauge(r, "process_open_fds", "Number of open file descriptors."),
            max_fds: int_gauge(r, "process_max_fds", "Maximum number of open file descriptors."),
            virtual_bytes: int_gauge(r, "process_virtual_memory_bytes", "Virtual memory size in bytes."),
            resident_bytes: int_gauge(r, "process_resident_memory_bytes", "Resident memory size in bytes."),
            start_time: gauge(
                r,
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            ),
            threads: int_gauge(r, "process_threads", "Number of OS threads in the process."),
        }
    }

    /// Reads `/proc/self`; a figure that cannot be read keeps its last value.
    fn refresh(&self) {
        let Some(stat) = crate::sys::process_stat() else { return };
        let grown = stat.cpu_seconds - self.cpu_seconds.get();
        if grown > 0.0 {
            self.cpu_seconds.inc_by(grown);
        }
        self.open_fds.set(stat.open_fds);
        self.max_fds.set(stat.max_fds);
        self.virtual_bytes.set(stat.virtual_bytes);
        self.resident_bytes.set(stat.resident_bytes);
        self.start_time.set(stat.start_time_seconds);
        self.threads.set(stat.threads);
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect(WHY);
    collector
}

fn int_counter(r: &Registry, name: &str, help: &str) -> IntCounter {
    register(r, IntCounter::new(name, help).expect(WHY))
}

fn int_gauge(r: &Registry, name: &str, help: &str) -> IntGauge {
    register(r, IntGauge::new(name, help).expect(WHY))
}

fn gauge(r: &Registry, name: &str, help: &str) -> Gauge {
    register(r, Gauge::new(name, help).expect(WHY))
}

fn int_counter_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(r, IntCounterVec::new(Opts::new(name, help), labels).expect(WHY))
}

fn int_gauge_vec(r: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(r, IntGaugeVec::new(Opts::new(name, help), labels).expect(WHY))
}

fn histogram(r: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    register(r, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())).expect(WHY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_there_from_the_first_scrape() {
        let metrics = Metrics::new();
        let _ship = metrics.shipper();
        let _bucket = metrics.bucket("fs: /x");
        let page = String::from_utf8(metrics.render()).unwrap();
        for line in [
            "thanos_sidecar_prometheus_up 0",
            "thanos_status{check=\"ready\",component=\"sidecar\"} 0",
            "thanos_store_selects_dropped_total{reason=\"series\"} 0",
            "thanos_shipper_uploads_total 0",
            "pillion_shipper_failures_total{class=\"throttled\"} 0",
            "pillion_shipper_pending_blocks 0",
            "pillion_shipper_oldest_pending_retention_seconds +Inf",
            "thanos_objstore_bucket_operations_total{bucket=\"fs: /x\",operation=\"upload\"} 0",
            "thanos_objstore_bucket_last_successful_upload_time{bucket=\"fs: /x\"} 0",
            "grpc_req_panics_recovered_total 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is missing in:\n{page}");
        }
        assert_eq!(page.matches("grpc_server_handled_total{").count(), GRPC_METHODS.len() * GRPC_CODES.len());
        assert!(page.contains("process_resident_memory_bytes "), "{page}");
    }
}
