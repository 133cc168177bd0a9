//! PromQL selectors: any text is one or an error on a column that exists, and what is written of one, for Prometheus or for
//! people, is read back as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_base::error::Kind;
use pillion_base::matcher::{MatchType, Matcher};
use pillion_fuzz::Dice;
use pillion_read::prom;
use pillion_read::selector::{parse, selector_text};

fn check(matchers: &[Matcher]) {
    let text = prom::selector(matchers);
    assert_eq!(parse(&text).unwrap_or_else(|err| panic!("{err}")), matchers, "{text}");
}

/// A label set as people see it, which has each name once.
fn check_labels(mut labels: Vec<(String, String)>) {
    labels.sort();
    labels.dedup_by(|a, b| a.0 == b.0);
    // A metric's name comes first, and is not empty.
    labels.sort_by_key(|(name, _)| name != "__name__");
    labels.retain(|(name, value)| name != "__name__" || !value.is_empty());
    if labels.is_empty() {
        return;
    }
    let text = selector_text(&labels);
    let read = parse(&text).unwrap_or_else(|err| panic!("{err}"));
    assert!(read.iter().all(|matcher| matcher.kind == MatchType::Equal));
    assert_eq!(read.into_iter().map(|matcher| (matcher.name, matcher.value)).collect::<Vec<_>>(), labels, "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    match parse(&text) {
        Ok(matchers) => {
            assert!(!matchers.is_empty() && matchers.iter().all(|matcher| !matcher.name.is_empty()));
            check(&matchers);
        }
        Err(err) => {
            assert_eq!(err.kind(), Kind::BadRequest);
            let shown = err.to_string();
            let rest = shown.strip_prefix(&format!("parse selector {text}: column ")).expect("a column");
            let column: usize = rest.split_once(':').and_then(|(column, _)| column.parse().ok()).expect("a number");
            assert!((1..=text.chars().count() + 1).contains(&column), "{shown}");
        }
    }

    let mut dice = Dice(data);
    let mut matchers = Vec::new();
    while !dice.0.is_empty() {
        let step = dice.byte();
        let name = dice.text(usize::from(step >> 2 & 7));
        let value = dice.text(usize::from(step >> 5) * 3);
        let kinds = [MatchType::Equal, MatchType::NotEqual, MatchType::Regex, MatchType::NotRegex];
        if !name.is_empty() {
            matchers.push(Matcher { kind: kinds[usize::from(step & 3)], name, value });
        }
    }
    if !matchers.is_empty() {
        check(&matchers);
        check_labels(matchers.into_iter().map(|matcher| (matcher.name, matcher.value)).collect());
    }
});
