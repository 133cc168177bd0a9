//! What the S3 bucket is told; read from YAML by `cli/bucket`. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A text that no log line, error or debug output shows.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "<secret>" })
    }
}

/// Where and how to reach a bucket. Field names are Thanos's keys; [`S3Config::default`] has their defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    /// The bucket's name.
    pub bucket: String,
    /// `host[:port]`, without scheme.
    pub endpoint: String,
    /// Empty: found out.
    pub region: String,
    /// Keep AWS host names as they are instead of the dual-stack ones.
    pub disable_dualstack: bool,
    /// Requests without a signature. Only this does it: keys that are not found are an error.
    pub anonymous: bool,
    /// Credentials as the AWS SDK looks for them.
    pub aws_sdk_auth: bool,
    /// Static credentials, empty for none.
    pub access_key: Secret,
    /// Static credentials, empty for none.
    pub secret_key: Secret,
    /// With static credentials only.
    pub session_token: Secret,
    /// http instead of https.
    pub insecure: bool,
    /// `x-amz-meta-…` of every object; names that begin with `x-amz-` are sent as they are.
    pub put_user_metadata: BTreeMap<String, String>,
    /// From `X-Amz-Storage-Class` in `put_user_metadata`.
    pub storage_class: String,
    /// How HTTP is spoken.
    pub http: HttpConfig,
    /// Every request and response to the debug log, without secrets.
    pub trace: bool,
    /// Which form of listing is asked for.
    pub list_version: ListVersion,
    /// Where the bucket's name goes.
    pub lookup: Lookup,
    /// Content-MD5 with every upload.
    pub send_content_md5: bool,
    /// One PUT for each file, 5 GiB at most.
    pub disable_multipart: bool,
    /// Files larger than this go in parts of this size. `Units:` bytes.
    pub part_size: u64,
    /// Encryption by the store.
    pub sse: Option<Sse>,
    /// URL of STS, for web identity and assumed roles; empty for AWS's.
    pub sts_endpoint: String,
    /// Attempts for each request; 1 is no retry.
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

/// Which form of listing is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListVersion {
    /// ListObjects.
    V1,
    /// ListObjectsV2.
    V2,
}

/// Where the bucket's name goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// Into the host for AWS, Google and Aliyun, unless https and a dot in the name forbid it; into the path otherwise.
    Auto,
    /// Into the host.
    VirtualHosted,
    /// Into the path.
    Path,
}

/// Encryption by the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sse {
    /// With a key of the store's.
    S3,
    /// With a key of the key service.
    Kms {
        /// Which key.
        key_id: String,
        /// What is bound to it.
        context: BTreeMap<String, String>,
    },
    /// With our key, which is read from a file of 32 bytes.
    C {
        /// The file.
        key_file: PathBuf,
    },
}

/// How HTTP is spoken with the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// How long an idle connection is kept.
    pub idle_conn_timeout: Duration,
    /// From the end of a request to the head of its answer.
    pub response_header_timeout: Duration,
    /// Connect and TLS handshake.
    pub tls_handshake_timeout: Duration,
    /// Certificates are not checked.
    pub insecure_skip_verify: bool,
    /// Idle connections kept, of all and per host.
    pub max_idle_conns: usize,
    /// Idle connections kept to one host.
    pub max_idle_conns_per_host: usize,
    /// Open connections to one host; 0 is no limit.
    pub max_conns_per_host: usize,
    /// Certificate authorities that replace the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have; empty for that of the endpoint.
    pub server_name: String,
}

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            idle_conn_timeout: Duration::from_secs(90),
            response_header_timeout: Duration::from_secs(120),
            tls_handshake_timeout: Duration::from_secs(10),
            insecure_skip_verify: false,
            max_idle_conns: 100,
            max_idle_conns_per_host: 100,
            max_conns_per_host: 0,
            ca_file: None,
            client_cert: None,
            server_name: String::new(),
        }
    }
}
