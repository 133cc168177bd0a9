//! Strict YAML on the event parser of yaml-rust2: a tree of nodes that know their lines. Errors name line and field,
//! and never a value, which may be a secret. Knows anchors, aliases and `<<`; the growth by aliases and the depth are
//! capped. Pure.

use std::collections::HashMap;

use yaml_rust2::parser::{Event, Parser, Tag};
use yaml_rust2::scanner::TScalarStyle;

use crate::error::{Error, Kind, Result};

/// Deepest nesting that is read; the tree is walked and dropped by recursion.
const DEPTH_MAX: usize = 100;
/// Nodes that aliases may add: nine levels of nine aliases each would add half a billion.
const ALIASED_NODES_MAX: usize = 10_000;

/// A node with the line it begins on.
#[derive(Clone, PartialEq, Eq)]
pub struct Node {
    /// Counted from 1.
    pub line: usize,
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

/// Reads one document; an empty text is null.
pub fn parse(text: &str) -> Result<Node> {
    let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut builder = Builder::default();
    let mut n_documents = 0;
    loop {
        let (event, mark) = parser.next_token().map_err(|err| at(err.marker().line(), err.info()))?;
        let line = mark.line();
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart => {
                n_documents += 1;
                if n_documents > 1 {
                    return Err(at(line, "only one document is supported"));
                }
            }
            Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
            Event::Alias(id) => builder.alias(id, line)?,
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(text, style, tag.as_ref()).map_err(|err| at(line, err))?;
                builder.add(Node { line, value }, anchor)?;
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_ref(), "seq").map_err(|err| at(line, err))?;
                builder.open(Open { line, anchor, kind: OpenKind::Sequence(Vec::new()) })?;
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_ref(), "map").map_err(|err| at(line, err))?;
                builder.open(Open { line, anchor, kind: OpenKind::Mapping(Pairs::default()) })?;
            }
            Event::SequenceEnd | Event::MappingEnd => builder.close()?,
        }
    }
    Ok(builder.root.unwrap_or(Node { line: 1, value: Value::Null }))
}

/// An error on a line.
fn at(line: usize, text: impl std::fmt::Display) -> Error {
    Error::new(Kind::Permanent, format!("line {line}: {text}"))
}

/// A field's name for an error. Text that does not look like a name may be a secret with a colon missing before it.
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
    pub fn as_bool(&self) -> Option<bool> {
        let Value::Scalar { text, plain: true } = &self.value else { return None };
        match text.as_str() {
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        }
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

const CORE_TAGS: &str = "tag:yaml.org,2002:";

fn scalar(text: String, style: TScalarStyle, tag: Option<&Tag>) -> Result<Value, &'static str> {
    let plain = style == TScalarStyle::Plain;
    match tag {
        None if plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") => Ok(Value::Null),
        None => Ok(Value::Scalar { text, plain }),
        Some(tag) if tag.handle == CORE_TAGS => match tag.suffix.as_str() {
            "null" => Ok(Value::Null),
            "str" => Ok(Value::Scalar { text, plain: false }),
            "bool" | "int" | "float" => Ok(Value::Scalar { text, plain: true }),
            _ => Err("this tag is not supported"),
        },
        Some(_) => Err("this tag is not supported"),
    }
}

fn check_tag(tag: Option<&Tag>, allowed: &str) -> Result<(), &'static str> {
    match tag {
        Some(tag) if tag.handle != CORE_TAGS || tag.suffix != allowed => Err("this tag is not supported"),
        _ => Ok(()),
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    n_aliased: usize,
}

struct Open {
    line: usize,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    Sequence(Vec<Node>),
    Mapping(Pairs),
}

#[derive(Default)]
struct Pairs {
    pairs: Vec<(String, Node)>,
    /// Where each name is, so that a mapping of many thousand names is read in one pass.
    places: HashMap<String, usize>,
    /// What `<<` brings in; names that the mapping has itself win over it.
    merged: Vec<(String, Node)>,
    /// The key whose value comes next.
    key: Option<Key>,
}

enum Key {
    Name(String),
    Merge,
}

impl Builder {
    fn open(&mut self, open: Open) -> Result<()> {
        if self.open.len() >= DEPTH_MAX {
            return Err(at(open.line, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.kind {
            OpenKind::Sequence(nodes) => Value::Sequence(nodes),
            OpenKind::Mapping(pairs) => Value::Mapping(pairs.finish()),
        };
        self.add(Node { line: open.line, value }, open.anchor)
    }

    fn alias(&mut self, id: usize, line: usize) -> Result<()> {
        let mut node =
            self.anchors.get(&id).ok_or_else(|| at(line, "an alias cannot stand inside of its own anchor"))?.clone();
        self.n_aliased += node.count();
        if self.n_aliased > ALIASED_NODES_MAX {
            return Err(at(line, format!("aliases stand for more than {ALIASED_NODES_MAX} nodes")));
        }
        if self.open.len() + node.depth() > DEPTH_MAX + 1 {
            return Err(at(line, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        node.line = line;
        self.add(node, 0)
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<()> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(OpenKind::Sequence(nodes)) => nodes.push(node),
            Some(OpenKind::Mapping(pairs)) => pairs.add(node)?,
        }
        Ok(())
    }
}

impl Pairs {
    fn add(&mut self, node: Node) -> Result<()> {
        match self.key.take() {
            None => {
                let line = node.line;
                let key = match node.value {
                    Value::Scalar { text, plain: true } if text == "<<" => Key::Merge,
                    Value::Scalar { text, .. } => Key::Name(text),
                    Value::Null => return Err(at(line, "a field without a name")),
                    _ => return Err(at(line, "only text can be the name of a field")),
                };
                if let Key::Name(name) = &key {
                    if self.places.insert(name.clone(), self.pairs.len()).is_some() {
                        return Err(at(line, format!("field {} already set", shown(name))));
                    }
                }
                self.key = Some(key);
            }
            Some(Key::Name(name)) => self.pairs.push((name, node)),
            Some(Key::Merge) => {
                let line = node.line;
                let wrong = || at(line, "<< takes a mapping or a sequence of mappings");
                match node.value {
                    Value::Mapping(pairs) => self.merged.extend(pairs),
                    Value::Sequence(nodes) => {
                        for node in nodes {
                            let Value::Mapping(pairs) = node.value else { return Err(wrong()) };
                            self.merged.extend(pairs);
                        }
                    }
                    _ => return Err(wrong()),
                }
            }
        }
        Ok(())
    }

    /// The mapping's own pairs, then those merged in under other names; of these the first of a name counts.
    fn finish(mut self) -> Vec<(String, Node)> {
        for (name, node) in self.merged {
            if self.places.insert(name.clone(), self.pairs.len()).is_none() {
                self.pairs.push((name, node));
            }
        }
        self.pairs
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
