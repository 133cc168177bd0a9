//! Named threads, one stop token, one event channel, the order of the stop and its deadline.
//!
//! Every thread of the daemon is spawned here (the gRPC library's own excepted).

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, unbounded};

use crate::error::{Context, Error, Kind, Result};
use crate::limits;

/// Tells a part to end. Cheap to clone; every wait of a part goes through it.
#[derive(Clone)]
pub struct Stop {
    /// Never carries a message: its sender is dropped when the stop begins.
    channel: Receiver<()>,
    /// Becomes readable (end of file) when the stop begins, for threads that wait in poll(2).
    pipe: Arc<OwnedFd>,
}

/// Begins the stop; dropping it begins the stop too.
pub struct Stopper(Mutex<Option<(Sender<()>, OwnedFd)>>);

/// A stop token and what triggers it.
///
/// `Errors:` when the process has no descriptors left.
pub fn stop_pair() -> Result<(Stopper, Stop)> {
    let (sender, channel) = bounded(0);
    let (pipe, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(std::io::Error::from)
        .context(|| "create the stop pipe")?;
    Ok((Stopper(Mutex::new(Some((sender, writer)))), Stop { channel, pipe: Arc::new(pipe) }))
}

impl Stopper {
    /// Begins the stop. Harmless when repeated.
    pub fn stop(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Stop {
    /// Whether the stop has begun.
    pub fn is_stopped(&self) -> bool {
        self.channel.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Waits until the stop begins or `time` has passed; true when it began. `Blocks:` up to `time`.
    pub fn wait(&self, time: Duration) -> bool {
        self.channel.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }

    /// Waits until the stop begins.
    pub fn wait_forever(&self) {
        // Nothing is ever sent, so this ends with the sender.
        let _ = self.channel.recv();
    }

    /// `Err(Stopped)` once the stop has begun: for loops that should give up between two steps.
    pub fn check(&self) -> Result<()> {
        if self.is_stopped() { Err(Error::new(Kind::Stopped, "stopping")) } else { Ok(()) }
    }

    /// For `crossbeam_channel::select!`: this receiver ends when the stop begins.
    pub fn channel(&self) -> &Receiver<()> {
        &self.channel
    }

    /// For poll(2): readable once the stop has begun.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// What main hears.
pub enum Event {
    /// The named part ended, with its result; a panic is an error here.
    Ended(&'static str, Result<()>),
    /// A signal arrived.
    Signal(i32),
}

/// Spawns the parts and ends them.
pub struct Supervisor {
    stopper: Stopper,
    stop: Stop,
    sender: Sender<Event>,
    events: Receiver<Event>,
    parts: Vec<(&'static str, JoinHandle<()>)>,
}

impl Supervisor {
    /// A supervisor without parts.
    pub fn new() -> Result<Self> {
        let (stopper, stop) = stop_pair()?;
        // Unbounded is safe: one message per part and per signal.
        let (sender, events) = unbounded();
        Ok(Supervisor { stopper, stop, sender, events, parts: Vec::new() })
    }

    /// The token that all parts share.
    pub fn stop_token(&self) -> Stop {
        self.stop.clone()
    }

    /// Where parts and the signal thread report.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// For the signal thread.
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Runs a part on a thread of its own. Its end, by return or by panic, becomes an event.
    pub fn spawn(&mut self, name: &'static str, part: impl FnOnce(Stop) -> Result<()> + Send + 'static) -> Result<()> {
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
    pub fn begin_stop(&self) {
        self.stopper.stop();
    }

    /// Begins the stop and waits for every part until `deadline` or a second signal; the names of those that still run.
    pub fn join(mut self, deadline: Instant) -> Vec<&'static str> {
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
pub fn is_ending(signal: i32) -> bool {
    matches!(signal, signal_hook::consts::SIGTERM | signal_hook::consts::SIGINT)
}

/// Spawns a named thread; with `stack_bytes` a small one. For parts use [`Supervisor::spawn`].
#[allow(clippy::disallowed_methods)]
pub fn spawn_thread<T: Send + 'static>(
    name: &str,
    stack_bytes: Option<usize>,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let mut builder = std::thread::Builder::new().name(name.to_owned());
    if let Some(bytes) = stack_bytes {
        builder = builder.stack_size(bytes);
    }
    builder.spawn(body).context(|| format!("start thread {name}"))
}

/// Turns SIGTERM, SIGINT and SIGHUP into events, for the life of the process.
pub fn spawn_signals(sender: Sender<Event>) -> Result<()> {
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

/// The text of a panic's payload.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;

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
