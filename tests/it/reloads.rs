//! What takes effect while the sidecar runs: another bucket, other limits of calls, and what a broken file does.

use std::path::Path;

use pillion_testing::tsdb::{Block, Tsdb, ulid};

use crate::support::fake_prometheus::{FakePrometheus, Read_, series};
use crate::support::sidecar::{PATIENCE, Sidecar, pause};
use crate::support::store_client::{Store, request};

const SUCCESSFUL: &str = "pillion_config_last_reload_successful";

fn bucket(dir: &Path) -> String {
    format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", dir.display())
}

fn wait_for(path: &Path, sidecar: &Sidecar) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !path.is_file() {
        assert!(std::time::Instant::now() < deadline, "{} did not come:\n{}", path.display(), sidecar.log());
        pause();
    }
}

#[test]
fn the_next_block_goes_into_the_bucket_of_the_file_as_it_is_now() {
    let prometheus = FakePrometheus::start();
    let (tsdb, dir) = (Tsdb::new(), tempfile::tempdir().unwrap());
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let file = dir.path().join("bucket.yml");
    std::fs::write(&file, bucket(&one)).unwrap();
    tsdb.add(&Block::new(1));
    let args = [format!("--tsdb.path={}", tsdb.path().display()), format!("--objstore.config-file={}", file.display())];
    let sidecar = Sidecar::ready(&prometheus.url(), &args.each_ref().map(String::as_str));
    wait_for(&one.join(ulid(1).as_str()).join("meta.json"), &sidecar);
    // Noticed without a signal, and harmless.
    std::fs::write(&file, "type: FILESYSTEM\nconfig: {}\n").unwrap();
    sidecar.wait_metric(SUCCESSFUL, |value| value == 0.0);
    let line = sidecar.wait_line("reloading the bucket configuration failed");
    assert!(line.contains("directory"), "{line}");
    std::fs::write(&file, bucket(&two)).unwrap();
    sidecar.wait_metric(SUCCESSFUL, |value| value == 1.0);
    tsdb.add(&Block::new(2));
    wait_for(&two.join(ulid(2).as_str()).join("meta.json"), &sidecar);
    assert!(!two.join(ulid(1).as_str()).exists() && !one.join(ulid(2).as_str()).exists());
}

#[test]
fn limits_of_calls_change_for_the_calls_that_begin_then() {
    let prometheus = FakePrometheus::start();
    let frames = (0..3).map(|n: u32| series(&[("job", "x"), ("n", &n.to_string())], &[(1, 2, 1, b"chunk")]));
    let frames: Vec<_> = frames.collect();
    prometheus.set(|state| state.read = Read_::Frames(frames));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("limits.yml");
    std::fs::write(&file, "request_series: 2\n").unwrap();
    let sidecar = Sidecar::ready(&prometheus.url(), &[&format!("--store.limits.file={}", file.display())]);
    let store = Store::connect(sidecar.grpc);
    let ask = request(&[("job", "=", "x")]);
    let refused = store.series(&ask);
    assert_eq!(refused.code(), 8, "RESOURCE_EXHAUSTED");
    std::fs::write(&file, "request_series: 3\n").unwrap();
    sidecar.signal("HUP");
    sidecar.wait_line("limits of calls: the change is in use");
    assert_eq!(store.series(&ask).ok().series.len(), 3);
    std::fs::write(&file, "request_series: many\n").unwrap();
    sidecar.signal("HUP");
    let line = sidecar.wait_line("reloading the limits of calls failed");
    assert!(line.contains("limits.yml") && line.contains("line 1"), "{line}");
    assert_eq!(store.series(&ask).ok().series.len(), 3);
}
