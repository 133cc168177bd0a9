//! A bounded pool of threads for calls, shared fairly among those who call: what one caller waits for, or floods with,
//! keeps no other out. Threads start when they are first needed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::grpc::connections::Caller;
use crate::limits;
use pillion_base::threads::spawn_thread;

/// One call's work. It must not panic: that would cost a thread.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// The pool.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Signalled when a job was queued or has ended, and there is an idle thread for it.
    work: Condvar,
    bounds: Bounds,
}

#[derive(Clone, Copy)]
struct Bounds {
    /// Jobs of one caller, or of callers from one address, at once.
    running_max: usize,
    queue_max: usize,
    queued_bytes_max: usize,
}

impl Bounds {
    /// Shares beyond `running_max`, for callers who have few running: at another address, at the same one.
    fn extra(self) -> (usize, usize) {
        (self.running_max.div_ceil(2), self.running_max.div_ceil(4))
    }

    fn threads_max(self) -> usize {
        self.running_max + self.extra().0
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    running: Vec<Caller>,
    n_threads: usize,
    n_idle: usize,
    /// Threads that have not run yet.
    n_starting: usize,
}

struct Queued {
    caller: Caller,
    bytes: usize,
    job: Job,
}

impl Pool {
    /// A pool without threads yet. `running_max`: jobs at once; half as many more may run of those whose own are few.
    pub(crate) fn new(running_max: usize, queue_max: usize, queued_bytes_max: usize) -> Self {
        let bounds = Bounds { running_max: running_max.max(1), queue_max, queued_bytes_max };
        Pool(Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), bounds }))
    }

    /// Queues a job for the next thread that is free, and starts one while there may be one more. `bytes`: what it holds
    /// while it waits. When there is no room, the newest job of whoever has most in the queue is dropped; that may be
    /// this one.
    pub(crate) fn submit(&self, caller: Caller, bytes: usize, job: Job) {
        let mut state = self.0.lock();
        state.queue.push_back(Queued { caller, bytes, job });
        if state.n_idle > 0 {
            self.0.work.notify_one();
        }
        if state.needs_thread(self.0.bounds) {
            self.start_thread(&mut state);
        }
        let dropped = self.0.make_room(&mut state);
        drop(state);
        // What a job does when it is dropped must not happen under the lock.
        drop(dropped);
    }

    fn start_thread(&self, state: &mut State) {
        let shared = Arc::clone(&self.0);
        let name = format!("call-{}", state.n_threads);
        match spawn_thread(&name, Some(limits::CALL_STACK_BYTES), move || shared.run()) {
            Ok(_) => {
                state.n_threads += 1;
                state.n_starting += 1;
            }
            Err(err) => {
                log::error!(err = err.to_string(); "cannot start another thread for calls; queued calls wait for the others");
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a thread: one job after the other, until the process ends.
    fn run(&self) {
        let mut state = self.lock();
        state.n_starting -= 1;
        loop {
            let next = state.next(&state.running, &[], self.bounds);
            let Some(queued) = next.and_then(|idx| state.queue.remove(idx)) else {
                state.n_idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.n_idle -= 1;
                continue;
            };
            state.running.push(queued.caller);
            drop(state);
            (queued.job)();
            state = self.lock();
            if let Some(idx) = state.running.iter().position(|caller| *caller == queued.caller) {
                state.running.swap_remove(idx);
            }
            // The end of this job may let more than one run: this thread takes one, and an idle one the other.
            if state.n_idle > 0 && state.queue.len() > 1 {
                self.work.notify_one();
            }
        }
    }

    /// Takes jobs out of the queue until it is within its bounds.
    fn make_room(&self, state: &mut State) -> Vec<Queued> {
        let mut dropped = Vec::new();
        let bytes = |state: &State| state.queue.iter().map(|queued| queued.bytes).sum::<usize>();
        // Those that a thread is about to take do not wait.
        while state.queue.len() > self.bounds.queue_max + state.n_coming() {
            let Some(idx) = state.heaviest(|_| 1) else { break };
            dropped.extend(state.queue.remove(idx));
        }
        while bytes(state) > self.bounds.queued_bytes_max {
            let Some(idx) = state.heaviest(|queued| queued.bytes) else { break };
            dropped.extend(state.queue.remove(idx));
        }
        dropped
    }
}

impl State {
    /// Threads that are about to take a job, or find that there is none for them.
    fn n_coming(&self) -> usize {
        self.n_idle + self.n_starting
    }

    /// Whether there is a job for one more thread. Those that were woken or started a moment ago have yet to take theirs.
    fn needs_thread(&self, bounds: Bounds) -> bool {
        if self.queue.len() <= self.n_coming() || self.n_threads >= bounds.threads_max() {
            return false;
        }
        let (mut running, mut taken) = (self.running.clone(), Vec::new());
        for _ in 0..self.n_coming() {
            let Some((idx, queued)) =
                self.next(&running, &taken, bounds).and_then(|idx| Some((idx, self.queue.get(idx)?)))
            else {
                return false;
            };
            running.push(queued.caller);
            taken.push(idx);
        }
        self.next(&running, &taken, bounds).is_some()
    }

    /// The next job that may run beside those of `running`, `taken` ones aside: of the callers with the fewest running ones,
    /// by address and then by connection, the one that came first.
    ///
    /// Whoever has few running may go beyond what all share, a neighbour at the same address a little, another address
    /// more: so nobody is kept out by one who has taken all.
    fn next(&self, running: &[Caller], taken: &[usize], bounds: Bounds) -> Option<usize> {
        let (mut of_network, mut of_connection) = (HashMap::new(), HashMap::new());
        for caller in running {
            *of_network.entry(caller.network).or_insert(0) += 1;
            *of_connection.entry(*caller).or_insert(0) += 1;
        }
        let (share, n) = (bounds.running_max, running.len());
        let (half, quarter) = bounds.extra();
        let counted = self.queue.iter().enumerate().filter(|(idx, _)| !taken.contains(idx)).map(|(idx, queued)| {
            let of_network = of_network.get(&queued.caller.network).copied().unwrap_or(0);
            (of_network, of_connection.get(&queued.caller).copied().unwrap_or(0), idx)
        });
        let may_run = |(of_network, of_connection, _): &(usize, usize, usize)| {
            n < share || (*of_connection < quarter && n < share + quarter) || (*of_network < half && n < share + half)
        };
        counted.filter(may_run).min().map(|(_, _, idx)| idx)
    }

    /// The newest job of the connection that holds most, of the address that holds most.
    fn heaviest(&self, weight: impl Fn(&Queued) -> usize) -> Option<usize> {
        let (mut of_network, mut of_connection) = (HashMap::new(), HashMap::new());
        for queued in &self.queue {
            *of_network.entry(queued.caller.network).or_insert(0) += weight(queued);
            *of_connection.entry(queued.caller).or_insert(0) += weight(queued);
        }
        let held = |(idx, queued): &(usize, &Queued)| {
            let caller = &queued.caller;
            (of_network.get(&caller.network).copied(), of_connection.get(caller).copied(), *idx)
        };
        self.queue.iter().enumerate().max_by_key(held).map(|(idx, _)| idx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
    use std::net::IpAddr;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(20);

    struct Rig {
        pool: Pool,
        began: (Sender<u32>, Receiver<u32>),
        dropped: (Sender<u32>, Receiver<u32>),
        gate: (Option<Sender<()>>, Receiver<()>),
    }

    /// Tells when it is dropped without having run.
    struct Told(Option<(u32, Sender<u32>)>);

    impl Told {
        fn ran(&mut self) {
            self.0 = None;
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            if let Some((number, dropped)) = self.0.take() {
                let _ = dropped.send(number);
            }
        }
    }

    impl Rig {
        fn new(running_max: usize, queue_max: usize, queued_bytes_max: usize) -> Self {
            let (sender, gate) = bounded(0);
            let pool = Pool::new(running_max, queue_max, queued_bytes_max);
            Rig { pool, began: unbounded(), dropped: unbounded(), gate: (Some(sender), gate) }
        }

        /// A job that says its number when it begins and waits at the gate.
        fn submit(&self, number: u32, network: u8, connection: u64, bytes: usize) {
            let caller = Caller { connection, network: IpAddr::from([10, 0, 0, network]) };
            let (began, gate) = (self.began.0.clone(), self.gate.1.clone());
            let mut told = Told(Some((number, self.dropped.0.clone())));
            let job = move || {
                told.ran();
                let _ = began.send(number);
                let _ = gate.recv();
            };
            self.pool.submit(caller, bytes, Box::new(job));
        }

        fn begins(&self, n: usize) -> Vec<u32> {
            let mut numbers: Vec<_> = (0..n).map(|_| self.began.1.recv_timeout(PATIENCE).unwrap()).collect();
            numbers.sort_unstable();
            numbers
        }

        fn release_all(&mut self) {
            self.gate.0 = None;
        }
    }

    #[test]
    fn jobs_run_side_by_side_up_to_the_bounds() {
        let mut rig = Rig::new(2, 3, 100);
        (0..6).for_each(|number| rig.submit(number, 1, 1, 1));
        assert_eq!(rig.begins(2), [0, 1]);
        // Two run; three wait; the sixth, which is the newest of who has most, was turned away.
        assert_eq!(rig.dropped.1.try_iter().collect::<Vec<_>>(), [5]);
        assert!(rig.began.1.is_empty());
        rig.release_all();
        assert_eq!(rig.begins(3), [2, 3, 4]);
    }

    #[test]
    fn who_holds_all_threads_keeps_no_other_out() {
        let mut rig = Rig::new(4, 100, 100);
        (0..10).for_each(|number| rig.submit(number, 1, 1, 1));
        assert_eq!(rig.begins(4), [0, 1, 2, 3]);
        // A neighbour has a quarter, another address half, and no more.
        (20..24).for_each(|number| rig.submit(number, 1, 2, 1));
        assert_eq!(rig.begins(1), [20]);
        (30..34).for_each(|number| rig.submit(number, 2, 3, 1));
        assert_eq!(rig.begins(1), [30]);
        assert!(rig.began.1.is_empty());
        rig.release_all();
        rig.begins(18 - 6);
    }

    #[test]
    fn the_fewest_running_come_first() {
        let rig = Rig::new(2, 100, 100);
        (0..2).for_each(|number| rig.submit(number, 1, 1, 1));
        rig.begins(2);
        // One more may run for another address.
        rig.submit(10, 2, 2, 1);
        assert_eq!(rig.begins(1), [10]);
        (2..5).for_each(|number| rig.submit(number, 1, 1, 1));
        rig.submit(20, 3, 3, 1);
        let gate = rig.gate.0.as_ref().unwrap();
        gate.send_timeout((), PATIENCE).unwrap();
        assert_eq!(rig.begins(1), [20], "an address that has nothing running goes before those that came earlier");
    }

    #[test]
    fn a_full_queue_costs_whoever_fills_it() {
        let rig = Rig::new(1, 4, 100);
        (0..5).for_each(|number| rig.submit(number, 1, 1, 1));
        rig.begins(1);
        rig.submit(10, 1, 2, 1);
        rig.submit(20, 1, 2, 1);
        let dropped: Vec<_> = rig.dropped.1.try_iter().collect();
        // Jobs 10 and 20 came from a connection with less; one of them may run beside the first.
        assert!(!dropped.is_empty() && dropped.iter().all(|number| *number < 5), "{dropped:?}");
    }

    #[test]
    fn bytes_that_wait_are_bounded() {
        let rig = Rig::new(1, 100, 100);
        rig.submit(0, 1, 1, 90);
        rig.begins(1);
        rig.submit(1, 1, 1, 60);
        rig.submit(2, 1, 1, 30);
        rig.submit(3, 1, 1, 20);
        assert_eq!(rig.dropped.1.try_iter().collect::<Vec<_>>(), [3]);
    }
}
