//! What is signed and which checksums go with it, and stores, gateways and proxies that differ in that.

use std::sync::{Arc, Mutex};

use pillion_base::error::{Kind, Result};
use pillion_base::stop::Stop;
use pillion_bucket::s3::{CredentialsProvider, Keys, Sse};
use pillion_bucket::{Bucket, Compared, Journal, NoJournal, Prefixed};
use pillion_testing::bucket;
use pillion_testing::fake_s3::{Fault, Seen};

use super::s3::{Kept, MIB, Rig, config, content, keys, open_as};

const CRC: &str = "x-amz-checksum-crc32c";
const ALGORITHM: &str = "x-amz-checksum-algorithm";

fn puts(seen: &[Seen]) -> Vec<&Seen> {
    seen.iter().filter(|seen| ["PutObject", "UploadPart"].contains(&seen.operation)).collect()
}

#[test]
fn the_signature_is_in_the_header_and_no_url_holds_anything_secret() {
    let rig = Rig::new();
    rig.fake.with(|state| state.session_token = "token".into());
    let bucket = open_as(config(&rig.fake), super::s3::Given::boxed(Some(keys("token")), None));
    bucket::suite(&bucket);
    bucket.upload("01A/index", &rig.file(12 * MIB).1, &NoJournal, &rig.stop).unwrap();
    for seen in rig.fake.seen() {
        assert!(!seen.query.keys().any(|name| name.to_lowercase().starts_with("x-amz")), "{seen:?}");
        assert_eq!(seen.headers["x-amz-security-token"], "token");
        assert!(seen.headers["authorization"].starts_with("AWS4-HMAC-SHA256 Credential="), "{seen:?}");
    }
}

#[test]
fn without_tls_every_body_is_hashed_and_signed() {
    for (send_content_md5, keeps) in [(true, false), (false, false), (true, true), (false, true)] {
        let rig = Rig::with(|config| config.send_content_md5 = send_content_md5);
        rig.fake.with(|state| (state.forbids_unsigned, state.keeps_crc32c) = (true, keeps));
        bucket::suite(&rig.bucket);
        rig.upload(12 * MIB, &NoJournal).unwrap();
        rig.upload(1000, &NoJournal).unwrap();
        assert!(rig.fake.seen().iter().all(|seen| seen.headers["x-amz-content-sha256"].len() == 64));
    }
}

/// Whoever gives keys says when: under the permit, so that only one request is between its signature and its answer.
struct Counting {
    n_seen: Arc<dyn Fn() -> usize + Send + Sync>,
    asked: Mutex<Vec<usize>>,
}

impl CredentialsProvider for Counting {
    fn keys(&self, _: &Stop) -> Result<Option<Keys>> {
        self.asked.lock().unwrap().push((self.n_seen)());
        Ok(Some(keys("")))
    }

    fn renew(&self, _: &Keys, _: &Stop) -> Result<Option<Keys>> {
        Ok(None)
    }
}

#[test]
fn a_request_is_signed_when_it_has_its_connection() {
    let rig = Rig::new();
    let state = Arc::clone(&rig.fake.state);
    let counting =
        Arc::new(Counting { n_seen: Arc::new(move || state.lock().unwrap().seen.len()), asked: Mutex::default() });
    struct Shared(Arc<Counting>);
    impl CredentialsProvider for Shared {
        fn keys(&self, stop: &Stop) -> Result<Option<Keys>> {
            self.0.keys(stop)
        }

        fn renew(&self, used: &Keys, stop: &Stop) -> Result<Option<Keys>> {
            self.0.renew(used, stop)
        }
    }
    let mut config = config(&rig.fake);
    config.http.max_conns_per_host = 1;
    let bucket = open_as(config, Box::new(Shared(Arc::clone(&counting))));
    std::thread::scope(|scope| {
        for i in 0..4 {
            let (bucket, stop) = (&bucket, &rig.stop);
            scope.spawn(move || {
                for _ in 0..25 {
                    bucket.upload_bytes(&format!("many/{i}"), b"x", stop).unwrap();
                }
            });
        }
    });
    let asked = counting.asked.lock().unwrap();
    assert_eq!(*asked, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_prefix_with_two_slashes_is_the_one_that_thanos_makes() {
    let rig = Rig::new();
    let prefixed = |inner| Prefixed::wrap(inner, "/a//b/").unwrap();
    let Rig { bucket: inner, fake, stop, _stopper, dir } = rig;
    let bucket = prefixed(Arc::new(inner));
    bucket.upload_bytes("x/y", b"1", &stop).unwrap();
    assert_eq!(fake.object("a//b/x/y").unwrap(), b"1");
    bucket::suite(&*prefixed({
        bucket.delete("x/y", &stop).unwrap();
        Arc::new(super::s3::open(config(&fake)))
    }));
    // In a folder it is the same as one, as in Thanos.
    let root = dir.path().join("b");
    let folder = pillion_bucket::FolderBucket::open(&root, pillion_base::files::Disk::real()).unwrap();
    let bucket = prefixed(Arc::new(folder));
    bucket::suite(&*bucket);
    bucket.upload_bytes("x/y", b"1", &stop).unwrap();
    assert_eq!(std::fs::read(root.join("a/b/x/y")).unwrap(), b"1");
}

#[test]
fn the_404_of_a_proxy_throws_no_resume_away() {
    for operation in ["ListParts", "UploadPart", "CompleteMultipartUpload"] {
        let rig = Rig::new();
        let journal = Kept::default();
        *journal.left.lock().unwrap() = Some(4);
        rig.upload(12 * MIB, &journal).unwrap_err();
        *journal.left.lock().unwrap() = None;
        let before = journal.parts().unwrap();
        assert_eq!(before.sent.len(), 2);
        rig.fake.rule(operation, "", 0, 99, Fault::Proxy(404, "<html><body>404 Not Found</body></html>"));
        let err = rig.upload(12 * MIB, &journal).unwrap_err();
        assert_eq!((err.kind(), err.class()), (Kind::Retry, "network"), "{operation}: {err}");
        assert!(err.to_string().contains("proxy"), "{err}");
        let after = journal.parts().unwrap();
        assert_eq!((&after.upload_id, &after.sent[..2]), (&before.upload_id, &before.sent[..]), "{operation}");
        rig.fake.with(|state| state.heal());
        let stored = rig.upload(12 * MIB, &journal).unwrap();
        assert!(stored.resumed_bytes >= 10 * MIB as u64, "{operation}");
        assert_eq!(rig.fake.object("01A/index").unwrap(), content(12 * MIB));
        assert_eq!(rig.fake.n_uploads(), 0);
    }
    // Nor is an object missing because a proxy says so.
    let rig = Rig::new();
    rig.fake.rule("GetObject", "", 0, 99, Fault::Proxy(404, "nothing here"));
    assert_eq!(rig.bucket.get("x", &rig.stop).unwrap_err().kind(), Kind::Retry);
}

#[test]
fn a_store_whose_head_has_another_etag_than_its_put_is_compared_by_what_it_shows() {
    let rig = Rig::new();
    rig.fake.with(|state| state.has_other_head_tags = true);
    for size in [1000, 12 * MIB] {
        let stored = rig.upload(size, &NoJournal).unwrap();
        assert_eq!(rig.bucket.attributes("01A/index", &rig.stop).unwrap(), stored.attributes, "{size}");
        assert_eq!(rig.bucket.compare("01A/index", &rig.file(size).1, &rig.stop).unwrap(), Compared::Same);
    }
    // It is learned by reading once; a shorter object is still found out.
    rig.fake.seen();
    let stored = rig.upload(2000, &NoJournal).unwrap();
    assert_eq!(rig.bucket.attributes("01A/index", &rig.stop).unwrap(), stored.attributes);
    assert!(!rig.fake.operations().contains(&"GetObject"));
    rig.fake.rule("PutObject", "", 0, 1, Fault::Shorten);
    let err = rig.upload(3000, &NoJournal).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "integrity"), "{err}");
}

#[test]
fn a_store_that_keeps_crc32c_gets_it_in_place_of_md5() {
    for send_content_md5 in [true, false] {
        let rig = Rig::with(|config| config.send_content_md5 = send_content_md5);
        rig.fake.with(|state| state.keeps_crc32c = true);
        bucket::suite(&rig.bucket);
        rig.fake.seen();
        rig.upload(12 * MIB, &NoJournal).unwrap();
        assert_eq!(rig.fake.object("01A/index").unwrap(), content(12 * MIB));
        rig.upload(1000, &NoJournal).unwrap();
        let seen = rig.fake.seen();
        assert_eq!(puts(&seen).len(), 4);
        for put in puts(&seen) {
            assert!(put.headers.contains_key(CRC) && !put.headers.contains_key("content-md5"), "{put:?}");
        }
        let begun = seen.iter().find(|seen| seen.operation == "CreateMultipartUpload").unwrap();
        assert_eq!(begun.headers[ALGORITHM], "CRC32C");
        assert!(!seen.iter().any(|seen| seen.operation == "GetObject"));
        assert_eq!(rig.bucket.compare("01A/index", &rig.file(1000).1, &rig.stop).unwrap(), Compared::Same);
    }
}

#[test]
fn whether_a_store_keeps_crc32c_is_asked_once() {
    // It ignores it.
    let rig = Rig::new();
    rig.upload(1000, &NoJournal).unwrap();
    rig.upload(12 * MIB, &NoJournal).unwrap();
    let offered: Vec<bool> = puts(&rig.fake.seen()).iter().map(|seen| seen.headers.contains_key(CRC)).collect();
    assert_eq!(offered, [true, false, false, false]);
    // It ignores it where parts begin.
    let rig = Rig::new();
    rig.upload(12 * MIB, &NoJournal).unwrap();
    let seen = rig.fake.seen();
    assert_eq!(seen.iter().filter(|seen| seen.headers.contains_key(ALGORITHM)).count(), 1);
    assert!(puts(&seen).iter().all(|put| !put.headers.contains_key(CRC) && put.headers.contains_key("content-md5")));
    // It refuses what it does not know.
    for refusal in [Fault::Refuse(501, "NotImplemented"), Fault::Refuse(400, "InvalidRequest")] {
        for size in [1000, 12 * MIB] {
            let rig = Rig::new();
            rig.fake.rule("PutObject", "", 0, 1, refusal.clone());
            rig.fake.rule("CreateMultipartUpload", "", 0, 1, refusal.clone());
            rig.upload(size, &NoJournal).unwrap();
            rig.upload(size, &NoJournal).unwrap();
            let n_offered =
                |name| rig.fake.with(|state| state.seen.iter().filter(|s| s.headers.contains_key(name)).count());
            assert_eq!(n_offered(CRC) + n_offered(ALGORITHM), 1);
            assert_eq!((rig.fake.object("01A/index").unwrap(), rig.fake.n_uploads()), (content(size), 0));
        }
    }
    // Every other fault is no answer to the question.
    let rig = Rig::new();
    rig.fake.with(|state| state.keeps_crc32c = true);
    rig.fake.rule("PutObject", "", 0, 1, Fault::Refuse(400, "BadDigest"));
    rig.upload(1000, &NoJournal).unwrap();
    rig.upload(1000, &NoJournal).unwrap();
    assert!(rig.fake.seen().iter().filter(|s| s.operation == "PutObject").all(|put| put.headers.contains_key(CRC)));
}

#[test]
fn a_bucket_with_object_lock_takes_every_upload() {
    for keeps in [true, false] {
        let rig = Rig::new();
        rig.fake.with(|state| (state.demands_checksum, state.keeps_crc32c) = (true, keeps));
        rig.put_small().unwrap();
        rig.upload(1000, &NoJournal).unwrap();
        rig.upload(12 * MIB, &NoJournal).unwrap();
    }
}

#[test]
fn damage_is_found_by_crc32c_too() {
    let rig = Rig::new();
    rig.fake.with(|state| state.keeps_crc32c = true);
    rig.put_small().unwrap();
    // The store changes bytes that it has checked, and its sums are those of what it keeps.
    rig.fake.rule("PutObject", "01A", 0, 1, Fault::Corrupt);
    let err = rig.upload(1000, &NoJournal).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "integrity"), "{err}");
    rig.fake.rule("UploadPart", "", 1, 1, Fault::Corrupt);
    rig.upload(12 * MIB, &NoJournal).unwrap();
    assert_eq!(rig.fake.object("01A/index").unwrap(), content(12 * MIB));
    rig.fake.rule("UploadPart", "", 1, 2, Fault::Corrupt);
    let err = rig.upload(12 * MIB + 1, &NoJournal).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Kind::Retry, "integrity"), "{err}");
}

#[test]
fn an_upload_with_crc32c_resumes_and_one_that_was_begun_without_it_too() {
    let size = 23 * MIB;
    for (keeps_first, keeps_then) in [(true, true), (false, true), (true, false)] {
        for n_records in 0..8 {
            let mut rig = Rig::new();
            let journal = Kept::default();
            rig.fake.with(|state| state.keeps_crc32c = keeps_first);
            *journal.left.lock().unwrap() = Some(n_records);
            rig.upload(size, &journal).unwrap_err();
            *journal.left.lock().unwrap() = None;
            rig.fake.with(|state| state.keeps_crc32c = keeps_then);
            let before = puts(&rig.fake.seen()).len();
            rig.reopen(|_| {});
            rig.upload(size, &journal).unwrap();
            let after = puts(&rig.fake.seen()).len();
            assert!(before + after <= 6 || keeps_first != keeps_then, "{n_records}: {before} and {after} parts");
            assert_eq!(rig.fake.object("01A/index").unwrap(), content(size), "{n_records}");
            assert_eq!((journal.parts(), rig.fake.n_uploads()), (None, 0), "{n_records}");
        }
    }
    // The file is another one.
    let rig = Rig::new();
    rig.fake.with(|state| state.keeps_crc32c = true);
    let journal = Kept::default();
    *journal.left.lock().unwrap() = Some(4);
    rig.upload(12 * MIB, &journal).unwrap_err();
    *journal.left.lock().unwrap() = None;
    journal.parts.lock().unwrap().as_mut().unwrap().sent[1].md5 = "crc32c:00000000".into();
    assert_eq!(rig.upload(12 * MIB, &journal).unwrap().resumed_bytes, 0);
}

#[test]
fn the_customers_key_and_kms_go_with_crc32c() {
    for sse in [Sse::S3, Sse::Kms { key_id: "k".into(), context: <_>::default() }] {
        let rig = Rig::with(|config| config.sse = Some(sse.clone()));
        rig.fake.with(|state| (state.keeps_crc32c, state.has_opaque_tags) = (true, sse != Sse::S3));
        bucket::suite(&rig.bucket);
        rig.upload(12 * MIB, &NoJournal).unwrap();
        assert_eq!(rig.bucket.compare("01A/index", &rig.file(12 * MIB).1, &rig.stop).unwrap(), Compared::Same);
    }
}
