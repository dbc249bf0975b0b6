//! The wait before the next attempt: anywhere between nothing and a limit that doubles.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Source of randomness for waits.
#[derive(Debug)]
pub struct BackoffJitter(StdRng);

impl BackoffJitter {
    /// Makes one that is seeded by the system.
    pub fn random() -> BackoffJitter {
        BackoffJitter(rand::make_rng())
    }

    /// Makes one that gives the same waits every time, for tests.
    pub fn seeded(seed: u64) -> BackoffJitter {
        BackoffJitter(StdRng::seed_from_u64(seed))
    }

    /// Returns a random wait of at most `ceiling`.
    pub fn wait_within(&mut self, ceiling: Duration) -> Duration {
        ceiling.mul_f64(self.0.random_range(0.0..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_anywhere_below_its_ceiling_and_the_same_for_a_seed() {
        let ceiling = Duration::from_secs(1);
        let waits = |seed| {
            let mut jitter = BackoffJitter::seeded(seed);
            (0..1000).map(|_| jitter.wait_within(ceiling)).collect::<Vec<_>>()
        };
        assert_eq!(waits(7), waits(7));
        assert_ne!(waits(7), waits(8));
        assert!(waits(7).iter().all(|w| *w <= ceiling));
        assert!(waits(7).iter().any(|w| *w < ceiling / 10) && waits(7).iter().any(|w| *w > ceiling * 9 / 10));
    }
}
