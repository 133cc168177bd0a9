//! An OpenTelemetry collector that takes spans over gRPC, and something in front of it that speaks TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, unbounded};
use futures_util::FutureExt;
use grpcio::{
    ChannelBuilder, Environment, GrpcSlice, Marshaller, MessageReader, Method, MethodType, RpcStatus, Server,
    ServerBuilder, ServerCredentials, ServiceBuilder,
};
use pillion_http::tls::{ClientAuth, Handshake, Pem, ServerSettings, ServerTls, TlsMetrics, Wire};
use pillion_testing::otlp::{self, Span};
use rustix::event::{PollFd, PollFlags, poll};

use crate::support::certificates::Certificates;
use crate::support::sidecar::spawn;

const EXPORT: Method<Vec<u8>, Vec<u8>> = Method {
    ty: MethodType::Unary,
    name: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    req_mar: Marshaller { ser: put, de: take },
    resp_mar: Marshaller { ser: put, de: take },
};

fn put(bytes: &Vec<u8>, out: &mut GrpcSlice) -> grpcio::Result<()> {
    *out = GrpcSlice::from(bytes.as_slice());
    Ok(())
}

fn take(mut reader: MessageReader) -> grpcio::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    Ok(bytes)
}

/// A request that arrived: whom it was meant for, its metadata and its spans.
pub(super) struct Request {
    pub(super) authority: String,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) spans: Vec<Span>,
}

pub(super) struct GrpcCollector {
    pub(super) address: SocketAddr,
    pub(super) requests: Receiver<Request>,
    /// What is answered instead of success.
    pub(super) refusal: Arc<Mutex<Option<RpcStatus>>>,
    _server: Server,
}

impl GrpcCollector {
    pub(super) fn start() -> Self {
        let (tell, requests) = unbounded();
        let refusal = Arc::new(Mutex::new(None));
        let current = Arc::clone(&refusal);
        let service = ServiceBuilder::new()
            .add_unary_handler(&EXPORT, move |ctx, request, sink| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let metadata = ctx.request_headers().iter().map(|(name, value)| (name.to_owned(), text(value)));
                let _ = tell.send(Request {
                    authority: text(ctx.host()),
                    metadata: metadata.collect(),
                    spans: otlp::spans(&request),
                });
                let refused: Option<RpcStatus> = current.lock().unwrap().clone();
                match refused {
                    None => ctx.spawn(sink.success(Vec::new()).map(drop)),
                    Some(status) => ctx.spawn(sink.fail(status).map(drop)),
                }
            })
            .build();
        let env = Arc::new(Environment::new(1));
        let args = ChannelBuilder::new(Arc::clone(&env)).build_args();
        let mut server = ServerBuilder::new(env).register_service(service).channel_args(args).build().unwrap();
        let port = server.add_listening_port("127.0.0.1:0", ServerCredentials::insecure()).unwrap();
        server.start();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        GrpcCollector { address, requests, refusal, _server: server }
    }
}

/// Speaks TLS to whoever comes, wants a certificate of `ca`, and carries the bytes to `target`.
pub(super) fn tls_gate(made: &Certificates, target: SocketAddr) -> SocketAddr {
    let pem = |file: &str| Pem::file(file, made.path(file));
    let settings = ServerSettings {
        client_auth: ClientAuth::RequireAndVerify,
        client_ca: Some(pem("ca.pem")),
        alpn: vec![b"h2".to_vec()],
        ..ServerSettings::new(pem("here.pem"), pem("here.key"))
    };
    let tls = ServerTls::load(settings, TlsMetrics::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn(move || {
        for stream in listener.incoming() {
            let (stream, tls) = (stream.unwrap(), tls.clone());
            // A client that is refused is told by TLS.
            spawn(move || drop(carry(stream, &tls, target)));
        }
    });
    address
}

fn carry(stream: TcpStream, tls: &ServerTls, target: SocketAddr) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut wire = Wire::server(stream, tls).unwrap();
    loop {
        let wants = match wire.handshake()? {
            Handshake::Done => break,
            Handshake::WantsRead => PollFlags::IN,
            Handshake::WantsWrite => PollFlags::OUT,
        };
        poll(&mut [PollFd::new(wire.socket(), wants)], None)?;
    }
    let mut inner = TcpStream::connect(target)?;
    inner.set_nonblocking(true)?;
    let (mut inward, mut outward, mut buf) = (Vec::new(), Vec::new(), [0; 16 * 1024]);
    loop {
        let mut has_moved = false;
        match wire.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                inward.extend_from_slice(&buf[..n]);
                has_moved = true;
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => {}
            Err(err) => return Err(err),
        }
        match inner.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                outward.extend_from_slice(&buf[..n]);
                has_moved = true;
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => {}
            Err(err) => return Err(err),
        }
        let sent = [inner.write(&inward), wire.write(&outward)];
        for (sent, kept) in sent.into_iter().zip([&mut inward, &mut outward]) {
            match sent {
                Ok(n) => {
                    kept.drain(..n);
                    has_moved |= n > 0;
                }
                Err(err) if err.kind() == ErrorKind::WouldBlock => {}
                Err(err) => return Err(err),
            }
        }
        wire.flush()?;
        if !has_moved {
            let writing = |is: bool| if is { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let (wire_wants, inner_wants) =
                (writing(!outward.is_empty() || wire.wants_write()), writing(!inward.is_empty()));
            poll(&mut [PollFd::new(wire.socket(), wire_wants), PollFd::new(&inner, inner_wants)], None)?;
        }
    }
}
