//! What a power cut takes: the content of files and the new names in folders that were not synced yet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pillion_base::files::{Op, Step};

/// Watches steps on the disk, each before it happens.
#[derive(Default)]
pub(crate) struct Unsynced {
    files: BTreeSet<PathBuf>,
    names: BTreeSet<PathBuf>,
}

impl Unsynced {
    /// Notes a step that will go well.
    pub(crate) fn note(&mut self, step: &Step) {
        let path = step.path.to_owned();
        match (step.op, step.to) {
            (Op::Create, _) => {
                self.name(&path);
                self.files.insert(path);
            }
            (Op::Write, _) => drop(self.files.insert(path)),
            (Op::SyncFile, _) => drop(self.files.remove(&path)),
            (Op::SyncDir, _) => self.names.retain(|name| name.parent() != Some(&path)),
            (Op::CreateDir, _) => self.name(&path),
            (Op::Link, Some(to)) => self.name(to),
            (Op::Rename, Some(to)) => {
                self.name(to);
                self.names.remove(&path);
                if self.files.remove(&path) {
                    self.files.insert(to.to_owned());
                }
            }
            (Op::RemoveFile | Op::RemoveDir, _) => {
                self.files.remove(&path);
                self.names.remove(&path);
            }
            _ => {}
        }
    }

    /// Notes a name that appears; a name that was there before does not vanish.
    fn name(&mut self, path: &Path) {
        if !path.exists() {
            self.names.insert(path.to_owned());
        }
    }

    /// Takes away what was not synced.
    pub(crate) fn cut_power(&self, names_too: bool) {
        for path in &self.files {
            if path.exists() {
                std::fs::write(path, b"").unwrap();
            }
        }
        for path in self.names.iter().filter(|_| names_too) {
            let _ = std::fs::remove_file(path);
            let _ = std::fs::remove_dir_all(path);
        }
    }
}
