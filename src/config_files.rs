//! What is read again while the sidecar runs: each configuration, with the files that it comes from. A change of the files,
//! SIGHUP and `POST /-/reload` lead here. A configuration that is broken changes nothing: the one before goes on to be used.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::metrics::ConfigMetrics;
use pillion_base::error::Result;
use pillion_base::stamp::{Stamp, are_unsettled};
use pillion_base::state::Published;

/// What reading a configuration again has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reread {
    /// It says something else, and that is used from now on.
    Changed,
    /// It says what it said before.
    AsBefore,
    /// Whoever read it says in the log what came of it.
    Said,
}

/// Reads a configuration and uses it. It is told whether somebody asked for that.
type Reader = Box<dyn Fn(bool) -> Result<Reread> + Send>;

/// All that can be read again.
#[derive(Clone)]
pub(crate) struct ConfigFiles(Arc<Shared>);

struct Shared {
    /// Locked while files are read.
    parts: Mutex<Vec<Part>>,
    /// The parts whose files cannot be used, each with the reason.
    broken: Published<Vec<(&'static str, String)>>,
    metrics: ConfigMetrics,
}

struct Part {
    /// As the log calls it.
    name: &'static str,
    files: Vec<PathBuf>,
    read: Reader,
    stamps: Vec<Option<Stamp>>,
    /// The files had just changed when they were read.
    is_unsettled: bool,
    /// Why what is in the files is not what is used; nothing while it is.
    failure: Option<String>,
}

impl ConfigFiles {
    /// Nothing can be read again yet.
    pub(crate) fn new(metrics: ConfigMetrics) -> Self {
        metrics.successful.set(1);
        metrics.success_timestamp_seconds.set(now_s());
        ConfigFiles(Arc::new(Shared { parts: Mutex::default(), broken: Published::new(Vec::new()), metrics }))
    }

    /// Adds a configuration that was read just now, from these files. One without files is only read again when somebody asks;
    /// it may look at its files itself, and has a metric of its own for that.
    pub(crate) fn add(
        &self,
        name: &'static str,
        files: Vec<PathBuf>,
        read: impl Fn(bool) -> Result<Reread> + Send + 'static,
    ) {
        let stamps = stamps_of(&files);
        // They may have changed since they were read.
        self.lock().push(Part { name, files, read: Box::new(read), stamps, is_unsettled: true, failure: None });
    }

    /// Reads everything again because somebody asked for it.
    ///
    /// `Errors:` what cannot be used, each with its reason.
    pub(crate) fn all(&self) -> Result<(), String> {
        let mut parts = self.lock();
        let failures: Vec<String> = parts.iter_mut().filter_map(|part| part.read_again(true)).collect();
        self.show(&parts);
        log::info!(
            files = parts.iter().map(|part| part.name).collect::<Vec<_>>().join(", ");
            "everything was read again that can change while the sidecar runs; flags of the command line need a restart"
        );
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }

    /// Reads what has changed since the last look.
    pub(crate) fn look(&self) {
        let mut parts = self.lock();
        let mut has_read = false;
        for part in parts.iter_mut() {
            let stamps = stamps_of(&part.files);
            let is_due = part.is_unsettled || part.failure.is_some() || stamps != part.stamps;
            if is_due && !part.files.is_empty() {
                part.read_again(false);
                has_read = true;
            }
        }
        if has_read {
            self.show(&parts);
        }
    }

    /// The configurations whose files cannot be used now, each with the reason.
    pub(crate) fn broken(&self) -> Arc<Vec<(&'static str, String)>> {
        self.0.broken.read()
    }

    /// Whether there is nothing to look at.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().iter().all(|part| part.files.is_empty())
    }

    fn show(&self, parts: &[Part]) {
        let broken: Vec<_> = parts.iter().filter_map(|part| Some((part.name, part.failure.clone()?))).collect();
        self.0.metrics.successful.set(i64::from(broken.is_empty()));
        if broken.is_empty() {
            self.0.metrics.success_timestamp_seconds.set(now_s());
        }
        self.0.broken.publish(broken);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Part>> {
        self.0.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// What went wrong, if something did. `is_asked`: somebody waits for a word.
    fn read_again(&mut self, is_asked: bool) -> Option<String> {
        self.stamps = stamps_of(&self.files);
        self.is_unsettled = are_unsettled(&self.stamps);
        let what = self.name;
        match (self.read)(is_asked) {
            Ok(reread) => {
                let was_broken = self.failure.take().is_some();
                match reread {
                    Reread::Changed => log::info!("{what}: the change is in use"),
                    Reread::AsBefore if is_asked || was_broken => log::info!("{what}: as before"),
                    Reread::AsBefore | Reread::Said => {}
                }
                None
            }
            Err(err) => {
                let text = err.to_string();
                if is_asked || self.failure.as_ref() != Some(&text) {
                    log::error!(err = text; "reloading the {what} failed; what was used before goes on to be used");
                }
                let told = format!("{what}: {text}");
                self.failure = Some(text).filter(|_| !self.files.is_empty());
                Some(told)
            }
        }
    }
}

fn stamps_of(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    files.iter().map(|file| Stamp::of(file)).collect()
}

#[allow(clippy::cast_precision_loss)] // Seconds since 1970 are exact.
fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as f64
}
