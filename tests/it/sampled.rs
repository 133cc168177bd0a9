//! What a querier gets from the StoreAPI when Prometheus answers remote read with samples.

use crate::support::fake_prometheus::{FakePrometheus, Read_};
use crate::support::sidecar::{PATIENCE, Sidecar};
use crate::support::store_client::{Answer, Store, request};
use pillion_proto::prometheus_remote as remote;
use pillion_proto::thanos_store::ShardInfo;
use pillion_read::xor;
use protobuf::{Message, MessageField};
use twox_hash::XxHash64;

const SAMPLED: &str = "application/x-protobuf";
const CODE_INTERNAL: i32 = 13;

fn time_series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> remote::TimeSeries {
    let labels = labels.iter().map(|(name, value)| remote::Label {
        name: (*name).into(),
        value: (*value).into(),
        ..Default::default()
    });
    let samples = samples.iter().map(|(timestamp, value)| remote::Sample {
        timestamp: *timestamp,
        value: *value,
        ..Default::default()
    });
    remote::TimeSeries { labels: labels.collect(), samples: samples.collect(), ..Default::default() }
}

fn sampled(timeseries: Vec<remote::TimeSeries>) -> Read_ {
    let result = remote::QueryResult { timeseries, ..Default::default() };
    let response = remote::ReadResponse { results: vec![result], ..Default::default() };
    let plain = response.write_to_bytes().unwrap();
    Read_::Raw(SAMPLED, snap::raw::Encoder::new().compress_vec(&plain).unwrap())
}

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

#[test]
fn samples_come_as_chunks_with_labels_order_and_hashes() {
    let rig = rig();
    let long: Vec<_> = (0..241).map(|idx| (2_000_000 + i64::from(idx) * 15_000, f64::from(idx))).collect();
    let answer = rig
        .read(sampled(vec![
            time_series(&[("job", "x")], &long),
            time_series(&[("job", "x"), ("empty", "1")], &[]),
            time_series(&[("job", "x"), ("name", "é")], &[(2_000_000, f64::from_bits(xor::STALE_NAN_BITS))]),
            time_series(&[("job", "x"), ("region", "local")], &[(2_000_000, 1.0)]),
        ]))
        .ok();
    assert_eq!(
        answer.labels(),
        ["job=x name=é region=eu-west replica=a", "job=x region=eu-west replica=a", "job=x region=eu-west replica=a"]
    );
    let mut decoded = Vec::new();
    for chunk in answer.series.iter().flat_map(|series| &series.chunks) {
        let raw = chunk.raw.as_ref().unwrap();
        assert_eq!((raw.type_.value(), raw.hash), (0, XxHash64::oneshot(0, &raw.data)));
        let first = decoded.len();
        xor::decode(&raw.data, &mut decoded).unwrap();
        assert_eq!((chunk.min_time, chunk.max_time), (decoded[first].time_ms, decoded.last().unwrap().time_ms));
    }
    assert!(decoded[0].is_stale());
    let got: Vec<_> = decoded[1..242].iter().map(|sample| (sample.time_ms, sample.value)).collect();
    assert_eq!(got, long);
    assert_eq!(answer.series[1].chunks.len(), 3);
    let read = rig.prometheus.reads.recv_timeout(PATIENCE).unwrap();
    let accepted: Vec<_> = read.accepted_response_types.iter().map(protobuf::EnumOrUnknown::value).collect();
    assert_eq!(accepted, [1, 0], "a streamed answer is preferred");
    assert_eq!(rig.sidecar.metric("thanos_store_server_chunks_requested_sum"), 5.0);
}

#[test]
fn each_series_is_in_exactly_one_shard() {
    let rig = rig();
    let all = (0..20).map(|idx| time_series(&[("job", "x"), ("pod", &idx.to_string())], &[(2_000_000, 1.0)])).collect();
    rig.prometheus.set(|state| state.read = sampled(all));
    let mut found: Vec<String> = Vec::new();
    for shard_index in 0..3 {
        let mut request = request(&[("job", "=", "x")]);
        request.shard_info = MessageField::some(ShardInfo {
            shard_index,
            total_shards: 3,
            by: true,
            labels: vec!["pod".into()],
            ..Default::default()
        });
        let labels = rig.store.series(&request).ok().labels();
        assert!(labels.len() < 20);
        found.extend(labels);
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 20);
}

#[test]
fn answers_that_cannot_be_honoured_are_errors() {
    let rig = rig();
    let check = |read: Read_, text: &str| {
        let answer = rig.read(read);
        assert_eq!((answer.code(), answer.series.len()), (CODE_INTERNAL, 0), "{:?}", answer.status);
        assert!(answer.status.message().contains(text), "{}", answer.status.message());
    };
    let good = time_series(&[("job", "x")], &[(2_000_000, 1.0)]);
    let mut histograms = time_series(&[("__name__", "rpc_seconds")], &[]);
    histograms.histograms.push(vec![]);
    check(sampled(vec![good, histograms]), r#"native histograms of series {__name__="rpc_seconds"}"#);
    check(
        sampled(vec![time_series(&[("job", "x")], &[(5, 1.0), (4, 1.0)])]),
        "samples are out of order: 4 comes after 5",
    );
    check(Read_::Raw(SAMPLED, b"\x00".to_vec()), "unexpected result size 0");
    check(Read_::Raw(SAMPLED, vec![]), "decompress response");
    check(Read_::Raw(SAMPLED, vec![0xff, 0xff, 0xff, 0x7f, 0]), "decompress response");
}
