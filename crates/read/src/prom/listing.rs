//! Reads a JSON answer whose data is a long list, item by item out of a small buffer: neither the list nor a value of its
//! own for each string is ever held. Pure: the reader is handed in.

use std::io::{ErrorKind, Read};

use pillion_base::error::{Context, Error, Kind, Result};

/// The labels of one series, by name. The memory is used again for the next series.
#[derive(Debug, Default)]
pub(crate) struct SeriesLabels {
    bytes: Vec<u8>,
    /// Begin of the name, its end, end of the value.
    pairs: Vec<[usize; 3]>,
}

impl SeriesLabels {
    /// Name and value of each label, in UTF-8.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        let part = |from: usize, to: usize| self.bytes.get(from..to).unwrap_or_default();
        self.pairs.iter().map(move |[begin, middle, end]| (part(*begin, *middle), part(*middle, *end)))
    }

    /// Prometheus sends them by name; of a name that comes twice the last counts.
    fn sort(&mut self) {
        let SeriesLabels { bytes, pairs } = self;
        let name = |pair: &[usize; 3]| bytes.get(pair[0]..pair[1]).unwrap_or_default();
        if !pairs.is_sorted_by(|a, b| name(a) < name(b)) {
            pairs.reverse();
            pairs.sort_by(|a, b| name(a).cmp(name(b)));
            pairs.dedup_by(|b, a| name(b) == name(a));
        }
    }
}

/// Calls `each` with every string of the envelope's `data`; returns Prometheus's warnings.
///
/// `Errors:` `Corrupt` for anything that is not that JSON, `Permanent` when the envelope says `error`, and whatever `each`
/// returns.
pub(crate) fn each_string(body: impl Read, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Vec<String>> {
    let mut text = Vec::new();
    read(body, &mut |json| {
        text.clear();
        json.string(&mut text)?;
        Ok(each(&text))
    })
}

/// As [`each_string`], for a list of series.
pub(crate) fn each_series(body: impl Read, each: &mut dyn FnMut(&SeriesLabels) -> Result<()>) -> Result<Vec<String>> {
    let mut labels = SeriesLabels::default();
    read(body, &mut |json| {
        labels.bytes.clear();
        labels.pairs.clear();
        json.items(b'{', b'}', &mut |json| {
            let begin = labels.bytes.len();
            json.string(&mut labels.bytes)?;
            let middle = labels.bytes.len();
            json.expect(b':')?;
            json.string(&mut labels.bytes)?;
            labels.pairs.push([begin, middle, labels.bytes.len()]);
            Ok(Ok(()))
        })??;
        labels.sort();
        Ok(each(&labels))
    })
}

/// Outside what the reading says, inside what the receiver says.
type Outcome = Result<Result<()>>;

/// Reads the envelope; `item` reads one item of its data.
fn read<R: Read>(body: R, item: &mut dyn FnMut(&mut Json<R>) -> Outcome) -> Result<Vec<String>> {
    let mut json = Json { source: body, buffer: vec![0; BUFFER_BYTES], pos: 0, len: 0 };
    let (mut status, mut error, mut warnings) = (String::new(), String::new(), Vec::new());
    let mut envelope = || -> Outcome {
        // As good as an empty list.
        if json.next()?.is_none() {
            status.push_str("success");
            return Ok(Ok(()));
        }
        let mut key = Vec::new();
        let all = json.items(b'{', b'}', &mut |json| {
            key.clear();
            json.string(&mut key)?;
            json.expect(b':')?;
            match key.as_slice() {
                b"status" => status = json.text()?,
                b"error" => error = json.text()?,
                b"warnings" => {
                    return json.list(&mut |json| {
                        warnings.push(json.text()?);
                        Ok(Ok(()))
                    });
                }
                b"data" => return json.list(&mut *item),
                _ => json.skip()?,
            }
            Ok(Ok(()))
        })?;
        // To the very end, so that the connection can be used again.
        match all {
            Ok(()) if json.next()?.is_some() => Err(corrupt("something behind its end")),
            other => Ok(other),
        }
    };
    envelope().context(|| "decode Prometheus's answer as JSON")??;
    if status != "success" {
        return Err(Error::new(Kind::Permanent, format!("Prometheus answered {status:?}: {error}")));
    }
    Ok(warnings)
}

const BUFFER_BYTES: usize = 32 * 1024;
/// How deep values may be nested that nobody wants.
const DEPTH_MAX: usize = 64;

struct Json<R> {
    source: R,
    buffer: Vec<u8>,
    pos: usize,
    len: usize,
}

impl<R: Read> Json<R> {
    /// What was read and not used yet; empty at the end only.
    fn window(&mut self) -> Result<&[u8]> {
        while self.pos == self.len {
            match self.source.read(&mut self.buffer) {
                Ok(n_read) => {
                    (self.pos, self.len) = (0, n_read);
                    if n_read == 0 {
                        break;
                    }
                }
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(Error::new(Kind::Retry, format!("read from Prometheus: {err}"))),
            }
        }
        Ok(self.buffer.get(self.pos..self.len).unwrap_or_default())
    }

    fn byte(&mut self) -> Result<Option<u8>> {
        let byte = self.window()?.first().copied();
        self.pos += usize::from(byte.is_some());
        Ok(byte)
    }

    /// The first byte of the next token, which is not taken; none at the end.
    fn next(&mut self) -> Result<Option<u8>> {
        loop {
            match self.window()?.first() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.pos += 1,
                other => return Ok(other.copied()),
            }
        }
    }

    fn expect(&mut self, expected: u8) -> Result<()> {
        match self.next()? {
            Some(byte) if byte == expected => {
                self.pos += 1;
                Ok(())
            }
            Some(byte) => Err(corrupt(&format!("expected {:?}, found {:?}", char::from(expected), char::from(byte)))),
            None => Err(corrupt("it ends too early")),
        }
    }

    /// What stands between `open` and `close`, separated by commas.
    fn items(&mut self, open: u8, close: u8, item: &mut dyn FnMut(&mut Self) -> Outcome) -> Outcome {
        self.expect(open)?;
        if self.next()? == Some(close) {
            self.pos += 1;
            return Ok(Ok(()));
        }
        loop {
            if let Err(err) = item(self)? {
                return Ok(Err(err));
            }
            if self.next()? == Some(close) {
                self.pos += 1;
                return Ok(Ok(()));
            }
            self.expect(b',')?;
        }
    }

    /// A list, or `null`.
    fn list(&mut self, item: &mut dyn FnMut(&mut Self) -> Outcome) -> Outcome {
        if self.next()? == Some(b'n') {
            self.skip()?;
            return Ok(Ok(()));
        }
        self.items(b'[', b']', item)
    }

    fn text(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        self.string(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Appends a string, without its escapes.
    fn string(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.expect(b'"')?;
        let begin = out.len();
        loop {
            let window = self.window()?;
            let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
            let n_plain = window.iter().position(is_special).unwrap_or(window.len());
            out.extend_from_slice(window.get(..n_plain).unwrap_or_default());
            self.pos += n_plain;
            if self.pos == self.len && n_plain > 0 {
                continue;
            }
            match self.byte()? {
                Some(b'"') => break,
                Some(b'\\') => self.escape(out)?,
                Some(_) => return Err(corrupt("control character in a string")),
                None => return Err(corrupt("it ends within a string")),
            }
        }
        let text = out.get(begin..).unwrap_or_default();
        std::str::from_utf8(text).map(|_| ()).map_err(|_| corrupt("a string is not UTF-8"))
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let plain = match self.byte()? {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => return self.unicode(out),
            _ => return Err(corrupt("unknown escape in a string")),
        };
        out.push(plain);
        Ok(())
    }

    /// Half of a pair is replaced, as Go does.
    fn unicode(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let mut code = self.hex()?;
        while (0xd800..0xdc00).contains(&code) {
            if self.window()?.first() != Some(&b'\\') {
                break;
            }
            self.pos += 1;
            if self.window()?.first() != Some(&b'u') {
                put_char(code, out);
                return self.escape(out);
            }
            self.pos += 1;
            let low = self.hex()?;
            if (0xdc00..0xe000).contains(&low) {
                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            } else {
                put_char(code, out);
                code = low;
            }
        }
        put_char(code, out);
        Ok(())
    }

    fn hex(&mut self) -> Result<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.byte()?.and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| corrupt("unknown escape in a string"))?;
        }
        Ok(code)
    }

    /// Passes over a value. What is not JSON within it may go unnoticed.
    fn skip(&mut self) -> Result<()> {
        let (mut depth, mut text) = (0_usize, Vec::new());
        loop {
            match self.next()? {
                Some(b'"') => {
                    text.clear();
                    self.string(&mut text)?;
                }
                Some(b'[' | b'{') => {
                    depth += 1;
                    self.pos += 1;
                    if depth > DEPTH_MAX {
                        return Err(corrupt("it is nested too deeply"));
                    }
                    continue;
                }
                Some(b']' | b'}') if depth > 0 => {
                    depth -= 1;
                    self.pos += 1;
                }
                Some(b',' | b':') if depth > 0 => {
                    self.pos += 1;
                    continue;
                }
                Some(b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-') => {
                    while let Some(b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'+' | b'.') =
                        self.window()?.first()
                    {
                        self.pos += 1;
                    }
                }
                _ => return Err(corrupt("expected a value")),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

fn put_char(code: u32, out: &mut Vec<u8>) {
    let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn corrupt(text: &str) -> Error {
    Error::new(Kind::Corrupt, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, so that every boundary of the buffer is met.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            Read::take(&mut self.0, 1).read(buf)
        }
    }

    fn series(body: impl Read) -> Result<(String, Vec<String>)> {
        let mut got = String::new();
        let warnings = each_series(body, &mut |labels| {
            let text = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().to_owned();
            let pairs: Vec<String> = labels.iter().map(|(name, value)| text(name) + "=" + &text(value)).collect();
            got.push_str(&format!("[{}]", pairs.join(",")));
            Ok(())
        })?;
        Ok((got, warnings))
    }

    fn check(body: &str, expected: std::result::Result<(&str, &[&str]), &str>) {
        for outcome in [series(body.as_bytes()), series(Slow(body.as_bytes()))] {
            match (outcome, expected) {
                (Ok((got, warnings)), Ok((items, expected))) => {
                    assert_eq!((got.as_str(), warnings), (items, expected.iter().map(ToString::to_string).collect()));
                }
                (Err(err), Err(text)) => assert!(err.to_string().contains(text), "{err}"),
                (outcome, expected) => panic!("{body}: {outcome:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn lists_are_read_item_by_item() {
        check(r#"{"status":"success","data":[{"a":"1","b":"é"},{}],"warnings":["w"]}"#, Ok(("[a=1,b=é][]", &["w"])));
        check(
            " { \"data\" : [ ] , \"infos\":[{\"x\":[1,-2.5e+3,null,{}]}], \"status\" : \"success\" } \n",
            Ok(("", &[])),
        );
        check(r#"{"status":"success","data":null,"warnings":null}"#, Ok(("", &[])));
        check(r#"{"status":"success"}"#, Ok(("", &[])));
        check("", Ok(("", &[])));
        check(r#"{"status":"success","data":[{"b":"1","a":"2","b":"3"}]}"#, Ok(("[a=2,b=3]", &[])));
        check(r#"{"status":"error","error":"boom"}"#, Err("boom"));
        let broken = "decode Prometheus's answer";
        for body in [
            r#"{"status":"success","data":[{"a":1}]}"#,
            r#"{"status":"success","data":[{"a":"1"}"#,
            r#"{"status":"success","data":[{"a":"1"},]}"#,
            r#"{"status":"success","data":{"a":"1"}}"#,
            r#"{"status":"success"} {"#,
            r#"{"status":"success","data":[{"a":"\x"}]}"#,
            r#"{"status":"success","data":[{"a":"\u12"}]}"#,
            "{\"status\":\"success\",\"data\":[{\"a\":\"\n\"}]}",
            r#"{"status":"success","x":]}"#,
            "<html>",
            "[]",
        ] {
            check(body, Err(broken));
        }
        check(&format!("{{\"x\":{}", "[".repeat(100_000)), Err("nested too deeply"));
        check("{}", Err("Prometheus answered"));
    }

    #[test]
    fn strings_come_without_their_escapes() {
        let check = |json: &str, expected: &str| {
            let body = format!("{{\"status\":\"success\",\"data\":[\"{json}\"]}}");
            for slow in [false, true] {
                let mut got = Vec::new();
                let each = &mut |text: &[u8]| {
                    got.push(text.to_vec());
                    Ok(())
                };
                let warnings =
                    if slow { each_string(Slow(body.as_bytes()), each) } else { each_string(body.as_bytes(), each) };
                assert_eq!(warnings.unwrap(), Vec::<String>::new());
                assert_eq!(got, [expected.as_bytes()], "{json}");
            }
        };
        check("", "");
        check("plain é 🙂", "plain é 🙂");
        check(r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t");
        check(r"\u003c\u00e9\u20ac", "<é€");
        check(r"\ud83d\ude42", "🙂");
        check(r"\ud83dx\ude42", "\u{fffd}x\u{fffd}");
        check(r"\ud83d\n", "\u{fffd}\n");
        check(r"\ud83d\ud83d\ude42", "\u{fffd}🙂");
        let long = "0123456789".repeat(10_000);
        check(&long, &long);
        let invalid = [b"{\"status\":\"success\",\"data\":[\"".as_slice(), b"\xff\"]}"].concat();
        each_string(invalid.as_slice(), &mut |_| Ok(())).expect_err("not UTF-8");
    }

    #[test]
    fn the_receiver_can_end_the_reading() {
        let body = r#"{"status":"success","data":[{"a":"1"},{"a":"2"}, this is never read"#;
        let mut n = 0;
        let err = each_series(body.as_bytes(), &mut |_| {
            n += 1;
            if n == 2 { Err(Error::new(Kind::Limit, "enough")) } else { Ok(()) }
        })
        .unwrap_err();
        assert_eq!((err.kind(), err.to_string(), n), (Kind::Limit, "enough".to_owned(), 2));
    }
}
