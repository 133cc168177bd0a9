//! A pattern as a tree, within the bounds that Go sets. Nodes and lists lie in vectors: nothing here recurses. Pure.

use super::unicode::Set;

/// Deepest tree. `Source:` Go's `regexp/syntax`.
const HEIGHT_MAX: u16 = 1000;
/// Largest program, with all repetitions written out. `Source:` Go's `regexp/syntax`.
const SIZE_MAX: u64 = (128 << 20) / 40;
/// How often repetitions within each other may copy something. `Source:` Go's `regexp/syntax`.
const COPIES_MAX: u32 = 1000;
/// Lists up to this length are taken into a list of the same kind around them; longer ones stay, so that no pattern makes
/// copies of copies.
const HOISTED_MAX: usize = 16;

pub(super) type NodeId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    TextStart,
    TextEnd,
    LineStart,
    LineEnd,
    WordEdge,
    NoWordEdge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Empty,
    Char(u32),
    /// A character or one that differs from it in case only; it is the lowest of them.
    AnyCase(u32),
    Any,
    AnyButNewline,
    /// Index into the classes.
    Class(u32),
    Look(Look),
    /// Parentheses that capture: no more than a level, as nobody asks what was captured.
    Capture(NodeId),
    /// First and length in the lists.
    Concat(u32, u32),
    Alternate(u32, u32),
    /// At least, and at most; without an end it is `None`.
    Repeat(NodeId, u16, Option<u16>),
}

/// One member of a class in brackets.
#[derive(Clone, Copy)]
pub(super) enum Item {
    Range(u32, u32),
    Set(Set, bool),
}

#[derive(Clone, Copy)]
pub(super) struct Class {
    /// First and end in the items.
    pub(super) items: (u32, u32),
    pub(super) is_negated: bool,
    pub(super) ignores_case: bool,
}

struct Node {
    op: Op,
    height: u16,
    copies: u32,
    size: u64,
}

/// Which bound of Go's a pattern breaks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Depth,
    Size,
    Copies,
}

#[derive(Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    lists: Vec<NodeId>,
    pub(super) items: Vec<Item>,
    pub(super) classes: Vec<Class>,
}

fn index(id: NodeId) -> usize {
    usize::try_from(id).expect("an index of 32 bits")
}

/// A length of something that lies in a vector; patterns are bounded far below 4 GiB.
pub(super) fn length(n: usize) -> u32 {
    u32::try_from(n).expect("patterns are bounded")
}

impl Tree {
    pub(super) fn op(&self, id: NodeId) -> Op {
        self.nodes[index(id)].op
    }

    pub(super) fn list(&self, first: u32, len: u32) -> &[NodeId] {
        &self.lists[index(first)..index(first + len)]
    }

    pub(super) fn class_items(&self, class: Class) -> &[Item] {
        &self.items[index(class.items.0)..index(class.items.1)]
    }

    fn add(&mut self, op: Op, height: u16, size: u64, copies: u32) -> Result<NodeId, Bound> {
        if height > HEIGHT_MAX {
            return Err(Bound::Depth);
        }
        if size > SIZE_MAX {
            return Err(Bound::Size);
        }
        self.nodes.push(Node { op, height, size: size.max(1), copies });
        Ok(length(self.nodes.len() - 1))
    }

    /// A node without others below it.
    pub(super) fn leaf(&mut self, op: Op) -> NodeId {
        self.add(op, 1, 1, 1).expect("a leaf breaks no bound")
    }

    pub(super) fn capture(&mut self, sub: NodeId) -> Result<NodeId, Bound> {
        let Node { height, size, copies, .. } = self.nodes[index(sub)];
        self.add(Op::Capture(sub), height + 1, size + 2, copies)
    }

    /// `+`, `*`, `?`, which Go counts apart from `{…}`: they are no copies.
    pub(super) fn repeat_simple(&mut self, sub: NodeId, min: u16, max: Option<u16>) -> Result<NodeId, Bound> {
        let Node { height, size, copies, .. } = self.nodes[index(sub)];
        let more = if min == 0 && max.is_none() { 2 } else { 1 };
        self.add(Op::Repeat(sub, min, max), height + 1, size + more, copies)
    }

    /// `{min,max}`.
    pub(super) fn repeat(&mut self, sub: NodeId, min: u16, max: Option<u16>) -> Result<NodeId, Bound> {
        let Node { height, size, copies, .. } = self.nodes[index(sub)];
        let size = match max {
            None if min == 0 => 2 + size,
            None => 1 + u64::from(min) * size,
            Some(max) => u64::from(max) * size + u64::from(max - min),
        };
        let copies = match max {
            Some(0) => 1,
            _ => copies * u32::from(max.unwrap_or(min).max(1)),
        };
        let id = self.add(Op::Repeat(sub, min, max), height + 1, size, copies)?;
        if (min >= 2 || max.is_some_and(|max| max >= 2)) && copies > COPIES_MAX {
            return Err(Bound::Copies);
        }
        Ok(id)
    }

    pub(super) fn concat(&mut self, subs: &[NodeId]) -> Result<NodeId, Bound> {
        match subs {
            [] => Ok(self.leaf(Op::Empty)),
            [one] => Ok(*one),
            _ => {
                let (first, len) = self.join(subs, |op| matches!(op, Op::Concat(..)));
                // Characters beside each other are one text, which is a level only beside other things.
                let kind = |id: &NodeId| match self.op(*id) {
                    Op::Char(_) => 1,
                    Op::AnyCase(_) => 2,
                    _ => 0,
                };
                let list = self.list(first, len);
                let is_text = kind(&list[0]) > 0 && list.iter().all(|id| kind(id) == kind(&list[0]));
                let height = if is_text { 1 } else { self.height_above(first, len) };
                let size = self.size_of(first, len);
                let copies = self.copies_of(first, len);
                self.add(Op::Concat(first, len), height, size, copies)
            }
        }
    }

    pub(super) fn alternate(&mut self, subs: &[NodeId]) -> Result<NodeId, Bound> {
        if let [one] = subs {
            return Ok(*one);
        }
        let (first, len) = self.join(subs, |op| matches!(op, Op::Alternate(..)));
        let (height, size) = (self.height_above(first, len), self.size_of(first, len) + u64::from(len) - 1);
        let copies = self.copies_of(first, len);
        self.add(Op::Alternate(first, len), height, size, copies)
    }

    /// A list of these nodes; short lists of the same kind among them are taken in.
    fn join(&mut self, subs: &[NodeId], is_same: impl Fn(Op) -> bool) -> (u32, u32) {
        let start = self.lists.len();
        for sub in subs {
            match self.op(*sub) {
                op @ (Op::Concat(first, len) | Op::Alternate(first, len))
                    if is_same(op) && index(len) <= HOISTED_MAX =>
                {
                    self.lists.extend_from_within(index(first)..index(first + len));
                }
                _ => self.lists.push(*sub),
            }
        }
        (length(start), length(self.lists.len() - start))
    }

    fn height_above(&self, first: u32, len: u32) -> u16 {
        1 + self.list(first, len).iter().map(|id| self.nodes[index(*id)].height).max().unwrap_or(0)
    }

    fn size_of(&self, first: u32, len: u32) -> u64 {
        self.list(first, len).iter().map(|id| self.nodes[index(*id)].size).sum()
    }

    fn copies_of(&self, first: u32, len: u32) -> u32 {
        self.list(first, len).iter().map(|id| self.nodes[index(*id)].copies).max().unwrap_or(1)
    }
}
