//! An object store of OpenStack in this process, with the servers that give tokens for it. It checks tokens, MD5s and the
//! lists of large objects as Swift does, records every request, and fails on demand in the ways that stores and networks
//! do. Never checks what clients make of its answers.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::fake_http::{Call, Reply, Server, Store, damage, decode, md5_hex, reply, with};

pub const CONTAINER: &str = "fake-container";
pub const SEGMENTS_CONTAINER: &str = "fake-segments";
pub const USER: &str = "project:user";
pub const PASSWORD: &str = "password-of-the-fake-never-shown";
/// Where the account is, below the server's URL.
const ACCOUNT: &str = "/v1/AUTH_fake";

/// What goes wrong here only.
#[derive(Debug, Clone, PartialEq)]
pub enum SwiftFault {
    /// One byte is changed on the way in.
    Damage,
}

pub type Fault = crate::fake_http::Fault<SwiftFault>;
pub type FakeSwift = Server<State>;

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
    port: u16,
}

impl FakeSwift {
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

impl Store for State {
    type OwnFault = SwiftFault;

    fn new(port: u16) -> Self {
        let empty = [CONTAINER, SEGMENTS_CONTAINER].map(|name| (name.to_owned(), BTreeMap::new()));
        State {
            containers: BTreeMap::from(empty),
            info: Some(r#"{"swift":{"max_file_size":5368709122},"slo":{"max_manifest_segments":1000}}"#.into()),
            unlisted: None,
            has_ids: true,
            has_static: true,
            token: String::new(),
            n_tokens: 0,
            token_life_s: 3600,
            port,
        }
    }

    /// The key of what is no object is its path.
    fn route(call: &mut Call) {
        let path = call.path();
        let inside = path.strip_prefix(ACCOUNT).and_then(|path| path.strip_prefix('/'));
        let (container, key) = inside.map_or(("", path), |path| path.split_once('/').unwrap_or((path, "")));
        let (container, key) = (decode(container), decode(key));
        call.operation = operation(&call.method, &container, &key, &call.query);
        (call.container, call.key) = (container, key);
    }

    fn act(&mut self, call: &mut Call, fault: Option<&Fault>) -> Reply {
        act(call, self, fault)
    }

    fn refusal(status: u16, _code: &str) -> Reply {
        refusal(status)
    }

    fn headers(&self, reply: &Reply, _is_head: bool) -> Vec<(&'static str, String)> {
        let mut headers = vec![("Content-Length", reply.body.len().to_string())];
        if reply.is_own && self.has_ids {
            headers.push(("X-Trans-Id", "tx-1".into()));
        }
        headers
    }
}

fn refusal(status: u16) -> Reply {
    reply(status, format!("<html><h1>Told so</h1><p>Status {status}.</p></html>"))
}

fn json(value: &serde_json::Value) -> Reply {
    with(reply(200, value.to_string()), "Content-Type", "application/json; charset=utf-8")
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

/// Carries out a request.
fn act(call: &mut Call, state: &mut State, fault: Option<&Fault>) -> Reply {
    match call.operation {
        "info" => {
            return state.info.clone().map_or_else(|| refusal(403), |info| Reply { is_own: false, ..reply(200, info) });
        }
        "token v1" | "token v2" | "token v3" => return token(call, state),
        _ => {}
    }
    if call.header("x-auth-token") != state.token || state.token.is_empty() {
        return refusal(401);
    }
    if !state.containers.contains_key(&call.container) {
        return refusal(404);
    }
    if fault == Some(&Fault::ForgetPieces) {
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
    if fault == Some(&Fault::Own(SwiftFault::Damage)) {
        damage(&mut body);
    }
    let said = call.header("etag");
    if !said.is_empty() && said != md5_hex(&body) {
        return refusal(422);
    }
    let manifest = call.header("x-object-manifest");
    if fault == Some(&Fault::Corrupt) {
        damage(&mut body);
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
    let range = call.range_start();
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
fn token(call: &Call, state: &mut State) -> Reply {
    let storage = format!("http://127.0.0.1:{}{ACCOUNT}", state.port);
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
