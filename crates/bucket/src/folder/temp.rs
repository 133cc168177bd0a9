//! Temporary files of a folder that several daemons share, perhaps in containers and on several hosts.
//!
//! A name is made of the running kernel's id and a random number, and is created or not used at all. So nobody meets
//! another one's file, whatever process ids and locks they have in common. Never writes into, renames or removes a file
//! that it cannot show to be its own, except by [`sweep`]: of another kernel's files it removes those that nobody has
//! written for a day.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::limits;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::{Disk, Entry, Writer};

/// Hexadecimal digits of each half of a name.
const DIGITS: usize = 32;

/// Creates a temporary file in `dir` under a new name, locked where there are locks. Returns it with its path.
pub(super) fn create(disk: &Disk, dir: &Path) -> Result<(Writer, PathBuf)> {
    let mut last = None;
    for _ in 0..limits::FOLDER_TEMP_ATTEMPTS {
        let path = dir.join(format!("{}-{}", kernel_id(), random()?));
        let writer = disk.create_new(&path)?;
        // Another daemon that is just starting may have taken it for a leftover before it was locked.
        if writer.lock() != Some(false) && writer.is_named()? {
            return Ok((writer, path));
        }
        last = Some(path);
    }
    let name = last.unwrap_or_default();
    Err(Error::new(Kind::Retry, format!("{} is removed by others as soon as it is created", name.display())))
}

/// Removes what a crash of this daemon, or of another on this kernel, has left in `dir`; after a day, what other hosts
/// have left too. A file that is locked is being written.
pub(super) fn sweep(disk: &Disk, dir: &Path) -> Result<()> {
    let entries = match disk.list(dir) {
        Err(err) if err.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    let now = SystemTime::now();
    for entry in entries.iter().filter(|entry| entry.kind.is_file()) {
        if is_left(dir, entry, now) {
            disk.remove_file(&dir.join(&entry.name))?;
        }
    }
    Ok(())
}

fn is_left(dir: &Path, entry: &Entry, now: SystemTime) -> bool {
    let Some(kernel) = kernel_of(&entry.name) else { return false };
    let Ok(file) = File::open(dir.join(&entry.name)) else { return false };
    let is_free = match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => return false,
        Err(TryLockError::Error(_)) => false,
    };
    let written = file.metadata().and_then(|found| found.modified());
    let age = written.ok().and_then(|then| now.duration_since(then).ok()).unwrap_or(Duration::ZERO);
    // The lock goes with `file`, after its name: whoever has just created it sees one or the other.
    (is_free && kernel == kernel_id()) || age >= limits::FOLDER_TEMP_AGE_MAX
}

/// The id of the kernel in the name of a temporary file; `None` if it is no such name.
fn kernel_of(name: &str) -> Option<&str> {
    let is_half = |half: &str| half.len() == DIGITS && half.bytes().all(|c| c.is_ascii_hexdigit());
    let (kernel, number) = name.split_once('-')?;
    (is_half(kernel) && is_half(number)).then_some(kernel)
}

/// The id of the running kernel: all its containers have it in common, and locks of files reach as far. Where it cannot
/// be read, nobody else has this one.
fn kernel_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = read.chars().filter(char::is_ascii_hexdigit).collect();
    if digits.len() == DIGITS { digits } else { "0".repeat(DIGITS - 1) + "1" }
}

/// A number that nobody else has.
pub(super) fn random() -> Result<String> {
    let mut bytes = [0_u8; DIGITS / 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|err| Error::new(Kind::Retry, format!("no random numbers: {err}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::files::Op;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn names_are_told_from_others() {
        let name = format!("{}-{}", kernel_id(), random().unwrap());
        assert_eq!(kernel_of(&name), Some(kernel_id().as_str()));
        assert_ne!(random().unwrap(), random().unwrap());
        for other in ["", "1-0", "-", &name[1..], &name[..name.len() - 1], &name.replace('-', "+"), &format!("{name}0")]
        {
            assert_eq!(kernel_of(other), None, "{other}");
        }
    }

    #[test]
    fn leftovers_of_this_kernel_are_swept_unless_somebody_writes_them() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::real();
        let (busy, busy_path) = create(&disk, dir.path()).unwrap();
        let (left, left_path) = create(&disk, dir.path()).unwrap();
        drop(left);
        sweep(&disk, dir.path()).unwrap();
        assert_eq!((busy_path.exists(), left_path.exists()), (true, false));
        drop(busy);
        sweep(&disk, &dir.path().join("missing")).unwrap();
    }

    #[test]
    fn a_file_that_others_sweep_at_once_is_made_anew_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let sweeps = |n_max: u32| {
            let n_swept = AtomicU32::new(0);
            Disk::watched(move |step| {
                // Between the lock and the look at the name.
                if step.op == Op::Stat && step.path.exists() && n_swept.fetch_add(1, Ordering::SeqCst) < n_max {
                    std::fs::remove_file(step.path)?;
                }
                Ok(())
            })
        };
        let (_, path) = create(&sweeps(2), dir.path()).unwrap();
        assert!(path.exists());
        assert_eq!(create(&sweeps(u32::MAX), dir.path()).err().unwrap().kind(), Kind::Retry);
    }
}
