//! The C core: built without TLS, never listening; connections are handed to it by the front door.

use std::ffi::CString;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::bounded;
use grpcio::{ChannelBuilder, EnvBuilder, Environment, ServerBuilder, Service};

use crate::limits;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::threads::spawn_thread;

/// A running gRPC server.
#[derive(Clone)]
pub(crate) struct Server {
    core: Arc<Mutex<grpcio::Server>>,
    /// The completion queues live as long as this.
    _env: Arc<Environment>,
}

impl Server {
    /// Starts the completion queues and the server. A connection older than `age_max` is asked to come again.
    pub(crate) fn start(services: Vec<Service>, request_bytes_max: usize, age_max: Option<Duration>) -> Result<Self> {
        // Else it writes to standard error by itself.
        grpcio::redirect_log();
        let env = Arc::new(EnvBuilder::new().cq_count(limits::GRPC_CQ_THREADS).name_prefix("grpc-").build());
        let mut args = ChannelBuilder::new(Arc::clone(&env))
            .reuse_port(false)
            .max_concurrent_stream(i32::try_from(limits::GRPC_STREAMS_MAX).unwrap_or(i32::MAX))
            .max_receive_message_len(i32::try_from(request_bytes_max).unwrap_or(i32::MAX))
            .max_send_message_len(i32::MAX)
            .http2_min_recv_ping_interval_without_data(limits::GRPC_PING_INTERVAL_MIN);
        let key = |text: &str| CString::new(text).expect("no NUL inside");
        // Without a guess at the bandwidth the windows of streams stay small: requests are.
        args = args.raw_cfg_int(key("grpc.http2.bdp_probe"), 0);
        // The core bounds a message before it inflates it, so that a megabyte can become a gigabyte. No querier compresses
        // with gzip.
        args = args.raw_cfg_int(key("grpc.compression_enabled_algorithms_bitset"), 1);
        args = args.raw_cfg_int(key("grpc.per_message_decompression"), 0);
        if let Some(age) = age_max {
            let age = i32::try_from(age.as_millis()).unwrap_or(i32::MAX);
            args = args.raw_cfg_int(key("grpc.max_connection_age_ms"), age);
        }
        let mut builder = ServerBuilder::new(Arc::clone(&env))
            .channel_args(args.build_args())
            .requests_slot_per_cq(limits::GRPC_REQUEST_SLOTS);
        for service in services {
            builder = builder.register_service(service);
        }
        let mut core =
            builder.build().map_err(|err| Error::new(Kind::Permanent, format!("start the gRPC server: {err}")))?;
        core.start();
        Ok(Server { core: Arc::new(Mutex::new(core)), _env: env })
    }

    /// Gives the core its end of a connection.
    pub(crate) fn hand_over(&self, connection: OwnedFd) {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the descriptor is a connected stream socket that nothing else owns; the core closes it.
        #[allow(unsafe_code)]
        unsafe {
            core.add_channel_from_fd(connection.into_raw_fd());
        }
    }

    /// Lets the calls in flight end within `grace`, then cancels the rest. True when all ended by themselves.
    pub(crate) fn drain(&self, grace: Duration) -> Result<bool> {
        let ended = self.core.lock().unwrap_or_else(PoisonError::into_inner).shutdown();
        let (done, waiting) = bounded(1);
        // The future ends with the last call; a thread waits for it so that this one can stop waiting.
        spawn_thread("grpc-drain", Some(limits::SMALL_STACK_BYTES), move || {
            let _ = done.send(futures_executor::block_on(ended));
        })?;
        if waiting.recv_timeout(grace).is_ok() {
            return Ok(true);
        }
        self.core.lock().unwrap_or_else(PoisonError::into_inner).cancel_all_calls();
        let _ = waiting.recv_timeout(Duration::from_secs(1));
        Ok(false)
    }
}
