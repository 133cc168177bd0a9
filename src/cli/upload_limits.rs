//! The file of `--shipper.upload-limits-file`: upload limits that may change while the sidecar runs. Strict YAML, with
//! errors that name file and line.

use std::io::Read;

use crate::cli::values::ByteSize;
use crate::error::{Context, Error, Kind, Result};
use crate::limits;
use crate::ship::calm::Allowed;
use crate::ship::window::Window;
use crate::time::GoDuration;
use crate::yaml::{self, Node};

/// What the flags allow, changed by the fields of the file; an empty `path` is no file.
///
/// `Errors:` each names the file, and the line where there is one.
pub fn load(path: &str, flags: &Allowed) -> Result<Allowed> {
    if path.is_empty() {
        return Ok(flags.clone());
    }
    let read = || {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(limits::UPLOAD_LIMITS_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limits::UPLOAD_LIMITS_BYTES_MAX {
            let text = format!("larger than {} bytes", limits::UPLOAD_LIMITS_BYTES_MAX);
            return Err(Error::new(Kind::Permanent, text));
        }
        let text = String::from_utf8(bytes).map_err(|_| Error::new(Kind::Corrupt, "not UTF-8"))?;
        parse(&text, flags)
    };
    read().context(|| format!("read the upload limits in {path} (--shipper.upload-limits-file)"))
}

fn parse(text: &str, flags: &Allowed) -> Result<Allowed> {
    let root = yaml::parse(text)?;
    root.check_fields("upload limits", &["rate_limit", "jitter", "windows"])?;
    let mut allowed = flags.clone();
    if let Some((node, text)) = field(&root, "rate_limit")? {
        allowed.rate_bytes = text.parse::<ByteSize>().map_err(|err| node.error(format!("rate_limit: {err}")))?.0;
    }
    if let Some((node, text)) = field(&root, "jitter")? {
        let jitter: GoDuration = text.parse().map_err(|err| node.error(format!("jitter: {err}")))?;
        if jitter.0 < 0 {
            return Err(node.error(format!("jitter must not be negative, got {jitter}")));
        }
        allowed.jitter = jitter.or_zero();
    }
    if let Some(windows) = root.get("windows").filter(|node| !node.is_null()) {
        let nodes = windows.as_sequence().ok_or_else(|| windows.error("field windows must be a list"))?;
        allowed.windows = nodes.iter().map(window).collect::<Result<_>>()?;
    }
    Ok(allowed)
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
    use std::time::Duration;

    #[test]
    fn fields_override_flags() {
        let flags =
            Allowed { rate_bytes: 5, jitter: Duration::from_secs(10), windows: vec!["01:00-02:00".parse().unwrap()] };
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
            let err = load(&path, &Allowed::default()).expect_err(text).to_string();
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
        let missing = load("/nonexistent/limits.yml", &Allowed::default()).unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/limits.yml"), "{missing}");
        assert_eq!(load("", &Allowed::default()).unwrap(), Allowed::default());
    }
}
