//! What every call has in common: its metrics, its status, the net under its panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use grpcio::{RpcStatus, RpcStatusCode};

use crate::grpc::bridge::Bridge;
use crate::grpc::record::{Doing, OpenRecord, Record};
use crate::grpc::trace::CallSpan;
use crate::metrics::{GRPC_CODES, GrpcMetrics};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::threads::panic_text;
use pillion_http::client::before_waits;

/// Type, service and method, as the metrics name them.
pub(crate) type Name = (&'static str, &'static str, &'static str);

/// A call that began. Its end is recorded once, as `Canceled` when it is dropped without one.
pub(crate) struct Call {
    metrics: GrpcMetrics,
    name: Name,
    begun: Instant,
    record: Option<OpenRecord>,
    span: Option<CallSpan>,
}

impl Call {
    /// Counts the start of a call and its request.
    pub(crate) fn begin(metrics: &GrpcMetrics, record: OpenRecord) -> Self {
        let name = record.record.name;
        let labels = [name.0, name.1, name.2];
        metrics.started.with_label_values(&labels).inc();
        metrics.msg_received.with_label_values(&labels).inc();
        Call { metrics: metrics.clone(), name, begun: Instant::now(), record: Some(record), span: None }
    }

    /// The same with the span that stands for it.
    pub(crate) fn traced(mut self, span: Option<CallSpan>) -> Self {
        self.span = span;
        self
    }

    /// The span that stands for it, if calls are traced.
    pub(crate) fn span(&self) -> Option<&CallSpan> {
        self.span.as_ref()
    }

    /// The call as others see it.
    pub(crate) fn seen(&self) -> Option<&Arc<Record>> {
        self.record.as_ref().map(|open| &open.record)
    }

    /// Counts the end, and logs it if it is to be logged.
    pub(crate) fn end(mut self, code: RpcStatusCode, error: &str, n_sent: u64) {
        self.count(code, error, n_sent);
    }

    fn count(&mut self, status: RpcStatusCode, error: &str, n_sent: u64) {
        let Some(record) = self.record.take() else { return };
        let labels = [self.name.0, self.name.1, self.name.2];
        let number = usize::try_from(i32::from(status)).unwrap_or(usize::MAX);
        let code = GRPC_CODES.get(number).unwrap_or(&"Unknown");
        let took = self.begun.elapsed();
        self.metrics.msg_sent.with_label_values(&labels).inc_by(n_sent);
        self.metrics.handled.with_label_values(&[labels[0], labels[1], labels[2], code]).inc();
        self.metrics.observe(labels, took, record.record.origin.trace_id.as_deref());
        record.end(number, error, took);
        if let Some(span) = self.span.take() {
            span.end(status, error);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.count(RpcStatusCode::CANCELLED, "", 0);
    }
}

/// Runs a call's work and ends the call with what came of it; a panic becomes INTERNAL and harms nothing else.
pub(crate) fn run(
    call: Call,
    bridge: &Bridge,
    deadline_exceeded: impl Fn() -> bool,
    work: impl FnOnce(&Bridge) -> Result<()>,
) {
    let metrics = call.metrics.clone();
    if let Some(record) = call.seen() {
        record.now(Doing::Working);
    }
    let method = call.name.2;
    let flushed = bridge.clone();
    let work = || before_waits(Box::new(move || flushed.flush()), || work(bridge));
    let outcome = catch_unwind(AssertUnwindSafe(|| if bridge.is_gone() { Ok(()) } else { work() }));
    let status = match outcome {
        _ if bridge.is_gone() && deadline_exceeded() => {
            RpcStatus::with_message(RpcStatusCode::DEADLINE_EXCEEDED, "deadline exceeded".into())
        }
        _ if bridge.is_gone() => RpcStatus::with_message(RpcStatusCode::CANCELLED, "the client went away".into()),
        Ok(Ok(())) => RpcStatus::ok(),
        Ok(Err(err)) => {
            log::debug!(method = method, err = err.to_string(); "call failed");
            status(&err)
        }
        Err(panic) => {
            let text = panic_text(&*panic);
            metrics.panics_recovered.inc();
            log::error!(method = method, panic = text; "recovered from panic");
            RpcStatus::with_message(RpcStatusCode::INTERNAL, format!("internal error: {text}"))
        }
    };
    call.end(status.code(), status.message(), bridge.n_sent());
    bridge.finish(status);
    bridge.wait_until_taken();
}

/// The status that says what an error was.
pub(crate) fn status(err: &Error) -> RpcStatus {
    let code = match err.kind() {
        Kind::BadRequest => RpcStatusCode::INVALID_ARGUMENT,
        Kind::Limit => RpcStatusCode::RESOURCE_EXHAUSTED,
        Kind::NotFound => RpcStatusCode::NOT_FOUND,
        Kind::Retry => RpcStatusCode::UNAVAILABLE,
        Kind::Stopped => RpcStatusCode::CANCELLED,
        Kind::Permanent | Kind::Corrupt => RpcStatusCode::INTERNAL,
    };
    RpcStatus::with_message(code, err.to_string())
}
