//! Connections that are kept between exchanges. A connection serves one exchange at a time, and that one can be cut from
//! another thread; one that was cut, or whose answer was not read to its end, is never used again.
//!
//! A line is an agent of the HTTP library that keeps one connection, so the library's own rules say what may be kept. A
//! request over a connection that its peer has closed meanwhile is sent again over a new one: all requests are reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use std::io::ErrorKind;

use ureq::unversioned::transport::{ConnectProxyConnector, Connector};
use ureq::{Agent, Proxy, ProxyProtocol};

use crate::client::forward::{Forward, Via};
use crate::client::late::Late;
use crate::client::secure::Secure;
use crate::client::yaml::ProxyAddress;
use crate::client::{Access, Tcp, config};
use crate::limits;

/// A place for one connection to one peer.
#[derive(Clone)]
pub struct Line {
    agent: Agent,
    access: Access,
    /// Of the files of TLS, when it was made.
    generation: u64,
    n_opened: Arc<AtomicU64>,
}

impl Line {
    /// A line over which nothing was asked yet. Status codes are answers, not errors, and redirects are not followed;
    /// `timeout` bounds a whole exchange. Without one something else ends it, and small reads of large answers are
    /// gathered.
    pub fn new(user_agent: &str, access: &Access, timeout: Option<Duration>) -> Self {
        let (n_opened, transport) = (Arc::<AtomicU64>::default(), access.transport());
        let tcp = || {
            let tcp =
                Tcp::new(transport.dial_time()).counted(Arc::clone(&n_opened)).unacknowledged(limits::UNHEARD_MAX);
            if timeout.is_none() { tcp.gathering() } else { tcp }
        };
        let generation = access.generation();
        let proxy = access.config().proxy.as_ref();
        let tunnel = proxy.filter(|_| access.is_tls()).and_then(tunnel);
        let via = proxy.filter(|_| !access.is_tls()).and_then(|proxy| Via::new(proxy, tcp()));
        let connect_time =
            transport.dial_time() + if access.is_tls() { transport.handshake_time() } else { Duration::ZERO };
        let config = config(user_agent, None, timeout, tunnel)
            .timeout_connect(Some(connect_time))
            .timeout_recv_response(transport.answer_time())
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_idle_age(transport.idle_time())
            .build();
        let connector = ConnectProxyConnector::default().chain(Forward(via)).chain(tcp()).chain(Secure(access.clone()));
        Line { agent: Agent::with_parts(config, connector, Late), access: access.clone(), generation, n_opened }
    }

    /// Whether the files of TLS are still those of the time when it was made.
    pub fn is_current(&self) -> bool {
        self.generation == self.access.generation()
    }

    /// Sends a request by `ask`, once more if the kept connection turns out to be closed, or if a new one is refused and
    /// the files of TLS have changed meanwhile.
    pub fn exchange<T>(&self, ask: impl Fn(&Agent) -> Result<T, ureq::Error>) -> Result<T, ureq::Error> {
        let before = self.n_opened.load(Ordering::Relaxed);
        let generation = self.access.generation();
        match ask(&self.agent) {
            Err(ureq::Error::Io(_)) if self.n_opened.load(Ordering::Relaxed) == before => ask(&self.agent),
            Err(ureq::Error::Io(err)) if err.kind() == ErrorKind::InvalidData && self.access.has_left(generation) => {
                ask(&self.agent)
            }
            other => other,
        }
    }

    /// Cuts what is under way and refuses all that is asked later.
    pub fn cut(self) {
        self.agent.shutdown();
    }
}

/// A proxy that is asked for a tunnel.
fn tunnel(proxy: &ProxyAddress) -> Option<Proxy> {
    let host = if proxy.host.contains(':') { format!("[{}]", proxy.host) } else { proxy.host.clone() };
    let mut made = Proxy::builder(ProxyProtocol::Http).host(&host).port(proxy.port);
    if let Some(user) = &proxy.user {
        made = made.username(&user.username).password(user.password.as_deref().unwrap_or_default());
    }
    made.build().ok()
}

/// Lines to one peer, of which those not in use are kept for a while.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    user_agent: String,
    access: Access,
    /// The one used last is at the end.
    idle: Mutex<Vec<(Instant, Line)>>,
}

impl Lines {
    /// No line yet.
    pub fn new(user_agent: &str, access: Access) -> Self {
        Lines(Arc::new(Shared { user_agent: user_agent.to_owned(), access, idle: Mutex::default() }))
    }

    /// A line of one's own until it is dropped; the answers must have been read or dropped by then.
    pub fn take(&self) -> OwnLine {
        let generation = self.0.access.generation();
        let kept = {
            let mut idle = self.0.sweep(Instant::now());
            idle.retain(|(_, line)| line.generation == generation);
            idle.pop()
        };
        let line = kept.map(|(_, line)| line).unwrap_or_else(|| Line::new(&self.0.user_agent, &self.0.access, None));
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
        let idle_time = self.access.transport().idle_time();
        let n_old = idle.partition_point(|(since, _)| now.saturating_duration_since(*since) >= idle_time);
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
            if idle.len() < self.lines.0.access.transport().idle_max() {
                idle.push((now, line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_nobody_uses_are_closed_in_time() {
        let lines = Lines::new("test", Access::default());
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
