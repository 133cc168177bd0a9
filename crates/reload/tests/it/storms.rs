//! Many changes at once: they make one reload, and none is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pillion_base::threads::spawn_thread;

use crate::rig::{Rig, pause};

#[test]
fn two_hundred_files_are_one_reload() {
    let mut rig = Rig::with("", "", &["rules"]);
    rig.config.debounce = Duration::from_secs(1);
    rig.mkdir("rules");
    rig.start_watching();
    for n in 0..200 {
        rig.write(&format!("rules/{n}.yml"), &n.to_string());
    }
    rig.wait_loaded();
    rig.no_reload(|| rig.write("rules/0.yml", "0"));
    assert_eq!(rig.metrics.reloads.get(), 1);
}

#[test]
fn changes_without_end_are_loaded_too() {
    let mut rig = Rig::with("", "", &["rules"]);
    // Far longer than the pauses of the writer.
    rig.config.debounce = Duration::from_millis(100);
    rig.mkdir("rules");
    rig.start_watching();
    let path = rig.path("rules/a.yml");
    let is_over = Arc::new(AtomicBool::new(false));
    let seen = is_over.clone();
    let begun = Instant::now();
    let writer = spawn_thread("writer", None, move || {
        let mut n = 0_u64;
        while !seen.load(Ordering::Relaxed) {
            n += 1;
            std::fs::write(&path, n.to_string()).unwrap();
            pause();
        }
    })
    .unwrap();
    rig.wait_asked();
    let took = begun.elapsed();
    is_over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(took >= Duration::from_millis(100), "{took:?}");
    rig.write("rules/a.yml", "the last one");
    rig.until("loaded", |metrics| metrics.reloads.get() >= 2);
}

/// The kernel keeps some events only and says that it has dropped others.
#[test]
fn more_changes_than_the_system_keeps() {
    let limit: usize =
        std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let mut rig = Rig::with("", "", &["rules"]);
    rig.mkdir("rules");
    rig.start_watching();
    let (release, held) = crossbeam_channel::bounded::<()>(1);
    rig.answer(move || {
        let _ = held.recv();
        Ok(())
    });
    rig.write("rules/first.yml", "1");
    rig.wait_asked();
    // Two events each, that are not alike, and of two lengths, so that no buffer ends with the last of them.
    let (a, b) = (rig.path("rules/a"), rig.path("rules/b-with-a-longer-name"));
    std::fs::write(&a, "x").unwrap();
    for n in 0..limit {
        if n % 2 == 0 { std::fs::rename(&a, &b).unwrap() } else { std::fs::rename(&b, &a).unwrap() }
    }
    // A folder of which no event tells.
    rig.mkdir("rules/late");
    rig.write("rules/late/a.yml", "late");
    drop(release);
    rig.until("told", |metrics| metrics.watch_errors.get() == 1);
    rig.wait_asked();
    rig.until("loaded", |metrics| metrics.reloads.get() >= 2 && metrics.last_reload_successful.get() == 1);
    // It is watched from now on.
    let before = rig.metrics.reloads.get();
    rig.write("rules/late/a.yml", "later");
    rig.until("loaded again", |metrics| metrics.reloads.get() > before);
}
