//! PromQL series selectors: `up{job=~"a|b"}` is parsed into matchers, and a label set is written as a selector. Pure.
//!
//! Regular expressions are not looked into: they are the server's to judge.

use std::iter::Peekable;
use std::str::Chars;

use pillion_base::error::{Error, Kind, Result};
use pillion_base::matcher::{MatchType, Matcher};

/// The label that holds a metric's name.
const METRIC_NAME: &str = "__name__";

/// Parses one selector. A metric name comes first among the matchers.
///
/// `Errors:` `BadRequest` with the selector and the column, counted in characters from 1.
/// `Source:` Prometheus's documentation of selectors and string literals; UTF-8 names in quotes as since Prometheus 3.
pub fn parse(text: &str) -> Result<Vec<Matcher>> {
    Parser { chars: text.chars().peekable(), column: 1 }
        .selector()
        .map_err(|err| err.context(format!("parse selector {text}")))
}

/// A label set the way PromQL writes it, so that it can be pasted as a selector.
pub fn selector_text(labels: &[(String, String)]) -> String {
    let metric = labels.iter().find(|(name, _)| name == METRIC_NAME).map(|(_, value)| value.as_str());
    let plain_metric = metric.filter(|metric| is_plain_metric(metric));
    let quoted_metric = metric.filter(|metric| !is_plain_metric(metric)).map(quoted);
    let others = labels.iter().filter(|(name, _)| name != METRIC_NAME).map(|(name, value)| label_text(name, value));
    let inside: Vec<String> = quoted_metric.into_iter().chain(others).collect();
    match plain_metric {
        Some(metric) if inside.is_empty() => metric.to_owned(),
        metric => format!("{}{{{}}}", metric.unwrap_or_default(), inside.join(", ")),
    }
}

/// One label as PromQL writes it in a selector.
pub fn label_text(name: &str, value: &str) -> String {
    let name = if is_plain_label(name) { name.to_owned() } else { quoted(name) };
    format!("{name}={}", quoted(value))
}

/// In double quotes, with escapes that PromQL reads back.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether a metric name can stand without quotes.
fn is_plain_metric(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| is_name_start(c) || c == ':') && chars.all(|c| is_name_part(c) || c == ':')
}

/// Whether a label name can stand without quotes.
fn is_plain_label(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(is_name_start) && chars.all(is_name_part)
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn is_name_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
    column: usize,
}

impl Parser<'_> {
    fn selector(&mut self) -> Result<Vec<Matcher>> {
        let mut metric = None;
        self.skip_space();
        if self.peek().is_some_and(|c| is_name_start(c) || c == ':') {
            metric = Some(self.take_while(|c| is_name_part(c) || c == ':'));
            self.skip_space();
        }
        let mut matchers = Vec::new();
        match self.peek() {
            Some('{') => {
                self.next();
                self.matchers(&mut metric, &mut matchers)?;
            }
            _ if metric.is_some() => {}
            found => return Err(self.expected("a metric name or {", found)),
        }
        self.skip_space();
        if let Some(found) = self.peek() {
            return Err(self.expected("the end (a selector has no range, offset or function)", Some(found)));
        }
        if let Some(value) = metric {
            matchers.insert(0, Matcher { kind: MatchType::Equal, name: METRIC_NAME.to_owned(), value });
        }
        if matchers.is_empty() {
            return Err(self.error("a selector needs a metric name or at least one matcher"));
        }
        Ok(matchers)
    }

    /// After `{`, up to and with `}`.
    fn matchers(&mut self, metric: &mut Option<String>, matchers: &mut Vec<Matcher>) -> Result<()> {
        loop {
            self.skip_space();
            let name = match self.peek() {
                Some('}') => {
                    self.next();
                    return Ok(());
                }
                Some(c) if is_name_start(c) => self.take_while(is_name_part),
                Some('"' | '\'' | '`') => {
                    let name = self.string()?;
                    self.skip_space();
                    if matches!(self.peek(), Some(',' | '}')) {
                        self.set_metric(metric, name)?;
                        self.separator()?;
                        continue;
                    }
                    name
                }
                found => return Err(self.expected("a label name, a quoted name or }", found)),
            };
            if name.is_empty() {
                return Err(self.error("a label name is empty"));
            }
            if name == METRIC_NAME && metric.is_some() {
                return Err(self.error("the metric name is given twice"));
            }
            let kind = self.match_type()?;
            self.skip_space();
            let value = match self.peek() {
                Some('"' | '\'' | '`') => self.string()?,
                found => return Err(self.expected("a quoted value", found)),
            };
            matchers.push(Matcher { kind, name, value });
            self.separator()?;
        }
    }

    fn set_metric(&mut self, metric: &mut Option<String>, name: String) -> Result<()> {
        if metric.is_some() {
            return Err(self.error("the metric name is given twice"));
        }
        if name.is_empty() {
            return Err(self.error("the metric name is empty"));
        }
        *metric = Some(name);
        Ok(())
    }

    /// A comma, or nothing before a closing brace.
    fn separator(&mut self) -> Result<()> {
        self.skip_space();
        match self.peek() {
            Some(',') => {
                self.next();
                Ok(())
            }
            Some('}') => Ok(()),
            found => Err(self.expected(", or }", found)),
        }
    }

    fn match_type(&mut self) -> Result<MatchType> {
        self.skip_space();
        let first = self.peek();
        if !matches!(first, Some('=' | '!')) {
            return Err(self.expected("one of = != =~ !~", first));
        }
        self.next();
        match (first, self.peek()) {
            (Some('='), Some('~')) => {
                self.next();
                Ok(MatchType::Regex)
            }
            (Some('='), _) => Ok(MatchType::Equal),
            (_, Some('=')) => {
                self.next();
                Ok(MatchType::NotEqual)
            }
            (_, Some('~')) => {
                self.next();
                Ok(MatchType::NotRegex)
            }
            (_, found) => Err(self.expected("= or ~ after !", found)),
        }
    }

    /// A quoted string with Go's escapes; between back-quotes everything stands for itself.
    fn string(&mut self) -> Result<String> {
        let quote = self.next().unwrap_or('"');
        // Escapes may name single bytes, so the text becomes UTF-8 at the end only.
        let mut bytes = Vec::new();
        loop {
            match self.next() {
                None => return Err(self.error(format!("the string has no closing {quote}"))),
                Some(c) if c == quote => break,
                Some('\n') if quote != '`' => return Err(self.error("a line break inside quotes is written \\n")),
                Some('\\') if quote != '`' => self.escape(quote, &mut bytes)?,
                Some(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        String::from_utf8(bytes).map_err(|_| self.error("the string is not UTF-8"))
    }

    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<()> {
        let c = self.next().ok_or_else(|| self.error(format!("the string has no closing {quote}")))?;
        let byte = match c {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 0x0b,
            '\\' => b'\\',
            '\'' if quote == '\'' => b'\'',
            '"' if quote == '"' => b'"',
            '0'..='7' => {
                let value = c.to_digit(8).unwrap_or(0) * 64 + self.digits(2, 8)?;
                u8::try_from(value).map_err(|_| self.error("an octal escape is above \\377"))?
            }
            'x' => u8::try_from(self.digits(2, 16)?).map_err(|_| self.error("a \\x escape is above \\xff"))?,
            'u' | 'U' => {
                let code = self.digits(if c == 'u' { 4 } else { 8 }, 16)?;
                let c = char::from_u32(code).ok_or_else(|| self.error("the escape is no Unicode character"))?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            other => return Err(self.error(format!("unknown escape \\{other}"))),
        };
        bytes.push(byte);
        Ok(())
    }

    /// Exactly `n_digits` digits; at most 8 hexadecimal ones, which fit.
    fn digits(&mut self, n_digits: usize, radix: u32) -> Result<u32> {
        let mut value = 0;
        for _ in 0..n_digits {
            let digit = self.peek().and_then(|c| c.to_digit(radix));
            let digit = digit.ok_or_else(|| self.error(format!("the escape wants {n_digits} more digits")))?;
            value = value * radix + digit;
            self.next();
        }
        Ok(value)
    }

    fn peek(&mut self) -> Option<char> {
        self.chars.peek().copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.chars.next();
        self.column += usize::from(c.is_some());
        c
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(c) = self.peek().filter(|c| accept(*c)) {
            taken.push(c);
            self.next();
        }
        taken
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn expected(&self, what: &str, found: Option<char>) -> Error {
        match found {
            Some(c) => self.error(format!("expected {what}, found {c:?}")),
            None => self.error(format!("expected {what}, found the end")),
        }
    }

    fn error(&self, text: impl AsRef<str>) -> Error {
        Error::new(Kind::BadRequest, format!("column {}: {}", self.column, text.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Matchers as `name op value`, joined by blanks.
    fn check(input: &str, expected: &str) {
        let shown = match parse(input) {
            Ok(matchers) => {
                let shown = matchers.iter().map(|m| format!("{}{}{:?}", m.name, m.kind, m.value));
                shown.collect::<Vec<_>>().join(" ")
            }
            Err(err) => {
                assert_eq!(err.kind(), Kind::BadRequest);
                err.to_string().replace(&format!("parse selector {input}: "), "! ")
            }
        };
        assert_eq!(shown, expected, "{input}");
    }

    #[test]
    fn names_and_matchers() {
        check("up", r#"__name__="up""#);
        check(" job:rate5m:sum ", r#"__name__="job:rate5m:sum""#);
        check(r#"up{a="b",c=~"d"}"#, r#"__name__="up" a="b" c=~"d""#);
        check(r#"{__name__="x"}"#, r#"__name__="x""#);
        check(r#"{a!="1", b !~ "2" , }"#, r#"a!="1" b!~"2""#);
        check("up{}", r#"__name__="up""#);
        check(r#"{__name__=~"a.*",__name__!="ab"}"#, r#"__name__=~"a.*" __name__!="ab""#);
    }

    #[test]
    fn quoted_names() {
        check(r#"{"utf8.name", "quoted label"="v"}"#, r#"__name__="utf8.name" quoted label="v""#);
        check(r#"{"a"}"#, r#"__name__="a""#);
        check(r#"{a="b", "später"}"#, r#"__name__="später" a="b""#);
    }

    #[test]
    fn strings() {
        check(r#"{a='it\'s "q"'}"#, r#"a="it's \"q\"""#);
        check(r#"{a=`\d+"'`}"#, r#"a="\\d+\"'""#);
        check(r#"{a="\n\t\\ \x41\101 \u00fc\U0001F600"}"#, "a=\"\\n\\t\\\\ AA ü😀\"");
        check(r#"{a="\xc3\xbc"}"#, r#"a="ü""#);
        check(r#"{a="a.b*\\.c"}"#, r#"a="a.b*\\.c""#);
    }

    #[test]
    fn label_sets_are_selectors() {
        let check = |labels: &[(&str, &str)], expected: &str| {
            let owned: Vec<_> = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let text = selector_text(&owned);
            assert_eq!(text, expected);
            if !labels.is_empty() {
                let matchers = parse(&text).unwrap();
                assert_eq!(matchers.into_iter().map(|m| (m.name, m.value)).collect::<Vec<_>>(), owned);
            }
        };
        check(&[("__name__", "up")], "up");
        check(&[("__name__", "a.b"), ("c", "d")], r#"{"a.b", c="d"}"#);
        check(&[("c", "\u{1b}[2J\u{9b}\t'`")], "{c=\"\\u001b[2J\\u009b\\t'`\"}");
        check(&[], "{}");
    }

    #[test]
    fn errors_name_the_column() {
        check("", "! column 1: expected a metric name or {, found the end");
        check("{}", "! column 3: a selector needs a metric name or at least one matcher");
        check("up[5m]", "! column 3: expected the end (a selector has no range, offset or function), found '['");
        check("up{a}", "! column 5: expected one of = != =~ !~, found '}'");
        check("{a=b}", "! column 4: expected a quoted value, found 'b'");
        check("{a!b}", "! column 4: expected = or ~ after !, found 'b'");
        check(r#"{a="b"#, "! column 6: the string has no closing \"");
        check(r#"{a="b" c="d"}"#, "! column 8: expected , or }, found 'c'");
        check(r#"{,a="b"}"#, "! column 2: expected a label name, a quoted name or }, found ','");
        check(r#"{a="\q"}"#, r"! column 7: unknown escape \q");
        check(r#"{a="\'"}"#, r"! column 7: unknown escape \'");
        check(r#"{a="\xg"}"#, "! column 7: the escape wants 2 more digits");
        check(r#"{a="\777"}"#, r"! column 9: an octal escape is above \377");
        check(r#"{a="\ud800"}"#, "! column 11: the escape is no Unicode character");
        check(r#"{a="\xff"}"#, "! column 10: the string is not UTF-8");
        check(r#"up{"up"}"#, "! column 8: the metric name is given twice");
        check(r#"up{__name__="x"}"#, "! column 12: the metric name is given twice");
        check(r#"{a="b""#, "! column 7: expected , or }, found the end");
        check("{a=\"x\ny\"}", "! column 7: a line break inside quotes is written \\n");
        check("5m", "! column 1: expected a metric name or {, found '5'");
    }
}
