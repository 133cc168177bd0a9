//! The one thread that checks passwords, so that the thread that serves probes never does. Takes one password at a time;
//! who waits, and in which order, is not decided here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use pillion_base::error::Result;
use pillion_base::limits::SMALL_STACK_BYTES;
use pillion_base::threads::spawn_thread;
use pillion_base::wake::Wake;
use zeroize::Zeroizing;

/// What a request's credentials are known as.
pub(super) type Digest = [u8; 32];

/// Whether a password has a hash. Takes its time.
pub(crate) type Check = Arc<dyn Fn(&str, &[u8]) -> bool + Send + Sync>;

/// A password to check.
pub(super) struct Task {
    pub digest: Digest,
    pub hash: String,
    pub password: Zeroizing<Vec<u8>>,
}

/// The thread, which ends when this is dropped and it is done with the password in hand.
pub(super) struct Worker {
    tasks: Sender<Task>,
    results: Receiver<(Digest, bool)>,
}

impl Worker {
    /// Starts the thread. Each result wakes `wake`.
    pub(super) fn start(check: Check, wake: Arc<Wake>) -> Result<Self> {
        let (tasks, todo) = bounded::<Task>(1);
        let (done, results) = bounded(2);
        // Nobody joins it: it holds nothing, and the end of the process need not wait for a password.
        spawn_thread("http-auth", Some(SMALL_STACK_BYTES), move || {
            for task in todo {
                // A fault in the check is a wrong password, and no end of all checks.
                let is_right = catch_unwind(AssertUnwindSafe(|| check(&task.hash, &task.password))).unwrap_or(false);
                if done.send((task.digest, is_right)).is_err() {
                    return;
                }
                wake.wake();
            }
        })?;
        Ok(Worker { tasks, results })
    }

    /// Hands a task over, unless the thread is gone.
    pub(super) fn give(&self, task: Task) -> bool {
        match self.tasks.try_send(task) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// A result, if there is one.
    pub(super) fn result(&self) -> Option<(Digest, bool)> {
        self.results.try_recv().ok()
    }
}

/// bcrypt, of a hash that was looked at when it was read.
pub(super) fn bcrypt_check() -> Check {
    Arc::new(|hash, password| bcrypt::verify(password, hash).unwrap_or(false))
}
