//! The upload in chunks: one after another into a session of the store, straight from the file. The last one makes the
//! object.
//!
//! The store alone knows how far a session is. It is asked after every doubtful answer, and after a restart. The address
//! of a session lets anybody write into it: it goes into the journal, and never into a log or an error.

use std::ops::ControlFlow;

use crc32c::crc32c_combine;
use rusty_s3::Method;
use url::Url;

use super::client::{Expected, Place, Request};
use super::fault::Fault;
use super::json::{self, Object};
use super::sums::{Sums, base64_of};
use super::{CONTENT_TYPE, FIELDS, GcsBucket};
use crate::limits;
use crate::rest::{Answer, Body};
use crate::{Journal, Part, Parts, Stored};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

/// How often one call begins a session: the first, and after the store has forgotten one.
const SESSIONS_MAX: u32 = 2;

/// What the store says of a session.
enum Progress {
    /// It has the bytes up to here.
    At(u64),
    /// The object is made.
    Made(Object),
    /// It knows the session no longer, or will not go on with it.
    Gone(Fault),
}

/// Stores a file in chunks, or goes on with what an earlier attempt has sent.
pub(super) fn upload(
    bucket: &GcsBucket,
    object: &str,
    source: &Source,
    journal: &dyn Journal,
    stop: &Stop,
) -> Result<Stored> {
    if source.size_bytes() > limits::GCS_OBJECT_BYTES_MAX {
        let text = format!("{} bytes are more than an object of Google Cloud Storage can hold", source.size_bytes());
        return Err(Error::new(Kind::Permanent, text));
    }
    let (sums, chunks) = Sums::of_chunks(source, bucket.chunk_bytes, stop)?;
    let upload = Upload { bucket, object, source, sums, chunks, journal, stop };
    let mut session = upload.known()?;
    let mut resumed_bytes = None;
    for _ in 0..SESSIONS_MAX {
        let (address, start) = match session.take() {
            Some((address, Progress::At(start))) => (address, start),
            Some((_, Progress::Made(made))) if upload.sums.difference(&made).is_none() => {
                return upload.done(&made, upload.sums.size_bytes);
            }
            // It has ended in another way, or is gone: the object may be there for all that.
            Some(_) => match upload.already_there()? {
                Some(made) => return upload.done(&made, upload.sums.size_bytes),
                None => (upload.begin()?, 0),
            },
            None => (upload.begin()?, 0),
        };
        let resumed_bytes = *resumed_bytes.get_or_insert(start);
        match upload.send_all(&address, start)? {
            Progress::Made(made) => {
                if let Some(text) = upload.sums.difference(&made) {
                    upload.journal.record(None)?;
                    return Err(upload.integrity_error(&text));
                }
                return upload.done(&made, resumed_bytes);
            }
            Progress::Gone(fault) if fault.error.class() == "integrity" => {
                upload.journal.record(None)?;
                return Err(fault.error);
            }
            gone => {
                log::info!(bucket = bucket.name.as_str(), object = object;
                    "the object store has forgotten an upload; sending the file again");
                session = Some((address, gone));
            }
        }
    }
    upload.journal.record(None)?;
    let text = format!("upload {object}: the store has forgotten the upload {SESSIONS_MAX} times");
    Err(Error::new(Kind::Retry, text).classed("server"))
}

/// Ends a session; it is no error if there is none.
pub(super) fn abandon(bucket: &GcsBucket, object: &str, parts: &Parts, stop: &Stop) -> Result<()> {
    let address = parts.upload_id.as_str();
    if !is_address(address) {
        return Ok(());
    }
    let request =
        Request::new("objects.insert (cancel)", Method::Delete, Place::Session(address, object), Expected::Nothing);
    match bucket.client.send(&request, stop) {
        // 499 is the success; the others say that it is gone already.
        Err(fault) if !matches!(fault.status, 404 | 410 | 499) => Err(fault.into()),
        _ => Ok(()),
    }
}

struct Upload<'a> {
    bucket: &'a GcsBucket,
    object: &'a str,
    source: &'a Source,
    sums: Sums,
    /// CRC-32C of each chunk.
    chunks: Vec<u32>,
    journal: &'a dyn Journal,
    stop: &'a Stop,
}

impl Upload<'_> {
    fn chunk_bytes(&self) -> u64 {
        self.bucket.chunk_bytes
    }

    /// The session of an earlier attempt, and how far it is. One of another content is ended.
    fn known(&self) -> Result<Option<(String, Progress)>> {
        let Some(parts) = self.journal.parts().filter(|parts| is_address(&parts.upload_id)) else {
            return Ok(None);
        };
        let is_same_part = |(part, crc32c): (&Part, &u32)| part.md5 == base64_of(*crc32c);
        // The configuration may name another bucket by now.
        let is_ours = parts.upload_id.contains(&format!("/b/{}/o?", self.bucket.name));
        let is_same = is_ours
            && (parts.size_bytes, parts.part_bytes) == (self.sums.size_bytes, self.chunk_bytes())
            && parts.sent.len() <= self.chunks.len()
            && parts.sent.iter().zip(&self.chunks).all(is_same_part);
        if !is_same {
            // It ends by itself after a week.
            if let Err(err) = abandon(self.bucket, self.object, &parts, self.stop) {
                log::debug!(bucket = self.bucket.name.as_str(), object = self.object, err = err.to_string();
                    "cannot end the upload of a file that has changed");
            }
            self.journal.record(None)?;
            return Ok(None);
        }
        let progress = self.ask(&parts.upload_id)?;
        Ok(Some((parts.upload_id, progress)))
    }

    /// Begins a session. The store is told the sum that the object must have.
    fn begin(&self) -> Result<String> {
        let metadata = format!(r#"{{"contentType":"{CONTENT_TYPE}","crc32c":"{}"}}"#, base64_of(self.sums.crc32c));
        let request = Request::new("objects.insert", Method::Post, Place::Upload(self.object), Expected::Location)
            .with("uploadType", "resumable")
            .with("fields", FIELDS)
            .with_header("content-type", "application/json; charset=UTF-8")
            .with_header("x-upload-content-type", CONTENT_TYPE)
            .with_header("x-upload-content-length", self.sums.size_bytes.to_string())
            .with_body(Body::Bytes(metadata.as_bytes()));
        let answer = self.bucket.client.send(&request, self.stop)?;
        // Only the path counts: whatever the answer says, tokens go to the configured server.
        let url = Url::parse(answer.header("location")).ok();
        let address = url.map(|url| format!("{}?{}", url.path(), url.query().unwrap_or_default()));
        let Some(address) = address.filter(|address| is_address(address)) else {
            let text = format!("objects.insert {}/{}: the answer has no address", self.bucket.name, self.object);
            return Err(Error::new(Kind::Retry, text).classed("server"));
        };
        self.record(&address, 0)?;
        Ok(address)
    }

    /// Records the session, with the chunks that the store has whole.
    fn record(&self, address: &str, offset: u64) -> Result<()> {
        let n_sent = match offset >= self.sums.size_bytes {
            true => self.chunks.len(),
            false => usize::try_from(offset / self.chunk_bytes()).unwrap_or(usize::MAX),
        };
        let part = |crc32c: &u32| Part { tag: String::new(), md5: base64_of(*crc32c) };
        self.journal.record(Some(&Parts {
            upload_id: address.to_owned(),
            part_bytes: self.chunk_bytes(),
            size_bytes: self.sums.size_bytes,
            sent: self.chunks.iter().take(n_sent).map(part).collect(),
        }))
    }

    /// Sends what the store does not have. Never returns [`Progress::At`].
    fn send_all(&self, address: &str, start: u64) -> Result<Progress> {
        // Only an offset that was never reached before is progress.
        let (mut offset, mut furthest, mut n_failed) = (start, start, 0);
        loop {
            let failed = match self.step(address, offset)? {
                ControlFlow::Break(progress) => return Ok(progress),
                ControlFlow::Continue((next, failed)) => {
                    offset = next;
                    failed
                }
            };
            if offset > furthest {
                (furthest, n_failed) = (offset, 0);
                self.record(address, offset)?;
            } else {
                n_failed += 1;
                if n_failed >= self.bucket.client.attempts_max() {
                    let text = format!("upload {}: the store takes no more bytes", self.object);
                    return Err(failed.unwrap_or_else(|| Error::new(Kind::Retry, text).classed("server")));
                }
                self.bucket.client.wait(n_failed, self.stop)?;
            }
        }
    }

    /// Sends a chunk from `offset` on; returns where to go on, and what went wrong.
    fn step(&self, address: &str, offset: u64) -> Result<ControlFlow<Progress, (u64, Option<Error>)>> {
        let failed = match self.put(address, offset) {
            Ok(answer) => match self.read(&answer) {
                Ok(Progress::At(next)) => return Ok(ControlFlow::Continue((next, None))),
                Ok(end) => return Ok(ControlFlow::Break(end)),
                Err(err) => err,
            },
            Err(fault) if is_over(&fault) => return Ok(ControlFlow::Break(Progress::Gone(fault))),
            Err(fault) if fault.error.kind() == Kind::Retry => fault.error,
            Err(fault) => return self.refused(fault).map(ControlFlow::Break),
        };
        match self.ask(address)? {
            Progress::At(next) => Ok(ControlFlow::Continue((next, Some(failed)))),
            end => Ok(ControlFlow::Break(end)),
        }
    }

    /// A right that is missing to replace an object does not matter if it is there as it should be.
    fn refused(&self, fault: Fault) -> Result<Progress> {
        match self.already_there() {
            Ok(Some(made)) if fault.error.class() == "denied" => Ok(Progress::Made(made)),
            _ => Err(fault.into()),
        }
    }

    /// Sends from `offset` to the end of the chunk that it lies in; at the end of the file nothing.
    fn put(&self, address: &str, offset: u64) -> Result<Answer, Fault> {
        let size_bytes = self.sums.size_bytes;
        if offset >= size_bytes {
            return self.bucket.client.send_once(&self.question(address), self.stop);
        }
        let end = size_bytes.min((offset / self.chunk_bytes() + 1).saturating_mul(self.chunk_bytes()));
        let mut request =
            Request::new("objects.insert", Method::Put, Place::Session(address, self.object), Expected::Progress)
                .with_header("content-range", format!("bytes {offset}-{}/{size_bytes}", end - 1))
                .with_body(Body::File { source: self.source, range: (offset, end), is_hashed: false });
        if end == size_bytes {
            request = request.with_header("x-goog-hash", self.sums.header());
        }
        self.bucket.client.send_once(&request, self.stop)
    }

    /// The question how far a session is.
    fn question<'a>(&'a self, address: &'a str) -> Request<'a> {
        Request::new("objects.insert (resume)", Method::Put, Place::Session(address, self.object), Expected::Progress)
            .with_header("content-range", format!("bytes */{}", self.sums.size_bytes))
            .with_body(Body::Bytes(b""))
    }

    fn ask(&self, address: &str) -> Result<Progress> {
        if let Some(offset) = self.ask_emulator(address)? {
            return Ok(Progress::At(offset));
        }
        match self.bucket.client.send(&self.question(address), self.stop) {
            Ok(answer) => self.read(&answer),
            Err(fault) if is_over(&fault) => Ok(Progress::Gone(fault)),
            Err(fault) if fault.error.kind() == Kind::Retry => Err(fault.into()),
            Err(fault) => self.refused(fault),
        }
    }

    /// fake-gcs-server takes the question for the end of the upload, and bytes that it has already for new ones. It answers
    /// an empty chunk with the sum of what it has. `None`: it is another server, which understands the question.
    fn ask_emulator(&self, address: &str) -> Result<Option<u64>> {
        if !self.bucket.client.is_emulator() {
            return Ok(None);
        }
        let request = Request { headers: Vec::new(), ..self.question(address) }
            .with_header("content-range", format!("bytes 0-0/{}", self.sums.size_bytes));
        let answer = match self.bucket.client.send(&request, self.stop) {
            Err(fault) if fault.error.kind() == Kind::Stopped => return Err(fault.into()),
            Err(_) => return Ok(None),
            Ok(answer) => answer,
        };
        let said = json::object(&answer.body).ok().and_then(|object| object.crc32c);
        let (mut offset, mut crc32c) = (0, 0);
        for chunk in &self.chunks {
            if said == Some(crc32c) {
                return Ok(Some(offset));
            }
            let length = self.chunk_bytes().min(self.sums.size_bytes - offset);
            crc32c = crc32c_combine(crc32c, *chunk, usize::try_from(length).unwrap_or(usize::MAX));
            offset += length;
        }
        Ok(None)
    }

    /// What the answer to a chunk or to the question says.
    fn read(&self, answer: &Answer) -> Result<Progress> {
        if answer.status != 308 {
            return json::object(&answer.body).map(Progress::Made);
        }
        let range = answer.header("range");
        if range.is_empty() {
            return Ok(Progress::At(0));
        }
        let last = range.strip_prefix("bytes=0-").and_then(|last| last.parse::<u64>().ok());
        match last.map(|last| last.saturating_add(1)).filter(|next| *next <= self.sums.size_bytes) {
            Some(next) => Ok(Progress::At(next)),
            None => {
                let text = format!("upload {}: the store has a range that was not sent", self.object);
                Err(Error::new(Kind::Retry, text).classed("server"))
            }
        }
    }

    /// The object, if it is there with the content of the file.
    fn already_there(&self) -> Result<Option<Object>> {
        match self.bucket.head(self.object, self.stop) {
            Ok(object) => {
                let is_same = object.crc32c.is_some() && self.sums.difference(&object).is_none();
                Ok(Some(object).filter(|_| is_same))
            }
            Err(fault) if fault.error.kind() == Kind::NotFound => Ok(None),
            Err(fault) => Err(fault.into()),
        }
    }

    fn done(&self, made: &Object, resumed_bytes: u64) -> Result<Stored> {
        self.journal.record(None)?;
        Ok(Stored { attributes: super::attributes(made), resumed_bytes })
    }

    fn integrity_error(&self, text: &str) -> Error {
        let request = Request::new("objects.insert", Method::Put, Place::Upload(self.object), Expected::Progress);
        self.bucket.client.integrity_error(&request, text)
    }
}

/// Whether a text is the address of a session: a path and a query, to be asked of the configured server.
fn is_address(text: &str) -> bool {
    text.starts_with('/') && text.contains("upload_id=")
}

/// Whether a session has come to its end without an object.
fn is_over(fault: &Fault) -> bool {
    matches!(fault.status, 404 | 410) && fault.error.class() != "no_bucket" || fault.error.class() == "integrity"
}
