//! Reloads by signal, to a process that ends by it.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pillion_base::error::Error;
use pillion_reload::{Loaded, Method};

use crate::rig::{PATIENCE, Rig, pause};

const BEFORE_S: i64 = 1_700_000_000;

/// A program of this name, which does nothing until a signal ends it.
fn start(rig: &Rig, name: &str) -> Child {
    let program = rig.path(name);
    std::fs::copy("/bin/sleep", &program).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Command::new(&program).arg("3600").spawn() {
            Ok(child) => return child,
            // Another test that forks just now has the file open for writing.
            Err(err) => assert!(Instant::now() < deadline, "{err}"),
        }
        pause();
    }
}

#[test]
fn the_process_gets_the_signal_and_prometheus_says_that_it_has_reloaded() {
    let mut rig = Rig::with("in.yml", "", &[]);
    rig.write("in.yml", "1");
    // Longer than what the kernel keeps of a name.
    let name = format!("a-prometheus-of-test-{}", std::process::id());
    let child = Arc::new(Mutex::new(start(&rig, &name)));
    let asked = child.clone();
    let loaded = move || {
        let status = asked.lock().unwrap().try_wait().map_err(Error::from)?;
        Ok(Loaded { is_ok: true, at_s: status.map_or(BEFORE_S, |_| BEFORE_S + 1) })
    };
    rig.set_method(Method::Signal { process_name: name, loaded: Box::new(loaded) });
    rig.start();
    rig.until("loaded", |metrics| metrics.last_reload_successful.get() == 1);
    let status = child.lock().unwrap().wait().unwrap();
    assert_eq!(status.signal(), Some(1));
    // Now there is none.
    rig.write("in.yml", "2");
    rig.until("failed", |metrics| metrics.reloads_failed.get() == 1);
    rig.until("shown", |_| rig.failing("process") == 1);
}

#[test]
fn the_stop_ends_the_wait_for_prometheus() {
    let mut rig = Rig::with("in.yml", "", &[]);
    rig.write("in.yml", "1");
    let name = format!("a-prometheus-that-is-stopped-{}", std::process::id());
    let mut child = start(&rig, &name);
    let loaded = || Ok(Loaded { is_ok: true, at_s: BEFORE_S });
    rig.set_method(Method::Signal { process_name: name, loaded: Box::new(loaded) });
    rig.start();
    assert_eq!(child.wait().unwrap().signal(), Some(1));
    let begun = Instant::now();
    rig.stop();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!((rig.metrics.reloads.get(), rig.metrics.reloads_failed.get()), (1, 0));
}
