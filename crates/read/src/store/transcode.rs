//! A remote-read frame becomes a StoreAPI series: its bytes are walked once and written once, without message structs
//! and without an allocation per label. Pure.
//!
//! Labels are merged (an external label wins over a local one), dropped and tested against the shard; chunks keep their
//! data, get the StoreAPI's encoding number and their xxhash64.

use std::cmp::Ordering;
use std::ops::Range;

use twox_hash::XxHash64;

use crate::store::shard::Shard;
use crate::store::wire::{self, Fields};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::labels::Labels;

/// What is done to every series of a call.
#[derive(Debug)]
pub struct LabelRules {
    /// Sorted by name, without those that the request drops.
    external: Vec<(String, String)>,
    /// Every external label, whether dropped or not: Prometheus adds all of them to what it sends.
    all_external: Labels,
    without: Vec<String>,
    shard: Option<Shard>,
}

impl LabelRules {
    /// The rules of one call.
    pub fn new(external: &Labels, without: &[String], shard: Option<Shard>) -> Self {
        let kept = external.iter().filter(|(name, _)| !without.iter().any(|dropped| dropped == name));
        LabelRules {
            external: kept.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            all_external: external.clone(),
            without: without.to_vec(),
            shard,
        }
    }

    /// Whether an encoded `ChunkedSeries` carries all external labels as they came from Prometheus.
    ///
    /// `Errors:` `Corrupt` for bytes that are no series.
    pub(super) fn are_set_on(&self, series: &[u8]) -> Result<bool> {
        let (mut fields, mut n_set) = (Fields::new(series), 0);
        while let Some((number, field)) = fields.next_field()? {
            if number == 1 {
                let (name, value) = label(field.bytes()?)?;
                let is_set = |external: (&str, &str)| external.0.as_bytes() == name && external.1.as_bytes() == value;
                n_set += usize::from(self.all_external.iter().any(is_set));
            }
        }
        Ok(n_set == self.all_external.iter().count())
    }

    /// Whether setting the external labels can move a series behind its own extensions: `last` is the name of its last
    /// local label. Only an external name that sorts behind it can do that.
    fn can_move(&self, last: &[u8]) -> bool {
        self.external.last().is_some_and(|(name, _)| name.as_bytes() > last)
    }

    /// How a series whose local labels have ended compares with one that goes on with a label of this name: what is left of
    /// the first are external labels that sort behind the name, or nothing.
    fn meets_rest(&self, name: &[u8]) -> Ordering {
        if self.can_move(name) { Ordering::Greater } else { Ordering::Less }
    }

    /// Whether a label from Prometheus is left out: an external label overrides it, or the request drops it.
    fn is_dropped(&self, name: &[u8]) -> bool {
        self.all_external.iter().any(|(external, _)| external.as_bytes() == name)
            || self.without.iter().any(|without| without.as_bytes() == name)
    }
}

/// Start and end in an entry's payload.
type Span = (u32, u32);

#[derive(Clone, Copy)]
enum LabelRef {
    /// An index into the rules' external labels.
    External(u32),
    Local {
        name: Span,
        value: Span,
    },
}

impl LabelRef {
    fn is_local(self) -> bool {
        matches!(self, LabelRef::Local { .. })
    }
}

#[derive(Clone, Copy)]
struct ChunkRef {
    min_time: u64,
    max_time: u64,
    encoding: u64,
    data: Span,
    hash: u64,
    /// Encoded sizes of the `Chunk` and of the `AggrChunk` around it.
    chunk_len: u32,
    aggr_len: u32,
}

/// One series between its frame and its message: the bytes as they came, and where in them everything is. It is reused for
/// its memory.
#[derive(Default)]
pub struct Entry {
    payload: Vec<u8>,
    /// Where in the payload the series is.
    range: Range<usize>,
    /// The final labels in order.
    labels: Vec<LabelRef>,
    chunks: Vec<ChunkRef>,
    /// Encoded size of the StoreAPI `Series`.
    encoded_len: usize,
    can_move: bool,
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
    }

    /// Bytes this entry holds.
    pub(super) fn held_bytes(&self) -> usize {
        self.payload.len() + self.labels.len() * size_of::<LabelRef>() + self.chunks.len() * size_of::<ChunkRef>()
    }

    /// The encoded `ChunkedSeries` as it came.
    pub(super) fn source(&self) -> &[u8] {
        self.payload.get(self.range.clone()).unwrap_or_default()
    }

    /// The same series without its chunks: enough to compare others with.
    pub(super) fn without_chunks(&self, rules: &LabelRules) -> Result<Entry> {
        let mut labels = Entry::default();
        for label in self.labels.iter().filter(|label| label.is_local()) {
            let (name, value) = self.resolve(*label, rules);
            wire::put_header(1, wire::bytes_len(name.len()) + wire::bytes_len(value.len()), &mut labels.payload);
            wire::put_bytes(1, name, &mut labels.payload);
            wire::put_bytes(2, value, &mut labels.payload);
        }
        labels.parse(0..labels.payload.len(), rules)?;
        Ok(labels)
    }

    /// Parses the series at `range` of the payload; false when it is not in the shard.
    ///
    /// `Errors:` `Corrupt` for bytes that are no series, `Permanent` for a chunk encoding that the StoreAPI lacks.
    pub fn parse(&mut self, range: Range<usize>, rules: &LabelRules) -> Result<bool> {
        self.labels.clear();
        self.chunks.clear();
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
            (u32::try_from(start).unwrap_or(u32::MAX), u32::try_from(start + part.len()).unwrap_or(u32::MAX))
        };
        let mut sorted = true;
        let mut last_name: &[u8] = b"";
        let mut last_local: &[u8] = b"";
        let mut next_external = 0;
        let mut encoded_len = 0;
        let mut fields = Fields::new(series);
        while let Some((number, field)) = fields.next_field()? {
            match number {
                1 => {
                    let (name, value) = label(field.bytes()?)?;
                    sorted &= last_name <= name;
                    last_name = name;
                    // An absent label and an empty one are the same thing.
                    if value.is_empty() || rules.is_dropped(name) {
                        continue;
                    }
                    while let Some((external, _)) = rules.external.get(next_external)
                        && external.as_bytes() < name
                    {
                        self.labels.push(LabelRef::External(index(next_external)));
                        next_external += 1;
                    }
                    last_local = name;
                    self.labels.push(LabelRef::Local { name: at(name), value: at(value) });
                }
                2 => {
                    let chunk = chunk(field.bytes()?)?;
                    let hash = XxHash64::oneshot(0, chunk.data);
                    let chunk_len =
                        wire::number_len(chunk.encoding) + wire::bytes_len(chunk.data.len()) + wire::number_len(hash);
                    let aggr_len = wire::number_len(chunk.min_time)
                        + wire::number_len(chunk.max_time)
                        + wire::header_len(chunk_len)
                        + chunk_len;
                    encoded_len += wire::header_len(aggr_len) + aggr_len;
                    self.chunks.push(ChunkRef {
                        min_time: chunk.min_time,
                        max_time: chunk.max_time,
                        encoding: chunk.encoding,
                        data: at(chunk.data),
                        hash,
                        chunk_len: u32::try_from(chunk_len).unwrap_or(u32::MAX),
                        aggr_len: u32::try_from(aggr_len).unwrap_or(u32::MAX),
                    });
                }
                _ => {}
            }
        }
        self.can_move = rules.can_move(last_local);
        self.labels.extend((next_external..rules.external.len()).map(|idx| LabelRef::External(index(idx))));
        if !sorted {
            let mut labels = std::mem::take(&mut self.labels);
            labels.sort_by(|a, b| self.resolve(*a, rules).0.cmp(self.resolve(*b, rules).0));
            self.labels = labels;
            self.can_move = !rules.external.is_empty();
        }
        for (name, value) in self.labels(rules) {
            let len = wire::bytes_len(name.len()) + wire::bytes_len(value.len());
            encoded_len += wire::header_len(len) + len;
        }
        self.encoded_len = encoded_len;
        Ok(rules.shard.as_ref().is_none_or(|shard| shard.holds(self.labels(rules))))
    }

    /// The final labels, by name.
    pub(super) fn labels<'a>(&'a self, rules: &'a LabelRules) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        self.labels.iter().map(|label| self.resolve(*label, rules))
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
        self.can_move
    }

    /// Appends the StoreAPI `Series`, [`Entry::encoded_len`] bytes.
    pub fn encode(&self, rules: &LabelRules, out: &mut Vec<u8>) {
        for (name, value) in self.labels(rules) {
            wire::put_header(1, wire::bytes_len(name.len()) + wire::bytes_len(value.len()), out);
            wire::put_bytes(1, name, out);
            wire::put_bytes(2, value, out);
        }
        for chunk in &self.chunks {
            wire::put_header(2, chunk.aggr_len as usize, out);
            wire::put_number(1, chunk.min_time, out);
            wire::put_number(2, chunk.max_time, out);
            wire::put_header(3, chunk.chunk_len as usize, out);
            wire::put_number(1, chunk.encoding, out);
            wire::put_bytes(2, self.slice(chunk.data), out);
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

    /// How `next`, which comes after this series from Prometheus, relates to it.
    ///
    /// One look at the local labels tells both things: the external ones are the same in both.
    pub(super) fn relate(&self, next: &Entry, rules: &LabelRules) -> Relation {
        let mut theirs = next.labels.iter().filter(|label| label.is_local());
        for label in self.labels.iter().filter(|label| label.is_local()) {
            let ours = self.resolve(*label, rules);
            match theirs.next().map(|other| next.resolve(*other, rules)) {
                Some(other) if ours == other => {}
                // Where they differ, whatever external labels stand between the two names stands behind the lesser one.
                Some(other) => return Relation::Other(ours.cmp(&other)),
                // `next` ends: its external labels, or its end, meet the label that is left of this one.
                None => return Relation::Other(rules.meets_rest(ours.0).reverse()),
            }
        }
        match theirs.next() {
            None => Relation::Same,
            Some(other) => Relation::Extended(rules.meets_rest(next.resolve(*other, rules).0)),
        }
    }

    fn resolve<'a>(&'a self, label: LabelRef, rules: &'a LabelRules) -> (&'a [u8], &'a [u8]) {
        match label {
            LabelRef::External(idx) => {
                let (name, value) = &rules.external[idx as usize];
                (name.as_bytes(), value.as_bytes())
            }
            LabelRef::Local { name, value } => (self.slice(name), self.slice(value)),
        }
    }

    fn slice(&self, at: Span) -> &[u8] {
        &self.payload[at.0 as usize..at.1 as usize]
    }
}

/// How a series relates to one before it: by local labels, and by the order of the final ones (`Less`: the one before is less).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// The same series, in another frame.
    Same,
    /// It has all the local labels of the one before and more behind them.
    Extended(Ordering),
    /// Something else.
    Other(Ordering),
}

impl Relation {
    /// The StoreAPI's order: pairwise by name, then value, bytewise; a set that is a prefix of another comes first.
    pub(super) fn order(self) -> Ordering {
        match self {
            Relation::Same => Ordering::Equal,
            Relation::Extended(order) | Relation::Other(order) => order,
        }
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
    use pillion_proto::{prometheus_remote as remote, thanos_types as thanos};
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
    fn unknown_encodings_are_refused_by_name() {
        for (kind, name) in [(0, "UNKNOWN (0)"), (4, "XOR2 (4)"), (5, "HISTOGRAM_ST (5)"), (9, "encoding 9")] {
            let err = transcode(&[], &[], &chunked(&[("a", "1")], &[(1, 2, kind, b"x")])).unwrap_err();
            assert!(err.to_string().contains(name), "{err}");
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
        let good = chunked(&[("a", "1"), ("b", "2")], &[(1, 2, 1, b"data")]);
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
