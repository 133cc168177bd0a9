//! Metrics as text, in Prometheus's format 0.0.4, written as Go's client does: the bounds of histograms are label values, and
//! spelled in another way they would be other series. Pure.

use std::borrow::Cow;
use std::fmt::Write;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// Appends all families that have something in them.
pub(super) fn write(families: &[MetricFamily], page: &mut String) {
    for family in families.iter().filter(|family| !family.get_metric().is_empty()) {
        let name = family.name();
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            // Nothing here declares one.
            MetricType::SUMMARY | MetricType::UNTYPED => continue,
        };
        if !family.help().is_empty() {
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(page, "# HELP {name} {}", escaped(family.help(), false));
        }
        let _ = writeln!(page, "# TYPE {name} {kind}");
        for metric in family.get_metric() {
            match kind {
                "counter" => sample(page, name, "", metric, None, metric.get_counter().get_value()),
                "gauge" => sample(page, name, "", metric, None, metric.get_gauge().get_value()),
                _ => histogram(page, name, metric),
            }
        }
    }
}

#[allow(clippy::cast_precision_loss)] // Counts are floats in this format.
fn histogram(page: &mut String, name: &str, metric: &Metric) {
    let histogram = metric.get_histogram();
    let n = histogram.get_sample_count() as f64;
    let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound() < f64::INFINITY);
    let bounds = finite.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count() as f64));
    for (bound, below) in bounds.chain([(f64::INFINITY, n)]) {
        sample(page, name, "_bucket", metric, Some(bound), below);
    }
    sample(page, name, "_sum", metric, None, histogram.get_sample_sum());
    sample(page, name, "_count", metric, None, n);
}

fn sample(page: &mut String, name: &str, suffix: &str, metric: &Metric, bound: Option<f64>, value: f64) {
    page.push_str(name);
    page.push_str(suffix);
    let mut separator = '{';
    for label in metric.get_label() {
        push_label(page, separator, label);
        separator = ',';
    }
    if let Some(bound) = bound {
        let _ = write!(page, "{separator}le=\"{}\"", go_float(bound));
        separator = ',';
    }
    if separator == ',' {
        page.push('}');
    }
    let _ = writeln!(page, " {}", go_float(value));
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
    use prometheus::{Histogram, HistogramOpts, IntGaugeVec, Opts, Registry};

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
        write(&registry.gather(), &mut page);
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
}
