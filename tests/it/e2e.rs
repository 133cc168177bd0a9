//! The real binary beside real Prometheus releases: what Prometheus itself answers is what StoreAPI gives, blocks arrive
//! in the bucket as they are, and Prometheus may go away and come back. Every test runs on every release that is there.

use crate::support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::store_client::{Store, options, request};
use futures_executor::block_on;
use futures_util::StreamExt;
use serde_json::{Value, json};
use support::prometheus::{EXTERNAL_LABELS, Prometheus, Release, Setup, releases};
use support::server::{Server, free_port, get, metric};

const PILLION: &str = env!("CARGO_BIN_EXE_pillion");

/// `pillion sidecar` beside a Prometheus.
struct Sidecar {
    server: Server,
    http: String,
    store: String,
    bucket: PathBuf,
}

impl Sidecar {
    /// Starts it and waits until StoreAPI answers.
    fn start(prometheus: &Prometheus) -> Sidecar {
        let (http, store) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let bucket = prometheus.scratch().join("bucket");
        std::fs::create_dir(&bucket).unwrap();
        let bucket_config = format!("type: FILESYSTEM\nconfig:\n  directory: {}\n", bucket.display());
        let mut command = Command::new(PILLION);
        command
            .arg("sidecar")
            .arg(format!("--prometheus.url={}", prometheus.url()))
            .arg(format!("--tsdb.path={}", prometheus.data().display()))
            .arg(format!("--http-address={http}"))
            .arg(format!("--grpc-address={store}"))
            .arg(format!("--objstore.config={bucket_config}"))
            .args(["--prometheus.get_config_interval=1s", "--http-grace-period=1s", "--grpc-grace-period=1s"])
            .arg("--shipper.upload-jitter=0");
        let mut server = Server::start("pillion", &mut command);
        server.wait_for("answer on the gRPC port", || {
            run(&["info", &format!("--store={store}")]).ok().filter(|info| info.contains("sidecar"))
        });
        Sidecar { server, http: format!("http://{http}"), store, bucket }
    }

    /// `pillion series --json`, a value per series, in the order of the store.
    fn series(&self, flags: &[&str]) -> Vec<Value> {
        let store = format!("--store={}", self.store);
        let out =
            run(&[&["series", &store, "--json"], flags].concat()).unwrap_or_else(|err| panic!("{flags:?}: {err}"));
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Ends it and looks at its exit code.
    fn stop(self) {
        let status = self.server.terminate();
        assert_eq!(status.code(), Some(0), "pillion after SIGTERM");
    }
}

/// Standard output of a pillion command, or what it said on standard error.
fn run(args: &[&str]) -> Result<String, String> {
    let Output { status, stdout, stderr } = Command::new(PILLION).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if status.success() { Ok(text(stdout)) } else { Err(text(stderr)) }
}

/// Runs a test on every release.
fn on_every_release(test: impl Fn(&Release)) {
    for release in releases() {
        println!("Prometheus {}.{}", release.version.0, release.version.1);
        test(&release);
    }
}

fn now_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// The time range of the history: three hours, ended three hours ago, so that it spans several blocks and no head.
fn history_range() -> (i64, i64) {
    let end = now_seconds() - 3 * 3600;
    (end - 3 * 3600, end)
}

/// Known data in OpenMetrics: many chunks per series, every kind of number, sub-second times, labels that need care.
fn history((start, end): (i64, i64)) -> String {
    let mut text = String::new();
    let mut add = |series: &str, step: i64, value: &dyn Fn(i64) -> String| {
        for (idx, time) in (start..=end).step_by(step.try_into().unwrap()).enumerate() {
            let idx = i64::try_from(idx).unwrap();
            writeln!(text, "{series} {} {time}.{}", value(idx), idx % 4 * 250).unwrap();
        }
    };
    // The first is a prefix of the second, and `b` sorts before the external labels, which the first has there: the order
    // of the answer differs from that of the index.
    add(r#"e2e_gauge{a="1"}"#, 15, &|idx| format!("{}.5", idx * idx % 977));
    add(r#"e2e_gauge{a="1",b="x"}"#, 15, &|idx| format!("-{}e-7", idx));
    add(r#"e2e_gauge{a="2"}"#, 300, &|_| "1e300".into());
    add(r#"e2e_total{b="\"quoted\" \\ back",c="späte ✓"}"#, 30, &|idx| (idx * 100).to_string());
    add(r#"e2e_special{kind="numbers"}"#, 60, &|idx| {
        ["NaN", "+Inf", "-Inf", "0", "-0", "42"][usize::try_from(idx % 6).unwrap()].into()
    });
    // A local label under the name of an external one: the external one wins.
    add(r#"e2e_conflict{region="local"}"#, 60, &|idx| idx.to_string());
    text
}

type Samples = BTreeMap<BTreeMap<String, String>, Vec<(i64, String)>>;

fn labels(value: &Value) -> BTreeMap<String, String> {
    value.as_object().unwrap().iter().map(|(name, v)| (name.clone(), v.as_str().unwrap().to_owned())).collect()
}

/// Of both, Prometheus's `values` and ours: pairs of seconds and text.
#[allow(clippy::cast_possible_truncation)]
fn samples(values: &Value) -> Vec<(i64, String)> {
    let sample = |pair: &Value| {
        let time_ms = (pair[0].as_f64().unwrap() * 1000.0).round() as i64;
        (time_ms, pair[1].as_str().unwrap().to_owned())
    };
    values.as_array().unwrap().iter().map(sample).collect()
}

fn external_labels() -> BTreeMap<String, String> {
    EXTERNAL_LABELS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn info_and_series_are_what_prometheus_itself_answers() {
    on_every_release(|release| {
        let range = history_range();
        let prometheus = Prometheus::start(release, &history(range), Setup::default());
        let sidecar = Sidecar::start(&prometheus);
        info_is_right(&sidecar, range);
        series_are_equal(&prometheus, &sidecar, range);
        ranges_labels_and_replica_labels_are_honoured(&sidecar, range);
        sidecar.stop();
    });
}

fn info_is_right(sidecar: &Sidecar, (start, _): (i64, i64)) {
    let out = run(&["info", &format!("--store={}", sidecar.store), "--json"]).unwrap();
    let info: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(info["component"], "sidecar");
    assert_eq!(info["label_sets"], json!([external_labels()]));
    assert_eq!((&info["min_time_ms"], &info["max_time_ms"]), (&json!(start * 1000), &json!(i64::MAX)));
    assert_eq!(info["tsdb_infos"][0]["labels"], json!(external_labels()));
    assert_eq!(info["supports_sharding"], true);
    assert_eq!(info["supports_without_replica_labels"], true);
}

fn series_are_equal(prometheus: &Prometheus, sidecar: &Sidecar, (start, end): (i64, i64)) {
    // A second more on both sides, because releases differ in whether a range includes its start.
    let expression = format!(r#"{{__name__=~"e2e_.*"}}[{}s]"#, end - start + 2);
    let mut expected = Samples::new();
    for series in prometheus.query(&expression, end + 1) {
        let mut labels = labels(&series["metric"]);
        labels.extend(external_labels());
        expected.insert(labels, samples(&series["values"]));
    }
    assert_eq!(expected.len(), 6);

    let (start, end) = (format!("--start={}", start - 1), format!("--end={}", end + 1));
    let answer = sidecar.series(&["--match={__name__=~\"e2e_.*\"}", &start, &end, "--samples"]);
    let found: Samples = answer.iter().map(|one| (labels(&one["labels"]), samples(&one["values"]))).collect();
    assert_eq!(found.len(), answer.len(), "a series came twice");
    for (labels, samples) in &expected {
        let found = found.get(labels).unwrap_or_else(|| panic!("{labels:?} is missing; there are {:?}", found.keys()));
        let difference = found.iter().zip(samples).find(|(a, b)| a != b);
        assert!(found.len() == samples.len() && difference.is_none(), "{labels:?}: {difference:?}");
    }
    assert_eq!(found.len(), expected.len());

    // Sorted pairwise by name and value, the shorter first, which is what a querier merges by.
    let order: Vec<Vec<_>> = answer.iter().map(|one| labels(&one["labels"]).into_iter().collect()).collect();
    assert!(order.is_sorted(), "{order:?}");
}

fn ranges_labels_and_replica_labels_are_honoured(sidecar: &Sidecar, (start, end): (i64, i64)) {
    let one = |flags: &[&str]| {
        let mut all = sidecar.series(flags);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    };
    // Only a part of the time.
    let middle = (start + end) / 2;
    let (from, to) = (format!("--start={middle}"), format!("--end={}", middle + 600));
    let part = one(&[r#"--match=e2e_conflict"#, &from, &to, "--samples"]);
    let times: Vec<i64> = samples(&part["values"]).into_iter().map(|(time_ms, _)| time_ms).collect();
    assert!(times.len() == 10 || times.len() == 11, "{times:?}");
    assert!(times.iter().all(|time| (middle * 1000..=(middle + 600) * 1000).contains(time)), "{times:?}");
    // Matchers on external labels are answered by the sidecar.
    let wrong = r#"--match=e2e_conflict{region="local"}"#;
    assert_eq!(sidecar.series(&[wrong]), Vec::<Value>::new());
    one(&[r#"--match=e2e_conflict{region=~"eu-.*"}"#]);
    // Labels only, and without the replica label.
    let (from, to) = (format!("--start={start}"), format!("--end={end}"));
    let bare = one(&["--match=e2e_total", "--skip-chunks", "--without-replica-label=replica", &from, &to]);
    let expected = json!({ "__name__": "e2e_total", "b": "\"quoted\" \\ back", "c": "späte ✓", "region": "eu-west" });
    assert_eq!(bare, json!({ "labels": expected }));
    let whole = one(&["--match=e2e_total", "--without-replica-label=replica"]);
    assert_eq!(whole["labels"], expected);
    // An error of the server reaches the person who asked.
    let store = format!("--store={}", sidecar.store);
    let err = run(&["series", &store, r#"--match={region="eu-west"}"#]).unwrap_err();
    assert!(err.contains(&format!("series from {}: INVALID_ARGUMENT: ", sidecar.store)), "{err}");
}

#[test]
fn blocks_arrive_in_the_bucket_as_they_are() {
    on_every_release(|release| {
        let prometheus = Prometheus::start(release, &history(history_range()), Setup::default());
        let blocks = prometheus.blocks();
        assert!(blocks.len() >= 2, "{blocks:?}");
        let before: Vec<Vec<u8>> = blocks.iter().map(|block| std::fs::read(block.join("meta.json")).unwrap()).collect();

        let mut sidecar = Sidecar::start(&prometheus);
        let ledger = prometheus.data().join("thanos.shipper.json");
        let uploaded = sidecar.server.wait_for("ledger with all blocks", || {
            let ledger: Value = serde_json::from_slice(&std::fs::read(&ledger).ok()?).ok()?;
            assert_eq!(ledger["version"], 1);
            Some(ledger["uploaded"].as_array()?.clone()).filter(|uploaded| uploaded.len() == blocks.len())
        });

        let mut by_time: Vec<(i64, String)> = Vec::new();
        for (block, meta_before) in blocks.iter().zip(&before) {
            let name = block.file_name().unwrap().to_string_lossy().into_owned();
            let meta = block_is_equal(block, &sidecar.bucket.join(&name));
            by_time.push((meta["minTime"].as_i64().unwrap(), name));
            let meta_now = std::fs::read(block.join("meta.json")).unwrap();
            assert!(&meta_now == meta_before, "Prometheus's own meta.json was changed");
        }
        by_time.sort();
        let expected: Vec<Value> = by_time.into_iter().map(|(_, name)| name.into()).collect();
        assert_eq!(uploaded, expected, "the ledger, by time");

        // Files on their way have a hidden folder of their own, in which nothing stays.
        let mut in_bucket = BTreeMap::new();
        tree(&sidecar.bucket, &sidecar.bucket, &mut in_bucket);
        in_bucket.remove(pillion_bucket::FolderBucket::MARKER).unwrap();
        in_bucket.retain(|name, _| !blocks.iter().any(|block| Path::new(name).starts_with(block.file_name().unwrap())));
        assert!(in_bucket.is_empty(), "something else is in the bucket: {:?}", in_bucket.keys());
        assert_eq!(metric(&sidecar.http, "thanos_shipper_uploads_total"), Some(blocks.len() as f64));
        assert_eq!(metric(&sidecar.http, "thanos_shipper_upload_failures_total"), Some(0.0));
        let staging = prometheus.data().join("thanos/upload");
        let left = std::fs::read_dir(&staging).map_or(0, Iterator::count);
        assert_eq!(left, 0, "staging is not empty");
        sidecar.stop();
    });
}

/// Files of a folder, by path relative to it.
fn tree(dir: &Path, below: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tree(&path, below, found);
        } else {
            let name = path.strip_prefix(below).unwrap().to_string_lossy().into_owned();
            found.insert(name, std::fs::read(&path).unwrap());
        }
    }
}

/// Compares a block with what arrived; the arrived meta.json.
fn block_is_equal(block: &Path, arrived: &Path) -> Value {
    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    tree(arrived, arrived, &mut ours);
    tree(block, block, &mut theirs);
    // Prometheus's tombstones stay where they are, as with Thanos.
    theirs.remove("tombstones");
    let meta = ours.remove("meta.json").expect("meta.json arrived");
    let local_meta = theirs.remove("meta.json").unwrap();
    let differing: Vec<_> = theirs.iter().filter(|(name, bytes)| ours.get(*name) != Some(*bytes)).collect();
    assert!(differing.is_empty(), "{:?} differ", differing.iter().map(|(name, _)| name).collect::<Vec<_>>());
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());

    let mut meta: Value = serde_json::from_slice(&meta).unwrap();
    let thanos = meta["thanos"].take();
    meta.as_object_mut().unwrap().remove("thanos");
    assert_eq!(meta, serde_json::from_slice::<Value>(&local_meta).unwrap(), "Prometheus's part of meta.json");
    assert_eq!(thanos["labels"], json!(external_labels()));
    assert_eq!(thanos["source"], "sidecar");
    assert_eq!(thanos["downsample"], json!({ "resolution": 0 }));
    let segments: Vec<&str> = theirs.keys().filter_map(|name| name.strip_prefix("chunks/")).collect();
    assert_eq!(thanos["segment_files"], json!(segments));
    let files: Vec<Value> = theirs
        .iter()
        .map(|(name, bytes)| json!({ "rel_path": name, "size_bytes": bytes.len() }))
        .chain([json!({ "rel_path": "meta.json" })])
        .collect();
    assert_eq!(thanos["files"], json!(files));
    meta
}

#[test]
fn prometheus_may_go_away_and_come_back() {
    on_every_release(|release| {
        let mut prometheus = Prometheus::start(release, &history(history_range()), Setup::default());
        let mut sidecar = Sidecar::start(&prometheus);
        let http = sidecar.http.clone();
        let ready = || get(&format!("{http}/-/ready"), &[]).map(|(status, _)| status);
        let up = || metric(&http, "thanos_sidecar_prometheus_up");
        let healthy = || get(&format!("{http}/-/healthy"), &[]).map(|(status, _)| status);
        assert_eq!((ready(), up(), healthy()), (Some(200), Some(1.0), Some(200)));

        prometheus.stop();
        sidecar.server.wait_for("notice that Prometheus is gone", || (ready() == Some(503)).then_some(()));
        assert_eq!((up(), healthy()), (Some(0.0), Some(200)));
        let store = format!("--store={}", sidecar.store);
        let err = run(&["series", &store, "--match=e2e_gauge"]).unwrap_err();
        assert!(err.contains(&format!("series from {}: UNAVAILABLE: ", sidecar.store)), "{err}");
        // As with Thanos, so that a querier leaves this store out until it is ready again.
        let err = run(&["info", &store]).unwrap_err();
        assert!(err.contains("UNKNOWN: Not ready"), "{err}");

        prometheus.start_again();
        sidecar.server.wait_for("notice that Prometheus is back", || (ready() == Some(200)).then_some(()));
        assert_eq!(up(), Some(1.0));
        assert_eq!(sidecar.series(&["--match=e2e_gauge"]).len(), 3);
        sidecar.stop();
    });
}

#[test]
fn prometheus_may_crash_in_the_middle_of_a_series_call() {
    on_every_release(|release| {
        // More than fits into the buffers between Prometheus and a client that does not read.
        let (_, end) = history_range();
        let filler = "x".repeat(400);
        let mut data = String::from("# TYPE e2e_wide gauge\n");
        for number in 0..60_000 {
            data.push_str(&format!("e2e_wide{{filler=\"{filler}\",number=\"{number:05}\"}} {number} {end}\n"));
        }
        let mut prometheus = Prometheus::start(release, &data, Setup::default());
        let mut sidecar = Sidecar::start(&prometheus);
        let store = Store::connect(&sidecar.store);
        let ask = request(&[("__name__", "=", "e2e_wide")]);
        let mut stream = store.stream(&ask, options());
        // The call is under way, and its rest waits for this client.
        block_on(stream.next()).expect("a message").expect("a series");
        prometheus.kill();
        let (mut n_series, mut ended) = (1, None);
        while let Some(message) = block_on(stream.next()) {
            match message {
                Ok(_) => n_series += 1,
                Err(err) => ended = Some(err),
            }
        }
        // What came is data; that it is not all of it is said.
        assert!(n_series < 60_000, "{n_series}");
        match ended {
            Some(grpcio::Error::RpcFailure(status)) => assert_eq!(i32::from(status.code()), 14, "{status:?}"),
            other => panic!("{other:?} after {n_series} series"),
        }
        prometheus.start_again();
        sidecar.server.wait_for("answer in full again", || (store.series(&ask).series.len() == 60_000).then_some(()));
        sidecar.stop();
    });
}

#[test]
fn live_samples_are_seen() {
    on_every_release(|release| {
        let history = history(history_range());
        let prometheus = Prometheus::start(release, &history, Setup { scrape: true, ..Setup::default() });
        let mut sidecar = Sidecar::start(&prometheus);
        let store = format!("--store={}", sidecar.store);
        let ask = || {
            let out = run(&["series", &store, "--match=up", "--json", "--samples", "--start=-5m"]).ok()?;
            let series: Value = serde_json::from_str(out.lines().next()?).ok()?;
            Some(series).filter(|series| series["samples"].as_u64() >= Some(2))
        };
        let series = sidecar.server.wait_for("two scrapes", ask);
        assert_eq!(series["labels"]["job"], "self");
        assert_eq!(series["labels"]["region"], "eu-west");
        assert!(samples(&series["values"]).iter().all(|(_, value)| value == "1"), "{series}");
        sidecar.stop();
    });
}

/// Prometheus 3 only; on an older one these do not exist.
#[test]
fn utf8_names_and_native_histograms_pass_through() {
    let releases = releases();
    let Some(release) = releases.iter().find(|release| release.version.0 >= 3) else {
        println!("no Prometheus 3 among {releases:?}: nothing to test");
        return;
    };
    let (start, end) = history_range();
    let history = format!("{{\"utf8.metric\",\"quoted label\"=\"v\",\"é\"=\"ü\"}} 2.5 {start}\n");
    let prometheus = Prometheus::start(release, &history, Setup { scrape: true, native_histograms: true });
    let mut sidecar = Sidecar::start(&prometheus);

    let selector = r#"--match={"utf8.metric", "quoted label"="v"}"#;
    let answer = sidecar.series(&[selector, "--samples", &format!("--end={end}")]);
    let mut expected = external_labels();
    let utf8 = [("__name__", "utf8.metric"), ("quoted label", "v"), ("é", "ü")];
    expected.extend(utf8.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(answer.len(), 1, "{answer:?}");
    assert_eq!(answer[0]["labels"], json!(expected));
    assert_eq!(samples(&answer[0]["values"]), [(start * 1000, "2.5".to_owned())]);
    let text = run(&["series", &format!("--store={}", sidecar.store), selector]).unwrap();
    assert!(text.starts_with(r#"{"utf8.metric", "quoted label"="v", region="eu-west""#), "{text}");

    let store = format!("--store={}", sidecar.store);
    let ask = || {
        let out = run(&["series", &store, "--match=prometheus_http_request_duration_seconds", "--json"]).ok()?;
        let series: Value = serde_json::from_str(out.lines().next()?).ok()?;
        Some(series).filter(|series| series["not_decoded"]["histogram"]["samples"].as_u64() >= Some(1))
    };
    let series = sidecar.server.wait_for("native histogram", ask);
    assert_eq!(series["labels"]["replica"], "e2e");
    sidecar.stop();
}
