//! Addresses as operators write them: where to listen, and where Prometheus is. Only `resolve` asks the resolver.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use percent_encoding::percent_decode_str;

/// Where a server listens, written as Go writes it: `host:port`, `:port` for every interface, `[::1]:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    text: String,
    host: String,
    port: u16,
}

impl ListenAddress {
    /// The host without brackets; empty for every interface.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 lets the system choose.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The addresses to try, in this order, until one can be bound. An empty host, `0.0.0.0` and `[::]` all mean every
    /// interface, as in Go: IPv6 with IPv4 in it, and IPv4 alone where the system has no IPv6. Of a name the IPv4
    /// addresses come first.
    ///
    /// `Blocks:` on the resolver when the host is a name.
    pub(crate) fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if self.host.is_empty() || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified()) {
            let any = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
            return Ok(any.map(|ip| SocketAddr::new(ip, self.port)).to_vec());
        }
        let mut found: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        Ok(found)
    }
}

/// As it was given.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("vsock://") {
            return Err(format!("listen address {text:?}: vsock is not supported, give host:port"));
        }
        let (host, port) = host_and_port(text).map_err(|err| format!("listen address {text:?}: {err}"))?;
        let port = port.ok_or_else(|| format!("listen address {text:?}: port is missing, give host:port or :port"))?;
        Ok(ListenAddress { text: text.to_owned(), host: host.to_owned(), port })
    }
}

/// Splits `host:port`, `[v6]:port`, or either without a port.
fn host_and_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the bracket is not closed")?;
        let address = host.split('%').next().unwrap_or(host);
        address.parse::<Ipv6Addr>().map_err(|_| "only an IPv6 address stands in brackets")?;
        match after.strip_prefix(':') {
            None if !after.is_empty() => return Err("a colon and the port must follow the bracket".into()),
            port => (host, port),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("an IPv6 address must stand in brackets".into()),
            _ if text.contains('%') => return Err("a host name has no percent sign".into()),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let bad = |c: char| c.is_whitespace() || c.is_control() || "/?#@[]\\\"<>^`{|}".contains(c);
    if host.contains(bad) {
        return Err("the host has a character that no host name has".into());
    }
    match port {
        None => Ok((host, None)),
        Some(digits) if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) => match digits.parse() {
            Ok(port) => Ok((host, Some(port))),
            Err(_) => Err("the port must be between 0 and 65535".into()),
        },
        Some(_) => Err("the port must be a number between 0 and 65535".into()),
    }
}

/// How a URL is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// As it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// User and password out of a URL, with percent escapes undone.
#[derive(Clone, PartialEq, Eq)]
pub struct UserInfo {
    /// The user.
    pub username: String,
    /// The password, if a colon was there.
    pub password: Option<String>,
}

/// Never shows the password.
impl fmt::Debug for UserInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserInfo").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Where Prometheus is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrometheusUrl {
    /// How it is reached.
    pub scheme: Scheme,
    /// Credentials for basic authentication, if there were any.
    pub user: Option<UserInfo>,
    /// Name or address; an IPv6 address is without its brackets.
    pub host: String,
    /// The port, 80 or 443 where none was given.
    pub port: u16,
    /// The path as given, percent escapes kept; empty or beginning with a slash.
    pub path: String,
    /// The query as given, without the question mark.
    pub query: Option<String>,
}

impl PrometheusUrl {
    /// `http://host:port`, without credentials, path and query.
    pub fn origin(&self) -> String {
        let (scheme, host, port) = (self.scheme.as_str(), &self.host, self.port);
        if host.contains(':') { format!("{scheme}://[{host}]:{port}") } else { format!("{scheme}://{host}:{port}") }
    }

    /// The URL of `path`, which begins with a slash, under this one's path; without credentials and query.
    pub fn join(&self, path: &str) -> String {
        format!("{}{}{path}", self.origin(), self.path.trim_end_matches('/'))
    }
}

/// Without credentials, for logs and errors.
impl fmt::Display for PrometheusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)?;
        self.query.as_ref().map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

/// The error says what to change and never quotes the text, which may hold a password.
impl FromStr for PrometheusUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_url(text).map_err(|err| format!("invalid URL: {err}"))
    }
}

fn parse_url(text: &str) -> Result<PrometheusUrl, String> {
    if text.contains(|c: char| c.is_control() || c == ' ') {
        return Err("it has a space or a control character; write %20 for a space".into());
    }
    let (scheme, rest) = text.split_once("://").ok_or("it must begin with http:// or https://")?;
    let (scheme, default_port) = match scheme.to_ascii_lowercase().as_str() {
        "http" => (Scheme::Http, 80),
        "https" => (Scheme::Https, 443),
        _ => return Err("only http:// and https:// are supported".into()),
    };
    if rest.contains('#') {
        return Err("it has a fragment; remove everything from # on".into());
    }
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query.to_owned())),
        None => (rest, None),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user_info(user)?), host),
        None => (None, authority),
    };
    // A colon without a port is allowed in a URL.
    let (host, port) = host_and_port(host.strip_suffix(':').unwrap_or(host))?;
    if host.is_empty() {
        return Err("the host is missing".into());
    }
    if port == Some(0) {
        return Err("the port must be between 1 and 65535".into());
    }
    // Only the escapes are checked here, the text itself is sent as it was given.
    unescape(path).ok_or("a percent sign in the path must be followed by two hexadecimal digits")?;
    Ok(PrometheusUrl {
        scheme,
        user,
        host: host.to_owned(),
        port: port.unwrap_or(default_port),
        path: path.to_owned(),
        query,
    })
}

fn user_info(text: &str) -> Result<UserInfo, String> {
    let unescaped = |part: &str| {
        unescape(part).ok_or("a percent sign in user or password must be followed by two hexadecimal digits")
    };
    let (username, password) = match text.split_once(':') {
        Some((username, password)) => (username, Some(unescaped(password)?)),
        None => (text, None),
    };
    Ok(UserInfo { username: unescaped(username)?, password })
}

/// Undoes percent escapes; `None` when one is broken or the result is not UTF-8.
fn unescape(text: &str) -> Option<String> {
    let is_escape = |behind: &str| behind.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    text.split('%').skip(1).all(is_escape).then(|| decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        for (text, want) in [
            ("0.0.0.0:10902", Ok(("0.0.0.0", 10902))),
            (":10902", Ok(("", 10902))),
            ("localhost:0", Ok(("localhost", 0))),
            ("[::1]:80", Ok(("::1", 80))),
            ("[fe80::1%eth0]:80", Ok(("fe80::1%eth0", 80))),
            ("", Err("port is missing")),
            ("localhost", Err("port is missing")),
            ("[::1]", Err("port is missing")),
            ("localhost:", Err("the port must be a number")),
            (":http", Err("the port must be a number")),
            (":65536", Err("the port must be between 0 and 65535")),
            (":-1", Err("the port must be a number")),
            ("::1:80", Err("an IPv6 address must stand in brackets")),
            ("[::1:80", Err("the bracket is not closed")),
            ("[::1]80", Err("a colon and the port must follow")),
            ("[localhost]:80", Err("only an IPv6 address")),
            ("a b:80", Err("the host has a character")),
            ("http://x:80", Err("an IPv6 address must")),
            ("vsock://:80", Err("vsock is not supported")),
        ] {
            match (text.parse::<ListenAddress>(), want) {
                (Ok(got), Ok(want)) => {
                    assert_eq!((got.host(), got.port()), want, "{text}");
                    assert_eq!(got.to_string(), text);
                }
                (Err(got), Err(want)) => {
                    assert!(got.starts_with(&format!("listen address {text:?}: {want}")), "{text}: {got}");
                }
                (got, want) => panic!("{text}: {got:?} is not {want:?}"),
            }
        }
    }

    #[test]
    fn every_interface_is_tried_with_ipv6_first() {
        for text in [":7", "0.0.0.0:7", "[::]:7"] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.resolve().unwrap(), ["[::]:7".parse().unwrap(), "0.0.0.0:7".parse().unwrap()]);
        }
        let address: ListenAddress = "127.0.0.1:7".parse().unwrap();
        assert_eq!(address.resolve().unwrap(), ["127.0.0.1:7".parse().unwrap()]);
    }

    #[test]
    fn urls_of_prometheus() {
        for (text, origin, path, query) in [
            ("http://localhost:9090", "http://localhost:9090", "", None),
            ("HTTP://localhost", "http://localhost:80", "", None),
            ("https://prom.example/", "https://prom.example:443", "/", None),
            ("http://[::1]:9090/prom/a%2Fb?x=1&y", "http://[::1]:9090", "/prom/a%2Fb", Some("x=1&y")),
            ("http://host:", "http://host:80", "", None),
            ("http://10.0.0.1?tenant=a", "http://10.0.0.1:80", "", Some("tenant=a")),
        ] {
            let url: PrometheusUrl = text.parse().unwrap();
            assert_eq!((url.origin().as_str(), url.path.as_str(), url.query.as_deref()), (origin, path, query));
        }
    }

    #[test]
    fn what_is_not_a_url_of_prometheus() {
        for (text, want) in [
            ("", "it must begin with http:// or https://"),
            ("localhost:9090", "it must begin with http://"),
            ("ftp://x", "only http:// and https://"),
            ("http://", "the host is missing"),
            ("http://:9090", "the host is missing"),
            ("http://x:99999", "the port must be between"),
            ("http://x:0", "the port must be between 1"),
            ("http://x:y", "the port must be a number"),
            ("http://::1", "an IPv6 address must stand in brackets"),
            ("http://x/#a", "it has a fragment"),
            ("http://x/a b", "it has a space"),
            ("http://x/%2", "a percent sign in the path"),
            ("http://a%20b/", "a host name has no percent sign"),
            ("http://u:%zz@x", "a percent sign in user or password"),
            ("http://u:%+1@x", "a percent sign in user or password"),
        ] {
            let err = text.parse::<PrometheusUrl>().unwrap_err();
            assert!(err.starts_with(&format!("invalid URL: {want}")), "{text}: {err}");
        }
    }

    #[test]
    fn a_password_is_unescaped_and_never_shown() {
        let url: PrometheusUrl = "http://me:p%40ss:w%2fd@prom:9090/x?y".parse().unwrap();
        let user = url.user.as_ref().unwrap();
        assert_eq!((user.username.as_str(), user.password.as_deref()), ("me", Some("p@ss:w/d")));
        assert_eq!(url.to_string(), "http://prom:9090/x?y");
        assert!(!format!("{url:?}").contains("ss:w"), "{url:?}");
        let err = "http://me:hunter2@prom:x".parse::<PrometheusUrl>().unwrap_err();
        assert!(!err.contains("hunter2"), "{err}");
    }

    #[test]
    fn paths_are_joined_with_one_slash() {
        for (base, want) in [
            ("http://p:1", "http://p:1/api/v1/read"),
            ("http://p:1/", "http://p:1/api/v1/read"),
            ("http://u@p:1/prom/?q", "http://p:1/prom/api/v1/read"),
        ] {
            assert_eq!(base.parse::<PrometheusUrl>().unwrap().join("/api/v1/read"), want);
        }
    }
}
