//! `<data dir>/thanos/history.json`: which level-1 blocks need not be shipped any more, because their samples are in the
//! bucket or were there before uploads were turned on here. So it is known of a compacted block whether it has samples
//! that nobody has shipped.
//!
//! The ledger cannot tell: it forgets a block once Prometheus has merged it into another. Where the file cannot be
//! written, this process remembers. Never decides what is shipped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::LOG_TARGET;
use crate::json::{self, Json, Object};
use crate::limits;
use crate::meta::Meta;
use crate::plan::{self, Found};
use crate::ulid::Ulid;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::{self, Disk};
use pillion_base::time::unix_ms;

/// The memory of this data directory.
pub(crate) struct History {
    path: PathBuf,
    disk: Disk,
    /// What the file says, or will say; `None` before it was read.
    said: Option<Said>,
    /// Whether the file holds less, or more, than is known.
    is_dirty: bool,
    /// For how many scans in succession nobody has needed a block.
    n_unneeded: BTreeMap<Ulid, u32>,
    /// When it could not be told for the first time which blocks are there.
    failed_ms: Option<i64>,
    /// The last failure that was logged.
    logged: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    /// Sources of the compacted blocks that were there when uploads were turned on.
    before: BTreeSet<Ulid>,
    /// Blocks whose samples are in the bucket, or were once, and blocks without samples.
    shipped: BTreeSet<Ulid>,
}

impl History {
    /// The memory of a data directory; nothing is read yet.
    pub(crate) fn new(data_dir: &Path, disk: Disk) -> History {
        let path = data_dir.join("thanos").join("history.json");
        History { path, disk, said: None, is_dirty: false, n_unneeded: BTreeMap::new(), failed_ms: None, logged: None }
    }

    /// Reads the file if it was not read yet. Without one, uploads are turned on now: what the compacted blocks that `scan`
    /// finds were made of is not shipped.
    ///
    /// `Errors:` when there is a file that cannot be read now, or when `scan` fails. Until then nothing is known of
    /// compacted blocks.
    pub(crate) fn begin(&mut self, scan: impl FnOnce() -> Result<Vec<Found>>) -> Result<()> {
        if self.said.is_some() {
            return Ok(());
        }
        // What was named since the first attempt was compacted since. It is told by the clock only then: clocks jump.
        let failed_ms = self.failed_ms;
        self.failed_ms = failed_ms.or_else(|| Some(unix_ms(SystemTime::now())));
        let said = match self.disk.read(&self.path, limits::HISTORY_BYTES_MAX) {
            Err(err) if err.kind() == Kind::NotFound => None,
            Err(err) if err.kind() == Kind::Limit => self.set_aside(&err)?,
            Err(err) => return Err(err.with_kind(Kind::Retry).context("read which blocks were shipped")),
            Ok(bytes) => match parse(&bytes) {
                Ok(said) => Some(said),
                Err(err) => self.set_aside(&err)?,
            },
        };
        self.said = Some(match said {
            Some(said) => said,
            None => {
                let before = before(&scan()?, failed_ms);
                self.is_dirty = true;
                Said { before, shipped: BTreeSet::new() }
            }
        });
        self.save();
        Ok(())
    }

    fn set_aside(&mut self, err: &Error) -> Result<Option<Said>> {
        let aside = aside(&self.path);
        self.disk.rename(&self.path, &aside).context(|| "set an unreadable file aside")?;
        log::error!(target: LOG_TARGET, err = err.to_string(), kept_as = aside.display().to_string();
            "cannot read which blocks were shipped; of the compacted blocks that are here now, none is shipped");
        Ok(None)
    }

    /// The memory as the file has it, for whoever only looks; one that cannot be read is not known.
    pub(crate) fn peek(data_dir: &Path, disk: Disk) -> History {
        let mut history = History::new(data_dir, disk);
        let read = history.disk.read(&history.path, limits::HISTORY_BYTES_MAX);
        history.said = read.and_then(|bytes| parse(&bytes)).ok();
        history
    }

    /// As [`History::peek`], and without a file what the first start of all would note: the compacted blocks of `found`.
    pub(crate) fn foresee(data_dir: &Path, disk: Disk, found: &[Found]) -> History {
        let mut history = History::new(data_dir, disk);
        history.said = match history.disk.read(&history.path, limits::HISTORY_BYTES_MAX) {
            Err(err) if err.kind() == Kind::NotFound => {
                Some(Said { before: before(found, None), shipped: BTreeSet::new() })
            }
            read => read.and_then(|bytes| parse(&bytes)).ok(),
        };
        history
    }

    /// Whether the file was read.
    pub(crate) fn is_known(&self) -> bool {
        self.said.is_some()
    }

    /// Whether the samples of a level-1 block need not be shipped.
    pub(crate) fn covers(&self, ulid: Ulid) -> bool {
        self.said.as_ref().is_some_and(|said| said.shipped.contains(&ulid) || said.before.contains(&ulid))
    }

    /// Whether a block was shipped, also by an earlier run.
    pub(crate) fn has_shipped(&self, ulid: Ulid) -> bool {
        self.said.as_ref().is_some_and(|said| said.shipped.contains(&ulid))
    }

    /// The blocks that were shipped, as far as they are still of interest.
    pub(crate) fn shipped(&self) -> impl Iterator<Item = Ulid> + '_ {
        self.said.iter().flat_map(|said| said.shipped.iter().copied())
    }

    /// Notes that the samples of these blocks need not be shipped any more; [`History::save`] writes it.
    pub(crate) fn add(&mut self, ulids: impl IntoIterator<Item = Ulid>) {
        let Some(said) = &mut self.said else { return };
        for ulid in ulids {
            self.is_dirty |= said.shipped.insert(ulid);
        }
    }

    /// Forgets what no block of `found` was made of. A block that Prometheus is writing now may be seen only at the next
    /// scans, so nothing is forgotten at once.
    pub(crate) fn prune(&mut self, found: &[Found]) {
        let Some(said) = &mut self.said else { return };
        let metas = found.iter().filter_map(|found| found.meta.as_ref().ok());
        let mut needed: BTreeSet<Ulid> = metas.flat_map(Meta::covered).collect();
        needed.extend(found.iter().map(|found| found.ulid));
        let unneeded = said.shipped.iter().chain(&said.before).filter(|ulid| !needed.contains(ulid));
        let before = std::mem::take(&mut self.n_unneeded);
        self.n_unneeded = unneeded.map(|ulid| (*ulid, before.get(ulid).map_or(1, |n| n.saturating_add(1)))).collect();
        let is_over = |ulid: &Ulid| self.n_unneeded.get(ulid).is_some_and(|n| *n > limits::HISTORY_SCANS);
        let n_before = said.shipped.len() + said.before.len();
        said.shipped.retain(|ulid| !is_over(ulid));
        said.before.retain(|ulid| !is_over(ulid));
        self.is_dirty |= said.shipped.len() + said.before.len() < n_before;
    }

    /// Writes the file unless it holds the same already. A failure is logged once, and the next call tries again.
    pub(crate) fn save(&mut self) {
        let Some(said) = self.said.as_ref().filter(|_| self.is_dirty) else { return };
        let bytes = write(said);
        let dir = files::parent(&self.path);
        // Whoever may not create the folder may not write into it either.
        let mut written = self.disk.create_dirs_synced(dir).and_then(|()| self.disk.replace(&self.path, &bytes));
        // A claim that was not finished may have made the folder without a sync.
        written = written.and_then(|()| self.disk.sync_dir(files::parent(dir)));
        match written {
            Ok(()) => {
                self.is_dirty = false;
                self.logged = None;
            }
            Err(err) => {
                let text = err.to_string();
                if self.logged.as_ref() != Some(&text) {
                    log::warn!(target: LOG_TARGET, err = text.as_str();
                        "cannot note which blocks were shipped; a restart may leave out what Prometheus compacts meanwhile");
                    self.logged = Some(text);
                }
            }
        }
    }
}

/// What the compacted blocks of `found` were made of: not shipped when uploads are turned on. What is here itself, as after a
/// Prometheus that died before it removed it, is still to be shipped. Blocks that were named after `failed_ms` are newer.
fn before(found: &[Found], failed_ms: Option<i64>) -> BTreeSet<Ulid> {
    let is_new = |meta: &&Meta| failed_ms.is_some_and(|failed_ms| meta.ulid.time_ms() > failed_ms);
    let metas = found.iter().filter_map(|found| found.meta.as_ref().ok());
    let compacted = metas.filter(|meta| meta.level > 1 && !is_new(meta));
    let coming = plan::coming(found);
    compacted.flat_map(Meta::covered).filter(|ulid| !coming.contains(ulid)).collect()
}

/// Another name for a file that cannot be read, one for each time.
pub(crate) fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".bad-{}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S.%3fZ")));
    path.with_file_name(name)
}

fn parse(bytes: &[u8]) -> Result<Said> {
    let corrupt = |text: &str| Error::new(Kind::Corrupt, text);
    let Json::Object(root) = json::parse(bytes)? else { return Err(corrupt("not an object")) };
    if !matches!(root.value("version"), Some(Json::Number(version)) if version == "1") {
        return Err(corrupt("its version is not 1"));
    }
    let names = |member: &str| match root.value(member) {
        Some(Json::Array(items)) => items
            .iter()
            .map(|item| match item {
                Json::Text(text) => Ulid::parse(text).ok_or_else(|| corrupt("not a ULID")),
                _ => Err(corrupt("not a text")),
            })
            .collect(),
        _ => Err(corrupt("a list is missing")),
    };
    Ok(Said { before: names("before")?, shipped: names("shipped")? })
}

fn write(said: &Said) -> Vec<u8> {
    let names = |ulids: &BTreeSet<Ulid>| Json::Array(ulids.iter().map(|ulid| Json::text(ulid.as_str())).collect());
    let mut root = Object::default();
    root.set("version", Json::number(1));
    root.set("before", names(&said.before));
    root.set("shipped", names(&said.shipped));
    json::write(&Json::Object(root)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulid(n: u32) -> Ulid {
        Ulid::parse(&format!("{n:026}")).unwrap()
    }

    fn found(n: u32, level: i64, sources: &[u32]) -> Found {
        let (own, names) = (ulid(n), sources.iter().map(|n| format!("\"{}\"", ulid(*n))).collect::<Vec<_>>().join(","));
        let text = format!(
            r#"{{"version":1,"ulid":"{own}","stats":{{"numSamples":1}},"compaction":{{"level":{level},"sources":[{names}]}}}}"#
        );
        Found { ulid: own, dir: PathBuf::new(), is_local: true, meta: Meta::parse(text.as_bytes()) }
    }

    fn begun(dir: &Path, found: Vec<Found>) -> History {
        let mut history = History::new(dir, Disk::real());
        history.begin(|| Ok(found)).unwrap();
        history
    }

    #[test]
    fn what_was_there_before_and_what_was_shipped_is_covered_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = begun(dir.path(), vec![found(3, 2, &[1, 2]), found(4, 1, &[4]), found(6, 3, &[])]);
        history.add([ulid(5)]);
        history.save();
        // A compacted block that was not there at the first start is none of it.
        let again = begun(dir.path(), vec![found(9, 2, &[8])]);
        for (n, covered) in [(1, true), (2, true), (3, false), (4, false), (5, true), (6, true), (8, false), (9, false)]
        {
            assert_eq!((history.covers(ulid(n)), again.covers(ulid(n))), (covered, covered), "{n}");
        }
        assert!(again.has_shipped(ulid(5)) && !again.has_shipped(ulid(1)));
        // Nor is a block that is still here beside what it was compacted into.
        let other = tempfile::tempdir().unwrap();
        let history = begun(other.path(), vec![found(1, 1, &[1]), found(3, 2, &[1, 2])]);
        assert_eq!([1, 2].map(|n| history.covers(ulid(n))), [false, true]);
    }

    #[test]
    fn what_nobody_needs_is_forgotten_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = begun(dir.path(), vec![]);
        history.add([ulid(1), ulid(2), ulid(3)]);
        for _ in 0..limits::HISTORY_SCANS {
            history.prune(&[found(3, 1, &[3])]);
        }
        assert!(history.covers(ulid(1)));
        // Seen again, the count begins anew.
        history.prune(&[found(7, 2, &[1])]);
        history.prune(&[]);
        assert_eq!([1, 2, 3].map(|n| history.covers(ulid(n))), [true, false, true]);
    }

    #[test]
    fn a_file_that_cannot_be_read_now_is_no_missing_one_and_garbage_is_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = begun(dir.path(), vec![]);
        history.add([ulid(1)]);
        history.save();
        let refused = Disk::watched(|_| Err(std::io::Error::from_raw_os_error(13)));
        assert_eq!(History::new(dir.path(), refused).begin(|| Ok(vec![])).unwrap_err().kind(), Kind::Retry);
        assert!(begun(dir.path(), vec![]).covers(ulid(1)));
        for garbage in ["{", "[]", r#"{"version":2}"#, r#"{"version":1,"before":[],"shipped":["x"]}"#] {
            std::fs::write(dir.path().join("thanos/history.json"), garbage).unwrap();
            let history = begun(dir.path(), vec![found(3, 2, &[2])]);
            assert!(history.covers(ulid(2)) && !history.covers(ulid(1)), "{garbage}");
        }
        let names: Vec<_> = std::fs::read_dir(dir.path().join("thanos")).unwrap().collect();
        assert!(names.len() >= 2, "{names:?}");
    }
}
