//! The trait of a bucket, and the check of object names for all buckets.
//!
//! An object appears whole or not at all. A bucket never retries for ever: the kind of an error says whether a later
//! call could succeed. Pure.

use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;

/// A store of objects. Several threads may call it at once. Every call fails with `Stopped` once the stop has begun.
pub trait Bucket: Send + Sync {
    /// The name that logs and metrics show, such as `fs: /var/lib/bucket`.
    fn name(&self) -> &str;

    /// Makes sure that this is the store that earlier blocks went to, where something else can take its place: the empty
    /// folder of a file system that is not mounted. Returns what `known` is to be in later calls, also of later processes;
    /// `None` where nothing can take its place. `known` is empty if blocks were shipped and nobody noted where to, and
    /// `None` before the first one, which creates the store.
    ///
    /// `Errors:` of class `no_bucket` when it is not that store.
    fn check_place(&self, _known: Option<&str>, stop: &Stop) -> Result<Option<String>> {
        stop.check().map(|()| None)
    }

    /// Whether there is an object of this name; a folder is not one.
    fn exists(&self, object: &str, stop: &Stop) -> Result<bool>;

    /// The content of a small object such as meta.json.
    ///
    /// `Errors:` `NotFound` when it does not exist; `Limit` past [`crate::limits::META_BYTES_MAX`].
    fn get(&self, object: &str, stop: &Stop) -> Result<Vec<u8>>;

    /// Passes the content of an object of any size to `each`, piece by piece and in order, and never all of it in memory.
    /// An error of `each` ends it and is returned. After any other error `each` has had the beginning of the object.
    ///
    /// `Errors:` `NotFound` when it does not exist; `Retry` when it was replaced meanwhile.
    fn read(&self, object: &str, each: &mut dyn FnMut(&[u8]) -> Result<()>, stop: &Stop) -> Result<()>;

    /// Calls `each` with the full name of everything directly inside `dir` (`""` is the root), in bytewise order;
    /// folders end in `/`. Empty folders do not exist. An error of `each` ends the walk.
    fn iter(&self, dir: &str, each: &mut dyn FnMut(&str) -> Result<()>, stop: &Stop) -> Result<()>;

    /// What the store says of an object. `Errors:` `NotFound` when it does not exist.
    fn attributes(&self, object: &str, stop: &Stop) -> Result<Attributes>;

    /// Stores a file's content as `object`, replacing what is there, and returns what the store then has. A large file
    /// may go in parts, which `journal` remembers: the next attempt goes on where this one ended.
    ///
    /// `Errors:` `Corrupt` when the local file cannot be read.
    fn upload(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored>;

    /// Whether `object` has the content of the file. The size is compared first, then the store's checksum if the
    /// file's can be computed too; otherwise the object is read.
    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared>;

    /// Removes the parts of an upload that will not go on. It is no error if they are gone already.
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
    /// A value that changes with its content, such as an ETag; empty if the store has none.
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
    /// The store's id of the upload; empty while the store may have begun one whose id is not known here.
    pub upload_id: String,
    /// Size of each part except the last.
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
    /// MD5 of its content in hex, or another sum that the bucket can tell from one.
    pub md5: String,
}

/// Remembers the upload in parts of one object, across restarts if the shipper's state can be kept.
pub trait Journal: Sync {
    /// What an earlier attempt left.
    fn parts(&self) -> Option<Parts>;

    /// Stores the state; it is on disk when this returns. `None` means that no upload is under way.
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

/// As [`check_name`], for what a bucket is asked for: a prefix may bring empty parts with it, as in `a//b`, which stores
/// of objects keep and folders pass over.
pub(crate) fn check_key(key: &str) -> Result<()> {
    let is_edged = key.starts_with('/') || key.ends_with('/');
    let parts: Vec<&str> = key.split('/').filter(|part| !part.is_empty()).collect();
    if is_edged { check_name(key) } else { check_name(&parts.join("/")) }
}

/// As [`check_name`], for the folder of a listing: the root is `""`, and one slash at the end is allowed. Returns the
/// name without that slash.
pub(crate) fn check_dir_name(dir: &str) -> Result<&str> {
    let dir = dir.strip_suffix('/').unwrap_or(dir);
    if !dir.is_empty() {
        check_key(dir)?;
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
        check_key("a//b/c").unwrap();
        for odd in ["", "/", "//", "/a", "a/", "a//", "a//..", "a//.//b", "a//\n"] {
            assert_eq!(check_key(odd).unwrap_err().kind(), Kind::BadRequest, "{odd:?}");
        }
        check_dir_name("..").unwrap_err();
    }
}
