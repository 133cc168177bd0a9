//! The command `pillion verify`: what the bucket lacks of the local blocks, for people and for scripts.

use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::progress::Unit;
use super::terminal::Progress;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Disk;
use pillion_base::labels::Labels;
use pillion_base::stop::stop_pair;
use pillion_bucket::{BucketConfig, Pace};
use pillion_ship::verify::{self, Audit, AuditStep, Finding, Problem, Summary};

/// What `pillion verify` was asked for.
#[derive(Debug, Clone)]
pub struct VerifyArgs {
    /// The bucket.
    pub bucket: BucketConfig,
    /// Prometheus's data directory.
    pub tsdb_path: PathBuf,
    /// Name of the ledger in it.
    pub meta_file_name: String,
    /// Whether compacted blocks are to be shipped too.
    pub upload_compacted: bool,
    /// `name=value` of each external label.
    pub labels: Vec<String>,
    /// Send what is missing.
    pub repair: bool,
    /// JSON lines instead of text.
    pub json: bool,
}

/// Compares bucket and local blocks, writes what is wrong to `out`, and says whether all is well. `Blocks:` while
/// objects are read and sent.
///
/// `Errors:` when nothing can be compared at all.
pub fn verify(args: &VerifyArgs, out: &mut dyn Write) -> Result<bool> {
    let labels = parse_labels(&args.labels)?;
    let disk = Disk::real();
    let bucket = pillion_bucket::open(&args.bucket, &disk, Pace::default())?;
    // Nothing begins the stop: a signal ends the command, and whatever it was sending can be sent again.
    let (_stopper, stop) = stop_pair()?;
    let progress = Progress::new("comparing blocks", Unit::Bytes);
    let audit = Audit {
        disk: &disk,
        bucket: &*bucket,
        data_dir: &args.tsdb_path,
        meta_file_name: &args.meta_file_name,
        upload_compacted: args.upload_compacted,
        repair: args.repair,
        labels: &labels,
        on_step: Some(&|step| match step {
            AuditStep::All(bytes) => progress.set_total(bytes),
            AuditStep::Compared(bytes) => progress.add(bytes),
        }),
    };
    let mut print = |text: String| {
        progress.erase();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|err| Error::io(&err))
    };
    let mut each = |finding: &Finding| print(if args.json { finding_json(finding) } else { finding_text(finding) });
    let summary = verify::audit(&audit, &mut each, &stop)?;
    print(if args.json { summary_json(&summary) } else { summary_text(&summary) })?;
    Ok(summary.is_well())
}

/// `name=value`, the value with or without quotes.
fn parse_labels(texts: &[String]) -> Result<Labels> {
    let pair = |text: &String| {
        let wrong = || Error::new(Kind::BadRequest, format!("--label {text:?} is not of the form name=value"));
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        if name.is_empty() || value.is_empty() { Err(wrong()) } else { Ok((name.to_owned(), value.to_owned())) }
    };
    Ok(Labels::new(texts.iter().map(pair).collect::<Result<Vec<_>>>()?))
}

fn finding_text(finding: &Finding) -> String {
    let mut text = finding.ulid.to_string();
    if let Some(object) = &finding.object {
        text.push_str(&format!(" {object}"));
    }
    text.push_str(": ");
    text.push_str(&match &finding.problem {
        Problem::Missing => "missing".to_owned(),
        Problem::Size { stored_bytes, local_bytes } => {
            let word = if stored_bytes < local_bytes { "short" } else { "long" };
            format!("{word}: {stored_bytes} bytes, not {local_bytes}")
        }
        Problem::Differs => "differs from the local block".to_owned(),
        Problem::NotShipped => "not shipped yet".to_owned(),
        Problem::Unreadable(err) => format!("local block cannot be read: {err}"),
        Problem::Unchecked(err) => format!("cannot be checked: {err}"),
        Problem::Gone => "gone from the bucket (compacted or deleted there); left alone".to_owned(),
    });
    match &finding.repair {
        None => {}
        Some(Ok(())) => text.push_str("; repaired"),
        Some(Err(err)) => text.push_str(&format!("; not repaired: {err}")),
    }
    text.push('\n');
    text
}

/// `Shape:` `{"block":"01…","object":"index","problem":"short","stored_bytes":1,"local_bytes":2,"repaired":false,
/// "error":"…"}`; members that do not apply are absent.
fn finding_json(finding: &Finding) -> String {
    let mut value = json!({"block": finding.ulid.as_str()});
    let mut set = |name: &str, member: Value| value[name] = member;
    if let Some(object) = &finding.object {
        set("object", json!(object));
    }
    let word = match &finding.problem {
        Problem::Missing => "missing",
        Problem::Size { stored_bytes, local_bytes } => {
            set("stored_bytes", json!(stored_bytes));
            set("local_bytes", json!(local_bytes));
            if stored_bytes < local_bytes { "short" } else { "long" }
        }
        Problem::Differs => "differs",
        Problem::NotShipped => "not_shipped",
        Problem::Unreadable(err) => {
            set("error", json!(err));
            "unreadable"
        }
        Problem::Unchecked(err) => {
            set("error", json!(err));
            "unchecked"
        }
        Problem::Gone => "gone",
    };
    set("problem", json!(word));
    if let Some(repair) = &finding.repair {
        set("repaired", json!(repair.is_ok()));
        if let Err(err) = repair {
            set("error", json!(err.to_string()));
        }
    }
    format!("{value}\n")
}

fn summary_text(summary: &Summary) -> String {
    let Summary { n_whole, n_wrong, n_repaired, n_gone, n_skipped } = summary;
    let n_checked = n_whole + n_wrong + n_repaired + n_gone;
    let doubt = match summary.looks_like_wrong_bucket() {
        true => "the bucket has nothing of any of these blocks: is it the right one, with the right prefix?\n",
        false => "",
    };
    format!(
        "{n_checked} blocks checked: {n_whole} whole, {n_wrong} wrong, {n_repaired} repaired, {n_gone} gone from the \
         bucket; {n_skipped} not to be shipped\n{doubt}"
    )
}

fn summary_json(summary: &Summary) -> String {
    let Summary { n_whole, n_wrong, n_repaired, n_gone, n_skipped } = summary;
    let all = json!({"whole": n_whole, "wrong": n_wrong, "repaired": n_repaired, "gone": n_gone, "skipped": n_skipped});
    format!("{}\n", json!({"summary": all, "ok": summary.is_well()}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_ship::Ulid;

    #[test]
    fn a_line_says_what_is_wrong_and_what_came_of_it() {
        let ulid = Ulid::parse("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        let check = |object: Option<&str>, problem: Problem, repair: Option<Result<()>>, text: &str, json: &str| {
            let finding = Finding { ulid, object: object.map(str::to_owned), problem, repair };
            assert_eq!(finding_text(&finding), format!("{ulid}{text}\n"));
            let expected: Value = serde_json::from_str(json).unwrap();
            let mut found: Value = serde_json::from_str(&finding_json(&finding)).unwrap();
            assert_eq!(found["block"].take(), json!(ulid.as_str()));
            found.as_object_mut().unwrap().remove("block");
            assert_eq!(found, expected);
        };
        let index = Some("index");
        check(index, Problem::Missing, None, " index: missing", r#"{"object":"index","problem":"missing"}"#);
        check(
            index,
            Problem::Size { stored_bytes: 1, local_bytes: 2 },
            Some(Ok(())),
            " index: short: 1 bytes, not 2; repaired",
            r#"{"object":"index","problem":"short","stored_bytes":1,"local_bytes":2,"repaired":true}"#,
        );
        check(
            None,
            Problem::NotShipped,
            Some(Err(Error::new(Kind::Retry, "why"))),
            ": not shipped yet; not repaired: why",
            r#"{"problem":"not_shipped","repaired":false,"error":"why"}"#,
        );
        check(
            None,
            Problem::Gone,
            None,
            ": gone from the bucket (compacted or deleted there); left alone",
            r#"{"problem":"gone"}"#,
        );
    }

    #[test]
    fn labels_are_pairs() {
        let parse = |text: &str| parse_labels(&[text.to_owned()]);
        for good in ["a=b", "a=\"b\""] {
            assert_eq!(parse(good).unwrap(), Labels::new([("a", "b")]));
        }
        assert_eq!(parse("a=b=c").unwrap(), Labels::new([("a", "b=c")]));
        for wrong in ["a", "=b", "a=", "a=\"\"", ""] {
            parse(wrong).unwrap_err();
        }
    }
}
