//! The Azure bucket on Microsoft's emulator, Azurite, through `scripts/azurite.sh`. Left out with a line where it is not
//! installed, unless `CI=true`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use pillion_base::content::Content;
use pillion_base::error::Kind;
use pillion_base::files::Disk;
use pillion_base::secret::Secret;
use pillion_base::stop::stop_pair;
use pillion_bucket::azure::{Auth, AzureBucket, AzureConfig};
use pillion_bucket::{Bucket, BucketConfig, Compared, NoJournal, Pace};
use pillion_testing::bucket;
use pillion_testing::fake_azure::account_sas;
use pillion_testing::journal::{Kept, content};

const MIB: usize = 1024 * 1024;
/// What the script ends with when Azurite is not installed.
const NOT_INSTALLED: i32 = 3;

/// The server. It ends with the process: the script waits for the end of its standard input.
struct Azurite {
    _child: Child,
    facts: BTreeMap<String, String>,
    n_containers: AtomicUsize,
}

impl Azurite {
    fn start() -> Option<Azurite> {
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/azurite.sh"))
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
                None => return Some(Azurite { _child: child, facts, n_containers: AtomicUsize::new(0) }),
            };
        }
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap();
        let is_left_out = std::env::var_os("CI").is_none_or(|value| value != "true");
        assert!(status.code() == Some(NOT_INSTALLED) && is_left_out, "scripts/azurite.sh ({status}): {said}");
        eprintln!("not run against Azurite: {}", said.trim());
        None
    }

    fn shared() -> Option<&'static Azurite> {
        static AZURITE: OnceLock<Option<Azurite>> = OnceLock::new();
        AZURITE.get_or_init(Azurite::start).as_ref()
    }

    fn fact(&self, name: &str) -> &str {
        self.facts.get(name).unwrap_or_else(|| panic!("the script did not say {name}"))
    }

    /// The configuration of a container that is not there yet.
    fn config(&self) -> AzureConfig {
        AzureConfig {
            account: self.fact("account").into(),
            container: format!("test-{}", self.n_containers.fetch_add(1, Ordering::Relaxed)),
            service: self.fact("endpoint").into(),
            auth: Auth::Key(Secret(self.fact("key").into())),
            block_bytes: MIB as u64,
            max_attempts: 2,
            ..AzureConfig::default()
        }
    }

    fn sas(&self, permissions: &str, expiry: &str) -> Auth {
        Auth::Sas(Secret(account_sas(self.fact("account"), self.fact("key"), permissions, expiry)))
    }
}

fn open(config: &AzureConfig) -> AzureBucket {
    AzureBucket::open(config, "pillion-test", Arc::new(|_| None)).unwrap()
}

#[test]
fn the_suite_passes_with_a_key_a_signature_and_a_connection_string() {
    let Some(azurite) = Azurite::shared() else { return };
    bucket::suite(&open(&azurite.config()));
    bucket::suite(&open(&AzureConfig { block_bytes: 40_000, ..azurite.config() }));
    bucket::suite(&open(&AzureConfig { auth: azurite.sas("rwdlac", "2036-01-01T00:00:00Z"), ..azurite.config() }));
    let text = format!(
        "type: AZURE\nprefix: deep/er\nconfig:\n  container: {}\n  storage_connection_string: {}",
        azurite.config().container,
        azurite.fact("connection_string")
    );
    let config = BucketConfig::parse(&Content { origin: "bucket.yml".into(), text }).unwrap();
    bucket::suite(&*pillion_bucket::open(&config, &Disk::real(), Pace::default()).unwrap());
}

#[test]
fn a_large_file_goes_in_blocks_and_goes_on_where_it_was_killed() {
    let Some(azurite) = Azurite::shared() else { return };
    let (_stopper, stop) = stop_pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index");
    let size = 5 * MIB + 17;
    std::fs::write(&file, content(size)).unwrap();
    let source = Disk::real().open_source(&file).unwrap();
    let bucket = open(&azurite.config());
    let journal = Kept::default();
    // Dies with the journal of the third block; the store has that one too.
    journal.fail_after(3);
    bucket.upload("01A/index", &source, &journal, &stop).unwrap_err();
    assert!(!bucket.exists("01A/index", &stop).unwrap());
    journal.recover();
    let stored = bucket.upload("01A/index", &source, &journal, &stop).unwrap();
    assert_eq!((stored.attributes.size_bytes, stored.resumed_bytes), (size as u64, 3 * MIB as u64));
    assert_eq!(bucket.attributes("01A/index", &stop).unwrap(), stored.attributes);
    assert_eq!(bucket.get("01A/index", &stop).unwrap(), content(size));
    assert_eq!(bucket.compare("01A/index", &source, &stop).unwrap(), Compared::Same);
    // The same file once more, over the blob that is there.
    let again = bucket.upload("01A/index", &source, &NoJournal, &stop).unwrap();
    assert_eq!((again.attributes, again.resumed_bytes), (stored.attributes, 0));
}

#[test]
fn refusals_of_the_emulator_say_what_to_change() {
    let Some(azurite) = Azurite::shared() else { return };
    let (_stopper, stop) = stop_pair().unwrap();
    let there = azurite.config();
    open(&there).upload_bytes("x", b"x", &stop).unwrap();
    let check = |change: &dyn Fn(&mut AzureConfig), kind: Kind, class: &str, part: &str| {
        let mut config = there.clone();
        change(&mut config);
        let err = open(&config).upload_bytes("x", b"x", &stop).unwrap_err();
        assert_eq!((err.kind(), err.class()), (kind, class), "{err}");
        assert!(err.to_string().contains(part) && !err.to_string().contains("sig="), "{err} lacks {part}");
    };
    use Kind::Permanent;
    let never = "2036-01-01T00:00:00Z";
    check(&|c| c.auth = Auth::Key(Secret("aHVudGVyMg==".into())), Permanent, "credentials", "storage_account_key");
    check(&|c| c.auth = azurite.sas("rl", never), Permanent, "denied", "lacks the permission w");
    check(
        &|c| c.auth = azurite.sas("rwl", "2020-01-01T00:00:00Z"),
        Permanent,
        "credentials",
        "storage_connection_string",
    );
    check(
        &|c| (c.container, c.creates_container) = ("missing".into(), false),
        Permanent,
        "no_bucket",
        "create the container missing",
    );
    check(
        &|c| (c.container, c.auth) = ("missing".into(), azurite.sas("rl", never)),
        Permanent,
        "denied",
        "lacks the permission w",
    );
}
