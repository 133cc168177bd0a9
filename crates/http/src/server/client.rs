//! One client's socket: the TLS handshake where there is TLS, then bytes in and out of its [`Connection`]. Never waits.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpStream};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use crate::server::connection::{Answer, Connection, Pages, READ_BYTES, Routes, Served, Times};
use crate::server::request::Head;
use crate::server::response::Common;
use crate::tls::{Handshake, ServerTls, Wire};
use crate::web::{ClientId, Judged, Web};

/// A client.
pub(super) struct Client {
    pub(super) id: ClientId,
    peer: IpAddr,
    pub(super) state: Connection,
    link: Link,
    accepted: Instant,
    /// Bytes of the output that the wire has taken and the socket not yet.
    n_in_wire: usize,
    /// The writing side is shut down.
    half_closed: bool,
    times: Times,
}

enum Link {
    /// TLS is spoken here, and the client has not said a byte.
    Silent(TcpStream),
    /// A TLS handshake that wants this.
    Handshake(Wire, Handshake),
    /// Requests and answers.
    Open(Wire),
    Closed,
}

/// What a round of the server gives its clients.
pub(super) struct Round<'a> {
    pub(super) now: Instant,
    pub(super) date: &'a str,
    pub(super) routes: Routes<'a>,
    pub(super) web: Option<&'a mut Web>,
    pub(super) log: Option<&'a Log>,
}

/// Hears of every request that was answered, and to whom.
pub type Log = dyn Fn(&IpAddr, &Served) + Send;

impl Round<'_> {
    pub(super) fn common(&self) -> Common<'_> {
        Common { date: self.date, headers: self.web.as_deref().map(Web::headers).unwrap_or_default() }
    }
}

/// Answers one client's requests.
struct Asked<'a, 'b> {
    round: &'a mut Round<'b>,
    id: ClientId,
    peer: IpAddr,
}

impl Pages for Asked<'_, '_> {
    fn answer(&mut self, head: &Head) -> Answer {
        let judged = match &mut self.round.web {
            None => Judged::Pass,
            Some(web) => {
                let authorization = head.authorization.as_ref().map(|value| value.0.as_slice());
                web.judge(self.round.now, self.id, self.peer, authorization)
            }
        };
        match judged {
            Judged::Pass => Answer::Page((self.round.routes)(head)),
            Judged::Refused(response) => Answer::Refused(response),
            Judged::Wait => Answer::Later,
        }
    }

    fn common(&self) -> Common<'_> {
        self.round.common()
    }
}

impl Client {
    /// A client that was accepted now, and is to speak TLS or not.
    pub(super) fn new(
        id: ClientId,
        peer: IpAddr,
        stream: TcpStream,
        times: Times,
        now: Instant,
        speaks_tls: bool,
    ) -> Self {
        let link = if speaks_tls { Link::Silent(stream) } else { Link::Open(Wire::plain(stream)) };
        let state = Connection::new(times, now);
        Client { id, peer, state, link, accepted: now, n_in_wire: 0, half_closed: false, times }
    }

    /// What to wait for; `None` when it is closed.
    pub(super) fn poll_fd(&self) -> Option<PollFd<'_>> {
        let (socket, events) = match &self.link {
            Link::Silent(stream) => (stream, PollFlags::IN),
            Link::Handshake(wire, Handshake::WantsWrite) => (wire.socket(), PollFlags::OUT),
            Link::Handshake(wire, _) => (wire.socket(), PollFlags::IN),
            Link::Open(wire) => {
                let mut events = PollFlags::empty();
                events.set(PollFlags::IN, self.state.wants_read());
                events.set(PollFlags::OUT, !self.state.output().is_empty() || wire.wants_write());
                (wire.socket(), events)
            }
            Link::Closed => return None,
        };
        Some(PollFd::new(socket, events))
    }

    /// When it must be looked at, whatever poll(2) says.
    pub(super) fn wake_at(&self, now: Instant) -> Instant {
        match &self.link {
            Link::Silent(_) | Link::Handshake(..) => self.handshake_deadline(),
            Link::Open(wire) if self.state.wants_read() && wire.has_buffered_input() => now,
            Link::Open(_) if self.state.has_work() => now,
            Link::Open(_) | Link::Closed => self.state.deadline(),
        }
    }

    /// Whether it has not finished its TLS handshake.
    pub(super) fn is_handshaking(&self) -> bool {
        matches!(self.link, Link::Silent(_) | Link::Handshake(..))
    }

    /// Whether nothing is left to do.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.link, Link::Closed) || self.state.is_closed()
    }

    /// Who makes room first: the smallest. Who has not even finished a handshake goes before everybody else.
    pub(super) fn rank(&self) -> (u8, Instant) {
        if self.is_handshaking() { (0, self.accepted) } else { self.state.rank() }
    }

    /// Gives up everything but a response on its way; for the stop.
    pub(super) fn finish(&mut self) {
        if self.is_handshaking() {
            self.link = Link::Closed;
        }
        self.state.finish();
    }

    /// Does what there is to do; `ready` says that poll(2) saw something.
    pub(super) fn serve(&mut self, ready: bool, round: &mut Round<'_>) {
        if self.is_handshaking() {
            self.shake_hands(ready, round);
        }
        if matches!(self.link, Link::Open(_)) {
            self.serve_open(ready, round);
        }
    }

    /// Tells who wants to know what was answered.
    pub(super) fn tell(&mut self, log: Option<&Log>) {
        if let (Some(served), Some(log)) = (self.state.take_served(), log) {
            log(&self.peer, &served);
        }
    }

    fn handshake_deadline(&self) -> Instant {
        self.accepted + self.times.handshake
    }

    fn shake_hands(&mut self, ready: bool, round: &Round<'_>) {
        if ready {
            self.link = match std::mem::replace(&mut self.link, Link::Closed) {
                Link::Silent(stream) => self.begin(stream, round),
                Link::Handshake(wire, _) => go_on(wire),
                link => link,
            };
            // The time of the handshake is not the time of the first request.
            if matches!(self.link, Link::Open(_)) && self.state.output().is_empty() {
                self.state = Connection::new(self.times, round.now);
            }
        }
        if self.is_handshaking() && round.now >= self.handshake_deadline() {
            self.link = Link::Closed;
        }
    }

    fn begin(&mut self, stream: TcpStream, round: &Round<'_>) -> Link {
        let mut first = [0];
        match stream.peek(&mut first) {
            // No TLS begins with a letter, and every request does.
            Ok(n) if n > 0 && first.iter().all(u8::is_ascii_alphabetic) => {
                self.state.refuse_plain(round.now);
                Link::Open(Wire::plain(stream))
            }
            Ok(n) if n > 0 => match round.web.as_deref().and_then(Web::tls) {
                Some(tls) => begin_tls(stream, tls),
                None => Link::Closed,
            },
            Err(err) if is_transient(&err) => Link::Silent(stream),
            _ => Link::Closed,
        }
    }

    fn serve_open(&mut self, ready: bool, round: &mut Round<'_>) {
        let Link::Open(wire) = &mut self.link else { return };
        let now = round.now;
        if ready && self.state.is_waiting() && !wire.wants_write() {
            // Nothing was asked for, so this is the end of the connection.
            self.state.received(now, b"");
            self.link = Link::Closed;
            return;
        }
        if self.state.wants_read() && (ready || wire.has_buffered_input()) {
            let mut buffer = [0; READ_BYTES];
            match wire.read(&mut buffer) {
                Ok(n) => self.state.received(now, buffer.get(..n).unwrap_or_default()),
                Err(err) if is_transient(&err) => {}
                Err(_) => self.state.received(now, b""),
            }
        }
        self.state.step(now, &mut Asked { round, id: self.id, peer: self.peer });
        if self.state.is_waiting()
            && now >= self.state.deadline()
            && let Some(web) = &mut round.web
        {
            let late = web.too_late(self.id);
            self.state.refuse(now, &late, &round.common());
        }
        if let (Some(served), Some(log)) = (self.state.take_served(), round.log) {
            log(&self.peer, &served);
        }
        if send(wire, &mut self.state, &mut self.n_in_wire, now).is_err() {
            self.link = Link::Closed;
            return;
        }
        if self.state.is_lingering() && !self.half_closed {
            self.half_closed = true;
            wire.end();
        }
        self.state.expire(now);
    }
}

fn begin_tls(stream: TcpStream, tls: &ServerTls) -> Link {
    match Wire::server(stream, tls) {
        Ok(wire) => go_on(wire),
        Err(err) => {
            log::error!(err = err.to_string(); "cannot begin TLS with an HTTP client");
            Link::Closed
        }
    }
}

fn go_on(mut wire: Wire) -> Link {
    match wire.handshake() {
        Ok(Handshake::Done) => Link::Open(wire),
        Ok(wants) => Link::Handshake(wire, wants),
        Err(err) => {
            let peer = wire.socket().peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
            log::debug!(err = err.to_string(), peer = peer; "TLS handshake with an HTTP client failed");
            Link::Closed
        }
    }
}

/// Sends what the socket takes. Output counts as sent once the socket has it, and not while it waits as ciphertext.
fn send(wire: &mut Wire, state: &mut Connection, n_in_wire: &mut usize, now: Instant) -> std::io::Result<()> {
    loop {
        if wire.wants_write() && !wire.flush().or_else(would_block)? {
            return Ok(());
        }
        if *n_in_wire > 0 {
            state.sent(now, std::mem::take(n_in_wire));
        }
        if state.output().is_empty() {
            return Ok(());
        }
        match wire.write(state.output()) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => *n_in_wire = n,
            Err(err) if is_transient(&err) => return Ok(()),
            Err(err) => return Err(err),
        }
    }
}

fn would_block(err: std::io::Error) -> std::io::Result<bool> {
    if is_transient(&err) { Ok(false) } else { Err(err) }
}

fn is_transient(err: &std::io::Error) -> bool {
    matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
