//! A byte stream to one peer, plain or TLS, for those who poll(2). It never waits.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};

use super::client::ClientTls;
use super::explain::Peer;
use super::server::ServerTls;
use super::session::Session;
use pillion_base::error::{Error, Kind, Result};

/// A non-blocking byte stream to one peer. The socket must be non-blocking.
///
/// Whoever polls asks [`Wire::has_buffered_input`] before, and polls for writing while [`Wire::wants_write`].
pub struct Wire {
    stream: TcpStream,
    session: Option<Box<Session>>,
}

/// How far a handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// Bytes may be read and written.
    Done,
    /// It goes on when the socket can be read.
    WantsRead,
    /// It goes on when the socket can be written to.
    WantsWrite,
}

impl Wire {
    /// A stream without TLS.
    pub fn plain(stream: TcpStream) -> Wire {
        Wire { stream, session: None }
    }

    /// The server's side of TLS, with the newest certificates.
    pub fn server(stream: TcpStream, tls: &ServerTls) -> Result<Wire> {
        tls.refresh(Instant::now());
        let conn = ServerConnection::new(tls.config()).map_err(|err| Error::new(Kind::Permanent, err.to_string()))?;
        let session = Session::new(conn.into(), Peer::Client, Some(tls.metrics().clone()));
        Ok(Wire { stream, session: Some(Box::new(session)) })
    }

    /// The client's side of TLS. The server must show a certificate for `host`, which is told to it (SNI), unless the
    /// settings name another.
    ///
    /// `Errors:` permanent when `host` is neither a name nor an IP address.
    pub fn client(stream: TcpStream, tls: &ClientTls, host: &str) -> Result<Wire> {
        let host = tls.server_name().unwrap_or(host);
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Error::new(Kind::Permanent, format!("{host:?} is neither the name of a host nor an IP address"))
        })?;
        let conn =
            ClientConnection::new(tls.config(), name).map_err(|err| Error::new(Kind::Permanent, err.to_string()))?;
        let session = Session::new(conn.into(), Peer::Server, None);
        Ok(Wire { stream, session: Some(Box::new(session)) })
    }

    /// The socket, for poll(2) and options. Whoever reads from it or writes to it breaks TLS; a peek does not.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether it is TLS.
    pub fn is_tls(&self) -> bool {
        self.session.is_some()
    }

    /// The protocol that both sides agreed on, such as `h2`; `None` before the handshake, and where none was asked for.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.session.as_ref().and_then(|session| session.alpn())
    }

    /// Goes on with the handshake as far as the socket lets it. Without TLS it is done at once.
    ///
    /// `Errors:` it failed; the text says why, for the log. The peer has been told, and nothing is left to do but to drop
    /// the stream.
    pub fn handshake(&mut self) -> io::Result<Handshake> {
        match &mut self.session {
            Some(session) => session.handshake(&self.stream),
            None => Ok(Handshake::Done),
        }
    }

    /// Reads what there is; 0 at the end, with or without a goodbye of the peer.
    ///
    /// `Errors:` `WouldBlock` when nothing is there, neither here nor in the socket.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.session {
            Some(session) => session.read(&self.stream, buf),
            None => self.stream.read(buf),
        }
    }

    /// Takes bytes and sends what the socket takes; with TLS up to 64 KiB at once, of which some may wait as ciphertext
    /// for the next write or flush. Returns the bytes taken.
    ///
    /// `Errors:` `WouldBlock` when none could be taken, as long as earlier ciphertext waits.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.session {
            Some(session) => session.write(&self.stream, bytes),
            None => self.stream.write(bytes),
        }
    }

    /// Sends ciphertext that waits. `true` when nothing waits any more.
    pub fn flush(&mut self) -> io::Result<bool> {
        match &mut self.session {
            Some(session) => session.send(&self.stream),
            None => Ok(true),
        }
    }

    /// Whether a read returns something, or the end, although the socket has nothing. It may say so once too often.
    pub fn has_buffered_input(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.has_input())
    }

    /// Whether ciphertext waits for the socket.
    pub fn wants_write(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.wants_write())
    }

    /// Says goodbye and sends nothing more. What the peer still sends can be read. Flush before: ciphertext that the
    /// socket does not take now is lost.
    pub fn end(&mut self) {
        if let Some(session) = &mut self.session {
            session.end(&self.stream);
        }
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("stream", &self.stream).field("is_tls", &self.is_tls()).finish()
    }
}
