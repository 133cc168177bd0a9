//! Checks at start that a client certificate and its key fit together: the HTTP library would panic at the first
//! connection. It never opens a connection.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ureq::http::Request;
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, RustlsConnector, Transport,
};
use ureq::{Agent, Error, SendBody};

use crate::limits;

/// Whether the certificate and the key can be used together.
pub(super) fn is_usable(tls: &TlsConfig) -> bool {
    let config = Agent::config_builder().tls_config(tls.clone()).proxy(None).build();
    let agent = Agent::with_parts(config, ToNowhere.chain(RustlsConnector::default()), DefaultResolver::default());
    // An IP address needs no name server. The request itself always fails.
    let request = Request::get("https://127.0.0.1/").body(SendBody::none());
    request.is_ok_and(|request| catch_unwind(AssertUnwindSafe(|| drop(agent.run(request)))).is_ok())
}

#[derive(Debug)]
struct ToNowhere;

impl Connector for ToNowhere {
    type Out = Nowhere;

    fn connect(&self, _: &ConnectionDetails, _: Option<()>) -> Result<Option<Nowhere>, Error> {
        let bytes = limits::HTTP_CLIENT_BUFFER_BYTES;
        Ok(Some(Nowhere(LazyBuffers::new(bytes, bytes))))
    }
}

#[derive(Debug)]
struct Nowhere(LazyBuffers);

impl Transport for Nowhere {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.0
    }

    fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
        Err(Error::ConnectionFailed)
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        Err(Error::ConnectionFailed)
    }

    fn is_open(&mut self) -> bool {
        false
    }
}
