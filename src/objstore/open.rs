//! Opens the bucket that a configuration names: one place for every command that uses one.

use std::path::PathBuf;
use std::sync::Arc;

use super::dir::DirBucket;
use super::pace::Pace;
use super::s3::S3Bucket;
use super::s3::config::S3Config;
use super::s3::credentials::Chain;
use super::{Bucket, Prefixed};
use crate::error::Result;
use crate::files::Disk;
use crate::http::USER_AGENT;

/// Where blocks are uploaded to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketConfig {
    /// Stands before every object's name, with a slash between; empty for none. Neither begins nor ends with a slash.
    pub prefix: String,
    /// The store itself.
    pub provider: Provider,
    /// What the operator should be warned of at start: settings without the effect that their names promise.
    pub remarks: Vec<String>,
}

/// A kind of object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// A folder.
    Filesystem {
        /// An absolute path.
        directory: PathBuf,
    },
    /// A bucket behind the S3 protocol, of whatever cloud.
    S3(Box<S3Config>),
}

/// The bucket, below its prefix, written to at the given pace. Nothing is asked of it, and its operations are not
/// counted yet.
///
/// `Errors:` they name the setting that is wrong.
pub fn open(config: &BucketConfig, disk: &Disk, pace: Pace) -> Result<Arc<dyn Bucket>> {
    log::info!("loading bucket configuration");
    for remark in &config.remarks {
        log::warn!(remark = remark; "a setting of the bucket configuration does not do what its name says");
    }
    let bucket: Arc<dyn Bucket> = match &config.provider {
        Provider::Filesystem { directory } => Arc::new(DirBucket::open(directory, disk.clone())?.with_pace(pace)),
        Provider::S3(s3) => {
            let who = Chain::new(s3, Arc::new(|name: &str| std::env::var(name).ok()))?;
            Arc::new(S3Bucket::open((**s3).clone(), Box::new(who), USER_AGENT)?.with_pace(pace))
        }
    };
    Prefixed::wrap(bucket, &config.prefix)
}
