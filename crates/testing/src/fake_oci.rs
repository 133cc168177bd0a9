//! Object Storage of Oracle Cloud in this process. It verifies the RSA signature of every request with code of its own,
//! which headers are signed, the SHA-256 of signed bodies, and the date; it records every request, and fails on demand in
//! the ways that stores and networks do. Never checks what clients make of its answers.

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
use ring::rsa::KeyPair;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::fake_s3::{between, decode, reset};

const NAMESPACE: &str = "fakespace";
pub const BUCKET: &str = "fake-bucket";
pub const TENANCY: &str = "ocid1.tenancy.oc1..aaaa";
pub const USER: &str = "ocid1.user.oc1..bbbb";
/// Made with `openssl genrsa -traditional 2048`; it opens nothing.
pub const KEY_PEM: &str = include_str!("fake_oci_key.pem");
/// `openssl rsa -pubout -outform DER | openssl md5 -c`
pub const FINGERPRINT: &str = "19:06:9a:45:57:ca:e3:8e:e5:36:49:3b:36:17:a4:c1";
/// Key and certificate of a machine of that tenancy, made with `openssl req -x509 -newkey rsa:2048`; they open nothing.
const LEAF_KEY_PEM: &str = include_str!("fake_oci_leaf_key.pem");
pub const LEAF_CERT_PEM: &str = include_str!("fake_oci_leaf_cert.pem");
/// `openssl x509 -fingerprint -sha256`
const LEAF_FINGERPRINT: &str =
    "a7:9c:80:30:61:5b:43:a6:f6:95:64:7f:d8:9c:38:d2:fb:8b:b1:64:00:d9:81:ab:13:6c:67:58:11:8e:ca:f1";

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Nothing is answered until the client goes away.
    Hang,
    /// The connection is reset after so many bytes of the body; nothing happened.
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
    /// One byte of what is stored is changed.
    Corrupt,
    /// Something in between answers with this status and a web page.
    Portal(u16),
    /// All uploads in parts are gone, before the request is done.
    ForgetUploads,
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

#[derive(Clone)]
pub struct Object {
    pub bytes: Vec<u8>,
    /// MD5 in base64, for one in parts followed by their number.
    pub md5: String,
    pub version: usize,
}

pub struct Upload {
    pub key: String,
    pub parts: BTreeMap<u32, (String, Vec<u8>)>,
}

pub struct State {
    pub objects: BTreeMap<String, Object>,
    pub uploads: BTreeMap<String, Upload>,
    pub seen: Vec<Seen>,
    pub has_bucket: bool,
    /// The store's clock minus the host's.
    pub offset_s: i64,
    /// Names, uploads and parts in a page.
    pub page_len: usize,
    /// Name of the key that is accepted.
    pub key_id: String,
    /// Since when the tokens of machines count, which end an hour later.
    pub tokens_issued_at_s: u64,
    n_tokens: usize,
    rules: Vec<Rule>,
    n_written: usize,
}

pub struct FakeOci {
    pub port: u16,
    pub state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

impl FakeOci {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            seen: Vec::new(),
            has_bucket: true,
            offset_s: 0,
            page_len: 1000,
            key_id: format!("{TENANCY}/{USER}/{FINGERPRINT}"),
            tokens_issued_at_s: u64::try_from(Timestamp::now().as_second()).unwrap(),
            n_tokens: 0,
            rules: Vec::new(),
            n_written: 0,
        }));
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&ended));
        spawn_thread("fake-oci", None, move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), state) = (stream, Arc::clone(&shared)) else { continue };
                spawn_thread("fake-oci-connection", None, move || serve(stream, &state)).unwrap();
            }
        })
        .unwrap();
        FakeOci { port, state, ended }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The URL of a machine's metadata service.
    pub fn metadata(&self) -> String {
        format!("http://127.0.0.1:{}/opc/v2", self.port)
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

    pub fn n_uploads(&self) -> usize {
        self.with(|state| state.uploads.len())
    }
}

impl Drop for FakeOci {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

struct Call {
    method: String,
    /// Path and query as they were sent.
    target: String,
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
    is_store: bool,
}

fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply { status, headers: Vec::new(), body: body.into(), is_store: true }
}

fn refusal(status: u16, code: &str) -> Reply {
    reply(status, json!({ "code": code, "message": "told so" }).to_string())
}

fn with(mut reply: Reply, name: &str, value: &str) -> Reply {
    reply.headers.push((name.into(), value.into()));
    reply
}

/// Serves one connection until it ends.
fn serve(mut stream: TcpStream, state: &Mutex<State>) {
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
            Some(Fault::Reset(_)) => return reset(&stream),
            Some(Fault::LoseAnswer) => {
                act(&mut call, state, None);
                return reset(&stream);
            }
            Some(Fault::Refuse(status, code) | Fault::RefuseEarly(status, code)) => refusal(*status, code),
            Some(Fault::DoAndRefuse(status, code)) => {
                act(&mut call, state, None);
                refusal(*status, code)
            }
            Some(Fault::Portal(status)) => {
                Reply { is_store: false, ..reply(*status, "<html><body>Please log in</body></html>") }
            }
            other => act(&mut call, state, other.as_ref()),
        };
        let mut bytes = write_reply(&answer, call.method == "HEAD", &state.lock().unwrap());
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
            let target = head.path.unwrap().to_owned();
            let (path, raw_query) = target.split_once('?').unwrap_or((&target, ""));
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
            let method = head.method.unwrap().to_owned();
            let (operation, key) = operation(&method, path, &query);
            let body_length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            input.drain(..length);
            let call = Call { method, target: target.clone(), operation, key, query, headers, body: Vec::new() };
            return Some((call, body_length));
        }
        let mut buffer = [0; 16 * 1024];
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => input.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

/// The operation and the object. Slashes in an object's name stay as they are, as Oracle's own libraries send them.
fn operation(method: &str, path: &str, query: &BTreeMap<String, String>) -> (&'static str, String) {
    if (method, path) == ("GET", "/n") {
        return ("GetNamespace", String::new());
    }
    if (method, path) == ("POST", "/v1/x509") {
        return ("x509", String::new());
    }
    if let ("GET", Some(name)) = (method, path.strip_prefix("/opc/v2/identity/")) {
        return ("metadata", name.to_owned());
    }
    let below = path.strip_prefix(&format!("/n/{NAMESPACE}/b/{BUCKET}/")).unwrap_or_default();
    let (kind, key) = below.split_once('/').map_or((below, None), |(kind, key)| (kind, Some(key)));
    let has_id = query.contains_key("uploadId");
    let operation = match (method, kind, key.is_some(), has_id) {
        ("GET", "o", false, false) => "ListObjects",
        ("GET", "o", true, false) => "GetObject",
        ("HEAD", "o", true, false) => "HeadObject",
        ("PUT", "o", true, false) => "PutObject",
        ("DELETE", "o", true, false) => "DeleteObject",
        ("POST", "u", false, false) => "CreateMultipartUpload",
        ("GET", "u", false, false) => "ListMultipartUploads",
        ("PUT", "u", true, true) => "UploadPart",
        ("GET", "u", true, true) => "ListMultipartUploadParts",
        ("POST", "u", true, true) => "CommitMultipartUpload",
        ("DELETE", "u", true, true) => "AbortMultipartUpload",
        _ => "unknown",
    };
    (operation, decode(key.unwrap_or_default()))
}

fn now(state: &State) -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_secs(state.offset_s)).unwrap()
}

fn write_reply(reply: &Reply, is_head: bool, state: &State) -> Vec<u8> {
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now(state)).unwrap();
    let mut text = format!("HTTP/1.1 {} Said\r\ndate: {date}\r\n", reply.status);
    if reply.is_store {
        text.push_str("opc-request-id: fra-1:req\r\n");
    }
    // The answer to a HEAD has no body, and a refusal no length.
    let length = if is_head && reply.status >= 300 { 0 } else { reply.body.len() };
    text.push_str(&format!("content-length: {length}\r\n"));
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if !is_head {
        bytes.extend_from_slice(&reply.body);
    }
    bytes
}

fn md5_base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(Md5::digest(bytes))
}

/// Carries out a request.
fn act(call: &mut Call, state: &Mutex<State>, fault: Option<&Fault>) -> Reply {
    let mut state = state.lock().unwrap();
    let state = &mut *state;
    match call.operation {
        "metadata" => return metadata(call),
        "x509" => return token(call, state),
        _ if is_authentic(call, state, KEY_PEM, &state.key_id, true) => {}
        _ => return refusal(401, "NotAuthenticated"),
    }
    if call.operation == "GetNamespace" {
        return reply(200, format!("\"{NAMESPACE}\""));
    }
    if !state.has_bucket {
        return refusal(404, "BucketNotFound");
    }
    if call.method == "PUT" && !call.headers.contains_key("content-length") {
        return refusal(411, "ContentLengthRequired");
    }
    let said = call.header("content-md5").to_owned();
    if !said.is_empty() && said != md5_base64(&call.body) {
        return refusal(400, "UnmatchedContentMD5");
    }
    let mut body = std::mem::take(&mut call.body);
    if fault == Some(&Fault::Corrupt)
        && let Some(byte) = body.first_mut()
    {
        *byte ^= 1;
    }
    if fault == Some(&Fault::ForgetUploads) {
        state.uploads.clear();
    }
    let is_kept = fault != Some(&Fault::Drop);
    state.n_written += 1;
    let version = state.n_written;
    let key = call.key.clone();
    match call.operation {
        "PutObject" => {
            let md5 = md5_base64(&body);
            if is_kept {
                state.objects.insert(key, Object { bytes: body, md5: md5.clone(), version });
            }
            with(with(reply(200, ""), "opc-content-md5", &md5), "etag", &format!("etag-{version}"))
        }
        "CreateMultipartUpload" => {
            let Ok(said) = serde_json::from_slice::<Value>(&body) else { return refusal(400, "InvalidJSON") };
            let key = said["object"].as_str().unwrap().to_owned();
            let id = format!("upload-{version}");
            let answer = upload_json(&key, &id);
            state.uploads.insert(id, Upload { key, parts: BTreeMap::new() });
            reply(200, answer.to_string())
        }
        "ListMultipartUploads" => {
            let all = state.uploads.iter().map(|(id, upload)| upload_json(&upload.key, id)).collect();
            page(call, all, state.page_len)
        }
        "UploadPart" | "ListMultipartUploadParts" | "CommitMultipartUpload" | "AbortMultipartUpload" => {
            parts(call, state, body, is_kept)
        }
        "HeadObject" | "GetObject" => get(call, state),
        "DeleteObject" => match state.objects.remove(&key) {
            Some(_) => reply(204, ""),
            None => refusal(404, "ObjectNotFound"),
        },
        "ListObjects" => list(call, state),
        _ => refusal(404, "NotFound"),
    }
}

fn upload_json(key: &str, id: &str) -> Value {
    json!({ "namespace": NAMESPACE, "bucket": BUCKET, "object": key, "uploadId": id, "timeCreated": "2026-01-01T00:00:00Z" })
}

/// A page of a list, by the parameter `page` of Oracle's lists.
fn page(call: &Call, all: Vec<Value>, page_len: usize) -> Reply {
    let start: usize = call.parameter("page").parse().unwrap_or(0);
    let end = all.len().min(start + page_len);
    let answer = reply(200, Value::from(all[start..end].to_vec()).to_string());
    if end < all.len() { with(answer, "opc-next-page", &end.to_string()) } else { answer }
}

/// What is done with an upload in parts.
fn parts(call: &Call, state: &mut State, body: Vec<u8>, is_kept: bool) -> Reply {
    let (id, version, page_len) = (call.parameter("uploadId").to_owned(), state.n_written, state.page_len);
    let Some(upload) = state.uploads.get_mut(&id).filter(|upload| upload.key == call.key) else {
        return refusal(404, "UploadNotFound");
    };
    match call.operation {
        "UploadPart" => {
            let Ok(number @ 1..=10_000) = call.parameter("uploadPartNum").parse() else {
                return refusal(400, "InvalidUploadPartNumber");
            };
            let (md5, etag) = (md5_base64(&body), format!("etag-{version}"));
            if is_kept {
                upload.parts.insert(number, (etag.clone(), body));
            }
            with(with(reply(200, ""), "opc-content-md5", &md5), "etag", &etag)
        }
        "ListMultipartUploadParts" => {
            let all = upload.parts.iter().map(|(number, (etag, bytes))| {
                json!({ "partNumber": number, "etag": etag, "md5": md5_base64(bytes), "size": bytes.len() })
            });
            page(call, all.collect(), page_len)
        }
        "AbortMultipartUpload" => {
            state.uploads.remove(&id);
            reply(204, "")
        }
        _ => {
            let Ok(said) = serde_json::from_slice::<Value>(&body) else { return refusal(400, "InvalidJSON") };
            // Their order in the list does not count.
            let listed: BTreeMap<u64, &str> = said["partsToCommit"]
                .as_array()
                .unwrap()
                .iter()
                .map(|part| (part["partNum"].as_u64().unwrap(), part["etag"].as_str().unwrap()))
                .collect();
            let stored = upload.parts.iter().map(|(number, (etag, _))| (u64::from(*number), etag.as_str()));
            // Each part of the upload must be named.
            if listed != stored.collect() {
                return refusal(400, "InvalidUploadPart");
            }
            let (mut bytes, mut hashes) = (Vec::new(), Vec::new());
            for (_, part) in upload.parts.values() {
                hashes.extend_from_slice(&Md5::digest(part));
                bytes.extend_from_slice(part);
            }
            let md5 = format!("{}-{}", md5_base64(&hashes), listed.len());
            state.uploads.remove(&id);
            if is_kept {
                state.objects.insert(call.key.clone(), Object { bytes, md5: md5.clone(), version });
            }
            with(with(reply(200, ""), "opc-multipart-md5", &md5), "etag", &format!("etag-{version}"))
        }
    }
}

fn get(call: &Call, state: &State) -> Reply {
    let Some(object) = state.objects.get(&call.key) else { return refusal(404, "ObjectNotFound") };
    let range = call.headers.get("range").map(|range| {
        let end = range.rsplit_once('-').unwrap().1.parse().map_or(object.bytes.len(), |last: usize| last + 1);
        (between(range, "bytes=", "-").parse::<usize>().unwrap(), end.min(object.bytes.len()))
    });
    let (start, end) = range.unwrap_or((0, object.bytes.len()));
    if range.is_some() && start >= object.bytes.len() {
        return refusal(416, "InvalidRange");
    }
    let answer = reply(if range.is_some() { 206 } else { 200 }, object.bytes[start..end].to_vec());
    let answer = with(answer, "etag", &format!("etag-{}", object.version));
    let name = if object.md5.contains('-') { "opc-multipart-md5" } else { "content-md5" };
    if object.md5.is_empty() { answer } else { with(answer, name, &object.md5) }
}

fn list(call: &Call, state: &State) -> Reply {
    let (prefix, delimiter, start) = (call.parameter("prefix"), call.parameter("delimiter"), call.parameter("start"));
    let (mut objects, mut prefixes, mut next) = (Vec::new(), Vec::new(), Value::Null);
    let keys = state.objects.keys().filter(|key| key.starts_with(prefix) && key.as_str() >= start);
    // A page has so many objects, whatever they are shown as: a folder may span two.
    for (idx, key) in keys.enumerate() {
        if idx == state.page_len {
            next = key.as_str().into();
            break;
        }
        match key[prefix.len()..].find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(end) => prefixes.push(key[..prefix.len() + end + 1].to_owned()),
            None => objects.push(json!({ "name": key })),
        }
    }
    prefixes.dedup();
    reply(200, json!({ "objects": objects, "prefixes": prefixes, "nextStartWith": next }).to_string())
}

/// What a machine knows of itself.
fn metadata(call: &Call) -> Reply {
    match call.key.as_str() {
        _ if call.header("authorization") != "Bearer Oracle" => reply(403, "forbidden"),
        "cert.pem" | "intermediate.pem" => reply(200, LEAF_CERT_PEM),
        "key.pem" => reply(200, LEAF_KEY_PEM),
        _ => reply(404, "not found"),
    }
}

/// Gives a token for the session of a machine, which takes the place of the one before.
fn token(call: &Call, state: &mut State) -> Reply {
    let key_id = format!("{TENANCY}/fed-x509-sha256/{LEAF_FINGERPRINT}");
    let said: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let one_line = |pem: &str| pem.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    // The key of the session is that of the user: it ends the public key as X.509 writes it.
    let public = BASE64_STANDARD.decode(said["publicKey"].as_str().unwrap_or_default()).unwrap_or_default();
    let is_right = said["certificate"] == one_line(LEAF_CERT_PEM)
        && said["intermediateCertificates"][0] == one_line(LEAF_CERT_PEM)
        && said["fingerprintAlgorithm"] == "SHA256"
        && public.ends_with(&public_key(KEY_PEM));
    if !is_right || !is_authentic(call, state, LEAF_KEY_PEM, &key_id, false) {
        return refusal(401, "NotAuthenticated");
    }
    state.n_tokens += 1;
    let claims = json!({ "exp": state.tokens_issued_at_s + 3600 }).to_string();
    let token = format!("head.{}.token-{}", BASE64_URL_SAFE_NO_PAD.encode(claims), state.n_tokens);
    state.key_id = format!("ST${token}");
    reply(200, json!({ "token": token }).to_string())
}

/// Checks the signature of a request, what is signed, and when.
fn is_authentic(call: &Call, state: &State, key_pem: &str, key_id: &str, has_host: bool) -> bool {
    let Some(fields) = call.header("authorization").strip_prefix("Signature ") else { return false };
    let field = |name: &str| between(fields, &format!("{name}=\""), "\"").to_owned();
    let Ok(date) = jiff::fmt::rfc2822::parse(call.header("date")) else { return false };
    let age_s = now(state).as_second() - date.timestamp().as_second();
    let is_known = field("version") == "1" && field("algorithm") == "rsa-sha256" && field("keyId") == key_id;
    if !is_known || age_s.abs() > 300 {
        return false;
    }
    let names = field("headers");
    let names: Vec<&str> = names.split(' ').collect();
    let mut wanted = vec!["date", "(request-target)"];
    if has_host {
        wanted.push("host");
    }
    // Objects and their parts are exempt.
    if call.method == "POST" {
        wanted.extend(["content-length", "content-type", "x-content-sha256"]);
        if call.header("x-content-sha256") != BASE64_STANDARD.encode(Sha256::digest(&call.body))
            || call.header("content-type") != "application/json"
        {
            return false;
        }
    }
    if wanted.iter().any(|name| !names.contains(name)) || names.contains(&"host") != has_host {
        return false;
    }
    let mut text = String::new();
    for name in &names {
        let value = match *name {
            "(request-target)" => format!("{} {}", call.method.to_lowercase(), call.target),
            name => call.header(name).to_owned(),
        };
        if value.is_empty() {
            return false;
        }
        text.push_str(&format!("{name}: {value}\n"));
    }
    let Ok(signature) = BASE64_STANDARD.decode(field("signature")) else { return false };
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public_key(key_pem))
        .verify(text.trim_end_matches('\n').as_bytes(), &signature)
        .is_ok()
}

/// Modulus and exponent of a key.
fn public_key(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let pair = KeyPair::from_der(&BASE64_STANDARD.decode(body).unwrap()).unwrap();
    pair.public().as_ref().to_vec()
}
