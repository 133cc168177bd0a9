//! The command `pillion check`: asks and reads everything that the sidecar would with the same flags, before it is started,
//! and says what to change. It judges with the code of the start. Starts nothing, and changes nothing in Prometheus's data
//! folder; of the bucket's objects it touches only its own.
//!
//! A part of the daemon that has something to be looked at gets a part here: a file with a `look`, and its line in [`check`].

mod bucket;
mod certificates;
mod data_folder;
mod findings;
mod machine;
mod parts;
mod ports;
mod prometheus;
mod settings;

use std::io::Write;
use std::sync::Arc;

use crossbeam_channel::bounded;

use self::findings::{Finding, Style, Summary};
use self::parts::Part;
use self::settings::{BUCKET, HTTP_CLIENT, Settings};
use crate::app;
use crate::cli::{CheckFlags, Config, SidecarFlags};
use crate::client::progress::Unit;
use crate::client::terminal::{self, Progress};
use pillion_base::error::{Error, Result};
use pillion_read::prom::PromClient;

/// Checks, writes what it finds to `out`, and says whether the sidecar would start and upload. `Blocks:` a little longer than
/// the time-out.
///
/// `Errors:` when nothing can be written.
pub(crate) fn check(
    flags: &SidecarFlags,
    own: &CheckFlags,
    env: &dyn Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> Result<bool> {
    let style = if own.json { Style::Json } else { Style::Text { coloured: terminal::shows_colours() } };
    let progress = Progress::new("checking", Unit::Nothing);
    let mut summary = Summary::default();
    let mut print = |text: &str| {
        progress.erase();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|err| Error::io(&err))
    };
    let mut each = |finding: &Finding| {
        summary.add(finding.level);
        print(&finding.line(style))
    };
    let parts = parts(Settings::read(flags, env), own);
    let waiting = |steps: &str| progress.set_what(&format!("checking: {steps}"));
    parts::run(parts, own.timeout, &mut each, &waiting)?;
    if !own.json {
        print(&summary.line())?;
    }
    Ok(summary.is_well())
}

/// A part that needs no more than the configuration.
type Look = fn(&Config, &parts::Report);

/// The parts of the check, as far as the settings allow them.
fn parts(settings: Settings, own: &CheckFlags) -> Vec<Part> {
    let config = settings.config.as_ref().ok().cloned().map(Arc::new);
    let knows_prometheus = !settings.lacks(HTTP_CLIENT);
    let knows_bucket = !settings.lacks(BUCKET);
    let mut parts = vec![plain("settings", move |report| settings.tell(report))];
    let Some(config) = config else { return parts };
    let local: [(&str, Look); 3] =
        [("machine", machine::look), ("ports", ports::look), ("certificates", certificates::look)];
    for (what, look) in local {
        let config = Arc::clone(&config);
        parts.push(plain(what, move |report| look(&config, report)));
    }
    let (known, labels) = bounded(1);
    let patience = config.get_config_timeout.min(own.timeout / 2);
    match PromClient::with_config(app::prom_url(&config), config.prometheus_client.clone(), patience) {
        _ if !knows_prometheus => {
            drop(known);
            parts.push(plain("prometheus", |report| report.note("not asked, because it is not known how")));
        }
        Err(err) => {
            drop(known);
            parts.push(plain("prometheus", move |report| {
                report.failed(
                    findings::Level::Error,
                    &err,
                    "correct --prometheus.url, or what --prometheus.http-client names",
                );
            }));
        }
        Ok(client) => {
            let (client, config) = (Arc::new(client), Arc::clone(&config));
            let cut = Arc::clone(&client);
            parts.push(Part {
                what: "prometheus",
                run: Box::new(move |report, _| prometheus::look(&config, &client, &known, report)),
                cut: Box::new(move || cut.interrupt()),
            });
        }
    }
    if let Some(bucket) = config.bucket.clone().filter(|_| knows_bucket) {
        let of_folder = Arc::clone(&config);
        parts.push(plain("data folder", move |report| data_folder::look(&of_folder, report)));
        let writes = !own.read_only;
        parts.push(Part {
            what: "bucket",
            run: Box::new(move |report, stop| bucket::look(&config, &bucket, writes, &labels, report, stop)),
            cut: Box::new(|| {}),
        });
    }
    parts
}

/// A part that waits for nobody.
fn plain(what: &'static str, look: impl FnOnce(&parts::Report) + Send + 'static) -> Part {
    Part { what, run: Box::new(move |report, _| look(report)), cut: Box::new(|| {}) }
}
