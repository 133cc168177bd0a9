//! Keeps a token that authorises requests, and fetches another before it ends, once for all threads. Where tokens come
//! from is the store's own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

use super::wire;
use crate::limits;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::secret::Secret;
use pillion_base::stop::Stop;

/// Gives the time.
pub(crate) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;
/// Fetches a token, and says from which place. Its waits end with those of [`until_stopped`](super::wire::until_stopped).
type Look = Box<dyn Fn(SystemTime) -> Result<(&'static str, Token)> + Send + Sync>;

/// A token and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// What follows `Bearer`.
    pub text: Secret,
    /// When it is no longer accepted.
    pub expires: SystemTime,
}

/// The token of a configuration.
pub(crate) struct TokenCache {
    look: Look,
    clock: Clock,
    /// Never held across anything that blocks.
    cache: Mutex<Cache>,
    /// Held by the thread that fetches.
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
    token: Token,
    at: SystemTime,
    /// When to fetch another.
    refresh_at: SystemTime,
}

impl Kept {
    fn is_ended(&self, now: SystemTime) -> bool {
        // If our clock is wrong, a new token may seem expired; the store knows better.
        let is_new = now.duration_since(self.at).unwrap_or_default() < limits::CREDENTIALS_AGE_MIN;
        self.token.expires <= now && !is_new
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TokenCache {
    /// Nothing is fetched yet.
    pub(crate) fn new(
        look: impl Fn(SystemTime) -> Result<(&'static str, Token)> + Send + Sync + 'static,
    ) -> TokenCache {
        TokenCache::with_clock(look, Arc::new(SystemTime::now))
    }

    /// As [`TokenCache::new`], with another clock.
    pub(crate) fn with_clock(
        look: impl Fn(SystemTime) -> Result<(&'static str, Token)> + Send + Sync + 'static,
        clock: Clock,
    ) -> TokenCache {
        TokenCache { look: Box::new(look), clock, cache: Mutex::default(), flight: Mutex::default() }
    }

    /// The token to send now. `Errors:` of class `credentials`. `Blocks:` while one is fetched, for a bounded time.
    pub(crate) fn token(&self, stop: &Stop) -> Result<Secret> {
        let now = (self.clock)();
        if let Some(kept) = self.kept().filter(|kept| !kept.is_ended(now)) {
            return Ok(if kept.refresh_at <= now { self.refresh(kept, now, stop) } else { kept.token.text });
        }
        let _flight = lock(&self.flight);
        // Another thread may have been here while this one waited.
        if let Some(kept) = self.kept().filter(|kept| !kept.is_ended(now)) {
            return Ok(kept.token.text);
        }
        self.fetch_unless_failed(stop)
    }

    /// Another token than `used`, which the store has refused. `Errors:` and `Blocks:` as [`TokenCache::token`].
    pub(crate) fn renew(&self, used: &Secret, stop: &Stop) -> Result<Secret> {
        let _flight = lock(&self.flight);
        if let Some(kept) = self.kept().filter(|kept| kept.token.text != *used) {
            return Ok(kept.token.text);
        }
        self.fetch_unless_failed(stop)
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
    fn fetch_unless_failed(&self, stop: &Stop) -> Result<Secret> {
        stop.check()?;
        match self.failure(limits::CREDENTIALS_FAILURE_KEPT) {
            Some(err) => Err(err),
            None => self.fetch(stop),
        }
    }

    /// Fetches another token while the old one is valid. If that fails, the old one stays in use.
    fn refresh(&self, old: Kept, now: SystemTime, stop: &Stop) -> Secret {
        if self.failure(limits::CREDENTIALS_REFRESH_PAUSE).is_some() {
            return old.token.text;
        }
        let _flight = match self.flight.try_lock() {
            Ok(flight) => flight,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another thread fetches already.
            Err(TryLockError::WouldBlock) => return old.token.text,
        };
        // That thread may be done by now.
        if let Some(kept) = self.kept().filter(|kept| kept.refresh_at > now) {
            return kept.token.text;
        }
        let is_first_failure = lock(&self.cache).failed.is_none();
        self.fetch(stop).unwrap_or_else(|err| {
            if is_first_failure && err.kind() != Kind::Stopped {
                log::warn!(err = err.to_string(); "failed to refresh the token, going on with the one that is still good");
            }
            old.token.text
        })
    }

    fn fetch(&self, stop: &Stop) -> Result<Secret> {
        let now = (self.clock)();
        let (found, _) = wire::until_stopped(stop, || (self.look)(now));
        stop.check()?;
        match found {
            Ok((place, token)) => {
                let life = token.expires.duration_since(now).unwrap_or_default();
                let refresh_at = now + (life / 5 * 4).max(limits::CREDENTIALS_AGE_MIN);
                let text = token.text.clone();
                let mut cache = lock(&self.cache);
                let is_news = cache.kept.is_none() || cache.failed.is_some();
                *cache = Cache { kept: Some(Kept { token, at: now, refresh_at }), failed: None };
                drop(cache);
                if is_news {
                    log::info!(provider = place; "got a token for the object store");
                } else {
                    log::debug!(provider = place; "refreshed the token for the object store");
                }
                Ok(text)
            }
            Err(err) => {
                // To callers `NotFound` would mean an object and `Corrupt` a file of a block.
                let err = match err.kind() {
                    Kind::Stopped | Kind::Permanent | Kind::Retry => err,
                    _ => err.with_kind(Kind::Retry),
                };
                let err = if err.class() == "clock" { err } else { err.classed("credentials") };
                lock(&self.cache).failed = Some((now, err.clone()));
                Err(err)
            }
        }
    }
}
