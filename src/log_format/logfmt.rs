//! Pairs of logfmt, quoted as go-logfmt quotes them. Pure.

/// Adds ` key=value`; a value that would not read back as one is quoted.
pub(super) fn logfmt_pair(out: &mut String, key: &str, value: &str) {
    let special = |c: char| c <= ' ' || c == '=' || c == '"' || c == char::REPLACEMENT_CHARACTER || breaks_line(c);
    if value != "null" && !value.contains(special) {
        return logfmt_raw(out, key, value);
    }
    let mut quoted = String::with_capacity(value.len() + 8);
    quoted.push('"');
    for c in value.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if breaks_line(c) || c == char::REPLACEMENT_CHARACTER => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    logfmt_raw(out, key, &quoted);
}

/// What a terminal or a reader of lines may act upon.
fn breaks_line(c: char) -> bool {
    c.is_control() || c == '\u{2028}' || c == '\u{2029}'
}

/// Adds ` key=value` with the value as it is; what a key cannot hold is left out of it.
pub(super) fn logfmt_raw(out: &mut String, key: &str, value: &str) {
    if !out.is_empty() {
        out.push(' ');
    }
    out.extend(
        key.chars().filter(|c| *c > ' ' && !matches!(*c, '=' | '"' | char::REPLACEMENT_CHARACTER) && !breaks_line(*c)),
    );
    out.push('=');
    out.push_str(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_go_logfmt_does() {
        for (value, want) in [
            ("plain", "k=plain"),
            ("", "k="),
            ("a/b:c,d{e}", "k=a/b:c,d{e}"),
            ("ü", "k=ü"),
            (r"back\slash", r"k=back\slash"),
            (r"back\slash and space", r#"k="back\\slash and space""#),
            ("null", "k=\"null\""),
            ("a=b", "k=\"a=b\""),
            ("{a=\"1\"}", r#"k="{a=\"1\"}""#),
            ("two\nlines\r\n\ttab", r#"k="two\nlines\r\n\ttab""#),
            ("\u{1b}[31m", r#"k="\u001b[31m""#),
            ("\u{7f}\u{85}\u{2028}", r#"k="\u007f\u0085\u2028""#),
            ("\u{fffd}", r#"k="\ufffd""#),
        ] {
            let mut out = String::new();
            logfmt_pair(&mut out, "k", value);
            assert_eq!(out, want);
        }
        let mut out = String::new();
        logfmt_pair(&mut out, "a b=\"\n\u{85}c", "v");
        assert_eq!(out, "abc=v");
    }
}
