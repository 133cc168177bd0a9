//! The status page: a report as HTML. Everything that comes from elsewhere is escaped, and should that ever fail, the
//! page's policy lets no script run and nothing be loaded. Pure.

use super::html::{escape, fill};
use super::report::{Report, Section, Table, Verdict};
use super::snapshot::Snapshot;
use super::words;
use pillion_http::server::Response;

const TEMPLATE: &str = include_str!("page.html");

/// `Content-Type`.
const HTML: &str = "text/html; charset=utf-8";

/// The one stylesheet by its SHA-256, which a test compares, and an icon that is part of the page. No script.
const POLICY: &str = "default-src 'none'; style-src 'sha256-+3+9aTTk3bjlu8eLNwMYEG5EMdVOTggGVIpW258uw0c='; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What goes with the page.
const HEADERS: [(&str, &str); 4] = [
    ("Content-Security-Policy", POLICY),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
];

/// The page of a snapshot.
pub(super) fn page(snapshot: &Snapshot) -> Response {
    let report = Report::of(snapshot);
    let (verdict, icon, word) = match report.verdict {
        Verdict::Well => ("well", "%231c7c54", "Ready"),
        Verdict::Look => ("look", "%23e6a84c", "Ready, look"),
        Verdict::Down => ("down", "%23b3261e", "Not ready"),
    };
    let labels: Vec<String> = snapshot
        .external_labels
        .iter()
        .map(|(name, value)| format!("{}={}", words::shown(name), words::shown(value)))
        .collect();
    let problems: String = report.problems.iter().map(|problem| format!("<li>{}</li>\n", text(problem))).collect();
    let body = fill(
        TEMPLATE,
        &[
            ("title", escape(&format!("{word} - Pillion {}", labels.join(" ")))),
            ("icon", icon.to_owned()),
            ("verdict", verdict.to_owned()),
            ("labels", text(&labels.join(", "))),
            ("headline", text(&report.headline)),
            ("problems", if problems.is_empty() { problems } else { format!("<ul>\n{problems}</ul>\n") }),
            ("sections", report.sections.iter().map(section).collect()),
            ("now", escape(&words::time(&words::shown(&snapshot.now)))),
        ],
    );
    Response { headers: HEADERS.to_vec(), ..Response::ok(HTML, body) }
}

/// A text of others, which keeps its direction of writing to itself.
fn text(text: &str) -> String {
    format!("<bdi>{}</bdi>", escape(text))
}

fn section(section: &Section) -> String {
    let class = if section.is_wide { " class=\"wide\"" } else { "" };
    let mut out = format!("<section{class}>\n<h2>{}</h2>\n", escape(section.title));
    if !section.facts.is_empty() {
        out.push_str("<dl>\n");
        for fact in &section.facts {
            let bar = fact.share.map(|share| format!("<progress max=\"1\" value=\"{share:.3}\"></progress>"));
            let (name, value) = (escape(fact.name), text(&fact.value));
            out.push_str(&format!("<div><dt>{name}</dt><dd>{value}{}</dd></div>\n", bar.unwrap_or_default()));
        }
        out.push_str("</dl>\n");
    }
    out.extend(section.table.as_ref().map(table));
    out.push_str("</section>\n");
    out
}

fn table(table: &Table) -> String {
    let head: String = table.head.iter().map(|name| format!("<th>{}</th>", escape(name))).collect();
    let mut out = format!("<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        out.push_str("<tr>");
        for (name, cell) in table.head.iter().zip(row) {
            let class = match *name {
                "Matchers" => " class=\"long code\"",
                "Folder" | "Message" | "Reason" | "Waits for" => " class=\"long\"",
                _ => "",
            };
            let cell = if cell.is_empty() { String::new() } else { text(cell) };
            out.push_str(&format!("<td data-head=\"{}\"{class}>{cell}</td>", escape(name)));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n");
    if table.more > 0 {
        out.push_str(&format!("<p class=\"more\">and {} more</p>\n", words::number(table.more as u64)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{Call, Calls};
    use super::*;
    use base64::prelude::{BASE64_STANDARD, Engine};
    use sha2::{Digest, Sha256};

    #[test]
    fn the_policy_names_the_stylesheet() {
        let style = TEMPLATE.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
        let hash = BASE64_STANDARD.encode(Sha256::digest(style));
        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "the stylesheet has changed; its hash is {hash}");
        assert!(!TEMPLATE.contains("<script") && !TEMPLATE.contains(" style="), "the policy forbids both");
    }

    #[test]
    fn what_strangers_say_is_text() {
        let evil = "<script>alert(1)</script>\"'{{now}}";
        let call = Call { matchers: format!("{{a=\"{evil}\"}}"), peer: evil.into(), ..Call::default() };
        let snapshot = Snapshot {
            external_labels: [(evil.to_owned(), evil.to_owned())].into(),
            reason: Some(evil.to_owned()),
            calls: Calls { open: vec![call], more: 1234, ..Calls::default() },
            now: "2026-11-25T03:00:07.5Z".to_owned(),
            ..Snapshot::default()
        };
        let page = String::from_utf8(page(&snapshot).body).unwrap();
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("{a=&quot;&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;{{now}}&quot;}"), "{page}");
        assert!(page.contains("As of 2026-11-25 03:00:07 UTC"), "{page}");
        assert!(page.contains("and 1,234 more"), "{page}");
    }
}
