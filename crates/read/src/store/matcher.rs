//! Label matchers of the StoreAPI, and what they say about the external labels. Pure.

use crate::prom::request;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::labels::Labels;
use pillion_base::matcher::{MatchType, Matcher};
use pillion_proto::thanos_types::{LabelMatcher, label_matcher};

use crate::re2::{self, Effort};

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
    let mut effort = Effort::default();
    for proto in matchers {
        let matcher = matcher(proto)?;
        match external.value(&matcher.name) {
            // Patterns on other labels are judged by Prometheus itself.
            None => kept.push(matcher),
            Some(value) => contradicted |= !matches(&matcher, value, &mut effort)?,
        }
    }
    Ok(if contradicted { Selection::Nothing } else { Selection::Matchers(kept) })
}

/// The matchers of a request as one selector of PromQL, for people. Those of an unknown type are left out.
pub fn selector(matchers: &[LabelMatcher]) -> String {
    let matchers: Vec<_> = matchers.iter().filter_map(|proto| matcher(proto).ok()).collect();
    request::selector(&matchers)
}

/// Whether a label set satisfies the matchers; a label that is not there has the empty value.
///
/// `Errors:` `BadRequest` for an unknown type or a pattern that does not compile.
pub(crate) fn select_labels(matchers: &[LabelMatcher], labels: &Labels) -> Result<bool> {
    let mut are_satisfied = true;
    let mut effort = Effort::default();
    for proto in matchers {
        let matcher = matcher(proto)?;
        are_satisfied &= matches(&matcher, labels.value(&matcher.name).unwrap_or_default(), &mut effort)?;
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

/// Whether an external label's value satisfies a matcher.
fn matches(matcher: &Matcher, value: &str, effort: &mut Effort) -> Result<bool> {
    let mut pattern = || {
        re2::is_match(&matcher.value, value, effort)
            .map_err(|why| Error::new(Kind::BadRequest, format!("bad pattern for label {:?}: {why}", matcher.name)))
    };
    Ok(match matcher.kind {
        MatchType::Equal => matcher.value == value,
        MatchType::NotEqual => matcher.value != value,
        MatchType::Regex => pattern()?,
        MatchType::NotRegex => !pattern()?,
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
    fn patterns_on_external_labels_are_read_as_prometheus_reads_them() {
        check(2, "region", r"\Qeu-\E\pL+", "{}");
        check(2, "region", r"(?i)\105U-WEST", "{}");
        check(2, "region", "[a-z&&[^e]]+-west", "nothing");
        check(3, "region", "[eu&&]+-west", "nothing");
        check(2, "region", r"eu\>.*", "nothing");
        check(2, "region", "z{1|eu-west", "{}");
    }

    #[test]
    fn the_error_says_which_label_and_why() {
        let error = |pattern: &str| {
            let external = Labels::new([("region", "eu")]);
            select(&[proto(3, "region", pattern)], &external).unwrap_err().to_string()
        };
        let reason = r"error parsing regexp: invalid escape sequence: `\C`";
        assert_eq!(error(r"\C"), format!("bad pattern for label \"region\": {reason}"));
    }

    /// What the patterns of one request cost is counted together.
    #[test]
    fn many_patterns_are_bounded() {
        let value = "a".repeat(500);
        let external = Labels::new([("region", value.as_str())]);
        let costly = proto(2, "region", "(?:a?){500}a{0,500}");
        select(std::slice::from_ref(&costly), &external).unwrap();
        let err = select(&vec![costly; 1000], &external).unwrap_err();
        assert_eq!((err.kind(), err.to_string().contains("too much work")), (Kind::BadRequest, true), "{err}");
    }

    #[test]
    fn a_dot_matches_a_newline() {
        let external = Labels::new([("text", "a\nb")]);
        assert_eq!(select(&[proto(2, "text", "a.b")], &external).unwrap(), Selection::Matchers(vec![]));
        assert_eq!(select(&[proto(2, "text", "a")], &external).unwrap(), Selection::Nothing);
    }
}
