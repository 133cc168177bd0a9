//! A host at the edge: a data directory with blocks, a fake Prometheus, and the real binary that ships to a real S3
//! server over a link that can be made bad.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;

use super::fake_prometheus::FakePrometheus;
use super::fault_proxy::FaultProxy;
use super::rgw::{Bucket, Rgw};
use super::shipped;
use super::sidecar::{PATIENCE, Sidecar, pause};
use pillion_testing::tsdb::{Block, Tsdb};

/// The external labels of the fake Prometheus.
const LABELS: [(&str, &str); 2] = [("region", "eu-west"), ("replica", "a")];

pub struct Outpost {
    pub tsdb: Tsdb,
    pub bucket: Bucket<'static>,
    pub proxy: FaultProxy,
    prometheus: FakePrometheus,
    config: String,
    flags: Vec<String>,
    /// Every block that was ever there.
    blocks: Vec<String>,
}

impl Outpost {
    /// No blocks and a good link. `config` are lines for `bucket.yml`, `flags` further ones for the binary.
    pub fn new(rgw: &'static Rgw, config: &str, flags: &[&str]) -> Self {
        let (bucket, proxy) = (rgw.bucket(), FaultProxy::start(rgw.endpoint()));
        let config = bucket.config(&proxy.endpoint(), config);
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (tsdb, prometheus) = (Tsdb::new(), FakePrometheus::start());
        Outpost { tsdb, bucket, proxy, prometheus, config, flags, blocks: Vec::new() }
    }

    /// Prometheus finishes a block.
    pub fn add(&mut self, block: &Block) {
        // Made elsewhere and moved, as Prometheus does it: a block is there whole or not at all.
        let unfinished = format!("{:026}.tmp-for-creation", block.n);
        let ulid = self.tsdb.add_as(block, &unfinished);
        std::fs::rename(self.tsdb.path().join(unfinished), self.tsdb.path().join(ulid.as_str())).unwrap();
        self.blocks.push(ulid.to_string());
    }

    /// Starts the binary; it begins to ship at once.
    pub fn start(&self) -> Sidecar {
        let mut args = vec![
            format!("--prometheus.url={}", self.prometheus.url()),
            format!("--tsdb.path={}", self.tsdb.path().display()),
            format!("--objstore.config={}", self.config),
            "--shipper.upload-jitter=0s".to_owned(),
        ];
        args.extend_from_slice(&self.flags);
        Sidecar::start(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Blocks that the ledger says are in the bucket.
    pub fn listed(&self) -> BTreeSet<String> {
        let Ok(ledger) = serde_json::from_str::<Value>(&self.tsdb.ledger()) else { return BTreeSet::new() };
        let names = |member: &str| {
            let names = ledger[member].as_array().into_iter().flatten();
            names.map(|name| name.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
        };
        &names("uploaded") - &names("pillion_unshipped")
    }

    /// Blocks that anybody who reads the bucket finds there.
    pub fn in_bucket(&self) -> BTreeSet<String> {
        shipped::blocks(&self.bucket).into_iter().collect()
    }

    /// Whether the ledger lists all blocks.
    pub fn is_done(&self) -> bool {
        self.listed().len() == self.blocks.len()
    }

    /// Waits until the ledger lists all blocks.
    pub fn wait_done(&self, sidecar: &Sidecar) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_done() {
            assert!(Instant::now() < deadline, "not all blocks were shipped:\n{}", sidecar.log());
            pause();
        }
    }

    /// Every block is in the bucket as it was, the ledger lists it, and nothing else is left anywhere.
    pub fn expect_all(&self) {
        for block in &self.blocks {
            shipped::expect_whole(&self.bucket, &self.tsdb.path().join(block), &LABELS);
        }
        let expected: BTreeSet<String> = self.blocks.iter().cloned().collect();
        assert_eq!((self.in_bucket(), self.listed()), (expected.clone(), expected));
        assert_eq!(self.bucket.uploads(), [], "uploads in parts that nobody will complete");
        assert_eq!(self.tsdb.staged(), Vec::<String>::new());
    }

    /// No block may be promised that is not there.
    pub fn expect_no_false_promise(&self) {
        // In this order: what is listed now was in the bucket before.
        let listed = self.listed();
        let missing: Vec<_> = listed.difference(&self.in_bucket()).cloned().collect();
        assert!(missing.is_empty(), "listed as shipped and not in the bucket: {missing:?}");
    }
}
