//! Carries the bytes of one gRPC connection between the client's socket and the gRPC core's, with two threads, and
//! shows both directions to the guard before they pass. Also the table of all such connections.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, sockopt};

use crate::grpc::brake::Brake;
use crate::limits;
use crate::metrics::FrontMetrics;
use pillion_base::error::{Context, Result};
use pillion_base::threads::spawn_thread;
use pillion_http::h2::{GOAWAY, Guard, Verdict};

/// Buffer towards the core: requests are small.
const UP_BYTES: usize = 16 * 1024;
/// Buffer towards the client.
const DOWN_BYTES: usize = 64 * 1024;
/// When one side has ended, the other has this long to take what is on its way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// One warning per reason in this time; the rest is counted.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// All connections, and what is known about clients across connections. Cheap to clone.
#[derive(Clone)]
pub struct Connections(Arc<Inner>);

struct Inner {
    table: Mutex<Table>,
    brake: Mutex<Brake>,
    warned: Mutex<HashMap<&'static str, (Instant, u64)>>,
    metrics: FrontMetrics,
}

#[derive(Default)]
struct Table {
    n_started: u64,
    relays: HashMap<u64, Arc<Relay>>,
    /// By the number of the descriptor that the core owns.
    peers: HashMap<RawFd, (u64, SocketAddr)>,
}

impl Connections {
    pub(super) fn new(metrics: FrontMetrics) -> Self {
        Connections(Arc::new(Inner {
            table: Mutex::default(),
            brake: Mutex::new(Brake::new()),
            warned: Mutex::default(),
            metrics,
        }))
    }

    /// The client behind the core's descriptor `fd`; the core calls that peer `fd:N`.
    pub fn peer(&self, fd: RawFd) -> Option<SocketAddr> {
        lock(&self.0.table).peers.get(&fd).map(|(_, peer)| *peer)
    }

    /// Connections handed to the core that are still open.
    pub fn n_open(&self) -> usize {
        lock(&self.0.table).relays.len()
    }

    /// Closes every connection at once, whatever is on its way: for the end of the grace of a stop.
    pub fn close_all(&self) {
        // The relays take the table's lock when they end, so it is not held while they are closed.
        let relays: Vec<_> = lock(&self.0.table).relays.values().cloned().collect();
        relays.iter().for_each(|relay| relay.shutdown());
    }

    pub(super) fn brake(&self) -> MutexGuard<'_, Brake> {
        lock(&self.0.brake)
    }

    pub(super) fn metrics(&self) -> &FrontMetrics {
        &self.0.metrics
    }

    /// Connections whose client has yet to acknowledge SETTINGS: how many, and since when the oldest.
    pub(super) fn half_open(&self) -> (usize, Option<Instant>) {
        let table = lock(&self.0.table);
        let half_open = || table.relays.values().filter(|relay| relay.is_half_open());
        (half_open().count(), half_open().map(|relay| relay.since).min())
    }

    /// Closes the oldest connection that is half-open, so that another has room.
    pub(super) fn evict_half_open(&self) {
        let table = lock(&self.0.table);
        let oldest = table.relays.values().filter(|relay| relay.is_half_open()).min_by_key(|relay| relay.since);
        let oldest = oldest.cloned();
        drop(table);
        if let Some(relay) = oldest {
            relay.close(self, Verdict::Close { reason: "handshake", text: "a newer connection needs the room" });
        }
    }

    /// Counts a connection that was turned away or closed, and says so now and then.
    pub(super) fn turned_away(&self, reason: &'static str, peer: SocketAddr, text: &str) {
        self.0.metrics.refused.with_label_values(&[reason]).inc();
        let now = Instant::now();
        let n_unsaid = {
            let mut warned = lock(&self.0.warned);
            match warned.get_mut(reason) {
                Some((at, n_unsaid)) if now.saturating_duration_since(*at) < WARN_EVERY => {
                    *n_unsaid += 1;
                    return;
                }
                Some(entry) => std::mem::replace(entry, (now, 0)).1,
                None => {
                    warned.insert(reason, (now, 0));
                    0
                }
            }
        };
        log::warn!(reason = reason, peer = peer.to_string(), err = text, others_since_last = n_unsaid; "closed a gRPC connection");
    }

    /// Puts a client that has sent its preface in touch with the core.
    ///
    /// `Errors:` when descriptors or threads have run out or the core does not take it; the client is then closed.
    pub(super) fn start(
        &self,
        client: Newcomer,
        hand_over: impl FnOnce(OwnedFd, SocketAddr) -> Result<()>,
    ) -> Result<()> {
        let Newcomer { stream, peer, suspect, guard, preface } = client;
        let (ours, theirs) = UnixStream::pair().context(|| "create a socket pair")?;
        theirs.set_nonblocking(true).and_then(|()| stream.set_nonblocking(false)).context(|| "prepare sockets")?;
        let relay = {
            let mut table = lock(&self.0.table);
            table.n_started += 1;
            let relay = Arc::new(Relay {
                id: table.n_started,
                peer,
                suspect,
                since: Instant::now(),
                client: stream,
                core: ours,
                core_fd: theirs.as_raw_fd(),
                guard: Mutex::new(guard),
                acknowledged: AtomicBool::new(false),
                writing: AtomicBool::new(false),
                closing: AtomicBool::new(false),
                n_ended: Mutex::new(0),
                ended: Condvar::new(),
            });
            table.peers.insert(relay.core_fd, (relay.id, peer));
            table.relays.insert(relay.id, Arc::clone(&relay));
            relay
        };
        self.0.metrics.connections.inc();
        let started = match self.spawn(&relay, "grpc-up", move |relay, connections| relay.up(connections, &preface)) {
            Ok(()) => self.spawn(&relay, "grpc-down", Relay::down),
            Err(err) => {
                relay.count_end(self);
                Err(err)
            }
        };
        let started = started.and_then(|()| hand_over(OwnedFd::from(theirs), peer));
        if started.is_err() {
            relay.shutdown();
        }
        started
    }

    fn spawn(
        &self,
        relay: &Arc<Relay>,
        name: &str,
        body: impl FnOnce(&Relay, &Connections) + Send + 'static,
    ) -> Result<()> {
        let (on_thread, connections) = (Arc::clone(relay), self.clone());
        let spawned = spawn_thread(name, Some(limits::SMALL_STACK_BYTES), move || {
            let ending = Ending(&on_thread, &connections);
            body(ending.0, ending.1);
        });
        if spawned.is_err() {
            // It counts as ended, so that its twin does not wait for it.
            relay.count_end(self);
        }
        spawned.map(drop)
    }

    fn remove(&self, relay: &Relay) {
        let mut table = lock(&self.0.table);
        table.relays.remove(&relay.id);
        // The core may have closed its descriptor before, and its number may belong to another connection by now.
        if table.peers.get(&relay.core_fd).is_some_and(|(id, _)| *id == relay.id) {
            table.peers.remove(&relay.core_fd);
        }
        drop(table);
        self.0.metrics.connections.dec();
    }
}

/// A client whose preface was received and found right.
pub(super) struct Newcomer {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// It was admitted under the rules for suspects.
    pub suspect: bool,
    /// Has seen the preface.
    pub guard: Guard,
    pub preface: Vec<u8>,
}

struct Relay {
    id: u64,
    peer: SocketAddr,
    suspect: bool,
    since: Instant,
    client: TcpStream,
    core: UnixStream,
    core_fd: RawFd,
    guard: Mutex<Guard>,
    acknowledged: AtomicBool,
    /// Bytes of the core are on their way to the client.
    writing: AtomicBool,
    closing: AtomicBool,
    n_ended: Mutex<u8>,
    ended: Condvar,
}

impl Relay {
    /// Client to core.
    fn up(&self, connections: &Connections, preface: &[u8]) {
        let mut buffer = vec![0; UP_BYTES];
        let mut forwarded = (&self.core).write_all(preface);
        while forwarded.is_ok() {
            let deadline = lock(&self.guard).handshake_deadline();
            self.acknowledged.store(deadline.is_none(), Ordering::Relaxed);
            if let Some(deadline) = deadline
                && !self.is_readable_before(deadline)
            {
                let verdict = lock(&self.guard).tick(Instant::now());
                if verdict != Verdict::Pass {
                    return self.close(connections, verdict);
                }
                continue;
            }
            let n = match (&self.client).read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                // Reset, or dead: there is nobody left to send anything to.
                Err(_) => return self.shutdown(),
            };
            let bytes = buffer.get(..n).unwrap_or_default();
            let verdict = self.judge(connections, |guard, now| guard.client(now, bytes));
            if verdict != Verdict::Pass {
                return self.close(connections, verdict);
            }
            forwarded = (&self.core).write_all(bytes);
        }
        // The core takes the end of its input for the end of the connection and cancels its calls.
        let _ = self.core.shutdown(Shutdown::Write);
    }

    /// Core to client.
    fn down(&self, connections: &Connections) {
        let mut buffer = vec![0; DOWN_BYTES];
        loop {
            let n = match (&self.core).read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let bytes = buffer.get(..n).unwrap_or_default();
            let verdict = self.judge(connections, |guard, now| guard.server(now, bytes));
            if verdict != Verdict::Pass {
                return self.close(connections, verdict);
            }
            self.writing.store(true, Ordering::Relaxed);
            if (&self.client).write_all(bytes).is_err() {
                return self.shutdown();
            }
            self.writing.store(false, Ordering::Relaxed);
        }
        let _ = self.client.shutdown(Shutdown::Write);
    }

    /// Asks the guard, and for resets the budgets that span connections.
    fn judge(&self, connections: &Connections, ask: impl FnOnce(&mut Guard, Instant) -> Verdict) -> Verdict {
        let now = Instant::now();
        let (verdict, n_resets) = {
            let mut guard = lock(&self.guard);
            (ask(&mut guard, now), guard.take_resets())
        };
        if verdict == Verdict::Pass
            && n_resets > 0
            && !connections.brake().resets(now, self.peer.ip(), n_resets, self.suspect)
        {
            return Verdict::Close { reason: "abuse", text: "the client's connections reset streams too fast" };
        }
        verdict
    }

    fn is_readable_before(&self, deadline: Instant) -> bool {
        // Rounded up, so that the deadline has passed when the wait is over.
        let time = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let timeout =
            Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() };
        let mut polled = [PollFd::new(&self.client, PollFlags::IN)];
        // An error of poll is found again by read.
        !matches!(poll(&mut polled, Some(&timeout)), Ok(0) | Err(rustix::io::Errno::INTR))
    }

    fn is_half_open(&self) -> bool {
        !self.acknowledged.load(Ordering::Relaxed) && !self.closing.load(Ordering::Relaxed)
    }

    /// Closes for cause, telling the client if that is possible without waiting.
    fn close(&self, connections: &Connections, verdict: Verdict) {
        let Verdict::Close { reason, text } = verdict else { return };
        if self.closing.swap(true, Ordering::Relaxed) {
            return;
        }
        if reason == "abuse" {
            connections.brake().punish(Instant::now(), self.peer.ip());
        }
        if lock(&self.guard).server_at_boundary() && !self.writing.load(Ordering::Relaxed) {
            let _ = rustix::net::send(&self.client, &goaway(text), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        // With a linger of nothing the close is a reset: no memory of the kernel stays behind for a client like this.
        let _ = sockopt::set_socket_linger(&self.client, Some(Duration::ZERO));
        self.shutdown();
        connections.turned_away(reason, self.peer, text);
    }

    /// Wakes both threads and ends both sockets.
    fn shutdown(&self) {
        self.closing.store(true, Ordering::Relaxed);
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.core.shutdown(Shutdown::Both);
    }

    /// The end of a direction: the first waits for the other, for a while.
    fn end(&self, connections: &Connections) {
        if self.count_end(connections) {
            return;
        }
        let (ended, _) = self
            .ended
            .wait_timeout_while(lock(&self.n_ended), DRAIN_TIMEOUT, |n| *n < 2)
            .unwrap_or_else(PoisonError::into_inner);
        let both = *ended >= 2;
        drop(ended);
        if !both {
            self.shutdown();
        }
    }

    /// Counts a direction as ended; true for the last one.
    fn count_end(&self, connections: &Connections) -> bool {
        let mut n_ended = lock(&self.n_ended);
        *n_ended += 1;
        let last = *n_ended >= 2;
        drop(n_ended);
        self.ended.notify_all();
        if last {
            connections.remove(self);
        }
        last
    }
}

/// Ends a direction when its thread ends, by panic too.
struct Ending<'a>(&'a Relay, &'a Connections);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

/// A GOAWAY frame with the code ENHANCE_YOUR_CALM and a text.
fn goaway(text: &str) -> Vec<u8> {
    let text = text.as_bytes();
    let length = u8::try_from(8 + text.len()).unwrap_or(8);
    let mut frame = vec![0, 0, length, GOAWAY, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb]);
    frame.extend_from_slice(text.get(..usize::from(length).saturating_sub(8)).unwrap_or_default());
    frame
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
