//! Times and durations as Thanos, Go and Prometheus write them: parsed into milliseconds or nanoseconds and printed
//! back. Never reads the clock. Pure.

mod duration;

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

pub use duration::{GoDuration, format_go_duration, format_prometheus_duration, parse_prometheus_duration};

const SECONDS_PER_DAY: i64 = 86_400;
/// `0000-01-01T00:00:00Z`, Thanos's default of `--min-time`. `Units:` ms.
pub const YEAR_ZERO_MS: i64 = -62_167_219_200_000;

/// Parses an RFC 3339 time of the years 0 to 9999. `Units:` ms, rounded down.
pub fn parse_rfc3339_ms(text: &str) -> Result<i64, String> {
    parse_rfc3339(text).map(|(seconds, nanos)| milliseconds(seconds, nanos))
}

/// Parses an RFC 3339 time of the years 0 to 9999 into whole seconds since 1970, rounded down, and the nanoseconds past
/// them. Further decimals are cut off.
pub fn parse_rfc3339(text: &str) -> Result<(i64, i32), String> {
    rfc3339(text.as_bytes()).ok_or_else(|| format!("not an RFC 3339 time: {text:?}"))
}

fn milliseconds(seconds: i64, nanos: i32) -> i64 {
    seconds * 1000 + i64::from(nanos / 1_000_000)
}

fn rfc3339(mut rest: &[u8]) -> Option<(i64, i32)> {
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
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let len = fraction.iter().take_while(|c| c.is_ascii_digit()).count();
        let (digits, after) = fraction.split_at_checked(len).filter(|_| len > 0)?;
        for digit in digits.iter().chain([b'0'; 9].iter()).take(9) {
            nanos = nanos * 10 + i32::from(digit - b'0');
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
    Some((seconds - offset_seconds, nanos))
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
        if let Ok(ms) = parse_rfc3339_ms(text) {
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
    use std::time::Duration;

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
    fn rfc3339_times_to_the_nanosecond() {
        for (text, want) in [
            ("2024-02-29T12:00:00.123456789Z", (1_709_208_000, 123_456_789)),
            ("2024-02-29T12:00:00.1234567899+02:00", (1_709_200_800, 123_456_789)),
            ("1969-12-31T23:59:59.5Z", (-1, 500_000_000)),
            ("0001-01-01T00:00:00Z", (-62_135_596_800, 0)),
        ] {
            assert_eq!(parse_rfc3339(text), Ok(want), "{text}");
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
