//! Builds the tree of nodes out of the parser's events. Pure.

use std::collections::HashMap;

use yaml_rust2::parser::{Event, Parser, Tag};
use yaml_rust2::scanner::TScalarStyle;

use super::{Node, Value, at, shown};
use crate::error::Result;

/// Deepest nesting that is read; the tree is walked and dropped by recursion.
const DEPTH_MAX: usize = 100;
/// Nodes that aliases may add: nine levels of nine aliases each would add half a billion.
const ALIASED_NODES_MAX: usize = 10_000;

/// Reads one document; an empty text is null.
pub fn parse(text: &str) -> Result<Node> {
    // The parser takes a NUL for the end of the text and would silently ignore what follows.
    if let Some((before, _)) = text.split_once('\0') {
        return Err(at(n_lines(before), "NUL characters are not allowed"));
    }
    let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut builder = Builder::default();
    let mut n_documents = 0;
    let last_line = last_line(text);
    loop {
        let (event, mark) = parser.next_token().map_err(|err| at(err.marker().line().min(last_line), err.info()))?;
        let line = mark.line().min(last_line);
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

/// The last line that is not empty. The parser names the one after it for what it misses at the end.
fn last_line(text: &str) -> usize {
    n_lines(text.trim_end_matches(['\r', '\n']))
}

/// How many lines there are; an empty text has one.
fn n_lines(text: &str) -> usize {
    text.replace("\r\n", "\n").matches(['\r', '\n']).count() + 1
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
    /// What `<<` brings in; the mapping's own names win over it.
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
                if let Key::Name(name) = &key
                    && self.places.insert(name.clone(), self.pairs.len()).is_some()
                {
                    return Err(at(line, format!("field {} already set", shown(name))));
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

    /// The mapping's own pairs, then the merged ones under other names; the first pair of a repeated name counts.
    fn finish(mut self) -> Vec<(String, Node)> {
        for (name, node) in self.merged {
            if self.places.insert(name.clone(), self.pairs.len()).is_none() {
                self.pairs.push((name, node));
            }
        }
        self.pairs
    }
}
