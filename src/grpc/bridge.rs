//! From a call's thread to gRPC's completion queue: a queue bounded in bytes, and a future that drains it.
//!
//! The thread blocks when the client is slower than it is; the future notices a client that went away even while nothing
//! is being sent, wakes the thread and runs its hook. Small messages cost no hand-over of threads each.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::Sink;
use grpcio::{DuplexSink, GrpcSlice, RequestStream, RpcStatus, RpcStatusCode, WriteFlags};

use crate::grpc::buffers;
use crate::grpc::request::{Bytes, Incoming, Late};
use crate::limits;
use pillion_base::error::Result;
use pillion_read::store::{EncodedMessage, MessageSink, Outlet, client_gone};

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

struct Shared {
    state: Mutex<State>,
    /// Signalled when bytes left the queue and when the client is gone.
    room: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<GrpcSlice>,
    queued_bytes: usize,
    end: Option<RpcStatus>,
    gone: bool,
    waker: Option<Waker>,
    hook: Option<Hook>,
    n_sent: u64,
    sent_bytes: usize,
}

impl Bridge {
    fn new() -> Self {
        Bridge(Arc::new(Shared { state: Mutex::new(State::default()), room: Condvar::new() }))
    }

    /// Ends the call with `status` once everything queued is sent. Harmless when the call has ended.
    pub fn finish(&self, status: RpcStatus) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.end = Some(status);
        }
        wake(state);
    }

    /// Ends the call with `status` at once, without what is still queued.
    fn give_up(&self, status: RpcStatus) {
        let mut state = self.lock();
        state.queue.clear();
        state.queued_bytes = 0;
        state.end = Some(status);
        drop(state);
        self.0.room.notify_all();
    }

    /// Waits until the client has the whole answer or is gone, unless it is small: what a client leaves lying takes memory, so
    /// it also holds a thread, of which it has only so many. `Blocks:` as long as the client does.
    pub(crate) fn wait_until_taken(&self) {
        let mut state = self.lock();
        if state.sent_bytes <= limits::SMALL_MESSAGE_BYTES {
            return;
        }
        while !state.gone {
            state = self.0.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts `message` in place of whatever is still queued, without ever blocking: for states, of which only the newest
    /// matters.
    pub fn replace(&self, message: Vec<u8>) {
        let mut state = self.lock();
        if state.gone {
            return;
        }
        state.queue.clear();
        state.queued_bytes = message.len();
        state.queue.push_back(GrpcSlice::from(message));
        wake(state);
    }

    /// Whether the client went away.
    pub fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// How many messages were queued so far.
    pub fn n_sent(&self) -> u64 {
        self.lock().n_sent
    }

    /// Moves messages into `sink`. `incoming` has given its request.
    async fn drain(self, mut incoming: Incoming, mut sink: DuplexSink<GrpcSlice>) {
        let drained = std::future::poll_fn(|cx| {
            if let Err(status) = incoming.poll_end(cx) {
                self.give_up(status);
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
                let mut state = self.lock();
                let Some(message) = state.queue.pop_front() else {
                    if let Some(status) = state.end.take() {
                        return Poll::Ready(Some(status));
                    }
                    state.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                };
                state.queued_bytes -= message.len();
                self.0.room.notify_one();
                (message, !state.queue.is_empty())
            };
            // With more to come the core may gather messages before it writes.
            let flags = WriteFlags::default().buffer_hint(more);
            if Pin::new(&mut *sink).start_send((message, flags)).is_err() {
                return Poll::Ready(None);
            }
        }
    }

    /// The call is over for the client: wakes a blocked sender and runs the hook.
    fn client_gone(&self) {
        let hook = {
            let mut state = self.lock();
            state.gone = true;
            state.queue.clear();
            state.queued_bytes = 0;
            state.hook.take()
        };
        self.0.room.notify_all();
        if let Some(hook) = hook {
            hook();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MessageSink for Bridge {
    fn buffer(&self, bytes: usize) -> Vec<u8> {
        buffers::take(bytes)
    }

    fn send(&self, message: EncodedMessage) -> Result<()> {
        let slice = buffers::into_slice(message);
        let mut state = self.lock();
        while state.queued_bytes >= limits::BRIDGE_BYTES && !state.gone {
            state = self.0.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.gone {
            return Err(client_gone());
        }
        state.queued_bytes += slice.len();
        state.sent_bytes = state.sent_bytes.saturating_add(slice.len());
        state.n_sent += 1;
        state.queue.push_back(slice);
        wake(state);
        Ok(())
    }
}

impl Outlet for Bridge {
    fn on_gone(&self, hook: Hook) {
        let mut state = self.lock();
        if state.gone {
            drop(state);
            hook();
        } else {
            state.hook = Some(hook);
        }
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
