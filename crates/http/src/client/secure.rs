//! TLS for the HTTP client, as an [`Access`] has it when a connection is opened. The library's own has no name of a server,
//! and reads no file again. What goes wrong is told in plain words.

use std::fmt;
use std::io::{self, Read, Write};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter, time,
};

use super::Access;
use crate::limits;
use crate::tls::{Peer, explain};

/// Speaks TLS to https, over what the connectors before it have opened.
#[derive(Debug)]
pub(super) struct Secure(pub(super) Access);

impl<In: Transport> Connector<In> for Secure {
    type Out = Either<In, Secured>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let tls = self.0.tls().map_err(|err| invalid(err.to_string()))?;
        let host = tls.server_name().or(details.uri.host()).unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| invalid(format!("{host:?} is neither the name of a host nor an IP address")))?;
        let conn = ClientConnection::new(tls.config(), name)?;
        let mut sock = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        let mut timeout = details.timeout;
        let most = self.0.transport().handshake_time();
        timeout.after = time::Duration::Exact(timeout.not_zero().map_or(most, |left| (*left).min(most)));
        sock.set_timeout(timeout);
        let mut stream = StreamOwned::new(conn, sock);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(plain)?;
        }
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(Secured { buffers, stream: Box::new(stream) })))
    }
}

fn invalid(text: String) -> Error {
    Error::Io(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// The error of a connection with what TLS says of it in plain words.
fn plain(err: io::Error) -> Error {
    match err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(err) => invalid(explain(err, Peer::Server)),
        None if err.kind() == io::ErrorKind::UnexpectedEof => {
            Error::Io(io::Error::new(err.kind(), "the server closed the connection without a word"))
        }
        None => err.into(),
    }
}

/// An open connection with TLS.
pub(super) struct Secured {
    buffers: LazyBuffers,
    stream: Box<StreamOwned<ClientConnection, TransportAdapter>>,
}

impl Transport for Secured {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(self.buffers.output().get(..amount).unwrap_or_default()).map_err(plain)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let n_read = self.stream.read(self.buffers.input_append_buf()).map_err(plain)?;
        self.buffers.input_appended(n_read);
        Ok(n_read > 0)
    }

    fn is_open(&mut self) -> bool {
        // A connection that is put aside holds no memory.
        if self.buffers.input().is_empty() {
            self.buffers = LazyBuffers::new(limits::HTTP_CLIENT_BUFFER_BYTES, limits::HTTP_CLIENT_BUFFER_BYTES);
        }
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("over", self.stream.sock.get_ref()).finish_non_exhaustive()
    }
}
