//! Listening sockets, and the accept loop that every server here shares. Never reads or writes a client's bytes.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use pillion_base::error::{Error, Kind, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::address::ListenAddress;

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Pause in accepting when descriptors or memory have run out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// Time between two warnings that accepting pauses.
const EXHAUSTED_WARN_EVERY: Duration = Duration::from_secs(60);
/// Connections accepted in a row before others get their turn.
const ACCEPTS_MAX: usize = 64;

/// A listening socket that does not block.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// For the log: `HTTP` or `gRPC`.
    protocol: &'static str,
    /// No accepting before this time.
    paused_until: Option<Instant>,
    /// When it was last said that accepting pauses.
    warned: Option<Instant>,
}

/// What there was to accept.
#[derive(Debug)]
pub enum Accepted {
    /// A client and its address.
    Client(TcpStream, SocketAddr),
    /// Nobody waits, or others have their turn now.
    Done,
    /// Descriptors or memory have run out; accepting pauses.
    Exhausted,
}

impl Listener {
    /// Listens on `address`. A wildcard (`:port`, `0.0.0.0:port`, `[::]:port`) takes IPv4 and IPv6 both, as Go does.
    /// Another listener on the same port is an error (SO_REUSEPORT is never set).
    ///
    /// `Errors:` permanent, with the reason and the flag to change. `Blocks:` on the resolver when the host is a name.
    pub fn bind(address: &ListenAddress, protocol: &'static str, flag: &str) -> Result<Self> {
        let explain = |err: io::Error| Error::new(Kind::Permanent, reason(&err, flag));
        let mut failed = None;
        for address in address.resolve().map_err(explain)? {
            match open(address) {
                Ok(socket) => return Ok(Listener { socket, protocol, paused_until: None, warned: None }),
                Err(err) if address.ip().is_unspecified() && !lacks_family(&err) => return Err(explain(err)),
                // The first reason is that of the address which was most likely meant.
                Err(err) => failed = failed.or(Some(err)),
            }
        }
        let nothing =
            || Error::new(Kind::Permanent, format!("host {:?} has no address; change {flag}", address.host()));
        Err(failed.map_or_else(nothing, explain))
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Until when nothing is accepted; `None` while it is.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| now < *until)
    }

    /// For poll(2): readable when a client waits and accepting does not pause.
    pub fn poll_fd(&self, now: Instant) -> PollFd<'_> {
        let flags = if self.paused_until(now).is_some() { PollFlags::empty() } else { PollFlags::IN };
        PollFd::new(&self.socket, flags)
    }

    /// Accepts the next client of a turn that had `n_accepted` so far. Begin a turn when poll(2) says that a client waits.
    pub fn accept(&mut self, now: Instant, n_accepted: usize) -> Accepted {
        self.paused_until = None;
        if n_accepted >= ACCEPTS_MAX {
            return Accepted::Done;
        }
        loop {
            match self.socket.accept() {
                Ok((stream, peer)) => return Accepted::Client(stream, peer),
                Err(err) if err.kind() == ErrorKind::WouldBlock => return Accepted::Done,
                // The kernel looks for a free descriptor before it looks for a connection, so this says nothing unless
                // poll has just said that there is one.
                Err(err) if is_exhausted(&err) && n_accepted > 0 => return Accepted::Done,
                Err(err) if is_exhausted(&err) => {
                    // The listener stays readable: without a pause this loop would burn a core.
                    self.paused_until = Some(now + EXHAUSTED_PAUSE);
                    let since = self.warned.map(|warned| now.saturating_duration_since(warned));
                    if since.is_none_or(|since| since >= EXHAUSTED_WARN_EVERY) {
                        self.warned = Some(now);
                        log::warn!(err = err.to_string(); "cannot accept {} connections for the moment", self.protocol);
                    }
                    return Accepted::Exhausted;
                }
                // The client was gone before it was accepted.
                Err(_) => {}
            }
        }
    }
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // A restart need not wait for the connections of the last run to time out.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// Whether the machine has no addresses of this family, as a kernel without IPv6.
fn lacks_family(err: &io::Error) -> bool {
    err.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) || err.kind() == ErrorKind::AddrNotAvailable
}

fn reason(err: &io::Error, flag: &str) -> String {
    match err.kind() {
        ErrorKind::AddrInUse => format!("address already in use; stop the other process or change {flag}"),
        ErrorKind::AddrNotAvailable => format!("this machine does not have the address; change {flag}"),
        ErrorKind::PermissionDenied => {
            format!("permission denied; ports below 1024 need a privilege, or change {flag}")
        }
        _ => format!("{err}; change {flag}"),
    }
}

/// Whether accept(2) failed for want of descriptors or memory: nothing is wrong with the listener, but trying again at
/// once would only burn CPU.
fn is_exhausted(err: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|e| err.raw_os_error() == Some(e.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen_on(address: &str, flag: &str) -> Result<Listener> {
        Listener::bind(&address.parse().unwrap(), "HTTP", flag)
    }

    #[test]
    fn a_wildcard_takes_both_families() {
        for address in [":0", "0.0.0.0:0", "[::]:0"] {
            let listener = listen_on(address, "--x").unwrap();
            let port = listener.local_addr().unwrap().port();
            TcpStream::connect(("127.0.0.1", port)).unwrap();
        }
    }

    #[test]
    fn errors_say_what_to_change() {
        let taken = listen_on("127.0.0.1:0", "--x").unwrap();
        let address = taken.local_addr().unwrap();
        let in_use = "address already in use; stop the other process or change --http-address";
        let err = listen_on(&address.to_string(), "--http-address").unwrap_err();
        assert_eq!((err.to_string().as_str(), err.kind()), (in_use, Kind::Permanent));
        // IPv4 alone would be free, but that is not what was asked for.
        let everywhere = listen_on(":0", "--x").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        assert_eq!(listen_on(&format!(":{port}"), "--http-address").unwrap_err().to_string(), in_use);
        let err = listen_on("192.0.2.1:0", "--x").unwrap_err();
        assert_eq!(err.to_string(), "this machine does not have the address; change --x");
    }
}
