//! The configuration of an Azure container, which `crate::config` reads from YAML. Pure.

use std::time::Duration;

use crate::limits;
use crate::rest::HttpConfig;
use pillion_base::secret::Secret;

/// Where and how to reach a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureConfig {
    /// The storage account's name.
    pub account: String,
    /// The container's name.
    pub container: String,
    /// The URL of the account's Blob service, without a slash at its end: `https://name.blob.core.windows.net`, or
    /// `http://127.0.0.1:10000/name` for an emulator.
    pub service: String,
    /// How requests are authorised.
    pub auth: Auth,
    /// Whether a container that is missing is made.
    pub creates_container: bool,
    /// Attempts for each request; 1 means no retry.
    pub max_attempts: u32,
    /// Attempts for reading on in an object whose transfer broke off.
    pub read_attempts: u32,
    /// The longest wait after the first failure; it doubles with each further one.
    pub retry_delay: Duration,
    /// The limit of that.
    pub max_retry_delay: Duration,
    /// Larger files go in blocks of this size. `Units:` bytes.
    pub block_bytes: u64,
    /// Settings of the HTTP client.
    pub http: HttpConfig,
}

impl Default for AzureConfig {
    fn default() -> Self {
        AzureConfig {
            account: String::new(),
            container: String::new(),
            service: String::new(),
            auth: Auth::Default,
            creates_container: true,
            max_attempts: limits::AZURE_ATTEMPTS,
            read_attempts: limits::AZURE_ATTEMPTS,
            retry_delay: limits::AZURE_RETRY_DELAY,
            max_retry_delay: limits::AZURE_RETRY_DELAY_MAX,
            block_bytes: limits::AZURE_BLOCK_BYTES,
            http: HttpConfig::default(),
        }
    }
}

/// How requests are authorised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Signed with the account's key, in base64.
    Key(Secret),
    /// With a shared access signature, the query of a URL without its `?`.
    Sas(Secret),
    /// With a token for an application and its secret.
    ClientSecret {
        /// The directory in which the application is.
        tenant: String,
        /// The application.
        client: String,
        /// Its secret.
        secret: Secret,
    },
    /// With a token for the managed identity of this machine that has this client id.
    ManagedIdentity {
        /// The client id.
        client: String,
    },
    /// With a token for what the environment names: an application, a workload identity, a managed identity.
    Default,
}
