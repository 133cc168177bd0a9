//! What a querier gets from the StoreAPI, against a Prometheus that behaves and one that does not.

use crate::support::sidecar;

use std::time::{Duration, Instant};

use crate::support::fake_prometheus::{FakePrometheus, Read_, STREAMED, frame, series};
use crate::support::figures::status;
use crate::support::store_client::{Answer, Store, matchers, options, request, text};
use futures_executor::block_on;
use futures_util::{FutureExt, StreamExt};
use pillion_proto::thanos_store::*;
use sidecar::{PATIENCE, Sidecar};
use twox_hash::XxHash64;

struct Rig {
    prometheus: FakePrometheus,
    sidecar: Sidecar,
    store: Store,
}

fn rig() -> Rig {
    let prometheus = FakePrometheus::start();
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    let store = Store::connect(sidecar.grpc);
    Rig { prometheus, sidecar, store }
}

impl Rig {
    fn read(&self, read: Read_) -> Answer {
        self.prometheus.set(|state| state.read = read);
        self.store.series(&request(&[("job", "=", "x")]))
    }
}

const CODE_INVALID_ARGUMENT: i32 = 3;
const CODE_RESOURCE_EXHAUSTED: i32 = 8;
const CODE_INTERNAL: i32 = 13;
const CODE_UNAVAILABLE: i32 = 14;

#[test]
fn series_come_sorted_with_external_labels_and_hashed_chunks() {
    let rig = rig();
    let answer = rig
        .read(Read_::Frames(vec![
            // `{job}` sorts before `{job, zone}` here, but after it once `region` and `replica` are set.
            series(&[("job", "x")], &[(1, 2, 1, b"first")]),
            series(&[("job", "x"), ("name", "é")], &[(1, 2, 1, b"a"), (3, 4, 2, b"histogram"), (5, 6, 3, b"")]),
        ]))
        .ok();
    assert_eq!(answer.labels(), ["job=x name=é region=eu-west replica=a", "job=x region=eu-west replica=a"]);
    let chunks = &answer.series[0].chunks;
    let raw = |idx: usize| chunks[idx].raw.as_ref().unwrap();
    assert_eq!((raw(0).type_.value(), raw(1).type_.value(), raw(2).type_.value()), (0, 1, 2));
    assert_eq!(raw(1).data, b"histogram");
    for chunk in chunks {
        let raw = chunk.raw.as_ref().unwrap();
        assert_eq!(raw.hash, XxHash64::oneshot(0, &raw.data));
    }
    assert_eq!((chunks[1].min_time, chunks[1].max_time), (3, 4));
    let read = rig.prometheus.reads.recv_timeout(PATIENCE).unwrap();
    // The lowest timestamp of the fake is 1000 s.
    assert_eq!((read.queries[0].start_timestamp_ms, read.queries[0].end_timestamp_ms), (1_000_000, i64::MAX));
    assert_eq!(rig.sidecar.metric("thanos_store_server_series_requested_sum"), 2.0);
    assert_eq!(rig.sidecar.metric("thanos_store_server_chunks_requested_sum"), 4.0);
    assert_eq!(rig.sidecar.metric("prometheus_store_received_frames_sum"), 2.0);
    assert_eq!(rig.sidecar.metric("thanos_store_server_pending_series_requests"), 0.0);
}

#[test]
fn a_series_split_over_frames_stays_in_time_order() {
    let rig = rig();
    let frames = (0..50).map(|n| series(&[("job", "x")], &[(n, n + 1, 1, b"c")])).collect();
    let answer = rig.read(Read_::Frames(frames)).ok();
    let times: Vec<_> = answer.series.iter().map(|s| s.chunks[0].min_time).collect();
    assert_eq!(times, (0..50).collect::<Vec<_>>());
}

#[test]
fn matchers_on_external_labels_are_decided_here() {
    let rig = rig();
    rig.prometheus.set(|state| state.read = Read_::Frames(vec![series(&[("job", "x")], &[])]));
    let ask = |with: &[(&str, &str, &str)]| rig.store.series(&request(with));
    let left = |with: &[(&str, &str, &str)]| -> Vec<String> {
        assert_eq!(ask(with).ok().series.len(), 1);
        let read = rig.prometheus.reads.recv_timeout(PATIENCE).unwrap();
        read.queries[0].matchers.iter().map(|m| m.name.clone()).collect()
    };
    assert_eq!(left(&[("job", "=", "x"), ("region", "=", "eu-west")]), ["job"]);
    assert_eq!(left(&[("region", "=~", "eu.*"), ("job", "!=", "")]), ["job"]);
    assert_eq!(ask(&[("job", "=", "x"), ("region", "=", "us")]).ok().series.len(), 0);
    assert!(rig.prometheus.reads.is_empty(), "a contradicted matcher asks Prometheus nothing");
    let err = ask(&[("region", "=", "eu-west")]);
    assert_eq!(err.code(), CODE_INVALID_ARGUMENT);
    assert_eq!(err.status.message(), "no matchers specified (excluding external labels)");
    assert_eq!(ask(&[("region", "=~", "(")]).code(), CODE_INVALID_ARGUMENT);
}

#[test]
fn replica_labels_shards_and_batches() {
    let rig = rig();
    let frames = (0..5).map(|n| series(&[("job", "x"), ("n", &n.to_string())], &[])).collect();
    rig.prometheus.set(|state| state.read = Read_::Frames(frames));
    rig.prometheus.set(|state| {
        state.twins = vec!["n".into()];
        // The series that carry `n` are asked for apart; there are no others.
        state.reads_by_matcher = vec![("n".into(), 0, Read_::Frames(vec![]))];
    });
    let with = |change: &dyn Fn(&mut SeriesRequest)| {
        let mut request = request(&[("job", "=", "x")]);
        change(&mut request);
        rig.store.series(&request).ok()
    };
    let answer = with(&|r| r.without_replica_labels = vec!["replica".into(), "n".into()]);
    assert_eq!(answer.labels(), vec!["job=x region=eu-west"; 5]);
    assert_eq!(with(&|r| r.response_batch_size = 3).messages, [3, 2]);
    assert_eq!(with(&|r| r.response_batch_size = i64::MAX).messages, [5]);
    assert_eq!(with(&|r| r.response_batch_size = i64::MIN).messages, [1; 5]);
    let shard = |index: i64| {
        with(&|r| {
            r.shard_info = protobuf::MessageField::some(ShardInfo {
                shard_index: index,
                total_shards: 2,
                by: true,
                labels: vec!["n".into()],
                ..Default::default()
            });
        })
        .labels()
    };
    let (zero, one) = (shard(0), shard(1));
    assert_eq!(zero.len() + one.len(), 5);
    assert!(zero.iter().all(|labels| !one.contains(labels)), "{zero:?} {one:?}");
}

#[test]
fn labels_without_chunks() {
    let rig = rig();
    rig.prometheus.set(|state| state.series = r#"[{"job":"x","region":"local"},{"job":"a","replica":"b"}]"#.into());
    let ask = |without: &[&str]| {
        let without = without.iter().map(ToString::to_string).collect();
        let request = SeriesRequest {
            skip_chunks: true,
            limit: 7,
            without_replica_labels: without,
            ..request(&[("job", "=", "x")])
        };
        rig.store.series(&request).ok().labels()
    };
    assert_eq!(ask(&[]), ["job=a region=eu-west replica=a", "job=x region=eu-west replica=a"]);
    assert_eq!(ask(&["replica"]), ["job=a region=eu-west", "job=x region=eu-west"]);
    let asked = rig.prometheus.requests.iter().find(|r| r.contains("/series")).unwrap();
    assert!(asked.contains("limit=7") && asked.contains("match%5B%5D=%7Bjob%3D%22x%22%7D"), "{asked}");
}

#[test]
fn series_with_labels_of_external_names_are_merged_into_the_stream() {
    let rig = rig();
    rig.prometheus.set(|state| {
        state.twins = vec!["region".into()];
        let own =
            |n: &str, region: &str| series(&[("n", n), ("region", region), ("replica", "a")], &[(1, 2, 1, b"own")]);
        let plain = |n: &str| series(&[("n", n), ("region", "eu-west"), ("replica", "a")], &[(1, 2, 1, b"plain")]);
        state.reads_by_matcher = vec![
            ("region".into(), 1, Read_::Frames(vec![own("5", "z"), own("1", "local"), own("3", "eu-west")])),
            ("region".into(), 0, Read_::Frames(vec![plain("2"), plain("3"), plain("4")])),
        ];
    });
    let answer = rig.store.series(&request(&[("job", "=", "x")])).ok();
    let got: Vec<_> = answer
        .series
        .iter()
        .map(|s| (s.labels[0].value.as_str(), String::from_utf8(s.chunks[0].raw.data.clone()).unwrap()))
        .collect();
    let expected = [("1", "own"), ("2", "plain"), ("3", "plain"), ("3", "own"), ("4", "plain"), ("5", "own")];
    assert_eq!(got.len(), expected.len());
    for ((n, data), (expected_n, _)) in got.iter().zip(expected) {
        assert_eq!(*n, expected_n, "{got:?}");
        assert!(data == "own" || data == "plain");
    }
    assert!(answer.labels().iter().all(|labels| labels.ends_with("region=eu-west replica=a")), "{:?}", answer.labels());
    let limited = rig.store.series(&SeriesRequest { limit: 3, ..request(&[("job", "=", "x")]) }).ok();
    assert_eq!(limited.series.len(), 4, "three series, one of them in two messages");
}

#[test]
fn the_first_series_leaves_while_prometheus_is_still_sending() {
    let rig = rig();
    // The last series of a stall waits for what may come after it, the ones before do not.
    let frames = (0..3).map(|n| series(&[("n", &n.to_string())], &[(1, 2, 1, b"c")])).collect();
    rig.prometheus.set(|state| state.read = Read_::Stall(frames));
    let mut stream = rig.store.stream(&request(&[("job", "=", "x")]), options());
    for n in 0..2 {
        match block_on(stream.next()).unwrap().unwrap().result {
            Some(series_response::Result::Series(series)) => assert_eq!(series.labels[0].value, n.to_string()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_series_of_any_length_is_answered_in_little_memory() {
    let rig = rig();
    // `job` sorts before `region`, so all 90 MiB wait for an extension, which comes and leaves first.
    let frame = series(&[("job", "x"), ("region", "eu-west"), ("replica", "a")], &[(1, 2, 1, &[7; 1_000_000])]);
    let behind = series(&[("job", "x"), ("n", "1"), ("region", "eu-west"), ("replica", "a")], &[(1, 2, 1, b"c")]);
    let idle = status(rig.sidecar.pid(), "VmHWM");
    for then in [vec![], vec![behind]] {
        let n_behind = then.len();
        rig.prometheus.set(|state| state.read = Read_::Repeat(90, frame.clone(), then));
        let mut stream = rig.store.stream(&request(&[("job", "=", "x")]), options());
        let (mut first, mut n_bytes, mut n) = (String::new(), 0, 0);
        while let Some(message) = block_on(stream.next()) {
            let Some(series_response::Result::Series(series)) = message.unwrap().result else { panic!("no series") };
            if n == 0 {
                first = text(&series);
            }
            (n, n_bytes) = (n + 1, n_bytes + series.chunks[0].raw.data.len());
        }
        assert_eq!((n, n_bytes), (90 + n_behind, 90_000_000 + n_behind));
        let expected =
            if n_behind == 0 { "job=x region=eu-west replica=a" } else { "job=x n=1 region=eu-west replica=a" };
        assert_eq!(first, expected);
    }
    let grown = (status(rig.sidecar.pid(), "VmHWM") - idle) >> 20;
    assert!(grown < 32, "memory grew by {grown} MiB");
}

#[test]
fn without_temporary_files_memory_serves_up_to_a_limit_and_the_start_says_so() {
    let prometheus = FakePrometheus::start();
    let url = format!("--prometheus.url={}", prometheus.url());
    // Nobody can make a file there, not even root.
    let sidecar = Sidecar::start_with(&[&url], |command| {
        command.env("TMPDIR", "/proc");
    });
    sidecar.wait_ready(true);
    let store = Store::connect(sidecar.grpc);
    let ask = |n: usize| {
        let frame = series(&[("job", "x"), ("region", "eu-west"), ("replica", "a")], &[(1, 2, 1, &[7; 1_000_000])]);
        prometheus.set(|state| state.read = Read_::Repeat(n, frame, vec![]));
        store.series(&request(&[("job", "=", "x")]))
    };
    assert_eq!(ask(30).ok().series.len(), 30);
    let answer = ask(90);
    assert_eq!(answer.code(), CODE_RESOURCE_EXHAUSTED, "{:?}", answer.status);
    assert!(answer.status.message().contains("a temporary file in /proc (TMPDIR chooses"), "{:?}", answer.status);
    let log = sidecar.log();
    assert_eq!(log.matches("no temporary file can be made").count(), 1, "{log}");
    assert_eq!(log.matches("TMPDIR").count(), 2, "{log}");
    assert!(!rig().sidecar.log().contains("temporary"));
}

#[test]
fn limits_act_while_frames_arrive_and_end_the_read() {
    let prometheus = FakePrometheus::start();
    let args = ["--store.limits.request-series=1000", "--store.limits.request-samples=600000"];
    let sidecar = Sidecar::ready(&prometheus.url(), &args);
    let store = Store::connect(sidecar.grpc);
    // An endless answer: only a limit that acts early ends the call.
    prometheus.set(|state| state.read = Read_::Endless(series(&[("a", "b")], &[(1, 2, 1, b"c")])));
    let answer = store.series(&request(&[("job", "=", "x")]));
    assert_eq!(answer.code(), CODE_RESOURCE_EXHAUSTED, "{:?}", answer.status);
    assert_eq!(answer.status.message(), "failed to send series: limit 1000 violated (got 1001)");
    prometheus.hang_ups.recv_timeout(PATIENCE).unwrap();
    let many: Vec<(i64, i64, i32, &[u8])> = (0..500).map(|n| (n, n, 1, &b"c"[..])).collect();
    prometheus.set(|state| state.read = Read_::Endless(series(&[("a", "b")], &many)));
    let answer = store.series(&request(&[("job", "=", "x")]));
    assert_eq!(answer.status.message(), "failed to send samples: limit 600000 violated (got 660000)");
    assert_eq!(sidecar.metric("thanos_store_selects_dropped_total{reason=\"series\"}"), 1.0);
    assert_eq!(sidecar.metric("thanos_store_selects_dropped_total{reason=\"chunks\"}"), 1.0);
}

#[test]
fn a_lying_or_broken_prometheus_is_an_error_with_its_reason() {
    let rig = rig();
    let good = frame(&series(&[("job", "x")], &[(1, 2, 1, b"data")]));
    let check = |read: Read_, code: i32, text: &str| {
        let answer = rig.read(read);
        assert_eq!(answer.code(), code, "{:?}", answer.status);
        assert!(answer.status.message().contains(text), "{:?} lacks {text:?}", answer.status.message());
    };
    let flipped = {
        let mut bytes = good.clone();
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    let two = [good.clone(), good[..good.len() - 3].to_vec()].concat();
    check(
        Read_::Raw("text/html", b"<html>".to_vec()),
        CODE_INTERNAL,
        "not supported remote read content type: text/html",
    );
    check(Read_::Raw("application/x-protobuf", vec![]), CODE_INTERNAL, "decompress response: snappy");
    check(Read_::Raw(STREAMED, two), CODE_INTERNAL, "stream ended inside a frame");
    check(Read_::Raw(STREAMED, flipped), CODE_INTERNAL, "checksum mismatch");
    check(
        Read_::Raw(STREAMED, [&good[..], &[0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]].concat()),
        CODE_INTERNAL,
        "exceeded the limit",
    );
    check(Read_::Raw(STREAMED, frame(b"\x0a\x7f")), CODE_INTERNAL, "field is longer than its message");
    check(Read_::Frames(vec![series(&[("a", "b")], &[(1, 2, 4, b"x")])]), CODE_INTERNAL, "chunk of encoding 4");
    check(Read_::Frames(vec![series(&[("a", "b")], &[(1, 2, 7, b"x")])]), CODE_INTERNAL, "chunk in encoding 7,");
    check(Read_::Status(503, "busy"), CODE_UNAVAILABLE, "request failed with code 503 Service Unavailable; msg busy");
    check(Read_::Status(400, "too wide"), CODE_INVALID_ARGUMENT, "msg too wide");
    check(Read_::Reset(good.clone()), CODE_UNAVAILABLE, "read from Prometheus");
    check(Read_::Short(good.clone(), 10), CODE_UNAVAILABLE, "next proto");
    rig.prometheus.go_down();
    let answer = rig.store.series(&request(&[("job", "=", "x")]));
    assert_eq!(answer.code(), CODE_UNAVAILABLE, "{:?}", answer.status);
    // And all is well again when Prometheus is.
    rig.prometheus.up();
    assert_eq!(rig.read(Read_::Raw(STREAMED, good)).ok().series.len(), 1);
}

#[test]
fn a_client_that_goes_away_ends_the_read_from_prometheus() {
    let rig = rig();
    // While Prometheus is silent, while it floods, and at the client's deadline.
    for read in [
        Read_::Stall(vec![series(&[("a", "b")], &[])]),
        Read_::Endless(series(&[("a", "b")], &[(1, 2, 1, &[7; 9000])])),
    ] {
        rig.prometheus.set(|state| state.read = read.clone());
        let stream = rig.store.stream(&request(&[("job", "=", "x")]), options());
        rig.prometheus.reads.recv_timeout(PATIENCE).unwrap();
        let cancelled = Instant::now();
        drop(stream);
        rig.prometheus.hang_ups.recv_timeout(PATIENCE).expect("the read went on without its client");
        eprintln!("hung up {:?} after the client", cancelled.elapsed());
    }
    rig.prometheus.set(|state| state.read = Read_::Stall(vec![]));
    let answer = rig.store.series_with(&request(&[("job", "=", "x")]), options().timeout(Duration::from_millis(300)));
    assert_eq!(answer.code(), 4, "{:?}", answer.status);
    rig.prometheus.hang_ups.recv_timeout(PATIENCE).expect("the read outlived the deadline");
    // At the deadline the client hangs up too, and which of the two is noticed first is a race.
    let handled = |code: &str| {
        rig.sidecar.metric(&format!(
            "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"Series\",grpc_service=\"thanos.Store\",grpc_type=\"server_stream\"}}"
        ))
    };
    rig.sidecar.wait_metric("thanos_store_server_pending_series_requests", |n| n == 0.0);
    assert_eq!(handled("Canceled") + handled("DeadlineExceeded"), 3.0);
    assert_eq!(handled("OK"), 0.0);
}

#[test]
fn info_and_health_never_wait_behind_series_calls() {
    let rig = rig();
    rig.prometheus.set(|state| state.read = Read_::Stall(vec![]));
    // More than there are threads and places to wait: the last ones are turned away. How many threads there are depends on
    // how the calls of the four connections come in, since who has few running may go beyond what all share.
    let n_extra = pillion::inside::CALL_THREADS.div_ceil(2);
    let n_calls = pillion::inside::CALL_THREADS + n_extra + pillion::inside::CALL_QUEUE + 20;
    let stores: Vec<Store> = (0..4).map(|_| Store::connect(rig.sidecar.grpc)).collect();
    let mut calls: Vec<_> =
        (0..n_calls).map(|n| stores[n % 4].stream(&request(&[("job", "=", "x")]), options())).collect();
    let turned_away = "grpc_server_handled_total{grpc_code=\"ResourceExhausted\",grpc_method=\"Series\",grpc_service=\"thanos.Store\",grpc_type=\"server_stream\"}";
    rig.sidecar.wait_metric(turned_away, |n| n >= 20.0);
    let begun = Instant::now();
    assert_eq!(rig.store.info().unwrap().ComponentType, "sidecar");
    assert_eq!(rig.store.check("").unwrap().status.value(), 1);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Which ones were turned away depends on how the connections raced.
    let mut n_turned_away = 0;
    let deadline = Instant::now() + PATIENCE;
    while n_turned_away < 20 {
        assert!(Instant::now() < deadline, "only {n_turned_away} calls were told");
        for call in &mut calls {
            match call.next().now_or_never() {
                Some(Some(Err(grpcio::Error::RpcFailure(status)))) => {
                    assert_eq!(i32::from(status.code()), CODE_RESOURCE_EXHAUSTED, "{status:?}");
                    n_turned_away += 1;
                }
                Some(Some(other)) => panic!("{other:?}"),
                Some(None) | None => {}
            }
        }
        sidecar::pause();
    }
    let n_turned_away = rig.sidecar.metric(turned_away);
    let most = f64::from(u32::try_from(20 + n_extra).unwrap());
    assert!((20.0..=most).contains(&n_turned_away), "{n_turned_away}");
    drop(calls);
}

#[test]
fn info_tells_labels_and_times() {
    let rig = rig();
    let info = rig.store.info().unwrap();
    let text: Vec<_> = info.label_sets[0].labels.iter().map(|l| format!("{}={}", l.name, l.value)).collect();
    assert_eq!(text, ["region=eu-west", "replica=a"]);
    assert_eq!(info.ComponentType, "sidecar");
    assert_eq!((info.store.min_time, info.store.max_time), (1_000_000, i64::MAX));
    assert!(info.store.supports_sharding && info.store.supports_without_replica_labels);
    assert_eq!(info.store.tsdb_infos.len(), 1);
    assert_eq!(info.store.tsdb_infos[0].labels, protobuf::MessageField::some(info.label_sets[0].clone()));
    assert_eq!((info.store.tsdb_infos[0].min_time, info.store.tsdb_infos[0].max_time), (1_000_000, i64::MAX));
    assert!(info.query.is_none());
}

/// Frames of these series.
fn frames(local: &[&[(&str, &str)]]) -> Read_ {
    Read_::Frames(local.iter().map(|labels| series(labels, &[(1, 2, 1, b"c")])).collect())
}

/// A Prometheus whose external labels have changed, beside a sidecar that would look again in an hour.
fn rig_with_labels(external: &[(&str, &str)], read: Read_) -> Rig {
    let prometheus = FakePrometheus::start();
    let sidecar = Sidecar::ready(&prometheus.url(), &["--prometheus.get_config_interval=1h"]);
    let store = Store::connect(sidecar.grpc);
    // Once at the start, and once with the first beat.
    for _ in 0..2 {
        while !prometheus.answered.recv_timeout(PATIENCE).unwrap().contains("/status/config") {}
    }
    prometheus.set(|state| {
        state.external_labels = external.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        state.read = read;
    });
    Rig { prometheus, sidecar, store }
}

#[test]
fn changed_external_labels_are_noticed_by_the_first_call_that_meets_them() {
    let local: &[&[(&str, &str)]] = &[&[("job", "x")], &[("job", "x"), ("n", "1")]];
    let check = |external: &[(&str, &str)], expected: [&str; 2]| {
        let rig = rig_with_labels(external, frames(local));
        let batched = SeriesRequest { response_batch_size: 64, ..request(&[("job", "=", "x")]) };
        let answer = rig.store.series(&batched);
        assert_eq!(answer.ok().labels(), expected, "{external:?}:\n{}", rig.sidecar.log());
    };
    // Added: seen by the order, once a series and its extension come.
    check(
        &[("region", "eu-west"), ("replica", "a"), ("zone", "z")],
        ["job=x n=1 region=eu-west replica=a zone=z", "job=x region=eu-west replica=a zone=z"],
    );
    // Renamed, changed, removed: seen by what the first series lacks.
    check(&[("area", "eu"), ("replica", "a")], ["area=eu job=x n=1 replica=a", "area=eu job=x replica=a"]);
    check(&[("region", "us"), ("replica", "a")], ["job=x n=1 region=us replica=a", "job=x region=us replica=a"]);
    check(&[("replica", "a")], ["job=x n=1 replica=a", "job=x replica=a"]);
}

#[test]
fn a_call_that_has_begun_to_answer_when_labels_change_fails_and_the_next_one_does_not() {
    let external = &[("region", "eu-west"), ("replica", "a"), ("zone", "z")];
    let local: &[&[(&str, &str)]] = &[&[("job", "a")], &[("job", "b")], &[("job", "x")], &[("job", "x"), ("n", "1")]];
    let rig = rig_with_labels(external, frames(local));
    let answer = rig.store.series(&request(&[("job", "=~", ".+")]));
    assert_eq!(answer.code(), CODE_UNAVAILABLE, "{:?}", answer.status);
    // All three are sent; the core drops those that its client has not yet taken when a failure arrives.
    let sent =
        "grpc_server_msg_sent_total{grpc_method=\"Series\",grpc_service=\"thanos.Store\",grpc_type=\"server_stream\"}";
    rig.sidecar.wait_metric(sent, |n| n == 3.0);
    assert!(answer.series.len() <= 3, "{:?}", answer.series);
    assert!(answer.status.message().contains("ask again"), "{:?}", answer.status);
    let again = rig.store.series(&request(&[("job", "=~", ".+")])).ok();
    assert_eq!(
        again.labels()[2..],
        ["job=x n=1 region=eu-west replica=a zone=z", "job=x region=eu-west replica=a zone=z"]
    );
    rig.sidecar.wait_line("external labels of Prometheus changed");
}

#[test]
fn a_server_that_sets_no_external_labels_is_asked_for_them_once() {
    let local: &[&[(&str, &str)]] = &[&[("job", "x")], &[("job", "x"), ("n", "1")]];
    let rig = rig_with_labels(&[("region", "eu-west"), ("replica", "a")], frames(local));
    rig.prometheus.set(|state| state.merges = false);
    rig.prometheus.requests.try_iter().for_each(drop);
    for _ in 0..3 {
        let answer = rig.store.series(&request(&[("job", "=", "x")])).ok();
        assert_eq!(answer.labels(), ["job=x n=1 region=eu-west replica=a", "job=x region=eu-west replica=a"]);
    }
    let asked = rig.prometheus.requests.try_iter().filter(|path| path.contains("/status/config")).count();
    assert_eq!(asked, 1);
}

#[test]
fn info_lists_nothing_without_external_labels() {
    let rig = rig();
    rig.prometheus.set(|state| state.external_labels.clear());
    rig.sidecar.wait_line("external labels of Prometheus changed");
    let deadline = Instant::now() + PATIENCE;
    while !rig.store.info().unwrap().label_sets.is_empty() {
        assert!(Instant::now() < deadline, "{}", rig.sidecar.log());
        sidecar::pause();
    }
    assert_eq!(rig.store.info().unwrap().store.tsdb_infos, []);
}

#[test]
fn a_limit_is_filled_without_a_warning_and_only_what_is_sent_counts() {
    let prometheus = FakePrometheus::start();
    // One series is two series here, as for Thanos, because it comes in two frames.
    let sidecar = Sidecar::ready(&prometheus.url(), &["--store.limits.request-series=4"]);
    let store = Store::connect(sidecar.grpc);
    let local: Vec<[(&str, &str); 2]> =
        ["1", "2", "2", "3", "4", "5", "6"].iter().map(|n| [("job", "x"), ("n", *n)]).collect();
    let local: Vec<&[(&str, &str)]> = local.iter().map(|labels| &labels[..]).collect();
    let read = frames(&local);
    let ask = |limit: i64, without: &[&str]| {
        let without = without.iter().map(ToString::to_string).collect();
        store.series(&SeriesRequest { limit, without_replica_labels: without, ..request(&[("job", "=", "x")]) })
    };
    let check = |limit: i64, without: &[&str], expected: &[&str]| {
        let answer = ask(limit, without).ok();
        assert_eq!(answer.labels(), expected);
        assert_eq!(answer.warnings, [""; 0]);
    };
    let check_all = || {
        check(1, &[], &["job=x n=1 region=eu-west replica=a"]);
        check(2, &["replica"], &["job=x n=1 region=eu-west", "job=x n=2 region=eu-west", "job=x n=2 region=eu-west"]);
        // Without the label that tells them apart all of them are one series.
        let violated = "failed to send series: limit 4 violated (got 5)";
        assert_eq!(ask(2, &["n"]).status.message(), violated);
        assert_eq!(ask(4, &[]).status.message(), violated);
        assert_eq!(ask(0, &[]).status.message(), violated);
    };
    prometheus.set(|state| state.read = read.clone());
    check_all();
    // The same where all of it has to be sorted.
    prometheus.set(|state| {
        state.twins = vec!["region".into(), "replica".into(), "n".into()];
        state.read = Read_::Frames(vec![]);
        state.reads_by_matcher = vec![("region".into(), 1, read)];
    });
    let sidecar = Sidecar::ready(&prometheus.url(), &["--store.limits.request-series=4"]);
    let store = Store::connect(sidecar.grpc);
    let answer = store.series(&SeriesRequest { limit: 3, ..request(&[("job", "=", "x")]) }).ok();
    assert_eq!((answer.series.len(), answer.warnings.len()), (4, 0));
}

#[test]
fn health_follows_prometheus() {
    let rig = rig();
    assert_eq!(rig.store.check("").unwrap().status.value(), 1);
    assert!(
        matches!(rig.store.check("thanos.Store"), Err(grpcio::Error::RpcFailure(status)) if status.message() == "unknown service")
    );
    let mut watch = rig.store.watch();
    let mut next = || block_on(watch.next()).unwrap().unwrap().status.value();
    assert_eq!(next(), 1);
    rig.prometheus.go_down();
    assert_eq!(next(), 2);
    assert!(matches!(rig.store.info(), Err(grpcio::Error::RpcFailure(status)) if status.message() == "Not ready"));
    rig.prometheus.up();
    assert_eq!(next(), 1);
}

#[test]
fn label_names_and_values() {
    let rig = rig();
    rig.prometheus.set(|state| {
        let ok = |data: &str| format!("{{\"status\":\"success\",\"data\":{data},\"warnings\":[\"careful\"]}}");
        state.overrides = vec![
            ("/api/v1/labels".into(), 200, ok(r#"["job","region","pod"]"#)),
            ("/api/v1/label/empty/values".into(), 200, r#"{"status":"success","data":null}"#.into()),
            ("/api/v1/label/bad/values".into(), 400, "no".into()),
            ("/api/v1/label/U__a_2f__2e__2e__2f_b/values".into(), 200, ok(r#"["z","a"]"#)),
            ("/api/v1/label/".into(), 404, "not here".into()),
        ];
        state.series = r#"[{"job":"x"}]"#.into();
    });
    let names = |without: &[&str], with: &[(&str, &str, &str)]| {
        let request = LabelNamesRequest {
            without_replica_labels: without.iter().map(ToString::to_string).collect(),
            matchers: matchers(with),
            ..Default::default()
        };
        rig.store.label_names(&request).unwrap()
    };
    assert_eq!(names(&[], &[]).names, ["job", "pod", "region", "replica"]);
    assert_eq!(names(&[], &[]).warnings, ["careful"]);
    assert_eq!(names(&["replica", "pod"], &[]).names, ["job", "region"]);
    assert_eq!(names(&[], &[("region", "=", "us")]).names, [""; 0]);
    let values = |label: &str, with: &[(&str, &str, &str)]| {
        let request = LabelValuesRequest { label: label.into(), matchers: matchers(with), ..Default::default() };
        rig.store.label_values(&request).map(|answer| answer.values).map_err(|err| match err {
            grpcio::Error::RpcFailure(status) => (i32::from(status.code()), status.message().to_owned()),
            other => panic!("{other}"),
        })
    };
    assert_eq!(values("region", &[]).unwrap(), ["eu-west"]);
    assert_eq!(values("region", &[("job", "=", "x")]).unwrap(), ["eu-west"]);
    assert_eq!(values("empty", &[]).unwrap(), [""; 0]);
    assert_eq!(values("a/../b", &[]).unwrap(), ["a", "z"]);
    assert_eq!(values("", &[]).unwrap_err(), (CODE_INVALID_ARGUMENT, "label name parameter cannot be empty".into()));
    assert_eq!(
        values("bad", &[]).unwrap_err(),
        (CODE_INVALID_ARGUMENT, "expected 2xx response, got 400. Body: no".into())
    );
    assert_eq!(values("other", &[]).unwrap_err().0, 5);
    rig.prometheus.set(|state| state.series = "[]".into());
    assert_eq!(values("region", &[("job", "=", "x")]).unwrap(), [""; 0]);
}
