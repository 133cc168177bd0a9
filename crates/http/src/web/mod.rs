//! The web configuration of the HTTP server (`--http.config`): who may ask, over which TLS, how often, and what is written
//! on every answer. The file is looked at with every request and read again when it has changed; only one that was checked
//! whole replaces what is used, so a broken file never opens the port. Owned by the thread that serves, and never blocks
//! it: passwords are checked on another.

mod auth;
mod config;
mod metrics;
mod throttle;
mod worker;

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pillion_base::error::{Error, Kind, Result};
use pillion_base::stamp::Stamp;
use pillion_base::wake::Wake;
use sha2::{Digest, Sha256};

use crate::limits;
use crate::server::Response;
use crate::tls::{ServerSettings, ServerTls, parse_cipher_suite, parse_curve};
pub(crate) use auth::ClientId;
use auth::{Auth, Verdict};
use config::{TlsConfig, WebConfig};
pub use metrics::{REFUSAL_REASONS, WebMetrics};
use throttle::{Bucket, Rate};
pub(crate) use worker::Check;

/// Time between two tries of a file that cannot be used. What it names may have come meanwhile.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two lines of the log about wrong passwords.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The web configuration in use.
pub struct Web {
    path: PathBuf,
    config: WebConfig,
    tls: Option<ServerTls>,
    limiter: Option<(Rate, Bucket)>,
    auth: Auth,
    watch: Watch,
    metrics: WebMetrics,
    wake: Arc<Wake>,
    reload: Arc<AtomicBool>,
    /// When wrong passwords were logged last, and how many were throttled since.
    logged: (Option<Instant>, u64),
}

/// What is known of the file.
struct Watch {
    stamp: Option<Stamp>,
    /// Of the text that is used.
    digest: [u8; 32],
    /// The file is to be read again at this time, whatever it looks like.
    again_at: Option<Instant>,
    /// The error that was logged last; `None` while all is well.
    complaint: Option<String>,
}

/// Asks for the file to be read again.
#[derive(Clone)]
pub struct Reload {
    flag: Arc<AtomicBool>,
    wake: Arc<Wake>,
}

impl Reload {
    /// Has the file, and the certificates that it names, read again by the thread that serves: for SIGHUP.
    pub fn reload(&self) {
        self.flag.store(true, Ordering::Release);
        self.wake.wake();
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Judged {
    /// Its page is sent.
    Pass,
    /// This is sent.
    Refused(Response),
    /// It is not known yet; [`Web::verdicts`] will tell.
    Wait,
}

/// Reads the file at `path` and uses nothing of it.
///
/// `Errors:` as [`Web::load`], but for the certificates.
pub fn check(path: &Path) -> Result<()> {
    read(path).map(drop)
}

impl Web {
    /// Reads the file at `path`.
    ///
    /// `Errors:` permanent: file, line, and what to change.
    pub fn load(path: &Path, metrics: WebMetrics) -> Result<Self> {
        Web::load_with(path, metrics, worker::bcrypt_check())
    }

    /// [`Web::load`] with something else than bcrypt.
    pub(crate) fn load_with(path: &Path, metrics: WebMetrics, check: Check) -> Result<Self> {
        let now = Instant::now();
        let stamp = Stamp::of(path);
        let (text, config) = read(path).map_err(|err| err.with_kind(Kind::Permanent))?;
        let tls = config.tls.as_ref().map(|tls| load_tls(path, tls, &metrics)).transpose()?;
        let wake = Arc::new(Wake::new()?);
        metrics.config_reload_successful.set(1);
        let again_at = stamp.is_none_or(|stamp| stamp.is_unsettled()).then_some(now);
        Ok(Web {
            path: path.to_owned(),
            tls,
            limiter: limiter(&config, now),
            config,
            auth: Auth::new(check, Arc::clone(&wake), now)?,
            watch: Watch { stamp, digest: Sha256::digest(&text).into(), again_at, complaint: None },
            metrics,
            wake,
            reload: Arc::default(),
            logged: (None, 0),
        })
    }

    /// What asks for the file to be read again.
    pub fn reloader(&self) -> Reload {
        Reload { flag: Arc::clone(&self.reload), wake: Arc::clone(&self.wake) }
    }

    /// For poll(2): readable when there are verdicts, or the file is to be read again.
    pub(crate) fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Headers of every response.
    pub(crate) fn headers(&self) -> &[(String, String)] {
        &self.config.headers
    }

    /// How connections that begin now speak TLS; `None` is without.
    pub(crate) fn tls(&self) -> Option<&ServerTls> {
        self.tls.as_ref()
    }

    /// The limit of requests, for the log at the start.
    pub(crate) fn rate_limit(&self) -> Option<(u32, Duration)> {
        self.limiter.as_ref().map(|(rate, _)| (rate.burst, rate.interval))
    }

    /// Judges a request, after a look at the file.
    pub(crate) fn judge(
        &mut self,
        now: Instant,
        client: ClientId,
        peer: IpAddr,
        authorization: Option<&[u8]>,
    ) -> Judged {
        self.refresh(now);
        if self.limiter.as_mut().is_some_and(|(rate, bucket)| !bucket.take(now, *rate)) {
            self.metrics.refused.with_label_values(&["rate_limit"]).inc();
            return Judged::Refused(Response::error(429, "Too Many Requests"));
        }
        if self.config.users.is_empty() {
            return Judged::Pass;
        }
        let verdict = self.auth.ask(now, client, peer, authorization, &self.config.users);
        if verdict == Verdict::Throttled {
            self.log_throttled(now, peer);
        }
        self.judged(verdict)
    }

    /// The verdicts that have become known.
    pub(crate) fn verdicts(&mut self) -> Vec<(ClientId, Judged)> {
        let verdicts = self.auth.verdicts(&self.config.users);
        verdicts.into_iter().map(|(client, verdict)| (client, self.judged(verdict))).collect()
    }

    /// The client is gone, or is answered without a verdict.
    pub(crate) fn forget(&mut self, client: ClientId) {
        self.auth.forget(client);
    }

    /// The answer to a request whose verdict takes too long.
    pub(crate) fn too_late(&mut self, client: ClientId) -> Response {
        self.forget(client);
        self.busy()
    }

    fn busy(&self) -> Response {
        self.metrics.refused.with_label_values(&["busy"]).inc();
        Response::later(503, "503 Service Unavailable: too many passwords wait to be checked", "1")
    }

    fn judged(&self, verdict: Verdict) -> Judged {
        let checks = self.auth.n_checks();
        self.metrics.password_checks.inc_by(checks.saturating_sub(self.metrics.password_checks.get()));
        match verdict {
            Verdict::Allowed => Judged::Pass,
            Verdict::Wait => Judged::Wait,
            Verdict::Unauthorized => {
                self.metrics.refused.with_label_values(&["unauthorized"]).inc();
                Judged::Refused(Response::unauthorized())
            }
            Verdict::Throttled => {
                self.metrics.refused.with_label_values(&["wrong_passwords"]).inc();
                Judged::Refused(Response::later(429, "Too Many Requests", "6"))
            }
            Verdict::Busy => Judged::Refused(self.busy()),
        }
    }

    fn log_throttled(&mut self, now: Instant, peer: IpAddr) {
        let (logged_at, n_since) = &mut self.logged;
        if logged_at.is_some_and(|before| now.saturating_duration_since(before) < LOG_INTERVAL) {
            *n_since += 1;
            return;
        }
        *logged_at = Some(now);
        let others = std::mem::take(n_since);
        log::warn!(
            peer = peer.to_string(), others_since_last = others;
            "too many wrong passwords over HTTP; further ones are refused without a look for a while"
        );
    }

    /// Looks at the file and reads it if it has changed.
    pub(crate) fn refresh(&mut self, now: Instant) {
        let is_asked = self.reload.swap(false, Ordering::Acquire);
        let stamp = Stamp::of(&self.path);
        let is_due = self.watch.again_at.is_some_and(|at| at <= now);
        if !is_asked && !is_due && stamp == self.watch.stamp {
            return;
        }
        self.watch.stamp = stamp;
        match self.read_again(now, is_asked) {
            Ok(()) => {
                self.metrics.config_reload_successful.set(1);
                self.watch.complaint = None;
                self.watch.again_at = stamp.is_none_or(|stamp| stamp.is_unsettled()).then_some(now);
            }
            Err(err) => {
                let text = err.to_string();
                self.metrics.config_reload_successful.set(0);
                self.watch.again_at = now.checked_add(RETRY_INTERVAL);
                if is_asked || self.watch.complaint.as_ref() != Some(&text) {
                    log::error!(err = text.as_str(); "cannot use the new web configuration; the one before goes on to be used");
                    self.watch.complaint = Some(text);
                }
            }
        }
    }

    fn read_again(&mut self, now: Instant, is_asked: bool) -> Result<()> {
        let (text, config) = read(&self.path)?;
        let digest: [u8; 32] = Sha256::digest(&text).into();
        if is_asked
            && config.tls == self.config.tls
            && let Some(tls) = &self.tls
        {
            // It says itself what is wrong.
            let _ = tls.reload();
        }
        if digest == self.watch.digest {
            if is_asked || self.watch.complaint.is_some() {
                log::info!(file = self.path.display().to_string(); "the web configuration is as before");
            }
            return Ok(());
        }
        if let Some(what) = self.config.given_up_by(&config) {
            return Err(in_file(&self.path, Error::new(Kind::Permanent, what)));
        }
        if config.tls != self.config.tls {
            self.tls = config.tls.as_ref().map(|tls| load_tls(&self.path, tls, &self.metrics)).transpose()?;
        }
        if config.rate_limit != self.config.rate_limit {
            self.limiter = limiter(&config, now);
        }
        self.config = config;
        self.watch.digest = digest;
        log::info!(file = self.path.display().to_string(); "the web configuration has changed and is in use");
        Ok(())
    }
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Web").field("path", &self.path).field("config", &self.config).finish_non_exhaustive()
    }
}

fn limiter(config: &WebConfig, now: Instant) -> Option<(Rate, Bucket)> {
    config.rate_limit.map(|limit| (Rate { burst: limit.burst, interval: limit.interval }, Bucket::new(now)))
}

/// The file's text and what it says.
fn read(path: &Path) -> Result<(String, WebConfig)> {
    let text = read_text(path).map_err(|err| in_file(path, err))?;
    let dir = path.parent().unwrap_or(Path::new(""));
    let config = WebConfig::parse(&text, dir).map_err(|err| in_file(path, err))?;
    Ok((text, config))
}

fn read_text(path: &Path) -> Result<String> {
    // Before it is opened: a pipe would block until somebody writes.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(Kind::Permanent, "it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limits::WEB_CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limits::WEB_CONFIG_BYTES_MAX {
        let text = format!("it is larger than {} bytes", limits::WEB_CONFIG_BYTES_MAX);
        return Err(Error::new(Kind::Permanent, text));
    }
    String::from_utf8(bytes).map_err(|_| Error::new(Kind::Permanent, "it is not UTF-8"))
}

fn in_file(path: &Path, err: Error) -> Error {
    err.context(format!("web configuration {} (--http.config)", path.display()))
}

fn load_tls(path: &Path, config: &TlsConfig, metrics: &WebMetrics) -> Result<ServerTls> {
    // The names were looked up when the file was read.
    let wrong = |why: String| Error::new(Kind::Permanent, why);
    let suites: Result<Vec<_>, String> = config.cipher_suites.iter().map(|name| parse_cipher_suite(name)).collect();
    let curves: Result<Vec<_>, String> = config.curves.iter().map(|name| parse_curve(name)).collect();
    let settings = ServerSettings {
        client_ca: config.client_ca.clone(),
        client_auth: config.client_auth,
        client_sans: config.client_sans.clone(),
        min_version: config.min_version,
        max_version: config.max_version,
        cipher_suites: suites.map_err(wrong).map_err(|err| in_file(path, err))?,
        curves: curves.map_err(wrong).map_err(|err| in_file(path, err))?,
        alpn: vec![b"http/1.1".to_vec()],
        ..ServerSettings::new(config.cert.clone(), config.key.clone())
    };
    ServerTls::load(settings, metrics.tls.clone()).map_err(|err| in_file(path, err))
}
