//! Opens the bucket that a configuration names: one place for every command that uses one.

use std::path::PathBuf;
use std::sync::Arc;

use crate::azure::{AzureBucket, AzureConfig};
use crate::folder::FolderBucket;
use crate::gcs::{GcsBucket, GcsConfig};
use crate::oci::{OciBucket, OciConfig};
use crate::pace::Pace;
use crate::s3::{CredentialsChain, S3Bucket, S3Config};
use crate::swift::{SwiftBucket, SwiftConfig};
use crate::{Bucket, Prefixed};
use pillion_base::error::Result;
use pillion_base::files::Disk;
use pillion_http::client::USER_AGENT;

/// Where blocks are uploaded to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketConfig {
    /// The prefix of every object's name, without slashes at its ends; empty for none.
    pub prefix: String,
    /// The store itself.
    pub provider: Provider,
    /// Warnings for the operator at start, about settings that do not do what their names promise.
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
    /// A bucket of any store that speaks S3.
    S3(Box<S3Config>),
    /// A container of an Azure storage account.
    Azure(Box<AzureConfig>),
    /// A bucket of Oracle Cloud.
    Oci(Box<OciConfig>),
    /// A bucket of Google Cloud Storage.
    Gcs(Box<GcsConfig>),
    /// A container of an OpenStack object store.
    Swift(Box<SwiftConfig>),
}

/// Opens the bucket, below its prefix, with uploads at the given pace. No request is made yet, and operations are not
/// counted: that is [`Metered`](crate::Metered)'s.
///
/// `Errors:` each names the setting that is wrong.
pub fn open(config: &BucketConfig, disk: &Disk, pace: Pace) -> Result<Arc<dyn Bucket>> {
    log::info!("loading bucket configuration");
    for remark in &config.remarks {
        log::warn!(remark = remark; "a setting of the bucket configuration does not do what its name says");
    }
    let bucket: Arc<dyn Bucket> = match &config.provider {
        Provider::Filesystem { directory } => Arc::new(FolderBucket::open(directory, disk.clone())?.with_pace(pace)),
        Provider::Azure(azure) => {
            let env = Arc::new(|name: &str| std::env::var(name).ok());
            Arc::new(AzureBucket::open(azure, USER_AGENT, env)?.with_pace(pace))
        }
        Provider::Oci(oci) => {
            let env = Arc::new(|name: &str| std::env::var(name).ok());
            Arc::new(OciBucket::open(oci, USER_AGENT, env)?.with_pace(pace))
        }
        Provider::Gcs(gcs) => {
            let env = Arc::new(|name: &str| std::env::var(name).ok());
            Arc::new(GcsBucket::open(gcs, USER_AGENT, env)?.with_pace(pace))
        }
        Provider::Swift(swift) => {
            let env = Arc::new(|name: &str| std::env::var(name).ok());
            Arc::new(SwiftBucket::open(swift, USER_AGENT, env)?.with_pace(pace))
        }
        Provider::S3(s3) => {
            let env = |name: &str| std::env::var(name).ok();
            let credentials = CredentialsChain::new(s3, Arc::new(env))?;
            Arc::new(S3Bucket::open((**s3).clone(), Box::new(credentials), USER_AGENT, &env)?.with_pace(pace))
        }
    };
    Prefixed::wrap(bucket, &config.prefix)
}
