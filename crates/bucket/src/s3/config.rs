//! The configuration of an S3 bucket, which `crate::config` reads from YAML. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::rest::HttpConfig;
use pillion_base::secret::Secret;

/// Where and how to reach a bucket. Field names are Thanos's keys; [`S3Config::default`] has their defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    /// The bucket's name.
    pub bucket: String,
    /// `host[:port]`, without scheme.
    pub endpoint: String,
    /// Empty if it is to be found out.
    pub region: String,
    /// Keep AWS host names as they are instead of the dual-stack ones.
    pub disable_dualstack: bool,
    /// Requests without a signature. This must be set explicitly: without it, missing keys are an error.
    pub anonymous: bool,
    /// Look for credentials in the order of the AWS SDK.
    pub aws_sdk_auth: bool,
    /// Static credentials, empty for none.
    pub access_key: Secret,
    /// Static credentials, empty for none.
    pub secret_key: Secret,
    /// Only with static credentials; empty for none.
    pub session_token: Secret,
    /// Use http instead of https.
    pub insecure: bool,
    /// Metadata of every object, sent as `x-amz-meta-…`; names that begin with `x-amz-` are sent as they are.
    pub put_user_metadata: BTreeMap<String, String>,
    /// The storage class, from `X-Amz-Storage-Class` in `put_user_metadata`; empty for none.
    pub storage_class: String,
    /// Settings of the HTTP client.
    pub http: HttpConfig,
    /// Log every request and its answer at level debug, without secrets.
    pub trace: bool,
    /// The version of the listing API.
    pub list_version: ListVersion,
    /// Where URLs have the bucket's name.
    pub lookup: Lookup,
    /// Send Content-MD5 with every upload.
    pub send_content_md5: bool,
    /// Upload each file with one PUT, 5 GiB at most.
    pub disable_multipart: bool,
    /// Files larger than this go in parts of this size. `Units:` bytes.
    pub part_size: u64,
    /// Encryption by the store.
    pub sse: Option<Sse>,
    /// URL of STS, for web identity and assumed roles; empty for AWS's.
    pub sts_endpoint: String,
    /// Attempts for each request; 1 means no retry.
    pub max_attempts: u32,
}

impl Default for S3Config {
    fn default() -> Self {
        S3Config {
            bucket: String::new(),
            endpoint: String::new(),
            region: String::new(),
            disable_dualstack: false,
            anonymous: false,
            aws_sdk_auth: false,
            access_key: Secret::default(),
            secret_key: Secret::default(),
            session_token: Secret::default(),
            insecure: false,
            put_user_metadata: BTreeMap::new(),
            storage_class: String::new(),
            http: HttpConfig::default(),
            trace: false,
            list_version: ListVersion::V2,
            lookup: Lookup::Auto,
            send_content_md5: true,
            disable_multipart: false,
            part_size: 64 * 1024 * 1024,
            sse: None,
            sts_endpoint: String::new(),
            max_attempts: 10,
        }
    }
}

/// The version of the listing API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListVersion {
    /// ListObjects.
    V1,
    /// ListObjectsV2.
    V2,
}

/// Where URLs have the bucket's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// In the host for AWS, Google and Aliyun, unless https and a dot in the name forbid it; else in the path.
    Auto,
    /// In the host.
    VirtualHosted,
    /// In the path.
    Path,
}

/// Encryption by the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sse {
    /// With a key of the store.
    S3,
    /// With a key of the key management service.
    Kms {
        /// The key's id.
        key_id: String,
        /// The encryption context.
        context: BTreeMap<String, String>,
    },
    /// With the customer's key, which is read from a file of 32 bytes.
    C {
        /// The file.
        key_file: PathBuf,
    },
}
