//! LabelNames and LabelValues: each name and value once and in order, no more of them than the limit, and none from before
//! the oldest time that this sidecar can answer for.
//!
//! `Differs:` from Thanos in all three (D-13).

use std::collections::BTreeSet;

use crate::prom::Answer;
use crate::prom::answers::SeriesLabels;
use crate::prom::request;
use crate::prom::{Call, PromClient};
use crate::store::matcher::{self, Selection};
use crate::store::series::Outlet;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::matcher::Matcher;
use pillion_base::state::PromState;
use pillion_proto::thanos_store::{LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse};

/// Answers one LabelNames request.
pub fn label_names(
    request: &LabelNamesRequest,
    state: &PromState,
    client: &PromClient,
    outlet: &dyn Outlet,
) -> Result<LabelNamesResponse> {
    let Selection::Matchers(matchers) = matcher::select(&request.matchers, &state.external_labels)? else {
        return Ok(LabelNamesResponse::default());
    };
    let call = client.call();
    outlet.on_gone(Box::new(call.cutter()));
    let query = LabelQuery::new(matchers, request.start, request.end, state);
    let limit = limit(request.limit);
    let Answer { data, warnings } = if query.matchers.is_empty() || takes_matchers(&state.version) {
        // Names that are removed below do not count.
        let limit = limit.map(|limit| limit.saturating_add(request.without_replica_labels.len()));
        let answer = call.json::<Vec<String>>("/api/v1/labels", &query.params(limit))?;
        Answer { data: answer.data.into_iter().collect::<BTreeSet<_>>(), warnings: answer.warnings }
    } else {
        // A limit here would count series, not names.
        let answer = series(&call, &query, None)?;
        Answer { data: answer.data.into_iter().flatten().map(|(name, _)| name).collect(), warnings: answer.warnings }
    };
    let mut names = data;
    // If nothing matched, there is no series that could carry an external label.
    if !names.is_empty() {
        names.extend(state.external_labels.iter().map(|(name, _)| name.to_owned()));
    }
    names.retain(|name| !request.without_replica_labels.contains(name));
    let names = names.into_iter().take(limit.unwrap_or(usize::MAX)).collect();
    Ok(LabelNamesResponse { names, warnings, ..Default::default() })
}

/// Answers one LabelValues request.
pub fn label_values(
    request: &LabelValuesRequest,
    state: &PromState,
    client: &PromClient,
    outlet: &dyn Outlet,
) -> Result<LabelValuesResponse> {
    if request.label.is_empty() {
        return Err(Error::new(Kind::BadRequest, "label name parameter cannot be empty"));
    }
    if request.without_replica_labels.contains(&request.label) {
        return Ok(LabelValuesResponse::default());
    }
    let Selection::Matchers(matchers) = matcher::select(&request.matchers, &state.external_labels)? else {
        return Ok(LabelValuesResponse::default());
    };
    let call = client.call();
    outlet.on_gone(Box::new(call.cutter()));
    let query = LabelQuery::new(matchers, request.start, request.end, state);
    let limit = limit(request.limit);
    let Answer { data, warnings } = if let Some(value) = state.external_labels.value(&request.label) {
        // Every series carries this label with this value, if there is any series.
        if query.matchers.is_empty() {
            Answer { data: BTreeSet::from([value.to_owned()]), warnings: Vec::new() }
        } else {
            // One series is enough, so a warning that there are more says nothing.
            let mut answer = series(&call, &query, Some(1))?;
            answer.warnings.retain(|warning| warning != TRUNCATED);
            let data = answer.data.iter().take(1).map(|_| value.to_owned()).collect();
            Answer { data, warnings: answer.warnings }
        }
    } else if query.matchers.is_empty() || takes_matchers(&state.version) {
        let path = format!("/api/v1/label/{}/values", request::label_path_segment(&request.label));
        let answer = call.json::<Vec<String>>(&path, &query.params(limit))?;
        Answer { data: answer.data.into_iter().collect(), warnings: answer.warnings }
    } else {
        // A limit here would count series, not values.
        let answer = series(&call, &query, None)?;
        let values = answer.data.into_iter().filter_map(|mut series| series.remove(&request.label));
        Answer { data: values.collect(), warnings: answer.warnings }
    };
    let values = data.into_iter().take(limit.unwrap_or(usize::MAX)).collect();
    Ok(LabelValuesResponse { values, warnings, ..Default::default() })
}

/// What Prometheus adds when there is more than the limit.
const TRUNCATED: &str = "results truncated due to limit";

/// How many are wanted; all of them without a positive limit.
fn limit(requested: i64) -> Option<usize> {
    usize::try_from(requested).ok().filter(|limit| *limit > 0)
}

/// What both calls ask Prometheus.
struct LabelQuery {
    matchers: Vec<Matcher>,
    start_ms: i64,
    end_ms: i64,
}

impl LabelQuery {
    /// As for Series, the start is not before the oldest time of Prometheus, and the end stays as it is.
    fn new(matchers: Vec<Matcher>, start_ms: i64, end_ms: i64, state: &PromState) -> Self {
        LabelQuery { matchers, start_ms: start_ms.max(state.mint_ms), end_ms }
    }

    fn params(&self, limit: Option<usize>) -> Vec<(&'static str, String)> {
        let mut params = vec![("start", request::seconds(self.start_ms)), ("end", request::seconds(self.end_ms))];
        if !self.matchers.is_empty() {
            params.push(("match[]", request::selector(&self.matchers)));
        }
        if let Some(limit) = limit {
            params.push(("limit", limit.to_string()));
        }
        params
    }
}

fn series(call: &Call, query: &LabelQuery, limit: Option<usize>) -> Result<Answer<Vec<SeriesLabels>>> {
    call.json("/api/v1/series", &query.params(limit))
}

/// Whether this version's label endpoints take matchers: 2.24.0 and later. A version that cannot be read counts as old.
fn takes_matchers(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(str::parse::<u32>);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(_))) => (major, minor) >= (2, 24),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let check = |version: &str, expected: bool| assert_eq!(takes_matchers(version), expected, "{version}");
        check("2.24.0", true);
        check("2.23.9", false);
        check("3.5.0", true);
        check("2.53.3+ds1", true);
        check("3.0.0-rc.1", true);
        check("10.0.0", true);
        check("0", false);
        check("v2.40.0", false);
        check("", false);
    }
}
