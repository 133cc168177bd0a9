//! Wakes a thread that waits in poll(2). It says that there is something to do, never what.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::error::{Context, Result};

/// A descriptor that one thread makes readable and another one waits for.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    /// `Errors:` when the process has no descriptors left.
    pub fn new() -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let fd = eventfd(0, flags).map_err(std::io::Error::from).context(|| "create what wakes a thread")?;
        Ok(Wake(fd))
    }

    /// Makes the descriptor readable.
    pub fn wake(&self) {
        // It can only fail when it is readable already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it unreadable; whether it was readable.
    pub fn clear(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 8]).is_ok()
    }

    /// For poll(2).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
