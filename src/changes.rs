//! Waiting that ends early: at the stop, or when somebody changes what is waited for. Tells that something changed, never
//! what.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::error::Result;
use crate::supervisor::Stop;

/// Tells any number of waiting threads that something has changed.
pub struct Changes(Mutex<(Sender<()>, Receiver<()>)>);

/// One look at [`Changes`]; it notices every change after it was taken.
pub struct Noticed(Receiver<()>);

impl Default for Changes {
    fn default() -> Self {
        // Nothing is ever sent: the sender is dropped, which every receiver notices.
        Changes(Mutex::new(bounded(0)))
    }
}

impl Changes {
    /// What to wait on. Take it before looking at the value that may change, so that no change falls in between.
    pub fn watch(&self) -> Noticed {
        Noticed(self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone())
    }

    /// Wakes all who wait.
    pub fn tell(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bounded(0);
    }
}

impl Noticed {
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
    use crate::supervisor::stop_pair;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_change_ends_the_wait_and_only_waits_that_began_before_it() {
        let (stopper, stop) = stop_pair().unwrap();
        let changes = Changes::default();
        let before = changes.watch();
        changes.tell();
        before.wait(LONG, &stop).unwrap();
        let after = changes.watch();
        after.wait(Duration::ZERO, &stop).unwrap();
        stopper.stop();
        after.wait(LONG, &stop).unwrap_err();
    }
}
