//! Pillion: the Thanos sidecar as one small synchronous daemon.
//!
//! Modules in reading order: `app` is the one place where the parts meet; `state` is what they share; then come the
//! parts. ARCHITECTURE.md has the picture.

#![warn(missing_docs)]

pub mod app;
pub mod changes;
pub mod supervisor;

pub mod error;
pub mod labels;
pub mod limits;
pub mod state;

pub mod cli;
pub mod log_format;
pub mod metrics;
pub mod time;
pub mod yaml;

pub mod admin;
pub mod apis;
pub mod connect;
pub mod grpc;
pub mod heartbeat;
pub mod http;
pub mod listen;
pub mod prom;
pub mod store;

pub mod files;
pub mod objstore;
pub mod ship;

pub mod client;
pub mod sys;

/// Pillion's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from, or `unknown`.
pub const REVISION: &str = env!("PILLION_REVISION");
/// The compiler it was built with.
pub const RUSTC_VERSION: &str = env!("PILLION_RUSTC");

/// Generated from `proto/` by build.rs.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/protos/mod.rs"));
}
