//! Begins spans, decides which of them are recorded, and puts those that end into the queue. It never waits.

use std::borrow::Cow;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::config::Config;
use crate::export::{Export, Exporter, Link};
use crate::ids::{SpanId, TraceContext};
use crate::limits;
use crate::metrics::TraceMetrics;
use crate::propagate::{self, Incoming, Propagators};
use crate::sampler::Sampler;
use crate::span::{Kind, Span, SpanData, Value};
use pillion_base::state::Published;

/// Says that a span was recorded because the caller wanted it. `Source:` Thanos.
const FORCED: &str = "thanos.force_tracing";

/// What spans are begun with. Clones are the same one.
#[derive(Clone)]
pub struct Tracer(Arc<Inner>);

struct Inner {
    settings: Published<Settings>,
    queue: Sender<Box<SpanData>>,
    links: Sender<Link>,
    /// To take back a link that the thread has not seen before a newer one came.
    unseen: Receiver<Link>,
    metrics: TraceMetrics,
}

#[derive(Clone, Copy)]
struct Settings {
    sampler: Sampler,
    propagators: Propagators,
}

impl Settings {
    fn of(config: &Config) -> Self {
        Settings { sampler: config.sampler, propagators: config.propagators }
    }
}

/// A tracer, and the other end of its queue, which has to run.
pub fn tracer(config: &Config, exporter: Box<dyn Exporter>, metrics: TraceMetrics) -> (Tracer, Export) {
    let (queue, spans) = bounded(limits::QUEUE_SPANS_MAX);
    let (links, newer) = bounded(1);
    let export = Export::new(spans, newer.clone(), Link::new(config, exporter), metrics.clone());
    let settings = Published::new(Settings::of(config));
    (Tracer(Arc::new(Inner { settings, queue, links, unseen: newer, metrics })), export)
}

impl Tracer {
    /// Goes on with another configuration. Spans that have begun end as they were to; all that wait go to the new collector.
    pub fn set(&self, config: &Config, exporter: Box<dyn Exporter>) {
        self.0.settings.publish(Settings::of(config));
        let mut link = Link::new(config, exporter);
        // Ends at once: only the thread of the queue takes from it besides.
        while let Err(TrySendError::Full(newest)) = self.0.links.try_send(link) {
            drop(self.0.unseen.try_recv());
            link = newest;
        }
    }

    /// The span of a call that came in; `name` is made if it is recorded.
    pub fn serve(&self, incoming: &Incoming, name: impl FnOnce() -> String) -> Span {
        let mut context = incoming.continued();
        let decided = incoming.parent.as_ref().map(|parent| parent.is_sampled);
        let is_chosen = self.0.settings.read().sampler.samples(&context.trace_id, decided);
        context.is_sampled = is_chosen || incoming.is_forced;
        let parent = incoming.parent.as_ref().map(|parent| (parent.span_id, true));
        let mut span = Span::begin(self, context, parent, Kind::Server, || Cow::Owned(name()));
        if incoming.is_forced {
            span.note(FORCED, || Value::Text("true".into()));
        }
        span
    }

    /// A span below another one of this process, recorded if that one is.
    pub fn child(&self, parent: &TraceContext, kind: Kind, name: &'static str) -> Span {
        let context = TraceContext { span_id: SpanId::random(), ..parent.clone() };
        Span::begin(self, context, Some((parent.span_id, false)), kind, || Cow::Borrowed(name))
    }

    /// The headers by which a peer continues the trace below this span.
    pub fn headers(&self, context: &TraceContext) -> Vec<(String, String)> {
        propagate::inject(context, self.0.settings.read().propagators)
    }

    /// A span that has ended.
    pub(crate) fn submit(&self, span: Box<SpanData>) {
        if self.0.queue.try_send(span).is_err() {
            self.0.metrics.dropped.inc();
        }
    }
}
