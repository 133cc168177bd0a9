//! Uploads one staged block: chunk files, then the index, and meta.json last. Its meta.json is what makes a block
//! exist for everybody who reads the bucket, so it is written only when all else is there.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;

use sha2::{Digest, Sha256};

use super::meta::{BlockFile, Meta};
use crate::error::{Context, Error, Kind, Result};
use crate::files::Disk;
use crate::objstore::{Bucket, NoJournal};
use crate::supervisor::Stop;

/// How blocks are uploaded.
pub struct Uploader<'a> {
    /// Where the staged files are read.
    pub disk: &'a Disk,
    /// Where they go.
    pub bucket: &'a dyn Bucket,
    /// Chunk files that are uploaded at once.
    pub concurrency: usize,
    /// Whether meta.json states the SHA-256 of each file.
    pub sha256: bool,
}

impl Uploader<'_> {
    /// Uploads the block staged in `dir`. `meta` has its Thanos section already; files and time are added.
    ///
    /// `Errors:` `Corrupt` when a staged file cannot be read. What was uploaded stays in the bucket: without meta.json
    /// it is no block, and the next attempt replaces it.
    pub fn upload(&self, dir: &Path, chunks: &[String], meta: &mut Meta, stop: &Stop) -> Result<()> {
        let mut files = Vec::with_capacity(chunks.len() + 2);
        for name in chunks {
            files.push(self.gather(dir, format!("chunks/{name}"), stop)?);
        }
        let index = self.gather(dir, "index".to_owned(), stop)?;
        let ulid = meta.ulid;
        let block = ulid.as_str();
        self.upload_all(block, dir, &files, stop).context(|| "upload chunks")?;
        self.upload_one(block, dir, &index, stop).context(|| "upload index")?;
        files.push(index);
        files.push(BlockFile { rel_path: "meta.json".to_owned(), size_bytes: None, sha256: None });
        meta.uploaded(&files, &jiff::Timestamp::now().to_string());
        stop.check()?;
        self.bucket.upload_bytes(&format!("{block}/meta.json"), &meta.write()?, stop).context(|| "upload meta file")
    }

    /// Size of a file, and its hash if asked for.
    fn gather(&self, dir: &Path, rel_path: String, stop: &Stop) -> Result<BlockFile> {
        let path = dir.join(&rel_path);
        let size_bytes = Some(self.disk.stat(&path).context(|| "gather files")?.len());
        let sha256 = self.sha256.then(|| self.hash(&path, stop)).transpose().context(|| "calculate hash")?;
        Ok(BlockFile { rel_path, size_bytes, sha256 })
    }

    fn hash(&self, path: &Path, stop: &Stop) -> Result<String> {
        let mut hasher = Sha256::new();
        self.disk.open(path)?.for_each(|buffer| {
            hasher.update(buffer);
            stop.check()
        })?;
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn upload_one(&self, block: &str, dir: &Path, file: &BlockFile, stop: &Stop) -> Result<()> {
        stop.check()?;
        let path = dir.join(&file.rel_path);
        let source = self.disk.open_source(&path)?;
        let sent = self
            .bucket
            .upload(&format!("{block}/{}", file.rel_path), &source, &NoJournal, stop)
            .context(|| format!("upload file {}", path.display()))?
            .attributes
            .size_bytes;
        if Some(sent) != file.size_bytes {
            let expected = file.size_bytes.unwrap_or_default();
            let text = format!("{} changed while it was uploaded: {sent} bytes, not {expected}", path.display());
            return Err(Error::new(Kind::Retry, text));
        }
        Ok(())
    }

    /// Uploads files in order, several at once; of several errors that of the first file. After an error no further
    /// file is begun.
    fn upload_all(&self, block: &str, dir: &Path, files: &[BlockFile], stop: &Stop) -> Result<()> {
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        let work = || {
            loop {
                let idx = next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = files.get(idx) else { return };
                if let Err(err) = self.upload_one(block, dir, file, stop) {
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
            // This thread works too. Helpers that cannot be started are done without.
            for helper_idx in 1..self.concurrency.min(files.len()) {
                if let Err(err) = spawn(scope, helper_idx, &work) {
                    log::warn!(err = err.to_string(); "uploading with fewer threads");
                    break;
                }
            }
            work();
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |(_, err)| Err(err))
    }
}

fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    helper_idx: usize,
    work: &'scope (impl Fn() + Sync),
) -> std::io::Result<()> {
    std::thread::Builder::new().name(format!("ship-up-{helper_idx}")).spawn_scoped(scope, work).map(drop)
}
