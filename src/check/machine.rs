//! What the machine gives the process: open files, memory, a folder for temporary files. Changes nothing but a temporary
//! file that is gone at once.

use super::findings::Level;
use super::parts::Report;
use crate::cli::Config;
use crate::{limits, sys};
use pillion_base::size::ByteSize;
use pillion_read::store;

/// Each connection takes three files, and uploads and temporary files some more.
const FILES_MIN: u64 = 3 * limits::GRPC_CONNECTIONS_MAX as u64 + 256;
/// Below this the limits of calls, which are there for the largest answers, do not fit.
const MEMORY_MIN: ByteSize = ByteSize(64 << 20);

/// Looks at the limits of this process, which are those of the sidecar only where both are started in the same way.
pub(super) fn look(config: &Config, report: &Report) {
    match sys::file_limit() {
        Some(n_max) if n_max < FILES_MIN => report.warning(
            format!("no more than {n_max} files may be open, and {FILES_MIN} are needed with many connections"),
            "raise the limit (systemd: LimitNOFILE, else ulimit -n)",
        ),
        Some(n_max) => report.ok(format!("{n_max} files may be open")),
        None => report.ok("any number of files may be open"),
    }
    match sys::memory_limit() {
        Some(bytes) if bytes < MEMORY_MIN.0 => report.warning(
            format!("the memory limit is {bytes} bytes, which is little for large answers"),
            "raise it to 64 MiB or more (systemd: MemoryMax)",
        ),
        Some(bytes) => report.ok(format!("the memory limit is {bytes} bytes")),
        None => report.ok("there is no memory limit"),
    }
    let temporary = std::env::temp_dir();
    let is_below = |dir: &std::path::Path| Some(temporary.canonicalize().ok()?.starts_with(dir.canonicalize().ok()?));
    if is_below(&config.tsdb_path).unwrap_or(false) {
        report.warning(
            format!("temporary files would lie in {}, which is Prometheus's data folder", temporary.display()),
            "set TMPDIR to another folder",
        );
        return;
    }
    match store::try_temporary_folder() {
        Ok(()) => report.ok(format!("temporary files can be made in {}", temporary.display())),
        Err(err) => report.failed(
            Level::Warning,
            &err,
            "set TMPDIR to a folder that can be written; without one, large answers that have to be sorted are refused",
        ),
    }
}
