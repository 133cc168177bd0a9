//! Limits of buckets: each with its number, its unit and its reason. Pure.

use std::time::Duration;

pub(crate) use pillion_base::limits::{COPY_BUFFER_BYTES, META_BYTES_MAX, SMALL_STACK_BYTES};
pub(crate) use pillion_http::{CONNECT_TIMEOUT, ERROR_BODY_BYTES_MAX, HTTP_CLIENT_BUFFER_BYTES};

/// The time-out that applies where the operator sets one to 0, which means "no limit": nothing may wait for ever.
pub(crate) const BUCKET_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Bytes that a folder bucket copies with one call: few enough that a stop need not wait long on a slow disk.
pub(crate) const FOLDER_COPY_BYTES: usize = 8 * 1024 * 1024;
/// A temporary file of another host that nobody has written for so long has no writer any more.
pub(crate) const FOLDER_TEMP_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Names that are tried for one temporary file: another daemon that starts may sweep one before it is locked.
pub(crate) const FOLDER_TEMP_ATTEMPTS: usize = 8;
/// Smallest part of an upload in parts; the last may be smaller. `Source:` Amazon S3, and all others.
pub(crate) const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
/// Largest part, and largest object that is stored with one request. `Source:` Amazon S3.
pub(crate) const PART_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// One exchange for credentials, with STS or a container's endpoint: from the start of the connection to the end of the
/// answer.
pub const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(8);
/// One exchange with an instance's metadata service, which is on the same host or does not exist. `Source:` AWS's SDKs.
pub(crate) const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// A `credential_process` that has not ended by then is killed. It is long, because some of them ask a server.
pub(crate) const CREDENTIAL_PROCESS_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer with credentials and largest token file that are read; real ones have a few KiB.
pub(crate) const CREDENTIALS_BYTES_MAX: u64 = 64 * 1024;
/// Largest shared credentials or config file; real ones have a few KiB.
pub(crate) const PROFILES_BYTES_MAX: u64 = 1024 * 1024;
/// Keys are used for at least this long, even if they have expired by our clock: it may be wrong.
pub(crate) const CREDENTIALS_AGE_MIN: Duration = Duration::from_secs(60);
/// Pause between attempts to refresh while the old keys are still good.
pub(crate) const CREDENTIALS_REFRESH_PAUSE: Duration = Duration::from_secs(30);
/// For this long one failure is the answer to all threads, so that they do not wait for one time-out after another.
pub(crate) const CREDENTIALS_FAILURE_KEPT: Duration = Duration::from_secs(1);
/// Longest chain of roles that are assumed through each other; a longer one is taken for a loop.
pub(crate) const ASSUMED_ROLES_MAX: usize = 5;
/// Time to establish a connection to the store, for each of its addresses. `Source:` Thanos's dialer.
pub(crate) const STORE_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A transfer without progress for this long is given up, in either direction. Its whole duration is not limited.
pub(crate) const STORE_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Unsent bytes that the kernel may hold for each connection: enough to keep a fast link busy, few enough that a link
/// of 64 kbit/s shows progress within [`STORE_STALL_TIMEOUT`].
pub(crate) const STORE_UNSENT_BYTES_MAX: u32 = 128 * 1024;
/// How long to wait for the answer of a server that has stopped reading the request.
pub(crate) const STORE_LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// A larger difference of clocks is taken as the reason of a refusal; stores accept 15 minutes.
pub(crate) const S3_SKEW_MAX: Duration = Duration::from_secs(5 * 60);
/// Largest XML answer that is read: a page of 1000 names of 1024 bytes, each byte escaped.
pub(crate) const S3_XML_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Names asked for with one listing; the store's own limit.
pub(crate) const S3_PAGE_NAMES: usize = 1000;
/// A listing with more pages is taken for endless.
pub(crate) const S3_PAGES_MAX: usize = 100_000;
/// Objects of which it is remembered that they were not stored as they were sent.
pub(crate) const S3_DOUBTS_MAX: usize = 64;
/// Part size of files that are smaller than the configured part size. `Source:` minio-go `minPartSize`.
pub(crate) const S3_SMALL_PART_BYTES: u64 = 16 * 1024 * 1024;
/// Most parts of one upload. `Source:` Amazon S3.
pub(crate) const S3_PARTS_MAX: u64 = 10_000;
/// The burst of the upload rate is a second's worth divided by this: short enough not to fill a link's queues.
pub(crate) const PACE_BURST_DIVISOR: u64 = 10;
/// The burst of the upload rate is at least this (and at most a second's worth), so that threads do not wake up for a
/// few bytes.
pub(crate) const PACE_BURST_BYTES_MIN: u64 = 64 * 1024;
/// Attempts for each request to Azure. `Source:` azcore's three retries, which Thanos uses.
pub(crate) const AZURE_ATTEMPTS: u32 = 4;
/// Longest wait after the first failure of a request to Azure, and after later ones. `Source:` azcore `policy.RetryOptions`.
pub(crate) const AZURE_RETRY_DELAY: Duration = Duration::from_millis(800);
pub(crate) const AZURE_RETRY_DELAY_MAX: Duration = Duration::from_secs(60);
/// Files that are larger go to Azure in blocks of this size: a kill costs one of them, and their requests cost little.
pub(crate) const AZURE_BLOCK_BYTES: u64 = 16 * 1024 * 1024;
/// Largest block. `Source:` "Scalability and performance targets for Blob storage".
pub(crate) const AZURE_BLOCK_BYTES_MAX: u64 = 4000 * 1024 * 1024;
/// Most blocks of one blob. `Source:` as above.
pub(crate) const AZURE_BLOCKS_MAX: u64 = 50_000;
/// Attempts for each request to Oracle Cloud where the configuration says none. Thanos makes one.
pub(crate) const OCI_ATTEMPTS: u32 = 4;
/// Longest wait after the first failure of a request to Oracle Cloud, and after later ones. `Source:` oci-go-sdk's default
/// policy, whose waits double from one second.
pub(crate) const OCI_RETRY_DELAY: Duration = Duration::from_secs(1);
pub(crate) const OCI_RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
/// Files that are larger go to Oracle Cloud in parts of this size: a kill costs one of them, and their requests cost little.
pub(crate) const OCI_PART_BYTES: u64 = 16 * 1024 * 1024;
/// Largest part, and largest object that is stored with one request. `Source:` Oracle's "Using Multipart Uploads".
pub(crate) const OCI_PART_BYTES_MAX: u64 = 50 * 1024 * 1024 * 1024;
/// Most parts of one upload. `Source:` as above.
pub(crate) const OCI_PARTS_MAX: u64 = 10_000;
/// Largest object. `Source:` as above.
pub(crate) const OCI_OBJECT_BYTES_MAX: u64 = 10 * 1024 * 1024 * 1024 * 1024;
/// Part size of objects that Thanos has made. `Source:` oci-go-sdk `transfer`.
pub(crate) const OCI_THANOS_PART_BYTES: u64 = 128 * 1024 * 1024;
/// A larger difference of clocks is taken as the reason of a refusal; Oracle accepts five minutes.
pub(crate) const OCI_SKEW_MAX: Duration = Duration::from_secs(4 * 60);
/// Largest JSON answer that is read: a page of 1000 names of 1024 bytes, each escaped.
pub(crate) const OCI_JSON_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Attempts for each request to Google. With the waits below the last comes after half a minute at most, as long as Google's
/// library tries a chunk.
pub(crate) const GCS_ATTEMPTS: u32 = 6;
/// Longest wait after the first failure of a request to Google, and after later ones. `Source:` gax `Backoff`.
pub(crate) const GCS_RETRY_DELAY: Duration = Duration::from_secs(1);
pub(crate) const GCS_RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
/// Files that are larger go to Google in chunks of this size. `Source:` googleapi `DefaultUploadChunkSize`.
pub(crate) const GCS_CHUNK_BYTES: u64 = 16 * 1024 * 1024;
/// Every chunk but the last is a multiple of this. `Source:` "Perform resumable uploads".
pub(crate) const GCS_CHUNK_UNIT_BYTES: u64 = 256 * 1024;
/// Largest chunk: a kill costs one of them.
pub(crate) const GCS_CHUNK_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Largest object. `Source:` "Quotas & limits".
pub(crate) const GCS_OBJECT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024 * 1024;
/// How long a token for Google is asked for: the longest that every service account may have. `Units:` s.
pub(crate) const GCS_TOKEN_LIFE_S: u64 = 3600;
/// Attempts for each request to Swift. `Source:` Thanos's three retries.
pub(crate) const SWIFT_ATTEMPTS: u32 = 4;
/// Time to establish a connection to Swift or to Keystone. `Source:` Thanos's default.
pub(crate) const SWIFT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of an answer with a token must come within this: other requests wait for it.
pub(crate) const SWIFT_TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer with a token that is read: it lists all services of a cloud in all its regions.
pub(crate) const SWIFT_CATALOGUE_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Larger files go to Swift in segments of this size: a kill costs one of them, and their requests cost little.
pub(crate) const SWIFT_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// As above, for dynamic large objects: stores slow down whoever reads more than ten of their segments at once.
/// `Source:` Swift's `proxy-server.conf`, `rate_limit_after_segment`.
pub(crate) const SWIFT_DYNAMIC_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Most segments of a static large object of a store that does not say it. `Source:` Swift's `max_manifest_segments`.
pub(crate) const SWIFT_SEGMENTS_MAX: u64 = 1000;
/// How often the size of a dynamic large object is looked at until all its segments show up in it.
pub(crate) const SWIFT_LOOKS_MAX: u32 = 8;
