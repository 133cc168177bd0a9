//! The labels of a series from Prometheus: where they stand in its bytes, merged with the external ones, and what has to be
//! written of them. Neighbours share most of their labels, and bytes that are the same as in the series before are neither
//! walked nor compared again. Pure.

use std::cmp::Ordering;

use crate::store::shard::Shard;
use crate::store::wire::{self, Field, Fields};
use pillion_base::error::Result;
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

/// Start and end within a series.
type Span = (u32, u32);

/// A final label.
#[derive(Clone, Copy)]
struct LabelRef {
    /// An index into the rules' external labels; a local label is none of them.
    external: Option<u32>,
    /// Of a local label.
    name: Span,
    value: Span,
    /// The field it came in; nothing for an external label that did not come, or not so.
    field: Span,
    /// Whether that field is what has to be written, byte for byte.
    as_is: bool,
}

/// What is written of the labels.
#[derive(Clone, Copy)]
enum Piece {
    /// Fields as they came.
    AsIs(Span),
    /// A label by its place.
    Label(u32),
}

/// The labels of one series. The bytes in which they stand are handed in wherever they are needed.
#[derive(Default)]
pub(super) struct SeriesLabels {
    /// The final labels in order.
    refs: Vec<LabelRef>,
    pieces: Vec<Piece>,
    /// Encoded size within the StoreAPI `Series`.
    encoded_len: usize,
    /// Where the labels end: the first other field, or the end of the series.
    fields_end: u32,
    is_sorted: bool,
    can_move: bool,
    /// Its number within a stream, 0 outside, and the number of the series it was walked after.
    number: u64,
    after: u64,
    /// How many labels it shares with that series.
    n_shared: usize,
}

/// A series before another one: its labels and the bytes in which they stand.
pub(super) type Before<'a> = (&'a SeriesLabels, &'a [u8]);

impl SeriesLabels {
    /// Walks an encoded `ChunkedSeries` that comes as the one with this `number` in a stream, after `before`. Hands fields
    /// that are no labels to `other`.
    ///
    /// `Errors:` `Corrupt` for bytes that are no series, and those of `other`.
    pub(super) fn walk<'a>(
        &mut self,
        series: &'a [u8],
        rules: &LabelRules,
        number: u64,
        before: Option<Before<'_>>,
        mut other: impl FnMut(u32, Field<'a>) -> Result<()>,
    ) -> Result<()> {
        self.begin(series, number, before);
        let walked = self.refs.last().map_or((0, 0), |label| label.field).1;
        let mut last_name: &[u8] = self.refs.last().map_or(b"", |label| resolve(*label, series, rules).0);
        let mut next_external = self.refs.iter().rev().find_map(|label| label.external).map_or(0, |idx| idx + 1);
        self.fields_end = place(series.len());
        self.is_sorted = true;
        let mut fields = Fields::new(&series[walked as usize..]);
        loop {
            let start = place(series.len() - fields.n_left());
            let Some((number, field)) = fields.next_field()? else { break };
            if number != 1 {
                self.fields_end = self.fields_end.min(start);
                other(number, field)?;
                continue;
            }
            let message = field.bytes()?;
            let (name, value) = label(message)?;
            self.is_sorted &= last_name <= name;
            last_name = name;
            let end = place(series.len() - fields.n_left());
            let as_is = is_canonical((end - start) as usize, name, value);
            let mut taken = false;
            while let Some((external, wanted)) = rules.external.get(next_external as usize)
                && external.as_bytes() <= name
            {
                let mut external = LabelRef::external(next_external);
                if rules.external[next_external as usize].0.as_bytes() == name {
                    taken = true;
                    if wanted.as_bytes() == value && as_is {
                        (external.field, external.as_is) = ((start, end), true);
                    }
                }
                self.refs.push(external);
                next_external += 1;
            }
            // An absent label and an empty one are the same thing.
            if !taken && !value.is_empty() && !rules.is_dropped(name) {
                let (name, value) = (span(series, name), span(series, value));
                self.refs.push(LabelRef { external: None, name, value, field: (start, end), as_is });
            }
        }
        let n_external = u32::try_from(rules.external.len()).unwrap_or(u32::MAX);
        self.refs.extend((next_external..n_external).map(LabelRef::external));
        if self.is_sorted {
            let last = self.refs.iter().rev().find(|label| label.external.is_none());
            self.can_move = rules.can_move(last.map_or(b"", |label| resolve(*label, series, rules).0));
        } else {
            self.refs.sort_by(|a, b| resolve(*a, series, rules).0.cmp(resolve(*b, series, rules).0));
            self.can_move = !rules.external.is_empty();
            // What it shared is anywhere now.
            (self.after, self.n_shared) = (0, 0);
        }
        self.arrange(series, rules);
        Ok(())
    }

    /// Takes over the labels that stand in bytes which are the same as in the series before.
    fn begin(&mut self, series: &[u8], number: u64, before: Option<Before<'_>>) {
        self.refs.clear();
        (self.number, self.after, self.n_shared) = (number, 0, 0);
        let Some((labels, bytes)) = before.filter(|(labels, _)| labels.is_sorted) else { return };
        let bytes = bytes.get(..labels.fields_end as usize).unwrap_or(bytes);
        let same = place(n_same(bytes, series));
        // Only a label that came in a field tells where to walk on.
        let is_same = |label: &LabelRef| label.field.1 > 0 && label.field.1 <= same;
        self.n_shared = labels.refs.iter().rposition(is_same).map_or(0, |last| last + 1);
        self.after = labels.number;
        self.refs.extend_from_slice(&labels.refs[..self.n_shared]);
    }

    /// Finds out what is to be written.
    fn arrange(&mut self, series: &[u8], rules: &LabelRules) {
        self.pieces.clear();
        self.encoded_len = 0;
        for (idx, label) in self.refs.iter().enumerate() {
            if !label.as_is {
                let (name, value) = resolve(*label, series, rules);
                self.encoded_len += field_len(name, value);
                self.pieces.push(Piece::Label(place(idx)));
                continue;
            }
            let (start, end) = label.field;
            self.encoded_len += (end - start) as usize;
            match self.pieces.last_mut() {
                Some(Piece::AsIs(piece)) if piece.1 == start => piece.1 = end,
                _ => self.pieces.push(Piece::AsIs((start, end))),
            }
        }
    }

    /// The final labels, by name.
    pub(super) fn iter<'a>(
        &'a self,
        series: &'a [u8],
        rules: &'a LabelRules,
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        self.refs.iter().map(move |label| resolve(*label, series, rules))
    }

    /// Whether the series is in the shard that is asked for.
    pub(super) fn are_in_shard(&self, series: &[u8], rules: &LabelRules) -> bool {
        rules.shard.as_ref().is_none_or(|shard| shard.holds(self.iter(series, rules)))
    }

    /// Whether the external labels may have moved this series behind one that comes later.
    pub(super) fn can_move(&self) -> bool {
        self.can_move
    }

    /// Encoded size within the StoreAPI `Series`.
    pub(super) fn encoded_len(&self) -> usize {
        self.encoded_len
    }

    /// Appends the labels as fields of the StoreAPI `Series`, [`SeriesLabels::encoded_len`] bytes.
    pub(super) fn encode(&self, series: &[u8], rules: &LabelRules, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match *piece {
                Piece::AsIs(at) => out.extend_from_slice(slice(series, at)),
                Piece::Label(idx) => {
                    let (name, value) = resolve(self.refs[idx as usize], series, rules);
                    put_label(name, value, out);
                }
            }
        }
    }

    /// Appends the local labels as they would come in a `ChunkedSeries`.
    pub(super) fn put_local(&self, series: &[u8], rules: &LabelRules, out: &mut Vec<u8>) {
        for label in self.refs.iter().filter(|label| label.external.is_none()) {
            let (name, value) = resolve(*label, series, rules);
            put_label(name, value, out);
        }
    }

    /// Bytes of memory for what was found.
    pub(super) fn held_bytes(&self) -> usize {
        self.refs.len() * size_of::<LabelRef>() + self.pieces.len() * size_of::<Piece>()
    }

    /// How `next`, which comes after this series from Prometheus, relates to it.
    ///
    /// One look at the local labels tells both things: the external ones are the same in both.
    pub(super) fn relate(&self, series: &[u8], next: Before<'_>, rules: &LabelRules) -> Relation {
        let (next, next_series) = next;
        let n_same = if next.after == self.number && self.number > 0 { next.n_shared } else { 0 };
        let is_local = |label: &&LabelRef| label.external.is_none();
        let mut theirs = next.refs[n_same..].iter().filter(is_local);
        for label in self.refs[n_same..].iter().filter(is_local) {
            let ours = resolve(*label, series, rules);
            match theirs.next().map(|other| resolve(*other, next_series, rules)) {
                Some(other) if ours == other => {}
                // Where they differ, whatever external labels stand between the two names stands behind the lesser one.
                Some(other) => return Relation::Other(ours.cmp(&other)),
                // `next` ends: its external labels, or its end, meet the label that is left of this one.
                None => return Relation::Other(rules.meets_rest(ours.0).reverse()),
            }
        }
        match theirs.next() {
            None => Relation::Same,
            Some(other) => Relation::Extended(rules.meets_rest(resolve(*other, next_series, rules).0)),
        }
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

impl LabelRef {
    fn external(idx: u32) -> Self {
        LabelRef { external: Some(idx), name: (0, 0), value: (0, 0), field: (0, 0), as_is: false }
    }
}

#[inline]
fn resolve<'a>(label: LabelRef, series: &'a [u8], rules: &'a LabelRules) -> (&'a [u8], &'a [u8]) {
    match label.external {
        Some(idx) => {
            let (name, value) = &rules.external[idx as usize];
            (name.as_bytes(), value.as_bytes())
        }
        None => (slice(series, label.name), slice(series, label.value)),
    }
}

fn slice(series: &[u8], at: Span) -> &[u8] {
    &series[at.0 as usize..at.1 as usize]
}

/// Where a part of `series` stands in it.
fn span(series: &[u8], part: &[u8]) -> Span {
    if part.is_empty() {
        return (0, 0);
    }
    let start = (part.as_ptr() as usize).wrapping_sub(series.as_ptr() as usize);
    (place(start), place(start + part.len()))
}

/// A series is at most a frame, far below 4 GiB.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// How many bytes are the same from the beginning on.
fn n_same(a: &[u8], b: &[u8]) -> usize {
    let len = a.len().min(b.len());
    let (a, b) = (&a[..len], &b[..len]);
    // In blocks first, which the compiler compares in a few registers.
    let n_blocks = a.as_chunks::<32>().0.iter().zip(b.as_chunks::<32>().0).take_while(|(a, b)| a == b).count();
    let done = n_blocks * 32;
    done + a[done..].iter().zip(&b[done..]).take_while(|(a, b)| a == b).count()
}

/// Whether a label that came in a field of this size came as this crate writes it: the name, then the value, nothing else.
fn is_canonical(len: usize, name: &[u8], value: &[u8]) -> bool {
    // Anything more would make it longer.
    len == field_len(name, value) && name.as_ptr() < value.as_ptr()
}

/// Encoded size of a label within a series.
fn field_len(name: &[u8], value: &[u8]) -> usize {
    let len = wire::bytes_len(name.len()) + wire::bytes_len(value.len());
    wire::header_len(len) + len
}

fn put_label(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    wire::put_header(1, wire::bytes_len(name.len()) + wire::bytes_len(value.len()), out);
    wire::put_bytes(1, name, out);
    wire::put_bytes(2, value, out);
}

#[inline]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn series(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        pairs.iter().for_each(|(name, value)| put_label(name.as_bytes(), value.as_bytes(), &mut out));
        // A chunk behind the labels, of which nothing is looked at here.
        wire::put_bytes(2, b"chunk", &mut out);
        out
    }

    fn walk(series: &[u8], rules: &LabelRules, before: Option<Before<'_>>) -> Result<(SeriesLabels, usize)> {
        let (mut labels, mut n_others) = (SeriesLabels::default(), 0);
        labels.walk(series, rules, 2, before, |_, _| {
            n_others += 1;
            Ok(())
        })?;
        Ok((labels, n_others))
    }

    type Found = (Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>, bool, usize);

    fn found(walked: &(SeriesLabels, usize), series: &[u8], rules: &LabelRules) -> Found {
        let labels = walked.0.iter(series, rules).map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let mut encoded = Vec::new();
        walked.0.encode(series, rules, &mut encoded);
        assert_eq!(encoded.len(), walked.0.encoded_len());
        (labels, encoded, walked.0.can_move(), walked.1)
    }

    /// A series walked after another comes to the same as one that is walked alone.
    fn check(before: &[u8], next: &[u8], rules: &LabelRules) {
        let Ok((mut labels, _)) = walk(before, rules, None) else { return };
        labels.number = 1;
        let alone = walk(next, rules, None);
        let after = walk(next, rules, Some((&labels, before)));
        match (alone, after) {
            (Ok(alone), Ok(after)) => {
                assert_eq!(found(&alone, next, rules), found(&after, next, rules), "{before:?} {next:?}");
                let relation = labels.relate(before, (&alone.0, next), rules);
                assert_eq!(labels.relate(before, (&after.0, next), rules), relation, "{before:?} {next:?}");
            }
            (alone, after) => assert_eq!(alone.err(), after.err(), "{before:?} {next:?}"),
        }
    }

    fn rules(external: &[(&str, &str)], without: &[&str]) -> LabelRules {
        let without: Vec<String> = without.iter().map(ToString::to_string).collect();
        LabelRules::new(&Labels::new(external.iter().copied()), &without, None)
    }

    #[test]
    fn what_neighbours_share_is_what_each_would_be_alone() {
        let names = ["a", "b", "bb", "c", "d"];
        // All sets of labels of up to two values each; long enough that blocks are the same.
        let long = "v".repeat(40);
        let sets: Vec<Vec<u8>> = (0..3_usize.pow(5))
            .map(|mask| {
                let value = |place: u32| ["", &long, "w"][mask / 3_usize.pow(place) % 3];
                let pairs = (0..5).map(|place| (names[place as usize], value(place)));
                series(&pairs.filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>())
            })
            .collect();
        let all = [
            rules(&[], &[]),
            rules(&[("b", &long)], &[]),
            rules(&[("aa", "x"), ("bb", "w"), ("e", "y")], &["c"]),
            rules(&[("c", "w"), ("d", &long)], &["d", "a"]),
        ];
        for rules in &all {
            for before in sets.iter().step_by(2) {
                sets.iter().step_by(3).for_each(|next| check(before, next, rules));
            }
        }
    }

    #[test]
    fn no_byte_of_garbage_makes_a_difference_to_the_next_series() {
        let good = series(&[("a", &"v".repeat(70)), ("b", "2"), ("m", "n"), ("z", "3")]);
        let rules = rules(&[("b", "2"), ("n", "x")], &[]);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            check(&good, &bad, &rules);
            check(&bad, &good, &rules);
        }
        for cut in 0..good.len() {
            check(&good, &good[..cut], &rules);
            check(&good[..cut], &good, &rules);
        }
    }

    #[test]
    fn fields_in_another_order_or_form_are_written_as_everyone_writes_them() {
        let rules = rules(&[], &[]);
        let check = |field: &[u8]| {
            let walked = walk(field, &rules, None).unwrap();
            assert_eq!(found(&walked, field, &rules).1, [10, 6, 10, 1, b'a', 18, 1, b'b'], "{field:?}");
        };
        check(&[10, 6, 10, 1, b'a', 18, 1, b'b']);
        check(&[10, 6, 18, 1, b'b', 10, 1, b'a']);
        check(&[10, 0x86, 0, 10, 1, b'a', 18, 1, b'b']);
        check(&[10, 8, 10, 1, b'a', 18, 1, b'b', 24, 7]);
        check(&[10, 9, 10, 1, b'x', 10, 1, b'a', 18, 1, b'b']);
    }

    #[test]
    fn neighbours_share_all_that_is_the_same_and_what_stays_is_written_in_one_piece() {
        let rules = rules(&[("replica", "a")], &[]);
        let set = |pod: &str| series(&[("__name__", "up"), ("job", &"j".repeat(30)), ("pod", pod), ("replica", "a")]);
        let (before, next) = (set("1"), set("2"));
        let (mut labels, _) = walk(&before, &rules, None).unwrap();
        labels.number = 1;
        let (after, _) = walk(&next, &rules, Some((&labels, &before))).unwrap();
        assert_eq!((after.n_shared, after.pieces.len(), after.can_move()), (2, 1, true));
        assert_eq!(labels.relate(&before, (&after, &next), &rules), Relation::Other(Ordering::Less));
    }
}
