//! Trace ids beside the buckets of histograms: which call was that slow one? The last of each bucket is kept. Pure.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::proto::LabelPair;

/// One observed value with the trace that it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exemplar {
    /// In hexadecimal digits.
    pub(crate) trace_id: String,
    /// The value that was observed.
    pub(crate) value: f64,
    /// When that was, in seconds since 1970.
    pub(crate) at_s: f64,
}

/// A histogram's name, then names and values of its labels in the order of the page.
type Key = Vec<String>;

/// The last exemplar of each bucket. Empty, and never looked at by calls, while nothing is traced.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exemplars(Arc<Mutex<BTreeMap<Key, Vec<Option<Exemplar>>>>>);

impl Exemplars {
    /// Keeps an exemplar in the bucket that its value falls into. `bounds`: those of the histogram, without infinity.
    pub(crate) fn put(&self, name: &str, labels: &[(&str, &str)], bounds: &[f64], exemplar: Exemplar) {
        let mut labels = labels.to_vec();
        labels.sort_unstable();
        let bucket = bounds.iter().position(|bound| exemplar.value <= *bound).unwrap_or(bounds.len());
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_labels = kept.entry(key(name, labels.into_iter())).or_insert_with(|| vec![None; bounds.len() + 1]);
        if let Some(place) = of_labels.get_mut(bucket) {
            *place = Some(exemplar);
        }
    }

    /// Those of one histogram, one place for each bucket; nothing where there is none.
    pub(super) fn of(&self, name: &str, labels: &[LabelPair]) -> Vec<Option<Exemplar>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_empty() {
            return Vec::new();
        }
        kept.get(&key(name, labels.iter().map(|label| (label.name(), label.value())))).cloned().unwrap_or_default()
    }
}

fn key<'a>(name: &str, labels: impl Iterator<Item = (&'a str, &'a str)>) -> Key {
    let labels = labels.flat_map(|(name, value)| [name.to_owned(), value.to_owned()]);
    std::iter::once(name.to_owned()).chain(labels).collect()
}
