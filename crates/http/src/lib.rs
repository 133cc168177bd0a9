//! HTTP as Pillion speaks it: the client for everything that is asked over HTTP, a small server and its web configuration,
//! listening sockets, TLS, and the guard in front of an HTTP/2 server. Knows nothing of what is asked or served.

#![warn(missing_docs, unreachable_pub)]

pub mod address;
pub mod client;
pub mod h2;
mod limits;
pub mod listen;
pub mod server;
pub mod tls;
pub mod web;

pub use limits::{CONNECT_TIMEOUT, ERROR_BODY_BYTES_MAX, HTTP_CLIENT_BUFFER_BYTES, REQUEST_HEAD_BYTES_MAX};
