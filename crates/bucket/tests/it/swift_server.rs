//! The Swift bucket on OpenStack's own servers, through `scripts/swift.sh`, and on Ceph, which speaks the same, through
//! `scripts/rgw.sh`. Each is left out with a line where it is not installed, unless `CI=true`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use pillion_base::content::Content;
use pillion_base::error::Kind;
use pillion_base::files::{Disk, Source};
use pillion_base::secret::Secret;
use pillion_base::stop::stop_pair;
use pillion_bucket::swift::{Auth, SwiftBucket, SwiftConfig};
use pillion_bucket::{Bucket, BucketConfig, Compared, NoJournal, Pace, Parts};
use pillion_testing::bucket;
use pillion_testing::journal::{Kept, content};

const MIB: usize = 1024 * 1024;
/// What the scripts end with when something is not installed.
const NOT_INSTALLED: i32 = 3;

/// The servers. They end with the process: the script waits for the end of its standard input.
struct Server {
    _child: Child,
    facts: BTreeMap<String, String>,
    n_containers: AtomicUsize,
}

impl Server {
    fn start(script: &str, options: &[&str]) -> Option<Server> {
        let mut child = Command::new(format!("{}/../../scripts/{script}", env!("CARGO_MANIFEST_DIR")))
            .args(["run", "--until-eof"])
            .args(options)
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
                None => return Some(Server { _child: child, facts, n_containers: AtomicUsize::new(0) }),
            };
        }
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap();
        let is_left_out = std::env::var_os("CI").is_none_or(|value| value != "true");
        assert!(status.code() == Some(NOT_INSTALLED) && is_left_out, "scripts/{script} ({status}): {said}");
        eprintln!("not run, because it is not installed: {}", said.trim());
        None
    }

    fn shared() -> Option<&'static Server> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        SERVER.get_or_init(|| Server::start("swift.sh", &[])).as_ref()
    }

    fn ceph() -> Option<&'static Server> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        let start = || {
            let mut server = Server::start("rgw.sh", &[])?;
            for (name, of_ceph) in
                [("auth_url", "swift_auth_url"), ("username", "swift_username"), ("password", "secret_key")]
            {
                let value = server.fact(of_ceph).to_owned();
                server.facts.insert(name.into(), value);
            }
            Some(server)
        };
        SERVER.get_or_init(start).as_ref()
    }

    /// Those of both that are there.
    fn all() -> Vec<&'static Server> {
        [Server::shared(), Server::ceph()].into_iter().flatten().collect()
    }

    fn fact(&self, name: &str) -> &str {
        self.facts.get(name).unwrap_or_else(|| panic!("the script did not say {name}"))
    }

    /// The configuration of a container that is there and empty, with these headers of its own.
    fn config_with(&self, headers: &str) -> SwiftConfig {
        let container = format!("test {}", self.n_containers.fetch_add(1, Ordering::Relaxed));
        let status = self.request("PUT", &container.replace(' ', "%20"), headers);
        assert_eq!(status, 201, "cannot create {container}");
        SwiftConfig {
            auth_url: self.fact("auth_url").into(),
            auth: Auth::V1 { user: self.fact("username").into(), key: Secret(self.fact("password").into()) },
            segments_container: container.clone(),
            container,
            segment_bytes: Some(MIB as u64),
            max_attempts: 2,
            ..SwiftConfig::default()
        }
    }

    fn config(&self) -> SwiftConfig {
        self.config_with("")
    }

    /// The status of a request about something in the account, as its administrator.
    fn request(&self, method: &str, path: &str, headers: &str) -> u16 {
        let (host, path_of_auth) = self.fact("auth_url").strip_prefix("http://").unwrap().split_once('/').unwrap();
        let ask = |text: String| {
            let mut stream = TcpStream::connect(host).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let more = format!("Host: {host}\r\nConnection: close\r\nContent-Length: 0\r\n");
        let said = ask(format!(
            "GET /{path_of_auth} HTTP/1.1\r\n{more}X-Auth-User: {}\r\nX-Auth-Key: {}\r\n\r\n",
            self.fact("username"),
            self.fact("password")
        ));
        let header = |name: &str| {
            let line = said.lines().find(|line| line.to_ascii_lowercase().starts_with(name)).unwrap();
            line.split_once(": ").unwrap().1.to_owned()
        };
        let (token, url) = (header("x-auth-token:"), header("x-storage-url:"));
        let account = url.split_once(host).unwrap().1;
        let said = ask(format!("{method} {account}/{path} HTTP/1.1\r\n{more}X-Auth-Token: {token}\r\n{headers}\r\n"));
        said.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

fn open(config: &SwiftConfig) -> SwiftBucket {
    SwiftBucket::open(config, "pillion-test", Arc::new(|_| None)).unwrap()
}

fn file(dir: &tempfile::TempDir, bytes: &[u8]) -> Source {
    let file = dir.path().join(format!("file-{}", bytes.len()));
    std::fs::write(&file, bytes).unwrap();
    Disk::real().open_source(&file).unwrap()
}

/// Whether nothing is left in a container, segments included.
fn is_empty(server: &Server, container: &str) -> bool {
    server.request("DELETE", &container.replace(' ', "%20"), "") == 204
}

#[test]
fn the_suite_passes_in_one_piece_and_in_segments_of_both_kinds() {
    Server::all().into_iter().for_each(suite_on);
}

fn suite_on(server: &Server) {
    for (segment_bytes, is_dynamic) in [(None, false), (Some(40_000), false), (Some(40_000), true)] {
        let config = SwiftConfig { segment_bytes, is_dynamic, page_names: 3, ..server.config() };
        bucket::suite(&open(&config));
        assert!(is_empty(server, &config.container), "segments are left");
    }
    let segments = server.config().container;
    let config = SwiftConfig { segments_container: segments.clone(), segment_bytes: Some(40_000), ..server.config() };
    bucket::suite(&open(&config));
    assert!(is_empty(server, &config.container) && is_empty(server, &segments));
    let text = format!(
        "type: SWIFT\nprefix: deep/er\nconfig:\n  auth_url: {}\n  username: {}\n  password: {}\n  container_name: {}",
        server.fact("auth_url"),
        server.fact("username"),
        server.fact("password"),
        server.config().container
    );
    let config = BucketConfig::parse(&Content { origin: "bucket.yml".into(), text }).unwrap();
    bucket::suite(&*pillion_bucket::open(&config, &Disk::real(), Pace::default()).unwrap());
}

#[test]
fn a_large_file_goes_in_segments_and_goes_on_where_it_was_killed() {
    Server::all().into_iter().for_each(large_file_on);
}

fn large_file_on(server: &Server) {
    let (_stopper, stop) = stop_pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let size = 5 * MIB + 17;
    let source = file(&dir, &content(size));
    for is_dynamic in [false, true] {
        let config = SwiftConfig { is_dynamic, ..server.config() };
        let bucket = open(&config);
        let journal = Kept::default();
        // Dies with the journal of the third segment; the store has that one too.
        journal.fail_after(3);
        bucket.upload("01A/index", &source, &journal, &stop).unwrap_err();
        assert!(!bucket.exists("01A/index", &stop).unwrap());
        journal.recover();
        let stored = bucket.upload("01A/index", &source, &journal, &stop).unwrap();
        assert_eq!((stored.attributes.size_bytes, stored.resumed_bytes), (size as u64, 3 * MIB as u64));
        assert_eq!(bucket.attributes("01A/index", &stop).unwrap(), stored.attributes);
        assert_eq!(bucket.get("01A/index", &stop).unwrap(), content(size));
        assert_eq!(bucket.compare("01A/index", &source, &stop).unwrap(), Compared::Same);
        // The same file once more, over the object that is there: its segments are there too.
        let again = bucket.upload("01A/index", &source, &NoJournal, &stop).unwrap();
        assert_eq!((again.attributes, again.resumed_bytes), (stored.attributes, size as u64));
        // Another content takes the place of the first, whose segments go.
        let mut bytes = content(size);
        bytes[0] ^= 1;
        let other = file(&dir, &bytes);
        assert_eq!(bucket.compare("01A/index", &other, &stop).unwrap(), Compared::Content);
        bucket.upload("01A/index", &other, &NoJournal, &stop).unwrap();
        assert_eq!(bucket.get("01A/index", &stop).unwrap(), bytes);
        bucket.delete("01A/index", &stop).unwrap();
        assert!(!bucket.exists("01A/index", &stop).unwrap());
        assert!(is_empty(server, &config.container), "segments are left");
        std::fs::write(dir.path().join(format!("file-{size}")), content(size)).unwrap();
    }
}

#[test]
fn what_is_abandoned_leaves_nothing_unless_it_is_in_use() {
    Server::all().into_iter().for_each(abandoned_on);
}

fn abandoned_on(server: &Server) {
    let (_stopper, stop) = stop_pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let source = file(&dir, &content(3 * MIB));
    for is_dynamic in [false, true] {
        let config = SwiftConfig { is_dynamic, ..server.config() };
        let bucket = open(&config);
        let journal = Kept::default();
        journal.fail_after(2);
        bucket.upload("01A/index", &source, &journal, &stop).unwrap_err();
        let parts: Parts = pillion_bucket::Journal::parts(&journal).unwrap();
        bucket.abandon("01A/index", &parts, &stop).unwrap();
        bucket.upload("01A/index", &source, &NoJournal, &stop).unwrap();
        // Its journal was lost.
        bucket.abandon("01A/index", &parts, &stop).unwrap();
        assert_eq!(bucket.get("01A/index", &stop).unwrap(), content(3 * MIB));
        bucket.delete("01A/index", &stop).unwrap();
        assert!(is_empty(server, &config.container), "segments are left");
    }
}

#[test]
fn refusals_of_the_store_say_what_to_change() {
    let Some(server) = Server::shared() else { return };
    let (_stopper, stop) = stop_pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let source = file(&dir, &content(2 * MIB));
    let there = server.config();
    let full = server.config_with("X-Container-Meta-Quota-Bytes: 1000\r\n").container;
    let check = |change: &dyn Fn(&mut SwiftConfig), kind: Kind, class: &str, part: &str| {
        let mut config = there.clone();
        change(&mut config);
        let err = open(&config).upload("x", &source, &NoJournal, &stop).unwrap_err();
        assert_eq!((err.kind(), err.class()), (kind, class), "{err}");
        assert!(err.to_string().contains(part) && !err.to_string().contains("AUTH_tk"), "{err} lacks {part}");
    };
    use Kind::Permanent;
    let reader = || Auth::V1 { user: server.fact("reader").into(), key: Secret(server.fact("reader_password").into()) };
    let wrong = || Auth::V1 { user: server.fact("username").into(), key: Secret("hunter2".into()) };
    check(
        &|c| c.auth = wrong(),
        Permanent,
        "credentials",
        "correct username (with tempauth it is account:user), password",
    );
    check(&|c| c.auth_url = c.auth_url.replace("auth/v1.0", "v3/auth"), Permanent, "credentials", "auth_url");
    check(&|c| c.auth = reader(), Permanent, "denied", "the user lacks the right");
    check(&|c| c.container = "missing".into(), Permanent, "no_bucket", "create the container missing");
    check(
        &|c| c.segments_container = "missing".into(),
        Permanent,
        "no_bucket",
        "correct large_object_segments_container_name",
    );
    check(&|c| c.segments_container = full.clone(), Permanent, "denied", "quota");
    let missing = open(&SwiftConfig { container: "missing".into(), ..there.clone() });
    let err = missing.exists("x", &stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Permanent, "no_bucket"), "{err}");
    let err = missing.iter("", &mut |_| Ok(()), &stop).unwrap_err();
    assert_eq!((err.kind(), err.class()), (Permanent, "no_bucket"), "{err}");
}

#[test]
fn names_with_any_characters_are_stored_as_they_are() {
    Server::all().into_iter().for_each(names_on);
}

fn names_on(server: &Server) {
    let (_stopper, stop) = stop_pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let source = file(&dir, &content(100_000));
    for is_dynamic in [false, true] {
        let bucket = open(&SwiftConfig { is_dynamic, segment_bytes: Some(40_000), ..server.config() });
        for name in ["a b/c+d", "ü/%41&x=?#", "(a)'!*~.txt", "a:b@c,d;e$f"] {
            bucket.upload(name, &source, &NoJournal, &stop).unwrap();
            assert_eq!(bucket.get(name, &stop).unwrap(), content(100_000), "{name}");
            assert_eq!(bucket.compare(name, &source, &stop).unwrap(), Compared::Same);
        }
        let mut names = Vec::new();
        let mut each = |name: &str| {
            names.push(name.to_owned());
            Ok(())
        };
        bucket.iter("ü", &mut each, &stop).unwrap();
        assert_eq!(names, ["ü/%41&x=?#"]);
    }
}

#[test]
fn keystone_gives_tokens_in_every_way() {
    let Some(server) = Server::start("swift.sh", &["--keystone"]) else { return };
    let (_stopper, stop) = stop_pair().unwrap();
    let fact = |name: &str| server.fact(name);
    let open = |auth: &[&str], more: &str| {
        let lines: String = auth.iter().map(|name| format!("\n  {name}: {}", fact(name))).collect();
        let text = format!(
            "type: SWIFT\nconfig:\n  auth_url: {}\n  container_name: missing\n  retries: 1{lines}\n{more}",
            fact("auth_url")
        );
        let config = BucketConfig::parse(&Content { origin: "bucket.yml".into(), text }).unwrap();
        pillion_bucket::open(&config, &Disk::real(), Pace::default()).unwrap()
    };
    let here = ["region_name"].as_slice();
    let by_name = ["username", "domain_name", "password", "project_name"].as_slice();
    let token = format!("  password: {}", fact("token"));
    let ways: [(&[&str], &str); 8] = [
        (by_name, ""),
        (&["username", "domain_id", "password", "project_id"], ""),
        (&["user_id", "password", "project_name"], "  project_domain_name: blocks"),
        // In the user's own project.
        (&["user_id", "password"], ""),
        (&["application_credential_id", "application_credential_secret"], ""),
        (&["application_credential_name", "application_credential_secret", "user_id"], ""),
        (&["application_credential_name", "application_credential_secret", "username", "domain_name"], ""),
        (&["project_id"], &token),
    ];
    for (auth, more) in ways {
        // The store accepts the token: it says that there is no such container.
        let err = open(&[auth, here].concat(), more).exists("x", &stop).unwrap_err();
        assert_eq!((err.kind(), err.class()), (Kind::Permanent, "no_bucket"), "{auth:?}: {err}");
    }
    let check = |auth: &[&str], more: &str, kind: Kind, class: &str, part: &str| {
        let err = open(auth, more).exists("x", &stop).unwrap_err();
        assert_eq!((err.kind(), err.class()), (kind, class), "{err}");
        assert!(err.to_string().contains(part) && !err.to_string().contains("hunter2"), "{err} lacks {part}");
    };
    use Kind::{Permanent, Retry};
    let wrong = "  password: hunter2";
    check(
        &["username", "domain_name", "project_name"],
        wrong,
        Permanent,
        "credentials",
        "correct username, domain_name",
    );
    check(&["project_id"], wrong, Permanent, "credentials", "taken for a token");
    check(
        &["application_credential_id"],
        "  application_credential_secret: hunter2",
        Permanent,
        "credentials",
        "has the credential expired",
    );
    check(by_name, "  region_name: nowhere", Permanent, "credentials", "it has elsewhere, here");
    // Nobody is at the store of the other region.
    let elsewhere = format!("  region_name: {}", fact("other_region_name"));
    check(by_name, &elsewhere, Retry, "network", "HEAD object missing/x at 127.0.0.1:1");
}
