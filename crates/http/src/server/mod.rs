//! A small HTTP/1 server: one thread, non-blocking sockets and poll(2), so that any number of slow, half-open or silent
//! clients costs bounded memory and never keeps a scrape out. What it answers, its routes say.
//!
//! Not a library's server: tiny_http failed a test with slow clients, and oxhttp holds a thread per connection, stops
//! accepting at its cap, extends its time-out with every byte and cannot be stopped (`Source:` oxhttp `src/server.rs`).

mod connection;
pub mod request;
mod response;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::address::ListenAddress;
use crate::limits;
use crate::listen::{Accepted, Listener};
pub use connection::Routes;
use connection::{Connection, READ_BYTES, Times};
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
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    times: Times,
    connections_max: usize,
    grace: Duration,
}

struct Client {
    stream: TcpStream,
    state: Connection,
    /// The writing side is shut down.
    half_closed: bool,
}

impl Server {
    /// Listens on `address`.
    ///
    /// `Errors:` `listen on ADDRESS: REASON`, with what to change: the flag `flag`.
    pub fn bind(address: &ListenAddress, flag: &str) -> Result<Self> {
        let listener = Listener::bind(address, "HTTP", flag).context(|| format!("listen on {address}"))?;
        let times = Times { head: limits::REQUEST_HEAD_TIMEOUT, write: WRITE_TIMEOUT, linger: LINGER_TIMEOUT };
        Ok(Server { listener, times, connections_max: limits::CONNECTIONS_MAX, grace: GRACE })
    }

    /// Replaces the time for request heads and idle clients, and the time to take a response.
    pub fn with_times(mut self, head: Duration, write: Duration) -> Self {
        self.times = Times { head, write, ..self.times };
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
        let Server { mut listener, times, connections_max, grace } = self;
        let mut server = Serving { times, connections_max, clients: Vec::new() };
        while !stop.is_stopped() {
            server.round(Some((stop, &mut listener)), None, routes)?;
        }
        drop(listener);
        let deadline = Instant::now() + grace;
        server.clients.iter_mut().for_each(|client| client.state.finish());
        server.sweep();
        while !server.clients.is_empty() && Instant::now() < deadline {
            server.round(None, Some(deadline), routes)?;
        }
        Ok(())
    }
}

struct Serving {
    times: Times,
    connections_max: usize,
    clients: Vec<Client>,
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
        for (client, ready) in self.clients.iter_mut().zip(&ready.clients) {
            client.serve(now, *ready, routes, &date);
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
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(self.clients.len() + 2);
        for client in &self.clients {
            earlier(if client.state.has_work() { now } else { client.state.deadline() });
            let events = if client.state.wants_read() { PollFlags::IN } else { PollFlags::OUT };
            polled.push(PollFd::new(&client.stream, events));
        }
        if let Some((stop, listener)) = accepting {
            polled.push(PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN));
            polled.push(listener.poll_fd(now));
        }
        let timeout = wake.map(|wake| timespec(wake.saturating_duration_since(now)));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(std::io::Error::from(err)).context(|| "wait for HTTP clients"),
        }
        let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
        let clients: Vec<bool> = ready.by_ref().take(self.clients.len()).collect();
        Ok(Ready { clients, listener: ready.nth(1).unwrap_or(false) })
    }

    fn sweep(&mut self) {
        self.clients.retain(|client| !client.state.is_closed());
    }

    fn accept(&mut self, now: Instant, listener: &mut Listener) {
        for n_accepted in 0.. {
            match listener.accept(now, n_accepted) {
                Accepted::Client(stream, _) if stream.set_nonblocking(true).is_ok() => {
                    let _ = stream.set_nodelay(true);
                    while self.clients.len() >= self.connections_max && self.evict() {}
                    self.clients.push(Client { stream, state: Connection::new(self.times, now), half_closed: false });
                }
                Accepted::Client(..) => {}
                Accepted::Done => return,
                Accepted::Exhausted => {
                    // One client gives its descriptor back, so that a scrape gets through all the same.
                    self.evict();
                    return;
                }
            }
        }
    }

    /// Closes the client that can best be spared.
    fn evict(&mut self) -> bool {
        let spared = self.clients.iter().enumerate().min_by_key(|(_, client)| client.state.rank());
        spared.map(|(idx, _)| idx).map(|idx| self.clients.swap_remove(idx)).is_some()
    }
}

struct Ready {
    clients: Vec<bool>,
    listener: bool,
}

impl Client {
    fn serve(&mut self, now: Instant, ready: bool, routes: Routes<'_>, date: &str) {
        if ready && self.state.wants_read() {
            let mut buffer = [0; READ_BYTES];
            match self.stream.read(&mut buffer) {
                Ok(n) => self.state.received(now, buffer.get(..n).unwrap_or_default()),
                Err(err) if is_transient(&err) => {}
                Err(_) => self.state.received(now, b""),
            }
        }
        self.state.step(now, routes, date);
        while !self.state.output().is_empty() {
            match self.stream.write(self.state.output()) {
                Ok(n) if n > 0 => self.state.sent(now, n),
                Err(err) if is_transient(&err) => break,
                _ => {
                    self.state.received(now, b"");
                    break;
                }
            }
        }
        if self.state.is_lingering() && !self.half_closed {
            self.half_closed = true;
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        self.state.expire(now);
    }
}

fn is_transient(err: &std::io::Error) -> bool {
    matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
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
