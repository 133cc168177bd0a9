//! YAML, and the configuration of a bucket in it: any text is a tree or an error on a line that exists, errors quote no
//! secret, and a tree that is written as JSON, which is YAML, is read as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_base::content::Content;
use pillion_base::error::Error;
use pillion_base::yaml::{self, Node};
use pillion_bucket::BucketConfig;
use pillion_fuzz::Dice;

/// Seeds have it as values; no error may show it, wherever it lands.
const SECRET: &str = "hUnTeR2/+=";

/// The last line of a text as an editor counts them, one more when it ends with a line's end.
fn n_lines(text: &str) -> usize {
    let text = text.replace("\r\n", "\n");
    text.matches(['\n', '\r']).count() + 1
}

fn check_error(err: &Error, text: &str, is_line_named: bool) {
    let shown = err.to_string();
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(shown.len() < 1000, "{shown}");
    match shown.split_once("line ").and_then(|(_, rest)| rest.split_once(':')) {
        Some((line, _)) if is_line_named || line.bytes().all(|byte| byte.is_ascii_digit()) => {
            let line: usize = line.parse().expect("a line's number");
            assert!((1..=n_lines(text)).contains(&line), "{shown} of {}", n_lines(text));
        }
        _ => assert!(!is_line_named, "{shown}"),
    }
}

/// The lines of all nodes, and that each is of one kind.
fn check_node(node: &Node, n_lines: usize, depth: usize) {
    let shown = node.error("x").to_string();
    let line = shown.strip_prefix("line ").and_then(|rest| rest.strip_suffix(": x"));
    let line: usize = line.and_then(|line| line.parse().ok()).expect("an error names a line");
    assert!((1..=n_lines).contains(&line), "line {line} of {n_lines}");
    assert!(depth <= 101);
    let kinds = [node.is_null(), node.as_str().is_some(), node.as_sequence().is_some(), node.as_mapping().is_some()];
    assert_eq!(kinds.into_iter().filter(|is_kind| *is_kind).count(), 1);
    for inner in node.as_sequence().unwrap_or_default() {
        check_node(inner, n_lines, depth + 1);
    }
    let pairs = node.as_mapping().unwrap_or_default();
    for (name, inner) in pairs {
        check_node(inner, n_lines, depth + 1);
        assert!(pairs.len() > 100 || node.get(name) == Some(inner), "a name stands twice");
    }
}

/// A tree that the input chooses.
enum Tree {
    Null,
    Text(String),
    Flag(bool),
    Number(i64),
    Items(Vec<Tree>),
    Members(Vec<(String, Tree)>),
}

impl Tree {
    fn new(dice: &mut Dice<'_>, depth: usize) -> Tree {
        let step = dice.byte();
        let len = usize::from(step >> 3);
        match step & 7 {
            0 => Tree::Null,
            1 => Tree::Flag(len & 1 == 0),
            2 => Tree::Number(dice.bytes(8).iter().fold(0, |number, byte| number << 8 | i64::from(*byte))),
            3 | 4 if depth < 8 => Tree::Items((0..len % 8).map(|_| Tree::new(dice, depth + 1)).collect()),
            5 | 6 if depth < 8 => {
                let member = |idx: usize| (format!("{idx}{}", dice.text(len)), Tree::new(dice, depth + 1));
                Tree::Members((0..len % 8).map(member).collect())
            }
            _ => Tree::Text(dice.text(len * 2)),
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Tree::Null => out.push_str("null"),
            Tree::Text(text) => quote(text, out),
            Tree::Flag(flag) => out.push_str(&flag.to_string()),
            Tree::Number(number) => out.push_str(&number.to_string()),
            Tree::Items(items) => {
                out.push('[');
                for (idx, item) in items.iter().enumerate() {
                    out.push_str(if idx > 0 { ", " } else { "" });
                    item.write(out);
                }
                out.push(']');
            }
            Tree::Members(members) => {
                out.push('{');
                for (idx, (name, value)) in members.iter().enumerate() {
                    out.push_str(if idx > 0 { ", " } else { "" });
                    quote(name, out);
                    out.push_str(": ");
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    fn check(&self, node: &Node, text: &str) {
        match self {
            Tree::Null => assert!(node.is_null(), "{text}"),
            Tree::Text(wanted) => assert_eq!(node.as_str(), Some(wanted.as_str()), "{text}"),
            Tree::Flag(flag) => assert_eq!(node.as_str(), Some(flag.to_string().as_str()), "{text}"),
            Tree::Number(number) => assert_eq!(node.as_str(), Some(number.to_string().as_str()), "{text}"),
            Tree::Items(items) => {
                let nodes = node.as_sequence().expect("a sequence");
                assert_eq!(nodes.len(), items.len(), "{text}");
                items.iter().zip(nodes).for_each(|(item, node)| item.check(node, text));
            }
            Tree::Members(members) => {
                let pairs = node.as_mapping().expect("a mapping");
                assert_eq!(pairs.len(), members.len(), "{text}");
                for ((wanted, value), (name, inner)) in members.iter().zip(pairs) {
                    assert_eq!(wanted, name, "{text}");
                    value.check(inner, text);
                    let (flag, number) = match value {
                        Tree::Null => (Some(None), Some(None)),
                        Tree::Flag(flag) => (Some(Some(*flag)), None),
                        Tree::Number(number) => (None, u64::try_from(*number).ok().map(Some)),
                        _ => (None, None),
                    };
                    assert_eq!((node.bool_field(name).ok(), node.u64_field(name).ok()), (flag, number), "{text}");
                }
            }
        }
    }
}

/// As JSON, with everything that is not printable ASCII escaped.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    match yaml::parse(&text) {
        Ok(root) => {
            check_node(&root, n_lines(&text), 1);
            assert!(!text.contains('\0'), "what follows a NUL was ignored");
            assert!(!format!("{root:?}").contains(SECRET));
        }
        Err(err) => check_error(&err, &text, true),
    }
    // Such an option says which file is read.
    if !text.contains("encryption_key") {
        let content = Content { origin: "bucket.yml".to_owned(), text: text.clone().into_owned() };
        match BucketConfig::parse(&content) {
            Ok(config) => assert!(!config.prefix.starts_with('/') && !config.prefix.ends_with('/')),
            Err(err) => {
                assert!(err.to_string().starts_with("parsing config YAML file bucket.yml: "), "{err}");
                check_error(&err, &text, false);
            }
        }
    }

    let tree = Tree::new(&mut Dice(data), 0);
    let mut written = String::new();
    tree.write(&mut written);
    tree.check(&yaml::parse(&written).unwrap_or_else(|err| panic!("{written}: {err}")), &written);
});
