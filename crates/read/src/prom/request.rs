//! What is sent to Prometheus: API paths, query strings, selectors, the remote-read request. Pure.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use protobuf::{EnumOrUnknown, Message};

use pillion_base::matcher::{MatchType, Matcher};
use pillion_proto::prometheus_remote as remote;

/// The matchers as one PromQL selector: `{a="b", c=~"d.*"}`. Names that PromQL cannot spell bare are quoted.
pub fn selector(matchers: &[Matcher]) -> String {
    let mut out = String::from("{");
    for (idx, matcher) in matchers.iter().enumerate() {
        if idx > 0 {
            out.push_str(", ");
        }
        if is_plain_name(&matcher.name) {
            out.push_str(&matcher.name);
        } else {
            quote(&matcher.name, &mut out);
        }
        // Writing to a string cannot fail.
        let _ = write!(out, "{}", matcher.kind);
        quote(&matcher.value, &mut out);
    }
    out.push('}');
    out
}

/// Whether a label name needs no quotes: `[a-zA-Z_][a-zA-Z0-9_]*`.
fn is_plain_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A double-quoted PromQL string.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A time parameter: seconds with up to three decimals. `Units:` ms in.
pub(crate) fn seconds(ms: i64) -> String {
    let (whole, rest) = (ms / 1000, (ms % 1000).unsigned_abs());
    let sign = if ms < 0 && whole == 0 { "-" } else { "" };
    if rest == 0 {
        return format!("{sign}{whole}");
    }
    format!("{sign}{whole}.{rest:03}").trim_end_matches('0').to_owned()
}

/// Query parameters as `a=b&c=d`, percent-encoded, sorted by key as Go's `url.Values.Encode` does.
pub(crate) fn query_string(params: &[(&str, String)]) -> String {
    let mut sorted: Vec<_> = params.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    let mut out = String::new();
    for (key, value) in sorted {
        if !out.is_empty() {
            out.push('&');
        }
        escape(key, &mut out);
        out.push('=');
        escape(value, &mut out);
    }
    out
}

/// A label name as one path segment of `/api/v1/label/<name>/values`.
///
/// Names that PromQL can spell bare go as they are. Any other name is sent in Prometheus's `U__` escaping, so that a
/// name with `/`, `..` or a space cannot address another endpoint. `Source:` prometheus/common `EscapeName`,
/// `ValueEncodingEscaping`.
pub(crate) fn label_path_segment(name: &str) -> String {
    if is_plain_name(name) && !name.starts_with("U__") {
        return name.to_owned();
    }
    let mut out = String::from("U__");
    for (idx, c) in name.chars().enumerate() {
        match c {
            '_' => out.push_str("__"),
            c if c.is_ascii_alphabetic() || (c.is_ascii_digit() && idx > 0) => out.push(c),
            c => out.push_str(&format!("_{:x}_", u32::from(c))),
        }
    }
    out
}

/// As Go's `url.QueryEscape`.
fn escape(text: &str, out: &mut String) {
    /// A space is left, to become a `+`.
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');
    out.extend(utf8_percent_encode(text, ESCAPED).map(|part| part.replace(' ', "+")));
}

/// The body of a remote-read request, a snappy block of a `ReadRequest`. A streamed answer is preferred; a server that
/// cannot stream answers with samples.
pub fn read_request_body(mint_ms: i64, maxt_ms: i64, matchers: &[Matcher]) -> Vec<u8> {
    let query = remote::Query {
        start_timestamp_ms: mint_ms,
        end_timestamp_ms: maxt_ms,
        matchers: matchers
            .iter()
            .map(|m| remote::LabelMatcher {
                type_: EnumOrUnknown::new(remote_type(m.kind)),
                name: m.name.clone(),
                value: m.value.clone(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let request = remote::ReadRequest {
        queries: vec![query],
        accepted_response_types: vec![
            EnumOrUnknown::new(remote::read_request::ResponseType::STREAMED_XOR_CHUNKS),
            EnumOrUnknown::new(remote::read_request::ResponseType::SAMPLES),
        ],
        ..Default::default()
    };
    let plain = request.write_to_bytes().expect("writing a message to memory cannot fail");
    snap::raw::Encoder::new().compress_vec(&plain).expect("a request is far below snappy's 4 GiB")
}

fn remote_type(kind: MatchType) -> remote::label_matcher::Type {
    match kind {
        MatchType::Equal => remote::label_matcher::Type::EQ,
        MatchType::NotEqual => remote::label_matcher::Type::NEQ,
        MatchType::Regex => remote::label_matcher::Type::RE,
        MatchType::NotRegex => remote::label_matcher::Type::NRE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(kind: MatchType, name: &str, value: &str) -> Matcher {
        Matcher { kind, name: name.into(), value: value.into() }
    }

    #[test]
    fn selectors() {
        let check = |matchers: &[Matcher], expected: &str| assert_eq!(selector(matchers), expected);
        check(&[], "{}");
        check(&[matcher(MatchType::Equal, "a", "b"), matcher(MatchType::Regex, "c", "d.*")], r#"{a="b", c=~"d.*"}"#);
        check(&[matcher(MatchType::NotEqual, "a.b", "x\"y\\\n")], r#"{"a.b"!="x\"y\\\n"}"#);
        check(&[matcher(MatchType::NotRegex, "1a", "é")], r#"{"1a"!~"é"}"#);
    }

    #[test]
    fn times() {
        let check = |ms: i64, expected: &str| assert_eq!(seconds(ms), expected);
        check(0, "0");
        check(1_700_000_000_123, "1700000000.123");
        check(1_500, "1.5");
        check(-1, "-0.001");
        check(-62_167_219_200_000, "-62167219200");
        check(i64::MAX, "9223372036854775.807");
        check(i64::MIN, "-9223372036854775.808");
    }

    #[test]
    fn query_strings_are_sorted_and_escaped() {
        let params = [("start", "1".to_owned()), ("match[]", r#"{a="b c"}"#.to_owned())];
        assert_eq!(query_string(&params), "match%5B%5D=%7Ba%3D%22b+c%22%7D&start=1");
    }

    #[test]
    fn label_names_stay_one_path_segment() {
        let check = |name: &str, expected: &str| assert_eq!(label_path_segment(name), expected);
        check("job", "job");
        check("a/../b", "U__a_2f__2e__2e__2f_b");
        check("my.label_x", "U__my_2e_label__x");
        check("U__x", "U__U____x");
        check("1a", "U___31_a");
        check("é", "U___e9_");
    }

    #[test]
    fn the_read_body_is_a_snappy_block_of_the_request() {
        let body = read_request_body(-5, 7, &[matcher(MatchType::NotRegex, "n", "v")]);
        let plain = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
        let request = remote::ReadRequest::parse_from_bytes(&plain).unwrap();
        assert_eq!(request.queries[0].start_timestamp_ms, -5);
        assert_eq!(request.queries[0].matchers[0].type_.value(), 3);
        let accepted: Vec<_> = request.accepted_response_types.iter().map(EnumOrUnknown::value).collect();
        assert_eq!(accepted, [1, 0]);
    }
}
