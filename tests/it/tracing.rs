//! Traces of a real daemon: what arrives at a collector, what Prometheus is told, and what a collector that is dead costs.

mod otlp_grpc;

use std::time::{Duration, Instant};

use crate::support::api_client;
use crate::support::certificates::Certificates;
use crate::support::fake_prometheus::{FakePrometheus, Read_, series};
use crate::support::sidecar::{PATIENCE, Sidecar, ask_with};
use crate::support::store_client::{Store, options, request};
use grpcio::{CallOption, MetadataBuilder, RpcStatus, RpcStatusCode};
use pillion_proto::thanos_metadata::MetricMetadataRequest;
use pillion_proto::thanos_store::{LabelNamesRequest, SeriesRequest};
use pillion_testing::collector::{Collector, Manner};
use pillion_testing::otlp::Span;

use otlp_grpc::{GrpcCollector, tls_gate};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn config(collector: impl ToString, more: &str) -> String {
    let endpoint = collector.to_string();
    format!(
        "--tracing.config={{type: OTLP, config: {{client_type: http, insecure: true, endpoint: '{endpoint}', {more}}}}}"
    )
}

fn prometheus() -> FakePrometheus {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| {
        state.read = Read_::Frames(vec![series(&[("job", "x"), ("n", "1")], &[(1, 2, 1, b"chunk")])]);
        state.overrides = vec![
            ("/api/v1/labels".into(), 200, r#"{"status":"success","data":["job"]}"#.into()),
            ("/api/v1/metadata".into(), 200, r#"{"status":"success","data":{"up":[{"type":"gauge"}]}}"#.into()),
        ];
    });
    prometheus
}

fn within(headers: &[(&str, &str)]) -> CallOption {
    let mut metadata = MetadataBuilder::new();
    for (name, value) in headers {
        metadata.add_str(name, value).unwrap();
    }
    options().headers(metadata.build())
}

fn ask() -> SeriesRequest {
    request(&[("job", "=", "x")])
}

/// A Series call with these headers, to its end.
fn call(store: &Store, headers: &[(&str, &str)]) -> i32 {
    store.series_with(&ask(), within(headers)).code()
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {spans:#?}");
    found[0]
}

/// What arrives at the stop at the latest.
fn all(sidecar: Sidecar, collector: &Collector) -> Vec<Span> {
    assert!(sidecar.stop().success());
    collector.requests.try_iter().flat_map(|request| request.spans).collect()
}

#[test]
fn a_series_call_within_a_trace() {
    let (prometheus, collector) = (prometheus(), Collector::start());
    let sidecar = Sidecar::ready(&prometheus.url(), &[&config(collector.address, "service_name: sidecar")]);
    let store = Store::connect(sidecar.grpc);
    let parent = format!("00-{TRACE}-{SPAN}-01");
    assert_eq!(call(&store, &[("traceparent", &parent), ("tracestate", "a=1"), ("baggage", "k=v")]), 0);
    let spans = all(sidecar, &collector);

    let root = named(&spans, "/thanos.Store/Series");
    assert_eq!((root.trace_id.as_str(), root.parent.as_str(), root.kind), (TRACE, SPAN, 2));
    assert_eq!((root.resource["service.name"].as_str(), root.state.as_str()), ("sidecar", "a=1"));
    assert_eq!(
        (root.attributes["component"].as_str(), root.attributes["rpc.grpc.status_code"].as_str()),
        ("gRPC", "0")
    );
    assert_eq!(root.error, None);
    let read = named(&spans, "query_prometheus");
    assert_eq!((read.trace_id.as_str(), &read.parent, read.kind), (TRACE, &root.span_id, 3));
    let said = |key: &str| read.attributes[key].as_str();
    assert_eq!((said("frames"), said("processed.series"), said("processed.chunks")), ("1", "1", "1"));
    assert!(said("query.request").starts_with(r#"{job="x"} "#), "{read:#?}");
    assert!(said("processed.bytes").parse::<u64>().unwrap() > 10);
    assert_eq!((said("http.method"), said("http.status_code")), ("POST", "200"));
    assert_eq!(said("http.url"), format!("{}/api/v1/read", prometheus.url()));
    for label in spans.iter().filter(|span| span.name == "/prom_label_values HTTP[client]") {
        assert_eq!(label.parent, root.span_id);
    }
    assert!(spans.iter().all(|span| span.trace_id == TRACE), "{spans:#?}");

    let traced: Vec<(String, String)> = prometheus.traced.try_iter().collect();
    let (_, head) = traced.iter().find(|(path, _)| path == "/api/v1/read").unwrap();
    assert!(head.contains(&format!("traceparent: 00-{TRACE}-{}-01\r\n", read.span_id)), "{head}");
    assert!(head.contains("tracestate: a=1\r\n") && head.contains("baggage: k=v\r\n"), "{head}");
    // The label that might conflict was looked for within the call, too.
    assert!(traced.iter().any(|(path, _)| path.starts_with("/api/v1/label/")), "{traced:?}");
}

/// From the histogram to the query: the id stands beside the bucket and in the log, and nowhere for calls that are not recorded.
#[test]
fn a_traced_call_is_found_again_from_its_latency_and_in_the_log() {
    let (prometheus, collector) = (prometheus(), Collector::start());
    let log = "--request.logging-config=grpc: {options: {level: INFO, decision: {log_end: true}}}";
    let sidecar =
        Sidecar::ready(&prometheus.url(), &[&config(collector.address, "sampler_type: parentbasedneversample"), log]);
    let store = Store::connect(sidecar.grpc);
    let other = "1bf7651916cd43dd8448eb211c80319d";
    assert_eq!(call(&store, &[("traceparent", &format!("00-{other}-{SPAN}-00"))]), 0);
    let line = sidecar.wait_line("finished call");
    assert!(!line.contains("traceID"), "{line}");
    assert_eq!(call(&store, &[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))]), 0);
    let line = sidecar.wait_line("finished call");
    assert!(line.contains(&format!("traceID={TRACE} ")) && line.contains("grpc.method=Series"), "{line}");
    let accept = "Accept: application/openmetrics-text;version=1.0.0\r\n";
    let page = ask_with(sidecar.http, "GET", "/metrics", accept).unwrap().1;
    let found: Vec<&str> = page.lines().filter(|line| line.contains(" # {trace_id=")).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("grpc_server_handling_seconds_bucket{grpc_method=\"Series\""), "{found:?}");
    assert!(found[0].contains(&format!("# {{trace_id=\"{TRACE}\"}} ")), "{found:?}");
    // The older format has no room for it.
    assert!(!sidecar.get("/metrics").unwrap().1.contains(TRACE));
}

#[test]
fn every_kind_of_call_has_a_span() {
    let (prometheus, collector) = (prometheus(), Collector::start());
    let sidecar = Sidecar::ready(&prometheus.url(), &[&config(collector.address, "")]);
    let store = Store::connect(sidecar.grpc);
    store.info().unwrap();
    store.label_names(&LabelNamesRequest::default()).unwrap();
    let client = api_client::connect(sidecar.grpc);
    api_client::call(&client, &api_client::METADATA, &MetricMetadataRequest::default()).unwrap();
    let spans = all(sidecar, &collector);
    let child = |name: &str, parent: &str| assert_eq!(named(&spans, name).parent, named(&spans, parent).span_id);
    assert_eq!(named(&spans, "/thanos.info.Info/Info").parent, "");
    child("/prom_label_names HTTP[client]", "/thanos.Store/LabelNames");
    child("/prom_metric_metadata HTTP[client]", "/thanos.Metadata/MetricMetadata");
    child("send_metadata_response", "/thanos.Metadata/MetricMetadata");
    let traces: std::collections::BTreeSet<&String> = spans.iter().map(|span| &span.trace_id).collect();
    assert_eq!(traces.len(), 3, "{spans:#?}");
}

#[test]
fn a_call_that_fails_says_why() {
    let (prometheus, collector) = (prometheus(), Collector::start());
    prometheus.set(|state| state.read = Read_::Status(503, "busy"));
    let sidecar = Sidecar::ready(&prometheus.url(), &[&config(collector.address, "")]);
    assert_eq!(call(&Store::connect(sidecar.grpc), &[]), 14);
    let spans = all(sidecar, &collector);
    let root = named(&spans, "/thanos.Store/Series");
    assert_eq!(root.attributes["rpc.grpc.status_code"], "14");
    assert!(root.error.as_ref().unwrap().contains("503"), "{root:#?}");
    assert!(named(&spans, "query_prometheus").error.as_ref().unwrap().contains("busy"));
}

#[test]
fn the_callers_decision_counts_in_each_of_its_forms() {
    let (prometheus, collector) = (prometheus(), Collector::start());
    let sidecar = Sidecar::start_with(
        &[
            &format!("--prometheus.url={}", prometheus.url()),
            &config(collector.address, "sampler_type: parentbasedneversample"),
        ],
        |command| {
            command.env("OTEL_PROPAGATORS", "tracecontext,jaeger,b3multi");
        },
    );
    sidecar.wait_ready(true);
    let store = Store::connect(sidecar.grpc);
    let ids = ["0000000000000000000000000000000", "b000000000000000"];
    let trace = |n: u32| format!("{}{n}", ids[0]);
    assert_eq!(call(&store, &[]), 0);
    assert_eq!(call(&store, &[("traceparent", &format!("00-{}-{SPAN}-00", trace(1)))]), 0);
    assert_eq!(call(&store, &[("traceparent", &format!("00-{}-{SPAN}-01", trace(2)))]), 0);
    assert_eq!(call(&store, &[("b3", &format!("{}-{SPAN}-1", trace(3)))]), 0);
    assert_eq!(call(&store, &[("x-b3-traceid", &trace(4)), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")]), 0);
    assert_eq!(call(&store, &[("uber-trace-id", &format!("5:{}:0:1", ids[1]))]), 0);
    assert_eq!(call(&store, &[("uber-trace-id", "nonsense"), ("traceparent", "00-")]), 0);
    let forced = [("traceparent", format!("00-{}-{SPAN}-00", trace(6))), ("x-thanos-force-tracing", "1".into())];
    assert_eq!(call(&store, &forced.each_ref().map(|(name, value)| (*name, value.as_str()))), 0);
    let spans = all(sidecar, &collector);
    let mut traces: Vec<&str> = spans.iter().filter(|span| span.kind == 2).map(|span| span.trace_id.as_str()).collect();
    traces.sort_unstable();
    assert_eq!(traces, [trace(2), trace(3), trace(4), trace(5), trace(6)], "{spans:#?}");
    let root = spans.iter().find(|span| span.trace_id == trace(6) && span.kind == 2).unwrap();
    assert_eq!(root.attributes["thanos.force_tracing"], "true");
    // What is not recorded is passed on, too, with that decision.
    let heads: Vec<String> = prometheus.traced.try_iter().map(|(_, head)| head).collect();
    assert!(heads.iter().any(|head| {
        head.contains(&format!("traceparent: 00-{}-", trace(1)))
            && head.contains(&format!("uber-trace-id: {}:", trace(1)))
            && head.contains(&format!("x-b3-traceid: {}\r\n", trace(1)))
            && head.contains("x-b3-sampled: 0\r\n")
    }));
}

#[test]
fn a_dead_collector_costs_the_callers_nothing() {
    let (prometheus, collector) = (prometheus(), Collector::start());
    collector.set(Manner::Hang);
    let plain = Sidecar::ready(&prometheus.url(), &[]);
    let traced = Sidecar::ready(&prometheus.url(), &[&config(collector.address, "timeout: 50s")]);
    let time = |sidecar: &Sidecar, n: u32| {
        let store = Store::connect(sidecar.grpc);
        store.info().unwrap();
        let begun = Instant::now();
        (0..n).for_each(|_| drop(store.info().unwrap()));
        begun.elapsed()
    };
    // A batch is on its way, and the queue is full soon after.
    time(&traced, 600);
    collector.next();
    time(&traced, 2100);
    assert!(traced.metric("pillion_tracing_spans_dropped_total") >= 1.0);
    let (without, with) = (time(&plain, 1000), time(&traced, 1000));
    assert!(with < 3 * without + Duration::from_secs(1), "{with:?} with a dead collector, {without:?} without traces");
    assert!(traced.metric("pillion_tracing_spans_dropped_total") >= 1000.0);
    let begun = Instant::now();
    assert!(traced.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn one_line_for_a_collector_that_is_gone_and_one_when_it_is_back() {
    let (prometheus, collector) = (prometheus(), Collector::start());
    collector.set(Manner::Refuse(503, "", "starting"));
    let retry = "retry_config: {retry_initial_interval: 1ms, retry_max_interval: 5ms, retry_max_elapsed_time: 20ms}";
    let sidecar = Sidecar::ready(&prometheus.url(), &[&config(collector.address, retry)]);
    let store = Store::connect(sidecar.grpc);
    let calls = || (0..512).for_each(|_| drop(store.info().unwrap()));
    calls();
    sidecar.wait_metric("pillion_tracing_spans_failed_total", |n| n >= 512.0);
    calls();
    sidecar.wait_metric("pillion_tracing_spans_failed_total", |n| n >= 1024.0);
    collector.set(Manner::Take);
    calls();
    sidecar.wait_metric("pillion_tracing_spans_exported_total", |n| n >= 512.0);
    let line = sidecar.wait_line("takes spans again");
    assert!(line.contains("lost=1024"), "{line}");
    assert_eq!(sidecar.log().matches("the collector does not take spans").count(), 1, "{}", sidecar.log());
    assert!(sidecar.log().contains("503") && sidecar.log().contains("starting"), "{}", sidecar.log());
}

#[test]
fn over_grpc_with_gzip_and_headers() {
    let (prometheus, collector) = (prometheus(), GrpcCollector::start());
    let flag = format!(
        "--tracing.config={{type: OTLP, config: {{client_type: grpc, insecure: true, endpoint: '{}', compression: gzip, \
         headers: {{Api-Key: hunter2}}}}}}",
        collector.address
    );
    let sidecar = Sidecar::ready(&prometheus.url(), &[&flag]);
    let store = Store::connect(sidecar.grpc);
    assert_eq!(call(&store, &[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))]), 0);
    let request = collector.requests.recv_timeout(PATIENCE).unwrap();
    let root = named(&request.spans, "/thanos.Store/Series");
    assert_eq!((root.trace_id.as_str(), root.parent.as_str()), (TRACE, SPAN));
    let has = |name: &str, value: &str| request.metadata.iter().any(|pair| pair.0 == name && pair.1.contains(value));
    assert!(has("api-key", "hunter2") && has("user-agent", "pillion/"), "{:?}", request.metadata);

    // A refusal for good, then all is well again over the same connection.
    let refused = RpcStatus::with_message(RpcStatusCode::PERMISSION_DENIED, "no quota".into());
    *collector.refusal.lock().unwrap() = Some(refused);
    store.info().unwrap();
    sidecar.wait_metric("pillion_tracing_spans_failed_total", |n| n >= 1.0);
    let line = sidecar.wait_line("the collector does not take spans");
    assert!(line.contains("PERMISSION_DENIED: no quota") && !line.contains("hunter2"), "{line}");
    *collector.refusal.lock().unwrap() = None;
    store.info().unwrap();
    sidecar.wait_line("takes spans again");
    assert!(sidecar.stop().success());
}

#[test]
fn over_grpc_with_tls_and_a_certificate() {
    let (prometheus, collector, made) = (prometheus(), GrpcCollector::start(), Certificates::new());
    let gate = tls_gate(&made, collector.address);
    let flag = |tls: &str| {
        let retry = "retry_config: {retry_enabled: false}";
        let tls = tls.replace("DIR", &made.dir().display().to_string());
        format!(
            "--tracing.config={{type: OTLP, config: {{client_type: grpc, endpoint: 'localhost:{}', {retry}, \
             tls_config: {{{tls}}}}}}}",
            gate.port()
        )
    };
    let both = "ca_file: DIR/ca.pem, cert_file: DIR/client.pem, key_file: DIR/client.key";
    let sidecar = Sidecar::ready(&prometheus.url(), &[&flag(both)]);
    let store = Store::connect(sidecar.grpc);
    store.info().unwrap();
    assert!(sidecar.stop().success());
    let request = collector.requests.recv_timeout(PATIENCE).unwrap();
    // Proxies choose by this name where a call goes.
    assert_eq!(request.authority, format!("localhost:{}", gate.port()));
    let spans = request.spans;
    assert_eq!(named(&spans, "/thanos.info.Info/Info").kind, 2);

    for (tls, advice) in [
        ("ca_file: DIR/other.pem", "tls_config.ca_file names the file of an authority"),
        ("ca_file: DIR/ca.pem", "tls_config.cert_file"),
        ("ca_file: DIR/ca.pem, server_name: elsewhere.test", "tls_config.server_name says which host is meant"),
    ] {
        let sidecar = Sidecar::ready(&prometheus.url(), &[&flag(tls)]);
        Store::connect(sidecar.grpc).info().unwrap();
        let line = sidecar.wait_line("the collector does not take spans");
        assert!(line.contains(advice), "{tls}: {line}");
        sidecar.wait_metric("pillion_tracing_spans_failed_total", |n| n >= 1.0);
    }
}

#[test]
fn the_file_is_read_again() {
    let (prometheus, first, second) = (prometheus(), Collector::start(), Collector::start());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tracing.yml");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    let to = |collector: &Collector, more: &str| {
        format!("type: otlp\nconfig:\n  client_type: http\n  insecure: true\n  endpoint: {}\n{more}", collector.address)
    };
    write(&to(&first, "  sampler_type: neversample\n"));
    let sidecar = Sidecar::ready(&prometheus.url(), &[&format!("--tracing.config-file={}", path.display())]);
    let store = Store::connect(sidecar.grpc);
    store.info().unwrap();
    write(&to(&second, "  headers: {x: new}\n"));
    sidecar.signal("HUP");
    sidecar.wait_line("tracing configuration: the change is in use");
    store.info().unwrap();
    for (text, why) in [
        ("type: OTLP\nconfig: {client_typ: http}", "line 2: field client_typ not found in config"),
        ("type: JAEGER", "Jaeger takes OTLP"),
        ("", "the file is empty"),
    ] {
        write(text);
        sidecar.signal("HUP");
        // The same may be said twice: the files are looked at without a signal, too.
        let line = sidecar.wait_line(why);
        assert!(line.contains("reloading the tracing configuration failed; what was used before goes on"), "{line}");
    }
    store.info().unwrap();
    assert!(sidecar.stop().success());
    let requests: Vec<_> = second.requests.try_iter().collect();
    assert_eq!(requests.iter().map(|request| request.spans.len()).sum::<usize>(), 2);
    assert_eq!(requests[0].headers["x"], "new");
    assert_eq!(first.requests.len(), 0);
}

#[test]
fn what_cannot_be_is_refused_at_the_start() {
    for (arg, why) in [
        (
            "--tracing.config=type: JAEGER",
            "tracing failed: parsing the tracing configuration of --tracing.config: line 1: type: tracing with type JAEGER is not supported. Jaeger takes OTLP",
        ),
        (
            "--tracing.config={type: OTLP, config: {client_type: http, tls_config: {ca_file: /nowhere}}}",
            "tracing failed: tls_config.ca_file: read /nowhere",
        ),
        (
            "--tracing.config={type: OTLP, config: {client_type: grpc, tls_config: {ca_file: /nowhere}}}",
            "tracing failed: tls_config.ca_file: read /nowhere",
        ),
        ("--tracing.config-file=/nowhere", "tracing failed: loading file /nowhere for tracing.config-file"),
    ] {
        let mut sidecar = Sidecar::start(&[arg]);
        assert_eq!(sidecar.wait_exit().code(), Some(1), "{arg}");
        assert!(sidecar.log().replace("\\\"", "\"").contains(why), "{arg}: {}", sidecar.log());
    }
}

#[test]
fn nothing_is_there_without_the_flag() {
    let prometheus = prometheus();
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    assert_eq!(call(&Store::connect(sidecar.grpc), &[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))]), 0);
    assert_eq!(prometheus.traced.len(), 0);
    assert!(!sidecar.get("/metrics").unwrap().1.contains("pillion_tracing"));
    let threads = std::fs::read_dir(format!("/proc/{}/task", sidecar.pid())).unwrap();
    let names: Vec<String> = threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    assert!(names.iter().all(|name| name != "trace" && !name.starts_with("otlp")), "{names:?}");
}
