//! What is known of Prometheus, published as one value: one writer (the heartbeat), many readers. A reader takes one
//! `Arc` per piece of work, so that no call sees new labels with an old time range.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::labels::Labels;
use crate::metrics::StatusMetrics;

/// A snapshot of Prometheus, as of the last successful heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromState {
    /// The external labels; never empty after the start-up gate.
    pub external_labels: Labels,
    /// Oldest time that can be asked for: the later of `--min-time` and Prometheus's lowest timestamp. `Units:` ms.
    pub mint_ms: i64,
    /// Newest time that can be asked for. `Units:` ms.
    pub maxt_ms: i64,
    /// Prometheus's version, `0` when it does not say.
    pub version: String,
    /// How long Prometheus keeps blocks by their time; `None` where that is not known, or where it does not. `Units:` ms.
    pub retention_ms: Option<i64>,
}

impl PromState {
    /// What is known before the first heartbeat: nothing but `--min-time`.
    pub fn unknown(min_time_ms: i64) -> Self {
        PromState {
            external_labels: Labels::default(),
            mint_ms: min_time_ms,
            maxt_ms: i64::MAX,
            version: "0".into(),
            retention_ms: None,
        }
    }
}

/// A value that one thread replaces whole and many threads read.
#[derive(Debug)]
pub struct Published<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Published<T> {
    fn clone(&self) -> Self {
        Published(Arc::clone(&self.0))
    }
}

impl<T> Published<T> {
    /// Publishes the first value.
    pub fn new(value: T) -> Self {
        Published(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// The value as of now.
    pub fn read(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value.
    pub fn publish(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

type Listener = Box<dyn Fn(bool) + Send>;

/// Health and readiness, as `/-/healthy`, `/-/ready`, gRPC health and `thanos_status` show them.
#[derive(Clone)]
pub struct Probes(Arc<ProbesInner>);

struct ProbesInner {
    state: Mutex<ProbeState>,
    listeners: Mutex<Vec<Listener>>,
    metrics: StatusMetrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProbeState {
    healthy: bool,
    ready: bool,
    /// Whether gRPC listens: before that nothing can be ready.
    serving: bool,
    /// Set when the daemon stops; nothing becomes ready after that.
    stopping: bool,
}

impl Probes {
    /// Neither healthy nor ready.
    pub fn new(metrics: StatusMetrics) -> Self {
        let state = Mutex::new(ProbeState { healthy: false, ready: false, serving: false, stopping: false });
        Probes(Arc::new(ProbesInner { state, listeners: Mutex::new(Vec::new()), metrics }))
    }

    /// Whether the process is alive and serving HTTP.
    pub fn is_healthy(&self) -> bool {
        self.lock().healthy
    }

    /// Whether Prometheus answered the last heartbeat.
    pub fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// The HTTP server runs.
    pub fn healthy(&self) {
        self.lock().healthy = true;
        self.0.metrics.healthy.set(1);
        log::info!(status = "healthy"; "changing probe status");
    }

    /// gRPC listens, which it does only once Prometheus is known.
    pub fn serving(&self) {
        self.lock().serving = true;
        self.ready();
    }

    /// Prometheus answered. Nothing is ready while gRPC does not listen.
    pub fn ready(&self) {
        let changed = {
            let mut state = self.lock();
            let changed = !state.ready && state.serving && !state.stopping;
            state.ready |= changed;
            changed
        };
        if changed {
            self.0.metrics.ready.set(1);
            log::info!(status = "ready"; "changing probe status");
            self.tell(true);
        }
    }

    /// Prometheus cannot be reached, for this reason.
    pub fn not_ready(&self, reason: &str) {
        let changed = std::mem::replace(&mut self.lock().ready, false);
        if changed {
            self.0.metrics.ready.set(0);
            log::warn!(status = "not-ready", reason = reason; "changing probe status");
            self.tell(false);
        }
    }

    /// The daemon stops: not ready, for good.
    pub fn stopping(&self, reason: &str) {
        self.lock().stopping = true;
        self.not_ready(reason);
    }

    /// Calls `listener` with the readiness at every change, on the thread that changes it; it must not block.
    pub fn on_change(&self, listener: impl Fn(bool) + Send + 'static) {
        self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    fn tell(&self, ready: bool) {
        for listener in self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(ready);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ProbeState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_reader_keeps_its_snapshot() {
        let published = Published::new(PromState::unknown(5));
        let before = published.read();
        published.publish(PromState { mint_ms: 7, ..PromState::unknown(0) });
        assert_eq!((before.mint_ms, published.read().mint_ms), (5, 7));
    }

    #[test]
    fn readiness_is_told_on_change_only_and_ends_with_the_stop() {
        let probes = Probes::new(Metrics::new().status);
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        probes.on_change(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        probes.ready();
        assert!(!probes.is_ready(), "ready although gRPC does not listen");
        probes.serving();
        probes.ready();
        probes.not_ready("gone");
        probes.stopping("stop");
        probes.ready();
        assert_eq!(told.load(Ordering::SeqCst), 2);
        assert!(!probes.is_ready());
    }
}
