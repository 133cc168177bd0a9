//! An S3 store in this process. It verifies signatures in the header with code of its own, records every request, and fails
//! on demand in the ways that stores and networks do. Never checks what clients make of its answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use md5::{Digest, Md5};
use pillion_base::threads::spawn_thread;
use sha2::Sha256;

use crate::fake_http::{
    Call, Reply, between, crc32c_base64, date, decode, encode, hex, hmac, list_page, md5_hex, now, parse_head, reply,
    reset, write_reply,
};

pub const BUCKET: &str = "fake-bucket";
pub const REGION: &str = "eu-fake-1";
pub const ACCESS_KEY: &str = "AKFAKE";
const CHECKSUM: &str = "x-amz-checksum-crc32c";
const ALGORITHM: &str = "x-amz-checksum-algorithm";
pub const SECRET_KEY: &str = "sk-fake-never-shown";

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Nothing is answered until the client goes away.
    Hang,
    /// The connection is reset after so many bytes of the body; nothing happened.
    Reset(usize),
    /// The request is done; the connection is reset instead of an answer.
    LoseAnswer,
    /// The request is done; the answer breaks off.
    Truncate,
    /// As `Truncate`, after so many bytes of the body.
    TruncateAt(usize),
    /// The request is not done; this status and code are the answer, after the whole body.
    Refuse(u16, &'static str),
    /// As `Refuse`, with a header.
    RefuseWith(u16, &'static str, &'static str, &'static str),
    /// As `Refuse`, before the body is read; then the connection is closed.
    RefuseEarly(u16, &'static str),
    /// The request is done, but the answer is this status and code.
    DoAndRefuse(u16, &'static str),
    /// Nothing is done; the answer is 200 with this error in the body.
    HiddenError(&'static str),
    /// The request is done; the answer is 200 with this error in the body.
    DoAndHiddenError(&'static str),
    /// The answer is a success, but nothing is kept.
    Drop,
    /// One byte of what is stored is changed.
    Corrupt,
    /// The answer is a success with this body.
    Say(&'static str),
    /// The request does not reach the store: something in between answers this status and body.
    Proxy(u16, &'static str),
    /// The last byte of what is stored is lost.
    Shorten,
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
    pub connection: usize,
}

#[derive(Clone, Default)]
pub struct Object {
    pub bytes: Vec<u8>,
    pub tag: String,
    pub checksum: Option<String>,
    pub headers: BTreeMap<String, String>,
}

#[derive(Default)]
pub struct Upload {
    pub key: String,
    pub parts: BTreeMap<u32, Object>,
    has_checksums: bool,
    headers: BTreeMap<String, String>,
}

pub struct State {
    pub objects: BTreeMap<String, Object>,
    pub uploads: BTreeMap<String, Upload>,
    pub seen: Vec<Seen>,
    pub has_bucket: bool,
    pub region: String,
    pub secret_key: String,
    pub session_token: String,
    /// The store's clock minus the host's.
    pub offset_s: i64,
    pub has_opaque_tags: bool,
    pub has_empty_complete_tag: bool,
    pub ignores_ranges: bool,
    pub has_location: bool,
    pub can_list: bool,
    pub page_names: usize,
    pub page_parts: usize,
    pub checks_signatures: bool,
    /// Bodies must be hashed and signed.
    pub forbids_unsigned: bool,
    /// CRC-32C is checked, kept and shown, as by AWS; else it is ignored.
    pub keeps_crc32c: bool,
    /// Uploads must come with a checksum, as into a bucket with Object Lock.
    pub demands_checksum: bool,
    /// HEAD and GET show another ETag than PUT.
    pub has_other_head_tags: bool,
    rules: Vec<Rule>,
    n_uploads: usize,
    n_connections: usize,
}

impl State {
    /// From now on nothing goes wrong.
    pub fn heal(&mut self) {
        self.rules.clear();
    }
}

pub struct FakeS3 {
    pub port: u16,
    pub state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

impl FakeS3 {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            seen: Vec::new(),
            has_bucket: true,
            region: REGION.into(),
            secret_key: SECRET_KEY.into(),
            session_token: String::new(),
            offset_s: 0,
            has_opaque_tags: false,
            has_empty_complete_tag: false,
            ignores_ranges: false,
            has_location: true,
            can_list: true,
            page_names: 1000,
            page_parts: 1000,
            checks_signatures: true,
            forbids_unsigned: false,
            keeps_crc32c: false,
            demands_checksum: false,
            has_other_head_tags: false,
            rules: Vec::new(),
            n_uploads: 0,
            n_connections: 0,
        }));
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&ended));
        spawn_thread("fake-s3", None, move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), state) = (stream, Arc::clone(&shared)) else { continue };
                let connection = {
                    let mut state = state.lock().unwrap();
                    state.n_connections += 1;
                    state.n_connections
                };
                spawn_thread("fake-s3-connection", None, move || serve(stream, &state, connection)).unwrap();
            }
        })
        .unwrap();
        FakeS3 { port, state, ended }
    }

    /// The next `times` requests of `operation` (`""` is any) whose key contains `key` go wrong, after `skip` others.
    pub fn rule(&self, operation: &'static str, key: &str, skip: usize, times: usize, fault: Fault) {
        self.state.lock().unwrap().rules.push(Rule { operation, key: key.into(), skip, times, fault });
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

impl Drop for FakeS3 {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn refusal(status: u16, code: &str, more: &str) -> Reply {
    let text = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>told so</Message>{more}<RequestId>req-1</RequestId></Error>"
    );
    reply(status, text)
}

/// Serves one connection until it ends.
fn serve(mut stream: TcpStream, state: &Mutex<State>, connection: usize) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut input = Vec::new();
    loop {
        let Some((mut call, length)) = read_head(&mut stream, &mut input) else { return };
        let fault = {
            let mut state = state.lock().unwrap();
            state.seen.push(Seen {
                operation: call.operation,
                key: call.key.clone(),
                query: call.query.clone(),
                headers: call.headers.clone(),
                body_bytes: 0,
                connection,
            });
            let matching = state.rules.iter_mut().find(|rule| {
                (rule.operation.is_empty() || rule.operation == call.operation)
                    && call.key.contains(&rule.key)
                    && rule.times > 0
            });
            match matching {
                Some(rule) if rule.skip > 0 => {
                    rule.skip -= 1;
                    None
                }
                Some(rule) => {
                    rule.times -= 1;
                    Some(rule.fault.clone())
                }
                None => None,
            }
        };
        let seen_idx = state.lock().unwrap().seen.len() - 1;
        let early = matches!(fault, Some(Fault::RefuseEarly(..)));
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
        let is_head = call.method == "HEAD";
        let refuse = |status, code| if is_head { reply(status, "") } else { refusal(status, code, "") };
        let answer = match fault {
            Some(Fault::Hang) => {
                let _ = stream.read(&mut [0; 1]);
                return;
            }
            Some(Fault::Reset(_)) => return reset(&stream),
            Some(Fault::LoseAnswer) => {
                act(&mut call, state, None);
                return reset(&stream);
            }
            Some(Fault::Truncate | Fault::TruncateAt(_)) => {
                let answer = act(&mut call, state, None);
                let mut bytes = write_reply(&answer, headers_of(&answer, &state.lock().unwrap()), is_head);
                let n_kept = match fault {
                    Some(Fault::TruncateAt(n_kept)) => n_kept.min(answer.body.len()),
                    _ => answer.body.len() / 2,
                };
                bytes.truncate(bytes.len() - (answer.body.len() - n_kept));
                let _ = stream.write_all(&bytes);
                return;
            }
            Some(Fault::Refuse(status, code)) | Some(Fault::RefuseEarly(status, code)) => refuse(status, code),
            Some(Fault::RefuseWith(status, code, name, value)) => {
                let mut answer = refuse(status, code);
                answer.headers.push((name.into(), value.into()));
                answer
            }
            Some(Fault::DoAndRefuse(status, code)) => {
                act(&mut call, state, None);
                refuse(status, code)
            }
            Some(Fault::HiddenError(code)) => refusal(200, code, ""),
            Some(Fault::DoAndHiddenError(code)) => {
                act(&mut call, state, None);
                refusal(200, code, "")
            }
            Some(Fault::Say(body)) => reply(200, body),
            Some(Fault::Proxy(status, body)) => {
                let text = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(text.as_bytes()).is_err() {
                    return;
                }
                continue;
            }
            other => act(&mut call, state, other),
        };
        let bytes = write_reply(&answer, headers_of(&answer, &state.lock().unwrap()), is_head);
        if stream.write_all(&bytes).is_err() {
            return;
        }
        if early {
            // The connection is closed with a body unread, so a reset follows the answer.
            let _ = stream.shutdown(Shutdown::Write);
            return;
        }
    }
}

fn read_head(stream: &mut TcpStream, input: &mut Vec<u8>) -> Option<(Call, usize)> {
    loop {
        let Some(parsed) = parse_head(input) else {
            // As servers answer a client that begins with a TLS handshake.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            return None;
        };
        if let Some((mut call, head_bytes)) = parsed {
            let inside = call.path().strip_prefix(&format!("/{BUCKET}")).map(|rest| rest.trim_start_matches('/'));
            // Virtual-hosted style has the bucket in the host.
            call.key = decode(inside.unwrap_or(call.path().trim_start_matches('/')));
            call.operation = operation(&call.method, &call.key, &call.query);
            input.drain(..head_bytes);
            let body_length = call.headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            return Some((call, body_length));
        }
        let mut buffer = [0; 16 * 1024];
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => input.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}

fn operation(method: &str, key: &str, query: &BTreeMap<String, String>) -> &'static str {
    let has = |name: &str| query.contains_key(name);
    match (method, key.is_empty()) {
        ("GET", true) if has("location") => "GetBucketLocation",
        ("GET", true) if has("uploads") => "ListMultipartUploads",
        ("GET", true) if has("list-type") => "ListObjectsV2",
        ("GET", true) => "ListObjects",
        ("GET", false) if has("uploadId") => "ListParts",
        ("GET", false) => "GetObject",
        ("HEAD", _) => "HeadObject",
        ("PUT", false) if has("partNumber") => "UploadPart",
        ("PUT", _) => "PutObject",
        ("POST", _) if has("uploads") => "CreateMultipartUpload",
        ("POST", _) => "CompleteMultipartUpload",
        ("DELETE", _) if has("uploadId") => "AbortMultipartUpload",
        ("DELETE", _) => "DeleteObject",
        _ => "unknown",
    }
}

/// The headers that each answer has.
fn headers_of(reply: &Reply, state: &State) -> Vec<(&'static str, String)> {
    let mut headers = vec![("Date", date(state.offset_s)), ("x-amz-request-id", "req-1".into())];
    if reply.status != 204 {
        headers.push(("Content-Length", reply.body.len().to_string()));
    }
    headers
}

fn tag(state: &State, bytes: &[u8]) -> String {
    if state.has_opaque_tags { md5_hex(&[bytes, b"salt"].concat()) } else { md5_hex(bytes) }
}

/// Carries out a request.
fn act(call: &mut Call, state: &Mutex<State>, fault: Option<Fault>) -> Reply {
    let mut state = state.lock().unwrap();
    let state = &mut *state;
    if state.checks_signatures
        && let Err((status, code, more)) = verify(call, state)
    {
        return if call.method == "HEAD" { reply(status, "") } else { refusal(status, code, &more) };
    }
    if !state.has_bucket {
        return if call.method == "HEAD" { reply(404, "") } else { refusal(404, "NoSuchBucket", "") };
    }
    if let Some(expected) = call.headers.get("content-md5")
        && BASE64_STANDARD.encode(Md5::digest(&call.body)) != *expected
    {
        return refusal(400, "BadDigest", "");
    }
    let checksum = call.headers.get(CHECKSUM).filter(|_| state.keeps_crc32c).cloned();
    if checksum.as_ref().is_some_and(|checksum| *checksum != crc32c_base64(&call.body)) {
        return refusal(400, "BadDigest", "");
    }
    let is_upload = matches!(call.operation, "PutObject" | "UploadPart");
    if state.demands_checksum && is_upload && checksum.is_none() && !call.headers.contains_key("content-md5") {
        return refusal(400, "InvalidRequest", "");
    }
    let mut body = std::mem::take(&mut call.body);
    if fault == Some(Fault::Corrupt)
        && let Some(byte) = body.first_mut()
    {
        *byte ^= 1;
    }
    if fault == Some(Fault::Shorten) {
        body.pop();
    }
    // Of what is kept.
    let checksum = checksum.map(|_| crc32c_base64(&body));
    let is_dropped = fault == Some(Fault::Drop);
    let kept: BTreeMap<String, String> = call
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("x-amz-") || *name == "content-type")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let upload_id = call.query.get("uploadId").cloned().unwrap_or_default();
    let key = call.key.clone();
    match call.operation {
        "GetBucketLocation" if !state.has_location => refusal(403, "AccessDenied", ""),
        "GetBucketLocation" => {
            reply(200, format!("<LocationConstraint xmlns=\"x\">{}</LocationConstraint>", state.region))
        }
        "PutObject" => {
            let tag = tag(state, &body);
            if !is_dropped {
                state
                    .objects
                    .insert(key, Object { bytes: body, tag: tag.clone(), checksum: checksum.clone(), headers: kept });
            }
            with_checksum(with_tag(reply(200, ""), &tag), checksum.as_ref())
        }
        "CreateMultipartUpload" => {
            state.n_uploads += 1;
            let id = format!("up/+{} id", state.n_uploads);
            let algorithm = call.headers.get(ALGORITHM).filter(|_| state.keeps_crc32c).cloned();
            let mut answer = reply(
                200,
                format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"),
            );
            answer.headers.extend(algorithm.iter().map(|name| (ALGORITHM.to_owned(), name.clone())));
            let has_checksums = algorithm.is_some();
            state.uploads.insert(id, Upload { key, parts: BTreeMap::new(), has_checksums, headers: kept });
            answer
        }
        "UploadPart" => {
            let tag = tag(state, &body);
            let Some(upload) = state.uploads.get_mut(&upload_id) else { return refusal(404, "NoSuchUpload", "") };
            // As AWS: all parts or none.
            if state.keeps_crc32c && checksum.is_some() != upload.has_checksums {
                return refusal(400, "InvalidRequest", "");
            }
            let number = call.query["partNumber"].parse().unwrap();
            if !is_dropped {
                let part = Object { bytes: body, tag: tag.clone(), checksum: checksum.clone(), headers: kept };
                upload.parts.insert(number, part);
            }
            with_checksum(with_tag(reply(200, ""), &tag), checksum.as_ref())
        }
        "ListParts" => {
            // As Ceph answers.
            let Some(upload) = state.uploads.get(&upload_id) else { return refusal(404, "NoSuchKey", "") };
            let from: u32 = call.query.get("part-number-marker").map_or(0, |marker| marker.parse().unwrap());
            let mut text = String::from("<ListPartsResult>");
            let mut rest = upload.parts.range(from + 1..);
            for (number, part) in rest.by_ref().take(state.page_parts) {
                text.push_str(&format!(
                    "<Part><PartNumber>{number}</PartNumber><ETag>&quot;{}&quot;</ETag><Size>{}</Size></Part>",
                    part.tag,
                    part.bytes.len()
                ));
                if number % 2 == 0 {
                    text.push_str(&format!("<NextPartNumberMarker>{number}</NextPartNumberMarker>"));
                }
            }
            text.push_str(&format!("<IsTruncated>{}</IsTruncated></ListPartsResult>", rest.next().is_some()));
            reply(200, text)
        }
        "ListMultipartUploads" => {
            let prefix = call.query.get("prefix").cloned().unwrap_or_default();
            let mut text = String::from("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>");
            for (id, upload) in state.uploads.iter().filter(|(_, upload)| upload.key.starts_with(&prefix)) {
                text.push_str(&format!("<Upload><Key>{}</Key><UploadId>{id}</UploadId></Upload>", upload.key));
            }
            reply(200, text + "</ListMultipartUploadsResult>")
        }
        "AbortMultipartUpload" => match state.uploads.remove(&upload_id) {
            Some(_) => reply(204, ""),
            None => refusal(404, "NoSuchUpload", ""),
        },
        "CompleteMultipartUpload" => {
            let text = String::from_utf8(body).unwrap();
            let Some(upload) = state.uploads.get(&upload_id) else { return refusal(404, "NoSuchUpload", "") };
            let mut bytes = Vec::new();
            let (mut hashes, mut sums) = (Vec::new(), Vec::new());
            let wanted: Vec<&str> = text.split("<Part>").skip(1).collect();
            for (idx, part) in wanted.iter().enumerate() {
                let number: u32 = between(part, "<PartNumber>", "</PartNumber>").parse().unwrap();
                let tag = between(part, "<ETag>&quot;", "&quot;</ETag>");
                let Some(found) = upload.parts.get(&number).filter(|found| found.tag == tag) else {
                    return refusal(400, "InvalidPart", "");
                };
                if usize::try_from(number).unwrap() != idx + 1 {
                    return refusal(400, "InvalidPartOrder", "");
                }
                if idx + 1 < wanted.len() && found.bytes.len() < 5 * 1024 * 1024 {
                    return refusal(400, "EntityTooSmall", "");
                }
                if upload.has_checksums {
                    let said = part.split_once("<ChecksumCRC32C>").and_then(|(_, rest)| rest.split_once("</Checksum"));
                    if said.map(|(said, _)| said) != found.checksum.as_deref() {
                        return refusal(400, "InvalidPart", "");
                    }
                    sums.extend_from_slice(&crc32c::crc32c(&found.bytes).to_be_bytes());
                }
                bytes.extend_from_slice(&found.bytes);
                hashes.extend_from_slice(&Md5::digest(&found.bytes));
            }
            let tag = format!("{}-{}", tag(state, &hashes), wanted.len());
            let Upload { headers, has_checksums, .. } = state.uploads.remove(&upload_id).unwrap();
            let checksum = has_checksums.then(|| format!("{}-{}", crc32c_base64(&sums), wanted.len()));
            if !is_dropped {
                state.objects.insert(key, Object { bytes, tag: tag.clone(), checksum, headers });
            }
            let said = if state.has_empty_complete_tag { String::new() } else { format!("&quot;{tag}&quot;") };
            reply(
                200,
                format!("\n  <CompleteMultipartUploadResult><ETag>{said}</ETag></CompleteMultipartUploadResult>"),
            )
        }
        "HeadObject" | "GetObject" => {
            let Some(object) = state.objects.get(&key) else {
                return if call.operation == "HeadObject" { reply(404, "") } else { refusal(404, "NoSuchKey", "") };
            };
            let start = call.headers.get("range").filter(|_| !state.ignores_ranges).map(|range| {
                range
                    .strip_prefix("bytes=")
                    .and_then(|range| range.strip_suffix('-'))
                    .unwrap()
                    .parse::<usize>()
                    .unwrap()
            });
            let bytes = object.bytes[start.unwrap_or(0)..].to_vec();
            let tag = match state.has_other_head_tags {
                true => md5_hex(format!("{} behind the gateway", object.tag).as_bytes()),
                false => object.tag.clone(),
            };
            let mut answer = with_tag(reply(if start.is_some() { 206 } else { 200 }, bytes), &tag);
            if call.headers.get("x-amz-checksum-mode").is_some_and(|mode| mode == "ENABLED") {
                answer = with_checksum(answer, object.checksum.as_ref());
            }
            for name in ["x-amz-server-side-encryption", "x-amz-server-side-encryption-customer-algorithm"] {
                if let Some(value) = object.headers.get(name) {
                    answer.headers.push((name.into(), value.clone()));
                }
            }
            answer
        }
        "DeleteObject" => {
            state.objects.remove(&key);
            reply(204, "")
        }
        "ListObjectsV2" | "ListObjects" => list(call, state),
        other => refusal(501, "NotImplemented", other),
    }
}

fn with_tag(mut reply: Reply, tag: &str) -> Reply {
    reply.headers.push(("ETag".into(), format!("\"{tag}\"")));
    reply
}

fn with_checksum(mut reply: Reply, checksum: Option<&String>) -> Reply {
    reply.headers.extend(checksum.map(|checksum| (CHECKSUM.to_owned(), checksum.clone())));
    reply
}

fn list(call: &Call, state: &State) -> Reply {
    if !state.can_list {
        return refusal(403, "AccessDenied", "");
    }
    let get = |name: &str| call.query.get(name).cloned().unwrap_or_default();
    let (prefix, delimiter) = (get("prefix"), get("delimiter"));
    let after = if call.operation == "ListObjects" { get("marker") } else { get("continuation-token") };
    let max: usize = get("max-keys").parse().unwrap_or(1000);
    let names_max = max.min(state.page_names);
    let (page, is_truncated) = list_page(state.objects.keys(), &prefix, &delimiter, &after, names_max);
    let mut text =
        format!("<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{is_truncated}</IsTruncated>");
    for (name, is_prefix) in &page {
        let name = encode(name, true);
        text.push_str(&match is_prefix {
            true => format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"),
            false => format!("<Contents><Key>{name}</Key><Size>1</Size></Contents>"),
        });
    }
    if let (true, Some((last, _))) = (is_truncated, page.last()) {
        text.push_str(&match call.operation {
            "ListObjects" => format!("<NextMarker>{}</NextMarker>", encode(last, true)),
            _ => format!("<NextContinuationToken>{last}</NextContinuationToken>"),
        });
    }
    reply(200, text + "</ListBucketResult>")
}

type Denied = (u16, &'static str, String);

/// Checks a request that is signed in its headers as AWS specifies it.
fn verify(call: &Call, state: &State) -> Result<(), Denied> {
    let denied = |status, code| (status, code, String::new());
    let header = |name: &str| call.headers.get(name).map(String::as_str).unwrap_or_default();
    // As a bucket policy demands that asks for s3:authType REST-HEADER.
    let Some(said) = header("authorization").strip_prefix("AWS4-HMAC-SHA256 ") else {
        return Err(denied(403, "AccessDenied"));
    };
    let get = |name: &str| said.split(", ").find_map(|part| part.strip_prefix(name)).unwrap_or_default();
    let scope: Vec<&str> = get("Credential=").split('/').collect();
    let [access_key, day, region, service, end] = scope[..] else { return Err(denied(400, "InvalidArgument")) };
    if access_key != ACCESS_KEY {
        return Err(denied(403, "InvalidAccessKeyId"));
    }
    if header("x-amz-security-token") != state.session_token {
        return Err(denied(400, "ExpiredToken"));
    }
    let date = header("x-amz-date");
    let signed_at: Timestamp =
        format!("{}-{}-{}T{}:{}:{}Z", &date[..4], &date[4..6], &date[6..8], &date[9..11], &date[11..13], &date[13..15])
            .parse()
            .unwrap();
    if (now(state.offset_s).as_second() - signed_at.as_second()).abs() > 900 {
        return Err(denied(403, "RequestTimeTooSkewed"));
    }
    let is_location = call.operation == "GetBucketLocation" && region == "us-east-1";
    if region != state.region && !is_location {
        return Err((400, "AuthorizationHeaderMalformed", format!("<Region>{}</Region>", state.region)));
    }
    let payload = header("x-amz-content-sha256");
    match payload {
        "UNSIGNED-PAYLOAD" if state.forbids_unsigned => return Err(denied(403, "AccessDenied")),
        "UNSIGNED-PAYLOAD" => {}
        payload if payload == hex(&Sha256::digest(&call.body)) => {}
        _ => return Err(denied(400, "XAmzContentSHA256Mismatch")),
    }
    let mut pairs: Vec<String> =
        call.query.iter().map(|(name, value)| format!("{}={}", encode(name, false), encode(value, false))).collect();
    pairs.sort();
    let signed_headers = get("SignedHeaders=");
    let mut headers = String::new();
    for name in signed_headers.split(';') {
        let Some(value) = call.headers.get(name) else { return Err(denied(403, "AccessDenied")) };
        headers.push_str(&format!("{name}:{}\n", value.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    let must_be_signed = |name: &&String| name.starts_with("x-amz-") || *name == "content-md5" || *name == "host";
    if let Some(name) =
        call.headers.keys().filter(must_be_signed).find(|name| !signed_headers.split(';').any(|s| s == *name))
    {
        return Err((403, "AccessDenied", format!("<Unsigned>{name}</Unsigned>")));
    }
    let canonical = format!(
        "{}\n{}\n{}\n{headers}\n{signed_headers}\n{payload}",
        call.method,
        encode(&decode(call.path()), true),
        pairs.join("&")
    );
    let text = format!(
        "AWS4-HMAC-SHA256\n{date}\n{day}/{region}/{service}/{end}\n{}",
        hex(&Sha256::digest(canonical.as_bytes()))
    );
    let mut key = format!("AWS4{}", state.secret_key).into_bytes();
    for part in [day, region, service, end] {
        key = hmac(&key, part.as_bytes());
    }
    if hex(&hmac(&key, text.as_bytes())) != get("Signature=") {
        return Err(denied(403, "SignatureDoesNotMatch"));
    }
    Ok(())
}
