//! The upload in parts: one after another, straight from the file, then the list that makes an object of them.
//!
//! The journal records an upload before the store knows it (without its id), and a part once the store has it. Which parts
//! need not be sent again the store's own list says: it has the MD5 of each, which is compared with the file's. So a part
//! that arrived and was not recorded is kept, and one of another content never.

use std::collections::BTreeMap;
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crossbeam_channel::{Receiver, Sender, bounded};
use md5::{Digest, Md5};
use rusty_s3::Method;

use super::client::{Place, Request};
use super::fault::Fault;
use super::{CONTENT_TYPE, Hash, OciBucket, hash, hex, json};
use crate::limits;
use crate::rest::Body;
use crate::{Attributes, Journal, Part, Parts, Stored};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

/// Uploads that one call begins for a file: the store may forget the first.
const UPLOADS_MAX: u32 = 2;

/// The size of parts for a file, at least `wanted`; `None` if it goes in one piece.
///
/// `Errors:` for a file that is larger than any object.
pub(super) fn part_bytes(size_bytes: u64, wanted: u64) -> Result<Option<u64>> {
    if size_bytes <= wanted {
        return Ok(None);
    }
    match wanted.max(size_bytes.div_ceil(limits::OCI_PARTS_MAX)) {
        bytes if bytes <= limits::OCI_PART_BYTES_MAX && size_bytes <= limits::OCI_OBJECT_BYTES_MAX => Ok(Some(bytes)),
        _ => Err(Error::new(Kind::Limit, format!("{size_bytes} bytes are more than an object can have"))),
    }
}

fn range(idx: u64, part_bytes: u64, size_bytes: u64) -> (u64, u64) {
    let start = idx.saturating_mul(part_bytes).min(size_bytes);
    (start, start.saturating_add(part_bytes).min(size_bytes))
}

/// The tag of an object that was made of parts: the MD5 of their MD5s in base64, and their number.
fn tag_of_parts<'a>(hashes: impl IntoIterator<Item = &'a Hash>) -> String {
    let (mut md5, mut n_parts) = (Md5::new(), 0);
    for hash in hashes {
        md5.update(hash);
        n_parts += 1;
    }
    format!("{}-{n_parts}", BASE64_STANDARD.encode(md5.finalize()))
}

/// The size of the parts that an object was probably made of, by its tag: ours, or that of Thanos. `None` if the tag is
/// not that of parts, or of others.
pub(super) fn likely_part_bytes(tag: &str, size_bytes: u64, wanted: u64) -> Option<u64> {
    let (_, n_parts) = tag.rsplit_once('-')?;
    let n_parts: u64 = n_parts.parse().ok()?;
    let ours = part_bytes(size_bytes, wanted).ok()?.unwrap_or(size_bytes);
    [ours, limits::OCI_THANOS_PART_BYTES].into_iter().find(|bytes| size_bytes.div_ceil((*bytes).max(1)) == n_parts)
}

/// The tag that an object made of a file in parts of this size has.
pub(super) fn tag_of_file(source: &Source, part_bytes: u64, stop: &Stop) -> Result<String> {
    let size_bytes = source.size_bytes();
    let n_parts = size_bytes.div_ceil(part_bytes.max(1));
    let hashes = (0..n_parts).map(|idx| hash(source, range(idx, part_bytes, size_bytes), stop));
    Ok(tag_of_parts(&hashes.collect::<Result<Vec<Hash>>>()?))
}

/// Aborts an upload; it is no error if it is gone. Without the right to abort it is left to the bucket's rules: Thanos
/// does not need that right, so its lack must not keep blocks from being shipped.
pub(super) fn abort(bucket: &OciBucket, object: &str, upload_id: &str, stop: &Stop) -> Result<()> {
    let request =
        Request::new("AbortMultipartUpload", Method::Delete, Place::Upload(object)).with("uploadId", upload_id);
    match bucket.client.send(&request, stop) {
        Err(fault) if fault.is_forgotten() => Ok(()),
        Err(fault) if fault.error.class() == "denied" => {
            log::warn!(bucket = bucket.name.as_str(), object = object, err = fault.error.to_string();
                "cannot abort an upload in parts; what it has stored stays until a lifecycle rule of the bucket removes it");
            Ok(())
        }
        other => Ok(other.map(drop)?),
    }
}

/// Aborts all uploads of this object, whose ids the journal does not know. Without the right to list them they are left
/// to the bucket's lifecycle rule.
pub(super) fn sweep(bucket: &OciBucket, object: &str, stop: &Stop) -> Result<()> {
    let mut from = String::new();
    for _ in 0..limits::S3_PAGES_MAX {
        let mut request = Request::new("ListMultipartUploads", Method::Get, Place::Uploads)
            .with("limit", limits::S3_PAGE_NAMES.to_string());
        if !from.is_empty() {
            request = request.with("page", from.as_str());
        }
        let answer = match bucket.client.send(&request, stop) {
            Err(fault) if fault.error.class() == "denied" => {
                log::debug!(bucket = bucket.name.as_str(), object = object, err = fault.error.to_string();
                    "cannot look for forgotten uploads in parts");
                return Ok(());
            }
            other => other?,
        };
        let page = json::uploads(&answer.body).context(|| format!("list uploads of {object}"))?;
        for upload in page.iter().filter(|upload| upload.object == object) {
            abort(bucket, object, &upload.upload_id, stop)?;
        }
        match answer.header("opc-next-page") {
            next if next.is_empty() || next == from => return Ok(()),
            next => from = next.to_owned(),
        }
    }
    Ok(())
}

/// Stores a file in parts, or goes on with what the journal remembers.
pub(super) fn upload(
    bucket: &OciBucket,
    object: &str,
    source: &Source,
    part_bytes: u64,
    journal: &dyn Journal,
    stop: &Stop,
) -> Result<Stored> {
    let upload = Upload { bucket, object, source, part_bytes, journal, stop };
    for _ in 0..UPLOADS_MAX {
        let (parts, there) = match upload.resume()? {
            Resumed::Parts(parts, there) => (parts, there),
            Resumed::Nothing => (upload.begin()?, There::default()),
            Resumed::Whole(attributes) => {
                journal.record(None)?;
                let resumed_bytes = attributes.size_bytes;
                return Ok(Stored { attributes, resumed_bytes });
            }
        };
        let is_forgetful = journal.parts().is_none();
        let upload_id = parts.upload_id.clone();
        match upload.go_on(parts, &there) {
            Ok(Some(stored)) => return Ok(stored),
            Ok(None) => {
                log::info!(bucket = bucket.name.as_str(), object = object;
                    "the object store has forgotten parts of an upload; beginning again");
                // If it has not really forgotten, nothing of it must stay.
                abort(bucket, object, &upload_id, stop)?;
                journal.record(None)?;
            }
            Err(err) => {
                // The journal does not know of the parts, so they must not stay.
                if is_forgetful && let Err(err) = abort(bucket, object, &upload_id, stop) {
                    log::debug!(bucket = bucket.name.as_str(), object = object, err = err.to_string();
                        "cannot abort the upload in parts");
                }
                return Err(err);
            }
        }
    }
    let text = format!("upload {object}: the store has forgotten the upload in parts {UPLOADS_MAX} times");
    Err(Error::new(Kind::Retry, text).classed("server"))
}

/// Parts that the store has, by number from 1.
type There = BTreeMap<u32, json::StoredPart>;

/// What is left of an earlier attempt.
enum Resumed {
    Nothing,
    Parts(Parts, There),
    /// The object is complete; only the journal did not record it.
    Whole(Attributes),
}

struct Upload<'a> {
    bucket: &'a OciBucket,
    object: &'a str,
    source: &'a Source,
    part_bytes: u64,
    journal: &'a dyn Journal,
    stop: &'a Stop,
}

impl Upload<'_> {
    fn n_parts(&self) -> u64 {
        self.source.size_bytes().div_ceil(self.part_bytes)
    }

    fn range(&self, idx: u64) -> (u64, u64) {
        range(idx, self.part_bytes, self.source.size_bytes())
    }

    /// Finds out what of an earlier attempt can be kept.
    fn resume(&self) -> Result<Resumed> {
        let Some(parts) = self.journal.parts() else { return Ok(Resumed::Nothing) };
        if parts.upload_id.is_empty() {
            sweep(self.bucket, self.object, self.stop)?;
            return Ok(Resumed::Nothing);
        }
        if (parts.size_bytes, parts.part_bytes) != (self.source.size_bytes(), self.part_bytes) {
            log::info!(bucket = self.bucket.name.as_str(), object = self.object;
                "the file or the part size has changed since its upload in parts began; beginning again");
            abort(self.bucket, self.object, &parts.upload_id, self.stop)?;
            return Ok(Resumed::Nothing);
        }
        match self.listed(&parts.upload_id) {
            Ok(there) => Ok(Resumed::Parts(parts, there)),
            Err(fault) if fault.is_forgotten() => {
                let is_all = parts.sent.len() as u64 == self.n_parts();
                let made = if is_all { self.already_there()? } else { None };
                Ok(made.map_or(Resumed::Nothing, Resumed::Whole))
            }
            Err(fault) if fault.error.class() == "denied" => {
                log::debug!(bucket = self.bucket.name.as_str(), object = self.object, err = fault.error.to_string();
                    "cannot list the parts of an upload; relying on the journal");
                let there = parts.sent.iter().enumerate().map(|(idx, part)| {
                    let (start, end) = self.range(idx as u64);
                    let stored =
                        json::StoredPart { etag: part.tag.clone(), md5: part.md5.clone(), size_bytes: end - start };
                    (u32::try_from(idx + 1).unwrap_or(u32::MAX), stored)
                });
                let there = there.collect();
                Ok(Resumed::Parts(parts, there))
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// Whether an earlier attempt made the object, and only its journal did not record it.
    fn already_there(&self) -> Result<Option<Attributes>> {
        let attributes = match self.bucket.head(self.object, self.stop) {
            Err(fault) if fault.error.kind() == Kind::NotFound => return Ok(None),
            other => other?,
        };
        if attributes.size_bytes != self.source.size_bytes() {
            return Ok(None);
        }
        let tag = tag_of_file(self.source, self.part_bytes, self.stop)?;
        Ok(Some(attributes).filter(|attributes| attributes.tag == tag))
    }

    fn listed(&self, upload_id: &str) -> Result<There, Fault> {
        let (mut there, mut from) = (There::new(), String::new());
        for _ in 0..limits::OCI_PARTS_MAX {
            let mut request = Request::new("ListMultipartUploadParts", Method::Get, Place::Upload(self.object))
                .with("uploadId", upload_id)
                .with("limit", limits::S3_PAGE_NAMES.to_string());
            if !from.is_empty() {
                request = request.with("page", from.as_str());
            }
            let answer = self.bucket.client.send(&request, self.stop)?;
            there.extend(json::parts(&answer.body).context(|| format!("list parts of {}", self.object))?);
            match answer.header("opc-next-page") {
                next if next.is_empty() || next == from => break,
                next => from = next.to_owned(),
            }
        }
        Ok(there)
    }

    /// Begins an upload. If the store may have begun one without giving its id, that one is removed.
    fn begin(&self) -> Result<Parts> {
        let mut parts = Parts { part_bytes: self.part_bytes, size_bytes: self.source.size_bytes(), ..Parts::default() };
        self.journal.record(Some(&parts))?;
        let body = json::begin(self.object, CONTENT_TYPE);
        let request = Request::new("CreateMultipartUpload", Method::Post, Place::Uploads).with_body(Body::Bytes(&body));
        let mut n_failed = 0;
        loop {
            let begun = self.bucket.client.send_once(&request, self.stop).and_then(|answer| {
                let begun = json::upload(&answer.body).context(|| format!("begin the upload of {}", self.object));
                begun.map_err(Fault::from)
            });
            match begun {
                Ok(begun) => {
                    parts.upload_id = begun.upload_id;
                    break;
                }
                Err(fault) => {
                    n_failed += 1;
                    if fault.error.kind() != Kind::Retry || n_failed >= self.bucket.client.attempts_max() {
                        return Err(fault.into());
                    }
                    self.bucket.client.wait(n_failed, self.stop)?;
                    if fault.status == 0 || fault.status >= 500 {
                        sweep(self.bucket, self.object, self.stop)?;
                    }
                }
            }
        }
        self.journal.record(Some(&parts))?;
        Ok(parts)
    }

    /// Sends what is missing and makes an object of it; `None` when the store has forgotten the upload.
    fn go_on(&self, parts: Parts, there: &There) -> Result<Option<Stored>> {
        // A part's MD5 goes before its body, so that of the next one is computed while this one is sent.
        let (made, hashes) = bounded(1);
        let (sent, tag) = thread::scope(|scope| {
            // It must not outlive this call, which is why it is not started as others are.
            let builder = thread::Builder::new().name("ship-md5".into()).stack_size(limits::SMALL_STACK_BYTES);
            let helper = builder
                .spawn_scoped(scope, move || self.hash_all(&made))
                .map_err(|err| Error::io(&err).context("start a thread for checksums"))?;
            let sent = self.send_all(&hashes, parts, there);
            // The helper ends at once if nobody takes its hashes.
            drop(hashes);
            let tag = helper.join().unwrap_or_else(|_| Err(Error::new(Kind::Retry, "the thread for checksums ended")));
            // What went wrong with sending is the cause, unless the file could not be read.
            match (sent, tag) {
                (Ok(None), _) => Ok((None, String::new())),
                (Ok(sent), Ok(tag)) => Ok((sent, tag)),
                (Err(err), Ok(_)) => Err(err),
                (Err(err), Err(read)) if read.kind() == Kind::Stopped || err.kind() == Kind::Stopped => Err(err),
                (_, Err(read)) => Err(read),
            }
        })?;
        let Some((parts, resumed_bytes)) = sent else { return Ok(None) };
        match self.commit(&parts, &tag) {
            Ok(()) => {}
            Err(fault) if fault.is_forgotten() => {
                // The answer to an earlier attempt may have been lost.
                let made = self.already_there()?;
                if let Some(attributes) = made {
                    self.journal.record(None)?;
                    return Ok(Some(Stored { attributes, resumed_bytes }));
                }
                return Ok(None);
            }
            Err(fault) if fault.code == "InvalidUploadPart" => return Ok(None),
            Err(fault) => return Err(fault.into()),
        }
        let attributes = self.check(&tag)?;
        self.journal.record(None)?;
        Ok(Some(Stored { attributes, resumed_bytes }))
    }

    /// The MD5 of each part to `made`, and in the end the tag of the object.
    fn hash_all(&self, made: &Sender<Hash>) -> Result<String> {
        let mut all = Vec::new();
        for idx in 0..self.n_parts() {
            let hash = hash(self.source, self.range(idx), self.stop)?;
            all.push(hash);
            if made.send(hash).is_err() {
                return Err(Error::new(Kind::Stopped, "nobody waits for checksums"));
            }
        }
        Ok(tag_of_parts(&all))
    }

    /// Returns the parts with the bytes that were there already; `None` when the store has forgotten the upload.
    fn send_all(&self, hashes: &Receiver<Hash>, mut parts: Parts, there: &There) -> Result<Option<(Parts, u64)>> {
        parts.sent.clear();
        let mut kept_bytes = 0;
        for idx in 0..self.n_parts() {
            let (start, end) = self.range(idx);
            let hash = hashes.recv().map_err(|_| Error::new(Kind::Stopped, "there are no more checksums"))?;
            let md5 = hex(&hash);
            let number = u32::try_from(idx + 1).unwrap_or(u32::MAX);
            let is_same = |part: &&json::StoredPart| {
                part.size_bytes == end - start && (part.md5 == BASE64_STANDARD.encode(hash) || part.md5 == md5)
            };
            if let Some(part) = there.get(&number).filter(is_same) {
                parts.sent.push(Part { tag: part.etag.clone(), md5 });
                kept_bytes += end - start;
                continue;
            }
            match self.send(&parts.upload_id, number, &hash, (start, end)) {
                Ok(tag) => parts.sent.push(Part { tag, md5 }),
                Err(fault) if fault.is_forgotten() => return Ok(None),
                Err(fault) => return Err(fault.into()),
            }
            self.journal.record(Some(&parts))?;
        }
        self.journal.record(Some(&parts))?;
        Ok(Some((parts, kept_bytes)))
    }

    /// Sends a part and returns its ETag.
    fn send(&self, upload_id: &str, number: u32, hash: &Hash, range: (u64, u64)) -> Result<String, Fault> {
        let request = Request::new("UploadPart", Method::Put, Place::Upload(self.object))
            .with("uploadId", upload_id)
            .with("uploadPartNum", number.to_string())
            .with_header("content-type", CONTENT_TYPE)
            .with_header("content-md5", BASE64_STANDARD.encode(hash))
            .with_body(Body::File { source: self.source, range, is_hashed: false });
        let answer = self.bucket.client.send(&request, self.stop)?;
        self.bucket.check_said(&request, &answer, hash)?;
        match answer.header("etag").trim_matches('"') {
            "" => Err(self.bucket.client.integrity_error(&request, "the answer has no ETag of the part").into()),
            tag => Ok(tag.to_owned()),
        }
    }

    fn commit(&self, parts: &Parts, tag: &str) -> Result<(), Fault> {
        let body = json::commit(parts.sent.iter().map(|part| part.tag.as_str()));
        let request = Request::new("CommitMultipartUpload", Method::Post, Place::Upload(self.object))
            .with("uploadId", parts.upload_id.as_str())
            .with_body(Body::Bytes(&body));
        let answer = self.bucket.client.send(&request, self.stop)?;
        match answer.header("opc-multipart-md5") {
            said if said.is_empty() || said == tag => Ok(()),
            _ => {
                let text = "the store has made the object of other parts than were sent";
                Err(self.bucket.client.integrity_error(&request, text).into())
            }
        }
    }

    /// Checks that the store has what was sent.
    fn check(&self, tag: &str) -> Result<Attributes> {
        let request = Request::new("CommitMultipartUpload", Method::Post, Place::Upload(self.object));
        let wrong = |text: &str| Err(self.bucket.client.integrity_error(&request, text));
        let attributes = match self.bucket.head(self.object, self.stop) {
            Err(fault) if fault.error.kind() == Kind::NotFound => {
                return wrong("the store has acknowledged an object and has none");
            }
            other => other?,
        };
        let size_bytes = self.source.size_bytes();
        if attributes.size_bytes != size_bytes {
            return wrong(&format!("{size_bytes} bytes were sent and the store has {}", attributes.size_bytes));
        }
        if attributes.tag != tag {
            return wrong("the store has another MD5 than that of the parts: somebody else writes under this name");
        }
        Ok(attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn parts_are_as_large_as_they_must_be() {
        assert_eq!(part_bytes(16 * MIB, 16 * MIB).unwrap(), None);
        assert_eq!(part_bytes(16 * MIB + 1, 16 * MIB).unwrap(), Some(16 * MIB));
        let many = limits::OCI_PARTS_MAX * 16 * MIB;
        assert_eq!(part_bytes(many, 16 * MIB).unwrap(), Some(16 * MIB));
        assert_eq!(part_bytes(many + 1, 16 * MIB).unwrap(), Some(16 * MIB + 1));
        let err = part_bytes(limits::OCI_OBJECT_BYTES_MAX + 1, 16 * MIB).unwrap_err();
        assert_eq!(err.kind(), Kind::Limit);
        assert_eq!((range(0, 5, 12), range(2, 5, 12), range(9, 5, 12)), ((0, 5), (10, 12), (12, 12)));
    }

    #[test]
    fn the_part_size_of_an_object_is_guessed_by_its_tag() {
        let check =
            |tag: &str, size_bytes, want| assert_eq!(likely_part_bytes(tag, size_bytes, 16 * MIB), want, "{tag}");
        check("aa==-3", 40 * MIB, Some(16 * MIB));
        check("aa==-2", 200 * MIB, Some(128 * MIB));
        check("aa==-1", 7 * MIB, Some(7 * MIB));
        check("aa==-5", 40 * MIB, None);
        check("0123456789abcdef0123456789abcdef", 40 * MIB, None);
        check("", 40 * MIB, None);
        check("9a86a492-43fa-4c8c-a80e-dbd650188ff8", 40 * MIB, None);
    }
}
