//! What must hold: at each object that arrives, after each tick, and at the end of a history.

use std::collections::BTreeSet;

use pillion_ship::Ulid;
use serde_json::Value;

use super::machine::Machine;
use super::prometheus::Duty;
use super::world::{Before, World};

impl Machine {
    /// An object may have arrived: its bytes are those of the block, and meta.json comes after all others.
    pub(crate) fn look_at(&mut self, object: &str) {
        let stored = self.stored.lock().unwrap();
        let Some(bytes) = stored.objects.get(object) else { return };
        let (block, name) = object.split_once('/').unwrap();
        let ulid = Ulid::parse(block).unwrap();
        let Some(made) = self.prometheus.made.get(&ulid) else {
            self.violations.push(format!("{object} is of no block of Prometheus"));
            return;
        };
        let (mut wrong, mut is_whole) = (Vec::new(), false);
        if name != "meta.json" {
            if made.files.get(name) != Some(bytes) {
                wrong.push(format!("{object} has other bytes than the block"));
            }
        } else {
            match self.wrong(&stored, ulid) {
                Some(file) => wrong.push(format!("{object} is in the bucket before {file} is")),
                None => is_whole = true,
            }
            match serde_json::from_slice::<Value>(bytes) {
                Err(err) => wrong.push(format!("{object} cannot be read: {err}")),
                Ok(meta) => {
                    let labels = meta["thanos"]["labels"].as_object().cloned().unwrap_or_default();
                    let region =
                        labels.get("region").and_then(|region| region.as_str()?.strip_prefix('r')?.parse().ok());
                    // A claim that was lost to a fault is made anew, with the labels of that moment.
                    let is_sure = !made.was_damaged && !self.unpinned.contains(&ulid) && !self.garbled.contains(&ulid);
                    let last = made.n_pinned.filter(|_| is_sure).unwrap_or(self.prometheus.n_labels);
                    let fits = |region: u64| made.n_labels <= region && region <= last;
                    if labels.len() != 1 || !region.is_some_and(fits) {
                        let from = made.n_labels;
                        wrong.push(format!("{object} has the labels {labels:?}, not of r{from} to r{last}"));
                    }
                    let original: Value = serde_json::from_slice(&made.files["meta.json"]).unwrap();
                    for member in
                        ["/ulid", "/minTime", "/maxTime", "/stats", "/compaction/level", "/compaction/sources"]
                    {
                        if meta.pointer(member) != original.pointer(member) {
                            wrong.push(format!("{object} has another {member}"));
                        }
                    }
                    if meta.get("pillion_claim").is_some() {
                        wrong.push(format!("{object} has the mark of a claim"));
                    }
                }
            }
            if self.cleaned.contains(&ulid) {
                wrong.push(format!("block {ulid} comes back after the bucket's compactor removed it"));
            }
        }
        drop(stored);
        if is_whole {
            self.whole_once.insert(ulid);
        }
        self.violations.extend(wrong);
    }

    /// The ledger lists nothing as shipped that was never whole in the bucket.
    pub(crate) fn read_ledger(&mut self) {
        let Ok(bytes) = std::fs::read(self.prometheus.ledger_path()) else { return };
        let Ok(ledger) = serde_json::from_slice::<Value>(&bytes) else {
            if !self.ledger_is_garbled {
                self.violations.push("the ledger is no JSON".to_owned());
            }
            return;
        };
        self.ledger_is_garbled = false;
        let names = |member: &str| -> BTreeSet<Ulid> {
            let items = ledger[member].as_array().into_iter().flatten();
            items.map(|item| Ulid::parse(item.as_str().unwrap()).unwrap()).collect()
        };
        for ulid in names("uploaded").difference(&names("pillion_unshipped")) {
            // A compacted block may have stood in for it.
            let stands_in = |whole: &Ulid| self.prometheus.made[whole].sources.contains(ulid);
            // Or the bucket's compactor has made one of all that it has.
            let sources = self.prometheus.made.get(ulid).map(|made| &made.sources);
            let merges = |meta: &Value| {
                let of = meta["compaction"]["sources"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let of: BTreeSet<&str> = of.collect();
                sources.is_some_and(|sources| sources.iter().all(|source| of.contains(source.as_str())))
            };
            let was_there = self.whole_once.contains(ulid)
                || self.whole_once.iter().any(stands_in)
                || self.compacted.values().any(|(_, meta)| merges(meta));
            if self.listed_once.insert(*ulid) && !was_there {
                self.violations.push(format!("the ledger lists {ulid} as shipped, and it never was"));
            }
        }
    }

    /// The files of Prometheus are as it made them.
    pub(crate) fn check_untouched(&mut self) {
        for ulid in self.prometheus.whole() {
            let (dir, made) = (self.prometheus.block_dir(ulid), &self.prometheus.made[&ulid]);
            for (name, bytes) in &made.files {
                if std::fs::read(dir.join(name)).ok().as_ref() != Some(bytes) {
                    self.violations.push(format!("Prometheus's own {ulid}/{name} is changed"));
                }
            }
        }
    }

    /// When claims were given up in a tick: together, what could be shipped had more than the budget.
    pub(super) fn check_given_up(&mut self, budget_bytes: u64, before: &Before) {
        if self.links_are_refused || !self.unlinked.is_empty() {
            // What is held open has no folder.
            return;
        }
        // What overlaps is known once this process has tried it.
        let known_lines = || self.shown.lines.iter().take(before.n_lines).skip(self.n_lines_before);
        let said = |ulid: &Ulid, text: &str| known_lines().any(|line| names(line, *ulid) && line.contains(text));
        // What was removed while it was copied in has nothing to do with the budget.
        let of_budget = |line: &&String| line.contains("given up") && !line.contains("known to be whole");
        let given_up = self.shown.lines.iter().skip(before.n_lines).filter(of_budget);
        let given_up =
            given_up.flat_map(|line| self.prometheus.made.keys().filter(|ulid| names(line, **ulid)).copied());
        let given_up: Vec<Ulid> = given_up.collect();
        if given_up.iter().all(|ulid| said(ulid, "overlap")) {
            // They would never be shipped.
            return;
        }
        let known = self.claims().into_iter().chain(before.claims.iter().copied()).chain(given_up);
        let known: BTreeSet<Ulid> = known.chain(self.whole_once.difference(&before.whole).copied()).collect();
        let costs = known.iter().filter(|ulid| !self.prometheus.live.contains(ulid) && !said(ulid, "overlap"));
        let size = |ulid: &Ulid| {
            let files = self.prometheus.made.get(ulid).into_iter().flat_map(|made| &made.files);
            files
                .filter(|(name, _)| name.contains('/') || *name == "index")
                .map(|(_, bytes)| bytes.len() as u64)
                .sum::<u64>()
        };
        let bytes: u64 = costs.map(size).sum();
        if bytes <= budget_bytes {
            self.violations
                .push(format!("blocks are given up, but all that can be shipped has {bytes} bytes of {budget_bytes}"));
        }
    }
}

fn names(line: &str, ulid: Ulid) -> bool {
    line.contains(ulid.as_str())
}

impl World {
    /// What is wrong at the end: samples that are neither in the bucket nor was their loss named.
    pub(crate) fn missing(&self) -> Vec<String> {
        let machine = self.machine.lock().unwrap();
        let mut covered = BTreeSet::new();
        let in_bucket = machine.in_bucket();
        for ulid in in_bucket.keys() {
            covered.extend(machine.samples_of(*ulid));
        }
        let mut wrong = Vec::new();
        for (id, (_, duty)) in machine.prometheus.samples.iter().enumerate() {
            if *duty != Duty::Owed || covered.contains(&id) || self.dropped.contains(&id) {
                continue;
            }
            let holders = machine.prometheus.made.iter().filter(|(_, made)| made.samples.contains(&id));
            let holders: Vec<Ulid> = holders.map(|(ulid, _)| *ulid).collect();
            if holders.iter().any(|ulid| self.is_excused(&machine, *ulid)) {
                continue;
            }
            let blocks: Vec<String> = holders.iter().map(|ulid| self.state_of(&machine, *ulid)).collect();
            wrong.push(format!("sample {id} is lost in silence; it was in {}", blocks.join(", ")));
        }
        wrong
    }

    /// Whether the loss of a block has a reason, a line, and a metric.
    fn is_excused(&self, machine: &Machine, ulid: Ulid) -> bool {
        let shown = &machine.shown;
        let lines: Vec<&String> = shown.lines.iter().filter(|line| names(line, ulid)).collect();
        let is_loud = lines.iter().any(|line| line.starts_with("ERROR") || line.starts_with("WARN"));
        let is_given_up = lines.iter().any(|line| line.starts_with("ERROR") && line.contains("given up"));
        let is_live = machine.prometheus.live.contains(&ulid);
        let was_damaged = machine.prometheus.made[&ulid].was_damaged && !is_live;
        let is_bad = was_damaged || machine.lasting == Some(ulid) || machine.garbled.contains(&ulid);
        let counted = shown.n_corrupted + shown.n_given_up + shown.n_failures > 0;
        let budget = is_given_up && shown.n_given_up > 0 && self.setup.claim_budget_bytes < 1 << 40;
        let overlaps = is_loud && self.n_overlapping > 0 && lines.iter().any(|line| line.contains("overlap"));
        budget || overlaps || is_bad && is_loud && counted
    }

    fn state_of(&self, machine: &Machine, ulid: Ulid) -> String {
        let made = &machine.prometheus.made[&ulid];
        let mut words = vec![format!("{ulid} level {}", made.level)];
        let mut add = |is: bool, word: &str| words.extend(is.then(|| word.to_owned()));
        add(machine.prometheus.live.contains(&ulid), "there");
        add(machine.claim_meta(ulid).exists(), "claimed");
        add(made.is_owed, "seen");
        add(made.was_damaged, "damaged");
        add(machine.garbled.contains(&ulid), "garbled claim");
        add(machine.unlinked.contains(&ulid), "not linked");
        add(machine.lasting == Some(ulid), "unreadable");
        add(machine.whole_once.contains(&ulid), "once in the bucket");
        add(machine.cleaned.contains(&ulid), "removed there");
        add(machine.listed_once.contains(&ulid), "listed as shipped");
        words.join(" ")
    }
}
