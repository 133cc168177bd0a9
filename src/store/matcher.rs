//! Label matchers of the StoreAPI, and what they say about the external labels. Pure.

use regex::Regex;

use crate::error::{Error, Kind, Result};
use crate::labels::Labels;
use crate::pb::thanos_types::{LabelMatcher, label_matcher};
use crate::prom::request::{MatchType, Matcher};

/// What is left to ask Prometheus once the external labels had their say.
#[derive(Debug, PartialEq, Eq)]
pub enum Selection {
    /// Some matcher contradicts an external label: nothing here matches.
    Nothing,
    /// Matchers for Prometheus; those on external labels are satisfied and gone.
    Matchers(Vec<Matcher>),
}

/// Splits the matchers of a request: those on external labels are decided here, the others are for Prometheus.
///
/// `Errors:` `BadRequest` for an unknown type, or a pattern on an external label that does not compile.
pub fn select(matchers: &[LabelMatcher], external: &Labels) -> Result<Selection> {
    let mut kept = Vec::with_capacity(matchers.len());
    let mut contradicted = false;
    for proto in matchers {
        let matcher = matcher(proto)?;
        match external.value(&matcher.name) {
            // Prometheus knows its own dialect best.
            None => kept.push(matcher),
            Some(value) => contradicted |= !matches(&matcher, value)?,
        }
    }
    Ok(if contradicted { Selection::Nothing } else { Selection::Matchers(kept) })
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

/// Whether an external label's value fulfils a matcher. Patterns are anchored, and `.` matches a newline too, as in
/// Prometheus.
fn matches(matcher: &Matcher, value: &str) -> Result<bool> {
    let pattern = || {
        Regex::new(&format!("^(?s:{})$", matcher.value))
            .map_err(|err| Error::new(Kind::BadRequest, format!("bad pattern for label {:?}: {err}", matcher.name)))
    };
    Ok(match matcher.kind {
        MatchType::Equal => matcher.value == value,
        MatchType::NotEqual => matcher.value != value,
        MatchType::Regex => pattern()?.is_match(value),
        MatchType::NotRegex => !pattern()?.is_match(value),
    })
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

    #[test]
    fn a_dot_matches_a_newline() {
        let external = Labels::new([("text", "a\nb")]);
        assert_eq!(select(&[proto(2, "text", "a.b")], &external).unwrap(), Selection::Matchers(vec![]));
        assert_eq!(select(&[proto(2, "text", "a")], &external).unwrap(), Selection::Nothing);
    }
}
