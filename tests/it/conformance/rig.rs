//! A real Prometheus on the known data, and the real binary beside it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use pillion_base::threads::spawn_thread;
use tempfile::TempDir;

use crate::support::prometheus::Release;
use crate::support::server::{PATIENCE, Server, free_port, get};

/// How Prometheus is set up for a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// A path below which Prometheus lives, such as `/prometheus/sub/path`.
    pub path: &'static str,
    /// No data, no targets and no rules.
    pub empty: bool,
    /// It ends once the sidecar is ready.
    pub stopped: bool,
    /// What the sidecar is told besides.
    pub flags: &'static [&'static str],
}

/// Both servers; they end with the value, the sidecar first.
pub struct Rig {
    _sidecar: Server,
    _prometheus: Option<Server>,
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
    /// One of each release.
    pub fn start_all(releases: &[Release], setup: Setup) -> Vec<Rig> {
        // Prometheus takes some seconds to its first scrape, so that all of them are started before one is waited for.
        let started: Vec<Started> = releases.iter().map(|release| Started::new(release, setup)).collect();
        started.into_iter().map(|started| started.ready(setup)).collect()
    }
}

/// A Prometheus that may not be ready yet.
struct Started {
    server: Server,
    url: String,
    dir: TempDir,
    version: (u32, u32),
}

impl Started {
    fn new(release: &Release, setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        if !setup.empty {
            make_blocks(release, dir.path(), &data);
        }
        let (server, url) = start_prometheus(release, dir.path(), &data, setup);
        Started { server, url, dir, version: release.version }
    }

    fn ready(mut self, setup: Setup) -> Rig {
        let ready = format!("{}/-/ready", self.url);
        self.server.wait_for("readiness", || get(&ready, &[]).filter(|(status, _)| *status == 200));
        if !setup.empty {
            // Both the scrape and the evaluation came to an end.
            let url = format!("{}/api/v1/query", self.url);
            let query = [("query", "ALERTS and on () up{job=\"app\"} == 1")];
            self.server
                .wait_for("scrape and alert", || get(&url, &query).filter(|(_, body)| body.contains("alertname")));
        }
        let (mut sidecar, store, ready) = start_sidecar(&self.url, setup.flags);
        if setup.stopped {
            assert!(self.server.terminate().success());
            sidecar.wait_for("notice of the end", || get(&ready, &[]).filter(|(status, _)| *status == 503));
            return Rig { _sidecar: sidecar, _prometheus: None, _dir: self.dir, store, version: self.version };
        }
        Rig { _sidecar: sidecar, _prometheus: Some(self.server), _dir: self.dir, store, version: self.version }
    }
}

fn make_blocks(release: &Release, dir: &Path, data: &Path) {
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
    let read = |name: &str| std::fs::read_to_string(data_dir().join(name)).unwrap();
    if setup.empty {
        std::fs::write(&config, read("prometheus-empty.yml")).unwrap();
    } else {
        let target = start_target(read("target.om"));
        std::fs::write(&config, read("prometheus.yml").replace("TARGET", &target.to_string())).unwrap();
        std::fs::write(dir.join("rules.yml"), read("rules.yml")).unwrap();
    }
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}{}", setup.path);
    let mut command = Command::new(release.folder.join("prometheus"));
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .args(["--storage.tsdb.min-block-duration=2h", "--storage.tsdb.max-block-duration=2h"])
        .args(["--storage.tsdb.retention.time=100y"])
        .arg("--enable-feature=exemplar-storage");
    // A long series has to come in several frames, except where each of them counts as a series against a limit.
    if setup.flags.is_empty() {
        command.arg("--storage.remote.read-max-bytes-in-frame=256");
    }
    if !setup.path.is_empty() {
        command.arg(format!("--web.external-url={url}")).arg(format!("--web.route-prefix={}", setup.path));
    }
    (Server::start("prometheus", &mut command), url)
}

/// Serves the same page until the test program ends.
fn start_target(page: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn_thread("target", None, move || {
        for stream in listener.incoming() {
            // A client that goes away is no concern of this server.
            let _ = stream.and_then(|stream| answer(stream, &page));
        }
    })
    .unwrap();
    address
}

fn answer(mut stream: TcpStream, page: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = BufReader::new(stream.try_clone()?).lines();
    while head.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    )
}

/// The server, the address of its StoreAPI, and the URL of its readiness.
fn start_sidecar(url: &str, flags: &[&str]) -> (Server, String, String) {
    let (http, store) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command
        .arg("sidecar")
        .arg(format!("--prometheus.url={url}"))
        .arg(format!("--http-address={http}"))
        .arg(format!("--grpc-address={store}"))
        .arg("--prometheus.get_config_interval=200ms")
        .args(flags);
    let mut server = Server::start("pillion", &mut command);
    let ready = format!("http://{http}/-/ready");
    server.wait_for("readiness", || get(&ready, &[]).filter(|(status, _)| *status == 200));
    (server, store, ready)
}
