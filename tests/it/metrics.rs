//! Every metric on the page of `/metrics` means something: it is there from the first scrape, and something that can
//! happen to a daemon moves it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::fake_prometheus::{FakePrometheus, Read_, series};
use crate::support::sidecar::{PATIENCE, Sidecar, pause};
use crate::support::store_client::{Store, options, request};
use pillion::inside::Metrics;
use pillion_proto::thanos_store::{LabelNamesRequest, LabelValuesRequest, SeriesRequest};
use pillion_testing::collector::{Collector, Manner};
use pillion_testing::tsdb::{Block, Tsdb, age, ulid};

/// Metrics that nothing here moves, with the reason.
const STILL: [(&str, &str); 9] = [
    ("grpc_req_panics_recovered_total", "a request that makes it panic would be a bug; tests of grpc/calls move it"),
    ("pillion_grpc_core_errors_total", "it takes a client that sends nonsense; a test in compression.rs moves it"),
    ("pillion_grpc_calls_given_up_total", "it takes a client that does not read; tests in stalled.rs move it"),
    ("pillion_tracing_spans_dropped_total", "it takes 2048 calls at once; tests in tracing.rs move it"),
    ("process_max_fds", "a limit that the daemon does not change"),
    ("process_start_time_seconds", "a constant of the process"),
    ("thanos_build_info", "a constant of the binary"),
    ("thanos_sidecar_reloader_info", "a constant of the configuration"),
    ("thanos_sidecar_reloader_watch_errors_total", "it takes 16384 changes at once; tests of crates/reload move it"),
];

/// Family → sample with its labels → value.
type Page = BTreeMap<String, BTreeMap<String, String>>;

fn parse(text: &str) -> Page {
    let mut page = Page::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            family = declared.split(' ').next().unwrap().to_owned();
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert!(sample.starts_with(&family), "{sample} follows the declaration of {family}");
            page.entry(family.clone()).or_default().insert(sample.to_owned(), value.to_owned());
        }
    }
    page
}

/// A daemon whose metrics are compared with its first page.
struct Watched {
    sidecar: Sidecar,
    first: Page,
}

impl Watched {
    /// Starts it beside a Prometheus that is down, so that the first page comes before anything has happened.
    fn start(prometheus: &FakePrometheus, data: &Path, bucket: &Path, args: &[&str]) -> Self {
        prometheus.go_down();
        let watched = Watched::start_at_once(prometheus, data, bucket, args);
        watched.sidecar.wait_line("Is Prometheus running? Retrying");
        let first = parse(&watched.sidecar.get("/metrics").unwrap().1);
        prometheus.up();
        watched.sidecar.wait_ready(true);
        Watched { first, ..watched }
    }

    /// Starts it; the first page may come after something has happened.
    fn start_at_once(prometheus: &FakePrometheus, data: &Path, bucket: &Path, args: &[&str]) -> Self {
        let own = [
            format!("--prometheus.url={}", prometheus.url()),
            format!("--tsdb.path={}", data.display()),
            format!("--objstore.config=type: FILESYSTEM\nconfig:\n  directory: {}\n", bucket.display()),
            "--prometheus.get_config_interval=50ms".to_owned(),
        ];
        let args: Vec<&str> = own.iter().map(String::as_str).chain(args.iter().copied()).collect();
        let sidecar = Sidecar::start(&args);
        let deadline = Instant::now() + PATIENCE;
        let first = loop {
            // Families are declared one after the other, and a page may come in between.
            let bucket = [
                "operations_total",
                "operation_failures_total",
                "fetched_bytes_total",
                "transferred_bytes",
                "duration_seconds",
                "last_successful_upload_time",
            ];
            let is_whole = |page: &str| bucket.iter().all(|name| page.contains(name));
            if let Some((200, page)) = sidecar.get("/metrics").filter(|(_, page)| is_whole(page)) {
                break parse(&page);
            }
            assert!(Instant::now() < deadline, "no metrics:\n{}", sidecar.log());
            pause();
        };
        Watched { sidecar, first }
    }

    /// The families with a sample that is not what it was on the first page. Blocks are looked at before Prometheus is
    /// asked anything, so what waits may be on the first page already: that is compared with what it is when nothing has
    /// happened at all.
    fn moved(&self) -> BTreeSet<String> {
        let fresh = Metrics::new();
        let (_ship, _reload) = (fresh.shipper(), fresh.reloader("http"));
        let fresh = parse(&String::from_utf8(fresh.render()).unwrap());
        let now = parse(&self.sidecar.get("/metrics").unwrap().1);
        for family in now.keys() {
            assert!(self.first.contains_key(family), "{family} was not there at the first scrape");
        }
        let has_moved = |family: &str, samples: &BTreeMap<String, String>| {
            let is_own = family.starts_with("pillion_shipper_");
            self.first[family] != *samples || (is_own && fresh[family] != *samples)
        };
        now.into_iter().filter(|(family, samples)| has_moved(family, samples)).map(|(family, _)| family).collect()
    }

    fn wait(&self, metric: &str) {
        self.sidecar.wait_metric(metric, |n| n >= 1.0);
    }
}

fn series_calls(code: &str) -> String {
    format!(
        "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"Series\",grpc_service=\"thanos.Store\",grpc_type=\"server_stream\"}}"
    )
}

/// Calls that succeed, fail and are given up; what moves while one is served.
fn call_everything(prometheus: &FakePrometheus, watched: &Watched) -> BTreeSet<String> {
    let store = Store::connect(watched.sidecar.grpc);
    let ask = request(&[("job", "=", "x")]);
    prometheus.set(|state| {
        state.read = Read_::Frames(vec![series(&[("job", "x"), ("n", "1")], &[(1, 2, 1, b"chunk")])]);
        state.overrides = vec![
            ("/api/v1/labels".into(), 200, r#"{"status":"success","data":["job"]}"#.into()),
            ("/api/v1/label/job/".into(), 200, r#"{"status":"success","data":["x"]}"#.into()),
        ];
    });
    assert_eq!(store.series(&ask).ok().series.len(), 1);
    assert_eq!(store.series(&SeriesRequest { response_batch_size: 64, ..ask.clone() }).ok().messages, [1]);
    store.label_names(&LabelNamesRequest::default()).unwrap();
    store.label_values(&LabelValuesRequest { label: "job".into(), ..Default::default() }).unwrap();
    store.info().unwrap();
    prometheus.set(|state| state.read = Read_::Status(503, "busy"));
    assert_ne!(store.series(&ask).code(), 0);
    watched.wait(&series_calls("Unavailable"));

    prometheus.set(|state| state.read = Read_::Stall(vec![]));
    prometheus.reads.try_iter().for_each(drop);
    let call = store.stream(&ask, options());
    prometheus.reads.recv_timeout(PATIENCE).unwrap();
    let moved = watched.moved();
    drop(call);
    watched.wait(&series_calls("Canceled"));
    moved
}

/// A client of the gRPC port that speaks something else is closed, and a request that is too large is refused.
fn knock(sidecar: &Sidecar) {
    let mut stranger = TcpStream::connect(sidecar.grpc).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    // A reset is as good an end as a close.
    let _ = stranger.read_to_end(&mut Vec::new());
    sidecar.wait_metric("pillion_grpc_connections_refused_total{reason=\"protocol\"}", |n| n >= 1.0);
    let large = request(&[("job", "=", &"x".repeat(2 << 20))]);
    let refused = Store::connect(sidecar.grpc).series(&large);
    assert_eq!(
        (refused.code(), refused.status.message()),
        (8, "the request is larger than --grpc-server-max-request-size of the sidecar")
    );
}

/// A block whose upload fails, which Prometheus then deletes, and which arrives with the third start; and one that is
/// given up. What moves meanwhile.
fn lose_and_keep(prometheus: &FakePrometheus) -> BTreeSet<String> {
    let (tsdb, bucket) = (Tsdb::new(), tempfile::tempdir().unwrap());
    tsdb.add(&Block::new(1));
    let in_the_way = bucket.path().join(ulid(1).as_str()).join("index");
    std::fs::create_dir_all(in_the_way.join("x")).unwrap();
    let start = |args: &[&str]| Watched::start_at_once(prometheus, tsdb.path(), bucket.path(), args);
    let first = start(&[]);
    first.wait("thanos_shipper_upload_failures_total");
    drop(first);
    std::fs::remove_dir_all(tsdb.block_dir(1)).unwrap();
    let second = start(&[]);
    second.wait("pillion_shipper_claimed_bytes");
    let mut moved = second.moved();
    drop(second);
    std::fs::remove_dir_all(&in_the_way).unwrap();
    let third = start(&[]);
    third.wait("pillion_shipper_resumed_bytes_total");
    moved.extend(third.moved());
    drop(third);
    // What was shipped by an earlier run is known from the start.
    let fourth = start(&[]);
    let last = fourth.sidecar.metric("pillion_shipper_last_success_timestamp_seconds");
    assert!(last > 1e9, "{last}");
    let name = format!("fs: {}", bucket.path().display());
    let of_bucket = format!("thanos_objstore_bucket_last_successful_upload_time{{bucket=\"{name}\"}}");
    assert_eq!(fourth.sidecar.metric(&of_bucket).to_string(), last.to_string());
    drop(fourth);

    tsdb.add(&Block::new(2));
    std::fs::write(bucket.path().join(ulid(2).as_str()), "in the way").unwrap();
    let first = start(&[]);
    first.wait("thanos_shipper_upload_failures_total");
    drop(first);
    std::fs::remove_dir_all(tsdb.block_dir(2)).unwrap();
    let second = start(&["--shipper.claim-budget=1B"]);
    second.wait("pillion_shipper_claims_given_up_total");
    moved.extend(second.moved());
    moved
}

/// A configuration that is not there, has a variable that is not set, is refused, and is loaded. What moves meanwhile.
fn reload(prometheus: &FakePrometheus) -> BTreeSet<String> {
    let (tsdb, bucket, dir) = (Tsdb::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (path, rules) = (dir.path().join("in.yml"), dir.path().join("rules"));
    let answer = |status| {
        prometheus.set(|state| state.overrides = vec![("/-/reload".into(), status, "an answer".into())]);
    };
    answer(500);
    let args = [
        format!("--reloader.config-file={}", path.display()),
        format!("--reloader.config-envsubst-file={}", dir.path().join("out.yml").display()),
        format!("--reloader.rule-dir={}", rules.display()),
        "--reloader.debounce=10ms".to_owned(),
        "--reloader.retry-interval=50ms".to_owned(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let watched = Watched::start(prometheus, tsdb.path(), bucket.path(), &args);
    let name = |name: &str| format!("thanos_sidecar_reloader_{name}");
    std::fs::write(&path, "$(PILLION_TEST_UNSET)").unwrap();
    watched.wait(&name("config_environment_variable_expansion_errors"));
    watched.wait(&name("config_apply_operations_failed_total"));
    let mut moved = watched.moved();
    std::fs::create_dir(&rules).unwrap();
    std::fs::write(&path, "global: {}").unwrap();
    watched.wait(&name("reloads_failed_total"));
    moved.extend(watched.moved());
    answer(200);
    watched.wait(&name("last_reload_successful"));
    moved.extend(watched.moved());
    prometheus.set(|state| state.overrides.clear());
    moved
}

fn traces_to(collector: &Collector) -> String {
    let endpoint = collector.address;
    format!("--tracing.config={{type: OTLP, config: {{client_type: http, insecure: true, endpoint: '{endpoint}'}}}}")
}

/// Two sidecars: one with all in order, and one with a bad block, a bucket that fails, and a limit that is exceeded.
#[test]
fn every_metric_is_there_from_the_start_and_moves() {
    let (prometheus, collector) = (FakePrometheus::start(), Collector::start());

    let (tsdb, bucket) = (Tsdb::new(), tempfile::tempdir().unwrap());
    tsdb.add(&Block::new(1));
    // A compacted block makes the shipper look at what the bucket holds.
    tsdb.add(&Block { level: 2, ..Block::new(2) });
    let clean = Watched::start(
        &prometheus,
        tsdb.path(),
        bucket.path(),
        &["--shipper.upload-compacted", "--shipper.upload-rate-limit=1GB", &traces_to(&collector)],
    );
    let mut moved = call_everything(&prometheus, &clean);
    knock(&clean.sidecar);
    clean.sidecar.wait_metric("thanos_shipper_uploads_total", |n| n >= 2.0);
    clean.sidecar.wait_metric("thanos_shipper_upload_compacted_done", |n| n >= 1.0);
    assert!(bucket.path().join(ulid(2).as_str()).join("meta.json").exists());
    // Compacted of a block that nobody has seen.
    tsdb.add(&Block { level: 2, sources: vec![8], ..Block::new(9) });
    clean.wait("pillion_shipper_stand_in_blocks_total");

    let (tsdb, bucket) = (Tsdb::new(), tempfile::tempdir().unwrap());
    tsdb.add(&Block::new(1));
    std::fs::write(tsdb.block_dir(1).join("meta.json"), "{").unwrap();
    age(&tsdb.block_dir(1));
    tsdb.add(&Block::new(2));
    // No folder can be made where a file is, not even by root.
    std::fs::write(bucket.path().join(ulid(2).as_str()), "in the way").unwrap();
    let limits = bucket.path().join("limits.yml");
    std::fs::write(&limits, "request_series: 1\n").unwrap();
    let flag = format!("--store.limits.file={}", limits.display());
    let refusing = Collector::start();
    refusing.set(Manner::Refuse(400, "", "no"));
    let broken = Watched::start(&prometheus, tsdb.path(), bucket.path(), &[&flag, &traces_to(&refusing)]);
    broken.wait("thanos_shipper_upload_failures_total");
    broken.wait("thanos_shipper_dir_sync_failures_total");
    let frames = ["1", "2"].map(|n| series(&[("job", "x"), ("n", n)], &[(1, 2, 1, b"chunk")]));
    prometheus.set(|state| state.read = Read_::Frames(frames.into()));
    assert_ne!(Store::connect(broken.sidecar.grpc).series(&request(&[("job", "=", "x")])).code(), 0);
    broken.wait("thanos_store_selects_dropped_total{reason=\"series\"}");

    let before = broken.first["pillion_config_last_reload_success_timestamp_seconds"].values().next().unwrap().parse();
    let before: f64 = before.unwrap();
    broken.sidecar.wait_metric("pillion_config_last_reload_success_timestamp_seconds", |at| at > before);
    std::fs::write(&limits, "request_series: many\n").unwrap();
    broken.sidecar.wait_metric("pillion_config_last_reload_successful", |value| value == 0.0);

    moved.extend(lose_and_keep(&prometheus));
    moved.extend(reload(&prometheus));

    let allowed: BTreeSet<String> = STILL.iter().map(|(name, _)| (*name).to_owned()).collect();
    let declared: BTreeSet<String> = clean.first.keys().cloned().collect();
    let unknown: Vec<_> = allowed.difference(&declared).collect();
    assert!(unknown.is_empty(), "these are excused and not on the page: {unknown:?}");
    // CPU time moves in steps of 10 ms, so it may take a few pages.
    let deadline = Instant::now() + Duration::from_secs(10);
    let still = loop {
        moved.extend(clean.moved());
        moved.extend(broken.moved());
        let still: Vec<_> = declared.difference(&moved).filter(|name| !allowed.contains(*name)).collect();
        if still.is_empty() || Instant::now() > deadline {
            break still;
        }
        pause();
    };
    assert!(still.is_empty(), "these never moved: {still:?}\n{}\n{}", clean.sidecar.log(), broken.sidecar.log());
    let needless: Vec<_> = allowed.intersection(&moved).collect();
    assert!(needless.is_empty(), "these are excused and do move: {needless:?}");
}
