//! Compares the bucket with the local blocks, object by object, and sends what is missing or wrong if asked to.
//!
//! May run while the sidecar runs: it reads ledger and claims and never writes them. If the ledger lists a block as
//! shipped and the bucket has nothing of it, the block was compacted or deleted there. It is never sent again, because
//! the compactor would halt at the overlap.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::claim::{Claim, Files, Record};
use crate::history::History;
use crate::ledger;
use crate::meta::Meta;
use crate::place::Place;
use crate::plan::{self, Action, Past};
use crate::scan::{self, Examined};
use crate::spool;
use crate::ulid::Ulid;
use crate::upload::Uploader;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::{Disk, UNREADABLE};
use pillion_base::labels::Labels;
use pillion_base::stop::Stop;
use pillion_bucket::{Bucket, Compared};

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
    /// Labels for blocks whose labels are not pinned; may be empty.
    pub labels: &'a Labels,
    /// Told how far the audit is.
    pub on_step: Option<&'a dyn Fn(AuditStep)>,
}

/// How far an audit is. `Units:` bytes of local files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditStep {
    /// There is so much to compare; said once, before the first comparison.
    All(u64),
    /// So much more was compared.
    Compared(u64),
}

/// What is wrong with a block, or with one object of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The bucket does not have the object.
    Missing,
    /// The object has another size than the file.
    Size {
        /// Size of the object.
        stored_bytes: u64,
        /// Size of the file.
        local_bytes: u64,
    },
    /// The object has the size of the file but other content, or it is a meta.json that does not match this block.
    Differs,
    /// The block is to be shipped, and is not in the bucket.
    NotShipped,
    /// The local block cannot be read.
    Unreadable(String),
    /// The bucket did not answer.
    Unchecked(String),
    /// Not a problem: the block was in the bucket, and nothing of it is there any more.
    Gone,
}

/// What the audit reports about a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The block.
    pub ulid: Ulid,
    /// The object by its name inside the block; `None` for the whole block.
    pub object: Option<String>,
    /// What is wrong.
    pub problem: Problem,
    /// The outcome of the repair, if one was tried.
    pub repair: Option<Result<()>>,
}

/// How many blocks were found in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Whole in the bucket.
    pub n_whole: usize,
    /// Wrong and not repaired, or impossible to check.
    pub n_wrong: usize,
    /// Wrong before a repair, and whole now.
    pub n_repaired: usize,
    /// Gone from the bucket.
    pub n_gone: usize,
    /// Not to be shipped: empty blocks, compacted blocks where those are not shipped, and blocks that were removed
    /// locally during the audit.
    pub n_skipped: usize,
}

/// After so many blocks in succession that could not be checked, the audit ends: each request to a bucket that is away
/// takes minutes.
const UNCHECKED_MAX: usize = 3;

impl Summary {
    /// Whether nothing is wrong.
    pub fn is_well(&self) -> bool {
        self.n_wrong == 0 && !self.looks_like_wrong_bucket()
    }

    /// Whether the bucket has nothing of any block that was shipped, as if it were the wrong bucket or the wrong
    /// prefix.
    pub fn looks_like_wrong_bucket(&self) -> bool {
        self.n_gone > 0 && self.n_whole + self.n_wrong + self.n_repaired == 0
    }
}

/// Compares all blocks, oldest first, and passes every finding to `each`. `Blocks:` while objects are read and sent.
///
/// `Errors:` when the data directory or the ledger cannot be read, when the bucket does not answer, or when `each`
/// fails. A failure with one block is a finding.
pub fn audit(audit: &Audit, each: &mut dyn FnMut(&Finding) -> Result<()>, stop: &Stop) -> Result<Summary> {
    let shipped: BTreeSet<Ulid> = ledger::shipped(audit.disk, &audit.data_dir.join(audit.meta_file_name))?;
    // Of a file system that is not mounted it would be said that it has nothing, and it would get everything.
    let mut place = Place::new(audit.data_dir, audit.disk.clone());
    match audit.repair {
        true => place.check(audit.bucket, !shipped.is_empty(), stop)?,
        false => place.check_noted(audit.bucket, stop)?,
    }
    let mut found = scan::scan(audit.disk, audit.data_dir, |_| None)?;
    let claims = spool::claimed(audit.disk, audit.data_dir, &mut found)?;
    let mut summary = Summary::default();
    let (mut is_held_up, mut n_unchecked) = (false, 0);
    let history = History::peek(audit.data_dir, audit.disk.clone());
    let past = Past {
        is_shipped: &|ulid| shipped.contains(&ulid),
        is_covered: &|ulid| !history.is_known() || history.covers(ulid),
        upload_compacted: audit.upload_compacted,
    };
    let planned = plan::plan(&found, &past);
    if let Some(tell) = audit.on_step {
        let bytes = |planned: &plan::Planned| {
            let compared = !matches!(planned.action, Action::ListEmpty | Action::SkipCompacted);
            let meta = planned.found.meta.as_ref().ok().filter(|_| compared)?;
            scan::examine(audit.disk, &planned.found.dir, meta).ok().map(|examined| examined.bytes)
        };
        tell(AuditStep::All(planned.iter().filter_map(bytes).sum()));
    }
    for planned in planned {
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
                    // Prometheus has removed it, or its claim has ended, since the listing.
                    Err(_) if scan::is_gone(audit.disk, &planned.found.dir) => {
                        summary.n_skipped += 1;
                        continue;
                    }
                    Err(err) if err.kind() == Kind::Corrupt || err.class() == UNREADABLE => {
                        finding(Problem::Unreadable(err.to_string()))
                    }
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

/// One block that should be in the bucket.
struct Block<'a> {
    audit: &'a Audit<'a>,
    dir: &'a PathBuf,
    meta: &'a Meta,
    is_pinned: bool,
}

/// The meta.json that the bucket has.
enum StoredMeta {
    Missing,
    /// It cannot be read, or it is that of another block.
    Garbage,
    /// It is that of the block; `is_right` says whether it states the right files.
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
            if let Some(tell) = self.audit.on_step {
                tell(AuditStep::Compared(source.size_bytes()));
            }
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
            StoredMeta::Missing if n_there == 0 && is_shipped => return Ok(vec![finding(None, Problem::Gone)]),
            StoredMeta::Missing if !is_shipped => findings = vec![finding(None, Problem::NotShipped)],
            StoredMeta::Missing => findings.push(finding(Some("meta.json"), Problem::Missing)),
            StoredMeta::Garbage | StoredMeta::Meta { is_right: false, .. } => {
                findings.push(finding(Some("meta.json"), Problem::Differs));
            }
            StoredMeta::Meta { is_right: true, .. } => {}
        }
        if findings.is_empty() {
            return Ok(findings);
        }
        // The compactor removes meta.json first and this mark last: the objects are missing on purpose.
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

    fn stored_meta(&self, claim: &Claim, stop: &Stop) -> Result<StoredMeta> {
        let ulid = self.meta.ulid;
        let meta = match self.audit.bucket.get(&format!("{ulid}/meta.json"), stop) {
            Err(err) if err.kind() == Kind::NotFound => return Ok(StoredMeta::Missing),
            Err(err) if err.kind() == Kind::Limit => return Ok(StoredMeta::Garbage),
            other => Meta::parse(&other.context(|| "read meta file in the bucket")?),
        };
        let Ok(meta) = meta else { return Ok(StoredMeta::Garbage) };
        if meta.ulid != ulid {
            return Ok(StoredMeta::Garbage);
        }
        let stated = meta.stated_sizes();
        let mut sizes = BTreeMap::new();
        for name in claim.names() {
            let size = claim.open(self.audit.disk, &name)?.size_bytes();
            sizes.insert(name, size);
        }
        let is_right = stated.is_empty() || stated == sizes;
        Ok(StoredMeta::Meta { meta: Box::new(meta), is_right })
    }

    /// Sends what is missing or wrong, meta.json last, and checks that all of it is there.
    fn repair(
        &self,
        mut claim: Claim,
        stored: StoredMeta,
        findings: &[Finding],
        is_shipped: bool,
        stop: &Stop,
    ) -> Result<()> {
        let Audit { disk, bucket, labels, .. } = *self.audit;
        let uploader = Uploader { disk, bucket, concurrency: 1, sha256: false, gate: None };
        if !is_shipped && matches!(stored, StoredMeta::Missing) && self.meta.level > 1 {
            let text = "a compacted block is shipped by the sidecar, which looks for overlaps";
            return Err(Error::new(Kind::Permanent, text));
        }
        let writes_meta = match stored {
            StoredMeta::Meta { is_right: true, .. } => false,
            // The block was shipped with the labels that it has in the bucket.
            StoredMeta::Meta { meta, .. } if !meta.labels.is_empty() => {
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
            return uploader.upload(&claim, &|| Ok(true), stop).map(drop);
        }
        let files = uploader.gather(&claim, stop)?;
        uploader.complete(&claim, &files, stop).map(drop)
    }
}
