//! The figures that say whether blocks are being shipped in time, computed from what waits. Pure.

use super::backlog;

/// A block that waits to be shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Start of its samples. `Units:` ms since 1970.
    pub min_time_ms: i64,
    /// End of its samples. `Units:` ms since 1970.
    pub max_time_ms: i64,
    /// Size of its files.
    pub bytes: u64,
}

impl From<&backlog::Pending> for Pending {
    fn from(block: &backlog::Pending) -> Self {
        Pending { min_time_ms: block.min_time_ms, max_time_ms: block.max_time_ms, bytes: block.bytes }
    }
}

/// The figures, as the metrics show them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Blocks that wait.
    pub n_blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Seconds since the end of the oldest one; 0 when none waits.
    pub oldest_age_s: f64,
    /// Seconds until Prometheus's time retention may delete the oldest one, below 0 once it may have. Infinite when none
    /// waits. Not a number when one waits and no time is known: neither "soon" nor "never" would be true.
    pub retention_s: f64,
}

impl Truth {
    /// `retention_ms` is how long Prometheus keeps blocks, as far as it keeps them by time.
    ///
    /// Prometheus counts the retention from the end of its newest block. That is never later than now, so the time that
    /// is left is never less than is said here.
    pub fn new(pending: &[Pending], now_ms: i64, retention_ms: Option<i64>) -> Self {
        let seconds = |ms: i64| ms as f64 / 1000.0;
        let n_blocks = pending.len() as u64;
        let bytes = pending.iter().fold(0_u64, |sum, block| sum.saturating_add(block.bytes));
        let Some(oldest_end_ms) = pending.iter().map(|block| block.max_time_ms).min() else {
            return Truth { n_blocks, bytes, oldest_age_s: 0.0, retention_s: f64::INFINITY };
        };
        let left_ms = |retention_ms| oldest_end_ms.saturating_add(retention_ms).saturating_sub(now_ms);
        Truth {
            n_blocks,
            bytes,
            // A block that ends in the future is not older than now.
            oldest_age_s: seconds(now_ms.saturating_sub(oldest_end_ms).max(0)),
            retention_s: retention_ms.map_or(f64::NAN, |retention_ms| seconds(left_ms(retention_ms))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let check = |pending: &[(i64, i64, u64)], retention_ms: Option<i64>, expected: (u64, u64, f64, f64)| {
            let pending: Vec<Pending> = pending
                .iter()
                .map(|&(min_time_ms, max_time_ms, bytes)| Pending { min_time_ms, max_time_ms, bytes })
                .collect();
            let truth = Truth::new(&pending, 100_000, retention_ms);
            let got = (truth.n_blocks, truth.bytes, truth.oldest_age_s, truth.retention_s);
            // Not a number is not equal to itself, and is printed all the same.
            assert_eq!(format!("{got:?}"), format!("{expected:?}"), "{pending:?}");
        };
        let inf = f64::INFINITY;
        check(&[], Some(50_000), (0, 0, 0.0, inf));
        check(&[], None, (0, 0, 0.0, inf));
        check(&[(10_000, 20_000, 7)], Some(200_000), (1, 7, 80.0, 120.0));
        check(&[(10_000, 20_000, 7)], None, (1, 7, 80.0, f64::NAN));
        // The oldest may stand anywhere.
        check(&[(80_000, 90_500, 1), (10_000, 20_000, 7)], Some(200_000), (2, 8, 80.0, 120.0));
        // Past the retention.
        check(&[(0, 10_000, 1)], Some(30_000), (1, 1, 90.0, -60.0));
        // From the future, and impossible.
        check(&[(110_000, 120_000, 1)], Some(30_000), (1, 1, 0.0, 50.0));
        check(&[(i64::MIN, i64::MAX, u64::MAX), (0, i64::MAX, 1)], None, (2, u64::MAX, 0.0, f64::NAN));
    }
}
