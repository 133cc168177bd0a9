//! Limits of reading from Prometheus: each with its number, its unit and its reason. Pure.

pub(crate) use pillion_http::ERROR_BODY_BYTES_MAX;

/// A StoreAPI message is closed when it reaches this size, whatever batch size the client asked for.
pub const MESSAGE_BYTES_TARGET: usize = 1024 * 1024;
/// Largest remote-read frame that is accepted. `Source:` Prometheus's own `DefaultChunkedReadLimit`.
pub(crate) const FRAME_BYTES_MAX: usize = 50_000_000;
/// Buffer between the HTTP client and the frames.
pub(crate) const READ_BUFFER_BYTES: usize = 32 * 1024;
/// A query string longer than this is sent as a form; Prometheus refuses request heads above 1 MiB, proxies far smaller ones.
pub(crate) const QUERY_BYTES_MAX: usize = 4 * 1024;
/// Largest answer of a JSON endpoint that is held in memory, in bytes.
pub(crate) const JSON_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How much of a `/metrics` page is read in search of one gauge, in bytes.
pub(crate) const METRICS_PAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Memory for series of one call that cannot be streamed; past it sorted runs go to a temporary file.
pub(crate) const SORT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest temporary file of one call, in bytes.
pub(crate) const SPILL_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Frames that one call may hold back until their order is known. The largest real series take a few MiB.
pub(crate) const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A frame buffer larger than this is not kept for the next series.
pub(crate) const REUSED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Longest pattern on an external label, in bytes; alternations of plain texts may be longer. Its tree takes some 10 MiB.
pub(crate) const PATTERN_BYTES_MAX: usize = 256 * 1024;
/// Most states of one pattern; they and what walks over them take some 6 MiB.
pub(crate) const PATTERN_STATES_MAX: usize = 256 * 1024;
/// What the patterns of one request may cost together. A step is one state beside one character, tens of nanoseconds at most.
pub(crate) const PATTERN_STEPS_MAX: u32 = 20_000_000;

const _: () = assert!(FRAME_BYTES_MAX < HELD_BYTES_MAX);
