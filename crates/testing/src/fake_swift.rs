//! An object store of OpenStack in this process, with the servers that give tokens for it. It checks tokens, MD5s and the
//! lists of large objects as Swift does, records every request, and fails on demand in the ways that stores and networks
//! do. Never checks what clients make of its answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use md5::{Digest, Md5};
use pillion_base::threads::spawn_thread;

use crate::fake_s3::{between, decode, reset};

pub const CONTAINER: &str = "fake-container";
pub const SEGMENTS_CONTAINER: &str = "fake-segments";
pub const USER: &str = "project:user";
pub const PASSWORD: &str = "password-of-the-fake-never-shown";
/// Where the account is, below the server's URL.
const ACCOUNT: &str = "/v1/AUTH_fake";

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
    /// The request is not done; this status is the answer, after the whole body.
    Refuse(u16),
    /// As `Refuse`, before the body is read; then the connection is closed.
    RefuseEarly(u16),
    /// The request is done, but the answer is this status.
    DoAndRefuse(u16),
    /// The answer is a success, but nothing is kept.
    Drop,
    /// One byte is changed on the way in.
    Damage,
    /// One byte of what is stored is changed, and the store does not notice.
    Corrupt,
    /// Something in between answers with this status and a web page.
    Portal(u16),
    /// All segments are gone, before the request is done.
    ForgetSegments,
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
    /// The object, or the path of what is none.
    pub key: String,
    pub query: BTreeMap<String, String>,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// What an object is made of.
#[derive(Clone)]
pub enum Content {
    Plain(Vec<u8>),
    /// The list of a static large object: container, name, size.
    Static(Vec<(String, String, usize)>),
    /// The container and the prefix of a dynamic one.
    Dynamic(String, String),
}

pub struct State {
    /// Objects by container and name.
    pub containers: BTreeMap<String, BTreeMap<String, Content>>,
    pub seen: Vec<Seen>,
    /// What `/info` answers; `None` if it is switched off.
    pub info: Option<String>,
    /// Objects whose names contain this are not in listings.
    pub unlisted: Option<String>,
    /// Requests get ids, as from Swift.
    pub has_ids: bool,
    /// Without, `multipart-manifest` is just a parameter that nobody knows.
    pub has_static: bool,
    /// The token that is accepted.
    pub token: String,
    pub n_tokens: usize,
    /// How long tokens are good. `Units:` s.
    pub token_life_s: i64,
    rules: Vec<Rule>,
}

pub struct FakeSwift {
    pub port: u16,
    pub state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

impl FakeSwift {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let empty = [CONTAINER, SEGMENTS_CONTAINER].map(|name| (name.to_owned(), BTreeMap::new()));
        let state = Arc::new(Mutex::new(State {
            containers: BTreeMap::from(empty),
            seen: Vec::new(),
            info: Some(r#"{"swift":{"max_file_size":5368709122},"slo":{"max_manifest_segments":1000}}"#.into()),
            unlisted: None,
            has_ids: true,
            has_static: true,
            token: String::new(),
            n_tokens: 0,
            token_life_s: 3600,
            rules: Vec::new(),
        }));
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&ended));
        spawn_thread("fake-swift", None, move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), state) = (stream, Arc::clone(&shared)) else { continue };
                spawn_thread("fake-swift-connection", None, move || serve(stream, port, &state)).unwrap();
            }
        })
        .unwrap();
        FakeSwift { port, state, ended }
    }

    /// The URL of something on this server, such as `auth/v1.0` and `v3`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// The next `times` requests of `operation` (`""` is any) whose name contains `key` go wrong, after `skip` others.
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

    /// The content of an object.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.with(|state| bytes_of(state, state.containers[CONTAINER].get(key)?).ok())
    }

    /// The names of all segments.
    pub fn segments(&self) -> Vec<String> {
        self.with(|state| {
            let all = state.containers.values().flat_map(BTreeMap::keys);
            all.filter(|name| name.starts_with("segments/")).cloned().collect()
        })
    }
}

impl Drop for FakeSwift {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

struct Call {
    method: String,
    container: String,
    key: String,
    operation: &'static str,
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
    is_swift: bool,
}

fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply { status, headers: Vec::new(), body: body.into(), is_swift: true }
}

fn refusal(status: u16) -> Reply {
    reply(status, format!("<html><h1>Told so</h1><p>Status {status}.</p></html>"))
}

fn json(value: &serde_json::Value) -> Reply {
    with(reply(200, value.to_string()), "Content-Type", "application/json; charset=utf-8")
}

fn with(mut reply: Reply, name: &str, value: &str) -> Reply {
    reply.headers.push((name.into(), value.into()));
    reply
}

/// Serves one connection until it ends.
fn serve(mut stream: TcpStream, port: u16, state: &Mutex<State>) {
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
            seen.body.clone_from(&call.body);
        }
        let mut act = |fault| act(&mut call, port, &mut state.lock().unwrap(), fault);
        let answer = match &fault {
            Some(Fault::Hang) => {
                let _ = stream.read(&mut [0; 1]);
                return;
            }
            Some(Fault::Reset(_)) => return reset(&stream),
            Some(Fault::LoseAnswer) => {
                act(None);
                return reset(&stream);
            }
            Some(Fault::Refuse(status) | Fault::RefuseEarly(status)) => refusal(*status),
            Some(Fault::DoAndRefuse(status)) => {
                act(None);
                refusal(*status)
            }
            Some(Fault::Portal(status)) => {
                Reply { is_swift: false, ..reply(*status, "<html><body>Please log in</body></html>") }
            }
            other => act(other.as_ref()),
        };
        let has_ids = state.lock().unwrap().has_ids;
        let mut bytes = write_reply(&answer, call.method == "HEAD", has_ids);
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
        body: Vec::new(),
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
            let (path, raw_query) = (path.to_owned(), raw_query.to_owned());
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
            let inside = path.strip_prefix(ACCOUNT).and_then(|path| path.strip_prefix('/'));
            let (container, key) =
                inside.map_or(("", path.as_str()), |path| path.split_once('/').unwrap_or((path, "")));
            let (container, key) = (decode(container), decode(key));
            let operation = operation(&method, &container, &key, &query);
            let body_length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            input.drain(..length);
            return Some((Call { method, container, key, operation, query, headers, body: Vec::new() }, body_length));
        }
        let mut buffer = [0; 16 * 1024];
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => input.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

fn operation(method: &str, container: &str, key: &str, query: &BTreeMap<String, String>) -> &'static str {
    let has_manifest = |what: &str| query.get("multipart-manifest").is_some_and(|of| of == what);
    match (method, container.is_empty(), key) {
        ("GET", true, "/auth/v1.0") => "token v1",
        ("POST", true, "/v2.0/tokens") => "token v2",
        ("POST", true, "/v3/auth/tokens") => "token v3",
        ("GET", true, "/info") => "info",
        ("GET", false, "") => "GET container",
        ("HEAD", false, "") => "HEAD container",
        ("PUT", false, _) if has_manifest("put") => "PUT manifest",
        ("GET", false, _) if has_manifest("get") => "GET manifest",
        ("PUT", false, key) if key.starts_with("segments/") => "PUT segment",
        ("HEAD", false, key) if key.starts_with("segments/") => "HEAD segment",
        ("DELETE", false, key) if key.starts_with("segments/") => "DELETE segment",
        ("PUT", false, _) => "PUT object",
        ("GET", false, _) => "GET object",
        ("HEAD", false, _) => "HEAD object",
        ("DELETE", false, _) => "DELETE object",
        _ => "unknown",
    }
}

fn write_reply(reply: &Reply, is_head: bool, has_ids: bool) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {} Said\r\n", reply.status);
    if reply.is_swift && has_ids {
        text.push_str("X-Trans-Id: tx-1\r\n");
    }
    if !reply.headers.iter().any(|(name, _)| name == "Content-Length") {
        text.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
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

fn md5_hex(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Carries out a request.
fn act(call: &mut Call, port: u16, state: &mut State, fault: Option<&Fault>) -> Reply {
    match call.operation {
        "info" => {
            return state
                .info
                .clone()
                .map_or_else(|| refusal(403), |info| Reply { is_swift: false, ..reply(200, info) });
        }
        "token v1" | "token v2" | "token v3" => return token(call, port, state),
        _ => {}
    }
    if call.header("x-auth-token") != state.token || state.token.is_empty() {
        return refusal(401);
    }
    if !state.containers.contains_key(&call.container) {
        return refusal(404);
    }
    if fault == Some(&Fault::ForgetSegments) {
        for objects in state.containers.values_mut() {
            objects.retain(|name, _| !name.starts_with("segments/"));
        }
    }
    match call.operation {
        "GET container" => list(call, state),
        "HEAD container" => with(reply(204, ""), "X-Container-Object-Count", "1"),
        "PUT segment" | "PUT object" => put(call, state, fault),
        "PUT manifest" if !state.has_static => put(call, state, fault),
        "PUT manifest" => put_list(call, state, fault),
        "HEAD segment" | "HEAD object" | "GET object" => get(call, state),
        "GET manifest" => match state.containers[&call.container].get(&call.key) {
            Some(Content::Static(segments)) => {
                let entry = |(container, name, bytes): &(String, String, usize)| {
                    let hash = match state.containers[container].get(name) {
                        Some(Content::Plain(bytes)) => md5_hex(bytes),
                        _ => String::new(),
                    };
                    serde_json::json!({"name": format!("/{container}/{name}"), "bytes": bytes, "hash": hash})
                };
                json(&serde_json::Value::Array(segments.iter().map(entry).collect()))
            }
            Some(_) => refusal(400),
            None => refusal(404),
        },
        "DELETE segment" | "DELETE object" => delete(call, state),
        _ => refusal(412),
    }
}

fn put(call: &mut Call, state: &mut State, fault: Option<&Fault>) -> Reply {
    if !call.headers.contains_key("content-length") {
        return refusal(411);
    }
    let mut body = std::mem::take(&mut call.body);
    let change = |body: &mut Vec<u8>| {
        if let Some(byte) = body.first_mut() {
            *byte ^= 1;
        }
    };
    if fault == Some(&Fault::Damage) {
        change(&mut body);
    }
    let said = call.header("etag");
    if !said.is_empty() && said != md5_hex(&body) {
        return refusal(422);
    }
    let manifest = call.header("x-object-manifest");
    if fault == Some(&Fault::Corrupt) {
        change(&mut body);
    }
    let tag = md5_hex(&body);
    let content = match manifest.split_once('/') {
        Some((container, prefix)) => Content::Dynamic(decode(container), decode(prefix)),
        None => Content::Plain(body),
    };
    if fault != Some(&Fault::Drop) {
        state.containers.get_mut(&call.container).unwrap().insert(call.key.clone(), content);
    }
    with(reply(201, ""), "Etag", &tag)
}

/// Makes a static large object, if all its segments are there as the list says.
fn put_list(call: &Call, state: &mut State, fault: Option<&Fault>) -> Reply {
    let list: serde_json::Value = serde_json::from_slice(&call.body).unwrap();
    let (mut segments, mut tags) = (Vec::new(), String::new());
    for entry in list.as_array().unwrap() {
        let path = entry["path"].as_str().unwrap().strip_prefix('/').unwrap();
        let (container, name) = path.split_once('/').unwrap();
        let Some(Content::Plain(bytes)) = state.containers.get(container).and_then(|all| all.get(name)) else {
            return reply(400, "Errors:\n404 Not Found");
        };
        let tag = md5_hex(bytes);
        if entry["etag"] != tag.as_str() || entry["size_bytes"] != bytes.len() {
            return reply(400, "Errors:\nEtag Mismatch");
        }
        segments.push((container.to_owned(), name.to_owned(), bytes.len()));
        tags.push_str(&tag);
    }
    if segments.is_empty() || segments.len() > 1000 {
        return refusal(413);
    }
    if fault != Some(&Fault::Drop) {
        state.containers.get_mut(&call.container).unwrap().insert(call.key.clone(), Content::Static(segments));
    }
    with(reply(201, ""), "Etag", &format!("\"{}\"", md5_hex(tags.as_bytes())))
}

/// The segments of a dynamic large object, as they are listed.
fn dynamic<'a>(state: &'a State, container: &str, prefix: &str) -> Vec<(&'a String, &'a Vec<u8>)> {
    let listed = |name: &str| state.unlisted.as_ref().is_none_or(|part| !name.contains(part));
    let all = state.containers.get(container).into_iter().flatten();
    all.filter(|(name, _)| name.starts_with(prefix) && listed(name))
        .filter_map(|(name, content)| match content {
            Content::Plain(bytes) => Some((name, bytes)),
            _ => None,
        })
        .collect()
}

/// `Err` as a status, when a segment is missing.
fn bytes_of(state: &State, content: &Content) -> Result<Vec<u8>, u16> {
    match content {
        Content::Plain(bytes) => Ok(bytes.clone()),
        Content::Static(segments) => {
            let mut all = Vec::new();
            for (container, name, size) in segments {
                match state.containers.get(container).and_then(|objects| objects.get(name)) {
                    Some(Content::Plain(bytes)) if bytes.len() == *size => all.extend_from_slice(bytes),
                    _ => return Err(409),
                }
            }
            Ok(all)
        }
        Content::Dynamic(container, prefix) => {
            Ok(dynamic(state, container, prefix).into_iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect())
        }
    }
}

fn tag_of(state: &State, content: &Content) -> String {
    let tags: String = match content {
        Content::Plain(bytes) => return md5_hex(bytes),
        Content::Static(segments) => segments
            .iter()
            .map(|(container, name, _)| match state.containers[container].get(name) {
                Some(Content::Plain(bytes)) => md5_hex(bytes),
                _ => String::new(),
            })
            .collect(),
        Content::Dynamic(container, prefix) => {
            dynamic(state, container, prefix).into_iter().map(|(_, bytes)| md5_hex(bytes)).collect()
        }
    };
    format!("\"{}\"", md5_hex(tags.as_bytes()))
}

fn get(call: &Call, state: &State) -> Reply {
    let Some(content) = state.containers[&call.container].get(&call.key) else { return refusal(404) };
    let bytes = match bytes_of(state, content) {
        Ok(bytes) => bytes,
        Err(status) => return refusal(status),
    };
    let range = call.headers.get("range").map(|range| between(range, "bytes=", "-").parse::<usize>().unwrap());
    let status = if range.is_some() { 206 } else { 200 };
    let answer = with(reply(status, bytes.get(range.unwrap_or(0)..).unwrap()), "Etag", &tag_of(state, content));
    let answer = with(answer, "X-Timestamp", "1700000000.00000");
    match content {
        Content::Plain(_) => answer,
        Content::Static(_) => with(answer, "X-Static-Large-Object", "True"),
        Content::Dynamic(container, prefix) => with(answer, "X-Object-Manifest", &format!("{container}/{prefix}")),
    }
}

fn delete(call: &Call, state: &mut State) -> Reply {
    let objects = state.containers.get_mut(&call.container).unwrap();
    let Some(content) = objects.get(&call.key).cloned() else { return refusal(404) };
    if call.parameter("multipart-manifest") == "delete" {
        let Content::Static(segments) = content else { return refusal(400) };
        objects.remove(&call.key);
        for (container, name, _) in &segments {
            state.containers.get_mut(container).unwrap().remove(name);
        }
        return json(&serde_json::json!({"Response Status": "200 OK", "Errors": [], "Number Not Found": 0}));
    }
    objects.remove(&call.key);
    reply(204, "")
}

fn list(call: &Call, state: &State) -> Reply {
    if call.parameter("format") != "json" {
        return refusal(406);
    }
    let (prefix, delimiter, after) = (call.parameter("prefix"), call.parameter("delimiter"), call.parameter("marker"));
    let mut entries: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    for (name, content) in &state.containers[&call.container] {
        let is_unlisted = state.unlisted.as_ref().is_some_and(|part| name.contains(part));
        let Some(rest) = name.strip_prefix(prefix).filter(|_| !is_unlisted) else { continue };
        match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(end) => {
                let folder = name[..prefix.len() + end + 1].to_owned();
                entries.insert(folder.clone(), serde_json::json!({ "subdir": folder }));
            }
            None => {
                // A large object has no size of its own.
                let (bytes, hash) = match content {
                    Content::Plain(bytes) => (bytes.len(), md5_hex(bytes)),
                    _ => (0, md5_hex(b"")),
                };
                entries.insert(name.clone(), serde_json::json!({"name": name, "bytes": bytes, "hash": hash}));
            }
        }
    }
    let limit = call.parameter("limit").parse().unwrap_or(10_000);
    let page = entries.into_iter().filter(|(name, _)| name.as_str() > after).take(limit);
    let page: Vec<serde_json::Value> = page.map(|(_, entry)| entry).collect();
    with(json(&serde_json::Value::Array(page)), "X-Container-Object-Count", "1")
}

/// Gives a token, which takes the place of the one before.
fn token(call: &Call, port: u16, state: &mut State) -> Reply {
    let storage = format!("http://127.0.0.1:{port}{ACCOUNT}");
    let text = String::from_utf8(call.body.clone()).unwrap();
    let is_right = match call.operation {
        "token v1" => call.header("x-auth-user") == USER && call.header("x-auth-key") == PASSWORD,
        _ => text.contains(PASSWORD),
    };
    if !is_right {
        let said = r#"{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}"#;
        return reply(401, if call.operation == "token v1" { "" } else { said });
    }
    state.n_tokens += 1;
    state.token = format!("token-{}", state.n_tokens);
    let (from, life_s) = (Timestamp::now(), state.token_life_s);
    let until = from.checked_add(SignedDuration::from_secs(life_s)).unwrap();
    match call.operation {
        "token v1" => {
            let answer = with(reply(200, ""), "X-Storage-Url", &storage);
            with(with(answer, "X-Auth-Token", &state.token), "X-Auth-Token-Expires", &life_s.to_string())
        }
        "token v2" => {
            let endpoints = serde_json::json!([{"region": "one", "publicURL": storage}]);
            let catalogue = serde_json::json!([{"type": "object-store", "endpoints": endpoints}]);
            let token = serde_json::json!({"id": state.token, "expires": until.to_string()});
            reply(200, serde_json::json!({"access": {"token": token, "serviceCatalog": catalogue}}).to_string())
        }
        _ => {
            let at = |interface: &str, region: &str, url: &str| serde_json::json!({"interface": interface, "region": region, "region_id": region, "url": url});
            let nowhere = "http://127.0.0.1:1/v1/AUTH_fake";
            let endpoints =
                [at("internal", "one", nowhere), at("public", "one", &storage), at("public", "two", nowhere)];
            let catalogue = serde_json::json!([
                {"type": "image", "endpoints": [at("public", "one", nowhere)]},
                {"type": "object-store", "endpoints": endpoints},
            ]);
            let token = serde_json::json!({
                "issued_at": from.to_string(), "expires_at": until.to_string(), "catalog": catalogue,
            });
            with(reply(201, serde_json::json!({ "token": token }).to_string()), "X-Subject-Token", &state.token)
        }
    }
}
