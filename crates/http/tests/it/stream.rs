//! Bytes through a connection: large transfers through small buffers, ends, and what poll(2) must not miss.

use std::io::ErrorKind;
use std::sync::OnceLock;

use pillion_http::tls::{Version, Wire};
use rustix::event::PollFlags;

use crate::certificates::Certificates;
use crate::pair::{client, connect, read, say, server, sockets, wait};

fn pairs(small: bool) -> Vec<(&'static str, Wire, Wire)> {
    let made = Certificates::new();
    made.leaf("here", "ca", "DNS:here.test", 1);
    let tls = server(&made, "here", |_| {});
    let mut pairs = Vec::new();
    for (name, version) in [("TLS 1.2", Version::Tls12), ("TLS 1.3", Version::Tls13)] {
        let client = client(&made, |settings| settings.max_version = version);
        let (near, far) = connect(&client, &tls, small);
        pairs.push((name, near, far));
    }
    let (near, far) = sockets(small);
    pairs.push(("plain", Wire::plain(near), Wire::plain(far)));
    pairs
}

/// Bytes of which one that is lost, doubled or moved shows.
fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| {
        (0..BYTES).map(|at| at.wrapping_mul(0x9e37_79b9).to_be_bytes().into_iter().fold(0, |a, b| a ^ b)).collect()
    })
}

/// One direction of a transfer.
#[derive(Default)]
struct Transfer {
    n_sent: usize,
    n_read: usize,
    has_ended: bool,
    was_ended: bool,
}

const BYTES: usize = 3_000_000;

/// Goes on as far as both ends let it; whether anything happened.
fn go_on(transfer: &mut Transfer, from: &mut Wire, to: &mut Wire, buf: &mut [u8]) -> bool {
    let mut has_moved = false;
    if transfer.n_sent < BYTES {
        match from.write(pattern().get(transfer.n_sent..).unwrap()) {
            Ok(n) => {
                assert!(n > 0);
                transfer.n_sent += n;
                has_moved = true;
            }
            Err(err) => assert_eq!(err.kind(), ErrorKind::WouldBlock),
        }
    } else if from.wants_write() {
        has_moved = from.flush().unwrap();
    } else if !transfer.has_ended {
        from.end();
        transfer.has_ended = true;
        has_moved = true;
    }
    match to.read(buf) {
        Ok(0) => {
            assert_eq!(transfer.n_read, BYTES, "the end");
            transfer.was_ended = true;
        }
        Ok(n) => {
            let want = pattern().get(transfer.n_read..transfer.n_read + n).unwrap();
            assert!(buf.get(..n).unwrap() == want, "bytes {} to {n} more", transfer.n_read);
            transfer.n_read += n;
            has_moved = true;
        }
        Err(err) => assert_eq!(err.kind(), ErrorKind::WouldBlock),
    }
    has_moved
}

#[test]
fn much_goes_both_ways_through_small_sockets() {
    // The size of the reader's buffer must not matter.
    for (small, buf_bytes) in [(true, 777), (true, 65_536), (false, 17_000), (false, 200_000)] {
        for (name, mut near, mut far) in pairs(small) {
            let mut buf = vec![0; buf_bytes];
            let (mut there, mut back) = (Transfer::default(), Transfer::default());
            while !there.was_ended || !back.was_ended {
                let moved = go_on(&mut there, &mut near, &mut far, &mut buf);
                let moved_back = go_on(&mut back, &mut far, &mut near, &mut buf);
                if moved || moved_back {
                    continue;
                }
                // Nobody may wait for the socket who has something already.
                assert!(!near.has_buffered_input() && !far.has_buffered_input(), "{name}");
                let flags = |wire: &Wire, out: &Transfer, into: &Transfer| {
                    let wants_out = wire.wants_write() || out.n_sent < BYTES;
                    let flag = |is_wanted, flag| if is_wanted { flag } else { PollFlags::empty() };
                    flag(!into.was_ended, PollFlags::IN) | flag(wants_out, PollFlags::OUT)
                };
                let (near_flags, far_flags) = (flags(&near, &there, &back), flags(&far, &back, &there));
                wait(&[(near.socket(), near_flags), (far.socket(), far_flags)]);
            }
            assert_eq!((read(&mut near, &mut buf).unwrap(), read(&mut far, &mut buf).unwrap()), (0, 0), "{name}");
        }
    }
}

#[test]
fn a_write_takes_no_more_than_a_batch_ahead_of_the_socket() {
    for (name, mut near, mut far) in pairs(true) {
        let bytes = vec![7; 1 << 20];
        let mut n_taken = 0;
        while let Ok(n) = near.write(&bytes) {
            assert!(name == "plain" || n <= 64 * 1024, "{name}");
            n_taken += n;
            assert!(n_taken < 1 << 20, "{name}: {n_taken} bytes were taken, and nobody reads");
        }
        assert_eq!(near.wants_write(), name != "plain", "{name}");
        assert_eq!(near.flush().unwrap(), name == "plain", "{name}");
        let mut buf = [0; 4096];
        while n_taken > 0 {
            match far.read(&mut buf) {
                Ok(n) => n_taken -= n,
                Err(err) => {
                    assert_eq!(err.kind(), ErrorKind::WouldBlock);
                    let out = if near.wants_write() { PollFlags::OUT } else { PollFlags::empty() };
                    wait(&[(far.socket(), PollFlags::IN), (near.socket(), out)]);
                }
            }
            near.flush().unwrap();
        }
        assert!(!near.wants_write(), "{name}");
        say(&mut near, &mut far, b"more");
    }
}

/// The socket is not readable any more, and there is something to read.
fn is_silent(wire: &Wire) -> bool {
    matches!(wire.socket().peek(&mut [0]), Err(err) if err.kind() == ErrorKind::WouldBlock)
}

#[test]
fn what_was_read_ahead_is_not_missed() {
    for (name, mut near, mut far) in pairs(false) {
        if name == "plain" {
            continue;
        }
        assert!(!far.has_buffered_input());
        near.write(b"abcdef").unwrap();
        wait(&[(far.socket(), PollFlags::IN)]);
        let mut buf = [0; 4];
        assert_eq!(far.read(&mut buf).unwrap(), 4);
        assert!(is_silent(&far) && far.has_buffered_input(), "{name}");
        assert_eq!((far.read(&mut buf).unwrap(), far.has_buffered_input()), (2, false), "{name}");
        assert_eq!(far.read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock, "{name}");
        // Two records that come with one read, of which the first fills the caller's buffer.
        near.write(b"abcd").unwrap();
        near.write(b"ef").unwrap();
        let mut first = [0; 16];
        // Both have arrived when as much as both is there.
        while far.socket().peek(&mut [0; 256]).unwrap() < 2 * 22 {}
        assert_eq!(far.read(&mut buf).unwrap(), 4);
        assert!(is_silent(&far) && far.has_buffered_input(), "{name}");
        assert_eq!(far.read(&mut first).unwrap(), 2, "{name}");
        assert!(!far.has_buffered_input(), "{name}");
    }
}

#[test]
fn an_end_that_came_with_the_last_bytes_is_not_missed() {
    for (name, mut near, mut far) in pairs(false) {
        near.write(b"last").unwrap();
        near.end();
        let mut buf = [0; 4];
        let mut n_read = 0;
        while n_read < 4 {
            n_read += read(&mut far, &mut buf).unwrap();
        }
        // Here the end is in the buffers or in the socket; either way whoever waits for both learns of it.
        if !far.has_buffered_input() {
            wait(&[(far.socket(), PollFlags::IN)]);
        }
        assert_eq!(read(&mut far, &mut buf).unwrap(), 0, "{name}");
        // An end is told once; after that nothing is there that a reader must hurry for.
        assert!(!far.has_buffered_input(), "{name}");
        assert_eq!(far.read(&mut buf).unwrap(), 0, "{name}");
        // The other direction goes on.
        say(&mut far, &mut near, b"goodbye");
    }
}

#[test]
fn an_end_without_a_goodbye_is_an_end() {
    for (name, near, mut far) in pairs(false) {
        near.socket().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(read(&mut far, &mut [0; 4]).unwrap(), 0, "{name}");
    }
}

#[test]
fn a_record_that_was_changed_on_the_way_is_an_error() {
    let made = Certificates::new();
    made.leaf("here", "ca", "DNS:here.test", 1);
    let (mut near, mut far) = connect(&client(&made, |_| {}), &server(&made, "here", |_| {}), false);
    near.write(b"whole").unwrap();
    // What stands in for an attacker: bytes that no side has encrypted.
    std::io::Write::write_all(&mut near.socket(), b"\x17\x03\x03\x00\x20012345678901234567890123456789ab").unwrap();
    let mut buf = [0; 16];
    assert_eq!(read(&mut far, &mut buf).unwrap(), 5);
    for _ in 0..2 {
        let err = read(&mut far, &mut buf).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidData);
        assert_eq!(err.to_string(), "what the client sent cannot be decrypted");
    }
    assert!(!far.has_buffered_input());
    // It cannot be used to send either, and the other side has been told.
    assert!(far.write(b"x").is_err());
    assert!(read(&mut near, &mut buf).is_err());
}

#[test]
fn nothing_is_sent_before_the_handshake() {
    let made = Certificates::new();
    made.leaf("here", "ca", "DNS:here.test", 1);
    let mut wire = Wire::server(sockets(false).0, &server(&made, "here", |_| {})).unwrap();
    assert_eq!(wire.write(b"x").unwrap_err().kind(), ErrorKind::NotConnected);
}
