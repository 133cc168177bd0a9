//! The Swift bucket: objects of a container of OpenStack's object store, over its own interface. Large files go in
//! segments, straight from the file. The store checks the MD5 of everything it is sent.
//!
//! From the outside in: this file has the operations of a bucket, `upload` and `large` have large objects, `segments` says
//! what they consist of, `client` sends requests with retries, `token` and `identity` give what authorises them. No redirect is followed, and no
//! container is created.

mod client;
pub(crate) mod config;
mod fault;
mod identity;
mod json;
mod large;
mod segments;
mod token;
mod upload;

use std::sync::atomic::{AtomicBool, Ordering};

use md5::{Digest, Md5};
use rusty_s3::Method;

use self::client::{Client, Request};
use self::fault::Fault;
use self::json::Entry;
use self::segments::Kind as ObjectKind;
use crate::limits;
use crate::pace::Pace;
use crate::ranged::Ranged;
use crate::rest::Env;
use crate::rest::Waits;
use crate::rest::{Answer, Body};
use crate::{Attributes, Bucket, Compared, Journal, Parts, Stored, check_dir_name, check_name};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

pub use self::config::{Auth, Credential, Identity, Named, Project, SwiftConfig, User};

const CONTENT_TYPE: &str = "application/octet-stream";
/// Where the segments of large objects are, as those of Thanos.
const SEGMENTS: &str = "segments/";

/// An MD5.
type Hash = [u8; 16];

/// A container of an account.
pub struct SwiftBucket {
    client: Client,
    name: String,
    segments_container: String,
    segment_bytes: Option<u64>,
    is_dynamic: bool,
    page_names: usize,
    read_attempts: u32,
    /// The container was there when last looked: what is missing in it is missing.
    has_container: AtomicBool,
}

/// What a HEAD says.
struct Head {
    attributes: Attributes,
    kind: ObjectKind,
}

impl SwiftBucket {
    /// The configured container; no request is made yet. `env` gives the environment variables of proxies.
    ///
    /// `Errors:` each names the setting that is wrong.
    pub fn open(config: &SwiftConfig, user_agent: &str, env: Env) -> Result<SwiftBucket> {
        Ok(SwiftBucket {
            client: Client::new(config, user_agent, env)?,
            name: config.container.clone(),
            segments_container: config.segments_container.clone(),
            segment_bytes: config.segment_bytes,
            is_dynamic: config.is_dynamic,
            page_names: config.page_names.max(1),
            read_attempts: config.max_attempts.max(1),
            has_container: AtomicBool::new(false),
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

    /// The tag is the ETag: of a plain object the MD5 of its content, of a large one that of its segments' ETags.
    fn head(&self, object: &str, stop: &Stop) -> Result<Head, Fault> {
        let request = Request::object("HEAD object", Method::Head, &self.name, object);
        let answer = self.client.send(&request, stop).map_err(|fault| self.explained(fault, stop))?;
        let Ok(size_bytes) = answer.header("content-length").parse() else {
            let text = format!("HEAD object {}/{object}: the answer has no length", self.name);
            return Err(Error::new(Kind::Retry, text).classed("network").into());
        };
        Ok(Head { attributes: Attributes { size_bytes, tag: tag_of(&answer) }, kind: ObjectKind::of(&answer) })
    }

    /// Swift says the same of a missing object and of one in a missing container. The first time both are told apart.
    fn explained(&self, fault: Fault, stop: &Stop) -> Fault {
        if fault.error.kind() != Kind::NotFound || self.has_container.load(Ordering::Relaxed) {
            return fault;
        }
        match self.client.send(&Request::container("HEAD container", Method::Head, &self.name), stop) {
            Ok(_) => {
                self.has_container.store(true, Ordering::Relaxed);
                fault
            }
            Err(other) if other.status == 404 || other.error.kind() == Kind::Stopped => other,
            // Whoever may read objects need not be allowed to look at the container.
            Err(_) => fault,
        }
    }

    /// Stores an object, or a segment, with one request.
    fn put(&self, request: Request<'_>, body: Body<'_>, hash: &Hash, stop: &Stop) -> Result<Attributes> {
        let size_bytes = body.length();
        // With it the store refuses what was damaged on the way.
        let request = request.with_header("content-type", CONTENT_TYPE).with_header("etag", hex(hash)).with_body(body);
        let answer = self.client.send(&request, stop)?;
        let tag = hex(hash);
        match tag_of(&answer) {
            said if said.len() == tag.len() && said != tag => {
                Err(self.client.integrity_error(&request, "the store has received other bytes than were sent"))
            }
            _ => Ok(Attributes { size_bytes, tag }),
        }
    }

    fn put_object(&self, object: &str, body: Body<'_>, hash: &Hash, stop: &Stop) -> Result<Attributes> {
        let request = Request::object("PUT object", Method::Put, &self.name, object);
        let attributes = self.put(request, body, hash, stop)?;
        self.has_container.store(true, Ordering::Relaxed);
        Ok(attributes)
    }

    /// Calls `each` with the pages of a listing, in the store's order. `folders`: what is below a slash counts as one.
    fn pages(
        &self,
        container: &str,
        prefix: &str,
        folders: bool,
        each: &mut dyn FnMut(Vec<Entry>) -> Result<()>,
        stop: &Stop,
    ) -> Result<(), Fault> {
        let mut marker: Option<String> = None;
        for _ in 0..limits::S3_PAGES_MAX {
            let mut request = Request::container("GET container", Method::Get, container)
                .with("format", "json")
                .with("limit", self.page_names.to_string());
            if container != self.name {
                request = request.of_segments();
            }
            if folders {
                request = request.with("delimiter", "/");
            }
            if !prefix.is_empty() {
                request = request.with("prefix", prefix);
            }
            if let Some(marker) = &marker {
                request = request.with("marker", marker.as_str());
            }
            let answer = self.client.send(&request, stop)?;
            let page = json::entries(&answer.body).context(|| format!("list {container}/{prefix}"))?;
            let last = page.last().map(|entry| entry.any_name().to_owned());
            let is_full = page.len() >= self.page_names;
            each(page)?;
            match last {
                Some(_) if !is_full => return Ok(()),
                None => return Ok(()),
                last if last == marker => break,
                last => marker = last,
            }
        }
        let text = format!("list {container}/{prefix}: the listing does not end");
        Err(Error::new(Kind::Retry, text).classed("server").into())
    }
}

impl Ranged for SwiftBucket {
    fn get_from(
        &self,
        object: &str,
        from: u64,
        each: &mut dyn FnMut(u16, &[u8]) -> Result<()>,
        stop: &Stop,
    ) -> Result<()> {
        let mut request = Request::object("GET object", Method::Get, &self.name, object);
        if from > 0 {
            request = request.with_header("range", format!("bytes={from}-"));
        }
        self.client.stream(&request, each, stop)?;
        Ok(())
    }

    fn read_attempts(&self) -> u32 {
        self.read_attempts
    }

    fn rest(&self, n_failed: u32, stop: &Stop) -> Result<()> {
        self.client.wait(n_failed, stop)
    }
}

impl Bucket for SwiftBucket {
    fn name(&self) -> &str {
        &self.name
    }

    fn exists(&self, object: &str, stop: &Stop) -> Result<bool> {
        check_name(object)?;
        stop.check()?;
        match self.head(object, stop) {
            Ok(_) => Ok(true),
            Err(fault) if fault.error.kind() == Kind::NotFound => Ok(false),
            Err(fault) => Err(fault.into()),
        }
    }

    fn get(&self, object: &str, stop: &Stop) -> Result<Vec<u8>> {
        check_name(object)?;
        stop.check()?;
        let request = Request::object("GET object", Method::Get, &self.name, object);
        let answer = self.client.send_limited(&request, limits::META_BYTES_MAX, stop);
        let answer = answer.map_err(|fault| self.explained(fault, stop))?;
        let tag = tag_of(&answer);
        let is_plain = matches!(ObjectKind::of(&answer), ObjectKind::Plain);
        if is_plain && is_md5(&tag) && tag != hex(&Md5::digest(&answer.body).into()) {
            return Err(self.client.integrity_error(&request, "other bytes have arrived than the store's MD5 is of"));
        }
        Ok(answer.body)
    }

    fn read(&self, object: &str, each: &mut dyn FnMut(&[u8]) -> Result<()>, stop: &Stop) -> Result<()> {
        self.read_whole(object, each, stop)
    }

    fn iter(&self, dir: &str, each: &mut dyn FnMut(&str) -> Result<()>, stop: &Stop) -> Result<()> {
        let dir = check_dir_name(dir)?;
        stop.check()?;
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let mut each_page = |page: Vec<Entry>| {
            let mut names: Vec<&str> = page.iter().map(Entry::any_name).collect();
            names.sort_unstable();
            // Some tools create an object with the folder's own name; segments are no objects to anybody.
            for name in names.into_iter().filter(|name| *name != prefix && *name != SEGMENTS) {
                stop.check()?;
                each(name)?;
            }
            Ok(())
        };
        Ok(self.pages(&self.name, &prefix, true, &mut each_page, stop)?)
    }

    fn attributes(&self, object: &str, stop: &Stop) -> Result<Attributes> {
        check_name(object)?;
        stop.check()?;
        Ok(self.head(object, stop)?.attributes)
    }

    fn upload(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored> {
        check_name(object)?;
        stop.check()?;
        if let Some(segment_bytes) = self.segment_bytes(source.size_bytes(), stop)? {
            return upload::upload(self, object, source, segment_bytes, journal, stop);
        }
        let hash = hash(source, 0..source.size_bytes(), stop)?;
        let body = Body::File { source, range: (0, source.size_bytes()), is_hashed: false };
        let attributes = self.put_object(object, body, &hash, stop)?;
        // The file has changed since segments were sent, or the setting.
        if let Some(parts) = journal.parts() {
            match large::abandon(self, object, &parts, stop) {
                // The object is there. Whoever may not list leaves them where they are.
                Err(err) if err.class() == "denied" => {
                    log::debug!(bucket = self.name.as_str(), object = object, err = err.to_string();
                        "cannot remove the segments of earlier attempts");
                }
                other => other?,
            }
            journal.record(None)?;
        }
        Ok(Stored { attributes, resumed_bytes: 0 })
    }

    /// Reads the whole object if neither its MD5 nor those of its segments prove that the content is the same.
    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared> {
        check_name(object)?;
        stop.check()?;
        let stored = match self.head(object, stop) {
            Err(fault) if fault.error.kind() == Kind::NotFound => return Ok(Compared::Missing),
            other => other?,
        };
        let stored_bytes = stored.attributes.size_bytes;
        if stored_bytes != source.size_bytes() {
            return Ok(Compared::Size { stored_bytes });
        }
        let is_proved = match &stored.kind {
            ObjectKind::Plain => {
                let tag = &stored.attributes.tag;
                is_md5(tag) && *tag == hex(&hash(source, 0..stored_bytes, stop)?)
            }
            _ => self.has_segments_of(object, &stored, source, stop)?,
        };
        let is_same = is_proved || self.has_content_of(object, source, stop)?;
        Ok(if is_same { Compared::Same } else { Compared::Content })
    }

    fn abandon(&self, object: &str, parts: &Parts, stop: &Stop) -> Result<()> {
        check_name(object)?;
        stop.check()?;
        large::abandon(self, object, parts, stop)
    }

    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()> {
        check_name(object)?;
        stop.check()?;
        let hash: Hash = Md5::digest(bytes).into();
        self.put_object(object, Body::Bytes(bytes), &hash, stop).map(drop)
    }

    /// Removes the segments of a large object too. It looks for the object first, because an answer to the deletion may
    /// be lost, and the next one says that it is missing.
    fn delete(&self, object: &str, stop: &Stop) -> Result<()> {
        check_name(object)?;
        stop.check()?;
        let head = self.head(object, stop)?;
        large::delete(self, object, &head.kind, stop)
    }
}

/// The MD5 of a part of a file.
fn hash(source: &Source, range: std::ops::Range<u64>, stop: &Stop) -> Result<Hash> {
    let mut md5 = Md5::new();
    source.for_each(range, |buffer| {
        stop.check()?;
        md5.update(buffer);
        Ok(())
    })?;
    Ok(md5.finalize().into())
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_md5(tag: &str) -> bool {
    tag.len() == 2 * size_of::<Hash>() && tag.bytes().all(|c| c.is_ascii_hexdigit())
}

/// The ETag of an answer, without quotes, which large objects have.
fn tag_of(answer: &Answer) -> String {
    answer.header("etag").trim_matches('"').to_ascii_lowercase()
}
