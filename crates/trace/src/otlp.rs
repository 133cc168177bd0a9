//! OTLP's messages on the wire, as far as they are sent: written field by field, which is less than a generated copy of all
//! of them. `Source:` opentelemetry-proto v1.10, `trace.proto`, `common.proto`, `resource.proto`. Pure.

use crate::span::{Kind, SpanData, Value};

/// Types of the wire.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// Flags of a span: the caller of the parent is known to be another process, or this one.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
const ERROR: u64 = 2;

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or_default());
}

fn put_key(field: u32, wire: u32, out: &mut Vec<u8>) {
    put_varint(u64::from(field << 3 | wire), out);
}

fn put_number(field: u32, number: u64, out: &mut Vec<u8>) {
    put_key(field, VARINT, out);
    put_varint(number, out);
}

fn put_fixed64(field: u32, number: u64, out: &mut Vec<u8>) {
    put_key(field, FIXED64, out);
    out.extend(number.to_le_bytes());
}

fn put_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(field, BYTES, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A message within a message.
fn put_message(field: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut message = Vec::new();
    write(&mut message);
    put_bytes(field, &message, out);
}

/// `KeyValue`.
fn put_attribute(field: u32, key: &str, value: &Value, out: &mut Vec<u8>) {
    put_message(field, out, |pair| {
        put_bytes(1, key.as_bytes(), pair);
        put_message(2, pair, |any| match value {
            Value::Text(text) => put_bytes(1, text.as_bytes(), any),
            Value::Bool(is) => put_number(2, u64::from(*is), any),
            Value::Number(number) => put_number(3, *number, any),
        });
    });
}

/// `Resource`: what is said of this process.
pub(crate) fn resource(attributes: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in attributes {
        put_attribute(1, name, &Value::Text(value.clone()), &mut out);
    }
    out
}

/// `ExportTraceServiceRequest` with these spans of this resource.
pub(crate) fn request(resource: &[u8], spans: &[SpanData]) -> Vec<u8> {
    let mut out = Vec::new();
    put_message(1, &mut out, |resource_spans| {
        put_bytes(1, resource, resource_spans);
        put_message(2, resource_spans, |scope_spans| {
            put_message(1, scope_spans, |scope| {
                put_bytes(1, b"pillion", scope);
                put_bytes(2, env!("CARGO_PKG_VERSION").as_bytes(), scope);
            });
            for span in spans {
                put_message(2, scope_spans, |out| put_span(span, out));
            }
        });
    });
    out
}

fn put_span(span: &SpanData, out: &mut Vec<u8>) {
    put_bytes(1, span.context.trace_id.bytes(), out);
    put_bytes(2, span.context.span_id.bytes(), out);
    if let Some(state) = &span.context.state {
        put_bytes(3, state.as_bytes(), out);
    }
    if let Some(parent) = &span.parent {
        put_bytes(4, parent.bytes(), out);
    }
    put_bytes(5, span.name.as_bytes(), out);
    let kind = match span.kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
    };
    put_number(6, kind, out);
    put_fixed64(7, span.start_ns, out);
    put_fixed64(8, span.end_ns, out);
    for (key, value) in &span.attributes {
        put_attribute(9, key, value, out);
    }
    if let Some(error) = &span.error {
        put_message(15, out, |status| {
            put_bytes(2, error.as_bytes(), status);
            put_number(3, ERROR, status);
        });
    }
    let remote = if span.is_parent_remote { IS_REMOTE } else { 0 };
    put_key(16, FIXED32, out);
    out.extend((u32::from(span.context.is_sampled) | HAS_IS_REMOTE | remote).to_le_bytes());
}

/// What an answer says of spans that were not taken: how many, and why. An answer that is not understood says nothing.
pub(crate) fn rejected(reply: &[u8]) -> Option<(u64, String)> {
    let (mut n_spans, mut text) = (0, String::new());
    for (field, value) in Fields(reply) {
        let (1, Field::Bytes(partial)) = (field, value) else { continue };
        for (field, value) in Fields(partial) {
            match (field, value) {
                (1, Field::Number(number)) => n_spans = number,
                (2, Field::Bytes(bytes)) => text = String::from_utf8_lossy(bytes).into_owned(),
                _ => {}
            }
        }
    }
    (n_spans > 0 || !text.is_empty()).then_some((n_spans, text))
}

/// The fields of a message; ends at the first that cannot be read.
struct Fields<'a>(&'a [u8]);

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self, n: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(n).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Field<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.varint()?;
        let value = match u32::try_from(key & 7) {
            Ok(VARINT) => Field::Number(self.varint()?),
            Ok(FIXED64) => self.bytes(8).map(|_| Field::Other)?,
            Ok(BYTES) => {
                let n = self.varint()?;
                Field::Bytes(self.bytes(n)?)
            }
            Ok(FIXED32) => self.bytes(4).map(|_| Field::Other)?,
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let check = |reply: &[u8], expected: Option<(u64, &str)>| {
            let found = rejected(reply);
            assert_eq!(found.as_ref().map(|(n, text)| (*n, text.as_str())), expected, "{reply:?}");
        };
        check(&[], None);
        check(&[0x0a, 0x00], None);
        check(&[0x0a, 0x03, 0x08, 0x87, 0x01], Some((135, "")));
        check(&[0x0a, 0x06, 0x08, 0x02, 0x12, 0x02, b'n', b'o'], Some((2, "no")));
        check(&[0x0d, 1, 2, 3, 4, 0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x10, 5, 0x0a, 0x02, 0x08, 0x02], Some((2, "")));
        check(b"<html>", None);
        let whole = [0x0a, 0x06, 0x08, 0x02, 0x12, 0x02, b'n', b'o'];
        for idx in 0..whole.len() {
            check(&whole[..idx], None);
            let mut mangled = whole;
            for byte in [0x00, 0x7f, 0x80, 0xff] {
                mangled[idx] = byte;
                let found = rejected(&mangled);
                assert!(found.is_none_or(|(_, text)| text.len() <= whole.len()));
            }
        }
    }
}
