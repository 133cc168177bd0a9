//! Object storage: what the shipper needs of a bucket, and the wrappers that every bucket gets.
//!
//! An object appears whole or not at all, under a name that is checked here once for all buckets. A bucket never
//! retries forever: a failed call says through its kind whether a later one could succeed.

pub mod dir;
mod wrap;

use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::supervisor::Stop;

pub use wrap::{Metered, Prefixed};

/// A store of objects. Every call may be made from several threads at once, and gives up with `Stopped` once the stop
/// has begun.
pub trait Bucket: Send + Sync {
    /// The name that logs and metrics show, such as `fs: /var/lib/bucket`.
    fn name(&self) -> &str;

    /// Whether there is an object of this name; a folder is not one.
    fn exists(&self, object: &str, stop: &Stop) -> Result<bool>;

    /// The content of a small object such as meta.json.
    ///
    /// `Errors:` `NotFound` when it does not exist; `Limit` past [`crate::limits::META_BYTES_MAX`].
    fn get(&self, object: &str, stop: &Stop) -> Result<Vec<u8>>;

    /// Calls `each` with the full name of everything directly inside `dir` (`""` is the root), in bytewise order;
    /// folders end in `/`. Empty folders do not exist. An error of `each` ends the walk.
    fn iter(&self, dir: &str, each: &mut dyn FnMut(&str) -> Result<()>, stop: &Stop) -> Result<()>;

    /// Stores a file's content as `object`, replacing what is there; the number of bytes that were stored.
    ///
    /// `Errors:` `Corrupt` when it is the local file that cannot be read.
    fn upload(&self, object: &str, file: &Path, stop: &Stop) -> Result<u64>;

    /// Stores `bytes` as `object`, replacing what is there.
    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()>;

    /// Removes an object. `Errors:` `NotFound` when it does not exist.
    fn delete(&self, object: &str, stop: &Stop) -> Result<()>;
}

/// Refuses names that could leave the bucket or that stores spell differently: empty, absolute, with empty, `.` or
/// `..` parts, or with control characters.
pub fn check_name(object: &str) -> Result<()> {
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if object.split('/').any(odd) || object.chars().any(char::is_control) {
        return Err(Error::new(Kind::BadRequest, format!("{object:?} is not an object name")));
    }
    Ok(())
}

/// As [`check_name`], for the folder of a listing: the root is `""`, and one slash at the end is fine. The name
/// without that slash.
pub fn check_dir_name(dir: &str) -> Result<&str> {
    let dir = dir.strip_suffix('/').unwrap_or(dir);
    if !dir.is_empty() {
        check_name(dir)?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_refused() {
        for good in ["a", "01A/chunks/000001", "a b", "..a", "ü"] {
            check_name(good).unwrap();
        }
        for odd in ["", "/", "/a", "a/", "a//b", "..", "a/../b", "./a", "a/.", "a\0b", "a\nb"] {
            assert_eq!(check_name(odd).unwrap_err().kind(), Kind::BadRequest, "{odd:?}");
        }
        assert_eq!(check_dir_name("a/b/").unwrap(), "a/b");
        assert_eq!(check_dir_name("").unwrap(), "");
        check_dir_name("a//").unwrap_err();
        check_dir_name("..").unwrap_err();
    }
}
