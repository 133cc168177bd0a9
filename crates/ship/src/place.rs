//! `<data dir>/thanos/bucket.json`: which store blocks were shipped to, in the bucket's own words. So a restart still
//! knows when something else has taken its place, such as the folder below a file system that is not mounted.
//!
//! The file saves blocks and never holds one up: where it cannot be written, this process remembers. Never decides what is
//! the right store; the bucket does.

use std::path::{Path, PathBuf};

use crate::LOG_TARGET;
use crate::json::{self, Json, Object};
use crate::limits;
use pillion_base::error::{Context, Kind, Result};
use pillion_base::files::{self, Disk};
use pillion_base::stop::Stop;
use pillion_bucket::Bucket;

/// The store of the configured bucket.
#[derive(Clone)]
pub(crate) struct Place {
    path: PathBuf,
    disk: Disk,
    /// What the bucket has said in this process; `None` before it was asked.
    said: Option<Option<String>>,
}

impl Place {
    /// What the data directory knows; nothing is read yet.
    pub(crate) fn new(data_dir: &Path, disk: Disk) -> Place {
        Place { path: data_dir.join("thanos").join("bucket.json"), disk, said: None }
    }

    /// That of a bucket to which nothing was shipped yet.
    pub(crate) fn of_another(&self) -> Place {
        Place { said: Some(None), ..self.clone() }
    }

    /// Asks the bucket whether it is the store that it was, and notes what it says. `has_shipped` tells whether the ledger
    /// lists shipped blocks.
    ///
    /// `Errors:` those of the bucket; a file that cannot be read is one too, because only a missing one says nothing.
    pub(crate) fn check(&mut self, bucket: &dyn Bucket, has_shipped: bool, stop: &Stop) -> Result<()> {
        let known = match &self.said {
            Some(said) => said.clone(),
            None => self.read(bucket.name(), has_shipped)?,
        };
        let said = bucket.check_place(known.as_deref(), stop)?;
        if said != known
            && let Some(place) = &said
            && let Err(err) = self.write(bucket.name(), place)
        {
            log::warn!(target: LOG_TARGET, err = err.to_string();
                "cannot note which bucket blocks are shipped to; until it is noted, a restart does not know it");
        }
        self.said = Some(said);
        Ok(())
    }

    /// As [`Place::check`] for whoever only looks: without a note nothing is asked, and nothing is written.
    pub(crate) fn check_noted(&self, bucket: &dyn Bucket, stop: &Stop) -> Result<()> {
        match self.read(bucket.name(), false)? {
            Some(known) if !known.is_empty() => bucket.check_place(Some(&known), stop).map(drop),
            _ => Ok(()),
        }
    }

    fn read(&self, bucket: &str, has_shipped: bool) -> Result<Option<String>> {
        let unknown = Some(String::new()).filter(|_| has_shipped);
        let bytes = match self.disk.read(&self.path, limits::META_BYTES_MAX) {
            Err(err) if err.kind() == Kind::NotFound => return Ok(unknown),
            // No block is at fault.
            Err(err) if err.kind() == Kind::Corrupt => return Err(err.with_kind(Kind::Retry)),
            other => other.context(|| "read which bucket blocks were shipped to")?,
        };
        let Ok(Json::Object(root)) = json::parse(&bytes) else { return Ok(unknown) };
        match (root.value("bucket"), root.value("place")) {
            (Some(Json::Text(name)), Some(Json::Text(place))) if name == bucket => Ok(Some(place.clone())),
            // Another bucket is configured now.
            (Some(Json::Text(_)), Some(Json::Text(_))) => Ok(None),
            _ => Ok(unknown),
        }
    }

    fn write(&self, bucket: &str, place: &str) -> Result<()> {
        let member = |key: &str, text: &str| (key.to_owned(), Json::text(text));
        let root = Json::Object(Object(vec![member("bucket", bucket), member("place", place)]));
        let dir = files::parent(&self.path);
        self.disk.create_dirs_synced(dir)?;
        self.disk.replace(&self.path, &json::write(&root).into_bytes())?;
        // A claim that was not finished may have made the folder without a sync.
        self.disk.sync_dir(files::parent(dir))
    }
}

/// Asks the bucket whether it is the store that blocks of this data folder were shipped to, if that was noted. Changes
/// nothing here.
///
/// `Errors:` of class `no_bucket` when it is not.
pub fn check_place(bucket: &dyn Bucket, data_dir: &Path, stop: &Stop) -> Result<()> {
    Place::new(data_dir, Disk::read_only()).check_noted(bucket, stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::stop::stop_pair;
    use pillion_bucket::FolderBucket;

    #[test]
    fn a_restart_knows_the_bucket_and_another_bucket_is_none_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (_stopper, stop) = stop_pair().unwrap();
        let open = |name: &str| FolderBucket::open(&dir.path().join(name), Disk::real()).unwrap();
        let check = |bucket: &str, has_shipped: bool| {
            Place::new(&dir.path().join("data"), Disk::real()).check(&open(bucket), has_shipped, &stop)
        };
        check("one", false).unwrap();
        check("one", true).unwrap();
        std::fs::rename(dir.path().join("one"), dir.path().join("away")).unwrap();
        assert_eq!(check("one", true).unwrap_err().class(), "no_bucket");
        // Not even if the ledger was lost.
        assert_eq!(check("one", false).unwrap_err().class(), "no_bucket");
        check("two", true).unwrap();
        check("two", true).unwrap();
        // A file that says nothing is as good as none, and one that cannot be read is an error.
        let path = dir.path().join("data/thanos/bucket.json");
        std::fs::write(&path, b"{}").unwrap();
        check("two", true).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(check("two", true).unwrap_err().kind(), Kind::Retry);
    }
}
