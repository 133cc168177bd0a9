//! A bounded pool of threads for calls, fed by a bounded queue. Threads start when they are first needed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::limits;
use pillion_base::threads::spawn_thread;

/// One call's work. It must not panic: that would cost a thread.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// The pool. Its threads end after the last job once it is dropped.
#[derive(Clone)]
pub(crate) struct Pool {
    sender: Sender<Job>,
    receiver: Receiver<Job>,
    counts: Arc<Counts>,
    threads_max: usize,
}

#[derive(Default)]
struct Counts {
    threads: AtomicUsize,
    idle: AtomicUsize,
}

impl Pool {
    /// A pool without threads yet.
    pub(crate) fn new(threads_max: usize, queue_max: usize) -> Self {
        let (sender, receiver) = bounded(queue_max);
        Pool { sender, receiver, counts: Arc::default(), threads_max }
    }

    /// Hands a job to a new thread while there may be one more, and queues it otherwise; false, with the job dropped, when
    /// the queue is full. A job for a thread that is about to start takes no place in the queue.
    pub(crate) fn submit(&self, job: Job) -> bool {
        let has_idle = self.counts.idle.load(Ordering::SeqCst) > self.receiver.len();
        let job = if has_idle { Some(job) } else { self.start_thread(job) };
        job.is_none_or(|job| self.sender.try_send(job).is_ok())
    }

    /// Starts a thread with its first job; gives the job back when there are enough threads or none can be started.
    fn start_thread(&self, job: Job) -> Option<Job> {
        let number = self.counts.threads.fetch_add(1, Ordering::SeqCst);
        if number >= self.threads_max {
            self.counts.threads.fetch_sub(1, Ordering::SeqCst);
            return Some(job);
        }
        let (receiver, counts) = (self.receiver.clone(), Arc::clone(&self.counts));
        let first = Arc::new(Mutex::new(Some(job)));
        let taken = Arc::clone(&first);
        let spawned = spawn_thread(&format!("call-{number}"), Some(limits::CALL_STACK_BYTES), move || {
            let first = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(job) = first {
                job();
            }
            loop {
                counts.idle.fetch_add(1, Ordering::SeqCst);
                let job = receiver.recv();
                counts.idle.fetch_sub(1, Ordering::SeqCst);
                let Ok(job) = job else { return };
                job();
            }
        });
        let err = spawned.err()?;
        self.counts.threads.fetch_sub(1, Ordering::SeqCst);
        log::error!(err = err.to_string(); "cannot start another thread for calls; queued calls wait for the others");
        first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_side_by_side_up_to_the_bounds() {
        let pool = Pool::new(2, 3);
        let (started, starts) = bounded(10);
        let (release, gate) = bounded::<()>(0);
        let submit = || {
            let (started, gate) = (started.clone(), gate.clone());
            pool.submit(Box::new(move || {
                started.send(()).unwrap();
                let _ = gate.recv();
            }))
        };
        assert!(submit());
        starts.recv().unwrap();
        assert!(submit());
        starts.recv().unwrap();
        // Two run; three wait; the sixth is turned away.
        assert!(submit() && submit() && submit());
        assert!(!submit());
        drop(release);
        for _ in 0..3 {
            starts.recv().unwrap();
        }
    }
}
