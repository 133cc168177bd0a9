//! A storage account of Azure in this process, and the directory that gives tokens for it. It verifies SharedKey
//! signatures with code of its own, records every request, and fails on demand in the ways that stores and networks do.
//! Never checks what clients make of its answers.

use std::collections::BTreeMap;
use std::convert::Infallible;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::fake_http::{
    Call, Reply, Server, Store, damage, date, decode, encode, hmac, list_page, md5_base64, now, reply, with,
};

pub const ACCOUNT: &str = "fakeaccount";
pub const CONTAINER: &str = "fake-container";
/// In base64, as Azure shows keys.
pub const KEY: &str = "a2V5LW9mLXRoZS1mYWtlLW5ldmVyLXNob3du";
pub const CLIENT_SECRET: &str = "secret-of-the-fake-never-shown";

pub type Fault = crate::fake_http::Fault<Infallible>;
pub type FakeAzure = Server<State>;

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
    pub has_container: bool,
    /// The account's clock minus the host's.
    pub offset_s: i64,
    pub page_names: usize,
    /// The token that is accepted; empty for none.
    pub token: String,
    pub n_tokens: usize,
    n_written: usize,
}

impl FakeAzure {
    /// The URL of the account, as an emulator has it.
    pub fn service(&self) -> String {
        self.url(ACCOUNT)
    }

    /// The URL of the directory that gives tokens.
    pub fn authority(&self) -> String {
        self.url("directory")
    }

    pub fn blob(&self, key: &str) -> Option<Vec<u8>> {
        self.with(|state| state.blobs.get(key).map(|blob| blob.bytes.clone()))
    }
}

impl Store for State {
    type OwnFault = Infallible;

    fn new(_port: u16) -> Self {
        State {
            blobs: BTreeMap::new(),
            blocks: BTreeMap::new(),
            has_container: true,
            offset_s: 0,
            page_names: 1000,
            token: String::new(),
            n_tokens: 0,
            n_written: 0,
        }
    }

    fn route(call: &mut Call) {
        let inside = call.path().strip_prefix(&format!("/{ACCOUNT}/{CONTAINER}"));
        let key = decode(inside.unwrap_or_default().trim_start_matches('/'));
        call.operation = match inside {
            Some(_) => operation(call, key.is_empty()),
            None if call.path().ends_with("/oauth2/v2.0/token") => "token",
            None => "unknown",
        };
        call.key = key;
    }

    fn act(&mut self, call: &mut Call, fault: Option<&Fault>) -> Reply {
        act(call, self, fault)
    }

    fn refusal(status: u16, code: &str) -> Reply {
        refusal(status, code)
    }

    fn headers(&self, reply: &Reply, _is_head: bool) -> Vec<(&'static str, String)> {
        let mut headers = vec![("Date", date(self.offset_s)), ("Content-Length", reply.body.len().to_string())];
        if reply.is_own {
            headers.extend([("x-ms-request-id", "req-1".into()), ("x-ms-version", "2020-10-02".into())]);
        }
        headers
    }
}

fn refusal(status: u16, code: &str) -> Reply {
    let text = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>told so\nRequestId:req-1\n\
         Time:now</Message></Error>"
    );
    with(reply(status, text), "x-ms-error-code", code)
}

fn operation(call: &Call, is_container: bool) -> &'static str {
    match (call.method.as_str(), is_container, call.parameter("comp")) {
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

/// Carries out a request.
fn act(call: &mut Call, state: &mut State, fault: Option<&Fault>) -> Reply {
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
    if fault == Some(&Fault::Corrupt) {
        damage(&mut body);
    }
    if fault == Some(&Fault::ForgetPieces) {
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
    let range = call.range_start();
    let bytes = blob.bytes[range.unwrap_or(0)..].to_vec();
    let mut answer =
        with(reply(if range.is_some() { 206 } else { 200 }, bytes), "ETag", &format!("\"0x{:X}\"", blob.version));
    if !blob.md5.is_empty() && range.is_none() {
        answer = with(answer, "Content-MD5", &blob.md5);
    }
    if blob.is_folder { with(answer, "x-ms-meta-hdi_isfolder", "true") } else { answer }
}

fn list(call: &Call, state: &State) -> Reply {
    let (prefix, delimiter, after) = (call.parameter("prefix"), call.parameter("delimiter"), call.parameter("marker"));
    let (page, has_more) = list_page(state.blobs.keys(), prefix, delimiter, after, state.page_names);
    let next = page.last().filter(|_| has_more).map_or("", |(name, _)| name.as_str());
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
    let age_s = now(state.offset_s).as_second() - date.timestamp().as_second();
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
    text.push_str(&format!("/{ACCOUNT}{}", call.path()));
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
