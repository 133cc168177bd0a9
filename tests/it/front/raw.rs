//! An HTTP/2 client made by hand, for what no library would do.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;

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
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for text in fields {
        block.push(0);
        for text in [text.0, text.1] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    frame(1, 0x4, stream, &block)
}

/// DATA with one message that ends the stream.
pub fn message(stream: u32, bytes: &[u8]) -> Vec<u8> {
    let mut payload = vec![0];
    payload.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    payload.extend(bytes);
    frame(0, 0x1, stream, &payload)
}

/// RST_STREAM with CANCEL.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &[0, 0, 0, 8])
}

pub fn greeting() -> Vec<u8> {
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

pub fn acknowledgement() -> Vec<u8> {
    frame(SETTINGS, 1, 0, &[])
}

pub struct Raw(pub TcpStream);

impl Raw {
    /// A TCP connection, nothing sent.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Raw(stream)
    }

    /// A connection with the handshake complete on both sides.
    pub fn open(address: SocketAddr) -> Self {
        let mut raw = Raw::connect(address);
        raw.send(&greeting());
        let (kind, flags, _) = raw.receive().expect("the server's SETTINGS");
        assert_eq!((kind, flags), (SETTINGS, 0));
        raw.send(&acknowledgement());
        // The server's acknowledgement of ours comes after it has seen what was sent before.
        raw.wait_for(|kind, flags, _| kind == SETTINGS && flags == 1);
        raw
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next frame: type, flags, payload; `None` when the server has ended the connection.
    pub fn receive(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Ok(()) => {}
            Err(err) if matches!(err.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(err) => panic!("neither a frame nor the end: {err}"),
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[3], head[4], payload))
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
