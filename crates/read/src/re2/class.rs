//! Classes of characters in brackets and behind a backslash, and single characters behind one. Pure.

use super::parse::{Parser, bad};
use super::tree::{Class, Item, Op, length};
use super::unicode::{self, Set};

const WORD: &[(u32, u32)] = &[(0x30, 0x39), (0x41, 0x5a), (0x5f, 0x5f), (0x61, 0x7a)];
const DIGIT: &[(u32, u32)] = &[(0x30, 0x39)];

/// What `[:name:]` stands for.
fn posix(name: &str) -> Option<&'static [(u32, u32)]> {
    Some(match name {
        "alnum" => &[(0x30, 0x39), (0x41, 0x5a), (0x61, 0x7a)],
        "alpha" => &[(0x41, 0x5a), (0x61, 0x7a)],
        "ascii" => &[(0, 0x7f)],
        "blank" => &[(0x09, 0x09), (0x20, 0x20)],
        "cntrl" => &[(0, 0x1f), (0x7f, 0x7f)],
        "digit" => DIGIT,
        "graph" => &[(0x21, 0x7e)],
        "lower" => &[(0x61, 0x7a)],
        "print" => &[(0x20, 0x7e)],
        "punct" => &[(0x21, 0x2f), (0x3a, 0x40), (0x5b, 0x60), (0x7b, 0x7e)],
        "space" => &[(0x09, 0x0d), (0x20, 0x20)],
        "upper" => &[(0x41, 0x5a)],
        "word" => WORD,
        "xdigit" => &[(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)],
        _ => return None,
    })
}

impl Parser<'_> {
    /// What begins with a bracket.
    pub(super) fn class(&mut self) -> Result<Op, String> {
        let start = self.at;
        self.at += 1;
        let is_negated = self.skip("^");
        let (op, class) = self.class_of(length(self.tree.items.len()), is_negated);
        let mut is_first = true;
        // A bracket that comes first closes nothing.
        while self.peek() != Some(']') || is_first {
            is_first = false;
            let item = match self.named()? {
                Some(item) => item,
                None => match self.class_escape()? {
                    Some(item) => item,
                    None => self.range(start)?,
                },
            };
            self.tree.items.push(item);
        }
        self.at += 1;
        self.tree.classes[class].items.1 = length(self.tree.items.len());
        Ok(op)
    }

    /// A class whose items begin here, without items so far, and its index.
    pub(super) fn class_of(&mut self, first: u32, is_negated: bool) -> (Op, usize) {
        let ignores_case = self.flags.ignores_case;
        self.tree.classes.push(Class { items: (first, first), is_negated, ignores_case });
        let idx = self.tree.classes.len() - 1;
        (Op::Class(length(idx)), idx)
    }

    /// `[:name:]` or `[:^name:]`; without an end it is something else.
    fn named(&mut self) -> Result<Option<Item>, String> {
        let start = self.at;
        let Some((name, _)) = self.rest().strip_prefix("[:").and_then(|rest| rest.split_once(":]")) else {
            return Ok(None);
        };
        self.at += "[:".len() + name.len() + ":]".len();
        let plain = name.strip_prefix('^');
        let ranges =
            posix(plain.unwrap_or(name)).ok_or_else(|| bad("invalid character class range", self.since(start)))?;
        Ok(Some(Item::Set(Set::Ranges(ranges), plain.is_some())))
    }

    /// `\d`, `\pL` and their like; nothing is read if something else comes.
    pub(super) fn class_escape(&mut self) -> Result<Option<Item>, String> {
        let start = self.at;
        let Some(kind) = self.rest().strip_prefix('\\').and_then(|rest| rest.chars().next()) else { return Ok(None) };
        let set = match kind {
            'd' | 'D' => Set::Ranges(DIGIT),
            's' | 'S' => Set::Ranges(&[(0x09, 0x0a), (0x0c, 0x0d), (0x20, 0x20)]),
            'w' | 'W' => Set::Ranges(WORD),
            'p' | 'P' => {
                self.at += 2;
                return self.unicode(start, kind == 'P').map(Some);
            }
            _ => return Ok(None),
        };
        self.at += 2;
        Ok(Some(Item::Set(set, kind.is_ascii_uppercase())))
    }

    /// What follows `\p` or `\P`: a letter, or a name in braces.
    fn unicode(&mut self, start: usize, is_upper: bool) -> Result<Item, String> {
        let name = if self.skip("{") {
            let name = self.rest().split('}').next().unwrap_or_default();
            self.at += name.len();
            if !self.skip("}") {
                return Err(bad("invalid character class range", self.since(start)));
            }
            name
        } else {
            let from = self.at;
            self.next();
            self.since(from)
        };
        let plain = name.strip_prefix('^');
        let set = unicode::class(plain.unwrap_or(name))
            .ok_or_else(|| bad("invalid character class range", self.since(start)))?;
        Ok(Item::Set(set, is_upper != plain.is_some()))
    }

    /// A character, or two with a hyphen between them.
    fn range(&mut self, class_start: usize) -> Result<Item, String> {
        let start = self.at;
        let first = self.class_char(class_start)?;
        let mut last = first;
        // A hyphen before the end is itself.
        if self.rest().starts_with('-') && self.rest().len() > 1 && !self.rest().starts_with("-]") {
            self.at += 1;
            last = self.class_char(class_start)?;
            if last < first {
                return Err(bad("invalid character class range", self.since(start)));
            }
        }
        Ok(Item::Range(first, last))
    }

    fn class_char(&mut self, class_start: usize) -> Result<u32, String> {
        match self.peek() {
            None => Err(bad("missing closing ]", &self.pattern[class_start..])),
            Some('\\') => self.char_escape(),
            Some(_) => Ok(self.next().map_or(0, u32::from)),
        }
    }

    /// The character that an escape stands for. It may be a number that is no character, and matches nothing then.
    pub(super) fn char_escape(&mut self) -> Result<u32, String> {
        let start = self.at;
        self.at += 1;
        let Some(c) = self.next() else { return Err(bad("trailing backslash at end of expression", "")) };
        let found = match c {
            // One digit would be a reference to a group.
            '1'..='7' if !self.rest().starts_with(|c: char| ('0'..='7').contains(&c)) => None,
            '0'..='7' => {
                let mut value = u32::from(c) - u32::from('0');
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
                    self.at += 1;
                    value = value * 8 + digit;
                }
                Some(value)
            }
            'x' => self.hex(),
            'a' => Some(0x07),
            'f' => Some(0x0c),
            'n' => Some(0x0a),
            'r' => Some(0x0d),
            't' => Some(0x09),
            'v' => Some(0x0b),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(u32::from(c)),
            _ => None,
        };
        found.ok_or_else(|| bad("invalid escape sequence", self.since(start)))
    }

    /// What follows `\x`: two digits, or any number of them in braces.
    fn hex(&mut self) -> Option<u32> {
        let digit = |c: Option<char>| c.and_then(|c| c.to_digit(16));
        let first = self.next();
        if first != Some('{') {
            // The second is read even if the first is wrong, as Go's message shows both.
            let second = first.and_then(|_| self.next());
            return Some(digit(first)? * 16 + digit(second)?);
        }
        let mut value = None;
        loop {
            let c = self.next();
            if c == Some('}') {
                return value;
            }
            let larger = value.unwrap_or(0) * 16 + digit(c)?;
            if larger > 0x10_ffff {
                return None;
            }
            value = Some(larger);
        }
    }
}
