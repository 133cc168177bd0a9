//! What a user sees of a Swift bucket, over a store in this process that can be told to fail. `swift_server.rs` has
//! OpenStack's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pillion_base::error::{Kind, Result};
use pillion_base::files::{Disk, Source};
use pillion_base::secret::Secret;
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_base::threads::spawn_thread;
use pillion_bucket::s3::Waits;
use pillion_bucket::swift::{Auth, Identity, Named, Project, SwiftBucket, SwiftConfig, User};
use pillion_bucket::{Bucket, Compared, Journal, NoJournal, Parts, Stored};
use pillion_testing::bucket;
use pillion_testing::fake_swift::{
    CONTAINER, Content, FakeSwift, Fault, PASSWORD, SEGMENTS_CONTAINER, SwiftFault, USER,
};
use pillion_testing::journal::{Kept, content};

const SEGMENT: usize = 64 * 1024;
/// A file of three segments.
const SIZE: usize = 2 * SEGMENT + 17;

struct Rig {
    fake: Arc<FakeSwift>,
    bucket: SwiftBucket,
    dir: tempfile::TempDir,
    stopper: Stopper,
    stop: Stop,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(|_, _| {})
    }

    fn dynamic() -> Rig {
        Rig::with(|config, _| config.is_dynamic = true)
    }

    fn with(change: impl FnOnce(&mut SwiftConfig, &FakeSwift)) -> Rig {
        let fake = Arc::new(FakeSwift::start());
        let mut config = SwiftConfig {
            auth_url: fake.url("auth/v1.0"),
            auth: Auth::V1 { user: USER.into(), key: Secret(PASSWORD.into()) },
            container: CONTAINER.into(),
            segments_container: CONTAINER.into(),
            segment_bytes: Some(SEGMENT as u64),
            ..SwiftConfig::default()
        };
        change(&mut config, &fake);
        let short = Duration::from_millis(2);
        let bucket = SwiftBucket::open(&config, "pillion-test", Arc::new(|_| None)).unwrap();
        let bucket = bucket.with_waits(Waits { step: short, step_max: short, rest: short, rest_max: short });
        let (stopper, stop) = stop_pair().unwrap();
        Rig { fake, bucket, dir: tempfile::tempdir().unwrap(), stopper, stop }
    }

    fn file(&self, bytes: &[u8]) -> Source {
        let path = self.dir.path().join(format!("file-{}", bytes.len()));
        std::fs::write(&path, bytes).unwrap();
        Disk::real().open_source(&path).unwrap()
    }

    fn upload(&self, journal: &dyn Journal) -> Result<Stored> {
        self.bucket.upload("01A/index", &self.file(&content(SIZE)), journal, &self.stop)
    }

    fn put(&self) -> Result<()> {
        self.bucket.upload_bytes("x", b"small", &self.stop)
    }

    /// How many requests of an operation there were since the last look.
    fn count(&self, operation: &str) -> usize {
        self.fake.operations().iter().filter(|seen| **seen == operation).count()
    }

    fn assert_whole(&self) {
        assert_eq!(self.fake.object("01A/index").unwrap(), content(SIZE));
        assert_eq!(self.fake.segments().len(), 3);
    }
}

fn keystone(config: &mut SwiftConfig, fake: &FakeSwift) {
    config.auth_url = fake.url("v3");
    let domain = || Named::Name("Default".into());
    config.auth = Auth::V3 {
        identity: Identity::Password {
            user: User::Name("u".into(), Some(domain())),
            password: Secret(PASSWORD.into()),
        },
        project: Some(Project::Name("p".into(), domain())),
    };
}

#[test]
fn the_suite_passes_on_the_fake() {
    let check = |rig: Rig| {
        bucket::suite(&rig.bucket);
        assert!(rig.fake.with(|state| state.containers.values().all(BTreeMap::is_empty)), "segments are left");
    };
    check(Rig::new());
    check(Rig::with(|config, _| config.page_names = 2));
    check(Rig::with(keystone));
    check(Rig::with(|config, fake| {
        config.auth_url = fake.url("v2.0/");
        config.auth = Auth::V2 { user: "u".into(), password: Secret(PASSWORD.into()), project: None };
    }));
    let small = |config: &mut SwiftConfig| (config.segment_bytes, config.page_names) = (Some(1000), 7);
    check(Rig::with(|config, _| small(config)));
    check(Rig::with(|config, _| {
        small(config);
        config.is_dynamic = true;
    }));
    check(Rig::with(|config, _| {
        small(config);
        config.segments_container = SEGMENTS_CONTAINER.into();
    }));
    check(Rig::with(|config, _| config.http.max_conns_per_host = 1));
    check(Rig::with(|_, fake| fake.with(|state| state.has_ids = false)));
}

#[test]
fn names_with_any_characters_are_stored_as_they_are() {
    let rig = Rig::new();
    for name in ["a b/c+d", "ü/%41&x=?#", "(a)'!*~.txt", "a:b@c,d;e$f"] {
        rig.bucket.upload_bytes(name, name.as_bytes(), &rig.stop).unwrap();
        assert_eq!(rig.bucket.get(name, &rig.stop).unwrap(), name.as_bytes(), "{name}");
        assert_eq!(rig.fake.object(name).unwrap(), name.as_bytes());
    }
}

#[test]
fn segments_are_no_objects_of_the_root() {
    let rig = Rig::new();
    rig.upload(&NoJournal).unwrap();
    let mut names = Vec::new();
    let mut each = |name: &str| {
        names.push(name.to_owned());
        Ok(())
    };
    rig.bucket.iter("", &mut each, &rig.stop).unwrap();
    assert_eq!(names, ["01A/"]);
}

/// How a request fails, and what follows: kind and class of the error, the number of attempts, and a part of the text.
#[test]
fn each_fault_has_its_outcome() {
    let check = |fault: Fault, times: usize, expected: std::result::Result<(), (Kind, &str, &str)>, n_asked: usize| {
        let rig = Rig::new();
        rig.bucket.upload_bytes("first", b"1", &rig.stop).unwrap();
        rig.fake.rule("PUT object", "x", 0, times, fault.clone());
        rig.fake.seen();
        let outcome = rig.put();
        assert_eq!(rig.count("PUT object"), n_asked, "{fault:?}: {outcome:?}");
        match (outcome, expected) {
            (Ok(()), Ok(())) => assert_eq!(rig.fake.object("x").unwrap(), b"small", "{fault:?}"),
            (Err(err), Err((kind, class, part))) => {
                assert_eq!((err.kind(), err.class()), (kind, class), "{fault:?}: {err}");
                assert!(err.to_string().contains(part), "{fault:?}: {err} lacks {part}");
                assert!(!err.to_string().contains("token-") && !err.to_string().contains(PASSWORD), "{err}");
            }
            (outcome, expected) => panic!("{fault:?}: {outcome:?}, not {expected:?}"),
        }
    };
    use Kind::{Permanent, Retry};
    check(Fault::Reset(0), 2, Ok(()), 3);
    check(Fault::Reset(0), 9, Err((Retry, "network", "PUT object fake-container/x at 127.0.0.1")), 4);
    check(Fault::LoseAnswer, 1, Ok(()), 2);
    check(Fault::Refuse(500, ""), 3, Ok(()), 4);
    check(Fault::Refuse(500, ""), 9, Err((Retry, "server", "500: Told so Status 500. (transaction tx-1)")), 4);
    for status in [429, 498, 503] {
        check(Fault::Refuse(status, ""), 2, Ok(()), 3);
        check(Fault::Refuse(status, ""), 9, Err((Retry, "throttled", "Told so")), 4);
    }
    check(Fault::Refuse(507, ""), 9, Err((Retry, "server", "no room left on its disks")), 4);
    check(Fault::Refuse(408, ""), 1, Ok(()), 2);
    check(Fault::Refuse(403, ""), 9, Err((Permanent, "denied", "lacks the right")), 1);
    check(Fault::Refuse(404, ""), 9, Err((Permanent, "no_bucket", "create the container fake-container")), 1);
    check(Fault::Refuse(413, ""), 9, Err((Permanent, "denied", "quota")), 1);
    check(Fault::Refuse(400, ""), 9, Err((Permanent, "permanent", "400")), 1);
    check(Fault::Own(SwiftFault::Damage), 1, Ok(()), 2);
    check(Fault::Own(SwiftFault::Damage), 9, Err((Retry, "integrity", "on the way")), 4);
    check(Fault::DoAndRefuse(504, ""), 1, Ok(()), 2);
    check(Fault::Corrupt, 1, Err((Retry, "integrity", "other bytes than were sent")), 1);
    check(Fault::Portal(200), 1, Ok(()), 2);
    check(Fault::Portal(200), 9, Err((Retry, "network", "not that of Swift")), 4);
    check(Fault::Portal(404), 1, Ok(()), 2);
    check(Fault::Portal(404), 9, Err((Retry, "network", "no answer of Swift")), 4);
    check(Fault::Portal(302), 9, Err((Permanent, "permanent", "redirects are not followed")), 1);
}

#[test]
fn the_reason_of_an_early_refusal_is_heard_although_the_connection_breaks() {
    let rig = Rig::with(|config, _| config.segment_bytes = Some(8 << 20));
    rig.fake.rule("PUT segment", "", 0, 9, Fault::RefuseEarly(413, ""));
    let source = rig.file(&content(9 << 20));
    let err = rig.bucket.upload("01A/index", &source, &NoJournal, &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "denied"), "{err}");
    assert_eq!(rig.fake.operations(), ["token v1", "info", "GET container", "PUT segment"]);
}

#[test]
fn a_missing_container_is_no_missing_object() {
    let rig = Rig::with(|config, _| config.container = "missing".into());
    for err in [
        rig.put().unwrap_err(),
        rig.bucket.exists("x", &rig.stop).unwrap_err(),
        rig.bucket.get("x", &rig.stop).unwrap_err(),
        rig.bucket.iter("", &mut |_| Ok(()), &rig.stop).unwrap_err(),
        rig.upload(&NoJournal).unwrap_err(),
    ] {
        assert_eq!((err.kind(), err.class()), (Kind::Permanent, "no_bucket"), "{err}");
        assert!(err.to_string().contains("create the container missing"), "{err}");
    }
    // Nobody asks for the container once it is known to be there.
    let rig = Rig::new();
    assert!(!rig.bucket.exists("x", &rig.stop).unwrap());
    assert!(!rig.bucket.exists("y", &rig.stop).unwrap());
    assert_eq!(rig.fake.operations(), ["token v1", "HEAD object", "HEAD container", "HEAD object"]);
    // Whoever must not look at it may still be told of objects.
    let rig = Rig::new();
    rig.fake.rule("HEAD container", "", 0, 9, Fault::Refuse(403, ""));
    assert!(!rig.bucket.exists("x", &rig.stop).unwrap());
}

#[test]
fn a_token_that_the_store_refuses_is_renewed_once() {
    for is_keystone in [false, true] {
        let rig = if is_keystone { Rig::with(keystone) } else { Rig::new() };
        let token = if is_keystone { "token v3" } else { "token v1" };
        rig.put().unwrap();
        assert_eq!(rig.fake.operations(), [token, "PUT object"]);
        rig.fake.with(|state| state.token = "of somebody else".into());
        rig.put().unwrap();
        assert_eq!(rig.fake.operations(), ["PUT object", token, "PUT object"]);
        rig.fake.rule("PUT object", "", 0, 9, Fault::Refuse(401, ""));
        let err = rig.put().unwrap_err();
        assert_eq!((err.kind(), err.class()), (Kind::Permanent, "credentials"), "{err}");
        assert!(err.to_string().contains("correct region_name"), "{err}");
        assert_eq!(rig.fake.operations(), ["PUT object", token, "PUT object"]);
    }
    // No token at all.
    let rig = Rig::with(|config, _| config.auth = Auth::V1 { user: USER.into(), key: Secret("hunter2".into()) });
    let err = rig.put().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "credentials"), "{err}");
    assert!(err.to_string().contains("correct username") && !err.to_string().contains("hunter2"), "{err}");
    assert_eq!(rig.fake.operations(), ["token v1"]);
    // The cloud has other regions.
    let rig = Rig::with(|config, fake| {
        keystone(config, fake);
        config.region = "three".into();
    });
    let err = rig.put().unwrap_err();
    assert!(err.class() == "credentials" && err.to_string().contains("it has one, two"), "{err}");
}

#[test]
fn a_token_that_ends_during_an_upload_costs_one_segment_at_most() {
    let rig = Rig::with(|config, _| config.segment_bytes = Some(4 << 20));
    rig.fake.rule("PUT segment", "", 1, 1, Fault::RefuseEarly(401, ""));
    let bytes = content(9 << 20);
    rig.bucket.upload("01A/index", &rig.file(&bytes), &NoJournal, &rig.stop).unwrap();
    assert_eq!(rig.fake.object("01A/index").unwrap(), bytes);
    let seen = rig.fake.operations();
    let n = |operation: &str| seen.iter().filter(|seen| **seen == operation).count();
    assert_eq!((n("PUT segment"), n("token v1")), (4, 2));
    // One that nears its end is renewed before.
    let rig = Rig::with(|_, fake| fake.with(|state| state.token_life_s = 1));
    rig.put().unwrap();
    rig.put().unwrap();
    assert_eq!(rig.fake.operations(), ["token v1", "PUT object", "PUT object"], "not at every request, though");
}

#[test]
fn a_segment_that_meets_a_fault_is_sent_again_and_nothing_else() {
    for fault in [
        Fault::Reset(SEGMENT / 2),
        Fault::LoseAnswer,
        Fault::Refuse(500, ""),
        Fault::Refuse(503, ""),
        Fault::Own(SwiftFault::Damage),
        Fault::RefuseEarly(500, ""),
    ] {
        let rig = Rig::new();
        rig.fake.rule("PUT segment", "", 1, 2, fault.clone());
        let stored = rig.upload(&NoJournal).unwrap();
        assert_eq!((stored.attributes.size_bytes, stored.resumed_bytes), (SIZE as u64, 0));
        rig.assert_whole();
        assert_eq!(rig.count("PUT segment"), 5, "{fault:?}");
    }
}

#[test]
fn wherever_it_is_killed_no_segment_is_sent_again() {
    // The first record comes before the first segment, one after each, and one before the list.
    for n_records in 1..=5 {
        for (has_journal, is_dynamic) in [(true, false), (false, false), (true, true), (false, true)] {
            let rig = if is_dynamic { Rig::dynamic() } else { Rig::new() };
            let journal = Kept::default();
            journal.fail_after(n_records);
            rig.upload(&journal).unwrap_err();
            let n_sent = rig.count("PUT segment");
            journal.recover();
            // Another process, whose journal may be lost.
            let lost = Kept::default();
            let stored = rig.upload(if has_journal { &journal } else { &lost }).unwrap();
            rig.assert_whole();
            let resumed_bytes = (n_sent * SEGMENT).min(SIZE);
            assert_eq!((n_sent + rig.count("PUT segment"), stored.resumed_bytes), (3, resumed_bytes as u64));
            assert_eq!((journal.parts().is_some(), lost.parts()), (!has_journal, None), "{n_records}");
        }
    }
}

#[test]
fn segments_that_are_not_listed_yet_are_looked_for() {
    let rig = Rig::new();
    let journal = Kept::default();
    journal.fail_after(3);
    rig.upload(&journal).unwrap_err();
    journal.recover();
    rig.fake.with(|state| state.unlisted = Some("segments/".into()));
    rig.fake.seen();
    let stored = rig.upload(&journal).unwrap();
    // The third was sent, but not noted.
    assert_eq!(stored.resumed_bytes, 2 * SEGMENT as u64);
    let seen = rig.fake.operations();
    let n = |operation: &str| seen.iter().filter(|seen| **seen == operation).count();
    assert_eq!((n("HEAD segment"), n("PUT segment")), (2, 1));
    assert_eq!(rig.fake.object("01A/index").unwrap(), content(SIZE));
    // Who may not list is no worse off.
    let rig = Rig::new();
    rig.fake.rule("GET container", "", 0, 9, Fault::Refuse(403, ""));
    rig.upload(&NoJournal).unwrap();
    rig.assert_whole();
}

#[test]
fn a_changed_file_takes_no_segment_of_the_old_one_and_leaves_none() {
    for is_dynamic in [false, true] {
        let rig = if is_dynamic { Rig::dynamic() } else { Rig::new() };
        let journal = Kept::default();
        journal.fail_after(2);
        rig.upload(&journal).unwrap_err();
        journal.recover();
        rig.fake.seen();
        let mut bytes = content(SIZE);
        bytes[0] ^= 1;
        let stored = rig.bucket.upload("01A/index", &rig.file(&bytes), &journal, &rig.stop).unwrap();
        assert_eq!(rig.fake.object("01A/index").unwrap(), bytes);
        assert_eq!((stored.resumed_bytes, rig.count("PUT segment"), rig.fake.segments().len()), (0, 3, 3));
        // Now it is so small that it goes in one piece.
        journal.fail_after(1);
        rig.upload(&journal).unwrap_err();
        journal.recover();
        rig.bucket.upload("01A/index", &rig.file(b"short"), &journal, &rig.stop).unwrap();
        assert_eq!(rig.fake.object("01A/index").unwrap(), b"short");
        assert_eq!((journal.parts(), rig.fake.segments()), (None, Vec::new()));
    }
}

#[test]
fn the_end_of_an_upload_is_looked_into() {
    use Kind::{Permanent, Retry};
    let check = |fault: Fault, times: usize, expected: std::result::Result<(), (Kind, &str)>| {
        let rig = Rig::new();
        let journal = Kept::default();
        rig.fake.rule("PUT manifest", "", 0, times, fault.clone());
        match (rig.upload(&journal), expected) {
            (Ok(stored), Ok(())) => {
                rig.assert_whole();
                assert_eq!((stored.attributes.size_bytes, journal.parts()), (SIZE as u64, None), "{fault:?}");
            }
            (Err(err), Err((kind, class))) => assert_eq!((err.kind(), err.class()), (kind, class), "{fault:?} {err}"),
            (outcome, expected) => panic!("{fault:?}: {outcome:?}, not {expected:?}"),
        }
    };
    check(Fault::LoseAnswer, 1, Ok(()));
    check(Fault::DoAndRefuse(500, ""), 1, Ok(()));
    check(Fault::Reset(0), 1, Ok(()));
    check(Fault::Refuse(500, ""), 2, Ok(()));
    check(Fault::Portal(200), 1, Ok(()));
    check(Fault::ForgetPieces, 1, Ok(()));
    check(Fault::ForgetPieces, 9, Err((Retry, "server")));
    check(Fault::Refuse(403, ""), 1, Err((Permanent, "denied")));
    // Acknowledged and not kept.
    check(Fault::Drop, 1, Err((Retry, "integrity")));
}

#[test]
fn segments_that_are_changed_or_dropped_by_the_store_are_found_out() {
    let rig = Rig::new();
    rig.fake.rule("PUT segment", "", 1, 1, Fault::Corrupt);
    let err = rig.upload(&NoJournal).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "integrity"), "{err}");
    // The next attempt does not take what is wrong.
    rig.upload(&NoJournal).unwrap();
    rig.assert_whole();
    let rig = Rig::new();
    rig.fake.rule("PUT segment", "", 1, 1, Fault::Drop);
    rig.upload(&NoJournal).unwrap();
    rig.assert_whole();
    // A dynamic large object is as large as its segments.
    let rig = Rig::dynamic();
    rig.fake.rule("PUT segment", "", 1, 1, Fault::Drop);
    let err = rig.upload(&NoJournal).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "integrity"), "{err}");
    rig.upload(&NoJournal).unwrap();
    rig.assert_whole();
}

#[test]
fn a_dynamic_large_object_is_looked_at_until_its_segments_show_up() {
    let rig = Rig::dynamic();
    rig.fake.with(|state| state.unlisted = Some("segments/".into()));
    let fake = Arc::clone(&rig.fake);
    let waiter = spawn_thread("test-lister", None, move || {
        let mut n_looks = 0;
        while n_looks < 2 {
            n_looks += fake.operations().iter().filter(|seen| **seen == "HEAD object").count();
            std::thread::yield_now();
        }
        fake.with(|state| state.unlisted = None);
    })
    .unwrap();
    rig.upload(&NoJournal).unwrap();
    waiter.join().unwrap();
    rig.assert_whole();
}

#[test]
fn stores_without_static_large_objects_get_one_piece_or_say_what_to_set() {
    // By `/info`, without a set size: in one piece.
    let bare = |fake: &FakeSwift| {
        fake.with(|state| {
            state.info = Some(r#"{"swift":{}}"#.into());
            state.has_static = false;
        });
    };
    let rig = Rig::with(|config, fake| {
        bare(fake);
        config.segment_bytes = None;
    });
    let size = (16 << 20) + 1;
    rig.bucket.upload("01A/index", &rig.file(&content(size)), &NoJournal, &rig.stop).unwrap();
    assert_eq!(rig.fake.operations(), ["token v1", "info", "PUT object"]);
    assert!(rig.fake.with(|state| matches!(&state.containers[CONTAINER]["01A/index"], Content::Plain(_))));
    let rig = Rig::with(|_, fake| bare(fake));
    rig.bucket.upload("01A/index", &rig.file(&content(size)), &NoJournal, &rig.stop).unwrap_err();
    // Where `/info` is switched off it shows when the list has become an object.
    let rig = Rig::with(|_, fake| {
        fake.with(|state| (state.info, state.has_static) = (None, false));
    });
    let err = rig.upload(&NoJournal).unwrap_err();
    assert!(err.kind() == Kind::Permanent && err.to_string().contains("use_dynamic_large_objects: true"), "{err}");
}

#[test]
fn the_stores_limits_count() {
    let rig = Rig::with(|config, fake| {
        config.segment_bytes = Some(1);
        let info =
            r#"{"swift":{"max_file_size":8388608},"slo":{"max_manifest_segments":4,"min_segment_size":1048576}}"#;
        fake.with(|state| state.info = Some(info.into()));
    });
    let size = 9 << 20;
    rig.bucket.upload("01A/index", &rig.file(&content(size)), &NoJournal, &rig.stop).unwrap();
    let bodies: Vec<usize> =
        rig.fake.seen().iter().filter(|seen| seen.operation == "PUT segment").map(|seen| seen.body_bytes).collect();
    assert_eq!(bodies, [size / 4; 4]);
}

#[test]
fn a_comparison_reads_only_what_no_sum_proves_and_reads_on_after_a_break() {
    let rig = Rig::new();
    let source = rig.file(&content(SIZE));
    let compare = || rig.bucket.compare("01A/index", &source, &rig.stop).unwrap();
    rig.upload(&NoJournal).unwrap();
    rig.fake.seen();
    assert_eq!(compare(), Compared::Same);
    assert_eq!(rig.fake.operations(), ["HEAD object"]);
    // As Thanos makes them: other segments, in another container.
    let whole = content(SIZE);
    rig.fake.with(|state| {
        let name = |idx: usize| format!("segments/3a1/bc/{idx:016}");
        let mut list = Vec::new();
        for (idx, piece) in whole.chunks(100_000).enumerate() {
            let segments = state.containers.get_mut(SEGMENTS_CONTAINER).unwrap();
            segments.insert(name(idx), Content::Plain(piece.to_vec()));
            list.push((SEGMENTS_CONTAINER.to_owned(), name(idx), piece.len()));
        }
        state.containers.get_mut(CONTAINER).unwrap().insert("01A/index".into(), Content::Static(list));
    });
    assert_eq!(compare(), Compared::Same);
    assert_eq!(rig.fake.operations(), ["HEAD object", "GET manifest"]);
    rig.fake.with(|state| {
        let dynamic = Content::Dynamic(SEGMENTS_CONTAINER.into(), "segments/3a1/bc/".into());
        state.containers.get_mut(CONTAINER).unwrap().insert("01A/index".into(), dynamic);
    });
    assert_eq!(compare(), Compared::Same);
    assert_eq!(rig.fake.operations(), ["HEAD object", "GET container"]);
    // A plain one whose bytes differ is read to the end of the doubt.
    let put = |bytes: Vec<u8>| {
        rig.fake.with(|state| {
            state.containers.get_mut(CONTAINER).unwrap().insert("01A/index".into(), Content::Plain(bytes))
        });
    };
    let mut bytes = content(SIZE);
    bytes[SIZE - 1] ^= 1;
    put(bytes);
    rig.fake.rule("GET object", "", 0, 1, Fault::Truncate);
    assert_eq!(compare(), Compared::Content);
    let ranges: Vec<bool> = rig
        .fake
        .seen()
        .iter()
        .filter(|seen| seen.operation == "GET object")
        .map(|seen| seen.headers.contains_key("range"))
        .collect();
    assert_eq!(ranges, [false, true]);
    put(content(SIZE));
    assert_eq!(compare(), Compared::Same);
    assert_eq!(rig.fake.operations(), ["HEAD object"]);
}

#[test]
fn a_small_object_that_arrives_damaged_is_refused() {
    let rig = Rig::new();
    rig.put().unwrap();
    assert_eq!(rig.bucket.get("x", &rig.stop).unwrap(), b"small");
    rig.fake.rule("GET object", "x", 0, 1, Fault::Portal(200));
    assert_eq!(rig.bucket.get("x", &rig.stop).unwrap(), b"small");
    rig.fake.rule("GET object", "x", 0, 4, Fault::Truncate);
    let err = rig.bucket.get("x", &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "network"), "{err}");
}

#[test]
fn a_large_object_goes_with_its_segments_wherever_they_are() {
    for is_dynamic in [false, true] {
        let rig = Rig::with(|config, _| {
            config.is_dynamic = is_dynamic;
            config.segments_container = SEGMENTS_CONTAINER.into();
        });
        rig.upload(&NoJournal).unwrap();
        assert_eq!(rig.fake.with(|state| state.containers[SEGMENTS_CONTAINER].len()), 3);
        rig.bucket.delete("01A/index", &rig.stop).unwrap();
        assert!(rig.fake.segments().is_empty());
        let err = rig.bucket.delete("01A/index", &rig.stop).unwrap_err();
        assert_eq!(err.kind(), Kind::NotFound, "{err}");
        // The answer is lost, and the next one says that it is missing.
        rig.upload(&NoJournal).unwrap();
        rig.fake.rule("DELETE object", "", 0, 1, Fault::LoseAnswer);
        rig.bucket.delete("01A/index", &rig.stop).unwrap();
        assert!(rig.fake.segments().is_empty());
    }
}

#[test]
fn what_is_abandoned_leaves_no_segment_unless_an_object_needs_it() {
    for is_dynamic in [false, true] {
        let rig = if is_dynamic { Rig::dynamic() } else { Rig::new() };
        let journal = Kept::default();
        journal.fail_after(2);
        rig.upload(&journal).unwrap_err();
        let parts = journal.parts().unwrap();
        // What was sent last is not listed yet.
        rig.fake.with(|state| state.unlisted = Some("segments/".into()));
        assert_eq!(rig.fake.segments().len(), 2);
        rig.bucket.abandon("01A/index", &parts, &rig.stop).unwrap();
        assert!(rig.fake.segments().is_empty());
        rig.fake.with(|state| state.unlisted = None);
        // Another object below the name has its own.
        rig.upload(&NoJournal).unwrap();
        let below = rig.file(&content(SIZE));
        rig.bucket.upload("01A/index/deeper", &below, &NoJournal, &rig.stop).unwrap();
        for parts in [&parts, &Parts::default()] {
            rig.bucket.abandon("01A/index", parts, &rig.stop).unwrap();
            assert_eq!(rig.fake.segments().len(), 6);
        }
        assert_eq!(rig.fake.object("01A/index").unwrap(), content(SIZE));
        // Ceph shows no list of segments: what an object needs shows in its tag, or nothing is removed.
        rig.fake.rule("GET manifest", "", 0, 9, Fault::Portal(204));
        rig.bucket.abandon("01A/index", &parts, &rig.stop).unwrap();
        assert_eq!(rig.fake.segments().len(), 6);
        rig.fake.with(|state| state.unlisted = Some("00000002".into()));
        if !is_dynamic {
            rig.bucket.abandon("01A/index", &parts, &rig.stop).unwrap();
            assert_eq!(rig.fake.segments().len(), 6);
        }
        rig.fake.with(|state| state.unlisted = None);
        rig.bucket.delete("01A/index", &rig.stop).unwrap();
        rig.bucket.abandon("01A/index", &parts, &rig.stop).unwrap();
        assert_eq!(rig.fake.object("01A/index/deeper").unwrap(), content(SIZE));
    }
}

#[test]
fn the_stop_ends_a_request_that_hangs() {
    for operation in ["token v1", "PUT segment"] {
        let rig = Rig::new();
        rig.fake.rule(operation, "", 0, 1, Fault::Hang);
        let source = rig.file(&content(SIZE));
        let (fake, stopper, stop) = (Arc::clone(&rig.fake), rig.stopper, rig.stop);
        let waiter = spawn_thread("test-stopper", None, move || {
            while !fake.operations().contains(&operation) {
                std::thread::yield_now();
            }
            stopper.stop();
        })
        .unwrap();
        let err = rig.bucket.upload("01A/index", &source, &NoJournal, &stop).unwrap_err();
        assert_eq!(err.kind(), Kind::Stopped, "{err}");
        waiter.join().unwrap();
    }
}
