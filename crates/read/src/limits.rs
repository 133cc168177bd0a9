//! Limits of reading from Prometheus: each with its number, its unit and its reason. Pure.

use std::time::Duration;

pub(crate) use pillion_http::ERROR_BODY_BYTES_MAX;

/// A StoreAPI message is closed when it reaches this size, whatever batch size the client asked for.
pub const MESSAGE_BYTES_TARGET: usize = 1024 * 1024;
/// Largest remote-read frame that is accepted. `Source:` Prometheus's own `DefaultChunkedReadLimit`.
pub(crate) const FRAME_BYTES_MAX: usize = 50_000_000;
/// Buffer between the HTTP client and the frames.
pub(crate) const READ_BUFFER_BYTES: usize = 32 * 1024;
/// A query string longer than this is sent as a form; Prometheus refuses request heads above 1 MiB, proxies far smaller ones.
pub(crate) const QUERY_BYTES_MAX: usize = 4 * 1024;
/// Longest reload. Prometheus answers when it has read all rules, which takes seconds for thousands of them.
pub(crate) const RELOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Redirects of one request that are followed; a proxy needs one.
pub(crate) const REDIRECTS_MAX: usize = 3;
/// Largest answer of a JSON endpoint that is held in memory, in bytes.
pub(crate) const JSON_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How much of a `/metrics` page is read in search of one gauge, in bytes.
pub(crate) const METRICS_PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Memory for series of one call that cannot be streamed; past it sorted runs go to a temporary file.
pub(crate) const SORT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Remote reads that Prometheus answers at once, where it does not say. `Source:` its flag
/// `--storage.remote.read-concurrent-limit`.
pub(crate) const REMOTE_READS_MAX: usize = 10;
/// A client that has taken nothing for this long may lose its slot to another, which costs a temporary file.
pub(crate) const STALLED_AFTER: Duration = Duration::from_millis(250);
/// How much of a stalled answer is put aside, and how long that may take while another call waits; a larger one ends. On a
/// busy host ten at once take seconds.
pub(crate) const ASIDE_BYTES_MAX: u64 = 256 * 1024 * 1024;
pub(crate) const ASIDE_TIME_MAX: Duration = Duration::from_secs(30);
/// Largest temporary file of one call, in bytes.
pub(crate) const SPILL_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Memory of one call in place of its temporary file where none can be made, in bytes.
pub(crate) const SPILL_MEMORY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Memory for frames that one call holds back until their order is known; past it they go to a temporary file. Most series
/// take a few KiB.
pub(crate) const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A frame buffer larger than this is not kept for the next series.
pub(crate) const REUSED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Longest pattern on an external label, in bytes; alternations of plain texts may be longer. Its tree takes some 10 MiB.
pub(crate) const PATTERN_BYTES_MAX: usize = 256 * 1024;
/// Most states of one pattern; they and what walks over them take some 6 MiB.
pub(crate) const PATTERN_STATES_MAX: usize = 256 * 1024;
/// What the patterns of one request may cost together. A step is one state beside one character, tens of nanoseconds at most.
pub(crate) const PATTERN_STEPS_MAX: u32 = 20_000_000;
/// How often a request is sent again that was refused while a password or token is being replaced: with the one before, and
/// with the new one once more, which Prometheus may have got meanwhile.
pub(crate) const REFUSED_AGAIN_MAX: u32 = 2;
