//! Objects that the store did not store as they were sent. They are sent again, each after a rest that grows: a store that
//! damages an object always must not get the same gigabytes without a pause. Never holds other objects up.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::limits;
use crate::rest::{Waits, rest_after};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::stop::Stop;

/// How often each object has failed since it last succeeded.
#[derive(Default)]
pub(super) struct Doubts(Mutex<BTreeMap<String, u32>>);

impl Doubts {
    /// `Blocks:` until the object may be sent. `Errors:` `Stopped`.
    pub(super) fn wait(&self, object: &str, waits: &Waits, stop: &Stop) -> Result<()> {
        let n_failed = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(object).copied();
        match n_failed {
            Some(n_failed) if stop.wait(rest_after(n_failed, waits)) => Err(Error::new(Kind::Stopped, "stopping")),
            _ => Ok(()),
        }
    }

    /// Notes what became of it.
    pub(super) fn note<T>(&self, object: &str, outcome: &Result<T>) {
        let mut doubts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(_) => drop(doubts.remove(object)),
            Err(err) if err.class() == "integrity" => {
                if doubts.len() >= limits::S3_DOUBTS_MAX {
                    doubts.clear();
                }
                let n_failed = doubts.entry(object.to_owned()).or_default();
                *n_failed = n_failed.saturating_add(1);
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::stop::stop_pair;
    use std::time::{Duration, Instant};

    #[test]
    fn an_object_that_fails_rests_longer_each_time_and_no_other_does() {
        let waits = Waits::default();
        let rests: Vec<u64> = (0..8).map(|n| rest_after(n, &waits).as_secs()).collect();
        assert_eq!(rests, [0, 1, 2, 4, 8, 16, 32, 40]);
        let (doubts, (stopper, stop)) = (Doubts::default(), stop_pair().unwrap());
        let long = Waits { rest: Duration::from_secs(1000), rest_max: Duration::from_secs(1000), ..waits };
        let damaged: Result<()> = Err(Error::new(Kind::Retry, "other bytes").classed("integrity"));
        doubts.note("a", &damaged);
        let begun = Instant::now();
        doubts.wait("b", &long, &stop).unwrap();
        doubts.note("a", &Err::<(), _>(Error::new(Kind::Retry, "no connection")));
        doubts.note("a", &Ok(()));
        doubts.wait("a", &long, &stop).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1000));
        doubts.note("a", &damaged);
        stopper.stop();
        assert_eq!(doubts.wait("a", &long, &stop).unwrap_err().kind(), Kind::Stopped);
        for n in 0..2 * limits::S3_DOUBTS_MAX {
            doubts.note(&n.to_string(), &damaged);
        }
        assert!(doubts.0.lock().unwrap().len() <= limits::S3_DOUBTS_MAX);
    }
}
