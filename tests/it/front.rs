//! The gRPC front door with the real gRPC core behind it: honest clients, careless ones and attackers, over real
//! sockets. What an attack may cost is measured in `budgets`.

mod server;

use std::io::Write;
use std::net::Shutdown;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::support::raw::{self, GOAWAY, Raw, acknowledgement, frame, greeting, message, open_call, reset};
use pillion::inside::{Connections, Front, Metrics};
use pillion_base::threads::spawn_thread;
use server::{Behind, Caller, MESSAGE_BYTES};

const PATIENCE: Duration = Duration::from_secs(20);

/// The tests measure memory and time, so they run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn calls_and_large_answers_pass() {
    let _alone = alone();
    let behind = Behind::start(|front| front);
    let caller = Caller::new(behind.address);
    for n in 0..300 {
        let text = "x".repeat(n * 100);
        assert_eq!(caller.say(&text).unwrap(), text);
    }
    assert_eq!(caller.pour(1600).unwrap(), 1600 * MESSAGE_BYTES);
    let many: Vec<_> = (0..8)
        .map(|_| {
            let address = behind.address;
            spawn_thread("caller", None, move || Caller::new(address).pour(200).unwrap()).unwrap()
        })
        .collect();
    for caller in many {
        assert_eq!(caller.join().unwrap(), 200 * MESSAGE_BYTES);
    }
    for reason in pillion::inside::FRONT_REASONS {
        assert_eq!(behind.refused(reason), 0, "{reason}");
    }
    drop(caller);
    behind.wait_until("connections are forgotten", || behind.connections.n_open() == 0);
    assert_eq!(behind.metrics.connections.get(), 0);
}

#[test]
fn a_busy_querier_is_not_taken_for_an_attacker() {
    let _alone = alone();
    let behind = Behind::start(|front| front);
    let querier = Caller::new(behind.address);
    // More calls at once than the server allows streams: the client holds some back until others have ended.
    for _ in 0..5 {
        assert_eq!(querier.say_all(700), 700);
    }
    for _ in 0..3 {
        querier.pour_and_cancel(25);
        // All have begun, and all have noticed that nobody listens any more.
        let told: Vec<bool> = (0..50).map(|_| behind.pours.recv_timeout(PATIENCE).unwrap()).collect();
        assert_eq!(told.iter().filter(|began| **began).count(), 25);
    }
    assert_eq!(querier.say("still the same connection").unwrap(), "still the same connection");
    assert_eq!(behind.metrics.accepted.get(), 1);
    for reason in pillion::inside::FRONT_REASONS {
        assert_eq!(behind.refused(reason), 0, "{reason}");
    }
}

#[test]
fn a_call_can_be_traced_to_its_client() {
    let _alone = alone();
    let behind = Behind::start(|front| front);
    let mut raw = Raw::open(behind.address);
    raw.send(&[open_call(1, "/test.Echo/Say"), message(1, b"peer")].concat());
    let answer = raw.wait_for(|kind, _, _| kind == 0);
    let answer = String::from_utf8(answer[5..].to_vec()).unwrap();
    let fd = answer.strip_prefix("fd:").and_then(|rest| rest.strip_suffix(';')).expect(&answer).parse().unwrap();
    assert_eq!(behind.connections.peer(fd), Some(raw.0.local_addr().unwrap()));
    assert_eq!(behind.connections.peer(-1), None);
}

#[derive(Debug)]
enum Leave {
    Reset,
    HalfClose,
}

#[test]
fn a_client_that_vanishes_ends_its_call_at_once() {
    let _alone = alone();
    let behind = Behind::start(|front| front);
    for how in [Leave::Reset, Leave::HalfClose] {
        let mut raw = Raw::open(behind.address);
        raw.send(&[open_call(1, "/test.Echo/Pour"), message(1, b"")].concat());
        assert_eq!(behind.pours.recv_timeout(PATIENCE), Ok(true));
        raw.wait_for(|kind, _, _| kind == 0);
        assert!(behind.pours.try_recv().is_err(), "the call must wait for its client");
        let begun = Instant::now();
        let stays = match how {
            // Bytes that were not read turn the close into a reset.
            Leave::Reset => {
                drop(raw);
                None
            }
            // The client stays and reads nothing: only its end of input says that it is gone.
            Leave::HalfClose => raw.0.shutdown(Shutdown::Write).map(|()| raw).ok(),
        };
        assert_eq!(behind.pours.recv_timeout(PATIENCE), Ok(false), "{how:?}");
        assert!(begun.elapsed() < Duration::from_millis(500), "{how:?}: {:?}", begun.elapsed());
        drop(stays);
    }
    behind.wait_until("connections are forgotten", || behind.connections.n_open() == 0);
}

#[test]
fn a_handshake_that_is_not_finished_is_cut_off() {
    let _alone = alone();
    let timeout = Duration::from_millis(500);
    let behind = Behind::start(|front| front.with_limits(256, 64, timeout));
    let begun = Instant::now();
    let mut honest = Raw::open(behind.address);
    let mut silent = Raw::connect(behind.address);
    let mut dripping = Raw::connect(behind.address);
    dripping.send(&greeting()[..10]);
    let mut never_acknowledges = Raw::connect(behind.address);
    never_acknowledges.send(&[greeting(), open_call(1, "/test.Echo/Say"), message(1, b"x")].concat());
    assert!(silent.until_closed().is_empty());
    assert!(dripping.until_closed().is_empty());
    assert!(!never_acknowledges.until_closed().is_empty());
    let took = begun.elapsed();
    assert!(took >= timeout && took < Duration::from_secs(5), "{took:?}");
    behind.wait_until("all are counted", || behind.refused("handshake") == 2 && behind.refused("settings_ack") == 1);
    assert!(honest.is_served());
}

#[test]
fn what_is_not_http2_never_reaches_the_core() {
    let _alone = alone();
    let behind = Behind::start(|front| front);
    for bytes in [&b"GET /metrics HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut raw = Raw::connect(behind.address);
        raw.send(bytes);
        assert!(raw.until_closed().is_empty());
    }
    behind.wait_until("both are counted", || behind.refused("protocol") == 2);
    assert_eq!(behind.connections.n_open(), 0);
}

#[test]
fn half_open_clients_make_room() {
    let _alone = alone();
    let behind = Behind::start(|front| front.with_limits(256, 8, PATIENCE));
    let mut silent: Vec<Raw> = Vec::new();
    for _ in 0..20 {
        silent.push(Raw::connect(behind.address));
    }
    let caller = Caller::new(behind.address);
    assert_eq!(caller.say("hello").unwrap(), "hello");
    // The oldest had to go, and the youngest may stay.
    silent.first_mut().unwrap().until_closed();
    behind.wait_until("they are counted", || behind.refused("handshake") >= 12);
    let mut last = silent.pop().unwrap();
    last.send(&greeting());
    last.wait_for(|kind, flags, _| (kind, flags) == (raw::SETTINGS, 0));
    last.send(&acknowledgement());
    assert!(last.is_served());
}

#[test]
fn connections_have_a_cap() {
    let _alone = alone();
    let behind = Behind::start(|front| front.with_limits(3, 3, PATIENCE));
    let mut open: Vec<Raw> = (0..3).map(|_| Raw::open(behind.address)).collect();
    let begin_call = |raw: &mut Raw| {
        raw.send(&[open_call(1, "/test.Echo/Pour"), message(1, b"")].concat());
        assert_eq!(behind.pours.recv_timeout(PATIENCE), Ok(true));
    };
    // The one that has been idle for longest gives way, not one with a call.
    begin_call(&mut open[0]);
    open.push(Raw::open(behind.address));
    assert_eq!(open.remove(1).until_closed().last(), Some(&GOAWAY));
    assert_eq!(behind.refused("connections"), 1);
    assert!(open.iter_mut().all(Raw::is_served));
    begin_call(&mut open[1]);
    begin_call(&mut open[2]);
    // None can be spared for one of the same address.
    let mut late = Raw::connect(behind.address);
    late.send(&greeting());
    assert!(late.until_closed().is_empty());
    assert_eq!(behind.refused("connections"), 2);
    open.pop();
    behind.wait_until("there is room", || behind.connections.n_open() == 2);
    assert!(Raw::open(behind.address).is_served());
}

#[test]
fn floods_and_oversized_frames_are_closed() {
    let _alone = alone();
    let floods: [(&str, Vec<u8>, &str); 4] = [
        ("ping", frame(6, 0, 0, &[0; 8]).repeat(5000), "abuse"),
        ("settings", frame(4, 0, 0, &[]).repeat(5000), "abuse"),
        ("streams", (0..400).flat_map(|n| open_call(2 * n + 1, "/test.Echo/Say")).collect(), "abuse"),
        ("frame", frame(0, 0, 1, &vec![0; (1 << 24) - 1]), "protocol"),
    ];
    for (name, bytes, reason) in floods {
        let behind = Behind::start(|front| front);
        let honest = Caller::new(behind.address);
        honest.say("before").unwrap();
        let mut raw = Raw::open(behind.address);
        // The server may close while this is being sent.
        let _ = raw.0.write_all(&bytes);
        behind.wait_until(name, || behind.refused(reason) == 1);
        while raw.receive().is_some() {}
        assert_eq!(honest.say("after").unwrap(), "after");
    }
}

#[test]
fn an_abuser_is_told_to_calm_down() {
    let _alone = alone();
    let behind = Behind::start(|front| front);
    let mut raw = Raw::open(behind.address);
    for n in 0..1200 {
        let stream = 2 * n + 1;
        if raw.0.write_all(&[open_call(stream, "/test.Echo/Say"), reset(stream)].concat()).is_err() {
            break;
        }
    }
    assert_eq!(raw.until_closed().last(), Some(&GOAWAY));
    behind.wait_until("it is counted", || behind.refused("abuse") == 1);
}

#[test]
fn a_port_in_use_is_said_plainly() {
    let _alone = alone();
    let connections = Connections::new(1024, Metrics::new().grpc.front).unwrap();
    let first = Front::bind(&"127.0.0.1:0".parse().unwrap(), connections.clone()).unwrap();
    let address = first.local_addr().unwrap();
    let err = Front::bind(&address.to_string().parse().unwrap(), connections).err().expect("the port is taken");
    let reason = "address already in use; stop the other process or change --grpc-address";
    assert_eq!(err.to_string(), format!("listen gRPC on address {address}: {reason}"));
}

#[test]
fn a_stop_spares_running_connections_until_they_are_closed() {
    let _alone = alone();
    let mut behind = Behind::start(|front| front);
    let mut running = Raw::open(behind.address);
    running.send(&[open_call(1, "/test.Echo/Pour"), message(1, b"")].concat());
    assert_eq!(behind.pours.recv_timeout(PATIENCE), Ok(true));
    let mut waiting = Raw::connect(behind.address);
    let begun = Instant::now();
    behind.stop();
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert!(std::net::TcpStream::connect(behind.address).is_err());
    assert!(waiting.until_closed().is_empty());
    assert!(running.is_served());
    behind.connections.close_all();
    assert_eq!(behind.pours.recv_timeout(PATIENCE), Ok(false));
    behind.wait_until("connections are forgotten", || behind.connections.n_open() == 0);
    while running.receive().is_some() {}
}
