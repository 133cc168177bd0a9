//! Histogram chunks with start timestamps lose them. All other bits are the plain encoding's already: they are copied, and
//! read only as far as it takes to find what lies between them. Pure.
//!
//! `Shape:` two bytes, big-endian: two bits counter-reset header, 14 bits sample count; a byte of start timestamps: whether
//! the first sample has one (0x80), and the first sample that has another (0: none); then the bits of a plain histogram
//! chunk, with a start timestamp behind each sample that has one. The plain header is two bytes of count and one byte of
//! counter-reset header. `Source:` Prometheus `tsdb/chunkenc/histogram_st.go`, `st.go`, `histogram.go`.

use crate::bits::{Reader, Writer, corrupt};
use crate::xor::{STALE_NAN_BITS, Value};
use pillion_base::error::Result;

/// The schema of histograms whose layout has bounds of its own.
const CUSTOM_BOUNDS: i64 = -53;

/// The plain chunk of integer counts, or with `is_float` of floats. `buckets` is memory to work with.
///
/// `Errors:` `Corrupt`. Samples behind which nothing is left out are not read, and so not judged.
pub(super) fn convert<'a>(
    chunk: &[u8],
    is_float: bool,
    writer: &'a mut Writer,
    buckets: &mut Vec<Value>,
) -> Result<&'a [u8]> {
    let [count_high, count_low, starts, ..] = *chunk else {
        return Err(corrupt("the chunk is shorter than its header"));
    };
    let (resets, count_high) = (count_high & 0xc0, count_high & 0x3f);
    let n_samples = u16::from_be_bytes([count_high, count_low]);
    let (first_has_start, starts_from) = (starts & 0x80 != 0, u16::from(starts & 0x7f));
    let n_read = match starts_from {
        0 => n_samples.min(u16::from(first_has_start)),
        _ => n_samples,
    };
    writer.begin(&[count_high, count_low, resets]);
    buckets.clear();
    let mut samples =
        Samples { bits: Reader::behind(chunk, 3), is_float, n_buckets: 0, sum: Value::default(), buckets };
    let mut copied = samples.bits;
    for idx in 0..n_read {
        samples.next(idx)?;
        let has_start = if idx == 0 { first_has_start } else { starts_from > 0 && idx >= starts_from };
        if has_start {
            samples.bits.copy_since(copied, writer)?;
            if idx == 0 {
                samples.bits.varint()?;
            } else {
                samples.bits.skip_varbit()?;
            }
            copied = samples.bits;
        }
    }
    let mut end = samples.bits;
    if n_read < n_samples {
        // A start timestamp of the first sample takes whole bytes, so the last byte ends where it did.
        end.skip(end.n_left())?;
    }
    end.copy_since(copied, writer)?;
    Ok(writer.finish())
}

struct Samples<'a, 'b> {
    bits: Reader<'a>,
    is_float: bool,
    /// Of positive and negative buckets together.
    n_buckets: usize,
    sum: Value,
    /// With floats: the two counts, then the buckets.
    buckets: &'b mut Vec<Value>,
}

impl Samples<'_, '_> {
    /// Goes over the sample at `idx`, up to its start timestamp.
    fn next(&mut self, idx: u16) -> Result<()> {
        match (idx, self.is_float) {
            (0, _) => self.first(),
            (_, false) => self.later_of_integers(),
            (_, true) => self.later_of_floats(),
        }
    }

    fn first(&mut self) -> Result<()> {
        self.layout()?;
        self.bits.skip_varbit()?;
        if self.is_float {
            // Looked at before memory is taken for them.
            if self.n_buckets + 3 > self.bits.n_left() / 64 {
                return Err(corrupt("the chunk ends within its first histogram"));
            }
            self.bits.skip(128)?;
            self.sum = Value::new(self.bits.read(64)?);
            // Only the windows matter, and they come with the changes.
            self.buckets.resize(2 + self.n_buckets, Value::default());
            return self.bits.skip(64 * self.n_buckets);
        }
        self.bits.skip_varbit()?;
        self.bits.skip_varbit()?;
        self.sum = Value::new(self.bits.read(64)?);
        self.integers(self.n_buckets)
    }

    fn later_of_integers(&mut self) -> Result<()> {
        // Time, count and zero count.
        self.integers(3)?;
        self.sum.advance(&mut self.bits)?;
        if self.sum.bits == STALE_NAN_BITS { Ok(()) } else { self.integers(self.n_buckets) }
    }

    fn later_of_floats(&mut self) -> Result<()> {
        self.bits.skip_varbit()?;
        let (counts, buckets) = self.buckets.split_at_mut(2);
        for count in counts {
            count.advance(&mut self.bits)?;
        }
        self.sum.advance(&mut self.bits)?;
        if self.sum.bits != STALE_NAN_BITS {
            for bucket in buckets {
                bucket.advance(&mut self.bits)?;
            }
        }
        Ok(())
    }

    /// Goes over integers. Each takes a bit at least, so the chunk bounds their number.
    fn integers(&mut self, n: usize) -> Result<()> {
        for _ in 0..n {
            self.bits.skip_varbit()?;
        }
        Ok(())
    }

    /// Zero threshold, schema, spans of positive and of negative buckets, bounds.
    fn layout(&mut self) -> Result<()> {
        if self.bits.read(8)? == 255 {
            self.bits.skip(64)?;
        }
        let schema = self.bits.varbit_int()?;
        self.spans()?;
        self.spans()?;
        if schema == CUSTOM_BOUNDS {
            for _ in 0..self.bits.varbit_uint()? {
                if self.bits.varbit_uint()? == 0 {
                    self.bits.skip(64)?;
                }
            }
        }
        Ok(())
    }

    fn spans(&mut self) -> Result<()> {
        for _ in 0..self.bits.varbit_uint()? {
            let n_buckets = usize::try_from(self.bits.varbit_uint()?).unwrap_or(usize::MAX);
            self.n_buckets = self.n_buckets.saturating_add(n_buckets);
            if self.n_buckets > self.bits.n_left() {
                return Err(corrupt("a histogram has more buckets than the chunk has bits"));
            }
            self.bits.skip_varbit()?;
        }
        Ok(())
    }
}
