//! Buckets of tokens: for requests as a whole, and for wrong passwords by client address and in all. Reads no clock.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How many at once, and how long until one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    pub burst: u32,
    pub interval: Duration,
}

/// A bucket, full at first. Only the time at which it is full again is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(now: Instant) -> Self {
        Bucket { full_at: now }
    }

    /// Takes a token; false when there is none.
    pub(super) fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let full_at = self.full_at.max(now);
        let missing = full_at.saturating_duration_since(now);
        if missing.saturating_add(rate.interval) > rate.interval.saturating_mul(rate.burst) {
            return false;
        }
        // Past the end of time nothing is given.
        let Some(full_at) = full_at.checked_add(rate.interval) else { return false };
        self.full_at = full_at;
        true
    }

    /// Puts a token back.
    pub(super) fn give_back(&mut self, rate: Rate) {
        self.full_at = self.full_at.checked_sub(rate.interval).unwrap_or(self.full_at);
    }

    fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

/// Buckets by address, for a bounded number of addresses.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: Rate,
    addresses_max: usize,
    buckets: HashMap<IpAddr, Bucket>,
}

impl Throttle {
    /// One in which every address has a full bucket.
    pub(super) fn new(rate: Rate, addresses_max: usize) -> Self {
        Throttle { rate, addresses_max, buckets: HashMap::new() }
    }

    /// Takes a token of `address`.
    pub(super) fn take(&mut self, now: Instant, address: IpAddr) -> bool {
        let address = owner(address);
        if !self.buckets.contains_key(&address) && self.buckets.len() >= self.addresses_max {
            self.make_room(now);
        }
        self.buckets.entry(address).or_insert(Bucket::new(now)).take(now, self.rate)
    }

    /// Puts a token of `address` back.
    pub(super) fn give_back(&mut self, address: IpAddr) {
        if let Some(bucket) = self.buckets.get_mut(&owner(address)) {
            bucket.give_back(self.rate);
        }
    }

    /// Forgets who took nothing lately, else who took least.
    fn make_room(&mut self, now: Instant) {
        self.buckets.retain(|_, bucket| !bucket.is_full(now));
        if self.buckets.len() >= self.addresses_max
            && let Some(address) =
                self.buckets.iter().min_by_key(|(_, bucket)| bucket.full_at).map(|(address, _)| *address)
        {
            self.buckets.remove(&address);
        }
    }
}

/// Who counts as one client: an address of IPv4, or a network of 64 bits, which one holder of IPv6 has at least.
pub(super) fn owner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, interval: Duration::from_secs(2) };

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_for_each_interval() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let mut given = Vec::new();
        for second in [0, 0, 0, 0, 1, 2, 2, 3, 4, 60, 60, 60, 60] {
            given.push(bucket.take(start + Duration::from_secs(second), RATE));
        }
        let (t, f) = (true, false);
        assert_eq!(given, [t, t, t, f, f, t, f, f, t, t, t, t, f]);
        bucket.give_back(RATE);
        assert!(bucket.take(start + Duration::from_secs(60), RATE));
        // Whatever a file says, nothing overflows.
        for (burst, interval) in [(u32::MAX, Duration::MAX), (1, Duration::MAX), (0, Duration::ZERO)] {
            bucket.take(start, Rate { burst, interval });
        }
    }

    #[test]
    fn addresses_have_buckets_of_their_own_and_are_bounded() {
        let now = Instant::now();
        let mut throttle = Throttle::new(RATE, 4);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for _ in 0..3 {
            assert!(throttle.take(now, address("192.0.2.1")));
        }
        assert!(!throttle.take(now, address("192.0.2.1")));
        assert!(!throttle.take(now, address("::ffff:192.0.2.1")), "the same address in the clothes of IPv6");
        assert!(throttle.take(now, address("192.0.2.2")));
        for n in 0..3 {
            assert!(throttle.take(now, address(&format!("2001:db8::{n}"))));
        }
        assert!(!throttle.take(now, address("2001:db8::ffff")), "one network is one client");
        assert!(throttle.take(now, address("2001:db8:0:1::1")));
        for n in 0..100 {
            throttle.take(now, address(&format!("198.51.100.{n}")));
            assert!(throttle.buckets.len() <= 4);
        }
        assert!(!throttle.take(now, address("192.0.2.1")), "who took most is remembered longest");
    }
}
