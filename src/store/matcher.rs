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
/// `Errors:` `BadRequest` for an unknown type or a pattern that does not compile.
pub fn select(matchers: &[LabelMatcher], external: &Labels) -> Result<Selection> {
    let compiled = matchers.iter().map(Compiled::new).collect::<Result<Vec<_>>>()?;
    let mut kept = Vec::with_capacity(compiled.len());
    let mut contradicted = false;
    for matcher in compiled {
        match external.value(&matcher.matcher.name) {
            None => kept.push(matcher.matcher),
            Some(value) => contradicted |= !matcher.matches(value),
        }
    }
    Ok(if contradicted { Selection::Nothing } else { Selection::Matchers(kept) })
}

/// Whether a label set satisfies the matchers; a label that is not there has the empty value.
///
/// `Errors:` as [`select`].
pub fn select_labels(matchers: &[LabelMatcher], labels: &Labels) -> Result<bool> {
    let compiled = matchers.iter().map(Compiled::new).collect::<Result<Vec<_>>>()?;
    Ok(compiled.iter().all(|matcher| matcher.matches(labels.value(&matcher.matcher.name).unwrap_or_default())))
}

struct Compiled {
    matcher: Matcher,
    pattern: Option<Regex>,
}

impl Compiled {
    fn new(proto: &LabelMatcher) -> Result<Self> {
        let kind = match proto.type_.enum_value() {
            Ok(label_matcher::Type::EQ) => MatchType::Equal,
            Ok(label_matcher::Type::NEQ) => MatchType::NotEqual,
            Ok(label_matcher::Type::RE) => MatchType::Regex,
            Ok(label_matcher::Type::NRE) => MatchType::NotRegex,
            Err(number) => {
                return Err(Error::new(Kind::BadRequest, format!("unrecognized label matcher type {number}")));
            }
        };
        let pattern = match kind {
            MatchType::Equal | MatchType::NotEqual => None,
            // Prometheus's dialect: the whole value must match, and `.` matches a newline too.
            MatchType::Regex | MatchType::NotRegex => {
                Some(Regex::new(&format!("^(?s:{})$", proto.value)).map_err(|err| {
                    Error::new(Kind::BadRequest, format!("bad pattern for label {:?}: {err}", proto.name))
                })?)
            }
        };
        Ok(Compiled { matcher: Matcher { kind, name: proto.name.clone(), value: proto.value.clone() }, pattern })
    }

    fn matches(&self, value: &str) -> bool {
        match (&self.pattern, self.matcher.kind) {
            (Some(pattern), MatchType::NotRegex) => !pattern.is_match(value),
            (Some(pattern), _) => pattern.is_match(value),
            (None, MatchType::NotEqual) => self.matcher.value != value,
            (None, _) => self.matcher.value == value,
        }
    }
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
        check(2, "job", "a(", "BadRequest");
        check(7, "job", "a", "BadRequest");
        let external = Labels::new([("region", "eu")]);
        select(&[proto(0, "region", "us"), proto(2, "job", "[")], &external).unwrap_err();
    }

    #[test]
    fn a_dot_matches_a_newline() {
        let external = Labels::new([("text", "a\nb")]);
        assert_eq!(select(&[proto(2, "text", "a.b")], &external).unwrap(), Selection::Matchers(vec![]));
        assert_eq!(select(&[proto(2, "text", "a")], &external).unwrap(), Selection::Nothing);
    }
}
