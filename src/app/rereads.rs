//! What is read again while the sidecar runs, and by whom it is used.

use std::cell::RefCell;
use std::path::PathBuf;

use crate::cli::Config;
use crate::cli::config;
use crate::cli::store_limits::StoreLimits;
use crate::config_files::{ConfigFiles, Reread};
use crate::metrics::Metrics;
use crate::request_log::RequestLog;
use crate::supervisor::Supervisor;
use crate::{sys, tracing};
use pillion_base::error::Result;
use pillion_base::state::Published;
use pillion_http::server::Log as HttpLog;
use pillion_http::web::{self, Web};
use pillion_read::store;
use pillion_trace::Tracer;

/// The web configuration, which looks at its file itself; whoever asks for a reload is told what is wrong with it.
pub(super) fn load_web(config_files: &ConfigFiles, config: &Config, metrics: &Metrics) -> Result<Option<Web>> {
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

pub(super) fn reload_request_log(config_files: &ConfigFiles, log: &RequestLog, config: &Config) {
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
pub(super) fn http_log(log: &RequestLog, config: &Config) -> Option<Box<HttpLog>> {
    let can_change = !config.request_log_source.files().is_empty();
    if config.request_log.http.is_off() && !can_change {
        return None;
    }
    let (log, port) = (log.clone(), config.http_address.port().to_string());
    Some(Box::new(move |peer, served| log.page_was_served(&port, peer, served)))
}

/// The limits of Series calls, which a file may change while the sidecar runs.
pub(super) fn store_limits(
    config_files: &ConfigFiles,
    config: &Config,
    metrics: &Metrics,
) -> Result<(store::SeriesShared, Published<StoreLimits>)> {
    let (flags, file) = (config.store_limits, config.store_limits_file.clone());
    let said = flags.with_file(&file)?;
    let limits = said.following(sys::memory_limit());
    if limits != said {
        log::info!(bytes_in_flight = limits.bytes_in_flight; "bytes in flight follow the memory limit");
    }
    let shared = store::SeriesShared::new(limits.per_call, limits.bytes_in_flight, metrics.store.clone());
    let in_force = Published::new(limits);
    if !file.is_empty() {
        let (shared, in_force) = (shared.clone(), in_force.clone());
        config_files.add("limits of calls", vec![PathBuf::from(&file)], move |_| {
            let now = flags.with_file(&file)?.following(sys::memory_limit());
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

/// What traces calls, where that is wanted; its part runs with HTTP.
pub(super) fn trace(
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
