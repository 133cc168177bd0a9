//! The segments of large objects: how large they are, and what they are called. Pure.
//!
//! A segment's name says of what it is a part: the MD5 of the file, its size and that of the segments, and its number. So
//! the store's own listing tells what an earlier attempt has sent, whatever the journal says, and no segment of another
//! content is ever taken for ours or overwritten.

use super::json::Abilities;
use super::{Hash, SEGMENTS, hex};
use crate::limits;
use crate::rest::Answer;
use pillion_base::error::{Error, Kind as ErrorKind, Result};

/// Below it every object has a folder of its own. Thanos has other names there.
const OURS: &str = "pillion/";

/// What an object is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its own bytes.
    Plain,
    /// The segments of a list.
    Static,
    /// Those of a container with a prefix: `container/prefix`, escaped.
    Dynamic(String),
}

impl Kind {
    pub(super) fn of(answer: &Answer) -> Kind {
        let manifest = answer.header("x-object-manifest");
        if !manifest.is_empty() {
            return Kind::Dynamic(manifest.to_owned());
        }
        let is_static = answer.header("x-static-large-object").eq_ignore_ascii_case("true");
        if is_static { Kind::Static } else { Kind::Plain }
    }
}

/// The container and the prefix of a dynamic large object.
pub(super) fn unescaped(manifest: &str) -> (String, String) {
    let (container, prefix) = manifest.split_once('/').unwrap_or((manifest, ""));
    let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    (plain(container), plain(prefix))
}

/// The size of segments for a file; `None` if it goes in one piece. `wanted` is the setting.
///
/// `Errors:` for a file that the store cannot have, with the setting that could help.
pub(super) fn segment_bytes(
    size_bytes: u64,
    wanted: Option<u64>,
    is_dynamic: bool,
    store: &Abilities,
) -> Result<Option<u64>> {
    let large = |text: &str| Err(Error::new(ErrorKind::Permanent, format!("{size_bytes} bytes are {text}")));
    if size_bytes <= usual_bytes(wanted, is_dynamic).min(store.object_bytes_max) {
        return Ok(None);
    }
    if !is_dynamic && !store.has_static {
        if wanted.is_none() && size_bytes <= store.object_bytes_max {
            return Ok(None);
        }
        return large(
            "too many for this store, which has no static large objects: set use_dynamic_large_objects: true",
        );
    }
    let least = if is_dynamic { 1 } else { size_bytes.div_ceil(store.segments_max).max(store.segment_bytes_min) };
    match usual_bytes(wanted, is_dynamic).min(store.object_bytes_max).max(least) {
        bytes if bytes <= store.object_bytes_max => Ok(Some(bytes)),
        _ => large("more than this store can have as one object"),
    }
}

pub(super) fn usual_bytes(wanted: Option<u64>, is_dynamic: bool) -> u64 {
    let usual = if is_dynamic { limits::SWIFT_DYNAMIC_SEGMENT_BYTES } else { limits::SWIFT_SEGMENT_BYTES };
    wanted.unwrap_or(usual).clamp(1, limits::PART_BYTES_MAX)
}

/// The prefix of a segment's name.
pub(super) fn attempt_of(name: &str) -> &str {
    name.rfind('/').and_then(|end| name.get(..=end)).unwrap_or_default()
}

/// The folder of an object's segments.
pub(super) fn folder_of(object: &str) -> String {
    format!("{SEGMENTS}{OURS}{object}/")
}

/// The prefix of the segments of one content: `…/<MD5>-<size>-<size of segments>/`.
pub(super) fn prefix_of(object: &str, whole: &Hash, size_bytes: u64, segment_bytes: u64) -> String {
    format!("{}{}-{size_bytes}-{segment_bytes}/", folder_of(object), hex(whole))
}

/// The name of a segment, in whose order a store puts them together.
pub(super) fn segment_name(prefix: &str, idx: usize) -> String {
    format!("{prefix}{idx:08}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const GIB: u64 = 1024 * MIB;

    #[test]
    fn segments_are_as_large_as_they_must_be() {
        let store = Abilities::default();
        let check = |size, wanted, is_dynamic, store: &Abilities, want: Option<u64>| {
            assert_eq!(segment_bytes(size, wanted, is_dynamic, store).unwrap(), want, "{size} {wanted:?} {is_dynamic}");
        };
        check(16 * MIB, None, false, &store, None);
        check(16 * MIB + 1, None, false, &store, Some(16 * MIB));
        check(1000 * 16 * MIB, None, false, &store, Some(16 * MIB));
        check(1000 * 16 * MIB + 1, None, false, &store, Some(16 * MIB + 1));
        check(64 * MIB, None, true, &store, None);
        check(64 * MIB + 1, None, true, &store, Some(64 * MIB));
        check(100_000 * MIB, None, true, &store, Some(64 * MIB));
        // What is set counts, up to what a store takes at once.
        check(GIB, Some(GIB), false, &store, None);
        check(GIB + 1, Some(GIB), false, &store, Some(GIB));
        check(6 * GIB, Some(100 * GIB), false, &store, Some(5 * GIB));
        check(10 * MIB, Some(1000), false, &store, Some(10_486));
        let small = Abilities { object_bytes_max: 8 * MIB, segments_max: 4, segment_bytes_min: 2 * MIB, ..store };
        check(8 * MIB, None, false, &small, None);
        check(9 * MIB, None, false, &small, Some(8 * MIB));
        check(3 * MIB, Some(MIB), false, &small, Some(2 * MIB));
        let err = segment_bytes(33 * MIB, None, false, &small).unwrap_err();
        assert!(err.to_string().contains("more than this store can have"), "{err}");
        // Without static large objects.
        let bare = Abilities { has_static: false, ..store };
        check(5 * GIB, None, false, &bare, None);
        check(5 * GIB, None, true, &bare, Some(64 * MIB));
        for (size, wanted) in [(5 * GIB + 1, None), (2 * GIB, Some(GIB))] {
            let err = segment_bytes(size, wanted, false, &bare).unwrap_err();
            assert!(err.to_string().contains("use_dynamic_large_objects"), "{err}");
        }
    }

    #[test]
    fn names_of_segments_tell_their_content_and_have_the_order_of_their_numbers() {
        let prefix = prefix_of("01A/index", &[0xab; 16], 17, 10);
        assert_eq!(prefix, format!("segments/pillion/01A/index/{}-17-10/", "ab".repeat(16)));
        let mut names: Vec<String> = [11, 2, 999, 0].map(|idx| segment_name(&prefix, idx)).to_vec();
        names.sort_unstable();
        let order: Vec<&str> = names.iter().filter_map(|name| Some(name.rsplit_once('/')?.1)).collect();
        assert_eq!(order, ["00000000", "00000002", "00000011", "00000999"]);
    }
}
