//! How the daemon starts, follows Prometheus, and stops.

use crate::support::sidecar;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::fake_prometheus::{FakePrometheus, Read_};
use crate::support::store_client::{Store, options, request};
use sidecar::{PATIENCE, Sidecar, free_address};

fn bucket_args(dir: &std::path::Path) -> Vec<String> {
    let data = dir.join("data");
    std::fs::create_dir_all(data.join("wal")).unwrap();
    vec![
        format!("--tsdb.path={}", data.display()),
        format!("--objstore.config=type: FILESYSTEM\nconfig:\n  directory: {}\n", dir.join("bucket").display()),
    ]
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn http_answers_before_prometheus_does_and_grpc_waits() {
    let prometheus = FakePrometheus::start();
    prometheus.go_down();
    let url = format!("--prometheus.url={}", prometheus.url());
    let sidecar = Sidecar::start(&[&url]);
    sidecar.wait_line("failed to fetch prometheus version. Is Prometheus running? Retrying");
    assert_eq!(sidecar.get("/-/healthy").unwrap(), (200, "OK".into()));
    assert_eq!(sidecar.get("/-/ready").unwrap(), (503, "NOT OK\n".into()));
    assert_eq!(sidecar.metric("thanos_sidecar_prometheus_up"), 0.0);
    assert_eq!(sidecar.metric("thanos_status{check=\"ready\",component=\"sidecar\"}"), 0.0);
    assert!(std::net::TcpStream::connect(sidecar.grpc).is_err(), "gRPC listens before Prometheus is known");
    prometheus.up();
    sidecar.wait_ready(true);
    // Ready means that gRPC listens.
    std::net::TcpStream::connect(sidecar.grpc).unwrap();
    assert_eq!(sidecar.metric("thanos_sidecar_prometheus_up"), 1.0);
    assert_eq!(sidecar.metric("thanos_status{check=\"ready\",component=\"sidecar\"}"), 1.0);
    assert_eq!(sidecar.stop().code(), Some(0));
}

#[test]
fn an_empty_label_set_at_start_ends_the_process() {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| state.external_labels.clear());
    let url = format!("--prometheus.url={}", prometheus.url());
    let mut sidecar = Sidecar::start(&[&url]);
    assert_eq!(sidecar.wait_exit().code(), Some(1));
    assert!(sidecar.log().contains("no external labels configured on Prometheus server"), "{}", sidecar.log());
}

fn agent() -> FakePrometheus {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| {
        state.lowest_timestamp = None;
        state.flags = vec![
            ("agent".into(), "true".into()),
            ("storage.tsdb.min-block-duration".into(), "2h".into()),
            ("storage.tsdb.max-block-duration".into(), "0s".into()),
        ];
    });
    prometheus
}

#[test]
fn an_agent_is_served_with_what_it_has() {
    let prometheus = agent();
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    assert!(sidecar.log().contains("Prometheus runs as an agent"), "{}", sidecar.log());
    let info = Store::connect(sidecar.grpc).info().unwrap();
    assert_eq!(info.label_sets.len(), 1);
    assert!(info.targets.is_some() && info.metric_metadata.is_some());
    assert!(
        info.store.is_none() && info.rules.is_none() && info.exemplars.is_none() && info.status.is_none(),
        "{info}"
    );
    // It comes back as a server.
    prometheus.set(|state| {
        state.lowest_timestamp = Some("1000".into());
        state.flags.clear();
    });
    let deadline = Instant::now() + PATIENCE;
    let store = Store::connect(sidecar.grpc);
    // A beat may have asked before and after, and be at a loss.
    while !store.info().is_ok_and(|info| info.store.is_some()) {
        assert!(Instant::now() < deadline, "{}", sidecar.log());
        sidecar::pause();
    }
}

#[test]
fn an_agent_beside_a_bucket_ends_the_process_with_a_reason() {
    let prometheus = agent();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("--prometheus.url={}", prometheus.url());
    let args = [bucket_args(dir.path()), vec![url]].concat();
    let mut sidecar = Sidecar::start(&strs(&args));
    assert_eq!(sidecar.wait_exit().code(), Some(1));
    assert!(sidecar.log().contains("Prometheus runs as an agent, which keeps no blocks"), "{}", sidecar.log());
    assert!(!sidecar.log().contains("delay-compact"), "{}", sidecar.log());
}

#[test]
fn a_missing_lowest_timestamp_is_an_error_and_not_zero() {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| state.lowest_timestamp = None);
    let url = format!("--prometheus.url={}", prometheus.url());
    let sidecar = Sidecar::start(&[&url]);
    let line = sidecar.wait_line("failed to fetch timestamps. Is Prometheus running? Retrying");
    assert!(line.contains("has no prometheus_tsdb_lowest_timestamp_seconds"), "{line}");
    prometheus.set(|state| state.lowest_timestamp = Some("9.223372036854776e+15".into()));
    sidecar.wait_ready(true);
    // An empty database: the start is --min-time, the year 0.
    let info = Store::connect(sidecar.grpc).info().unwrap();
    assert_eq!(info.store.min_time, -62_167_219_200_000);
}

#[test]
fn it_follows_prometheus_down_up_and_changed() {
    let prometheus = FakePrometheus::start();
    let sidecar = Sidecar::ready(&prometheus.url(), &["--min-time=2000-01-01T00:00:00Z"]);
    let store = Store::connect(sidecar.grpc);
    assert_eq!(store.info().unwrap().store.min_time, 946_684_800_000);
    prometheus.go_down();
    sidecar.wait_ready(false);
    assert_eq!(sidecar.metric("thanos_sidecar_prometheus_up"), 0.0);
    prometheus.set(|state| {
        state.version = "3.5.0".into();
        state.lowest_timestamp = Some("1e9".into());
        state.external_labels = vec![("region".into(), "us".into())];
    });
    prometheus.up();
    sidecar.wait_ready(true);
    let line = sidecar.wait_line("Prometheus came back with another version");
    assert!(line.contains("now=3.5.0"), "{line}");
    let info = store.info().unwrap();
    assert_eq!(info.store.min_time, 1_000_000_000_000);
    assert_eq!(info.label_sets[0].labels[0].value, "us");
}

/// A sidecar with uploads beside a Prometheus with these flags and runtime information.
fn beside(
    flags: &[(&str, &str)],
    cwd: Option<&str>,
    dir: &std::path::Path,
    more: &[&str],
) -> (FakePrometheus, Sidecar) {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| {
        for (name, value) in flags {
            state.flags.retain(|(known, _)| known != name);
            state.flags.push(((*name).into(), (*value).into()));
        }
        if let Some(cwd) = cwd {
            let info = format!("{{\"status\":\"success\",\"data\":{{\"CWD\":{cwd:?},\"storageRetention\":\"15d\"}}}}");
            state.overrides.push(("/api/v1/status/runtimeinfo".into(), 200, info));
        }
    });
    let mut args = bucket_args(dir);
    args.push(format!("--prometheus.url={}", prometheus.url()));
    let args: Vec<&str> = strs(&args).into_iter().chain(more.iter().copied()).collect();
    let sidecar = Sidecar::start(&args);
    (prometheus, sidecar)
}

const MAX_BLOCK: &str = "storage.tsdb.max-block-duration";
const DELAY_COMPACT: &str = "storage.tsdb.delay-compact-file.path";

#[test]
fn flags_that_would_lose_blocks_end_the_start_with_one_line_that_says_what_to_change() {
    let check = |flags: &[(&str, &str)], texts: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let (_prometheus, mut sidecar) = beside(flags, Some("/"), dir.path(), &[]);
        assert_eq!(sidecar.wait_exit().code(), Some(1), "{}", sidecar.log());
        let log = sidecar.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("failed to validate prometheus flags")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(!log.contains("listening for serving gRPC"), "{log}");
        let ledger = dir.path().join("data/thanos.shipper.json");
        for text in texts.iter().copied().chain([format!("{DELAY_COMPACT}={}", ledger.display()).as_str()]) {
            assert!(lines[0].contains(text), "{} lacks {text:?}", lines[0]);
        }
    };
    check(&[(MAX_BLOCK, "36h")], &["TSDB Max time is 36h and Min time is 2h", "--shipper.ignore-unequal-block-size"]);
    check(
        &[(MAX_BLOCK, "36h"), (DELAY_COMPACT, "elsewhere/thanos.shipper.json")],
        &["different paths", "(that is /elsewhere/thanos.shipper.json)", "correct --tsdb.path"],
    );
}

#[test]
fn compaction_that_waits_for_our_file_is_accepted_however_the_file_is_spelled() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(dir.path().join("data"), dir.path().join("link")).unwrap();
    let cwd = dir.path().display().to_string();
    for spelled in ["data/thanos.shipper.json", "./link/thanos.shipper.json", "data/../link/thanos.shipper.json"] {
        let flags = [(MAX_BLOCK, "31d"), (DELAY_COMPACT, spelled)];
        let (_prometheus, sidecar) = beside(&flags, Some(&cwd), dir.path(), &[]);
        sidecar.wait_line("successfully validated prometheus flags");
        sidecar.wait_ready(true);
        assert!(!sidecar.log().contains("cannot write"), "{}", sidecar.log());
        assert_eq!(sidecar.stop().code(), Some(0));
    }
    // The way around, for those who know better.
    let flags = [(MAX_BLOCK, "31d"), (DELAY_COMPACT, "/nowhere/thanos.shipper.json")];
    let (_prometheus, sidecar) = beside(&flags, None, dir.path(), &["--shipper.ignore-unequal-block-size"]);
    let line = sidecar.wait_line("going on although Prometheus may compact at any time");
    assert!(line.contains("/nowhere/thanos.shipper.json"), "{line}");
    sidecar.wait_ready(true);
}

#[test]
fn a_relative_path_is_not_judged_while_prometheus_does_not_say_where_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let prometheus = FakePrometheus::start();
    let info = |cwd: &str| format!("{{\"status\":\"success\",\"data\":{{\"CWD\":{cwd:?}}}}}");
    prometheus.set(|state| {
        state.flags.push((DELAY_COMPACT.into(), "data/thanos.shipper.json".into()));
        state.overrides.push(("/api/v1/status/runtimeinfo".into(), 503, "starting".into()));
    });
    let mut args = bucket_args(dir.path());
    args.push(format!("--prometheus.url={}", prometheus.url()));
    let sidecar = Sidecar::start(&strs(&args));
    let line = sidecar.wait_line("failed to validate prometheus flags. Is Prometheus running? Retrying");
    assert!(line.contains("runtime information") && line.contains("different paths"), "{line}");
    let cwd = dir.path().display().to_string();
    prometheus.set(|state| state.overrides[0] = ("/api/v1/status/runtimeinfo".into(), 200, info(&cwd)));
    sidecar.wait_line("successfully validated prometheus flags");
    assert_eq!(sidecar.stop().code(), Some(0));
}

#[test]
fn flags_that_cannot_be_read_are_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let (prometheus, sidecar) = beside(&[(MAX_BLOCK, "garbage")], None, dir.path(), &[]);
    let line = sidecar.wait_line("failed to validate prometheus flags. Is Prometheus running? Retrying");
    assert!(line.contains("garbage"), "{line}");
    prometheus.set(|state| state.flags[1].1 = "2h".into());
    sidecar.wait_line("successfully validated prometheus flags");
    sidecar.wait_ready(true);
    // Prometheus comes back as one that compacts: queries are served, and somebody hears of it.
    prometheus.go_down();
    sidecar.wait_ready(false);
    prometheus.set(|state| state.flags[1].1 = "31d".into());
    prometheus.up();
    sidecar.wait_line("Prometheus came back with flags under which blocks may get lost");
    sidecar.wait_ready(true);
    assert_eq!(sidecar.stop().code(), Some(0));
}

#[test]
fn upload_limits_are_read_again_at_sighup_and_a_broken_file_changes_nothing() {
    const RATE: &str = "pillion_shipper_upload_rate_limit_bytes";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("limits.yml");
    std::fs::write(&file, "windows: ['22:00-06:00']\n").unwrap();
    let flag = format!("--shipper.upload-limits-file={}", file.display());
    let (_prometheus, sidecar) = beside(&[], None, dir.path(), &[&flag, "--shipper.upload-rate-limit=1MB"]);
    let line = sidecar.wait_line("upload limits");
    assert!(line.contains("1000000 bytes per second, jitter 0s, at 22:00-06:00Z"), "{line}");
    sidecar.wait_ready(true);
    assert_eq!(sidecar.metric(RATE), 1_000_000.0);
    std::fs::write(&file, "rate_limit: 2MiB\njitter: 1m\n").unwrap();
    sidecar.signal("HUP");
    let line = sidecar.wait_line("upload limits changed");
    let (before, now) = line.split_once(" now=").unwrap();
    assert!(
        before.contains("22:00-06:00Z") && now.contains("2097152 bytes per second, jitter 1m0s, at any time"),
        "{line}"
    );
    sidecar.wait_metric(RATE, |rate| rate == 2_097_152.0);
    std::fs::write(&file, "rate_limit: 3MiB\nwindow: x\n").unwrap();
    sidecar.signal("HUP");
    let line = sidecar.wait_line("reloading the upload limits failed");
    assert!(line.contains("limits.yml") && line.contains("line 2: field window not found"), "{line}");
    sidecar.signal("HUP");
    sidecar.wait_line("reloading the upload limits failed");
    assert_eq!(sidecar.metric(RATE), 2_097_152.0);
    assert_eq!(sidecar.get("/-/ready").unwrap().0, 200);
    assert_eq!(sidecar.stop().code(), Some(0));
}

#[test]
fn what_cannot_work_ends_the_start_with_one_line_that_says_what_to_change() {
    let check = |args: &[&str], text: &str| {
        let mut sidecar = Sidecar::start(args);
        assert_eq!(sidecar.wait_exit().code(), Some(1), "{}", sidecar.log());
        let log = sidecar.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("error")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(lines[0].contains(text), "{} lacks {text:?}", lines[0]);
    };
    let dir = tempfile::tempdir().unwrap();
    let args = bucket_args(dir.path());
    let missing = format!("--tsdb.path={}", dir.path().join("nowhere").display());
    check(&[&missing, &args[1]], "nowhere");
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let file = format!("--tsdb.path={}", file.display());
    check(&[&file, &args[1]], "--tsdb.path");
    check(&["--objstore.config=type: FILESYSTEM\nconfig:\n  directry: /x\n"], "directry");
    check(&["--objstore.config=type: S3\nconfig: {}\n"], "line 2: no s3 endpoint in config file");
    check(&["--reloader.rule-dir="], "--reloader.rule-dir must not be empty");
    check(&["--objstore.config-file=/nonexistent/bucket.yml"], "/nonexistent/bucket.yml");
    check(&["--shipper.upload-limits-file=/nonexistent/limits.yml"], "/nonexistent/limits.yml");
    check(&["--http.config=/nonexistent/web.yml"], "web configuration /nonexistent/web.yml (--http.config): ");
    std::fs::write(dir.path().join("file"), "jitter: soon").unwrap();
    let limits = format!("--shipper.upload-limits-file={}", dir.path().join("file").display());
    check(&[&limits], "line 1: jitter: ");
}

#[test]
fn a_port_in_use_is_named_with_the_flag_to_change() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    for flag in ["--http-address", "--grpc-address"] {
        let other = if flag == "--http-address" { "--grpc-address" } else { "--http-address" };
        let args = [format!("{flag}={addr}"), format!("{other}={}", free_address())];
        let out =
            std::process::Command::new(env!("CARGO_BIN_EXE_pillion")).arg("sidecar").args(&args).output().unwrap();
        let log = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{log}");
        assert!(log.contains("address already in use") && log.contains(flag), "{log}");
    }
}

#[test]
fn parts_stop_at_once_and_together() {
    let prometheus = FakePrometheus::start();
    let dir = tempfile::tempdir().unwrap();
    let sidecar = Sidecar::ready(&prometheus.url(), &strs(&bucket_args(dir.path())));
    let store = Store::connect(sidecar.grpc);
    // An open health watch must not hold up the stop.
    let _watch = store.watch();
    store.info().unwrap();
    let begun = Instant::now();
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_hanging_prometheus_does_not_hold_up_the_stop() {
    // It accepts and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("--prometheus.url=http://{}", silent.local_addr().unwrap());
    let sidecar = Sidecar::start(&[&url, "--prometheus.get_config_timeout=1h"]);
    silent.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let _connection = loop {
        match silent.accept() {
            Ok(connection) => break connection,
            Err(_) => assert!(Instant::now() < deadline, "no connection:\n{}", sidecar.log()),
        }
        sidecar::pause();
    };
    let begun = Instant::now();
    assert_eq!(sidecar.stop().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn calls_in_flight_get_their_grace_and_then_end() {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| state.read = Read_::Stall(vec![]));
    let mut sidecar = Sidecar::ready(&prometheus.url(), &["--grpc-grace-period=300ms"]);
    let store = Store::connect(sidecar.grpc);
    let _stream = store.stream(&request(&[("a", "=", "b")]), options());
    prometheus.reads.recv_timeout(PATIENCE).unwrap();
    let begun = Instant::now();
    sidecar.signal("TERM");
    sidecar.wait_line("grace period exceeded enforcing shutdown");
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!(sidecar.wait_exit().code(), Some(0));
    prometheus.hang_ups.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_second_signal_exits_at_once() {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| state.read = Read_::Stall(vec![]));
    let mut sidecar = Sidecar::ready(&prometheus.url(), &["--grpc-grace-period=10m"]);
    let store = Store::connect(sidecar.grpc);
    let _stream = store.stream(&request(&[("a", "=", "b")]), options());
    prometheus.reads.recv_timeout(PATIENCE).unwrap();
    sidecar.signal("TERM");
    sidecar.wait_line("caught signal. Exiting.");
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait_exit().code(), Some(1));
}

#[test]
fn sighup_is_logged_and_harmless() {
    let prometheus = FakePrometheus::start();
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    sidecar.signal("HUP");
    sidecar.wait_line("caught signal. Reloading.");
    assert_eq!(sidecar.get("/-/healthy").unwrap().0, 200);
    assert_eq!(sidecar.stop().code(), Some(0));
}
