//! The way of spans to the collector: batches from a bounded queue, sent on one thread, again where that may help. A
//! collector that does not answer costs nothing but the spans.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use crate::config::{Config, Retry};
use crate::ids::random_fraction;
use crate::limits;
use crate::metrics::TraceMetrics;
use crate::otlp;
use crate::span::SpanData;
use pillion_base::error::Result;
use pillion_base::stop::Stop;

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the collector or the network says; never a header's value.
    pub text: String,
    /// Whether the same request may be taken later.
    pub may_pass: bool,
    /// Time that the collector wants to be left alone.
    pub wait: Option<Duration>,
}

/// Speaks to a collector.
pub trait Exporter: Send {
    /// Sends an `ExportTraceServiceRequest` and returns the answer's bytes. `Blocks:` up to `timeout`, and not past the
    /// stop, if there is one.
    fn send(&mut self, request: &[u8], timeout: Duration, stop: Option<&Stop>) -> Result<Vec<u8>, Refusal>;
}

/// A collector with all that is said to it.
pub(crate) struct Link {
    exporter: Box<dyn Exporter>,
    name: String,
    resource: Vec<u8>,
    retry: Retry,
    timeout: Duration,
}

impl Link {
    pub(crate) fn new(config: &Config, exporter: Box<dyn Exporter>) -> Self {
        let collector = &config.collector;
        let (name, timeout) = (collector.endpoint.clone(), collector.timeout);
        Link { exporter, name, resource: otlp::resource(&config.resource), retry: config.retry, timeout }
    }
}

/// The end of the queue.
pub struct Export {
    spans: Receiver<Box<SpanData>>,
    links: Receiver<Link>,
    link: Link,
    metrics: TraceMetrics,
    /// Since the collector takes nothing: spans that were lost.
    n_lost: Option<u64>,
}

impl Export {
    pub(crate) fn new(
        spans: Receiver<Box<SpanData>>,
        links: Receiver<Link>,
        link: Link,
        metrics: TraceMetrics,
    ) -> Self {
        Export { spans, links, link, metrics, n_lost: None }
    }

    /// Sends what comes until the stop, and then, for a short time, what is left. `Blocks:` until then.
    pub fn run(mut self, stop: &Stop) -> Result<()> {
        let mut batch = Vec::new();
        while !self.gather(&mut batch, stop) && !self.deliver(&mut batch, stop) {}
        self.flush(batch);
        Ok(())
    }

    /// Waits for a span and then for others; true when the stop has begun.
    fn gather(&mut self, batch: &mut Vec<SpanData>, stop: &Stop) -> bool {
        let mut until: Option<Instant> = None;
        while batch.len() < limits::BATCH_SPANS_MAX {
            let left = until.map_or(limits::BATCH_TIME, |until| until.saturating_duration_since(Instant::now()));
            select! {
                recv(self.spans) -> span => match span {
                    Ok(span) => batch.push(*span),
                    // Nobody is left who could begin one.
                    Err(_) => {
                        stop.wait_forever();
                        return true;
                    }
                },
                recv(self.links) -> link => self.take(link.ok()),
                recv(stop.channel()) -> _ => return true,
                default(left) => if !batch.is_empty() {
                    break;
                }
            }
            if !batch.is_empty() {
                until = until.or_else(|| Some(Instant::now() + limits::BATCH_TIME));
            }
        }
        false
    }

    /// Goes on with another collector.
    fn take(&mut self, link: Option<Link>) {
        if let Some(link) = link {
            self.link = link;
        }
    }

    /// Sends a batch until it is taken or given up, and empties it then; true when the stop has begun before.
    fn deliver(&mut self, batch: &mut Vec<SpanData>, stop: &Stop) -> bool {
        let begun = Instant::now();
        let mut pause = self.link.retry.initial;
        loop {
            let request = otlp::request(&self.link.resource, batch);
            let refusal = match self.link.exporter.send(&request, self.link.timeout, Some(stop)) {
                Ok(reply) => {
                    self.taken(batch.len(), &reply);
                    batch.clear();
                    return false;
                }
                Err(_) if stop.is_stopped() => return true,
                Err(refusal) => refusal,
            };
            let retry = self.link.retry;
            // Of many processes not all come back in the same moment.
            let wait = pause.mul_f64(0.5 + random_fraction()).max(refusal.wait.unwrap_or_default());
            if !refusal.may_pass || !retry.is_enabled || begun.elapsed() + wait > retry.elapsed_max {
                self.lost(batch.len(), &refusal.text);
                batch.clear();
                return false;
            }
            self.lost(0, &refusal.text);
            pause = pause.mul_f64(1.5).min(retry.max);
            select! {
                recv(stop.channel()) -> _ => return true,
                recv(self.links) -> link => self.take(link.ok()),
                default(wait) => {}
            }
        }
    }

    /// The last spans, once.
    fn flush(&mut self, mut batch: Vec<SpanData>) {
        let until = Instant::now() + limits::LAST_FLUSH_TIME;
        self.take(self.links.try_recv().ok());
        loop {
            batch.extend(
                self.spans.try_iter().map(|span| *span).take(limits::BATCH_SPANS_MAX.saturating_sub(batch.len())),
            );
            if batch.is_empty() {
                return;
            }
            let request = otlp::request(&self.link.resource, &batch);
            let left = until.saturating_duration_since(Instant::now());
            let sent = match left.is_zero() {
                true => Err("there was no time left at the stop".to_owned()),
                false => {
                    let sent = self.link.exporter.send(&request, self.link.timeout.min(left), None);
                    sent.map_err(|refusal| refusal.text)
                }
            };
            match sent {
                Ok(reply) => self.taken(batch.len(), &reply),
                Err(text) => {
                    self.lost(batch.len() + self.spans.len(), &text);
                    return;
                }
            }
            batch.clear();
        }
    }

    fn taken(&mut self, n_spans: usize, reply: &[u8]) {
        let n_spans = n_spans as u64;
        let (n_refused, text) = otlp::rejected(reply).unwrap_or_default();
        let n_refused = n_refused.min(n_spans);
        self.metrics.exported.inc_by(n_spans - n_refused);
        if n_refused > 0 {
            return self.lost(usize::try_from(n_refused).unwrap_or(usize::MAX), &format!("it refused spans: {text}"));
        }
        if let Some(n_lost) = self.n_lost.take() {
            log::info!(collector = self.link.name, lost = n_lost; "the collector takes spans again");
        }
    }

    fn lost(&mut self, n_spans: usize, why: &str) {
        let n_spans = n_spans as u64;
        self.metrics.failed.inc_by(n_spans);
        // Once until it is well again: a collector that is down must not fill the log.
        match &mut self.n_lost {
            Some(n_lost) => *n_lost += n_spans,
            None => {
                log::warn!(collector = self.link.name, err = why; "the collector does not take spans; nothing else suffers");
                self.n_lost = Some(n_spans);
            }
        }
    }
}
