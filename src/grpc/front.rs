//! The gRPC front door: listens, accepts, and hands a client to the gRPC core, as one end of a socket pair, only after
//! its HTTP/2 preface has been received. The core itself never listens. Caps connections and half-open ones; what
//! passes afterwards is watched by [`pillion_http::h2::Guard`].
//!
//! One thread with poll(2) for the listener and all clients without a preface, two threads per connection afterwards.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::grpc::brake::Admission;
pub use crate::grpc::relay::Connections;
use crate::grpc::relay::Newcomer;
use crate::limits;
use crate::metrics::FrontMetrics;
use pillion_base::error::{Context, Result};
use pillion_base::stop::Stop;
use pillion_http::address::ListenAddress;
use pillion_http::h2::{Guard, PREFACE, Rules, Verdict};
use pillion_http::listen::{Accepted, Listener};

/// Connections at once that have not completed the handshake; the oldest makes room.
const HALF_OPEN_MAX: usize = 64;
/// A connection refused after abuse is left open, unread, for this long: a client that comes back as soon as it is closed
/// is slowed down at no cost.
const TAR_PIT: Duration = Duration::from_secs(1);
/// Connections in the tar pit; the oldest makes room.
const TAR_PIT_MAX: usize = 32;
/// A silent peer is probed after this time, this often, and given up after this many probes.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 3);
/// A peer that acknowledges nothing, or takes nothing, for this long is gone. `Units:` ms. `Differs:` 20 s in grpc-go.
const UNACKNOWLEDGED_MAX_MS: u32 = 60_000;

/// The front door, listening.
pub struct Front {
    listener: Listener,
    connections: Connections,
    connections_max: usize,
    half_open_max: usize,
    handshake_timeout: Duration,
}

impl Front {
    /// Listens on `address`.
    ///
    /// `Errors:` `listen gRPC on address ADDRESS: REASON`, with what to change.
    pub fn bind(address: &ListenAddress, metrics: FrontMetrics) -> Result<Self> {
        let listener = Listener::bind(address, "gRPC", "--grpc-address")
            .context(|| format!("listen gRPC on address {address}"))?;
        Ok(Front {
            listener,
            connections: Connections::new(metrics),
            connections_max: limits::GRPC_CONNECTIONS_MAX,
            half_open_max: HALF_OPEN_MAX,
            handshake_timeout: limits::GRPC_HANDSHAKE_TIMEOUT,
        })
    }

    /// Replaces the most connections, the most half-open ones, and the time for the handshake.
    pub fn with_limits(mut self, connections_max: usize, half_open_max: usize, handshake_timeout: Duration) -> Self {
        self.connections_max = connections_max;
        self.half_open_max = half_open_max.max(1);
        self.handshake_timeout = handshake_timeout;
        self
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The table of connections: who is behind a descriptor of the core, and the end of the grace of a stop.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Accepts until the stop, then stops listening at once and leaves running connections alone.
    ///
    /// `hand_over` gets the core's end of a socket pair (connected, non-blocking) and the client's address; it runs on
    /// this thread and must not block. `Blocks:` until the stop.
    pub fn run(self, stop: &Stop, hand_over: impl Fn(OwnedFd, SocketAddr) -> Result<()>) -> Result<()> {
        let mut door = Door { front: self, waiting: Vec::new(), tar_pit: VecDeque::new() };
        while !stop.is_stopped() {
            let ready = door.wait(stop)?;
            let now = Instant::now();
            door.serve(now, &ready.waiting, &hand_over);
            while door.tar_pit.front().is_some_and(|(until, _)| now >= *until) {
                door.tar_pit.pop_front();
            }
            if ready.listener {
                door.accept(now);
            }
        }
        Ok(())
    }
}

/// A client that has yet to send its preface.
struct Waiting {
    stream: TcpStream,
    peer: SocketAddr,
    suspect: bool,
    accepted: Instant,
    /// Suspects are not read from before this time.
    begins: Instant,
    guard: Guard,
    preface: Vec<u8>,
}

struct Door {
    front: Front,
    waiting: Vec<Waiting>,
    /// Until when, and what.
    tar_pit: VecDeque<(Instant, TcpStream)>,
}

struct Ready {
    waiting: Vec<bool>,
    listener: bool,
}

enum Progress {
    Waits,
    Ready,
    Gone,
    Refused(&'static str, &'static str),
}

impl Door {
    fn wait(&self, stop: &Stop) -> Result<Ready> {
        let now = Instant::now();
        let paused_until = self.front.listener.paused_until(now);
        let wakes = self.waiting.iter().map(|client| client.next_time(now));
        let freed = self.tar_pit.front().map(|(until, _)| *until);
        let wake = wakes.chain(paused_until).chain(freed).min();
        let mut polled = Vec::with_capacity(self.waiting.len() + 2);
        for client in &self.waiting {
            // A client that is held back is still noticed when it goes away.
            let events = if now < client.begins { PollFlags::empty() } else { PollFlags::IN };
            polled.push(PollFd::new(&client.stream, events));
        }
        polled.push(PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN));
        polled.push(self.front.listener.poll_fd(now));
        // Rounded up, so that the time has come when the wait is over.
        let timeout = wake.map(|wake| wake.saturating_duration_since(now) + Duration::from_millis(1));
        let timeout = timeout.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(std::io::Error::from(err)).context(|| "wait for gRPC clients"),
        }
        let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
        let waiting = ready.by_ref().take(self.waiting.len()).collect();
        Ok(Ready { waiting, listener: ready.nth(1).unwrap_or(false) })
    }

    fn serve(&mut self, now: Instant, ready: &[bool], hand_over: &impl Fn(OwnedFd, SocketAddr) -> Result<()>) {
        let clients = std::mem::take(&mut self.waiting);
        let connections = &self.front.connections;
        for (mut client, ready) in clients.into_iter().zip(ready) {
            match client.progress(now, *ready) {
                Progress::Waits => self.waiting.push(client),
                Progress::Gone => {}
                Progress::Refused(reason, text) => connections.turned_away(reason, client.peer, text),
                Progress::Ready => {
                    let Waiting { stream, peer, suspect, guard, preface, .. } = client;
                    let newcomer = Newcomer { stream, peer, suspect, guard, preface };
                    if let Err(err) = connections.start(newcomer, hand_over) {
                        connections.turned_away("connections", peer, &err.to_string());
                    }
                }
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        for n_accepted in 0.. {
            let Accepted::Client(stream, peer) = self.front.listener.accept(now, n_accepted) else { return };
            self.front.connections.metrics().accepted.inc();
            self.admit(now, stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
        }
    }

    fn admit(&mut self, now: Instant, stream: TcpStream, peer: SocketAddr) {
        let connections = self.front.connections.clone();
        let admission = connections.brake().admit(now, peer.ip());
        let (begins, suspect) = match admission {
            Admission::Now => (now, false),
            Admission::Suspect(begins) => (begins, true),
            Admission::Refused => {
                if self.tar_pit.len() >= TAR_PIT_MAX {
                    self.tar_pit.pop_front();
                }
                self.tar_pit.push_back((now + TAR_PIT, stream));
                return connections.turned_away("abuse", peer, "too many connections after abuse from this address");
            }
        };
        self.make_room();
        if self.waiting.len() + connections.n_open() >= self.front.connections_max {
            return connections.turned_away("connections", peer, "too many connections");
        }
        let Ok(stream) = plain_stream(stream) else { return };
        let rules = if suspect { Rules::SUSPECT } else { Rules::NORMAL };
        let guard = Guard::new(Rules { handshake_timeout: self.front.handshake_timeout, ..rules }, begins);
        self.waiting.push(Waiting { stream, peer, suspect, accepted: now, begins, guard, preface: Vec::new() });
    }

    /// Closes the oldest half-open connections until there is room for one more.
    fn make_room(&mut self) {
        let connections = &self.front.connections;
        for _ in 0..self.front.half_open_max {
            let (n_relayed, oldest_relayed) = connections.half_open();
            let n_half_open = self.waiting.len() + n_relayed;
            let n_all = self.waiting.len() + connections.n_open();
            if n_half_open < self.front.half_open_max && n_all < self.front.connections_max {
                return;
            }
            let oldest = self.waiting.iter().enumerate().min_by_key(|(_, client)| client.accepted);
            match oldest.map(|(idx, client)| (idx, client.accepted)) {
                Some((idx, accepted)) if oldest_relayed.is_none_or(|relayed| accepted <= relayed) => {
                    // Those of one turn came at the same time by the clock, and their order says who was first.
                    let client = self.waiting.remove(idx);
                    connections.turned_away("handshake", client.peer, "a newer connection needs the room");
                }
                _ if oldest_relayed.is_some() => connections.evict_half_open(),
                _ => return,
            }
        }
    }
}

impl Waiting {
    /// When something is to be done even if nothing arrives.
    fn next_time(&self, now: Instant) -> Instant {
        if now < self.begins { self.begins } else { self.guard.handshake_deadline().unwrap_or(self.begins) }
    }

    fn progress(&mut self, now: Instant, ready: bool) -> Progress {
        if now < self.begins {
            // Nothing was asked of poll, so only a hang-up or an error can have woken it.
            return if ready { Progress::Gone } else { Progress::Waits };
        }
        if self.guard.handshake_deadline().is_some_and(|deadline| now >= deadline) {
            return Progress::Refused("handshake", "the HTTP/2 preface did not arrive in time");
        }
        if !ready {
            return Progress::Waits;
        }
        let mut buffer = [0; PREFACE.len()];
        let missing = buffer.get_mut(self.preface.len()..).unwrap_or_default();
        let n = match self.stream.read(missing) {
            Ok(0) => return Progress::Gone,
            Ok(n) => n,
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Progress::Waits,
            Err(_) => return Progress::Gone,
        };
        let bytes = missing.get(..n).unwrap_or_default();
        if let Verdict::Close { reason, text } = self.guard.client(now, bytes) {
            return Progress::Refused(reason, text);
        }
        self.preface.extend_from_slice(bytes);
        if self.preface.len() < PREFACE.len() { Progress::Waits } else { Progress::Ready }
    }
}

/// Turns an accepted socket into a stream of plain HTTP/2 bytes.
///
/// This is the place of TLS: the handshake belongs between accept and the wait for the preface, and what it returns is
/// what the relay reads and writes, so that no byte of a stranger reaches the core.
fn plain_stream(stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    let (idle, interval, n_probes) = KEEPALIVE;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, idle)?;
    sockopt::set_tcp_keepintvl(&stream, interval)?;
    sockopt::set_tcp_keepcnt(&stream, n_probes)?;
    sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MAX_MS)?;
    Ok(stream)
}
