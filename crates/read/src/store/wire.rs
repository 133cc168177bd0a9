//! The little of protobuf's wire format that the hot path needs: walking the fields of a message and writing fields.
//! Pure.

use pillion_base::error::{Error, Kind, Result};

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire types 1 and 5, which nothing here reads.
    Fixed,
}

impl<'a> Field<'a> {
    /// The bytes of a length-delimited field.
    pub fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(corrupt("field has the wrong wire type")),
        }
    }

    /// The number of a varint field.
    pub fn varint(self) -> Result<u64> {
        match self {
            Field::Varint(value) => Ok(value),
            _ => Err(corrupt("field has the wrong wire type")),
        }
    }
}

/// Walks the fields of an encoded message in the order in which they stand.
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of `message`.
    pub fn new(message: &'a [u8]) -> Self {
        Fields { rest: message }
    }

    /// Bytes of the message that are left.
    pub(super) fn n_left(&self) -> usize {
        self.rest.len()
    }

    /// The next field's number and value; `None` at the end of the message.
    ///
    /// `Errors:` `Corrupt` for anything that is not protobuf.
    #[inline]
    pub fn next_field(&mut self) -> Result<Option<(u32, Field<'a>)>> {
        // Most fields have a tag of one byte and bytes behind it, fewer than 128.
        if let [tag, len, rest @ ..] = self.rest
            && *tag & 0x87 == 2
            && *tag > 7
            && *len < 0x80
            && let Some((head, rest)) = rest.split_at_checked(usize::from(*len))
        {
            self.rest = rest;
            return Ok(Some((u32::from(*tag >> 3), Field::Bytes(head))));
        }
        self.any_field()
    }

    fn any_field(&mut self) -> Result<Option<(u32, Field<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number =
            u32::try_from(tag >> 3).ok().filter(|n| *n > 0).ok_or_else(|| corrupt("field number is out of range"))?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => self.fixed(8)?,
            2 => {
                let len = self.varint()?;
                Field::Bytes(self.take(usize::try_from(len).unwrap_or(usize::MAX))?)
            }
            5 => self.fixed(4)?,
            _ => return Err(corrupt("wire type is unknown")),
        };
        Ok(Some((number, field)))
    }

    fn fixed(&mut self, n_bytes: usize) -> Result<Field<'a>> {
        self.take(n_bytes)?;
        Ok(Field::Fixed)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) =
            self.rest.split_at_checked(len).ok_or_else(|| corrupt("field is longer than its message"))?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64> {
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte < 0x80
        {
            self.rest = rest;
            return Ok(u64::from(byte));
        }
        let mut value = 0_u64;
        for (idx, &byte) in self.rest.iter().enumerate().take(10) {
            // The tenth byte carries one bit; higher ones are dropped, as protobuf libraries do.
            value |= u64::from(byte & 0x7f) << (7 * idx);
            if byte < 0x80 {
                self.rest = &self.rest[idx + 1..];
                return Ok(value);
            }
        }
        Err(corrupt("varint does not end"))
    }
}

/// How many bytes `value` takes as a varint.
#[inline]
fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends a varint.
#[inline]
#[allow(clippy::cast_possible_truncation)] // Seven bits at a time.
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends tag and length of a length-delimited field; its content follows. The field number must be below 16.
#[inline]
pub fn put_header(number: u8, len: usize, out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    put_varint(len as u64, out);
}

/// Appends a length-delimited field, or nothing when it is empty, as proto3 does.
#[inline]
pub fn put_bytes(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        put_header(number, bytes.len(), out);
        out.extend_from_slice(bytes);
    }
}

/// Appends a varint field, or nothing when it is 0.
#[inline]
pub fn put_number(number: u8, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        out.push(number << 3);
        put_varint(value, out);
    }
}

/// Bytes that [`put_bytes`] appends.
#[inline]
pub(super) fn bytes_len(len: usize) -> usize {
    if len == 0 { 0 } else { header_len(len) + len }
}

/// Bytes that [`put_header`] appends.
#[inline]
pub(super) fn header_len(len: usize) -> usize {
    1 + varint_len(len as u64)
}

/// Bytes that [`put_number`] appends.
#[inline]
pub(super) fn number_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

fn corrupt(text: &str) -> Error {
    Error::new(Kind::Corrupt, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_with_their_length() {
        for value in (0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]).chain([u64::MAX]) {
            let mut out = Vec::new();
            put_varint(value, &mut out);
            assert_eq!(out.len(), varint_len(value), "{value}");
            assert_eq!(Fields { rest: &out }.varint().unwrap(), value);
        }
    }

    #[test]
    fn fields_are_walked_and_garbage_is_refused() {
        let mut message = Vec::new();
        put_number(1, 300, &mut message);
        put_bytes(2, b"abc", &mut message);
        message.extend([3 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut fields = Fields::new(&message);
        assert_eq!(fields.next_field().unwrap(), Some((1, Field::Varint(300))));
        assert_eq!(fields.next_field().unwrap(), Some((2, Field::Bytes(b"abc"))));
        assert_eq!(fields.next_field().unwrap(), Some((3, Field::Fixed)));
        assert_eq!(fields.next_field().unwrap(), None);
        for bad in [&[0x80][..], &[0x0a, 5, 1], &[0x0b], &[0x00, 1], &[0xff; 11], &[0x09, 1]] {
            Fields::new(bad).next_field().expect_err(&format!("{bad:?}"));
        }
    }
}
