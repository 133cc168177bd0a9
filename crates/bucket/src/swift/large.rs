//! What large objects need besides their upload: how they are compared, and which segments can go.
//!
//! Segments that an object needs are never removed. Where a store does not say which these are, all stay.

use std::collections::{BTreeMap, BTreeSet};

use md5::{Digest, Md5};
use rusty_s3::Method;

use super::client::Request;
use super::fault::Fault;
use super::json::{self, Entry};
use super::segments::{Kind, attempt_of, folder_of, segment_bytes, segment_name, unescaped, usual_bytes};
use super::upload::Sums;
use super::{Head, SwiftBucket, hash, hex};
use crate::Parts;
use crate::limits;
use pillion_base::error::{Error, Kind as ErrorKind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

impl SwiftBucket {
    /// The size of segments for a file; `None` if it goes in one piece.
    pub(super) fn segment_bytes(&self, size_bytes: u64, stop: &Stop) -> Result<Option<u64>> {
        // The store is not asked about small ones.
        let usual = usual_bytes(self.segment_bytes, self.is_dynamic);
        if size_bytes <= usual.min(limits::SWIFT_SEGMENT_BYTES) {
            return Ok(None);
        }
        let store = self.client.abilities(stop)?;
        segment_bytes(size_bytes, self.segment_bytes, self.is_dynamic, &store)
    }

    /// Whether the segments of a large object are, each by its MD5, the parts of a file of the same size.
    pub(super) fn has_segments_of(&self, object: &str, head: &Head, source: &Source, stop: &Stop) -> Result<bool> {
        if head.kind == Kind::Plain {
            return Ok(false);
        }
        // The tag of what this bucket makes of the file.
        if let Some(segment_bytes) = self.segment_bytes(source.size_bytes(), stop)?
            && Sums::of(source, segment_bytes, stop)?.tag() == head.attributes.tag
        {
            return Ok(true);
        }
        self.has_listed_segments_of(object, &head.kind, source, stop)
    }

    /// As above, by the list of the segments.
    pub(super) fn has_listed_segments_of(
        &self,
        object: &str,
        kind: &Kind,
        source: &Source,
        stop: &Stop,
    ) -> Result<bool> {
        let segments = match kind {
            Kind::Plain => return Ok(false),
            Kind::Static => self.manifest(object, stop)?,
            Kind::Dynamic(manifest) => {
                let (container, prefix) = unescaped(manifest);
                self.list_all(&container, &prefix, stop)?
            }
        };
        let total = segments.iter().fold(0u64, |sum, segment| sum.saturating_add(segment.bytes));
        if total != source.size_bytes() || !segments.iter().all(Entry::is_whole) {
            return Ok(false);
        }
        let mut start = 0;
        for segment in &segments {
            let end = start + segment.bytes;
            if hex(&hash(source, start..end, stop)?) != segment.hash.to_ascii_lowercase() {
                return Ok(false);
            }
            start = end;
        }
        Ok(true)
    }

    /// The segments of a static large object.
    pub(super) fn manifest(&self, object: &str, stop: &Stop) -> Result<Vec<Entry>, Fault> {
        let request =
            Request::object("GET manifest", Method::Get, &self.name, object).with("multipart-manifest", "get");
        Ok(json::entries(&self.client.send(&request, stop)?.body)?)
    }

    /// Everything in a container that begins with `prefix`.
    pub(super) fn list_all(&self, container: &str, prefix: &str, stop: &Stop) -> Result<Vec<Entry>, Fault> {
        let mut all = Vec::new();
        let mut each = |page: Vec<Entry>| {
            all.extend(page);
            Ok(())
        };
        self.pages(container, prefix, false, &mut each, stop)?;
        Ok(all)
    }

    /// Removes a segment. It is no error if it is gone already.
    fn delete_segment(&self, container: &str, name: &str, stop: &Stop) -> Result<(), Fault> {
        let request = Request::object("DELETE segment", Method::Delete, container, name).of_segments();
        match self.client.send(&request, stop) {
            Err(fault) if fault.error.kind() != ErrorKind::NotFound => Err(fault),
            _ => Ok(()),
        }
    }

    /// The segments of all attempts at an object that the store lists.
    fn attempts(&self, object: &str, stop: &Stop) -> Result<Vec<Entry>, Fault> {
        let folder = folder_of(object);
        let mut all = self.list_all(&self.segments_container, &folder, stop)?;
        // Deeper are those of objects whose names begin with this one and a slash.
        all.retain(|entry| entry.name.strip_prefix(&folder).is_some_and(|below| below.split('/').count() == 2));
        Ok(all)
    }

    /// Removes the segments of earlier attempts at an object, but not those with one of the prefixes `kept`.
    pub(super) fn sweep(&self, object: &str, kept: &BTreeSet<String>, stop: &Stop) -> Result<(), Fault> {
        for entry in self.attempts(object, stop)? {
            if !kept.contains(attempt_of(&entry.name)) {
                self.delete_segment(&self.segments_container, &entry.name, stop)?;
            }
        }
        Ok(())
    }

    /// The prefixes of the segments that an object needs; `None` if that cannot be told.
    fn needed(&self, object: &str, stop: &Stop) -> Result<Option<BTreeSet<String>>> {
        let head = match self.head(object, stop) {
            Err(fault) if fault.error.kind() == ErrorKind::NotFound => return Ok(Some(BTreeSet::new())),
            other => other?,
        };
        match &head.kind {
            Kind::Plain => Ok(Some(BTreeSet::new())),
            Kind::Dynamic(manifest) => Ok(Some(BTreeSet::from([unescaped(manifest).1]))),
            Kind::Static => {
                let segments = self.manifest(object, stop)?;
                // `/container/name`.
                let name = |path: &str| path.splitn(3, '/').nth(2).map(|name| attempt_of(name).to_owned());
                let needed: BTreeSet<String> = segments.iter().filter_map(|segment| name(&segment.name)).collect();
                if !needed.is_empty() {
                    return Ok(Some(needed));
                }
                // Ceph shows no list. The object's tag tells which attempt it is made of.
                let mut tags: BTreeMap<String, String> = BTreeMap::new();
                for entry in self.attempts(object, stop)? {
                    tags.entry(attempt_of(&entry.name).to_owned()).or_default().push_str(&entry.hash);
                }
                let is_it = |tags: &String| hex(&Md5::digest(tags.as_bytes()).into()) == head.attributes.tag;
                let found: BTreeSet<String> =
                    tags.into_iter().filter(|(_, tags)| is_it(tags)).map(|(prefix, _)| prefix).collect();
                Ok(Some(found).filter(|found| !found.is_empty()))
            }
        }
    }
}

/// Removes the segments of an upload that will not go on, but never those of an object that is there.
pub(super) fn abandon(bucket: &SwiftBucket, object: &str, parts: &Parts, stop: &Stop) -> Result<()> {
    let Some(needed) = bucket.needed(object, stop)? else {
        log::debug!(bucket = bucket.name.as_str(), object = object;
            "the object store does not say which segments an object needs; leaving those of earlier attempts");
        return Ok(());
    };
    bucket.sweep(object, &needed, stop)?;
    // What was sent last may not be listed yet.
    let is_ours = parts.upload_id.starts_with(&folder_of(object)) && !needed.contains(&parts.upload_id);
    if is_ours {
        for idx in parts.sent.len().saturating_sub(2)..=parts.sent.len() {
            let name = segment_name(&parts.upload_id, idx);
            bucket.delete_segment(&bucket.segments_container, &name, stop)?;
        }
    }
    Ok(())
}

/// Removes an object that is there, with its segments.
pub(super) fn delete(bucket: &SwiftBucket, object: &str, kind: &Kind, stop: &Stop) -> Result<()> {
    let mut request = Request::object("DELETE object", Method::Delete, &bucket.name, object);
    if *kind == Kind::Static {
        request = request.with("multipart-manifest", "delete").with_header("accept", "application/json");
    }
    match bucket.client.send(&request, stop) {
        Ok(answer) if *kind == Kind::Static => match json::bulk_status(&answer.body) {
            Some((200..300 | 404, _)) | None => {}
            Some((status, text)) => {
                let class = if text.contains("403") || status == 403 { "denied" } else { "server" };
                let kind = if class == "denied" { ErrorKind::Permanent } else { ErrorKind::Retry };
                let text = format!("DELETE object {}/{object}: not all segments were removed: {text}", bucket.name);
                return Err(Error::new(kind, text).classed(class));
            }
        },
        Ok(_) => {}
        Err(fault) if fault.error.kind() == ErrorKind::NotFound => {}
        Err(fault) => return Err(fault.into()),
    }
    if let Kind::Dynamic(manifest) = kind {
        let (container, prefix) = unescaped(manifest);
        // Without a prefix it would be the whole container.
        if !prefix.is_empty() {
            for entry in bucket.list_all(&container, &prefix, stop)? {
                bucket.delete_segment(&container, &entry.name, stop)?;
            }
        }
    }
    Ok(())
}
