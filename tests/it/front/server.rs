//! A small gRPC server of the real library behind the front door, and clients of the same library.

use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use futures_util::{FutureExt, SinkExt, StreamExt};
use grpcio::{
    CallOption, ChannelBuilder, Client, EnvBuilder, Environment, GrpcSlice, Marshaller, MessageReader, Method,
    MethodType, Server, ServerBuilder, ServiceBuilder, WriteFlags,
};
use pillion::inside::GRPC_PING_INTERVAL_MIN;
use pillion::inside::{Connections, Front};
use pillion::inside::{FrontMetrics, Metrics};
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_base::threads::spawn_thread;

const BYTES: Marshaller<Vec<u8>> = Marshaller { ser, de };

fn ser(bytes: &Vec<u8>, slice: &mut GrpcSlice) -> grpcio::Result<()> {
    *slice = GrpcSlice::from(bytes.as_slice());
    Ok(())
}

fn de(mut reader: MessageReader) -> grpcio::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|err| grpcio::Error::Codec(err.into()))?;
    Ok(bytes)
}

/// Answers with the request; `peer` with the caller's name and a semicolon.
pub const SAY: Method<Vec<u8>, Vec<u8>> =
    Method { ty: MethodType::Unary, name: "/test.Echo/Say", req_mar: BYTES, resp_mar: BYTES };
/// Sends as many messages of [`MESSAGE_BYTES`] as the request has bytes, or without end for an empty one.
pub const POUR: Method<Vec<u8>, Vec<u8>> =
    Method { ty: MethodType::ServerStreaming, name: "/test.Echo/Pour", req_mar: BYTES, resp_mar: BYTES };
pub const MESSAGE_BYTES: usize = 64 * 1024;
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;

pub struct Behind {
    pub address: SocketAddr,
    pub metrics: FrontMetrics,
    pub connections: Connections,
    /// One message per POUR that began (true) or ended because its client was gone (false).
    pub pours: Receiver<bool>,
    stopper: Stopper,
    front: Option<std::thread::JoinHandle<pillion_base::error::Result<()>>>,
    _server: Arc<Mutex<Server>>,
    never: (Stopper, Stop),
}

impl Behind {
    // The core takes a bare descriptor; there is no safe way to give it one.
    #[allow(unsafe_code)]
    pub fn start(configure: impl FnOnce(Front) -> Front) -> Self {
        let metrics = Metrics::new().grpc.front;
        let (told, pours) = unbounded();
        let server = Arc::new(Mutex::new(server(told)));
        let connections = Connections::new(REQUEST_BYTES_MAX, metrics.clone()).unwrap();
        let front = configure(Front::bind(&"127.0.0.1:0".parse().unwrap(), connections.clone()).unwrap());
        let address = front.local_addr().unwrap();
        let (stopper, stop) = stop_pair().unwrap();
        let core = Arc::clone(&server);
        let front = spawn_thread("front", None, move || {
            front.run(&stop, |fd, _peer| {
                // SAFETY: the descriptor is a connected, non-blocking socket that nothing else uses; the core closes it.
                unsafe { core.lock().unwrap().add_channel_from_fd(fd.into_raw_fd()) };
                Ok(())
            })
        });
        let never = stop_pair().unwrap();
        let front = Some(front.unwrap());
        Behind { address, metrics, connections, pours, stopper, front, _server: server, never }
    }

    pub fn refused(&self, reason: &str) -> u64 {
        self.metrics.refused.with_label_values(&[reason]).get()
    }

    /// Waits until something that no event tells of has come true.
    #[track_caller]
    pub fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "{what}: never came true");
            self.never.1.wait(Duration::from_millis(5));
        }
    }

    pub fn stop(&mut self) {
        self.stopper.stop();
        self.front.take().unwrap().join().unwrap().unwrap();
    }
}

fn server(told: Sender<bool>) -> Server {
    let env = Arc::new(EnvBuilder::new().cq_count(1).build());
    let service = ServiceBuilder::new()
        .add_unary_handler(&SAY, |ctx, request: Vec<u8>, sink| {
            let answer = if request == b"peer" { format!("{};", ctx.peer()).into_bytes() } else { request };
            ctx.spawn(sink.success(answer).map(|_| ()));
        })
        .add_server_streaming_handler(&POUR, move |_ctx, request: Vec<u8>, mut sink| {
            let told = told.clone();
            let pour = move || {
                let mut n_left = if request.is_empty() { usize::MAX } else { request.len() };
                told.send(true).unwrap();
                while n_left > 0 {
                    let message = vec![7; MESSAGE_BYTES];
                    if futures_executor::block_on(sink.send((message, WriteFlags::default()))).is_err() {
                        let _ = told.send(false);
                        return;
                    }
                    n_left -= 1;
                }
                let _ = futures_executor::block_on(sink.close());
            };
            spawn_thread("pour", None, pour).unwrap();
        })
        .build();
    let args = ChannelBuilder::new(Arc::clone(&env))
        .max_concurrent_stream(i32::try_from(pillion_http::h2::STREAMS_MAX).unwrap())
        .http2_min_recv_ping_interval_without_data(GRPC_PING_INTERVAL_MIN)
        .build_args();
    let mut server =
        ServerBuilder::new(env).channel_args(args).requests_slot_per_cq(64).register_service(service).build().unwrap();
    server.start();
    server
}

/// A client of the library with a connection of its own.
pub struct Caller {
    client: Client,
    _env: Arc<Environment>,
}

impl Caller {
    pub fn new(address: SocketAddr) -> Self {
        let env = Arc::new(EnvBuilder::new().cq_count(1).build());
        let channel =
            ChannelBuilder::new(Arc::clone(&env)).use_local_subchannel_pool(true).connect(&address.to_string());
        Caller { client: Client::new(channel), _env: env }
    }

    pub fn say(&self, text: &str) -> grpcio::Result<String> {
        let options = CallOption::default().timeout(Duration::from_secs(20)).wait_for_ready(true);
        let answer = self.client.unary_call(&SAY, &text.as_bytes().to_vec(), options)?;
        Ok(String::from_utf8(answer).unwrap())
    }

    /// Receives `n` messages and returns their bytes.
    pub fn pour(&self, n: usize) -> grpcio::Result<usize> {
        let options = CallOption::default().timeout(Duration::from_secs(60)).wait_for_ready(true);
        let mut stream = self.client.server_streaming(&POUR, &vec![0; n], options)?;
        let mut n_bytes = 0;
        while let Some(message) = futures_executor::block_on(stream.next()) {
            let message = message?;
            assert!(message.iter().all(|byte| *byte == 7));
            n_bytes += message.len();
        }
        Ok(n_bytes)
    }

    /// Makes `n` calls at once and returns how many were answered.
    pub fn say_all(&self, n: usize) -> usize {
        let options = || CallOption::default().timeout(Duration::from_secs(60)).wait_for_ready(true);
        let request = b"all".to_vec();
        let calls: Vec<_> = (0..n).map(|_| self.client.unary_call_async(&SAY, &request, options()).unwrap()).collect();
        calls.into_iter().map(futures_executor::block_on).filter(Result::is_ok).count()
    }

    /// Begins `n` endless calls, receives something from each, and cancels them all.
    pub fn pour_and_cancel(&self, n: usize) {
        let options = || CallOption::default().timeout(Duration::from_secs(60)).wait_for_ready(true);
        let mut calls: Vec<_> =
            (0..n).map(|_| self.client.server_streaming(&POUR, &Vec::new(), options()).unwrap()).collect();
        for call in &mut calls {
            assert!(futures_executor::block_on(call.next()).unwrap().is_ok());
            call.cancel();
        }
    }
}
