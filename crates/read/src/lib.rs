//! From Prometheus's bytes to StoreAPI's bytes: what is asked of Prometheus, how its answers are read, and how they leave.
//! The crate knows no gRPC library: messages go to an outlet that the daemon provides.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(unreachable_pub)]

pub mod apis;
pub mod plain;
pub mod prom;
pub mod re2;
pub mod selector;
pub mod spans;
pub mod store;
pub mod xor;

mod bits;
mod limits;

pub use limits::MESSAGE_BYTES_TARGET;
