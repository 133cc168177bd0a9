//! Finds processes by name in /proc, and sends them SIGHUP.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, Signal, getpid, kill_process};

use crate::LOG_TARGET;
use pillion_base::error::{Context, Error, Kind, Result};

/// Longest name that the kernel keeps of a process, in bytes.
const COMM_BYTES_MAX: usize = 15;
/// What the kernel adds to the path of a program that was replaced.
const DELETED: &[u8] = b" (deleted)";

/// Sends SIGHUP to every process of this name.
///
/// `Errors:` of class `process`: there is none, or it may not be signalled.
///
/// `Differs:` Thanos looks at the first 15 bytes of the name only, and takes the first process (D-35).
pub(crate) fn hang_up(name: &str) -> Result<()> {
    let found = find(Path::new("/proc"), name, getpid());
    if found.is_empty() {
        let text = format!(
            "failed to find process matching {name:?}; change --reloader.process-name, or let both processes see each \
             other (one PID namespace)"
        );
        return Err(Error::new(Kind::Retry, text).classed("process"));
    }
    if found.len() > 1 {
        log::warn!(target: LOG_TARGET, name = name, processes = found.len(); "several processes have the name; all of them get the signal");
    }
    for pid in found {
        kill_process(pid, Signal::HUP).map_err(std::io::Error::from).map_err(Error::from).map_err(|err| {
            let text =
                format!("failed to send SIGHUP to process {pid}; run as its user, or use --reloader.method=http");
            err.context(text).classed("process")
        })?;
    }
    Ok(())
}

/// The processes whose program has this file name; where there is none, those that call themselves so.
fn find(proc: &Path, name: &str, ours: Pid) -> Vec<Pid> {
    let (mut by_program, mut by_name) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(proc).into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|pid| *pid != ours) else { continue };
        let dir = entry.path();
        if program(&dir).as_deref() == Some(name.as_bytes()) {
            by_program.push(pid);
        } else if called(&dir, name) {
            by_name.push(pid);
        }
    }
    if by_program.is_empty() { by_name } else { by_program }
}

/// The file name of a process's program, as far as this user may know it.
fn program(dir: &Path) -> Option<Vec<u8>> {
    let path = std::fs::read_link(dir.join("exe")).ok()?;
    let name = path.file_name().map(OsStr::as_bytes)?;
    Some(name.strip_suffix(DELETED).unwrap_or(name).to_owned())
}

/// Whether a process that lives calls itself so. A name that was cut fits every name that begins with it.
fn called(dir: &Path, name: &str) -> bool {
    let Ok(comm) = std::fs::read(dir.join("comm")) else { return false };
    let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
    let name = name.as_bytes();
    let fits = comm == name.get(..COMM_BYTES_MAX).unwrap_or(name);
    fits && !is_zombie(dir).unwrap_or(true)
}

/// Whether a process has ended and only its parent does not know yet.
fn is_zombie(dir: &Path) -> Result<bool> {
    let stat = std::fs::read(dir.join("stat")).context(|| "read stat")?;
    // `pid (any name) state …`
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|at| stat.get(at + 2));
    Ok(matches!(state, Some(b'Z' | b'X')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn by_program_and_by_name() {
        let proc = tempfile::tempdir().unwrap();
        let add = |pid: &str, comm: &str, state: char, exe: Option<&str>| {
            let dir = proc.path().join(pid);
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
            std::fs::write(dir.join("stat"), format!("{pid} ({comm}) {state} 1 1")).unwrap();
            if let Some(exe) = exe {
                symlink(exe, dir.join("exe")).unwrap();
            }
        };
        add("1", "prometheus", 'S', Some("/usr/bin/dash"));
        add("2", "prometheus", 'S', Some("/opt/prometheus"));
        add("3", "main", 'S', Some("/opt/prometheus (deleted)"));
        add("4", "elsewhere", 'S', None);
        add("5", "a) very (long n", 'S', None);
        add("6", "elsewhere", 'Z', None);
        add("7", "elsewhere", 'S', None);
        add("self", "elsewhere", 'S', None);
        let check = |name: &str, expected: &[i32]| {
            let ours = Pid::from_raw(7).unwrap();
            let mut found: Vec<i32> =
                find(proc.path(), name, ours).iter().map(|pid| pid.as_raw_nonzero().get()).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{name}");
        };
        check("prometheus", &[2, 3]);
        check("dash", &[1]);
        check("elsewhere", &[4]);
        check("a) very (long name", &[5]);
        check("prom", &[]);
        check("", &[]);
    }

    #[test]
    fn nobody_has_the_name() {
        let err = hang_up("there is no such process").unwrap_err();
        assert_eq!(err.class(), "process");
        let start = "failed to find process matching \"there is no such process\"; change --reloader.process-name";
        assert!(err.to_string().starts_with(start), "{err}");
    }
}
