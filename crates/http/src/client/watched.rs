//! A value that is made of files and made anew when they change. The files are looked at whenever the value is wanted,
//! which costs a stat(2) each. Only what was made whole replaces what is used: a file that is missing for a moment, or half
//! written, changes nothing, and is logged once.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use pillion_base::error::{Error, Kind, Result};
use pillion_base::stamp::{Stamp, are_unsettled};
use pillion_base::state::Published;

/// The value and its files.
pub(super) struct Watched<T> {
    /// What the log calls it.
    name: &'static str,
    paths: Vec<PathBuf>,
    make: Box<Make<T>>,
    current: Published<Current<T>>,
    /// Whoever holds it reads the files. Others use what there is meanwhile.
    watch: Mutex<Watch>,
}

/// What the files hold; `None` where that is the value it is given, which is in use.
type Make<T> = dyn Fn(Option<&T>) -> Result<Option<T>> + Send + Sync;

/// What is used now.
pub(super) struct Current<T> {
    /// Grows with each change.
    pub(super) generation: u64,
    /// Or why there is none yet.
    value: Result<Arc<T>>,
    /// What was used before, and until when.
    pub(super) before: Option<(Instant, Arc<T>)>,
}

impl<T> Current<T> {
    /// `Errors:` the files could never be used.
    pub(super) fn value(&self) -> Result<Arc<T>> {
        self.value.clone()
    }
}

struct Watch {
    stamps: Vec<Option<Stamp>>,
    is_unsettled: bool,
    /// The error that was logged last; `None` while all is well.
    complaint: Option<String>,
}

impl<T> Watched<T> {
    /// What `make` makes of the files at `paths`; it gives `None` where they hold the value that is used. That it fails now
    /// is told by [`Current::value`].
    pub(super) fn new(
        name: &'static str,
        paths: Vec<PathBuf>,
        make: impl Fn(Option<&T>) -> Result<Option<T>> + Send + Sync + 'static,
    ) -> Self {
        let stamps: Vec<_> = paths.iter().map(|path| Stamp::of(path)).collect();
        let watch = Watch { is_unsettled: are_unsettled(&stamps), stamps, complaint: None };
        let current = Current { generation: 0, value: first(make(None)), before: None };
        Watched { name, paths, make: Box::new(make), current: Published::new(current), watch: Mutex::new(watch) }
    }

    /// The value as the files have it now. `Blocks:` on the files, unless another thread reads them already.
    pub(super) fn look(&self) -> Arc<Current<T>> {
        // Nothing to look at is what most have.
        if !self.paths.is_empty() {
            match self.watch.try_lock() {
                Ok(watch) => self.read(watch, false),
                Err(TryLockError::Poisoned(watch)) => self.read(watch.into_inner(), false),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        self.current.read()
    }

    /// The same, whatever the files look like. `Blocks:` on the files.
    pub(super) fn read_again(&self) -> Arc<Current<T>> {
        if !self.paths.is_empty() {
            self.read(self.watch.lock().unwrap_or_else(PoisonError::into_inner), true);
        }
        self.current.read()
    }

    fn read(&self, mut watch: MutexGuard<'_, Watch>, is_forced: bool) {
        // Files that were replaced between two reads do not belong together, and nothing is wrong with them.
        for is_second in [false, true] {
            let stamps: Vec<_> = self.paths.iter().map(|path| Stamp::of(path)).collect();
            let is_same = stamps == watch.stamps && !watch.is_unsettled;
            if is_same && (is_second || !is_forced) {
                break;
            }
            watch.is_unsettled = are_unsettled(&stamps);
            watch.stamps = stamps;
            let current = self.current.read();
            match (self.make)(current.value.as_ref().ok().map(Arc::as_ref)) {
                Ok(newer) => return self.take(&mut watch, &current, newer),
                Err(err) if is_second || self.are_as_in(&watch) => return self.complain(&mut watch, err),
                Err(_) => {}
            }
        }
    }

    fn are_as_in(&self, watch: &Watch) -> bool {
        self.paths.iter().zip(&watch.stamps).all(|(path, stamp)| Stamp::of(path) == *stamp)
    }

    fn take(&self, watch: &mut Watch, current: &Current<T>, newer: Option<T>) {
        let was_bad = watch.complaint.take().is_some();
        match newer {
            None if was_bad => log::info!("{} is again what is in use", self.name),
            None => {}
            Some(value) => {
                let before = current.value.as_ref().ok().map(|used| (Instant::now(), Arc::clone(used)));
                let generation = current.generation + 1;
                self.current.publish(Current { generation, value: Ok(Arc::new(value)), before });
                log::info!("{} has changed and is in use", self.name);
            }
        }
    }

    fn complain(&self, watch: &mut Watch, err: Error) {
        let text = err.to_string();
        let current = self.current.read();
        if current.value.is_err() {
            // Whoever wants the value says so.
            let generation = current.generation;
            self.current.publish(Current { generation, value: Err(err.with_kind(Kind::Retry)), before: None });
        } else if watch.complaint.as_ref() != Some(&text) {
            log::error!(err = text.as_str(); "cannot use the new {}; still using the one before", self.name);
            watch.complaint = Some(text);
        }
    }
}

/// The files may be there later.
fn first<T>(made: Result<Option<T>>) -> Result<Arc<T>> {
    match made {
        Ok(Some(value)) => Ok(Arc::new(value)),
        Ok(None) => Err(Error::new(Kind::Retry, "nothing was made of the files")),
        Err(err) => Err(err.with_kind(Kind::Retry)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(path: PathBuf) -> Watched<String> {
        let paths = vec![path.clone()];
        Watched::new("text", paths, move |used: Option<&String>| {
            let text = std::fs::read_to_string(&path).map_err(|err| Error::io(&err))?;
            match text.is_empty() {
                true => Err(Error::new(Kind::Permanent, "empty")),
                false => Ok(Some(text).filter(|text| Some(text) != used)),
            }
        })
    }

    #[test]
    fn the_last_good_value_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let watched = watched(path.clone());
        let look = || {
            let current = watched.look();
            (current.generation, current.value().ok().map(|text| text.to_string()))
        };
        assert_eq!(look(), (0, None));
        std::fs::write(&path, "a").unwrap();
        assert_eq!(look(), (1, Some("a".into())));
        // As many changes as there are, within one tick of the file system's clock.
        for (generation, text) in (2..).zip(["b", "c", "d", "e"]) {
            std::fs::write(&path, text).unwrap();
            assert_eq!(look(), (generation, Some(text.into())));
        }
        std::fs::write(&path, "").unwrap();
        assert_eq!(look(), (5, Some("e".into())));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(), (5, Some("e".into())));
        std::fs::write(&path, "e").unwrap();
        assert_eq!(look(), (5, Some("e".into())));
        std::fs::write(&path, "f").unwrap();
        assert_eq!(look(), (6, Some("f".into())));
        assert_eq!(watched.look().before.as_ref().map(|(_, text)| text.to_string()), Some("e".into()));
    }
}
