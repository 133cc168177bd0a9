//! The part that serves gRPC: waits until Prometheus is known, then listens, serves and drains.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use crate::grpc::connections::Connections;
use crate::grpc::front::Front;
use crate::grpc::health::Health;
use crate::grpc::reflection::Reflection;
use crate::grpc::server::Server;
use crate::grpc::services::Services;
use crate::metrics::FrontMetrics;
use crate::probes::Probes;
use crate::{limits, sys};
use pillion_base::error::Result;
use pillion_base::stop::Stop;
use pillion_http::address::ListenAddress;
use pillion_http::tls::ServerTls;

/// The gRPC part: waits at the gate, then listens, serves and drains.
pub(super) struct Serving {
    pub(super) address: ListenAddress,
    pub(super) tls: Option<ServerTls>,
    pub(super) request_bytes_max: usize,
    pub(super) age_max: Option<Duration>,
    pub(super) grace: Duration,
    pub(super) connections: Connections,
    pub(super) services: Services,
    pub(super) health: Health,
    pub(super) reflection: Reflection,
    pub(super) probes: Probes,
    pub(super) metrics: FrontMetrics,
}

impl Serving {
    pub(super) fn run(self, stop: &Stop, gate: &Receiver<()>) -> Result<()> {
        select! {
            recv(gate) -> opened => if opened.is_err() {
                // The heartbeat ended before Prometheus was known; it has said why.
                stop.wait_forever();
                return Ok(());
            },
            recv(stop.channel()) -> _ => return Ok(()),
        }
        let records = self.services.records.clone();
        let server = Server::start(self.services.build(), self.request_bytes_max, self.age_max)?;
        let front = Front::bind(&self.address, self.connections.clone())?.with_tls(self.tls);
        log::info!(address = self.address.to_string(); "listening for serving gRPC");
        self.probes.serving();
        sys::release_clean_pages();
        front.run(stop, |connection, _| {
            server.hand_over(connection);
            Ok(())
        })?;
        self.health.end();
        self.reflection.end();
        let deadline = Instant::now() + self.grace;
        if !server.drain(self.grace)? {
            log::info!("grace period exceeded enforcing shutdown");
            for call in records.open().iter().take(limits::CUT_CALLS_NAMED_MAX) {
                let seconds = call.age().as_secs();
                log::info!(peer = call.peer(), query = call.query(), seconds = seconds; "a call did not end in time");
            }
        }
        // What the core has sent may still be on its way to clients that are slower.
        self.connections.wait_until_empty(deadline);
        let n_cut = self.connections.close_all();
        if n_cut > 0 {
            self.metrics.refused.with_label_values(&["stop"]).inc_by(u64::try_from(n_cut).unwrap_or(u64::MAX));
            log::warn!(connections = n_cut; "cut connections with answers on their way; a longer --grpc-grace-period would let them end");
        }
        Ok(())
    }
}
