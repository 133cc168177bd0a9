//! The shipper of `--dry-run`: looks as the real one does, and says what it would ship and why not the others. It writes
//! neither to the disk nor to the bucket, and of the bucket it asks only whether a block is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::LOG_TARGET;
use crate::history::History;
use crate::outlook::{self, DataFolder, Foreseen, Outlook, Verdict};
use crate::place::Place;
use crate::shipper::ShipConfig;
use pillion_base::error::{Error, Result};
use pillion_base::state::{PromState, Published};
use pillion_base::stop::Stop;
use pillion_bucket::Bucket;

/// How often it is looked whether the external labels are known.
const LABELS_LOOK: Duration = Duration::from_millis(500);

/// The shipper that ships nothing.
pub struct DryRun {
    config: ShipConfig,
    bucket: Arc<dyn Bucket>,
    state: Published<PromState>,
    history: Option<History>,
    /// Blocks that the bucket had when it was asked.
    there: BTreeSet<String>,
    /// Blocks that it did not have; they are asked for once, too.
    absent: BTreeSet<String>,
    /// What was said of each block.
    said: BTreeMap<String, String>,
    /// The last line that was not about one block.
    said_of_all: String,
}

/// What one look has found.
#[derive(Debug, Default)]
pub struct DryReport {
    /// Blocks that would be uploaded, oldest first, with their sizes in bytes.
    pub uploads: Vec<(String, u64)>,
    /// The other blocks, with the reason.
    pub others: Vec<(String, String)>,
}

impl DryRun {
    /// A shipper that only looks. `config.disk` is not used: it gets one that cannot be written to.
    pub fn new(config: ShipConfig, bucket: Arc<dyn Bucket>, state: Published<PromState>) -> Self {
        let config = ShipConfig { disk: pillion_base::files::Disk::read_only(), ..config };
        DryRun {
            config,
            bucket,
            state,
            history: None,
            there: BTreeSet::new(),
            absent: BTreeSet::new(),
            said: BTreeMap::new(),
            said_of_all: String::new(),
        }
    }

    /// Looks until the stop, and logs what has changed. No failure ends it. `Blocks:` for the life of the daemon.
    pub fn run(mut self, stop: &Stop) -> Result<()> {
        log::warn!(target: LOG_TARGET, dir = self.config.data_dir.display().to_string(), bucket = self.bucket.name();
            "dry run: nothing is uploaded, and nothing is written under --tsdb.path; without --dry-run blocks are shipped");
        // Without labels every block waits. That is said once it has lasted.
        let begun = Instant::now();
        while !self.has_labels() && begun.elapsed() < self.config.interval {
            if stop.wait(LABELS_LOOK) {
                return Ok(());
            }
        }
        loop {
            let had_labels = self.has_labels();
            match self.look(stop) {
                Ok(report) => self.tell(&report),
                Err(_) if stop.is_stopped() => return Ok(()),
                Err(err) => self.tell_failure(&err),
            }
            let looked = Instant::now();
            while looked.elapsed() < self.config.interval && had_labels == self.has_labels() {
                let left = self.config.interval.saturating_sub(looked.elapsed());
                if stop.wait(if had_labels { left } else { left.min(LABELS_LOOK) }) {
                    return Ok(());
                }
            }
        }
    }

    fn has_labels(&self) -> bool {
        !self.state.read().external_labels.is_empty()
    }

    /// Looks once. `Errors:` when the folder or the ledger cannot be read, or at the stop.
    pub fn look(&mut self, stop: &Stop) -> Result<DryReport> {
        let folder = DataFolder {
            disk: &self.config.disk,
            dir: &self.config.data_dir,
            meta_file_name: &self.config.meta_file_name,
            upload_compacted: self.config.upload_compacted,
        };
        let Outlook { blocks, .. } = outlook::look(&folder, &mut self.history)?;
        let has_labels = self.has_labels();
        let place = Place::new(&self.config.data_dir, self.config.disk.clone()).check_noted(&*self.bucket, stop);
        let mut report = DryReport::default();
        let mut held_up_by: Option<String> = None;
        for Foreseen { name, bytes, verdict } in blocks {
            stop.check()?;
            let reason = match verdict {
                Verdict::Stays(why) => why.to_owned(),
                Verdict::Damaged(why) => format!("it would be set aside as damaged: {why}"),
                Verdict::Unreadable(why) => {
                    let text = format!("it cannot be read now: {why}");
                    held_up_by.get_or_insert_with(|| name.clone());
                    text
                }
                Verdict::Ships(_) => match (&held_up_by, self.is_there(&name, &place, stop)?) {
                    (_, Ok(true)) => "the bucket has it".to_owned(),
                    (_, Err(err)) => format!("the bucket cannot be asked: {err}"),
                    (Some(older), _) if !self.config.allow_out_of_order_uploads => {
                        format!("it would wait for the older block {older}")
                    }
                    _ if !has_labels => "it would wait for the external labels of Prometheus".to_owned(),
                    _ => {
                        report.uploads.push((name, bytes));
                        continue;
                    }
                },
            };
            report.others.push((name, reason));
        }
        Ok(report)
    }

    /// Whether the bucket has a block, if it is the right one; the outer error is the stop's.
    fn is_there(&mut self, name: &str, place: &Result<()>, stop: &Stop) -> Result<Result<bool>> {
        if let Err(err) = place {
            return Ok(Err(err.clone()));
        }
        if self.there.contains(name) || self.absent.contains(name) {
            return Ok(Ok(self.there.contains(name)));
        }
        let asked = self.bucket.exists(&format!("{name}/meta.json"), stop);
        stop.check()?;
        if let Ok(is_there) = &asked {
            let kept = if *is_there { &mut self.there } else { &mut self.absent };
            kept.insert(name.to_owned());
        }
        Ok(asked)
    }

    /// A line for each block of which something else is to be said than before, and one for all of them.
    fn tell(&mut self, report: &DryReport) {
        let mut now = BTreeMap::new();
        for (name, bytes) in &report.uploads {
            let text = format!("upload of {bytes} bytes");
            if self.said.get(name) != Some(&text) {
                log::info!(target: LOG_TARGET, block = name.as_str(), bytes = *bytes; "dry run: would upload block");
            }
            now.insert(name.clone(), text);
        }
        for (name, reason) in &report.others {
            if self.said.get(name) != Some(reason) {
                log::info!(target: LOG_TARGET, block = name.as_str(), reason = reason.as_str(); "dry run: would not upload block");
            }
            now.insert(name.clone(), reason.clone());
        }
        self.said = now;
        let bytes: u64 = report.uploads.iter().map(|(_, bytes)| bytes).sum();
        let text = format!("{} {bytes} {}", report.uploads.len(), report.others.len());
        if self.said_of_all != text {
            log::info!(target: LOG_TARGET, would_upload = report.uploads.len(), bytes = bytes, others = report.others.len();
                "dry run: looked at the data folder");
            self.said_of_all = text;
        }
    }

    fn tell_failure(&mut self, err: &Error) {
        let text = err.to_string();
        if self.said_of_all != text {
            log::warn!(target: LOG_TARGET, err = text.as_str(); "dry run: cannot look at the data folder");
            self.said_of_all = text;
        }
    }
}
