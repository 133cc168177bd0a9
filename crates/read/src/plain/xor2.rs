//! XOR2 chunks of floats, read and written again as XOR. Pure.
//!
//! `Shape:` two bytes sample count, big-endian; a byte of start timestamps: whether the first sample has one (0x80), and the
//! first sample that has another (0: none); then a bit stream. First sample: time as zigzag varint, value as 64 raw bits.
//! Second: step as uvarint, value as a change. Every other: a mark for the change of the step and of the value together.
//! Where a sample has a start timestamp, it stands behind the value. Values change from the last one that was no
//! staleness marker. `Source:` Prometheus `tsdb/chunkenc/xor2.go`.

use crate::bits::{Reader, corrupt};
use crate::xor::{Encoder, STALE_NAN_BITS, Value};
use pillion_base::error::Result;

/// Prometheus's head closes a chunk of floats at this many samples, whatever it expected. What holds more is cut there, so
/// that readers get no longer chunks than plain ones are; each cut costs some 20 bytes.
pub(super) const PIECE_SAMPLES_MAX: u16 = 240;

/// Times of a chunk's first and last sample, unless it begins or ends as the chunk does that it was made of. `Units:` ms.
pub(super) type Ends = (Option<i64>, Option<i64>);

/// Calls `each` with every XOR chunk that `chunk` became.
///
/// `Errors:` `Corrupt`; and those of `each`.
pub(super) fn convert(
    chunk: &[u8],
    encoder: &mut Encoder,
    each: &mut dyn FnMut(Ends, &[u8]) -> Result<()>,
) -> Result<()> {
    let [count_high, count_low, starts, ..] = *chunk else {
        return Err(corrupt("the chunk is shorter than its header"));
    };
    let n_samples = u16::from_be_bytes([count_high, count_low]);
    if n_samples == 0 {
        return each((None, None), &[0, 0]);
    }
    let mut samples = Samples {
        bits: Reader::behind(chunk, 3),
        first_has_start: starts & 0x80 != 0,
        starts_from: u16::from(starts & 0x7f),
        time_ms: 0,
        step_ms: 0,
        value: Value::default(),
    };
    // What an earlier chunk left unfinished when it turned out to be corrupt.
    encoder.finish();
    let mut min_ms = None;
    for idx in 0..n_samples {
        let value_bits = samples.next(idx)?;
        if encoder.n_samples() == PIECE_SAMPLES_MAX {
            let max_ms = Some(encoder.last_ms());
            each((min_ms, max_ms), encoder.finish())?;
            min_ms = Some(samples.time_ms);
        }
        encoder.push(samples.time_ms, f64::from_bits(value_bits))?;
    }
    each((min_ms, None), encoder.finish())
}

struct Samples<'a> {
    bits: Reader<'a>,
    first_has_start: bool,
    /// Samples from this one on have a start timestamp; 0: none has.
    starts_from: u16,
    time_ms: i64,
    step_ms: i64,
    /// The last value that was no staleness marker.
    value: Value,
}

impl Samples<'_> {
    /// Reads the next sample, the one at `idx`; returns the bits of its value.
    fn next(&mut self, idx: u16) -> Result<u64> {
        let value_bits = match idx {
            0 => self.first()?,
            1 => {
                self.step_ms =
                    i64::try_from(self.bits.uvarint()?).map_err(|_| corrupt("a time step is out of range"))?;
                self.later()?
            }
            _ => match self.bits.ones(5)? {
                0 => self.after(0, |samples| Ok(samples.value.bits))?,
                1 => self.after(0, Samples::changed)?,
                2 => self.after(13, Samples::maybe_changed)?,
                3 => self.after(20, Samples::maybe_changed)?,
                4 => self.after(64, Samples::maybe_changed)?,
                _ => self.after(0, |_| Ok(STALE_NAN_BITS))?,
            },
        };
        if idx > 0 && self.starts_from > 0 && idx >= self.starts_from {
            self.bits.skip_varbit()?;
        }
        Ok(value_bits)
    }

    fn first(&mut self) -> Result<u64> {
        self.time_ms = self.bits.varint()?;
        let value_bits = self.bits.read(64)?;
        if value_bits != STALE_NAN_BITS {
            self.value = Value::new(value_bits);
        }
        if self.first_has_start {
            self.bits.varint()?;
        }
        Ok(value_bits)
    }

    /// Moves on by the step, then reads a value that may be unchanged.
    fn later(&mut self) -> Result<u64> {
        self.time_ms = add(self.time_ms, self.step_ms)?;
        self.maybe_changed()
    }

    /// Reads how much the step changed, `n_bits` wide, and then the value.
    #[inline]
    fn after(&mut self, n_bits: u32, value: impl FnOnce(&mut Self) -> Result<u64>) -> Result<u64> {
        if n_bits > 0 {
            let raw = self.bits.read(n_bits)?;
            self.step_ms = add(self.step_ms, (raw << (64 - n_bits)).cast_signed() >> (64 - n_bits))?;
        }
        self.time_ms = add(self.time_ms, self.step_ms)?;
        value(self)
    }

    fn maybe_changed(&mut self) -> Result<u64> {
        match self.bits.ones(3)? {
            0 => {}
            1 => self.value.change(&mut self.bits)?,
            2 => self.value.change_in_new_window(&mut self.bits)?,
            _ => return Ok(STALE_NAN_BITS),
        }
        Ok(self.value.bits)
    }

    fn changed(&mut self) -> Result<u64> {
        match self.bits.ones(1)? {
            0 => self.value.change(&mut self.bits)?,
            _ => self.value.change_in_new_window(&mut self.bits)?,
        }
        Ok(self.value.bits)
    }
}

fn add(value: i64, by: i64) -> Result<i64> {
    value.checked_add(by).ok_or_else(|| corrupt("a timestamp is out of range"))
}
