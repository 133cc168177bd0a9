//! A line of a case file, cut into words, strings and selectors. Pure.

use std::iter::Peekable;
use std::str::Chars;

use super::case::Pattern;

/// A line as words, quoted strings and selectors.
pub struct Words<'a> {
    chars: Peekable<Chars<'a>>,
}

impl<'a> Words<'a> {
    pub fn new(line: &'a str) -> Self {
        Words { chars: line.chars().peekable() }
    }

    pub fn peek(&mut self) -> Option<char> {
        while self.chars.next_if(|c| c.is_whitespace()).is_some() {}
        self.chars.peek().copied()
    }

    /// A bare word, or a quoted one; nothing at the end of the line.
    pub fn maybe_word(&mut self) -> Result<Option<String>, String> {
        match self.peek() {
            None => Ok(None),
            Some('"') => self.string().map(Some),
            Some(_) => {
                let mut word = String::new();
                while let Some(c) = self.chars.next_if(|c| !c.is_whitespace()) {
                    word.push(c);
                }
                Ok(Some(word))
            }
        }
    }

    pub fn word(&mut self) -> Result<String, String> {
        self.maybe_word()?.ok_or_else(|| "the line is too short".into())
    }

    pub fn rest(&mut self) -> Result<Vec<String>, String> {
        let mut words = Vec::new();
        while let Some(word) = self.maybe_word()? {
            words.push(word);
        }
        Ok(words)
    }

    /// A string in double quotes, in which a backslash takes the next character as it is.
    pub fn string(&mut self) -> Result<String, String> {
        if self.peek() != Some('"') {
            return Err("a quoted string is missing".into());
        }
        self.chars.next();
        let mut text = String::new();
        loop {
            match self.chars.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.extend(self.chars.next()),
                Some(c) => text.push(c),
                None => return Err("a string has no end".into()),
            }
        }
    }

    pub fn pattern(&mut self) -> Result<Pattern, String> {
        let contained = self.peek() == Some('~');
        if contained {
            self.chars.next();
        }
        Ok(Pattern { text: self.string()?, contained })
    }

    /// From `{` to the `}` outside quotes.
    pub fn braces(&mut self) -> Result<String, String> {
        if self.peek() != Some('{') {
            return Err("a { is missing".into());
        }
        let (mut text, mut quoted) = (String::new(), false);
        while let Some(c) = self.chars.next() {
            text.push(c);
            match c {
                '\\' if quoted => text.extend(self.chars.next()),
                '"' => quoted = !quoted,
                '}' if !quoted => return Ok(text),
                _ => {}
            }
        }
        Err("a } is missing".into())
    }

    pub fn end(&mut self) -> Result<(), String> {
        match self.maybe_word()? {
            None => Ok(()),
            Some(word) => Err(format!("{word} is too much")),
        }
    }
}
