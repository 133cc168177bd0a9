//! What a TLS server needs: its certificate, its key, and which clients it accepts. The files are looked at while
//! connections come in, and read again when they change. Only what was checked whole replaces what is used: a file that
//! is half written, or a key whose certificate has not been replaced yet, never breaks a handshake.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, InconsistentKeys, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::der;
use super::metrics::TlsMetrics;
use super::names::{self, CipherSuite, ClientAuth, Curve, Version};
use super::pem::{Pem, PemSource};
use super::verify::{AnyCertificate, NamedClients};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::stamp::{Stamp, are_unsettled};
use pillion_base::state::Published;
use pillion_base::time::format_rfc3339_nano;

/// Time between two looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The settings of a server.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The certificate, and behind it those that lead to an authority.
    pub cert: Pem,
    /// Its key.
    pub key: Pem,
    /// The authorities that sign the certificates of clients.
    pub client_ca: Option<Pem>,
    /// How clients' certificates are treated.
    pub client_auth: ClientAuth,
    /// The DNS names, IP addresses, e-mail addresses and URIs of which a client's certificate must have one; none means
    /// that any will do.
    pub client_sans: Vec<String>,
    /// Oldest version.
    pub min_version: Version,
    /// Newest version.
    pub max_version: Version,
    /// The cipher suites of TLS 1.2; none means all. Those of TLS 1.3 are always offered.
    pub cipher_suites: Vec<CipherSuite>,
    /// The curves in the order of preference; none means all.
    pub curves: Vec<Curve>,
    /// Protocols that are spoken, such as `h2`.
    pub alpn: Vec<Vec<u8>>,
}

impl ServerSettings {
    /// TLS 1.2 or newer for any client.
    pub fn new(cert: Pem, key: Pem) -> Self {
        ServerSettings {
            cert,
            key,
            client_ca: None,
            client_auth: ClientAuth::None,
            client_sans: Vec::new(),
            min_version: Version::Tls12,
            max_version: Version::Tls13,
            cipher_suites: Vec::new(),
            curves: Vec::new(),
            alpn: Vec::new(),
        }
    }
}

/// What a server needs, read and checked; clones share it.
#[derive(Clone)]
pub struct ServerTls {
    inner: Arc<Inner>,
}

struct Inner {
    settings: ServerSettings,
    metrics: TlsMetrics,
    current: Published<Current>,
    /// Whoever holds it reads the files. Connections do not wait for it.
    watch: Mutex<Watch>,
}

/// What is used for connections that begin now.
struct Current {
    config: Arc<ServerConfig>,
    /// Seconds since 1970.
    not_after: i64,
}

/// What is known of the files.
struct Watch {
    looked_at: Option<Instant>,
    stamps: Vec<Option<Stamp>>,
    /// The files had just changed when they were read.
    is_unsettled: bool,
    /// Of the texts that are used.
    digest: u64,
    /// The error that was logged last; `None` while all is well.
    complaint: Option<String>,
}

/// What the files hold.
struct Texts {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl ServerTls {
    /// Reads the files and checks them.
    ///
    /// `Errors:` permanent, each with the setting, the file, and what to change.
    pub fn load(settings: ServerSettings, metrics: TlsMetrics) -> Result<ServerTls> {
        let stamps = stamps_of(&settings);
        let is_unsettled = are_unsettled(&stamps);
        let texts = Texts::read(&settings)?;
        let current = texts.build(&settings)?;
        if is_over(current.not_after) {
            log::warn!(
                "the certificate of {} has expired on {}; clients will refuse it",
                settings.cert.setting,
                date(current.not_after)
            );
        }
        metrics.show(&current);
        let watch = Watch { looked_at: None, stamps, is_unsettled, digest: texts.digest(), complaint: None };
        let inner = Inner { settings, metrics, current: Published::new(current), watch: Mutex::new(watch) };
        Ok(ServerTls { inner: Arc::new(inner) })
    }

    /// Looks at the files, at most once a second, and reads them if they have changed. [`super::Wire::server`] calls it.
    ///
    /// Files that cannot be used are logged once, and what was used goes on to be used.
    pub fn refresh(&self, now: Instant) {
        let inner = &self.inner;
        let mut watch = match inner.watch.try_lock() {
            Ok(watch) => watch,
            Err(TryLockError::Poisoned(watch)) => watch.into_inner(),
            // Another thread is at it.
            Err(TryLockError::WouldBlock) => return,
        };
        if watch.looked_at.is_some_and(|before| now.saturating_duration_since(before) < LOOK_INTERVAL) {
            return;
        }
        watch.looked_at = Some(now);
        let stamps = stamps_of(&inner.settings);
        if stamps == watch.stamps && !watch.is_unsettled {
            return;
        }
        inner.read_again(&mut watch, stamps);
    }

    /// Reads the files, whatever they look like; whether something else is used now.
    ///
    /// `Errors:` why the files cannot be used; what was used before goes on to be.
    pub fn reload(&self) -> Result<bool> {
        let inner = &self.inner;
        let mut watch = inner.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.complaint = None;
        let stamps = stamps_of(&inner.settings);
        match inner.read_again(&mut watch, stamps) {
            Outcome::Changed => Ok(true),
            Outcome::AsBefore => Ok(false),
            Outcome::Failed => {
                Err(Error::new(Kind::Permanent, watch.complaint.clone().unwrap_or_else(|| "unusable".into())))
            }
        }
    }

    /// When the certificate in use ends. `Units:` seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.inner.current.read().not_after
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.inner.current.read().config)
    }

    pub(super) fn metrics(&self) -> &TlsMetrics {
        &self.inner.metrics
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

#[derive(PartialEq, Eq)]
enum Outcome {
    Changed,
    AsBefore,
    Failed,
}

impl Inner {
    fn read_again(&self, watch: &mut Watch, stamps: Vec<Option<Stamp>>) -> Outcome {
        watch.is_unsettled = are_unsettled(&stamps);
        watch.stamps = stamps;
        let mut found = self.newer(watch.digest);
        if found.is_err() {
            // Files that were replaced between two reads do not belong together, and nothing is wrong with them.
            let stamps = stamps_of(&self.settings);
            if stamps != watch.stamps {
                watch.is_unsettled = are_unsettled(&stamps);
                watch.stamps = stamps;
                found = self.newer(watch.digest);
            }
        }
        match found {
            Ok(newer) => {
                let was_bad = watch.complaint.take().is_some();
                let outcome = match newer {
                    Some((digest, newer)) => {
                        watch.digest = digest;
                        self.metrics.show(&newer);
                        let not_after = newer.not_after;
                        // Before it is said: whoever connects then is shown it.
                        self.current.publish(newer);
                        log::info!(
                            "the TLS files of {} have changed and are in use; the certificate ends on {}",
                            self.settings.cert.setting,
                            date(not_after)
                        );
                        Outcome::Changed
                    }
                    None if was_bad => {
                        log::info!("the TLS files of {} are again what is in use", self.settings.cert.setting);
                        Outcome::Changed
                    }
                    None => Outcome::AsBefore,
                };
                self.metrics.reload_successful.set(1);
                outcome
            }
            Err(err) => {
                let text = err.to_string();
                if watch.complaint.as_ref() != Some(&text) {
                    self.metrics.reloads_failed.inc();
                    self.metrics.reload_successful.set(0);
                    log::error!(
                        err = text.as_str();
                        "cannot use the new TLS files; still using the certificate that ends on {}",
                        date(self.current.read().not_after)
                    );
                    watch.complaint = Some(text);
                }
                Outcome::Failed
            }
        }
    }

    /// What the files hold, if it is not what is used, with its digest.
    fn newer(&self, digest: u64) -> Result<Option<(u64, Current)>> {
        let texts = Texts::read(&self.settings)?;
        let newer = texts.digest();
        if newer == digest {
            return Ok(None);
        }
        let current = texts.build(&self.settings)?;
        // Old files that were put back by mistake.
        if is_over(current.not_after) && !is_over(self.current.read().not_after) {
            return Err(self
                .settings
                .cert
                .error(&format!("holds a certificate that has expired on {}", date(current.not_after))));
        }
        Ok(Some((newer, current)))
    }
}

impl TlsMetrics {
    fn show(&self, current: &Current) {
        // No date of a certificate is beyond what the gauge can tell apart.
        #[allow(clippy::cast_precision_loss)]
        self.not_after_timestamp_seconds.set(current.not_after as f64);
        self.reload_successful.set(1);
    }
}

impl Texts {
    fn read(settings: &ServerSettings) -> Result<Texts> {
        Ok(Texts {
            cert: settings.cert.read()?,
            key: settings.key.read()?,
            client_ca: settings.client_ca.as_ref().map(Pem::read).transpose()?,
        })
    }

    /// Tells whether texts are the same; nobody who could choose them gains by two that only look so.
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.cert, &self.key, &self.client_ca).hash(&mut hasher);
        hasher.finish()
    }

    fn build(&self, settings: &ServerSettings) -> Result<Current> {
        let mut provider = default_provider();
        provider.cipher_suites = names::offered_suites(&settings.cipher_suites);
        provider.kx_groups = names::offered_curves(&settings.curves);
        let provider = Arc::new(provider);
        let chain = settings.cert.certificates_in(&self.cert)?;
        let not_after = chain.first().and_then(|leaf| der::validity(leaf));
        let not_after =
            not_after.ok_or_else(|| settings.cert.error("holds a certificate that cannot be read"))?.not_after;
        let key = settings.key.private_key_in(&self.key)?;
        let key = certified_key(&provider, &settings.cert, chain, &settings.key, key)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(settings.min_version, settings.max_version)?)
            .map_err(|err| checked(err.to_string()))?;
        let mut config = match self.client_verifier(settings, &provider)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        }
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = settings.alpn.clone();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Current { config: Arc::new(config), not_after })
    }

    /// Who checks clients; `None` where they show no certificate.
    fn client_verifier(
        &self,
        settings: &ServerSettings,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>> {
        let algorithms = provider.signature_verification_algorithms;
        let any =
            |is_mandatory| Ok(Arc::new(AnyCertificate { algorithms, is_mandatory }) as Arc<dyn ClientCertVerifier>);
        let verifier = match (settings.client_auth, &settings.client_ca) {
            (ClientAuth::None, None) if settings.client_sans.is_empty() => return Ok(None),
            (ClientAuth::None, None) => {
                return Err(checked("names of clients are allowed, but no certificate is asked for; set a client CA"));
            }
            (ClientAuth::None, Some(ca)) => {
                return Err(checked(format!("{} is set, but no certificate is asked of clients", ca.setting)));
            }
            (ClientAuth::Request, _) => any(false),
            (ClientAuth::RequireAny, _) => any(true),
            (ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify, None) => {
                return Err(checked("the certificates of clients are to be verified, but there is no client CA"));
            }
            (auth, Some(ca)) => {
                let mut roots = RootCertStore::empty();
                add_roots(&mut roots, ca, ca.certificates_in(self.client_ca.as_deref().unwrap_or_default())?)?;
                let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
                match auth {
                    ClientAuth::VerifyIfGiven => builder.allow_unauthenticated(),
                    _ => builder,
                }
                .build()
                .map_err(|err| ca.error(&format!("cannot be used: {err}")))
            }
        }?;
        Ok(Some(match settings.client_sans.is_empty() {
            true => verifier,
            false => Arc::new(NamedClients { inner: verifier, allowed: settings.client_sans.clone() }),
        }))
    }
}

/// A certificate and its key, which must belong together.
pub(super) fn certified_key(
    provider: &CryptoProvider,
    cert: &Pem,
    chain: Vec<CertificateDer<'static>>,
    key: &Pem,
    key_der: PrivateKeyDer<'static>,
) -> Result<CertifiedKey> {
    let signing = provider.key_provider.load_private_key(key_der).map_err(|_| {
        key.error("holds a key that is damaged or of a kind that is not supported; RSA of 2048 bits and more, ECDSA with P-256 or P-384, and Ed25519 are")
    })?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        // The library cannot tell for some keys.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(key.error(&format!(
            "and the first certificate of {}{} do not belong together",
            cert.setting,
            match &cert.source {
                PemSource::File(path) => format!(" ({})", path.display()),
                PemSource::Inline(_) => String::new(),
            }
        ))),
        Err(rustls::Error::InvalidCertificate(CertificateError::BadEncoding)) => {
            Err(cert.error("holds a certificate that cannot be read"))
        }
        Err(err) => Err(cert.error(&format!("holds a certificate that cannot be used: {err}"))),
    }
}

/// Trusts each of the authorities.
pub(super) fn add_roots(roots: &mut RootCertStore, ca: &Pem, certificates: Vec<CertificateDer<'static>>) -> Result<()> {
    for (idx, certificate) in certificates.into_iter().enumerate() {
        roots
            .add(certificate)
            .map_err(|_| ca.error(&format!("holds a certificate that cannot be read: number {}", idx + 1)))?;
    }
    Ok(())
}

/// The versions from the oldest to the newest.
pub(super) fn versions(min: Version, max: Version) -> Result<Vec<&'static SupportedProtocolVersion>> {
    let both = [Version::Tls13, Version::Tls12];
    let allowed: Vec<_> = both.into_iter().filter(|version| (min..=max).contains(version)).collect();
    match allowed.is_empty() {
        true => Err(checked("the oldest version of TLS that is allowed is newer than the newest")),
        false => Ok(allowed.into_iter().map(Version::supported).collect()),
    }
}

pub(super) fn checked(text: impl Into<String>) -> Error {
    Error::new(Kind::Permanent, text)
}

fn is_over(not_after: i64) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX) > not_after
}

fn date(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    UNIX_EPOCH.checked_add(since).map_or_else(String::new, format_rfc3339_nano)
}

/// The stamps of the files; `None` for what is no file or cannot be looked at.
fn stamps_of(settings: &ServerSettings) -> Vec<Option<Stamp>> {
    [Some(&settings.cert), Some(&settings.key), settings.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|pem| match &pem.source {
            PemSource::File(path) => Stamp::of(path),
            PemSource::Inline(_) => None,
        })
        .collect()
}
