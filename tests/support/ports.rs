//! Ports for programs that are told theirs.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;

/// A port of 127.0.0.1 that was free a moment ago, and that nobody is likely to be given before it is used: it is a
/// random one below those that the kernel hands out, to listeners on port 0 and to clients.
pub fn free_port() -> u16 {
    loop {
        // Each RandomState has keys of its own.
        let port = 10_000 + u16::try_from(RandomState::new().build_hasher().finish() % 20_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
