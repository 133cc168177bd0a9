//! A bad link and a bad server, on demand: an HTTP proxy before a real S3 server that delays, cuts, truncates, refuses,
//! lies and loses, by rule, and otherwise passes everything on as it came (with the Host header that was signed).
//!
//! It is also an HTTP proxy in the ordinary sense (CONNECT and absolute URLs), whatever host is asked for: so names
//! that do not resolve can be used.
#![allow(dead_code, clippy::unwrap_used)]

mod wire;

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use md5::{Digest, Md5};

use wire::{Head, error_xml, lower_names, read_answer, read_head};

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much is passed on at once.
const BUFFER_BYTES: usize = 32 * 1024;
/// What the kernel holds for us at most, so that a pace is felt by the sender.
const SOCKET_BUFFER_BYTES: usize = 64 * 1024;

/// What is done to a request.
#[derive(Clone)]
pub enum Fault {
    /// It waits this long before it is passed on.
    Delay(Duration),
    /// This many bytes of its body are taken, then both connections are reset.
    ResetUp(u64),
    /// It is passed on; this many bytes of the answer's body come back (the head too, unless it is 0), then a reset.
    ResetDown(usize),
    /// It is passed on; the answer's body lacks this many bytes at its end.
    Truncate(usize),
    /// It never reaches the server. It is taken whole and answered with this status and S3 code.
    Refuse(u16, &'static str),
    /// The same, before its body is read, and the connection is closed.
    RefuseEarly(u16, &'static str),
    /// The server gets it, and its answer is replaced by this status and S3 code.
    Deny(u16, &'static str),
    /// It never reaches the server and is answered as if all were well (an upload or a part; nothing is stored).
    Lose,
    /// A byte of its body is changed on the way.
    Corrupt,
    /// It never reaches the server and is answered with status 200 and an S3 error in the body.
    OkWithError(&'static str),
    /// Before it is passed on, this is called with the path.
    First(Arc<dyn Fn(&str) + Send + Sync>),
    /// It is passed on; before the answer comes back, this is called with the path.
    Then(Arc<dyn Fn(&str) + Send + Sync>),
    /// Its connection stays open and silent until the proxy ends or the client does.
    Silence,
}

/// Which requests a fault is for: all that fit, after `skip` of them, `times` times.
#[derive(Clone)]
pub struct Rule {
    method: &'static str,
    query: String,
    path_end: String,
    skip: usize,
    times: usize,
    fault: Fault,
}

impl Rule {
    /// A fault for the next request, whatever it is.
    pub fn new(fault: Fault) -> Self {
        Rule { method: "", query: String::new(), path_end: String::new(), skip: 0, times: 1, fault }
    }

    /// Only for this method.
    pub fn method(self, method: &'static str) -> Self {
        Rule { method, ..self }
    }

    /// Only where the query has this, such as `partNumber=2`; whole parameters, or names (`uploadId`).
    pub fn query(self, query: &str) -> Self {
        Rule { query: query.to_owned(), ..self }
    }

    /// Only where the path ends in this.
    pub fn path(self, path_end: &str) -> Self {
        Rule { path_end: path_end.to_owned(), ..self }
    }

    /// Not for the first ones that fit.
    pub fn skip(self, skip: usize) -> Self {
        Rule { skip, ..self }
    }

    /// So many times; `usize::MAX` is for ever.
    pub fn times(self, times: usize) -> Self {
        Rule { times, ..self }
    }

    fn fits(&self, request: &Head) -> bool {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let has = |wanted: &str| {
            query.split('&').any(|pair| pair == wanted || pair.split('=').next() == Some(wanted.trim_end_matches('=')))
        };
        (self.method.is_empty() || self.method == request.method)
            && (self.query.is_empty() || has(&self.query))
            && path.ends_with(&self.path_end)
    }
}

/// A request that came, whatever became of it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// Without its signature.
    pub query: String,
    /// The lines of its head after the first, names in lower case.
    pub headers: String,
    /// Bytes of its body that were read.
    pub body_bytes: u64,
    /// What it was answered with, if it was.
    pub status: Option<u16>,
}

/// What the link does to every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Up,
    /// Connections are reset, new ones as soon as they are made.
    Down,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    is_down: bool,
    /// Bytes per second of all bodies on their way up; 0 is no limit.
    rate: u64,
    /// When the next byte may be passed on.
    next: Option<Instant>,
    seen: Vec<Seen>,
    up_bytes: u64,
    /// Weak, so that the end of a serving thread really closes its socket.
    connections: Vec<Weak<TcpStream>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    server: String,
}

/// The proxy; its threads end with the process.
pub struct FaultProxy {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

impl FaultProxy {
    /// A proxy before the server at `server`, with a good link and no rule.
    pub fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, SOCKET_BUFFER_BYTES).unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), server: server.to_owned() });
        let accepting = Arc::clone(&shared);
        spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&accepting);
                let stream = Arc::new(stream);
                {
                    let mut state = shared.state.lock().unwrap();
                    if state.is_down {
                        reset(&stream);
                        continue;
                    }
                    state.connections.retain(|connection| connection.strong_count() > 0);
                    state.connections.push(Arc::downgrade(&stream));
                }
                spawn(move || {
                    // What a cut connection leaves behind is the client's to deal with.
                    let _ = Connection { client: &stream, shared: &shared }.serve();
                });
            }
        });
        FaultProxy { addr, shared }
    }

    /// `127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        self.addr.to_string()
    }

    /// From now on this rule too; of several that fit, the first added counts.
    pub fn add(&self, rule: Rule) {
        self.shared.state.lock().unwrap().rules.push(rule);
    }

    /// From now on no rule. How many there were that still waited for a request.
    pub fn heal(&self) -> usize {
        std::mem::take(&mut self.shared.state.lock().unwrap().rules).len()
    }

    /// The whole link.
    pub fn set_link(&self, link: Link) {
        let mut state = self.shared.state.lock().unwrap();
        state.is_down = link == Link::Down;
        if state.is_down {
            for connection in state.connections.drain(..).filter_map(|connection| connection.upgrade()) {
                reset(&connection);
                // Wakes its thread, which closes it.
                let _ = connection.shutdown(Shutdown::Read);
            }
        }
    }

    /// Bytes per second of all bodies on their way up together; 0 is no limit.
    pub fn set_rate(&self, rate: u64) {
        let mut state = self.shared.state.lock().unwrap();
        (state.rate, state.next) = (rate, None);
    }

    /// The requests that ended since this was last asked.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.state.lock().unwrap().seen)
    }

    /// Bytes of bodies that came so far, those of requests that are under way too.
    pub fn up_bytes(&self) -> u64 {
        self.shared.state.lock().unwrap().up_bytes
    }

    /// Waits until so many bytes of bodies have come in all, but not longer than `at_most`; whether they have.
    pub fn wait_up_bytes(&self, n: u64, at_most: Duration) -> bool {
        let state = self.shared.state.lock().unwrap();
        let (state, _) = self.shared.changed.wait_timeout_while(state, at_most, |state| state.up_bytes < n).unwrap();
        state.up_bytes >= n
    }

    /// Waits until so many requests have ended that were not `seen`, but not longer than `at_most`; whether they have.
    pub fn wait_requests(&self, n: usize, at_most: Duration) -> bool {
        let state = self.shared.state.lock().unwrap();
        let (state, _) = self.shared.changed.wait_timeout_while(state, at_most, |state| state.seen.len() < n).unwrap();
        state.seen.len() >= n
    }

    /// Waits for a request that ended and fits; it and those before it are no longer `seen`.
    pub fn wait_seen(&self, what: &str, fits: impl Fn(&Seen) -> bool) -> Seen {
        let state = self.shared.state.lock().unwrap();
        let (mut state, _) =
            self.shared.changed.wait_timeout_while(state, PATIENCE, |state| !state.seen.iter().any(&fits)).unwrap();
        let found = state.seen.iter().position(&fits);
        let idx = found.unwrap_or_else(|| panic!("no {what} among {:?}", state.seen));
        state.seen.drain(..=idx).next_back().unwrap()
    }
}

struct Connection<'a> {
    client: &'a TcpStream,
    shared: &'a Shared,
}

impl Connection<'_> {
    fn serve(&self) -> std::io::Result<()> {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, self.client);
        while let Some(head) = read_head(&mut reader)? {
            if self.shared.state.lock().unwrap().is_down {
                reset(self.client);
                return Ok(());
            }
            if head.method == "CONNECT" {
                (&mut &*self.client).write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                continue;
            }
            let (mut body_bytes, mut status) = (0, None);
            let result = self.pass(&head, &mut reader, &mut body_bytes, &mut status);
            let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
            let unsigned: Vec<_> = query.split('&').filter(|pair| !pair.starts_with("X-Amz-")).collect();
            let (method, path, query) = (head.method.clone(), path.to_owned(), unsigned.join("&"));
            let headers = lower_names(&head.lines);
            self.shared.state.lock().unwrap().seen.push(Seen { method, path, query, headers, body_bytes, status });
            self.shared.changed.notify_all();
            if !result? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The first rule that fits has its say.
    fn fault(&self, head: &Head) -> Option<Fault> {
        let mut state = self.shared.state.lock().unwrap();
        let idx = state.rules.iter().position(|rule| rule.fits(head))?;
        let rule = state.rules.get_mut(idx)?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        let fault = rule.fault.clone();
        rule.times = rule.times.saturating_sub(1);
        if rule.times == 0 {
            state.rules.remove(idx);
        }
        Some(fault)
    }

    /// One request; whether the connection can be used for another.
    fn pass(
        &self,
        head: &Head,
        reader: &mut impl Read,
        body_bytes: &mut u64,
        status: &mut Option<u16>,
    ) -> std::io::Result<bool> {
        let fault = self.fault(head);
        let refused = match &fault {
            Some(Fault::RefuseEarly(refused, code)) => {
                *status = Some(*refused);
                self.answer(*refused, "", &error_xml(code))?;
                self.client.shutdown(Shutdown::Both)?;
                return Ok(false);
            }
            Some(Fault::Refuse(refused, code)) => Some((*refused, error_xml(code))),
            Some(Fault::OkWithError(code)) => Some((200, error_xml(code))),
            Some(Fault::Lose) => Some((200, String::new())),
            Some(Fault::Delay(time)) => {
                wait(*time);
                None
            }
            Some(Fault::First(call)) => {
                call(head.target.split('?').next().unwrap_or_default());
                None
            }
            Some(Fault::Silence) => {
                let mut byte = [0; 1];
                while reader.read(&mut byte)? > 0 {}
                return Ok(false);
            }
            _ => None,
        };
        if head.expects_continue {
            (&mut &*self.client).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if let Some((refused, body)) = refused {
            let mut hash = Md5::new();
            self.body(head, reader, body_bytes, |bytes| {
                hash.update(bytes);
                Ok(())
            })?;
            let tag: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            *status = Some(refused);
            self.answer(refused, &format!("ETag: \"{tag}\"\r\n"), &body)?;
            return Ok(true);
        }

        let server = TcpStream::connect(&self.shared.server)?;
        server.set_read_timeout(Some(PATIENCE))?;
        let mut upstream = &server;
        write!(upstream, "{} {} HTTP/1.1\r\n{}Connection: close\r\n\r\n", head.method, head.target, head.lines)?;
        let until = if let Some(Fault::ResetUp(bytes)) = fault { bytes } else { u64::MAX };
        let (mut n_taken, mut is_corrupted) = (0, !matches!(fault, Some(Fault::Corrupt)));
        // A server that refuses says so before it has read all, and may read no more.
        let mut is_refusing = false;
        let sent = self.body(head, reader, body_bytes, |bytes| {
            n_taken += bytes.len() as u64;
            if n_taken >= until {
                return Err(ErrorKind::ConnectionReset.into());
            }
            if let (false, Some(first)) = (is_corrupted, bytes.first_mut()) {
                *first ^= 1;
                is_corrupted = true;
            }
            is_refusing = is_refusing || upstream.write_all(bytes).is_err();
            Ok(())
        });
        if let Err(err) = sent {
            reset(&server);
            if until < u64::MAX {
                reset(self.client);
            }
            return Err(err);
        }
        let (code, kept, body) = read_answer(&server, &head.method)?;
        let announced = body.len();
        match fault {
            Some(Fault::Then(call)) => call(head.target.split('?').next().unwrap_or_default()),
            Some(Fault::Deny(denied, code)) => {
                *status = Some(denied);
                self.answer(denied, "", &error_xml(code))?;
                return Ok(true);
            }
            Some(Fault::ResetDown(n_bytes)) => {
                if n_bytes > 0 {
                    let part = body.get(..n_bytes).unwrap_or(&body);
                    self.send(code, &kept, Some(announced), part)?;
                }
                reset(self.client);
                return Ok(false);
            }
            Some(Fault::Truncate(missing)) => {
                let part = body.get(..announced.saturating_sub(missing)).unwrap_or_default();
                self.send(code, &kept, Some(announced), part)?;
                self.client.shutdown(Shutdown::Both)?;
                return Ok(false);
            }
            _ => {}
        }
        *status = Some(code);
        // The length of what was not sent stays what the server said.
        let length = (head.method != "HEAD" && code != 204).then_some(announced);
        self.send(code, &kept, length, &body)?;
        Ok(true)
    }

    /// Reads the body at the pace of the link and gives it out in pieces.
    fn body(
        &self,
        head: &Head,
        reader: &mut impl Read,
        body_bytes: &mut u64,
        mut take: impl FnMut(&mut [u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        while *body_bytes < head.length {
            // Small steps at a slow pace, so that nothing waits long for a rate that is no longer so.
            let rate = self.shared.state.lock().unwrap().rate;
            let step = if rate == 0 { BUFFER_BYTES as u64 } else { (rate / 20).clamp(1, BUFFER_BYTES as u64) };
            let step = usize::try_from(step.min(head.length - *body_bytes)).unwrap();
            let n = reader.read(&mut buffer[..step])?;
            if n == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            *body_bytes += n as u64;
            let pause = {
                let mut state = self.shared.state.lock().unwrap();
                state.up_bytes += n as u64;
                let now = Instant::now();
                (rate > 0).then(|| {
                    let next =
                        state.next.map_or(now, |next| next.max(now)) + Duration::from_secs_f64(n as f64 / rate as f64);
                    state.next = Some(next);
                    next - now
                })
            };
            self.shared.changed.notify_all();
            if let Some(pause) = pause {
                wait(pause);
            }
            take(&mut buffer[..n])?;
        }
        Ok(())
    }

    fn answer(&self, status: u16, lines: &str, body: &str) -> std::io::Result<()> {
        self.send(status, &format!("{lines}Content-Type: application/xml\r\n"), Some(body.len()), body.as_bytes())
    }

    fn send(&self, status: u16, lines: &str, length: Option<usize>, body: &[u8]) -> std::io::Result<()> {
        let mut client = self.client;
        let length = length.map_or_else(String::new, |length| format!("Content-Length: {length}\r\n"));
        client.write_all(format!("HTTP/1.1 {status} X\r\n{lines}{length}\r\n").as_bytes())?;
        client.write_all(body)
    }
}

/// Makes the close of a connection a reset.
fn reset(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

fn wait(time: Duration) {
    let (_keep, never) = crossbeam_channel::bounded::<()>(0);
    let _ = never.recv_timeout(time);
}

#[allow(clippy::disallowed_methods)]
fn spawn(body: impl FnOnce() + Send + 'static) {
    std::thread::spawn(body);
}
