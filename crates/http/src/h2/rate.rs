//! A token bucket: bursts up to its size, and a steady rate beyond. Pure: time is an argument.

use std::time::Instant;

/// Size and refill of a [`TokenBucket`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tokens it holds when full.
    pub burst: f64,
    /// Tokens it gains per second.
    pub per_second: f64,
}

/// The bucket. It starts full.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: Rate,
    tokens: f64,
    /// Tokens that were earned beyond the burst.
    earned: f64,
    filled: Instant,
}

/// Most tokens that can be earned beyond the burst: answers to as many small frames can be on their way at once as fit a
/// large flow-control window.
const EARNED_MAX: f64 = 200_000.0;

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        TokenBucket { rate, tokens: rate.burst, earned: 0.0, filled: now }
    }

    /// Takes `cost` tokens; false, with nothing taken, when there are fewer.
    pub fn take(&mut self, now: Instant, cost: f64) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.give(passed * self.rate.per_second);
        let enough = self.tokens + self.earned >= cost;
        if enough {
            // What was earned goes first: what time gives is for surprises.
            let from_earned = cost.min(self.earned);
            self.earned -= from_earned;
            self.tokens -= cost - from_earned;
        }
        enough
    }

    /// Adds tokens that something the other side did has earned; unlike time they can add up beyond the burst.
    pub(super) fn earn(&mut self, tokens: f64) {
        self.earned = (self.earned + tokens).min(EARNED_MAX);
    }

    /// Whether a token is left of what was earned.
    pub(super) fn has_earned(&self) -> bool {
        self.earned >= 1.0
    }

    /// Adds tokens, up to the burst.
    fn give(&mut self, tokens: f64) {
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
        let mut bucket = TokenBucket::new(Rate { burst: 3.0, per_second: 2.0 }, start);
        assert_eq!([1, 2, 3, 4].map(|_| bucket.take(start, 1.0)), [true, true, true, false]);
        let later = start + Duration::from_millis(500);
        assert_eq!([1, 2].map(|_| bucket.take(later, 1.0)), [true, false]);
        assert!(!bucket.is_full(later) && bucket.is_full(later + Duration::from_secs(2)));
        bucket.give(100.0);
        assert!(bucket.take(start, 3.0) && !bucket.take(start, 0.5), "a clock that steps back gives nothing");
        bucket.earn(100.0);
        assert!(bucket.take(start, 100.0) && !bucket.take(start, 0.5), "what is earned adds up beyond the burst");
    }
}
