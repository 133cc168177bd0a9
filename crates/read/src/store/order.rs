//! Puts the series of a stream in the StoreAPI's order while it flows. Pure.
//!
//! Prometheus sorts by its local labels. Setting constant external labels on top keeps that order, except between a series
//! and its own extensions: `{a="1"}` comes before `{a="1",b="2"}`, but once `region` is set on both it belongs behind.
//! The extensions of a series follow it directly. So the series that may have to wait are those whose labels are a prefix
//! of the current one's: a stack, at most as deep as a series has labels. This does not hold for series that carry an
//! external label's name themselves or lose a label; the caller keeps those out of this stream.

use std::cmp::Ordering;

use crate::store::transcode::{Entry, LabelRules, Relation};
use pillion_base::error::{Error, Kind, Result};

/// The series that wait for their extensions.
pub(super) struct ReorderBuffer {
    stack: Vec<Entry>,
    /// Where in `stack` the frames of each waiting series begin: a series can span several frames.
    groups: Vec<usize>,
    held_bytes: usize,
    /// The entry that was emitted last, for the guard against steps backwards.
    last: Option<Entry>,
    free: Vec<Entry>,
    bytes_max: usize,
    reuse_bytes_max: usize,
}

impl ReorderBuffer {
    /// Holds at most `bytes_max`; buffers larger than `reuse_bytes_max` are not kept for the next series.
    pub(super) fn new(bytes_max: usize, reuse_bytes_max: usize) -> Self {
        ReorderBuffer {
            stack: Vec::new(),
            groups: Vec::new(),
            held_bytes: 0,
            last: None,
            free: Vec::new(),
            bytes_max,
            reuse_bytes_max,
        }
    }

    /// An entry to fill, with the memory of a finished one.
    pub(super) fn fresh(&mut self) -> Entry {
        self.free.pop().unwrap_or_default()
    }

    /// Takes back an entry that is not needed.
    pub(super) fn recycle(&mut self, mut entry: Entry) {
        entry.shrink(self.reuse_bytes_max);
        self.free.push(entry);
    }

    /// Bytes that wait.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes the next series of the stream and emits those that no longer have to wait.
    ///
    /// `Errors:` those of `emit`; `Limit` when more would wait than may be held; `Retry` when the stream is not sorted.
    pub(super) fn push(
        &mut self,
        entry: Entry,
        rules: &LabelRules,
        mut emit: impl FnMut(&Entry) -> Result<()>,
    ) -> Result<()> {
        while let Some(start) = self.groups.last() {
            let top = &self.stack[*start];
            match top.local_relation(&entry, rules) {
                Relation::Same => return self.hold(entry),
                Relation::Extended if top.compare(&entry, rules) == Ordering::Greater => break,
                Relation::Extended | Relation::Other => self.pop(rules, &mut emit)?,
            }
        }
        if entry.can_move() {
            self.groups.push(self.stack.len());
            return self.hold(entry);
        }
        self.emit_in_order(entry, rules, &mut emit)
    }

    /// The stream has ended: emits what waits.
    pub(super) fn finish(&mut self, rules: &LabelRules, mut emit: impl FnMut(&Entry) -> Result<()>) -> Result<()> {
        while !self.groups.is_empty() {
            self.pop(rules, &mut emit)?;
        }
        Ok(())
    }

    fn hold(&mut self, entry: Entry) -> Result<()> {
        self.held_bytes += entry.held_bytes();
        self.stack.push(entry);
        if self.held_bytes > self.bytes_max {
            return Err(Error::new(
                Kind::Limit,
                format!("one series is larger than {} bytes; ask for a shorter time", self.bytes_max),
            ));
        }
        Ok(())
    }

    /// Emits the frames of the series on top.
    fn pop(&mut self, rules: &LabelRules, emit: &mut impl FnMut(&Entry) -> Result<()>) -> Result<()> {
        let start = self.groups.pop().unwrap_or_default();
        // One frame is the rule; taking it out needs no further memory.
        if start + 1 == self.stack.len()
            && let Some(entry) = self.stack.pop()
        {
            self.held_bytes -= entry.held_bytes();
            return self.emit_in_order(entry, rules, emit);
        }
        for entry in self.stack.split_off(start) {
            self.held_bytes -= entry.held_bytes();
            self.emit_in_order(entry, rules, emit)?;
        }
        Ok(())
    }

    /// Emits one entry. A step backwards is an error, so that a wrong order never goes unnoticed.
    fn emit_in_order(
        &mut self,
        entry: Entry,
        rules: &LabelRules,
        emit: &mut impl FnMut(&Entry) -> Result<()>,
    ) -> Result<()> {
        if let Some(last) = &self.last
            && entry.compare(last, rules) == Ordering::Less
        {
            return Err(out_of_order());
        }
        emit(&entry)?;
        if let Some(last) = self.last.replace(entry) {
            self.recycle(last);
        }
        Ok(())
    }
}

/// The error of a step backwards.
pub(super) fn out_of_order() -> Error {
    Error::new(
        Kind::Retry,
        "series came from Prometheus in an order that cannot be streamed, as when a label with an external label's name \
         has just appeared; ask again",
    )
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
