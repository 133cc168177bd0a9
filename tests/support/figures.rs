//! Figures of another process, and how they are held against their budgets.

/// Prints a figure beside its budget and fails past it.
#[allow(dead_code)] // For programs that measure.
pub fn hold(name: &str, figure: u64, budget: u64) {
    eprintln!("budget: {name} {figure} of {budget}");
    assert!(figure <= budget, "{name} is {figure}, and the budget is {budget}");
}

/// A figure of `/proc/PID/status`, in bytes if it has a unit.
pub fn status(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect(key);
    let mut words = line.split_whitespace();
    let number: u64 = words.next().unwrap().parse().unwrap();
    if words.next() == Some("kB") { number * 1024 } else { number }
}

/// Descriptors that the process has open.
pub fn n_files(pid: u32) -> u64 {
    u64::try_from(std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()).unwrap()
}
