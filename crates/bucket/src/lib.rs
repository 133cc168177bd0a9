//! Object storage: the trait that the shipper uses, its stores (a folder, S3, Azure, Google Cloud Storage, Oracle Cloud, Swift), and the configuration of a bucket.
//!
//! It never retries for ever, and never shows a key or a signature.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(unreachable_pub)]

pub mod azure;
mod bucket;
mod config;
mod folder;
pub mod gcs;
mod limits;
mod metrics;
pub mod oci;
mod open;
mod pace;
mod ranged;
mod rest;
pub mod s3;
pub mod swift;
mod wrap;

pub use bucket::{Attributes, Bucket, Compared, Journal, NoJournal, Part, Parts, Stored, check_name};
pub use folder::FolderBucket;
pub use limits::CREDENTIALS_TIMEOUT;
pub use metrics::{BUCKET_OPERATIONS, BucketMetrics};
pub use open::{BucketConfig, Provider, open};
pub use pace::Pace;
pub use wrap::{Metered, Prefixed};

use bucket::{check_dir_name, check_key};
