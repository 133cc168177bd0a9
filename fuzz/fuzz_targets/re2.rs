//! Regular expressions of strangers: no pattern panics, takes more than its share, or means something else when it stands in
//! a group, in quotes, or beside a pattern that matches nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pillion_read::re2::{Effort, is_match};

fn judge(pattern: &str, text: &str) -> Result<bool, String> {
    is_match(pattern, text, &mut Effort::default())
}

fuzz_target!(|data: &[u8]| {
    let input = String::from_utf8_lossy(data);
    // What stands before the first NUL is the pattern.
    let (pattern, text) = input.split_once('\0').unwrap_or((&input, "eu-west-1"));

    // A text matches itself, and nothing that is longer.
    if !text.contains("\\E") {
        let quoted = format!("\\Q{text}\\E");
        assert_eq!(judge(&quoted, text), Ok(true), "{quoted:?}");
        assert_eq!(judge(&quoted, &format!("{text}a")), Ok(false), "{quoted:?}");
    }

    match judge(pattern, text) {
        Ok(expected) => {
            // What is left open at the end of a pattern would swallow a parenthesis.
            if pattern.rfind("\\Q") <= pattern.rfind("\\E") {
                for around in
                    [format!("(?:{pattern})"), format!("[^\\s\\S]|(?:{pattern})"), format!("(?:{pattern}){{1}}")]
                {
                    if let Ok(found) = judge(&around, text) {
                        assert_eq!(found, expected, "{around:?} {text:?}");
                    }
                }
            }
        }
        Err(error) => {
            let is_bound =
                ["the patterns of", "the pattern is", "the pattern has"].iter().any(|text| error.starts_with(text));
            assert!(is_bound || error.starts_with("error parsing regexp: "), "{error}");
            // A pattern is refused whatever it is to match.
            if !is_bound {
                assert_eq!(judge(pattern, ""), Err(error));
            }
        }
    }
});
