//! The few frames that whoever stands in front of an HTTP/2 server says by itself. Pure.

use super::walker::{GOAWAY, HEADERS, PING, RST_STREAM};

/// NO_ERROR.
const NO_ERROR: u32 = 0;
/// CANCEL.
const CANCEL: u32 = 8;
/// ENHANCE_YOUR_CALM, which gRPC clients take for RESOURCE_EXHAUSTED.
const CALM: u32 = 11;

/// A PING whose answer no server takes for that to a ping of its own.
pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"pillion?")
}

/// A GOAWAY with a text. A client that did nothing wrong may come again at once, with all calls behind `last_stream`.
pub fn goaway(is_abuse: bool, last_stream: u32, text: &str) -> Vec<u8> {
    let code = if is_abuse { CALM } else { NO_ERROR };
    let payload = [&last_stream.to_be_bytes()[..], &code.to_be_bytes(), text.as_bytes()].concat();
    frame(GOAWAY, 0, 0, &payload)
}

/// What ends a stream for the server.
pub fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// What ends a gRPC call for the client with RESOURCE_EXHAUSTED. A call that has been answered in part has no room for a
/// text of ours. `text` has fewer than 127 bytes of ASCII.
pub fn exhausted(stream: u32, is_answered: bool, text: &str) -> Vec<u8> {
    if is_answered {
        return frame(RST_STREAM, 0, stream, &CALM.to_be_bytes());
    }
    let mut block = Vec::new();
    let fields =
        [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "8"), ("grpc-message", text)];
    for (name, value) in fields {
        // A literal that is not indexed changes nothing in the client's tables. Short texts have one byte of length.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap_or(0) & 0x7f);
            block.extend_from_slice(text.as_bytes());
        }
    }
    // The client has more to say, and need not.
    [frame(HEADERS, 0x5, stream, &block), frame(RST_STREAM, 0, stream, &NO_ERROR.to_be_bytes())].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, l0, l1, l2] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [&[l0, l1, l2, kind, flags, s0, s1, s2, s3], payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_byte_by_byte() {
        assert_eq!(ping(), b"\0\0\x08\x06\0\0\0\0\0pillion?");
        assert_eq!(cancel(5), [0, 0, 4, 3, 0, 0, 0, 0, 5, 0, 0, 0, 8]);
        assert_eq!(goaway(true, 5, "x"), b"\0\0\x09\x07\0\0\0\0\0\0\0\0\x05\0\0\0\x0bx");
        assert_eq!(exhausted(5, true, "x"), [0, 0, 4, 3, 0, 0, 0, 0, 5, 0, 0, 0, 11]);
        let answer = exhausted(5, false, "x");
        let head = b"\0\0\x4b\x01\x05\0\0\0\x05\0\x07:status\x03200\0\x0ccontent-type\x10application/grpc";
        assert!(answer.starts_with(head), "{answer:?}");
        assert!(answer.ends_with(b"\0\x0cgrpc-message\x01x\0\0\x04\x03\0\0\0\0\x05\0\0\0\0"), "{answer:?}");
    }
}
