//! Ships finished TSDB blocks to a bucket.

pub mod json;
pub mod ulid;
