//! The tables of flags. One entry says everything about a flag, from its name to the field of its typed value; `flag`
//! explains how it is written. The tables drive the parser, `--help` and the table in docs/flags.md. Pure.

use std::time::Duration;

use crate::cli::flag::{Arg, Flag, Presence, Status, Value, flags};
use crate::cli::values::{
    HASH_FUNCS, HashFunc, LOG_FORMATS, LOG_LEVELS, PrometheusDuration, RELOAD_METHODS, TLS_VERSIONS, float, http_url,
    int, positive, reload_method, tls_version, uint,
};
use crate::log_format::{LogFormat, LogLevel};
use pillion_base::secret::Secret;
use pillion_base::size::ByteSize;
use pillion_base::time::{GoDuration, TimeOrDuration, parse_query_time};
use pillion_http::address::{ListenAddress, PrometheusUrl};
use pillion_ship::Window;

flags! {
    /// The global flags and those of `sidecar`.
    struct SidecarFlags;

    /// Flags that may stand before or after the command.
    table GLOBAL {
        log_level: LogLevel = "log.level", Enum(LOG_LEVELS), Default("info"), Supported,
            "Least severe level of the lines that are logged.";
        log_format: LogFormat = "log.format", Enum(LOG_FORMATS), Default("logfmt"), Supported,
            "Format of the log on standard error.";
        debug_name: String = "debug.name", Text("name"), Default(""), Supported,
            "Name that is added to every line of the log.", hidden;
        tracing_config_file: String = "tracing.config-file", PATH, Default(""), Supported,
            "File with the tracing configuration, in YAML.";
        tracing_config: Secret = "tracing.config", CONTENT, Default(""), Supported,
            "The tracing configuration itself, in place of --tracing.config-file.";
        enable_auto_gomemlimit: bool = "enable-auto-gomemlimit", Bool, Default("false"), NoEffect,
            "Would set the memory limit of Go's runtime, which Pillion does not have.";
        auto_gomemlimit_ratio: f64, from_str_fn(float) = "auto-gomemlimit.ratio", Number, Default("0.9"), NoEffect,
            "Share of the memory for Go's runtime, above 0 and at most 1. Checked, and without effect.";
    }

    /// Flags of the `sidecar` command.
    table SIDECAR {
        http_address: ListenAddress = "http-address", ADDRESS, Default("0.0.0.0:10902"), Supported,
            "Where metrics and probes are served over HTTP.";
        http_grace_period: PrometheusDuration = "http-grace-period", Text("duration"), Default("2m"), Supported,
            "Time that open HTTP requests get when the sidecar stops.";
        http_config: String = "http.config", PATH, Default(""), Supported,
            "File with TLS and authentication settings of the HTTP server.";
        web_enable_lifecycle: bool = "web.enable-lifecycle", Bool, Default("false"), Own,
            "Read everything again that can change while the sidecar runs at POST /-/reload, as at SIGHUP.";
        grpc_address: ListenAddress = "grpc-address", ADDRESS, Default("0.0.0.0:10901"), Supported,
            "Where the StoreAPI is served over gRPC.";
        grpc_server_tls_cert: String = "grpc-server-tls-cert", PATH, Default(""), Supported,
            "Certificate of the gRPC server; empty serves without TLS.";
        grpc_server_tls_key: String = "grpc-server-tls-key", PATH, Default(""), Supported,
            "Key of the gRPC server's certificate; empty serves without TLS.";
        grpc_server_tls_client_ca: String = "grpc-server-tls-client-ca", PATH, Default(""), Supported,
            "Authorities of client certificates; when given, every client needs one.";
        grpc_server_tls_min_version: String, from_str_fn(tls_version) =
            "grpc-server-tls-min-version", Enum(TLS_VERSIONS), Default("1.3"), Supported,
            "Oldest version of TLS that gRPC clients may use; 1.0 and 1.1 are refused.";
        grpc_server_tls_ciphers: Vec<String> = "grpc-server-tls-ciphers", Text("name"), Repeatable, Supported,
            "Cipher suite of TLS 1.2 that gRPC clients may use; those of TLS 1.3 are always offered.";
        grpc_server_tls_curves: Vec<String> = "grpc-server-tls-curves", Text("name"), Repeatable, Supported,
            "Key exchange curve that gRPC clients may use, in the order of preference.";
        grpc_server_max_connection_age: GoDuration =
            "grpc-server-max-connection-age", Duration, Default("60m"), Supported,
            "Age at which a gRPC connection is asked to end, so that clients spread out again; 0 or less is never.";
        grpc_server_max_request_size: ByteSize =
            "grpc-server-max-request-size", BYTES, Default("1MiB"), Own,
            "Largest gRPC request that is taken. Real ones have a few KiB; a larger one is for regular expressions of many thousand words.";
        grpc_grace_period: GoDuration = "grpc-grace-period", Duration, Default("2m"), Supported,
            "Time that open gRPC calls get when the sidecar stops.";
        prometheus_url: PrometheusUrl = "prometheus.url", Secret("url"), Default("http://localhost:9090"), Supported,
            "Where Prometheus's API is reached.";
        prometheus_ready_timeout: GoDuration = "prometheus.ready_timeout", Duration, Default("10m"), Supported,
            "Longest wait for Prometheus at start before uploads are given up.";
        prometheus_get_config_interval: GoDuration =
            "prometheus.get_config_interval", Duration, Default("30s"), Supported,
            "How often Prometheus is asked for its external labels and its time range.";
        prometheus_get_config_timeout: GoDuration =
            "prometheus.get_config_timeout", Duration, Default("30s"), Supported,
            "Time-out of one such round of questions.";
        prometheus_http_client_file: String = "prometheus.http-client-file", PATH, Default(""), Supported,
            "File with the HTTP client's settings for Prometheus (passwords, tokens, TLS, proxy, time-outs), in YAML.";
        prometheus_http_client: Secret = "prometheus.http-client", CONTENT, Default(""), Supported,
            "The HTTP client's settings themselves, in place of --prometheus.http-client-file.";
        tsdb_path: String = "tsdb.path", Text("folder"), Default("./data"), Supported,
            "Prometheus's data folder, whose blocks are uploaded.";
        reloader_config_file: String = "reloader.config-file", PATH, Default(""), Supported,
            "Prometheus configuration that is watched.";
        reloader_config_envsubst_file: String = "reloader.config-envsubst-file", PATH, Default(""), Supported,
            "Where the watched configuration is written with environment variables filled in.";
        reloader_rule_dir: Vec<String> = "reloader.rule-dir", Text("folder"), Repeatable, Supported,
            "Folder of rules that is watched.";
        reloader_watch_interval: GoDuration = "reloader.watch-interval", Duration, Default("3m"), Supported,
            "How often the watched files are read although nothing tells of a change; 0 is never.";
        reloader_retry_interval: GoDuration = "reloader.retry-interval", Duration, Default("5s"), Supported,
            "Wait after a reload that failed, unless the files change before; 0 is the default.";
        reloader_debounce: GoDuration = "reloader.debounce", Duration, Default("1s"), Own,
            "For so long no watched file must change before changes are applied, at most ten times as long.";
        reloader_method: String, from_str_fn(reload_method) =
            "reloader.method", Enum(RELOAD_METHODS), Default("http"), Supported,
            "How Prometheus is told to reload.";
        reloader_process_name: String = "reloader.process-name", Text("name"), Default("prometheus"), Supported,
            "Name of the process that gets the signal, when --reloader.method is signal.";
        request_logging_config_file: String = "request.logging-config-file", PATH, Default(""), Supported,
            "File that says which requests are logged, in YAML.";
        request_logging_config: Secret = "request.logging-config", CONTENT, Default(""), Supported,
            "The same configuration itself, in place of --request.logging-config-file.";
        objstore_config_file: String = "objstore.config-file", PATH, Default(""), Supported,
            "File with the object storage configuration, in YAML; $(NAME) stands for an environment variable. Without \
             one nothing is uploaded.";
        objstore_config: Secret = "objstore.config", CONTENT, Default(""), Supported,
            "The object storage configuration itself, in place of --objstore.config-file.";
        shipper_upload_compacted: bool = "shipper.upload-compacted", Bool, Default("false"), Supported,
            "Upload compacted blocks too, for moving old data to object storage.";
        shipper_ignore_unequal_block_size: bool =
            "shipper.ignore-unequal-block-size", Bool, Default("false"), Supported,
            "Go on although Prometheus's shortest and longest block differ, which means that it compacts.", hidden;
        shipper_allow_out_of_order_uploads: bool =
            "shipper.allow-out-of-order-uploads", Bool, Default("false"), Supported,
            "Go on to the next block when one could not be uploaded.", hidden;
        shipper_skip_corrupted_blocks: bool = "shipper.skip-corrupted-blocks", Bool, Default("false"), NoEffect,
            "Blocks that cannot be read are always passed over, whether it is given or not.", hidden;
        hash_func: HashFunc = "hash-func", Enum(HASH_FUNCS), Default(""), Supported,
            "Hash function over the files of each block, written into its meta.json; empty is none.";
        shipper_meta_file_name: String =
            "shipper.meta-file-name", Text("name"), Default("thanos.shipper.json"), Supported,
            "Name of the file under --tsdb.path that lists uploaded blocks.";
        shipper_upload_concurrency: i64, from_str_fn(int) =
            "shipper.upload-concurrency", Number, Default("0"), Supported,
            "How many files of a block are uploaded at once; 0 is one.";
        shipper_upload_rate_limit: ByteSize = "shipper.upload-rate-limit", BYTES, Default("0"), Own,
            "Most bytes per second that uploads send, over all connections together, such as 10MB or 2.5MiB; 0 is no \
             limit.";
        shipper_upload_jitter: GoDuration = "shipper.upload-jitter", Duration, Default("10s"), Own,
            "Longest random delay before uploads begin, so that a fleet does not upload in the same second; 0 is none.";
        shipper_upload_window: Vec<Window> = "shipper.upload-window", Text("HH:MM-HH:MM"), Repeatable, Own,
            "Time of day in UTC at which uploads may go on, or with an offset behind it as in 22:00-06:00+01:00; \
             without any they always may.";
        shipper_upload_limits_file: String = "shipper.upload-limits-file", PATH, Default(""), Own,
            "YAML file with rate_limit, jitter and windows, which replace the three flags above; it is read again at \
             SIGHUP.";
        shipper_claim_budget: ByteSize = "shipper.claim-budget", BYTES, Default("0"), Own,
            "Most bytes of blocks that are kept for the upload after Prometheus has deleted them, such as 5GiB; 0 is a \
             tenth of the file system under --tsdb.path.";
        shipper_claim_reserve: ByteSize = "shipper.claim-reserve", BYTES, Default("0"), Own,
            "Bytes of the file system under --tsdb.path that those blocks leave free for Prometheus, such as 2GiB; 0 is a \
             twentieth of it.";
        store_limits_request_series: u64, from_str_fn(uint) =
            "store.limits.request-series", Number, Default("0"), Supported,
            "Most series one Series call may return; 0 is no limit.";
        store_limits_request_samples: u64, from_str_fn(uint) =
            "store.limits.request-samples", Number, Default("0"), Supported,
            "Most samples one Series call may return, counted as 120 for each chunk; 0 is no limit.";
        store_limits_file: String = "store.limits.file", PATH, Default(""), Own,
            "YAML file with request_series, request_samples and bytes_in_flight, which replace the flags of these names; it \
             is read again when it changes.";
        store_limits_concurrent_calls: u64, from_str_fn(uint) =
            "store.limits.concurrent-calls", Number, Default("16"), Own,
            "Series and label calls at work at once, those aside that wait for their clients; up to 256 more wait in a \
             queue, and further ones get RESOURCE_EXHAUSTED.";
        store_limits_stalled_call_timeout: GoDuration =
            "store.limits.stalled-call-timeout", Duration, Default("5m"), Own,
            "Time after which a call ends whose client takes nothing of its answer; 0 is never.";
        store_limits_bytes_in_flight: u64, from_str_fn(uint) =
            "store.limits.bytes-in-flight", Number, Default("0"), Own,
            "Bytes that all Series calls together may hold while they sort; 0 is half of the memory limit of the \
             control group (systemd: MemoryMax), and no limit where there is none.";
        min_time: TimeOrDuration = "min-time", Text("time"), Default("0000-01-01T00:00:00Z"), Supported,
            "Start of the time range that is served: an RFC 3339 time, or a duration such as -1d that is counted from \
             now.";
        dry_run: bool = "dry-run", Bool, Default("false"), Own,
            "Serve as usual, but upload nothing and write nothing under --tsdb.path: the log says which blocks would be \
             uploaded, and why not the others.";
    }
}

flags! {
    /// The flags of `check` beside those of the sidecar.
    struct CheckFlags;

    /// Flags of the `check` command beside those of the sidecar.
    table CHECK {
        json: bool = "json", Bool, Default("false"), Own, "Print JSON, one value on a line.";
        read_only: bool = "read-only", Bool, Default("false"), Own,
            "Write nothing into the bucket either: without it a small object is stored, read back, compared and deleted.";
        timeout: Duration, from_str_fn(positive) = "timeout", Duration, Default("20s"), Own,
            "Longest time that one part of the check may take; all begin together.";
    }
}

/// What `check` takes: every flag of the sidecar, so that its command line can be checked as it is, and its own.
const CHECK_AND_SIDECAR: [Flag; CHECK.len() + SIDECAR.len()] = {
    let mut all = [CHECK[0]; CHECK.len() + SIDECAR.len()];
    let mut idx = 0;
    while idx < all.len() {
        all[idx] = if idx < CHECK.len() { CHECK[idx] } else { SIDECAR[idx - CHECK.len()] };
        idx += 1;
    }
    all
};

flags! {
    /// The flags of `info`.
    struct InfoFlags;

    /// Flags of the `info` command.
    table INFO {
        store: String = "store", ADDRESS, Required, Own, "The StoreAPI server to ask.";
        json: bool = "json", Bool, Default("false"), Own, "Print JSON, one value on a line.";
        tls: bool = "tls", Bool, Default("false"), Own,
            "Speak TLS to the server. Each of the other flags of TLS implies it.";
        tls_ca: String = "tls-ca", PATH, Default(""), Own,
            "Authorities that may have signed the server's certificate. Default: the system's.";
        tls_cert: String = "tls-cert", PATH, Default(""), Own, "Certificate that is shown to the server.";
        tls_key: String = "tls-key", PATH, Default(""), Own, "Key of --tls-cert.";
        tls_server_name: String = "tls-server-name", Text("name"), Default(""), Own,
            "Name in the server's certificate, where it is not the host of --store.";
        insecure_skip_verify: bool = "insecure-skip-verify", Bool, Default("false"), Own,
            "Take any certificate of the server, without knowing who it is.";
        timeout: Duration, from_str_fn(positive) =
            "timeout", Duration, Default("10s"), Own, "Longest wait for the answer.";
    }
}

flags! {
    /// The flags of `status`.
    struct StatusFlags;

    /// Flags of the `status` command.
    table STATUS {
        http: PrometheusUrl, from_str_fn(http_url) = "http", Secret("url"), Default("http://127.0.0.1:10902"), Own,
            "The daemon's HTTP port, as host:port or as a URL.";
        json: bool = "json", Bool, Default("false"), Own, "Print the answer as it came.";
        basic_auth_file: String = "basic-auth-file", PATH, Default(""), Own,
            "File with one line, user:password, for a port that wants them.";
        tls: bool = "tls", Bool, Default("false"), Own,
            "Speak TLS, as with a URL that begins with https. Each of the other flags of TLS implies it.";
        tls_ca: String = "tls-ca", PATH, Default(""), Own,
            "Authorities that may have signed the server's certificate. Default: the system's.";
        tls_cert: String = "tls-cert", PATH, Default(""), Own, "Certificate that is shown to the server.";
        tls_key: String = "tls-key", PATH, Default(""), Own, "Key of --tls-cert.";
        tls_server_name: String = "tls-server-name", Text("name"), Default(""), Own,
            "Name in the server's certificate, where it is not the host of --http.";
        insecure_skip_verify: bool = "insecure-skip-verify", Bool, Default("false"), Own,
            "Take any certificate of the server, without knowing who it is.";
        timeout: Duration, from_str_fn(positive) =
            "timeout", Duration, Default("5s"), Own, "Longest wait for the answer.";
    }
}

flags! {
    /// The flags of `series`.
    struct SeriesFlags;

    /// Flags of the `series` command.
    table SERIES {
        store: String = "store", ADDRESS, Required, Own, "The StoreAPI server to ask.";
        matchers: Vec<String> = "match", Text("selector"), RequiredRepeatable, Own,
            "Series to read, such as {job=\"node\"}; several give all of them.";
        start: Option<TimeOrDuration>, from_str_fn(parse_query_time) = "start", Text("time"), Optional, Own,
            "Start of the time range: RFC 3339, seconds since 1970, or a duration such as -1h from now. Default: the \
             oldest.";
        end: Option<TimeOrDuration>, from_str_fn(parse_query_time) = "end", Text("time"), Optional, Own,
            "End of the time range, written like --start. Default: the newest.";
        skip_chunks: bool = "skip-chunks", Bool, Default("false"), Own, "Read the labels only.";
        without_replica_labels: Vec<String> = "without-replica-label", Text("name"), Repeatable, Own,
            "Label that the server leaves out of the answer.";
        samples: bool = "samples", Bool, Default("false"), Own, "Print every sample.";
        json: bool = "json", Bool, Default("false"), Own, "Print JSON, one value on a line.";
        tls: bool = "tls", Bool, Default("false"), Own,
            "Speak TLS to the server. Each of the other flags of TLS implies it.";
        tls_ca: String = "tls-ca", PATH, Default(""), Own,
            "Authorities that may have signed the server's certificate. Default: the system's.";
        tls_cert: String = "tls-cert", PATH, Default(""), Own, "Certificate that is shown to the server.";
        tls_key: String = "tls-key", PATH, Default(""), Own, "Key of --tls-cert.";
        tls_server_name: String = "tls-server-name", Text("name"), Default(""), Own,
            "Name in the server's certificate, where it is not the host of --store.";
        insecure_skip_verify: bool = "insecure-skip-verify", Bool, Default("false"), Own,
            "Take any certificate of the server, without knowing who it is.";
        timeout: Duration, from_str_fn(positive) = "timeout", Duration, Default("30s"), Own,
            "Longest wait for the whole answer.";
    }
}

flags! {
    /// The flags of `verify`.
    struct VerifyFlags;

    /// Flags of the `verify` command.
    table VERIFY {
        objstore_config_file: String = "objstore.config-file", PATH, Default(""), Own,
            "File with the object storage configuration, as for the sidecar.";
        objstore_config: Secret = "objstore.config", CONTENT, Default(""), Own,
            "The object storage configuration itself, in place of --objstore.config-file.";
        tsdb_path: String = "tsdb.path", Text("folder"), Default("./data"), Own,
            "Prometheus's data folder, whose blocks are compared.";
        shipper_meta_file_name: String = "shipper.meta-file-name", Text("name"), Default("thanos.shipper.json"), Own,
            "Name of the file that lists uploaded blocks.";
        shipper_upload_compacted: bool = "shipper.upload-compacted", Bool, Default("false"), Own,
            "Compare compacted blocks too that were never shipped.";
        repair: bool = "repair", Bool, Default("false"), Own,
            "Send what is missing or wrong, meta.json last. A block that was shipped and is gone from the bucket is \
             left alone.";
        labels: Vec<String> = "label", Text("name=value"), Repeatable, Own,
            "External label for a repaired block whose labels neither the bucket nor a claim knows; give all of them.";
        json: bool = "json", Bool, Default("false"), Own, "Print JSON, one value on a line.";
    }
}

flags! {
    /// The flags of `bucket ls`.
    struct LsFlags;

    /// Flags of the `bucket ls` command.
    table LS {
        objstore_config_file: String = "objstore.config-file", PATH, Default(""), Own,
            "File with the object storage configuration, as for the sidecar.";
        objstore_config: Secret = "objstore.config", CONTENT, Default(""), Own,
            "The object storage configuration itself, in place of --objstore.config-file.";
        recursive: bool = "recursive", Bool, Default("false"), Own,
            "List every object below the folder, and no folders.";
        long: bool = "long", Bool, Default("false"), Own,
            "Show the size of each object in bytes, which is one more request for each.";
        json: bool = "json", Bool, Default("false"), Own, "Print JSON, one value on a line.";
    }
}

flags! {
    /// The flags of `bucket cat`.
    struct CatFlags;

    /// Flags of the `bucket cat` command.
    table CAT {
        objstore_config_file: String = "objstore.config-file", PATH, Default(""), Own,
            "File with the object storage configuration, as for the sidecar.";
        objstore_config: Secret = "objstore.config", CONTENT, Default(""), Own,
            "The object storage configuration itself, in place of --objstore.config-file.";
    }
}

/// A command with its flags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command {
    /// The word on the command line, or the two words of a command that stands in a group.
    pub(super) name: &'static str,
    /// One or two sentences.
    pub(super) help: &'static str,
    /// Its own flags, without the global ones.
    pub(super) flags: &'static [Flag],
    /// The words behind it; those that must be given come first.
    pub(super) args: &'static [Arg],
}

/// Commands whose first word is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    /// That word.
    pub(super) name: &'static str,
    /// One sentence.
    pub(super) help: &'static str,
}

impl Group {
    /// Its commands.
    pub(super) fn commands(self) -> impl Iterator<Item = &'static Command> {
        COMMANDS.iter().filter(move |command| command.name.split_once(' ').is_some_and(|(group, _)| group == self.name))
    }
}

/// Every group.
pub(super) const GROUPS: &[Group] =
    &[Group { name: "bucket", help: "Look into the bucket that the sidecar ships its blocks to." }];

/// Every command.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "sidecar",
        help: "Run beside a Prometheus server: serve its data over the StoreAPI and upload its blocks.",
        flags: SIDECAR,
        args: &[],
    },
    Command {
        name: "status",
        help: "Ask a running sidecar what it is doing. The exit code is 0 when it is ready, and 1 when it is not or does \
               not answer.",
        flags: STATUS,
        args: &[],
    },
    Command {
        name: "check",
        help: "Ask and read everything that the sidecar would with the same flags, and say what to change before it is \
               started. Starts nothing. Ends with 0 if it would start and upload, 1 if something keeps it from that, and 2 for \
               a flag's value that cannot be understood.",
        flags: &CHECK_AND_SIDECAR,
        args: &[],
    },
    Command { name: "info", help: "Ask a StoreAPI server what it is and what it has.", flags: INFO, args: &[] },
    Command { name: "series", help: "Read series from a StoreAPI server.", flags: SERIES, args: &[] },
    Command {
        name: "verify",
        help: "Compare the bucket with the local blocks, and send what is missing if asked to.",
        flags: VERIFY,
        args: &[],
    },
    Command {
        name: "bucket ls",
        help: "List what is in the bucket, or in one of its folders. Names begin behind the configured prefix; those of \
               folders end in a slash.",
        flags: LS,
        args: &[Arg {
            name: "folder",
            is_required: false,
            help: "Folder to list. One that does not exist is empty, as stores know no folders.",
        }],
    },
    Command {
        name: "bucket cat",
        help: "Write an object to standard output, of any size.",
        flags: CAT,
        args: &[Arg { name: "object", is_required: true, help: "Object to write, named as bucket ls names it." }],
    },
    Command { name: "bucket verify", help: "The same as verify.", flags: VERIFY, args: &[] },
];

/// The table in docs/flags.md: the global flags and those of the sidecar.
pub fn markdown_table() -> String {
    let mut out = String::from("| Flag | Default | What it does | Status |\n|---|---|---|---|\n");
    for flag in GLOBAL.iter().chain(SIDECAR) {
        let spelled = if flag.is_bool() { format!("--[no-]{}", flag.name) } else { format!("--{}", flag.name) };
        let default = match flag.default_text() {
            "" => String::new(),
            text => format!("`{text}`"),
        };
        let words = match flag.value {
            Value::Enum(words) => {
                let named: Vec<String> =
                    words.iter().filter(|word| !word.is_empty()).map(|word| format!("`{word}`")).collect();
                format!(" One of {}.", named.join(", "))
            }
            _ => String::new(),
        };
        let repeat = if flag.is_repeatable() { " May be repeated." } else { "" };
        let hidden = if flag.hidden { " Not in `--help`." } else { "" };
        let status = match flag.status {
            Status::Supported => "supported",
            Status::NoEffect => "accepted, no effect",
            Status::Own => "Pillion's own",
        };
        let help = flag.help.replace('|', "\\|");
        out.push_str(&format!("| `{spelled}` | {default} | {help}{words}{repeat}{hidden} | {status} |\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_whatever_separates_their_words() {
        let spelled = |flag: &Flag| flag.name.replace(['.', '_'], "-");
        for command in COMMANDS {
            let mut names: Vec<String> = GLOBAL.iter().chain(command.flags).map(spelled).collect();
            names.sort();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{}", command.name);
            assert!(names.iter().all(|name| !name.starts_with("no-")), "--no-x would be ambiguous");
        }
    }

    #[test]
    fn a_command_has_one_name_and_each_group_has_commands() {
        for command in COMMANDS {
            assert_eq!(COMMANDS.iter().filter(|other| other.name == command.name).count(), 1, "{}", command.name);
            let first = command.name.split(' ').next();
            let is_grouped = GROUPS.iter().any(|group| Some(group.name) == first);
            assert_eq!(is_grouped, command.name.contains(' '), "{}", command.name);
            assert!(command.args.is_sorted_by_key(|arg| !arg.is_required), "{}", command.name);
        }
        assert!(GROUPS.iter().all(|group| group.commands().count() > 1));
    }

    #[test]
    fn the_sidecar_has_the_flags_of_thanos() {
        // The flags of Thanos and our own. `--x-file` and `--x` count as two. One more or less is a decision.
        assert_eq!((GLOBAL.len(), SIDECAR.len()), (7, 54));
        assert_eq!(GLOBAL.iter().chain(SIDECAR).filter(|flag| flag.status == Status::Own).count(), 14);
        assert!(SIDECAR.iter().all(|flag| !flag.is_required()));
        let hidden: Vec<&str> = GLOBAL.iter().chain(SIDECAR).filter(|flag| flag.hidden).map(|flag| flag.name).collect();
        assert_eq!(
            hidden,
            [
                "debug.name",
                "shipper.ignore-unequal-block-size",
                "shipper.allow-out-of-order-uploads",
                "shipper.skip-corrupted-blocks"
            ]
        );
    }

    #[test]
    fn every_help_text_is_a_sentence_and_every_row_has_four_cells() {
        for flag in GLOBAL.iter().chain(COMMANDS.iter().flat_map(|command| command.flags)) {
            assert!(flag.help.ends_with('.') && !flag.help.contains('\n'), "{}", flag.name);
        }
        for arg in COMMANDS.iter().flat_map(|command| command.args) {
            assert!(arg.help.ends_with('.'), "{}", arg.name);
        }
        let table = markdown_table();
        assert_eq!(table.lines().count(), 2 + GLOBAL.len() + SIDECAR.len());
        for line in table.lines() {
            assert_eq!(line.replace("\\|", "").matches('|').count(), 5, "{line}");
        }
    }

    /// Whoever swaps the binary keeps the arguments: each flag of Thanos is here, of the same kind and with the same default,
    /// and none of them is refused.
    #[test]
    fn every_flag_of_thanos_is_taken() {
        let table = include_str!("../../tests/data/thanos_flags.txt");
        let rows = table.lines().filter(|line| !line.starts_with('#'));
        let mut n = 0;
        for row in rows {
            let mut words = row.splitn(3, ' ');
            let (name, kind, default) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
            let flag = GLOBAL.iter().chain(SIDECAR).find(|flag| flag.name == name);
            let flag = flag.unwrap_or_else(|| panic!("--{name} is missing"));
            assert!(!matches!(flag.status, Status::Own), "--{name} is one of Thanos's");
            let found = match (flag.value, flag.presence) {
                (Value::Bool, _) => "switch",
                (_, Presence::Repeatable) => "repeatable",
                _ => "value",
            };
            assert_eq!((found, flag.default_text()), (kind, default), "--{name}");
            n += 1;
        }
        let n_own = GLOBAL.iter().chain(SIDECAR).filter(|flag| flag.status == Status::Own).count();
        assert_eq!(n + n_own, GLOBAL.len() + SIDECAR.len());
    }
}
