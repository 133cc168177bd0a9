//! From a call's thread to gRPC's completion queue: a queue bounded in bytes, and a future that drains it.
//!
//! The thread blocks when the client is slower than it is, and steps out of the pool meanwhile, so that others work. The
//! future notices a client that went away even while nothing is being sent, wakes the thread and runs its hook. Small
//! messages cost no hand-over of threads each.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::Sink;
use grpcio::{DuplexSink, GrpcSlice, RequestStream, RpcStatus, RpcStatusCode, WriteFlags};

use crate::grpc::backlog::Backlog;
use crate::grpc::buffers;
use crate::grpc::connections::Caller;
use crate::grpc::pool::Pool;
use crate::grpc::record::{Doing, Record};
use crate::grpc::request::{Bytes, Incoming, Late};
use crate::grpc::trace::CallParts;
use crate::limits;
use pillion_base::error::{Error, Kind, Result};
use pillion_read::spans::Spans;
use pillion_read::store::{Client, EncodedMessage, Holder, MessageSink, Outlet, client_gone};

type Hook = Box<dyn Fn() + Send + Sync>;

/// The future of one call, to be spawned on the completion queue: waits for the request, hands it to `begin` together with
/// the other end of the bridge, and sends what comes over it.
pub async fn serve(
    requests: RequestStream<Bytes>,
    sink: DuplexSink<GrpcSlice>,
    late: Late,
    begin: impl FnOnce(Bytes, Bridge),
) {
    let mut incoming = Incoming::new(requests);
    match incoming.first(&late).await {
        Ok(request) => {
            let bridge = Bridge::new();
            begin(request, bridge.clone());
            bridge.drain(incoming, sink).await;
        }
        // Nobody may be left to tell.
        Err(status) => drop(sink.fail(status).await),
    }
}

/// The thread's end. Clones share the queue.
#[derive(Clone)]
pub struct Bridge(Arc<Shared>);

/// Where a call runs, and what is known of it.
pub(crate) struct Seat {
    pub(crate) pool: Pool,
    pub(crate) backlog: Backlog,
    pub(crate) caller: Caller,
    pub(crate) request_bytes: usize,
    /// The call, for whoever looks.
    pub(crate) record: Arc<Record>,
    /// Records the parts of the call, where calls are traced.
    pub(crate) parts: Option<CallParts>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when there is room for a thread that waits, and when the client is gone.
    room: Condvar,
    /// Only calls that run on a thread have one; only they send more than one small message.
    seat: OnceLock<Seat>,
    /// Bytes of frames that the call's thread holds.
    held_bytes: AtomicUsize,
}

struct State {
    queue: VecDeque<GrpcSlice>,
    queued_bytes: usize,
    /// The message that the core has not passed on yet.
    core_bytes: usize,
    end: Option<RpcStatus>,
    gone: bool,
    /// Why the call was ended from this side.
    given_up: Option<String>,
    /// The thread waits until no more than so many bytes are queued, or for the client to take all.
    wanted: Option<Wanted>,
    /// When the client last took a message while the thread was waiting, or when that began.
    taken: Instant,
    waker: Option<Waker>,
    hook: Option<Hook>,
    n_sent: u64,
    sent_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Room(usize),
    Gone,
}

impl Bridge {
    fn new() -> Self {
        let state = State {
            queue: VecDeque::new(),
            queued_bytes: 0,
            core_bytes: 0,
            end: None,
            gone: false,
            given_up: None,
            wanted: None,
            taken: Instant::now(),
            waker: None,
            hook: None,
            n_sent: 0,
            sent_bytes: 0,
        };
        let held_bytes = AtomicUsize::new(0);
        Bridge(Arc::new(Shared { state: Mutex::new(state), room: Condvar::new(), seat: OnceLock::new(), held_bytes }))
    }

    /// Says where the call runs. Before its first message.
    pub(crate) fn sit(&self, seat: Seat) {
        // There is one.
        let _ = self.0.seat.set(seat);
    }

    /// Ends the call with `status` once everything queued is sent. Harmless when the call has ended.
    pub fn finish(&self, status: RpcStatus) {
        let mut state = self.0.lock();
        if state.end.is_none() {
            state.end = Some(status);
        }
        wake(state);
    }

    /// Waits until the client has the whole answer or is gone, unless it is small: what a client leaves lying takes memory.
    /// `Blocks:` as long as the client does, outside the pool.
    pub(crate) fn wait_until_taken(&self) {
        let state = self.0.lock();
        if state.sent_bytes > limits::SMALL_MESSAGE_BYTES && !state.gone {
            drop(self.wait(state, Wanted::Gone, 0));
        }
    }

    /// Puts `message` in place of whatever is still queued, without ever blocking: for states, of which only the newest
    /// matters.
    pub fn replace(&self, message: Vec<u8>) {
        let mut state = self.0.lock();
        if state.gone {
            return;
        }
        state.queue.clear();
        state.queued_bytes = message.len();
        state.queue.push_back(GrpcSlice::from(message));
        wake(state);
    }

    /// Lets what was kept back leave: the thread is about to wait.
    pub(crate) fn flush(&self) {
        let state = self.0.lock();
        if !state.queue.is_empty() {
            wake(state);
        }
    }

    /// Whether the client went away.
    pub fn is_gone(&self) -> bool {
        self.0.lock().gone
    }

    /// How many messages were queued so far.
    pub fn n_sent(&self) -> u64 {
        self.0.lock().n_sent
    }

    /// Moves messages into `sink`. `incoming` has given its request.
    async fn drain(self, mut incoming: Incoming, mut sink: DuplexSink<GrpcSlice>) {
        let drained = std::future::poll_fn(|cx| {
            if let Err(status) = incoming.poll_end(cx) {
                self.0.give_up(status, "the call has more than one request");
            }
            self.poll_drain(cx, &mut sink)
        });
        match drained.await {
            None => {}
            // Nobody is left to tell when these fail.
            Some(status) if status.code() == RpcStatusCode::OK => {
                let _ = std::future::poll_fn(|cx| Pin::new(&mut sink).poll_close(cx)).await;
            }
            Some(status) => {
                let _ = sink.fail(status).await;
            }
        }
        self.client_gone();
    }

    /// Ready with the final status when everything is sent, or with nothing when the client is gone.
    fn poll_drain(&self, cx: &mut Context<'_>, sink: &mut DuplexSink<GrpcSlice>) -> Poll<Option<RpcStatus>> {
        loop {
            // Registers for the client's departure too.
            match Pin::new(&mut *sink).poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
            let (message, more) = {
                let mut state = self.0.lock();
                // What the core had has left.
                let left = std::mem::take(&mut state.core_bytes);
                self.0.account(|backlog| backlog.sub(left));
                let Some(message) = state.queue.pop_front() else {
                    if let Some(status) = state.end.take() {
                        return Poll::Ready(Some(status));
                    }
                    state.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                };
                state.queued_bytes = state.queued_bytes.saturating_sub(message.len());
                state.core_bytes = message.len();
                if let Some(wanted) = state.wanted {
                    state.taken = Instant::now();
                    if matches!(wanted, Wanted::Room(bytes) if state.queued_bytes <= bytes) {
                        self.0.room.notify_one();
                    }
                }
                (message, !state.queue.is_empty() || state.end.is_some())
            };
            // With more to come, be it only the status, the core may gather before it writes.
            let flags = WriteFlags::default().buffer_hint(more);
            if Pin::new(&mut *sink).start_send((message, flags)).is_err() {
                return Poll::Ready(None);
            }
        }
    }

    /// Waits for the client, outside the pool and among the calls that may have to give way. `in_hand`: bytes of the message
    /// that wants to leave. Whoever comes back looks whether the client is gone or the call was given up.
    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>, wanted: Wanted, in_hand: usize) -> MutexGuard<'a, State> {
        let shared = &*self.0;
        state.wanted = Some(wanted);
        state.taken = Instant::now();
        let waker = state.waker.take();
        let message_bytes = state.queued_bytes + state.core_bytes + in_hand;
        let held_bytes = message_bytes + shared.held_bytes.load(Ordering::Relaxed);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        let outside = shared.seat.get().map(|seat| {
            // What clients leave lying takes memory: past a bound it also holds shares of the work, of which each has only so
            // many.
            let outside = if seat.backlog.is_full() {
                seat.pool.stay(|gauges| &gauges.waiting_for_client)
            } else {
                seat.pool.step_out(seat.caller, |gauges| &gauges.waiting_for_client)
            };
            let before = seat.record.now(Doing::WaitingForClient);
            (seat.backlog.enter(seat.caller, held_bytes + seat.request_bytes, self.client()), outside, before)
        });
        let patience = shared.seat.get().map_or(Duration::MAX, |seat| seat.backlog.patience());
        let mut state = shared.lock();
        while !state.is_met(wanted) {
            let left = patience.saturating_sub(state.taken.elapsed());
            if left.is_zero() {
                drop(state);
                if let Some(seat) = shared.seat.get() {
                    seat.backlog.has_lost_patience(shared);
                }
                state = shared.lock();
                continue;
            }
            state = shared.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.wanted = None;
        drop(state);
        if let (Some(seat), Some((.., before))) = (shared.seat.get(), &outside) {
            seat.record.now(*before);
        }
        drop(outside);
        shared.lock()
    }

    /// The call is over for the client: wakes a blocked sender and runs the hook.
    fn client_gone(&self) {
        let hook = {
            let mut state = self.0.lock();
            state.gone = true;
            self.0.clear(&mut state);
            let left = std::mem::take(&mut state.core_bytes);
            self.0.account(|backlog| backlog.sub(left));
            state.hook.take()
        };
        self.0.room.notify_all();
        if let Some(hook) = hook {
            hook();
        }
    }
}

impl Shared {
    /// Ends the call with `status` at once, without what is still queued.
    fn give_up(&self, status: RpcStatus, text: &str) {
        let mut state = self.lock();
        if state.given_up.is_none() && !state.gone {
            self.clear(&mut state);
            state.end = Some(status);
            state.given_up = Some(text.to_owned());
        }
        self.room.notify_all();
        wake(state);
    }

    fn clear(&self, state: &mut State) {
        state.queue.clear();
        let left = std::mem::take(&mut state.queued_bytes);
        self.account(|backlog| backlog.sub(left));
    }

    fn account(&self, change: impl FnOnce(&Backlog)) {
        if let Some(seat) = self.seat.get() {
            change(&seat.backlog);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a thread that waits need not wait any more.
    fn is_met(&self, wanted: Wanted) -> bool {
        self.gone || self.given_up.is_some() || matches!(wanted, Wanted::Room(bytes) if self.queued_bytes <= bytes)
    }
}

impl MessageSink for Bridge {
    fn buffer(&self, bytes: usize) -> Vec<u8> {
        buffers::take(bytes)
    }

    fn message_bytes_max(&self) -> usize {
        self.0.seat.get().map_or(limits::MESSAGE_BYTES_TARGET, |seat| seat.backlog.message_bytes_max())
    }

    fn send(&self, message: EncodedMessage) -> Result<()> {
        let slice = buffers::into_slice(message);
        let n_bytes = slice.len();
        let queue_max = self.0.seat.get().map_or(limits::BRIDGE_BYTES, |seat| seat.backlog.queue_bytes_max());
        if let Some(seat) = self.0.seat.get() {
            seat.record.has_message(n_bytes);
        }
        self.0.account(|backlog| backlog.add(n_bytes));
        let mut state = self.0.lock();
        if state.queued_bytes > 0 && state.queued_bytes + n_bytes > queue_max && state.given_up.is_none() && !state.gone
        {
            // Not for the first byte of room: a thread that is woken for each small message does little else.
            state = self.wait(state, Wanted::Room(queue_max.saturating_sub(n_bytes) / 2), n_bytes);
        }
        if state.gone || state.given_up.is_some() {
            self.0.account(|backlog| backlog.sub(n_bytes));
            return Err(match &state.given_up {
                Some(text) => Error::new(Kind::Retry, format!("the sidecar gave up: {text}")),
                None => client_gone(),
            });
        }
        state.queued_bytes += n_bytes;
        state.sent_bytes = state.sent_bytes.saturating_add(n_bytes);
        state.n_sent += 1;
        state.queue.push_back(slice);
        // A little goes with what follows at once, or when this thread is about to wait.
        if state.queued_bytes > limits::SMALL_MESSAGE_BYTES {
            wake(state);
        }
        Ok(())
    }
}

impl Outlet for Bridge {
    fn on_gone(&self, hook: Hook) {
        let mut state = self.0.lock();
        if state.gone {
            drop(state);
            hook();
        } else {
            state.hook = Some(hook);
        }
    }

    fn holds(&self, bytes: usize) {
        self.0.held_bytes.store(bytes, Ordering::Relaxed);
    }

    fn counted(&self, n_series: u64, n_chunks: u64) {
        if let Some(seat) = self.0.seat.get() {
            seat.record.counted(n_series, n_chunks);
        }
    }

    fn outside(&self, wait: &mut dyn FnMut()) {
        self.flush();
        let seat = self.0.seat.get();
        let _outside = seat.map(|seat| seat.pool.step_out(seat.caller, |gauges| &gauges.waiting_for_prometheus));
        let before = seat.map(|seat| seat.record.now(Doing::WaitingForPrometheus));
        wait();
        if let (Some(seat), Some(before)) = (seat, before) {
            seat.record.now(before);
        }
    }

    fn client(&self) -> Arc<dyn Client> {
        Arc::<Shared>::clone(&self.0)
    }

    fn spans(&self) -> Option<&dyn Spans> {
        self.0.seat.get()?.parts.as_ref().map(|parts| parts as &dyn Spans)
    }
}

impl Client for Shared {
    fn holder(&self) -> Holder {
        let mut hasher = DefaultHasher::new();
        let caller = self.seat.get().map(|seat| seat.caller);
        caller.map(|caller| caller.network).hash(&mut hasher);
        Holder { address: hasher.finish(), connection: caller.map_or(0, |caller| caller.connection) }
    }

    fn is_gone(&self) -> bool {
        let state = self.lock();
        state.gone || state.given_up.is_some()
    }

    fn stalled_for(&self) -> Option<Duration> {
        let state = self.lock();
        state.wanted.map(|_| state.taken.elapsed())
    }

    fn give_way(&self, text: &str) {
        let (peer, query) = self.seat.get().map(|seat| (seat.record.peer(), seat.record.query())).unwrap_or_default();
        log::warn!(peer = peer, query = query, reason = text; "gave up a call whose client does not read its answer");
        self.give_up(RpcStatus::with_message(RpcStatusCode::UNAVAILABLE, format!("the sidecar gave up: {text}")), text);
    }
}

/// Wakes the draining future, outside the lock.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}
