//! The table of all gRPC connections, and who gives way when what they share runs out: the one that holds most, of the
//! address that holds most, never the one that happens to come last. Moves no bytes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use crate::grpc::brake::{Brake, network};
use crate::limits;
use crate::metrics::FrontMetrics;
use pillion_base::error::{Context, Result};
use pillion_http::h2::Verdict;

/// One warning per reason in this time; the rest is counted.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// Resets, fading, up to which a connection is not to blame for what its address does.
const RESETS_MODEST: u64 = 256;
/// Half of the resets is forgotten in this time.
const RESETS_FADE: Duration = Duration::from_secs(5);

/// All connections, and what is known about clients across connections. Cheap to clone.
#[derive(Clone)]
pub struct Connections(Arc<Inner>);

struct Inner {
    table: Mutex<Table>,
    /// Signalled when a connection leaves.
    left: Condvar,
    brake: Mutex<Brake>,
    warned: Mutex<HashMap<&'static str, (Instant, u64)>>,
    /// Over all connections.
    n_streams: AtomicUsize,
    unfinished_bytes: AtomicU64,
    request_bytes_max: u64,
    /// Readable when a connection has left the table.
    freed: OwnedFd,
    metrics: FrontMetrics,
}

#[derive(Default)]
struct Table {
    n_started: u64,
    entries: HashMap<u64, Arc<Entry>>,
    /// By the number of the descriptor that the core owns.
    by_fd: HashMap<RawFd, u64>,
}

/// What others may know of a connection, and how they end it. Its relay keeps the figures.
pub(super) struct Entry {
    pub id: u64,
    pub peer: SocketAddr,
    /// It entered under the rules for suspects.
    pub suspect: bool,
    /// Our end of the socket pair.
    pub core: UnixStream,
    /// Readable once there is a verdict.
    wake: OwnedFd,
    core_fd: RawFd,
    network: IpAddr,
    begun: Instant,
    /// Streams that are open.
    n_streams: AtomicUsize,
    /// Streams of a client that has left, of which the core has not let go.
    n_ghosts: AtomicUsize,
    unfinished_bytes: AtomicU64,
    /// Resets that nothing has paid for, which fade, and when they were last counted.
    resets: Mutex<(Instant, u64)>,
    /// When it last had a stream, in ms since `begun`.
    used_ms: AtomicU64,
    /// There are streams, or bytes for the client.
    is_carrying: AtomicBool,
    /// The client is gone, and the core has not let go.
    is_gone: AtomicBool,
    verdict: OnceLock<Verdict>,
}

/// What a connection holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    /// Streams that are open.
    pub n_streams: usize,
    /// Streams of a client that has left, of which the core has not let go.
    pub n_ghosts: usize,
    /// Bytes of requests that have begun and not ended.
    pub unfinished_bytes: u64,
    /// There are streams, or bytes for the client.
    pub is_carrying: bool,
    /// The client is gone, and the core has not let go.
    pub is_gone: bool,
}

/// Who makes a call, for those who share among callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    /// The connection.
    pub(crate) connection: u64,
    /// The client's address, of IPv6 the network.
    pub(crate) network: IpAddr,
}

impl Connections {
    /// No connections. `request_bytes_max`: of one request; bounds what clients may begin and not end.
    ///
    /// `Errors:` when the process has no descriptors left.
    pub fn new(request_bytes_max: usize, metrics: FrontMetrics) -> Result<Self> {
        let freed = new_eventfd()?;
        Ok(Connections(Arc::new(Inner {
            table: Mutex::default(),
            left: Condvar::new(),
            brake: Mutex::new(Brake::new()),
            warned: Mutex::default(),
            n_streams: AtomicUsize::new(0),
            unfinished_bytes: AtomicU64::new(0),
            request_bytes_max: to_u64(request_bytes_max),
            freed,
            metrics,
        })))
    }

    /// Bytes of one request, and of all that one connection may have begun and not ended.
    pub(super) fn request_bytes_max(&self) -> (u64, u64) {
        let max = self.0.request_bytes_max;
        (max, max.saturating_mul(limits::UNFINISHED_REQUESTS_MAX))
    }

    /// The client behind the core's descriptor `fd`; the core calls that peer `fd:N`.
    pub fn peer(&self, fd: RawFd) -> Option<SocketAddr> {
        self.entry(fd).map(|entry| entry.peer)
    }

    /// The caller behind a peer as the core names it, `fd:N`. An unknown one is a connection of its own.
    pub(crate) fn caller(&self, peer: &str) -> Caller {
        let fd = peer.strip_prefix("fd:").and_then(|number| number.parse().ok());
        match fd.and_then(|fd| self.entry(fd)) {
            Some(entry) => entry.caller(),
            None => Caller { connection: u64::MAX, network: IpAddr::from([0, 0, 0, 0]) },
        }
    }

    /// The address of a caller that is still there.
    pub(crate) fn address(&self, caller: &Caller) -> Option<SocketAddr> {
        lock(&self.0.table).entries.get(&caller.connection).map(|entry| entry.peer)
    }

    fn entry(&self, fd: RawFd) -> Option<Arc<Entry>> {
        let table = lock(&self.0.table);
        table.by_fd.get(&fd).and_then(|id| table.entries.get(id)).cloned()
    }

    /// Connections that the core, or a client that takes its last bytes, has not let go of.
    pub fn n_open(&self) -> usize {
        lock(&self.0.table).entries.len()
    }

    /// Waits until the core is through with every connection and each client has what it asked for, at most until
    /// `deadline`. `Blocks:` until then.
    ///
    /// Whoever carries nothing at the moment may still be about to wait for a slow client.
    pub fn wait_until_empty(&self, deadline: Instant) {
        let mut table = lock(&self.0.table);
        while !table.entries.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            table = self.0.left.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Closes every connection at once, whatever is on its way: for the end of the grace of a stop. Says how many were cut
    /// in the middle of something.
    pub fn close_all(&self) -> usize {
        let entries: Vec<_> = lock(&self.0.table).entries.values().cloned().collect();
        let is_cut = |entry: &&Arc<Entry>| entry.is_carrying.load(Ordering::Relaxed);
        let n_cut = entries.iter().filter(is_cut).count();
        for entry in &entries {
            entry.close(Verdict::Close { reason: "stop", text: "the grace period is over" });
        }
        n_cut
    }

    pub(super) fn brake(&self) -> MutexGuard<'_, Brake> {
        lock(&self.0.brake)
    }

    pub(super) fn metrics(&self) -> &FrontMetrics {
        &self.0.metrics
    }

    /// For poll(2): readable when a connection has left since [`Connections::see_freed`].
    pub(super) fn freed_fd(&self) -> BorrowedFd<'_> {
        self.0.freed.as_fd()
    }

    pub(super) fn see_freed(&self) {
        // Empty is all that it has to be.
        let _ = rustix::io::read(&self.0.freed, &mut [0; 8]);
    }

    /// Asks a connection to give way to a new one from `newcomer`: of the address that holds most, and no less than the
    /// newcomer's, the one that has been without a stream for longest. Where all of those have streams, the one of them that
    /// began longest ago, but only if its address holds more than twice what the newcomer's does. False when none is to.
    /// Nothing is asked where there are fewer than `connections_max` by now.
    pub(super) fn make_room(&self, newcomer: IpAddr, connections_max: usize) -> bool {
        let text = "another client needs the room";
        let table = lock(&self.0.table);
        let is_leaving = table.entries.values().any(|entry| entry.verdict.get().is_some());
        if is_leaving || table.entries.len() < connections_max {
            return true;
        }
        let there: Vec<_> = table.entries.values().filter(|entry| !entry.is_gone.load(Ordering::Relaxed)).collect();
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        there.iter().for_each(|entry| *counts.entry(entry.network).or_default() += 1);
        let count = |entry: &Entry| counts.get(&entry.network).copied().unwrap_or(0);
        let newcomers = counts.get(&network(newcomer)).copied().unwrap_or(0);
        let idle = there.iter().filter(|entry| entry.is_idle() && count(entry) >= newcomers);
        let idle = idle.min_by_key(|entry| (Reverse(count(entry)), entry.used()));
        let busy = there.iter().filter(|entry| count(entry) > 2 * (newcomers + 1));
        let busy = || busy.min_by_key(|entry| (Reverse(count(entry)), entry.begun));
        let spared = idle.or_else(busy).map(|entry| Arc::clone(entry));
        drop(there);
        drop(table);
        spared.inspect(|entry| entry.close(Verdict::Close { reason: "connections", text })).is_some()
    }

    /// Whether the core still has too much to do for clients of this address that have left.
    pub(super) fn is_haunted(&self, address: IpAddr) -> bool {
        let table = lock(&self.0.table);
        let of_network = table.entries.values().filter(|entry| entry.network == network(address));
        of_network.map(|entry| entry.n_ghosts.load(Ordering::Relaxed)).sum::<usize>() > limits::GRPC_GHOSTS_MAX
    }

    /// Puts a new connection into the table. `core_fd` is the number of the core's end.
    ///
    /// `Errors:` when the process has no descriptors left.
    pub(super) fn enter(
        &self,
        peer: SocketAddr,
        suspect: bool,
        core: UnixStream,
        core_fd: RawFd,
    ) -> Result<Arc<Entry>> {
        let wake = new_eventfd()?;
        let mut table = lock(&self.0.table);
        table.n_started += 1;
        let entry = Arc::new(Entry {
            id: table.n_started,
            peer,
            suspect,
            core,
            wake,
            core_fd,
            network: network(peer.ip()),
            begun: Instant::now(),
            n_streams: AtomicUsize::new(0),
            n_ghosts: AtomicUsize::new(0),
            unfinished_bytes: AtomicU64::new(0),
            resets: Mutex::new((Instant::now(), 0)),
            used_ms: AtomicU64::new(0),
            is_carrying: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
            verdict: OnceLock::new(),
        });
        table.by_fd.insert(core_fd, entry.id);
        table.entries.insert(entry.id, Arc::clone(&entry));
        drop(table);
        self.0.metrics.connections.inc();
        Ok(entry)
    }

    /// Takes a connection out of the table: the core has let go of it.
    pub(super) fn leave(&self, entry: &Entry) {
        self.show(entry, Instant::now(), Figures::default());
        let mut table = lock(&self.0.table);
        if table.entries.remove(&entry.id).is_none() {
            return;
        }
        // The number of the descriptor may belong to another connection by now.
        if table.by_fd.get(&entry.core_fd) == Some(&entry.id) {
            table.by_fd.remove(&entry.core_fd);
        }
        drop(table);
        self.0.metrics.connections.dec();
        self.0.left.notify_all();
        signal(&self.0.freed);
    }

    /// Publishes the figures of a connection, and sees to it that all together stay within bounds.
    pub(super) fn show(&self, entry: &Entry, now: Instant, figures: Figures) {
        let Figures { n_streams, n_ghosts, unfinished_bytes, is_carrying, is_gone } = figures;
        entry.is_gone.store(is_gone, Ordering::Relaxed);
        entry.n_ghosts.store(n_ghosts, Ordering::Relaxed);
        let before = entry.n_streams.swap(n_streams, Ordering::Relaxed);
        if n_streams > 0 || before > 0 {
            let used = now.saturating_duration_since(entry.begun).as_millis();
            entry.used_ms.store(u64::try_from(used).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        // Sums of differences: what wraps around on the way down wraps back on the way up.
        let change = n_streams.wrapping_sub(before);
        let n_all = self.0.n_streams.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        let before_bytes = entry.unfinished_bytes.swap(unfinished_bytes, Ordering::Relaxed);
        let change = unfinished_bytes.wrapping_sub(before_bytes);
        let all_bytes = self.0.unfinished_bytes.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        if n_streams > before && n_all > limits::GRPC_STREAMS_ALL_MAX {
            let max = to_u64(limits::GRPC_STREAMS_ALL_MAX);
            let text = "too many streams are open in all, and this connection has most";
            self.shed(max, |entry| to_u64(entry.n_streams.load(Ordering::Relaxed)), "streams", text);
        }
        let max = self.0.request_bytes_max.saturating_mul(limits::UNFINISHED_REQUESTS_ALL_MAX);
        if unfinished_bytes > before_bytes && all_bytes > max {
            let text = "too many bytes of requests that have not ended in all, and this connection has most";
            let bytes = |entry: &Entry| entry.unfinished_bytes.load(Ordering::Relaxed);
            self.shed(max, bytes, "requests", text);
        }
        entry.is_carrying.store(is_carrying, Ordering::Relaxed);
    }

    /// Closes connections until the others hold no more than `max`, beginning with those that hold most.
    fn shed(&self, max: u64, held: impl Fn(&Entry) -> u64, reason: &'static str, text: &'static str) {
        let table = lock(&self.0.table);
        let mut staying: Vec<_> = table.entries.values().filter(|entry| entry.verdict.get().is_none()).collect();
        let mut leaving = Vec::new();
        while staying.iter().map(|entry| held(entry)).sum::<u64>() > max {
            let Some((network, _)) = heaviest(&staying, &held) else { break };
            let of_network = staying.iter().enumerate().filter(|(_, entry)| entry.network == network);
            let Some((idx, _)) = of_network.max_by_key(|(_, entry)| held(entry)) else { break };
            leaving.push(Arc::clone(staying.swap_remove(idx)));
        }
        drop(staying);
        drop(table);
        leaving.iter().for_each(|entry| entry.close(Verdict::Close { reason, text }));
    }

    /// Accounts for resets of a connection. When those from its address are too many, the connection that is most to blame
    /// is closed, if one stands out.
    pub(super) fn resets(&self, now: Instant, entry: &Entry, n: u32) {
        if n == 0 {
            return;
        }
        entry.add_resets(now, n);
        if self.brake().resets(now, entry.peer.ip(), n, entry.suspect) {
            return;
        }
        let text = "the client's connections reset streams too fast";
        let n_resets = |entry: &Arc<Entry>| entry.add_resets(now, 0);
        let table = lock(&self.0.table);
        let of_network = table.entries.values().filter(|other| other.network == entry.network);
        let blamed = of_network.max_by_key(|other| n_resets(other)).filter(|other| n_resets(other) > RESETS_MODEST);
        let blamed = blamed.cloned();
        drop(table);
        self.brake().punish(now, entry.peer.ip());
        if let Some(blamed) = blamed {
            blamed.close(Verdict::Close { reason: "abuse", text });
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
}

impl Entry {
    /// Asks the relay to close the connection for a reason; the first one counts.
    pub(super) fn close(&self, verdict: Verdict) {
        if self.verdict.set(verdict).is_ok() {
            signal(&self.wake);
        }
    }

    /// For poll(2): readable once there is a verdict.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// When it last had a stream.
    fn used(&self) -> Instant {
        self.begun + Duration::from_millis(self.used_ms.load(Ordering::Relaxed))
    }

    /// Why the connection is to be closed.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verdict.get().copied()
    }

    /// Counts resets, and returns how many there were lately.
    fn add_resets(&self, now: Instant, n: u32) -> u64 {
        let mut resets = lock(&self.resets);
        let n_halvings = now.saturating_duration_since(resets.0).as_secs() / RESETS_FADE.as_secs();
        if n_halvings > 0 {
            let shift = u32::try_from(n_halvings).unwrap_or(u32::MAX);
            *resets = (now, resets.1.checked_shr(shift).unwrap_or(0));
        }
        resets.1 += u64::from(n);
        resets.1
    }

    fn caller(&self) -> Caller {
        Caller { connection: self.id, network: self.network }
    }

    fn is_idle(&self) -> bool {
        self.n_streams.load(Ordering::Relaxed) == 0 && !self.is_carrying.load(Ordering::Relaxed)
    }
}

fn new_eventfd() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(std::io::Error::from)
        .context(|| "create an eventfd")
}

/// Makes an eventfd readable.
fn signal(eventfd: &OwnedFd) {
    // It cannot fail for want of room before 2^64 of them.
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}

/// The address whose connections hold most together, and how much that is.
fn heaviest(entries: &[&Arc<Entry>], held: impl Fn(&Entry) -> u64) -> Option<(IpAddr, u64)> {
    let mut sums: HashMap<IpAddr, u64> = HashMap::new();
    for entry in entries {
        *sums.entry(entry.network).or_default() += held(entry);
    }
    // By address among equals, so that it does not depend on the order of the table.
    sums.into_iter().max_by_key(|(network, sum)| (*sum, *network))
}

fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    struct Rig {
        connections: Connections,
        /// The core's ends.
        theirs: Vec<UnixStream>,
    }

    impl Rig {
        fn new() -> Self {
            let connections = Connections::new(1000, Metrics::new().grpc.front).unwrap();
            Rig { connections, theirs: Vec::new() }
        }

        fn enter(&mut self, address: &str) -> Arc<Entry> {
            use std::os::fd::AsRawFd;
            let (ours, theirs) = UnixStream::pair().unwrap();
            let peer = SocketAddr::new(address.parse().unwrap(), 1);
            let entry = self.connections.enter(peer, false, ours, theirs.as_raw_fd()).unwrap();
            self.theirs.push(theirs);
            entry
        }

        fn show(&self, entry: &Entry, n_streams: usize, unfinished_bytes: u64) {
            let figures = Figures { n_streams, unfinished_bytes, is_carrying: n_streams > 0, ..Figures::default() };
            self.connections.show(entry, Instant::now(), figures);
        }
    }

    fn reason(entry: &Entry) -> Option<&'static str> {
        match entry.verdict()? {
            Verdict::Close { reason, .. } => Some(reason),
            Verdict::Pass => None,
        }
    }

    #[test]
    fn the_longest_idle_of_the_address_that_holds_most_gives_way() {
        let mut rig = Rig::new();
        let ours = rig.enter("10.0.0.1");
        let busy = rig.enter("10.0.0.2");
        let first = rig.enter("10.0.0.2");
        let second = rig.enter("10.0.0.2");
        rig.show(&busy, 1, 0);
        assert!(rig.connections.make_room("10.0.0.3".parse().unwrap(), 0));
        assert_eq!([&ours, &busy, &first, &second].map(|entry| reason(entry)), [None, None, Some("connections"), None]);
        // One at a time.
        assert!(rig.connections.make_room("10.0.0.3".parse().unwrap(), 0));
        assert_eq!(reason(&second), None);
        rig.connections.leave(&first);
        assert_eq!(rig.connections.n_open(), 3);
    }

    #[test]
    fn who_holds_less_does_not_give_way_to_who_holds_more() {
        let mut rig = Rig::new();
        let querier = rig.enter("10.0.0.1");
        let hostile: Vec<_> = (0..3).map(|_| rig.enter("10.0.0.2")).collect();
        hostile.iter().for_each(|entry| rig.show(entry, 1, 0));
        assert!(!rig.connections.make_room("10.0.0.2".parse().unwrap(), 0));
        assert_eq!(reason(&querier), None);
        // Nor does one whose client has left, which has nothing to give.
        let figures = Figures { is_gone: true, ..Figures::default() };
        hostile.iter().for_each(|entry| rig.connections.show(entry, Instant::now(), figures));
        assert!(rig.connections.make_room("10.0.0.3".parse().unwrap(), 0));
        assert_eq!(reason(&querier), Some("connections"));
    }

    #[test]
    fn who_holds_all_with_calls_gives_way_to_another_address_and_not_to_its_own() {
        let mut rig = Rig::new();
        let held: Vec<_> = (0..4).map(|n| rig.enter(&format!("2001:db8::{n}"))).collect();
        held.iter().for_each(|entry| rig.show(entry, 1, 0));
        assert!(!rig.connections.make_room("2001:db8::9".parse().unwrap(), 0), "one network");
        assert!(rig.connections.make_room("10.0.0.1".parse().unwrap(), 0));
        assert_eq!(held.iter().filter_map(|entry| reason(entry)).collect::<Vec<_>>(), ["connections"]);
    }

    #[test]
    fn who_holds_most_streams_or_bytes_is_closed() {
        let mut rig = Rig::new();
        let honest = rig.enter("10.0.0.1");
        let hostile: Vec<_> = (0..10).map(|_| rig.enter("10.0.0.2")).collect();
        hostile.iter().for_each(|entry| rig.show(entry, 200, 0));
        rig.show(&hostile[3], 201, 0);
        assert!(hostile.iter().all(|entry| reason(entry).is_none()));
        // What comes last is not to blame.
        rig.show(&honest, 100, 0);
        assert_eq!((reason(&honest), reason(&hostile[3])), (None, Some("streams")));
        let closed = hostile.iter().filter(|entry| reason(entry).is_some()).count();
        assert_eq!(closed, 1);

        let mut rig = Rig::new();
        let honest = rig.enter("10.0.0.1");
        let hostile: Vec<_> = (0..4).map(|_| rig.enter("10.0.0.2")).collect();
        hostile.iter().for_each(|entry| rig.show(entry, 1, 4000));
        rig.show(&honest, 1, 500);
        assert_eq!(reason(&honest), None);
        assert_eq!(hostile.iter().filter_map(|entry| reason(entry)).collect::<Vec<_>>(), ["requests"]);
        for entry in &hostile {
            rig.connections.leave(entry);
        }
        rig.show(&honest, 1, 900);
        assert_eq!(reason(&honest), None, "who has left holds nothing");
    }

    #[test]
    fn a_neighbour_is_not_blamed_for_resets() {
        let mut rig = Rig::new();
        let now = Instant::now();
        let (honest, hostile) = (rig.enter("10.0.0.1"), rig.enter("10.0.0.1"));
        rig.connections.resets(now, &honest, 100);
        rig.connections.resets(now, &hostile, 1400);
        assert_eq!((reason(&honest), reason(&hostile)), (None, None));
        // It falls to the honest one to use up what is left.
        rig.connections.resets(now, &honest, 100);
        assert_eq!((reason(&honest), reason(&hostile)), (None, Some("abuse")));
        assert!(rig.connections.brake().is_suspect(now, "10.0.0.1".parse().unwrap()));
        // Resets fade.
        assert_eq!(honest.add_resets(now + Duration::from_secs(60), 0), 0);
    }

    #[test]
    fn who_has_left_haunts_its_address_until_the_core_is_through() {
        let mut rig = Rig::new();
        let gone = rig.enter("10.0.0.1");
        rig.connections.show(&gone, Instant::now(), Figures { n_ghosts: 513, ..Figures::default() });
        let is_haunted = |address: &str| rig.connections.is_haunted(address.parse().unwrap());
        assert!(is_haunted("10.0.0.1") && !is_haunted("10.0.0.2"));
        rig.connections.leave(&gone);
        assert!(!is_haunted("10.0.0.1"));
    }

    #[test]
    fn callers_are_known_by_the_descriptor_of_the_core() {
        use std::os::fd::AsRawFd;
        let mut rig = Rig::new();
        let entry = rig.enter("10.0.0.1");
        let name = format!("fd:{}", rig.theirs[0].as_raw_fd());
        assert_eq!(rig.connections.caller(&name), entry.caller());
        rig.connections.leave(&entry);
        assert_ne!(rig.connections.caller(&name), entry.caller());
        assert_ne!(rig.connections.caller("ipv4:1.2.3.4:5"), entry.caller());
    }
}
