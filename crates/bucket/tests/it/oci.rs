//! What a user sees of a bucket of Oracle Cloud, over a store in this process that can be told to fail.

use std::sync::Arc;
use std::time::Duration;

use pillion_base::error::{Kind, Result};
use pillion_base::files::{Disk, Source};
use pillion_base::secret::Secret;
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_base::threads::spawn_thread;
use pillion_bucket::oci::{Auth, OciBucket, OciConfig};
use pillion_bucket::s3::Waits;
use pillion_bucket::{Bucket, Compared, Journal, NoJournal, Part, Parts, Stored};
use pillion_testing::bucket;
use pillion_testing::fake_oci::{BUCKET, FINGERPRINT, FakeOci, Fault, KEY_PEM, TENANCY, USER};
use pillion_testing::journal::{Kept, content};

const PART: usize = 64 * 1024;
/// A file of three parts.
const SIZE: usize = 2 * PART + 17;

struct Rig {
    fake: Arc<FakeOci>,
    bucket: OciBucket,
    dir: tempfile::TempDir,
    stopper: Stopper,
    stop: Stop,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut OciConfig)) -> Rig {
        Rig::with_env(change, tempfile::tempdir().unwrap())
    }

    /// `dir` is the home.
    fn with_env(change: impl FnOnce(&mut OciConfig), dir: tempfile::TempDir) -> Rig {
        let fake = Arc::new(FakeOci::start());
        let mut config = OciConfig {
            bucket: BUCKET.into(),
            endpoint: fake.endpoint(),
            auth: Auth::Keys {
                tenancy: TENANCY.into(),
                user: USER.into(),
                region: "eu-frankfurt-1".into(),
                fingerprint: FINGERPRINT.into(),
                private_key: Secret(KEY_PEM.into()),
            },
            part_bytes: PART as u64,
            ..OciConfig::default()
        };
        change(&mut config);
        let home = dir.path().to_str().unwrap().to_owned();
        let (metadata, auth) = (fake.metadata(), fake.endpoint());
        let env = move |name: &str| match name {
            "HOME" => Some(home.clone()),
            "OCI_METADATA_BASE_URL" => Some(metadata.clone()),
            "OCI_SDK_AUTH_CLIENT_REGION_URL" => Some(auth.clone()),
            _ => None,
        };
        let short = Duration::from_millis(2);
        let bucket = OciBucket::open(&config, "pillion-test", Arc::new(env)).unwrap();
        let bucket = bucket.with_waits(Waits { step: short, step_max: short, rest: short, rest_max: short });
        let (stopper, stop) = stop_pair().unwrap();
        Rig { fake, bucket, dir, stopper, stop }
    }

    fn on_an_instance() -> Rig {
        Rig::with(|config| {
            config.auth = Auth::Instance { region: "eu-frankfurt-1".into(), session_key: Secret(KEY_PEM.into()) };
        })
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
        assert_eq!(self.fake.n_uploads(), 0);
    }
}

#[test]
fn the_suite_passes_on_the_fake() {
    let check = |rig: Rig| {
        rig.fake.with(|state| state.page_len = 2);
        bucket::suite(&rig.bucket);
        assert_eq!(rig.fake.n_uploads(), 0);
    };
    check(Rig::new());
    check(Rig::on_an_instance());
    check(Rig::with(|config| config.part_bytes = 1000));
    check(Rig::with(|config| config.http.max_conns_per_host = 1));
}

#[test]
fn names_with_any_characters_are_signed_and_stored_as_they_are() {
    let rig = Rig::new();
    for name in ["a b/c+d", "ü/%41&x=?#", "(a)'!*~.txt", "a:b@c,d;e$f"] {
        rig.bucket.upload_bytes(name, name.as_bytes(), &rig.stop).unwrap();
        assert_eq!(rig.bucket.get(name, &rig.stop).unwrap(), name.as_bytes(), "{name}");
        assert_eq!(rig.fake.object(name).unwrap(), name.as_bytes());
    }
    let mut names = Vec::new();
    let mut each = |name: &str| {
        names.push(name.to_owned());
        Ok(())
    };
    rig.bucket.iter("ü", &mut each, &rig.stop).unwrap();
    assert_eq!(names, ["ü/%41&x=?#"]);
}

#[test]
fn the_namespace_is_asked_for_once() {
    let rig = Rig::new();
    rig.fake.rule("GetNamespace", "", 0, 9, Fault::Refuse(500, "InternalServerError"));
    let err = rig.put().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "server"), "{err}");
    assert!(err.to_string().contains("GetNamespace"), "{err}");
    assert_eq!(rig.count("GetNamespace"), 4);
    let rig = Rig::new();
    rig.put().unwrap();
    rig.put().unwrap();
    assert_eq!(rig.fake.operations(), ["GetNamespace", "PutObject", "PutObject"]);
}

/// How a request fails, and what follows: kind and class of the error, the number of attempts, and a part of the text.
#[test]
fn each_fault_has_its_outcome() {
    let check = |fault: Fault, times: usize, expected: std::result::Result<(), (Kind, &str, &str)>, n_asked: usize| {
        let rig = Rig::new();
        rig.fake.rule("PutObject", "x", 0, times, fault.clone());
        let outcome = rig.put();
        assert_eq!(rig.count("PutObject"), n_asked, "{fault:?}: {outcome:?}");
        match (outcome, expected) {
            (Ok(()), Ok(())) => assert_eq!(rig.fake.object("x").unwrap(), b"small", "{fault:?}"),
            (Err(err), Err((kind, class, part))) => {
                assert_eq!((err.kind(), err.class()), (kind, class), "{fault:?}: {err}");
                assert!(err.to_string().contains(part), "{fault:?}: {err} lacks {part}");
                assert!(!err.to_string().contains("Signature") && !err.to_string().contains(FINGERPRINT), "{err}");
            }
            (outcome, expected) => panic!("{fault:?}: {outcome:?}, not {expected:?}"),
        }
    };
    use Kind::{Permanent, Retry};
    check(Fault::Reset(0), 2, Ok(()), 3);
    check(Fault::Reset(0), 9, Err((Retry, "network", "PutObject fake-bucket/x at 127.0.0.1")), 4);
    check(Fault::LoseAnswer, 1, Ok(()), 2);
    check(Fault::Refuse(500, "InternalServerError"), 3, Ok(()), 4);
    let text = "500 InternalServerError: told so (opc-request-id fra-1:req)";
    check(Fault::Refuse(500, "InternalServerError"), 9, Err((Retry, "server", text)), 4);
    check(Fault::Refuse(429, "TooManyRequests"), 2, Ok(()), 3);
    check(Fault::Refuse(429, "TooManyRequests"), 9, Err((Retry, "throttled", "TooManyRequests")), 4);
    check(Fault::Refuse(503, "ServiceUnavailable"), 9, Err((Retry, "throttled", "503")), 4);
    check(Fault::Refuse(404, "NotAuthorizedOrNotFound"), 9, Err((Permanent, "denied", "manage objects")), 1);
    check(Fault::Refuse(401, "NotAuthenticated"), 9, Err((Permanent, "credentials", "no API key")), 1);
    check(Fault::Refuse(400, "InvalidParameter"), 9, Err((Permanent, "permanent", "400 InvalidParameter")), 1);
    check(Fault::Refuse(400, "UnmatchedContentMD5"), 1, Ok(()), 2);
    check(Fault::Refuse(409, "ConcurrentObjectUpdate"), 1, Ok(()), 2);
    check(Fault::DoAndRefuse(504, ""), 1, Ok(()), 2);
    check(Fault::Corrupt, 1, Err((Retry, "integrity", "other bytes than were sent")), 1);
    check(Fault::Portal(200), 1, Ok(()), 2);
    check(Fault::Portal(200), 9, Err((Retry, "network", "not that of Oracle")), 4);
    check(Fault::Portal(404), 1, Ok(()), 2);
    check(Fault::Portal(302), 9, Err((Permanent, "permanent", "redirects are not followed")), 1);
}

#[test]
fn the_reason_of_an_early_refusal_is_heard_although_the_connection_breaks() {
    let rig = Rig::with(|config| config.part_bytes = 8 << 20);
    rig.fake.rule("UploadPart", "", 0, 9, Fault::RefuseEarly(404, "NotAuthorizedOrNotFound"));
    let source = rig.file(&content(9 << 20));
    let err = rig.bucket.upload("01A/index", &source, &NoJournal, &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "denied"), "{err}");
    // Nobody remembers the upload, so nothing of it stays.
    assert_eq!(rig.fake.operations(), ["GetNamespace", "CreateMultipartUpload", "UploadPart", "AbortMultipartUpload"]);
    assert_eq!(rig.fake.n_uploads(), 0);
}

#[test]
fn a_missing_bucket_is_no_missing_object() {
    let rig = Rig::new();
    assert!(!rig.bucket.exists("x", &rig.stop).unwrap());
    // The answer to a HEAD does not say what is missing.
    assert_eq!(rig.fake.operations(), ["GetNamespace", "HeadObject", "GetObject"]);
    rig.fake.with(|state| state.has_bucket = false);
    for err in [rig.put().unwrap_err(), rig.bucket.exists("x", &rig.stop).unwrap_err()] {
        assert_eq!((err.kind(), err.class()), (Kind::Permanent, "no_bucket"), "{err}");
        assert!(err.to_string().contains("create the bucket fake-bucket"), "{err}");
    }
    // Somebody writes the object between the two requests.
    let rig = Rig::new();
    rig.put().unwrap();
    rig.fake.rule("HeadObject", "", 0, 1, Fault::Refuse(404, ""));
    assert_eq!(rig.bucket.exists("x", &rig.stop).unwrap_err().kind(), Kind::Retry);
}

#[test]
fn a_clock_that_differs_is_corrected_by_the_stores() {
    for offset_s in [7200, -7200] {
        let rig = Rig::new();
        rig.fake.with(|state| state.offset_s = offset_s);
        rig.put().unwrap();
        assert_eq!(rig.fake.operations(), ["GetNamespace", "GetNamespace", "PutObject"]);
        rig.put().unwrap();
        assert_eq!(rig.fake.operations(), ["PutObject"]);
    }
}

#[test]
fn a_profile_is_read_again_when_the_store_refuses_its_key() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".oci")).unwrap();
    std::fs::write(home.path().join("key.pem"), KEY_PEM).unwrap();
    let path = home.path().join(".oci/config");
    let write = |user: &str| {
        let text = format!(
            "[DEFAULT]\nuser={user}\nfingerprint={FINGERPRINT}\ntenancy={TENANCY}\nregion=eu-frankfurt-1\nkey_file=~/key.pem\n"
        );
        std::fs::write(&path, text).unwrap();
    };
    write("somebody-else");
    let rig = Rig::with_env(|config| config.auth = Auth::Profile, home);
    let err = rig.put().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "credentials"), "{err}");
    assert_eq!(rig.fake.operations(), ["GetNamespace"]);
    write(USER);
    rig.put().unwrap();
    assert_eq!(rig.fake.operations(), ["GetNamespace", "GetNamespace", "PutObject"]);
    // Both reasons are told.
    std::fs::write(&path, "").unwrap();
    rig.fake.with(|state| state.key_id = "another".into());
    let err = rig.put().unwrap_err().to_string();
    assert!(err.contains("401 NotAuthenticated") && err.contains("no section [DEFAULT]"), "{err}");
}

#[test]
fn a_token_of_the_machine_that_the_store_refuses_is_renewed_once() {
    let rig = Rig::on_an_instance();
    rig.put().unwrap();
    let fetched = ["metadata", "metadata", "metadata", "x509"];
    assert_eq!(rig.fake.operations(), [&fetched[..], &["GetNamespace", "PutObject"]].concat());
    rig.fake.with(|state| state.key_id = "of somebody else".into());
    rig.put().unwrap();
    assert_eq!(rig.fake.operations(), [&["PutObject"], &fetched[..], &["PutObject"]].concat());
    rig.fake.rule("PutObject", "", 0, 9, Fault::Refuse(401, "NotAuthenticated"));
    let err = rig.put().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "credentials"), "{err}");
    assert!(err.to_string().contains("the token of this instance") && !err.to_string().contains("head."), "{err}");
    assert_eq!(rig.fake.operations(), [&["PutObject"], &fetched[..], &["PutObject"]].concat());
    // No token at all.
    let rig = Rig::on_an_instance();
    rig.fake.rule("metadata", "cert.pem", 0, 9, Fault::Reset(0));
    let err = rig.put().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "credentials"), "{err}");
    assert!(err.to_string().contains("which instances of Oracle Cloud have"), "{err}");
}

#[test]
fn a_part_that_meets_a_fault_is_sent_again_and_nothing_else() {
    for fault in [
        Fault::Reset(PART / 2),
        Fault::LoseAnswer,
        Fault::Refuse(500, "InternalServerError"),
        Fault::Refuse(429, "TooManyRequests"),
        Fault::RefuseEarly(500, "InternalServerError"),
    ] {
        let rig = Rig::new();
        rig.fake.rule("UploadPart", "", 1, 2, fault.clone());
        let stored = rig.upload(&NoJournal).unwrap();
        assert_eq!((stored.attributes.size_bytes, stored.resumed_bytes), (SIZE as u64, 0));
        rig.assert_whole();
        assert_eq!(rig.count("UploadPart"), 5, "{fault:?}");
    }
}

#[test]
fn wherever_it_is_killed_no_part_is_sent_again() {
    // One record before the upload begins and one with its id, one after each part, one before the object is made, one
    // when it is.
    for n_records in 0..=6 {
        let rig = Rig::new();
        let journal = Kept::default();
        journal.fail_after(n_records);
        rig.upload(&journal).unwrap_err();
        let n_sent = rig.count("UploadPart");
        journal.recover();
        let stored = rig.upload(&journal).unwrap();
        rig.assert_whole();
        let resumed_bytes = if n_records < 2 { 0 } else { (n_sent * PART).min(SIZE) };
        assert_eq!((n_sent + rig.count("UploadPart"), stored.resumed_bytes), (3, resumed_bytes as u64), "{n_records}");
        assert_eq!(journal.parts(), None, "{n_records}");
    }
}

#[test]
fn the_journal_is_relied_on_where_parts_cannot_be_listed() {
    let rig = Rig::new();
    let journal = Kept::default();
    // The second part has arrived, and is not recorded.
    journal.fail_after(3);
    rig.upload(&journal).unwrap_err();
    journal.recover();
    rig.fake.seen();
    rig.fake.rule("ListMultipartUploadParts", "", 0, 9, Fault::Refuse(404, "NotAuthorizedOrNotFound"));
    let stored = rig.upload(&journal).unwrap();
    rig.assert_whole();
    assert_eq!((stored.resumed_bytes, rig.count("UploadPart")), (PART as u64, 2));
}

#[test]
fn a_changed_file_takes_no_part_of_the_old_one() {
    let rig = Rig::new();
    let journal = Kept::default();
    journal.fail_after(3);
    rig.upload(&journal).unwrap_err();
    journal.recover();
    rig.fake.seen();
    let mut bytes = content(SIZE);
    bytes[0] ^= 1;
    let stored = rig.bucket.upload("01A/index", &rig.file(&bytes), &journal, &rig.stop).unwrap();
    assert_eq!(rig.fake.object("01A/index").unwrap(), bytes);
    assert_eq!((stored.resumed_bytes, rig.count("UploadPart")), (PART as u64, 2));
    // Of another size, the upload begins anew, and nothing of the old one stays.
    journal.fail_after(3);
    rig.upload(&journal).unwrap_err();
    journal.recover();
    for size in [SIZE + 1, 5] {
        let bytes = content(size);
        let stored = rig.bucket.upload("01A/index", &rig.file(&bytes), &journal, &rig.stop).unwrap();
        assert_eq!((stored.resumed_bytes, rig.fake.n_uploads(), journal.parts()), (0, 0, None), "{size}");
        assert_eq!(rig.fake.object("01A/index").unwrap(), bytes);
        journal.record(Some(&Parts { upload_id: "gone".into(), ..Parts::default() })).unwrap();
    }
}

#[test]
fn an_upload_whose_id_never_arrived_does_not_stay() {
    let rig = Rig::new();
    rig.fake.with(|state| state.page_len = 1);
    rig.fake.rule("CreateMultipartUpload", "", 0, 2, Fault::LoseAnswer);
    rig.upload(&NoJournal).unwrap();
    rig.assert_whole();
    // Those of other objects do.
    let rig = Rig::new();
    rig.fake.rule("UploadPart", "other", 0, 9, Fault::Refuse(400, "InvalidParameter"));
    let other = Kept::default();
    rig.bucket.upload("other", &rig.file(&content(SIZE)), &other, &rig.stop).unwrap_err();
    let unnamed = Parts { part_bytes: PART as u64, size_bytes: SIZE as u64, ..Parts::default() };
    rig.bucket.abandon("01A/index", &unnamed, &rig.stop).unwrap();
    assert_eq!(rig.fake.n_uploads(), 1);
    // Without the right to look, the upload goes on.
    rig.fake.rule("ListMultipartUploads", "", 0, 9, Fault::Refuse(404, "NotAuthorizedOrNotFound"));
    rig.bucket.abandon("other", &unnamed, &rig.stop).unwrap();
    rig.bucket.abandon("other", &other.parts().unwrap(), &rig.stop).unwrap();
    assert_eq!(rig.fake.n_uploads(), 0);
}

#[test]
fn the_end_of_an_upload_is_looked_into() {
    use Kind::{Permanent, Retry};
    let check = |fault: Fault, times: usize, expected: std::result::Result<(), (Kind, &str)>| {
        let rig = Rig::new();
        let journal = Kept::default();
        rig.fake.rule("CommitMultipartUpload", "", 0, times, fault.clone());
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
    check(Fault::DoAndRefuse(500, "InternalServerError"), 1, Ok(()));
    check(Fault::Reset(0), 1, Ok(()));
    check(Fault::Refuse(500, "InternalServerError"), 2, Ok(()));
    check(Fault::Portal(200), 1, Ok(()));
    check(Fault::ForgetPieces, 1, Ok(()));
    check(Fault::ForgetPieces, 9, Err((Retry, "server")));
    check(Fault::Refuse(400, "InvalidUploadPart"), 1, Ok(()));
    check(Fault::Refuse(404, "NotAuthorizedOrNotFound"), 1, Err((Permanent, "denied")));
    // Acknowledged and not kept.
    check(Fault::Drop, 1, Err((Retry, "integrity")));
}

#[test]
fn parts_that_are_changed_or_dropped_by_the_store_are_found_out() {
    let rig = Rig::new();
    rig.fake.rule("UploadPart", "", 1, 1, Fault::Corrupt);
    let err = rig.upload(&NoJournal).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "integrity"), "{err}");
    assert_eq!(rig.fake.n_uploads(), 0);
    let rig = Rig::new();
    rig.fake.rule("UploadPart", "", 1, 1, Fault::Drop);
    rig.upload(&NoJournal).unwrap();
    rig.assert_whole();
    let rig = Rig::new();
    rig.fake.rule("UploadPart", "", 1, 1, Fault::ForgetPieces);
    rig.upload(&Kept::default()).unwrap();
    rig.assert_whole();
}

#[test]
fn an_object_is_compared_by_its_tag_and_else_by_its_bytes() {
    let rig = Rig::new();
    rig.upload(&NoJournal).unwrap();
    let source = rig.file(&content(SIZE));
    let compare = || rig.bucket.compare("01A/index", &source, &rig.stop).unwrap();
    let set_md5 = |md5: &str| rig.fake.with(|state| state.objects.get_mut("01A/index").unwrap().md5 = md5.into());
    rig.fake.seen();
    assert_eq!(compare(), Compared::Same);
    assert_eq!(rig.fake.operations(), ["HeadObject"]);
    // Of parts of another size, and without any MD5.
    for md5 in ["AAAAAAAAAAAAAAAAAAAAAA==-7", "AAAAAAAAAAAAAAAAAAAAAA==-3", ""] {
        set_md5(md5);
        assert_eq!(compare(), Compared::Same, "{md5}");
        assert_eq!(rig.fake.operations(), ["HeadObject", "GetObject"], "{md5}");
    }
    rig.fake.rule("GetObject", "", 0, 1, Fault::Truncate);
    assert_eq!(compare(), Compared::Same);
    let seen = rig.fake.seen();
    let ranges =
        seen.iter().filter(|seen| seen.operation == "GetObject").map(|seen| seen.headers.contains_key("range"));
    assert_eq!(ranges.collect::<Vec<_>>(), [false, true]);
    rig.fake.with(|state| state.objects.get_mut("01A/index").unwrap().bytes[9] ^= 1);
    assert_eq!(compare(), Compared::Content);
    // The store itself makes the MD5 of an object in one piece.
    set_md5("AAAAAAAAAAAAAAAAAAAAAA==");
    rig.fake.seen();
    assert_eq!(compare(), Compared::Content);
    assert_eq!(rig.fake.operations(), ["HeadObject"]);
}

#[test]
fn a_part_of_the_journal_is_not_trusted_if_the_store_has_another() {
    let rig = Rig::new();
    let journal = Kept::default();
    journal.fail_after(3);
    rig.upload(&journal).unwrap_err();
    journal.recover();
    rig.fake.with(|state| {
        let upload = state.uploads.values_mut().next().unwrap();
        upload.parts.get_mut(&1).unwrap().1[0] ^= 1;
    });
    let known = journal.parts().unwrap().sent;
    assert!(matches!(known.as_slice(), [Part { .. }]), "{known:?}");
    rig.upload(&journal).unwrap();
    rig.assert_whole();
}

#[test]
fn the_stop_ends_a_request_that_hangs() {
    let rig = Rig::new();
    rig.fake.rule("UploadPart", "", 0, 1, Fault::Hang);
    let source = rig.file(&content(SIZE));
    let (fake, stopper, stop) = (Arc::clone(&rig.fake), rig.stopper, rig.stop);
    let waiter = spawn_thread("test-stopper", None, move || {
        while !fake.operations().contains(&"UploadPart") {
            std::thread::yield_now();
        }
        stopper.stop();
    })
    .unwrap();
    let err = rig.bucket.upload("01A/index", &source, &NoJournal, &stop).unwrap_err();
    assert_eq!(err.kind(), Kind::Stopped, "{err}");
    waiter.join().unwrap();
}
