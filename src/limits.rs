//! Every queue, buffer, retry and time-out: its number, its unit and its reason. Relations between them are checked at
//! compile time. Pure.

use std::time::Duration;

/// Threads that serve Series and label calls. Each holds one frame and one batch, so this bounds the memory of reads.
pub const CALL_THREADS: usize = 16;
/// Calls that may wait for a thread; a queued call is a request and a sink, a few KiB. A querier sends bursts.
pub const CALL_QUEUE: usize = 256;
/// Stack of a call thread, in bytes: patterns are compiled and JSON is decoded on it.
pub const CALL_STACK_BYTES: usize = 1024 * 1024;
/// Stack of a relay thread and other small threads, in bytes. No recursion happens on them.
pub const SMALL_STACK_BYTES: usize = 256 * 1024;
/// Bytes of messages queued between a call thread and gRPC; more is back-pressure on the read from Prometheus.
pub const BRIDGE_BYTES: usize = 1024 * 1024;
/// A StoreAPI message is closed when it reaches this size, whatever batch size the client asked for.
pub const MESSAGE_BYTES_TARGET: usize = 1024 * 1024;
/// Largest remote-read frame that is accepted. `Source:` Prometheus's own `DefaultChunkedReadLimit`.
pub const FRAME_BYTES_MAX: usize = 50_000_000;
/// Buffers of the HTTP client, in each direction of a connection.
pub const HTTP_CLIENT_BUFFER_BYTES: usize = 32 * 1024;
/// Buffer between the HTTP client and the frames.
pub const READ_BUFFER_BYTES: usize = 32 * 1024;
/// A query string longer than this is sent as a form; Prometheus refuses request heads above 1 MiB, proxies far smaller ones.
pub const QUERY_BYTES_MAX: usize = 4 * 1024;
/// Largest answer of a JSON endpoint that is held, in bytes.
pub const JSON_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Largest error body that is quoted, in bytes.
pub const ERROR_BODY_BYTES_MAX: u64 = 16 * 1024;
/// A `/metrics` page is read up to this size when looking for one gauge.
pub const METRICS_PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Memory for series of one call that cannot be streamed; past it sorted runs go to a temporary file.
pub const SORT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Temporary file of one call.
pub const SPILL_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Frames of one series that may wait for the next series. The largest real ones take a few MiB.
pub const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A frame buffer larger than this is not kept for the next series.
pub const REUSED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Message buffers kept for reuse, and how large one may be.
pub const POOLED_BUFFERS_MAX: usize = 8;
/// A message up to this size gets a buffer of its own, which costs less than the pool.
pub const SMALL_MESSAGE_BYTES: usize = 16 * 1024;
/// Time to establish a connection to Prometheus. `Source:` Thanos's `dialer_timeout`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP connections held at once by the admin server; the oldest idle or half-open one makes room.
pub const HTTP_CONNECTIONS_MAX: usize = 128;
/// An HTTP request head must fit.
pub const HTTP_HEAD_BYTES_MAX: usize = 8 * 1024;
/// An HTTP request head must be complete within this time, and a kept-alive connection idle for less.
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// gRPC connections at once; past it new ones are closed at accept.
pub const GRPC_CONNECTIONS_MAX: usize = 256;
/// A new gRPC connection must send its HTTP/2 preface and acknowledge our SETTINGS within this time.
pub const GRPC_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams one connection may have open. The core announces it; the guard closes who exceeds it.
pub const GRPC_STREAMS_MAX: u32 = 256;
/// Ping interval below which the core would strike a client. Thanos queriers ping every 10 s.
pub const GRPC_PING_INTERVAL_MIN: Duration = Duration::from_secs(9);
/// Largest request that is taken; real ones are a few KiB.
pub const GRPC_REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Calls the core may hold ready to be picked up.
pub const GRPC_REQUEST_SLOTS: usize = 64;
/// Threads of the gRPC core that run completion queues.
pub const GRPC_CQ_THREADS: usize = 1;

/// How often the shipper looks at the data directory. `Source:` Thanos, a constant there too.
pub const SHIP_INTERVAL: Duration = Duration::from_secs(30);
/// Descriptors that hold pending blocks where hard links are refused, if half of the process's limit allows as many: a
/// two-hour block has two to four files, so this is weeks of them.
pub const HELD_FILES_MAX: usize = 1024;
/// The part of the file system that claims may use when nobody says how much: one in this many bytes.
pub const CLAIM_BUDGET_SHARE: u64 = 10;
/// How often one attempt sends an object that the bucket does not show afterwards. A store that lost an object once
/// does not lose it again; one that always does must not be sent the same gigabytes for ever.
pub const COMMIT_ROUNDS: usize = 3;
/// Blocks of the bucket that the overlap check remembers; past it they are fetched again each time.
pub const REMOTE_BLOCKS_MAX: usize = 20_000;
/// Largest state of an upload that is read: 10,000 parts of 100 bytes, for each of a few files.
pub const PROGRESS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Largest meta.json that is read.
pub const META_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Buffer of a file copy, in bytes.
pub const COPY_BUFFER_BYTES: usize = 128 * 1024;

/// Stands for "no limit" where an operator sets a time-out of the bucket to 0: nothing waits without an end.
pub const BUCKET_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Smallest part of an upload in parts, but the last. `Source:` Amazon S3, and all others.
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
/// Largest part, and largest object that is stored with one request. `Source:` Amazon S3.
pub const PART_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// One exchange for credentials, with STS or a container's endpoint: from the start of the connection to the end of the
/// answer.
pub const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(8);
/// One exchange with an instance's metadata service, which is next door or not there. `Source:` AWS's SDKs.
pub const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// A `credential_process` that has not ended by then is killed. Some ask a server.
pub const CREDENTIAL_PROCESS_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer that is read for credentials, and largest token file; real ones are a few KiB.
pub const CREDENTIALS_BYTES_MAX: u64 = 64 * 1024;
/// Largest shared credentials or config file.
pub const PROFILES_BYTES_MAX: u64 = 1024 * 1024;
/// Keys are not fetched again sooner, even if by our clock they have ended: the clock may be wrong.
pub const CREDENTIALS_AGE_MIN: Duration = Duration::from_secs(60);
/// Pause between attempts to refresh while the old keys are still good.
pub const CREDENTIALS_REFRESH_PAUSE: Duration = Duration::from_secs(30);
/// How long a failure answers for all threads, so that they do not wait for one time-out after the other.
pub const CREDENTIALS_FAILURE_KEPT: Duration = Duration::from_secs(1);
/// Roles that are assumed one through the other.
pub const ASSUMED_ROLES_MAX: usize = 5;

/// Time to establish a connection to the store, for each of its addresses. `Source:` Thanos's dialer.
pub const S3_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A body that makes no progress for this long, in either direction, is given up; how long it takes is not limited.
pub const S3_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes in the kernel that were not sent yet, for each connection to the store: enough for a full pipe, few enough
/// for a link of 64 kbit/s to show progress within the time above.
pub const S3_UNSENT_BYTES_MAX: u32 = 128 * 1024;
/// How long is waited for a word of a server that does not take the rest of a request.
pub const S3_LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a signed URL can be used: as long as clocks may differ, for it ends before that where the store's is ahead.
pub const S3_SIGNATURE_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// A difference of clocks beyond this is taken as the reason of a refusal; stores accept 15 minutes.
pub const S3_SKEW_MAX: Duration = Duration::from_secs(5 * 60);
/// Largest XML answer that is read: a page of 1000 names of 1024 bytes, each byte escaped.
pub const S3_XML_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Names asked for with one listing; the store's own limit.
pub const S3_PAGE_NAMES: usize = 1000;
/// Pages after which a listing is taken for endless.
pub const S3_PAGES_MAX: usize = 100_000;
/// Part size of files that are smaller than the configured part size. `Source:` minio-go `minPartSize`.
pub const S3_SMALL_PART_BYTES: u64 = 16 * 1024 * 1024;
/// Parts of one upload; the stores' limit.
pub const S3_PARTS_MAX: u64 = 10_000;

/// The upload rate's burst is what goes in one second divided by this: short enough that a link does not notice it.
pub const PACE_BURST_DIVISOR: u64 = 10;
/// The upload rate's burst is at least this (and at most a second's worth), so that slow rates do not wake up for crumbs.
pub const PACE_BURST_BYTES_MIN: u64 = 64 * 1024;
/// Longest wait for an upload window before the clock is read again: it may have been set, or the machine slept.
pub const WINDOW_LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Largest file of upload limits; a real one is three lines.
pub const UPLOAD_LIMITS_BYTES_MAX: u64 = 64 * 1024;

/// A part that has not ended this long after the stop is named in the log and left behind.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);

const _: () = assert!(CREDENTIALS_TIMEOUT.as_secs() < STOP_DEADLINE.as_secs());
const _: () = assert!(MESSAGE_BYTES_TARGET <= BRIDGE_BYTES);
const _: () = assert!(COMMIT_ROUNDS > 1);
const _: () = assert!(FRAME_BYTES_MAX < HELD_BYTES_MAX);
const _: () = assert!(CALL_QUEUE >= CALL_THREADS);
