//! Has Prometheus load its files again, and waits until it says that it has.

use std::time::{Duration, Instant, SystemTime};

use crate::limits;
use crate::process;
use crate::watch::Woken;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::time::unix_ms;

/// What Prometheus says of the configuration that it runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Whether the last attempt to load one has succeeded.
    pub is_ok: bool,
    /// When the one it has was loaded. `Units:` s since 1970.
    pub at_s: i64,
}

/// How Prometheus is told.
pub enum Method {
    /// By a request that is answered when it is done.
    Http(Box<dyn Fn() -> Result<()> + Send>),
    /// By SIGHUP, and questions whether it is done.
    Signal {
        /// The name of Prometheus's process.
        process_name: String,
        /// Asks Prometheus.
        loaded: Box<dyn Fn() -> Result<Loaded> + Send>,
    },
}

/// Waits, in a way that changes and the stop end.
pub(crate) type Pause<'a> = dyn FnMut(Duration) -> Result<Woken> + 'a;

impl Method {
    /// The word for it in logs and metrics.
    pub(crate) fn words(&self) -> &'static str {
        match self {
            Method::Http(_) => "reloading via HTTP",
            Method::Signal { .. } => "reloading via process signal",
        }
    }

    /// Has Prometheus load its files. `Errors:` why it has not, with a class that says whose fault it is; `Stopped`.
    pub(crate) fn trigger(&self, pause: &mut Pause<'_>) -> Result<()> {
        match self {
            Method::Http(ask) => ask().map_err(|err| err.context("trigger reload")),
            Method::Signal { process_name, loaded } => {
                by_signal(loaded, &|| process::hang_up(process_name), limits::SIGNAL_TIMEOUT, pause)
            }
        }
    }
}

/// Sends the signal and asks until Prometheus has loaded its files, or has not.
///
/// `Differs:` Thanos takes a second reload within the same second for none, because Prometheus tells whole seconds (D-35).
fn by_signal(
    loaded: &dyn Fn() -> Result<Loaded>,
    hang_up: &dyn Fn() -> Result<()>,
    timeout: Duration,
    pause: &mut Pause<'_>,
) -> Result<()> {
    let before = loaded()
        .context(|| "pre-reload check failed: failed to get config status before reload")
        .map_err(unreachable)?;
    // A reload within the same second would have the same time.
    let begun = Instant::now();
    let same_second_ms = before.at_s.saturating_add(1).saturating_mul(1000).saturating_sub(unix_ms(SystemTime::now()));
    if let Some(wait) = u64::try_from(same_second_ms).ok().filter(|wait| (1..=1000).contains(wait)) {
        let wait = Duration::from_millis(wait);
        while begun.elapsed() < wait {
            go_on(pause(wait.saturating_sub(begun.elapsed()))?)?;
        }
    }
    hang_up()?;
    let deadline = Instant::now() + timeout;
    let mut poll = limits::SIGNAL_POLL_MIN;
    loop {
        let trouble = match loaded() {
            Ok(now) if now.is_ok && now != before => return Ok(()),
            Ok(now) if !now.is_ok && before.is_ok => {
                let text = "configuration reload has failed; Prometheus's log says why";
                return Err(Error::new(Kind::Retry, text).classed("refused"));
            }
            Ok(_) => "Prometheus does not say that it has reloaded".to_owned(),
            Err(err) if err.kind() == Kind::Stopped => return Err(err),
            Err(err) => err.to_string(),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = format!("no reload within {timeout:?} after the signal: {trouble}; Prometheus's log says more");
            return Err(Error::new(Kind::Retry, text).classed("unconfirmed"));
        }
        let woken = go_on(pause(poll.min(left))?)?;
        // Where the reload before has failed too, nothing tells that this one has; files that somebody mends do not wait.
        if woken == Woken::Changed && !before.is_ok {
            let text = "the files have changed before Prometheus said that it has reloaded; Prometheus's log says more";
            return Err(Error::new(Kind::Retry, text).classed("unconfirmed"));
        }
        poll = (poll * 2).min(limits::SIGNAL_POLL_MAX);
    }
}

fn go_on(woken: Woken) -> Result<Woken> {
    if woken == Woken::Stopped { Err(Error::new(Kind::Stopped, "stopping")) } else { Ok(woken) }
}

fn unreachable(err: Error) -> Error {
    err.classed("unreachable")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;

    const OLD_S: i64 = 1_700_000_000;

    fn ok(at_s: i64) -> Result<Loaded> {
        Ok(Loaded { is_ok: true, at_s })
    }

    fn bad(at_s: i64) -> Result<Loaded> {
        Ok(Loaded { is_ok: false, at_s })
    }

    fn away() -> Result<Loaded> {
        Err(Error::new(Kind::Retry, "connection refused"))
    }

    /// What Prometheus answers in turn, the last for ever; how the waits end → what comes of it, and how many signals were sent.
    fn run(answers: Vec<Result<Loaded>>, woken: Woken) -> (Result<(), (String, String)>, u32) {
        let answers = RefCell::new(VecDeque::from(answers));
        let loaded = || {
            let mut answers = answers.borrow_mut();
            if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() }
        };
        let n_signals = Cell::new(0);
        let hang_up = || {
            n_signals.set(n_signals.get() + 1);
            Ok(())
        };
        let timeout = Duration::from_millis(20);
        let done = by_signal(&loaded, &hang_up, timeout, &mut |_| Ok(woken));
        (done.map_err(|err| (err.class().to_owned(), err.to_string())), n_signals.get())
    }

    #[track_caller]
    fn check(answers: Vec<Result<Loaded>>, woken: Woken, expected: Result<(), (&str, &str)>, n_expected: u32) {
        let (done, n_signals) = run(answers, woken);
        match (&done, expected) {
            (Ok(()), Ok(())) => {}
            (Err((class, text)), Err((class_expected, start))) => {
                assert_eq!(class, class_expected, "{text}");
                assert!(text.starts_with(start), "{text}");
            }
            _ => panic!("{done:?}, expected {expected:?}"),
        }
        assert_eq!(n_signals, n_expected);
    }

    #[test]
    fn what_prometheus_says_after_a_signal() {
        let new = OLD_S + 9;
        check(vec![ok(OLD_S), ok(new)], Woken::Passed, Ok(()), 1);
        check(vec![ok(OLD_S), ok(OLD_S), away(), ok(new)], Woken::Changed, Ok(()), 1);
        // The clock was set back meanwhile.
        check(vec![ok(OLD_S), ok(OLD_S - 5)], Woken::Passed, Ok(()), 1);
        check(vec![bad(OLD_S), bad(OLD_S), ok(new)], Woken::Passed, Ok(()), 1);
        let refused = Err(("refused", "configuration reload has failed; "));
        check(vec![ok(OLD_S), ok(OLD_S), bad(OLD_S)], Woken::Passed, refused, 1);
        let silent = Err(("unconfirmed", "no reload within 20ms after the signal: Prometheus does not say"));
        check(vec![bad(OLD_S)], Woken::Passed, silent, 1);
        check(vec![ok(OLD_S)], Woken::Changed, silent, 1);
        let gone = Err(("unconfirmed", "no reload within 20ms after the signal: connection refused"));
        check(vec![ok(OLD_S), away()], Woken::Passed, gone, 1);
        let start = "pre-reload check failed: failed to get config status before reload: connection refused";
        check(vec![away()], Woken::Passed, Err(("unreachable", start)), 0);
        let changed = Err(("unconfirmed", "the files have changed before"));
        check(vec![bad(OLD_S)], Woken::Changed, changed, 1);
        check(vec![ok(OLD_S)], Woken::Stopped, Err(("stopped", "stopping")), 1);
    }

    #[test]
    fn the_second_of_the_last_reload_is_waited_for() {
        let now_s = || unix_ms(SystemTime::now()).div_euclid(1000);
        let last = now_s();
        let signalled_s = Cell::new(0);
        let loaded = || if signalled_s.get() == 0 { ok(last) } else { ok(signalled_s.get()) };
        let hang_up = || {
            signalled_s.set(now_s());
            Ok(())
        };
        let (_keep, never) = crossbeam_channel::bounded::<()>(0);
        let mut pause = |time| {
            let _ = never.recv_timeout(time);
            Ok(Woken::Passed)
        };
        by_signal(&loaded, &hang_up, Duration::from_secs(60), &mut pause).unwrap();
        assert!(signalled_s.get() > last);
    }
}
