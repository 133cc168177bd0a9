//! One Series call, from the request to the last message, on one thread.
//!
//! Usually one read streams through. When some series carry a label that the sidecar sets or drops, those are read
//! separately, sorted under a byte budget, and merged into the stream of the others. What streams is watched: when it is not
//! what the known external labels let expect, Prometheus is asked for them, and if nothing was sent the call begins anew.

use std::cell::Cell;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::limits;
use crate::prom::FrameReader;
use crate::prom::request;
use crate::prom::{Call, PromClient, ReadAnswer};
use crate::spans::{Spans, Timed};
use crate::store::batch::{Batcher, EncodedMessage, MessageSink};
use crate::store::conflicts::LabelConflicts;
use crate::store::labels_only::labels_only;
use crate::store::metrics::StoreMetrics;
use crate::store::order::{Bounds, ReorderBuffer, out_of_order};
use crate::store::query::{self, Query, Select};
use crate::store::quota::{Counter, InFlight, PerCall, Reservation};
use crate::store::samples;
use crate::store::slots::{Client, Slots};
use crate::store::sort::{Sorted, Sorter};
use crate::store::transcode::{Entry, LabelRules, each_series};
use crate::store::wire::Fields;
use pillion_base::error::{Context, Error, Kind, Result};
use pillion_base::matcher::{MatchType, Matcher};
use pillion_base::state::{PromState, Published};
use pillion_proto::thanos_store::SeriesRequest;

/// Where the messages of a call go.
pub trait Outlet: MessageSink {
    /// Runs `hook` when the client goes away, at once if it is gone already. One hook is kept.
    fn on_gone(&self, hook: Box<dyn Fn() + Send + Sync>);
    /// The call holds so many bytes beside its messages; while its client takes nothing, all such calls are bounded together.
    fn holds(&self, bytes: usize);
    /// So many series and chunks were counted so far.
    fn counted(&self, _n_series: u64, _n_chunks: u64) {}
    /// Runs `wait`, which waits for what others do, without a share of the work that is done at once.
    fn outside(&self, wait: &mut dyn FnMut());
    /// The client, for other calls to see.
    fn client(&self) -> Arc<dyn Client>;
    /// Who records the parts of this call, if anybody does.
    fn spans(&self) -> Option<&dyn Spans> {
        None
    }
}

/// Asks Prometheus who it is, now; the new snapshot, or nothing where that fails or takes long.
type Refresh = dyn Fn() -> Option<Arc<PromState>> + Send + Sync;

/// What Series calls share.
#[derive(Clone)]
pub struct SeriesShared {
    /// Labels that the sidecar sets or drops and that series carry themselves.
    conflicts: Arc<LabelConflicts>,
    per_call: Published<PerCall>,
    pub(super) in_flight: InFlight,
    slots: Slots,
    refresh: Option<Arc<Refresh>>,
    /// Whether Prometheus sets its external labels on what it sends, as far as was seen.
    merges: Arc<AtomicBool>,
    /// What Series calls report.
    pub metrics: StoreMetrics,
}

impl SeriesShared {
    /// Calls that may each return `per_call` and hold `in_flight_bytes_max` together; 0 bytes are no limit.
    pub fn new(per_call: PerCall, in_flight_bytes_max: usize, metrics: StoreMetrics) -> Self {
        SeriesShared {
            conflicts: Arc::default(),
            per_call: Published::new(per_call),
            in_flight: InFlight::new(in_flight_bytes_max),
            slots: Slots::new(limits::REMOTE_READS_MAX, &metrics),
            refresh: None,
            merges: Arc::new(AtomicBool::new(true)),
            metrics,
        }
    }

    /// Calls that begin now may each return `per_call`, and all may hold `in_flight_bytes_max` together; 0 is no limit.
    pub fn set_limits(&self, per_call: PerCall, in_flight_bytes_max: usize) {
        self.per_call.publish(per_call);
        self.in_flight.set_max(in_flight_bytes_max);
    }

    /// Prometheus answers so many remote reads at once; 0 is no limit.
    pub fn set_remote_reads_max(&self, n_max: usize) {
        self.slots.set_max(n_max);
    }

    /// With a way to learn of other external labels before their time.
    pub fn with_refresh(mut self, refresh: impl Fn() -> Option<Arc<PromState>> + Send + Sync + 'static) -> Self {
        self.refresh = Some(Arc::new(refresh));
        self
    }
}

/// Answers one Series request.
pub fn series(
    request: &SeriesRequest,
    state: &PromState,
    client: &PromClient,
    shared: &SeriesShared,
    outlet: &dyn Outlet,
) -> Result<()> {
    let outlet = Watched { outlet, has_sent: Cell::new(false) };
    let (mut way, mut now) = (Way::Streamed, None);
    loop {
        let known = now.as_deref().unwrap_or(state);
        let Err(doubt) = attempt(request, known, client, shared, &outlet, way)? else { return Ok(()) };
        log::debug!(err = doubt.err.to_string(); "asking Prometheus for its external labels ahead of time");
        // Perhaps a conflicting label appeared since Prometheus was asked, perhaps it has other external labels.
        shared.conflicts.forget();
        let mut newer = None;
        if let Some(refresh) = &shared.refresh {
            outlet.outlet.outside(&mut || newer = refresh());
        }
        let as_before = newer.as_ref().is_none_or(|newer| newer.external_labels == known.external_labels);
        if as_before && doubt.what == What::Labels {
            shared.merges.store(false, Relaxed);
        }
        if outlet.has_sent.get() {
            return Err(doubt.err);
        }
        now = newer.or(now);
        // Each way has less to doubt than the one before.
        way = match doubt.what {
            What::Labels => Way::Unchecked,
            What::Order => Way::Sorted,
        };
    }
}

/// Notes whether anything was sent: until then a call can be answered in another way.
struct Watched<'a> {
    outlet: &'a dyn Outlet,
    has_sent: Cell<bool>,
}

impl MessageSink for Watched<'_> {
    fn buffer(&self, bytes: usize) -> Vec<u8> {
        self.outlet.buffer(bytes)
    }

    fn message_bytes_max(&self) -> usize {
        self.outlet.message_bytes_max()
    }

    fn send(&self, message: EncodedMessage) -> Result<()> {
        self.has_sent.set(true);
        self.outlet.send(message)
    }
}

/// How chunks are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// In Prometheus's order, after a look at whether the known external labels are still true.
    Streamed,
    /// In Prometheus's order, without that look.
    Unchecked,
    /// Everything is sorted here, so that nothing has to be trusted.
    Sorted,
}

/// What streams is not what the known external labels let expect.
struct Doubt {
    what: What,
    err: Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A series came that belongs before one that came earlier.
    Order,
    /// The first series lacks the external labels that are known.
    Labels,
}

/// Answers with what is known of Prometheus, or stops where that is in doubt.
fn attempt(
    request: &SeriesRequest,
    state: &PromState,
    client: &PromClient,
    shared: &SeriesShared,
    outlet: &Watched<'_>,
    way: Way,
) -> Result<std::result::Result<(), Doubt>> {
    let mut counter = Counter::new(*shared.per_call.read(), &shared.metrics);
    if let Query::Select(select) = query::plan(request, state)? {
        let call = client.call().traced(outlet.outlet.spans());
        outlet.outlet.on_gone(Box::new(call.cutter()));
        if select.skip_chunks {
            let batcher = Batcher::new(select.batch_size, limits::MESSAGE_BYTES_TARGET, outlet);
            labels_only(&select, state, &call, shared, &mut counter, batcher)?;
        } else if let Err(doubt) = with_chunks(&select, state, &call, shared, &mut counter, outlet, way)? {
            return Ok(Err(doubt));
        }
    }
    outlet.outlet.counted(counter.n_series, counter.n_chunks);
    #[allow(clippy::cast_precision_loss)]
    {
        shared.metrics.series_requested.observe(counter.n_series as f64);
        shared.metrics.chunks_requested.observe(counter.n_chunks as f64);
    }
    Ok(Ok(()))
}

/// The chunk path: remote read.
fn with_chunks(
    select: &Select,
    state: &PromState,
    call: &Call,
    shared: &SeriesShared,
    counter: &mut Counter,
    outlet: &Watched<'_>,
    way: Way,
) -> Result<std::result::Result<(), Doubt>> {
    let external = &state.external_labels;
    let dropped_too = select.without.iter().map(String::as_str).filter(|name| external.value(name).is_none());
    let conflicts = match way {
        Way::Streamed | Way::Unchecked => {
            shared.conflicts.among(external.iter().map(|(name, _)| name).chain(dropped_too), call)?
        }
        Way::Sorted => Vec::new(),
    };
    let rules = LabelRules::new(external, &select.without, select.shard.clone());
    let mut reading = RemoteRead {
        select,
        call,
        rules: &rules,
        counter: Some(&mut *counter),
        reservation: shared.in_flight.reserve(),
        slots: &shared.slots,
        outlet: outlet.outlet,
        merges: if way == Way::Streamed { Some(&shared.merges) } else { None },
        doubt: None,
        sorted_bytes: 0,
        n_frames: 0,
        n_bytes: 0,
        span: Timed::default(),
    };
    let batcher = Batcher::new(select.batch_size, limits::MESSAGE_BYTES_TARGET, outlet);
    let outcome = reading.answer(&conflicts, batcher, way);
    #[allow(clippy::cast_precision_loss)]
    shared.metrics.received_frames.observe(reading.n_frames as f64);
    let (mut span, doubt) = (reading.span, reading.doubt);
    span.number("frames", reading.n_frames);
    span.number("processed.bytes", reading.n_bytes);
    span.number("processed.series", counter.n_series);
    span.number("processed.chunks", counter.n_chunks);
    match (span.end(outcome), doubt) {
        (Ok(()), _) => Ok(Ok(())),
        (Err(err), Some(what)) => Ok(Err(Doubt { what, err })),
        (Err(err), None) => Err(err),
    }
}

/// One call for chunks while it runs.
struct RemoteRead<'a, 'm> {
    select: &'a Select,
    call: &'a Call<'a>,
    rules: &'a LabelRules,
    /// Counts what arrives. With a limit what is sent is counted, because more may arrive.
    counter: Option<&'a mut Counter<'m>>,
    /// This call's part of what all calls may hold.
    reservation: Reservation,
    slots: &'a Slots,
    outlet: &'a dyn Outlet,
    /// Whether Prometheus sets its external labels; nothing where that is not looked at.
    merges: Option<&'a AtomicBool>,
    /// Why the answer cannot go on with what is known of Prometheus.
    doubt: Option<What>,
    /// Bytes of memory that sorted series take.
    sorted_bytes: usize,
    n_frames: u64,
    /// Bytes of those frames.
    n_bytes: u64,
    /// The part of the call that is under way: a read to the end of its answer, or what follows it.
    span: Timed,
}

impl RemoteRead<'_, '_> {
    fn answer<M: MessageSink + ?Sized>(
        &mut self,
        conflicts: &[String],
        batcher: Batcher<'_, M>,
        way: Way,
    ) -> Result<()> {
        let matcher = |name: &String, kind| Matcher { kind, name: name.clone(), value: String::new() };
        let mut sorter = None;
        let new_sorter = || Sorter::new(limits::SORT_BYTES_MAX, limits::SPILL_BYTES_MAX);
        let mut matchers = self.select.matchers.clone();
        for name in conflicts {
            // Those with this label and none of the labels before it, so that each series is read once.
            let with_label: Vec<_> = matchers.iter().cloned().chain([matcher(name, MatchType::NotEqual)]).collect();
            let answer = self.read(&with_label)?;
            self.sort(answer, sorter.get_or_insert_with(new_sorter))?;
            matchers.push(matcher(name, MatchType::Equal));
        }
        let streamed = match (self.read(&matchers)?, way) {
            (ReadAnswer::Streamed(frames), Way::Streamed | Way::Unchecked) => Some(frames),
            // A sampled one is held whole anyway, and such an old server promises no order.
            (answer, _) => {
                self.sort(answer, sorter.get_or_insert_with(new_sorter))?;
                None
            }
        };
        let sorted = sorter.map(Sorter::sorted).transpose()?;
        let sent = if self.select.limit > 0 { self.counter.take() } else { None };
        let mut out = Merger::new(self.rules, sorted, self.select.limit, sent, batcher);
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
                let (mut frame, mut ranges) = (Vec::new(), Vec::new());
                while self.next_frame(&mut frames, &mut frame)? {
                    each_series(&frame, |range| {
                        ranges.push(range);
                        Ok(())
                    })
                    .context(|| "read frame from Prometheus")?;
                    for range in ranges.drain(..) {
                        self.sort_one(frame.get(range).unwrap_or_default(), &mut entry, sorter)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Puts one encoded `ChunkedSeries` into the sorter, by way of `entry`.
    fn sort_one(&mut self, series: &[u8], entry: &mut Entry, sorter: &mut Sorter) -> Result<()> {
        entry.copy(series);
        if entry.parse(0..series.len(), self.rules).context(|| "read frame from Prometheus")? {
            self.count_arrived(entry)?;
            sorter.push(|out| entry.key(self.rules, out), |out| entry.encode(self.rules, out))?;
            self.sorted_bytes = sorter.held_bytes();
            self.account(0)?;
        }
        Ok(())
    }

    /// Streams series through the order.
    fn stream<M: MessageSink + ?Sized>(
        &mut self,
        mut frames: FrameReader<impl Read>,
        out: &mut Merger<'_, '_, '_, M>,
    ) -> Result<()> {
        let mut order = ReorderBuffer::new(Bounds {
            memory_max: limits::HELD_BYTES_MAX,
            spill_max: limits::SPILL_BYTES_MAX,
            reuse_max: limits::REUSED_BYTES_MAX,
        });
        let (mut ranges, n_before) = (Vec::new(), self.n_frames);
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
            if self.n_frames == n_before + 1 && !ranges.is_empty() {
                self.check_labels(entry.buffer().get(first.clone()).unwrap_or_default())?;
            }
            for (mut entry, range) in std::iter::once((entry, first)).chain(others) {
                let is_wanted = order.parse(&mut entry, range, self.rules).context(|| "read frame from Prometheus")?;
                if !is_wanted || ranges.is_empty() {
                    order.recycle(entry);
                    continue;
                }
                self.count_arrived(&entry)?;
                self.outlet.holds(self.sorted_bytes + order.held_bytes() + entry.held_bytes());
                let pushed = order.push(entry, self.rules, |entry| out.emit(entry));
                if order.stepped_back() || out.stepped_back {
                    self.doubt = Some(What::Order);
                }
                pushed?;
                self.account(order.held_bytes())?;
            }
            if out.is_done() {
                return Ok(());
            }
        }
        let finished = order.finish(self.rules, |entry| out.emit(entry));
        if order.stepped_back() || out.stepped_back {
            self.doubt = Some(What::Order);
        }
        finished
    }

    /// Looks at the first series of a stream: Prometheus sets its external labels on all of them, so these tell whether the
    /// known ones are still true. What is added later shows in the order at most, and does no harm where it does not.
    fn check_labels(&mut self, series: &[u8]) -> Result<()> {
        let Some(merges) = self.merges else { return Ok(()) };
        if self.rules.are_set_on(series).context(|| "read frame from Prometheus")? {
            merges.store(true, Relaxed);
            return Ok(());
        }
        if !merges.load(Relaxed) {
            return Ok(());
        }
        self.doubt = Some(What::Labels);
        Err(Error::new(Kind::Retry, "series came from Prometheus without the external labels it had; ask again"))
    }

    fn count_arrived(&mut self, entry: &Entry) -> Result<()> {
        // With a limit it is not known yet whether this will be sent.
        match &mut self.counter {
            Some(counter) if self.select.limit == 0 => counter.count(entry.n_chunks()),
            _ => Ok(()),
        }
    }

    /// Starts a remote read.
    fn read(&mut self, matchers: &[Matcher]) -> Result<ReadAnswer<impl Read + use<>>> {
        let (mint_ms, maxt_ms) = (self.select.mint_ms, self.select.maxt_ms);
        let spans = self.outlet.spans();
        // Ends the one before.
        self.span = Timed::request(spans, "query_prometheus");
        self.span.text("query.request", || format!("{} {mint_ms} {maxt_ms}", request::selector(matchers)));
        let body = request::read_request_body(mint_ms, maxt_ms, matchers);
        let slot = self.slots.enter(self.outlet)?;
        let waits = self.slots.waits();
        let answer = self.call.read_within(&mut self.span, &body, |body| slot.hold(body, self.outlet.client()));
        drop(waits);
        let answer = answer.context(|| "query Prometheus")?;
        // It is here whole, and what follows is work.
        if matches!(answer, ReadAnswer::Sampled(_)) {
            self.span = Timed::work(spans, "transform_and_respond");
        }
        Ok(answer)
    }

    fn next_frame(&mut self, frames: &mut FrameReader<impl Read>, buffer: &mut Vec<u8>) -> Result<bool> {
        if let Some(counter) = &self.counter {
            self.outlet.counted(counter.n_series, counter.n_chunks);
        }
        let more = frames.read_frame(buffer).context(|| "next proto")?;
        self.n_frames += u64::from(more);
        self.n_bytes += if more { buffer.len() as u64 } else { 0 };
        Ok(more)
    }

    /// Accounts for the memory of the series that wait in the stream and of those that were sorted before.
    fn account(&mut self, waiting_bytes: usize) -> Result<()> {
        if self.reservation.resize(self.sorted_bytes + waiting_bytes) {
            Ok(())
        } else {
            Err(self.reservation.refusal())
        }
    }
}

/// Merges the stream with the sorted series, stops at the limit, and packs messages.
struct Merger<'a, 'b, 'm, M: ?Sized> {
    rules: &'a LabelRules,
    sorted: Option<Sorted>,
    /// Series that are still wanted; none where the request has no limit.
    wanted: Option<u64>,
    done: bool,
    /// Counts what is sent, where that is not what arrives.
    sent: Option<&'a mut Counter<'m>>,
    stepped_back: bool,
    key: Vec<u8>,
    last_key: Vec<u8>,
    batcher: Batcher<'b, M>,
}

impl<'a, 'b, 'm, M: MessageSink + ?Sized> Merger<'a, 'b, 'm, M> {
    fn new(
        rules: &'a LabelRules,
        sorted: Option<Sorted>,
        limit: i64,
        sent: Option<&'a mut Counter<'m>>,
        batcher: Batcher<'b, M>,
    ) -> Self {
        let wanted = u64::try_from(limit).ok().filter(|limit| *limit > 0);
        let (key, last_key) = (Vec::new(), Vec::new());
        Merger { rules, sorted, wanted, done: false, sent, stepped_back: false, key, last_key, batcher }
    }

    /// Whether the limit is reached, so that nothing more is wanted from the stream.
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
        if let Some(sent) = &mut self.sent {
            sent.count(entry.n_chunks())?;
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
                    if let Some(sent) = &mut self.sent {
                        sent.count(n_chunks(series)?)?;
                    }
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
            std::cmp::Ordering::Less => {
                self.stepped_back = true;
                return Err(out_of_order());
            }
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

/// How many chunks an encoded `Series` has.
fn n_chunks(series: &[u8]) -> Result<u64> {
    let (mut fields, mut n) = (Fields::new(series), 0);
    while let Some((number, _)) = fields.next_field()? {
        n += u64::from(number == 2);
    }
    Ok(n)
}

/// The error of a client that is gone, for outlets.
pub fn client_gone() -> Error {
    Error::new(Kind::Stopped, "the client went away")
}
