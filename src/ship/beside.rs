//! Work on a thread of its own while this one looks after something else: a block on a slow link takes hours, in which
//! new blocks must still be claimed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

/// Runs `work` on a thread, and `tend` on this one whenever `every` has passed. What `work` returns; a panic in it is
/// passed on. Where no thread can be started, `work` runs here and nothing is tended. `Blocks:` until `work` is done.
pub fn beside<T: Send>(work: impl FnOnce() -> T + Send, every: Duration, mut tend: impl FnMut()) -> T {
    let work = Mutex::new(Some(work));
    let run = || work.lock().unwrap_or_else(PoisonError::into_inner).take();
    std::thread::scope(|scope| {
        let (sender, done) = bounded(1);
        let spawned = std::thread::Builder::new().name("ship-up-0".to_owned()).spawn_scoped(scope, || {
            if let Some(work) = run() {
                let _ = sender.send(work());
            }
            drop(sender);
        });
        let thread = match spawned {
            Ok(thread) => thread,
            Err(err) => {
                log::warn!(err = err.to_string(); "uploading without a thread of its own");
                return run().expect("a thread that did not start has taken nothing")();
            }
        };
        loop {
            match done.recv_timeout(every) {
                Ok(value) => return value,
                Err(RecvTimeoutError::Timeout) => tend(),
                Err(RecvTimeoutError::Disconnected) => match thread.join() {
                    Err(panic) => std::panic::resume_unwind(panic),
                    Ok(()) => unreachable!("a thread that ends has sent what it made"),
                },
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_things_are_tended_while_the_work_is_done() {
        let (tended, wait) = bounded::<()>(8);
        let mut n_tended = 0;
        let work = move || wait.iter().take(3).count();
        let n_seen = beside(work, Duration::from_millis(1), || {
            n_tended += 1;
            let _ = tended.try_send(());
        });
        assert_eq!(n_seen, 3);
        assert!(n_tended >= 3);
    }

    #[test]
    fn a_panic_in_the_work_is_not_swallowed() {
        let caught = std::panic::catch_unwind(|| beside(|| panic!("on purpose"), Duration::from_secs(60), || ()));
        let panic = caught.unwrap_err();
        assert_eq!(crate::supervisor::panic_text(&*panic), "on purpose");
    }
}
