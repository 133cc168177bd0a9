//! What several test modules need: real servers as child processes, clients, and a Prometheus that lies on demand.

pub mod api_client;
pub mod fake_prometheus;
pub mod fault_proxy;
pub mod outpost;
mod ports;
pub mod prometheus;
pub mod rgw;
pub mod server;
pub mod shipped;
pub mod sidecar;
pub mod store_client;
