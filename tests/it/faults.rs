//! Every way in which a link or a server can fail, one at a time, between the real binary and a real S3 server. Each
//! time the block is whole in the bucket in the end, nothing is promised before, and the operator is told why.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::fault_proxy::{Fault, Rule, Seen};
use crate::support::outpost::Outpost;
use crate::support::rgw::Rgw;
use pillion_testing::tsdb::Block;

const PART_BYTES: u64 = 5 << 20;
const FOR_EVER: usize = usize::MAX;

/// What comes of a fault.
#[derive(Clone, Copy)]
enum Outcome {
    /// The block is shipped all the same, by the first attempt.
    Shipped,
    /// The attempt fails, with this class in the metrics and these words in the log, and no block is promised. When the
    /// fault is gone and the sidecar was restarted, the block is shipped.
    Fails(&'static str, &'static [&'static str]),
}

struct Case {
    name: &'static str,
    config: &'static str,
    rules: Vec<Rule>,
    outcome: Outcome,
    /// What must hold for all requests that were made.
    check: fn(&[Seen]),
}

impl Case {
    fn new(name: &'static str, rule: Rule, outcome: Outcome) -> Self {
        Case { name, config: "", rules: vec![rule], outcome, check: |_| {} }
    }

    fn config(self, config: &'static str) -> Self {
        Case { config, ..self }
    }

    fn check(self, check: fn(&[Seen])) -> Self {
        Case { check, ..self }
    }

    fn run(self, rgw: &'static Rgw) {
        println!("{}", self.name);
        let config = format!("part_size: {PART_BYTES}\nmax_retries: 3\n{}", self.config);
        let mut outpost = Outpost::new(rgw, &config, &[]);
        // Three parts and a single PUT; then a block that must not overtake it.
        let chunk_bytes = vec![usize::try_from(2 * PART_BYTES).unwrap() + 1000, 1000];
        outpost.add(&Block { chunk_bytes, ..Block::new(1) });
        outpost.add(&Block::new(2));
        self.rules.into_iter().for_each(|rule| outpost.proxy.add(rule));
        let mut sidecar = outpost.start();
        if let Outcome::Fails(class, words) = self.outcome {
            let line = sidecar.wait_line("syncing blocks failed");
            for word in words {
                assert!(line.contains(word), "{}: no {word:?} in: {line}", self.name);
            }
            let counted = sidecar.metric(&format!("pillion_shipper_failures_total{{class=\"{class}\"}}"));
            assert!(counted >= 1.0, "{}: class {class}: {line}", self.name);
            assert!(outpost.in_bucket().is_empty() && outpost.listed().is_empty(), "{}", self.name);
            assert!(sidecar.stop().success());
            outpost.proxy.heal();
            sidecar = outpost.start();
        }
        outpost.wait_done(&sidecar);
        assert_eq!(outpost.proxy.heal(), 0, "{}: the fault was not met", self.name);
        let log = sidecar.log();
        assert!(sidecar.stop().success());
        outpost.expect_all();
        (self.check)(&outpost.proxy.seen());
        assert!(!log.contains("X-Amz-Signature") && !log.contains("pillion-secret"), "{}: {log}", self.name);
    }
}

/// How often a request came.
fn count(seen: &[Seen], method: &str, query: &str) -> usize {
    seen.iter().filter(|seen| seen.method == method && seen.query.contains(query)).count()
}

fn part(number: u32, fault: Fault) -> Rule {
    Rule::new(fault).method("PUT").query(&format!("partNumber={number}"))
}

/// The first chunk file's request of this kind.
fn upload(method: &'static str, query: &str, fault: Fault) -> Rule {
    Rule::new(fault).method(method).query(query).path("/chunks/000001")
}

fn put(path: &str, fault: Fault) -> Rule {
    Rule::new(fault).method("PUT").path(path)
}

/// Forgets an object that was stored and acknowledged.
fn forget(rgw: &'static Rgw) -> Fault {
    Fault::Then(Arc::new(move |path| {
        let (bucket, key) = path.trim_start_matches('/').split_once('/').unwrap();
        rgw.existing(bucket).delete(key);
    }))
}

/// Ends all uploads in parts of the bucket, as a rule of the store for old ones would.
fn clean_up(rgw: &'static Rgw) -> Fault {
    Fault::First(Arc::new(move |path| {
        let (bucket, _) = path.trim_start_matches('/').split_once('/').unwrap();
        rgw.existing(bucket).abort_uploads();
    }))
}

/// Runs them side by side; most of their time they wait. All that went wrong is told, not the first thing only.
fn run(rgw: &'static Rgw, cases: Vec<Case>) {
    let (cases, failed) = (Mutex::new(cases), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let Some(case) = cases.lock().unwrap().pop() else { return };
                    let name = case.name;
                    if catch_unwind(AssertUnwindSafe(|| case.run(rgw))).is_err() {
                        failed.lock().unwrap().push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "not as it should be: {failed:?}");
}

#[test]
fn a_bad_link_costs_time_and_no_block() {
    let Some(rgw) = Rgw::shared() else { return };
    use Outcome::{Fails, Shipped};
    let once_each = |seen: &[Seen]| {
        for number in ["partNumber=1", "partNumber=3"] {
            assert_eq!(count(seen, "PUT", number), 1, "{seen:?}");
        }
    };
    run(
        rgw,
        vec![
            Case::new("an answer takes its time", part(2, Fault::Delay(Duration::from_secs(2))), Shipped)
                .check(once_each),
            Case::new("a part is cut once", part(2, Fault::ResetUp(1 << 20)), Shipped).check(once_each),
            Case::new(
                "a part is cut each time",
                part(2, Fault::ResetUp(1 << 20)).times(3),
                Fails("network", &["UploadPart"]),
            )
            .check(once_each),
            Case::new("the answer to a part is lost", part(2, Fault::ResetDown(0)), Shipped).check(once_each),
            Case::new(
                "the answer to the last request is lost",
                upload("POST", "uploadId", Fault::ResetDown(0)),
                Shipped,
            )
            .check(once_each),
            Case::new(
                "the answer to the last request is cut",
                upload("POST", "uploadId", Fault::Truncate(20)),
                Shipped,
            )
            .check(once_each),
            Case::new(
                "the answer to the first request is lost",
                upload("POST", "uploads", Fault::ResetDown(0)),
                Shipped,
            )
            .check(once_each),
            Case::new(
                "nothing but silence comes back",
                put("/index", Fault::Silence).times(3),
                Fails("network", &["PutObject"]),
            )
            .config("http_config:\n  response_header_timeout: 1s"),
            Case::new("the answer to meta.json is lost", put("/meta.json", Fault::ResetDown(0)), Shipped),
            Case::new(
                "meta.json is cut each time",
                put("/meta.json", Fault::ResetUp(1)).times(3),
                Fails("network", &["upload meta file", "PutObject"]),
            ),
            Case::new("a byte is changed and MD5 tells", part(2, Fault::Corrupt), Shipped),
            Case::new("a byte is changed and only the ETag tells", part(2, Fault::Corrupt), Shipped)
                .config("send_content_md5: false"),
            Case::new("a byte of a small file is changed", put("/index", Fault::Corrupt), Shipped)
                .config("send_content_md5: false"),
        ],
    );
}

#[test]
fn a_bad_server_costs_time_and_no_block() {
    let Some(rgw) = Rgw::shared() else { return };
    use Outcome::{Fails, Shipped};
    run(
        rgw,
        vec![
            Case::new("slow down, twice", part(2, Fault::Refuse(503, "SlowDown")).times(2), Shipped),
            Case::new("slow down, before the body is read", part(2, Fault::RefuseEarly(503, "SlowDown")), Shipped),
            Case::new(
                "an internal error each time",
                put("/index", Fault::Refuse(500, "InternalError")).times(3),
                Fails("server", &["500 InternalError"]),
            ),
            Case::new(
                "it has done it and says it has not",
                upload("POST", "uploadId", Fault::Deny(500, "InternalError")),
                Shipped,
            ),
            Case::new(
                "it has begun and says it has not",
                upload("POST", "uploads", Fault::Deny(500, "InternalError")),
                Shipped,
            ),
            Case::new(
                "forbidden",
                put("/index", Fault::Refuse(403, "AccessDenied")).times(FOR_EVER),
                Fails("denied", &["403 AccessDenied", "s3:PutObject"]),
            )
            .check(|seen| {
                let asked = seen.iter().filter(|seen| seen.status == Some(403)).count();
                assert_eq!(asked, 1, "what is forbidden is not asked for again: {seen:?}");
            }),
            Case::new(
                "a bad request",
                put("/index", Fault::Refuse(400, "InvalidArgument")).times(FOR_EVER),
                Fails("permanent", &["400 InvalidArgument"]),
            ),
            Case::new("an object is acknowledged and not stored", put("/index", Fault::Lose), Shipped),
            Case::new(
                "an object is acknowledged and never stored",
                put("/index", Fault::Lose).times(FOR_EVER),
                Fails(
                    "integrity",
                    &["01J00000000000000000000001/index", "the store has acknowledged an object and has none"],
                ),
            ),
            Case::new("an object is stored, acknowledged and forgotten", put("/index", forget(rgw)), Shipped),
            Case::new(
                "a large object is forgotten",
                upload("POST", "uploadId", forget(rgw)),
                Fails("integrity", &["000001"]),
            ),
            Case::new(
                "success with an error in it",
                upload("POST", "uploadId", Fault::OkWithError("InternalError")),
                Shipped,
            ),
            Case::new("the upload is not known any more", part(3, clean_up(rgw)), Shipped),
        ],
    );
}
