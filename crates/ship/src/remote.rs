//! What the bucket already holds, for the overlap check of compacted blocks. Never writes to the bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::LOG_TARGET;
use crate::limits;
use crate::meta::Meta;
use crate::plan::{self, BucketBlock};
use crate::ulid::Ulid;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::stop::Stop;
use pillion_bucket::Bucket;

/// The whole blocks of the bucket. A block never changes under its name, so the process reads each meta.json once.
#[derive(Default)]
pub(crate) struct Remote {
    known: BTreeMap<Ulid, BucketBlock>,
    /// The label sets of those blocks, each once: a bucket has many blocks and few label sets.
    label_sets: BTreeSet<Arc<BTreeMap<String, String>>>,
    /// Whether the bucket was listed in this tick.
    is_fresh: bool,
}

impl Remote {
    /// Begins a tick: the bucket may have changed since the last one.
    pub(crate) fn begin_tick(&mut self) {
        self.is_fresh = false;
    }

    /// The first block of the bucket that overlaps `new`. A folder without meta.json is an upload that is under way or
    /// was given up; it overlaps nothing (D-28).
    pub(crate) fn overlap(&mut self, new: &BucketBlock, bucket: &dyn Bucket, stop: &Stop) -> Result<Option<Ulid>> {
        if !self.is_fresh {
            self.gather(new.ulid, bucket, stop).map_err(|err| bucket_fault(err).context("get all block meta."))?;
        }
        Ok(plan::overlap(new, self.known.values()).map(|old| old.ulid))
    }

    /// Adds a block that this process has just shipped.
    pub(crate) fn add(&mut self, block: BucketBlock) {
        if self.is_fresh {
            self.remember(block);
        }
    }

    fn gather(&mut self, ulid: Ulid, bucket: &dyn Bucket, stop: &Stop) -> Result<()> {
        log::info!(target: LOG_TARGET, id = ulid.as_str(); "gathering all existing blocks from the remote bucket for check");
        if self.known.len() > limits::REMOTE_BLOCKS_MAX {
            self.known.clear();
            self.label_sets.clear();
        }
        let mut there = BTreeSet::new();
        let each = &mut |name: &str| {
            there.extend(name.strip_suffix('/').and_then(Ulid::parse));
            Ok(())
        };
        bucket.iter("", each, stop)?;
        self.known.retain(|ulid, _| there.contains(ulid));
        for block in there {
            if self.known.contains_key(&block) {
                continue;
            }
            match bucket.get(&format!("{block}/meta.json"), stop) {
                Err(err) if err.kind() == Kind::NotFound => {}
                Err(err) => return Err(err.context(format!("meta.json bkt get for {block}"))),
                Ok(bytes) => match Meta::parse(&bytes) {
                    Ok(meta) => self.remember(BucketBlock { ulid: block, ..BucketBlock::from(&meta) }),
                    Err(err) => log::warn!(target: LOG_TARGET, block = block.as_str(), err = err.to_string();
                        "block in the bucket is left out of the overlap check"),
                },
            }
        }
        self.is_fresh = true;
        Ok(())
    }

    fn remember(&mut self, mut block: BucketBlock) {
        match self.label_sets.get(&block.labels) {
            Some(same) => block.labels = Arc::clone(same),
            None => drop(self.label_sets.insert(Arc::clone(&block.labels))),
        }
        self.known.insert(block.ulid, block);
    }
}

/// An error of the bucket: no local block is at fault, so its kind is never `Corrupt`.
pub(crate) fn bucket_fault(err: Error) -> Error {
    if err.kind() == Kind::Corrupt { err.with_kind(Kind::Retry) } else { err }
}
