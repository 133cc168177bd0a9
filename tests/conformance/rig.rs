//! A real Prometheus on the known data, and the real binary beside it.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::prometheus::Release;
use crate::support::server::{Server, free_port, get};

/// How Prometheus is set up for a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// A path below which Prometheus lives, such as `/prometheus/sub/path`.
    pub path: &'static str,
}

/// Both servers; they end with the value, the sidecar first.
pub struct Rig {
    _sidecar: Server,
    _prometheus: Server,
    _dir: TempDir,
    /// `host:port` of the StoreAPI.
    pub store: String,
    pub version: (u32, u32),
}

/// Where the cases and the data are.
pub fn data_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/conformance")
}

impl Rig {
    pub fn start(release: &Release, setup: Setup) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        make_blocks(release, dir.path(), &data);
        let (prometheus, url) = start_prometheus(release, dir.path(), &data, setup);
        let (sidecar, store) = start_sidecar(&url);
        Rig { _sidecar: sidecar, _prometheus: prometheus, _dir: dir, store, version: release.version }
    }
}

fn make_blocks(release: &Release, dir: &Path, data: &Path) {
    std::fs::create_dir(data).unwrap();
    let mut history = std::fs::read_to_string(data_dir().join("history.om")).unwrap();
    // Older releases cannot read what their names cannot be.
    if release.version >= (3, 0) {
        history.push_str(&std::fs::read_to_string(data_dir().join("history-3.om")).unwrap());
    }
    let file = dir.join("history.om");
    std::fs::write(&file, format!("{history}# EOF\n")).unwrap();
    let made = Command::new(release.folder.join("promtool"))
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .args([&file, data])
        .output()
        .unwrap();
    assert!(made.status.success(), "promtool: {}", String::from_utf8_lossy(&made.stderr));
}

fn start_prometheus(release: &Release, dir: &Path, data: &Path, setup: Setup) -> (Server, String) {
    let config = dir.join("prometheus.yml");
    std::fs::copy(data_dir().join("prometheus.yml"), &config).unwrap();
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}{}", setup.path);
    let mut command = Command::new(release.folder.join("prometheus"));
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .args(["--storage.tsdb.min-block-duration=2h", "--storage.tsdb.max-block-duration=2h"])
        .args(["--storage.tsdb.retention.time=100y"])
        // A long series has to come in several frames.
        .arg("--storage.remote.read-max-bytes-in-frame=1024");
    if !setup.path.is_empty() {
        command.arg(format!("--web.external-url={url}")).arg(format!("--web.route-prefix={}", setup.path));
    }
    let mut server = Server::start("prometheus", &mut command);
    let ready = format!("{url}/-/ready");
    server.wait_for("readiness", || get(&ready, &[]).filter(|(status, _)| *status == 200));
    (server, url)
}

fn start_sidecar(url: &str) -> (Server, String) {
    let (http, store) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command
        .arg("sidecar")
        .arg(format!("--prometheus.url={url}"))
        .arg(format!("--http-address={http}"))
        .arg(format!("--grpc-address={store}"))
        .arg("--prometheus.get_config_interval=1s");
    let mut server = Server::start("pillion", &mut command);
    let ready = format!("http://{http}/-/ready");
    server.wait_for("readiness", || get(&ready, &[]).filter(|(status, _)| *status == 200));
    (server, store)
}
