//! The gRPC side: a front door in Rust that accepts and watches connections, and behind it the C core, which never
//! listens. The only folder that names the gRPC library (the client commands excepted).

pub mod bridge;
pub mod calls;
pub mod health;
pub mod methods;
pub mod pool;
pub mod server;
pub mod services;

mod brake;
mod bucket;
pub mod buffers;
pub mod front;
pub mod guard;
mod relay;
mod walker;
