//! What the tests share: a tracer whose queue runs, and a collector.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pillion_base::content::Content;
use pillion_base::error::Result;
use pillion_base::stop::{Stopper, stop_pair};
use pillion_base::threads::spawn_thread;
use pillion_testing::collector::Collector;
use pillion_trace::propagate::{Incoming, extract};
use pillion_trace::{Config, Export, HttpExporter, TraceMetrics, Tracer, tracer};
use prometheus::IntCounter;

/// Long enough for a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
pub(crate) const SPAN: &str = "b7ad6b7169203331";

pub(crate) fn config(yaml: &str) -> Config {
    let text = format!("{{type: OTLP, config: {{client_type: http, insecure: true, {yaml}}}}}");
    Config::parse(&Content { origin: "test".into(), text }, &|_| None).unwrap()
}

/// The configuration for this collector.
pub(crate) fn to(collector: &Collector, yaml: &str) -> Config {
    config(&format!("endpoint: '{}', {yaml}", collector.address))
}

pub(crate) fn metrics() -> TraceMetrics {
    let counter = |name: &str| IntCounter::new(name, name).unwrap();
    TraceMetrics { exported: counter("exported"), dropped: counter("dropped"), failed: counter("failed") }
}

pub(crate) fn exporter(config: &Config) -> Box<HttpExporter> {
    Box::new(HttpExporter::new(&config.collector).unwrap())
}

/// A tracer at work.
pub(crate) struct Stage {
    pub(crate) tracer: Tracer,
    pub(crate) metrics: TraceMetrics,
    stopper: Stopper,
    thread: JoinHandle<Result<()>>,
}

impl Stage {
    pub(crate) fn start(config: &Config) -> Self {
        let metrics = metrics();
        let (tracer, export) = tracer(config, exporter(config), metrics.clone());
        Stage::run(tracer, export, metrics)
    }

    pub(crate) fn run(tracer: Tracer, export: Export, metrics: TraceMetrics) -> Self {
        let (stopper, stop) = stop_pair().unwrap();
        let thread = spawn_thread("trace", None, move || export.run(&stop)).unwrap();
        Stage { tracer, metrics, stopper, thread }
    }

    /// Ends it as the daemon does, and says how long that took.
    pub(crate) fn stop(self) -> Duration {
        let begun = Instant::now();
        self.stopper.stop();
        self.thread.join().unwrap().unwrap();
        begun.elapsed()
    }

    /// Counters: exported, dropped, failed.
    pub(crate) fn counted(&self) -> [u64; 3] {
        counted(&self.metrics)
    }

    /// Waits until the counters are these.
    pub(crate) fn wait_counted(&self, expected: [u64; 3]) {
        let deadline = Instant::now() + PATIENCE;
        while self.counted() != expected {
            assert!(Instant::now() < deadline, "{:?}, not {expected:?}", self.counted());
            pause();
        }
    }
}

pub(crate) fn counted(metrics: &TraceMetrics) -> [u64; 3] {
    [metrics.exported.get(), metrics.dropped.get(), metrics.failed.get()]
}

/// Between two looks at something that nobody announces.
pub(crate) fn pause() {
    let (_stopper, stop) = stop_pair().unwrap();
    stop.wait(Duration::from_millis(2));
}

pub(crate) fn incoming(headers: &[(&str, &str)]) -> Incoming {
    extract(headers.iter().map(|(name, value)| (*name, value.as_bytes())))
}

/// Begins and ends so many calls that nobody is the parent of.
pub(crate) fn calls(tracer: &Tracer, n: usize) {
    for _ in 0..n {
        drop(tracer.serve(&incoming(&[]), || "/thanos.Store/Series".into()));
    }
}
