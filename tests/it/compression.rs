//! Queriers with `--grpc-compression=snappy`: the core does not know that compression.

use crate::support::fake_prometheus::{FakePrometheus, Read_, series};
use crate::support::go_client::GoClient;
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
