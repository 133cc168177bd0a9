//! Who we are to the store.

use std::time::SystemTime;

use super::config::Secret;
use crate::error::Result;
use crate::supervisor::Stop;

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

/// Where keys come from. Every call may be made from several threads at once.
pub trait Credentials: Send + Sync {
    /// The keys to sign with now; `None` to go on without any, because the configuration says so.
    ///
    /// `Blocks:` while keys are fetched, each exchange for a bounded time.
    fn keys(&self, stop: &Stop) -> Result<Option<Keys>>;

    /// Other keys than `used`, which the store has called expired. Whoever comes first fetches them, for all threads.
    ///
    /// `Blocks:` as [`Credentials::keys`].
    fn renew(&self, used: &Keys, stop: &Stop) -> Result<Option<Keys>>;
}
