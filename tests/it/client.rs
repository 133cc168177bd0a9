//! `pillion info` and `pillion series` against a StoreAPI server that answers with what a test gives it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, TryFutureExt};
use grpcio::{
    ChannelBuilder, Environment, RpcStatus, RpcStatusCode, Server, ServerBuilder, ServerCredentials, ServiceBuilder,
    WriteFlags,
};
use pillion::inside::{self as client, InfoArgs, SeriesArgs};
use pillion_base::error::Kind;
use pillion_proto::thanos_info::{InfoResponse, StoreInfo};
use pillion_proto::thanos_store::{SeriesRequest, SeriesResponse, series_response};
use pillion_proto::thanos_types::{AggrChunk, Chunk, Label, Series, SeriesBatch};

/// A server with one canned answer; it remembers the request.
struct FakeStore {
    _server: Server,
    address: String,
    request: Arc<Mutex<Option<SeriesRequest>>>,
}

fn fake_store(answer: Vec<series_response::Result>, status: Option<(RpcStatusCode, &'static str)>) -> FakeStore {
    let environment = Arc::new(Environment::new(1));
    let request = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&request);
    let service = ServiceBuilder::new()
        .add_unary_handler(&client::INFO, |ctx, _, sink| {
            let info = InfoResponse {
                ComponentType: "fake".into(),
                store: Some(StoreInfo { min_time: 5, ..Default::default() }).into(),
                ..Default::default()
            };
            ctx.spawn(sink.success(info).map(|_| ()));
        })
        .add_server_streaming_handler(&client::SERIES, move |ctx, request, mut sink| {
            *seen.lock().unwrap() = Some(request);
            let answer = answer.clone();
            let reply = async move {
                for result in answer {
                    let message = SeriesResponse { result: Some(result), ..Default::default() };
                    sink.send((message, WriteFlags::default())).await?;
                }
                match status {
                    None => sink.close().await,
                    Some((code, text)) => sink.fail(RpcStatus::with_message(code, text.into())).await,
                }
            };
            ctx.spawn(reply.unwrap_or_else(|_| ()));
        })
        .build();
    let args = ChannelBuilder::new(Arc::clone(&environment)).reuse_port(false).max_send_message_len(-1).build_args();
    let mut server = ServerBuilder::new(environment).channel_args(args).register_service(service).build().unwrap();
    let port = server.add_listening_port("127.0.0.1:0", ServerCredentials::insecure()).unwrap();
    server.start();
    FakeStore { _server: server, address: format!("127.0.0.1:{port}"), request }
}

/// Two samples, 1 at 1.000 s and 1 at 16.000 s.
const TWO_SAMPLES: [u8; 15] = [0, 2, 0xd0, 0x0f, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0, 0x98, 0x75, 0];

fn series(labels: &[(&str, &str)], chunks: &[(i32, &[u8])]) -> Series {
    let label =
        |(name, value): &(&str, &str)| Label { name: (*name).into(), value: (*value).into(), ..Default::default() };
    let chunk = |(encoding, data): &(i32, &[u8])| AggrChunk {
        raw: Some(Chunk {
            type_: protobuf::EnumOrUnknown::from_i32(*encoding),
            data: data.to_vec(),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    Series {
        labels: labels.iter().map(label).collect(),
        chunks: chunks.iter().map(chunk).collect(),
        ..Default::default()
    }
}

fn single(series: Series) -> series_response::Result {
    series_response::Result::Series(series)
}

fn batch(series: Vec<Series>) -> series_response::Result {
    series_response::Result::Batch(SeriesBatch { series, ..Default::default() })
}

fn args(store: &FakeStore) -> SeriesArgs {
    SeriesArgs {
        store: store.address.clone(),
        tls: None,
        matchers: vec!["up".into()],
        start_ms: i64::MIN,
        end_ms: i64::MAX,
        skip_chunks: false,
        without_replica_labels: Vec::new(),
        samples: false,
        json: false,
        timeout: Duration::from_secs(60),
    }
}

fn run(args: &SeriesArgs) -> (pillion_base::error::Result<()>, String, String) {
    let (mut out, mut warn) = (Vec::new(), Vec::new());
    let result = client::series(args, &mut out, &mut warn);
    (result, String::from_utf8(out).unwrap(), String::from_utf8(warn).unwrap())
}

#[test]
fn single_and_batched_series_are_merged_by_labels_and_warnings_are_apart() {
    let later: &[u8] = &[0, 1, 0x80, 0xf4, 0x03, 0x40, 0, 0, 0, 0, 0, 0, 0];
    let store = fake_store(
        vec![
            single(series(&[("__name__", "up"), ("a", "1")], &[(0, &TWO_SAMPLES)])),
            single(series(&[("__name__", "up"), ("a", "1")], &[(0, later)])),
            series_response::Result::Warning("a \u{1b}[31m warning".into()),
            batch(vec![series(&[("__name__", "up"), ("a", "2")], &[(1, &[0, 9]), (0, &TWO_SAMPLES)])]),
        ],
        None,
    );
    let (result, out, warn) = run(&args(&store));
    result.unwrap();
    let expected = "up{a=\"1\"}  3 samples  1970-01-01T00:00:01Z 1 … 1970-01-01T00:00:32Z 2  ▁▁█\n\
                    up{a=\"2\"}  2 samples  1970-01-01T00:00:01Z 1 … 1970-01-01T00:00:16Z 1  ▄▄  \
                    9 histogram samples in 1 chunk, not decoded\n";
    assert_eq!(out, expected);
    assert_eq!(warn, "warning: a \\u{1b}[31m warning\n");
}

#[test]
fn the_request_says_what_the_flags_say() {
    let store = fake_store(vec![single(series(&[("__name__", "up")], &[(0, &TWO_SAMPLES)]))], None);
    let flags = SeriesArgs {
        matchers: vec!["up".into(), r#"{b=~"c.*"}"#.into()],
        start_ms: 2000,
        end_ms: 20_000,
        without_replica_labels: vec!["replica".into()],
        samples: true,
        json: true,
        ..args(&store)
    };
    let (result, out, _) = run(&flags);
    result.unwrap();
    // The first sample lies before the asked range, though its chunk was sent.
    let expected = r#"{"chunks":1,"first":[16,"1"],"labels":{"__name__":"up"},"last":[16,"1"],"samples":1,"stale":0,"values":[[16,"1"]]}"#;
    assert_eq!(out, format!("{expected}\n"));
    let request = store.request.lock().unwrap().take().unwrap();
    let matchers: Vec<_> = request.matchers.iter().map(|m| (m.type_.value(), &*m.name, &*m.value)).collect();
    assert_eq!(matchers, [(0, "__name__", "up"), (2, "b", "c.*")]);
    assert_eq!((request.min_time, request.max_time), (2000, 20_000));
    assert_eq!(request.without_replica_labels, ["replica"]);
    assert!(!request.skip_chunks);
}

#[test]
fn labels_only() {
    let store = fake_store(vec![batch(vec![series(&[("__name__", "up")], &[]), series(&[("a", "1")], &[])])], None);
    let (result, out, warn) = run(&SeriesArgs { skip_chunks: true, ..args(&store) });
    result.unwrap();
    assert_eq!((out.as_str(), warn.as_str()), ("up\n{a=\"1\"}\n", ""));
    assert!(store.request.lock().unwrap().take().unwrap().skip_chunks);
}

#[test]
fn nothing_matched() {
    let store = fake_store(Vec::new(), None);
    let (result, out, warn) = run(&args(&store));
    result.unwrap();
    assert_eq!((out.as_str(), warn.as_str()), ("", "no series\n"));
}

#[test]
fn a_failed_call_names_the_address_the_code_and_the_message() {
    let status = (RpcStatusCode::INVALID_ARGUMENT, "no matchers specified (excluding external labels)");
    let store = fake_store(Vec::new(), Some(status));
    let err = run(&args(&store)).0.unwrap_err();
    let expected = format!("series from {}: INVALID_ARGUMENT: {}", store.address, status.1);
    assert_eq!((err.to_string(), err.kind()), (expected, Kind::BadRequest));
}

#[test]
fn an_answer_that_breaks_off_is_an_error_and_no_half_series_is_shown() {
    let whole = single(series(&[("__name__", "a")], &[(0, &TWO_SAMPLES)]));
    let next = single(series(&[("__name__", "b")], &[(0, &TWO_SAMPLES)]));
    let store = fake_store(vec![whole, next], Some((RpcStatusCode::RESOURCE_EXHAUSTED, "limit")));
    let (result, out, _) = run(&args(&store));
    assert_eq!(result.unwrap_err().kind(), Kind::Limit);
    // The library may throw away messages that came just before the bad status; the last series is never shown.
    assert!(out.lines().all(|line| line.starts_with("a  2 samples")) && out.lines().count() <= 1, "{out}");
}

#[test]
fn a_corrupt_chunk_is_an_error_with_the_series() {
    let store = fake_store(vec![single(series(&[("__name__", "bad")], &[(0, &[0, 9, 1])]))], None);
    let err = run(&args(&store)).0.unwrap_err();
    assert_eq!(err.kind(), Kind::Corrupt);
    assert!(err.to_string().contains("of series bad"), "{err}");
}

#[test]
fn a_large_message_is_received() {
    let big = "x".repeat(20 << 20);
    let store = fake_store(vec![single(series(&[("__name__", "up"), ("big", &big)], &[]))], None);
    let (result, out, _) = run(&SeriesArgs { skip_chunks: true, ..args(&store) });
    result.unwrap();
    assert!(out.len() > big.len());
}

#[test]
fn a_reader_that_goes_away_ends_the_call_quietly() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let many = (0..1000).map(|idx| single(series(&[("a", &idx.to_string())], &[]))).collect();
    let store = fake_store(many, Some((RpcStatusCode::INTERNAL, "read to the end")));
    client::series(&args(&store), &mut Closed, &mut Vec::new()).unwrap();
}

#[test]
fn nobody_listens() {
    // The port was free a moment ago; nothing listens on it now.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let flags =
        InfoArgs { store: format!("127.0.0.1:{port}"), tls: None, json: false, timeout: Duration::from_secs(60) };
    let err = client::info(&flags, &mut Vec::new()).unwrap_err();
    assert_eq!(err.kind(), Kind::Retry);
    assert!(err.to_string().starts_with(&format!("info from 127.0.0.1:{port}: UNAVAILABLE: ")), "{err}");
}

#[test]
fn info_in_text_and_json() {
    let store = fake_store(Vec::new(), None);
    let ask = |json| {
        let mut out = Vec::new();
        let flags = InfoArgs { store: store.address.clone(), tls: None, json, timeout: Duration::from_secs(60) };
        client::info(&flags, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert!(ask(false).contains("component             fake\n"), "{}", ask(false));
    let json: serde_json::Value = serde_json::from_str(&ask(true)).unwrap();
    assert_eq!((&json["component"], &json["min_time_ms"]), (&"fake".into(), &5.into()));
}
