//! `grpc.health.v1`: the readiness of the daemon, for the empty service name only, as in Thanos.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use grpcio::{RpcStatus, RpcStatusCode};
use protobuf::{EnumOrUnknown, Message};

use crate::grpc::bridge::Bridge;
use crate::probes::Probes;
use pillion_proto::grpc_health::health_check_response::ServingStatus;
use pillion_proto::grpc_health::{HealthCheckResponse, HealthListResponse};

/// Answers health calls and tells those who watch.
#[derive(Clone)]
pub(crate) struct Health {
    probes: Probes,
    watchers: Arc<Mutex<Watchers>>,
}

#[derive(Default)]
struct Watchers {
    bridges: Vec<Bridge>,
    /// Those who asked for a service that does not exist.
    idle: Vec<Bridge>,
    ended: bool,
}

impl Health {
    /// Follows the readiness of `probes`.
    pub(crate) fn new(probes: Probes) -> Self {
        let watchers = Arc::new(Mutex::new(Watchers::default()));
        let health = Health { probes, watchers };
        let (watchers, probes) = (Arc::clone(&health.watchers), health.probes.clone());
        health.probes.on_change(move |_| {
            let mut watchers = watchers.lock().unwrap_or_else(PoisonError::into_inner);
            watchers.bridges.retain(|bridge| !bridge.is_gone());
            for bridge in &watchers.bridges {
                bridge.replace(response(serving(&probes)));
            }
        });
        health
    }

    /// The answer to Check.
    pub(crate) fn check(&self, service: &str) -> Result<Vec<u8>, RpcStatus> {
        if service.is_empty() {
            Ok(response(serving(&self.probes)))
        } else {
            Err(RpcStatus::with_message(RpcStatusCode::NOT_FOUND, "unknown service".into()))
        }
    }

    /// The answer to List.
    pub(crate) fn list(&self) -> Vec<u8> {
        let statuses = HashMap::from([(String::new(), message(serving(&self.probes)))]);
        encode(&HealthListResponse { statuses, ..Default::default() })
    }

    /// Tells `bridge` the status now and at every change.
    pub(crate) fn watch(&self, service: &str, bridge: Bridge) {
        if !service.is_empty() {
            // The status of an unknown service never changes, but the stream stays open.
            bridge.replace(response(ServingStatus::SERVICE_UNKNOWN));
        }
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if watchers.ended {
            drop(watchers);
            bridge.finish(shutting_down());
            return;
        }
        watchers.bridges.retain(|bridge| !bridge.is_gone());
        watchers.idle.retain(|bridge| !bridge.is_gone());
        if service.is_empty() {
            // Under the lock, so that no change falls between this and the list.
            bridge.replace(response(serving(&self.probes)));
            watchers.bridges.push(bridge);
        } else {
            watchers.idle.push(bridge);
        }
    }

    /// Ends every watch: an open one would hold up the shutdown for the whole grace period.
    pub(crate) fn end(&self) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.ended = true;
        let Watchers { bridges, idle, .. } = &mut *watchers;
        for bridge in bridges.drain(..).chain(idle.drain(..)) {
            bridge.finish(shutting_down());
        }
    }
}

fn serving(probes: &Probes) -> ServingStatus {
    if probes.is_ready() { ServingStatus::SERVING } else { ServingStatus::NOT_SERVING }
}

fn message(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: EnumOrUnknown::new(status), ..Default::default() }
}

fn response(status: ServingStatus) -> Vec<u8> {
    encode(&message(status))
}

fn encode(message: &impl Message) -> Vec<u8> {
    message.write_to_bytes().expect("writing a message to memory cannot fail")
}

fn shutting_down() -> RpcStatus {
    RpcStatus::with_message(RpcStatusCode::UNAVAILABLE, "the sidecar is shutting down".into())
}
