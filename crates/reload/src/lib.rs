//! The reloader: watches Prometheus's configuration and rules, writes the configuration with variables filled in, and has
//! Prometheus load them again. How Prometheus is asked over HTTP is the daemon's business.

#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

mod apply;
mod digest;
mod due;
mod limits;
pub mod metrics;
mod process;
mod reloader;
mod render;
mod rules;
mod trail;
mod tree;
mod trigger;
mod watch;

pub use limits::RETRY_INTERVAL;
pub use reloader::{ReloadConfig, Reloader};
pub use render::render;
pub use trigger::{Loaded, Method};

/// Where the lines of this crate's log go: the part that they name as their `component`.
const LOG_TARGET: &str = "pillion/reloader";
