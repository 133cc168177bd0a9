//! The Google Cloud Storage bucket: objects over the store's JSON interface. Large files go in chunks, straight from the
//! file. After an upload the store's checksums are compared with those of what was sent.
//!
//! From the outside in: this file has the operations of a bucket, `resumable` has the upload in chunks, `client` sends
//! requests with retries, `credentials` and `exchange` give the tokens that authorise them. No redirect is followed.

mod client;
pub(crate) mod config;
pub(crate) mod credentials;
mod exchange;
mod fault;
pub mod json;
mod jwt;
mod resumable;
mod sums;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rusty_s3::Method;

use self::client::{Client, Expected, Place, Request};
use self::fault::Fault;
use self::json::Object;
use self::sums::Sums;
use crate::limits;
use crate::pace::Pace;
use crate::ranged::Ranged;
use crate::rest::{Body, Env, Waits};
use crate::{Attributes, Bucket, Compared, Journal, Parts, Stored, check_dir_name, check_key};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

pub use self::config::GcsConfig;

const CONTENT_TYPE: &str = "application/octet-stream";
/// What answers say of an object.
const FIELDS: &str = "kind,size,crc32c,md5Hash,generation";

/// A bucket of Google Cloud Storage.
pub struct GcsBucket {
    client: Client,
    name: String,
    chunk_bytes: u64,
}

impl GcsBucket {
    /// The configured bucket; no request is made yet. `env` gives environment variables: those of proxies, of an emulator
    /// and of credentials.
    ///
    /// `Errors:` each names the setting that is wrong.
    pub fn open(config: &GcsConfig, user_agent: &str, env: Env) -> Result<GcsBucket> {
        let unit = limits::GCS_CHUNK_UNIT_BYTES;
        let chunk_bytes = config.chunk_bytes.clamp(unit, limits::GCS_CHUNK_BYTES_MAX).next_multiple_of(unit);
        Ok(GcsBucket { client: Client::new(config, user_agent, env)?, name: config.bucket.clone(), chunk_bytes })
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

    fn head(&self, object: &str, stop: &Stop) -> Result<Object, Fault> {
        let request =
            Request::new("objects.get", Method::Get, Place::Object(object), Expected::Resource).with("fields", FIELDS);
        let answer = self.client.send(&request, stop)?;
        Ok(json::object(&answer.body).context(|| format!("objects.get {}/{object}", self.name))?)
    }

    /// Stores an object with one request.
    fn put(&self, object: &str, body: Body<'_>, sums: &Sums, stop: &Stop) -> Result<Attributes> {
        let request = Request::new("objects.insert", Method::Post, Place::Upload(object), Expected::Resource)
            .with("uploadType", "media")
            .with("fields", FIELDS)
            .with_header("content-type", CONTENT_TYPE)
            .with_header("x-goog-hash", sums.header())
            .with_body(body);
        let made = match self.client.send(&request, stop) {
            Ok(answer) => json::object(&answer.body).context(|| format!("objects.insert {}/{object}", self.name))?,
            // A right that is missing to replace an object does not matter if it is there as it should be, for example
            // because the answer to an earlier attempt was lost.
            Err(fault) if fault.error.class() == "denied" => match self.head(object, stop) {
                Ok(there) if there.crc32c.is_some() && sums.difference(&there).is_none() => there,
                _ => return Err(fault.into()),
            },
            Err(fault) => return Err(fault.into()),
        };
        match sums.difference(&made) {
            Some(text) => Err(self.client.integrity_error(&request, &text)),
            None => Ok(attributes(&made)),
        }
    }

    /// One page of a listing; `from` is where it begins.
    fn page(&self, prefix: &str, from: Option<&str>, stop: &Stop) -> Result<json::Listing> {
        let mut request = Request::new("objects.list", Method::Get, Place::List, Expected::Resource)
            .with("delimiter", "/")
            .with("fields", "kind,nextPageToken,prefixes,items(name)")
            .with("maxResults", limits::S3_PAGE_NAMES.to_string());
        if !prefix.is_empty() {
            request = request.with("prefix", prefix);
        }
        if let Some(from) = from {
            request = request.with("pageToken", from);
        }
        let answer = self.client.send(&request, stop)?;
        json::listing(&answer.body).context(|| format!("list {}/{prefix}", self.name))
    }
}

impl Ranged for GcsBucket {
    fn get_from(
        &self,
        object: &str,
        from: u64,
        each: &mut dyn FnMut(u16, &[u8]) -> Result<()>,
        stop: &Stop,
    ) -> Result<()> {
        let mut request = content(object);
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

impl Bucket for GcsBucket {
    fn name(&self) -> &str {
        &self.name
    }

    fn exists(&self, object: &str, stop: &Stop) -> Result<bool> {
        check_key(object)?;
        stop.check()?;
        match self.head(object, stop) {
            Ok(_) => Ok(true),
            Err(fault) if fault.error.kind() == Kind::NotFound => Ok(false),
            Err(fault) => Err(fault.into()),
        }
    }

    fn get(&self, object: &str, stop: &Stop) -> Result<Vec<u8>> {
        check_key(object)?;
        stop.check()?;
        let request = content(object);
        let answer = match self.client.send_limited(&request, limits::META_BYTES_MAX, stop) {
            // Words without a sign that they are the store's: it is asked in JSON.
            Err(fault) if fault.status == 404 && fault.error.kind() == Kind::Retry => {
                self.head(object, stop)?;
                return Err(fault.into());
            }
            other => other?,
        };
        let said = json::crc32c_of_header(answer.header("x-goog-hash"));
        match said.is_some_and(|said| said != crc32c::crc32c(&answer.body)) {
            true => Err(self.client.integrity_error(&request, "bytes were changed or lost on the way")),
            false => Ok(answer.body),
        }
    }

    fn read(&self, object: &str, each: &mut dyn FnMut(&[u8]) -> Result<()>, stop: &Stop) -> Result<()> {
        self.read_whole(object, each, stop)
    }

    fn iter(&self, dir: &str, each: &mut dyn FnMut(&str) -> Result<()>, stop: &Stop) -> Result<()> {
        let dir = check_dir_name(dir)?;
        stop.check()?;
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let mut from: Option<String> = None;
        for _ in 0..limits::S3_PAGES_MAX {
            let mut page = self.page(&prefix, from.as_deref(), stop)?;
            page.names.sort_unstable();
            // Some tools create an object with the folder's own name for an empty folder.
            for name in page.names.iter().filter(|name| **name != prefix) {
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
        Ok(attributes(&self.head(object, stop)?))
    }

    /// Replaces what is there, as the trait says, and so sends no precondition.
    fn upload(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored> {
        check_key(object)?;
        stop.check()?;
        let size_bytes = source.size_bytes();
        if size_bytes > self.chunk_bytes {
            return resumable::upload(self, object, source, journal, stop);
        }
        // The file has changed since chunks were sent.
        if let Some(parts) = journal.parts() {
            self.abandon(object, &parts, stop)?;
            journal.record(None)?;
        }
        let sums = Sums::of_file(source, true, stop)?;
        let body = Body::File { source, range: (0, size_bytes), is_hashed: false };
        Ok(Stored { attributes: self.put(object, body, &sums, stop)?, resumed_bytes: 0 })
    }

    /// The store computes its sums itself, so they prove what it has. An object is read only where it says none.
    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared> {
        check_key(object)?;
        stop.check()?;
        let stored = match self.head(object, stop) {
            Err(fault) if fault.error.kind() == Kind::NotFound => return Ok(Compared::Missing),
            other => other?,
        };
        if stored.size_bytes != source.size_bytes() {
            return Ok(Compared::Size { stored_bytes: stored.size_bytes });
        }
        let is_same = match stored.crc32c {
            Some(_) => Sums::of_file(source, stored.md5.is_some(), stop)?.difference(&stored).is_none(),
            None => self.has_content_of(object, source, stop)?,
        };
        Ok(if is_same { Compared::Same } else { Compared::Content })
    }

    fn abandon(&self, object: &str, parts: &Parts, stop: &Stop) -> Result<()> {
        check_key(object)?;
        stop.check()?;
        resumable::abandon(self, object, parts, stop)
    }

    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()> {
        check_key(object)?;
        stop.check()?;
        self.put(object, Body::Bytes(bytes), &Sums::of_bytes(bytes), stop).map(drop)
    }

    /// Removes the version that it finds, and no other that somebody writes meanwhile. An answer to the deletion may be
    /// lost, and the next one says that the object is missing.
    fn delete(&self, object: &str, stop: &Stop) -> Result<()> {
        check_key(object)?;
        stop.check()?;
        let there = self.head(object, stop)?;
        let mut request = Request::new("objects.delete", Method::Delete, Place::Object(object), Expected::Nothing);
        if !there.generation.is_empty() {
            request = request.with("ifGenerationMatch", there.generation);
        }
        match self.client.send(&request, stop) {
            Err(fault) if fault.error.kind() != Kind::NotFound => Err(fault.into()),
            _ => Ok(()),
        }
    }
}

/// The request for an object's content, as it is stored.
fn content(object: &str) -> Request<'_> {
    Request::new("objects.get", Method::Get, Place::Object(object), Expected::Content).with("alt", "media")
}

/// The tag is made of the sums, so that the same content has the same tag whoever wrote it.
fn attributes(object: &Object) -> Attributes {
    let tag = match (object.crc32c, object.md5) {
        (Some(crc32c), Some(md5)) => format!("{}:{}", sums::base64_of(crc32c), BASE64_STANDARD.encode(md5)),
        (Some(crc32c), None) => sums::base64_of(crc32c),
        (None, _) => object.generation.clone(),
    };
    Attributes { size_bytes: object.size_bytes, tag }
}
