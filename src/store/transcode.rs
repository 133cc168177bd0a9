//! A remote-read frame becomes StoreAPI series: its bytes are walked once and written once, without message structs.
//! Pure.
//!
//! Labels are merged (an external label wins over a local one), dropped and tested against the shard; chunks keep their
//! data, get the StoreAPI's encoding number and their xxhash64.

use twox_hash::XxHash64;

use crate::error::{Error, Kind, Result};
use crate::labels::Labels;
use crate::store::shard::Shard;
use crate::store::wire::{self, Fields};

/// What is done to every series of a call.
pub struct Transcoder {
    external: Vec<(String, String)>,
    without: Vec<String>,
    shard: Option<Shard>,
    /// Labels of the series at hand, as places in the frame or in `external`. Kept between series for its memory.
    labels: Vec<LabelAt>,
    chunks: Vec<ChunkAt>,
}

#[derive(Clone, Copy)]
enum LabelAt {
    External(usize),
    /// Start and end of name and value within the series' bytes.
    Local {
        name: (usize, usize),
        value: (usize, usize),
    },
}

#[derive(Clone, Copy)]
struct ChunkAt {
    min_time: u64,
    max_time: u64,
    encoding: u64,
    data: (usize, usize),
    hash: u64,
    /// Encoded size of the `Chunk`, then of the `AggrChunk` around it.
    chunk_len: usize,
    aggr_len: usize,
}

/// One transcoded series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transcoded {
    /// How many chunks it has.
    pub n_chunks: u64,
}

impl Transcoder {
    /// A transcoder for one call.
    pub fn new(external: &Labels, without: &[String], shard: Option<Shard>) -> Self {
        let external =
            external.iter().filter(|(name, _)| !without.iter().any(|w| w == name)).map(|(n, v)| (n.into(), v.into()));
        Transcoder {
            external: external.collect(),
            without: without.to_vec(),
            shard,
            labels: Vec::new(),
            chunks: Vec::new(),
        }
    }

    /// Calls `each` with the encoded `ChunkedSeries` of a frame, one after the other.
    pub fn each_series<'a>(frame: &'a [u8], mut each: impl FnMut(&'a [u8]) -> Result<()>) -> Result<()> {
        let mut fields = Fields::new(frame);
        while let Some((number, field)) = fields.next_field()? {
            if number == 1 {
                each(field.bytes()?)?;
            }
        }
        Ok(())
    }

    /// Appends the StoreAPI `Series` of one `ChunkedSeries` to `out` and its sort key to `key`; `None`, with both
    /// untouched, when the series is not in the shard.
    ///
    /// `Shape:` keys compare bytewise as the label sets compare: pairwise by name, then value, the shorter set first.
    /// `Errors:` `Corrupt` for bytes that are no series, `Permanent` for a chunk encoding that the StoreAPI lacks.
    pub fn series(&mut self, series: &[u8], out: &mut Vec<u8>, key: &mut Vec<u8>) -> Result<Option<Transcoded>> {
        self.walk(series)?;
        if let Some(shard) = &self.shard
            && !shard.holds(self.labels.iter().map(|label| self.resolve(series, *label)))
        {
            return Ok(None);
        }
        for label in &self.labels {
            let (name, value) = self.resolve(series, *label);
            wire::put_header(1, wire::bytes_len(name.len()) + wire::bytes_len(value.len()), out);
            wire::put_bytes(1, name, out);
            wire::put_bytes(2, value, out);
            put_key(name, key);
            put_key(value, key);
        }
        for chunk in &self.chunks {
            wire::put_header(2, chunk.aggr_len, out);
            wire::put_number(1, chunk.min_time, out);
            wire::put_number(2, chunk.max_time, out);
            wire::put_header(3, chunk.chunk_len, out);
            wire::put_number(1, chunk.encoding, out);
            wire::put_bytes(2, &series[chunk.data.0..chunk.data.1], out);
            wire::put_number(3, chunk.hash, out);
        }
        Ok(Some(Transcoded { n_chunks: self.chunks.len() as u64 }))
    }

    fn resolve<'a>(&'a self, series: &'a [u8], label: LabelAt) -> (&'a [u8], &'a [u8]) {
        match label {
            LabelAt::External(idx) => {
                let (name, value) = &self.external[idx];
                (name.as_bytes(), value.as_bytes())
            }
            LabelAt::Local { name, value } => (&series[name.0..name.1], &series[value.0..value.1]),
        }
    }

    /// Finds labels and chunks of the series and merges the labels.
    fn walk(&mut self, series: &[u8]) -> Result<()> {
        self.labels.clear();
        self.chunks.clear();
        let at = |part: &[u8]| {
            // `part` is a slice of `series`, or empty.
            let start = (part.as_ptr() as usize).wrapping_sub(series.as_ptr() as usize);
            if part.is_empty() { (0, 0) } else { (start, start + part.len()) }
        };
        let mut sorted = true;
        let mut last_name: &[u8] = b"";
        let mut fields = Fields::new(series);
        while let Some((number, field)) = fields.next_field()? {
            match number {
                1 => {
                    let (name, value) = label(field.bytes()?)?;
                    sorted &= last_name <= name;
                    last_name = name;
                    // An absent label and an empty one are the same thing.
                    if !value.is_empty() && !self.is_dropped(name) {
                        self.labels.push(LabelAt::Local { name: at(name), value: at(value) });
                    }
                }
                2 => {
                    let chunk = chunk(field.bytes()?)?;
                    let encoding = chunk.encoding;
                    let hash = XxHash64::oneshot(0, chunk.data);
                    let chunk_len =
                        wire::number_len(encoding) + wire::bytes_len(chunk.data.len()) + wire::number_len(hash);
                    let aggr_len = wire::number_len(chunk.min_time)
                        + wire::number_len(chunk.max_time)
                        + wire::header_len(chunk_len)
                        + chunk_len;
                    self.chunks.push(ChunkAt {
                        min_time: chunk.min_time,
                        max_time: chunk.max_time,
                        encoding,
                        data: at(chunk.data),
                        hash,
                        chunk_len,
                        aggr_len,
                    });
                }
                _ => {}
            }
        }
        let n_local = self.labels.len();
        self.labels.extend((0..self.external.len()).map(LabelAt::External));
        if n_local > 0 && !self.external.is_empty() || !sorted {
            let mut labels = std::mem::take(&mut self.labels);
            labels.sort_by(|a, b| self.resolve(series, *a).0.cmp(self.resolve(series, *b).0));
            self.labels = labels;
        }
        Ok(())
    }

    /// Whether a local label gives way: to an external label of its name, or to the request.
    fn is_dropped(&self, name: &[u8]) -> bool {
        self.external.iter().any(|(external, _)| external.as_bytes() == name)
            || self.without.iter().any(|without| without.as_bytes() == name)
    }
}

/// Appends one string of a sort key. No byte of UTF-8 is 0xFF, so each can be raised by one, which frees 0 for the end.
pub fn put_key(text: &[u8], key: &mut Vec<u8>) {
    key.extend(text.iter().map(|byte| byte.saturating_add(1)));
    key.push(0);
}

fn label(message: &[u8]) -> Result<(&[u8], &[u8])> {
    let (mut name, mut value): (&[u8], &[u8]) = (b"", b"");
    let mut fields = Fields::new(message);
    while let Some((number, field)) = fields.next_field()? {
        match number {
            1 => name = field.bytes()?,
            2 => value = field.bytes()?,
            _ => {}
        }
    }
    Ok((name, value))
}

struct RawChunk<'a> {
    min_time: u64,
    max_time: u64,
    /// The StoreAPI's number.
    encoding: u64,
    data: &'a [u8],
}

fn chunk(message: &[u8]) -> Result<RawChunk<'_>> {
    let mut chunk = RawChunk { min_time: 0, max_time: 0, encoding: 0, data: b"" };
    let mut prometheus_encoding = 0;
    let mut fields = Fields::new(message);
    while let Some((number, field)) = fields.next_field()? {
        match number {
            1 => chunk.min_time = field.varint()?,
            2 => chunk.max_time = field.varint()?,
            3 => prometheus_encoding = field.varint()?,
            4 => chunk.data = field.bytes()?,
            _ => {}
        }
    }
    chunk.encoding = store_encoding(prometheus_encoding)?;
    Ok(chunk)
}

/// The StoreAPI's number of a chunk encoding. `Differs:` Thanos subtracts one from whatever it gets (D-08).
fn store_encoding(prometheus: u64) -> Result<u64> {
    let name = match prometheus {
        1..=3 => return Ok(prometheus - 1),
        0 => "UNKNOWN (0)".to_owned(),
        4 => "XOR2 (4)".to_owned(),
        5 => "HISTOGRAM_ST (5)".to_owned(),
        6 => "FLOAT_HISTOGRAM_ST (6)".to_owned(),
        other => other.to_string(),
    };
    Err(Error::new(
        Kind::Permanent,
        format!(
            "Prometheus sent a chunk with encoding {name}, which the StoreAPI cannot carry; turn the feature that writes \
             it off in Prometheus (--enable-feature=xor2-encoding or st-storage) to query recent data through a sidecar"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{prometheus_remote as remote, thanos_types as thanos};
    use protobuf::{EnumOrUnknown, Message};

    fn labels(pairs: &[(&str, &str)]) -> Vec<remote::Label> {
        pairs
            .iter()
            .map(|(n, v)| remote::Label { name: (*n).into(), value: (*v).into(), ..Default::default() })
            .collect()
    }

    fn chunked(pairs: &[(&str, &str)], chunks: &[(i64, i64, i32, &[u8])]) -> Vec<u8> {
        remote::ChunkedSeries {
            labels: labels(pairs),
            chunks: chunks
                .iter()
                .map(|(min, max, kind, data)| remote::Chunk {
                    min_time_ms: *min,
                    max_time_ms: *max,
                    type_: EnumOrUnknown::from_i32(*kind),
                    data: data.to_vec(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
        .write_to_bytes()
        .unwrap()
    }

    fn transcode(external: &[(&str, &str)], without: &[&str], series: &[u8]) -> Result<thanos::Series> {
        let without: Vec<String> = without.iter().map(ToString::to_string).collect();
        let mut transcoder = Transcoder::new(&Labels::new(external.iter().copied()), &without, None);
        let (mut out, mut key) = (Vec::new(), Vec::new());
        transcoder.series(series, &mut out, &mut key)?.expect("no shard");
        Ok(thanos::Series::parse_from_bytes(&out).unwrap())
    }

    fn text(series: &thanos::Series) -> String {
        series.labels.iter().map(|l| format!("{}={} ", l.name, l.value)).collect::<String>().trim_end().to_owned()
    }

    #[test]
    fn labels_are_merged_dropped_and_sorted() {
        let check = |external: &[(&str, &str)], without: &[&str], local: &[(&str, &str)], expected: &str| {
            assert_eq!(text(&transcode(external, without, &chunked(local, &[])).unwrap()), expected);
        };
        check(&[], &[], &[("a", "1"), ("b", "2")], "a=1 b=2");
        check(&[("b", "x")], &[], &[("a", "1"), ("c", "2")], "a=1 b=x c=2");
        check(&[("a", "x")], &[], &[("a", "1"), ("c", "2")], "a=x c=2");
        check(&[("r", "x"), ("z", "y")], &["r"], &[("a", "1"), ("r", "local")], "a=1 z=y");
        check(&[("z", "y")], &["a"], &[("a", "1"), ("b", "2")], "b=2 z=y");
        check(&[("z", "y")], &[], &[("a", ""), ("b", "2")], "b=2 z=y");
        check(&[("b", "x")], &[], &[("c", "1"), ("a", "2")], "a=2 b=x c=1");
        check(&[("é", "ö")], &[], &[("a.b", "x y")], "a.b=x y é=ö");
        check(&[], &[], &[("b", "1"), ("a", "2")], "a=2 b=1");
    }

    #[test]
    fn chunks_keep_their_data_and_get_type_and_hash() {
        let series = chunked(&[("a", "1")], &[(0, 10, 1, b"xor"), (-7, i64::MAX, 2, b"histogram"), (3, 4, 3, b"")]);
        let got = transcode(&[], &[], &series).unwrap();
        let raw = |idx: usize| got.chunks[idx].raw.as_ref().unwrap();
        assert_eq!((got.chunks[0].min_time, got.chunks[0].max_time), (0, 10));
        assert_eq!((got.chunks[1].min_time, got.chunks[1].max_time), (-7, i64::MAX));
        assert_eq!((raw(0).type_.value(), raw(1).type_.value(), raw(2).type_.value()), (0, 1, 2));
        assert_eq!(raw(0).data, b"xor");
        assert_eq!(raw(1).hash, XxHash64::oneshot(0, b"histogram"));
        assert_eq!(raw(2).hash, 0xef46_db37_51d8_e999);
    }

    #[test]
    fn the_bytes_are_those_of_an_ordinary_encoder() {
        let series = chunked(&[("a", "1"), ("long", &"v".repeat(300))], &[(1, 2, 1, &[9; 200])]);
        let mut transcoder = Transcoder::new(&Labels::new([("m", "n")]), &[], None);
        let mut out = Vec::new();
        transcoder.series(&series, &mut out, &mut Vec::new()).unwrap();
        assert_eq!(thanos::Series::parse_from_bytes(&out).unwrap().write_to_bytes().unwrap(), out);
    }

    #[test]
    fn unknown_encodings_are_refused_by_name() {
        for (kind, name) in [(0, "UNKNOWN (0)"), (4, "XOR2 (4)"), (5, "HISTOGRAM_ST (5)"), (9, "encoding 9")] {
            let err = transcode(&[], &[], &chunked(&[("a", "1")], &[(1, 2, kind, b"x")])).unwrap_err();
            assert!(err.to_string().contains(name), "{err}");
        }
    }

    #[test]
    fn keys_order_as_labels_do() {
        let sets: [&[(&str, &str)]; 8] = [
            &[],
            &[("a", "1")],
            &[("a", "1"), ("b", "2")],
            &[("a", "1"), ("b", "é")],
            &[("a", "1"), ("bb", "0")],
            &[("a", "11")],
            &[("aa", "0")],
            &[("b", "")],
        ];
        let key = |set: &[(&str, &str)]| {
            let mut key = Vec::new();
            for (n, v) in set {
                put_key(n.as_bytes(), &mut key);
                put_key(v.as_bytes(), &mut key);
            }
            key
        };
        for (idx, a) in sets.iter().enumerate() {
            for b in &sets[idx + 1..] {
                assert!(key(a) < key(b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let good = chunked(&[("a", "1"), ("b", "2")], &[(1, 2, 1, b"data")]);
        for cut in 1..good.len() {
            let _ = transcode(&[("e", "x")], &[], &good[..cut]);
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut transcoder = Transcoder::new(&Labels::new([("e", "x")]), &[], None);
            let _ = transcoder.series(&bad, &mut Vec::new(), &mut Vec::new());
        }
    }
}
