//! Room for what one call should not keep in memory: a temporary file without a name, written at its end and read anywhere.
//! Where no such file can be made it is memory after all, and less.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::limits;
use pillion_base::error::{Context, Error, Kind, Result};

/// Bytes are gathered up to this size before they are written.
const WRITE_BUFFER_BYTES: usize = 64 * 1024;
/// Memory in place of a file is taken in pieces of this size.
const BLOCK_BYTES: usize = 256 * 1024;
/// How many names are tried for a file that needs one for a moment.
const NAMES_MAX: usize = 8;

/// What one call has put aside.
pub(super) struct Spill {
    room: Room,
    /// Bytes in the room.
    written: u64,
    /// What comes behind them.
    gathered: Vec<u8>,
    bytes_max: u64,
}

enum Room {
    File(File),
    /// In blocks of one size, and why there is no file.
    Memory(Vec<Box<[u8]>>, Error),
}

impl Spill {
    /// Room for `bytes_max` in the temporary folder.
    pub(super) fn new(bytes_max: u64) -> Self {
        Spill::in_room(nameless(&std::env::temp_dir(), open), bytes_max)
    }

    fn in_room(file: Result<File>, bytes_max: u64) -> Self {
        let (room, bytes_max) = match file {
            Ok(file) => (Room::File(file), bytes_max),
            // Said at the start, and with the error of a call that needs more.
            Err(why) => (Room::Memory(Vec::new(), why), bytes_max.min(limits::SPILL_MEMORY_BYTES_MAX)),
        };
        Spill { room, written: 0, gathered: Vec::new(), bytes_max }
    }

    /// How much lies here; the next bytes are put at this place.
    pub(super) fn len(&self) -> u64 {
        self.written + self.gathered.len() as u64
    }

    /// Bytes of memory in use.
    pub(super) fn held_bytes(&self) -> usize {
        let room = match &self.room {
            Room::File(_) => 0,
            Room::Memory(blocks, _) => blocks.len() * BLOCK_BYTES,
        };
        self.gathered.capacity() + room
    }

    /// Adds bytes at the end. `Errors:` of the temporary folder; `Limit` past the budget.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.len() + bytes.len() as u64 > self.bytes_max {
            let text = match &self.room {
                Room::File(_) => {
                    format!("the answer needs more than {} bytes to be sorted; ask for less", self.bytes_max)
                }
                Room::Memory(_, why) => format!(
                    "the answer needs more than {} bytes of memory to be sorted; let the sidecar write temporary files, or \
                     ask for less: {why}",
                    self.bytes_max
                ),
            };
            return Err(Error::new(Kind::Limit, text));
        }
        if self.gathered.len() + bytes.len() > WRITE_BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() < WRITE_BUFFER_BYTES {
            self.gathered.extend_from_slice(bytes);
            return Ok(());
        }
        self.write(bytes)
    }

    /// Makes everything readable. `Errors:` of the temporary folder.
    pub(super) fn flush(&mut self) -> Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        self.write(&gathered)?;
        self.gathered = gathered;
        self.gathered.clear();
        Ok(())
    }

    /// Nothing more is added: makes everything readable, and keeps no memory beside it.
    pub(super) fn seal(&mut self) -> Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        self.write(&gathered)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.room {
            Room::File(file) => {
                file.write_all_at(bytes, self.written).context(|| explain("write", &std::env::temp_dir()))?;
            }
            Room::Memory(blocks, _) => {
                for (block, within, range) in pieces(self.written, bytes.len()) {
                    if block == blocks.len() {
                        blocks.push(vec![0; BLOCK_BYTES].into_boxed_slice());
                    }
                    blocks[block][within..within + range.len()].copy_from_slice(&bytes[range]);
                }
            }
        }
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Fills `out` with what lies at `at`; it must have been flushed. `Errors:` of the temporary folder.
    pub(super) fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        if at + out.len() as u64 > self.written {
            return Err(Error::new(Kind::Corrupt, "temporary file is shorter than what was written"));
        }
        match &self.room {
            Room::File(file) => file.read_exact_at(out, at).context(|| explain("read", &std::env::temp_dir()))?,
            Room::Memory(blocks, _) => {
                for (block, within, range) in pieces(at, out.len()) {
                    let len = range.len();
                    out[range].copy_from_slice(&blocks[block][within..within + len]);
                }
            }
        }
        Ok(())
    }

    /// Forgets what lies from `len` on, so that its room is used again.
    pub(super) fn truncate(&mut self, len: u64) {
        self.gathered.truncate(usize::try_from(len.saturating_sub(self.written)).unwrap_or(usize::MAX));
        self.written = self.written.min(len);
        if let Room::Memory(blocks, _) = &mut self.room {
            blocks.truncate(usize::try_from(self.written).unwrap_or(usize::MAX).div_ceil(BLOCK_BYTES));
        }
    }
}

/// What lies at `at`, by blocks: which block, from where in it, and which part of the bytes.
fn pieces(at: u64, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let mut done = 0;
    std::iter::from_fn(move || {
        let (start, place) = (done, at.saturating_add(done));
        let within = place % BLOCK_BYTES;
        done += (len - start).min(BLOCK_BYTES - within);
        (done > start).then_some((place / BLOCK_BYTES, within, start..done))
    })
}

/// Makes a temporary file as a large answer does, and lets go of it. `Errors:` with the folder and what chooses it.
pub fn try_temporary_folder() -> Result<()> {
    nameless(&std::env::temp_dir(), open).map(drop)
}

/// Looks whether calls can put anything aside in the temporary folder, and logs it when they cannot.
pub fn check_temporary_folder() {
    if let Err(err) = try_temporary_folder() {
        log::warn!(
            err = err.to_string(), memory_max_bytes = limits::SPILL_MEMORY_BYTES_MAX;
            "answers that have to be sorted, and series of many megabytes, stay in memory and are refused past a limit, because \
             no temporary file can be made; TMPDIR chooses another folder"
        );
    }
}

fn explain(verb: &str, dir: &Path) -> String {
    format!("{verb} a temporary file in {} (TMPDIR chooses the folder)", dir.display())
}

fn open(path: &Path, flags: OFlags) -> std::io::Result<File> {
    Ok(File::from(rustix::fs::open(path, flags | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?))
}

/// A file in `dir` that is gone when it is closed, even after a crash: without a name from the beginning, or, where the
/// file system cannot do that, from the next moment on.
fn nameless(dir: &Path, open: impl Fn(&Path, OFlags) -> std::io::Result<File>) -> Result<File> {
    if let Ok(file) = open(dir, OFlags::TMPFILE) {
        return Ok(file);
    }
    let mut taken = None;
    for _ in 0..NAMES_MAX {
        // Keys of a hash map are the randomness that the standard library has.
        let path = dir.join(format!(".pillion-{:016x}", RandomState::new().hash_one(0)));
        match open(&path, OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW) {
            Ok(file) => {
                std::fs::remove_file(&path).context(|| explain("unlink", dir))?;
                return Ok(file);
            }
            Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => taken = Some(err),
            Err(err) => return Err(err).context(|| explain("create", dir)),
        }
    }
    let err = taken.unwrap_or_else(|| std::io::ErrorKind::AlreadyExists.into());
    Err(err).context(|| explain("create", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_file() -> Result<File> {
        Err(Error::new(Kind::Retry, "read-only file system"))
    }

    fn check_round_trip(mut spill: Spill) {
        let (small, large) = (vec![7; 1000], vec![9; BLOCK_BYTES + 5]);
        let mut places = Vec::new();
        for part in [&small, &large, &small, &small, &large] {
            places.push((spill.len(), part));
            spill.append(part).unwrap();
        }
        spill.flush().unwrap();
        let check = |spill: &Spill, at: u64, expected: &[u8]| {
            let mut got = vec![0; expected.len()];
            spill.read(at, &mut got).unwrap();
            assert!(got == expected, "at {at}");
        };
        for (at, part) in &places {
            check(&spill, *at, part);
        }
        let end = places[2].0;
        spill.truncate(end);
        spill.append(&[3; 50]).unwrap();
        spill.append(&[4; 50]).unwrap();
        // What was only gathered is forgotten, too.
        spill.truncate(end + 50);
        assert_eq!(spill.len(), end + 50);
        spill.flush().unwrap();
        check(&spill, end, &[3; 50]);
        check(&spill, places[1].0, &large);
        spill.read(end + 1, &mut [0; 50]).unwrap_err();
        spill.truncate(0);
        spill.flush().unwrap();
        assert!(spill.held_bytes() <= WRITE_BUFFER_BYTES, "{}", spill.held_bytes());
    }

    #[test]
    fn what_was_put_aside_comes_back_and_its_room_is_used_again() {
        check_round_trip(Spill::new(u64::MAX));
        check_round_trip(Spill::in_room(no_file(), u64::MAX));
    }

    #[test]
    fn the_budget_is_an_error_that_says_what_to_do() {
        let mut spill = Spill::new(100);
        spill.append(&[0; 100]).unwrap();
        let err = spill.append(&[0]).unwrap_err();
        assert_eq!((err.kind(), spill.len()), (Kind::Limit, 100));
        assert!(err.to_string().ends_with("ask for less"), "{err}");
        spill.truncate(10);
        spill.append(&[0; 90]).unwrap();
    }

    #[test]
    fn memory_has_a_smaller_budget_and_says_why_it_was_needed() {
        let mut spill = Spill::in_room(no_file(), u64::MAX);
        let block = vec![1; BLOCK_BYTES];
        let err = (0..).find_map(|_| spill.append(&block).err()).unwrap();
        assert_eq!((err.kind(), spill.len()), (Kind::Limit, limits::SPILL_MEMORY_BYTES_MAX));
        assert!(err.to_string().ends_with("read-only file system"), "{err}");
        assert_eq!(spill.held_bytes() as u64, limits::SPILL_MEMORY_BYTES_MAX);
    }

    /// The steps that were tried, and what they came to, in a folder where `refused` is not done.
    fn try_steps(refused: OFlags) -> (Vec<OFlags>, Result<File>, usize) {
        let (dir, tried) = (tempfile::tempdir().unwrap(), std::cell::RefCell::new(Vec::new()));
        let file = nameless(dir.path(), |path, flags| {
            tried.borrow_mut().push(flags);
            if refused.intersects(flags & (OFlags::DIRECTORY | OFlags::CREATE)) {
                return Err(std::io::ErrorKind::Unsupported.into());
            }
            open(path, flags)
        });
        let n_names = std::fs::read_dir(dir.path()).unwrap().count();
        (tried.into_inner(), file, n_names)
    }

    #[test]
    fn a_file_has_no_name_or_loses_it_at_once_or_there_is_none() {
        let named = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let (tried, file, n_names) = try_steps(OFlags::empty());
        assert_eq!((tried, file.is_ok(), n_names), (vec![OFlags::TMPFILE], true, 0));
        // O_TMPFILE is O_DIRECTORY and a bit of its own.
        let (tried, file, n_names) = try_steps(OFlags::DIRECTORY);
        assert_eq!((tried, n_names), (vec![OFlags::TMPFILE, named], 0));
        let file = file.unwrap();
        check_round_trip(Spill::in_room(Ok(file.try_clone().unwrap()), u64::MAX));
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&file.metadata().unwrap()) & 0o777, 0o600);
        let (tried, file, n_names) = try_steps(OFlags::DIRECTORY | OFlags::CREATE);
        assert_eq!((tried, n_names), (vec![OFlags::TMPFILE, named], 0));
        assert!(file.unwrap_err().to_string().contains("TMPDIR"));
    }
}
