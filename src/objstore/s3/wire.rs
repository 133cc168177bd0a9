//! TCP for the store's HTTP, in which every wait ends with the stop too, and an answer that comes before a body is sent
//! is heard although the connection breaks.
//!
//! The HTTP library blocks on the thread that calls it, so a thread says which stop ends its exchange
//! ([`until_stopped`]), and each wait for a socket is a wait for that stop as well. Nothing has to watch from outside.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, RustlsConnector,
    Transport, time,
};
use ureq::{Error, Timeout};

use crate::limits;
use crate::supervisor::Stop;

/// What this thread's exchange hears and ends with.
#[derive(Default)]
struct Exchange {
    stop: Option<Stop>,
    heard: Vec<u8>,
}

thread_local! {
    static EXCHANGE: RefCell<Exchange> = RefCell::default();
}

/// Runs an exchange whose waits end when the stop begins; with it, what the server said before the connection broke.
pub fn until_stopped<T>(stop: &Stop, exchange: impl FnOnce() -> T) -> (T, Vec<u8>) {
    /// Also after a panic the thread's next exchange has nothing of this one.
    struct Clean;
    impl Drop for Clean {
        fn drop(&mut self) {
            EXCHANGE.take();
        }
    }
    EXCHANGE.set(Exchange { stop: Some(stop.clone()), heard: Vec::new() });
    let _clean = Clean;
    let value = exchange();
    (value, EXCHANGE.with_borrow_mut(|exchange| std::mem::take(&mut exchange.heard)))
}

/// Connects as everything here does: through a proxy where there is one, with TLS where the URL says so.
pub fn connector() -> impl Connector {
    ConnectProxyConnector::default().chain(Tcp).chain(RustlsConnector::default()).chain(Listen)
}

/// Opens TCP connections.
#[derive(Debug)]
struct Tcp;

impl<In: Transport> Connector<In> for Tcp {
    type Out = Either<In, Connection>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        if chained.is_some() {
            return Ok(chained.map(Either::A));
        }
        // For one address of a host that has several.
        let most = limits::S3_CONNECT_TIMEOUT;
        let time = details.timeout.not_zero().map_or(most, |left| (*left).min(most));
        let mut failed = None;
        for address in &details.addrs {
            match open(*address, time) {
                Ok(stream) => {
                    let buffers =
                        LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
                    return Ok(Some(Either::B(Connection { stream, buffers, is_broken: false })));
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

fn open(address: SocketAddr, time: Duration) -> io::Result<TcpStream> {
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
    // What is acknowledged counts as progress, not what waits in the kernel: else a slow link looks stalled, and the
    // answer overdue, while megabytes are still on their way.
    crate::sys::set_unsent_bytes_max(stream.as_fd(), limits::S3_UNSENT_BYTES_MAX)?;
    Ok(stream)
}

/// Waits until the socket is ready. `Errors:` `TimedOut`; `ConnectionAborted` when the stop begins.
fn wait(socket: BorrowedFd<'_>, flags: PollFlags, deadline: Option<Instant>) -> io::Result<()> {
    EXCHANGE.with_borrow(|exchange| {
        let socket = PollFd::from_borrowed_fd(socket, flags);
        let stop = exchange.stop.as_ref().map(|stop| PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN));
        let mut with_stop;
        let mut alone;
        let fds: &mut [PollFd<'_>] = match stop {
            Some(stop) => {
                with_stop = [socket, stop];
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

/// An open connection.
struct Connection {
    stream: TcpStream,
    buffers: LazyBuffers,
    is_broken: bool,
}

impl Connection {
    fn write(&self, mut output: &[u8], timeout: NextTimeout) -> Result<(), Error> {
        let whole = deadline(timeout.after);
        while !output.is_empty() {
            match (&self.stream).write(output) {
                Ok(n_written) => output = output.get(n_written..).unwrap_or_default(),
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT, whole, timeout, true)?,
                Err(err) => return Err(Error::Io(err)),
            }
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
        wait(self.stream.as_fd(), flags, deadline).map_err(|err| match err.kind() {
            ErrorKind::TimedOut => Error::Timeout(reason),
            ErrorKind::ConnectionAborted => {
                // The close that follows is a reset: the server need not wait for the rest.
                let _ = sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
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
        // Without the exchange of two fields the buffer could not be borrowed while the socket is written to.
        let mut buffers = std::mem::replace(&mut self.buffers, LazyBuffers::new(1, 1));
        let written = self.write(buffers.output().get(..amount).unwrap_or_default(), timeout);
        self.buffers = buffers;
        self.is_broken = written.is_err();
        written
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let whole = deadline(timeout.after);
        loop {
            match (&self.stream).read(self.buffers.input_append_buf()) {
                Ok(n_read) => {
                    self.buffers.input_appended(n_read);
                    return Ok(n_read > 0);
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::IN, whole, timeout, false)?,
                Err(err) => return Err(Error::Io(err)),
            }
        }
    }

    /// An idle connection is open while it has nothing to say.
    fn is_open(&mut self) -> bool {
        !self.is_broken && matches!(self.stream.peek(&mut [0]), Err(err) if err.kind() == ErrorKind::WouldBlock)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.stream.peer_addr().ok()).finish_non_exhaustive()
    }
}

/// Listens to what the server said when it does not take the rest of a request; above TLS.
#[derive(Debug)]
struct Listen;

impl<In: Transport> Connector<In> for Listen {
    type Out = Listening<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(Listening))
    }
}

/// A connection that is listened to.
#[derive(Debug)]
struct Listening<T>(T);

impl<T: Transport> Listening<T> {
    fn listen(&mut self) {
        let begun = Instant::now();
        let time = || NextTimeout {
            after: limits::S3_LAST_WORDS_TIMEOUT.saturating_sub(begun.elapsed()).into(),
            reason: Timeout::RecvResponse,
            per_read: None,
            per_write: None,
        };
        // At most a buffer full, and not for longer when it comes drop by drop; servers say little here.
        while begun.elapsed() < limits::S3_LAST_WORDS_TIMEOUT && self.0.await_input(time()).is_ok_and(|more| more) {}
        let heard = self.0.buffers().input().to_vec();
        EXCHANGE.with_borrow_mut(|exchange| exchange.heard = heard);
    }
}

impl<T: Transport> Transport for Listening<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let sent = self.0.transmit_output(amount, timeout);
        let is_stopped = matches!(&sent, Err(Error::Io(err)) if err.kind() == ErrorKind::ConnectionAborted);
        if sent.is_err() && !is_stopped {
            self.listen();
        }
        sent
    }

    fn maybe_await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.0.maybe_await_input(timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Always has one more byte to say, and never says all.
    #[derive(Debug)]
    struct Dripping(LazyBuffers);

    impl Transport for Dripping {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.0
        }

        fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
            Err(Error::ConnectionFailed)
        }

        fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
            assert!(timeout.after <= limits::S3_LAST_WORDS_TIMEOUT.into());
            std::thread::yield_now();
            Ok(true)
        }

        fn is_open(&mut self) -> bool {
            true
        }
    }

    #[test]
    fn last_words_that_do_not_end_are_listened_to_for_their_time_only() {
        let mut listening = Listening(Dripping(LazyBuffers::new(64, 64)));
        let time = NextTimeout {
            after: time::Duration::NotHappening,
            reason: Timeout::Global,
            per_read: None,
            per_write: None,
        };
        let begun = Instant::now();
        listening.transmit_output(0, time).unwrap_err();
        assert!(begun.elapsed() < 10 * limits::S3_LAST_WORDS_TIMEOUT, "{:?}", begun.elapsed());
    }
}
