//! A Series call that wants no chunks: labels from `/api/v1/series`, sorted.

use crate::limits;
use crate::prom::Call;
use crate::prom::listing::LabelPairs;
use crate::prom::request;
use crate::store::batch::{Batcher, MessageSink};
use crate::store::query::Select;
use crate::store::quota::Counter;
use crate::store::series::SeriesShared;
use crate::store::sort::Sorter;
use crate::store::transcode::put_key;
use crate::store::wire;
use pillion_base::error::Result;
use pillion_base::labels::Labels;
use pillion_base::state::PromState;

/// The label path: `/api/v1/series`, read item by item and sorted under the same budget as everything else.
pub(super) fn labels_only<M: MessageSink + ?Sized>(
    select: &Select,
    state: &PromState,
    call: &Call,
    shared: &SeriesShared,
    counter: &mut Counter,
    mut batcher: Batcher<'_, M>,
) -> Result<()> {
    let mut params = vec![
        ("match[]", request::selector(&select.matchers)),
        ("start", request::seconds(select.mint_ms)),
        ("end", request::seconds(select.maxt_ms)),
    ];
    // Prometheus's limit would be too small where series become equal or fall out of the shard.
    if select.limit > 0 && select.shard.is_none() && select.without.is_empty() {
        params.push(("limit", select.limit.to_string()));
    }
    let mut sorter = Sorter::new(limits::SORT_BYTES_MAX, limits::SPILL_BYTES_MAX);
    let mut reservation = shared.in_flight.reserve();
    let warnings = call.list("/api/v1/series", &params, &mut |local: LabelPairs| {
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
        if reservation.resize(sorter.held_bytes()) { Ok(()) } else { Err(reservation.refusal()) }
    })?;
    let mut sorted = sorter.sorted()?;
    let mut wanted = u64::try_from(select.limit).ok().filter(|limit| *limit > 0).unwrap_or(u64::MAX);
    let mut last: Option<Vec<u8>> = None;
    while sorted.key().is_some() && wanted > 0 {
        sorted.next(|key, series| {
            // Of label sets that became equal only one is sent.
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
