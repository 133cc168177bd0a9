//! Which proxy leads to the store, by the rules of Go's `net/http`; the environment is given. Pure.
//!
//! `Differs:` a proxy is asked for a tunnel (CONNECT) also where the store is spoken to without TLS.

use std::net::IpAddr;

use url::{Host, Url};

use crate::error::{Error, Kind, Result};

/// The URL of the proxy for `server`; `None` for a direct connection.
///
/// `Errors:` when the variable holds no URL; it names the variable, and not what is in it.
/// `Source:` golang.org/x/net `http/httpproxy`.
pub fn proxy_for(server: &Url, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>> {
    let names = if server.scheme() == "https" { ["HTTPS_PROXY", "https_proxy"] } else { ["HTTP_PROXY", "http_proxy"] };
    let set = |names: [&'static str; 2]| {
        names.into_iter().find_map(|name| env(name).filter(|value| !value.is_empty()).map(|value| (name, value)))
    };
    let Some((name, value)) = set(names) else { return Ok(None) };
    let excluded = set(["NO_PROXY", "no_proxy"]).map(|(_, value)| value).unwrap_or_default();
    if is_excluded(server, &excluded) {
        return Ok(None);
    }
    let url = if value.contains("://") { value } else { format!("http://{value}") };
    match Url::parse(&url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => Ok(Some(url)),
        Ok(parsed) if parsed.scheme().starts_with("socks") => {
            Err(Error::new(Kind::Permanent, format!("environment variable {name}: SOCKS proxies are not supported")))
        }
        _ => Err(Error::new(Kind::Permanent, format!("environment variable {name} is not the URL of a proxy"))),
    }
}

/// Whether the server is reached without a proxy: it is local, or an entry of NO_PROXY names it.
fn is_excluded(server: &Url, excluded: &str) -> bool {
    let Some(host) = server.host() else { return true };
    let ip = match &host {
        Host::Ipv4(ip) => Some(IpAddr::V4(*ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(*ip)),
        Host::Domain(_) => None,
    };
    let name = match &host {
        Host::Domain(name) => name.trim_end_matches('.').to_ascii_lowercase(),
        other => other.to_string().trim_matches(['[', ']']).to_owned(),
    };
    if name == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
        return true;
    }
    let port = server.port_or_known_default().unwrap_or_default();
    excluded.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let (Some(ip), Some((network, bits))) = (ip, entry.split_once('/')) {
            return network.parse().ok().zip(bits.parse().ok()).is_some_and(|(network, bits)| is_in(ip, network, bits));
        }
        let (entry, wanted) = with_port(&entry);
        if wanted.is_some_and(|wanted| wanted != port) {
            return false;
        }
        if ip.is_some() {
            return entry.parse::<IpAddr>().ok() == ip;
        }
        // `.x` and `*.x` are what is below x; `x` is itself and what is below it.
        match entry.strip_prefix("*.").or(entry.strip_prefix('.')) {
            Some(parent) => name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
            None => name == entry || name.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.')),
        }
    })
}

/// `host` and `port` of `host:port`, `[v6]:port`, or of either without a port.
fn with_port(entry: &str) -> (&str, Option<u16>) {
    if let Some((host, rest)) = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, port.parse().ok()),
        _ => (entry, None),
    }
}

fn is_in(ip: IpAddr, network: IpAddr, bits: u32) -> bool {
    let same =
        |a: u128, b: u128, width: u32| bits <= width && (bits == 0 || a >> (width - bits) == b >> (width - bits));
    match (ip, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(u128::from(u32::from(a)), u128::from(u32::from(b)), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(u128::from(a), u128::from(b), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_decides_and_exclusions_hold() {
        let check = |server: &str, env: &[(&str, &str)], expected: Option<&str>| {
            let lookup = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            let found = proxy_for(&server.parse().unwrap(), &lookup).unwrap();
            assert_eq!(found.as_deref(), expected, "{server} {env:?}");
        };
        let both = [("HTTPS_PROXY", "http://s:1"), ("http_proxy", "p:2"), ("ALL_PROXY", "http://never")];
        check("https://s3.test", &both, Some("http://s:1"));
        check("http://s3.test", &both, Some("http://p:2"));
        check("https://s3.test", &[("HTTP_PROXY", "p")], None);
        check("https://s3.test", &[("HTTPS_PROXY", "")], None);
        check("https://localhost:9000", &both, None);
        check("https://127.0.0.2", &both, None);
        check("https://[::1]", &both, None);
        for (server, excluded, is_direct) in [
            ("https://s3.test", "*", true),
            ("https://s3.test", "a.b, S3.test", true),
            ("https://b.s3.test", "s3.test", true),
            ("https://bs3.test", "s3.test", false),
            ("https://s3.test", ".s3.test", false),
            ("https://b.s3.test", ".s3.test", true),
            ("https://b.s3.test", "*.s3.test", true),
            ("https://s3.test", "s3.test:444", false),
            ("https://s3.test:444", "s3.test:444", true),
            ("https://s3.test", "s3.test:443", true),
            ("https://10.1.2.3", "10.0.0.0/8", true),
            ("https://11.1.2.3", "10.0.0.0/8", false),
            ("https://10.1.2.3", "10.1.2.3", true),
            ("https://10.1.2.3", "1.2.3", false),
            ("https://[fd00::1]", "fd00::/8", true),
            ("https://[fd00::1]:9", "[fd00::1]:9", true),
            ("https://s3.test", "0.0.0.0/0", false),
        ] {
            let env = [("HTTPS_PROXY", "p"), ("NO_PROXY", excluded)];
            check(server, &env, (!is_direct).then_some("http://p"));
        }
    }

    #[test]
    fn an_odd_proxy_is_refused_without_showing_it() {
        for odd in ["socks5://u:secret@p:1", "ftp://u:secret@p", "http://", "://secret"] {
            let env = |name: &str| (name == "HTTPS_PROXY").then(|| odd.to_owned());
            let err = proxy_for(&"https://s3.test".parse().unwrap(), &env).unwrap_err();
            assert!(err.to_string().contains("HTTPS_PROXY") && !err.to_string().contains("secret"), "{err}");
        }
    }
}
