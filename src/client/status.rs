//! The command `pillion status`: what a running daemon says it is doing, for people and for scripts. Changes nothing.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::ask::{Ask, get};
use crate::limits;
use crate::status::{Fact, Report, Section, Snapshot, Table};
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::files::Disk;
use pillion_base::secret::Secret;
use pillion_http::address::{PrometheusUrl, Scheme, UserInfo};
use pillion_http::client::basic;
use pillion_http::tls::{ClientSettings, ClientTls};

/// The page that is asked for.
const PATH: &str = "/api/v1/status";
/// Lines are as wide as this where texts of others let them.
const WIDTH: usize = 100;

/// What `pillion status` was asked for.
#[derive(Debug, Clone)]
pub(crate) struct StatusArgs {
    /// The daemon's HTTP port; user and password may stand in it.
    pub(crate) url: PrometheusUrl,
    /// How to speak TLS; `None` speaks it if the URL says so.
    pub(crate) tls: Option<ClientSettings>,
    /// A file with `user:password`; empty is none.
    pub(crate) basic_auth_file: String,
    /// The answer as it came.
    pub(crate) json: bool,
    /// For the whole exchange.
    pub(crate) timeout: Duration,
}

/// Asks the daemon and writes its answer to `out`; whether it is ready. `Blocks:` up to the time-out.
///
/// `Errors:` where there is no daemon, no way in, or no answer that can be understood; it says what to change.
pub(crate) fn status(args: &StatusArgs, out: &mut dyn Write) -> Result<bool> {
    let url = &args.url;
    let authorization = authorization(args)?;
    let settings = match (&args.tls, url.scheme) {
        (Some(settings), _) => Some(settings.clone()),
        (None, Scheme::Https) => Some(ClientSettings::default()),
        (None, Scheme::Http) => None,
    };
    let tls = settings.map(|settings| ClientTls::load(ClientSettings { alpn: Vec::new(), ..settings })).transpose()?;
    let ask = Ask {
        url,
        path: PATH,
        tls: tls.as_ref(),
        authorization: authorization.as_ref().map(|secret| secret.0.as_str()),
        timeout: args.timeout,
        bytes_max: limits::STATUS_ANSWER_BYTES_MAX,
    };
    let whence = || format!("status from {}", url.join(""));
    let body = get(&ask)
        .and_then(|(code, body)| accepted(code, body, authorization.is_some(), tls.is_some()))
        .context(whence)?;
    let snapshot: Snapshot = serde_json::from_slice(&body)
        .map_err(|err| Error::new(Kind::Permanent, format!("the answer is not the status of a Pillion: {err}")))
        .context(whence)?;
    let text = if args.json { body } else { text(&Report::of(&snapshot)).into_bytes() };
    match out.write_all(&text).and_then(|()| out.flush()) {
        // A reader that has seen enough is no error.
        Err(err) if err.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io(&err).context("write the output")),
        _ => Ok(snapshot.ready),
    }
}

fn accepted(code: u16, body: Vec<u8>, has_password: bool, is_tls: bool) -> Result<Vec<u8>> {
    let what = match code {
        200 => return Ok(body),
        // What Go's servers, and ours, answer to a request without TLS.
        400 if !is_tls => "it answers with the HTTP status 400; if it wants TLS, give --tls".to_owned(),
        401 if has_password => "it does not take this user and password".to_owned(),
        401 => "it wants user and password; give --basic-auth-file".to_owned(),
        404 => format!("it has no {PATH}; is it the --http-address of a Pillion that is new enough?"),
        429 => "it has been asked too often with wrong passwords; wait a minute".to_owned(),
        code => format!("it answers with the HTTP status {code}"),
    };
    Err(Error::new(Kind::Permanent, what))
}

/// The header that lets us in. What the file says counts before what the URL says.
fn authorization(args: &StatusArgs) -> Result<Option<Secret>> {
    let path = args.basic_auth_file.as_str();
    if path.is_empty() {
        let password = |user: &UserInfo| user.password.clone().unwrap_or_default();
        return Ok(args.url.user.as_ref().map(|user| basic(&user.username, &password(user))));
    }
    let (user, password) = pair_in(Path::new(path)).context(|| format!("read {path} (--basic-auth-file)"))?;
    Ok(Some(basic(&user, &password)))
}

fn pair_in(path: &Path) -> Result<(String, String)> {
    let bytes = Disk::real().read(path, limits::BASIC_AUTH_BYTES_MAX)?;
    let wrong = || Error::new(Kind::BadRequest, "it must have one line of the form user:password");
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let line = text.trim_end_matches(['\r', '\n']);
    let (user, password) = line.split_once(':').ok_or_else(wrong)?;
    if line.contains(char::is_control) {
        return Err(wrong());
    }
    Ok((user.to_owned(), password.to_owned()))
}

/// The report as lines of text.
fn text(report: &Report) -> String {
    let mut out = format!("{}\n", report.headline);
    for problem in &report.problems {
        out.push_str(&format!("! {problem}\n"));
    }
    for section in &report.sections {
        section_text(&mut out, section);
    }
    out
}

fn section_text(out: &mut String, section: &Section) {
    out.push_str(&format!("\n{}\n", section.title));
    let width = section.facts.iter().map(|fact| fact.name.len()).max().unwrap_or(0);
    for Fact { name, value, share } in &section.facts {
        let share = share.map(|share| format!(" ({:.0}%)", share * 100.0)).unwrap_or_default();
        out.push_str(&format!("  {name:width$}  {value}{share}\n"));
    }
    if let Some(table) = &section.table {
        table_text(out, table);
    }
}

/// Columns as wide as their cells. What does not fit into a line of its own is never cut: a row that is too wide goes on
/// below its first cell.
fn table_text(out: &mut String, table: &Table) {
    let cell_width = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..table.head.len())
        .map(|idx| {
            let cells = table.rows.iter().filter_map(|row| row.get(idx)).map(|cell| cell_width(cell));
            cells.chain(table.head.get(idx).map(|name| cell_width(name))).max().unwrap_or(0)
        })
        .collect();
    let last = widths.last().copied().unwrap_or(0);
    let before_last: usize = widths.iter().map(|width| width + 2).sum::<usize>() - last;
    if before_last <= WIDTH - 20 {
        let head: Vec<String> = table.head.iter().map(|name| (*name).to_owned()).collect();
        for row in std::iter::once(&head).chain(&table.rows) {
            let cells =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell_width(cell))));
            let line: Vec<String> = cells.collect();
            out.push_str(&format!("  {}\n", line.join("  ").trim_end()));
        }
    } else {
        for row in &table.rows {
            let mut pairs = table.head.iter().zip(row).filter(|(_, cell)| !cell.is_empty());
            out.extend(pairs.next().map(|(_, cell)| format!("  {cell}\n")));
            for (name, cell) in pairs {
                out.push_str(&format!("    {name}: {cell}\n"));
            }
        }
    }
    if table.more > 0 {
        out.push_str(&format!("  and {} more\n", table.more));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(url: &str, basic_auth_file: &str) -> StatusArgs {
        StatusArgs {
            url: url.parse().unwrap(),
            tls: None,
            basic_auth_file: basic_auth_file.to_owned(),
            json: false,
            timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn passwords_come_from_the_file_before_the_url() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth");
        let file = path.display().to_string();
        let value = |url: &str, file: &str| authorization(&args(url, file)).map(|secret| secret.map(|secret| secret.0));
        assert_eq!(value("http://a", "").unwrap(), None);
        assert_eq!(value("http://u:p%40@a", "").unwrap().unwrap(), "Basic dTpwQA==");
        std::fs::write(&path, "me:a:b c\n").unwrap();
        assert_eq!(value("http://u:p@a", &file).unwrap().unwrap(), "Basic bWU6YTpiIGM=");
        for wrong in ["secret", "", "me:secret\nme:secret\n"] {
            std::fs::write(&path, wrong).unwrap();
            let err = value("http://a", &file).unwrap_err().to_string();
            let expected = format!("read {file} (--basic-auth-file): it must have one line of the form user:password");
            assert_eq!(err, expected);
        }
    }

    #[test]
    fn rows_that_are_too_wide_go_on_below() {
        let check = |cell: &str, expected: &str| {
            let rows = vec![vec!["01A".to_owned(), cell.to_owned(), "why".to_owned()]];
            let table = Table { head: &["Block", "Size", "Reason"], rows, more: 2 };
            let mut out = String::new();
            table_text(&mut out, &table);
            assert_eq!(out, expected);
        };
        check("5 é", "  Block  Size  Reason\n  01A    5 é   why\n  and 2 more\n");
        check("", "  Block  Size  Reason\n  01A          why\n  and 2 more\n");
        let wide = "x".repeat(90);
        check(&wide, &format!("  01A\n    Size: {wide}\n    Reason: why\n  and 2 more\n"));
    }
}
