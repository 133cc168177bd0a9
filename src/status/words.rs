//! Spans, sizes and numbers as people say them. Pure.

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 86_400.0;

/// `12 s`, `5 min`, `2 h 10 min`, `13 days`: never more than two units. What is below zero is zero.
pub(crate) fn span(seconds: f64) -> String {
    let seconds = if seconds.is_finite() { seconds.max(0.0) } else { f64::MAX };
    let whole = |unit: f64| (seconds / unit).floor();
    match () {
        () if seconds < MINUTE => format!("{} s", seconds.floor()),
        () if seconds < HOUR => format!("{} min", whole(MINUTE)),
        () if seconds < 2.0 * DAY => {
            let minutes = ((seconds - whole(HOUR) * HOUR) / MINUTE).floor();
            let rest = if seconds < 10.0 * HOUR && minutes > 0.0 { format!(" {minutes} min") } else { String::new() };
            format!("{} h{rest}", whole(HOUR))
        }
        () if seconds < 1000.0 * DAY => format!("{} days", whole(DAY)),
        () => "over 1000 days".to_owned(),
    }
}

/// `17 B`, `1.2 MiB`.
pub(crate) fn bytes(bytes: f64) -> String {
    let mut value = bytes.max(0.0);
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = units[0];
    for larger in &units[1..] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" || value >= 99.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// `1 block`, `3 blocks`, `12,345 blocks`.
pub(crate) fn count(n: u64, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {what}{plural}", number(n))
}

/// `12,345`.
pub(crate) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// An RFC 3339 time without the fraction of its second, and with a space between day and time.
pub(crate) fn time(rfc3339: &str) -> String {
    let whole = rfc3339.split_once('.').map_or(rfc3339.trim_end_matches('Z'), |(whole, _)| whole);
    format!("{} UTC", whole.replacen('T', " ", 1))
}

/// A text of others: what would move the cursor, end the line or turn the direction of writing is shown by its number.
pub(crate) fn shown(text: &str) -> String {
    let is_plain = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_plain(c) {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        let check = |seconds: f64, expected: &str| assert_eq!(span(seconds), expected, "{seconds}");
        check(-5.0, "0 s");
        check(0.9, "0 s");
        check(59.9, "59 s");
        check(60.0, "1 min");
        check(3599.0, "59 min");
        check(3600.0, "1 h");
        check(7800.0, "2 h 10 min");
        check(36_000.0 + 600.0, "10 h");
        check(47.0 * 3600.0, "47 h");
        check(48.0 * 3600.0, "2 days");
        check(13.9 * 86_400.0, "13 days");
        check(1e15, "over 1000 days");
        check(f64::INFINITY, "over 1000 days");
    }

    #[test]
    fn sizes_and_numbers() {
        let check = |value: f64, expected: &str| assert_eq!(bytes(value), expected, "{value}");
        check(0.0, "0 B");
        check(1023.0, "1023 B");
        check(1024.0, "1.0 KiB");
        check(1_048_575.0, "1.0 MiB");
        check(150.4 * 1024.0, "150 KiB");
        check(5e9, "4.7 GiB");
        check(5e15, "4547 TiB");
        assert_eq!(
            [count(0, "block"), count(1, "block"), count(1234, "block")],
            ["0 blocks", "1 block", "1,234 blocks"]
        );
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(time("2026-11-25T03:00:07.123Z"), "2026-11-25 03:00:07 UTC");
        assert_eq!(time("2026-11-25T03:00:07Z"), "2026-11-25 03:00:07 UTC");
    }

    #[test]
    fn what_would_deceive_the_eye_is_shown() {
        assert_eq!(shown("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\u{a}c");
        assert_eq!(shown("a\u{202e}b\u{200b}é<"), "a\\u{202e}b\\u{200b}é<");
    }
}
