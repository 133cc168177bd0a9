//! Cancelled calls are no abuse: queriers cancel whatever they need no longer, all at once or all the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use grpcio::ClientSStreamReceiver;
use pillion_proto::thanos_store::SeriesResponse;

use super::{CALL, alone};
use crate::support::arena::{Arena, thousand_series};
use crate::support::fake_prometheus::Read_;
use crate::support::go_client::GoClient;
use crate::support::sidecar::pause;
use crate::support::store_client::{options, request};

/// A call that is answered with silence until it is cancelled.
fn begin(arena: &Arena) -> ClientSStreamReceiver<SeriesResponse> {
    arena.established.stream(&request(&[("slow", "=", "x")]), options())
}

fn start() -> Arena {
    let arena = Arena::start(&[]);
    arena.prometheus.set(|state| state.reads_by_matcher.push(("slow".into(), 0, Read_::Stall(vec![]))));
    arena
}

/// Nobody was cut off, and the client's calls go on to succeed over its one connection.
#[track_caller]
fn assert_undisturbed(arena: &Arena, what: &str) {
    let mut failed = Vec::new();
    for _ in 0..20 {
        failed.extend(thousand_series(&arena.established, CALL).err());
    }
    let accepted = arena.sidecar.metric("pillion_grpc_connections_accepted_total");
    let refused = arena.sidecar.metric("pillion_grpc_connections_refused_total{reason=\"abuse\"}");
    eprintln!("attack: {what}: {accepted} connections, {refused} cut, {} of 20 later calls failed", failed.len());
    assert!(failed.is_empty(), "{what}: {failed:?}");
    assert_eq!((accepted, refused), (1.0, 0.0), "{what}:\n{}", arena.sidecar.log());
}

#[test]
fn a_hundred_and_twenty_calls_may_be_cancelled_together() {
    let _alone = alone();
    let arena = start();
    for _ in 0..3 {
        let mut calls: Vec<_> = (0..120).map(|_| begin(&arena)).collect();
        // The first calls have come as far as Prometheus; the rest wait behind them.
        arena.prometheus.reads.recv_timeout(CALL).unwrap();
        calls.iter_mut().for_each(ClientSStreamReceiver::cancel);
    }
    assert_undisturbed(&arena, "120 calls cancelled together");
}

#[test]
fn calls_may_be_cancelled_all_the_time() {
    let _alone = alone();
    let arena = start();
    let begun = Instant::now();
    let mut running = VecDeque::new();
    let mut n_cancelled = 0_u32;
    // Thirty at once, each for 50 to 300 ms: about 170 per second.
    while begun.elapsed() < Duration::from_secs(4) {
        while running.len() < 30 {
            let lasts = Duration::from_millis(50 + u64::from(n_cancelled) * 97 % 250);
            running.push_back((Instant::now() + lasts, begin(&arena)));
        }
        let now = Instant::now();
        running.retain_mut(|(until, call)| {
            let is_due = now >= *until;
            if is_due {
                call.cancel();
                n_cancelled += 1;
            }
            !is_due
        });
        pause();
    }
    drop(running);
    eprintln!("attack: {n_cancelled} calls were cancelled in {:?}", begun.elapsed());
    assert!(n_cancelled > 150, "only {n_cancelled}");
    assert_undisturbed(&arena, "calls cancelled all the time");
}

/// The library of queriers; `PILLION_CANCEL_SECONDS` for longer than the six seconds.
#[test]
fn calls_of_grpc_go_may_be_cancelled_all_the_time() {
    let _alone = alone();
    let arena = start();
    let seconds = std::env::var("PILLION_CANCEL_SECONDS").unwrap_or_else(|_| "6".into());
    let args = ["-mode=cancel", "-calls=30", "-later=20", &format!("-duration={seconds}s")];
    let Some(client) = GoClient::start(arena.sidecar.grpc, &args) else { return };
    let report = client.report();
    eprintln!("attack: calls of grpc-go cancelled: {report}");
    let n_cancelled = report["cancelled"].as_u64().unwrap();
    assert!(n_cancelled > 150, "only {n_cancelled}");
    // None ended in any other way.
    assert_eq!(report["codes"], serde_json::json!({ "Canceled": n_cancelled }));
    assert_eq!((&report["connections"], &report["later_ok"]), (&1.into(), &20.into()), "{report}");
    assert_eq!(arena.sidecar.metric("pillion_grpc_connections_refused_total{reason=\"abuse\"}"), 0.0);
}
