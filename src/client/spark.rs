//! A line of block characters for the course of a series. Pure.

use pillion_read::xor::Sample;

/// A sparkline has at most this many characters.
const SPARK_WIDTH: usize = 40;
const SPARK_BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The course of the values over time. A gap in time is a blank, and `·` stands where there is no finite value.
pub(crate) fn sparkline(samples: &[Sample]) -> String {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return String::new() };
    let width = samples.len().min(SPARK_WIDTH);
    let span = i128::from(last.time_ms) - i128::from(first.time_ms) + 1;
    // Per column: how many samples, and the mean of the finite ones; halved, so that no difference overflows.
    let mut columns: Vec<(u32, Option<(f64, f64)>)> = vec![(0, None); width];
    for sample in samples {
        let offset = i128::from(sample.time_ms) - i128::from(first.time_ms);
        let column = usize::try_from(offset * width as i128 / span).unwrap_or(0).min(width - 1);
        let Some((n_samples, mean)) = columns.get_mut(column) else { continue };
        *n_samples += 1;
        if sample.value.is_finite() {
            let (n, old) = mean.unwrap_or((0.0, 0.0));
            *mean = Some((n + 1.0, old + (sample.value / 2.0 - old) / (n + 1.0)));
        }
    }
    let finite = || columns.iter().filter_map(|(_, mean)| mean.map(|(_, mean)| mean));
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    columns
        .iter()
        .map(|column| match column {
            (0, _) => ' ',
            (_, None) => '·',
            (_, Some((_, mean))) => block((mean - low) / (high - low)),
        })
        .collect()
}

/// The block for a height between 0 and 1; a flat line (0 / 0) lies in the middle.
fn block(height: f64) -> char {
    let steps = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0].iter().filter(|step| height * 8.0 >= **step).count();
    let idx = if height.is_nan() { 3 } else { steps };
    SPARK_BLOCKS.get(idx).copied().unwrap_or(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Vec<Sample> {
        let times = (0..).map(|idx| 1_700_000_000_000 + idx * 15_500);
        times.zip(values).map(|(time_ms, value)| Sample { time_ms, value: *value }).collect()
    }

    #[test]
    fn sparklines() {
        let check = |values: &[f64], expected: &str| assert_eq!(sparkline(&samples(values)), expected, "{values:?}");
        check(&[], "");
        check(&[5.0], "▄");
        check(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█");
        check(&[1.0, f64::NAN, f64::INFINITY, 3.0], "▁··█");
        check(&[f64::MIN, f64::MAX, 0.0], "▁█▅");
        check(&[f64::NAN], "·");
        let long: Vec<f64> = (0..1000).map(f64::from).collect();
        let line = sparkline(&samples(&long));
        assert_eq!(line.chars().count(), 40);
        assert!(line.starts_with("▁▁▁▁▁▂") && line.ends_with("▇█████"), "{line}");
        let mut gap = samples(&[1.0, 2.0, 3.0, 4.0]);
        gap[3].time_ms += 1_000_000;
        assert_eq!(sparkline(&gap), "▁  █");
        gap[0].time_ms = i64::MIN;
        gap[3].time_ms = i64::MAX;
        assert_eq!(sparkline(&gap).chars().count(), 4);
    }
}
