//! What a user sees of `pillion check`: a healthy set-up, everything that can be amiss, and that nothing is changed.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::certificates::{Certificates, HERE};
use crate::support::fake_prometheus::FakePrometheus;
use crate::support::prometheus::{Prometheus, Setup, releases};
use crate::support::sidecar::{Sidecar, free_address};
use crate::support::terminal::on_a_terminal;
use pillion_testing::fake_s3::{ACCESS_KEY, BUCKET, FakeS3, Fault, REGION, SECRET_KEY};
use pillion_testing::tsdb::{Block, Tsdb, snapshot, tree, ulid};

/// A Prometheus, its data folder with two blocks, and a folder as bucket.
struct Rig {
    prometheus: FakePrometheus,
    tsdb: Tsdb,
    bucket_dir: tempfile::TempDir,
}

/// What the check said.
struct Said {
    code: Option<i32>,
    findings: Vec<Value>,
}

fn pillion(args: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.arg("check").args(args).env_remove("NO_COLOR");
    command.output().unwrap()
}

fn said(args: &[String]) -> Said {
    let args: Vec<String> = args.iter().cloned().chain(["--json".to_owned()]).collect();
    let out = pillion(&args);
    assert_eq!(String::from_utf8_lossy(&out.stderr), "", "{args:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    let findings = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}")));
    Said { code: out.status.code(), findings: findings.collect() }
}

impl Said {
    /// The finding of this part and level whose text contains `text`; what is to be changed.
    #[track_caller]
    fn has(&self, level: &str, what: &str, text: &str) -> String {
        let is_it = |finding: &&Value| {
            finding["level"] == level && finding["what"] == what && finding["text"].as_str().unwrap().contains(text)
        };
        let found = self.findings.iter().find(is_it);
        let found = found.unwrap_or_else(|| panic!("no {level} of {what} with {text:?} in {:#?}", self.findings));
        let change = found["change"].as_str().unwrap().to_owned();
        assert_eq!(change.is_empty(), matches!(level, "ok" | "note"), "{found}");
        change
    }

    fn count(&self, level: &str) -> usize {
        self.findings.iter().filter(|finding| finding["level"] == level).count()
    }
}

impl Rig {
    fn new() -> Self {
        let (prometheus, tsdb) = (FakePrometheus::start(), Tsdb::new());
        for n in [1, 2] {
            tsdb.add(&Block::new(n));
        }
        Rig { prometheus, tsdb, bucket_dir: tempfile::tempdir().unwrap() }
    }

    fn bucket(&self) -> String {
        format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {:?}}}}}", self.bucket_dir.path())
    }

    /// The flags of a healthy sidecar, with others in the place of those of the same name.
    fn args(&self, more: &[&str]) -> Vec<String> {
        let defaults = [
            format!("--http-address={}", free_address()),
            format!("--grpc-address={}", free_address()),
            format!("--prometheus.url={}", self.prometheus.url()),
            format!("--tsdb.path={}", self.tsdb.path().display()),
            self.bucket(),
        ];
        let name = |arg: &str| arg.split('=').next().unwrap().to_owned();
        let ours = defaults.into_iter().filter(|arg| !more.iter().any(|other| name(other) == name(arg)));
        ours.chain(more.iter().map(|arg| (*arg).to_owned())).collect()
    }

    /// Runs the check, which leaves the data folder as it was to the last time stamp.
    fn check(&self, more: &[&str]) -> Said {
        let before = snapshot(self.tsdb.path());
        let said = said(&self.args(more));
        assert_eq!(snapshot(self.tsdb.path()), before);
        said
    }
}

#[test]
fn a_healthy_set_up_is_well_and_nothing_is_left_behind() {
    let rig = Rig::new();
    rig.tsdb.add(&Block { n_samples: 0, ..Block::new(3) });
    let said = rig.check(&[]);
    assert_eq!((said.code, said.count("error"), said.count("warning")), (Some(0), 0, 0), "{:#?}", said.findings);
    for (what, text) in [
        ("settings", "are understood"),
        ("machine", "files may be open"),
        ("machine", "temporary files can be made"),
        ("ports", "HTTP can be served on"),
        ("ports", "gRPC can be served on"),
        ("prometheus", "version 2.53.0 answers"),
        ("prometheus", "Prometheus's flags go with uploads"),
        ("prometheus", "the external labels are {region=\"eu-west\", replica=\"a\"}"),
        ("data folder", "can be written"),
        ("data folder", "hard links of blocks (not tried"),
        ("data folder", "3 blocks are here, 2 of them to be uploaded (8.2 KiB)"),
        ("bucket", "can be listed, and is empty"),
        ("bucket", "an object was stored, read back, compared and deleted"),
        ("bucket", "no block in the bucket looks as if another sidecar"),
    ] {
        said.has("ok", what, text);
    }
    let left: Vec<String> = tree(rig.bucket_dir.path()).into_iter().filter(|name| !name.starts_with('.')).collect();
    assert!(left.is_empty(), "{left:?}");

    // Text for people has the same findings and a last line.
    let out = pillion(&rig.args(&[]));
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!((out.status.code(), text.lines().count()), (Some(0), said.findings.len() + 1), "{text}");
    assert!(text.ends_with("0 errors, 0 warnings: the sidecar would start with these flags\n"), "{text}");
    assert!(!text.contains('\u{1b}') && out.stderr.is_empty(), "{text}");
}

#[test]
fn with_read_only_the_bucket_is_not_touched() {
    let rig = Rig::new();
    let before = snapshot(rig.bucket_dir.path());
    let said = rig.check(&["--read-only"]);
    assert_eq!((said.code, snapshot(rig.bucket_dir.path())), (Some(0), before));
    said.has("note", "bucket", "was not tried (--read-only)");
    // Without a bucket nobody looks at the data folder either.
    let said = rig.check(&["--objstore.config=", "--tsdb.path=/nowhere"]);
    assert_eq!(said.code, Some(0), "{:#?}", said.findings);
    said.has("note", "settings", "no bucket is configured");
    said.has("note", "prometheus", "only a querier could tell");
}

#[test]
fn what_is_wrong_with_prometheus() {
    let rig = Rig::new();
    let flag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    rig.prometheus.set(|state| {
        state.flags = vec![
            flag("storage.tsdb.min-block-duration", "2h"),
            flag("storage.tsdb.max-block-duration", "1d"),
            flag("storage.tsdb.retention.time", "4h"),
            flag("storage.remote.read-concurrent-limit", "10"),
        ];
        state.external_labels = vec![];
    });
    let said = rig.check(&[]);
    assert_eq!(said.code, Some(1));
    said.has("error", "prometheus", "Compaction needs to be disabled");
    assert!(said.has("error", "prometheus", "no external labels").contains("global.external_labels"));
    assert!(said.has("warning", "prometheus", "240 minutes").contains("retention.time"));
    said.has("note", "prometheus", "10 remote reads at once");
    // Nothing else is amiss.
    assert_eq!((said.count("error"), said.count("warning")), (2, 1), "{:#?}", said.findings);
    // Flags that break uploads break nothing else.
    let said = rig.check(&["--objstore.config="]);
    assert_eq!((said.code, said.count("error")), (Some(1), 1), "{:#?}", said.findings);

    for (status, advice) in [(503, "write-ahead log"), (401, "password"), (500, "leads to Prometheus itself")] {
        rig.prometheus.set(|state| state.overrides = vec![("/api".into(), status, "no".into())]);
        let said = rig.check(&[]);
        let change = said.has("error", "prometheus", &status.to_string());
        assert!(change.contains(advice), "{status}: {change}");
        assert_eq!((said.code, said.count("error")), (Some(1), 1), "{:#?}", said.findings);
    }
    let nobody = format!("--prometheus.url=http://{}", free_address());
    let said = rig.check(&[&nobody]);
    assert!(said.has("error", "prometheus", "perform GET request").contains("start Prometheus"));
    said.has("ok", "bucket", "an object was stored");
}

#[test]
fn a_clock_that_is_wrong_is_noticed() {
    let rig = Rig::new();
    for (ahead, level, text) in
        [(90, "warning", "s ahead of"), (-90, "warning", "s behind"), (0, "ok", "is that of this")]
    {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let time = i64::try_from(now).unwrap() + ahead;
        let body = format!(r#"{{"status":"success","data":{{"resultType":"scalar","result":[{time},"{time}"]}}}}"#);
        rig.prometheus.set(|state| state.overrides = vec![("/api/v1/query".into(), 200, body)]);
        rig.check(&[]).has(level, "prometheus", text);
    }
}

#[test]
fn what_does_not_answer_costs_its_own_time_and_is_named() {
    let rig = Rig::new();
    // The kernel takes the connection, and nobody reads from it.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let begun = Instant::now();
    let url = format!("--prometheus.url=http://{address}");
    let s3 = format!(
        "--objstore.config={{type: S3, config: {{bucket: silent, endpoint: '{address}', region: r, access_key: a, secret_key: s, \
         insecure: true}}}}"
    );
    let said = rig.check(&[&url, &s3, "--timeout=1s"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(said.code, Some(1));
    assert!(said.has("error", "bucket", "no answer within 1s while listing the bucket").contains("--timeout"));
    assert!(said.findings.iter().any(|finding| finding["level"] == "error" && finding["what"] == "prometheus"));
    said.has("ok", "data folder", "2 blocks are here");
}

#[test]
fn what_is_wrong_with_the_data_folder() {
    let rig = Rig::new();
    std::fs::write(rig.tsdb.block_dir(2).join("index"), b"").unwrap();
    std::fs::remove_dir_all(rig.tsdb.path().join("wal")).unwrap();
    let said = rig.check(&["--shipper.claim-reserve=900000GiB"]);
    assert_eq!((said.code, said.count("error")), (Some(0), 0), "{:#?}", said.findings);
    said.has("warning", "data folder", &format!("block {} cannot be uploaded as it is", ulid(2)));
    said.has("warning", "data folder", "has no wal");
    said.has("warning", "data folder", "given up at once");
    assert!(said.has("ok", "data folder", "2 blocks are here, 1 of them").is_empty());
    let said = rig.check(&["--tsdb.path=/nowhere"]);
    assert!(said.has("error", "data folder", "/nowhere does not exist").contains("--tsdb.path"));
    assert_eq!(said.code, Some(1));
    // A ledger that cannot be understood would stop uploads.
    std::fs::write(rig.tsdb.path().join("thanos.shipper.json"), b"{").unwrap();
    rig.check(&[]).has("error", "data folder", "thanos.shipper.json");
}

#[test]
fn settings_that_are_broken_do_not_hide_the_rest() {
    let rig = Rig::new();
    let limits = rig.bucket_dir.path().join("limits.yml");
    std::fs::write(&limits, "rate_limit: fast\n").unwrap();
    let limits = format!("--shipper.upload-limits-file={}", limits.display());
    let said = rig.check(&["--objstore.config=type: NOTHING", &limits]);
    assert_eq!(said.code, Some(1));
    assert!(said.has("error", "settings", "NOTHING").contains("--objstore.config"));
    said.has("error", "settings", "rate_limit");
    said.has("ok", "prometheus", "version 2.53.0");
    assert!(said.findings.iter().all(|finding| finding["what"] != "bucket"), "{:#?}", said.findings);
    let said = rig.check(&["--prometheus.get_config_timeout=0s"]);
    said.has("error", "settings", "--prometheus.get_config_timeout must be greater than 0");
    // What cannot be understood at all ends as everywhere.
    for (arg, code) in [("--hash-func=MD5", 2), ("--foo", 1)] {
        assert_eq!(pillion(&rig.args(&[arg])).status.code(), Some(code), "{arg}");
    }
}

#[test]
fn ports_that_are_taken_and_who_has_them() {
    let rig = Rig::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let flag = format!("--http-address={}", taken.local_addr().unwrap());
    let said = rig.check(&[&flag]);
    assert!(said.has("error", "ports", "address already in use").contains("--http-address"));
    said.has("error", "ports", &format!("(process {})", std::process::id()));
    let one = free_address();
    let (http, grpc) = (format!("--http-address={one}"), format!("--grpc-address={one}"));
    rig.check(&[&http, &grpc]).has("error", "ports", "both flags name one port");

    // Beside a running sidecar, which is not in the way.
    let sidecar = Sidecar::ready(&rig.prometheus.url(), &[]);
    let (http, grpc) = (format!("--http-address={}", sidecar.http), format!("--grpc-address={}", sidecar.grpc));
    let said = rig.check(&[&http, &grpc]);
    assert_eq!(said.code, Some(0), "{:#?}", said.findings);
    said.has("note", "ports", &format!("it is a running Pillion (process {})", sidecar.pid()));
}

#[test]
fn certificates_that_have_ended_or_soon_will() {
    let (rig, made) = (Rig::new(), Certificates::new());
    made.expired_leaf("old", "ca", HERE);
    made.leaf_of_days("young", "ca", HERE, 100);
    let pair = |cert: &str, key: &str| {
        let args = made.server_args(cert, key);
        rig.check(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let said = pair("young.pem", "young.key");
    assert!(said.has("ok", "certificates", "--grpc-server-tls-cert ends at").is_empty());
    let said = pair("here.pem", "here.key");
    assert!(said.has("warning", "certificates", "--grpc-server-tls-cert ends at").contains("new one"));
    assert_eq!(said.code, Some(0));
    let said = pair("old.pem", "old.key");
    said.has("error", "certificates", "ended at 2021-02-03T04:05:06Z");
    assert_eq!(said.code, Some(1));
    pair("here.pem", "young.key").has("error", "certificates", "grpc-server-tls-");
    pair("here.pem", "missing.key").has("error", "certificates", "missing.key");

    made.write("web.yml", "tls_server_config:\n  cert_file: old.pem\n  key_file: old.key\n");
    let said = rig.check(&[&made.arg("http.config", "web.yml")]);
    said.has("ok", "certificates", "web.yml is understood");
    said.has("error", "certificates", "--http.config ended at 2021");
    made.write("web.yml", "tls_server_config:\n  cert_file: nothing.pem\n");
    rig.check(&[&made.arg("http.config", "web.yml")]).has("error", "certificates", "web.yml");
}

#[test]
fn a_store_that_refuses_is_explained_without_secrets() {
    let (rig, fake) = (Rig::new(), FakeS3::start());
    let config = format!(
        "--objstore.config={{type: S3, config: {{bucket: {BUCKET}, endpoint: '127.0.0.1:{}', region: {REGION}, access_key: \
         {ACCESS_KEY}, secret_key: {SECRET_KEY}, insecure: true}}}}",
        fake.port
    );
    let check = || {
        let said = rig.check(&[&config]);
        let text = format!("{:?}", said.findings);
        assert!(!text.contains(SECRET_KEY), "{text}");
        said
    };
    let said = check();
    assert_eq!((said.code, said.count("error"), said.count("warning")), (Some(0), 0, 0), "{:#?}", said.findings);
    said.has("ok", "bucket", "an object was stored, read back, compared and deleted");
    assert!(fake.with(|state| state.objects.is_empty()), "something was left");

    fake.rule("PutObject", "", 0, 100, Fault::Refuse(403, "AccessDenied"));
    let said = check();
    assert!(said.has("error", "bucket", "s3:PutObject").contains("right to write"));
    said.has("ok", "bucket", "can be listed");
    fake.with(|state| state.heal());
    fake.rule("GetObject", "", 0, 100, Fault::Refuse(403, "AccessDenied"));
    check().has("error", "bucket", "read back pillion-check-");
    assert!(fake.with(|state| state.objects.is_empty()), "something was left");
    fake.with(|state| state.heal());
    fake.rule("DeleteObject", "", 0, 100, Fault::Refuse(403, "AccessDenied"));
    let said = check();
    assert!(said.has("warning", "bucket", "delete pillion-check-").contains("by hand"));
    assert_eq!(said.code, Some(0));
    fake.with(|state| state.heal());
    fake.with(|state| state.has_bucket = false);
    assert!(check().has("error", "bucket", BUCKET).contains("bucket's configuration"));
}

#[test]
fn blocks_of_another_sidecar_with_the_same_labels_are_named() {
    let rig = Rig::new();
    let labels = ",\"thanos\":{\"labels\":{\"region\":\"eu-west\",\"replica\":\"a\"}}";
    let other = Block { more_meta: labels.to_owned(), ..Block::new(7) };
    let dir = rig.bucket_dir.path().join(ulid(7).as_str());
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("meta.json"), other.meta_json()).unwrap();
    let said = rig.check(&[]);
    assert!(said.has("warning", "bucket", ulid(7).as_str()).contains("replica"));
    assert_eq!(said.code, Some(0));
}

#[test]
fn a_bucket_inside_the_data_folder_is_not_written() {
    let rig = Rig::new();
    let inside = rig.tsdb.path().join("bucket");
    let config = format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {inside:?}}}}}");
    let said = rig.check(&[&config]);
    assert!(said.has("warning", "bucket", "lies in Prometheus's data folder").contains("elsewhere"));
    assert!(!inside.exists());
}

#[test]
fn each_real_release_is_well() {
    for release in releases() {
        let scrape = Setup { scrape: true, ..Setup::default() };
        let history = "# TYPE demo gauge\ndemo{x=\"1\"} 1 1700000000\ndemo{x=\"1\"} 2 1700000060\n";
        let prometheus = Prometheus::start(&release, history, scrape);
        let bucket = tempfile::tempdir().unwrap();
        let args = [
            format!("--http-address={}", free_address()),
            format!("--grpc-address={}", free_address()),
            format!("--prometheus.url={}", prometheus.url()),
            format!("--tsdb.path={}", prometheus.data().display()),
            format!("--objstore.config={{type: FILESYSTEM, config: {{directory: {:?}}}}}", bucket.path()),
        ];
        let blocks = prometheus.blocks();
        assert!(!blocks.is_empty());
        let before: Vec<_> = blocks.iter().map(|block| snapshot(block)).collect();
        let said = said(&args);
        assert_eq!((said.code, said.count("error")), (Some(0), 0), "{release:?}: {:#?}", said.findings);
        let (major, minor) = release.version;
        said.has("ok", "prometheus", &format!("version {major}.{minor}."));
        said.has("ok", "prometheus", "Prometheus's flags go with uploads");
        said.has("ok", "prometheus", "Prometheus keeps blocks for 2160 hours");
        said.has("ok", "prometheus", "Prometheus's clock is that of this machine");
        said.has("ok", "data folder", "1 of them to be uploaded");
        assert_eq!(blocks.iter().map(|block| snapshot(block)).collect::<Vec<_>>(), before);
        assert!(!prometheus.data().join("thanos").exists() && !prometheus.data().join("thanos.shipper.json").exists());
    }
}

#[test]
fn on_a_terminal_there_is_a_line_about_what_takes_long_and_colours() {
    let rig = Rig::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("--prometheus.url=http://{}", silent.local_addr().unwrap());
    let args = rig.args(&[&url, "--timeout=1s"]);
    let quoted: Vec<String> = args.iter().map(|arg| format!("'{arg}'")).collect();
    let command = format!("{} check {}", env!("CARGO_BIN_EXE_pillion"), quoted.join(" "));
    let text = on_a_terminal(&command, &[]);
    let drawn = "\r\u{1b}[Kchecking: asking Prometheus for its version";
    let n_drawn = text.matches(drawn).count();
    assert!((1..=16).contains(&n_drawn), "{n_drawn} in {text:?}");
    assert!(text.contains("\r\u{1b}[K\u{1b}[31merror\u{1b}[0m") && text.contains("\u{1b}[32mok\u{1b}[0m "), "{text:?}");
    let text = on_a_terminal(&command, &[("NO_COLOR", "1")]);
    assert!(text.contains(drawn) && !text.contains("\u{1b}[3") && text.contains("\r\u{1b}[Kerror "), "{text:?}");
    let text = on_a_terminal(&command, &[("TERM", "dumb")]);
    assert!(!text.contains('\u{1b}'), "{text:?}");
}
