//! What a web configuration file says (the format of Prometheus's exporter-toolkit): TLS, headers, the limit of requests,
//! users. Every key is known or refused, with its line; no value of a secret is ever part of an error. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use pillion_base::error::{Error, Result};
use pillion_base::time::GoDuration;
use pillion_base::yaml::{self, Node};

use crate::tls::{ClientAuth, Pem, Version, parse_cipher_suite, parse_client_auth, parse_curve, parse_yaml_version};

/// Costs of a password's hash that are taken. Each step doubles the time: 15 takes seconds for one guess, and one thread
/// checks them all.
const COST: std::ops::RangeInclusive<u32> = 4..=15;

/// The headers that may be set, each with the values it may have; none is any.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
    ("Content-Security-Policy", &[]),
];

/// The file, understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WebConfig {
    /// `None` serves without TLS.
    pub(crate) tls: Option<TlsConfig>,
    /// Headers of every response.
    pub(crate) headers: Vec<(String, String)>,
    /// `None` is without a limit.
    pub(crate) rate_limit: Option<RateLimit>,
    /// User → hash of the password. Empty asks for no password.
    pub(crate) users: BTreeMap<String, Hash>,
    /// The file says with `{}` that there are to be no users, in place of saying nothing.
    says_no_users: bool,
}

/// How TLS is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsConfig {
    pub(crate) cert: Pem,
    pub(crate) key: Pem,
    pub(crate) client_ca: Option<Pem>,
    pub(crate) client_auth: ClientAuth,
    /// Names of which a client's certificate must have one; empty is any.
    pub(crate) client_sans: Vec<String>,
    pub(crate) min_version: Version,
    pub(crate) max_version: Version,
    /// Names that are known; empty is the library's choice.
    pub(crate) cipher_suites: Vec<String>,
    /// Names that are known; empty is the library's choice.
    pub(crate) curves: Vec<String>,
    /// The file has the key `client_auth_type`.
    says_client_auth: bool,
}

/// A bucket of `burst` requests, into which one falls each `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateLimit {
    pub(crate) burst: u32,
    pub(crate) interval: Duration,
}

/// A bcrypt hash of a good shape. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Hash {
    pub(crate) text: String,
    pub(crate) cost: u32,
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<hash of cost {}>", self.cost)
    }
}

impl WebConfig {
    /// Reads `text`; relative paths in it are below `dir`.
    ///
    /// `Errors:` each begins with the line.
    pub(crate) fn parse(text: &str, dir: &Path) -> Result<Self> {
        let root = yaml::parse(text)?;
        root.check_fields(
            "the web configuration",
            &["tls_server_config", "http_server_config", "rate_limit", "basic_auth_users"],
        )?;
        let http = section(&root, "http_server_config");
        let headers = match http {
            None => Vec::new(),
            Some(http) => {
                http.check_fields("http_server_config", &["http2", "headers"])?;
                // HTTP/2 is an offer to the client, and so one that may be left out.
                http.bool_field("http2")?;
                headers(http)?
            }
        };
        let users_node = section(&root, "basic_auth_users");
        Ok(WebConfig {
            tls: section(&root, "tls_server_config").map(|node| tls(node, dir)).transpose()?.flatten(),
            headers,
            rate_limit: section(&root, "rate_limit").map(rate_limit).transpose()?.flatten(),
            users: users_node.map(users).transpose()?.unwrap_or_default(),
            says_no_users: users_node.and_then(Node::as_mapping).is_some_and(<[_]>::is_empty),
        })
    }

    /// What of this configuration the next one gives up without saying so. A file that is half written or cut off looks like
    /// one in which the rest was deleted, and must not open the port.
    pub(crate) fn given_up_by(&self, next: &WebConfig) -> Option<&'static str> {
        if self.tls.is_some() != next.tls.is_some() {
            return Some("TLS cannot be turned on or off while the port is open; restart for that");
        }
        if !self.users.is_empty() && next.users.is_empty() && !next.says_no_users {
            return Some("basic_auth_users is gone; write basic_auth_users: {} if no passwords are wanted, or restart");
        }
        let (Some(tls), Some(next)) = (&self.tls, &next.tls) else { return None };
        if strictness(next.client_auth) < strictness(tls.client_auth) && !next.says_client_auth {
            return Some(
                "client_auth_type is gone; write client_auth_type: NoClientCert if no client certificates are wanted, or restart",
            );
        }
        if !tls.client_sans.is_empty() && next.client_sans.is_empty() && next.client_auth != ClientAuth::None {
            return Some("client_allowed_sans is gone; restart if certificates with any name are to be taken");
        }
        None
    }
}

/// A part of the file that is there and not null.
fn section<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    node.get(name).filter(|node| !node.is_null())
}

/// A text that is there and not empty: in Go's structures an empty one is none.
fn text<'a>(node: &'a Node, name: &str) -> Result<Option<&'a str>> {
    Ok(node.str_field(name)?.filter(|text| !text.is_empty()))
}

/// An error at the value of the field `name`.
fn wrong(node: &Node, name: &str, text: impl fmt::Display) -> Error {
    node.get(name).unwrap_or(node).error(text)
}

fn tls(node: &Node, dir: &Path) -> Result<Option<TlsConfig>> {
    node.check_fields(
        "tls_server_config",
        &[
            "cert",
            "key",
            "client_ca",
            "cert_file",
            "key_file",
            "client_auth_type",
            "client_ca_file",
            "cipher_suites",
            "curve_preferences",
            "min_version",
            "max_version",
            "prefer_server_cipher_suites",
            "client_allowed_sans",
        ],
    )?;
    let (cert, key) = (pem(node, "cert", "cert_file", dir)?, pem(node, "key", "key_file", dir)?);
    let client_ca = pem(node, "client_ca", "client_ca_file", dir)?;
    let auth_text = text(node, "client_auth_type")?;
    let cipher_suites = texts(node, "cipher_suites", &|name| parse_cipher_suite(name).err())?.unwrap_or_default();
    let curves = texts(node, "curve_preferences", &|name| parse_curve(name).err())?.unwrap_or_default();
    let client_sans = texts(node, "client_allowed_sans", &|_| None)?;
    if client_sans.as_ref().is_some_and(Vec::is_empty) {
        return Err(wrong(
            node,
            "client_allowed_sans",
            "client_allowed_sans allows nobody; name some, or leave it out",
        ));
    }
    let (min_version, max_version) = (version(node, "min_version")?, version(node, "max_version")?);
    // Go has ignored this one since 1.17, so it is checked and nothing else.
    node.bool_field("prefer_server_cipher_suites")?;
    let says_nothing = cert.is_none()
        && key.is_none()
        && client_ca.is_none()
        && auth_text.is_none()
        && client_sans.is_none()
        && cipher_suites.is_empty()
        && curves.is_empty()
        && min_version.is_none()
        && max_version.is_none();
    if says_nothing {
        return Ok(None);
    }
    let Some(cert) = cert else { return Err(node.error("tls_server_config: missing one of cert or cert_file")) };
    let Some(key) = key else { return Err(node.error("tls_server_config: missing one of key or key_file")) };
    let client_auth = client_auth(node, auth_text)?;
    if client_auth == ClientAuth::None {
        if client_ca.is_some() {
            return Err(node.error(
                "tls_server_config: a client CA without client_auth_type checks nobody; \
                 add client_auth_type: RequireAndVerifyClientCert",
            ));
        }
        if client_sans.is_some() {
            return Err(wrong(
                node,
                "client_allowed_sans",
                "client_allowed_sans without client_auth_type checks nobody; \
                 add client_auth_type: RequireAndVerifyClientCert",
            ));
        }
    }
    if matches!(client_auth, ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify) && client_ca.is_none() {
        return Err(wrong(
            node,
            "client_auth_type",
            "this client_auth_type verifies certificates; add client_ca_file (or client_ca)",
        ));
    }
    let (min_version, max_version) = (min_version.unwrap_or(Version::Tls12), max_version.unwrap_or(Version::Tls13));
    if min_version > max_version {
        return Err(wrong(node, "min_version", "min_version is above max_version"));
    }
    Ok(Some(TlsConfig {
        cert,
        key,
        client_ca,
        client_auth,
        client_sans: client_sans.unwrap_or_default(),
        min_version,
        max_version,
        cipher_suites,
        curves,
        says_client_auth: auth_text.is_some(),
    }))
}

fn pem(node: &Node, inline: &str, file: &str, dir: &Path) -> Result<Option<Pem>> {
    match (text(node, inline)?, text(node, file)?) {
        (Some(_), Some(_)) => Err(wrong(node, file, format_args!("both {inline} and {file} are set; leave one out"))),
        (Some(text), None) => Ok(Some(Pem::inline(format!("tls_server_config.{inline}"), text))),
        (None, Some(path)) => Ok(Some(Pem::file(format!("tls_server_config.{file}"), dir.join(path)))),
        (None, None) => Ok(None),
    }
}

fn client_auth(node: &Node, text: Option<&str>) -> Result<ClientAuth> {
    parse_client_auth(text.unwrap_or_default())
        .map_err(|why| wrong(node, "client_auth_type", format_args!("client_auth_type: {why}")))
}

/// How much is asked of a client: a certificate that is verified is more than any, and any is more than none.
fn strictness(auth: ClientAuth) -> u8 {
    match auth {
        ClientAuth::None | ClientAuth::Request => 0,
        ClientAuth::VerifyIfGiven => 1,
        ClientAuth::RequireAny => 2,
        ClientAuth::RequireAndVerify => 3,
    }
}

fn version(node: &Node, name: &str) -> Result<Option<Version>> {
    let Some(text) = text(node, name)? else { return Ok(None) };
    parse_yaml_version(text).map(Some).map_err(|why| wrong(node, name, format_args!("{name}: {why}")))
}

/// The texts of a list; `None` when it is absent or null. `why_not` says what is wrong with one.
fn texts(node: &Node, name: &str, why_not: &dyn Fn(&str) -> Option<String>) -> Result<Option<Vec<String>>> {
    let Some(list) = section(node, name) else { return Ok(None) };
    let members = list.as_sequence().ok_or_else(|| list.error(format_args!("{name} must be a list")))?;
    let text = |member: &Node| {
        let text = member.as_str().filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| member.error(format_args!("{name} must be a list of texts")))?;
        match why_not(text) {
            None => Ok(text.to_owned()),
            Some(why) => Err(member.error(format_args!("{name}: {why}"))),
        }
    };
    members.iter().map(text).collect::<Result<_>>().map(Some)
}

fn headers(http: &Node) -> Result<Vec<(String, String)>> {
    let Some(node) = section(http, "headers") else { return Ok(Vec::new()) };
    let pairs = node.as_mapping().ok_or_else(|| node.error("headers must be a mapping"))?;
    let mut headers = Vec::new();
    for (name, value) in pairs {
        let Some((_, allowed)) = HEADERS.iter().find(|(known, _)| known == name) else {
            let known = HEADERS.map(|(known, _)| known).join(", ");
            return Err(value.error(format_args!("headers: only these can be set: {known}")));
        };
        let text = if value.is_null() { Some("") } else { value.as_str() };
        let text = text.ok_or_else(|| value.error(format_args!("header {name} must be a text")))?;
        if !allowed.is_empty() && !allowed.contains(&text) {
            return Err(value.error(format_args!("header {name} must be {}", allowed.join(" or "))));
        }
        // A line feed would begin a header of its own.
        if !text.chars().all(|c| c == '\t' || !c.is_control()) {
            return Err(value.error(format_args!("header {name} must be one line, without control characters")));
        }
        if !text.trim().is_empty() {
            headers.push((name.clone(), text.trim().to_owned()));
        }
    }
    Ok(headers)
}

fn rate_limit(node: &Node) -> Result<Option<RateLimit>> {
    node.check_fields("rate_limit", &["burst", "interval"])?;
    let burst = node.u64_field("burst")?;
    let interval = match text(node, "interval")? {
        None => GoDuration(0),
        Some(text) => text.parse::<GoDuration>().map_err(|_| {
            wrong(node, "interval", "interval must be a time with its unit, such as 1s or 100ms; 0 is no limit")
        })?,
    };
    if interval.0 < 0 {
        return Err(wrong(node, "interval", "interval must not be below zero"));
    }
    let Some(interval) = interval.positive() else { return Ok(None) };
    match burst.map(u32::try_from) {
        Some(Ok(burst)) if burst > 0 => Ok(Some(RateLimit { burst, interval })),
        Some(Err(_)) => Err(wrong(node, "burst", "burst is too large")),
        _ => Err(wrong(node, "burst", "burst must be at least 1, else no request would ever be answered")),
    }
}

fn users(node: &Node) -> Result<BTreeMap<String, Hash>> {
    let pairs = node.as_mapping().ok_or_else(|| node.error("basic_auth_users must be a mapping of user to hash"))?;
    let mut users = BTreeMap::new();
    for (name, value) in pairs {
        if name.contains(':') {
            return Err(value.error("basic_auth_users: the name of a user cannot have a colon"));
        }
        let hash = value.as_str().ok_or_else(|| value.error("basic_auth_users: a user without a hash"))?;
        let hash = hash_of(hash).map_err(|why| value.error(format_args!("basic_auth_users: {why}")))?;
        users.insert(name.clone(), hash);
    }
    Ok(users)
}

fn hash_of(text: &str) -> Result<Hash, String> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| {
        "not a bcrypt hash (60 characters that begin with $2y$, $2b$ or $2a$); make one with htpasswd -nBC 10 \"\""
            .to_owned()
    })?;
    let cost = parts.get_cost();
    if !COST.contains(&cost) {
        return Err(format!(
            "a hash of cost {cost}; costs from {} to {} are taken, since each step doubles the time of every check. \
             Make a new one with htpasswd -nBC 10 \"\"",
            COST.start(),
            COST.end()
        ));
    }
    Ok(Hash { text: text.to_owned(), cost })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::PemSource;

    const HASH: &str = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG";

    fn parse(text: &str) -> Result<WebConfig> {
        WebConfig::parse(text, Path::new("/etc/pillion"))
    }

    /// The configuration in words, or the error.
    fn show(text: &str) -> String {
        match parse(text) {
            Err(err) => err.to_string(),
            Ok(config) => {
                let mut words = Vec::new();
                if let Some(tls) = config.tls {
                    let pem = |pem: &Pem| match &pem.source {
                        PemSource::File(path) => path.display().to_string(),
                        PemSource::Inline(text) => format!("<{}>", text.0.len()),
                    };
                    words.push(format!("tls {} {}", pem(&tls.cert), pem(&tls.key)));
                    words.extend(tls.client_ca.as_ref().map(|ca| format!("ca {}", pem(ca))));
                    words.push(format!("{:?} {:?} {:?}", tls.client_auth, tls.min_version, tls.max_version));
                    words.extend([tls.cipher_suites, tls.curves].concat());
                    words.extend(tls.client_sans);
                }
                words.extend(config.headers.iter().map(|(name, value)| format!("{name}: {value}")));
                words.extend(config.rate_limit.map(|limit| format!("{} per {:?}", limit.burst, limit.interval)));
                words.extend(config.users.iter().map(|(name, hash)| format!("{name} {}", hash.cost)));
                words.join(", ")
            }
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(show(text), expected, "{text}");
    }

    #[test]
    fn files_that_are_understood() {
        check("", "");
        check("# nothing\n", "");
        check("basic_auth_users: {}", "");
        check("basic_auth_users:\nrate_limit:\ntls_server_config:\nhttp_server_config:", "");
        check("tls_server_config: {prefer_server_cipher_suites: true}\nhttp_server_config: {http2: false}", "");
        check(&format!("basic_auth_users:\n  alice: {HASH}\n  'b b': \"{HASH}\""), "alice 10, b b 10");
        for (cost, prefix) in [("04", "2a"), ("12", "2b"), ("15", "2x")] {
            let hash = HASH.replace("2y$10", &format!("{prefix}${cost}"));
            check(&format!("basic_auth_users: {{a: {hash}}}"), &format!("a {}", cost.trim_start_matches('0')));
        }
        check("rate_limit: {interval: 1m30s, burst: 20}", "20 per 90s");
        check("rate_limit: {interval: 0, burst: 20}", "");
        check("rate_limit: {burst: 20}", "");
        check(
            "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-XSS-Protection: 1; mode=block\n    \
             Strict-Transport-Security: ''\n    Content-Security-Policy:",
            "X-Frame-Options: deny, X-XSS-Protection: 1; mode=block",
        );
        check(
            "tls_server_config: {cert_file: a.pem, key_file: /b.pem}",
            "tls /etc/pillion/a.pem /b.pem, None Tls12 Tls13",
        );
        check(
            "tls_server_config:\n  cert: abc\n  key: d\n  client_ca_file: ca\n  client_auth_type: \
             RequireAndVerifyClientCert\n  min_version: TLS13\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\n  curve_preferences: [X25519, CurveP256]\n  \
             client_allowed_sans: [a, b]",
            "tls <3> <1>, ca /etc/pillion/ca, RequireAndVerify Tls13 Tls13, TLS_AES_128_GCM_SHA256, X25519, CurveP256, a, b",
        );
        check(
            "tls_server_config: {cert: a, key: b, client_auth_type: RequireClientCert, max_version: TLS12}",
            "tls <1> <1>, RequireAny Tls12 Tls12",
        );
    }

    #[test]
    fn the_example_in_the_documents() {
        let text = include_str!("../../../../docs/operating.md");
        let section = text.split_once("\n## HTTP port: TLS and passwords\n").unwrap().1;
        let example = section.split_once("```yaml\n").unwrap().1.split_once("```").unwrap().0;
        check(example, "tls /etc/pillion/server.crt /etc/pillion/server.key, None Tls12 Tls13, prometheus 10");
    }

    #[test]
    fn errors_name_the_line_and_what_to_change() {
        let cases = [
            ("junk", "line 1: the web configuration must be a mapping"),
            ("tls_config: {}", "line 1: field tls_config not found in the web configuration"),
            ("\ntls_server_config:\n  cert_fil: x", "line 3: field cert_fil not found in tls_server_config"),
            ("tls_server_config: []", "line 1: tls_server_config must be a mapping"),
            ("tls_server_config: {cert_file: x}", "line 1: tls_server_config: missing one of key or key_file"),
            ("tls_server_config: {key: x}", "line 1: tls_server_config: missing one of cert or cert_file"),
            ("tls_server_config: {min_version: TLS13}", "line 1: tls_server_config: missing one of cert or cert_file"),
            ("tls_server_config:\n  cert: x\n  cert_file: y", "line 3: both cert and cert_file are set; leave one out"),
            ("http_server_config: {http2: maybe}", "line 1: field http2 must be true or false"),
            (
                "http_server_config:\n  headers:\n    Server: x",
                "line 3: headers: only these can be set: Strict-Transport-Security, X-Content-Type-Options, \
                 X-Frame-Options, X-XSS-Protection, Content-Security-Policy",
            ),
            (
                "http_server_config: {headers: {X-Frame-Options: DENY}}",
                "line 1: header X-Frame-Options must be deny or sameorigin",
            ),
            (
                "http_server_config: {headers: {X-Content-Type-Options: ''}}",
                "line 1: header X-Content-Type-Options must be nosniff",
            ),
            (
                "http_server_config: {headers: {X-XSS-Protection: \"1\\r\\nSet-Cookie: x\"}}",
                "line 1: header X-XSS-Protection must be one line, without control characters",
            ),
            ("rate_limit: {interval: 1s}", "line 1: burst must be at least 1, else no request would ever be answered"),
            ("rate_limit: {interval: 1s, burst: -1}", "line 1: field burst must not be below zero"),
            ("rate_limit: {interval: -1s, burst: 1}", "line 1: interval must not be below zero"),
            (
                "rate_limit: {interval: 10, burst: 1}",
                "line 1: interval must be a time with its unit, such as 1s or 100ms; 0 is no limit",
            ),
            ("basic_auth_users: [a]", "line 1: basic_auth_users must be a mapping of user to hash"),
            ("basic_auth_users:\n  alice:", "line 2: basic_auth_users: a user without a hash"),
        ];
        for (text, expected) in cases {
            check(text, expected);
        }
        let with = |line: &str| show(&format!("tls_server_config:\n  cert: x\n  key: y\n  {line}"));
        for (line, expected) in [
            ("client_auth_type: Yes", "line 4: client_auth_type: "),
            ("client_auth_type: VerifyClientCertIfGiven", "line 4: this client_auth_type verifies certificates; add "),
            ("client_ca: x", "line 2: tls_server_config: a client CA without client_auth_type checks nobody"),
            ("client_allowed_sans: []", "line 4: client_allowed_sans allows nobody"),
            ("client_allowed_sans: [x]", "line 4: client_allowed_sans without client_auth_type checks nobody"),
            ("min_version: TLS11", "line 4: min_version: TLS11 is broken and not supported"),
            ("max_version: TLS14", "line 4: max_version: invalid TLS version: TLS14"),
            ("min_version: TLS13\n  max_version: TLS12", "line 4: min_version is above max_version"),
            ("cipher_suites: X", "line 4: cipher_suites must be a list"),
            ("cipher_suites:\n  - X", "line 5: cipher_suites: invalid cipher suite: X, valid values are "),
            ("curve_preferences: [Z]", "line 4: curve_preferences: invalid curve: Z, valid values are "),
            ("curve_preferences: [[]]", "line 4: curve_preferences must be a list of texts"),
        ] {
            assert!(with(line).starts_with(expected), "{}", with(line));
        }
    }

    #[test]
    fn hashes_of_a_bad_shape_are_refused_and_never_shown() {
        let cut = &HASH[..59];
        for (hash, expected) in [
            ("hunter2", "line 2: basic_auth_users: not a bcrypt hash"),
            ("''", "line 2: basic_auth_users: not a bcrypt hash"),
            (cut, "line 2: basic_auth_users: not a bcrypt hash"),
            (&HASH.replace("$2y", "$3y"), "line 2: basic_auth_users: not a bcrypt hash"),
            (&HASH.replace("$10", "$xx"), "line 2: basic_auth_users: not a bcrypt hash"),
            (&HASH.replace("$10", "$03"), "line 2: basic_auth_users: a hash of cost 3; costs from 4 to 15 are taken"),
            (&HASH.replace("$10", "$16"), "line 2: basic_auth_users: a hash of cost 16; costs from 4 to 15 are taken"),
            (&HASH.replace("$10", "$99"), "line 2: basic_auth_users: a hash of cost 99; costs from 4 to 15 are taken"),
        ] {
            let err = show(&format!("basic_auth_users:\n  alice: {hash}"));
            assert!(err.starts_with(expected), "{err}");
            assert!(!err.contains("hunter2") && !err.contains("X0h1gD"), "{err}");
        }
        let colon = show(&format!("basic_auth_users:\n  'a:b': {HASH}"));
        assert_eq!(colon, "line 2: basic_auth_users: the name of a user cannot have a colon");
        let config = parse(&format!("basic_auth_users: {{a: {HASH}}}\ntls_server_config: {{cert: c, key: hunter2}}"));
        let debug = format!("{:?}", config.unwrap());
        assert!(!debug.contains("hunter2") && !debug.contains("X0h1gD"), "{debug}");
    }

    #[test]
    fn a_file_that_is_cut_off_gives_nothing_up() {
        let users = format!("basic_auth_users: {{a: {HASH}}}\n");
        let tls = "tls_server_config:\n  cert: x\n  key: y\n";
        let clients = "  client_ca: x\n  client_auth_type: RequireAndVerifyClientCert\n";
        let sans = "  client_allowed_sans: [x]\n";
        let all = format!("{tls}{clients}{sans}");
        let given_up = |before: &str, after: &str| {
            let text = parse(before).unwrap().given_up_by(&parse(after).unwrap());
            text.and_then(|text| text.split_once(' ')).map(|(word, _)| word)
        };
        for (before, after, expected) in [
            (users.as_str(), "", Some("basic_auth_users")),
            (&users, "basic_auth_users:", Some("basic_auth_users")),
            (&users, "basic_auth_users: {}", None),
            (&users, &users, None),
            ("", &users, None),
            (tls, "", Some("TLS")),
            ("", tls, Some("TLS")),
            (&all, tls, Some("client_auth_type")),
            (&all, &format!("{tls}  client_auth_type: NoClientCert"), None),
            (&all, &format!("{tls}{clients}"), Some("client_allowed_sans")),
            (&all, &all, None),
            (tls, &all, None),
        ] {
            assert_eq!(given_up(before, after), expected, "{before:?} {after:?}");
        }
    }
}
