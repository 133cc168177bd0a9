//! Keys from the endpoint that ECS, EKS Pod Identity, Greengrass and others give a container.

use std::net::IpAddr;
use std::path::Path;

use ureq::http::Method;
use url::{Host, Url};

use super::answer::Json;
use super::{Found, Keys, Settings};
use crate::limits;
use crate::rest::quoted;
use crate::rest::{ask_present, kind, read_text};
use pillion_base::error::{Context, Error, Kind, Result};

const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
const TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";

/// Hosts of ECS and EKS that may be asked over http.
const KNOWN_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

/// The keys of the container's endpoint.
///
/// `Source:` "Container credential provider", AWS SDKs and Tools Reference Guide.
pub(super) fn fetch(settings: &Settings) -> Result<Found> {
    match url(settings)? {
        Some(url) => Ok(Found::Keys(keys(settings, &url)?.into())),
        None => Ok(Found::Nothing(format!("neither {RELATIVE} nor {FULL} is set"))),
    }
}

/// The container's keys, for a role that is assumed with them.
pub(super) fn required(settings: &Settings) -> Result<Keys> {
    let absent = || Error::new(Kind::Permanent, format!("neither {RELATIVE} nor {FULL} is set"));
    keys(settings, &url(settings)?.ok_or_else(absent)?)
}

fn keys(settings: &Settings, url: &Url) -> Result<Keys> {
    // The file comes first, because its content is renewed and the environment is not.
    let token = match (settings.var(TOKEN_FILE), settings.var(TOKEN)) {
        (Some(path), _) => read_text(Path::new(&path), limits::CREDENTIALS_BYTES_MAX)
            .context(|| format!("read the file that {TOKEN_FILE} names"))?,
        (None, token) => token.unwrap_or_default(),
    };
    let token = token.trim_end_matches(['\r', '\n']);
    if token.contains(char::is_control) {
        return Err(Error::new(Kind::Permanent, format!("the token of {TOKEN_FILE} or {TOKEN} is more than one line")));
    }
    let headers: &[_] = if token.is_empty() { &[] } else { &[("Authorization", token)] };
    // Without TLS the endpoint is on this host or link, which no proxy can reach.
    let answer = ask_present(&settings.env, url.scheme() == "http", Method::GET, url, headers, &[])?;
    if answer.status == 200 {
        return Json::parse(&answer.body)?.keys();
    }
    let text = match Json::parse(&answer.body) {
        Ok(Json { code, message, .. }) if code.is_some() || message.is_some() => {
            [code, message].into_iter().flatten().collect::<Vec<_>>().join(": ")
        }
        _ => answer.text(),
    };
    let text = format!("the endpoint answered {}: {}", answer.status, quoted(&text, &[token]));
    Err(Error::new(kind(answer.status), text))
}

/// The endpoint's URL; `None` if the environment names none.
fn url(settings: &Settings) -> Result<Option<Url>> {
    let wrong = |name: &str, text: &str| Err(Error::new(Kind::Permanent, format!("{name} {text}")));
    if let Some(path) = settings.var(RELATIVE) {
        // Text without a slash first would continue the host's name or give a port, and lead elsewhere.
        let url = Url::parse(&format!("http://169.254.170.2{path}")).ok().filter(|_| path.starts_with('/'));
        return url.map_or_else(|| wrong(RELATIVE, "must be a path that begins with /"), |url| Ok(Some(url)));
    }
    let Some(text) = settings.var(FULL) else { return Ok(None) };
    let Ok(url) = Url::parse(&text) else { return wrong(FULL, "is not a URL") };
    if !url.username().is_empty() || url.password().is_some() {
        return wrong(FULL, "must not hold a user or password");
    }
    let is_known = |address: IpAddr| address.is_loopback() || KNOWN_HOSTS.contains(&address.to_string().as_str());
    let is_near = match url.host() {
        Some(Host::Ipv4(address)) => is_known(address.into()),
        Some(Host::Ipv6(address)) => is_known(address.into()),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(Some(url)),
        "http" if is_near => Ok(Some(url)),
        _ => wrong(FULL, "must be https, or http to localhost, a loopback address or one of ECS and EKS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn only_hosts_next_door_are_asked_without_tls() {
        let check = |name: &str, value: &str, expected: std::result::Result<Option<&str>, &str>| {
            let (name, owned) = (name.to_owned(), value.to_owned());
            let env = Arc::new(move |asked: &str| (asked == name).then(|| owned.clone()));
            let settings = Settings { env, sts_endpoint: String::new() };
            let got = url(&settings).map(|url| url.map(|url| url.to_string())).map_err(|err| err.to_string());
            match (got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got.as_deref(), expected, "{value}"),
                (Err(got), Err(expected)) => assert!(got.starts_with(expected) && !got.contains("hunter2"), "{got}"),
                (got, expected) => panic!("{value}: {got:?} is not {expected:?}"),
            }
        };
        check("OTHER", "x", Ok(None));
        check(RELATIVE, "/v2/credentials/1", Ok(Some("http://169.254.170.2/v2/credentials/1")));
        check(RELATIVE, ".evil.example/hunter2", Err("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI must be a path"));
        check(RELATIVE, "@evil.example/", Err("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI must be a path"));
        check(FULL, "http://169.254.170.23/v1/credentials", Ok(Some("http://169.254.170.23/v1/credentials")));
        check(FULL, "http://[fd00:ec2::23]/v1/credentials", Ok(Some("http://[fd00:ec2::23]/v1/credentials")));
        check(FULL, "http://127.0.0.1:81/x?y", Ok(Some("http://127.0.0.1:81/x?y")));
        check(FULL, "http://localhost/x", Ok(Some("http://localhost/x")));
        check(FULL, "http://[::1]/x", Ok(Some("http://[::1]/x")));
        check(FULL, "https://keys.example/x", Ok(Some("https://keys.example/x")));
        check(FULL, "http://keys.example/hunter2", Err("AWS_CONTAINER_CREDENTIALS_FULL_URI must be https"));
        check(FULL, "http://169.254.169.254/x", Err("AWS_CONTAINER_CREDENTIALS_FULL_URI must be https"));
        check(FULL, "http://localhost.evil.example/x", Err("AWS_CONTAINER_CREDENTIALS_FULL_URI must be https"));
        check(FULL, "ftp://127.0.0.1/x", Err("AWS_CONTAINER_CREDENTIALS_FULL_URI must be https"));
        check(FULL, "https://a:hunter2@keys.example/", Err("AWS_CONTAINER_CREDENTIALS_FULL_URI must not hold"));
        check(FULL, "hunter2", Err("AWS_CONTAINER_CREDENTIALS_FULL_URI is not a URL"));
    }
}
