//! What clients have not taken yet, over all calls: how many bytes it is, which calls wait for their clients, and who gives
//! way when that is too much. Waiting alone is no fault: a querier that merges several stores reads from one at a time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntCounterVec;

use crate::grpc::connections::Caller;
use crate::limits;
use pillion_read::store::Client;

/// The backlog of all calls.
#[derive(Clone)]
pub(crate) struct Backlog(Arc<Shared>);

struct Shared {
    /// Bytes of messages that are not with their clients, those that the core holds among them.
    bytes: AtomicUsize,
    calls: Mutex<Calls>,
    bounds: Bounds,
    /// A client that takes nothing for this long loses its call.
    patience: Duration,
    /// Calls that gave way, by reason.
    given_up: IntCounterVec,
}

/// What waiting calls may hold together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) calls_max: usize,
    pub(crate) bytes_max: usize,
}

#[derive(Default)]
struct Calls {
    next: u64,
    waiting: HashMap<u64, Waiting>,
}

/// A call that waits for its client.
struct Waiting {
    caller: Caller,
    bytes: usize,
    client: Arc<dyn Client>,
}

impl Backlog {
    /// Nothing waits yet. `patience`: how long a client may take nothing.
    pub(crate) fn new(bounds: Bounds, patience: Duration, given_up: IntCounterVec) -> Self {
        let (bytes, calls) = (AtomicUsize::new(0), Mutex::default());
        Backlog(Arc::new(Shared { bytes, calls, bounds, patience, given_up }))
    }

    pub(crate) fn patience(&self) -> Duration {
        self.0.patience
    }

    /// A call holds so many bytes of messages more.
    pub(crate) fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// They have left, or are given up.
    pub(crate) fn sub(&self, bytes: usize) {
        self.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// How large the next message may be: the more has not been taken, the smaller.
    pub(crate) fn message_bytes_max(&self) -> usize {
        let free = limits::BACKLOG_BYTES.saturating_sub(self.0.bytes.load(Ordering::Relaxed));
        (free / limits::BACKLOG_SHARES).clamp(limits::SMALL_MESSAGE_BYTES, limits::MESSAGE_BYTES_TARGET)
    }

    /// Whether nothing should be begun any more.
    pub(crate) fn is_full(&self) -> bool {
        self.0.bytes.load(Ordering::Relaxed) > limits::BACKLOG_BYTES
    }

    /// How much one call may queue: nothing beyond a small message where many calls wait.
    pub(crate) fn queue_bytes_max(&self) -> usize {
        if self.0.bytes.load(Ordering::Relaxed) <= limits::BACKLOG_BYTES / 2 {
            limits::BRIDGE_BYTES
        } else {
            limits::SMALL_MESSAGE_BYTES
        }
    }

    /// Enters a call that holds so many bytes and waits for its client, until what is returned is dropped. If that is too
    /// much for all, the call that has been waiting longest, of the client that holds most, gives way; it may be this one.
    pub(crate) fn enter(&self, caller: Caller, bytes: usize, client: Arc<dyn Client>) -> Place<'_> {
        let mut calls = self.0.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let id = calls.next;
        calls.next += 1;
        calls.waiting.insert(id, Waiting { caller, bytes, client });
        let mut giving_way = Vec::new();
        let Bounds { calls_max, bytes_max } = self.0.bounds;
        while calls.waiting.len() > calls_max {
            giving_way.extend(calls.heaviest(|_| 1).and_then(|id| calls.waiting.remove(&id)));
        }
        // One alone may be as large as it is.
        while calls.waiting.len() > 1 && calls.waiting.values().map(|waiting| waiting.bytes).sum::<usize>() > bytes_max
        {
            giving_way.extend(calls.heaviest(|waiting| waiting.bytes).and_then(|id| calls.waiting.remove(&id)));
        }
        drop(calls);
        for waiting in giving_way {
            self.0.given_up.with_label_values(&["crowded"]).inc();
            waiting
                .client
                .give_way("too many calls wait for clients that take nothing, and this client has most of them");
        }
        Place { backlog: self, id }
    }

    /// Ends a call whose client has taken nothing for too long.
    pub(crate) fn has_lost_patience(&self, client: &dyn Client) {
        self.0.given_up.with_label_values(&["stalled"]).inc();
        let text =
            format!("the client has taken nothing for {:?} (--store.limits.stalled-call-timeout)", self.0.patience);
        client.give_way(&text);
    }
}

/// A call among those that wait.
pub(crate) struct Place<'a> {
    backlog: &'a Backlog,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut calls = self.backlog.0.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let left = calls.waiting.remove(&self.id);
        drop(calls);
        // The last of a call's handles frees what it holds, which is not done under the lock.
        drop(left);
    }
}

impl Calls {
    /// The call that has waited longest, of the connection that holds most, of the address that holds most.
    fn heaviest(&self, weight: impl Fn(&Waiting) -> usize) -> Option<u64> {
        let (mut of_network, mut of_caller) = (HashMap::<IpAddr, usize>::new(), HashMap::<Caller, usize>::new());
        for waiting in self.waiting.values() {
            *of_network.entry(waiting.caller.network).or_default() += weight(waiting);
            *of_caller.entry(waiting.caller).or_default() += weight(waiting);
        }
        let rank = |(id, waiting): &(&u64, &Waiting)| {
            let held = (of_network.get(&waiting.caller.network).copied(), of_caller.get(&waiting.caller).copied());
            (held, waiting.caller.connection, waiting.client.stalled_for(), std::cmp::Reverse(**id))
        };
        self.waiting.iter().max_by_key(rank).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_read::store::Holder;
    use prometheus::Opts;

    struct Fake {
        stalled_for: Duration,
        said: Mutex<Option<String>>,
    }

    impl Client for Fake {
        fn holder(&self) -> Holder {
            Holder::default()
        }

        fn is_gone(&self) -> bool {
            false
        }

        fn stalled_for(&self) -> Option<Duration> {
            Some(self.stalled_for)
        }

        fn give_way(&self, text: &str) {
            *self.said.lock().unwrap() = Some(text.to_owned());
        }
    }

    struct Rig {
        backlog: Backlog,
    }

    impl Rig {
        fn new(calls_max: usize, bytes_max: usize) -> Self {
            let counter = IntCounterVec::new(Opts::new("n", "n"), &["reason"]).unwrap();
            let backlog = Backlog::new(Bounds { calls_max, bytes_max }, Duration::from_secs(300), counter);
            Rig { backlog }
        }

        fn enter(&self, network: u8, connection: u64, stalled_ms: u64, bytes: usize) -> (Arc<Fake>, Place<'_>) {
            let stalled_for = Duration::from_millis(stalled_ms);
            let call = Arc::new(Fake { stalled_for, said: Mutex::default() });
            let caller = Caller { connection, network: IpAddr::from([10, 0, 0, network]) };
            let place = self.backlog.enter(caller, bytes, Arc::clone(&call) as Arc<dyn Client>);
            (call, place)
        }
    }

    fn gave_way(call: &Fake) -> bool {
        call.said.lock().unwrap().is_some()
    }

    #[test]
    fn the_longest_wait_of_the_client_that_holds_most_gives_way() {
        let rig = Rig::new(3, usize::MAX);
        let honest = rig.enter(1, 1, 30, 5);
        let younger = rig.enter(2, 2, 10, 1);
        let older = rig.enter(2, 2, 20, 1);
        assert!(![&honest, &younger, &older].iter().any(|(call, _)| gave_way(call)), "waiting alone is no fault");
        let last = rig.enter(3, 3, 0, 1);
        assert_eq!([&honest, &younger, &older, &last].map(|(call, _)| gave_way(call)), [false, false, true, false]);
    }

    #[test]
    fn bytes_are_bounded_too_and_one_call_may_be_large() {
        let rig = Rig::new(100, 100);
        let large = rig.enter(1, 1, 0, 500);
        assert!(!gave_way(&large.0));
        let small = rig.enter(2, 2, 1, 10);
        assert!(gave_way(&large.0) && !gave_way(&small.0));
        drop(large);
        let others: Vec<_> = (0..9).map(|n| rig.enter(3, 3, n, 10)).collect();
        assert!(!others.iter().any(|(call, _)| gave_way(call)));
    }

    #[test]
    fn messages_shrink_while_clients_take_nothing() {
        let rig = Rig::new(100, 100);
        assert_eq!(rig.backlog.message_bytes_max(), limits::MESSAGE_BYTES_TARGET);
        assert_eq!(rig.backlog.queue_bytes_max(), limits::BRIDGE_BYTES);
        let mut held = 0;
        // As many as may wait, each with one message in the core and one in hand.
        for _ in 0..2 * limits::WAITING_CALLS_MAX {
            let message = rig.backlog.message_bytes_max();
            rig.backlog.add(message);
            held += message;
        }
        assert!(held < 2 * limits::BACKLOG_BYTES, "{held}");
        assert_eq!(rig.backlog.queue_bytes_max(), limits::SMALL_MESSAGE_BYTES);
        rig.backlog.sub(held);
        assert_eq!(rig.backlog.message_bytes_max(), limits::MESSAGE_BYTES_TARGET);
    }
}
