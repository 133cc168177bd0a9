//! The log of each history, to find out whether a loss was named. One logger serves all tests of the program: a line
//! belongs to a history if its tag is in it, which is part of all names of blocks and folders of that history.

use std::fmt::Write;
use std::sync::{Mutex, Once};

use log::kv::{Error, Key, Value, VisitSource};

static LISTENING: Mutex<Vec<(String, Vec<String>)>> = Mutex::new(Vec::new());
static SET: Once = Once::new();

struct Logger;

struct Pairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let _ = write!(self.0, " {key}={value}");
        Ok(())
    }
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut line = format!("{} {}", record.level(), record.args());
        let _ = record.key_values().visit(&mut Pairs(&mut line));
        for (tag, lines) in LISTENING.lock().unwrap().iter_mut() {
            if line.contains(tag.as_str()) {
                lines.push(line.clone());
            }
        }
    }

    fn flush(&self) {}
}

/// Begins to keep the lines with this tag.
pub(crate) fn listen(tag: &str) {
    SET.call_once(|| {
        log::set_boxed_logger(Box::new(Logger)).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
    LISTENING.lock().unwrap().push((tag.to_owned(), Vec::new()));
}

/// The lines since the last call.
pub(crate) fn take(tag: &str) -> Vec<String> {
    let mut listening = LISTENING.lock().unwrap();
    let lines = listening.iter_mut().find(|(known, _)| known == tag).map(|(_, lines)| std::mem::take(lines));
    lines.unwrap_or_default()
}

/// Keeps no more lines.
pub(crate) fn stop_listening(tag: &str) {
    LISTENING.lock().unwrap().retain(|(known, _)| known != tag);
}
