//! Room for what one call may not keep in memory: a temporary file without a name, written at its end and read anywhere.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags};

use pillion_base::error::{Context, Error, Kind, Result};

/// Bytes are gathered up to this size before they are written.
const WRITE_BUFFER_BYTES: usize = 64 * 1024;

/// What one call has put aside.
pub(super) struct Spill {
    file: File,
    /// Bytes in the file.
    written: u64,
    /// What comes behind them.
    gathered: Vec<u8>,
    bytes_max: u64,
}

impl Spill {
    /// Room for `bytes_max`. `Errors:` of the temporary folder.
    pub(super) fn new(bytes_max: u64) -> Result<Self> {
        Ok(Spill { file: unnamed_file()?, written: 0, gathered: Vec::new(), bytes_max })
    }

    /// How much lies here; the next bytes are put at this place.
    pub(super) fn len(&self) -> u64 {
        self.written + self.gathered.len() as u64
    }

    /// Bytes of memory in use.
    pub(super) fn held_bytes(&self) -> usize {
        self.gathered.capacity()
    }

    /// Adds bytes at the end. `Errors:` of the temporary folder; `Limit` past the budget.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.len() + bytes.len() as u64 > self.bytes_max {
            return Err(Error::new(
                Kind::Limit,
                format!("the answer needs more than {} bytes to be sorted; ask for less", self.bytes_max),
            ));
        }
        if self.gathered.len() + bytes.len() > WRITE_BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() < WRITE_BUFFER_BYTES {
            self.gathered.extend_from_slice(bytes);
            return Ok(());
        }
        self.file.write_all_at(bytes, self.written).context(|| explain("write"))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes everything readable. `Errors:` of the temporary folder.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.file.write_all_at(&self.gathered, self.written).context(|| explain("write"))?;
        self.written += self.gathered.len() as u64;
        self.gathered.clear();
        Ok(())
    }

    /// Fills `out` with what lies at `at`; it must have been flushed. `Errors:` of the temporary folder.
    pub(super) fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        if at + out.len() as u64 > self.written {
            return Err(Error::new(Kind::Corrupt, "temporary file is shorter than what was written"));
        }
        self.file.read_exact_at(out, at).context(|| explain("read"))
    }

    /// Forgets what lies from `len` on, so that its room is used again.
    pub(super) fn truncate(&mut self, len: u64) {
        self.gathered.truncate(usize::try_from(len.saturating_sub(self.written)).unwrap_or(usize::MAX));
        self.written = self.written.min(len);
    }
}

fn explain(verb: &str) -> String {
    format!("{verb} a temporary file in {} (TMPDIR chooses the folder)", std::env::temp_dir().display())
}

/// A file without a name, which is gone when it is closed, even after a crash.
fn unnamed_file() -> Result<File> {
    let dir = std::env::temp_dir();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(&dir, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(std::io::Error::from)
        .context(|| explain("create"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_aside_comes_back_and_its_room_is_used_again() {
        let mut spill = Spill::new(u64::MAX).unwrap();
        let (small, large) = (vec![7; 1000], vec![9; 2 * WRITE_BUFFER_BYTES]);
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
    }

    #[test]
    fn the_budget_is_an_error_that_says_what_to_do() {
        let mut spill = Spill::new(100).unwrap();
        spill.append(&[0; 100]).unwrap();
        let err = spill.append(&[0]).unwrap_err();
        assert_eq!((err.kind(), spill.len()), (Kind::Limit, 100));
        assert!(err.to_string().ends_with("ask for less"), "{err}");
        spill.truncate(10);
        spill.append(&[0; 90]).unwrap();
    }
}
