//! A snapshot as people read it: one sentence first, then what needs somebody, then everything. The page and
//! `pillion status` show the same report. Pure.

use super::snapshot::{Aside, Block, Call, LogLine, Snapshot, Uploads};
use super::words::{bytes, count, number, shown, span, time};

/// From this age of the oldest block on somebody should look why it waits; the alerts of deploy/alerts.yml use it too.
const OLD_SECONDS: f64 = 6.0 * 3600.0;
/// With less time than this a block may be lost before somebody has slept.
const SHORT_SECONDS: f64 = 24.0 * 3600.0;

/// How things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All is well.
    Well,
    /// It works, and somebody should look.
    Look,
    /// Not ready.
    Down,
}

/// What people are shown. All texts are plain: no control characters, and nothing is escaped yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    pub(crate) headline: String,
    /// What needs somebody, the most urgent first.
    pub(crate) problems: Vec<String>,
    pub(crate) sections: Vec<Section>,
}

/// A heading with facts, or with a table, or with both.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// Whether it takes the whole width: its facts are short then, or there is a table.
    pub(crate) is_wide: bool,
    pub(crate) facts: Vec<Fact>,
    pub(crate) table: Option<Table>,
}

/// A name and a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fact {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    /// How much of a whole, from 0 to 1, where that is what the value says.
    pub(crate) share: Option<f64>,
}

/// Rows of as many cells as the head has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    pub(crate) head: &'static [&'static str],
    pub(crate) rows: Vec<Vec<String>>,
    /// How many rows are left out.
    pub(crate) more: usize,
}

impl Report {
    /// Of this snapshot.
    pub(crate) fn of(snapshot: &Snapshot) -> Report {
        let problems = problems(snapshot);
        let verdict = match (snapshot.ready, problems.is_empty()) {
            (false, _) => Verdict::Down,
            (true, false) => Verdict::Look,
            (true, true) => Verdict::Well,
        };
        let mut sections = vec![prometheus(snapshot), snapshot.uploads.as_ref().map_or_else(no_uploads, uploads)];
        if let Some(uploads) = &snapshot.uploads {
            sections.extend(set_aside(uploads));
            sections.extend(waiting(uploads));
        }
        sections.extend(recent_log(&snapshot.recent_log));
        sections.push(calls(snapshot));
        sections.push(limits(snapshot));
        sections.push(process(snapshot));
        Report { verdict, headline: headline(snapshot), problems, sections }
    }
}

fn fact(name: &'static str, value: impl Into<String>) -> Fact {
    Fact { name, value: value.into(), share: None }
}

fn ago(seconds: Option<f64>, never: &str) -> String {
    seconds.map_or_else(|| never.to_owned(), |seconds| format!("{} ago", span(seconds)))
}

/// The sentence at the top.
fn headline(snapshot: &Snapshot) -> String {
    let mut text = match (snapshot.ready, &snapshot.reason) {
        (true, _) => "Ready.".to_owned(),
        (false, None) => "Not ready.".to_owned(),
        (false, Some(reason)) => format!("Not ready: {}.", shown(reason.trim_end_matches('.'))),
    };
    let Some(uploads) = &snapshot.uploads else { return text };
    let pending = &uploads.pending;
    if pending.blocks == 0 {
        text.push_str(" No block waits.");
        return text;
    }
    let verb = if pending.blocks == 1 { "waits" } else { "wait" };
    let the_oldest = if pending.blocks == 1 { "" } else { "the oldest " };
    text.push_str(&format!(" {} {verb}", count(pending.blocks as u64, "block")));
    if let Some(age) = pending.oldest_age_seconds {
        text.push_str(&format!(", {the_oldest}for {}", span(age)));
    }
    match pending.retention_left_seconds {
        Some(left) if left > 0.0 => text.push_str(&format!("; retention takes it in {}.", span(left))),
        Some(_) => text.push_str("; retention may take it at any time."),
        None => text.push('.'),
    }
    text
}

fn problems(snapshot: &Snapshot) -> Vec<String> {
    let mut found = Vec::new();
    if snapshot.ready && snapshot.prometheus.up == Some(false) {
        found.push("Prometheus did not answer the last heartbeat.".to_owned());
    }
    for file in &snapshot.configuration.broken {
        let (name, reason) = (shown(&file.name), shown(&file.reason));
        found.push(format!("The file of the {name} cannot be used, and what it said before is: {reason}"));
    }
    let Some(uploads) = &snapshot.uploads else { return found };
    let pending = &uploads.pending;
    let is_short = pending.retention_left_seconds.is_some_and(|left| left < SHORT_SECONDS);
    if pending.blocks > 0 && is_short {
        let is_kept = pending.list.first().is_some_and(|block| block.claimed);
        let kept = if is_kept { " It is kept for the upload for as long as the claim budget lasts." } else { "" };
        found.push(format!("Prometheus's retention soon takes a block that is not in the bucket.{kept}"));
    }
    if uploads.given_up > 0 {
        let lost = count(uploads.given_up, "block");
        found.push(format!("{lost} given up since the start: the disk budget for blocks that wait was used up."));
    }
    if let Some(why) = &uploads.last_look_error {
        found.push(format!("The last look for blocks ended early: {}", shown(why)));
    }
    if uploads.set_aside.blocks > 0 {
        let (aside, are) =
            (uploads.set_aside.blocks as u64, if uploads.set_aside.blocks == 1 { "it is" } else { "they are" });
        found.push(format!("{} cannot be shipped as {are}; why is below.", count(aside, "block")));
    }
    let is_closed = uploads.limits.opens_in_seconds > 0.0;
    if pending.oldest_age_seconds.is_some_and(|age| age > OLD_SECONDS) && !is_closed && found.is_empty() {
        found.push("A block has waited for long.".to_owned());
    }
    found
}

fn prometheus(snapshot: &Snapshot) -> Section {
    let prometheus = &snapshot.prometheus;
    let state = match (prometheus.up, prometheus.agent) {
        (None, _) => "has not answered yet",
        (Some(false), _) => "does not answer",
        (Some(true), true) => "answers, as an agent: it has no series to query",
        (Some(true), false) => "answers",
    };
    let mut facts = vec![
        fact("State", state),
        fact("Address", shown(&prometheus.url)),
        fact("Version", prometheus.version.as_deref().map_or_else(|| "not known".to_owned(), shown)),
        fact("Last heartbeat", ago(prometheus.last_beat_age_seconds, "none yet")),
    ];
    if let Some(err) = &prometheus.last_error {
        let when = ago(prometheus.last_error_age_seconds, "");
        facts.push(fact("Last error", format!("{when}: {}", shown(err))));
    }
    let labels = snapshot.external_labels.iter().map(|(name, value)| format!("{}={:?}", shown(name), Shown(value)));
    let labels: Vec<String> = labels.collect();
    facts.push(fact("External labels", if labels.is_empty() { "not known".to_owned() } else { labels.join(", ") }));
    let range = &snapshot.time_range;
    let from = range.min.as_deref().map_or_else(|| "the beginning".to_owned(), |min| time(&shown(min)));
    let to = range.max.as_deref().map_or_else(|| "now".to_owned(), |max| time(&shown(max)));
    let is_known = !snapshot.external_labels.is_empty();
    facts.push(fact("Time range", if is_known { format!("{from} to {to}") } else { "not known".to_owned() }));
    let retention = prometheus.retention_seconds.map_or_else(|| "by size, or not known".to_owned(), span);
    facts.push(fact("Retention", retention));
    Section { title: "Prometheus", is_wide: false, facts, table: None }
}

/// A text of others between quotes.
struct Shown<'a>(&'a str);

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", shown(self.0).replace('"', "\\\""))
    }
}

fn no_uploads() -> Section {
    let facts = vec![fact("Bucket", "none is configured, so nothing is uploaded")];
    Section { title: "Uploads", is_wide: false, facts, table: None }
}

fn uploads(uploads: &Uploads) -> Section {
    let pending = &uploads.pending;
    let waiting = match pending.blocks {
        0 => "nothing".to_owned(),
        n => format!("{}, {}", count(n as u64, "block"), bytes(pending.bytes as f64)),
    };
    let mut facts = vec![fact("Bucket", shown(&uploads.bucket)), fact("Waiting", waiting)];
    match &uploads.uploading {
        None => facts.push(fact("Uploading", "nothing now")),
        Some(now) => {
            let share = if now.bytes == 0 { 1.0 } else { now.sent_bytes as f64 / now.bytes as f64 };
            let left = match now.left_seconds {
                Some(left) => format!("{} left", span(left)),
                None => "nothing was sent yet".to_owned(),
            };
            let (sent, all) = (bytes(now.sent_bytes as f64), bytes(now.bytes as f64));
            let rate = bytes(now.bytes_per_second);
            let value = format!("{}: {sent} of {all}, {rate}/s, {left}", shown(&now.ulid));
            facts.push(Fact { share: Some(share.clamp(0.0, 1.0)), ..fact("Uploading", value) });
            if now.resumed_bytes > 0 {
                facts.push(fact(
                    "Resumed",
                    format!("{} were sent by an earlier attempt", bytes(now.resumed_bytes as f64)),
                ));
            }
        }
    }
    facts.push(fact("Last upload", ago(uploads.last_upload_age_seconds, "none yet")));
    let look = ago(uploads.last_look_age_seconds, "none yet");
    facts.push(match &uploads.last_look_error {
        None => fact("Last look", look),
        Some(why) => fact("Last look", format!("{look}, ended early: {}", shown(why))),
    });
    let limits = &uploads.limits;
    let rate = limits.bytes_per_second.map_or_else(|| "none".to_owned(), |rate| format!("{}/s", bytes(rate as f64)));
    facts.push(fact("Rate limit", rate));
    let windows = match limits.windows.join(", ") {
        none if none.is_empty() => "at any time".to_owned(),
        some if limits.opens_in_seconds > 0.0 => {
            format!("{}; opens in {}", shown(&some), span(limits.opens_in_seconds))
        }
        some => format!("{}; open", shown(&some)),
    };
    facts.push(fact("Schedule", windows));
    if uploads.claimed_bytes > 0 {
        facts
            .push(fact("Kept on disk", format!("{} that Prometheus has removed", bytes(uploads.claimed_bytes as f64))));
    }
    if uploads.given_up > 0 {
        facts.push(fact("Given up", count(uploads.given_up, "block")));
    }
    Section { title: "Uploads", is_wide: false, facts, table: None }
}

fn calls(snapshot: &Snapshot) -> Section {
    let calls = &snapshot.calls;
    let n = |n: i64| number(u64::try_from(n).unwrap_or(0));
    let facts = vec![
        fact("At work", n(calls.working)),
        fact("Queued", n(calls.queued)),
        fact("Waiting for clients", n(calls.waiting_for_client)),
        fact("Waiting for Prometheus", n(calls.waiting_for_prometheus)),
        fact("gRPC connections", format!("{} of {}", snapshot.connections.grpc, snapshot.connections.grpc_max)),
    ];
    let row = |call: &Call| {
        let state = if call.waits_for_client { "waits for its client" } else { "at work" };
        vec![
            shown(&call.method),
            shown(&call.peer),
            shown(&call.matchers),
            span(call.seconds),
            number(call.series),
            bytes(call.bytes as f64),
            state.to_owned(),
        ]
    };
    let table = (!calls.open.is_empty()).then(|| Table {
        head: &["Call", "Peer", "Matchers", "Since", "Series", "Sent", "State"],
        rows: calls.open.iter().map(row).collect(),
        more: calls.more,
    });
    Section { title: "Calls", is_wide: true, facts, table }
}

fn set_aside(uploads: &Uploads) -> Option<Section> {
    let row = |aside: &Aside| vec![shown(&aside.block), shown(&aside.reason)];
    let rows: Vec<_> = uploads.set_aside.list.iter().map(row).collect();
    let table = Table { head: &["Folder", "Reason"], rows, more: uploads.set_aside.more };
    (uploads.set_aside.blocks > 0).then(|| Section {
        title: "Blocks set aside",
        is_wide: true,
        facts: Vec::new(),
        table: Some(table),
    })
}

fn waiting(uploads: &Uploads) -> Option<Section> {
    let is_up = |block: &Block| uploads.uploading.as_ref().is_some_and(|now| now.ulid == block.ulid);
    let row = |block: &Block| {
        let left = match block.retention_left_seconds {
            Some(left) if left > 0.0 => format!("in {}", span(left)),
            Some(_) if block.local => "at any time".to_owned(),
            Some(_) => "has taken it".to_owned(),
            None => "not known".to_owned(),
        };
        let waits_for = match &block.waits_for {
            _ if is_up(block) => "is being uploaded".to_owned(),
            Some(what) => shown(what),
            None => "its turn".to_owned(),
        };
        let kept = if block.claimed { "yes" } else { "no" };
        vec![shown(&block.ulid), bytes(block.bytes as f64), span(block.age_seconds), left, kept.to_owned(), waits_for]
    };
    let table = Table {
        head: &["Block", "Size", "Age", "Retention", "Kept", "Waits for"],
        rows: uploads.pending.list.iter().map(row).collect(),
        more: uploads.pending.more,
    };
    (uploads.pending.blocks > 0).then(|| Section {
        title: "Blocks that wait",
        is_wide: true,
        facts: Vec::new(),
        table: Some(table),
    })
}

fn recent_log(lines: &[LogLine]) -> Option<Section> {
    let row = |line: &LogLine| {
        let fields = line.fields.iter().map(|(key, value)| format!("; {}: {}", shown(key), shown(value)));
        let said: String = std::iter::once(shown(&line.message)).chain(fields).collect();
        let n = if line.count == 1 { String::new() } else { format!("{}×", number(line.count)) };
        vec![time(&shown(&line.last)), n, shown(&line.level), shown(&line.component), said]
    };
    let table =
        Table { head: &["Last", "Times", "Level", "Part", "Message"], rows: lines.iter().map(row).collect(), more: 0 };
    (!lines.is_empty()).then(|| Section {
        title: "Last warnings and errors",
        is_wide: true,
        facts: Vec::new(),
        table: Some(table),
    })
}

fn limits(snapshot: &Snapshot) -> Section {
    let limits = &snapshot.limits;
    let or_none = |limit: Option<String>| limit.unwrap_or_else(|| "no limit".to_owned());
    let facts = vec![
        fact("Calls at once", format!("{}, and {} in the queue", limits.concurrent_calls, limits.queued_calls)),
        fact("Bytes in flight", or_none(limits.bytes_in_flight.map(|n| bytes(n as f64)))),
        fact("Series per call", or_none(limits.request_series.map(number))),
        fact("Samples per call", or_none(limits.request_samples.map(number))),
        fact("Request size", bytes(limits.request_bytes as f64)),
        fact("Stalled call ends after", limits.stalled_call_seconds.map_or_else(|| "never".to_owned(), span)),
    ];
    Section { title: "Limits", is_wide: false, facts, table: None }
}

fn process(snapshot: &Snapshot) -> Section {
    let (build, process) = (&snapshot.build, &snapshot.process);
    let or_not_known = |value: Option<String>| value.unwrap_or_else(|| "not known".to_owned());
    let int = |n: i64| number(u64::try_from(n).unwrap_or(0));
    let memory = process.resident_bytes.map(|resident| match process.memory_limit_bytes {
        Some(limit) => format!("{} of {}", bytes(resident as f64), bytes(limit as f64)),
        None => bytes(resident as f64),
    });
    let share = process.resident_bytes.zip(process.memory_limit_bytes).map(|(n, max)| n as f64 / max.max(1) as f64);
    let files = process.open_files.zip(process.open_files_max).map(|(n, max)| format!("{} of {}", int(n), int(max)));
    let started = format!("{}, {} ago", time(&shown(&snapshot.started)), span(snapshot.uptime_seconds));
    let facts = vec![
        fact("Pillion", format!("{} ({})", shown(&build.version), shown(&build.revision))),
        fact("Started", started),
        Fact { share: share.map(|share| share.clamp(0.0, 1.0)), ..fact("Memory", or_not_known(memory)) },
        fact("Threads", or_not_known(process.threads.map(int))),
        fact("Open files", or_not_known(files)),
    ];
    Section { title: "Process", is_wide: false, facts, table: None }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{Pending, UploadLimits, Uploading};
    use super::*;

    fn shipping(blocks: usize, age: Option<f64>, left: Option<f64>) -> Snapshot {
        let pending = Pending { blocks, oldest_age_seconds: age, retention_left_seconds: left, ..Pending::default() };
        Snapshot { ready: true, uploads: Some(Uploads { pending, ..Uploads::default() }), ..Snapshot::default() }
    }

    #[test]
    fn the_first_sentence() {
        let check = |snapshot: Snapshot, expected: &str| assert_eq!(Report::of(&snapshot).headline, expected);
        let hours = |n: f64| Some(n * 3600.0);
        check(Snapshot { ready: true, ..Snapshot::default() }, "Ready.");
        check(Snapshot::default(), "Not ready.");
        let reason = Some("connection refused".to_owned());
        check(Snapshot { reason: reason.clone(), ..Snapshot::default() }, "Not ready: connection refused.");
        check(shipping(0, None, None), "Ready. No block waits.");
        let three = shipping(3, hours(2.0), hours(13.5 * 24.0));
        check(three.clone(), "Ready. 3 blocks wait, the oldest for 2 h; retention takes it in 13 days.");
        let down = Snapshot { ready: false, reason, ..three };
        let expected =
            "Not ready: connection refused. 3 blocks wait, the oldest for 2 h; retention takes it in 13 days.";
        check(down, expected);
        check(shipping(1, hours(2.0), None), "Ready. 1 block waits, for 2 h.");
        check(shipping(1, hours(2.0), Some(-1.0)), "Ready. 1 block waits, for 2 h; retention may take it at any time.");
    }

    #[test]
    fn what_needs_somebody() {
        let check = |change: &dyn Fn(&mut Uploads), expected: &[&str]| {
            let mut snapshot = shipping(1, Some(60.0), Some(1e7));
            change(snapshot.uploads.as_mut().unwrap());
            let report = Report::of(&snapshot);
            assert_eq!(report.problems, expected);
            assert_eq!(report.verdict, if expected.is_empty() { Verdict::Well } else { Verdict::Look });
        };
        check(&|_| (), &[]);
        check(
            &|uploads| uploads.last_look_error = Some("no\nbucket".into()),
            &["The last look for blocks ended early: no\\u{a}bucket"],
        );
        check(&|uploads| uploads.set_aside.blocks = 2, &["2 blocks cannot be shipped as they are; why is below."]);
        let lost = "3 blocks given up since the start: the disk budget for blocks that wait was used up.";
        check(&|uploads| uploads.given_up = 3, &[lost]);
        check(&|uploads| uploads.pending.oldest_age_seconds = Some(7.0 * 3600.0), &["A block has waited for long."]);
        let closed = |uploads: &mut Uploads| {
            uploads.pending.oldest_age_seconds = Some(7.0 * 3600.0);
            uploads.limits = UploadLimits { opens_in_seconds: 60.0, ..UploadLimits::default() };
        };
        check(&closed, &[]);
        check(
            &|uploads| uploads.pending.retention_left_seconds = Some(60.0),
            &["Prometheus's retention soon takes a block that is not in the bucket."],
        );
        assert_eq!(Report::of(&Snapshot::default()).verdict, Verdict::Down);
    }

    #[test]
    fn texts_of_others_are_plain_in_every_section() {
        let evil = "a\u{1b}]0;x\u{7}\nb".to_owned();
        let mut snapshot = shipping(1, None, None);
        snapshot.prometheus.url = evil.clone();
        snapshot.prometheus.version = Some(evil.clone());
        snapshot.prometheus.last_error = Some(evil.clone());
        snapshot.reason = Some(evil.clone());
        snapshot.external_labels.insert(evil.clone(), evil.clone());
        snapshot.calls.open.push(Call {
            matchers: evil.clone(),
            peer: evil.clone(),
            method: evil.clone(),
            ..Call::default()
        });
        let fields = [(evil.clone(), evil.clone())].into();
        snapshot.recent_log.push(LogLine { message: evil.clone(), last: evil.clone(), fields, ..LogLine::default() });
        let uploads = snapshot.uploads.as_mut().unwrap();
        uploads.bucket = evil.clone();
        uploads.last_look_error = Some(evil.clone());
        uploads.uploading = Some(Uploading { ulid: evil.clone(), ..Uploading::default() });
        uploads.set_aside.list.push(Aside { block: evil.clone(), reason: evil.clone() });
        uploads.set_aside.blocks = 1;
        uploads.pending.list.push(Block { ulid: evil.clone(), waits_for: Some(evil), ..Block::default() });
        for ready in [true, false] {
            snapshot.ready = ready;
            let report = Report::of(&snapshot);
            let texts = report.sections.iter().flat_map(|section| {
                let facts = section.facts.iter().map(|fact| &fact.value);
                facts.chain(section.table.iter().flat_map(|table| table.rows.iter().flatten()))
            });
            for text in texts.chain([&report.headline]).chain(&report.problems) {
                assert!(!text.contains(char::is_control), "{text:?}");
            }
            for table in report.sections.iter().filter_map(|section| section.table.as_ref()) {
                assert!(table.rows.iter().all(|row| row.len() == table.head.len()), "{table:?}");
            }
        }
    }
}
