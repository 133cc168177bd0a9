//! What the shipper would do with each block of a data folder, for whoever only looks: the same scan, claims, history and
//! plan, read and never written. The bucket is not asked.

use std::collections::BTreeSet;
use std::path::Path;

use crate::history::History;
use crate::ledger;
use crate::plan::{self, Action, Found, Past};
use crate::scan;
use crate::spool;
use crate::ulid::Ulid;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Disk;

/// The data folder and what is shipped of it.
#[derive(Clone, Copy)]
pub struct DataFolder<'a> {
    /// The local disk.
    pub disk: &'a Disk,
    /// `--tsdb.path`.
    pub dir: &'a Path,
    /// Name of the ledger in it.
    pub meta_file_name: &'a str,
    /// `--shipper.upload-compacted`.
    pub upload_compacted: bool,
}

/// What would become of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It would be shipped; why.
    Ships(&'static str),
    /// Nothing would be done; why.
    Stays(&'static str),
    /// It cannot be shipped as it is; why.
    Damaged(String),
    /// It would wait until the disk can read it, and younger blocks with it; why.
    Unreadable(String),
}

/// A block and what would become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreseen {
    /// Its name; of a folder that only looks like a block, the folder's.
    pub name: String,
    /// Size of its chunks and its index, if it would be shipped.
    pub bytes: u64,
    /// What would become of it.
    pub verdict: Verdict,
}

/// All blocks of a data folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// In the order in which they would be shipped.
    pub blocks: Vec<Foreseen>,
    /// Every block that is known here: those of the folder, and those that were shipped.
    pub(crate) known: BTreeSet<Ulid>,
}

impl Outlook {
    /// How many blocks would be shipped, and their size in bytes.
    pub fn to_ship(&self) -> (usize, u64) {
        let ships = self.blocks.iter().filter(|block| matches!(block.verdict, Verdict::Ships(_)));
        ships.fold((0, 0), |(n, bytes), block| (n + 1, bytes + block.bytes))
    }
}

/// Looks at a data folder. `Errors:` when the folder or the ledger cannot be read.
pub fn outlook(folder: &DataFolder<'_>) -> Result<Outlook> {
    look(folder, &mut None)
}

/// As [`outlook`], of one who looks again and again and goes by what was known at the first look.
pub(crate) fn look(folder: &DataFolder<'_>, history: &mut Option<History>) -> Result<Outlook> {
    let DataFolder { disk, dir, meta_file_name, upload_compacted } = *folder;
    let shipped = ledger::shipped(disk, &dir.join(meta_file_name))?;
    let mut found = scan::scan(disk, dir, |_| None)?;
    spool::claimed(disk, dir, &mut found)?;
    if history.as_ref().is_none_or(|history| !history.is_known()) {
        *history = Some(History::foresee(dir, disk.clone(), &found));
    }
    let history = history.get_or_insert_with(|| History::foresee(dir, disk.clone(), &found));
    history.add(shipped.iter().copied());
    let past = Past {
        is_shipped: &|ulid| shipped.contains(&ulid),
        is_covered: &|ulid| !history.is_known() || history.covers(ulid),
        upload_compacted,
    };
    let planned = plan::plan(&found, &past);
    let mut blocks: Vec<Foreseen> =
        planned.iter().map(|planned| foresee(disk, planned.found, &planned.action)).collect();
    let misnamed = scan::misnamed(disk, dir)?.into_iter().map(|name| Foreseen {
        name,
        bytes: 0,
        verdict: Verdict::Damaged("its name is not that of a block".to_owned()),
    });
    blocks.extend(misnamed);
    // What would be shipped now covers what Prometheus compacts of it later.
    let ships: Vec<Ulid> =
        planned.iter().filter_map(|planned| planned.action.to_ship()).map(|meta| meta.ulid).collect();
    let covered = planned.iter().filter_map(|planned| planned.action.to_ship()).flat_map(|meta| meta.covered());
    let covered: Vec<Ulid> = covered.collect();
    history.add(ships.into_iter().chain(covered));
    let known = found.iter().map(|found| found.ulid).chain(shipped.iter().copied()).chain(history.shipped()).collect();
    Ok(Outlook { blocks, known })
}

fn foresee(disk: &Disk, found: &Found, action: &Action<'_>) -> Foreseen {
    let of = |bytes: u64, verdict: Verdict| Foreseen { name: found.ulid.to_string(), bytes, verdict };
    let meta = match action {
        Action::Done => return of(0, Verdict::Stays("it was shipped already")),
        Action::ListEmpty => return of(0, Verdict::Stays("it has no samples")),
        Action::SkipCompacted => {
            return of(
                0,
                Verdict::Stays("it was compacted of blocks that need not be shipped, or are shipped themselves"),
            );
        }
        Action::ListCorrupt(err) => return of(0, Verdict::Damaged(err.to_string())),
        Action::Unreadable(err) => return of(0, Verdict::Unreadable(err.to_string())),
        Action::Ship(meta) | Action::StandIn(meta) => meta,
    };
    let why = match action {
        Action::StandIn(_) => "it has samples of blocks that were never shipped",
        _ if !found.is_local => "Prometheus has removed it, and its claim is still here",
        _ => "it was not shipped yet",
    };
    match scan::examine(disk, &found.dir, meta) {
        Ok(examined) => of(examined.bytes, Verdict::Ships(why)),
        Err(_) if scan::is_gone(disk, &found.dir) => of(0, Verdict::Stays("Prometheus has just removed it")),
        Err(err) => of(0, fault(&err)),
    }
}

fn fault(err: &Error) -> Verdict {
    match err.kind() {
        Kind::Corrupt => Verdict::Damaged(err.to_string()),
        _ => Verdict::Unreadable(err.to_string()),
    }
}
