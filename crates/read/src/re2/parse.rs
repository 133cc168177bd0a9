//! Go's grammar of regular expressions, in its Perl form: a pattern is read from left to right, on a stack, so that no nesting
//! makes it recurse. Errors are in Go's words. Pure.

use super::tree::{Bound, Look, NodeId, Op, Tree, length};
use super::unicode::{lowest_case, next_case};

/// Largest number in `{…}`. `Source:` Go's `regexp/syntax`.
const REPEAT_MAX: u64 = 1000;

#[derive(Clone, Copy)]
pub(super) struct Flags {
    /// `i`
    pub(super) ignores_case: bool,
    /// `m`
    is_multi_line: bool,
    /// `s`
    dot_is_any: bool,
}

enum Entry {
    Node(NodeId),
    /// A parenthesis, with the flags to return to behind it.
    Open {
        captures: bool,
        flags: Flags,
    },
    /// What stands below it up to the parenthesis is an alternation.
    Bar,
}

pub(super) struct Parser<'p> {
    pub(super) pattern: &'p str,
    /// What is read next, in bytes from the start.
    pub(super) at: usize,
    pub(super) flags: Flags,
    pub(super) tree: Tree,
    stack: Vec<Entry>,
}

/// The tree of a pattern, and its root.
///
/// `Errors:` in Go's words.
pub(super) fn parse(pattern: &str) -> Result<(Tree, NodeId), String> {
    let flags = Flags { ignores_case: false, is_multi_line: false, dot_is_any: true };
    let mut parser = Parser { pattern, at: 0, flags, tree: Tree::default(), stack: Vec::new() };
    let root = parser.run()?;
    Ok((parser.tree, root))
}

/// An error in Go's words.
pub(super) fn bad(what: &str, where_: &str) -> String {
    format!("error parsing regexp: {what}: `{where_}`")
}

impl<'p> Parser<'p> {
    pub(super) fn rest(&self) -> &'p str {
        &self.pattern[self.at..]
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Steps over a text, if it comes next.
    pub(super) fn skip(&mut self, text: &str) -> bool {
        let is_next = self.rest().starts_with(text);
        if is_next {
            self.at += text.len();
        }
        is_next
    }

    /// What was read since `start`.
    pub(super) fn since(&self, start: usize) -> &'p str {
        &self.pattern[start..self.at]
    }

    fn bound(&self, bound: &Bound, start: usize) -> String {
        match bound {
            Bound::Depth => bad("expression nests too deeply", self.pattern),
            Bound::Size => bad("expression too large", self.pattern),
            Bound::Copies => bad("invalid repeat count", self.since(start)),
        }
    }

    fn run(&mut self) -> Result<NodeId, String> {
        // Where the operator before this place began, if one stood there: they do not stack.
        let mut last_operator = None;
        while let Some(c) = self.peek() {
            let start = self.at;
            let mut operator = None;
            match c {
                '(' if self.rest().starts_with("(?") => self.perl_group()?,
                '(' => {
                    self.at += 1;
                    self.stack.push(Entry::Open { captures: true, flags: self.flags });
                }
                '|' => {
                    self.at += 1;
                    let node = self.concat()?;
                    self.stack.extend([Entry::Node(node), Entry::Bar]);
                }
                ')' => {
                    self.at += 1;
                    self.close()?;
                }
                '^' | '$' | '.' => {
                    self.at += 1;
                    let op = match (c, self.flags.is_multi_line) {
                        ('^', false) => Op::Look(Look::TextStart),
                        ('^', true) => Op::Look(Look::LineStart),
                        ('$', false) => Op::Look(Look::TextEnd),
                        ('$', true) => Op::Look(Look::LineEnd),
                        _ if self.flags.dot_is_any => Op::Any,
                        _ => Op::AnyButNewline,
                    };
                    self.leaf(op);
                }
                '[' => {
                    let class = self.class()?;
                    self.leaf(class);
                }
                '*' | '+' | '?' | '{' => match self.operator()? {
                    None => {
                        self.at += 1;
                        self.literal(u32::from(c));
                    }
                    Some(range) => {
                        operator = Some(start);
                        self.repeat(c == '{', range, start, last_operator)?;
                    }
                },
                '\\' => self.escape()?,
                _ => {
                    self.at += c.len_utf8();
                    self.literal(u32::from(c));
                }
            }
            last_operator = operator;
        }
        let root = self.alternation()?;
        if !self.stack.is_empty() {
            return Err(bad("missing closing )", self.pattern));
        }
        // Prometheus puts anchors around what it has read, which may be one level too many.
        let anchors = [Look::TextStart, Look::TextEnd].map(|look| self.tree.leaf(Op::Look(look)));
        match self.tree.op(root) {
            Op::Concat(..) => Ok(root),
            _ => self.tree.concat(&[anchors[0], root, anchors[1]]).map_err(|err| self.bound(&err, 0)),
        }
    }

    fn leaf(&mut self, op: Op) {
        let node = self.tree.leaf(op);
        self.stack.push(Entry::Node(node));
    }

    fn literal(&mut self, c: u32) {
        let has_cases = self.flags.ignores_case && next_case(c) != c;
        self.leaf(if has_cases { Op::AnyCase(lowest_case(c)) } else { Op::Char(c) });
    }

    /// Takes what stands above the last bar or parenthesis.
    fn concat(&mut self) -> Result<NodeId, String> {
        let is_node = |entry: &Entry| matches!(entry, Entry::Node(_));
        let start = self.stack.iter().rposition(|entry| !is_node(entry)).map_or(0, |idx| idx + 1);
        let nodes: Vec<NodeId> = self.stack.drain(start..).filter_map(node).collect();
        self.tree.concat(&nodes).map_err(|err| self.bound(&err, 0))
    }

    /// Takes what stands above the last parenthesis.
    fn alternation(&mut self) -> Result<NodeId, String> {
        let last = self.concat()?;
        let is_open = |entry: &Entry| matches!(entry, Entry::Open { .. });
        let start = self.stack.iter().rposition(is_open).map_or(0, |idx| idx + 1);
        let mut nodes: Vec<NodeId> = self.stack.drain(start..).filter_map(node).collect();
        nodes.push(last);
        self.tree.alternate(&nodes).map_err(|err| self.bound(&err, 0))
    }

    fn close(&mut self) -> Result<(), String> {
        let mut group = self.alternation()?;
        let Some(Entry::Open { captures, flags }) = self.stack.pop() else {
            return Err(bad("unexpected )", self.pattern));
        };
        self.flags = flags;
        if captures {
            group = self.tree.capture(group).map_err(|err| self.bound(&err, 0))?;
        }
        self.stack.push(Entry::Node(group));
        Ok(())
    }

    /// Reads `*`, `+`, `?` or `{…}`; a brace that is no such operator is read as itself, by others.
    fn operator(&mut self) -> Result<Option<(u16, Option<u16>)>, String> {
        let start = self.at;
        let simple = match self.next() {
            Some('*') => Some((0, None)),
            Some('+') => Some((1, None)),
            Some('?') => Some((0, Some(1))),
            _ => None,
        };
        if simple.is_some() {
            return Ok(simple);
        }
        let Some((min, max)) = self.braces() else {
            self.at = start;
            return Ok(None);
        };
        match (min, max) {
            (min, Some(max)) if min <= max && max <= REPEAT_MAX => Ok(Some((small(min), Some(small(max))))),
            (min, None) if min <= REPEAT_MAX => Ok(Some((small(min), None))),
            _ => Err(bad("invalid repeat count", self.since(start))),
        }
    }

    /// `{min}`, `{min,}` or `{min,max}`, from behind the first brace.
    fn braces(&mut self) -> Option<(u64, Option<u64>)> {
        let min = self.number()?;
        let max = if !self.skip(",") {
            Some(min)
        } else if self.rest().starts_with('}') {
            None
        } else {
            Some(self.number()?)
        };
        self.skip("}").then_some((min, max))
    }

    /// A number without zeros in front; the largest there is stands for those that are larger.
    fn number(&mut self) -> Option<u64> {
        let rest = self.rest();
        let digits = &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()];
        if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
            return None;
        }
        self.at += digits.len();
        Some(digits.parse().unwrap_or(u64::MAX))
    }

    /// Repeats the last node, if operator and place are right.
    fn repeat(
        &mut self,
        is_counted: bool,
        (min, max): (u16, Option<u16>),
        start: usize,
        last_operator: Option<usize>,
    ) -> Result<(), String> {
        // Fewest first: which match is found makes no difference here.
        self.skip("?");
        if let Some(last) = last_operator {
            return Err(bad("invalid nested repetition operator", self.since(last)));
        }
        let Some(Entry::Node(sub)) = self.stack.last() else {
            return Err(bad("missing argument to repetition operator", self.since(start)));
        };
        let repeated = match is_counted {
            true => self.tree.repeat(*sub, min, max),
            false => self.tree.repeat_simple(*sub, min, max),
        };
        let node = repeated.map_err(|err| self.bound(&err, start))?;
        self.stack.pop();
        self.stack.push(Entry::Node(node));
        Ok(())
    }

    /// What begins with `(?`: a named group, or flags with or without a group.
    fn perl_group(&mut self) -> Result<(), String> {
        let start = self.at;
        let rest = self.rest();
        let name_at = match rest.as_bytes() {
            [_, _, b'P', b'<', _, ..] => Some(4),
            [_, _, b'<', _, ..] => Some(3),
            _ => None,
        };
        if let Some(name_at) = name_at {
            let end = rest.find('>').ok_or_else(|| bad("invalid named capture", rest))?;
            let name = rest.get(name_at..end).unwrap_or_default();
            self.at += end + 1;
            if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
                return Err(bad("invalid named capture", self.since(start)));
            }
            self.stack.push(Entry::Open { captures: true, flags: self.flags });
            return Ok(());
        }
        self.at += "(?".len();
        let mut flags = self.flags;
        let (mut is_set, mut saw_flag) = (true, false);
        loop {
            match self.next() {
                Some('i') => flags.ignores_case = is_set,
                Some('m') => flags.is_multi_line = is_set,
                Some('s') => flags.dot_is_any = is_set,
                // Which of several matches is found makes no difference here.
                Some('U') => {}
                Some('-') if is_set => {
                    (is_set, saw_flag) = (false, false);
                    continue;
                }
                Some(end @ (':' | ')')) if is_set || saw_flag => {
                    if end == ':' {
                        self.stack.push(Entry::Open { captures: false, flags: self.flags });
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => return Err(bad("invalid or unsupported Perl syntax", self.since(start))),
            }
            saw_flag = true;
        }
    }

    /// What begins with a backslash, outside of brackets.
    fn escape(&mut self) -> Result<(), String> {
        let start = self.at;
        let mut rest = self.rest().chars();
        let op = match rest.nth(1) {
            Some('A') => Op::Look(Look::TextStart),
            Some('z') => Op::Look(Look::TextEnd),
            Some('b') => Op::Look(Look::WordEdge),
            Some('B') => Op::Look(Look::NoWordEdge),
            Some('Q') => {
                self.at += 2;
                let quoted = self.rest().split_once("\\E").map_or(self.rest(), |(quoted, _)| quoted);
                self.at += quoted.len();
                self.skip("\\E");
                quoted.chars().for_each(|c| self.literal(u32::from(c)));
                return Ok(());
            }
            _ => {
                if let Some(item) = self.class_escape()? {
                    let class = self.class_of(length(self.tree.items.len()), false);
                    self.tree.items.push(item);
                    self.tree.classes[class.1].items.1 += 1;
                    self.leaf(class.0);
                    return Ok(());
                }
                self.at = start;
                let c = self.char_escape()?;
                self.literal(c);
                return Ok(());
            }
        };
        self.at += 2;
        self.leaf(op);
        Ok(())
    }
}

fn node(entry: Entry) -> Option<NodeId> {
    match entry {
        Entry::Node(node) => Some(node),
        Entry::Open { .. } | Entry::Bar => None,
    }
}

fn small(number: u64) -> u16 {
    u16::try_from(number).expect("at most 1000")
}
