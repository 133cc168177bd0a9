//! `thanos.Metadata`: type, help and unit of metrics, all in one message. External labels play no part here. Pure.

use std::collections::BTreeMap;

use crate::apis::shape::shape;
use crate::apis::{Api, Params};
use pillion_base::labels::Labels;
use pillion_proto::thanos_metadata as pb;

/// `thanos.Metadata/MetricMetadata`
pub struct Metadata;

shape! {
    /// What one target says of a metric.
    pub Meta {
        #[serde(rename = "type")]
        kind: String,
        help: String,
        unit: String,
    }
}

impl Api for Metadata {
    type Request = pb::MetricMetadataRequest;
    type Data = BTreeMap<String, Option<Vec<Meta>>>;
    type Response = pb::MetricMetadataResponse;

    const PATH: &'static str = "/api/v1/metadata";
    const SENDING: Option<&'static str> = Some("send_metadata_response");

    fn params(request: &pb::MetricMetadataRequest) -> Params {
        let mut params = vec![];
        if !request.metric.is_empty() {
            params.push(("metric", request.metric.clone()));
        }
        // Here 0 means no metrics, unlike elsewhere; a negative limit means all of them.
        if request.limit >= 0 {
            params.push(("limit", request.limit.to_string()));
        }
        params
    }

    fn responses(
        _: &pb::MetricMetadataRequest,
        data: Self::Data,
        _: &Labels,
    ) -> impl Iterator<Item = pb::MetricMetadataResponse> {
        let entry = |(metric, metas): (String, Option<Vec<Meta>>)| {
            let metas = metas.unwrap_or_default().into_iter().map(Meta::message).collect();
            (metric, pb::MetricMetadataEntry { metas, ..Default::default() })
        };
        let metadata = pb::MetricMetadata { metadata: data.into_iter().map(entry).collect(), ..Default::default() };
        std::iter::once(response(pb::metric_metadata_response::Result::Metadata(metadata)))
    }

    fn warning(text: String) -> pb::MetricMetadataResponse {
        response(pb::metric_metadata_response::Result::Warning(text))
    }
}

fn response(result: pb::metric_metadata_response::Result) -> pb::MetricMetadataResponse {
    pb::MetricMetadataResponse { result: Some(result), ..Default::default() }
}

impl Meta {
    fn message(self) -> pb::Meta {
        pb::Meta { type_: self.kind, help: self.help, unit: self.unit, ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apis::shape::testing::responses;

    fn metadata(data: &str) -> pb::MetricMetadata {
        let mut all = responses::<Metadata>(&pb::MetricMetadataRequest::default(), data).unwrap();
        assert_eq!(all.len(), 1, "exactly one message");
        all[0].take_metadata()
    }

    #[test]
    fn every_field_arrives() {
        let metadata = metadata(
            r#"{"up":[{"type":"gauge","help":"h","unit":"u"},{"type":"counter","help":"","unit":""}],"odd":null}"#,
        );
        let text = |meta: &pb::Meta| format!("{} {} {}", meta.type_, meta.help, meta.unit);
        assert_eq!(metadata.metadata["up"].metas.iter().map(text).collect::<Vec<_>>(), ["gauge h u", "counter  "]);
        assert_eq!((metadata.metadata["odd"].metas.len(), metadata.metadata.len()), (0, 2));
    }

    #[test]
    fn no_metadata_is_one_empty_message() {
        for nothing in ["null", "{}"] {
            assert_eq!(metadata(nothing), pb::MetricMetadata::default(), "{nothing}");
        }
    }

    #[test]
    fn a_limit_of_zero_is_asked_for_and_a_negative_one_is_not() {
        let check = |metric: &str, limit: i32, expected: &[(&str, &str)]| {
            let request = pb::MetricMetadataRequest { metric: metric.into(), limit, ..Default::default() };
            let params = Metadata::params(&request);
            let params: Vec<_> = params.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(params, expected);
        };
        check("", 0, &[("limit", "0")]);
        check("", -1, &[]);
        check("up", 5, &[("metric", "up"), ("limit", "5")]);
    }
}
