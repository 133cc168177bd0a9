//! Requests without TLS through a proxy: they go to the proxy as they are, with the whole URL in their first line. The
//! library would ask each proxy for a tunnel, which many open to port 443 only.

use std::fmt;

use pillion_base::secret::Secret;
use ureq::Error;
use ureq::http::Uri;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, Either, NextTimeout, Transport};

use super::access::basic;
use super::tcp::{Connection, Tcp};
use super::yaml::ProxyAddress;

/// Connects to a proxy in place of the peer; without one it leaves that to the next connector.
#[derive(Debug)]
pub(super) struct Forward(pub(super) Option<Via>);

/// The proxy.
#[derive(Debug)]
pub(super) struct Via {
    uri: Uri,
    authorization: Option<Secret>,
    tcp: Tcp,
}

impl Via {
    /// `None` for a host that no URL can have.
    pub(super) fn new(proxy: &ProxyAddress, tcp: Tcp) -> Option<Via> {
        let host = if proxy.host.contains(':') { format!("[{}]", proxy.host) } else { proxy.host.clone() };
        let uri = format!("http://{host}:{}", proxy.port).parse().ok()?;
        let user = proxy.user.as_ref();
        let authorization = user.map(|user| basic(&user.username, user.password.as_deref().unwrap_or_default()));
        Some(Via { uri, authorization, tcp })
    }
}

impl<In: Transport> Connector<In> for Forward {
    type Out = Either<In, Forwarded>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        let (None, Some(via)) = (&chained, &self.0) else { return Ok(chained.map(Either::A)) };
        let to_proxy = ConnectionDetails {
            uri: &via.uri,
            addrs: details.resolver.empty(),
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let Some(over) = Connector::<()>::connect(&via.tcp, &to_proxy, None)? else { return Ok(None) };
        let origin = details.uri.authority().map_or("", |authority| authority.as_str());
        let origin = format!("http://{origin}");
        Ok(Some(Either::B(Forwarded { over, origin, authorization: via.authorization.clone(), is_head: true })))
    }
}

/// A connection to a proxy.
pub(super) struct Forwarded {
    over: Either<(), Connection>,
    origin: String,
    authorization: Option<Secret>,
    /// What is sent next begins a request.
    is_head: bool,
}

/// The beginning of a request, as a proxy wants it.
fn for_proxy(head: &[u8], origin: &str, authorization: Option<&Secret>) -> Vec<u8> {
    let path_at = head.iter().position(|c| *c == b' ').map_or(0, |at| at + 1);
    let line_end = head.windows(2).position(|end| end == b"\r\n").map_or(head.len(), |at| at + 2);
    let (method, rest) = head.split_at(path_at);
    let (path, fields) = rest.split_at(line_end.saturating_sub(path_at));
    let mut out = [method, origin.as_bytes(), path].concat();
    if let Some(Secret(value)) = authorization {
        out.extend_from_slice(format!("Proxy-Authorization: {value}\r\n").as_bytes());
    }
    out.extend_from_slice(fields);
    out
}

impl Transport for Forwarded {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.over.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if !std::mem::take(&mut self.is_head) {
            return self.over.transmit_output(amount, timeout);
        }
        let head = self.over.buffers().output().get(..amount).unwrap_or_default().to_vec();
        let head = for_proxy(&head, &self.origin, self.authorization.as_ref());
        let mut rest = head.as_slice();
        while !rest.is_empty() {
            let room = self.over.buffers().output();
            let n_sent = room.len().min(rest.len());
            let (now, later) = rest.split_at(n_sent);
            if let Some(room) = room.get_mut(..n_sent) {
                room.copy_from_slice(now);
            }
            self.over.transmit_output(n_sent, timeout)?;
            rest = later;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let has_come = self.over.await_input(timeout)?;
        // What is sent after an answer is the next request.
        self.is_head = true;
        Ok(has_come)
    }

    fn is_open(&mut self) -> bool {
        self.over.is_open()
    }
}

impl fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarded").field("over", &self.over).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_url_and_a_password() {
        let check = |head: &str, user: Option<&str>, expected: &str| {
            let user = user.map(|user| basic(user, "x"));
            let got = for_proxy(head.as_bytes(), "http://p:9090", user.as_ref());
            assert_eq!(String::from_utf8(got).unwrap(), expected);
        };
        check("GET /a?b HTTP/1.1\r\nhost: p\r\n\r\n", None, "GET http://p:9090/a?b HTTP/1.1\r\nhost: p\r\n\r\n");
        let expected = "POST http://p:9090/ HTTP/1.1\r\nProxy-Authorization: Basic dTp4\r\nhost: p\r\n\r\nbody";
        check("POST / HTTP/1.1\r\nhost: p\r\n\r\nbody", Some("u"), expected);
        // Nothing that the library sends, but nothing that ends the daemon either.
        check("", None, "http://p:9090");
        check("x\r\n y", None, "x\r\n http://p:9090y");
    }
}
