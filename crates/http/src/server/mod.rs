//! A small HTTP/1 server: one thread, non-blocking sockets and poll(2), so that any number of slow, half-open or silent
//! clients costs bounded memory and never keeps a scrape out. What it answers, its routes say.
//!
//! Not a library's server: tiny_http failed a test with slow clients, and oxhttp holds a thread per connection, stops
//! accepting at its cap, extends its time-out with every byte and cannot be stopped (`Source:` oxhttp `src/server.rs`).

mod client;
mod connection;
pub mod request;
mod response;
#[cfg(test)]
mod web_tests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::address::ListenAddress;
use crate::limits;
use crate::listen::{Accepted, Listener};
use crate::web::{ClientId, Judged, Web};
pub use client::Log;
use client::{Client, Round};
use connection::Times;
pub use connection::{Routes, Served};
use pillion_base::error::{Context, Result};
use pillion_base::stop::Stop;
pub use response::Response;

/// Time for a client to take a whole response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a client to notice the end of its connection.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for responses on their way after the stop has begun, unless another is set.
const GRACE: Duration = Duration::from_secs(1);

/// The server, listening.
pub struct Server {
    listener: Listener,
    times: Times,
    connections_max: usize,
    grace: Duration,
    web: Option<Web>,
    log: Option<Box<Log>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).field("web", &self.web).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on `address`.
    ///
    /// `Errors:` `listen on ADDRESS: REASON`, with what to change: the flag `flag`.
    pub fn bind(address: &ListenAddress, flag: &str) -> Result<Self> {
        let listener = Listener::bind(address, "HTTP", flag).context(|| format!("listen on {address}"))?;
        let times = Times {
            handshake: limits::TLS_HANDSHAKE_TIMEOUT,
            head: limits::REQUEST_HEAD_TIMEOUT,
            verdict: limits::PASSWORD_TIMEOUT,
            write: WRITE_TIMEOUT,
            linger: LINGER_TIMEOUT,
        };
        Ok(Server { listener, times, connections_max: limits::CONNECTIONS_MAX, grace: GRACE, web: None, log: None })
    }

    /// Serves as a web configuration says: over TLS, to who has a password, with headers.
    pub fn with_web(mut self, web: Option<Web>) -> Self {
        self.web = web;
        self
    }

    /// Tells `log` of every request that was answered, on the thread that serves.
    pub fn with_log(mut self, log: Option<Box<Log>>) -> Self {
        self.log = log;
        self
    }

    /// Replaces the time for request heads and idle clients, and the time to take a response. A TLS handshake has no more
    /// time than a head.
    pub fn with_times(mut self, head: Duration, write: Duration) -> Self {
        self.times = Times { head, write, handshake: self.times.handshake.min(head), ..self.times };
        self
    }

    /// Replaces the time in which a password must be checked.
    #[cfg(test)]
    pub(crate) fn with_verdict_time(mut self, verdict: Duration) -> Self {
        self.times.verdict = verdict;
        self
    }

    /// Replaces the most connections held at once.
    pub fn with_connections_max(mut self, connections_max: usize) -> Self {
        self.connections_max = connections_max.max(1);
        self
    }

    /// Replaces the time that responses on their way get at the stop.
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the stop, then finishes responses on their way for at most the grace.
    ///
    /// `Blocks:` until the stop. `routes` runs on this thread and must not block.
    pub fn run(self, stop: &Stop, routes: Routes<'_>) -> Result<()> {
        let Server { mut listener, times, connections_max, grace, web, log } = self;
        log_web(web.as_ref(), &listener.local_addr()?);
        let mut server = Serving { times, connections_max, clients: Vec::new(), web, log, n_accepted: 0 };
        while !stop.is_stopped() {
            server.round(Some((stop, &mut listener)), None, routes)?;
        }
        drop(listener);
        let deadline = Instant::now() + grace;
        server.clients.iter_mut().for_each(|client| client.finish());
        server.sweep();
        while !server.clients.is_empty() && Instant::now() < deadline {
            server.round(None, Some(deadline), routes)?;
        }
        Ok(())
    }
}

/// What upstream says at the start.
fn log_web(web: Option<&Web>, address: &SocketAddr) {
    if let Some((burst, interval)) = web.and_then(Web::rate_limit) {
        log::info!(burst = burst, interval = format!("{interval:?}"); "Rate Limiter is enabled.");
    }
    let is_tls = web.is_some_and(|web| web.tls().is_some());
    let state = if is_tls { "enabled" } else { "disabled" };
    log::info!(http2 = false, address = address.to_string(); "TLS is {state}.");
}

struct Serving {
    times: Times,
    connections_max: usize,
    clients: Vec<Client>,
    web: Option<Web>,
    log: Option<Box<Log>>,
    /// Clients so far; each one's number is its name.
    n_accepted: ClientId,
}

impl Serving {
    /// Waits for something to do and does it.
    fn round(
        &mut self,
        accepting: Option<(&Stop, &mut Listener)>,
        until: Option<Instant>,
        routes: Routes<'_>,
    ) -> Result<()> {
        let ready = self.wait(accepting.as_ref().map(|(stop, listener)| (*stop, &**listener)), until)?;
        let now = Instant::now();
        let date = http_date();
        let mut round = Round { now, date: &date, routes, web: self.web.as_mut(), log: self.log.as_deref() };
        if ready.web {
            hear_verdicts(&mut self.clients, &mut round);
        }
        for (client, ready) in self.clients.iter_mut().zip(&ready.clients) {
            client.serve(*ready, &mut round);
        }
        self.sweep();
        if let Some((_, listener)) = accepting.filter(|_| ready.listener) {
            self.accept(now, listener);
        }
        Ok(())
    }

    fn wait(&self, accepting: Option<(&Stop, &Listener)>, until: Option<Instant>) -> Result<Ready> {
        let now = Instant::now();
        let mut wake = until;
        let mut earlier = |at: Instant| wake = Some(wake.map_or(at, |wake: Instant| wake.min(at)));
        if let Some(until) = accepting.and_then(|(_, listener)| listener.paused_until(now)) {
            earlier(until);
        }
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(self.clients.len() + 3);
        for client in &self.clients {
            earlier(client.wake_at(now));
            polled.extend(client.poll_fd());
        }
        let n_clients = polled.len();
        polled.extend(self.web.as_ref().map(|web| PollFd::from_borrowed_fd(web.wake().fd(), PollFlags::IN)));
        let n_before_listener = polled.len();
        if let Some((stop, listener)) = accepting {
            polled.push(listener.poll_fd(now));
            polled.push(PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN));
        }
        let timeout = wake.map(|wake| timespec(wake.saturating_duration_since(now)));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(std::io::Error::from(err)).context(|| "wait for HTTP clients"),
        }
        let is_ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| !fd.revents().is_empty());
        Ok(Ready {
            clients: polled.iter().take(n_clients).map(|fd| is_ready(Some(fd))).collect(),
            web: self.web.is_some() && is_ready(polled.get(n_clients)),
            listener: accepting.is_some() && is_ready(polled.get(n_before_listener)),
        })
    }

    fn sweep(&mut self) {
        let web = &mut self.web;
        self.clients.retain(|client| {
            if client.is_closed()
                && let Some(web) = web
            {
                web.forget(client.id);
            }
            !client.is_closed()
        });
    }

    fn accept(&mut self, now: Instant, listener: &mut Listener) {
        if let Some(web) = &mut self.web {
            // The settings of TLS are those of the file as it is now.
            web.refresh(now);
        }
        for n_accepted in 0.. {
            match listener.accept(now, n_accepted) {
                Accepted::Client(stream, peer) if stream.set_nonblocking(true).is_ok() => {
                    let _ = stream.set_nodelay(true);
                    while self.clients.len() >= self.connections_max && self.evict(&|_| true) {}
                    let speaks_tls = self.web.as_ref().is_some_and(|web| web.tls().is_some());
                    if speaks_tls && self.n_handshakes() >= limits::TLS_HANDSHAKES_MAX {
                        self.evict(&Client::is_handshaking);
                    }
                    self.n_accepted += 1;
                    self.clients.push(Client::new(self.n_accepted, peer.ip(), stream, self.times, now, speaks_tls));
                }
                Accepted::Client(..) => {}
                Accepted::Done => return,
                Accepted::Exhausted => {
                    // One client gives its descriptor back, so that a scrape gets through all the same.
                    self.evict(&|_| true);
                    return;
                }
            }
        }
    }

    fn n_handshakes(&self) -> usize {
        self.clients.iter().filter(|client| client.is_handshaking()).count()
    }

    /// Closes the client that can best be spared among some.
    fn evict(&mut self, among: &dyn Fn(&Client) -> bool) -> bool {
        let clients = self.clients.iter().enumerate().filter(|(_, client)| among(client));
        let spared = clients.min_by_key(|(_, client)| client.rank());
        let spared = spared.map(|(idx, _)| idx).map(|idx| self.clients.swap_remove(idx));
        if let (Some(client), Some(web)) = (&spared, &mut self.web) {
            web.forget(client.id);
        }
        spared.is_some()
    }
}

/// Answers those whose passwords have been checked.
fn hear_verdicts(clients: &mut [Client], round: &mut Round<'_>) {
    let Some(web) = &mut round.web else { return };
    web.wake().clear();
    web.refresh(round.now);
    for (id, judged) in web.verdicts() {
        let Some(client) = clients.iter_mut().find(|client| client.id == id) else { continue };
        match judged {
            Judged::Pass => client.state.resume(round.now, round.routes, &round.common()),
            Judged::Refused(response) => client.state.refuse(round.now, &response, &round.common()),
            Judged::Wait => {}
        }
        client.tell(round.log);
    }
}

struct Ready {
    clients: Vec<bool>,
    web: bool,
    listener: bool,
}

/// Rounded up to the next millisecond, so that a deadline has passed when its wait is over.
fn timespec(time: Duration) -> Timespec {
    let time = time + Duration::from_millis(1);
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}

fn http_date() -> String {
    let now = jiff::Timestamp::now();
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now).unwrap_or_default()
}
