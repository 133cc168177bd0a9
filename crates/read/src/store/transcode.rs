//! A remote-read frame becomes a StoreAPI series: its bytes are walked once and written once, without message structs
//! and without an allocation per label. Pure.
//!
//! Labels are merged (an external label wins over a local one), dropped and tested against the shard; chunks keep their
//! data, get the StoreAPI's encoding number and their xxhash64. Only chunks in encodings that the StoreAPI lacks are made anew.

use std::ops::Range;

use twox_hash::XxHash64;

use crate::plain::{NEWER_ENCODINGS, Plain};
pub use crate::store::label_walk::LabelRules;
use crate::store::label_walk::{Before, Relation, SeriesLabels};
use crate::store::wire::{self, Fields};
use pillion_base::error::{Context, Error, Kind, Result};

/// Start and end in an entry's payload.
type Span = (u32, u32);

#[derive(Clone, Copy)]
struct ChunkRef {
    min_time: u64,
    max_time: u64,
    encoding: u64,
    /// In the payload, or with `is_made` among the chunks that were made anew.
    data: Span,
    is_made: bool,
    hash: u64,
    /// Encoded sizes of the `Chunk` and of the `AggrChunk` around it.
    chunk_len: u32,
    aggr_len: u32,
}

impl ChunkRef {
    /// `encoding` is Prometheus's number, one of the plain ones; `at` says where `data` is kept.
    #[inline]
    fn new(times: (u64, u64), encoding: u64, data: &[u8], at: Span, is_made: bool) -> Self {
        let (min_time, max_time) = times;
        // The StoreAPI counts from 0. `Differs:` Thanos subtracts one from whatever it gets (D-08).
        let encoding = encoding - 1;
        let hash = XxHash64::oneshot(0, data);
        let chunk_len = wire::number_len(encoding) + wire::bytes_len(data.len()) + wire::number_len(hash);
        let aggr_len =
            wire::number_len(min_time) + wire::number_len(max_time) + wire::header_len(chunk_len) + chunk_len;
        ChunkRef {
            min_time,
            max_time,
            encoding,
            data: at,
            is_made,
            hash,
            chunk_len: u32::try_from(chunk_len).unwrap_or(u32::MAX),
            aggr_len: u32::try_from(aggr_len).unwrap_or(u32::MAX),
        }
    }

    /// Its size within the `Series`.
    #[inline]
    fn field_len(&self) -> usize {
        wire::header_len(self.aggr_len as usize) + self.aggr_len as usize
    }
}

/// One series between its frame and its message: the bytes as they came, and where in them everything is. It is reused for
/// its memory.
#[derive(Default)]
pub struct Entry {
    payload: Vec<u8>,
    /// Where in the payload the series is.
    range: Range<usize>,
    /// The chunks that could not stay as they came.
    made: Plain,
    labels: SeriesLabels,
    chunks: Vec<ChunkRef>,
    /// Encoded size of the StoreAPI `Series`.
    encoded_len: usize,
}

impl Entry {
    /// The payload, to be filled with a frame.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.payload
    }

    /// Copies an encoded `ChunkedSeries` in.
    pub fn copy(&mut self, series: &[u8]) {
        self.payload.clear();
        self.payload.extend_from_slice(series);
    }

    /// Gives up memory beyond `bytes_max`, so that one large series does not stay for the rest of the call.
    pub(super) fn shrink(&mut self, bytes_max: usize) {
        if self.payload.capacity() > bytes_max {
            self.payload = Vec::new();
        }
        self.made.shrink(bytes_max);
    }

    /// Bytes this entry holds.
    pub(super) fn held_bytes(&self) -> usize {
        self.payload.len()
            + self.made.bytes().len()
            + self.labels.held_bytes()
            + self.chunks.len() * size_of::<ChunkRef>()
    }

    /// The encoded `ChunkedSeries` as it came.
    pub(super) fn source(&self) -> &[u8] {
        self.payload.get(self.range.clone()).unwrap_or_default()
    }

    /// The same series without its chunks: enough to compare others with.
    pub(super) fn without_chunks(&self, rules: &LabelRules) -> Result<Entry> {
        let mut labels = Entry::default();
        self.labels.put_local(self.source(), rules, &mut labels.payload);
        labels.parse(0..labels.payload.len(), rules)?;
        Ok(labels)
    }

    /// Parses the series at `range` of the payload; false when it is not in the shard.
    ///
    /// `Errors:` `Corrupt` for bytes that are no series, and for a chunk that must be made anew and cannot be read;
    /// `Permanent` for a chunk encoding that is unknown; `Limit` as [`Plain::add`].
    pub fn parse(&mut self, range: Range<usize>, rules: &LabelRules) -> Result<bool> {
        self.parse_after(range, rules, 0, None)
    }

    /// Parses as [`Entry::parse`] does: the series with this `number` in a stream, of which `before` is an earlier one. What
    /// they share costs little.
    pub(super) fn parse_after(
        &mut self,
        range: Range<usize>,
        rules: &LabelRules,
        number: u64,
        before: Option<&Entry>,
    ) -> Result<bool> {
        self.chunks.clear();
        self.made.clear();
        self.range = range.clone();
        let base = self.payload.as_ptr() as usize;
        let Some(series) = self.payload.get(range) else { return Err(corrupt("series lies outside its frame")) };
        // Each part is a slice of the payload, or empty.
        let at = |part: &[u8]| -> Span {
            if part.is_empty() {
                return (0, 0);
            }
            let start = (part.as_ptr() as usize).wrapping_sub(base);
            // A payload is at most a frame, far below 4 GiB.
            (index(start), index(start + part.len()))
        };
        let mut chunks_len = 0;
        self.labels.walk(series, rules, number, before.map(Entry::as_before), |number, field| {
            if number != 2 {
                return Ok(());
            }
            let chunk = chunk(field.bytes()?)?;
            let times = (chunk.min_time, chunk.max_time);
            if matches!(chunk.encoding, 1..=3) {
                let made = ChunkRef::new(times, chunk.encoding, chunk.data, at(chunk.data), false);
                chunks_len += made.field_len();
                self.chunks.push(made);
            } else {
                chunks_len += make_anew(&chunk, &mut self.made, &mut self.chunks)?;
            }
            Ok(())
        })?;
        self.encoded_len = self.labels.encoded_len() + chunks_len;
        Ok(self.labels.are_in_shard(series, rules))
    }

    fn as_before(&self) -> Before<'_> {
        (&self.labels, self.source())
    }

    /// The final labels, by name.
    pub(super) fn labels<'a>(&'a self, rules: &'a LabelRules) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        self.labels.iter(self.source(), rules)
    }

    /// How many chunks the series has here.
    pub fn n_chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// Start of the first chunk, 0 without one. `Units:` ms.
    #[cfg(test)]
    #[allow(clippy::cast_possible_wrap)]
    pub(super) fn chunk_start(&self) -> i64 {
        self.chunks.first().map_or(0, |chunk| chunk.min_time as i64)
    }

    /// Encoded size of the StoreAPI `Series`.
    pub fn encoded_len(&self) -> usize {
        self.encoded_len
    }

    /// Whether the external labels may have moved this series behind one that comes later.
    pub(super) fn can_move(&self) -> bool {
        self.labels.can_move()
    }

    /// Appends the StoreAPI `Series`, [`Entry::encoded_len`] bytes.
    pub fn encode(&self, rules: &LabelRules, out: &mut Vec<u8>) {
        self.labels.encode(self.source(), rules, out);
        for chunk in &self.chunks {
            wire::put_header(2, chunk.aggr_len as usize, out);
            wire::put_number(1, chunk.min_time, out);
            wire::put_number(2, chunk.max_time, out);
            wire::put_header(3, chunk.chunk_len as usize, out);
            wire::put_number(1, chunk.encoding, out);
            wire::put_bytes(2, self.chunk_data(chunk), out);
            wire::put_number(3, chunk.hash, out);
        }
    }

    /// Appends a sort key: keys compare bytewise as the series' order is.
    pub(super) fn key(&self, rules: &LabelRules, out: &mut Vec<u8>) {
        for (name, value) in self.labels(rules) {
            put_key(name, out);
            put_key(value, out);
        }
    }

    /// How `next`, which comes after this series from Prometheus, relates to it. Quick where `next` was parsed after this one.
    pub(super) fn relate(&self, next: &Entry, rules: &LabelRules) -> Relation {
        self.labels.relate(self.source(), next.as_before(), rules)
    }

    fn chunk_data(&self, chunk: &ChunkRef) -> &[u8] {
        let from = if chunk.is_made { self.made.bytes() } else { &self.payload };
        &from[chunk.data.0 as usize..chunk.data.1 as usize]
    }
}

/// Calls `each` with the place of every `ChunkedSeries` within a frame.
pub fn each_series(frame: &[u8], mut each: impl FnMut(Range<usize>) -> Result<()>) -> Result<()> {
    let base = frame.as_ptr() as usize;
    let mut fields = Fields::new(frame);
    while let Some((number, field)) = fields.next_field()? {
        if number == 1 {
            let series = field.bytes()?;
            let start = if series.is_empty() { 0 } else { series.as_ptr() as usize - base };
            each(start..start + series.len())?;
        }
    }
    Ok(())
}

/// Appends one string of a sort key. No byte of UTF-8 is 0xFF, so each is raised by one, and 0 marks the end.
pub(super) fn put_key(text: &[u8], key: &mut Vec<u8>) {
    key.extend(text.iter().map(|byte| byte.saturating_add(1)));
    key.push(0);
}

fn index(idx: usize) -> u32 {
    u32::try_from(idx).unwrap_or(u32::MAX)
}

fn corrupt(text: &str) -> Error {
    Error::new(Kind::Corrupt, text)
}

struct RawChunk<'a> {
    min_time: u64,
    max_time: u64,
    /// Prometheus's number.
    encoding: u64,
    data: &'a [u8],
}

fn chunk(message: &[u8]) -> Result<RawChunk<'_>> {
    let mut chunk = RawChunk { min_time: 0, max_time: 0, encoding: 0, data: b"" };
    let mut fields = Fields::new(message);
    while let Some((number, field)) = fields.next_field()? {
        match number {
            1 => chunk.min_time = field.varint()?,
            2 => chunk.max_time = field.varint()?,
            3 => chunk.encoding = field.varint()?,
            4 => chunk.data = field.bytes()?,
            _ => {}
        }
    }
    Ok(chunk)
}

/// Makes plain chunks of one that the StoreAPI cannot carry. Returns what they take within the `Series`.
///
/// `Differs:` Thanos passes it on under a number that no querier knows (D-08).
fn make_anew(chunk: &RawChunk<'_>, made: &mut Plain, chunks: &mut Vec<ChunkRef>) -> Result<usize> {
    if !NEWER_ENCODINGS.contains(&chunk.encoding) {
        return Err(Error::new(
            Kind::Permanent,
            format!(
                "Prometheus sent a chunk in encoding {}, which this version does not know; upgrade the sidecar, or have \
                 Prometheus write chunks as before (storage.tsdb.chunk_encoding in its configuration, --enable-feature)",
                chunk.encoding
            ),
        ));
    }
    let mut field_len = 0;
    made.add(chunk.encoding, chunk.data, &mut |piece, data| {
        let times = (
            piece.min_ms.map_or(chunk.min_time, i64::cast_unsigned),
            piece.max_ms.map_or(chunk.max_time, i64::cast_unsigned),
        );
        let at = (index(piece.range.start), index(piece.range.end));
        let made = ChunkRef::new(times, piece.encoding, data, at, true);
        field_len += made.field_len();
        chunks.push(made);
    })
    .context(|| format!("chunk of encoding {} that begins at {} ms", chunk.encoding, chunk.min_time.cast_signed()))?;
    Ok(field_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::labels::Labels;
    use pillion_proto::{prometheus_remote as remote, thanos_types as thanos};
    use protobuf::{EnumOrUnknown, Message};
    use std::cmp::Ordering;

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

    fn rules(external: &[(&str, &str)], without: &[&str]) -> LabelRules {
        let without: Vec<String> = without.iter().map(ToString::to_string).collect();
        LabelRules::new(&Labels::new(external.iter().copied()), &without, None)
    }

    fn entry(series: &[u8], rules: &LabelRules) -> Result<Entry> {
        let mut entry = Entry::default();
        entry.copy(series);
        entry.parse(0..series.len(), rules)?;
        Ok(entry)
    }

    fn transcode(external: &[(&str, &str)], without: &[&str], series: &[u8]) -> Result<thanos::Series> {
        let rules = rules(external, without);
        let entry = entry(series, &rules)?;
        let mut out = Vec::new();
        entry.encode(&rules, &mut out);
        assert_eq!(out.len(), entry.encoded_len());
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
        check(&[("a", "x"), ("b", "y"), ("z", "w")], &[], &[("b", "1"), ("c", "2")], "a=x b=y c=2 z=w");
        check(&[("r", "x"), ("z", "y")], &["r"], &[("a", "1"), ("r", "local")], "a=1 z=y");
        check(&[("z", "y")], &["a"], &[("a", "1"), ("b", "2")], "b=2 z=y");
        check(&[("z", "y")], &[], &[("a", ""), ("b", "2")], "b=2 z=y");
        check(&[("b", "x")], &[], &[("c", "1"), ("a", "2")], "a=2 b=x c=1");
        check(&[("é", "ö")], &[], &[("a.b", "x y")], "a.b=x y é=ö");
        check(&[], &[], &[("b", "1"), ("a", "2")], "a=2 b=1");
        check(&[("m", "x")], &[], &[], "m=x");
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
        let rules = rules(&[("m", "n")], &[]);
        let mut out = Vec::new();
        entry(&series, &rules).unwrap().encode(&rules, &mut out);
        assert_eq!(thanos::Series::parse_from_bytes(&out).unwrap().write_to_bytes().unwrap(), out);
    }

    #[test]
    fn chunks_that_the_storeapi_lacks_are_made_anew() {
        // Two samples, 1.0 at 0 and 1000 ms; the second has a start timestamp.
        let one = [&[0, 2, 1, 0][..], &1.0_f64.to_bits().to_be_bytes(), &[0xe8, 0x07, 0]].concat();
        let plain = [&[0, 2, 0][..], &1.0_f64.to_bits().to_be_bytes(), &[0xe8, 0x07, 0]].concat();
        // 300 times 1.0, a second apart.
        let mut long = one.clone();
        (long[0], long[1], long[2]) = (1, 44, 0);
        long.resize(long.len() + 40, 0);
        let chunks: [(i64, i64, i32, &[u8]); 5] = [
            (-9, -8, 1, b"xor"),
            (-3, i64::MAX, 4, &one),
            (5, 6, 5, &[0xc0, 0, 0]),
            (7, 8, 6, &[0x40, 0, 0]),
            (-5, 300_000, 4, &long),
        ];
        let got = transcode(&[("e", "x")], &[], &chunked(&[("a", "1")], &chunks)).unwrap();
        let shown: Vec<_> = got
            .chunks
            .iter()
            .map(|chunk| (chunk.min_time, chunk.max_time, chunk.raw.type_.value(), chunk.raw.data.as_slice()))
            .collect();
        assert_eq!(shown.len(), 6);
        assert_eq!(shown[0], (-9, -8, 0, &b"xor"[..]));
        assert_eq!(shown[1], (-3, i64::MAX, 0, plain.as_slice()));
        assert_eq!(shown[2], (5, 6, 1, &[0, 0, 0xc0][..]));
        assert_eq!(shown[3], (7, 8, 2, &[0, 0, 0x40][..]));
        let n_samples = |idx: usize| crate::xor::n_samples(shown[idx].3).unwrap();
        assert_eq!((shown[4].0, shown[4].1, shown[4].2, n_samples(4)), (-5, 239_000, 0, 240));
        assert_eq!((shown[5].0, shown[5].1, shown[5].2, n_samples(5)), (240_000, 300_000, 0, 60));
        for chunk in &got.chunks {
            assert_eq!(chunk.raw.hash, XxHash64::oneshot(0, &chunk.raw.data));
        }
    }

    #[test]
    fn an_entry_forgets_the_chunks_it_made_before() {
        let rules = rules(&[], &[]);
        let chunk = (1, 2, 5, &[0x80, 0, 0][..]);
        let mut entry = entry(&chunked(&[("a", "1")], &[chunk, chunk]), &rules).unwrap();
        let held_bytes = entry.held_bytes();
        let other = chunked(&[("a", "1")], &[chunk]);
        entry.copy(&other);
        entry.parse(0..other.len(), &rules).unwrap();
        assert_eq!((entry.made.bytes(), entry.n_chunks()), (&[0, 0, 0x80][..], 1));
        assert!(held_bytes > entry.held_bytes() + 3);
    }

    #[test]
    fn unknown_encodings_are_refused_by_number_and_corrupt_chunks_by_time() {
        let check = |encoding: i32, kind: Kind, text: &str| {
            let err = transcode(&[], &[], &chunked(&[("a", "1")], &[(1, 2, encoding, b"x")])).unwrap_err();
            assert_eq!(err.kind(), kind);
            assert!(err.to_string().contains(text), "{err}");
        };
        check(0, Kind::Permanent, "encoding 0,");
        check(7, Kind::Permanent, "encoding 7,");
        check(9, Kind::Permanent, "encoding 9,");
        for encoding in 4..=6 {
            check(encoding, Kind::Corrupt, &format!("chunk of encoding {encoding} that begins at 1 ms"));
        }
    }

    #[test]
    fn keys_and_comparison_order_as_labels_do() {
        let sets: [&[(&str, &str)]; 7] = [
            &[("a", "1")],
            &[("a", "1"), ("b", "2")],
            &[("a", "1"), ("b", "é")],
            &[("a", "1"), ("bb", "0")],
            &[("a", "11")],
            &[("aa", "0")],
            &[("b", "0")],
        ];
        let rules = rules(&[], &[]);
        let entries: Vec<_> = sets.iter().map(|set| entry(&chunked(set, &[]), &rules).unwrap()).collect();
        let key = |entry: &Entry| {
            let mut key = Vec::new();
            entry.key(&rules, &mut key);
            key
        };
        for (idx, a) in entries.iter().enumerate() {
            for (other, b) in entries.iter().enumerate() {
                assert_eq!(a.relate(b, &rules).order(), idx.cmp(&other), "{idx} {other}");
                assert_eq!(key(a).cmp(&key(b)), idx.cmp(&other), "{idx} {other}");
            }
        }
    }

    #[test]
    fn relations_look_at_local_labels_and_tell_the_final_order() {
        use Ordering::{Greater, Less};
        let rules = rules(&[("m", "n"), ("z", "z")], &[]);
        let of = |set: &[(&str, &str)]| entry(&chunked(set, &[]), &rules).unwrap();
        let check = |a: &[(&str, &str)], b: &[(&str, &str)], expected: Relation| {
            let (a, b) = (of(a), of(b));
            assert_eq!(a.relate(&b, &rules), expected);
            assert_eq!(a.labels(&rules).cmp(b.labels(&rules)), expected.order());
            assert_eq!(b.relate(&a, &rules).order(), expected.order().reverse());
        };
        check(&[("a", "1")], &[("a", "1")], Relation::Same);
        check(&[], &[], Relation::Same);
        // Prometheus adds its external labels itself; they do not count.
        check(&[("a", "1"), ("m", "n")], &[("a", "1"), ("b", "2"), ("m", "n")], Relation::Extended(Greater));
        check(&[("a", "1")], &[("a", "1"), ("p", "2")], Relation::Extended(Greater));
        check(&[("a", "1")], &[("a", "1"), ("zz", "2")], Relation::Extended(Less));
        check(&[("a", "1")], &[("a", "2"), ("b", "2")], Relation::Other(Less));
        check(&[("a", "1"), ("y", "1")], &[("a", "1"), ("n", "2")], Relation::Other(Greater));
        check(&[("a", "1"), ("b", "2")], &[("a", "1")], Relation::Other(Less));
        check(&[("a", "1"), ("zz", "2")], &[("a", "1")], Relation::Other(Greater));
        assert!(of(&[("a", "1")]).can_move());
        assert!(!of(&[("zz", "1")]).can_move());
    }

    #[test]
    fn a_series_without_its_chunks_compares_as_it_does_with_them() {
        let rules = rules(&[("m", "n")], &["x"]);
        let whole = entry(&chunked(&[("b", "2"), ("a", "1"), ("x", "9")], &[(1, 2, 1, &[7; 999])]), &rules).unwrap();
        let labels = whole.without_chunks(&rules).unwrap();
        assert_eq!(whole.relate(&labels, &rules), Relation::Same);
        assert!(labels.labels(&rules).eq(whole.labels(&rules)));
        assert_eq!((labels.n_chunks(), labels.held_bytes() < whole.held_bytes()), (0, true));
        let (mut again, source) = (Entry::default(), whole.source());
        again.copy(source);
        again.parse(0..source.len(), &rules).unwrap();
        assert_eq!((again.encoded_len(), again.n_chunks()), (whole.encoded_len(), 1));
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let newer = [&[0, 2, 1, 0][..], &1.0_f64.to_bits().to_be_bytes(), &[0xe8, 0x07, 0]].concat();
        let chunks: [(i64, i64, i32, &[u8]); 2] = [(1, 2, 1, b"data"), (3, 4, 4, &newer)];
        let good = chunked(&[("a", "1"), ("b", "2")], &chunks);
        let rules = rules(&[("e", "x")], &[]);
        let transcode = |series: &[u8]| {
            let Ok(entry) = entry(series, &rules) else { return };
            let mut out = Vec::new();
            entry.encode(&rules, &mut out);
            assert_eq!(out.len(), entry.encoded_len());
        };
        for cut in 1..good.len() {
            transcode(&good[..cut]);
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            transcode(&bad);
        }
    }
}
