//! What several test modules need: real servers as child processes, clients, and a Prometheus that lies on demand.

pub mod api_client;
pub mod arena;
pub mod attackers;
pub mod browser;
pub mod certificates;
pub mod drain;
pub mod fake_prometheus;
pub mod fault_proxy;
pub mod figures;
pub mod go_client;
pub mod outpost;
mod ports;
pub mod prometheus;
pub mod random;
pub mod raw;
pub mod rgw;
pub mod server;
pub mod shipped;
pub mod sidecar;
pub mod store_client;
pub mod terminal;
pub mod tls_stream;
