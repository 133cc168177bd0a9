//! What arrives of a span, and what of a call that is not recorded.

use std::collections::BTreeMap;

use pillion_testing::collector::Collector;
use pillion_trace::{Kind, Value};

use crate::stage::{SPAN, Stage, TRACE, counted, exporter, incoming, metrics, to};

#[test]
fn a_call_and_what_is_below_it_arrive() {
    let collector = Collector::start();
    let config = to(&collector, "service_name: sidecar, resource_attributes: {zone: b}, headers: {Api-Key: hunter2}");
    let stage = Stage::start(&config);
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let call = stage.tracer.serve(&incoming(&[("traceparent", &parent), ("tracestate", "a=1")]), || "/s/Call".into());
    let context = call.context().clone();
    assert!(context.is_sampled());
    assert_eq!(context.trace_id_hex(), TRACE);
    let mut child = stage.tracer.child(&context, Kind::Client, "query_prometheus");
    child.note("frames", || Value::Number(300));
    child.note("is", || Value::Bool(true));
    child.note("text", || Value::Text("é".into()));
    child.fail("query Prometheus: no");
    let told: BTreeMap<_, _> = stage.tracer.headers(child.context()).into_iter().collect();
    drop(child);
    drop(call);
    assert!(stage.stop().as_secs() < 60);

    let request = collector.next();
    assert_eq!((request.path.as_str(), request.headers["api-key"].as_str()), ("/v1/traces", "hunter2"));
    assert!(request.headers["user-agent"].starts_with("Pillion/"));
    let [child, call] = &request.spans[..] else { panic!("{request:#?}") };
    assert_eq!((call.trace_id.as_str(), call.parent.as_str(), call.state.as_str()), (TRACE, SPAN, "a=1"));
    assert_eq!((call.name.as_str(), call.kind, call.flags), ("/s/Call", 2, 0x301));
    assert_eq!((call.error.as_ref(), call.scope.as_str()), (None, "pillion"));
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(call.resource, pairs(&[("service.name", "sidecar"), ("zone", "b")]));
    assert_eq!((child.trace_id.as_str(), &child.parent), (TRACE, &call.span_id));
    assert_eq!((child.name.as_str(), child.kind, child.flags), ("query_prometheus", 3, 0x101));
    assert_eq!(child.attributes, pairs(&[("frames", "300"), ("is", "true"), ("text", "é")]));
    assert_eq!(child.error.as_deref(), Some("query Prometheus: no"));
    assert!(call.start_ns <= child.start_ns && child.end_ns <= call.end_ns, "{call:#?} {child:#?}");
    assert_eq!(told["traceparent"], format!("00-{TRACE}-{}-01", child.span_id));
    assert_eq!(told["tracestate"], "a=1");
}

#[test]
fn a_call_that_is_not_recorded_is_passed_on_and_costs_nothing_else() {
    let collector = Collector::start();
    let config = to(&collector, "");
    let stage = Stage::start(&config);
    let parent = format!("00-{TRACE}-{SPAN}-00");
    let mut call = stage.tracer.serve(&incoming(&[("traceparent", &parent)]), || panic!("a name was made"));
    call.note("x", || panic!("a value was made"));
    call.fail("nobody hears");
    assert!(!call.context().is_sampled());
    let child = stage.tracer.child(call.context(), Kind::Internal, "child");
    let told = stage.tracer.headers(child.context());
    assert!(told[0].1.starts_with(&format!("00-{TRACE}-")) && told[0].1.ends_with("-00"), "{told:?}");
    drop((child, call));
    let metrics = stage.metrics.clone();
    stage.stop();
    assert_eq!((counted(&metrics), collector.requests.len()), ([0, 0, 0], 0));
}

#[test]
fn a_forced_call_is_recorded_with_all_below_it() {
    let collector = Collector::start();
    let stage = Stage::start(&to(&collector, "sampler_type: neversample"));
    let parent = format!("00-{TRACE}-{SPAN}-00");
    drop(stage.tracer.serve(&incoming(&[("traceparent", &parent)]), || "not".into()));
    let headers = [("traceparent", parent.as_str()), ("x-thanos-force-tracing", "1")];
    let call = stage.tracer.serve(&incoming(&headers), || "forced".into());
    drop(stage.tracer.child(call.context(), Kind::Internal, "child"));
    drop(call);
    stage.stop();
    let spans = collector.next().spans;
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["child", "forced"]);
    assert_eq!(spans[1].attributes["thanos.force_tracing"], "true");
}

#[test]
fn another_configuration_holds_from_the_next_call_on() {
    let (first, second) = (Collector::start(), Collector::start());
    let config = to(&first, "sampler_type: neversample");
    let stage = Stage::start(&config);
    drop(stage.tracer.serve(&incoming(&[]), || "before".into()));
    // One that the thread may not even have seen does no harm.
    for _ in 0..3 {
        let config = to(&second, "service_name: other, headers: {x: 1}");
        stage.tracer.set(&config, exporter(&config));
    }
    drop(stage.tracer.serve(&incoming(&[]), || "after".into()));
    stage.stop();
    let request = second.next();
    assert_eq!((request.spans.len(), request.spans[0].name.as_str()), (1, "after"));
    assert_eq!((request.spans[0].resource["service.name"].as_str(), request.headers["x"].as_str()), ("other", "1"));
    assert_eq!(first.requests.len(), 0);
}

#[test]
fn spans_that_outlive_the_queue_harm_nobody() {
    let collector = Collector::start();
    let config = to(&collector, "");
    let metrics = metrics();
    let (tracer, export) = pillion_trace::tracer(&config, exporter(&config), metrics.clone());
    let span = tracer.serve(&incoming(&[]), || "late".into());
    Stage::run(tracer, export, metrics.clone()).stop();
    drop(span);
    assert_eq!(counted(&metrics), [0, 1, 0]);
}
