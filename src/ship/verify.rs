//! Compares the bucket with the local blocks, object by object, and sends what is missing or wrong if asked to.
//!
//! May run beside the sidecar: it reads ledger and claims and never writes either. A block that the ledger lists as
//! shipped and of which the bucket has nothing was compacted or deleted there; bringing it back would make the compactor
//! halt at the overlap, so that is never done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::claim::{Claim, Files, Record};
use super::ledger;
use super::meta::{self, Meta};
use super::plan::{self, Action, Found};
use super::scan::{self, Examined};
use super::spool::{Held, Spool};
use super::ulid::Ulid;
use super::upload::Uploader;
use crate::error::{Context, Error, Kind, Result};
use crate::files::Disk;
use crate::labels::Labels;
use crate::objstore::{Bucket, Compared};
use crate::supervisor::Stop;

/// What is to be compared.
pub struct Audit<'a> {
    /// The local disk.
    pub disk: &'a Disk,
    /// The bucket.
    pub bucket: &'a dyn Bucket,
    /// Prometheus's data directory.
    pub data_dir: &'a Path,
    /// Name of the ledger in it.
    pub meta_file_name: &'a str,
    /// Whether compacted blocks are to be shipped too.
    pub upload_compacted: bool,
    /// Whether to send what is missing.
    pub repair: bool,
    /// Labels of blocks whose labels nobody has pinned; empty if there are none.
    pub labels: &'a Labels,
}

/// What is wrong with a block, or with one object of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The bucket does not have the object.
    Missing,
    /// The object has another size than the file.
    Size {
        /// The object's.
        stored_bytes: u64,
        /// The file's.
        local_bytes: u64,
    },
    /// The object has the size of the file and another content, or is no meta.json of this block.
    Differs,
    /// The block is to be shipped, and is not in the bucket.
    NotShipped,
    /// The local block cannot be read.
    Unreadable(String),
    /// The bucket does not say.
    Unchecked(String),
    /// No problem: nothing of the block is in the bucket any more, where it was.
    Gone,
}

/// Something to be reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The block.
    pub ulid: Ulid,
    /// The object by its name inside the block; `None` where it is about the whole block.
    pub object: Option<String>,
    /// What is wrong.
    pub problem: Problem,
    /// What came of the repair, if one was tried.
    pub repair: Option<Result<()>>,
}

/// How many blocks are how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// In the bucket, whole.
    pub n_whole: usize,
    /// Wrong, also after a repair, or not to be checked.
    pub n_wrong: usize,
    /// Wrong before a repair, and whole now.
    pub n_repaired: usize,
    /// Gone from the bucket.
    pub n_gone: usize,
    /// Not to be shipped: empty ones, compacted ones where those are not shipped, and those that were removed here since
    /// the beginning.
    pub n_skipped: usize,
}

/// After so many blocks in succession that the bucket says nothing about, it is not asked about the rest: each question
/// to a bucket that is away takes minutes.
const UNCHECKED_MAX: usize = 3;

impl Summary {
    /// Whether everything is as it should be.
    pub fn is_well(&self) -> bool {
        self.n_wrong == 0 && !self.is_strange()
    }

    /// Whether the bucket has nothing of any block that was shipped. That is what the wrong bucket, or the wrong prefix,
    /// looks like.
    pub fn is_strange(&self) -> bool {
        self.n_gone > 0 && self.n_whole + self.n_wrong + self.n_repaired == 0
    }
}

/// Compares all blocks, oldest first, and hands every finding to `each`. `Blocks:` while objects are read and sent.
///
/// `Errors:` when the data directory or the ledger cannot be read, when the bucket does not answer, or of `each`; trouble
/// with one block is a finding.
pub fn audit(audit: &Audit, each: &mut dyn FnMut(&Finding) -> Result<()>, stop: &Stop) -> Result<Summary> {
    let shipped: BTreeSet<Ulid> = ledger::shipped(audit.disk, &audit.data_dir.join(audit.meta_file_name))?;
    let mut found = scan::scan(audit.disk, audit.data_dir, |_| None)?;
    let claims = claims(audit, &mut found)?;
    let mut summary = Summary::default();
    let (mut is_held_up, mut n_unchecked) = (false, 0);
    for planned in plan::plan(&found, |ulid| shipped.contains(&ulid), audit.upload_compacted) {
        stop.check()?;
        let ulid = planned.found.ulid;
        let finding = |problem: Problem| vec![Finding { ulid, object: None, problem, repair: None }];
        let mut findings = match (&planned.action, &planned.found.meta) {
            (Action::ListEmpty | Action::SkipCompacted, _) => {
                summary.n_skipped += 1;
                continue;
            }
            (_, Err(err)) => finding(Problem::Unreadable(err.to_string())),
            (_, Ok(meta)) => {
                let block = Block { audit, dir: &planned.found.dir, meta, is_pinned: claims.get(&ulid) == Some(&true) };
                match block.check(shipped.contains(&ulid), &mut is_held_up, stop) {
                    Err(err) if err.kind() == Kind::Stopped => return Err(err),
                    // Removed by Prometheus, or its claim ended, since the listing.
                    Err(_) if !planned.found.dir.exists() => {
                        summary.n_skipped += 1;
                        continue;
                    }
                    Err(err) if err.kind() == Kind::Corrupt => finding(Problem::Unreadable(err.to_string())),
                    Err(err) => finding(Problem::Unchecked(err.to_string())),
                    Ok(findings) => findings,
                }
            }
        };
        let counted = match findings.first() {
            None => &mut summary.n_whole,
            Some(Finding { problem: Problem::Gone, .. }) => &mut summary.n_gone,
            Some(Finding { repair: Some(Ok(())), .. }) => &mut summary.n_repaired,
            Some(_) => &mut summary.n_wrong,
        };
        *counted += 1;
        findings.sort_by(|a, b| a.object.cmp(&b.object));
        findings.iter().try_for_each(&mut *each)?;
        match findings.first() {
            Some(Finding { problem: Problem::Unchecked(why), .. }) => {
                n_unchecked += 1;
                if n_unchecked == UNCHECKED_MAX {
                    let text = format!("the bucket cannot be asked, younger blocks are not checked: {why}");
                    return Err(Error::new(Kind::Retry, text));
                }
            }
            _ => n_unchecked = 0,
        }
    }
    Ok(summary)
}

/// Which blocks are claimed, and whether their labels are pinned. Blocks that only a claim has kept are added to
/// `found`; of the others that are claimed, the meta.json becomes that of the claim.
fn claims(audit: &Audit, found: &mut Vec<Found>) -> Result<BTreeMap<Ulid, bool>> {
    let spool = Spool::new(audit.data_dir, audit.disk.clone());
    let mut claims = BTreeMap::new();
    for ulid in spool.names()? {
        let meta = match spool.load(ulid) {
            Ok(Held::Claim { meta, is_pinned }) => {
                claims.insert(ulid, is_pinned);
                Ok(*meta)
            }
            Ok(Held::Leftover) => continue,
            Err(err) => Err(err),
        };
        match found.iter_mut().find(|found| found.ulid == ulid) {
            Some(found) if meta.is_ok() => found.meta = meta,
            Some(_) => {}
            None => found.push(Found { ulid, dir: spool.dir(ulid), is_local: false, meta }),
        }
    }
    Ok(claims)
}

/// One block that should be in the bucket.
struct Block<'a> {
    audit: &'a Audit<'a>,
    dir: &'a PathBuf,
    meta: &'a Meta,
    is_pinned: bool,
}

/// The meta.json that the bucket has.
enum Stored {
    Missing,
    /// It cannot be read, or is that of another block.
    Garbage,
    /// It is the block's, and may state other files.
    Meta {
        meta: Box<Meta>,
        is_right: bool,
    },
}

impl Block<'_> {
    fn check(&self, is_shipped: bool, is_held_up: &mut bool, stop: &Stop) -> Result<Vec<Finding>> {
        let ulid = self.meta.ulid;
        let Audit { disk, bucket, repair, .. } = *self.audit;
        let Examined { chunks, bytes } = scan::examine(disk, self.dir, self.meta)?;
        let claim = Claim {
            meta: self.meta.clone(),
            is_pinned: self.is_pinned,
            is_pin_owed: false,
            chunks,
            bytes,
            files: Files::Linked(self.dir.clone()),
            record: Record::new(bucket.name(), None),
        };
        let finding = |object: Option<&str>, problem: Problem| Finding {
            ulid,
            object: object.map(str::to_owned),
            problem,
            repair: None,
        };
        let stored = self.stored_meta(&claim, stop)?;
        let mut findings = Vec::new();
        let mut n_there = 0;
        for name in claim.names() {
            let source = claim.open(disk, &name)?;
            let compared = bucket.compare(&format!("{ulid}/{name}"), &source, stop);
            let problem = match compared.context(|| format!("compare {name}"))? {
                Compared::Same => {
                    n_there += 1;
                    continue;
                }
                Compared::Missing => Problem::Missing,
                Compared::Size { stored_bytes } => {
                    n_there += 1;
                    Problem::Size { stored_bytes, local_bytes: source.size_bytes() }
                }
                Compared::Content => {
                    n_there += 1;
                    Problem::Differs
                }
            };
            findings.push(finding(Some(&name), problem));
        }
        match &stored {
            Stored::Missing if n_there == 0 && is_shipped => return Ok(vec![finding(None, Problem::Gone)]),
            Stored::Missing if !is_shipped => findings = vec![finding(None, Problem::NotShipped)],
            Stored::Missing => findings.push(finding(Some("meta.json"), Problem::Missing)),
            Stored::Garbage | Stored::Meta { is_right: false, .. } => {
                findings.push(finding(Some("meta.json"), Problem::Differs));
            }
            Stored::Meta { is_right: true, .. } => {}
        }
        if findings.is_empty() {
            return Ok(findings);
        }
        // The compactor removes meta.json first and this mark last: what is missing is missing on purpose.
        if is_shipped && bucket.exists(&format!("{ulid}/deletion-mark.json"), stop)? {
            return Ok(vec![finding(None, Problem::Gone)]);
        }
        if repair {
            let repaired = if is_shipped || !*is_held_up {
                self.repair(claim, stored, &findings, is_shipped, stop)
            } else {
                Err(Error::new(Kind::Retry, "an older block could not be shipped, and blocks go oldest first"))
            };
            *is_held_up |= repaired.is_err() && !is_shipped;
            findings.iter_mut().for_each(|finding| finding.repair = Some(repaired.clone()));
        }
        Ok(findings)
    }

    fn stored_meta(&self, claim: &Claim, stop: &Stop) -> Result<Stored> {
        let ulid = self.meta.ulid;
        let meta = match self.audit.bucket.get(&format!("{ulid}/meta.json"), stop) {
            Err(err) if err.kind() == Kind::NotFound => return Ok(Stored::Missing),
            Err(err) if err.kind() == Kind::Limit => return Ok(Stored::Garbage),
            other => meta::parse(&other.context(|| "read meta file in the bucket")?),
        };
        let Ok(meta) = meta else { return Ok(Stored::Garbage) };
        if meta.ulid != ulid {
            return Ok(Stored::Garbage);
        }
        let stated = meta.stated_sizes();
        let mut sizes = BTreeMap::new();
        for name in claim.names() {
            let size = claim.open(self.audit.disk, &name)?.size_bytes();
            sizes.insert(name, size);
        }
        let is_right = stated.is_empty() || stated == sizes;
        Ok(Stored::Meta { meta: Box::new(meta), is_right })
    }

    /// Sends what is wrong, meta.json last, and sees that all of it is there.
    fn repair(
        &self,
        mut claim: Claim,
        stored: Stored,
        findings: &[Finding],
        is_shipped: bool,
        stop: &Stop,
    ) -> Result<()> {
        let Audit { disk, bucket, labels, .. } = *self.audit;
        let uploader = Uploader { disk, bucket, concurrency: 1, sha256: false, calm: None };
        if !is_shipped && matches!(stored, Stored::Missing) && self.meta.level > 1 {
            let text = "a compacted block is shipped by the sidecar, which looks for overlaps";
            return Err(Error::new(Kind::Permanent, text));
        }
        let writes_meta = match stored {
            Stored::Meta { is_right: true, .. } => false,
            // The labels that the block has in the bucket are the ones that it was shipped with.
            Stored::Meta { meta, .. } if !meta.labels.is_empty() => {
                let pinned = Labels::new(meta.labels);
                claim.meta.ship_as(&pinned, &claim.chunks);
                true
            }
            _ if self.is_pinned => true,
            _ if labels.is_empty() => {
                return Err(Error::new(
                    Kind::Permanent,
                    "its external labels are not known: give every one of them with --label name=value",
                ));
            }
            _ => {
                claim.meta.ship_as(labels, &claim.chunks);
                true
            }
        };
        let is_wrong =
            |name: &str| findings.iter().any(|finding| finding.object.as_deref().is_none_or(|it| it == name));
        for name in claim.names().filter(|name| !is_wrong(name)) {
            claim.record.set_done(&name, bucket.attributes(&format!("{}/{name}", self.meta.ulid), stop)?);
        }
        if writes_meta {
            return uploader.upload(&claim, stop).map(drop);
        }
        let files = uploader.gather(&claim, stop)?;
        uploader.complete(&claim, &files, stop).map(drop)
    }
}
