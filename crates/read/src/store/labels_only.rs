//! A Series call that wants no chunks: labels from `/api/v1/series`, sorted under a budget of memory.
//!
//! No Prometheus streams them: a remote read leaves out series without chunks, and reads the chunks whatever its hints say
//! (2.42 to 3.14). `/api/v1/series` also knows of series that have a chunk but no sample in the time that is asked for.

use std::collections::HashSet;
use std::hash::Hasher;

use twox_hash::XxHash64;

use crate::limits;
use crate::prom::answers::TRUNCATED;
use crate::prom::listing::SeriesLabels;
use crate::prom::{Call, request};
use crate::store::batch::{Batcher, MessageSink};
use crate::store::query::Select;
use crate::store::quota::Counter;
use crate::store::series::SeriesShared;
use crate::store::sort::Sorter;
use crate::store::transcode::put_key;
use crate::store::wire;
use pillion_base::error::Result;
use pillion_base::labels::Labels;
use pillion_base::state::PromState;

/// How many times as many series are asked for when too few were left, and up to how many; then all.
const MORE: usize = 8;
const MORE_MAX: usize = 100_000;

/// Answers one call.
pub(super) fn labels_only<M: MessageSink + ?Sized>(
    select: &Select,
    state: &PromState,
    call: &Call,
    shared: &SeriesShared,
    counter: &mut Counter,
    mut batcher: Batcher<'_, M>,
) -> Result<()> {
    let limit = usize::try_from(select.limit).ok().filter(|limit| *limit > 0);
    // Prometheus would count series that fall out of the shard here.
    let mut asked = limit.filter(|_| select.shard.is_none());
    let mut reservation = shared.in_flight.reserve();
    let (sorter, warnings) = loop {
        let mut read = Reading::new(select, &state.external_labels, asked);
        let warnings = call.each_series("/api/v1/series", &read.params(), &mut |labels| {
            read.push(labels)?;
            if reservation.resize(read.sorter.held_bytes()) { Ok(()) } else { Err(reservation.refusal()) }
        })?;
        if !read.lacks_some(limit) {
            break (read.sorter, warnings);
        }
        asked = asked.map(|asked| asked.saturating_mul(MORE)).filter(|asked| *asked <= MORE_MAX);
    };
    let mut sorted = sorter.sorted()?;
    let mut n_wanted = limit.unwrap_or(usize::MAX);
    let mut last = Vec::new();
    while sorted.key().is_some() && n_wanted > 0 {
        sorted.next(|key, _| {
            // Of label sets that became equal only one is sent. The empty one has an empty key.
            if last == key && counter.n_series > 0 {
                return Ok(());
            }
            last.clear();
            last.extend_from_slice(key);
            n_wanted -= 1;
            counter.count(0)?;
            batcher.push(encoded_len(key), |out| encode(key, out))
        })?;
    }
    // Of a limit the proxy knows without being told, and it counts every warning as a series.
    for warning in warnings.iter().filter(|warning| *warning != TRUNCATED) {
        batcher.warn(warning)?;
    }
    batcher.flush()
}

/// One answer of Prometheus while it is read.
struct Reading<'a> {
    select: &'a Select,
    external: &'a Labels,
    /// How many series Prometheus was asked for, if not for all.
    asked: Option<usize>,
    n_read: usize,
    sorter: Sorter,
    /// Hashes of what was read, where only some were asked for.
    distinct: HashSet<u64>,
}

impl<'a> Reading<'a> {
    fn new(select: &'a Select, external: &'a Labels, asked: Option<usize>) -> Self {
        let sorter = Sorter::new(limits::SORT_BYTES_MAX, limits::SPILL_BYTES_MAX);
        Reading { select, external, asked, n_read: 0, sorter, distinct: HashSet::new() }
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        let mut params = vec![
            ("match[]", request::selector(&self.select.matchers)),
            ("start", request::seconds(self.select.mint_ms)),
            ("end", request::seconds(self.select.maxt_ms)),
        ];
        params.extend(self.asked.map(|asked| ("limit", asked.to_string())));
        params
    }

    fn push(&mut self, local: &SeriesLabels) -> Result<()> {
        self.n_read += 1;
        let labels = || overlaid(local, self.external, &self.select.without);
        if self.select.shard.as_ref().is_some_and(|shard| !shard.holds(labels())) {
            return Ok(());
        }
        if self.asked.is_some() {
            let mut hash = XxHash64::with_seed(0);
            for part in labels().flat_map(|(name, value)| [name, b"\xff", value, b"\xff"]) {
                hash.write(part);
            }
            self.distinct.insert(hash.finish());
        }
        // The key says all that there is to say.
        let key = |out: &mut Vec<u8>| {
            labels().for_each(|(name, value)| {
                put_key(name, out);
                put_key(value, out);
            });
        };
        self.sorter.push(key, |_| {})
    }

    /// Whether Prometheus has more than it was asked for, and too few are left of those, because some became equal.
    fn lacks_some(&self, limit: Option<usize>) -> bool {
        match (self.asked, limit) {
            // One that knows no limit gives more than it was asked for, which is all.
            (Some(asked), Some(limit)) => self.n_read == asked && self.distinct.len() < limit,
            _ => false,
        }
    }
}

/// The labels of a series with the external ones on top and without those that are dropped, by name.
fn overlaid<'a>(
    local: &'a SeriesLabels,
    external: &'a Labels,
    without: &'a [String],
) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    // An empty value is no label.
    let mut local = local.iter().filter(|(name, value)| !name.is_empty() && !value.is_empty()).peekable();
    let mut external = external.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).peekable();
    let mut next = move || match (local.peek(), external.peek()) {
        (Some(ours), Some(over)) if ours.0 < over.0 => local.next(),
        (Some(_), None) => local.next(),
        (Some(ours), Some(over)) => {
            if ours.0 == over.0 {
                local.next();
            }
            external.next()
        }
        (None, _) => external.next(),
    };
    std::iter::from_fn(move || {
        loop {
            let label = next()?;
            if !without.iter().any(|name| name.as_bytes() == label.0) {
                return Some(label);
            }
        }
    })
}

/// The strings of a key, names and values in turn, each with its bytes raised by one.
fn parts(key: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut parts = key.split(|byte| *byte == 0);
    std::iter::from_fn(move || Some((parts.next().filter(|name| !name.is_empty())?, parts.next()?)))
}

fn encoded_len(key: &[u8]) -> usize {
    parts(key).map(|(name, value)| wire::bytes_len(wire::bytes_len(name.len()) + wire::bytes_len(value.len()))).sum()
}

/// An encoded `Series` without chunks, from its key.
fn encode(key: &[u8], out: &mut Vec<u8>) {
    for (name, value) in parts(key) {
        wire::put_header(1, wire::bytes_len(name.len()) + wire::bytes_len(value.len()), out);
        for (field, text) in [(1, name), (2, value)] {
            wire::put_header(field, text.len(), out);
            out.extend(text.iter().map(|byte| byte.wrapping_sub(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prom::listing;
    use pillion_proto::thanos_types::Series;
    use protobuf::Message as _;

    /// The labels that leave, by way of the key.
    fn check(local: &str, without: &[&str], expected: &str) {
        let external = Labels::new([("b", "ext"), ("d", "ext")]);
        let without: Vec<String> = without.iter().map(ToString::to_string).collect();
        let body = format!("{{\"status\":\"success\",\"data\":[{local}]}}");
        let mut n_series = 0;
        listing::each_series(body.as_bytes(), &mut |labels| {
            let mut key = Vec::new();
            for (name, value) in overlaid(labels, &external, &without) {
                put_key(name, &mut key);
                put_key(value, &mut key);
            }
            let mut out = Vec::new();
            encode(&key, &mut out);
            assert_eq!(out.len(), encoded_len(&key));
            let series = Series::parse_from_bytes(&out).unwrap();
            let text: Vec<String> =
                series.labels.iter().map(|label| format!("{}={}", label.name, label.value)).collect();
            assert_eq!(text.join(" "), expected, "{local}");
            n_series += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(n_series, 1);
    }

    #[test]
    fn external_labels_are_set_on_top_and_dropped_ones_left_out() {
        check("{}", &[], "b=ext d=ext");
        check(r#"{"a":"1","c":"é","e":"5"}"#, &[], "a=1 b=ext c=é d=ext e=5");
        check(r#"{"a":"1","b":"local"}"#, &[], "a=1 b=ext d=ext");
        check(r#"{"z":"\u0000\u0001","b":"local"}"#, &["b"], "d=ext z=\u{0}\u{1}");
        check(r#"{"a":"1","x":"","":"y"}"#, &["d", "a", "b"], "");
    }
}
