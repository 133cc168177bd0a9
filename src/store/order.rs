//! Puts the series of a stream in the StoreAPI's order while it flows. Pure.
//!
//! Prometheus sorts by its local labels. Setting constant external labels on top keeps that order, except between a series
//! and its own extensions: `{a="1"}` comes before `{a="1",b="2"}`, but once `region` is set on both it belongs behind.
//! The extensions of a series follow it directly, so what may have to wait is never more than the series whose labels
//! begin those of the one at hand: a stack, at most as deep as a series has labels. This does not hold for series that
//! carry an external label's name themselves or lose a label; those are kept out of this stream by the caller.

use std::cmp::Ordering;

use crate::error::{Error, Kind, Result};
use crate::store::transcode::{Entry, Relation, Rules};

/// The series that wait for their extensions.
pub struct Order {
    stack: Vec<Entry>,
    /// Where in `stack` the frames of each waiting series begin: a series can span several frames.
    groups: Vec<usize>,
    held_bytes: usize,
    /// What left last, for the guard.
    last: Option<Entry>,
    free: Vec<Entry>,
    bytes_max: usize,
    reuse_bytes_max: usize,
}

impl Order {
    /// Holds at most `bytes_max`; buffers larger than `reuse_bytes_max` are not kept for the next series.
    pub fn new(bytes_max: usize, reuse_bytes_max: usize) -> Self {
        Order {
            stack: Vec::new(),
            groups: Vec::new(),
            held_bytes: 0,
            last: None,
            free: Vec::new(),
            bytes_max,
            reuse_bytes_max,
        }
    }

    /// An entry to fill, with memory from one that is done with.
    pub fn fresh(&mut self) -> Entry {
        self.free.pop().unwrap_or_default()
    }

    /// Takes back an entry that is not wanted after all.
    pub fn recycle(&mut self, mut entry: Entry) {
        entry.shrink(self.reuse_bytes_max);
        self.free.push(entry);
    }

    /// Bytes that wait.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes the next series of the stream and emits those that no longer have to wait.
    ///
    /// `Errors:` those of `emit`; `Limit` when more waits than may be held; `Retry` when the stream is not sorted.
    pub fn push(&mut self, entry: Entry, rules: &Rules, mut emit: impl FnMut(&Entry) -> Result<()>) -> Result<()> {
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
        self.leave(entry, rules, &mut emit)
    }

    /// The stream has ended: emits what waits.
    pub fn finish(&mut self, rules: &Rules, mut emit: impl FnMut(&Entry) -> Result<()>) -> Result<()> {
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
    fn pop(&mut self, rules: &Rules, emit: &mut impl FnMut(&Entry) -> Result<()>) -> Result<()> {
        let start = self.groups.pop().unwrap_or_default();
        // One frame is the rule; taking it out needs no further memory.
        if start + 1 == self.stack.len()
            && let Some(entry) = self.stack.pop()
        {
            self.held_bytes -= entry.held_bytes();
            return self.leave(entry, rules, emit);
        }
        for entry in self.stack.split_off(start) {
            self.held_bytes -= entry.held_bytes();
            self.leave(entry, rules, emit)?;
        }
        Ok(())
    }

    /// Emits one entry, past the guard: what would step backwards is an error, never silently wrong.
    fn leave(&mut self, entry: Entry, rules: &Rules, emit: &mut impl FnMut(&Entry) -> Result<()>) -> Result<()> {
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

/// The error of the guard.
pub fn out_of_order() -> Error {
    Error::new(
        Kind::Retry,
        "series came from Prometheus in an order that cannot be streamed, as when a label with an external label's name \
         has just appeared; ask again",
    )
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
