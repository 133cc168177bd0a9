//! One Series call, from request to last message, on one thread that pulls all the way.
//!
//! Usually one read streams through. When some series carry a label that the sidecar sets or drops, those are read apart,
//! sorted under a byte budget, and merged into the stream of the others.

use std::io::Read;

use crate::error::{Context, Error, Kind, Result};
use crate::labels::Labels;
use crate::limits;
use crate::metrics::StoreMetrics;
use crate::pb::thanos_store::SeriesRequest;
use crate::prom::client::{Call, Client, ReadAnswer};
use crate::prom::frames::FrameReader;
use crate::prom::listing::Pairs;
use crate::prom::request::{self, MatchType, Matcher};
use crate::state::PromState;
use crate::store::batch::{Batcher, Messages};
use crate::store::order::{Order, out_of_order};
use crate::store::query::{self, Query, Select};
use crate::store::quota::{Counter, InFlight, PerCall, Share};
use crate::store::samples;
use crate::store::sort::{Sorted, Sorter};
use crate::store::transcode::{Entry, Rules, each_series, put_key};
use crate::store::twins::Twins;
use crate::store::wire;

/// Where the messages of a call go.
pub trait Outlet: Messages {
    /// Runs `hook` when the client goes away, at once if it is gone already. One hook is kept.
    fn on_gone(&self, hook: Box<dyn Fn() + Send + Sync>);
}

/// What Series calls share.
#[derive(Clone)]
pub struct Shared {
    /// Labels that series carry themselves.
    pub twins: std::sync::Arc<Twins>,
    /// What a call may return.
    pub per_call: PerCall,
    /// What all calls may hold.
    pub in_flight: InFlight,
    /// Store metrics.
    pub metrics: StoreMetrics,
}

/// Answers one Series request.
pub fn series(
    request: &SeriesRequest,
    state: &PromState,
    client: &Client,
    shared: &Shared,
    outlet: &dyn Outlet,
) -> Result<()> {
    let mut counter = Counter::new(shared.per_call, &shared.metrics);
    if let Query::Select(select) = query::plan(request, state)? {
        let call = client.call();
        outlet.on_gone(Box::new(call.cutter()));
        let batcher = Batcher::new(select.batch_size, limits::MESSAGE_BYTES_TARGET, outlet);
        if select.skip_chunks {
            labels_only(&select, state, &call, shared, &mut counter, batcher)?;
        } else {
            with_chunks(&select, state, &call, shared, &mut counter, batcher)?;
        }
    }
    #[allow(clippy::cast_precision_loss)]
    {
        shared.metrics.series_requested.observe(counter.n_series as f64);
        shared.metrics.chunks_requested.observe(counter.n_chunks as f64);
    }
    Ok(())
}

/// The chunk path: remote read.
fn with_chunks<M: Messages + ?Sized>(
    select: &Select,
    state: &PromState,
    call: &Call,
    shared: &Shared,
    counter: &mut Counter,
    batcher: Batcher<'_, M>,
) -> Result<()> {
    let external = &state.external_labels;
    let dropped_too = select.without.iter().map(String::as_str).filter(|name| external.value(name).is_none());
    let twins = shared.twins.among(external.iter().map(|(name, _)| name).chain(dropped_too), call)?;
    let rules = Rules::new(external, &select.without, select.shard.clone());
    let mut reading =
        Reading { select, call, rules: &rules, counter, share: shared.in_flight.share(), sorted_bytes: 0, n_frames: 0 };
    let outcome = reading.answer(&twins, batcher);
    #[allow(clippy::cast_precision_loss)]
    shared.metrics.received_frames.observe(reading.n_frames as f64);
    if outcome.as_ref().is_err_and(|err| err.kind() == Kind::Retry) {
        // Perhaps a label appeared since it was asked about.
        shared.twins.forget();
    }
    outcome
}

/// One chunk call under way.
struct Reading<'a, 'm> {
    select: &'a Select,
    call: &'a Call<'a>,
    rules: &'a Rules,
    counter: &'a mut Counter<'m>,
    /// This call's part of what all calls may hold.
    share: Share,
    /// Bytes of memory that sorted series take.
    sorted_bytes: usize,
    n_frames: u64,
}

impl Reading<'_, '_> {
    fn answer<M: Messages + ?Sized>(&mut self, twins: &[String], batcher: Batcher<'_, M>) -> Result<()> {
        let matcher = |name: &String, kind| Matcher { kind, name: name.clone(), value: String::new() };
        let mut sorter = None;
        let new_sorter = || Sorter::new(limits::SORT_BYTES_MAX, limits::SPILL_BYTES_MAX);
        let mut matchers = self.select.matchers.clone();
        for twin in twins {
            // Those with this label and none of the labels before it, so that each series is read once.
            let with_twin: Vec<_> = matchers.iter().cloned().chain([matcher(twin, MatchType::NotEqual)]).collect();
            let answer = self.read(&with_twin)?;
            self.sort(answer, sorter.get_or_insert_with(new_sorter))?;
            matchers.push(matcher(twin, MatchType::Equal));
        }
        let streamed = match self.read(&matchers)? {
            ReadAnswer::Streamed(frames) => Some(frames),
            // It is held whole as it is, and a server that old promises no order.
            sampled @ ReadAnswer::Sampled(_) => {
                self.sort(sampled, sorter.get_or_insert_with(new_sorter))?;
                None
            }
        };
        let sorted = sorter.map(Sorter::sorted).transpose()?;
        let mut out = Out::new(self.rules, sorted, self.select.limit, batcher);
        if let Some(frames) = streamed {
            self.stream(frames, &mut out)?;
        }
        out.finish()
    }

    /// Reads series that cannot be streamed into the sorter.
    fn sort(&mut self, answer: ReadAnswer<impl Read>, sorter: &mut Sorter) -> Result<()> {
        let mut entry = Entry::default();
        match answer {
            ReadAnswer::Sampled(body) => {
                samples::chunked_series(&body, &mut |series| self.sort_one(series, &mut entry, sorter))
            }
            ReadAnswer::Streamed(mut frames) => {
                let mut frame = Vec::new();
                while self.next_frame(&mut frames, &mut frame)? {
                    each_series(&frame, |range| {
                        self.sort_one(frame.get(range).unwrap_or_default(), &mut entry, sorter)
                    })
                    .context(|| "read frame from Prometheus")?;
                }
                Ok(())
            }
        }
    }

    /// Puts one encoded `ChunkedSeries` into the sorter, by way of `entry`.
    fn sort_one(&mut self, series: &[u8], entry: &mut Entry, sorter: &mut Sorter) -> Result<()> {
        entry.copy(series);
        if entry.parse(0..series.len(), self.rules)? {
            self.counter.count(entry.n_chunks())?;
            sorter.push(|out| entry.key(self.rules, out), |out| entry.encode(self.rules, out))?;
            self.sorted_bytes = sorter.held_bytes();
            self.hold(0)?;
        }
        Ok(())
    }

    /// Streams series through the order.
    fn stream<M: Messages + ?Sized>(
        &mut self,
        mut frames: FrameReader<impl Read>,
        out: &mut Out<'_, '_, M>,
    ) -> Result<()> {
        let mut order = Order::new(limits::HELD_BYTES_MAX, limits::REUSED_BYTES_MAX);
        let mut ranges = Vec::new();
        loop {
            // The frame is read straight into the entry that keeps it until it is written into a message.
            let mut entry = order.fresh();
            if !self.next_frame(&mut frames, entry.buffer())? {
                break;
            }
            ranges.clear();
            each_series(entry.buffer(), |range| {
                ranges.push(range);
                Ok(())
            })
            .context(|| "read frame from Prometheus")?;
            // Prometheus sends one series a frame. Should it send more, the others are copied out first.
            let mut others = Vec::new();
            for range in ranges.iter().skip(1) {
                let mut other = order.fresh();
                other.copy(entry.buffer().get(range.clone()).unwrap_or_default());
                others.push((other, 0..range.len()));
            }
            let first = ranges.first().cloned().unwrap_or(0..0);
            for (mut entry, range) in std::iter::once((entry, first)).chain(others) {
                if !entry.parse(range, self.rules).context(|| "read frame from Prometheus")? || ranges.is_empty() {
                    order.recycle(entry);
                    continue;
                }
                self.counter.count(entry.n_chunks())?;
                order.push(entry, self.rules, |entry| out.emit(entry))?;
                self.hold(order.held_bytes())?;
            }
            if out.is_done() {
                return Ok(());
            }
        }
        order.finish(self.rules, |entry| out.emit(entry))
    }

    /// Starts a remote read.
    fn read(&self, matchers: &[Matcher]) -> Result<ReadAnswer<impl Read + use<>>> {
        let body = request::read_body(self.select.mint_ms, self.select.maxt_ms, matchers);
        self.call.read(&body).context(|| "query Prometheus")
    }

    fn next_frame(&mut self, frames: &mut FrameReader<impl Read>, buffer: &mut Vec<u8>) -> Result<bool> {
        let more = frames.read_frame(buffer).context(|| "next proto")?;
        self.n_frames += u64::from(more);
        Ok(more)
    }

    /// Accounts for what is held: what waits in the order, and what was sorted before.
    fn hold(&mut self, waiting_bytes: usize) -> Result<()> {
        if self.share.resize(self.sorted_bytes + waiting_bytes) { Ok(()) } else { Err(self.share.refusal()) }
    }
}

/// The way out: merges the stream with what was sorted, stops at the limit, and packs.
struct Out<'a, 'b, M: ?Sized> {
    rules: &'a Rules,
    sorted: Option<Sorted>,
    /// Series that are still wanted; none where the request has no limit.
    wanted: Option<u64>,
    done: bool,
    key: Vec<u8>,
    last_key: Vec<u8>,
    batcher: Batcher<'b, M>,
}

impl<'a, 'b, M: Messages + ?Sized> Out<'a, 'b, M> {
    fn new(rules: &'a Rules, sorted: Option<Sorted>, limit: i64, batcher: Batcher<'b, M>) -> Self {
        let wanted = u64::try_from(limit).ok().filter(|limit| *limit > 0);
        Out { rules, sorted, wanted, done: false, key: Vec::new(), last_key: Vec::new(), batcher }
    }

    /// Whether the limit is reached: nothing more is wanted from the stream.
    fn is_done(&self) -> bool {
        self.done
    }

    /// Sends the next series of the stream, after those of the sorted ones that come before it.
    fn emit(&mut self, entry: &Entry) -> Result<()> {
        // Keys cost a copy of the labels, so they are made only where something is compared across reads.
        if self.sorted.is_some() || self.wanted.is_some() {
            let mut key = std::mem::take(&mut self.key);
            key.clear();
            entry.key(self.rules, &mut key);
            self.emit_sorted(Some(&key))?;
            let wanted = self.admit(&key)?;
            self.key = key;
            if !wanted {
                return Ok(());
            }
        }
        self.batcher.push(entry.encoded_len(), |out| entry.encode(self.rules, out))
    }

    /// The stream has ended: sends the sorted series that are left, and the open message.
    fn finish(mut self) -> Result<()> {
        self.emit_sorted(None)?;
        self.batcher.flush()
    }

    /// Sends the sorted series whose keys are below `key`, or all of them.
    fn emit_sorted(&mut self, key: Option<&[u8]>) -> Result<()> {
        let Some(mut sorted) = self.sorted.take() else { return Ok(()) };
        while !self.done && sorted.key().is_some_and(|next| key.is_none_or(|key| next < key)) {
            sorted.next(|key, series| {
                if self.admit(key)? {
                    self.batcher.push(series.len(), |out| out.extend_from_slice(series))?;
                }
                Ok(())
            })?;
        }
        self.sorted = Some(sorted);
        Ok(())
    }

    /// Whether a series is still wanted. Frames of one series have one key and count once.
    fn admit(&mut self, key: &[u8]) -> Result<bool> {
        match key.cmp(self.last_key.as_slice()) {
            std::cmp::Ordering::Less => return Err(out_of_order()),
            std::cmp::Ordering::Equal if !self.last_key.is_empty() => return Ok(!self.done),
            _ => {}
        }
        if let Some(wanted) = &mut self.wanted {
            if *wanted == 0 {
                self.done = true;
                return Ok(false);
            }
            *wanted -= 1;
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        Ok(true)
    }
}

/// The label path: `/api/v1/series`, read item by item and sorted under the same budget as everything else.
fn labels_only<M: Messages + ?Sized>(
    select: &Select,
    state: &PromState,
    call: &Call,
    shared: &Shared,
    counter: &mut Counter,
    mut batcher: Batcher<'_, M>,
) -> Result<()> {
    let mut params = vec![
        ("match[]", request::selector(&select.matchers)),
        ("start", request::seconds(select.mint_ms)),
        ("end", request::seconds(select.maxt_ms)),
    ];
    // Series that fall together or out of the shard would make a limit of Prometheus's too small.
    if select.limit > 0 && select.shard.is_none() && select.without.is_empty() {
        params.push(("limit", select.limit.to_string()));
    }
    let mut sorter = Sorter::new(limits::SORT_BYTES_MAX, limits::SPILL_BYTES_MAX);
    let mut share = shared.in_flight.share();
    let warnings = call.list("/api/v1/series", &params, &mut |local: Pairs| {
        let labels = Labels::new(local.0).overlaid(&state.external_labels).without(&select.without);
        let bytes = || labels.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        if select.shard.as_ref().is_some_and(|shard| !shard.holds(bytes())) {
            return Ok(());
        }
        counter.count(0)?;
        let key = |out: &mut Vec<u8>| {
            bytes().for_each(|(name, value)| {
                put_key(name, out);
                put_key(value, out);
            })
        };
        sorter.push(key, |out| encode(&labels, out))?;
        if share.resize(sorter.held_bytes()) { Ok(()) } else { Err(share.refusal()) }
    })?;
    let mut sorted = sorter.sorted()?;
    let mut wanted = u64::try_from(select.limit).ok().filter(|limit| *limit > 0).unwrap_or(u64::MAX);
    let mut last: Option<Vec<u8>> = None;
    while sorted.key().is_some() && wanted > 0 {
        sorted.next(|key, series| {
            // Label sets that became equal say nothing more than one of them.
            if last.as_deref() == Some(key) {
                return Ok(());
            }
            let kept = last.get_or_insert_default();
            kept.clear();
            kept.extend_from_slice(key);
            wanted -= 1;
            batcher.push(series.len(), |out| out.extend_from_slice(series))
        })?;
    }
    for warning in &warnings {
        batcher.warn(warning)?;
    }
    batcher.flush()
}

/// An encoded `Series` without chunks.
fn encode(labels: &Labels, out: &mut Vec<u8>) {
    for (name, value) in labels.iter() {
        wire::put_header(1, wire::bytes_len(name.len()) + wire::bytes_len(value.len()), out);
        wire::put_bytes(1, name.as_bytes(), out);
        wire::put_bytes(2, value.as_bytes(), out);
    }
}

/// The error of a client that is gone, for outlets.
pub fn gone() -> Error {
    Error::new(Kind::Stopped, "the client went away")
}
