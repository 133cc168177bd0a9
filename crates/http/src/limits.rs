//! Limits of the HTTP client, the server and the HTTP/2 guard: each with its number, its unit and its reason. Pure.

use std::time::Duration;

/// Buffers of the HTTP client, in each direction of a connection.
pub const HTTP_CLIENT_BUFFER_BYTES: usize = 32 * 1024;
/// Largest error body that is quoted, in bytes.
pub const ERROR_BODY_BYTES_MAX: u64 = 16 * 1024;
/// Time to establish a connection to Prometheus. `Source:` Thanos's `dialer_timeout`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP connections held at once by the admin server; the oldest idle or half-open one makes room.
pub(crate) const CONNECTIONS_MAX: usize = 128;
/// An HTTP request head must fit.
pub const REQUEST_HEAD_BYTES_MAX: usize = 8 * 1024;
/// An HTTP request head must be complete within this time, and a kept-alive connection idle for less.
pub(crate) const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams one connection may have open. The core announces it; the guard closes who exceeds it.
pub const STREAMS_MAX: u32 = 256;
/// A new gRPC connection must send its HTTP/2 preface and acknowledge our SETTINGS within this time.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
