//! The code is laid out as ARCHITECTURE.md says: which crate may use which, which module of the daemon names which, and no
//! name is public that nobody needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a room uses.
type Map = BTreeMap<String, BTreeSet<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The Rust files below a folder of the tree; an absent folder has none.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    files(dir).into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "rs")).collect()
}

/// All files below a folder of the tree but what is built there.
fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with("target"));
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The code of a file: no comments, no tests at its end.
fn code(path: &Path) -> String {
    let text = read(path);
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The block of ARCHITECTURE.md that is fenced as `name`: `room: what it uses`, a line each. A line names only rooms of the
/// lines above it, so that there is no ring.
fn documented(name: &str) -> Map {
    let text = read(&root().join("ARCHITECTURE.md"));
    let fence = format!("```{name}\n");
    let block = text.split_once(&fence).unwrap_or_else(|| panic!("ARCHITECTURE.md has no block {name}")).1;
    let mut map = Map::new();
    for line in block.lines().take_while(|line| *line != "```") {
        let (room, used) = line.split_once(':').unwrap_or_else(|| panic!("{name}: no colon in {line:?}"));
        let used: BTreeSet<String> = used.split_whitespace().map(str::to_owned).collect();
        for below in &used {
            assert!(map.contains_key(below), "{name}: {room} uses {below}, which stands in no line above");
        }
        assert!(map.insert(room.trim().to_owned(), used).is_none(), "{name}: {room} twice");
    }
    map
}

#[track_caller]
fn check(name: &str, found: &Map) {
    let expected = documented(name);
    for room in expected.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        assert_eq!(found.get(room), expected.get(room), "{room}: found, and written in ARCHITECTURE.md ({name})");
    }
}

#[test]
fn crates_use_only_those_below_them() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let args = ["metadata", "--offline", "--locked", "--no-deps", "--format-version=1"];
    let out = Command::new(cargo).args(args).current_dir(root()).output().unwrap();
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let short = |name: &serde_json::Value| name.as_str().unwrap().trim_start_matches("pillion-").to_owned();
    let mut found = Map::new();
    for package in metadata["packages"].as_array().unwrap() {
        let used = package["dependencies"].as_array().unwrap().iter().filter(|dependency| {
            // What only tests use may point anywhere.
            dependency["kind"].is_null() && dependency["name"].as_str().unwrap().starts_with("pillion")
        });
        found.insert(short(&package["name"]), used.map(|dependency| short(&dependency["name"])).collect());
    }
    check("crates", &found);
}

#[test]
fn modules_of_the_daemon_use_only_those_below_them() {
    let src = root().join("src");
    let mut found = Map::new();
    for path in rust_files(&src) {
        let below = path.strip_prefix(&src).unwrap();
        let room = below.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if room == "lib" || room == "main" {
            continue;
        }
        let code = code(&path);
        let mut named = BTreeSet::new();
        for (idx, _) in code.match_indices("crate::") {
            let rest = &code[idx + "crate::".len()..];
            match rest.strip_prefix('{') {
                Some(group) => {
                    let group = group.split_once("};").expect("a group of imports ends").0;
                    named.extend(group.split(',').filter_map(|item| words(item).next()).map(str::to_owned));
                }
                None => named.extend(words(rest).next().map(str::to_owned)),
            }
        }
        named.remove(&room);
        found.entry(room).or_default().extend(named);
    }
    check("src", &found);
}

/// The names behind `pub fn` and `pub const`. With the lint `unreachable_pub` each is what other crates can see.
fn public_names(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in code.lines() {
        let Some(rest) = line.trim_start().strip_prefix("pub ") else { continue };
        let mut words = words(rest);
        // A type may be needed for what a function takes or returns, without being named.
        if let Some("fn" | "const" | "static" | "unsafe") = words.next() {
            names.extend(words.find(|word| *word != "fn").map(str::to_owned));
        }
    }
    names
}

#[test]
fn nothing_is_public_that_nobody_needs() {
    let mut unneeded = Vec::new();
    let all: Vec<PathBuf> =
        ["src", "tests", "benches", "crates", "fuzz"].iter().flat_map(|dir| rust_files(&root().join(dir))).collect();
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let src = entry.unwrap().path().join("src");
        let (inside, outside): (Vec<&PathBuf>, Vec<&PathBuf>) = all.iter().partition(|path| path.starts_with(&src));
        let outside: Vec<String> = outside.into_iter().map(|path| read(path)).collect();
        let used: BTreeSet<&str> = outside.iter().flat_map(|text| words(text)).collect();
        for path in inside {
            let unused = public_names(&code(path)).into_iter().filter(|name| !used.contains(name.as_str()));
            unneeded.extend(unused.map(|name| format!("{}: {name}", path.strip_prefix(root()).unwrap().display())));
        }
    }
    assert!(unneeded.is_empty(), "public, and named in no other crate:\n{}", unneeded.join("\n"));
}

#[test]
fn public_names_are_found() {
    let code = "pub fn a() {}\n    pub const fn b() {}\npub(crate) fn c() {}\npub struct D;\npub const E: u8 = 1;\npub mod f;\nfn g() {}";
    assert_eq!(public_names(code), ["a", "b", "E"]);
}

#[test]
fn unsafe_code_stands_only_where_the_documents_say() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let rule = text.split("\n- **Unsafe code").nth(1).expect("ARCHITECTURE.md has a rule on unsafe code");
    let documented = named_paths(rule.split("\n\n").next().unwrap());
    let sources = ["src", "crates"].iter().flat_map(|dir| rust_files(&root().join(dir)));
    let found: Vec<PathBuf> = sources.filter(|path| words(&code(path)).any(|word| word == "unsafe")).collect();
    assert_eq!(found.len(), documented.len(), "found {found:?}, documented {documented:?}");
    for path in found {
        assert!(documented.iter().any(|name| path.ends_with(name)), "{} has unsafe code", path.display());
    }
}

/// The texts between backticks that name a file or folder of the tree.
fn named_paths(text: &str) -> Vec<&str> {
    let spans = text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
    let is_path = |word: &&str| {
        let plain = word.chars().all(|c| c.is_alphanumeric() || "_-./*".contains(c));
        plain && !word.contains('*') && (word.ends_with(".rs") || (word.ends_with('/') && word.len() > 1))
    };
    spans.filter(is_path).collect()
}

#[test]
fn files_that_documents_name_are_there() {
    let folders = ["src", "crates", "tests", "benches", "fuzz", "proto", "deploy", "scripts", "docs", ".cargo", ".ci"];
    let mut paths: Vec<String> = Vec::new();
    for path in folders.iter().flat_map(|dir| files(&root().join(dir))) {
        let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        paths.extend(path.match_indices('/').map(|(idx, _)| path[..=idx].to_owned()));
        paths.push(path);
    }
    paths.extend(folders.map(|dir| format!("{dir}/")));
    let mut n_named = 0;
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "fuzz/README.md", "docs/limits.md"] {
        let text = read(&root().join(document));
        for named in named_paths(&text) {
            n_named += 1;
            let is_there = paths.iter().any(|path| path == named || path.ends_with(&format!("/{named}")));
            assert!(is_there, "{document} names {named}, which is not there");
        }
    }
    assert!(n_named > 20, "{n_named}");
}
