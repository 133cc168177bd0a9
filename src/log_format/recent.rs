//! The last warnings and errors of the log, for whoever asks what went wrong lately. The same complaint again only counts.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use log::Level;

use super::{Line, level_name};
use crate::limits;

/// Those of this process, which has one log.
static RECENT: Mutex<VecDeque<Recent>> = Mutex::new(VecDeque::new());

/// A warning or an error that was logged, perhaps many times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recent {
    /// When it was logged first and last, as the log has it.
    pub(crate) first: String,
    /// See `first`.
    pub(crate) last: String,
    /// How often.
    pub(crate) n: u64,
    /// `warn` or `error`.
    pub(crate) level: &'static str,
    /// The part that logged it.
    pub(crate) component: String,
    /// What was said last.
    pub(crate) message: String,
    /// Its keys and values, in their order.
    pub(crate) fields: Vec<(String, String)>,
    /// What makes it the same complaint: where it was logged and what was said, without numbers.
    key: String,
}

/// The last ones, the newest first.
pub(crate) fn recent() -> Vec<Recent> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
}

/// Remembers a line that is printed, if it is a warning or an error.
pub(super) fn remember(line: &Line) {
    if line.level <= Level::Warn {
        let recent = Recent::of(line);
        note(&mut RECENT.lock().unwrap_or_else(PoisonError::into_inner), recent);
    }
}

fn note(list: &mut VecDeque<Recent>, mut new: Recent) {
    if let Some(idx) = list.iter().position(|old| old.key == new.key)
        && let Some(old) = list.remove(idx)
    {
        (new.first, new.n) = (old.first, old.n.saturating_add(1));
    }
    if list.len() >= limits::RECENT_LINES_MAX {
        list.pop_front();
    }
    list.push_back(new);
}

impl Recent {
    fn of(line: &Line) -> Recent {
        let component = line.context.iter().find(|(key, _)| key == "component");
        let fields = line.fields.iter().take(limits::RECENT_FIELDS_MAX);
        let fields: Vec<_> = fields.map(|(key, value)| (short(key), short(&value.text()))).collect();
        let message = short(&line.msg);
        let said = fields.iter().filter(|(key, _)| key == "err" || key == "block").map(|(_, value)| value.as_str());
        let said: String = said.chain([message.as_str()]).collect();
        let key = format!("{} {}", line.caller, said.replace(|c: char| c.is_ascii_digit(), ""));
        Recent {
            first: line.ts.clone(),
            last: line.ts.clone(),
            n: 1,
            level: level_name(line.level),
            component: component.map(|(_, value)| value.text().into_owned()).unwrap_or_default(),
            message,
            fields,
            key,
        }
    }
}

/// The beginning of a text that others may have made long.
fn short(text: &str) -> String {
    match text.char_indices().nth(limits::RECENT_TEXT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Field;
    use super::*;

    fn line(ts: &str, caller: &str, msg: &str, err: &str) -> Recent {
        Recent::of(&Line {
            ts: ts.into(),
            caller: caller.into(),
            level: Level::Warn,
            context: vec![("component".into(), Field::Text("shipper".into()))],
            msg: msg.into(),
            fields: vec![("err".into(), Field::Text(err.into())), ("n".into(), Field::Number(ts.into()))],
        })
    }

    #[test]
    fn the_same_complaint_counts_and_the_oldest_goes() {
        let mut list = VecDeque::new();
        note(&mut list, line("1", "a.rs:1", "failed", "refused by 10.0.0.1 after 5 s"));
        note(&mut list, line("2", "a.rs:1", "failed", "other"));
        note(&mut list, line("3", "a.rs:1", "failed", "refused by 10.0.0.2 after 12 s"));
        note(&mut list, line("4", "b.rs:1", "failed", "other"));
        let seen: Vec<_> = list.iter().map(|one| (one.first.as_str(), one.last.as_str(), one.n)).collect();
        assert_eq!(seen, [("2", "2", 1), ("1", "3", 2), ("4", "4", 1)]);
        let twice = &list[1];
        assert_eq!((twice.level, twice.component.as_str(), twice.message.as_str()), ("warn", "shipper", "failed"));
        let fields = [("err", "refused by 10.0.0.2 after 12 s"), ("n", "3")];
        assert_eq!(twice.fields, fields.map(|(key, value)| (key.to_owned(), value.to_owned())));
        for n in 0..100 {
            note(&mut list, line("5", &format!("c.rs:{}", "x".repeat(n)), "m", ""));
        }
        assert_eq!(list.len(), limits::RECENT_LINES_MAX);
    }

    #[test]
    fn a_long_text_is_cut() {
        let long = line("1", "a.rs:1", &"é".repeat(10_000), "");
        assert_eq!(long.message.chars().count(), limits::RECENT_TEXT_CHARS_MAX + 1);
    }
}
