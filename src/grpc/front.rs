//! The gRPC front door: listens, accepts, ends TLS, and hands a client to the gRPC core, as one end of a socket pair, only
//! after its HTTP/2 preface has been received. The core itself never listens. Caps connections and half-open ones; what
//! passes afterwards is watched by [`pillion_http::h2::Guard`].
//!
//! One thread with poll(2) for the listener and all clients without a preface, one thread per connection afterwards.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::grpc::brake::network;
use crate::grpc::connections::Connections;
use crate::grpc::relay::{self, Newcomer};
use crate::limits;
use pillion_base::error::{Context, Result};
use pillion_base::stop::Stop;
use pillion_http::address::ListenAddress;
use pillion_http::h2::{Guard, PREFACE, Rules, Verdict};
use pillion_http::listen::{Accepted, Listener};
use pillion_http::tls::{Handshake, ServerTls, Wire};

/// Connections at once that have not sent their preface, or wait to enter; of the address that has most, one makes room.
const HALF_OPEN_MAX: usize = 64;
/// A client that has sent its preface waits this long to enter. gRPC clients give a connection 20 s.
const ENTER_TIMEOUT: Duration = Duration::from_secs(15);
/// A silent peer is probed after this time, this often, and given up after this many probes.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 3);
/// A peer that acknowledges nothing, or takes nothing, for this long is gone. `Units:` ms. `Differs:` 20 s in grpc-go.
const UNACKNOWLEDGED_MAX_MS: u32 = 60_000;

/// The front door, listening.
pub struct Front {
    listener: Listener,
    connections: Connections,
    tls: Option<ServerTls>,
    connections_max: usize,
    half_open_max: usize,
    greeting_timeout: Duration,
}

impl Front {
    /// Listens on `address`; what comes in is entered into `connections`.
    ///
    /// `Errors:` `listen gRPC on address ADDRESS: REASON`, with what to change.
    pub fn bind(address: &ListenAddress, connections: Connections) -> Result<Self> {
        let listener = Listener::bind(address, "gRPC", "--grpc-address")
            .context(|| format!("listen gRPC on address {address}"))?;
        Ok(Front {
            listener,
            connections,
            tls: None,
            connections_max: limits::GRPC_CONNECTIONS_MAX,
            half_open_max: HALF_OPEN_MAX,
            greeting_timeout: limits::GRPC_GREETING_TIMEOUT,
        })
    }

    /// Takes only clients that speak TLS.
    pub(crate) fn with_tls(mut self, tls: Option<ServerTls>) -> Self {
        self.tls = tls;
        self
    }

    /// Replaces the most connections, the most half-open ones, and the time for TLS and the preface.
    pub fn with_limits(mut self, connections_max: usize, half_open_max: usize, greeting_timeout: Duration) -> Self {
        self.connections_max = connections_max;
        self.half_open_max = half_open_max.max(1);
        self.greeting_timeout = greeting_timeout;
        self
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until the stop, then stops listening at once and leaves running connections alone.
    ///
    /// `hand_over` gets the core's end of a socket pair (connected, non-blocking) and the client's address; it runs on
    /// this thread and must not block. `Blocks:` until the stop.
    pub fn run(self, stop: &Stop, hand_over: impl Fn(OwnedFd, SocketAddr) -> Result<()>) -> Result<()> {
        let mut door = Door { front: self, waiting: Vec::new() };
        while !stop.is_stopped() {
            let ready = door.wait(stop)?;
            let now = Instant::now();
            door.serve(now, &ready.waiting);
            door.let_in(now, stop, &hand_over);
            if ready.listener {
                door.accept(now);
            }
        }
        Ok(())
    }
}

/// How far a client is.
enum Progress {
    /// TLS, if there is any, and the preface are on their way.
    Greets,
    /// The preface was received; it waits to enter.
    Waits,
    Gone,
    Refused(&'static str, String),
}

/// A client that has not entered yet.
struct Waiting {
    wire: Wire,
    peer: SocketAddr,
    suspect: bool,
    accepted: Instant,
    /// What is waited for while TLS shakes hands.
    wants_write: bool,
    is_secured: bool,
    guard: Guard,
    preface: Vec<u8>,
}

struct Door {
    front: Front,
    waiting: Vec<Waiting>,
}

struct Ready {
    waiting: Vec<bool>,
    listener: bool,
}

impl Door {
    fn wait(&self, stop: &Stop) -> Result<Ready> {
        let now = Instant::now();
        let paused_until = self.front.listener.paused_until(now);
        let wakes = self.waiting.iter().map(|client| self.next_time(now, client));
        let wake = wakes.chain(paused_until).min();
        let mut polled = Vec::with_capacity(self.waiting.len() + 3);
        for client in &self.waiting {
            // A client that waits to enter is still noticed when it goes away.
            let events = match (client.has_greeted(), client.wants_write) {
                (true, _) => PollFlags::RDHUP,
                (false, true) => PollFlags::OUT,
                (false, false) => PollFlags::IN,
            };
            polled.push(PollFd::new(client.wire.socket(), events));
        }
        polled.push(PollFd::from_borrowed_fd(self.front.connections.freed_fd(), PollFlags::IN));
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
        if ready.next().unwrap_or(false) {
            self.front.connections.see_freed();
        }
        Ok(Ready { waiting, listener: ready.nth(1).unwrap_or(false) })
    }

    /// When something is to be done for a client even if nothing arrives.
    fn next_time(&self, now: Instant, client: &Waiting) -> Instant {
        let deadline = client.deadline(self.front.greeting_timeout);
        if !client.has_greeted() {
            return deadline;
        }
        let opens = self.front.connections.brake().opens_at(now, client.peer.ip());
        // Who may enter and has not is waiting for another to leave.
        if opens > now { deadline.min(opens) } else { deadline }
    }

    /// Goes on with the greetings, and sends away who is late.
    fn serve(&mut self, now: Instant, ready: &[bool]) {
        let timeout = self.front.greeting_timeout;
        let connections = &self.front.connections;
        let mut ready = ready.iter();
        self.waiting.retain_mut(|client| {
            let progress = client.progress(now, *ready.next().unwrap_or(&false), timeout);
            if let Progress::Refused(reason, text) = &progress {
                connections.turned_away(reason, client.peer, text);
            }
            matches!(progress, Progress::Greets | Progress::Waits)
        });
    }

    /// Lets in who has greeted, while there is room: those of a suspect address one after the other, and those of an
    /// address whose clients have just hung up on many calls when the core is through with them.
    fn let_in(&mut self, now: Instant, stop: &Stop, hand_over: &impl Fn(OwnedFd, SocketAddr) -> Result<()>) {
        let connections = self.front.connections.clone();
        let mut idx = 0;
        let mut is_asked = false;
        while let Some(client) = self.waiting.get(idx) {
            let peer = client.peer.ip();
            let may_enter = client.has_greeted() && connections.brake().opens_at(now, peer) <= now;
            if !may_enter || connections.is_haunted(peer) {
                idx += 1;
                continue;
            }
            if connections.n_open() >= self.front.connections_max {
                // One at a time: the place of who gives way is free a moment later.
                is_asked = is_asked || connections.make_room(peer, self.front.connections_max);
                if is_asked {
                    idx += 1;
                } else {
                    let client = self.waiting.remove(idx);
                    connections.turned_away("connections", client.peer, "too many connections");
                }
                continue;
            }
            let Waiting { wire, peer, suspect, guard, preface, .. } = self.waiting.remove(idx);
            connections.brake().entered(now, peer.ip());
            let newcomer = Newcomer { wire, peer, suspect, guard, preface };
            if let Err(err) = relay::start(&connections, newcomer, stop, hand_over) {
                connections.turned_away("connections", peer, &err.to_string());
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
        self.make_room();
        let connections = &self.front.connections;
        let Ok(stream) = prepared(stream) else { return };
        let wire = match &self.front.tls {
            None => Wire::plain(stream),
            Some(tls) => match Wire::server(stream, tls) {
                Ok(wire) => wire,
                Err(err) => return connections.turned_away("tls", peer, &err.to_string()),
            },
        };
        let suspect = connections.brake().is_suspect(now, peer.ip());
        let rules = if suspect { Rules::SUSPECT } else { Rules::NORMAL };
        let (request_bytes_max, unfinished_bytes_max) = connections.request_bytes_max();
        // The acknowledgement of SETTINGS takes one more round trip.
        let handshake_timeout = 2 * self.front.greeting_timeout;
        let guard = Guard::new(Rules { request_bytes_max, unfinished_bytes_max, handshake_timeout, ..rules }, now);
        let is_secured = self.front.tls.is_none();
        self.waiting.push(Waiting {
            wire,
            peer,
            suspect,
            accepted: now,
            wants_write: false,
            is_secured,
            guard,
            preface: Vec::new(),
        });
    }

    /// Closes half-open connections until there is room for one more: of the address that has most, the one that came
    /// first and has not greeted, or else any, so that being early is no advantage to who floods.
    fn make_room(&mut self) {
        while self.waiting.len() >= self.front.half_open_max {
            let mut counts: HashMap<IpAddr, usize> = HashMap::new();
            for client in &self.waiting {
                *counts.entry(network(client.peer.ip())).or_default() += 1;
            }
            let most = counts.values().max().copied();
            let of_most = |client: &Waiting| counts.get(&network(client.peer.ip())).copied() == most;
            let silent = self.waiting.iter().position(|client| of_most(client) && !client.has_greeted());
            let Some(idx) = silent.or_else(|| self.waiting.iter().position(of_most)) else { return };
            let client = self.waiting.remove(idx);
            self.front.connections.turned_away("handshake", client.peer, "a newer connection needs the room");
        }
    }
}

impl Waiting {
    fn has_greeted(&self) -> bool {
        self.preface.len() >= PREFACE.len()
    }

    fn deadline(&self, greeting_timeout: Duration) -> Instant {
        self.accepted + if self.has_greeted() { ENTER_TIMEOUT } else { greeting_timeout }
    }

    fn progress(&mut self, now: Instant, ready: bool, greeting_timeout: Duration) -> Progress {
        if now >= self.deadline(greeting_timeout) {
            return match (self.has_greeted(), self.is_secured) {
                (true, _) => Progress::Refused("connections", "others wait to connect too".into()),
                (false, true) => Progress::Refused("handshake", "the HTTP/2 preface did not arrive in time".into()),
                (false, false) => Progress::Refused("handshake", "the TLS handshake took too long".into()),
            };
        }
        if self.has_greeted() {
            // Only a hang-up or an error can have woken it.
            return if ready { Progress::Gone } else { Progress::Waits };
        }
        if !ready {
            return Progress::Greets;
        }
        if !self.is_secured {
            match self.wire.handshake() {
                Ok(Handshake::Done) => self.is_secured = true,
                Ok(wants) => {
                    self.wants_write = wants == Handshake::WantsWrite;
                    return Progress::Greets;
                }
                // A client that hangs up, as a check of the port does, is nothing to speak of.
                Err(err) if matches!(err.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                    return Progress::Gone;
                }
                Err(err) => return Progress::Refused("tls", err.to_string()),
            }
            self.wants_write = false;
        }
        self.greet(now)
    }

    fn greet(&mut self, now: Instant) -> Progress {
        loop {
            let mut buffer = [0; PREFACE.len()];
            let missing = buffer.get_mut(self.preface.len()..).unwrap_or_default();
            let n = match self.wire.read(missing) {
                Ok(0) => return Progress::Gone,
                Ok(n) => n,
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                Err(err) if err.kind() == ErrorKind::WouldBlock => return Progress::Greets,
                Err(_) => return Progress::Gone,
            };
            let bytes = missing.get(..n).unwrap_or_default();
            if let Verdict::Close { reason, text } = self.guard.client(now, bytes) {
                return Progress::Refused(reason, text.into());
            }
            self.preface.extend_from_slice(bytes);
            if self.has_greeted() {
                return Progress::Waits;
            }
        }
    }
}

/// Sets what the sockets of all clients have in common.
fn prepared(stream: TcpStream) -> std::io::Result<TcpStream> {
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
