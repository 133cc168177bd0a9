//! The chain of credentials providers. It keeps the keys of the first one that is configured, and fetches others before
//! they expire, once for all threads.
//!
//! If that provider fails, the chain fails: going on with the next one, or without a signature, would only end in an
//! error that nobody understands.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

use super::{CredentialsProvider, Env, Fetched, Found, Keys, Settings, Stamp};
use super::{container, environment, instance, profile, sts};
use crate::limits;
use crate::rest::wire;
use crate::s3::config::S3Config;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::stop::Stop;

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The credentials of a configuration.
pub struct CredentialsChain {
    source: Source,
    /// Never held across anything that blocks.
    cache: Mutex<Cache>,
    /// Held by the thread that fetches.
    flight: Mutex<()>,
    clock: Clock,
}

enum Source {
    Anonymous,
    Static(Keys),
    Providers { settings: Settings, is_sdk: bool },
}

/// A provider of keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Provider {
    Environment,
    Profile,
    WebIdentity,
    Container,
    Instance,
}

impl Provider {
    /// The order of minio-go, which Thanos uses.
    const USUAL: [Provider; 5] =
        [Provider::Environment, Provider::Profile, Provider::WebIdentity, Provider::Container, Provider::Instance];
    /// The order of AWS's SDK for Go.
    const SDK: [Provider; 5] =
        [Provider::Environment, Provider::WebIdentity, Provider::Profile, Provider::Container, Provider::Instance];

    fn name(self) -> &'static str {
        match self {
            Provider::Environment => "environment variables",
            Provider::Profile => "shared credentials file",
            Provider::WebIdentity => "web identity",
            Provider::Container => "container credentials endpoint",
            Provider::Instance => "EC2 instance metadata service",
        }
    }
}

#[derive(Default)]
struct Cache {
    kept: Option<Arc<Kept>>,
    /// The last failure, if no attempt has succeeded since.
    failed: Option<(SystemTime, Error)>,
}

/// Keys that were fetched.
struct Kept {
    fetched: Fetched,
    provider: Provider,
    at: SystemTime,
    /// When to fetch others.
    refresh_at: Option<SystemTime>,
}

/// The age of the keys that are kept.
enum Age {
    Fresh,
    /// Still valid, but it is time to fetch others.
    Due,
    Ended,
}

impl Kept {
    fn new(fetched: Fetched, provider: Provider, now: SystemTime) -> Self {
        let refresh_at = fetched.keys.expires.map(|expires| {
            let life = expires.duration_since(now).unwrap_or_default();
            now + (life / 5 * 4).max(limits::CREDENTIALS_AGE_MIN)
        });
        Kept { fetched, provider, at: now, refresh_at }
    }

    fn age(&self, now: SystemTime) -> Age {
        // If our clock is wrong, new keys may seem expired; the store knows better.
        let is_new = now.duration_since(self.at).unwrap_or_default() < limits::CREDENTIALS_AGE_MIN;
        let is_past = |time: Option<SystemTime>| time.is_some_and(|time| time <= now);
        if is_past(self.fetched.keys.expires) && !is_new {
            Age::Ended
        } else if is_past(self.refresh_at) || self.fetched.files.iter().any(|(path, stamp)| Stamp::of(path) != *stamp) {
            Age::Due
        } else {
            Age::Fresh
        }
    }
}

/// Whether both give the same signatures; their expiry may differ.
fn is_same(a: &Keys, b: &Keys) -> bool {
    (&a.access_key, &a.secret_key, &a.session_token) == (&b.access_key, &b.secret_key, &b.session_token)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error for callers, to whom `NotFound` would mean an object and `Corrupt` a file of a block.
fn outward(err: Error) -> Error {
    match err.kind() {
        Kind::Stopped | Kind::Permanent | Kind::Retry => err,
        _ => err.with_kind(Kind::Retry),
    }
    .classed("credentials")
}

impl CredentialsChain {
    /// The credentials that `config` asks for. `env` gives environment variables. Nothing is fetched yet.
    ///
    /// `Errors:` for settings that contradict each other.
    pub fn new(config: &S3Config, env: Env) -> Result<Self> {
        CredentialsChain::with_clock(config, env, Arc::new(SystemTime::now))
    }

    fn with_clock(config: &S3Config, env: Env, clock: Clock) -> Result<Self> {
        let settings = Settings { env, sts_endpoint: config.sts_endpoint.clone() };
        let source = if config.anonymous {
            Source::Anonymous
        } else if config.access_key.0.is_empty() {
            // The environment of the process does not change, so one key without the other is an error at once.
            environment::fetch(&settings)
                .map_err(|err| outward(err.context("get credentials from environment variables")))?;
            Source::Providers { settings, is_sdk: config.aws_sdk_auth }
        } else {
            Source::Static(Keys {
                access_key: config.access_key.clone(),
                secret_key: config.secret_key.clone(),
                session_token: config.session_token.clone(),
                expires: None,
            })
        };
        Ok(CredentialsChain { source, cache: Mutex::default(), flight: Mutex::default(), clock })
    }

    /// Asks the providers one after another.
    fn look(settings: &Settings, is_sdk: bool, now: SystemTime, stop: &Stop) -> Result<(Provider, Fetched)> {
        let mut looked = Vec::new();
        for provider in if is_sdk { Provider::SDK } else { Provider::USUAL } {
            stop.check()?;
            let (found, _) = wire::until_stopped(stop, || match provider {
                Provider::Environment => environment::fetch(settings),
                Provider::Profile => profile::fetch(settings, is_sdk, now, stop),
                Provider::WebIdentity => sts::fetch(settings, now),
                Provider::Container => container::fetch(settings),
                Provider::Instance => instance::fetch(settings, stop),
            });
            // An exchange that the stop has ended says nothing about its provider.
            stop.check()?;
            match found.map_err(|err| err.context(format!("get credentials from the {}", provider.name())))? {
                Found::Keys(fetched) => return Ok((provider, fetched)),
                Found::Nothing(why) => looked.push(format!("{} ({why})", provider.name())),
            }
        }
        Err(Error::new(
            Kind::Permanent,
            format!(
                "no credentials found: set access_key and secret_key, or fill one of the places that were looked at: {}; \
                 a bucket that needs none wants anonymous: true",
                looked.join(", ")
            ),
        ))
    }

    /// Fetches keys and keeps them, unless `is_fit` refuses them. The caller holds `flight`.
    fn fetch(
        &self,
        settings: &Settings,
        is_sdk: bool,
        now: SystemTime,
        is_fit: &dyn Fn(Provider, &Keys) -> Result<()>,
        stop: &Stop,
    ) -> Result<Arc<Kept>> {
        let fit =
            |(provider, fetched): (Provider, Fetched)| is_fit(provider, &fetched.keys).map(|()| (provider, fetched));
        match CredentialsChain::look(settings, is_sdk, now, stop).and_then(fit) {
            Ok((provider, fetched)) => {
                let kept = Arc::new(Kept::new(fetched, provider, now));
                let mut cache = lock(&self.cache);
                let is_first = cache.kept.is_none();
                let was_failing = cache.failed.take().is_some();
                cache.kept = Some(Arc::clone(&kept));
                drop(cache);
                if is_first || was_failing {
                    log::info!(provider = provider.name(); "got credentials");
                } else {
                    log::debug!(provider = provider.name(); "refreshed credentials");
                }
                Ok(kept)
            }
            Err(err) => {
                let err = outward(err);
                if err.kind() != Kind::Stopped {
                    lock(&self.cache).failed = Some((now, err.clone()));
                }
                Err(err)
            }
        }
    }

    /// The last failure if it is younger than `age`.
    fn failure(&self, now: SystemTime, age: Duration) -> Option<Error> {
        let cache = lock(&self.cache);
        let (at, err) = cache.failed.as_ref()?;
        (now.duration_since(*at).is_ok_and(|passed| passed < age)).then(|| err.clone())
    }

    fn kept(&self) -> Option<Arc<Kept>> {
        lock(&self.cache).kept.clone()
    }

    /// Fetches other keys while the old ones are valid. If that fails, the old ones stay in use.
    fn refresh(&self, old: Arc<Kept>, settings: &Settings, is_sdk: bool, now: SystemTime, stop: &Stop) -> Arc<Kept> {
        if self.failure(now, limits::CREDENTIALS_REFRESH_PAUSE).is_some() {
            return old;
        }
        let _flight = match self.flight.try_lock() {
            Ok(flight) => flight,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another thread fetches already.
            Err(TryLockError::WouldBlock) => return old,
        };
        let is_first_failure = lock(&self.cache).failed.is_none();
        // A file that is just being rewritten must not make us use another identity.
        let is_fit = |provider: Provider, _: &Keys| match provider == old.provider {
            true => Ok(()),
            false => {
                let (before, now) = (old.provider.name(), provider.name());
                Err(Error::new(
                    Kind::Retry,
                    format!("they came from the {before}, which has none now, only the {now} has"),
                ))
            }
        };
        match self.fetch(settings, is_sdk, now, &is_fit, stop) {
            Ok(kept) => kept,
            Err(err) => {
                if is_first_failure && err.kind() != Kind::Stopped {
                    log::warn!(err = err.to_string(); "failed to refresh credentials, going on with those that are still good");
                }
                old
            }
        }
    }
}

impl CredentialsProvider for CredentialsChain {
    fn keys(&self, stop: &Stop) -> Result<Option<Keys>> {
        let (settings, is_sdk) = match &self.source {
            Source::Anonymous => return Ok(None),
            Source::Static(keys) => return Ok(Some(keys.clone())),
            Source::Providers { settings, is_sdk } => (settings, *is_sdk),
        };
        let now = (self.clock)();
        let current = |kept: Arc<Kept>| match kept.age(now) {
            Age::Fresh => Some(kept),
            Age::Due => Some(self.refresh(kept, settings, is_sdk, now, stop)),
            Age::Ended => None,
        };
        if let Some(kept) = self.kept().and_then(current) {
            return Ok(Some(kept.fetched.keys.clone()));
        }
        let _flight = lock(&self.flight);
        // Another thread may have been here while this one waited.
        if let Some(kept) = self.kept().filter(|kept| !matches!(kept.age(now), Age::Ended)) {
            return Ok(Some(kept.fetched.keys.clone()));
        }
        stop.check()?;
        if let Some(err) = self.failure((self.clock)(), limits::CREDENTIALS_FAILURE_KEPT) {
            return Err(err);
        }
        self.fetch(settings, is_sdk, (self.clock)(), &|_, _| Ok(()), stop).map(|kept| Some(kept.fetched.keys.clone()))
    }

    fn renew(&self, used: &Keys, stop: &Stop) -> Result<Option<Keys>> {
        let (settings, is_sdk) = match &self.source {
            // There are no other keys, so the store's refusal is the error.
            Source::Anonymous | Source::Static(_) => return Ok(None),
            Source::Providers { settings, is_sdk } => (settings, *is_sdk),
        };
        let _flight = lock(&self.flight);
        if let Some(kept) = self.kept().filter(|kept| !is_same(&kept.fetched.keys, used)) {
            return Ok(Some(kept.fetched.keys.clone()));
        }
        stop.check()?;
        let now = (self.clock)();
        if let Some(err) = self.failure(now, limits::CREDENTIALS_FAILURE_KEPT) {
            return Err(err);
        }
        let is_fit = |_: Provider, keys: &Keys| match is_same(keys, used) {
            false => Ok(()),
            true => {
                let text = "the store says that the keys have expired, and there are no others yet where they come from: \
                            renew them there, and check this machine's clock";
                Err(Error::new(Kind::Retry, text))
            }
        };
        self.fetch(settings, is_sdk, now, &is_fit, stop).map(|kept| Some(kept.fetched.keys.clone()))
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
