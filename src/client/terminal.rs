//! The line about a long operation on the terminal that standard error is. Nothing is written where it is none, or one that
//! cannot go back to the beginning of a line. The line is erased before anything else is written.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::time::Instant;

use super::progress::{Meter, Unit};

/// Columns of a terminal that does not say how many it has.
const WIDTH: usize = 80;
/// To the first column, and nothing behind it.
const ERASE: &str = "\r\u{1b}[K";

/// The line of one operation; erased with the value.
pub(crate) struct Progress(Option<RefCell<Line>>);

struct Line {
    meter: Meter,
    begun: Instant,
    is_drawn: bool,
}

impl Progress {
    /// For an operation whose own output goes to standard output now and then.
    pub(crate) fn new(what: &str, unit: Unit) -> Progress {
        let line = || Line { meter: Meter::new(what, unit), begun: Instant::now(), is_drawn: false };
        Progress((!is_dumb() && std::io::stderr().is_terminal()).then(|| RefCell::new(line())))
    }

    /// For one that writes all the time, and needs no such line where that is seen.
    pub(crate) fn beside_output(what: &str, unit: Unit) -> Progress {
        if std::io::stdout().is_terminal() { Progress(None) } else { Progress::new(what, unit) }
    }

    /// Whether anybody sees it.
    pub(crate) fn is_shown(&self) -> bool {
        self.0.is_some()
    }

    /// So much more is done.
    pub(crate) fn add(&self, n: u64) {
        self.change(|meter| meter.add(n));
    }

    /// There is so much to be done.
    pub(crate) fn set_total(&self, total: u64) {
        self.change(|meter| meter.set_total(total));
    }

    /// What is being done now.
    pub(crate) fn set_what(&self, what: &str) {
        self.change(|meter| meter.set_what(what));
    }

    fn change(&self, change: impl FnOnce(&mut Meter)) {
        let Some(line) = &self.0 else { return };
        let mut line = line.borrow_mut();
        change(&mut line.meter);
        let now = line.begun.elapsed();
        if line.meter.is_due(now) {
            line.is_drawn = true;
            write(&format!("{ERASE}{}", line.meter.line(now, width())));
        }
    }

    /// Makes room for other output.
    pub(crate) fn erase(&self) {
        let Some(line) = &self.0 else { return };
        if std::mem::take(&mut line.borrow_mut().is_drawn) {
            write(ERASE);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.erase();
    }
}

/// Whether standard output is a terminal that shows colours to somebody who wants them.
///
/// `Source:` no-color.org: `NO_COLOR` that is not empty.
pub(crate) fn shows_colours() -> bool {
    let is_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    is_wanted && !is_dumb() && std::io::stdout().is_terminal()
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// A terminal that has gone away is no reason to stop.
fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    if size == 0 { WIDTH } else { size }
}
