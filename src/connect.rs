//! TCP for the HTTP client, cut with a reset. The library's own connector cuts with shutdown(2): a peer that is in the
//! middle of a large answer then fills our closed window and waits for it, for a minute and more. A reset ends it at once.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};
use ureq::{Error, Timeout};

use crate::limits;

/// Opens TCP connections that are reset when the agent is shut down.
#[derive(Debug, Default)]
pub struct ResettingTcp;

impl<In: Transport> Connector<In> for ResettingTcp {
    type Out = Either<In, Connection>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        if chained.is_some() {
            return Ok(chained.map(Either::A));
        }
        let time =
            details.timeout.not_zero().map_or(limits::CONNECT_TIMEOUT, |left| (*left).min(limits::CONNECT_TIMEOUT));
        let mut failed = None;
        for address in &details.addrs {
            match open(*address, time) {
                Ok(stream) => {
                    let socket = Arc::new(Socket(stream));
                    let handle: Weak<dyn ShutdownHandle> = Arc::downgrade(&socket) as Weak<dyn ShutdownHandle>;
                    (details.register_shutdown)(handle)?;
                    let config = &details.config;
                    let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
                    return Ok(Some(Either::B(Connection { socket, buffers })));
                }
                Err(err) => failed = Some(err),
            }
        }
        Err(failed.map_or(Error::HostNotFound, |err| match err.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Error::Timeout(Timeout::Connect),
            _ => Error::Io(err),
        }))
    }
}

fn open(address: SocketAddr, time: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, time)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Socket(TcpStream);

impl ShutdownHandle for Socket {
    fn shutdown(&self) {
        // The close that follows sends a reset, whatever was read and whatever was not.
        let _ = rustix::net::sockopt::set_socket_linger(&self.0, Some(Duration::ZERO));
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// An open connection.
pub struct Connection {
    socket: Arc<Socket>,
    buffers: LazyBuffers,
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        self.socket.0.set_write_timeout(limit(&timeout)?)?;
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        (&self.socket.0).write_all(output).map_err(|err| explained(err, &timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        self.socket.0.set_read_timeout(limit(&timeout)?)?;
        let n_read = loop {
            match (&self.socket.0).read(self.buffers.input_append_buf()) {
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                done => break done.map_err(|err| explained(err, &timeout))?,
            }
        };
        self.buffers.input_appended(n_read);
        Ok(n_read > 0)
    }

    /// An idle connection is open while it has nothing to say.
    fn is_open(&mut self) -> bool {
        let silent = || -> std::io::Result<bool> {
            self.socket.0.set_nonblocking(true)?;
            let peeked = self.socket.0.peek(&mut [0]);
            self.socket.0.set_nonblocking(false)?;
            Ok(matches!(peeked, Err(err) if err.kind() == ErrorKind::WouldBlock))
        };
        silent().unwrap_or(false)
    }
}

/// The time the next exchange with the kernel may take.
fn limit(timeout: &NextTimeout) -> Result<Option<Duration>, Error> {
    match timeout.not_zero() {
        None => Ok(None),
        Some(_) if timeout.after.is_zero() => Err(Error::Timeout(timeout.reason)),
        Some(time) => Ok(Some(*time)),
    }
}

fn explained(err: std::io::Error, timeout: &NextTimeout) -> Error {
    match err.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Error::Timeout(timeout.reason),
        _ => Error::Io(err),
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.socket.0.peer_addr().ok()).finish_non_exhaustive()
    }
}
