//! An HTTP/2 client made by hand, for what no library would do.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
/// Entries of SETTINGS.
pub const INITIAL_WINDOW_SIZE: u16 = 4;
/// The largest window there is.
pub const WINDOW_MAX: u32 = (1 << 31) - 1;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// HEADERS that open a call, in literals without indexing.
pub fn open_call(stream: u32, path: &str) -> Vec<u8> {
    open_call_with(stream, path, &[])
}

/// As `open_call`, with more fields.
pub fn open_call_with(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for text in fields.iter().chain(more) {
        block.push(0);
        for text in [text.0, text.1] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    frame(1, 0x4, stream, &block)
}

/// What stands before a message of this many bytes.
pub fn prefix(bytes: usize) -> Vec<u8> {
    [vec![0], u32::try_from(bytes).unwrap().to_be_bytes().to_vec()].concat()
}

/// DATA with one message that ends the stream.
pub fn message(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, 0x1, stream, &[&prefix(bytes.len()), bytes].concat())
}

/// RST_STREAM with CANCEL.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &[0, 0, 0, 8])
}

pub fn greeting() -> Vec<u8> {
    greeting_with(&[])
}

/// The preface, and SETTINGS with these entries.
pub fn greeting_with(settings: &[(u16, u32)]) -> Vec<u8> {
    let entries: Vec<u8> =
        settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &entries)].concat()
}

/// One frame that came: type, flags, stream, payload.
pub type Frame<'a> = (u8, u8, u32, &'a [u8]);

/// Takes received bytes apart: whole frames, and what is left of one that did not come to its end.
pub fn frames(mut bytes: &[u8]) -> (Vec<Frame<'_>>, &[u8]) {
    let mut found = Vec::new();
    while let Some((&[a, b, c, kind, flags, s, t, u, v], rest)) = bytes.split_first_chunk::<9>() {
        let Some((payload, rest)) = rest.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize) else { break };
        found.push((kind, flags, u32::from_be_bytes([s, t, u, v]), payload));
        bytes = rest;
    }
    (found, bytes)
}

pub fn acknowledgement() -> Vec<u8> {
    frame(SETTINGS, 1, 0, &[])
}

/// Over TCP, or what stands upon it.
pub struct Raw<S = TcpStream>(pub S);

impl Raw {
    /// A TCP connection, nothing sent.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Raw(stream)
    }

    /// The same from one of this machine's addresses, with a receive buffer of this many bytes if that matters.
    pub fn connect_from(from: IpAddr, address: SocketAddr, buffer_bytes: Option<usize>) -> std::io::Result<Self> {
        let stream = TcpStream::from(socket(AddressFamily::INET, SocketType::STREAM, None)?);
        // Ports of connections that have just ended may be used again.
        sockopt::set_socket_reuseaddr(&stream, true)?;
        if let Some(bytes) = buffer_bytes {
            sockopt::set_socket_recv_buffer_size(&stream, bytes)?;
        }
        bind(&stream, &SocketAddr::new(from, 0))?;
        connect(&stream, &address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Raw(stream))
    }

    /// A connection with the handshake complete on both sides.
    pub fn open(address: SocketAddr) -> Self {
        let mut raw = Raw::connect(address);
        raw.shake_hands(&[]).expect("the server shakes hands");
        raw
    }
}

impl<S: Read + Write> Raw<S> {
    /// Completes the handshake on both sides; `None` when the server ends the connection. Returns the server's SETTINGS.
    pub fn shake_hands(&mut self, settings: &[(u16, u32)]) -> Option<Vec<u8>> {
        self.0.write_all(&greeting_with(settings)).ok()?;
        let (kind, flags, theirs) = self.receive()?;
        assert_eq!((kind, flags), (SETTINGS, 0));
        self.0.write_all(&acknowledgement()).ok()?;
        // The server's acknowledgement of ours comes after it has seen what was sent before.
        while self.receive().map(|(kind, flags, _)| (kind, flags))? != (SETTINGS, 1) {}
        Some(theirs)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next frame: type, flags, payload; `None` when the server has ended the connection.
    pub fn receive(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        self.receive_on().map(|(kind, flags, _, payload)| (kind, flags, payload))
    }

    /// The same with the stream, before the payload.
    pub fn receive_on(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(err) if matches!(err.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(err) => panic!("neither a frame nor the end: {err}"),
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    pub fn wait_for(&mut self, wanted: impl Fn(u8, u8, &[u8]) -> bool) -> Vec<u8> {
        loop {
            let (kind, flags, payload) = self.receive().expect("the connection ended too early");
            if wanted(kind, flags, &payload) {
                return payload;
            }
        }
    }

    /// Reads up to the end and returns the types of the frames that came.
    pub fn until_closed(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| self.receive()).map(|(kind, _, _)| kind).collect()
    }

    /// Whether a ping comes back.
    pub fn is_served(&mut self) -> bool {
        if self.0.write_all(&frame(6, 0, 0, b"whatever")).is_err() {
            return false;
        }
        std::iter::from_fn(|| self.receive()).any(|(kind, flags, _)| (kind, flags) == (6, 1))
    }
}
