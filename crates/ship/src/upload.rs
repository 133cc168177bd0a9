//! Uploads one claimed block: chunk files, then the index, and meta.json last. A block exists for readers of the bucket
//! once its meta.json is there. So meta.json is written only after the bucket has shown all other objects, and the
//! block counts as shipped only after the bucket has shown meta.json too.
//!
//! What an earlier attempt has sent is not sent again, but the bucket is asked for it like for everything else. An
//! object that is missing or has changed is sent once more. Never deletes an object.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use sha2::{Digest, Sha256};

use crate::LOG_TARGET;
use crate::claim::Claim;
use crate::limits;
use crate::meta::{BlockFile, Meta};
use crate::remote;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Disk;
use pillion_base::stop::Stop;
use pillion_bucket::Bucket;

/// Called before every object; returns once it may be sent. `Errors:` `Stopped`.
pub type UploadGate = Arc<dyn Fn(&Stop) -> Result<()> + Send + Sync>;

/// How blocks are uploaded.
pub(crate) struct Uploader<'a> {
    /// Where files are read.
    pub(crate) disk: &'a Disk,
    /// Where they go.
    pub(crate) bucket: &'a dyn Bucket,
    /// Chunk files that are uploaded at once.
    pub(crate) concurrency: usize,
    /// Whether meta.json states the SHA-256 of each file.
    pub(crate) sha256: bool,
    /// Makes an object wait until it may be sent.
    pub(crate) gate: Option<&'a UploadGate>,
}

/// What the bucket holds of a block whose meta.json was there before this attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExistingBlock {
    /// The whole block.
    Whole,
    /// The whole block, now that what was missing or short has been sent.
    Repaired,
    /// A meta.json that cannot be believed: the block is uploaded as if there were none.
    Unusable,
}

impl Uploader<'_> {
    /// Waits until the gate lets an object through.
    pub(crate) fn wait(&self, stop: &Stop) -> Result<()> {
        stop.check()?;
        self.gate.map_or(Ok(()), |gate| gate(stop))
    }

    /// Uploads a block whose labels are pinned. Returns the bytes that did not have to be sent again; `None` if the block is
    /// not what it was, as `is_unchanged` says before meta.json goes up.
    ///
    /// `Errors:` of class `unreadable` when the disk cannot read a file of the claim. What was uploaded stays in the bucket: without
    /// meta.json it is no block, and the next attempt goes on from there.
    pub(crate) fn upload(
        &self,
        claim: &Claim,
        is_unchanged: &dyn Fn() -> Result<bool>,
        stop: &Stop,
    ) -> Result<Option<u64>> {
        let mut files = self.gather(claim, stop)?;
        let resumed_bytes = self.complete(claim, &files, stop)?;
        if !is_unchanged()? {
            return Ok(None);
        }
        files.push(BlockFile { rel_path: "meta.json".to_owned(), size_bytes: None, sha256: None });
        let mut meta = claim.meta.clone();
        meta.uploaded(&files, &jiff::Timestamp::now().to_string());
        self.commit(&meta, stop)?;
        Ok(Some(resumed_bytes))
    }

    /// Checks a block whose meta.json is in the bucket, and sends what is missing.
    pub(crate) fn check_existing(&self, claim: &Claim, stop: &Stop) -> Result<ExistingBlock> {
        let ulid = claim.meta.ulid;
        let read = self.bucket.get(&object(claim, "meta.json"), stop);
        let stored = match read.and_then(|bytes| Meta::parse(&bytes)) {
            Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Corrupt | Kind::Limit) => {
                log::warn!(target: LOG_TARGET, block = ulid.as_str(), err = err.to_string();
                    "the bucket has a meta.json of the block that cannot be read; it is uploaded again");
                return Ok(ExistingBlock::Unusable);
            }
            other => other.context(|| "read meta file in the bucket")?,
        };
        let files = self.sizes(claim)?;
        let sizes: BTreeMap<String, u64> =
            files.iter().filter_map(|file| Some((file.rel_path.clone(), file.size_bytes?))).collect();
        let stated = stored.stated_sizes();
        if stored.ulid != ulid || (!stated.is_empty() && stated != sizes) {
            log::warn!(target: LOG_TARGET, block = ulid.as_str();
                "the bucket has a meta.json of the block that tells of other files; it is uploaded again");
            return Ok(ExistingBlock::Unusable);
        }
        let wrong = self.wrong(claim, &files, stop)?;
        if wrong.is_empty() {
            return Ok(ExistingBlock::Whole);
        }
        // A block that the compactor removes is no loss: its samples are in another block by now.
        let mark = object(claim, "deletion-mark.json");
        if self.bucket.exists(&mark, stop).map_err(remote::bucket_fault).context(|| "check deletion mark")? {
            log::info!(target: LOG_TARGET, block = ulid.as_str(); "the bucket is removing the block, which was there before");
            return Ok(ExistingBlock::Whole);
        }
        log::warn!(target: LOG_TARGET, block = ulid.as_str(), wrong = texts(&wrong).as_str();
            "the bucket has the block's meta.json, but not the whole block; what is missing is sent");
        // What the bucket has right need not be sent.
        for name in sizes.keys().filter(|name| !wrong.iter().any(|wrong| wrong.name == **name)) {
            let stored = self.bucket.attributes(&object(claim, name), stop).map_err(remote::bucket_fault)?;
            claim.record.set_done(name, stored);
        }
        self.complete(claim, &files, stop)?;
        Ok(ExistingBlock::Repaired)
    }

    /// Sends the files until the bucket shows all of them. Returns the bytes that an earlier attempt had sent.
    pub(crate) fn complete(&self, claim: &Claim, files: &[BlockFile], stop: &Stop) -> Result<u64> {
        let resumed_bytes = AtomicU64::new(0);
        for file in files.iter().filter(|file| claim.record.done(&file.rel_path).is_some()) {
            resumed_bytes.fetch_add(file.size_bytes.unwrap_or_default(), Ordering::Relaxed);
        }
        let (index, chunks): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.rel_path == "index");
        let mut wrong = Vec::new();
        for round in 0..limits::COMMIT_ROUNDS {
            if round > 0 {
                log::warn!(target: LOG_TARGET, block = claim.meta.ulid.as_str(), wrong = texts(&wrong).as_str();
                    "objects are not in the bucket as they were sent; they are sent again");
            }
            self.upload_all(claim, &chunks, &resumed_bytes, stop).context(|| "upload chunks")?;
            self.upload_all(claim, &index, &resumed_bytes, stop).context(|| "upload index")?;
            wrong = self.wrong(claim, files, stop)?;
            if wrong.is_empty() {
                return Ok(resumed_bytes.into_inner());
            }
        }
        Err(lost(&texts(&wrong)))
    }

    /// Writes the final meta.json and checks that the bucket has it.
    pub(crate) fn commit(&self, meta: &Meta, stop: &Stop) -> Result<()> {
        let (object, bytes) = (format!("{}/meta.json", meta.ulid), meta.write()?);
        let mut why = String::new();
        for _ in 0..limits::COMMIT_ROUNDS {
            self.wait(stop)?;
            self.bucket
                .upload_bytes(&object, &bytes, stop)
                .map_err(remote::bucket_fault)
                .context(|| "upload meta file")?;
            why = match self.bucket.attributes(&object, stop) {
                Ok(stored) if stored.size_bytes == bytes.len() as u64 => return Ok(()),
                Ok(stored) => format!("meta.json has {} bytes, not {}", stored.size_bytes, bytes.len()),
                Err(err) if err.kind() == Kind::NotFound => "meta.json is missing".to_owned(),
                Err(err) => return Err(remote::bucket_fault(err).context("check meta file")),
            };
        }
        Err(lost(&why).context("upload meta file"))
    }

    /// The files of a claim with their sizes, and with their hashes if `sha256` is set.
    pub(crate) fn gather(&self, claim: &Claim, stop: &Stop) -> Result<Vec<BlockFile>> {
        let mut files = self.sizes(claim)?;
        for file in files.iter_mut().filter(|_| self.sha256) {
            let hash = match claim.record.sha256(&file.rel_path) {
                Some(hash) => hash,
                None => {
                    let hash = self.hash(claim, &file.rel_path, stop).context(|| "calculate hash")?;
                    claim.record.set_sha256(&file.rel_path, hash.clone());
                    hash
                }
            };
            file.sha256 = Some(hash);
        }
        Ok(files)
    }

    fn sizes(&self, claim: &Claim) -> Result<Vec<BlockFile>> {
        let size = |rel_path: String| {
            let size_bytes = Some(claim.open(self.disk, &rel_path).context(|| "gather files")?.size_bytes());
            Ok(BlockFile { rel_path, size_bytes, sha256: None })
        };
        claim.names().map(size).collect()
    }

    fn hash(&self, claim: &Claim, name: &str, stop: &Stop) -> Result<String> {
        let source = claim.open(self.disk, name)?;
        let mut hasher = Sha256::new();
        source.for_each(0..source.size_bytes(), |buffer| {
            hasher.update(buffer);
            stop.check()
        })?;
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The objects that the bucket does not hold as it should; the record forgets them.
    fn wrong(&self, claim: &Claim, files: &[BlockFile], stop: &Stop) -> Result<Vec<Wrong>> {
        let mut wrong = Vec::new();
        for file in files {
            let (name, size) = (&file.rel_path, file.size_bytes.unwrap_or_default());
            let sent = claim.record.done(name);
            let text = match self.bucket.attributes(&object(claim, name), stop) {
                Ok(stored) if stored.size_bytes != size => {
                    format!("{name} has {} bytes, not {size}", stored.size_bytes)
                }
                Ok(stored) if sent.as_ref().is_some_and(|sent| sent.tag != stored.tag) => {
                    format!("{name} is not what was sent")
                }
                Ok(_) => continue,
                Err(err) if err.kind() == Kind::NotFound => format!("{name} is missing"),
                Err(err) => return Err(remote::bucket_fault(err).context(format!("check {name} in the bucket"))),
            };
            if sent.is_some() {
                claim.record.forget(name);
            }
            wrong.push(Wrong { name: name.clone(), text });
        }
        Ok(wrong)
    }

    fn upload_one(&self, claim: &Claim, file: &BlockFile, resumed_bytes: &AtomicU64, stop: &Stop) -> Result<()> {
        let name = &file.rel_path;
        if claim.record.done(name).is_some() {
            return Ok(());
        }
        self.wait(stop)?;
        let source = claim.open(self.disk, name)?;
        let (size, expected) = (source.size_bytes(), file.size_bytes.unwrap_or_default());
        if size != expected {
            let text =
                format!("{} changed while it was uploaded: {size} bytes, not {expected}", source.path().display());
            return Err(Error::new(Kind::Retry, text));
        }
        let stored = self
            .bucket
            .upload(&object(claim, name), &source, &claim.record.journal(name), stop)
            .context(|| format!("upload file {}", source.path().display()))?;
        resumed_bytes.fetch_add(stored.resumed_bytes, Ordering::Relaxed);
        // An object that arrived otherwise is found when the bucket is asked for it.
        if stored.attributes.size_bytes == size {
            claim.record.set_done(name, stored.attributes);
        }
        Ok(())
    }

    /// Uploads files in order, several at once. After an error no further file is begun; of several errors, the one of
    /// the first file is returned.
    fn upload_all(&self, claim: &Claim, files: &[&BlockFile], resumed_bytes: &AtomicU64, stop: &Stop) -> Result<()> {
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        let work = || {
            loop {
                let idx = next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = files.get(idx) else { return };
                if let Err(err) = self.upload_one(claim, file, resumed_bytes, stop) {
                    next.store(files.len(), Ordering::Relaxed);
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    if failed.as_ref().is_none_or(|(first, _)| idx < *first) {
                        *failed = Some((idx, err));
                    }
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            // This thread works too, so it is enough alone when helpers cannot be started.
            for helper_idx in 1..self.concurrency.min(files.len()) {
                if let Err(err) = spawn(scope, helper_idx, &work) {
                    log::warn!(target: LOG_TARGET, err = err.to_string(); "uploading with fewer threads");
                    break;
                }
            }
            work();
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |(_, err)| Err(err))
    }
}

fn object(claim: &Claim, name: &str) -> String {
    format!("{}/{name}", claim.meta.ulid)
}

/// An object that is not in the bucket as it should be.
struct Wrong {
    name: String,
    text: String,
}

fn texts(wrong: &[Wrong]) -> String {
    wrong.iter().map(|wrong| wrong.text.as_str()).collect::<Vec<_>>().join(", ")
}

fn lost(why: &str) -> Error {
    let n_rounds = limits::COMMIT_ROUNDS;
    Error::new(Kind::Retry, format!("sent {n_rounds} times, and the bucket does not hold what was sent: {why}"))
        .classed("integrity")
}

fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    helper_idx: usize,
    work: &'scope (impl Fn() + Sync),
) -> std::io::Result<()> {
    std::thread::Builder::new().name(format!("ship-up-{helper_idx}")).spawn_scoped(scope, work).map(drop)
}
