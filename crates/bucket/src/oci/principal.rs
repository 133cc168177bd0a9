//! Who signs requests: a user with an API key, a session whose token lies in a file, or this machine. The first place that
//! has something decides; files are read again when the store refuses a key, for it may have been rotated. A token that is
//! fetched is kept for all threads, and another fetched before it ends.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime};

use super::config::Auth;
use super::fault::By;
use super::federation;
use super::key::Key;
use crate::limits;
use crate::rest::{Env, read_text, wire};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::stop::Stop;

/// A key and its name.
pub(super) struct Principal {
    /// `tenancy/user/fingerprint`, or `ST$` and a token, which is a secret.
    pub key_id: String,
    /// The key.
    pub key: Key,
    /// What it is.
    pub by: By,
    /// When it is no longer accepted, if that is known.
    pub expires: Option<SystemTime>,
}

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The principal of a configuration.
pub(super) struct Principals {
    auth: Auth,
    env: Env,
    region: String,
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
    principal: Arc<Principal>,
    at: SystemTime,
}

impl Kept {
    fn is_ended(&self, now: SystemTime) -> bool {
        // If our clock is wrong, a new token may seem expired; the store knows better.
        let is_new = now.duration_since(self.at).unwrap_or_default() < limits::CREDENTIALS_AGE_MIN;
        self.principal.expires.is_some_and(|end| end <= now) && !is_new
    }

    /// Whether four fifths of its life are over.
    fn is_old(&self, now: SystemTime) -> bool {
        let Some(end) = self.principal.expires else { return false };
        let life = end.duration_since(self.at).unwrap_or_default();
        self.at + (life / 5 * 4).max(limits::CREDENTIALS_AGE_MIN) <= now
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Principals {
    /// Reads key and names; nothing is fetched yet. `Errors:` of class `credentials`; each says what is missing, and where.
    pub(super) fn new(auth: Auth, env: Env) -> Result<Principals> {
        Principals::with_clock(auth, env, Arc::new(SystemTime::now))
    }

    fn with_clock(auth: Auth, env: Env, clock: Clock) -> Result<Principals> {
        let (region, principal) = match &auth {
            Auth::Instance { region, session_key } => {
                Key::read(&session_key.0).context(|| "privatekey").map_err(|err| err.classed("credentials"))?;
                (region.clone(), None)
            }
            other => load(other, &env).map(|(region, principal)| (region, Some(principal)))?,
        };
        let at = clock();
        let kept = principal.map(|principal| Kept { principal: Arc::new(principal), at });
        let cache = Mutex::new(Cache { kept, failed: None });
        Ok(Principals { auth, env, region, clock, cache, flight: Mutex::default() })
    }

    /// The region of the configuration.
    pub(super) fn region(&self) -> &str {
        &self.region
    }

    /// Who signs now. `Errors:` of class `credentials`. `Blocks:` while a token is fetched, for a bounded time.
    pub(super) fn current(&self, stop: &Stop) -> Result<Arc<Principal>> {
        let now = (self.clock)();
        if let Some(kept) = self.kept().filter(|kept| !kept.is_ended(now)) {
            return Ok(if kept.is_old(now) { self.refresh(kept, now, stop) } else { kept.principal });
        }
        let _flight = lock(&self.flight);
        // Another thread may have been here while this one waited.
        if let Some(kept) = self.kept().filter(|kept| !kept.is_ended(now)) {
            return Ok(kept.principal);
        }
        self.fetch_unless_failed(stop)
    }

    /// Reads the files again or fetches another token, because the store has refused `used`. `None` if nothing has changed.
    pub(super) fn renew(&self, used: &Principal, stop: &Stop) -> Result<Option<Arc<Principal>>> {
        let is_other = |one: &Principal| {
            (one.key_id.as_str(), one.key.fingerprint()) != (used.key_id.as_str(), used.key.fingerprint())
        };
        let _flight = lock(&self.flight);
        if let Some(kept) = self.kept().filter(|kept| is_other(&kept.principal)) {
            return Ok(Some(kept.principal));
        }
        if matches!(self.auth, Auth::Keys { .. }) {
            return Ok(None);
        }
        Ok(Some(self.fetch_unless_failed(stop)?).filter(|found| is_other(found)))
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
    fn fetch_unless_failed(&self, stop: &Stop) -> Result<Arc<Principal>> {
        stop.check()?;
        match self.failure(limits::CREDENTIALS_FAILURE_KEPT) {
            Some(err) => Err(err),
            None => self.fetch(stop),
        }
    }

    /// Fetches another token while the old one is valid. If that fails, the old one stays in use.
    fn refresh(&self, old: Kept, now: SystemTime, stop: &Stop) -> Arc<Principal> {
        if self.failure(limits::CREDENTIALS_REFRESH_PAUSE).is_some() {
            return old.principal;
        }
        let _flight = match self.flight.try_lock() {
            Ok(flight) => flight,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another thread fetches already.
            Err(TryLockError::WouldBlock) => return old.principal,
        };
        // That thread may be done by now.
        if let Some(kept) = self.kept().filter(|kept| !kept.is_old(now)) {
            return kept.principal;
        }
        let is_first_failure = lock(&self.cache).failed.is_none();
        self.fetch(stop).unwrap_or_else(|err| {
            if is_first_failure && err.kind() != Kind::Stopped {
                log::warn!(err = err.to_string(); "failed to refresh the token, going on with the one that is still good");
            }
            old.principal
        })
    }

    fn fetch(&self, stop: &Stop) -> Result<Arc<Principal>> {
        let now = (self.clock)();
        let (found, _) = wire::until_stopped(stop, || match &self.auth {
            Auth::Instance { region, session_key } => federation::instance(&self.env, region, &session_key.0),
            other => load(other, &self.env).map(|(_, principal)| principal),
        });
        stop.check()?;
        match found {
            Ok(principal) => {
                let principal = Arc::new(principal);
                let kept = Some(Kept { principal: Arc::clone(&principal), at: now });
                *lock(&self.cache) = Cache { kept, failed: None };
                Ok(principal)
            }
            Err(err) => {
                // To callers `NotFound` would mean an object and `Corrupt` a file of a block.
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
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text).classed("credentials")
}

/// A principal and the region that goes with it.
type Found = (String, Principal);

/// Reads what lies in the configuration and in files.
fn load(auth: &Auth, env: &Env) -> Result<Found> {
    let loaded = match auth {
        Auth::Instance { .. } => Err(wrong("this machine's token is fetched")),
        Auth::Keys { tenancy, user, region, fingerprint, private_key } => {
            user_principal(tenancy, user, fingerprint, region, &private_key.0).context(|| "privatekey")
        }
        Auth::Profile => look_around(env),
    };
    loaded.map_err(|err| err.classed("credentials"))
}

/// `Source:` oci-go-sdk `DefaultConfigProvider`. `Differs:` the first place that there is decides; fields of several places
/// are not mixed.
fn look_around(env: &Env) -> Result<Found> {
    let home = env("HOME").map(PathBuf::from);
    let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let files =
        [in_home(".oci/config"), env("OCI_CONFIG_FILE").map(|path| expand(&path, env)), in_home(".obmcs/config")];
    if let Some(path) = files.into_iter().flatten().find(|path| path.is_file()) {
        let text = read_text(&path, limits::PROFILES_BYTES_MAX)?;
        return profile(&text, env).context(|| format!("profile DEFAULT of {}", path.display()));
    }
    if env("TF_VAR_user_ocid").is_some() {
        return environment(env).context(|| "the environment (TF_VAR_…)");
    }
    Err(wrong(
        "no credentials found: set provider: raw with tenancy_ocid, user_ocid, fingerprint, region and privatekey, or fill \
         one of the places that were looked at: ~/.oci/config, the file that OCI_CONFIG_FILE names, ~/.obmcs/config, \
         TF_VAR_user_ocid and its like",
    ))
}

fn environment(env: &Env) -> Result<Found> {
    let get = |name: &str| {
        let name = format!("TF_VAR_{name}");
        env(&name).filter(|text| !text.is_empty()).ok_or_else(|| wrong(format!("{name} is not set")))
    };
    let path = expand(&get("private_key_path")?, env);
    let pem = key_file(&path)?;
    user_principal(&get("tenancy_ocid")?, &get("user_ocid")?, &get("fingerprint")?, &get("region")?, &pem)
        .context(|| format!("{}", path.display()))
}

/// The profile `DEFAULT`. `Source:` Oracle's "SDK and CLI Configuration File".
fn profile(text: &str, env: &Env) -> Result<Found> {
    let fields = section(text, "DEFAULT").ok_or_else(|| wrong("there is no section [DEFAULT]"))?;
    // The last of several counts.
    let find =
        |name: &str| fields.iter().rev().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
    let get =
        |name: &str| find(name).filter(|value| !value.is_empty()).ok_or_else(|| wrong(format!("{name} is missing")));
    for name in ["authentication_type", "delegation_token_file"] {
        if find(name).is_some_and(|value| !value.is_empty() && value != "user_principal") {
            return Err(wrong(format!("{name} is not supported: use a user with an API key")));
        }
    }
    let region = match find("region").filter(|region| !region.is_empty()) {
        Some(region) => region.to_owned(),
        None => env("OCI_REGION").ok_or_else(|| wrong("region is missing, and OCI_REGION is not set"))?,
    };
    let path = expand(get("key_file")?, env);
    let pem = key_file(&path)?;
    match find("security_token_file").filter(|_| find("user").is_none()) {
        Some(token_file) => {
            let token =
                read_text(&expand(token_file, env), limits::CREDENTIALS_BYTES_MAX).context(|| "security_token_file")?;
            let token = token.trim();
            let is_token = |c: u8| c.is_ascii_graphic() && c != b'"';
            if token.is_empty() || !token.bytes().all(is_token) {
                return Err(wrong("security_token_file holds no token: run `oci session authenticate`"));
            }
            let key = Key::read(&pem).context(|| format!("{}", path.display()))?;
            Ok((region, Principal { key_id: format!("ST${token}"), key, by: By::Session, expires: None }))
        }
        None => user_principal(get("tenancy")?, get("user")?, get("fingerprint")?, &region, &pem)
            .context(|| format!("{}", path.display())),
    }
}

fn key_file(path: &Path) -> Result<String> {
    read_text(path, limits::CREDENTIALS_BYTES_MAX)
}

fn user_principal(tenancy: &str, user: &str, fingerprint: &str, region: &str, pem: &str) -> Result<Found> {
    let key = Key::read(pem)?;
    if !key.fingerprint().eq_ignore_ascii_case(fingerprint) {
        return Err(wrong(format!(
            "the fingerprint of this key is {}, and another is configured: correct fingerprint, or take the key that \
             belongs to it",
            key.fingerprint()
        )));
    }
    let key_id = format!("{tenancy}/{user}/{fingerprint}");
    if !key_id.bytes().all(|c| c.is_ascii_graphic() && c != b'"') {
        return Err(wrong("the OCID of the tenancy or of the user has characters that no OCID has"));
    }
    Ok((region.to_owned(), Principal { key_id, key, by: By::User, expires: None }))
}

/// A path with `~` for the home.
fn expand(path: &str, env: &Env) -> PathBuf {
    match (path.strip_prefix("~/"), env("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}

/// The fields of a section of an INI file.
fn section<'a>(text: &'a str, name: &str) -> Option<Vec<(&'a str, &'a str)>> {
    let title = |line: &'a str| line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map(str::trim);
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| title(line) == Some(name))?;
    let fields = lines
        .take_while(|line| title(line).is_none())
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim()));
    Some(fields.collect())
}

#[cfg(test)]
#[path = "principal_tests.rs"]
mod tests;
