//! A TLS connection that waits, over the stream that never does: for clients made by hand.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use pillion_http::tls::{ClientSettings, ClientTls, Handshake, Pem, Wire};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::certificates::Certificates;

/// What a read or a write waits for the other side.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct TlsStream {
    wire: Wire,
    patience: Duration,
}

impl TlsStream {
    /// Connects to a server with a certificate of `ca`, and shows the certificate of this name.
    pub fn connect(server: SocketAddr, made: &Certificates, name: Option<&str>) -> io::Result<Self> {
        TlsStream::over(TcpStream::connect(server)?, made, name)
    }

    /// The same over a connection that is there.
    pub fn over(stream: TcpStream, made: &Certificates, name: Option<&str>) -> io::Result<Self> {
        let pem = |ending: &str| name.map(|name| Pem::file(ending, made.path(&format!("{name}.{ending}"))));
        let settings = ClientSettings {
            ca: Some(Pem::file("ca", made.path("ca.pem"))),
            cert: pem("pem"),
            key: pem("key"),
            alpn: vec![b"h2".to_vec()],
            ..ClientSettings::default()
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let wire = Wire::client(stream, &ClientTls::load(settings).unwrap(), "localhost").unwrap();
        let mut stream = TlsStream { wire, patience: PATIENCE };
        loop {
            match stream.wire.handshake()? {
                Handshake::Done => return Ok(stream),
                Handshake::WantsRead => stream.wait(PollFlags::IN)?,
                Handshake::WantsWrite => stream.wait(PollFlags::OUT)?,
            }
        }
    }

    /// The same without TLS.
    #[allow(dead_code)] // Not every program compares the two.
    pub fn plain(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        TlsStream { wire: Wire::plain(stream), patience: PATIENCE }
    }

    fn wait(&self, events: PollFlags) -> io::Result<()> {
        let time = Timespec { tv_sec: self.patience.as_secs().try_into().unwrap(), tv_nsec: 0 };
        match poll(&mut [PollFd::new(self.wire.socket(), events)], Some(&time)) {
            Ok(0) => Err(ErrorKind::TimedOut.into()),
            Ok(_) => Ok(()),
            Err(err) => Err(err.into()),
        }
    }
}

impl Read for TlsStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.wire.read(buf) {
                Err(err) if err.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                done => return done,
            }
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.wire.write(bytes) {
                Err(err) if err.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                Ok(n) => {
                    // Nobody else sends what waits.
                    self.flush()?;
                    return Ok(n);
                }
                err => return err,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.wire.flush()? {
            self.wait(PollFlags::OUT)?;
        }
        Ok(())
    }
}
