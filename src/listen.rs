//! Opens listening sockets from addresses as Thanos's flags spell them: `host:port`, `:port`, `[v6]:port`.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, ToSocketAddrs};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::error::{Error, Kind, Result};

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Listens on `address`; the socket does not block. A wildcard (`:port`, `0.0.0.0:port`, `[::]:port`) takes IPv4 and
/// IPv6 both, as Go does. Another listener on the same port is an error (SO_REUSEPORT is never set).
///
/// `Errors:` permanent, with the reason and the flag to change.
pub fn bind_address(address: &str, flag: &str) -> Result<TcpListener> {
    let (host, port) = split(address)
        .ok_or_else(|| Error::new(Kind::Permanent, format!("{address:?} is not host:port; change {flag}")))?;
    let explain = |err: io::Error| Error::new(Kind::Permanent, reason(&err, flag));
    if matches!(host, "" | "0.0.0.0" | "::") {
        let any = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
        match open(any) {
            // A kernel without IPv6.
            Err(err) if err.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {}
            Err(err) if err.kind() == io::ErrorKind::AddrNotAvailable => {}
            opened => return opened.map_err(explain),
        }
        return open(SocketAddr::from(([0, 0, 0, 0], port))).map_err(explain);
    }
    let addresses = (host, port).to_socket_addrs().map_err(explain)?;
    let mut failed = None;
    for address in addresses {
        match open(address) {
            Ok(listener) => return Ok(listener),
            Err(err) => failed = Some(err),
        }
    }
    let nothing = || Error::new(Kind::Permanent, format!("host {host:?} has no address; change {flag}"));
    Err(failed.map_or_else(nothing, explain))
}

fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']').map(|host| (host, port)),
        // An IPv6 address without brackets would lose its last group to the port.
        None => (!host.contains(':')).then_some((host, port)),
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

fn reason(err: &io::Error, flag: &str) -> String {
    match err.kind() {
        io::ErrorKind::AddrInUse => format!("address already in use; stop the other process or change {flag}"),
        io::ErrorKind::AddrNotAvailable => format!("this machine does not have the address; change {flag}"),
        io::ErrorKind::PermissionDenied => {
            format!("permission denied; ports below 1024 need a privilege, or change {flag}")
        }
        _ => format!("{err}; change {flag}"),
    }
}

/// Whether accept(2) failed for want of descriptors or memory: nothing is wrong with the listener, but trying again at
/// once would only burn CPU.
pub fn is_exhausted(err: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|e| err.raw_os_error() == Some(e.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_as_go_does() {
        let cases = [
            (":10902", Some(("", 10902))),
            ("0.0.0.0:1", Some(("0.0.0.0", 1))),
            ("localhost:65535", Some(("localhost", 65535))),
            ("[::]:1", Some(("::", 1))),
            ("[::1]:0", Some(("::1", 0))),
            ("localhost:65536", None),
            ("localhost:99999", None),
            ("localhost:", None),
            ("127.0.0.1", None),
            ("::1:80", None),
            ("[::1:80", None),
            ("", None),
        ];
        for (address, expected) in cases {
            assert_eq!(split(address), expected, "{address}");
        }
    }

    #[test]
    fn a_wildcard_takes_both_families() {
        for address in [":0", "0.0.0.0:0", "[::]:0"] {
            let listener = bind_address(address, "--x").unwrap();
            let port = listener.local_addr().unwrap().port();
            std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        }
    }

    #[test]
    fn errors_say_what_to_change() {
        let taken = bind_address("127.0.0.1:0", "--x").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let err = bind_address(&address, "--http-address").unwrap_err();
        assert_eq!(err.to_string(), "address already in use; stop the other process or change --http-address");
        assert_eq!(err.kind(), Kind::Permanent);
        let err = bind_address("192.0.2.1:0", "--x").unwrap_err();
        assert_eq!(err.to_string(), "this machine does not have the address; change --x");
        let err = bind_address("nonsense", "--x").unwrap_err();
        assert_eq!(err.to_string(), "\"nonsense\" is not host:port; change --x");
    }
}
