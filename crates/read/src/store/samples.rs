//! The sampled answer of remote read, which Prometheus before 2.13 and some other servers give: one snappy block with a
//! `ReadResponse`. Each of its series becomes the `ChunkedSeries` that a streamed answer would have held, so that the same
//! code handles labels, shards, hashes and order. The answer is held whole, under a cap. Pure, except for a warning in the
//! log.

use std::fmt::Write;

use protobuf::CodedInputStream;

use crate::limits;
use crate::store::wire::{self, Fields};
use crate::xor::{self, Encoder};
use pillion_base::error::{Context, Error, Kind, Result};

/// Largest sampled answer after decompression, in bytes. A sample takes about 18, so this is some 14 million samples; it
/// is the memory of the whole call, since such an answer cannot be streamed.
const PLAIN_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Samples in a chunk. `Source:` Thanos, which splits where Prometheus's own head does.
pub const CHUNK_SAMPLES: u16 = 120;
/// Prometheus's number of XOR chunks.
const ENCODING_XOR: u64 = 1;
/// A label set is quoted in the log and in a status up to this many bytes.
const QUOTED_BYTES_MAX: usize = 512;

/// Calls `each` with every series of a sampled answer, as an encoded `ChunkedSeries` of remote read: its labels as they
/// were, its samples in XOR chunks of at most [`CHUNK_SAMPLES`]. A series without samples is left out, with a warning.
///
/// `Shape:` a series past about 1 MiB comes in several parts with the same labels, one after the other and in time order,
/// as in a streamed answer.
///
/// `Errors:` `Corrupt` for bytes that are no answer to one query, and for samples out of order; `Limit` for an answer that
/// would take more than 256 MiB; `Permanent` for a series with native histograms; and the errors of `each`.
/// `Source:` thanos `pkg/store/prometheus.go`. `Differs:` Thanos drops native histograms in silence (D-07).
pub fn chunked_series(body: &[u8], each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let plain = decompressed(body, PLAIN_BYTES_MAX).context(|| "decompress response")?;
    let result = only_result(&plain).context(|| "unmarshal response")?;
    let mut writer = Writer::default();
    let (mut n_empty, mut first_empty) = (0_u64, String::new());
    let mut fields = Fields::new(result);
    while let Some((number, field)) = fields.next_field().context(|| "unmarshal response")? {
        if number != 1 {
            continue;
        }
        let series = field.bytes().context(|| "unmarshal response")?;
        if !writer.series(series, each)? {
            if n_empty == 0 {
                first_empty = quoted(series);
            }
            n_empty += 1;
        }
    }
    if n_empty > 0 {
        // One line for an answer, because it may have a million such series.
        log::warn!(
            lset = first_empty, n_series = n_empty;
            "found timeseries without any chunk. See https://github.com/thanos-io/thanos/issues/381 for details"
        );
    }
    Ok(())
}

/// The content of a snappy block. Its size is checked before any memory is allocated for it.
fn decompressed(body: &[u8], bytes_max: usize) -> Result<Vec<u8>> {
    let corrupt = |err: snap::Error| Error::new(Kind::Corrupt, err.to_string());
    let len = snap::raw::decompress_len(body).map_err(corrupt)?;
    if len > bytes_max {
        let text = format!(
            "Prometheus's sampled answer takes {len} bytes, more than {bytes_max}; ask for fewer series or a shorter time"
        );
        return Err(Error::new(Kind::Limit, text));
    }
    // The densest element of a block takes three bytes and copies 64.
    if len > body.len().saturating_mul(22) {
        return Err(Error::new(Kind::Corrupt, format!("{} bytes cannot hold the {len} that they claim", body.len())));
    }
    snap::raw::Decoder::new().decompress_vec(body).map_err(corrupt)
}

/// The answer to the one query that was asked.
fn only_result(response: &[u8]) -> Result<&[u8]> {
    let (mut n_results, mut last): (u64, &[u8]) = (0, &[]);
    let mut fields = Fields::new(response);
    while let Some((number, field)) = fields.next_field()? {
        if number == 1 {
            last = field.bytes()?;
            n_results += 1;
        }
    }
    match n_results {
        1 => Ok(last),
        n => Err(Error::new(Kind::Corrupt, format!("unexpected result size {n}"))),
    }
}

/// Writes `ChunkedSeries`, one after the other into the same memory.
#[derive(Default)]
struct Writer {
    encoder: Encoder,
    /// The labels, which begin every part of the series.
    labels: Vec<u8>,
    out: Vec<u8>,
}

impl Writer {
    /// Hands one `TimeSeries` to `each`, in several parts when it is long, as Prometheus does; false when it has no samples.
    fn series(&mut self, series: &[u8], each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
        if self.survey(series).context(|| "unmarshal response")? == 0 {
            return Ok(false);
        }
        self.encoder.finish();
        self.out.clear();
        self.out.extend_from_slice(&self.labels);
        let mut fields = Fields::new(series);
        while let Some((number, field)) = fields.next_field()? {
            if number != 2 {
                continue;
            }
            let (time_ms, value) = field.bytes().and_then(sample).context(|| "unmarshal response")?;
            if self.encoder.n_samples() == CHUNK_SAMPLES {
                xor::in_order(self.encoder.last_ms(), time_ms).context(|| encode_series(series))?;
                self.close_chunk();
                if self.out.len() >= limits::MESSAGE_BYTES_TARGET {
                    each(&self.out)?;
                    self.out.truncate(self.labels.len());
                }
            }
            self.encoder.push(time_ms, value).context(|| encode_series(series))?;
        }
        self.close_chunk();
        each(&self.out)?;
        Ok(true)
    }

    /// Takes the labels of a series and counts its samples.
    ///
    /// `Errors:` `Permanent` when it has native histograms.
    fn survey(&mut self, series: &[u8]) -> Result<u64> {
        self.labels.clear();
        let (mut n_samples, mut n_histograms) = (0, 0_u64);
        let mut fields = Fields::new(series);
        while let Some((number, field)) = fields.next_field()? {
            match number {
                // A label is the same message in both answers.
                1 => {
                    let label = field.bytes()?;
                    wire::put_header(1, label.len(), &mut self.labels);
                    self.labels.extend_from_slice(label);
                }
                2 => n_samples += 1,
                4 => n_histograms += 1,
                _ => {}
            }
        }
        if n_histograms > 0 {
            return Err(Error::new(
                Kind::Permanent,
                format!(
                    "Prometheus sent native histograms of series {} as samples, which cannot be turned into chunks here; \
                     read them from a Prometheus that streams remote read, or leave them out with a matcher",
                    quoted(series)
                ),
            ));
        }
        Ok(n_samples)
    }

    /// Appends the current chunk to the series.
    fn close_chunk(&mut self) {
        let (first, last) = (self.encoder.first_ms().cast_unsigned(), self.encoder.last_ms().cast_unsigned());
        let data = self.encoder.finish();
        let times_len = wire::number_len(first) + wire::number_len(last);
        let len = times_len + wire::number_len(ENCODING_XOR) + wire::bytes_len(data.len());
        wire::put_header(2, len, &mut self.out);
        wire::put_number(1, first, &mut self.out);
        wire::put_number(2, last, &mut self.out);
        wire::put_number(3, ENCODING_XOR, &mut self.out);
        wire::put_bytes(4, data, &mut self.out);
    }
}

fn encode_series(series: &[u8]) -> String {
    format!("encode series {}", quoted(series))
}

/// Time and value of a `Sample`. No other message here has a fixed-size field, and `wire` skips those.
fn sample(message: &[u8]) -> Result<(i64, f64)> {
    let (mut time_ms, mut value) = (0, 0.0);
    let mut input = CodedInputStream::from_bytes(message);
    let mut field = || -> protobuf::Result<bool> {
        if input.eof()? {
            return Ok(false);
        }
        let tag = input.read_raw_varint32()?;
        match (tag >> 3, tag & 7) {
            (1, 1) => value = input.read_double()?,
            (2, 0) => time_ms = input.read_int64()?,
            (_, 0) => input.read_raw_varint64().map(drop)?,
            (_, 1) => input.read_fixed64().map(drop)?,
            (_, 2) => {
                let len = input.read_raw_varint32()?;
                input.skip_raw_bytes(len)?;
            }
            (_, 5) => input.read_fixed32().map(drop)?,
            _ => return Err(std::io::Error::other("wire type is unknown").into()),
        }
        Ok(true)
    };
    loop {
        match field() {
            Ok(true) => {}
            Ok(false) => return Ok((time_ms, value)),
            Err(err) => return Err(Error::new(Kind::Corrupt, format!("sample: {err}"))),
        }
    }
}

/// The labels of a `TimeSeries`, for a person; cut where they are too long for a log line or a status.
fn quoted(series: &[u8]) -> String {
    let mut text = String::from("{");
    let mut fields = Fields::new(series);
    while let Ok(Some((number, field))) = fields.next_field() {
        let Ok(label) = field.bytes() else { continue };
        if number != 1 {
            continue;
        }
        let (mut name, mut value): (&[u8], &[u8]) = (b"", b"");
        let mut parts = Fields::new(label);
        while let Ok(Some((number, part))) = parts.next_field() {
            match (number, part.bytes()) {
                (1, Ok(bytes)) => name = bytes,
                (2, Ok(bytes)) => value = bytes,
                _ => {}
            }
        }
        let comma = if text.len() > 1 { ", " } else { "" };
        let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{name}={value:?}");
        if text.len() > QUOTED_BYTES_MAX {
            let end = (0..=QUOTED_BYTES_MAX).rev().find(|idx| text.is_char_boundary(*idx)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
            break;
        }
    }
    text.push('}');
    text
}

#[cfg(test)]
#[path = "samples_tests.rs"]
mod tests;
