//! Ports for programs that have to be given theirs.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The ports below those that the kernel hands out, to listeners on port 0 and to clients.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// A port of 127.0.0.1 that was free a moment ago. No other test of this process gets the same one, for a program may take
/// its time until it listens; other processes begin at another place.
pub fn free_port() -> u16 {
    static BEGIN: OnceLock<u64> = OnceLock::new();
    static N_TAKEN: AtomicU64 = AtomicU64::new(0);
    // Each RandomState has keys of its own.
    let begin = BEGIN.get_or_init(|| RandomState::new().build_hasher().finish() % u64::from(COUNT));
    loop {
        let idx = (begin + N_TAKEN.fetch_add(1, Ordering::Relaxed)) % u64::from(COUNT);
        let port = FIRST + u16::try_from(idx).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
