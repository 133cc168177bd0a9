//! What tests of several crates need: buckets, an S3 store, an Azure account, a Google bucket, a store of Oracle Cloud, a Swift store, a collector of traces, and data directories. Never part of the daemon.

#![warn(unreachable_pub)]
#![allow(clippy::unwrap_used)] // Helpers of tests unwrap as tests do.

pub mod bucket;
pub mod collector;
pub mod fake_azure;
pub mod fake_gcs;
mod fake_http;
pub mod fake_oci;
pub mod fake_s3;
pub mod fake_swift;
pub mod journal;
pub mod otlp;
pub mod tsdb;
