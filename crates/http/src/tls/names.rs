//! What Go and exporter-toolkit call versions, cipher suites, curves and ways to treat client certificates, and what the
//! TLS library has of them. Pure. It never accepts a name without what it stands for.

use rustls::crypto::SupportedKxGroup;
use rustls::crypto::ring::{cipher_suite as suites, kx_group};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// How a server treats the certificates of its clients, in Go's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// `NoClientCert`: none is asked for.
    #[default]
    None,
    /// `RequestClientCert`: one is asked for; none is needed, and nobody need have signed it.
    Request,
    /// `RequireAnyClientCert`: one is needed; nobody need have signed it.
    RequireAny,
    /// `VerifyClientCertIfGiven`: none is needed; one that is sent must be signed by the client CA.
    VerifyIfGiven,
    /// `RequireAndVerifyClientCert`: one is needed that the client CA has signed.
    RequireAndVerify,
}

/// A cipher suite that the library has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CipherSuite(pub(super) SupportedCipherSuite);

/// A curve, or another way to agree on keys, that the library has.
#[derive(Debug, Clone, Copy)]
pub struct Curve(pub(super) &'static dyn SupportedKxGroup);

/// Go's names, fastest first: the order in which a client without a preference gets them.
const CIPHER_SUITES: [(&str, SupportedCipherSuite); 9] = [
    ("TLS_AES_128_GCM_SHA256", suites::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", suites::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", suites::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Names that Go knows for what is too weak to be had here.
const WEAK_CIPHER_SUITES: [&str; 16] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

const CURVES: [(&str, &dyn SupportedKxGroup); 3] =
    [("X25519", kx_group::X25519), ("CurveP256", kx_group::SECP256R1), ("CurveP384", kx_group::SECP384R1)];

/// Names that Go knows for what the library lacks, with what comes closest.
const OTHER_CURVES: [(&str, &str); 4] = [
    ("CurveP521", "CurveP384"),
    ("X25519MLKEM768", "X25519"),
    ("SecP256r1MLKEM768", "CurveP256"),
    ("SecP384r1MLKEM1024", "CurveP384"),
];

impl Version {
    pub(super) fn supported(self) -> &'static SupportedProtocolVersion {
        match self {
            Version::Tls12 => &rustls::version::TLS12,
            Version::Tls13 => &rustls::version::TLS13,
        }
    }
}

/// A version as the flag `--grpc-server-tls-min-version` spells it: `1.2`, `1.3`.
pub fn parse_min_version(text: &str) -> Result<Version, String> {
    match text {
        "1.2" => Ok(Version::Tls12),
        "1.3" => Ok(Version::Tls13),
        "1.0" | "1.1" => Err(format!("TLS {text} is broken and not supported; change {text} to 1.2 or 1.3")),
        _ => Err(format!("invalid TLS version: {text}, valid values are 1.2, 1.3")),
    }
}

/// A version as exporter-toolkit spells it: `TLS12`, `TLS13`.
pub(crate) fn parse_yaml_version(text: &str) -> Result<Version, String> {
    match text {
        "TLS12" => Ok(Version::Tls12),
        "TLS13" => Ok(Version::Tls13),
        "TLS10" | "TLS11" => Err(format!("{text} is broken and not supported; change {text} to TLS12 or TLS13")),
        _ => Err(format!("invalid TLS version: {text}, valid values are TLS12, TLS13")),
    }
}

/// A cipher suite by Go's name.
pub fn parse_cipher_suite(text: &str) -> Result<CipherSuite, String> {
    if let Some((_, suite)) = CIPHER_SUITES.iter().find(|(name, _)| *name == text) {
        return Ok(CipherSuite(*suite));
    }
    let valid = CIPHER_SUITES.map(|(name, _)| name).join(", ");
    Err(match WEAK_CIPHER_SUITES.contains(&text) {
        true => format!("cipher suite {text} is weak and not supported; use one or more of {valid}"),
        false => format!("invalid cipher suite: {text}, valid values are {valid}"),
    })
}

/// A curve by Go's name.
pub fn parse_curve(text: &str) -> Result<Curve, String> {
    if let Some((_, curve)) = CURVES.iter().find(|(name, _)| *name == text) {
        return Ok(Curve(*curve));
    }
    let valid = CURVES.map(|(name, _)| name).join(", ");
    Err(match OTHER_CURVES.iter().find(|(name, _)| *name == text) {
        Some((_, close)) => format!("curve {text} is not supported; use {close} (supported are {valid})"),
        None => format!("invalid curve: {text}, valid values are {valid}"),
    })
}

/// A way to treat client certificates by Go's name.
pub(crate) fn parse_client_auth(text: &str) -> Result<ClientAuth, String> {
    Ok(match text {
        "" | "NoClientCert" => ClientAuth::None,
        "RequestClientCert" => ClientAuth::Request,
        "RequireAnyClientCert" | "RequireClientCert" => ClientAuth::RequireAny,
        "VerifyClientCertIfGiven" => ClientAuth::VerifyIfGiven,
        "RequireAndVerifyClientCert" => ClientAuth::RequireAndVerify,
        _ => {
            return Err(format!(
                "invalid client auth type: {text}, valid values are NoClientCert, RequestClientCert, \
                 RequireAnyClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert"
            ));
        }
    })
}

/// The cipher suites that are offered. Names choose among those of TLS 1.2 only, as in Go: TLS 1.3 always has all its own.
pub(super) fn offered_suites(wanted: &[CipherSuite]) -> Vec<SupportedCipherSuite> {
    let all = CIPHER_SUITES.map(|(_, suite)| suite);
    all.into_iter().filter(|suite| suite.tls13().is_some() || is_wanted(*suite, wanted)).collect()
}

fn is_wanted(suite: SupportedCipherSuite, wanted: &[CipherSuite]) -> bool {
    wanted.is_empty() || wanted.contains(&CipherSuite(suite))
}

/// The curves that are offered, each once, in the order of preference.
pub(super) fn offered_curves(wanted: &[Curve]) -> Vec<&'static dyn SupportedKxGroup> {
    let mut offered: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    let defaults = CURVES.map(|(_, curve)| Curve(curve));
    for Curve(curve) in if wanted.is_empty() { &defaults[..] } else { wanted } {
        if offered.iter().all(|other| other.name() != curve.name()) {
            offered.push(*curve);
        }
    }
    offered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: std::fmt::Debug>(parsed: Result<T, String>, expected: &str) {
        let text = parsed.map_or_else(|err| err, |found| format!("{found:?}"));
        assert!(text.starts_with(expected), "{text} is not {expected}");
    }

    #[test]
    fn versions() {
        check(parse_min_version("1.2"), "Tls12");
        check(parse_min_version("1.3"), "Tls13");
        check(parse_min_version("1.1"), "TLS 1.1 is broken and not supported; change 1.1 to 1.2 or 1.3");
        check(parse_min_version("1.4"), "invalid TLS version: 1.4, valid values are 1.2, 1.3");
        check(parse_yaml_version("TLS13"), "Tls13");
        check(parse_yaml_version("TLS12"), "Tls12");
        check(parse_yaml_version("TLS10"), "TLS10 is broken and not supported; change TLS10 to TLS12 or TLS13");
        check(parse_yaml_version("1.2"), "invalid TLS version: 1.2, valid values are TLS12, TLS13");
    }

    #[test]
    fn cipher_suites() {
        let valid =
            "TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256, TLS_ECDHE_ECDSA_WITH";
        check(parse_cipher_suite("X"), &format!("invalid cipher suite: X, valid values are {valid}"));
        for name in WEAK_CIPHER_SUITES {
            let want = format!("cipher suite {name} is weak and not supported; use one or more of {valid}");
            check(parse_cipher_suite(name), &want);
        }
        // The library's names are Go's, but for those of TLS 1.3.
        for (name, _) in CIPHER_SUITES {
            check(
                parse_cipher_suite(name),
                &format!("CipherSuite({})", name.replace("TLS_AES", "TLS13_AES")).replace("TLS_CHACHA", "TLS13_CHACHA"),
            );
        }
        assert_eq!(CIPHER_SUITES.len(), rustls::crypto::ring::ALL_CIPHER_SUITES.len());
    }

    #[test]
    fn names_choose_among_the_cipher_suites_of_tls_1_2() {
        let offered = |names: &[&str]| {
            let wanted: Vec<_> = names.iter().map(|name| parse_cipher_suite(name).unwrap()).collect();
            offered_suites(&wanted).iter().filter(|suite| suite.tls13().is_none()).count()
        };
        assert_eq!(offered_suites(&[]).len(), 9);
        assert_eq!(offered(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]), 1);
        // As in Go: whoever names only those of TLS 1.3 has none for TLS 1.2.
        assert_eq!(offered(&["TLS_AES_128_GCM_SHA256"]), 0);
    }

    #[test]
    fn curves() {
        check(parse_curve("CurveP521"), "curve CurveP521 is not supported; use CurveP384 (supported are X25519, ");
        check(parse_curve("X25519MLKEM768"), "curve X25519MLKEM768 is not supported; use X25519 ");
        check(parse_curve("p256"), "invalid curve: p256, valid values are X25519, CurveP256, CurveP384");
        let offered = |names: &[&str]| {
            let wanted: Vec<_> = names.iter().map(|name| parse_curve(name).unwrap()).collect();
            offered_curves(&wanted).iter().map(|curve| format!("{:?}", curve.name())).collect::<Vec<_>>()
        };
        assert_eq!(offered(&[]), ["X25519", "secp256r1", "secp384r1"]);
        assert_eq!(offered(&["CurveP384", "X25519", "CurveP384"]), ["secp384r1", "X25519"]);
    }

    #[test]
    fn ways_to_treat_clients() {
        check(parse_client_auth(""), "None");
        check(parse_client_auth("NoClientCert"), "None");
        check(parse_client_auth("RequestClientCert"), "Request");
        check(parse_client_auth("RequireAnyClientCert"), "RequireAny");
        check(parse_client_auth("VerifyClientCertIfGiven"), "VerifyIfGiven");
        check(parse_client_auth("RequireAndVerifyClientCert"), "RequireAndVerify");
        check(parse_client_auth("x"), "invalid client auth type: x, valid values are NoClientCert, ");
    }
}
