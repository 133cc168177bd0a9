//! What a TLS client needs: whom it trusts and what it shows. Files are read once.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use super::names::{self, Version};
use super::pem::{Pem, system_certificates};
use super::server::{add_roots, certified_key, checked, versions};
use super::verify::{AnyCertificate, TrustedItself};
use pillion_base::error::{Error, Kind, Result};

/// The settings of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// The authorities that are trusted; the system's if there are none here.
    pub ca: Option<Pem>,
    /// The certificate that is shown, and its key.
    pub cert: Option<Pem>,
    /// The key of `cert`.
    pub key: Option<Pem>,
    /// The name in the server's certificate, if it is not the host's.
    pub server_name: Option<String>,
    /// Whether any certificate is taken.
    pub insecure_skip_verify: bool,
    /// Oldest version.
    pub min_version: Version,
    /// Newest version.
    pub max_version: Version,
    /// Protocols that are offered, such as `h2`.
    pub alpn: Vec<Vec<u8>>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        ClientSettings {
            ca: None,
            cert: None,
            key: None,
            server_name: None,
            insecure_skip_verify: false,
            min_version: Version::Tls12,
            max_version: Version::Tls13,
            alpn: Vec::new(),
        }
    }
}

/// What a client needs, read and checked.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<String>,
}

/// A certificate with those behind it, and the PEM text of its key, for those who hand them to another library. They are
/// checked to belong together.
///
/// `Errors:` permanent, each with the setting, the file, and what to change.
pub fn read_pair(cert: &Pem, key: &Pem) -> Result<(Vec<CertificateDer<'static>>, Vec<u8>)> {
    let (chain, text) = (cert.certificates()?, key.read()?);
    certified_key(&default_provider(), cert, chain.clone(), key, key.private_key_in(&text)?)?;
    Ok((chain, text))
}

impl ClientTls {
    /// Reads the files.
    ///
    /// `Errors:` permanent, each with the setting, the file, and what to change.
    pub fn load(settings: ClientSettings) -> Result<ClientTls> {
        let mut provider = default_provider();
        provider.cipher_suites = names::offered_suites(&[]);
        let algorithms = provider.signature_verification_algorithms;
        let provider = Arc::new(provider);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(settings.min_version, settings.max_version)?)
            .map_err(|err| Error::new(Kind::Permanent, err.to_string()))?;
        let builder = if settings.insecure_skip_verify {
            let verifier: Arc<dyn ServerCertVerifier> = Arc::new(AnyCertificate { algorithms, is_mandatory: false });
            builder.dangerous().with_custom_certificate_verifier(verifier)
        } else {
            let mut roots = RootCertStore::empty();
            match &settings.ca {
                Some(ca) => {
                    let trusted = ca.certificates()?;
                    add_roots(&mut roots, ca, trusted.clone())?;
                    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                        .build()
                        .map_err(|err| ca.error(&format!("cannot be used: {err}")))?;
                    let verifier: Arc<dyn ServerCertVerifier> = Arc::new(TrustedItself { inner, trusted });
                    builder.dangerous().with_custom_certificate_verifier(verifier)
                }
                // One of the system's that cannot be read is left out.
                None => {
                    roots.add_parsable_certificates(system_certificates()?);
                    builder.with_root_certificates(roots)
                }
            }
        };
        let mut config = match (&settings.cert, &settings.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let pem = key.private_key_in(&key.read()?)?;
                let key = certified_key(&provider, cert, cert.certificates()?, key, pem)?;
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
            }
            (Some(cert), None) => return Err(checked(format!("{} needs the key that belongs to it", cert.setting))),
            (None, Some(key)) => return Err(checked(format!("{} needs the certificate of the key", key.setting))),
        };
        config.alpn_protocols = settings.alpn;
        config.resumption = Resumption::disabled();
        Ok(ClientTls { config: Arc::new(config), server_name: settings.server_name.filter(|name| !name.is_empty()) })
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    pub(crate) fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}
