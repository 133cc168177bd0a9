//! Decoder of Prometheus's XOR chunks, and the sample count of the histogram encodings. Pure.
//!
//! `Shape:` two bytes sample count, big-endian; then a bit stream. First sample: timestamp as zigzag varint, value as 64
//! raw bits. Second: delta as uvarint, value as XOR. Every other: the delta's change in one of five sizes, value as XOR.
//! `Source:` Prometheus `tsdb/docs/format/chunks.md`.

use pillion_base::error::{Error, Kind, Result};

/// One float sample.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// `Units:` ms.
    pub time_ms: i64,
    /// May be NaN, see [`Sample::is_stale`].
    pub value: f64,
}

/// The bits of the NaN that marks the end of a series in Prometheus.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

impl Sample {
    /// Whether this is Prometheus's staleness marker and not a number that was scraped.
    pub fn is_stale(&self) -> bool {
        self.value.to_bits() == STALE_NAN_BITS
    }
}

/// The number of samples that a chunk of any of Prometheus's encodings says it holds.
///
/// `Errors:` `Corrupt` when there are fewer than two bytes.
pub fn n_samples(chunk: &[u8]) -> Result<u16> {
    match chunk {
        [high, low, ..] => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(corrupt("the chunk is shorter than its header")),
    }
}

/// Adds the samples of a chunk to `samples`.
///
/// `Errors:` `Corrupt`; samples before the fault are added all the same.
pub fn decode(chunk: &[u8], samples: &mut Vec<Sample>) -> Result<()> {
    let n_samples = n_samples(chunk)?;
    let mut bits = Bits { bytes: chunk, position: 16 };
    let (mut time_ms, mut delta_ms, mut value) = (0_i64, 0_i64, Value::default());
    for idx in 0..n_samples {
        match idx {
            0 => {
                time_ms = unzigzag(bits.uvarint()?);
                value.bits = bits.read(64)?;
            }
            1 => {
                delta_ms = i64::try_from(bits.uvarint()?).map_err(|_| corrupt("a time step is out of range"))?;
                time_ms = step(time_ms, delta_ms)?;
                value.advance(&mut bits)?;
            }
            _ => {
                delta_ms = step(delta_ms, bits.delta_change()?)?;
                time_ms = step(time_ms, delta_ms)?;
                value.advance(&mut bits)?;
            }
        }
        samples.push(Sample { time_ms, value: f64::from_bits(value.bits) });
    }
    Ok(())
}

/// The value's bits and the window of bits that changed last.
#[derive(Default)]
struct Value {
    bits: u64,
    n_leading: u32,
    n_trailing: u32,
}

impl Value {
    fn advance(&mut self, bits: &mut Bits) -> Result<()> {
        if !bits.bit()? {
            return Ok(());
        }
        if bits.bit()? {
            let n_leading = small(bits.read(5)?);
            // Six bits cannot hold 64, and zero changed bits never get here: 0 stands for 64.
            let n_significant = match small(bits.read(6)?) {
                0 => 64,
                n => n,
            };
            self.n_trailing = 64_u32
                .checked_sub(n_leading + n_significant)
                .ok_or_else(|| corrupt("a value's changed bits do not fit into 64"))?;
            self.n_leading = n_leading;
        }
        let changed = bits.read(64 - self.n_leading - self.n_trailing)?;
        self.bits ^= changed.checked_shl(self.n_trailing).unwrap_or(0);
        Ok(())
    }
}

struct Bits<'a> {
    bytes: &'a [u8],
    /// In bits from the start.
    position: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Result<bool> {
        Ok(self.read(1)? == 1)
    }

    /// The next `n_bits`, at most 64, highest first.
    fn read(&mut self, n_bits: u32) -> Result<u64> {
        let mut value = 0_u64;
        let mut wanted = n_bits;
        while wanted > 0 {
            let byte = self.bytes.get(self.position / 8).ok_or_else(|| corrupt("the chunk ends within a sample"))?;
            let used = u32::try_from(self.position % 8).unwrap_or(0);
            let taken = wanted.min(8 - used);
            let part = (u32::from(*byte) >> (8 - used - taken)) & ((1 << taken) - 1);
            value = (value << taken) | u64::from(part);
            self.position += taken as usize;
            wanted -= taken;
        }
        Ok(value)
    }

    fn uvarint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.read(8)?;
            let part = byte & 0x7f;
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(corrupt("a variable-length number is too long"))
    }

    /// How much the time step changed. `Units:` ms.
    fn delta_change(&mut self) -> Result<i64> {
        for n_bits in [0, 14, 17, 20] {
            if !self.bit()? {
                return Ok(signed(self.read(n_bits)?, n_bits));
            }
        }
        Ok(self.read(64)?.cast_signed())
    }
}

/// A number of `n_bits` (0 or 14 to 20). The upper half stands for negative numbers; the middle is positive.
fn signed(value: u64, n_bits: u32) -> i64 {
    let value = value.cast_signed();
    if n_bits > 0 && value > 1 << (n_bits - 1) { value - (1 << n_bits) } else { value }
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// A field of a few bits.
fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn step(value: i64, by: i64) -> Result<i64> {
    value.checked_add(by).ok_or_else(|| corrupt("a timestamp is out of range"))
}

fn corrupt(text: &str) -> Error {
    Error::new(Kind::Corrupt, text)
}

#[cfg(test)]
#[path = "decode_tests.rs"]
pub(crate) mod tests;
