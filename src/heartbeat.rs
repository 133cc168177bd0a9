//! Asks Prometheus who it is, publishes the answer, and opens the gate to gRPC once it is known.
//!
//! Between two beats it may be asked for another, by a call that has met other labels than the known ones.
//!
//! A failed beat keeps the old snapshot and clears readiness. Nothing here ends the process, except at start what no
//! waiting can mend: an empty set of external labels, and with uploads flags of Prometheus under which blocks get lost.

mod pulse;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::metrics::HeartbeatMetrics;
use crate::probes::Probes;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::labels::Labels;
use pillion_base::state::{PromState, Published};
use pillion_base::stop::Stop;
use pillion_base::time::{TimeOrDuration, unix_ms};
use pillion_read::prom::{self, ChunkEncodings, Configuration, FlagCheck, FlagWarning, Flags, PromClient, RuntimeInfo};
pub(crate) use pulse::Pulse;

/// How long to wait before asking again for flags that could not be had. `Source:` Thanos, a constant there too.
const FLAGS_RETRY: Duration = Duration::from_secs(2);

/// How far apart beats are that were asked for: a Prometheus that gives reasons all the time is not asked all the time.
const ASKED_SPACING: Duration = Duration::from_secs(1);
/// Calls that may wait for a beat; no more are served at once.
const ASKING_MAX: usize = 256;

pub(crate) const NO_LABELS: &str = "no external labels configured on Prometheus server, uniquely identifying external labels must \
                         be configured; see https://thanos.io/tip/thanos/storage.md#external-labels for details.";

/// The heartbeat's settings and what it writes.
pub(crate) struct Heartbeat {
    /// The Prometheus it asks.
    pub client: Arc<PromClient>,
    /// Time between two beats, and between two tries of a start-up step.
    pub interval: Duration,
    /// Time one try may take.
    pub timeout: Duration,
    /// `--min-time`.
    pub min_time: TimeOrDuration,
    /// The flags check, when blocks are shipped.
    pub check: Option<FlagCheck>,
    /// Where the snapshot goes.
    pub state: Published<PromState>,
    /// Readiness.
    pub probes: Probes,
    /// How the beats went.
    pub pulse: Pulse,
    /// Up or not.
    pub metrics: HeartbeatMetrics,
    /// Gets one message when Prometheus is known for the first time.
    pub gate: Sender<()>,
    /// Told how many remote reads Prometheus answers at once.
    pub remote_reads_max: Box<dyn Fn(usize) + Send>,
    /// Whom to tell of a beat that they asked for. Both ends, so that there always is one who could ask.
    pub asked: (Beats, Asked),
}

/// Has Prometheus asked before it is time.
#[derive(Clone)]
pub(crate) struct Beats {
    asks: Sender<Sender<()>>,
    state: Published<PromState>,
    timeout: Duration,
}

/// The heartbeat's end of [`Beats`].
pub(crate) struct Asked(Receiver<Sender<()>>);

impl Beats {
    /// For the heartbeat that publishes `state`; nobody waits longer than `timeout`.
    pub(crate) fn new(state: Published<PromState>, timeout: Duration) -> (Self, Asked) {
        let (asks, asked) = bounded(ASKING_MAX);
        (Beats { asks, state, timeout }, Asked(asked))
    }

    /// Waits for a beat that begins after this call; the snapshot that it publishes, or nothing when it fails or takes long.
    /// One beat serves all who ask meanwhile. `Blocks:` up to the time-out.
    pub(crate) fn ask(&self) -> Option<Arc<PromState>> {
        let (done, told) = bounded(1);
        self.asks.try_send(done).ok()?;
        told.recv_timeout(self.timeout).ok()?;
        Some(self.state.read())
    }
}

/// What Prometheus says of its settings.
struct Said {
    /// `None` when it is too old to tell.
    flags: Option<Flags>,
    info: RuntimeInfo,
    /// Why there is no runtime information, where Prometheus could have given it.
    unheard: Option<Error>,
}

/// Since when Prometheus has data.
pub(crate) struct Oldest {
    pub(crate) mint_ms: i64,
    pub(crate) is_agent: bool,
}

/// The oldest time that can be asked for. An agent has no such time, and says that it is one.
pub(crate) fn oldest(client: &PromClient, min_time: TimeOrDuration) -> Result<Oldest> {
    let (lowest, is_agent) = match client.lowest_timestamp() {
        Err(err) if err.kind() == Kind::NotFound => match client.flags() {
            Ok(Some(flags)) if prom::is_agent(&flags) => (i64::MIN, true),
            _ => return Err(err.context("fetch lowest timestamp")),
        },
        other => (other.context(|| "fetch lowest timestamp")?, false),
    };
    Ok(Oldest { mint_ms: lowest.max(min_time.at(unix_ms(SystemTime::now()))), is_agent })
}

impl Said {
    fn retention_ms(&self) -> Option<i64> {
        prom::retention_ms(Some(&self.info.retention), self.flags.as_ref().unwrap_or(&Flags::new()))
    }
}

impl Heartbeat {
    /// Runs until the stop.
    ///
    /// `Errors:` only when Prometheus has no external labels at start, or flags that do not go with uploads. `Blocks:` a
    /// request in flight is cut by [`PromClient::interrupt`].
    /// `Differs:` Thanos complains of such flags for ever (D-20).
    pub(crate) fn run(self, stop: &Stop) -> Result<()> {
        let configuration = match self.start_up(stop) {
            Err(err) if err.kind() == Kind::Stopped => return Ok(()),
            other => other?,
        };
        // Someone who no longer listens is stopping too.
        let _ = self.gate.send(());
        let mut encodings = None;
        self.look_at_flags(&configuration, &mut encodings);
        let mut down = false;
        let mut asking = Vec::new();
        let mut last_asked = None;
        loop {
            match self.beat(down) {
                Ok(configuration) => {
                    // Whoever has waited too long is gone.
                    asking.drain(..).for_each(|done: Sender<()>| {
                        let _ = done.try_send(());
                    });
                    down = false;
                    self.metrics.prometheus_up.set(1);
                    self.pulse.answered();
                    self.probes.ready();
                    self.look_at_flags(&configuration, &mut encodings);
                }
                Err(_) if stop.is_stopped() => return Ok(()),
                Err((what, err)) => {
                    down = true;
                    self.metrics.prometheus_up.set(0);
                    log::warn!(err = err.to_string(); "{what}");
                    self.pulse.failed(&err);
                    self.probes.not_ready(&err.to_string());
                }
            }
            asking = self.rest(stop, &mut last_asked);
            if stop.is_stopped() {
                return Ok(());
            }
        }
    }

    /// Waits until it is time for the next beat, or until somebody asks for one. Who is to be told.
    fn rest(&self, stop: &Stop, last_asked: &mut Option<Instant>) -> Vec<Sender<()>> {
        let Asked(asks) = &self.asked.1;
        let mut asking = Vec::new();
        select! {
            recv(stop.channel()) -> _ => {}
            recv(asks) -> ask => asking.extend(ask),
            default(self.interval) => {}
        }
        if !asking.is_empty() {
            if let Some(last) = *last_asked {
                stop.wait(ASKED_SPACING.saturating_sub(last.elapsed()));
            }
            asking.extend(asks.try_iter());
            *last_asked = Some(Instant::now());
        }
        asking
    }

    /// The steps that must succeed once, in Thanos's order, each tried until it does.
    fn start_up(&self, stop: &Stop) -> Result<Configuration> {
        let mut retention_ms = None;
        if let Some(expected) = &self.check {
            let failed = "failed to validate prometheus flags. Is Prometheus running? Retrying";
            retention_ms = self
                .retry(stop, failed, || {
                    let said = self.ask_flags(stop)?;
                    match (self.judge(&said, expected), &said.unheard) {
                        // A relative path means nothing without the folder in which Prometheus runs.
                        (Err(err), Some(unheard)) => Err(err.with_kind(Kind::Retry).context(unheard.to_string())),
                        // Only a person can help; the retry passes it on.
                        (Err(err), None) if err.kind() == Kind::Permanent => Ok(Err(err)),
                        (other, _) => other.map(|()| Ok(said.retention_ms())),
                    }
                })?
                .context(|| "failed to validate prometheus flags")?;
            log::info!("successfully validated prometheus flags");
        }
        let failed = "failed to fetch prometheus version. Is Prometheus running? Retrying";
        let version = self.retry(stop, failed, || self.client.build_version())?;
        log::info!("successfully loaded prometheus version");
        let failed = "failed to fetch timestamps. Is Prometheus running? Retrying";
        let oldest = self.retry(stop, failed, || oldest(&self.client, self.min_time))?;
        let failed = "failed to fetch initial external labels. Is Prometheus running? Retrying";
        let configuration = self.retry(stop, failed, || self.client.configuration())?;
        let external_labels = configuration.external_labels.clone();
        log::info!(external_labels = external_labels.to_string(); "successfully loaded prometheus external labels");
        if external_labels.is_empty() {
            return Err(Error::new(Kind::Permanent, NO_LABELS));
        }
        self.publish(external_labels, oldest, version, retention_ms);
        self.pulse.answered();
        self.metrics.prometheus_up.set(1);
        Ok(configuration)
    }

    /// One beat. The version is asked again after Prometheus was down: it may have come back as another one.
    fn beat(&self, was_down: bool) -> Result<Configuration, (&'static str, Error)> {
        let oldest = oldest(&self.client, self.min_time).map_err(|err| ("updating timestamps failed", err))?;
        let configuration = self.client.configuration().map_err(|err| ("updating labels failed", err))?;
        let labels = configuration.external_labels.clone();
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
        let retention_ms = if was_down { self.look_again(before.retention_ms) } else { before.retention_ms };
        self.publish(labels, oldest, version, retention_ms);
        Ok(configuration)
    }

    fn publish(&self, external_labels: Labels, oldest: Oldest, version: String, retention_ms: Option<i64>) {
        if oldest.is_agent && !self.state.read().is_agent {
            log::info!("Prometheus runs as an agent: it has no series to query, only targets and metadata");
        }
        let Oldest { mint_ms, is_agent } = oldest;
        self.state.publish(PromState { external_labels, mint_ms, maxt_ms: i64::MAX, version, retention_ms, is_agent });
    }

    /// The flags of a Prometheus that was down: it may have come back with others. The retention that it has now.
    ///
    /// Flags under which blocks get lost only make a line in the log: queries are being served.
    fn look_again(&self, before: Option<i64>) -> Option<i64> {
        let Some(expected) = &self.check else { return before };
        let said =
            self.client.flags().and_then(|flags| Ok(Said { flags, info: self.client.runtime_info()?, unheard: None }));
        match said {
            Ok(said) => {
                if let Err(err) = self.judge(&said, expected) {
                    log::error!(err = err.to_string(); "Prometheus came back with flags under which blocks may get lost");
                }
                said.retention_ms()
            }
            Err(err) => {
                log::warn!(err = err.to_string(); "failed to get Prometheus flags after it came back");
                before
            }
        }
    }

    /// Takes from Prometheus's flags how much may be asked at once, and shows in which encodings it writes chunks. While
    /// blocks are shipped, says so when it begins to write such as Thanos cannot read. `known` are those that were shown
    /// before.
    fn look_at_flags(&self, configuration: &Configuration, known: &mut Option<ChunkEncodings>) {
        // A restart with other flags may go unnoticed between two beats, so they are asked for each time. Serving goes on
        // without them.
        let Ok(flags) = self.client.flags() else { return };
        let flags = flags.unwrap_or_default();
        if let Some(n_max) = prom::remote_reads_max(&flags) {
            (self.remote_reads_max)(n_max);
        }
        let now = ChunkEncodings::new(configuration.float_encoding.as_deref(), &flags);
        if *known == Some(now) {
            return;
        }
        *known = Some(now);
        self.metrics.show_chunk_encodings(now.floats(), now.histograms());
        if let Some(switches) = now.switches()
            && self.check.is_some()
        {
            log::warn!(
                "Prometheus writes chunks that Thanos's compactor and store gateway cannot read into the blocks that are \
                 uploaded: turn off {switches}"
            );
        }
    }

    /// Asks for the flags, every two seconds for as long as one try may take. `Errors:` all may pass.
    fn ask_flags(&self, stop: &Stop) -> Result<Said> {
        let begun = std::time::Instant::now();
        let flags = loop {
            match self.client.flags() {
                Ok(flags) => break flags,
                Err(err) => {
                    log::warn!(err = err.to_string(); "failed to get Prometheus flags. Is Prometheus running? Retrying");
                    self.pulse.failed(&err);
                    self.probes.not_ready(&err.to_string());
                    if begun.elapsed() + FLAGS_RETRY > self.timeout {
                        return Err(err.with_kind(Kind::Retry));
                    }
                    stop.wait(FLAGS_RETRY);
                    stop.check()?;
                }
            }
        };
        // It says more about the same things, and is not needed.
        let (info, unheard) = match self.client.runtime_info() {
            Ok(info) => (info, None),
            Err(err) => (RuntimeInfo::default(), Some(err.context("get Prometheus's runtime information"))),
        };
        Ok(Said { flags, info, unheard })
    }

    /// `Errors:` as [`prom::check_flags`].
    fn judge(&self, said: &Said, expected: &FlagCheck) -> Result<()> {
        let Some(flags) = &said.flags else {
            log::warn!(
                "failed to check Prometheus flags, due to potentially older Prometheus. No extra validation is done."
            );
            return Ok(());
        };
        let cwd = Some(Path::new(&said.info.cwd)).filter(|cwd| !cwd.as_os_str().is_empty());
        for warning in prom::check_flags(flags, expected, cwd)? {
            match warning {
                FlagWarning::BlockTime(time) => log::warn!(
                    "block-time" = time;
                    "found that TSDB block time is not 2h. Only 2h block time is recommended."
                ),
                FlagWarning::UnequalBlockSizeIgnored => log::warn!(
                    "flag to ignore Prometheus min/max block duration flags differing is being used: a block that Prometheus \
                     compacts before it was shipped will be missing from the bucket."
                ),
                FlagWarning::OtherLedger(text) => {
                    log::warn!(err = text; "going on although Prometheus may compact at any time")
                }
                FlagWarning::NoLedger(fault) => log::warn!(
                    path = expected.ledger.display().to_string(), err = fault;
                    "Prometheus waits with compaction for a file that the sidecar cannot write; without it Prometheus \
                     compacts at any time. Make --tsdb.path writable for the sidecar."
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
                    self.pulse.failed(&err);
                    self.probes.not_ready(&err.to_string());
                }
            }
            if stop.wait(self.interval) {
                return Err(Error::new(Kind::Stopped, "stopping"));
            }
        }
    }
}
