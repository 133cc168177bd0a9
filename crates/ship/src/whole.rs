//! Whether a block is whole, shown by its own files: every chunk is there with its checksum, as many as meta.json says, and
//! the index has its end. It is looked at only where nothing else tells, for all of the block is read.
//!
//! `Shape:` a chunk file has eight bytes of header; then chunks: length of the data as uvarint, a byte of encoding, the data,
//! CRC-32C of the last two. The last 52 bytes of an index are its table of contents with CRC-32C. `Source:` Prometheus
//! `tsdb/docs/format/`.

use crate::claim::Claim;
use pillion_base::error::Result;
use pillion_base::files::{Disk, Source};

const FILE_HEADER_BYTES: u64 = 8;
const INDEX_END_BYTES: u64 = 52;
/// Five bytes hold any length of a chunk.
const LEN_BITS_MAX: u32 = 35;

/// Whether a claimed block is whole. `Errors:` those of reading it.
pub(crate) fn is_whole(claim: &Claim, disk: &Disk) -> Result<bool> {
    let mut n_chunks = 0;
    for name in claim.names() {
        let source = claim.open(disk, &name)?;
        if name == "index" {
            if !has_end(&source)? {
                return Ok(false);
            }
            continue;
        }
        match count_chunks(&source)? {
            Some(n) => n_chunks += n,
            None => return Ok(false),
        }
    }
    Ok(n_chunks == claim.meta.n_chunks)
}

fn has_end(source: &Source) -> Result<bool> {
    let size = source.size_bytes();
    let Some(start) = size.checked_sub(INDEX_END_BYTES) else { return Ok(false) };
    let mut end = Vec::new();
    source.for_each(start..size, |bytes| {
        end.extend_from_slice(bytes);
        Ok(())
    })?;
    let is_right = |(content, sum): (&[u8], &[u8; 4])| crc32c::crc32c(content) == u32::from_be_bytes(*sum);
    Ok(end.split_last_chunk::<4>().is_some_and(is_right))
}

/// How many chunks a file has; `None` if it is not made of whole ones.
fn count_chunks(source: &Source) -> Result<Option<u64>> {
    let mut walk = Walk { step: Step::Header { left: FILE_HEADER_BYTES }, n_chunks: 0 };
    source.for_each(0..source.size_bytes(), |bytes| {
        walk.feed(bytes);
        Ok(())
    })?;
    Ok(matches!(walk.step, Step::Length { n_bits: 0, .. }).then_some(walk.n_chunks))
}

/// Goes from chunk to chunk, wherever the bytes are divided.
struct Walk {
    step: Step,
    n_chunks: u64,
}

enum Step {
    Header {
        left: u64,
    },
    Length {
        bytes: u64,
        n_bits: u32,
    },
    Data {
        left: u64,
        sum: u32,
    },
    Sum {
        n_read: u32,
        said: u32,
        sum: u32,
    },
    /// What is here is no chunk.
    Broken,
}

impl Walk {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.step = match self.step {
                Step::Header { left } => {
                    let left = left - take(&mut bytes, left).len() as u64;
                    if left > 0 { Step::Header { left } } else { Step::Length { bytes: 0, n_bits: 0 } }
                }
                Step::Length { bytes: so_far, n_bits } => {
                    let byte = take(&mut bytes, 1).first().copied().unwrap_or_default();
                    let length = so_far | u64::from(byte & 0x7f) << n_bits;
                    match byte {
                        _ if n_bits + 7 > LEN_BITS_MAX => Step::Broken,
                        // The encoding is summed with the data.
                        0..0x80 => Step::Data { left: length + 1, sum: 0 },
                        _ => Step::Length { bytes: length, n_bits: n_bits + 7 },
                    }
                }
                Step::Data { left, sum } => {
                    let data = take(&mut bytes, left);
                    let (left, sum) = (left - data.len() as u64, crc32c::crc32c_append(sum, data));
                    if left > 0 { Step::Data { left, sum } } else { Step::Sum { n_read: 0, said: 0, sum } }
                }
                Step::Sum { n_read, said, sum } => {
                    let said = said << 8 | u32::from(take(&mut bytes, 1).first().copied().unwrap_or_default());
                    match n_read {
                        0..3 => Step::Sum { n_read: n_read + 1, said, sum },
                        _ if said == sum => {
                            self.n_chunks += 1;
                            Step::Length { bytes: 0, n_bits: 0 }
                        }
                        _ => Step::Broken,
                    }
                }
                Step::Broken => return,
            };
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], most: u64) -> &'a [u8] {
    let n_taken = usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len());
    let (taken, rest) = bytes.split_at(n_taken);
    *bytes = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(chunks: &[&[u8]]) -> Vec<u8> {
        let mut file = vec![0x85, 0xBD, 0x40, 0xDD, 1, 0, 0, 0];
        for data in chunks {
            let mut length = data.len();
            while length >= 0x80 {
                file.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
                length >>= 7;
            }
            file.push(u8::try_from(length).unwrap());
            let content = [&[1], *data].concat();
            file.extend_from_slice(&content);
            file.extend_from_slice(&crc32c::crc32c(&content).to_be_bytes());
        }
        file
    }

    fn source(bytes: &[u8]) -> Source {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        Disk::real().open_source(&path).unwrap()
    }

    #[test]
    fn only_whole_chunks_count() {
        let file = segment(&[b"one", &[7; 300], b""]);
        assert_eq!(count_chunks(&source(&file)).unwrap(), Some(3));
        assert_eq!(count_chunks(&source(&file[..8])).unwrap(), Some(0));
        // Cut off anywhere else than between two chunks.
        let ends = [8, segment(&[b"one"]).len(), segment(&[b"one", &[7; 300]]).len()];
        for end in (0..file.len()).filter(|end| !ends.contains(end)) {
            assert_eq!(count_chunks(&source(&file[..end])).unwrap(), None, "{end}");
        }
        // Room that was made and not written.
        assert_eq!(count_chunks(&source(&[&file[..], &[0; 64]].concat())).unwrap(), None);
        let mut damaged = file.clone();
        damaged[10] ^= 1;
        assert_eq!(count_chunks(&source(&damaged)).unwrap(), None);
    }

    #[test]
    fn bytes_may_be_divided_anywhere() {
        let file = segment(&[b"one", &[7; 300]]);
        for at in 0..file.len() {
            let mut walk = Walk { step: Step::Header { left: FILE_HEADER_BYTES }, n_chunks: 0 };
            walk.feed(&file[..at]);
            walk.feed(&file[at..]);
            assert_eq!(walk.n_chunks, 2, "{at}");
        }
    }

    #[test]
    fn an_index_has_its_end() {
        let contents = [[3; 48].as_slice(), &crc32c::crc32c(&[3; 48]).to_be_bytes()].concat();
        let index = [b"postings".as_slice(), &contents].concat();
        assert!(has_end(&source(&index)).unwrap());
        for end in [0, 10, index.len() - 1] {
            assert!(!has_end(&source(&index[..end])).unwrap(), "{end}");
        }
    }
}
