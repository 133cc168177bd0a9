//! Pillion: the Thanos sidecar as one small synchronous daemon.
//!
//! `app` is the one place where the parts meet. ARCHITECTURE.md has the picture, and which module may use which.

#![warn(missing_docs, unreachable_pub)]

mod admin;
mod app;
mod check;
mod cli;
mod client;
mod command;
mod config_files;
mod grpc;
mod heartbeat;
mod limits;
mod log_format;
mod metrics;
mod probes;
mod request_log;
mod status;
mod supervisor;
mod sys;
mod tracing;
mod version;

pub use command::main;

/// What tests and benches look at in their own process; no interface for anybody else.
#[doc(hidden)]
pub mod inside {
    pub use crate::admin::routes;
    pub use crate::cli::markdown_table;
    pub use crate::client::verify::{VerifyArgs, verify};
    pub use crate::client::{INFO, InfoArgs, SERIES, SeriesArgs, info, series};
    pub use crate::grpc::bridge::{Bridge, serve};
    pub use crate::grpc::connections::Connections;
    pub use crate::grpc::front::Front;
    pub use crate::grpc::methods;
    pub use crate::grpc::request::Late;
    pub use crate::limits::{CALL_QUEUE, CALL_THREADS, GRPC_PING_INTERVAL_MIN};
    pub use crate::metrics::{FRONT_REASONS, FrontMetrics, Metrics};
    pub use crate::probes::Probes;
    pub use crate::status::{Status, page_of};
    pub use crate::sys::process_stat;
}
