//! Whether the bucket can be used as the shipper uses it: listed, written, read, compared, and tidied up again. One small
//! object is written under a name that nobody else has; nothing else is changed.

use std::path::Path;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::data_folder;
use super::findings::Level;
use super::parts::Report;
use crate::cli::Config;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Disk;
use pillion_base::labels::Labels;
use pillion_base::stop::{Stop, stop_pair};
use pillion_bucket::{Bucket, BucketConfig, Pace, Provider};
use pillion_ship as ship;

/// What the object is called, before a number that nobody else has.
const OBJECT: &str = "pillion-check-";
/// Names that are looked at for the listing. One page has a thousand.
const LISTED_MAX: usize = 1000;
/// How long an object that was written may take to be deleted when time is over otherwise.
const TIDY_TIME: Duration = Duration::from_secs(2);

/// Looks at the bucket. The external labels come from the part that asks Prometheus, or never.
pub(super) fn look(
    config: &Config,
    bucket: &BucketConfig,
    writes: bool,
    labels: &Receiver<Labels>,
    report: &Report,
    stop: &Stop,
) {
    report.step("opening the bucket");
    let is_inside = lies_in(bucket, &config.tsdb_path);
    if is_inside {
        report.warning("the bucket lies in Prometheus's data folder; it was not written", "choose a folder elsewhere");
    }
    let (tries, writes) = (writes, writes && !is_inside);
    // A folder is swept when it is opened, which is left to the sidecar.
    let disk = if writes { Disk::real() } else { Disk::read_only() };
    let bucket = match pillion_bucket::open(bucket, &disk, Pace::default()) {
        Err(err) => return report.failed(Level::Error, &err, "correct the bucket's configuration"),
        Ok(bucket) => bucket,
    };
    report.step("asking whether it is the bucket that blocks were uploaded to");
    if let Err(err) = ship::check_place(&*bucket, &config.tsdb_path, stop) {
        return report.failed(Level::Error, &err, "mount its file system, or correct the bucket's configuration");
    }
    report.step("listing the bucket");
    match list(&*bucket, stop) {
        Err(err) => {
            return report.failed(
                Level::Error,
                &err,
                "grant the right that is named, or correct the bucket's configuration",
            );
        }
        Ok(0) => report.ok(format!("{} can be listed, and is empty", bucket.name())),
        Ok(n) => report.ok(format!(
            "{} can be listed ({})",
            bucket.name(),
            if n < LISTED_MAX { "with content" } else { "with much content" }
        )),
    }
    if writes {
        write(&*bucket, report, stop);
    } else if !tries {
        report.note("whether the bucket can be written was not tried (--read-only)");
    }
    report.waits();
    let known = crossbeam_channel::select! {
        recv(labels) -> labels => labels.ok().filter(|labels| !labels.is_empty()),
        recv(stop.channel()) -> _ => None,
    };
    if let Some(labels) = known {
        look_for_strangers(config, &*bucket, &labels, report, stop);
    }
}

/// Whether the bucket is a folder below Prometheus's.
fn lies_in(bucket: &BucketConfig, data_dir: &Path) -> bool {
    let Provider::Filesystem { directory } = &bucket.provider else { return false };
    let Ok(data_dir) = data_dir.canonicalize() else { return false };
    // It may not be there yet; then what is above it tells.
    let above = directory.ancestors().find_map(|dir| dir.canonicalize().ok());
    above.is_some_and(|above| above.starts_with(data_dir))
}

/// How many names there are in the root, up to a limit.
fn list(bucket: &dyn Bucket, stop: &Stop) -> Result<usize> {
    let mut n = 0;
    let mut each = |_: &str| {
        n += 1;
        // Enough is known.
        if n < LISTED_MAX { Ok(()) } else { Err(Error::new(Kind::Limit, "enough names")) }
    };
    let listed = bucket.iter("", &mut each, stop);
    if n < LISTED_MAX { listed.map(|()| n) } else { Ok(n) }
}

/// Stores an object, reads it back and deletes it.
fn write(bucket: &dyn Bucket, report: &Report, stop: &Stop) {
    let (object, content) = match random() {
        Ok(random) => {
            (format!("{OBJECT}{random}"), format!("{random}\npillion check wrote this, and may be deleted\n"))
        }
        Err(err) => return report.failed(Level::Warning, &err, ""),
    };
    report.step(format!("storing {object}"));
    let stored = bucket.upload_bytes(&object, content.as_bytes(), stop);
    let is_stored = stored.is_ok();
    match stored.and_then(|()| read_back(bucket, &object, content.as_bytes(), report, stop)) {
        Ok(()) => {}
        Err(err) if is_stored => report.failed(
            Level::Error,
            &err.context(format!("read back {object}")),
            "grant the right to read objects: each one that was uploaded is asked for",
        ),
        Err(err) => report.failed(
            Level::Error,
            &err.context(format!("store {object}")),
            "grant the right to write objects, or correct the bucket's configuration",
        ),
    }
    // Also what was stored although nobody said so, and when the time is over.
    report.step(format!("deleting {object}"));
    let deleted = match stop.is_stopped() {
        false => bucket.delete(&object, stop),
        true => delete_late(bucket, &object),
    };
    match deleted {
        Ok(()) if is_stored => report.ok("an object was stored, read back, compared and deleted"),
        Ok(()) => {}
        Err(err) if err.kind() == Kind::NotFound || !is_stored => {}
        Err(err) => report.failed(
            Level::Warning,
            &err.context(format!("delete {object}")),
            format!(
                "delete {object} by hand, and grant the right to delete: parts of uploads that break off stay otherwise"
            ),
        ),
    }
}

fn read_back(bucket: &dyn Bucket, object: &str, content: &[u8], report: &Report, stop: &Stop) -> Result<()> {
    report.step(format!("reading back {object}"));
    let attributes = bucket.attributes(object, stop)?;
    let got = bucket.get(object, stop)?;
    if attributes.size_bytes != content.len() as u64 || got != content {
        let text = format!("the bucket gave {} bytes back that are not those which were stored", got.len());
        return Err(Error::new(Kind::Permanent, text));
    }
    Ok(())
}

/// Deletes when the time of the check is over.
fn delete_late(bucket: &dyn Bucket, object: &str) -> Result<()> {
    let (stopper, stop) = stop_pair()?;
    let (_keep, over) = crossbeam_channel::bounded::<()>(0);
    // It ends with the process, which does not wait for it.
    pillion_base::threads::spawn_thread("check-late", None, move || {
        let _ = over.recv_timeout(TIDY_TIME);
        stopper.stop();
    })?;
    bucket.delete(object, &stop)
}

fn random() -> Result<String> {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|err| Error::new(Kind::Retry, format!("no random numbers: {err}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether somebody else uploads blocks with our labels. Only a querier could tell for sure.
fn look_for_strangers(config: &Config, bucket: &dyn Bucket, labels: &Labels, report: &Report, stop: &Stop) {
    report.step("looking for blocks of others with the same external labels");
    // A folder that cannot be read is said elsewhere.
    let Ok(ours) = data_folder::outlook(config) else { return };
    match ship::strangers(bucket, labels, &ours, stop) {
        Err(err) => report.failed(Level::Warning, &err, "grant the right to read objects"),
        Ok(names) if names.is_empty() => {
            report
                .ok("no block in the bucket looks as if another sidecar had uploaded it with the same external labels");
        }
        Ok(names) => report.warning(
            format!(
                "the bucket has blocks with the external labels {labels} that are not known here: {}",
                names.join(", ")
            ),
            "if another Prometheus uploads them, give each its own external labels, such as replica: its host's name",
        ),
    }
}
