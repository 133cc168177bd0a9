//! The lines of the log: logfmt as go-kit writes it, JSON, and logfmt with a priority for the journal. The lines are
//! built by pure functions; only [`init`] touches the process.

mod complaints;
mod logfmt;
mod recent;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Instant, SystemTime};

use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Record};

pub(crate) use complaints::n_complaints;
use logfmt::{logfmt_pair, logfmt_raw};
use pillion_base::error::{Error, Kind, Result};
use pillion_base::time::format_rfc3339_nano;
pub(crate) use recent::{Recent, recent};

/// The least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogLevel {
    /// Only what needs somebody.
    Error,
    /// What may need somebody.
    Warn,
    /// What happens once in a while.
    Info,
    /// Everything.
    Debug,
}

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// `key=value` lines.
    Logfmt,
    /// One JSON object on a line.
    Json,
    /// `key=value` lines that begin with the priority in the way systemd reads it.
    Journald,
}

/// Sends the log to standard error from now on.
///
/// `debug_name` is in every line when it is not empty. `Errors:` when the process has a logger already.
pub(crate) fn init(level: LogLevel, format: LogFormat, debug_name: &str) -> Result<()> {
    let own = level_filter(level);
    let debug_name = debug_name.to_owned();
    let heard = complaints::Heard::default();
    env_logger::Builder::new()
        // Libraries are heard only when something is wrong. The gRPC core's own records have no target at all.
        .filter_level(own.min(LevelFilter::Warn))
        .filter_module("pillion", own)
        // What strangers send is no warning, and would be one for each of their connections. Why a handshake failed is
        // told by those who made it.
        .filter_module("rustls", own.min(LevelFilter::Error))
        .target(env_logger::Target::Stderr)
        .format(move |out, record| {
            let mut line = Line::of(record, SystemTime::now(), &debug_name);
            if record.target().is_empty() && (!heard.passes(&mut line, Instant::now()) || line.level > own) {
                return Ok(());
            }
            recent::remember(&line);
            out.write_all(line.print(format).as_bytes())
        })
        .try_init()
        .map_err(|err| Error::new(Kind::Permanent, err.to_string()).context("failed to create logger"))
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    }
}

/// A value that was logged.
#[derive(Debug, Clone, PartialEq)]
enum Field {
    Null,
    Bool(bool),
    /// A number, already printed.
    Number(String),
    Text(String),
}

/// One line of the log before it is printed.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    ts: String,
    caller: String,
    level: Level,
    /// Name, service and component, in this order and as far as there are any.
    context: Vec<(String, Field)>,
    msg: String,
    fields: Vec<(String, Field)>,
}

impl Line {
    fn of(record: &Record<'_>, now: SystemTime, debug_name: &str) -> Line {
        let file = record.file().and_then(|file| Path::new(file).file_name()?.to_str()).unwrap_or("unknown");
        let mut fields = Fields(Vec::new());
        // Collecting into a Vec cannot fail.
        let _ = record.key_values().visit(&mut fields);
        let (given, fields): (Vec<_>, Vec<_>) =
            fields.0.into_iter().partition(|(key, _)| key == "service" || key == "component");
        let mut context = Vec::new();
        if !debug_name.is_empty() {
            context.push(("name".to_owned(), Field::Text(debug_name.to_owned())));
        }
        let value_of = |name: &str| given.iter().find(|(key, _)| key == name).cloned();
        context.extend(value_of("service"));
        let component = || ("component".to_owned(), Field::Text(component(record.target()).to_owned()));
        context.push(value_of("component").unwrap_or_else(component));
        Line {
            ts: format_rfc3339_nano(now),
            caller: format!("{file}:{}", record.line().unwrap_or(0)),
            level: record.level(),
            context,
            msg: record.args().to_string(),
            fields,
        }
    }

    /// The line with its line feed.
    fn print(&self, format: LogFormat) -> String {
        match format {
            LogFormat::Logfmt => self.logfmt(true),
            // systemd takes the priority off and has its own time of the line.
            LogFormat::Journald => format!("<{}>{}", priority(self.level), self.logfmt(false)),
            LogFormat::Json => self.json(),
        }
    }

    fn logfmt(&self, with_ts: bool) -> String {
        let mut out = String::with_capacity(160);
        if with_ts {
            logfmt_pair(&mut out, "ts", &self.ts);
        }
        logfmt_pair(&mut out, "caller", &self.caller);
        logfmt_pair(&mut out, "level", level_name(self.level));
        for (key, field) in &self.context {
            logfmt_pair(&mut out, key, &field.text());
        }
        if !self.msg.is_empty() {
            logfmt_pair(&mut out, "msg", &self.msg);
        }
        for (key, field) in &self.fields {
            match field {
                // Unlike the text `null`, which is quoted.
                Field::Null => logfmt_raw(&mut out, key, "null"),
                field => logfmt_pair(&mut out, key, &field.text()),
            }
        }
        out.push('\n');
        out
    }

    /// One object, its keys in alphabetical order; of a key given twice the last counts.
    fn json(&self) -> String {
        let text = |text: &str| Field::Text(text.to_owned()).json();
        let mut object: BTreeMap<&str, serde_json::Value> = BTreeMap::new();
        object.insert("ts", text(&self.ts));
        object.insert("caller", text(&self.caller));
        object.insert("level", text(level_name(self.level)));
        if !self.msg.is_empty() {
            object.insert("msg", text(&self.msg));
        }
        for (key, field) in self.context.iter().chain(&self.fields) {
            object.insert(key, field.json());
        }
        let mut out = serde_json::to_string(&object).unwrap_or_default();
        out.push('\n');
        out
    }
}

impl Field {
    fn text(&self) -> Cow<'_, str> {
        match self {
            Field::Null => "null".into(),
            Field::Bool(value) => value.to_string().into(),
            Field::Number(text) | Field::Text(text) => text.into(),
        }
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Field::Null => serde_json::Value::Null,
            Field::Bool(value) => (*value).into(),
            // What is no number in JSON, such as NaN, is given as text.
            Field::Number(text) => serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
            Field::Text(text) => text.as_str().into(),
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug | Level::Trace => "debug",
    }
}

/// The priority as syslog counts it.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// The part of the daemon that a line is about, where the line does not say so with a key of its own. A line says it with
/// its target, `pillion/<component>`; any other target of ours is the sidecar as a whole.
fn component(target: &str) -> &str {
    if let Some(component) = target.strip_prefix("pillion/") {
        return component;
    }
    match target.split("::").next() {
        None | Some("") => "grpc-core",
        Some(ours) if ours.starts_with("pillion") => "sidecar",
        Some(library) => library,
    }
}

struct Fields(Vec<(String, Field)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> std::result::Result<(), kv::Error> {
        let mut visitor = FieldOf(Field::Null);
        value.visit(&mut visitor)?;
        self.0.push((key.to_string(), visitor.0));
        Ok(())
    }
}

struct FieldOf(Field);

impl<'v> VisitValue<'v> for FieldOf {
    fn visit_any(&mut self, value: Value<'_>) -> std::result::Result<(), kv::Error> {
        self.0 = Field::Text(value.to_string());
        Ok(())
    }

    fn visit_null(&mut self) -> std::result::Result<(), kv::Error> {
        self.0 = Field::Null;
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> std::result::Result<(), kv::Error> {
        self.0 = Field::Bool(value);
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> std::result::Result<(), kv::Error> {
        self.0 = Field::Number(value.to_string());
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> std::result::Result<(), kv::Error> {
        self.0 = Field::Number(value.to_string());
        Ok(())
    }

    fn visit_i128(&mut self, value: i128) -> std::result::Result<(), kv::Error> {
        self.0 = Field::Number(value.to_string());
        Ok(())
    }

    fn visit_u128(&mut self, value: u128) -> std::result::Result<(), kv::Error> {
        self.0 = Field::Number(value.to_string());
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> std::result::Result<(), kv::Error> {
        self.0 = Field::Number(value.to_string());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    /// Hands a record to `check`; its text and its pairs must outlive it, hence no return value.
    fn with_line(
        target: &str,
        level: Level,
        msg: &str,
        pairs: &[(&str, Value<'_>)],
        debug_name: &str,
        check: impl FnOnce(Line),
    ) {
        let record_pairs = pairs.to_vec();
        let now = UNIX_EPOCH + Duration::new(1_767_323_045, 123_456_000);
        check(Line::of(
            &Record::builder()
                .target(target)
                .level(level)
                .file(Some("src/a/mod.rs"))
                .line(Some(12))
                .args(format_args!("{msg}"))
                .key_values(&record_pairs)
                .build(),
            now,
            debug_name,
        ));
    }

    #[test]
    fn logfmt_lines() {
        const START: &str = "ts=2026-01-02T03:04:05.123456Z caller=mod.rs:12 level=";
        let error = "open x: \"y\"\nno";
        for (target, level, msg, pairs, debug_name, want) in [
            (
                "pillion/shipper",
                Level::Info,
                "upload new block",
                vec![("id", Value::from("01A")), ("size_bytes", Value::from(42))],
                "",
                "info component=shipper msg=\"upload new block\" id=01A size_bytes=42",
            ),
            (
                "pillion",
                Level::Warn,
                "x",
                vec![("err", Value::from(error))],
                "a b",
                r#"warn name="a b" component=sidecar msg=x err="open x: \"y\"\nno""#,
            ),
            (
                "pillion::state",
                Level::Error,
                "x",
                vec![
                    ("k", Value::from(1)),
                    ("component", Value::from("prober")),
                    ("service", Value::from("http/probe")),
                ],
                "",
                "error service=http/probe component=prober msg=x k=1",
            ),
            ("", Level::Error, "chatty", vec![], "", "error component=grpc-core msg=chatty"),
            ("rustls::client", Level::Warn, "x", vec![], "", "warn component=rustls msg=x"),
            (
                "pillion_bucket::x",
                Level::Trace,
                "",
                vec![("a", Value::null()), ("b", Value::from(true))],
                "",
                "debug component=sidecar a=null b=true",
            ),
            (
                "pillion",
                Level::Info,
                "x",
                vec![("f", Value::from(1.5)), ("n", Value::from(-7_i64))],
                "",
                "info component=sidecar msg=x f=1.5 n=-7",
            ),
        ] {
            with_line(target, level, msg, &pairs, debug_name, |line| {
                assert_eq!(line.print(LogFormat::Logfmt), format!("{START}{want}\n"));
            });
        }
    }

    #[test]
    fn json_lines_have_their_keys_in_order() {
        let pairs = [
            ("zone", Value::from("<&>")),
            ("size_bytes", Value::from(42)),
            ("ok", Value::from(false)),
            ("none", Value::null()),
            ("ratio", Value::from(0.5)),
            ("nan", Value::from(f64::NAN)),
            ("err", Value::from("a\n\"b\"")),
        ];
        with_line("pillion/shipper", Level::Warn, "two\nlines", &pairs, "me", |line| {
            let want = concat!(
                r#"{"caller":"mod.rs:12","component":"shipper","err":"a\n\"b\"","level":"warn","msg":"two\nlines","#,
                r#""name":"me","nan":"NaN","none":null,"ok":false,"ratio":0.5,"size_bytes":42,"#,
                r#""ts":"2026-01-02T03:04:05.123456Z","zone":"<&>"}"#,
                "\n"
            );
            assert_eq!(line.print(LogFormat::Json), want);
        });
    }

    #[test]
    fn journal_lines_begin_with_the_priority() {
        for (level, want) in [
            (Level::Error, "<3>caller=mod.rs:12 level=error component=sidecar msg=x\n"),
            (Level::Warn, "<4>caller=mod.rs:12 level=warn component=sidecar msg=x\n"),
            (Level::Info, "<6>caller=mod.rs:12 level=info component=sidecar msg=x\n"),
            (Level::Debug, "<7>caller=mod.rs:12 level=debug component=sidecar msg=x\n"),
        ] {
            with_line("pillion", level, "x", &[], "", |line| assert_eq!(line.print(LogFormat::Journald), want));
        }
    }

    #[test]
    fn nothing_breaks_a_line() {
        let all: String = (0..0x300).filter_map(char::from_u32).chain(['\u{2028}', '\u{2029}']).collect();
        let pairs = [(all.as_str(), Value::from(all.as_str())), ("k", Value::from_display(&all))];
        with_line(&all, Level::Info, &all, &pairs, &all, |line| {
            for format in [LogFormat::Logfmt, LogFormat::Json, LogFormat::Journald] {
                let text = line.print(format);
                assert!(text.ends_with('\n'));
                assert_eq!(text.lines().count(), 1, "{text}");
                assert!(!text.trim_end_matches('\n').contains(|c: char| c < ' '), "{text}");
            }
        });
    }

    #[test]
    fn an_error_value_is_its_text() {
        let err = Error::new(Kind::Retry, "refused").context("ask");
        with_line("pillion", Level::Warn, "x", &[("err", Value::from_display(&err))], "", |line| {
            assert_eq!(line.fields, [("err".to_owned(), Field::Text("ask: refused".to_owned()))]);
        });
    }

    #[test]
    fn one_logger_only() {
        assert_eq!(level_filter(LogLevel::Error), LevelFilter::Error);
        // Another test of this process may have been first.
        let _ = init(LogLevel::Warn, LogFormat::Logfmt, "");
        let err = init(LogLevel::Debug, LogFormat::Json, "").unwrap_err();
        assert!(err.to_string().starts_with("failed to create logger: "), "{err}");
    }
}
