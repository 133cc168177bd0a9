//! The folder that others share, and the S3 bucket over real sockets, with a store in this process that can be told to fail.

#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

mod folder;
mod s3;
mod s3_checks;
mod s3_tls;
