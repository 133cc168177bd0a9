//! Over real sockets, against a Prometheus that says what a test wants.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

mod access;
mod labels;
mod prom;
mod re2;
mod server;
mod spans;
