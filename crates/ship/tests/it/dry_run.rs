//! What `--dry-run` says beside what the real shipper does, and that it changes neither folder nor bucket.

use std::sync::Arc;

use pillion_base::error::Kind;
use pillion_base::files::Disk;
use pillion_base::labels::Labels;
use pillion_bucket::Bucket;
use pillion_ship::{DataFolder, DryReport, DryRun, Verdict, outlook, strangers};
use pillion_testing::bucket::Faulty;
use pillion_testing::tsdb::{Block, snapshot, ulid};

use crate::rig::{Rig, state_with};

fn dry_run(rig: &Rig) -> DryRun {
    let bucket: Arc<dyn Bucket> = Arc::<Faulty>::clone(&rig.bucket);
    DryRun::new(rig.config.clone(), bucket, rig.state.clone())
}

/// A look, after which folder and bucket are as they were.
fn look(rig: &Rig, dry: &mut DryRun) -> DryReport {
    let before = (snapshot(rig.tsdb.path()), snapshot(rig.bucket_dir.path()));
    let report = dry.look(&rig.stop).unwrap();
    assert_eq!((snapshot(rig.tsdb.path()), snapshot(rig.bucket_dir.path())), before);
    report
}

fn names(report: &DryReport) -> Vec<&str> {
    report.uploads.iter().map(|(name, _)| name.as_str()).collect()
}

#[track_caller]
fn check_reason(report: &DryReport, n: u32, text: &str) {
    let of = report.others.iter().find(|(name, _)| name == ulid(n).as_str());
    let (_, reason) = of.unwrap_or_else(|| panic!("{n} is not among {report:?}"));
    assert!(reason.contains(text), "{n}: {reason}");
}

#[test]
fn it_says_what_the_real_one_then_does() {
    let mut rig = Rig::new();
    for n in [1, 2] {
        rig.tsdb.add(&Block::new(n));
    }
    rig.clean_tick();
    for n in [3, 4, 8] {
        rig.tsdb.add(&Block::new(n));
    }
    rig.tsdb.add(&Block { n_samples: 0, ..Block::new(5) });
    rig.tsdb.add(&Block { level: 2, sources: vec![1, 2], ..Block::new(6) });
    // Compacted of what never came here.
    rig.tsdb.add(&Block { level: 2, sources: vec![60, 61], ..Block::new(7) });
    std::fs::write(rig.tsdb.block_dir(8).join("index"), b"").unwrap();
    let report = look(&rig, &mut dry_run(&rig));
    let uploads = [3, 4, 7].map(|n| ulid(n).to_string());
    assert_eq!(names(&report), uploads.each_ref().map(String::as_str));
    assert!(report.uploads.iter().all(|(_, bytes)| *bytes == 4200), "{report:?}");
    for (n, reason) in [
        (1, "shipped already"),
        (2, "shipped already"),
        (5, "no samples"),
        (6, "compacted"),
        (8, "set aside as damaged"),
    ] {
        check_reason(&report, n, reason);
    }
    let tick = rig.tick();
    assert_eq!((tick.n_uploaded, tick.n_corrupted), (3, 1), "{tick:?}");
    for n in [3, 4, 7] {
        assert!(rig.object(n, "meta.json").exists(), "{n}");
    }
}

#[test]
fn a_first_start_and_what_prometheus_compacts_meanwhile() {
    let rig = Rig::new();
    rig.tsdb.add(&Block { level: 2, sources: vec![90, 91], ..Block::new(1) });
    for n in [2, 3] {
        rig.tsdb.add(&Block::new(n));
    }
    let mut dry = dry_run(&rig);
    let report = look(&rig, &mut dry);
    assert_eq!(names(&report), [ulid(2).as_str(), ulid(3).as_str()]);
    check_reason(&report, 1, "compacted");
    // The real one would have shipped both by now.
    rig.tsdb.add(&Block { level: 2, sources: vec![2, 3], ..Block::new(4) });
    rig.remove(2);
    rig.remove(3);
    let report = look(&rig, &mut dry);
    assert!(report.uploads.is_empty(), "{report:?}");
    check_reason(&report, 4, "compacted");
}

#[test]
fn what_waits_and_what_the_bucket_has() {
    let mut rig = Rig::new();
    rig.tsdb.add(&Block::new(1));
    rig.clean_tick();
    // A ledger that was lost: the bucket knows better.
    std::fs::remove_file(rig.tsdb.path().join("thanos.shipper.json")).unwrap();
    rig.tsdb.add(&Block::new(2));
    let mut dry = dry_run(&rig);
    let report = look(&rig, &mut dry);
    assert_eq!(names(&report), [ulid(2).as_str()]);
    check_reason(&report, 1, "the bucket has it");
    rig.state.publish(state_with(&[]));
    check_reason(&look(&rig, &mut dry), 2, "external labels");
    rig.state.publish(state_with(&[("region", "eu")]));
    rig.bucket.fail("exists", Kind::Retry);
    // It was asked before.
    assert_eq!(names(&look(&rig, &mut dry)), [ulid(2).as_str()]);
    check_reason(&look(&rig, &mut dry_run(&rig)), 2, "the bucket cannot be asked");
    rig.bucket.heal();
    assert!(rig.bucket.calls().iter().all(|call| !call.starts_with("upload_bytes") || call.contains(ulid(1).as_str())));
}

#[test]
fn blocks_of_another_sidecar_with_our_labels_are_noticed() {
    let mut rig = Rig::new();
    for n in [5, 6] {
        rig.tsdb.add(&Block::new(n));
    }
    rig.clean_tick();
    let disk = Disk::read_only();
    let folder = DataFolder {
        disk: &disk,
        dir: rig.tsdb.path(),
        meta_file_name: "thanos.shipper.json",
        upload_compacted: false,
    };
    let ours = outlook(&folder).unwrap();
    assert!(ours.blocks.iter().all(|block| matches!(block.verdict, Verdict::Stays(_))), "{ours:?}");
    assert_eq!(ours.to_ship(), (0, 0));
    let put = |n: u32, level: i64, region: &str| {
        let labels = format!(",\"thanos\":{{\"labels\":{{\"region\":\"{region}\",\"az\":\"1\"}}}}");
        let block = Block { level, more_meta: labels, ..Block::new(n) };
        std::fs::create_dir_all(rig.object(n, "")).unwrap();
        std::fs::write(rig.object(n, "meta.json"), block.meta_json()).unwrap();
    };
    let strangers = |labels: &[(&str, &str)]| {
        strangers(&*rig.bucket, &Labels::new(labels.iter().copied()), &ours, &rig.stop).unwrap()
    };
    let labels = [("region", "eu"), ("az", "1")];
    // Older than ours, compacted, or with other labels.
    put(3, 1, "eu");
    put(7, 2, "eu");
    put(8, 1, "us");
    assert!(strangers(&labels).is_empty());
    put(9, 1, "eu");
    assert_eq!(strangers(&labels), [ulid(9).to_string()]);
    assert!(strangers(&[]).is_empty());
}
