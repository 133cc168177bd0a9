//! Prometheus answers only so many remote reads at once, ten as it comes, and lets the others wait. A read whose client has
//! paused would keep its slot for as long as that takes, and clients that wait for each other would wait for ever. So a call
//! that finds no slot frees one of a call that is stalled: it reads the rest of that answer into a temporary file.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntGauge;

use crate::limits;
use crate::store::metrics::StoreMetrics;
use crate::store::series::{Outlet, client_gone};
use crate::store::spill::Spill;
use pillion_base::error::{Error, Kind, Result};

/// Whom a call belongs to: what one holder has counts first by address, then by connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holder {
    /// A hash of the address.
    pub address: u64,
    /// The connection's number.
    pub connection: u64,
}

/// The client of a call, as other calls see it.
pub trait Client: Send + Sync {
    /// Whom it belongs to, for slots to be shared fairly.
    fn holder(&self) -> Holder;
    /// Whether it went away.
    fn is_gone(&self) -> bool;
    /// How long it has taken nothing while something waits for it; `None` while nothing does.
    fn stalled_for(&self) -> Option<Duration>;
    /// Ends its call, because others cannot go on otherwise.
    fn give_way(&self, text: &str);
}

/// The remote reads that are open, shared by all calls.
#[derive(Clone)]
pub(super) struct Slots(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Signalled when a slot is free.
    freed: Condvar,
    /// Memory of answers that were put aside where there is no temporary folder, in bytes.
    memory: AtomicUsize,
    working: IntGauge,
    waiting: IntGauge,
}

struct State {
    n_max: usize,
    /// Who holds the slots that are taken.
    open: Vec<Holder>,
    /// Calls that wait for a slot, in the order in which they came, and for whom.
    queue: Vec<(u64, Holder)>,
    next: u64,
    /// Reads that are under way, whose clients may stall.
    readers: Vec<Reader>,
}

struct Reader {
    source: Arc<Mutex<Source>>,
    client: Arc<dyn Client>,
}

impl Slots {
    /// No read is open; at most `n_max` may be.
    pub(super) fn new(n_max: usize, metrics: &StoreMetrics) -> Self {
        let state = State { n_max, open: Vec::new(), queue: Vec::new(), next: 0, readers: Vec::new() };
        Slots(Arc::new(Shared {
            state: Mutex::new(state),
            freed: Condvar::new(),
            memory: AtomicUsize::new(0),
            working: metrics.working_calls.clone(),
            waiting: metrics.calls_waiting_for_prometheus.clone(),
        }))
    }

    /// Prometheus answers so many reads at once; 0 is no limit.
    pub(super) fn set_max(&self, n_max: usize) {
        self.0.lock().n_max = if n_max == 0 { usize::MAX } else { n_max };
        self.0.freed.notify_all();
    }

    /// Counts this thread's call as one that waits for Prometheus until what is returned is dropped.
    pub(super) fn waits(&self) -> impl Drop + use<> {
        self.0.working.dec();
        self.0.waiting.inc();
        Waits(Arc::clone(&self.0))
    }

    /// A slot for a call. Where there is none, one of who holds most is freed, and who holds fewest is next.
    ///
    /// `Errors:` `Stopped` when the client goes away meanwhile. `Blocks:` until there is one.
    pub(super) fn enter(&self, outlet: &dyn Outlet) -> Result<Slot> {
        self.wait(&*outlet.client())
    }

    fn wait(&self, client: &dyn Client) -> Result<Slot> {
        let holder = client.holder();
        let mut state = self.0.lock();
        if state.open.len() < state.n_max && state.queue.is_empty() {
            state.open.push(holder);
            return Ok(Slot { of: self.clone(), holder });
        }
        drop(state);
        let _waits = self.waits();
        let mut state = self.0.lock();
        let number = state.next;
        state.next += 1;
        state.queue.push((number, holder));
        let outcome = loop {
            if state.open.len() < state.n_max && state.first() == Some(number) {
                state.open.push(holder);
                break Ok(Slot { of: self.clone(), holder });
            }
            if client.is_gone() {
                break Err(client_gone());
            }
            if state.open.len() >= state.n_max
                && let Some(reader) = state.take_stalled()
            {
                drop(state);
                reader.put_aside();
                state = self.0.lock();
                continue;
            }
            state = self.0.freed.wait_timeout(state, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
        };
        state.queue.retain(|(waiting, _)| *waiting != number);
        drop(state);
        // Another may be the first now.
        self.0.freed.notify_all();
        outcome
    }
}

/// Time between two looks at whose client has stalled, of which nobody tells.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The call that is next: the first of those who hold fewest slots, by address and then by connection.
    fn first(&self) -> Option<u64> {
        self.queue.iter().min_by_key(|(number, holder)| (self.n_open(*holder), *number)).map(|(number, _)| *number)
    }

    /// Slots of the holder's address, and of the holder.
    fn n_open(&self, holder: Holder) -> (usize, usize) {
        let of_address = self.open.iter().filter(|open| open.address == holder.address).count();
        (of_address, self.open.iter().filter(|open| **open == holder).count())
    }

    /// Takes out the read that has been stalled for longest, and for long enough, of those who hold most slots.
    fn take_stalled(&mut self) -> Option<Reader> {
        let stalled = |(idx, reader): (usize, &Reader)| {
            let time = reader.client.stalled_for().filter(|time| *time >= limits::STALLED_AFTER)?;
            Some((self.n_open(reader.client.holder()), time, idx))
        };
        let (.., idx) = self.readers.iter().enumerate().filter_map(stalled).max()?;
        Some(self.readers.swap_remove(idx))
    }
}

struct Waits(Arc<Shared>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiting.dec();
        self.0.working.inc();
    }
}

/// A slot, which is free again when this is dropped.
pub(super) struct Slot {
    of: Slots,
    holder: Holder,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.of.0.lock();
        if let Some(idx) = state.open.iter().position(|open| *open == self.holder) {
            state.open.swap_remove(idx);
        }
        drop(state);
        self.of.0.freed.notify_all();
    }
}

impl Slot {
    /// The body of an answer, which keeps the slot until it has been read to its end or is dropped.
    pub(super) fn hold(self, live: Box<dyn Read + Send>, client: Arc<dyn Client>) -> Body {
        let slots = self.of.clone();
        let source = Source { aside: None, live: Some((live, self)), failed: None };
        let source = Arc::new(Mutex::new(source));
        slots.0.lock().readers.push(Reader { source: Arc::clone(&source), client });
        Body { source, slots }
    }
}

/// The body of an answer: as it comes, or from where another call has put it.
pub(super) struct Body {
    source: Arc<Mutex<Source>>,
    slots: Slots,
}

struct Source {
    aside: Option<Aside>,
    live: Option<(Box<dyn Read + Send>, Slot)>,
    failed: Option<io::Error>,
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(aside) = &mut source.aside {
            let n = aside.read(out)?;
            if n > 0 {
                return Ok(n);
            }
            source.aside = None;
        }
        if let Some(err) = source.failed.take() {
            return Err(err);
        }
        let Some((live, _)) = &mut source.live else { return Ok(0) };
        let waits = self.slots.waits();
        let read = live.read(out);
        drop(waits);
        if !matches!(&read, Ok(n) if *n > 0) {
            // It ended: the slot is free.
            source.live = None;
        }
        read
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let mut state = self.slots.0.lock();
        let Some(idx) = state.readers.iter().position(|reader| Arc::ptr_eq(&reader.source, &self.source)) else {
            return;
        };
        let reader = state.readers.swap_remove(idx);
        drop(state);
        // Frees the slot, which is not done under the lock.
        drop(reader);
    }
}

impl Reader {
    /// Reads the rest of the answer into a temporary file. Where that cannot be done the call ends.
    fn put_aside(self) {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = source.put_aside();
        drop(source);
        if let Err(err) = outcome {
            self.client
                .give_way(&format!("other calls wait for Prometheus, and the answer cannot be put aside: {err}"));
        }
    }
}

impl Source {
    fn put_aside(&mut self) -> Result<()> {
        let Some((live, slot)) = &mut self.live else { return Ok(()) };
        let mut aside = Aside::new(&slot.of.0);
        let mut buffer = vec![0; limits::READ_BUFFER_BYTES];
        let begun = Instant::now();
        loop {
            if aside.spill.len() > limits::ASIDE_BYTES_MAX || begun.elapsed() > limits::ASIDE_TIME_MAX {
                return Err(Error::new(Kind::Limit, "the rest of it is too large"));
            }
            match live.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => aside.append(buffer.get(..n).unwrap_or_default())?,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => {
                    self.failed = Some(err);
                    break;
                }
            }
        }
        aside.spill.seal()?;
        aside.account()?;
        self.aside = Some(aside);
        self.live = None;
        Ok(())
    }
}

/// What was put aside, and how much of it has been read.
struct Aside {
    spill: Spill,
    at: u64,
    /// Its share of the memory.
    held_bytes: usize,
    shared: Arc<Shared>,
}

impl Aside {
    fn new(shared: &Arc<Shared>) -> Self {
        Aside { spill: Spill::new(limits::SPILL_BYTES_MAX), at: 0, held_bytes: 0, shared: Arc::clone(shared) }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.spill.append(bytes)?;
        self.account()
    }

    /// `Errors:` `Limit` when all together would hold too much memory, which they do only without a temporary folder.
    fn account(&mut self) -> Result<()> {
        let held_bytes = self.spill.held_bytes();
        self.shared.memory.fetch_add(held_bytes, Ordering::Relaxed);
        self.shared.memory.fetch_sub(self.held_bytes, Ordering::Relaxed);
        self.held_bytes = held_bytes;
        if self.shared.memory.load(Ordering::Relaxed) as u64 > limits::SPILL_MEMORY_BYTES_MAX {
            return Err(Error::new(Kind::Limit, "it takes too much memory, and no temporary file can be made"));
        }
        Ok(())
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.spill.len().saturating_sub(self.at)).unwrap_or(usize::MAX);
        let n = left.min(out.len());
        self.spill.read(self.at, out.get_mut(..n).unwrap_or_default()).map_err(io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.shared.memory.fetch_sub(self.held_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
