//! Rule tests of the guard: byte streams as clients and servers send them, whole and at every split.

use super::*;

const FAST: Rules = Rules {
    streams_max: 4,
    resets: Rate { burst: 5.0, per_second: 1.0 },
    control: Rate { burst: 5.0, per_second: 1.0 },
    request_bytes_max: 10_000,
    unfinished_bytes_max: 50_000,
    handshake_timeout: Duration::from_secs(10),
};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn hello() -> Vec<u8> {
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])].concat()
}

fn ack() -> Vec<u8> {
    frame(SETTINGS, 1, 0, &[])
}

fn request(stream: u32) -> Vec<u8> {
    [frame(HEADERS, 0x4, stream, b"fields"), frame(DATA, 0x1, stream, b"\0\0\0\0\0")].concat()
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
}

fn ids(n: u32) -> impl Iterator<Item = u32> {
    (0..n).map(|n| 2 * n + 1)
}

/// The verdict on `bytes` after `hello`, the same whole and at every split.
#[track_caller]
fn check(rules: Rules, bytes: &[u8], expected: &str) {
    let now = Instant::now();
    let bytes = [hello(), bytes.to_vec()].concat();
    let stride = (bytes.len() / 400).max(1);
    for split in (0..=bytes.len()).step_by(stride) {
        let mut guard = Guard::new(rules, now);
        assert_eq!(guard.server(now, &frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 4])), Verdict::Pass);
        let (first, second) = bytes.split_at(split);
        let verdict = match guard.client(now, first) {
            Verdict::Pass => guard.client(now, second),
            closed => closed,
        };
        assert_eq!(name(verdict), expected, "split at {split}");
        assert_eq!(guard.client(now, b""), verdict, "a verdict must last");
    }
}

fn name(verdict: Verdict) -> String {
    match verdict {
        Verdict::Pass => "pass".into(),
        Verdict::Close { reason, text } => format!("{reason}: {text}"),
    }
}

#[test]
fn honest_beginnings_pass() {
    check(FAST, &[], "pass");
    check(FAST, &[ack(), request(1), request(3), frame(PING, 0, 0, &[0; 8])].concat(), "pass");
    check(FAST, &frame(HEADERS, 0x25, 1, &[0; 9000]), "pass");
    check(FAST, &frame(GOAWAY, 0, 0, &[0; 8]), "pass");
}

#[test]
fn a_wrong_preface_is_refused_at_the_first_wrong_byte() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PRI * HTTP/1"] {
        let mut guard = Guard::new(FAST, Instant::now());
        assert_eq!(name(guard.client(Instant::now(), bytes)), "protocol: the client does not speak HTTP/2");
    }
    let mut guard = Guard::new(FAST, Instant::now());
    assert_eq!(guard.client(Instant::now(), b"PRI * HTTP/2.0\r\n"), Verdict::Pass);
}

#[test]
fn broken_framing_is_refused() {
    let cases: [(Vec<u8>, &str); 14] = [
        (frame(DATA, 0, 0, b"x"), "a stream frame on stream 0"),
        (frame(HEADERS, 4, 0, b"x"), "a stream frame on stream 0"),
        (frame(RST_STREAM, 0, 0, &[0; 4]), "a stream frame on stream 0"),
        (frame(SETTINGS, 0, 1, &[]), "a connection frame on a stream"),
        (frame(PING, 0, 1, &[0; 8]), "a connection frame on a stream"),
        (frame(PING, 0, 0, &[0; 7]), "PING of a wrong size"),
        (frame(RST_STREAM, 0, 1, &[0; 5]), "RST_STREAM of a wrong size"),
        (frame(SETTINGS, 0, 0, &[0; 7]), "SETTINGS of a wrong size"),
        (frame(WINDOW_UPDATE, 0, 0, &[0; 3]), "WINDOW_UPDATE of a wrong size"),
        (frame(PUSH_PROMISE, 4, 1, &[0; 8]), "PUSH_PROMISE from a client"),
        (frame(HEADERS, 4, 2, b"x"), "a client's stream has an even number"),
        (frame(CONTINUATION, 4, 1, b"x"), "a header block is interrupted or continued without a beginning"),
        (
            [frame(HEADERS, 0, 1, b"x"), frame(DATA, 1, 1, b"x")].concat(),
            "a header block is interrupted or continued without a beginning",
        ),
        (
            [frame(HEADERS, 0, 1, b"x"), frame(CONTINUATION, 4, 3, b"x")].concat(),
            "a header block is continued on another stream",
        ),
    ];
    for (bytes, text) in cases {
        check(FAST, &bytes, &format!("protocol: {text}"));
    }
    let mut guard = Guard::new(FAST, Instant::now());
    let early = [PREFACE.to_vec(), request(1)].concat();
    assert_eq!(name(guard.client(Instant::now(), &early)), "protocol: the first frame is not SETTINGS");
}

#[test]
fn too_many_open_streams_are_refused_and_ended_ones_do_not_count() {
    let open = |n: u32| ids(n).flat_map(request).collect::<Vec<_>>();
    let few = |n| [ack(), open(n)].concat();
    check(FAST, &few(4), "pass");
    check(FAST, &few(5), "abuse: more streams are open than announced");
    check(FAST, &open(4 + STREAMS_SLACK), "pass");
    check(FAST, &open(5 + STREAMS_SLACK), "abuse: more streams are open than announced");

    let now = Instant::now();
    let mut guard = Guard::new(FAST, now);
    guard.client(now, &hello());
    guard.server(now, &frame(SETTINGS, 0, 0, &[]));
    guard.client(now, &ack());
    for stream in ids(1000) {
        assert_eq!(guard.client(now, &request(stream)), Verdict::Pass);
        assert_eq!(guard.server(now, &frame(HEADERS, 0x5, stream, b"trailers")), Verdict::Pass);
        assert_eq!(guard.n_open(), 0);
    }
}

#[test]
fn resets_are_paid_for() {
    let resets = |n: u32| ids(n).flat_map(|id| [request(id), reset(id)].concat()).collect::<Vec<_>>();
    check(FAST, &resets(5), "pass");
    check(FAST, &resets(6), "abuse: streams are reset too fast");

    let start = Instant::now();
    let mut guard = Guard::new(Rules::NORMAL, start);
    guard.client(start, &hello());
    // A querier that cancels fifty calls every three seconds is honest.
    let mut stream = 1;
    for round in 0..20 {
        let now = start + Duration::from_secs(3 * round);
        for _ in 0..50 {
            assert_eq!(guard.client(now, &[request(stream), reset(stream)].concat()), Verdict::Pass);
            stream += 2;
        }
        assert_eq!((guard.take_resets(), guard.take_resets()), (50, 0));
    }
}

#[test]
fn a_client_that_makes_the_server_reset_pays_too() {
    let now = Instant::now();
    let mut guard = Guard::new(FAST, now);
    guard.client(now, &hello());
    let with_code = |code: u8| frame(RST_STREAM, 0, 1, &[0, 0, 0, code]);
    let harmless = [with_code(0).repeat(50), with_code(8).repeat(50)].concat();
    assert_eq!(guard.server(now, &harmless), Verdict::Pass);
    assert_eq!(guard.server(now, &with_code(1).repeat(5)), Verdict::Pass);
    assert_eq!(name(guard.server(now, &with_code(1))), "abuse: streams are reset too fast");
}

#[test]
fn floods_of_empty_work_are_refused() {
    let floods = [
        frame(PING, 0, 0, &[0; 8]),
        frame(PING, 1, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(SETTINGS, 1, 0, &[]),
        frame(PRIORITY, 0, 1, &[0; 5]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(DATA, 0, 1, &[]),
        frame(DATA, 0, 1, b"tiny"),
        frame(DATA, 1, 1, &[]),
        frame(DATA, 0, 9, &[0; 100]),
        frame(99, 0, 0, b"unknown"),
    ];
    for flood in floods {
        // Five tokens and one that the server's SETTINGS earned; one went into the SETTINGS of the greeting.
        check(FAST, &flood.repeat(5), "pass");
        check(FAST, &flood.repeat(6), "abuse: too many control frames");
    }
    let continuations = [frame(HEADERS, 0, 1, b"x"), frame(CONTINUATION, 0, 1, b"").repeat(6)].concat();
    check(FAST, &continuations, "abuse: too many control frames");
    check(FAST, &frame(SETTINGS, 0, 0, &[0; 6 * 65]), "abuse: SETTINGS with too many entries");
}

#[test]
fn answers_to_what_the_server_sends_are_free() {
    let now = Instant::now();
    let mut guard = Guard::new(FAST, now);
    guard.client(now, &[hello(), request(1)].concat());
    let answer = [
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 1, 0]),
        frame(PING, 0, 0, &[0; 8]),
    ]
    .concat();
    for _ in 0..10_000 {
        assert_eq!(guard.server(now, &frame(DATA, 0, 1, &[0; 100])), Verdict::Pass);
        assert_eq!(guard.client(now, &answer), Verdict::Pass);
    }
    for _ in 0..1000 {
        assert_eq!(guard.server(now, &frame(PING, 0, 0, &[0; 8])), Verdict::Pass);
        assert_eq!(guard.client(now, &frame(PING, 1, 0, &[0; 8])), Verdict::Pass);
    }
    // The answers to a client's own pings are no income.
    let mut verdict = Verdict::Pass;
    for _ in 0..7 {
        guard.server(now, &frame(PING, 1, 0, &[0; 8]));
        verdict = guard.client(now, &frame(PING, 0, 0, &[0; 8]));
    }
    assert_eq!(name(verdict), "abuse: too many control frames");
}

#[test]
fn a_fast_reader_of_small_messages_is_honest() {
    let now = Instant::now();
    let mut guard = Guard::new(FAST, now);
    guard.client(now, &[hello(), request(1)].concat());
    // The server packs hundreds of messages into one frame, and the client updates both windows for each.
    let message_bytes = 64;
    let updates = [frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 64]), frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 64])].concat();
    for _ in 0..100 {
        assert_eq!(guard.server(now, &frame(DATA, 0, 1, &vec![0; 256 * message_bytes])), Verdict::Pass);
        for _ in 0..256 {
            assert_eq!(guard.client(now, &updates), Verdict::Pass);
        }
    }
    // DATA pays for the updates of windows, and for nothing else.
    assert_eq!(guard.server(now, &frame(DATA, 0, 1, &[0; 10_000])), Verdict::Pass);
    let pings = frame(PING, 0, 0, &[0; 8]).repeat(1000);
    assert_eq!(name(guard.client(now, &pings)), "abuse: too many control frames");
}

#[test]
fn what_data_pays_for_is_bounded() {
    let now = Instant::now();
    let mut guard = Guard::new(Rules { control: Rate { burst: 5.0, per_second: 1.0 }, ..FAST }, now);
    guard.client(now, &[hello(), request(1)].concat());
    let large = frame(DATA, 0, 1, &vec![0; 1 << 20]);
    for _ in 0..100 {
        assert_eq!(guard.server(now, &large), Verdict::Pass);
    }
    let n_free = UNANSWERED_BYTES_MAX / DATA_BYTES_PER_UPDATE;
    let update = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    for _ in 0..n_free {
        assert_eq!(guard.client(now, &update), Verdict::Pass);
    }
    assert_eq!(name(guard.client(now, &update.repeat(400))), "abuse: too many control frames");
}

#[test]
fn the_frame_size_is_what_the_server_announced() {
    let now = Instant::now();
    let large = frame(DATA, 0, 1, &[0; 16_385]);
    check(FAST, &large, "protocol: a frame is larger than announced");
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 4, 0, 5, 0, 0, 0x60, 0, 0, 4, 0, 1, 0, 0]);
    for split in 0..=settings.len() {
        let mut guard = Guard::new(FAST, now);
        let (first, second) = settings.split_at(split);
        guard.server(now, first);
        guard.server(now, second);
        guard.client(now, &[hello(), request(1)].concat());
        assert_eq!(guard.client(now, &large), Verdict::Pass, "split at {split}");
    }
}

#[test]
fn a_header_block_has_a_size() {
    let block = |n: usize| [frame(HEADERS, 0, 1, &[0; 16_384]), frame(CONTINUATION, 0, 1, &[0; 16_384]).repeat(n)];
    check(FAST, &block(3).concat(), "pass");
    check(FAST, &block(4).concat(), "abuse: a header block is too large");
}

#[test]
fn settings_must_be_acknowledged_in_time() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut guard = Guard::new(FAST, start);
    assert_eq!(guard.handshake_deadline(), Some(at(10)));
    guard.client(start, &hello());
    guard.server(at(2), &frame(SETTINGS, 0, 0, &[]));
    assert_eq!(guard.handshake_deadline(), Some(at(12)));
    assert_eq!(guard.tick(at(11)), Verdict::Pass);
    let expected = "settings_ack: SETTINGS were not acknowledged in time";
    assert_eq!(name(guard.tick(at(12))), expected);

    let mut guard = Guard::new(FAST, start);
    guard.client(start, &[hello(), ack()].concat());
    assert_eq!(name(guard.tick(at(10))), expected, "an acknowledgement of nothing counts for nothing");

    let mut guard = Guard::new(FAST, start);
    guard.client(start, &hello());
    guard.server(start, &frame(SETTINGS, 0, 0, &[]));
    guard.client(at(1), &ack());
    assert_eq!(guard.handshake_deadline(), None);
    assert_eq!(guard.tick(at(1000)), Verdict::Pass);
}

#[test]
fn random_bytes_never_panic() {
    let now = Instant::now();
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for round in 0..2000 {
        let mut guard = Guard::new(FAST, now);
        let mut bytes = hello();
        for _ in 0..200 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Mostly small bytes, so that lengths and types make sense often.
            bytes.push(if random & 0x30 == 0 { random.to_le_bytes()[1] } else { random.to_le_bytes()[1] & 0x7 });
        }
        let (first, second) = bytes.split_at(round % bytes.len());
        guard.client(now, first);
        guard.server(now, second);
        guard.client(now, second);
        assert!(guard.n_open() <= 4 + 65, "round {round}");
    }
}

/// A call that begins, and this much of its request.
fn begin(stream: u32, n: usize) -> Vec<u8> {
    let data = vec![0; n];
    let frames = data.chunks(16_000).flat_map(|piece| frame(DATA, 0, stream, piece));
    frame(HEADERS, 0x4, stream, b"fields").into_iter().chain(frames).collect()
}

fn greeted(rules: Rules, now: Instant) -> Guard {
    let mut guard = Guard::new(rules, now);
    guard.server(now, &frame(SETTINGS, 0, 0, &[]));
    guard.client(now, &[hello(), ack()].concat());
    guard
}

#[test]
fn a_request_that_is_too_large_ends_its_stream_and_not_the_connection() {
    let now = Instant::now();
    let mut guard = greeted(FAST, now);
    let most = usize::try_from(FAST.request_bytes_max + REQUEST_SLACK_BYTES).unwrap();
    assert_eq!(guard.client(now, &begin(1, most / 2)), Verdict::Pass);
    assert_eq!(guard.client(now, &frame(DATA, 0, 1, &vec![0; most - most / 2])), Verdict::Pass);
    assert_eq!((guard.n_refused(), guard.unfinished_bytes()), (0, most as u64));
    assert_eq!(guard.client(now, &frame(DATA, 0, 1, &[0; 40])[..20]), Verdict::Pass);
    assert_eq!((guard.has_refused(), guard.refused_for_server()), ((true, true), None), "not into a frame");
    assert_eq!(guard.client(now, &frame(DATA, 0, 1, &[0; 40])[20..]), Verdict::Pass);
    assert_eq!(guard.refused_for_server(), Some(1));
    assert_eq!(guard.refused_for_client(), Some(Refused { stream: 1, is_answered: false }));
    assert_eq!((guard.unfinished_bytes(), guard.n_open(), guard.take_resets()), (0, 0, 1));
    // What was on its way is passed by.
    assert_eq!(guard.client(now, &frame(DATA, 1, 1, &[0; 10_000])), Verdict::Pass);
    assert_eq!(guard.has_refused(), (false, false));
    // One that ends in time counts for nothing.
    guard.client(now, &[begin(3, most), frame(DATA, 1, 3, &[])].concat());
    assert_eq!((guard.n_refused(), guard.unfinished_bytes()), (1, 0));
    // A conversation that has been answered in part.
    guard.client(now, &begin(5, most));
    guard.client(now, &frame(DATA, 0, 5, &[0; 40]));
    guard.server(now, &frame(HEADERS, 0x4, 5, b"fields"));
    assert_eq!(guard.refused_for_client(), Some(Refused { stream: 5, is_answered: true }));
}

#[test]
fn of_many_unfinished_requests_the_largest_is_refused() {
    let now = Instant::now();
    let rules = Rules { request_bytes_max: 20_000, unfinished_bytes_max: 40_000, ..FAST };
    let mut guard = greeted(rules, now);
    guard.client(now, &[begin(1, 10_000), begin(3, 16_000), begin(5, 10_000)].concat());
    assert_eq!(guard.n_refused(), 0);
    guard.client(now, &frame(DATA, 0, 5, &[0; 5000]));
    assert_eq!((guard.n_refused(), guard.refused_for_server()), (1, Some(3)));
    assert_eq!(guard.unfinished_bytes(), 25_000);
    // What is reset, answered or abandoned is not held against anybody.
    guard.client(now, &reset(1));
    guard.server(now, &frame(HEADERS, 0x5, 5, b"trailers"));
    assert_eq!(guard.unfinished_bytes(), 0);
    guard.client(now, &begin(7, 1000));
    guard.abandon();
    assert_eq!((guard.unfinished_bytes(), guard.n_open()), (0, 0));
}

#[test]
fn calls_that_were_seen_to_their_end_pay_for_resets() {
    let now = Instant::now();
    let mut guard = greeted(FAST, now);
    for stream in ids(10) {
        guard.client(now, &request(stream));
        guard.server(now, &frame(HEADERS, 0x5, stream, b"trailers"));
    }
    assert_eq!(guard.n_completed(), 10);
    let cancelled: Vec<u8> = (10..30).flat_map(|n| [request(2 * n + 1), reset(2 * n + 1)].concat()).collect();
    let mut n_passed = 0;
    for pair in cancelled.chunks(request(1).len() + reset(1).len()) {
        n_passed += usize::from(guard.client(now, pair) == Verdict::Pass);
    }
    // Ten were paid for, and five are free.
    assert_eq!((n_passed, guard.take_resets()), (15, 6));
}

#[test]
fn a_client_that_hangs_up_has_reset_what_it_leaves() {
    let now = Instant::now();
    let mut guard = greeted(FAST, now);
    guard.client(now, &[request(1), request(3), request(5)].concat());
    guard.server(now, &frame(HEADERS, 0x5, 1, b"trailers"));
    guard.abandon();
    // The completed one pays for one of the two.
    assert_eq!((guard.take_resets(), guard.n_open()), (1, 0));
}

#[test]
fn a_reset_that_crosses_the_end_of_its_stream_throws_nothing_away() {
    let now = Instant::now();
    let mut guard = greeted(FAST, now);
    for stream in ids(5) {
        guard.client(now, &request(stream));
        guard.server(now, &frame(HEADERS, 0x5, stream, b"trailers"));
        assert_eq!(guard.client(now, &reset(stream)), Verdict::Pass);
    }
    assert_eq!(guard.take_resets(), 0);
}

#[test]
fn suspicion_ends_after_quiet() {
    let start = Instant::now();
    let cancel_all = |guard: &mut Guard, now: Instant, first: u32, n: u32| {
        let pair = |stream: u32| [request(stream), reset(stream)].concat();
        (0..n).all(|n| guard.client(now, &pair(first + 2 * n)) == Verdict::Pass)
    };
    let mut guard = greeted(Rules::SUSPECT, start);
    assert!(cancel_all(&mut guard, start, 1, 512), "all calls of a connection, twice");
    assert!(!cancel_all(&mut guard, start, 2001, 2));
    let mut guard = greeted(Rules::SUSPECT, start);
    assert!(cancel_all(&mut guard, start + PROBATION, 1, 640));
}

#[test]
fn frames_of_ours_go_between_those_of_others() {
    let now = Instant::now();
    let mut guard = Guard::new(FAST, now);
    assert_eq!(guard.client_missing(), Some(24));
    guard.client(now, &hello());
    assert_eq!(guard.client_missing(), None);
    guard.client(now, &frame(PING, 0, 0, &[0; 8])[..4]);
    assert_eq!(guard.client_missing(), Some(5));
    guard.client(now, &frame(PING, 0, 0, &[0; 8])[4..10]);
    assert_eq!(guard.client_missing(), Some(7));
    guard.client(now, &[0; 7]);
    assert_eq!(guard.client_missing(), None);
    // Not into a header block, which nothing may interrupt.
    guard.client(now, &frame(HEADERS, 0, 1, b"x"));
    assert_eq!(guard.client_missing(), Some(9));
    guard.client(now, &frame(CONTINUATION, 4, 1, b"x"));
    assert_eq!((guard.client_missing(), guard.server_missing()), (None, None));
    guard.server(now, &frame(HEADERS, 0, 1, b"x"));
    assert_eq!(guard.server_missing(), Some(9));
    guard.server(now, &frame(CONTINUATION, 4, 1, b"x"));
    assert_eq!(guard.server_missing(), None);
}
