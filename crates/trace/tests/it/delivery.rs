//! When spans leave, and what becomes of them when the collector does not take them.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use pillion_testing::collector::{Collector, Manner};

use crate::stage::{Stage, calls, config, counted, exporter, metrics, to};

/// So many spans are a full batch, and so many wait at most.
const BATCH: usize = 512;
const QUEUE: usize = 2048;

const FAST: &str = "retry_config: {retry_initial_interval: 1ms, retry_max_interval: 2ms}";

#[test]
fn full_batches_leave_at_once_and_the_rest_at_the_stop() {
    let collector = Collector::start();
    let stage = Stage::start(&to(&collector, ""));
    calls(&stage.tracer, 2 * BATCH + 3);
    assert_eq!([collector.next().spans.len(), collector.next().spans.len()], [BATCH, BATCH]);
    let metrics = stage.metrics.clone();
    stage.stop();
    assert_eq!(collector.next().spans.len(), 3);
    assert_eq!(counted(&metrics), [1027, 0, 0]);
}

#[test]
fn a_few_leave_after_a_short_time_in_one_request() {
    let collector = Collector::start();
    let stage = Stage::start(&to(&collector, ""));
    calls(&stage.tracer, 3);
    assert_eq!(collector.next().spans.len(), 3);
    stage.wait_counted([3, 0, 0]);
    calls(&stage.tracer, 1);
    assert_eq!(collector.next().spans.len(), 1);
    stage.stop();
}

#[test]
fn gzip() {
    let collector = Collector::start();
    let stage = Stage::start(&to(&collector, "compression: gzip, url_path: otlp/v1/traces"));
    calls(&stage.tracer, BATCH);
    let request = collector.next();
    assert_eq!((request.path.as_str(), request.spans.len()), ("/otlp/v1/traces", BATCH));
    assert_eq!(request.headers["content-encoding"], "gzip");
    assert!(request.headers["content-length"].parse::<usize>().unwrap() < 30_000, "{:?}", request.headers);
    stage.stop();
}

#[test]
fn what_may_pass_is_sent_again() {
    for status in [429, 502, 503, 504] {
        let collector = Collector::start();
        collector.set(Manner::Refuse(status, "", "busy"));
        let stage = Stage::start(&to(&collector, FAST));
        calls(&stage.tracer, BATCH);
        let first = collector.next();
        assert_eq!(first.spans, collector.next().spans);
        collector.set(Manner::Take);
        stage.wait_counted([BATCH as u64, 0, 0]);
        stage.stop();
    }
}

#[test]
fn what_will_not_pass_is_given_up_at_once() {
    for status in [400, 401, 404, 413, 500, 301] {
        let collector = Collector::start();
        collector.set(Manner::Refuse(status, "Location: /elsewhere\r\n", "no"));
        let stage = Stage::start(&to(&collector, FAST));
        calls(&stage.tracer, BATCH);
        stage.wait_counted([0, 0, BATCH as u64]);
        assert_eq!(collector.requests.len(), 1, "{status}");
        // Nor do the next ones suffer.
        collector.set(Manner::Take);
        calls(&stage.tracer, BATCH);
        stage.wait_counted([BATCH as u64, 0, BATCH as u64]);
        stage.stop();
    }
}

#[test]
fn retries_end_with_their_time_and_can_be_off() {
    for (retry, n_min) in
        [("retry_initial_interval: 1ms, retry_max_elapsed_time: 100ms", 2), ("retry_enabled: false", 1)]
    {
        let collector = Collector::start();
        collector.set(Manner::Refuse(503, "", ""));
        let stage = Stage::start(&to(&collector, &format!("retry_config: {{{retry}}}")));
        calls(&stage.tracer, BATCH);
        stage.wait_counted([0, 0, BATCH as u64]);
        assert!(collector.requests.len() >= n_min, "{retry}: {}", collector.requests.len());
        assert!(n_min > 1 || collector.requests.len() == 1, "{retry}");
        stage.stop();
    }
}

#[test]
fn the_collector_says_when_to_come_back() {
    let collector = Collector::start();
    collector.set(Manner::Refuse(503, "Retry-After: 1\r\n", ""));
    let stage = Stage::start(&to(&collector, FAST));
    calls(&stage.tracer, BATCH);
    collector.next();
    let begun = Instant::now();
    collector.set(Manner::Take);
    collector.next();
    assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
    stage.wait_counted([BATCH as u64, 0, 0]);
    // Longer than there is patience: given up instead of waited for.
    collector.set(Manner::Refuse(503, "Retry-After: 3600\r\n", ""));
    calls(&stage.tracer, BATCH);
    stage.wait_counted([BATCH as u64, 0, BATCH as u64]);
    stage.stop();
}

#[test]
fn spans_that_were_refused_are_counted() {
    let collector = Collector::start();
    collector.set(Manner::TakeBut(12, "too old"));
    let stage = Stage::start(&to(&collector, ""));
    calls(&stage.tracer, BATCH);
    stage.wait_counted([500, 0, 12]);
    stage.stop();
}

#[test]
fn a_collector_that_does_not_answer_costs_spans_and_nothing_else() {
    let collector = Collector::start();
    collector.set(Manner::Hang);
    let stage = Stage::start(&to(&collector, "timeout: 50s"));
    calls(&stage.tracer, BATCH);
    collector.next();
    // The thread waits for the answer, and the queue is filled.
    let begun = Instant::now();
    calls(&stage.tracer, QUEUE + 7);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(stage.counted(), [0, 7, 0]);
    // At the stop the request is cut, and what is left is sent.
    collector.set(Manner::Take);
    let metrics = stage.metrics.clone();
    assert!(stage.stop() < Duration::from_secs(5));
    assert_eq!(counted(&metrics), [(BATCH + QUEUE) as u64, 7, 0]);
}

#[test]
fn the_stop_is_not_held_up_for_long() {
    let collector = Collector::start();
    collector.set(Manner::Hang);
    let stage = Stage::start(&to(&collector, "timeout: 50s"));
    calls(&stage.tracer, BATCH + 4);
    collector.next();
    let metrics = stage.metrics.clone();
    let lasted = stage.stop();
    assert!(lasted > Duration::from_secs(4) && lasted < Duration::from_secs(20), "{lasted:?}");
    assert_eq!(counted(&metrics), [0, 0, BATCH as u64 + 4]);
}

#[test]
fn where_nobody_listens() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let config = config(&format!("endpoint: '{address}', retry_config: {{retry_enabled: false}}"));
    let stage = Stage::start(&config);
    calls(&stage.tracer, BATCH);
    stage.wait_counted([0, 0, BATCH as u64]);
    calls(&stage.tracer, 5);
    let metrics = stage.metrics.clone();
    assert!(stage.stop() < Duration::from_secs(5));
    assert_eq!(counted(&metrics), [0, 0, BATCH as u64 + 5]);
}

#[test]
fn another_collector_helps_while_the_first_one_refuses() {
    let (first, second) = (Collector::start(), Collector::start());
    first.set(Manner::Refuse(503, "", ""));
    let stage = Stage::start(&to(&first, "retry_config: {retry_initial_interval: 20s}"));
    calls(&stage.tracer, BATCH);
    first.next();
    let config = to(&second, "service_name: second");
    stage.tracer.set(&config, exporter(&config));
    let begun = Instant::now();
    let request = second.next();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    assert_eq!((request.spans.len(), request.spans[0].resource["service.name"].as_str()), (BATCH, "second"));
    stage.stop();
}

#[test]
fn the_queue_is_there_before_the_thread() {
    let collector = Collector::start();
    let config = to(&collector, "");
    let metrics = metrics();
    let (tracer, export) = pillion_trace::tracer(&config, exporter(&config), metrics.clone());
    calls(&tracer, QUEUE + 1);
    assert_eq!(counted(&metrics), [0, 1, 0]);
    Stage::run(tracer, export, metrics.clone()).stop();
    assert_eq!(counted(&metrics), [QUEUE as u64, 1, 0]);
}
