//! A bounded pool of threads for calls, shared fairly among those who call: what one caller waits for, or floods with,
//! keeps no other out. What is bounded is work: a job that waits steps out, and another may run meanwhile.
//! Threads start when they are first needed, and end when they are not needed any more.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntGauge;

use crate::grpc::connections::Caller;
use crate::limits;
use crate::metrics::CallGauges;
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
    gauges: CallGauges,
    /// Called now and then after jobs, by a thread that has nothing else to do.
    tidy_up: fn(),
}

#[derive(Clone, Copy)]
struct Bounds {
    /// Jobs of one caller, or of callers from one address, at work at once.
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
        self.running_max + self.extra().0 + limits::WAITING_CALLS_MAX
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    /// Who has jobs at work.
    running: Vec<Caller>,
    n_threads: usize,
    n_idle: usize,
    /// Threads that have not run yet.
    n_starting: usize,
    /// When `tidy_up` last ran, and whether a job has begun since then.
    tidied: Option<Instant>,
    is_untidy: bool,
}

struct Queued {
    caller: Caller,
    bytes: usize,
    job: Job,
}

impl Pool {
    /// A pool without threads yet. `running_max`: jobs at work at once; half as many more may run of those whose own are
    /// few.
    pub(crate) fn new(
        running_max: usize,
        queue_max: usize,
        queued_bytes_max: usize,
        gauges: CallGauges,
        tidy_up: fn(),
    ) -> Self {
        let bounds = Bounds { running_max: running_max.max(1), queue_max, queued_bytes_max };
        Pool(Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), bounds, gauges, tidy_up }))
    }

    /// Queues a job for the next thread that is free, and starts one while there may be one more. `bytes`: what it holds
    /// while it waits. When there is no room, the newest job of whoever has most in the queue is dropped; that may be
    /// this one.
    pub(crate) fn submit(&self, caller: Caller, bytes: usize, job: Job) {
        let mut state = self.0.lock();
        state.queue.push_back(Queued { caller, bytes, job });
        self.call_a_thread(&mut state);
        let dropped = self.0.make_room(&mut state);
        self.0.gauges.queued.set(to_i64(state.queue.len()));
        drop(state);
        // What a job does when it is dropped must not happen under the lock.
        drop(dropped);
    }

    /// The job of this thread waits until what is returned is dropped, and is counted in `gauge`: others may begin meanwhile.
    /// Then it goes on at once, beyond what may be at work if need be: it holds what others wait for.
    pub(crate) fn step_out(&self, caller: Caller, gauge: impl Fn(&CallGauges) -> &IntGauge) -> Outside<'_> {
        let mut state = self.0.lock();
        self.0.ends(&mut state, caller);
        self.call_a_thread(&mut state);
        drop(state);
        self.outside(Some(caller), gauge)
    }

    /// As `step_out`, but nobody may begin in its place.
    pub(crate) fn stay(&self, gauge: impl Fn(&CallGauges) -> &IntGauge) -> Outside<'_> {
        self.0.gauges.working.dec();
        self.outside(None, gauge)
    }

    fn outside(&self, caller: Option<Caller>, gauge: impl Fn(&CallGauges) -> &IntGauge) -> Outside<'_> {
        let gauge = gauge(&self.0.gauges).clone();
        gauge.inc();
        Outside { pool: self, caller, gauge }
    }

    /// Wakes a thread for a job in the queue, or starts one.
    fn call_a_thread(&self, state: &mut State) {
        if state.queue.is_empty() {
            return;
        }
        if state.n_idle > 0 {
            self.0.work.notify_one();
        }
        if state.needs_thread(self.0.bounds) {
            self.start_thread(state);
        }
    }

    fn start_thread(&self, state: &mut State) {
        let pool = self.clone();
        let name = format!("call-{}", state.n_threads);
        match spawn_thread(&name, Some(limits::CALL_STACK_BYTES), move || pool.run()) {
            Ok(_) => {
                state.n_threads += 1;
                state.n_starting += 1;
            }
            Err(err) => {
                log::error!(err = err.to_string(); "cannot start another thread for calls; queued calls wait for the others");
            }
        }
    }

    /// The life of a thread: one job after the other, until it has had nothing to do for a while.
    fn run(&self) {
        let shared = &*self.0;
        let mut state = shared.lock();
        state.n_starting -= 1;
        loop {
            let next = state.next(&state.running, &[], shared.bounds);
            let Some(queued) = next.and_then(|idx| state.queue.remove(idx)) else {
                state.n_idle += 1;
                // The last ones sleep until there is work: an idle daemon does not wake up for nothing.
                let stays = !state.is_untidy && state.n_threads <= limits::CALL_THREADS_KEPT;
                let time = if stays { Duration::MAX } else { limits::CALL_THREAD_IDLE };
                let (again, timeout) = shared.work.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner);
                state = again;
                state.n_idle -= 1;
                if timeout.timed_out() && state.queue.is_empty() {
                    if state.is_untidy && state.running.is_empty() {
                        state = self.tidy_up(state);
                        continue;
                    }
                    // A thread that is there already answers sooner.
                    if state.n_threads > limits::CALL_THREADS_KEPT {
                        state.n_threads -= 1;
                        return;
                    }
                }
                continue;
            };
            shared.begins(&mut state, queued.caller);
            shared.gauges.queued.set(to_i64(state.queue.len()));
            state.is_untidy = true;
            drop(state);
            let begun = Instant::now();
            (queued.job)();
            let was_long = begun.elapsed() > limits::TIDY_AFTER;
            state = shared.lock();
            shared.ends(&mut state, queued.caller);
            // The end of this job may let more than one run: this thread takes one, and an idle one the other.
            if state.n_idle > 0 && state.queue.len() > 1 {
                shared.work.notify_one();
            }
            // The next large answer does not find the leavings of this one in its way, so that answers after each other take no
            // more than one.
            let is_alone = was_long && state.running.is_empty();
            if state.queue.is_empty() && (is_alone || state.tidied.is_none_or(|at| at.elapsed() > limits::TIDY_EVERY)) {
                state = self.tidy_up(state);
            }
        }
    }

    fn tidy_up<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.is_untidy = false;
        state.tidied = Some(Instant::now());
        drop(state);
        (self.0.tidy_up)();
        self.0.lock()
    }
}

/// A job that waits; it goes on when this is dropped.
pub(crate) struct Outside<'a> {
    pool: &'a Pool,
    /// Whose share of the work others may have meanwhile.
    caller: Option<Caller>,
    gauge: IntGauge,
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        let shared = &self.pool.0;
        match self.caller {
            Some(caller) => shared.begins(&mut shared.lock(), caller),
            None => shared.gauges.working.inc(),
        }
        self.gauge.dec();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begins(&self, state: &mut State, caller: Caller) {
        state.running.push(caller);
        self.gauges.working.inc();
    }

    /// A job of `caller` has ended, or waits.
    fn ends(&self, state: &mut State, caller: Caller) {
        if let Some(idx) = state.running.iter().position(|running| *running == caller) {
            state.running.swap_remove(idx);
            self.gauges.working.dec();
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
        let shares = Shares::of(running);
        let waiting = self.queue.iter().enumerate().filter(|(idx, _)| !taken.contains(idx));
        let may_run = waiting.filter(|(_, queued)| shares.may_run(&queued.caller, bounds));
        may_run.map(|(idx, queued)| (shares.held(&queued.caller), idx)).min().map(|(_, idx)| idx)
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

/// What callers have running.
struct Shares<'a> {
    running: &'a [Caller],
}

impl<'a> Shares<'a> {
    fn of(running: &'a [Caller]) -> Self {
        Shares { running }
    }

    /// Jobs of the caller's address, and of the caller. There are few, so they are counted.
    fn held(&self, caller: &Caller) -> (usize, usize) {
        let of_network = self.running.iter().filter(|running| running.network == caller.network).count();
        (of_network, self.running.iter().filter(|running| *running == caller).count())
    }

    fn may_run(&self, caller: &Caller, bounds: Bounds) -> bool {
        let (share, n) = (bounds.running_max, self.running.len());
        if n < share {
            return true;
        }
        let (half, quarter) = bounds.extra();
        let (of_network, of_connection) = self.held(caller);
        (of_connection < quarter && n < share + quarter) || (of_network < half && n < share + half)
    }
}

fn to_i64(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
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
            let gauges = crate::metrics::Metrics::new().grpc.calls;
            let pool = Pool::new(running_max, queue_max, queued_bytes_max, gauges, || ());
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
    fn a_long_job_that_was_alone_is_tidied_up_after_at_once() {
        static TIDIED: (Mutex<u32>, Condvar) = (Mutex::new(0), Condvar::new());
        let tidy_up = || {
            *TIDIED.0.lock().unwrap() += 1;
            TIDIED.1.notify_all();
        };
        let tidied = |n: u32| {
            let count = TIDIED.0.lock().unwrap();
            let (count, timeout) = TIDIED.1.wait_timeout_while(count, PATIENCE, |count| *count < n).unwrap();
            assert!(!timeout.timed_out(), "{count} of {n}");
        };
        let pool = Pool::new(1, 10, 100, crate::metrics::Metrics::new().grpc.calls, tidy_up);
        let caller = Caller { connection: 1, network: IpAddr::from([10, 0, 0, 1]) };
        // More than the look that comes with the first job, and sooner than the next of those.
        for n in 1..=3 {
            let begun = Instant::now();
            let job = move || while begun.elapsed() <= 2 * limits::TIDY_AFTER {};
            pool.submit(caller, 1, Box::new(job));
            tidied(n);
        }
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

    #[test]
    fn a_job_that_waits_for_its_client_lets_another_work() {
        let rig = Rig::new(1, 100, 100);
        let caller = Caller { connection: 1, network: IpAddr::from([10, 0, 0, 1]) };
        // Each steps out as soon as it runs, so all of them get that far on one share.
        let (go_on, wait) = unbounded::<()>();
        for number in 0..20 {
            let (pool, began, wait) = (rig.pool.clone(), rig.began.0.clone(), wait.clone());
            let job = move || {
                let outside = pool.step_out(caller, |gauges| &gauges.waiting_for_client);
                let _ = began.send(number);
                let _ = wait.recv();
                drop(outside);
                let _ = began.send(100 + number);
            };
            rig.pool.submit(caller, 1, Box::new(job));
        }
        assert_eq!(rig.begins(20), (0..20).collect::<Vec<_>>());
        assert_eq!(rig.pool.0.gauges.waiting_for_client.get(), 20);
        drop(go_on);
        assert_eq!(rig.begins(20), (100..120).collect::<Vec<_>>());
    }

    #[test]
    fn threads_end_when_there_is_nothing_to_do() {
        let mut rig = Rig::new(8, 100, 100);
        (0..8).for_each(|number| rig.submit(number, 1, 1, 1));
        rig.begins(8);
        rig.release_all();
        let deadline = Instant::now() + PATIENCE;
        while rig.pool.0.lock().n_threads > limits::CALL_THREADS_KEPT {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }
}
