//! Durations as Go and Prometheus write them. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const SECONDS_PER_DAY: i64 = 86_400;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// A signed duration in Go's syntax (`1h30m`, `-1.5s`), with `d` and `w` besides. `Units:` ns.
///
/// `Source:` Go `time.ParseDuration`; days and weeks as the parser of Thanos's flags has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub i64);

impl GoDuration {
    /// The duration, with everything below zero taken as zero.
    pub fn or_zero(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// The duration if it is above zero.
    pub fn positive(self) -> Option<Duration> {
        (self.0 > 0).then(|| self.or_zero())
    }
}

impl FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(GoDuration(0));
        }
        let invalid = || format!("time: invalid duration {text:?}");
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut nanos: i128 = 0;
        while !rest.is_empty() {
            let (whole, after) = leading_digits(rest);
            let (fraction, after) = match after.strip_prefix('.') {
                Some(after) => leading_digits(after),
                None => ("", after),
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(invalid());
            }
            let (unit, after) =
                after.split_at(after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len()));
            if unit.is_empty() {
                return Err(format!("time: missing unit in duration {text:?}"));
            }
            let unit_nanos =
                go_unit_nanos(unit).ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
            let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
            nanos = whole
                .checked_mul(unit_nanos)
                .and_then(|part| part.checked_add(fraction_of(fraction, unit_nanos)))
                .and_then(|part| part.checked_add(nanos))
                .filter(|sum| *sum <= i128::from(i64::MAX) + 1)
                .ok_or_else(invalid)?;
            rest = after;
        }
        let signed = if negative { -nanos } else { nanos };
        i64::try_from(signed).map(GoDuration).map_err(|_| invalid())
    }
}

/// Go's own form: `1h30m0s`, `1.5s`, `250ms`, `0s`.
impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanos = self.0.unsigned_abs();
        let second = NANOS_PER_SECOND.unsigned_abs();
        if nanos == 0 {
            return f.write_str("0s");
        }
        if nanos < second {
            let (unit, name) = match nanos {
                0..1_000 => (1, "ns"),
                1_000..1_000_000 => (1_000, "µs"),
                _ => (1_000_000, "ms"),
            };
            return write!(f, "{}{name}", decimal(nanos, unit));
        }
        let minutes = nanos / (60 * second);
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes >= 1 {
            write!(f, "{}m", minutes % 60)?;
        }
        write!(f, "{}s", decimal(nanos % (60 * second), second))
    }
}

/// `time` in Go's form; a duration past 292 years is printed as that.
pub fn format_go_duration(time: Duration) -> String {
    GoDuration(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)).to_string()
}

/// `value / unit` in decimals, without trailing zeros.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, mut rest) = (value / unit, value % unit);
    let mut out = whole.to_string();
    if rest > 0 {
        out.push('.');
        let mut scale = unit;
        while rest > 0 {
            scale /= 10;
            out.push(char::from(b'0' + u8::try_from(rest / scale).unwrap_or(0)));
            rest %= scale;
        }
    }
    out
}

fn go_unit_nanos(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        // The micro sign and the Greek letter mu.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "d" => 86_400_000_000_000,
        "w" => 604_800_000_000_000,
        _ => return None,
    })
}

/// `0.<digits> × unit`, rounded down. Digits past the eighteenth are worth less than a nanosecond.
fn fraction_of(digits: &str, unit_nanos: i128) -> i128 {
    let digits = &digits[..digits.len().min(18)];
    let scale = (0..digits.len()).fold(1_i128, |scale, _| scale * 10);
    digits.parse::<i128>().map_or(0, |value| value * unit_nanos / scale)
}

fn leading_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Prometheus's units, largest first, with their length in ms.
const PROMETHEUS_UNITS: [(&str, i64); 7] = [
    ("y", 365 * SECONDS_PER_DAY * 1000),
    ("w", 7 * SECONDS_PER_DAY * 1000),
    ("d", SECONDS_PER_DAY * 1000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Parses a duration as Prometheus writes it: whole numbers with the units `y w d h m s ms` in that order, each at most
/// once, no sign; a bare `0` is allowed. `Units:` ms.
///
/// `Source:` prometheus/common `model.ParseDuration`.
pub fn parse_prometheus_duration(text: &str) -> Result<i64, String> {
    if text.is_empty() {
        return Err("empty duration string".into());
    }
    if text == "0" {
        return Ok(0);
    }
    let invalid = || format!("not a valid duration string: {text:?}");
    let (mut rest, mut total_ms, mut units) = (text, 0_i64, PROMETHEUS_UNITS.as_slice());
    while !rest.is_empty() {
        let (digits, after) = leading_digits(rest);
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        let at = units.iter().position(|(name, _)| *name == unit).filter(|_| !digits.is_empty()).ok_or_else(invalid)?;
        let (_, unit_ms) = units[at];
        // Prometheus holds durations in nanoseconds, so that is where the overflow is.
        total_ms = digits
            .parse::<i64>()
            .ok()
            .and_then(|n| n.checked_mul(unit_ms))
            .and_then(|part| part.checked_add(total_ms))
            .filter(|sum| sum.checked_mul(1_000_000).is_some())
            .ok_or("duration out of range")?;
        units = units.get(at + 1..).unwrap_or_default();
        rest = after;
    }
    Ok(total_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: i64 = 3_600 * NANOS_PER_SECOND;

    #[test]
    fn go_durations() {
        let cases: &[(&str, Result<i64, &str>)] = &[
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("5s", Ok(5 * NANOS_PER_SECOND)),
            ("1h30m", Ok(H + H / 2)),
            ("-1.5h", Ok(-H - H / 2)),
            ("+.5s", Ok(NANOS_PER_SECOND / 2)),
            ("1.s", Ok(NANOS_PER_SECOND)),
            ("1d", Ok(24 * H)),
            ("1w2d3h", Ok((7 * 24 + 2 * 24 + 3) * H)),
            ("3us", Ok(3_000)),
            ("3µs", Ok(3_000)),
            ("3μs", Ok(3_000)),
            ("7ns", Ok(7)),
            ("0.3333333333333333333h", Ok(1_199_999_999_999)),
            ("9223372036854775807ns", Ok(i64::MAX)),
            ("-9223372036854775808ns", Ok(i64::MIN)),
            ("9223372036854775808ns", Err("time: invalid duration \"9223372036854775808ns\"")),
            ("99999999999999999999999999999999999999999h", Err("time: invalid duration")),
            ("", Err("time: invalid duration \"\"")),
            ("-", Err("time: invalid duration \"-\"")),
            (".s", Err("time: invalid duration \".s\"")),
            ("5", Err("time: missing unit in duration \"5\"")),
            ("1h5", Err("time: missing unit in duration \"1h5\"")),
            ("5x", Err("time: unknown unit \"x\" in duration \"5x\"")),
            ("1y", Err("time: unknown unit \"y\"")),
            ("1 h", Err("time: unknown unit \" h\"")),
        ];
        for (text, want) in cases {
            match (text.parse::<GoDuration>(), want) {
                (Ok(got), Ok(want)) => assert_eq!(got.0, *want, "{text}"),
                (Err(got), Err(want)) => assert!(got.starts_with(want), "{text}: {got}"),
                (got, want) => panic!("{text}: {got:?} is not {want:?}"),
            }
        }
    }

    #[test]
    fn go_durations_are_printed_as_go_does() {
        for (text, want) in [
            ("0", "0s"),
            ("10m", "10m0s"),
            ("90m", "1h30m0s"),
            ("1.5s", "1.5s"),
            ("250ms", "250ms"),
            ("1us", "1µs"),
            ("1500ns", "1.5µs"),
            ("-1d", "-24h0m0s"),
            ("61.25s", "1m1.25s"),
            ("-9223372036854775808ns", "-2562047h47m16.854775808s"),
        ] {
            let parsed: GoDuration = text.parse().unwrap();
            assert_eq!(parsed.to_string(), want, "{text}");
            assert_eq!(want.parse::<GoDuration>().unwrap(), parsed, "{want}");
        }
        assert_eq!(format_go_duration(Duration::from_secs(600)), "10m0s");
    }

    #[test]
    fn prometheus_durations() {
        let cases: &[(&str, Result<i64, &str>)] = &[
            ("0", Ok(0)),
            ("0s", Ok(0)),
            ("2m", Ok(120_000)),
            ("1y2w3d4h5m6s7ms", Ok(31_536_000_000 + 1_209_600_000 + 259_200_000 + 14_400_000 + 306_007)),
            ("", Err("empty duration string")),
            ("5", Err("not a valid duration string: \"5\"")),
            ("s", Err("not a valid")),
            ("1s1m", Err("not a valid")),
            ("1m1m", Err("not a valid")),
            ("1.5m", Err("not a valid")),
            ("-1m", Err("not a valid")),
            (" 1m", Err("not a valid")),
            ("1ns", Err("not a valid")),
            ("293y", Err("duration out of range")),
            ("99999999999999999999s", Err("duration out of range")),
        ];
        for (text, want) in cases {
            match (parse_prometheus_duration(text), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, *want, "{text}"),
                (Err(got), Err(want)) => assert!(got.starts_with(want), "{text}: {got}"),
                (got, want) => panic!("{text}: {got:?} is not {want:?}"),
            }
        }
    }
}
