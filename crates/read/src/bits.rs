//! Streams of bits, highest first, as Prometheus's chunks are made of: a reader that never reads past the end, and a writer.
//! Pure.

use pillion_base::error::{Error, Kind, Result};

/// Reads a chunk. Cheap to copy, so that a place can be kept.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    /// In bits from the start.
    position: usize,
}

impl<'a> Reader<'a> {
    /// Begins behind the first `n_bytes` of a chunk.
    pub(crate) fn behind(bytes: &'a [u8], n_bytes: usize) -> Self {
        Reader { bytes, position: n_bytes * 8 }
    }

    /// Bits that are left, those that fill the last byte among them.
    pub(crate) fn n_left(&self) -> usize {
        (self.bytes.len() * 8).saturating_sub(self.position)
    }

    /// The next 64 bits, with zeros behind the end.
    #[inline]
    pub(crate) fn peek(&self) -> u64 {
        let (byte, used) = (self.position / 8, self.position % 8);
        // The ninth byte holds what the first one has used up.
        let window = match self.bytes.get(byte..byte + 9).map(<[u8; 9]>::try_from) {
            Some(Ok(window)) => window,
            _ => {
                let rest = self.bytes.get(byte..).unwrap_or_default();
                let mut window = [0; 9];
                window[..rest.len().min(9)].copy_from_slice(&rest[..rest.len().min(9)]);
                window
            }
        };
        let [high @ .., low] = window;
        u64::from_be_bytes(high) << used | u64::from(low) >> (8 - used)
    }

    /// Goes over the next `n_bits`.
    #[inline]
    pub(crate) fn skip(&mut self, n_bits: usize) -> Result<()> {
        if n_bits > self.n_left() {
            return Err(corrupt("the chunk ends within a sample"));
        }
        self.position += n_bits;
        Ok(())
    }

    /// The next `n_bits`, at most 64, highest first.
    #[inline]
    pub(crate) fn read(&mut self, n_bits: u32) -> Result<u64> {
        let next = self.peek();
        self.skip(n_bits as usize)?;
        Ok(next.checked_shr(64 - n_bits).unwrap_or(0))
    }

    /// How many ones come next, at most `n_max` (below 64); they and the zero that ends a shorter row are read.
    #[inline]
    pub(crate) fn ones(&mut self, n_max: u32) -> Result<u32> {
        let n_ones = self.peek().leading_ones().min(n_max);
        self.skip((n_ones + 1).min(n_max) as usize)?;
        Ok(n_ones)
    }

    /// Seven bits a byte, lowest first.
    pub(crate) fn uvarint(&mut self) -> Result<u64> {
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

    /// A [`Reader::uvarint`] that stands for a signed number.
    pub(crate) fn varint(&mut self) -> Result<i64> {
        let value = self.uvarint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// A number in one of nine sizes, behind as many ones as there are smaller sizes.
    #[inline]
    pub(crate) fn varbit_uint(&mut self) -> Result<u64> {
        let size = self.varbit_size()?;
        self.read(size)
    }

    /// As [`Reader::varbit_uint`]; the upper half of each size but the largest stands for negative numbers.
    pub(crate) fn varbit_int(&mut self) -> Result<i64> {
        let size = self.varbit_size()?;
        let value = self.read(size)?;
        let is_negative = (1..64).contains(&size) && value > 1 << (size - 1);
        Ok(if is_negative { value.wrapping_sub(1 << size) } else { value }.cast_signed())
    }

    /// Goes over a [`Reader::varbit_uint`] or a [`Reader::varbit_int`].
    #[inline]
    pub(crate) fn skip_varbit(&mut self) -> Result<()> {
        let size = self.varbit_size()?;
        self.skip(size as usize)
    }

    #[inline]
    fn varbit_size(&mut self) -> Result<u32> {
        const SIZES: [u32; 9] = [0, 3, 6, 9, 12, 18, 25, 56, 64];
        Ok(SIZES[self.ones(8)? as usize])
    }

    /// Copies what lies between another place of the same chunk and this one.
    #[allow(clippy::cast_possible_truncation)] // At most 64.
    pub(crate) fn copy_since(&self, mut start: Reader<'_>, out: &mut Writer) -> Result<()> {
        let mut n_left = self.position.saturating_sub(start.position);
        while n_left > 0 {
            let n_bits = n_left.min(64) as u32;
            out.write(start.read(n_bits)?, n_bits);
            n_left -= n_bits as usize;
        }
        Ok(())
    }
}

/// Writes a chunk. It can be reused and keeps its memory.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    /// The bits behind `bytes`, from the highest on; fewer than 64, zeros behind them.
    pending: u64,
    n_pending: u32,
}

impl Writer {
    /// Begins a chunk with these bytes.
    pub(crate) fn begin(&mut self, header: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(header);
        (self.pending, self.n_pending) = (0, 0);
    }

    /// Appends the lowest `n_bits` of `value`, at most 64, highest first.
    #[inline]
    pub(crate) fn write(&mut self, value: u64, n_bits: u32) {
        if n_bits == 0 {
            return;
        }
        // From the highest bit on, and nothing behind.
        let value = value << (64 - n_bits);
        self.pending |= value >> self.n_pending;
        let n_all = self.n_pending + n_bits;
        if n_all < 64 {
            self.n_pending = n_all;
            return;
        }
        self.bytes.extend_from_slice(&self.pending.to_be_bytes());
        self.pending = value.checked_shl(64 - self.n_pending).unwrap_or(0);
        self.n_pending = n_all - 64;
    }

    /// The chunk, its last byte filled with zeros. Another one must [`Writer::begin`] afterwards.
    pub(crate) fn finish(&mut self) -> &mut [u8] {
        let n_bytes = self.n_pending.div_ceil(8) as usize;
        self.bytes.extend_from_slice(&self.pending.to_be_bytes()[..n_bytes]);
        (self.pending, self.n_pending) = (0, 0);
        &mut self.bytes
    }
}

pub(crate) fn corrupt(text: &str) -> Error {
    Error::new(Kind::Corrupt, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for first in 0..=64_u32 {
            for second in 0..=64_u32 {
                let pattern = 0x9e37_79b9_7f4a_7c15_u64;
                let cut = |n_bits: u32| pattern.checked_shr(64 - n_bits).unwrap_or(0);
                let mut writer = Writer::default();
                writer.begin(&[7]);
                for n_bits in [first, second, 3, first, 1] {
                    writer.write(cut(n_bits), n_bits);
                }
                let bytes = writer.finish().to_vec();
                let n_all = (2 * first + second + 4) as usize;
                assert_eq!((bytes[0], bytes.len()), (7, 1 + n_all.div_ceil(8)));
                let mut reader = Reader::behind(&bytes, 1);
                let start = reader;
                for n_bits in [first, second, 3, first, 1] {
                    assert_eq!(reader.read(n_bits).unwrap(), cut(n_bits), "{first} {second} {n_bits}");
                }
                assert!(reader.n_left() < 8 && reader.read(8).is_err());
                writer.begin(&[7]);
                reader.copy_since(start, &mut writer).unwrap();
                assert_eq!(writer.finish(), bytes);
            }
        }
    }

    #[test]
    fn ones_end_at_a_zero_or_their_number() {
        let bytes = [0b0101_1011, 0b1111_1111, 0b1000_0000];
        let mut reader = Reader::behind(&bytes, 0);
        for (n_max, expected) in [(8, 0), (8, 1), (8, 2), (5, 5), (5, 5)] {
            assert_eq!(reader.ones(n_max).unwrap(), expected);
        }
        assert_eq!(reader.n_left(), 8);
        reader.skip(8).unwrap();
        reader.ones(8).unwrap_err();
    }

    #[test]
    fn numbers_in_nine_sizes() {
        let check = |mark: u64, n_mark_bits: u32, raw: u64, n_bits: u32, expected: i64| {
            let mut writer = Writer::default();
            writer.begin(&[]);
            writer.write(mark, n_mark_bits);
            writer.write(raw, n_bits);
            let bytes = writer.finish();
            let mut readers = [Reader::behind(bytes, 0); 3];
            assert_eq!(readers[0].varbit_uint().unwrap(), raw);
            assert_eq!(readers[1].varbit_int().unwrap(), expected);
            readers[2].skip_varbit().unwrap();
            let n_left = bytes.len() * 8 - (n_mark_bits + n_bits) as usize;
            assert_eq!(readers.map(|reader| reader.n_left()), [n_left; 3]);
            let cut = &bytes[..bytes.len() - 1];
            Reader::behind(cut, 0).skip_varbit().unwrap_err();
        };
        check(0, 1, 0, 0, 0);
        check(0b10, 2, 4, 3, 4);
        check(0b10, 2, 5, 3, -3);
        check(0b110, 3, 32, 6, 32);
        check(0b1110, 4, 511, 9, -1);
        check(0b1_1110, 5, 2049, 12, -2047);
        check(0b11_1110, 6, 1, 18, 1);
        check(0b111_1110, 7, 1 << 24, 25, 1 << 24);
        check(0b1111_1110, 8, (1 << 55) + 1, 56, 1 - (1 << 55));
        check(0b1111_1111, 8, u64::MAX, 64, -1);
    }

    #[test]
    fn numbers_of_variable_length() {
        let check = |bytes: &[u8], expected: Option<(u64, i64)>| {
            assert_eq!(Reader::behind(bytes, 0).uvarint().ok(), expected.map(|(value, _)| value), "{bytes:?}");
            assert_eq!(Reader::behind(bytes, 0).varint().ok(), expected.map(|(_, value)| value), "{bytes:?}");
        };
        check(&[0], Some((0, 0)));
        check(&[3], Some((3, -2)));
        check(&[0x80, 1], Some((128, 64)));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Some((u64::MAX, i64::MIN)));
        check(&[0xff; 9], None);
        check(&[0xff; 12], None);
        check(&[], None);
    }
}
