//! Queriers with `--grpc-compression=snappy`: the core does not know that compression.

use crate::support::fake_prometheus::{FakePrometheus, Read_, series};
use crate::support::go_client::GoClient;
use crate::support::raw::{Raw, message, open_call_with};
use crate::support::sidecar::Sidecar;

#[test]
fn a_querier_that_compresses_with_snappy_is_answered() {
    let prometheus = FakePrometheus::start();
    prometheus.set(|state| state.read = Read_::Frames(vec![series(&[("job", "x")], &[(1, 2, 1, b"first")])]));
    let sidecar = Sidecar::ready(&prometheus.url(), &[]);
    let Some(client) = GoClient::start(sidecar.grpc, &["-mode=snappy", "-calls=3"]) else { return };
    let report = client.report();
    assert_eq!(report["codes"], serde_json::json!({"OK": 3}), "{report} {}", sidecar.log());
    assert_eq!(report["messages"], serde_json::json!([1, 1, 1]), "{report}");
    let log = sidecar.log();
    assert!(!log.contains("grpc-encoding"), "{log}");
}

#[test]
fn what_the_core_cannot_read_is_a_line_of_the_log_and_counted() {
    const N: u32 = 50;
    let prometheus = FakePrometheus::start();
    let annoyed = |args: &[&str]| {
        let sidecar = Sidecar::ready(&prometheus.url(), args);
        let mut raw = Raw::open(sidecar.grpc);
        for n in 0..N {
            let encoding = &[("grpc-encoding", "bogus")];
            let (call, message) =
                (open_call_with(2 * n + 1, "/thanos.Store/LabelNames", encoding), message(2 * n + 1, b""));
            raw.send(&[call, message].concat());
        }
        sidecar.wait_metric("pillion_grpc_core_errors_total", |n| n >= f64::from(N));
        sidecar
    };
    let sidecar = annoyed(&[]);
    let line = sidecar.wait_line("grpc-encoding");
    assert!(line.contains("level=warn") && line.contains("component=grpc-core"), "{line}");
    let log = sidecar.log();
    assert!(log.lines().all(|line| line.starts_with("ts=")), "{log}");
    // A client that goes on with it does not fill the disk.
    let n_lines = log.lines().filter(|line| line.contains("grpc-encoding")).count();
    assert!(n_lines < 10, "{log}");
    // It is a warning, which some do not want.
    let log = annoyed(&["--log.level=error"]).log();
    assert!(!log.contains("grpc-encoding"), "{log}");
}
