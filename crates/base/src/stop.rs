//! The stop token: wait on it, select on it, poll it. It says that the end has begun, never why.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use crate::error::{Context, Error, Kind, Result};

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
