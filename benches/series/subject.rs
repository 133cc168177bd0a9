//! Who is measured, and how a StoreAPI server of that kind is started beside a Prometheus.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde::Serialize;
use tempfile::TempDir;

use crate::options::Options;
use crate::support::sidecar::{PATIENCE, Sidecar, free_address, get, pause};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    Pillion,
    /// The real sidecar, if there is one.
    Thanos,
    /// Copies the bytes.
    Relay,
    /// Decodes, sorts and encodes everything.
    Buffered,
    /// Nobody: the client reads from Prometheus.
    Direct,
}

impl Subject {
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The sidecars that are there to be measured.
    pub fn sidecars(options: &Options) -> Vec<Subject> {
        match options.thanos {
            Some(_) => vec![Subject::Pillion, Subject::Thanos],
            None => vec![Subject::Pillion],
        }
    }
}

/// A sidecar that serves.
pub enum Running {
    Pillion(Sidecar),
    Thanos(Thanos),
}

impl Running {
    /// Starts it beside the Prometheus at `url`, and waits until it is ready.
    pub fn start(subject: Subject, url: &str, options: &Options) -> Self {
        match subject {
            Subject::Pillion => Running::Pillion(Sidecar::ready(url, &["--prometheus.get_config_interval=1s"])),
            Subject::Thanos => {
                let program = options.thanos.as_ref().expect("it is only a subject if it is there");
                Running::Thanos(Thanos::start(program, url))
            }
            other => panic!("{other:?} is no sidecar"),
        }
    }

    pub fn grpc(&self) -> String {
        match self {
            Running::Pillion(sidecar) => sidecar.grpc.to_string(),
            Running::Thanos(thanos) => thanos.grpc.to_string(),
        }
    }

    pub fn pid(&self) -> u32 {
        match self {
            Running::Pillion(sidecar) => sidecar.pid(),
            Running::Thanos(thanos) => thanos.child.id(),
        }
    }

    /// The last lines of its log in one.
    pub fn log_tail(&self) -> String {
        let log = match self {
            Running::Pillion(sidecar) => sidecar.log(),
            Running::Thanos(thanos) => thanos.log(),
        };
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }
}

/// The real sidecar; it ends with the value.
pub struct Thanos {
    child: Child,
    grpc: SocketAddr,
    /// Holds its log.
    dir: TempDir,
}

impl Thanos {
    fn start(program: &Path, url: &str) -> Self {
        let (http, grpc) = (free_address(), free_address());
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            .args(["sidecar", "--prometheus.get_config_interval=1s"])
            .args([
                format!("--prometheus.url={url}"),
                format!("--http-address={http}"),
                format!("--grpc-address={grpc}"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut thanos = Thanos { child, grpc, dir };
        let deadline = Instant::now() + PATIENCE;
        while get(http, "/-/ready").is_none_or(|(status, _)| status != 200) {
            let ended = thanos.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "Thanos is not ready:\n{}", thanos.log());
            pause();
        }
        thanos
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Thanos {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
