//! A real S3 server (Ceph's RADOS gateway, through `scripts/rgw.sh`), and a look at its buckets that does not go through
//! the code under test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rusty_s3::signing::sign;
use rusty_s3::{Method, UrlStyle};
use ureq::http::{Request, Response};
use ureq::{Agent, Body};
use url::Url;

/// What the script ends with when a package is missing.
const PACKAGE_MISSING: i32 = 3;
/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// The server. It ends with the value, and at the latest with the process: the script waits for the end of its
/// standard input.
pub struct Rgw {
    child: Child,
    facts: BTreeMap<String, String>,
    n_buckets: AtomicUsize,
}

impl Rgw {
    /// Starts a server on a free port with an empty store of this many bytes, and waits until it answers.
    ///
    /// `None` where its packages are missing and `PILLION_NO_RGW=1` says that this is meant. A test run must not leave
    /// out what it was to test without a word, so that otherwise a missing package fails it.
    pub fn start_with(store_bytes: u64) -> Option<Rgw> {
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/rgw.sh"))
            .args(["run", "--until-eof"])
            .env("RGW_STORE_BYTES", store_bytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut facts = BTreeMap::new();
        // The script gives up by itself after a while.
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            match line.unwrap().split_once('=') {
                Some((name, value)) => facts.insert(name.to_owned(), value.to_owned()),
                None => return Some(Rgw { child, facts, n_buckets: AtomicUsize::new(0) }),
            };
        }
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap();
        let is_meant = std::env::var_os("PILLION_NO_RGW").is_some_and(|value| value == "1");
        assert!(
            status.code() == Some(PACKAGE_MISSING) && is_meant,
            "scripts/rgw.sh ({status}): {said}\
             To leave out all tests that need this S3 server where its packages are missing, set PILLION_NO_RGW=1."
        );
        eprintln!("PILLION_NO_RGW=1: not run against a real S3 server: {said}");
        None
    }

    /// The server that all tests of a program share.
    pub fn shared() -> Option<&'static Rgw> {
        static RGW: OnceLock<Option<Rgw>> = OnceLock::new();
        RGW.get_or_init(|| Rgw::start_with(4 << 30)).as_ref()
    }

    /// What the script said, such as `endpoint` (host and port), `access_key`, `dns_name`.
    pub fn fact(&self, name: &str) -> &str {
        self.facts.get(name).unwrap_or_else(|| panic!("the script did not say {name}"))
    }

    /// `127.0.0.1:<port>`.
    pub fn endpoint(&self) -> &str {
        self.fact("endpoint")
    }

    /// A new bucket under a name of its own.
    pub fn bucket(&self) -> Bucket<'_> {
        let name = format!("bucket-{}", self.n_buckets.fetch_add(1, Ordering::Relaxed));
        let bucket = self.existing(&name);
        bucket.expect(200, Method::Put, "", b"");
        bucket
    }

    /// A bucket by its name.
    pub fn existing(&self, name: &str) -> Bucket<'_> {
        Bucket { rgw: self, name: name.to_owned(), endpoint: self.endpoint().to_owned() }
    }

    /// The signed URL of an object whose bucket is in the host, which does not resolve.
    pub fn virtual_hosted(&self, bucket: &str, key: &str) -> Url {
        let endpoint = Url::parse(&format!("http://{}", self.fact("dns_name"))).unwrap();
        let bucket = rusty_s3::Bucket::new(endpoint, UrlStyle::VirtualHost, bucket.to_owned(), "us-east-1").unwrap();
        self.sign(Method::Get, bucket.object_url(key), &[], &[])
    }

    fn sign(&self, method: Method, url: Url, query: &[(&str, &str)], headers: &[(&str, &str)]) -> Url {
        let (access_key, secret_key) = (self.fact("access_key"), self.fact("secret_key"));
        let now = jiff::Timestamp::now();
        let (query, headers) = (query.iter().copied(), headers.iter().copied());
        sign(&now, method, url, access_key, secret_key, None, "us-east-1", 3600, query, headers)
    }
}

impl Drop for Rgw {
    fn drop(&mut self) {
        // The end of its input is what the script ends at.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// One bucket, looked at with requests of the test's own.
pub struct Bucket<'a> {
    rgw: &'a Rgw,
    pub name: String,
    /// Host and port that requests go to.
    endpoint: String,
}

impl Bucket<'_> {
    /// `bucket.yml` for this bucket at `endpoint`, which is the server's or a proxy's. `more` are further lines, without
    /// indentation, below `config`.
    pub fn config(&self, endpoint: &str, more: &str) -> String {
        let (access_key, secret_key) = (self.rgw.fact("access_key"), self.rgw.fact("secret_key"));
        let more: String = more.lines().map(|line| format!("  {line}\n")).collect();
        format!(
            "type: S3\nconfig:\n  bucket: {}\n  endpoint: {endpoint}\n  region: us-east-1\n  insecure: true\n  \
             access_key: {access_key}\n  secret_key: {secret_key}\n{more}",
            self.name
        )
    }

    /// The same bucket behind a proxy.
    pub fn through(&self, endpoint: &str) -> Self {
        Bucket { rgw: self.rgw, name: self.name.clone(), endpoint: endpoint.to_owned() }
    }

    /// Name and size of every object whose name begins with `prefix`.
    pub fn list(&self, prefix: &str) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        let mut token = String::new();
        loop {
            let mut query = vec![("list-type", "2"), ("prefix", prefix)];
            if !token.is_empty() {
                query.insert(0, ("continuation-token", token.as_str()));
            }
            let page = text(self.request(Method::Get, "", &query, &[], b"").unwrap());
            for object in between(&page, "<Contents>", "</Contents>") {
                let one = |tag| between(object, &format!("<{tag}>"), &format!("</{tag}>"))[0];
                found.insert(one("Key").to_owned(), one("Size").parse().unwrap());
            }
            match between(&page, "<NextContinuationToken>", "</NextContinuationToken>").as_slice() {
                [next] => token = (*next).to_owned(),
                _ => return found,
            }
        }
    }

    /// Uploads in parts that are neither completed nor aborted, by object and upload id.
    pub fn uploads(&self) -> Vec<(String, String)> {
        let page = text(self.request(Method::Get, "", &[("uploads", "")], &[], b"").unwrap());
        assert!(!page.contains("<IsTruncated>true"), "more than a page: {page}");
        let one = |upload: &str, tag| between(upload, &format!("<{tag}>"), &format!("</{tag}>"))[0].to_owned();
        between(&page, "<Upload>", "</Upload>")
            .into_iter()
            .map(|upload| (one(upload, "Key"), one(upload, "UploadId")))
            .collect()
    }

    /// Ends all uploads in parts that are under way.
    pub fn abort_uploads(&self) {
        for (key, id) in self.uploads() {
            let aborted = self.request(Method::Delete, &key, &[("uploadId", &id)], &[], b"").unwrap();
            assert_eq!(aborted.status(), 204);
        }
    }

    /// A whole object.
    pub fn get(&self, key: &str) -> Vec<u8> {
        self.try_get(key, &[]).unwrap_or_else(|| panic!("there is no object {key}"))
    }

    /// A whole object, asked for with further headers; `None` when the server does not give it out.
    pub fn try_get(&self, key: &str, headers: &[(&str, &str)]) -> Option<Vec<u8>> {
        let answer = self.request(Method::Get, key, &[], headers, b"").unwrap();
        let is_there = answer.status() == 200;
        let bytes = bytes(answer);
        is_there.then_some(bytes)
    }

    /// The headers of an object.
    pub fn head(&self, key: &str) -> Option<BTreeMap<String, String>> {
        let answer = self.request(Method::Head, key, &[], &[], b"").unwrap();
        let headers = answer.headers().iter();
        let headers = headers.map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()));
        (answer.status() == 200).then(|| headers.collect())
    }

    /// Stores an object.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.expect(200, Method::Put, key, bytes);
    }

    /// Removes an object.
    pub fn delete(&self, key: &str) {
        self.expect(204, Method::Delete, key, b"");
    }

    /// A signed URL, for programs that can only be given one.
    pub fn signed(&self, method: Method, key: &str, query: &[(&str, &str)], headers: &[(&str, &str)]) -> Url {
        self.rgw.sign(method, self.url(key), query, headers)
    }

    /// The URL of an object, or of the bucket for `""`.
    pub fn url(&self, key: &str) -> Url {
        let endpoint = Url::parse(&format!("http://{}", self.endpoint)).unwrap();
        let bucket = rusty_s3::Bucket::new(endpoint, UrlStyle::Path, self.name.clone(), "us-east-1").unwrap();
        if key.is_empty() { bucket.base_url().clone() } else { bucket.object_url(key) }
    }

    /// Access key and secret key as curl wants them.
    #[allow(dead_code)] // Only the bench hands it to curl.
    pub fn user(&self) -> String {
        format!("{}:{}", self.rgw.fact("access_key"), self.rgw.fact("secret_key"))
    }

    fn expect(&self, status: u16, method: Method, key: &str, body: &[u8]) {
        let answer = self.request(method, key, &[], &[], body).unwrap();
        assert_eq!(answer.status(), status, "{key}: {}", String::from_utf8_lossy(&bytes(answer)));
    }

    /// One signed request. The query must be sorted by name.
    ///
    /// `Errors:` where there was no answer.
    pub fn request(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response<Body>, ureq::Error> {
        let url = self.signed(method, key, query, headers);
        let mut request = Request::builder().method(method.to_str()).uri(url.as_str());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(REQUEST_TIMEOUT))
            .allow_non_standard_methods(true)
            .build()
            .into();
        // A body on a GET is not allowed, not even an empty one.
        match method {
            Method::Put | Method::Post => agent.run(request.body(body).unwrap()),
            _ => agent.run(request.body(()).unwrap()),
        }
    }
}

fn bytes(answer: Response<Body>) -> Vec<u8> {
    try_bytes(answer).unwrap()
}

/// The body of an answer, where all of it came.
pub fn try_bytes(mut answer: Response<Body>) -> Result<Vec<u8>, ureq::Error> {
    answer.body_mut().with_config().limit(1 << 30).read_to_vec()
}

/// The body of an answer that must be a good one.
fn text(answer: Response<Body>) -> String {
    let status = answer.status();
    let text = String::from_utf8(bytes(answer)).unwrap();
    assert_eq!(status, 200, "{text}");
    text
}

/// What stands between two marks, each time.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    text.split(begin).skip(1).map(|rest| rest.split(end).next().unwrap()).collect()
}
