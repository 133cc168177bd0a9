//! The folder that others share, and the buckets over real sockets, with stores in this process that can be told to fail.

// Helpers of tests unwrap and print as tests do.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod azure;
mod azurite;
mod folder;
mod gcs;
mod gcs_server;
mod oci;
mod s3;
mod s3_checks;
mod s3_tls;
mod swift;
mod swift_server;
