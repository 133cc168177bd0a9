//! Keeps the token that authorises requests, and fetches another before it ends, once for all threads.
//!
//! The first place that is configured decides; if it fails, that is the error. Going on with another identity would end
//! in an error that nobody understands.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

use super::config::Auth;
use super::identity::{self, Found, Proof, Token};
use crate::limits;
use crate::rest::Env;
use crate::rest::wire;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::secret::Secret;
use pillion_base::stop::Stop;

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The token of a configuration.
pub(super) struct Tokens {
    auth: Auth,
    env: Env,
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

impl Tokens {
    /// Nothing is fetched yet. `env` gives environment variables.
    pub(super) fn new(auth: Auth, env: Env) -> Tokens {
        Tokens::with_clock(auth, env, Arc::new(SystemTime::now))
    }

    pub(super) fn with_clock(auth: Auth, env: Env, clock: Clock) -> Tokens {
        Tokens { auth, env, clock, cache: Mutex::default(), flight: Mutex::default() }
    }

    /// The token to send now. `Errors:` of class `credentials`. `Blocks:` while one is fetched, for a bounded time.
    pub(super) fn token(&self, stop: &Stop) -> Result<Secret> {
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

    /// Another token than `used`, which the store has refused. `Errors:` and `Blocks:` as [`Tokens::token`].
    pub(super) fn renew(&self, used: &Secret, stop: &Stop) -> Result<Secret> {
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
        let (found, _) = wire::until_stopped(stop, || self.look(now));
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
                    log::info!(provider = place; "got a token for the storage account");
                } else {
                    log::debug!(provider = place; "refreshed the token for the storage account");
                }
                Ok(text)
            }
            Err(err) => {
                // To callers `NotFound` would mean a blob and `Corrupt` a file of a block.
                let err = match err.kind() {
                    Kind::Stopped | Kind::Permanent | Kind::Retry => err,
                    _ => err.with_kind(Kind::Retry),
                };
                let err = err.classed("credentials");
                lock(&self.cache).failed = Some((now, err.clone()));
                Err(err)
            }
        }
    }

    /// Asks the place that the configuration names, or the first that has something.
    fn look(&self, now: SystemTime) -> Result<(&'static str, Token)> {
        let env = &self.env;
        match &self.auth {
            Auth::ClientSecret { tenant, client, secret } => {
                let token = identity::application(env, tenant, client, &Proof::Secret(secret), now)
                    .map_err(|err| err.context("get a token for client_id"))?;
                Ok(("client secret", token))
            }
            Auth::ManagedIdentity { client } => match identity::managed(env, Some(client), true, now)? {
                Found::Token(token) => Ok(("managed identity", token)),
                Found::Nothing(why) => Err(Error::new(Kind::Permanent, format!("no managed identity: {why}"))),
            },
            Auth::Default => self.look_around(now),
            Auth::Key(_) | Auth::Sas(_) => Err(Error::new(Kind::Permanent, "this configuration needs no token")),
        }
    }

    /// `Source:` azidentity `DefaultAzureCredential`. `Differs:` its last places, the tools of developers, are not asked.
    fn look_around(&self, now: SystemTime) -> Result<(&'static str, Token)> {
        const PLACES: [&str; 3] = ["EnvironmentCredential", "WorkloadIdentityCredential", "ManagedIdentityCredential"];
        let chosen = identity::var(&self.env, "AZURE_TOKEN_CREDENTIALS").unwrap_or_default();
        let is_one = |place: &&str| place.eq_ignore_ascii_case(&chosen);
        let places: Vec<&str> = match chosen.to_ascii_lowercase().as_str() {
            "" | "prod" => PLACES.to_vec(),
            _ if PLACES.iter().any(is_one) => PLACES.into_iter().filter(|place| is_one(place)).collect(),
            _ => {
                let text = "AZURE_TOKEN_CREDENTIALS must be prod, EnvironmentCredential, WorkloadIdentityCredential or \
                            ManagedIdentityCredential: the tools of developers (Azure CLI and others) are not asked";
                return Err(Error::new(Kind::Permanent, text));
            }
        };
        let client = identity::var(&self.env, "AZURE_CLIENT_ID");
        let is_only = places.len() == 1;
        let mut looked = Vec::new();
        for place in places {
            let found = match place {
                "EnvironmentCredential" => identity::environment(&self.env, now),
                "WorkloadIdentityCredential" => identity::workload(&self.env, now),
                _ => identity::managed(&self.env, client.as_deref(), is_only, now),
            };
            match found.map_err(|err| err.context(format!("get a token from {place}")))? {
                Found::Token(token) => return Ok((place, token)),
                Found::Nothing(why) => looked.push(format!("{place} ({why})")),
            }
        }
        Err(Error::new(
            Kind::Permanent,
            format!(
                "no credentials found: set storage_account_key, storage_connection_string, or client_id with az_tenant_id \
                 and client_secret, or fill one of the places that were looked at: {}; Azure CLI and other tools of \
                 developers are not asked",
                looked.join(", ")
            ),
        ))
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
