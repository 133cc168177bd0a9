//! The table of flags in docs/flags.md is the one that the parser uses. `UPDATE=1` rewrites it.

const BEGIN: &str = "<!-- flags:begin -->";
const END: &str = "<!-- flags:end -->";

/// The text before the table, the table, and the text behind it.
fn parts(readme: &str) -> Option<(&str, &str, &str)> {
    let begin = readme.find(BEGIN)? + BEGIN.len();
    let end = begin + readme.get(begin..)?.find(END)?;
    Some((readme.get(..begin)?, readme.get(begin..end)?, readme.get(end..)?))
}

#[test]
fn the_documents_have_the_table_of_flags() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/flags.md");
    let readme = std::fs::read_to_string(&path).expect("docs/flags.md is readable");
    let (before, table, behind) = parts(&readme).unwrap_or_else(|| panic!("docs/flags.md has no {BEGIN} … {END}"));
    let want = format!("\n\n{}\n", pillion::inside::markdown_table());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{before}{want}{behind}")).expect("docs/flags.md is writable");
        return;
    }
    assert_eq!(table, want, "run the tests with UPDATE=1 to rewrite the table");
}
