//! Encoder of Prometheus's XOR chunks, for samples that arrive without chunks. Pure.
//!
//! `Shape:` two bytes sample count, big-endian; then a bit stream. First sample: timestamp as zigzag varint, value as 64
//! raw bits. Second: delta as uvarint, value as XOR. Every other: the delta's change in one of five sizes, value as XOR.
//! `Source:` Prometheus `tsdb/docs/format/chunks.md`.

use crate::bits::Writer;
use pillion_base::error::{Error, Kind, Result};

/// One chunk under construction. It can be reused and keeps its memory.
#[derive(Default)]
pub struct Encoder {
    /// The chunk so far, with room for its count.
    writer: Writer,
    n_samples: u16,
    first_ms: i64,
    last_ms: i64,
    delta_ms: i64,
    value_bits: u64,
    window: Option<Window>,
}

/// The zero bits around the changed bits of the last value that was written in full.
#[derive(Clone, Copy)]
struct Window {
    n_leading: u32,
    n_trailing: u32,
}

impl Encoder {
    /// Adds a sample. Every bit pattern of the value comes out as it went in, staleness markers too.
    ///
    /// `Errors:` `Corrupt` for a time before the last one or too far after it, `Limit` when the chunk's count is at its end;
    /// the chunk is then unchanged.
    pub fn push(&mut self, time_ms: i64, value: f64) -> Result<()> {
        let n_samples = self
            .n_samples
            .checked_add(1)
            .ok_or_else(|| Error::new(Kind::Limit, "a chunk cannot hold more than 65535 samples"))?;
        if self.n_samples == 0 {
            self.writer.begin(&[0, 0]);
            self.uvarint(((time_ms << 1) ^ (time_ms >> 63)).cast_unsigned());
            self.writer.write(value.to_bits(), 64);
            self.first_ms = time_ms;
            self.window = None;
            self.value_bits = value.to_bits();
        } else {
            in_order(self.last_ms, time_ms)?;
            let delta_ms = time_ms
                .checked_sub(self.last_ms)
                .ok_or_else(|| Error::new(Kind::Corrupt, "the time between two samples is out of range"))?;
            if self.n_samples == 1 {
                self.uvarint(delta_ms.cast_unsigned());
            } else {
                // Neither is negative, and so their difference is in range.
                self.delta_change(delta_ms - self.delta_ms);
            }
            self.delta_ms = delta_ms;
            self.value(value.to_bits());
        }
        self.last_ms = time_ms;
        self.n_samples = n_samples;
        Ok(())
    }

    /// Samples in the chunk.
    pub fn n_samples(&self) -> u16 {
        self.n_samples
    }

    /// Time of the first sample. `Units:` ms.
    pub fn first_ms(&self) -> i64 {
        self.first_ms
    }

    /// Time of the last sample. `Units:` ms.
    pub fn last_ms(&self) -> i64 {
        self.last_ms
    }

    /// The finished chunk, empty when there were no samples; the next sample begins another one.
    pub fn finish(&mut self) -> &[u8] {
        if self.n_samples == 0 {
            return &[];
        }
        let chunk = self.writer.finish();
        chunk[..2].copy_from_slice(&self.n_samples.to_be_bytes());
        self.n_samples = 0;
        chunk
    }

    /// How much the time step changed, in the smallest of five sizes that holds it.
    fn delta_change(&mut self, change_ms: i64) {
        let change = change_ms.cast_unsigned();
        match change_ms {
            0 => self.writer.write(0, 1),
            -8_191..=8_192 => self.marked(0b10, 2, change, 14),
            -65_535..=65_536 => self.marked(0b110, 3, change, 17),
            -524_287..=524_288 => self.marked(0b1110, 4, change, 20),
            _ => self.marked(0b1111, 4, change, 64),
        }
    }

    fn marked(&mut self, mark: u64, n_mark_bits: u32, value: u64, n_bits: u32) {
        self.writer.write(mark, n_mark_bits);
        self.writer.write(value, n_bits);
    }

    /// The bits that changed since the last value, within the window of the last change where they fit.
    fn value(&mut self, value_bits: u64) {
        let changed = value_bits ^ self.value_bits;
        self.value_bits = value_bits;
        if changed == 0 {
            return self.writer.write(0, 1);
        }
        // The number of leading zeros has five bits.
        let n_leading = changed.leading_zeros().min(31);
        let n_trailing = changed.trailing_zeros();
        match self.window {
            Some(window) if n_leading >= window.n_leading && n_trailing >= window.n_trailing => {
                self.writer.write(0b10, 2);
                self.writer.write(changed >> window.n_trailing, 64 - window.n_leading - window.n_trailing);
            }
            _ => {
                let n_changed = 64 - n_leading - n_trailing;
                self.writer.write(0b11, 2);
                self.writer.write(u64::from(n_leading), 5);
                // 64 does not fit into six bits; 0, which cannot occur otherwise, stands for it.
                self.writer.write(u64::from(n_changed % 64), 6);
                self.writer.write(changed >> n_trailing, n_changed);
                self.window = Some(Window { n_leading, n_trailing });
            }
        }
    }

    fn uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.writer.write(value & 0x7f | 0x80, 8);
            value >>= 7;
        }
        self.writer.write(value, 8);
    }
}

/// Checks that a sample may follow another. Equal times pass: duplicates are harmless.
///
/// `Errors:` `Corrupt` when it may not.
pub(crate) fn in_order(last_ms: i64, next_ms: i64) -> Result<()> {
    if next_ms < last_ms {
        let text = format!("samples are out of order: {next_ms} comes after {last_ms}");
        return Err(Error::new(Kind::Corrupt, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xor::{self, STALE_NAN_BITS};

    fn encoded(samples: &[(i64, f64)]) -> Vec<u8> {
        let mut encoder = Encoder::default();
        for (time_ms, value) in samples {
            encoder.push(*time_ms, *value).unwrap();
        }
        encoder.finish().to_vec()
    }

    /// Through the decoder, and against the decoder's own test encoder bit for bit.
    fn check(samples: &[(i64, f64)]) {
        let chunk = encoded(samples);
        let mut decoded = Vec::new();
        xor::decode(&chunk, &mut decoded).unwrap();
        let got: Vec<_> = decoded.iter().map(|s| (s.time_ms, s.value.to_bits())).collect();
        let expected: Vec<_> = samples.iter().map(|(t, v)| (*t, v.to_bits())).collect();
        assert_eq!(got, expected);
        assert_eq!(chunk, xor::encoded(samples));
    }

    #[test]
    fn golden_bytes() {
        // The golden chunk of the decoder: 1.0, 1.0, 2.0, fifteen seconds apart.
        let expected = [0, 3, 0xd0, 0x0f, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0x98, 0x75, 0x30, 0x97, 0xff, 0xc0];
        assert_eq!(encoded(&[(1000, 1.0), (16_000, 1.0), (31_000, 2.0)]), expected);
        assert!(encoded(&[]).is_empty());
    }

    #[test]
    fn edges_of_the_time_step_sizes() {
        let edges = [8_191, 8_192, 8_193, 65_535, 65_536, 65_537, 524_287, 524_288, 524_289, 1 << 40];
        for change in edges.into_iter().flat_map(|edge| [edge, -edge]) {
            let delta = 1 << 41;
            check(&[(-5, 0.0), (delta, 0.5), (2 * delta + change, 0.25), (3 * delta + change, -7.0)]);
        }
        check(&[(i64::MIN, 1.0), (i64::MIN, 1.0), (-1, 2.0), (i64::MAX - 1, 3.0), (i64::MAX, 4.0)]);
    }

    #[test]
    fn every_bit_pattern_survives() {
        let stale = f64::from_bits(STALE_NAN_BITS);
        let odd = f64::from_bits(0xfff4_0000_dead_beef);
        check(&[(0, stale), (1, f64::NAN), (2, odd), (3, -0.0), (4, 0.0), (5, f64::INFINITY), (6, stale), (7, stale)]);
        // All 64 bits change; then only the lowest, far from the leading zeros that can be written.
        let bits = [0, u64::MAX, u64::MAX - 1, u64::MAX, 1, 0, 1 << 63, 3 << 20, 1];
        let samples: Vec<_> = (0..).zip(bits.map(f64::from_bits)).collect();
        check(&samples);
        for first in 0..64 {
            for second in 0..64 {
                check(&[(0, 0.0), (1, f64::from_bits(1 << first)), (2, f64::from_bits(1 << second | 1 << first))]);
            }
        }
    }

    #[test]
    fn random_samples_survive() {
        for seed in 1..2_000_u64 {
            println!("seed {seed}");
            let mut state = seed;
            let mut random = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let mut time_ms = i64::try_from(random(1 << 42)).unwrap() - (1 << 41);
            let mut value = 0.0;
            let samples: Vec<_> = (0..=random(200))
                .map(|_| {
                    let size = random(40);
                    time_ms += i64::try_from(random(1 << size)).unwrap();
                    value = match random(4) {
                        0 => value,
                        1 => value + 1.0,
                        2 => f64::from_bits(random(u64::MAX)),
                        _ => (value + 0.1) * 1.5,
                    };
                    (time_ms, value)
                })
                .collect();
            check(&samples);
        }
    }

    #[test]
    fn times_that_step_backwards_are_refused_and_leave_the_chunk_as_it_was() {
        let mut encoder = Encoder::default();
        encoder.push(10, 1.0).unwrap();
        let err = encoder.push(9, 2.0).unwrap_err();
        assert_eq!(
            (err.kind(), err.to_string().as_str()),
            (Kind::Corrupt, "samples are out of order: 9 comes after 10")
        );
        encoder.push(10, 3.0).unwrap();
        assert_eq!((encoder.first_ms(), encoder.last_ms(), encoder.n_samples()), (10, 10, 2));
        assert_eq!(encoder.finish(), xor::encoded(&[(10, 1.0), (10, 3.0)]));
        encoder.push(i64::MIN, 1.0).unwrap();
        let err = encoder.push(0, 1.0).unwrap_err();
        assert_eq!(err.kind(), Kind::Corrupt, "{err}");
    }

    #[test]
    fn a_chunk_ends_at_its_count() {
        let mut encoder = Encoder::default();
        for time_ms in 0..65_535 {
            encoder.push(time_ms, 0.5).unwrap();
        }
        let err = encoder.push(65_535, 0.5).unwrap_err();
        assert_eq!((err.kind(), encoder.n_samples()), (Kind::Limit, 65_535));
        let mut decoded = Vec::new();
        xor::decode(encoder.finish(), &mut decoded).unwrap();
        assert_eq!((decoded.len(), decoded[65_534].time_ms), (65_535, 65_534));
        // And the next one begins anew.
        encoder.push(-3, 1.5).unwrap();
        assert_eq!(encoder.finish(), xor::encoded(&[(-3, 1.5)]));
    }
}
