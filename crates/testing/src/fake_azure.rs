//! A storage account of Azure in this process, and the directory that gives tokens for it. It verifies SharedKey
//! signatures with code of its own, records every request, and fails on demand in the ways that stores and networks do.
//! Never checks what clients make of its answers.

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

use crate::fake_s3::{between, decode, encode, hmac, reset};

pub const ACCOUNT: &str = "fakeaccount";
pub const CONTAINER: &str = "fake-container";
/// In base64, as Azure shows keys.
pub const KEY: &str = "a2V5LW9mLXRoZS1mYWtlLW5ldmVyLXNob3du";
pub const CLIENT_SECRET: &str = "secret-of-the-fake-never-shown";

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
    /// The blob's blocks that are in no list yet are gone, before the request is done.
    ForgetBlocks,
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
pub struct Blob {
    pub bytes: Vec<u8>,
    /// In base64; empty if whoever wrote the blob said none.
    pub md5: String,
    pub is_folder: bool,
    pub version: usize,
}

pub struct State {
    pub blobs: BTreeMap<String, Blob>,
    /// Blocks in no blob, by blob and id.
    pub blocks: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    pub seen: Vec<Seen>,
    pub has_container: bool,
    /// The account's clock minus the host's.
    pub offset_s: i64,
    pub page_names: usize,
    /// The token that is accepted; empty for none.
    pub token: String,
    pub n_tokens: usize,
    rules: Vec<Rule>,
    n_written: usize,
}

pub struct FakeAzure {
    pub port: u16,
    pub state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

impl FakeAzure {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            blobs: BTreeMap::new(),
            blocks: BTreeMap::new(),
            seen: Vec::new(),
            has_container: true,
            offset_s: 0,
            page_names: 1000,
            token: String::new(),
            n_tokens: 0,
            rules: Vec::new(),
            n_written: 0,
        }));
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&ended));
        spawn_thread("fake-azure", None, move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), state) = (stream, Arc::clone(&shared)) else { continue };
                spawn_thread("fake-azure-connection", None, move || serve(stream, &state)).unwrap();
            }
        })
        .unwrap();
        FakeAzure { port, state, ended }
    }

    /// The URL of the account, as an emulator has it.
    pub fn service(&self) -> String {
        format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)
    }

    /// The URL of the directory that gives tokens.
    pub fn authority(&self) -> String {
        format!("http://127.0.0.1:{}/directory", self.port)
    }

    /// The next `times` requests of `operation` (`""` is any) whose blob contains `key` go wrong, after `skip` others.
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

    pub fn blob(&self, key: &str) -> Option<Vec<u8>> {
        self.with(|state| state.blobs.get(key).map(|blob| blob.bytes.clone()))
    }
}

impl Drop for FakeAzure {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

struct Call {
    method: String,
    path: String,
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
}

struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    is_azure: bool,
}

fn reply(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply { status, headers: Vec::new(), body: body.into(), is_azure: true }
}

fn refusal(status: u16, code: &str) -> Reply {
    let text = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>told so\nRequestId:req-1\n\
         Time:now</Message></Error>"
    );
    with(reply(status, text), "x-ms-error-code", code)
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
                Reply { is_azure: false, ..reply(*status, "<html><body>Please log in</body></html>") }
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
            let inside = path.strip_prefix(&format!("/{ACCOUNT}/{CONTAINER}"));
            let key = decode(inside.unwrap_or_default().trim_start_matches('/'));
            let operation = match inside {
                Some(_) => operation(&method, key.is_empty(), &query),
                None if path.ends_with("/oauth2/v2.0/token") => "token",
                None => "unknown",
            };
            let body_length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            input.drain(..length);
            return Some((Call { method, path, operation, key, query, headers, body: Vec::new() }, body_length));
        }
        let mut buffer = [0; 16 * 1024];
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => input.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

fn operation(method: &str, is_container: bool, query: &BTreeMap<String, String>) -> &'static str {
    let comp = query.get("comp").map_or("", String::as_str);
    match (method, is_container, comp) {
        ("PUT", true, "") => "Create Container",
        ("GET", true, "list") => "List Blobs",
        ("PUT", false, "block") => "Put Block",
        ("PUT", false, "blocklist") => "Put Block List",
        ("GET", false, "blocklist") => "Get Block List",
        ("PUT", false, "") => "Put Blob",
        ("GET", false, "") => "Get Blob",
        ("HEAD", false, "") => "Get Blob Properties",
        ("DELETE", false, "") => "Delete Blob",
        _ => "unknown",
    }
}

fn now(state: &State) -> Timestamp {
    Timestamp::now().checked_add(SignedDuration::from_secs(state.offset_s)).unwrap()
}

fn write_reply(reply: &Reply, is_head: bool, state: &State) -> Vec<u8> {
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now(state)).unwrap();
    let mut text = format!("HTTP/1.1 {} Said\r\nDate: {date}\r\n", reply.status);
    if reply.is_azure {
        text.push_str("x-ms-request-id: req-1\r\nx-ms-version: 2020-10-02\r\n");
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

fn md5_base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(Md5::digest(bytes))
}

/// Carries out a request.
fn act(call: &mut Call, state: &Mutex<State>, fault: Option<&Fault>) -> Reply {
    let mut state = state.lock().unwrap();
    let state = &mut *state;
    if call.operation == "token" {
        return token(call, state);
    }
    if let Err((status, code)) = verify(call, state) {
        return refusal(status, code);
    }
    if call.operation == "Create Container" {
        return match (call.query.get("restype").map(String::as_str), std::mem::replace(&mut state.has_container, true))
        {
            (Some("container"), false) => reply(201, ""),
            (Some("container"), true) => refusal(409, "ContainerAlreadyExists"),
            _ => refusal(400, "InvalidQueryParameterValue"),
        };
    }
    if !state.has_container {
        return refusal(404, "ContainerNotFound");
    }
    if call.method == "PUT" && !call.headers.contains_key("content-length") {
        return refusal(411, "MissingContentLengthHeader");
    }
    let said = call.header("content-md5").to_owned();
    if !said.is_empty() && said != md5_base64(&call.body) {
        return refusal(400, "Md5Mismatch");
    }
    let mut body = std::mem::take(&mut call.body);
    if fault == Some(&Fault::Corrupt)
        && let Some(byte) = body.first_mut()
    {
        *byte ^= 1;
    }
    if fault == Some(&Fault::ForgetBlocks) {
        state.blocks.remove(&call.key);
    }
    let is_kept = fault != Some(&Fault::Drop);
    let key = call.key.clone();
    match call.operation {
        "Put Blob" if call.header("x-ms-blob-type") != "BlockBlob" => refusal(400, "MissingRequiredHeader"),
        "Put Blob" => {
            let md5 = md5_base64(&body);
            if is_kept {
                state.blocks.remove(&key);
                store(state, key, body, call.header("x-ms-blob-content-md5").to_owned());
            }
            with(reply(201, ""), "Content-MD5", &md5)
        }
        "Put Block" => put_block(call, state, body, is_kept),
        "Put Block List" => put_block_list(call, state, &body, is_kept),
        "Get Block List" => {
            if !state.blobs.contains_key(&key) && !state.blocks.contains_key(&key) {
                return refusal(404, "BlobNotFound");
            }
            let blocks = state
                .blocks
                .get(&key)
                .into_iter()
                .flatten()
                .map(|(id, bytes)| format!("<Block><Name>{id}</Name><Size>{}</Size></Block>", bytes.len()));
            let blocks: String = blocks.collect();
            reply(200, format!("<BlockList><UncommittedBlocks>{blocks}</UncommittedBlocks></BlockList>"))
        }
        "Get Blob Properties" | "Get Blob" => get(call, state),
        "Delete Blob" => match state.blobs.remove(&key) {
            Some(_) => reply(202, ""),
            None => refusal(404, "BlobNotFound"),
        },
        "List Blobs" => list(call, state),
        _ => refusal(400, "UnsupportedQueryParameter"),
    }
}

fn store(state: &mut State, key: String, bytes: Vec<u8>, md5: String) {
    state.n_written += 1;
    state.blobs.insert(key, Blob { bytes, md5, is_folder: false, version: state.n_written });
}

fn put_block(call: &Call, state: &mut State, body: Vec<u8>, is_kept: bool) -> Reply {
    let id = call.query.get("blockid").cloned().unwrap_or_default();
    let is_id = BASE64_STANDARD.decode(&id).is_ok_and(|bytes| (1..=64).contains(&bytes.len()));
    if !is_id {
        return refusal(400, "InvalidQueryParameterValue");
    }
    let blocks = state.blocks.entry(call.key.clone()).or_default();
    if blocks.keys().any(|other| other.len() != id.len()) {
        return refusal(400, "InvalidBlobOrBlock");
    }
    let md5 = md5_base64(&body);
    if is_kept {
        blocks.insert(id, body);
    }
    with(reply(201, ""), "Content-MD5", &md5)
}

fn put_block_list(call: &Call, state: &mut State, body: &[u8], is_kept: bool) -> Reply {
    let text = std::str::from_utf8(body).unwrap();
    let mut bytes = Vec::new();
    let blocks = state.blocks.get(&call.key).cloned().unwrap_or_default();
    for id in text.split("<Latest>").skip(1).map(|rest| rest.split_once("</Latest>").unwrap().0) {
        // Blocks of the blob that is there are not kept apart here, so only new ones are found.
        match blocks.get(id) {
            Some(block) => bytes.extend_from_slice(block),
            None => return refusal(400, "InvalidBlockList"),
        }
    }
    if is_kept {
        state.blocks.remove(&call.key);
        store(state, call.key.clone(), bytes, call.header("x-ms-blob-content-md5").to_owned());
    }
    reply(201, "")
}

fn get(call: &Call, state: &State) -> Reply {
    let Some(blob) = state.blobs.get(&call.key) else { return refusal(404, "BlobNotFound") };
    let range = call.headers.get("range").map(|range| between(range, "bytes=", "-").parse::<usize>().unwrap());
    let bytes = blob.bytes[range.unwrap_or(0)..].to_vec();
    let mut answer =
        with(reply(if range.is_some() { 206 } else { 200 }, bytes), "ETag", &format!("\"0x{:X}\"", blob.version));
    if !blob.md5.is_empty() && range.is_none() {
        answer = with(answer, "Content-MD5", &blob.md5);
    }
    if blob.is_folder { with(answer, "x-ms-meta-hdi_isfolder", "true") } else { answer }
}

fn list(call: &Call, state: &State) -> Reply {
    let get = |name: &str| call.query.get(name).cloned().unwrap_or_default();
    let (prefix, delimiter, after) = (get("prefix"), get("delimiter"), get("marker"));
    let mut names: Vec<(String, bool)> = Vec::new();
    for key in state.blobs.keys().filter(|key| key.starts_with(&prefix)) {
        let rest = &key[prefix.len()..];
        let entry = match rest.find(&delimiter).filter(|_| !delimiter.is_empty()) {
            Some(end) => (key[..prefix.len() + end + 1].to_owned(), true),
            None => (key.clone(), false),
        };
        if names.last() != Some(&entry) {
            names.push(entry);
        }
    }
    names.sort();
    names.dedup();
    let mut rest = names.into_iter().filter(|(name, _)| *name > after);
    let page: Vec<(String, bool)> = rest.by_ref().take(state.page_names).collect();
    let next = rest.next().and(page.last()).map_or("", |(name, _)| name.as_str());
    let mut text = String::from("\u{feff}<?xml version=\"1.0\"?><EnumerationResults><Blobs>");
    for (name, is_prefix) in &page {
        let name = name.replace('&', "&amp;").replace('<', "&lt;");
        text.push_str(&match is_prefix {
            true => format!("<BlobPrefix><Name>{name}</Name></BlobPrefix>"),
            false => {
                format!("<Blob><Name>{name}</Name><Properties><Content-Length>1</Content-Length></Properties></Blob>")
            }
        });
    }
    reply(200, text + &format!("</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"))
}

/// Gives a token, which takes the place of the one before.
fn token(call: &Call, state: &mut State) -> Reply {
    let body = String::from_utf8(call.body.clone()).unwrap();
    if !body.contains(&format!("client_secret={CLIENT_SECRET}")) {
        return reply(401, r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret."}"#);
    }
    state.n_tokens += 1;
    state.token = format!("token-{}", state.n_tokens);
    reply(200, format!(r#"{{"access_token":"{}","expires_in":3600}}"#, state.token))
}

/// Checks what authorises a request.
fn verify(call: &Call, state: &State) -> Result<(), (u16, &'static str)> {
    if call.header("x-ms-version").is_empty() {
        return Err((400, "MissingRequiredHeader"));
    }
    let authorization = call.header("authorization");
    if let Some(token) = authorization.strip_prefix("Bearer ") {
        return match !token.is_empty() && token == state.token {
            true => Ok(()),
            false => Err((401, "InvalidAuthenticationInfo")),
        };
    }
    let Ok(date) = jiff::fmt::rfc2822::parse(call.header("x-ms-date")) else {
        return Err((403, "AuthenticationFailed"));
    };
    let age_s = now(state).as_second() - date.timestamp().as_second();
    if age_s.abs() > 900 {
        return Err((403, "AuthenticationFailed"));
    }
    let length = call.header("content-length");
    let mut text = format!(
        "{}\n{}\n{}\n{}\n{}\n{}\n\n\n\n\n\n{}\n",
        call.method,
        call.header("content-encoding"),
        call.header("content-language"),
        if length == "0" { "" } else { length },
        call.header("content-md5"),
        call.header("content-type"),
        call.header("range"),
    );
    for (name, value) in call.headers.iter().filter(|(name, _)| name.starts_with("x-ms-")) {
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("/{ACCOUNT}{}", call.path));
    for (name, value) in &call.query {
        text.push_str(&format!("\n{name}:{value}"));
    }
    let signature = BASE64_STANDARD.encode(hmac(&BASE64_STANDARD.decode(KEY).unwrap(), text.as_bytes()));
    match authorization == format!("SharedKey {ACCOUNT}:{signature}") {
        true => Ok(()),
        false => Err((403, "AuthenticationFailed")),
    }
}

/// A shared access signature of an account for its blobs and containers. `Source:` "Create an account SAS".
pub fn account_sas(account: &str, key: &str, permissions: &str, expiry: &str) -> String {
    let (version, services, types) = ("2020-10-02", "b", "co");
    let text = format!("{account}\n{permissions}\n{services}\n{types}\n\n{expiry}\n\n\n{version}\n");
    let signature = BASE64_STANDARD.encode(hmac(&BASE64_STANDARD.decode(key).unwrap(), text.as_bytes()));
    let (expiry, signature) = (encode(expiry, false), encode(&signature, false));
    format!("sv={version}&ss={services}&srt={types}&sp={permissions}&se={expiry}&sig={signature}")
}
