//! How Prometheus's answers are read: the JSON envelope, flags, build info, configuration, label names and values, and
//! the one gauge of `/metrics` that matters. Pure: readers are handed in.

use std::io::BufRead;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::labels::Labels;
use pillion_base::yaml;

/// A decoded answer: the data and Prometheus's warnings.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// What was asked for; the default of `T` for `null`, a missing field or an empty body.
    pub data: T,
    /// The warnings that came with it.
    pub warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Envelope<T> {
    #[serde(default)]
    status: String,
    data: Option<T>,
    #[serde(default)]
    error: String,
    warnings: Option<Vec<String>>,
}

/// Decodes the envelope that all JSON endpoints share.
///
/// `Errors:` `Corrupt` for anything that is not that JSON, `Permanent` when the envelope says `error`.
pub(crate) fn json<T: DeserializeOwned + Default>(body: &[u8]) -> Result<Answer<T>> {
    if body.is_empty() {
        return Ok(Answer { data: T::default(), warnings: Vec::new() });
    }
    let envelope: Envelope<T> = serde_json::from_slice(body)
        .map_err(|err| Error::new(Kind::Corrupt, err.to_string()))
        .context(|| "decode Prometheus's answer as JSON")?;
    if envelope.status != "success" {
        return Err(Error::new(
            Kind::Permanent,
            format!("Prometheus answered {:?}: {}", envelope.status, envelope.error),
        ));
    }
    Ok(Answer { data: envelope.data.unwrap_or_default(), warnings: envelope.warnings.unwrap_or_default() })
}

/// The warning that there is more than the limit.
pub(crate) const TRUNCATED: &str = "results truncated due to limit";

/// `/api/v1/status/buildinfo`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct BuildInfo {
    /// `2.53.3`, say.
    #[serde(default)]
    pub version: String,
}

/// `/api/v1/status/runtimeinfo`, as far as it matters. A field that is missing is empty.
#[derive(Debug, Default, Deserialize)]
pub struct RuntimeInfo {
    /// The folder in which Prometheus runs.
    #[serde(default, rename = "CWD")]
    pub cwd: String,
    /// `15d or 1GiB`, say.
    #[serde(default, rename = "storageRetention")]
    pub retention: String,
    /// Whether the last attempt to load a configuration has succeeded.
    #[serde(default, rename = "reloadConfigSuccess")]
    pub is_config_loaded: bool,
    /// When the configuration was loaded, as RFC 3339 in whole seconds.
    #[serde(default, rename = "lastConfigTime")]
    pub config_loaded_at: String,
}

/// `/api/v1/status/config`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct StatusConfig {
    /// The running configuration as Prometheus prints it.
    #[serde(default)]
    pub yaml: String,
}

/// What is read of a running configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// `global.external_labels`.
    pub external_labels: Labels,
    /// `storage.tsdb.chunk_encoding.floats`, where it is set.
    pub float_encoding: Option<String>,
}

/// Reads a running configuration. A key that nobody needs is not looked at.
pub(crate) fn configuration(config: &str) -> Result<Configuration> {
    Ok(Configuration { external_labels: external_labels(config)?, float_encoding: float_encoding(config) })
}

/// What lies between `name:` and the next unindented line. Prometheus prints block style, so that is a whole section, and a
/// large configuration costs no more than a small one.
fn section(config: &str, name: &str) -> Option<String> {
    let is_head = |line: &str| line.trim_end().strip_suffix(':') == Some(name);
    let mut lines = config.split_inclusive('\n').skip_while(|line| !is_head(line));
    let head = lines.next()?;
    let body = lines.take_while(|line| line.starts_with([' ', '\t', '\n', '#']));
    Some(std::iter::once(head).chain(body).collect())
}

/// `storage.tsdb.chunk_encoding.floats`.
fn float_encoding(config: &str) -> Option<String> {
    let root = yaml::parse(&section(config, "storage")?).ok()?;
    let keys = ["storage", "tsdb", "chunk_encoding", "floats"];
    let found = keys.into_iter().try_fold(&root, |value, key| value.get(key))?;
    found.as_str().map(str::to_owned)
}

/// The external labels of a running configuration.
fn external_labels(config: &str) -> Result<Labels> {
    let section = section(config, "global").unwrap_or_else(|| config.to_owned());
    let root = yaml::parse(&section).context(|| "parse Prometheus's configuration")?;
    let Some(labels) = root.get("global").and_then(|global| global.get("external_labels")) else {
        return Ok(Labels::default());
    };
    let Some(pairs) = labels.as_mapping() else {
        return if labels.is_null() {
            Ok(Labels::default())
        } else {
            Err(Error::new(Kind::Corrupt, "global.external_labels of Prometheus's configuration is not a mapping"))
        };
    };
    let pairs = pairs.iter().filter_map(|(name, value)| Some((name.to_owned(), value.as_str()?.to_owned())));
    Ok(Labels::new(pairs))
}

/// The gauge that holds the oldest time Prometheus can answer for.
const LOWEST_TIMESTAMP: &str = "prometheus_tsdb_lowest_timestamp_seconds";

/// The lowest timestamp, from a `/metrics` page that is read only up to that line. `Units:` ms; `i64::MIN` for an empty
/// database.
///
/// `Errors:` `NotFound` when the page ends without it, `Corrupt` when its value is no number.
/// `Differs:` Thanos takes a missing metric for 0 (D-04).
pub(crate) fn lowest_timestamp(page: &mut impl BufRead) -> Result<i64> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let n_read = std::io::Read::take(&mut *page, 1 << 20)
            .read_until(b'\n', &mut line)
            .context(|| "read Prometheus's /metrics")?;
        if n_read == 0 {
            return Err(Error::new(
                Kind::NotFound,
                format!(
                    "Prometheus's /metrics has no {LOWEST_TIMESTAMP}; is this the /metrics page of a Prometheus server with a TSDB?"
                ),
            ));
        }
        let Some(rest) = line.strip_prefix(LOWEST_TIMESTAMP.as_bytes()) else { continue };
        let rest = String::from_utf8_lossy(rest);
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.split_once('}').map(|(_, value)| value),
            None => rest.strip_prefix([' ', '\t']),
        };
        let Some(value) = value.and_then(|value| value.split_ascii_whitespace().next()) else { continue };
        let seconds: f64 = value
            .parse()
            .ok()
            .filter(|seconds: &f64| !seconds.is_nan())
            .ok_or_else(|| Error::new(Kind::Corrupt, format!("{LOWEST_TIMESTAMP} is {value:?}, not a number")))?;
        return Ok(milliseconds(seconds));
    }
}

/// The gauge's seconds in ms. An empty database reports 2^63 ms, which stands for "no lower bound known".
#[allow(clippy::cast_possible_truncation)]
fn milliseconds(seconds: f64) -> i64 {
    let ms = seconds * 1000.0;
    // 2^63 is exactly representable; `as` saturates below and above.
    if ms >= 9_223_372_036_854_775_808.0 { i64::MIN } else { ms as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes() {
        let check = |body: &str, expected: Result<(&[&str], &[&str]), &str>| match (
            json::<Vec<String>>(body.as_bytes()),
            expected,
        ) {
            (Ok(answer), Ok((data, warnings))) => assert_eq!(
                (answer.data.as_slice(), answer.warnings.as_slice()),
                (
                    data.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice(),
                    warnings.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice()
                )
            ),
            (Err(err), Err(text)) => assert!(err.to_string().contains(text), "{err}"),
            (got, expected) => panic!("{body}: {got:?}, expected {expected:?}"),
        };
        check(r#"{"status":"success","data":["a"],"warnings":["w"]}"#, Ok((&["a"], &["w"])));
        check(r#"{"status":"success","data":null}"#, Ok((&[], &[])));
        check(r#"{"status":"success"}"#, Ok((&[], &[])));
        check("", Ok((&[], &[])));
        check(r#"{"status":"error","error":"boom"}"#, Err("boom"));
        check("<html>", Err("decode Prometheus's answer"));
        check("{}", Err("Prometheus answered"));
    }

    #[test]
    fn external_labels_are_found_and_the_rest_is_ignored() {
        let check = |config: &str, expected: &str| assert_eq!(external_labels(config).unwrap().to_string(), expected);
        check(
            "global:\n  scrape_interval: 15s\n  external_labels:\n    b: \"1\"\n    a: x\nscrape_configs:\n- job_name: [",
            r#"{a="x", b="1"}"#,
        );
        check("global:\n  external_labels: {}\n", "{}");
        check("global:\n  external_labels:\n", "{}");
        check(
            "global:\n  scrape_protocols:\n  - Future9\n  external_labels:\n    n: 1\n    t: true\n",
            r#"{n="1", t="true"}"#,
        );
        check("scrape_configs: []\n", "{}");
        check("", "{}");
        check("global: {external_labels: {z: y}}\n", r#"{z="y"}"#);
        external_labels("global:\n  external_labels: [1]\n").unwrap_err();
    }

    #[test]
    fn the_encoding_of_floats_is_found() {
        let check = |config: &str, expected: Option<&str>| {
            assert_eq!(configuration(config).unwrap().float_encoding.as_deref(), expected, "{config}");
        };
        let storage = "storage:\n  tsdb:\n    out_of_order_time_window: 0s\n    chunk_encoding:\n      floats: xor2\n";
        check(&format!("global:\n  external_labels: {{a: b}}\n{storage}scrape_configs: []\n"), Some("xor2"));
        check(&format!("{storage}    retention:\n      time: 15d\n"), Some("xor2"));
        check("storage:\n  tsdb:\n    retention:\n      time: 15d\n", None);
        check("storage:\n  exemplars:\n    max_exemplars: 1\n", None);
        check("storage:\n", None);
        check("global:\n  storage:\n", None);
        // Nobody is refused for what is only warned about.
        check("global:\n  a: b\nstorage:\n  tsdb: [\n", None);
        check("", None);
    }

    #[test]
    fn lowest_timestamps() {
        let check = |page: &str, expected: Result<i64, &str>| match (lowest_timestamp(&mut page.as_bytes()), expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected),
            (Err(err), Err(text)) => assert!(err.to_string().contains(text), "{err}"),
            (got, expected) => panic!("{page}: {got:?}, expected {expected:?}"),
        };
        let name = LOWEST_TIMESTAMP;
        check(&format!("# HELP {name} x\n# TYPE {name} gauge\n{name} 1.7e+09\nrubbish"), Ok(1_700_000_000_000));
        check(&format!("{name} 1732.123\n"), Ok(1_732_123));
        check(&format!("{name}{{a=\"b\"}} 5 17\n"), Ok(5000));
        check(&format!("{name} 9.223372036854776e+15\n"), Ok(i64::MIN));
        check(&format!("{name} abc\n"), Err("not a number"));
        check(&format!("{name}_other 5\n"), Err("has no"));
        check("<html>503</html>", Err("has no"));
    }
}
