//! Which series belong to a shard of a query. Pure.
//!
//! `Source:` thanos `pkg/store/storepb/shard_info.go`: xxhash64 over `name 0xFF value 0xFF` of the chosen labels in order.

use std::hash::Hasher;

use twox_hash::XxHash64;

use pillion_proto::thanos_store::ShardInfo;

/// One shard of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    total: u64,
    by: bool,
    names: Vec<String>,
}

impl Shard {
    /// The shard a request asks for; `None` when it asks for all series.
    pub fn new(info: &ShardInfo) -> Option<Self> {
        let total = u64::try_from(info.total_shards).ok().filter(|total| *total > 0)?;
        // A negative index equals no remainder, as in Go, where it becomes a huge unsigned number.
        let index = u64::try_from(info.shard_index).unwrap_or(u64::MAX);
        Some(Shard { index, total, by: info.by, names: info.labels.clone() })
    }

    /// Whether a series with these final labels, sorted by name, belongs to the shard.
    pub(super) fn holds<'a>(&self, labels: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> bool {
        let mut hash = XxHash64::with_seed(0);
        for (name, value) in labels {
            if self.names.iter().any(|chosen| chosen.as_bytes() == name) == self.by {
                for part in [name, b"\xff", value, b"\xff"] {
                    hash.write(part);
                }
            }
        }
        hash.finish() % self.total == self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(index: i64, total: i64, by: bool, names: &[&str]) -> Option<Shard> {
        Shard::new(&ShardInfo {
            shard_index: index,
            total_shards: total,
            by,
            labels: names.iter().map(ToString::to_string).collect(),
            ..Default::default()
        })
    }

    const LABELS: [(&[u8], &[u8]); 3] = [(b"container", b"b"), (b"node", b"c"), (b"pod", b"a")];

    #[test]
    fn nothing_to_shard() {
        assert_eq!(shard(0, 0, true, &[]), None);
        assert_eq!(shard(0, -3, true, &[]), None);
    }

    #[test]
    fn each_series_is_in_exactly_one_shard() {
        for (by, names) in [(true, &["pod"][..]), (false, &["pod"]), (true, &[]), (false, &[])] {
            let holding = (0..7).filter(|idx| shard(*idx, 7, by, names).unwrap().holds(LABELS.into_iter())).count();
            assert_eq!(holding, 1, "{by} {names:?}");
        }
        assert!(!shard(-1, 7, true, &[]).unwrap().holds(LABELS.into_iter()));
    }

    #[test]
    fn by_and_without_choose_complementary_labels() {
        // `by node,pod` and `without container` choose the same labels.
        let by: Vec<_> =
            (0..5).map(|i| shard(i, 5, true, &["pod", "node"]).unwrap().holds(LABELS.into_iter())).collect();
        let without: Vec<_> =
            (0..5).map(|i| shard(i, 5, false, &["container"]).unwrap().holds(LABELS.into_iter())).collect();
        assert_eq!(by, without);
    }

    #[test]
    fn the_hash_is_xxhash64_of_names_and_values() {
        // `by` with no labels hashes the empty string: 0xef46db3751d8e999 in total.
        assert!(
            shard(i64::try_from(0xef46_db37_51d8_e999_u64 % 1000).unwrap(), 1000, true, &[])
                .unwrap()
                .holds(LABELS.into_iter())
        );
        let expected = twox_hash::XxHash64::oneshot(0, b"pod\xffa\xff") % 1000;
        assert!(shard(i64::try_from(expected).unwrap(), 1000, true, &["pod"]).unwrap().holds(LABELS.into_iter()));
    }
}
