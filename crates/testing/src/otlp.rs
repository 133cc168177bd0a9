//! Reads what is sent to an OpenTelemetry collector, and is strict: a field that the protocol does not have, or of another
//! type, is a fault. `Source:` opentelemetry-proto v1.10.

use std::collections::BTreeMap;

/// A span as it arrived, with what was said of its process.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub resource: BTreeMap<String, String>,
    pub scope: String,
    pub trace_id: String,
    pub span_id: String,
    /// Empty for the first span of a trace.
    pub parent: String,
    pub state: String,
    pub name: String,
    pub kind: u64,
    pub start_ns: u64,
    pub end_ns: u64,
    pub attributes: BTreeMap<String, String>,
    /// What the status says, if it is an error.
    pub error: Option<String>,
    pub flags: u32,
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn number(&self) -> u64 {
        match self {
            Value::Number(number) => *number,
            Value::Bytes(bytes) => panic!("a number was expected, not {bytes:?}"),
        }
    }

    fn bytes(&self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Number(number) => panic!("bytes were expected, not {number}"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).unwrap()
    }

    fn hex(&self, n_bytes: usize) -> String {
        assert_eq!(self.bytes().len(), n_bytes);
        self.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().expect("a varint ends");
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return number;
        }
    }
    panic!("a varint of more than ten bytes");
}

/// Field and type of the wire, then the value.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, Value<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let take = |bytes: &mut &[u8], n: usize| -> Vec<u8> {
            let (value, rest) = bytes.split_at(n);
            *bytes = rest;
            value.to_vec()
        };
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)),
            1 => Value::Number(u64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
            2 => {
                let n_bytes = usize::try_from(varint(&mut bytes)).unwrap();
                let (value, rest) = bytes.split_at(n_bytes);
                bytes = rest;
                Value::Bytes(value)
            }
            5 => Value::Number(u64::from(u32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap()))),
            other => panic!("type {other} of the wire"),
        };
        fields.push((key >> 3, key & 7, value));
    }
    fields
}

/// The spans of an `ExportTraceServiceRequest`.
pub fn spans(request: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for (field, wire, value) in fields(request) {
        assert_eq!((field, wire), (1, 2), "ExportTraceServiceRequest");
        let (mut resource, mut scopes) = (BTreeMap::new(), Vec::new());
        for (field, wire, value) in fields(value.bytes()) {
            match (field, wire) {
                (1, 2) => {
                    for (field, wire, value) in fields(value.bytes()) {
                        assert_eq!((field, wire), (1, 2), "Resource");
                        let (name, value) = attribute(value.bytes());
                        assert!(resource.insert(name, value).is_none(), "the same attribute twice");
                    }
                }
                (2, 2) => scopes.push(value.bytes()),
                other => panic!("ResourceSpans: {other:?}"),
            }
        }
        for scope in scopes {
            let (mut name, mut of_scope) = (String::new(), Vec::new());
            for (field, wire, value) in fields(scope) {
                match (field, wire) {
                    (1, 2) => {
                        for (field, wire, value) in fields(value.bytes()) {
                            assert!(matches!((field, wire), (1 | 2, 2)), "InstrumentationScope");
                            if field == 1 {
                                name = value.text();
                            }
                        }
                    }
                    (2, 2) => of_scope.push(value.bytes()),
                    other => panic!("ScopeSpans: {other:?}"),
                }
            }
            spans.extend(of_scope.into_iter().map(|bytes| span(bytes, resource.clone(), name.clone())));
        }
    }
    spans
}

fn attribute(bytes: &[u8]) -> (String, String) {
    let (mut key, mut text) = (String::new(), String::new());
    for (field, wire, value) in fields(bytes) {
        match (field, wire) {
            (1, 2) => key = value.text(),
            (2, 2) => {
                for (field, wire, value) in fields(value.bytes()) {
                    text = match (field, wire) {
                        (1, 2) => value.text(),
                        (2, 0) => (value.number() == 1).to_string(),
                        (3, 0) => value.number().to_string(),
                        other => panic!("AnyValue: {other:?}"),
                    };
                }
            }
            other => panic!("KeyValue: {other:?}"),
        }
    }
    assert!(!key.is_empty(), "an attribute without a name");
    (key, text)
}

fn span(bytes: &[u8], resource: BTreeMap<String, String>, scope: String) -> Span {
    let mut span = Span {
        resource,
        scope,
        trace_id: String::new(),
        span_id: String::new(),
        parent: String::new(),
        state: String::new(),
        name: String::new(),
        kind: 0,
        start_ns: 0,
        end_ns: 0,
        attributes: BTreeMap::new(),
        error: None,
        flags: 0,
    };
    for (field, wire, value) in fields(bytes) {
        match (field, wire) {
            (1, 2) => span.trace_id = value.hex(16),
            (2, 2) => span.span_id = value.hex(8),
            (3, 2) => span.state = value.text(),
            (4, 2) => span.parent = value.hex(8),
            (5, 2) => span.name = value.text(),
            (6, 0) => span.kind = value.number(),
            (7, 1) => span.start_ns = value.number(),
            (8, 1) => span.end_ns = value.number(),
            (9, 2) => {
                let (name, value) = attribute(value.bytes());
                assert!(span.attributes.insert(name, value).is_none(), "the same attribute twice");
            }
            (15, 2) => {
                let mut text = String::new();
                for (field, wire, value) in fields(value.bytes()) {
                    match (field, wire) {
                        (2, 2) => text = value.text(),
                        (3, 0) => assert_eq!(value.number(), 2, "only errors have a status"),
                        other => panic!("Status: {other:?}"),
                    }
                }
                span.error = Some(text);
            }
            (16, 5) => span.flags = u32::try_from(value.number()).unwrap(),
            other => panic!("Span: {other:?}"),
        }
    }
    assert!(!span.trace_id.is_empty() && !span.span_id.is_empty() && !span.name.is_empty(), "{span:?}");
    assert!(span.start_ns > 0 && span.start_ns <= span.end_ns, "{span:?}");
    span
}
