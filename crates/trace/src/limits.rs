//! Limits of tracing: each with its number, its unit and its reason. Pure.

use std::time::Duration;

/// Spans that wait for the collector; what comes above is dropped. `Source:` OpenTelemetry's `OTEL_BSP_MAX_QUEUE_SIZE`.
pub(crate) const QUEUE_SPANS_MAX: usize = 2048;
/// Spans in one request to the collector. `Source:` OpenTelemetry's `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
pub(crate) const BATCH_SPANS_MAX: usize = 512;
/// Time that a span waits for others, if no batch becomes full. `Source:` OpenTelemetry's `OTEL_BSP_SCHEDULE_DELAY`.
pub(crate) const BATCH_TIME: Duration = Duration::from_secs(5);
/// Time for all spans that are left when the daemon stops. `Source:` Thanos gives its tracer as much.
pub(crate) const LAST_FLUSH_TIME: Duration = Duration::from_secs(5);
/// Time-out of one request, unless another is set. `Source:` OTLP's default.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// First wait before a request is sent again. `Source:` this and the next two are those of OpenTelemetry's exporters.
pub(crate) const RETRY_INITIAL: Duration = Duration::from_secs(5);
/// Longest wait between two tries.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(30);
/// Time after which a batch is given up.
pub(crate) const RETRY_ELAPSED_MAX: Duration = Duration::from_secs(60);
/// Longest text of an attribute or of an error, in bytes: with the length of the queue this bounds the memory.
pub(crate) const TEXT_BYTES_MAX: usize = 1024;
/// Attributes of a span.
pub(crate) const ATTRIBUTES_MAX: usize = 32;
/// Largest answer of a collector that is read, in bytes. It says how many spans it has refused.
pub(crate) const REPLY_BYTES_MAX: u64 = 64 * 1024;
/// Longest `tracestate` that is passed on, in bytes. The standard asks for 512.
pub(crate) const STATE_BYTES_MAX: usize = 1024;
/// Longest `baggage` that is passed on, in bytes. `Source:` the standard.
pub(crate) const BAGGAGE_BYTES_MAX: usize = 8192;
