//! The Azure bucket: block blobs of a container over Azure's own interface. Large files go in blocks, straight from the
//! file. After an upload the store is checked for what was sent.
//!
//! From the outside in: this file has the operations of a bucket, `blocks` has the upload in blocks, `client` sends
//! requests with retries, `token` and `identity` give what authorises them. No redirect is followed.

mod blocks;
mod client;
pub(crate) mod config;
pub(crate) mod connection;
mod fault;
mod identity;
mod sign;
mod token;
pub mod xml;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};
use rusty_s3::Method;

use self::client::{Client, Request};
use self::fault::Fault;
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

pub use self::config::{Auth, AzureConfig};

const CONTENT_TYPE: &str = "application/octet-stream";

/// An MD5.
type Hash = [u8; 16];

/// A container of a storage account.
pub struct AzureBucket {
    client: Client,
    name: String,
    block_bytes: u64,
    read_attempts: u32,
}

impl AzureBucket {
    /// The configured container; no request is made yet. `env` gives environment variables: those of proxies, and with
    /// [`Auth::Default`] and others those of credentials.
    ///
    /// `Errors:` each names the setting that is wrong.
    pub fn open(config: &AzureConfig, user_agent: &str, env: Env) -> Result<AzureBucket> {
        Ok(AzureBucket {
            client: Client::new(config, user_agent, env)?,
            name: config.container.clone(),
            block_bytes: config.block_bytes.clamp(1, limits::AZURE_BLOCK_BYTES_MAX),
            read_attempts: config.read_attempts.max(1),
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

    /// The tag is the blob's MD5 in hex; its ETag where it has none.
    fn head(&self, object: &str, stop: &Stop) -> Result<Attributes, Fault> {
        let request = Request::new("Get Blob Properties", 'r', Method::Head, Some(object));
        let answer = self.client.send(&request, stop)?;
        let is_folder = answer.header("x-ms-resource-type").eq_ignore_ascii_case("directory")
            || answer.header("x-ms-meta-hdi_isfolder").eq_ignore_ascii_case("true");
        if is_folder {
            // Accounts for Data Lake Storage show folders as empty blobs.
            let text = format!("{}/{object} is a folder", self.name);
            return Err(Error::new(Kind::NotFound, text).into());
        }
        let Ok(size_bytes) = answer.header("content-length").parse() else {
            let text = format!("Get Blob Properties {}/{object}: the answer has no length", self.name);
            return Err(Error::new(Kind::Retry, text).classed("network").into());
        };
        let tag = match md5_of(&answer) {
            Some(hash) => hex(&hash),
            None => answer.header("etag").trim_start_matches("W/").trim_matches('"').to_owned(),
        };
        Ok(Attributes { size_bytes, tag })
    }

    /// Stores a blob with one request.
    fn put(&self, object: &str, body: Body<'_>, size_bytes: u64, hash: &Hash, stop: &Stop) -> Result<Attributes> {
        let encoded = BASE64_STANDARD.encode(hash);
        let request = Request::new("Put Blob", 'w', Method::Put, Some(object))
            .with_header("content-type", CONTENT_TYPE)
            .with_header("content-md5", encoded.as_str())
            .with_header("x-ms-blob-content-md5", encoded.as_str())
            .with_header("x-ms-blob-type", "BlockBlob")
            .with_body(body);
        let answer = self.client.send(&request, stop)?;
        self.check_said(&request, &answer, hash)?;
        Ok(Attributes { size_bytes, tag: hex(hash) })
    }

    /// Checks the MD5 of what the store says it has received, if it says one.
    fn check_said(&self, request: &Request<'_>, answer: &Answer, hash: &Hash) -> Result<()> {
        match md5_of(answer) {
            Some(said) if said != *hash => {
                Err(self.client.integrity_error(request, "the store has received other bytes than were sent"))
            }
            _ => Ok(()),
        }
    }

    /// One page of a listing; `from` is where it begins.
    fn page(&self, prefix: &str, from: Option<&str>, stop: &Stop) -> Result<xml::Listing> {
        let mut request = Request::new("List Blobs", 'l', Method::Get, None)
            .with("restype", "container")
            .with("comp", "list")
            .with("delimiter", "/")
            .with("maxresults", limits::S3_PAGE_NAMES.to_string());
        if !prefix.is_empty() {
            request = request.with("prefix", prefix);
        }
        if let Some(from) = from {
            request = request.with("marker", from);
        }
        let answer = self.client.send(&request, stop)?;
        xml::listing(&answer.body).context(|| format!("list {}/{prefix}", self.name))
    }
}

impl Ranged for AzureBucket {
    fn get_from(
        &self,
        object: &str,
        from: u64,
        each: &mut dyn FnMut(u16, &[u8]) -> Result<()>,
        stop: &Stop,
    ) -> Result<()> {
        let mut request = Request::new("Get Blob", 'r', Method::Get, Some(object));
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

impl Bucket for AzureBucket {
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
        let request = Request::new("Get Blob", 'r', Method::Get, Some(object));
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
        for _ in 0..limits::S3_PAGES_MAX {
            let mut page = self.page(&prefix, from.as_deref(), stop)?;
            page.names.sort_unstable();
            // Some tools create a blob with the folder's own name for an empty folder.
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
        check_name(object)?;
        stop.check()?;
        Ok(self.head(object, stop)?)
    }

    fn upload(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored> {
        check_name(object)?;
        stop.check()?;
        let size_bytes = source.size_bytes();
        if let Some(block_bytes) = blocks::block_bytes(size_bytes, self.block_bytes)? {
            return blocks::upload(self, object, source, block_bytes, journal, stop);
        }
        // The file has changed since blocks were sent; a blob in one piece discards them.
        if journal.parts().is_some() {
            journal.record(None)?;
        }
        let hash = hash(source, stop)?;
        let body = Body::File { source, range: (0, size_bytes), is_hashed: false };
        Ok(Stored { attributes: self.put(object, body, size_bytes, &hash, stop)?, resumed_bytes: 0 })
    }

    /// Reads the whole blob if its MD5 does not prove that the content is the same: the store keeps the MD5 that whoever
    /// wrote the blob has said, and Thanos says none of large ones.
    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared> {
        check_name(object)?;
        stop.check()?;
        let stored = match self.head(object, stop) {
            Err(fault) if fault.error.kind() == Kind::NotFound => return Ok(Compared::Missing),
            other => other?,
        };
        if stored.size_bytes != source.size_bytes() {
            return Ok(Compared::Size { stored_bytes: stored.size_bytes });
        }
        let is_same = hex(&hash(source, stop)?) == stored.tag || self.has_content_of(object, source, stop)?;
        Ok(if is_same { Compared::Same } else { Compared::Content })
    }

    /// Nothing is sent: Azure removes blocks without a blob after a week, and has no request that removes them now and
    /// leaves no blob behind.
    fn abandon(&self, object: &str, _: &Parts, stop: &Stop) -> Result<()> {
        check_name(object)?;
        stop.check()
    }

    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()> {
        check_name(object)?;
        stop.check()?;
        let hash: Hash = Md5::digest(bytes).into();
        self.put(object, Body::Bytes(bytes), bytes.len() as u64, &hash, stop).map(drop)
    }

    /// Looks for the blob first, because an answer to the deletion may be lost, and the next one says that it is missing.
    fn delete(&self, object: &str, stop: &Stop) -> Result<()> {
        check_name(object)?;
        stop.check()?;
        self.head(object, stop)?;
        let request = Request::new("Delete Blob", 'd', Method::Delete, Some(object))
            .with_header("x-ms-delete-snapshots", "include");
        match self.client.send(&request, stop) {
            Err(fault) if fault.error.kind() != Kind::NotFound => Err(fault.into()),
            _ => Ok(()),
        }
    }
}

/// The MD5 of a file.
fn hash(source: &Source, stop: &Stop) -> Result<Hash> {
    let mut md5 = Md5::new();
    source.for_each(0..source.size_bytes(), |buffer| {
        stop.check()?;
        md5.update(buffer);
        Ok(())
    })?;
    Ok(md5.finalize().into())
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The MD5 that an answer names.
fn md5_of(answer: &Answer) -> Option<Hash> {
    BASE64_STANDARD.decode(answer.header("content-md5")).ok()?.try_into().ok()
}
