//! Upload limits as an operator sees them: what they hold up, and what a SIGHUP does to it.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::support::fake_prometheus::FakePrometheus;
use crate::support::sidecar::{PATIENCE, Sidecar, pause};
use pillion_testing::tsdb::{Block, Tsdb, ulid};
use tempfile::TempDir;

/// A sidecar that ships to a folder, with a file of upload limits.
struct Limited {
    tsdb: Tsdb,
    bucket: TempDir,
    limits: PathBuf,
    sidecar: Sidecar,
    _prometheus: FakePrometheus,
}

impl Limited {
    fn start(limits: &str, block: &Block) -> Self {
        let (prometheus, tsdb, bucket) = (FakePrometheus::start(), Tsdb::new(), tempfile::tempdir().unwrap());
        tsdb.add(block);
        let file = bucket.path().with_extension("limits.yml");
        std::fs::write(&file, limits).unwrap();
        let args = [
            format!("--tsdb.path={}", tsdb.path().display()),
            format!("--objstore.config=type: FILESYSTEM\nconfig:\n  directory: {}\n", bucket.path().display()),
            format!("--shipper.upload-limits-file={}", file.display()),
            "--shipper.upload-jitter=0".to_owned(),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let sidecar = Sidecar::ready(&prometheus.url(), &args);
        Limited { tsdb, bucket, limits: file, sidecar, _prometheus: prometheus }
    }

    fn change(&self, limits: &str) {
        std::fs::write(&self.limits, limits).unwrap();
        self.sidecar.signal("HUP");
    }

    /// What the bucket has of a block.
    fn stored(&self, n: u32) -> PathBuf {
        self.bucket.path().join(ulid(n).as_str())
    }

    fn wait_for(&self, path: &Path) {
        let deadline = Instant::now() + PATIENCE;
        while !path.exists() {
            assert!(Instant::now() < deadline, "{} did not appear:\n{}", path.display(), self.sidecar.log());
            pause();
        }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.limits);
    }
}

/// Names in a folder that may not be there.
fn names(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn a_rate_that_is_lifted_by_sighup_lets_the_part_in_hand_go_at_once() {
    // At this rate the block would take more than an hour.
    let block = Block { chunk_bytes: vec![4 << 20], ..Block::new(1) };
    let limited = Limited::start("rate_limit: 1KB\n", &block);
    limited.sidecar.wait_line("upload new block");
    // Bytes are on their way.
    limited.wait_for(&limited.bucket.path().join(".pillion-tmp"));
    limited.change("rate_limit: 0\n");
    limited.wait_for(&limited.stored(1).join("meta.json"));
    let sent = std::fs::read(limited.stored(1).join("chunks/000001")).unwrap();
    assert!(sent == std::fs::read(limited.tsdb.block_dir(1).join("chunks/000001")).unwrap());
}

#[test]
fn a_closed_window_sends_nothing_until_sighup_opens_it() {
    let hours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 3600;
    let at = |hour: u64| format!("{:02}:00", hour % 24);
    let closed = format!("windows: [\"{}-{}\"]\n", at(hours + 3), at(hours + 4));
    let limited = Limited::start(&closed, &Block::new(1));
    let line = limited.sidecar.wait_line("waiting for the upload window to open");
    assert!(line.contains("opens_in=2h"), "{line}");
    assert_eq!(names(&limited.stored(1)), 0);
    limited.change("windows: []\n");
    limited.wait_for(&limited.stored(1).join("meta.json"));
}
