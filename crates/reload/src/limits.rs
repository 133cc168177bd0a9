//! Limits of the reloader: each with its number, its unit and its reason. Pure.

use std::time::Duration;

/// Largest configuration that is read, and that comes out of a compressed one, in bytes. A large Kubernetes setup has 5 MiB.
pub(crate) const CONFIG_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Wait after a reload that failed, where none is given. `Source:` Thanos, the default of its flag.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Changes that never settle are applied after so many times the debounce.
pub(crate) const SETTLE_FACTOR: u32 = 10;
/// While changes settle events are read so often, and not one by one.
pub(crate) const EVENTS_INTERVAL: Duration = Duration::from_millis(20);
/// How often files are looked at which cannot be watched, or could not be read.
pub(crate) const UNWATCHED_INTERVAL: Duration = Duration::from_secs(30);
/// A failure that repeats is logged so often.
pub(crate) const REPEAT_INTERVAL: Duration = Duration::from_secs(300);
/// Longest wait for Prometheus to say that it has reloaded after a signal. Large ones take ten seconds.
pub(crate) const SIGNAL_TIMEOUT: Duration = Duration::from_secs(60);
/// Shortest and longest wait between two questions whether it has.
pub(crate) const SIGNAL_POLL_MIN: Duration = Duration::from_millis(50);
pub(crate) const SIGNAL_POLL_MAX: Duration = Duration::from_secs(1);
/// Folders below a rule dir, and how deep, that are looked at; more are a mount that leads into itself.
pub(crate) const FOLDERS_MAX: usize = 10_000;
pub(crate) const DEPTH_MAX: usize = 64;
/// Symbolic links on the way to a file. `Source:` Linux.
pub(crate) const LINKS_MAX: usize = 40;
/// Buffer for events; one takes at most 16 bytes and a name.
pub(crate) const EVENT_BUFFER_BYTES: usize = 16 * 1024;
/// Events that are read in one go: as many as the kernel holds by default.
pub(crate) const EVENTS_MAX: usize = 16 * 1024;
