//! Carries the bytes of one gRPC connection between the client and the gRPC core, on one thread with poll(2), and shows
//! both directions to the guard before they pass. The connection leaves the table when the core has let go of it, not when
//! its client has: until then it costs memory.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::grpc::connections::{Connections, Entry, Figures};
use crate::limits;
use pillion_base::error::{Context, Result};
use pillion_base::stop::Stop;
use pillion_base::threads::spawn_thread;
use pillion_http::h2::{Compression, Guard, Verdict, cancel, exhausted, goaway, ping};
use pillion_http::tls::Wire;

/// Buffer towards the core: requests are small.
const UP_BYTES: usize = 16 * 1024;
/// Buffer towards the client.
const DOWN_BYTES: usize = 64 * 1024;
/// Reads of one direction in a row before the other gets its turn.
const READS_MAX: usize = 8;
/// A client that says nothing for this long is pinged.
const PING_AFTER: Duration = Duration::from_secs(12);
/// A client that has been asked and neither says nor takes anything for this long is frozen. With the time before, it is
/// less than the 30 s that queriers wait for one another.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Bytes of a ping, with what TLS adds.
const PING_BYTES_MAX: i64 = 64;
/// A client that has been sent everything has this long to see it and to close, from whatever it last said or took: what
/// its kernel has acknowledged it may not have read, and a close while it still speaks would destroy that.
const LINGER: Duration = Duration::from_secs(2);
/// However long it speaks.
const LINGER_MAX: Duration = Duration::from_secs(60);
/// Time between two looks at what a client has acknowledged, of which no event tells.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Once the daemon stops, a client without calls has this long for the calls that it sent before it knew.
const STOP_LINGER: Duration = Duration::from_millis(500);

/// A client whose preface was received and found right.
pub(super) struct Newcomer {
    pub wire: Wire,
    pub peer: SocketAddr,
    /// It was admitted under the rules for suspects.
    pub suspect: bool,
    /// Has seen the preface.
    pub guard: Guard,
    pub preface: Vec<u8>,
}

/// Puts a client that has sent its preface in touch with the core.
///
/// `Errors:` when descriptors or threads have run out or the core does not take it; the client is then closed.
pub(super) fn start(
    connections: &Connections,
    client: Newcomer,
    stop: &Stop,
    hand_over: impl FnOnce(OwnedFd, SocketAddr) -> Result<()>,
) -> Result<()> {
    let Newcomer { wire, peer, suspect, guard, preface } = client;
    let (ours, theirs) = UnixStream::pair().context(|| "create a socket pair")?;
    theirs.set_nonblocking(true).and_then(|()| ours.set_nonblocking(true)).context(|| "prepare sockets")?;
    let entry = connections.enter(peer, suspect, ours, theirs.as_raw_fd())?;
    let now = Instant::now();
    let relay = Relay {
        seat: Seat { entry: Arc::clone(&entry), connections: connections.clone() },
        wire,
        guard,
        compression: Compression::default(),
        up: Pending { bytes: preface, start: 0 },
        down: Pending::default(),
        phase: Phase::Open,
        alive: now,
        asked: None,
        used: now.checked_sub(LINGER_MAX).unwrap_or(now),
        n_sent: 0,
        n_acknowledged: 0,
        n_unacknowledged: 0,
        n_on_the_wire: 0,
        client_ready: true,
        core_ready: true,
        core_hung_up: false,
        stop: stop.clone(),
        stopping: None,
        was_busy: false,
        lingering: None,
        n_refused: 0,
        n_ghosts: 0,
    };
    // The relay leaves the table when it ends, by panic too, and when its thread cannot be started.
    spawn_thread("grpc-relay", Some(limits::SMALL_STACK_BYTES), move || relay.run())?;
    hand_over(OwnedFd::from(theirs), peer).inspect_err(|_| drop(entry.core.shutdown(Shutdown::Both)))
}

/// A place in the table, given up when this is dropped.
struct Seat {
    entry: Arc<Entry>,
    connections: Connections,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.leave(&self.entry);
    }
}

/// Bytes on their way.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    start: usize,
}

impl Pending {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.start >= self.bytes.len()
    }

    fn clear(&mut self) {
        self.start = self.bytes.len();
    }

    /// Reads up to `size` bytes in place of what has gone.
    fn fill(&mut self, size: usize, read: impl FnOnce(&mut [u8]) -> std::io::Result<usize>) -> std::io::Result<usize> {
        self.start = 0;
        self.bytes.resize(size, 0);
        let n = read(&mut self.bytes);
        self.bytes.truncate(*n.as_ref().unwrap_or(&0));
        n
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Both sides are there.
    Open,
    /// The core has ended: the client takes what is left.
    CoreGone,
    /// The client has been sent everything.
    Lingering,
    /// The client is gone or was closed: what the core still says is dropped until it has let go.
    ClientGone,
    /// Nobody is left.
    Over,
}

struct Relay {
    seat: Seat,
    wire: Wire,
    guard: Guard,
    compression: Compression,
    up: Pending,
    down: Pending,
    phase: Phase,
    /// When the client last said or took something.
    alive: Instant,
    /// When it was last asked whether it is alive, by a ping or by a look at what it acknowledges.
    asked: Option<Instant>,
    /// When it last had a call; at first long ago.
    used: Instant,
    /// Bytes that were given to the kernel.
    n_sent: i64,
    /// How many of them the client had acknowledged at the last look, how many not, and how many of those are on the wire.
    n_acknowledged: i64,
    n_unacknowledged: u64,
    n_on_the_wire: u64,
    /// There may be something to read, as far as the last wait or the last read has shown.
    client_ready: bool,
    core_ready: bool,
    /// The core has closed its end; what it wrote before can still be read.
    core_hung_up: bool,
    stop: Stop,
    /// Since when the daemon stops, or when the last call ended after that.
    stopping: Option<Instant>,
    was_busy: bool,
    /// Since when a client that has been sent everything is waited for.
    lingering: Option<Instant>,
    n_refused: u64,
    /// Streams that were open when the client left, until the core has let go of them.
    n_ghosts: usize,
}

impl Relay {
    fn run(mut self) {
        while self.phase != Phase::Over {
            if let Some(verdict) = self.seat.entry.verdict().filter(|_| self.phase != Phase::ClientGone) {
                self.close(verdict);
            }
            let now = Instant::now();
            let mut has_moved = self.carry_up(now);
            has_moved |= self.carry_down(now);
            let wake = self.look_at_the_clock(now);
            self.show(now);
            if !has_moved && self.phase != Phase::Over {
                self.wait(wake);
            }
        }
    }

    /// Client to core; true when there may be more.
    fn carry_up(&mut self, now: Instant) -> bool {
        for _ in 0..READS_MAX {
            if self.phase == Phase::Open && !self.up.is_empty() {
                match (&self.seat.entry.core).write(self.up.rest()) {
                    Ok(n) => self.up.start += n,
                    Err(err) if is_transient(&err) => return err.kind() == ErrorKind::Interrupted,
                    // It ends, and its end is found when it is read.
                    Err(_) => self.up.clear(),
                }
                continue;
            }
            // Not only when the client says something: it may have nothing more to say.
            if self.phase == Phase::Open
                && let Some(stream) = self.guard.refused_for_server()
            {
                self.up = Pending { bytes: cancel(stream), start: 0 };
                continue;
            }
            if matches!(self.phase, Phase::ClientGone | Phase::Over) || !self.client_ready {
                return false;
            }
            // A frame of ours goes between two of the client's.
            let n_wanted = match self.guard.client_missing() {
                Some(missing) if self.guard.has_refused().0 => missing.min(UP_BYTES),
                _ => UP_BYTES,
            };
            let wire = &mut self.wire;
            match self.up.fill(n_wanted, |buffer| wire.read(buffer)) {
                // After less than there was room for, another read would only say that nothing is there.
                Ok(n) if n > 0 => self.client_ready = n == n_wanted || self.wire.is_tls(),
                Err(err) if err.kind() == ErrorKind::WouldBlock => {
                    self.client_ready = false;
                    return false;
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                _ => {
                    self.client_gone(now);
                    return true;
                }
            }
            // Once the core has ended, only what the client takes counts.
            if self.phase != Phase::CoreGone {
                self.alive = now;
            }
            if self.phase != Phase::Open {
                // Unread bytes would turn the close into a reset, which destroys what is on its way.
                self.up.clear();
                continue;
            }
            self.compression.pass(&mut self.up.bytes);
            let verdict = self.guard.client(now, self.up.rest());
            self.judged(now, verdict);
            if verdict != Verdict::Pass {
                return true;
            }
        }
        true
    }

    /// Core to client; true when there may be more.
    fn carry_down(&mut self, now: Instant) -> bool {
        for _ in 0..READS_MAX {
            match self.phase {
                Phase::Over => return false,
                Phase::ClientGone => self.down.clear(),
                _ => match self.send() {
                    Ok(true) => {}
                    Ok(false) => return false,
                    Err(_) => {
                        self.client_gone(now);
                        return true;
                    }
                },
            }
            if self.phase == Phase::Open
                && let Some(refused) = self.guard.refused_for_client()
            {
                let text = "the request is larger than --grpc-server-max-request-size of the sidecar";
                self.down = Pending { bytes: exhausted(refused.stream, refused.is_answered, text), start: 0 };
                continue;
            }
            match self.phase {
                Phase::CoreGone => {
                    self.wire.end();
                    self.phase = Phase::Lingering;
                    return true;
                }
                Phase::Lingering => return false,
                _ if !self.core_ready => return false,
                _ => {}
            }
            let n_wanted = match self.guard.server_missing() {
                Some(missing) if self.guard.has_refused().1 => missing.min(DOWN_BYTES),
                _ => DOWN_BYTES,
            };
            let mut core = &self.seat.entry.core;
            match self.down.fill(n_wanted, |buffer| core.read(buffer)) {
                Ok(n) if n > 0 => {
                    self.core_ready = n == n_wanted || self.core_hung_up;
                    if self.phase != Phase::ClientGone {
                        let verdict = self.guard.server(now, self.down.rest());
                        self.judged(now, verdict);
                    }
                }
                Err(err) if err.kind() == ErrorKind::WouldBlock => {
                    self.core_ready = false;
                    return false;
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                _ => self.core_gone(now),
            }
        }
        true
    }

    /// Sends what is on its way to the client; true when all of it has left.
    fn send(&mut self) -> std::io::Result<bool> {
        while !self.down.is_empty() {
            match self.wire.write(self.down.rest()) {
                Ok(n) => {
                    self.down.start += n;
                    self.n_sent = self.n_sent.wrapping_add_unsigned(to_u64(n));
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(err) => return Err(err),
            }
        }
        if self.wire.wants_write() {
            self.wire.flush()?;
        }
        Ok(!self.wire.wants_write())
    }

    /// Follows the guard, and the budgets that span connections.
    fn judged(&mut self, now: Instant, verdict: Verdict) {
        let n_resets = self.guard.take_resets();
        if n_resets > 0 {
            self.seat.connections.resets(now, &self.seat.entry, n_resets);
        }
        let n_refused = self.guard.n_refused();
        self.seat.connections.metrics().refused_requests.inc_by(n_refused - self.n_refused);
        self.n_refused = n_refused;
        if verdict != Verdict::Pass {
            self.close(verdict);
        }
    }

    /// The core has closed its end.
    fn core_gone(&mut self, now: Instant) {
        self.phase = if self.phase == Phase::ClientGone { Phase::Over } else { Phase::CoreGone };
        self.up.clear();
        self.alive = now;
    }

    /// The client has closed its end, or is dead: its calls are cancelled.
    fn client_gone(&mut self, now: Instant) {
        let core_is_gone = matches!(self.phase, Phase::CoreGone | Phase::Lingering);
        self.n_ghosts = self.guard.n_open();
        self.guard.abandon();
        let n_resets = self.guard.take_resets();
        self.seat.connections.resets(now, &self.seat.entry, n_resets);
        self.let_go_of_the_client();
        if core_is_gone {
            self.phase = Phase::Over;
        }
    }

    /// Tells the core that there is no client any more.
    fn let_go_of_the_client(&mut self) {
        self.phase = Phase::ClientGone;
        self.up.clear();
        self.down.clear();
        let _ = self.wire.socket().shutdown(Shutdown::Both);
        // The core takes the end of its input for the end of the connection and cancels its calls.
        let _ = self.seat.entry.core.shutdown(Shutdown::Write);
    }

    /// Closes for cause, telling the client if that is possible without waiting.
    fn close(&mut self, verdict: Verdict) {
        let Verdict::Close { reason, text } = verdict else { return };
        let core_is_gone = matches!(self.phase, Phase::CoreGone | Phase::Lingering);
        let is_abuse = reason == "abuse";
        if is_abuse {
            self.seat.connections.brake().punish(Instant::now(), self.seat.entry.peer.ip());
        }
        // Never into another frame, and never behind the end.
        let is_sent = self.down.is_empty() && !self.wire.wants_write() && self.phase != Phase::Lingering;
        if is_sent && self.guard.server_missing().is_none() {
            let _ = self.wire.write(&goaway(is_abuse, self.guard.last_stream(), text)).and_then(|_| self.wire.flush());
        }
        if is_abuse {
            // With a linger of nothing the close is a reset: no memory of the kernel stays behind for a client like this.
            let _ = sockopt::set_socket_linger(self.wire.socket(), Some(Duration::ZERO));
        } else {
            self.wire.end();
            // Bytes that lie unread would turn the close into a reset, which destroys the GOAWAY.
            for _ in 0..READS_MAX {
                let wire = &mut self.wire;
                if !matches!(self.up.fill(UP_BYTES, |buffer| wire.read(buffer)), Ok(n) if n > 0) {
                    break;
                }
            }
        }
        self.n_ghosts = self.guard.n_open();
        self.guard.abandon();
        let n_resets = self.guard.take_resets();
        // Who holds too much has thrown it away itself; what else is asked of a client is no reset of its own.
        if matches!(reason, "streams" | "requests") {
            self.seat.connections.resets(Instant::now(), &self.seat.entry, n_resets);
        }
        self.let_go_of_the_client();
        if core_is_gone {
            self.phase = Phase::Over;
        }
        // At the end of a stop all are closed, and the part that stops says how many.
        if reason != "stop" {
            self.seat.connections.turned_away(reason, self.seat.entry.peer, text);
        }
    }

    /// Does what is due, and returns when something will be.
    fn look_at_the_clock(&mut self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::ClientGone | Phase::Over => None,
            Phase::Open => {
                let handshake = self.guard.handshake_deadline();
                if handshake.is_some_and(|deadline| now >= deadline) {
                    let verdict = self.guard.tick(now);
                    self.judged(now, verdict);
                    return Some(now);
                }
                let stop = self.look_at_the_stop(now);
                [handshake, stop, self.look_at_the_client(now)].into_iter().flatten().min()
            }
            Phase::CoreGone => self.look_at_the_client(now),
            Phase::Lingering => {
                let over = self.linger_until(now);
                if now >= over {
                    self.phase = Phase::Over;
                }
                Some(over)
            }
        }
    }

    /// Once the daemon stops, clients without calls need not be waited for, whatever they do.
    fn look_at_the_stop(&mut self, now: Instant) -> Option<Instant> {
        if self.stopping.is_none() && !self.stop.is_stopped() {
            return None;
        }
        let is_busy = self.guard.n_open() > 0 || !self.down.is_empty() || !self.up.is_empty();
        // The time counts from the end of the last call, which may have been busy all the time since the last look.
        let was_busy = std::mem::replace(&mut self.was_busy, is_busy);
        let since = *self.stopping.insert(self.stopping.filter(|_| !was_busy && !is_busy).unwrap_or(now));
        if is_busy {
            return None;
        }
        let over = since + STOP_LINGER;
        if now >= over {
            // The core takes it for the end of the client, and ends.
            let _ = self.seat.entry.core.shutdown(Shutdown::Write);
            return None;
        }
        Some(over)
    }

    /// Asks a client whether it is alive when it says nothing, and closes it when it is not.
    fn look_at_the_client(&mut self, now: Instant) -> Option<Instant> {
        let is_sending = !self.down.is_empty() || self.wire.wants_write();
        if self.guard.n_open() > 0 {
            self.used = now;
        }
        let ask_at = self.alive + PING_AFTER;
        if now < ask_at {
            return Some(ask_at);
        }
        // Who was asked before it last said something has not been asked.
        let Some(asked) = self.asked.filter(|asked| *asked >= ask_at) else {
            self.asked = Some(now);
            self.acknowledges();
            if self.phase == Phase::Open && !is_sending && self.guard.server_missing().is_none() {
                // The kernel of a frozen client acknowledges the ping as well.
                self.n_acknowledged = self.n_acknowledged.saturating_add(PING_BYTES_MAX);
                self.down = Pending { bytes: ping(), start: 0 };
                let verdict = self.guard.server(now, self.down.rest());
                self.judged(now, verdict);
            }
            return Some(now);
        };
        let frozen_at = asked + ANSWER_WITHIN;
        if now < frozen_at {
            return Some(frozen_at);
        }
        let has_more = self.acknowledges();
        if has_more || self.n_on_the_wire > 0 {
            // Its answer may wait behind what is on its way, or have just begun its way. While nothing is acknowledged the
            // link is at fault, which the kernel judges.
            let is_through = self.n_unacknowledged == 0;
            self.alive = if is_through { now.checked_sub(PING_AFTER).unwrap_or(now) } else { now };
        } else {
            let text = "the client neither says nor takes anything";
            self.judged(now, Verdict::Close { reason: "frozen", text });
        }
        Some(now)
    }

    /// Whether the client has acknowledged bytes since the last look: a slow link is no frozen client. With TLS a little
    /// more is acknowledged than is counted as sent, which does no harm.
    fn acknowledges(&mut self) -> bool {
        (self.n_unacknowledged, self.n_on_the_wire) = crate::sys::unacknowledged_bytes(self.wire.socket());
        let n_acknowledged = self.n_sent.saturating_sub_unsigned(self.n_unacknowledged);
        let has_more = n_acknowledged > self.n_acknowledged;
        self.n_acknowledged = n_acknowledged;
        has_more
    }

    /// Until when a client that was sent everything is waited for.
    fn linger_until(&mut self, now: Instant) -> Instant {
        if self.acknowledges() {
            self.alive = now;
        }
        let most = *self.lingering.get_or_insert(now) + LINGER_MAX;
        // Who had no call for long has nothing left to read.
        let linger = if now < self.used + LINGER_MAX { LINGER } else { Duration::ZERO };
        let patience = if self.n_unacknowledged > 0 { PING_AFTER + ANSWER_WITHIN } else { linger };
        let until = most.min(self.alive + patience);
        // That it acknowledges something can only be seen by looking.
        if self.n_unacknowledged > 0 && now < until { until.min(now + LOOK_AGAIN) } else { until }
    }

    /// Publishes what others may know.
    fn show(&self, now: Instant) {
        let n_open = self.guard.n_open();
        let is_carrying = match self.phase {
            Phase::Open => n_open > 0 || !self.down.is_empty() || self.wire.wants_write(),
            Phase::CoreGone | Phase::Lingering => true,
            Phase::ClientGone | Phase::Over => false,
        };
        let Seat { entry, connections } = &self.seat;
        connections.show(
            entry,
            now,
            Figures {
                n_streams: n_open,
                n_ghosts: self.n_ghosts,
                is_gone: matches!(self.phase, Phase::ClientGone | Phase::Over),
                unfinished_bytes: self.guard.unfinished_bytes(),
                is_carrying,
            },
        );
    }

    /// Waits until a side can go on, or until it is time.
    fn wait(&mut self, wake: Option<Instant>) {
        let flag = |wanted: bool, flag: PollFlags| if wanted { flag } else { PollFlags::empty() };
        let is_sending = !self.down.is_empty() || self.wire.wants_write();
        let client = match self.phase {
            Phase::ClientGone | Phase::Over => PollFlags::empty(),
            _ => flag(self.up.is_empty(), PollFlags::IN) | flag(is_sending, PollFlags::OUT),
        };
        let core = match self.phase {
            Phase::Open => flag(!is_sending, PollFlags::IN) | flag(!self.up.is_empty(), PollFlags::OUT),
            Phase::ClientGone => PollFlags::IN,
            _ => PollFlags::empty(),
        };
        let is_waiting = |events: PollFlags, is_over: bool| if is_over { None } else { Some(events) };
        // What has hung up is left out, or it would wake this thread again and again.
        let client = is_waiting(client, client.is_empty());
        let core = is_waiting(core, self.core_hung_up || matches!(self.phase, Phase::CoreGone | Phase::Lingering));
        let mut polled = Vec::with_capacity(4);
        polled.extend(client.map(|events| PollFd::new(self.wire.socket(), events)));
        polled.extend(core.map(|events| PollFd::new(&self.seat.entry.core, events)));
        if self.phase != Phase::ClientGone {
            polled.push(PollFd::from_borrowed_fd(self.seat.entry.wake_fd(), PollFlags::IN));
        }
        if self.phase == Phase::Open && self.stopping.is_none() {
            polled.push(PollFd::from_borrowed_fd(self.stop.fd(), PollFlags::IN));
        }
        // Rounded up, so that the time has come when the wait is over.
        let time = wake.map(|at| at.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let timeout = time.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        // An error is found again by who reads or writes.
        let _ = poll(&mut polled, timeout.as_ref());
        let mut events = polled.iter().map(PollFd::revents);
        let hang_up = PollFlags::HUP | PollFlags::ERR;
        if client.is_some() {
            let events = events.next().unwrap_or(PollFlags::empty());
            self.client_ready |= events.intersects(PollFlags::IN | hang_up);
        }
        if core.is_some() {
            let events = events.next().unwrap_or(PollFlags::empty());
            self.core_hung_up |= events.intersects(hang_up);
            self.core_ready |= events.intersects(PollFlags::IN | hang_up);
        }
    }
}

fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn is_transient(err: &std::io::Error) -> bool {
    matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
