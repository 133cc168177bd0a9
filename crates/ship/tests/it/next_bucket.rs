//! Another bucket, or the same one with other credentials, takes the place of the one in use while blocks are shipped.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use pillion_base::files::Disk;
use pillion_bucket::{Bucket, FolderBucket};
use pillion_ship::Shipper;
use pillion_testing::bucket::{Fate, PART_BYTES, PartsBucket, PartsStore};
use pillion_testing::tsdb::{Block, ledger_text, ulid};

use super::rig::Rig;

fn folder() -> (tempfile::TempDir, Arc<dyn Bucket>) {
    let dir = tempfile::tempdir().unwrap();
    let bucket = Arc::new(FolderBucket::open(dir.path(), Disk::real()).unwrap());
    (dir, bucket)
}

#[test]
fn the_block_in_hand_goes_on_and_the_next_one_goes_into_the_new_bucket() {
    let rig = Rig::new();
    for n in [1, 2] {
        rig.tsdb.add(&Block::new(n));
    }
    let (new_dir, new) = folder();
    let stored = Arc::new(Mutex::new(PartsStore::default()));
    let (slot, waiting) = (rig.config.next_bucket.clone(), Mutex::new(Some(new)));
    let judge = move |_: &str| {
        // While the first block is sent.
        waiting.lock().unwrap().take().into_iter().for_each(|new| slot.put(new));
        Fate::Done
    };
    let mut shipper =
        Shipper::new(rig.config.clone(), PartsBucket::new(&stored, judge), rig.state.clone(), rig.metrics.clone());
    let report = shipper.tick(&rig.stop);
    assert_eq!((report.n_uploaded, report.n_failed), (2, 0), "{report:?}");
    let objects: Vec<_> = stored.lock().unwrap().objects.keys().cloned().collect();
    assert!(objects.len() == 4 && objects.iter().all(|name| name.starts_with(ulid(1).as_str())), "{objects:?}");
    assert!(new_dir.path().join(ulid(2).as_str()).join("meta.json").is_file());
    assert!(!new_dir.path().join(ulid(1).as_str()).exists());
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1, 2], &[]));
}

#[test]
fn what_another_bucket_has_of_a_block_is_not_taken_for_what_the_new_one_has() {
    let rig = Rig::new();
    rig.tsdb.add(&Block::new(1));
    let stored = Arc::new(Mutex::new(PartsStore::default()));
    let n_parts = AtomicUsize::new(0);
    let cut = move |request: &str| match request.starts_with("part ") && n_parts.fetch_add(1, Ordering::SeqCst) == 2 {
        true => Fate::Refused,
        false => Fate::Done,
    };
    let mut shipper =
        Shipper::new(rig.config.clone(), PartsBucket::new(&stored, cut), rig.state.clone(), rig.metrics.clone());
    assert_eq!(shipper.tick(&rig.stop).n_failed, 1);
    let (new_dir, new) = folder();
    rig.config.next_bucket.put(new);
    let report = shipper.tick(&rig.stop);
    assert_eq!((report.n_uploaded, report.resumed_bytes), (1, 0), "{report:?}");
    for name in ["chunks/000001", "chunks/000002", "index"] {
        let local = std::fs::read(rig.tsdb.block_dir(1).join(name)).unwrap();
        assert_eq!(std::fs::read(new_dir.path().join(ulid(1).as_str()).join(name)).unwrap(), local, "{name}");
    }
}

#[test]
fn the_same_bucket_with_other_credentials_goes_on_where_the_old_one_stood() {
    let rig = Rig::new();
    rig.tsdb.add(&Block::new(1));
    let stored = Arc::new(Mutex::new(PartsStore::default()));
    let n_parts = AtomicUsize::new(0);
    let expired = move |_: &str| if n_parts.fetch_add(1, Ordering::SeqCst) < 3 { Fate::Done } else { Fate::Refused };
    let mut shipper =
        Shipper::new(rig.config.clone(), PartsBucket::new(&stored, expired), rig.state.clone(), rig.metrics.clone());
    assert_eq!(shipper.tick(&rig.stop).n_failed, 1);
    rig.config.next_bucket.put(PartsBucket::new(&stored, |_| Fate::Done));
    let report = shipper.tick(&rig.stop);
    assert_eq!(report.n_uploaded, 1, "{report:?}");
    assert!(report.resumed_bytes >= PART_BYTES, "{report:?}");
}
