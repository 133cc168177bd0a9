//! JSON that keeps members in their order and numbers in their spelling. Pure.
//!
//! meta.json passes through here on its way into the bucket. A typed decoder would lose unknown members, and a number
//! type would respell `1e3` or a 20-digit integer. Texts of errors and the spelling of the output are those of Go's
//! `encoding/json`, because Thanos writes the same files.

use std::fmt::Write;

use pillion_base::error::{Error, Kind, Result};

/// How deep arrays and objects may be nested; a meta.json needs five.
const DEPTH_MAX: usize = 64;

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number as it was spelt.
    Number(String),
    /// A string, unescaped.
    Text(String),
    /// An array.
    Array(Vec<Json>),
    /// An object, members in their order.
    Object(Object),
}

/// The members of an object in their order.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Object(pub(crate) Vec<(String, Json)>);

impl Object {
    /// The value of a member.
    pub(crate) fn value(&self, key: &str) -> Option<&Json> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Takes a member out.
    pub(crate) fn take(&mut self, key: &str) -> Option<Json> {
        let idx = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(idx).1)
    }

    /// Replaces a member where it stands, or adds it at the end.
    pub(crate) fn set(&mut self, key: &str, value: Json) {
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some(member) => member.1 = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }
}

impl Json {
    /// A text value.
    pub(crate) fn text(text: impl Into<String>) -> Json {
        Json::Text(text.into())
    }

    /// A number value.
    pub(crate) fn number(number: impl ToString) -> Json {
        Json::Number(number.to_string())
    }

    /// What Go's `omitempty` leaves out: null, false, zero, and an empty text, array or object.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Json::Null => true,
            Json::Bool(value) => !value,
            Json::Number(number) => number.parse::<f64>() == Ok(0.0),
            Json::Text(text) => text.is_empty(),
            Json::Array(items) => items.is_empty(),
            Json::Object(object) => object.0.is_empty(),
        }
    }

    /// Sorts the members of every object inside, as Go does when it writes a map.
    pub(crate) fn sort_members(&mut self) {
        match self {
            Json::Array(items) => items.iter_mut().for_each(Json::sort_members),
            Json::Object(object) => {
                object.0.sort_by(|a, b| a.0.cmp(&b.0));
                object.0.iter_mut().for_each(|(_, value)| value.sort_members());
            }
            _ => {}
        }
    }
}

/// Reads one JSON value. Invalid UTF-8 becomes U+FFFD, and the last value of a repeated member counts, as in Go.
pub(crate) fn parse(bytes: &[u8]) -> Result<Json> {
    let text = String::from_utf8_lossy(bytes);
    let mut parser = Parser { rest: &text, depth: 0 };
    let value = parser.value()?;
    parser.space();
    match parser.rest.chars().next() {
        None => Ok(value),
        Some(c) => Err(invalid(c, "after top-level value")),
    }
}

fn truncated() -> Error {
    Error::new(Kind::Corrupt, "unexpected end of JSON input")
}

fn invalid(c: char, place: &str) -> Error {
    Error::new(Kind::Corrupt, format!("invalid character {c:?} {place}"))
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    /// The next character after white space, not consumed.
    fn peek(&mut self) -> Result<char> {
        self.space();
        self.rest.chars().next().ok_or_else(truncated)
    }

    fn skip(&mut self, c: char) {
        self.rest = self.rest.strip_prefix(c).unwrap_or(self.rest);
    }

    fn expect(&mut self, c: char, place: &str) -> Result<()> {
        match self.peek()? {
            found if found == c => {
                self.skip(c);
                Ok(())
            }
            found => Err(invalid(found, place)),
        }
    }

    fn value(&mut self) -> Result<Json> {
        match self.peek()? {
            '{' => self.nested('{', Parser::object),
            '[' => self.nested('[', Parser::array),
            '"' => self.text().map(Json::Text),
            '-' | '0'..='9' => self.number(),
            found => {
                for (word, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))] {
                    if let Some(rest) = self.rest.strip_prefix(word) {
                        self.rest = rest;
                        return Ok(value);
                    }
                    if word.starts_with(self.rest) {
                        return Err(truncated());
                    }
                }
                Err(invalid(found, "looking for beginning of value"))
            }
        }
    }

    fn nested(&mut self, open: char, body: impl FnOnce(&mut Self) -> Result<Json>) -> Result<Json> {
        self.skip(open);
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Error::new(Kind::Corrupt, "exceeded max depth"));
        }
        let value = body(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Json> {
        let mut object = Object::default();
        if self.peek()? == '}' {
            self.skip('}');
            return Ok(Json::Object(object));
        }
        loop {
            match self.peek()? {
                '"' => {}
                found => return Err(invalid(found, "looking for beginning of object key string")),
            }
            let key = self.text()?;
            self.expect(':', "after object key")?;
            let value = self.value()?;
            // Appended without a search, so that a hostile file costs no quadratic time; duplicates are merged at the
            // end.
            object.0.push((key, value));
            match self.peek()? {
                ',' => self.skip(','),
                '}' => {
                    self.skip('}');
                    return Ok(Json::Object(merged(object)));
                }
                found => return Err(invalid(found, "after object key:value pair")),
            }
        }
    }

    fn array(&mut self) -> Result<Json> {
        let mut items = Vec::new();
        if self.peek()? == ']' {
            self.skip(']');
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value()?);
            match self.peek()? {
                ',' => self.skip(','),
                ']' => {
                    self.skip(']');
                    return Ok(Json::Array(items));
                }
                found => return Err(invalid(found, "after array element")),
            }
        }
    }

    fn number(&mut self) -> Result<Json> {
        let all = self.rest;
        self.skip('-');
        if self.rest.starts_with('0') {
            self.skip('0');
        } else {
            self.digits()?;
        }
        if self.rest.starts_with('.') {
            self.skip('.');
            self.digits()?;
        }
        if self.rest.starts_with(['e', 'E']) {
            self.rest = self.rest.get(1..).unwrap_or_default();
            self.rest = self.rest.strip_prefix(['+', '-']).unwrap_or(self.rest);
            self.digits()?;
        }
        let spelling = all.get(..all.len() - self.rest.len()).unwrap_or_default();
        Ok(Json::Number(spelling.to_owned()))
    }

    fn digits(&mut self) -> Result<()> {
        let rest = self.rest.trim_start_matches(|c: char| c.is_ascii_digit());
        if rest.len() == self.rest.len() {
            return Err(self.rest.chars().next().map_or_else(truncated, |c| invalid(c, "in numeric literal")));
        }
        self.rest = rest;
        Ok(())
    }

    fn text(&mut self) -> Result<String> {
        self.skip('"');
        let mut text = String::new();
        loop {
            let mut chars = self.rest.chars();
            let c = chars.next().ok_or_else(truncated)?;
            self.rest = chars.as_str();
            match c {
                '"' => return Ok(text),
                '\\' => text.push(self.escape()?),
                c if u32::from(c) < 0x20 => return Err(invalid(c, "in string literal")),
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let mut chars = self.rest.chars();
        let c = chars.next().ok_or_else(truncated)?;
        self.rest = chars.as_str();
        Ok(match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = self.hex4()?;
                let after_first = self.rest;
                match char::from_u32(first) {
                    Some(c) => c,
                    // The first half of a surrogate pair. A half alone becomes U+FFFD, and what follows it is read by
                    // itself.
                    None => {
                        let second = match self.rest.strip_prefix("\\u") {
                            Some(rest) => {
                                self.rest = rest;
                                self.hex4()?
                            }
                            None => 0,
                        };
                        if first < 0xDC00 && (0xDC00..0xE000).contains(&second) {
                            char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)).unwrap_or('\u{FFFD}')
                        } else {
                            self.rest = after_first;
                            '\u{FFFD}'
                        }
                    }
                }
            }
            c => return Err(invalid(c, "in string escape code")),
        })
    }

    fn hex4(&mut self) -> Result<u32> {
        let mut value = 0;
        for _ in 0..4 {
            let mut chars = self.rest.chars();
            let c = chars.next().ok_or_else(truncated)?;
            self.rest = chars.as_str();
            value = value << 4 | c.to_digit(16).ok_or_else(|| invalid(c, "in \\u hexadecimal character escape"))?;
        }
        Ok(value)
    }
}

/// For a member that is given twice, the last value stays at the place of the first, as in Go.
fn merged(object: Object) -> Object {
    let mut places = std::collections::HashMap::with_capacity(object.0.len());
    let mut members: Vec<(String, Json)> = Vec::with_capacity(object.0.len());
    for (key, value) in object.0 {
        match places.get(&key).and_then(|place: &usize| members.get_mut(*place)) {
            Some(member) => member.1 = value,
            None => {
                places.insert(key.clone(), members.len());
                members.push((key, value));
            }
        }
    }
    Object(members)
}

/// The value as Go writes it with a tab as indent: one member a line, HTML escaped, a newline at the end.
pub(crate) fn write(value: &Json) -> String {
    let mut out = String::new();
    write_value(&mut out, value, 0);
    out.push('\n');
    out
}

fn write_value(out: &mut String, value: &Json, depth: usize) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Json::Number(number) => out.push_str(number),
        Json::Text(text) => write_text(out, text),
        Json::Array(items) => write_items(out, ['[', ']'], items, depth, |out, item| {
            write_value(out, item, depth + 1);
        }),
        Json::Object(object) => write_items(out, ['{', '}'], &object.0, depth, |out, (key, value)| {
            write_text(out, key);
            out.push_str(": ");
            write_value(out, value, depth + 1);
        }),
    }
}

fn write_items<T>(out: &mut String, ends: [char; 2], items: &[T], depth: usize, each: impl Fn(&mut String, &T)) {
    let [open, close] = ends;
    out.push(open);
    for (idx, item) in items.iter().enumerate() {
        if idx > 0 {
            out.push(',');
        }
        new_line(out, depth + 1);
        each(out, item);
    }
    if !items.is_empty() {
        new_line(out, depth);
    }
    out.push(close);
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n('\t', depth));
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &str) {
        match parse(input.as_bytes()) {
            Ok(value) => assert_eq!(write(&value), format!("{expected}\n"), "{input}"),
            Err(err) => assert_eq!(err.to_string(), expected, "{input}"),
        }
    }

    #[test]
    fn values_keep_their_order_and_spelling() {
        check(r#"{"b":1,"a":[],"c":{}}"#, "{\n\t\"b\": 1,\n\t\"a\": [],\n\t\"c\": {}\n}");
        check("[1.10, -0, 12345678901234567890123, 1E+3]", "[\n\t1.10,\n\t-0,\n\t12345678901234567890123,\n\t1E+3\n]");
        check(r#"{"a":{"b":[true,null]}}"#, "{\n\t\"a\": {\n\t\t\"b\": [\n\t\t\ttrue,\n\t\t\tnull\n\t\t]\n\t}\n}");
        check(r#"{"a":1,"b":2,"a":3}"#, "{\n\t\"a\": 3,\n\t\"b\": 2\n}");
    }

    #[test]
    fn texts_are_escaped_as_go_does() {
        check(r#""<a&b>\u2028\u2029/\u007f""#, "\"\\u003ca\\u0026b\\u003e\\u2028\\u2029/\u{7f}\"");
        check(r#""\"\\\/\b\f\n\r\t\u0001""#, r#""\"\\/\b\f\n\r\t\u0001""#);
        check(r#""\ud83d\ude00 \ud83d \ude00 \ud83d\u0041""#, "\"\u{1f600} \u{fffd} \u{fffd} \u{fffd}A\"");
        assert_eq!(parse(b"\"a\xffb\"").unwrap(), Json::text("a\u{fffd}b"));
    }

    #[test]
    fn errors_read_as_go_writes_them() {
        for truncated in
            ["", " ", "{", "[1", "\"a", "\"\\", "\"\\u00", "-", "1.", "1e", "{\"a\"", "{\"a\":", "nul", "t"]
        {
            check(truncated, "unexpected end of JSON input");
        }
        check("{a}", "invalid character 'a' looking for beginning of object key string");
        check("{\"a\" 1}", "invalid character '1' after object key");
        check("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair");
        check("[1 2]", "invalid character '2' after array element");
        check("1 x", "invalid character 'x' after top-level value");
        check("x", "invalid character 'x' looking for beginning of value");
        check("\"\\x\"", "invalid character 'x' in string escape code");
        check("-x", "invalid character 'x' in numeric literal");
        check("01", "invalid character '1' after top-level value");
        check(&"[".repeat(100_000), "exceeded max depth");
    }

    #[test]
    fn no_bytes_panic() {
        // A small deterministic generator over the characters that matter; the seed is in the message.
        let letters: &[u8] = b"{}[]\",:\\u0d8eE+-.19tfn \xff\xc3";
        for seed in 1..20_000_u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let bytes: Vec<u8> = (0..12)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    letters[usize::try_from(state % letters.len() as u64).unwrap()]
                })
                .collect();
            if let Ok(value) = parse(&bytes) {
                let text = write(&value);
                assert_eq!(parse(text.as_bytes()).unwrap(), value, "seed {seed}");
            }
        }
    }
}
