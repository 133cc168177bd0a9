//! Answers other than series, as the lines that `expect lines` compares. Pure.

use pillion_base::labels::Labels;
use pillion_proto::thanos_info::InfoResponse;
use pillion_proto::thanos_types::ZLabelSet;

use super::case::DATA_START_MS;

/// What the server is and what its store can do.
pub fn info(info: &InfoResponse) -> Vec<String> {
    let mut lines = vec![format!("component {}", info.ComponentType)];
    lines.extend(info.label_sets.iter().map(|set| format!("labels {}", labels(set))));
    if let Some(store) = info.store.as_ref() {
        lines.push(format!("store {} .. {}", time(store.min_time), time(store.max_time)));
        lines.extend(store.supports_sharding.then(|| "store supports sharding".to_owned()));
        lines.extend(store.supports_without_replica_labels.then(|| "store supports without_replica_labels".to_owned()));
        lines.extend(store.supports_projections.then(|| "store supports projections".to_owned()));
        lines.extend(store.tsdb_infos.iter().map(|tsdb| {
            let set = tsdb.labels.as_ref().map(labels).unwrap_or_default();
            format!("tsdb {set} {} .. {}", time(tsdb.min_time), time(tsdb.max_time))
        }));
    }
    lines
}

/// Which services the server says it has.
pub fn info_services(info: &InfoResponse) -> Vec<String> {
    let exemplars = info.exemplars.as_ref();
    let mut lines: Vec<String> =
        exemplars.iter().map(|times| format!("exemplars {} .. {}", times.min_time, times.max_time)).collect();
    let others = [
        ("rules", info.rules.is_some()),
        ("targets", info.targets.is_some()),
        ("metric_metadata", info.metric_metadata.is_some()),
        ("status", info.status.is_some()),
        ("query", info.query.is_some()),
    ];
    lines.extend(others.iter().filter(|(_, there)| *there).map(|(name, _)| (*name).to_owned()));
    lines
}

/// In the order in which they came: it is part of the answer.
fn labels(set: &ZLabelSet) -> String {
    let pairs: Vec<String> = set.labels.iter().map(|label| format!("{}={:?}", label.name, label.value)).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// As cases write times: seconds after the start of the data where it is near.
pub fn time(ms: i64) -> String {
    match ms.checked_sub(DATA_START_MS) {
        _ if ms == i64::MAX => "max".into(),
        Some(after) if (0..360_000_000).contains(&after) && after % 1000 == 0 => format!("{}s", after / 1000),
        Some(after) if (0..360_000_000).contains(&after) => format!("{after}ms"),
        _ => format!("ms:{ms}"),
    }
}

/// A label set of a series as it came.
pub fn series_labels(series: &pillion_proto::thanos_types::Series) -> Labels {
    Labels::new(series.labels.iter().map(|label| (label.name.as_str(), label.value.as_str())))
}
