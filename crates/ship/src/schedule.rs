//! When uploads may begin and go on: a random delay, so that a fleet does not upload in the same second, and windows of
//! the day. Never touches bytes that are being sent: what is in flight when a window closes is finished.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::LOG_TARGET;
use crate::limits;
use crate::upload_limits::UploadLimits;
use crate::window;
use pillion_base::error::Result;
use pillion_base::notify::{Notified, Notify};
use pillion_base::stop::Stop;
use pillion_base::time::{format_go_duration, unix_ms};
use pillion_bucket::Pace;

/// Makes uploads wait until the limits let them begin or go on. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Schedule(Arc<Shared>);

struct Shared {
    clock: Box<dyn Clock>,
    pace: Pace,
    changes: Notify,
    state: Mutex<State>,
}

struct State {
    limits: UploadLimits,
    /// Whether uploads are under way, so that the next one needs no delay.
    has_begun: bool,
}

/// Time and randomness; tests have their own.
trait Clock: Send + Sync {
    /// Time since some moment; it never goes backwards.
    fn now(&self) -> Duration;
    /// Seconds since 1970.
    fn unix_s(&self) -> i64;
    /// A random number.
    fn random(&self) -> u64;
    /// Waits until a change, the stop, or the end of `time`.
    fn wait(&self, changes: &Notified, time: Duration, stop: &Stop) -> Result<()>;
}

struct RealClock(Instant);

impl Clock for RealClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn unix_s(&self) -> i64 {
        unix_ms(SystemTime::now()).div_euclid(1000)
    }

    fn random(&self) -> u64 {
        // Each state is keyed from the system's randomness and differs from all others.
        RandomState::new().hash_one(0_u8)
    }

    fn wait(&self, changes: &Notified, time: Duration, stop: &Stop) -> Result<()> {
        changes.wait(time, stop)
    }
}

impl Schedule {
    /// A schedule with these limits; it also sets the rate of `pace`.
    pub fn new(limits: UploadLimits, pace: Pace) -> Self {
        Schedule::with_clock(limits, pace, Box::new(RealClock(Instant::now())))
    }

    fn with_clock(limits: UploadLimits, pace: Pace, clock: Box<dyn Clock>) -> Self {
        pace.change(limits.rate_bytes);
        let state = Mutex::new(State { limits, has_begun: false });
        Schedule(Arc::new(Shared { clock, pace, changes: Notify::default(), state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limits that hold now.
    pub fn limits(&self) -> UploadLimits {
        self.state().limits.clone()
    }

    /// Zero while a window is open, else the time until the first one opens.
    pub fn opens_in(&self) -> Duration {
        window::opens_in(&self.state().limits.windows, self.0.clock.unix_s())
    }

    /// Changes the limits, for bytes that are being sent too. Whoever waits looks again.
    pub fn set_limits(&self, limits: UploadLimits) {
        self.0.pace.change(limits.rate_bytes);
        self.state().limits = limits;
        self.0.changes.notify_all();
    }

    /// The next upload is delayed at random again. To be called when nothing is left to upload.
    pub fn reset_jitter(&self) {
        self.state().has_begun = false;
    }

    /// Waits until the next object may be sent: until a window is open, and after an idle time for the random delay
    /// too.
    ///
    /// The window comes first, because the windows of a fleet open in the same second. `Blocks:` as long as that takes;
    /// a change of the limits counts at once. `Errors:` `Stopped`.
    pub fn wait_to_start(&self, stop: &Stop) -> Result<()> {
        let clock = &*self.0.clock;
        let share = clock.random();
        // When the delay began: at the call, or when the last window opened.
        let mut since = None;
        let mut is_logged = false;
        loop {
            stop.check()?;
            let changed = self.0.changes.watch();
            let (closed, delay) = {
                let mut state = self.state();
                let closed = window::opens_in(&state.limits.windows, clock.unix_s());
                let mut delay = Duration::ZERO;
                if closed.is_zero() {
                    if !state.has_begun {
                        let begin = *since.get_or_insert_with(|| clock.now());
                        delay = part(state.limits.jitter, share).saturating_sub(clock.now().saturating_sub(begin));
                    }
                    if delay.is_zero() {
                        state.has_begun = true;
                        return Ok(());
                    }
                } else {
                    // All sidecars that wait for the window would begin together, so the delay counts again from its
                    // opening.
                    state.has_begun = false;
                    since = None;
                }
                (closed, delay)
            };
            if closed.is_zero() {
                log::debug!(target: LOG_TARGET, delay = format_go_duration(delay); "delaying uploads at random");
                clock.wait(&changed, delay, stop)?;
            } else {
                if !std::mem::replace(&mut is_logged, true) {
                    log::info!(target: LOG_TARGET, opens_in = format_go_duration(closed); "waiting for the upload window to open");
                }
                clock.wait(&changed, closed.min(limits::WINDOW_LOOK_INTERVAL), stop)?;
            }
        }
    }
}

/// The part of `whole` that `share` is of the largest number.
fn part(whole: Duration, share: u64) -> Duration {
    let nanos = (whole.as_nanos().min(u128::from(u64::MAX)) * u128::from(share)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::error::{Error, Kind};
    use pillion_base::stop::stop_pair;
    use pillion_base::threads::spawn_thread;

    /// A clock that jumps over every wait and remembers them all.
    struct FakeClock {
        now: Mutex<Duration>,
        waits: Arc<Mutex<Vec<u64>>>,
        share: u64,
    }

    impl Clock for FakeClock {
        fn now(&self) -> Duration {
            *self.now.lock().unwrap()
        }

        fn unix_s(&self) -> i64 {
            i64::try_from(self.now().as_secs()).unwrap()
        }

        fn random(&self) -> u64 {
            self.share
        }

        fn wait(&self, _: &Notified, time: Duration, stop: &Stop) -> Result<()> {
            stop.check()?;
            let mut waits = self.waits.lock().unwrap();
            waits.push(time.as_secs());
            // An endless wait fails the test instead of hanging it.
            if waits.len() > 10_000 {
                return Err(Error::new(Kind::Limit, "waits for ever"));
            }
            *self.now.lock().unwrap() += time;
            Ok(())
        }
    }

    /// A schedule at `hour` o'clock, with half of the jitter; and the seconds it has waited.
    fn schedule(hour: u64, jitter_s: u64, windows: &[&str]) -> (Schedule, impl Fn() -> u64) {
        let waits = Arc::<Mutex<Vec<u64>>>::default();
        let now = Mutex::new(Duration::from_secs(hour * 3600));
        let clock = FakeClock { now, waits: waits.clone(), share: u64::MAX / 2 + 1 };
        let windows = windows.iter().map(|text| text.parse().unwrap()).collect();
        let limits = UploadLimits { rate_bytes: 7, jitter: Duration::from_secs(jitter_s), windows };
        (Schedule::with_clock(limits, Pace::default(), Box::new(clock)), move || waits.lock().unwrap().drain(..).sum())
    }

    #[test]
    fn uploads_are_delayed_when_they_begin_and_not_between_objects() {
        let (_stopper, stop) = stop_pair().unwrap();
        let (schedule, waited) = schedule(12, 60, &[]);
        for expected in [30, 0, 0] {
            schedule.wait_to_start(&stop).unwrap();
            assert_eq!(waited(), expected);
        }
        schedule.reset_jitter();
        schedule.wait_to_start(&stop).unwrap();
        assert_eq!(waited(), 30);
        schedule.reset_jitter();
        schedule.set_limits(UploadLimits::default());
        schedule.wait_to_start(&stop).unwrap();
        assert_eq!(waited(), 0);
    }

    #[test]
    fn a_closed_window_is_waited_for_and_then_the_delay_is_drawn_anew() {
        let (_stopper, stop) = stop_pair().unwrap();
        let (schedule, waited) = schedule(12, 60, &["22:00-06:00"]);
        schedule.wait_to_start(&stop).unwrap();
        assert_eq!(waited(), 10 * 3600 + 30);
        schedule.wait_to_start(&stop).unwrap();
        assert_eq!(waited(), 0);
    }

    #[test]
    fn a_delay_that_ends_outside_of_the_window_waits_for_the_next() {
        let (_stopper, stop) = stop_pair().unwrap();
        let (schedule, waited) = schedule(12, 20 * 60, &["12:00-12:05", "20:00-21:00"]);
        schedule.wait_to_start(&stop).unwrap();
        assert_eq!(waited(), 8 * 3600 + 10 * 60);
    }

    #[test]
    fn the_delay_is_random_and_within_the_jitter() {
        let jitter = Duration::from_secs(10);
        let clock = RealClock(Instant::now());
        let mut delays: Vec<Duration> = (0..100).map(|_| part(jitter, clock.random())).collect();
        assert!(delays.iter().all(|delay| *delay < jitter), "{delays:?}");
        delays.sort();
        delays.dedup();
        assert!(delays.len() > 90, "{delays:?}");
        assert!(delays[0] < jitter / 4 && delays[delays.len() - 1] > jitter * 3 / 4, "{delays:?}");
        assert_eq!(part(Duration::MAX, u64::MAX), Duration::from_nanos(u64::MAX - 1));
    }

    #[test]
    fn who_waits_notices_a_change_and_the_stop_at_once() {
        let (stopper, stop) = stop_pair().unwrap();
        let pace = Pace::default();
        let day = Duration::from_secs(1_000_000);
        let schedule = Schedule::new(UploadLimits { rate_bytes: 5, jitter: day, windows: vec![] }, pace.clone());
        assert_eq!(pace.rate(), 5);
        let spawn = || {
            let (schedule, stop) = (schedule.clone(), stop.clone());
            spawn_thread("waiter", None, move || schedule.wait_to_start(&stop)).unwrap()
        };
        let waiter = spawn();
        schedule.set_limits(UploadLimits { rate_bytes: 9, ..UploadLimits::default() });
        waiter.join().unwrap().unwrap();
        assert_eq!((pace.rate(), schedule.limits().rate_bytes), (9, 9));
        schedule.reset_jitter();
        schedule.set_limits(UploadLimits { jitter: day, ..UploadLimits::default() });
        let waiter = spawn();
        stopper.stop();
        assert_eq!(waiter.join().unwrap().unwrap_err().kind(), Kind::Stopped);
    }
}
