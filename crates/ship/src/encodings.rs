//! Looks for chunks that Thanos's compactor and store gateway cannot read, in the first part of a block's chunk files.
//! Only tells: an upload is never refused or held up for what is found, or for what cannot be read.
//!
//! `Shape:` a chunk file has eight bytes of header; then chunks: length of the data as uvarint, a byte of encoding, the data,
//! four bytes of checksum. `Source:` Prometheus `tsdb/docs/format/chunks.md`.

use crate::claim::Claim;
use crate::limits;
use pillion_base::error::Result;
use pillion_base::files::Disk;

const FILE_HEADER_BYTES: u64 = 8;
const CHECKSUM_BYTES: u64 = 4;
/// Bytes between two looks at what was found.
const STEP_BYTES: u64 = 1024 * 1024;

/// Why a block cannot be read by Thanos.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewerEncoding {
    /// What the chunk holds, and how.
    pub(crate) name: &'static str,
    /// What makes Prometheus write such chunks.
    pub(crate) switch: &'static str,
}

/// The first encoding in a block that Thanos does not know; `None` where none was found.
///
/// `Errors:` of reading the claim's files.
pub(crate) fn newer_encoding(claim: &Claim, disk: &Disk) -> Result<Option<NewerEncoding>> {
    let mut left_bytes = limits::LOOKED_AT_BYTES_MAX;
    for name in claim.names().filter(|name| name.starts_with("chunks/")) {
        let source = claim.open(disk, &name)?;
        let end = source.size_bytes().min(left_bytes);
        left_bytes -= end;
        let mut walk = Walk::default();
        let mut start = 0;
        while start < end && walk.found.is_none() {
            let next = end.min(start + STEP_BYTES);
            source.for_each(start..next, |bytes| {
                walk.feed(bytes);
                Ok(())
            })?;
            start = next;
        }
        if let Some(Found::Newer(encoding)) = walk.found {
            return Ok(Some(encoding));
        }
    }
    Ok(None)
}

/// Why a walk has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Newer(NewerEncoding),
    /// Bytes that are no chunks; somebody else finds that out.
    NoChunks,
}

/// Goes from chunk to chunk of one file, wherever its bytes are divided.
struct Walk {
    skip_bytes: u64,
    /// The length so far, and how many bits it has.
    len_bytes: u64,
    n_len_bits: u32,
    is_len_read: bool,
    found: Option<Found>,
}

impl Default for Walk {
    fn default() -> Self {
        Walk { skip_bytes: FILE_HEADER_BYTES, len_bytes: 0, n_len_bits: 0, is_len_read: false, found: None }
    }
}

impl Walk {
    fn feed(&mut self, mut bytes: &[u8]) {
        while self.found.is_none() {
            let n_skipped = usize::try_from(self.skip_bytes).unwrap_or(usize::MAX).min(bytes.len());
            self.skip_bytes -= n_skipped as u64;
            let Some((byte, rest)) = bytes[n_skipped..].split_first() else { return };
            bytes = rest;
            self.found = if self.is_len_read { self.encoding(*byte) } else { self.length(*byte) };
        }
    }

    fn length(&mut self, byte: u8) -> Option<Found> {
        self.len_bytes |= u64::from(byte & 0x7f) << self.n_len_bits;
        self.n_len_bits += 7;
        self.is_len_read = byte < 0x80;
        // Five bytes hold any length of a chunk.
        (!self.is_len_read && self.n_len_bits >= 35).then_some(Found::NoChunks)
    }

    fn encoding(&mut self, byte: u8) -> Option<Found> {
        let floats = "storage.tsdb.chunk_encoding.floats: xor2 or --enable-feature=xor2-encoding";
        let histograms = "--enable-feature=histograms-st-encoding";
        let newer = |name, switch| Some(Found::Newer(NewerEncoding { name, switch }));
        let found = match byte {
            1..=3 => None,
            4 => newer("XOR2", floats),
            5 => newer("histogram with start timestamps", histograms),
            6 => newer("float histogram with start timestamps", histograms),
            _ => Some(Found::NoChunks),
        };
        *self = Walk { skip_bytes: self.len_bytes + CHECKSUM_BYTES, found, ..Walk::default() };
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(chunks: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = vec![0x85, 0xBD, 0x40, 0xDD, 1, 0, 0, 0];
        for (len, encoding) in chunks {
            let mut left = *len;
            while left >= 0x80 {
                bytes.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
                left >>= 7;
            }
            bytes.extend([u8::try_from(left).unwrap(), *encoding]);
            bytes.resize(bytes.len() + len + 4, 5);
        }
        bytes
    }

    #[test]
    fn the_first_newer_chunk_is_found_however_the_file_is_divided() {
        let check = |file: &[u8], expected: Option<&str>| {
            for n_bytes in [1, 2, 3, 7, 64, file.len().max(1)] {
                let mut walk = Walk::default();
                file.chunks(n_bytes).for_each(|bytes| walk.feed(bytes));
                let name = match walk.found {
                    Some(Found::Newer(newer)) => Some(newer.name),
                    Some(Found::NoChunks) => Some("none"),
                    None => None,
                };
                assert_eq!(name, expected, "{n_bytes} {file:?}");
            }
        };
        check(&file(&[]), None);
        check(&file(&[(3, 1), (200, 2), (0, 3), (20_000, 1)]), None);
        check(&file(&[(3, 1), (200, 1), (130, 4), (1, 5)]), Some("XOR2"));
        check(&file(&[(3, 3), (1, 5)]), Some("histogram with start timestamps"));
        check(&file(&[(3, 6)]), Some("float histogram with start timestamps"));
        // A file that ends within a chunk, one with zeros at its end, and one that is none.
        check(&file(&[(3, 1), (200, 1)])[..60], None);
        check(&[&file(&[(3, 1)])[..], &[0; 20], &file(&[(3, 4)])].concat(), Some("none"));
        check(&[&[0; 8][..], &[0xff; 20]].concat(), Some("none"));
        check(&file(&[(3, 9)]), Some("none"));
    }
}
