//! Large objects: segments, one after another, straight from the file, then what makes one object of them: a list for a
//! static one, a prefix for a dynamic one.
//!
//! A segment's name says of what it is a part: the MD5 of the file, its size and that of the segments, and its number. So
//! the store's own listing tells what an earlier attempt has sent, whatever the journal says, and no segment of another
//! content is ever taken for ours or overwritten. What nobody goes on with is removed by [`abandon`].

use std::collections::{BTreeMap, BTreeSet};

use md5::{Digest, Md5};
use percent_encoding::utf8_percent_encode;
use rusty_s3::Method;

use super::client::Request;
use super::fault::Fault;
use super::json::{self, Abilities, Entry};
use super::{CONTENT_TYPE, Hash, Head, SEGMENTS, SwiftBucket, hash, hex};
use crate::limits;
use crate::rest::{Answer, Body, RESERVED, RESERVED_IN_PATH};
use crate::{Attributes, Journal, Part, Parts, Stored};
use pillion_base::error::{Error, Kind as ErrorKind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

/// Below it every object has a folder of its own. Thanos has other names there.
const OURS: &str = "pillion/";
/// How often one call sends what the store has not kept.
const ROUNDS_MAX: u32 = 2;

/// What an object is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its own bytes.
    Plain,
    /// The segments of a list.
    Static,
    /// Those of a container with a prefix: `container/prefix`, escaped.
    Dynamic(String),
}

impl Kind {
    pub(super) fn of(answer: &Answer) -> Kind {
        let manifest = answer.header("x-object-manifest");
        if !manifest.is_empty() {
            return Kind::Dynamic(manifest.to_owned());
        }
        let is_static = answer.header("x-static-large-object").eq_ignore_ascii_case("true");
        if is_static { Kind::Static } else { Kind::Plain }
    }
}

/// The container and the prefix of a dynamic large object.
fn unescaped(manifest: &str) -> (String, String) {
    let (container, prefix) = manifest.split_once('/').unwrap_or((manifest, ""));
    let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    (plain(container), plain(prefix))
}

/// The size of segments for a file; `None` if it goes in one piece. `wanted` is the setting.
///
/// `Errors:` for a file that the store cannot have, with the setting that could help.
fn segment_bytes(size_bytes: u64, wanted: Option<u64>, is_dynamic: bool, store: &Abilities) -> Result<Option<u64>> {
    let large = |text: &str| Err(Error::new(ErrorKind::Permanent, format!("{size_bytes} bytes are {text}")));
    if size_bytes <= usual_bytes(wanted, is_dynamic).min(store.object_bytes_max) {
        return Ok(None);
    }
    if !is_dynamic && !store.has_static {
        if wanted.is_none() && size_bytes <= store.object_bytes_max {
            return Ok(None);
        }
        return large(
            "too many for this store, which has no static large objects: set use_dynamic_large_objects: true",
        );
    }
    let least = if is_dynamic { 1 } else { size_bytes.div_ceil(store.segments_max).max(store.segment_bytes_min) };
    match usual_bytes(wanted, is_dynamic).min(store.object_bytes_max).max(least) {
        bytes if bytes <= store.object_bytes_max => Ok(Some(bytes)),
        _ => large("more than this store can have as one object"),
    }
}

fn usual_bytes(wanted: Option<u64>, is_dynamic: bool) -> u64 {
    let usual = if is_dynamic { limits::SWIFT_DYNAMIC_SEGMENT_BYTES } else { limits::SWIFT_SEGMENT_BYTES };
    wanted.unwrap_or(usual).clamp(1, limits::PART_BYTES_MAX)
}

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
    fn has_listed_segments_of(&self, object: &str, kind: &Kind, source: &Source, stop: &Stop) -> Result<bool> {
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
    fn manifest(&self, object: &str, stop: &Stop) -> Result<Vec<Entry>, Fault> {
        let request =
            Request::object("GET manifest", Method::Get, &self.name, object).with("multipart-manifest", "get");
        Ok(json::entries(&self.client.send(&request, stop)?.body)?)
    }

    /// Everything in a container that begins with `prefix`.
    fn list_all(&self, container: &str, prefix: &str, stop: &Stop) -> Result<Vec<Entry>, Fault> {
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
    fn sweep(&self, object: &str, kept: &BTreeSet<String>, stop: &Stop) -> Result<(), Fault> {
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

/// The prefix of a segment's name.
fn attempt_of(name: &str) -> &str {
    name.rfind('/').and_then(|end| name.get(..=end)).unwrap_or_default()
}

/// The folder of an object's segments.
fn folder_of(object: &str) -> String {
    format!("{SEGMENTS}{OURS}{object}/")
}

/// The prefix of the segments of one content: `…/<MD5>-<size>-<size of segments>/`.
fn prefix_of(object: &str, whole: &Hash, size_bytes: u64, segment_bytes: u64) -> String {
    format!("{}{}-{size_bytes}-{segment_bytes}/", folder_of(object), hex(whole))
}

/// The name of a segment, in whose order a store puts them together.
fn segment_name(prefix: &str, idx: usize) -> String {
    format!("{prefix}{idx:08}")
}

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
struct Sums {
    whole: Hash,
    segments: Vec<Hash>,
}

impl Sums {
    fn of(source: &Source, segment_bytes: u64, stop: &Stop) -> Result<Sums> {
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
    fn tag(&self) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const GIB: u64 = 1024 * MIB;

    #[test]
    fn segments_are_as_large_as_they_must_be() {
        let store = Abilities::default();
        let check = |size, wanted, is_dynamic, store: &Abilities, want: Option<u64>| {
            assert_eq!(segment_bytes(size, wanted, is_dynamic, store).unwrap(), want, "{size} {wanted:?} {is_dynamic}");
        };
        check(16 * MIB, None, false, &store, None);
        check(16 * MIB + 1, None, false, &store, Some(16 * MIB));
        check(1000 * 16 * MIB, None, false, &store, Some(16 * MIB));
        check(1000 * 16 * MIB + 1, None, false, &store, Some(16 * MIB + 1));
        check(64 * MIB, None, true, &store, None);
        check(64 * MIB + 1, None, true, &store, Some(64 * MIB));
        check(100_000 * MIB, None, true, &store, Some(64 * MIB));
        // What is set counts, up to what a store takes at once.
        check(GIB, Some(GIB), false, &store, None);
        check(GIB + 1, Some(GIB), false, &store, Some(GIB));
        check(6 * GIB, Some(100 * GIB), false, &store, Some(5 * GIB));
        check(10 * MIB, Some(1000), false, &store, Some(10_486));
        let small = Abilities { object_bytes_max: 8 * MIB, segments_max: 4, segment_bytes_min: 2 * MIB, ..store };
        check(8 * MIB, None, false, &small, None);
        check(9 * MIB, None, false, &small, Some(8 * MIB));
        check(3 * MIB, Some(MIB), false, &small, Some(2 * MIB));
        let err = segment_bytes(33 * MIB, None, false, &small).unwrap_err();
        assert!(err.to_string().contains("more than this store can have"), "{err}");
        // Without static large objects.
        let bare = Abilities { has_static: false, ..store };
        check(5 * GIB, None, false, &bare, None);
        check(5 * GIB, None, true, &bare, Some(64 * MIB));
        for (size, wanted) in [(5 * GIB + 1, None), (2 * GIB, Some(GIB))] {
            let err = segment_bytes(size, wanted, false, &bare).unwrap_err();
            assert!(err.to_string().contains("use_dynamic_large_objects"), "{err}");
        }
    }

    #[test]
    fn names_of_segments_tell_their_content_and_have_the_order_of_their_numbers() {
        let prefix = prefix_of("01A/index", &[0xab; 16], 17, 10);
        assert_eq!(prefix, format!("segments/pillion/01A/index/{}-17-10/", "ab".repeat(16)));
        let mut names: Vec<String> = [11, 2, 999, 0].map(|idx| segment_name(&prefix, idx)).to_vec();
        names.sort_unstable();
        let order: Vec<&str> = names.iter().filter_map(|name| Some(name.rsplit_once('/')?.1)).collect();
        assert_eq!(order, ["00000000", "00000002", "00000011", "00000999"]);
    }
}
