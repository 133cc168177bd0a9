//! TCP for the HTTP client. Every wait for a socket is a wait for the stop as well ([`until_stopped`]), and what is cut is
//! cut with a reset. The library's own connector cuts with shutdown(2): a peer that is in the middle of a large answer
//! then fills our closed window and waits for it, for a minute and more. A reset ends it at once.
//!
//! The library blocks on the thread that calls it, so a thread says which stop ends its exchange. Nothing has to watch
//! from outside.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::LocalKey;
use std::time::{Duration, Instant};

use pillion_base::stop::Stop;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, ShutdownHandle, Transport, time,
};
use ureq::{Error, Timeout};

use crate::client::gather::{Gather, WANTED_BYTES};
use crate::client::late::addresses;
use crate::client::socket::{set_readable_bytes_min, set_unsent_bytes_max};
use crate::limits;

thread_local! {
    /// What ends the exchange of this thread.
    static STOP: RefCell<Option<Stop>> = const { RefCell::new(None) };
    /// What this thread does before it waits for an answer.
    static BEFORE_WAITS: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
}

/// Runs `work`, in which `hook` is called whenever this thread is about to wait for more of an answer: what was kept back
/// to go together with more of it should go then.
pub fn before_waits<T>(hook: Box<dyn Fn()>, work: impl FnOnce() -> T) -> T {
    with_set(&BEFORE_WAITS, hook, work)
}

/// Runs `work` on a thread that has `value` meanwhile.
fn with_set<V: 'static, T>(of_thread: &'static LocalKey<RefCell<Option<V>>>, value: V, work: impl FnOnce() -> T) -> T {
    /// Also after a panic the thread's next exchange has nothing of this one.
    struct Clean<V: 'static>(&'static LocalKey<RefCell<Option<V>>>);
    impl<V> Drop for Clean<V> {
        fn drop(&mut self) {
            self.0.take();
        }
    }
    of_thread.set(Some(value));
    let _clean = Clean(of_thread);
    work()
}

/// Tells whoever wants to know that this thread waits next.
fn about_to_wait() {
    BEFORE_WAITS.with_borrow(|hook| hook.iter().for_each(|hook| hook()));
}

/// Runs an exchange whose waits end when the stop begins.
pub fn until_stopped<T>(stop: &Stop, exchange: impl FnOnce() -> T) -> T {
    with_set(&STOP, stop.clone(), exchange)
}

/// Opens TCP connections.
#[derive(Debug)]
pub struct Tcp {
    connect_timeout: Duration,
    unsent_bytes_max: Option<u32>,
    unacknowledged_max: Option<Duration>,
    gathers: bool,
    n_opened: Arc<AtomicU64>,
}

impl Tcp {
    /// With this time to connect, for each address of a host that has several.
    pub fn new(connect_timeout: Duration) -> Self {
        Tcp {
            connect_timeout,
            unsent_bytes_max: None,
            unacknowledged_max: None,
            gathers: false,
            n_opened: Arc::default(),
        }
    }

    /// Bounds the bytes that may wait in the kernel for their first time on the wire. With a bound, what is acknowledged
    /// counts as progress: else a slow link looks stalled, and the answer overdue, while megabytes are still on their way.
    pub fn unsent_bytes_max(self, bytes: u32) -> Self {
        Tcp { unsent_bytes_max: Some(bytes), ..self }
    }

    /// Breaks a connection whose peer does not acknowledge what it is sent for so long: a connection that was kept may
    /// lead to a machine that is gone.
    pub(super) fn unacknowledged(self, time: Duration) -> Self {
        Tcp { unacknowledged_max: Some(time), ..self }
    }

    /// Gathers small reads of large answers (`gather.rs`).
    pub(super) fn gathering(self) -> Self {
        Tcp { gathers: true, ..self }
    }

    /// Counts connections here.
    pub(super) fn counted(self, n_opened: Arc<AtomicU64>) -> Self {
        Tcp { n_opened, ..self }
    }
}

impl<In: Transport> Connector<In> for Tcp {
    type Out = Either<In, Connection>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        if chained.is_some() {
            return Ok(chained.map(Either::A));
        }
        let most = self.connect_timeout;
        let time = details.timeout.not_zero().map_or(most, |left| (*left).min(most));
        let mut failed = None;
        for address in addresses(details)?.iter() {
            match self.open(*address, time) {
                Ok(stream) => {
                    let socket = Arc::new(Socket(stream));
                    let handle: Weak<dyn ShutdownHandle> = Arc::downgrade(&socket) as Weak<dyn ShutdownHandle>;
                    (details.register_shutdown)(handle)?;
                    self.n_opened.fetch_add(1, Ordering::Relaxed);
                    let buffer_bytes = (details.config.input_buffer_size(), details.config.output_buffer_size());
                    let buffers = LazyBuffers::new(buffer_bytes.0, buffer_bytes.1);
                    let gather = self.gathers.then(|| Gather::new(Instant::now()));
                    let (head, is_broken) = (Some(Vec::new()), false);
                    return Ok(Some(Either::B(Connection { socket, buffers, buffer_bytes, gather, head, is_broken })));
                }
                Err(err) => failed = Some(err),
            }
        }
        Err(failed.map_or(Error::HostNotFound, |err| match err.kind() {
            ErrorKind::TimedOut => Error::Timeout(Timeout::Connect),
            _ => Error::Io(err),
        }))
    }
}

impl Tcp {
    fn open(&self, address: SocketAddr, time: Duration) -> io::Result<TcpStream> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Err(err) if err != rustix::io::Errno::INPROGRESS => return Err(err.into()),
            _ => {}
        }
        wait(socket.as_fd(), PollFlags::OUT, Instant::now().checked_add(time))?;
        sockopt::socket_error(&socket)??;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        if let Some(bytes) = self.unsent_bytes_max {
            set_unsent_bytes_max(stream.as_fd(), bytes)?;
        }
        if let Some(time) = self.unacknowledged_max {
            sockopt::set_tcp_user_timeout(&stream, u32::try_from(time.as_millis()).unwrap_or(u32::MAX))?;
        }
        Ok(stream)
    }
}

/// Waits until the socket is ready. `Errors:` `TimedOut`; `ConnectionAborted` when the stop begins.
fn wait(socket: BorrowedFd<'_>, flags: PollFlags, deadline: Option<Instant>) -> io::Result<()> {
    STOP.with_borrow(|stop| {
        let socket = PollFd::from_borrowed_fd(socket, flags);
        let mut with_stop;
        let mut alone;
        let fds: &mut [PollFd<'_>] = match stop {
            Some(stop) => {
                with_stop = [socket, PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN)];
                &mut with_stop
            }
            None => {
                alone = [socket];
                &mut alone
            }
        };
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let time = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            let n_ready = match rustix::event::poll(fds, time.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            if fds.get(1).is_some_and(|stop| !stop.revents().is_empty()) {
                return Err(io::Error::new(ErrorKind::ConnectionAborted, "stopping"));
            }
            if n_ready > 0 {
                return Ok(());
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    })
}

struct Socket(TcpStream);

impl Socket {
    /// The close that follows is a reset, whatever was read and whatever was not: the peer need not wait for the rest.
    fn reset_at_close(&self) {
        let _ = sockopt::set_socket_linger(&self.0, Some(Duration::ZERO));
    }
}

impl ShutdownHandle for Socket {
    fn shutdown(&self) {
        self.reset_at_close();
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// An open connection.
pub struct Connection {
    socket: Arc<Socket>,
    buffers: LazyBuffers,
    /// Of input and output.
    buffer_bytes: (usize, usize),
    /// None where reads are never gathered.
    gather: Option<Gather>,
    /// The first part of a request, which goes together with the second: a peer that gets a head alone wakes for it alone.
    /// Empty before it, and `None` once it has gone.
    head: Option<Vec<u8>>,
    is_broken: bool,
}

impl Connection {
    /// Writes `output` behind the head that was kept, or keeps it if it may be one.
    fn send(&mut self, output: &[u8], timeout: NextTimeout) -> Result<(), Error> {
        let is_small = output.len() <= limits::HEAD_BYTES_MAX;
        match self.head.take() {
            Some(head) if head.is_empty() && is_small => {
                self.head = Some(output.to_vec());
                Ok(())
            }
            Some(mut head) if is_small => {
                head.extend_from_slice(output);
                self.write(&head, timeout)
            }
            Some(head) => {
                self.write(&head, timeout)?;
                self.write(output, timeout)
            }
            None => self.write(output, timeout),
        }
    }

    fn write(&self, mut output: &[u8], timeout: NextTimeout) -> Result<(), Error> {
        let whole = deadline(timeout.after);
        while !output.is_empty() {
            match (&self.socket.0).write(output) {
                Ok(n_written) => output = output.get(n_written..).unwrap_or_default(),
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT, whole, timeout, true)?,
                Err(err) => return Err(Error::Io(err)),
            }
        }
        Ok(())
    }

    /// Waits a short time for more than a little, where reads are gathered; false where they are not.
    fn gather_input(&self) -> Result<bool, Error> {
        let Some(time) = self.gather.as_ref().and_then(|gather| gather.wait(Instant::now())) else { return Ok(false) };
        about_to_wait();
        match wait(self.socket.0.as_fd(), PollFlags::IN, Instant::now().checked_add(time)) {
            // What is there is enough now.
            Err(err) if err.kind() == ErrorKind::TimedOut => Ok(true),
            other => self.waited(other, Timeout::PerRead).map(|()| true),
        }
    }

    /// From here on a single byte is waited for.
    fn end_gathering(&mut self) -> Result<(), Error> {
        if let Some(gather) = self.gather.as_mut().filter(|gather| gather.is_on()) {
            gather.nothing_came();
            set_readable_bytes_min(self.socket.0.as_fd(), 1)?;
        }
        Ok(())
    }

    /// The deadline is that of the whole phase; the time without progress counts from now.
    fn wait(
        &self,
        flags: PollFlags,
        whole: Option<Instant>,
        timeout: NextTimeout,
        is_write: bool,
    ) -> Result<(), Error> {
        let (step, reason) = match is_write {
            true => (timeout.per_write, Timeout::PerWrite),
            false => (timeout.per_read, Timeout::PerRead),
        };
        let step = step.and_then(deadline);
        let (deadline, reason) = match (whole, step) {
            (Some(whole), Some(step)) if step < whole => (Some(step), reason),
            (None, Some(step)) => (Some(step), reason),
            (whole, _) => (whole, timeout.reason),
        };
        self.waited(wait(self.socket.0.as_fd(), flags, deadline), reason)
    }

    /// What a wait that failed means.
    fn waited(&self, outcome: io::Result<()>, reason: Timeout) -> Result<(), Error> {
        outcome.map_err(|err| match err.kind() {
            ErrorKind::TimedOut => Error::Timeout(reason),
            ErrorKind::ConnectionAborted => {
                self.socket.reset_at_close();
                Error::Io(err)
            }
            _ => Error::Io(err),
        })
    }
}

fn deadline(time: time::Duration) -> Option<Instant> {
    match time {
        time::Duration::Exact(time) => Instant::now().checked_add(time),
        time::Duration::NotHappening => None,
    }
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        // Once it has failed, what TLS still wants to write is thrown away, so that TLS goes on to read.
        if self.is_broken {
            return Ok(());
        }
        // The time of the next answer begins.
        self.end_gathering()?;
        if let Some(gather) = &mut self.gather {
            *gather = Gather::new(Instant::now());
        }
        // Without the exchange of two fields the buffer could not be borrowed while the socket is written to.
        let mut buffers = std::mem::replace(&mut self.buffers, LazyBuffers::new(1, 1));
        let sent = self.send(buffers.output().get(..amount).unwrap_or_default(), timeout);
        self.buffers = buffers;
        self.is_broken = sent.is_err();
        sent
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let whole = deadline(timeout.after);
        if let Some(head) = self.head.take() {
            let sent = self.write(&head, timeout);
            self.is_broken = sent.is_err();
            sent?;
        }
        let mut waited = self.gather_input()?;
        loop {
            let room = self.buffers.input_append_buf();
            let room_bytes = room.len();
            match (&self.socket.0).read(room) {
                Ok(n_read) => {
                    self.buffers.input_appended(n_read);
                    // What is sent after an answer is the next request.
                    self.head = Some(Vec::new());
                    if self.gather.as_mut().is_some_and(|gather| gather.read(n_read, room_bytes, waited)) {
                        set_readable_bytes_min(self.socket.0.as_fd(), WANTED_BYTES)?;
                    }
                    return Ok(n_read > 0);
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => {
                    self.end_gathering()?;
                    about_to_wait();
                    self.wait(PollFlags::IN, whole, timeout, false)?;
                    waited = true;
                }
                Err(err) => return Err(Error::Io(err)),
            }
        }
    }

    /// An idle connection is open while it has nothing to say. It is asked when it is put aside, and holds no memory then.
    fn is_open(&mut self) -> bool {
        if self.buffers.input().is_empty() {
            self.buffers = LazyBuffers::new(self.buffer_bytes.0, self.buffer_bytes.1);
        }
        !self.is_broken && matches!(self.socket.0.peek(&mut [0]), Err(err) if err.kind() == ErrorKind::WouldBlock)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.socket.0.peer_addr().ok()).finish_non_exhaustive()
    }
}
