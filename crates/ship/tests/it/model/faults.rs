//! Operations on the disk that fail, once or for some time.

use std::path::{Path, PathBuf};

use pillion_base::files::{Op, Step};
use pillion_ship::Ulid;

use super::features::Feature;
use super::history::FaultKind;
use super::machine::Machine;
use super::random::Random;

const EIO: i32 = 5;
const EACCES: i32 = 13;
const ENOSPC: i32 = 28;
const ESTALE: i32 = 116;

type Fails = Box<dyn Fn(&Step<'_>) -> bool + Send>;

/// Operations that fail.
pub(crate) struct Fault {
    fails: Fails,
    pub(super) errno: i32,
    /// How many of them go well first, and how many fail.
    n_spared: u64,
    n_left: u64,
    /// The block that is hit; all may be if there is none.
    pub(super) block: Option<Ulid>,
}

impl Fault {
    /// Whether this step fails.
    pub(super) fn strikes(&mut self, step: &Step<'_>) -> bool {
        if self.n_left == 0 || !(self.fails)(step) {
            return false;
        }
        if self.n_spared > 0 {
            self.n_spared -= 1;
            return false;
        }
        self.n_left -= 1;
        true
    }
}

fn is_in(path: &Path, dir: Option<&PathBuf>) -> bool {
    dir.is_some_and(|dir| path.starts_with(dir))
}

fn asks(op: Op) -> bool {
    matches!(op, Op::Stat | Op::List | Op::Open | Op::Read)
}

impl Machine {
    /// Makes operations fail, of a block that is there where one is needed.
    pub(crate) fn break_disk(&mut self, kind: FaultKind, random: &mut Random) {
        let one_block = matches!(kind, FaultKind::BlockRead | FaultKind::BlockStat | FaultKind::Claim);
        let all: Vec<Ulid> = match kind {
            FaultKind::Claim => self.claims(),
            _ => self.prometheus.whole().collect(),
        };
        let block = random.pick(&all).filter(|_| one_block);
        if block.is_none() && one_block {
            return;
        }
        let name = random.pick(&["", "", "meta.json", "index", "chunks"]).unwrap_or("");
        let n_many = random.pick(&[1, 3, 20, u64::MAX]).unwrap_or(1);
        let reads_fail = self.features.has(Feature::ReadErrors);
        let errno = match kind {
            FaultKind::BlockRead => EIO,
            FaultKind::Once if !reads_fail => random.pick(&[ENOSPC, EACCES, ESTALE, ENOSPC]).unwrap_or(ENOSPC),
            FaultKind::Once => random.pick(&[EIO, EIO, EACCES, ESTALE, ENOSPC]).unwrap_or(EIO),
            _ => random.pick(&[EIO, EIO, EACCES, ESTALE]).unwrap_or(EIO),
        };
        let is_once = kind == FaultKind::Once;
        let n_spared = if is_once { random.below(100) } else { random.pick(&[0, 0, 1, 3]).unwrap_or(0) };
        let n_left = if is_once { 1 } else { n_many };
        self.faults.push(Fault { fails: self.fails(kind, block, name), errno, n_spared, n_left, block });
    }

    /// One block becomes unreadable, and stays so.
    pub(crate) fn break_for_ever(&mut self, random: &mut Random) {
        let whole: Vec<Ulid> = self.prometheus.whole().collect();
        self.lasting = random.pick(&whole);
        if let Some(block) = self.lasting {
            let fails = self.fails(FaultKind::BlockRead, Some(block), "");
            self.faults.push(Fault { fails, errno: EIO, n_spared: 0, n_left: u64::MAX, block: Some(block) });
        }
    }

    /// Which operations fail. `name` is a part of a block, all of it if it is empty.
    fn fails(&self, kind: FaultKind, block: Option<Ulid>, name: &'static str) -> Fails {
        let (data_dir, ledger) = (self.data_dir.clone(), self.prometheus.ledger_path());
        let claims_dir = data_dir.join("thanos/upload");
        let of_block = block.map(|ulid| data_dir.join(ulid.as_str()));
        let of_claim = block.map(|ulid| claims_dir.join(ulid.as_str()));
        let features = self.features;
        match kind {
            FaultKind::Once => Box::new(move |step| {
                let of_ledger = asks(step.op) && step.path == ledger;
                let of_claims = asks(step.op) && step.path.starts_with(&claims_dir);
                let of_others = asks(step.op) && !of_ledger && !of_claims;
                (features.has(Feature::LostLedger) || !of_ledger)
                    && (features.has(Feature::UnreadableClaims) || !of_claims)
                    && (features.has(Feature::UnknownBlocks) || !of_others)
            }),
            // The bad sector is under all links of a file.
            FaultKind::BlockRead => Box::new(move |step| {
                let in_claim = is_in(step.path, of_claim.as_ref()) && !step.path.ends_with("meta.json");
                let is_its = is_in(step.path, of_block.as_ref()) || in_claim;
                step.op == Op::Read && is_its && (name.is_empty() || step.path.to_string_lossy().contains(name))
            }),
            FaultKind::BlockStat => Box::new(move |step| {
                matches!(step.op, Op::Stat | Op::List | Op::Open) && is_in(step.path, of_block.as_ref())
            }),
            FaultKind::Claim => Box::new(move |step| asks(step.op) && is_in(step.path, of_claim.as_ref())),
            FaultKind::Claims => Box::new(move |step| step.op == Op::List && step.path == claims_dir),
            FaultKind::Ledger => Box::new(move |step| asks(step.op) && step.path == ledger),
            FaultKind::LedgerWrite => Box::new(move |step| {
                let changes = matches!(step.op, Op::Create | Op::Write | Op::SyncFile | Op::Rename);
                changes && step.path.to_string_lossy().starts_with(&*ledger.to_string_lossy())
            }),
            FaultKind::DataDir => Box::new(move |step| step.op == Op::List && step.path == data_dir),
            FaultKind::Links => Box::new(|step| step.op == Op::Link),
        }
    }
}
