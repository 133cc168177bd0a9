//! The connection to the store. An answer that comes before a body is sent is heard although the connection breaks, and
//! every wait ends with the stop too.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::time::Instant;

use pillion_base::stop::Stop;
use pillion_http::client::{self, Tcp};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector, Transport,
};
use ureq::{Error, Timeout};

use crate::limits;

thread_local! {
    /// What the server said before the connection of this thread's exchange broke.
    static HEARD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs an exchange whose waits end when the stop begins; with it, what the server said before the connection broke.
pub(crate) fn until_stopped<T>(stop: &Stop, exchange: impl FnOnce() -> T) -> (T, Vec<u8>) {
    HEARD.take();
    let value = client::until_stopped(stop, exchange);
    (value, HEARD.take())
}

/// The connector of all requests: through a proxy if there is one, with TLS if the URL says so.
pub(crate) fn connector() -> impl Connector {
    let tcp = Tcp::new(limits::STORE_CONNECT_TIMEOUT).unsent_bytes_max(limits::STORE_UNSENT_BYTES_MAX);
    ConnectProxyConnector::default().chain(tcp).chain(RustlsConnector::default()).chain(Listen)
}

/// Reads the answer of a server that has stopped reading the request; above TLS.
#[derive(Debug)]
struct Listen;

impl<In: Transport> Connector<In> for Listen {
    type Out = Listening<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(Listening))
    }
}

/// A connection whose early answers are read.
#[derive(Debug)]
struct Listening<T>(T);

impl<T: Transport> Listening<T> {
    fn listen(&mut self) {
        let begun = Instant::now();
        let time = || NextTimeout {
            after: limits::STORE_LAST_WORDS_TIMEOUT.saturating_sub(begun.elapsed()).into(),
            reason: Timeout::RecvResponse,
            per_read: None,
            per_write: None,
        };
        // At most a full buffer, which is enough here, and not for longer if it comes byte by byte.
        while begun.elapsed() < limits::STORE_LAST_WORDS_TIMEOUT && self.0.await_input(time()).is_ok_and(|more| more) {}
        let heard = self.0.buffers().input().to_vec();
        HEARD.set(heard);
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
    use ureq::unversioned::transport::{LazyBuffers, time};

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
            assert!(timeout.after <= limits::STORE_LAST_WORDS_TIMEOUT.into());
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
        assert!(begun.elapsed() < 10 * limits::STORE_LAST_WORDS_TIMEOUT, "{:?}", begun.elapsed());
    }
}
