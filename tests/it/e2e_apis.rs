//! The services beside the StoreAPI on real Prometheus releases, which live under a path: what they say is what the
//! HTTP API of the same Prometheus says, with the external labels on top. Every release that is there is tried.

use crate::support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::api_client::{EXEMPLARS, METADATA, RULES, STATUS, TARGETS, call, connect, labels};
use crate::support::store_client::{Store, matchers};
use grpcio::Client;
use pillion_base::threads::spawn_thread;
use pillion_proto::thanos_exemplars::ExemplarsRequest;
use pillion_proto::thanos_metadata::MetricMetadataRequest;
use pillion_proto::thanos_rules::{AlertState, RulesRequest, rules_request};
use pillion_proto::thanos_status::{Statistic, TSDBStatisticsRequest};
use pillion_proto::thanos_store::{LabelNamesRequest, LabelValuesRequest};
use pillion_proto::thanos_targets::{TargetHealth, TargetsRequest, targets_request};
use serde_json::Value;
use support::prometheus::{Release, releases};
use support::server::{Server, free_port, get};
use tempfile::TempDir;

/// The path under which Prometheus lives.
const SUB_PATH: &str = "/monitoring/prometheus";

const RULE_FILE: &str = r#"groups:
- name: first
  interval: 1s
  limit: 10
  rules:
  - record: e2e:up:sum
    expr: sum by (job) (up)
    labels: {kind: recorded, region: local}
  - alert: Always
    expr: vector(42)
    keep_firing_for: 5m
    labels: {severity: page}
    annotations: {summary: "it is {{ $value }}", nothing: ""}
- name: second
  interval: 1h
  rules:
  - alert: Never
    expr: vector(1) > 2
    for: 1m
"#;

/// A Prometheus with rules, an exemplar, a target that is up, one that is down, one that is dropped; and Pillion beside it.
struct Rig {
    url: String,
    grpc: String,
    client: Client,
    /// When the exemplar was seen. `Units:` ms.
    exemplar_ms: i64,
    _servers: [Server; 2],
    _dir: TempDir,
}

fn rig(release: &Release) -> Rig {
    println!("Prometheus {}.{}", release.version.0, release.version.1);
    let dir = tempfile::tempdir().unwrap();
    let (port, http, grpc) = (free_port(), free_port(), free_port());
    let exemplar_ms = now_ms();
    let target = exposition_server(exemplar_ms);
    let config = format!(
        "global:\n  scrape_interval: 1s\n  external_labels: {{region: eu-west, replica: e2e}}\n\
         rule_files: [rules.yml]\nscrape_configs:\n\
         - job_name: up\n  static_configs: [{{targets: ['127.0.0.1:{target}'], labels: {{region: local}}}}]\n\
         - job_name: down\n  static_configs: [{{targets: ['127.0.0.1:1']}}]\n\
         - job_name: dropped\n  static_configs: [{{targets: ['127.0.0.1:2']}}]\n  \
           relabel_configs: [{{action: drop, source_labels: [__address__], regex: '.*'}}]\n"
    );
    std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
    std::fs::write(dir.path().join("rules.yml"), RULE_FILE).unwrap();
    let url = format!("http://127.0.0.1:{port}{SUB_PATH}");
    let mut prometheus = Command::new(release.program());
    prometheus
        .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg(format!("--web.external-url={url}"))
        .arg("--enable-feature=exemplar-storage");
    let mut prometheus = Server::start("prometheus", &mut prometheus);
    prometheus.wait_for("data of every kind", || is_complete(&url).then_some(()));
    let mut pillion = Command::new(env!("CARGO_BIN_EXE_pillion"));
    pillion
        .arg("sidecar")
        .arg(format!("--prometheus.url={url}"))
        .arg(format!("--http-address=127.0.0.1:{http}"))
        .arg(format!("--grpc-address=127.0.0.1:{grpc}"));
    let mut pillion = Server::start("pillion", &mut pillion);
    let ready = format!("http://127.0.0.1:{http}/-/ready");
    pillion.wait_for("readiness", || get(&ready, &[]).filter(|(status, _)| *status == 200));
    let grpc = format!("127.0.0.1:{grpc}");
    Rig { url, client: connect(&grpc), grpc, exemplar_ms, _servers: [prometheus, pillion], _dir: dir }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

/// `data` of an endpoint of the HTTP API.
fn ask(url: &str, path: &str, query: &[(&str, &str)]) -> Option<Value> {
    let (status, body) = get(&format!("{url}/api/v1/{path}"), query)?;
    let mut answer: Value = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
    Some(answer["data"].take())
}

/// Whether everything that is looked at below has happened in Prometheus.
fn is_complete(url: &str) -> bool {
    let complete = || {
        let targets = ask(url, "targets", &[])?;
        let is_scraped = targets["activeTargets"].as_array()?.iter().all(|target| target["health"] != "unknown");
        let rules = ask(url, "rules", &[])?;
        let is_firing = rules["groups"][0]["rules"][1]["state"] == "firing";
        let query = [("query", "e2e_total"), ("start", "0"), ("end", "9999999999")];
        let has_exemplar = !ask(url, "query_exemplars", &query)?.as_array()?.is_empty();
        let has_recorded = !ask(url, "label/kind/values", &[])?.as_array()?.is_empty();
        Some(is_scraped && is_firing && has_exemplar && has_recorded)
    };
    complete().unwrap_or(false)
}

/// A target whose counter has an exemplar of this time. Gives its port.
fn exposition_server(exemplar_ms: i64) -> u16 {
    let page = format!(
        "# HELP e2e Things \"done\".\n# TYPE e2e counter\n# UNIT e2e \n\
         e2e_total{{a=\"1\"}} 5 # {{trace_id=\"t1\"}} 0.25 {}.{:03}\n# EOF\n",
        exemplar_ms / 1000,
        exemplar_ms % 1000
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move |mut stream: TcpStream| -> std::io::Result<()> {
        for line in BufReader::new(&stream).lines() {
            if line?.is_empty() {
                break;
            }
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        write!(stream, "{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}", page.len())
    };
    spawn_thread("target", None, move || {
        for stream in listener.incoming() {
            // A scrape that broke off is tried again in a second.
            let _ = stream.and_then(&serve);
        }
    })
    .unwrap();
    port
}

/// `a=1 b=2` of a JSON object with the external labels on top.
fn with_external(set: &Value) -> String {
    let mut all = strings(set);
    all.extend([("region".into(), "eu-west".into()), ("replica".into(), "e2e".into())]);
    text(&all)
}

fn strings(set: &Value) -> BTreeMap<String, String> {
    set.as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

fn text(set: &BTreeMap<String, String>) -> String {
    set.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_service_says_what_prometheus_says() {
    for release in releases() {
        let rig = rig(&release);
        rules(&rig);
        targets(&rig);
        metadata(&rig);
        exemplars(&rig);
        statistics(&rig);
        names_and_values(&rig);
    }
}

fn rules(rig: &Rig) {
    let groups = |kind: rules_request::Type| {
        let request = RulesRequest { type_: kind.into(), ..Default::default() };
        let answer = call(&rig.client, &RULES, &request).unwrap();
        answer.into_iter().map(|mut message| message.take_group()).collect::<Vec<_>>()
    };
    let expected = ask(&rig.url, "rules", &[]).unwrap();
    let all = groups(rules_request::Type::ALL);
    assert_eq!(all.len(), expected["groups"].as_array().unwrap().len());
    for (group, expected) in all.iter().zip(expected["groups"].as_array().unwrap()) {
        assert_eq!(
            (group.name.as_str(), group.file.as_str()),
            (expected["name"].as_str().unwrap(), expected["file"].as_str().unwrap())
        );
        assert_eq!(
            (group.interval, group.limit),
            (expected["interval"].as_f64().unwrap(), expected["limit"].as_i64().unwrap())
        );
        assert_eq!(group.PartialResponseStrategy.value(), 1);
    }
    let now = now_ms() / 1000;
    assert!((now - 60..=now).contains(&all[0].last_evaluation.seconds), "{:?}", all[0].last_evaluation);

    let expected = &expected["groups"][0]["rules"];
    let rule = all[0].rules[0].recording();
    assert_eq!(
        (rule.name.as_str(), rule.query.as_str(), rule.health.as_str()),
        ("e2e:up:sum", "sum by (job) (up)", "ok")
    );
    assert_eq!(labels(&rule.labels), with_external(&expected[0]["labels"]));
    assert!((now - 60..=now).contains(&rule.last_evaluation.seconds));

    let alert = all[0].rules[1].alert();
    assert_eq!((alert.name.as_str(), alert.state), ("Always", AlertState::FIRING.into()));
    assert_eq!((alert.duration_seconds, alert.keep_firing_for_seconds), (0.0, 300.0));
    assert_eq!(labels(&alert.labels), with_external(&expected[1]["labels"]));
    assert_eq!(labels(&alert.annotations), text(&strings(&expected[1]["annotations"])));
    let (instance, expected) = (&alert.alerts[0], &expected[1]["alerts"][0]);
    assert_eq!(labels(&instance.labels), text(&strings(&expected["labels"])));
    assert_eq!(labels(&instance.annotations), text(&strings(&expected["annotations"])));
    assert_eq!((instance.state, instance.value.as_str()), (AlertState::FIRING.into(), "4.2e+01"));
    let active: jiff::Timestamp = expected["activeAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(
        (instance.active_at.seconds, instance.active_at.nanos),
        (active.as_second(), active.subsec_nanosecond())
    );
    assert_eq!(all[1].rules[0].alert().duration_seconds, 60.0);

    let n_rules = |kind| groups(kind).iter().map(|group| group.rules.len()).collect::<Vec<_>>();
    assert_eq!(n_rules(rules_request::Type::ALERT).iter().sum::<usize>(), 2);
    assert_eq!(n_rules(rules_request::Type::RECORD).iter().sum::<usize>(), 1);
}

fn targets(rig: &Rig) {
    let discovery = |state: targets_request::State| {
        let request = TargetsRequest { state: state.into(), ..Default::default() };
        let mut answer = call(&rig.client, &TARGETS, &request).unwrap();
        assert_eq!(answer.len(), 1);
        answer[0].take_targets()
    };
    let expected = ask(&rig.url, "targets", &[]).unwrap();
    let sorted = |key: &str| {
        let mut all: Vec<&Value> = expected[key].as_array().unwrap().iter().collect();
        all.sort_by_key(|target| with_external(&target["discoveredLabels"]));
        all
    };
    let mut all = discovery(targets_request::State::ANY);
    all.activeTargets.sort_by_key(|target| labels(&target.discoveredLabels));
    let expected_active = sorted("activeTargets");
    assert_eq!((all.activeTargets.len(), expected_active.len(), all.droppedTargets.len()), (2, 2, 1));
    for (target, expected) in all.activeTargets.iter().zip(expected_active) {
        assert_eq!(labels(&target.discoveredLabels), with_external(&expected["discoveredLabels"]));
        assert_eq!(labels(&target.labels), with_external(&expected["labels"]));
        assert_eq!(target.scrapePool, expected["scrapePool"].as_str().unwrap());
        assert_eq!(target.scrapeUrl, expected["scrapeUrl"].as_str().unwrap());
        assert_eq!(target.globalUrl, expected["globalUrl"].as_str().unwrap());
        assert_eq!(target.lastError, expected["lastError"].as_str().unwrap());
        assert_eq!(target.lastError.is_empty(), target.scrapePool == "up", "{target}");
        let health = if target.scrapePool == "up" { TargetHealth::UP } else { TargetHealth::DOWN };
        assert_eq!(target.health, health.into());
        let now = now_ms() / 1000;
        assert!((now - 60..=now).contains(&target.lastScrape.seconds));
    }
    let dropped = &sorted("droppedTargets")[0]["discoveredLabels"];
    assert_eq!(labels(&all.droppedTargets[0].discoveredLabels), with_external(dropped));
    let count = |state| {
        let targets = discovery(state);
        (targets.activeTargets.len(), targets.droppedTargets.len())
    };
    assert_eq!((count(targets_request::State::ACTIVE), count(targets_request::State::DROPPED)), ((2, 0), (0, 1)));
}

fn metadata(rig: &Rig) {
    let metadata = |metric: &str, limit: i32| {
        let request = MetricMetadataRequest { metric: metric.into(), limit, ..Default::default() };
        let mut answer = call(&rig.client, &METADATA, &request).unwrap();
        assert_eq!(answer.len(), 1);
        answer[0].take_metadata().metadata
    };
    let all = metadata("", -1);
    let expected = ask(&rig.url, "metadata", &[]).unwrap();
    let names = |map: &Value| map.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(all.keys().cloned().collect::<BTreeSet<_>>(), names(&expected));
    let metas = &all["e2e"].metas;
    assert_eq!((metas.len(), metas[0].type_.as_str(), metas[0].help.as_str()), (1, "counter", "Things \"done\"."));
    assert_eq!((metadata("e2e", -1).len(), metadata("nothing", -1).len(), metadata("", 0).len()), (1, 0, 0));
    assert_eq!(metadata("", 1).len(), 1);
}

fn exemplars(rig: &Rig) {
    let at = rig.exemplar_ms;
    let exemplars = |start: i64, end: i64| {
        let request = ExemplarsRequest { query: "e2e_total{a=\"1\"}".into(), start, end, ..Default::default() };
        call(&rig.client, &EXEMPLARS, &request)
    };
    // The range is exact to the millisecond.
    let answer = exemplars(at, at).unwrap();
    assert_eq!(answer.len(), 1);
    let (series, exemplar) = (answer[0].data(), &answer[0].data().exemplars[0]);
    assert!(labels(&series.seriesLabels).starts_with("__name__=e2e_total a=1 "));
    assert!(labels(&series.seriesLabels).ends_with(" region=eu-west replica=e2e"), "{series}");
    assert_eq!((labels(&exemplar.labels).as_str(), exemplar.value, exemplar.ts), ("trace_id=t1", 0.25, at));
    assert_eq!((exemplars(at + 1, at + 2).unwrap().len(), exemplars(at - 2, at - 1).unwrap().len()), (0, 0));
    let status = exemplars(at, at - 1).unwrap_err();
    assert_eq!(i32::from(status.code()), 3);
    assert!(status.message().contains("end timestamp must not be before start"), "{}", status.message());
}

fn statistics(rig: &Rig) {
    let statistics = |limit: i32, with: &[(&str, &str, &str)]| {
        let request = TSDBStatisticsRequest { limit, matchers: matchers(with), ..Default::default() };
        let mut answer = call(&rig.client, &STATUS, &request).unwrap();
        assert_eq!(answer.len(), 1);
        answer[0].take_statistics().statistics
    };
    let expected = ask(&rig.url, "status/tsdb", &[]).unwrap();
    let all = statistics(0, &[("region", "=", "eu-west")]).remove("").unwrap();
    let head = &all.head_statistics;
    assert_eq!(head.min_time, expected["headStats"]["minTime"].as_i64().unwrap());
    assert!(head.max_time >= head.min_time && head.num_series > 0 && head.num_label_pairs > 0 && head.chunk_count > 0);
    let check = |list: &[Statistic], key: &str| {
        let pairs = |name: &str, value: u64| format!("{name} {value}");
        let got: BTreeSet<_> = list.iter().map(|statistic| pairs(&statistic.name, statistic.value)).collect();
        let expected = expected[key].as_array().unwrap().iter();
        let expected: BTreeSet<_> =
            expected.map(|e| pairs(e["name"].as_str().unwrap(), e["value"].as_u64().unwrap())).collect();
        assert_eq!(got, expected, "{key}");
        assert!(!got.is_empty(), "{key}");
    };
    check(&all.label_value_count_by_label_name, "labelValueCountByLabelName");
    check(&all.memory_in_bytes_by_label_name, "memoryInBytesByLabelName");
    check(&all.series_count_by_label_value_pair, "seriesCountByLabelValuePair");
    check(&all.series_count_by_metric_name, "seriesCountByMetricName");
    let limited = statistics(1, &[]).remove("").unwrap();
    assert_eq!((limited.series_count_by_metric_name.len(), limited.memory_in_bytes_by_label_name.len()), (1, 1));
    assert!(statistics(0, &[("region", "=", "us")]).is_empty());
}

fn names_and_values(rig: &Rig) {
    let store = Store::connect(&rig.grpc);
    let names = |limit: i64, end: i64, with: &[(&str, &str, &str)]| {
        let request = LabelNamesRequest { limit, end, matchers: matchers(with), ..Default::default() };
        store.label_names(&request).unwrap().names
    };
    let mut expected: BTreeSet<String> =
        serde_json::from_value(ask(&rig.url, "labels", &[]).unwrap()).expect("a list of names");
    expected.extend(["region".to_owned(), "replica".to_owned()]);
    let expected: Vec<_> = expected.into_iter().collect();
    let far = now_ms() + 60_000;
    assert_eq!(names(0, far, &[]), expected);
    // External names come beyond the limit, as in Thanos.
    assert_eq!(names(2, far, &[]), [&expected[..2], &["region".to_owned(), "replica".to_owned()]].concat());
    let matched = names(0, far, &[("__name__", "=", "e2e_total"), ("replica", "=", "e2e")]);
    assert_eq!(matched, ["__name__", "a", "instance", "job", "region", "replica"]);
    // The start is not before what Prometheus holds, so this range is empty, and not an error.
    assert_eq!(names(0, 0, &[]), [""; 0]);
    let values = |label: &str, limit: i64, with: &[(&str, &str, &str)]| {
        let request =
            LabelValuesRequest { label: label.into(), limit, end: far, matchers: matchers(with), ..Default::default() };
        store.label_values(&request).unwrap().values
    };
    assert_eq!(values("job", 0, &[("__name__", "=", "up")]), ["down", "up"]);
    assert_eq!(values("job", 1, &[("__name__", "=", "up")]), ["down"]);
    assert_eq!(values("region", 0, &[("__name__", "=", "up")]), ["eu-west"]);
    assert_eq!(values("region", 0, &[("__name__", "=", "nothing")]), [""; 0]);
    assert_eq!(values("no such label/..", 0, &[]), [""; 0]);
}
