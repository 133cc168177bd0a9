//! Times and durations as Thanos, Go and Prometheus write them: parsed into milliseconds or nanoseconds and printed
//! back. Never reads the clock. Pure.

mod duration;

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::SignedDuration;
use jiff::civil::DateTime;

pub use duration::{GoDuration, format_go_duration, parse_prometheus_duration};

/// A civil time, for jiff's time stamps end some hours before the year 9999 does.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// `0000-01-01T00:00:00Z`, Thanos's default of `--min-time`. `Units:` ms.
pub const YEAR_ZERO_MS: i64 = -62_167_219_200_000;

/// Parses an RFC 3339 time of the years 0 to 9999. `Units:` ms, rounded down.
pub fn parse_rfc3339_ms(text: &str) -> Result<i64, String> {
    parse_rfc3339(text).map(|(seconds, nanos)| seconds * 1000 + i64::from(nanos / 1_000_000))
}

/// Parses an RFC 3339 time of the years 0 to 9999 into whole seconds since 1970, rounded down, and the nanoseconds past
/// them. Further decimals are cut off.
pub fn parse_rfc3339(text: &str) -> Result<(i64, i32), String> {
    rfc3339(text).map(floor).ok_or_else(|| format!("not an RFC 3339 time: {text:?}"))
}

/// By hand, because jiff's parser takes more than RFC 3339 allows, and refuses more than nine decimals.
fn rfc3339(mut rest: &str) -> Option<SignedDuration> {
    let year = digits(&mut rest, 4)?;
    expect(&mut rest, '-')?;
    let month = digits(&mut rest, 2)?;
    expect(&mut rest, '-')?;
    let day = digits(&mut rest, 2)?;
    expect(&mut rest, 'T')?;
    let hour = digits(&mut rest, 2)?;
    expect(&mut rest, ':')?;
    let minute = digits(&mut rest, 2)?;
    expect(&mut rest, ':')?;
    let second = digits(&mut rest, 2)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        let decimals = fraction.strip_suffix(rest).filter(|decimals| !decimals.is_empty())?;
        nanos = format!("{decimals:0<9}").get(..9)?.parse().ok()?;
    }
    let local = DateTime::new(year, month, day, hour, minute, second, nanos).ok()?;
    let (sign, mut offset) = if rest == "Z" { ("+", "00:00") } else { rest.split_at_checked(1)? };
    let hours = digits::<i64>(&mut offset, 2).filter(|n| *n < 24)?;
    expect(&mut offset, ':')?;
    let minutes = digits::<i64>(&mut offset, 2).filter(|n| *n < 60 && offset.is_empty())?;
    let offset = SignedDuration::from_mins(hours * 60 + minutes);
    let since_epoch = local.duration_since(EPOCH);
    match sign {
        "+" => Some(since_epoch - offset),
        "-" => Some(since_epoch + offset),
        _ => None,
    }
}

/// Only digits, for the parsers of the standard library take a sign too.
fn digits<T: FromStr>(rest: &mut &str, count: usize) -> Option<T> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    head.parse().ok().filter(|_| head.bytes().all(|c| c.is_ascii_digit()))
}

fn expect(rest: &mut &str, c: char) -> Option<()> {
    *rest = rest.strip_prefix(c)?;
    Some(())
}

/// Prints a time in UTC as Go's `RFC3339Nano` does: nine decimals without trailing zeros, none for a whole second.
pub fn format_rfc3339_nano(time: SystemTime) -> String {
    format_utc(since_epoch(time))
}

/// A time beyond the year 9999 is printed as the last of that year.
fn format_utc(since_epoch: SignedDuration) -> String {
    format!("{}Z", EPOCH.saturating_add(since_epoch))
}

fn since_epoch(time: SystemTime) -> SignedDuration {
    let limit = if time < UNIX_EPOCH { SignedDuration::MIN } else { SignedDuration::MAX };
    SignedDuration::system_until(UNIX_EPOCH, time).unwrap_or(limit)
}

/// Milliseconds since 1970, rounded down.
pub fn unix_ms(time: SystemTime) -> i64 {
    let (seconds, nanos) = floor(since_epoch(time));
    seconds.saturating_mul(1000).saturating_add(i64::from(nanos / 1_000_000))
}

/// Whole seconds, rounded down, and the nanoseconds past them.
fn floor(time: SignedDuration) -> (i64, i32) {
    match time.subsec_nanos() {
        nanos if nanos < 0 => (time.as_secs().saturating_sub(1), nanos + 1_000_000_000),
        nanos => (time.as_secs(), nanos),
    }
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

    fn format_rfc3339_ms(ms: i64) -> String {
        format_utc(SignedDuration::from_millis(ms))
    }
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
        for ms in (YEAR_ZERO_MS..=253_402_300_799_000).step_by(17 * 86_400_000) {
            let text = format_rfc3339_ms(ms);
            assert_eq!(parse_rfc3339_ms(&text), Ok(ms), "{text}");
        }
        assert_eq!(format_rfc3339_ms(YEAR_ZERO_MS), "0000-01-01T00:00:00Z");
        assert_eq!(format_rfc3339_ms(253_402_300_799_000), "9999-12-31T23:59:59Z");
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
