//! Names of hosts are looked up when a connection is opened, not for each request: most requests go over one that is kept.

use std::net::{IpAddr, SocketAddr};

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, NextTimeout};

/// Looks nothing up; [`addresses`] does it later.
#[derive(Debug)]
pub(super) struct Late;

impl Resolver for Late {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

/// The addresses for a new connection.
pub(super) fn addresses(details: &ConnectionDetails) -> Result<ResolvedSocketAddrs, Error> {
    if !details.addrs.is_empty() {
        return Ok(details.addrs.clone());
    }
    match literal(details.uri) {
        Some(address) => {
            let mut addresses = details.resolver.empty();
            addresses.push(address);
            Ok(addresses)
        }
        None => DefaultResolver::default().resolve(details.uri, details.config, details.timeout),
    }
}

/// The address in a URL that has one in place of a name.
fn literal(uri: &Uri) -> Option<SocketAddr> {
    let host: IpAddr = uri.host()?.trim_matches(['[', ']']).parse().ok()?;
    let port = uri.port_u16().or(match uri.scheme_str()? {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    })?;
    Some(SocketAddr::new(host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_urls_need_no_lookup() {
        let check = |url: &str, expected: Option<&str>| {
            let got = literal(&url.parse().unwrap()).map(|address| address.to_string());
            assert_eq!(got.as_deref(), expected, "{url}");
        };
        check("http://127.0.0.1:9090/x", Some("127.0.0.1:9090"));
        check("http://127.0.0.1/x", Some("127.0.0.1:80"));
        check("https://[::1]/", Some("[::1]:443"));
        check("https://[::1]:9/", Some("[::1]:9"));
        check("http://localhost:9090/", None);
    }
}
