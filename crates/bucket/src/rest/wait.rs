//! The waits between requests: before another attempt, and while a store asks for fewer requests. All requests of a bucket
//! pass a gate, which closes for that while.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pillion_base::error::{Error, Kind, Result};
use pillion_base::stop::Stop;

/// The waits between attempts. The defaults after a failure are minio-go's. A store that asks for fewer requests gets a
/// rest, which grows to tens of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// The longest wait after the first failure; it doubles with each further one.
    pub step: Duration,
    /// The limit of that.
    pub step_max: Duration,
    /// The longest first rest; it doubles with each further one.
    pub rest: Duration,
    /// The limit of that.
    pub rest_max: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Waits {
            step: Duration::from_millis(200),
            step_max: Duration::from_secs(1),
            rest: Duration::from_secs(1),
            rest_max: Duration::from_secs(40),
        }
    }
}

/// The wait after failure `n_failed`, from 1. It is random, so that many clients do not come back at once.
pub(crate) fn wait_after(n_failed: u32, waits: &Waits) -> Duration {
    scaled(doubled(waits.step, n_failed.saturating_sub(1), waits.step_max), random_share())
}

/// The rest before an object is sent again that was not stored as it was sent `n_failed` times.
pub(crate) fn rest_after(n_failed: u32, waits: &Waits) -> Duration {
    if n_failed == 0 { Duration::ZERO } else { doubled(waits.rest, n_failed - 1, waits.rest_max) }
}

fn doubled(first: Duration, n_times: u32, most: Duration) -> Duration {
    first.saturating_mul(2u32.saturating_pow(n_times.min(30))).min(most)
}

/// Multiplies by `share` / 65536.
fn scaled(time: Duration, share: u32) -> Duration {
    time.saturating_mul(share) / 65536
}

fn random_share() -> u32 {
    // Each RandomState has random keys of its own.
    u32::try_from(RandomState::new().build_hasher().finish() & 0xffff).unwrap_or_default()
}

/// Passed by every request before it is sent.
#[derive(Default)]
pub(crate) struct Gate(Mutex<Rest>);

#[derive(Default)]
struct Rest {
    until: Option<Instant>,
    begun: Option<Instant>,
    n_rests: u32,
}

impl Gate {
    /// `Blocks:` while the store rests. `Errors:` `Stopped`.
    pub(crate) fn pass(&self, stop: &Stop) -> Result<Instant> {
        loop {
            let now = Instant::now();
            let left = self.rest().until.map(|until| until.saturating_duration_since(now)).unwrap_or_default();
            if left.is_zero() {
                stop.check()?;
                return Ok(now);
            }
            if stop.wait(left) {
                return Err(Error::new(Kind::Stopped, "stopping"));
            }
        }
    }

    /// Closes the gate, because the store refused a request that passed it at `passed`, and returns for how long.
    /// Several requests that were under way together cause one rest.
    pub(crate) fn close(&self, passed: Instant, asked_for: Option<Duration>, waits: &Waits) -> Duration {
        let now = Instant::now();
        let mut rest = self.rest();
        if rest.begun.is_none_or(|begun| passed >= begun) {
            let most = doubled(waits.rest, rest.n_rests, waits.rest_max);
            // At least half of it: a random rest could be next to nothing.
            let time = (most / 2).saturating_add(scaled(most / 2, random_share()));
            let time = time.max(asked_for.unwrap_or_default().min(waits.rest_max));
            rest.n_rests = rest.n_rests.saturating_add(1);
            rest.begun = Some(now);
            rest.until = now.checked_add(time);
        }
        rest.until.map(|until| until.saturating_duration_since(now)).unwrap_or_default()
    }

    /// Forgets earlier rests little by little, as requests succeed.
    pub(crate) fn succeeded(&self) {
        let mut rest = self.rest();
        rest.n_rests = rest.n_rests.saturating_sub(1);
    }

    fn rest(&self) -> std::sync::MutexGuard<'_, Rest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::stop::stop_pair;

    #[test]
    fn waits_grow_to_their_limit() {
        let waits = Waits::default();
        for (n_failed, most_ms) in [(1, 200), (2, 400), (3, 800), (4, 1000), (40, 1000)] {
            for _ in 0..50 {
                assert!(wait_after(n_failed, &waits) < Duration::from_millis(most_ms));
            }
        }
        let different: std::collections::BTreeSet<Duration> = (0..50).map(|_| wait_after(4, &waits)).collect();
        assert!(different.len() > 10, "{different:?}");
    }

    #[test]
    fn one_rest_for_all_that_were_under_way_and_longer_ones_after_it() {
        let (_stopper, stop) = stop_pair().unwrap();
        let waits = Waits { rest: Duration::from_secs(100), rest_max: Duration::from_secs(400), ..Waits::default() };
        let gate = Gate::default();
        let passed = gate.pass(&stop).unwrap();
        let first = gate.close(passed, None, &waits);
        assert!((50..=100).contains(&first.as_secs()), "{first:?}");
        assert!(gate.close(passed, None, &waits) <= first);
        let second = gate.close(Instant::now(), None, &waits);
        assert!((100..=200).contains(&second.as_secs()), "{second:?}");
        for _ in 0..9 {
            assert!(gate.close(Instant::now(), Some(Duration::from_secs(9999)), &waits).as_secs() <= 400);
        }
        gate.succeeded();
        assert_eq!(gate.rest().n_rests, 10);
    }

    #[test]
    fn a_rest_ends_with_the_stop() {
        let (stopper, stop) = stop_pair().unwrap();
        let gate = Gate::default();
        let waits = Waits { rest: Duration::from_secs(1000), rest_max: Duration::from_secs(1000), ..Waits::default() };
        gate.close(gate.pass(&stop).unwrap(), None, &waits);
        stopper.stop();
        assert_eq!(gate.pass(&stop).unwrap_err().kind(), Kind::Stopped);
    }
}
