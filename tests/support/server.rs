//! Child processes that are ended with the test, their logs, free ports, plain HTTP, and waiting without sleeping.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use pillion_base::threads::spawn_thread;

pub use super::ports::free_port;

/// Nothing that a test waits for takes this long on a machine that works.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running program; dropping it kills it.
pub struct Server {
    name: String,
    child: Child,
    log: Arc<Mutex<String>>,
    /// One message per line that the program writes, so that a waiting test looks again at once.
    lines: Receiver<()>,
}

impl Server {
    /// Starts the program and collects what it writes.
    pub fn start(name: &str, command: &mut Command) -> Server {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|err| panic!("start {name}: {err}"));
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = unbounded();
        let collected = Arc::clone(&log);
        spawn_thread("log", None, move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = collected.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
                let _ = sender.send(());
            }
        })
        .unwrap();
        Server { name: name.to_owned(), child, log, lines }
    }

    /// What the program has written so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Asks until there is an answer: again whenever the program logged something, and ten times a second.
    /// Panics with the log when the program ends or patience does.
    pub fn wait_for<T>(&mut self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended ({status}) before {what}:\n{}", self.name, self.log());
            }
            assert!(Instant::now() < deadline, "{}: no {what} within {PATIENCE:?}:\n{}", self.name, self.log());
            // The result does not matter: a line, silence and a closed log all mean to look again.
            let _ = self.lines.recv_timeout(Duration::from_millis(100));
        }
    }

    /// SIGTERM, then the exit status.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end:\n{}", self.name, self.log());
            // The log closes when the program ends.
            let _ = self.lines.recv_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name, self.log());
        }
    }
}

/// Status and body of a GET; `None` when there is no answer.
pub fn get(url: &str, query: &[(&str, &str)]) -> Option<(u16, String)> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(Duration::from_secs(30)))
        .build();
    let agent = ureq::Agent::new_with_config(config);
    let mut answer = agent.get(url).query_pairs(query.iter().copied()).call().ok()?;
    let body = answer.body_mut().with_config().limit(256 << 20).read_to_string().ok()?;
    Some((answer.status().as_u16(), body))
}

/// The value of a metric without labels on a `/metrics` page.
pub fn metric(url: &str, name: &str) -> Option<f64> {
    let (_, page) = get(&format!("{url}/metrics"), &[])?;
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}
