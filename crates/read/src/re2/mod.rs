//! Regular expressions as Prometheus means them: RE2's syntax in the dialect of Go, which must match a whole text, with a dot
//! that matches a newline too. What a match captures nobody asks, so a match is a set of states that walks over the text.
//!
//! It never recurses deeper than Go lets a pattern nest, and its time and memory are bounded whatever the pattern is. Pure.

mod class;
mod machine;
mod parse;
#[rustfmt::skip]
mod tables;
mod tree;
mod unicode;

use crate::limits::{PATTERN_BYTES_MAX, PATTERN_STEPS_MAX};

/// What the patterns of one request may still cost.
#[derive(Debug)]
pub struct Effort {
    steps_left: u32,
}

impl Default for Effort {
    fn default() -> Self {
        Effort { steps_left: PATTERN_STEPS_MAX }
    }
}

impl Effort {
    fn spend(&mut self, steps: usize) -> Result<(), String> {
        let left = u32::try_from(steps).ok().and_then(|steps| self.steps_left.checked_sub(steps));
        self.steps_left = left.ok_or("the patterns of this request take too much work")?;
        Ok(())
    }
}

/// Whether a pattern matches the whole of a text.
///
/// `Errors:` what Go says of a pattern that it refuses; or that the pattern takes too much time or memory.
/// `Source:` Go's `regexp/syntax`, in the version that Prometheus links; Unicode as Go knows it.
pub fn is_match(pattern: &str, text: &str, effort: &mut Effort) -> Result<bool, String> {
    if let Some(verdict) = plain(pattern, text) {
        return Ok(verdict);
    }
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("the pattern has more than {PATTERN_BYTES_MAX} bytes"));
    }
    // What a byte of a pattern costs while it is read.
    effort.spend(pattern.len())?;
    machine::is_match(&parse::parse(pattern)?, text, effort)
}

/// The verdict on a pattern that is a text, a beginning of texts (`eu-.*`, `.+`), or several of those (`a|b|c`); the others
/// have none here.
fn plain(pattern: &str, text: &str) -> Option<bool> {
    let mut is_found = false;
    for option in pattern.split('|') {
        let begins = |prefix: &str, least: usize| text.len() >= prefix.len() + least && text.starts_with(prefix);
        let (literal, is_match) = if let Some(prefix) = option.strip_suffix(".*") {
            (prefix, begins(prefix, 0))
        } else if let Some(prefix) = option.strip_suffix(".+") {
            (prefix, begins(prefix, 1))
        } else {
            (option, option == text)
        };
        if literal.contains(['\\', '.', '+', '*', '?', '(', ')', '[', ']', '{', '}', '^', '$']) {
            return None;
        }
        is_found |= is_match;
    }
    Some(is_found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_patterns_need_no_tree() {
        let check = |pattern: &str, text: &str, expected: Option<bool>| {
            assert_eq!(plain(pattern, text), expected, "{pattern:?} {text:?}");
        };
        check("", "", Some(true));
        check("", "a", Some(false));
        check(".*", "", Some(true));
        check(".*", "a\nb", Some(true));
        check(".+", "", Some(false));
        check(".+", "ü", Some(true));
        check("a", "a", Some(true));
        check("a|b|c", "c", Some(true));
        check("a|b|c", "d", Some(false));
        check("a|", "", Some(true));
        check("eu-.*|us", "eu-", Some(true));
        check("eu-.+|us", "eu-", Some(false));
        check("eu-.+|us", "us", Some(true));
        check("eu|(", "eu", None);
        check("eu.", "eu1", None);
        check(".*a", "a", None);
        check(r"\.*", "...", None);
        check("a{2}.*", "aa", None);
    }

    /// No pattern takes more than its share, and the others of the request get no more than what is left.
    #[test]
    fn work_is_bounded() {
        let text = "a".repeat(2000);
        let mut effort = Effort::default();
        let err = is_match(
            "(?:a?){1000}(?:(?:a?a?){0,30}){33}(?:(?:a?b?){1,9}){99}(?:(?:a?a?a?a?){1,9}){99}",
            &text,
            &mut effort,
        )
        .unwrap_err();
        assert_eq!(err, "the patterns of this request take too much work");
        assert!(is_match("[a-z]+", &text, &mut Effort { steps_left: 1000 }).is_err());
        assert!(is_match("[a-z]+", &text, &mut Effort::default()).unwrap());
        let long = format!("{}.", "a".repeat(PATTERN_BYTES_MAX));
        assert!(is_match(&long, "a", &mut Effort::default()).unwrap_err().starts_with("the pattern has more than"));
        assert!(!is_match(&long[..PATTERN_BYTES_MAX], &long, &mut Effort::default()).unwrap());
    }
}
