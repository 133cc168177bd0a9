//! The tree keeps its own rules: licences, banned crates, the crate counts in the README, reasons for dependencies, pure
//! modules, and no path of somebody's machine. Offline.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The platform whose crates are counted and checked; aarch64 has the same ones.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// Every crate that a build compiles besides our own, `name version`, with its licence. `edges` as `cargo tree -e` wants.
fn crates(edges: &str) -> BTreeMap<String, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    // A line is `name v1.2.3 (proc-macro)|licence (*)`: the mark for repetition comes last.
    let out = Command::new(cargo)
        .args(["tree", "--offline", "--locked", "--prefix", "none", "-f", "{p}|{l}", "-e", edges, "--target", TARGET])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    let lines = String::from_utf8(out.stdout).unwrap();
    let parsed = lines.lines().filter_map(|line| {
        let (package, licence) = line.trim_end_matches(" (*)").split_once('|')?;
        let mut words = package.split(' ');
        Some((format!("{} {}", words.next()?, words.next()?), licence.to_owned()))
    });
    parsed.filter(|(package, _)| !package.starts_with("pillion")).collect()
}

/// Whether an SPDX expression can be fulfilled with the allowed licences. `/` is the old way to write OR.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let result = any_of(&mut rest, allowed);
    result && rest.is_empty()
}

fn any_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut result = all_of(words, allowed);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        // Not `||`: the right side must be read in any case.
        result |= all_of(words, allowed);
    }
    result
}

fn all_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut result = one(words, allowed);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        result &= one(words, allowed);
    }
    result
}

fn one(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let result = any_of(words, allowed);
            match *words {
                [")", rest @ ..] => {
                    *words = rest;
                    result
                }
                _ => false,
            }
        }
        // An exception only takes conditions away, but it is another text: it must be named itself.
        [licence, "WITH", exception, rest @ ..] => {
            let name = format!("{licence} WITH {exception}");
            *words = rest;
            allowed.contains(&name)
        }
        [licence, rest @ ..] => {
            *words = rest;
            allowed.contains(*licence)
        }
        [] => false,
    }
}

/// The lines of `key = [` … `]` in a section of deny.toml, without comments.
fn deny_list(section: &str, key: &str) -> Vec<String> {
    let text = read("deny.toml");
    let after = text.split_once(&format!("[{section}]\n")).unwrap_or_else(|| panic!("no [{section}] in deny.toml")).1;
    let inside = after.split("\n[").next().unwrap();
    let list = inside.split_once(&format!("{key} = [\n")).unwrap_or_else(|| panic!("no {key} in [{section}]")).1;
    let lines = list.lines().take_while(|line| *line != "]");
    lines.map(|line| line.split('#').next().unwrap().trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// The first quoted text of a line.
fn quoted(line: &str) -> String {
    line.split('"').nth(1).unwrap_or_else(|| panic!("no quoted text in {line}")).to_owned()
}

#[test]
fn every_crate_has_an_allowed_licence() {
    let allowed: BTreeSet<String> = deny_list("licenses", "allow").iter().map(|line| quoted(line)).collect();
    assert!(allowed.contains("MIT"), "{allowed:?}");
    let crates = crates("normal,build");
    assert!(crates.len() > 20, "{crates:?}");
    let wrong: Vec<_> = crates.iter().filter(|(_, licence)| !is_allowed(licence, &allowed)).collect();
    assert!(wrong.is_empty(), "licences that deny.toml does not allow: {wrong:?}");
}

#[test]
fn licence_expressions() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
    let check =
        |expression: &str, expected: bool| assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    check("MIT", true);
    check("GPL-3.0-only", false);
    check("MIT OR GPL-3.0-only", true);
    check("GPL-3.0-only/MIT", true);
    check("MIT AND GPL-3.0-only", false);
    check("(GPL-3.0-only OR MIT) AND ISC", true);
    check("(GPL-3.0-only OR MIT) AND Zlib", false);
    check("ISC AND MIT OR Zlib", true);
    check("MIT WITH something", false);
    check("", false);
    check("(MIT", false);
    check("MIT ISC", false);
}

#[test]
fn no_banned_crate() {
    let banned: BTreeSet<String> = deny_list("bans", "deny").iter().map(|line| quoted(line)).collect();
    assert!(banned.contains("tokio"), "{banned:?}");
    let crates = crates("normal,build,dev");
    let found: Vec<_> = crates.keys().filter(|name| banned.contains(name.split(' ').next().unwrap())).collect();
    assert!(found.is_empty(), "banned by deny.toml: {found:?}");
}

/// What stands in the README between the markers.
fn crates_text() -> String {
    let (normal, all) = (crates("normal"), crates("normal,build"));
    format!(
        "{} crates are linked into the binary or expanded at compile time (`cargo tree -e normal`), {} with those that \
         only the build scripts use (`-e normal,build`); Pillion itself is not counted.",
        normal.len(),
        all.len()
    )
}

#[test]
fn crate_counts_in_the_readme() {
    let (begin, end) = ("<!-- crates:begin -->", "<!-- crates:end -->");
    let readme = read("README.md");
    let (before, rest) = readme.split_once(begin).expect("README.md has the marker crates:begin");
    let (found, after) = rest.split_once(end).expect("README.md has the marker crates:end");
    let expected = format!("\n{}\n", crates_text());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(root().join("README.md"), format!("{before}{begin}{expected}{end}{after}")).unwrap();
    } else {
        assert_eq!(found, expected, "run `UPDATE=1 cargo test --release --test it tidy` and commit README.md");
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let text = read("Cargo.toml");
    let mut is_dependency_section = false;
    let mut previous = "";
    let mut n_dependencies = 0;
    for line in text.lines() {
        if line.starts_with('[') {
            is_dependency_section = line.ends_with("dependencies]");
        } else if line.contains("workspace = true") || line.contains("{ path = ") {
            // The crates take from the workspace's list, and our own have their place in ARCHITECTURE.md.
        } else if is_dependency_section && line.contains('=') && !line.starts_with('#') {
            n_dependencies += 1;
            // One dependency per reason: a comment is not shared by the lines below it.
            let has_reason = line.contains(" # ") || previous.starts_with('#');
            assert!(has_reason, "Cargo.toml: no comment says why there is: {line}");
        }
        previous = line;
    }
    assert!(n_dependencies > 10, "found {n_dependencies} dependencies only");
}

/// Files below `dir` whose name ends in one of `endings`; an absent folder has none.
fn files(dir: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, endings, found);
        } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
            found.push(path);
        }
    }
}

fn source_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root().join("src"), &[".rs"], &mut found);
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        files(&entry.unwrap().path().join("src"), &[".rs"], &mut found);
    }
    found
}

/// The `//!` lines at the top of a file, joined.
fn module_doc(text: &str) -> String {
    text.lines().map_while(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_file_says_what_it_is() {
    for path in source_files() {
        assert!(!module_doc(&read(&path)).trim().is_empty(), "{} does not open with //!", path.display());
    }
}

#[test]
fn pure_modules_do_no_io() {
    let impure = ["std::fs", "std::net", "std::thread", "std::process", "std::env", "Instant::now", "SystemTime::now"];
    let mut n_pure = 0;
    for path in source_files() {
        let text = read(&path);
        if !module_doc(&text).split([' ', '.']).any(|word| word == "Pure") {
            continue;
        }
        n_pure += 1;
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (idx, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let found = impure.iter().find(|word| line.contains(**word));
            assert!(found.is_none(), "{}:{}: a pure module uses {found:?}", path.display(), idx + 1);
            // `use std::{fs, …}` hides the words above.
            assert!(!line.contains("use std::{"), "{}:{}: one `use` per module of std", path.display(), idx + 1);
        }
    }
    assert!(n_pure >= 5, "found {n_pure} pure modules only");
}

#[test]
fn no_path_of_somebodys_machine() {
    // In two halves, so that this file does not find itself.
    let paths = [concat!("/ro", "ot/"), concat!("/wo", "rk/shared"), concat!("/wo", "rk/main"), concat!("/tmp", "/wt")];
    let mut found = Vec::new();
    for dir in ["src", "crates", "docs", "proto", "deploy", "scripts", "tests"] {
        files(&root().join(dir), &[".rs", ".md", ".proto", ".service", ".sh", ".yml", ".txt"], &mut found);
    }
    found.extend(
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "Cargo.toml"]
            .map(PathBuf::from),
    );
    for path in found.iter().filter(|path| root().join(path).exists()) {
        let text = read(path);
        for word in paths {
            assert!(!text.contains(word), "{} mentions {word}", path.display());
        }
    }
}
