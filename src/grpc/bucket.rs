//! A token bucket: bursts up to its size, and a steady rate beyond. Pure: time is an argument.

use std::time::Instant;

/// Size and refill of a [`Bucket`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tokens it holds when full.
    pub burst: f64,
    /// Tokens it gains per second.
    pub per_second: f64,
}

/// The bucket. It starts full.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Bucket { rate, tokens: rate.burst, filled: now }
    }

    /// Takes `cost` tokens; false, with nothing taken, when there are fewer.
    pub fn take(&mut self, now: Instant, cost: f64) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.give(passed * self.rate.per_second);
        let enough = self.tokens >= cost;
        if enough {
            self.tokens -= cost;
        }
        enough
    }

    /// Adds tokens, up to the burst.
    pub fn give(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(self.rate.burst);
    }

    /// Whether nothing was taken lately.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.take(now, 0.0) && self.tokens >= self.rate.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { burst: 3.0, per_second: 2.0 }, start);
        assert_eq!([1, 2, 3, 4].map(|_| bucket.take(start, 1.0)), [true, true, true, false]);
        let later = start + Duration::from_millis(500);
        assert_eq!([1, 2].map(|_| bucket.take(later, 1.0)), [true, false]);
        assert!(!bucket.is_full(later) && bucket.is_full(later + Duration::from_secs(2)));
        bucket.give(100.0);
        assert!(bucket.take(start, 3.0) && !bucket.take(start, 0.5), "a clock that steps back gives nothing");
    }
}
