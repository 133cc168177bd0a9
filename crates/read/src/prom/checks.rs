//! Checks Prometheus's flags before blocks are shipped: does Prometheus leave a block alone until it is shipped? Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use pillion_base::error::{Error, Kind, Result};
use pillion_base::time;

/// What the check found acceptable but worth a line in the log.
#[derive(Debug, PartialEq, Eq)]
pub enum FlagWarning {
    /// Blocks are not two hours long; their length as the flag gives it.
    BlockTime(String),
    /// Compaction is on and was accepted because of `--shipper.ignore-unequal-block-size`.
    UnequalBlockSizeIgnored,
    /// Prometheus waits for another file than ours, which the same flag accepts; how the two differ.
    OtherLedger(String),
    /// Prometheus waits for our file, which cannot be read; why.
    NoLedger(String),
}

/// What Prometheus's flags are checked against.
#[derive(Debug, Clone)]
pub struct FlagCheck {
    /// Where the ledger is written: `--tsdb.path` as it was given, and the file's name.
    pub ledger: PathBuf,
    /// `--shipper.ignore-unequal-block-size`.
    pub ignore_unequal_block_size: bool,
}

/// Whether Prometheus's path of the ledger and ours lead to one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sameness {
    /// Both lead to one file.
    Same,
    /// They lead to two files.
    Different,
    /// One of them cannot be seen from here; Prometheus may see other disks.
    Unseen,
}

/// The disk as this check needs it.
pub(super) trait Files {
    /// The path from the root on.
    fn absolute(&self, path: &Path) -> PathBuf;
    /// Compares Prometheus's path of the ledger with ours; both absolute.
    fn compare(&self, theirs: &Path, ours: &Path) -> Sameness;
    /// Why the ledger cannot be read, if it cannot.
    fn ledger_fault(&self, ours: &Path) -> Option<String>;
}

/// The flags as `/api/v1/status/flags` gives them.
pub type Flags = BTreeMap<String, String>;

const MIN_BLOCK: &str = "storage.tsdb.min-block-duration";
const MAX_BLOCK: &str = "storage.tsdb.max-block-duration";
const DELAY_COMPACT: &str = "storage.tsdb.delay-compact-file.path";
const RETENTION_TIME: &str = "storage.tsdb.retention.time";
/// The older name of the same flag.
const RETENTION: &str = "storage.tsdb.retention";
const RETENTION_SIZE: &str = "storage.tsdb.retention.size";
const AGENT: &str = "agent";
const ENABLE_FEATURE: &str = "enable-feature";
const DEFAULT_RETENTION_MS: i64 = 15 * 24 * 3600 * 1000;

/// Whether Prometheus runs as an agent.
///
/// `Source:` Prometheus `cmd/prometheus/main.go`: a feature among others until 2.x, a flag of its own since 3.0.
pub fn is_agent(flags: &Flags) -> bool {
    let flag = |name: &str| flags.get(name).map_or("", String::as_str);
    flag(AGENT) == "true" || flag(ENABLE_FEATURE).split([',', ' ', '[', ']']).any(|feature| feature == AGENT)
}

/// How many remote reads Prometheus answers at once; 0 is no limit. `None` where it does not say.
pub fn remote_reads_max(flags: &Flags) -> Option<usize> {
    flags.get("storage.remote.read-concurrent-limit")?.parse().ok()
}

/// What [`prom::check_flags`](crate::prom::check_flags) does, on any disk.
pub(super) fn check_flags(
    flags: &Flags,
    expected: &FlagCheck,
    cwd: Option<&Path>,
    files: &dyn Files,
) -> Result<Vec<FlagWarning>> {
    if is_agent(flags) {
        return Err(Error::new(
            Kind::Permanent,
            "Prometheus runs as an agent, which keeps no blocks: there is nothing to upload. Start the sidecar without \
             --objstore.config and --objstore.config-file, or Prometheus as a server (without --agent or \
             --enable-feature=agent)",
        ));
    }
    let mut warnings = Vec::new();
    let min_block = duration(flags, MIN_BLOCK)?;
    let max_block = duration(flags, MAX_BLOCK)?;
    let delay_compact = flags.get(DELAY_COMPACT).map_or("", String::as_str);
    if !delay_compact.is_empty() {
        match compare(Path::new(delay_compact), expected, cwd, files) {
            Err(text) if expected.ignore_unequal_block_size => warnings.push(FlagWarning::OtherLedger(text)),
            Err(text) => return Err(Error::new(Kind::Permanent, text)),
            Ok(()) => {
                let fault = files.ledger_fault(&files.absolute(&expected.ledger));
                warnings.extend(fault.map(FlagWarning::NoLedger));
            }
        }
    }
    if min_block.0 != max_block.0 && delay_compact.is_empty() {
        if !expected.ignore_unequal_block_size {
            return Err(Error::new(
                Kind::Permanent,
                format!(
                    "found that TSDB Max time is {} and Min time is {}. Compaction needs to be disabled \
                     (storage.tsdb.min-block-duration = storage.tsdb.max-block-duration), or delayed until blocks are \
                     shipped: start Prometheus with --{DELAY_COMPACT}={} (since Prometheus 3.9), or start the sidecar with \
                     --shipper.ignore-unequal-block-size",
                    max_block.1,
                    min_block.1,
                    files.absolute(&expected.ledger).display()
                ),
            ));
        }
        warnings.push(FlagWarning::UnequalBlockSizeIgnored);
    }
    if min_block.0 != 2 * 3600 * 1000 {
        warnings.push(FlagWarning::BlockTime(min_block.1));
    }
    Ok(warnings)
}

/// Whether Prometheus waits for the file that we write; if not, what to change.
fn compare(theirs: &Path, expected: &FlagCheck, cwd: Option<&Path>, files: &dyn Files) -> Result<(), String> {
    let ours = clean(&files.absolute(&expected.ledger));
    let resolved = match cwd {
        _ if theirs.is_absolute() => Some(clean(theirs)),
        Some(cwd) if cwd.is_absolute() => Some(clean(&cwd.join(theirs))),
        _ => None,
    };
    let sameness = resolved.as_ref().map_or(Sameness::Unseen, |theirs| files.compare(theirs, &ours));
    let is_same = match sameness {
        Sameness::Same => true,
        Sameness::Different => false,
        Sameness::Unseen => clean(theirs) == clean(&expected.ledger) || resolved.as_ref() == Some(&ours),
    };
    if is_same {
        return Ok(());
    }
    let place = match &resolved {
        Some(resolved) if resolved != theirs => format!(" (that is {})", resolved.display()),
        Some(_) => String::new(),
        None => " (a path relative to a folder that Prometheus does not tell)".to_owned(),
    };
    let seen = if sameness == Sameness::Unseen { ", and the sidecar cannot see a file there" } else { "" };
    Err(format!(
        "found that Prometheus and Thanos use different paths for tracking block uploads. Prometheus uses \
         --{DELAY_COMPACT}={}{place} while Thanos will write to {}, they must both use the same path{seen}. Start \
         Prometheus with --{DELAY_COMPACT}={}, or correct --tsdb.path of the sidecar; \
         --shipper.ignore-unequal-block-size starts it nevertheless",
        theirs.display(),
        ours.display(),
        ours.display()
    ))
}

/// Prometheus's retention time: as it reports it, else from its flags. `None` where it keeps blocks by size only, or does
/// not say. `Units:` ms.
///
/// `Source:` Prometheus `cmd/prometheus/main.go`: 15 days when neither a time nor a size is set; `storageRetention` of
/// `/api/v1/status/runtimeinfo` is either or both, as in `15d or 1GiB`.
pub fn retention_ms(said: Option<&str>, flags: &Flags) -> Option<i64> {
    let time = |text: &str| time::parse_prometheus_duration(text).ok().filter(|ms| *ms > 0);
    if let Some(said) = said.filter(|said| !said.is_empty()) {
        return said.split(" or ").find_map(time);
    }
    let flag = |name: &str| flags.get(name).map(String::as_str);
    let by_time = [RETENTION_TIME, RETENTION].into_iter().find_map(|name| time(flag(name)?));
    let is_known = flags.contains_key(RETENTION_TIME) || flags.contains_key(RETENTION);
    let by_size = flag(RETENTION_SIZE).is_some_and(|size| size.bytes().any(|c| (b'1'..=b'9').contains(&c)));
    by_time.or((is_known && !by_size).then_some(DEFAULT_RETENTION_MS))
}

/// A duration flag in ms and as it was written. A Prometheus that does not know the flag counts as 0.
fn duration(flags: &Flags, name: &str) -> Result<(i64, String)> {
    let Some(text) = flags.get(name) else { return Ok((0, "0s".into())) };
    let ms = time::parse_prometheus_duration(text)
        .map_err(|err| Error::new(Kind::Corrupt, format!("read Prometheus's flag --{name}={text:?}: {err}")))?;
    Ok((ms, text.clone()))
}

/// The path without `.` and, where the text alone allows it, without `..`.
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
    fn remote_reads_at_once() {
        let check = |value: &str, expected: Option<usize>| {
            let flags = Flags::from([("storage.remote.read-concurrent-limit".to_owned(), value.to_owned())]);
            assert_eq!(remote_reads_max(&flags), expected, "{value}");
        };
        check("10", Some(10));
        check("0", Some(0));
        check("-1", None);
        check("", None);
        assert_eq!(remote_reads_max(&Flags::new()), None);
    }

    /// A disk on which all that lies below one folder is seen.
    struct Seen {
        root: &'static str,
        links: &'static [(&'static str, &'static str)],
        fault: Option<&'static str>,
    }

    impl Files for Seen {
        fn absolute(&self, path: &Path) -> PathBuf {
            Path::new("/sidecar").join(path)
        }

        fn compare(&self, theirs: &Path, ours: &Path) -> Sameness {
            let target = self.links.iter().find(|(link, _)| Path::new(link) == theirs).map(|(_, target)| target);
            let theirs = target.map_or(theirs, |target| Path::new(*target));
            match theirs.starts_with(self.root) {
                false => Sameness::Unseen,
                true if theirs == ours => Sameness::Same,
                true => Sameness::Different,
            }
        }

        fn ledger_fault(&self, ours: &Path) -> Option<String> {
            assert!(ours.is_absolute());
            self.fault.map(str::to_owned)
        }
    }

    fn flags(flags: &[(&str, &str)]) -> Flags {
        flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const ALL: Seen = Seen { root: "/", links: &[], fault: None };

    #[test]
    fn judgements() {
        let check = |given: &[(&str, &str)], ignore: bool, expected: Result<Vec<FlagWarning>, &str>| {
            let wanted = FlagCheck { ledger: "data/thanos.shipper.json".into(), ignore_unequal_block_size: ignore };
            match (check_flags(&flags(given), &wanted, None, &ALL), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(err), Err(text)) => assert!(err.to_string().contains(text), "{err}"),
                (got, expected) => panic!("{given:?}: {got:?}, expected {expected:?}"),
            }
        };
        let (min, max, delay) = (MIN_BLOCK, MAX_BLOCK, DELAY_COMPACT);
        check(&[(min, "2h"), (max, "2h")], false, Ok(vec![]));
        check(&[(min, "2h"), (max, "36h")], false, Err("TSDB Max time is 36h and Min time is 2h"));
        check(&[(min, "2h"), (max, "36h")], false, Err("delay-compact-file.path=/sidecar/data/thanos.shipper.json"));
        check(&[(min, "2h"), (max, "36h")], true, Ok(vec![FlagWarning::UnequalBlockSizeIgnored]));
        check(&[(min, "2h"), (max, "36h"), (delay, "./data/x/../thanos.shipper.json")], false, Ok(vec![]));
        check(&[(min, "2h"), (max, "2h"), (delay, "/data/thanos.shipper.json")], false, Err("use different paths"));
        check(&[(min, "1m"), (max, "1m")], false, Ok(vec![FlagWarning::BlockTime("1m".into())]));
        check(&[(min, "2 hours"), (max, "2h")], false, Err("min-block-duration"));
        check(&[], false, Ok(vec![FlagWarning::BlockTime("0s".into())]));
    }

    #[test]
    fn agents() {
        let check = |given: &[(&str, &str)], expected: bool| assert_eq!(is_agent(&flags(given)), expected, "{given:?}");
        check(&[], false);
        check(&[("agent", "true"), ("storage.agent.path", "data-agent/")], true);
        check(&[("agent", "false")], false);
        check(&[("enable-feature", "agent")], true);
        check(&[("enable-feature", "exemplar-storage,agent")], true);
        check(&[("enable-feature", "agents,no-agent"), ("storage.agent.path", "data-agent/")], false);
        let wanted = FlagCheck { ledger: "x".into(), ignore_unequal_block_size: true };
        let given = flags(&[("agent", "true"), (MIN_BLOCK, "2h"), (MAX_BLOCK, "0s")]);
        let err = check_flags(&given, &wanted, None, &ALL).unwrap_err();
        assert_eq!(err.kind(), Kind::Permanent);
        assert!(err.to_string().starts_with("Prometheus runs as an agent"), "{err}");
    }

    #[test]
    fn only_what_somebody_must_change_is_permanent() {
        let kind = |given: &[(&str, &str)]| {
            let wanted = FlagCheck { ledger: "x".into(), ignore_unequal_block_size: false };
            check_flags(&flags(given), &wanted, None, &ALL).unwrap_err().kind()
        };
        assert_eq!(kind(&[(MIN_BLOCK, "2h"), (MAX_BLOCK, "1d")]), Kind::Permanent);
        assert_eq!(kind(&[(DELAY_COMPACT, "/y")]), Kind::Permanent);
        assert_eq!(kind(&[(MIN_BLOCK, "garbage")]), Kind::Corrupt);
    }

    #[test]
    fn paths_are_compared_by_file_and_else_by_text() {
        let check = |ours: &str, theirs: &str, cwd: Option<&str>, files: &Seen, expected: Result<(), &str>| {
            let wanted = FlagCheck { ledger: ours.into(), ignore_unequal_block_size: false };
            match (compare(Path::new(theirs), &wanted, cwd.map(Path::new), files), expected) {
                (Ok(()), Ok(())) => {}
                (Err(err), Err(text)) => assert!(err.contains(text), "{err}"),
                (got, expected) => panic!("{theirs} for {ours} in {cwd:?}: {got:?}, expected {expected:?}"),
            }
        };
        let linked = Seen { links: &[("/var/prom/t", "/data/t")], ..ALL };
        let narrow = Seen { root: "/data", ..ALL };
        // Spelled differently, one file.
        check("/data/t", "/data/t", None, &ALL, Ok(()));
        check("/data/t", "t", Some("/data"), &ALL, Ok(()));
        check("data/t", "/sidecar/data/t", None, &ALL, Ok(()));
        check("/data/t", "/var/prom/t", None, &linked, Ok(()));
        check("/data/t", "./prom/t", Some("/var"), &linked, Ok(()));
        // The same text, two files.
        check("data/t", "data/t", Some("/prometheus"), &ALL, Err("data/t (that is /prometheus/data/t) while Thanos"));
        // Not to be seen from here: the text decides.
        check("/data/t", "/prometheus/t", None, &narrow, Err("cannot see a file there"));
        check("data/t", "data/t", Some("/prometheus"), &narrow, Ok(()));
        check("data/t", "./data/t", None, &ALL, Ok(()));
        check("/data/t", "t", None, &ALL, Err("relative to a folder that Prometheus does not tell"));
        // What to change.
        let fix = "Start Prometheus with --storage.tsdb.delay-compact-file.path=/data/t, or correct --tsdb.path";
        check("/data/t", "/other/t", None, &ALL, Err(fix));
    }

    #[test]
    fn a_ledger_that_is_not_there_and_a_path_that_is_accepted_are_warned_about() {
        let ours = "/data/t";
        let warnings = |theirs: &str, ignore: bool, fault: Option<&'static str>| {
            let wanted = FlagCheck { ledger: ours.into(), ignore_unequal_block_size: ignore };
            let given = flags(&[(MIN_BLOCK, "2h"), (MAX_BLOCK, "31d"), (DELAY_COMPACT, theirs)]);
            check_flags(&given, &wanted, None, &Seen { fault, ..ALL }).unwrap()
        };
        assert_eq!(warnings(ours, false, None), []);
        assert_eq!(warnings(ours, false, Some("gone")), [FlagWarning::NoLedger("gone".into())]);
        assert!(
            matches!(warnings("/other", true, None).as_slice(), [FlagWarning::OtherLedger(text)] if text.contains("/other"))
        );
    }

    #[test]
    fn retention() {
        let check = |said: Option<&str>, given: &[(&str, &str)], hours: Option<i64>| {
            assert_eq!(retention_ms(said, &flags(given)), hours.map(|hours| hours * 3_600_000), "{said:?} {given:?}");
        };
        let (time, old, size) = (RETENTION_TIME, RETENTION, RETENTION_SIZE);
        check(Some("15d"), &[], Some(360));
        check(Some("1d12h or 1GiB"), &[(time, "0s")], Some(36));
        check(Some("1GiB"), &[(time, "15d")], None);
        check(None, &[(time, "0s"), (old, "0s"), (size, "0B")], Some(360));
        check(Some(""), &[(time, "2h"), (size, "0B")], Some(2));
        check(None, &[(time, "0s"), (old, "30d"), (size, "1GiB")], Some(720));
        check(None, &[(time, "0s"), (size, "1GiB")], None);
        check(None, &[(size, "0B")], None);
        check(None, &[], None);
        check(Some("for ever"), &[], None);
    }
}
