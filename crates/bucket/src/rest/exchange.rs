//! One request and its answer over HTTP, without retries.

use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use md5::{Digest, Md5};
use rusty_s3::Method;
use ureq::http::{HeaderMap, Request, Uri};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Agent, Proxy, SendBody};
use url::Url;

use super::config::HttpConfig;
use super::proxy::proxy_for;
use super::wire;
use super::words::Cause;
use crate::limits;
use crate::pace::Pace;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;
use pillion_http::client as http;
use pillion_http::tls::{CertificateDer, Pem, read_pair};

/// The body of a request.
#[derive(Clone, Copy)]
pub(crate) enum Body<'a> {
    /// Nothing, as with GET.
    None,
    /// A few bytes.
    Bytes(&'a [u8]),
    /// A part of a file, at the bucket's pace; its MD5 is computed on the way unless it is known.
    File {
        /// The file.
        source: &'a Source,
        /// Start and end of the part.
        range: (u64, u64),
        /// Whether to compute the MD5.
        is_hashed: bool,
    },
}

impl Body<'_> {
    /// Its size. `Units:` bytes.
    pub(crate) fn length(&self) -> u64 {
        match *self {
            Body::None => 0,
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { range: (start, end), .. } => end.saturating_sub(start),
        }
    }
}

/// A request that is ready to be sent.
pub(crate) struct SignedRequest<'a> {
    /// The HTTP method.
    pub method: Method,
    /// The URL.
    pub url: Url,
    /// The headers, the signature among them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body<'a>,
}

/// Where the body of an answer goes.
pub(crate) enum BodySink<'a> {
    /// Into memory, up to so many bytes.
    Buffer(u64),
    /// To a function, piece by piece, with the status; its error ends the exchange. Refusals go into memory.
    Stream(&'a mut dyn FnMut(u16, &[u8]) -> Result<()>),
}

impl BodySink<'_> {
    /// The same for another attempt.
    pub(crate) fn reborrow(&mut self) -> BodySink<'_> {
        match self {
            BodySink::Buffer(limit) => BodySink::Buffer(*limit),
            BodySink::Stream(each) => BodySink::Stream(&mut **each),
        }
    }
}

/// An answer.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    headers: HeaderMap,
    /// The body, as far as it went into memory.
    pub body: Vec<u8>,
    /// MD5 of what was sent from a file, if it was wanted.
    pub sent_md5: Option<[u8; 16]>,
}

impl Answer {
    /// A header's value; empty when it is missing or not text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
    }
}

/// Why there is no answer.
pub(crate) enum ExchangeError {
    /// The peer or the network failed.
    Network(Cause, String),
    /// The local file failed, the receiver of a body did, or the stop began.
    Local(Error),
}

/// The connections to the store, with their settings.
pub(crate) struct ConnectionPool {
    agent: Agent,
    /// A permit for each connection that may be open. An exchange holds one.
    permits: Option<(Sender<()>, Receiver<()>)>,
    /// The name in the server's certificate, if it is not the endpoint's host, and the real target of connections.
    alias: Option<(String, Target)>,
}

/// `host:port` of the store, shared with the resolver.
type Target = Arc<Mutex<String>>;

impl ConnectionPool {
    /// Reads the certificates; no connection is opened yet.
    ///
    /// `Errors:` each names the setting that is wrong.
    pub(crate) fn new(
        settings: &HttpConfig,
        server: &Url,
        user_agent: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<ConnectionPool> {
        let is_tls = server.scheme() == "https";
        let proxy = proxy(server, env)?;
        let alias = match settings.server_name.as_str() {
            "" => None,
            _ if !is_tls => None,
            _ if proxy.is_some() => {
                return Err(Error::new(
                    Kind::Permanent,
                    "http_config.tls_config.server_name cannot be used through a proxy: name the endpoint in NO_PROXY",
                ));
            }
            name => Some((name.to_owned(), Target::default())),
        };
        let mut builder = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(user_agent)
            .proxy(proxy)
            .timeout_resolve(Some(limits::CONNECT_TIMEOUT))
            .timeout_connect(Some(settings.connect_timeout.saturating_add(settings.tls_handshake_timeout)))
            .timeout_recv_response(Some(settings.response_header_timeout).filter(|time| !time.is_zero()))
            .timeout_per_read(Some(limits::STORE_STALL_TIMEOUT.max(settings.response_header_timeout)))
            .timeout_per_write(Some(limits::STORE_STALL_TIMEOUT))
            .max_idle_connections(settings.max_idle_conns)
            .max_idle_connections_per_host(settings.max_idle_conns_per_host)
            .max_idle_age(settings.idle_conn_timeout)
            .input_buffer_size(limits::HTTP_CLIENT_BUFFER_BYTES)
            .output_buffer_size(limits::COPY_BUFFER_BYTES);
        if is_tls {
            builder = builder.tls_config(tls(settings)?);
        }
        let resolver =
            EndpointResolver { fixed: alias.as_ref().map(|(_, target)| Arc::clone(target)), real: <_>::default() };
        let permits = (settings.max_conns_per_host > 0).then(|| bounded(settings.max_conns_per_host));
        Ok(ConnectionPool { agent: Agent::with_parts(builder.build(), wire::connector(), resolver), permits, alias })
    }

    /// Sends a request over the permitted connection and reads its answer.
    ///
    /// `Blocks:` as long as there is progress, or until the stop.
    pub(crate) fn exchange(
        &self,
        _: &Permit<'_>,
        signed: &SignedRequest<'_>,
        sink: BodySink<'_>,
        pace: &Pace,
        stop: &Stop,
    ) -> Result<Answer, ExchangeError> {
        let request = self.request(signed).map_err(ExchangeError::Local)?;
        let mut sending = BodyReader::new(signed.body, pace, stop);
        let (done, heard) = wire::until_stopped(stop, || self.run(request, &mut sending, sink));
        let broken = match done {
            Ok(answer) => return Ok(answer),
            Err(broken) => broken,
        };
        if let Some(err) = sending.failed {
            return Err(ExchangeError::Local(err));
        }
        if stop.is_stopped() {
            return Err(ExchangeError::Local(Error::new(Kind::Stopped, "stopping")));
        }
        // The server may have said why before it closed the connection.
        match broken {
            ExchangeError::Network(..) => early_answer(&heard).ok_or(broken),
            ours => Err(ours),
        }
    }

    fn run(
        &self,
        request: Request<()>,
        sending: &mut BodyReader<'_>,
        mut sink: BodySink<'_>,
    ) -> Result<Answer, ExchangeError> {
        let (head, ()) = request.into_parts();
        let sent = if matches!(sending.body, Body::None) {
            self.agent.run(Request::from_parts(head, SendBody::none()))
        } else {
            self.agent.run(Request::from_parts(head, SendBody::from_reader(sending)))
        };
        let (head, body) = sent.map_err(|err| network(&err))?.into_parts();
        let status = head.status.as_u16();
        let mut answer = Answer { status, headers: head.headers, body: Vec::new(), sent_md5: None };
        // The answer to a HEAD has a length and no body.
        let mut reader = body.into_reader();
        let mut buffer = vec![0; limits::HTTP_CLIENT_BUFFER_BYTES];
        let limit = match &sink {
            BodySink::Buffer(limit) if (200..300).contains(&status) => *limit,
            _ => limits::ERROR_BODY_BYTES_MAX,
        };
        loop {
            let n_read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n_read) => n_read,
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                // The status of a refusal matters even if its body breaks off.
                Err(_) if status >= 300 => break,
                Err(err) => return Err(network(&ureq::Error::Io(err))),
            };
            let piece = buffer.get(..n_read).unwrap_or_default();
            match &mut sink {
                BodySink::Stream(each) if (200..300).contains(&status) => {
                    each(status, piece).map_err(ExchangeError::Local)?
                }
                _ => {
                    let left = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(answer.body.len());
                    answer.body.extend_from_slice(piece.get(..left.min(piece.len())).unwrap_or_default());
                    if left < piece.len() {
                        if status >= 300 {
                            break;
                        }
                        let text = format!("the answer is larger than {limit} bytes");
                        return Err(ExchangeError::Local(Error::new(Kind::Limit, text)));
                    }
                }
            }
        }
        answer.sent_md5 = sending.md5.take().map(|md5| md5.finalize().into());
        Ok(answer)
    }

    fn request(&self, signed: &SignedRequest<'_>) -> Result<Request<()>> {
        let mut url = signed.url.clone();
        let host = authority(&url);
        if let Some((name, target)) = &self.alias {
            *target.lock().unwrap_or_else(PoisonError::into_inner) =
                format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
            // The library's error would show the URL.
            url.set_host(Some(name)).map_err(|_| {
                Error::new(Kind::Permanent, "http_config.tls_config.server_name is not the name of a host")
            })?;
        }
        let mut request = Request::builder().method(signed.method.to_str()).uri(url.as_str());
        if self.alias.is_some() {
            request = request.header("host", host);
        }
        for (name, value) in &signed.headers {
            request = request.header(name.as_str(), value.as_str());
        }
        if !matches!(signed.body, Body::None) {
            request = request.header("content-length", signed.body.length());
        }
        request.body(()).map_err(|_| Error::new(Kind::Permanent, "a header of the request has characters HTTP forbids"))
    }

    /// Waits until a connection may be opened or reused. Others may have it for hours, so the request is signed after.
    pub(crate) fn permit(&self, stop: &Stop) -> Result<Permit<'_>> {
        let Some((acquire, release)) = &self.permits else { return Ok(Permit(None)) };
        select! {
            send(acquire, ()) -> _ => Ok(Permit(Some(release))),
            recv(stop.channel()) -> _ => Err(Error::new(Kind::Stopped, "stopping")),
        }
    }
}

/// The proxy that the environment names for a server.
pub(crate) fn proxy(server: &Url, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Proxy>> {
    let Some(url) = proxy_for(server, env)? else { return Ok(None) };
    let unusable = "the proxy in the environment (HTTPS_PROXY or HTTP_PROXY) is not usable";
    Proxy::new(&url).map(Some).map_err(|_| Error::new(Kind::Permanent, unusable))
}

/// The right to one connection; returned to the pool when dropped.
pub(crate) struct Permit<'a>(Option<&'a Receiver<()>>);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(release) = self.0 {
            let _ = release.try_recv();
        }
    }
}

/// The `host[:port]` that is signed.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Resolves the URL's host, or always the endpoint's.
#[derive(Debug)]
struct EndpointResolver {
    fixed: Option<Target>,
    real: DefaultResolver,
}

impl Resolver for EndpointResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let Some(target) = &self.fixed else { return self.real.resolve(uri, config, timeout) };
        let target = target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let uri = format!("https://{target}/").parse().map_err(|_| ureq::Error::HostNotFound)?;
        self.real.resolve(&uri, config, timeout)
    }
}

/// Reads the body that is sent. A body that ends early is an error, because the library would wait for the rest for
/// ever.
struct BodyReader<'a> {
    body: Body<'a>,
    offset: u64,
    md5: Option<Md5>,
    pace: &'a Pace,
    stop: &'a Stop,
    failed: Option<Error>,
}

impl<'a> BodyReader<'a> {
    fn new(body: Body<'a>, pace: &'a Pace, stop: &'a Stop) -> Self {
        let is_hashed = matches!(body, Body::File { is_hashed: true, .. });
        let offset = if let Body::File { range: (start, _), .. } = body { start } else { 0 };
        BodyReader { body, offset, md5: is_hashed.then(Md5::new), pace, stop, failed: None }
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let end = match self.body {
            Body::None => 0,
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { range: (_, end), .. } => end,
        };
        let left = usize::try_from(end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        // What is read is sent at once, so no more than the pace allows at once.
        let want = self.pace.piece(left.min(buffer.len()));
        let Some(buffer) = buffer.get_mut(..want).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let n_read = match &self.body {
            Body::None => 0,
            Body::Bytes(bytes) => {
                let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
                let piece = bytes.get(start..).and_then(|rest| rest.get(..want)).unwrap_or_default();
                buffer.get_mut(..piece.len()).unwrap_or_default().copy_from_slice(piece);
                piece.len()
            }
            Body::File { source, .. } => source.read_at(self.offset, buffer)?,
        };
        if n_read == 0 {
            return Err(self.ended_early());
        }
        self.pace.take(n_read, self.stop)?;
        if let Some(md5) = &mut self.md5 {
            md5.update(buffer.get(..n_read).unwrap_or_default());
        }
        self.offset += n_read as u64;
        Ok(n_read)
    }
}

impl BodyReader<'_> {
    fn ended_early(&self) -> Error {
        match &self.body {
            Body::File { source, .. } => source.shrunk(),
            _ => Error::new(Kind::Retry, "the body ended early"),
        }
    }
}

impl Read for BodyReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next(buffer).map_err(|err| {
            self.failed = Some(err);
            ErrorKind::UnexpectedEof.into()
        })
    }
}

/// Translates the library's error. The text never holds a URL.
fn network(err: &ureq::Error) -> ExchangeError {
    // Errors inside a body arrive wrapped.
    if let ureq::Error::Io(io) = err
        && let Some(inner) = io.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>())
    {
        return network(inner);
    }
    let (cause, text) = match err {
        ureq::Error::HostNotFound => (Cause::Host, "no such host".to_owned()),
        ureq::Error::Timeout(what) => (Cause::Time, format!("time-out ({what})")),
        ureq::Error::ConnectProxyFailed(reason) => (Cause::Proxy, format!("the proxy refused: {reason}")),
        ureq::Error::InvalidProxyUrl => (Cause::Proxy, "the proxy's URL is wrong".to_owned()),
        ureq::Error::Rustls(err) => tls_cause(&err.to_string()),
        ureq::Error::Tls(text) => (Cause::Certificate, (*text).to_owned()),
        ureq::Error::Pem(_) => (Cause::Certificate, "a certificate or key cannot be read".to_owned()),
        ureq::Error::Io(io) if io.kind() == ErrorKind::InvalidData => tls_cause(&io.to_string()),
        ureq::Error::Io(io) => {
            let text = io.to_string();
            let is_name = ["failed to lookup", "Name or service", "Temporary failure in name"];
            let is_name = is_name.iter().any(|words| text.contains(words));
            (if is_name { Cause::Host } else { Cause::Connection }, text)
        }
        ureq::Error::Protocol(err) => (Cause::Answer, err.to_string()),
        ureq::Error::LargeResponseHeader(..) => (Cause::Answer, "the head of the answer is too large".to_owned()),
        ureq::Error::ConnectionFailed => (Cause::Connection, "connection failed".to_owned()),
        // The text of others could quote the request.
        _ => (Cause::Answer, "the request could not be made".to_owned()),
    };
    ExchangeError::Network(cause, text)
}

/// The cause of a TLS error, from rustls's words.
fn tls_cause(text: &str) -> (Cause, String) {
    let cause = if text.contains("InvalidContentType") {
        Cause::NoTls
    } else if text.contains("certificate") || text.contains("alert") || text.contains("Certificate") {
        Cause::Certificate
    } else {
        Cause::Connection
    };
    (cause, text.to_owned())
}

/// Parses the answer that a server sent before it closed the connection. Only refusals come early.
pub fn early_answer(heard: &[u8]) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(heard).ok()? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return None,
    };
    let status = head.code.filter(|status| *status >= 300)?;
    let mut map = HeaderMap::new();
    for header in head.headers.iter() {
        let name = ureq::http::HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        map.insert(name, ureq::http::HeaderValue::from_bytes(header.value).ok()?);
    }
    let body = heard.get(length..).unwrap_or_default();
    // The XML may be framed by the length and the end of a chunk, which are no part of it.
    let start = body.iter().position(|byte| *byte == b'<').unwrap_or(0);
    let end = body.iter().rposition(|byte| *byte == b'>').map_or(body.len(), |idx| idx + 1);
    let body = body.get(start..end).unwrap_or_default().to_vec();
    Some(Answer { status, headers: map, body, sent_md5: None })
}

/// The configured TLS settings, with the certificates read.
fn tls(settings: &HttpConfig) -> Result<TlsConfig> {
    let pem = |field: &str, path: &Path| Pem::file(format!("http_config.tls_config.{field}"), path);
    let certificates = |found: &[CertificateDer<'_>]| -> Vec<Certificate<'static>> {
        found.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
    };
    let roots = match &settings.ca_file {
        Some(path) => RootCerts::Specific(Arc::new(certificates(&pem("ca_file", path).certificates()?))),
        // They are not used then.
        None if settings.insecure_skip_verify => RootCerts::Specific(Arc::default()),
        None => http::system_tls()?.root_certs().clone(),
    };
    let client = match &settings.client_cert {
        None => None,
        Some((cert, key)) => {
            // The HTTP library would panic at the first connection if they did not belong together.
            let (chain, key) = read_pair(&pem("cert_file", cert), &pem("key_file", key))?;
            let key = PrivateKey::from_pem(&key).map_err(|_| {
                Error::new(Kind::Permanent, "http_config.tls_config.key_file cannot be read by the HTTP library")
            })?;
            Some(ClientCert::new_with_certs(&certificates(&chain), key))
        }
    };
    let builder = TlsConfig::builder().root_certs(roots).client_cert(client);
    Ok(builder.disable_verification(settings.insecure_skip_verify).build())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::stop::stop_pair;

    #[test]
    fn a_slow_link_gets_no_more_at_once_than_its_rate_gives_in_a_second() {
        let (_stopper, stop) = stop_pair().unwrap();
        let (pace, bytes) = (Pace::default(), vec![7; 1 << 20]);
        pace.change(1_000_000);
        let mut body = BodyReader::new(Body::Bytes(&bytes), &pace, &stop);
        // The buffer of the HTTP library. What is read is sent before the next read.
        let mut buffer = vec![0; limits::COPY_BUFFER_BYTES];
        assert_eq!(body.read(&mut buffer).unwrap(), 100_000);
    }
}
