//! Upload windows: times of day at which blocks may be uploaded. How they are written, and when one opens. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const DAY_SECONDS: i64 = 24 * 3600;
const EXPECTED: &str = "expected HH:MM-HH:MM in UTC, or with an offset behind it as in 22:00-06:00+01:00";

/// A time of every day at which uploads may run. It may cross midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First minute, counted from midnight of the offset.
    from: u16,
    /// The minute at which it ends; up to 1440.
    to: u16,
    /// Offset from UTC, positive to the east. `Units:` minutes.
    offset: i16,
}

impl Window {
    /// Zero while it is open, else the time until it opens.
    fn opens_in(&self, unix_s: i64) -> Duration {
        let local = unix_s.saturating_add(i64::from(self.offset) * 60).rem_euclid(DAY_SECONDS);
        let (from, to) = (i64::from(self.from) * 60, i64::from(self.to) * 60);
        let is_open = if from < to { (from..to).contains(&local) } else { local >= from || local < to };
        let seconds = if is_open { 0 } else { (from - local).rem_euclid(DAY_SECONDS) };
        Duration::from_secs(seconds.unsigned_abs())
    }
}

/// Zero while any of the windows is open, else the time until the first one opens. Without windows uploads are always
/// allowed.
pub(crate) fn opens_in(windows: &[Window], unix_s: i64) -> Duration {
    windows.iter().map(|window| window.opens_in(unix_s)).min().unwrap_or_default()
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{what}: {text:?}; {EXPECTED}");
        let (times, offset) = text.split_at_checked(11).ok_or_else(|| wrong("not an upload window"))?;
        let (from, to) = times.split_once('-').ok_or_else(|| wrong("not an upload window"))?;
        let from = minutes(from).ok_or_else(|| wrong("not a time of day at the beginning"))?;
        let to = minutes(to).ok_or_else(|| wrong("not a time of day at the end"))?;
        let offset = offset_minutes(offset.trim()).ok_or_else(|| wrong("not an offset from UTC"))?;
        if from == 24 * 60 {
            return Err(wrong("a day begins at 00:00 and not at 24:00"));
        }
        if from == to {
            return Err(wrong("begins and ends in the same minute; for uploads at any time give no window"));
        }
        Ok(Window { from, to, offset })
    }
}

/// `HH:MM` in minutes; up to 24:00.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        let is_number = text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
        is_number.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= 24 * 60).then_some(hours * 60 + minutes)
}

/// `Z`, `+HH:MM` or `-HH:MM` in minutes; an empty text is UTC. No time zone is more than 14 hours away from UTC.
fn offset_minutes(text: &str) -> Option<i16> {
    if matches!(text, "" | "Z") {
        return Some(0);
    }
    let sign = match text.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let offset = i16::try_from(minutes(text.get(1..)?)?).ok()?;
    (offset <= 14 * 60).then_some(sign * offset)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to, offset) = (self.from, self.to, self.offset.unsigned_abs());
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)?;
        match self.offset {
            0 => f.write_str("Z"),
            east => write!(f, "{}{:02}:{:02}", if east > 0 { '+' } else { '-' }, offset / 60, offset % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds since 1970 of `HH:MM:SS` UTC on some day.
    fn at(text: &str) -> i64 {
        let parts: Vec<i64> = text.split(':').map(|part| part.parse().unwrap()).collect();
        20_000 * DAY_SECONDS + parts[0] * 3600 + parts[1] * 60 + parts[2]
    }

    #[test]
    fn when_windows_are_open() {
        let check = |windows: &[&str], now: &str, minutes: u64| {
            let windows: Vec<Window> = windows.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(opens_in(&windows, at(now)), Duration::from_secs(minutes * 60), "{windows:?} at {now}");
        };
        check(&[], "12:00:00", 0);
        check(&["08:00-10:00"], "07:59:00", 1);
        check(&["08:00-10:00"], "08:00:00", 0);
        check(&["08:00-10:00"], "09:59:59", 0);
        check(&["08:00-10:00"], "10:00:00", 22 * 60);
        // Over midnight.
        check(&["22:00-06:00"], "22:00:00", 0);
        check(&["22:00-06:00"], "23:59:59", 0);
        check(&["22:00-06:00"], "00:00:00", 0);
        check(&["22:00-06:00"], "05:59:59", 0);
        check(&["22:00-06:00"], "06:00:00", 16 * 60);
        check(&["22:00-24:00"], "23:59:59", 0);
        check(&["22:00-24:00"], "00:00:00", 22 * 60);
        check(&["22:00-00:00"], "23:59:59", 0);
        check(&["00:00-24:00"], "17:00:00", 0);
        // Elsewhere it is another time of day.
        check(&["22:00-06:00+02:00"], "20:00:00", 0);
        check(&["22:00-06:00+02:00"], "04:00:00", 16 * 60);
        check(&["22:00-06:00 -05:30"], "03:29:00", 1);
        check(&["22:00-06:00-05:30"], "11:29:59", 0);
        check(&["22:00-06:00Z"], "22:00:00", 0);
        // The first of several to open.
        check(&["08:00-09:00", "12:00-13:00"], "10:00:00", 120);
        check(&["08:00-09:00", "12:00-13:00"], "14:00:00", 18 * 60);
        check(&["08:00-09:00", "12:00-13:00"], "12:30:00", 0);
    }

    #[test]
    fn windows_are_read_and_printed() {
        for (text, want) in [
            ("22:00-06:00", "22:00-06:00Z"),
            ("22:00-06:00Z", "22:00-06:00Z"),
            ("00:00-24:00+00:00", "00:00-24:00Z"),
            ("01:30-02:45 +05:45", "01:30-02:45+05:45"),
            ("01:30-02:45-12:00", "01:30-02:45-12:00"),
        ] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), want);
        }
        for (text, want) in [
            ("", "not an upload window"),
            ("night", "not an upload window"),
            ("22:00", "not an upload window"),
            ("22:00/06:00", "not an upload window"),
            ("22:00–06:00", "not an upload window"),
            ("2:00-6:00", "not an upload window"),
            ("02:00-6:00Z", "not a time of day at the end"),
            ("25:00-06:00", "not a time of day at the beginning"),
            ("22:60-06:00", "not a time of day at the beginning"),
            ("24:01-06:00", "not a time of day at the beginning"),
            ("+2:00-06:00", "not a time of day at the beginning"),
            ("22:00-06:60", "not a time of day at the end"),
            ("24:00-06:00", "a day begins at 00:00"),
            ("22:00-22:00", "begins and ends in the same minute"),
            ("22:00-06:00+1", "not an offset"),
            ("22:00-06:00+15:00", "not an offset"),
            ("22:00-06:00UTC", "not an offset"),
            ("22:00-06:00, 08:00-09:00", "not an offset"),
            ("22:00-06:00±01:00", "not an offset"),
        ] {
            let err = text.parse::<Window>().unwrap_err();
            assert!(err.starts_with(want) && err.contains(EXPECTED), "{text}: {err}");
        }
    }
}
