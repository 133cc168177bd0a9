//! The kinds of trouble that histories are drawn with, and which of them the shipper is known not to stand yet.
//!
//! A history is drawn as if all were on, and then loses what is off: the rest of it stays as it was.

use std::fmt;

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Prometheus compacts blocks that the shipper has not seen yet, and others put compacted blocks into its directory.
    EarlyCompaction,
    /// Reads fail (EIO), of blocks and of all else, once or for a time.
    ReadErrors,
    /// The ledger cannot be read, is removed, or is garbage; the bucket's compactor takes blocks that it does not list.
    LostLedger,
    /// The ledger cannot be written for some time.
    StaleLedger,
    /// Claims have little room while compacted blocks are shipped.
    CompactedBudget,
    /// Blocks are copied in file by file, over several ticks.
    SlowCopies,
    /// One claim, or the folder of all, cannot be read.
    UnreadableClaims,
    /// The meta.json of a claim becomes garbage.
    GarbageClaims,
    /// What is on the disk cannot be asked about (EACCES, ESTALE, …) for some time.
    UnknownBlocks,
    /// The disk has no room for some time.
    DiskFull,
    /// One operation on the disk fails, whichever it is.
    OneFault,
    /// Files of blocks vanish or become empty.
    Damage,
    /// That happens within a tick too, so between the look at a block's files and the links to them.
    DamageWithin,
    /// The bucket refuses, does not answer, loses what it has acknowledged, or lies.
    BadBucket,
    /// The process dies, or the machine loses power.
    Deaths,
    /// One block stays unreadable for ever.
    Lasting,
}

use Feature::*;

/// All kinds.
pub(crate) const ALL: &[Feature] = &[
    EarlyCompaction,
    ReadErrors,
    LostLedger,
    StaleLedger,
    CompactedBudget,
    SlowCopies,
    UnreadableClaims,
    GarbageClaims,
    UnknownBlocks,
    DiskFull,
    OneFault,
    Damage,
    DamageWithin,
    BadBucket,
    Deaths,
    Lasting,
];

/// What the shipper is known not to stand yet. Each line goes when its fault is mended.
pub(crate) const KNOWN: &[(Feature, &str)] = &[];

/// The kinds that are on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features(u32);

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(ALL.iter().filter(|feature| self.has(**feature))).finish()
    }
}

impl Features {
    /// All but the known ones, or what `PILLION_FEATURES` says: `all`, `none`, or names; `+Name` and `-Name` change what
    /// is on by default.
    pub(crate) fn wanted() -> Features {
        let default = ALL.iter().filter(|on| KNOWN.iter().all(|(known, _)| known != *on));
        let mut features = Features::of(default);
        let text = std::env::var("PILLION_FEATURES").unwrap_or_default();
        let mut is_first = true;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "all" => features = Features::of(ALL),
                "none" => features = Features(0),
                word => {
                    let name = word.trim_start_matches(['+', '-']);
                    let found = ALL.iter().find(|feature| format!("{feature:?}") == name);
                    let bit = found.unwrap_or_else(|| panic!("PILLION_FEATURES: {name} is none of {ALL:?}")).bit();
                    if is_first && name == word {
                        features = Features(0);
                    }
                    if word.starts_with('-') { features.0 &= !bit } else { features.0 |= bit }
                }
            }
            is_first = false;
        }
        features
    }

    fn of<'a>(on: impl IntoIterator<Item = &'a Feature>) -> Features {
        Features(on.into_iter().fold(0, |bits, feature| bits | feature.bit()))
    }

    pub(crate) fn has(self, feature: Feature) -> bool {
        self.0 & feature.bit() != 0
    }
}

impl Feature {
    fn bit(self) -> u32 {
        1 << self as u32
    }
}
