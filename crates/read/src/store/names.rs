//! LabelNames and LabelValues: each name and value once and in order, no more of them than the limit, and none from before
//! the oldest time that this sidecar can answer for. They go into the answer's message while they arrive.
//!
//! `Differs:` from Thanos in all three (D-13).

use std::collections::BTreeSet;

use crate::prom::answers::TRUNCATED;
use crate::prom::listing::SeriesLabels;
use crate::prom::{Call, PromClient, request};
use crate::store::matcher::{self, Selection};
use crate::store::series::Outlet;
use crate::store::strings::Strings;
use pillion_base::error::{Error, Kind, Result};
use pillion_base::matcher::Matcher;
use pillion_base::state::PromState;
use pillion_proto::thanos_store::{LabelNamesRequest, LabelValuesRequest};

/// Answers one LabelNames request, with an encoded `LabelNamesResponse`.
///
/// External names come beyond the limit, as they do in Thanos: a querier that gets more than it asked for says that
/// there is more.
pub fn label_names(
    request: &LabelNamesRequest,
    state: &PromState,
    client: &PromClient,
    outlet: &dyn Outlet,
) -> Result<Vec<u8>> {
    let Selection::Matchers(matchers) = matcher::select(&request.matchers, &state.external_labels)? else {
        return Ok(Vec::new());
    };
    let call = client.call().traced(outlet.spans());
    outlet.on_gone(Box::new(call.cutter()));
    let query = LabelQuery::new(matchers, request.start, request.end, state);
    let limit = limit(request.limit);
    let without = &request.without_replica_labels;
    let is_dropped = |name: &[u8]| without.iter().any(|dropped| dropped.as_bytes() == name);
    let mut names = Strings::new(limit);
    // If nothing matched, there is no series that could carry an external label.
    let mut is_empty = true;
    let mut push = |name: &[u8]| {
        is_empty = false;
        if is_dropped(name) { Ok(()) } else { names.push(name) }
    };
    let warnings = if query.matchers.is_empty() || takes_matchers(&state.version) {
        // Names that are dropped do not count.
        let limit = limit.map(|limit| limit.saturating_add(without.len()));
        call.each_string("/api/v1/labels", &query.params(limit), &mut push)?
    } else {
        // A limit here would count series, not names.
        let mut seen = BTreeSet::new();
        let warnings = series(&call, &query, None, &mut |labels| {
            for (name, _) in labels.iter() {
                if !seen.contains(name) {
                    seen.insert(name.to_vec());
                }
            }
        })?;
        seen.iter().try_for_each(|name| push(name))?;
        warnings
    };
    let external = state.external_labels.iter().map(|(name, _)| name).filter(|name| !is_dropped(name.as_bytes()));
    let external: Vec<&str> = if is_empty { Vec::new() } else { external.collect() };
    names.message(&external, &kept(warnings))
}

/// Answers one LabelValues request, with an encoded `LabelValuesResponse`.
pub fn label_values(
    request: &LabelValuesRequest,
    state: &PromState,
    client: &PromClient,
    outlet: &dyn Outlet,
) -> Result<Vec<u8>> {
    if request.label.is_empty() {
        return Err(Error::new(Kind::BadRequest, "label name parameter cannot be empty"));
    }
    if request.without_replica_labels.contains(&request.label) {
        return Ok(Vec::new());
    }
    let Selection::Matchers(matchers) = matcher::select(&request.matchers, &state.external_labels)? else {
        return Ok(Vec::new());
    };
    let call = client.call().traced(outlet.spans());
    outlet.on_gone(Box::new(call.cutter()));
    let query = LabelQuery::new(matchers, request.start, request.end, state);
    let limit = limit(request.limit);
    let mut values = Strings::new(limit);
    let warnings = if let Some(value) = state.external_labels.value(&request.label) {
        // Every series carries this label with this value, if there is any series. One is enough.
        let mut is_any = query.matchers.is_empty();
        let warnings = if is_any { Vec::new() } else { series(&call, &query, Some(1), &mut |_| is_any = true)? };
        if is_any {
            values.push(value.as_bytes())?;
        }
        warnings
    } else if query.matchers.is_empty() || takes_matchers(&state.version) {
        let path = format!("/api/v1/label/{}/values", request::label_path_segment(&request.label));
        call.each_string(&path, &query.params(limit), &mut |value| values.push(value))?
    } else {
        // A limit here would count series, not values.
        let mut seen = BTreeSet::new();
        let label = request.label.as_bytes();
        let warnings = series(&call, &query, None, &mut |labels| {
            if let Some((_, value)) = labels.iter().find(|(name, _)| *name == label)
                && !seen.contains(value)
            {
                seen.insert(value.to_vec());
            }
        })?;
        seen.iter().try_for_each(|value| values.push(value))?;
        warnings
    };
    values.message(&[], &kept(warnings))
}

/// What Prometheus says of a limit is not passed on: Thanos's sidecar says nothing either, and the querier counts itself.
fn kept(mut warnings: Vec<String>) -> Vec<String> {
    warnings.retain(|warning| warning != TRUNCATED);
    warnings
}

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

fn series(
    call: &Call,
    query: &LabelQuery,
    limit: Option<usize>,
    each: &mut dyn FnMut(&SeriesLabels),
) -> Result<Vec<String>> {
    call.each_series("/api/v1/series", &query.params(limit), &mut |series| {
        each(series);
        Ok(())
    })
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
