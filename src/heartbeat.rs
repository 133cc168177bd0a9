//! Asks Prometheus who it is, publishes the answer, and opens the gate to gRPC once it is known.
//!
//! A failed beat keeps the old snapshot and clears readiness. Nothing here ends the process, except an empty set of
//! external labels at start.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossbeam_channel::Sender;

use crate::error::{Context, Error, Kind, Result};
use crate::labels::Labels;
use crate::metrics::HeartbeatMetrics;
use crate::prom::checks::{self, Expected, Remark};
use crate::prom::client::Client;
use crate::state::{Probes, PromState, Published};
use crate::supervisor::Stop;
use crate::time::{TimeOrDuration, unix_ms};

/// How long to wait before asking again for flags that could not be had. `Source:` Thanos, a constant there too.
const FLAGS_RETRY: Duration = Duration::from_secs(2);

const NO_LABELS: &str = "no external labels configured on Prometheus server, uniquely identifying external labels must \
                         be configured; see https://thanos.io/tip/thanos/storage.md#external-labels for details.";

/// The heartbeat's settings and what it writes.
pub struct Heartbeat {
    /// The Prometheus it asks.
    pub client: Arc<Client>,
    /// Time between two beats, and between two tries of a start-up step.
    pub interval: Duration,
    /// Time one try may take.
    pub timeout: Duration,
    /// `--min-time`.
    pub min_time: TimeOrDuration,
    /// The flags check, when blocks are shipped.
    pub check: Option<Expected>,
    /// Where the snapshot goes.
    pub state: Published<PromState>,
    /// Readiness.
    pub probes: Probes,
    /// Up or not.
    pub metrics: HeartbeatMetrics,
    /// Gets one message when Prometheus is known for the first time.
    pub gate: Sender<()>,
}

impl Heartbeat {
    /// Runs until the stop.
    ///
    /// `Errors:` only when Prometheus has no external labels at start. `Blocks:` a request in flight is cut by
    /// [`Client::interrupt`].
    pub fn run(self, stop: &Stop) -> Result<()> {
        match self.start_up(stop) {
            Err(err) if err.kind() == Kind::Stopped => return Ok(()),
            other => other?,
        }
        // Someone who no longer listens is stopping too.
        let _ = self.gate.send(());
        let mut down = false;
        loop {
            match self.beat(down) {
                Ok(()) => {
                    down = false;
                    self.metrics.prometheus_up.set(1);
                    self.probes.ready();
                }
                Err(_) if stop.is_stopped() => return Ok(()),
                Err((what, err)) => {
                    down = true;
                    self.metrics.prometheus_up.set(0);
                    log::warn!(err = err.to_string(); "{what}");
                    self.probes.not_ready(&err.to_string());
                }
            }
            if stop.wait(self.interval) {
                return Ok(());
            }
        }
    }

    /// The steps that must succeed once, in Thanos's order, each tried until it does.
    fn start_up(&self, stop: &Stop) -> Result<()> {
        if let Some(expected) = &self.check {
            let failed = "failed to validate prometheus flags. Is Prometheus running? Retrying";
            self.retry(stop, failed, || self.check_flags(expected, stop))?;
            log::info!("successfully validated prometheus flags");
        }
        let failed = "failed to fetch prometheus version. Is Prometheus running? Retrying";
        let version = self.retry(stop, failed, || self.client.build_version())?;
        log::info!("successfully loaded prometheus version");
        let failed = "failed to fetch timestamps. Is Prometheus running? Retrying";
        let mint_ms = self.retry(stop, failed, || self.mint_ms())?;
        let failed = "failed to fetch initial external labels. Is Prometheus running? Retrying";
        let external_labels = self.retry(stop, failed, || self.client.external_labels())?;
        log::info!(external_labels = external_labels.to_string(); "successfully loaded prometheus external labels");
        if external_labels.is_empty() {
            return Err(Error::new(Kind::Permanent, NO_LABELS));
        }
        self.publish(external_labels, mint_ms, version);
        self.metrics.prometheus_up.set(1);
        Ok(())
    }

    /// One beat. The version is asked again after Prometheus was down: it may have come back as another one.
    fn beat(&self, was_down: bool) -> Result<(), (&'static str, Error)> {
        let mint_ms = self.mint_ms().map_err(|err| ("updating timestamps failed", err))?;
        let labels = self.client.external_labels().map_err(|err| ("updating labels failed", err))?;
        let before = self.state.read();
        let version = if was_down {
            let version = self.client.build_version().map_err(|err| ("updating version failed", err))?;
            if version != before.version {
                log::info!(before = before.version, now = version; "Prometheus came back with another version");
            }
            version
        } else {
            before.version.clone()
        };
        if labels != before.external_labels {
            log::info!(
                before = before.external_labels.to_string(), now = labels.to_string();
                "external labels of Prometheus changed"
            );
        }
        self.publish(labels, mint_ms, version);
        Ok(())
    }

    fn publish(&self, external_labels: Labels, mint_ms: i64, version: String) {
        self.state.publish(PromState { external_labels, mint_ms, maxt_ms: i64::MAX, version });
    }

    fn mint_ms(&self) -> Result<i64> {
        let lowest = self.client.lowest_timestamp().context(|| "fetch lowest timestamp")?;
        Ok(lowest.max(self.min_time.at(unix_ms(SystemTime::now()))))
    }

    /// Fetches the flags, every two seconds for as long as one try may take, and judges them.
    fn check_flags(&self, expected: &Expected, stop: &Stop) -> Result<()> {
        let begun = std::time::Instant::now();
        let flags = loop {
            match self.client.flags() {
                Ok(flags) => break flags,
                Err(err) => {
                    log::warn!(err = err.to_string(); "failed to get Prometheus flags. Is Prometheus running? Retrying");
                    if begun.elapsed() + FLAGS_RETRY > self.timeout {
                        return Err(err);
                    }
                    stop.wait(FLAGS_RETRY);
                    stop.check()?;
                }
            }
        };
        let Some(flags) = flags else {
            log::warn!(
                "failed to check Prometheus flags, due to potentially older Prometheus. No extra validation is done."
            );
            return Ok(());
        };
        for remark in checks::judge(&flags, expected)? {
            match remark {
                Remark::BlockTime(time) => log::warn!(
                    "block-time" = time;
                    "found that TSDB block time is not 2h. Only 2h block time is recommended."
                ),
                Remark::UnequalBlockSizeIgnored => log::warn!(
                    "flag to ignore Prometheus min/max block duration flags differing is being used: a block that Prometheus \
                     compacts before it was shipped will be missing from the bucket."
                ),
            }
        }
        Ok(())
    }

    /// Tries a step until it succeeds or the stop begins.
    fn retry<T>(&self, stop: &Stop, failed: &str, mut step: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            match step() {
                Ok(done) => return Ok(done),
                Err(_) if stop.is_stopped() => return Err(Error::new(Kind::Stopped, "stopping")),
                Err(err) => {
                    log::warn!(err = err.to_string(); "{failed}");
                    self.probes.not_ready(&err.to_string());
                }
            }
            if stop.wait(self.interval) {
                return Err(Error::new(Kind::Stopped, "stopping"));
            }
        }
    }
}
