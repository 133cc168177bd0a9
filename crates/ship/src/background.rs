//! Runs work on a thread of its own while the calling thread does something else. The upload of a block over a slow
//! link takes hours, and new blocks must be claimed meanwhile. Never leaves a thread behind.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use crate::LOG_TARGET;

/// Runs `work` on a thread, and `meanwhile` on this one whenever `every` has passed. Returns what `work` returns, and
/// passes on its panic. If no thread can be started, `work` runs here without `meanwhile`. `Blocks:` until `work` is
/// done.
pub(crate) fn run_in_background<T: Send>(
    work: impl FnOnce() -> T + Send,
    every: Duration,
    mut meanwhile: impl FnMut(),
) -> T {
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
                log::warn!(target: LOG_TARGET, err = err.to_string(); "uploading without a thread of its own");
                return run().expect("a thread that did not start has taken nothing")();
            }
        };
        loop {
            match done.recv_timeout(every) {
                Ok(value) => return value,
                Err(RecvTimeoutError::Timeout) => meanwhile(),
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
    fn other_things_are_done_meanwhile() {
        let (called, wait) = bounded::<()>(8);
        let mut n_calls = 0;
        let work = move || wait.iter().take(3).count();
        let n_seen = run_in_background(work, Duration::from_millis(1), || {
            n_calls += 1;
            let _ = called.try_send(());
        });
        assert_eq!(n_seen, 3);
        assert!(n_calls >= 3);
    }

    #[test]
    fn a_panic_in_the_work_is_not_swallowed() {
        let caught =
            std::panic::catch_unwind(|| run_in_background(|| panic!("on purpose"), Duration::from_secs(60), || ()));
        let panic = caught.unwrap_err();
        assert_eq!(pillion_base::threads::panic_text(&*panic), "on purpose");
    }
}
