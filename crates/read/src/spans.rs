//! What a call says of its parts to whoever records them: when each began and ended, what it did, and whether it failed.
//! Without anybody who records, nothing is made. Knows no trace.

use pillion_base::error::{Error, Result};

/// Records the parts of one call.
pub trait Spans {
    /// A part begins. `is_request`: it is a request to Prometheus.
    fn begin(&self, name: &'static str, is_request: bool) -> Box<dyn OpenSpan>;
}

/// A part that has begun. It ends when it is dropped.
pub trait OpenSpan {
    /// The headers by which Prometheus learns whom a request belongs to, names and values.
    fn headers(&self) -> Vec<(String, String)>;
    /// Something about it. `text` makes the text, if anybody wants it.
    fn text(&mut self, key: &'static str, text: &dyn Fn() -> String);
    /// How many of something.
    fn number(&mut self, key: &'static str, number: u64);
    /// Why it has failed.
    fn fail(&mut self, why: &str);
}

/// A part, which may be nobody's business.
#[derive(Default)]
pub(crate) struct Timed(Option<Box<dyn OpenSpan>>);

impl Timed {
    /// Work of this process.
    pub(crate) fn work(spans: Option<&dyn Spans>, name: &'static str) -> Self {
        Timed(spans.map(|spans| spans.begin(name, false)))
    }

    /// A request to Prometheus.
    pub(crate) fn request(spans: Option<&dyn Spans>, name: &'static str) -> Self {
        Timed(spans.map(|spans| spans.begin(name, true)))
    }

    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        self.0.as_ref().map_or_else(Vec::new, |span| span.headers())
    }

    pub(crate) fn text(&mut self, key: &'static str, text: impl Fn() -> String) {
        if let Some(span) = &mut self.0 {
            span.text(key, &text);
        }
    }

    pub(crate) fn number(&mut self, key: &'static str, number: u64) {
        if let Some(span) = &mut self.0 {
            span.number(key, number);
        }
    }

    pub(crate) fn fail(&mut self, err: &Error) {
        if let Some(span) = &mut self.0 {
            span.fail(&err.to_string());
        }
    }

    /// Ends it with what came of it.
    pub(crate) fn end<T>(mut self, outcome: Result<T>) -> Result<T> {
        if let Err(err) = &outcome {
            self.fail(err);
        }
        outcome
    }
}

/// The name of a request to an endpoint of Prometheus. `Source:` Thanos.
pub(crate) fn request_name(path: &str) -> &'static str {
    match path.strip_prefix("/api/v1/").unwrap_or_default() {
        "series" => "/prom_series HTTP[client]",
        "labels" => "/prom_label_names HTTP[client]",
        "rules" => "/prom_rules HTTP[client]",
        "targets" => "/prom_targets HTTP[client]",
        "metadata" => "/prom_metric_metadata HTTP[client]",
        "query_exemplars" => "/prom_exemplars HTTP[client]",
        "status/tsdb" => "/prom_status_tsdb HTTP[client]",
        label if label.starts_with("label/") => "/prom_label_values HTTP[client]",
        _ => "/prom HTTP[client]",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_requests() {
        let check = |path: &str, expected: &str| assert_eq!(request_name(path), format!("/{expected} HTTP[client]"));
        check("/api/v1/label/job/values", "prom_label_values");
        check("/api/v1/labels", "prom_label_names");
        check("/api/v1/status/tsdb", "prom_status_tsdb");
        check("/elsewhere", "prom");
    }
}
