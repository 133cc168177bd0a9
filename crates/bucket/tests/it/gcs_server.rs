//! The Google Cloud Storage bucket on the emulator that others use, fake-gcs-server, through `scripts/fake-gcs.sh`. Left out
//! with a line where it is not installed, unless `CI=true`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use pillion_base::error::Kind;
use pillion_base::files::Disk;
use pillion_base::stop::stop_pair;
use pillion_bucket::gcs::{GcsBucket, GcsConfig};
use pillion_bucket::{Bucket, Compared, Journal, NoJournal};
use pillion_testing::bucket;
use pillion_testing::journal::{Kept, content};

const UNIT: usize = 256 * 1024;
/// What the script ends with when the emulator is not installed.
const NOT_INSTALLED: i32 = 3;

/// The server. It ends with the process: the script waits for the end of its standard input.
struct Server {
    _child: Child,
    facts: BTreeMap<String, String>,
    n_buckets: AtomicUsize,
}

impl Server {
    fn start() -> Option<Server> {
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/fake-gcs.sh"))
            .args(["run", "--until-eof"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut facts = BTreeMap::new();
        // The script gives up by itself after a while.
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            match line.unwrap().split_once('=') {
                Some((name, value)) => facts.insert(name.to_owned(), value.to_owned()),
                None => return Some(Server { _child: child, facts, n_buckets: AtomicUsize::new(0) }),
            };
        }
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap();
        let is_left_out = std::env::var_os("CI").is_none_or(|value| value != "true");
        assert!(status.code() == Some(NOT_INSTALLED) && is_left_out, "scripts/fake-gcs.sh ({status}): {said}");
        eprintln!("not run against fake-gcs-server: {}", said.trim());
        None
    }

    fn shared() -> Option<&'static Server> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        SERVER.get_or_init(Server::start).as_ref()
    }

    /// A bucket that is there and empty.
    fn bucket(&self, change: impl FnOnce(&mut GcsConfig)) -> GcsBucket {
        let name = format!("test-{}", self.n_buckets.fetch_add(1, Ordering::Relaxed));
        let url = format!("http://{}/storage/v1/b?project=test", self.facts["host"]);
        let made = ureq::post(&url).content_type("application/json").send(format!(r#"{{"name":"{name}"}}"#)).unwrap();
        assert_eq!(made.status(), 200);
        let mut config = GcsConfig { bucket: name, chunk_bytes: UNIT as u64, max_attempts: 2, ..GcsConfig::default() };
        change(&mut config);
        let host = self.facts["host"].clone();
        let env = move |name: &str| (name == "STORAGE_EMULATOR_HOST").then(|| host.clone());
        GcsBucket::open(&config, "pillion-test", Arc::new(env)).unwrap()
    }
}

#[test]
fn the_suite_passes() {
    let Some(server) = Server::shared() else { return };
    bucket::suite(&server.bucket(|_| {}));
    bucket::suite(&server.bucket(|config| config.chunk_bytes = 16 << 20));
}

#[test]
fn a_large_file_goes_in_chunks_and_goes_on_where_it_was_killed() {
    let Some(server) = Server::shared() else { return };
    let (_stopper, stop) = stop_pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index");
    let size = 5 * UNIT + 17;
    std::fs::write(&file, content(size)).unwrap();
    let source = Disk::real().open_source(&file).unwrap();
    let bucket = server.bucket(|_| {});
    // The first record comes before the first chunk. The store has what was sent when the one after it fails.
    for n_records in 0..=5 {
        let journal = Kept::default();
        journal.fail_after(n_records);
        let object = format!("01A/{n_records}");
        bucket.upload(&object, &source, &journal, &stop).unwrap_err();
        assert!(!bucket.exists(&object, &stop).unwrap());
        journal.recover();
        let stored = bucket.upload(&object, &source, &journal, &stop).unwrap();
        let resumed_bytes = n_records * UNIT;
        assert_eq!((stored.attributes.size_bytes, stored.resumed_bytes), (size as u64, resumed_bytes as u64));
        assert_eq!(journal.parts(), None);
        assert_eq!(bucket.attributes(&object, &stop).unwrap(), stored.attributes);
        assert_eq!(bucket.get(&object, &stop).unwrap(), content(size));
        assert_eq!(bucket.compare(&object, &source, &stop).unwrap(), Compared::Same);
        // The same file once more, over the object that is there.
        let again = bucket.upload(&object, &source, &NoJournal, &stop).unwrap();
        assert_eq!((again.attributes, again.resumed_bytes), (stored.attributes, 0));
    }
}

#[test]
fn an_object_whose_end_was_not_recorded_is_there() {
    let Some(server) = Server::shared() else { return };
    let (_stopper, stop) = stop_pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index");
    std::fs::write(&file, content(3 * UNIT)).unwrap();
    let source = Disk::real().open_source(&file).unwrap();
    let bucket = server.bucket(|_| {});
    let journal = Kept::default();
    journal.fail_after(3);
    bucket.upload("01A/index", &source, &journal, &stop).unwrap_err();
    assert!(bucket.exists("01A/index", &stop).unwrap());
    journal.recover();
    let stored = bucket.upload("01A/index", &source, &journal, &stop).unwrap();
    assert_eq!((stored.resumed_bytes, journal.parts()), (3 * UNIT as u64, None));
}

#[test]
fn an_upload_is_abandoned_and_a_bucket_that_is_missing_is_said() {
    let Some(server) = Server::shared() else { return };
    let (_stopper, stop) = stop_pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index");
    std::fs::write(&file, content(3 * UNIT)).unwrap();
    let source = Disk::real().open_source(&file).unwrap();
    let bucket = server.bucket(|_| {});
    let journal = Kept::default();
    journal.fail_after(2);
    bucket.upload("01A/index", &source, &journal, &stop).unwrap_err();
    bucket.abandon("01A/index", &journal.parts().unwrap(), &stop).unwrap();
    let missing = server.bucket(|config| config.bucket = "missing".into());
    for err in [
        missing.upload_bytes("x", b"x", &stop).unwrap_err(),
        missing.upload("x", &source, &NoJournal, &stop).unwrap_err(),
        missing.iter("", &mut |_| Ok(()), &stop).unwrap_err(),
    ] {
        assert_eq!((err.kind(), err.class()), (Kind::Permanent, "no_bucket"), "{err}");
        assert!(err.to_string().contains("create the bucket missing"), "{err}");
    }
}
