//! Limits of Series calls, and the file of `--store.limits.file`, which may change them while the sidecar runs. The file is
//! strict YAML; errors name file and line. Never watches the file.

use std::io::Read;

use crate::limits;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::size::ByteSize;
use pillion_base::yaml;
use pillion_read::store::PerCall;

/// What Series calls may return and hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreLimits {
    /// What one call may return.
    pub(crate) per_call: PerCall,
    /// Bytes that all of them together may hold; 0 leaves it to the memory limit of the process.
    pub(crate) bytes_in_flight: usize,
}

impl StoreLimits {
    /// These limits, overridden by the fields of the file at `path`; an empty `path` is no file.
    ///
    /// `Errors:` each names the file, and the line where there is one.
    pub(crate) fn with_file(self, path: &str) -> Result<StoreLimits> {
        if path.is_empty() {
            return Ok(self);
        }
        let read = || {
            let mut bytes = Vec::new();
            std::fs::File::open(path)?.take(limits::STORE_LIMITS_BYTES_MAX + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > limits::STORE_LIMITS_BYTES_MAX {
                let text = format!("larger than {} bytes", limits::STORE_LIMITS_BYTES_MAX);
                return Err(Error::new(Kind::Permanent, text));
            }
            let text = String::from_utf8(bytes).map_err(|_| Error::new(Kind::Corrupt, "not UTF-8"))?;
            self.with_text(&text)
        };
        read().context(|| format!("read the limits of calls in {path} (--store.limits.file)"))
    }

    /// What is in force in a process that may have so much memory: half of it, where nothing is said.
    pub(crate) fn following(self, memory_limit_bytes: Option<u64>) -> StoreLimits {
        match (self.bytes_in_flight, memory_limit_bytes) {
            (0, Some(limit)) => {
                StoreLimits { bytes_in_flight: usize::try_from(limit / 2).unwrap_or(usize::MAX), ..self }
            }
            _ => self,
        }
    }

    fn with_text(mut self, text: &str) -> Result<StoreLimits> {
        let root = yaml::parse(text)?;
        root.check_fields("limits of calls", &["request_series", "request_samples", "bytes_in_flight"])?;
        if let Some(n) = root.u64_field("request_series")? {
            self.per_call.series_max = n;
        }
        if let Some(n) = root.u64_field("request_samples")? {
            self.per_call.samples_max = n;
        }
        if let Some((node, text)) = root.get("bytes_in_flight").zip(root.str_field("bytes_in_flight")?) {
            let bytes: ByteSize = text.parse().map_err(|err| node.error(format!("bytes_in_flight: {err}")))?;
            self.bytes_in_flight = usize::try_from(bytes.0).unwrap_or(usize::MAX);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_override_flags_and_faults_have_a_line() {
        let flags = StoreLimits { per_call: PerCall { series_max: 1, samples_max: 2 }, bytes_in_flight: 3 };
        let of = |text: &str| {
            let limits = flags.with_text(text).unwrap();
            (limits.per_call.series_max, limits.per_call.samples_max, limits.bytes_in_flight)
        };
        assert_eq!(of("# nothing\n"), (1, 2, 3));
        assert_eq!(of("request_series: 10\nbytes_in_flight: 64MiB\n"), (10, 2, 64 << 20));
        assert_eq!(of("request_samples: 0\n"), (1, 0, 3));
        for (text, expected) in [
            ("request_serie: 1", "line 1: field request_serie not found in limits of calls"),
            ("request_series: -1", "line 1: "),
            ("\nbytes_in_flight: much", "line 2: bytes_in_flight: "),
        ] {
            let err = flags.with_text(text).unwrap_err().to_string();
            assert!(err.starts_with(expected), "{err}");
        }
        let none = flags.with_text("bytes_in_flight: 0\n").unwrap();
        assert_eq!(none.following(Some(10)).bytes_in_flight, 5, "0 follows the memory limit, also in the file");
        assert_eq!((none.following(None).bytes_in_flight, flags.following(Some(10)).bytes_in_flight), (0, 3));
        let err = flags.with_file("/nonexistent/x.yml").unwrap_err().to_string();
        assert!(err.starts_with("read the limits of calls in /nonexistent/x.yml (--store.limits.file): "), "{err}");
    }
}
