//! Figures of another process, from `/proc`, and a limit on its memory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a process has used at some moment.
pub struct Before {
    pid: u32,
    /// Resident memory. `Units:` bytes.
    pub rss_bytes: u64,
    cpu_seconds: f64,
}

/// What it has used since.
pub struct Used {
    pub cpu_seconds: f64,
    /// The most that was resident at once. `Units:` bytes.
    pub peak_rss_bytes: u64,
}

impl Before {
    /// From now on the peak counts anew.
    pub fn of(pid: u32) -> Self {
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        Before { pid, rss_bytes: status_bytes(pid, "VmRSS"), cpu_seconds: cpu_seconds(pid) }
    }

    pub fn used(&self) -> Used {
        Used { cpu_seconds: cpu_seconds(self.pid) - self.cpu_seconds, peak_rss_bytes: status_bytes(self.pid, "VmHWM") }
    }
}

/// User and system time of a process, in steps of the kernel's clock tick; 0 when it is gone.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |idx: usize| fields.get(idx).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    (ticks(11) + ticks(12)) as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn status_bytes(pid: u32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Waits until a process that has just been busy rests, so that what it does last is counted.
pub fn settle(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut last = cpu_seconds(pid);
    while Instant::now() < deadline {
        let (_keep, never) = crossbeam_channel::bounded::<()>(0);
        let _ = never.recv_timeout(Duration::from_millis(30));
        let now = cpu_seconds(pid);
        if now == last {
            return;
        }
        last = now;
    }
}

/// A control group whose processes may hold only so much memory; it goes with the value, after its processes.
pub struct MemoryLimit(PathBuf);

impl MemoryLimit {
    /// Puts a process under a limit, with either version of control groups.
    ///
    /// `Errors:` why this machine cannot do it; it takes a writable cgroup file system.
    pub fn put(pid: u32, bytes: u64) -> Result<Self, String> {
        let mut why = String::from("there is no memory controller");
        for (root, file) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
            let limit = MemoryLimit(Path::new(root).join(format!("pillion-bench-{pid}")));
            let made = std::fs::create_dir(&limit.0)
                .and_then(|()| std::fs::write(limit.0.join(file), bytes.to_string()))
                .and_then(|()| std::fs::write(limit.0.join("cgroup.procs"), pid.to_string()));
            match made {
                Ok(()) => return Ok(limit),
                Err(err) => why = err.to_string(),
            }
        }
        Err(why)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
