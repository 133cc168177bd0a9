//! Credentials for the store: static keys, or those of the first provider that has any. [`CredentialsProvider`] is the
//! trait; [`CredentialsChain`] looks for keys, keeps them and renews them before they expire.

pub(crate) mod answer;
mod chain;
mod container;
mod environment;
pub mod ini;
mod instance;
mod process;
mod profile;
mod sign;
mod sts;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use self::chain::CredentialsChain;

use crate::rest::Env;
use pillion_base::error::Result;
use pillion_base::secret::Secret;
use pillion_base::stop::Stop;

/// Keys that sign requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Access key id.
    pub access_key: Secret,
    /// Secret key.
    pub secret_key: Secret,
    /// Session token; empty for none.
    pub session_token: Secret,
    /// When they expire; `None` for never.
    pub expires: Option<SystemTime>,
}

/// Where keys come from. Several threads may call it at once.
pub trait CredentialsProvider: Send + Sync {
    /// The keys to sign with now; `None` if the configuration wants no signatures.
    ///
    /// `Errors:` of class `credentials`, `Retry` or `Permanent`.
    /// `Blocks:` while keys are fetched, each exchange for a bounded time.
    fn keys(&self, stop: &Stop) -> Result<Option<Keys>>;

    /// Other keys than `used`, which the store has called expired or unknown; `None` if there can be no others. The
    /// first thread fetches them for all.
    ///
    /// `Errors:` and `Blocks:` as [`CredentialsProvider::keys`].
    fn renew(&self, used: &Keys, stop: &Stop) -> Result<Option<Keys>>;
}

/// The settings of the providers.
struct Settings {
    env: Env,
    /// URL of STS; empty for AWS's.
    sts_endpoint: String,
}

impl Settings {
    /// An environment variable that is set and not empty.
    fn var(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    /// Whether an environment variable is `true`.
    fn says(&self, name: &str) -> bool {
        self.var(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

/// What a provider found.
enum Found {
    Keys(Fetched),
    /// It is not configured; with the reason, for the error that names all providers.
    Nothing(String),
}

/// Keys with the files that they were read from.
struct Fetched {
    keys: Keys,
    /// The files as they were before they were read. The keys are read again when one has changed.
    files: Vec<(PathBuf, Option<Stamp>)>,
}

impl From<Keys> for Fetched {
    fn from(keys: Keys) -> Self {
        Fetched { keys, files: Vec::new() }
    }
}

/// What changes with a file's content.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    n_bytes: u64,
    inode: u64,
}

impl Stamp {
    /// `None` for a file that is not there.
    fn of(path: &Path) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Stamp { modified: metadata.modified().ok(), n_bytes: metadata.len(), inode: metadata.ino() })
    }
}
