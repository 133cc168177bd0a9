//! Reads case files. Pure. The language is described in `tests/data/conformance/README.txt`.

use pillion_base::labels::Labels;
use pillion_base::matcher::{MatchType, Matcher};
use pillion_read::selector;

use super::wire;
use super::words::Words;

/// Where the known data starts, 2023-11-15T00:00:00Z: times in cases count from here. `Units:` ms.
pub const DATA_START_MS: i64 = 1_700_006_400_000;

/// What a call may say beyond its matchers.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub start_ms: i64,
    pub end_ms: i64,
    pub skip_chunks: bool,
    pub without: Vec<String>,
    /// Index, total, `by` instead of `without`, labels.
    pub shard: Option<(i64, i64, bool, Vec<String>)>,
    pub batch: i64,
    pub limit: i64,
    /// A matcher type that no enum knows is put on the first matcher.
    pub matcher_type: Option<i32>,
    /// What a call beside the store says, by the names of the request's fields.
    pub fields: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct Call {
    /// `Series`, `LabelNames`, …
    pub method: String,
    /// What stands between the method and the selector, such as the label of LabelValues.
    pub argument: Option<String>,
    pub matchers: Vec<Matcher>,
    pub options: Options,
}

/// A piece of text that must be equal, or only be contained (`~"…"`).
#[derive(Debug, Clone)]
pub struct Pattern {
    pub text: String,
    pub contained: bool,
}

/// One series of an expected answer; without samples only its labels count.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedSeries {
    pub labels: Labels,
    pub samples: Samples,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    Any,
    These(Vec<(i64, f64)>),
    /// How many, the first and the last.
    Span(usize, (i64, f64), (i64, f64)),
}

#[derive(Debug, Clone)]
pub enum Expect {
    Status(String, Option<Pattern>),
    Series(Vec<ExpectedSeries>),
    /// Series per message.
    Messages(Vec<usize>),
    /// Chunks of the whole answer.
    Chunks(usize),
    /// The samples of a series come as they were taken, message after message.
    InOrderOfTime,
    /// The names or values of a label call.
    Words(Vec<String>),
    /// The whole answer of any other call, see `show` and `wire`; `*` stands for any text.
    Lines(Vec<String>),
    /// Lines that have to be in it.
    Has(Vec<String>),
    Warning(Pattern),
}

#[derive(Debug, Clone)]
pub struct Exchange {
    /// Of the `call`, from 1.
    pub line: usize,
    pub call: Call,
    pub expect: Vec<Expect>,
}

#[derive(Debug, Clone)]
pub struct Case {
    pub title: String,
    pub line: usize,
    /// Numbers of the parity list that this case stands for.
    pub parity: Vec<String>,
    /// Deliberate differences from Thanos, as they are named in `docs/differences.md`.
    pub differs: Vec<String>,
    /// The oldest Prometheus that has what the case needs.
    pub needs: (u32, u32),
    pub exchanges: Vec<Exchange>,
}

/// `Errors:` the line's number and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Case>, String> {
    let mut reader = Reader { cases: Vec::new(), window_ms: None, common: Labels::default(), open: Open::Nothing };
    for (idx, line) in text.lines().enumerate() {
        reader.line(idx + 1, line).map_err(|err| format!("line {}: {err}: {line}", idx + 1))?;
    }
    for case in &reader.cases {
        let mute = case.exchanges.iter().find(|exchange| exchange.expect.is_empty());
        if case.exchanges.is_empty() || mute.is_some() {
            return Err(format!("line {}: a case needs a call, and every call an expectation", case.line));
        }
    }
    Ok(reader.cases)
}

/// Which list of the last expectation indented lines belong to.
enum Open {
    Nothing,
    Series,
    Lines,
}

struct Reader {
    cases: Vec<Case>,
    window_ms: Option<(i64, i64)>,
    common: Labels,
    open: Open,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), String> {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            return Ok(());
        }
        if line.starts_with("  ") {
            return self.indented(line.trim());
        }
        self.open = Open::Nothing;
        let mut words = Words::new(line);
        match words.word()?.as_str() {
            "window" => {
                let text = words.word()?;
                let (start, end) = text.split_once("..").ok_or("a window is START..END")?;
                self.window_ms = Some((time(start)?, time(end)?));
            }
            "common" => self.common = Labels::new(pairs(&words.braces()?)?),
            "case" => self.case(number, &mut words)?,
            "call" => {
                let call = self.call(&mut words)?;
                let case = self.cases.last_mut().ok_or("a call belongs to a case")?;
                case.exchanges.push(Exchange { line: number, call, expect: Vec::new() });
            }
            "expect" => {
                let expect = self.expect(&mut words)?;
                let case = self.cases.last_mut();
                let exchange = case.and_then(|case| case.exchanges.last_mut()).ok_or("what was called?")?;
                exchange.expect.push(expect);
            }
            other => return Err(format!("unknown word {other}")),
        }
        words.end()
    }

    fn case(&mut self, number: usize, words: &mut Words) -> Result<(), String> {
        let mut case = Case {
            title: words.string()?,
            line: number,
            parity: Vec::new(),
            differs: Vec::new(),
            needs: (0, 0),
            exchanges: Vec::new(),
        };
        while let Some(word) = words.maybe_word()? {
            match word.as_str() {
                "differs" => case.differs.push(words.word()?),
                "needs" => {
                    let version = words.word()?;
                    let (major, minor) = version.split_once('.').ok_or("a version is 3.0")?;
                    case.needs = (number_of(major)?, number_of(minor)?);
                }
                id if id.starts_with("P-") => case.parity.push(word),
                other => return Err(format!("unknown word {other}")),
            }
        }
        self.cases.push(case);
        Ok(())
    }

    fn call(&self, words: &mut Words) -> Result<Call, String> {
        let method = words.word()?;
        let argument = if words.peek() == Some('"') { Some(words.string()?) } else { None };
        let matchers = match words.peek() {
            Some('{') => {
                let text = words.braces()?;
                // The StoreAPI takes a request without matchers; PromQL has no such selector.
                if text == "{}" { vec![] } else { selector::parse(&text).map_err(|err| err.to_string())? }
            }
            _ => vec![],
        };
        if wire::METHODS.iter().any(|(name, _)| *name == method) {
            let options = Options { fields: request_fields(words)?, ..Options::default() };
            return Ok(Call { method, argument, matchers, options });
        }
        let (start_ms, end_ms) = self.window_ms.ok_or("no window was given")?;
        let mut options = Options { start_ms, end_ms, ..Options::default() };
        while let Some(word) = words.maybe_word()? {
            let list = |text: &str| text.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect::<Vec<_>>();
            match word.split_once('=').unwrap_or((&word, "")) {
                ("skip_chunks", "") => options.skip_chunks = true,
                ("start", value) => options.start_ms = time(value)?,
                ("end", value) => options.end_ms = time(value)?,
                ("without", value) => options.without = list(value),
                ("batch", value) => options.batch = number_of(value)?,
                ("limit", value) => options.limit = number_of(value)?,
                ("matcher_type", value) => options.matcher_type = Some(number_of(value)?),
                // shard=0/2:by:pod,node
                ("shard", value) => {
                    let mut parts = value.split(':');
                    let (index, total) =
                        parts.next().and_then(|part| part.split_once('/')).ok_or("shard=INDEX/TOTAL")?;
                    let by = match parts.next() {
                        Some("by") => true,
                        Some("without") | None => false,
                        Some(other) => return Err(format!("shard by or without, not {other}")),
                    };
                    let labels = list(parts.next().unwrap_or_default());
                    options.shard = Some((number_of(index)?, number_of(total)?, by, labels));
                }
                _ => return Err(format!("unknown option {word}")),
            }
        }
        Ok(Call { method, argument, matchers, options })
    }

    fn expect(&mut self, words: &mut Words) -> Result<Expect, String> {
        let word = words.word()?;
        Ok(match word.as_str() {
            "series" => {
                self.open = Open::Series;
                Expect::Series(Vec::new())
            }
            "lines" => {
                self.open = Open::Lines;
                Expect::Lines(Vec::new())
            }
            "has" => {
                self.open = Open::Lines;
                Expect::Has(Vec::new())
            }
            "no" => match words.word()?.as_str() {
                "series" => Expect::Series(Vec::new()),
                "in" if words.rest()?.join(" ") == "order of time" => Expect::InOrderOfTime,
                "names" | "values" => Expect::Words(Vec::new()),
                "lines" => Expect::Lines(Vec::new()),
                other => return Err(format!("unknown word {other}")),
            },
            "in" if words.rest()?.join(" ") == "order of time" => Expect::InOrderOfTime,
            "names" | "values" => Expect::Words(words.rest()?),
            "messages" => Expect::Messages(words.rest()?.iter().map(|n| number_of(n)).collect::<Result<_, _>>()?),
            "chunks" => Expect::Chunks(number_of(&words.word()?)?),
            "warning" => Expect::Warning(words.pattern()?),
            code if code.chars().all(|c| c.is_ascii_uppercase() || c == '_') => {
                let pattern = if words.peek().is_some() { Some(words.pattern()?) } else { None };
                Expect::Status(word, pattern)
            }
            other => return Err(format!("unknown word {other}")),
        })
    }

    fn indented(&mut self, line: &str) -> Result<(), String> {
        let case = self.cases.last_mut();
        let last = case.and_then(|case| case.exchanges.last_mut()).and_then(|exchange| exchange.expect.last_mut());
        match (&self.open, last) {
            (Open::Series, Some(Expect::Series(all))) => all.push(series(line, &self.common)?),
            (Open::Lines, Some(Expect::Lines(all) | Expect::Has(all))) => all.push(line.to_owned()),
            _ => return Err("an indented line belongs to `expect series`, `lines` or `has`".into()),
        }
        Ok(())
    }
}

/// Names and values; the times among them become numbers.
fn request_fields(words: &mut Words) -> Result<Vec<(String, String)>, String> {
    let mut fields = Vec::new();
    while let Some(word) = words.maybe_word()? {
        let (name, value) = word.split_once('=').ok_or("a field is NAME=VALUE")?;
        let value = if ["start", "end"].contains(&name) { time(value)?.to_string() } else { value.to_owned() };
        fields.push((name.to_owned(), value));
    }
    Ok(fields)
}

/// `{a="b"} 1@10s 2@20s`, or `{a="b"} 120 samples 1@10s .. 3@20m`, or no samples at all.
fn series(line: &str, common: &Labels) -> Result<ExpectedSeries, String> {
    let mut words = Words::new(line);
    // An empty value takes a common label away.
    let own = pairs(&words.braces()?)?;
    let common = common.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let labels = Labels::new(common.chain(own));
    let rest = words.rest()?;
    let samples = match rest.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Samples::Any,
        [n, "samples", first, "..", last] => Samples::Span(number_of(n)?, sample(first)?, sample(last)?),
        all => Samples::These(all.iter().map(|text| sample(text)).collect::<Result<_, _>>()?),
    };
    Ok(ExpectedSeries { labels, samples })
}

fn sample(text: &str) -> Result<(i64, f64), String> {
    let (value, at) = text.split_once('@').ok_or("a sample is VALUE@TIME")?;
    Ok((time(at)?, number_of(value)?))
}

/// A label set, written as a selector of equal matchers.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    if text == "{}" {
        return Ok(vec![]);
    }
    let matchers = selector::parse(text).map_err(|err| err.to_string())?;
    if matchers.iter().any(|matcher| matcher.kind != MatchType::Equal) {
        return Err("a label set has only =".into());
    }
    Ok(matchers.into_iter().map(|matcher| (matcher.name, matcher.value)).collect())
}

/// `1h30m`, `-5s`, `1500ms` after the start of the data; `ms:…` since 1970; `max`.
pub fn time(text: &str) -> Result<i64, String> {
    if text == "max" {
        return Ok(i64::MAX);
    }
    if let Some(ms) = text.strip_prefix("ms:") {
        return number_of(ms);
    }
    let (sign, mut rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let mut sum = 0;
    while !rest.is_empty() {
        let n_digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, unit) = rest.split_at(n_digits);
        let n_unit = unit.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = unit.split_at(n_unit);
        let unit_ms = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return Err(format!("{text} is no time")),
        };
        sum += number_of::<i64>(digits)? * unit_ms;
        rest = after;
    }
    Ok(DATA_START_MS + sign * sum)
}

fn number_of<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("{text:?} is no number of the right kind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_the_start_of_the_data() {
        assert_eq!(time("0s"), Ok(DATA_START_MS));
        assert_eq!(time("1h2m3s4ms"), Ok(DATA_START_MS + 3_723_004));
        assert_eq!(time("-1s"), Ok(DATA_START_MS - 1000));
        assert_eq!(time("ms:-5"), Ok(-5));
        assert_eq!(time("max"), Ok(i64::MAX));
        time("5").unwrap_err();
        time("1d").unwrap_err();
    }

    #[test]
    fn a_case_is_read_as_it_is_written() {
        let text = "window 0s..1h\ncommon {region=\"eu\"}\n# Remark.\ncase \"one \\\"case\\\"\" P-ST-01 differs D-06 needs 2.53\n\
            call Series {a=~\"x}\", b=\"\"} end=5m without=r,s shard=1/2:by:a skip_chunks\n\
            expect OK\nexpect series\n  {a=\"x\"} 1@10s NaN@20s\n  {b=\"y\", region=\"\"} 3 samples 1@0s .. 2@5s\nexpect messages 1 1\n\
            call LabelValues \"\" {}\nexpect INVALID_ARGUMENT ~\"empty\"\n";
        let cases = parse(text).unwrap();
        let [case] = cases.as_slice() else { panic!("{cases:?}") };
        assert_eq!((case.title.as_str(), case.line, case.needs), ("one \"case\"", 4, (2, 53)));
        assert_eq!((&case.parity[..], &case.differs[..]), (&["P-ST-01".to_owned()][..], &["D-06".to_owned()][..]));
        let [first, second] = case.exchanges.as_slice() else { panic!("{case:?}") };
        let options = &first.call.options;
        assert_eq!((options.start_ms, options.end_ms), (DATA_START_MS, DATA_START_MS + 300_000));
        assert_eq!(options.shard, Some((1, 2, true, vec!["a".to_owned()])));
        assert_eq!(first.call.matchers[0].value, "x}");
        let Expect::Series(series) = &first.expect[1] else { panic!("{first:?}") };
        assert_eq!(series[0].labels.to_string(), r#"{a="x", region="eu"}"#);
        assert_eq!(series[1].labels.to_string(), r#"{b="y"}"#);
        assert_eq!(series[1].samples, Samples::Span(3, (DATA_START_MS, 1.0), (DATA_START_MS + 5000, 2.0)));
        assert_eq!(second.call.argument.as_deref(), Some(""));
    }

    #[test]
    fn mistakes_are_found_with_their_line() {
        let check = |text: &str, expected: &str| {
            let err = parse(text).unwrap_err();
            assert!(err.contains(expected), "{text}: {err}");
        };
        check("case \"a\"\n", "line 1: a case needs a call");
        check("window 0s..1h\ncase \"a\"\ncall Info\n", "line 2: a case needs a call, and every call");
        check("case \"a\"\ncall Series {a=\"b\"}", "line 2: no window");
        check("call Info", "no window");
        check("window 0s..1h\ncase \"a\"\ncall Info x=1", "line 3: unknown option x=1");
        check("  {a=\"b\"}", "line 1: an indented line");
        check("case \"a\" D-06", "line 1: unknown word D-06");
        check("common {a!=\"b\"}", "line 1: a label set has only =");
    }
}
