//! A call's span: begun with its metadata, told its status, and the parts below it that the crate `read` speaks of.

use grpcio::{Metadata, RpcStatusCode};

use crate::grpc::calls::Name;
use pillion_read::spans::{OpenSpan, Spans};
use pillion_trace::{Kind, Span, TraceContext, Tracer, Value, propagate};

/// The span of a call that came in.
pub(crate) struct CallSpan {
    tracer: Tracer,
    span: Span,
    has_ended: bool,
}

impl CallSpan {
    /// Begins with what the caller says of its trace.
    pub(crate) fn begin(tracer: &Tracer, metadata: &Metadata, name: Name) -> Self {
        let incoming = propagate::extract(metadata.iter());
        let mut span = tracer.serve(&incoming, || format!("/{}/{}", name.1, name.2));
        span.note("component", || Value::Text("gRPC".into()));
        CallSpan { tracer: tracer.clone(), span, has_ended: false }
    }

    /// Whose call it is: its trace's id, for whoever writes it down.
    pub(crate) fn context(&self) -> &TraceContext {
        self.span.context()
    }

    /// What records the parts of this call.
    pub(crate) fn parts(&self) -> CallParts {
        CallParts { tracer: self.tracer.clone(), context: self.context().clone() }
    }

    /// Ends it with what the caller is told.
    pub(crate) fn end(mut self, code: RpcStatusCode, text: &str) {
        self.has_ended = true;
        if code != RpcStatusCode::OK {
            self.span.fail(text);
        }
        self.span.note("rpc.grpc.status_code", || Value::Number(u64::try_from(i32::from(code)).unwrap_or_default()));
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        if !self.has_ended {
            self.span.fail("the call ended before its request came");
        }
    }
}

/// Records the parts of a call.
pub(crate) struct CallParts {
    tracer: Tracer,
    context: TraceContext,
}

impl Spans for CallParts {
    fn begin(&self, name: &'static str, is_request: bool) -> Box<dyn OpenSpan> {
        let kind = if is_request { Kind::Client } else { Kind::Internal };
        let span = self.tracer.child(&self.context, kind, name);
        Box::new(Part { tracer: self.tracer.clone(), span })
    }
}

struct Part {
    tracer: Tracer,
    span: Span,
}

impl OpenSpan for Part {
    fn headers(&self) -> Vec<(String, String)> {
        self.tracer.headers(self.span.context())
    }

    fn text(&mut self, key: &'static str, text: &dyn Fn() -> String) {
        self.span.note(key, || Value::Text(text()));
    }

    fn number(&mut self, key: &'static str, number: u64) {
        self.span.note(key, || Value::Number(number));
    }

    fn fail(&mut self, why: &str) {
        self.span.fail(why);
    }
}
