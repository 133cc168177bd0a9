//! What a Series request means: every error that is the caller's fault is found here. Pure.

use crate::store::matcher::{self, Selection};
use crate::store::shard::Shard;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::matcher::Matcher;
use pillion_base::state::PromState;
use pillion_proto::thanos_store::SeriesRequest;

/// A Series request that was understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// Nothing here can match.
    Nothing,
    /// Ask Prometheus for these.
    Select(Select),
}

/// What to ask Prometheus and what to do with each series.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Select {
    /// Never empty.
    pub matchers: Vec<Matcher>,
    /// The request's start, not before the oldest time of Prometheus. `Units:` ms.
    pub mint_ms: i64,
    /// The request's end as it came. `Units:` ms.
    pub maxt_ms: i64,
    /// Only labels are wanted.
    pub skip_chunks: bool,
    /// How many series are wanted at most; 0 means all.
    pub limit: i64,
    /// Labels that are removed from every series.
    pub without: Vec<String>,
    /// Which part of the series is wanted.
    pub shard: Option<Shard>,
    /// How many series share a message; 0 and 1 mean one each.
    pub batch_size: usize,
}

/// Understands a request, given what is known of Prometheus.
///
/// `Errors:` `BadRequest`, in the order and with the words of Thanos.
pub(super) fn plan(request: &SeriesRequest, state: &PromState) -> Result<Query> {
    let matchers = match matcher::select(&request.matchers, &state.external_labels)? {
        Selection::Nothing => return Ok(Query::Nothing),
        Selection::Matchers(matchers) => matchers,
    };
    if matchers.is_empty() {
        return Err(Error::new(Kind::BadRequest, "no matchers specified (excluding external labels)"));
    }
    Ok(Query::Select(Select {
        matchers,
        mint_ms: request.min_time.max(state.mint_ms),
        maxt_ms: request.max_time,
        skip_chunks: request.skip_chunks,
        limit: request.limit.max(0),
        without: request.without_replica_labels.clone(),
        shard: request.shard_info.as_ref().and_then(Shard::new),
        batch_size: usize::try_from(request.response_batch_size).unwrap_or(0),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillion_base::labels::Labels;
    use pillion_proto::thanos_types::LabelMatcher;

    fn request(matchers: &[(&str, &str)]) -> SeriesRequest {
        SeriesRequest {
            min_time: 5,
            max_time: 90,
            matchers: matchers
                .iter()
                .map(|(name, value)| LabelMatcher {
                    name: (*name).into(),
                    value: (*value).into(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    fn state() -> PromState {
        PromState { external_labels: Labels::new([("region", "eu")]), mint_ms: 50, ..PromState::unknown(0) }
    }

    #[test]
    fn only_the_start_is_clamped() {
        let Query::Select(select) = plan(&request(&[("a", "b")]), &state()).unwrap() else { panic!() };
        assert_eq!((select.mint_ms, select.maxt_ms), (50, 90));
    }

    #[test]
    fn a_mismatch_comes_before_the_missing_matchers() {
        assert_eq!(plan(&request(&[("region", "us")]), &state()).unwrap(), Query::Nothing);
        for empty in [request(&[("region", "eu")]), request(&[])] {
            let err = plan(&empty, &state()).unwrap_err();
            assert_eq!(err.to_string(), "no matchers specified (excluding external labels)");
            assert_eq!(err.kind(), Kind::BadRequest);
        }
    }

    #[test]
    fn hostile_numbers_are_harmless() {
        let hostile = SeriesRequest { response_batch_size: -1, limit: -5, ..request(&[("a", "b")]) };
        let Query::Select(select) = plan(&hostile, &state()).unwrap() else { panic!() };
        assert_eq!((select.batch_size, select.limit), (0, 0));
    }
}
