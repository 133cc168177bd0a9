//! The role of the querier: takes what it is given and looks at nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use futures_util::StreamExt;
use grpcio::{CallOption, ChannelBuilder, Client, Environment, Marshaller, Method, MethodType};
use pillion_base::matcher::{MatchType, Matcher};
use pillion_proto::thanos_store::{LabelValuesRequest, LabelValuesResponse, SeriesRequest};
use pillion_proto::thanos_types::LabelMatcher;
use pillion_read::prom;

use crate::role::{now_ns, say};

/// What a slow client takes. `Units:` bytes per second.
const SLOW_BYTES: f64 = 32.0 * 1024.0 * 1024.0;

/// Says that there was no error.
const ALL: &str = "all";
/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(180);

/// An answer is known by its length only.
pub const SERIES: Method<SeriesRequest, usize> = Method {
    ty: MethodType::ServerStreaming,
    name: "/thanos.Store/Series",
    req_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
    resp_mar: Marshaller { ser: |_, _| Ok(()), de: |reader| Ok(reader.len()) },
};

/// An answer's length, and how many values it has.
const VALUES: Method<LabelValuesRequest, (usize, usize)> = Method {
    ty: MethodType::Unary,
    name: "/thanos.Store/LabelValues",
    req_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
    resp_mar: Marshaller {
        ser: |_, _| Ok(()),
        de: |reader| {
            let n_bytes = reader.len();
            let answer: LabelValuesResponse = grpcio::pb_de(reader)?;
            Ok((n_bytes, answer.values.len()))
        },
    },
};

/// What was drained.
#[derive(Debug, Default, Clone)]
pub struct Drained {
    /// When the request went out and when the first message came, on the clock that all processes share. `Units:` ns.
    pub begun_ns: u64,
    pub first_ns: u64,
    pub wall_ns: u64,
    pub n_bytes: u64,
    pub n_messages: u64,
    /// Why it was not all; empty if it was.
    pub error: String,
}

impl Drained {
    pub fn parse(line: &str) -> Self {
        let mut words = line.splitn(6, ' ');
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
        let (begun_ns, first_ns, wall_ns, n_bytes, n_messages) = (number(), number(), number(), number(), number());
        let error = words.next().map_or_else(|| format!("no answer: {line:?}"), str::to_owned);
        let error = if error == ALL { String::new() } else { error };
        Drained { begun_ns, first_ns, wall_ns, n_bytes, n_messages, error }
    }

    fn say(&self) {
        let Drained { begun_ns, first_ns, wall_ns, n_bytes, n_messages, error } = self;
        let error = if error.is_empty() { ALL } else { error };
        say(&format!("{begun_ns} {first_ns} {wall_ns} {n_bytes} {n_messages} {error}"));
    }
}

/// `drain ADDRESS BATCH LABELS_ONLY N_CALLS SLOW`: Series calls, all over one connection as a querier has it.
pub fn run(args: &[&str]) {
    let [address, batch, labels_only, n_calls, slow] = args else { panic!("{args:?}") };
    let channel = ChannelBuilder::new(Arc::new(Environment::new(1)))
        .max_receive_message_len(-1)
        .enable_http_proxy(false)
        .connect(address);
    let client = Client::new(channel);
    let request = SeriesRequest {
        max_time: i64::MAX,
        matchers: vec![matcher("job", "shop")],
        response_batch_size: batch.parse().unwrap(),
        skip_chunks: *labels_only == "true",
        ..Default::default()
    };
    let (begun, begun_ns) = (Instant::now(), now_ns());
    let options = || CallOption::default().timeout(CALL_TIMEOUT).wait_for_ready(true);
    let calls = (0..n_calls.parse().unwrap()).map(|_| client.server_streaming(&SERIES, &request, options()).unwrap());
    let mut messages = futures_util::stream::select_all(calls);
    let mut drained = Drained { begun_ns, ..Drained::default() };
    while let Some(message) = block_on(messages.next()) {
        if drained.first_ns == 0 {
            drained.first_ns = now_ns();
        }
        match message {
            Ok(n_bytes) => {
                drained.n_bytes += n_bytes as u64;
                drained.n_messages += 1;
            }
            Err(err) => {
                drained.error = err.to_string().replace('\n', " ");
                break;
            }
        }
        if *slow == "true" {
            hold_back(drained.n_bytes, begun);
        }
    }
    drained.wall_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap();
    drained.say();
}

/// A matcher for equality.
pub fn matcher(name: &str, value: &str) -> LabelMatcher {
    LabelMatcher { name: name.into(), value: value.into(), ..Default::default() }
}

/// `drain-values ADDRESS N_EXPECTED`: all values of a label.
pub fn run_values(args: &[&str]) {
    let [address, n_expected] = args else { panic!("{args:?}") };
    let channel = ChannelBuilder::new(Arc::new(Environment::new(1)))
        .max_receive_message_len(-1)
        .enable_http_proxy(false)
        .connect(address);
    let request = LabelValuesRequest { label: "pod".into(), end: i64::MAX, ..Default::default() };
    let (begun, begun_ns) = (Instant::now(), now_ns());
    let options = CallOption::default().timeout(CALL_TIMEOUT).wait_for_ready(true);
    let mut drained = Drained { begun_ns, ..Drained::default() };
    match Client::new(channel).unary_call(&VALUES, &request, options) {
        Ok((n_bytes, n_values)) => {
            drained.first_ns = now_ns();
            drained.n_bytes = n_bytes as u64;
            drained.n_messages = 1;
            if n_values.to_string() != **n_expected {
                drained.error = format!("{n_values} values, expected {n_expected}");
            }
        }
        Err(err) => drained.error = err.to_string().replace('\n', " "),
    }
    drained.wall_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap();
    drained.say();
}

/// Waits until the rate is what it should be.
fn hold_back(n_bytes: u64, begun: Instant) {
    let ahead = Duration::from_secs_f64(n_bytes as f64 / SLOW_BYTES).saturating_sub(begun.elapsed());
    if ahead > Duration::from_millis(2) {
        let (_keep, never) = crossbeam_channel::bounded::<()>(0);
        let _ = never.recv_timeout(ahead);
    }
}

/// `drain-raw ADDRESS LABELS_ONLY`: the same bytes from the relay, or from Prometheus.
pub fn run_raw(args: &[&str]) {
    let [address, labels_only] = args else { panic!("{args:?}") };
    let (begun, begun_ns) = (Instant::now(), now_ns());
    let mut stream = TcpStream::connect(address).unwrap();
    let request = if *labels_only == "true" {
        b"GET /api/v1/series HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec()
    } else {
        read_request(address, ("job", "shop"), "close")
    };
    stream.write_all(&request).unwrap();
    let mut drained = Drained { begun_ns, ..Drained::default() };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = stream.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        if drained.first_ns == 0 {
            drained.first_ns = now_ns();
            if !buffer.starts_with(b"HTTP/1.1 200") {
                drained.error = String::from_utf8_lossy(&buffer[..n.min(200)]).replace(['\r', '\n'], " ");
            }
        }
        drained.n_bytes += n as u64;
        drained.n_messages += 1;
    }
    drained.wall_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap();
    drained.say();
}

/// A remote read of all series with a label, as a request of HTTP.
pub fn read_request(host: &str, (name, value): (&str, &str), connection: &str) -> Vec<u8> {
    let matcher = Matcher { kind: MatchType::Equal, name: name.into(), value: value.into() };
    let body = prom::read_request_body(0, i64::MAX, &[matcher]);
    let mut request = format!(
        "POST /api/v1/read HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\nContent-Length: {}\r\n\
         Content-Encoding: snappy\r\nContent-Type: application/x-protobuf\r\n\
         X-Prometheus-Remote-Read-Version: 0.1.0\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}
