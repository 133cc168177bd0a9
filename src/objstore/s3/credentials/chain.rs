//! Looks for keys where they are usually found, keeps them, and fetches others before they end, once for all threads.
//!
//! The first place that is configured decides. If it fails, that is an error: going on with the next place, or without
//! a signature, would only end in an error that nobody understands.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

use super::{Credentials, Env, Fetched, Found, Keys, Stamp, Surroundings};
use super::{container, environment, instance, profile, sts};
use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::objstore::s3::config::S3Config;
use crate::objstore::s3::wire;
use crate::supervisor::Stop;

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The credentials of a configuration.
pub struct Chain {
    source: Source,
    /// Never held across anything that blocks.
    cache: Mutex<Cache>,
    /// Held by the one who fetches.
    flight: Mutex<()>,
    clock: Clock,
}

enum Source {
    Anonymous,
    Static(Keys),
    Places { around: Surroundings, is_sdk: bool },
}

/// Where keys are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Environment,
    Profile,
    WebIdentity,
    Container,
    Instance,
}

impl Place {
    /// minio-go's order, which Thanos has.
    const USUAL: [Place; 5] =
        [Place::Environment, Place::Profile, Place::WebIdentity, Place::Container, Place::Instance];
    /// The order of AWS's SDK for Go.
    const SDK: [Place; 5] = [Place::Environment, Place::WebIdentity, Place::Profile, Place::Container, Place::Instance];

    fn name(self) -> &'static str {
        match self {
            Place::Environment => "environment variables",
            Place::Profile => "shared credentials file",
            Place::WebIdentity => "web identity",
            Place::Container => "container credentials endpoint",
            Place::Instance => "EC2 instance metadata service",
        }
    }
}

#[derive(Default)]
struct Cache {
    kept: Option<Arc<Kept>>,
    /// The last failure to fetch, if none has succeeded since.
    failed: Option<(SystemTime, Error)>,
}

/// Keys that were fetched.
struct Kept {
    fetched: Fetched,
    place: Place,
    at: SystemTime,
    /// When others are to be fetched.
    refresh_at: Option<SystemTime>,
}

/// What the keys that are kept are good for.
enum Age {
    Fresh,
    /// Good, but it is time for others.
    Due,
    Ended,
}

impl Kept {
    fn new(fetched: Fetched, place: Place, now: SystemTime) -> Self {
        let refresh_at = fetched.keys.expires.map(|expires| {
            let life = expires.duration_since(now).unwrap_or_default();
            now + (life / 5 * 4).max(limits::CREDENTIALS_AGE_MIN)
        });
        Kept { fetched, place, at: now, refresh_at }
    }

    fn age(&self, now: SystemTime) -> Age {
        // By a clock that is wrong keys may have ended before they were fetched; the store knows better.
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

/// Whether both sign the same; when they end is not looked at.
fn is_same(a: &Keys, b: &Keys) -> bool {
    (&a.access_key, &a.secret_key, &a.session_token) == (&b.access_key, &b.secret_key, &b.session_token)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As the caller may see it: `NotFound` would mean an object, `Corrupt` a file of a block.
fn outward(err: Error) -> Error {
    match err.kind() {
        Kind::Stopped | Kind::Permanent | Kind::Retry => err,
        _ => err.with_kind(Kind::Retry),
    }
    .classed("credentials")
}

impl Chain {
    /// The credentials that `config` asks for. `env` gives environment variables. Nothing is fetched yet.
    ///
    /// `Errors:` for settings that contradict each other.
    pub fn new(config: &S3Config, env: Env) -> Result<Self> {
        Chain::with_clock(config, env, Arc::new(SystemTime::now))
    }

    fn with_clock(config: &S3Config, env: Env, clock: Clock) -> Result<Self> {
        let around = Surroundings { env, sts_endpoint: config.sts_endpoint.clone() };
        let source = if config.anonymous {
            Source::Anonymous
        } else if config.access_key.0.is_empty() {
            // Half of a pair in the environment stays half for the life of the process.
            environment::fetch(&around)
                .map_err(|err| outward(err.context("get credentials from environment variables")))?;
            Source::Places { around, is_sdk: config.aws_sdk_auth }
        } else {
            Source::Static(Keys {
                access_key: config.access_key.clone(),
                secret_key: config.secret_key.clone(),
                session_token: config.session_token.clone(),
                expires: None,
            })
        };
        Ok(Chain { source, cache: Mutex::default(), flight: Mutex::default(), clock })
    }

    /// Asks the places one after the other.
    fn look(around: &Surroundings, is_sdk: bool, now: SystemTime, stop: &Stop) -> Result<(Place, Fetched)> {
        let mut looked = Vec::new();
        for place in if is_sdk { Place::SDK } else { Place::USUAL } {
            stop.check()?;
            let (found, _) = wire::until_stopped(stop, || match place {
                Place::Environment => environment::fetch(around),
                Place::Profile => profile::fetch(around, is_sdk, now, stop),
                Place::WebIdentity => sts::fetch(around, now),
                Place::Container => container::fetch(around),
                Place::Instance => instance::fetch(around, stop),
            });
            // An exchange that the stop has cut says nothing of its place.
            stop.check()?;
            match found.map_err(|err| err.context(format!("get credentials from the {}", place.name())))? {
                Found::Keys(fetched) => return Ok((place, fetched)),
                Found::Nothing(why) => looked.push(format!("{} ({why})", place.name())),
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

    /// Fetches keys and keeps them, if they are not what `is_fit` refuses. The caller holds the flight.
    fn fetch(
        &self,
        around: &Surroundings,
        is_sdk: bool,
        now: SystemTime,
        is_fit: &dyn Fn(Place, &Keys) -> Result<()>,
        stop: &Stop,
    ) -> Result<Arc<Kept>> {
        let fit = |(place, fetched): (Place, Fetched)| is_fit(place, &fetched.keys).map(|()| (place, fetched));
        match Chain::look(around, is_sdk, now, stop).and_then(fit) {
            Ok((place, fetched)) => {
                let kept = Arc::new(Kept::new(fetched, place, now));
                let mut cache = lock(&self.cache);
                let is_first = cache.kept.is_none();
                let was_failing = cache.failed.take().is_some();
                cache.kept = Some(Arc::clone(&kept));
                drop(cache);
                if is_first || was_failing {
                    log::info!(provider = place.name(); "got credentials");
                } else {
                    log::debug!(provider = place.name(); "refreshed credentials");
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

    /// Other keys while the old ones are good: whoever cannot have them goes on with those.
    fn refresh(&self, old: Arc<Kept>, around: &Surroundings, is_sdk: bool, now: SystemTime, stop: &Stop) -> Arc<Kept> {
        if self.failure(now, limits::CREDENTIALS_REFRESH_PAUSE).is_some() {
            return old;
        }
        let _flight = match self.flight.try_lock() {
            Ok(flight) => flight,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody is at it.
            Err(TryLockError::WouldBlock) => return old,
        };
        let is_first_failure = lock(&self.cache).failed.is_none();
        // A file that is being rewritten must not turn us into somebody else.
        let is_fit = |place: Place, _: &Keys| match place == old.place {
            true => Ok(()),
            false => {
                let (before, now) = (old.place.name(), place.name());
                Err(Error::new(
                    Kind::Retry,
                    format!("they came from the {before}, which has none now, only the {now} has"),
                ))
            }
        };
        match self.fetch(around, is_sdk, now, &is_fit, stop) {
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

impl Credentials for Chain {
    fn keys(&self, stop: &Stop) -> Result<Option<Keys>> {
        let (around, is_sdk) = match &self.source {
            Source::Anonymous => return Ok(None),
            Source::Static(keys) => return Ok(Some(keys.clone())),
            Source::Places { around, is_sdk } => (around, *is_sdk),
        };
        let now = (self.clock)();
        let current = |kept: Arc<Kept>| match kept.age(now) {
            Age::Fresh => Some(kept),
            Age::Due => Some(self.refresh(kept, around, is_sdk, now, stop)),
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
        self.fetch(around, is_sdk, (self.clock)(), &|_, _| Ok(()), stop).map(|kept| Some(kept.fetched.keys.clone()))
    }

    fn renew(&self, used: &Keys, stop: &Stop) -> Result<Option<Keys>> {
        let (around, is_sdk) = match &self.source {
            // There are no others. What the store said then stands, which may be that it does not know the access key.
            Source::Anonymous | Source::Static(_) => return Ok(None),
            Source::Places { around, is_sdk } => (around, *is_sdk),
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
        let is_fit = |_: Place, keys: &Keys| match is_same(keys, used) {
            false => Ok(()),
            true => {
                let text = "the store says that the keys have expired, and there are no others yet where they come from: \
                            renew them there, and check this machine's clock";
                Err(Error::new(Kind::Retry, text))
            }
        };
        self.fetch(around, is_sdk, now, &is_fit, stop).map(|kept| Some(kept.fetched.keys.clone()))
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
