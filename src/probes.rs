//! Health and readiness: set by the parts, shown by `/-/healthy`, `/-/ready`, gRPC health and `thanos_status`.

use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics::StatusMetrics;

type Listener = Box<dyn Fn(bool) + Send>;

/// Health and readiness, as `/-/healthy`, `/-/ready`, gRPC health and `thanos_status` show them.
#[derive(Clone)]
pub struct Probes(Arc<ProbesInner>);

struct ProbesInner {
    state: Mutex<ProbeState>,
    listeners: Mutex<Vec<Listener>>,
    /// Why it is not ready, as it was said last.
    reason: Mutex<String>,
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
        let reason = Mutex::new("starting".to_owned());
        Probes(Arc::new(ProbesInner { state, listeners: Mutex::new(Vec::new()), reason, metrics }))
    }

    /// Whether the process is alive and serving HTTP.
    pub fn is_healthy(&self) -> bool {
        self.lock().healthy
    }

    /// Whether Prometheus answered the last heartbeat.
    pub fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// Why it is not ready; `None` while it is.
    pub(crate) fn reason(&self) -> Option<String> {
        let is_ready = self.is_ready();
        (!is_ready).then(|| self.0.reason.lock().unwrap_or_else(PoisonError::into_inner).clone())
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
            if !state.serving && !state.stopping {
                self.explain("Prometheus has answered, and gRPC does not listen yet");
            }
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
        self.explain(reason);
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

    fn explain(&self, reason: &str) {
        reason.clone_into(&mut self.0.reason.lock().unwrap_or_else(PoisonError::into_inner));
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
        assert_eq!(probes.reason(), None);
        probes.not_ready("gone");
        assert_eq!(probes.reason().as_deref(), Some("gone"));
        probes.stopping("stop");
        probes.ready();
        assert_eq!(told.load(Ordering::SeqCst), 2);
        assert!(!probes.is_ready());
    }
}
