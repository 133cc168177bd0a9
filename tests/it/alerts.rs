//! The alert rules: Prometheus's own promtool accepts them and runs their tests, and every metric they name exists.

use crate::support;

use std::path::{Path, PathBuf};
use std::process::Command;

use pillion::inside::Metrics;
use support::prometheus::releases;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    for release in releases() {
        for args in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
            let done = Command::new(release.folder.join("promtool")).args(args).current_dir(deploy()).output().unwrap();
            let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
            assert!(done.status.success() && text.contains("SUCCESS"), "promtool {args:?}: {text}");
        }
    }
}

#[test]
fn every_metric_that_a_rule_names_exists() {
    let metrics = Metrics::new();
    let (_ship, _bucket) = (metrics.shipper(), metrics.bucket("fs: /x"));
    let (_web, _tls, _reload) = (metrics.web(), metrics.tls("grpc"), metrics.reloader("http"));
    let page = String::from_utf8(metrics.render()).unwrap();
    let rules = std::fs::read_to_string(deploy().join("alerts.yml")).unwrap();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut n_found = 0;
    for name in rules.split(|c| !is_name(c)).filter(|name| name.len() > 10) {
        if ["pillion_", "thanos_", "grpc_server_", "grpc_req_"].iter().any(|prefix| name.starts_with(prefix)) {
            n_found += 1;
            assert!(page.contains(&format!("# TYPE {name} ")), "deploy/alerts.yml names {name}");
        }
    }
    assert!(n_found > 10, "{n_found} metrics found only");
}
