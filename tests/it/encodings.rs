//! A Prometheus that writes chunks in its newer encodings: queriers get plain ones, and where blocks are uploaded the operator
//! is told what Thanos cannot read. The chunks are golden ones; tests/data/chunks/README.txt says where they are from.

use std::path::Path;
use std::time::Instant;

use crate::support::fake_prometheus::{FakePrometheus, Read_, series};
use crate::support::sidecar::{PATIENCE, Sidecar, binary, pause};
use crate::support::store_client::{Store, request};
use pillion_testing::tsdb::{Block, Tsdb, ulid};
use twox_hash::XxHash64;

/// A chunk in a newer encoding, and the plain ones that Prometheus makes of it: encoding, times, bytes.
struct Golden {
    name: String,
    chunk: Chunk,
    plain: Vec<Chunk>,
}

type Chunk = (i32, i64, i64, Vec<u8>);

fn golden() -> Vec<Golden> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chunks/real.txt");
    let mut all: Vec<Golden> = Vec::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [.., encoding, min, max, hex] = words[..] else { panic!("{line}") };
        let data = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let chunk = (encoding.parse().unwrap(), min.parse().unwrap(), max.parse().unwrap(), data);
        match words[0] {
            "chunk" => all.push(Golden { name: words[1].to_owned(), chunk, plain: Vec::new() }),
            _ => all.last_mut().unwrap().plain.push(chunk),
        }
    }
    all
}

#[test]
fn queriers_get_plain_chunks() {
    let golden = golden();
    let prometheus = FakePrometheus::start();
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    let frame = |golden: &Golden| {
        let (encoding, min, max, data) = &golden.chunk;
        // One that is plain already comes first, and stays as it is.
        let chunks = [(1, 2, 1, &b"plain"[..]), (*min, *max, *encoding, data)];
        series(&[("__name__", "golden"), ("n", &golden.name)], &chunks)
    };
    let mut sorted: Vec<&Golden> = golden.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    prometheus.set(|state| state.read = Read_::Frames(sorted.iter().map(|golden| frame(golden)).collect()));
    let answer = Store::connect(sidecar.grpc).series(&request(&[("__name__", "=", "golden")])).ok();
    assert_eq!(answer.series.len(), golden.len());
    for (series, golden) in answer.series.iter().zip(sorted) {
        let got: Vec<Chunk> = series
            .chunks
            .iter()
            .map(|chunk| {
                assert_eq!(chunk.raw.hash, XxHash64::oneshot(0, &chunk.raw.data));
                (chunk.raw.type_.value() + 1, chunk.min_time, chunk.max_time, chunk.raw.data.clone())
            })
            .collect();
        assert_eq!(got[0], (1, 1, 2, b"plain".to_vec()));
        assert_eq!(got[1..], golden.plain, "{}", golden.name);
    }
    let all = |encoding: i32| golden.iter().filter(|golden| golden.chunk.0 == encoding).count();
    assert!(all(4) > 10 && all(5) > 10 && all(6) > 10);

    // And what a person sees of them.
    let goes = golden.iter().find(|golden| golden.name.starts_with("comes:and:goes")).unwrap();
    let histogram = golden.iter().find(|golden| golden.chunk.0 == 5).unwrap();
    let (floats, counted) = (&goes.chunk, &histogram.chunk);
    let frames = [("f", floats), ("h", counted)].map(|(name, (encoding, min, max, data))| {
        series(&[("__name__", name)], &[(*min, *max, *encoding, data.as_slice())])
    });
    prometheus.set(|state| state.read = Read_::Frames(frames.to_vec()));
    let out = std::process::Command::new(binary())
        .args(["series", &format!("--store={}", sidecar.grpc), "--match={__name__=~\".+\"}", "--start=0"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let n_samples = |chunk: &Chunk| u16::from_be_bytes([chunk.3[0] & 0x3f, chunk.3[1]]);
    assert!(text.contains(&format!("  {} samples (", n_samples(floats))) && text.contains(" stale)"), "{text}{out:?}");
    assert!(text.contains(&format!("  {} histogram samples in 1 chunk", n_samples(counted))), "{text}");
}

/// The answer of `/api/v1/status/config`, with this encoding of floats.
fn config(floats: &str) -> (String, u16, String) {
    let yaml = format!(
        "global:\\n  external_labels:\\n    region: eu\\nstorage:\\n  tsdb:\\n    chunk_encoding:\\n      floats: {floats}\\n"
    );
    let body = format!("{{\"status\":\"success\",\"data\":{{\"yaml\":\"{yaml}\"}}}}");
    ("/api/v1/status/config".into(), 200, body)
}

/// Waits until the sidecar shows these encodings, and no others beside them.
fn wait_shown(sidecar: &Sidecar, floats: &str, histograms: &str) {
    let wanted = format!("pillion_prometheus_chunk_encoding_info{{floats=\"{floats}\",histograms=\"{histograms}\"}} 1");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = sidecar.get("/metrics").map(|(_, page)| page).unwrap_or_default();
        let shown: Vec<&str> =
            page.lines().filter(|line| line.starts_with("pillion_prometheus_chunk_encoding_info{")).collect();
        if shown == [wanted.as_str()] {
            return;
        }
        assert!(Instant::now() < deadline, "{shown:?} instead of {wanted}:\n{}", sidecar.log());
        pause();
    }
}

const WARNING: &str = "Prometheus writes chunks that Thanos's compactor and store gateway cannot read";

#[test]
fn what_prometheus_writes_is_shown_and_said_when_it_changes() {
    let (tsdb, bucket) = (Tsdb::new(), tempfile::tempdir().unwrap());
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| state.overrides.push(config("xor")));
    let sidecar = Sidecar::start(&[
        &format!("--prometheus.url={}", prometheus.url()),
        &format!("--tsdb.path={}", tsdb.path().display()),
        &format!("--objstore.config=type: FILESYSTEM\nconfig:\n  directory: {}\n", bucket.path().display()),
        "--prometheus.get_config_interval=50ms",
    ]);
    let shown = |floats: &str, histograms: &str| wait_shown(&sidecar, floats, histograms);
    let warnings =
        || -> Vec<String> { sidecar.log().lines().filter(|line| line.contains(WARNING)).map(str::to_owned).collect() };
    shown("xor", "plain");
    assert_eq!(warnings(), Vec::<String>::new());
    prometheus.set(|state| state.overrides = vec![config("xor2")]);
    shown("xor2", "plain");
    sidecar.wait_line(WARNING);
    // Prometheus was restarted with another flag, and nobody noticed that it was away.
    prometheus.set(|state| state.flags.push(("enable-feature".into(), "st-storage,histograms-st-encoding".into())));
    shown("xor2", "st");
    sidecar.wait_line("histograms-st-encoding");
    prometheus.set(|state| state.overrides = vec![config("xor")]);
    shown("xor", "st");
    prometheus.set(|state| state.flags.truncate(2));
    shown("xor", "plain");
    let key = "turn off storage.tsdb.chunk_encoding.floats: xor2 in its configuration";
    let feature = "--enable-feature=histograms-st-encoding";
    let warnings = warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].contains(key) && !warnings[0].contains(feature), "{warnings:?}");
    assert!(warnings[1].contains(&format!("{key} and {feature}")), "{warnings:?}");
    assert!(warnings[2].contains(&format!("turn off {feature}")), "{warnings:?}");
}

#[test]
fn without_uploads_it_is_shown_and_not_said() {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| state.flags.push(("enable-feature".into(), "xor2-encoding".into())));
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    wait_shown(&sidecar, "xor2", "plain");
    assert!(!sidecar.log().contains(WARNING), "{}", sidecar.log());
}

#[test]
fn the_first_block_with_such_chunks_is_named_and_uploaded() {
    let (tsdb, bucket) = (Tsdb::new(), tempfile::tempdir().unwrap());
    for (n, encoding) in [(1, 1), (2, 4), (3, 5)] {
        tsdb.add(&Block::new(n));
        // A plain chunk of three bytes, then the one that matters.
        let mut file = vec![0x85, 0xBD, 0x40, 0xDD, 1, 0, 0, 0, 3, 1, 0, 0, 0, 9, 9, 9, 9, 3, encoding];
        file.resize(3000, 0);
        std::fs::write(tsdb.block_dir(n).join("chunks/000001"), file).unwrap();
    }
    let prometheus = FakePrometheus::start();
    let sidecar = Sidecar::start(&[
        &format!("--prometheus.url={}", prometheus.url()),
        &format!("--tsdb.path={}", tsdb.path().display()),
        &format!("--objstore.config=type: FILESYSTEM\nconfig:\n  directory: {}\n", bucket.path().display()),
    ]);
    sidecar.wait_ready(true);
    sidecar.wait_metric("thanos_shipper_uploads_total", |value| value == 3.0);
    let log = sidecar.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("the block has chunks that Thanos's")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for text in [ulid(2).as_str(), "encoding=XOR2", "component=shipper", "storage.tsdb.chunk_encoding.floats: xor2"] {
        assert!(lines[0].contains(text), "{} lacks {text}", lines[0]);
    }
    for n in 1..=3 {
        assert!(bucket.path().join(ulid(n).as_str()).join("meta.json").is_file());
    }
}
