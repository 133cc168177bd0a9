//! Prometheus's flags, judged before blocks are shipped: does it leave them alone until they are shipped? Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::time;

/// What the check found acceptable but worth a line in the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Remark {
    /// Blocks are not two hours long; how long they are.
    BlockTime(String),
    /// Compaction is on and was accepted because of `--shipper.ignore-unequal-block-size`.
    UnequalBlockSizeIgnored,
}

/// What the sidecar was told about the data directory.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Where the ledger is written.
    pub ledger: PathBuf,
    /// `--shipper.ignore-unequal-block-size`.
    pub ignore_unequal_block_size: bool,
}

/// The flags as `/api/v1/status/flags` gives them.
pub type Flags = BTreeMap<String, String>;

const MIN_BLOCK: &str = "storage.tsdb.min-block-duration";
const MAX_BLOCK: &str = "storage.tsdb.max-block-duration";
const DELAY_COMPACT: &str = "storage.tsdb.delay-compact-file.path";

/// Judges the flags as Thanos does, in its order and with its words.
///
/// `Errors:` `Permanent`: somebody has to change a flag of Prometheus or of the sidecar.
pub fn judge(flags: &Flags, expected: &Expected) -> Result<Vec<Remark>> {
    let mut remarks = Vec::new();
    let min_block = duration(flags, MIN_BLOCK)?;
    let max_block = duration(flags, MAX_BLOCK)?;
    let delay_compact = flags.get(DELAY_COMPACT).map_or("", String::as_str);
    if !delay_compact.is_empty() && clean(Path::new(delay_compact)) != clean(&expected.ledger) {
        return Err(Error::new(
            Kind::Permanent,
            format!(
                "found that Prometheus and Thanos use different paths for tracking block uploads. Prometheus uses \
                 --storage.tsdb.delay-compact-file.path={delay_compact} while Thanos will write to {}, they must both use \
                 the same path.",
                expected.ledger.display()
            ),
        ));
    }
    if min_block.0 != max_block.0 && delay_compact.is_empty() {
        if !expected.ignore_unequal_block_size {
            return Err(Error::new(
                Kind::Permanent,
                format!(
                    "found that TSDB Max time is {} and Min time is {}. Compaction needs to be disabled \
                     (storage.tsdb.min-block-duration = storage.tsdb.max-block-duration)",
                    max_block.1, min_block.1
                ),
            ));
        }
        remarks.push(Remark::UnequalBlockSizeIgnored);
    }
    if min_block.0 != 2 * 3600 * 1000 {
        remarks.push(Remark::BlockTime(min_block.1));
    }
    Ok(remarks)
}

/// A duration flag in ms and as it was written. A Prometheus that does not know the flag counts as 0.
fn duration(flags: &Flags, name: &str) -> Result<(i64, String)> {
    let Some(text) = flags.get(name) else { return Ok((0, "0s".into())) };
    let ms = time::parse_prometheus_duration(text)
        .map_err(|err| Error::new(Kind::Corrupt, format!("read Prometheus's flag --{name}={text:?}: {err}")))?;
    Ok((ms, text.clone()))
}

/// The path without `.` and, where it can be told from the text alone, without `..`.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judgements() {
        let check = |flags: &[(&str, &str)], ignore: bool, expected: Result<Vec<Remark>, &str>| {
            let flags: Flags = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let wanted = Expected { ledger: "data/thanos.shipper.json".into(), ignore_unequal_block_size: ignore };
            match (judge(&flags, &wanted), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(err), Err(text)) => assert!(err.to_string().contains(text), "{err}"),
                (got, expected) => panic!("{flags:?}: {got:?}, expected {expected:?}"),
            }
        };
        let (min, max, delay) = (MIN_BLOCK, MAX_BLOCK, DELAY_COMPACT);
        check(&[(min, "2h"), (max, "2h")], false, Ok(vec![]));
        check(&[(min, "2h"), (max, "36h")], false, Err("TSDB Max time is 36h and Min time is 2h"));
        check(&[(min, "2h"), (max, "36h")], true, Ok(vec![Remark::UnequalBlockSizeIgnored]));
        check(&[(min, "2h"), (max, "36h"), (delay, "./data/x/../thanos.shipper.json")], false, Ok(vec![]));
        check(&[(min, "2h"), (max, "2h"), (delay, "/data/thanos.shipper.json")], false, Err("use different paths"));
        check(&[(min, "1m"), (max, "1m")], false, Ok(vec![Remark::BlockTime("1m".into())]));
        check(&[(min, "2 hours"), (max, "2h")], false, Err("min-block-duration"));
        check(&[], false, Ok(vec![Remark::BlockTime("0s".into())]));
    }
}
