//! Decides when reads of a connection are gathered. Pure.
//!
//! Prometheus writes every series by itself, so that a reader who takes what is there wakes up for each of them. After
//! many small reads in a row a reader waits for more, but never for longer than a small part of the time that the answer
//! takes anyway: the end of an answer is found by such a wait.

use std::time::{Duration, Instant};

/// Bytes that end a wait.
pub(super) const WANTED_BYTES: u32 = 64 * 1024;
/// A read below this is a small one.
const SMALL_BYTES: usize = 16 * 1024;
/// Small reads in a row, each after a wait, before reads are gathered. A small answer has fewer.
const SMALL_READS: u32 = 16;
/// Longest wait for more. Prometheus writes some 50 KiB in it.
const WAIT_MAX: Duration = Duration::from_millis(2);
/// A wait takes at most this part of the time since the request.
const WAIT_PART: u32 = 8;

/// What one connection has seen of an answer.
#[derive(Debug)]
pub(super) struct Gather {
    since: Instant,
    n_small: u32,
    is_on: bool,
    /// The last read took all it could, so that there may be more already.
    has_more: bool,
}

impl Gather {
    /// Nothing read yet.
    pub(super) fn new(now: Instant) -> Self {
        Gather { since: now, n_small: 0, is_on: false, has_more: false }
    }

    /// How long to wait for [`WANTED_BYTES`] before the next read; `None` to read at once.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let most = || WAIT_MAX.min(now.saturating_duration_since(self.since) / WAIT_PART);
        (self.is_on && !self.has_more).then(most)
    }

    /// Whether reads are gathered.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// A read of `n_bytes` into room for `room_bytes`, `waited` for because nothing was there. True when reads are to be
    /// gathered from now on.
    pub(super) fn read(&mut self, n_bytes: usize, room_bytes: usize, waited: bool) -> bool {
        self.has_more = n_bytes == room_bytes;
        if n_bytes >= SMALL_BYTES {
            self.n_small = 0;
        } else if waited {
            self.n_small += 1;
        }
        let begins = !self.is_on && self.n_small >= SMALL_READS;
        self.is_on |= begins;
        begins
    }

    /// Nothing came although it was waited for: the peer is slow, and whatever comes next is wanted at once.
    pub(super) fn nothing_came(&mut self) {
        self.is_on = false;
        self.n_small = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: (usize, bool) = (200, true);

    fn after(reads: &[(usize, bool)]) -> Gather {
        let mut gather = Gather::new(Instant::now());
        for (n_bytes, waited) in reads {
            gather.read(*n_bytes, 32 * 1024, *waited);
        }
        gather
    }

    #[test]
    fn only_many_small_reads_in_a_row_are_gathered() {
        let check = |reads: &[(usize, bool)], expected: bool| assert_eq!(after(reads).is_on(), expected, "{reads:?}");
        let n = SMALL_READS as usize;
        check(&[], false);
        check(&vec![SMALL; n - 1], false);
        check(&vec![SMALL; n], true);
        // What was there already costs no wake-up.
        check(&vec![(200, false); 2 * n], false);
        check(&[vec![SMALL; n - 1], vec![(SMALL_BYTES, true)], vec![SMALL; n - 1]].concat(), false);
        check(&[vec![SMALL; n], vec![(32 * 1024, true)]].concat(), true);
    }

    #[test]
    fn a_wait_is_a_small_part_of_the_answer() {
        let mut gather = after(&[SMALL; SMALL_READS as usize]);
        let at = |ms: u64| gather.since + Duration::from_millis(ms);
        assert_eq!(gather.wait(at(0)), Some(Duration::ZERO));
        assert_eq!(gather.wait(at(8)), Some(Duration::from_millis(1)));
        assert_eq!(gather.wait(at(1000)), Some(WAIT_MAX));
        let later = at(1000);
        gather.read(100, 100, true);
        assert_eq!(gather.wait(later), None, "there may be more");
        gather.read(10, 100, true);
        assert_eq!(gather.wait(later), Some(WAIT_MAX));
        gather.nothing_came();
        assert_eq!((gather.wait(later), gather.is_on()), (None, false));
    }
}
