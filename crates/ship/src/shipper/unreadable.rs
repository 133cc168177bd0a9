//! Blocks that the disk cannot read now: kept, and tried again less and less often. Never gives a claim up.

use std::time::Instant;

use super::{Shipper, TickReport, Unreadable};
use crate::LOG_TARGET;
use crate::ledger::LedgerEntry;
use crate::limits;
use crate::plan::Found;
use crate::scan;
use pillion_base::error::Error;

impl Shipper {
    /// Sets a block aside that the disk cannot read now, and keeps its claim. It is listed once it could not be read again
    /// and again for a day.
    pub(super) fn cannot_read(&mut self, found: &Found, err: &Error, report: &mut TickReport) -> Option<LedgerEntry> {
        report.n_failed += 1;
        let (ulid, now) = (found.ulid, Instant::now());
        let fingerprint = scan::fingerprint(&self.config.disk, &found.dir);
        if self.unreadable.get(&ulid).is_none_or(|known| known.fingerprint != fingerprint) {
            let begun = Unreadable { since: now, next: now, n_failed: 0, fingerprint: fingerprint.clone() };
            self.unreadable.insert(ulid, begun);
        }
        let listed = self.ledger.entry(ulid);
        let first_wait = self.config.unreadable_wait;
        let known = self.unreadable.get_mut(&ulid)?;
        self.backlog.quarantined.insert(ulid.to_string(), format!("cannot be read, and is tried again: {err}"));
        if now < known.next {
            return listed;
        }
        let wait =
            first_wait.saturating_mul(2_u32.saturating_pow(known.n_failed.min(20))).min(limits::UNREADABLE_WAIT_MAX);
        known.n_failed += 1;
        known.next = now.checked_add(wait).unwrap_or(now);
        let is_over = known.n_failed > 1 && known.since.elapsed() >= self.config.unreadable_time;
        let n_failed = known.n_failed;
        if is_over {
            self.unreadable.remove(&ulid);
            let text = format!("the disk could not read it for {:?}: {err}", self.config.unreadable_time);
            return Some(self.quarantine(found, &err.clone().context(text), Some(fingerprint), report));
        }
        self.count(err, report);
        log::warn!(target: LOG_TARGET, block = ulid.as_str(), err = err.to_string(), attempts = n_failed, next_seconds = wait.as_secs();
            "block cannot be read from the disk now; it is kept and tried again, and other blocks are not held up");
        listed
    }

    /// Whether a block that could not be read waits for its next attempt.
    pub(super) fn rests(&mut self, found: &Found) -> bool {
        let Some(known) = self.unreadable.get(&found.ulid) else { return false };
        if Instant::now() >= known.next || known.fingerprint != scan::fingerprint(&self.config.disk, &found.dir) {
            return false;
        }
        self.backlog.quarantined.insert(found.ulid.to_string(), "cannot be read, and is tried again".to_owned());
        true
    }
}
