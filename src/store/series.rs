//! One Series call, from request to last message, on one thread that pulls all the way.

use crate::error::{Context, Error, Kind, Result};
use crate::labels::Labels;
use crate::limits;
use crate::metrics::StoreMetrics;
use crate::pb::thanos_store::SeriesRequest;
use crate::prom::answers::SeriesLabels;
use crate::prom::client::Client;
use crate::prom::request;
use crate::state::PromState;
use crate::store::batch::Batcher;
use crate::store::order::Sorter;
use crate::store::query::{self, Query, Select};
use crate::store::transcode::Transcoder;
use crate::store::wire;

/// Where the messages of a call go.
pub trait Outlet {
    /// Sends one encoded message. `Blocks:` while the client is slower than we are.
    ///
    /// `Errors:` `Stopped` once the client is gone.
    fn send(&self, message: Vec<u8>) -> Result<()>;

    /// Runs `hook` when the client goes away, at once if it is gone already. One hook is kept.
    fn on_gone(&self, hook: Box<dyn Fn() + Send + Sync>);
}

/// What a call counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    n_series: u64,
    n_chunks: u64,
}

/// Answers one Series request.
pub fn series(
    request: &SeriesRequest,
    state: &PromState,
    client: &Client,
    metrics: &StoreMetrics,
    outlet: &dyn Outlet,
) -> Result<()> {
    let select = match query::plan(request, state)? {
        Query::Nothing => return observe(metrics, Counts::default()),
        Query::Select(select) => select,
    };
    let mut batcher = Batcher::new(select.batch_size, limits::MESSAGE_BYTES_TARGET, |message| outlet.send(message));
    let counts = if select.skip_chunks {
        labels_only(&select, state, client, outlet, &mut batcher)?
    } else {
        with_chunks(&select, state, client, metrics, outlet, &mut batcher)?
    };
    batcher.flush()?;
    observe(metrics, counts)
}

#[allow(clippy::cast_precision_loss)]
fn observe(metrics: &StoreMetrics, counts: Counts) -> Result<()> {
    metrics.series_requested.observe(counts.n_series as f64);
    metrics.chunks_requested.observe(counts.n_chunks as f64);
    Ok(())
}

/// The chunk path: streamed remote read.
fn with_chunks<S: FnMut(Vec<u8>) -> Result<()>>(
    select: &Select,
    state: &PromState,
    client: &Client,
    metrics: &StoreMetrics,
    outlet: &dyn Outlet,
    batcher: &mut Batcher<S>,
) -> Result<Counts> {
    let call = client.call();
    outlet.on_gone(Box::new(call.cutter()));
    let body = request::read_body(select.mint_ms, select.maxt_ms, &select.matchers);
    let mut frames = call.read(&body).context(|| "query Prometheus")?;
    let mut transcoder = Transcoder::new(&state.external_labels, &select.without, select.shard.clone());
    let mut sorter = Sorter::new(limits::SORT_BYTES_MAX);
    let (mut series, mut key) = (Vec::new(), Vec::new());
    let mut counts = Counts::default();
    let mut pull = || -> Result<()> {
        while let Some(frame) = frames.next_frame().context(|| "next proto")? {
            Transcoder::each_series(frame, |chunked| {
                series.clear();
                key.clear();
                if let Some(done) = transcoder.series(chunked, &mut series, &mut key)? {
                    counts.n_series += 1;
                    counts.n_chunks += done.n_chunks;
                    sorter.push(&key, &series)?;
                }
                Ok(())
            })
            .context(|| "read frame from Prometheus")?;
        }
        Ok(())
    };
    let pulled = pull();
    #[allow(clippy::cast_precision_loss)]
    metrics.received_frames.observe(frames.n_frames() as f64);
    pulled?;
    sorter.drain(|series| batcher.push(series))?;
    Ok(counts)
}

/// The label path: `/api/v1/series`.
fn labels_only<S: FnMut(Vec<u8>) -> Result<()>>(
    select: &Select,
    state: &PromState,
    client: &Client,
    outlet: &dyn Outlet,
    batcher: &mut Batcher<S>,
) -> Result<Counts> {
    let call = client.call();
    outlet.on_gone(Box::new(call.cutter()));
    let mut params = vec![
        ("match[]", request::selector(&select.matchers)),
        ("start", request::seconds(select.mint_ms)),
        ("end", request::seconds(select.maxt_ms)),
    ];
    if select.limit > 0 {
        params.push(("limit", select.limit.to_string()));
    }
    let answer = call.json::<Vec<SeriesLabels>>("/api/v1/series", &params)?;
    let mut all: Vec<Labels> = answer
        .data
        .into_iter()
        .map(|local| Labels::new(local).overlaid(&state.external_labels).without(&select.without))
        .filter(|labels| {
            let bytes = labels.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            select.shard.as_ref().is_none_or(|shard| shard.holds(bytes))
        })
        .collect();
    all.sort();
    // Label sets that became equal say nothing more than one of them.
    all.dedup();
    let mut encoded = Vec::new();
    for labels in &all {
        encoded.clear();
        encode(labels, &mut encoded);
        batcher.push(&encoded)?;
    }
    for warning in &answer.warnings {
        batcher.warn(warning)?;
    }
    Ok(Counts { n_series: all.len() as u64, n_chunks: 0 })
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
