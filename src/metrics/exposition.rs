//! Metrics as text, in Prometheus's format 0.0.4 or in that of OpenMetrics 1.0.0, written as Go's client does: the bounds of
//! histograms are label values, and spelled in another way they would be other series. Pure.

use std::borrow::Cow;
use std::fmt::Write;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::exemplars::{Exemplar, Exemplars};
use super::negotiation::Format;

/// Appends all families that have something in them. Only OpenMetrics has room for exemplars.
pub(super) fn write(families: &[MetricFamily], exemplars: &Exemplars, format: Format, page: &mut String) {
    for family in families.iter().filter(|family| !family.get_metric().is_empty()) {
        let name = family.name();
        let is_counter = family.get_field_type() == MetricType::COUNTER;
        // In OpenMetrics the suffix belongs to the sample, not to the family.
        let family_name = match name.strip_suffix("_total") {
            Some(family) if is_counter && format == Format::OpenMetrics => family,
            _ => name,
        };
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            // Nothing here declares one.
            MetricType::SUMMARY | MetricType::UNTYPED => continue,
        };
        if !family.help().is_empty() {
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(page, "# HELP {family_name} {}", escaped(family.help(), format == Format::OpenMetrics));
        }
        let _ = writeln!(page, "# TYPE {family_name} {kind}");
        for metric in family.get_metric() {
            let value = match kind {
                "counter" => metric.get_counter().get_value(),
                "gauge" => metric.get_gauge().get_value(),
                _ => {
                    histogram(page, name, metric, exemplars, format);
                    continue;
                }
            };
            sample(page, name, "", metric, None, &number(value, format));
            page.push('\n');
        }
    }
    if format == Format::OpenMetrics {
        page.push_str("# EOF\n");
    }
}

#[allow(clippy::cast_precision_loss)] // Counts are floats in the older format.
fn histogram(page: &mut String, name: &str, metric: &Metric, exemplars: &Exemplars, format: Format) {
    let histogram = metric.get_histogram();
    let n = histogram.get_sample_count();
    let count = |n: u64| match format {
        Format::Text => go_float(n as f64),
        Format::OpenMetrics => n.to_string(),
    };
    let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound() < f64::INFINITY);
    let bounds = finite.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let of_metric = match format {
        Format::Text => Vec::new(),
        Format::OpenMetrics => exemplars.of(name, metric.get_label()),
    };
    for (idx, (bound, below)) in bounds.chain([(f64::INFINITY, n)]).enumerate() {
        sample(page, name, "_bucket", metric, Some(&number(bound, format)), &count(below));
        if let Some(Some(exemplar)) = of_metric.get(idx) {
            push_exemplar(page, exemplar);
        }
        page.push('\n');
    }
    sample(page, name, "_sum", metric, None, &number(histogram.get_sample_sum(), format));
    page.push('\n');
    sample(page, name, "_count", metric, None, &count(n));
    page.push('\n');
}

fn push_exemplar(page: &mut String, exemplar: &Exemplar) {
    let Exemplar { trace_id, value, at_s } = exemplar;
    let trace_id = escaped(trace_id, true);
    let value = number(*value, Format::OpenMetrics);
    let _ = write!(page, " # {{trace_id=\"{trace_id}\"}} {value} {at_s:.3}");
}

/// A sample without the end of its line.
fn sample(page: &mut String, name: &str, suffix: &str, metric: &Metric, bound: Option<&str>, value: &str) {
    page.push_str(name);
    page.push_str(suffix);
    let mut separator = '{';
    for label in metric.get_label() {
        push_label(page, separator, label);
        separator = ',';
    }
    if let Some(bound) = bound {
        let _ = write!(page, "{separator}le=\"{bound}\"");
        separator = ',';
    }
    if separator == ',' {
        page.push('}');
    }
    let _ = write!(page, " {value}");
}

fn push_label(page: &mut String, separator: char, label: &LabelPair) {
    let _ = write!(page, "{separator}{}=\"{}\"", label.name(), escaped(label.value(), true));
}

/// Help texts and label values: `\` and line feeds are escaped in both, quotes in values.
fn escaped(text: &str, quotes: bool) -> Cow<'_, str> {
    if !text.contains(['\\', '\n', '"']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// A number; OpenMetrics wants to see that it is no integer.
fn number(value: f64, format: Format) -> String {
    let text = go_float(value);
    if format == Format::OpenMetrics && !text.contains(['.', 'e', 'N', 'I']) { format!("{text}.0") } else { text }
}

/// The shortest digits that give the number back, with an exponent below 1e-4 and from 1e6 on: `0.001`, `100000`, `1e+06`.
///
/// `Source:` Go's `strconv.FormatFloat(v, 'g', -1, 64)`, and `expfmt` for what is no number.
fn go_float(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        }
        .into();
    }
    let scientific = format!("{value:e}");
    match scientific.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntGaugeVec, Opts, Registry};

    #[test]
    fn floats_are_spelled_as_go_spells_them() {
        let table = include_str!("../../tests/data/go_floats.txt");
        let mut n = 0;
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let (bits, expected) = line.split_once(' ').unwrap();
            let value = f64::from_bits(u64::from_str_radix(bits, 16).unwrap());
            assert_eq!(go_float(value), expected, "{bits}");
            n += 1;
        }
        assert!(n > 900, "{n}");
        assert_eq!([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(go_float), ["NaN", "+Inf", "-Inf"]);
    }

    #[test]
    fn a_page_is_what_go_writes() {
        let registry = Registry::new();
        let bounds = vec![0.3, 1.0, 1e5, 1e6, f64::INFINITY];
        let histogram = Histogram::with_opts(HistogramOpts::new("h", "Of \"it\" \\ in\ntwo.").buckets(bounds)).unwrap();
        [0.5, 2e5, 3e9].iter().for_each(|value| histogram.observe(*value));
        let gauge = IntGaugeVec::new(Opts::new("g", "Of.").const_label("a", "x\"\\\n"), &["b"]).unwrap();
        gauge.with_label_values(&["é"]).set(1_234_567);
        registry.register(Box::new(histogram)).unwrap();
        registry.register(Box::new(gauge)).unwrap();
        let empty = IntGaugeVec::new(Opts::new("e", "empty"), &["b"]).unwrap();
        registry.register(Box::new(empty)).unwrap();
        let mut page = String::new();
        write(&registry.gather(), &Exemplars::default(), Format::Text, &mut page);
        let expected = r#"# HELP g Of.
# TYPE g gauge
g{a="x\"\\\n",b="é"} 1.234567e+06
# HELP h Of "it" \\ in\ntwo.
# TYPE h histogram
h_bucket{le="0.3"} 0
h_bucket{le="1"} 1
h_bucket{le="100000"} 1
h_bucket{le="1e+06"} 2
h_bucket{le="+Inf"} 3
h_sum 3.0002000005e+09
h_count 3
"#;
        assert_eq!(page, expected);
    }

    /// `expected` is what Go's client of Prometheus 1.20 writes of the same metrics, but for the exemplar's time.
    #[test]
    fn open_metrics_has_exemplars_and_an_end() {
        let registry = Registry::new();
        let opts = HistogramOpts::new("h", "Of \"it\".").buckets(vec![0.3, 1.0, 1e6]);
        let histogram = HistogramVec::new(opts, &["m"]).unwrap();
        [0.5, 3e9].iter().for_each(|value| histogram.with_label_values(&["a"]).observe(*value));
        let counter = IntCounter::with_opts(Opts::new("c_total", "Counted.")).unwrap();
        counter.inc_by(3);
        registry.register(Box::new(histogram)).unwrap();
        registry.register(Box::new(counter)).unwrap();
        let exemplars = Exemplars::default();
        exemplars.put(
            "h",
            &[("m", "a")],
            &[0.3, 1.0, 1e6],
            Exemplar { trace_id: "0af7".into(), value: 0.5, at_s: 7.25 },
        );
        exemplars.put(
            "h",
            &[("m", "a")],
            &[0.3, 1.0, 1e6],
            Exemplar { trace_id: "1bf8".into(), value: 3e9, at_s: 8.0 },
        );
        let mut page = String::new();
        write(&registry.gather(), &exemplars, Format::OpenMetrics, &mut page);
        let expected = r#"# HELP c Counted.
# TYPE c counter
c_total 3.0
# HELP h Of \"it\".
# TYPE h histogram
h_bucket{m="a",le="0.3"} 0
h_bucket{m="a",le="1.0"} 1 # {trace_id="0af7"} 0.5 7.250
h_bucket{m="a",le="1e+06"} 1
h_bucket{m="a",le="+Inf"} 2 # {trace_id="1bf8"} 3e+09 8.000
h_sum{m="a"} 3.0000000005e+09
h_count{m="a"} 2
# EOF
"#;
        assert_eq!(page, expected);
    }
}
