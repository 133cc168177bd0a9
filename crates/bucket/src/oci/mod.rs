//! The bucket of Oracle Cloud: objects over Object Storage's own interface. Large files go in parts, straight from the
//! file. After an upload the store is checked for what was sent.
//!
//! From the outside in: this file has the operations of a bucket, `multipart` the upload in parts, `client` sends requests
//! with retries, `sign` signs them with the `key` of a `principal`, which for this machine `federation` fetches. No redirect is followed.

mod client;
pub(crate) mod config;
mod fault;
mod federation;
mod json;
pub(crate) mod key;
mod multipart;
mod principal;
mod region;
mod sign;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};
use rusty_s3::Method;

use self::client::{Client, Place, Request};
use self::fault::Fault;
use crate::limits;
use crate::pace::Pace;
use crate::ranged::Ranged;
use crate::rest::{Answer, Body, Env, Waits};
use crate::{Attributes, Bucket, Compared, Journal, Parts, Stored, check_dir_name, check_name};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

pub use self::config::{Auth, OciConfig};

const CONTENT_TYPE: &str = "application/octet-stream";

/// An MD5.
type Hash = [u8; 16];

/// A bucket of Oracle Cloud.
pub struct OciBucket {
    client: Client,
    name: String,
    part_bytes: u64,
}

impl OciBucket {
    /// The configured bucket; no request is made yet. `env` gives environment variables: those of proxies, realms and, with
    /// [`Auth::Profile`], credentials, whose files are read now.
    ///
    /// `Errors:` each names the setting that is wrong.
    pub fn open(config: &OciConfig, user_agent: &str, env: Env) -> Result<OciBucket> {
        Ok(OciBucket {
            client: Client::new(config, user_agent, env)?,
            name: config.bucket.clone(),
            part_bytes: config.part_bytes.clamp(1, limits::OCI_PART_BYTES_MAX),
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

    /// The tag is the object's MD5 in hex, or the MD5 of its parts' and their number as the store writes it.
    fn head(&self, object: &str, stop: &Stop) -> Result<Attributes, Fault> {
        let request = Request::new("HeadObject", Method::Head, Place::Object(object));
        let answer = match self.client.send(&request, stop) {
            Ok(answer) => answer,
            Err(fault) if fault.status == 404 && fault.code.is_empty() => {
                return Err(self.why_missing(object, fault, stop));
            }
            Err(fault) => return Err(fault),
        };
        let Ok(size_bytes) = answer.header("content-length").parse() else {
            let text = format!("HeadObject {}/{object}: the answer has no length", self.name);
            return Err(Error::new(Kind::Retry, text).classed("network").into());
        };
        let tag = match (answer.header("opc-multipart-md5"), md5_of(&answer, "content-md5")) {
            ("", Some(hash)) => hex(&hash),
            ("", None) => answer.header("etag").trim_matches('"').to_owned(),
            (parts, _) => parts.to_owned(),
        };
        Ok(Attributes { size_bytes, tag })
    }

    /// The answer to a HEAD cannot say whether the object, the bucket or a right is missing; that to a GET can.
    fn why_missing(&self, object: &str, fault: Fault, stop: &Stop) -> Fault {
        let request = Request::new("GetObject", Method::Get, Place::Object(object)).with_header("range", "bytes=0-0");
        match self.client.send_limited(&request, limits::META_BYTES_MAX, stop) {
            // Somebody has just written it.
            Ok(_) => Fault { error: fault.error.with_kind(Kind::Retry), ..fault },
            // An empty object has no first byte.
            Err(why) if why.status == 416 => Fault { error: fault.error.with_kind(Kind::Retry), ..fault },
            Err(why) => why,
        }
    }

    /// Stores an object with one request.
    fn put(&self, object: &str, body: Body<'_>, size_bytes: u64, hash: &Hash, stop: &Stop) -> Result<Attributes> {
        let request = Request::new("PutObject", Method::Put, Place::Object(object))
            .with_header("content-type", CONTENT_TYPE)
            .with_header("content-md5", BASE64_STANDARD.encode(hash))
            .with_body(body);
        let answer = self.client.send(&request, stop)?;
        self.check_said(&request, &answer, hash)?;
        Ok(Attributes { size_bytes, tag: hex(hash) })
    }

    /// Checks the MD5 of what the store says it has received, if it says one.
    fn check_said(&self, request: &Request<'_>, answer: &Answer, hash: &Hash) -> Result<()> {
        match md5_of(answer, "opc-content-md5") {
            Some(said) if said != *hash => {
                Err(self.client.integrity_error(request, "the store has received other bytes than were sent"))
            }
            _ => Ok(()),
        }
    }

    /// One page of a listing; `from` is where it begins.
    fn page(&self, prefix: &str, from: Option<&str>, stop: &Stop) -> Result<json::Listing> {
        let mut request = Request::new("ListObjects", Method::Get, Place::Objects)
            .with("delimiter", "/")
            .with("fields", "name")
            .with("limit", limits::S3_PAGE_NAMES.to_string());
        if !prefix.is_empty() {
            request = request.with("prefix", prefix);
        }
        if let Some(from) = from {
            request = request.with("start", from);
        }
        let answer = self.client.send(&request, stop)?;
        json::listing(&answer.body).context(|| format!("list {}/{prefix}", self.name))
    }
}

impl Ranged for OciBucket {
    fn get_from(
        &self,
        object: &str,
        from: u64,
        each: &mut dyn FnMut(u16, &[u8]) -> Result<()>,
        stop: &Stop,
    ) -> Result<()> {
        let mut request = Request::new("GetObject", Method::Get, Place::Object(object));
        if from > 0 {
            request = request.with_header("range", format!("bytes={from}-"));
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

impl Bucket for OciBucket {
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
        let request = Request::new("GetObject", Method::Get, Place::Object(object));
        Ok(self.client.send_limited(&request, limits::META_BYTES_MAX, stop)?.body)
    }

    fn read(&self, object: &str, each: &mut dyn FnMut(&[u8]) -> Result<()>, stop: &Stop) -> Result<()> {
        self.read_whole(object, each, stop)
    }

    fn iter(&self, dir: &str, each: &mut dyn FnMut(&str) -> Result<()>, stop: &Stop) -> Result<()> {
        let dir = check_dir_name(dir)?;
        stop.check()?;
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let mut from: Option<String> = None;
        let mut last = String::new();
        for _ in 0..limits::S3_PAGES_MAX {
            let page = self.page(&prefix, from.as_deref(), stop)?;
            for name in page.names {
                // Some tools create an object with the folder's own name; and a folder may span two pages.
                if name == prefix || name == last {
                    continue;
                }
                stop.check()?;
                each(&name)?;
                last = name;
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
        check_name(object)?;
        stop.check()?;
        Ok(self.head(object, stop)?)
    }

    fn upload(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored> {
        check_name(object)?;
        stop.check()?;
        let size_bytes = source.size_bytes();
        if let Some(part_bytes) = multipart::part_bytes(size_bytes, self.part_bytes)? {
            return multipart::upload(self, object, source, part_bytes, journal, stop);
        }
        // The file or the part size has changed since parts were sent.
        if let Some(parts) = journal.parts() {
            self.abandon(object, &parts, stop)?;
            journal.record(None)?;
        }
        let hash = hash(source, (0, size_bytes), stop)?;
        let body = Body::File { source, range: (0, size_bytes), is_hashed: false };
        Ok(Stored { attributes: self.put(object, body, size_bytes, &hash, stop)?, resumed_bytes: 0 })
    }

    /// Reads the whole object if its tag does not tell whether the content is the same: it may have been made of parts of
    /// a size that is not known here.
    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared> {
        check_name(object)?;
        stop.check()?;
        let stored = match self.head(object, stop) {
            Err(fault) if fault.error.kind() == Kind::NotFound => return Ok(Compared::Missing),
            other => other?,
        };
        let size_bytes = source.size_bytes();
        if stored.size_bytes != size_bytes {
            return Ok(Compared::Size { stored_bytes: stored.size_bytes });
        }
        let is_same = match multipart::likely_part_bytes(&stored.tag, size_bytes, self.part_bytes) {
            // The store has made the MD5 itself.
            None if stored.tag.len() == 2 * size_of::<Hash>() => {
                hex(&hash(source, (0, size_bytes), stop)?) == stored.tag
            }
            None => self.has_content_of(object, source, stop)?,
            Some(part_bytes) => {
                multipart::tag_of_file(source, part_bytes, stop)? == stored.tag
                    || self.has_content_of(object, source, stop)?
            }
        };
        Ok(if is_same { Compared::Same } else { Compared::Content })
    }

    fn abandon(&self, object: &str, parts: &Parts, stop: &Stop) -> Result<()> {
        check_name(object)?;
        stop.check()?;
        match parts.upload_id.as_str() {
            "" => multipart::sweep(self, object, stop),
            upload_id => multipart::abort(self, object, upload_id, stop),
        }
    }

    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()> {
        check_name(object)?;
        stop.check()?;
        let hash: Hash = Md5::digest(bytes).into();
        self.put(object, Body::Bytes(bytes), bytes.len() as u64, &hash, stop).map(drop)
    }

    /// Looks for the object first, because an answer to the deletion may be lost, and the next one says that it is missing.
    fn delete(&self, object: &str, stop: &Stop) -> Result<()> {
        check_name(object)?;
        stop.check()?;
        self.head(object, stop)?;
        let request = Request::new("DeleteObject", Method::Delete, Place::Object(object));
        match self.client.send(&request, stop) {
            Err(fault) if fault.error.kind() != Kind::NotFound => Err(fault.into()),
            _ => Ok(()),
        }
    }
}

/// The MD5 of a part of a file.
fn hash(source: &Source, range: (u64, u64), stop: &Stop) -> Result<Hash> {
    let mut md5 = Md5::new();
    source.for_each(range.0..range.1, |buffer| {
        stop.check()?;
        md5.update(buffer);
        Ok(())
    })?;
    Ok(md5.finalize().into())
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The MD5 in a header of an answer.
fn md5_of(answer: &Answer, name: &str) -> Option<Hash> {
    BASE64_STANDARD.decode(answer.header(name)).ok()?.try_into().ok()
}
