//! What the YAML of an HTTP client says (the format of Thanos's `--prometheus.http-client`). Every key is known or refused,
//! with its line; no value of a secret is ever part of an error. Reads no file. Pure.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use pillion_base::content::Content;
use pillion_base::error::{Context, Error, Result};
use pillion_base::secret::Secret;
use pillion_base::time::GoDuration;
use pillion_base::yaml::{self, Node};

use crate::address::{PrometheusUrl, UserInfo};
use crate::limits;
use crate::tls::{ClientSettings, Pem};

/// How a peer is reached, and what is shown to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientConfig {
    pub(super) auth: Auth,
    pub(super) proxy: Option<ProxyAddress>,
    /// `None` where the file says nothing of TLS.
    pub(super) tls: Option<ClientSettings>,
    pub(super) transport: Transport,
}

/// Who the client says it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Auth {
    /// Nobody.
    #[default]
    None,
    /// A user.
    Basic(String, SecretText),
    /// Whoever has the token.
    Bearer(SecretText),
}

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SecretText {
    /// In the configuration itself.
    Inline(Secret),
    /// In a file that is read again when it changes; first what errors call it.
    File(&'static str, PathBuf),
}

/// A proxy that is spoken to in plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProxyAddress {
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: Option<UserInfo>,
}

/// How connections are made and kept. Times of zero are without end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Transport {
    idle_max: Option<usize>,
    idle_of_host_max: Option<usize>,
    idle_time: Option<Duration>,
    of_host_max: Option<usize>,
    dial_time: Option<Duration>,
    handshake_time: Option<Duration>,
    answer_time: Option<Duration>,
}

impl Transport {
    /// Connections that are kept although nobody uses them.
    pub(super) fn idle_max(&self) -> usize {
        let of_host = self.idle_of_host_max.filter(|n| *n > 0).unwrap_or(limits::LINES_IDLE_MAX);
        of_host.min(self.idle_max.filter(|n| *n > 0).unwrap_or(usize::MAX))
    }

    /// Time for which such a connection is kept.
    pub(super) fn idle_time(&self) -> Duration {
        endless(self.idle_time, limits::LINE_IDLE_MAX)
    }

    /// Time to open a connection, for each address.
    pub(super) fn dial_time(&self) -> Duration {
        endless(self.dial_time, limits::CONNECT_TIMEOUT)
    }

    /// Time for the handshake of TLS.
    pub(super) fn handshake_time(&self) -> Duration {
        endless(self.handshake_time, limits::TLS_HANDSHAKE_TIMEOUT)
    }

    /// Time until the head of an answer is there; `None` is without a bound of its own.
    pub(super) fn answer_time(&self) -> Option<Duration> {
        self.answer_time.filter(|time| !time.is_zero())
    }
}

fn endless(said: Option<Duration>, default: Duration) -> Duration {
    match said {
        Some(Duration::ZERO) => limits::ENDLESS,
        Some(time) => time.min(limits::ENDLESS),
        None => default,
    }
}

impl ClientConfig {
    /// Reads the YAML; an empty one changes nothing.
    ///
    /// `Errors:` permanent, each with the origin, the line and what to change.
    /// `Differs:` Thanos ignores unknown keys.
    pub fn parse(content: &Content) -> Result<Self> {
        read(&content.text).context(|| content.origin.clone())
    }

    /// One that says nothing but this of TLS.
    pub fn with_tls(tls: ClientSettings) -> Self {
        ClientConfig { tls: Some(tls), ..ClientConfig::default() }
    }

    /// Most connections that may be open at once, where the file says so.
    pub(super) fn connections_max(&self) -> Option<usize> {
        self.transport.of_host_max.filter(|n| *n > 0)
    }
}

fn read(text: &str) -> Result<ClientConfig> {
    let root = yaml::parse(text)?;
    root.check_fields(
        "the HTTP client's configuration",
        &["basic_auth", "bearer_token", "bearer_token_file", "proxy_url", "tls_config", "transport_config"],
    )?;
    Ok(ClientConfig {
        auth: auth(&root)?,
        proxy: text_of(&root, "proxy_url")?.map(|url| proxy(&root, url)).transpose()?,
        // One that says nothing is as none.
        tls: section(&root, "tls_config")
            .map(tls_config)
            .transpose()?
            .filter(|settings| *settings != ClientSettings::default()),
        transport: section(&root, "transport_config").map(transport).transpose()?.unwrap_or_default(),
    })
}

/// A part of the file that is there and not null.
fn section<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    node.get(name).filter(|node| !node.is_null())
}

/// A text that is there and not empty: in Go's structures an empty one is none.
fn text_of<'a>(node: &'a Node, name: &str) -> Result<Option<&'a str>> {
    Ok(node.str_field(name)?.filter(|text| !text.is_empty()))
}

/// An error at the value of the field `name`.
fn wrong(node: &Node, name: &str, text: impl fmt::Display) -> Error {
    node.get(name).unwrap_or(node).error(format_args!("{name}: {text}"))
}

fn auth(root: &Node) -> Result<Auth> {
    let token = secret(root, "bearer_token", "bearer_token_file", "bearer_token_file")?;
    let Some(basic) = section(root, "basic_auth") else { return Ok(token.map_or(Auth::None, Auth::Bearer)) };
    basic.check_fields("basic_auth", &["username", "password", "password_file"])?;
    let username = text_of(basic, "username")?;
    let password = secret(basic, "password", "password_file", "basic_auth.password_file")?;
    if username.is_none() && password.is_none() {
        return Ok(token.map_or(Auth::None, Auth::Bearer));
    }
    if token.is_some() {
        return Err(basic.error("basic_auth and a bearer token are both set; leave one out"));
    }
    let username = username.unwrap_or_default();
    // It would end the name, and what follows would count as the password.
    if username.contains(':') {
        return Err(wrong(basic, "username", "a user's name cannot have a colon"));
    }
    Ok(Auth::Basic(username.to_owned(), password.unwrap_or(SecretText::Inline(Secret::default()))))
}

fn secret(node: &Node, inline: &str, file: &str, setting: &'static str) -> Result<Option<SecretText>> {
    match (text_of(node, inline)?, text_of(node, file)?) {
        (Some(_), Some(_)) => Err(wrong(node, file, format_args!("{inline} is set too; leave one out"))),
        (Some(text), None) if text.contains(char::is_control) => {
            Err(wrong(node, inline, "it must be one line, without control characters"))
        }
        (Some(text), None) => Ok(Some(SecretText::Inline(Secret(text.to_owned())))),
        (None, Some(path)) => Ok(Some(SecretText::File(setting, path.into()))),
        (None, None) => Ok(None),
    }
}

fn proxy(root: &Node, text: &str) -> Result<ProxyAddress> {
    let refused = |text: &dyn fmt::Display| wrong(root, "proxy_url", text);
    match text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()).as_deref() {
        Some("http") => {}
        Some("https" | "socks5" | "socks5h" | "socks4" | "socks") => {
            return Err(refused(&"only proxies that are spoken to over http:// are supported"));
        }
        _ => return Err(refused(&"it must begin with http://")),
    }
    let url: PrometheusUrl = text.parse().map_err(|err: String| refused(&err))?;
    if !matches!(url.path.as_str(), "" | "/") || url.query.is_some() {
        return Err(refused(&"a proxy has no path; it is http://host:port"));
    }
    Ok(ProxyAddress { host: url.host, port: url.port, user: url.user })
}

/// Reads a `tls_config` as Prometheus's configuration and those of its kin have it. No file is read yet.
///
/// `Errors:` name the field.
pub fn tls_config(node: &Node) -> Result<ClientSettings> {
    node.check_fields("tls_config", &["ca_file", "cert_file", "key_file", "server_name", "insecure_skip_verify"])?;
    let pem = |name: &str| -> Result<Option<Pem>> {
        Ok(text_of(node, name)?.map(|path| Pem::file(format!("tls_config.{name}"), path)))
    };
    let (ca, cert, key) = (pem("ca_file")?, pem("cert_file")?, pem("key_file")?);
    match (&cert, &key) {
        (Some(_), None) => return Err(wrong(node, "cert_file", "key_file is missing, the key of this certificate")),
        (None, Some(_)) => return Err(wrong(node, "key_file", "cert_file is missing, the certificate of this key")),
        _ => {}
    }
    let server_name = text_of(node, "server_name")?.map(str::to_owned);
    let insecure_skip_verify = node.bool_field("insecure_skip_verify")?.unwrap_or_default();
    Ok(ClientSettings { ca, cert, key, server_name, insecure_skip_verify, ..ClientSettings::default() })
}

fn transport(node: &Node) -> Result<Transport> {
    node.check_fields(
        "transport_config",
        &[
            "max_idle_conns",
            "max_idle_conns_per_host",
            "idle_conn_timeout",
            "response_header_timeout",
            "expect_continue_timeout",
            "max_conns_per_host",
            "disable_compression",
            "tls_handshake_timeout",
            "dialer_timeout",
        ],
    )?;
    // Requests do not wait for 100-continue, and compression is never asked for, so these two are checked and no more.
    time(node, "expect_continue_timeout")?;
    node.bool_field("disable_compression")?;
    let number = |name: &str| -> Result<Option<usize>> {
        Ok(node.u64_field(name)?.map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
    };
    Ok(Transport {
        idle_max: number("max_idle_conns")?,
        idle_of_host_max: number("max_idle_conns_per_host")?,
        idle_time: time(node, "idle_conn_timeout")?,
        of_host_max: number("max_conns_per_host")?,
        dial_time: time(node, "dialer_timeout")?,
        handshake_time: time(node, "tls_handshake_timeout")?,
        answer_time: time(node, "response_header_timeout")?,
    })
}

/// A time with its unit, or whole nanoseconds as Thanos has them.
fn time(node: &Node, name: &str) -> Result<Option<Duration>> {
    let Some(text) = text_of(node, name)? else { return Ok(None) };
    let nanos = match text.parse::<GoDuration>() {
        Ok(time) => u64::try_from(time.0).map_err(|_| wrong(node, name, "it must not be below zero"))?,
        Err(_) => {
            let refused = |_| wrong(node, name, "it must be a time with its unit, such as 10s, or whole nanoseconds");
            node.u64_field(name).map_err(refused)?.unwrap_or_default()
        }
    };
    let time = Duration::from_nanos(nanos);
    // Somebody meant seconds.
    if !time.is_zero() && time < Duration::from_millis(1) {
        return Err(wrong(node, name, "a number without a unit is nanoseconds; write 10s for ten seconds"));
    }
    Ok(Some(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ClientConfig> {
        ClientConfig::parse(&Content { origin: "client.yml".into(), text: text.into() })
    }

    #[test]
    fn nothing_changes_nothing() {
        for text in ["", "{}", "basic_auth:\ntls_config: {}\ntransport_config:", "basic_auth: {username: ''}"] {
            assert_eq!(parse(text).unwrap(), ClientConfig::default(), "{text}");
        }
        let kept = Transport::default();
        assert_eq!((kept.idle_max(), kept.idle_time()), (limits::LINES_IDLE_MAX, limits::LINE_IDLE_MAX));
        assert_eq!((kept.dial_time(), kept.answer_time()), (limits::CONNECT_TIMEOUT, None));
    }

    #[test]
    fn every_key_of_thanos() {
        let config = parse(
            "basic_auth: {username: me, password_file: /p}\nproxy_url: http://u:p%40@proxy:3128/\n\
             tls_config: {ca_file: /ca, cert_file: /cert, key_file: /key, server_name: p.test, insecure_skip_verify: no}\n\
             transport_config:\n  max_idle_conns: 100\n  max_idle_conns_per_host: 2\n  idle_conn_timeout: 90000000000\n  \
             response_header_timeout: 0\n  expect_continue_timeout: 10s\n  max_conns_per_host: 7\n  \
             disable_compression: false\n  tls_handshake_timeout: 10s\n  dialer_timeout: '1m30s'\n",
        )
        .unwrap();
        let password = SecretText::File("basic_auth.password_file", "/p".into());
        assert_eq!(config.auth, Auth::Basic("me".into(), password));
        let user = UserInfo { username: "u".into(), password: Some("p@".into()) };
        assert_eq!(config.proxy, Some(ProxyAddress { host: "proxy".into(), port: 3128, user: Some(user) }));
        let tls = config.tls.as_ref().unwrap();
        assert_eq!(tls.ca, Some(Pem::file("tls_config.ca_file", "/ca")));
        assert_eq!(tls.server_name.as_deref(), Some("p.test"));
        let transport = &config.transport;
        let seconds = Duration::from_secs;
        assert_eq!((transport.idle_max(), transport.idle_time()), (2, seconds(90)));
        assert_eq!((transport.answer_time(), config.connections_max()), (None, Some(7)));
        assert_eq!((transport.handshake_time(), transport.dial_time()), (seconds(10), seconds(90)));
        let token = Auth::Bearer(SecretText::File("bearer_token_file", "/t".into()));
        assert_eq!(parse("bearer_token_file: /t").unwrap().auth, token);
    }

    #[test]
    fn zero_is_as_in_go() {
        let zero = parse("transport_config: {idle_conn_timeout: 0, dialer_timeout: 0s, max_idle_conns: 0}").unwrap();
        let transport = zero.transport;
        assert_eq!((transport.idle_time(), transport.dial_time()), (limits::ENDLESS, limits::ENDLESS));
        assert_eq!(transport.idle_max(), limits::LINES_IDLE_MAX);
    }

    #[test]
    fn what_is_refused() {
        for (text, want) in [
            ("basic_auht: {}", "line 1: field basic_auht not found in the HTTP client's configuration"),
            ("tls_config: {ca: x}", "line 1: field ca not found in tls_config"),
            ("transport_config:\n  max_conns: 1", "line 2: field max_conns not found in transport_config"),
            ("basic_auth: {user: x}", "line 1: field user not found in basic_auth"),
            ("x", "line 1: the HTTP client's configuration must be a mapping"),
            (
                "bearer_token: hunter2\nbearer_token_file: /t",
                "line 2: bearer_token_file: bearer_token is set too; leave one out",
            ),
            (
                "basic_auth:\n  password: hunter2\n  password_file: /p",
                "line 3: password_file: password is set too; leave one out",
            ),
            (
                "bearer_token: hunter2\nbasic_auth:\n  username: me",
                "line 3: basic_auth and a bearer token are both set; leave one out",
            ),
            ("basic_auth: {username: 'a:b'}", "line 1: username: a user's name cannot have a colon"),
            ("bearer_token: \"hunter2\\n\"", "line 1: bearer_token: it must be one line, without control characters"),
            ("proxy_url: 'socks5://hunter2@p'", "line 1: proxy_url: only proxies that are spoken to over http://"),
            ("proxy_url: 'https://p'", "line 1: proxy_url: only proxies that are spoken to over http://"),
            ("proxy_url: p:3128", "line 1: proxy_url: it must begin with http://"),
            ("proxy_url: http://hunter2@", "line 1: proxy_url: invalid URL: the host is missing"),
            ("proxy_url: http://p/x", "line 1: proxy_url: a proxy has no path; it is http://host:port"),
            ("tls_config: {cert_file: /c}", "line 1: cert_file: key_file is missing"),
            ("tls_config: {key_file: /k}", "line 1: key_file: cert_file is missing"),
            (
                "transport_config: {dialer_timeout: 5}",
                "line 1: dialer_timeout: a number without a unit is nanoseconds; write 10s for ten seconds",
            ),
            ("transport_config: {dialer_timeout: -5s}", "line 1: dialer_timeout: it must not be below zero"),
            ("transport_config: {dialer_timeout: soon}", "line 1: dialer_timeout: it must be a time with its unit"),
            ("transport_config: {max_idle_conns: -1}", "line 1: field max_idle_conns must not be below zero"),
            ("transport_config: {disable_compression: 2}", "line 1: field disable_compression must be true or false"),
        ] {
            let err = parse(text).expect_err(text).to_string();
            assert!(err.starts_with(&format!("client.yml: {want}")), "{text}: {err}");
            assert!(!err.contains("hunter2"), "{err}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let shown = format!(
            "{:?}{:?}",
            parse("bearer_token: hunter2\nproxy_url: http://u:hunter2@p").unwrap(),
            parse("basic_auth: {username: u, password: hunter2}").unwrap()
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
