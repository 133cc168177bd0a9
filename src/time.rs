//! Times and durations as Thanos, Go and Prometheus write them: parsed into milliseconds or nanoseconds and printed
//! back. Never reads the clock. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: i64 = 86_400;
const NANOS_PER_SECOND: i64 = 1_000_000_000;
/// `0000-01-01T00:00:00Z`, Thanos's default of `--min-time`. `Units:` ms.
pub const YEAR_ZERO_MS: i64 = -62_167_219_200_000;

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

/// Prints a duration as Prometheus does: `2h`, `1d12h`, `0s`; years and weeks only where nothing remains.
pub fn format_prometheus_duration(ms: i64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    let mut out = String::new();
    if ms < 0 {
        out.push('-');
    }
    let mut rest = ms.unsigned_abs();
    for (name, unit_ms) in PROMETHEUS_UNITS {
        let unit_ms = unit_ms.unsigned_abs();
        if matches!(name, "y" | "w") && rest % unit_ms != 0 {
            continue;
        }
        if rest >= unit_ms {
            out.push_str(&format!("{}{name}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    out
}

/// Parses an RFC 3339 time of the years 0 to 9999. `Units:` ms, rounded down.
pub fn parse_rfc3339_ms(text: &str) -> Result<i64, String> {
    rfc3339(text.as_bytes()).ok_or_else(|| format!("not an RFC 3339 time: {text:?}"))
}

fn rfc3339(mut rest: &[u8]) -> Option<i64> {
    let year = digits(&mut rest, 4)?;
    expect(&mut rest, b'-')?;
    let month = digits(&mut rest, 2).filter(|n| (1..=12).contains(n))?;
    expect(&mut rest, b'-')?;
    let day = digits(&mut rest, 2).filter(|n| (1..=days_in_month(year, month)).contains(n))?;
    expect(&mut rest, b'T')?;
    let hour = digits(&mut rest, 2).filter(|n| *n < 24)?;
    expect(&mut rest, b':')?;
    let minute = digits(&mut rest, 2).filter(|n| *n < 60)?;
    expect(&mut rest, b':')?;
    let second = digits(&mut rest, 2).filter(|n| *n < 60)?;
    let mut ms = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let len = fraction.iter().take_while(|c| c.is_ascii_digit()).count();
        let (digits, after) = fraction.split_at_checked(len).filter(|_| len > 0)?;
        for scale in [100, 10, 1].iter().zip(digits) {
            ms += scale.0 * i64::from(scale.1 - b'0');
        }
        rest = after;
    }
    let offset_seconds = match rest {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), ..] => {
            rest = rest.get(1..)?;
            let hours = digits(&mut rest, 2).filter(|n| *n < 24)?;
            expect(&mut rest, b':')?;
            let minutes = digits(&mut rest, 2).filter(|n| *n < 60)?;
            if !rest.is_empty() {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let seconds = days_from_civil(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
    Some((seconds - offset_seconds) * 1000 + ms)
}

fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    head.iter().try_fold(0, |sum, c| c.is_ascii_digit().then(|| sum * 10 + i64::from(c - b'0')))
}

fn expect(rest: &mut &[u8], byte: u8) -> Option<()> {
    *rest = rest.strip_prefix(&[byte])?;
    Some(())
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar: years are counted from March, so that the leap day comes
/// last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`]: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// Prints a time in UTC as Go's `RFC3339Nano` does: nine decimals without trailing zeros, none for a whole second.
pub fn format_rfc3339_nano(time: SystemTime) -> String {
    let (seconds, nanos) = since_epoch(time);
    let mut out = format_seconds(seconds);
    if nanos > 0 {
        let fraction = format!(".{nanos:09}");
        out.push_str(fraction.trim_end_matches('0'));
    }
    out.push('Z');
    out
}

/// Prints milliseconds since 1970 as an RFC 3339 time in UTC, with decimals only where there are any.
pub fn format_rfc3339_ms(ms: i64) -> String {
    let mut out = format_seconds(ms.div_euclid(1000));
    match ms.rem_euclid(1000) {
        0 => {}
        fraction => out.push_str(format!(".{fraction:03}").trim_end_matches('0')),
    }
    out.push('Z');
    out
}

fn format_seconds(seconds: i64) -> String {
    let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Whole seconds since 1970, rounded down, and the nanoseconds past them.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanos => (seconds.saturating_sub(1), 1_000_000_000 - nanos),
            }
        }
    }
}

/// Milliseconds since 1970, rounded down.
pub fn unix_ms(time: SystemTime) -> i64 {
    let (seconds, nanos) = since_epoch(time);
    seconds.saturating_mul(1000).saturating_add(i64::from(nanos / 1_000_000))
}

/// A point in time that is either fixed or moves with the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeOrDuration {
    /// Milliseconds since 1970.
    Absolute(i64),
    /// Milliseconds to add to the present; usually negative.
    Relative(i64),
}

impl TimeOrDuration {
    /// The point in time, when it is now `now_ms`.
    pub fn at(self, now_ms: i64) -> i64 {
        match self {
            TimeOrDuration::Absolute(ms) => ms,
            TimeOrDuration::Relative(ms) => now_ms.saturating_add(ms),
        }
    }
}

/// As `--min-time` is written: an RFC 3339 time, or a duration of Prometheus's form with an optional leading `-`.
impl FromStr for TimeOrDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(ms) = rfc3339(text.as_bytes()) {
            return Ok(TimeOrDuration::Absolute(ms));
        }
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
        parse_prometheus_duration(digits).map(|ms| TimeOrDuration::Relative(sign * ms)).map_err(|err| match text {
            "" => "empty, give an RFC 3339 time or a duration such as -1d".to_owned(),
            _ => format!("{err}; give an RFC 3339 time or a duration such as -1d"),
        })
    }
}

/// As the read commands take times: what `--min-time` takes, or seconds since 1970 with or without decimals.
pub fn parse_query_time(text: &str) -> Result<TimeOrDuration, String> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    if unsigned.starts_with(|c: char| c.is_ascii_digit()) && unsigned.bytes().all(|c| c.is_ascii_digit() || c == b'.') {
        // Thousandths are shifted in as text: a float would turn 1.001 into 1000 ms.
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let ms_text: String = fraction.chars().chain("000".chars()).take(3).collect();
        let ms = format!("{whole}{ms_text}").parse::<i64>().ok().filter(|_| !fraction.contains('.'));
        let ms = ms.ok_or_else(|| format!("not a number of seconds: {text:?}"))?;
        return Ok(TimeOrDuration::Absolute(if unsigned.len() < text.len() { -ms } else { ms }));
    }
    text.parse().map_err(|err: String| err.replace("an RFC 3339 time", "an RFC 3339 time, seconds since 1970"))
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

    #[test]
    fn prometheus_durations_are_printed_as_prometheus_does() {
        for (ms, want) in [
            (0, "0s"),
            (7_200_000, "2h"),
            (129_600_000, "1d12h"),
            (604_800_000, "1w"),
            (691_200_000, "8d"),
            (31_536_000_000, "1y"),
            (1_500, "1s500ms"),
            (-60_000, "-1m"),
        ] {
            assert_eq!(format_prometheus_duration(ms), want);
        }
    }

    #[test]
    fn rfc3339_times() {
        for (text, want) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("0000-01-01T00:00:00Z", Some(YEAR_ZERO_MS)),
            ("9999-12-31T23:59:59Z", Some(253_402_300_799_000)),
            ("2024-02-29T12:00:00.123456789Z", Some(1_709_208_000_123)),
            ("2024-02-29T12:00:00.5+02:00", Some(1_709_200_800_500)),
            ("1969-12-31T23:59:59.9-00:30", Some(1_799_900)),
            ("2023-02-29T12:00:00Z", None),
            ("1900-02-29T12:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-01-01T24:00:00Z", None),
            ("2024-01-01T00:00:60Z", None),
            ("2024-01-01T00:00:00", None),
            ("2024-01-01T00:00:00.Z", None),
            ("2024-01-01 00:00:00Z", None),
            ("2024-01-01T00:00:00Z ", None),
            ("2024-01-01T00:00:00+25:00", None),
            ("+024-01-01T00:00:00Z", None),
            ("10000-01-01T00:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(parse_rfc3339_ms(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn every_day_of_the_calendar_survives_the_way_there_and_back() {
        for days in (days_from_civil(0, 1, 1)..=days_from_civil(9999, 12, 31)).step_by(17) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
            let text = format_rfc3339_ms(days * 86_400_000);
            assert_eq!(parse_rfc3339_ms(&text), Ok(days * 86_400_000), "{text}");
        }
    }

    #[test]
    fn times_are_printed_as_go_does() {
        let at = |seconds, nanos| UNIX_EPOCH + Duration::new(seconds, nanos);
        for (time, want) in [
            (at(0, 0), "1970-01-01T00:00:00Z"),
            (at(1_767_323_045, 123_456_789), "2026-01-02T03:04:05.123456789Z"),
            (at(1_767_323_045, 120_000_000), "2026-01-02T03:04:05.12Z"),
            (at(1_767_323_045, 1), "2026-01-02T03:04:05.000000001Z"),
            (UNIX_EPOCH - Duration::from_millis(1), "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format_rfc3339_nano(time), want);
        }
        assert_eq!(unix_ms(at(5, 1_999_999)), 5_001);
        assert_eq!(unix_ms(UNIX_EPOCH - Duration::from_nanos(1)), -1);
        assert_eq!(format_rfc3339_ms(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn min_time() {
        for (text, want) in [
            ("0000-01-01T00:00:00Z", Ok(TimeOrDuration::Absolute(YEAR_ZERO_MS))),
            ("-1d", Ok(TimeOrDuration::Relative(-86_400_000))),
            ("2h", Ok(TimeOrDuration::Relative(7_200_000))),
            ("", Err("empty, give an RFC 3339 time or a duration such as -1d")),
            ("-", Err("empty duration string; give")),
            ("--1d", Err("not a valid duration string: \"-1d\"; give")),
            ("yesterday", Err("not a valid duration string: \"yesterday\"; give")),
        ] {
            match (text.parse::<TimeOrDuration>(), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{text}"),
                (Err(got), Err(want)) => assert!(got.starts_with(want), "{text}: {got}"),
                (got, want) => panic!("{text}: {got:?} is not {want:?}"),
            }
        }
        assert_eq!(TimeOrDuration::Relative(-5).at(7), 2);
        assert_eq!(TimeOrDuration::Relative(-5).at(i64::MIN), i64::MIN);
    }

    #[test]
    fn query_times() {
        for (text, want) in [
            ("1700000000", Some(TimeOrDuration::Absolute(1_700_000_000_000))),
            ("1700000000.001", Some(TimeOrDuration::Absolute(1_700_000_000_001))),
            ("1.0019", Some(TimeOrDuration::Absolute(1_001))),
            ("-1.5", Some(TimeOrDuration::Absolute(-1_500))),
            ("0", Some(TimeOrDuration::Absolute(0))),
            ("-1h", Some(TimeOrDuration::Relative(-3_600_000))),
            ("1970-01-01T00:00:01Z", Some(TimeOrDuration::Absolute(1_000))),
            ("1.2.3", None),
            ("99999999999999999999", None),
            ("1e9", None),
            (".", None),
            ("", None),
            ("-", None),
        ] {
            assert_eq!(parse_query_time(text).ok(), want, "{text}");
        }
    }
}
