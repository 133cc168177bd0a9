//! Hostile clients, as small as they can be: each shows the server one kind of abuse, at a pace that a person with one
//! machine can keep up for ever. They take whatever the server does to them without complaint.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use pillion_base::threads::spawn_thread;
use protobuf::Message;
use rustix::net::sockopt;

use super::raw::{
    DATA, GOAWAY, INITIAL_WINDOW_SIZE, PING, RESET, Raw, SETTINGS, WINDOW_UPDATE, frame, greeting, message, open_call,
    prefix, reset,
};
use super::store_client::request;

/// Where attacks come from when honest clients come from 127.0.0.1.
pub const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// The name of the matcher in an attacker's Series calls, for `FakePrometheus::reads_by_matcher`.
pub const HOSTILE: &str = "hostile";

const SERIES: &str = "/thanos.Store/Series";
/// The window of a new stream or connection. `Source:` RFC 9113, section 6.9.2.
const WINDOW_DEFAULT: i64 = 65_535;
/// A server that lets nothing be sent for this long does not want more.
const STALLED: Duration = Duration::from_millis(300);
/// A server that takes nothing for this long is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// What Series requests can be full of, two bytes each, that costs much more once it is decoded: `matchers` and
/// `without_replica_labels` without content.
pub const EMPTY_MATCHER: [u8; 2] = [0x1a, 0];
pub const EMPTY_LABEL: [u8; 2] = [0x72, 0];

/// A Series request of attackers that is in order.
pub fn series_request() -> Vec<u8> {
    request(&[(HOSTILE, "=", "x")]).write_to_bytes().unwrap()
}

/// A hostile client.
#[derive(Debug, Clone, Copy)]
pub struct Attacker {
    pub server: SocketAddr,
    pub from: IpAddr,
}

impl Attacker {
    /// A TCP connection that leaves nothing behind in either kernel when it is dropped.
    pub fn connect(self) -> Option<Raw> {
        let raw = Raw::connect_from(self.from, self.server, None).ok()?;
        raw.0.set_write_timeout(Some(WRITE_TIMEOUT)).ok()?;
        sockopt::set_socket_linger(&raw.0, Some(Duration::ZERO)).ok()?;
        Some(raw)
    }

    /// A connection with the handshake complete, and the server's SETTINGS.
    fn open(self, settings: &[(u16, u32)]) -> Option<(Raw, Vec<u8>)> {
        let mut raw = self.connect()?;
        // A client that is told to wait gives up sooner than an honest one.
        raw.0.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let theirs = raw.shake_hands(settings)?;
        Some((raw, theirs))
    }

    /// A connection that is complete and asks for nothing.
    pub fn idle(self) -> Option<Raw> {
        self.open(&[]).map(|(raw, _)| raw)
    }

    /// A connection on which `n` calls are opened, and no request comes.
    pub fn headers_without_body(self, n: u32) -> Option<Raw> {
        let mut raw = self.idle()?;
        let calls: Vec<u8> = streams(n).flat_map(|stream| open_call(stream, SERIES)).collect();
        raw.0.write_all(&calls).ok()?;
        // The answer to a ping comes when the server has seen what came before it.
        raw.is_served();
        Some(raw)
    }

    /// A connection on which `n` calls are made whose answers are never let through.
    pub fn closed_windows(self, n: u32) -> Option<Raw> {
        self.leave_lying(n, SERIES, &series_request())
    }

    /// A connection on which `n` such calls are made whose answers are never let through.
    pub fn leave_lying(self, n: u32, path: &str, ask: &[u8]) -> Option<Raw> {
        let (mut raw, _) = self.open(&[(INITIAL_WINDOW_SIZE, 0)])?;
        let calls: Vec<u8> =
            streams(n).flat_map(|stream| [open_call(stream, path), message(stream, ask)].concat()).collect();
        raw.0.write_all(&calls).ok()?;
        // Not before the server has seen them all.
        raw.is_served();
        Some(raw)
    }

    /// Makes `n` calls and hangs up at once, before the handshake has ended.
    pub fn hang_up(self, n: u32) -> Option<()> {
        let mut raw = self.connect()?;
        // Ends in order, so that the server reads all of it.
        sockopt::set_socket_linger(&raw.0, None).ok()?;
        let ask = series_request();
        let calls = streams(n).flat_map(|stream| [open_call(stream, SERIES), message(stream, &ask)].concat());
        raw.0.write_all(&greeting().into_iter().chain(calls).collect::<Vec<u8>>()).ok()
    }

    /// Opens and resets streams until the server has enough; true when it has ended the connection.
    pub fn rapid_reset(self) -> bool {
        let Some(mut raw) = self.idle() else { return true };
        let ask = series_request();
        for first in (0..60).map(|n| n * 100 + 1) {
            let pairs = (0..50).map(|n| first + 2 * n);
            let pairs: Vec<u8> = pairs
                .flat_map(|stream| [open_call(stream, SERIES), message(stream, &ask), reset(stream)].concat())
                .collect();
            if raw.0.write_all(&pairs).is_err() {
                return true;
            }
        }
        !raw.is_served()
    }

    /// `n` complete requests at once on one connection, all of these bytes. How much of them was taken.
    pub fn heavy_requests(self, n: u32, ask: &[u8]) -> Option<Pouring> {
        let body = [prefix(ask.len()), ask.to_vec()].concat();
        self.pour(n, &body, true)
    }

    /// `n` requests at once on one connection that are to have `bytes`, and of which the last byte never comes.
    pub fn unfinished_requests(self, n: u32, bytes: usize) -> Option<Pouring> {
        let body = [prefix(bytes), vec![0; bytes - 1]].concat();
        self.pour(n, &body, false)
    }

    fn pour(self, n: u32, body: &[u8], ends: bool) -> Option<Pouring> {
        let (raw, theirs) = self.open(&[])?;
        let mut pouring =
            Pouring { raw, connection: WINDOW_DEFAULT, initial: WINDOW_DEFAULT, open: BTreeMap::new(), n_taken: 0 };
        pouring.adopt(&theirs);
        let opened: Vec<u8> = streams(n).flat_map(|stream| open_call(stream, SERIES)).collect();
        pouring.raw.0.write_all(&opened).ok()?;
        pouring.open = streams(n).map(|stream| (stream, (pouring.initial, 0))).collect();
        pouring.run(body, ends);
        Some(pouring)
    }
}

/// The numbers of a client's first streams.
fn streams(n: u32) -> impl Iterator<Item = u32> + Clone {
    (0..n).map(|n| 2 * n + 1)
}

/// A connection that sends as much as the server's windows let it.
pub struct Pouring {
    pub raw: Raw,
    connection: i64,
    initial: i64,
    /// By stream: its window, and how many bytes of its body are sent.
    open: BTreeMap<u32, (i64, usize)>,
    /// Bytes of DATA sent.
    pub n_taken: usize,
}

impl Pouring {
    /// Sends until all is sent, or the server lets nothing more be sent, or ends it.
    fn run(&mut self, body: &[u8], ends: bool) {
        if self.raw.0.set_read_timeout(Some(STALLED)).is_err() {
            return;
        }
        loop {
            let (mut out, mut connection) = (Vec::new(), self.connection);
            for (stream, (window, sent)) in &mut self.open {
                let room = usize::try_from((*window).min(connection).max(0)).unwrap();
                let piece = &body[*sent..body.len().min(*sent + room.min(16_384))];
                if piece.is_empty() {
                    continue;
                }
                let spent = i64::try_from(piece.len()).unwrap();
                (*window, connection, *sent) = (*window - spent, connection - spent, *sent + piece.len());
                self.n_taken += piece.len();
                out.extend(frame(DATA, u8::from(ends && *sent == body.len()), *stream, piece));
            }
            self.connection = connection;
            self.open.retain(|_, (_, sent)| *sent < body.len());
            let went_on = if out.is_empty() { self.listen() } else { self.raw.0.write_all(&out).is_ok() };
            if self.open.is_empty() || !went_on {
                return;
            }
        }
    }

    /// Takes one frame of the server; false when none comes, or the last.
    fn listen(&mut self) -> bool {
        // Nothing is lost if the wait ends without a byte.
        if !matches!(self.raw.0.peek(&mut [0]), Ok(1)) {
            return false;
        }
        let Some((kind, flags, stream, payload)) = self.raw.receive_on() else { return false };
        match (kind, flags) {
            (SETTINGS, 0) => {
                self.adopt(&payload);
                return self.raw.0.write_all(&frame(SETTINGS, 1, 0, &[])).is_ok();
            }
            (PING, 0) => return self.raw.0.write_all(&frame(PING, 1, 0, &payload)).is_ok(),
            (WINDOW_UPDATE, _) => {
                let more = i64::from(u32::from_be_bytes(payload.try_into().unwrap()));
                if stream == 0 {
                    self.connection += more;
                } else if let Some((window, _)) = self.open.get_mut(&stream) {
                    *window += more;
                }
            }
            (RESET, _) => drop(self.open.remove(&stream)),
            (GOAWAY, _) => return false,
            // An answer before the request has ended is a refusal.
            (_, flags) if flags & 1 == 1 => drop(self.open.remove(&stream)),
            _ => {}
        }
        true
    }

    /// Takes over what the server's SETTINGS say about windows.
    fn adopt(&mut self, settings: &[u8]) {
        for entry in settings.chunks_exact(6) {
            if entry[..2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                let initial = i64::from(u32::from_be_bytes(entry[2..].try_into().unwrap()));
                for (window, _) in self.open.values_mut() {
                    *window += initial - self.initial;
                }
                self.initial = initial;
            }
        }
    }
}

/// An attack that goes on until it is dropped.
pub struct Running {
    over: Option<Sender<()>>,
    n_rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Rounds so far.
    pub fn n_rounds(&self) -> u64 {
        self.n_rounds.load(Ordering::Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.over.take();
        self.thread.take().map(JoinHandle::join);
    }
}

/// Does `round` this many times a second, or as often as it can, and holds on to what the last `n_held` rounds made.
pub fn repeat<T: Send + 'static>(
    per_second: u32,
    n_held: usize,
    mut round: impl FnMut() -> Option<T> + Send + 'static,
) -> Running {
    let (over, stop) = bounded::<()>(0);
    let n_rounds = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&n_rounds);
    let thread = spawn_thread("attacker", None, move || {
        let mut held = VecDeque::new();
        let mut next = Instant::now();
        while stop.recv_deadline(next).is_err_and(|err| err.is_timeout()) {
            // An attacker that was held up does not hurry afterwards.
            next = (next + Duration::from_secs(1) / per_second).max(Instant::now());
            held.extend(round());
            if held.len() > n_held {
                held.pop_front();
            }
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    Running { over: Some(over), n_rounds, thread: Some(thread.unwrap()) }
}
