//! A connection that ends at a time of the server's choosing loses nothing that is on its way: at a stop, at its greatest
//! age, and when the server has had enough of its client.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use futures_executor::block_on;
use futures_util::StreamExt;
use pillion_base::threads::spawn_thread;
use pillion_proto::thanos_store::{SeriesRequest, SeriesResponse, series_response};
use protobuf::Message;

use super::alone;
use crate::support::arena::Arena;
use crate::support::attackers::series_request;
use crate::support::fake_prometheus::Read_;
use crate::support::go_client::GoClient;
use crate::support::raw::{
    DATA, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PING, Raw, WINDOW_MAX, WINDOW_UPDATE, frame, frames, greeting, message,
    open_call, reset,
};
use crate::support::sidecar::{PATIENCE, pause};
use crate::support::store_client::{Store, options, request};

/// An answer of 6 MB: more than the buffers of kernels take on the way.
pub(crate) const N_SERIES: usize = 20_000;
/// The receive buffer of a slow link. `Units:` bytes.
pub(crate) const SLOW: Option<usize> = Some(32 * 1024);
pub(crate) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) fn ask() -> SeriesRequest {
    SeriesRequest { response_batch_size: 64, ..request(&[("job", "=", "x")]) }
}

fn start(args: &[&str]) -> Arena {
    let arena = Arena::start(args);
    arena.prometheus.set(|state| state.read = Read_::Many(N_SERIES, vec![7; 200]));
    arena
}

/// How many series a message brought.
fn n_series(message: &SeriesResponse) -> usize {
    match &message.result {
        Some(series_response::Result::Series(_)) => 1,
        Some(series_response::Result::Batch(batch)) => batch.series.len(),
        other => panic!("{other:?}"),
    }
}

/// Whether an answer came whole, or what came of it.
pub(crate) type Ending = Result<(), String>;

/// Counts and prints what was lost.
#[track_caller]
fn assert_none_lost(what: &str, endings: &[Ending]) {
    let lost: Vec<_> = endings.iter().filter_map(|ending| ending.as_ref().err()).collect();
    eprintln!("attack: {what}: {} of {} answers lost: {lost:?}", lost.len(), endings.len());
    assert!(lost.is_empty(), "{what}");
}

/// Reads as fast as it can, and says when it has the first message.
fn fast_reader(address: SocketAddr, begun: &Sender<()>) -> Ending {
    let store = Store::connect(address);
    let mut stream = store.stream(&ask(), options());
    let mut n = 0;
    while let Some(message) = block_on(stream.next()) {
        n += n_series(&message.map_err(|err| format!("{n} series, {err}"))?);
        let _ = begun.try_send(());
    }
    if n == N_SERIES { Ok(()) } else { Err(format!("{n} series, OK")) }
}

/// A client behind a slow link: the server may send all at once, and it arrives little by little.
pub(crate) struct SlowReader<S = TcpStream> {
    raw: Raw<S>,
    bytes: Vec<u8>,
}

impl SlowReader {
    /// Asks; a receive buffer of few bytes makes the link slow.
    fn begin(from: IpAddr, address: SocketAddr, buffer_bytes: Option<usize>, asked: &[u8]) -> Self {
        SlowReader::begin_on(Raw::connect_from(from, address, buffer_bytes).unwrap(), asked)
    }
}

impl<S: Read + Write> SlowReader<S> {
    /// Asks over a connection on which nothing was said yet.
    pub(crate) fn begin_on(mut raw: Raw<S>, asked: &[u8]) -> Self {
        raw.shake_hands(&[(INITIAL_WINDOW_SIZE, WINDOW_MAX)]).unwrap();
        let window = frame(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes());
        raw.send(&[window, open_call(1, "/thanos.Store/Series"), message(1, asked)].concat());
        SlowReader { raw, bytes: Vec::new() }
    }

    /// Reads this many bytes at most; false at the end.
    pub(crate) fn read(&mut self, n: usize) -> bool {
        let mut buffer = vec![0; n];
        match self.raw.0.read(&mut buffer) {
            Ok(n) => {
                self.bytes.extend(&buffer[..n]);
                n > 0
            }
            Err(_) => false,
        }
    }

    /// Reads to the end at this pace, and pings now and then as a client with a heart does.
    pub(crate) fn read_on(mut self, bytes_per_second: usize) -> Ending {
        let begun = Instant::now();
        let mut pinged = begun;
        let mut n_read = 0;
        loop {
            let due = begun.elapsed().as_millis() * bytes_per_second as u128 / 1000;
            if n_read < due {
                let had = self.bytes.len();
                // An answer that has come whole needs no end of the connection.
                if !self.read(16 * 1024) || self.ending().is_ok() {
                    return self.ending();
                }
                n_read += (self.bytes.len() - had) as u128;
            } else {
                pause();
            }
            if pinged.elapsed() > Duration::from_millis(500) {
                pinged = Instant::now();
                // The core has gone by then, for all that a client can know.
                let _ = self.raw.0.write_all(&frame(PING, 0, 0, b"a heart!"));
            }
        }
    }

    fn ending(&self) -> Ending {
        let (frames, rest) = frames(&self.bytes);
        let answer = || frames.iter().filter(|(_, _, stream, _)| *stream == 1);
        let last = answer().next_back();
        if last.is_none_or(|(kind, flags, ..)| (*kind, flags & 1) != (HEADERS, 1)) {
            return Err(format!(
                "no trailers after {} bytes, {} of them of a broken frame",
                self.bytes.len(),
                rest.len()
            ));
        }
        let data: Vec<u8> =
            answer().filter(|frame| frame.0 == DATA).flat_map(|(_, _, _, payload)| *payload).copied().collect();
        let (mut rest, mut n) = (&data[..], 0);
        while let Some((&[_, a, b, c, d], tail)) = rest.split_first_chunk::<5>() {
            let (payload, tail) = tail.split_at(u32::from_be_bytes([a, b, c, d]) as usize);
            n += n_series(&SeriesResponse::parse_from_bytes(payload).unwrap());
            rest = tail;
        }
        // The first on its connection, so the status stands there in plain letters.
        let is_ok = last.is_some_and(|(.., block)| block.windows(13).any(|text| text == b"grpc-status\x010"));
        if (n, is_ok) == (N_SERIES, true) { Ok(()) } else { Err(format!("{n} series, OK: {is_ok}")) }
    }
}

#[test]
fn a_stop_lets_fast_readers_finish() {
    let _alone = alone();
    let mut arena = start(&["--store.limits.concurrent-calls=32", "--grpc-grace-period=30s"]);
    // One place for each: what they say later on gets lost.
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let (address, (begin, begun)) = (arena.sidecar.grpc, bounded(1));
            (spawn_thread("fast", None, move || fast_reader(address, &begin)).unwrap(), begun)
        })
        .collect();
    for (_, begun) in &readers {
        begun.recv_timeout(PATIENCE).unwrap();
    }
    arena.sidecar.signal("TERM");
    let endings: Vec<Ending> = readers.into_iter().map(|(reader, _)| reader.join().unwrap()).collect();
    let status = arena.sidecar.wait_exit();
    assert_none_lost("a stop beside fast readers", &endings);
    assert_eq!(status.code(), Some(0), "{}", arena.sidecar.log());
}

#[test]
fn a_stop_lets_readers_of_grpc_go_finish() {
    let _alone = alone();
    let mut arena = start(&["--store.limits.concurrent-calls=32", "--grpc-grace-period=30s"]);
    // A client on a fast network lets much be under way at once.
    let args = ["-mode=hold", "-calls=20", "-window=16777216"];
    let Some(mut client) = GoClient::start(arena.sidecar.grpc, &args) else { return };
    client.wait_begun();
    arena.sidecar.signal("TERM");
    arena.sidecar.wait_line("caught signal. Exiting.");
    client.go_on();
    let report = client.report();
    eprintln!("attack: a stop beside grpc-go: {}", report["codes"]);
    let status = arena.sidecar.wait_exit();
    assert_eq!(report["codes"], serde_json::json!({ "OK": 20 }));
    // One series in each message.
    assert_eq!(report["messages"], serde_json::json!(vec![N_SERIES; 20]));
    assert_eq!(status.code(), Some(0), "{}", arena.sidecar.log());
}

#[test]
fn a_stop_lets_slow_readers_finish() {
    let _alone = alone();
    let mut arena = start(&["--grpc-grace-period=30s"]);
    let asked = ask().write_to_bytes().unwrap();
    let mut readers: Vec<_> = (0..4).map(|_| SlowReader::begin(HERE, arena.sidecar.grpc, SLOW, &asked)).collect();
    // Each has an answer that has begun.
    assert!(readers.iter_mut().all(|reader| reader.read(16 * 1024)));
    let begun = Instant::now();
    arena.sidecar.signal("TERM");
    let readers: Vec<_> =
        readers.into_iter().map(|reader| spawn_thread("slow", None, || reader.read_on(1_500_000)).unwrap()).collect();
    let endings: Vec<Ending> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    let took = begun.elapsed();
    let status = arena.sidecar.wait_exit();
    eprintln!("attack: a stop beside slow readers: they took {took:?}, and the process {:?}", begun.elapsed());
    assert_none_lost("a stop beside slow readers", &endings);
    assert_eq!(status.code(), Some(0), "{}", arena.sidecar.log());
    // It does not wait for clients that have all they asked for.
    assert!(begun.elapsed() < took + Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn a_reader_that_stands_still_is_cut_after_the_grace() {
    let _alone = alone();
    let mut arena = start(&["--grpc-grace-period=1s"]);
    let mut reader = SlowReader::begin(HERE, arena.sidecar.grpc, SLOW, &ask().write_to_bytes().unwrap());
    assert!(reader.read(1024));
    let begun = Instant::now();
    arena.sidecar.signal("TERM");
    arena.sidecar.wait_line("grace period exceeded");
    let status = arena.sidecar.wait_exit();
    let took = begun.elapsed();
    eprintln!("attack: a stop beside a reader that stands still: {took:?}");
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(6), "{took:?}");
    assert_eq!(status.code(), Some(0), "{}", arena.sidecar.log());
}

#[test]
fn an_old_connection_gets_the_rest_of_its_answer() {
    let _alone = alone();
    let arena = start(&["--grpc-server-max-connection-age=1s"]);
    let reader = SlowReader::begin(HERE, arena.sidecar.grpc, SLOW, &ask().write_to_bytes().unwrap());
    // Slow enough to be at it when the core has long been done with the connection.
    let ending = reader.read_on(800_000);
    assert_none_lost("the greatest age beside a slow reader", &[ending]);
}

#[test]
fn clients_that_ignore_everything_do_not_hold_up_the_stop() {
    let _alone = alone();
    let mut arena = start(&[]);
    let idle: Vec<_> = (0..3).map(|_| Raw::open(arena.sidecar.grpc)).collect();
    let mut half_open = Raw::connect(arena.sidecar.grpc);
    half_open.send(&greeting());
    let silent = Raw::connect(arena.sidecar.grpc);
    arena.sidecar.wait_metric("pillion_grpc_connections", |n| n >= 5.0);
    let begun = Instant::now();
    arena.sidecar.signal("TERM");
    let status = arena.sidecar.wait_exit();
    let took = begun.elapsed();
    eprintln!("attack: a stop beside clients that ignore everything: {took:?}");
    assert_eq!(status.code(), Some(0), "{}", arena.sidecar.log());
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop((idle, half_open, silent));
}

#[test]
fn what_the_server_says_last_does_not_fall_into_a_frame() {
    let _alone = alone();
    let arena = start(&[]);
    arena.flood_attackers();
    let (mut n_told, mut n_broken) = (0, 0);
    for n in 0..20 {
        // Each from its own address: nothing is known against it.
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 1, n + 1));
        let mut reader = SlowReader::begin(from, arena.sidecar.grpc, SLOW, &series_request());
        assert!(reader.read(1024));
        let mut abuser = reader.raw.0.try_clone().unwrap();
        let abuse = move || {
            for stream in (0..2000).map(|n| 2 * n + 3) {
                let pair =
                    [open_call(stream, "/thanos.Store/Series"), message(stream, &series_request()), reset(stream)];
                if abuser.write_all(&pair.concat()).is_err() {
                    return;
                }
            }
        };
        // Every other one reads nothing until it is over, so that the server is in the middle of a frame.
        let abusing = spawn_thread("abuser", None, abuse).unwrap();
        if n % 2 == 0 {
            abusing.join().unwrap();
            while reader.read(64 * 1024) {}
        } else {
            while reader.read(64 * 1024) {}
            abusing.join().unwrap();
        }
        // Nothing in an answer looks like this frame, whose error code is ENHANCE_YOUR_CALM.
        let calm = |bytes: &[u8]| bytes.windows(8).any(|text| text == [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb]);
        let (frames, rest) = frames(&reader.bytes);
        let told: Vec<_> = frames.iter().map(|frame| (frame.0, calm(frame.3))).collect();
        n_told += usize::from(told.iter().any(|(kind, _)| *kind == GOAWAY));
        let in_frame = told.iter().any(|(kind, calm)| *kind != GOAWAY && *calm) || calm(rest);
        let unknown = frames.iter().any(|frame| frame.0 > WINDOW_UPDATE);
        n_broken += usize::from(in_frame || unknown);
    }
    eprintln!("attack: the last word: {n_told} of 20 were told to calm down, {n_broken} in the middle of a frame");
    assert_eq!(n_broken, 0);
}
