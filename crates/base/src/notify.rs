//! A notifier on which any number of threads wait, until a change, a timeout or the stop. It says that something changed,
//! never what.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::error::Result;
use crate::stop::Stop;

/// Tells any number of waiting threads that something has changed.
pub struct Notify(Mutex<(Sender<()>, Receiver<()>)>);

/// Waits for a change that comes after [`Notify::watch`] returned this.
pub struct Notified(Receiver<()>);

impl Default for Notify {
    fn default() -> Self {
        // Nothing is ever sent: the sender is dropped, which every receiver notices.
        Notify(Mutex::new(bounded(0)))
    }
}

impl Notify {
    /// Returns what to wait on. Take it before you read the value that may change, so that no change is missed.
    pub fn watch(&self) -> Notified {
        Notified(self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone())
    }

    /// Wakes all waiting threads.
    pub fn notify_all(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bounded(0);
    }
}

impl Notified {
    /// Waits until a change, or until `time` has passed. `Blocks:` up to `time`. `Errors:` `Stopped`.
    pub fn wait(&self, time: Duration, stop: &Stop) -> Result<()> {
        select! {
            recv(self.0) -> _ => {}
            recv(stop.channel()) -> _ => {}
            default(time) => {}
        }
        stop.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stop::stop_pair;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_change_ends_the_wait_and_only_waits_that_began_before_it() {
        let (stopper, stop) = stop_pair().unwrap();
        let changes = Notify::default();
        let before = changes.watch();
        changes.notify_all();
        before.wait(LONG, &stop).unwrap();
        let after = changes.watch();
        after.wait(Duration::ZERO, &stop).unwrap();
        stopper.stop();
        after.wait(LONG, &stop).unwrap_err();
    }
}
