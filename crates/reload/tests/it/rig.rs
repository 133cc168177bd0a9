//! A reloader on a thread of its own, with folders and a Prometheus that does as it is told.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::stop::{Stopper, stop_pair};
use pillion_base::threads::spawn_thread;
use pillion_reload::metrics::ReloadMetrics;
use pillion_reload::{Method, ReloadConfig, Reloader};
use prometheus::{Gauge, IntCounter, IntGauge, IntGaugeVec, Opts};
use tempfile::TempDir;

/// Long enough for a loaded machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Never within a test.
pub const NEVER: Duration = Duration::from_secs(3600);

pub fn metrics() -> ReloadMetrics {
    let counter = || IntCounter::new("x", "x").unwrap();
    let gauge = || IntGauge::new("x", "x").unwrap();
    ReloadMetrics {
        reloads: counter(),
        reloads_failed: counter(),
        last_reload_successful: gauge(),
        last_reload_success_timestamp_seconds: Gauge::new("x", "x").unwrap(),
        config_apply_operations: counter(),
        config_apply_operations_failed: counter(),
        config_environment_variable_expansion_errors: gauge(),
        watches: gauge(),
        watch_events: counter(),
        watch_errors: counter(),
        failing: IntGaugeVec::new(Opts::new("x", "x"), &["reason"]).unwrap(),
        missing_paths: gauge(),
    }
}

/// What Prometheus does when it is asked.
type Answer = Arc<Mutex<Box<dyn FnMut() -> Result<()> + Send>>>;

/// Folders, settings, and once it was started a reloader.
pub struct Rig {
    pub dir: TempDir,
    pub config: ReloadConfig,
    pub metrics: ReloadMetrics,
    pub asked: Receiver<()>,
    answer: Answer,
    method: Option<Method>,
    running: Option<(Stopper, JoinHandle<Result<()>>)>,
    looker: Option<Box<dyn Fn() + Send>>,
}

impl Rig {
    /// Settings without files, that react to changes only, at once.
    pub fn new() -> Self {
        let (send, asked) = unbounded();
        let answer: Answer = Arc::new(Mutex::new(Box::new(|| Ok(()))));
        let ask = answer.clone();
        let method = Method::Http(Box::new(move || {
            send.send(()).unwrap();
            let mut answer = ask.lock().unwrap();
            answer()
        }));
        let config = ReloadConfig {
            config_file: None,
            output_file: None,
            rule_dirs: Vec::new(),
            watch_interval: None,
            retry_interval: NEVER,
            debounce: Duration::from_millis(30),
        };
        let dir = tempfile::tempdir().unwrap();
        Rig { dir, config, metrics: metrics(), asked, answer, method: Some(method), running: None, looker: None }
    }

    /// With a configuration, an output, both or none, and rule dirs, by their names in the folder.
    pub fn with(config_file: &str, output_file: &str, rule_dirs: &[&str]) -> Self {
        let mut rig = Rig::new();
        let path = |name: &str| Some(rig.path(name)).filter(|_| !name.is_empty());
        let (config_file, output_file) = (path(config_file), path(output_file));
        // Joined as text, so that a slash at the end stays.
        rig.config.rule_dirs =
            rule_dirs.iter().map(|name| PathBuf::from(format!("{}/{name}", rig.dir.path().display()))).collect();
        (rig.config.config_file, rig.config.output_file) = (config_file, output_file);
        rig
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Writes a file as editors do, in one step.
    pub fn write(&self, name: &str, content: &str) {
        let beside = self.dir.path().join("beside");
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(beside, self.path(name)).unwrap_or_else(|err| panic!("{name}: {err}"));
    }

    /// Empties a file, then writes it: two steps, of which the reloader may see one.
    pub fn write_in_place(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub fn mkdir(&self, name: &str) {
        std::fs::create_dir_all(self.path(name)).unwrap();
    }

    pub fn symlink(&self, target: &str, name: &str) {
        std::os::unix::fs::symlink(target, self.path(name)).unwrap();
    }

    /// A volume of Kubernetes: `name` has `..data`, which leads to the folder `version`, and a link for each file. What the
    /// kubelet does when it is there: the new folder, then the link renamed over the old one, then the old folder removed.
    pub fn config_map(&self, name: &str, version: &str, files: &[(&str, &str)]) {
        let root = self.path(name);
        std::fs::create_dir_all(root.join(version)).unwrap();
        for (file, content) in files {
            std::fs::write(root.join(version).join(file), content).unwrap();
        }
        let old = std::fs::read_link(root.join("..data")).ok();
        std::os::unix::fs::symlink(version, root.join("..data_tmp")).unwrap();
        std::fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        for (file, _) in files.iter().filter(|(file, _)| std::fs::symlink_metadata(root.join(file)).is_err()) {
            std::os::unix::fs::symlink(Path::new("..data").join(file), root.join(file)).unwrap();
        }
        if let Some(old) = old {
            std::fs::remove_dir_all(root.join(old)).unwrap();
        }
    }

    /// From now on Prometheus does this.
    pub fn answer(&self, answer: impl FnMut() -> Result<()> + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    pub fn refuse(&self) {
        self.answer(|| Err(Error::new(Kind::Retry, "no such rule").classed("refused")));
    }

    pub fn accept(&self) {
        self.answer(|| Ok(()));
    }

    /// Asks Prometheus in another way.
    pub fn set_method(&mut self, method: Method) {
        self.method = Some(method);
    }

    pub fn start(&mut self) {
        let env = |name: &str| (name == "SET").then(|| b"value".to_vec());
        let method = self.method.take().expect("it is started once");
        let reloader = Reloader::new(self.config.clone(), method, env, self.metrics.clone()).unwrap();
        self.looker = Some(Box::new(reloader.looker()));
        let (stopper, stop) = stop_pair().unwrap();
        let thread = spawn_thread("reload", None, move || reloader.run(&stop)).unwrap();
        self.running = Some((stopper, thread));
    }

    /// Has it look.
    pub fn look(&self) {
        self.looker.as_ref().expect("it runs")();
    }

    /// Starts it with rules only, and waits until they are watched.
    pub fn start_watching(&mut self) {
        self.start();
        self.until("watches", |metrics| metrics.watches.get() > 0);
    }

    pub fn stop(&mut self) {
        let (stopper, thread) = self.running.take().expect("it runs");
        stopper.stop();
        thread.join().unwrap().unwrap();
    }

    /// Waits until Prometheus is asked.
    #[track_caller]
    pub fn wait_asked(&self) {
        if self.asked.recv_timeout(PATIENCE).is_err() {
            panic!("no reload: {}", self.state());
        }
    }

    /// Waits until Prometheus is asked and the reloader knows the answer.
    #[track_caller]
    pub fn wait_loaded(&self) {
        self.wait_asked();
        self.until("loaded", |metrics| metrics.last_reload_successful.get() == 1 && self.asked.is_empty());
    }

    #[track_caller]
    pub fn until(&self, what: &str, is_true: impl Fn(&ReloadMetrics) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_true(&self.metrics) {
            assert!(Instant::now() < deadline, "{what}: {}", self.state());
            pause();
        }
    }

    /// Has the reloader look at the files because of what `change` does, and lets no reload come of it.
    #[track_caller]
    pub fn no_reload(&self, change: impl FnOnce()) {
        let (looks, reloads) = (self.metrics.config_apply_operations.get(), self.metrics.reloads.get());
        change();
        self.until("looked", |metrics| metrics.config_apply_operations.get() > looks);
        // A look is counted at its beginning; the next one comes after its end.
        let looks = self.metrics.config_apply_operations.get();
        self.poke();
        self.until("looked again", |metrics| metrics.config_apply_operations.get() > looks);
        assert_eq!(self.metrics.reloads.get(), reloads, "{}", self.state());
        assert!(self.asked.is_empty());
    }

    /// Touches what is watched, without a change.
    fn poke(&self) {
        let path = self.config.config_file.as_ref().or(self.config.rule_dirs.first()).unwrap();
        let mode = std::fs::metadata(path).unwrap().permissions();
        std::fs::set_permissions(path, mode).unwrap();
    }

    pub fn failing(&self, reason: &str) -> i64 {
        self.metrics.failing.with_label_values(&[reason]).get()
    }

    fn state(&self) -> String {
        let m = &self.metrics;
        format!(
            "{} reloads, {} failed; {} looks, {} failed; {} events, {} errors; {} watches, {} missing",
            m.reloads.get(),
            m.reloads_failed.get(),
            m.config_apply_operations.get(),
            m.config_apply_operations_failed.get(),
            m.watch_events.get(),
            m.watch_errors.get(),
            m.watches.get(),
            m.missing_paths.get(),
        )
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some((stopper, thread)) = self.running.take() {
            stopper.stop();
            let _ = thread.join();
        }
    }
}

/// A short wait between two looks at another thread.
pub fn pause() {
    let (_keep, never) = crossbeam_channel::bounded::<()>(0);
    let _ = never.recv_timeout(Duration::from_millis(2));
}
