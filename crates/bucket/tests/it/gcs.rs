//! What a user sees of a Google Cloud Storage bucket, over one in this process that can be told to fail. `gcs_server.rs` has
//! the emulator that others use.

use std::sync::Arc;
use std::time::Duration;

use pillion_base::error::{Kind, Result};
use pillion_base::files::{Disk, Source};
use pillion_base::secret::Secret;
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_base::threads::spawn_thread;
use pillion_bucket::gcs::{GcsBucket, GcsConfig};
use pillion_bucket::s3::Waits;
use pillion_bucket::{Bucket, Compared, Journal, NoJournal, Part, Parts, Stored};
use pillion_testing::bucket;
use pillion_testing::fake_gcs::{BUCKET, FakeGcs, Fault, GcsFault, SERVICE_KEY, UNIT, key_file};
use pillion_testing::journal::{Kept, content};

/// Two units, so that a part of one can be kept.
const CHUNK: usize = 2 * UNIT;
/// A file of three chunks.
const SIZE: usize = 2 * CHUNK + 17;

struct Rig {
    fake: Arc<FakeGcs>,
    bucket: GcsBucket,
    dir: tempfile::TempDir,
    stopper: Stopper,
    stop: Stop,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut GcsConfig)) -> Rig {
        Rig::of(Arc::new(FakeGcs::start()), change)
    }

    /// Another process with the same store.
    fn again(&self) -> Rig {
        Rig::of(Arc::clone(&self.fake), |_| {})
    }

    fn of(fake: Arc<FakeGcs>, change: impl FnOnce(&mut GcsConfig)) -> Rig {
        let mut config = GcsConfig {
            bucket: BUCKET.into(),
            endpoint: fake.endpoint(),
            service_account: Secret(key_file(&fake.token_url())),
            chunk_bytes: CHUNK as u64,
            max_attempts: 4,
            ..GcsConfig::default()
        };
        change(&mut config);
        let short = Duration::from_millis(2);
        let bucket = GcsBucket::open(&config, "pillion-test", Arc::new(|_| None)).unwrap();
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

    /// Bytes of chunks that arrived since the last look.
    fn sent_bytes(&self) -> usize {
        self.fake.seen().iter().filter(|seen| seen.operation == "chunk").map(|seen| seen.body_bytes).sum()
    }

    fn assert_whole(&self) {
        assert_eq!(self.fake.object("01A/index").unwrap(), content(SIZE));
        assert_eq!(self.fake.n_open_sessions(), 0);
    }
}

#[test]
fn the_suite_passes_on_the_fake() {
    let check = |rig: Rig| {
        rig.fake.with(|state| state.page_names = 2);
        bucket::suite(&rig.bucket);
        assert_eq!(rig.fake.n_open_sessions(), 0);
    };
    check(Rig::new());
    check(Rig::with(|config| config.chunk_bytes = 1));
    check(Rig::with(|config| config.http.max_conns_per_host = 1));
}

#[test]
fn names_with_any_characters_are_sent_as_they_are() {
    let rig = Rig::new();
    for name in ["a b/c+d", "ü/%41&x=?#", "(a)'!*~.txt", "a:b@c,d;e$f", "a//b"] {
        rig.bucket.upload_bytes(name, name.as_bytes(), &rig.stop).unwrap();
        assert_eq!(rig.bucket.get(name, &rig.stop).unwrap(), name.as_bytes(), "{name}");
        assert_eq!(rig.fake.object(name).unwrap(), name.as_bytes());
        let source = rig.file(&content(SIZE));
        rig.bucket.upload(name, &source, &NoJournal, &rig.stop).unwrap();
        assert_eq!(rig.fake.object(name).unwrap(), content(SIZE), "{name}");
    }
    let mut names = Vec::new();
    let mut each = |name: &str| {
        names.push(name.to_owned());
        Ok(())
    };
    rig.bucket.iter("ü", &mut each, &rig.stop).unwrap();
    assert_eq!(names, ["ü/%41&x=?#"]);
}

/// How a request fails, and what follows: kind and class of the error, the number of attempts, and a part of the text.
#[test]
fn each_fault_has_its_outcome() {
    let check = |fault: Fault, times: usize, expected: std::result::Result<(), (Kind, &str, &str)>, n_asked: usize| {
        let rig = Rig::new();
        rig.fake.rule("media", "x", 0, times, fault.clone());
        let outcome = rig.put();
        assert_eq!(rig.count("media"), n_asked, "{fault:?}: {outcome:?}");
        match (outcome, expected) {
            (Ok(()), Ok(())) => assert_eq!(rig.fake.object("x").unwrap(), b"small", "{fault:?}"),
            (Err(err), Err((kind, class, part))) => {
                assert_eq!((err.kind(), err.class()), (kind, class), "{fault:?}: {err}");
                assert!(err.to_string().contains(part), "{fault:?}: {err} lacks {part}");
                assert!(!err.to_string().contains("never-shown"), "{err}");
            }
            (outcome, expected) => panic!("{fault:?}: {outcome:?}, not {expected:?}"),
        }
    };
    use Kind::{Permanent, Retry};
    check(Fault::Reset(0), 2, Ok(()), 3);
    check(Fault::Reset(0), 9, Err((Retry, "network", "objects.insert fake-bucket/x at 127.0.0.1")), 4);
    check(Fault::LoseAnswer, 1, Ok(()), 2);
    check(Fault::Truncate, 1, Ok(()), 2);
    check(Fault::Refuse(500, "internalError"), 3, Ok(()), 4);
    check(Fault::Refuse(500, "internalError"), 9, Err((Retry, "server", "500 internalError: told so")), 4);
    check(Fault::Refuse(503, "backendError"), 2, Ok(()), 3);
    check(Fault::Refuse(503, "backendError"), 9, Err((Retry, "throttled", "503 backendError")), 4);
    check(Fault::Refuse(429, "rateLimitExceeded"), 2, Ok(()), 3);
    check(Fault::Refuse(403, "userRateLimitExceeded"), 2, Ok(()), 3);
    check(Fault::Refuse(403, "forbidden"), 9, Err((Permanent, "denied", "roles/storage.objectAdmin")), 1);
    check(Fault::Refuse(403, "accountDisabled"), 9, Err((Permanent, "denied", "billing")), 1);
    check(Fault::Refuse(400, "invalid"), 9, Err((Permanent, "permanent", "400 invalid")), 1);
    check(Fault::Own(GcsFault::Say(400, "invalid", "Provided MD5 hash doesn't match")), 1, Ok(()), 2);
    check(
        Fault::Own(GcsFault::Say(400, "invalid", "upload_id=never-shown")),
        9,
        Err((Permanent, "permanent", "repeats")),
        1,
    );
    check(Fault::DoAndRefuse(504, ""), 1, Ok(()), 2);
    check(Fault::Corrupt, 1, Err((Retry, "integrity", "another CRC-32C")), 1);
    check(Fault::Own(GcsFault::OtherSum), 1, Err((Retry, "integrity", "another CRC-32C")), 1);
    check(Fault::Portal(200), 1, Ok(()), 2);
    check(Fault::Portal(200), 9, Err((Retry, "network", "not that of Google")), 4);
    check(Fault::Portal(404), 1, Ok(()), 2);
    check(Fault::Portal(302), 9, Err((Permanent, "permanent", "redirects are not followed")), 1);
    check(Fault::Portal(308), 9, Err((Permanent, "permanent", "redirects are not followed")), 1);
}

#[test]
fn the_reason_of_an_early_refusal_is_heard_although_the_connection_breaks() {
    let rig = Rig::with(|config| config.chunk_bytes = 8 << 20);
    rig.fake.rule("chunk", "", 0, 9, Fault::RefuseEarly(403, "forbidden"));
    let source = rig.file(&content(9 << 20));
    let err = rig.bucket.upload("01A/index", &source, &NoJournal, &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "denied"), "{err}");
    assert_eq!(rig.fake.operations(), ["token", "begin", "chunk", "objects.get"]);
}

#[test]
fn a_bucket_that_is_missing_is_no_missing_object() {
    let rig = Rig::new();
    rig.fake.with(|state| state.has_bucket = false);
    let errors = [
        rig.put().unwrap_err(),
        rig.upload(&NoJournal).unwrap_err(),
        rig.bucket.exists("x", &rig.stop).unwrap_err(),
        rig.bucket.iter("", &mut |_| Ok(()), &rig.stop).unwrap_err(),
    ];
    for err in errors {
        assert_eq!((err.kind(), err.class()), (Kind::Permanent, "no_bucket"), "{err}");
        assert!(err.to_string().contains("create the bucket fake-bucket"), "{err}");
    }
}

#[test]
fn a_page_of_something_in_between_is_no_missing_object() {
    let rig = Rig::new();
    rig.put().unwrap();
    rig.fake.rule("", "x", 0, 99, Fault::Portal(404));
    for err in [rig.bucket.exists("x", &rig.stop).unwrap_err(), rig.bucket.get("x", &rig.stop).unwrap_err()] {
        assert_eq!((err.kind(), err.class()), (Kind::Retry, "network"), "{err}");
    }
}

#[test]
fn content_that_was_changed_on_the_way_is_found_out() {
    let rig = Rig::new();
    rig.put().unwrap();
    rig.fake.rule("content", "x", 0, 1, Fault::Truncate);
    assert_eq!(rig.bucket.get("x", &rig.stop).unwrap(), b"small");
    rig.fake.rule("content", "x", 0, 1, Fault::Corrupt);
    let err = rig.bucket.get("x", &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "integrity"), "{err}");
    rig.fake.rule("content", "x", 0, 9, Fault::Portal(200));
    let err = rig.bucket.get("x", &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "network"), "{err}");
}

#[test]
fn a_token_is_kept_and_renewed_once_when_it_is_refused() {
    let rig = Rig::new();
    rig.put().unwrap();
    rig.put().unwrap();
    assert_eq!(rig.fake.operations(), ["token", "media", "media"]);
    rig.fake.with(|state| state.token = "of somebody else".into());
    rig.upload(&NoJournal).unwrap();
    assert_eq!(rig.fake.operations()[..3], ["begin", "token", "begin"]);
    // In the middle of an upload.
    rig.fake.rule("chunk", "", 1, 1, Fault::Refuse(401, "authError"));
    rig.upload(&NoJournal).unwrap();
    assert_eq!(rig.fake.operations(), ["begin", "chunk", "chunk", "token", "chunk", "chunk"]);
    rig.fake.rule("", "x", 0, 9, Fault::Refuse(401, "authError"));
    let err = rig.put().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "credentials"), "{err}");
    assert_eq!(rig.fake.operations(), ["media", "token", "media"]);
}

#[test]
fn a_refused_statement_is_said_and_not_shown() {
    let rig = Rig::new();
    rig.fake.with(|state| state.offset_s = 7200);
    let err = rig.put().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "clock"), "{err}");
    let rig = Rig::with(|config| {
        config.service_account.0 = config.service_account.0.replace("fake@project", "hunter@project");
    });
    let err = rig.put().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "credentials"), "{err}");
    assert!(!err.to_string().contains("eyJ") && !err.to_string().contains(&SERVICE_KEY[30..60]), "{err}");
    assert_eq!(rig.fake.operations(), ["token"]);
}

#[test]
fn a_chunk_that_meets_a_fault_goes_on_where_the_store_is() {
    let check = |fault: Fault, times: usize, want: &[&str], sent_bytes: usize| {
        let rig = Rig::new();
        rig.fake.rule("chunk", "", 1, times, fault.clone());
        let stored = rig.upload(&NoJournal).unwrap();
        assert_eq!((stored.attributes.size_bytes, stored.resumed_bytes), (SIZE as u64, 0));
        rig.assert_whole();
        let seen = rig.fake.seen();
        let operations: Vec<&str> = seen.iter().map(|seen| seen.operation).collect();
        assert_eq!(operations[2..], *want, "{fault:?}");
        let bytes: usize = seen.iter().filter(|seen| seen.operation == "chunk").map(|seen| seen.body_bytes).sum();
        assert_eq!(bytes, sent_bytes, "{fault:?}");
    };
    let again = ["chunk", "chunk", "question", "chunk", "chunk"];
    // Of a chunk that breaks off the store keeps whole units.
    check(Fault::Reset(UNIT + 7), 1, &again, SIZE + 7);
    check(Fault::Reset(7), 1, &again, SIZE + 7);
    check(Fault::LoseAnswer, 1, &["chunk", "chunk", "question", "chunk"], SIZE);
    check(Fault::Refuse(500, "internalError"), 1, &again, SIZE + CHUNK);
    check(Fault::Refuse(503, "backendError"), 1, &again, SIZE + CHUNK);
    check(Fault::Refuse(429, "rateLimitExceeded"), 1, &again, SIZE + CHUNK);
    check(Fault::DoAndRefuse(503, "backendError"), 1, &["chunk", "chunk", "question", "chunk"], SIZE);
    check(Fault::Portal(200), 1, &again, SIZE + CHUNK);
    check(Fault::Portal(302), 0, &["chunk", "chunk", "chunk"], SIZE);
    // The answer says how much was kept.
    check(Fault::Own(GcsFault::Keep(UNIT)), 1, &["chunk", "chunk", "chunk", "chunk"], SIZE + UNIT);
    check(Fault::Own(GcsFault::Keep(0)), 1, &["chunk", "chunk", "chunk", "chunk"], SIZE + CHUNK);
}

#[test]
fn a_store_that_takes_no_more_bytes_is_given_up() {
    let check = |fault: Fault, class: &str| {
        let rig = Rig::new();
        rig.fake.rule("chunk", "", 1, 99, fault);
        let journal = Kept::default();
        let err = rig.upload(&journal).unwrap_err();
        assert_eq!((err.kind(), err.class()), (Kind::Retry, class), "{err}");
        assert_eq!(rig.count("chunk"), 1 + 4);
        assert!(!err.to_string().contains("never-shown"), "{err}");
        // What is there is not lost.
        assert_eq!(journal.parts().unwrap().sent.len(), 1);
    };
    check(Fault::Refuse(500, "internalError"), "server");
    check(Fault::Refuse(429, "rateLimitExceeded"), "throttled");
    check(Fault::Own(GcsFault::Keep(0)), "server");
    check(Fault::Reset(0), "network");
}

#[test]
fn wherever_it_is_killed_at_most_one_chunk_is_sent_again() {
    // A record after the beginning, one after each chunk but the last, and one in the end.
    for n_records in 0..=3 {
        let rig = Rig::new();
        let journal = Kept::default();
        journal.fail_after(n_records);
        rig.upload(&journal).unwrap_err();
        let n_sent = rig.sent_bytes();
        journal.recover();
        let next = rig.again();
        let stored = next.upload(&journal).unwrap();
        assert_eq!(rig.fake.object("01A/index").unwrap(), content(SIZE));
        // The store knows more than the journal.
        assert_eq!(stored.resumed_bytes, n_sent as u64, "{n_records}");
        assert_eq!(n_sent + next.sent_bytes(), SIZE, "{n_records}");
        assert_eq!(journal.parts(), None);
    }
}

#[test]
fn a_journal_that_is_lost_begins_anew() {
    let rig = Rig::new();
    let journal = Kept::default();
    journal.fail_after(2);
    rig.upload(&journal).unwrap_err();
    let stored = rig.upload(&NoJournal).unwrap();
    assert_eq!((stored.resumed_bytes, rig.fake.object("01A/index").unwrap()), (0, content(SIZE)));
}

#[test]
fn a_changed_file_ends_the_session_of_the_old_one() {
    let rig = Rig::new();
    let journal = Kept::default();
    journal.fail_after(2);
    rig.upload(&journal).unwrap_err();
    journal.recover();
    rig.fake.seen();
    let mut bytes = content(SIZE);
    bytes[0] ^= 1;
    let stored = rig.bucket.upload("01A/index", &rig.file(&bytes), &journal, &rig.stop).unwrap();
    assert_eq!((rig.fake.object("01A/index").unwrap(), stored.resumed_bytes), (bytes, 0));
    assert_eq!(rig.fake.n_open_sessions(), 0);
    assert_eq!(rig.fake.operations(), ["cancel", "begin", "chunk", "chunk", "chunk"]);
    // The same with a session of another bucket.
    let rig = Rig::new();
    let journal = Kept::default();
    journal.fail_after(2);
    rig.upload(&journal).unwrap_err();
    journal.recover();
    let mut parts = journal.parts().unwrap();
    parts.upload_id = parts.upload_id.replace(BUCKET, "other-bucket");
    journal.record(Some(&parts)).unwrap();
    rig.fake.seen();
    assert_eq!(rig.upload(&journal).unwrap().resumed_bytes, 0);
    assert_eq!(rig.fake.operations(), ["unknown", "begin", "chunk", "chunk", "chunk"]);
    // Before any chunk was recorded only the sum of the whole tells: no object is made of two files.
    let rig = Rig::new();
    let journal = Kept::default();
    journal.fail_after(1);
    rig.upload(&journal).unwrap_err();
    journal.recover();
    let mut bytes = content(SIZE);
    bytes[0] ^= 1;
    let err = rig.bucket.upload("01A/index", &rig.file(&bytes), &journal, &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "integrity"), "{err}");
    assert_eq!((rig.fake.object("01A/index"), journal.parts()), (None, None));
    rig.bucket.upload("01A/index", &rig.file(&bytes), &journal, &rig.stop).unwrap();
    assert_eq!(rig.fake.object("01A/index").unwrap(), bytes);
    // A small file takes the place of a large one.
    let rig = Rig::new();
    let journal = Kept::default();
    journal.fail_after(2);
    rig.upload(&journal).unwrap_err();
    journal.recover();
    rig.bucket.upload("01A/index", &rig.file(b"small"), &journal, &rig.stop).unwrap();
    assert_eq!((rig.fake.n_open_sessions(), journal.parts()), (0, None));
}

#[test]
fn a_session_that_is_gone_begins_anew() {
    for status in [404, 410] {
        // While it is sent, and when it is asked after a restart.
        let rig = Rig::new();
        rig.fake.rule("chunk", "", 1, 1, Fault::Own(GcsFault::Forget(status)));
        let stored = rig.upload(&NoJournal).unwrap();
        assert_eq!(stored.resumed_bytes, 0);
        rig.assert_whole();
        let want = ["token", "begin", "chunk", "chunk", "objects.get", "begin", "chunk", "chunk", "chunk"];
        assert_eq!(rig.fake.operations(), want);
        let rig = Rig::new();
        let journal = Kept::default();
        journal.fail_after(2);
        rig.upload(&journal).unwrap_err();
        journal.recover();
        rig.fake.rule("question", "", 0, 1, Fault::Own(GcsFault::Forget(status)));
        assert_eq!(rig.upload(&journal).unwrap().resumed_bytes, 0);
        rig.assert_whole();
        assert_eq!(journal.parts(), None);
    }
    // The object is there although its session is gone.
    let rig = Rig::new();
    let journal = Kept::default();
    journal.fail_after(3);
    rig.upload(&journal).unwrap_err();
    journal.recover();
    rig.fake.with(|state| state.sessions.clear());
    rig.fake.seen();
    assert_eq!(rig.upload(&journal).unwrap().resumed_bytes, SIZE as u64);
    assert_eq!((rig.fake.operations(), journal.parts()), (vec!["question", "objects.get"], None));
    let rig = Rig::new();
    rig.fake.rule("chunk", "", 0, 99, Fault::Own(GcsFault::Forget(410)));
    let journal = Kept::default();
    let err = rig.upload(&journal).unwrap_err();
    assert_eq!((err.kind(), err.class(), journal.parts()), (Kind::Retry, "server", None), "{err}");
    assert_eq!(rig.count("begin"), 2);
}

#[test]
fn the_end_of_an_upload_is_looked_into() {
    use Kind::{Permanent, Retry};
    let check = |fault: Fault, times: usize, expected: std::result::Result<usize, (Kind, &str)>| {
        let rig = Rig::new();
        let journal = Kept::default();
        rig.fake.rule("chunk", "", 2, times, fault.clone());
        match (rig.upload(&journal), expected) {
            (Ok(stored), Ok(n_chunks)) => {
                rig.assert_whole();
                assert_eq!((stored.attributes.size_bytes, journal.parts()), (SIZE as u64, None), "{fault:?}");
                assert_eq!(rig.bucket.attributes("01A/index", &rig.stop).unwrap(), stored.attributes);
                assert_eq!(rig.count("chunk"), n_chunks, "{fault:?}");
            }
            (Err(err), Err((kind, class))) => assert_eq!((err.kind(), err.class()), (kind, class), "{fault:?} {err}"),
            (outcome, expected) => panic!("{fault:?}: {outcome:?}, not {expected:?}"),
        }
    };
    check(Fault::LoseAnswer, 1, Ok(3));
    check(Fault::Truncate, 1, Ok(3));
    check(Fault::DoAndRefuse(500, "internalError"), 1, Ok(3));
    check(Fault::Reset(0), 1, Ok(4));
    check(Fault::Refuse(500, "internalError"), 2, Ok(5));
    check(Fault::Portal(200), 1, Ok(4));
    check(Fault::Own(GcsFault::Forget(404)), 1, Ok(6));
    check(Fault::Refuse(403, "forbidden"), 1, Err((Permanent, "denied")));
    check(Fault::Corrupt, 1, Err((Retry, "integrity")));
    check(Fault::Own(GcsFault::OtherSum), 1, Err((Retry, "integrity")));
}

#[test]
fn chunks_that_the_store_damages_make_no_object() {
    let rig = Rig::new();
    rig.fake.rule("chunk", "", 1, 1, Fault::Corrupt);
    let journal = Kept::default();
    let err = rig.upload(&journal).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "integrity"), "{err}");
    assert_eq!((rig.fake.object("01A/index"), journal.parts()), (None, None));
    rig.upload(&journal).unwrap();
    rig.assert_whole();
}

#[test]
fn without_the_right_to_replace_an_object_that_is_as_it_should_be_counts_as_stored() {
    let rig = Rig::new();
    rig.fake.with(|state| state.forbids_replacing = true);
    rig.fake.rule("media", "", 0, 1, Fault::LoseAnswer);
    rig.put().unwrap();
    let first = rig.upload(&NoJournal).unwrap();
    assert_eq!(rig.upload(&NoJournal).unwrap().attributes, first.attributes);
    // Another content is refused.
    let err = rig.bucket.upload_bytes("x", b"other", &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "denied"), "{err}");
    assert!(err.to_string().contains("to replace an object"), "{err}");
    let mut bytes = content(SIZE);
    bytes[0] ^= 1;
    let err = rig.bucket.upload("01A/index", &rig.file(&bytes), &NoJournal, &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "denied"), "{err}");
}

#[test]
fn an_object_without_sums_is_compared_by_its_bytes_and_read_on_after_a_break() {
    let rig = Rig::new();
    rig.upload(&NoJournal).unwrap();
    let source = rig.file(&content(SIZE));
    let compare = || rig.bucket.compare("01A/index", &source, &rig.stop).unwrap();
    rig.fake.seen();
    assert_eq!(compare(), Compared::Same);
    assert_eq!(rig.fake.operations(), ["objects.get"]);
    rig.fake.with(|state| state.objects.get_mut("01A/index").unwrap().has_no_sums = true);
    rig.fake.rule("content", "", 0, 1, Fault::Truncate);
    assert_eq!(compare(), Compared::Same);
    let seen = rig.fake.seen();
    let ranges: Vec<bool> =
        seen.iter().filter(|seen| seen.operation == "content").map(|seen| seen.headers.contains_key("range")).collect();
    assert_eq!(ranges, [false, true]);
    for has_no_sums in [true, false] {
        rig.fake.with(|state| {
            let object = state.objects.get_mut("01A/index").unwrap();
            (object.bytes[9], object.has_no_sums) = (object.bytes[9] ^ 1, has_no_sums);
        });
        assert_eq!(compare(), if has_no_sums { Compared::Content } else { Compared::Same });
    }
    rig.fake.with(|state| state.objects.get_mut("01A/index").unwrap().bytes[9] ^= 1);
    assert_eq!(compare(), Compared::Content);
}

#[test]
fn a_deletion_removes_the_version_that_was_seen() {
    let rig = Rig::new();
    rig.put().unwrap();
    rig.fake.rule("objects.delete", "", 0, 1, Fault::LoseAnswer);
    rig.bucket.delete("x", &rig.stop).unwrap();
    rig.put().unwrap();
    rig.fake.seen();
    rig.bucket.delete("x", &rig.stop).unwrap();
    let seen = rig.fake.seen();
    let deletion = seen.iter().find(|seen| seen.operation == "objects.delete").unwrap();
    assert!(deletion.query.contains_key("ifGenerationMatch"), "{deletion:?}");
}

#[test]
fn to_abandon_ends_the_session() {
    let rig = Rig::new();
    let journal = Kept::default();
    journal.fail_after(2);
    rig.upload(&journal).unwrap_err();
    let parts = journal.parts().unwrap();
    assert_eq!(rig.fake.n_open_sessions(), 1);
    for _ in 0..2 {
        rig.bucket.abandon("01A/index", &parts, &rig.stop).unwrap();
        assert_eq!(rig.fake.n_open_sessions(), 0);
    }
    // A foreign id sends nothing, above all no token.
    rig.fake.seen();
    let part = Part { tag: "x".into(), md5: "y".into() };
    for id in ["", "unknown", "https://elsewhere.example/upload/storage/v1/b/x/o?upload_id=1"] {
        let parts = Parts { upload_id: id.into(), part_bytes: 1, size_bytes: 1, sent: vec![part.clone()] };
        rig.bucket.abandon("01A/index", &parts, &rig.stop).unwrap();
    }
    assert!(rig.fake.operations().is_empty());
}

#[test]
fn an_emulator_is_sent_no_token() {
    let fake = FakeGcs::start();
    fake.with(|state| state.is_open = true);
    let host = format!("127.0.0.1:{}", fake.port);
    let env = move |name: &str| (name == "STORAGE_EMULATOR_HOST").then(|| host.clone());
    let config = GcsConfig { bucket: BUCKET.into(), chunk_bytes: CHUNK as u64, ..GcsConfig::default() };
    let bucket = GcsBucket::open(&config, "pillion-test", Arc::new(env)).unwrap();
    let (_stopper, stop) = stop_pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index");
    std::fs::write(&file, content(SIZE)).unwrap();
    let source = Disk::real().open_source(&file).unwrap();
    let journal = Kept::default();
    journal.fail_after(2);
    bucket.upload("01A/index", &source, &journal, &stop).unwrap_err();
    journal.recover();
    // The fake refuses the empty chunk that fake-gcs-server is asked with.
    assert_eq!(bucket.upload("01A/index", &source, &journal, &stop).unwrap().resumed_bytes, 2 * CHUNK as u64);
    assert_eq!(fake.object("01A/index").unwrap(), content(SIZE));
    assert_eq!(fake.operations(), ["begin", "chunk", "chunk", "chunk", "question", "chunk"]);
}

#[test]
fn the_stop_ends_a_request_that_hangs() {
    let rig = Rig::new();
    rig.fake.rule("chunk", "", 0, 1, Fault::Hang);
    let source = rig.file(&content(SIZE));
    let (fake, stopper, stop) = (Arc::clone(&rig.fake), rig.stopper, rig.stop);
    let waiter = spawn_thread("test-stopper", None, move || {
        while !fake.operations().contains(&"chunk") {
            std::thread::yield_now();
        }
        stopper.stop();
    })
    .unwrap();
    let err = rig.bucket.upload("01A/index", &source, &NoJournal, &stop).unwrap_err();
    assert_eq!(err.kind(), Kind::Stopped, "{err}");
    waiter.join().unwrap();
}
