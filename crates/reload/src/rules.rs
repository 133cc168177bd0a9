//! The rule dirs: reads every file and sums it up. Writes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use pillion_base::error::{Context, Kind, Result};
use pillion_base::files::Disk;

use crate::LOG_TARGET;
use crate::digest::{Digest, Digesting, RuleFile};
use crate::tree::{self, Found};

/// What is found behind a name.
enum Content {
    Sum(Digest),
    Nothing,
    /// A link to a folder, a pipe.
    NoFile,
}

/// The rule dirs.
pub(crate) struct Rules {
    disk: Disk,
    dirs: Vec<PathBuf>,
    /// Files that are not rules although they are there: what we write ourselves.
    except: Vec<PathBuf>,
    /// Links that lead nowhere, of which the log has told.
    dangling: BTreeSet<PathBuf>,
}

impl Rules {
    /// Nothing is read yet. The paths are absolute.
    pub(crate) fn new(disk: Disk, dirs: Vec<PathBuf>, except: Vec<PathBuf>) -> Self {
        Rules { disk, dirs, except, dangling: BTreeSet::new() }
    }

    /// All files of all rule dirs. A link that leads nowhere, or a file that vanishes meanwhile, stops nobody.
    ///
    /// `Errors:` a rule dir that is missing, or whatever cannot be read.
    pub(crate) fn read(&mut self) -> Result<Vec<RuleFile>> {
        let (mut files, mut dangling) = (Vec::new(), BTreeSet::new());
        for (dir, root) in self.dirs.iter().enumerate() {
            let mut add = |path: &Path| {
                match self.content(path)? {
                    // A rule dir that is a file has an empty name.
                    Content::Sum(content) => {
                        let name = path.strip_prefix(root).unwrap_or(path).to_owned();
                        files.push(RuleFile { dir, name, content });
                    }
                    Content::Nothing => drop(dangling.insert(path.to_owned())),
                    Content::NoFile => {}
                }
                Ok(())
            };
            if self.disk.stat(root)?.is_dir() {
                tree::walk(&self.disk, root, &mut |path, found| {
                    let Found::Entry(kind) = found else { return Ok(()) };
                    let is_ours = self.except.iter().any(|own| own == path);
                    if is_ours || !(kind.is_file() || kind.is_symlink()) { Ok(()) } else { add(path) }
                })?;
            } else {
                add(root)?;
            }
        }
        for link in dangling.difference(&self.dangling) {
            log::warn!(target: LOG_TARGET, path = link.display().to_string(); "there is nothing to read, the file is passed over");
        }
        self.dangling = dangling;
        Ok(files)
    }

    fn content(&self, path: &Path) -> Result<Content> {
        let found = match self.disk.stat(path) {
            Err(err) if err.kind() == Kind::NotFound || is_loop(path) => return Ok(Content::Nothing),
            other => other?,
        };
        // A pipe would never end.
        if !found.is_file() {
            return Ok(Content::NoFile);
        }
        let source = match self.disk.open_source(path) {
            Err(err) if err.kind() == Kind::NotFound => return Ok(Content::Nothing),
            other => other?,
        };
        let mut sum = Digesting::default();
        source
            .for_each(0..source.size_bytes(), |bytes| {
                sum.update(bytes);
                Ok(())
            })
            .context(|| format!("read {}", path.display()))?;
        Ok(Content::Sum(sum.finish()))
    }
}

/// Whether a link leads to itself.
fn is_loop(path: &Path) -> bool {
    rustix::fs::stat(path).err() == Some(Errno::LOOP)
}
