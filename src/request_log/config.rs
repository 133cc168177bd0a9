//! What `--request.logging-config` says: which requests are logged. Pure.

use std::time::Duration;

use log::Level;

use pillion_base::error::{Context, Result};
use pillion_base::size::ByteSize;
use pillion_base::time::GoDuration;
use pillion_base::yaml::{self, Node};

/// Which requests are logged; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestLogConfig {
    pub(crate) grpc: Rules,
    pub(crate) http: Rules,
}

/// Which requests of one protocol are logged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// How; `None` is not at all.
    choice: Option<Choice>,
    /// Only these, if there are any; each may choose for itself.
    only: Vec<(Target, Option<Choice>)>,
}

/// What an entry of `config` names: a service and a method, or a path and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target(String, String);

/// How a request is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The least severe end that is logged.
    pub(crate) level: Level,
    /// Whether its beginning is logged, too.
    pub(crate) log_start: bool,
    /// One that ended well is logged only if it took as long.
    slower_than: Option<Duration>,
    /// Or if its answer was as large.
    larger_than_bytes: Option<u64>,
}

impl Choice {
    /// Whether the end of a request is logged that ended as `severity` says.
    pub(crate) fn takes(&self, severity: Level, took: Duration, sent_bytes: u64) -> bool {
        // The one that is less severe is the greater.
        if severity > self.level {
            return false;
        }
        let is_slow = self.slower_than.is_some_and(|than| took >= than);
        let is_large = self.larger_than_bytes.is_some_and(|than| sent_bytes >= than);
        let has_choice = self.slower_than.is_some() || self.larger_than_bytes.is_some();
        !has_choice || is_slow || is_large || severity < Level::Info
    }
}

impl RequestLogConfig {
    /// Reads the configuration; an empty text logs nothing.
    ///
    /// `Errors:` name line and field. `Source:` Thanos `pkg/logging`. `Differs:` `slower_than` and `larger_than` are ours.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let root = yaml::parse(text)?;
        root.check_fields("request logging configuration", &["options", "grpc", "http"])?;
        let global = options(root.get("options"), None)?;
        let rules = |protocol: &str, names: [&str; 2]| {
            Rules::read(root.get(protocol), global, names).context(|| format!("section {protocol}"))
        };
        Ok(RequestLogConfig { grpc: rules("grpc", ["service", "method"])?, http: rules("http", ["path", "port"])? })
    }
}

impl Rules {
    /// How the requests to a service and a method, or to a path and a port, are logged.
    pub(crate) fn choice(&self, first: &str, second: &str) -> Option<Choice> {
        if self.only.is_empty() {
            return self.choice;
        }
        let entry = self.only.iter().find(|(target, _)| target.0 == first && target.1 == second);
        entry.and_then(|(_, own)| own.or(self.choice))
    }

    /// Whether nothing is logged, so that nobody need look further.
    pub(crate) fn is_off(&self) -> bool {
        self.choice.is_none() && self.only.iter().all(|(_, own)| own.is_none())
    }

    fn read(node: Option<&Node>, global: Options, names: [&str; 2]) -> Result<Self> {
        let Some(node) = node.filter(|node| !node.is_null()) else {
            return Ok(Rules { choice: global.choice()?, only: Vec::new() });
        };
        node.check_fields("it", &["options", "config"])?;
        let own = options(node.get("options"), Some(global))?;
        let entries = match node.get("config").filter(|config| !config.is_null()) {
            None => &[][..],
            Some(config) => {
                config.as_sequence().ok_or_else(|| config.error(format!("config must be a list of {names:?}")))?
            }
        };
        let mut only = Vec::new();
        for entry in entries {
            entry.check_fields("config", &[names[0], names[1], "slower_than", "larger_than"])?;
            let text = |name: &str| {
                let text = entry.str_field(name)?.filter(|text| !text.is_empty());
                text.map(str::to_owned).ok_or_else(|| entry.error(format!("{} are both needed", names.join(" and "))))
            };
            let target = Target(text(names[0])?, text(names[1])?);
            let choice = Options { bounds: bounds(entry)?.or(own.bounds), ..own }.choice()?;
            only.push((target, choice));
        }
        Ok(Rules { choice: own.choice()?, only })
    }
}

/// `options` as written, before it is known whether anything is logged.
#[derive(Debug, Clone, Copy, Default)]
struct Options {
    level: Option<Level>,
    log_start: bool,
    log_end: bool,
    bounds: Bounds,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bounds(Option<Duration>, Option<u64>);

impl Bounds {
    fn or(self, other: Bounds) -> Bounds {
        if self == Bounds::default() { other } else { self }
    }
}

impl Options {
    /// `None` when nothing is logged.
    fn choice(self) -> Result<Option<Choice>> {
        let Some(level) = self.level.filter(|_| self.log_end) else { return Ok(None) };
        let Bounds(slower_than, larger_than_bytes) = self.bounds;
        Ok(Some(Choice { level, log_start: self.log_start, slower_than, larger_than_bytes }))
    }
}

/// Options that say nothing leave those `above`.
fn options(node: Option<&Node>, above: Option<Options>) -> Result<Options> {
    let above = above.unwrap_or_default();
    let Some(node) = node.filter(|node| !node.is_null()) else { return Ok(above) };
    node.check_fields("options", &["level", "decision", "slower_than", "larger_than"])?;
    let (mut log_start, mut log_end) = (false, false);
    if let Some(decision) = node.get("decision") {
        decision.check_fields("decision", &["log_start", "log_end"])?;
        log_start = decision.bool_field("log_start")?.unwrap_or(false);
        log_end = decision.bool_field("log_end")?.unwrap_or(false);
    }
    let bounds = bounds(node)?.or(above.bounds);
    let level = match node.str_field("level")?.unwrap_or("") {
        "" if log_start || log_end => {
            return Err(node.error("level field is empty: give INFO, DEBUG, WARNING or ERROR beside decision"));
        }
        "" => return Ok(Options { bounds, ..above }),
        "INFO" => Level::Info,
        "DEBUG" => Level::Debug,
        "WARNING" => Level::Warn,
        "ERROR" => Level::Error,
        _ => return Err(node.error("the format of level is invalid. Expected INFO/DEBUG/ERROR/WARNING")),
    };
    if log_start && !log_end {
        return Err(node.error("log_start without log_end: log decision combination is not supported"));
    }
    Ok(Options { level: Some(level), log_start, log_end, bounds })
}

fn bounds(node: &Node) -> Result<Bounds> {
    let slower_than = node.str_field("slower_than")?.map(|text| {
        let positive = text.parse::<GoDuration>().ok().and_then(GoDuration::positive);
        positive.ok_or_else(|| node.error("slower_than must be a duration above 0, such as 2s or 500ms"))
    });
    let larger_than = node.str_field("larger_than")?.map(|text| {
        let size = text.parse::<ByteSize>().ok();
        size.map(|size| size.0).ok_or_else(|| node.error("larger_than must be a size, such as 64KiB or 10MB"))
    });
    Ok(Bounds(slower_than.transpose()?, larger_than.transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIES: (&str, &str) = ("thanos.Store", "Series");

    #[track_caller]
    fn logged(text: &str, severity: Level, took_ms: u64, sent_bytes: u64) -> bool {
        let config = RequestLogConfig::parse(text).unwrap();
        let choice = config.grpc.choice(SERIES.0, SERIES.1);
        assert!(choice.is_none() || !config.grpc.is_off());
        choice.is_some_and(|choice| choice.takes(severity, Duration::from_millis(took_ms), sent_bytes))
    }

    #[test]
    fn nothing_is_logged_unless_it_is_asked_for() {
        for text in ["", "options: {level: INFO}", "options: {level: INFO, decision: {log_end: false}}", "grpc:"] {
            assert!(!logged(text, Level::Error, 10_000, 1 << 30), "{text}");
        }
    }

    #[test]
    fn the_level_says_how_bad_the_end_must_be() {
        let with = |level: &str| format!("options: {{level: {level}, decision: {{log_end: true}}}}");
        let ends = [Level::Info, Level::Warn, Level::Error];
        let of = |level: &str| ends.map(|severity| logged(&with(level), severity, 0, 0));
        assert_eq!(of("DEBUG"), [true, true, true]);
        assert_eq!(of("INFO"), [true, true, true]);
        assert_eq!(of("WARNING"), [false, true, true]);
        assert_eq!(of("ERROR"), [false, false, true]);
    }

    #[test]
    fn options_of_a_protocol_replace_the_global_ones() {
        let text = "options: {level: ERROR, decision: {log_end: true}}\n\
                    grpc: {options: {level: INFO, decision: {log_start: true, log_end: true}}}\n";
        let config = RequestLogConfig::parse(text).unwrap();
        let of = |rules: &Rules| rules.choice("a", "b").map(|choice| (choice.level, choice.log_start));
        assert_eq!(of(&config.grpc), Some((Level::Info, true)));
        assert_eq!(of(&config.http), Some((Level::Error, false)));
    }

    #[test]
    fn only_the_named_methods_are_logged() {
        let text = "grpc:\n  options: {level: INFO, decision: {log_end: true}}\n  config:\n  - {service: thanos.Store, \
                    method: Series, slower_than: 1s}\n  - {service: thanos.Rules, method: Rules}\n";
        assert!(logged(text, Level::Info, 1000, 0) && !logged(text, Level::Info, 999, 0));
        let config = RequestLogConfig::parse(text).unwrap();
        assert!(config.grpc.choice("thanos.Rules", "Rules").unwrap().takes(Level::Info, Duration::ZERO, 0));
        assert_eq!(config.grpc.choice("thanos.Store", "LabelNames"), None);
        assert!(config.http.is_off());
    }

    #[test]
    fn slow_and_large_ones_are_chosen_and_failures_are_always() {
        let text = "options: {level: INFO, decision: {log_end: true}, slower_than: 2s, larger_than: 1MiB}";
        assert!(!logged(text, Level::Info, 1999, (1 << 20) - 1));
        assert!(logged(text, Level::Info, 2000, 0));
        assert!(logged(text, Level::Info, 0, 1 << 20));
        assert!(logged(text, Level::Warn, 0, 0));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, expected) in [
            ("options: {decision: {log_end: true}}", "line 1: level field is empty"),
            ("options: {level: info, decision: {log_end: true}}", "the format of level is invalid"),
            ("options: {level: INFO, decision: {log_start: true}}", "log decision combination is not supported"),
            ("grpc:\n  config: [{service: a}]", "service and method are both needed"),
            ("grpc:\n  config: {service: a}", "config must be a list"),
            ("http: {config: [{path: /a, port: 1, x: 2}]}", "field x not found in config"),
            ("options: {slower_than: 2}", "slower_than must be a duration above 0"),
            ("options: {larger_than: much}", "larger_than must be a size"),
            ("grcp: {}", "field grcp not found"),
        ] {
            let err = RequestLogConfig::parse(text).unwrap_err().to_string();
            assert!(err.contains(expected), "{text}: {err}");
        }
    }
}
