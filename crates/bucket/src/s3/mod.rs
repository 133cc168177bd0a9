//! The S3 bucket: signed requests over blocking HTTP. Large files go in parts, straight from the file. After an upload
//! the store is checked for what was sent.
//!
//! From the outside in: this file has the operations of a bucket, `multipart` has the upload in parts, `client` sends
//! requests with retries, `crate::rest` sends one. No redirect is followed, and no request is sent without a signature
//! unless the configuration says so.

mod checksum;
mod client;
pub(crate) mod config;
mod credentials;
mod doubts;
pub(crate) mod endpoint;
mod fault;
mod multipart;
mod parts;
mod retry;
mod sign;
mod sigv4;
pub mod xml;

use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};
use rusty_s3::Method;

use self::checksum::{Checksums, Keeping, Sums, Wanted};
use self::client::{Client, Request};
use self::doubts::Doubts;
use self::fault::Fault;
use self::parts::{Hash, Tag};
use crate::limits;
use crate::pace::Pace;
use crate::ranged::Ranged;
use crate::rest::Body;
use crate::{Attributes, Bucket, Compared, Journal, Parts, Stored, check_dir_name, check_key};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

pub use self::config::{ListVersion, Lookup, S3Config, Sse};
pub use self::credentials::{CredentialsChain, CredentialsProvider, Keys};
// What fuzz targets need, beside the XML: the readers of profiles and of answers that come early.
pub use self::credentials::ini;
pub use crate::rest::{Answer, HttpConfig, Waits, early_answer};

/// Headers, in lower case.
type Headers = Vec<(String, String)>;

/// A bucket of an S3 store.
pub struct S3Bucket {
    client: Client,
    name: String,
    part_size: u64,
    disable_multipart: bool,
    sends_md5: bool,
    list_version: ListVersion,
    /// Sent with every new object.
    new_headers: Headers,
    /// Sent with every request for an object that is encrypted with the customer's key.
    key_headers: Headers,
    /// This store was seen to have ETags that are no MD5s.
    has_opaque_tags: AtomicBool,
    /// Whether this store keeps CRC-32C.
    checksums: Checksums,
    /// Whether HEAD may be asked for it: under SSE-KMS that needs one more permission.
    asks_checksums: bool,
    /// Objects that were not stored as they were sent.
    doubts: Doubts,
    /// The bucket itself is known to exist.
    bucket_exists: AtomicBool,
}

/// The answer to a HEAD.
struct Head {
    attributes: Attributes,
    /// The store says that its ETag is no MD5.
    is_opaque: bool,
    /// The CRC-32C that the store shows; empty for none.
    crc32c: String,
}

/// What was sent, to be compared with what the store has.
struct Sent<'a> {
    /// The ETag that an MD5-based store must have, if it is known.
    tag: Option<&'a str>,
    /// The CRC-32C as the store would show it, if it was sent.
    crc32c: Option<&'a str>,
    /// The store has answered with that CRC-32C, for all the bytes.
    is_echoed: bool,
    size_bytes: u64,
    /// Reads the object and says whether it has these bytes.
    has_content: &'a dyn Fn() -> Result<bool>,
}

impl S3Bucket {
    /// The configured bucket; no request is made yet. `env` gives the environment variables that name proxies.
    ///
    /// `Errors:` each names the setting that is wrong.
    pub fn open(
        config: S3Config,
        credentials: Box<dyn CredentialsProvider>,
        user_agent: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<S3Bucket> {
        let wrong = |text: String| Err(Error::new(Kind::Permanent, text));
        if !config.disable_multipart && !(limits::PART_BYTES_MIN..=limits::PART_BYTES_MAX).contains(&config.part_size) {
            let (least, most) = (limits::PART_BYTES_MIN, limits::PART_BYTES_MAX);
            return wrong(format!("part_size {} is not between {least} and {most} bytes", config.part_size));
        }
        let mut new_headers = metadata(&config)?;
        let key_headers = match &config.sse {
            Some(Sse::C { key_file }) => {
                let key = crate::rest::read_bytes(key_file, limits::CREDENTIALS_BYTES_MAX)
                    .context(|| "sse_config.encryption_key")?;
                if key.len() != 32 {
                    let (path, length) = (key_file.display(), key.len());
                    return wrong(format!(
                        "sse_config.encryption_key: {path} has {length} bytes, a key has exactly 32"
                    ));
                }
                if config.insecure {
                    log::warn!(bucket = config.bucket.as_str();
                        "the encryption key is sent over plain HTTP because of insecure: true");
                }
                customer_key(&key)
            }
            Some(Sse::S3) => {
                new_headers.push(header("x-amz-server-side-encryption", "AES256"));
                Headers::new()
            }
            Some(Sse::Kms { key_id, context }) => {
                new_headers.push(header("x-amz-server-side-encryption", "aws:kms"));
                new_headers.push(header("x-amz-server-side-encryption-aws-kms-key-id", key_id));
                // Differs: Thanos sends an empty map too, which some stores refuse.
                if !context.is_empty() {
                    let json = serde_json::to_vec(context).expect("a map of texts is JSON");
                    let encoded = BASE64_STANDARD.encode(json);
                    new_headers.push(header("x-amz-server-side-encryption-context", &encoded));
                }
                Headers::new()
            }
            None => Headers::new(),
        };
        new_headers.extend_from_slice(&key_headers);
        Ok(S3Bucket {
            client: Client::new(&config, credentials, user_agent, env)?,
            name: config.bucket,
            part_size: config.part_size,
            disable_multipart: config.disable_multipart,
            sends_md5: config.send_content_md5,
            list_version: config.list_version,
            has_opaque_tags: AtomicBool::new(matches!(config.sse, Some(Sse::Kms { .. } | Sse::C { .. }))),
            checksums: Checksums::default(),
            asks_checksums: !matches!(config.sse, Some(Sse::Kms { .. })),
            doubts: Doubts::default(),
            new_headers,
            key_headers,
            bucket_exists: AtomicBool::new(false),
        })
    }

    /// Sets the pace of uploads.
    pub(crate) fn with_pace(mut self, pace: Pace) -> Self {
        self.client.set_pace(pace);
        self
    }

    /// Sets the waits between attempts.
    pub fn with_waits(mut self, waits: Waits) -> Self {
        self.client.set_waits(waits);
        self
    }

    fn head(&self, object: &str, stop: &Stop) -> Result<Head, Fault> {
        let mut request =
            Request::new("HeadObject", "s3:GetObject", Method::Head, Some(object)).with_headers(&self.key_headers);
        if self.asks_checksums && self.checksums.keeping() == Keeping::Kept {
            request = request.with_headers(&[header(checksum::MODE, "ENABLED")]);
        }
        let answer = self.client.send(&request, stop)?;
        let tag = xml::unquoted(answer.header("etag")).to_owned();
        let size_bytes = answer.header("content-length").parse();
        // The page of a captive portal or a proxy must not pass for an object.
        let is_object = !tag.is_empty() || !answer.header("x-amz-request-id").is_empty();
        let Some(size_bytes) = size_bytes.ok().filter(|_| is_object) else {
            let text = format!("HeadObject {}/{object}: the answer is not that of an object store", self.name);
            return Err(Error::new(Kind::Retry, text).classed("network").into());
        };
        self.bucket_exists.store(true, Ordering::Relaxed);
        let crc32c = answer.header(checksum::CRC32C).to_owned();
        Ok(Head { attributes: Attributes { size_bytes, tag }, is_opaque: is_opaque(&answer), crc32c })
    }

    /// Sends a HEAD and tells a missing object from a missing bucket. Both are a bare 404, so the bucket is looked for
    /// once.
    fn find(&self, object: &str, stop: &Stop) -> Result<Head> {
        let found = self.head(object, stop);
        if let Err(fault) = &found
            && fault.status == 404
            && !self.bucket_exists.load(Ordering::Relaxed)
        {
            let request = Request::new("ListObjectsV2", "s3:ListBucket", Method::Get, None);
            match self.client.send(&request.with("list-type", "2").with("max-keys", "1"), stop) {
                // A refused listing does not say that the bucket is missing.
                Ok(_) => self.bucket_exists.store(true, Ordering::Relaxed),
                Err(fault) if fault.status == 404 => {
                    let kind = if fault.error.kind() == Kind::NotFound { Kind::Permanent } else { fault.error.kind() };
                    return Err(fault.error.with_kind(kind).classed("no_bucket"));
                }
                Err(fault) if matches!(fault.status, 400 | 403 | 405 | 501) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(found?)
    }

    /// Uploads a file in one piece or in parts.
    fn upload_checked(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored> {
        let size_bytes = source.size_bytes();
        let part_bytes = if self.disable_multipart { None } else { parts::part_bytes(size_bytes, self.part_size)? };
        if let Some(part_bytes) = part_bytes {
            return multipart::upload(self, object, source, part_bytes, journal, stop);
        }
        if size_bytes > limits::PART_BYTES_MAX {
            let text = format!("upload {object}: {size_bytes} bytes do not go in one piece; remove disable_multipart");
            return Err(Error::new(Kind::Permanent, text));
        }
        // The file or the configuration has changed since parts were sent.
        if let Some(left) = journal.parts() {
            self.abandon(object, &left, stop)?;
            journal.record(None)?;
        }
        Ok(Stored { attributes: self.put(object, source, stop)?, resumed_bytes: 0 })
    }

    /// Uploads a whole file with one request; with one more if the bucket may want its hash.
    fn put(&self, object: &str, source: &Source, stop: &Stop) -> Result<Attributes> {
        let stored = self.put_file(object, source, stop);
        if !stored.as_ref().is_err_and(|err| self.client.begins_hashing(err)) {
            return stored;
        }
        let stored = self.put_file(object, source, stop);
        self.client.judges_hashing(stored.as_ref().err());
        stored
    }

    fn put_file(&self, object: &str, source: &Source, stop: &Stop) -> Result<Attributes> {
        let range = (0, source.size_bytes());
        let keeping = self.checksums.keeping();
        let wanted = Wanted {
            md5: self.sends_md5 && keeping != Keeping::Kept,
            sha256: self.client.hashes_files(),
            crc32c: keeping != Keeping::Ignored,
        };
        let sums = checksum::sums(source, range, wanted, stop, None)?;
        let is_hashed = sums.md5.is_none() && keeping != Keeping::Kept;
        let body = Body::File { source, range, is_hashed };
        let has_content = || self.has_content_of(object, source, stop);
        self.put_checked(object, body, sums, &has_content, stop)
    }

    /// Sends an object with its sums, and checks that the store has it.
    fn put_checked(
        &self,
        object: &str,
        body: Body<'_>,
        sums: Sums,
        has_content: &dyn Fn() -> Result<bool>,
        stop: &Stop,
    ) -> Result<Attributes> {
        let request = |crc32c: Option<u32>| {
            let mut request = Request::new("PutObject", "s3:PutObject", Method::Put, Some(object))
                .with_headers(&self.new_headers)
                .with_body(body)
                .with_sha256(sums.sha256);
            if let Some(md5) = &sums.md5 {
                request = request.with_headers(&[content_md5(md5)]);
            }
            if let Some(crc32c) = crc32c {
                request = request.with_headers(&[header(checksum::CRC32C, &checksum::text(crc32c))]);
            }
            request
        };
        let is_unknown = self.checksums.keeping() == Keeping::Unknown;
        let mut answer = self.client.send(&request(sums.crc32c), stop);
        if is_unknown && answer.as_ref().is_err_and(checksum::may_be_refused) {
            answer = self.client.send(&request(None), stop);
            if answer.is_ok() {
                self.checksums.learn(false, &self.name);
            }
        }
        let answer = answer?;
        self.bucket_exists.store(true, Ordering::Relaxed);
        let (ours, theirs) = (sums.crc32c.map(checksum::text), answer.header(checksum::CRC32C));
        if ours.as_deref().is_some_and(|ours| checksum::contradicts(theirs, ours)) {
            return Err(self.client.integrity_error(&request(None), "the store has another checksum than was sent"));
        }
        let is_echoed = ours.as_deref() == Some(theirs);
        if is_unknown && ours.is_some() && self.checksums.keeping() == Keeping::Unknown {
            self.checksums.learn(is_echoed, &self.name);
        }
        let size_bytes = body.length();
        let tag = sums.md5.or(answer.sent_md5).map(|hash| parts::hex(&hash));
        let said = xml::unquoted(answer.header("etag"));
        if matches!(body, Body::Bytes(_)) && tag.as_deref() == Some(said) {
            return Ok(Attributes { size_bytes, tag: said.to_owned() });
        }
        let sent = Sent { tag: tag.as_deref(), crc32c: ours.as_deref(), is_echoed, size_bytes, has_content };
        self.check_stored(object, &sent, is_opaque(&answer), stop)
    }

    /// Checks that the store shows what was sent, and returns what it shows: others will see that, and not what the answer
    /// to an upload said.
    ///
    /// A different ETag does not prove that the bytes differ, so they are read once. If they are the same, the ETags of
    /// this store are no MD5s, and from then on the checksum is compared where there is one, else only the size.
    fn check_stored(&self, object: &str, sent: &Sent<'_>, is_opaque: bool, stop: &Stop) -> Result<Attributes> {
        let request = Request::new("PutObject", "s3:PutObject", Method::Put, Some(object));
        let head = match self.head(object, stop) {
            Err(fault) if fault.status == 404 => {
                return Err(self.client.integrity_error(&request, "the store has acknowledged an object and has none"));
            }
            other => other?,
        };
        let stored = head.attributes;
        if stored.size_bytes != sent.size_bytes {
            let text = format!("{} bytes were sent and the store has {}", sent.size_bytes, stored.size_bytes);
            return Err(self.client.integrity_error(&request, &text));
        }
        let other_bytes = || Err(self.client.integrity_error(&request, "the store has other bytes than were sent"));
        if sent.crc32c.is_some_and(|ours| checksum::contradicts(&head.crc32c, ours)) {
            return other_bytes();
        }
        let is_shown = sent.is_echoed || sent.crc32c == Some(head.crc32c.as_str());
        let is_known = is_opaque || head.is_opaque || self.has_opaque_tags.load(Ordering::Relaxed);
        if sent.tag == Some(stored.tag.as_str()) || (sent.tag.is_none() && is_shown) || is_known {
            return Ok(stored);
        }
        if !is_shown && !(sent.has_content)()? {
            return other_bytes();
        }
        if !self.has_opaque_tags.swap(true, Ordering::Relaxed) {
            log::info!(bucket = self.name.as_str();
                "the object store's ETags are not MD5 sums; uploads are checked by checksum headers and size");
        }
        Ok(stored)
    }

    /// Whether an ETag is that of the file's content; `None` if it does not say.
    fn etag_agrees(&self, tag: &str, source: &Source, stop: &Stop) -> Result<Option<bool>> {
        let size_bytes = source.size_bytes();
        match parts::form(tag) {
            Tag::Opaque => Ok(None),
            Tag::Whole => {
                let hash = multipart::hash(source, (0, size_bytes), stop)?;
                Ok((parts::hex(&hash) == tag).then_some(true))
            }
            Tag::Parts(n_parts) => {
                let own = parts::part_bytes(size_bytes, self.part_size)?;
                for part_bytes in parts::candidates(size_bytes, n_parts, own) {
                    let hashes = (0..n_parts)
                        .map(|idx| multipart::hash(source, parts::range(idx, part_bytes, size_bytes), stop))
                        .collect::<Result<Vec<Hash>>>()?;
                    if parts::tag_of_parts(&hashes) == tag {
                        return Ok(Some(true));
                    }
                }
                Ok(None)
            }
        }
    }

    /// One page of a listing; `from` is where it begins.
    fn page(&self, prefix: &str, from: Option<&str>, stop: &Stop) -> Result<xml::Listing> {
        let request = match self.list_version {
            ListVersion::V1 => Request::new("ListObjects", "s3:ListBucket", Method::Get, None),
            ListVersion::V2 => Request::new("ListObjectsV2", "s3:ListBucket", Method::Get, None).with("list-type", "2"),
        };
        let mut request = request
            .with("delimiter", "/")
            .with("prefix", prefix)
            .with("encoding-type", "url")
            .with("max-keys", limits::S3_PAGE_NAMES.to_string());
        if let Some(from) = from {
            let name = if self.list_version == ListVersion::V1 { "marker" } else { "continuation-token" };
            request = request.with(name, from);
        }
        let answer = self.client.send(&request, stop)?;
        self.bucket_exists.store(true, Ordering::Relaxed);
        xml::listing(&answer.body).context(|| format!("list {}/{prefix}", self.name))
    }
}

impl Ranged for S3Bucket {
    fn get_from(
        &self,
        object: &str,
        from: u64,
        each: &mut dyn FnMut(u16, &[u8]) -> Result<()>,
        stop: &Stop,
    ) -> Result<()> {
        let mut request =
            Request::new("GetObject", "s3:GetObject", Method::Get, Some(object)).with_headers(&self.key_headers);
        if from > 0 {
            request = request.with_headers(&[header("range", &format!("bytes={from}-"))]);
        }
        self.client.stream(&request, each, stop)?;
        Ok(())
    }

    fn read_attempts(&self) -> u32 {
        self.client.attempts_max()
    }

    fn rest(&self, n_failed: u32, stop: &Stop) -> Result<()> {
        self.client.wait(n_failed, stop)
    }
}

impl Bucket for S3Bucket {
    fn name(&self) -> &str {
        &self.name
    }

    fn exists(&self, object: &str, stop: &Stop) -> Result<bool> {
        check_key(object)?;
        stop.check()?;
        match self.find(object, stop) {
            Ok(_) => Ok(true),
            Err(err) if err.kind() == Kind::NotFound => Ok(false),
            Err(err) => Err(err),
        }
    }

    fn get(&self, object: &str, stop: &Stop) -> Result<Vec<u8>> {
        check_key(object)?;
        stop.check()?;
        let request =
            Request::new("GetObject", "s3:GetObject", Method::Get, Some(object)).with_headers(&self.key_headers);
        Ok(self.client.send_limited(&request, limits::META_BYTES_MAX, stop)?.body)
    }

    fn read(&self, object: &str, each: &mut dyn FnMut(&[u8]) -> Result<()>, stop: &Stop) -> Result<()> {
        self.read_whole(object, each, stop)
    }

    fn iter(&self, dir: &str, each: &mut dyn FnMut(&str) -> Result<()>, stop: &Stop) -> Result<()> {
        let dir = check_dir_name(dir)?;
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let mut from: Option<String> = None;
        for _ in 0..limits::S3_PAGES_MAX {
            let page = self.page(&prefix, from.as_deref(), stop)?;
            let mut names: Vec<String> = page.keys.into_iter().chain(page.prefixes).collect();
            names.sort_unstable();
            // Some tools create an object with the folder's own name for an empty folder.
            for name in names.iter().filter(|name| **name != prefix) {
                stop.check()?;
                each(name)?;
            }
            match page.next {
                None => return Ok(()),
                next if next == from => break,
                next => from = next,
            }
        }
        let text = format!("list {}/{prefix}: the listing does not end", self.name);
        Err(Error::new(Kind::Retry, text).classed("server"))
    }

    fn attributes(&self, object: &str, stop: &Stop) -> Result<Attributes> {
        check_key(object)?;
        stop.check()?;
        Ok(self.find(object, stop)?.attributes)
    }

    fn upload(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored> {
        check_key(object)?;
        stop.check()?;
        self.doubts.wait(object, self.client.waits(), stop)?;
        let stored = self.upload_checked(object, source, journal, stop);
        self.doubts.note(object, &stored);
        stored
    }

    /// Reads the whole object if the ETag does not prove that the content is the same.
    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared> {
        check_key(object)?;
        stop.check()?;
        let head = match self.find(object, stop) {
            Err(err) if err.kind() == Kind::NotFound => return Ok(Compared::Missing),
            other => other?,
        };
        if head.attributes.size_bytes != source.size_bytes() {
            return Ok(Compared::Size { stored_bytes: head.attributes.size_bytes });
        }
        let is_opaque = head.is_opaque || self.has_opaque_tags.load(Ordering::Relaxed);
        let agrees = if is_opaque { None } else { self.etag_agrees(&head.attributes.tag, source, stop)? };
        let is_same = match agrees {
            Some(is_same) => is_same,
            None => self.has_content_of(object, source, stop)?,
        };
        Ok(if is_same { Compared::Same } else { Compared::Content })
    }

    fn abandon(&self, object: &str, parts: &Parts, stop: &Stop) -> Result<()> {
        check_key(object)?;
        stop.check()?;
        if parts.upload_id.is_empty() {
            return multipart::sweep(self, object, stop);
        }
        multipart::abort(self, object, &parts.upload_id, stop)
    }

    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()> {
        check_key(object)?;
        stop.check()?;
        let is_offered = self.checksums.keeping() != Keeping::Ignored;
        let crc32c = is_offered.then(|| crc32c::crc32c(bytes));
        let sums = Sums { md5: Some(Md5::digest(bytes).into()), sha256: None, crc32c };
        let has_content = || Ok(self.get(object, stop)? == bytes);
        self.doubts.wait(object, self.client.waits(), stop)?;
        let stored = self.put_checked(object, Body::Bytes(bytes), sums, &has_content, stop);
        self.doubts.note(object, &stored);
        stored.map(drop)
    }

    /// Looks for the object first, because stores answer the DELETE of a missing object with success.
    fn delete(&self, object: &str, stop: &Stop) -> Result<()> {
        check_key(object)?;
        stop.check()?;
        self.find(object, stop)?;
        self.client.send(&Request::new("DeleteObject", "s3:DeleteObject", Method::Delete, Some(object)), stop)?;
        Ok(())
    }
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn content_md5(hash: &Hash) -> (String, String) {
    header("content-md5", &BASE64_STANDARD.encode(hash))
}

/// Whether the store says that the object's ETag is no MD5. `Source:` AWS, "Checking object integrity".
fn is_opaque(answer: &Answer) -> bool {
    answer.header("x-amz-server-side-encryption").starts_with("aws:kms")
        || !answer.header("x-amz-server-side-encryption-customer-algorithm").is_empty()
}

fn customer_key(key: &[u8]) -> Headers {
    let hash: Hash = Md5::digest(key).into();
    vec![
        header("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        header("x-amz-server-side-encryption-customer-key", &BASE64_STANDARD.encode(key)),
        header("x-amz-server-side-encryption-customer-key-md5", &BASE64_STANDARD.encode(hash)),
    ]
}

/// Headers with the content type, the storage class and the user metadata.
///
/// `Errors:` `Permanent` for characters that HTTP forbids.
fn metadata(config: &S3Config) -> Result<Headers> {
    let mut headers = vec![header("content-type", "application/octet-stream")];
    if !config.storage_class.is_empty() {
        headers.push(header("x-amz-storage-class", &config.storage_class));
    }
    for (name, value) in &config.put_user_metadata {
        let lower = name.to_ascii_lowercase();
        let name = if lower.starts_with("x-amz-") { lower } else { format!("x-amz-meta-{lower}") };
        headers.push((name, value.trim().to_owned()));
    }
    for (name, value) in &headers {
        let is_token = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_' || c == b'.');
        if !is_token || !value.bytes().all(|c| (0x20..0x7f).contains(&c)) {
            let text = format!("put_user_metadata: {name:?} has characters that HTTP forbids in it or in its value");
            return Err(Error::new(Kind::Permanent, text));
        }
    }
    Ok(headers)
}
