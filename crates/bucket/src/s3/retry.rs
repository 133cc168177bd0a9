//! What is done about a refusal: whether to ask again, and what to correct first. Pure.

use super::fault::{self, Refusal};

/// What to do about a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Return the error.
    GiveUp,
    /// Retry after a short wait.
    Retry,
    /// Retry after a rest.
    Rest,
    /// Retry with other keys.
    RenewKeys,
    /// Retry in this region.
    MoveToRegion(String),
    /// Retry with the store's time. `Units:` s, to be added to the clock.
    SetClock(i64),
}

/// The attempts of one request.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    n_failed: u32,
    has_renewed: bool,
    has_moved: bool,
    has_set_clock: bool,
}

impl Attempts {
    /// Decides after a refusal; each remedy is tried once.
    pub(super) fn next(&mut self, refusal: &Refusal, has_token: bool, region: &str) -> Next {
        if refusal.status >= 400 && !self.has_renewed && fault::is_expired(refusal, has_token) {
            self.has_renewed = true;
            return Next::RenewKeys;
        }
        let is_about_time = refusal.status == 403 || refusal.code == "RequestTimeTooSkewed";
        if is_about_time && !self.has_set_clock && fault::is_skewed(refusal.skew_s) {
            self.has_set_clock = true;
            return Next::SetClock(refusal.skew_s);
        }
        let is_other = !refusal.region.is_empty() && refusal.region != region;
        if is_other && !self.has_moved && fault::is_other_region(refusal) {
            self.has_moved = true;
            return Next::MoveToRegion(refusal.region.clone());
        }
        if fault::is_throttling(refusal.status, &refusal.code) {
            return Next::Rest;
        }
        let is_lost = refusal.is_alien && refusal.status == 404;
        if is_lost || fault::is_transient(refusal.status, &refusal.code) { Next::Retry } else { Next::GiveUp }
    }

    /// Counts a failure and returns how many there were; `None` after the last attempt.
    pub(super) fn failed(&mut self, attempts_max: u32) -> Option<u32> {
        self.n_failed = self.n_failed.saturating_add(1);
        (self.n_failed < attempts_max).then_some(self.n_failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_remedy_is_tried_once() {
        let refusal = |status, code: &str, skew_s, region: &str| Refusal {
            status,
            code: code.into(),
            skew_s,
            region: region.into(),
            ..Refusal::default()
        };
        let check = |refusal: Refusal, has_token, first: Next, second: Next| {
            let mut attempts = Attempts::default();
            assert_eq!(attempts.next(&refusal, has_token, "here"), first, "{refusal:?}");
            assert_eq!(attempts.next(&refusal, has_token, "here"), second, "{refusal:?}");
        };
        check(refusal(400, "ExpiredToken", 0, ""), false, Next::RenewKeys, Next::GiveUp);
        check(refusal(400, "", 0, ""), true, Next::RenewKeys, Next::GiveUp);
        check(refusal(400, "", 0, ""), false, Next::GiveUp, Next::GiveUp);
        check(refusal(403, "RequestTimeTooSkewed", 7200, ""), false, Next::SetClock(7200), Next::GiveUp);
        check(refusal(403, "", -7200, ""), false, Next::SetClock(-7200), Next::GiveUp);
        check(refusal(403, "AccessDenied", 100, ""), false, Next::GiveUp, Next::GiveUp);
        check(refusal(301, "", 0, "there"), false, Next::MoveToRegion("there".into()), Next::GiveUp);
        check(refusal(301, "", 0, "here"), false, Next::GiveUp, Next::GiveUp);
        check(refusal(404, "NoSuchKey", 0, "there"), false, Next::GiveUp, Next::GiveUp);
        check(refusal(503, "", 0, ""), false, Next::Rest, Next::Rest);
        check(refusal(500, "InternalError", 9000, ""), false, Next::Retry, Next::Retry);
    }
}
