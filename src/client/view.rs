//! What is shown of one series: its labels, its decoded samples, and a count of what is not decoded. Pure.

use std::collections::BTreeMap;

use pillion_base::error::{Context, Result};
use pillion_proto::thanos_types::chunk::Encoding;
use pillion_proto::thanos_types::{self, AggrChunk, Label};
use pillion_read::selector::selector_text;
use pillion_read::xor::{self, Sample};

/// Chunks that are counted only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// How many chunks.
    pub n_chunks: u64,
    /// How many samples they say they hold.
    pub n_samples: u64,
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
                None => self.count("downsampled", 0),
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
            Ok(Encoding::HISTOGRAM) => self.count("histogram", xor::n_samples(&raw.data)?),
            Ok(Encoding::FLOAT_HISTOGRAM) => self.count("float histogram", xor::n_samples(&raw.data)?),
            Err(number) => self.count(&format!("encoding {number}"), xor::n_samples(&raw.data)?),
        }
        Ok(())
    }

    fn count(&mut self, name: &str, n_samples: u16) {
        let counted = self.counted.entry(name.to_owned()).or_default();
        counted.n_chunks += 1;
        counted.n_samples += u64::from(n_samples);
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

    /// Samples of every kind.
    pub(crate) fn n_samples(&self) -> u64 {
        self.samples.len() as u64 + self.counted.values().map(|c| c.n_samples).sum::<u64>()
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
        assert_eq!((view.n_chunks, view.n_samples()), (2, 3));
    }

    #[test]
    fn what_is_not_decoded_is_counted() {
        let mut view = View::new(&[]);
        let chunks = [chunk(1, vec![0, 7, 9]), chunk(1, vec![1, 0]), chunk(2, vec![0, 1]), chunk(4, vec![0, 2])];
        view.add(&chunks, (0, 9)).unwrap();
        view.add(&[AggrChunk::default()], (0, 9)).unwrap();
        let counted: Vec<_> = view.counted.iter().map(|(k, c)| (k.as_str(), c.n_chunks, c.n_samples)).collect();
        let expected = [("downsampled", 1, 0), ("encoding 4", 1, 2), ("float histogram", 1, 1), ("histogram", 2, 263)];
        assert_eq!(counted, expected);
        assert_eq!(view.n_samples(), 266);
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
