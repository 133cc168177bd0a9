//! Healthy blocks that were lost, or never sent, in silence: each way has its test.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::rig::{Rig, failing};
use pillion_base::error::Kind;
use pillion_base::files::{Disk, Op};
use pillion_ship::TickReport;
use pillion_testing::tsdb::{BLOCK_MS, Block, ledger_text, ulid};

/// A block that Prometheus has compacted of others.
fn compacted(n: u32, level: i64, sources: &[u32]) -> Block {
    let first = i64::from(*sources.iter().min().unwrap());
    Block {
        level,
        sources: sources.to_vec(),
        min_time_ms: first * BLOCK_MS,
        max_time_ms: (first + 1) * BLOCK_MS,
        ..Block::new(n)
    }
}

// Compacted before it was shipped.

#[test]
fn a_block_compacted_of_out_of_order_samples_stands_in_for_those_that_were_never_shipped() {
    for upload_compacted in [false, true] {
        let mut rig = Rig::with(|config| config.upload_compacted = upload_compacted);
        // It was there before uploads were turned on.
        rig.tsdb.add(&compacted(80, 2, &[70, 71]));
        rig.tsdb.add(&Block::new(1));
        let n_before = usize::from(upload_compacted);
        assert_eq!(rig.clean_tick(), 1 + n_before);
        // Block 2 has the late samples of block 1's time, and is merged with it before anybody sees it.
        rig.tsdb.add(&compacted(3, 2, &[1, 2]));
        rig.remove(1);
        let report = rig.tick();
        assert_eq!((report.n_uploaded, report.n_stand_ins, report.n_overlapping), (1, 1, 0), "{report:?}");
        assert_eq!(rig.metrics.stand_in_blocks.get(), 1);
        let meta = rig.meta(3);
        assert_eq!(meta["compaction"]["level"], 2);
        assert_eq!(meta["compaction"]["sources"], serde_json::json!([ulid(1).as_str(), ulid(2).as_str()]));
        // Merged again, with samples that the bucket has, also for a new process.
        rig.restart();
        rig.tsdb.add(&Block::new(4));
        assert_eq!(rig.clean_tick(), 1);
        rig.tsdb.add(&Block { max_time_ms: 5 * BLOCK_MS, ..compacted(5, 3, &[1, 2, 4]) });
        rig.remove(3);
        rig.remove(4);
        let report = rig.tick();
        assert_eq!((report.n_uploaded, report.n_stand_ins), (0, 0), "{report:?}");
        // And once more with late ones.
        rig.tsdb.add(&Block { max_time_ms: 5 * BLOCK_MS, ..compacted(7, 4, &[1, 2, 4, 6]) });
        rig.remove(5);
        assert_eq!(rig.tick().n_stand_ins, 1);
        let mut expected = vec![1, 3, 4, 7];
        expected.extend((n_before > 0).then_some(80));
        assert_eq!(rig.in_bucket(), expected);
    }
}

#[test]
fn a_block_that_is_claimed_or_empty_needs_nobody_to_stand_in_for_it() {
    let mut rig = Rig::new();
    rig.clean_tick();
    rig.tsdb.add(&Block::new(1));
    rig.tsdb.add(&Block { n_samples: 0, ..Block::new(2) });
    rig.bucket.fail("", Kind::Retry);
    rig.tick();
    // Block 1 is not shipped yet, but claimed.
    rig.tsdb.add(&compacted(3, 2, &[1, 2]));
    rig.remove(1);
    rig.remove(2);
    let report = rig.tick();
    assert_eq!(report.backlog.pending.iter().map(|block| block.ulid).collect::<Vec<_>>(), [ulid(1)], "{report:?}");
    rig.bucket.heal();
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(rig.in_bucket(), [1]);
    rig.check_whole(1);
}

#[test]
fn of_two_blocks_with_the_same_late_samples_one_is_enough() {
    let mut rig = Rig::new();
    rig.clean_tick();
    rig.tsdb.add(&compacted(3, 2, &[1, 2]));
    rig.bucket.fail("", Kind::Retry);
    rig.tick();
    rig.tsdb.add(&compacted(4, 3, &[1, 2]));
    rig.remove(3);
    rig.bucket.heal();
    let report = rig.tick();
    assert_eq!((report.n_uploaded, report.n_stand_ins), (1, 1), "{report:?}");
    assert!(report.backlog.pending.is_empty(), "{report:?}");
    assert_eq!(rig.in_bucket(), [3]);
    rig.tick();
    assert!(rig.tsdb.staged().is_empty());
}

#[test]
fn while_the_memory_of_shipped_blocks_cannot_be_read_nothing_is_lost_or_sent_twice() {
    let (disk, fails) = failing(5, |step| step.op == Op::Open && step.path.ends_with("history.json"));
    let mut rig = Rig::with(|config| config.disk = disk);
    rig.clean_tick();
    rig.tsdb.add(&compacted(3, 2, &[1, 2]));
    rig.bucket.fail("", Kind::Retry);
    rig.tick();
    assert_eq!(rig.claimed(), [3]);
    rig.bucket.heal();
    rig.restart();
    rig.tsdb.add(&Block::new(5));
    fails.store(1, Ordering::SeqCst);
    let report = rig.tick();
    assert_eq!((report.n_uploaded, report.error.is_some()), (1, true), "{report:?}");
    assert_eq!((rig.claimed(), rig.in_bucket()), (vec![3], vec![5]));
    fails.store(0, Ordering::SeqCst);
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(rig.in_bucket(), [3, 5]);
}

// A disk that cannot be read.

#[test]
fn a_block_that_the_disk_cannot_read_for_a_while_is_kept_and_holds_nothing_up() {
    let name = format!("{}/chunks/000002", ulid(1));
    let (disk, fails) = failing(5, move |step| step.op == Op::Read && step.path.ends_with(&name));
    let mut rig = Rig::with(|config| {
        config.disk = disk;
        config.unreadable_wait = Duration::from_millis(1);
    });
    for n in [1, 2] {
        rig.tsdb.add(&Block::new(n));
    }
    fails.store(1, Ordering::SeqCst);
    let report = rig.tick();
    assert_eq!((report.n_uploaded, report.n_failed, report.n_corrupted), (1, 1, 0), "{report:?}");
    assert_eq!(report.failures.get("unreadable"), Some(&1));
    assert!(report.error.is_none() && report.backlog.quarantined.contains_key(ulid(1).as_str()), "{report:?}");
    assert_eq!((rig.claimed(), rig.tsdb.ledger()), (vec![1], ledger_text(&[2], &[])));
    // Prometheus removes it: the claim is the last copy.
    rig.remove(1);
    for _ in 0..5 {
        assert!(rig.tick().error.is_none());
    }
    assert_eq!(rig.claimed(), [1]);
    fails.store(0, Ordering::SeqCst);
    until(&mut rig, |report| report.n_uploaded == 1);
    rig.check_whole(1);
    assert!(rig.tick().backlog.quarantined.is_empty());
}

/// Ticks until a report shows it.
fn until(rig: &mut Rig, shows: impl Fn(&TickReport) -> bool) -> TickReport {
    let begun = std::time::Instant::now();
    loop {
        let report = rig.tick();
        if shows(&report) {
            return report;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{report:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_block_that_stays_unreadable_is_listed_loudly_and_tried_again_at_the_next_start() {
    let name = format!("{}/chunks/000002", ulid(1));
    let (disk, fails) = failing(5, move |step| step.op == Op::Read && step.path.ends_with(&name));
    let mut rig = Rig::with(|config| {
        config.disk = disk;
        config.unreadable_wait = Duration::from_millis(1);
        config.unreadable_time = Duration::from_millis(3);
    });
    rig.tsdb.add(&Block::new(1));
    fails.store(1, Ordering::SeqCst);
    until(&mut rig, |report| report.n_corrupted == 1);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1], &[1]));
    assert_eq!(rig.claimed(), [1]);
    assert_eq!(rig.tick().n_corrupted, 1);
    fails.store(0, Ordering::SeqCst);
    rig.restart();
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1], &[]));
}

#[test]
fn a_folder_of_a_block_that_the_disk_cannot_list_holds_nothing_up() {
    let chunks = format!("{}/chunks", ulid(1));
    let (disk, fails) = failing(5, move |step| step.op == Op::List && step.path.ends_with(&chunks));
    let mut rig = Rig::with(|config| {
        config.disk = disk;
        config.unreadable_wait = Duration::from_millis(1);
    });
    for n in [1, 2] {
        rig.tsdb.add(&Block::new(n));
    }
    fails.store(1, Ordering::SeqCst);
    let report = rig.tick();
    assert_eq!((report.n_uploaded, report.n_corrupted), (1, 0), "{report:?}");
    fails.store(0, Ordering::SeqCst);
    until(&mut rig, |report| report.n_uploaded == 1);
}

#[test]
fn a_claim_that_cannot_be_read_and_became_the_last_copy_while_it_was_uploaded_is_kept() {
    let mut rig = Rig::new();
    rig.tsdb.add(&Block::new(1));
    let dir = rig.tsdb.block_dir(1);
    rig.config.disk = Disk::watched(move |step| {
        if step.op != Op::Read || !step.path.ends_with("upload/01J00000000000000000000001/index") {
            return Ok(());
        }
        let _ = std::fs::remove_dir_all(&dir);
        Err(std::io::Error::from_raw_os_error(5))
    });
    assert_eq!(rig.tick().n_failed, 1);
    assert_eq!(rig.claimed(), [1]);
    rig.config.disk = Disk::real();
    rig.restart();
    assert_eq!(rig.clean_tick(), 1);
    rig.check_whole(1);
}

// The ledger.

#[test]
fn a_ledger_that_cannot_be_read_at_start_is_not_replaced_and_blocks_are_claimed_meanwhile() {
    let (disk, fails) = failing(13, |step| step.op == Op::Open && step.path.ends_with("thanos.shipper.json"));
    let mut rig = Rig::with(|config| config.disk = disk);
    rig.tsdb.add(&Block::new(1));
    rig.clean_tick();
    // The compactor has merged it.
    std::fs::remove_dir_all(rig.object(1, "")).unwrap();
    fails.store(1, Ordering::SeqCst);
    rig.restart();
    rig.tsdb.add(&Block::new(2));
    for _ in 0..2 {
        let report = rig.tick();
        assert!(report.error.unwrap().to_string().contains("failed to read"), "nothing is shipped blindly");
        assert_eq!(rig.claimed(), [2]);
    }
    assert_eq!(rig.tsdb.ledger(), ledger_text(&[1], &[]));
    fails.store(0, Ordering::SeqCst);
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!((rig.in_bucket(), rig.tsdb.ledger()), (vec![2], ledger_text(&[1, 2], &[])));
}

#[test]
fn a_damaged_ledger_is_kept_aside_and_what_was_compacted_in_the_bucket_is_not_sent_again() {
    let mut rig = Rig::new();
    for n in [1, 2, 3] {
        rig.tsdb.add(&Block::new(n));
    }
    assert_eq!(rig.clean_tick(), 3);
    let ledger = rig.tsdb.path().join("thanos.shipper.json");
    // What the compactor made of blocks 1 and 2, as another sidecar's meta.json would say it.
    let mut meta = rig.meta(1);
    meta["ulid"] = ulid(50).as_str().into();
    meta["compaction"] = serde_json::json!({"level": 2, "sources": [ulid(1).as_str(), ulid(2).as_str()]});
    std::fs::create_dir(rig.object(50, "")).unwrap();
    std::fs::write(rig.object(50, "meta.json"), meta.to_string()).unwrap();
    for n in [1, 2] {
        std::fs::remove_dir_all(rig.object(n, "")).unwrap();
    }
    for damage in ["garbage", "removed"] {
        match damage {
            "garbage" => std::fs::write(&ledger, "{\"version\": 1, \"uplo").unwrap(),
            _ => std::fs::remove_file(&ledger).unwrap(),
        }
        rig.restart();
        assert_eq!(rig.clean_tick(), 0, "{damage}");
        assert_eq!(rig.in_bucket(), [3, 50], "{damage}");
        assert_eq!(rig.tsdb.ledger(), ledger_text(&[1, 2, 3], &[]), "{damage}");
    }
    let names =
        std::fs::read_dir(rig.tsdb.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let aside: Vec<String> = names.filter(|name| name.starts_with("thanos.shipper.json.bad-")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    // A bucket that was emptied gets everything, once somebody removes the ledger.
    std::fs::remove_dir_all(rig.object(50, "")).unwrap();
    std::fs::remove_file(&ledger).unwrap();
    rig.restart();
    assert_eq!(rig.clean_tick(), 2);
    assert_eq!(rig.in_bucket(), [1, 2, 3]);
}

// The budget of claims, and what the bucket holds.

#[test]
fn claims_that_cannot_be_shipped_as_things_are_go_before_those_that_wait() {
    let mut rig = Rig::with(|config| {
        config.upload_compacted = true;
        config.claim_budget_bytes = 4200 + 1;
    });
    // It overlaps what the bucket has, and is older than what waits.
    rig.tsdb.add(&Block::new(5));
    rig.tsdb.add(&Block { level: 2, min_time_ms: 0, max_time_ms: 6 * BLOCK_MS, ..Block::new(1) });
    let mut other = Rig::new();
    other.tsdb.add(&Block::new(4));
    other.clean_tick();
    copy(&other.object(4, ""), &rig.object(4, ""));
    let report = rig.tick();
    assert_eq!((report.n_uploaded, report.n_overlapping), (1, 1), "{report:?}");
    rig.bucket.fail("exists", Kind::Retry);
    rig.tsdb.add(&Block::new(6));
    rig.tick();
    rig.remove(1);
    rig.remove(6);
    assert_eq!(rig.tick().n_given_up, 1);
    assert_eq!(rig.claimed(), [6]);
    rig.bucket.heal();
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(rig.in_bucket(), [4, 5, 6]);
}

/// Copies a block of the bucket.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to.join("chunks")).unwrap();
    for name in ["chunks/000001", "chunks/000002", "index", "meta.json"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn what_the_bucket_holds_is_read_once_also_by_another_process() {
    let mut rig = Rig::with(|config| config.upload_compacted = true);
    for n in 1..=3 {
        rig.tsdb.add(&Block::new(n));
    }
    rig.clean_tick();
    let n_read = |rig: &Rig| rig.bucket.calls().iter().filter(|call| call.starts_with("get")).count();
    // What another process has shipped meanwhile is new.
    for (n, n_expected) in [(11, 3), (12, 1), (13, 1)] {
        rig.tsdb.add(&Block { sources: vec![1], level: 2, ..Block::new(n) });
        rig.bucket.calls();
        assert_eq!(rig.clean_tick(), 1);
        assert_eq!(n_read(&rig), n_expected, "{n}");
        rig.restart();
    }
    // A cache that says nothing is as good as none.
    std::fs::write(rig.tsdb.path().join("thanos/bucket-blocks.json"), "{}").unwrap();
    rig.tsdb.add(&Block { sources: vec![1], level: 2, ..Block::new(14) });
    rig.bucket.calls();
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(n_read(&rig), 6);
}

#[test]
fn claims_leave_prometheus_room_on_a_full_disk() {
    let mut rig = Rig::with(|config| config.claim_budget_bytes = u64::MAX);
    for n in 1..=3 {
        rig.tsdb.add(&Block::new(n));
    }
    rig.bucket.fail("", Kind::Retry);
    rig.tick();
    for n in 1..=3 {
        rig.remove(n);
    }
    assert_eq!(rig.tick().n_given_up, 0);
    // More than any disk has.
    rig.config.claim_reserve_bytes = u64::MAX;
    rig.restart();
    let report = rig.tick();
    assert_eq!((report.n_given_up, report.backlog.claimed_bytes), (3, 0), "{report:?}");
    assert!(rig.tsdb.staged().is_empty());
}

// A block that is copied in.

#[test]
fn a_block_that_is_copied_in_is_shipped_whole() {
    let mut rig = Rig::with(|config| config.settle_time = Duration::from_millis(100));
    let original = Rig::new();
    original.tsdb.add(&Block::new(1));
    rig.tsdb.add(&Block::new(1));
    // Half a file, then more of it, then a file that was not there.
    let second = rig.tsdb.block_dir(1).join("chunks/000002");
    let whole = std::fs::read(&second).unwrap();
    let steps: [&dyn Fn(); 4] = [
        &|| std::fs::remove_file(&second).unwrap(),
        &|| std::fs::write(&second, &whole[..100]).unwrap(),
        &|| std::fs::write(&second, &whole[..200]).unwrap(),
        &|| std::fs::write(&second, &whole).unwrap(),
    ];
    for step in steps {
        step();
        let report = rig.tick();
        assert_eq!((report.n_uploaded, report.n_corrupted, report.n_unsettled), (0, 0, 1), "{report:?}");
        assert!(report.error.is_none() && rig.in_bucket().is_empty());
    }
    until(&mut rig, |report| report.n_uploaded == 1);
    rig.check_whole(1);
}

#[test]
fn a_copy_that_stood_still_and_goes_on_while_the_block_waits_is_shipped_whole() {
    let mut rig = Rig::with(|config| config.settle_time = Duration::from_millis(50));
    rig.tsdb.add(&Block::new(1));
    let second = rig.tsdb.block_dir(1).join("chunks/000002");
    let whole = std::fs::read(&second).unwrap();
    std::fs::remove_file(&second).unwrap();
    rig.bucket.fail("", Kind::Retry);
    // It looks like a block that is done, and would be shipped if the bucket answered.
    until(&mut rig, |report| report.error.is_some());
    std::fs::write(&second, &whole).unwrap();
    rig.bucket.heal();
    until(&mut rig, |report| report.n_uploaded == 1);
    rig.check_whole(1);
}

#[test]
fn a_block_that_changes_while_it_is_uploaded_gets_no_meta_json() {
    let index = format!("upload/{}/index", ulid(1));
    let times = Arc::new(AtomicUsize::new(0));
    let (n_times, mut rig) = (Arc::clone(&times), Rig::new());
    rig.tsdb.add(&Block::new(1));
    let local = rig.tsdb.block_dir(1);
    rig.config.disk = Disk::watched(move |step| {
        if step.op == Op::Read && step.path.ends_with(&index) && n_times.fetch_add(1, Ordering::SeqCst) == 0 {
            // As rsync does it.
            std::fs::write(local.join("chunks/new"), vec![9; 3000]).unwrap();
            std::fs::rename(local.join("chunks/new"), local.join("chunks/000001")).unwrap();
        }
        Ok(())
    });
    let report = rig.tick();
    assert_eq!((report.n_uploaded, report.n_unsettled), (0, 1), "{report:?}");
    assert!(rig.in_bucket().is_empty());
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(std::fs::read(rig.object(1, "chunks/000001")).unwrap(), vec![9; 3000]);
}

#[test]
fn half_a_block_that_is_removed_again_is_given_up_and_for_one_that_was_merged_the_other_stands_in() {
    let mut rig = Rig::with(|config| config.settle_time = Duration::from_secs(24 * 3600));
    rig.tick();
    rig.tsdb.add(&Block::new(1));
    rig.tsdb.add(&Block::new(2));
    assert_eq!(rig.tick().n_unsettled, 2);
    rig.remove(1);
    rig.remove(2);
    rig.tsdb.add(&compacted(3, 2, &[2]));
    let report = rig.tick();
    assert_eq!((report.n_given_up, report.n_uploaded), (1, 0), "{report:?}");
    // Another process knows only what is there.
    rig.config.settle_time = Duration::ZERO;
    rig.restart();
    assert_eq!(rig.clean_tick(), 1);
    assert_eq!(rig.in_bucket(), [3]);
}

// Claims that cannot be read.

#[test]
fn one_claim_that_cannot_be_read_stops_nothing_but_itself_and_is_shown() {
    for (op, errno) in [(Op::Open, 24), (Op::Stat, 5), (Op::List, 116)] {
        let folder = format!("upload/{}", ulid(1));
        let (disk, fails) = failing(errno, move |step| step.op == op && step.path.to_str().unwrap().contains(&folder));
        let mut rig = Rig::with(|config| config.disk = disk);
        rig.tsdb.add(&Block::new(1));
        rig.tsdb.add(&Block::new(2));
        rig.bucket.fail("", Kind::Retry);
        rig.tick();
        rig.bucket.heal();
        rig.remove(1);
        rig.restart();
        fails.store(1, Ordering::SeqCst);
        let report = rig.tick();
        assert!(report.error.is_none() && report.n_uploaded == 1, "{op:?}: {report:?}");
        assert!(report.backlog.quarantined.contains_key(ulid(1).as_str()), "{report:?}");
        assert_eq!(rig.in_bucket(), [2]);
        fails.store(0, Ordering::SeqCst);
        assert_eq!(rig.clean_tick(), 1, "{op:?}");
        rig.check_whole(1);
    }
}

#[test]
fn a_look_that_fails_does_not_mean_that_prometheus_has_removed_a_block() {
    let block = ulid(1);
    let (disk, fails) = failing(5, move |step| step.op == Op::Stat && step.path.ends_with(block.as_str()));
    let mut rig = Rig::with(|config| {
        config.disk = disk;
        config.claim_budget_bytes = 1;
    });
    rig.tsdb.add(&Block::new(1));
    rig.bucket.fail("", Kind::Retry);
    rig.tick();
    fails.store(1, Ordering::SeqCst);
    assert_eq!(rig.tick().n_given_up, 0);
    assert_eq!(rig.claimed(), [1]);
}

#[test]
fn the_last_copy_of_a_block_is_not_thrown_away_because_its_meta_json_is_damaged() {
    let mut rig = Rig::new();
    rig.tsdb.add(&Block::new(1));
    rig.tsdb.add(&Block::new(2));
    rig.bucket.fail("", Kind::Retry);
    rig.tick();
    let path = |rig: &Rig, n: u32| rig.tsdb.path().join("thanos/upload").join(ulid(n).as_str()).join("meta.json");
    let whole = std::fs::read(path(&rig, 1)).unwrap();
    for n in [1, 2] {
        std::fs::write(path(&rig, n), "{\"ver").unwrap();
    }
    rig.remove(1);
    rig.restart();
    rig.bucket.heal();
    // Block 2 is still there and is claimed anew.
    let report = rig.tick();
    assert!(report.error.is_none() && report.n_uploaded == 1, "{report:?}");
    assert!(report.backlog.quarantined[ulid(1).as_str()].contains("the last copy of block"), "{report:?}");
    std::fs::write(path(&rig, 1), whole).unwrap();
    assert_eq!(rig.clean_tick(), 1);
    rig.check_whole(1);
}
