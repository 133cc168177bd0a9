//! The reloader's loop: waits until something is due, looks at the files, and has Prometheus load them if they are not what
//! it has. It never ends by itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::LOG_TARGET;
use crate::apply::Apply;
use crate::digest::Digest;
use crate::due::Due;
use crate::limits;
use crate::metrics::ReloadMetrics;
use crate::rules::Rules;
use crate::trigger::Method;
use crate::watch::{Armed, Watch, Woken};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::{self, Disk};
use pillion_base::stop::Stop;
use pillion_base::time::unix_ms;
use pillion_base::wake::Wake;

/// What is watched, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadConfig {
    /// Prometheus's configuration, or what it is made of.
    pub config_file: Option<PathBuf>,
    /// Where the configuration is written with variables filled in.
    pub output_file: Option<PathBuf>,
    /// Folders of rules.
    pub rule_dirs: Vec<PathBuf>,
    /// How often everything is read although nothing has changed; `None` is never.
    pub watch_interval: Option<Duration>,
    /// Wait after a reload that failed; not zero.
    pub retry_interval: Duration,
    /// For so long nothing must change before changes are applied.
    pub debounce: Duration,
}

/// The reloader.
pub struct Reloader {
    config: ReloadConfig,
    method: Method,
    metrics: ReloadMetrics,
    watch: Watch,
    apply: Apply,
    due: Due,
    /// What Prometheus has loaded.
    loaded: Option<Digest>,
    /// Prometheus is to load the files although they are what it has: the last reload has failed.
    is_forced: bool,
    complained: Complained,
}

impl Reloader {
    /// A reloader that has not read anything yet. `env` gives environment variables.
    ///
    /// `Errors:` when a relative path cannot be made absolute.
    pub fn new(
        config: ReloadConfig,
        method: Method,
        env: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static,
        metrics: ReloadMetrics,
    ) -> Result<Self> {
        let disk = Disk::real();
        let absolute = |path: &Path| std::path::absolute(path).map_err(|err| Error::io(&err));
        let config_file = config.config_file.as_deref().map(absolute).transpose()?;
        // Without a configuration there is nothing to write, as in Thanos.
        let output_file = config.output_file.as_deref().filter(|_| config_file.is_some());
        let output_file = output_file.map(absolute).transpose()?;
        let rule_dirs = config.rule_dirs.iter().map(|dir| absolute(dir)).collect::<Result<Vec<_>>>()?;
        let own = match &output_file {
            Some(output) => vec![output.clone(), files::temporary(output)?],
            None => Vec::new(),
        };
        let files = config_file.iter().cloned().collect();
        let watch = Watch::new(disk.clone(), files, rule_dirs.clone(), &own, Arc::new(Wake::new()?), metrics.clone());
        let rules = Rules::new(disk.clone(), rule_dirs, own);
        let apply = Apply::new(disk, [config_file, output_file], rules, Box::new(env), metrics.clone());
        let due = Due::new(Instant::now(), config.debounce, config.watch_interval, config.retry_interval);
        let complained = Complained::default();
        Ok(Reloader { config, method, metrics, watch, apply, due, loaded: None, is_forced: false, complained })
    }

    /// What has the files looked at although nothing tells of a change, as where they lie on a network.
    pub fn looker(&self) -> impl Fn() + Send + use<> {
        let wake = Arc::clone(&self.watch.wake);
        move || wake.wake()
    }

    /// Watches until the stop. `Errors:` when it cannot wait.
    pub fn run(mut self, stop: &Stop) -> Result<()> {
        log::info!(target: LOG_TARGET, "{}", self.method.words());
        let armed = self.watch.arm();
        let [config, output, dirs] = self.paths();
        log::info!(target: LOG_TARGET, cfg = config, cfgDirs = "", out = output, dirs = dirs; "started watching config file and directories for changes");
        if self.config.config_file.is_some() {
            self.look(true, stop)?;
        } else {
            // As in Thanos, rules alone are loaded at the first change or check.
            self.complain_of_missing(&armed);
            self.due.looked(Instant::now(), armed.is_whole && armed.n_missing == 0);
        }
        while self.wait(stop)? != Woken::Stopped {
            self.look(false, stop)?;
        }
        Ok(())
    }

    /// Waits until something is due.
    fn wait(&mut self, stop: &Stop) -> Result<Woken> {
        loop {
            let left = self.due.next().map(|at| at.saturating_duration_since(Instant::now()));
            if stop.is_stopped() {
                return Ok(Woken::Stopped);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Woken::Passed);
            }
            let mut time = left;
            if self.due.is_settling() {
                // More events will come; they are taken together.
                if stop.wait(left.unwrap_or_default().min(limits::EVENTS_INTERVAL)) {
                    return Ok(Woken::Stopped);
                }
                time = Some(Duration::ZERO);
            }
            match self.watch.wait(time, stop)? {
                Woken::Changed => self.due.change(Instant::now()),
                Woken::Passed => {}
                Woken::Stopped => return Ok(Woken::Stopped),
            }
        }
    }

    /// Looks at the files, and has Prometheus load them where it should. The look at the start is not counted, as in Thanos.
    fn look(&mut self, is_first: bool, stop: &Stop) -> Result<()> {
        let armed = self.watch.arm();
        if !is_first {
            self.metrics.config_apply_operations.inc();
        }
        let looked = self.apply.look();
        self.is_forced |= self.apply.take_written();
        self.due.looked(Instant::now(), armed.is_whole && looked.is_ok());
        let digest = match looked {
            Ok(digest) => digest,
            Err(err) => {
                if !is_first {
                    self.metrics.config_apply_operations_failed.inc();
                }
                self.complained.about("apply error", &err);
                self.metrics.show_failure(Some(&err));
                return Ok(());
            }
        };
        if !self.is_forced && self.loaded == Some(digest) {
            self.complained = Complained::default();
            self.metrics.show_failure(None);
            return Ok(());
        }
        self.reload(digest, stop)
    }

    fn reload(&mut self, digest: Digest, stop: &Stop) -> Result<()> {
        let Reloader { method, watch, due, .. } = self;
        self.metrics.reloads.inc();
        let reloaded = method.trigger(&mut |time| {
            let woken = watch.wait(Some(time), stop)?;
            if woken == Woken::Changed {
                due.change(Instant::now());
            }
            Ok(woken)
        });
        match reloaded {
            Ok(()) => {
                let now_s = unix_ms(SystemTime::now()) as f64 / 1000.0;
                self.metrics.last_reload_success_timestamp_seconds.set(now_s);
                self.metrics.show_failure(None);
                self.metrics.last_reload_successful.set(1);
                self.complained = Complained::default();
                (self.loaded, self.is_forced) = (Some(digest), false);
                let [config, output, dirs] = self.paths();
                log::info!(target: LOG_TARGET, cfg_in = config, cfg_out = output, cfg_dirs = "", watched_dirs = dirs; "Reload triggered");
            }
            // What the stop has cut is no failure.
            Err(err) if err.kind() == Kind::Stopped || stop.is_stopped() => {}
            Err(err) => {
                self.metrics.reloads_failed.inc();
                self.metrics.last_reload_successful.set(0);
                self.metrics.show_failure(Some(&err));
                // What Prometheus has is not known, so that also what it had is loaded again.
                self.is_forced = true;
                self.due.failed(Instant::now());
                self.complained.about("Failed to trigger reload. Retrying.", &err);
            }
        }
        Ok(())
    }

    fn complain_of_missing(&mut self, armed: &Armed) {
        if armed.n_missing > 0 {
            log::warn!(target: LOG_TARGET, missing = armed.n_missing, dirs = self.paths()[2]; "waiting for what is to be watched and is not there");
        }
    }

    /// Configuration, output and rule dirs, for the log.
    fn paths(&self) -> [String; 3] {
        let text = |path: &Option<PathBuf>| path.as_ref().map_or_else(String::new, |path| path.display().to_string());
        let dirs: Vec<String> = self.config.rule_dirs.iter().map(|dir| dir.display().to_string()).collect();
        [text(&self.config.config_file), text(&self.config.output_file), dirs.join(",")]
    }
}

/// What the log has told last, so that it does not tell the same every five seconds.
#[derive(Default)]
struct Complained(Option<(String, Instant)>);

impl Complained {
    fn about(&mut self, what: &str, err: &Error) {
        let text = err.to_string();
        let is_said = self.0.as_ref().is_some_and(|(said, at)| *said == text && at.elapsed() < limits::REPEAT_INTERVAL);
        if is_said {
            log::debug!(target: LOG_TARGET, err = text; "{what}");
            return;
        }
        log::error!(target: LOG_TARGET, err = text.as_str(), reason = err.class(); "{what}");
        self.0 = Some((text, Instant::now()));
    }
}
