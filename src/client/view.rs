//! What is shown of one series: its labels, its decoded samples, and a count of what is not decoded. Pure.

use std::collections::BTreeMap;

use pillion_base::error::{Context, Result};
use pillion_proto::thanos_types::chunk::Encoding;
use pillion_proto::thanos_types::{self, AggrChunk, Label};
use pillion_read::selector::selector_text;
use pillion_read::xor::{self, Sample};

/// Where the count is in a header whose upper two bits say something else.
const COUNT_MASK: u16 = 0x3fff;

/// Chunks that are counted only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    /// How many chunks.
    pub n_chunks: u64,
    /// How many samples they say they hold; `None` when one of them is of a kind whose header is not known.
    pub n_samples: Option<u64>,
}

/// One series, from as many messages as it came in.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// Name and value, in the order in which the store sent them.
    pub labels: Vec<(String, String)>,
    /// How many chunks came, of every kind.
    pub n_chunks: u64,
    /// Float samples within the asked range, by time, one per time.
    pub samples: Vec<Sample>,
    /// What is not decoded, by the encoding's name.
    pub counted: BTreeMap<String, Counted>,
}

impl View {
    /// A series without samples yet.
    pub(crate) fn new(labels: &[Label]) -> View {
        View { labels: labels.iter().map(|l| (l.name.clone(), l.value.clone())).collect(), ..View::default() }
    }

    /// Whether these labels are this series's.
    pub(crate) fn is_of(&self, labels: &[Label]) -> bool {
        self.labels.len() == labels.len()
            && self.labels.iter().zip(labels).all(|((name, value), l)| *name == l.name && *value == l.value)
    }

    /// Adds the chunks of one message; float samples outside `range_ms` (both ends included) are left out, because
    /// stores send whole chunks.
    ///
    /// `Errors:` `Corrupt`, with the series.
    pub(crate) fn add(&mut self, chunks: &[AggrChunk], range_ms: (i64, i64)) -> Result<()> {
        for chunk in chunks {
            self.n_chunks += 1;
            match chunk.raw.as_ref() {
                Some(raw) => self.add_raw(raw, range_ms).context(|| {
                    let span = format!("chunk {} to {}", chunk.min_time, chunk.max_time);
                    format!("decode {span} of series {}", selector_text(&self.labels))
                })?,
                // Each of its parts has one sample for each time.
                None => self.count("downsampled", chunk.count.as_ref().and_then(|c| xor::n_samples(&c.data).ok())),
            }
        }
        Ok(())
    }

    fn add_raw(&mut self, raw: &thanos_types::Chunk, (start_ms, end_ms): (i64, i64)) -> Result<()> {
        match raw.type_.enum_value() {
            Ok(Encoding::XOR) => {
                let mut samples = Vec::new();
                xor::decode(&raw.data, &mut samples)?;
                self.samples.extend(samples.into_iter().filter(|s| start_ms <= s.time_ms && s.time_ms <= end_ms));
            }
            Ok(Encoding::HISTOGRAM) => self.count("histogram", Some(xor::n_samples(&raw.data)?)),
            Ok(Encoding::FLOAT_HISTOGRAM) => self.count("float histogram", Some(xor::n_samples(&raw.data)?)),
            // The StoreAPI has no such numbers. Thanos makes them of Prometheus's newer encodings, by subtracting one.
            Err(3) => self.count("XOR2", Some(xor::n_samples(&raw.data)?)),
            Err(4) => self.count("histogram with start timestamps", Some(xor::n_samples(&raw.data)? & COUNT_MASK)),
            Err(5) => {
                self.count("float histogram with start timestamps", Some(xor::n_samples(&raw.data)? & COUNT_MASK))
            }
            Err(number) => self.count(&format!("encoding {number}"), None),
        }
        Ok(())
    }

    fn count(&mut self, name: &str, n_samples: Option<u16>) {
        let none = Counted { n_chunks: 0, n_samples: Some(0) };
        let counted = self.counted.entry(name.to_owned()).or_insert(none);
        counted.n_chunks += 1;
        counted.n_samples = counted.n_samples.zip(n_samples).map(|(sum, n)| sum + u64::from(n));
    }

    /// Puts the samples in order; call it after the last `add`. Stores may send overlapping chunks (a block and the
    /// head, or two replicas): of two samples of one time the first that came stays.
    pub(crate) fn finish(&mut self) {
        if self.samples.windows(2).all(|pair| matches!(pair, [a, b] if a.time_ms < b.time_ms)) {
            return;
        }
        self.samples.sort_by_key(|sample| sample.time_ms);
        self.samples.dedup_by_key(|sample| sample.time_ms);
    }

    /// Samples of every kind; `None` where some cannot be counted.
    pub(crate) fn n_samples(&self) -> Option<u64> {
        self.counted.values().try_fold(self.samples.len() as u64, |sum, counted| Some(sum + counted.n_samples?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_read::xor::Encoder;
    use protobuf::EnumOrUnknown;

    fn chunk(encoding: i32, data: Vec<u8>) -> AggrChunk {
        let raw = thanos_types::Chunk { type_: EnumOrUnknown::from_i32(encoding), data, ..Default::default() };
        AggrChunk { raw: Some(raw).into(), ..Default::default() }
    }

    fn encode(samples: &[(i64, f64)]) -> Vec<u8> {
        let mut encoder = Encoder::default();
        samples.iter().for_each(|(time_ms, value)| encoder.push(*time_ms, *value).unwrap());
        encoder.finish().to_vec()
    }

    fn label(name: &str, value: &str) -> Label {
        Label { name: name.into(), value: value.into(), ..Default::default() }
    }

    #[test]
    fn samples_outside_the_range_are_left_out() {
        let mut view = View::new(&[label("a", "1")]);
        view.add(&[chunk(0, encode(&[(1, 1.0), (2, 2.0), (3, 3.0)]))], (2, 2)).unwrap();
        view.finish();
        assert_eq!(view.samples.iter().map(|s| s.time_ms).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn overlapping_chunks_are_merged() {
        let mut view = View::new(&[]);
        let (first, second) = (encode(&[(1, 1.0), (4, 4.0)]), encode(&[(2, 2.0), (4, 5.0)]));
        view.add(&[chunk(0, first)], (0, 9)).unwrap();
        view.add(&[chunk(0, second)], (0, 9)).unwrap();
        view.finish();
        assert_eq!(
            view.samples.iter().map(|s| (s.time_ms, s.value)).collect::<Vec<_>>(),
            [(1, 1.0), (2, 2.0), (4, 4.0)]
        );
        assert_eq!((view.n_chunks, view.n_samples()), (2, Some(3)));
    }

    #[test]
    fn what_is_not_decoded_is_counted() {
        let mut view = View::new(&[]);
        let chunks = [chunk(1, vec![0, 7, 9]), chunk(1, vec![1, 0]), chunk(2, vec![0, 1]), chunk(3, vec![0xc0, 2])];
        view.add(&chunks, (0, 9)).unwrap();
        view.add(&[chunk(4, vec![0xc0, 2]), chunk(5, vec![0x41, 0])], (0, 9)).unwrap();
        let downsampled = AggrChunk { count: chunk(0, vec![0, 5]).raw, ..Default::default() };
        view.add(&[downsampled], (0, 9)).unwrap();
        let counted = |view: &View| -> Vec<(String, u64, Option<u64>)> {
            view.counted.iter().map(|(k, c)| (k.clone(), c.n_chunks, c.n_samples)).collect()
        };
        let expected = [
            ("XOR2", 1, Some(0xc002)),
            ("downsampled", 1, Some(5)),
            ("float histogram", 1, Some(1)),
            ("float histogram with start timestamps", 1, Some(256)),
            ("histogram", 2, Some(263)),
            ("histogram with start timestamps", 1, Some(2)),
        ];
        assert_eq!(counted(&view), expected.map(|(name, chunks, samples)| (name.to_owned(), chunks, samples)));
        assert_eq!(view.n_samples(), Some(0xc002 + 5 + 1 + 256 + 263 + 2));
        // Not even a count is known: no header is looked at.
        view.add(&[chunk(6, vec![]), chunk(6, vec![0, 9]), AggrChunk::default()], (0, 9)).unwrap();
        let counted = counted(&view);
        assert!(counted.contains(&("encoding 6".to_owned(), 2, None)), "{counted:?}");
        assert!(counted.contains(&("downsampled".to_owned(), 2, None)), "{counted:?}");
        assert_eq!(view.n_samples(), None);
    }

    #[test]
    fn a_corrupt_chunk_names_its_series() {
        let mut view = View::new(&[label("__name__", "up"), label("job", "x")]);
        let err = view.add(&[chunk(0, vec![0, 5, 1])], (0, 9)).unwrap_err();
        assert!(err.to_string().contains(r#"of series up{job="x"}"#), "{err}");
    }

    #[test]
    fn labels_are_compared_whole() {
        let view = View::new(&[label("a", "1")]);
        assert!(view.is_of(&[label("a", "1")]));
        assert!(!view.is_of(&[label("a", "2")]));
        assert!(!view.is_of(&[label("a", "1"), label("b", "2")]));
    }
}
