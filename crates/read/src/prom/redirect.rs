//! Where a redirect of Prometheus, or of a proxy before it, leads. It is followed to the same server only, so that no
//! password and no data leave it, and only where the request stays what it is. Pure.

use pillion_base::error::{Error, Kind, Result};

/// Longest address that is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 512;

/// Where to ask instead; `None` for a status that is no redirect. `is_post` says that the request has a body to send again.
///
/// `Errors:` `Permanent` for a redirect that is not followed, with the URL to use.
pub(super) fn target(status: u16, location: Option<&str>, asked: &str, is_post: bool) -> Result<Option<String>> {
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = location else { return Ok(None) };
    let target = resolve(asked, location.split('#').next().unwrap_or_default());
    let (from, to) = (origin(asked), origin(&target));
    // The other three would make a GET of it.
    let keeps_request = !is_post || matches!(status, 307 | 308);
    if to.is_some() && from == to && keeps_request {
        return Ok(Some(target));
    }
    let why = match (from == to, &from) {
        (false, Some((scheme, host, port))) => format!("is followed only to {scheme}://{host}:{port}"),
        _ => format!("with status {status} is not followed, because it would drop the request's body"),
    };
    Err(refusal(asked, &target, &why))
}

/// The error of redirects without end.
pub(super) fn too_many(asked: &str, last: &str) -> Error {
    refusal(asked, last, "was followed too often")
}

fn refusal(asked: &str, target: &str, why: &str) -> Error {
    let text = format!(
        "Prometheus redirects {} to {}, which {why}: set --prometheus.url={}",
        shown(asked),
        shown(target),
        base(asked, target)
    );
    Error::new(Kind::Permanent, text)
}

/// The URL below which Prometheus seems to live: the target without the path of the API.
fn base<'a>(asked: &str, target: &'a str) -> std::borrow::Cow<'a, str> {
    let asked_path = asked.split('?').next().unwrap_or_default();
    let mut base = shown(target);
    for api in ["/api/v1/", "/metrics", "/-/"] {
        if let (true, Some(at)) = (asked_path.contains(api), base.rfind(api)) {
            base.to_mut().truncate(at);
        }
    }
    base
}

/// Without user, password and query, which may be secret, and not longer than a line of a log.
fn shown(url: &str) -> std::borrow::Cow<'_, str> {
    let url = url.split('?').next().unwrap_or_default();
    let mut shown = match parts(url) {
        Some((scheme, authority, path)) if authority.contains('@') => {
            format!("{scheme}://{}{path}", host_of(authority)).into()
        }
        _ => std::borrow::Cow::Borrowed(url),
    };
    if shown.len() > SHOWN_BYTES_MAX {
        let end = (0..=SHOWN_BYTES_MAX).rev().find(|end| shown.is_char_boundary(*end)).unwrap_or(0);
        shown.to_mut().truncate(end);
    }
    shown
}

/// A reference as it is meant at the URL that was asked for.
fn resolve(asked: &str, reference: &str) -> String {
    if parts(reference).is_some() {
        return reference.to_owned();
    }
    let Some((scheme, authority, path)) = parts(asked) else { return reference.to_owned() };
    if reference.starts_with("//") {
        return format!("{scheme}:{reference}");
    }
    let path = path.split('?').next().unwrap_or_default();
    if reference.starts_with('/') {
        return format!("{scheme}://{authority}{reference}");
    }
    if reference.is_empty() || reference.starts_with('?') {
        return format!("{scheme}://{authority}{path}{reference}");
    }
    let folder = path.rfind('/').map_or("/", |end| path.get(..=end).unwrap_or("/"));
    format!("{scheme}://{authority}{folder}{reference}")
}

/// Scheme, authority, and the rest of an absolute URL.
fn parts(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    if scheme.is_empty() || !scheme.bytes().all(|c| c.is_ascii_alphanumeric()) {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    Some((scheme, rest.get(..end)?, rest.get(end..)?))
}

fn host_of(authority: &str) -> &str {
    authority.rsplit('@').next().unwrap_or(authority)
}

/// Scheme, host and port of an absolute URL. One with a user is no place to follow to.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let (scheme, authority, _) = parts(url)?;
    let scheme = scheme.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    if authority.contains('@') || authority.is_empty() {
        return None;
    }
    let (host, port) = match authority.rsplit_once(':') {
        // Not within the brackets of an IPv6 address.
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (authority, default),
    };
    Some((scheme, host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &str = "http://p:9090/api/v1/read?token=x";

    #[test]
    fn redirects_within_the_server_are_followed() {
        let check = |status: u16, location: &str, is_post: bool, expected: Option<&str>| {
            let got = target(status, Some(location), ASKED, is_post).unwrap();
            assert_eq!(got.as_deref(), expected, "{status} {location}");
        };
        check(200, "/x", true, None);
        check(304, "/x", true, None);
        check(307, "/prom/api/v1/read?token=x", true, Some("http://p:9090/prom/api/v1/read?token=x"));
        check(308, "HTTP://P:9090/prom/api/v1/read#part", true, Some("HTTP://P:9090/prom/api/v1/read"));
        check(308, "//p:9090/r", true, Some("http://p:9090/r"));
        check(308, "read/", true, Some("http://p:9090/api/v1/read/"));
        check(302, "?a=b", false, Some("http://p:9090/api/v1/read?a=b"));
        check(301, "/x", false, Some("http://p:9090/x"));
        assert_eq!(target(308, None, ASKED, true).unwrap(), None);
        let with_port = target(308, Some("https://[::1]:443/x"), "https://[::1]/y", true).unwrap();
        assert_eq!(with_port.as_deref(), Some("https://[::1]:443/x"));
    }

    #[test]
    fn other_redirects_name_the_url_to_use() {
        let check = |status: u16, location: &str, is_post: bool, expected: &str| {
            let err = target(status, Some(location), ASKED, is_post).unwrap_err();
            assert_eq!(err.kind(), Kind::Permanent);
            assert_eq!(err.to_string(), format!("Prometheus redirects http://p:9090/api/v1/read to {expected}"));
        };
        let elsewhere = "which is followed only to http://p:9090";
        check(
            308,
            "https://p:9090/prom/api/v1/read?token=secret",
            true,
            &format!("https://p:9090/prom/api/v1/read, {elsewhere}: set --prometheus.url=https://p:9090/prom"),
        );
        check(
            307,
            "http://p/api/v1/read",
            true,
            &format!("http://p/api/v1/read, {elsewhere}: set --prometheus.url=http://p"),
        );
        check(
            307,
            "//q:9090/login",
            false,
            &format!("http://q:9090/login, {elsewhere}: set --prometheus.url=http://q:9090/login"),
        );
        check(
            307,
            "http://u:secret@p:9090/x",
            false,
            &format!("http://p:9090/x, {elsewhere}: set --prometheus.url=http://p:9090/x"),
        );
        check(
            302,
            "/prom/api/v1/read",
            true,
            "http://p:9090/prom/api/v1/read, which with status 302 is not followed, because it would drop the request's \
             body: set --prometheus.url=http://p:9090/prom",
        );
        check(
            307,
            "ftp://p:9090/x",
            false,
            &format!("ftp://p:9090/x, {elsewhere}: set --prometheus.url=ftp://p:9090/x"),
        );
        let long = target(307, Some(&format!("http://q/{}", "é".repeat(5000))), ASKED, true).unwrap_err();
        assert!(long.to_string().len() < 2000, "{long}");
    }
}
