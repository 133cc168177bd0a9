//! Two ends of a connection on one thread, which waits in poll(2) until one of them can go on.

use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use pillion_http::tls::{ClientSettings, ClientTls, Handshake, ServerSettings, ServerTls, TlsMetrics, Wire};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::certificates::Certificates;

/// A buffer of the sender that holds less than one record. With a small one of the receiver TCP waits for timers.
const SMALL: usize = 8 * 1024;
/// What nothing here needs; a test that needs it has failed.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Two sockets that are connected, non-blocking. With `small`, they take little at once.
pub(crate) fn sockets(small: bool) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    for socket in [&near, &far] {
        socket.set_nonblocking(true).unwrap();
        socket.set_nodelay(true).unwrap();
        if small {
            sockopt::set_socket_send_buffer_size(socket, SMALL).unwrap();
        }
    }
    (near, far)
}

/// Waits until one of the sockets can go on.
pub(crate) fn wait(polled: &[(&TcpStream, PollFlags)]) {
    let mut fds: Vec<PollFd<'_>> = polled.iter().map(|(socket, flags)| PollFd::new(*socket, *flags)).collect();
    assert!(poll(&mut fds, Some(&PATIENCE)).unwrap() > 0, "nothing happens");
}

fn wanted(step: &io::Result<Handshake>) -> PollFlags {
    match step {
        Ok(Handshake::WantsRead) => PollFlags::IN,
        Ok(Handshake::WantsWrite) => PollFlags::OUT,
        _ => PollFlags::empty(),
    }
}

/// Both handshakes, to their ends.
pub(crate) fn shake(client: &mut Wire, server: &mut Wire) -> (io::Result<Handshake>, io::Result<Handshake>) {
    loop {
        let (near, far) = (client.handshake(), server.handshake());
        let is_over = |step: &io::Result<Handshake>| matches!(step, Ok(Handshake::Done) | Err(_));
        if is_over(&near) && is_over(&far) {
            return (near, far);
        }
        let fds = [(client.socket(), wanted(&near)), (server.socket(), wanted(&far))];
        let polled: Vec<_> = fds.into_iter().filter(|(_, flags)| !flags.is_empty()).collect();
        wait(&polled);
    }
}

/// The next bytes, or the end.
pub(crate) fn read(wire: &mut Wire, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match wire.read(buf) {
            Err(err) if err.kind() == ErrorKind::WouldBlock => wait(&[(wire.socket(), PollFlags::IN)]),
            other => return other,
        }
    }
}

/// Writes what the other end reads: few bytes, which the sockets can hold.
pub(crate) fn say(from: &mut Wire, to: &mut Wire, text: &[u8]) {
    assert_eq!(from.write(text).unwrap(), text.len());
    while !from.flush().unwrap() {
        wait(&[(from.socket(), PollFlags::OUT)]);
    }
    assert!(!from.wants_write());
    let mut heard = Vec::new();
    while heard.len() < text.len() {
        let mut buf = [0; 1024];
        let n_read = read(to, &mut buf).unwrap();
        assert!(n_read > 0, "the end instead of {text:?}");
        heard.extend_from_slice(buf.get(..n_read).unwrap());
    }
    assert_eq!(heard, text);
}

/// A server with the certificate `name`, changed by `change`.
pub(crate) fn server(made: &Certificates, name: &str, change: impl FnOnce(&mut ServerSettings)) -> ServerTls {
    server_with(made, name, TlsMetrics::default(), change)
}

pub(crate) fn server_with(
    made: &Certificates,
    name: &str,
    metrics: TlsMetrics,
    change: impl FnOnce(&mut ServerSettings),
) -> ServerTls {
    let mut settings = ServerSettings::new(made.pem(&format!("{name}.pem")), made.pem(&format!("{name}.key")));
    change(&mut settings);
    ServerTls::load(settings, metrics).unwrap()
}

/// A client that trusts `ca`, changed by `change`.
pub(crate) fn client(made: &Certificates, change: impl FnOnce(&mut ClientSettings)) -> ClientTls {
    let mut settings = ClientSettings { ca: Some(made.pem("ca.pem")), ..ClientSettings::default() };
    change(&mut settings);
    ClientTls::load(settings).unwrap()
}

/// The two ends of a TLS connection to `here.test`, before the handshake.
pub(crate) fn ends(client: &ClientTls, server: &ServerTls, small: bool) -> (Wire, Wire) {
    let (near, far) = sockets(small);
    (Wire::client(near, client, "here.test").unwrap(), Wire::server(far, server).unwrap())
}

/// The two ends after the handshake.
pub(crate) fn connect(client: &ClientTls, server: &ServerTls, small: bool) -> (Wire, Wire) {
    let (mut near, mut far) = ends(client, server, small);
    let (at_client, at_server) = shake(&mut near, &mut far);
    assert_eq!((at_client.unwrap(), at_server.unwrap()), (Handshake::Done, Handshake::Done));
    (near, far)
}

/// A time at which the files are looked at again, whenever that was last.
pub(crate) fn later(n_looks: u64) -> Instant {
    Instant::now() + Duration::from_secs(3600 * (n_looks + 1))
}
