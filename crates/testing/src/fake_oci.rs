//! Object Storage of Oracle Cloud in this process. It verifies the RSA signature of every request with code of its own,
//! which headers are signed, the SHA-256 of signed bodies, and the date; it records every request, and fails on demand in
//! the ways that stores and networks do. Never checks what clients make of its answers.

use std::collections::BTreeMap;
use std::convert::Infallible;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use md5::{Digest, Md5};
use ring::rsa::KeyPair;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::fake_http::{Call, Reply, Server, Store, between, damage, date, decode, md5_base64, now, reply, with};

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

pub type Fault = crate::fake_http::Fault<Infallible>;
pub type FakeOci = Server<State>;

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
    n_written: usize,
}

impl FakeOci {
    /// The URL of a machine's metadata service.
    pub fn metadata(&self) -> String {
        self.url("opc/v2")
    }

    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.with(|state| state.objects.get(key).map(|object| object.bytes.clone()))
    }

    pub fn n_uploads(&self) -> usize {
        self.with(|state| state.uploads.len())
    }
}

impl Store for State {
    type OwnFault = Infallible;

    fn new(_port: u16) -> Self {
        State {
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            has_bucket: true,
            offset_s: 0,
            page_len: 1000,
            key_id: format!("{TENANCY}/{USER}/{FINGERPRINT}"),
            tokens_issued_at_s: u64::try_from(Timestamp::now().as_second()).unwrap(),
            n_tokens: 0,
            n_written: 0,
        }
    }

    fn route(call: &mut Call) {
        (call.operation, call.key) = operation(&call.method, call.path(), &call.query);
    }

    fn act(&mut self, call: &mut Call, fault: Option<&Fault>) -> Reply {
        act(call, self, fault)
    }

    fn refusal(status: u16, code: &str) -> Reply {
        refusal(status, code)
    }

    fn headers(&self, reply: &Reply, is_head: bool) -> Vec<(&'static str, String)> {
        // The answer to a HEAD has no body, and a refusal no length.
        let length = if is_head && reply.status >= 300 { 0 } else { reply.body.len() };
        let mut headers = vec![("date", date(self.offset_s)), ("content-length", length.to_string())];
        if reply.is_own {
            headers.push(("opc-request-id", "fra-1:req".into()));
        }
        headers
    }
}

fn refusal(status: u16, code: &str) -> Reply {
    reply(status, json!({ "code": code, "message": "told so" }).to_string())
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

/// Carries out a request.
fn act(call: &mut Call, state: &mut State, fault: Option<&Fault>) -> Reply {
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
    if fault == Some(&Fault::Corrupt) {
        damage(&mut body);
    }
    if fault == Some(&Fault::ForgetPieces) {
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
    let age_s = now(state.offset_s).as_second() - date.timestamp().as_second();
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
