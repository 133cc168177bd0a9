//! Over real sockets: TLS, with certificates that openssl(1) makes here for a day, and how the client reads.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

mod access;
mod certificates;
mod gathering;
mod handshakes;
mod lines;
mod pair;
mod rotation;
mod settings;
mod stream;
