//! The flags of each command as argh parses them. Defaults come from the table in `flags`, so that there is one copy of
//! them; the parser hands them over like given values. Pure.

use std::time::Duration;

use argh::FromArgs;

use crate::cli::address::{ListenAddress, PrometheusUrl};
use crate::cli::values::{
    ByteSize, HashFunc, LogFormat, LogLevel, PrometheusDuration, Secret, float, int, positive, reload_method,
    tls_version, uint,
};
use crate::ship::window::Window;
use crate::time::{GoDuration, TimeOrDuration, parse_query_time};

/// The global flags and those of `sidecar`.
#[derive(FromArgs, Debug, Clone, PartialEq)]
pub struct SidecarFlags {
    /// least severe level that is logged
    #[argh(option)]
    pub log_level: LogLevel,
    /// format of the log
    #[argh(option)]
    pub log_format: LogFormat,
    /// name in every line of the log
    #[argh(option)]
    pub debug_name: String,
    /// not supported yet
    #[argh(option)]
    pub tracing_config_file: String,
    /// not supported yet
    #[argh(option)]
    pub tracing_config: Secret,
    /// without effect
    #[argh(switch)]
    pub enable_auto_gomemlimit: bool,
    /// checked, without effect
    #[argh(option, from_str_fn(float))]
    pub auto_gomemlimit_ratio: f64,

    /// where HTTP is served
    #[argh(option)]
    pub http_address: ListenAddress,
    /// grace of open HTTP requests
    #[argh(option)]
    pub http_grace_period: PrometheusDuration,
    /// not supported yet
    #[argh(option)]
    pub http_config: String,
    /// where gRPC is served
    #[argh(option)]
    pub grpc_address: ListenAddress,
    /// not supported yet
    #[argh(option)]
    pub grpc_server_tls_cert: String,
    /// not supported yet
    #[argh(option)]
    pub grpc_server_tls_key: String,
    /// not supported yet
    #[argh(option)]
    pub grpc_server_tls_client_ca: String,
    /// not supported yet
    #[argh(option, from_str_fn(tls_version))]
    pub grpc_server_tls_min_version: String,
    /// not supported yet
    #[argh(option)]
    pub grpc_server_tls_ciphers: Vec<String>,
    /// not supported yet
    #[argh(option)]
    pub grpc_server_tls_curves: Vec<String>,
    /// age at which a gRPC connection is asked to end
    #[argh(option)]
    pub grpc_server_max_connection_age: GoDuration,
    /// grace of open gRPC calls
    #[argh(option)]
    pub grpc_grace_period: GoDuration,

    /// where Prometheus is
    #[argh(option)]
    pub prometheus_url: PrometheusUrl,
    /// longest wait for Prometheus at start, with uploads
    #[argh(option)]
    pub prometheus_ready_timeout: GoDuration,
    /// how often Prometheus is asked
    #[argh(option)]
    pub prometheus_get_config_interval: GoDuration,
    /// time-out of one round
    #[argh(option)]
    pub prometheus_get_config_timeout: GoDuration,
    /// not supported yet
    #[argh(option)]
    pub prometheus_http_client_file: String,
    /// not supported yet
    #[argh(option)]
    pub prometheus_http_client: Secret,
    /// data folder of Prometheus
    #[argh(option)]
    pub tsdb_path: String,

    /// not supported yet
    #[argh(option)]
    pub reloader_config_file: String,
    /// not supported yet
    #[argh(option)]
    pub reloader_config_envsubst_file: String,
    /// not supported yet
    #[argh(option)]
    pub reloader_rule_dir: Vec<String>,
    /// not supported yet
    #[argh(option)]
    pub reloader_watch_interval: GoDuration,
    /// not supported yet
    #[argh(option)]
    pub reloader_retry_interval: GoDuration,
    /// not supported yet
    #[argh(option, from_str_fn(reload_method))]
    pub reloader_method: String,
    /// not supported yet
    #[argh(option)]
    pub reloader_process_name: String,
    /// not supported yet
    #[argh(option)]
    pub request_logging_config_file: String,
    /// not supported yet
    #[argh(option)]
    pub request_logging_config: Secret,

    /// file of the object storage configuration
    #[argh(option)]
    pub objstore_config_file: String,
    /// the object storage configuration itself
    #[argh(option)]
    pub objstore_config: Secret,
    /// upload compacted blocks too
    #[argh(switch)]
    pub shipper_upload_compacted: bool,
    /// go on although Prometheus compacts
    #[argh(switch)]
    pub shipper_ignore_unequal_block_size: bool,
    /// go on past a block that could not be uploaded
    #[argh(switch)]
    pub shipper_allow_out_of_order_uploads: bool,
    /// pass over blocks that cannot be read
    #[argh(switch)]
    pub shipper_skip_corrupted_blocks: bool,
    /// hash function over the files of a block
    #[argh(option)]
    pub hash_func: HashFunc,
    /// name of the list of uploaded blocks
    #[argh(option)]
    pub shipper_meta_file_name: String,
    /// files uploaded at once
    #[argh(option, from_str_fn(int))]
    pub shipper_upload_concurrency: i64,
    /// bytes per second of all uploads
    #[argh(option)]
    pub shipper_upload_rate_limit: ByteSize,
    /// longest delay before uploads begin
    #[argh(option)]
    pub shipper_upload_jitter: GoDuration,
    /// when uploads may go on
    #[argh(option)]
    pub shipper_upload_window: Vec<Window>,
    /// file of the three above
    #[argh(option)]
    pub shipper_upload_limits_file: String,
    /// bytes kept after Prometheus has deleted them
    #[argh(option)]
    pub shipper_claim_budget: ByteSize,
    /// most series of a call
    #[argh(option, from_str_fn(uint))]
    pub store_limits_request_series: u64,
    /// most samples of a call
    #[argh(option, from_str_fn(uint))]
    pub store_limits_request_samples: u64,
    /// calls at once
    #[argh(option, from_str_fn(uint))]
    pub store_limits_concurrent_calls: u64,
    /// bytes that calls may hold
    #[argh(option, from_str_fn(uint))]
    pub store_limits_bytes_in_flight: u64,
    /// start of the time range that is served
    #[argh(option)]
    pub min_time: TimeOrDuration,
}

/// The flags of `info`.
#[derive(FromArgs, Debug, Clone, PartialEq)]
pub struct InfoFlags {
    /// the server
    #[argh(option)]
    pub store: String,
    /// print JSON
    #[argh(switch)]
    pub json: bool,
    /// longest wait
    #[argh(option, from_str_fn(positive))]
    pub timeout: Duration,
}

/// The flags of `series`.
#[derive(FromArgs, Debug, Clone, PartialEq)]
pub struct SeriesFlags {
    /// the server
    #[argh(option)]
    pub store: String,
    /// selectors, at least one
    #[argh(option, long = "match")]
    pub matchers: Vec<String>,
    /// start of the range; none is the oldest
    #[argh(option, from_str_fn(parse_query_time))]
    pub start: Option<TimeOrDuration>,
    /// end of the range; none is the newest
    #[argh(option, from_str_fn(parse_query_time))]
    pub end: Option<TimeOrDuration>,
    /// labels only
    #[argh(switch)]
    pub skip_chunks: bool,
    /// labels that the server leaves out
    #[argh(option, long = "without-replica-label")]
    pub without_replica_labels: Vec<String>,
    /// print every sample
    #[argh(switch)]
    pub samples: bool,
    /// print JSON
    #[argh(switch)]
    pub json: bool,
    /// longest wait
    #[argh(option, from_str_fn(positive))]
    pub timeout: Duration,
}

/// The flags of `verify`.
#[derive(FromArgs, Debug, Clone, PartialEq)]
pub struct VerifyFlags {
    /// file of the object storage configuration
    #[argh(option)]
    pub objstore_config_file: String,
    /// the object storage configuration itself
    #[argh(option)]
    pub objstore_config: Secret,
    /// data folder of Prometheus
    #[argh(option)]
    pub tsdb_path: String,
    /// name of the list of uploaded blocks
    #[argh(option)]
    pub shipper_meta_file_name: String,
    /// compare compacted blocks too
    #[argh(switch)]
    pub shipper_upload_compacted: bool,
    /// send what is missing
    #[argh(switch)]
    pub repair: bool,
    /// external labels
    #[argh(option, long = "label")]
    pub labels: Vec<String>,
    /// print JSON
    #[argh(switch)]
    pub json: bool,
}
