//! Object storage: what the shipper needs of a bucket, and the wrappers that every bucket gets.
//!
//! An object appears whole or not at all, under a name that is checked here once for all buckets. A bucket never
//! retries forever: a failed call says through its kind whether a later one could succeed.

pub mod dir;
pub mod open;
pub mod pace;
pub mod s3;
mod wrap;

use crate::error::{Error, Kind, Result};
use crate::files::Source;
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

    /// What the store says of an object. `Errors:` `NotFound` when it does not exist.
    fn attributes(&self, object: &str, stop: &Stop) -> Result<Attributes>;

    /// Stores a file's content as `object`, replacing what is there; what the store then has. A large file may go in
    /// parts, which `journal` remembers: an upload that is begun again goes on where the last one ended.
    ///
    /// `Errors:` `Corrupt` when it is the local file that cannot be read.
    fn upload(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored>;

    /// Whether `object` has the content of the file: by its size, then by the store's checksum where that can be had
    /// from the file too, else by reading the object.
    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared>;

    /// Drops what an upload in parts has stored so far, for it will not go on. What is gone already is fine.
    fn abandon(&self, object: &str, parts: &Parts, stop: &Stop) -> Result<()>;

    /// Stores `bytes` as `object`, replacing what is there.
    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()>;

    /// Removes an object. `Errors:` `NotFound` when it does not exist.
    fn delete(&self, object: &str, stop: &Stop) -> Result<()>;
}

/// What a store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Its size.
    pub size_bytes: u64,
    /// What changes with its content, such as an ETag; empty where there is none.
    pub tag: String,
}

/// An object that was just stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What the store has now.
    pub attributes: Attributes,
    /// Bytes that an earlier attempt had sent already.
    pub resumed_bytes: u64,
}

/// What a comparison of an object with a file found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// The same content.
    Same,
    /// There is no such object.
    Missing,
    /// It has another size.
    Size {
        /// The object's size.
        stored_bytes: u64,
    },
    /// It has the same size and another content.
    Content,
}

/// An upload in parts that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts {
    /// The store's name for the upload; empty while one may have been begun whose name is not known.
    pub upload_id: String,
    /// Size of each part but the last.
    pub part_bytes: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// The parts that are stored, from the first on.
    pub sent: Vec<Part>,
}

/// A part that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its ETag as the store gave it, without quotes.
    pub tag: String,
    /// MD5 of its content, in hex.
    pub md5: String,
}

/// Where an upload in parts is remembered, for one object. It outlives the process where the shipper's state can.
pub trait Journal: Sync {
    /// What an earlier attempt left.
    fn parts(&self) -> Option<Parts>;

    /// Remembers; on disk when it returns. `None`: nothing is under way any more.
    fn record(&self, parts: Option<&Parts>) -> Result<()>;
}

/// Remembers nothing.
pub struct NoJournal;

impl Journal for NoJournal {
    fn parts(&self) -> Option<Parts> {
        None
    }

    fn record(&self, _: Option<&Parts>) -> Result<()> {
        Ok(())
    }
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
