//! What hostile clients may cost the real binary, each attack for a few seconds, and that honest clients are served
//! meanwhile. The same attacks at length, and all together, are in the program `attacks`.

mod cancels;
pub(crate) mod stops;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pillion_proto::grpc_reflection_v1::ServerReflectionRequest;
use pillion_proto::grpc_reflection_v1::server_reflection_request::Message_request;
use pillion_proto::thanos_store::LabelValuesRequest;
use protobuf::Message as _;

use crate::support::arena::{Arena, Served, info};
use crate::support::attackers::{EMPTY_LABEL, EMPTY_MATCHER, HOSTILE, repeat, series_request};
use crate::support::fake_prometheus::Read_;
use crate::support::figures::status;
use crate::support::raw::{DATA, HEADERS, Raw, message, open_call};
use crate::support::sidecar::{PATIENCE, pause};
use crate::support::store_client::{Store, options, request};

/// What an honest call may take on a loaded machine. Those that an attack stops are stopped for minutes.
const CALL: Duration = Duration::from_secs(5);
const MIB: usize = 1 << 20;

/// The attacks measure memory and load the machine, so they run one after the other.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn calls_without_a_request_stop_nobody() {
    let _alone = alone();
    let arena = Arena::start(&[]);
    let held = [64, 200].map(|n| arena.attacker().headers_without_body(n));
    assert!(held[0].is_some(), "the attack did not take place");
    arena.conclude("calls without a request", &arena.serve(CALL));
}

#[test]
fn hanging_up_leaves_nothing_behind() {
    let _alone = alone();
    let arena = Arena::start(&[]);
    arena.flood_attackers();
    let attacker = arena.attacker();
    let running = repeat(40, 0, move || attacker.hang_up(300));
    let begun = Instant::now();
    let mut served = Served::default();
    while begun.elapsed() < Duration::from_secs(5) {
        // The backlog of this attack makes calls slow before it makes them fail.
        served = served.and(arena.serve(CALL / 2));
    }
    let n_rounds = running.n_rounds();
    drop(running);
    eprintln!("attack: hanging up: {n_rounds} connections");
    assert!(n_rounds > 20, "the attack did not take place");
    arena.conclude("hanging up", &served);
}

#[test]
fn a_request_cannot_cost_much_more_than_its_bytes() {
    let _alone = alone();
    let arena = Arena::start(&[]);
    let code = |ask: &[u8]| i32::from(arena.established.series_of_bytes(ask, options().timeout(CALL)).code());
    let (exhausted, invalid) = (8, 3);
    let mut codes = Vec::new();
    for (what, filling) in [("matchers", EMPTY_MATCHER), ("labels", EMPTY_LABEL)] {
        for bytes in [MIB - 64 * 1024, 4 * MIB, 16 * MIB] {
            codes.push((what, bytes, code(&[series_request(), filling.repeat(bytes / 2)].concat())));
        }
    }
    // One that is large and honest, such as a list of a thousand hosts.
    let hosts = (0..20_000).map(|n| format!("host-{n:05}")).collect::<Vec<_>>().join("|");
    let large = arena.established.series_with(&request(&[("host", "=~", &hosts)]), options().timeout(CALL));
    let served = arena.serve(CALL);
    eprintln!(
        "attack: large requests: codes {codes:?}, honest {:?}, {} MiB",
        large.status,
        status(arena.sidecar.pid(), "VmHWM") >> 20
    );
    for (what, bytes, code) in codes {
        // Labels below the limit harm nobody, whatever is thought of them.
        let allowed: &[i32] = match (what, bytes > MIB) {
            (_, true) => &[exhausted],
            ("matchers", false) => &[exhausted, invalid],
            _ => &[exhausted, invalid, 0],
        };
        assert!(allowed.contains(&code), "{bytes} bytes of {what} end with {code}");
    }
    assert_eq!(large.ok().series.len(), 1000);
    arena.conclude("large requests", &served);
}

#[test]
fn many_heavy_requests_at_once_are_bounded_together() {
    let _alone = alone();
    let arena = Arena::start(&[]);
    // Prometheus thinks about them for ever, and what waits for a thread is held as it was decoded.
    arena.prometheus.set(|state| state.reads_by_matcher.push((HOSTILE.into(), 0, Read_::Stall(vec![]))));
    let ask = [series_request(), EMPTY_LABEL.repeat((MIB - 64 * 1024) / 2)].concat();
    let poured: Vec<_> = (0..2).filter_map(|_| arena.attacker().heavy_requests(50, &ask)).collect();
    let n_taken: usize = poured.iter().map(|poured| poured.n_taken).sum();
    eprintln!("attack: heavy requests at once: {n_taken} bytes taken");
    assert!(n_taken > 0, "the attack did not take place");
    arena.conclude("heavy requests at once", &arena.serve(CALL));
}

#[test]
fn requests_that_never_end_are_bounded_together() {
    let _alone = alone();
    let arena = Arena::start(&[]);
    let attacker = arena.attacker();
    // Within the limit of one request, and far past it.
    let mut poured: Vec<_> = (0..3).filter_map(|_| attacker.unfinished_requests(100, MIB - 64 * 1024)).collect();
    poured.extend(attacker.unfinished_requests(60, 10 * MIB));
    let n_taken: usize = poured.iter().map(|poured| poured.n_taken).sum();
    eprintln!("attack: unfinished requests: {n_taken} bytes taken");
    assert!(n_taken > 0, "the attack did not take place");
    arena.conclude("unfinished requests", &arena.serve(CALL));
}

#[test]
fn idle_connections_make_room() {
    let _alone = alone();
    let arena = Arena::start(&[]);
    // Idle for longer than any of the attacker's, and one of few of its address.
    let mut oldest = Raw::open(arena.sidecar.grpc);
    let held: Vec<_> = (0..280).filter_map(|_| arena.attacker().idle()).collect();
    eprintln!("attack: idle connections: {} were opened", held.len());
    assert!(held.len() >= 200, "the attack did not take place");
    let served = (0..3).fold(Served::default(), |served, _| served.and(arena.serve(CALL)));
    arena.conclude("idle connections", &served);
    assert!(oldest.is_served(), "a client of another address had to go");
}

#[test]
fn closed_windows_stop_nobody() {
    let _alone = alone();
    let arena = Arena::start(&[]);
    arena.flood_attackers();
    let held = [16, 100].map(|n| arena.attacker().closed_windows(n));
    assert!(held[0].is_some(), "the attack did not take place");
    // As many as there are threads for calls, unless the server has let fewer through.
    let begun = Instant::now();
    let mut n_reads = 0;
    while n_reads < 16 && begun.elapsed() < Duration::from_secs(1) {
        n_reads += usize::from(arena.prometheus.reads.recv_timeout(Duration::from_millis(100)).is_ok());
    }
    // Answers that nobody reads are put aside first, and the machine may be busy.
    let served = arena.serve(2 * CALL);
    eprintln!("attack: closed windows: {n_reads} reads for the attacker");
    assert!(n_reads > 0, "the attack did not take place");
    arena.conclude("closed windows", &served);
}

#[test]
fn answers_that_are_left_lying_are_bounded_together() {
    let _alone = alone();
    let arena = Arena::start(&[]);
    let value = format!("\"{}\"", "x".repeat(2 * MIB));
    let values = format!(r#"{{"status":"success","data":[{value}]}}"#);
    arena.prometheus.set(|state| state.overrides.push(("/api/v1/label/job/".into(), 200, values)));
    let ask = LabelValuesRequest { label: "job".into(), ..Default::default() }.write_to_bytes().unwrap();
    let held: Vec<_> = (0..3).map(|_| arena.attacker().leave_lying(60, "/thanos.Store/LabelValues", &ask)).collect();
    assert!(held[0].is_some(), "the attack did not take place");
    // Each has as many threads as there are, and the others wait.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        info(&arena.established, CALL).unwrap();
        pause();
    }
    arena.conclude("answers left lying", &arena.serve(CALL));
}

#[test]
fn what_is_compressed_is_refused_before_it_grows() {
    let _alone = alone();
    let arena = Arena::start(&[]);
    let store = Store::connect_compressing(arena.sidecar.grpc);
    let large = request(&[("job", "=", &"x".repeat(200 * MIB))]);
    let codes =
        [request(&[("job", "=", "x")]), large].map(|ask| store.series_with(&ask, options().timeout(CALL)).code());
    eprintln!("attack: compressed requests: codes {codes:?}");
    // UNIMPLEMENTED, however small it is.
    assert_eq!(codes, [12, 12]);
    arena.conclude("compressed requests", &arena.serve(CALL));
}

#[test]
fn questions_about_names_are_short() {
    let _alone = alone();
    let arena = Arena::start(&[]);
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let mut raw = Raw::open(arena.sidecar.grpc);
    let question = |name: &str| {
        let question = Message_request::FileContainingSymbol(name.into());
        ServerReflectionRequest { message_request: Some(question), ..Default::default() }.write_to_bytes().unwrap()
    };
    raw.send(&[open_call(1, reflection), message(1, &question("thanos.Store"))].concat());
    assert!(raw.wait_for(|kind, _, _| kind == DATA).len() > 1000);
    raw.send(&[open_call(3, reflection), message(3, &question(&"x".repeat(10_000)))].concat());
    let trailers = |kind: u8, flags: u8, block: &[u8]| {
        kind == HEADERS && flags & 1 == 1 && block.windows(4).any(|text| text == b"long")
    };
    raw.wait_for(trailers);
    // Past the bound the oldest conversation ends, and a new one is served.
    let held = arena.attacker().leave_lying(100, reflection, &question("thanos.Store"));
    assert!(held.is_some(), "the attack did not take place");
    raw.send(&[open_call(5, reflection), message(5, &question("thanos.Store"))].concat());
    assert!(raw.wait_for(|kind, _, _| kind == DATA).len() > 1000);
    arena.conclude("conversations", &arena.serve(CALL));
}

#[test]
fn bare_connections_keep_no_neighbour_out() {
    let _alone = alone();
    let arena = Arena::start(&[]);
    let neighbour = arena.attacker_from(IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert!(neighbour.rapid_reset(), "abuse was not noticed");
    let running = repeat(200, 32, move || neighbour.connect());
    let deadline = Instant::now() + PATIENCE;
    while running.n_rounds() < 200 {
        assert!(Instant::now() < deadline, "the attack did not take place");
        pause();
    }
    let mut waited = Vec::new();
    for _ in 0..3 {
        let asked = Instant::now();
        let newcomer = Store::connect(arena.sidecar.grpc);
        let answer = newcomer.info_with(options().timeout(2 * CALL));
        waited.push(asked.elapsed());
        eprintln!("attack: bare connections: {} so far, newcomers waited {waited:?}", running.n_rounds());
        answer.expect("a new client is let in");
    }
    drop(running);
    arena.conclude("bare connections", &Served::default());
}
