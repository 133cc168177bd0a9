//! Socket options that no safe library offers.

use std::io::Error;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bounds the bytes that wait in the kernel for their first time on the wire, so that a writer is blocked at the pace of
/// the link. What is under way and not acknowledged yet is not bounded by it.
pub(super) fn set_unsent_bytes_max(socket: BorrowedFd<'_>, bytes: u32) -> std::io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
}

/// poll(2) finds the socket readable only when this many bytes are there, or no more can come. read(2) gives what there is
/// all the same.
pub(super) fn set_readable_bytes_min(socket: BorrowedFd<'_>, bytes: u32) -> std::io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

fn set(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: u32) -> std::io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<u32>()).unwrap_or(4);
    // SAFETY: the options take an int, whose address and size are given, and nothing keeps the address.
    #[allow(unsafe_code)]
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&value).cast(), size) };
    if set == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
