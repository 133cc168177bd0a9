//! `<data dir>/thanos/upload`: a block's files under second names while it is uploaded, so that Prometheus can remove
//! the block without harm to the upload.
//!
//! meta.json alone is not linked but written: it gets the Thanos section, and editing a link would edit Prometheus's
//! own file. Leftovers would pin disk space for ever, so they are swept at start, and a block's folder goes after each
//! attempt, whatever became of it.

use std::path::{Path, PathBuf};

use super::ulid::Ulid;
use crate::error::{Context, Kind, Result};
use crate::files::Disk;

/// Mode of the folders, as Thanos has it.
const DIR_MODE: u32 = 0o750;

/// The staging folder.
pub struct Spool {
    dir: PathBuf,
    disk: Disk,
}

impl Spool {
    /// The staging folder of `data_dir`; created when a block is staged.
    pub fn new(data_dir: &Path, disk: Disk) -> Self {
        Spool { dir: data_dir.join("thanos").join("upload"), disk }
    }

    /// Removes what a crash left behind.
    pub fn sweep(&self) -> Result<()> {
        let entries = match self.disk.list(&self.dir) {
            Err(err) if err.kind() == Kind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let path = self.dir.join(&entry.name);
            if entry.kind.is_dir() {
                self.disk.remove_tree(&path)?;
            } else {
                self.disk.remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Stages the block in `block_dir`: its `chunks/` and its index linked, and `meta_json` beside them. The folder.
    ///
    /// `Errors:` `Permanent` where hard links cannot be made. Call [`Spool::release`] also after an error.
    pub fn stage(&self, ulid: Ulid, block_dir: &Path, chunks: &[String], meta_json: &[u8]) -> Result<PathBuf> {
        let dir = self.dir.join(ulid.as_str());
        self.disk.remove_tree(&dir)?;
        for above in [self.dir.parent().unwrap_or(&self.dir), &self.dir, &dir, &dir.join("chunks")] {
            self.disk.create_dir(above, DIR_MODE)?;
        }
        for chunk in chunks {
            self.link(&block_dir.join("chunks").join(chunk), &dir.join("chunks").join(chunk))?;
        }
        self.link(&block_dir.join("index"), &dir.join("index"))?;
        self.disk.write_synced(&dir.join("meta.json"), meta_json)?;
        Ok(dir)
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.link(from, to).map_err(|err| match err.kind() {
            Kind::Permanent => err.context(format!(
                "hard links from the data directory into {} are not possible, and blocks cannot be shipped without",
                self.dir.display()
            )),
            _ => err.context("hard link block"),
        })
    }

    /// Removes a staged block.
    pub fn release(&self, ulid: Ulid) -> Result<()> {
        self.disk.remove_tree(&self.dir.join(ulid.as_str())).context(|| "failed to clean upload directory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Op;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn block(data_dir: &Path) -> (Ulid, PathBuf) {
        let ulid = Ulid::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        let dir = data_dir.join(ulid.as_str());
        std::fs::create_dir_all(dir.join("chunks")).unwrap();
        for name in ["meta.json", "index", "tombstones", "chunks/000001"] {
            std::fs::write(dir.join(name), name).unwrap();
        }
        (ulid, dir)
    }

    #[test]
    fn chunks_and_index_are_links_and_meta_json_is_not() {
        let data_dir = tempfile::tempdir().unwrap();
        let (ulid, dir) = block(data_dir.path());
        let spool = Spool::new(data_dir.path(), Disk::real());
        let staged = spool.stage(ulid, &dir, &["000001".to_owned()], b"new meta").unwrap();
        let inode = |dir: &Path, name: &str| std::fs::metadata(dir.join(name)).unwrap().ino();
        for name in ["index", "chunks/000001"] {
            assert_eq!(inode(&dir, name), inode(&staged, name), "{name}");
        }
        assert_ne!(inode(&dir, "meta.json"), inode(&staged, "meta.json"));
        assert_eq!(std::fs::read(dir.join("meta.json")).unwrap(), b"meta.json");
        assert_eq!(std::fs::read(staged.join("meta.json")).unwrap(), b"new meta");
        assert!(!staged.join("tombstones").exists());
        assert_eq!(std::fs::metadata(&staged).unwrap().permissions().mode() & 0o777, DIR_MODE);
        spool.stage(ulid, &dir, &["000001".to_owned()], b"again").unwrap();
        spool.release(ulid).unwrap();
        spool.release(ulid).unwrap();
        assert!(!staged.exists());
        assert_eq!(std::fs::metadata(dir.join("index")).unwrap().nlink(), 1);
    }

    #[test]
    fn leftovers_are_swept() {
        let data_dir = tempfile::tempdir().unwrap();
        let (ulid, dir) = block(data_dir.path());
        let spool = Spool::new(data_dir.path(), Disk::real());
        spool.sweep().unwrap();
        let staged = spool.stage(ulid, &dir, &["000001".to_owned()], b"new meta").unwrap();
        std::fs::write(staged.with_file_name("stray"), b"x").unwrap();
        spool.sweep().unwrap();
        assert_eq!(std::fs::read_dir(data_dir.path().join("thanos/upload")).unwrap().count(), 0);
    }

    #[test]
    fn where_links_are_refused_the_error_names_folder_and_reason() {
        let data_dir = tempfile::tempdir().unwrap();
        let (ulid, dir) = block(data_dir.path());
        for (errno, reason) in [(1, "operation not permitted"), (18, "cross-device link"), (95, "not supported")] {
            let disk = Disk::watched(move |step| match step.op {
                Op::Link => Err(std::io::Error::from_raw_os_error(errno)),
                _ => Ok(()),
            });
            let err = Spool::new(data_dir.path(), disk).stage(ulid, &dir, &[], b"").unwrap_err();
            assert_eq!(err.kind(), Kind::Permanent);
            let text = err.to_string();
            assert!(text.contains("thanos/upload are not possible") && text.contains(reason), "{text}");
        }
    }
}
