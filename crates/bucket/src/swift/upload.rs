//! The upload of a large file: segments, one after another, straight from the file, then what makes one object of them: a
//! list for a static one, a prefix for a dynamic one.

use std::collections::{BTreeMap, BTreeSet};

use md5::{Digest, Md5};
use percent_encoding::utf8_percent_encode;
use rusty_s3::Method;

use super::client::Request;
use super::fault::Fault;
use super::segments::{Kind, prefix_of, segment_name};
use super::{CONTENT_TYPE, Hash, SwiftBucket, hex};
use crate::limits;
use crate::rest::{Body, RESERVED, RESERVED_IN_PATH};
use crate::{Attributes, Journal, Part, Parts, Stored};
use pillion_base::error::{Error, Kind as ErrorKind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

/// How often one call sends what the store has not kept.
const ROUNDS_MAX: u32 = 2;

/// Stores a file in segments, or goes on with what an earlier attempt has sent.
pub(super) fn upload(
    bucket: &SwiftBucket,
    object: &str,
    source: &Source,
    segment_bytes: u64,
    journal: &dyn Journal,
    stop: &Stop,
) -> Result<Stored> {
    let sums = Sums::of(source, segment_bytes, stop)?;
    let prefix = prefix_of(object, &sums.whole, source.size_bytes(), segment_bytes);
    let upload = Upload { bucket, object, source, segment_bytes, sums, prefix, journal, stop };
    if let Some(attributes) = upload.already_there()? {
        journal.record(None)?;
        let resumed_bytes = attributes.size_bytes;
        return Ok(Stored { attributes, resumed_bytes });
    }
    let (mut resumed_bytes, mut n_rounds) = (None, 0);
    loop {
        let kept_bytes = upload.send_missing()?;
        let resumed_bytes = *resumed_bytes.get_or_insert(kept_bytes);
        n_rounds += 1;
        match upload.commit() {
            Ok(()) => {
                let attributes = upload.check()?;
                journal.record(None)?;
                upload.sweep();
                return Ok(Stored { attributes, resumed_bytes });
            }
            // The list names what the store does not have.
            Err(fault) if fault.status == 400 && n_rounds < ROUNDS_MAX => {
                log::info!(bucket = bucket.name.as_str(), object = object, err = fault.error.to_string();
                    "the object store refuses the list of segments; looking which are missing");
            }
            Err(fault) if fault.status == 400 => {
                let text = format!("the store has refused the list of segments {ROUNDS_MAX} times");
                return Err(fault.error.with_kind(ErrorKind::Retry).classed("server").context(text));
            }
            Err(fault) => return Err(fault.into()),
        }
    }
}

/// The MD5s of a file and of its segments.
pub(super) struct Sums {
    whole: Hash,
    segments: Vec<Hash>,
}

impl Sums {
    pub(super) fn of(source: &Source, segment_bytes: u64, stop: &Stop) -> Result<Sums> {
        let (mut whole, mut segments, mut start) = (Md5::new(), Vec::new(), 0);
        while start < source.size_bytes() {
            let end = source.size_bytes().min(start.saturating_add(segment_bytes));
            let mut segment = Md5::new();
            source.for_each(start..end, |buffer| {
                stop.check()?;
                segment.update(buffer);
                whole.update(buffer);
                Ok(())
            })?;
            segments.push(segment.finalize().into());
            start = end;
        }
        Ok(Sums { whole: whole.finalize().into(), segments })
    }

    /// The ETag that a large object of these segments has.
    pub(super) fn tag(&self) -> String {
        let all: String = self.segments.iter().map(hex).collect();
        hex(&Md5::digest(all.as_bytes()).into())
    }
}

struct Upload<'a> {
    bucket: &'a SwiftBucket,
    object: &'a str,
    source: &'a Source,
    segment_bytes: u64,
    sums: Sums,
    prefix: String,
    journal: &'a dyn Journal,
    stop: &'a Stop,
}

impl Upload<'_> {
    fn range(&self, idx: usize) -> (u64, u64) {
        let start = (idx as u64).saturating_mul(self.segment_bytes);
        (start, self.source.size_bytes().min(start.saturating_add(self.segment_bytes)))
    }

    fn container(&self) -> &str {
        &self.bucket.segments_container
    }

    /// How many segments the journal has of this content.
    fn n_noted(&self) -> usize {
        self.journal.parts().filter(|parts| parts.upload_id == self.prefix).map_or(0, |parts| parts.sent.len())
    }

    /// Whether an earlier attempt made the object, and only its journal did not record it.
    fn already_there(&self) -> Result<Option<Attributes>> {
        if self.n_noted() < self.sums.segments.len() {
            return Ok(None);
        }
        let head = match self.bucket.head(self.object, self.stop) {
            Err(fault) if fault.error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let is_whole = head.attributes.size_bytes == self.source.size_bytes() && head.attributes.tag == self.sums.tag();
        Ok(Some(head.attributes).filter(|_| is_whole && head.kind != Kind::Plain))
    }

    /// The segments that the store lists: their sizes and MD5s by their names.
    fn listed(&self) -> Result<BTreeMap<String, (u64, String)>> {
        match self.bucket.list_all(self.container(), &self.prefix, self.stop) {
            Ok(entries) => Ok(entries.into_iter().map(|entry| (entry.name, (entry.bytes, entry.hash))).collect()),
            // Without the right to list, the journal and a look at each of them have to do.
            Err(fault) if fault.error.class() == "denied" => {
                log::debug!(bucket = self.bucket.name.as_str(), object = self.object, err = fault.error.to_string();
                    "cannot list the segments of an earlier attempt");
                Ok(BTreeMap::new())
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// Whether the store has a segment that it does not list: listings may lag behind.
    fn is_there(&self, name: &str, hash: &Hash, size_bytes: u64) -> Result<bool> {
        let request = Request::object("HEAD segment", Method::Head, self.container(), name).of_segments();
        match self.bucket.client.send(&request, self.stop) {
            Ok(answer) => Ok(super::tag_of(&answer) == hex(hash)
                && answer.header("content-length").parse().is_ok_and(|bytes: u64| bytes == size_bytes)),
            Err(fault) if matches!(fault.error.kind(), ErrorKind::NotFound) => Ok(false),
            Err(fault) if fault.error.class() == "denied" => Ok(false),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Sends the segments that the store does not have. Returns the bytes of those that it has.
    fn send_missing(&self) -> Result<u64> {
        let (listed, n_noted) = (self.listed()?, self.n_noted());
        let mut parts = Parts {
            upload_id: self.prefix.clone(),
            part_bytes: self.segment_bytes,
            size_bytes: self.source.size_bytes(),
            sent: Vec::new(),
        };
        // Whatever of it is not there yet is looked for before it is sent, so less than was noted is no loss.
        if n_noted == 0 {
            self.journal.record(Some(&parts))?;
        }
        let mut kept_bytes = 0;
        for (idx, hash) in self.sums.segments.iter().enumerate() {
            let (start, end) = self.range(idx);
            let name = segment_name(&self.prefix, idx);
            let is_there = match listed.get(&name) {
                Some((bytes, said)) => *bytes == end - start && said.eq_ignore_ascii_case(&hex(hash)),
                None => idx < n_noted && self.is_there(&name, hash, end - start)?,
            };
            parts.sent.push(Part { tag: hex(hash), md5: hex(hash) });
            if is_there {
                kept_bytes += end - start;
                continue;
            }
            let request = Request::object("PUT segment", Method::Put, self.container(), &name).of_segments();
            let body = Body::File { source: self.source, range: (start, end), is_hashed: false };
            self.bucket.put(request, body, hash, self.stop)?;
            self.journal.record(Some(&parts))?;
        }
        self.journal.record(Some(&parts))?;
        Ok(kept_bytes)
    }

    /// Makes one object of the segments.
    fn commit(&self) -> Result<(), Fault> {
        if self.bucket.is_dynamic {
            let manifest = format!(
                "{}/{}",
                utf8_percent_encode(self.container(), RESERVED),
                utf8_percent_encode(&self.prefix, RESERVED_IN_PATH)
            );
            let request = Request::object("PUT manifest", Method::Put, &self.bucket.name, self.object)
                .with_header("content-type", CONTENT_TYPE)
                .with_header("x-object-manifest", manifest)
                .with_body(Body::Bytes(b""));
            return self.bucket.client.send(&request, self.stop).map(drop);
        }
        let segments = self.sums.segments.iter().enumerate().map(|(idx, hash)| {
            let (start, end) = self.range(idx);
            let path = format!("/{}/{}", self.container(), segment_name(&self.prefix, idx));
            serde_json::json!({"path": path, "etag": hex(hash), "size_bytes": end - start})
        });
        let list = serde_json::Value::Array(segments.collect()).to_string();
        let request = Request::object("PUT manifest", Method::Put, &self.bucket.name, self.object)
            .with("multipart-manifest", "put")
            .with_header("content-type", CONTENT_TYPE)
            .with_body(Body::Bytes(list.as_bytes()));
        self.bucket.client.send(&request, self.stop).map(drop)
    }

    /// Checks that the store has what was sent.
    fn check(&self) -> Result<Attributes> {
        let request = Request::object("PUT manifest", Method::Put, &self.bucket.name, self.object);
        let wrong = |text: &str| Err(self.bucket.client.integrity_error(&request, text));
        let size_bytes = self.source.size_bytes();
        let mut n_looks = 0;
        let head = loop {
            let head = match self.bucket.head(self.object, self.stop) {
                Err(fault) if fault.error.kind() == ErrorKind::NotFound => {
                    return wrong("the store has acknowledged an object and has none");
                }
                other => other?,
            };
            n_looks += 1;
            // A dynamic one is as large as the listing of its segments, which may lag behind.
            let is_lagging = self.bucket.is_dynamic && head.attributes.size_bytes < size_bytes;
            if !is_lagging || n_looks >= limits::SWIFT_LOOKS_MAX {
                break head;
            }
            self.bucket.client.wait(n_looks, self.stop)?;
        };
        if head.kind == Kind::Plain {
            let text = "has stored the list of segments as an object: it has no static large objects; set \
                        use_dynamic_large_objects: true";
            return Err(Error::new(ErrorKind::Permanent, format!("the store {text}")));
        }
        if head.attributes.size_bytes != size_bytes {
            return wrong(&format!("{size_bytes} bytes were sent and the store has {}", head.attributes.size_bytes));
        }
        let is_ours = head.attributes.tag == self.sums.tag()
            || self.bucket.has_listed_segments_of(self.object, &head.kind, self.source, self.stop)?;
        match is_ours {
            true => Ok(head.attributes),
            false => wrong("the store has other segments than were sent: somebody else writes under this name"),
        }
    }

    /// Removes what earlier attempts left. The object is stored, so that it may fail.
    fn sweep(&self) {
        if let Err(fault) = self.bucket.sweep(self.object, &BTreeSet::from([self.prefix.clone()]), self.stop) {
            log::debug!(bucket = self.bucket.name.as_str(), object = self.object, err = fault.error.to_string();
                "cannot remove the segments of earlier attempts");
        }
    }
}
