//! What Prometheus says when it is asked what the heartbeat asks at the start, in its order, and what follows from that.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crossbeam_channel::Sender;
use serde_json::Value;

use super::findings::Level;
use super::parts::Report;
use crate::cli::Config;
use crate::heartbeat::{self, NO_LABELS};
use pillion_base::error::{Error, Kind};
use pillion_base::labels::Labels;
use pillion_base::time::unix_ms;
use pillion_read::prom::{self, ChunkEncodings, FlagCheck, FlagWarning, Flags, PromClient};

/// Blocks are two hours long, and one more is needed for the upload to be late: below three of them a short outage costs
/// blocks. `Source:` Thanos asks for three times the length of a block.
const RETENTION_MIN_MS: i64 = 6 * 3600 * 1000;
/// Clocks that are further apart than this shift what "now" means in queries.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5);

/// Asks everything; the external labels go to `known` too.
pub(super) fn look(config: &Config, client: &PromClient, known: &Sender<Labels>, report: &Report) {
    let url = &config.prometheus_url;
    report.step("asking Prometheus for its version");
    match client.build_version() {
        Ok(version) if version == "0" => report.warning(
            format!("{url} answers, and does not tell its version"),
            "see whether --prometheus.url leads to Prometheus itself: it tells its version since 2.14",
        ),
        Ok(version) => report.ok(format!("version {version} answers at {}", url.join(""))),
        // The other questions would only fail in the same way.
        Err(err) => return report.failed(Level::Error, &err, unreachable_advice(&err)),
    }
    let flags = look_at_flags(config, client, report);
    report.step("asking Prometheus for its oldest time");
    let mut is_agent = false;
    match heartbeat::oldest(client, config.min_time) {
        Ok(oldest) => {
            is_agent = oldest.is_agent;
            if is_agent {
                report.note("Prometheus runs as an agent: it has no series to query, only targets and metadata");
            }
        }
        Err(err) => report.failed(
            Level::Error,
            &err,
            "see whether --prometheus.url leads to a Prometheus that serves its own /metrics",
        ),
    }
    report.step("asking Prometheus for its configuration");
    match client.configuration() {
        Err(err) => report.failed(Level::Error, &err, "without its configuration there are no external labels"),
        Ok(configuration) => {
            let labels = configuration.external_labels;
            if labels.is_empty() {
                report.error(NO_LABELS, "set global.external_labels in prometheus.yml, and reload Prometheus");
            } else {
                report.ok(format!("the external labels are {labels}"));
                // Blocks of others would show in the bucket.
                if config.bucket.is_none() {
                    report.note(
                        "whether no other Prometheus has the same external labels only a querier could tell; a label such as \
                         replica with the host's name makes them unique",
                    );
                }
            }
            let encodings = ChunkEncodings::new(configuration.float_encoding.as_deref(), &flags.unwrap_or_default());
            if let (Some(switches), true) = (encodings.switches(), config.bucket.is_some()) {
                report.warning(
                    "Prometheus writes chunks that Thanos's compactor and store gateway cannot read into the blocks that are \
                     uploaded",
                    format!("turn off {switches}"),
                );
            }
            // Whoever waits for them may have given up.
            let _ = known.send(labels);
        }
    }
    if !is_agent {
        look_at_clock(client, report);
    }
}

/// What to do about a Prometheus that does not answer.
fn unreachable_advice(err: &Error) -> &'static str {
    let text = err.to_string();
    let says = |status: &str| text.contains(&format!("response code: {status}"));
    match () {
        () if says("503") => "wait until Prometheus has read its write-ahead log; the sidecar would wait, too",
        () if says("401") || says("403") => "give Prometheus's user and password (--prometheus.http-client-file)",
        () if err.kind() == Kind::Corrupt || says("") => "see whether --prometheus.url leads to Prometheus itself",
        () => "start Prometheus, or correct --prometheus.url; the sidecar would wait for it, and not be ready",
    }
}

/// Whether Prometheus's flags go with uploads. Its flags, if it tells them.
fn look_at_flags(config: &Config, client: &PromClient, report: &Report) -> Option<Flags> {
    report.step("asking Prometheus for its flags");
    let flags = match client.flags() {
        Ok(Some(flags)) => flags,
        Ok(None) => {
            report.note("Prometheus is too old to tell its flags: whether they go with uploads is not known");
            return None;
        }
        Err(err) => {
            report.failed(Level::Error, &err, "the sidecar would try again until Prometheus tells its flags");
            return None;
        }
    };
    let n_reads = prom::remote_reads_max(&flags).filter(|n_max| *n_max > 0);
    if let Some(n_max) = n_reads.filter(|n_max| *n_max < config.concurrent_calls) {
        report.note(format!(
            "Prometheus answers {n_max} remote reads at once, and up to {} calls are served: the others wait for it \
             (--storage.remote.read-concurrent-limit of Prometheus, --store.limits.concurrent-calls)",
            config.concurrent_calls
        ));
    }
    if config.bucket.is_none() {
        return Some(flags);
    }
    report.step("asking Prometheus for its folder and retention");
    let info = client.runtime_info().unwrap_or_default();
    let expected = FlagCheck {
        ledger: config.tsdb_path.join(&config.shipper.meta_file_name),
        ignore_unequal_block_size: config.shipper.ignore_unequal_block_size,
    };
    let cwd = Some(Path::new(&info.cwd)).filter(|cwd| !cwd.as_os_str().is_empty());
    match prom::check_flags(&flags, &expected, cwd) {
        Err(err) => report.failed(Level::Error, &err, "change one of the flags that are named"),
        Ok(warnings) if warnings.is_empty() => report.ok("Prometheus's flags go with uploads"),
        Ok(warnings) => warnings.iter().for_each(|warning| tell(warning, &expected, report)),
    }
    match prom::retention_ms(Some(&info.retention), &flags) {
        Some(ms) if ms < RETENTION_MIN_MS => report.warning(
            format!("Prometheus keeps blocks for {} minutes only: an outage of the bucket may cost some", ms / 60_000),
            "set --storage.tsdb.retention.time of Prometheus to 6h or more",
        ),
        Some(ms) => report.ok(format!("Prometheus keeps blocks for {} hours", ms / 3_600_000)),
        None => report.note("Prometheus keeps blocks by size, or does not tell for how long"),
    }
    Some(flags)
}

fn tell(warning: &FlagWarning, expected: &FlagCheck, report: &Report) {
    match warning {
        FlagWarning::BlockTime(time) => report.warning(
            format!("Prometheus's blocks are {time} long, and only 2h is recommended"),
            "leave --storage.tsdb.min-block-duration and --storage.tsdb.max-block-duration of Prometheus at 2h",
        ),
        FlagWarning::UnequalBlockSizeIgnored => report.warning(
            "Prometheus compacts blocks at any time, which --shipper.ignore-unequal-block-size accepts",
            "set both block durations of Prometheus to 2h, or give Prometheus 3.9 and later the delay-compact file",
        ),
        FlagWarning::OtherLedger(text) => report.warning(text.as_str(), "have both use the same file"),
        FlagWarning::NoLedger(fault) => report.note(format!(
            "Prometheus waits with compaction for {}, which the sidecar writes when it starts ({fault})",
            expected.ledger.display()
        )),
    }
}

/// Compares Prometheus's clock with this one. One that cannot be asked says nothing.
fn look_at_clock(client: &PromClient, report: &Report) {
    report.step("asking Prometheus for the time");
    let params = [("query", "time()".to_owned())];
    let before_ms = unix_ms(SystemTime::now());
    let Ok(answer) = client.call().json::<BTreeMap<String, Value>>("/api/v1/query", &params) else { return };
    let after_ms = unix_ms(SystemTime::now());
    let seconds = answer.data.get("result").and_then(|result| result.get(0)?.as_f64());
    #[allow(clippy::cast_possible_truncation)] // Times in ms are far below 2^53.
    let Some(theirs_ms) = seconds.map(|seconds| (seconds * 1000.0) as i64) else { return };
    let skew_ms = if theirs_ms < before_ms { theirs_ms - before_ms } else { (theirs_ms - after_ms).max(0) };
    let word = if skew_ms > 0 { "ahead of" } else { "behind" };
    if Duration::from_millis(skew_ms.unsigned_abs()) > CLOCK_SKEW_MAX {
        report.warning(
            format!("Prometheus's clock is {}s {word} this machine's", skew_ms.abs() / 1000),
            "set the clocks of both machines (NTP)",
        );
    } else {
        report.ok("Prometheus's clock is that of this machine");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_fits_the_answer() {
        let check = |text: &str, expected: &str| {
            let advice = unreachable_advice(&Error::new(Kind::Retry, text));
            assert!(advice.contains(expected), "{text}: {advice}");
        };
        check("got non-200 response code: 503, response: Service Unavailable", "write-ahead log");
        check("got non-200 response code: 401, response: x", "password");
        check("got non-200 response code: 502, response: x", "leads to Prometheus itself");
        check("connection refused", "start Prometheus");
    }
}
