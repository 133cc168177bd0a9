//! The one place where the parts meet: builds each once, top to bottom, and sees them to their end.

mod prometheus;
mod rereads;
mod serving;
mod shown;
mod uploads;

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded, never, select, tick};

use crate::cli::Config;
use crate::config_files::{ConfigFiles, Reread};
use crate::grpc::backlog::{self, Backlog};
use crate::grpc::buffers;
use crate::grpc::connections::Connections;
use crate::grpc::front::Front;
use crate::grpc::health::Health;
use crate::grpc::pool::Pool;
use crate::grpc::record::Records;
use crate::grpc::reflection::Reflection;
use crate::grpc::request::Late;
use crate::grpc::services::Services;
use crate::heartbeat::{Beats, Heartbeat, Pulse};
use crate::metrics::Metrics;
use crate::probes::Probes;
use crate::request_log::RequestLog;
use crate::status::{Parts, Status};
use crate::supervisor::{Event, Supervisor, is_ending, spawn_signals};
use crate::{admin, limits, sys};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::state::{PromState, Published};
use pillion_http::server::Server as HttpServer;
use pillion_http::tls::ServerTls;
use pillion_read::prom::{FlagCheck, PromClient};
use pillion_read::store;
use pillion_trace::Tracer;
pub(crate) use prometheus::prom_url;
use prometheus::reloader;
use rereads::{http_log, load_web, reload_request_log, store_limits, trace};
use serving::Serving;
use shown::{limits_in_force, shown_call};
use uploads::{Ships, Uploads, shipper};

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
        let outcome = wait(&supervisor, http.events(), &config_files, &metrics);
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
    let client = prometheus::client(config, config_files)?;
    match reloader(config, &client, metrics)? {
        Some(reloader) => {
            let look = reloader.looker();
            config_files.add("watched configuration of Prometheus", Vec::new(), move |_| {
                look();
                Ok(Reread::Said)
            });
            supervisor.spawn("reload", move |stop| reloader.run(&stop))?;
        }
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
            shipping = Some(uploads.shown(bucket));
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
        config_files: config_files.clone(),
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
    if let Some(uploads) = uploads {
        uploads.follow(config_files);
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

/// Waits for the end: a signal, or a part that ended.
fn wait(supervisor: &Supervisor, http: &Receiver<Event>, config_files: &ConfigFiles, metrics: &Metrics) -> Result<()> {
    let tidy = tick(limits::IDLE_TIDY_INTERVAL);
    let look = if config_files.is_empty() { never() } else { tick(limits::CONFIG_LOOK_INTERVAL) };
    loop {
        let event = select! {
            recv(supervisor.events()) -> event => event,
            recv(http) -> event => event,
            recv(look) -> _ => {
                config_files.look();
                continue;
            }
            recv(tidy) -> _ => {
                // Calls would wait, and what they use is needed.
                if metrics.grpc.calls.working.get() == 0 {
                    tidy_up();
                    sys::release_clean_pages();
                }
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
