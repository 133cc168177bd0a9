//! Judges one HTTP/2 connection by the frame headers of both its directions, before the gRPC core sees the client's
//! bytes: the core has no defence against a client that opens and resets streams in a loop, and enforces its stream
//! limit only on clients that acknowledge SETTINGS. Never looks into header blocks or messages. Pure: time is an
//! argument.
//!
//! What honest clients do sets the rates: a querier cancels calls in bursts of tens, and grpc-go and the C core answer
//! incoming DATA with WINDOW_UPDATE and PING frames, over loopback thousands a second. So control frames are paid for
//! partly by time and partly by what the server sent, in frames and in bytes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::h2::rate::{Rate, TokenBucket};
use crate::h2::walker::{
    CONTINUATION, DATA, Frame, GOAWAY, HEADERS, PING, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, Step,
    WINDOW_UPDATE, Walker,
};
use crate::limits;

/// The bytes every HTTP/2 client sends first.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams a client may have open beyond the announced maximum before it has acknowledged it.
const STREAMS_SLACK: u32 = 64;
/// Bytes of one header block with its continuations; the core takes 8 KiB of metadata.
const HEADER_BLOCK_BYTES_MAX: u32 = 64 * 1024;
/// Bytes of one SETTINGS frame of a client; real ones have about five entries of six bytes.
const SETTINGS_BYTES_MAX: u32 = 64 * 6;
/// DATA frames below this size that do not end their stream are charged as control frames.
const DATA_BYTES_TINY: u32 = 32;
/// Largest frame before the server has announced another size. `Source:` RFC 9113, section 6.5.2.
const FRAME_BYTES_DEFAULT: u32 = 16_384;
/// Control frames a client may send for each frame of content the server sent: two window updates and a ping.
const CONTROL_PER_SERVER_FRAME: f64 = 3.0;
/// Bytes of DATA that pay for one WINDOW_UPDATE. The C core's client updates windows for each message that it reads, and
/// the server packs hundreds of small messages into one DATA frame; the smallest series with its message takes more.
const DATA_BYTES_PER_UPDATE: u64 = 32;
/// Bytes of DATA whose updates may be outstanding: as many as a large flow-control window lets be on their way.
const UNANSWERED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Streams open at once, as announced by the server.
    pub streams_max: u32,
    /// Streams that end by reset. Each one costs the core about 150 µs and 7 KiB.
    pub resets: Rate,
    /// Frames that ask for work and carry nothing.
    pub control: Rate,
    /// Time from the start to the acknowledgement of SETTINGS.
    pub handshake_timeout: Duration,
}

impl Rules {
    /// For a client of which nothing bad is known.
    pub const NORMAL: Rules = Rules {
        streams_max: limits::STREAMS_MAX,
        resets: Rate { burst: 100.0, per_second: 20.0 },
        control: Rate { burst: 1000.0, per_second: 100.0 },
        handshake_timeout: limits::HANDSHAKE_TIMEOUT,
    };
    /// For a client whose address was closed for abuse a short time ago.
    pub const SUSPECT: Rules = Rules { resets: Rate { burst: 20.0, per_second: 5.0 }, ..Rules::NORMAL };
}

/// What to do with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes may pass.
    Pass,
    /// The bytes must not pass and the connection is to be closed.
    Close {
        /// Why, in a word: `abuse`, `protocol` or `settings_ack`.
        reason: &'static str,
        /// For the log.
        text: &'static str,
    },
}

type Judged = Result<(), Verdict>;

fn abuse(text: &'static str) -> Judged {
    Err(Verdict::Close { reason: "abuse", text })
}

fn protocol(text: &'static str) -> Judged {
    Err(Verdict::Close { reason: "protocol", text })
}

/// The watcher of one connection.
#[derive(Debug)]
pub struct Guard {
    rules: Rules,
    started: Instant,
    /// Bytes of the preface seen.
    n_preface: usize,
    closed: Option<Verdict>,

    client: Walker,
    client_settings_seen: bool,
    last_stream: u32,
    open: HashSet<u32>,
    /// The stream whose header block is not complete, and the block's bytes so far.
    block: Option<(u32, u32)>,
    resets: TokenBucket,
    /// Resets not yet reported by [`Guard::take_resets`].
    n_resets: u32,
    control: TokenBucket,

    server: Walker,
    /// Bytes of DATA that were sent and have not paid for a WINDOW_UPDATE yet.
    unanswered_bytes: u64,
    settings_sent: Option<Instant>,
    acknowledged: bool,
    frame_bytes_max: u32,
    /// A piece of a SETTINGS entry or of an error code of the server.
    server_piece: ([u8; 6], usize),
}

impl Guard {
    /// A connection that was accepted at `now`.
    pub fn new(rules: Rules, now: Instant) -> Self {
        Guard {
            rules,
            started: now,
            n_preface: 0,
            closed: None,
            client: Walker::default(),
            client_settings_seen: false,
            last_stream: 0,
            open: HashSet::new(),
            block: None,
            resets: TokenBucket::new(rules.resets, now),
            n_resets: 0,
            control: TokenBucket::new(rules.control, now),
            server: Walker::default(),
            unanswered_bytes: 0,
            settings_sent: None,
            acknowledged: false,
            frame_bytes_max: FRAME_BYTES_DEFAULT,
            server_piece: ([0; 6], 0),
        }
    }

    /// Judges bytes from the client, before they are passed on.
    pub fn client(&mut self, now: Instant, bytes: &[u8]) -> Verdict {
        self.judge(|guard| guard.watch_client(now, bytes))
    }

    /// Judges bytes from the server, before they are passed on.
    pub fn server(&mut self, now: Instant, bytes: &[u8]) -> Verdict {
        self.judge(|guard| guard.watch_server(now, bytes))
    }

    /// Judges the clock: the verdict on a client that has not acknowledged SETTINGS by the deadline.
    pub fn tick(&mut self, now: Instant) -> Verdict {
        let deadline = self.handshake_deadline();
        self.judge(|_| match deadline {
            Some(deadline) if now >= deadline => {
                Err(Verdict::Close { reason: "settings_ack", text: "SETTINGS were not acknowledged in time" })
            }
            _ => Ok(()),
        })
    }

    /// When the client must have acknowledged SETTINGS; `None` once it has. Only the first SETTINGS frame counts: later
    /// ones may wait behind data that a slow client has yet to read.
    pub fn handshake_deadline(&self) -> Option<Instant> {
        let from = self.settings_sent.unwrap_or(self.started);
        if self.acknowledged { None } else { from.checked_add(self.rules.handshake_timeout) }
    }

    /// How many streams ended by reset since the last call, for budgets that span connections.
    pub fn take_resets(&mut self) -> u32 {
        std::mem::take(&mut self.n_resets)
    }

    /// Whether a frame of ours could be sent to the client without falling into another one.
    pub fn server_at_boundary(&self) -> bool {
        self.server.at_boundary()
    }

    /// Streams open at the moment.
    pub fn n_open(&self) -> usize {
        self.open.len()
    }

    fn judge(&mut self, watch: impl FnOnce(&mut Self) -> Judged) -> Verdict {
        if let Some(verdict) = self.closed {
            return verdict;
        }
        match watch(self) {
            Ok(()) => Verdict::Pass,
            Err(verdict) => *self.closed.insert(verdict),
        }
    }

    fn watch_client(&mut self, now: Instant, mut bytes: &[u8]) -> Judged {
        while let Some(expected) = PREFACE.get(self.n_preface) {
            let Some((byte, rest)) = bytes.split_first() else { return Ok(()) };
            if byte != expected {
                return protocol("the client does not speak HTTP/2");
            }
            self.n_preface += 1;
            bytes = rest;
        }
        while let Some(step) = self.client.step(&mut bytes) {
            if let Step::Frame(frame) = step {
                self.client_frame(now, frame)?;
            }
        }
        Ok(())
    }

    fn client_frame(&mut self, now: Instant, frame: Frame) -> Judged {
        if frame.length > self.frame_bytes_max {
            return protocol("a frame is larger than announced");
        }
        if !self.client_settings_seen && frame.kind != SETTINGS {
            return protocol("the first frame is not SETTINGS");
        }
        if self.block.is_some() != (frame.kind == CONTINUATION) {
            return protocol("a header block is interrupted or continued without a beginning");
        }
        let on_connection = frame.stream == 0;
        match frame.kind {
            DATA | HEADERS | PRIORITY | RST_STREAM if on_connection => protocol("a stream frame on stream 0"),
            SETTINGS | PING | GOAWAY if !on_connection => protocol("a connection frame on a stream"),
            DATA => {
                // One frame per stream may end it; all others must carry something.
                if frame.length < DATA_BYTES_TINY && !frame.ends_stream() { self.charge(now) } else { Ok(()) }
            }
            HEADERS => self.client_headers(now, frame),
            CONTINUATION => self.client_continuation(now, frame),
            RST_STREAM if frame.length != 4 => protocol("RST_STREAM of a wrong size"),
            RST_STREAM => {
                self.open.remove(&frame.stream);
                self.charge_reset(now)
            }
            SETTINGS => self.client_settings(now, frame),
            PING if frame.length != 8 => protocol("PING of a wrong size"),
            WINDOW_UPDATE if frame.length != 4 => protocol("WINDOW_UPDATE of a wrong size"),
            WINDOW_UPDATE => self.charge_update(now),
            PRIORITY if frame.length != 5 => protocol("PRIORITY of a wrong size"),
            PUSH_PROMISE => protocol("PUSH_PROMISE from a client"),
            // Unknown types are to be ignored, which is work too.
            _ => self.charge(now),
        }
    }

    fn client_headers(&mut self, now: Instant, frame: Frame) -> Judged {
        self.block_grows(frame.stream, 0, frame)?;
        if frame.stream <= self.last_stream {
            // Trailers, or a race with a stream that has just ended.
            return self.charge(now);
        }
        if frame.stream.is_multiple_of(2) {
            return protocol("a client's stream has an even number");
        }
        self.last_stream = frame.stream;
        self.open.insert(frame.stream);
        let slack = if self.acknowledged { 0 } else { STREAMS_SLACK };
        let max = usize::try_from(self.rules.streams_max.saturating_add(slack)).unwrap_or(usize::MAX);
        if self.open.len() > max { abuse("more streams are open than announced") } else { Ok(()) }
    }

    fn client_continuation(&mut self, now: Instant, frame: Frame) -> Judged {
        let Some((stream, block_bytes)) = self.block else { return Ok(()) };
        if stream != frame.stream {
            return protocol("a header block is continued on another stream");
        }
        self.charge(now)?;
        self.block_grows(stream, block_bytes, frame)
    }

    fn block_grows(&mut self, stream: u32, block_bytes: u32, frame: Frame) -> Judged {
        let block_bytes = block_bytes.saturating_add(frame.length);
        self.block = (!frame.ends_headers()).then_some((stream, block_bytes));
        if block_bytes > HEADER_BLOCK_BYTES_MAX { abuse("a header block is too large") } else { Ok(()) }
    }

    fn client_settings(&mut self, now: Instant, frame: Frame) -> Judged {
        if frame.acknowledges() {
            if frame.length != 0 {
                return protocol("SETTINGS of a wrong size");
            }
            self.acknowledged |= self.settings_sent.is_some();
        } else if !frame.length.is_multiple_of(6) {
            return protocol("SETTINGS of a wrong size");
        } else if frame.length > SETTINGS_BYTES_MAX {
            return abuse("SETTINGS with too many entries");
        }
        self.client_settings_seen = true;
        self.charge(now)
    }

    fn charge(&mut self, now: Instant) -> Judged {
        if self.control.take(now, 1.0) { Ok(()) } else { abuse("too many control frames") }
    }

    /// An update that an answer has provoked is no abuse, however fast the client reads.
    fn charge_update(&mut self, now: Instant) -> Judged {
        match self.unanswered_bytes.checked_sub(DATA_BYTES_PER_UPDATE) {
            Some(left) if !self.control.has_earned() => {
                self.unanswered_bytes = left;
                Ok(())
            }
            _ => self.charge(now),
        }
    }

    fn charge_reset(&mut self, now: Instant) -> Judged {
        self.n_resets = self.n_resets.saturating_add(1);
        if self.resets.take(now, 1.0) { Ok(()) } else { abuse("streams are reset too fast") }
    }

    fn watch_server(&mut self, now: Instant, mut bytes: &[u8]) -> Judged {
        while let Some(step) = self.server.step(&mut bytes) {
            match step {
                Step::Frame(frame) => self.server_frame(now, frame),
                Step::Payload(frame, piece) => self.server_payload(now, frame, piece)?,
            }
        }
        Ok(())
    }

    fn server_frame(&mut self, now: Instant, frame: Frame) {
        self.server_piece.1 = 0;
        if frame.kind == DATA {
            let bytes = self.unanswered_bytes.saturating_add(frame.length.into());
            self.unanswered_bytes = bytes.min(UNANSWERED_BYTES_MAX);
        }
        match frame.kind {
            DATA | HEADERS => self.control.earn(CONTROL_PER_SERVER_FRAME),
            // Each of these is answered by one frame. Acknowledgements give nothing, or a client would pay for its
            // pings with the answers to them.
            SETTINGS | PING if !frame.acknowledges() => self.control.earn(1.0),
            RST_STREAM => {
                self.open.remove(&frame.stream);
            }
            _ => {}
        }
        if frame.kind == SETTINGS && !frame.acknowledges() {
            self.settings_sent.get_or_insert(now);
        }
        if frame.ends_stream() {
            self.open.remove(&frame.stream);
        }
    }

    /// Reads what matters of a payload: the announced frame size, and resets that a client's fault provoked.
    fn server_payload(&mut self, now: Instant, frame: Frame, piece: &[u8]) -> Judged {
        let size = match frame.kind {
            SETTINGS => 6,
            RST_STREAM => 4,
            _ => return Ok(()),
        };
        for byte in piece {
            let (held, n) = &mut self.server_piece;
            if let Some(slot) = held.get_mut(*n) {
                *slot = *byte;
            }
            *n += 1;
            if *n < size {
                continue;
            }
            *n = 0;
            let [a, b, c, d, e, f] = *held;
            if frame.kind == RST_STREAM {
                // NO_ERROR: the server has answered a client that had more to say. CANCEL: it gave up a call itself.
                if !matches!(u32::from_be_bytes([a, b, c, d]), 0 | 8) {
                    self.charge_reset(now)?;
                }
            } else if [a, b] == [0, 5] {
                // A client may still use a larger size that it has read of before.
                self.frame_bytes_max = self.frame_bytes_max.max(u32::from_be_bytes([c, d, e, f]));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
