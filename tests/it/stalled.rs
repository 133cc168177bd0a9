//! What clients that pause do to others: nothing. A querier may pause on one store for as long as another one takes.
//! `PILLION_SEED` repeats a run of drawn schedules, `PILLION_SCHEDULES` says how many there are.

use std::time::{Duration, Instant};

use crate::support::fake_prometheus::{FakePrometheus, Read_};
use crate::support::random::Random;
use crate::support::sidecar::Sidecar;
use crate::support::store_client::{Store, options, request};
use futures_executor::block_on;
use futures_util::StreamExt;
use grpcio::{ClientSStreamReceiver, RpcStatusCode};
use pillion_proto::thanos_store::{SeriesRequest, SeriesResponse, series_response};

/// As many reads at once as the real one answers.
const READ_SLOTS: usize = 10;
/// More than the buffers between a Prometheus and a client that does not read can take.
const WIDE: usize = 60_000;

fn prometheus(n_series: usize) -> FakePrometheus {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| {
        state.read_slots = READ_SLOTS;
        state.read = Read_::Many(n_series, vec![7; 100]);
        // A small answer.
        state.reads_by_matcher = vec![("small".into(), 0, Read_::Many(3, vec![7; 100]))];
    });
    prometheus
}

fn wide() -> SeriesRequest {
    SeriesRequest { response_batch_size: 64, ..request(&[("job", "=", "x")]) }
}

fn n_series(message: &SeriesResponse) -> usize {
    match &message.result {
        Some(series_response::Result::Batch(batch)) => batch.series.len(),
        Some(series_response::Result::Series(_)) => 1,
        other => panic!("{other:?}"),
    }
}

/// The next message of a stream: how many series, none at its end.
fn next(stream: &mut ClientSStreamReceiver<SeriesResponse>) -> Result<Option<usize>, RpcStatusCode> {
    match block_on(stream.next()) {
        None => Ok(None),
        Some(Ok(message)) => Ok(Some(n_series(&message))),
        Some(Err(grpcio::Error::RpcFailure(status))) => Err(status.code()),
        Some(Err(err)) => panic!("{err}"),
    }
}

/// Reads a stream to its end.
fn drain(mut stream: ClientSStreamReceiver<SeriesResponse>) -> Result<usize, RpcStatusCode> {
    let mut n = 0;
    while let Some(more) = next(&mut stream)? {
        n += more;
    }
    Ok(n)
}

fn calls(state: &str) -> String {
    format!("pillion_grpc_calls{{state=\"{state}\"}}")
}

#[test]
fn clients_that_stop_reading_stop_nobody_else_and_lose_nothing() {
    let prometheus = prometheus(WIDE);
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    let stopped = Store::connect(sidecar.grpc);
    let streams: Vec<_> = (0..24).map(|_| stopped.stream(&wide(), options())).collect();
    sidecar.wait_metric(&calls("waiting_for_client"), |n| n >= 10.0);
    let begun = Instant::now();
    let other = Store::connect(sidecar.grpc);
    for _ in 0..20 {
        let answer = other.series(&request(&[("small", "=", "x")])).ok();
        assert_eq!(answer.series.len(), 3);
    }
    // A bound for a loaded machine. Before, it took until the first time-out of a client.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    for stream in streams {
        assert_eq!(drain(stream), Ok(WIDE));
    }
    sidecar.wait_metric(&calls("waiting_for_client"), |n| n == 0.0);
    for state in ["working", "waiting_for_prometheus", "queued"] {
        sidecar.wait_metric(&calls(state), |n| n == 0.0);
    }
}

/// What one lazy querier does: as a merge it reads from one store and then from another. `turn` says which is next, and for
/// how many messages.
fn merge(
    mut streams: Vec<Option<ClientSStreamReceiver<SeriesResponse>>>,
    mut turn: impl FnMut() -> (usize, u64),
) -> Result<usize, RpcStatusCode> {
    let mut n = 0;
    while streams.iter().any(Option::is_some) {
        let (idx, n_messages) = turn();
        for _ in 0..n_messages {
            let Some(stream) = &mut streams[idx] else { break };
            match next(stream)? {
                Some(more) => n += more,
                None => streams[idx] = None,
            }
        }
    }
    Ok(n)
}

/// Queriers that merge several stores read from each only what they need next, and each sidecar has other calls to do first.
/// How many sidecars there are, the order of all calls and of all reads are drawn from a seed.
fn lazy_queriers(mut random: Random, n_queriers: usize) {
    let n_sidecars = 2 + random.index(2);
    let n_series = WIDE / 4;
    let prometheis: Vec<_> = (0..n_sidecars).map(|_| prometheus(n_series)).collect();
    let sidecars: Vec<_> = prometheis.iter().map(|prometheus| Sidecar::ready(&prometheus.url(), &[])).collect();
    // Of one address; each few have a connection of their own.
    let stores: Vec<_> = (0..3).flat_map(|_| sidecars.iter().map(|sidecar| Store::connect(sidecar.grpc))).collect();
    let mut calls: Vec<_> =
        (0..n_queriers).flat_map(|querier| (0..n_sidecars).map(move |store| (querier, store))).collect();
    let mut streams: Vec<Vec<_>> = (0..n_queriers).map(|_| (0..n_sidecars).map(|_| None).collect()).collect();
    while !calls.is_empty() {
        let (querier, store) = calls.swap_remove(random.index(calls.len()));
        let connection = store + n_sidecars * random.index(3);
        streams[querier][store] = Some(stores[connection].stream(&wide(), options()));
    }
    let threads: Vec<_> = streams
        .into_iter()
        .map(|streams| {
            let mut random = Random(random.below(u64::from(u32::MAX)));
            let turn = move || (random.index(n_sidecars), 1 + random.below(200));
            #[allow(clippy::disallowed_methods)]
            std::thread::spawn(move || merge(streams, turn))
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Ok(n_sidecars * n_series));
    }
}

#[test]
fn sidecars_and_lazy_queriers_do_not_wait_for_each_other() {
    let mut random = Random::seeded();
    let n_schedules = std::env::var("PILLION_SCHEDULES").map_or(3, |n| n.parse().unwrap());
    for _ in 0..n_schedules {
        lazy_queriers(Random(random.below(u64::from(u32::MAX))), 36);
    }
}

/// The schedule that was found by hand: one sidecar begins with the calls that the other begins last.
#[test]
fn two_sidecars_that_begin_in_opposite_orders_do_not_wait_for_each_other() {
    const N: usize = 36;
    let prometheis = [prometheus(WIDE / 4), prometheus(WIDE / 4)];
    let sidecars = prometheis.each_ref().map(|prometheus| Sidecar::ready(&prometheus.url(), &[]));
    let stores = sidecars.each_ref().map(|sidecar| Store::connect(sidecar.grpc));
    let first: Vec<_> = (0..N).map(|_| Some(stores[0].stream(&wide(), options()))).collect();
    let mut second: Vec<_> = (0..N).rev().map(|_| Some(stores[1].stream(&wide(), options()))).collect();
    second.reverse();
    let threads: Vec<_> = first
        .into_iter()
        .zip(second)
        .map(|(one, other)| {
            // The next of one, then the next of the other.
            let mut turns = [(0, 1), (1, 1)].into_iter().cycle();
            #[allow(clippy::disallowed_methods)]
            std::thread::spawn(move || merge(vec![one, other], move || turns.next().unwrap()))
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Ok(2 * (WIDE / 4)));
    }
}

#[test]
fn a_client_that_takes_nothing_for_too_long_is_told_so_and_named() {
    let prometheus = prometheus(WIDE);
    let sidecar = Sidecar::ready(&prometheus.url(), &["--store.limits.stalled-call-timeout=500ms"]);
    let store = Store::connect(sidecar.grpc);
    let stream = store.stream(&wide(), options());
    let given_up = "pillion_grpc_calls_given_up_total{reason=\"stalled\"}";
    sidecar.wait_metric(given_up, |n| n == 1.0);
    assert_eq!(drain(stream), Err(RpcStatusCode::UNAVAILABLE));
    sidecar.wait_metric(&calls("waiting_for_client"), |n| n == 0.0);
    let log = sidecar.log();
    let line = log.lines().find(|line| line.contains("gave up a call")).unwrap();
    for part in
        ["level=warn", "peer=127.0.0.1:", r#"query="Series {job=\"x\"}""#, "--store.limits.stalled-call-timeout"]
    {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
}
