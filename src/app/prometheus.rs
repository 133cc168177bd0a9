//! How Prometheus is reached and had to load its configuration again.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::cli::Config;
use crate::cli::config::{self, ReloadMethod};
use crate::config_files::{ConfigFiles, Reread};
use crate::metrics::Metrics;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_http::client as http;
use pillion_read::prom::{PromClient, PromUrl};
use pillion_reload::{Loaded, Method, Reloader};

/// The client, which a changed configuration has reach Prometheus in another way.
///
/// `Errors:` files of TLS that cannot be used.
pub(super) fn client(config: &Config, config_files: &ConfigFiles) -> Result<Arc<PromClient>> {
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
    Ok(client)
}

/// The reloader, if there is anything to watch. Its metrics are there in any case.
pub(super) fn reloader(config: &Config, client: &Arc<PromClient>, metrics: &Metrics) -> Result<Option<Reloader>> {
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
