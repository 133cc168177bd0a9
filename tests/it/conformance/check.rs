//! Compares an answer with what a case expects, and with what every answer owes whatever the case says. Pure.

use pillion_base::labels::Labels;
use pillion_proto::thanos_types::chunk::Encoding;
use pillion_proto::thanos_types::{AggrChunk, Series};
use pillion_read::xor;
use twox_hash::XxHash64;

use super::case::{Call, Exchange, Expect, ExpectedSeries, Pattern, Samples};
use super::client::Answer;
use super::show;

/// One series as it is compared: neighbouring messages of equal labels are one, samples are in order of time.
struct Seen {
    labels: Labels,
    samples: Vec<(i64, f64)>,
    /// Whether they came in that order.
    in_order: bool,
}

/// Everything that is wrong with the answer, a line each.
pub fn check(exchange: &Exchange, answer: &Answer) -> Vec<String> {
    let mut faults = Vec::new();
    let status = exchange.expect.iter().find_map(|expect| match expect {
        Expect::Status(code, pattern) => Some((code.as_str(), pattern.as_ref())),
        _ => None,
    });
    let (code, pattern) = status.unwrap_or(("OK", None));
    if answer.code != code || pattern.is_some_and(|pattern| !fits(pattern, &answer.message)) {
        let expected = pattern.map_or_else(String::new, |pattern| format!(" {}", pattern.text));
        faults.push(format!("expected {code}{expected}, got {} {}", answer.code, answer.message));
    }
    let seen = owed(&exchange.call, &answer.series, &mut faults);
    if !answer.lines.is_empty() && exchange.call.method == "Series" {
        faults.extend(answer.lines.clone());
    }
    for expect in &exchange.expect {
        match expect {
            Expect::Status(..) => {}
            Expect::Series(expected) => compare_series(expected, &seen, &mut faults),
            Expect::Messages(expected) => compare("series per message", expected, &answer.messages, &mut faults),
            Expect::Chunks(expected) => {
                let n_chunks: usize = answer.series.iter().map(|series| series.chunks.len()).sum();
                compare("chunks", expected, &n_chunks, &mut faults);
            }
            Expect::InOrderOfTime => {
                let jumbled = seen.iter().find(|series| !series.in_order || series.samples.is_empty());
                faults.extend(jumbled.map(|series| format!("the samples of {} are out of order", series.labels)));
            }
            Expect::Words(expected) => compare("list", expected, &answer.words, &mut faults),
            Expect::Lines(expected) => {
                let fit = expected.iter().zip(&answer.lines).all(|(pattern, line)| globs(pattern, line));
                if expected.len() != answer.lines.len() || !fit {
                    faults.push(differing_lines(expected, &answer.lines));
                }
            }
            Expect::Has(expected) => {
                let mut missing = expected.clone();
                missing.retain(|pattern| !answer.lines.iter().any(|line| globs(pattern, line)));
                if !missing.is_empty() {
                    faults.push(differing_lines(&missing, &answer.lines));
                }
            }
            Expect::Warning(pattern) => {
                if !answer.warnings.iter().any(|warning| fits(pattern, warning)) {
                    faults.push(format!("expected the warning {}, got {:?}", pattern.text, answer.warnings));
                }
            }
        }
    }
    // A case that says nothing about warnings says that there is none.
    if !exchange.expect.iter().any(|expect| matches!(expect, Expect::Warning(_))) && !answer.warnings.is_empty() {
        faults.push(format!("unexpected warnings {:?}", answer.warnings));
    }
    faults
}

fn fits(pattern: &Pattern, text: &str) -> bool {
    if pattern.contained { text.contains(&pattern.text) } else { text == pattern.text }
}

/// Whether the text is the pattern's, in which `*` stands for any text.
fn globs(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.any(|at| globs(rest, &text[at..]))
        }),
    }
}

fn differing_lines(expected: &[String], got: &[String]) -> String {
    let list = |lines: &[String]| lines.iter().map(|line| format!("\n          {line}")).collect::<String>();
    format!("lines: expected{}\n        got{}", list(expected), list(got))
}

fn compare<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, got: &T, faults: &mut Vec<String>) {
    if expected != got {
        faults.push(format!("{what}: expected {expected:?}\n{:>10}{:width$}got {got:?}", "", "", width = what.len()));
    }
}

/// What holds for every Series answer: labels sorted by name and not empty, none of the unwanted ones, series in order,
/// chunks that are what they say, hashed, and none where none are wanted.
fn owed(call: &Call, all: &[Series], faults: &mut Vec<String>) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    for series in all {
        let labels = show::series_labels(series);
        let names: Vec<&str> = series.labels.iter().map(|label| label.name.as_str()).collect();
        if !labels.iter().map(|(name, _)| name).eq(names.iter().copied()) {
            faults.push(format!("labels are unsorted, doubled or empty: {:?}", series.labels));
        }
        if let Some(unwanted) = call.options.without.iter().find(|name| labels.value(name).is_some()) {
            faults.push(format!("{labels} has the label {unwanted}"));
        }
        let mut samples = Vec::new();
        for chunk in &series.chunks {
            chunk_samples(chunk, &mut samples).unwrap_or_else(|err| faults.push(format!("a chunk of {labels}: {err}")));
        }
        match (call.options.skip_chunks, series.chunks.is_empty()) {
            (true, false) => faults.push(format!("{labels} has chunks")),
            (false, true) => faults.push(format!("{labels} has no chunk")),
            _ => {}
        }
        match seen.last_mut() {
            Some(last) if last.labels == labels => last.samples.extend(samples),
            last => {
                if last.is_some_and(|last| last.labels > labels) {
                    faults.push(format!("{labels} comes too late"));
                }
                seen.push(Seen { labels, samples, in_order: true });
            }
        }
    }
    for series in &mut seen {
        series.in_order = series.samples.is_sorted_by_key(|sample| sample.0);
        series.samples.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    }
    seen
}

/// Adds the samples of a chunk, whose head has to fit them.
fn chunk_samples(chunk: &AggrChunk, samples: &mut Vec<(i64, f64)>) -> Result<(), String> {
    let raw = chunk.raw.as_ref().ok_or("it has no raw part")?;
    let hash = XxHash64::oneshot(0, &raw.data);
    if raw.hash != hash {
        return Err(format!("its hash is {:x}, that of its data {hash:x}", raw.hash));
    }
    if raw.type_.enum_value() != Ok(Encoding::XOR) {
        return Err(format!("its type is {:?}", raw.type_));
    }
    let mut decoded = Vec::new();
    xor::decode(&raw.data, &mut decoded).map_err(|err| err.to_string())?;
    let ends = (decoded.first().map(|s| s.time_ms), decoded.last().map(|s| s.time_ms));
    if ends != (Some(chunk.min_time), Some(chunk.max_time)) {
        return Err(format!("it says {} to {} but holds {ends:?}", chunk.min_time, chunk.max_time));
    }
    samples.extend(decoded.into_iter().map(|sample| (sample.time_ms, sample.value)));
    Ok(())
}

fn compare_series(expected: &[ExpectedSeries], seen: &[Seen], faults: &mut Vec<String>) {
    let fits = |(expected, seen): (&ExpectedSeries, &Seen)| {
        let n_faults = match &expected.samples {
            Samples::Any => true,
            Samples::These(samples) => same(samples, &seen.samples),
            Samples::Span(n, first, last) => {
                let ends = (seen.samples.first().copied(), seen.samples.last().copied());
                let (Some(first_seen), Some(last_seen)) = ends else { return false };
                *n == seen.samples.len() && same(&[*first, *last], &[first_seen, last_seen])
            }
        };
        n_faults && expected.labels == seen.labels
    };
    if expected.len() != seen.len() || !expected.iter().zip(seen).all(fits) {
        let mut text = String::from("series: expected");
        for series in expected {
            text.push_str(&format!("\n          {} {}", series.labels, show_samples(&series.samples)));
        }
        text.push_str("\n        got");
        for series in seen {
            text.push_str(&format!("\n          {} {}", series.labels, show_some(&series.samples)));
        }
        faults.push(text);
    }
}

/// Any NaN equals any other, and 0 is not -0.
fn same(a: &[(i64, f64)], b: &[(i64, f64)]) -> bool {
    let equal = |a: f64, b: f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && equal(a.1, b.1))
}

fn show_samples(samples: &Samples) -> String {
    match samples {
        Samples::Any => "with any samples".into(),
        Samples::These(samples) => show_some(samples),
        Samples::Span(n, first, last) => format!("{n} samples {} .. {}", show_some(&[*first]), show_some(&[*last])),
    }
}

fn show_some(samples: &[(i64, f64)]) -> String {
    let one = |(time_ms, value): &(i64, f64)| format!("{value}@{}", show::time(*time_ms));
    match samples {
        [first, .., last] if samples.len() > 12 => format!("{} samples {} .. {}", samples.len(), one(first), one(last)),
        all => all.iter().map(one).collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::super::case;
    use super::*;

    use pillion_proto::thanos_types::Label;

    fn answer(names: &[&str]) -> Answer {
        let series = names.iter().map(|value| Series {
            labels: vec![Label { name: "a".into(), value: (*value).into(), ..Default::default() }],
            ..Default::default()
        });
        Answer {
            code: "OK".into(),
            message: String::new(),
            series: series.collect(),
            messages: vec![1; names.len()],
            words: vec![],
            lines: vec![],
            warnings: vec![],
        }
    }

    /// The faults of an answer of two series under a case with these expectations.
    fn faults(expect: &str, options: &str, change: impl FnOnce(&mut Answer)) -> String {
        let text = format!("window 0s..1s\ncase \"x\"\ncall Series {{a=~\".*\"}} {options}\n{expect}");
        let cases = case::parse(&text).unwrap();
        let mut answer = answer(&["1", "2"]);
        change(&mut answer);
        check(&cases[0].exchanges[0], &answer).join("\n")
    }

    #[test]
    fn a_star_stands_for_any_text() {
        let check = |pattern, text, expected| assert_eq!(globs(pattern, text), expected, "{pattern} {text}");
        check("a=* b=2", "a=1 b=2", true);
        check("a=* b=2", "a= b=2", true);
        check("a=* b=2", "a=1 b=3", false);
        check("a=* b=2", "a=1 b=2 c=3", false);
        check("*é*", "xéy", true);
        check("a", "ab", false);
    }

    #[test]
    fn a_right_answer_passes() {
        let right = "expect series\n  {a=\"1\"}\n  {a=\"2\"}\nexpect messages 1 1\nexpect chunks 0";
        assert_eq!(faults(right, "skip_chunks", |_| {}), "");
    }

    #[test]
    fn every_kind_of_wrong_answer_is_found() {
        let check = |expect: &str, options: &str, change: fn(&mut Answer), fault: &str| {
            let faults = faults(expect, options, change);
            assert!(faults.contains(fault), "{fault}: {faults}");
        };
        check("expect no series", "skip_chunks", |_| {}, "series: expected");
        check("expect series\n  {a=\"1\"}\n  {a=\"2\"} 1@0s", "skip_chunks", |_| {}, "series: expected");
        check("expect OK", "", |_| {}, "has no chunk");
        check("expect OK", "skip_chunks", |a| a.series.swap(0, 1), "comes too late");
        check("expect OK", "skip_chunks without=a", |_| {}, "has the label a");
        check("expect OK", "skip_chunks", |a| a.warnings.push("w".into()), "unexpected warnings");
        check("expect warning \"v\"", "skip_chunks", |a| a.warnings.push("w".into()), "expected the warning v");
        check("expect UNKNOWN", "skip_chunks", |_| {}, "expected UNKNOWN, got OK");
        check("expect OK", "skip_chunks", |a| a.code = "UNKNOWN".into(), "expected OK, got UNKNOWN");
        check("expect messages 2", "skip_chunks", |_| {}, "series per message");
        check("expect OK", "skip_chunks", |a| a.series[0].chunks.push(AggrChunk::default()), "has chunks");
        check("expect OK", "", |a| a.series[0].chunks.push(AggrChunk::default()), "no raw part");
        check("expect OK", "skip_chunks", |a| a.series[0].labels[0].value.clear(), "unsorted, doubled or empty");
        check("expect lines\n  x", "skip_chunks", |_| {}, "lines: expected");
        check("expect has\n  x", "skip_chunks", |_| {}, "lines: expected");
        check("expect in order of time", "skip_chunks", |_| {}, "out of order");
        let wrong_hash = |answer: &mut Answer| {
            let raw = pillion_proto::thanos_types::Chunk { hash: 1, ..Default::default() };
            answer.series[0].chunks.push(AggrChunk { raw: Some(raw).into(), ..Default::default() });
        };
        check("expect OK", "", wrong_hash, "its hash is 1");
    }
}
