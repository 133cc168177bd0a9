//! How far shipping is behind, and how much time is left before Prometheus deletes what waits. Pure.

use crate::backlog::PendingBlock;

/// The lag of the oldest block that waits, as the metrics show it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ShippingLag {
    /// Seconds since the end of the oldest block; 0 when none waits.
    pub(crate) oldest_age_s: f64,
    /// Seconds until Prometheus's time retention may delete the oldest block, below 0 once it may have. Infinite when
    /// none waits. NaN when one waits and no retention time is known: neither "soon" nor "never" would be true.
    pub(crate) retention_left_s: f64,
}

impl ShippingLag {
    /// `retention_ms` is how long Prometheus keeps blocks, if it keeps them by time.
    ///
    /// Prometheus counts the retention from the end of its newest block. That is never later than now, so the time that
    /// is left is never less than this figure says.
    pub(crate) fn new(pending: &[PendingBlock], now_ms: i64, retention_ms: Option<i64>) -> Self {
        let seconds = |ms: i64| ms as f64 / 1000.0;
        let Some(oldest_end_ms) = pending.iter().map(|block| block.max_time_ms).min() else {
            return ShippingLag { oldest_age_s: 0.0, retention_left_s: f64::INFINITY };
        };
        let left_ms = |retention_ms| oldest_end_ms.saturating_add(retention_ms).saturating_sub(now_ms);
        ShippingLag {
            // A block that ends in the future is not older than now.
            oldest_age_s: seconds(now_ms.saturating_sub(oldest_end_ms).max(0)),
            retention_left_s: retention_ms.map_or(f64::NAN, |retention_ms| seconds(left_ms(retention_ms))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backlog::tests::pending;

    #[test]
    fn figures() {
        let check = |ends_ms: &[i64], retention_ms: Option<i64>, expected: (f64, f64)| {
            let pending: Vec<PendingBlock> = ends_ms.iter().map(|end_ms| pending(*end_ms, 1)).collect();
            let lag = ShippingLag::new(&pending, 100_000, retention_ms);
            let got = (lag.oldest_age_s, lag.retention_left_s);
            // NaN is not equal to itself, and is printed all the same.
            assert_eq!(format!("{got:?}"), format!("{expected:?}"), "{pending:?}");
        };
        let inf = f64::INFINITY;
        check(&[], Some(50_000), (0.0, inf));
        check(&[], None, (0.0, inf));
        check(&[20_000], Some(200_000), (80.0, 120.0));
        check(&[20_000], None, (80.0, f64::NAN));
        // The oldest may stand anywhere.
        check(&[90_500, 20_000], Some(200_000), (80.0, 120.0));
        // Past the retention.
        check(&[10_000], Some(30_000), (90.0, -60.0));
        // From the future, and impossible.
        check(&[120_000], Some(30_000), (0.0, 50.0));
        check(&[i64::MAX, i64::MAX], None, (0.0, f64::NAN));
    }
}
