//! What Prometheus compacts next. `Source:` Prometheus `tsdb/compact.go`.

use std::collections::{BTreeMap, BTreeSet};

use pillion_ship::Ulid;
use serde_json::Value;

use super::blocks::Draft;
use super::prometheus::{Prometheus, RANGE_MS};
use super::random::Random;

impl Prometheus {
    /// Compacts as long as there is something to compact.
    pub(super) fn compact(&mut self, random: &mut Random) {
        while !self.is_stuck() {
            let plan = self.plan();
            if plan.is_empty() {
                return;
            }
            let of = |ulid: &Ulid| &self.made[ulid];
            let draft = Draft {
                samples: plan.iter().flat_map(|ulid| of(ulid).samples.clone()).collect(),
                min_ms: plan.iter().map(|ulid| of(ulid).min_ms).min().unwrap_or(0),
                max_ms: plan.iter().map(|ulid| of(ulid).max_ms).max().unwrap_or(0),
                level: plan.iter().map(|ulid| of(ulid).level).max().unwrap_or(0) + 1,
                sources: plan.iter().flat_map(|ulid| of(ulid).sources.clone()).collect(),
                parents: plan,
                hint: "",
            };
            let ulid = self.name();
            self.make(ulid, draft, random);
            self.rename_in(ulid);
            if std::mem::take(&mut self.dies_next) {
                self.is_down = true;
                return;
            }
            self.reload();
        }
    }

    /// What is compacted next: blocks that overlap, else those that fill a longer range.
    fn plan(&self) -> Vec<Ulid> {
        let listed = self.settings.has_delay_file.then(|| self.listed()).flatten();
        let is_held = |ulid: &Ulid| {
            let made = &self.made[ulid];
            let is_early = !self.settings.compacts_early && !made.is_owed;
            is_early || made.level == 1 && listed.as_ref().is_some_and(|listed| !listed.contains(ulid.as_str()))
        };
        let whole = self.live.iter().copied().filter(|ulid| self.made[ulid].is_whole);
        let mut blocks: Vec<Ulid> = whole.take_while(|ulid| !is_held(ulid)).collect();
        blocks.sort_by_key(|ulid| self.made[ulid].min_ms);
        let overlapping = self.overlapping(&blocks);
        if !overlapping.is_empty() {
            return overlapping;
        }
        // The youngest may have been cut just now.
        blocks.pop();
        let ranges: &[i64] = if self.settings.equal_durations { &[] } else { &[3 * RANGE_MS, 9 * RANGE_MS] };
        let Some(high_ms) = blocks.last().map(|ulid| self.made[ulid].min_ms) else { return Vec::new() };
        for range_ms in ranges {
            let mut parts: BTreeMap<i64, Vec<Ulid>> = BTreeMap::new();
            for ulid in &blocks {
                let made = &self.made[ulid];
                let from_ms = made.min_ms - made.min_ms.rem_euclid(*range_ms);
                if made.max_ms <= from_ms + range_ms {
                    parts.entry(from_ms).or_default().push(*ulid);
                }
            }
            for part in parts.into_values().filter(|part| part.len() > 1) {
                let (min_ms, max_ms) = (self.made[&part[0]].min_ms, self.made[&part[part.len() - 1]].max_ms);
                if max_ms - min_ms == *range_ms || max_ms <= high_ms {
                    return part;
                }
            }
        }
        Vec::new()
    }

    fn overlapping(&self, blocks: &[Ulid]) -> Vec<Ulid> {
        let mut found = Vec::new();
        let Some(first) = blocks.first() else { return found };
        let mut end_ms = self.made[first].max_ms;
        for pair in blocks.windows(2) {
            let made = &self.made[&pair[1]];
            if made.min_ms < end_ms {
                if found.is_empty() {
                    found.push(pair[0]);
                }
                found.push(pair[1]);
            } else if !found.is_empty() {
                break;
            }
            end_ms = end_ms.max(made.max_ms);
        }
        found
    }

    /// The blocks in the shipper's file; `None` if it is missing or cannot be read, and then nothing is held up.
    fn listed(&self) -> Option<BTreeSet<String>> {
        let ledger: Value = serde_json::from_slice(&std::fs::read(self.ledger_path()).ok()?).ok()?;
        let names = ledger["uploaded"].as_array().into_iter().flatten();
        Some(names.filter_map(|name| Some(name.as_str()?.to_owned())).collect())
    }
}
