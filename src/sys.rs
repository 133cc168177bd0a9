//! What needs the operating system's own words: process figures from `/proc`, the allocator, code pages.

use std::os::fd::AsRawFd;
use std::path::Path;

/// Figures about this process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessStat {
    /// User and system time since start.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_fds: i64,
    /// Soft limit of open files.
    pub max_fds: i64,
    /// Address space.
    pub virtual_bytes: i64,
    /// Memory that is really there.
    pub resident_bytes: i64,
    /// Since the Unix epoch.
    pub start_time_seconds: f64,
    /// Threads, the gRPC library's included.
    pub threads: i64,
}

/// Reads `/proc/self/stat`; `None` where it cannot be read or makes no sense.
pub fn process_stat() -> Option<ProcessStat> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command name may contain spaces and parentheses: fields are counted from the last ')'.
    let rest = text.get(text.rfind(')')? + 2..)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |idx: usize| fields.get(idx).and_then(|field| field.parse::<f64>().ok());
    let ticks = clock_ticks();
    // The kernel's own time of boot: a difference of two clocks would come out a little different at every scrape.
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot_seconds: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    let max_fds = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    Some(ProcessStat {
        cpu_seconds: (number(11)? + number(12)?) / ticks,
        open_fds: i64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()? - 1,
        max_fds: max_fds.and_then(|n| i64::try_from(n).ok()).unwrap_or(i64::MAX),
        virtual_bytes: fields.get(20)?.parse().ok()?,
        resident_bytes: fields.get(21)?.parse::<i64>().ok()? * page_bytes(),
        start_time_seconds: boot_seconds + number(19)? / ticks,
        threads: fields.get(17)?.parse().ok()?,
    })
}

/// The smallest memory limit of the control groups (v2) this process is in; `None` without one. `Units:` bytes.
pub(crate) fn memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    let dirs = root.join(path);
    let limits = dirs.ancestors().take_while(|dir| dir.starts_with(root)).flat_map(|dir| {
        ["memory.max", "memory.high"].map(|file| std::fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok())
    });
    limits.flatten().min()
}

/// Bytes that were written to a TCP socket and its peer has not acknowledged: all, and those that are on the wire. 0 where
/// that cannot be known.
pub(crate) fn unacknowledged_bytes(socket: &std::net::TcpStream) -> (u64, u64) {
    // SIOCOUTQNSD, for which libc has no name: those that have not been sent yet.
    let (all, unsent) = (queued_bytes(socket, libc::TIOCOUTQ), queued_bytes(socket, 0x894B));
    (all, all.saturating_sub(unsent))
}

fn queued_bytes(socket: &std::net::TcpStream, request: libc::Ioctl) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one int, which is there.
    #[allow(unsafe_code)]
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut bytes) };
    if result == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// How many files the process may have open once it has raised its limit; `None` without one.
pub(crate) fn file_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum
}

/// Raises the limit of open files to what the process may have: each connection takes three, each upload a few.
pub(crate) fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current == limit.maximum {
        return;
    }
    if let Err(err) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        log::warn!(err = err.to_string(); "cannot raise the limit of open files");
    }
}

/// What takes more memory than this goes back to the kernel when it is freed; messages of 1 MiB do not. By default the
/// allocator keeps what is as large as the largest that was freed, so that each large answer leaves some behind.
const LARGE_BYTES: libc::c_int = 2 * 1024 * 1024;

/// Caps the pools of the C library's allocator: by default each of the core's many small threads gets one of its own.
pub(crate) fn cap_allocator() {
    // SAFETY: mallopt only sets numbers; it is called before any other thread exists.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * LARGE_BYTES);
    }
}

/// Gives memory that is free within the allocator back to the system. It takes milliseconds, in which others wait that want
/// memory.
pub(crate) fn trim_allocator() {
    // SAFETY: it changes nothing that is in use, and may be called from any thread.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of pages of code and constants. They stay in the page cache, where the kernel can drop them, and a page that is
/// used again is mapped again: what was needed once does not count for ever.
pub(crate) fn release_clean_pages() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for (start, end) in clean_ranges(&maps) {
        // SAFETY: the range is one mapping of a file that is not writable and of which no page was ever changed here, so
        // dropping them loses nothing, and the next touch maps them from the file again.
        #[allow(unsafe_code)]
        let dropped = unsafe {
            rustix::mm::madvise(std::ptr::without_provenance_mut(start), end - start, rustix::mm::Advice::LinuxDontNeed)
        };
        if let Err(err) = dropped {
            log::debug!(err = err.to_string(); "cannot release clean pages");
            return;
        }
    }
}

/// The mappings of files that can neither be written nor have a page that was changed, as after relocation. `smaps`: of
/// proc(5).
fn clean_ranges(smaps: &str) -> Vec<(usize, usize)> {
    let mut ranges = Vec::new();
    let mut last = None;
    for line in smaps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let first = fields.next().unwrap_or_default();
        if first == "Anonymous:" && fields.next() == Some("0") {
            ranges.extend(last.take());
        } else if let Some((start, end)) = first.split_once('-') {
            let bounds = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16));
            let is_unwritable = matches!(fields.next(), Some("r-xp" | "r--p"));
            let is_file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
            last = match bounds {
                (Ok(start), Ok(end)) if is_unwritable && is_file && start < end => Some((start, end)),
                _ => None,
            };
        }
    }
    ranges
}

fn clock_ticks() -> f64 {
    u32::try_from(rustix::param::clock_ticks_per_second()).map_or(100.0, f64::from)
}

fn page_bytes() -> i64 {
    i64::try_from(rustix::param::page_size()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_released_runs_again() {
        let before = process_stat().expect("/proc/self/stat").resident_bytes;
        release_clean_pages();
        let after = process_stat().expect("/proc/self/stat").resident_bytes;
        assert!(after < before, "{before} {after}");
        assert_eq!(format!("{:?}", "still here".to_uppercase()), "\"STILL HERE\"");
    }

    #[test]
    fn only_what_nobody_has_changed_is_released() {
        let smaps = "\
55a0-55b0 r--p 0 fe:00 1 /bin/p\nRss: 4 kB\nAnonymous:             0 kB\nVmFlags: rd mr\n\
55b0-55c0 r-xp 10 fe:00 1 /bin/p\nAnonymous:             0 kB\n\
55c0-55d0 r--p 20 fe:00 1 /bin/p\nAnonymous:           348 kB\n\
55d0-55e0 rw-p 30 fe:00 1 /bin/p\nAnonymous:             0 kB\n\
55e0-55f0 rw-p 0 00:00 0 [heap]\nAnonymous:           0 kB\n\
7fff-8000 r-xp 0 00:00 0 [vdso]\nAnonymous:             0 kB\n";
        assert_eq!(clean_ranges(smaps), [(0x55a0, 0x55b0), (0x55b0, 0x55c0)]);
        assert_eq!(clean_ranges("zz-1 r-xp 0 0 0 /a\nAnonymous: 0 kB\n\nAnonymous: 0 kB\n"), []);
    }

    #[test]
    fn figures_are_plausible() {
        let stat = process_stat().expect("/proc/self/stat");
        assert!(stat.resident_bytes > 100_000 && stat.resident_bytes < stat.virtual_bytes, "{stat:?}");
        assert!(stat.threads >= 1 && stat.open_fds >= 3, "{stat:?}");
        assert!(stat.start_time_seconds > 1.6e9, "{stat:?}");
    }
}
