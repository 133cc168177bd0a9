//! Decides what is to be done with each block, and why. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::meta::Meta;
use crate::ulid::Ulid;
use pillion_base::error::{Error, Kind};

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
    /// Nothing: it was compacted, and compacted blocks are not shipped without `--shipper.upload-compacted`.
    SkipCompacted,
    /// Hold the order here: it is not known yet whether to ship the block.
    Unreadable(&'a Error),
    /// Ship it.
    Ship(&'a Meta),
}

/// A block and what is done with it.
#[derive(Debug)]
pub(crate) struct Planned<'a> {
    /// The block.
    pub(crate) found: &'a Found,
    /// What is done.
    pub(crate) action: Action<'a>,
}

/// What to do with `found`, oldest block first. `is_shipped` says which blocks were shipped.
pub(crate) fn plan(found: &[Found], is_shipped: impl Fn(Ulid) -> bool, upload_compacted: bool) -> Vec<Planned<'_>> {
    let mut planned: Vec<Planned> = found
        .iter()
        .map(|found| Planned {
            found,
            action: match &found.meta {
                _ if is_shipped(found.ulid) => Action::Done,
                Err(err) if err.kind() == Kind::Corrupt => Action::ListCorrupt(err),
                Err(err) => Action::Unreadable(err),
                Ok(meta) if meta.n_samples == 0 => Action::ListEmpty,
                Ok(meta) if meta.level > 1 && !upload_compacted => Action::SkipCompacted,
                Ok(meta) => Action::Ship(meta),
            },
        })
        .collect();
    planned.sort_by_cached_key(|planned| (time_ms(planned, found), planned.found.ulid));
    planned
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
        let ulid = ulid(n);
        let text = format!(
            r#"{{"version":1,"ulid":"{ulid}","minTime":{min_time},"maxTime":{},"stats":{{"numSamples":{n_samples}}},
            "compaction":{{"level":{level}}}}}"#,
            min_time + 10
        );
        Found { ulid, dir: PathBuf::new(), is_local: true, meta: Meta::parse(text.as_bytes()) }
    }

    fn broken(n: u32, kind: Kind) -> Found {
        Found { ulid: ulid(n), dir: PathBuf::new(), is_local: true, meta: Err(Error::new(kind, "broken")) }
    }

    /// One word for each block, in order.
    fn check(found: &[Found], upload_compacted: bool, expected: &[(u32, &str)]) {
        let planned = plan(found, |block| block == ulid(9), upload_compacted);
        let word = |action: &Action| match action {
            Action::Done => "done",
            Action::ListEmpty => "empty",
            Action::ListCorrupt(_) => "corrupt",
            Action::SkipCompacted => "compacted",
            Action::Unreadable(_) => "unreadable",
            Action::Ship(_) => "ship",
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
