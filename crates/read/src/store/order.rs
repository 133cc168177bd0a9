//! Puts the series of a stream in the StoreAPI's order while it flows.
//!
//! Prometheus sorts by its local labels. Setting constant external labels on top keeps that order, except between a series
//! and its own extensions: `{a="1"}` comes before `{a="1",b="2"}`, but once `region` is set on both it belongs behind.
//! The extensions of a series follow it directly. So the series that may have to wait are those whose labels are a prefix
//! of the current one's: a stack, at most as deep as a series has labels. This does not hold for series that carry an
//! external label's name themselves or lose a label; the caller keeps those out of this stream.
//!
//! A series has any number of frames, and waits with all of them. What waits is in memory up to a budget; past it all of
//! it is put aside, and of each series only the labels stay. The file is a stack, too.

use std::cmp::Ordering;
use std::ops::Range;

use crate::store::label_walk::Relation;
use crate::store::spill::Spill;
use crate::store::transcode::{Entry, LabelRules};
use pillion_base::error::{Error, Kind, Result};

/// How many finished entries are kept with large buffers.
const LARGE_KEPT_MAX: usize = 4;
/// A buffer of more than this is large, in bytes.
const LARGE_BYTES: usize = 64 * 1024;

/// What may be held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Frames in memory; more are put aside.
    pub memory_max: usize,
    /// Frames put aside.
    pub spill_max: u64,
    /// Buffers larger than this are not kept for the next series.
    pub reuse_max: usize,
}

/// The series that wait for their extensions.
pub(super) struct ReorderBuffer {
    stack: Vec<Waiting>,
    /// Bytes of frames in memory.
    held_bytes: usize,
    spill: Option<Spill>,
    /// The entry that was emitted last, for the guard against steps backwards, and how many were.
    last: Option<Entry>,
    n_emitted: u64,
    n_parsed: u64,
    stepped_back: bool,
    free: Vec<Entry>,
    bounds: Bounds,
}

/// A series that waits.
struct Waiting {
    /// Its first frame, or its labels when the frames are put aside.
    first: Entry,
    /// Frames behind the first.
    more: Vec<Entry>,
    /// Where its first frames lie.
    aside: Option<(u64, u64)>,
    /// It was seen to come behind what was emitted last when this many had been.
    follows: Option<u64>,
}

impl ReorderBuffer {
    pub(super) fn new(bounds: Bounds) -> Self {
        ReorderBuffer {
            stack: Vec::new(),
            held_bytes: 0,
            spill: None,
            last: None,
            n_emitted: 0,
            n_parsed: 0,
            stepped_back: false,
            free: Vec::new(),
            bounds,
        }
    }

    /// An entry to fill, with the memory of a finished one.
    pub(super) fn fresh(&mut self) -> Entry {
        self.free.pop().unwrap_or_default()
    }

    /// Takes back an entry that is not needed.
    pub(super) fn recycle(&mut self, mut entry: Entry) {
        let kept_max = if self.free.len() < LARGE_KEPT_MAX { self.bounds.reuse_max } else { LARGE_BYTES };
        entry.shrink(kept_max);
        self.free.push(entry);
    }

    /// Bytes of memory that wait.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes + self.spill.as_ref().map_or(0, Spill::held_bytes)
    }

    /// Whether the last error was a step backwards.
    pub(super) fn stepped_back(&self) -> bool {
        self.stepped_back
    }

    /// Parses the next series of the stream, which lies at `range` of the entry; false when it is not in the shard.
    ///
    /// `Errors:` those of [`Entry::parse`].
    pub(super) fn parse(&mut self, entry: &mut Entry, range: Range<usize>, rules: &LabelRules) -> Result<bool> {
        self.n_parsed += 1;
        // The one that was pushed last waits on top, or left.
        let before = match self.stack.last() {
            Some(top) => Some(&top.first),
            None => self.last.as_ref(),
        };
        entry.parse_after(range, rules, self.n_parsed, before)
    }

    /// Takes the next series of the stream and emits those that no longer have to wait.
    ///
    /// `Errors:` those of `emit` and of the temporary folder; `Limit` when more would be put aside than may be; `Retry`
    /// when the stream is not sorted.
    pub(super) fn push(
        &mut self,
        entry: Entry,
        rules: &LabelRules,
        mut emit: impl FnMut(&Entry) -> Result<()>,
    ) -> Result<()> {
        let mut follows = None;
        while let Some(top) = self.stack.last_mut() {
            match top.first.relate(&entry, rules) {
                Relation::Same => {
                    self.held_bytes += entry.held_bytes();
                    top.more.push(entry);
                    return self.keep_within_memory(rules);
                }
                Relation::Extended(Ordering::Greater) => break,
                // The one that waits would leave before this one.
                Relation::Other(Ordering::Greater) => return Err(self.step_back()),
                Relation::Extended(_) | Relation::Other(_) => {
                    self.pop(rules, &mut emit)?;
                    follows = Some(self.n_emitted);
                }
            }
        }
        if !entry.can_move() {
            return self.emit_in_order(entry, follows, rules, &mut emit);
        }
        self.held_bytes += entry.held_bytes();
        self.stack.push(Waiting { first: entry, more: Vec::new(), aside: None, follows });
        self.keep_within_memory(rules)
    }

    /// The stream has ended: emits what waits.
    pub(super) fn finish(&mut self, rules: &LabelRules, mut emit: impl FnMut(&Entry) -> Result<()>) -> Result<()> {
        while !self.stack.is_empty() {
            self.pop(rules, &mut emit)?;
        }
        Ok(())
    }

    /// Puts all frames aside when they take too much memory. From the bottom up, so that what leaves first lies last.
    fn keep_within_memory(&mut self, rules: &LabelRules) -> Result<()> {
        if self.held_bytes <= self.bounds.memory_max {
            return Ok(());
        }
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(Spill::new(self.bounds.spill_max)),
        };
        let mut finished = Vec::new();
        self.held_bytes = 0;
        for waiting in &mut self.stack {
            if waiting.aside.is_none() {
                let labels = waiting.first.without_chunks(rules)?;
                let first = std::mem::replace(&mut waiting.first, labels);
                waiting.aside = Some((spill.len(), spill.len()));
                waiting.more.insert(0, first);
            }
            for entry in waiting.more.drain(..) {
                let series = entry.source();
                // A frame is far below 4 GiB.
                spill.append(&u32::try_from(series.len()).unwrap_or(u32::MAX).to_le_bytes())?;
                spill.append(series)?;
                waiting.aside = waiting.aside.map(|(start, _)| (start, spill.len()));
                finished.push(entry);
            }
            self.held_bytes += waiting.first.held_bytes();
        }
        finished.into_iter().for_each(|entry| self.recycle(entry));
        Ok(())
    }

    /// Emits the frames of the series on top.
    fn pop(&mut self, rules: &LabelRules, emit: &mut impl FnMut(&Entry) -> Result<()>) -> Result<()> {
        let Some(waiting) = self.stack.pop() else { return Ok(()) };
        self.held_bytes -= waiting.first.held_bytes();
        let mut follows = waiting.follows;
        match waiting.aside {
            None => self.emit_in_order(waiting.first, follows, rules, emit)?,
            Some(place) => {
                self.emit_from_aside(place, follows, rules, emit)?;
                self.recycle(waiting.first);
            }
        }
        for entry in waiting.more {
            self.held_bytes -= entry.held_bytes();
            // Frames of one series have the same labels.
            follows = Some(self.n_emitted);
            self.emit_in_order(entry, follows, rules, emit)?;
        }
        Ok(())
    }

    /// Emits the frames between two places of the spill, one in memory at a time, and gives their room back.
    fn emit_from_aside(
        &mut self,
        (start, end): (u64, u64),
        mut follows: Option<u64>,
        rules: &LabelRules,
        emit: &mut impl FnMut(&Entry) -> Result<()>,
    ) -> Result<()> {
        let Some(mut spill) = self.spill.take() else { return Ok(()) };
        spill.flush()?;
        let mut at = start;
        while at < end {
            let mut len = [0; 4];
            spill.read(at, &mut len)?;
            let len = u32::from_le_bytes(len);
            let mut entry = self.fresh();
            entry.buffer().resize(len as usize, 0);
            spill.read(at + 4, entry.buffer())?;
            at += 4 + u64::from(len);
            entry.parse(0..len as usize, rules)?;
            self.emit_in_order(entry, follows, rules, emit)?;
            follows = Some(self.n_emitted);
        }
        spill.truncate(start);
        self.spill = Some(spill);
        Ok(())
    }

    /// Emits one entry, compared with the one before unless `follows` says that this was done since. A step backwards is an
    /// error, so that a wrong order never goes unnoticed.
    fn emit_in_order(
        &mut self,
        entry: Entry,
        follows: Option<u64>,
        rules: &LabelRules,
        emit: &mut impl FnMut(&Entry) -> Result<()>,
    ) -> Result<()> {
        if follows != Some(self.n_emitted)
            && let Some(last) = &self.last
            && last.relate(&entry, rules).order() == Ordering::Greater
        {
            return Err(self.step_back());
        }
        emit(&entry)?;
        self.n_emitted += 1;
        if let Some(last) = self.last.replace(entry) {
            self.recycle(last);
        }
        Ok(())
    }

    fn step_back(&mut self) -> Error {
        self.stepped_back = true;
        out_of_order()
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
