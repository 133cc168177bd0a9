//! How a file is cut into parts, and the ETags that follow from it. Pure.

use md5::{Digest, Md5};

use crate::limits;
use pillion_base::error::{Error, Kind, Result};

const MIB: u64 = 1024 * 1024;

/// An MD5.
pub(super) type Hash = [u8; 16];

/// The part size for a file; `None` if it goes in one piece. `configured` is the part size of the configuration.
///
/// `Errors:` `Limit` for a file that no number of parts can hold.
/// `Source:` minio-go `optimalPartInfo`; objstore leaves the choice to it for files below the configured size.
/// `Differs:` parts become larger where there would be too many of them.
pub(super) fn part_bytes(size_bytes: u64, configured: u64) -> Result<Option<u64>> {
    let part = if size_bytes < configured { limits::S3_SMALL_PART_BYTES.min(configured) } else { configured };
    if size_bytes <= part {
        return Ok(None);
    }
    let least = size_bytes.div_ceil(limits::S3_PARTS_MAX).next_multiple_of(MIB);
    let part = part.max(least);
    if part > limits::PART_BYTES_MAX {
        let text = format!("{size_bytes} bytes are more than an object can have");
        return Err(Error::new(Kind::Limit, text));
    }
    Ok(Some(part))
}

/// The number of parts.
pub(super) fn n_parts(size_bytes: u64, part_bytes: u64) -> u64 {
    size_bytes.div_ceil(part_bytes.max(1))
}

/// Start and end of part `idx`, from 0.
pub(super) fn range(idx: u64, part_bytes: u64, size_bytes: u64) -> (u64, u64) {
    let start = idx.saturating_mul(part_bytes).min(size_bytes);
    (start, start.saturating_add(part_bytes).min(size_bytes))
}

/// Encodes in hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Decodes hex.
pub(super) fn unhex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (idx, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * idx..2 * idx + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// The ETag of an object that was made of parts: the MD5 of their MD5s, and their number.
pub(super) fn tag_of_parts<'a>(hashes: impl IntoIterator<Item = &'a Hash>) -> String {
    let mut md5 = Md5::new();
    let mut n_parts = 0;
    for hash in hashes {
        md5.update(hash);
        n_parts += 1;
    }
    format!("{}-{n_parts}", hex(&md5.finalize()))
}

/// How an object was uploaded, by its ETag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// In one piece: the ETag can be an MD5.
    Whole,
    /// In so many parts.
    Parts(u64),
    /// The ETag does not say.
    Opaque,
}

/// Judges an ETag by its form.
pub(super) fn form(tag: &str) -> Tag {
    let (hash, count) = tag.split_once('-').map_or((tag, None), |(hash, count)| (hash, Some(count)));
    match (unhex(hash), count.map(str::parse)) {
        (Some(_), None) => Tag::Whole,
        (Some(_), Some(Ok(count))) if count > 0 => Tag::Parts(count),
        _ => Tag::Opaque,
    }
}

/// Part sizes that other tools use, Thanos among them.
const USUAL_MIB: [u64; 8] = [5, 8, 10, 16, 32, 64, 100, 128];

/// The likely part sizes of a file that was uploaded in `n_parts`.
pub(super) fn candidates(size_bytes: u64, n_parts: u64, own: Option<u64>) -> Vec<u64> {
    let even = size_bytes.div_ceil(n_parts.max(1)).next_multiple_of(MIB);
    let usual = USUAL_MIB.into_iter().map(|mib| mib * MIB);
    let mut found: Vec<u64> =
        own.into_iter().chain(usual).chain([even]).filter(|part| self::n_parts(size_bytes, *part) == n_parts).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_cut_as_thanos_cuts_them() {
        let check = |size: u64, configured: u64, expected: Option<u64>| {
            assert_eq!(part_bytes(size, configured).unwrap(), expected, "{size} {configured}");
        };
        let default = 64 * MIB;
        check(0, default, None);
        check(16 * MIB, default, None);
        check(16 * MIB + 1, default, Some(16 * MIB));
        check(64 * MIB - 1, default, Some(16 * MIB));
        check(64 * MIB, default, None);
        check(64 * MIB + 1, default, Some(64 * MIB));
        check(5 * MIB + 1, 5 * MIB, Some(5 * MIB));
        check(5 * MIB - 1, 5 * MIB, None);
        check(1024 * 1024 * MIB, default, Some(105 * MIB));
        assert_eq!(part_bytes(60 * 1024 * 1024 * MIB, default).unwrap_err().kind(), Kind::Limit);
    }

    #[test]
    fn parts_cover_the_file() {
        for size in [1, 9, 10, 11, 20, 21] {
            let n = n_parts(size, 10);
            let ranges: Vec<_> = (0..n).map(|idx| range(idx, 10, size)).collect();
            assert_eq!((ranges[0].0, ranges[ranges.len() - 1].1), (0, size));
            assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ranges:?}");
        }
    }

    #[test]
    fn tags() {
        assert_eq!(form("d41d8cd98f00b204e9800998ecf8427e"), Tag::Whole);
        assert_eq!(form("d41d8cd98f00b204e9800998ecf8427e-3"), Tag::Parts(3));
        for opaque in [
            "",
            "x",
            "d41d8cd98f00b204e9800998ecf8427e-",
            "d41d8cd98f00b204e9800998ecf8427e-0",
            "ü".repeat(16).as_str(),
        ] {
            assert_eq!(form(opaque), Tag::Opaque, "{opaque}");
        }
        let empty: Hash = Md5::digest(b"").into();
        assert_eq!(hex(&empty), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(unhex(&hex(&empty)), Some(empty));
        // As `printf '' | md5sum | xxd -r -p | md5sum` has it.
        assert_eq!(tag_of_parts([&empty]), "59adb24ef3cdbe0297f05b395827453f-1");
        assert_eq!(candidates(20 * MIB, 4, Some(6 * MIB)), [5 * MIB, 6 * MIB]);
        assert_eq!(candidates(200 * MIB, 2, None), [100 * MIB, 128 * MIB]);
        assert_eq!(candidates(33 * MIB, 3, None), [11 * MIB, 16 * MIB]);
    }
}
