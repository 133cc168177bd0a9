//! What happens in one history, all of it decided by a seed. Pure.
//!
//! Each step has a seed of its own, so that a history from which steps are taken away plays the others as before.

use super::features::{Feature, Features};
use super::prometheus::{HOUR_MS, Settings};
use super::random::Random;

/// How Prometheus and the sidecar are set up.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) prometheus: Settings,
    pub(crate) upload_compacted: bool,
    pub(crate) allow_out_of_order: bool,
    pub(crate) sha256: bool,
    /// Enough for a few blocks, or for all.
    pub(crate) claim_budget_bytes: u64,
    /// Whether the file system refuses hard links.
    pub(crate) links_are_refused: bool,
    /// Hours of Prometheus before the sidecar is first started.
    pub(crate) hours_before: u64,
    /// Whether one block stays unreadable for ever.
    pub(crate) has_lasting_fault: bool,
    pub(crate) features: Features,
}

#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) seed: u64,
    pub(crate) what: What,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Event(Event),
    /// One tick of the shipper, which is started if it does not run; at so many operations, events happen within it.
    Tick(Vec<(u64, Event)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Time passes for Prometheus.
    Minutes(u32),
    /// Samples come late.
    Late,
    /// Stale series leave the head.
    Stale,
    /// Old samples are put into the data directory as a block.
    Backfill {
        is_slow: bool,
    },
    CleanTombstones,
    /// Prometheus dies between a compaction and the removal of what was compacted.
    PrometheusDies,
    /// The external labels become others.
    Relabel,
    /// The clock is set.
    ClockJump {
        minutes: i32,
    },
    DiskFull(bool),
    /// Something on the disk cannot be done.
    DiskFault(FaultKind),
    DiskHeals,
    Bucket(Weather),
    /// Thanos's compactor makes one block of several in the bucket and marks them for deletion.
    BucketCompacts,
    /// It removes the marked ones.
    BucketCleans,
    LedgerRemoved,
    LedgerGarbage,
    /// The meta.json of a claim becomes garbage.
    ClaimGarbage,
    Damage,
    Repair,
    /// The sidecar dies.
    Die,
    /// The sidecar is told to stop.
    Stop,
    /// The machine loses power.
    PowerCut {
        names_too: bool,
    },
    /// At the next start the external labels are not known until [`Event::Relabel`] or two ticks later.
    LabelsUnknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// One operation fails, whichever it is.
    Once,
    /// A block's own files cannot be read, or only some of them.
    BlockRead,
    /// Nothing can be asked about a block's own folder.
    BlockStat,
    /// A claim cannot be read.
    Claim,
    /// The folder of claims cannot be listed.
    Claims,
    /// The ledger cannot be read.
    Ledger,
    /// The ledger cannot be written.
    LedgerWrite,
    /// The data directory cannot be listed.
    DataDir,
    /// Nothing can be linked.
    Links,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fine,
    /// No request is answered.
    Down,
    /// Requests are refused for a reason that does not pass by itself (403).
    Denied,
    /// Every second request is refused (503).
    Busy,
    /// One answer in five about an object is wrong: it is said to be missing, or to be there.
    Lying,
    /// One request in ten fails, before or after it is done.
    Flaky,
    /// One object in five is acknowledged and lost.
    Lossy,
}

/// The set-up and the steps of a history.
pub(crate) fn make(seed: u64, features: Features) -> (Setup, Vec<Step>) {
    let mut random = Random::new(seed);
    let hours = |random: &mut Random, of: &[i64]| random.pick(of).map(|hours| hours * HOUR_MS);
    let equal_durations = random.percent(60);
    let mut setup = Setup {
        prometheus: Settings {
            equal_durations,
            has_delay_file: random.percent(if equal_durations { 25 } else { 65 }),
            retention_ms: if random.percent(75) { hours(&mut random, &[8, 12, 24, 48]) } else { None },
            retention_bytes: if random.percent(25) { random.pick(&[1500, 4000, 12_000]) } else { None },
            compacts_early: features.has(Feature::EarlyCompaction),
        },
        upload_compacted: random.percent(15),
        allow_out_of_order: random.percent(20),
        sha256: random.percent(10),
        claim_budget_bytes: if random.percent(25) { random.between(500, 6000) } else { 1 << 40 },
        links_are_refused: random.percent(8),
        hours_before: if random.percent(50) { random.between(1, 30) } else { 0 },
        has_lasting_fault: random.percent(10) && features.has(Feature::Lasting),
        features,
    };
    if setup.upload_compacted {
        // Drawn apart, so that the rest of the history does not hang on it.
        let mut apart = Random::new(!seed);
        let is_small = features.has(Feature::CompactedBudget) && apart.percent(70);
        setup.claim_budget_bytes = if is_small { apart.between(500, 6000) } else { 1 << 40 };
    }
    let n_steps = random.between(20, 80);
    // Each history likes some kinds of events more than others.
    let liked: Vec<Event> = (0..3).map(|_| event(&mut random)).collect();
    let steps = (0..n_steps).map(|_| {
        let what = match random.below(100) {
            0..45 => {
                let drawn = within(&liked, &mut random).into_iter();
                let stays = |event| event != Event::Damage || features.has(Feature::DamageWithin);
                let kept = drawn.filter_map(|(at, event)| Some((at, only(event, features)?)));
                Some(What::Tick(kept.filter(|(_, event)| stays(*event)).collect()))
            }
            45..65 => Some(What::Event(Event::Minutes(minutes(&mut random)))),
            65..80 => only(random.pick(&liked).unwrap_or(Event::Late), features).map(What::Event),
            _ => only(event(&mut random), features).map(What::Event),
        };
        let seed = random.next();
        what.map(|what| Step { seed, what })
    });
    let steps = steps.flatten().collect();
    (setup, steps)
}

/// What is left of an event when some kinds of trouble are off.
fn only(event: Event, features: Features) -> Option<Event> {
    let needed = match event {
        Event::Backfill { is_slow: true } if !features.has(Feature::SlowCopies) => {
            return Some(Event::Backfill { is_slow: false });
        }
        Event::DiskFault(kind) => match kind {
            FaultKind::Once => Feature::OneFault,
            FaultKind::BlockRead => Feature::ReadErrors,
            FaultKind::BlockStat | FaultKind::DataDir | FaultKind::Links => Feature::UnknownBlocks,
            FaultKind::Claim | FaultKind::Claims => Feature::UnreadableClaims,
            FaultKind::Ledger => Feature::LostLedger,
            FaultKind::LedgerWrite => Feature::StaleLedger,
        },
        Event::DiskFull(true) => Feature::DiskFull,
        Event::LedgerRemoved | Event::LedgerGarbage => Feature::LostLedger,
        Event::ClaimGarbage => Feature::GarbageClaims,
        Event::Damage => Feature::Damage,
        Event::Bucket(weather) if weather != Weather::Fine => Feature::BadBucket,
        Event::Die | Event::PowerCut { .. } => Feature::Deaths,
        _ => return Some(event),
    };
    features.has(needed).then_some(event)
}

fn minutes(random: &mut Random) -> u32 {
    let most = random.pick(&[1, 30, 130, 400]).unwrap_or(1);
    u32::try_from(random.between(1, most)).unwrap()
}

/// What happens within a tick: mostly nothing.
fn within(liked: &[Event], random: &mut Random) -> Vec<(u64, Event)> {
    let n_events = if random.percent(70) { 0 } else { random.between(1, 3) };
    let mut events: Vec<_> = (0..n_events)
        .map(|_| {
            let most = random.pick(&[20, 60, 200]).unwrap_or(20);
            let event = match random.below(100) {
                0..25 => Event::Minutes(minutes(random)),
                25..40 => random.pick(liked).unwrap_or(Event::Stop),
                40..55 => Event::Die,
                55..62 => Event::PowerCut { names_too: random.percent(50) },
                _ => event(random),
            };
            (random.between(1, most), event)
        })
        .collect();
    events.sort_by_key(|(at, _)| *at);
    events
}

fn event(random: &mut Random) -> Event {
    use FaultKind::*;
    match random.below(100) {
        0..12 => Event::Late,
        12..17 => Event::Stale,
        17..24 => Event::Backfill { is_slow: random.percent(70) },
        24..27 => Event::CleanTombstones,
        27..31 => Event::PrometheusDies,
        31..36 => Event::Relabel,
        36..39 => Event::ClockJump { minutes: random.pick(&[-3000, -200, 200, 3000]).unwrap_or(0) },
        39..43 => Event::DiskFull(random.percent(60)),
        43..60 => {
            let once = random.percent(25);
            let kinds = [BlockRead, BlockRead, BlockStat, Claim, Claim, Claims, Ledger, LedgerWrite, DataDir, Links];
            Event::DiskFault(if once { Once } else { random.pick(&kinds).unwrap_or(Once) })
        }
        60..65 => Event::DiskHeals,
        65..69 => Event::Bucket(Weather::Fine),
        69..75 => {
            use Weather::*;
            let all = [Down, Denied, Busy, Lying, Flaky, Flaky, Lossy, Lossy];
            Event::Bucket(random.pick(&all).unwrap_or(Fine))
        }
        75..80 => Event::BucketCompacts,
        80..84 => Event::BucketCleans,
        84..85 => Event::LedgerRemoved,
        85..86 => Event::LedgerGarbage,
        86..87 => Event::ClaimGarbage,
        87..90 => Event::Damage,
        90..92 => Event::Repair,
        92..95 => Event::Die,
        95..97 => Event::Stop,
        97..98 => Event::LabelsUnknown,
        _ => Event::PowerCut { names_too: random.percent(50) },
    }
}
