//! The sidecar's configuration, which is made once from the flags, checked as a whole and never changed. Reads the files
//! that flags name.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::cli::flags::SidecarFlags;
use crate::cli::store_limits::StoreLimits;
use crate::cli::values::HashFunc;
use crate::limits;
use crate::request_log::RequestLogConfig;
use pillion_base::content::{self, Content};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::secret::Secret;
use pillion_base::size::ByteSize;
use pillion_base::time::{GoDuration, TimeOrDuration};
use pillion_bucket::BucketConfig;
use pillion_http::address::{ListenAddress, PrometheusUrl};
use pillion_http::client::ClientConfig;
use pillion_http::tls::{self, ClientAuth, Pem, ServerSettings};
use pillion_read::store::PerCall;
use pillion_reload::{RETRY_INTERVAL, ReloadConfig};
use pillion_ship::UploadLimits;
use pillion_trace::Config as TracingConfig;

/// What the sidecar is to do, except for its log, which is set up before.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Where HTTP is served.
    pub(crate) http_address: ListenAddress,
    /// Time that open HTTP requests get at the stop.
    pub(crate) http_grace_period: Duration,
    /// The web configuration of the HTTP server; `None` serves to everybody, without TLS.
    pub(crate) http_config: Option<PathBuf>,
    /// Where gRPC is served.
    pub(crate) grpc_address: ListenAddress,
    /// Time that open gRPC calls get at the stop.
    pub(crate) grpc_grace_period: Duration,
    /// Age at which a gRPC connection is asked to end; `None` is never.
    pub(crate) max_connection_age: Option<Duration>,
    /// TLS of the gRPC server; `None` serves without.
    pub(crate) grpc_tls: Option<ServerSettings>,
    /// Largest gRPC request, in bytes.
    pub(crate) request_bytes_max: usize,
    /// Where Prometheus is.
    pub(crate) prometheus_url: PrometheusUrl,
    /// How Prometheus is reached.
    pub(crate) prometheus_client: ClientConfig,
    /// Where that was read.
    pub(crate) prometheus_client_source: Source,
    /// How calls are traced; `None` traces none.
    pub(crate) tracing: Option<TracingConfig>,
    /// Where that was read.
    pub(crate) tracing_source: Source,
    /// Longest wait for external labels at start, when blocks are uploaded.
    pub(crate) ready_timeout: Duration,
    /// Time between two rounds of questions to Prometheus; never zero.
    pub(crate) get_config_interval: Duration,
    /// Time-out of one such round; never zero.
    pub(crate) get_config_timeout: Duration,
    /// Prometheus's data folder, as given.
    pub(crate) tsdb_path: PathBuf,
    /// How blocks are uploaded.
    pub(crate) shipper: ShipperOptions,
    /// Hash function over the files of a block.
    pub(crate) hash_func: HashFunc,
    /// What Series calls may return and hold, as the flags say.
    pub(crate) store_limits: StoreLimits,
    /// Series and label calls at once, at least 1.
    pub(crate) concurrent_calls: usize,
    /// Longest time that a client may take nothing of an answer.
    pub(crate) stalled_call_timeout: Duration,
    /// Start of the time range that is served.
    pub(crate) min_time: TimeOrDuration,
    /// Where blocks are uploaded to; `None` uploads nothing.
    pub(crate) bucket: Option<BucketConfig>,
    /// Where that is written.
    pub(crate) bucket_source: Source,
    /// Which requests are logged.
    pub(crate) request_log: RequestLogConfig,
    /// Where that is written.
    pub(crate) request_log_source: Source,
    /// The file that overrides the limits of calls and is read again when it changes; empty is none.
    pub(crate) store_limits_file: String,
    /// What of Prometheus's is watched; `None` watches nothing.
    pub(crate) reload: Option<ReloadConfig>,
    /// How Prometheus is told to reload.
    pub(crate) reload_method: ReloadMethod,
    /// Only say what would be uploaded.
    pub(crate) dry_run: bool,
    /// Whether `POST /-/reload` is served.
    pub(crate) enable_lifecycle: bool,
}

/// A pair of flags of which one names a file and the other is what would be in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Empty when it is the content that is given, or nothing.
    pub(crate) file: String,
    pub(crate) content: Secret,
}

impl Source {
    /// The file, if it is one.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        Some(&self.file).filter(|file| !file.is_empty()).map(PathBuf::from).into_iter().collect()
    }
}

/// How Prometheus is told to reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReloadMethod {
    /// By a request.
    Http,
    /// By SIGHUP to the process of this name.
    Signal(String),
}

impl ReloadMethod {
    /// The word of `--reloader.method`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            ReloadMethod::Http => "http",
            ReloadMethod::Signal(_) => "signal",
        }
    }
}

/// The flags of `--shipper.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShipperOptions {
    /// Upload compacted blocks too.
    pub(crate) upload_compacted: bool,
    /// Go on although Prometheus's shortest and longest block differ.
    pub(crate) ignore_unequal_block_size: bool,
    /// Go on to the next block when one could not be uploaded.
    pub(crate) allow_out_of_order_uploads: bool,
    /// Name of the list of uploaded blocks, a plain file name.
    pub(crate) meta_file_name: String,
    /// Files of a block that are uploaded at once, at least 1.
    pub(crate) upload_concurrency: usize,
    /// The upload limits that the flags set.
    pub(crate) upload_limits: UploadLimits,
    /// The file that overrides `upload_limits` and is read again at SIGHUP; empty is none.
    pub(crate) upload_limits_file: String,
    /// Bytes of blocks that are kept after Prometheus has deleted them; 0 leaves it to the size of the file system.
    pub(crate) claim_budget_bytes: u64,
    /// Bytes that those leave free for Prometheus; 0 leaves it to the size of the file system.
    pub(crate) claim_reserve_bytes: u64,
}

impl Config {
    /// Checks the flags and loads the files that they name. `env` gives environment variables.
    ///
    /// `Errors:` each says which flag to change; none holds a secret.
    pub(crate) fn from_flags(flags: SidecarFlags, env: &dyn Fn(&str) -> Option<String>) -> Result<Config> {
        let ratio = flags.auto_gomemlimit_ratio;
        if !(ratio > 0.0 && ratio <= 1.0) {
            return Err(wrong("--auto-gomemlimit.ratio must be greater than 0 and less than or equal to 1.")
                .context("failed to configure Go runtime memory limits"));
        }
        let positive = |flag: &str, value: GoDuration| {
            let text = || wrong(format!("--{flag} must be greater than 0, got {value}"));
            value.positive().ok_or_else(text)
        };
        let prometheus_client_source =
            Source { file: flags.prometheus_http_client_file, content: flags.prometheus_http_client };
        let tracing_source = Source { file: flags.tracing_config_file, content: flags.tracing_config };
        if flags.tsdb_path.is_empty() {
            return Err(wrong("--tsdb.path must not be empty"));
        }
        let reload_method = match flags.reloader_method.as_str() {
            "signal" => ReloadMethod::Signal(flags.reloader_process_name),
            _ => ReloadMethod::Http,
        };
        let times = [flags.reloader_watch_interval, flags.reloader_retry_interval, flags.reloader_debounce];
        let files = [flags.reloader_config_file, flags.reloader_config_envsubst_file];
        Ok(Config {
            reload: reload(files, flags.reloader_rule_dir, times)?,
            reload_method,
            http_address: flags.http_address,
            http_grace_period: flags.http_grace_period.0,
            http_config: Some(flags.http_config).filter(|path| !path.is_empty()).map(PathBuf::from),
            grpc_address: flags.grpc_address,
            grpc_grace_period: flags.grpc_grace_period.or_zero(),
            max_connection_age: flags.grpc_server_max_connection_age.positive(),
            grpc_tls: grpc_tls(
                [flags.grpc_server_tls_cert, flags.grpc_server_tls_key, flags.grpc_server_tls_client_ca],
                &flags.grpc_server_tls_min_version,
                &flags.grpc_server_tls_ciphers,
                &flags.grpc_server_tls_curves,
            )?,
            request_bytes_max: request_bytes_max(flags.grpc_server_max_request_size)?,
            prometheus_url: flags.prometheus_url,
            prometheus_client: http_client(&prometheus_client_source)?,
            prometheus_client_source,
            tracing: tracing(&tracing_source, env).map_err(|err| err.context("tracing failed"))?,
            tracing_source,
            ready_timeout: flags.prometheus_ready_timeout.or_zero(),
            get_config_interval: positive("prometheus.get_config_interval", flags.prometheus_get_config_interval)?,
            get_config_timeout: positive("prometheus.get_config_timeout", flags.prometheus_get_config_timeout)?,
            tsdb_path: PathBuf::from(flags.tsdb_path),
            shipper: ShipperOptions {
                upload_compacted: flags.shipper_upload_compacted,
                ignore_unequal_block_size: flags.shipper_ignore_unequal_block_size,
                allow_out_of_order_uploads: flags.shipper_allow_out_of_order_uploads,
                meta_file_name: file_name(flags.shipper_meta_file_name)?,
                upload_concurrency: usize::try_from(flags.shipper_upload_concurrency).unwrap_or(1).max(1),
                upload_limits: UploadLimits {
                    rate_bytes: flags.shipper_upload_rate_limit.0,
                    jitter: not_negative("shipper.upload-jitter", flags.shipper_upload_jitter)?,
                    windows: flags.shipper_upload_window,
                },
                upload_limits_file: flags.shipper_upload_limits_file,
                claim_budget_bytes: flags.shipper_claim_budget.0,
                claim_reserve_bytes: flags.shipper_claim_reserve.0,
            },
            hash_func: flags.hash_func,
            store_limits: StoreLimits {
                per_call: PerCall {
                    series_max: flags.store_limits_request_series,
                    samples_max: flags.store_limits_request_samples,
                },
                bytes_in_flight: usize::try_from(flags.store_limits_bytes_in_flight).unwrap_or(usize::MAX),
            },
            concurrent_calls: concurrent_calls(flags.store_limits_concurrent_calls)?,
            stalled_call_timeout: never_if_zero(not_negative(
                "store.limits.stalled-call-timeout",
                flags.store_limits_stalled_call_timeout,
            )?),
            min_time: flags.min_time,
            bucket: bucket(&flags.objstore_config_file, &flags.objstore_config.0, env)?,
            bucket_source: Source { file: flags.objstore_config_file, content: flags.objstore_config },
            request_log: request_log(&flags.request_logging_config_file, &flags.request_logging_config.0)?,
            request_log_source: Source {
                file: flags.request_logging_config_file,
                content: flags.request_logging_config,
            },
            store_limits_file: flags.store_limits_file,
            enable_lifecycle: flags.web_enable_lifecycle,
            dry_run: flags.dry_run,
        })
    }
}

fn not_negative(flag: &str, value: GoDuration) -> Result<Duration> {
    if value.0 < 0 {
        return Err(wrong(format!("--{flag} must not be negative, got {value}")));
    }
    Ok(value.or_zero())
}

/// What is watched, if anything.
fn reload(
    [config_file, output_file]: [String; 2],
    rule_dirs: Vec<String>,
    [watch_interval, retry_interval, debounce]: [GoDuration; 3],
) -> Result<Option<ReloadConfig>> {
    let watch_interval = not_negative("reloader.watch-interval", watch_interval)?;
    let retry_interval = not_negative("reloader.retry-interval", retry_interval)?;
    let debounce = not_negative("reloader.debounce", debounce)?;
    let path = |path: String| Some(path).filter(|path| !path.is_empty()).map(PathBuf::from);
    let (config_file, output_file) = (path(config_file), path(output_file));
    if rule_dirs.iter().any(String::is_empty) {
        return Err(wrong("--reloader.rule-dir must not be empty"));
    }
    if config_file.is_some() && config_file == output_file {
        let text =
            "--reloader.config-envsubst-file must not be the file of --reloader.config-file, from which it is made";
        return Err(wrong(text));
    }
    if config_file.is_none() && rule_dirs.is_empty() {
        return Ok(None);
    }
    Ok(Some(ReloadConfig {
        config_file,
        output_file,
        rule_dirs: rule_dirs.into_iter().map(PathBuf::from).collect(),
        watch_interval: Some(watch_interval).filter(|time| !time.is_zero()),
        retry_interval: if retry_interval.is_zero() { RETRY_INTERVAL } else { retry_interval },
        debounce,
    }))
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text)
}

/// TLS as the flags `--grpc-server-tls-*` say; the files are not read yet. Names that cannot be meant are refused without
/// TLS too.
fn grpc_tls(
    [cert, key, client_ca]: [String; 3],
    min_version: &str,
    ciphers: &[String],
    curves: &[String],
) -> Result<Option<ServerSettings>> {
    let named = |flag: &str, text: String| wrong(format!("--grpc-server-tls-{flag}: {text}"));
    let ciphers = ciphers.iter().map(|name| tls::parse_cipher_suite(name));
    let curves = curves.iter().map(|name| tls::parse_curve(name));
    let ciphers: Vec<_> = ciphers.collect::<Result<_, _>>().map_err(|text| named("ciphers", text))?;
    let curves: Vec<_> = curves.collect::<Result<_, _>>().map_err(|text| named("curves", text))?;
    match (cert.is_empty(), key.is_empty()) {
        (true, true) if client_ca.is_empty() => return Ok(None),
        (true, true) => {
            let text = "when a client CA is used a server key and certificate must also be provided; \
                        give --grpc-server-tls-cert and --grpc-server-tls-key";
            return Err(wrong(text));
        }
        (false, false) => {}
        (no_cert, _) => {
            let missing = if no_cert { "cert" } else { "key" };
            let text =
                format!("both server key and certificate must be provided; give --grpc-server-tls-{missing} too");
            return Err(wrong(text));
        }
    }
    let min_version = tls::parse_min_version(min_version).map_err(|text| named("min-version", text))?;
    let pem = |flag: &str, path: &str| Pem::file(format!("--grpc-server-tls-{flag}"), path);
    let client_ca = Some(client_ca).filter(|path| !path.is_empty()).map(|path| pem("client-ca", &path));
    Ok(Some(ServerSettings {
        client_auth: if client_ca.is_some() { ClientAuth::RequireAndVerify } else { ClientAuth::None },
        client_ca,
        min_version,
        cipher_suites: ciphers,
        curves,
        alpn: vec![b"h2".to_vec()],
        ..ServerSettings::new(pem("cert", &cert), pem("key", &key))
    }))
}

/// The size, which is bounded because the memory for requests follows it.
fn request_bytes_max(size: ByteSize) -> Result<usize> {
    let bytes = usize::try_from(size.0).unwrap_or(usize::MAX);
    if limits::REQUEST_BYTES_RANGE.contains(&bytes) {
        return Ok(bytes);
    }
    Err(wrong(format!("--grpc-server-max-request-size must be between 64KiB and 64MiB, got {} bytes", size.0)))
}

/// 0 is no limit.
fn never_if_zero(time: Duration) -> Duration {
    if time.is_zero() { Duration::MAX } else { time }
}

/// The number, which is bounded because each call takes a thread.
fn concurrent_calls(number: u64) -> Result<usize> {
    match usize::try_from(number) {
        Ok(number @ 1..=1024) => Ok(number),
        _ => Err(wrong(format!("--store.limits.concurrent-calls must be between 1 and 1024, got {number}"))),
    }
}

/// The name, if it names a file and cannot lead out of the folder.
pub(crate) fn file_name(name: String) -> Result<String> {
    let mut parts = Path::new(&name).components();
    let is_plain =
        matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name.as_str());
    if is_plain && !name.contains(char::is_control) {
        return Ok(name);
    }
    Err(wrong(format!("--shipper.meta-file-name must be the name of a file, without a folder, got {name:?}")))
}

/// The bucket of `--objstore.config-file` or `--objstore.config`; `None` when neither is given.
pub(crate) fn bucket(file: &str, content: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<BucketConfig>> {
    const CONTEXT: &str = "getting object store config";
    let Some(loaded) = content::load("objstore.config", file, content).map_err(|err| err.context(CONTEXT))? else {
        return Ok(None);
    };
    let text = content::substitute(&loaded.text, env).map_err(|err| err.context(CONTEXT))?;
    BucketConfig::parse(&Content { text, ..loaded }).map(Some)
}

/// How Prometheus is reached, by `--prometheus.http-client-file` or `--prometheus.http-client`.
pub(crate) fn http_client(source: &Source) -> Result<ClientConfig> {
    let loaded = content::load("prometheus.http-client", &source.file, &source.content.0)?;
    loaded.map_or_else(|| Ok(ClientConfig::default()), |content| ClientConfig::parse(&content))
}

/// How calls are traced, by `--tracing.config-file` or `--tracing.config`; `env` gives the variables of OpenTelemetry.
pub(crate) fn tracing(source: &Source, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<TracingConfig>> {
    let loaded = content::load("tracing.config", &source.file, &source.content.0)?;
    loaded.map(|content| TracingConfig::parse(&content, env)).transpose()
}

/// Which requests are logged, by `--request.logging-config-file` or `--request.logging-config`; none when neither is given.
pub(crate) fn request_log(file: &str, content: &str) -> Result<RequestLogConfig> {
    const CONTEXT: &str = "error while parsing config for request logging";
    let loaded = content::load("request.logging-config", file, content).map_err(|err| err.context(CONTEXT))?;
    let Some(Content { text, .. }) = loaded else { return Ok(RequestLogConfig::default()) };
    RequestLogConfig::parse(&text).map_err(|err| err.context(CONTEXT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse::{Invocation, parse};
    use pillion_bucket::Provider;
    use pillion_http::tls::Version;

    fn config(args: &[&str]) -> Result<Config> {
        let args: Vec<String> = std::iter::once("sidecar").chain(args.iter().copied()).map(str::to_owned).collect();
        let Invocation::Sidecar(flags) = parse("pillion", &args) else { panic!("{args:?} are not flags") };
        let env = |name: &str| (name == "FOLDER").then(|| "/data".to_owned());
        Config::from_flags(*flags, &env)
    }

    #[test]
    fn defaults() {
        let config = config(&[]).unwrap();
        assert_eq!(config.http_address.to_string(), "0.0.0.0:10902");
        assert_eq!(config.grpc_address.port(), 10901);
        assert_eq!(
            (config.http_grace_period, config.grpc_grace_period),
            (Duration::from_secs(120), Duration::from_secs(120))
        );
        assert_eq!(config.max_connection_age, Some(Duration::from_secs(3600)));
        assert_eq!(config.prometheus_url.to_string(), "http://localhost:9090");
        assert_eq!(config.ready_timeout, Duration::from_secs(600));
        assert_eq!(
            (config.get_config_interval, config.get_config_timeout),
            (Duration::from_secs(30), Duration::from_secs(30))
        );
        assert_eq!(config.tsdb_path, Path::new("./data"));
        assert_eq!(config.min_time.at(0), pillion_base::time::YEAR_ZERO_MS);
        assert_eq!((config.bucket, config.shipper.upload_concurrency), (None, 1));
        assert_eq!(config.shipper.meta_file_name, "thanos.shipper.json");
        assert_eq!(config.shipper.upload_limits.to_string(), "no rate limit, jitter 10s, at any time");
        assert_eq!((config.shipper.upload_limits_file.as_str(), config.shipper.claim_budget_bytes), ("", 0));
    }

    #[test]
    fn limits_of_uploads() {
        let config = config(&[
            "--shipper.upload-rate-limit=2.5MB",
            "--shipper.upload-jitter=0",
            "--shipper.upload-window=22:00-06:00+01:00",
            "--shipper.upload-window=12:00-13:00",
            "--shipper.claim-budget=5GiB",
            "--shipper.claim-reserve=1GiB",
        ])
        .unwrap();
        let expected = "2500000 bytes per second, jitter 0s, at 22:00-06:00+01:00 and 12:00-13:00Z";
        assert_eq!(config.shipper.upload_limits.to_string(), expected);
        assert_eq!((config.shipper.claim_budget_bytes, config.shipper.claim_reserve_bytes), (5 << 30, 1 << 30));
    }

    #[test]
    fn zero_and_less() {
        let config = config(&[
            "--grpc-grace-period=-5s",
            "--http-grace-period=0",
            "--grpc-server-max-connection-age=0s",
            "--prometheus.ready_timeout=-1s",
            "--shipper.upload-concurrency=-1",
        ])
        .unwrap();
        assert_eq!((config.grpc_grace_period, config.http_grace_period), (Duration::ZERO, Duration::ZERO));
        assert_eq!((config.max_connection_age, config.ready_timeout), (None, Duration::ZERO));
        assert_eq!(config.shipper.upload_concurrency, 1);
        let concurrent = super::tests::config(&["--shipper.upload-concurrency=4"]).unwrap();
        assert_eq!(concurrent.shipper.upload_concurrency, 4);
    }

    #[test]
    fn what_is_refused() {
        for (arg, want) in [
            (
                "--prometheus.http-client=bearer_tokn: x",
                "--prometheus.http-client: line 1: field bearer_tokn not found in the HTTP client's configuration",
            ),
            ("--prometheus.get_config_interval=0s", "--prometheus.get_config_interval must be greater than 0, got 0s"),
            (
                "--prometheus.get_config_interval=-1m",
                "--prometheus.get_config_interval must be greater than 0, got -1m0s",
            ),
            ("--prometheus.get_config_timeout=0", "--prometheus.get_config_timeout must be greater than 0, got 0s"),
            ("--shipper.meta-file-name=", "--shipper.meta-file-name must be the name of a file"),
            ("--shipper.meta-file-name=..", "--shipper.meta-file-name must be the name of a file"),
            ("--shipper.meta-file-name=.", "--shipper.meta-file-name must be the name of a file"),
            ("--shipper.meta-file-name=a/b", "--shipper.meta-file-name must be the name of a file"),
            ("--shipper.meta-file-name=a/", "--shipper.meta-file-name must be the name of a file"),
            ("--shipper.meta-file-name=/a", "--shipper.meta-file-name must be the name of a file"),
            ("--tsdb.path=", "--tsdb.path must not be empty"),
            ("--reloader.rule-dir=", "--reloader.rule-dir must not be empty"),
            ("--reloader.watch-interval=-1s", "--reloader.watch-interval must not be negative, got -1s"),
            ("--reloader.retry-interval=-1s", "--reloader.retry-interval must not be negative, got -1s"),
            ("--reloader.debounce=-1s", "--reloader.debounce must not be negative, got -1s"),
            ("--shipper.upload-jitter=-1s", "--shipper.upload-jitter must not be negative, got -1s"),
            (
                "--grpc-server-tls-cert=/a",
                "both server key and certificate must be provided; give --grpc-server-tls-key too",
            ),
            (
                "--grpc-server-tls-key=/a",
                "both server key and certificate must be provided; give --grpc-server-tls-cert too",
            ),
            (
                "--grpc-server-tls-client-ca=/a",
                "when a client CA is used a server key and certificate must also be provided",
            ),
            ("--grpc-server-tls-ciphers=X", "--grpc-server-tls-ciphers: invalid cipher suite: X, valid values are"),
            ("--grpc-server-tls-curves=X", "--grpc-server-tls-curves: invalid curve: X, valid values are"),
            (
                "--grpc-server-max-request-size=1KB",
                "--grpc-server-max-request-size must be between 64KiB and 64MiB, got 1000 bytes",
            ),
            (
                "--auto-gomemlimit.ratio=0",
                "failed to configure Go runtime memory limits: --auto-gomemlimit.ratio must be greater than 0 and less \
                 than or equal to 1.",
            ),
            ("--auto-gomemlimit.ratio=1.1", "failed to configure Go runtime memory limits"),
            ("--auto-gomemlimit.ratio=NaN", "failed to configure Go runtime memory limits"),
            (
                "--objstore.config-file=/nonexistent",
                "getting object store config: loading file /nonexistent for objstore.config-file",
            ),
            (
                "--objstore.config={type: FILESYSTEM, config: {directory: $(NOWHERE)}}",
                "getting object store config: found reference to unset environment variable \"NOWHERE\"",
            ),
            (
                "--objstore.config={type: S3}",
                "parsing config YAML of --objstore.config: line 1: no s3 endpoint in config file",
            ),
        ] {
            let err = config(&[arg]).expect_err(arg).to_string();
            assert!(err.starts_with(want), "{arg}: {err}");
        }
        let err = config(&["--objstore.config=a", "--objstore.config-file=b"]).unwrap_err().to_string();
        assert_eq!(err, "getting object store config: both objstore.config-file and objstore.config flags set.");
    }

    #[test]
    fn what_is_watched() {
        let rules = ["--reloader.rule-dir=/r", "--reloader.rule-dir=s/"];
        let default = ReloadConfig {
            config_file: None,
            output_file: None,
            rule_dirs: vec!["/r".into(), "s/".into()],
            watch_interval: Some(Duration::from_secs(180)),
            retry_interval: Duration::from_secs(5),
            debounce: Duration::from_secs(1),
        };
        assert_eq!(config(&["--reloader.config-envsubst-file=/o"]).unwrap().reload, None);
        assert_eq!(config(&rules).unwrap().reload, Some(default.clone()));
        let files = ["--reloader.config-file=/i", "--reloader.config-envsubst-file=/o"];
        let zero = ["--reloader.watch-interval=0s", "--reloader.retry-interval=0s", "--reloader.debounce=0s"];
        let got = config(&[&files[..], &zero].concat()).unwrap();
        let want = ReloadConfig {
            config_file: Some("/i".into()),
            output_file: Some("/o".into()),
            rule_dirs: Vec::new(),
            watch_interval: None,
            debounce: Duration::ZERO,
            ..default
        };
        assert_eq!((got.reload, got.reload_method), (Some(want), ReloadMethod::Http));
        let signal = config(&["--reloader.method=signal", "--reloader.process-name=p"]).unwrap().reload_method;
        assert_eq!((signal.name(), signal), ("signal", ReloadMethod::Signal("p".into())));
        let same = ["--reloader.config-file=/i", "--reloader.config-envsubst-file=/i"];
        let err = config(&same).unwrap_err().to_string();
        assert!(
            err.starts_with("--reloader.config-envsubst-file must not be the file of --reloader.config-file"),
            "{err}"
        );
    }

    #[test]
    fn tls_of_grpc() {
        let files = ["--grpc-server-tls-cert=/c", "--grpc-server-tls-key=/k"];
        assert!(config(&["--grpc-server-tls-min-version=1.0"]).unwrap().grpc_tls.is_none());
        let tls = config(&files).unwrap().grpc_tls.unwrap();
        assert_eq!(
            (tls.min_version, tls.client_auth, tls.alpn),
            (Version::Tls13, ClientAuth::None, vec![b"h2".to_vec()])
        );
        let more = ["--grpc-server-tls-client-ca=/ca", "--grpc-server-tls-min-version=1.2"];
        let tls = config(&[&files[..], &more].concat()).unwrap().grpc_tls.unwrap();
        assert_eq!((tls.min_version, tls.client_auth), (Version::Tls12, ClientAuth::RequireAndVerify));
        let err = config(&[&files[..], &["--grpc-server-tls-min-version=1.1"]].concat()).unwrap_err().to_string();
        assert!(err.starts_with("--grpc-server-tls-min-version: "), "{err}");
    }

    #[test]
    fn a_bucket_with_a_variable() {
        let config =
            config(&["--objstore.config={type: FILESYSTEM, config: {directory: $(FOLDER)/x}, prefix: p/}"]).unwrap();
        let provider = Provider::Filesystem { directory: "/data/x".into() };
        assert_eq!(config.bucket, Some(BucketConfig { prefix: "p".into(), provider, remarks: Vec::new() }));
        let empty = super::tests::config(&["--objstore.config="]).unwrap();
        assert_eq!(empty.bucket, None);
    }
}
