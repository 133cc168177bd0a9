//! TLS for the StoreAPI client: the gRPC library is built without, so it gets one end of a socket pair, and a thread carries
//! the bytes between the other end and the server.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use grpcio::{Channel, ChannelBuilder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::threads::spawn_thread;
use pillion_http::tls::{ClientTls, Handshake, Wire};

/// Bytes on their way in one direction.
const BUFFER_BYTES: usize = 64 * 1024;

/// What the text of a failed handshake has in it, and what to do about it.
pub(crate) type Advice = (&'static str, &'static str);

/// For the client commands.
pub(super) const ADVICE: [Advice; 5] = [
    ("authority that is trusted here", "--tls-ca names the file of an authority that is to be trusted"),
    ("is for another host", "--tls-server-name says which host is meant"),
    ("wants a certificate", "give --tls-cert and --tls-key"),
    ("does not trust the authority", "--tls-cert must be a certificate that the server's client CA has signed"),
    ("closed the connection during the handshake", "does it speak TLS?"),
];

/// Why a connection ended. With TLS 1.3 a server says what it thinks of our certificate when the handshake is long done
/// for us, and the library only sees that there is no connection any more.
#[derive(Clone, Default)]
pub(crate) struct Ending(Arc<OnceLock<String>>);

impl Ending {
    /// `None` where nothing but the end is known.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// Connects, shakes hands, and gives the library its end. `Blocks:` up to the time-out.
///
/// `Errors:` `Retry` where there is no connection, `Permanent` where the handshake fails.
pub(crate) fn connect(
    builder: ChannelBuilder,
    store: &str,
    tls: &ClientTls,
    timeout: Duration,
    advice: &'static [Advice],
) -> Result<(Channel, Ending)> {
    let deadline = Instant::now() + timeout;
    let mut wire =
        Wire::client(open(store, timeout).map_err(|err| Error::new(Kind::Retry, err.to_string()))?, tls, host(store))?;
    loop {
        let wants = match wire.handshake().map_err(|err| Error::new(Kind::Permanent, refused(&err, advice)))? {
            Handshake::Done => break,
            Handshake::WantsRead => PollFlags::IN,
            Handshake::WantsWrite => PollFlags::OUT,
        };
        if !wait(&mut [PollFd::new(wire.socket(), wants)], Some(deadline)) {
            return Err(Error::new(Kind::Retry, "the TLS handshake took too long; does the server speak TLS?"));
        }
    }
    let (ours, theirs) = UnixStream::pair().context(|| "create a socket pair")?;
    ours.set_nonblocking(true).and_then(|()| theirs.set_nonblocking(true)).context(|| "prepare sockets")?;
    let ending = Ending::default();
    let told = ending.clone();
    spawn_thread("tls", None, move || {
        if let Err(err) = carry(&mut wire, &ours) {
            let _ = told.0.set(advised(last_words(&mut wire, err).to_string(), advice));
        }
        wire.end();
        // The library sees the end of its connection, whatever it was, and only now: the reason is known by then.
        let _ = ours.shutdown(Shutdown::Both);
    })?;
    // Over a descriptor the library would say that the call is for `test.authority`, and proxies choose by that.
    let builder = builder.default_authority(store);
    // SAFETY: the descriptor is a connected stream socket that nothing else owns; the library closes it.
    #[allow(unsafe_code)]
    Ok((unsafe { builder.connect_from_fd(store, theirs.into_raw_fd()) }, ending))
}

/// Why there was no handshake.
pub(super) fn refused(err: &io::Error, advice: &[Advice]) -> String {
    let text = match err.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            format!("the server closed the connection during the handshake ({err})")
        }
        _ => err.to_string(),
    };
    advised(text, advice)
}

fn advised(text: String, advice: &[Advice]) -> String {
    match advice.iter().find(|(what, _)| text.contains(what)) {
        Some((_, advice)) => format!("{text}; {advice}"),
        None => text,
    }
}

/// What the server said before it closed the connection, of which a write may have been told first.
fn last_words(wire: &mut Wire, err: io::Error) -> io::Error {
    let mut dropped = vec![0; BUFFER_BYTES];
    loop {
        match wire.read(&mut dropped) {
            Ok(0) => return err,
            Ok(_) => {}
            Err(said) if said.kind() == ErrorKind::InvalidData => return said,
            Err(_) => return err,
        }
    }
}

fn open(store: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut failed = None;
    for address in store.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(err) => failed = Some(err),
        }
    }
    Err(failed.unwrap_or_else(|| ErrorKind::NotFound.into()))
}

fn host(store: &str) -> &str {
    store.rsplit_once(':').map_or(store, |(host, _)| host)
}

/// Carries bytes both ways until a side ends.
fn carry(wire: &mut Wire, mut library: &UnixStream) -> io::Result<()> {
    let (mut to_server, mut to_library) = (Pending::default(), Pending::default());
    loop {
        let mut has_moved = false;
        if to_server.is_empty() && !wire.wants_write() {
            match to_server.fill(|buffer| library.read(buffer)) {
                Some(Ok(0)) => return Ok(()),
                Some(n) => has_moved |= n? > 0,
                None => {}
            }
        }
        has_moved |= to_server.empty(|bytes| wire.write(bytes))?;
        wire.flush()?;
        if to_library.is_empty() {
            match to_library.fill(|buffer| wire.read(buffer)) {
                Some(Ok(0)) => return Ok(()),
                Some(n) => has_moved |= n? > 0,
                None => {}
            }
        }
        has_moved |= to_library.empty(|bytes| library.write(bytes))?;
        if has_moved {
            continue;
        }
        let flag = |wanted: bool, flag: PollFlags| if wanted { flag } else { PollFlags::empty() };
        let is_sending = !to_server.is_empty() || wire.wants_write();
        let server = flag(is_sending, PollFlags::OUT) | flag(to_library.is_empty(), PollFlags::IN);
        let library_wants = flag(!to_library.is_empty(), PollFlags::OUT) | flag(!is_sending, PollFlags::IN);
        // A side of which nothing is wanted is left out: that it has hung up would end every wait at once.
        let mut polled = Vec::with_capacity(2);
        if !server.is_empty() {
            polled.push(PollFd::new(wire.socket(), server));
        }
        if !library_wants.is_empty() {
            polled.push(PollFd::new(&library, library_wants));
        }
        wait(&mut polled, None);
    }
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    start: usize,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.start >= self.bytes.len()
    }

    /// `None` when there is nothing to read now.
    fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> Option<io::Result<usize>> {
        self.start = 0;
        self.bytes.resize(BUFFER_BYTES, 0);
        let n = read(&mut self.bytes);
        self.bytes.truncate(*n.as_ref().unwrap_or(&0));
        match n {
            Err(err) if is_transient(&err) => None,
            n => Some(n),
        }
    }

    /// True when something was taken.
    fn empty(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        let before = self.start;
        while let Some(bytes) = self.bytes.get(self.start..).filter(|bytes| !bytes.is_empty()) {
            match write(bytes) {
                Ok(n) => self.start += n,
                Err(err) if is_transient(&err) => break,
                Err(err) => return Err(err),
            }
        }
        Ok(self.start > before)
    }
}

fn is_transient(err: &io::Error) -> bool {
    matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// False when the deadline has passed.
pub(super) fn wait(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> bool {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let timeout = left.map(|left| Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    });
    // An error is found again by who reads or writes.
    !matches!(poll(fds, timeout.as_ref()), Ok(0))
}
