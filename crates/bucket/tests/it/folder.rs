//! What a user sees of a FILESYSTEM bucket that others share, and of one whose file system goes away.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use pillion_base::error::{Error, Kind};
use pillion_base::files::{Disk, Op};
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_bucket::{Bucket, FolderBucket};

struct Rig {
    dir: tempfile::TempDir,
    root: PathBuf,
    stop: Stop,
    _stopper: Stopper,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let (stopper, stop) = stop_pair().unwrap();
        Rig { root: dir.path().join("nas"), dir, stop, _stopper: stopper }
    }

    fn open(&self) -> FolderBucket {
        FolderBucket::open(&self.root, Disk::real()).unwrap()
    }

    fn temp(&self, name: &str) -> PathBuf {
        self.root.join(FolderBucket::TEMP_DIR).join(name)
    }

    /// A file that another daemon, which has no locks in common with this one, has written.
    fn others(&self, name: &str) -> PathBuf {
        std::fs::create_dir_all(self.root.join(FolderBucket::TEMP_DIR)).unwrap();
        std::fs::write(self.temp(name), b"of another host").unwrap();
        self.temp(name)
    }

    /// The file system goes away; what was below it appears.
    fn unmount(&self, leaves_folder: bool) {
        std::fs::rename(&self.root, self.dir.path().join("away")).unwrap();
        if leaves_folder {
            std::fs::create_dir(&self.root).unwrap();
        }
    }

    fn mount(&self) {
        let _ = std::fs::remove_dir_all(&self.root);
        std::fs::rename(self.dir.path().join("away"), &self.root).unwrap();
    }
}

fn is_empty_or_missing(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn the_temporary_files_of_another_container_are_neither_touched_nor_published() {
    let rig = Rig::new();
    // In its container the other daemon has this process's id too.
    let theirs: Vec<PathBuf> = (0..100).map(|n| rig.others(&format!("{}-{n}", std::process::id()))).collect();
    let bucket = rig.open();
    bucket.upload_bytes("x/y", b"ours", &rig.stop).unwrap();
    assert_eq!(bucket.get("x/y", &rig.stop).unwrap(), b"ours");
    for path in theirs {
        assert_eq!(std::fs::read(&path).unwrap(), b"of another host", "{}", path.display());
    }
}

#[test]
fn what_takes_the_place_of_a_temporary_file_is_not_published() {
    let rig = Rig::new();
    let disk = Disk::watched(|step| {
        if step.op == Op::SyncFile {
            std::fs::remove_file(step.path)?;
            std::fs::write(step.path, b"of another host")?;
        }
        Ok(())
    });
    let bucket = FolderBucket::open(&rig.root, disk).unwrap();
    let err = bucket.upload_bytes("x/y", b"ours", &rig.stop).unwrap_err();
    assert_eq!(err.kind(), Kind::Retry, "{err}");
    assert!(!rig.root.join("x/y").exists());
}

#[test]
fn a_temporary_file_of_another_host_is_swept_when_nobody_has_written_it_for_a_day() {
    let rig = Rig::new();
    let name = |n: u32| format!("{:032x}-{n:032x}", 0);
    let (young, old, odd) = (rig.others(&name(1)), rig.others(&name(2)), rig.others("1-2"));
    for path in [&old, &odd] {
        let then = SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
    }
    drop(rig.open());
    assert_eq!((young.exists(), old.exists(), odd.exists()), (true, false, true));
}

#[test]
fn a_file_system_that_is_not_mounted_gets_no_object_and_the_error_says_so() {
    for leaves_folder in [false, true] {
        let rig = Rig::new();
        let bucket = rig.open();
        bucket.upload_bytes("a/x", b"1", &rig.stop).unwrap();
        rig.unmount(leaves_folder);
        for _ in 0..2 {
            let err = bucket.upload_bytes("b/x", b"1", &rig.stop).unwrap_err();
            assert_eq!((err.kind(), err.class()), (Kind::Retry, "no_bucket"), "{err}");
            assert!(err.to_string().contains(".pillion-bucket") && err.to_string().contains("mounted"), "{err}");
        }
        assert!(is_empty_or_missing(&rig.root) && rig.root.exists() == leaves_folder);
        rig.mount();
        bucket.upload_bytes("b/x", b"1", &rig.stop).unwrap();
    }
}

#[test]
fn a_file_system_that_goes_away_during_an_upload_makes_it_fail() {
    // At each step of an upload.
    for at in 1.. {
        let rig = Rig::new();
        rig.open().upload_bytes("a/x", b"1", &rig.stop).unwrap();
        let known = rig.open().check_place(None, &rig.stop).unwrap();
        let n_steps = Mutex::new(0);
        let (root, away) = (rig.root.clone(), rig.dir.path().join("away"));
        let disk = Disk::watched(move |_| {
            let mut n_steps = n_steps.lock().unwrap();
            *n_steps += 1;
            if *n_steps == at {
                std::fs::rename(&root, &away)?;
                std::fs::create_dir(&root)?;
            }
            Ok::<(), io::Error>(())
        });
        let bucket = FolderBucket::open(&rig.root, disk).unwrap();
        let stored = bucket.check_place(known.as_deref(), &rig.stop);
        let stored = stored.and_then(|_| bucket.upload_bytes("b/x", b"1", &rig.stop));
        if !rig.dir.path().join("away").exists() {
            stored.unwrap();
            assert!(at > 8, "{at}");
            return;
        }
        // Either it arrived before the file system went away, or the upload failed.
        let arrived = rig.dir.path().join("away/b/x").exists();
        assert!(stored.is_err() || arrived, "step {at}");
        assert!(!rig.root.join("b/x").exists() || stored.is_err(), "step {at}");
    }
}

#[test]
fn a_new_process_knows_the_place_that_it_is_told_of() {
    let place = |rig: &Rig, known: Option<&str>| rig.open().check_place(known, &rig.stop);
    let refused = |result: Result<Option<String>, Error>| {
        let err = result.unwrap_err();
        assert_eq!((err.kind(), err.class()), (Kind::Retry, "no_bucket"), "{err}");
        err.to_string()
    };
    // The first upload makes the folder, and the next process finds it.
    let rig = Rig::new();
    let first = place(&rig, None).unwrap().unwrap();
    assert_eq!(place(&rig, None).unwrap().as_ref(), Some(&first));
    assert_eq!(place(&rig, Some(&first)).unwrap().as_ref(), Some(&first));
    for leaves_folder in [false, true] {
        rig.unmount(leaves_folder);
        refused(place(&rig, Some(&first)));
        // Something was shipped by a version that noted no place.
        refused(place(&rig, Some("")));
        assert!(is_empty_or_missing(&rig.root));
        rig.mount();
    }
    // Another bucket is in its place.
    let marker = rig.root.join(FolderBucket::MARKER);
    std::fs::write(&marker, "another\n").unwrap();
    assert!(refused(place(&rig, Some(&first))).contains("another bucket"));
    // Whoever empties the marker says that this is right.
    std::fs::write(&marker, "").unwrap();
    let second = place(&rig, Some(&first)).unwrap().unwrap();
    assert_ne!(second, first);
    assert_eq!(place(&rig, Some(&second)).unwrap(), Some(second));

    // A bucket from before there were markers gets one, but not an empty folder.
    let rig = Rig::new();
    std::fs::create_dir_all(rig.root.join("lost+found")).unwrap();
    refused(place(&rig, Some("")));
    std::fs::create_dir_all(rig.root.join("01ARZ3NDEKTSV4RRFFQ69G5FAV")).unwrap();
    let known = place(&rig, Some("")).unwrap();
    assert_eq!(place(&rig, known.as_deref()).unwrap(), known);
}

#[test]
fn several_daemons_that_begin_at_once_agree_on_the_marker() {
    let rig = Rig::new();
    let places: Vec<_> = std::thread::scope(|scope| {
        let begun: Vec<_> = (0..8).map(|_| scope.spawn(|| rig.open().check_place(None, &rig.stop).unwrap())).collect();
        begun.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(places.iter().all(|place| place.is_some() && *place == places[0]), "{places:?}");
}

#[test]
fn the_marker_is_no_object() {
    let rig = Rig::new();
    let bucket = rig.open();
    bucket.upload_bytes("a/x", b"1", &rig.stop).unwrap();
    let mut names = Vec::new();
    bucket
        .iter(
            "",
            &mut |name| {
                names.push(name.to_owned());
                Ok(())
            },
            &rig.stop,
        )
        .unwrap();
    assert_eq!(names, ["a/"]);
    bucket.exists(FolderBucket::MARKER, &rig.stop).unwrap_err();
    bucket.delete(FolderBucket::MARKER, &rig.stop).unwrap_err();
}
