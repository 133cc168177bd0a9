//! Limits of the daemon: each queue, buffer and time-out with its number, its unit and its reason. Relations between
//! them are checked at compile time. What the crates below need has a file of this name there. Pure.

use std::time::Duration;

pub(crate) use pillion_base::limits::SMALL_STACK_BYTES;
pub(crate) use pillion_http::h2::STREAMS_MAX as GRPC_STREAMS_MAX;
pub(crate) use pillion_read::MESSAGE_BYTES_TARGET;

/// Calls at work at once. Each holds one frame and one batch, so this bounds the memory of reads.
pub const CALL_THREADS: usize = 16;
/// Calls that may wait for their clients, each on a thread of its own. An honest querier that merges several stores may
/// pause for minutes on one of them.
pub(crate) const WAITING_CALLS_MAX: usize = 512;
/// What they may hold together, in bytes.
pub(crate) const WAITING_BYTES_MAX: usize = 192 * 1024 * 1024;
/// Bytes of messages that are not with their clients, over all calls: the next message may have one of so many shares of
/// what is left.
pub(crate) const BACKLOG_BYTES: usize = 32 * 1024 * 1024;
pub(crate) const BACKLOG_SHARES: usize = 16;
/// Threads without work that stay, and for how long the others do.
pub(crate) const CALL_THREADS_KEPT: usize = 2;
pub(crate) const CALL_THREAD_IDLE: Duration = Duration::from_secs(5);
/// Time between two looks at memory that could be given back, while there is work.
pub(crate) const TIDY_EVERY: Duration = Duration::from_secs(15);
/// A call that took longer than this, with no other beside it, is tidied up after at once: that takes a few milliseconds.
pub(crate) const TIDY_AFTER: Duration = Duration::from_millis(50);
/// Calls that may wait for a thread; a queued call is a request and a sink, a few KiB. A querier sends bursts.
pub const CALL_QUEUE: usize = 256;
/// Stack of a call thread, in bytes: patterns are compiled and JSON is decoded on it.
pub(crate) const CALL_STACK_BYTES: usize = 1024 * 1024;
/// Bytes of messages queued between a call thread and gRPC; more is back-pressure on the read from Prometheus.
pub(crate) const BRIDGE_BYTES: usize = 1024 * 1024;
/// Message buffers kept for reuse, and how large one may be.
pub(crate) const POOLED_BUFFERS_MAX: usize = 8;
/// A message up to this size gets a buffer of its own, which costs less than the pool.
pub(crate) const SMALL_MESSAGE_BYTES: usize = 16 * 1024;
/// gRPC connections at once, those that the core has not let go of among them; past it idle ones give way.
pub(crate) const GRPC_CONNECTIONS_MAX: usize = 256;
/// A new gRPC connection must have done its TLS handshake and sent its HTTP/2 preface within this time.
pub(crate) const GRPC_GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// Ping interval below which the core would strike a client. Thanos queriers ping every 10 s.
pub const GRPC_PING_INTERVAL_MIN: Duration = Duration::from_secs(9);
/// Streams open at once over all connections. One costs the core up to 10 KiB, and far fewer calls are served at once.
pub(crate) const GRPC_STREAMS_ALL_MAX: usize = 2048;
/// Streams of clients that have left, by address, of which the core has not let go when another may enter from there.
pub(crate) const GRPC_GHOSTS_MAX: usize = 512;
/// Time from the beginning of a call to its whole request.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Fields of a request at any depth: matchers, labels, hints. Decoded, one of two bytes takes a hundred.
pub(crate) const REQUEST_FIELDS_MAX: usize = 10_000;
/// A request of health or reflection, which asks for a name and is decoded on the completion queue, in bytes.
pub(crate) const SMALL_REQUEST_BYTES_MAX: usize = 4096;
/// Conversations of reflection at once; the oldest makes room. People have them, one at a time.
pub(crate) const CONVERSATIONS_MAX: usize = 32;
/// How large flags may make the largest request, in bytes; real ones have a few KiB.
pub(crate) const REQUEST_BYTES_RANGE: std::ops::RangeInclusive<usize> = 64 * 1024..=64 * 1024 * 1024;
/// Requests of the largest size that one connection, and all together, may have begun and not ended.
pub(crate) const UNFINISHED_REQUESTS_MAX: u64 = 4;
pub(crate) const UNFINISHED_REQUESTS_ALL_MAX: u64 = 16;
/// Requests of the largest size that may wait for a thread.
pub(crate) const QUEUED_REQUESTS_MAX: usize = 16;
/// Calls the core may hold ready to be picked up.
pub(crate) const GRPC_REQUEST_SLOTS: usize = 64;
/// Threads of the gRPC core that run completion queues.
pub(crate) const GRPC_CQ_THREADS: usize = 1;

/// Warnings and errors of the log that are remembered for the status page: a page of them.
pub(crate) const RECENT_LINES_MAX: usize = 20;
/// What is remembered of one: keys with their values, and characters of each text.
pub(crate) const RECENT_FIELDS_MAX: usize = 12;
/// See [`RECENT_FIELDS_MAX`].
pub(crate) const RECENT_TEXT_CHARS_MAX: usize = 1000;
/// Things of a kind that the status lists, such as open calls; the others are counted.
pub(crate) const STATUS_LISTED_MAX: usize = 50;
/// Characters of one text in the status, such as the matchers of a call.
pub(crate) const STATUS_TEXT_CHARS_MAX: usize = 2000;
/// The largest answer of a daemon that `pillion status` reads, in bytes. The largest there can be has a few hundred KiB.
pub(crate) const STATUS_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The largest file with user and password that `pillion status` reads.
pub(crate) const BASIC_AUTH_BYTES_MAX: u64 = 64 * 1024;

/// A part that has not ended this long after the stop is named in the log and left behind.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(10);

const _: () = assert!(pillion_bucket::CREDENTIALS_TIMEOUT.as_secs() < STOP_DEADLINE.as_secs());
const _: () = assert!(MESSAGE_BYTES_TARGET <= BRIDGE_BYTES);
const _: () = assert!(CALL_QUEUE >= CALL_THREADS);
const _: () = assert!(2 * WAITING_CALLS_MAX * SMALL_MESSAGE_BYTES <= BACKLOG_BYTES);
/// Time between two looks at the files of the configuration.
pub(crate) const CONFIG_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Largest file of limits of calls that is read; a real one has a hundred bytes.
pub(crate) const STORE_LIMITS_BYTES_MAX: u64 = 64 * 1024;
/// Calls that the log names which did not end within the grace period.
pub(crate) const CUT_CALLS_NAMED_MAX: usize = 10;
/// How often memory that nobody needs is given back while no call is at work. It costs a few milliseconds.
pub(crate) const IDLE_TIDY_INTERVAL: Duration = Duration::from_secs(30);
