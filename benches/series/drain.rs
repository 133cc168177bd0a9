//! The role of the querier: takes what it is given and looks at nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use futures_util::StreamExt;
use grpcio::{CallOption, ChannelBuilder, Client, Environment, Marshaller, Method, MethodType};
use pillion_proto::thanos_store::SeriesRequest;
use pillion_proto::thanos_types::LabelMatcher;

use crate::role::{now_ns, say};

/// What a slow client takes. `Units:` bytes per second.
const SLOW_BYTES: f64 = 32.0 * 1024.0 * 1024.0;

/// Says that there was no error.
const ALL: &str = "all";
/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(180);

/// An answer is known by its length only.
const SERIES: Method<SeriesRequest, usize> = Method {
    ty: MethodType::ServerStreaming,
    name: "/thanos.Store/Series",
    req_mar: Marshaller { ser: grpcio::pb_ser, de: grpcio::pb_de },
    resp_mar: Marshaller { ser: |_, _| Ok(()), de: |reader| Ok(reader.len()) },
};

/// What was drained.
#[derive(Debug, Default, Clone)]
pub struct Drained {
    /// On the clock that all processes share. `Units:` ns.
    pub first_ns: u64,
    pub wall_ns: u64,
    pub n_bytes: u64,
    pub n_messages: u64,
    /// Why it was not all; empty if it was.
    pub error: String,
}

impl Drained {
    pub fn parse(line: &str) -> Self {
        let mut words = line.splitn(5, ' ');
        let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or_default();
        let (first_ns, wall_ns, n_bytes, n_messages) = (number(), number(), number(), number());
        let error = words.next().map_or_else(|| format!("no answer: {line:?}"), str::to_owned);
        let error = if error == ALL { String::new() } else { error };
        Drained { first_ns, wall_ns, n_bytes, n_messages, error }
    }

    fn say(&self) {
        let Drained { first_ns, wall_ns, n_bytes, n_messages, error } = self;
        let error = if error.is_empty() { ALL } else { error };
        say(&format!("{first_ns} {wall_ns} {n_bytes} {n_messages} {error}"));
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
    let matcher = LabelMatcher { name: "job".into(), value: "shop".into(), ..Default::default() };
    let request = SeriesRequest {
        max_time: i64::MAX,
        matchers: vec![matcher],
        response_batch_size: batch.parse().unwrap(),
        skip_chunks: *labels_only == "true",
        ..Default::default()
    };
    let begun = Instant::now();
    let options = || CallOption::default().timeout(CALL_TIMEOUT).wait_for_ready(true);
    let calls = (0..n_calls.parse().unwrap()).map(|_| client.server_streaming(&SERIES, &request, options()).unwrap());
    let mut messages = futures_util::stream::select_all(calls);
    let mut drained = Drained::default();
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

/// Waits until the rate is what it should be.
fn hold_back(n_bytes: u64, begun: Instant) {
    let ahead = Duration::from_secs_f64(n_bytes as f64 / SLOW_BYTES).saturating_sub(begun.elapsed());
    if ahead > Duration::from_millis(2) {
        let (_keep, never) = crossbeam_channel::bounded::<()>(0);
        let _ = never.recv_timeout(ahead);
    }
}

/// `drain-raw ADDRESS LABELS_ONLY`: the same bytes from the relay.
pub fn run_raw(args: &[&str]) {
    let [address, labels_only] = args else { panic!("{args:?}") };
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    let path = if *labels_only == "true" { "series" } else { "read" };
    write!(stream, "GET /api/v1/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut drained = Drained::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = stream.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        if drained.first_ns == 0 {
            drained.first_ns = now_ns();
        }
        drained.n_bytes += n as u64;
        drained.n_messages += 1;
    }
    drained.wall_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap();
    drained.say();
}
