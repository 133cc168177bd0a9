//! What a user sees of `--dry-run`: the sidecar serves as usual, and neither data folder nor bucket is touched.

use crate::support::fake_prometheus::FakePrometheus;
use crate::support::sidecar::Sidecar;
use pillion_testing::tsdb::{Block, Tsdb, snapshot, ulid};

#[test]
fn it_serves_says_what_it_would_upload_and_touches_nothing() {
    let (prometheus, tsdb, bucket) = (FakePrometheus::start(), Tsdb::new(), tempfile::tempdir().unwrap());
    for n in [1, 2] {
        tsdb.add(&Block::new(n));
    }
    tsdb.add(&Block { n_samples: 0, ..Block::new(3) });
    let before = (snapshot(tsdb.path()), snapshot(bucket.path()));
    let config = format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {:?}}}}}", bucket.path());
    let data = format!("--tsdb.path={}", tsdb.path().display());
    let sidecar = Sidecar::ready(&prometheus.url(), &[&config, &data, "--dry-run"]);
    for (n, text) in [(1, "bytes=4200"), (2, "bytes=4200"), (3, "reason=\"it has no samples\"")] {
        let would = if n == 3 { "would not upload block" } else { "would upload block" };
        let is_it = |line: &str| line.contains(would) && line.contains(ulid(n).as_str()) && line.contains(text);
        while !is_it(&sidecar.wait_line("dry run: would")) {}
    }
    sidecar.wait_line("would_upload=2 bytes=8400 others=1");
    assert!(sidecar.log().contains("dry run: nothing is uploaded"), "{}", sidecar.log());
    // Queries are answered as ever.
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_pillion"))
        .args(["info", &format!("--store={}", sidecar.grpc)])
        .output()
        .unwrap();
    assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("eu-west"), "{out:?}");
    assert_eq!(sidecar.metric("thanos_shipper_uploads_total"), 0.0);
    assert_eq!(sidecar.stop().code(), Some(0));
    assert_eq!((snapshot(tsdb.path()), snapshot(bucket.path())), before);
}

#[test]
fn a_bucket_folder_that_is_not_there_is_not_made() {
    let (prometheus, tsdb, dir) = (FakePrometheus::start(), Tsdb::new(), tempfile::tempdir().unwrap());
    tsdb.add(&Block::new(1));
    let bucket = dir.path().join("bucket");
    let config = format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {bucket:?}}}}}");
    let data = format!("--tsdb.path={}", tsdb.path().display());
    let before = snapshot(tsdb.path());
    let sidecar = Sidecar::ready(&prometheus.url(), &[&config, &data, "--dry-run"]);
    sidecar.wait_line("dry run: would upload block");
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(!bucket.exists());
    assert_eq!(snapshot(tsdb.path()), before);
}
