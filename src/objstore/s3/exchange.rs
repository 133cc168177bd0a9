//! One request and its answer over HTTP, without another attempt. The only place that knows a signed URL as text.

use std::io::{self, ErrorKind, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use md5::{Digest, Md5};
use rusty_s3::Method;
use ureq::http::{HeaderMap, Request, Uri};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Agent, Proxy, SendBody};
use url::Url;

use super::client_cert;
use super::config::{HttpConfig, S3Config};
use super::fault::Cause;
use super::proxy;
use super::sign::Signed;
use super::wire;
use crate::error::{Context, Error, Kind, Result};
use crate::files::Source;
use crate::objstore::pace::Pace;
use crate::supervisor::Stop;
use crate::{http, limits};

/// What a request carries.
#[derive(Clone, Copy)]
pub enum Body<'a> {
    /// Nothing, as with GET.
    None,
    /// A few bytes.
    Bytes(&'a [u8]),
    /// A part of a file, at the bucket's pace; its MD5 is computed on the way unless it is known.
    File {
        /// The file.
        source: &'a Source,
        /// Where the part is.
        range: (u64, u64),
        /// Whether the MD5 is wanted.
        is_hashed: bool,
    },
}

/// A request as it goes out.
pub struct Outgoing<'a> {
    /// How.
    pub method: Method,
    /// Where to, signed.
    pub url: Signed,
    /// The headers that were signed.
    pub headers: &'a [(String, String)],
    /// What it carries.
    pub body: Body<'a>,
}

/// What is done with the body of an answer.
pub enum Take<'a> {
    /// Held, up to so many bytes.
    Held(u64),
    /// Given on piece by piece, with the status; an error ends the exchange. Answers that are no success are held.
    Each(&'a mut dyn FnMut(u16, &[u8]) -> Result<()>),
}

impl Take<'_> {
    /// The same for another attempt.
    pub fn again(&mut self) -> Take<'_> {
        match self {
            Take::Held(limit) => Take::Held(*limit),
            Take::Each(each) => Take::Each(&mut **each),
        }
    }
}

/// An answer.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    headers: HeaderMap,
    /// What was held of the body.
    pub body: Vec<u8>,
    /// MD5 of the body that was sent from a file.
    pub sent_md5: Option<[u8; 16]>,
}

impl Answer {
    /// A header's value; empty when it is missing or not text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
    }
}

/// Why there is no answer.
pub enum Broken {
    /// The peer or the way to it.
    Network(Cause, String),
    /// The local file, the receiver of a body, or the stop.
    Ours(Error),
}

/// The way to the store: settings, pool of connections.
pub struct Line {
    agent: Agent,
    /// As many as connections may be open; taken for each exchange.
    permits: Option<(Sender<()>, Receiver<()>)>,
    /// The name in the server's certificate, where it is not the endpoint's, and where connections go instead.
    alias: Option<(String, Target)>,
}

/// `host:port` of the store, shared with the resolver.
type Target = Arc<Mutex<String>>;

impl Line {
    /// Reads the certificates and prepares the client.
    ///
    /// `Errors:` they name the setting that is wrong.
    pub fn new(
        config: &S3Config,
        server: &Url,
        user_agent: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Line> {
        let settings = &config.http;
        let proxy = proxy(server, env)?;
        let alias = match settings.server_name.as_str() {
            "" => None,
            _ if config.insecure => None,
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
            .timeout_connect(Some(limits::S3_CONNECT_TIMEOUT.saturating_add(settings.tls_handshake_timeout)))
            .timeout_recv_response(Some(settings.response_header_timeout).filter(|time| !time.is_zero()))
            .timeout_per_read(Some(limits::S3_STALL_TIMEOUT.max(settings.response_header_timeout)))
            .timeout_per_write(Some(limits::S3_STALL_TIMEOUT))
            .max_idle_connections(settings.max_idle_conns)
            .max_idle_connections_per_host(settings.max_idle_conns_per_host)
            .max_idle_age(settings.idle_conn_timeout)
            .input_buffer_size(limits::HTTP_CLIENT_BUFFER_BYTES)
            .output_buffer_size(limits::COPY_BUFFER_BYTES);
        if !config.insecure {
            builder = builder.tls_config(tls(settings)?);
        }
        let resolver = Names { fixed: alias.as_ref().map(|(_, target)| Arc::clone(target)), real: <_>::default() };
        let permits = (settings.max_conns_per_host > 0).then(|| bounded(settings.max_conns_per_host));
        Ok(Line { agent: Agent::with_parts(builder.build(), wire::connector(), resolver), permits, alias })
    }

    /// Sends a request and takes its answer.
    ///
    /// `Blocks:` as long as there is progress, or until the stop.
    pub fn exchange(
        &self,
        outgoing: &Outgoing<'_>,
        take: Take<'_>,
        pace: &Pace,
        stop: &Stop,
    ) -> Result<Answer, Broken> {
        let _permit = self.permit(stop).map_err(Broken::Ours)?;
        let request = self.request(outgoing).map_err(Broken::Ours)?;
        let mut sending = Sending::new(outgoing.body, pace, stop);
        let (done, heard) = wire::until_stopped(stop, || self.run(request, &mut sending, take));
        let broken = match done {
            Ok(answer) => return Ok(answer),
            Err(broken) => broken,
        };
        if let Some(err) = sending.failed {
            return Err(Broken::Ours(err));
        }
        if stop.is_stopped() {
            return Err(Broken::Ours(Error::new(Kind::Stopped, "stopping")));
        }
        // What the server said before it closed the connection is the better reason.
        match broken {
            Broken::Network(..) => early_answer(&heard).ok_or(broken),
            ours => Err(ours),
        }
    }

    fn run(&self, request: Request<()>, sending: &mut Sending<'_>, mut take: Take<'_>) -> Result<Answer, Broken> {
        let (head, ()) = request.into_parts();
        let sent = if matches!(sending.body, Body::None) {
            self.agent.run(Request::from_parts(head, SendBody::none()))
        } else {
            self.agent.run(Request::from_parts(head, SendBody::from_reader(sending)))
        };
        let (head, body) = sent.map_err(|err| network(&err))?.into_parts();
        let status = head.status.as_u16();
        let mut answer = Answer { status, headers: head.headers, body: Vec::new(), sent_md5: None };
        // A HEAD has a length and no body; then there is nothing to read.
        let mut reader = body.into_reader();
        let mut buffer = vec![0; limits::HTTP_CLIENT_BUFFER_BYTES];
        let limit = match &take {
            Take::Held(limit) if (200..300).contains(&status) => *limit,
            _ => limits::ERROR_BODY_BYTES_MAX,
        };
        loop {
            let n_read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n_read) => n_read,
                Err(err) if err.kind() == ErrorKind::Interrupted => continue,
                // What a refusal says may be cut off; its status counts.
                Err(_) if status >= 300 => break,
                Err(err) => return Err(network(&ureq::Error::Io(err))),
            };
            let piece = buffer.get(..n_read).unwrap_or_default();
            match &mut take {
                Take::Each(each) if (200..300).contains(&status) => each(status, piece).map_err(Broken::Ours)?,
                _ => {
                    let left = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(answer.body.len());
                    answer.body.extend_from_slice(piece.get(..left.min(piece.len())).unwrap_or_default());
                    if left < piece.len() {
                        if status >= 300 {
                            break;
                        }
                        let text = format!("the answer is larger than {limit} bytes");
                        return Err(Broken::Ours(Error::new(Kind::Limit, text)));
                    }
                }
            }
        }
        answer.sent_md5 = sending.md5.take().map(|md5| md5.finalize().into());
        Ok(answer)
    }

    fn request(&self, outgoing: &Outgoing<'_>) -> Result<Request<()>> {
        let mut url = outgoing.url.expose().clone();
        let host = authority(&url);
        if let Some((name, target)) = &self.alias {
            *target.lock().unwrap_or_else(PoisonError::into_inner) =
                format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
            // The error must not show the URL.
            url.set_host(Some(name)).map_err(|_| {
                Error::new(Kind::Permanent, "http_config.tls_config.server_name is not the name of a host")
            })?;
        }
        let mut request = Request::builder().method(outgoing.method.to_str()).uri(url.as_str());
        if self.alias.is_some() {
            request = request.header("host", host);
        }
        for (name, value) in outgoing.headers {
            request = request.header(name.as_str(), value.as_str());
        }
        let length = match outgoing.body {
            Body::None => None,
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::File { range: (start, end), .. } => Some(end.saturating_sub(start)),
        };
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        request.body(()).map_err(|_| Error::new(Kind::Permanent, "a header of the request has characters HTTP forbids"))
    }

    /// Waits until a connection may be opened or reused.
    fn permit(&self, stop: &Stop) -> Result<Option<Permit<'_>>> {
        let Some((give, take)) = &self.permits else { return Ok(None) };
        select! {
            send(give, ()) -> _ => Ok(Some(Permit(take))),
            recv(stop.channel()) -> _ => Err(Error::new(Kind::Stopped, "stopping")),
        }
    }
}

/// The proxy that the environment names for a server.
pub fn proxy(server: &Url, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Proxy>> {
    let Some(url) = proxy::proxy_for(server, env)? else { return Ok(None) };
    let unusable = "the proxy in the environment (HTTPS_PROXY or HTTP_PROXY) is not usable";
    Proxy::new(&url).map(Some).map_err(|_| Error::new(Kind::Permanent, unusable))
}

/// Given back when the exchange is over.
struct Permit<'a>(&'a Receiver<()>);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_recv();
    }
}

/// `host[:port]` as it is signed.
pub fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Finds addresses: those of the URL's host, or always those of the endpoint.
#[derive(Debug)]
struct Names {
    fixed: Option<Target>,
    real: DefaultResolver,
}

impl Resolver for Names {
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

/// Reads what is sent. A body that ends early is an error here, because the library would wait for its rest for ever.
struct Sending<'a> {
    body: Body<'a>,
    offset: u64,
    md5: Option<Md5>,
    pace: &'a Pace,
    stop: &'a Stop,
    failed: Option<Error>,
}

impl<'a> Sending<'a> {
    fn new(body: Body<'a>, pace: &'a Pace, stop: &'a Stop) -> Self {
        let is_hashed = matches!(body, Body::File { is_hashed: true, .. });
        let offset = if let Body::File { range: (start, _), .. } = body { start } else { 0 };
        Sending { body, offset, md5: is_hashed.then(Md5::new), pace, stop, failed: None }
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let end = match self.body {
            Body::None => 0,
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { range: (_, end), .. } => end,
        };
        let left = usize::try_from(end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let want = left.min(buffer.len());
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

impl Sending<'_> {
    fn ended_early(&self) -> Error {
        match &self.body {
            Body::File { source, .. } => source.shrunk(),
            _ => Error::new(Kind::Retry, "the body ended early"),
        }
    }
}

impl Read for Sending<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next(buffer).map_err(|err| {
            self.failed = Some(err);
            ErrorKind::UnexpectedEof.into()
        })
    }
}

/// The error of the library as this module's; its text never holds a URL.
fn network(err: &ureq::Error) -> Broken {
    // What happens inside a body arrives wrapped.
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
        // Others could quote the request.
        _ => (Cause::Answer, "the request could not be made".to_owned()),
    };
    Broken::Network(cause, text)
}

/// Which setting of TLS is at fault, by rustls's words.
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

/// The answer in what a server said before it closed the connection; successes do not come early.
fn early_answer(heard: &[u8]) -> Option<Answer> {
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
    // A chunk's length before the XML is not part of it; the frame behind it is not looked at by the reader.
    let start = body.iter().position(|byte| *byte == b'<').unwrap_or(0);
    let end = body.iter().rposition(|byte| *byte == b'>').map_or(body.len(), |idx| idx + 1);
    let body = body.get(start..end).unwrap_or_default().to_vec();
    Some(Answer { status, headers: map, body, sent_md5: None })
}

/// TLS as configured.
fn tls(settings: &HttpConfig) -> Result<TlsConfig> {
    let read = |path: &std::path::Path, field: &str| {
        std::fs::read(path)
            .map_err(|err| Error::new(Kind::Permanent, err.to_string()))
            .context(|| format!("http_config.tls_config.{field}: read {}", path.display()))
    };
    let certificates = |pem: &[u8]| -> Vec<Certificate<'static>> {
        parse_pem(pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect()
    };
    let wrong = |field: &str, path: &std::path::Path, what: &str| {
        Error::new(Kind::Permanent, format!("http_config.tls_config.{field}: {} holds no {what}", path.display()))
    };
    let roots = match &settings.ca_file {
        Some(path) => {
            let roots = certificates(&read(path, "ca_file")?);
            if roots.is_empty() {
                return Err(wrong("ca_file", path, "certificate (PEM)"));
            }
            RootCerts::Specific(Arc::new(roots))
        }
        // Nobody looks at them then.
        None if settings.insecure_skip_verify => RootCerts::Specific(Arc::default()),
        None => http::system_tls()?.root_certs().clone(),
    };
    let client = match &settings.client_cert {
        None => None,
        Some((cert, key)) => {
            let chain = certificates(&read(cert, "cert_file")?);
            if chain.is_empty() {
                return Err(wrong("cert_file", cert, "certificate (PEM)"));
            }
            let pem = read(key, "key_file")?;
            let key = PrivateKey::from_pem(&pem).map_err(|_| wrong("key_file", key, "private key (PEM)"))?;
            Some(ClientCert::new_with_certs(&chain, key))
        }
    };
    let builder = TlsConfig::builder().root_certs(roots).client_cert(client);
    let tls = builder.disable_verification(settings.insecure_skip_verify).build();
    match &settings.client_cert {
        Some((cert, key)) if !client_cert::is_usable(&tls) => Err(Error::new(
            Kind::Permanent,
            format!(
                "http_config.tls_config: cert_file {} and key_file {} do not belong together, or are of a kind that \
                 is not supported",
                cert.display(),
                key.display()
            ),
        )),
        _ => Ok(tls),
    }
}
