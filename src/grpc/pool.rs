//! A bounded pool of threads for calls, fed by a bounded queue. Threads start when they are first needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::limits;
use crate::supervisor::spawn_thread;

/// One call's work. It must not panic: that would cost a thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// The pool. Its threads end after the last job once it is dropped.
#[derive(Clone)]
pub struct Pool {
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
    pub fn new(threads_max: usize, queue_max: usize) -> Self {
        let (sender, receiver) = bounded(queue_max);
        Pool { sender, receiver, counts: Arc::default(), threads_max }
    }

    /// Queues a job; false, with the job dropped, when the queue is full.
    pub fn submit(&self, job: Job) -> bool {
        match self.sender.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return false,
        }
        if self.counts.idle.load(Ordering::SeqCst) < self.receiver.len() {
            self.grow();
        }
        true
    }

    fn grow(&self) {
        let number = self.counts.threads.fetch_add(1, Ordering::SeqCst);
        if number >= self.threads_max {
            self.counts.threads.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let (receiver, counts) = (self.receiver.clone(), Arc::clone(&self.counts));
        let spawned = spawn_thread(&format!("call-{number}"), Some(limits::CALL_STACK_BYTES), move || {
            loop {
                counts.idle.fetch_add(1, Ordering::SeqCst);
                let job = receiver.recv();
                counts.idle.fetch_sub(1, Ordering::SeqCst);
                let Ok(job) = job else { return };
                job();
            }
        });
        if let Err(err) = spawned {
            self.counts.threads.fetch_sub(1, Ordering::SeqCst);
            log::error!(err = err.to_string(); "cannot start another thread for calls; queued calls wait for the others");
        }
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
