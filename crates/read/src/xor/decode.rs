//! Decoder of Prometheus's XOR chunks, and the sample count of the histogram encodings. Pure.
//!
//! `Shape:` two bytes sample count, big-endian; then a bit stream. First sample: timestamp as zigzag varint, value as 64
//! raw bits. Second: delta as uvarint, value as XOR. Every other: the delta's change in one of five sizes, value as XOR.
//! `Source:` Prometheus `tsdb/docs/format/chunks.md`.

use crate::bits::{Reader, corrupt};
use pillion_base::error::Result;

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
    let mut bits = Reader::behind(chunk, 2);
    let (mut time_ms, mut delta_ms, mut value) = (0_i64, 0_i64, Value::default());
    for idx in 0..n_samples {
        match idx {
            0 => {
                time_ms = bits.varint()?;
                value.bits = bits.read(64)?;
            }
            1 => {
                delta_ms = i64::try_from(bits.uvarint()?).map_err(|_| corrupt("a time step is out of range"))?;
                time_ms = step(time_ms, delta_ms)?;
                value.advance(&mut bits)?;
            }
            _ => {
                delta_ms = step(delta_ms, delta_change(&mut bits)?)?;
                time_ms = step(time_ms, delta_ms)?;
                value.advance(&mut bits)?;
            }
        }
        samples.push(Sample { time_ms, value: f64::from_bits(value.bits) });
    }
    Ok(())
}

/// A value's bits and the window of bits that changed last.
#[derive(Clone, Copy, Default)]
pub(crate) struct Value {
    /// As [`f64::to_bits`].
    pub(crate) bits: u64,
    window: Window,
}

impl Value {
    /// A value that stands in full.
    pub(crate) fn new(bits: u64) -> Self {
        Value { bits, ..Value::default() }
    }

    /// The next value, as plain chunks write it.
    #[inline]
    pub(crate) fn advance(&mut self, bits: &mut Reader<'_>) -> Result<()> {
        match bits.ones(2)? {
            0 => return Ok(()),
            1 => {}
            _ => self.window = Window::read(bits)?,
        }
        self.change(bits)
    }

    /// Reads a window, and the bits within it.
    #[inline]
    pub(crate) fn change_in_new_window(&mut self, bits: &mut Reader<'_>) -> Result<()> {
        self.window = Window::read(bits)?;
        self.change(bits)
    }

    /// Reads the bits within the window.
    #[inline]
    pub(crate) fn change(&mut self, bits: &mut Reader<'_>) -> Result<()> {
        let changed = bits.read(64 - self.window.n_leading - self.window.n_trailing)?;
        self.bits ^= changed << self.window.n_trailing;
        Ok(())
    }
}

/// The zero bits around those that changed. Together fewer than 64.
#[derive(Clone, Copy, Default)]
struct Window {
    n_leading: u32,
    n_trailing: u32,
}

impl Window {
    #[inline]
    fn read(bits: &mut Reader<'_>) -> Result<Window> {
        let n_leading = small(bits.read(5)?);
        // Six bits cannot hold 64, and zero changed bits never get here: 0 stands for 64.
        let n_significant = match small(bits.read(6)?) {
            0 => 64,
            n => n,
        };
        let n_trailing = 64_u32
            .checked_sub(n_leading + n_significant)
            .ok_or_else(|| corrupt("a value's changed bits do not fit into 64"))?;
        Ok(Window { n_leading, n_trailing })
    }
}

/// How much the time step changed. `Units:` ms.
fn delta_change(bits: &mut Reader<'_>) -> Result<i64> {
    let n_bits = match bits.ones(4)? {
        0 => return Ok(0),
        1 => 14,
        2 => 17,
        3 => 20,
        _ => return Ok(bits.read(64)?.cast_signed()),
    };
    Ok(signed(bits.read(n_bits)?, n_bits))
}

/// A number of 14 to 20 bits. The upper half stands for negative numbers; the middle is positive.
fn signed(value: u64, n_bits: u32) -> i64 {
    let value = value.cast_signed();
    if value > 1 << (n_bits - 1) { value - (1 << n_bits) } else { value }
}

/// A field of a few bits.
fn small(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn step(value: i64, by: i64) -> Result<i64> {
    value.checked_add(by).ok_or_else(|| corrupt("a timestamp is out of range"))
}

#[cfg(test)]
#[path = "decode_tests.rs"]
pub(crate) mod tests;
