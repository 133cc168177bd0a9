//! What a user sees of an S3 bucket: over a store in this process that can be told to fail, and over any real one that
//! the environment names (`PILLION_S3_ENDPOINT`, `PILLION_S3_ACCESS_KEY`, `PILLION_S3_SECRET_KEY`, and where needed
//! `PILLION_S3_BUCKET`, `PILLION_S3_REGION`).

#![allow(clippy::unwrap_used)]

#[path = "support/bucket.rs"]
mod bucket;
#[path = "support/fake_s3.rs"]
mod fake_s3;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fake_s3::{ACCESS_KEY, BUCKET, FakeS3, Fault, REGION, SECRET_KEY};
use pillion::error::{Error, Kind, Result};
use pillion::files::{Disk, Source};
use pillion::objstore::s3::config::{ListVersion, S3Config, Secret, Sse};
use pillion::objstore::s3::credentials::{Credentials, Keys};
use pillion::objstore::s3::{S3Bucket, Waits};
use pillion::objstore::{Bucket, Compared, Journal, NoJournal, Parts};
use pillion::supervisor::{Stop, Stopper, spawn_thread, stop_pair};

const MIB: usize = 1024 * 1024;

fn keys(token: &str) -> Keys {
    keys_of(ACCESS_KEY, SECRET_KEY, token)
}

fn keys_of(access_key: &str, secret_key: &str, token: &str) -> Keys {
    let secret = |text: &str| Secret(text.to_owned());
    Keys { access_key: secret(access_key), secret_key: secret(secret_key), session_token: secret(token), expires: None }
}

/// Keys that can be renewed once.
struct Given(Mutex<(Option<Keys>, Option<Keys>)>);

impl Given {
    fn boxed(now: Option<Keys>, next: Option<Keys>) -> Box<Given> {
        Box::new(Given(Mutex::new((now, next))))
    }
}

impl Credentials for Given {
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

fn config(fake: &FakeS3) -> S3Config {
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

fn open(config: S3Config) -> S3Bucket {
    open_as(config, Given::boxed(Some(keys("")), None))
}

fn open_as(config: S3Config, who: Box<dyn Credentials>) -> S3Bucket {
    S3Bucket::open_with_env(config, who, "pillion-test", &|_| None).unwrap().with_waits(quick())
}

struct Rig {
    fake: FakeS3,
    bucket: S3Bucket,
    dir: tempfile::TempDir,
    _stopper: Stopper,
    stop: Stop,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut S3Config)) -> Rig {
        let fake = FakeS3::start();
        let mut config = config(&fake);
        change(&mut config);
        let (stopper, stop) = stop_pair().unwrap();
        Rig { bucket: open(config), fake, dir: tempfile::tempdir().unwrap(), _stopper: stopper, stop }
    }

    fn reopen(&mut self, change: impl FnOnce(&mut S3Config)) {
        let mut config = config(&self.fake);
        change(&mut config);
        self.bucket = open(config);
    }

    /// A file whose bytes say where they are.
    fn file(&self, size: usize) -> (PathBuf, Source) {
        let path = self.dir.path().join(format!("file-{size}"));
        std::fs::write(&path, content(size)).unwrap();
        let source = Disk::real().open_source(&path).unwrap();
        (path, source)
    }

    fn upload(&self, size: usize, journal: &dyn Journal) -> Result<pillion::objstore::Stored> {
        self.bucket.upload("01A/index", &self.file(size).1, journal, &self.stop)
    }

    fn put(&self) -> Result<()> {
        self.bucket.upload_bytes("x", b"small", &self.stop)
    }
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| u8::try_from((i / 7 + i / 65_536 * 31) % 251).unwrap()).collect()
}

/// A journal that outlives a bucket.
#[derive(Default)]
struct Kept {
    parts: Mutex<Option<Parts>>,
    /// Records that are allowed before they fail, as they do when the process is killed.
    left: Mutex<Option<usize>>,
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
