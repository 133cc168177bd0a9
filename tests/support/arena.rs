//! The real binary beside a fake Prometheus, with honest clients that find out what is left for them during an attack,
//! and a watch over what the attack costs.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::attackers::{Attacker, ELSEWHERE, HOSTILE, Running, repeat};
use super::fake_prometheus::{FakePrometheus, Read_};
use super::figures::{n_files, status};
use super::sidecar::Sidecar;
use super::store_client::{Store, options, request};
use pillion_proto::thanos_store::LabelNamesRequest;

/// What the daemon may take up whatever one client does. `Units:` bytes, descriptors.
pub const RSS_BYTES_MAX: u64 = 128 << 20;
pub const FILES_MAX: u64 = 1500;
/// Series that an honest call asks for.
const N_SERIES: usize = 1000;

pub struct Arena {
    pub prometheus: FakePrometheus,
    pub sidecar: Sidecar,
    /// A client from before the attack.
    pub established: Store,
    files_peak: Arc<AtomicU64>,
    /// Ends with the arena.
    _watch: Running,
}

/// How honest clients fared.
#[derive(Debug, Default)]
pub struct Served {
    /// What failed, in words.
    pub failed: Vec<String>,
    pub slowest: Duration,
}

impl Arena {
    pub fn start(args: &[&str]) -> Self {
        let prometheus = FakePrometheus::start();
        prometheus.set(|state| {
            state.read = Read_::Many(N_SERIES, vec![7; 200]);
            let names = r#"{"status":"success","data":["job"]}"#;
            state.overrides.push(("/api/v1/labels".into(), 200, names.into()));
        });
        let sidecar = Sidecar::ready(&prometheus.url(), args);
        let established = Store::connect(sidecar.grpc);
        established.info().unwrap();
        let (pid, files_peak) = (sidecar.pid(), Arc::<AtomicU64>::default());
        let peak = Arc::clone(&files_peak);
        // A process that has just ended has no files.
        let look = move || std::fs::metadata(format!("/proc/{pid}/fd")).is_ok().then(|| n_files(pid));
        let watch = repeat(20, 0, move || look().map(|n| peak.fetch_max(n, Ordering::Relaxed)));
        Arena { prometheus, sidecar, established, files_peak, _watch: watch }
    }

    /// Has attackers' Series calls answered with more than any buffer takes.
    pub fn flood_attackers(&self) {
        let flood = Read_::Many(1_000_000, vec![7; 200]);
        self.prometheus.set(|state| state.reads_by_matcher.push((HOSTILE.into(), 0, flood)));
    }

    /// An attacker from an address of his own.
    pub fn attacker(&self) -> Attacker {
        self.attacker_from(ELSEWHERE)
    }

    pub fn attacker_from(&self, from: IpAddr) -> Attacker {
        Attacker { server: self.sidecar.grpc, from }
    }

    /// Makes every kind of call, each of which has `patience`, on the old connection and on a new one.
    pub fn serve(&self, patience: Duration) -> Served {
        let mut served = Served::default();
        let newcomer = Store::connect(self.sidecar.grpc);
        for (who, store) in [("established", &self.established), ("newcomer", &newcomer)] {
            served.ask(who, "info", || info(store, patience));
            served.ask(who, "health", || {
                let answer = store.check_with("", options().timeout(patience));
                answer.map(drop).map_err(|err| err.to_string())
            });
            served.ask(who, "series", || thousand_series(store, patience));
            served.ask(who, "label names", || {
                let answer = store.label_names_with(&LabelNamesRequest::default(), options().timeout(patience));
                answer.map(drop).map_err(|err| err.to_string())
            });
        }
        served
    }

    /// Prints how honest clients fared and what the attack cost so far, and fails past the bounds.
    #[track_caller]
    pub fn conclude(&self, attack: &str, served: &Served) {
        let (rss, files) = (status(self.sidecar.pid(), "VmHWM"), self.files_peak());
        eprintln!(
            "attack: {attack}: {} honest calls failed, the slowest took {:?}; peaks of {} MiB and {files} descriptors",
            served.failed.len(),
            served.slowest,
            rss >> 20
        );
        assert!(served.failed.is_empty(), "{attack}: {:#?}", served.failed);
        assert!(rss < RSS_BYTES_MAX, "{attack}: {} MiB", rss >> 20);
        assert!(files < FILES_MAX, "{attack}: {files} descriptors");
    }

    /// Descriptors open at once, at most, so far.
    pub fn files_peak(&self) -> u64 {
        self.files_peak.load(Ordering::Relaxed)
    }
}

impl Served {
    /// Where two calls have failed, more would only take more time to fail.
    fn ask(&mut self, who: &str, what: &str, call: impl FnOnce() -> Result<(), String>) {
        let asked = Instant::now();
        if self.failed.len() >= 2 {
            return;
        }
        if let Err(err) = call() {
            self.failed.push(format!("{who}'s {what}: {err}"));
        }
        self.slowest = self.slowest.max(asked.elapsed());
    }

    /// The same calls later on.
    pub fn and(mut self, later: Served) -> Self {
        self.failed.extend(later.failed);
        self.slowest = self.slowest.max(later.slowest);
        self
    }
}

pub fn info(store: &Store, patience: Duration) -> Result<(), String> {
    store.info_with(options().timeout(patience)).map(drop).map_err(|err| err.to_string())
}

pub fn thousand_series(store: &Store, patience: Duration) -> Result<(), String> {
    let answer = store.series_with(&request(&[("job", "=", "x")]), options().timeout(patience));
    match (answer.code(), answer.series.len()) {
        (0, N_SERIES) => Ok(()),
        (_, n) => Err(format!("{n} series, {:?}", answer.status)),
    }
}
