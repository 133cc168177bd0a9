//! What the check finds, and how it is shown. Pure.

use serde_json::json;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// It works, and something is or will be amiss.
    Warning,
    /// It keeps the sidecar from starting, from answering, or from uploading.
    Error,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }

    /// The colour of its word, as terminals have it.
    fn colour(self) -> &'static str {
        match self {
            Level::Ok => "\u{1b}[32m",
            Level::Note => "\u{1b}[36m",
            Level::Warning => "\u{1b}[33m",
            Level::Error => "\u{1b}[31m",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// How much it matters.
    pub(crate) level: Level,
    /// The part of the check that found it.
    pub(crate) what: &'static str,
    /// What was found.
    pub(crate) text: String,
    /// What to change; empty where nothing is to be changed.
    pub(crate) change: String,
}

/// How findings are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A line of text each, with or without colours.
    Text {
        /// Whether the terminal shows colours.
        coloured: bool,
    },
    /// A JSON value on a line each.
    Json,
}

impl Finding {
    /// The line, with its end. What others have said steers no terminal and ends no line.
    pub(crate) fn line(&self, style: Style) -> String {
        let Finding { level, what, text, change } = self;
        let word = level.word();
        let coloured = match style {
            Style::Json => {
                let value = json!({"level": word, "what": what, "text": text, "change": change});
                return format!("{value}\n");
            }
            Style::Text { coloured } => coloured,
        };
        let padding = " ".repeat(9_usize.saturating_sub(word.len()));
        let word = if coloured { format!("{}{word}\u{1b}[0m", level.colour()) } else { word.to_owned() };
        let change = if change.is_empty() { String::new() } else { format!("; to do: {}", printable(change)) };
        format!("{word}{padding}{what}: {}{change}\n", printable(text))
    }
}

fn printable(text: &str) -> String {
    let escaped = |c: char| match c {
        '\n' | '\t' => " ".to_owned(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.trim_end().chars().map(escaped).collect()
}

/// How many findings of each kind there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Warnings.
    pub(crate) n_warnings: usize,
    /// Errors.
    pub(crate) n_errors: usize,
}

impl Summary {
    /// Counts one more.
    pub(crate) fn add(&mut self, level: Level) {
        match level {
            Level::Ok | Level::Note => {}
            Level::Warning => self.n_warnings += 1,
            Level::Error => self.n_errors += 1,
        }
    }

    /// Whether nothing keeps the sidecar from its work.
    pub(crate) fn is_well(self) -> bool {
        self.n_errors == 0
    }

    /// The last line of a text.
    pub(crate) fn line(self) -> String {
        let counted = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        let counts = format!("{}, {}", counted(self.n_errors, "error"), counted(self.n_warnings, "warning"));
        match self.is_well() {
            true => format!("{counts}: the sidecar would start with these flags\n"),
            false => format!("{counts}: with these flags the sidecar would not start, answer or upload as it should\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_whatever_it_quotes() {
        let finding = |level: Level, text: &str, change: &str| Finding {
            level,
            what: "bucket",
            text: text.to_owned(),
            change: change.to_owned(),
        };
        let check = |finding: &Finding, style: Style, expected: &str| assert_eq!(finding.line(style), expected);
        let (plain, coloured) = (Style::Text { coloured: false }, Style::Text { coloured: true });
        check(&finding(Level::Ok, "is there", ""), plain, "ok       bucket: is there\n");
        check(&finding(Level::Ok, "is there", ""), coloured, "\u{1b}[32mok\u{1b}[0m       bucket: is there\n");
        let odd = finding(Level::Warning, "a\nb\u{1b}[2J\n", "c");
        check(&odd, plain, "warning  bucket: a b\\u{1b}[2J; to do: c\n");
        check(
            &finding(Level::Error, "a\nb", "c"),
            Style::Json,
            "{\"change\":\"c\",\"level\":\"error\",\"text\":\"a\\nb\",\"what\":\"bucket\"}\n",
        );
    }

    #[test]
    fn warnings_do_not_keep_it_from_starting() {
        let mut summary = Summary::default();
        for level in [Level::Ok, Level::Note, Level::Warning] {
            summary.add(level);
        }
        assert_eq!(summary.line(), "0 errors, 1 warning: the sidecar would start with these flags\n");
        summary.add(Level::Error);
        assert!(
            !summary.is_well() && summary.line().starts_with("1 error, 1 warning: with these flags"),
            "{summary:?}"
        );
    }
}
