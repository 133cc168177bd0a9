//! When uploads may begin and go on: a random delay, so that a fleet does not upload in the same second, and windows of
//! the day. Never touches bytes that are being sent: what is in flight when a window closes is finished.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::window::{self, Window};
use crate::changes::{Changes, Noticed};
use crate::error::Result;
use crate::limits;
use crate::objstore::pace::Pace;
use crate::supervisor::Stop;
use crate::time::{format_go_duration, unix_ms};

/// What the operator allows uploads; may change while they run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Bytes per second over all connections; 0 is no limit.
    pub rate_bytes: u64,
    /// Longest delay before uploads begin.
    pub jitter: Duration,
    /// When uploads may go on; always when there are none.
    pub windows: Vec<Window>,
}

/// For the log.
impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate_bytes {
            0 => f.write_str("no rate limit, ")?,
            rate => write!(f, "{rate} bytes per second, ")?,
        }
        write!(f, "jitter {}, ", format_go_duration(self.jitter))?;
        if self.windows.is_empty() {
            return f.write_str("at any time");
        }
        let windows: Vec<String> = self.windows.iter().map(Window::to_string).collect();
        write!(f, "at {}", windows.join(" and "))
    }
}

/// Lets uploads begin and go on when they may. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Calm(Arc<Shared>);

struct Shared {
    clock: Box<dyn Clock>,
    pace: Pace,
    changes: Changes,
    state: Mutex<State>,
}

struct State {
    allowed: Allowed,
    /// Whether uploads are under way, so that the next one needs no delay.
    begun: bool,
}

/// Time and chance; others in tests.
trait Clock: Send + Sync {
    /// Since some moment, never backwards.
    fn now(&self) -> Duration;
    /// Seconds since 1970.
    fn unix_s(&self) -> i64;
    /// A random number.
    fn random(&self) -> u64;
    /// Waits until a change, the stop, or the end of `time`.
    fn wait(&self, changes: &Noticed, time: Duration, stop: &Stop) -> Result<()>;
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
        // Each state is keyed from the system's randomness, and differs from all others.
        RandomState::new().hash_one(0_u8)
    }

    fn wait(&self, changes: &Noticed, time: Duration, stop: &Stop) -> Result<()> {
        changes.wait(time, stop)
    }
}

impl Calm {
    /// Sets the pace to what is allowed, too.
    pub fn new(allowed: Allowed, pace: Pace) -> Self {
        Calm::with_clock(allowed, pace, Box::new(RealClock(Instant::now())))
    }

    fn with_clock(allowed: Allowed, pace: Pace, clock: Box<dyn Clock>) -> Self {
        pace.change(allowed.rate_bytes);
        let state = Mutex::new(State { allowed, begun: false });
        Calm(Arc::new(Shared { clock, pace, changes: Changes::default(), state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is allowed now.
    pub fn allowed(&self) -> Allowed {
        self.state().allowed.clone()
    }

    /// Allows something else from now on, for bytes that are being sent too; whoever waits looks again.
    pub fn change(&self, allowed: Allowed) {
        self.0.pace.change(allowed.rate_bytes);
        self.state().allowed = allowed;
        self.0.changes.tell();
    }

    /// Nothing is left to upload: the next upload is delayed at random again.
    pub fn rest(&self) {
        self.state().begun = false;
    }

    /// Waits until the next object may be sent: until a window is open, and after an idle time the random delay besides.
    ///
    /// Windows come first, for those of a fleet open in the same second. `Blocks:` for as long as that takes, and ends when
    /// something else is allowed. `Errors:` `Stopped`.
    pub fn wait_to_start(&self, stop: &Stop) -> Result<()> {
        let clock = &*self.0.clock;
        let share = clock.random();
        // The delay counts from here, or from when the last window opened.
        let mut since = None;
        let mut told = false;
        loop {
            stop.check()?;
            let changed = self.0.changes.watch();
            let (closed, delay) = {
                let mut state = self.state();
                let closed = window::opens_in(&state.allowed.windows, clock.unix_s());
                let mut delay = Duration::ZERO;
                if closed.is_zero() {
                    if !state.begun {
                        let begin = *since.get_or_insert_with(|| clock.now());
                        delay = part(state.allowed.jitter, share).saturating_sub(clock.now().saturating_sub(begin));
                    }
                    if delay.is_zero() {
                        state.begun = true;
                        return Ok(());
                    }
                } else {
                    // All that wait for the window begin together, unless they are spread out again.
                    state.begun = false;
                    since = None;
                }
                (closed, delay)
            };
            if closed.is_zero() {
                log::debug!(delay = format_go_duration(delay); "delaying uploads at random");
                clock.wait(&changed, delay, stop)?;
            } else {
                if !std::mem::replace(&mut told, true) {
                    log::info!(opens_in = format_go_duration(closed); "waiting for the upload window to open");
                }
                clock.wait(&changed, closed.min(limits::WINDOW_LOOK_INTERVAL), stop)?;
            }
        }
    }

    /// Zero while a window is open, else the time until one opens. Never waits.
    pub fn opens_in(&self) -> Duration {
        window::opens_in(&self.state().allowed.windows, self.0.clock.unix_s())
    }
}

/// A part of `whole` as large as `share` is among all numbers.
fn part(whole: Duration, share: u64) -> Duration {
    let nanos = (whole.as_nanos().min(u128::from(u64::MAX)) * u128::from(share)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use crate::supervisor::{spawn_thread, stop_pair};

    /// A clock that jumps over every wait and remembers them all.
    struct Jumping {
        now: Mutex<Duration>,
        waits: Arc<Mutex<Vec<u64>>>,
        share: u64,
    }

    impl Clock for Jumping {
        fn now(&self) -> Duration {
            *self.now.lock().unwrap()
        }

        fn unix_s(&self) -> i64 {
            i64::try_from(self.now().as_secs()).unwrap()
        }

        fn random(&self) -> u64 {
            self.share
        }

        fn wait(&self, _: &Noticed, time: Duration, stop: &Stop) -> Result<()> {
            stop.check()?;
            let mut waits = self.waits.lock().unwrap();
            waits.push(time.as_secs());
            // A wait without end is found, and not run.
            if waits.len() > 10_000 {
                return Err(Error::new(Kind::Limit, "waits for ever"));
            }
            *self.now.lock().unwrap() += time;
            Ok(())
        }
    }

    /// A calm at `hour` o'clock, with half of the jitter; and the seconds it has waited.
    fn calm(hour: u64, jitter_s: u64, windows: &[&str]) -> (Calm, impl Fn() -> u64) {
        let waits = Arc::<Mutex<Vec<u64>>>::default();
        let now = Mutex::new(Duration::from_secs(hour * 3600));
        let clock = Jumping { now, waits: waits.clone(), share: u64::MAX / 2 + 1 };
        let windows = windows.iter().map(|text| text.parse().unwrap()).collect();
        let allowed = Allowed { rate_bytes: 7, jitter: Duration::from_secs(jitter_s), windows };
        (Calm::with_clock(allowed, Pace::default(), Box::new(clock)), move || waits.lock().unwrap().drain(..).sum())
    }

    #[test]
    fn uploads_are_delayed_when_they_begin_and_not_between_objects() {
        let (_stopper, stop) = stop_pair().unwrap();
        let (calm, waited) = calm(12, 60, &[]);
        for expected in [30, 0, 0] {
            calm.wait_to_start(&stop).unwrap();
            assert_eq!(waited(), expected);
        }
        calm.rest();
        calm.wait_to_start(&stop).unwrap();
        assert_eq!(waited(), 30);
        calm.rest();
        calm.change(Allowed::default());
        calm.wait_to_start(&stop).unwrap();
        assert_eq!(waited(), 0);
    }

    #[test]
    fn a_closed_window_is_waited_for_and_then_the_delay_is_drawn_anew() {
        let (_stopper, stop) = stop_pair().unwrap();
        let (calm, waited) = calm(12, 60, &["22:00-06:00"]);
        assert_eq!(calm.opens_in(), Duration::from_secs(10 * 3600));
        calm.wait_to_start(&stop).unwrap();
        assert_eq!(waited(), 10 * 3600 + 30);
        calm.wait_to_start(&stop).unwrap();
        assert_eq!((waited(), calm.opens_in()), (0, Duration::ZERO));
    }

    #[test]
    fn a_delay_that_ends_outside_of_the_window_waits_for_the_next() {
        let (_stopper, stop) = stop_pair().unwrap();
        let (calm, waited) = calm(12, 20 * 60, &["12:00-12:05", "20:00-21:00"]);
        calm.wait_to_start(&stop).unwrap();
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
        let calm = Calm::new(Allowed { rate_bytes: 5, jitter: day, windows: vec![] }, pace.clone());
        assert_eq!(pace.rate(), 5);
        let spawn = || {
            let (calm, stop) = (calm.clone(), stop.clone());
            spawn_thread("waiter", None, move || calm.wait_to_start(&stop)).unwrap()
        };
        let waiter = spawn();
        calm.change(Allowed { rate_bytes: 9, ..Allowed::default() });
        waiter.join().unwrap().unwrap();
        assert_eq!((pace.rate(), calm.allowed().rate_bytes), (9, 9));
        calm.rest();
        calm.change(Allowed { jitter: day, ..Allowed::default() });
        let waiter = spawn();
        stopper.stop();
        assert_eq!(waiter.join().unwrap().unwrap_err().kind(), Kind::Stopped);
    }

    #[test]
    fn what_is_allowed_is_said_in_words() {
        assert_eq!(Allowed::default().to_string(), "no rate limit, jitter 0s, at any time");
        let windows = ["22:00-06:00", "12:00-13:00+01:00"].map(|text| text.parse().unwrap()).to_vec();
        let allowed = Allowed { rate_bytes: 1000, jitter: Duration::from_secs(90), windows };
        let expected = "1000 bytes per second, jitter 1m30s, at 22:00-06:00Z and 12:00-13:00+01:00";
        assert_eq!(allowed.to_string(), expected);
    }
}
