//! What the bucket already holds: for the overlap check of compacted blocks, and to see whether a block was compacted there.
//! A cache on the disk saves a restart from reading it all again. Never writes to the bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::LOG_TARGET;
use crate::json::{self, Json, Object};
use crate::limits;
use crate::meta::Meta;
use crate::plan::{self, BucketBlock};
use crate::ulid::Ulid;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Disk;
use pillion_base::stop::Stop;
use pillion_bucket::Bucket;

type LabelSet = Arc<BTreeMap<String, String>>;

/// The whole blocks of the bucket. A block never changes under its name, so each meta.json is read once.
pub(crate) struct Remote {
    path: PathBuf,
    disk: Disk,
    bucket_name: String,
    known: BTreeMap<Ulid, Known>,
    /// The label sets of those blocks, each once: a bucket has many blocks and few label sets.
    label_sets: BTreeSet<LabelSet>,
    /// Whether the cache was read.
    is_loaded: bool,
    /// Whether the bucket was listed in this tick.
    is_fresh: bool,
}

/// A block of the bucket.
struct Known {
    block: BucketBlock,
    /// What it was compacted of; of a block with other labels only what is of interest here, because a fleet has millions of
    /// those names. `None` if nobody has asked yet.
    sources: Option<Vec<Ulid>>,
}

impl Remote {
    /// Nothing is read yet.
    pub(crate) fn new(data_dir: &Path, disk: Disk, bucket_name: &str) -> Remote {
        let path = data_dir.join("thanos").join("bucket-blocks.json");
        let (known, label_sets) = (BTreeMap::new(), BTreeSet::new());
        Remote { path, disk, bucket_name: bucket_name.into(), known, label_sets, is_loaded: false, is_fresh: false }
    }

    /// Begins a tick: the bucket may have changed since the last one.
    pub(crate) fn begin_tick(&mut self) {
        self.is_fresh = false;
    }

    /// The first block of the bucket that overlaps `new`. A folder without meta.json is an upload that is under way or
    /// was given up; it overlaps nothing (D-28).
    pub(crate) fn overlap(&mut self, new: &BucketBlock, bucket: &dyn Bucket, stop: &Stop) -> Result<Option<Ulid>> {
        self.gather(new, None, bucket, stop)?;
        Ok(plan::overlap(new, self.known.values().map(|known| &known.block)).map(|old| old.ulid))
    }

    /// The first block of the bucket that was compacted of all that `new` has, under whatever labels: they may have changed
    /// since. `ours` are the blocks of this data directory.
    pub(crate) fn compacted_of(
        &mut self,
        new: &Meta,
        ours: &BTreeSet<Ulid>,
        bucket: &dyn Bucket,
        stop: &Stop,
    ) -> Result<Option<Ulid>> {
        self.gather(&BucketBlock::from(new), Some(ours), bucket, stop)?;
        let has_all = |known: &&Known| {
            let sources = known.sources.as_deref().unwrap_or_default();
            known.block.ulid != new.ulid && new.covered().all(|ulid| sources.contains(&ulid))
        };
        Ok(self.known.values().find(has_all).map(|known| known.block.ulid))
    }

    /// Adds a block that this process has just shipped.
    pub(crate) fn add(&mut self, meta: &Meta) {
        if self.is_fresh {
            self.remember(BucketBlock::from(meta), Some(meta.covered().collect()));
        }
    }

    fn gather(
        &mut self,
        new: &BucketBlock,
        ours: Option<&BTreeSet<Ulid>>,
        bucket: &dyn Bucket,
        stop: &Stop,
    ) -> Result<()> {
        let is_enough = |known: &Known| known.sources.is_some() || (ours.is_none() && known.block.labels != new.labels);
        if self.is_fresh && self.known.values().all(is_enough) {
            return Ok(());
        }
        self.list(new, ours, bucket, stop).map_err(|err| bucket_fault(err).context("get all block meta."))
    }

    fn list(
        &mut self,
        new: &BucketBlock,
        ours: Option<&BTreeSet<Ulid>>,
        bucket: &dyn Bucket,
        stop: &Stop,
    ) -> Result<()> {
        log::info!(target: LOG_TARGET, id = new.ulid.as_str(); "gathering all existing blocks from the remote bucket for check");
        self.load();
        let mut there = BTreeSet::new();
        let each = &mut |name: &str| {
            there.extend(name.strip_suffix('/').and_then(Ulid::parse));
            Ok(())
        };
        bucket.iter("", each, stop)?;
        let n_known = self.known.len();
        self.known.retain(|ulid, _| there.contains(ulid));
        let mut is_changed = self.known.len() != n_known;
        let mut failed = Ok(());
        for block in there {
            let is_enough =
                |known: &Known| known.sources.is_some() || (ours.is_none() && known.block.labels != new.labels);
            if self.known.get(&block).is_some_and(is_enough) {
                continue;
            }
            match bucket.get(&format!("{block}/meta.json"), stop) {
                Err(err) if err.kind() == Kind::NotFound => {}
                Err(err) => {
                    failed = Err(err.context(format!("meta.json bkt get for {block}")));
                    break;
                }
                Ok(bytes) => match Meta::parse(&bytes) {
                    Ok(meta) => {
                        is_changed = true;
                        let bucket_block = BucketBlock { ulid: block, ..BucketBlock::from(&meta) };
                        let sources = match ours {
                            _ if bucket_block.labels == new.labels => Some(meta.covered().collect()),
                            Some(ours) => Some(meta.covered().filter(|ulid| ours.contains(ulid)).collect()),
                            None => None,
                        };
                        self.remember(bucket_block, sources);
                    }
                    Err(err) => log::warn!(target: LOG_TARGET, block = block.as_str(), err = err.to_string();
                        "block in the bucket is left out of the overlap check"),
                },
            }
        }
        // Also what was read before a failure: the next attempt goes on from there.
        if is_changed
            && let Err(err) = self
                .disk
                .create_dirs_synced(self.path.parent().unwrap_or(&self.path))
                .and_then(|()| self.disk.replace(&self.path, &self.write()))
        {
            log::debug!(target: LOG_TARGET, err = err.to_string(); "what the bucket holds is remembered until the next restart");
        }
        self.is_fresh = failed.is_ok();
        failed
    }

    fn remember(&mut self, mut block: BucketBlock, sources: Option<Vec<Ulid>>) {
        match self.label_sets.get(&block.labels) {
            Some(same) => block.labels = Arc::clone(same),
            None => drop(self.label_sets.insert(Arc::clone(&block.labels))),
        }
        self.known.insert(block.ulid, Known { block, sources });
    }

    /// Reads the cache of an earlier run. What cannot be read is asked of the bucket.
    fn load(&mut self) {
        if std::mem::replace(&mut self.is_loaded, true) {
            return;
        }
        let Ok(bytes) = self.disk.read(&self.path, limits::REMOTE_CACHE_BYTES_MAX) else { return };
        for (block, sources) in parse(&bytes, &self.bucket_name).unwrap_or_default() {
            self.remember(block, sources);
        }
    }

    fn write(&self) -> Vec<u8> {
        let sets: Vec<&LabelSet> = self.label_sets.iter().collect();
        let label_sets = sets.iter().map(|set| {
            Json::Object(Object(set.iter().map(|(name, value)| (name.clone(), Json::text(value))).collect()))
        });
        let blocks = self.known.values().map(|Known { block, sources }| {
            let mut item = Object::default();
            item.set("ulid", Json::text(block.ulid.as_str()));
            item.set("min_time", Json::number(block.min_time_ms));
            item.set("max_time", Json::number(block.max_time_ms));
            let label_set = sets.binary_search(&&block.labels).unwrap_or_default();
            item.set("label_set", Json::number(i64::try_from(label_set).unwrap_or_default()));
            if let Some(sources) = sources {
                item.set("sources", Json::Array(sources.iter().map(|ulid| Json::text(ulid.as_str())).collect()));
            }
            Json::Object(item)
        });
        let mut root = Object::default();
        root.set("version", Json::number(1));
        root.set("bucket", Json::text(&self.bucket_name));
        root.set("label_sets", Json::Array(label_sets.collect()));
        root.set("blocks", Json::Array(blocks.collect()));
        json::write(&Json::Object(root)).into_bytes()
    }
}

/// Reads the cache; `None` if it is that of another bucket, or not what was written here.
fn parse(bytes: &[u8], bucket_name: &str) -> Option<Vec<(BucketBlock, Option<Vec<Ulid>>)>> {
    let object = |json: &Json| match json {
        Json::Object(object) => Some(object.clone()),
        _ => None,
    };
    let text = |json: Option<&Json>| match json {
        Some(Json::Text(text)) => Some(text.clone()),
        _ => None,
    };
    let number = |json: Option<&Json>| match json {
        Some(Json::Number(number)) => number.parse::<i64>().ok(),
        _ => None,
    };
    let ulid = |json: &Json| text(Some(json)).and_then(|text| Ulid::parse(&text));
    let root = object(&json::parse(bytes).ok()?)?;
    if number(root.value("version")) != Some(1) || text(root.value("bucket")).as_deref() != Some(bucket_name) {
        return None;
    }
    let (Some(Json::Array(sets)), Some(Json::Array(blocks))) = (root.value("label_sets"), root.value("blocks")) else {
        return None;
    };
    let label_set = |json: &Json| {
        let Object(members) = object(json)?;
        let pairs = members.into_iter().map(|(name, value)| Some((name, text(Some(&value))?)));
        pairs.collect::<Option<BTreeMap<_, _>>>().map(Arc::new)
    };
    let sets = sets.iter().map(label_set).collect::<Option<Vec<LabelSet>>>()?;
    let block = |json: &Json| {
        let item = object(json)?;
        let sources = match item.value("sources") {
            None => None,
            Some(Json::Array(items)) => Some(items.iter().map(ulid).collect::<Option<Vec<Ulid>>>()?),
            Some(_) => return None,
        };
        let labels = Arc::clone(sets.get(usize::try_from(number(item.value("label_set"))?).ok()?)?);
        let block = BucketBlock {
            ulid: ulid(item.value("ulid")?)?,
            min_time_ms: number(item.value("min_time"))?,
            max_time_ms: number(item.value("max_time"))?,
            labels,
        };
        Some((block, sources))
    };
    blocks.iter().map(block).collect()
}

/// An error of the bucket: no local block is at fault, so its kind is never `Corrupt`.
pub(crate) fn bucket_fault(err: Error) -> Error {
    let err = if err.kind() == Kind::Corrupt { err.with_kind(Kind::Retry) } else { err };
    if err.class() == pillion_base::files::UNREADABLE { err.classed("disk") } else { err }
}
