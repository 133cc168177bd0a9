//! LabelNames and LabelValues.

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};
use crate::pb::thanos_store::{LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse};
use crate::prom::answers::{Answer, SeriesLabels};
use crate::prom::client::{Call, Client};
use crate::prom::request::{self, Matcher};
use crate::state::PromState;
use crate::store::matcher::{self, Selection};
use crate::store::series::Outlet;

/// Answers one LabelNames request.
pub fn label_names(
    request: &LabelNamesRequest,
    state: &PromState,
    client: &Client,
    outlet: &dyn Outlet,
) -> Result<LabelNamesResponse> {
    let Selection::Matchers(matchers) = matcher::select(&request.matchers, &state.external_labels)? else {
        return Ok(LabelNamesResponse::default());
    };
    let call = client.call();
    outlet.on_gone(Box::new(call.cutter()));
    let asked = Asked { matchers, start_ms: request.start, end_ms: request.end, limit: request.limit };
    let Answer { data, warnings } = if asked.matchers.is_empty() || takes_matchers(&state.version) {
        let answer = call.json::<Vec<String>>("/api/v1/labels", &asked.params(true))?;
        Answer { data: answer.data.into_iter().collect::<BTreeSet<_>>(), warnings: answer.warnings }
    } else {
        let answer = series(&call, &asked, true)?;
        Answer { data: answer.data.into_iter().flatten().map(|(name, _)| name).collect(), warnings: answer.warnings }
    };
    let mut names = data;
    // Where nothing matched there is no series that could carry an external label.
    if !names.is_empty() {
        names.extend(state.external_labels.iter().map(|(name, _)| name.to_owned()));
    }
    names.retain(|name| !request.without_replica_labels.contains(name));
    Ok(LabelNamesResponse { names: names.into_iter().collect(), warnings, ..Default::default() })
}

/// Answers one LabelValues request.
pub fn label_values(
    request: &LabelValuesRequest,
    state: &PromState,
    client: &Client,
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
    let asked = Asked { matchers, start_ms: request.start, end_ms: request.end, limit: request.limit };
    let Answer { data, warnings } = if let Some(value) = state.external_labels.value(&request.label) {
        // Every series carries it: it has this one value, if there is any series.
        if asked.matchers.is_empty() {
            Answer { data: BTreeSet::from([value.to_owned()]), warnings: Vec::new() }
        } else {
            let answer = series(&call, &asked, true)?;
            let data = answer.data.iter().take(1).map(|_| value.to_owned()).collect();
            Answer { data, warnings: answer.warnings }
        }
    } else if asked.matchers.is_empty() || takes_matchers(&state.version) {
        let path = format!("/api/v1/label/{}/values", request::label_path_segment(&request.label));
        let answer = call.json::<Vec<String>>(&path, &asked.params(true))?;
        Answer { data: answer.data.into_iter().collect(), warnings: answer.warnings }
    } else {
        // The limit is one of values, not of series, so it is not passed on here.
        let answer = series(&call, &asked, false)?;
        let values = answer.data.into_iter().filter_map(|mut series| series.remove(&request.label));
        Answer { data: values.collect(), warnings: answer.warnings }
    };
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    Ok(LabelValuesResponse { values: data.into_iter().take(limit).collect(), warnings, ..Default::default() })
}

/// What both calls ask Prometheus.
struct Asked {
    matchers: Vec<Matcher>,
    start_ms: i64,
    end_ms: i64,
    limit: i64,
}

impl Asked {
    fn params(&self, with_limit: bool) -> Vec<(&'static str, String)> {
        let mut params = vec![("start", request::seconds(self.start_ms)), ("end", request::seconds(self.end_ms))];
        if !self.matchers.is_empty() {
            params.push(("match[]", request::selector(&self.matchers)));
        }
        if with_limit && self.limit > 0 {
            params.push(("limit", self.limit.to_string()));
        }
        params
    }
}

fn series(call: &Call, asked: &Asked, with_limit: bool) -> Result<Answer<Vec<SeriesLabels>>> {
    call.json("/api/v1/series", &asked.params(with_limit))
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
