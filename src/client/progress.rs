//! What a line about a long operation says: how much is done, how fast, and how long it will take. Pure: clock and width are
//! handed in.

use std::collections::VecDeque;
use std::time::Duration;

/// Time between two drawings: a person reads no faster.
const REDRAW: Duration = Duration::from_millis(250);
/// The rate is that of the last so many drawings, ten seconds, so that a stall shows.
const SAMPLES_MAX: usize = 40;
/// No rate is said before this time.
const RATE_AFTER: Duration = Duration::from_secs(1);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes, shown in KiB and so on.
    Bytes,
    /// Things of this name, in the plural.
    Things(&'static str),
    /// Nothing: only the time counts.
    Nothing,
}

/// How far an operation is. Times are counted from its beginning.
#[derive(Debug)]
pub(crate) struct Meter {
    what: String,
    unit: Unit,
    done: u64,
    total: Option<u64>,
    drawn: Option<Duration>,
    samples: VecDeque<(Duration, u64)>,
}

impl Meter {
    /// An operation, named by a word or two.
    pub(crate) fn new(what: &str, unit: Unit) -> Meter {
        let samples = VecDeque::from([(Duration::ZERO, 0)]);
        Meter { what: what.to_owned(), unit, done: 0, total: None, drawn: None, samples }
    }

    /// So much more is done.
    pub(crate) fn add(&mut self, n: u64) {
        self.done = self.done.saturating_add(n);
    }

    /// There is so much to be done.
    pub(crate) fn set_total(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// What is being done now.
    pub(crate) fn set_what(&mut self, what: &str) {
        what.clone_into(&mut self.what);
    }

    /// Whether it is time to draw the line, which is then counted as drawn. What is over at once is never drawn.
    pub(crate) fn is_due(&mut self, now: Duration) -> bool {
        let is_due = now >= self.drawn.map_or(REDRAW, |drawn| drawn + REDRAW);
        if is_due {
            self.drawn = Some(now);
            self.samples.push_back((now, self.done));
            if self.samples.len() > SAMPLES_MAX {
                self.samples.pop_front();
            }
        }
        is_due
    }

    /// The line, shorter than `width` columns: a terminal would go on in the next line, which is not erased.
    pub(crate) fn line(&self, now: Duration, width: usize) -> String {
        let amount = |n: u64| match self.unit {
            Unit::Bytes => bytes_text(n),
            Unit::Things(_) | Unit::Nothing => n.to_string(),
        };
        let mut line = self.what.clone();
        match (self.unit, self.total) {
            (Unit::Nothing, _) => {}
            (Unit::Things(name), None) => line.push_str(&format!("  {} {name}", amount(self.done))),
            (Unit::Bytes, None) => line.push_str(&format!("  {}", amount(self.done))),
            (unit, Some(total)) => {
                let name = if let Unit::Things(name) = unit { format!(" {name}") } else { String::new() };
                let percent = self.done.min(total).saturating_mul(100) / total.max(1);
                line.push_str(&format!("  {} of {}{name} ({percent}%)", amount(self.done), amount(total)));
            }
        }
        match self.rate(now) {
            Some(rate) if self.unit != Unit::Nothing => {
                line.push_str(&format!("  {}/s", amount(rate)));
                let left = self.total.map(|total| total.saturating_sub(self.done));
                if let Some(left) = left.filter(|left| rate > 0 && *left > 0) {
                    line.push_str(&format!("  {} left", time_text(left.div_ceil(rate))));
                }
            }
            _ if now >= RATE_AFTER => line.push_str(&format!("  {}", time_text(now.as_secs()))),
            _ => {}
        }
        line.chars().map(|c| if c.is_control() { '?' } else { c }).take(width.saturating_sub(1)).collect()
    }

    /// What is done in a second.
    fn rate(&self, now: Duration) -> Option<u64> {
        let (since, before) = *self.samples.front()?;
        let elapsed = now.checked_sub(since).filter(|elapsed| *elapsed >= RATE_AFTER)?;
        let done = u128::from(self.done.saturating_sub(before));
        u64::try_from(done * 1000 / elapsed.as_millis().max(1)).ok()
    }
}

/// `1.5 GiB`, with as few digits as tell something.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    while tenths >= 10 * 1024
        && let Some(next) = units.next()
    {
        tenths /= 1024;
        unit = next;
    }
    if tenths >= 1000 { format!("{} {unit}", tenths / 10) } else { format!("{}.{} {unit}", tenths / 10, tenths % 10) }
}

/// `1h02m`, `3m05s` or `7s`.
pub(crate) fn time_text(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_is_drawn_four_times_a_second_at_most_and_not_at_once() {
        let mut meter = Meter::new("x", Unit::Bytes);
        let due: Vec<u64> = (0..1000).step_by(10).filter(|now| meter.is_due(ms(*now))).collect();
        assert_eq!(due, [250, 500, 750]);
    }

    #[test]
    fn lines() {
        let check = |unit: Unit, total: Option<u64>, steps: &[(u64, u64)], width: usize, expected: &str| {
            let mut meter = Meter::new("verify", unit);
            total.into_iter().for_each(|total| meter.set_total(total));
            let mut line = String::new();
            for (now, done) in steps {
                meter.add(*done);
                meter.is_due(ms(*now));
                line = meter.line(ms(*now), width);
            }
            assert_eq!(line, expected);
        };
        check(Unit::Bytes, None, &[(300, 10)], 80, "verify  10 B");
        check(Unit::Bytes, None, &[(2000, 3 * MIB)], 80, "verify  3.0 MiB  1.5 MiB/s");
        check(
            Unit::Bytes,
            Some(10 * MIB),
            &[(2000, MIB)],
            80,
            "verify  1.0 MiB of 10.0 MiB (10%)  512 KiB/s  18s left",
        );
        check(Unit::Bytes, Some(10 * MIB), &[(2000, MIB)], 20, "verify  1.0 MiB of ");
        check(Unit::Bytes, Some(10 * MIB), &[(2000, 10 * MIB)], 80, "verify  10.0 MiB of 10.0 MiB (100%)  5.0 MiB/s");
        // What has stalled has no time left, and a wrong total is no more than all.
        check(Unit::Bytes, Some(10), &[(2000, 0)], 80, "verify  0 B of 10 B (0%)  0 B/s");
        check(Unit::Bytes, Some(10), &[(300, 20)], 80, "verify  20 B of 10 B (100%)");
        check(Unit::Bytes, Some(0), &[(300, 0)], 80, "verify  0 B of 0 B (0%)");
        check(Unit::Things("objects"), None, &[(2000, 500)], 80, "verify  500 objects  250/s");
        check(
            Unit::Things("objects"),
            Some(700),
            &[(2000, 500)],
            80,
            "verify  500 of 700 objects (71%)  250/s  1s left",
        );
        check(Unit::Nothing, None, &[(65_000, 0)], 80, "verify  1m05s");
        check(Unit::Bytes, None, &[(300, 10)], 0, "");
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut meter = Meter::new("x", Unit::Things("y"));
        for second in 1..=100_u64 {
            meter.add(if second <= 50 { 1000 } else { 10 });
            for quarter in 0..4 {
                meter.is_due(ms(second * 1000 + quarter * 250));
            }
        }
        assert!(meter.line(ms(101_000), 80).ends_with("  9/s") || meter.line(ms(101_000), 80).ends_with("  10/s"));
    }

    #[test]
    fn what_steers_a_terminal_is_not_passed_on() {
        let mut meter = Meter::new("a", Unit::Nothing);
        meter.set_what("\u{1b}[2Jb\n");
        assert_eq!(meter.line(Duration::ZERO, 80), "?[2Jb?");
    }

    #[test]
    fn sizes_and_times() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (200 * 1024, "200 KiB"),
            (MIB - 1, "1023 KiB"),
            (MIB, "1.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes_text(bytes), expected);
        }
        for (seconds, expected) in [(0, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (7260, "2h01m")] {
            assert_eq!(time_text(seconds), expected);
        }
    }
}
