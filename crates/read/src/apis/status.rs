//! `thanos.Status`: what is in the head of Prometheus's TSDB, in exactly one message. Pure.

use std::collections::HashMap;

use protobuf::MessageField;

use crate::apis::shape::shape;
use crate::apis::{Api, Params};
use crate::store::matcher;
use pillion_base::error::{Error, Result};
use pillion_base::labels::Labels;
use pillion_proto::thanos_status as pb;

/// `thanos.Status/TSDBStatistics`
pub struct Status;

shape! {
    /// What `/api/v1/status/tsdb` answers.
    pub Data {
        head_stats: Head,
        series_count_by_metric_name: Vec<Statistic>,
        label_value_count_by_label_name: Vec<Statistic>,
        memory_in_bytes_by_label_name: Vec<Statistic>,
        series_count_by_label_value_pair: Vec<Statistic>,
    }
}

shape! {
    /// The head as a whole.
    Head {
        num_series: u64,
        num_label_pairs: i64,
        chunk_count: i64,
        min_time: i64,
        max_time: i64,
    }
}

shape! {
    /// A line of one of the lists.
    Statistic { name: String, value: u64, }
}

impl Api for Status {
    type Request = pb::TSDBStatisticsRequest;
    type Data = Data;
    type Response = pb::TSDBStatisticsResponse;

    const PATH: &'static str = "/api/v1/status/tsdb";
    const NEEDS_READY: bool = true;

    fn params(request: &pb::TSDBStatisticsRequest) -> Params {
        if request.limit > 0 { vec![("limit", request.limit.to_string())] } else { vec![] }
    }

    /// A sidecar has the statistics of the empty tenant only, and matchers choose all of them or none.
    fn answer_unasked(
        request: &pb::TSDBStatisticsRequest,
        external: &Labels,
    ) -> Result<Option<pb::TSDBStatisticsResponse>> {
        let selected = matcher::select_labels(&request.matchers, external)
            .map_err(|err| err.context("failed to convert matchers"))?;
        Ok((!selected || !request.tenant.is_empty()).then(|| statistics(HashMap::new())))
    }

    fn responses(
        request: &pb::TSDBStatisticsRequest,
        data: Data,
        _: &Labels,
    ) -> impl Iterator<Item = pb::TSDBStatisticsResponse> {
        // The limit is applied here too, because an old Prometheus ignores it.
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        std::iter::once(statistics(HashMap::from([(String::new(), data.message(limit))])))
    }

    fn warning(text: String) -> pb::TSDBStatisticsResponse {
        response(pb::tsdbstatistics_response::Result::Warning(text))
    }

    fn explain(err: Error) -> Error {
        err.context("failed to get tsdb status from prometheus")
    }
}

fn statistics(statistics: HashMap<String, pb::TSDBStatisticsEntry>) -> pb::TSDBStatisticsResponse {
    let message = pb::TSDBStatistics { statistics, ..Default::default() };
    response(pb::tsdbstatistics_response::Result::Statistics(message))
}

fn response(result: pb::tsdbstatistics_response::Result) -> pb::TSDBStatisticsResponse {
    pb::TSDBStatisticsResponse { result: Some(result), ..Default::default() }
}

impl Data {
    fn message(self, limit: usize) -> pb::TSDBStatisticsEntry {
        let list = |list: Vec<Statistic>| list.into_iter().take(limit).map(Statistic::message).collect();
        pb::TSDBStatisticsEntry {
            head_statistics: MessageField::some(self.head_stats.message()),
            series_count_by_metric_name: list(self.series_count_by_metric_name),
            label_value_count_by_label_name: list(self.label_value_count_by_label_name),
            memory_in_bytes_by_label_name: list(self.memory_in_bytes_by_label_name),
            series_count_by_label_value_pair: list(self.series_count_by_label_value_pair),
            ..Default::default()
        }
    }
}

impl Head {
    /// `Differs:` Thanos leaves the count of chunks at 0 (D-18).
    fn message(self) -> pb::HeadStatistics {
        pb::HeadStatistics {
            num_series: self.num_series,
            num_label_pairs: self.num_label_pairs,
            chunk_count: self.chunk_count,
            min_time: self.min_time,
            // An empty head reports the lowest number there is.
            max_time: self.max_time.max(0),
            ..Default::default()
        }
    }
}

impl Statistic {
    fn message(self) -> pb::Statistic {
        pb::Statistic { name: self.name, value: self.value, ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apis::shape::testing::{external, responses};
    use pillion_proto::thanos_types::LabelMatcher;
    use protobuf::EnumOrUnknown;

    const DATA: &str = r#"{"headStats":{"numSeries":5,"numLabelPairs":4,"chunkCount":3,"minTime":1000,"maxTime":2000},
        "seriesCountByMetricName":[{"name":"a","value":18446744073709551615},{"name":"b","value":1}],
        "labelValueCountByLabelName":[{"name":"c","value":2}],"memoryInBytesByLabelName":[{"name":"d","value":3}],
        "seriesCountByLabelValuePair":[{"name":"e=f","value":4},{"name":"g=h","value":5}]}"#;

    fn entry(limit: i32, data: &str) -> pb::TSDBStatisticsEntry {
        let request = pb::TSDBStatisticsRequest { limit, ..Default::default() };
        let mut all = responses::<Status>(&request, data).unwrap();
        assert_eq!(all.len(), 1, "exactly one message");
        let mut statistics = all[0].take_statistics().statistics;
        assert_eq!(statistics.len(), 1);
        statistics.remove("").expect("the empty tenant")
    }

    #[test]
    fn every_field_arrives() {
        let entry = entry(0, DATA);
        let head = &entry.head_statistics;
        assert_eq!((head.num_series, head.num_label_pairs, head.chunk_count), (5, 4, 3));
        assert_eq!((head.min_time, head.max_time), (1000, 2000));
        let text = |list: &[pb::Statistic]| list.iter().map(|s| format!("{} {}", s.name, s.value)).collect::<Vec<_>>();
        assert_eq!(text(&entry.series_count_by_metric_name), ["a 18446744073709551615", "b 1"]);
        assert_eq!(text(&entry.label_value_count_by_label_name), ["c 2"]);
        assert_eq!(text(&entry.memory_in_bytes_by_label_name), ["d 3"]);
        assert_eq!(text(&entry.series_count_by_label_value_pair), ["e=f 4", "g=h 5"]);
    }

    #[test]
    fn the_limit_holds_for_each_list() {
        let lengths = |limit: i32| {
            let entry = entry(limit, DATA);
            [entry.series_count_by_metric_name.len(), entry.series_count_by_label_value_pair.len()]
        };
        assert_eq!((lengths(1), lengths(2), lengths(0), lengths(-1)), ([1, 1], [2, 2], [2, 2], [2, 2]));
        let params = |limit| Status::params(&pb::TSDBStatisticsRequest { limit, ..Default::default() });
        assert_eq!((params(0), params(-3), params(7)), (vec![], vec![], vec![("limit", "7".to_owned())]));
    }

    #[test]
    fn an_empty_head_has_no_newest_time() {
        let head = r#"{"headStats":{"minTime":9223372036854775807,"maxTime":-9223372036854775808}}"#;
        let empty = entry(0, head).head_statistics;
        assert_eq!((empty.min_time, empty.max_time), (i64::MAX, 0));
        assert!(entry(0, "null").head_statistics.is_some());
        assert!(entry(0, r#"{"headStats":null,"seriesCountByMetricName":null}"#).head_statistics.is_some());
    }

    #[test]
    fn matchers_are_about_the_external_labels_alone() {
        let check = |kind: i32, name: &str, value: &str, tenant: &str, is_asked: bool| {
            let type_ = EnumOrUnknown::from_i32(kind);
            let matcher = LabelMatcher { type_, name: name.into(), value: value.into(), ..Default::default() };
            let request =
                pb::TSDBStatisticsRequest { matchers: vec![matcher], tenant: tenant.into(), ..Default::default() };
            let answer = Status::answer_unasked(&request, &external()).unwrap();
            assert_eq!(answer.is_none(), is_asked, "{kind} {name} {value}");
            // What is said without asking is one message with nothing in it.
            let empty = || statistics(HashMap::new());
            assert_eq!(answer.unwrap_or_else(empty), empty());
        };
        check(0, "region", "eu", "", true);
        check(0, "region", "us", "", false);
        check(2, "region", "e.*", "", true);
        check(3, "region", "e.*", "", false);
        check(0, "job", "x", "", false);
        check(1, "job", "x", "", true);
        check(0, "job", "", "", true);
        check(2, "job", ".*", "", true);
        check(0, "region", "eu", "tenant", false);
        let bad = LabelMatcher { type_: EnumOrUnknown::from_i32(9), ..Default::default() };
        let request = pb::TSDBStatisticsRequest { matchers: vec![bad], ..Default::default() };
        let err = Status::answer_unasked(&request, &external()).unwrap_err();
        assert_eq!(err.to_string(), "failed to convert matchers: unrecognized label matcher type 9");
    }
}
