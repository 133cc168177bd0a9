//! What a querier gets from the services beside the StoreAPI, and grpcurl from reflection, against a Prometheus that says
//! what a test wants.

use crate::support::api_client;

use std::collections::BTreeSet;

use crate::support::fake_prometheus::FakePrometheus;
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::store_client::{Store, matchers};
use api_client::{EXEMPLARS, METADATA, REFLECTION, REFLECTION_ALPHA, RULES, STATUS, TARGETS, labels, options};
use futures_executor::block_on;
use futures_util::{SinkExt, StreamExt};
use grpcio::{Client, Method, RpcStatus, WriteFlags};
use pillion_proto::grpc_reflection_v1::server_reflection_request::Message_request as Question;
use pillion_proto::grpc_reflection_v1::server_reflection_response::Message_response as Answer;
use pillion_proto::grpc_reflection_v1::{ServerReflectionRequest, ServerReflectionResponse};
use pillion_proto::thanos_exemplars::*;
use pillion_proto::thanos_metadata::*;
use pillion_proto::thanos_rules::*;
use pillion_proto::thanos_status::*;
use pillion_proto::thanos_store::{LabelNamesRequest, LabelValuesRequest};
use pillion_proto::thanos_targets::*;
use pillion_proto::thanos_types::LabelMatcher;
use protobuf::descriptor::FileDescriptorProto;
use protobuf::{Message, MessageField};

const CODE_UNKNOWN: i32 = 2;
const CODE_INVALID_ARGUMENT: i32 = 3;
const CODE_NOT_FOUND: i32 = 5;
const CODE_INTERNAL: i32 = 13;
const CODE_UNAVAILABLE: i32 = 14;

struct Rig {
    prometheus: FakePrometheus,
    sidecar: Sidecar,
    client: Client,
}

fn rig() -> Rig {
    let prometheus = FakePrometheus::start();
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    let client = api_client::connect(sidecar.grpc);
    Rig { prometheus, sidecar, client }
}

impl Rig {
    /// From now on Prometheus answers `path` with this.
    fn says(&self, path: &str, status: u16, body: &str) {
        self.prometheus.set(|state| state.overrides = vec![(path.into(), status, body.into())]);
    }

    /// From now on Prometheus answers `path` with this `data` and a warning.
    fn gives(&self, path: &str, data: &str) {
        self.says(path, 200, &format!("{{\"status\":\"success\",\"data\":{data},\"warnings\":[\"careful\"]}}"));
    }

    fn call<Q: Message, P: Message>(&self, method: &Method<Q, P>, request: &Q) -> Result<Vec<P>, RpcStatus> {
        api_client::call(&self.client, method, request)
    }

    /// The newest request for this path, with its query.
    fn asked(&self, path: &str) -> String {
        let asked = self.prometheus.requests.try_iter().filter(|request| request.starts_with(path)).last();
        asked.unwrap_or_else(|| panic!("{path} was not asked"))
    }
}

#[test]
fn rules_come_by_group_with_external_labels() {
    let rig = rig();
    rig.gives(
        "/api/v1/rules",
        r#"{"groups":[{"name":"g","file":"f","interval":15,"rules":[
            {"type":"alerting","name":"A","query":"up==0","state":"firing","duration":60,"labels":{"replica":"local"},
             "alerts":[{"labels":{"i":"1"},"state":"firing","activeAt":"2024-02-29T12:00:00.123456789+02:00","value":"1"}]},
            {"type":"recording","name":"r","query":"1","health":"ok"}]},{"name":"empty"}]}"#,
    );
    let request = RulesRequest { type_: rules_request::Type::ALERT.into(), ..Default::default() };
    let answer = rig.call(&RULES, &request).unwrap();
    assert_eq!(answer.len(), 3);
    let (group, empty) = (answer[0].group(), answer[1].group());
    assert_eq!((group.name.as_str(), group.interval, empty.name.as_str()), ("g", 15.0, "empty"));
    assert_eq!((group.PartialResponseStrategy.value(), group.last_evaluation.seconds), (1, -62_135_596_800));
    let alert = group.rules[0].alert();
    assert_eq!(labels(&alert.labels), "region=eu-west replica=a");
    assert_eq!((labels(&alert.annotations), labels(&alert.alerts[0].labels)), (String::new(), "i=1".into()));
    let active = &alert.alerts[0].active_at;
    assert_eq!((active.seconds, active.nanos), (1_709_200_800, 123_456_789));
    assert_eq!(labels(&group.rules[1].recording().labels), "region=eu-west replica=a");
    assert_eq!(answer[2].warning(), "careful");
    assert_eq!(rig.asked("/api/v1/rules"), "/api/v1/rules?type=alert");

    rig.gives("/api/v1/rules", r#"{"groups":[{"rules":[{"type":"x"}]}]}"#);
    let status = rig.call(&RULES, &RulesRequest::default()).unwrap_err();
    assert_eq!(i32::from(status.code()), CODE_INTERNAL);
    assert!(status.message().contains("rule: unknown type field provided x"), "{}", status.message());
    assert_eq!(rig.asked("/api/v1/rules"), "/api/v1/rules");
}

#[test]
fn targets_come_in_one_message_with_external_labels() {
    let rig = rig();
    rig.gives(
        "/api/v1/targets",
        r#"{"activeTargets":[{"discoveredLabels":{"a":"b"},"labels":{"job":"j","region":"x"},"health":"up"}],
            "droppedTargets":[{"discoveredLabels":{"c":"d"}}]}"#,
    );
    let request = TargetsRequest { state: targets_request::State::ACTIVE.into(), ..Default::default() };
    let answer = rig.call(&TARGETS, &request).unwrap();
    let targets = answer[0].targets();
    let active = &targets.activeTargets[0];
    assert_eq!(labels(&active.discoveredLabels), "a=b region=eu-west replica=a");
    assert_eq!(labels(&active.labels), "job=j region=eu-west replica=a");
    assert_eq!((active.health, active.lastScrape.seconds), (TargetHealth::UP.into(), -62_135_596_800));
    assert_eq!(labels(&targets.droppedTargets[0].discoveredLabels), "c=d region=eu-west replica=a");
    assert_eq!((answer.len(), answer[1].warning()), (2, "careful"));
    assert_eq!(rig.asked("/api/v1/targets"), "/api/v1/targets?state=active");
}

#[test]
fn metadata_comes_in_one_message_and_a_limit_of_zero_is_passed_on() {
    let rig = rig();
    rig.gives("/api/v1/metadata", r#"{"up":[{"type":"gauge","help":"h","unit":"s"}]}"#);
    let answer = rig.call(&METADATA, &MetricMetadataRequest { metric: "up".into(), ..Default::default() }).unwrap();
    let meta = &answer[0].metadata().metadata["up"].metas[0];
    assert_eq!((meta.type_.as_str(), meta.help.as_str(), meta.unit.as_str()), ("gauge", "h", "s"));
    assert_eq!((answer.len(), answer[1].warning()), (2, "careful"));
    assert_eq!(rig.asked("/api/v1/metadata"), "/api/v1/metadata?limit=0&metric=up");
    rig.call(&METADATA, &MetricMetadataRequest { limit: -1, ..Default::default() }).unwrap();
    assert_eq!(rig.asked("/api/v1/metadata"), "/api/v1/metadata");
}

#[test]
fn exemplars_come_by_series_with_external_labels() {
    let rig = rig();
    rig.gives(
        "/api/v1/query_exemplars",
        r#"[{"seriesLabels":{"__name__":"m","region":"x"},
             "exemplars":[{"labels":{"trace_id":"t"},"value":"0.5","timestamp":1700000000.479}]},{"seriesLabels":{}}]"#,
    );
    let request = ExemplarsRequest { query: "m{a=\"b c\"}".into(), start: 1500, end: 2000, ..Default::default() };
    let answer = rig.call(&EXEMPLARS, &request).unwrap();
    let (first, second) = (answer[0].data(), answer[1].data());
    assert_eq!(labels(&first.seriesLabels), "__name__=m region=eu-west replica=a");
    let exemplar = &first.exemplars[0];
    assert_eq!((labels(&exemplar.labels).as_str(), exemplar.value), ("trace_id=t", 0.5));
    assert_eq!((exemplar.ts, second.exemplars.len()), (1_700_000_000_479, 0));
    assert_eq!((answer.len(), answer[2].warning()), (3, "careful"));
    let asked = rig.asked("/api/v1/query_exemplars");
    assert_eq!(asked, "/api/v1/query_exemplars?end=2&query=m%7Ba%3D%22b+c%22%7D&start=1.5");
}

fn statistics(matcher: &[(&str, &str, &str)]) -> TSDBStatisticsRequest {
    let matchers: Vec<LabelMatcher> = matchers(matcher);
    TSDBStatisticsRequest { limit: 1, matchers, ..Default::default() }
}

#[test]
fn tsdb_statistics_come_in_one_message_if_the_external_labels_match() {
    let rig = rig();
    rig.gives(
        "/api/v1/status/tsdb",
        r#"{"headStats":{"numSeries":7,"numLabelPairs":3,"chunkCount":9,"minTime":9223372036854775807,
             "maxTime":-9223372036854775808},"seriesCountByMetricName":[{"name":"a","value":2},{"name":"b","value":1}]}"#,
    );
    let answer = rig.call(&STATUS, &statistics(&[("region", "=~", "eu.*")])).unwrap();
    let entry = &answer[0].statistics().statistics[""];
    let head = &entry.head_statistics;
    assert_eq!((head.num_series, head.num_label_pairs, head.chunk_count), (7, 3, 9));
    assert_eq!((head.min_time, head.max_time), (i64::MAX, 0));
    assert_eq!((entry.series_count_by_metric_name.len(), answer[1].warning()), (1, "careful"));
    assert_eq!(rig.asked("/api/v1/status/tsdb"), "/api/v1/status/tsdb?limit=1");

    for unmatched in [("region", "=", "us"), ("job", "=", "x")] {
        let answer = rig.call(&STATUS, &statistics(&[unmatched])).unwrap();
        assert_eq!((answer.len(), answer[0].statistics().statistics.len()), (1, 0));
    }
    let tenant = TSDBStatisticsRequest { tenant: "t".into(), ..Default::default() };
    assert_eq!(rig.call(&STATUS, &tenant).unwrap()[0].statistics().statistics.len(), 0);
    let status = rig.call(&STATUS, &statistics(&[("job", "=~", "(")])).unwrap_err();
    assert!(status.message().starts_with("failed to convert matchers: "), "{}", status.message());
    assert!(!rig.prometheus.requests.try_iter().any(|request| request.starts_with("/api/v1/status/tsdb")));

    rig.says("/api/v1/status/tsdb", 503, "busy");
    let status = rig.call(&STATUS, &statistics(&[])).unwrap_err();
    assert_eq!(i32::from(status.code()), CODE_UNAVAILABLE);
    let text = "failed to get tsdb status from prometheus: expected 2xx response, got 503. Body: busy";
    assert_eq!(status.message(), text);

    // Statistics and Info alone are refused while Prometheus is away.
    rig.prometheus.go_down();
    rig.sidecar.wait_ready(false);
    let status = rig.call(&STATUS, &statistics(&[])).unwrap_err();
    assert_eq!((i32::from(status.code()), status.message()), (CODE_UNKNOWN, "not ready"));
    let status = rig.call(&RULES, &RulesRequest::default()).unwrap_err();
    assert_eq!(i32::from(status.code()), CODE_UNAVAILABLE, "{}", status.message());
}

#[test]
fn an_answer_without_data_is_an_empty_one() {
    let rig = rig();
    for (status, body) in [(200, r#"{"status":"success","data":null}"#), (200, r#"{"status":"success"}"#), (204, "")] {
        // Not what the heartbeat asks.
        let paths = ["rules", "targets", "metadata", "query_exemplars", "status/tsdb"];
        rig.prometheus.set(|state| {
            state.overrides = paths.map(|path| (format!("/api/v1/{path}"), status, body.to_owned())).to_vec();
        });
        assert_eq!(rig.call(&RULES, &RulesRequest::default()).unwrap(), []);
        let targets = rig.call(&TARGETS, &TargetsRequest::default()).unwrap();
        assert_eq!((targets.len(), targets[0].targets()), (1, &TargetDiscovery::default()));
        let metadata = rig.call(&METADATA, &MetricMetadataRequest::default()).unwrap();
        assert_eq!((metadata.len(), metadata[0].metadata()), (1, &MetricMetadata::default()));
        assert_eq!(rig.call(&EXEMPLARS, &ExemplarsRequest::default()).unwrap(), []);
        let statistics = rig.call(&STATUS, &TSDBStatisticsRequest::default()).unwrap();
        assert!(statistics[0].statistics().statistics[""].head_statistics.is_some());
    }
}

#[test]
fn a_refusal_of_prometheus_keeps_its_meaning() {
    let rig = rig();
    let check = |http: u16, body: &str, code: i32, text: &str| {
        rig.says("/api/v1/query_exemplars", http, body);
        let status = rig.call(&EXEMPLARS, &ExemplarsRequest::default()).unwrap_err();
        assert_eq!(i32::from(status.code()), code, "{http}: {}", status.message());
        assert!(status.message().contains(text), "{}", status.message());
    };
    check(400, "no", CODE_INVALID_ARGUMENT, "expected 2xx response, got 400. Body: no");
    check(404, "no", CODE_NOT_FOUND, "got 404");
    check(422, "no", CODE_INTERNAL, "got 422");
    check(500, "no", CODE_INTERNAL, "got 500");
    check(503, "no", CODE_UNAVAILABLE, "got 503");
    check(200, r#"{"status":"error","error":"boom"}"#, CODE_INTERNAL, "boom");
    check(200, "<html>", CODE_INTERNAL, "decode Prometheus's answer");
    check(200, r#"{"status":"success","data":{}}"#, CODE_INTERNAL, "invalid type");
}

#[test]
fn a_client_that_goes_away_ends_the_question_to_prometheus() {
    let rig = rig();
    let canceled = "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"TSDBStatistics\",grpc_service=\"thanos.Status\",grpc_type=\"server_stream\"}";
    assert_eq!(rig.sidecar.metric(canceled), 0.0);
    // The fake cannot answer while its state is held.
    let held = rig.prometheus.state.lock().unwrap();
    let stream = rig.client.server_streaming(&STATUS, &TSDBStatisticsRequest::default(), options()).unwrap();
    while !rig.prometheus.requests.recv_timeout(PATIENCE).unwrap().starts_with("/api/v1/status/tsdb") {}
    drop(stream);
    rig.sidecar.wait_metric(canceled, |n| n == 1.0);
    drop(held);
}

#[test]
fn info_announces_every_api_but_the_queriers() {
    let rig = rig();
    let info = Store::connect(rig.sidecar.grpc).info().unwrap();
    assert!(info.rules.is_some() && info.targets.is_some() && info.metric_metadata.is_some() && info.status.is_some());
    let exemplars = info.exemplars.as_ref().expect("exemplars are announced");
    assert_eq!((exemplars.min_time, exemplars.max_time), (0, 0));
    assert!(info.query.is_none());
}

#[test]
fn names_and_values_are_limited_and_clamped() {
    let rig = rig();
    let store = Store::connect(rig.sidecar.grpc);
    let names = |limit: i64, without: &[&str], with: &[(&str, &str, &str)]| {
        let without = without.iter().map(ToString::to_string).collect();
        let matchers = matchers(with);
        let request = LabelNamesRequest {
            limit,
            without_replica_labels: without,
            matchers,
            start: 5,
            end: 9_000_000,
            ..Default::default()
        };
        store.label_names(&request).unwrap().names
    };
    let values = |label: &str, limit: i64, with: &[(&str, &str, &str)]| {
        let request = LabelValuesRequest { label: label.into(), limit, matchers: matchers(with), ..Default::default() };
        let answer = store.label_values(&request).unwrap();
        (answer.values, answer.warnings)
    };
    // The lowest timestamp of the fake is 1000 s. External names and names taken away do not count.
    rig.gives("/api/v1/labels", r#"["job","zone","region","app"]"#);
    assert_eq!(names(3, &[], &[]), ["app", "job", "region", "replica"]);
    assert_eq!(rig.asked("/api/v1/labels"), "/api/v1/labels?end=9000&limit=3&start=1000");
    assert_eq!(names(4, &["app"], &[]), ["job", "region", "replica", "zone"]);
    assert_eq!(rig.asked("/api/v1/labels"), "/api/v1/labels?end=9000&limit=5&start=1000");
    assert_eq!(names(-1, &[], &[]).len(), 5);
    assert_eq!(rig.asked("/api/v1/labels"), "/api/v1/labels?end=9000&start=1000");
    rig.gives("/api/v1/label/job/values", r#"["c","a","b","a"]"#);
    assert_eq!(values("job", 2, &[]), (vec!["a".into(), "b".into()], vec!["careful".into()]));
    // The end is left alone, where it is not set too.
    assert_eq!(rig.asked("/api/v1/label/"), "/api/v1/label/job/values?end=0&limit=2&start=1000");

    // Whether there is any series is asked for one series.
    let truncated = r#"{"status":"success","data":[{"job":"x"}],"warnings":["results truncated due to limit"]}"#;
    rig.says("/api/v1/series", 200, truncated);
    assert_eq!(values("region", 7, &[("job", "=", "x")]), (vec!["eu-west".into()], vec![]));
    assert!(rig.asked("/api/v1/series").contains("&limit=1&"));

    // A Prometheus whose label endpoints take no matchers: all series are asked for, names and values are limited.
    rig.prometheus.set(|state| {
        state.version = "2.20.0".into();
        state.overrides = vec![];
        state.series = r#"[{"a":"1","b":"3"},{"a":"1","c":"2"},{"a":"0"}]"#.into();
    });
    rig.prometheus.go_down();
    rig.sidecar.wait_ready(false);
    rig.prometheus.up();
    rig.sidecar.wait_ready(true);
    assert_eq!(names(2, &[], &[("job", "=", "x")]), ["a", "b", "region", "replica"]);
    assert_eq!(values("a", 1, &[("job", "=", "x")]).0, ["0"]);
    assert!(!rig.asked("/api/v1/series").contains("limit"));
}

/// The answers to these questions, asked in one conversation.
fn reflect(
    rig: &Rig,
    reflection: &Method<ServerReflectionRequest, ServerReflectionResponse>,
    questions: &[Question],
) -> Vec<Answer> {
    let (mut sink, mut stream) = rig.client.duplex_streaming(reflection, options()).unwrap();
    let mut answers = vec![];
    for question in questions {
        let request = ServerReflectionRequest { message_request: Some(question.clone()), ..Default::default() };
        let sent = block_on(sink.send((request.clone(), WriteFlags::default())));
        let response = block_on(stream.next());
        assert!(sent.is_ok(), "after {}: {sent:?}, {response:?}\n{}", answers.len(), rig.sidecar.log());
        let response = response.unwrap().unwrap();
        assert_eq!(response.original_request, MessageField::some(request));
        answers.push(response.message_response.unwrap());
    }
    block_on(sink.close()).unwrap();
    assert!(block_on(stream.next()).is_none(), "the conversation ends when the client has no more questions");
    answers
}

#[test]
fn reflection_lists_and_describes_everything() {
    let rig = rig();
    for reflection in [REFLECTION, REFLECTION_ALPHA] {
        let questions = [
            Question::ListServices("*".into()),
            Question::FileContainingSymbol("thanos.Rules".into()),
            Question::FileByFilename("nothing.proto".into()),
        ];
        let answers = reflect(&rig, &reflection, &questions);
        let Answer::ListServicesResponse(list) = &answers[0] else { panic!("{answers:?}") };
        let services: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(
            services,
            [
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
                "thanos.Exemplars",
                "thanos.Metadata",
                "thanos.Rules",
                "thanos.Status",
                "thanos.Store",
                "thanos.Targets",
                "thanos.info.Info",
            ]
        );
        let Answer::FileDescriptorResponse(files) = &answers[1] else { panic!("{answers:?}") };
        let files: Vec<_> = files
            .file_descriptor_proto
            .iter()
            .map(|bytes| FileDescriptorProto::parse_from_bytes(bytes).unwrap())
            .collect();
        assert_eq!(files[0].service[0].method[0].output_type(), ".thanos.RulesResponse");
        // What is needed to use the first file is there.
        let there: BTreeSet<_> = files.iter().map(FileDescriptorProto::name).collect();
        for file in &files {
            assert!(file.dependency.iter().all(|name| there.contains(name.as_str())), "{there:?}");
        }
        assert!(matches!(&answers[2], Answer::ErrorResponse(err) if err.error_code == CODE_NOT_FOUND));
    }
}

#[test]
fn an_open_reflection_conversation_does_not_hold_up_the_stop() {
    let rig = rig();
    let (mut sink, mut stream) = rig.client.duplex_streaming(&REFLECTION, options()).unwrap();
    let request =
        ServerReflectionRequest { message_request: Some(Question::ListServices(String::new())), ..Default::default() };
    block_on(sink.send((request, WriteFlags::default()))).unwrap();
    block_on(stream.next()).unwrap().unwrap();
    // The grace period is two minutes, twice the patience of these tests.
    assert!(rig.sidecar.stop().success());
    let end = block_on(stream.next()).unwrap().unwrap_err();
    assert!(matches!(end, grpcio::Error::RpcFailure(status) if i32::from(status.code()) == CODE_UNAVAILABLE));
}
