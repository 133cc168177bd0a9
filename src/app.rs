//! The one place where the parts meet: builds each once, top to bottom, and sees them to their end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, never, select, tick};
use jiff::Timestamp;

use crate::admin;
use crate::cli::config::{self, ReloadMethod, ShipperOptions};
use crate::cli::store_limits::StoreLimits;
use crate::cli::{Config, HashFunc};
use crate::config_files::{ConfigFiles, Reread};
use crate::grpc::backlog::{self, Backlog};
use crate::grpc::buffers;
use crate::grpc::connections::Connections;
use crate::grpc::front::Front;
use crate::grpc::health::Health;
use crate::grpc::pool::Pool;
use crate::grpc::record::{Doing, Record, Records};
use crate::grpc::reflection::Reflection;
use crate::grpc::request::Late;
use crate::grpc::server::Server;
use crate::grpc::services::Services;
use crate::heartbeat::{Beats, Heartbeat, Pulse};
use crate::metrics::{FrontMetrics, Metrics};
use crate::probes::Probes;
use crate::request_log::RequestLog;
use crate::status::{self, Limits, Parts, Shipping, Status};
use crate::supervisor::{Event, Supervisor, is_ending, spawn_signals};
use crate::{limits, sys, tracing};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Disk;
use pillion_base::state::{PromState, Published};
use pillion_base::stop::Stop;
use pillion_bucket::{Bucket, BucketConfig, BucketMetrics, Metered, Pace};
use pillion_http::address::ListenAddress;
use pillion_http::client as http;
use pillion_http::server::{Log as HttpLog, Server as HttpServer};
use pillion_http::tls::ServerTls;
use pillion_http::web::{self, Web};
use pillion_read::prom::{FlagCheck, PromClient, PromUrl};
use pillion_read::store;
use pillion_reload::{Loaded, Method, Reloader};
use pillion_ship as ship;
use pillion_ship::metrics::ShipMetrics;
use pillion_ship::{DryRun, NextBucket, Schedule, ShipConfig, Shipper, Standing, UploadLimits};
use pillion_trace::Tracer;

/// Runs the sidecar until a signal or the failure of a part.
///
/// `Errors:` what kept it from starting, what ended it, or which parts did not end in time.
pub(crate) fn run(config: Config) -> Result<()> {
    sys::cap_allocator();
    sys::raise_file_limit();
    let metrics = Metrics::new();
    let probes = Probes::new(metrics.status.clone());
    let status = Status::new(probes.clone());
    let mut supervisor = Supervisor::new()?;
    spawn_signals(supervisor.sender())?;

    // HTTP ends last, so that the stop can be watched: it has a stop of its own. So do traces, with the last calls in them.
    let mut http = Supervisor::new()?;
    let config_files = ConfigFiles::new(metrics.config.clone());
    let request_log = RequestLog::new(config.request_log.clone());
    reload_request_log(&config_files, &request_log, &config);
    let web = load_web(&config_files, &config, &metrics)?;
    let admin = HttpServer::bind(&config.http_address, "--http-address")?
        .with_grace(config.http_grace_period)
        .with_web(web)
        .with_log(http_log(&request_log, &config));
    log::info!(address = config.http_address.to_string(); "listening for requests and metrics");
    probes.healthy();
    let on_request: Option<admin::ReloadAll> = config.enable_lifecycle.then(|| {
        let config_files = config_files.clone();
        let all: admin::ReloadAll = Box::new(move || config_files.all());
        all
    });
    let routes = admin::routes(metrics.clone(), probes.clone(), status.clone(), on_request);
    http.spawn("admin", move |stop| admin.run(&stop, &routes))?;

    let tracer = trace(&config, &mut http, &metrics, &config_files);
    let started = tracer.and_then(|tracer| {
        let shared = (&probes, &status);
        start(&config, &mut supervisor, &metrics, shared, &config_files, tracer, request_log)
    });
    let outcome = started.and_then(|client| {
        log::info!("starting sidecar");
        let outcome = wait(&supervisor, http.events(), &config_files);
        probes.stopping(&outcome.as_ref().map_or_else(ToString::to_string, |()| "stopping".into()));
        // The order matters only in that nothing waits for anything else: all parts end at once and together.
        supervisor.begin_stop();
        client.interrupt();
        outcome
    });
    let grace = config.grpc_grace_period;
    let running = supervisor.join(Instant::now() + grace + limits::STOP_DEADLINE);
    let still_serving = http.join(Instant::now() + config.http_grace_period + limits::STOP_DEADLINE);
    outcome?;
    let names: Vec<_> = running.into_iter().chain(still_serving).collect();
    if !names.is_empty() {
        let text = format!("stopped without waiting any longer for: {}", names.join(", "));
        return Err(Error::new(Kind::Stopped, text));
    }
    log::info!("exiting");
    Ok(())
}

/// The web configuration, which looks at its file itself; whoever asks for a reload is told what is wrong with it.
fn load_web(config_files: &ConfigFiles, config: &Config, metrics: &Metrics) -> Result<Option<Web>> {
    let Some(path) = config.http_config.clone() else { return Ok(None) };
    let web = Web::load(&path, metrics.web()).map_err(|err| err.context("server could not be started"))?;
    let reloader = web.reloader();
    config_files.add("web configuration", vec![path.clone()], move |is_asked| {
        if is_asked {
            reloader.reload();
        }
        web::check(&path).map(|()| Reread::Said)
    });
    Ok(Some(web))
}

fn reload_request_log(config_files: &ConfigFiles, log: &RequestLog, config: &Config) {
    let (source, log) = (config.request_log_source.clone(), log.clone());
    if source.files().is_empty() {
        return;
    }
    config_files.add("request logging", source.files(), move |_| {
        let now = config::request_log(&source.file, &source.content.0)?;
        Ok(if log.set(now) { Reread::Changed } else { Reread::AsBefore })
    });
}

/// What logs pages, if any may ever have to be logged.
fn http_log(log: &RequestLog, config: &Config) -> Option<Box<HttpLog>> {
    let can_change = !config.request_log_source.files().is_empty();
    if config.request_log.http.is_off() && !can_change {
        return None;
    }
    let (log, port) = (log.clone(), config.http_address.port().to_string());
    Some(Box::new(move |peer, served| log.page_was_served(&port, peer, served)))
}

/// The limits of Series calls, which a file may change while the sidecar runs.
fn store_limits(
    config_files: &ConfigFiles,
    config: &Config,
    metrics: &Metrics,
) -> Result<(store::SeriesShared, Published<StoreLimits>)> {
    let (flags, file) = (config.store_limits, config.store_limits_file.clone());
    let limits = StoreLimits { bytes_in_flight: bytes_in_flight(flags), ..flags }.with_file(&file)?;
    let shared = store::SeriesShared::new(limits.per_call, limits.bytes_in_flight, metrics.store.clone());
    let in_force = Published::new(limits);
    if !file.is_empty() {
        let (shared, in_force) = (shared.clone(), in_force.clone());
        let flags = StoreLimits { bytes_in_flight: bytes_in_flight(flags), ..flags };
        config_files.add("limits of calls", vec![PathBuf::from(&file)], move |_| {
            let now = flags.with_file(&file)?;
            if now == *in_force.read() {
                return Ok(Reread::AsBefore);
            }
            shared.set_limits(now.per_call, now.bytes_in_flight);
            in_force.publish(now);
            Ok(Reread::Changed)
        });
    }
    Ok((shared, in_force))
}

/// An open call as the status shows it.
fn shown_call(record: &Record) -> status::Call {
    let query = record.query();
    let (n_series, n_chunks) = record.counts();
    status::Call {
        method: record.name.2.to_owned(),
        peer: record.peer(),
        matchers: query.split_once(' ').map_or_else(String::new, |(_, matchers)| matchers.to_owned()),
        seconds: record.age().as_secs_f64(),
        series: n_series,
        chunks: n_chunks,
        bytes: record.sent_bytes(),
        waits_for_client: record.doing() == Doing::WaitingForClient,
        trace_id: record.origin.trace_id.clone(),
    }
}

/// What traces calls, where that is wanted; its part runs with HTTP.
fn trace(
    config: &Config,
    http: &mut Supervisor,
    metrics: &Metrics,
    config_files: &ConfigFiles,
) -> Result<Option<Tracer>> {
    let Some(configured) = &config.tracing else { return Ok(None) };
    let (tracer, export) = tracing::begin(configured, metrics.tracing())?;
    http.spawn("trace", move |stop| export.run(&stop))?;
    let (source, changed) = (config.tracing_source.clone(), tracer.clone());
    let last = RefCell::new(configured.clone());
    config_files.add("tracing configuration", source.files(), move |is_asked| {
        let now = config::tracing(&source, &|name| std::env::var(name).ok())?;
        let is_new = now.as_ref() != Some(&*last.borrow());
        // Whoever asks may have changed a file of TLS that it names.
        if is_new || is_asked {
            tracing::change(&changed, now.as_ref())?;
            now.into_iter().for_each(|now| drop(last.replace(now)));
        }
        Ok(if is_new { Reread::Changed } else { Reread::AsBefore })
    });
    Ok(Some(tracer))
}

/// Builds and starts every part but HTTP and traces. The client is what has to be interrupted at the stop.
fn start(
    config: &Config,
    supervisor: &mut Supervisor,
    metrics: &Metrics,
    (probes, status): (&Probes, &Status),
    config_files: &ConfigFiles,
    tracer: Option<Tracer>,
    request_log: RequestLog,
) -> Result<Arc<PromClient>> {
    let tls = grpc_tls(config, metrics)?;
    if let Some(tls) = tls.clone() {
        // It looks at its files itself.
        config_files.add("TLS files of the gRPC server", Vec::new(), move |_| {
            tls.reload().map(|is_new| if is_new { Reread::Changed } else { Reread::AsBefore })
        });
    }
    let uploads = Uploads::new(config, metrics)?;
    store::check_temporary_folder();
    let connections = Connections::new(config.request_bytes_max, metrics.grpc.front.clone())?;
    // Listening begins when Prometheus is known, but a port that is taken should be known now.
    let address = config.grpc_address.clone();
    drop(Front::bind(&address, connections.clone())?);
    let state = Published::new(PromState::unknown(config.min_time.at(0)));
    let client = PromClient::with_config(prom_url(config), config.prometheus_client.clone(), config.get_config_timeout);
    let client = Arc::new(client.context(|| "--prometheus.http-client")?);
    let source = config.prometheus_client_source.clone();
    if !source.files().is_empty() {
        let reached = Arc::clone(&client);
        config_files.add("HTTP client for Prometheus", source.files(), move |_| {
            let is_new = reached.set_config(config::http_client(&source)?)?;
            Ok(if is_new { Reread::Changed } else { Reread::AsBefore })
        });
    }
    match reloader(config, &client, metrics)? {
        Some(reloader) => supervisor.spawn("reload", move |stop| reloader.run(&stop))?,
        None => log::info!(target: "pillion/reloader", "nothing to be watched"),
    }
    let mut shipping = None;
    let check = match &uploads {
        None => {
            log::info!("no supported bucket was configured, uploads will be disabled");
            None
        }
        Some(uploads) => {
            let (ships, bucket) = shipper(config, &state, metrics, uploads, config_files)?;
            let (standing, schedule) = (uploads.standing.clone(), uploads.schedule.clone());
            shipping = Some(Shipping { bucket, standing, schedule });
            match ships {
                Ships::Really(shipper) => supervisor.spawn("ship", move |stop| shipper.run(stop))?,
                Ships::Never(dry_run) => supervisor.spawn("ship", move |stop| dry_run.run(&stop))?,
            }
            Some(FlagCheck {
                ledger: config.tsdb_path.join(&config.shipper.meta_file_name),
                ignore_unequal_block_size: config.shipper.ignore_unequal_block_size,
            })
        }
    };
    let (gate, opened) = bounded(1);
    let (beats, asked) = Beats::new(state.clone(), config.get_config_timeout);
    let asking = beats.clone();
    let (shared, in_force) = store_limits(config_files, config, metrics)?;
    let shared = shared.with_refresh(move || asking.ask());
    let (slots, reads) = (shared.clone(), Arc::clone(&client));
    if let Some(n_max) = client.reads_max() {
        shared.set_remote_reads_max(n_max);
    }
    let pulse = Pulse::default();
    let records = Records::new(request_log);
    let seen = records.clone();
    let limits_of = config.clone();
    let heartbeat = Heartbeat {
        client: Arc::clone(&client),
        interval: config.get_config_interval,
        timeout: config.get_config_timeout,
        min_time: config.min_time,
        check,
        state: state.clone(),
        probes: probes.clone(),
        pulse: pulse.clone(),
        metrics: metrics.heartbeat.clone(),
        gate,
        remote_reads_max: Box::new(move |n_max| {
            let n_max = if n_max == 0 { usize::MAX } else { n_max };
            slots.set_remote_reads_max(reads.reads_max().map_or(n_max, |said| said.min(n_max)));
        }),
        asked: (beats, asked),
    };
    status.attach(Parts {
        prometheus_url: config.prometheus_url.join(""),
        state: state.clone(),
        pulse,
        gauges: metrics.grpc.calls.clone(),
        calls: Box::new(move || seen.open().iter().map(|record| shown_call(record)).collect()),
        connections: connections.clone(),
        limits: Box::new(move || limits_in_force(&limits_of, *in_force.read())),
        shipping,
    });
    supervisor.spawn("heartbeat", move |stop| heartbeat.run(&stop))?;
    let health = Health::new(probes.clone());
    let reflection = Reflection::default();
    let queued_bytes_max = config.request_bytes_max.saturating_mul(limits::QUEUED_REQUESTS_MAX);
    let pool =
        Pool::new(config.concurrent_calls, limits::CALL_QUEUE, queued_bytes_max, metrics.grpc.calls.clone(), tidy_up);
    let waiting = backlog::Bounds { calls_max: limits::WAITING_CALLS_MAX, bytes_max: limits::WAITING_BYTES_MAX };
    let backlog = Backlog::new(waiting, config.stalled_call_timeout, metrics.grpc.given_up.clone());
    let services = Services {
        client: Arc::clone(&client),
        state,
        probes: probes.clone(),
        health: health.clone(),
        reflection: reflection.clone(),
        pool,
        backlog,
        connections: connections.clone(),
        request_bytes_max: config.request_bytes_max,
        late: Late::default(),
        records,
        tracer,
        grpc_metrics: metrics.grpc.clone(),
        shared,
    };
    let serving = Serving {
        address,
        tls,
        request_bytes_max: config.request_bytes_max,
        age_max: config.max_connection_age,
        grace: config.grpc_grace_period,
        connections,
        services,
        health,
        reflection,
        probes: probes.clone(),
        metrics: metrics.grpc.front.clone(),
    };
    supervisor.spawn("front", move |stop| serving.run(&stop, &opened))?;
    if let Some(uploads) = uploads.filter(|uploads| !uploads.options.upload_limits_file.is_empty()) {
        let files = vec![PathBuf::from(&uploads.options.upload_limits_file)];
        config_files.add("upload limits", files, move |_| uploads.reload());
    }
    Ok(client)
}

/// The limits as the status shows them. 0 is no limit.
fn limits_in_force(config: &Config, store: StoreLimits) -> Limits {
    let limited = |n: u64| Some(n).filter(|n| *n > 0);
    Limits {
        concurrent_calls: config.concurrent_calls,
        queued_calls: limits::CALL_QUEUE,
        bytes_in_flight: Some(store.bytes_in_flight).filter(|n| *n > 0),
        request_series: limited(store.per_call.series_max),
        request_samples: limited(store.per_call.samples_max),
        request_bytes: config.request_bytes_max,
        stalled_call_seconds: Some(config.stalled_call_timeout)
            .filter(|time| *time < Duration::MAX)
            .map(|time| time.as_secs_f64()),
    }
}

/// Gives back the memory of large answers that are over.
fn tidy_up() {
    buffers::release();
    sys::trim_allocator();
}

/// The certificates of the gRPC server.
fn grpc_tls(config: &Config, metrics: &Metrics) -> Result<Option<ServerTls>> {
    let Some(settings) = config.grpc_tls.clone() else {
        log::info!(protocol = "gRPC"; "disabled TLS, key and cert must be set to enable");
        return Ok(None);
    };
    let verifies = settings.client_ca.is_some();
    let tls = ServerTls::load(settings, metrics.tls("grpc")).context(|| "setup gRPC server")?;
    log::info!(protocol = "gRPC"; "enabling server side TLS");
    if verifies {
        log::info!(protocol = "gRPC"; "server TLS client verification enabled");
    }
    Ok(Some(tls))
}

/// The schedule of uploads, whose limits SIGHUP reads again.
struct Uploads {
    options: ShipperOptions,
    schedule: Schedule,
    pace: Pace,
    standing: Standing,
    metrics: ShipMetrics,
}

impl Uploads {
    /// `None` without a bucket. `Errors:` a file of upload limits that cannot be read or understood.
    fn new(config: &Config, metrics: &Metrics) -> Result<Option<Self>> {
        let options = config.shipper.clone();
        let limits = options.upload_limits.with_file(&options.upload_limits_file)?;
        if config.bucket.is_none() {
            return Ok(None);
        }
        log::info!(limits = limits.to_string(); "upload limits");
        let (pace, metrics) = (Pace::default(), metrics.shipper());
        let (schedule, standing) = (Schedule::new(limits.clone(), pace.clone()), Standing::new(pace.clone()));
        let uploads = Uploads { options, schedule, pace, standing, metrics };
        uploads.show(&limits);
        Ok(Some(uploads))
    }

    fn show(&self, limits: &UploadLimits) {
        self.metrics.upload_rate_limit_bytes.set(i64::try_from(limits.rate_bytes).unwrap_or(i64::MAX));
    }

    /// Reads the file again; one that is broken changes nothing.
    fn reload(&self) -> Result<Reread> {
        let before = self.schedule.limits();
        let now = self.options.upload_limits.with_file(&self.options.upload_limits_file)?;
        if now == before {
            return Ok(Reread::AsBefore);
        }
        log::info!(before = before.to_string(), now = now.to_string(); "upload limits changed");
        self.show(&now);
        self.schedule.set_limits(now);
        Ok(Reread::Said)
    }
}

/// What Series calls may hold: what the operator said, else half of what the process may have.
fn bytes_in_flight(limits: StoreLimits) -> usize {
    match (limits.bytes_in_flight, sys::memory_limit()) {
        (0, Some(limit)) => {
            let half = usize::try_from(limit / 2).unwrap_or(usize::MAX);
            log::info!(memory_limit_bytes = limit, bytes_in_flight = half; "bytes in flight follow the memory limit");
            half
        }
        (said, _) => said,
    }
}

/// Where Prometheus is, as the client wants it.
pub(crate) fn prom_url(config: &Config) -> PromUrl {
    let url = &config.prometheus_url;
    PromUrl {
        origin: url.origin(),
        authorization: url
            .user
            .as_ref()
            .map(|user| http::basic(&user.username, user.password.as_deref().unwrap_or_default())),
        path: url.path.trim_end_matches('/').to_owned(),
        query: url.query.clone().unwrap_or_default(),
    }
}

/// The reloader, if there is anything to watch. Its metrics are there in any case.
fn reloader(config: &Config, client: &Arc<PromClient>, metrics: &Metrics) -> Result<Option<Reloader>> {
    let metrics = metrics.reloader(config.reload_method.name());
    let Some(reload) = config.reload.clone() else { return Ok(None) };
    let client = Arc::clone(client);
    let method = match &config.reload_method {
        ReloadMethod::Http => Method::Http(Box::new(move || client.reload())),
        ReloadMethod::Signal(process_name) => Method::Signal {
            process_name: process_name.clone(),
            loaded: Box::new(move || {
                let info = client.runtime_info()?;
                let at: Timestamp = info.config_loaded_at.parse().map_err(|_| {
                    let text = format!("Prometheus does not say when it has loaded: {:?}", info.config_loaded_at);
                    Error::new(Kind::Permanent, text)
                })?;
                Ok(Loaded { is_ok: info.is_config_loaded, at_s: at.as_second() })
            }),
        },
    };
    let env = |name: &str| std::env::var_os(name).map(OsString::into_vec);
    Reloader::new(reload, method, env, metrics).map(Some)
}

/// The shipper, or with `--dry-run` the one that only says what it would do.
enum Ships {
    Really(Box<Shipper>),
    Never(Box<DryRun>),
}

/// The shipper, and the name of its bucket.
fn shipper(
    config: &Config,
    state: &Published<PromState>,
    metrics: &Metrics,
    uploads: &Uploads,
    config_files: &ConfigFiles,
) -> Result<(Ships, Published<String>)> {
    ship::check_data_dir(&config.tsdb_path)?;
    let disk = if config.dry_run { Disk::read_only() } else { Disk::real() };
    let Some(wanted) = &config.bucket else { return Err(Error::new(Kind::Permanent, "no bucket is configured")) };
    let opener =
        Opener { disk: disk.clone(), pace: uploads.pace.clone(), metrics: metrics.clone(), known: RefCell::default() };
    let (bucket, bucket_metrics) = opener.open(wanted)?;
    let name = Published::new(bucket.name().to_owned());
    let next_bucket = NextBucket::default();
    let (source, last, next) = (config.bucket_source.clone(), RefCell::new(wanted.clone()), next_bucket.clone());
    let shown = name.clone();
    config_files.add("bucket configuration", source.files(), move |is_asked| {
        let env = |name: &str| std::env::var(name).ok();
        let now = config::bucket(&source.file, &source.content.0, &env)?.ok_or_else(|| {
            Error::new(Kind::Permanent, "it is empty; uploads can only be turned off by a restart without a bucket")
        })?;
        let is_new = now != *last.borrow();
        // Whoever asks may have changed a file that the configuration or the environment names.
        if is_new || is_asked {
            let bucket = opener.open(&now)?.0;
            shown.publish(bucket.name().to_owned());
            next.put(bucket);
            last.replace(now);
        }
        Ok(if is_new { Reread::Changed } else { Reread::AsBefore })
    });
    let (schedule, idle) = (uploads.schedule.clone(), uploads.schedule.clone());
    let ship = ShipConfig {
        meta_file_name: config.shipper.meta_file_name.clone(),
        upload_compacted: config.shipper.upload_compacted,
        allow_out_of_order_uploads: config.shipper.allow_out_of_order_uploads,
        upload_concurrency: config.shipper.upload_concurrency,
        sha256: config.hash_func == HashFunc::Sha256,
        ready_timeout: config.ready_timeout,
        disk,
        claim_budget_bytes: config.shipper.claim_budget_bytes,
        claim_reserve_bytes: config.shipper.claim_reserve_bytes,
        upload_gate: Some(Arc::new(move |stop| schedule.wait_to_start(stop))),
        on_idle: Some(Arc::new(move || idle.reset_jitter())),
        next_bucket,
        standing: uploads.standing.clone(),
        ..ShipConfig::new(&config.tsdb_path)
    };
    if config.dry_run {
        return Ok((Ships::Never(Box::new(DryRun::new(ship, bucket, state.clone()))), name));
    }
    let shipper = Shipper::new(ship, bucket, state.clone(), uploads.metrics.clone());
    // What the ledger remembers of an earlier run; 0 where it has nothing.
    bucket_metrics.last_successful_upload_time.set(uploads.metrics.last_success_timestamp_seconds.get());
    Ok((Ships::Really(Box::new(shipper)), name))
}

/// Opens buckets, each with the metrics of its name.
struct Opener {
    disk: Disk,
    pace: Pace,
    metrics: Metrics,
    /// Metrics are declared once.
    known: RefCell<BTreeMap<String, BucketMetrics>>,
}

impl Opener {
    fn open(&self, config: &BucketConfig) -> Result<(Arc<dyn Bucket>, BucketMetrics)> {
        let bucket = pillion_bucket::open(config, &self.disk, self.pace.clone())?;
        let name = bucket.name().to_owned();
        let declare = || self.metrics.bucket(&name);
        let metrics = self.known.borrow_mut().entry(name.clone()).or_insert_with(declare).clone();
        Ok((Metered::wrap(bucket, metrics.clone()), metrics))
    }
}

/// The gRPC part: waits at the gate, then listens, serves and drains.
struct Serving {
    address: ListenAddress,
    tls: Option<ServerTls>,
    request_bytes_max: usize,
    age_max: Option<Duration>,
    grace: Duration,
    connections: Connections,
    services: Services,
    health: Health,
    reflection: Reflection,
    probes: Probes,
    metrics: FrontMetrics,
}

impl Serving {
    fn run(self, stop: &Stop, gate: &Receiver<()>) -> Result<()> {
        select! {
            recv(gate) -> opened => if opened.is_err() {
                // The heartbeat ended before Prometheus was known; it has said why.
                stop.wait_forever();
                return Ok(());
            },
            recv(stop.channel()) -> _ => return Ok(()),
        }
        let records = self.services.records.clone();
        let server = Server::start(self.services.build(), self.request_bytes_max, self.age_max)?;
        let front = Front::bind(&self.address, self.connections.clone())?.with_tls(self.tls);
        log::info!(address = self.address.to_string(); "listening for serving gRPC");
        self.probes.serving();
        sys::release_start_up_code();
        front.run(stop, |connection, _| {
            server.hand_over(connection);
            Ok(())
        })?;
        self.health.end();
        self.reflection.end();
        let deadline = Instant::now() + self.grace;
        if !server.drain(self.grace)? {
            log::info!("grace period exceeded enforcing shutdown");
            for call in records.open().iter().take(limits::CUT_CALLS_NAMED_MAX) {
                let seconds = call.age().as_secs();
                log::info!(peer = call.peer(), query = call.query(), seconds = seconds; "a call did not end in time");
            }
        }
        // What the core has sent may still be on its way to clients that are slower.
        self.connections.wait_until_empty(deadline);
        let n_cut = self.connections.close_all();
        if n_cut > 0 {
            self.metrics.refused.with_label_values(&["stop"]).inc_by(u64::try_from(n_cut).unwrap_or(u64::MAX));
            log::warn!(connections = n_cut; "cut connections with answers on their way; a longer --grpc-grace-period would let them end");
        }
        Ok(())
    }
}

/// Waits for the end: a signal, or a part that ended.
fn wait(supervisor: &Supervisor, http: &Receiver<Event>, config_files: &ConfigFiles) -> Result<()> {
    let look = if config_files.is_empty() { never() } else { tick(limits::CONFIG_LOOK_INTERVAL) };
    loop {
        let event = select! {
            recv(supervisor.events()) -> event => event,
            recv(http) -> event => event,
            recv(look) -> _ => {
                config_files.look();
                continue;
            }
        };
        // The supervisors hold a sender each, so the channels stay connected.
        match event.map_err(|err| Error::new(Kind::Permanent, err.to_string()))? {
            Event::Signal(signal) if is_ending(signal) => {
                let name = if signal == signal_hook::consts::SIGTERM { "terminated" } else { "interrupt" };
                log::info!(signal = name; "caught signal. Exiting.");
                return Ok(());
            }
            Event::Signal(_) => {
                log::info!(signal = "hangup"; "caught signal. Reloading.");
                // Each fault is in the log.
                let _ = config_files.all();
            }
            Event::Ended(name, Ok(())) => {
                return Err(Error::new(Kind::Permanent, format!("{name} ended by itself")));
            }
            Event::Ended(_, Err(err)) => return Err(err),
        }
    }
}
