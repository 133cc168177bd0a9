//! How the last questions to Prometheus went, for whoever asks. One writer, the heartbeat.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use pillion_base::error::Error;

/// Written at each beat. Cheap to clone; clones share everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulse(Arc<Mutex<Beaten>>);

/// How the beats went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Beaten {
    /// Whether the last one was answered; `None` before the first one ended.
    pub(crate) is_up: Option<bool>,
    /// When one was answered last.
    pub(crate) last: Option<SystemTime>,
    /// When one failed last, and why.
    pub(crate) last_error: Option<(SystemTime, String)>,
}

impl Pulse {
    /// What is known now.
    pub(crate) fn read(&self) -> Beaten {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Prometheus has answered all that a beat asks.
    pub(super) fn answered(&self) {
        let mut beaten = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (beaten.is_up, beaten.last) = (Some(true), Some(SystemTime::now()));
    }

    /// It has not.
    pub(super) fn failed(&self, err: &Error) {
        let failed = (SystemTime::now(), err.to_string());
        let mut beaten = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (beaten.is_up, beaten.last_error) = (Some(false), Some(failed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::error::Kind;

    #[test]
    fn an_answer_does_not_forget_the_last_error() {
        let pulse = Pulse::default();
        assert_eq!(pulse.read(), Beaten::default());
        pulse.failed(&Error::new(Kind::Retry, "refused"));
        let down = pulse.read();
        assert_eq!((down.is_up, down.last), (Some(false), None));
        pulse.answered();
        let up = pulse.read();
        assert!(up.is_up == Some(true) && up.last.is_some(), "{up:?}");
        assert_eq!(up.last_error.unwrap().1, "refused");
    }
}
