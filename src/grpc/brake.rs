//! The memory of abuse across connections, since a client that was closed simply comes back: new connections from its
//! address enter slowly, and all connections of an address share a budget of resets. Who completes calls is never closed
//! for what its neighbours do. Pure: time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use pillion_http::h2::{Rate, TokenBucket};

/// How long an address stays suspect after its last offence.
const SUSPECT_FOR: Duration = Duration::from_secs(60);
/// Time between two connections that enter from a suspect address. Each may cost the core 40 ms before it is closed.
const ENTER_EVERY: Duration = Duration::from_millis(250);
/// Resets of all connections that entered from one suspect address.
const SUSPECT_RESETS: Rate = Rate { burst: 640.0, per_second: 128.0 };
/// Resets of all other connections from one address, so that many connections within their own budgets cannot add up.
const ADDRESS_RESETS: Rate = Rate { burst: 1536.0, per_second: 1024.0 };
/// Addresses remembered of each kind.
const ADDRESSES_MAX: usize = 4096;

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
    /// The budgets of addresses that are not suspect, or were not when their connections entered.
    resets: HashMap<IpAddr, TokenBucket>,
}

impl Brake {
    /// No address is suspect.
    pub(super) fn new() -> Self {
        Brake { suspects: HashMap::new(), resets: HashMap::new() }
    }

    /// Whether connections from `address` are under the rules for suspects.
    pub(super) fn is_suspect(&mut self, now: Instant, address: IpAddr) -> bool {
        let address = network(address);
        let Some(suspect) = self.suspects.get(&address) else { return false };
        let is_suspect = now < suspect.until;
        if !is_suspect {
            self.suspects.remove(&address);
        }
        is_suspect
    }

    /// When the next connection from `address` may enter.
    pub(super) fn opens_at(&self, now: Instant, address: IpAddr) -> Instant {
        self.suspects.get(&network(address)).map_or(now, |suspect| suspect.next.max(now))
    }

    /// A connection from `address` enters now.
    pub(super) fn entered(&mut self, now: Instant, address: IpAddr) {
        if let Some(suspect) = self.suspects.get_mut(&network(address)) {
            suspect.next = now + ENTER_EVERY;
        }
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
        let suspect = self.suspects.entry(address).or_insert(Suspect { until: now, next: now + ENTER_EVERY, resets });
        suspect.until = now + SUSPECT_FOR;
    }

    /// Accounts for `n` resets of a connection; false when those from its address are too many. `was_suspect`: when it
    /// entered.
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
pub(super) fn network(address: IpAddr) -> IpAddr {
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
    fn suspects_enter_slowly_and_others_do_not_wait() {
        let start = Instant::now();
        let mut brake = Brake::new();
        let address = ip("10.0.0.1");
        assert_eq!((brake.is_suspect(start, address), brake.opens_at(start, address)), (false, start));
        brake.punish(start, address);
        brake.punish(start, ip("2001:db8::1"));
        assert!(brake.is_suspect(start, address) && brake.is_suspect(start, ip("::ffff:10.0.0.1")));
        assert!(brake.is_suspect(start, ip("2001:db8::2")), "the same network");
        assert!(!brake.is_suspect(start, ip("10.0.0.2")));
        assert_eq!(brake.opens_at(start, address), start + ENTER_EVERY);
        let later = start + Duration::from_secs(5);
        // Waiting for nothing is not saved up, and only who enters takes the turn.
        assert_eq!([1, 2].map(|_| brake.opens_at(later, address)), [later, later]);
        brake.entered(later, address);
        assert_eq!(brake.opens_at(later, address), later + ENTER_EVERY);
        assert!(!brake.is_suspect(start + SUSPECT_FOR, address));
        assert_eq!(brake.opens_at(start + SUSPECT_FOR, address), start + SUSPECT_FOR);
    }

    #[test]
    fn connections_of_a_suspect_share_a_budget_and_earlier_ones_keep_theirs() {
        let start = Instant::now();
        let mut brake = Brake::new();
        let address = ip("10.0.0.1");
        assert!(brake.resets(start, address, 700, false));
        brake.punish(start, address);
        assert!(brake.resets(start, address, 320, true) && brake.resets(start, address, 320, true));
        assert!(!brake.resets(start, address, 1, true));
        assert!(brake.resets(start, address, 700, false));
    }

    #[test]
    fn many_modest_connections_of_one_address_do_not_add_up() {
        let start = Instant::now();
        let mut brake = Brake::new();
        let refused_in = |brake: &mut Brake, second: u64, n_connections: u32, address: &str| {
            let now = start + Duration::from_secs(second);
            (0..n_connections).filter(|_| !brake.resets(now, ip(address), 200, false)).count()
        };
        // Each of the connections stays within its own 256 resets per second.
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
        assert!(brake.is_suspect(start + Duration::from_secs(10), IpAddr::V4(9_999.into())));
    }
}
