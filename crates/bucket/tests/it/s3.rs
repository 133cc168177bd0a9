//! What a user sees of an S3 bucket, over a store in this process that can be told to fail. `e2e_s3.rs` has real stores.

use pillion_testing::bucket;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::{Disk, Source};
use pillion_base::secret::Secret;
use pillion_base::stop::{Stop, Stopper, stop_pair};
use pillion_base::threads::spawn_thread;
use pillion_bucket::s3::{CredentialsProvider, Keys, ListVersion, S3Bucket, S3Config, Sse, Waits};
use pillion_bucket::{Bucket, Compared, Journal, NoJournal, Part, Parts};
use pillion_testing::fake_s3::{ACCESS_KEY, BUCKET, FakeS3, Fault, REGION, SECRET_KEY};

pub(crate) const MIB: usize = 1024 * 1024;

pub(crate) fn keys(token: &str) -> Keys {
    keys_of(ACCESS_KEY, SECRET_KEY, token)
}

fn keys_of(access_key: &str, secret_key: &str, token: &str) -> Keys {
    let secret = |text: &str| Secret(text.to_owned());
    Keys { access_key: secret(access_key), secret_key: secret(secret_key), session_token: secret(token), expires: None }
}

/// Keys that can be renewed once.
pub(crate) struct Given(Mutex<(Option<Keys>, Option<Keys>)>);

impl Given {
    pub(crate) fn boxed(now: Option<Keys>, next: Option<Keys>) -> Box<Given> {
        Box::new(Given(Mutex::new((now, next))))
    }
}

impl CredentialsProvider for Given {
    fn keys(&self, _: &Stop) -> Result<Option<Keys>> {
        Ok(self.0.lock().unwrap().0.clone())
    }

    fn renew(&self, used: &Keys, _: &Stop) -> Result<Option<Keys>> {
        let mut keys = self.0.lock().unwrap();
        if keys.0.as_ref() == Some(used)
            && let Some(next) = keys.1.take()
        {
            keys.0 = Some(next);
        }
        Ok(keys.0.clone())
    }
}

fn quick() -> Waits {
    let short = Duration::from_millis(2);
    Waits { step: short, step_max: short, rest: short, rest_max: short }
}

pub(crate) fn config(fake: &FakeS3) -> S3Config {
    S3Config {
        bucket: BUCKET.into(),
        endpoint: format!("127.0.0.1:{}", fake.port),
        region: REGION.into(),
        insecure: true,
        part_size: 5 * MIB as u64,
        max_attempts: 4,
        ..S3Config::default()
    }
}

pub(crate) fn open(config: S3Config) -> S3Bucket {
    open_as(config, Given::boxed(Some(keys("")), None))
}

pub(crate) fn open_as(config: S3Config, credentials: Box<dyn CredentialsProvider>) -> S3Bucket {
    S3Bucket::open(config, credentials, "pillion-test", &|_| None).unwrap().with_waits(quick())
}

pub(crate) struct Rig {
    pub(crate) fake: FakeS3,
    pub(crate) bucket: S3Bucket,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) _stopper: Stopper,
    pub(crate) stop: Stop,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut S3Config)) -> Rig {
        let fake = FakeS3::start();
        let mut config = config(&fake);
        change(&mut config);
        let (stopper, stop) = stop_pair().unwrap();
        Rig { bucket: open(config), fake, dir: tempfile::tempdir().unwrap(), _stopper: stopper, stop }
    }

    pub(crate) fn reopen(&mut self, change: impl FnOnce(&mut S3Config)) {
        let mut config = config(&self.fake);
        change(&mut config);
        self.bucket = open(config);
    }

    /// A file whose bytes say where they are.
    pub(crate) fn file(&self, size: usize) -> (PathBuf, Source) {
        let path = self.dir.path().join(format!("file-{size}"));
        std::fs::write(&path, content(size)).unwrap();
        let source = Disk::real().open_source(&path).unwrap();
        (path, source)
    }

    pub(crate) fn upload(&self, size: usize, journal: &dyn Journal) -> Result<pillion_bucket::Stored> {
        self.bucket.upload("01A/index", &self.file(size).1, journal, &self.stop)
    }

    pub(crate) fn put_small(&self) -> Result<()> {
        self.bucket.upload_bytes("x", b"small", &self.stop)
    }
}

/// Bytes of which no two parts are the same. Copied in pages, for a test without optimisation makes hundreds of MiB.
pub(crate) fn content(size: usize) -> Vec<u8> {
    const PAGE_BYTES: usize = 65_536;
    const CYCLE_BYTES: usize = 251 * 7;
    let cycles: Vec<u8> = (0..PAGE_BYTES + CYCLE_BYTES).map(|i| u8::try_from(i / 7 % 251).unwrap()).collect();
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let start = (bytes.len() + bytes.len() / PAGE_BYTES * 217) % CYCLE_BYTES;
        bytes.extend_from_slice(&cycles[start..start + PAGE_BYTES.min(size - bytes.len())]);
    }
    bytes
}

/// A journal that outlives a bucket.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) parts: Mutex<Option<Parts>>,
    /// Records that are allowed before they fail, as they do when the process is killed.
    pub(crate) left: Mutex<Option<usize>>,
}

impl Journal for Kept {
    fn parts(&self) -> Option<Parts> {
        self.parts.lock().unwrap().clone()
    }

    fn record(&self, parts: Option<&Parts>) -> Result<()> {
        if let Some(left) = &mut *self.left.lock().unwrap() {
            *left = left.checked_sub(1).ok_or_else(|| Error::new(Kind::Retry, "killed"))?;
        }
        *self.parts.lock().unwrap() = parts.cloned();
        Ok(())
    }
}

#[test]
fn the_suite_passes_on_the_fake() {
    let check = |change: &dyn Fn(&mut S3Config)| {
        let rig = Rig::with(|config| change(config));
        rig.fake.with(|state| (state.page_names, state.page_parts) = (2, 1));
        bucket::suite(&rig.bucket);
        assert_eq!(rig.fake.n_uploads(), 0);
    };
    check(&|_| {});
    check(&|config| config.list_version = ListVersion::V1);
    check(&|config| config.send_content_md5 = false);
    check(&|config| config.region = String::new());
    check(&|config| config.http.max_conns_per_host = 1);
    check(&|config| config.sse = Some(Sse::Kms { key_id: "k".into(), context: [("a".into(), "b".into())].into() }));
}

#[test]
fn a_large_file_goes_in_parts_and_what_is_stored_is_what_was_sent() {
    for send_content_md5 in [true, false] {
        let rig = Rig::with(|config| config.send_content_md5 = send_content_md5);
        let size = 12 * MIB + 17;
        let stored = rig.upload(size, &NoJournal).unwrap();
        assert_eq!((stored.attributes.size_bytes, stored.resumed_bytes), (size as u64, 0));
        assert!(stored.attributes.tag.ends_with("-3"), "{stored:?}");
        assert_eq!(rig.fake.object("01A/index").unwrap(), content(size));
        let seen = rig.fake.seen();
        let parts: Vec<_> = seen.iter().filter(|seen| seen.operation == "UploadPart").collect();
        assert_eq!(parts.iter().map(|part| part.body_bytes).collect::<Vec<_>>(), [5 * MIB, 5 * MIB, 2 * MIB + 17]);
        assert!(parts.iter().all(|part| part.headers.contains_key("content-md5") == send_content_md5));
        assert!(seen.iter().all(|seen| !seen.headers.contains_key("expect")), "{seen:?}");
        assert_eq!(rig.bucket.compare("01A/index", &rig.file(size).1, &rig.stop).unwrap(), Compared::Same);
        assert!(!rig.fake.operations().contains(&"GetObject"), "the ETag tells");
        assert_eq!(rig.fake.n_uploads(), 0);
    }
}

/// How a request fails, and what follows: kind and class of the error, the number of attempts, and a part of the text.
#[test]
fn each_fault_has_its_outcome() {
    let check = |fault: Fault, times: usize, expected: std::result::Result<(), (Kind, &str, &str)>, n_asked: usize| {
        let rig = Rig::new();
        rig.fake.rule("PutObject", "x", 0, times, fault.clone());
        let outcome = rig.put_small();
        let seen = rig.fake.seen().into_iter().filter(|seen| seen.operation == "PutObject").count();
        assert_eq!(seen, n_asked, "{fault:?}: {outcome:?}");
        match (outcome, expected) {
            (Ok(()), Ok(())) => assert_eq!(rig.fake.object("x").unwrap(), b"small", "{fault:?}"),
            (Err(err), Err((kind, class, part))) => {
                assert_eq!((err.kind(), err.class()), (kind, class), "{fault:?}: {err}");
                assert!(err.to_string().contains(part), "{fault:?}: {err} lacks {part}");
                assert!(!err.to_string().contains(SECRET_KEY) && !err.to_string().contains("X-Amz"), "{err}");
            }
            (outcome, expected) => panic!("{fault:?}: {outcome:?}, not {expected:?}"),
        }
    };
    use Kind::{Permanent, Retry};
    check(Fault::Reset(0), 2, Ok(()), 3);
    check(Fault::Reset(0), 9, Err((Retry, "network", "PutObject fake-bucket/x at 127.0.0.1")), 4);
    check(Fault::LoseAnswer, 1, Ok(()), 2);
    check(Fault::Refuse(500, "InternalError"), 3, Ok(()), 4);
    check(Fault::Refuse(500, "InternalError"), 9, Err((Retry, "server", "500 InternalError")), 4);
    check(Fault::Refuse(503, "SlowDown"), 2, Ok(()), 3);
    check(Fault::RefuseWith(503, "SlowDown", "Retry-After", "0"), 9, Err((Retry, "throttled", "SlowDown")), 4);
    check(Fault::Refuse(429, "TooManyRequests"), 1, Ok(()), 2);
    check(Fault::Refuse(403, "AccessDenied"), 9, Err((Permanent, "denied", "s3:PutObject on fake-bucket/x")), 1);
    // This store names its region in every refusal, so the region is not the reason.
    let named = Fault::RefuseWith(403, "AccessDenied", "x-amz-bucket-region", REGION);
    check(named, 9, Err((Permanent, "denied", "s3:PutObject on fake-bucket/x")), 1);
    check(Fault::Refuse(403, "InvalidAccessKeyId"), 9, Err((Permanent, "credentials", "access_key")), 1);
    check(Fault::Refuse(403, "SignatureDoesNotMatch"), 9, Err((Permanent, "credentials", "secret_key")), 1);
    check(Fault::Refuse(404, "NoSuchBucket"), 9, Err((Permanent, "no_bucket", "create the bucket")), 1);
    // The checksum that was offered may be the reason, so it goes once more without it.
    check(Fault::Refuse(400, "InvalidArgument"), 9, Err((Permanent, "permanent", "(request id req-1)")), 2);
    check(Fault::Refuse(400, "BadDigest"), 1, Ok(()), 2);
    check(Fault::Refuse(400, "RequestTimeout"), 1, Ok(()), 2);
    check(Fault::Refuse(302, ""), 9, Err((Permanent, "permanent", "redirects are not followed")), 1);
    check(
        Fault::RefuseWith(301, "", "x-amz-bucket-region", "eu-other-1"),
        9,
        Err((Permanent, "permanent", "eu-other-1")),
        2,
    );
    // Some stores name their region in every refusal.
    check(
        Fault::RefuseWith(403, "AccessDenied", "x-amz-bucket-region", REGION),
        9,
        Err((Permanent, "denied", "s3:PutObject on fake-bucket/x")),
        1,
    );
    check(Fault::HiddenError("InternalError"), 1, Ok(()), 2);
    check(Fault::HiddenError("AccessDenied"), 9, Err((Retry, "server", "200 AccessDenied")), 1);
    check(Fault::DoAndRefuse(504, ""), 1, Ok(()), 2);
    check(Fault::Corrupt, 1, Err((Retry, "integrity", "other bytes than were sent")), 1);
    check(Fault::Say("<html/>"), 1, Err((Retry, "integrity", "has none")), 1);
}

#[test]
fn the_reason_of_an_early_refusal_is_heard_although_the_connection_breaks() {
    for send_content_md5 in [true, false] {
        let rig = Rig::with(|config| config.send_content_md5 = send_content_md5);
        rig.fake.rule("UploadPart", "", 0, 9, Fault::RefuseEarly(403, "AccessDenied"));
        let err = rig.upload(12 * MIB, &NoJournal).unwrap_err();
        assert_eq!((err.kind(), err.class()), (Kind::Permanent, "denied"), "{err}");
        assert!(err.to_string().contains("403 AccessDenied"), "{err}");
        assert_eq!(rig.fake.operations(), ["CreateMultipartUpload", "UploadPart", "AbortMultipartUpload"]);
    }
}

#[test]
fn a_closed_port_and_an_unknown_host_are_network_errors() {
    let rig = Rig::with(|config| {
        config.endpoint = "127.0.0.1:1".into();
        config.max_attempts = 2;
    });
    let err = rig.put_small().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "network"), "{err}");
    assert!(err.to_string().contains("efused"), "{err}");
    let rig = Rig::with(|config| {
        config.endpoint = "s3.invalid".into();
        config.max_attempts = 1;
    });
    let err = rig.put_small().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "network"), "{err}");
}

#[test]
fn a_part_that_meets_a_fault_is_sent_again_and_nothing_else() {
    for fault in [
        Fault::Reset(MIB),
        Fault::LoseAnswer,
        Fault::Refuse(500, "InternalError"),
        Fault::Refuse(503, "SlowDown"),
        Fault::RefuseEarly(500, "InternalError"),
    ] {
        let rig = Rig::new();
        rig.fake.rule("UploadPart", "", 1, 2, fault.clone());
        rig.upload(12 * MIB, &NoJournal).unwrap();
        assert_eq!(rig.fake.object("01A/index").unwrap(), content(12 * MIB), "{fault:?}");
        let parts: Vec<String> =
            rig.fake.seen().iter().filter_map(|seen| seen.query.get("partNumber").cloned()).collect();
        assert_eq!(parts, ["1", "2", "2", "2", "3"], "{fault:?}");
        assert_eq!(rig.fake.n_uploads(), 0, "{fault:?}");
    }
}

#[test]
fn a_doubtful_end_of_an_upload_is_looked_into() {
    use Kind::{Permanent, Retry};
    let check = |fault: Fault, times: usize, expected: std::result::Result<(), (Kind, &str)>, n_completed: usize| {
        let rig = Rig::new();
        let journal = Kept::default();
        rig.fake.rule("CompleteMultipartUpload", "", 0, times, fault.clone());
        let outcome = rig.upload(12 * MIB, &journal);
        let completed = rig.fake.operations().iter().filter(|name| **name == "CompleteMultipartUpload").count();
        assert_eq!(completed, n_completed, "{fault:?} {outcome:?}");
        match (outcome, expected) {
            (Ok(stored), Ok(())) => {
                assert_eq!(stored.attributes.size_bytes, 12 * MIB as u64);
                assert_eq!(rig.fake.object("01A/index").unwrap(), content(12 * MIB), "{fault:?}");
                assert_eq!((journal.parts(), rig.fake.n_uploads()), (None, 0), "{fault:?}");
            }
            (Err(err), Err((kind, class))) => assert_eq!((err.kind(), err.class()), (kind, class), "{fault:?} {err}"),
            (outcome, expected) => panic!("{fault:?}: {outcome:?}, not {expected:?}"),
        }
    };
    check(Fault::LoseAnswer, 1, Ok(()), 1);
    check(Fault::Truncate, 1, Ok(()), 1);
    check(Fault::DoAndHiddenError("InternalError"), 1, Ok(()), 1);
    check(Fault::DoAndRefuse(500, "InternalError"), 1, Ok(()), 1);
    check(Fault::DoAndRefuse(404, "NoSuchUpload"), 1, Ok(()), 1);
    check(Fault::HiddenError("InternalError"), 1, Ok(()), 2);
    check(Fault::HiddenError("InternalError"), 9, Err((Retry, "server")), 4);
    check(Fault::HiddenError("SlowDown"), 1, Ok(()), 2);
    check(Fault::Say("<html><body>portal</body></html>"), 1, Ok(()), 2);
    check(Fault::Reset(0), 1, Ok(()), 2);
    check(Fault::Refuse(500, "InternalError"), 2, Ok(()), 3);
    // The store has forgotten the upload, so it is begun again.
    check(Fault::Refuse(404, "NoSuchUpload"), 1, Ok(()), 2);
    check(Fault::Refuse(404, "NoSuchUpload"), 9, Err((Retry, "server")), 2);
    check(Fault::Refuse(400, "InvalidPart"), 1, Ok(()), 2);
    check(Fault::Refuse(403, "AccessDenied"), 1, Err((Permanent, "denied")), 1);
    // Acknowledged and not kept.
    check(Fault::Drop, 1, Err((Retry, "integrity")), 1);
}

#[test]
fn an_acknowledged_object_that_is_not_there_is_found_out_and_sent_again() {
    let rig = Rig::new();
    let journal = Kept::default();
    rig.fake.rule("CompleteMultipartUpload", "", 0, 1, Fault::Drop);
    rig.upload(12 * MIB, &journal).unwrap_err();
    assert_eq!(journal.parts(), None);
    rig.upload(12 * MIB, &journal).unwrap();
    assert_eq!(rig.fake.object("01A/index").unwrap(), content(12 * MIB));
    // A part that is acknowledged and not kept.
    rig.fake.rule("UploadPart", "", 1, 1, Fault::Drop);
    rig.upload(12 * MIB + 1, &journal).unwrap();
    assert_eq!(rig.fake.object("01A/index").unwrap(), content(12 * MIB + 1));
}

#[test]
fn bytes_that_are_changed_on_the_way_are_found_out() {
    // With Content-MD5 the store would see a change on the way; here it changes them itself, after that.
    let rig = Rig::new();
    rig.fake.rule("PutObject", "01A", 0, 1, Fault::Corrupt);
    let err = rig.upload(1000, &NoJournal).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "integrity"), "{err}");
    rig.upload(1000, &NoJournal).unwrap();
    assert_eq!(rig.fake.object("01A/index").unwrap(), content(1000));
    // A part is sent again at once.
    rig.fake.rule("UploadPart", "", 1, 1, Fault::Corrupt);
    rig.upload(12 * MIB, &NoJournal).unwrap();
    assert_eq!(rig.fake.object("01A/index").unwrap(), content(12 * MIB));
    // And again; then the whole object tells.
    rig.fake.rule("UploadPart", "", 1, 2, Fault::Corrupt);
    let err = rig.upload(12 * MIB + 1, &NoJournal).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "integrity"), "{err}");
}

#[test]
fn etags_that_are_no_md5_are_learned_by_reading_once() {
    let rig = Rig::new();
    rig.fake.with(|state| state.has_opaque_tags = true);
    let n_read = |rig: &Rig| rig.fake.operations().iter().filter(|name| **name == "GetObject").count();
    rig.upload(12 * MIB, &NoJournal).unwrap();
    assert_eq!(n_read(&rig), 1);
    rig.upload(12 * MIB + 1, &NoJournal).unwrap();
    rig.upload(1000, &NoJournal).unwrap();
    assert_eq!(n_read(&rig), 0);
    // A comparison has nothing but the bytes then; a connection that breaks in between goes on where it was.
    rig.upload(12 * MIB, &NoJournal).unwrap();
    rig.fake.rule("GetObject", "", 0, 1, Fault::Truncate);
    assert_eq!(rig.bucket.compare("01A/index", &rig.file(12 * MIB).1, &rig.stop).unwrap(), Compared::Same);
    let ranges: Vec<bool> = rig
        .fake
        .seen()
        .iter()
        .filter(|seen| seen.operation == "GetObject")
        .map(|seen| seen.headers.contains_key("range"))
        .collect();
    assert_eq!(ranges, [false, true]);
    rig.fake.with(|state| *state.objects.get_mut("01A/index").unwrap().bytes.last_mut().unwrap() ^= 1);
    assert_eq!(rig.bucket.compare("01A/index", &rig.file(12 * MIB).1, &rig.stop).unwrap(), Compared::Content);
}

#[test]
fn a_store_without_ranges_that_always_breaks_off_is_given_up() {
    let rig = Rig::new();
    rig.fake.with(|state| (state.has_opaque_tags, state.ignores_ranges) = (true, true));
    rig.upload(4 * MIB, &NoJournal).unwrap();
    rig.fake.seen();
    // The offset goes up and down, so every second time it looks like progress.
    for _ in 0..20 {
        rig.fake.rule("GetObject", "", 0, 1, Fault::TruncateAt(2 * MIB));
        rig.fake.rule("GetObject", "", 0, 1, Fault::TruncateAt(MIB));
    }
    let err = rig.bucket.compare("01A/index", &rig.file(4 * MIB).1, &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "network"), "{err}");
    assert_eq!(rig.fake.operations(), ["HeadObject", "GetObject", "GetObject", "GetObject", "GetObject"]);
}

/// Reads `01A/index`; how much arrived, whether that is the beginning of `bytes`, and the error.
fn read(rig: &Rig, bytes: &[u8]) -> (usize, bool, Option<Error>) {
    let (mut n_bytes, mut is_same, mut largest) = (0, true, 0);
    let mut each = |piece: &[u8]| {
        is_same &= bytes.get(n_bytes..n_bytes + piece.len()) == Some(piece);
        n_bytes += piece.len();
        largest = largest.max(piece.len());
        Ok(())
    };
    let done = rig.bucket.read("01A/index", &mut each, &rig.stop);
    assert!(largest <= MIB, "a piece of {largest} bytes");
    (n_bytes, is_same, done.err())
}

#[test]
fn an_object_is_read_on_where_the_connection_broke() {
    let size = 4 * MIB;
    for ignores_ranges in [false, true] {
        let rig = Rig::new();
        rig.fake.with(|state| state.ignores_ranges = ignores_ranges);
        rig.upload(size, &NoJournal).unwrap();
        let bytes = rig.fake.object("01A/index").unwrap();
        rig.fake.seen();
        assert_eq!(read(&rig, &bytes), (size, true, None));
        assert_eq!(rig.fake.operations(), ["HeadObject", "GetObject"]);
        rig.fake.rule("GetObject", "", 0, 1, Fault::TruncateAt(MIB));
        rig.fake.rule("GetObject", "", 0, 1, Fault::TruncateAt(if ignores_ranges { 2 * MIB } else { MIB }));
        assert_eq!(read(&rig, &bytes), (size, true, None));
        let seen = rig.fake.seen();
        let ranges: Vec<bool> = seen.iter().map(|seen| seen.headers.contains_key("range")).collect();
        assert_eq!(ranges, [false, false, true, true, false]);
        assert_eq!(seen.last().unwrap().operation, "HeadObject");
        // It ends with an error where nothing more arrives.
        rig.fake.rule("GetObject", "", 0, 20, Fault::TruncateAt(0));
        let (n_bytes, _, err) = read(&rig, &bytes);
        assert_eq!((n_bytes, err.unwrap().class()), (0, "network"));
    }
}

#[test]
fn an_object_that_is_replaced_while_it_is_read_is_no_mixture() {
    let rig = Rig::new();
    rig.upload(4 * MIB, &NoJournal).unwrap();
    let bytes = rig.fake.object("01A/index").unwrap();
    rig.fake.rule("GetObject", "", 0, 1, Fault::TruncateAt(MIB));
    let mut is_first = true;
    let mut each = |_: &[u8]| {
        if std::mem::take(&mut is_first) {
            rig.bucket.upload_bytes("01A/index", &vec![7; bytes.len()], &rig.stop)?;
        }
        Ok(())
    };
    let err = rig.bucket.read("01A/index", &mut each, &rig.stop).unwrap_err();
    assert!(err.to_string().ends_with("01A/index was replaced while it was read"), "{err}");
}

#[test]
fn a_store_that_gives_no_etag_at_the_end_is_asked_for_it() {
    let rig = Rig::new();
    rig.fake.with(|state| state.has_empty_complete_tag = true);
    let stored = rig.upload(12 * MIB, &NoJournal).unwrap();
    assert_eq!(rig.bucket.attributes("01A/index", &rig.stop).unwrap(), stored.attributes);
    assert!(!rig.fake.operations().contains(&"GetObject"));
}

#[test]
fn after_a_kill_at_most_one_part_is_sent_again() {
    let size = 23 * MIB;
    // Records: the intent, the name, five parts, the end. The process dies at each of them, and at each request.
    for n_records in 0..8 {
        let mut rig = Rig::new();
        let journal = Kept::default();
        *journal.left.lock().unwrap() = Some(n_records);
        rig.upload(size, &journal).unwrap_err();
        *journal.left.lock().unwrap() = None;
        let before = rig.fake.seen().iter().filter(|seen| seen.operation == "UploadPart").count();
        rig.reopen(|_| {});
        let stored = rig.upload(size, &journal).unwrap();
        let after = rig.fake.seen().iter().filter(|seen| seen.operation == "UploadPart").count();
        assert!(before + after <= 6, "{n_records}: {before} and {after} parts");
        let n_kept = 5 - after.min(5);
        assert_eq!(stored.resumed_bytes, (n_kept * 5 * MIB).min(size) as u64, "{n_records}");
        assert_eq!(rig.fake.object("01A/index").unwrap(), content(size), "{n_records}");
        assert_eq!((journal.parts(), rig.fake.n_uploads()), (None, 0), "{n_records}");
    }
}

#[test]
fn what_cannot_be_resumed_is_begun_again_and_leaves_nothing() {
    let size = 12 * MIB;
    let check = |name: &str, spoil: &dyn Fn(&Rig, &Kept), resumed: usize| {
        let mut rig = Rig::new();
        let journal = Kept::default();
        *journal.left.lock().unwrap() = Some(4);
        rig.upload(size, &journal).unwrap_err();
        *journal.left.lock().unwrap() = None;
        assert_eq!(journal.parts().unwrap().sent.len(), 2);
        spoil(&rig, &journal);
        rig.reopen(|_| {});
        let stored = rig.upload(size, &journal).unwrap();
        assert_eq!(stored.resumed_bytes, resumed as u64, "{name}");
        assert_eq!(rig.fake.object("01A/index").unwrap(), content(size), "{name}");
        assert_eq!((journal.parts(), rig.fake.n_uploads()), (None, 0), "{name}");
    };
    let change = |journal: &Kept, change: &dyn Fn(&mut Parts)| change(journal.parts.lock().unwrap().as_mut().unwrap());
    check("nothing spoiled", &|_, _| {}, 10 * MIB);
    check("the store has forgotten it", &|rig, _| rig.fake.with(|state| state.uploads.clear()), 0);
    check("the file is another one", &|_, journal| change(journal, &|parts| parts.sent[1].md5 = "0".repeat(32)), 0);
    check("the file has another size", &|_, journal| change(journal, &|parts| parts.size_bytes += 1), 0);
    check("parts of no size", &|_, journal| change(journal, &|parts| parts.part_bytes = 0), 0);
    check("another ETag", &|_, journal| change(journal, &|parts| parts.sent[1].tag = "other".into()), 5 * MIB);
    check("only an intent", &|_, journal| change(journal, &|parts| parts.upload_id.clear()), 0);
    check(
        "cannot list parts",
        &|rig, _| rig.fake.rule("ListParts", "", 0, 9, Fault::Refuse(405, "MethodNotAllowed")),
        10 * MIB,
    );
    check(
        "may not list parts",
        &|rig, _| rig.fake.rule("ListParts", "", 0, 9, Fault::Refuse(403, "AccessDenied")),
        10 * MIB,
    );
    check(
        "a part was lost",
        &|rig, _| rig.fake.with(|state| drop(state.uploads.values_mut().next().unwrap().parts.remove(&1))),
        0,
    );
    check(
        "a part was lost and cannot be listed",
        &|rig, _| {
            rig.fake.with(|state| drop(state.uploads.values_mut().next().unwrap().parts.remove(&1)));
            rig.fake.rule("ListParts", "", 0, 9, Fault::Refuse(501, "NotImplemented"));
        },
        0,
    );
}

#[test]
fn an_upload_goes_on_in_parts_of_the_size_that_it_was_begun_with() {
    let mut rig = Rig::new();
    let journal = Kept::default();
    *journal.left.lock().unwrap() = Some(4);
    rig.upload(20 * MIB, &journal).unwrap_err();
    *journal.left.lock().unwrap() = None;
    rig.reopen(|config| config.part_size = 7 * MIB as u64);
    let stored = rig.upload(20 * MIB, &journal).unwrap();
    assert_eq!(stored.resumed_bytes, 10 * MIB as u64);
    assert!(stored.attributes.tag.ends_with("-4"), "{stored:?}");
    assert_eq!(rig.fake.object("01A/index").unwrap(), content(20 * MIB));
    // The journal of another bucket does not count here, although all its parts are there.
    let parts = Parts { upload_id: "elsewhere".into(), ..sent_of(&content(12 * MIB), 5 * MIB) };
    *journal.parts.lock().unwrap() = Some(parts);
    let stored = rig.upload(12 * MIB, &journal).unwrap();
    assert_eq!((stored.resumed_bytes, rig.fake.n_uploads()), (0, 0));
    assert_eq!(rig.fake.object("01A/index").unwrap(), content(12 * MIB));
}

/// What a journal knows of an upload whose parts are all there.
fn sent_of(bytes: &[u8], part_bytes: usize) -> Parts {
    let sent = bytes
        .chunks(part_bytes)
        .map(|part| {
            let md5: String = Md5::digest(part).iter().map(|byte| format!("{byte:02x}")).collect();
            Part { tag: md5.clone(), md5 }
        })
        .collect();
    Parts { upload_id: String::new(), part_bytes: part_bytes as u64, size_bytes: bytes.len() as u64, sent }
}

#[test]
fn sizes_at_the_edges_of_parts() {
    for size in [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 10 * MIB] {
        for send_content_md5 in [true, false] {
            let rig = Rig::with(|config| config.send_content_md5 = send_content_md5);
            let stored = rig.upload(size, &NoJournal).unwrap();
            assert_eq!(stored.attributes.size_bytes, size as u64);
            assert_eq!(rig.fake.object("01A/index").unwrap(), content(size), "{size}");
            let n_parts = rig.fake.operations().iter().filter(|name| **name == "UploadPart").count();
            assert_eq!(n_parts, if size > 5 * MIB { 2 } else { 0 }, "{size}");
            assert_eq!(rig.bucket.compare("01A/index", &rig.file(size).1, &rig.stop).unwrap(), Compared::Same);
        }
    }
}

#[test]
fn who_may_not_abort_ships_all_the_same() {
    for fault in [Fault::Refuse(403, "AccessDenied"), Fault::Refuse(501, "NotImplemented")] {
        let rig = Rig::new();
        let journal = Kept::default();
        *journal.left.lock().unwrap() = Some(4);
        rig.upload(12 * MIB, &journal).unwrap_err();
        *journal.left.lock().unwrap() = None;
        rig.fake.rule("AbortMultipartUpload", "", 0, 9, fault);
        rig.upload(13 * MIB, &journal).unwrap();
        assert_eq!(rig.fake.object("01A/index").unwrap(), content(13 * MIB));
        // It is left to the lifecycle rule.
        assert_eq!((journal.parts(), rig.fake.n_uploads()), (None, 1));
    }
}

#[test]
fn an_error_behind_a_200_is_no_success_whatever_was_asked() {
    // The old object has the same size, and only the size is compared.
    let sse = Sse::Kms { key_id: "k".into(), context: <_>::default() };
    let rig = Rig::with(|config| config.sse = Some(sse.clone()));
    rig.bucket.upload_bytes("x", b"older", &rig.stop).unwrap();
    rig.fake.rule("PutObject", "", 0, 9, Fault::HiddenError("InternalError"));
    rig.put_small().unwrap_err();
    // A part is not taken for stored.
    let rig = Rig::new();
    rig.fake.rule("UploadPart", "", 1, 1, Fault::HiddenError("InternalError"));
    rig.upload(12 * MIB, &NoJournal).unwrap();
    let parts: Vec<_> = rig.fake.seen().iter().filter_map(|seen| seen.query.get("partNumber").cloned()).collect();
    assert_eq!(parts, ["1", "2", "2", "3"]);
    // A listing is not taken for empty.
    rig.fake.rule("ListObjectsV2", "", 0, 9, Fault::HiddenError("InternalError"));
    let err = rig.bucket.iter("", &mut |_| Ok(()), &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "server"), "{err}");
    // An object that says so is content.
    let text = b"<Error><Code>InternalError</Code></Error>";
    rig.bucket.upload_bytes("error.xml", text, &rig.stop).unwrap();
    assert_eq!(rig.bucket.get("error.xml", &rig.stop).unwrap(), text);
}

#[test]
fn an_upload_whose_begin_is_in_doubt_leaves_nothing() {
    let rig = Rig::new();
    let journal = Kept::default();
    rig.fake.rule("CreateMultipartUpload", "", 0, 2, Fault::LoseAnswer);
    rig.upload(12 * MIB, &journal).unwrap();
    assert_eq!(rig.fake.n_uploads(), 0);
    // Another object's upload whose name begins the same stays.
    let others = Kept::default();
    *others.left.lock().unwrap() = Some(3);
    let (_, source) = rig.file(12 * MIB);
    rig.bucket.upload("01A/index2", &source, &others, &rig.stop).unwrap_err();
    let intent = Parts { part_bytes: 1, size_bytes: 1, ..Parts::default() };
    rig.bucket.abandon("01A/index", &intent, &rig.stop).unwrap();
    assert_eq!(rig.fake.n_uploads(), 1);
    rig.bucket.abandon("01A/index2", &others.parts().unwrap(), &rig.stop).unwrap();
    assert_eq!(rig.fake.n_uploads(), 0);
    rig.fake.rule("ListMultipartUploads", "", 0, 1, Fault::Refuse(501, "NotImplemented"));
    rig.bucket.abandon("01A/index", &intent, &rig.stop).unwrap();
}

#[test]
fn keys_that_have_ended_are_renewed_once() {
    let rig = Rig::new();
    rig.fake.with(|state| state.session_token = "new".into());
    let bucket = open_as(config(&rig.fake), Given::boxed(Some(keys("old")), Some(keys("new"))));
    bucket.upload_bytes("x", b"1", &rig.stop).unwrap();
    assert_eq!(rig.fake.operations(), ["PutObject", "PutObject"]);
    // A HEAD is refused without a reason.
    let bucket = open_as(config(&rig.fake), Given::boxed(Some(keys("old")), Some(keys("new"))));
    assert!(bucket.exists("x", &rig.stop).unwrap());
    let bucket = open_as(config(&rig.fake), Given::boxed(Some(keys("old")), Some(keys("older"))));
    rig.fake.seen();
    let err = bucket.upload_bytes("x", b"1", &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "credentials"), "{err}");
    assert_eq!(rig.fake.operations().len(), 2);
}

#[test]
fn keys_that_end_during_an_upload_in_parts_are_renewed_and_it_goes_on() {
    for fault in [Fault::Refuse(400, "ExpiredToken"), Fault::RefuseEarly(400, "ExpiredToken")] {
        let rig = Rig::new();
        rig.fake.with(|state| state.checks_signatures = false);
        let bucket = open_as(config(&rig.fake), Given::boxed(Some(keys("old")), Some(keys("new"))));
        rig.fake.rule("UploadPart", "", 1, 1, fault.clone());
        let stored = bucket.upload("01A/index", &rig.file(12 * MIB).1, &NoJournal, &rig.stop).unwrap();
        assert_eq!(stored.attributes.size_bytes, 12 * MIB as u64);
        assert_eq!(rig.fake.object("01A/index").unwrap(), content(12 * MIB), "{fault:?}");
        let seen = rig.fake.seen();
        let signed: Vec<(&str, &str)> =
            seen.iter().map(|seen| (seen.operation, seen.headers["x-amz-security-token"].as_str())).collect();
        let part = "UploadPart";
        let expected = [("CreateMultipartUpload", "old"), (part, "old"), (part, "old"), (part, "new"), (part, "new")];
        assert_eq!(signed[..5], expected, "{fault:?}");
        assert!(signed[5..].iter().all(|(operation, token)| *operation != part && *token == "new"), "{signed:?}");
    }
}

#[test]
fn what_the_store_said_of_the_keys_is_not_lost_when_there_are_no_others() {
    struct Exhausted;
    impl CredentialsProvider for Exhausted {
        fn keys(&self, _: &Stop) -> Result<Option<Keys>> {
            Ok(Some(keys("")))
        }

        fn renew(&self, _: &Keys, _: &Stop) -> Result<Option<Keys>> {
            Err(Error::new(Kind::Retry, "the provider is away").classed("credentials"))
        }
    }
    let rig = Rig::new();
    let bucket = open_as(config(&rig.fake), Box::new(Exhausted));
    rig.fake.rule("PutObject", "", 0, 9, Fault::Refuse(403, "InvalidAccessKeyId"));
    let err = bucket.upload_bytes("x", b"1", &rig.stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "credentials"), "{err}");
    for part in ["PutObject fake-bucket/x", "403 InvalidAccessKeyId", "req-1", "the provider is away"] {
        assert!(err.to_string().contains(part), "{err} lacks {part}");
    }
}

#[test]
fn without_keys_requests_go_unsigned() {
    let rig = Rig::new();
    rig.fake.with(|state| state.checks_signatures = false);
    let bucket = open_as(config(&rig.fake), Given::boxed(None, None));
    bucket.upload_bytes("x y/ü+", b"1", &rig.stop).unwrap();
    bucket
        .iter(
            "x y",
            &mut |name| {
                assert_eq!(name, "x y/ü+");
                Ok(())
            },
            &rig.stop,
        )
        .unwrap();
    assert!(rig.fake.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
}

#[test]
fn a_clock_that_is_wrong_is_corrected_and_named() {
    for offset_s in [7200, -86_400] {
        let rig = Rig::new();
        rig.fake.with(|state| state.offset_s = offset_s);
        rig.put_small().unwrap();
        assert!(rig.bucket.exists("x", &rig.stop).unwrap());
        // Once learned, the store's time is used.
        assert_eq!(rig.fake.operations(), ["PutObject", "PutObject", "HeadObject"]);
        // The answer to a HEAD has no code, but a date.
        let rig = Rig::new();
        rig.fake.with(|state| state.offset_s = offset_s);
        assert!(!rig.bucket.exists("x", &rig.stop).unwrap());
    }
    let rig = Rig::new();
    rig.fake.rule("", "", 0, 9, Fault::Refuse(403, "RequestTimeTooSkewed"));
    let err = rig.put_small().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Permanent, "clock"), "{err}");
}

#[test]
fn the_bucket_is_found_in_its_region() {
    // Without a configured region the store is asked.
    let rig = Rig::with(|config| config.region = String::new());
    rig.put_small().unwrap();
    rig.put_small().unwrap();
    assert_eq!(rig.fake.operations(), ["GetBucketLocation", "PutObject", "PutObject"]);
    // Without the right to ask, the first refusal names the region.
    let rig = Rig::with(|config| config.region = String::new());
    rig.fake.with(|state| state.has_location = false);
    rig.put_small().unwrap();
    assert_eq!(rig.fake.operations(), ["GetBucketLocation", "PutObject", "PutObject"]);
    // A refusal that names another region is no proof of it.
    let rig = Rig::new();
    rig.fake.rule("PutObject", "", 0, 2, Fault::RefuseWith(403, "AccessDenied", "x-amz-bucket-region", "eu-other-1"));
    rig.put_small().unwrap_err();
    rig.fake.seen();
    rig.put_small().unwrap();
    assert_eq!(rig.fake.operations(), ["PutObject"]);
    // A wrong region is configured.
    let rig = Rig::with(|config| config.region = "us-wrong-9".into());
    rig.put_small().unwrap();
    rig.put_small().unwrap();
    assert_eq!(rig.fake.operations().len(), 3);
}

#[test]
fn a_missing_bucket_is_not_taken_for_a_missing_object() {
    let rig = Rig::new();
    rig.fake.with(|state| state.has_bucket = false);
    for err in [
        rig.bucket.exists("x", &rig.stop).unwrap_err(),
        rig.bucket.compare("x", &rig.file(1).1, &rig.stop).map(drop).unwrap_err(),
        rig.bucket.get("x", &rig.stop).map(drop).unwrap_err(),
        rig.bucket.iter("", &mut |_| Ok(()), &rig.stop).unwrap_err(),
        rig.put_small().unwrap_err(),
        rig.upload(12 * MIB, &NoJournal).map(drop).unwrap_err(),
    ] {
        assert_eq!((err.kind(), err.class()), (Kind::Permanent, "no_bucket"), "{err}");
    }
    // Without the right to list, a missing bucket looks like a missing object.
    let rig = Rig::new();
    rig.fake.with(|state| state.can_list = false);
    assert!(!rig.bucket.exists("x", &rig.stop).unwrap());
}

#[test]
fn a_stop_cuts_whatever_is_under_way() {
    for (operation, size) in [("PutObject", 1000), ("UploadPart", 12 * MIB), ("CompleteMultipartUpload", 12 * MIB)] {
        let rig = Rig::new();
        rig.fake.rule(operation, "", 0, 1, Fault::Hang);
        let (stopper, stop) = stop_pair().unwrap();
        let state = Arc::clone(&rig.fake.state);
        let watcher = spawn_thread("stopper", None, move || {
            while !state.lock().unwrap().seen.iter().any(|seen| seen.operation == operation) {
                std::thread::yield_now();
            }
            let begun = Instant::now();
            stopper.stop();
            begun
        })
        .unwrap();
        let err = rig.bucket.upload("01A/index", &rig.file(size).1, &Kept::default(), &stop).unwrap_err();
        let begun = watcher.join().unwrap();
        assert_eq!(err.kind(), Kind::Stopped, "{operation}: {err}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{operation}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_silent_server_is_given_up_after_its_time() {
    let rig = Rig::with(|config| {
        config.http.response_header_timeout = Duration::from_millis(50);
        config.max_attempts = 2;
    });
    rig.fake.rule("", "", 0, 2, Fault::Hang);
    let err = rig.put_small().unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "network"), "{err}");
    assert!(err.to_string().contains("time-out"), "{err}");
}

#[test]
fn connections_are_reused_and_capped() {
    let rig = Rig::with(|config| config.http.max_conns_per_host = 2);
    std::thread::scope(|scope| {
        for i in 0..6 {
            let (bucket, stop) = (&rig.bucket, &rig.stop);
            scope.spawn(move || {
                for _ in 0..5 {
                    bucket.upload_bytes(&format!("many/{i}"), b"x", stop).unwrap();
                }
            });
        }
    });
    let connections: std::collections::BTreeSet<usize> = rig.fake.seen().iter().map(|seen| seen.connection).collect();
    assert!(connections.len() <= 2, "{connections:?}");
}

#[test]
fn encryption_metadata_and_storage_class_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let key_file = dir.path().join("key");
    std::fs::write(&key_file, [7; 32]).unwrap();
    let c = |name: &str| format!("x-amz-server-side-encryption{name}");
    let check = |sse: Sse, on_new: &[(String, &str)], on_part: &[String]| {
        let rig = Rig::with(|config| {
            config.sse = Some(sse.clone());
            config.storage_class = "GLACIER_IR".into();
            config.put_user_metadata = [("Team".into(), "a b".into()), ("X-Amz-Tagging".into(), "k=v".into())].into();
        });
        rig.put_small().unwrap();
        rig.upload(12 * MIB, &NoJournal).unwrap();
        rig.bucket.get("x", &rig.stop).unwrap();
        assert_eq!(rig.bucket.compare("01A/index", &rig.file(12 * MIB).1, &rig.stop).unwrap(), Compared::Same);
        for seen in rig.fake.seen() {
            let has = |name: &String| seen.headers.contains_key(name);
            match seen.operation {
                "PutObject" | "CreateMultipartUpload" => {
                    for (name, value) in on_new {
                        assert_eq!(seen.headers[name], *value, "{sse:?}");
                    }
                    assert_eq!(seen.headers["x-amz-meta-team"], "a b");
                    assert_eq!(seen.headers["x-amz-tagging"], "k=v");
                    assert_eq!(seen.headers["x-amz-storage-class"], "GLACIER_IR");
                    assert_eq!(seen.headers["content-type"], "application/octet-stream");
                }
                "UploadPart" | "GetObject" | "HeadObject" => {
                    assert!(on_part.iter().all(has), "{seen:?}");
                    assert!(on_part.len() == 3 || !has(&c("")), "{seen:?}");
                }
                _ => {}
            }
        }
    };
    check(Sse::S3, &[(c(""), "AES256")], &[]);
    let context = [("a".to_owned(), "b".to_owned())].into();
    check(
        Sse::Kms { key_id: "k-1".into(), context },
        &[(c(""), "aws:kms"), (c("-aws-kms-key-id"), "k-1"), (c("-context"), "eyJhIjoiYiJ9")],
        &[],
    );
    let customer = ["-customer-algorithm", "-customer-key", "-customer-key-md5"].map(c);
    check(Sse::C { key_file: key_file.clone() }, &[(customer[0].clone(), "AES256")], &customer);

    let fake = FakeS3::start();
    for (bytes, part) in [(vec![7; 31], "31 bytes"), (vec![7; 33], "33 bytes")] {
        std::fs::write(&key_file, bytes).unwrap();
        let config = S3Config { sse: Some(Sse::C { key_file: key_file.clone() }), ..config(&fake) };
        let err = S3Bucket::open(config, Given::boxed(None, None), "x", &|_| None).err().unwrap();
        assert!(err.to_string().contains(part), "{err}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_at_the_start() {
    let fake = FakeS3::start();
    let check = |change: &dyn Fn(&mut S3Config), part: &str| {
        let mut config = config(&fake);
        change(&mut config);
        let env = |name: &str| (name == "HTTPS_PROXY").then(|| "http://u:hidden@proxy:1".to_owned());
        let err = S3Bucket::open(config, Given::boxed(None, None), "x", &env).err().unwrap();
        assert_eq!(err.kind(), Kind::Permanent);
        assert!(err.to_string().contains(part) && !err.to_string().contains("hidden"), "{err}");
    };
    check(&|config| config.part_size = 1, "part_size 1");
    check(&|config| config.put_user_metadata = [("a b".into(), "c".into())].into(), "put_user_metadata");
    check(&|config| config.put_user_metadata = [("a".into(), "b\nc".into())].into(), "put_user_metadata");
    check(&|config| (config.insecure, config.http.ca_file) = (false, Some("/nonexistent".into())), "ca_file");
    check(&|config| (config.insecure, config.http.ca_file) = (false, Some("/dev/null".into())), "holds no certificate");
    let cert = Some(("/dev/null".into(), "/dev/null".into()));
    check(&|config| (config.insecure, config.http.client_cert) = (false, cert.clone()), "cert_file");
    check(
        &|config| {
            config.insecure = false;
            config.endpoint = "s3.test".into();
            config.http.server_name = "x".into();
        },
        "NO_PROXY",
    );
}

#[test]
fn one_piece_where_parts_are_disabled() {
    let rig = Rig::with(|config| config.disable_multipart = true);
    let journal = Kept::default();
    *journal.parts.lock().unwrap() = Some(Parts { upload_id: "gone".into(), ..Parts::default() });
    rig.upload(12 * MIB, &journal).unwrap();
    assert_eq!(rig.fake.operations(), ["AbortMultipartUpload", "PutObject", "HeadObject"]);
    assert_eq!(journal.parts(), None);
}

#[test]
fn a_listing_that_does_not_end_is_given_up() {
    let rig = Rig::new();
    let endless = "<L><IsTruncated>true</IsTruncated><NextContinuationToken>same</NextContinuationToken></L>";
    rig.fake.rule("ListObjectsV2", "", 0, 99, Fault::Say(endless));
    let err = rig.bucket.iter("", &mut |_| Ok(()), &rig.stop).unwrap_err();
    assert!(err.to_string().contains("does not end"), "{err}");
    assert_eq!(rig.fake.operations().len(), 2);
}
