//! What a failed handshake means, in plain words for a log. Pure.

use std::time::{Duration, UNIX_EPOCH};

use pillion_base::time::format_rfc3339_nano;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::verify::NameNotAllowed;

/// Who the other side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Client,
    Server,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Client => "client",
            Peer::Server => "server",
        }
    }
}

/// Why a connection with `peer` failed.
pub(crate) fn explain(err: &Error, peer: Peer) -> String {
    let who = peer.name();
    match err {
        Error::NoCertificatesPresented => format!("the {who} sent no certificate"),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => format!("the {who} does not speak TLS"),
        Error::InvalidCertificate(err) => format!("the {who}'s certificate {}", certificate(err, peer)),
        Error::AlertReceived(alert) => format!("the {who} {}", alerted(*alert)),
        Error::PeerIncompatible(err) => incompatible(err, who),
        Error::NoApplicationProtocol => format!("the {who} speaks none of the protocols that are spoken here (ALPN)"),
        Error::DecryptError => format!("what the {who} sent cannot be decrypted"),
        Error::PeerSentOversizedRecord | Error::InvalidMessage(_) => {
            format!("the {who} sent what is no valid TLS: {err}")
        }
        _ => err.to_string(),
    }
}

fn date(time: UnixTime) -> String {
    let since = Duration::from_secs(time.as_secs());
    UNIX_EPOCH.checked_add(since).map_or_else(|| "a day far away".to_owned(), format_rfc3339_nano)
}

/// What is wrong with a certificate, to be read after `certificate `.
fn certificate(err: &CertificateError, peer: Peer) -> String {
    match err {
        CertificateError::Expired => "has expired".into(),
        CertificateError::ExpiredContext { not_after, .. } => format!("has expired on {}", date(*not_after)),
        CertificateError::NotValidYet => "is not valid yet".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("is not valid before {}; is this machine's clock right?", date(*not_before))
        }
        CertificateError::UnknownIssuer => match peer {
            Peer::Client => "is not signed by the client CA".into(),
            Peer::Server => "is not signed by an authority that is trusted here".into(),
        },
        CertificateError::NotValidForName => "is for another host".into(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            match presented.is_empty() {
                true => format!("is for another host: not for {}, nor for any other", expected.to_str()),
                false => {
                    format!("is for another host: not for {}, but for {}", expected.to_str(), presented.join(", "))
                }
            }
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("is not meant for a {} (extended key usage)", peer.name())
        }
        CertificateError::BadEncoding => "cannot be read".into(),
        CertificateError::BadSignature => "or what was signed with it has a wrong signature".into(),
        CertificateError::Other(other) => match other.0.downcast_ref::<NameNotAllowed>() {
            Some(err) => format!("is not accepted: {err}"),
            // The library does not show the type of this one.
            None if other.0.to_string() == "CaUsedAsEndEntity" => {
                "is not signed by an authority that is trusted here: it is one itself".into()
            }
            None => format!("is not accepted: {}", other.0),
        },
        err => format!("is not accepted: {err}"),
    }
}

/// The library writes names as `DnsName("x.test")` and `IpAddress(192.0.2.1)`.
fn bare(name: &str) -> &str {
    let inside = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inside.unwrap_or(name).trim_matches('"')
}

/// What an alert of the peer says, to be read after the peer's name.
fn alerted(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "does not trust the authority that signed our certificate".into(),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown => "does not accept our certificate".into(),
        AlertDescription::CertificateExpired => "says that our certificate has expired".into(),
        AlertDescription::CertificateRequired => "wants a certificate, and we sent none".into(),
        AlertDescription::ProtocolVersion => "does not speak the version of TLS that is spoken here".into(),
        AlertDescription::HandshakeFailure => {
            "refused the handshake: no cipher suite or curve in common, or no certificate".into()
        }
        AlertDescription::UnrecognisedName => "does not know the host that it was asked for".into(),
        AlertDescription::NoApplicationProtocol => "speaks none of the protocols that are spoken here (ALPN)".into(),
        AlertDescription::AccessDenied => "denies the access".into(),
        alert => format!("ended the connection: {alert:?}"),
    }
}

fn incompatible(err: &PeerIncompatible, who: &str) -> String {
    match err {
        PeerIncompatible::NoCipherSuitesInCommon => format!("there is no cipher suite in common with the {who}"),
        PeerIncompatible::NoKxGroupsInCommon => format!("there is no curve in common with the {who}"),
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => {
            format!("there is no way to sign in common with the {who}")
        }
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => {
            format!("the {who} speaks no version of TLS that is allowed here")
        }
        err => format!("the {who} speaks TLS in a way that is not supported: {err:?}"),
    }
}
