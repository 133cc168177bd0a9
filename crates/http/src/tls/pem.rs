//! Reads certificates and keys from PEM text, in files or inline. Errors say which setting, which file, and what to
//! change; they never show what stands in a file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use pillion_base::error::{Error, Kind, Result};
use pillion_base::secret::Secret;
use rustls::pki_types::pem::{Error as PemError, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Where Debian and most others keep the certificate authorities; Red Hat's and SUSE's names follow.
const CA_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// A hundred times what certificates need: whoever names a disk image is told so.
const PEM_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where PEM text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PemSource {
    /// In a file, which is read again when it changes.
    File(PathBuf),
    /// In the configuration itself.
    Inline(Secret),
}

/// PEM text, and the setting that names it: `--grpc-server-tls-cert`, `tls_server_config.cert_file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pem {
    /// What errors call it.
    pub setting: String,
    /// Where it is.
    pub source: PemSource,
}

impl Pem {
    /// In a file.
    pub fn file(setting: impl Into<String>, path: impl Into<PathBuf>) -> Pem {
        Pem { setting: setting.into(), source: PemSource::File(path.into()) }
    }

    /// In the configuration itself.
    pub fn inline(setting: impl Into<String>, text: impl Into<String>) -> Pem {
        Pem { setting: setting.into(), source: PemSource::Inline(Secret(text.into())) }
    }

    /// The certificates, in their order; at least one.
    ///
    /// `Errors:` permanent: the file, and what is wrong with it.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        self.certificates_in(&self.read()?)
    }

    /// The text.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        match &self.source {
            PemSource::File(path) => read(path).map_err(|err| {
                Error::new(Kind::Permanent, format!("{}: read {}: {err}", self.setting, path.display()))
            }),
            PemSource::Inline(text) => Ok(text.0.clone().into_bytes()),
        }
    }

    /// [`Pem::certificates`] of text that was read before.
    pub(super) fn certificates_in(&self, text: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let found = found.map_err(|err| self.broken(&err))?;
        match found.is_empty() {
            true => Err(self.lacks("certificate", text)),
            false => Ok(found),
        }
    }

    /// The private key in text that was read before: the first one there is.
    pub(super) fn private_key_in(&self, text: &[u8]) -> Result<PrivateKeyDer<'static>> {
        let holds = |part: &[u8]| text.windows(part.len()).any(|window| window == part);
        if holds(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || holds(b"Proc-Type: 4,ENCRYPTED") {
            return Err(self.error(
                "holds an encrypted key, and there is nobody to ask for its password; decrypt it with \
                 `openssl pkey -in FILE -out NEWFILE`",
            ));
        }
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (kind, der) = section.map_err(|err| self.broken(&err))?;
            if let Some(key) = PrivateKeyDer::from_pem(kind, der) {
                return Ok(key);
            }
        }
        Err(self.lacks("private key", text))
    }

    fn lacks(&self, what: &str, text: &[u8]) -> Error {
        let is_empty = if text.trim_ascii().is_empty() { "is empty: it " } else { "" };
        self.error(&format!("{is_empty}holds no {what} (PEM)"))
    }

    /// An error that names the setting and the file: `SETTING: FILE WHAT`.
    pub(super) fn error(&self, what: &str) -> Error {
        Error::new(Kind::Permanent, format!("{}{what}", self.subject()))
    }

    fn subject(&self) -> String {
        match &self.source {
            PemSource::File(path) => format!("{}: {} ", self.setting, path.display()),
            PemSource::Inline(_) => format!("{} ", self.setting),
        }
    }

    /// The library's error would quote the text.
    fn broken(&self, err: &PemError) -> Error {
        self.error(match err {
            PemError::MissingSectionEnd { .. } => {
                "breaks off: a -----BEGIN line has no -----END line; it may still be being written"
            }
            PemError::IllegalSectionStart { .. } => "has a -----BEGIN line that does not end in -----",
            PemError::Base64Decode(_) => "is damaged: what is between -----BEGIN and -----END is not base64",
            _ => "is not PEM",
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    // Before it is opened: a pipe would block until somebody writes. /dev/null is a file without anything in it.
    let kind = std::fs::metadata(path).map_err(|err| err.to_string())?.file_type();
    if !kind.is_file() && !kind.is_char_device() {
        return Err("it is not a file".into());
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(|err| err.to_string())?;
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut text).map_err(|err| err.to_string())?;
    match text.len() as u64 > PEM_BYTES_MAX {
        true => Err(format!("it is larger than {PEM_BYTES_MAX} bytes, so it is no file of certificates")),
        false => Ok(text),
    }
}

/// The system's certificate authorities, a company's own among them.
///
/// `Errors:` permanent when no bundle can be read; it says which package brings one.
pub(crate) fn system_certificates() -> Result<Vec<CertificateDer<'static>>> {
    let bundle = CA_BUNDLES.iter().find_map(|path| read(Path::new(path)).ok().map(|pem| (path, pem)));
    let Some((path, pem)) = bundle else {
        return Err(Error::new(
            Kind::Permanent,
            format!(
                "no certificate authorities found in {}; install the package ca-certificates",
                CA_BUNDLES.join(", ")
            ),
        ));
    };
    // An entry that cannot be parsed is left out, as OpenSSL and Go do with the system's bundle.
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    match found.is_empty() {
        true => Err(Error::new(
            Kind::Permanent,
            format!("{path} holds no certificate; install the package ca-certificates"),
        )),
        false => Ok(found),
    }
}
