//! A TLS session over a non-blocking socket: moves records between the socket and the TLS library, and bytes between the
//! library and the caller. It never waits, and holds buffers for as long as there is something in them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use rustls::{Connection, Error};

use super::Handshake;
use super::explain::{Peer, explain};
use super::metrics::TlsMetrics;

/// Plaintext that one call encrypts: four records, which leave with one system call.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// What a busy peer's records are read with. The library alone reads 4 KiB at a time.
const READ_BYTES: usize = 64 * 1024;
/// What is read and thrown away after a failed handshake. A socket that is closed with bytes unread is reset, and the
/// alert would be lost.
const DRAIN_BYTES_MAX: usize = 256 * 1024;

pub(super) struct Session {
    conn: Connection,
    peer: Peer,
    /// Decrypted bytes that the library holds.
    n_plain: usize,
    /// Records as they came, from `taken` on. Empty, without memory, while the peer is idle or sends little.
    records: Vec<u8>,
    taken: usize,
    /// The last read filled all it was given, so there is likely to be more.
    is_busy: bool,
    /// The peer sends nothing more: close_notify, or the end of the socket.
    has_ended: bool,
    failed: Option<(ErrorKind, String)>,
    /// The caller has been told of the end or the failure.
    is_told: bool,
    is_established: bool,
    /// We send nothing more.
    has_parted: bool,
    metrics: Option<TlsMetrics>,
}

/// What [`Session::advance`] found.
enum Found {
    /// Something that the library took.
    Records,
    /// Nothing, for now.
    Nothing,
    /// The end of what the peer sends.
    End,
}

impl Session {
    pub(super) fn new(mut conn: Connection, peer: Peer, metrics: Option<TlsMetrics>) -> Session {
        conn.set_buffer_limit(Some(WRITE_BYTES_MAX));
        Session {
            conn,
            peer,
            n_plain: 0,
            records: Vec::new(),
            taken: 0,
            is_busy: false,
            has_ended: false,
            failed: None,
            is_told: false,
            is_established: false,
            has_parted: false,
            metrics,
        }
    }

    pub(super) fn alpn(&self) -> Option<&[u8]> {
        self.conn.alpn_protocol()
    }

    pub(super) fn handshake(&mut self, stream: &TcpStream) -> io::Result<Handshake> {
        if self.is_established {
            return Ok(Handshake::Done);
        }
        let stepped = self.handshake_steps(stream);
        match &stepped {
            Ok(Handshake::Done) => {
                self.is_established = true;
                if let Some(metrics) = &self.metrics {
                    metrics.handshakes.inc();
                }
            }
            Ok(_) => {}
            Err(_) if self.is_told => {}
            Err(_) => {
                self.is_told = true;
                if let Some(metrics) = &self.metrics {
                    metrics.handshakes_failed.inc();
                }
                self.part(stream);
            }
        }
        stepped
    }

    fn handshake_steps(&mut self, stream: &TcpStream) -> io::Result<Handshake> {
        loop {
            if self.failed.is_none() {
                match self.send(stream) {
                    Ok(true) => {}
                    Ok(false) => return Ok(Handshake::WantsWrite),
                    Err(err) => return Err(self.fail(err.kind(), err.to_string())),
                }
            }
            if !self.conn.is_handshaking() {
                return Ok(Handshake::Done);
            }
            match self.advance(stream, true)? {
                Found::Records => {}
                Found::Nothing => return Ok(Handshake::WantsRead),
                Found::End => {
                    let text = format!("the {} closed the connection during the handshake", self.peer.name());
                    return Err(self.fail(ErrorKind::UnexpectedEof, text));
                }
            }
        }
    }

    pub(super) fn read(&mut self, stream: &TcpStream, buf: &mut [u8]) -> io::Result<usize> {
        let mut n_read = 0;
        while n_read < buf.len() {
            // What came before a failure is read too; the library does not say how much that is.
            if self.n_plain > 0 || self.failed.is_some() {
                let n = self.conn.reader().read(buf.get_mut(n_read..).unwrap_or_default()).unwrap_or(0);
                self.n_plain = self.n_plain.saturating_sub(n);
                n_read += n;
                if n > 0 {
                    continue;
                }
                self.n_plain = 0;
            }
            // The socket is asked only while there is nothing to return.
            match self.advance(stream, n_read == 0) {
                Ok(Found::Records) => {}
                Ok(Found::Nothing) if n_read == 0 => return Err(ErrorKind::WouldBlock.into()),
                Ok(Found::End) if n_read == 0 => {
                    self.is_told = true;
                    return Ok(0);
                }
                Err(err) if n_read == 0 => {
                    self.is_told = true;
                    return Err(err);
                }
                // The end or the failure is told when all before it has been read.
                _ => break,
            }
        }
        Ok(n_read)
    }

    /// Whether a read would return at once, whatever the socket says.
    pub(super) fn has_input(&self) -> bool {
        let is_over = self.has_ended || self.failed.is_some();
        self.n_plain > 0 || self.taken < self.records.len() || (is_over && !self.is_told)
    }

    /// Takes one step in what the peer sends.
    fn advance(&mut self, stream: &TcpStream, may_ask_socket: bool) -> io::Result<Found> {
        if let Some((kind, text)) = &self.failed {
            return Err(io::Error::new(*kind, text.clone()));
        }
        let taken = match self.records.get(self.taken..) {
            Some(mut rest) if !rest.is_empty() => {
                let taken = self.conn.read_tls(&mut rest);
                self.taken = self.records.len() - rest.len();
                taken
            }
            _ if self.has_ended => return Ok(Found::End),
            _ if !may_ask_socket => return Ok(Found::Nothing),
            _ if self.is_busy => {
                self.records.resize(READ_BYTES, 0);
                self.taken = 0;
                let read = (&*stream).read(&mut self.records);
                self.records.truncate(*read.as_ref().unwrap_or(&0));
                match read {
                    Ok(0) => Ok(0),
                    Ok(_) => return Ok(Found::Records),
                    Err(err) => Err(err),
                }
            }
            _ => {
                let mut counted = Counted { stream, was_filled: false };
                let taken = self.conn.read_tls(&mut counted);
                self.is_busy = counted.was_filled;
                taken
            }
        };
        match taken {
            Ok(0) => {
                self.has_ended = true;
                return Ok(Found::End);
            }
            Ok(_) => {}
            Err(err) if err.kind() == ErrorKind::Interrupted => return Ok(Found::Records),
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                if self.is_busy {
                    // The library gives its own buffer back when it is asked to read, and nothing comes.
                    let _ = self.conn.read_tls(&mut Dry);
                }
                self.records = Vec::new();
                self.taken = 0;
                self.is_busy = false;
                return Ok(Found::Nothing);
            }
            Err(err) => return Err(self.fail(err.kind(), err.to_string())),
        }
        match self.conn.process_new_packets() {
            Ok(state) => {
                self.n_plain = state.plaintext_bytes_to_read();
                if state.peer_has_closed() {
                    // What comes behind the end is nobody's.
                    self.has_ended = true;
                    self.records = Vec::new();
                    self.taken = 0;
                }
                Ok(Found::Records)
            }
            Err(err) => {
                // Told when what was decrypted before it has been read.
                self.broken(&err, stream);
                Ok(Found::Records)
            }
        }
    }

    fn broken(&mut self, err: &Error, stream: &TcpStream) {
        // The alert, which says to the peer what went wrong.
        let _ = self.send(stream);
        let text = explain(err, self.peer);
        self.fail(ErrorKind::InvalidData, text);
    }

    /// Every later read says the same.
    fn fail(&mut self, kind: ErrorKind, text: String) -> io::Error {
        self.records = Vec::new();
        self.taken = 0;
        let (kind, text) = self.failed.get_or_insert((kind, text));
        io::Error::new(*kind, text.clone())
    }

    pub(super) fn write(&mut self, stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_established {
            return Err(io::Error::new(ErrorKind::NotConnected, "the TLS handshake is not done"));
        }
        if self.has_parted {
            return Err(ErrorKind::BrokenPipe.into());
        }
        // One batch is in memory at most, and the next is encrypted when the last has left.
        if !self.send(stream)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let batch = bytes.get(..WRITE_BYTES_MAX).unwrap_or(bytes);
        let n_taken = self.conn.writer().write(batch)?;
        if n_taken == 0 && !batch.is_empty() {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "the TLS keys of this connection are used up"));
        }
        self.send(stream)?;
        Ok(n_taken)
    }

    /// Sends records that wait. `true` when none waits any more.
    pub(super) fn send(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while self.wants_write() {
            match self.conn.write_tls(&mut &*stream) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(err) => return Err(err),
            }
        }
        Ok(true)
    }

    pub(super) fn wants_write(&self) -> bool {
        self.conn.wants_write() && !self.has_parted
    }

    /// Tells the peer that nothing more comes.
    pub(super) fn end(&mut self, stream: &TcpStream) {
        self.conn.send_close_notify();
        let _ = self.send(stream);
        self.has_parted = true;
    }

    /// Leaves a peer after a failed handshake so that the alert reaches it.
    fn part(&mut self, stream: &TcpStream) {
        self.end(stream);
        let _ = stream.shutdown(Shutdown::Write);
        let mut dropped = [0; 4096];
        for _ in 0..DRAIN_BYTES_MAX / dropped.len() {
            if !matches!((&*stream).read(&mut dropped), Ok(n) if n > 0) {
                break;
            }
        }
    }
}

/// Reads from a socket, and notes whether it had as much as was asked for.
struct Counted<'a> {
    stream: &'a TcpStream,
    was_filled: bool,
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n_read = self.stream.read(buf)?;
        self.was_filled = n_read == buf.len();
        Ok(n_read)
    }
}

/// A socket that has nothing.
struct Dry;

impl Read for Dry {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}
