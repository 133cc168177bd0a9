//! What hostile clients of one address may cost the real binary, each attack alone and then all together, for
//! `PILLION_ATTACK_SECONDS` each, and how long honest clients wait meanwhile. Each phase prints its figures.
//!
//! A program of its own: it measures times of a whole machine. The attackers keep a pace at which they themselves need
//! little of it.

// Printing the figures is half of the purpose.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::float_cmp)]

#[allow(dead_code)]
mod support;

use std::time::{Duration, Instant};

use pillion_base::threads::spawn_thread;
use support::arena::{Arena, FILES_MAX, RSS_BYTES_MAX, info, thousand_series};
use support::attackers::{Attacker, EMPTY_LABEL, EMPTY_MATCHER, Running, repeat, series_request};
use support::figures::status;
use support::sidecar::pause;
use support::store_client::Store;

/// 99 of 100 Info calls of an honest client take less.
const INFO_P99_MAX: Duration = Duration::from_secs(1);
/// After this time an honest call has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// A peer that answers nothing is gone after this time, and a little more for looking.
const FROZEN_MAX: Duration = Duration::from_secs(33);
/// The largest request that is taken, or a little less. `Units:` bytes.
const REQUEST_BYTES: usize = (1 << 20) - (64 << 10);

type Attack = fn(Attacker) -> Running;

const ATTACKS: [(&str, Attack); 10] = [
    ("calls_without_request", |attacker| repeat(4, 100, move || attacker.headers_without_body(64))),
    ("hang_up", |attacker| repeat(40, 0, move || attacker.hang_up(300))),
    ("rapid_reset", |attacker| repeat(10, 0, move || attacker.rapid_reset().then_some(()))),
    ("heavy_requests", |attacker| {
        let ask = [series_request(), EMPTY_LABEL.repeat(REQUEST_BYTES / 2)].concat();
        repeat(1, 100, move || attacker.heavy_requests(20, &ask))
    }),
    ("matchers", |attacker| {
        let ask = [series_request(), EMPTY_MATCHER.repeat(REQUEST_BYTES / 2)].concat();
        repeat(2, 100, move || attacker.heavy_requests(4, &ask))
    }),
    ("huge_requests", |attacker| {
        let ask = EMPTY_MATCHER.repeat(8 << 20);
        repeat(2, 100, move || attacker.heavy_requests(1, &ask))
    }),
    ("unfinished_requests", |attacker| repeat(2, 100, move || attacker.unfinished_requests(40, REQUEST_BYTES))),
    ("idle_connections", |attacker| repeat(100, 300, move || attacker.idle())),
    ("closed_windows", |attacker| repeat(4, 100, move || attacker.closed_windows(16))),
    ("bare_connections", |attacker| repeat(200, 64, move || attacker.connect())),
];

/// Attacks for a while; returns what was not as it should be.
fn phase(name: &str, attacks: &[(&str, Attack)]) -> Vec<String> {
    let seconds = std::env::var("PILLION_ATTACK_SECONDS").map_or(6, |text| text.parse().expect("a number of seconds"));
    let arena = Arena::start(&[]);
    arena.flood_attackers();
    let running: Vec<_> = attacks.iter().map(|(name, start)| (name, start(arena.attacker()))).collect();
    let begun = Instant::now();
    let (address, time) = (arena.sidecar.grpc, Duration::from_secs(seconds));
    // Each second a large answer on an old connection, and a client that is new.
    let others = spawn_thread("honest", None, move || {
        let established = Store::connect(address);
        let (mut n_calls, mut failed) = (0, Vec::new());
        while begun.elapsed() < time {
            let asked = Instant::now();
            failed.extend(thousand_series(&established, PATIENCE).err().map(|err| format!("series: {err}")));
            failed.extend(info(&Store::connect(address), PATIENCE).err().map(|err| format!("newcomer: {err}")));
            n_calls += 2;
            while asked.elapsed() < Duration::from_secs(1) {
                pause();
            }
        }
        (n_calls, failed)
    })
    .unwrap();
    let (mut took, mut wrong) = (Vec::new(), Vec::new());
    while begun.elapsed() < time {
        let asked = Instant::now();
        wrong.extend(info(&arena.established, PATIENCE).err().map(|err| format!("info: {err}")));
        took.push(asked.elapsed());
        pause();
    }
    let (n_others, failed) = others.join().unwrap();
    wrong.extend(failed);
    let n_rounds: Vec<_> = running.iter().map(|(name, running)| format!("{name} {}", running.n_rounds())).collect();
    let n_failed = wrong.len();
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)];
    let (p99, rss, files) = (at(99), status(arena.sidecar.pid(), "VmHWM"), arena.files_peak());
    eprintln!(
        "attack: {name} for {seconds} s ({} rounds): {} info calls: p50 {:?}, p99 {p99:?}, max {:?}; {n_others} others; \
         {n_failed} failed; peaks of {} MiB and {files} descriptors",
        n_rounds.join(", "),
        took.len(),
        at(50),
        at(100),
        rss >> 20,
    );
    if p99 >= INFO_P99_MAX {
        wrong.push(format!("p99 of info is {p99:?}"));
    }
    if rss >= RSS_BYTES_MAX {
        wrong.push(format!("{} MiB", rss >> 20));
    }
    if files >= FILES_MAX {
        wrong.push(format!("{files} descriptors"));
    }
    if running.iter().any(|(_, running)| running.n_rounds() == 0) {
        wrong.push("an attack did not take place".into());
    }
    // The attackers end before what they attack.
    drop(running);
    wrong.into_iter().map(|text| format!("{name}: {text}")).collect()
}

#[test]
fn one_client_costs_little_and_others_are_served() {
    let mut wrong: Vec<_> = ATTACKS.iter().flat_map(|attack| phase(attack.0, &[*attack])).collect();
    wrong.extend(phase("all_together", &ATTACKS));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn peers_that_answer_nothing_are_gone_soon() {
    let arena = Arena::start(&[]);
    arena.flood_attackers();
    // As a stopped process does, these keep their connections and never read again.
    let frozen = [arena.attacker().idle(), arena.attacker().closed_windows(4)];
    assert!(frozen.iter().all(Option::is_some), "the attack did not take place");
    let begun = Instant::now();
    arena.sidecar.wait_metric("pillion_grpc_connections", |n| n >= 3.0);
    arena.prometheus.reads.recv_timeout(PATIENCE).unwrap();
    let is_gone = || arena.sidecar.metric("pillion_grpc_connections") <= 1.0;
    let mut gone = is_gone();
    while !gone && begun.elapsed() < FROZEN_MAX {
        info(&arena.established, PATIENCE).unwrap();
        pause();
        gone = is_gone();
    }
    eprintln!("attack: frozen peers: gone: {gone} after {:?}", begun.elapsed());
    assert!(gone, "they are there after {:?}", begun.elapsed());
    // Their calls ended with them.
    arena.prometheus.hang_ups.recv_timeout(PATIENCE).unwrap();
}
