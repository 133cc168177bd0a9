//! What a store's credentials are taken from: environment variables, and small files.

use std::path::Path;
use std::sync::Arc;

use pillion_base::error::{Error, Kind, Result};

/// Gives environment variables by their names.
pub(crate) type Env = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Reads a small file, such as a key. A pipe is not opened, because that could block.
pub(crate) fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let wrong = |text: &str| Error::new(Kind::Permanent, format!("{}: {text}", path.display()));
    let failed = |err: std::io::Error| wrong(&err.to_string());
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(wrong("is not a file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(wrong(&format!("is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// As [`read_bytes`], for text: a token, a file of profiles.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    let not_text = |_| Error::new(Kind::Permanent, format!("{}: is not UTF-8", path.display()));
    String::from_utf8(read_bytes(path, limit)?).map_err(not_text)
}
