//! What a client's configuration comes to: the password or token for a request, the TLS of a new connection, each as its
//! files have it at that moment. Clones share it.

use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::secret::Secret;

use super::watched::Watched;
use super::yaml::{Auth, ClientConfig, SecretText, Transport};
use crate::limits;
use crate::tls::{ClientSettings, ClientTls, Pem, PemSource};

/// A client's configuration in use.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    config: ClientConfig,
    /// Whether the peer is spoken to in TLS.
    is_tls: bool,
    /// The whole value of the header.
    authorization: Option<Watched<Secret>>,
    tls: Option<Watched<Tls>>,
}

/// TLS, and the digest of the texts it was made of.
struct Tls {
    digest: u64,
    tls: ClientTls,
}

impl Access {
    /// Reads the files. A password or a token may still be missing: each request says so until it is there.
    ///
    /// `Errors:` permanent, of files of TLS; each with the key, the file and what to change.
    pub fn open(config: ClientConfig, is_tls: bool) -> Result<Self> {
        let tls = match (&config.tls, is_tls) {
            (None, false) => None,
            (settings, _) => Some(watch_tls(settings.clone().unwrap_or_default())),
        };
        if let Some(tls) = &tls {
            tls.look().value().map_err(|err| err.with_kind(Kind::Permanent))?;
        }
        let authorization = watch_authorization(&config.auth);
        Ok(Access(Arc::new(Inner { config, is_tls, authorization, tls })))
    }

    /// The value of the header `Authorization`; `None` where there is none.
    ///
    /// `Errors:` `Retry` while the file of the secret cannot be read.
    pub fn authorization(&self) -> Result<Option<Arc<Secret>>> {
        self.0.authorization.as_ref().map(|watched| watched.look().value()).transpose()
    }

    /// What to show instead of what the peer has refused: what stands in the file meanwhile, or what stood there a short
    /// time ago, because a file and a server never change in the same moment.
    pub fn instead_of(&self, refused: &Secret) -> Option<Arc<Secret>> {
        let current = self.0.authorization.as_ref()?.read_again();
        let now = current.value().ok()?;
        if *now != *refused {
            return Some(now);
        }
        let (since, before) = current.before.as_ref()?;
        (since.elapsed() < limits::REPLACED_SECRET_TIME).then(|| Arc::clone(before))
    }

    /// Most connections that the configuration lets be open at once; `None` where it does not say.
    pub fn connections_max(&self) -> Option<usize> {
        self.0.config.connections_max()
    }

    /// A number that grows when the files of TLS have changed: connections of an older one are not used any more.
    pub(super) fn generation(&self) -> u64 {
        self.0.tls.as_ref().map_or(0, |watched| watched.look().generation)
    }

    /// Whether the files of TLS are others than those of this generation by now.
    pub(super) fn has_left(&self, generation: u64) -> bool {
        self.0.tls.as_ref().is_some_and(|watched| watched.read_again().generation != generation)
    }

    /// The TLS of a connection that is opened now.
    pub(super) fn tls(&self) -> Result<ClientTls> {
        match &self.0.tls {
            Some(watched) => watched.look().value().map(|tls| tls.tls.clone()),
            None => Err(Error::new(Kind::Permanent, "this peer was to be spoken to without TLS")),
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        self.0.is_tls
    }

    /// The configuration.
    pub fn config(&self) -> &ClientConfig {
        &self.0.config
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.0.config.transport
    }
}

/// Without any configuration.
impl Default for Access {
    fn default() -> Self {
        let config = ClientConfig::default();
        Access(Arc::new(Inner { config, is_tls: false, authorization: None, tls: None }))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("config", &self.0.config).finish_non_exhaustive()
    }
}

fn watch_tls(settings: ClientSettings) -> Watched<Tls> {
    // Prometheus offers HTTP/2 as well.
    let settings = ClientSettings { alpn: vec![b"http/1.1".to_vec()], ..settings };
    let pems: Vec<Pem> = [&settings.ca, &settings.cert, &settings.key].into_iter().flatten().cloned().collect();
    let file = |pem: &Pem| match &pem.source {
        PemSource::File(path) => Some(path.clone()),
        PemSource::Inline(_) => None,
    };
    let paths: Vec<PathBuf> = pems.iter().filter_map(file).collect();
    Watched::new("a file of tls_config", paths, move |used: Option<&Tls>| {
        let digest = digest(&pems)?;
        if used.is_some_and(|used| used.digest == digest) {
            return Ok(None);
        }
        let tls = ClientTls::load(settings.clone())?;
        match self::digest(&pems)? == digest {
            true => Ok(Some(Tls { digest, tls })),
            false => Err(Error::new(Kind::Retry, "the files of tls_config are being replaced")),
        }
    })
}

/// Tells whether files are the same; nobody who could choose them gains by two that only look so.
fn digest(pems: &[Pem]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for pem in pems {
        pem.read()?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn watch_authorization(auth: &Auth) -> Option<Watched<Secret>> {
    let (user, text) = match auth.clone() {
        Auth::None => return None,
        Auth::Basic(user, text) => (Some(user), text),
        Auth::Bearer(text) => (None, text),
    };
    let header = move |secret: &str| match &user {
        Some(user) => basic(user, secret),
        None => Secret(format!("Bearer {secret}")),
    };
    Some(match text {
        SecretText::Inline(secret) => Watched::new("the secret", Vec::new(), move |_| Ok(Some(header(&secret.0)))),
        SecretText::File(setting, path) => Watched::new(setting, vec![path.clone()], move |used: Option<&Secret>| {
            let secret = read_secret(&path).context(|| format!("{setting}: read {}", path.display()))?;
            Ok(Some(header(secret.trim())).filter(|header| Some(header) != used))
        }),
    })
}

/// The value of `Authorization` for a user with a password.
pub fn basic(user: &str, password: &str) -> Secret {
    Secret(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
}

/// `Errors:` never quote the file.
fn read_secret(path: &Path) -> Result<String> {
    let mut text = Vec::new();
    // Before it is opened: a pipe would block until somebody writes.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(Kind::Permanent, "it is not a file"));
    }
    File::open(path)?.take(limits::SECRET_BYTES_MAX + 1).read_to_end(&mut text)?;
    let refused = |text: &str| Err(Error::new(Kind::Permanent, text));
    if text.len() as u64 > limits::SECRET_BYTES_MAX {
        return refused("it is too large for a password or token");
    }
    match String::from_utf8(text) {
        Ok(text) if text.trim().is_empty() => refused("it is empty"),
        Ok(text) if text.trim().contains(char::is_control) => refused("it has more than one line"),
        Ok(text) => Ok(text),
        Err(_) => refused("it is not UTF-8"),
    }
}
