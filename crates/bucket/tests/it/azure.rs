//! What a user sees of an Azure bucket, over an account in this process that can be told to fail. `azurite.rs` has
//! Microsoft's emulator.

use std::sync::Arc;
use std::time::Duration;

use pillion_base::error::{Kind, Result};
use pillion_base::files::{Disk, Source};
use pillion_base::secret::Secret;
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_base::threads::spawn_thread;
use pillion_bucket::azure::{Auth, AzureBucket, AzureConfig};
use pillion_bucket::s3::Waits;
use pillion_bucket::{Bucket, Compared, Journal, NoJournal, Part, Parts, Stored};
use pillion_testing::bucket;
use pillion_testing::fake_azure::{ACCOUNT, Blob, CLIENT_SECRET, CONTAINER, FakeAzure, Fault, KEY};
use pillion_testing::journal::{Kept, content};

const BLOCK: usize = 64 * 1024;
/// A file of three blocks.
const SIZE: usize = 2 * BLOCK + 17;

struct Rig {
    fake: Arc<FakeAzure>,
    bucket: AzureBucket,
    dir: tempfile::TempDir,
    stopper: Stopper,
    stop: Stop,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut AzureConfig)) -> Rig {
        let fake = Arc::new(FakeAzure::start());
        let mut config = AzureConfig {
            account: ACCOUNT.into(),
            container: CONTAINER.into(),
            service: fake.service(),
            auth: Auth::Key(Secret(KEY.into())),
            block_bytes: BLOCK as u64,
            ..AzureConfig::default()
        };
        change(&mut config);
        let authority = fake.authority();
        let env = move |name: &str| (name == "AZURE_AUTHORITY_HOST").then(|| authority.clone());
        let short = Duration::from_millis(2);
        let bucket = AzureBucket::open(&config, "pillion-test", Arc::new(env)).unwrap();
        let bucket = bucket.with_waits(Waits { step: short, step_max: short, rest: short, rest_max: short });
        let (stopper, stop) = stop_pair().unwrap();
        Rig { fake, bucket, dir: tempfile::tempdir().unwrap(), stopper, stop }
    }

    fn with_token() -> Rig {
        Rig::with(|config| {
            let (tenant, client) = ("tenant".into(), "client".into());
            config.auth = Auth::ClientSecret { tenant, client, secret: Secret(CLIENT_SECRET.into()) };
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
        assert_eq!(self.fake.blob("01A/index").unwrap(), content(SIZE));
        assert!(self.fake.with(|state| state.blocks.is_empty()));
    }
}

#[test]
fn the_suite_passes_on_the_fake() {
    let check = |rig: Rig| {
        rig.fake.with(|state| state.page_names = 2);
        bucket::suite(&rig.bucket);
    };
    check(Rig::new());
    check(Rig::with_token());
    check(Rig::with(|config| config.block_bytes = 1000));
    check(Rig::with(|config| config.http.max_conns_per_host = 1));
}

#[test]
fn names_with_any_characters_are_signed_and_stored_as_they_are() {
    let rig = Rig::new();
    for name in ["a b/c+d", "ü/%41&x=?#", "(a)'!*~.txt", "a:b@c,d;e$f"] {
        rig.bucket.upload_bytes(name, name.as_bytes(), &rig.stop).unwrap();
        assert_eq!(rig.bucket.get(name, &rig.stop).unwrap(), name.as_bytes(), "{name}");
        assert_eq!(rig.fake.blob(name).unwrap(), name.as_bytes());
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
        rig.fake.rule("Put Blob", "x", 0, times, fault.clone());
        let outcome = rig.put();
        assert_eq!(rig.count("Put Blob"), n_asked, "{fault:?}: {outcome:?}");
        match (outcome, expected) {
            (Ok(()), Ok(())) => assert_eq!(rig.fake.blob("x").unwrap(), b"small", "{fault:?}"),
            (Err(err), Err((kind, class, part))) => {
                assert_eq!((err.kind(), err.class()), (kind, class), "{fault:?}: {err}");
                assert!(err.to_string().contains(part), "{fault:?}: {err} lacks {part}");
                assert!(!err.to_string().contains(KEY) && !err.to_string().contains("SharedKey"), "{err}");
            }
            (outcome, expected) => panic!("{fault:?}: {outcome:?}, not {expected:?}"),
        }
    };
    use Kind::{Permanent, Retry};
    check(Fault::Reset(0), 2, Ok(()), 3);
    check(Fault::Reset(0), 9, Err((Retry, "network", "Put Blob fake-container/x at 127.0.0.1")), 4);
    check(Fault::LoseAnswer, 1, Ok(()), 2);
    check(Fault::Refuse(500, "InternalError"), 3, Ok(()), 4);
    check(
        Fault::Refuse(500, "InternalError"),
        9,
        Err((Retry, "server", "500 InternalError: told so (request id req-1)")),
        4,
    );
    check(Fault::Refuse(503, "ServerBusy"), 2, Ok(()), 3);
    check(Fault::Refuse(503, "ServerBusy"), 9, Err((Retry, "throttled", "ServerBusy")), 4);
    check(Fault::Refuse(500, "OperationTimedOut"), 3, Ok(()), 4);
    check(Fault::Refuse(409, "ContainerBeingDeleted"), 9, Err((Retry, "no_bucket", "free again")), 4);
    check(Fault::Refuse(403, "AuthorizationFailure"), 9, Err((Permanent, "denied", "firewall")), 1);
    check(Fault::Refuse(403, "AccountIsDisabled"), 9, Err((Permanent, "denied", "the storage account is disabled")), 1);
    check(Fault::Refuse(400, "InvalidHeaderValue"), 9, Err((Permanent, "permanent", "400 InvalidHeaderValue")), 1);
    check(Fault::Refuse(400, "Md5Mismatch"), 1, Ok(()), 2);
    check(Fault::DoAndRefuse(504, ""), 1, Ok(()), 2);
    check(Fault::Corrupt, 1, Err((Retry, "integrity", "other bytes than were sent")), 1);
    check(Fault::Portal(200), 1, Ok(()), 2);
    check(Fault::Portal(200), 9, Err((Retry, "network", "not that of Azure")), 4);
    check(Fault::Portal(404), 1, Ok(()), 2);
    check(Fault::Portal(302), 9, Err((Permanent, "permanent", "redirects are not followed")), 1);
}

#[test]
fn the_reason_of_an_early_refusal_is_heard_although_the_connection_breaks() {
    let rig = Rig::with(|config| config.block_bytes = 8 << 20);
    rig.fake.rule("Put Block", "", 0, 9, Fault::RefuseEarly(403, "AuthorizationPermissionMismatch"));
    let source = rig.file(&content(9 << 20));
    let err = rig.bucket.upload("01A/index", &source, &NoJournal, &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "denied"), "{err}");
    assert_eq!(rig.fake.operations(), ["Get Block List", "Put Block"]);
}

#[test]
fn a_container_that_is_missing_is_made_unless_that_is_switched_off() {
    let rig = Rig::new();
    rig.fake.with(|state| state.has_container = false);
    rig.put().unwrap();
    assert_eq!(rig.fake.operations(), ["Put Blob", "Create Container", "Put Blob"]);
    let rig = Rig::with(|config| config.creates_container = false);
    rig.fake.with(|state| state.has_container = false);
    // A missing container is no missing object.
    for err in [rig.put().unwrap_err(), rig.bucket.exists("x", &rig.stop).unwrap_err()] {
        assert_eq!((err.kind(), err.class()), (Kind::Permanent, "no_bucket"), "{err}");
        assert!(err.to_string().contains("create the container fake-container"), "{err}");
    }
    let rig = Rig::new();
    rig.fake.with(|state| state.has_container = false);
    rig.fake.rule("Create Container", "", 0, 9, Fault::Refuse(403, "AuthorizationPermissionMismatch"));
    let err = rig.put().unwrap_err();
    assert!(err.kind() == Kind::Permanent && err.to_string().contains("storage_create_container is on"), "{err}");
    // Somebody else was faster.
    let rig = Rig::new();
    rig.fake.with(|state| state.has_container = false);
    rig.fake.rule("Create Container", "", 0, 9, Fault::DoAndRefuse(409, "ContainerAlreadyExists"));
    rig.put().unwrap();
}

#[test]
fn a_clock_that_differs_is_corrected_by_the_stores() {
    for offset_s in [7200, -7200] {
        let rig = Rig::new();
        rig.fake.with(|state| state.offset_s = offset_s);
        rig.put().unwrap();
        assert_eq!(rig.fake.operations(), ["Put Blob", "Put Blob"]);
        rig.put().unwrap();
        assert_eq!(rig.fake.operations(), ["Put Blob"]);
    }
}

#[test]
fn a_wrong_key_is_said_and_not_shown() {
    let rig = Rig::with(|config| config.auth = Auth::Key(Secret("aHVudGVyMg==".into())));
    let err = rig.put().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "credentials"), "{err}");
    assert!(err.to_string().contains("correct storage_account_key") && !err.to_string().contains("aHV"), "{err}");
}

#[test]
fn a_token_that_the_store_refuses_is_renewed_once() {
    let rig = Rig::with_token();
    rig.put().unwrap();
    assert_eq!(rig.fake.operations(), ["token", "Put Blob"]);
    rig.fake.with(|state| state.token = "of somebody else".into());
    rig.upload(&NoJournal).unwrap();
    assert_eq!(rig.fake.operations()[..3], ["Get Block List", "token", "Get Block List"]);
    rig.fake.rule("", "x", 0, 9, Fault::Refuse(401, "InvalidAuthenticationInfo"));
    let err = rig.put().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "credentials"), "{err}");
    assert_eq!(rig.fake.operations(), ["Put Blob", "token", "Put Blob"]);
    // No token at all.
    let rig = Rig::with(|config| {
        let (tenant, client) = ("tenant".into(), "client".into());
        config.auth = Auth::ClientSecret { tenant, client, secret: Secret("hunter2".into()) };
    });
    let err = rig.put().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "credentials"), "{err}");
    assert!(err.to_string().contains("client_secret is wrong") && !err.to_string().contains("hunter2"), "{err}");
    assert_eq!(rig.fake.operations(), ["token"]);
}

#[test]
fn a_block_that_meets_a_fault_is_sent_again_and_nothing_else() {
    for fault in [
        Fault::Reset(BLOCK / 2),
        Fault::LoseAnswer,
        Fault::Refuse(500, "InternalError"),
        Fault::Refuse(503, "ServerBusy"),
        Fault::RefuseEarly(500, "InternalError"),
    ] {
        let rig = Rig::new();
        rig.fake.rule("Put Block", "", 1, 2, fault.clone());
        let stored = rig.upload(&NoJournal).unwrap();
        assert_eq!((stored.attributes.size_bytes, stored.resumed_bytes), (SIZE as u64, 0));
        rig.assert_whole();
        assert_eq!(rig.count("Put Block"), 5, "{fault:?}");
    }
}

#[test]
fn wherever_it_is_killed_no_block_is_sent_again() {
    // The first record comes before the first block, one after each, and one before the list.
    for n_records in 1..=5 {
        for has_journal in [true, false] {
            let rig = Rig::new();
            let journal = Kept::default();
            journal.fail_after(n_records);
            rig.upload(&journal).unwrap_err();
            let n_sent = rig.count("Put Block");
            journal.recover();
            // Another process, whose journal may be lost.
            let lost = Kept::default();
            let stored = rig.upload(if has_journal { &journal } else { &lost }).unwrap();
            rig.assert_whole();
            let resumed_bytes = if n_records == 5 && has_journal { SIZE } else { (n_sent * BLOCK).min(SIZE) };
            let is_made = n_records == 5;
            if !is_made {
                assert_eq!((n_sent + rig.count("Put Block"), stored.resumed_bytes), (3, resumed_bytes as u64));
            } else if has_journal {
                assert_eq!((rig.count("Put Block"), stored.resumed_bytes), (0, SIZE as u64));
            }
            assert_eq!((journal.parts().is_some(), lost.parts()), (!has_journal, None), "{n_records}");
        }
    }
}

#[test]
fn a_changed_file_takes_no_block_of_the_old_one() {
    let rig = Rig::new();
    let journal = Kept::default();
    journal.fail_after(2);
    rig.upload(&journal).unwrap_err();
    journal.recover();
    rig.fake.seen();
    let mut bytes = content(SIZE);
    bytes[0] ^= 1;
    let stored = rig.bucket.upload("01A/index", &rig.file(&bytes), &journal, &rig.stop).unwrap();
    assert_eq!(rig.fake.blob("01A/index").unwrap(), bytes);
    assert_eq!((stored.resumed_bytes, rig.count("Put Block")), (BLOCK as u64, 2));
}

#[test]
fn the_end_of_an_upload_is_looked_into() {
    use Kind::{Permanent, Retry};
    let check = |fault: Fault, times: usize, expected: std::result::Result<(), (Kind, &str)>| {
        let rig = Rig::new();
        let journal = Kept::default();
        rig.fake.rule("Put Block List", "", 0, times, fault.clone());
        match (rig.upload(&journal), expected) {
            (Ok(stored), Ok(())) => {
                rig.assert_whole();
                assert_eq!((stored.attributes.size_bytes, journal.parts()), (SIZE as u64, None), "{fault:?}");
            }
            (Err(err), Err((kind, class))) => assert_eq!((err.kind(), err.class()), (kind, class), "{fault:?} {err}"),
            (outcome, expected) => panic!("{fault:?}: {outcome:?}, not {expected:?}"),
        }
    };
    // The fake finds no blocks of the blob that is there, so that these begin anew.
    check(Fault::LoseAnswer, 1, Ok(()));
    check(Fault::DoAndRefuse(500, "InternalError"), 1, Ok(()));
    check(Fault::Reset(0), 1, Ok(()));
    check(Fault::Refuse(500, "InternalError"), 2, Ok(()));
    check(Fault::Portal(200), 1, Ok(()));
    check(Fault::ForgetPieces, 1, Ok(()));
    check(Fault::ForgetPieces, 9, Err((Retry, "server")));
    check(Fault::Refuse(403, "AuthorizationPermissionMismatch"), 1, Err((Permanent, "denied")));
    // Acknowledged and not kept.
    check(Fault::Drop, 1, Err((Retry, "integrity")));
}

#[test]
fn blocks_that_are_changed_or_dropped_by_the_store_are_found_out() {
    let rig = Rig::new();
    rig.fake.rule("Put Block", "", 1, 1, Fault::Corrupt);
    let err = rig.upload(&NoJournal).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "integrity"), "{err}");
    let rig = Rig::new();
    rig.fake.rule("Put Block", "", 1, 1, Fault::Drop);
    rig.upload(&NoJournal).unwrap();
    rig.assert_whole();
}

#[test]
fn blocks_of_another_program_under_the_name_make_room() {
    let rig = Rig::new();
    // Azure's library for Go has longer ids.
    rig.fake.with(|state| {
        let blocks = state.blocks.entry("01A/index".into()).or_default();
        blocks.insert("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB".into(), b"x".to_vec());
    });
    rig.upload(&NoJournal).unwrap();
    rig.assert_whole();
}

#[test]
fn a_blob_without_an_md5_is_compared_by_its_bytes_and_read_on_after_a_break() {
    let rig = Rig::new();
    rig.upload(&NoJournal).unwrap();
    let source = rig.file(&content(SIZE));
    let compare = || rig.bucket.compare("01A/index", &source, &rig.stop).unwrap();
    rig.fake.seen();
    assert_eq!(compare(), Compared::Same);
    assert_eq!(rig.fake.operations(), ["Get Blob Properties"]);
    rig.fake.with(|state| state.blobs.get_mut("01A/index").unwrap().md5.clear());
    assert_eq!(compare(), Compared::Same);
    let seen = rig.fake.seen();
    assert!(seen.iter().any(|seen| seen.operation == "Get Blob"), "{seen:?}");
    // A wrong MD5 is no proof of other bytes.
    rig.fake.with(|state| state.blobs.get_mut("01A/index").unwrap().md5 = "AAAAAAAAAAAAAAAAAAAAAA==".into());
    rig.fake.rule("Get Blob", "", 0, 1, Fault::Truncate);
    assert_eq!(compare(), Compared::Same);
    let ranges: Vec<bool> = rig
        .fake
        .seen()
        .iter()
        .filter(|seen| seen.operation == "Get Blob")
        .map(|seen| seen.headers.contains_key("range"))
        .collect();
    assert_eq!(ranges, [false, true]);
    rig.fake.with(|state| state.blobs.get_mut("01A/index").unwrap().bytes[9] ^= 1);
    assert_eq!(compare(), Compared::Content);
}

#[test]
fn a_folder_of_a_data_lake_is_no_object() {
    let rig = Rig::new();
    rig.fake.with(|state| state.blobs.insert("a".into(), Blob { is_folder: true, ..Blob::default() }));
    assert!(!rig.bucket.exists("a", &rig.stop).unwrap());
    assert_eq!(rig.bucket.attributes("a", &rig.stop).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn to_abandon_sends_nothing() {
    let rig = Rig::new();
    let parts = Parts {
        upload_id: "blocks".into(),
        part_bytes: BLOCK as u64,
        size_bytes: 1,
        sent: vec![Part { tag: "x".into(), md5: "y".into() }],
    };
    rig.bucket.abandon("01A/index", &parts, &rig.stop).unwrap();
    assert!(rig.fake.operations().is_empty());
}

#[test]
fn the_stop_ends_a_request_that_hangs() {
    let rig = Rig::new();
    rig.fake.rule("Put Block", "", 0, 1, Fault::Hang);
    let source = rig.file(&content(SIZE));
    let (fake, stopper, stop) = (Arc::clone(&rig.fake), rig.stopper, rig.stop);
    let waiter = spawn_thread("test-stopper", None, move || {
        while !fake.operations().contains(&"Put Block") {
            std::thread::yield_now();
        }
        stopper.stop();
    })
    .unwrap();
    let err = rig.bucket.upload("01A/index", &source, &NoJournal, &stop).unwrap_err();
    assert_eq!(err.kind(), Kind::Stopped, "{err}");
    waiter.join().unwrap();
}
