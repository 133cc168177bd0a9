//! The commands `pillion bucket ls` and `pillion bucket cat`: what is in the configured bucket. They store nothing there, and
//! hold a page of names for each level of folders, or a piece of an object.

use std::io::{ErrorKind, Write};

use serde_json::json;

use super::progress::Unit;
use super::terminal::Progress;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Disk;
use pillion_base::stop::{Stop, stop_pair};
use pillion_bucket::{Bucket, BucketConfig, Pace};

/// What `pillion bucket ls` was asked for.
#[derive(Debug, Clone)]
pub(crate) struct LsArgs {
    /// The bucket.
    pub bucket: BucketConfig,
    /// The folder, with or without a slash at its end; empty for all of the bucket.
    pub folder: String,
    /// Every object below it in place of its folders.
    pub recursive: bool,
    /// Sizes too.
    pub long: bool,
    /// JSON lines instead of text.
    pub json: bool,
}

/// Writes the names in a folder to `out`, a line each, and says whether those are all: what the store has but nobody can
/// ask it for is a line of `warn`. `Blocks:` while the store is asked.
///
/// `Errors:` when the store does not answer or refuses.
pub(crate) fn ls(args: &LsArgs, out: &mut dyn Write, warn: &mut dyn Write) -> Result<bool> {
    let bucket = pillion_bucket::open(&args.bucket, &Disk::real(), Pace::default())?;
    // Nothing begins the stop: a signal ends the command.
    let (_stopper, stop) = stop_pair()?;
    let folder = match args.folder.strip_suffix('/').unwrap_or(&args.folder) {
        "" => String::new(),
        folder => format!("{folder}/"),
    };
    let out = Output { out, is_closed: false };
    let progress = Progress::beside_output("listing", Unit::Things("names"));
    let mut listing = Listing { bucket: &*bucket, stop: &stop, args, out, warn, is_whole: true, progress };
    let done = listing.walk(&folder);
    let is_whole = listing.is_whole;
    listing.out.end(done).map(|()| is_whole)
}

/// Writes an object to `out`. `Blocks:` until it is there.
///
/// `Errors:` when there is no such object, or the store does not answer or refuses.
pub(crate) fn cat(config: &BucketConfig, object: &str, out: &mut dyn Write) -> Result<()> {
    let bucket = pillion_bucket::open(config, &Disk::real(), Pace::default())?;
    let (_stopper, stop) = stop_pair()?;
    let mut out = Output { out, is_closed: false };
    let progress = Progress::beside_output("reading", Unit::Bytes);
    // A request more, for whoever looks on.
    if progress.is_shown()
        && let Ok(attributes) = bucket.attributes(object, &stop)
    {
        progress.set_total(attributes.size_bytes);
    }
    let mut write = |piece: &[u8]| {
        progress.add(piece.len() as u64);
        out.write(piece)
    };
    let done = bucket.read(object, &mut write, &stop).context(|| format!("read {object:?}"));
    drop(progress);
    out.end(done)
}

/// Standard output, whose reader may go away, as after `| head`.
struct Output<'a> {
    out: &'a mut dyn Write,
    is_closed: bool,
}

impl Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|err| {
            self.is_closed |= err.kind() == ErrorKind::BrokenPipe;
            Error::io(&err).context("write the output")
        })
    }

    /// Writes what is left. That the reader is gone is no error.
    fn end(mut self, done: Result<()>) -> Result<()> {
        let flushed = self.out.flush().map_err(|err| {
            self.is_closed |= err.kind() == ErrorKind::BrokenPipe;
            Error::io(&err).context("write the output")
        });
        if self.is_closed { Ok(()) } else { done.and(flushed) }
    }
}

/// A listing that is under way.
struct Listing<'a> {
    bucket: &'a dyn Bucket,
    stop: &'a Stop,
    args: &'a LsArgs,
    out: Output<'a>,
    warn: &'a mut dyn Write,
    is_whole: bool,
    progress: Progress,
}

impl Listing<'_> {
    /// `dir` ends in a slash, or is empty. The order is that of the whole names, as a folder's stand together.
    fn walk(&mut self, dir: &str) -> Result<()> {
        let (bucket, stop) = (self.bucket, self.stop);
        bucket.iter(dir, &mut |name| self.entry(dir, name), stop)
    }

    fn entry(&mut self, dir: &str, name: &str) -> Result<()> {
        if name.strip_prefix(dir).is_none_or(str::is_empty) {
            // A walk that follows such a name might never end.
            return Err(Error::new(Kind::Retry, format!("the store lists {name:?}, which is not in that folder")));
        }
        match name.ends_with('/') {
            true if self.args.recursive => self.walk(name).or_else(|err| self.pass_over(name, err)),
            false if self.args.long => match self.bucket.attributes(name, self.stop) {
                Ok(attributes) => self.line(name, Some(attributes.size_bytes)),
                // Removed since it was listed.
                Err(err) if err.kind() == Kind::NotFound => Ok(()),
                Err(err) => self.pass_over(name, err),
            },
            _ => self.line(name, None),
        }
    }

    /// Goes on after a name that other tools have made and that no bucket is asked for, such as `a//b`.
    fn pass_over(&mut self, name: &str, err: Error) -> Result<()> {
        if err.kind() != Kind::BadRequest {
            return Err(err);
        }
        self.is_whole = false;
        self.progress.erase();
        // That nobody can read it is no reason to give up the listing.
        let _ = writeln!(self.warn, "pillion: {name:?} is passed over: {err}");
        Ok(())
    }

    fn line(&mut self, name: &str, size_bytes: Option<u64>) -> Result<()> {
        self.progress.add(1);
        let line = match (self.args.json, size_bytes) {
            (true, None) => format!("{}\n", json!({"name": name})),
            (true, Some(size_bytes)) => format!("{}\n", json!({"name": name, "size_bytes": size_bytes})),
            (false, _) if !self.args.long => format!("{}\n", printable(name)),
            (false, None) => format!("{:>14} {}\n", "-", printable(name)),
            (false, Some(size_bytes)) => format!("{size_bytes:>14} {}\n", printable(name)),
        };
        self.out.write(line.as_bytes())
    }
}

/// A name that neither ends a line nor steers a terminal.
fn printable(name: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    name.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_they_are_but_for_control_characters() {
        assert_eq!(printable("01A/chunks/000001 ü\\"), "01A/chunks/000001 ü\\");
        assert_eq!(printable("a\n\u{1b}[2J\u{9b}"), "a\\n\\u{1b}[2J\\u{9b}");
    }
}
