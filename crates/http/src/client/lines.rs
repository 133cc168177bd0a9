//! Connections that are kept between exchanges. A connection serves one exchange at a time, and that one can be cut from
//! another thread; one that was cut, or whose answer was not read to its end, is never used again.
//!
//! A line is an agent of the HTTP library that keeps one connection, so the library's own rules say what may be kept. A
//! request over a connection that its peer has closed meanwhile is sent again over a new one: all requests are reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::tls::TlsConfig;
use ureq::unversioned::transport::{ConnectionDetails, Connector, RustlsConnector, Transport};

use crate::client::late::Late;
use crate::client::{Tcp, config};
use crate::limits;

/// A place for one connection to one peer.
#[derive(Clone)]
pub struct Line {
    agent: Agent,
    n_opened: Arc<AtomicU64>,
}

impl Line {
    /// A line over which nothing was asked yet. Status codes are answers, not errors, and redirects are not followed;
    /// `timeout` bounds a whole exchange. Without one something else ends it, and small reads of large answers are
    /// gathered.
    pub fn new(user_agent: &str, tls: Option<&TlsConfig>, timeout: Option<Duration>) -> Self {
        Line::with_tls(user_agent, tls, timeout, SharedTls::default())
    }

    fn with_tls(user_agent: &str, tls: Option<&TlsConfig>, timeout: Option<Duration>, shared: SharedTls) -> Self {
        let n_opened = Arc::default();
        let mut tcp =
            Tcp::new(limits::CONNECT_TIMEOUT).counted(Arc::clone(&n_opened)).unacknowledged(limits::UNHEARD_MAX);
        if timeout.is_none() {
            tcp = tcp.gathering();
        }
        let config = config(user_agent, tls, timeout, None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_idle_age(limits::LINE_IDLE_MAX)
            .build();
        Line { agent: Agent::with_parts(config, tcp.chain(shared), Late), n_opened }
    }

    /// Sends a request by `ask`, once more if the kept connection turns out to be closed.
    pub fn exchange<T>(&self, ask: impl Fn(&Agent) -> Result<T, ureq::Error>) -> Result<T, ureq::Error> {
        let before = self.n_opened.load(Ordering::Relaxed);
        match ask(&self.agent) {
            Err(ureq::Error::Io(_)) if self.n_opened.load(Ordering::Relaxed) == before => ask(&self.agent),
            other => other,
        }
    }

    /// Cuts what is under way and refuses all that is asked later.
    pub fn cut(self) {
        self.agent.shutdown();
    }
}

/// Lines to one peer, of which those not in use are kept for a while.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    user_agent: String,
    tls: Option<TlsConfig>,
    shared_tls: SharedTls,
    /// The one used last is at the end.
    idle: Mutex<Vec<(Instant, Line)>>,
}

impl Lines {
    /// No line yet.
    pub fn new(user_agent: &str, tls: Option<TlsConfig>) -> Self {
        let (shared_tls, idle) = (SharedTls::default(), Mutex::default());
        Lines(Arc::new(Shared { user_agent: user_agent.to_owned(), tls, shared_tls, idle }))
    }

    /// A line of one's own until it is dropped; the answers must have been read or dropped by then.
    pub fn take(&self) -> OwnLine {
        let kept = self.0.sweep(Instant::now()).pop();
        let line = kept.map(|(_, line)| line).unwrap_or_else(|| {
            let shared = &self.0;
            Line::with_tls(&shared.user_agent, shared.tls.as_ref(), None, shared.shared_tls.clone())
        });
        OwnLine { uncut: Arc::new(Mutex::new(Some(line.clone()))), line, lines: self.clone() }
    }

    /// Closes what nobody has used for a while. Lines that are taken do this too.
    pub fn sweep(&self) {
        drop(self.0.sweep(Instant::now()));
    }
}

impl Shared {
    /// The lines that are kept, without those that are too old.
    fn sweep(&self, now: Instant) -> MutexGuard<'_, Vec<(Instant, Line)>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let n_old = idle.partition_point(|(since, _)| now.saturating_duration_since(*since) >= limits::LINE_IDLE_MAX);
        idle.drain(..n_old);
        idle
    }
}

/// A line that somebody uses.
pub struct OwnLine {
    line: Line,
    /// Empty once it was cut, or given back.
    uncut: Arc<Mutex<Option<Line>>>,
    lines: Lines,
}

impl OwnLine {
    /// The line.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Returns a function that cuts the exchange on this line, from any thread and at any time. It does nothing once the
    /// line is given back.
    pub fn cutter(&self) -> impl Fn() + Send + Sync + use<> {
        let uncut = Arc::clone(&self.uncut);
        move || {
            let line = uncut.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(line) = line {
                line.cut();
            }
        }
    }
}

impl Drop for OwnLine {
    fn drop(&mut self) {
        let uncut = self.uncut.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(line) = uncut {
            let now = Instant::now();
            let mut idle = self.lines.0.sweep(now);
            if idle.len() < limits::LINES_IDLE_MAX {
                idle.push((now, line));
            }
        }
    }
}

/// TLS whose settings are made once for all lines: the certificate authorities take memory.
#[derive(Debug, Clone, Default)]
struct SharedTls(Arc<RustlsConnector>);

impl<In: Transport> Connector<In> for SharedTls {
    type Out = <RustlsConnector as Connector<In>>::Out;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        self.0.connect(details, chained)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_nobody_uses_are_closed_in_time() {
        let lines = Lines::new("test", None);
        let (first, second) = (lines.take(), lines.take());
        drop(first);
        let between = Instant::now();
        drop(second);
        let n_at = |now: Instant| lines.0.sweep(now).len();
        assert_eq!(n_at(between), 2);
        assert_eq!(n_at(between + limits::LINE_IDLE_MAX), 1);
        assert_eq!(n_at(between + 2 * limits::LINE_IDLE_MAX), 0);
    }
}
