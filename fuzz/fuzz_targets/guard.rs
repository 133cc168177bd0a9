//! The guard of HTTP/2 connections: no bytes of either side break it, open streams and the bytes of unfinished requests stay
//! within bounds, and the verdict does not depend on how the network divides the bytes.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use pillion_fuzz::Dice;
use pillion_http::h2::{Guard, PREFACE, Rules, Verdict};

fuzz_target!(|data: &[u8]| {
    let mut dice = Dice(data);
    let mode = dice.byte();
    let rules = if mode & 1 == 0 { Rules::NORMAL } else { Rules::SUSPECT };
    let rules = Rules { unfinished_bytes_max: 400, ..rules };
    let mut now = Instant::now();
    let (mut whole, mut divided) = (Guard::new(rules, now), Guard::new(rules, now));
    let mut feed = |now: Instant, from_client: bool, bytes: &[u8]| {
        let judge = |guard: &mut Guard, bytes: &[u8]| {
            if from_client { guard.client(now, bytes) } else { guard.server(now, bytes) }
        };
        let verdict = judge(&mut whole, bytes);
        let last = bytes.iter().map(|byte| judge(&mut divided, &[*byte])).last();
        assert!(last.is_none_or(|last| last == verdict), "{last:?} in pieces, {verdict:?} at once");
        assert!(whole.n_open() <= rules.streams_max as usize + 65);
        assert!(verdict != Verdict::Pass || whole.unfinished_bytes() <= rules.unfinished_bytes_max);
        assert_eq!(whole.n_refused(), divided.n_refused());
        assert_eq!(whole.handshake_deadline(), divided.handshake_deadline());
        assert_eq!(whole.tick(now), divided.tick(now));
        verdict
    };
    if mode & 2 == 0 {
        assert_eq!(feed(now, true, PREFACE), Verdict::Pass);
    }
    while !dice.0.is_empty() {
        let step = dice.byte();
        now += Duration::from_millis(u64::from(step >> 4) * 10);
        let len = usize::from(dice.byte());
        let verdict = feed(now, step & 1 == 0, dice.bytes(len));
        if verdict != Verdict::Pass {
            // Closed is closed.
            assert_eq!(feed(now, true, b"more"), verdict);
            return;
        }
    }
});
