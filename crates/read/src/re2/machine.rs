//! Trees become states, and a set of states walks over a text, so that no pattern makes it go back. Pure.

use super::Effort;
use super::tree::{Item, Look, NodeId, Op, Tree};
use super::unicode::{cases, lowest_case};
use crate::limits::PATTERN_STATES_MAX;

#[derive(Clone, Copy)]
enum Test {
    Char(u32),
    AnyCase(u32),
    Any,
    AnyButNewline,
    Class(u32),
    Look(Look),
    /// Goes on here too.
    Split(u32),
    End,
}

#[derive(Clone, Copy)]
struct State {
    test: Test,
    next: u32,
}

/// Whether the pattern matches the whole of the text.
pub(super) fn is_match(tree: &(Tree, NodeId), text: &str, effort: &mut Effort) -> Result<bool, String> {
    let text: Vec<u32> = text.chars().map(u32::from).collect();
    let mut program = Program { tree: &tree.0, states: Vec::new(), copies_max: text.len() + 1, effort };
    let end = program.state(Test::End, 0)?;
    let start = program.compile(tree.1, end)?;
    program.run(start, &text)
}

struct Program<'a> {
    tree: &'a Tree,
    states: Vec<State>,
    /// More copies of something change nothing: beyond one for each character, one of them matches the empty text, and may
    /// as well do so once more or not at all.
    copies_max: usize,
    effort: &'a mut Effort,
}

fn index(state: u32) -> usize {
    usize::try_from(state).expect("an index of 32 bits")
}

impl Program<'_> {
    fn state(&mut self, test: Test, next: u32) -> Result<u32, String> {
        if self.states.len() == PATTERN_STATES_MAX {
            return Err("the pattern is too large".into());
        }
        self.states.push(State { test, next });
        Ok(u32::try_from(self.states.len() - 1).expect("states are bounded"))
    }

    /// The state at which a node begins that goes on to `next`. Recurses as deep as the tree is, which is bounded.
    fn compile(&mut self, node: NodeId, next: u32) -> Result<u32, String> {
        self.effort.spend(1)?;
        let tree = self.tree;
        let test = match tree.op(node) {
            Op::Empty => return Ok(next),
            Op::Capture(sub) => return self.compile(sub, next),
            Op::Concat(first, len) => {
                return tree.list(first, len).iter().rev().try_fold(next, |next, sub| self.compile(*sub, next));
            }
            Op::Alternate(first, len) => {
                let (last, others) = tree.list(first, len).split_last().expect("an alternation has members");
                let last = self.compile(*last, next)?;
                return others.iter().try_fold(last, |rest, sub| {
                    let entry = self.compile(*sub, next)?;
                    self.state(Test::Split(entry), rest)
                });
            }
            Op::Repeat(sub, min, max) => {
                let min = usize::from(min).min(self.copies_max);
                return match max {
                    None => self.repeat_forever(sub, min, next),
                    Some(max) => self.repeat(sub, min, usize::from(max).min(self.copies_max), next),
                };
            }
            Op::Char(c) => Test::Char(c),
            Op::AnyCase(c) => Test::AnyCase(c),
            Op::Any => Test::Any,
            Op::AnyButNewline => Test::AnyButNewline,
            Op::Class(class) => Test::Class(class),
            Op::Look(look) => Test::Look(look),
        };
        self.state(test, next)
    }

    fn repeat_forever(&mut self, sub: NodeId, min: usize, next: u32) -> Result<u32, String> {
        let fork = self.state(Test::Split(0), next)?;
        let again = self.compile(sub, fork)?;
        self.states[index(fork)].test = Test::Split(again);
        let entry = if min == 0 { fork } else { again };
        (1..min).try_fold(entry, |entry, _| self.compile(sub, entry))
    }

    fn repeat(&mut self, sub: NodeId, min: usize, max: usize, next: u32) -> Result<u32, String> {
        let optional = (min..max).try_fold(next, |entry, _| {
            let once = self.compile(sub, entry)?;
            self.state(Test::Split(once), next)
        })?;
        (0..min).try_fold(optional, |entry, _| self.compile(sub, entry))
    }

    fn run(&mut self, start: u32, text: &[u32]) -> Result<bool, String> {
        let n_states = self.states.len();
        let mut walk = Walk { reached: Vec::new(), marks: vec![0; n_states], round: 0, pending: Vec::new() };
        walk.round = 1;
        self.reach(&mut walk, start, text, 0)?;
        for (at, c) in text.iter().enumerate() {
            let before = std::mem::take(&mut walk.reached);
            if before.is_empty() {
                return Ok(false);
            }
            walk.round += 1;
            let lowest = lowest_case(*c);
            for state in before {
                let State { test, next } = self.states[index(state)];
                let is_taken = match test {
                    Test::Char(wanted) => wanted == *c,
                    Test::AnyCase(wanted) => wanted == lowest,
                    Test::Any => true,
                    Test::AnyButNewline => *c != u32::from('\n'),
                    Test::Class(class) => self.class_has(class, *c)?,
                    Test::Look(_) | Test::Split(_) | Test::End => false,
                };
                if is_taken {
                    self.reach(&mut walk, next, text, at + 1)?;
                }
            }
        }
        Ok(walk.reached.iter().any(|state| matches!(self.states[index(*state)].test, Test::End)))
    }

    /// Adds a state and whatever follows it without a character.
    fn reach(&mut self, walk: &mut Walk, state: u32, text: &[u32], at: usize) -> Result<(), String> {
        walk.pending.push(state);
        while let Some(state) = walk.pending.pop() {
            if std::mem::replace(&mut walk.marks[index(state)], walk.round) == walk.round {
                continue;
            }
            self.effort.spend(1)?;
            let State { test, next } = self.states[index(state)];
            match test {
                Test::Split(other) => walk.pending.extend([next, other]),
                Test::Look(look) if holds(look, text, at) => walk.pending.push(next),
                Test::Look(_) => {}
                _ => walk.reached.push(state),
            }
        }
        Ok(())
    }

    fn class_has(&mut self, class: u32, c: u32) -> Result<bool, String> {
        let class = self.tree.classes[index(class)];
        let items = self.tree.class_items(class);
        self.effort.spend(items.len())?;
        let with_cases = |has: &dyn Fn(u32) -> bool| if class.ignores_case { cases(c).any(has) } else { has(c) };
        let is_in = items.iter().any(|item| match *item {
            Item::Range(first, last) => with_cases(&|c| (first..=last).contains(&c)),
            Item::Set(set, is_negated) => with_cases(&|c| set.has(c)) != is_negated,
        });
        Ok(is_in != class.is_negated)
    }
}

/// The states that are reached at one place of the text.
struct Walk {
    reached: Vec<u32>,
    /// In which round a state was last reached.
    marks: Vec<u32>,
    round: u32,
    pending: Vec<u32>,
}

fn holds(look: Look, text: &[u32], at: usize) -> bool {
    let (before, after) = (at.checked_sub(1).map(|idx| text[idx]), text.get(at).copied());
    let is_newline = |c: Option<u32>| c.is_none_or(|c| c == u32::from('\n'));
    let is_word = |c: Option<u32>| c.and_then(char::from_u32).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    match look {
        Look::TextStart => before.is_none(),
        Look::TextEnd => after.is_none(),
        Look::LineStart => is_newline(before),
        Look::LineEnd => is_newline(after),
        Look::WordEdge => is_word(before) != is_word(after),
        Look::NoWordEdge => is_word(before) == is_word(after),
    }
}
