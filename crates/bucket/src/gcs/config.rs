//! The configuration of a Google Cloud Storage bucket, which `crate::config` reads from YAML. Pure.

use crate::limits;
use crate::rest::HttpConfig;
use pillion_base::secret::Secret;

/// The service itself.
const ENDPOINT: &str = "https://storage.googleapis.com";

/// Where and how to reach a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcsConfig {
    /// The bucket's name.
    pub bucket: String,
    /// The URL of the service, without a path. An emulator that the environment names takes its place.
    pub endpoint: String,
    /// Credentials in Google's JSON; empty: those that the environment names.
    pub service_account: Secret,
    /// Larger files go in chunks of this size, a multiple of 256 KiB. `Units:` bytes.
    pub chunk_bytes: u64,
    /// Attempts for each request; 1 means no retry.
    pub max_attempts: u32,
    /// Settings of the HTTP client.
    pub http: HttpConfig,
}

impl Default for GcsConfig {
    fn default() -> Self {
        GcsConfig {
            bucket: String::new(),
            endpoint: ENDPOINT.into(),
            service_account: Secret::default(),
            chunk_bytes: limits::GCS_CHUNK_BYTES,
            max_attempts: limits::GCS_ATTEMPTS,
            http: HttpConfig::default(),
        }
    }
}
