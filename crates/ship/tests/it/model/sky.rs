//! The bucket of a history: a bucket in memory whose answers fail as its weather wants it, whose own compactor works, and
//! which looks at each object as it arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use pillion_base::error::{Error, Kind, Result};
use pillion_base::files::Source;
use pillion_base::stop::Stop;
use pillion_bucket::{Attributes, Bucket, Compared, Journal, Parts, Stored};
use pillion_ship::Ulid;
use pillion_testing::bucket::{PartsBucket, PartsStore};
use serde_json::{Value, json};

use super::features::Feature;
use super::history::Weather;
use super::machine::Machine;
use super::random::Random;

pub(crate) struct Sky {
    inner: Arc<PartsBucket>,
    stored: Arc<Mutex<PartsStore>>,
    machine: Arc<Mutex<Machine>>,
}

impl Sky {
    pub(crate) fn new(machine: &Arc<Mutex<Machine>>) -> Arc<Sky> {
        let (machine, asked) = (Arc::clone(machine), Arc::clone(machine));
        let stored = Arc::clone(&machine.lock().unwrap().stored);
        let inner = PartsBucket::new(&stored, move |request| asked.lock().unwrap().request(request));
        Arc::new(Sky { inner, stored, machine })
    }

    /// Turns the error of a refused request into what the weather calls for.
    fn named<T>(&self, result: Result<T>) -> Result<T> {
        let is_denied = self.machine.lock().unwrap().weather == Weather::Denied;
        let denied = || Error::new(Kind::Permanent, "on purpose: denied").classed("denied");
        match result {
            Err(err) if is_denied && err.kind() == Kind::Retry => Err(denied()),
            other => other,
        }
    }

    /// Whether this answer is a lie. A mark for deletion is never lied about: only compactors write it.
    fn lies(&self, object: &str) -> bool {
        let mut machine = self.machine.lock().unwrap();
        machine.weather == Weather::Lying && !object.ends_with("mark.json") && machine.random.percent(20)
    }

    fn arrived(&self, object: &str) {
        self.machine.lock().unwrap().look_at(object);
    }
}

impl Bucket for Sky {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn exists(&self, object: &str, stop: &Stop) -> Result<bool> {
        let is_there = self.named(self.inner.exists(object, stop))?;
        Ok(is_there != self.lies(object))
    }

    fn get(&self, object: &str, stop: &Stop) -> Result<Vec<u8>> {
        self.named(self.inner.get(object, stop))
    }

    fn read(&self, object: &str, each: &mut dyn FnMut(&[u8]) -> Result<()>, stop: &Stop) -> Result<()> {
        each(&self.get(object, stop)?)
    }

    fn iter(&self, dir: &str, each: &mut dyn FnMut(&str) -> Result<()>, stop: &Stop) -> Result<()> {
        // Asked as any other request: its fate is that of this one.
        self.named(self.inner.exists("list", stop))?;
        let dir = if dir.is_empty() { String::new() } else { format!("{}/", dir.trim_end_matches('/')) };
        let names: BTreeSet<String> = {
            let stored = self.stored.lock().unwrap();
            let below = stored.objects.keys().filter_map(|name| name.strip_prefix(&dir));
            below
                .map(|name| match name.split_once('/') {
                    Some((folder, _)) => format!("{dir}{folder}/"),
                    None => format!("{dir}{name}"),
                })
                .collect()
        };
        names.iter().try_for_each(|name| each(name))
    }

    fn attributes(&self, object: &str, stop: &Stop) -> Result<Attributes> {
        let found = self.named(self.inner.attributes(object, stop))?;
        if self.lies(object) {
            return Err(Error::new(Kind::NotFound, format!("{object} does not exist, it says")));
        }
        Ok(found)
    }

    fn upload(&self, object: &str, source: &Source, journal: &dyn Journal, stop: &Stop) -> Result<Stored> {
        let result = self.named(self.inner.upload(object, source, journal, stop));
        self.arrived(object);
        result
    }

    fn compare(&self, object: &str, source: &Source, stop: &Stop) -> Result<Compared> {
        self.inner.compare(object, source, stop)
    }

    fn abandon(&self, object: &str, parts: &Parts, stop: &Stop) -> Result<()> {
        self.named(self.inner.abandon(object, parts, stop))
    }

    fn upload_bytes(&self, object: &str, bytes: &[u8], stop: &Stop) -> Result<()> {
        let result = self.named(self.inner.upload_bytes(object, bytes, stop));
        self.arrived(object);
        result
    }

    fn delete(&self, object: &str, stop: &Stop) -> Result<()> {
        self.machine.lock().unwrap().violations.push(format!("{object} is deleted in the bucket"));
        self.inner.delete(object, stop)
    }
}

impl Machine {
    /// The samples of a block of Prometheus or of the bucket.
    pub(crate) fn samples_of(&self, ulid: Ulid) -> BTreeSet<usize> {
        let made = self.prometheus.made.get(&ulid).map(|made| made.samples.clone());
        made.or_else(|| self.compacted.get(&ulid).map(|(samples, _)| samples.clone())).unwrap_or_default()
    }

    /// The blocks that are whole in the bucket, with their meta.json.
    pub(crate) fn in_bucket(&self) -> BTreeMap<Ulid, Value> {
        let stored = self.stored.lock().unwrap();
        let metas = stored.objects.iter().filter_map(|(name, bytes)| {
            Some((Ulid::parse(name.strip_suffix("/meta.json")?)?, serde_json::from_slice(bytes).ok()?))
        });
        metas.filter(|(ulid, _)| self.wrong(&stored, *ulid).is_none()).collect()
    }

    /// The first file of a block that is not in the bucket as it was made.
    pub(super) fn wrong(&self, stored: &PartsStore, ulid: Ulid) -> Option<String> {
        let made = self.prometheus.made.get(&ulid)?;
        let shipped = |name: &str| name == "index" || name.starts_with("chunks/");
        let mut files = made.files.iter().filter(|(name, _)| shipped(name));
        files
            .find(|(name, bytes)| stored.objects.get(&format!("{ulid}/{name}")) != Some(bytes))
            .map(|(name, _)| name.clone())
    }

    /// Thanos's compactor makes one block of several.
    pub(super) fn compact_bucket(&mut self, random: &mut Random) {
        let whole = self.in_bucket();
        self.read_ledger();
        // What was shipped and noted nowhere, on a full disk, goes up once more.
        let noted = std::fs::read_to_string(self.data_dir.join("thanos/history.json")).unwrap_or_default();
        let (stored, may_be_lost) = (self.stored.lock().unwrap(), self.features.has(Feature::LostLedger));
        let is_free = |ulid: &Ulid| {
            let is_known = may_be_lost && noted.contains(ulid.as_str())
                || self.listed_once.contains(ulid)
                || self.compacted.contains_key(ulid);
            is_known && !stored.objects.contains_key(&format!("{ulid}/deletion-mark.json"))
        };
        let mut free: Vec<Ulid> = whole.keys().copied().filter(is_free).collect();
        drop(stored);
        let Some(first) = random.pick(&free) else { return };
        free.retain(|ulid| whole[ulid]["thanos"]["labels"] == whole[&first]["thanos"]["labels"]);
        let from = random.below(free.len() as u64).try_into().unwrap();
        let old: Vec<Ulid> = free.into_iter().skip(from).take(3).collect();
        if old.len() < 2 {
            return;
        }
        let ulid = self.prometheus.name();
        let samples: BTreeSet<usize> = old.iter().flat_map(|ulid| self.samples_of(*ulid)).collect();
        let numbers = |of: &dyn Fn(&Value) -> i64| old.iter().map(|ulid| of(&whole[ulid])).collect::<BTreeSet<i64>>();
        let min_ms = numbers(&|meta| meta["minTime"].as_i64().unwrap()).first().copied();
        let max_ms = numbers(&|meta| meta["maxTime"].as_i64().unwrap()).last().copied();
        let level = numbers(&|meta| meta["compaction"]["level"].as_i64().unwrap() + 1).last().copied();
        let sources = old.iter().flat_map(|ulid| whole[ulid]["compaction"]["sources"].as_array().unwrap());
        let sources: BTreeSet<&str> = sources.map(|source| source.as_str().unwrap()).collect();
        let labels = &whole[&first]["thanos"]["labels"];
        let meta = json!({
            "ulid": ulid.as_str(), "minTime": min_ms, "maxTime": max_ms, "version": 1,
            "stats": {"numSamples": samples.len(), "numSeries": 1, "numChunks": 1},
            "compaction": {"level": level, "sources": sources},
            "thanos": {"labels": labels, "downsample": {"resolution": 0}, "source": "compactor"},
        });
        let mut stored = self.stored.lock().unwrap();
        for (name, bytes) in [("chunks/000001", "chunks"), ("index", "index"), ("meta.json", &meta.to_string())] {
            stored.objects.insert(format!("{ulid}/{name}"), bytes.as_bytes().to_vec());
        }
        for ulid in old {
            stored.objects.insert(format!("{ulid}/deletion-mark.json"), b"{}".to_vec());
        }
        drop(stored);
        self.compacted.insert(ulid, (samples, meta));
    }

    /// It removes what is marked.
    pub(super) fn clean_bucket(&mut self) {
        let mut stored = self.stored.lock().unwrap();
        let marked = stored.objects.keys().filter_map(|name| name.strip_suffix("/deletion-mark.json"));
        for block in marked.map(str::to_owned).collect::<Vec<_>>() {
            stored.objects.retain(|name, _| !name.starts_with(&block));
            self.cleaned.insert(Ulid::parse(&block).unwrap());
        }
    }
}
