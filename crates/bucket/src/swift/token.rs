//! Keeps the token that authorises requests, and asks for another before it ends, once for all threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

use super::identity::{Asker, Token};
use crate::limits;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::stop::Stop;

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The token of a configuration.
pub(super) struct Tokens {
    asker: Asker,
    clock: Clock,
    /// Never held across anything that blocks.
    cache: Mutex<Cache>,
    /// Held by the thread that asks.
    flight: Mutex<()>,
}

#[derive(Default)]
struct Cache {
    kept: Option<Kept>,
    /// The last failure, if no attempt has succeeded since.
    failed: Option<(SystemTime, Error)>,
}

#[derive(Clone)]
struct Kept {
    token: Arc<Token>,
    at: SystemTime,
}

impl Kept {
    fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.at).unwrap_or_default()
    }

    fn is_ended(&self, now: SystemTime) -> bool {
        // A token that comes with next to no life is used for a while: the store knows better.
        self.token.life.is_some_and(|life| self.age(now) >= life.max(limits::CREDENTIALS_AGE_MIN))
    }

    fn is_old(&self, now: SystemTime) -> bool {
        self.token.life.is_some_and(|life| self.age(now) >= (life / 5 * 4).max(limits::CREDENTIALS_AGE_MIN))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tokens {
    /// Nothing is asked yet.
    pub(super) fn new(asker: Asker) -> Tokens {
        Tokens::with_clock(asker, Arc::new(SystemTime::now))
    }

    pub(super) fn with_clock(asker: Asker, clock: Clock) -> Tokens {
        Tokens { asker, clock, cache: Mutex::default(), flight: Mutex::default() }
    }

    /// The token to send now. `Blocks:` while one is asked for, until the stop.
    pub(super) fn token(&self, stop: &Stop) -> Result<Arc<Token>> {
        let now = (self.clock)();
        if let Some(kept) = self.kept().filter(|kept| !kept.is_ended(now)) {
            return Ok(if kept.is_old(now) { self.refresh(kept, now, stop) } else { kept.token });
        }
        let _flight = lock(&self.flight);
        // Another thread may have been here while this one waited.
        if let Some(kept) = self.kept().filter(|kept| !kept.is_ended(now)) {
            return Ok(kept.token);
        }
        self.ask_unless_failed(stop)
    }

    /// Another token than `used`, which the store has refused. `Errors:` and `Blocks:` as [`Tokens::token`].
    pub(super) fn renew(&self, used: &Token, stop: &Stop) -> Result<Arc<Token>> {
        let _flight = lock(&self.flight);
        if let Some(kept) = self.kept().filter(|kept| kept.token.text != used.text) {
            return Ok(kept.token);
        }
        self.ask_unless_failed(stop)
    }

    fn kept(&self) -> Option<Kept> {
        lock(&self.cache).kept.clone()
    }

    /// The last failure if it is younger than `age`.
    fn failure(&self, age: Duration) -> Option<Error> {
        let now = (self.clock)();
        let cache = lock(&self.cache);
        let (at, err) = cache.failed.as_ref()?;
        now.duration_since(*at).is_ok_and(|passed| passed < age).then(|| err.clone())
    }

    /// One failure is for a moment the answer to all threads. The caller holds `flight`.
    fn ask_unless_failed(&self, stop: &Stop) -> Result<Arc<Token>> {
        stop.check()?;
        match self.failure(limits::CREDENTIALS_FAILURE_KEPT) {
            Some(err) => Err(err),
            None => self.ask(stop),
        }
    }

    /// Asks for another token while the old one is valid. If that fails, the old one stays in use.
    fn refresh(&self, old: Kept, now: SystemTime, stop: &Stop) -> Arc<Token> {
        if self.failure(limits::CREDENTIALS_REFRESH_PAUSE).is_some() {
            return old.token;
        }
        let _flight = match self.flight.try_lock() {
            Ok(flight) => flight,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another thread asks already.
            Err(TryLockError::WouldBlock) => return old.token,
        };
        // That thread may be done by now.
        if let Some(kept) = self.kept().filter(|kept| !kept.is_old(now)) {
            return kept.token;
        }
        let is_first_failure = lock(&self.cache).failed.is_none();
        self.ask(stop).unwrap_or_else(|err| {
            if is_first_failure && err.kind() != Kind::Stopped {
                log::warn!(err = err.to_string(); "failed to renew the token, going on with the one that is still good");
            }
            old.token
        })
    }

    fn ask(&self, stop: &Stop) -> Result<Arc<Token>> {
        let now = (self.clock)();
        match self.asker.ask(stop) {
            Ok(token) => {
                let token = Arc::new(token);
                let mut cache = lock(&self.cache);
                let is_news = cache.kept.is_none() || cache.failed.is_some();
                *cache = Cache { kept: Some(Kept { token: Arc::clone(&token), at: now }), failed: None };
                drop(cache);
                if is_news {
                    log::info!(store = token.storage.as_str(); "got a token for the object store");
                } else {
                    log::debug!("renewed the token for the object store");
                }
                Ok(token)
            }
            Err(err) if err.kind() == Kind::Stopped => Err(err),
            Err(err) => {
                // To callers `NotFound` would mean an object and `Corrupt` a file of a block.
                let err = match err.kind() {
                    Kind::Permanent | Kind::Retry => err,
                    _ => err.with_kind(Kind::Retry),
                };
                lock(&self.cache).failed = Some((now, err.clone()));
                Err(err)
            }
        }
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
