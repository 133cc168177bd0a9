//! `thanos.Exemplars`: the exemplars of each series, a message per series. Pure.
//!
//! The query goes to Prometheus as it is: a querier removes matchers on external labels before it asks.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::apis::shape::{Map, extended, label_set, shape};
use crate::apis::{Api, Params};
use crate::prom::request::seconds;
use pillion_base::labels::Labels;
use pillion_proto::thanos_exemplars as pb;

/// `thanos.Exemplars/Exemplars`
pub struct Exemplars;

shape! {
    /// The exemplars of one series.
    pub Series { series_labels: Map, exemplars: Vec<Exemplar>, }
}

shape! {
    /// One exemplar.
    Exemplar { labels: Map, value: Value, timestamp: Timestamp, }
}

/// A number as Prometheus's API writes sample values: quoted, so that it can be `NaN` or infinite.
#[derive(Debug, Clone, Copy, Default)]
struct Value(f64);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Value).map_err(|_| D::Error::custom(format!("not a sample value: {text:?}")))
    }
}

/// Seconds in JSON, milliseconds here; further decimals are cut off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Timestamp(i64);

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(from)?;
        milliseconds(number)
            .map(Timestamp)
            .ok_or_else(|| D::Error::custom(format!("exemplar timestamp out of range: {number}")))
    }
}

/// Cuts seconds to milliseconds. Done on the shortest text of the number, which is the one that Prometheus wrote: times
/// 1000, 1700000000.479 would become …478.9999.
fn milliseconds(seconds: f64) -> Option<i64> {
    let text = seconds.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
    format!("{whole}{thousandths}").parse().ok()
}

impl Api for Exemplars {
    type Request = pb::ExemplarsRequest;
    type Data = Vec<Series>;
    type Response = pb::ExemplarsResponse;

    const PATH: &'static str = "/api/v1/query_exemplars";
    const SENDING: Option<&'static str> = Some("send_exemplars_response");

    fn params(request: &pb::ExemplarsRequest) -> Params {
        vec![("query", request.query.clone()), ("start", seconds(request.start)), ("end", seconds(request.end))]
    }

    fn responses(
        _: &pb::ExemplarsRequest,
        data: Vec<Series>,
        external: &Labels,
    ) -> impl Iterator<Item = pb::ExemplarsResponse> {
        data.into_iter().map(|series| response(pb::exemplars_response::Result::Data(series.message(external))))
    }

    fn warning(text: String) -> pb::ExemplarsResponse {
        response(pb::exemplars_response::Result::Warning(text))
    }
}

fn response(result: pb::exemplars_response::Result) -> pb::ExemplarsResponse {
    pb::ExemplarsResponse { result: Some(result), ..Default::default() }
}

impl Series {
    fn message(self, external: &Labels) -> pb::ExemplarData {
        let exemplar = |exemplar: Exemplar| pb::Exemplar {
            labels: label_set(exemplar.labels),
            value: exemplar.value.0,
            ts: exemplar.timestamp.0,
            ..Default::default()
        };
        pb::ExemplarData {
            seriesLabels: extended(self.series_labels, external),
            exemplars: self.exemplars.into_iter().map(exemplar).collect(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apis::shape::testing::responses;

    fn data(data: &str) -> Result<Vec<pb::ExemplarData>, String> {
        let all = responses::<Exemplars>(&pb::ExemplarsRequest::default(), data)?;
        Ok(all.into_iter().map(|mut response| response.take_data()).collect())
    }

    fn exemplar(value: &str, timestamp: &str) -> Result<(f64, i64), String> {
        let exemplar = format!(r#"[{{"exemplars":[{{"value":{value},"timestamp":{timestamp}}}]}}]"#);
        data(&exemplar).map(|all| (all[0].exemplars[0].value, all[0].exemplars[0].ts))
    }

    #[test]
    fn every_field_arrives() {
        let all = data(
            r#"[{"seriesLabels":{"__name__":"m","region":"local"},
                 "exemplars":[{"labels":{"trace_id":"t"},"value":"6.5","timestamp":1600096945.479},{}]},
                {"seriesLabels":{},"exemplars":null}]"#,
        )
        .unwrap();
        let labels = |set: &protobuf::MessageField<pillion_proto::thanos_types::ZLabelSet>| {
            assert!(set.is_some(), "a label set is always present");
            set.labels.iter().map(|label| format!("{}={}", label.name, label.value)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels(&all[0].seriesLabels), "__name__=m region=eu");
        let [first, zero] = &all[0].exemplars[..] else { panic!("{all:?}") };
        assert_eq!((labels(&first.labels).as_str(), first.value, first.ts), ("trace_id=t", 6.5, 1_600_096_945_479));
        assert_eq!((labels(&zero.labels).as_str(), zero.value, zero.ts), ("", 0.0, 0));
        assert_eq!((labels(&all[1].seriesLabels).as_str(), all[1].exemplars.len()), ("region=eu", 0));
        assert!(data("null").unwrap().is_empty() && data("[]").unwrap().is_empty());
    }

    #[test]
    fn times_are_cut_to_milliseconds() {
        let check = |timestamp: &str, expected: i64| assert_eq!(exemplar("\"1\"", timestamp).unwrap().1, expected);
        check("1600096945.479", 1_600_096_945_479);
        check("1700000000.999", 1_700_000_000_999);
        check("1700000000", 1_700_000_000_000);
        check("1.0019", 1001);
        check("1.5", 1500);
        check("-0.1", -100);
        check("1.6e9", 1_600_000_000_000);
        for bad in ["1e300", "\"1\"", "-1e17"] {
            assert!(exemplar("\"1\"", bad).is_err(), "{bad}");
        }
        // Every millisecond of a second survives.
        for ms in 0..1000 {
            check(&format!("1700000000.{ms:03}"), 1_700_000_000_000 + ms);
        }
    }

    #[test]
    fn values_need_not_be_finite() {
        assert!(exemplar("\"NaN\"", "1").unwrap().0.is_nan());
        assert_eq!(exemplar("\"+Inf\"", "1").unwrap().0, f64::INFINITY);
        assert_eq!(exemplar("\"-1e-7\"", "1").unwrap().0, -1e-7);
        assert!(exemplar("\"one\"", "1").unwrap_err().contains("not a sample value"));
    }

    #[test]
    fn the_query_is_asked_as_it_is() {
        let request =
            pb::ExemplarsRequest { query: "m{region=\"eu\"}".into(), start: 1500, end: -1, ..Default::default() };
        let expected = [("query", "m{region=\"eu\"}"), ("start", "1.5"), ("end", "-0.001")];
        assert_eq!(Exemplars::params(&request), expected.map(|(name, value)| (name, value.to_owned())));
    }
}
