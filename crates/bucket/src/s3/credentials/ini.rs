//! The format of AWS's shared files: sections of `name = value`. Pure.

use std::collections::BTreeMap;

/// Sections by name, each with its values by name. The names of values are in lower case.
pub type Sections = BTreeMap<String, BTreeMap<String, String>>;

/// Parses a file. Lines that do not have the format are skipped, because other programs use the files too. A key that
/// gets lost so is reported as missing.
///
/// `Source:` "Shared config and credentials files", AWS SDKs and Tools Reference Guide.
pub fn parse(text: &str) -> Sections {
    let mut sections = Sections::new();
    let mut section: Option<String> = None;
    // The indent of the last name without a value: lines with a deeper indent belong to it.
    let mut nested_below = None;
    for line in text.trim_start_matches('\u{feff}').lines() {
        let trimmed = line.trim();
        let indent = line.len() - line.trim_start().len();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) || nested_below.is_some_and(|outer| indent > outer) {
            continue;
        }
        nested_below = None;
        if let Some(rest) = trimmed.strip_prefix('[') {
            section = rest.split_once(']').map(|(name, _)| name_of(name));
            if let Some(name) = &section {
                sections.entry(name.clone()).or_default();
            }
            continue;
        }
        let (Some(name), Some((key, value))) = (&section, trimmed.split_once('=')) else { continue };
        let value = without_comment(value);
        if value.is_empty() {
            nested_below = Some(indent);
        }
        sections.entry(name.clone()).or_default().insert(key.trim().to_ascii_lowercase(), value.to_owned());
    }
    sections
}

/// The name of a section such as `profile  "a b"`, with one space and without quotes.
fn name_of(text: &str) -> String {
    let text = text.trim();
    match text.split_once(char::is_whitespace) {
        Some((kind @ ("profile" | "sso-session" | "services"), name)) => format!("{kind} {}", unquoted(name.trim())),
        _ => unquoted(text).to_owned(),
    }
}

/// Text without the double quotes around it.
pub(super) fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// The value without a comment behind it, which begins with white space and `#` or `;`.
fn without_comment(value: &str) -> &str {
    let mut previous = ' ';
    for (at, c) in value.char_indices() {
        if matches!(c, '#' | ';') && previous.is_whitespace() {
            return value.get(..at).unwrap_or_default().trim();
        }
        previous = c;
    }
    value.trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_as_people_write_them() {
        let check = |text: &str, expected: &[(&str, &[(&str, &str)])]| {
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            let section =
                |(name, pairs): &(&str, &[(&str, &str)])| ((*name).to_owned(), pairs.iter().map(owned).collect());
            assert_eq!(parse(text), expected.iter().map(section).collect(), "{text}");
        };
        check("", &[]);
        check("a = 1", &[]);
        check("[default]\na=1\nB = 2 = 3\n", &[("default", &[("a", "1"), ("b", "2 = 3")])]);
        check("\u{feff}[default]\r\na = 1\r\n", &[("default", &[("a", "1")])]);
        check("# c\n; c\n[x] # c\na = b#c ; d\nb = # e\nc = d", &[("x", &[("a", "b#c"), ("b", ""), ("c", "d")])]);
        check("[ x ]\n  a = 1\n  b = 2", &[("x", &[("a", "1"), ("b", "2")])]);
        check("[x]\ns3 =\n  a = 1\n  b = 2\nc = 3", &[("x", &[("s3", ""), ("c", "3")])]);
        check("[x]\n  s3 =\n    a = 1\n  b = 2", &[("x", &[("s3", ""), ("b", "2")])]);
        check("[profile  \"a b\"]\na=1\n[ \"c\" ]", &[("profile a b", &[("a", "1")]), ("c", &[])]);
        check("[x]\na=1\n[y]\na=2\n[x]\na=3", &[("x", &[("a", "3")]), ("y", &[("a", "2")])]);
        check("[x\na=1\nnonsense\n[y]\nmore nonsense\na=1", &[("y", &[("a", "1")])]);
        check("[x]\nü = ü # ü", &[("x", &[("ü", "ü")])]);
    }
}
