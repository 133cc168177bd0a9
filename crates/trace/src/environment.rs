//! The environment variables of OpenTelemetry that count, below what the configuration says. Pure.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use pillion_base::error::{Error, Kind, Result};
use pillion_base::secret::Secret;

use crate::propagate::Propagators;

/// Gives an environment variable.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// An endpoint as the variables have it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) is_tls: bool,
    pub(crate) host_port: String,
    /// Without a slash at its end; `None` where the variable does not say.
    pub(crate) path: Option<String>,
}

fn wrong(name: &str, text: &str) -> Error {
    Error::new(Kind::Permanent, format!("environment variable {name}: {text}"))
}

/// The variable for traces, else the one for all signals; with its name. Empty ones do not count.
fn exporter(env: Env<'_>, what: &str) -> Option<(String, String)> {
    [format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")].into_iter().find_map(|name| {
        let value = env(&name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())?;
        Some((name, value))
    })
}

/// Where the collector is.
pub(crate) fn endpoint(env: Env<'_>) -> Result<Option<Address>> {
    let Some((name, url)) = exporter(env, "ENDPOINT") else { return Ok(None) };
    let (is_tls, rest) = match url.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        _ => return Err(wrong(&name, "it must be a URL that begins with http:// or https://")),
    };
    let (host_port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if host_port.is_empty() || host_port.contains('@') {
        return Err(wrong(&name, "it must be http://host:port or https://host:port, without a user"));
    }
    let path = path.trim_end_matches('/');
    // The one for all signals is where their paths begin.
    let path = match (name.contains("_TRACES_"), path) {
        (true, path) => Some(path.to_owned()).filter(|path| !path.is_empty()),
        (false, "") => None,
        (false, path) => Some(format!("{path}/v1/traces")),
    };
    Ok(Some(Address { is_tls, host_port: host_port.to_owned(), path }))
}

/// `gzip`, or what else the variable says.
pub(crate) fn compression(env: Env<'_>) -> Option<String> {
    exporter(env, "COMPRESSION").map(|(_, value)| value)
}

/// The time-out of one request.
pub(crate) fn timeout(env: Env<'_>) -> Result<Option<Duration>> {
    let Some((name, text)) = exporter(env, "TIMEOUT") else { return Ok(None) };
    match text.parse() {
        Ok(0) | Err(_) => Err(wrong(&name, "it must be a number of milliseconds above zero")),
        Ok(millis) => Ok(Some(Duration::from_millis(millis))),
    }
}

/// Headers of each request.
pub(crate) fn headers(env: Env<'_>) -> Result<Vec<(String, Secret)>> {
    let Some((name, text)) = exporter(env, "HEADERS") else { return Ok(Vec::new()) };
    Ok(pairs(&name, &text)?.into_iter().map(|(key, value)| (key, Secret(value))).collect())
}

/// What is said of this process.
pub(crate) fn attributes(env: Env<'_>) -> Result<Vec<(String, String)>> {
    const NAME: &str = "OTEL_RESOURCE_ATTRIBUTES";
    pairs(NAME, env(NAME).as_deref().unwrap_or_default())
}

/// The name of this service.
pub(crate) fn service_name(env: Env<'_>) -> Option<String> {
    env("OTEL_SERVICE_NAME").filter(|name| !name.is_empty())
}

/// Which headers are passed on.
pub(crate) fn propagators(env: Env<'_>) -> Result<Propagators> {
    const NAME: &str = "OTEL_PROPAGATORS";
    match env(NAME).filter(|text| !text.trim().is_empty()) {
        None => Ok(Propagators::default()),
        Some(text) => Propagators::parse(&text).map_err(|err| wrong(NAME, &err)),
    }
}

/// `key=value` between commas, the values as in a URL.
fn pairs(name: &str, text: &str) -> Result<Vec<(String, String)>> {
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| wrong(name, "it must be key=value, between commas"))?;
            let value = percent_decode_str(value.trim()).decode_utf8();
            let value = value.map_err(|_| wrong(name, "a value is not UTF-8 once its percent signs are decoded"))?;
            Ok((key.trim().to_owned(), value.into_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a, const N: usize>(pairs: [(&'a str, &'a str); N]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn endpoints() {
        let check = |name: &str, value: &str, expected: &str| {
            let shown = match endpoint(&of([(name, value)])) {
                Ok(None) => "none".to_owned(),
                Ok(Some(address)) => {
                    format!("{} {} {}", address.is_tls, address.host_port, address.path.as_deref().unwrap_or("-"))
                }
                Err(err) => err.to_string(),
            };
            assert!(shown.starts_with(expected), "{value}: {shown}");
        };
        let (all, traces) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        check(all, "", "none");
        check(all, "http://c:4318", "false c:4318 -");
        check(all, "https://c/otlp/", "true c /otlp/v1/traces");
        check(traces, "http://c:4318/x", "false c:4318 /x");
        check(traces, "http://c:4318/", "false c:4318 -");
        check(all, "c:4318", "environment variable OTEL_EXPORTER_OTLP_ENDPOINT: it must be a URL");
        check(all, "http://me:hunter2@c", "environment variable OTEL_EXPORTER_OTLP_ENDPOINT: it must be http://host");
        let both = of([(all, "http://a"), (traces, "http://b")]);
        assert_eq!(endpoint(&both).unwrap().unwrap().host_port, "b");
    }

    #[test]
    fn pairs_and_numbers() {
        let env = of([("OTEL_RESOURCE_ATTRIBUTES", " a=1, b = x%20y%2C ,,c="), ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500")]);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(attributes(&env).unwrap(), [pair("a", "1"), pair("b", "x y,"), pair("c", "")]);
        assert_eq!(timeout(&env).unwrap(), Some(Duration::from_millis(2500)));
        let wrong = of([
            ("OTEL_RESOURCE_ATTRIBUTES", "hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%ff"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_PROPAGATORS", "ottrace"),
        ]);
        for err in [
            attributes(&wrong).unwrap_err(),
            headers(&wrong).unwrap_err(),
            timeout(&wrong).unwrap_err(),
            propagators(&wrong).unwrap_err(),
        ] {
            let err = err.to_string();
            assert!(err.starts_with("environment variable OTEL_") && !err.contains("hunter2"), "{err}");
        }
    }
}
