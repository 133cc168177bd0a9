//! Chooses the proxy for a server by the rules of Go's `net/http`. The environment is an argument. Pure.
//!
//! `Differs:` a proxy is asked for a tunnel (CONNECT) for http too.

use url::{Host, Url};

use pillion_base::error::{Error, Kind, Result};

/// The URL of the proxy for `server`; `None` for a direct connection.
///
/// `Errors:` when the variable holds no URL; the text names the variable and does not show its value.
/// `Source:` golang.org/x/net `http/httpproxy`.
pub(super) fn proxy_for(server: &Url, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>> {
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

/// Whether the server is reached without a proxy, because it is local or NO_PROXY has it.
fn is_excluded(server: &Url, excluded: &str) -> bool {
    let Some(host) = server.host() else { return true };
    let address = bits_of(&host);
    let name = match &host {
        Host::Domain(name) => name.trim_end_matches('.').to_ascii_lowercase(),
        other => other.to_string().trim_matches(['[', ']']).to_owned(),
    };
    let is_loopback = match &host {
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
        Host::Domain(_) => false,
    };
    if name == "localhost" || is_loopback {
        return true;
    }
    let port = server.port_or_known_default().unwrap_or_default();
    excluded.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let (Some(address), Some((network, n_bits))) = (address, entry.split_once('/')) {
            return parse(network).zip(n_bits.parse().ok()).is_some_and(|(network, n)| is_in(address, network, n));
        }
        let (entry, wanted) = with_port(&entry);
        if wanted.is_some_and(|wanted| wanted != port) {
            return false;
        }
        if address.is_some() {
            return parse(entry) == address;
        }
        // `.x` and `*.x` match names below x; `x` matches itself and names below it.
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

/// An IP address as a number, and how many bits it has.
type Address = (u128, u32);

fn bits_of<T>(host: &Host<T>) -> Option<Address> {
    match host {
        Host::Ipv4(ip) => Some((u32::from(*ip).into(), 32)),
        Host::Ipv6(ip) => Some((u128::from(*ip), 128)),
        Host::Domain(_) => None,
    }
}

fn parse(text: &str) -> Option<Address> {
    let host = if text.contains(':') { Host::parse(&format!("[{text}]")) } else { Host::parse(text) };
    bits_of(&host.ok()?)
}

/// Whether the first `n_bits` of two addresses are the same.
fn is_in((address, width): Address, (network, network_width): Address, n_bits: u32) -> bool {
    let shift = width.checked_sub(n_bits);
    width == network_width && shift.is_some_and(|shift| n_bits == 0 || address >> shift == network >> shift)
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
