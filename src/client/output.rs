//! Text and JSON for people and for scripts. Pure.
//!
//! Text that came from the server is quoted, so that it cannot move the terminal's cursor.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::spark::sparkline;
use super::view::View;
use pillion_proto::thanos_info::InfoResponse;
use pillion_proto::thanos_types::ZLabelSet;
use pillion_read::selector::{label_text, selector_text};
use pillion_read::xor::Sample;

/// How series are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// Every sample, not only the first and the last.
    pub samples: bool,
    /// Chunks were not asked for: there is nothing to say about samples.
    pub labels_only: bool,
}

/// One series as a line, and with [`Style::samples`] one more line per sample. Ends with a line break.
pub(crate) fn series_text(view: &View, style: Style) -> String {
    let mut text = selector_text(&view.labels);
    if style.labels_only {
        text.push('\n');
        return text;
    }
    let n_stale = view.samples.iter().filter(|sample| sample.is_stale()).count();
    if !view.samples.is_empty() || view.counted.is_empty() {
        text.push_str(&format!("  {}", counted(view.samples.len() as u64, "sample")));
    }
    if n_stale > 0 {
        text.push_str(&format!(" ({n_stale} stale)"));
    }
    if let (Some(first), Some(last)) = (view.samples.first(), view.samples.last()) {
        text.push_str(&format!("  {} {}", time_text(first.time_ms), value_text(first)));
        text.push_str(&format!(" … {} {}", time_text(last.time_ms), value_text(last)));
        text.push_str(&format!("  {}", sparkline(&view.samples)));
    }
    for (name, count) in &view.counted {
        let samples = match count.n_samples {
            Some(n_samples) => counted(n_samples, &format!("{name} sample")),
            None => format!("? {name} samples"),
        };
        text.push_str(&format!("  {samples} in {}, not decoded", counted(count.n_chunks, "chunk")));
    }
    text.push('\n');
    if style.samples {
        for sample in &view.samples {
            text.push_str(&format!("  {} {}\n", time_text(sample.time_ms), value_text(sample)));
        }
    }
    text
}

/// One series as a JSON object on one line.
///
/// `Shape:` `{"labels":{…},"chunks":2,"samples":240,"stale":0,"first":[1700000000,"1"],"last":[1700003600.5,"NaN"],
/// "values":[[…],…],"not_decoded":{"histogram":{"chunks":1,"samples":120}}}`. Times are seconds and values strings, as
/// in Prometheus's HTTP API; a staleness marker is `"stale"`. `samples` is null where they cannot be counted. `first` and `last` are absent without float samples,
/// `values` without [`Style::samples`], and everything but `labels` when chunks were not asked for.
pub(crate) fn series_json(view: &View, style: Style) -> String {
    let mut object = Map::new();
    object.insert("labels".into(), labels_json(view.labels.iter().map(|(n, v)| (n.as_str(), v.as_str()))));
    if !style.labels_only {
        object.insert("chunks".into(), view.n_chunks.into());
        object.insert("samples".into(), view.n_samples().into());
        object.insert("stale".into(), view.samples.iter().filter(|sample| sample.is_stale()).count().into());
        if let (Some(first), Some(last)) = (view.samples.first(), view.samples.last()) {
            object.insert("first".into(), sample_json(first));
            object.insert("last".into(), sample_json(last));
        }
        if style.samples {
            object.insert("values".into(), view.samples.iter().map(sample_json).collect());
        }
        if !view.counted.is_empty() {
            let counts = view
                .counted
                .iter()
                .map(|(name, count)| (name.clone(), json!({ "chunks": count.n_chunks, "samples": count.n_samples })));
            object.insert("not_decoded".into(), Value::Object(counts.collect()));
        }
    }
    format!("{}\n", Value::Object(object))
}

/// What a store says about itself, a line per fact.
pub(crate) fn info_text(store: &str, info: &InfoResponse) -> String {
    let mut rows = vec![("store", store.to_owned()), ("component", quote_controls(&info.ComponentType))];
    rows.extend(info.label_sets.iter().map(|labels| ("labels", labels_text(labels))));
    if let Some(store) = info.store.as_ref() {
        rows.push(("min time", time_text(store.min_time)));
        rows.push(("max time", time_text(store.max_time)));
        rows.extend(store.tsdb_infos.iter().map(|tsdb| {
            let range = format!("{} to {}", time_text(tsdb.min_time), time_text(tsdb.max_time));
            ("tsdb", format!("{} {range}", tsdb.labels.as_ref().map(labels_text).unwrap_or_default()))
        }));
        rows.push(("sharding", yes_no(store.supports_sharding)));
        rows.push(("drops replica labels", yes_no(store.supports_without_replica_labels)));
        rows.push(("projections", yes_no(store.supports_projections)));
    }
    rows.push(("services", services(info).join(" ")));
    rows.iter().map(|(name, value)| format!("{name:<22}{value}\n")).collect()
}

/// What a store says about itself, as one JSON object on one line.
///
/// `Shape:` `{"store":"host:port","component":"sidecar","label_sets":[{…}],"min_time_ms":0,"max_time_ms":0,
/// "supports_sharding":true,"supports_without_replica_labels":true,"supports_projections":false,
/// "tsdb_infos":[{"labels":{…},"min_time_ms":0,"max_time_ms":0}],"services":["store",…]}`. The members from
/// `min_time_ms` to `tsdb_infos` are absent when the component has no StoreAPI.
pub(crate) fn info_json(store: &str, info: &InfoResponse) -> String {
    let mut object = Map::new();
    object.insert("store".into(), store.into());
    object.insert("component".into(), info.ComponentType.clone().into());
    object.insert("label_sets".into(), info.label_sets.iter().map(label_set_json).collect());
    if let Some(store) = info.store.as_ref() {
        object.insert("min_time_ms".into(), store.min_time.into());
        object.insert("max_time_ms".into(), store.max_time.into());
        object.insert("supports_sharding".into(), store.supports_sharding.into());
        object.insert("supports_without_replica_labels".into(), store.supports_without_replica_labels.into());
        object.insert("supports_projections".into(), store.supports_projections.into());
        let tsdb_infos = store.tsdb_infos.iter().map(|tsdb| {
            let labels = tsdb.labels.as_ref().map_or_else(|| json!({}), label_set_json);
            json!({ "labels": labels, "min_time_ms": tsdb.min_time, "max_time_ms": tsdb.max_time })
        });
        object.insert("tsdb_infos".into(), tsdb_infos.collect());
    }
    object.insert("services".into(), services(info).into());
    format!("{}\n", Value::Object(object))
}

/// Text from the server with its control characters escaped.
pub(crate) fn quote_controls(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

fn services(info: &InfoResponse) -> Vec<&'static str> {
    let present = [
        ("store", info.store.is_some()),
        ("rules", info.rules.is_some()),
        ("metadata", info.metric_metadata.is_some()),
        ("targets", info.targets.is_some()),
        ("exemplars", info.exemplars.is_some()),
        ("query", info.query.is_some()),
        ("status", info.status.is_some()),
    ];
    present.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

fn labels_text(labels: &ZLabelSet) -> String {
    let pairs: Vec<String> = labels.labels.iter().map(|label| label_text(&label.name, &label.value)).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn label_set_json(labels: &ZLabelSet) -> Value {
    labels_json(labels.labels.iter().map(|label| (label.name.as_str(), label.value.as_str())))
}

fn labels_json<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    Value::Object(labels.map(|(name, value)| (name.to_owned(), Value::from(value))).collect())
}

fn sample_json(sample: &Sample) -> Value {
    let seconds = match (sample.time_ms / 1000, sample.time_ms % 1000) {
        (seconds, 0) => Value::from(seconds),
        // Exact enough: the shortest decimal of the quotient is the time itself up to the year 287000.
        #[allow(clippy::cast_precision_loss)]
        _ => Value::from(sample.time_ms as f64 / 1000.0),
    };
    Value::Array(vec![seconds, value_text(sample).into()])
}

/// As Prometheus writes it, and `stale` for the staleness marker.
fn value_text(sample: &Sample) -> String {
    match sample.value {
        _ if sample.is_stale() => "stale".to_owned(),
        v if v == f64::INFINITY => "+Inf".to_owned(),
        v if v == f64::NEG_INFINITY => "-Inf".to_owned(),
        v if v != 0.0 && (v.abs() < 1e-6 || v.abs() >= 1e21) => exponent_text(v),
        v => v.to_string(),
    }
}

/// `1e+21`: a sign and at least two digits, as Prometheus's API writes very large and very small numbers.
fn exponent_text(value: f64) -> String {
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text,
    }
}

/// RFC 3339 in UTC; times at the edge of what Prometheus stores mean that there is no bound.
fn time_text(time_ms: i64) -> String {
    match time_ms {
        i64::MAX | i64::MIN => "unbounded".to_owned(),
        ms => Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string()),
    }
}

fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::view::Counted;
    use super::*;
    use pillion_read::xor::STALE_NAN_BITS;

    const SHORT: Style = Style { samples: false, labels_only: false };
    const FULL: Style = Style { samples: true, labels_only: false };
    const LABELS: Style = Style { samples: false, labels_only: true };

    fn samples(values: &[f64]) -> Vec<Sample> {
        let times = (0..).map(|idx| 1_700_000_000_000 + idx * 15_500);
        times.zip(values).map(|(time_ms, value)| Sample { time_ms, value: *value }).collect()
    }

    fn view(values: &[f64]) -> View {
        let labels = [("__name__", "up"), ("job", "a\"b\\"), ("späte.r", "x\n")];
        View {
            labels: labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            n_chunks: 1,
            samples: samples(values),
            counted: Default::default(),
        }
    }

    #[test]
    fn text_of_a_series() {
        let stale = f64::from_bits(STALE_NAN_BITS);
        let labels = r#"up{job="a\"b\\", "späte.r"="x\n"}"#;
        let view = view(&[1.0, 2.5, stale]);
        let line = "  3 samples (1 stale)  2023-11-14T22:13:20Z 1 … 2023-11-14T22:13:51Z stale  ▁█·\n";
        assert_eq!(series_text(&view, SHORT), format!("{labels}{line}"));
        let below = "  2023-11-14T22:13:20Z 1\n  2023-11-14T22:13:35.5Z 2.5\n  2023-11-14T22:13:51Z stale\n";
        assert_eq!(series_text(&view, FULL), format!("{labels}{line}{below}"));
        assert_eq!(series_text(&view, LABELS), format!("{labels}\n"));
    }

    #[test]
    fn text_of_a_series_without_float_samples() {
        let mut view = view(&[]);
        view.labels.truncate(1);
        assert_eq!(series_text(&view, FULL), "up  0 samples\n");
        view.counted.insert("histogram".into(), Counted { n_chunks: 1, n_samples: Some(120) });
        assert_eq!(series_text(&view, FULL), "up  120 histogram samples in 1 chunk, not decoded\n");
        view.counted = [("encoding 9".into(), Counted { n_chunks: 2, n_samples: None })].into();
        assert_eq!(series_text(&view, FULL), "up  ? encoding 9 samples in 2 chunks, not decoded\n");
        let json = series_json(&view, SHORT);
        assert!(json.contains(r#""not_decoded":{"encoding 9":{"chunks":2,"samples":null}},"samples":null"#), "{json}");
    }

    #[test]
    fn json_of_a_series() {
        let mut view = view(&[f64::NAN, -0.0, f64::INFINITY, 1e21, f64::from_bits(STALE_NAN_BITS)]);
        view.labels.truncate(1);
        view.counted.insert("float histogram".into(), Counted { n_chunks: 2, n_samples: Some(7) });
        let expected = concat!(
            r#"{"chunks":1,"first":[1700000000,"NaN"],"labels":{"__name__":"up"},"last":[1700000062,"stale"],"#,
            r#""not_decoded":{"float histogram":{"chunks":2,"samples":7}},"samples":12,"stale":1,"#,
            r#""values":[[1700000000,"NaN"],[1700000015.5,"-0"],[1700000031,"+Inf"],"#,
            r#"[1700000046.5,"1e+21"],[1700000062,"stale"]]}"#,
            "\n"
        );
        assert_eq!(series_json(&view, FULL), expected);
        assert!(!series_json(&view, SHORT).contains("values"));
        assert_eq!(series_json(&view, LABELS), "{\"labels\":{\"__name__\":\"up\"}}\n");
    }

    #[test]
    fn numbers_are_written_as_prometheus_writes_them() {
        let check = |value: f64, expected: &str| assert_eq!(value_text(&Sample { time_ms: 0, value }), expected);
        check(-1e-7, "-1e-07");
        check(1.5e-6, "0.0000015");
        check(-2.5e300, "-2.5e+300");
        check(1e20, "100000000000000000000");
        check(5e-324, "5e-324");
        check(0.0, "0");
        check(f64::NAN, "NaN");
    }

    #[test]
    fn info_in_both_forms() {
        use pillion_proto::thanos_info::{StoreInfo, TSDBInfo};
        use pillion_proto::thanos_types::Label;
        let label = Label { name: "region".into(), value: "eu".into(), ..Default::default() };
        let labels = ZLabelSet { labels: vec![label], ..Default::default() };
        let tsdb = TSDBInfo { labels: Some(labels.clone()).into(), max_time: i64::MAX, ..Default::default() };
        let store =
            StoreInfo { max_time: i64::MAX, supports_sharding: true, tsdb_infos: vec![tsdb], ..Default::default() };
        let info = InfoResponse {
            label_sets: vec![labels],
            ComponentType: "side\u{1b}car".into(),
            store: Some(store).into(),
            ..Default::default()
        };
        let expected = "store                 h:1\ncomponent             side\\u{1b}car\nlabels                {region=\"eu\"}\n\
             min time              1970-01-01T00:00:00Z\nmax time              unbounded\n\
             tsdb                  {region=\"eu\"} 1970-01-01T00:00:00Z to unbounded\nsharding              yes\n\
             drops replica labels  no\nprojections           no\nservices              store\n";
        assert_eq!(info_text("h:1", &info), expected);
        let json: Value = serde_json::from_str(&info_json("h:1", &info)).unwrap();
        assert_eq!(json["label_sets"], json!([{ "region": "eu" }]));
        assert_eq!(json["tsdb_infos"][0]["max_time_ms"], json!(i64::MAX));
        assert_eq!(json["services"], json!(["store"]));
    }
}
