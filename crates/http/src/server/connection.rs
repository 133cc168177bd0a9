//! One HTTP connection as a state machine: bytes and times in, bytes out. One request at a time; what a client sends
//! ahead waits in a bounded buffer. Pure.

use std::time::{Duration, Instant};

use crate::limits;
use crate::server::request::{self, Head, Parsed};
use crate::server::response::{Common, Framing, Response};
use zeroize::Zeroize;

/// Answers a request.
pub type Routes<'a> = &'a dyn Fn(&Head) -> Response;

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The method as sent.
    pub method: String,
    /// The path, without query.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the body.
    pub body_bytes: usize,
    /// From the head to the answer, without its way to the client.
    pub took: Duration,
}

/// What a Go server says to a client that forgot the `s` of `https`.
const NO_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Answers requests.
pub(super) trait Pages {
    /// The answer to a request.
    fn answer(&mut self, head: &Head) -> Answer;

    /// What is written on every answer.
    fn common(&self) -> Common<'_>;
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// A page.
    Page(Response),
    /// Something else, for who is not let in.
    Refused(Response),
    /// [`Connection::resume`] or [`Connection::refuse`] follows.
    Later,
}

/// The times a client is given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For a request head and its body from the first byte, and between requests.
    pub head: Duration,
    /// For whether a request is answered to be known.
    pub verdict: Duration,
    /// For the client to take a whole response.
    pub write: Duration,
    /// For the client to notice the end: until then what it still sends is dropped, since closing a socket with unread
    /// bytes would destroy the response on its way.
    pub linger: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// No byte of a request has come.
    Idle,
    /// A request head is coming.
    Head,
    /// A body is coming and being dropped; this many bytes are left.
    Body(Head, u64),
    /// Whether the request is answered is not known yet.
    Waiting(Head),
    /// A response is on its way.
    Writing,
    /// The last response is out; waiting for the client to see it.
    Lingering,
    Closed,
}

/// The connection.
#[derive(Debug)]
pub(super) struct Connection {
    times: Times,
    phase: Phase,
    input: Vec<u8>,
    /// `input` may hold a whole request.
    unparsed: bool,
    output: Vec<u8>,
    n_sent: usize,
    close_after: bool,
    n_served: u64,
    deadline: Instant,
    active: Instant,
    /// When the head of the request was there.
    asked: Instant,
    /// The request that was answered last, until somebody takes it.
    served: Option<Served>,
}

impl Connection {
    /// A connection accepted at `now`.
    pub(super) fn new(times: Times, now: Instant) -> Self {
        Connection {
            times,
            phase: Phase::Idle,
            input: Vec::new(),
            unparsed: false,
            output: Vec::new(),
            n_sent: 0,
            close_after: false,
            n_served: 0,
            deadline: now + times.head,
            active: now,
            asked: now,
            served: None,
        }
    }

    /// The request that was answered, once.
    pub(super) fn take_served(&mut self) -> Option<Served> {
        self.served.take()
    }

    /// Whether bytes from the client are wanted now.
    pub(super) fn wants_read(&self) -> bool {
        !matches!(self.phase, Phase::Waiting(_) | Phase::Writing | Phase::Closed) && !self.unparsed
    }

    /// Whether a request waits for [`Connection::resume`] or [`Connection::refuse`].
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting(_))
    }

    /// Bytes to send.
    pub(super) fn output(&self) -> &[u8] {
        self.output.get(self.n_sent..).unwrap_or_default()
    }

    /// Whether [`Connection::step`] has work without further bytes.
    pub(super) fn has_work(&self) -> bool {
        self.unparsed && matches!(self.phase, Phase::Idle | Phase::Head)
    }

    /// Whether the writing side is to be shut down: the last response is out.
    pub(super) fn is_lingering(&self) -> bool {
        self.phase == Phase::Lingering
    }

    /// Whether nothing is left to do.
    pub(super) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// When the client's time is over.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Ends the connection if its time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        if now >= self.deadline {
            self.phase = Phase::Closed;
        }
    }

    /// Gives up everything but a response on its way; for the stop.
    pub(super) fn finish(&mut self) {
        self.close_after = true;
        if self.phase != Phase::Writing {
            self.phase = Phase::Closed;
        }
    }

    /// Who makes room first: the smallest. Clients that never finished a request go before idle ones, and those before
    /// clients that take a response; among equals the one that was active longest ago.
    pub(super) fn rank(&self) -> (u8, Instant) {
        let class = match self.phase {
            Phase::Closed | Phase::Lingering => 0,
            Phase::Idle | Phase::Head | Phase::Body(..) | Phase::Waiting(_) if self.n_served == 0 => 1,
            Phase::Idle | Phase::Head | Phase::Body(..) | Phase::Waiting(_) => 2,
            Phase::Writing => 3,
        };
        (class, self.active)
    }

    /// The client sent `bytes`; none means that it sends no more.
    pub(super) fn received(&mut self, now: Instant, bytes: &[u8]) {
        if bytes.is_empty() {
            self.phase = Phase::Closed;
            return;
        }
        match &mut self.phase {
            Phase::Idle => self.begin_head(now),
            Phase::Body(_, left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left = left.saturating_sub(u64::try_from(n).unwrap_or(u64::MAX));
                self.input.extend_from_slice(bytes.get(n..).unwrap_or_default());
                return;
            }
            Phase::Head => {}
            Phase::Waiting(_) | Phase::Writing | Phase::Lingering | Phase::Closed => return,
        }
        self.input.extend_from_slice(bytes);
        self.unparsed = true;
    }

    /// Does at most one request's work; call while [`Connection::has_work`] and after [`Connection::received`].
    pub(super) fn step(&mut self, now: Instant, pages: &mut dyn Pages) {
        if matches!(self.phase, Phase::Idle | Phase::Head) && std::mem::take(&mut self.unparsed) {
            match request::parse(&self.input) {
                Parsed::Partial => {}
                Parsed::Refused(status, text) => {
                    self.close_after = true;
                    let framing = Framing { close: true, ..Framing::default() };
                    self.respond(now, &Response::error(status, text), framing, &pages.common());
                }
                Parsed::Complete(head) => {
                    let head_bytes = head.head_bytes.min(self.input.len());
                    if head.authorization.is_some() {
                        self.input.iter_mut().take(head_bytes).for_each(Zeroize::zeroize);
                    }
                    self.input.drain(..head_bytes);
                    let body_bytes = usize::try_from(head.body_bytes).unwrap_or(usize::MAX);
                    let n_here = body_bytes.min(self.input.len());
                    self.input.drain(..n_here);
                    let left = u64::try_from(body_bytes - n_here).unwrap_or(u64::MAX);
                    self.asked = now;
                    self.phase = Phase::Body(head, left);
                }
            }
        }
        if matches!(self.phase, Phase::Body(_, 0))
            && let Phase::Body(mut head, _) = std::mem::replace(&mut self.phase, Phase::Closed)
        {
            match pages.answer(&head) {
                Answer::Page(response) => self.answer(now, &head, &response, true, &pages.common()),
                Answer::Refused(response) => self.answer(now, &head, &response, false, &pages.common()),
                Answer::Later => {
                    head.authorization = None;
                    self.phase = Phase::Waiting(head);
                    self.deadline = now + self.times.verdict;
                }
            }
        }
    }

    /// Answers the request that waits, if one does, with its page.
    pub(super) fn resume(&mut self, now: Instant, routes: Routes<'_>, common: &Common<'_>) {
        if let Phase::Waiting(head) = &self.phase {
            let head = head.clone();
            self.answer(now, &head, &routes(&head), true, common);
        }
    }

    /// Answers the request that waits, if one does, with something else than its page.
    pub(super) fn refuse(&mut self, now: Instant, response: &Response, common: &Common<'_>) {
        if let Phase::Waiting(head) = &self.phase {
            let head = head.clone();
            self.answer(now, &head, response, false, common);
        }
    }

    /// Says to a client that spoke HTTP where TLS is spoken what it did, and ends.
    pub(super) fn refuse_plain(&mut self, now: Instant) {
        self.close_after = true;
        self.output.extend_from_slice(NO_TLS);
        self.phase = Phase::Writing;
        self.deadline = now + self.times.write;
    }

    /// `n` bytes of the output were sent.
    pub(super) fn sent(&mut self, now: Instant, n: usize) {
        self.n_sent += n;
        self.active = now;
        if self.n_sent < self.output.len() || self.phase != Phase::Writing {
            return;
        }
        // The memory of a large page is not kept for an idle client.
        self.output = Vec::new();
        self.n_sent = 0;
        if self.close_after {
            self.phase = Phase::Lingering;
            self.deadline = now + self.times.linger;
        } else if self.input.is_empty() {
            self.phase = Phase::Idle;
            self.deadline = now + self.times.head;
        } else {
            self.begin_head(now);
            self.unparsed = true;
        }
    }

    fn begin_head(&mut self, now: Instant) {
        self.phase = Phase::Head;
        self.deadline = now + self.times.head;
        self.active = now;
    }

    fn answer(&mut self, now: Instant, head: &Head, response: &Response, is_page: bool, common: &Common<'_>) {
        self.close_after |= head.close;
        let head_only = head.method == "HEAD";
        let framing = Framing { http_10: head.http_10, close: self.close_after, head_only };
        self.respond(now, response, framing, common);
        self.served = Some(Served {
            method: head.method.clone(),
            path: head.path.clone(),
            status: response.status,
            body_bytes: response.body.len(),
            took: now.saturating_duration_since(self.asked),
        });
        // Whoever is not let in stays among those that make room first.
        self.n_served += u64::from(is_page);
    }

    fn respond(&mut self, now: Instant, response: &Response, framing: Framing, common: &Common<'_>) {
        response.write(&mut self.output, framing, common);
        self.phase = Phase::Writing;
        self.deadline = now + self.times.write;
        self.active = now;
        if self.close_after {
            self.input = Vec::new();
        }
    }
}

/// Bytes read from a client at once; with what is buffered this bounds the input of a connection.
pub(super) const READ_BYTES: usize = limits::REQUEST_HEAD_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times {
        handshake: Duration::from_secs(5),
        head: Duration::from_secs(10),
        verdict: Duration::from_secs(10),
        write: Duration::from_secs(30),
        linger: Duration::from_secs(1),
    };

    fn echo(head: &Head) -> Response {
        Response::text(&format!("{} {}.", head.method, head.path))
    }

    /// Answers at once, but for `/later`.
    struct Echo;

    impl Pages for Echo {
        fn answer(&mut self, head: &Head) -> Answer {
            match head.path.as_str() {
                "/later" => Answer::Later,
                _ => Answer::Page(echo(head)),
            }
        }

        fn common(&self) -> Common<'_> {
            Common::default()
        }
    }

    /// Feeds `input` in pieces of `size` and returns everything that comes out.
    fn run(input: &str, size: usize) -> (String, Connection) {
        let now = Instant::now();
        let mut connection = Connection::new(TIMES, now);
        let mut out = Vec::new();
        for piece in input.as_bytes().chunks(size) {
            if !connection.wants_read() {
                break;
            }
            connection.received(now, piece);
            connection.step(now, &mut Echo);
            loop {
                out.extend_from_slice(connection.output());
                connection.sent(now, connection.output().len());
                if !connection.has_work() {
                    break;
                }
                connection.step(now, &mut Echo);
            }
        }
        (String::from_utf8(out).unwrap(), connection)
    }

    #[test]
    fn requests_in_a_row_are_answered_in_order_at_every_split() {
        let input = "GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /\n\
                     HEAD /c HTTP/1.1\r\nHost: x\r\n\r\nGET /d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /e";
        // The body is five bytes, and the line feed that follows it is an empty line before the next request.
        for size in 1..=input.len() {
            let (out, connection) = run(input, size);
            let at: Vec<_> = ["GET /a.", "POST /b.", "GET /d."].map(|text| out.find(text)).into();
            assert!(at.iter().all(Option::is_some) && at.is_sorted(), "pieces of {size}: {out}");
            assert!(!out.contains("HEAD /c.") && !out.contains("/e"), "{out}");
            assert!(connection.is_lingering());
        }
    }

    #[test]
    fn a_dripping_head_does_not_extend_its_time() {
        let start = Instant::now();
        let mut connection = Connection::new(TIMES, start);
        for seconds in 5..15 {
            let now = start + Duration::from_secs(seconds);
            connection.expire(now);
            connection.received(now, b"G");
            connection.step(now, &mut Echo);
            assert!(!connection.is_closed(), "after {seconds} s");
        }
        connection.expire(start + Duration::from_secs(15));
        assert!(connection.is_closed());
    }

    #[test]
    fn a_slow_reader_has_a_deadline_and_a_refused_one_lingers() {
        let start = Instant::now();
        let mut connection = Connection::new(TIMES, start);
        connection.received(start, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        connection.step(start, &mut Echo);
        for seconds in 0..30 {
            connection.sent(start + Duration::from_secs(seconds), 1);
        }
        connection.expire(start + Duration::from_secs(30));
        assert!(connection.is_closed());

        let (out, mut connection) = run("nonsense\r\n\r\n", 100);
        assert!(out.starts_with("HTTP/1.1 400 Bad Request\r\n") && out.contains("Connection: close\r\n"), "{out}");
        assert!(connection.is_lingering());
        connection.received(Instant::now(), b"more");
        assert!(connection.output().is_empty());
        connection.received(Instant::now(), b"");
        assert!(connection.is_closed());
    }

    #[test]
    fn half_open_ones_make_room_before_idle_ones_before_writing_ones() {
        let start = Instant::now();
        let half_open = Connection::new(TIMES, start + Duration::from_secs(2));
        let (_, mut idle) = run("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 100);
        idle.active = start;
        let mut writing = Connection::new(TIMES, start);
        writing.received(start, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        writing.step(start, &mut Echo);
        assert!(half_open.rank() < idle.rank() && idle.rank() < writing.rank());
        writing.finish();
        idle.finish();
        assert!(idle.is_closed() && !writing.is_closed());
    }

    #[test]
    fn a_request_may_wait_for_its_answer() {
        let start = Instant::now();
        let (out, mut connection) = run("GET /later HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\n\r\n", 1000);
        assert!(out.is_empty() && connection.is_waiting());
        assert!(!connection.wants_read() && !connection.has_work() && connection.output().is_empty());
        assert!(!format!("{connection:?}").contains("hidden"), "credentials are not kept while a request waits");
        assert_eq!(connection.rank().0, 1, "who was never let in makes room first");
        connection.resume(start, &echo, &Common::default());
        assert!(String::from_utf8_lossy(connection.output()).ends_with("\r\n\r\nGET /later."));
        connection.sent(start, connection.output().len());
        assert!(!connection.is_waiting() && connection.wants_read());
        // A second answer has no request.
        connection.resume(start, &echo, &Common::default());
        assert!(connection.output().is_empty());

        let (_, mut connection) =
            run("GET /later HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n", 1000);
        connection.refuse(start, &Response::unauthorized(), &Common::default());
        assert_eq!(connection.rank(), (3, connection.active));
        connection.sent(start, connection.output().len());
        assert_eq!(connection.rank().0, 1);
        connection.step(start, &mut Echo);
        assert!(String::from_utf8_lossy(connection.output()).ends_with("GET /next."));
    }
}
