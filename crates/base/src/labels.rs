//! A label set sorted by name: merge, drop, compare. Pure.

use std::cmp::Ordering;
use std::fmt;

/// Labels sorted by name, each name once, no empty values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels(Vec<(String, String)>);

impl Labels {
    /// Sorts the pairs by name. The last value of a repeated name wins; an empty value means that the label is absent.
    pub fn new<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut all: Vec<(String, String)> = pairs.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut out: Vec<(String, String)> = Vec::with_capacity(all.len());
        for pair in all {
            match out.last_mut() {
                Some(last) if last.0 == pair.0 => *last = pair,
                _ => out.push(pair),
            }
        }
        out.retain(|(_, value)| !value.is_empty());
        Labels(out)
    }

    /// The value of `name`, if the label is there.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok().map(|idx| self.0[idx].1.as_str())
    }

    /// Whether there is no label at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Name and value of each label, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// These labels with every label of `over` set on top.
    pub fn overlaid(&self, over: &Labels) -> Labels {
        Labels::new(self.iter().chain(over.iter()))
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Pairwise by name, then value, bytewise; a set that is a prefix of another comes first.
/// `Source:` prometheus model/labels `Compare`.
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

/// `{a="1", b="2"}`, as Prometheus prints a label set.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (idx, (name, value)) in self.iter().enumerate() {
            if idx > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{name}={value:?}")?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_unique_and_without_empty_values() {
        let labels = Labels::new([("b", "2"), ("a", "1"), ("b", "3"), ("c", "")]);
        assert_eq!(labels.to_string(), r#"{a="1", b="3"}"#);
        assert_eq!(labels.value("b"), Some("3"));
        assert_eq!(labels.value("c"), None);
    }

    #[test]
    fn external_labels_win() {
        let merged = Labels::new([("job", "x"), ("region", "local")]).overlaid(&Labels::new([("region", "eu")]));
        assert_eq!(merged.to_string(), r#"{job="x", region="eu"}"#);
    }

    #[test]
    fn a_prefix_sorts_first() {
        assert!(Labels::new([("a", "1")]) < Labels::new([("a", "1"), ("b", "2")]));
        assert!(Labels::new([("a", "1"), ("b", "2")]) < Labels::new([("a", "1"), ("c", "0")]));
        assert!(Labels::new([("a", "1"), ("z", "2")]) < Labels::new([("a", "2")]));
    }
}
