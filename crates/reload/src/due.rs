//! When the files are looked at next: when changes have settled, when a failed reload is tried again, when a check is due.
//! Pure.

use std::time::{Duration, Instant};

use crate::limits;

/// The three reasons to look, and their times.
pub(crate) struct Due {
    debounce: Duration,
    watch_interval: Option<Duration>,
    retry_interval: Duration,
    /// The first and the last change that nobody has looked at.
    changed: Option<(Instant, Instant)>,
    retry: Option<Instant>,
    check: Option<Instant>,
}

impl Due {
    /// Nothing has changed yet; the first check is due after `watch_interval`, which is never without one.
    pub(crate) fn new(
        now: Instant,
        debounce: Duration,
        watch_interval: Option<Duration>,
        retry_interval: Duration,
    ) -> Self {
        let check = watch_interval.map(|time| now + time);
        Due { debounce, watch_interval, retry_interval, changed: None, retry: None, check }
    }

    /// Something has changed.
    pub(crate) fn change(&mut self, now: Instant) {
        let first = self.changed.map_or(now, |(first, _)| first);
        self.changed = Some((first, now));
    }

    /// Whether changes are settling.
    pub(crate) fn is_settling(&self) -> bool {
        self.changed.is_some()
    }

    /// The time; `None` is when something changes. While changes settle nothing else is due, because it would read half of
    /// them.
    pub(crate) fn next(&self) -> Option<Instant> {
        match self.changed {
            Some((first, last)) => Some((last + self.debounce).min(first + self.debounce * limits::SETTLE_FACTOR)),
            None => self.retry.into_iter().chain(self.check).min(),
        }
    }

    /// The files are looked at now. With `is_sure` all of them could be read and are watched; otherwise the next look is soon.
    pub(crate) fn looked(&mut self, now: Instant, is_sure: bool) {
        let unsure = (!is_sure).then_some(limits::UNWATCHED_INTERVAL);
        let time = self.watch_interval.into_iter().chain(unsure).min();
        (self.changed, self.retry) = (None, None);
        self.check = time.map(|time| now + time);
    }

    /// A reload has failed. Changes that have come meanwhile count first.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.retry = Some(now + self.retry_interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps (what, at which second) → the second at which something is due.
    fn check(watch_interval_s: Option<u64>, steps: &[(&str, u64)], expected: Option<u64>) {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let interval = watch_interval_s.map(Duration::from_secs);
        let mut due = Due::new(start, Duration::from_secs(1), interval, Duration::from_secs(5));
        for (step, second) in steps {
            match *step {
                "change" => due.change(at(*second)),
                "looked" => due.looked(at(*second), true),
                "unsure" => due.looked(at(*second), false),
                _ => due.failed(at(*second)),
            }
        }
        assert_eq!(due.next(), expected.map(at), "{watch_interval_s:?} {steps:?}");
        assert_eq!(due.is_settling(), steps.last().is_some_and(|(step, _)| *step == "change"), "{steps:?}");
    }

    #[test]
    fn when() {
        check(Some(180), &[], Some(180));
        check(None, &[], None);
        check(None, &[("looked", 3)], None);
        check(Some(180), &[("looked", 3)], Some(183));
        check(Some(180), &[("change", 3)], Some(4));
        check(Some(180), &[("change", 3), ("change", 4)], Some(5));
        check(Some(180), &[("change", 3), ("change", 13)], Some(13));
        check(Some(180), &[("looked", 3), ("failed", 4)], Some(9));
        check(Some(3), &[("looked", 3), ("failed", 4)], Some(6));
        check(None, &[("looked", 3), ("failed", 4), ("change", 4)], Some(5));
        check(None, &[("failed", 4), ("change", 4), ("looked", 5)], None);
        check(None, &[("unsure", 3)], Some(33));
        check(Some(180), &[("unsure", 3)], Some(33));
        check(Some(10), &[("unsure", 3)], Some(13));
    }
}
