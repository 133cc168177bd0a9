//! The operator's limits for uploads, and the file of `--shipper.upload-limits-file`, which may change them while the
//! sidecar runs. The file is strict YAML; errors name file and line. Never watches the file.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use crate::limits;
use crate::window::Window;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::size::ByteSize;
use pillion_base::time::{GoDuration, format_go_duration};
use pillion_base::yaml::{self, Node};

/// The operator's limits for uploads; they may change while uploads run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UploadLimits {
    /// Bytes per second over all connections; 0 is no limit.
    pub rate_bytes: u64,
    /// Longest random delay before uploads begin.
    pub jitter: Duration,
    /// When uploads may run; always when there are none.
    pub windows: Vec<Window>,
}

/// For the log.
impl fmt::Display for UploadLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate_bytes {
            0 => f.write_str("no rate limit, ")?,
            rate => write!(f, "{rate} bytes per second, ")?,
        }
        write!(f, "jitter {}, ", format_go_duration(self.jitter))?;
        if self.windows.is_empty() {
            return f.write_str("at any time");
        }
        let windows: Vec<String> = self.windows.iter().map(Window::to_string).collect();
        write!(f, "at {}", windows.join(" and "))
    }
}

impl UploadLimits {
    /// These limits, overridden by the fields of the file at `path`; an empty `path` is no file.
    ///
    /// `Errors:` each names the file, and the line where there is one.
    pub fn with_file(&self, path: &str) -> Result<UploadLimits> {
        if path.is_empty() {
            return Ok(self.clone());
        }
        let read = || {
            let mut bytes = Vec::new();
            std::fs::File::open(path)?.take(limits::UPLOAD_LIMITS_BYTES_MAX + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > limits::UPLOAD_LIMITS_BYTES_MAX {
                let text = format!("larger than {} bytes", limits::UPLOAD_LIMITS_BYTES_MAX);
                return Err(Error::new(Kind::Permanent, text));
            }
            let text = String::from_utf8(bytes).map_err(|_| Error::new(Kind::Corrupt, "not UTF-8"))?;
            parse(&text, self)
        };
        read().context(|| format!("read the upload limits in {path} (--shipper.upload-limits-file)"))
    }
}

fn parse(text: &str, flags: &UploadLimits) -> Result<UploadLimits> {
    let root = yaml::parse(text)?;
    root.check_fields("upload limits", &["rate_limit", "jitter", "windows"])?;
    let mut limits = flags.clone();
    if let Some((node, text)) = field(&root, "rate_limit")? {
        limits.rate_bytes = text.parse::<ByteSize>().map_err(|err| node.error(format!("rate_limit: {err}")))?.0;
    }
    if let Some((node, text)) = field(&root, "jitter")? {
        let jitter: GoDuration = text.parse().map_err(|err| node.error(format!("jitter: {err}")))?;
        if jitter.0 < 0 {
            return Err(node.error(format!("jitter must not be negative, got {jitter}")));
        }
        limits.jitter = jitter.or_zero();
    }
    if let Some(windows) = root.get("windows").filter(|node| !node.is_null()) {
        let nodes = windows.as_sequence().ok_or_else(|| windows.error("field windows must be a list"))?;
        limits.windows = nodes.iter().map(window).collect::<Result<_>>()?;
    }
    Ok(limits)
}

fn field<'a>(root: &'a Node, name: &str) -> Result<Option<(&'a Node, &'a str)>> {
    Ok(root.get(name).zip(root.str_field(name)?))
}

fn window(node: &Node) -> Result<Window> {
    let text = node.as_str().ok_or_else(|| node.error("an upload window must be a text"))?;
    text.parse().map_err(|err| node.error(format!("windows: {err}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_override_flags() {
        let flags = UploadLimits {
            rate_bytes: 5,
            jitter: Duration::from_secs(10),
            windows: vec!["01:00-02:00".parse().unwrap()],
        };
        let check = |text: &str, expected: &str| {
            assert_eq!(parse(text, &flags).unwrap().to_string(), expected, "{text}");
        };
        let as_flags = "5 bytes per second, jitter 10s, at 01:00-02:00Z";
        check("", as_flags);
        check("# nothing\n", as_flags);
        check("rate_limit:\njitter:\nwindows:\n", as_flags);
        check("rate_limit: 10MB\n", "10000000 bytes per second, jitter 10s, at 01:00-02:00Z");
        check("rate_limit: 0\njitter: 0\nwindows: []\n", "no rate limit, jitter 0s, at any time");
        check("jitter: '1m30s'", "5 bytes per second, jitter 1m30s, at 01:00-02:00Z");
        check(
            "windows: [\"22:00-06:00\", 12:00-13:00+01:00]",
            "5 bytes per second, jitter 10s, at 22:00-06:00Z and 12:00-13:00+01:00",
        );
        check("windows:\n- 22:00-06:00\n", "5 bytes per second, jitter 10s, at 22:00-06:00Z");
    }

    #[test]
    fn errors_name_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("limits.yml").display().to_string();
        let check = |text: &str, expected: &str| {
            std::fs::write(&path, text).unwrap();
            let err = UploadLimits::default().with_file(&path).expect_err(text).to_string();
            let whole = format!("read the upload limits in {path} (--shipper.upload-limits-file): {expected}");
            assert!(err.starts_with(&whole), "{text}: {err}");
        };
        check("rate_limit: 1MB\nrate: 2MB", "line 2: field rate not found in upload limits");
        check("rate_limit: fast", "line 1: rate_limit: not a number of bytes: \"fast\"");
        check("rate_limit: [1MB]", "line 1: field rate_limit must be a text");
        check("\njitter: 30", "line 2: jitter: time: missing unit in duration \"30\"");
        check("jitter: -30s", "line 1: jitter must not be negative, got -30s");
        check("windows: 22:00-06:00", "line 1: field windows must be a list");
        check("windows:\n- 22:00-06:00\n- 9-17", "line 3: windows: not an upload window: \"9-17\"");
        check("windows:\n- {from: 1}", "line 2: an upload window must be a text");
        check("10MB", "line 1: upload limits must be a mapping");
        check("jitter: 1s\njitter: 2s", "line 2: field jitter already set");
        check(&"#".repeat(70_000), "larger than 65536 bytes");
        let missing = UploadLimits::default().with_file("/nonexistent/limits.yml").unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/limits.yml"), "{missing}");
        assert_eq!(UploadLimits::default().with_file("").unwrap(), UploadLimits::default());
    }

    #[test]
    fn limits_are_logged_in_words() {
        assert_eq!(UploadLimits::default().to_string(), "no rate limit, jitter 0s, at any time");
        let windows = ["22:00-06:00", "12:00-13:00+01:00"].map(|text| text.parse().unwrap()).to_vec();
        let limits = UploadLimits { rate_bytes: 1000, jitter: Duration::from_secs(90), windows };
        let expected = "1000 bytes per second, jitter 1m30s, at 22:00-06:00Z and 12:00-13:00+01:00";
        assert_eq!(limits.to_string(), expected);
    }
}
