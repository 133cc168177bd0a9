//! TLS over real sockets, with certificates that openssl(1) makes here for a day.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

mod certificates;
mod handshakes;
mod pair;
mod rotation;
mod settings;
mod stream;
