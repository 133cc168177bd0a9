//! Reads and writes the messages of the services beside the store, from a table of their fields and not from the code
//! that is tested: a field with a wrong number is found. Pure.

use pillion_base::matcher::{MatchType, Matcher};

/// `Message: number name type, …`; `*` after a type is repeated, `map` is a map from text to a message.
/// `Source:` Thanos's public proto files.
const MESSAGES: &str = "\
RulesRequest: 1 type int
RulesResponse: 1 group RuleGroup, 2 warning string
RuleGroup: 1 name string, 2 file string, 3 rules Rule*, 4 interval double, 5 evaluation_duration_seconds double, \
6 last_evaluation Timestamp, 8 strategy Strategy, 9 limit int
Rule: 1 recording RecordingRule, 2 alert Alert
RecordingRule: 1 name string, 2 query string, 3 labels ZLabelSet, 4 health string, 5 last_error string, \
6 evaluation_duration_seconds double, 7 last_evaluation Timestamp
Alert: 1 state AlertState, 2 name string, 3 query string, 4 duration_seconds double, 5 labels ZLabelSet, \
6 annotations ZLabelSet, 7 alerts AlertInstance*, 8 health string, 9 last_error string, \
10 evaluation_duration_seconds double, 11 last_evaluation Timestamp, 12 keep_firing_for_seconds double
AlertInstance: 1 labels ZLabelSet, 2 annotations ZLabelSet, 3 state AlertState, 4 active_at Timestamp, 5 value string, \
6 strategy Strategy
TargetsRequest: 1 state int
TargetsResponse: 1 targets TargetDiscovery, 2 warning string
TargetDiscovery: 1 active ActiveTarget*, 2 dropped DroppedTarget*
ActiveTarget: 1 discovered ZLabelSet, 2 labels ZLabelSet, 3 pool string, 4 scrape_url string, 5 global_url string, \
6 last_error string, 7 last_scrape Timestamp, 8 last_scrape_duration double, 9 health TargetHealth
DroppedTarget: 1 discovered ZLabelSet
MetricMetadataRequest: 1 metric string, 2 limit int
MetricMetadataResponse: 1 metadata MetricMetadata, 2 warning string
MetricMetadata: 1 metadata map MetricMetadataEntry
MetricMetadataEntry: 2 metas Meta*
Meta: 1 type string, 2 help string, 3 unit string
ExemplarsRequest: 1 query string, 2 start int, 3 end int
ExemplarsResponse: 1 data ExemplarData, 2 warning string
ExemplarData: 1 series_labels ZLabelSet, 2 exemplars Exemplar*
Exemplar: 1 labels ZLabelSet, 2 value double, 3 ts int
TSDBStatisticsRequest: 1 tenant string, 2 limit int, 4 matchers LabelMatcher*
TSDBStatisticsResponse: 1 statistics TSDBStatistics, 2 warning string
TSDBStatistics: 1 statistics map TSDBStatisticsEntry
TSDBStatisticsEntry: 1 head HeadStatistics, 2 series_count_by_metric_name Statistic*, \
3 label_value_count_by_label_name Statistic*, 4 memory_in_bytes_by_label_name Statistic*, \
5 series_count_by_label_value_pair Statistic*
HeadStatistics: 1 num_series int, 2 num_label_pairs int, 3 chunk_count int, 4 min_time int, 5 max_time int
Statistic: 1 name string, 2 value int";

const ENUMS: [(&str, &[&str]); 3] = [
    ("Strategy", &["WARN", "ABORT"]),
    ("AlertState", &["UNKNOWN", "INACTIVE", "PENDING", "FIRING"]),
    ("TargetHealth", &["DOWN", "UP", "UNKNOWN"]),
];

/// The methods: what is sent and what comes back, as a stream.
pub const METHODS: [(&str, &str); 5] = [
    ("Rules", "/thanos.Rules/Rules"),
    ("Targets", "/thanos.Targets/Targets"),
    ("MetricMetadata", "/thanos.Metadata/MetricMetadata"),
    ("Exemplars", "/thanos.Exemplars/Exemplars"),
    ("TSDBStatistics", "/thanos.Status/TSDBStatistics"),
];

struct Field {
    number: u64,
    name: &'static str,
    kind: &'static str,
}

fn fields(message: &str) -> Option<Vec<Field>> {
    let (_, list) = MESSAGES.lines().filter_map(|line| line.split_once(": ")).find(|(name, _)| *name == message)?;
    let field = |text: &'static str| {
        let mut words = text.trim().splitn(3, ' ');
        Some(Field { number: words.next()?.parse().ok()?, name: words.next()?, kind: words.next()? })
    };
    list.split(',').map(field).collect()
}

/// A request with these fields, `name=value` each.
pub fn request(method: &str, values: &[(String, String)], matchers: &[Matcher]) -> Result<Vec<u8>, String> {
    let fields = fields(&format!("{method}Request")).ok_or_else(|| format!("there is no call {method}"))?;
    let mut out = Vec::new();
    for (name, value) in values {
        let field = fields.iter().find(|field| field.name == name).ok_or_else(|| format!("{method} has no {name}"))?;
        if field.kind == "string" {
            put_bytes(field.number, value.as_bytes(), &mut out);
        } else {
            let number: i64 = value.parse().map_err(|_| format!("{value} is no number"))?;
            put_varint(field.number << 3, &mut out);
            put_varint(number.cast_unsigned(), &mut out);
        }
    }
    for matcher in matchers {
        let field = fields.iter().find(|field| field.kind == "LabelMatcher*").ok_or("this call has no matchers")?;
        let mut message = Vec::new();
        let kind = match matcher.kind {
            MatchType::Equal => 0,
            MatchType::NotEqual => 1,
            MatchType::Regex => 2,
            MatchType::NotRegex => 3,
        };
        put_varint(1 << 3, &mut message);
        put_varint(kind, &mut message);
        put_bytes(2, matcher.name.as_bytes(), &mut message);
        put_bytes(3, matcher.value.as_bytes(), &mut message);
        put_bytes(field.number, &message, &mut out);
    }
    Ok(out)
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_bytes(number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(number << 3 | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Adds what a response says to `lines`, a line per message with its simple fields, or to `warnings`.
pub fn show(method: &str, bytes: &[u8], lines: &mut Vec<String>, warnings: &mut Vec<String>) -> Result<(), String> {
    let message = format!("{method}Response");
    for (number, value) in decode(bytes)? {
        match (number, value) {
            (2, Value::Bytes(text)) => warnings.push(String::from_utf8_lossy(text).into_owned()),
            (1, Value::Bytes(inner)) => {
                let field = fields(&message).and_then(|mut fields| (!fields.is_empty()).then(|| fields.remove(0)));
                let field = field.ok_or_else(|| format!("there is no {message}"))?;
                show_message(field.name, field.kind, inner, lines)?;
            }
            _ => return Err(format!("{message} has an unknown field {number}")),
        }
    }
    Ok(())
}

fn show_message(path: &str, kind: &str, bytes: &[u8], lines: &mut Vec<String>) -> Result<(), String> {
    let fields = fields(kind).ok_or_else(|| format!("there is no message {kind}"))?;
    let mut line = path.to_owned();
    let (mut below, mut maps) = (Vec::new(), Vec::new());
    let mut values = decode(bytes)?;
    values.sort_by_key(|(number, _)| *number);
    for (number, value) in values {
        let field = fields.iter().find(|field| field.number == number);
        let Field { name, kind, .. } = field.ok_or_else(|| format!("{kind} has no field {number}"))?;
        let kind = kind.trim_end_matches('*');
        let shown = match (kind, value) {
            ("string", Value::Bytes(text)) => format!("{:?}", String::from_utf8_lossy(text)),
            ("int", Value::Varint(value)) => value.cast_signed().to_string(),
            ("double", Value::Fixed(bits)) => f64::from_bits(bits).to_string(),
            ("ZLabelSet", Value::Bytes(set)) => label_set(set)?,
            ("Timestamp", Value::Bytes(time)) => timestamp(time)?,
            (kind, Value::Varint(value)) => {
                let names = ENUMS.iter().find(|(name, _)| *name == kind).map(|(_, names)| *names).unwrap_or_default();
                let shown = usize::try_from(value).ok().and_then(|value| names.get(value));
                (*shown.ok_or_else(|| format!("{kind} has no {value}"))?).to_owned()
            }
            (kind, Value::Bytes(inner)) => {
                match kind.strip_prefix("map ") {
                    Some(kind) => maps.push((map_key(inner)?, format!("{path}.{name}"), kind, map_value(inner)?)),
                    None => show_message(&format!("{path}.{name}"), kind, inner, &mut below)?,
                }
                continue;
            }
            (kind, value) => return Err(format!("{name} is no {kind}: {value:?}")),
        };
        line.push_str(&format!(" {name}={shown}"));
    }
    // A map has no order on the wire.
    maps.sort();
    for (key, path, kind, inner) in maps {
        show_message(&format!("{path}[{key:?}]"), kind, inner, &mut below)?;
    }
    lines.push(line);
    lines.append(&mut below);
    Ok(())
}

fn map_key(entry: &[u8]) -> Result<String, String> {
    Ok(String::from_utf8_lossy(bytes_of(entry, 1)?).into_owned())
}

fn map_value(entry: &[u8]) -> Result<&[u8], String> {
    bytes_of(entry, 2)
}

/// The bytes of one field; none is empty.
fn bytes_of(message: &[u8], wanted: u64) -> Result<&[u8], String> {
    let mut found: &[u8] = &[];
    for (number, value) in decode(message)? {
        match value {
            Value::Bytes(bytes) if number == wanted => found = bytes,
            _ => {}
        }
    }
    Ok(found)
}

/// In the order in which they came: it is part of the answer.
fn label_set(set: &[u8]) -> Result<String, String> {
    let mut pairs = Vec::new();
    for (_, value) in decode(set)? {
        let Value::Bytes(label) = value else { return Err("a label set has a number".into()) };
        let text = |number| bytes_of(label, number).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        pairs.push(format!("{}={:?}", text(1)?, text(2)?));
    }
    Ok(format!("{{{}}}", pairs.join(", ")))
}

fn timestamp(time: &[u8]) -> Result<String, String> {
    let (mut seconds, mut nanos) = (0, 0);
    for (number, value) in decode(time)? {
        match (number, value) {
            (1, Value::Varint(value)) => seconds = value.cast_signed(),
            (2, Value::Varint(value)) => nanos = value,
            _ => return Err(format!("a time has no field {number}")),
        }
    }
    // The year 1 is Go's time that was never set.
    Ok(if (seconds, nanos) == (-62_135_596_800, 0) { "never".into() } else { format!("{seconds}.{nanos:09}") })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Value<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message in the order in which they came.
fn decode(mut bytes: &[u8]) -> Result<Vec<(u64, Value<'_>)>, String> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => {
                let (fixed, rest) = bytes.split_first_chunk().ok_or("a number is cut off")?;
                bytes = rest;
                Value::Fixed(u64::from_le_bytes(*fixed))
            }
            2 => {
                let n_bytes = usize::try_from(varint(&mut bytes)?).map_err(|_| "a length is too long")?;
                let (inner, rest) = bytes.split_at_checked(n_bytes).ok_or("a field is cut off")?;
                bytes = rest;
                Value::Bytes(inner)
            }
            other => return Err(format!("wire type {other}")),
        };
        all.push((key >> 3, value));
    }
    Ok(all)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or("a number is cut off")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Ok(value);
        }
    }
    Err("a number is too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fields: &[(u64, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, bytes) in fields {
            put_bytes(*number, bytes, &mut out);
        }
        out
    }

    fn lines(method: &str, bytes: &[u8]) -> Vec<String> {
        let (mut lines, mut warnings) = (vec![], vec![]);
        show(method, bytes, &mut lines, &mut warnings).unwrap();
        lines.extend(warnings.into_iter().map(|warning| format!("warning {warning}")));
        lines
    }

    #[test]
    fn messages_are_shown_a_line_each() {
        let labels = message(&[(1, &message(&[(1, b"a"), (2, b"b")]))]);
        let mut never = vec![8];
        put_varint((-62_135_596_800_i64).cast_unsigned(), &mut never);
        let recording = message(&[(1, b"r"), (3, &labels), (7, &never)]);
        let mut group = message(&[(1, b"g"), (3, &message(&[(1, &recording)])), (6, &[8, 5, 16, 7])]);
        group.extend([0x40, 1]);
        let expected = [
            r#"group name="g" last_evaluation=5.000000007 strategy=ABORT"#,
            "group.rules",
            r#"group.rules.recording name="r" labels={a="b"} last_evaluation=never"#,
        ];
        assert_eq!(lines("Rules", &message(&[(1, &group)])), expected);
        assert_eq!(lines("Rules", &message(&[(2, b"w")])), ["warning w"]);
    }

    #[test]
    fn maps_are_shown_by_key_and_an_empty_one_is_seen() {
        let entry = |key: &[u8]| message(&[(1, key), (2, &message(&[(2, &message(&[(1, b"gauge")]))]))]);
        let metadata = message(&[(1, &entry(b"b")), (1, &entry(b"a"))]);
        let expected = [
            "metadata",
            r#"metadata.metadata["a"]"#,
            r#"metadata.metadata["a"].metas type="gauge""#,
            r#"metadata.metadata["b"]"#,
            r#"metadata.metadata["b"].metas type="gauge""#,
        ];
        assert_eq!(lines("MetricMetadata", &message(&[(1, &metadata)])), expected);
        assert_eq!(lines("MetricMetadata", &message(&[(1, b"")])), ["metadata"]);
    }

    #[test]
    fn wrong_messages_are_errors() {
        let err = |bytes: &[u8]| show("MetricMetadata", bytes, &mut vec![], &mut vec![]).unwrap_err();
        assert_eq!(err(&message(&[(3, b"")])), "MetricMetadataResponse has an unknown field 3");
        assert_eq!(err(&message(&[(1, &[8, 1])])), "map MetricMetadataEntry has no 1");
        assert_eq!(err(&[10, 5, 1]), "a field is cut off");
    }

    #[test]
    fn every_message_of_the_table_can_be_read() {
        for line in MESSAGES.lines() {
            let (name, _) = line.split_once(": ").unwrap();
            assert!(fields(name).is_some_and(|fields| !fields.is_empty()), "{line}");
        }
    }
}
