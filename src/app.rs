//! The one place where the parts meet: builds each once, top to bottom, and sees them to their end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use crossbeam_channel::{Receiver, bounded, select};

use crate::admin;
use crate::cli::config::ShipperOptions;
use crate::cli::{Config, HashFunc};
use crate::grpc::backlog::{self, Backlog};
use crate::grpc::buffers;
use crate::grpc::connections::Connections;
use crate::grpc::front::Front;
use crate::grpc::health::Health;
use crate::grpc::pool::Pool;
use crate::grpc::reflection::Reflection;
use crate::grpc::request::Late;
use crate::grpc::server::Server;
use crate::grpc::services::Services;
use crate::heartbeat::{Beats, Heartbeat};
use crate::metrics::{FrontMetrics, Metrics};
use crate::probes::Probes;
use crate::supervisor::{Event, Supervisor, is_ending, spawn_signals};
use crate::{limits, sys};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Disk;
use pillion_base::state::{PromState, Published};
use pillion_base::stop::Stop;
use pillion_bucket::{Metered, Pace};
use pillion_http::address::ListenAddress;
use pillion_http::server::Server as HttpServer;
use pillion_http::tls::ServerTls;
use pillion_http::web::Web;
use pillion_read::prom::{FlagCheck, PromClient, PromUrl};
use pillion_read::store;
use pillion_ship as ship;
use pillion_ship::metrics::ShipMetrics;
use pillion_ship::{DryRun, Schedule, ShipConfig, Shipper, UploadLimits};

/// Runs the sidecar until a signal or the failure of a part.
///
/// `Errors:` what kept it from starting, what ended it, or which parts did not end in time.
pub(crate) fn run(config: Config) -> Result<()> {
    sys::cap_allocator();
    sys::raise_file_limit();
    let metrics = Metrics::new();
    let probes = Probes::new(metrics.status.clone());
    let mut supervisor = Supervisor::new()?;
    spawn_signals(supervisor.sender())?;

    // HTTP ends last, so that the stop can be watched: it has a stop of its own.
    let mut http = Supervisor::new()?;
    let web = match &config.http_config {
        None => None,
        Some(path) => Some(Web::load(path, metrics.web()).map_err(|err| err.context("server could not be started"))?),
    };
    let mut reloads: Vec<Reload> = Vec::new();
    if let Some(web) = &web {
        let web = web.reloader();
        reloads.push(Box::new(move || web.reload()));
    }
    let admin =
        HttpServer::bind(&config.http_address, "--http-address")?.with_grace(config.http_grace_period).with_web(web);
    log::info!(address = config.http_address.to_string(); "listening for requests and metrics");
    probes.healthy();
    let routes = admin::routes(metrics.clone(), probes.clone());
    http.spawn("admin", move |stop| admin.run(&stop, &routes))?;

    let started = start(&config, &mut supervisor, &metrics, &probes, &mut reloads);
    let outcome = started.and_then(|client| {
        log::info!("starting sidecar");
        let outcome = wait(&supervisor, http.events(), &reloads);
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

/// Reads again what a part has read from files. A file that is broken changes nothing.
type Reload = Box<dyn Fn()>;

/// Builds and starts every part but HTTP. The client is what has to be interrupted at the stop.
fn start(
    config: &Config,
    supervisor: &mut Supervisor,
    metrics: &Metrics,
    probes: &Probes,
    reloads: &mut Vec<Reload>,
) -> Result<Arc<PromClient>> {
    let tls = grpc_tls(config, metrics)?;
    if let Some(tls) = tls.clone() {
        reloads.push(Box::new(move || tls.reload()));
    }
    let uploads = Uploads::new(config, metrics)?;
    store::check_temporary_folder();
    let connections = Connections::new(config.request_bytes_max, metrics.grpc.front.clone())?;
    // Listening begins when Prometheus is known, but a port that is taken should be known now.
    let address = config.grpc_address.clone();
    drop(Front::bind(&address, connections.clone())?);
    let state = Published::new(PromState::unknown(config.min_time.at(0)));
    let client = Arc::new(PromClient::new(prom_url(config), config.get_config_timeout)?);
    let check = match &uploads {
        None => {
            log::info!("no supported bucket was configured, uploads will be disabled");
            None
        }
        Some(uploads) => {
            match shipper(config, &state, metrics, uploads)? {
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
    let shared = store::SeriesShared::new(config.per_call, bytes_in_flight(config), metrics.store.clone())
        .with_refresh(move || asking.ask());
    let slots = shared.clone();
    let heartbeat = Heartbeat {
        client: Arc::clone(&client),
        interval: config.get_config_interval,
        timeout: config.get_config_timeout,
        min_time: config.min_time,
        check,
        state: state.clone(),
        probes: probes.clone(),
        metrics: metrics.heartbeat.clone(),
        gate,
        remote_reads_max: Box::new(move |n_max| slots.set_remote_reads_max(n_max)),
        asked: (beats, asked),
    };
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
    if let Some(uploads) = uploads {
        reloads.push(Box::new(move || uploads.reload()));
    }
    Ok(client)
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
        let uploads = Uploads { options, schedule: Schedule::new(limits.clone(), pace.clone()), pace, metrics };
        uploads.show(&limits);
        Ok(Some(uploads))
    }

    fn show(&self, limits: &UploadLimits) {
        self.metrics.upload_rate_limit_bytes.set(i64::try_from(limits.rate_bytes).unwrap_or(i64::MAX));
    }

    /// Reads the file again; one that is broken changes nothing.
    fn reload(&self) {
        if self.options.upload_limits_file.is_empty() {
            return;
        }
        let before = self.schedule.limits();
        match self.options.upload_limits.with_file(&self.options.upload_limits_file) {
            Err(err) => {
                log::error!(err = err.to_string(), still = before.to_string(); "reloading the upload limits failed");
            }
            Ok(now) if now == before => log::info!(now = now.to_string(); "upload limits are as before"),
            Ok(now) => {
                log::info!(before = before.to_string(), now = now.to_string(); "upload limits changed");
                self.show(&now);
                self.schedule.set_limits(now);
            }
        }
    }
}

/// What Series calls may hold: what the operator said, else half of what the process may have.
fn bytes_in_flight(config: &Config) -> usize {
    match (config.bytes_in_flight, sys::memory_limit()) {
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
        authorization: url.user.as_ref().map(|user| {
            let plain = format!("{}:{}", user.username, user.password.as_deref().unwrap_or_default());
            format!("Basic {}", BASE64_STANDARD.encode(plain))
        }),
        path: url.path.trim_end_matches('/').to_owned(),
        query: url.query.clone().unwrap_or_default(),
    }
}

/// The shipper, or with `--dry-run` the one that only says what it would do.
enum Ships {
    Really(Box<Shipper>),
    Never(Box<DryRun>),
}

/// The shipper with its bucket.
fn shipper(config: &Config, state: &Published<PromState>, metrics: &Metrics, uploads: &Uploads) -> Result<Ships> {
    ship::check_data_dir(&config.tsdb_path)?;
    let disk = if config.dry_run { Disk::read_only() } else { Disk::real() };
    let Some(bucket) = &config.bucket else { return Err(Error::new(Kind::Permanent, "no bucket is configured")) };
    let bucket = pillion_bucket::open(bucket, &disk, uploads.pace.clone())?;
    let bucket_metrics = metrics.bucket(bucket.name());
    let bucket = Metered::wrap(bucket, bucket_metrics.clone());
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
        ..ShipConfig::new(&config.tsdb_path)
    };
    if config.dry_run {
        return Ok(Ships::Never(Box::new(DryRun::new(ship, bucket, state.clone()))));
    }
    let shipper = Shipper::new(ship, bucket, state.clone(), uploads.metrics.clone());
    // What the ledger remembers of an earlier run; 0 where it has nothing.
    bucket_metrics.last_successful_upload_time.set(uploads.metrics.last_success_timestamp_seconds.get());
    Ok(Ships::Really(Box::new(shipper)))
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
fn wait(supervisor: &Supervisor, http: &Receiver<Event>, reloads: &[Reload]) -> Result<()> {
    loop {
        let event = select! {
            recv(supervisor.events()) -> event => event,
            recv(http) -> event => event,
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
                reloads.iter().for_each(|reload| reload());
            }
            Event::Ended(name, Ok(())) => {
                return Err(Error::new(Kind::Permanent, format!("{name} ended by itself")));
            }
            Event::Ended(_, Err(err)) => return Err(err),
        }
    }
}
