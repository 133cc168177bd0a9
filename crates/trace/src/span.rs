//! A span: begun, told this and that, and handed to the queue when it ends. One that is not sampled holds its ids only.

use std::borrow::Cow;

use crate::ids::{SpanId, TraceContext};
use crate::limits;
use crate::tracer::Tracer;

/// What a span is to its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Work of this process.
    Internal,
    /// A call that this process answers.
    Server,
    /// A call that this process makes.
    Client,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text; cut where it is very long.
    Text(String),
    /// A number.
    Number(u64),
    /// True or false.
    Bool(bool),
}

/// What is sent of a span.
pub(crate) struct SpanData {
    pub(crate) context: TraceContext,
    pub(crate) parent: Option<SpanId>,
    pub(crate) is_parent_remote: bool,
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: Kind,
    /// `Units:` ns since 1970.
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    /// Why what it stands for has failed.
    pub(crate) error: Option<String>,
}

/// A span that has begun. It ends when it is dropped.
pub struct Span {
    context: TraceContext,
    recorded: Option<Recorded>,
}

struct Recorded {
    data: Box<SpanData>,
    tracer: Tracer,
}

impl Span {
    /// `name` is made for a span that is recorded only.
    pub(crate) fn begin(
        tracer: &Tracer,
        context: TraceContext,
        parent: Option<(SpanId, bool)>,
        kind: Kind,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Span {
        let recorded = context.is_sampled.then(|| {
            let start_ns = context.clock.ns();
            let data = Box::new(SpanData {
                context: context.clone(),
                parent: parent.map(|(id, _)| id),
                is_parent_remote: parent.is_some_and(|(_, is_remote)| is_remote),
                name: name(),
                kind,
                start_ns,
                end_ns: start_ns,
                attributes: Vec::new(),
                error: None,
            });
            Recorded { data, tracer: tracer.clone() }
        });
        Span { context, recorded }
    }

    /// Who it is.
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Adds an attribute, which is made for a span that is recorded only.
    pub fn note(&mut self, key: &'static str, value: impl FnOnce() -> Value) {
        if let Some(recorded) = &mut self.recorded
            && recorded.data.attributes.len() < limits::ATTRIBUTES_MAX
        {
            let value = match value() {
                Value::Text(text) => Value::Text(cut(text)),
                other => other,
            };
            recorded.data.attributes.push((key, value));
        }
    }

    /// Says that what it stands for has failed.
    pub fn fail(&mut self, why: &str) {
        if let Some(recorded) = &mut self.recorded {
            recorded.data.error = Some(cut(why.to_owned()));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(Recorded { mut data, tracer }) = self.recorded.take() {
            data.end_ns = data.context.clock.ns();
            tracer.submit(data);
        }
    }
}

/// The text, or the beginning of one that is too long.
fn cut(mut text: String) -> String {
    if text.len() > limits::TEXT_BYTES_MAX {
        let end = (0..=limits::TEXT_BYTES_MAX - 3).rev().find(|idx| text.is_char_boundary(*idx)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("x".repeat(1024)), "x".repeat(1024));
        assert_eq!(cut("x".repeat(1025)), format!("{}...", "x".repeat(1021)));
        assert_eq!(cut("é".repeat(1000)), format!("{}...", "é".repeat(510)));
    }
}
