//! Judges one HTTP/2 connection by the frame headers of both its directions, before the gRPC core sees the client's
//! bytes: the core has no defence against a client that opens and resets streams in a loop, and enforces its stream
//! limit only on clients that acknowledge SETTINGS. Never looks into header blocks or messages. Pure: time is an
//! argument.
//!
//! What honest clients do sets the rates: a querier cancels all its calls at once, or hundreds a second while somebody
//! drags a time picker, and grpc-go and the C core answer incoming DATA with WINDOW_UPDATE and PING frames, over loopback
//! thousands a second. So resets are paid for by time and by calls that were seen to their end, and control frames by time
//! and by what the server sent, in frames and in bytes.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::h2::rate::{Rate, TokenBucket};
use crate::h2::walker::{
    CONTINUATION, DATA, FRAME_HEAD_BYTES, Frame, GOAWAY, HEADERS, PING, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS,
    Step, WINDOW_UPDATE, Walker,
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
/// Bytes of a request beside its message: prefixes, padding.
const REQUEST_SLACK_BYTES: u64 = 16 * 1024;
/// DATA frames below this size that do not end their stream are charged as control frames.
const DATA_BYTES_TINY: u32 = 32;
/// Largest frame before the server has announced another size. `Source:` RFC 9113, section 6.5.2.
const FRAME_BYTES_DEFAULT: u32 = 16_384;
/// Control frames a client may send for each frame of content the server sent: two window updates and a ping.
const CONTROL_PER_SERVER_FRAME: f64 = 3.0;
/// Bytes of DATA that pay for one WINDOW_UPDATE. The C core's client updates windows for each message that it reads, and
/// the server packs hundreds of small messages into one DATA frame; the smallest series with its message takes more.
const DATA_BYTES_PER_UPDATE: u64 = 32;
/// Resets that completed calls may have paid for in advance.
const RESETS_PAID_MAX: u32 = 1024;
/// A suspect that has behaved for this long is one no more.
const PROBATION: Duration = Duration::from_secs(60);
/// Bytes of DATA whose updates may be outstanding: as many as a large flow-control window lets be on their way.
const UNANSWERED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// Streams open at once, as announced by the server.
    pub streams_max: u32,
    /// Streams that the client ends before the server has: work begun and thrown away. Each one costs the core about
    /// 150 µs and, until it is through, 7 KiB.
    pub resets: Rate,
    /// Frames that ask for work and carry nothing.
    pub control: Rate,
    /// Bytes of one request.
    pub request_bytes_max: u64,
    /// Bytes of requests that have begun and not ended, over all streams.
    pub unfinished_bytes_max: u64,
    /// Time from the start to the acknowledgement of SETTINGS.
    pub handshake_timeout: Duration,
}

impl Rules {
    /// For a client of which nothing bad is known.
    pub const NORMAL: Rules = Rules {
        streams_max: limits::STREAMS_MAX,
        resets: Rate { burst: 640.0, per_second: 256.0 },
        control: Rate { burst: 1000.0, per_second: 100.0 },
        request_bytes_max: limits::REQUEST_BYTES_MAX,
        unfinished_bytes_max: 4 * limits::REQUEST_BYTES_MAX,
        handshake_timeout: limits::HANDSHAKE_TIMEOUT,
    };
    /// For a client whose address was closed for abuse a short time ago. It may still cancel all its calls at once, twice.
    pub const SUSPECT: Rules = Rules { resets: Rate { burst: 512.0, per_second: 32.0 }, ..Rules::NORMAL };
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

/// A stream that is open.
#[derive(Debug, Default)]
struct Stream {
    /// The client has sent all of its request.
    is_whole: bool,
    /// Bytes of DATA of a request that is not whole.
    unfinished_bytes: u64,
    /// The server has begun to answer.
    is_answered: bool,
}

/// A stream that must not go on, though its connection may: both sides are to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Its number.
    pub stream: u32,
    /// The server has begun to answer.
    pub is_answered: bool,
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
    open: HashMap<u32, Stream>,
    /// The sum over all open streams.
    unfinished_bytes: u64,
    n_completed: u64,
    /// Resets that completed calls have paid for.
    n_paid_resets: u32,
    /// Refused streams of which the server, and the client, is still to be told.
    refused: (VecDeque<u32>, VecDeque<Refused>),
    n_refused: u64,
    /// The stream whose header block is not complete, and the block's bytes so far.
    block: Option<(u32, u32)>,
    resets: TokenBucket,
    /// Resets that nothing has paid for and [`Guard::take_resets`] has not yet reported.
    n_resets: u32,
    control: TokenBucket,

    server: Walker,
    /// A header block of the server is not complete.
    server_block: bool,
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
            open: HashMap::new(),
            unfinished_bytes: 0,
            n_completed: 0,
            n_paid_resets: 0,
            refused: Default::default(),
            n_refused: 0,
            block: None,
            resets: TokenBucket::new(rules.resets, now),
            n_resets: 0,
            control: TokenBucket::new(rules.control, now),
            server: Walker::default(),
            server_block: false,
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

    /// How many streams were reset since the last call and not paid for by completed calls, for budgets that span
    /// connections.
    pub fn take_resets(&mut self) -> u32 {
        std::mem::take(&mut self.n_resets)
    }

    /// The client is gone: the streams that it leaves open are resets, or a client would only have to hang up. To be
    /// followed by [`Guard::take_resets`].
    pub fn abandon(&mut self) {
        let n_open = u32::try_from(self.open.len()).unwrap_or(u32::MAX);
        self.open.clear();
        self.unfinished_bytes = 0;
        let n_paid = n_open.min(self.n_paid_resets);
        self.n_paid_resets -= n_paid;
        self.n_resets = self.n_resets.saturating_add(n_open - n_paid);
    }

    /// Calls that were seen to their end.
    pub fn n_completed(&self) -> u64 {
        self.n_completed
    }

    /// Bytes of requests that have begun and not ended.
    pub fn unfinished_bytes(&self) -> u64 {
        self.unfinished_bytes
    }

    /// Streams that were refused so far.
    pub fn n_refused(&self) -> u64 {
        self.n_refused
    }

    /// Whether the server, and the client, is to be told of a refused stream as soon as a frame of ours can be sent.
    pub fn has_refused(&self) -> (bool, bool) {
        (!self.refused.0.is_empty(), !self.refused.1.is_empty())
    }

    /// The next refused stream that the server is to be told of, if a frame of ours can be sent to it now.
    pub fn refused_for_server(&mut self) -> Option<u32> {
        if self.client_missing().is_none() { self.refused.0.pop_front() } else { None }
    }

    /// The next refused stream that the client is to be told of, if a frame of ours can be sent to it now.
    pub fn refused_for_client(&mut self) -> Option<Refused> {
        if self.server_missing().is_none() { self.refused.1.pop_front() } else { None }
    }

    /// The highest stream that the server has seen.
    pub fn last_stream(&self) -> u32 {
        self.last_stream
    }

    /// Bytes of the client that are missing until a frame of ours could be sent to the server; `None` where it could now.
    pub fn client_missing(&self) -> Option<usize> {
        if self.n_preface < PREFACE.len() {
            return Some(PREFACE.len() - self.n_preface);
        }
        self.client.missing().or(self.block.map(|_| FRAME_HEAD_BYTES))
    }

    /// Bytes of the server that are missing until a frame of ours could be sent to the client; `None` where it could now.
    pub fn server_missing(&self) -> Option<usize> {
        self.server.missing().or(self.server_block.then_some(FRAME_HEAD_BYTES))
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
            DATA => self.client_data(now, frame),
            HEADERS => self.client_headers(now, frame),
            CONTINUATION => self.client_continuation(now, frame),
            RST_STREAM if frame.length != 4 => protocol("RST_STREAM of a wrong size"),
            // One that crosses the end of its stream throws nothing away.
            RST_STREAM if self.close(frame.stream).is_none() => self.charge(now),
            RST_STREAM => self.charge_reset(now),
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

    fn client_data(&mut self, now: Instant, frame: Frame) -> Judged {
        // One frame may end a stream that is open; all others must carry something, for somebody.
        let is_awaited = self.open.get(&frame.stream).is_some_and(|stream| !stream.is_whole);
        if !is_awaited || (frame.length < DATA_BYTES_TINY && !frame.ends_stream()) {
            self.charge(now)?;
        }
        if frame.ends_stream() {
            self.whole(frame.stream);
        } else if let Some(stream) = self.open.get_mut(&frame.stream).filter(|stream| !stream.is_whole) {
            stream.unfinished_bytes += u64::from(frame.length);
            self.unfinished_bytes += u64::from(frame.length);
            if stream.unfinished_bytes > self.rules.request_bytes_max + REQUEST_SLACK_BYTES {
                self.refuse(now, frame.stream)?;
            }
            while self.unfinished_bytes > self.rules.unfinished_bytes_max {
                let largest = self.open.iter().max_by_key(|(number, stream)| (stream.unfinished_bytes, **number));
                let Some((largest, _)) = largest else { break };
                self.refuse(now, *largest)?;
            }
        }
        Ok(())
    }

    fn refuse(&mut self, now: Instant, number: u32) -> Judged {
        if let Some(stream) = self.close(number) {
            self.refused.0.push_back(number);
            self.refused.1.push_back(Refused { stream: number, is_answered: stream.is_answered });
            self.n_refused += 1;
        }
        self.charge_reset(now)
    }

    /// The request of a stream is complete.
    fn whole(&mut self, stream: u32) {
        if let Some(stream) = self.open.get_mut(&stream) {
            stream.is_whole = true;
            self.unfinished_bytes -= std::mem::take(&mut stream.unfinished_bytes);
        }
    }

    fn close(&mut self, stream: u32) -> Option<Stream> {
        let stream = self.open.remove(&stream)?;
        self.unfinished_bytes -= stream.unfinished_bytes;
        Some(stream)
    }

    fn client_headers(&mut self, now: Instant, frame: Frame) -> Judged {
        self.block_grows(frame.stream, 0, frame)?;
        if frame.stream <= self.last_stream {
            // Trailers, or a race with a stream that has just ended.
            if frame.ends_stream() {
                self.whole(frame.stream);
            }
            return self.charge(now);
        }
        if frame.stream.is_multiple_of(2) {
            return protocol("a client's stream has an even number");
        }
        self.last_stream = frame.stream;
        self.open.insert(frame.stream, Stream { is_whole: frame.ends_stream(), ..Stream::default() });
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
        if let Some(left) = self.n_paid_resets.checked_sub(1) {
            self.n_paid_resets = left;
            return Ok(());
        }
        self.n_resets = self.n_resets.saturating_add(1);
        if self.rules.resets == Rules::SUSPECT.resets && now.saturating_duration_since(self.started) >= PROBATION {
            self.rules.resets = Rules::NORMAL.resets;
            self.resets = TokenBucket::new(self.rules.resets, now);
        }
        if self.resets.take(now, 1.0) { Ok(()) } else { abuse("streams are reset too fast") }
    }

    fn watch_server(&mut self, now: Instant, mut bytes: &[u8]) -> Judged {
        while let Some(step) = self.server.step(&mut bytes) {
            match step {
                Step::Frame(frame) => self.server_frame(now, frame)?,
                Step::Payload(frame, piece) => self.server_payload(now, frame, piece)?,
            }
        }
        Ok(())
    }

    fn server_frame(&mut self, now: Instant, frame: Frame) -> Judged {
        self.server_piece.1 = 0;
        if matches!(frame.kind, HEADERS | CONTINUATION) {
            self.server_block = !frame.ends_headers();
            if let Some(stream) = self.open.get_mut(&frame.stream) {
                stream.is_answered = true;
            }
            // An answer that was on its way when the stream was refused.
            for refused in self.refused.1.iter_mut().filter(|refused| refused.stream == frame.stream) {
                refused.is_answered = true;
            }
        }
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
                self.close(frame.stream);
            }
            _ => {}
        }
        if frame.kind == SETTINGS && !frame.acknowledges() {
            self.settings_sent.get_or_insert(now);
        }
        if frame.ends_stream() {
            match self.close(frame.stream) {
                Some(stream) if stream.is_whole => {
                    self.n_completed += 1;
                    self.n_paid_resets = (self.n_paid_resets + 1).min(RESETS_PAID_MAX);
                }
                // The server gave up waiting for the rest of the request.
                Some(_) => self.charge_reset(now)?,
                None => {}
            }
        }
        Ok(())
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
