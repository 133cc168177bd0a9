//! A client that takes one Series answer as fast as it comes, over TCP or TLS. It decodes nothing, so that it costs little.

use std::io::{Read, Write};

use super::raw::{
    DATA, HEADERS, INITIAL_WINDOW_SIZE, PING, Raw, SETTINGS, WINDOW_MAX, WINDOW_UPDATE, acknowledgement, frame,
    greeting_with, message, open_call,
};

/// Asks on a connection on which nothing was said yet, and hands the bytes of the answer's messages to `take`.
///
/// `Errors:` the answer broke off, or its status is not OK.
pub fn drain<S: Read + Write>(mut raw: Raw<S>, asked: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), String> {
    // No answer of a test is larger than the largest window, so no more is granted on the way.
    let window = frame(WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - 65_535).to_be_bytes());
    let greeting = greeting_with(&[(INITIAL_WINDOW_SIZE, WINDOW_MAX)]);
    raw.send(&[greeting, window, open_call(1, "/thanos.Store/Series"), message(1, asked)].concat());
    let mut buffer = vec![0; 256 * 1024];
    let (mut start, mut end) = (0, 0);
    loop {
        while let Some(&[a, b, c, kind, flags, _, _, _, stream]) = buffer[start..end].first_chunk::<9>() {
            let size = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
            if end - start < size {
                break;
            }
            let payload = &buffer[start + 9..start + size];
            start += size;
            match (kind, flags, stream) {
                (DATA, _, 1) => take(payload),
                // The server closes who does not.
                (SETTINGS, 0, 0) => raw.send(&acknowledgement()),
                (PING, 0, _) => raw.send(&frame(PING, 1, 0, payload)),
                // The first on its connection, so the status stands there in plain letters.
                (HEADERS, flags, 1) if flags & 1 == 1 => {
                    let is_ok = payload.windows(13).any(|text| text == b"grpc-status\x010");
                    return if is_ok { Ok(()) } else { Err(String::from_utf8_lossy(payload).into_owned()) };
                }
                _ => {}
            }
        }
        buffer.copy_within(start..end, 0);
        (start, end) = (0, end - start);
        match raw.0.read(&mut buffer[end..]) {
            Ok(0) => return Err("the connection ended".into()),
            Ok(n) => end += n,
            Err(err) => return Err(err.to_string()),
        }
    }
}
