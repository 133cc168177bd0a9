//! What a StoreAPI server beside a Prometheus with known data has to answer, as text cases: `data/conformance/*/*.txt`,
//! whose language `data/conformance/README.txt` describes.
//!
//! By default the server is ours, started beside every Prometheus release that is there. Any other is asked with
//!
//! ```text
//! STORE_UNDER_TEST=host:port cargo test --release --test it conformance
//! ```
//!
//! and then needs, set up by whoever runs it:
//!
//! - a Prometheus 3 with the blocks that `promtool tsdb create-blocks-from openmetrics` makes of `history.om` followed by
//!   `history-3.om` and a line `# EOF`; with the configuration `prometheus.yml` (external labels `region="eu-west"` and
//!   `replica="e2e"`) beside `rules.yml`, and the target that it describes, scraped once; and with the flags
//!   `--storage.tsdb.min-block-duration=2h --storage.tsdb.max-block-duration=2h --storage.tsdb.retention.time=100y
//!   --storage.remote.read-max-bytes-in-frame=256 --enable-feature=exemplar-storage`; all those files are in
//!   `data/conformance/`, and `conformance/rig.rs` does the same for our own server;
//! - a sidecar of it without `--min-time`.
//!
//! It is then asked the cases of `known/`; those of the other folders need a Prometheus of their own.
//!
//! Cases marked `differs` say what Pillion does on purpose unlike Thanos. `STORE_DIFFERS=skip` leaves them out, which is
//! what a Thanos under test wants.

mod case;
mod check;
mod client;
mod rig;
mod show;
use crate::support;
mod wire;
mod words;

use std::collections::BTreeSet;

use case::Case;
use client::Store;
use rig::{Rig, Setup, data_dir};
use support::prometheus::releases;

/// The cases of a file.
struct File {
    name: String,
    cases: Vec<Case>,
}

/// The folders of cases: beside a Prometheus with the known data, also with limits on a call, one that is empty, and one
/// that went away.
const KNOWN: &str = "known";
const EMPTY: &str = "empty";
const DOWN: &str = "down";
const LIMITED: &str = "limited";

fn all_files() -> Vec<File> {
    [KNOWN, LIMITED, EMPTY, DOWN].map(files).into_iter().flatten().collect()
}

/// Every case file of a folder, by name.
fn files(dir: &str) -> Vec<File> {
    let mut paths: Vec<_> = std::fs::read_dir(data_dir().join(dir))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    paths.sort();
    let file = |path: &std::path::PathBuf| {
        let name = path.strip_prefix(data_dir()).unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).unwrap();
        let cases = case::parse(&text).unwrap_or_else(|err| panic!("{name}: {err}"));
        File { name, cases }
    };
    paths.iter().map(file).collect()
}

/// Runs every case that this server can be asked, and reports all that failed at once. Without a version it has the
/// newest Prometheus.
fn run(dir: &str, address: &str, version: Option<(u32, u32)>) {
    let skip_differing = std::env::var("STORE_DIFFERS").is_ok_and(|value| value == "skip");
    let store = Store::connect(address);
    let (mut n_run, mut n_left_out, mut report) = (0, 0, String::new());
    for file in files(dir) {
        for case in &file.cases {
            if version.is_some_and(|version| version < case.needs) || (skip_differing && !case.differs.is_empty()) {
                n_left_out += 1;
                continue;
            }
            n_run += 1;
            for exchange in &case.exchanges {
                let place = format!("{}:{}", file.name, exchange.line);
                let answer = store.call(&exchange.call).unwrap_or_else(|err| panic!("{place}: {err}"));
                for fault in check::check(exchange, &answer) {
                    report.push_str(&format!("\n{place} {:?}\n    {fault}", case.title));
                }
            }
        }
    }
    let beside = version.map_or_else(String::new, |(major, minor)| format!(" beside Prometheus {major}.{minor}"));
    println!("{dir} at {address}{beside}: {n_run} cases, {n_left_out} left out");
    assert!(report.is_empty(), "{address}{beside}{report}");
    assert!(n_run > 0, "no case was run");
}

#[test]
fn the_store_answers_as_it_has_to() {
    match std::env::var("STORE_UNDER_TEST") {
        Ok(address) => run(KNOWN, &address, None),
        Err(_) => {
            for rig in Rig::start_all(&releases(), Setup::default()) {
                run(KNOWN, &rig.store, Some(rig.version));
            }
        }
    }
}

/// P-ST-02: the same answers when Prometheus lives below a path. Always our own server.
#[test]
fn a_prometheus_below_a_path_makes_no_difference() {
    let newest = releases().split_off(releases().len() - 1);
    for rig in Rig::start_all(&newest, Setup { path: "/prometheus/sub/path", ..Setup::default() }) {
        run(KNOWN, &rig.store, Some(rig.version));
    }
}

/// Always our own server.
#[test]
fn limits_of_a_call_are_kept() {
    let flags = &["--store.limits.request-series=4", "--store.limits.request-samples=1200"];
    let newest = releases().split_off(releases().len() - 1);
    for rig in Rig::start_all(&newest, Setup { flags, ..Setup::default() }) {
        run(LIMITED, &rig.store, Some(rig.version));
    }
}

/// A Prometheus that has nothing to say. Always our own server.
#[test]
fn an_empty_prometheus_is_served_too() {
    for rig in Rig::start_all(&releases(), Setup { empty: true, ..Setup::default() }) {
        run(EMPTY, &rig.store, Some(rig.version));
    }
}

/// A Prometheus that went away. Always our own server.
#[test]
fn a_prometheus_that_is_down_is_told_apart_from_an_empty_one() {
    for rig in Rig::start_all(&releases(), Setup { empty: true, stopped: true, ..Setup::default() }) {
        run(DOWN, &rig.store, Some(rig.version));
    }
}

/// A case may only differ from Thanos where that is written down for users.
#[test]
fn deliberate_differences_are_written_down() {
    let listed = std::fs::read_to_string(data_dir().join("../../../docs/differences.md")).unwrap();
    for file in all_files() {
        for case in &file.cases {
            for id in &case.differs {
                assert!(
                    listed.contains(id.as_str()),
                    "{}:{}: {id} is not in docs/differences.md",
                    file.name,
                    case.line
                );
            }
        }
    }
}

/// The list of what has to be like Thanos; P-ST-02 is a run of all cases.
#[test]
fn every_entry_of_the_parity_list_has_a_case() {
    let wanted = [
        "P-PC-02", "P-PC-04", "P-ST-01", "P-ST-03", "P-ST-04", "P-ST-05", "P-ST-06", "P-ST-07", "P-ST-08", "P-ST-10",
        "P-ST-13", "P-E2E-01", "P-E2E-09", "P-E2E-10", "P-E2E-11", "P-E2E-12", "P-E2E-14", "P-E2E-16",
    ];
    let files = all_files();
    let found: BTreeSet<&str> =
        files.iter().flat_map(|file| &file.cases).flat_map(|case| &case.parity).map(String::as_str).collect();
    let missing: Vec<_> = wanted.iter().filter(|id| !found.contains(**id)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}
