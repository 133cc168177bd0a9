//! The rate limit of uploads: bytes per second over all connections together. It can change during an upload.
//!
//! Bytes are taken from the allowance before they are sent, so that no period sees more than its share and the burst.
//! The limit never splits or reorders what is sent, and costs next to nothing while there is none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits;
use pillion_base::error::Result;
use pillion_base::notify::Notify;
use pillion_base::stop::Stop;

const NANOS: u128 = 1_000_000_000;

/// A shared allowance of bytes. Cheap to clone; clones share the allowance. The default has no limit.
#[derive(Clone, Default)]
pub struct Pace(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Bytes per second, readable without a lock; 0 is no limit.
    rate: AtomicU64,
    /// Bytes that were let through.
    sent: AtomicU64,
    allowance: Mutex<Option<(Instant, Allowance)>>,
    changes: Notify,
}

impl Pace {
    /// Bytes per second; 0 is no limit.
    pub fn rate(&self) -> u64 {
        self.0.rate.load(Ordering::Relaxed)
    }

    /// Bytes that were sent since the start, those of failed attempts among them.
    pub fn sent_bytes(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Changes the rate; it applies at once to threads that wait, too.
    pub fn change(&self, rate: u64) {
        let mut allowance = self.0.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        match allowance.as_mut().filter(|_| rate > 0) {
            Some((begun, allowance)) => allowance.change(rate, begun.elapsed()),
            None => *allowance = (rate > 0).then(|| (Instant::now(), Allowance::new(rate))),
        }
        self.0.rate.store(rate, Ordering::Relaxed);
        drop(allowance);
        self.0.changes.notify_all();
    }

    /// How much of `bytes` to take and send at once: as much as a burst, so that a slow link is not silent for many
    /// seconds and then flooded.
    pub(crate) fn piece(&self, bytes: usize) -> usize {
        match self.rate() {
            0 => bytes,
            rate => bytes.min(usize::try_from(burst(rate)).unwrap_or(usize::MAX)).max(1),
        }
    }

    /// Takes `bytes` from the allowance. `Blocks:` until there is enough of it. `Errors:` `Stopped`.
    pub(crate) fn take(&self, bytes: usize, stop: &Stop) -> Result<()> {
        stop.check()?;
        let mut owed = bytes as u64;
        while owed > 0 && self.rate() > 0 {
            let changed = self.0.changes.watch();
            let wait = {
                let mut allowance = self.0.allowance.lock().unwrap_or_else(PoisonError::into_inner);
                let Some((begun, allowance)) = allowance.as_mut() else { break };
                owed -= allowance.take(owed, begun.elapsed());
                allowance.wait_for(owed)
            };
            if owed > 0 {
                changed.wait(wait, stop)?;
            }
        }
        self.0.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// A token bucket: credit that grows with time and is taken in pieces.
///
/// A large amount is taken bit by bit. So several threads share the rate, and none waits for a moment in which the
/// others leave enough for all of it.
struct Allowance {
    rate: u64,
    /// Bytes that may be sent, times 10⁹, so that no fraction is lost.
    credit: u128,
    /// The time up to which credit was given.
    given: Duration,
}

impl Allowance {
    fn new(rate: u64) -> Self {
        Allowance { rate, credit: 0, given: Duration::ZERO }
    }

    /// The most credit that an idle time leaves, in bytes. It is not above a second's worth, because at a rate of a few
    /// KiB the minimum alone would be more than the rate allows in a minute.
    fn burst(&self) -> u64 {
        burst(self.rate)
    }

    fn refill(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.given);
        self.given = self.given.max(now);
        let grown = elapsed.as_nanos().saturating_mul(u128::from(self.rate));
        self.credit = self.credit.saturating_add(grown).min(u128::from(self.burst()) * NANOS);
    }

    fn change(&mut self, rate: u64, now: Duration) {
        self.refill(now);
        self.rate = rate;
        self.refill(now);
    }

    /// Takes at most `wanted` bytes and returns how many it took.
    fn take(&mut self, wanted: u64, now: Duration) -> u64 {
        self.refill(now);
        let whole = u64::try_from(self.credit / NANOS).unwrap_or(u64::MAX);
        let taken = wanted.min(whole);
        self.credit -= u128::from(taken) * NANOS;
        taken
    }

    /// How long to wait before taking `owed` bytes: until there are as many, or the credit is full.
    fn wait_for(&self, owed: u64) -> Duration {
        let wanted = u128::from(owed.min(self.burst())) * NANOS;
        let nanos = wanted.saturating_sub(self.credit).div_ceil(u128::from(self.rate.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The burst at a rate.
fn burst(rate: u64) -> u64 {
    (rate / limits::PACE_BURST_DIVISOR).max(limits::PACE_BURST_BYTES_MIN).min(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::stop::stop_pair;
    use pillion_base::threads::spawn_thread;

    /// Bytes that `takers` connections send within `time` from `begin` on, each `piece` bytes after the other, when
    /// sending a piece takes `busy`.
    fn sent(
        allowance: &mut Allowance,
        begin: Duration,
        time: Duration,
        takers: usize,
        piece: u64,
        busy: Duration,
    ) -> u64 {
        let mut owed = vec![(begin, piece); takers];
        let mut sent = 0;
        loop {
            let next = owed.iter_mut().min_by_key(|(at, _)| *at).unwrap();
            let now = next.0;
            if now >= begin + time {
                return sent;
            }
            next.1 -= allowance.take(next.1, now);
            if next.1 > 0 {
                next.0 = now + allowance.wait_for(next.1).max(Duration::from_nanos(1));
            } else {
                sent += piece;
                *next = (now + busy, piece);
            }
        }
    }

    #[test]
    fn the_rate_holds_within_five_percent_over_all_connections() {
        for (rate, takers, piece, seconds) in [
            (1_000_000_000, 16, 128 * 1024, 6),
            (10_000_000, 1, 128 * 1024, 60),
            (10_000_000, 4, 128 * 1024, 60),
            (1_000_000, 8, 16 * 1024, 60),
            (125_000, 4, 16 * 1024, 60),
            (10_000, 2, 1024, 60),
            (1000, 1, 16, 60),
        ] {
            for idle in [Duration::ZERO, Duration::from_secs(3600)] {
                let mut allowance = Allowance::new(rate);
                // Each connection is busy for less than its share of the time.
                let busy = Duration::from_nanos(piece * 500_000_000 / rate);
                let sent = sent(&mut allowance, idle, Duration::from_secs(seconds), takers, piece, busy);
                let wanted = rate * seconds;
                let text = format!("{rate} B/s, {takers} connections, after {idle:?}: {sent} of {wanted}");
                assert!(sent <= wanted + wanted / 20, "{text}");
                assert!(sent + takers as u64 * piece >= wanted - wanted / 20, "{text}");
            }
        }
    }

    #[test]
    fn an_idle_time_leaves_a_tenth_of_a_second() {
        let check = |rate: u64, expected: u64| {
            let mut allowance = Allowance::new(rate);
            assert_eq!(allowance.take(u64::MAX, Duration::from_secs(600)), expected, "{rate}");
            assert_eq!(allowance.take(1, Duration::from_secs(600)), 0);
        };
        check(100_000_000, 10_000_000);
        check(100_000, 64 * 1024);
        check(1000, 1000);
        check(u64::MAX, u64::MAX / 10);
    }

    #[test]
    fn a_new_rate_keeps_no_more_than_its_burst_and_gives_nothing_for_the_past() {
        let mut allowance = Allowance::new(100_000_000);
        allowance.change(1_000_000, Duration::from_secs(1));
        assert_eq!(allowance.take(u64::MAX, Duration::from_secs(1)), 100_000);
        allowance.change(100_000_000, Duration::from_secs(1));
        assert_eq!(allowance.take(u64::MAX, Duration::from_secs(1)), 0);
        // A clock that steps back gives nothing, and takes nothing.
        assert_eq!(allowance.take(u64::MAX, Duration::ZERO), 0);
        assert_eq!(allowance.take(u64::MAX, Duration::from_millis(1010)), 1_000_000);
    }

    #[test]
    fn who_waits_notices_a_new_rate_and_the_stop_at_once() {
        let (stopper, stop) = stop_pair().unwrap();
        let pace = Pace::default();
        pace.change(1);
        for end in ["faster", "none", "stop"] {
            let (other, token) = (pace.clone(), stop.clone());
            let taker = spawn_thread("taker", None, move || other.take(1 << 20, &token)).unwrap();
            match end {
                "faster" => pace.change(1 << 40),
                "none" => pace.change(0),
                _ => stopper.stop(),
            }
            // At a byte per second this would last twelve days.
            assert_eq!(taker.join().unwrap().is_err(), end == "stop", "{end}");
            pace.change(1);
        }
        Pace::default().take(usize::MAX, &stop).unwrap_err();
    }

    #[test]
    fn what_goes_at_once_is_a_seconds_worth_at_most() {
        let pace = Pace::default();
        assert_eq!(pace.piece(usize::MAX), usize::MAX);
        for (rate, expected) in [(8000, 8000), (1, 1), (1_000_000, 100_000), (100_000_000, 131_072)] {
            pace.change(rate);
            assert_eq!(pace.piece(131_072), expected, "{rate}");
        }
    }

    #[test]
    fn without_a_limit_everything_goes_at_once() {
        let (_stopper, stop) = stop_pair().unwrap();
        let pace = Pace::default();
        pace.take(usize::MAX / 2, &stop).unwrap();
        pace.take(usize::MAX / 2, &stop).unwrap();
        assert_eq!((pace.rate(), pace.sent_bytes()), (0, u64::MAX - 1));
    }
}
