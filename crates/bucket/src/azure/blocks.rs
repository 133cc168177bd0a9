//! The upload in blocks: one after another, straight from the file, then the list that makes a blob of them.
//!
//! A block's id says what is in it: the MD5 of its content, and its number. So Azure's own list of blocks that are in no
//! blob yet tells what an earlier attempt has sent, whatever the journal says, and a block of another content is never
//! taken for ours. What nobody goes on with Azure removes after a week; no request can do it without writing a blob.

use std::collections::BTreeMap;
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crossbeam_channel::{Receiver, Sender, bounded};
use md5::{Digest, Md5};
use rusty_s3::Method;

use super::client::Request;
use super::fault::Fault;
use super::{AzureBucket, CONTENT_TYPE, Hash, hex, xml};
use crate::limits;
use crate::rest::Body;
use crate::{Attributes, Journal, Part, Parts, Stored};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

/// What the journal has for an id: Azure gives none.
const UPLOAD_ID: &str = "blocks";
/// How often one call sends what the store has not kept.
const ROUNDS_MAX: u32 = 2;

/// The size of blocks for a file, at least `wanted`; `None` if it goes in one piece.
///
/// `Errors:` for a file that is larger than any blob.
pub(super) fn block_bytes(size_bytes: u64, wanted: u64) -> Result<Option<u64>> {
    if size_bytes <= wanted {
        return Ok(None);
    }
    let least = size_bytes.div_ceil(limits::AZURE_BLOCKS_MAX);
    match wanted.max(least) {
        bytes if bytes <= limits::AZURE_BLOCK_BYTES_MAX => Ok(Some(bytes)),
        _ => Err(Error::new(Kind::Permanent, format!("{size_bytes} bytes are more than a blob of Azure can hold"))),
    }
}

/// Stores a file in blocks, or goes on with what an earlier attempt has sent.
pub(super) fn upload(
    bucket: &AzureBucket,
    object: &str,
    source: &Source,
    block_bytes: u64,
    journal: &dyn Journal,
    stop: &Stop,
) -> Result<Stored> {
    let upload = Upload { bucket, object, source, block_bytes, journal, stop };
    if let Some(attributes) = upload.already_there()? {
        journal.record(None)?;
        let resumed_bytes = attributes.size_bytes;
        return Ok(Stored { attributes, resumed_bytes });
    }
    let mut resumed_bytes = None;
    for _ in 0..ROUNDS_MAX {
        let sent = upload.send_missing()?;
        let resumed_bytes = *resumed_bytes.get_or_insert(sent.kept_bytes);
        match upload.commit(&sent) {
            Ok(()) => {
                let attributes = upload.check(&sent.whole)?;
                journal.record(None)?;
                return Ok(Stored { attributes, resumed_bytes });
            }
            Err(fault) if fault.code == "InvalidBlockList" => {
                log::info!(bucket = bucket.name.as_str(), object = object;
                    "the object store has forgotten blocks; sending them again");
            }
            Err(fault) => return Err(fault.into()),
        }
    }
    let text = format!("upload {object}: the store has forgotten blocks {ROUNDS_MAX} times");
    Err(Error::new(Kind::Retry, text).classed("server"))
}

/// The id of a block. All have one length, as Azure demands.
fn block_id(number: u64, hash: &Hash) -> String {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    BASE64_STANDARD.encode([hash.as_slice(), &number.to_be_bytes()].concat())
}

/// All blocks as the store has them.
struct SentBlocks {
    ids: Vec<String>,
    /// MD5 of the file.
    whole: Hash,
    /// Bytes that were there already.
    kept_bytes: u64,
}

struct Upload<'a> {
    bucket: &'a AzureBucket,
    object: &'a str,
    source: &'a Source,
    block_bytes: u64,
    journal: &'a dyn Journal,
    stop: &'a Stop,
}

impl Upload<'_> {
    fn n_blocks(&self) -> u64 {
        self.source.size_bytes().div_ceil(self.block_bytes)
    }

    fn range(&self, idx: u64) -> (u64, u64) {
        let start = idx * self.block_bytes;
        (start, self.source.size_bytes().min(start.saturating_add(self.block_bytes)))
    }

    /// Whether an earlier attempt made the blob, and only its journal did not record it.
    fn already_there(&self) -> Result<Option<Attributes>> {
        let is_all = |parts: &Parts| {
            (parts.size_bytes, parts.part_bytes) == (self.source.size_bytes(), self.block_bytes)
                && parts.sent.len() as u64 == self.n_blocks()
        };
        if !self.journal.parts().as_ref().is_some_and(is_all) {
            return Ok(None);
        }
        let attributes = match self.bucket.head(self.object, self.stop) {
            Err(fault) if fault.error.kind() == Kind::NotFound => return Ok(None),
            other => other?,
        };
        // Without its MD5, or with another, the blob is made anew.
        if attributes.size_bytes != self.source.size_bytes() || attributes.tag.len() != 2 * size_of::<Hash>() {
            return Ok(None);
        }
        let whole = super::hash(self.source, self.stop)?;
        Ok(Some(attributes).filter(|attributes| attributes.tag == hex(&whole)))
    }

    /// Blocks that are in no blob yet: their sizes by their ids.
    fn uncommitted(&self) -> Result<BTreeMap<String, u64>> {
        let request = Request::new("Get Block List", 'r', Method::Get, Some(self.object))
            .with("comp", "blocklist")
            .with("blocklisttype", "uncommitted");
        match self.bucket.client.send(&request, self.stop) {
            Ok(answer) => {
                let blocks = xml::uncommitted(&answer.body).context(|| format!("list blocks of {}", self.object))?;
                Ok(blocks.into_iter().collect())
            }
            // Neither a blob nor a block of this name.
            Err(fault) if fault.error.kind() == Kind::NotFound => Ok(BTreeMap::new()),
            // Without the right to read everything is sent again.
            Err(fault) if fault.error.class() == "denied" => {
                log::debug!(bucket = self.bucket.name.as_str(), object = self.object, err = fault.error.to_string();
                    "cannot list the blocks of an earlier attempt");
                Ok(BTreeMap::new())
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// Sends the blocks that the store does not have.
    fn send_missing(&self) -> Result<SentBlocks> {
        let there = self.uncommitted()?;
        let mut parts = Parts {
            upload_id: UPLOAD_ID.into(),
            part_bytes: self.block_bytes,
            size_bytes: self.source.size_bytes(),
            sent: Vec::new(),
        };
        self.journal.record(Some(&parts))?;
        // A block's MD5 goes before its body, so that of the next one is computed while this one is sent.
        let (made, hashes) = bounded(1);
        let (kept_bytes, whole) = thread::scope(|scope| {
            // It must not outlive this call, which is why it is not started as others are.
            let builder = thread::Builder::new().name("ship-md5".into()).stack_size(limits::SMALL_STACK_BYTES);
            let helper = builder
                .spawn_scoped(scope, move || self.hash_all(&made))
                .map_err(|err| Error::io(&err).context("start a thread for checksums"))?;
            let sent = self.send_all(&hashes, &there, &mut parts);
            // The helper ends at once if nobody takes its hashes.
            drop(hashes);
            let whole =
                helper.join().unwrap_or_else(|_| Err(Error::new(Kind::Retry, "the thread for checksums ended")));
            // What went wrong with sending is the cause, unless the file could not be read.
            match (sent, whole) {
                (Ok(kept_bytes), Ok(whole)) => Ok((kept_bytes, whole)),
                (Err(err), Ok(_)) => Err(err),
                (Err(err), Err(read)) if read.kind() == Kind::Stopped || err.kind() == Kind::Stopped => Err(err),
                (_, Err(read)) => Err(read),
            }
        })?;
        let ids = parts.sent.into_iter().map(|part| part.tag).collect();
        Ok(SentBlocks { ids, whole, kept_bytes })
    }

    /// The MD5 of each block to `made`, and in the end that of the file.
    fn hash_all(&self, made: &Sender<Hash>) -> Result<Hash> {
        let mut whole = Md5::new();
        for idx in 0..self.n_blocks() {
            let (start, end) = self.range(idx);
            let mut block = Md5::new();
            self.source.for_each(start..end, |buffer| {
                self.stop.check()?;
                block.update(buffer);
                whole.update(buffer);
                Ok(())
            })?;
            if made.send(block.finalize().into()).is_err() {
                return Err(Error::new(Kind::Stopped, "nobody waits for checksums"));
            }
        }
        Ok(whole.finalize().into())
    }

    /// Returns the bytes that were there already.
    fn send_all(&self, hashes: &Receiver<Hash>, there: &BTreeMap<String, u64>, parts: &mut Parts) -> Result<u64> {
        let (mut kept_bytes, mut has_cleared) = (0, false);
        for idx in 0..self.n_blocks() {
            let (start, end) = self.range(idx);
            let hash = hashes.recv().map_err(|_| Error::new(Kind::Stopped, "there are no more checksums"))?;
            let id = block_id(idx, &hash);
            let is_there = !has_cleared && there.get(&id) == Some(&(end - start));
            parts.sent.push(Part { tag: id.clone(), md5: hex(&hash) });
            if is_there {
                kept_bytes += end - start;
                continue;
            }
            match self.send(&id, &hash, (start, end)) {
                // Blocks of another program, whose ids have another length: no others can join them.
                Err(fault) if fault.code == "InvalidBlobOrBlock" && idx == 0 && !has_cleared => {
                    self.clear()?;
                    has_cleared = true;
                    self.send(&id, &hash, (start, end))?;
                }
                other => other?,
            }
            self.journal.record(Some(parts))?;
        }
        self.journal.record(Some(parts))?;
        Ok(kept_bytes)
    }

    fn send(&self, id: &str, hash: &Hash, range: (u64, u64)) -> Result<(), Fault> {
        let request = Request::new("Put Block", 'w', Method::Put, Some(self.object))
            .with("comp", "block")
            .with("blockid", id)
            .with_header("content-md5", BASE64_STANDARD.encode(hash))
            .with_body(Body::File { source: self.source, range, is_hashed: false });
        let answer = self.bucket.client.send(&request, self.stop)?;
        Ok(self.bucket.check_said(&request, &answer, hash)?)
    }

    /// Discards the blocks of another program, by a blob without any. It is replaced in this call.
    fn clear(&self) -> Result<(), Fault> {
        log::info!(bucket = self.bucket.name.as_str(), object = self.object;
            "the object store has blocks of another program under this name; discarding them");
        self.put_list("", &Md5::digest(b"").into())
    }

    fn commit(&self, sent: &SentBlocks) -> Result<(), Fault> {
        self.put_list(&sent.ids.join(" "), &sent.whole)
    }

    fn put_list(&self, ids: &str, whole: &Hash) -> Result<(), Fault> {
        let list = xml::block_list(ids.split_ascii_whitespace());
        let request = Request::new("Put Block List", 'w', Method::Put, Some(self.object))
            .with("comp", "blocklist")
            .with_header("content-md5", BASE64_STANDARD.encode(Md5::digest(list.as_bytes())))
            .with_header("content-type", "text/plain; charset=UTF-8")
            .with_header("x-ms-blob-content-type", CONTENT_TYPE)
            .with_header("x-ms-blob-content-md5", BASE64_STANDARD.encode(whole))
            .with_body(Body::Bytes(list.as_bytes()));
        self.bucket.client.send(&request, self.stop).map(drop)
    }

    /// Checks that the store has what was sent.
    fn check(&self, whole: &Hash) -> Result<Attributes> {
        let request = Request::new("Put Block List", 'w', Method::Put, Some(self.object));
        let wrong = |text: &str| Err(self.bucket.client.integrity_error(&request, text));
        let attributes = match self.bucket.head(self.object, self.stop) {
            Err(fault) if fault.error.kind() == Kind::NotFound => {
                return wrong("the store has acknowledged a blob and has none");
            }
            other => other?,
        };
        let size_bytes = self.source.size_bytes();
        if attributes.size_bytes != size_bytes {
            return wrong(&format!("{size_bytes} bytes were sent and the store has {}", attributes.size_bytes));
        }
        if attributes.tag != hex(whole) {
            return wrong("the store has another MD5 than that of the file: somebody else writes under this name");
        }
        Ok(attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_large_as_they_must_be() {
        const MIB: u64 = 1024 * 1024;
        assert_eq!(block_bytes(16 * MIB, 16 * MIB).unwrap(), None);
        assert_eq!(block_bytes(16 * MIB + 1, 16 * MIB).unwrap(), Some(16 * MIB));
        let many = limits::AZURE_BLOCKS_MAX * 16 * MIB;
        assert_eq!(block_bytes(many, 16 * MIB).unwrap(), Some(16 * MIB));
        assert_eq!(block_bytes(many + 1, 16 * MIB).unwrap(), Some(16 * MIB + 1));
        let err = block_bytes(limits::AZURE_BLOCKS_MAX * limits::AZURE_BLOCK_BYTES_MAX + 1, 16 * MIB).unwrap_err();
        assert_eq!(err.kind(), Kind::Permanent);
    }

    #[test]
    fn ids_have_one_length_and_tell_content_and_place() {
        let ids = [block_id(0, &[0; 16]), block_id(1, &[0; 16]), block_id(0, &[1; 16]), block_id(49_999, &[255; 16])];
        assert!(ids.iter().all(|id| id.len() == 28), "{ids:?}");
        let different: std::collections::BTreeSet<&String> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
    }
}
