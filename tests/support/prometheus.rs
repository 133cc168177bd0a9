//! Real Prometheus releases, on a folder of their own with known data.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::server::{Server, free_port, get};

/// One unpacked release.
#[derive(Debug, Clone)]
pub struct Release {
    /// Where its programs are.
    pub folder: PathBuf,
    /// Major and minor version.
    pub version: (u32, u32),
}

/// Every release below `$PILLION_PROMETHEUS`, or the cache folder of `scripts/prometheus.sh`. There must be one.
pub fn releases() -> Vec<Release> {
    let dir = std::env::var_os("PILLION_PROMETHEUS").map_or_else(|| cache_dir().join("prometheus"), PathBuf::from);
    let entries = std::fs::read_dir(&dir).into_iter().flatten();
    let mut found: Vec<Release> = entries.filter_map(|entry| release(entry.unwrap().path())).collect();
    found.sort_by_key(|release| release.version);
    assert!(!found.is_empty(), "no Prometheus release in {}: run scripts/prometheus.sh first", dir.display());
    found
}

/// As in the scripts.
fn cache_dir() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("PILLION_CACHE")
        .or_else(|| Some(var("XDG_CACHE_HOME")?.join("pillion")))
        .or_else(|| Some(var("HOME")?.join(".cache/pillion")))
        .expect("HOME is set")
}

fn release(folder: PathBuf) -> Option<Release> {
    let hidden = folder.file_name()?.to_string_lossy().starts_with('.');
    if hidden || !folder.join("promtool").is_file() {
        return None;
    }
    let out = Command::new(folder.join("prometheus")).arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    // `prometheus, version 2.42.0+ds (branch: …`
    let mut numbers = text.split("version ").nth(1).unwrap_or_else(|| panic!("no version in {text}")).split('.');
    let mut number = || numbers.next().unwrap().parse().unwrap();
    let version = (number(), number());
    Some(Release { folder, version })
}

impl Release {
    /// The program, for tests that start it in a way of their own.
    #[allow(dead_code)]
    pub fn program(&self) -> PathBuf {
        self.folder.join("prometheus")
    }
}

/// How to start one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// Scrape itself every second, so that the head has data.
    pub scrape: bool,
    /// Store native histograms; needs `scrape` and Prometheus 3.
    pub native_histograms: bool,
}

/// A Prometheus on a port of 127.0.0.1. It can be stopped and started again on the same port and data.
pub struct Prometheus {
    release: Release,
    setup: Setup,
    /// Flags of the test, in place of ours of the same name.
    flags: Vec<String>,
    dir: TempDir,
    port: u16,
    server: Option<Server>,
}

/// The external labels of every Prometheus that is started here.
pub const EXTERNAL_LABELS: [(&str, &str); 2] = [("region", "eu-west"), ("replica", "e2e")];

impl Prometheus {
    /// Makes blocks of `history` (OpenMetrics text, without the `# EOF`) and starts the release on them.
    pub fn start(release: &Release, history: &str, setup: Setup) -> Prometheus {
        let prometheus = Prometheus::new(release, setup, &[]);
        std::fs::write(prometheus.file("history.om"), format!("{history}# EOF\n")).unwrap();
        let made = Command::new(release.folder.join("promtool"))
            .args(["tsdb", "create-blocks-from", "openmetrics"])
            .args([prometheus.file("history.om"), prometheus.data()])
            .output()
            .unwrap();
        assert!(made.status.success(), "promtool: {}", String::from_utf8_lossy(&made.stderr));
        let mut prometheus = prometheus;
        prometheus.start_again();
        prometheus
    }

    /// One with an empty data folder and further flags, which is not started yet.
    pub fn new(release: &Release, setup: Setup, flags: &[&str]) -> Prometheus {
        let (dir, flags) = (tempfile::tempdir().unwrap(), flags.iter().map(|flag| (*flag).to_owned()).collect());
        let prometheus = Prometheus { release: release.clone(), setup, flags, dir, port: free_port(), server: None };
        std::fs::create_dir(prometheus.data()).unwrap();
        prometheus
    }

    /// What it has logged since it was started.
    #[allow(dead_code)]
    pub fn log(&self) -> String {
        self.server.as_ref().map_or_else(String::new, Server::log)
    }

    /// Starts it and waits until it is ready.
    pub fn start_again(&mut self) {
        std::fs::write(self.file("prometheus.yml"), self.config()).unwrap();
        let mut command = Command::new(self.release.folder.join("prometheus"));
        command
            .arg(format!("--config.file={}", self.file("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", self.data().display()))
            .arg(format!("--web.listen-address=127.0.0.1:{}", self.port))
            .args(&self.flags);
        let defaults = [
            "--storage.tsdb.min-block-duration=2h",
            "--storage.tsdb.max-block-duration=2h",
            "--storage.tsdb.retention.time=90d",
        ];
        let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        let is_given = |flag: &&str| self.flags.iter().any(|given| name(given) == name(flag));
        command.args(defaults.iter().filter(|flag| !is_given(flag)));
        if self.setup.native_histograms {
            command.arg("--enable-feature=native-histograms");
        }
        let mut server = Server::start("prometheus", &mut command);
        let url = format!("{}/-/ready", self.url());
        server.wait_for("readiness", || get(&url, &[]).filter(|(status, _)| *status == 200));
        self.server = Some(server);
    }

    /// Ends it; its data stays.
    pub fn stop(&mut self) {
        let status = self.server.take().expect("it runs").terminate();
        assert!(status.success(), "{status}");
    }

    /// Ends it without a word to anybody, as a crash would; its data stays.
    pub fn kill(&mut self) {
        // Dropped servers are killed.
        self.server.take().expect("it runs");
    }

    fn config(&self) -> String {
        let labels: String = EXTERNAL_LABELS.iter().map(|(name, value)| format!("    {name}: {value}\n")).collect();
        let protocols = if self.setup.native_histograms { "  scrape_protocols: [PrometheusProto]\n" } else { "" };
        let scrape =
            format!("scrape_configs:\n- job_name: self\n  static_configs:\n  - targets: ['127.0.0.1:{}']\n", self.port);
        let scrape = if self.setup.scrape { scrape.as_str() } else { "" };
        format!("global:\n  scrape_interval: 1s\n{protocols}  external_labels:\n{labels}{scrape}")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.file("data")
    }

    /// A folder beside the data, removed with it.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The `result` of an instant query.
    pub fn query(&self, expression: &str, time_seconds: i64) -> Vec<Value> {
        let time = time_seconds.to_string();
        let query = [("query", expression), ("time", time.as_str())];
        let (status, body) = get(&format!("{}/api/v1/query", self.url()), &query).expect("Prometheus answers");
        assert_eq!(status, 200, "{body}");
        let mut answer: Value = serde_json::from_str(&body).unwrap();
        match answer["data"]["result"].take() {
            Value::Array(result) => result,
            other => panic!("{other}"),
        }
    }

    /// The folders of its blocks.
    pub fn blocks(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.data()).unwrap().map(|entry| entry.unwrap().path());
        let mut blocks: Vec<_> = entries.filter(|path| path.join("meta.json").is_file()).collect();
        blocks.sort();
        blocks
    }
}
