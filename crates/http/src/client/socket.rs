//! A socket option that no safe library offers.

use std::io::Error;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bounds the bytes that wait in the kernel for their first time on the wire, so that a writer is blocked at the pace of
/// the link. What is under way and not acknowledged yet is not bounded by it.
pub(super) fn set_unsent_bytes_max(socket: BorrowedFd<'_>, bytes: u32) -> std::io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<u32>()).unwrap_or(4);
    // SAFETY: the option takes an int, whose address and size are given, and nothing keeps the address.
    #[allow(unsafe_code)]
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            std::ptr::from_ref(&bytes).cast(),
            size,
        )
    };
    if set == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
