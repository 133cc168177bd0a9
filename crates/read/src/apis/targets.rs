//! `thanos.Targets`: the scrape targets of Prometheus, all in one message. Pure.

use protobuf::EnumOrUnknown;
use serde::{Deserialize, Deserializer};

use crate::apis::shape::{Map, Time, by_name, extended, shape};
use crate::apis::{Api, Params};
use pillion_base::labels::Labels;
use pillion_proto::thanos_targets as pb;
use pillion_proto::thanos_targets::targets_request::State;

/// `thanos.Targets/Targets`
pub struct Targets;

shape! {
    /// What `/api/v1/targets` answers.
    pub Data { active_targets: Vec<Active>, dropped_targets: Vec<Dropped>, }
}

shape! {
    /// A target that is scraped.
    Active {
        discovered_labels: Map,
        labels: Map,
        scrape_pool: String,
        scrape_url: String,
        global_url: String,
        last_error: String,
        last_scrape: Time,
        last_scrape_duration: f64,
        health: Health,
    }
}

shape! {
    /// A target that relabelling dropped.
    Dropped { discovered_labels: Map, }
}

/// Down where Prometheus says nothing, because down is the zero value on the wire.
#[derive(Debug, Clone, Copy, Default)]
struct Health(pb::TargetHealth);

impl<'de> Deserialize<'de> for Health {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use pb::TargetHealth::{DOWN, HEALTH_UNKNOWN, UP};
        by_name(from, "targetHealth", &[("down", DOWN), ("up", UP), ("unknown", HEALTH_UNKNOWN)]).map(Health)
    }
}

impl Api for Targets {
    type Request = pb::TargetsRequest;
    type Data = Data;
    type Response = pb::TargetsResponse;

    const PATH: &'static str = "/api/v1/targets";

    fn params(request: &pb::TargetsRequest) -> Params {
        let state = match request.state.enum_value() {
            Ok(State::ANY) => return vec![],
            Ok(State::ACTIVE) => "active".into(),
            Ok(State::DROPPED) => "dropped".into(),
            Err(number) => number.to_string(),
        };
        vec![("state", state)]
    }

    fn responses(_: &pb::TargetsRequest, data: Data, external: &Labels) -> impl Iterator<Item = pb::TargetsResponse> {
        let targets = pb::TargetDiscovery {
            activeTargets: data.active_targets.into_iter().map(|target| target.message(external)).collect(),
            droppedTargets: data.dropped_targets.into_iter().map(|target| target.message(external)).collect(),
            ..Default::default()
        };
        std::iter::once(response(pb::targets_response::Result::Targets(targets)))
    }

    fn warning(text: String) -> pb::TargetsResponse {
        response(pb::targets_response::Result::Warning(text))
    }
}

fn response(result: pb::targets_response::Result) -> pb::TargetsResponse {
    pb::TargetsResponse { result: Some(result), ..Default::default() }
}

impl Active {
    fn message(self, external: &Labels) -> pb::ActiveTarget {
        pb::ActiveTarget {
            discoveredLabels: extended(self.discovered_labels, external),
            labels: extended(self.labels, external),
            scrapePool: self.scrape_pool,
            scrapeUrl: self.scrape_url,
            globalUrl: self.global_url,
            lastError: self.last_error,
            lastScrape: self.last_scrape.required(),
            lastScrapeDuration: self.last_scrape_duration,
            health: EnumOrUnknown::new(self.health.0),
            ..Default::default()
        }
    }
}

impl Dropped {
    fn message(self, external: &Labels) -> pb::DroppedTarget {
        pb::DroppedTarget { discoveredLabels: extended(self.discovered_labels, external), ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apis::shape::ZERO_SECONDS;
    use crate::apis::shape::testing::responses;

    fn targets(data: &str) -> Result<pb::TargetDiscovery, String> {
        let mut all = responses::<Targets>(&pb::TargetsRequest::default(), data)?;
        assert_eq!(all.len(), 1, "exactly one message");
        Ok(all[0].take_targets())
    }

    #[test]
    fn every_field_arrives() {
        let targets = targets(
            r#"{"activeTargets":[{"discoveredLabels":{"__address__":"h:1","region":"x"},"labels":{"job":"j"},
              "scrapePool":"p","scrapeUrl":"http://h:1/m","globalUrl":"http://g:1/m","lastError":"e",
              "lastScrape":"1970-01-01T00:00:01.5Z","lastScrapeDuration":0.25,"health":"UP","scrapeInterval":"1s",
              "scrapeTimeout":"1s"},{"health":"unknown"},{}],
              "droppedTargets":[{"discoveredLabels":{"a":"b"}},{}],"droppedTargetCounts":{"p":2}}"#,
        )
        .unwrap();
        let labels = |set: &protobuf::MessageField<pillion_proto::thanos_types::ZLabelSet>| {
            set.labels.iter().map(|label| format!("{}={}", label.name, label.value)).collect::<Vec<_>>().join(" ")
        };
        let [up, unknown, down] = &targets.activeTargets[..] else { panic!("{targets:?}") };
        assert_eq!(labels(&up.discoveredLabels), "__address__=h:1 region=eu");
        assert_eq!(labels(&up.labels), "job=j region=eu");
        assert_eq!((up.scrapePool.as_str(), up.scrapeUrl.as_str()), ("p", "http://h:1/m"));
        assert_eq!((up.globalUrl.as_str(), up.lastError.as_str()), ("http://g:1/m", "e"));
        assert_eq!((up.lastScrape.seconds, up.lastScrape.nanos, up.lastScrapeDuration), (1, 500_000_000, 0.25));
        let health = [up, unknown, down].map(|target| target.health.value());
        assert_eq!(health, [1, 2, 0]);
        assert_eq!((labels(&down.labels).as_str(), down.lastScrape.seconds), ("region=eu", ZERO_SECONDS));
        let dropped: Vec<_> = targets.droppedTargets.iter().map(|target| labels(&target.discoveredLabels)).collect();
        assert_eq!(dropped, ["a=b region=eu", "region=eu"]);
    }

    #[test]
    fn no_targets_are_one_empty_message() {
        for nothing in ["null", "{}", r#"{"activeTargets":null,"droppedTargets":null}"#] {
            assert_eq!(targets(nothing).unwrap(), pb::TargetDiscovery::default(), "{nothing}");
        }
    }

    #[test]
    fn healths_that_there_are_not() {
        let error = |health: &str| targets(&format!(r#"{{"activeTargets":[{{"health":{health}}}]}}"#)).unwrap_err();
        assert!(error(r#""""#).contains("empty targetHealth"));
        assert!(error(r#""ill""#).contains(r#"unknown targetHealth: "ill""#));
    }

    #[test]
    fn the_state_is_asked_for() {
        let params = |number: i32| {
            Targets::params(&pb::TargetsRequest { state: EnumOrUnknown::from_i32(number), ..Default::default() })
        };
        assert_eq!(params(0), []);
        assert_eq!(params(1), [("state", "active".to_owned())]);
        assert_eq!(params(2), [("state", "dropped".to_owned())]);
        assert_eq!(params(-1), [("state", "-1".to_owned())]);
    }
}
