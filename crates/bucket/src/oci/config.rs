//! The configuration of a bucket of Oracle Cloud, which `crate::config` reads from YAML. Pure.

use std::time::Duration;

use crate::limits;
use crate::rest::HttpConfig;
use pillion_base::secret::Secret;

/// Where and how to reach a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciConfig {
    /// The bucket's name.
    pub bucket: String,
    /// Who signs requests.
    pub auth: Auth,
    /// The URL of Object Storage, without a slash at its end; empty for that of the region.
    pub endpoint: String,
    /// Attempts for each request; 1 means no retry.
    pub max_attempts: u32,
    /// The longest wait after the first failure; it doubles with each further one.
    pub retry_delay: Duration,
    /// The limit of that.
    pub max_retry_delay: Duration,
    /// Larger files go in parts of this size. `Units:` bytes.
    pub part_bytes: u64,
    /// Settings of the HTTP client.
    pub http: HttpConfig,
}

impl Default for OciConfig {
    fn default() -> Self {
        OciConfig {
            bucket: String::new(),
            auth: Auth::Profile,
            endpoint: String::new(),
            max_attempts: limits::OCI_ATTEMPTS,
            retry_delay: limits::OCI_RETRY_DELAY,
            max_retry_delay: limits::OCI_RETRY_DELAY_MAX,
            part_bytes: limits::OCI_PART_BYTES,
            http: HttpConfig::default(),
        }
    }
}

/// Who signs requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// The user of the profile `DEFAULT` in Oracle's configuration file, or of the environment.
    Profile,
    /// This machine, an instance of Oracle Cloud, by a token that is fetched for a session.
    Instance {
        /// The region, such as `eu-frankfurt-1`.
        region: String,
        /// The private key of sessions, in PEM: any RSA key, which nobody else needs to know.
        session_key: Secret,
    },
    /// A user with one of its API keys.
    Keys {
        /// OCID of the tenancy.
        tenancy: String,
        /// OCID of the user.
        user: String,
        /// The region, such as `eu-frankfurt-1`.
        region: String,
        /// The key's fingerprint.
        fingerprint: String,
        /// The private key, in PEM.
        private_key: Secret,
    },
}
