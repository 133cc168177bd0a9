//! The memory of abuse across connections, since a client that was closed simply comes back: new connections from its
//! address are admitted slowly and share a small budget of resets. Established connections are untouched, and honest
//! clients behind the same address are served, only later. Pure: time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use pillion_http::h2::{Rate, TokenBucket};

/// How long an address stays suspect after its last offence.
const SUSPECT_FOR: Duration = Duration::from_secs(60);
/// Time between two connections admitted from a suspect address.
const ADMIT_EVERY: Duration = Duration::from_millis(500);
/// A connection that would have to wait longer is refused. Clients give a connection 20 s.
const ADMIT_WAIT_MAX: Duration = Duration::from_secs(8);
/// Resets of all connections that were admitted from one suspect address.
const SUSPECT_RESETS: Rate = Rate { burst: 40.0, per_second: 20.0 };
/// Resets of all other connections from one address, so that many connections within their own budgets cannot add up.
const ADDRESS_RESETS: Rate = Rate { burst: 1000.0, per_second: 100.0 };
/// Addresses remembered of each kind.
const ADDRESSES_MAX: usize = 4096;

/// What becomes of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Nothing is known against its address.
    Now,
    /// It may begin at this time, under the rules for suspects.
    Suspect(Instant),
    /// Too many are waiting already.
    Refused,
}

#[derive(Debug)]
struct Suspect {
    until: Instant,
    next: Instant,
    resets: TokenBucket,
}

/// The memory.
#[derive(Debug)]
pub(super) struct Brake {
    suspects: HashMap<IpAddr, Suspect>,
    /// The budgets of addresses that are not suspect, or were not when their connections were admitted.
    resets: HashMap<IpAddr, TokenBucket>,
}

impl Brake {
    /// No address is suspect.
    pub(super) fn new() -> Self {
        Brake { suspects: HashMap::new(), resets: HashMap::new() }
    }

    /// Decides about a new connection from `address`.
    pub(super) fn admit(&mut self, now: Instant, address: IpAddr) -> Admission {
        let address = network(address);
        let Some(suspect) = self.suspects.get_mut(&address) else { return Admission::Now };
        if now >= suspect.until {
            self.suspects.remove(&address);
            return Admission::Now;
        }
        let at = suspect.next.max(now);
        if at.saturating_duration_since(now) > ADMIT_WAIT_MAX {
            return Admission::Refused;
        }
        suspect.next = at + ADMIT_EVERY;
        Admission::Suspect(at)
    }

    /// Remembers that a connection from `address` was closed for abuse.
    pub(super) fn punish(&mut self, now: Instant, address: IpAddr) {
        let address = network(address);
        if !self.suspects.contains_key(&address) && self.suspects.len() >= ADDRESSES_MAX {
            self.suspects.retain(|_, suspect| now < suspect.until);
            let first = self.suspects.iter().min_by_key(|(_, suspect)| suspect.until).map(|(address, _)| *address);
            if let Some(first) = first.filter(|_| self.suspects.len() >= ADDRESSES_MAX) {
                self.suspects.remove(&first);
            }
        }
        let resets = TokenBucket::new(SUSPECT_RESETS, now);
        let suspect = self.suspects.entry(address).or_insert(Suspect { until: now, next: now + ADMIT_EVERY, resets });
        suspect.until = now + SUSPECT_FOR;
    }

    /// Accounts for `n` resets of a connection; false when the connection is to be closed. `was_suspect`: as admitted.
    pub(super) fn resets(&mut self, now: Instant, address: IpAddr, n: u32, was_suspect: bool) -> bool {
        let address = network(address);
        if let Some(suspect) = self.suspects.get_mut(&address).filter(|_| was_suspect) {
            return suspect.resets.take(now, n.into());
        }
        if !self.resets.contains_key(&address) && self.resets.len() >= ADDRESSES_MAX {
            self.resets.retain(|_, bucket| !bucket.is_full(now));
            let any = self.resets.keys().next().copied().filter(|_| self.resets.len() >= ADDRESSES_MAX);
            any.map(|address| self.resets.remove(&address));
        }
        self.resets.entry(address).or_insert_with(|| TokenBucket::new(ADDRESS_RESETS, now)).take(now, n.into())
    }
}

/// What one client can change at will is cut off: of an IPv6 address the lower half.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_suspect_waits_and_others_do_not() {
        let start = Instant::now();
        let mut brake = Brake::new();
        assert_eq!(brake.admit(start, ip("10.0.0.1")), Admission::Now);
        brake.punish(start, ip("10.0.0.1"));
        brake.punish(start, ip("2001:db8::1"));
        let wait = |n| Admission::Suspect(start + ADMIT_EVERY * n);
        assert_eq!([1, 2, 3].map(|_| brake.admit(start, ip("10.0.0.1"))), [1, 2, 3].map(wait));
        assert_eq!(brake.admit(start, ip("::ffff:10.0.0.1")), wait(4), "the same address, mapped");
        assert_eq!(brake.admit(start, ip("2001:db8::2")), wait(1), "the same network");
        assert_eq!(brake.admit(start, ip("10.0.0.2")), Admission::Now);
        let last = (0..100).map(|_| brake.admit(start, ip("10.0.0.1"))).last();
        assert_eq!(last, Some(Admission::Refused));
        assert_eq!(brake.admit(start + SUSPECT_FOR, ip("10.0.0.1")), Admission::Now);
    }

    #[test]
    fn connections_of_a_suspect_share_a_budget_and_earlier_ones_keep_theirs() {
        let start = Instant::now();
        let mut brake = Brake::new();
        let address = ip("10.0.0.1");
        assert!(brake.resets(start, address, 100, false));
        brake.punish(start, address);
        assert!(brake.resets(start, address, 20, true) && brake.resets(start, address, 20, true));
        assert!(!brake.resets(start, address, 1, true));
        assert!(brake.resets(start, address, 100, false));
    }

    #[test]
    fn many_modest_connections_of_one_address_do_not_add_up() {
        let start = Instant::now();
        let mut brake = Brake::new();
        let refused_in = |brake: &mut Brake, second: u64, n_connections: u32, address: &str| {
            let now = start + Duration::from_secs(second);
            (0..n_connections).filter(|_| !brake.resets(now, ip(address), 19, false)).count()
        };
        // Each of the connections stays within its own 20 resets per second.
        let refused: Vec<_> = (0..20).map(|second| refused_in(&mut brake, second, 60, "10.0.0.1")).collect();
        assert!(refused[5..].iter().all(|n| *n > 40), "{refused:?}");
        let refused: Vec<_> = (0..20).map(|second| refused_in(&mut brake, second, 5, "10.0.0.2")).collect();
        assert_eq!(refused, [0; 20]);
    }

    #[test]
    fn the_memory_is_bounded() {
        let start = Instant::now();
        let mut brake = Brake::new();
        for n in 0..10_000_u32 {
            let now = start + Duration::from_millis(n.into());
            brake.punish(now, IpAddr::V4(n.into()));
            brake.resets(now, IpAddr::V4(n.into()), 1000, false);
        }
        assert_eq!((brake.suspects.len(), brake.resets.len() <= ADDRESSES_MAX), (ADDRESSES_MAX, true));
        assert_ne!(brake.admit(start + Duration::from_secs(10), IpAddr::V4(9_999.into())), Admission::Now);
    }
}
