//! Limits of the HTTP client, the server and the HTTP/2 guard: each with its number, its unit and its reason. Pure.

use std::time::Duration;

/// Buffers of the HTTP client, in each direction of a connection.
pub const HTTP_CLIENT_BUFFER_BYTES: usize = 32 * 1024;
/// Largest error body that is quoted, in bytes.
pub const ERROR_BODY_BYTES_MAX: u64 = 16 * 1024;
/// Time to establish a connection to Prometheus. `Source:` Thanos's `dialer_timeout`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that are kept although nobody uses them, as many as calls at once by default. One is a socket; with TLS it
/// has buffers too.
pub(crate) const LINES_IDLE_MAX: usize = 16;
/// Time for which such a connection is kept. Prometheus closes after 5 minutes, proxies after one.
pub(crate) const LINE_IDLE_MAX: Duration = Duration::from_secs(30);
/// Time in which a peer must acknowledge what it is sent. What is sent is small, so its kernel does that at once.
pub(crate) const UNHEARD_MAX: Duration = Duration::from_secs(10);

/// A time without end, as far as clocks can count.
pub(crate) const ENDLESS: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Time for which a password or token that was replaced is tried once more when the new one is refused: the file and the
/// server never change in the same moment.
pub(crate) const REPLACED_SECRET_TIME: Duration = Duration::from_secs(5 * 60);
/// Largest file of a password or a token.
pub(crate) const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// HTTP connections held at once by the admin server; the oldest idle or half-open one makes room.
pub(crate) const CONNECTIONS_MAX: usize = 128;
/// An HTTP request head must fit.
pub const REQUEST_HEAD_BYTES_MAX: usize = 8 * 1024;
/// An HTTP request head must be complete within this time, and a kept-alive connection idle for less.
pub(crate) const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams one connection may have open. The core announces it; the guard closes who exceeds it.
pub const STREAMS_MAX: u32 = 256;
/// An HTTP/2 client must acknowledge our SETTINGS within this time.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first part of an HTTP request, up to this size, is sent together with the next. A head has some hundred bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 4 * 1024;

/// Bytes of one gRPC request, unless another number is set. Real ones have a few KiB.
pub(crate) const REQUEST_BYTES_MAX: u64 = 1024 * 1024;

/// Largest web configuration file. It holds users and perhaps certificates.
pub(crate) const WEB_CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Right passwords that are remembered, so that they need no bcrypt. A scraper has one.
pub(crate) const RIGHT_PASSWORDS_MAX: usize = 256;
/// Wrong passwords that are remembered.
pub(crate) const WRONG_PASSWORDS_MAX: usize = 1024;
/// Addresses whose wrong passwords are counted.
pub(crate) const WRONG_ADDRESSES_MAX: usize = 1024;
/// Wrong passwords at once from one address, and the time until one more is looked at.
pub(crate) const WRONG_BY_ADDRESS_BURST: u32 = 10;
/// A scraper with an old password asks every 15 s, so it goes on getting 401 and not 429.
pub(crate) const WRONG_BY_ADDRESS_INTERVAL: Duration = Duration::from_secs(6);
/// Wrong passwords at once from everywhere, and the time until one more is looked at: at bcrypt's usual cost of 10 that is a
/// third of a core for as long as an attack lasts.
pub(crate) const WRONG_IN_ALL_BURST: u32 = 60;
/// See [`WRONG_IN_ALL_BURST`].
pub(crate) const WRONG_IN_ALL_INTERVAL: Duration = Duration::from_millis(200);
/// Passwords that wait to be checked.
pub(crate) const PASSWORDS_WAITING_MAX: usize = 32;
/// Passwords of one address that wait to be checked, so that one client does not fill the queue.
pub(crate) const PASSWORDS_WAITING_SAME_MAX: usize = 4;
/// Longest wait of a request for the verdict on its password.
pub(crate) const PASSWORD_TIMEOUT: Duration = Duration::from_secs(10);
/// A TLS handshake must be complete within this time.
pub(crate) const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// TLS handshakes under way; the oldest makes room.
pub(crate) const TLS_HANDSHAKES_MAX: usize = 32;
