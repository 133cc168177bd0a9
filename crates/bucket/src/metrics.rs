//! The metrics of a bucket: handles that the daemon registers under their names.
//!
//! Fields are named after their metrics, so they carry no further docs.

#![allow(missing_docs)]

use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounterVec, Opts};

const WHY: &str = "these names are valid";

/// Operations of a bucket, as Thanos's objstore names them.
pub const BUCKET_OPERATIONS: [&str; 7] = ["iter", "get", "get_range", "exists", "upload", "delete", "attributes"];

/// Metrics of bucket operations, by the label `operation`; the bucket's name is a constant label.
#[derive(Clone)]
pub struct BucketMetrics {
    pub operations: IntCounterVec,
    pub failures: IntCounterVec,
    pub fetched_bytes: IntCounterVec,
    pub transferred_bytes: HistogramVec,
    pub duration_seconds: HistogramVec,
    pub last_successful_upload_time: Gauge,
}

impl Default for BucketMetrics {
    /// Handles that nobody scrapes.
    fn default() -> Self {
        let counter = |name: &str| IntCounterVec::new(Opts::new(name, name), &["operation"]).expect(WHY);
        let histogram = |name: &str| HistogramVec::new(HistogramOpts::new(name, name), &["operation"]).expect(WHY);
        BucketMetrics {
            operations: counter("operations"),
            failures: counter("failures"),
            fetched_bytes: counter("fetched_bytes"),
            transferred_bytes: histogram("transferred_bytes"),
            duration_seconds: histogram("duration_seconds"),
            last_successful_upload_time: Gauge::new("last", "last").expect(WHY),
        }
    }
}
