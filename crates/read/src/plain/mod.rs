//! Chunks in Prometheus's newer encodings become chunks in the plain ones, because the StoreAPI has no numbers for the newer
//! and no Thanos can read them: XOR2 becomes XOR, the histograms with start timestamps become those without. Times, values
//! (every bit, staleness markers too), layouts and counter-reset headers stay; start timestamps are dropped. Pure.

mod histogram;
mod xor2;

use std::ops::Range;

use crate::bits::Writer;
use crate::limits;
use crate::xor::{Encoder, Value};
use pillion_base::error::{Error, Kind, Result};

/// Prometheus's numbers of the encodings that have a plain counterpart, which is three less.
pub const NEWER_ENCODINGS: std::ops::RangeInclusive<u64> = XOR2..=FLOAT_HISTOGRAM_ST;

const XOR2: u64 = 4;
const FLOAT_HISTOGRAM_ST: u64 = 6;

/// A plain chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Prometheus's number of its encoding.
    pub encoding: u64,
    /// Time of its first sample; `None` where it begins as the chunk does that it was made of. `Units:` ms.
    pub min_ms: Option<i64>,
    /// Time of its last sample; `None` where it ends as that chunk does. `Units:` ms.
    pub max_ms: Option<i64>,
    /// Where it lies in [`Plain::bytes`].
    pub range: Range<usize>,
}

/// Plain chunks, one after the other. It is reused for its memory.
#[derive(Default)]
pub struct Plain {
    bytes: Vec<u8>,
    encoder: Encoder,
    writer: Writer,
    buckets: Vec<Value>,
}

impl Plain {
    /// Begins anew, without any chunk.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// The chunks.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives up memory beyond `bytes_max`.
    pub(crate) fn shrink(&mut self, bytes_max: usize) {
        if self.bytes.capacity() > bytes_max {
            *self = Plain::default();
        }
    }

    /// Adds what `chunk` holds, and calls `each` with every plain chunk that it became and its bytes: one, but for a chunk of more
    /// floats than Prometheus's head puts into one.
    ///
    /// `Errors:` `Corrupt` for bytes that are no such chunk, and for one of [`NEWER_ENCODINGS`] that is not given;
    /// `Limit` when all chunks together become larger than a frame may be.
    pub fn add(&mut self, encoding: u64, chunk: &[u8], each: &mut dyn FnMut(Piece, &[u8])) -> Result<()> {
        if encoding == XOR2 {
            return xor2::convert(chunk, &mut self.encoder, &mut |(min_ms, max_ms), data| {
                let range = append(&mut self.bytes, data)?;
                each(Piece { encoding: encoding - 3, min_ms, max_ms, range }, data);
                Ok(())
            });
        }
        let is_float = encoding == FLOAT_HISTOGRAM_ST;
        let data = histogram::convert(chunk, is_float, &mut self.writer, &mut self.buckets)?;
        let range = append(&mut self.bytes, data)?;
        each(Piece { encoding: encoding - 3, min_ms: None, max_ms: None, range }, data);
        Ok(())
    }
}

fn append(bytes: &mut Vec<u8>, chunk: &[u8]) -> Result<Range<usize>> {
    let start = bytes.len();
    if start + chunk.len() > limits::FRAME_BYTES_MAX {
        let text = format!(
            "a series takes more than {} bytes in plain chunks; ask for a shorter time",
            limits::FRAME_BYTES_MAX
        );
        return Err(Error::new(Kind::Limit, text));
    }
    bytes.extend_from_slice(chunk);
    Ok(start..bytes.len())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
