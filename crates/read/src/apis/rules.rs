//! `thanos.Rules`: the rule groups of Prometheus, one message each. Pure.
//!
//! Only the type filter of a request is honoured, as in Thanos; a querier applies the other filters itself.

use protobuf::EnumOrUnknown;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::apis::shape::{Map, Time, by_name, extended, label_set, shape};
use crate::apis::{Api, Params};
use pillion_base::labels::Labels;
use pillion_proto::thanos_rules as pb;
use pillion_proto::thanos_rules::rules_request::Type;
use pillion_proto::thanos_types::PartialResponseStrategy as Strategy;

/// `thanos.Rules/Rules`
pub struct Rules;

shape! {
    /// What `/api/v1/rules` answers.
    Data { groups: Vec<Group>, }
}

shape! {
    /// A rule group.
    Group {
        name: String,
        file: String,
        rules: Vec<Rule>,
        interval: f64,
        evaluation_time: f64,
        last_evaluation: Time,
        limit: i64,
    }
}

shape! {
    /// A rule of either kind, told apart by its type.
    Rule {
        #[serde(rename = "type")]
        kind: Kind,
        name: String,
        query: String,
        labels: Map,
        health: String,
        last_error: String,
        evaluation_time: f64,
        last_evaluation: Time,
        state: State,
        duration: f64,
        keep_firing_for: f64,
        annotations: Map,
        alerts: Vec<Instance>,
    }
}

shape! {
    /// An active alert.
    Instance {
        labels: Map,
        annotations: Map,
        state: State,
        active_at: Time,
        value: String,
        partial_response_strategy: InstanceStrategy,
    }
}

/// The kind of a rule. A rule without a type is an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Missing,
    Recording,
    Alerting,
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match text.to_ascii_lowercase().as_str() {
            "recording" => Ok(Kind::Recording),
            "alerting" => Ok(Kind::Alerting),
            "" => Ok(Kind::Missing),
            _ => Err(D::Error::custom(format!("rule: unknown type field provided {text}"))),
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct State(pb::AlertState);

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use pb::AlertState::{FIRING, INACTIVE, PENDING, UNKNOWN};
        let names = [("unknown", UNKNOWN), ("inactive", INACTIVE), ("pending", PENDING), ("firing", FIRING)];
        by_name(from, "alertState", &names).map(State)
    }
}

/// Prometheus gives none; another Thanos component in its place might.
#[derive(Debug, Clone, Copy, Default)]
struct InstanceStrategy(Strategy);

impl<'de> Deserialize<'de> for InstanceStrategy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // The empty name is the one exception from the rule for names: it means to abort.
        let text = String::deserialize(from)?;
        let names = [("", Strategy::ABORT), ("abort", Strategy::ABORT), ("warn", Strategy::WARN)];
        let found = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text));
        found
            .map(|(_, strategy)| InstanceStrategy(*strategy))
            .ok_or_else(|| D::Error::custom(format!("unknown partialResponseStrategy: {text:?}")))
    }
}

impl Api for Rules {
    type Request = pb::RulesRequest;
    type Data = Checked;
    type Response = pb::RulesResponse;

    const PATH: &'static str = "/api/v1/rules";

    fn params(request: &pb::RulesRequest) -> Params {
        let kind = match request.type_.enum_value() {
            Ok(Type::ALL) => return vec![],
            Ok(Type::ALERT) => "alert".into(),
            Ok(Type::RECORD) => "record".into(),
            // Prometheus judges numbers that are unknown here.
            Err(number) => number.to_string(),
        };
        vec![("type", kind)]
    }

    fn responses(_: &pb::RulesRequest, data: Checked, external: &Labels) -> impl Iterator<Item = pb::RulesResponse> {
        data.0.groups.into_iter().map(|group| response(pb::rules_response::Result::Group(group.message(external))))
    }

    fn warning(text: String) -> pb::RulesResponse {
        response(pb::rules_response::Result::Warning(text))
    }
}

/// An answer in which every rule has a type.
#[derive(Debug, Default)]
pub struct Checked(Data);

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let data = Data::deserialize(from)?;
        match data.groups.iter().flat_map(|group| &group.rules).find(|rule| rule.kind == Kind::Missing) {
            Some(rule) => Err(D::Error::custom(format!("rule: no type field provided: {:?}", rule.name))),
            None => Ok(Checked(data)),
        }
    }
}

fn response(result: pb::rules_response::Result) -> pb::RulesResponse {
    pb::RulesResponse { result: Some(result), ..Default::default() }
}

impl Group {
    fn message(self, external: &Labels) -> pb::RuleGroup {
        pb::RuleGroup {
            name: self.name,
            file: self.file,
            rules: self.rules.into_iter().map(|rule| rule.message(external)).collect(),
            interval: self.interval,
            evaluation_duration_seconds: self.evaluation_time,
            last_evaluation: self.last_evaluation.required(),
            limit: self.limit,
            PartialResponseStrategy: EnumOrUnknown::new(Strategy::ABORT),
            ..Default::default()
        }
    }
}

impl Rule {
    fn message(self, external: &Labels) -> pb::Rule {
        let labels = extended(self.labels, external);
        let result = if self.kind == Kind::Recording {
            pb::rule::Result::Recording(pb::RecordingRule {
                name: self.name,
                query: self.query,
                labels,
                health: self.health,
                last_error: self.last_error,
                evaluation_duration_seconds: self.evaluation_time,
                last_evaluation: self.last_evaluation.required(),
                ..Default::default()
            })
        } else {
            pb::rule::Result::Alert(pb::Alert {
                state: EnumOrUnknown::new(self.state.0),
                name: self.name,
                query: self.query,
                duration_seconds: self.duration,
                labels,
                annotations: label_set(self.annotations),
                alerts: self.alerts.into_iter().map(Instance::message).collect(),
                health: self.health,
                last_error: self.last_error,
                evaluation_duration_seconds: self.evaluation_time,
                last_evaluation: self.last_evaluation.required(),
                keep_firing_for_seconds: self.keep_firing_for,
                ..Default::default()
            })
        };
        pb::Rule { result: Some(result), ..Default::default() }
    }
}

impl Instance {
    /// External labels are not set here: a querier takes an instance as Prometheus shows it.
    fn message(self) -> pb::AlertInstance {
        pb::AlertInstance {
            labels: label_set(self.labels),
            annotations: label_set(self.annotations),
            state: EnumOrUnknown::new(self.state.0),
            active_at: self.active_at.optional(),
            value: self.value,
            PartialResponseStrategy: EnumOrUnknown::new(self.partial_response_strategy.0),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apis::shape::ZERO_SECONDS;
    use crate::apis::shape::testing::responses;

    fn groups(data: &str) -> Vec<pb::RuleGroup> {
        let group = |response: pb::RulesResponse| match response.result.unwrap() {
            pb::rules_response::Result::Group(group) => group,
            other => panic!("{other:?}"),
        };
        responses::<Rules>(&pb::RulesRequest::default(), data).unwrap().into_iter().map(group).collect()
    }

    /// Why a rule is not understood.
    fn error(rule: &str) -> String {
        responses::<Rules>(&pb::RulesRequest::default(), &format!(r#"{{"groups":[{{"rules":[{rule}]}}]}}"#))
            .unwrap_err()
    }

    fn labels(set: &protobuf::MessageField<pillion_proto::thanos_types::ZLabelSet>) -> String {
        assert!(set.is_some(), "a label set is always present");
        set.labels.iter().map(|label| format!("{}={}", label.name, label.value)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_field_arrives() {
        let groups = groups(
            r#"{"groups":[{"name":"g","file":"/f.yml","interval":60,"limit":3,"evaluationTime":0.25,
              "lastEvaluation":"2024-02-29T12:00:00.5+02:00","rules":[
              {"type":"Recording","name":"r","query":"up","labels":{"region":"local","a":"b"},"health":"ok","lastError":"e",
               "evaluationTime":0.5,"lastEvaluation":"1970-01-01T00:00:01Z"},
              {"type":"alerting","state":"FIRING","name":"a","query":"up == 0","duration":300,"keepFiringFor":7,
               "labels":{"severity":"page"},"annotations":{"summary":"s","empty":""},"health":"err","lastError":"boom",
               "evaluationTime":0.1,"lastEvaluation":"0001-01-01T00:00:00Z","alerts":[
                {"labels":{"i":"1"},"annotations":{"x":"y"},"state":"pending","activeAt":"1970-01-01T00:00:02.000000003Z",
                 "value":"1e+00"}]}]},
              {"name":"empty"}]}"#,
        );
        assert_eq!(groups.len(), 2);
        let group = &groups[0];
        assert_eq!((group.name.as_str(), group.file.as_str(), group.limit), ("g", "/f.yml", 3));
        assert_eq!((group.interval, group.evaluation_duration_seconds), (60.0, 0.25));
        assert_eq!((group.last_evaluation.seconds, group.last_evaluation.nanos), (1_709_200_800, 500_000_000));
        assert!(groups.iter().all(|group| group.PartialResponseStrategy == Strategy::ABORT.into()));
        assert_eq!((groups[1].last_evaluation.seconds, groups[1].rules.len()), (ZERO_SECONDS, 0));

        let rule = group.rules[0].recording();
        assert_eq!(
            (rule.name.as_str(), rule.query.as_str(), labels(&rule.labels).as_str()),
            ("r", "up", "a=b region=eu")
        );
        assert_eq!((rule.health.as_str(), rule.last_error.as_str()), ("ok", "e"));
        assert_eq!((rule.evaluation_duration_seconds, rule.last_evaluation.seconds), (0.5, 1));

        let alert = group.rules[1].alert();
        assert_eq!((alert.state, alert.name.as_str()), (pb::AlertState::FIRING.into(), "a"));
        assert_eq!((alert.query.as_str(), labels(&alert.labels).as_str()), ("up == 0", "region=eu severity=page"));
        assert_eq!((alert.duration_seconds, alert.keep_firing_for_seconds), (300.0, 7.0));
        assert_eq!(labels(&alert.annotations), "empty= summary=s");
        assert_eq!((alert.health.as_str(), alert.last_error.as_str()), ("err", "boom"));
        assert_eq!((alert.evaluation_duration_seconds, alert.last_evaluation.seconds), (0.1, ZERO_SECONDS));

        let instance = &alert.alerts[0];
        assert_eq!((labels(&instance.labels), labels(&instance.annotations)), ("i=1".into(), "x=y".into()));
        assert_eq!((instance.state, instance.value.as_str()), (pb::AlertState::PENDING.into(), "1e+00"));
        assert_eq!((instance.active_at.seconds, instance.active_at.nanos), (2, 3));
        assert_eq!(instance.PartialResponseStrategy, Strategy::WARN.into());
    }

    #[test]
    fn what_is_missing_is_zero_and_present_where_thanos_sends_it() {
        let rule = r#"{"groups":[{"rules":[{"type":"alerting","alerts":[{"partialResponseStrategy":""}]}]}]}"#;
        let alert = groups(rule)[0].rules[0].alert().clone();
        assert_eq!((labels(&alert.labels), labels(&alert.annotations)), ("region=eu".into(), String::new()));
        assert_eq!((alert.state, alert.last_evaluation.seconds), (pb::AlertState::UNKNOWN.into(), ZERO_SECONDS));
        let instance = &alert.alerts[0];
        assert_eq!((labels(&instance.labels), labels(&instance.annotations)), (String::new(), String::new()));
        assert!(instance.active_at.is_none());
        assert_eq!(instance.PartialResponseStrategy, Strategy::ABORT.into());
        for nothing in ["null", "{}", r#"{"groups":null}"#, r#"{"groups":[]}"#] {
            assert!(groups(nothing).is_empty(), "{nothing}");
        }
    }

    #[test]
    fn rules_that_cannot_be_understood() {
        let check = |rule: &str, expected: &str| assert!(error(rule).contains(expected), "{rule}: {}", error(rule));
        check(r#"{"name":"x"}"#, r#"rule: no type field provided: "x""#);
        check(r#"{"type":"","name":"x"}"#, "rule: no type field provided");
        check(r#"{"type":"other"}"#, "rule: unknown type field provided other");
        check(r#"{"type":"alerting","state":""}"#, "empty alertState");
        check(r#"{"type":"alerting","state":"sleeping"}"#, r#"unknown alertState: "sleeping""#);
        check(r#"{"type":"alerting","state":1}"#, "invalid type");
        check(r#"{"type":"alerting","alerts":[{"state":"x"}]}"#, "unknown alertState");
        check(r#"{"type":"recording","lastEvaluation":"soon"}"#, "not an RFC 3339 time");
    }

    #[test]
    fn only_the_type_is_asked_for() {
        let params = |number: i32| {
            let type_ = EnumOrUnknown::from_i32(number);
            Rules::params(&pb::RulesRequest { type_, rule_name: vec!["x".into()], ..Default::default() })
        };
        assert_eq!(params(0), []);
        assert_eq!(params(1), [("type", "alert".to_owned())]);
        assert_eq!(params(2), [("type", "record".to_owned())]);
        assert_eq!(params(7), [("type", "7".to_owned())]);
    }
}
