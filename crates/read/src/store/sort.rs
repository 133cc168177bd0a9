//! Sorts what cannot be streamed: in memory up to a budget, past it in runs that are put aside.

use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::store::spill::Spill;
use pillion_base::error::{Error, Kind, Result};

/// Holds encoded series with their sort keys until all are there. Series with equal keys keep their order.
pub(super) struct Sorter {
    /// Keys and series one after the other.
    bytes: Vec<u8>,
    records: Vec<Record>,
    memory_max: usize,
    disk_max: u64,
    spill: Option<Runs>,
}

#[derive(Clone, Copy)]
struct Record {
    start: usize,
    key_end: usize,
    end: usize,
}

/// What does not fit in memory.
struct Runs {
    spill: Spill,
    /// Start and end of each sorted run.
    runs: Vec<(u64, u64)>,
}

impl Sorter {
    /// Uses up to `memory_max` bytes of memory and puts up to `disk_max` aside.
    pub(super) fn new(memory_max: usize, disk_max: u64) -> Self {
        Sorter { bytes: Vec::new(), records: Vec::new(), memory_max, disk_max, spill: None }
    }

    /// Bytes of memory in use.
    pub(super) fn held_bytes(&self) -> usize {
        let aside = self.spill.as_ref().map_or(0, |runs| runs.spill.held_bytes());
        self.bytes.capacity() + self.records.capacity() * size_of::<Record>() + aside
    }

    /// Holds one series; `key` appends its sort key, `series` its encoded bytes.
    ///
    /// `Errors:` of the temporary folder; `Limit` past the disk budget.
    pub(super) fn push(&mut self, key: impl FnOnce(&mut Vec<u8>), series: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let start = self.bytes.len();
        key(&mut self.bytes);
        let key_end = self.bytes.len();
        series(&mut self.bytes);
        self.records.push(Record { start, key_end, end: self.bytes.len() });
        if self.bytes.len() + self.records.len() * size_of::<Record>() >= self.memory_max {
            self.spill()?;
        }
        Ok(())
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.records.sort_by(|a, b| bytes[a.start..a.key_end].cmp(&bytes[b.start..b.key_end]));
    }

    /// Writes what is in memory as one sorted run.
    fn spill(&mut self) -> Result<()> {
        self.sort();
        let Runs { spill, runs } = match &mut self.spill {
            Some(runs) => runs,
            none => none.insert(Runs { spill: Spill::new(self.disk_max), runs: Vec::new() }),
        };
        let start = spill.len();
        for record in &self.records {
            let (key, series) = (&self.bytes[record.start..record.key_end], &self.bytes[record.key_end..record.end]);
            for part in [key, series] {
                // A part is at most a frame.
                spill.append(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes())?;
                spill.append(part)?;
            }
        }
        runs.push((start, spill.len()));
        self.bytes.clear();
        self.records.clear();
        Ok(())
    }

    /// Everything in order.
    pub(super) fn sorted(mut self) -> Result<Sorted> {
        self.sort();
        let mut sorted = Sorted { heap: BinaryHeap::new() };
        let runs = match self.spill.take() {
            Some(Runs { mut spill, runs }) => {
                spill.flush()?;
                let spill = Arc::new(spill);
                let run = |(at, end)| Source::Aside { spill: Arc::clone(&spill), at, end, buffer: Vec::new(), pos: 0 };
                runs.into_iter().map(run).collect()
            }
            None => Vec::new(),
        };
        let memory = Source::Memory { bytes: self.bytes, records: self.records.into_iter() };
        // Earlier runs hold what came earlier, so the number of the run breaks ties.
        for (idx, mut source) in runs.into_iter().chain(std::iter::once(memory)).enumerate() {
            let mut head = Head::default();
            if source.next(&mut head)? {
                sorted.heap.push(Run { head, idx, source });
            }
        }
        Ok(sorted)
    }
}

/// Read-ahead of one run.
const RUN_BUFFER_BYTES: usize = 32 * 1024;

/// The smallest key and its series.
#[derive(Default)]
struct Head {
    key: Vec<u8>,
    series: Vec<u8>,
}

enum Source {
    Memory { bytes: Vec<u8>, records: std::vec::IntoIter<Record> },
    Aside { spill: Arc<Spill>, at: u64, end: u64, buffer: Vec<u8>, pos: usize },
}

impl Source {
    /// Fills `head` with the next record; false at the end.
    fn next(&mut self, head: &mut Head) -> Result<bool> {
        head.key.clear();
        head.series.clear();
        match self {
            Source::Memory { bytes, records } => {
                let Some(record) = records.next() else { return Ok(false) };
                head.key.extend_from_slice(&bytes[record.start..record.key_end]);
                head.series.extend_from_slice(&bytes[record.key_end..record.end]);
            }
            Source::Aside { spill, at, end, buffer, pos } => {
                if *pos == buffer.len() && at == end {
                    return Ok(false);
                }
                for part in [&mut head.key, &mut head.series] {
                    let mut len = [0; 4];
                    read(spill, at, *end, buffer, pos, 4, &mut |bytes, done| {
                        len[done..done + bytes.len()].copy_from_slice(bytes)
                    })?;
                    let len = u32::from_le_bytes(len) as usize;
                    read(spill, at, *end, buffer, pos, len, &mut |bytes, _| part.extend_from_slice(bytes))?;
                }
            }
        }
        Ok(true)
    }
}

/// Hands `n_bytes` of a run to `take`, through its read-ahead buffer.
fn read(
    spill: &Spill,
    at: &mut u64,
    end: u64,
    buffer: &mut Vec<u8>,
    pos: &mut usize,
    n_bytes: usize,
    take: &mut dyn FnMut(&[u8], usize),
) -> Result<()> {
    let mut done = 0;
    while done < n_bytes {
        if *pos == buffer.len() {
            let len = usize::try_from(end - *at).unwrap_or(usize::MAX).min(RUN_BUFFER_BYTES);
            if len == 0 {
                return Err(Error::new(Kind::Corrupt, "temporary file is shorter than what was written"));
            }
            buffer.resize(len, 0);
            spill.read(*at, buffer)?;
            *at += len as u64;
            *pos = 0;
        }
        let len = (n_bytes - done).min(buffer.len() - *pos);
        take(&buffer[*pos..*pos + len], done);
        *pos += len;
        done += len;
    }
    Ok(())
}

struct Run {
    head: Head,
    idx: usize,
    source: Source,
}

/// The smallest head is the greatest run: `BinaryHeap` gives the greatest first.
impl Ord for Run {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.head.key.cmp(&self.head.key).then(other.idx.cmp(&self.idx))
    }
}

impl PartialOrd for Run {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Run {}

/// Sorted series, smallest first.
pub(super) struct Sorted {
    heap: BinaryHeap<Run>,
}

impl Sorted {
    /// The key of the next series.
    pub(super) fn key(&self) -> Option<&[u8]> {
        self.heap.peek().map(|run| run.head.key.as_slice())
    }

    /// Calls `each` with the key and the bytes of the next series and moves on to the one behind it.
    pub(super) fn next(&mut self, each: impl FnOnce(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let Some(mut run) = self.heap.pop() else { return Ok(()) };
        each(&run.head.key, &run.head.series)?;
        if run.source.next(&mut run.head)? {
            self.heap.push(run);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(memory_max: usize, n: usize) -> bool {
        let mut sorter = Sorter::new(memory_max, u64::MAX);
        let mut expected = Vec::new();
        for number in 0..n {
            let key = format!("{:03}", number * 7919 % 101);
            let series = format!("{number}-{}", "x".repeat(number % 300));
            sorter.push(|out| out.extend(key.as_bytes()), |out| out.extend(series.as_bytes())).unwrap();
            expected.push((key, series));
        }
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        let spilled = sorter.spill.is_some();
        let mut sorted = sorter.sorted().unwrap();
        for (key, series) in expected {
            assert_eq!(sorted.key(), Some(key.as_bytes()));
            sorted
                .next(|k, s| {
                    assert_eq!((k, s), (key.as_bytes(), series.as_bytes()));
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(sorted.key(), None);
        spilled
    }

    #[test]
    fn sorted_stably_in_memory_and_on_disk() {
        assert!(!check(usize::MAX, 1000));
        assert!(check(10_000, 1000));
        assert!(check(1, 50));
        assert!(!check(100, 0));
    }

    #[test]
    fn the_disk_budget_is_an_error_that_says_what_to_do() {
        let mut sorter = Sorter::new(10, 100);
        let push = |sorter: &mut Sorter| sorter.push(|out| out.extend(b"0123456789"), |out| out.extend(b"0123456789"));
        let err = (0..10).find_map(|_| push(&mut sorter).err()).unwrap();
        assert_eq!(err.kind(), Kind::Limit);
    }
}
