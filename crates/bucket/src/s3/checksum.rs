//! The sums of what is sent, computed in one pass, and what is known of the store: whether it keeps CRC-32C. Where it
//! does, that sum takes the place of MD5: it is several times faster, and a bucket with Object Lock takes it too. Never
//! decides what follows from a sum that differs.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};
use sha2::Sha256;

use super::fault::Fault;
use super::parts::Hash;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

/// The header with the sum of an object or a part.
pub(super) const CRC32C: &str = "x-amz-checksum-crc32c";
/// The header that announces the sums of parts, and that a store which keeps them answers with.
pub(super) const ALGORITHM: &str = "x-amz-checksum-algorithm";
/// Its value.
pub(super) const ALGORITHM_CRC32C: &str = "CRC32C";
/// The header that asks for the sum of an object.
pub(super) const MODE: &str = "x-amz-checksum-mode";

/// Which sums are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub md5: bool,
    pub sha256: bool,
    pub crc32c: bool,
}

/// The sums that were wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub md5: Option<Hash>,
    pub sha256: Option<[u8; 32]>,
    pub crc32c: Option<u32>,
}

/// The sums of a part of a file, which is not read if none is wanted. `cancelled` ends the computation early.
pub(super) fn sums(
    source: &Source,
    range: (u64, u64),
    wanted: Wanted,
    stop: &Stop,
    cancelled: Option<&AtomicBool>,
) -> Result<Sums> {
    if wanted == Wanted::default() {
        return Ok(Sums::default());
    }
    let (mut md5, mut sha256, mut crc32c) =
        (wanted.md5.then(Md5::new), wanted.sha256.then(Sha256::new), wanted.crc32c.then_some(0));
    source.for_each(range.0..range.1, |buffer| {
        if cancelled.is_some_and(|cancelled| cancelled.load(Ordering::Relaxed)) {
            return Err(Error::new(Kind::Stopped, "cancelled"));
        }
        stop.check()?;
        md5.iter_mut().for_each(|md5| md5.update(buffer));
        sha256.iter_mut().for_each(|sha256| sha256.update(buffer));
        crc32c.iter_mut().for_each(|crc| *crc = crc32c::crc32c_append(*crc, buffer));
        Ok(())
    })?;
    Ok(Sums { md5: md5.map(|md5| md5.finalize().into()), sha256: sha256.map(|sha| sha.finalize().into()), crc32c })
}

/// A sum as S3 writes it.
pub(super) fn text(crc32c: u32) -> String {
    BASE64_STANDARD.encode(crc32c.to_be_bytes())
}

/// The sum of an object that was made of parts.
pub(super) fn text_of_parts(sums: &[u32]) -> String {
    let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_be_bytes()).collect();
    format!("{}-{}", text(crc32c::crc32c(&bytes)), sums.len())
}

/// A part's sum as the journal has it, beside the MD5s of parts that were sent without one.
pub(super) fn journalled(crc32c: u32) -> String {
    format!("crc32c:{crc32c:08x}")
}

/// Reads what [`journalled`] wrote; `None` for an MD5.
pub(super) fn unjournalled(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("crc32c:").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok()
}

/// Whether a sum of the store contradicts ours. It says nothing of a sum of another form, or of none.
pub(super) fn contradicts(theirs: &str, ours: &str) -> bool {
    !theirs.is_empty() && theirs.contains('-') == ours.contains('-') && theirs != ours
}

/// Whether a store keeps CRC-32C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    /// It was not asked yet: the next upload offers the sum beside what it needs without it.
    Unknown,
    /// It answers with the sum that was sent.
    Kept,
    /// It ignores or refuses it.
    Ignored,
}

/// What is known of the store.
#[derive(Default)]
pub(super) struct Checksums(AtomicU8);

impl Checksums {
    pub(super) fn keeping(&self) -> Keeping {
        match self.0.load(Ordering::Relaxed) {
            0 => Keeping::Unknown,
            1 => Keeping::Kept,
            _ => Keeping::Ignored,
        }
    }

    /// Notes what the store has shown.
    pub(super) fn learn(&self, is_kept: bool, bucket: &str) {
        let new = if is_kept { 1 } else { 2 };
        if self.0.swap(new, Ordering::Relaxed) != new {
            log::debug!(bucket = bucket, crc32c = is_kept; "the object store was asked whether it keeps checksums");
        }
    }
}

/// Whether a store may have refused a request because of the sum that came with it.
pub(super) fn may_be_refused(fault: &Fault) -> bool {
    matches!(fault.status, 400 | 501) && fault.error.class() == "permanent"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_written_as_s3_writes_them() {
        // The check value of CRC-32C is that of "123456789": e3069283.
        let sum = crc32c::crc32c(b"123456789");
        assert_eq!((text(sum).as_str(), journalled(sum).as_str()), ("4waSgw==", "crc32c:e3069283"));
        assert_eq!(unjournalled(&journalled(sum)), Some(sum));
        for other in ["", "crc32c:", "crc32c:e306928", "crc32c:e30692833", "crc32c:+3069283x", "0"] {
            assert_eq!(unjournalled(other), None, "{other}");
        }
        let both = crc32c::crc32c(&[sum.to_be_bytes(), 0_u32.to_be_bytes()].concat());
        assert_eq!(text_of_parts(&[sum, 0]), format!("{}-2", text(both)));
        assert!(contradicts("a", "b") && !contradicts("a", "a") && !contradicts("", "a") && !contradicts("a-1", "a"));
    }
}
