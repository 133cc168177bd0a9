//! What the stores in this process have in common: a server of HTTP/1.1 that records every request and fails on demand in
//! the ways that stores and networks do, and how they read texts. Knows no store, and never checks what clients make of its
//! answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use md5::{Digest, Md5};
use pillion_base::threads::spawn_thread;
use sha2::Sha256;

/// What goes wrong with a request. `O` is what goes wrong in one kind of store only.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault<O> {
    /// Nothing is answered until the client goes away.
    Hang,
    /// The connection is reset after so many bytes of the body; nothing happened, unless the store keeps such pieces.
    Reset(usize),
    /// The request is done; the connection is reset instead of an answer.
    LoseAnswer,
    /// The request is done; the answer breaks off in the middle of its body.
    Truncate,
    /// The request is not done; this status and code are the answer, after the whole body.
    Refuse(u16, &'static str),
    /// As `Refuse`, before the body is read; then the connection is closed.
    RefuseEarly(u16, &'static str),
    /// The request is done, but the answer is this status and code.
    DoAndRefuse(u16, &'static str),
    /// The answer is a success, but nothing is kept.
    Drop,
    /// One byte of what is stored is changed, and the store does not notice.
    Corrupt,
    /// Something in between answers with this status and a web page.
    Portal(u16),
    /// The pieces of unfinished uploads are gone, before the request is done.
    ForgetPieces,
    Own(O),
}

/// What a store does with requests.
pub trait Store: Send + 'static {
    type OwnFault: Clone + PartialEq + Send;

    fn new(port: u16) -> Self;

    /// Says the operation of a request, and what it is about.
    fn route(call: &mut Call);

    /// Carries out a request. The server sees to the faults that are the same everywhere.
    fn act(&mut self, call: &mut Call, fault: Option<&Fault<Self::OwnFault>>) -> Reply;

    fn refusal(status: u16, code: &str) -> Reply;

    /// The headers that each answer has, its length among them.
    fn headers(&self, reply: &Reply, is_head: bool) -> Vec<(&'static str, String)>;

    /// A request broke off within its body.
    fn break_off(&mut self, _call: &Call) {}
}

struct Rule<O> {
    operation: &'static str,
    key: String,
    skip: usize,
    times: usize,
    fault: Fault<O>,
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub operation: &'static str,
    pub key: String,
    pub query: BTreeMap<String, String>,
    pub headers: BTreeMap<String, String>,
    pub body_bytes: usize,
}

struct Log<O> {
    seen: Vec<Seen>,
    rules: Vec<Rule<O>>,
}

struct Shared<S: Store> {
    store: Mutex<S>,
    log: Mutex<Log<S::OwnFault>>,
    has_ended: AtomicBool,
}

/// A server with its store. It ends when it is dropped.
pub struct Server<S: Store> {
    pub port: u16,
    shared: Arc<Shared<S>>,
}

impl<S: Store> Server<S> {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            store: Mutex::new(S::new(port)),
            log: Mutex::new(Log { seen: Vec::new(), rules: Vec::new() }),
            has_ended: AtomicBool::new(false),
        });
        let of_listener = Arc::clone(&shared);
        spawn_thread("fake-store", None, move || {
            for stream in listener.incoming() {
                if of_listener.has_ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&of_listener)) else { continue };
                spawn_thread("fake-connection", None, move || serve(stream, &shared)).unwrap();
            }
        })
        .unwrap();
        Server { port, shared }
    }

    /// The URL of the server.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The URL of something on it.
    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint())
    }

    /// The next `times` requests of `operation` (`""` is any) whose key contains `key` go wrong, after `skip` others.
    pub fn rule(&self, operation: &'static str, key: &str, skip: usize, times: usize, fault: Fault<S::OwnFault>) {
        self.shared.log.lock().unwrap().rules.push(Rule { operation, key: key.into(), skip, times, fault });
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut S) -> T) -> T {
        change(&mut self.shared.store.lock().unwrap())
    }

    /// The operations since this or `seen` was last called, in order.
    pub fn operations(&self) -> Vec<&'static str> {
        self.seen().iter().map(|seen| seen.operation).collect()
    }

    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.shared.log.lock().unwrap().seen)
    }
}

impl<S: Store> Drop for Server<S> {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// A request.
#[derive(Default)]
pub struct Call {
    pub(crate) method: String,
    /// Path and query as they were sent.
    pub(crate) target: String,
    pub(crate) operation: &'static str,
    /// Empty in a fake that has only one.
    pub(crate) container: String,
    pub(crate) key: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Call {
    pub(crate) fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// Where a range begins that has no end.
    pub(crate) fn range_start(&self) -> Option<usize> {
        self.headers.get("range").map(|range| between(range, "bytes=", "-").parse().unwrap())
    }
}

/// An answer.
pub struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// From the store, and not from something in between.
    pub(crate) is_own: bool,
}

pub(crate) fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply { status, headers: Vec::new(), body: body.into(), is_own: true }
}

pub(crate) fn with(mut reply: Reply, name: &str, value: &str) -> Reply {
    reply.headers.push((name.into(), value.into()));
    reply
}

/// Serves one connection until it ends.
fn serve<S: Store>(mut stream: TcpStream, shared: &Shared<S>) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut input = Vec::new();
    loop {
        let Some((mut call, length)) = read_head(&mut stream, &mut input) else { return };
        S::route(&mut call);
        let (fault, seen_idx) = note(&call, &mut shared.log.lock().unwrap());
        let limit = match fault {
            Some(Fault::Reset(after)) => after.min(length),
            Some(Fault::RefuseEarly(..)) => 0,
            _ => length,
        };
        while input.len() < limit {
            if !read_more(&mut stream, &mut input) {
                return;
            }
        }
        let behind = input.split_off(limit.min(input.len()));
        call.body = std::mem::replace(&mut input, behind);
        if let Some(seen) = shared.log.lock().unwrap().seen.get_mut(seen_idx) {
            seen.body_bytes = call.body.len();
        }
        let mut act = |fault| shared.store.lock().unwrap().act(&mut call, fault);
        let answer = match &fault {
            Some(Fault::Hang) => {
                let _ = stream.read(&mut [0; 1]);
                return;
            }
            Some(Fault::Reset(_)) => {
                shared.store.lock().unwrap().break_off(&call);
                return reset(&stream);
            }
            Some(Fault::LoseAnswer) => {
                act(None);
                return reset(&stream);
            }
            Some(Fault::Refuse(status, code) | Fault::RefuseEarly(status, code)) => S::refusal(*status, code),
            Some(Fault::DoAndRefuse(status, code)) => {
                act(None);
                S::refusal(*status, code)
            }
            Some(Fault::Portal(status)) => {
                Reply { is_own: false, ..reply(*status, "<html><body>Please log in</body></html>") }
            }
            other => act(other.as_ref()),
        };
        let is_head = call.method == "HEAD";
        let headers = shared.store.lock().unwrap().headers(&answer, is_head);
        let mut bytes = write_reply(&answer, headers, is_head);
        if fault == Some(Fault::Truncate) {
            bytes.truncate(bytes.len() - answer.body.len().div_ceil(2));
        }
        let is_last = matches!(fault, Some(Fault::RefuseEarly(..) | Fault::Truncate));
        if stream.write_all(&bytes).is_err() || is_last {
            let _ = stream.shutdown(Shutdown::Write);
            return;
        }
    }
}

/// Records a request and returns what is to go wrong with it, and where it is recorded.
fn note<O: Clone>(call: &Call, log: &mut Log<O>) -> (Option<Fault<O>>, usize) {
    log.seen.push(Seen {
        operation: call.operation,
        key: call.key.clone(),
        query: call.query.clone(),
        headers: call.headers.clone(),
        body_bytes: 0,
    });
    let matching = log.rules.iter_mut().find(|rule| {
        (rule.operation.is_empty() || rule.operation == call.operation)
            && call.key.contains(&rule.key)
            && rule.times > 0
    });
    let fault = matching.and_then(|rule| match rule.skip {
        0 => {
            rule.times -= 1;
            Some(rule.fault.clone())
        }
        _ => {
            rule.skip -= 1;
            None
        }
    });
    (fault, log.seen.len() - 1)
}

/// `false` at the end.
fn read_more(stream: &mut TcpStream, input: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 64 * 1024];
    let n = stream.read(&mut buffer).unwrap_or(0);
    input.extend_from_slice(&buffer[..n]);
    n > 0
}

/// The head of a request, and the length of its body.
fn read_head(stream: &mut TcpStream, input: &mut Vec<u8>) -> Option<(Call, usize)> {
    loop {
        if let Some((call, head_bytes)) = parse_head(input)? {
            input.drain(..head_bytes);
            let length = call.headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            return Some((call, length));
        }
        if !read_more(stream, input) {
            return None;
        }
    }
}

/// A head and its length, if it is there as a whole. `None` if it is none.
pub(crate) fn parse_head(input: &[u8]) -> Option<Option<(Call, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(input).ok()? else { return Some(None) };
    let target = head.path.unwrap().to_owned();
    let query = target
        .split_once('?')
        .map_or("", |(_, query)| query)
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    let headers = head
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8(header.value.to_vec()).unwrap()))
        .collect();
    Some(Some((Call { method: head.method.unwrap().to_owned(), target, query, headers, ..Call::default() }, length)))
}

/// The bytes of an answer, with these headers and its own.
pub(crate) fn write_reply(reply: &Reply, headers: Vec<(&'static str, String)>, is_head: bool) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {} Said\r\n", reply.status);
    let own = reply.headers.iter().map(|(name, value)| (name.as_str(), value));
    for (name, value) in headers.iter().map(|(name, value)| (*name, value)).chain(own) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if !is_head {
        bytes.extend_from_slice(&reply.body);
    }
    bytes
}

pub(crate) fn reset(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

/// The time on a clock that is so much before the host's.
pub(crate) fn now(offset_s: i64) -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_secs(offset_s)).unwrap()
}

/// `now` as a header has it.
pub(crate) fn date(offset_s: i64) -> String {
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now(offset_s)).unwrap()
}

/// Names and folders after `after`, at most so many, and whether there are more.
pub(crate) fn list_page<'a>(
    keys: impl Iterator<Item = &'a String>,
    prefix: &str,
    delimiter: &str,
    after: &str,
    names_max: usize,
) -> (Vec<(String, bool)>, bool) {
    let mut names: Vec<(String, bool)> = Vec::new();
    for key in keys.filter(|key| key.starts_with(prefix)) {
        let rest = &key[prefix.len()..];
        let entry = match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(end) => (key[..prefix.len() + end + 1].to_owned(), true),
            None => (key.clone(), false),
        };
        if names.last() != Some(&entry) {
            names.push(entry);
        }
    }
    names.sort();
    names.dedup();
    let mut rest = names.into_iter().filter(|(name, _)| name.as_str() > after);
    let page = rest.by_ref().take(names_max).collect();
    (page, rest.next().is_some())
}

/// Changes the first byte, if there is one.
pub(crate) fn damage(bytes: &mut [u8]) {
    if let Some(byte) = bytes.first_mut() {
        *byte ^= 1;
    }
}

pub(crate) fn md5_base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(Md5::digest(bytes))
}

pub(crate) fn md5_hex(bytes: &[u8]) -> String {
    hex(&Md5::digest(bytes))
}

pub(crate) fn crc32c_base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(crc32c::crc32c(bytes).to_be_bytes())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    text.split_once(before).unwrap().1.split_once(after).unwrap().0
}

/// RFC 2104 with SHA-256.
pub(crate) fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = if key.len() > 64 { Sha256::digest(key).to_vec() } else { key.to_vec() };
    block.resize(64, 0);
    let pad = |with: u8| block.iter().map(|byte| byte ^ with).collect::<Vec<u8>>();
    let inner = Sha256::digest([pad(0x36).as_slice(), text].concat());
    Sha256::digest([pad(0x5c).as_slice(), inner.as_slice()].concat()).to_vec()
}

pub(crate) fn encode(text: &str, keeps_slash: bool) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            b'/' if keeps_slash => "/".into(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&rest[..2]).unwrap(), 16).unwrap());
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).unwrap()
}
