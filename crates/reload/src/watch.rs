//! inotify: tells that something has changed with the configuration or the rules, never what. Reads no file.
//!
//! Only folders are watched, never files, because a file that is replaced takes its watch with it. Each folder on the way to a
//! file is watched for the names that matter in it, so that a swapped link, an editor that renames, and a folder that is made
//! anew are all seen.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::LOG_TARGET;
use crate::limits;
use crate::metrics::ReloadMetrics;
use crate::trail;
use crate::tree::{self, Found};
use pillion_base::error::{Context, Error, Result};
use pillion_base::files::Disk;
use pillion_base::stop::Stop;
use pillion_base::wake::Wake;

/// What tells that a name leads elsewhere, or nowhere.
const NAMES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);
/// What tells in addition that the content of a file may have changed. Each write counts, so that a long one is waited for.
const CONTENT: WatchFlags = NAMES.union(WatchFlags::CLOSE_WRITE).union(WatchFlags::MODIFY).union(WatchFlags::ATTRIB);

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Something that matters has changed.
    Changed,
    /// The time is over.
    Passed,
    /// The stop has begun.
    Stopped,
}

/// The names that matter in a watched folder.
enum Interest {
    All,
    Only(BTreeSet<OsString>),
}

/// What is watched.
pub(crate) struct Watch {
    disk: Disk,
    files: Vec<PathBuf>,
    rule_dirs: Vec<PathBuf>,
    /// Somebody asks for a look.
    pub(crate) wake: Arc<Wake>,
    /// Names of what we write ourselves, which is no change: one that cannot be written would be tried without end.
    own: Vec<OsString>,
    /// `None` while the system gives none.
    queue: Option<OwnedFd>,
    watched: HashMap<i32, Interest>,
    /// Complaints of the last time, which are not repeated.
    said: BTreeSet<String>,
    metrics: ReloadMetrics,
}

/// How the watches were set.
pub(crate) struct Armed {
    /// Files and rule dirs that are not there.
    pub(crate) n_missing: usize,
    /// Whether every change will be noticed.
    pub(crate) is_whole: bool,
}

impl Watch {
    /// Nothing is watched yet. All paths are absolute.
    pub(crate) fn new(
        disk: Disk,
        files: Vec<PathBuf>,
        rule_dirs: Vec<PathBuf>,
        own: &[PathBuf],
        wake: Arc<Wake>,
        metrics: ReloadMetrics,
    ) -> Self {
        let own = own.iter().filter_map(|path| path.file_name().map(OsStr::to_owned)).collect();
        Watch {
            disk,
            files,
            rule_dirs,
            wake,
            own,
            queue: None,
            watched: HashMap::new(),
            said: BTreeSet::new(),
            metrics,
        }
    }

    /// Watches what the paths lead through now. To be called before the files are read, so that no change is missed.
    pub(crate) fn arm(&mut self) -> Armed {
        let mut complaints = BTreeSet::new();
        if self.queue.is_none() {
            match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
                Ok(queue) => self.queue = Some(queue),
                Err(err) => {
                    complaints.insert(format!("no inotify: {}{}", std::io::Error::from(err), hint(err)));
                }
            }
        }
        let mut arming = Arming { queue: self.queue.as_ref(), watched: HashMap::new(), complaints, n_missing: 0 };
        for file in &self.files {
            arming.file(file);
        }
        for dir in &self.rule_dirs {
            arming.rule_dir(&self.disk, dir);
        }
        let Arming { watched, complaints, n_missing, .. } = arming;
        if let Some(queue) = &self.queue {
            for old in self.watched.keys().filter(|old| !watched.contains_key(old)) {
                // It is gone already if its folder is.
                let _ = inotify::remove_watch(queue, *old);
            }
        }
        self.watched = watched;
        for complaint in complaints.difference(&self.said) {
            self.metrics.watch_errors.inc();
            log::error!(target: LOG_TARGET, err = complaint.as_str(); "watch error");
        }
        let is_whole = complaints.is_empty();
        self.said = complaints;
        self.metrics.watches.set(i64::try_from(self.watched.len()).unwrap_or(i64::MAX));
        self.metrics.missing_paths.set(i64::try_from(n_missing).unwrap_or(i64::MAX));
        Armed { n_missing, is_whole }
    }

    /// Waits for a change. `Blocks:` up to `time`, for ever without one.
    pub(crate) fn wait(&mut self, time: Option<Duration>, stop: &Stop) -> Result<Woken> {
        let deadline = time.and_then(|time| Instant::now().checked_add(time));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = vec![
                PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.wake.fd(), PollFlags::IN),
            ];
            fds.extend(self.queue.as_ref().map(|queue| PollFd::new(queue, PollFlags::IN)));
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(err) => return Err(Error::from(std::io::Error::from(err))).context(|| "wait for changes"),
            }
            if stop.is_stopped() {
                return Ok(Woken::Stopped);
            }
            // Both are taken, so that neither wakes again.
            let is_asked = self.wake.clear();
            if self.read_events() > 0 || is_asked {
                return Ok(Woken::Changed);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Woken::Passed);
            }
        }
    }

    /// Takes the events that have come; how many of them matter.
    fn read_events(&mut self) -> u64 {
        let Some(queue) = &self.queue else { return 0 };
        let mut buffer = [MaybeUninit::uninit(); limits::EVENT_BUFFER_BYTES];
        let mut reader = Reader::new(queue, &mut buffer);
        let (mut n_read, mut n_relevant) = (0, 0);
        // The rest, if there is more, is taken at the next wait; but what was taken from the system is nowhere else.
        while n_read < limits::EVENTS_MAX || !reader.is_buffer_empty() {
            n_read += 1;
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(err) => {
                    self.metrics.watch_errors.inc();
                    log::error!(target: LOG_TARGET, err = std::io::Error::from(err).to_string(); "watch error");
                    break;
                }
            };
            let is_lost = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            if is_lost {
                self.metrics.watch_errors.inc();
                log::warn!(target: LOG_TARGET, err = "more changes than the system keeps; everything is looked at again"; "watch error");
            }
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            let is_gone = event.events().contains(ReadFlags::IGNORED);
            let is_relevant = is_lost
                || match (self.watched.get(&event.wd()), name) {
                    (None, _) => false,
                    (Some(Interest::Only(names)), Some(name)) => names.contains(name),
                    (Some(Interest::All), Some(name)) if self.own.iter().any(|own| own == name) => false,
                    // Of the folder itself: it was removed, renamed, or its mode has changed.
                    (Some(Interest::All), _) | (Some(_), None) => true,
                };
            if is_gone {
                self.watched.remove(&event.wd());
            }
            n_relevant += u64::from(is_relevant);
        }
        self.metrics.watch_events.inc_by(n_relevant);
        n_relevant
    }
}

/// Watches while they are set.
struct Arming<'a> {
    queue: Option<&'a OwnedFd>,
    watched: HashMap<i32, Interest>,
    complaints: BTreeSet<String>,
    n_missing: usize,
}

impl Arming<'_> {
    /// Watches all that leads to a file.
    fn file(&mut self, path: &Path) {
        if self.follow(path, CONTENT).is_none() {
            self.n_missing += 1;
        }
    }

    /// Watches all that leads to a rule dir, all that is in it, and where its links lead.
    fn rule_dir(&mut self, disk: &Disk, path: &Path) {
        let Some(root) = self.follow(path, CONTENT) else {
            self.n_missing += 1;
            return;
        };
        if !root.is_dir() {
            return;
        }
        let walked = tree::walk(disk, &root, &mut |path, found| {
            match found {
                Found::Folder => self.add(path, CONTENT, None),
                Found::Entry(kind) if kind.is_symlink() => drop(self.follow(path, CONTENT)),
                Found::Entry(_) => {}
            }
            Ok(())
        });
        if let Err(err) = walked {
            self.complaints.insert(err.to_string());
        }
    }

    /// Watches the names on the way of `path`, the last one for `last`; where it leads, if anywhere.
    fn follow(&mut self, path: &Path, last: WatchFlags) -> Option<PathBuf> {
        let trail = trail::follow(path);
        let n_steps = trail.steps.len();
        for (idx, (dir, name)) in trail.steps.into_iter().enumerate() {
            let flags = if idx + 1 == n_steps { last } else { NAMES };
            self.add(&dir, flags, Some(name));
        }
        trail.end
    }

    /// Watches a folder for a name, or for all.
    fn add(&mut self, dir: &Path, flags: WatchFlags, name: Option<OsString>) {
        let Some(queue) = self.queue else { return };
        // The folder may be watched for other names already.
        let flags_here = flags | WatchFlags::ONLYDIR | WatchFlags::MASK_ADD;
        match (inotify::add_watch(queue, dir, flags_here), name) {
            (Ok(wd), None) => drop(self.watched.insert(wd, Interest::All)),
            (Ok(wd), Some(name)) => match self.watched.entry(wd).or_insert_with(|| Interest::Only(BTreeSet::new())) {
                Interest::All => {}
                Interest::Only(names) => drop(names.insert(name)),
            },
            // Gone meanwhile, which the folder above tells.
            (Err(Errno::NOENT | Errno::NOTDIR), _) => {}
            // Nobody may read the folders of other people; that they are swapped is rare, and found by the next check.
            (Err(Errno::ACCESS), _) if !flags.contains(CONTENT) => {}
            // One line, and not one for each folder.
            (Err(Errno::NOSPC), _) => {
                let text = format!("more folders than the system lets be watched{}", hint(Errno::NOSPC));
                self.complaints.insert(text);
            }
            (Err(err), _) => {
                let err_text = std::io::Error::from(err);
                self.complaints.insert(format!("watch {}: {err_text}{}", dir.display(), hint(err)));
            }
        }
    }
}

/// What to change when the system's limits are reached.
fn hint(err: Errno) -> &'static str {
    match err {
        Errno::NOSPC => "; a larger fs.inotify.max_user_watches (sysctl) helps",
        Errno::MFILE => "; a larger fs.inotify.max_user_instances (sysctl) helps",
        _ => "",
    }
}
