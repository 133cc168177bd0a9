//! Regular expressions beside Go's: thousands of patterns with what the library that Prometheus links does with each.
//! data/re2/README.txt says how they were made.

use std::collections::BTreeSet;

use pillion_read::re2::{Effort, is_match};

/// The text of a field.
fn text(field: &str) -> String {
    let mut out = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        rest = match after.strip_prefix("u{") {
            Some(number) => {
                let (number, rest) = number.split_once('}').unwrap();
                out.push(char::from_u32(u32::from_str_radix(number, 16).unwrap()).unwrap());
                rest
            }
            None => {
                out.push('\\');
                after.strip_prefix('\\').unwrap()
            }
        };
    }
    out + rest
}

/// Whether the text with this number matches.
fn bit(bits: &str, idx: usize) -> bool {
    let digit = u32::from_str_radix(&bits[idx / 4..=idx / 4], 16).unwrap();
    digit >> (idx % 4) & 1 == 1
}

/// What is wrong with one row.
fn differences(line: &str, pool: &[String]) -> Vec<String> {
    let mut fields = line.split('\t');
    let pattern = text(fields.next().unwrap());
    let bits = fields.next().unwrap();
    let judge = |text: &str| is_match(&pattern, text, &mut Effort::default());
    if let Some(error) = bits.strip_prefix('!') {
        // Whether a pattern is refused does not depend on the text.
        let found = [judge(""), judge("a-long-text-of-letters")].map(|found| format!("{found:?}"));
        let expected = format!("{:?}", Err::<bool, _>(text(error)));
        return found.into_iter().filter(|found| *found != expected).collect();
    }
    let own_bits = fields.next().unwrap();
    let own: Vec<String> = fields.map(text).collect();
    let all = pool.iter().enumerate().map(|(idx, text)| (text, bit(bits, idx)));
    let all = all.chain(own.iter().enumerate().map(|(idx, text)| (text, bit(own_bits, idx))));
    all.filter_map(|(text, expected)| match judge(text) {
        Ok(found) if found == expected => None,
        found => Some(format!("{text:?}: {found:?}, expected {expected}")),
    })
    .collect()
}

#[test]
fn patterns_mean_what_they_mean_to_prometheus() {
    let rows = include_str!("../data/re2/rows.txt");
    let mut lines = rows.lines().filter(|line| !line.starts_with("# "));
    let pool: Vec<String> = lines.next().unwrap().strip_prefix("pool\t").unwrap().split('\t').map(text).collect();
    let (mut n_rows, mut n_refused, mut kinds) = (0, 0, BTreeSet::new());
    let mut wrong = Vec::new();
    for line in lines {
        n_rows += 1;
        if let Some((_, error)) = line.split_once("\t!error parsing regexp: ") {
            n_refused += 1;
            kinds.insert(error.split(": `").next().unwrap());
        }
        let found = differences(line, &pool);
        if !found.is_empty() {
            wrong.push(format!("{line}\n    {}", found.join("\n    ")));
        }
    }
    assert!(wrong.is_empty(), "{} of {n_rows}:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    // The table is what it should be.
    assert!(n_rows > 7000 && n_refused > 1000, "{n_rows} rows, {n_refused} refused");
    assert_eq!(kinds.len(), 13, "{kinds:?}");
}
