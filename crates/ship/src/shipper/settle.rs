//! When a block is whole: once two looks saw the same files. One that is copied in (cp, rsync, mv from another file system)
//! has its name before it is done. Never ships a block.

use std::time::Instant;

use super::{Look, Shipper};
use crate::LOG_TARGET;
use crate::limits;
use crate::meta::Meta;
use crate::plan::{Action, Found, Planned};
use crate::scan::{self, Fingerprint};
use crate::ulid::Ulid;
use crate::whole;

impl Shipper {
    /// Looks which blocks may still be written, such as one that is copied in. A block that Prometheus writes gets its name
    /// when it is whole, but nothing tells the two apart. Both are claimed at once, and shipped once they have settled.
    pub(super) fn look(&mut self, planned: &[Planned]) {
        let before = std::mem::take(&mut self.looks);
        let (disk, time) = (self.config.disk.clone(), self.config.settle_time);
        for one in planned {
            let found = one.found;
            let may_be_new = match &one.action {
                Action::Ship(_) | Action::StandIn(_) => true,
                // Damaged, or not whole yet.
                Action::ListCorrupt(_) => !self.quarantine.contains_key(&found.ulid),
                _ => false,
            };
            if !may_be_new || time.is_zero() || self.settled.contains_key(&found.ulid) {
                continue;
            }
            let look = before.get(&found.ulid);
            if !found.is_local {
                let Some(Look { since, fingerprint }) = look else { continue };
                let claim = self.claims.get(found.ulid);
                match claim.map_or(Ok(false), |claim| whole::is_whole(claim, &disk)) {
                    Ok(true) => drop(self.settled.insert(found.ulid, Fingerprint::new())),
                    Ok(false) => self.gives_up_torn(found.ulid, planned),
                    // Nothing is known while it cannot be read.
                    Err(_) => {
                        let look = Look { since: *since, fingerprint: fingerprint.clone() };
                        self.looks.insert(found.ulid, look);
                    }
                }
                continue;
            }
            if scan::is_old(&disk, &found.dir, time.max(limits::SETTLED_AGE)) {
                continue;
            }
            let Ok(fingerprint) = scan::look(&disk, &found.dir) else {
                // Nothing is known of it now, so what was known stays, and it waits.
                let look = look.map(|look| Look { since: look.since, fingerprint: look.fingerprint.clone() });
                let begun = || Look { since: Instant::now(), fingerprint: Fingerprint::new() };
                self.looks.insert(found.ulid, look.unwrap_or_else(begun));
                continue;
            };
            match look {
                Some(look) if look.fingerprint == fingerprint && look.since.elapsed() >= time => {
                    self.settled.insert(found.ulid, fingerprint);
                }
                Some(look) if look.fingerprint == fingerprint => {
                    self.looks.insert(found.ulid, Look { since: look.since, fingerprint });
                }
                _ => {
                    // Its links may be to files that others have replaced since, or some may be missing. Where the block
                    // itself is damaged now, the claim is the better one.
                    let is_of_others = self.claims.is_of_others(found.ulid, &found.dir).unwrap_or(false);
                    let is_whole = |meta: &Meta| scan::examine(&disk, &found.dir, meta).is_ok();
                    if is_of_others && found.meta.as_ref().is_ok_and(is_whole) {
                        self.claims.end(found.ulid);
                    }
                    self.looks.insert(found.ulid, Look { since: Instant::now(), fingerprint });
                }
            }
        }
    }

    /// Ends the claim of a block that was removed before it had settled, and that its own files do not show to be whole.
    fn gives_up_torn(&mut self, ulid: Ulid, planned: &[Planned]) {
        if self.claims.get(ulid).is_none() {
            return;
        }
        self.claims.end(ulid);
        let others = planned.iter().filter(|other| other.found.ulid != ulid);
        let metas = others.filter_map(|other| other.found.meta.as_ref().ok());
        if metas.flat_map(Meta::covered).any(|source| source == ulid) {
            log::debug!(target: LOG_TARGET, block = ulid.as_str(); "block was merged into another one before it had settled; that one is shipped");
            return;
        }
        log::error!(target: LOG_TARGET, block = ulid.as_str();
            "block is given up: it was removed before it was known to be whole, and some of it is missing");
        self.backlog.n_given_up += 1;
    }

    /// Whether a block that had settled is being written again, as by a copy that stood still. Then it has to settle anew.
    pub(super) fn has_gone_on(&mut self, found: &Found, now: &Fingerprint) -> bool {
        let is_other = |settled: &Fingerprint| !settled.is_empty() && !scan::is_same_content(settled, now);
        let has_gone_on = self.settled.get(&found.ulid).is_some_and(is_other)
            // Prometheus may be removing it.
            && !scan::is_gone(&self.config.disk, &found.dir);
        if has_gone_on {
            self.settled.remove(&found.ulid);
        }
        has_gone_on
    }
}
