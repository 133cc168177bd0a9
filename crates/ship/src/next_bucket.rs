//! A bucket that takes the place of the one in use, as another configuration or other credentials want it. The block in
//! hand goes on into the old one; the next goes into the new one, and nothing else is forgotten.

use std::sync::{Arc, Mutex, PoisonError};

use pillion_bucket::Bucket;

/// Where a new bucket waits for the shipper.
#[derive(Clone, Default)]
pub struct NextBucket(Arc<Mutex<Option<Arc<dyn Bucket>>>>);

impl NextBucket {
    /// The bucket of the next block. One that still waits is dropped.
    pub fn put(&self, bucket: Arc<dyn Bucket>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bucket);
    }

    /// Takes the bucket that waits.
    pub(crate) fn take(&self) -> Option<Arc<dyn Bucket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
