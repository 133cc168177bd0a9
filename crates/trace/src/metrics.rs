//! What tracing counts. The daemon gives the names.

use prometheus::IntCounter;

/// Handles of the counters.
#[derive(Clone)]
pub struct TraceMetrics {
    /// Spans that the collector has taken.
    pub exported: IntCounter,
    /// Spans for which there was no room in the queue.
    pub dropped: IntCounter,
    /// Spans that the collector has refused, or that it could not be given.
    pub failed: IntCounter,
}
