//! How the daemon starts, follows Prometheus, and stops.

#![allow(clippy::unwrap_used, clippy::float_cmp)]

#[path = "support/fake_prometheus.rs"]
mod fake_prometheus;
#[path = "support/sidecar.rs"]
mod sidecar;
#[path = "support/store_client.rs"]
mod store_client;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use fake_prometheus::{FakePrometheus, Read_};
use sidecar::{PATIENCE, Sidecar, free_address};
use store_client::{Store, options, request};

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

#[test]
fn flags_that_would_lose_blocks_hold_up_the_start() {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| state.flags[1].1 = "36h".into());
    let dir = tempfile::tempdir().unwrap();
    let mut args = bucket_args(dir.path());
    args.push(format!("--prometheus.url={}", prometheus.url()));
    let sidecar = Sidecar::start(&strs(&args));
    let line = sidecar.wait_line("failed to validate prometheus flags");
    assert!(line.contains("TSDB Max time is 36h and Min time is 2h"), "{line}");
    prometheus.set(|state| state.flags[1].1 = "2h".into());
    sidecar.wait_line("successfully validated prometheus flags");
    sidecar.wait_ready(true);
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
    check(&["--reloader.config-file=/x"], "--reloader.config-file is not supported yet");
    check(&["--objstore.config-file=/nonexistent/bucket.yml"], "/nonexistent/bucket.yml");
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
