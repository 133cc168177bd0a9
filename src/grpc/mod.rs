//! The gRPC side: a front door in Rust that accepts and watches connections, and behind it the C core, which never
//! listens. The only folder that names the gRPC library (the client commands and the exporter of traces excepted).

pub(crate) mod backlog;
pub(crate) mod bridge;
pub(crate) mod calls;
pub(crate) mod health;
pub mod methods;
pub(crate) mod pool;
pub(crate) mod record;
pub(crate) mod reflection;
pub(crate) mod request;
pub(crate) mod server;
pub(crate) mod services;
pub(crate) mod trace;

mod brake;
pub(crate) mod buffers;
pub(crate) mod connections;
pub(crate) mod front;
mod relay;
