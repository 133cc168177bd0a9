//! Walks the frames of one direction of an HTTP/2 connection: nine bytes of header are read, the payload is only passed
//! by. Works across any division of the bytes into reads and holds no more than one frame header. Pure.
//!
//! `Source:` RFC 9113, sections 4.1 and 6.

/// `DATA`.
pub(super) const DATA: u8 = 0;
/// `HEADERS`.
pub(super) const HEADERS: u8 = 1;
/// `PRIORITY`.
pub(super) const PRIORITY: u8 = 2;
/// `RST_STREAM`.
pub(super) const RST_STREAM: u8 = 3;
/// `SETTINGS`.
pub(super) const SETTINGS: u8 = 4;
/// `PUSH_PROMISE`.
pub(super) const PUSH_PROMISE: u8 = 5;
/// `PING`.
pub(super) const PING: u8 = 6;
/// `GOAWAY`.
pub(super) const GOAWAY: u8 = 7;
/// `WINDOW_UPDATE`.
pub(super) const WINDOW_UPDATE: u8 = 8;
/// `CONTINUATION`.
pub(super) const CONTINUATION: u8 = 9;

/// Bytes of a frame's header.
pub(super) const FRAME_HEAD_BYTES: usize = 9;

/// A frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// Payload bytes.
    pub length: u32,
    /// One of the constants above, or a type that must be ignored.
    pub kind: u8,
    /// The flags, with a meaning per type.
    pub flags: u8,
    /// The stream, 0 for the connection.
    pub stream: u32,
}

impl Frame {
    /// `END_STREAM` of DATA and HEADERS.
    pub(super) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & 0x1 != 0
    }

    /// `END_HEADERS` of HEADERS and CONTINUATION.
    pub(super) fn ends_headers(&self) -> bool {
        self.flags & 0x4 != 0
    }

    /// `ACK` of SETTINGS and PING.
    pub(super) fn acknowledges(&self) -> bool {
        matches!(self.kind, SETTINGS | PING) && self.flags & 0x1 != 0
    }
}

/// What a step over the bytes met.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// A frame header is complete; its payload follows.
    Frame(Frame),
    /// A piece of the payload of the frame last met.
    Payload(Frame, &'a [u8]),
}

/// The position in one direction.
#[derive(Debug, Default)]
pub(super) struct Walker {
    head: [u8; FRAME_HEAD_BYTES],
    n_head: usize,
    frame: Option<Frame>,
    /// Payload bytes of `frame` still to come.
    left: usize,
}

impl Walker {
    /// Takes one step and moves `bytes` past it; `None` when all bytes are used up.
    pub(super) fn step<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Step<'a>> {
        if let Some(frame) = self.frame.filter(|_| self.left > 0) {
            let (piece, rest) = bytes.split_at(self.left.min(bytes.len()));
            *bytes = rest;
            self.left -= piece.len();
            return (!piece.is_empty()).then_some(Step::Payload(frame, piece));
        }
        let missing = self.head.get_mut(self.n_head..)?;
        let n = missing.len().min(bytes.len());
        let (piece, rest) = bytes.split_at(n);
        missing.get_mut(..n)?.copy_from_slice(piece);
        *bytes = rest;
        self.n_head += n;
        if self.n_head < FRAME_HEAD_BYTES {
            return None;
        }
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.head;
        let frame = Frame {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            // The highest bit is reserved and to be ignored.
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
        };
        self.n_head = 0;
        self.left = usize::try_from(frame.length).unwrap_or(usize::MAX);
        self.frame = Some(frame);
        Some(Step::Frame(frame))
    }

    /// Whether more of a frame's payload is to come.
    pub(super) fn is_in_payload(&self) -> bool {
        self.left > 0
    }

    /// Bytes that are missing of what is known to come: of the payload, or of the header; `None` where a frame ends.
    pub(super) fn missing(&self) -> Option<usize> {
        match (self.left, self.n_head) {
            (0, 0) => None,
            (0, n_head) => Some(FRAME_HEAD_BYTES - n_head),
            (left, _) => Some(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_the_same_at_every_split() {
        let mut bytes = vec![0, 0, 3, HEADERS, 0x5, 0x80, 0, 0, 1];
        bytes.extend(b"abc");
        bytes.extend([0, 0, 0, SETTINGS, 0x1, 0, 0, 0, 0]);
        for split in 0..=bytes.len() {
            let mut walker = Walker::default();
            let (mut frames, mut payload) = (Vec::new(), Vec::<u8>::new());
            let (first, second) = bytes.split_at(split);
            for mut part in [first, second] {
                while let Some(step) = walker.step(&mut part) {
                    match step {
                        Step::Frame(frame) => frames.push(frame),
                        Step::Payload(_, piece) => payload.extend(piece),
                    }
                }
                assert!(part.is_empty());
            }
            assert_eq!(payload, b"abc");
            assert_eq!(
                frames,
                [
                    Frame { length: 3, kind: HEADERS, flags: 5, stream: 1 },
                    Frame { length: 0, kind: SETTINGS, flags: 1, stream: 0 }
                ]
            );
            assert_eq!(walker.missing(), None);
        }
    }
}
