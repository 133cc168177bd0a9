//! The parts of the daemon: one thread each, one stop token, one event channel, the order of the stop and its deadline.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::limits;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_base::threads::{panic_text, spawn_thread};

/// What main hears.
pub(crate) enum Event {
    /// The named part ended, with its result; a panic is an error here.
    Ended(&'static str, Result<()>),
    /// A signal arrived.
    Signal(i32),
}

/// Spawns the parts and ends them.
pub(crate) struct Supervisor {
    stopper: Stopper,
    stop: Stop,
    sender: Sender<Event>,
    events: Receiver<Event>,
    parts: Vec<(&'static str, JoinHandle<()>)>,
}

impl Supervisor {
    /// A supervisor without parts.
    pub(crate) fn new() -> Result<Self> {
        let (stopper, stop) = stop_pair()?;
        // Unbounded is safe: one message per part and per signal.
        let (sender, events) = unbounded();
        Ok(Supervisor { stopper, stop, sender, events, parts: Vec::new() })
    }

    /// The token that all parts share.
    pub(crate) fn stop_token(&self) -> Stop {
        self.stop.clone()
    }

    /// Where parts and the signal thread report.
    pub(crate) fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// For the signal thread.
    pub(crate) fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Runs a part on a thread of its own. Its end, by return or by panic, becomes an event.
    pub(crate) fn spawn(
        &mut self,
        name: &'static str,
        part: impl FnOnce(Stop) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (stop, sender) = (self.stop_token(), self.sender.clone());
        let handle = spawn_thread(name, None, move || {
            let result = catch_unwind(AssertUnwindSafe(|| part(stop)))
                .unwrap_or_else(|panic| Err(Error::new(Kind::Permanent, format!("panic: {}", panic_text(&*panic)))));
            let _ = sender.send(Event::Ended(name, result));
        })?;
        self.parts.push((name, handle));
        Ok(())
    }

    /// Begins the stop for all parts at once.
    pub(crate) fn begin_stop(&self) {
        self.stopper.stop();
    }

    /// Begins the stop and waits for every part until `deadline` or a second signal; the names of those that still run.
    pub(crate) fn join(mut self, deadline: Instant) -> Vec<&'static str> {
        self.begin_stop();
        while self.parts.iter().any(|(_, handle)| !handle.is_finished()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // A part sends its event just before its thread ends, so a short wait bounds the gap between the two.
            match self.events.recv_timeout(left.min(Duration::from_millis(20))) {
                Ok(Event::Signal(signal)) if is_ending(signal) => break,
                Ok(Event::Ended(name, Err(err))) if err.kind() != Kind::Stopped => {
                    log::error!(part = name, err = err.to_string(); "part failed while stopping");
                }
                _ => {}
            }
        }
        let mut running = Vec::new();
        for (name, handle) in self.parts.drain(..) {
            if handle.is_finished() {
                let _ = handle.join();
            } else {
                running.push(name);
            }
        }
        running
    }
}

/// Whether a signal asks the daemon to end.
pub(crate) fn is_ending(signal: i32) -> bool {
    matches!(signal, signal_hook::consts::SIGTERM | signal_hook::consts::SIGINT)
}

/// Turns SIGTERM, SIGINT and SIGHUP into events, for the life of the process.
pub(crate) fn spawn_signals(sender: Sender<Event>) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals =
        signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]).context(|| "install signal handlers")?;
    spawn_thread("signals", Some(limits::SMALL_STACK_BYTES), move || {
        for signal in signals.forever() {
            if sender.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    #[test]
    fn a_waiting_part_ends_at_once_when_the_stop_begins() {
        let mut supervisor = Supervisor::new().unwrap();
        supervisor
            .spawn("sleeper", |stop| {
                assert!(stop.wait(Duration::from_secs(600)));
                stop.check().unwrap_err();
                Ok(())
            })
            .unwrap();
        let begun = Instant::now();
        assert!(supervisor.join(begun + Duration::from_secs(60)).is_empty());
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_panic_is_an_event_with_its_text() {
        let mut supervisor = Supervisor::new().unwrap();
        supervisor.spawn("faulty", |_| panic!("on purpose")).unwrap();
        match supervisor.events().recv().unwrap() {
            Event::Ended("faulty", Err(err)) => assert_eq!(err.to_string(), "panic: on purpose"),
            _ => panic!("no event"),
        }
    }

    #[test]
    fn a_part_that_does_not_end_is_named() {
        let mut supervisor = Supervisor::new().unwrap();
        let (release, blocked) = bounded::<()>(0);
        supervisor
            .spawn("stuck", move |_| {
                let _ = blocked.recv();
                Ok(())
            })
            .unwrap();
        assert_eq!(supervisor.join(Instant::now()), ["stuck"]);
        drop(release);
    }
}
