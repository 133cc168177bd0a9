//! OTLP over gRPC: one call for each batch. TLS goes through the same relay as that of the client commands.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, select};
use grpcio::{
    CallOption, ChannelBuilder, Client, CompressionAlgorithms, EnvBuilder, Environment, GrpcSlice, Marshaller,
    MessageReader, Metadata, MetadataBuilder, Method, MethodType, RpcStatus, RpcStatusCode,
};
use std::io::Read;

use crate::client::secure::{self, Ending};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::stop::Stop;
use pillion_http::tls::{ClientSettings, ClientTls};
use pillion_trace::{Collector, Exporter, Refusal};

/// Whose request and answer stay bytes: they are written and read elsewhere.
const EXPORT: Method<Vec<u8>, Vec<u8>> = Method {
    ty: MethodType::Unary,
    name: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    req_mar: Marshaller { ser: put, de: take },
    resp_mar: Marshaller { ser: put, de: take },
};

/// What the text of a failed handshake has in it, and what to do about it.
const ADVICE: [(&str, &str); 5] = [
    ("authority that is trusted here", "tls_config.ca_file names the file of an authority that is to be trusted"),
    ("is for another host", "tls_config.server_name says which host is meant"),
    ("wants a certificate", "give tls_config.cert_file and tls_config.key_file"),
    (
        "does not trust the authority",
        "tls_config.cert_file must be a certificate that the collector's client CA has signed",
    ),
    ("closed the connection during the handshake", "does it speak TLS? If not, write insecure: true"),
];

/// How a collector says in its status when to come back; without that it does not want to be asked again.
const RETRY_INFO: &[u8] = b"google.rpc.RetryInfo";

fn put(bytes: &Vec<u8>, out: &mut GrpcSlice) -> grpcio::Result<()> {
    *out = GrpcSlice::from(bytes.as_slice());
    Ok(())
}

fn take(mut reader: MessageReader) -> grpcio::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(reader.len());
    reader.read_to_end(&mut bytes).map_err(|err| grpcio::Error::Codec(err.into()))?;
    Ok(bytes)
}

/// Speaks OTLP over gRPC.
pub(super) struct GrpcExporter {
    endpoint: String,
    tls: Option<ClientSettings>,
    is_gzip: bool,
    reconnection_period: Option<Duration>,
    headers: Metadata,
    environment: Arc<Environment>,
    /// `None` until something is sent, and after a failure.
    link: Option<Link>,
}

struct Link {
    client: Client,
    /// `None` without TLS.
    ending: Option<Ending>,
}

impl GrpcExporter {
    /// Reads the files of TLS; nothing is connected yet.
    ///
    /// `Errors:` permanent, of files of TLS; each with the key, the file and what to change.
    pub(super) fn new(collector: &Collector) -> Result<Self> {
        if let Some(tls) = &collector.tls {
            ClientTls::load(tls.clone())?;
        }
        let mut headers = MetadataBuilder::with_capacity(collector.headers.len());
        for (name, value) in &collector.headers {
            let refused = |_| Error::new(Kind::Permanent, format!("headers: {name} cannot be a header of gRPC"));
            headers.add_str(name, &value.0).map_err(refused)?;
        }
        Ok(GrpcExporter {
            endpoint: collector.endpoint.clone(),
            tls: collector.tls.clone(),
            is_gzip: collector.is_gzip,
            reconnection_period: collector.reconnection_period,
            headers: headers.build(),
            environment: Arc::new(EnvBuilder::new().cq_count(1).name_prefix("otlp-").build()),
            link: None,
        })
    }

    /// Files of TLS are read anew for each connection.
    fn connect(&self, timeout: Duration) -> Result<Link> {
        let mut builder = ChannelBuilder::new(Arc::clone(&self.environment))
            // A proxy for web pages is not meant for a collector.
            .enable_http_proxy(false)
            .primary_user_agent(concat!("pillion/", env!("CARGO_PKG_VERSION")));
        if self.is_gzip {
            builder = builder.default_compression_algorithm(CompressionAlgorithms::GRPC_COMPRESS_GZIP);
        }
        if let Some(period) = self.reconnection_period {
            builder = builder.initial_reconnect_backoff(period);
        }
        let (channel, ending) = match &self.tls {
            None => (builder.connect(&self.endpoint), None),
            Some(tls) => {
                let tls = ClientTls::load(ClientSettings { alpn: vec![b"h2".to_vec()], ..tls.clone() })?;
                let (channel, ending) = secure::connect(builder, &self.endpoint, &tls, timeout, &ADVICE)?;
                (channel, Some(ending))
            }
        };
        Ok(Link { client: Client::new(channel), ending })
    }

    fn export(&mut self, request: &[u8], timeout: Duration, stop: Option<&Stop>) -> Result<Vec<u8>, Refusal> {
        let until = Instant::now() + timeout;
        let link = match self.link.take() {
            Some(link) => link,
            None => self.connect(timeout).map_err(|err| refusal(err.to_string(), err.kind() == Kind::Retry))?,
        };
        let options = CallOption::default()
            .timeout(until.saturating_duration_since(Instant::now()))
            .headers(self.headers.clone());
        let mut answer = link
            .client
            .unary_call_async(&EXPORT, &request.to_vec(), options)
            .map_err(|err| refusal(err.to_string(), true))?;
        match wait(&mut answer, stop) {
            Some(Ok(answer)) => {
                self.link = Some(link);
                Ok(answer)
            }
            Some(Err(grpcio::Error::RpcFailure(status))) => {
                let text = link.text(&status);
                let may_pass = may_pass(&status);
                // Over a connection that has refused something the next thing can be said; one that fails is made anew.
                if status.code() != RpcStatusCode::UNAVAILABLE && self.tls.is_none() {
                    self.link = Some(link);
                }
                Err(refusal(format!("{} answered {text}", self.endpoint), may_pass))
            }
            Some(Err(err)) => Err(refusal(err.to_string(), false)),
            None => {
                answer.cancel();
                Err(refusal("stopping".into(), true))
            }
        }
    }
}

impl Exporter for GrpcExporter {
    fn send(&mut self, request: &[u8], timeout: Duration, stop: Option<&Stop>) -> Result<Vec<u8>, Refusal> {
        self.export(request, timeout, stop)
    }
}

impl Link {
    fn text(&self, status: &RpcStatus) -> String {
        let code = status.code().to_string();
        // The library writes a code as `3-INVALID_ARGUMENT`.
        let name = code.split_once('-').map_or(code.as_str(), |(_, name)| name);
        let why = self.ending.as_ref().and_then(Ending::reason).unwrap_or(status.message());
        format!("{name}: {why}")
    }
}

fn refusal(text: String, may_pass: bool) -> Refusal {
    Refusal { text, may_pass, wait: None }
}

/// `Source:` the specification of OTLP.
fn may_pass(status: &RpcStatus) -> bool {
    match status.code() {
        RpcStatusCode::CANCELLED
        | RpcStatusCode::DEADLINE_EXCEEDED
        | RpcStatusCode::ABORTED
        | RpcStatusCode::OUT_OF_RANGE
        | RpcStatusCode::UNAVAILABLE
        | RpcStatusCode::DATA_LOSS => true,
        RpcStatusCode::RESOURCE_EXHAUSTED => {
            status.details().windows(RETRY_INFO.len()).any(|window| window == RETRY_INFO)
        }
        _ => false,
    }
}

/// Tells a thread that waits that there is something to look at.
struct Bell(Sender<()>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // Full: it has been told.
        let _ = self.0.try_send(());
    }
}

/// What comes of a call; `None` when the stop begins before. The call has a deadline of its own.
fn wait<F: Future + Unpin>(future: &mut F, stop: Option<&Stop>) -> Option<F::Output> {
    let (ring, rung) = bounded(1);
    let waker = Waker::from(Arc::new(Bell(ring)));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(outcome) = Pin::new(&mut *future).poll(&mut context) {
            return Some(outcome);
        }
        match stop {
            // Both ends are here, so this ends with a ring only.
            None => drop(rung.recv()),
            Some(stop) => select! {
                recv(rung) -> _ => {}
                recv(stop.channel()) -> _ => return None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass() {
        let check = |code: RpcStatusCode, details: &[u8], expected: bool| {
            let status = RpcStatus::with_details(code, String::new(), details.to_vec());
            assert_eq!(super::may_pass(&status), expected, "{code:?}");
        };
        check(RpcStatusCode::UNAVAILABLE, b"", true);
        check(RpcStatusCode::DEADLINE_EXCEEDED, b"", true);
        check(RpcStatusCode::RESOURCE_EXHAUSTED, b"", false);
        check(RpcStatusCode::RESOURCE_EXHAUSTED, b"\x12(type.googleapis.com/google.rpc.RetryInfo", true);
        check(RpcStatusCode::UNAUTHENTICATED, b"", false);
        check(RpcStatusCode::UNIMPLEMENTED, b"", false);
    }
}
