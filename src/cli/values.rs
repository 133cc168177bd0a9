//! The values of flags as types, each read from its text with the error a person gets. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::cli::flags;
use crate::time::{GoDuration, parse_prometheus_duration};

/// The error of a word that is not among `words`.
fn enum_error(words: &[&str], got: &str) -> String {
    format!("enum value must be one of {}, got '{got}'", words.join(","))
}

/// The value that belongs to `text`, by the order of `words`.
fn pick<T: Copy>(words: &[&str], values: &[T], text: &str) -> Result<T, String> {
    let at = words.iter().position(|word| *word == text);
    at.and_then(|at| values.get(at)).copied().ok_or_else(|| enum_error(words, text))
}

/// `--log.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what needs somebody.
    Error,
    /// What may need somebody.
    Warn,
    /// What happens once in a while.
    Info,
    /// Everything.
    Debug,
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        pick(flags::LOG_LEVELS, &[Self::Error, Self::Warn, Self::Info, Self::Debug], text)
    }
}

/// `--log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` lines.
    Logfmt,
    /// One JSON object on a line.
    Json,
    /// `key=value` lines that begin with the priority in the way systemd reads it.
    Journald,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        pick(flags::LOG_FORMATS, &[Self::Logfmt, Self::Json, Self::Journald], text)
    }
}

/// `--hash-func`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashFunc {
    /// SHA-256 over each file.
    Sha256,
    /// No hashes.
    None,
}

impl FromStr for HashFunc {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        pick(flags::HASH_FUNCS, &[Self::Sha256, Self::None], text)
    }
}

/// Text that may hold a secret and that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Secret(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "<hidden>" })
    }
}

/// A duration of Prometheus's form, as `--http-grace-period` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrometheusDuration(pub Duration);

impl FromStr for PrometheusDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_prometheus_duration(text)
            .map(|ms| PrometheusDuration(Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
    }
}

/// A number of bytes with an optional unit, decimal (`10MB`) or binary (`2.5GiB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// The units and the bytes in one of each.
const BYTE_UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("KB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1000 * 1000),
    ("MiB", 1 << 20),
    ("GB", 1000 * 1000 * 1000),
    ("GiB", 1 << 30),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "not a number of bytes: {text:?}; expected a number with one of the units B, KB, KiB, MB, MiB, GB, GiB, such as 10MB"
            )
        };
        let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let (_, unit) = BYTE_UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(wrong)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        // Digits past the ninth are worth less than two bytes of any unit.
        let fraction = fraction.get(..9).unwrap_or(fraction);
        let scale = 10_u64.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
        let parse = |digits: &str| digits.parse::<u64>().map_err(|_| wrong());
        let bytes = u128::from(parse(whole)?) * u128::from(*unit)
            + u128::from(parse(fraction)?) * u128::from(*unit) / u128::from(scale);
        u64::try_from(bytes).map(ByteSize).map_err(|_| wrong())
    }
}

/// For argh: a duration above zero.
pub fn positive(text: &str) -> Result<Duration, String> {
    let value: GoDuration = text.parse()?;
    value.positive().ok_or_else(|| format!("must be greater than 0, got {value}"))
}

/// For argh: a version of TLS.
pub fn tls_version(text: &str) -> Result<String, String> {
    pick(flags::TLS_VERSIONS, flags::TLS_VERSIONS, text).map(str::to_owned)
}

/// For argh: how Prometheus is told to reload.
pub fn reload_method(text: &str) -> Result<String, String> {
    pick(flags::RELOAD_METHODS, flags::RELOAD_METHODS, text).map(str::to_owned)
}

/// For argh: a signed whole number.
pub fn int(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| format!("not a whole number between {} and {}: {text:?}", i64::MIN, i64::MAX))
}

/// For argh: a whole number.
pub fn uint(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("not a whole number between 0 and {}: {text:?}", u64::MAX))
}

/// For argh: a number with decimals.
pub fn float(text: &str) -> Result<f64, String> {
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
    fn bytes_with_units() {
        for (text, want) in [
            ("0", 0),
            ("1234", 1234),
            ("1B", 1),
            ("10KB", 10_000),
            ("10KiB", 10_240),
            ("10 MB", 10_000_000),
            ("2.5MiB", 2_621_440),
            ("1.000000000000001GB", 1_000_000_000),
            ("0.5GiB", 1 << 29),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(want)), "{text}");
        }
        let wrong = [
            "",
            "MB",
            "-1",
            "+1",
            "1.",
            ".5MB",
            "1.5.5MB",
            "1kb",
            "1Mb",
            "1Mbit",
            "10MB/s",
            "1e6",
            "20000000000GiB",
            "1TB",
        ];
        for text in wrong {
            let err = text.parse::<ByteSize>().expect_err(text);
            assert!(err.starts_with(&format!("not a number of bytes: {text:?}; expected")), "{err}");
        }
    }

    #[test]
    fn every_word_of_a_table_has_a_value() {
        assert!(flags::LOG_LEVELS.iter().all(|word| word.parse::<LogLevel>().is_ok()));
        assert!(flags::LOG_FORMATS.iter().all(|word| word.parse::<LogFormat>().is_ok()));
        assert!(flags::HASH_FUNCS.iter().all(|word| word.parse::<HashFunc>().is_ok()));
    }
}
