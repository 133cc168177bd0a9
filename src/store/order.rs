//! Puts the series of one call in the StoreAPI's order. Pure.
//!
//! Prometheus sorts by its local labels; external labels set on top, and labels dropped, change the order. Here an answer is
//! held whole, under a byte cap, and sorted stably, so that the frames of one series stay in time order.

use crate::error::{Error, Kind, Result};

/// Holds encoded series until all are there.
pub struct Sorter {
    /// Keys and series one after the other.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    bytes_max: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    key: (usize, usize),
    series_end: usize,
}

impl Sorter {
    /// A sorter that refuses to hold more than `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Sorter { bytes: Vec::new(), entries: Vec::new(), bytes_max }
    }

    /// Holds one series.
    ///
    /// `Errors:` `Limit` past the cap.
    pub fn push(&mut self, key: &[u8], series: &[u8]) -> Result<()> {
        let start = self.bytes.len();
        let held = start + key.len() + series.len() + (self.entries.len() + 1) * size_of::<Entry>();
        if held > self.bytes_max {
            return Err(Error::new(
                Kind::Limit,
                format!(
                    "the answer needs more than {} bytes to be sorted; ask for fewer series or a shorter time",
                    self.bytes_max
                ),
            ));
        }
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(series);
        self.entries.push(Entry { key: (start, key_end), series_end: self.bytes.len() });
        Ok(())
    }

    /// Calls `each` with every series in order.
    pub fn drain(mut self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let bytes = &self.bytes;
        self.entries.sort_by(|a, b| bytes[a.key.0..a.key.1].cmp(&bytes[b.key.0..b.key.1]));
        self.entries.iter().try_for_each(|entry| each(&bytes[entry.key.1..entry.series_end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_stably() {
        let mut sorter = Sorter::new(10_000);
        for (key, series) in [("b", "1"), ("a", "2"), ("b", "3"), ("", "4"), ("ab", "5")] {
            sorter.push(key.as_bytes(), series.as_bytes()).unwrap();
        }
        let mut got = String::new();
        sorter
            .drain(|series| {
                got.push_str(std::str::from_utf8(series).unwrap());
                Ok(())
            })
            .unwrap();
        assert_eq!(got, "42513");
    }

    #[test]
    fn the_cap_is_an_error_that_says_what_to_do() {
        let mut sorter = Sorter::new(100);
        let err = (0..10).find_map(|_| sorter.push(b"0123456789", b"0123456789").err()).unwrap();
        assert_eq!(err.kind(), Kind::Limit);
        assert!(err.to_string().contains("more than 100 bytes"), "{err}");
    }
}
