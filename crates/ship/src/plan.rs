//! Decides what is to be done with each block, and why. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::meta::Meta;
use crate::ulid::Ulid;
use pillion_base::error::{Error, Kind};
use pillion_base::files::UNREADABLE;

/// A block in the data directory, or one that only its claim has kept.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its name.
    pub(crate) ulid: Ulid,
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// Whether Prometheus has it.
    pub(crate) is_local: bool,
    /// Its meta.json, or why that cannot be read. The kind is `Corrupt` if the block is at fault, another if it may be
    /// readable later.
    pub(crate) meta: Result<Meta, Error>,
}

/// What is done with a block.
#[derive(Debug)]
pub(crate) enum Action<'a> {
    /// Nothing: it is in the bucket, or was once. The bucket is not asked.
    Done,
    /// Nothing, but list it: it has no samples.
    ListEmpty,
    /// Nothing, but list it: its meta.json cannot be read, and trying again will not help.
    ListCorrupt(&'a Error),
    /// Nothing: it was compacted of blocks that were shipped or will be, and such blocks are not shipped without
    /// `--shipper.upload-compacted`.
    SkipCompacted,
    /// Hold the order here: it is not known yet whether to ship the block.
    Unreadable(&'a Error),
    /// Ship it.
    Ship(&'a Meta),
    /// Ship it although it was compacted: it has samples of blocks that were never shipped, and nothing else has them.
    StandIn(&'a Meta),
}

impl<'a> Action<'a> {
    /// The meta.json of a block that is to be shipped.
    pub(crate) fn to_ship(&self) -> Option<&'a Meta> {
        match self {
            Action::Ship(meta) | Action::StandIn(meta) => Some(meta),
            _ => None,
        }
    }
}

/// A block and what is done with it.
#[derive(Debug)]
pub(crate) struct Planned<'a> {
    /// The block.
    pub(crate) found: &'a Found,
    /// What is done.
    pub(crate) action: Action<'a>,
}

/// What the plan needs to know of the past.
pub(crate) struct Past<'a> {
    /// Whether a block was shipped.
    pub(crate) is_shipped: &'a dyn Fn(Ulid) -> bool,
    /// Whether the samples of a block of level 1 need not be shipped any more.
    pub(crate) is_covered: &'a dyn Fn(Ulid) -> bool,
    /// `--shipper.upload-compacted`.
    pub(crate) upload_compacted: bool,
}

/// What to do with `found`, oldest block first.
pub(crate) fn plan<'a>(found: &'a [Found], past: &Past<'_>) -> Vec<Planned<'a>> {
    let coming = coming(found);
    let is_covered = |ulid: Ulid| coming.contains(&ulid) || (past.is_covered)(ulid);
    let mut planned: Vec<Planned> = found
        .iter()
        .map(|found| Planned {
            found,
            action: match &found.meta {
                _ if (past.is_shipped)(found.ulid) => Action::Done,
                Err(err) if err.kind() == Kind::Corrupt => Action::ListCorrupt(err),
                Err(err) => Action::Unreadable(err),
                Ok(meta) if meta.n_samples == 0 => Action::ListEmpty,
                Ok(meta) if meta.level > 1 && !meta.covered().all(is_covered) => Action::StandIn(meta),
                Ok(meta) if meta.level > 1 && !past.upload_compacted => Action::SkipCompacted,
                Ok(meta) => Action::Ship(meta),
            },
        })
        .collect();
    planned.sort_by_cached_key(|planned| (time_ms(planned, found), planned.found.ulid));
    planned
}

/// Blocks of level 1 that are here themselves, and not known to be of no use: they are shipped themselves.
pub(crate) fn coming(found: &[Found]) -> BTreeSet<Ulid> {
    let comes = |found: &&Found| match &found.meta {
        Ok(meta) => meta.level <= 1,
        // What the disk cannot read may be gone before it can.
        Err(err) => err.kind() != Kind::Corrupt && err.class() != UNREADABLE,
    };
    found.iter().filter(comes).map(|found| found.ulid).collect()
}

/// The time by which blocks are ordered: the first sample, or the time in the name if meta.json cannot be read.
///
/// A block is named hours after its first sample. So a block that may be readable later goes before all blocks that
/// were named after it, because a younger one among them must not be shipped first.
fn time_ms(planned: &Planned, all: &[Found]) -> i64 {
    let named_ms = planned.found.ulid.time_ms();
    match (&planned.action, &planned.found.meta) {
        (_, Ok(meta)) => meta.min_time_ms,
        (Action::Unreadable(_), _) => {
            let after = all.iter().filter(|found| found.ulid > planned.found.ulid);
            after.filter_map(|found| found.meta.as_ref().ok()).map(|meta| meta.min_time_ms).fold(named_ms, i64::min)
        }
        _ => named_ms,
    }
}

/// What the overlap check needs to know of a block in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketBlock {
    /// Its name.
    pub(crate) ulid: Ulid,
    /// Time of its first sample. `Units:` ms.
    pub(crate) min_time_ms: i64,
    /// Time after its last sample. `Units:` ms.
    pub(crate) max_time_ms: i64,
    /// Its `thanos.labels`.
    pub(crate) labels: Arc<BTreeMap<String, String>>,
}

impl From<&Meta> for BucketBlock {
    fn from(meta: &Meta) -> Self {
        let Meta { ulid, min_time_ms, max_time_ms, labels, .. } = meta;
        BucketBlock {
            ulid: *ulid,
            min_time_ms: *min_time_ms,
            max_time_ms: *max_time_ms,
            labels: Arc::new(labels.clone()),
        }
    }
}

/// The first block of `bucket` with the labels of `new` that shares time with it.
pub(crate) fn overlap<'a>(
    new: &BucketBlock,
    bucket: impl IntoIterator<Item = &'a BucketBlock>,
) -> Option<&'a BucketBlock> {
    bucket.into_iter().find(|old| {
        old.ulid != new.ulid
            && old.labels == new.labels
            && old.min_time_ms < new.max_time_ms
            && new.min_time_ms < old.max_time_ms
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulid(n: u32) -> Ulid {
        Ulid::parse(&format!("{n:026}")).unwrap()
    }

    fn block(n: u32, min_time: i64, level: i64, n_samples: u64) -> Found {
        made_of(n, min_time, level, n_samples, &[n])
    }

    fn made_of(n: u32, min_time: i64, level: i64, n_samples: u64, sources: &[u32]) -> Found {
        let sources: Vec<String> = sources.iter().map(|n| format!("\"{}\"", ulid(*n))).collect();
        let ulid = ulid(n);
        let text = format!(
            r#"{{"version":1,"ulid":"{ulid}","minTime":{min_time},"maxTime":{},"stats":{{"numSamples":{n_samples}}},
            "compaction":{{"level":{level},"sources":[{}]}}}}"#,
            min_time + 10,
            sources.join(",")
        );
        Found { ulid, dir: PathBuf::new(), is_local: true, meta: Meta::parse(text.as_bytes()) }
    }

    fn broken(n: u32, kind: Kind) -> Found {
        Found { ulid: ulid(n), dir: PathBuf::new(), is_local: true, meta: Err(Error::new(kind, "broken")) }
    }

    /// One word for each block, in order.
    fn check(found: &[Found], upload_compacted: bool, expected: &[(u32, &str)]) {
        let past = Past {
            is_shipped: &|block| block == ulid(9),
            is_covered: &|block| [3, 4, 9].map(ulid).contains(&block),
            upload_compacted,
        };
        let planned = plan(found, &past);
        let word = |action: &Action| match action {
            Action::Done => "done",
            Action::ListEmpty => "empty",
            Action::ListCorrupt(_) => "corrupt",
            Action::SkipCompacted => "compacted",
            Action::Unreadable(_) => "unreadable",
            Action::Ship(_) => "ship",
            Action::StandIn(_) => "stand in",
        };
        let seen: Vec<_> = planned.iter().map(|p| (p.found.ulid, word(&p.action))).collect();
        let expected: Vec<_> = expected.iter().map(|(n, word)| (ulid(*n), *word)).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn oldest_first_then_by_name() {
        check(
            &[block(3, 20, 1, 1), block(2, 10, 1, 1), block(1, 20, 1, 1)],
            false,
            &[(2, "ship"), (1, "ship"), (3, "ship")],
        );
    }

    #[test]
    fn each_block_has_its_reason() {
        let found = [
            block(9, 1, 1, 1),
            block(2, 2, 1, 0),
            block(3, 3, 2, 1),
            block(4, 4, 2, 0),
            broken(1, Kind::Corrupt),
            broken(8, Kind::Retry),
        ];
        let others = [(1, "corrupt"), (8, "unreadable"), (9, "done"), (2, "empty")];
        let with = |last: [(u32, &'static str); 2]| others.iter().copied().chain(last).collect::<Vec<_>>();
        check(&found, false, &with([(3, "compacted"), (4, "empty")]));
        check(&found, true, &with([(3, "ship"), (4, "empty")]));
    }

    #[test]
    fn a_compacted_block_stands_in_for_those_that_were_never_shipped() {
        for upload_compacted in [false, true] {
            let covered = if upload_compacted { "ship" } else { "compacted" };
            let check_one = |sources: &[u32], others: &[Found], expected: &str| {
                let mut found = vec![made_of(8, 50, 2, 1, sources)];
                found.extend(others.iter().map(|other| Found {
                    meta: other.meta.clone(),
                    dir: other.dir.clone(),
                    ..*other
                }));
                let past = Past {
                    is_shipped: &|block| block == ulid(9),
                    is_covered: &|block| [3, 4, 9].map(ulid).contains(&block),
                    upload_compacted,
                };
                let planned = plan(&found, &past);
                let action = &planned.iter().find(|planned| planned.found.ulid == ulid(8)).unwrap().action;
                let word = match action {
                    Action::StandIn(_) => "stand in",
                    Action::Ship(_) => "ship",
                    Action::SkipCompacted => "compacted",
                    other => panic!("{other:?}"),
                };
                assert_eq!(word, expected, "{sources:?} {upload_compacted}");
            };
            check_one(&[3, 4], &[], covered);
            check_one(&[3, 5], &[], "stand in");
            // It says nothing of what it was made of.
            check_one(&[], &[], "stand in");
            // The other one is shipped itself, also if it cannot be read just now, but not if it is damaged.
            check_one(&[3, 5], &[block(5, 50, 1, 1)], covered);
            check_one(&[3, 5], &[broken(5, Kind::Retry)], covered);
            check_one(&[3, 5], &[broken(5, Kind::Corrupt)], "stand in");
        }
    }

    #[test]
    fn a_shipped_block_is_done_whatever_became_of_it() {
        check(&[broken(9, Kind::Corrupt)], false, &[(9, "done")]);
        check(&[block(9, 1, 2, 0)], false, &[(9, "done")]);
    }

    #[test]
    fn only_shared_time_under_the_same_labels_is_an_overlap() {
        let block = |n: u32, min_time_ms, max_time_ms, region: &str| BucketBlock {
            ulid: ulid(n),
            min_time_ms,
            max_time_ms,
            labels: Arc::new(BTreeMap::from([("region".to_owned(), region.to_owned())])),
        };
        let bucket = [block(1, 0, 10, "eu"), block(2, 20, 30, "eu"), block(3, 10, 20, "us")];
        let check = |new: BucketBlock, expected: Option<u32>| {
            assert_eq!(overlap(&new, &bucket).map(|old| old.ulid), expected.map(ulid), "{new:?}");
        };
        check(block(5, 10, 20, "eu"), None);
        check(block(5, 9, 20, "eu"), Some(1));
        check(block(5, 10, 21, "eu"), Some(2));
        check(block(5, 0, 100, "eu"), Some(1));
        check(block(5, 3, 4, "eu"), Some(1));
        check(block(5, 0, 100, "asia"), None);
        check(block(1, 0, 10, "eu"), None);
    }
}
