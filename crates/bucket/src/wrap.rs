//! The wrappers of every bucket: one puts a prefix before all names, one counts operations.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::metrics::BucketMetrics;
use crate::{Attributes, Bucket, Compared, Journal, Parts, Stored};
use pillion_base::error::{Context, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

/// A bucket seen from below a prefix.
pub struct Prefixed {
    inner: Arc<dyn Bucket>,
    prefix: String,
}

impl Prefixed {
    /// Returns `inner` below `prefix`, whose slashes at the ends are ignored; without a prefix, `inner` itself.
    ///
    /// `Errors:` when no object could have a name with this prefix.
    pub fn wrap(inner: Arc<dyn Bucket>, prefix: &str) -> Result<Arc<dyn Bucket>> {
        let trimmed = prefix.trim_matches('/');
        if trimmed.is_empty() {
            return Ok(inner);
        }
        crate::check_key(trimmed).context(|| "prefix of the bucket")?;
        Ok(Arc::new(Prefixed { inner, prefix: format!("{trimmed}/") }))
    }

    fn full(&self, object: &str) -> Result<String> {
        // Checked without the prefix: an empty name must not become the name of the prefix.
        crate::check_name(object)?;
        Ok(format!("{}{object}", self.prefix))
    }
}

impl Bucket for Prefixed {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn check_place(&self, known: Option<&str>, stop: &Stop) -> Result<Option<String>> {
        self.inner.check_place(known, stop)
    }

    fn exists(&self, object: &str, stop: &Stop) -> Result<bool> {
        self.inner.exists(&self.full(object)?, stop)
    }

    fn get(&self, object: &str, stop: &Stop) -> Result<Vec<u8>> {
        self.inner.get(&self.full(object)?, stop)
    }

    fn read(&self, object: &str, each: &mut dyn FnMut(&[u8]) -> Result<()>, stop: &Stop) -> Result<()> {
        self.inner.read(&self.full(object)?, each, stop)
    }

    fn iter(&self, dir: &str, each: &mut dyn FnMut(&str) -> Result<()>, stop: &Stop) -> Result<()> {
        let dir = dir.strip_suffix('/').unwrap_or(dir);
        if !dir.is_empty() {
            crate::check_name(dir)?;
        }
        let full = format!("{}{dir}", self.prefix);
        self.inner.iter(&full, &mut |name| each(name.strip_prefix(&self.prefix).unwrap_or(name)), stop)
    }

    fn attributes(&self, object: &str, stop: &Stop) -> Result<Attributes> {
        self.inner.attributes(&self.full(object)?, stop)
    }

    fn upload(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored> {
        self.inner.upload(&self.full(object)?, source, journal, stop)
    }

    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared> {
        self.inner.compare(&self.full(object)?, source, stop)
    }

    fn abandon(&self, object: &str, parts: &Parts, stop: &Stop) -> Result<()> {
        self.inner.abandon(&self.full(object)?, parts, stop)
    }

    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()> {
        self.inner.upload_bytes(&self.full(object)?, bytes, stop)
    }

    fn delete(&self, object: &str, stop: &Stop) -> Result<()> {
        self.inner.delete(&self.full(object)?, stop)
    }
}

/// A bucket whose operations are counted.
///
/// The rules are those of Thanos. Every attempt counts. A stopped call is no failure, and neither is a missing object.
/// The duration of `iter`, `get` and `upload` is observed on success and failure, that of `exists` and `delete` only on
/// success. `Differs:` bytes are counted when they have arrived.
pub struct Metered {
    inner: Arc<dyn Bucket>,
    metrics: BucketMetrics,
}

impl Metered {
    /// Counts the operations of `inner`.
    pub fn wrap(inner: Arc<dyn Bucket>, metrics: BucketMetrics) -> Arc<dyn Bucket> {
        Arc::new(Metered { inner, metrics })
    }

    fn observe<T>(&self, operation: &str, timed_on_failure: bool, call: impl FnOnce() -> Result<T>) -> Result<T> {
        self.metrics.operations.with_label_values(&[operation]).inc();
        let begun = Instant::now();
        let result = call();
        if result.is_ok() || timed_on_failure {
            self.metrics.duration_seconds.with_label_values(&[operation]).observe(begun.elapsed().as_secs_f64());
        }
        if let Err(err) = &result {
            let expected = match err.kind() {
                Kind::Stopped => true,
                Kind::NotFound => operation != "upload",
                _ => false,
            };
            if !expected {
                self.metrics.failures.with_label_values(&[operation]).inc();
            }
        }
        result
    }

    fn uploaded(&self, bytes: u64) {
        self.metrics.transferred_bytes.with_label_values(&["upload"]).observe(bytes as f64);
        if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
            self.metrics.last_successful_upload_time.set(now.as_secs_f64());
        }
    }
}

impl Bucket for Metered {
    fn name(&self) -> &str {
        self.inner.name()
    }

    /// Not counted, because Thanos has no such operation.
    fn check_place(&self, known: Option<&str>, stop: &Stop) -> Result<Option<String>> {
        self.inner.check_place(known, stop)
    }

    fn exists(&self, object: &str, stop: &Stop) -> Result<bool> {
        self.observe("exists", false, || self.inner.exists(object, stop))
    }

    fn get(&self, object: &str, stop: &Stop) -> Result<Vec<u8>> {
        let bytes = self.observe("get", true, || self.inner.get(object, stop))?;
        self.metrics.fetched_bytes.with_label_values(&["get"]).inc_by(bytes.len() as u64);
        self.metrics.transferred_bytes.with_label_values(&["get"]).observe(bytes.len() as f64);
        Ok(bytes)
    }

    /// Counted as `get`.
    fn read(&self, object: &str, each: &mut dyn FnMut(&[u8]) -> Result<()>, stop: &Stop) -> Result<()> {
        let (fetched_bytes, mut n_bytes) = (self.metrics.fetched_bytes.with_label_values(&["get"]), 0);
        let mut counted = |piece: &[u8]| {
            fetched_bytes.inc_by(piece.len() as u64);
            n_bytes += piece.len();
            each(piece)
        };
        self.observe("get", true, || self.inner.read(object, &mut counted, stop))?;
        self.metrics.transferred_bytes.with_label_values(&["get"]).observe(n_bytes as f64);
        Ok(())
    }

    fn iter(&self, dir: &str, each: &mut dyn FnMut(&str) -> Result<()>, stop: &Stop) -> Result<()> {
        self.observe("iter", true, || self.inner.iter(dir, each, stop))
    }

    fn attributes(&self, object: &str, stop: &Stop) -> Result<Attributes> {
        self.observe("attributes", false, || self.inner.attributes(object, stop))
    }

    fn upload(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored> {
        let stored = self.observe("upload", true, || self.inner.upload(object, source, journal, stop))?;
        self.uploaded(stored.attributes.size_bytes.saturating_sub(stored.resumed_bytes));
        Ok(stored)
    }

    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared> {
        self.observe("attributes", false, || self.inner.compare(object, source, stop))
    }

    /// Not counted, because Thanos has no such operation.
    fn abandon(&self, object: &str, parts: &Parts, stop: &Stop) -> Result<()> {
        self.inner.abandon(object, parts, stop)
    }

    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()> {
        self.observe("upload", true, || self.inner.upload_bytes(object, bytes, stop))?;
        self.uploaded(bytes.len() as u64);
        Ok(())
    }

    fn delete(&self, object: &str, stop: &Stop) -> Result<()> {
        self.observe("delete", false, || self.inner.delete(object, stop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoJournal;
    use crate::folder::FolderBucket;
    use pillion_base::files::Disk;
    use pillion_base::stop::stop_pair;

    #[test]
    fn a_prefix_is_trimmed_and_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let (_stopper, stop) = stop_pair().unwrap();
        let inner: Arc<dyn Bucket> = Arc::new(FolderBucket::open(dir.path(), Disk::real()).unwrap());
        let bucket = Prefixed::wrap(Arc::clone(&inner), "//a/b/").unwrap();
        bucket.upload_bytes("x/y", b"1", &stop).unwrap();
        assert!(inner.exists("a/b/x/y", &stop).unwrap());
        assert_eq!(bucket.get("x/y", &stop).unwrap(), b"1");
        let mut seen = Vec::new();
        for dir in ["", "x", "x/"] {
            bucket
                .iter(
                    dir,
                    &mut |name| {
                        seen.push(name.to_owned());
                        Ok(())
                    },
                    &stop,
                )
                .unwrap();
        }
        assert_eq!(seen, ["x/", "x/y", "x/y"]);
        bucket.exists("", &stop).unwrap_err();
        bucket.delete("x/y", &stop).unwrap();
        assert!(!inner.exists("a/b/x/y", &stop).unwrap());

        assert!(Prefixed::wrap(Arc::clone(&inner), "/../x/").is_err());
        let unprefixed = Prefixed::wrap(Arc::clone(&inner), "//").unwrap();
        unprefixed.upload_bytes("z", b"1", &stop).unwrap();
        assert!(inner.exists("z", &stop).unwrap());
    }

    #[test]
    fn operations_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (stopper, stop) = stop_pair().unwrap();
        let metrics = BucketMetrics::default();
        let inner = Arc::new(FolderBucket::open(dir.path(), Disk::real()).unwrap());
        let bucket = Metered::wrap(inner, metrics.clone());
        let file = dir.path().join("file");
        std::fs::write(&file, b"12345").unwrap();

        let source = Disk::real().open_source(&file).unwrap();
        bucket.upload("a", &source, &NoJournal, &stop).unwrap();
        bucket.upload_bytes("b", b"123", &stop).unwrap();
        bucket.exists("a", &stop).unwrap();
        bucket.get("a", &stop).unwrap();
        bucket.get("missing", &stop).unwrap_err();
        bucket.read("b", &mut |_| Ok(()), &stop).unwrap();
        bucket.exists("..", &stop).unwrap_err();
        bucket.iter("", &mut |_| Ok(()), &stop).unwrap();
        bucket.delete("a", &stop).unwrap();
        stopper.stop();
        bucket.upload_bytes("c", b"1", &stop).unwrap_err();

        let count = |operation: &str| {
            (
                metrics.operations.with_label_values(&[operation]).get(),
                metrics.failures.with_label_values(&[operation]).get(),
                metrics.duration_seconds.with_label_values(&[operation]).get_sample_count(),
            )
        };
        assert_eq!(count("upload"), (3, 0, 3));
        assert_eq!(count("exists"), (2, 1, 1));
        assert_eq!(count("get"), (3, 0, 3));
        assert_eq!(count("iter"), (1, 0, 1));
        assert_eq!(count("delete"), (1, 0, 1));
        assert_eq!(metrics.fetched_bytes.with_label_values(&["get"]).get(), 8);
        let sent = metrics.transferred_bytes.with_label_values(&["upload"]);
        assert_eq!((sent.get_sample_count(), sent.get_sample_sum()), (2, 8.0));
        assert!(metrics.last_successful_upload_time.get() > 1e9);
    }
}
