//! The real binary, on free ports, with its log kept.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};

use super::ports;

/// Long enough for a loaded machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Sidecar {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    child: Child,
    lines: Receiver<String>,
    log: Arc<Mutex<String>>,
    /// Reads the log until the process has closed it.
    reader: Option<JoinHandle<()>>,
    #[allow(dead_code)] // Only the budgets measure from here.
    pub started: Instant,
}

/// The program under test: the one that cargo built with the tests, or another, as the one that is shipped.
pub fn binary() -> PathBuf {
    std::env::var_os("PILLION_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_pillion").into(), PathBuf::from)
}

/// A loopback address on which nothing listens just now.
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], ports::free_port()))
}

impl Sidecar {
    /// Starts `pillion sidecar` on free ports with these further arguments.
    pub fn start(args: &[&str]) -> Self {
        Sidecar::start_with(args, |_| {})
    }

    pub fn start_with(args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let (http, grpc) = (free_address(), free_address());
        let defaults = [
            "--prometheus.get_config_interval=200ms",
            "--prometheus.get_config_timeout=5s",
            "--shipper.upload-jitter=0",
        ];
        let mut command = Command::new(binary());
        command
            .arg("sidecar")
            .arg(format!("--http-address={http}"))
            .arg(format!("--grpc-address={grpc}"))
            .args(
                defaults.iter().filter(|flag| !args.iter().any(|arg| arg.split('=').next() == flag.split('=').next())),
            )
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        prepare(&mut command);
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (send, lines) = unbounded();
        let log = Arc::new(Mutex::new(String::new()));
        let kept = log.clone();
        let reader = spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().unwrap().push_str(&format!("{line}\n"));
                let _ = send.send(line);
            }
        });
        Sidecar { http, grpc, child, lines, log, reader: Some(reader), started }
    }

    /// Starts it beside the Prometheus at `url` and waits until it is ready.
    pub fn ready(url: &str, args: &[&str]) -> Self {
        let url = format!("--prometheus.url={url}");
        let args: Vec<&str> = std::iter::once(url.as_str()).chain(args.iter().copied()).collect();
        let sidecar = Sidecar::start(&args);
        sidecar.wait_ready(true);
        sidecar
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line of the log that contains `text`.
    pub fn wait_line(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_deadline(deadline) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with {text:?} in the log:\n{}", self.log())
                }
            }
        }
    }

    pub fn wait_ready(&self, ready: bool) {
        let wanted = if ready { 200 } else { 503 };
        let deadline = Instant::now() + PATIENCE;
        while self.get("/-/ready").map(|(status, _)| status) != Some(wanted) {
            assert!(Instant::now() < deadline, "/-/ready did not become {wanted}:\n{}", self.log());
            pause();
        }
    }

    /// Status and body of an HTTP path; nothing when it does not answer.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.http, path)
    }

    /// The value of a metric, named with its labels as the page prints them.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, page) = self.get("/metrics").expect("/metrics answers");
        page.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or_else(|| panic!("no metric {name} in:\n{page}"))
    }

    pub fn wait_metric(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(self.metric(name)) {
            assert!(Instant::now() < deadline, "{name} is {}:\n{}", self.metric(name), self.log());
            pause();
        }
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the process; the log tells why when it does not come.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // Its last lines may still be in the pipe.
                self.reader.take().map(JoinHandle::join);
                return status;
            }
            assert!(Instant::now() < deadline, "did not exit:\n{}", self.log());
            pause();
        }
    }

    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_exit()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A short wait between two looks at another process.
pub fn pause() {
    let (_keep, never) = crossbeam_channel::bounded::<()>(0);
    let _ = never.recv_timeout(Duration::from_millis(5));
}

pub fn get(addr: SocketAddr, path: &str) -> Option<(u16, String)> {
    ask(addr, "GET", path)
}

/// As [`get`], with another method.
pub fn ask(addr: SocketAddr, method: &str, path: &str) -> Option<(u16, String)> {
    ask_with(addr, method, path, "")
}

/// As [`ask`], with further header lines.
pub fn ask_with(addr: SocketAddr, method: &str, path: &str, headers: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{headers}Connection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[allow(clippy::disallowed_methods)]
pub fn spawn(body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(body)
}
