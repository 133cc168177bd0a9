//! Strict YAML on the event parser of yaml-rust2: a tree of nodes that know their lines. Errors name line and field,
//! and never a value, which may be a secret. Knows anchors, aliases and `<<`; the growth by aliases and the depth are
//! capped. Pure.

mod reader;

pub use reader::parse;

use crate::error::{Error, Kind, Result};

/// A node with the line it begins on.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    /// Counted from 1.
    line: usize,
    value: Value,
}

#[derive(Clone, PartialEq, Eq)]
enum Value {
    Null,
    /// `plain` when it stood without quotes, so that it may be read as a boolean or a number.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<(String, Node)>),
}

/// An error on a line.
fn at(line: usize, text: impl std::fmt::Display) -> Error {
    Error::new(Kind::Permanent, format!("line {line}: {text}"))
}

/// A field's name for an error. Text that does not look like a name may be a secret, where a colon is missing.
fn shown(name: &str) -> &str {
    let is_name = !name.is_empty()
        && name.len() <= 40
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.".contains(&c))
        && name.bytes().filter(u8::is_ascii_uppercase).count() <= 1;
    if is_name { name } else { "(not shown)" }
}

impl Node {
    /// An error about this node: `line N: text`. The text must not hold a value.
    pub fn error(&self, text: impl std::fmt::Display) -> Error {
        at(self.line, text)
    }

    /// Whether it is empty, `~` or `null`: a field that keeps its default.
    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    /// The text of a scalar, quoted or not: a plain `1` or `true` is given as it was written.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// A boolean in any of the words of YAML 1.1.
    fn as_bool(&self) -> Option<bool> {
        let Value::Scalar { text, plain: true } = &self.value else { return None };
        match text.as_str() {
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        }
    }

    /// A whole number as YAML 1.1 and Go read it: `67_108_864`, `0x4000000`, `0o17`, `0b1`; a zero in front means octal.
    fn as_i64(&self) -> Option<i64> {
        let Value::Scalar { text, plain: true } = &self.value else { return None };
        let (is_negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let digits = digits.replace('_', "").to_ascii_lowercase();
        let of = |prefix: &str, radix: u32| digits.strip_prefix(prefix).map(|rest| (rest, radix));
        let octal = || of("0", 8).filter(|(rest, _)| !rest.is_empty());
        let (digits, radix) =
            of("0x", 16).or_else(|| of("0o", 8)).or_else(|| of("0b", 2)).or_else(octal).unwrap_or((&digits, 10));
        // The parser of the standard library takes a sign once more.
        if digits.starts_with(['+', '-']) {
            return None;
        }
        let value = i64::from_str_radix(digits, radix).ok()?;
        Some(if is_negative { -value } else { value })
    }

    /// The members of a sequence.
    pub fn as_sequence(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Sequence(nodes) => Some(nodes),
            _ => None,
        }
    }

    /// Names and values of a mapping, in the order written.
    pub fn as_mapping(&self) -> Option<&[(String, Node)]> {
        match &self.value {
            Value::Mapping(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// The value of `name`, if this is a mapping that has it. A null is given as a node too.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.as_mapping()?.iter().find(|(key, _)| key == name).map(|(_, node)| node)
    }

    /// Checks that this is a mapping or null, and that it has none but the `known` names; `what` is named in the error.
    pub fn check_fields(&self, what: &str, known: &[&str]) -> Result<()> {
        if self.is_null() {
            return Ok(());
        }
        let pairs = self.as_mapping().ok_or_else(|| self.error(format!("{what} must be a mapping")))?;
        match pairs.iter().find(|(key, _)| !known.contains(&key.as_str())) {
            Some((key, node)) => Err(node.error(format!("field {} not found in {what}", shown(key)))),
            None => Ok(()),
        }
    }

    /// The text of the field `name`; `None` when it is absent or null.
    pub fn str_field(&self, name: &str) -> Result<Option<&str>> {
        match self.get(name).filter(|node| !node.is_null()) {
            None => Ok(None),
            Some(node) => node.as_str().map(Some).ok_or_else(|| node.error(format!("field {name} must be a text"))),
        }
    }

    /// The boolean of the field `name`; `None` when it is absent or null.
    pub fn bool_field(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name).filter(|node| !node.is_null()) {
            None => Ok(None),
            Some(node) => {
                node.as_bool().map(Some).ok_or_else(|| node.error(format!("field {name} must be true or false")))
            }
        }
    }

    /// The whole number of the field `name`, which must not be below zero; `None` when it is absent or null.
    pub fn u64_field(&self, name: &str) -> Result<Option<u64>> {
        match self.get(name).filter(|node| !node.is_null()) {
            None => Ok(None),
            Some(node) => match node.as_i64().map(u64::try_from) {
                Some(Ok(number)) => Ok(Some(number)),
                Some(Err(_)) => Err(node.error(format!("field {name} must not be below zero"))),
                None => Err(node.error(format!("field {name} must be a whole number"))),
            },
        }
    }

    /// This node and all below it.
    fn count(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Scalar { .. } => 0,
            Value::Sequence(nodes) => nodes.iter().map(Node::count).sum(),
            Value::Mapping(pairs) => pairs.iter().map(|(_, node)| node.count()).sum(),
        }
    }

    fn depth(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Scalar { .. } => 0,
            Value::Sequence(nodes) => nodes.iter().map(Node::depth).max().unwrap_or(0),
            Value::Mapping(pairs) => pairs.iter().map(|(_, node)| node.depth()).max().unwrap_or(0),
        }
    }
}

/// The structure and the lines, without any value.
impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.value {
            Value::Null => write!(f, "{}:null", self.line),
            Value::Scalar { .. } => write!(f, "{}:scalar", self.line),
            Value::Sequence(nodes) => f.debug_list().entries(nodes).finish(),
            Value::Mapping(pairs) => f.debug_map().entries(pairs.iter().map(|(key, node)| (shown(key), node))).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree as text, lines left out: `{a: 'x', b: [~, 'y'?]}`; plain scalars are followed by a question mark.
    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null => "~".into(),
            Value::Scalar { text, plain } => format!("'{text}'{}", if *plain { "?" } else { "" }),
            Value::Sequence(nodes) => format!("[{}]", nodes.iter().map(show).collect::<Vec<_>>().join(", ")),
            Value::Mapping(pairs) => {
                let pairs: Vec<String> = pairs.iter().map(|(key, node)| format!("{key}: {}", show(node))).collect();
                format!("{{{}}}", pairs.join(", "))
            }
        }
    }

    #[test]
    fn documents() {
        for (text, want) in [
            ("", "~"),
            ("# only a comment\n", "~"),
            ("---\n", "~"),
            ("a: 1\nb: 'true'\nc: yes", "{a: '1'?, b: 'true', c: 'yes'?}"),
            ("\u{feff}a: b", "{a: 'b'?}"),
            ("a:\nb: ~\nc: null\nd: 'null'\ne: \"\"", "{a: ~, b: ~, c: ~, d: 'null', e: ''}"),
            ("a: [1, {b: c}]\nd:\n- e\n- f: g", "{a: ['1'?, {b: 'c'?}], d: ['e'?, {f: 'g'?}]}"),
            ("a: |\n  x\n  y\nb: >-\n  x\n  y", "{a: 'x\ny\n', b: 'x y'}"),
            ("a: &x [1]\nb: *x", "{a: ['1'?], b: ['1'?]}"),
            ("a: &x {b: 1, c: 2}\nd:\n  c: 3\n  <<: *x", "{a: {b: '1'?, c: '2'?}, d: {c: '3'?, b: '1'?}}"),
            ("<<: [{a: 1}, {a: 2, b: 3}]\nc: 4", "{c: '4'?, a: '1'?, b: '3'?}"),
            ("'<<': 1", "{<<: '1'}".replace("'1'", "'1'?").as_str()),
            ("a: !!str 1\nb: !!str\nc: !!null x\nd: !!int '7'", "{a: '1', b: '', c: ~, d: '7'?}"),
            ("1: a\ntrue: b", "{1: 'a'?, true: 'b'?}"),
            ("ключ: значение", "{ключ: 'значение'?}"),
        ] {
            assert_eq!(show(&parse(text).unwrap_or_else(|err| panic!("{text}: {err}"))), want, "{text}");
        }
    }

    #[test]
    fn errors_name_line_and_field() {
        for (text, want) in [
            ("a: 1\nb: 2\na: 3", "line 3: field a already set"),
            ("a:\n  b: 1\n  b: 2", "line 3: field b already set"),
            ("{a: 1, a: 2}", "line 1: field a already set"),
            ("a: 1\n---\nb: 2", "line 2: only one document is supported"),
            ("a: *x", "line 1: while parsing node, found unknown anchor"),
            ("a: &x [*x]", "line 1: an alias cannot stand inside of its own anchor"),
            ("a: !secret x", "line 1: this tag is not supported"),
            ("a: !!binary x", "line 1: this tag is not supported"),
            ("a: !x [1]", "line 1: this tag is not supported"),
            ("<<: 1", "line 1: << takes a mapping"),
            ("<<: [1]", "line 1: << takes a mapping"),
            ("~: 1", "line 1: a field without a name"),
            ("? [a]\n: 1", "line 1: only text can be the name of a field"),
            ("a: 'x", "line "),
            ("a: b\n c: d: e", "line 2: "),
            ("a: b\n- c", "line 2: "),
            ("a: b\nsecret", "line 2: simple key expect"),
            ("a: b\n\0c: d", "line 2: NUL"),
            ("\0", "line 1: NUL"),
            ("a: b\0\nc: d", "line 1: NUL"),
            ("a: \"b\0\"", "line 1: NUL"),
            ("a: b # c\0", "line 1: NUL"),
            ("a: b\r\nsecret\r\n\r\n", "line 2: simple key expect"),
        ] {
            let err = parse(text).expect_err(text).to_string();
            assert!(err.starts_with(want), "{text}: {err}");
        }
    }

    #[test]
    fn an_alias_bomb_and_a_deep_nest_are_errors() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for level in 1..10 {
            let below = vec![format!("*a{}", level - 1); 9].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(parse(&bomb).unwrap_err().to_string().ends_with("aliases stand for more than 10000 nodes"));
        for deep in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
            let err = parse(&deep).unwrap_err().to_string();
            assert!(err.contains("nested deeper than 100 levels") || err.contains("recursion"), "{err}");
        }
        // Aliases cannot be stacked past the depth either.
        let mut stacked = format!("a0: &a0 {}{}\n", "[".repeat(60), "]".repeat(60));
        stacked.push_str(&format!("a1: {}*a0{}\n", "[".repeat(60), "]".repeat(60)));
        assert!(parse(&stacked).unwrap_err().to_string().contains("nested deeper"));
    }

    #[test]
    fn booleans_are_those_of_yaml_1_1_without_quotes() {
        let node = parse("[yes, On, TRUE, n, off, false, 'true', 1, ~]").unwrap();
        let got: Vec<Option<bool>> = node.as_sequence().unwrap().iter().map(Node::as_bool).collect();
        let (t, f) = (Some(true), Some(false));
        assert_eq!(got, [t, t, t, f, f, f, None, None, None]);
    }

    #[test]
    fn whole_numbers() {
        for (text, want) in [
            ("0", Some(0)),
            ("67108864", Some(64 << 20)),
            ("67_108_864", Some(64 << 20)),
            ("0x40_00000", Some(64 << 20)),
            ("0o17", Some(15)),
            ("017", Some(15)),
            ("0b101", Some(5)),
            ("+7", Some(7)),
            ("-7", Some(-7)),
            ("--7", None),
            ("0x-7", None),
            ("'7'", None),
            ("1.5", None),
            ("1e6", None),
            ("64MiB", None),
            ("9223372036854775808", None),
            ("0x", None),
            ("~", None),
        ] {
            assert_eq!(parse(text).unwrap().as_i64(), want, "{text}");
        }
        let node = parse("a: 5\nb: -1\nc: x\nd:").unwrap();
        assert_eq!(node.u64_field("a").unwrap(), Some(5));
        assert_eq!((node.u64_field("d").unwrap(), node.u64_field("e").unwrap()), (None, None));
        assert_eq!(node.u64_field("b").unwrap_err().to_string(), "line 2: field b must not be below zero");
        assert_eq!(node.u64_field("c").unwrap_err().to_string(), "line 3: field c must be a whole number");
    }

    #[test]
    fn fields() {
        let node = parse("text: 1\nflag: on\nempty:\nlist: [a]").unwrap();
        assert_eq!(node.str_field("text").unwrap(), Some("1"));
        assert_eq!(node.str_field("empty").unwrap(), None);
        assert_eq!(node.str_field("absent").unwrap(), None);
        assert_eq!(node.bool_field("flag").unwrap(), Some(true));
        assert_eq!(node.str_field("list").unwrap_err().to_string(), "line 4: field list must be a text");
        assert_eq!(node.bool_field("text").unwrap_err().to_string(), "line 1: field text must be true or false");
        assert_eq!(node.check_fields("config", &["text", "flag", "empty", "list"]).ok(), Some(()));
        let err = node.check_fields("config", &["text", "empty", "list"]).unwrap_err();
        assert_eq!(err.to_string(), "line 2: field flag not found in config");
        assert_eq!(
            parse("x").unwrap().check_fields("config", &[]).unwrap_err().to_string(),
            "line 1: config must be a mapping"
        );
    }

    #[test]
    fn no_value_is_ever_shown() {
        for text in [
            "secret_key:hunter2/+=: 1\nx: 1",
            "{AKIAIOSFODNN7EXAMPLE}",
            "a: {hunter2 x}",
            "hunter2/+=: 1\nhunter2/+=: 1",
        ] {
            let err = match parse(text) {
                Ok(node) => match node.check_fields("config", &["a"]) {
                    Ok(()) => node.str_field("a").expect_err(text),
                    Err(err) => err,
                },
                Err(err) => err,
            };
            assert!(!err.to_string().contains("hunter2") && !err.to_string().contains("AKIA"), "{err}");
        }
        assert!(!format!("{:?}", parse("a: hunter2").unwrap()).contains("hunter2"));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut state = seed;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % (below as u64)).unwrap()
        };
        let parts = [
            "a",
            "b: ",
            ": ",
            "- ",
            "\n",
            "  ",
            "[",
            "]",
            "{",
            "}",
            ",",
            "&x ",
            "*x",
            "!!str ",
            "!t ",
            "'",
            "\"",
            "|\n",
            ">-\n",
            "? ",
            "#",
            "---\n",
            "...\n",
            "%TAG ! x\n",
            "\t",
            "<<: ",
            "~",
            "\\",
            "\u{85}",
            "\u{feff}",
            "é",
            "\0",
            "@",
            "`",
        ];
        for round in 0..20_000 {
            let text: String = (0..random(24)).map(|_| parts[random(parts.len())]).collect();
            let outcome = std::panic::catch_unwind(|| parse(&text).is_ok());
            assert!(outcome.is_ok(), "seed {seed:#x}, round {round}: {text:?}");
        }
    }
}
