//! Who we are to the store.

use std::time::SystemTime;

use super::config::Secret;

/// Keys that sign requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Access key id.
    pub access_key: Secret,
    /// Secret key.
    pub secret_key: Secret,
    /// Session token; empty for none.
    pub session_token: Secret,
    /// When they end; `None` for never.
    pub expires: Option<SystemTime>,
}
