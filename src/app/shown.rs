//! How the status shows what other parts know.

use std::time::Duration;

use crate::cli::Config;
use crate::cli::store_limits::StoreLimits;
use crate::grpc::record::{Doing, Record};
use crate::limits;
use crate::status::{self, Limits};

/// An open call as the status shows it.
pub(super) fn shown_call(record: &Record) -> status::Call {
    let query = record.query();
    let (n_series, n_chunks) = record.counts();
    status::Call {
        method: record.name.2.to_owned(),
        peer: record.peer(),
        matchers: query.split_once(' ').map_or_else(String::new, |(_, matchers)| matchers.to_owned()),
        seconds: record.age().as_secs_f64(),
        series: n_series,
        chunks: n_chunks,
        bytes: record.sent_bytes(),
        waits_for_client: record.doing() == Doing::WaitingForClient,
        trace_id: record.origin.trace_id.clone(),
    }
}

/// The limits as the status shows them. 0 is no limit.
pub(super) fn limits_in_force(config: &Config, store: StoreLimits) -> Limits {
    let limited = |n: u64| Some(n).filter(|n| *n > 0);
    Limits {
        concurrent_calls: config.concurrent_calls,
        queued_calls: limits::CALL_QUEUE,
        bytes_in_flight: Some(store.bytes_in_flight).filter(|n| *n > 0),
        request_series: limited(store.per_call.series_max),
        request_samples: limited(store.per_call.samples_max),
        request_bytes: config.request_bytes_max,
        stalled_call_seconds: Some(config.stalled_call_timeout)
            .filter(|time| *time < Duration::MAX)
            .map(|time| time.as_secs_f64()),
    }
}
