//! Numbers that a seed repeats, so that a run that failed can be run again.

use std::time::{SystemTime, UNIX_EPOCH};

/// The upper bits of a linear congruential generator.
pub struct Random(pub u64);

impl Random {
    /// From the seed in `PILLION_SEED`, or from the clock; it is printed.
    #[allow(clippy::print_stdout)]
    pub fn seeded() -> Self {
        let seed = std::env::var("PILLION_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()));
        println!("PILLION_SEED={seed}");
        Random(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// Of a list of so many.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }
}
