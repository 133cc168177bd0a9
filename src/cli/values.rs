//! The types of flag values, and the functions that read them from text. Their errors are what a person sees. Pure.

use std::str::FromStr;
use std::time::Duration;

use crate::log_format::{LogFormat, LogLevel};
use pillion_base::time::{GoDuration, parse_prometheus_duration};
use pillion_http::address::PrometheusUrl;

/// The words of `--log.level`.
pub(super) const LOG_LEVELS: &[&str] = &["error", "warn", "info", "debug"];
/// The words of `--log.format`.
pub(super) const LOG_FORMATS: &[&str] = &["logfmt", "json", "journald"];
/// The words of `--hash-func`.
pub(super) const HASH_FUNCS: &[&str] = &["SHA256", ""];
/// The words of `--grpc-server-tls-min-version`.
pub(super) const TLS_VERSIONS: &[&str] = &["1.0", "1.1", "1.2", "1.3"];
/// The words of `--reloader.method`.
pub(super) const RELOAD_METHODS: &[&str] = &["http", "signal"];

/// The error of a word that is not among `words`.
fn enum_error(words: &[&str], got: &str) -> String {
    format!("enum value must be one of {}, got '{got}'", words.join(","))
}

/// The value at the place that `text` has among `words`.
fn pick<T: Copy>(words: &[&str], values: &[T], text: &str) -> Result<T, String> {
    let at = words.iter().position(|word| *word == text);
    at.and_then(|at| values.get(at)).copied().ok_or_else(|| enum_error(words, text))
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        pick(LOG_LEVELS, &[Self::Error, Self::Warn, Self::Info, Self::Debug], text)
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        pick(LOG_FORMATS, &[Self::Logfmt, Self::Json, Self::Journald], text)
    }
}

/// `--hash-func`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HashFunc {
    /// SHA-256 over each file.
    Sha256,
    /// No hashes.
    None,
}

impl FromStr for HashFunc {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        pick(HASH_FUNCS, &[Self::Sha256, Self::None], text)
    }
}

/// A duration in Prometheus's form, as `--http-grace-period` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PrometheusDuration(pub Duration);

impl FromStr for PrometheusDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_prometheus_duration(text)
            .map(|ms| PrometheusDuration(Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
    }
}

/// Reads where a daemon's HTTP port is: `host:port`, `:port` on this machine, or a URL. The error never quotes the text.
pub(super) fn http_url(text: &str) -> Result<PrometheusUrl, String> {
    if text.contains("://") {
        return text.parse();
    }
    let host = if text.starts_with(':') { "localhost" } else { "" };
    let url: PrometheusUrl = format!("http://{host}{text}").parse()?;
    // Where no scheme is given, the port of one is no help.
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { Ok(url) } else { Err("the port is missing; give host:port or a URL".to_owned()) }
}

/// Reads a duration above zero.
pub(super) fn positive(text: &str) -> Result<Duration, String> {
    let value: GoDuration = text.parse()?;
    value.positive().ok_or_else(|| format!("must be greater than 0, got {value}"))
}

/// Reads the name of a TLS version.
pub(super) fn tls_version(text: &str) -> Result<String, String> {
    pick(TLS_VERSIONS, TLS_VERSIONS, text).map(str::to_owned)
}

/// Reads a way to make Prometheus reload.
pub(super) fn reload_method(text: &str) -> Result<String, String> {
    pick(RELOAD_METHODS, RELOAD_METHODS, text).map(str::to_owned)
}

/// Reads a signed whole number.
pub(super) fn int(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("not a whole number between {} and {}: {text:?}", i64::MIN, i64::MAX))
}

/// Reads a whole number.
pub(super) fn uint(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("not a whole number between 0 and {}: {text:?}", u64::MAX))
}

/// Reads a number with decimals.
pub(super) fn float(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("not a number: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!("warn".parse(), Ok(LogLevel::Warn));
        assert_eq!("journald".parse(), Ok(LogFormat::Journald));
        assert_eq!("".parse(), Ok(HashFunc::None));
        assert_eq!("SHA256".parse(), Ok(HashFunc::Sha256));
        for (got, want) in [
            ("WARN".parse::<LogLevel>().err(), "enum value must be one of error,warn,info,debug, got 'WARN'"),
            ("".parse::<LogFormat>().err(), "enum value must be one of logfmt,json,journald, got ''"),
            ("sha256".parse::<HashFunc>().err(), "enum value must be one of SHA256,, got 'sha256'"),
            (tls_version("2").err(), "enum value must be one of 1.0,1.1,1.2,1.3, got '2'"),
            (reload_method("x").err(), "enum value must be one of http,signal, got 'x'"),
            (http_url("localhost").err(), "the port is missing; give host:port or a URL"),
            (http_url("[::1]").err(), "the port is missing; give host:port or a URL"),
            (http_url("ftp://u:secret@a:1").err(), "invalid URL: only http:// and https:// are supported"),
            (positive("0s").err(), "must be greater than 0, got 0s"),
            (positive("-1h").err(), "must be greater than 0, got -1h0m0s"),
            (positive("1").err(), "time: missing unit in duration \"1\""),
            (int("1.5").err(), "not a whole number between -9223372036854775808 and 9223372036854775807: \"1.5\""),
            (uint("-1").err(), "not a whole number between 0 and 18446744073709551615: \"-1\""),
            (float("x").err(), "not a number: \"x\""),
        ] {
            assert_eq!(got.as_deref(), Some(want));
        }
    }

    #[test]
    fn where_a_daemon_is() {
        let check = |text: &str, expected: &str| assert_eq!(http_url(text).unwrap().join("/x"), expected, "{text}");
        check("127.0.0.1:10902", "http://127.0.0.1:10902/x");
        check(":10902", "http://localhost:10902/x");
        check("[::1]:1", "http://[::1]:1/x");
        check("u:p@host:1", "http://host:1/x");
        check("https://host/below/", "https://host:443/below/x");
    }

    #[test]
    fn every_word_of_a_table_has_a_value() {
        assert!(LOG_LEVELS.iter().all(|word| word.parse::<LogLevel>().is_ok()));
        assert!(LOG_FORMATS.iter().all(|word| word.parse::<LogFormat>().is_ok()));
        assert!(HASH_FUNCS.iter().all(|word| word.parse::<HashFunc>().is_ok()));
    }
}
