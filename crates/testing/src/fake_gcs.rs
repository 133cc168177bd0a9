//! A bucket of Google Cloud Storage in this process, and the service that gives tokens for it. It verifies the statements of
//! service accounts with code of its own, is strict about sessions, records every request, and fails on demand in the ways
//! that stores and networks do. Never checks what clients make of its answers.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};

use crate::fake_http::{
    Call, Reply, Server, Store, between, crc32c_base64, damage, date, decode, encode, list_page, md5_base64, now,
    reply, with,
};

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

/// What goes wrong here only. Of a chunk that breaks off whole units are kept; what is read can be corrupt too, and then its
/// sums are not those of what is read.
#[derive(Debug, Clone, PartialEq)]
pub enum GcsFault {
    /// As `Refuse`, with this message.
    Say(u16, &'static str, &'static str),
    /// Only so many bytes of the chunk are kept, which the answer says.
    Keep(usize),
    /// The session is gone before the request is done, and the answer has this status.
    Forget(u16),
    /// The answer is a success with another CRC-32C.
    OtherSum,
}

pub type Fault = crate::fake_http::Fault<GcsFault>;
pub type FakeGcs = Server<State>;

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
    port: u16,
    n_written: u64,
    n_sessions: usize,
}

impl FakeGcs {
    /// The URL that gives tokens.
    pub fn token_url(&self) -> String {
        self.url("token")
    }

    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.with(|state| state.objects.get(key).map(|object| object.bytes.clone()))
    }

    /// Sessions that have made no object yet.
    pub fn n_open_sessions(&self) -> usize {
        self.with(|state| state.sessions.values().filter(|session| !session.is_done).count())
    }
}

impl Store for State {
    type OwnFault = GcsFault;

    fn new(port: u16) -> Self {
        State {
            objects: BTreeMap::new(),
            sessions: BTreeMap::new(),
            has_bucket: true,
            offset_s: 0,
            page_names: 1000,
            token: String::new(),
            is_open: false,
            n_tokens: 0,
            forbids_replacing: false,
            port,
            n_written: 0,
            n_sessions: 0,
        }
    }

    fn route(call: &mut Call) {
        let path = call.path();
        let objects = path.strip_prefix(&format!("/storage/v1/b/{BUCKET}/o"));
        let is_upload = path == format!("/upload/storage/v1/b/{BUCKET}/o");
        let key = match objects {
            Some(rest) => decode(rest.trim_start_matches('/')),
            None => call.parameter("name").to_owned(),
        };
        // A name is one part of the path.
        let is_object = objects.is_some_and(|rest| rest.len() > 1 && !rest[1..].contains('/'));
        let range = call.header("content-range");
        call.operation = match (call.method.as_str(), objects, is_upload) {
            ("POST", None, false) if path == "/token" => "token",
            ("GET", Some(_), _) if is_object && call.parameter("alt") == "media" => "content",
            ("GET", Some(_), _) if is_object => "objects.get",
            ("GET", Some(""), _) => "objects.list",
            ("DELETE", Some(_), _) if is_object => "objects.delete",
            ("POST", None, true) if call.parameter("uploadType") == "media" => "media",
            ("POST", None, true) if call.parameter("uploadType") == "resumable" => "begin",
            ("PUT", None, true) if range.starts_with("bytes */") => "question",
            ("PUT", None, true) => "chunk",
            ("DELETE", None, true) => "cancel",
            _ => "unknown",
        };
        call.key = key;
    }

    fn act(&mut self, call: &mut Call, fault: Option<&Fault>) -> Reply {
        act(call, self, fault)
    }

    fn refusal(status: u16, reason: &str) -> Reply {
        refusal(status, reason)
    }

    fn headers(&self, reply: &Reply, _is_head: bool) -> Vec<(&'static str, String)> {
        let mut headers = vec![("Date", date(self.offset_s))];
        if reply.status != 204 {
            headers.push(("Content-Length", reply.body.len().to_string()));
        }
        headers.push(match reply.is_own {
            true => ("X-GUploader-UploadID", "never-shown".into()),
            false => ("Content-Type", "text/html".into()),
        });
        headers
    }

    /// Of a chunk that breaks off whole units stay.
    fn break_off(&mut self, call: &Call) {
        let Some((start, ..)) = range_of(call).filter(|_| call.operation == "chunk") else { return };
        let Some(session) = self.sessions.get_mut(call.parameter("upload_id")) else { return };
        let end = (start + call.body.len()) / UNIT * UNIT;
        if end > session.bytes.len() {
            session.bytes.truncate(start);
            session.bytes.extend_from_slice(&call.body[..end - start]);
        }
    }
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
fn act(call: &mut Call, state: &mut State, fault: Option<&Fault>) -> Reply {
    let own = match fault {
        Some(Fault::Own(own)) => Some(own),
        _ => None,
    };
    if let Some(GcsFault::Say(status, reason, message)) = own {
        return say(*status, reason, message);
    }
    if call.operation == "token" {
        return token(call, state);
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
    let mut is_other_sum = own == Some(&GcsFault::OtherSum);
    if fault == Some(&Fault::Corrupt) {
        damage(&mut body);
    }
    if let Some(GcsFault::Forget(status)) = own {
        state.sessions.remove(call.parameter("upload_id"));
        return refusal(*status, "notFound");
    }
    let key = call.key.clone();
    let mut answer = match call.operation {
        "media" => media(call, state, body, fault == Some(&Fault::Corrupt)),
        "begin" => begin(call, state, &body),
        "chunk" => {
            let kept = if let Some(GcsFault::Keep(kept)) = own { *kept } else { body.len() };
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

fn begin(call: &Call, state: &mut State, body: &[u8]) -> Reply {
    let Ok(metadata) = serde_json::from_slice::<Value>(body) else { return refusal(400, "parseError") };
    let size = call.header("x-upload-content-length").parse();
    let (Some(crc32c), Ok(size)) = (metadata["crc32c"].as_str(), size) else { return refusal(400, "required") };
    state.n_sessions += 1;
    let id = format!("session-{}-never-shown", state.n_sessions);
    let session = Session { key: call.key.clone(), crc32c: crc32c.to_owned(), size, ..Session::default() };
    state.sessions.insert(id.clone(), session);
    let name = encode(&call.key, false);
    let fields = call.parameter("fields");
    let address = format!(
        "http://127.0.0.1:{}/upload/storage/v1/b/{BUCKET}/o?name={name}&fields={fields}&uploadType=resumable&upload_id={id}",
        state.port
    );
    with(reply(200, ""), "Location", &address)
}

/// Start, end and size of a chunk.
fn range_of(call: &Call) -> Option<(usize, usize, usize)> {
    let (range, size) = call.header("content-range").strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<usize>().ok()? + 1, size.parse().ok()?))
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
    let range = call.range_start();
    let status = if range.is_some() { 206 } else { 200 };
    let mut bytes = object.bytes[range.unwrap_or(0)..].to_vec();
    if is_corrupt {
        damage(&mut bytes);
    }
    let answer = reply(status, bytes);
    let answer = with(answer, "X-Goog-Generation", &object.generation.to_string());
    if object.has_no_sums { answer } else { with(answer, "X-Goog-Hash", &hash_header(&object.bytes)) }
}

fn list(call: &Call, state: &State) -> Reply {
    let (prefix, delimiter, after) =
        (call.parameter("prefix"), call.parameter("delimiter"), call.parameter("pageToken"));
    let (page, has_more) = list_page(state.objects.keys(), prefix, delimiter, after, state.page_names);
    let mut value = json!({ "kind": "storage#objects" });
    if let Some(last) = page.last().filter(|_| has_more) {
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
fn token(call: &Call, state: &mut State) -> Reply {
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
    if (issued - now(state.offset_s).as_second()).abs() > 300 || ends - issued > 3600 {
        return refused("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.");
    }
    if claims["iss"] != EMAIL
        || claims["scope"] != SCOPE
        || claims["aud"] != format!("http://127.0.0.1:{}/token", state.port)
    {
        return refused("Invalid JWT: Failed audience check.");
    }
    state.n_tokens += 1;
    state.token = format!("token-{}-never-shown", state.n_tokens);
    let given = json!({ "access_token": state.token, "expires_in": 3599, "token_type": "Bearer" });
    resource(200, &given)
}
