//! The upload in parts: one part after another, straight from the file. After a crash it goes on where it ended.
//!
//! The journal records an upload before the store knows it (without its id), and a part once the store has it. So the
//! next attempt always finds what an interrupted one left, and either goes on with it or removes it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};

use rusty_s3::Method;

use super::checksum::{self, Keeping, Sums, Wanted};
use super::client::Request;
use super::fault::Fault;
use super::parts::{self, Hash};
use super::{S3Bucket, Sent, content_md5, header, is_opaque, xml};
use crate::limits;
use crate::ranged::Ranged;
use crate::rest::Body;
use crate::{Attributes, Journal, Part, Parts, Stored};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

/// Uploads that one call begins for a file: the store may forget the first.
const UPLOADS_MAX: u32 = 2;
/// How often a part is sent if its ETag is not the MD5 of what was sent.
const SENDS_MAX: u32 = 2;

/// Stores a file in parts of `part_bytes`, or goes on with what the journal remembers.
pub(super) fn upload(
    bucket: &S3Bucket,
    object: &str,
    source: &Source,
    part_bytes: u64,
    journal: &dyn Journal,
    stop: &Stop,
) -> Result<Stored> {
    let upload = Upload { bucket, object, source, journal, stop };
    for _ in 0..UPLOADS_MAX {
        let begun = match upload.resume()? {
            Resumed::Parts(parts) => Begun { has_sums: has_sums(&parts), is_offered: false, parts },
            Resumed::Nothing => upload.begin(part_bytes)?,
            Resumed::Whole(attributes) => {
                journal.record(None)?;
                let resumed_bytes = attributes.size_bytes;
                return Ok(Stored { attributes, resumed_bytes });
            }
        };
        let is_forgetful = journal.parts().is_none();
        let upload_id = begun.parts.upload_id.clone();
        match upload.go_on(begun) {
            Ok(Some(stored)) => return Ok(stored),
            Ok(None) => {
                log::info!(bucket = bucket.name.as_str(), object = object;
                    "the object store has forgotten an upload in parts; beginning again");
                // If it has not really forgotten, no parts must stay.
                abort(bucket, object, &upload_id, stop)?;
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

/// The MD5 of a part of a file.
pub(super) fn hash(source: &Source, range: (u64, u64), stop: &Stop) -> Result<Hash> {
    let wanted = Wanted { md5: true, ..Wanted::default() };
    Ok(checksum::sums(source, range, wanted, stop, None)?.md5.unwrap_or_default())
}

/// Aborts an upload; it is no error if it is gone. Without the right to abort it is left to the bucket's lifecycle
/// rule: Thanos does not need that right, so its lack must not keep blocks from being shipped.
pub(super) fn abort(bucket: &S3Bucket, object: &str, upload_id: &str, stop: &Stop) -> Result<()> {
    let request = Request::new("AbortMultipartUpload", "s3:AbortMultipartUpload", Method::Delete, Some(object))
        .with("uploadId", upload_id);
    match bucket.client.send(&request, stop) {
        Err(fault) if fault.status == 404 && fault.code != "NoSuchBucket" => Ok(()),
        Err(fault) if fault.is_unsupported() || fault.error.class() == "denied" => {
            log::warn!(bucket = bucket.name.as_str(), object = object, err = fault.error.to_string();
                "cannot abort an upload in parts; what it has stored stays until a lifecycle rule of the bucket removes it");
            Ok(())
        }
        other => Ok(other.map(drop)?),
    }
}

/// Aborts all uploads of this object, whose ids the journal does not know. If the store cannot list them, or we may
/// not, they are left to the bucket's lifecycle rule.
pub(super) fn sweep(bucket: &S3Bucket, object: &str, stop: &Stop) -> Result<()> {
    let mut from: Option<(String, String)> = None;
    for _ in 0..limits::S3_PAGES_MAX {
        let mut request = Request::new("ListMultipartUploads", "s3:ListBucketMultipartUploads", Method::Get, None)
            .with("uploads", "")
            .with("prefix", object);
        if let Some((key, upload_id)) = &from {
            request = request.with("key-marker", key.as_str()).with("upload-id-marker", upload_id.as_str());
        }
        let answer = match bucket.client.send(&request, stop) {
            Err(fault) if fault.is_unsupported() || matches!(fault.status, 403 | 404) => {
                log::debug!(bucket = bucket.name.as_str(), object = object, err = fault.error.to_string();
                    "cannot look for forgotten uploads in parts");
                return Ok(());
            }
            other => other?,
        };
        let page = xml::uploads(&answer.body).context(|| format!("list uploads of {object}"))?;
        for (_, upload_id) in page.uploads.iter().filter(|(key, _)| key == object) {
            abort(bucket, object, upload_id, stop)?;
        }
        match page.next {
            None => return Ok(()),
            next if next == from => return Ok(()),
            next => from = next,
        }
    }
    Ok(())
}

/// What is left of an earlier attempt.
enum Resumed {
    Nothing,
    Parts(Parts),
    /// The object is complete; only the journal did not record it.
    Whole(Attributes),
}

/// An upload whose parts can be sent.
struct Begun {
    parts: Parts,
    /// Its parts have CRC-32Cs, which take the place of MD5s.
    has_sums: bool,
    /// It was offered to the store that they have, and the store has not said yes.
    is_offered: bool,
}

struct Upload<'a> {
    bucket: &'a S3Bucket,
    object: &'a str,
    source: &'a Source,
    journal: &'a dyn Journal,
    stop: &'a Stop,
}

impl<'a> Upload<'a> {
    /// Finds out what of an earlier attempt can be kept.
    fn resume(&self) -> Result<Resumed> {
        let Some(mut parts) = self.journal.parts() else { return Ok(Resumed::Nothing) };
        if parts.upload_id.is_empty() {
            sweep(self.bucket, self.object, self.stop)?;
            return Ok(Resumed::Nothing);
        }
        if parts.sent.is_empty() {
            // Nothing says whether its parts must have sums, and nothing is lost with it.
            abort(self.bucket, self.object, &parts.upload_id, self.stop)?;
            return Ok(Resumed::Nothing);
        }
        let n_parts = parts::n_parts(parts.size_bytes, parts.part_bytes);
        let is_ours = parts.size_bytes == self.source.size_bytes()
            && (1..=limits::PART_BYTES_MAX).contains(&parts.part_bytes)
            && n_parts <= limits::S3_PARTS_MAX
            && parts.sent.len() as u64 <= n_parts;
        if !is_ours || !self.is_unchanged(&parts)? {
            log::info!(bucket = self.bucket.name.as_str(), object = self.object;
                "the file has changed since its upload in parts began; beginning again");
            abort(self.bucket, self.object, &parts.upload_id, self.stop)?;
            return Ok(Resumed::Nothing);
        }
        match self.listed(&parts.upload_id) {
            Ok(listed) => {
                let is_kept = |idx: usize, part: &Part| {
                    let number = u32::try_from(idx + 1).unwrap_or(u32::MAX);
                    let (start, end) = parts::range(idx as u64, parts.part_bytes, parts.size_bytes);
                    listed.get(&number).is_some_and(|(tag, size_bytes)| {
                        *size_bytes == end - start && (tag.is_empty() || *tag == part.tag)
                    })
                };
                let n_kept = parts.sent.iter().enumerate().take_while(|(idx, part)| is_kept(*idx, part)).count();
                parts.sent.truncate(n_kept);
            }
            Err(fault) if fault.is_missing() => {
                let is_all = parts.sent.len() as u64 == n_parts;
                let made = if is_all { self.already_there(&tag_of(&parts), sum_of(&parts).as_deref())? } else { None };
                return Ok(made.map_or(Resumed::Nothing, Resumed::Whole));
            }
            Err(fault) if fault.is_unsupported() || fault.status == 403 => {
                log::debug!(bucket = self.bucket.name.as_str(), object = self.object, err = fault.error.to_string();
                    "cannot list the parts of an upload; relying on the journal");
            }
            Err(fault) => return Err(fault.into()),
        }
        Ok(Resumed::Parts(parts))
    }

    /// Whether the file still has the bytes of the parts that were sent.
    fn is_unchanged(&self, parts: &Parts) -> Result<bool> {
        for (idx, part) in parts.sent.iter().enumerate() {
            let range = parts::range(idx as u64, parts.part_bytes, parts.size_bytes);
            let known = checksum::unjournalled(&part.md5);
            if known.is_some() != has_sums(parts) {
                return Ok(false);
            }
            let wanted = Wanted { md5: known.is_none(), crc32c: known.is_some(), sha256: false };
            let sums = checksum::sums(self.source, range, wanted, self.stop, None)?;
            if sums.crc32c != known || sums.md5.is_some_and(|md5| parts::hex(&md5) != part.md5) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tags and sizes of the parts that the store has, by number.
    fn listed(&self, upload_id: &str) -> Result<BTreeMap<u32, (String, u64)>, Fault> {
        let mut listed = BTreeMap::new();
        let mut from: Option<u32> = None;
        for _ in 0..limits::S3_PARTS_MAX {
            let mut request = Request::new("ListParts", "s3:ListMultipartUploadParts", Method::Get, Some(self.object))
                .with("uploadId", upload_id);
            if let Some(from) = from {
                request = request.with("part-number-marker", from.to_string());
            }
            let answer = self.bucket.client.send(&request, self.stop)?;
            let page = xml::parts(&answer.body).context(|| format!("list parts of {}", self.object))?;
            listed.extend(page.parts.into_iter().map(|part| (part.number, (part.tag, part.size_bytes))));
            match page.next {
                next if next.is_none() || next == from => break,
                next => from = next,
            }
        }
        Ok(listed)
    }

    /// Begins an upload. If the store may have begun one without giving its id, that one is removed.
    fn begin(&self, part_bytes: u64) -> Result<Begun> {
        let mut parts = Parts { part_bytes, size_bytes: self.source.size_bytes(), ..Parts::default() };
        self.journal.record(Some(&parts))?;
        let plain = || {
            Request::new("CreateMultipartUpload", "s3:PutObject", Method::Post, Some(self.object))
                .with("uploads", "")
                .with_headers(&self.bucket.new_headers)
                .with_body(Body::Bytes(b""))
        };
        let checksums = &self.bucket.checksums;
        let mut is_offered = checksums.keeping() != Keeping::Ignored;
        let has_sums;
        let mut request = plain();
        if is_offered {
            request = request.with_headers(&[header(checksum::ALGORITHM, checksum::ALGORITHM_CRC32C)]);
        }
        let mut n_failed = 0;
        loop {
            let fault = match self.bucket.client.send_once(&request, self.stop) {
                Ok(answer) => match xml::upload_id(&answer.body) {
                    Ok(upload_id) => {
                        parts.upload_id = upload_id;
                        has_sums = is_offered && answer.header(checksum::ALGORITHM) == checksum::ALGORITHM_CRC32C;
                        break;
                    }
                    Err(err) => err.context(format!("begin the upload of {}", self.object)).into(),
                },
                Err(fault) => fault,
            };
            if is_offered && checksum::may_be_refused(&fault) {
                (request, is_offered) = (plain(), false);
                continue;
            }
            n_failed += 1;
            if fault.error.kind() != Kind::Retry || n_failed >= self.bucket.client.attempts_max() {
                return Err(fault.into());
            }
            self.bucket.client.wait(n_failed, self.stop)?;
            if fault.is_doubtful() {
                sweep(self.bucket, self.object, self.stop)?;
            }
        }
        self.bucket.bucket_exists.store(true, Ordering::Relaxed);
        checksums.learn(has_sums, &self.bucket.name);
        self.journal.record(Some(&parts))?;
        Ok(Begun { parts, has_sums, is_offered: is_offered && !has_sums })
    }

    /// Sends what is missing and makes an object of it; `None` when the store has forgotten the upload.
    fn go_on(&self, begun: Begun) -> Result<Option<Stored>> {
        let Begun { mut parts, has_sums, is_offered } = begun;
        let n_parts = parts::n_parts(parts.size_bytes, parts.part_bytes);
        let (part_bytes, size_bytes) = (parts.part_bytes, parts.size_bytes);
        let range_of = |idx: u64| parts::range(idx, part_bytes, size_bytes);
        let resumed_bytes = match parts.sent.len() as u64 {
            0 => 0,
            n_sent => range_of(n_sent - 1).1,
        };
        let mut wanted = Wanted {
            md5: self.bucket.sends_md5 && !has_sums,
            sha256: self.bucket.client.hashes_files(),
            crc32c: has_sums,
        };
        let mut ahead: Option<Sums> = None;
        let first = parts.sent.len() as u64;
        for idx in first..n_parts {
            let range = range_of(idx);
            let sums = match ahead.take() {
                Some(sums) => sums,
                None => checksum::sums(self.source, range, wanted, self.stop, None)?,
            };
            let next = (wanted != Wanted::default() && idx + 1 < n_parts).then(|| range_of(idx + 1));
            // The sums are sent before the body, so those of the next part are computed while this one is sent.
            let cancelled = AtomicBool::new(false);
            let (mut sent, summed) = thread::scope(|scope| {
                let helper = next.and_then(|next| self.spawn_sums(scope, next, wanted, &cancelled));
                let sent = self.send(&parts, idx, range, &sums);
                cancelled.store(sent.is_err(), Ordering::Relaxed);
                (sent, helper.and_then(|helper| helper.join().ok()))
            });
            // If the helper failed, the sums are computed when the part is sent.
            ahead = summed.and_then(Result::ok);
            if sent.as_ref().is_err_and(|fault| self.bucket.client.begins_hashing(&fault.error)) {
                wanted.sha256 = true;
                ahead = None;
                sent = self.send(&parts, idx, range, &checksum::sums(self.source, range, wanted, self.stop, None)?);
                self.bucket.client.judges_hashing(sent.as_ref().err().map(|fault| &fault.error));
            }
            match sent {
                Ok(Some(part)) => parts.sent.push(part),
                Ok(None) => {
                    self.bucket.checksums.learn(false, &self.bucket.name);
                    return self.forgotten();
                }
                Err(fault) if fault.is_missing() => return self.forgotten(),
                // It may want sums although it has not said so, or none although it has.
                Err(fault) if (has_sums || is_offered) && checksum::may_be_refused(&fault) => {
                    log::info!(bucket = self.bucket.name.as_str(), object = self.object, err = fault.error.to_string();
                        "the object store refuses a part; beginning again without checksum headers");
                    self.bucket.checksums.learn(false, &self.bucket.name);
                    return self.forgotten();
                }
                Err(fault) => return Err(fault.into()),
            }
            self.journal.record(Some(&parts))?;
        }
        let attributes = match self.complete(&parts)? {
            Some(attributes) => attributes,
            None => return self.forgotten(),
        };
        self.journal.record(None)?;
        Ok(Some(Stored { attributes, resumed_bytes }))
    }

    fn forgotten<T>(&self) -> Result<Option<T>> {
        self.journal.record(None)?;
        Ok(None)
    }

    fn spawn_sums<'scope, 'env: 'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, 'env>,
        range: (u64, u64),
        wanted: Wanted,
        cancelled: &'scope AtomicBool,
    ) -> Option<ScopedJoinHandle<'scope, Result<Sums>>> {
        let builder = thread::Builder::new().name("ship-md5".into()).stack_size(limits::SMALL_STACK_BYTES);
        builder.spawn_scoped(scope, move || checksum::sums(self.source, range, wanted, self.stop, Some(cancelled))).ok()
    }

    /// Sends one part; `None` if its sum was announced and the store does not keep it. If ETags are MD5s and the part's is
    /// not, or if the store has another sum, the part is sent once more. After that the check of the whole object decides,
    /// where the store has no sums.
    fn send(&self, parts: &Parts, idx: u64, range: (u64, u64), sums: &Sums) -> Result<Option<Part>, Fault> {
        let mut n_sent = 0;
        loop {
            let is_hashed = sums.md5.is_none() && sums.crc32c.is_none();
            let mut request = Request::new("UploadPart", "s3:PutObject", Method::Put, Some(self.object))
                .with("partNumber", (idx + 1).to_string())
                .with("uploadId", parts.upload_id.as_str())
                .with_headers(&self.bucket.key_headers)
                .with_body(Body::File { source: self.source, range, is_hashed })
                .with_sha256(sums.sha256);
            if let Some(md5) = &sums.md5 {
                request = request.with_headers(&[content_md5(md5)]);
            }
            if let Some(crc32c) = sums.crc32c {
                request = request.with_headers(&[header(checksum::CRC32C, &checksum::text(crc32c))]);
            }
            let answer = self.bucket.client.send(&request, self.stop)?;
            n_sent += 1;
            let said = xml::unquoted(answer.header("etag"));
            if let Some(crc32c) = sums.crc32c {
                let theirs = answer.header(checksum::CRC32C);
                if theirs == checksum::text(crc32c) {
                    return Ok(Some(Part { tag: said.to_owned(), md5: checksum::journalled(crc32c) }));
                }
                if theirs.is_empty() {
                    return Ok(None);
                }
                if n_sent >= SENDS_MAX {
                    let text = "the store has another checksum of a part than was sent";
                    return Err(self.bucket.client.integrity_error(&request, text).into());
                }
            } else {
                let md5 = sums.md5.or(answer.sent_md5).map(|hash| parts::hex(&hash)).unwrap_or_default();
                let tag = if said.is_empty() { md5.clone() } else { said.to_owned() };
                let is_told = !self.bucket.has_opaque_tags.load(Ordering::Relaxed) && !is_opaque(&answer);
                if tag == md5 || !is_told || n_sent >= SENDS_MAX {
                    return Ok(Some(Part { tag, md5 }));
                }
            }
            log::debug!(bucket = self.bucket.name.as_str(), object = self.object, part = idx + 1;
                "the store does not show a part as it was sent; sending the part again");
        }
    }

    /// Makes the object; `None` when the store has forgotten the upload or its parts.
    ///
    /// Without a clear answer the object may exist or not, so the store is asked.
    fn complete(&self, parts: &Parts) -> Result<Option<Attributes>> {
        let (expected, sum) = (tag_of(parts), sum_of(parts));
        let body = complete_body(parts);
        let request = Request::new("CompleteMultipartUpload", "s3:PutObject", Method::Post, Some(self.object))
            .with("uploadId", parts.upload_id.as_str())
            .with_headers(&[("content-type".to_owned(), "application/xml".to_owned())])
            .with_body(Body::Bytes(body.as_bytes()));
        let mut n_failed = 0;
        loop {
            let fault: Fault = match self.bucket.client.send_once(&request, self.stop) {
                Ok(answer) => match xml::check_completed(&answer.body) {
                    Ok(()) => break,
                    Err(err) => err.context(format!("complete the upload of {}", self.object)).into(),
                },
                Err(fault) => fault,
            };
            let is_missing = fault.is_missing();
            if (is_missing || fault.is_doubtful())
                && let Some(attributes) = self.already_there(&expected, sum.as_deref())?
            {
                return Ok(Some(attributes));
            }
            if is_missing {
                return Ok(None);
            }
            if matches!(fault.code.as_str(), "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall") {
                log::warn!(bucket = self.bucket.name.as_str(), object = self.object, err = fault.error.to_string();
                    "the object store does not have the parts that were sent; sending them again");
                abort(self.bucket, self.object, &parts.upload_id, self.stop)?;
                return Ok(None);
            }
            n_failed += 1;
            if fault.error.kind() != Kind::Retry || n_failed >= self.bucket.client.attempts_max() {
                return Err(fault.into());
            }
            self.bucket.client.wait(n_failed, self.stop)?;
        }
        // Some stores answer without an ETag or with a wrong one. HEAD gives the one that others will see.
        let head = match self.bucket.head(self.object, self.stop) {
            Err(fault) if fault.status == 404 => {
                // The upload is over and its object missing, so there is nothing to go on with.
                self.journal.record(None)?;
                return Err(self
                    .bucket
                    .client
                    .integrity_error(&request, "the store has acknowledged an object and has none"));
            }
            other => other?,
        };
        let is_same = head.attributes.tag == expected && head.attributes.size_bytes == parts.size_bytes;
        if is_same {
            return Ok(Some(head.attributes));
        }
        let has_content = || self.bucket.has_content_of(self.object, self.source, self.stop);
        let sent = Sent {
            tag: Some(&expected),
            crc32c: sum.as_deref(),
            is_echoed: false,
            size_bytes: parts.size_bytes,
            has_content: &has_content,
        };
        let checked = self.bucket.check_stored(self.object, &sent, head.is_opaque, self.stop);
        if checked.as_ref().is_err_and(|err| err.class() == "integrity") {
            self.journal.record(None)?;
        }
        checked.map(Some)
    }

    /// The object, if it has the bytes that were sent.
    fn already_there(&self, expected: &str, sum: Option<&str>) -> Result<Option<Attributes>> {
        let head = match self.bucket.head(self.object, self.stop) {
            Err(fault) if fault.error.kind() == Kind::NotFound => return Ok(None),
            other => other?,
        };
        if head.attributes.size_bytes != self.source.size_bytes() {
            return Ok(None);
        }
        let is_opaque = head.is_opaque || self.bucket.has_opaque_tags.load(Ordering::Relaxed);
        let is_same = head.attributes.tag == expected
            || sum == Some(head.crc32c.as_str())
            || (is_opaque && self.bucket.has_content_of(self.object, self.source, self.stop)?);
        Ok(is_same.then_some(head.attributes))
    }
}

/// Whether the parts have CRC-32Cs.
fn has_sums(parts: &Parts) -> bool {
    parts.sent.first().is_some_and(|part| checksum::unjournalled(&part.md5).is_some())
}

/// The ETag that the object will have, from the MD5s of its parts. Of parts that were checked by another sum, their ETags
/// are the MD5s, if they can be.
fn tag_of(parts: &Parts) -> String {
    let has_sums = has_sums(parts);
    let md5 = |part: &Part| parts::unhex(if has_sums { &part.tag } else { &part.md5 });
    let hashes: Option<Vec<Hash>> = parts.sent.iter().map(md5).collect();
    parts::tag_of_parts(&hashes.unwrap_or_default())
}

/// The CRC-32C that the object will have, if its parts have one.
fn sum_of(parts: &Parts) -> Option<String> {
    let sums: Option<Vec<u32>> = parts.sent.iter().map(|part| checksum::unjournalled(&part.md5)).collect();
    sums.filter(|sums| !sums.is_empty()).map(|sums| checksum::text_of_parts(&sums))
}

/// The list of parts that makes an object.
fn complete_body(parts: &Parts) -> String {
    let mut body = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (idx, part) in parts.sent.iter().enumerate() {
        let (number, tag) = (idx + 1, xml::escaped(&part.tag));
        let sum = checksum::unjournalled(&part.md5).map(checksum::text);
        let sum = sum.map(|sum| format!("<ChecksumCRC32C>{sum}</ChecksumCRC32C>")).unwrap_or_default();
        body.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>&quot;{tag}&quot;</ETag>{sum}</Part>"));
    }
    body.push_str("</CompleteMultipartUpload>");
    body
}
