//! A bucket of Google Cloud Storage in this process, and the service that gives tokens for it. It verifies the statements of
//! service accounts with code of its own, is strict about sessions, records every request, and fails on demand in the ways
//! that stores and networks do. Never checks what clients make of its answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use md5::{Digest, Md5};
use pillion_base::threads::spawn_thread;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};

use crate::fake_s3::{between, decode, reset};

pub const BUCKET: &str = "fake-bucket";
pub const EMAIL: &str = "fake@project.iam.gserviceaccount.com";
/// What chunks must be multiples of.
pub const UNIT: usize = 256 * 1024;
/// The key of the fake's service account. Made by `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048`; it guards
/// nothing.
pub const SERVICE_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQCSuO3IyO6K3V/i
HkJ5bS86EEj5xJbSeRXyIFr8ozj+d77UNf7qPdIEjqiMuqKgk3+IEOGbov3zRGzF
pVGlce0iUWXisCFWh/GolnzwV0MUVZJ6mJJuV9eEVJKO2hAbo10jS60zlSjUBkhw
WuemnxKdQyVjNUCOTBpAfjmhB8yQuAnMp8x8GdGcw3K3y+LIxzwdkRSZF/YggboG
rzs88kG4/Z+CiU86m8gEI+4tPn2P8ulOsjwxp9A8NFr6E2F1tWpmIamlIgbVYBN0
5hyTzRhdV3+kS56Q5uMHomYD/BSIk5sTrtnfJLC98eDSLUc/3o3gYVDCZuNadBWy
m6ehfhd5AgMBAAECggEABjeZ+oTxm5+OmPYjLjCYLIyjG+Hlv1A2/K8Rv4AOAdH7
fwzfzMzjfGnW55EKI+XhehCa1sL890bM0kGo0xWf1EadRllO2FaqecKCtySxr7KC
Imuo/pU3UIR3W9IrJHUd+GW+z2Z5YpeE5fSVDuR8Jw1A1wtM6Ax+gIFxqEOR1urg
oiD0557WCo11j7r5zlzRedxjDJorJepARPo0Z9UFOdbyUB7V8QflgGoFT3S6pXBb
aMyQIfYXKYEANjbg/snx4mDzociivWMZ53bjOfWRAjd0I2MiaJYBO9kRoPKaUJN5
AEltiSPdv7wlr5V1DCFjO3kI0sq2gpibUVNlA2Z+vwKBgQDGAZFRS7mB1fdqJj1U
1Jb5QEmhYaKI1YFQmzpDDfZDXCpkT6lZ8dJvaTT1POHQzEEjgfaMWcJr9CJvgUf/
B9P5Gi0ILgz7UmUYQGIEBYlwtnn7kCS7ut1XzCwgM3NLt7VN3NO3G6DJd98pnDjc
GQgyMoXyWx4PpVLeJ3gmHI3ptwKBgQC9sh+O6MNOs3qzishz8oCb+XGWH+f2gZgU
ESuTgpd/WzItScODgCm8oHzyHURvuSD50rzm3VxFpbLSiWejMYgAxt4HgFj+HLTq
Q0otMtTt9kul72WF/ytoSaKz0btal+2zEFrx2pc8hjo0DCq32yZpfSYg1eBUQAUN
bpFVFcTITwKBgQCFmrcwMLVae0K3uFe37r50LsHAB/5A8DeSaTtV1YzuhLkB+JKf
40EH9ehK9aq1Va06RU5UA5jheNjnfkdTOTf5pITwOQp/Zmhahc7dQdMsX6RNb0Sp
+3uw60525+CLHclTYYblzdmfN6g4DnZ7ZNSX8mlZT8wn6HjS97TlmmzTXwKBgQCx
AaHi9x0vtdgb6rdrQfByGou72t/XLEwdBXyU83msFAu5KKhwb0oCwfp07Yxrd+Lm
Wpd8EThFoP1A6Yg0Rkay+t45P7FKxLyoD8wKavE3buhd2QnxxA3cDUHt6xmYykW6
HdvO6/rNNi7fXC8MSkkIjAflAc2GsApG41Jng52QjwKBgBDz7VKtD7yHZB5h21kf
cYFY0hUTj/pixwLeH7M/j8kW+d69VrMKdlWfFIBOwbjbzcBaYQulmjFk4Q9HU5By
R9kbc1Vhl54D9wOAyrVdRdw2HANCbKP0Vj6rgdau9aqbqdiNikP3YTC1ly9Opj77
3RB6vNJuFeoKUPYwM6aMAS9h
-----END PRIVATE KEY-----
";
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

/// The key file of the service account, in Google's JSON.
pub fn key_file(token_url: &str) -> String {
    let value = json!({
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "key-1",
        "private_key": SERVICE_KEY,
        "client_email": EMAIL,
        "client_id": "1",
        "token_uri": token_url,
        "universe_domain": "googleapis.com",
    });
    serde_json::to_string_pretty(&value).unwrap()
}

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Nothing is answered until the client goes away.
    Hang,
    /// The connection is reset after so many bytes of the body; of a chunk whole units of them are kept.
    Reset(usize),
    /// The request is done; the connection is reset instead of an answer.
    LoseAnswer,
    /// The request is done; the answer breaks off in the middle of its body.
    Truncate,
    /// The request is not done; this status and reason are the answer, after the whole body.
    Refuse(u16, &'static str),
    /// As `Refuse`, before the body is read; then the connection is closed.
    RefuseEarly(u16, &'static str),
    /// As `Refuse`, with this message.
    Say(u16, &'static str, &'static str),
    /// The request is done, but the answer is this status and reason.
    DoAndRefuse(u16, &'static str),
    /// One byte of what is stored is changed, and the sums are those of what is stored; or one of what is read, and they
    /// are not.
    Corrupt,
    /// Something in between answers with this status and a web page.
    Portal(u16),
    /// Only so many bytes of the chunk are kept, which the answer says.
    Keep(usize),
    /// The session is gone before the request is done, and the answer has this status.
    Forget(u16),
    /// The answer is a success with another CRC-32C.
    OtherSum,
}

struct Rule {
    operation: &'static str,
    key: String,
    skip: usize,
    times: usize,
    fault: Fault,
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

#[derive(Clone, Default)]
pub struct Object {
    pub bytes: Vec<u8>,
    pub generation: u64,
    /// Answers do not say its sums.
    pub has_no_sums: bool,
}

#[derive(Clone, Default)]
pub struct Session {
    pub key: String,
    pub bytes: Vec<u8>,
    crc32c: String,
    size: usize,
    is_done: bool,
}

pub struct State {
    pub objects: BTreeMap<String, Object>,
    pub sessions: BTreeMap<String, Session>,
    pub seen: Vec<Seen>,
    pub has_bucket: bool,
    /// The store's clock minus the host's.
    pub offset_s: i64,
    pub page_names: usize,
    /// The token that is accepted; empty for none.
    pub token: String,
    /// Anybody may do everything, as with an emulator.
    pub is_open: bool,
    pub n_tokens: usize,
    /// Whoever replaces an object is refused.
    pub forbids_replacing: bool,
    rules: Vec<Rule>,
    n_written: u64,
    n_sessions: usize,
}

pub struct FakeGcs {
    pub port: u16,
    pub state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

impl FakeGcs {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            objects: BTreeMap::new(),
            sessions: BTreeMap::new(),
            seen: Vec::new(),
            has_bucket: true,
            offset_s: 0,
            page_names: 1000,
            token: String::new(),
            is_open: false,
            n_tokens: 0,
            forbids_replacing: false,
            rules: Vec::new(),
            n_written: 0,
            n_sessions: 0,
        }));
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&ended));
        spawn_thread("fake-gcs", None, move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), state) = (stream, Arc::clone(&shared)) else { continue };
                spawn_thread("fake-gcs-connection", None, move || serve(stream, &state, port)).unwrap();
            }
        })
        .unwrap();
        FakeGcs { port, state, ended }
    }

    /// The URL of the service.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The URL that gives tokens.
    pub fn token_url(&self) -> String {
        token_url(self.port)
    }

    /// The next `times` requests of `operation` (`""` is any) whose object contains `key` go wrong, after `skip` others.
    pub fn rule(&self, operation: &'static str, key: &str, skip: usize, times: usize, fault: Fault) {
        self.with(|state| state.rules.push(Rule { operation, key: key.into(), skip, times, fault }));
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// The operations since this or `seen` was last called, in order.
    pub fn operations(&self) -> Vec<&'static str> {
        self.seen().iter().map(|seen| seen.operation).collect()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.with(|state| std::mem::take(&mut state.seen))
    }

    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.with(|state| state.objects.get(key).map(|object| object.bytes.clone()))
    }

    /// Sessions that have made no object yet.
    pub fn n_open_sessions(&self) -> usize {
        self.with(|state| state.sessions.values().filter(|session| !session.is_done).count())
    }
}

impl Drop for FakeGcs {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn token_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/token")
}

struct Call {
    operation: &'static str,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Call {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply { status, headers: vec![("X-GUploader-UploadID".into(), "never-shown".into())], body: body.into() }
}

fn resource(status: u16, value: &Value) -> Reply {
    with(reply(status, value.to_string()), "Content-Type", "application/json; charset=UTF-8")
}

fn say(status: u16, reason: &str, message: &str) -> Reply {
    let errors = json!([{ "message": message, "domain": "global", "reason": reason }]);
    resource(status, &json!({ "error": { "code": status, "message": message, "errors": errors } }))
}

fn refusal(status: u16, reason: &str) -> Reply {
    say(status, reason, "told so")
}

fn no_such(key: &str) -> Reply {
    say(404, "notFound", &format!("No such object: {BUCKET}/{key}"))
}

fn with(mut reply: Reply, name: &str, value: &str) -> Reply {
    reply.headers.push((name.into(), value.into()));
    reply
}

/// Serves one connection until it ends.
fn serve(mut stream: TcpStream, state: &Mutex<State>, port: u16) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut input = Vec::new();
    loop {
        let Some((mut call, length)) = read_head(&mut stream, &mut input) else { return };
        let (fault, seen_idx) = note(&call, state);
        let limit = match fault {
            Some(Fault::Reset(after)) => after.min(length),
            Some(Fault::RefuseEarly(..)) => 0,
            _ => length,
        };
        while input.len() < limit {
            let mut buffer = [0; 64 * 1024];
            match stream.read(&mut buffer) {
                Ok(n) if n > 0 => input.extend_from_slice(&buffer[..n]),
                _ => return,
            }
        }
        let behind = input.split_off(limit.min(input.len()));
        call.body = std::mem::replace(&mut input, behind);
        if let Some(seen) = state.lock().unwrap().seen.get_mut(seen_idx) {
            seen.body_bytes = call.body.len();
        }
        let answer = match &fault {
            Some(Fault::Hang) => {
                let _ = stream.read(&mut [0; 1]);
                return;
            }
            Some(Fault::Reset(_)) => {
                keep_units(&call, &mut state.lock().unwrap());
                return reset(&stream);
            }
            Some(Fault::LoseAnswer) => {
                act(&mut call, state, None, port);
                return reset(&stream);
            }
            Some(Fault::Refuse(status, reason) | Fault::RefuseEarly(status, reason)) => refusal(*status, reason),
            Some(Fault::Say(status, reason, message)) => say(*status, reason, message),
            Some(Fault::DoAndRefuse(status, reason)) => {
                act(&mut call, state, None, port);
                refusal(*status, reason)
            }
            Some(Fault::Portal(status)) => {
                let page = b"<html><body>Please log in</body></html>".to_vec();
                Reply { status: *status, headers: vec![("Content-Type".into(), "text/html".into())], body: page }
            }
            other => act(&mut call, state, other.as_ref(), port),
        };
        let mut bytes = write_reply(&answer, &state.lock().unwrap());
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
fn note(call: &Call, state: &Mutex<State>) -> (Option<Fault>, usize) {
    let mut state = state.lock().unwrap();
    state.seen.push(Seen {
        operation: call.operation,
        key: call.key.clone(),
        query: call.query.clone(),
        headers: call.headers.clone(),
        body_bytes: 0,
    });
    let seen_idx = state.seen.len() - 1;
    let matching = state.rules.iter_mut().find(|rule| {
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
    (fault, seen_idx)
}

fn read_head(stream: &mut TcpStream, input: &mut Vec<u8>) -> Option<(Call, usize)> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        let parsed = head.parse(input).ok()?;
        if let httparse::Status::Complete(length) = parsed {
            let (path, raw_query) = head.path.unwrap().split_once('?').unwrap_or((head.path.unwrap(), ""));
            let headers: BTreeMap<String, String> = head
                .headers
                .iter()
                .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8(header.value.to_vec()).unwrap()))
                .collect();
            let query: BTreeMap<String, String> = raw_query
                .split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decode(name), decode(value)))
                .collect();
            let objects = path.strip_prefix(&format!("/storage/v1/b/{BUCKET}/o"));
            let is_upload = path == format!("/upload/storage/v1/b/{BUCKET}/o");
            let key = match objects {
                Some(rest) => decode(rest.trim_start_matches('/')),
                None => query.get("name").cloned().unwrap_or_default(),
            };
            // A name is one part of the path.
            let is_object = objects.is_some_and(|rest| rest.len() > 1 && !rest[1..].contains('/'));
            let get = |name: &str| query.get(name).map_or("", String::as_str);
            let range = headers.get("content-range").map_or("", String::as_str);
            let operation = match (head.method.unwrap(), objects, is_upload) {
                ("POST", None, false) if path == "/token" => "token",
                ("GET", Some(_), _) if is_object && get("alt") == "media" => "content",
                ("GET", Some(_), _) if is_object => "objects.get",
                ("GET", Some(""), _) => "objects.list",
                ("DELETE", Some(_), _) if is_object => "objects.delete",
                ("POST", None, true) if get("uploadType") == "media" => "media",
                ("POST", None, true) if get("uploadType") == "resumable" => "begin",
                ("PUT", None, true) if range.starts_with("bytes */") => "question",
                ("PUT", None, true) => "chunk",
                ("DELETE", None, true) => "cancel",
                _ => "unknown",
            };
            let body_length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            input.drain(..length);
            return Some((Call { operation, key, query, headers, body: Vec::new() }, body_length));
        }
        let mut buffer = [0; 16 * 1024];
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => input.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

fn now(state: &State) -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_secs(state.offset_s)).unwrap()
}

fn write_reply(reply: &Reply, state: &State) -> Vec<u8> {
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now(state)).unwrap();
    let mut text = format!("HTTP/1.1 {} Said\r\nDate: {date}\r\n", reply.status);
    if reply.status != 204 {
        text.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&reply.body);
    bytes
}

fn crc32c_base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(crc32c::crc32c(bytes).to_be_bytes())
}

fn md5_base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(Md5::digest(bytes))
}

fn hash_header(bytes: &[u8]) -> String {
    format!("crc32c={},md5={}", crc32c_base64(bytes), md5_base64(bytes))
}

/// What the store says of an object: the fields that were asked for.
fn describe(call: &Call, key: &str, object: &Object) -> Value {
    let mut value = json!({
        "kind": "storage#object",
        "id": format!("{BUCKET}/{key}/{}", object.generation),
        "name": key,
        "bucket": BUCKET,
        "generation": object.generation.to_string(),
        "size": object.bytes.len().to_string(),
    });
    let fields = value.as_object_mut().unwrap();
    if !object.has_no_sums {
        fields.insert("crc32c".into(), crc32c_base64(&object.bytes).into());
        fields.insert("md5Hash".into(), md5_base64(&object.bytes).into());
    }
    let wanted: Vec<&str> = call.parameter("fields").split(',').filter(|field| !field.is_empty()).collect();
    if !wanted.is_empty() {
        fields.retain(|name, _| wanted.contains(&name.as_str()));
    }
    value
}

/// Carries out a request.
fn act(call: &mut Call, state: &Mutex<State>, fault: Option<&Fault>, port: u16) -> Reply {
    let mut state = state.lock().unwrap();
    let state = &mut *state;
    if call.operation == "token" {
        return token(call, state, port);
    }
    let authorization = call.header("authorization");
    let is_known = authorization.strip_prefix("Bearer ").is_some_and(|token| token == state.token && !token.is_empty());
    if !is_known && !state.is_open {
        return say(401, "authError", "Invalid Credentials");
    }
    if state.is_open && !authorization.is_empty() {
        return say(400, "invalid", "an emulator is sent no token");
    }
    if !state.has_bucket {
        return say(404, "notFound", "The specified bucket does not exist.");
    }
    let mut body = std::mem::take(&mut call.body);
    let mut is_other_sum = fault == Some(&Fault::OtherSum);
    if fault == Some(&Fault::Corrupt)
        && let Some(byte) = body.first_mut()
    {
        *byte ^= 1;
    }
    if let Some(Fault::Forget(status)) = fault {
        state.sessions.remove(call.parameter("upload_id"));
        return refusal(*status, "notFound");
    }
    let key = call.key.clone();
    let mut answer = match call.operation {
        "media" => media(call, state, body, fault == Some(&Fault::Corrupt)),
        "begin" => begin(call, state, &body, port),
        "chunk" => {
            let kept = if let Some(Fault::Keep(kept)) = fault { *kept } else { body.len() };
            chunk(call, state, &body, kept)
        }
        "question" => question(call, state),
        "cancel" => match state.sessions.remove(call.parameter("upload_id")) {
            Some(_) => reply(499, ""),
            None => refusal(404, "notFound"),
        },
        "objects.get" => match state.objects.get(&key) {
            Some(object) => resource(200, &describe(call, &key, object)),
            None => no_such(&key),
        },
        "content" => content(call, state, fault == Some(&Fault::Corrupt)),
        "objects.delete" => match state.objects.get(&key).map(|object| object.generation.to_string()) {
            Some(generation) if call.query.get("ifGenerationMatch").is_some_and(|wanted| *wanted != generation) => {
                say(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
            }
            Some(_) => {
                state.objects.remove(&key);
                reply(204, "")
            }
            None => no_such(&key),
        },
        "objects.list" => list(call, state),
        _ => refusal(400, "invalid"),
    };
    is_other_sum &= answer.status == 200;
    if is_other_sum {
        let mut value: Value = serde_json::from_slice(&answer.body).unwrap();
        value["crc32c"] = "AAAAAA==".into();
        answer.body = value.to_string().into_bytes();
    }
    answer
}

/// Stores an object, unless one that is there must not be replaced.
fn store(call: &Call, state: &mut State, bytes: Vec<u8>) -> Reply {
    if state.forbids_replacing && state.objects.contains_key(&call.key) {
        let text = format!("{EMAIL} does not have storage.objects.delete access to the Google Cloud Storage object.");
        return say(403, "forbidden", &text);
    }
    state.n_written += 1;
    let object = Object { bytes, generation: 1000 + state.n_written, has_no_sums: false };
    state.objects.insert(call.key.clone(), object.clone());
    resource(200, &describe(call, &call.key, &object))
}

fn media(call: &Call, state: &mut State, body: Vec<u8>, is_corrupt: bool) -> Reply {
    if call.header("content-type").is_empty() || !call.headers.contains_key("content-length") {
        return refusal(411, "required");
    }
    let said = call.header("x-goog-hash");
    if said != hash_header(&body) && !is_corrupt {
        return say(400, "invalid", "Provided CRC32C doesn't match calculated CRC32C.");
    }
    store(call, state, body)
}

fn begin(call: &Call, state: &mut State, body: &[u8], port: u16) -> Reply {
    let Ok(metadata) = serde_json::from_slice::<Value>(body) else { return refusal(400, "parseError") };
    let size = call.header("x-upload-content-length").parse();
    let (Some(crc32c), Ok(size)) = (metadata["crc32c"].as_str(), size) else { return refusal(400, "required") };
    state.n_sessions += 1;
    let id = format!("session-{}-never-shown", state.n_sessions);
    let session = Session { key: call.key.clone(), crc32c: crc32c.to_owned(), size, ..Session::default() };
    state.sessions.insert(id.clone(), session);
    let name = crate::fake_s3::encode(&call.key, false);
    let fields = call.parameter("fields");
    let address = format!(
        "http://127.0.0.1:{port}/upload/storage/v1/b/{BUCKET}/o?name={name}&fields={fields}&uploadType=resumable&upload_id={id}"
    );
    with(reply(200, ""), "Location", &address)
}

/// Start, end and size of a chunk.
fn range_of(call: &Call) -> Option<(usize, usize, usize)> {
    let (range, size) = call.header("content-range").strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<usize>().ok()? + 1, size.parse().ok()?))
}

/// Of a chunk that breaks off whole units stay.
fn keep_units(call: &Call, state: &mut State) {
    let Some((start, ..)) = range_of(call).filter(|_| call.operation == "chunk") else { return };
    let Some(session) = state.sessions.get_mut(call.parameter("upload_id")) else { return };
    let end = (start + call.body.len()) / UNIT * UNIT;
    if end > session.bytes.len() {
        session.bytes.truncate(start);
        session.bytes.extend_from_slice(&call.body[..end - start]);
    }
}

fn progress(session: &Session) -> Reply {
    match session.bytes.len() {
        0 => reply(308, ""),
        length => with(reply(308, ""), "Range", &format!("bytes=0-{}", length - 1)),
    }
}

fn chunk(call: &Call, state: &mut State, body: &[u8], kept: usize) -> Reply {
    let id = call.parameter("upload_id");
    let Some(session) = state.sessions.get_mut(id).filter(|session| session.key == call.key) else {
        return refusal(404, "notFound");
    };
    let Some((start, end, size)) = range_of(call) else { return refusal(400, "badContentRange") };
    let is_whole = end - start == body.len() && size == session.size && end <= size;
    if !is_whole || (end < size && !body.len().is_multiple_of(UNIT) && !end.is_multiple_of(UNIT)) {
        return refusal(400, "badChunk");
    }
    if start > session.bytes.len() {
        return refusal(503, "backendError");
    }
    if !session.is_done {
        // What is there already does not change.
        let known = session.bytes.len() - start;
        let body = &body[..kept.min(body.len())];
        session.bytes.extend_from_slice(body.get(known..).unwrap_or_default());
    }
    if session.bytes.len() < size {
        return progress(session);
    }
    finish(call, state)
}

/// Makes the object of a session that has all its bytes.
fn finish(call: &Call, state: &mut State) -> Reply {
    let id = call.parameter("upload_id").to_owned();
    let session = state.sessions[&id].clone();
    if session.is_done {
        let object = state.objects.get(&session.key).cloned().unwrap_or_default();
        return resource(200, &describe(call, &session.key, &object));
    }
    let said = call.header("x-goog-hash");
    let sum = crc32c_base64(&session.bytes);
    if sum != session.crc32c || !(said.is_empty() || said == format!("crc32c={sum}")) {
        state.sessions.remove(&id);
        return say(400, "invalid", "Provided CRC32C doesn't match calculated CRC32C.");
    }
    let answer = store(call, state, session.bytes);
    if answer.status == 200 {
        state.sessions.get_mut(&id).unwrap().is_done = true;
    }
    answer
}

fn question(call: &Call, state: &mut State) -> Reply {
    let Some(session) = state.sessions.get(call.parameter("upload_id")) else { return refusal(404, "notFound") };
    if call.header("content-range") != format!("bytes */{}", session.size) || call.header("content-length") != "0" {
        return refusal(400, "badContentRange");
    }
    if session.bytes.len() < session.size {
        return progress(session);
    }
    finish(call, state)
}

fn content(call: &Call, state: &State, is_corrupt: bool) -> Reply {
    let Some(object) = state.objects.get(&call.key) else {
        return with(reply(404, format!("No such object: {BUCKET}/{}", call.key)), "Content-Type", "text/html");
    };
    let range = call.headers.get("range").map(|range| between(range, "bytes=", "-").parse::<usize>().unwrap());
    let status = if range.is_some() { 206 } else { 200 };
    let mut bytes = object.bytes[range.unwrap_or(0)..].to_vec();
    if is_corrupt && let Some(byte) = bytes.first_mut() {
        *byte ^= 1;
    }
    let answer = reply(status, bytes);
    let answer = with(answer, "X-Goog-Generation", &object.generation.to_string());
    if object.has_no_sums { answer } else { with(answer, "X-Goog-Hash", &hash_header(&object.bytes)) }
}

fn list(call: &Call, state: &State) -> Reply {
    let (prefix, delimiter, after) =
        (call.parameter("prefix"), call.parameter("delimiter"), call.parameter("pageToken"));
    let mut names: Vec<(String, bool)> = Vec::new();
    for key in state.objects.keys().filter(|key| key.starts_with(prefix)) {
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
    let page: Vec<(String, bool)> = rest.by_ref().take(state.page_names).collect();
    let mut value = json!({ "kind": "storage#objects" });
    if let Some(last) = rest.next().and(page.last()) {
        value["nextPageToken"] = last.0.clone().into();
    }
    let (prefixes, items): (Vec<_>, Vec<_>) = page.into_iter().partition(|(_, is_prefix)| *is_prefix);
    if !prefixes.is_empty() {
        value["prefixes"] = prefixes.into_iter().map(|(name, _)| Value::from(name)).collect();
    }
    if !items.is_empty() {
        value["items"] = items.into_iter().map(|(name, _)| json!({ "name": name })).collect();
    }
    resource(200, &value)
}

/// Gives a token, which takes the place of the one before.
fn token(call: &Call, state: &mut State, port: u16) -> Reply {
    let body = String::from_utf8(call.body.clone()).unwrap();
    let assertion = body.split('&').find_map(|pair| pair.strip_prefix("assertion=")).map(decode).unwrap_or_default();
    let refused = |text: &str| resource(400, &json!({ "error": "invalid_grant", "error_description": text }));
    if !body.contains("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer") {
        return refused("Bad Request");
    }
    let parts: Vec<&str> = assertion.split('.').collect();
    let decoded = |idx: usize| BASE64_URL_SAFE_NO_PAD.decode(parts.get(idx).unwrap_or(&"")).unwrap_or_default();
    let der = BASE64_STANDARD.decode(between(SERVICE_KEY, "KEY-----", "-----END").replace('\n', "")).unwrap();
    let pair = RsaKeyPair::from_pkcs8(&der).unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref());
    let signed = assertion.rsplit_once('.').map_or("", |(signed, _)| signed);
    if public.verify(signed.as_bytes(), &decoded(2)).is_err() {
        return refused("Invalid JWT Signature.");
    }
    let claims: Value = serde_json::from_slice(&decoded(1)).unwrap();
    let (issued, ends) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    if (issued - now(state).as_second()).abs() > 300 || ends - issued > 3600 {
        return refused("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.");
    }
    if claims["iss"] != EMAIL || claims["scope"] != SCOPE || claims["aud"] != token_url(port).as_str() {
        return refused("Invalid JWT: Failed audience check.");
    }
    state.n_tokens += 1;
    state.token = format!("token-{}-never-shown", state.n_tokens);
    let given = json!({ "access_token": state.token, "expires_in": 3599, "token_type": "Bearer" });
    resource(200, &given)
}
