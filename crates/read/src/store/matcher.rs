//! Label matchers of the StoreAPI, and what they say about the external labels. Pure.

use regex_lite::Regex;

use pillion_base::error::{Error, Kind, Result};
use pillion_base::labels::Labels;
use pillion_base::matcher::{MatchType, Matcher};
use pillion_proto::thanos_types::{LabelMatcher, label_matcher};

/// What is left for Prometheus when the matchers on external labels are decided.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// Some matcher contradicts an external label: nothing here matches.
    Nothing,
    /// Matchers for Prometheus; those on external labels are satisfied and gone.
    Matchers(Vec<Matcher>),
}

/// Splits the matchers of a request: those on external labels are decided here, the others are for Prometheus.
///
/// `Errors:` `BadRequest` for an unknown type, or a pattern on an external label that does not compile.
pub(crate) fn select(matchers: &[LabelMatcher], external: &Labels) -> Result<Selection> {
    let mut kept = Vec::with_capacity(matchers.len());
    let mut contradicted = false;
    for proto in matchers {
        let matcher = matcher(proto)?;
        match external.value(&matcher.name) {
            // Patterns on other labels are judged by Prometheus itself.
            None => kept.push(matcher),
            Some(value) => contradicted |= !matches(&matcher, value)?,
        }
    }
    Ok(if contradicted { Selection::Nothing } else { Selection::Matchers(kept) })
}

/// Whether a label set satisfies the matchers; a label that is not there has the empty value.
///
/// `Errors:` `BadRequest` for an unknown type or a pattern that does not compile.
pub(crate) fn select_labels(matchers: &[LabelMatcher], labels: &Labels) -> Result<bool> {
    let mut are_satisfied = true;
    for proto in matchers {
        let matcher = matcher(proto)?;
        are_satisfied &= matches(&matcher, labels.value(&matcher.name).unwrap_or_default())?;
    }
    Ok(are_satisfied)
}

fn matcher(proto: &LabelMatcher) -> Result<Matcher> {
    let kind = match proto.type_.enum_value() {
        Ok(label_matcher::Type::EQ) => MatchType::Equal,
        Ok(label_matcher::Type::NEQ) => MatchType::NotEqual,
        Ok(label_matcher::Type::RE) => MatchType::Regex,
        Ok(label_matcher::Type::NRE) => MatchType::NotRegex,
        Err(number) => {
            return Err(Error::new(Kind::BadRequest, format!("unrecognized label matcher type {number}")));
        }
    };
    Ok(Matcher { kind, name: proto.name.clone(), value: proto.value.clone() })
}

/// Whether an external label's value satisfies a matcher. Patterns are anchored, and `.` matches a newline too, as in
/// Prometheus.
///
/// `Differs:` case is ignored among ASCII letters only, so a pattern with the flag `i` is refused where other letters
/// occur.
fn matches(matcher: &Matcher, value: &str) -> Result<bool> {
    let bad = |why: &str| Error::new(Kind::BadRequest, format!("bad pattern for label {:?}: {why}", matcher.name));
    let pattern = || {
        if ignores_case(&matcher.value) && !(matcher.value.is_ascii() && value.is_ascii()) {
            return Err(bad("the flag i is supported among ASCII letters only"));
        }
        Regex::new(&format!("^(?s:{})$", matcher.value)).map_err(|err| bad(&err.to_string()))
    };
    Ok(match matcher.kind {
        MatchType::Equal => matcher.value == value,
        MatchType::NotEqual => matcher.value != value,
        MatchType::Regex => pattern()?.is_match(value),
        MatchType::NotRegex => !pattern()?.is_match(value),
    })
}

/// Whether a pattern sets the flag `i` somewhere, such as `(?i)` or `(?s-i:x)`; also true for text that only looks like it.
fn ignores_case(pattern: &str) -> bool {
    let flags = |group: &str| {
        group.bytes().take_while(|byte| byte.is_ascii_alphabetic() || *byte == b'-').any(|flag| flag == b'i')
    };
    pattern.split("(?").skip(1).any(flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::EnumOrUnknown;

    fn proto(kind: i32, name: &str, value: &str) -> LabelMatcher {
        LabelMatcher {
            type_: EnumOrUnknown::from_i32(kind),
            name: name.into(),
            value: value.into(),
            ..Default::default()
        }
    }

    /// What is left of one matcher, with the external label `region="eu-west"`.
    fn check(kind: i32, name: &str, value: &str, expected: &str) {
        let external = Labels::new([("region", "eu-west")]);
        let got = match select(&[proto(kind, name, value)], &external) {
            Ok(Selection::Nothing) => "nothing".into(),
            Ok(Selection::Matchers(left)) => crate::prom::request::selector(&left),
            Err(err) => format!("{:?}", err.kind()),
        };
        assert_eq!(got, expected, "{kind} {name} {value}");
    }

    #[test]
    fn external_labels_decide_their_matchers() {
        check(0, "region", "eu-west", "{}");
        check(0, "region", "eu", "nothing");
        check(0, "region", "", "nothing");
        check(1, "region", "eu", "{}");
        check(1, "region", "eu-west", "nothing");
        check(2, "region", "eu.*", "{}");
        check(2, "region", "eu", "nothing");
        check(2, "region", "eu|eu-west", "{}");
        check(3, "region", "us.*", "{}");
        check(3, "region", ".+", "nothing");
        check(0, "job", "x", r#"{job="x"}"#);
        check(3, "job", "x.*", r#"{job!~"x.*"}"#);
    }

    #[test]
    fn bad_matchers_are_the_callers_fault_even_when_nothing_would_match() {
        check(2, "region", "a(", "BadRequest");
        // Prometheus judges the patterns that it gets.
        check(2, "job", r"\Qa.b\E", r#"{job=~"\\Qa.b\\E"}"#);
        check(7, "job", "a", "BadRequest");
        let external = Labels::new([("region", "eu")]);
        select(&[proto(0, "region", "us"), proto(2, "region", "[")], &external).unwrap_err();
    }

    /// What RE2 answers, and Prometheus with it.
    #[test]
    fn patterns_mean_what_they_mean_to_prometheus() {
        for (pattern, matching, other) in [
            ("eu-.+", "eu-west", "eu-"),
            ("", "", "x"),
            ("a|b", "b", "ab"),
            ("(?:a|b)c?", "bc", "abc"),
            ("(?P<x>a)+", "aaa", ""),
            ("(?i)EU", "eu", "us"),
            ("(?i:e)U", "EU", "Eu"),
            ("[a-c[:digit:]]{2,3}", "a1c", "abcd"),
            ("[^a-c]", "ü", "a"),
            (r"\d\w\s\D\W\S", "1_ a-b", "1_xa-b"),
            (r"\d", "7", "\u{0667}"),
            (r"\w", "a", "ü"),
            (r"\x{fc}\x41", "üA", "uA"),
            (r"a\.b", "a.b", "axb"),
            (r".*\bb\b", "a b", "ab"),
            (r"\Aa\z", "a", "b"),
            ("(?m)^a$", "a", "a\nb"),
            ("a*?b+?", "aabb", "aa"),
            ("(?U)a+", "aa", "b"),
        ] {
            let matcher = |value: &str| Matcher { kind: MatchType::Regex, name: "x".into(), value: value.into() };
            assert!(matches(&matcher(pattern), matching).unwrap(), "{pattern} {matching}");
            assert!(!matches(&matcher(pattern), other).unwrap(), "{pattern} {other}");
        }
    }

    #[test]
    fn patterns_that_would_mean_something_else_are_refused() {
        let external = Labels::new([("region", "eu"), ("city", "Köln")]);
        for (name, pattern) in [
            ("region", r"\pL+"),
            ("region", r"\Qa\E"),
            ("region", r"\C"),
            ("city", "(?i)k.*"),
            ("region", "a|(?s-i:ü)"),
        ] {
            let err = select(&[proto(2, name, pattern)], &external).unwrap_err();
            assert!(err.to_string().starts_with("bad pattern for label "), "{pattern}: {err}");
        }
        select(&[proto(2, "city", "K.*"), proto(2, "region", "(?i)EU|(?is:x)")], &external).unwrap();
    }

    #[test]
    fn a_dot_matches_a_newline() {
        let external = Labels::new([("text", "a\nb")]);
        assert_eq!(select(&[proto(2, "text", "a.b")], &external).unwrap(), Selection::Matchers(vec![]));
        assert_eq!(select(&[proto(2, "text", "a")], &external).unwrap(), Selection::Nothing);
    }
}
