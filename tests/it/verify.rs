//! What a user sees of `pillion verify`, over a folder bucket.

use pillion_testing::bucket;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use pillion::inside::{VerifyArgs, verify as run_verify};
use pillion_base::error::Kind;
use pillion_base::files::{Disk, Op};
use pillion_base::labels::Labels;
use pillion_base::state::{PromState, Published};
use pillion_base::stop::stop_pair;
use pillion_bucket::{BucketConfig, FolderBucket, Provider};
use pillion_ship::metrics::ShipMetrics;
use pillion_ship::verify::{self, Audit, AuditStep, Finding};
use pillion_ship::{ShipConfig, Shipper};
use pillion_testing::tsdb::{Block, Tsdb, tree, ulid};

/// Three blocks that were shipped with the label region="eu".
struct Rig {
    tsdb: Tsdb,
    bucket_dir: tempfile::TempDir,
    args: VerifyArgs,
}

impl Rig {
    fn new() -> Self {
        let (tsdb, bucket_dir) = (Tsdb::new(), tempfile::tempdir().unwrap());
        for n in [1, 2, 3] {
            tsdb.add(&Block::new(n));
        }
        let provider = Provider::Filesystem { directory: bucket_dir.path().to_owned() };
        let args = VerifyArgs {
            bucket: BucketConfig { remarks: Vec::new(), prefix: String::new(), provider },
            tsdb_path: tsdb.path().to_owned(),
            meta_file_name: "thanos.shipper.json".into(),
            upload_compacted: false,
            labels: Vec::new(),
            repair: false,
            json: false,
        };
        let rig = Rig { tsdb, bucket_dir, args };
        rig.ship(&[("region", "eu")]);
        rig
    }

    fn ship(&self, labels: &[(&str, &str)]) {
        let (_stopper, stop) = stop_pair().unwrap();
        let bucket = Arc::new(FolderBucket::open(self.bucket_dir.path(), Disk::real()).unwrap());
        let external_labels = Labels::new(labels.iter().copied());
        let state = Published::new(PromState { external_labels, ..PromState::unknown(0) });
        let mut shipper = Shipper::new(
            ShipConfig { settle_time: std::time::Duration::ZERO, ..ShipConfig::new(self.tsdb.path()) },
            bucket,
            state,
            ShipMetrics::default(),
        );
        let report = shipper.tick(&stop);
        assert!(report.error.is_none(), "{report:?}");
    }

    fn object(&self, n: u32, name: &str) -> PathBuf {
        self.bucket_dir.path().join(ulid(n).as_str()).join(name)
    }

    fn remove(&self, n: u32, name: &str) {
        std::fs::remove_file(self.object(n, name)).unwrap();
    }

    /// Runs it; the lines with block 1 as `1` and so on, and whether all is well.
    fn run(&self, repair: bool) -> (Vec<String>, bool) {
        let mut out = Vec::new();
        let before = tree(self.tsdb.path());
        let is_well = run_verify(&VerifyArgs { repair, ..self.args.clone() }, &mut out).unwrap();
        assert_eq!(tree(self.tsdb.path()), before, "nothing local is touched");
        let mut text = String::from_utf8(out).unwrap();
        for n in 1..9 {
            text = text.replace(ulid(n).as_str(), &n.to_string());
        }
        (text.lines().map(str::to_owned).collect(), is_well)
    }

    fn check(&self, repair: bool, lines: &[&str], is_well: bool) {
        let (got, well) = self.run(repair);
        assert_eq!((got.iter().map(String::as_str).collect::<Vec<_>>(), well), (lines.to_vec(), is_well));
    }

    fn labels(&self, n: u32) -> serde_json::Value {
        let meta: serde_json::Value =
            serde_json::from_slice(&std::fs::read(self.object(n, "meta.json")).unwrap()).unwrap();
        meta["thanos"]["labels"].clone()
    }
}

const ALL_WELL: &str = "3 blocks checked: 3 whole, 0 wrong, 0 repaired, 0 gone from the bucket; 0 not to be shipped";

#[test]
fn whole_blocks_are_well() {
    let rig = Rig::new();
    rig.check(false, &[ALL_WELL], true);
    rig.check(true, &[ALL_WELL], true);
}

#[test]
fn what_is_missing_short_or_different_is_named_and_repaired() {
    let rig = Rig::new();
    rig.remove(1, "chunks/000002");
    std::fs::write(rig.object(1, "index"), b"short").unwrap();
    let mut bytes = std::fs::read(rig.object(3, "chunks/000001")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(rig.object(3, "chunks/000001"), bytes).unwrap();
    let before = std::fs::read(rig.object(1, "meta.json")).unwrap();
    rig.check(
        false,
        &[
            "1 chunks/000002: missing",
            "1 index: short: 5 bytes, not 700",
            "3 chunks/000001: differs from the local block",
            "3 blocks checked: 1 whole, 2 wrong, 0 repaired, 0 gone from the bucket; 0 not to be shipped",
        ],
        false,
    );
    rig.check(
        true,
        &[
            "1 chunks/000002: missing; repaired",
            "1 index: short: 5 bytes, not 700; repaired",
            "3 chunks/000001: differs from the local block; repaired",
            "3 blocks checked: 1 whole, 0 wrong, 2 repaired, 0 gone from the bucket; 0 not to be shipped",
        ],
        true,
    );
    assert_eq!(std::fs::read(rig.object(1, "meta.json")).unwrap(), before, "a good meta.json stays as it is");
    rig.check(false, &[ALL_WELL], true);
}

#[test]
fn a_block_that_the_compactor_removed_is_left_alone() {
    let rig = Rig::new();
    std::fs::remove_dir_all(rig.object(2, "")).unwrap();
    // This one is being removed just now.
    rig.remove(3, "meta.json");
    std::fs::write(rig.object(3, "deletion-mark.json"), b"{}").unwrap();
    for repair in [false, true] {
        rig.check(
            repair,
            &[
                "2: gone from the bucket (compacted or deleted there); left alone",
                "3: gone from the bucket (compacted or deleted there); left alone",
                "3 blocks checked: 1 whole, 0 wrong, 0 repaired, 2 gone from the bucket; 0 not to be shipped",
            ],
            true,
        );
    }
    assert!(!rig.object(2, "index").exists() && !rig.object(3, "meta.json").exists());
}

#[test]
fn the_wrong_bucket_is_not_called_well() {
    let mut rig = Rig::new();
    rig.args.bucket.prefix = "elsewhere".to_owned();
    let (lines, is_well) = rig.run(true);
    assert_eq!(lines[3], "3 blocks checked: 0 whole, 0 wrong, 0 repaired, 3 gone from the bucket; 0 not to be shipped");
    assert_eq!(lines[4], "the bucket has nothing of any of these blocks: is it the right one, with the right prefix?");
    assert!(!is_well);
}

#[test]
fn a_bucket_that_does_not_answer_is_not_asked_about_every_block() {
    let rig = Rig::new();
    for n in [4, 5] {
        rig.tsdb.add(&Block::new(n));
    }
    let bucket = bucket::Faulty::new(Arc::new(FolderBucket::open(rig.bucket_dir.path(), Disk::real()).unwrap()));
    bucket.fail("", Kind::Retry);
    let (_stopper, stop) = stop_pair().unwrap();
    let (disk, labels) = (Disk::real(), Labels::default());
    let audit = Audit {
        disk: &disk,
        bucket: &*bucket,
        data_dir: rig.tsdb.path(),
        meta_file_name: "thanos.shipper.json",
        upload_compacted: false,
        repair: false,
        labels: &labels,
        on_step: None,
    };
    let mut n_found = 0;
    let mut each = |_: &Finding| {
        n_found += 1;
        Ok(())
    };
    let err = verify::audit(&audit, &mut each, &stop).unwrap_err();
    assert!(err.to_string().starts_with("the bucket cannot be asked, younger blocks are not checked: "), "{err}");
    assert_eq!(n_found, 3);
}

#[test]
fn it_tells_how_much_there_is_to_compare_and_how_much_was() {
    let rig = Rig::new();
    rig.tsdb.add(&Block { n_samples: 0, ..Block::new(4) });
    let (_stopper, stop) = stop_pair().unwrap();
    let (disk, labels) = (Disk::real(), Labels::default());
    let steps = std::cell::RefCell::new(Vec::new());
    let bucket = FolderBucket::open(rig.bucket_dir.path(), Disk::real()).unwrap();
    let audit = Audit {
        disk: &disk,
        bucket: &bucket,
        data_dir: rig.tsdb.path(),
        meta_file_name: "thanos.shipper.json",
        upload_compacted: false,
        repair: false,
        labels: &labels,
        on_step: Some(&|step| steps.borrow_mut().push(step)),
    };
    verify::audit(&audit, &mut |_| Ok(()), &stop).unwrap();
    let steps = steps.into_inner();
    assert_eq!(steps.first(), Some(&AuditStep::All(3 * 4200)));
    let compared = steps.iter().filter_map(|step| match step {
        AuditStep::Compared(bytes) => Some(bytes),
        AuditStep::All(_) => None,
    });
    assert_eq!(compared.sum::<u64>(), 3 * 4200);
}

#[test]
fn a_block_that_prometheus_removes_meanwhile_is_no_problem() {
    let rig = Rig::new();
    let dir = rig.tsdb.block_dir(2);
    let disk = Disk::watched(move |step| {
        if step.op == Op::Open && step.path.starts_with(&dir) && step.path.ends_with("index") {
            std::fs::remove_dir_all(&dir)?;
        }
        Ok(())
    });
    let bucket = FolderBucket::open(rig.bucket_dir.path(), Disk::real()).unwrap();
    let (_stopper, stop) = stop_pair().unwrap();
    let labels = Labels::default();
    let audit = Audit {
        disk: &disk,
        bucket: &bucket,
        data_dir: rig.tsdb.path(),
        meta_file_name: "thanos.shipper.json",
        upload_compacted: false,
        repair: false,
        labels: &labels,
        on_step: None,
    };
    let mut found = Vec::new();
    let mut each = |finding: &Finding| {
        found.push(finding.clone());
        Ok(())
    };
    let summary = verify::audit(&audit, &mut each, &stop).unwrap();
    assert_eq!((summary.n_whole, summary.n_wrong, summary.n_skipped, found), (2, 0, 1, Vec::new()));
}

#[test]
fn a_meta_json_is_written_anew_only_with_labels_that_are_known() {
    let mut rig = Rig::new();
    rig.remove(1, "meta.json");
    let (lines, is_well) = rig.run(true);
    let expected = "1 meta.json: missing; not repaired: its external labels are not known: give every one of them with \
                    --label name=value";
    assert_eq!((lines[0].as_str(), is_well), (expected, false));
    assert!(!rig.object(1, "meta.json").exists());
    rig.args.labels = vec!["region=\"us\"".to_owned()];
    assert!(rig.run(true).1);
    assert_eq!(rig.labels(1), serde_json::json!({"region": "us"}));

    // One that is there but tells of other files keeps the labels that it has.
    let text = std::fs::read_to_string(rig.object(2, "meta.json")).unwrap();
    std::fs::write(rig.object(2, "meta.json"), text.replace("3000", "2999")).unwrap();
    rig.check(
        true,
        &[
            "2 meta.json: differs from the local block; repaired",
            "3 blocks checked: 2 whole, 0 wrong, 1 repaired, 0 gone from the bucket; 0 not to be shipped",
        ],
        true,
    );
    assert_eq!(rig.labels(2), serde_json::json!({"region": "eu"}));
}

#[test]
fn blocks_that_are_not_shipped_are_named_and_sent_from_their_claims_too() {
    let mut rig = Rig::new();
    rig.tsdb.add(&Block::new(4));
    rig.tsdb.add(&Block { n_samples: 0, ..Block::new(5) });
    // Compacted of what is shipped.
    rig.tsdb.add(&Block { level: 2, sources: vec![1], ..Block::new(6) });
    std::fs::write(rig.tsdb.block_dir(3).join("chunks/000001"), b"").unwrap();
    let summary = "5 blocks checked: 2 whole, 2 wrong, 0 repaired, 0 gone from the bucket; 2 not to be shipped";
    let (lines, _) = rig.run(false);
    assert!(lines[0].starts_with("3: local block cannot be read: "), "{lines:?}");
    assert_eq!(lines[1..].to_vec(), ["4: not shipped yet", summary].map(|line| line.replace("5 blocks", "4 blocks")));

    // Claimed without labels, and then removed by Prometheus.
    rig.ship(&[]);
    std::fs::remove_dir_all(rig.tsdb.block_dir(4)).unwrap();
    assert_eq!(rig.run(false).0[1], "4: not shipped yet");
    rig.args.labels = vec!["region=eu".to_owned()];
    assert_eq!(rig.run(true).0[1], "4: not shipped yet; repaired");
    assert_eq!(rig.labels(4), serde_json::json!({"region": "eu"}));
    // The sidecar finds it there.
    rig.ship(&[("region", "eu")]);
    assert!(rig.tsdb.staged().is_empty());
}

/// Runs the binary; exit code and standard output.
fn run(rig: &Rig, more: &[&str]) -> (Option<i32>, String) {
    let config = format!("{{type: FILESYSTEM, config: {{directory: {:?}}}}}", rig.bucket_dir.path());
    let out = Command::new(env!("CARGO_BIN_EXE_pillion"))
        .args(["verify", &format!("--tsdb.path={}", rig.tsdb.path().display()), &format!("--objstore.config={config}")])
        .args(more)
        .output()
        .unwrap();
    (out.status.code(), String::from_utf8(out.stdout).unwrap())
}

#[test]
fn scripts_get_json_and_an_exit_code() {
    let rig = Rig::new();
    let whole = "{\"ok\":true,\"summary\":{\"gone\":0,\"repaired\":0,\"skipped\":0,\"whole\":3,\"wrong\":0}}\n";
    assert_eq!(run(&rig, &["--json"]), (Some(0), whole.to_owned()));
    rig.remove(1, "index");
    let (code, out) = run(&rig, &["--json"]);
    let first = format!("{{\"block\":\"{}\",\"object\":\"index\",\"problem\":\"missing\"}}", ulid(1));
    assert_eq!((code, out.lines().next().unwrap()), (Some(1), first.as_str()));
    assert_eq!(run(&rig, &["--repair"]).0, Some(0));
    assert_eq!(run(&rig, &[]), (Some(0), format!("{ALL_WELL}\n")));

    // Both names of the command.
    for name in [&["verify"] as &[&str], &["bucket", "verify"]] {
        let out = Command::new(env!("CARGO_BIN_EXE_pillion")).args(name).output().unwrap();
        assert_eq!(out.status.code(), Some(1));
        assert!(String::from_utf8(out.stderr).unwrap().contains("give --objstore.config-file or --objstore.config"));
    }
}
