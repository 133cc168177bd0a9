//! The strings of an answer to a label call, written into its message while they arrive. They come in order from Prometheus;
//! should they not, they are sorted in the end. Pure.

use crate::limits;
use crate::store::wire;
use pillion_base::error::{Error, Kind, Result};

/// Names or values: field 1 of the message, of which 2 is the warnings.
pub(super) struct Strings {
    message: Vec<u8>,
    /// Where the last string begins.
    last: usize,
    n_strings: usize,
    limit: usize,
    is_sorted: bool,
}

impl Strings {
    /// Keeps the first `limit` in order, all without one.
    pub(super) fn new(limit: Option<usize>) -> Self {
        let limit = limit.unwrap_or(usize::MAX);
        Strings { message: Vec::new(), last: 0, n_strings: 0, limit, is_sorted: true }
    }

    /// Adds one.
    ///
    /// `Errors:` `Limit` for an answer that is too large to be held.
    pub(super) fn push(&mut self, text: &[u8]) -> Result<()> {
        if self.is_sorted && self.n_strings > 0 {
            let last = self.message.get(self.last..).unwrap_or_default();
            if last == text {
                return Ok(());
            }
            self.is_sorted = last < text;
            // What comes in order behind the last one wanted is not wanted, whatever comes later.
            if self.is_sorted && self.n_strings >= self.limit {
                return Ok(());
            }
        }
        wire::put_header(1, text.len(), &mut self.message);
        self.last = self.message.len();
        self.message.extend_from_slice(text);
        self.n_strings += 1;
        if self.message.len() > limits::JSON_BYTES_MAX {
            let text = format!("the answer is larger than {} bytes; ask for less", limits::JSON_BYTES_MAX);
            return Err(Error::new(Kind::Limit, text));
        }
        Ok(())
    }

    /// The message, with `extra` strings in their places, which do not count.
    pub(super) fn message(self, extra: &[&str], warnings: &[String]) -> Result<Vec<u8>> {
        let mut message = if self.is_sorted && extra.is_empty() { self.message } else { self.merged(extra)? };
        for warning in warnings {
            wire::put_header(2, warning.len(), &mut message);
            message.extend_from_slice(warning.as_bytes());
        }
        Ok(message)
    }

    fn merged(self, extra: &[&str]) -> Result<Vec<u8>> {
        let mut strings = Vec::with_capacity(self.n_strings + extra.len());
        let mut fields = wire::Fields::new(&self.message);
        while let Some((_, field)) = fields.next_field()? {
            strings.push(field.bytes()?);
        }
        if !self.is_sorted {
            strings.sort_unstable();
            strings.dedup();
            strings.truncate(self.limit);
        }
        strings.extend(extra.iter().map(|text| text.as_bytes()));
        strings.sort();
        strings.dedup();
        let mut message = Vec::with_capacity(self.message.len() + 64 * extra.len());
        for text in strings {
            wire::put_header(1, text.len(), &mut message);
            message.extend_from_slice(text);
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_proto::thanos_store::LabelNamesResponse;
    use protobuf::Message as _;

    #[test]
    fn strings_come_once_in_order_and_no_more_than_wanted() {
        let check = |texts: &[&str], limit: Option<usize>, extra: &[&str], expected: &[&str]| {
            let mut strings = Strings::new(limit);
            texts.iter().for_each(|text| strings.push(text.as_bytes()).unwrap());
            let message = strings.message(extra, &["careful".to_owned()]).unwrap();
            let answer = LabelNamesResponse::parse_from_bytes(&message).unwrap();
            assert_eq!(answer.names, expected, "{texts:?} {limit:?} {extra:?}");
            assert_eq!(answer.warnings, ["careful"]);
        };
        check(&[], None, &[], &[]);
        check(&["a", "b", "b", "c"], None, &[], &["a", "b", "c"]);
        check(&["", "a"], None, &[], &["", "a"]);
        check(&["a", "b", "c"], Some(2), &[], &["a", "b"]);
        check(&["a", "a", "b", "c"], Some(2), &[], &["a", "b"]);
        check(&["c", "a", "b", "a", "c"], None, &[], &["a", "b", "c"]);
        check(&["b", "c", "d", "a"], Some(2), &[], &["a", "b"]);
        check(&["b", "c", "d", "b", "a"], Some(3), &[], &["a", "b", "c"]);
        check(&["a", "c"], Some(2), &["b", "d"], &["a", "b", "c", "d"]);
        check(&["c", "a"], Some(1), &["a", "b"], &["a", "b"]);
    }
}
