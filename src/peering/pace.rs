//! Paces of peers, and the count of their breaches. Pure: the clock comes from outside.

use std::time::{Duration, Instant};

/// Longest debt of a pace.
const LONGEST_DEBT: Duration = Duration::from_secs(3600);

/// Lets `burst` units pass at once, and one more each `interval` (the generic cell rate algorithm, ATM Forum TM 4.0).
#[derive(Debug, Clone)]
pub(in crate::peering) struct Pace {
    interval: Duration,
    burst: u32,
    /// Time when all that was taken is paid.
    paid: Instant,
}

impl Pace {
    pub(in crate::peering) fn new(interval: Duration, burst: u32, now: Instant) -> Pace {
        Pace { interval, burst, paid: now }
    }

    /// Takes some units unless that means to wait for longer than this; returns the wait.
    pub(in crate::peering) fn take_units_within(
        &mut self,
        units: u32,
        longest: Duration,
        now: Instant,
    ) -> Option<Duration> {
        let before = self.paid;
        let wait = self.take_units(units, now);
        if wait > longest {
            self.paid = before;
            return None;
        }
        Some(wait)
    }

    /// Returns whether no debt is left.
    pub(in crate::peering) fn is_paid(&self, now: Instant) -> bool {
        self.paid <= now
    }

    /// Takes some units; returns the wait until they are within the pace.
    pub(in crate::peering) fn take_units(&mut self, units: u32, now: Instant) -> Duration {
        self.paid = self.paid.max(now) + self.interval.saturating_mul(units).min(LONGEST_DEBT);
        self.paid.saturating_duration_since(now).saturating_sub(self.interval * self.burst)
    }
}

/// Counts breaches, which a peer that keeps to the protocol does not cause.
#[derive(Debug, Default)]
pub(in crate::peering) struct StrikeCounter {
    first: Option<Instant>,
    count: u32,
}

impl StrikeCounter {
    /// Adds a breach. True if it is one too many: `max` of them within `period`. Then counting begins again.
    pub(in crate::peering) fn add_strike(&mut self, max: u32, period: Duration, now: Instant) -> bool {
        if self.first.is_none_or(|first| now.saturating_duration_since(first) > period) {
            *self = StrikeCounter { first: Some(now), count: 0 };
        }
        self.count += 1;
        let enough = self.count >= max;
        if enough {
            *self = StrikeCounter::default();
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_its_pace() {
        let start = Instant::now();
        let mut pace = Pace::new(SECOND, 3, start);
        let waits: Vec<_> = (0..5).map(|_| pace.take_units(1, start).as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 1, 2]);
        assert_eq!(pace.take_units(1, start + SECOND * 5), Duration::ZERO, "whoever waits has the pace again");
        assert_eq!(pace.take_units(4, start + SECOND * 100).as_secs(), 1);
    }

    #[test]
    fn strikes_count_within_a_period_only() {
        let start = Instant::now();
        let mut strikes = StrikeCounter::default();
        assert!(!strikes.add_strike(3, SECOND, start));
        assert!(!strikes.add_strike(3, SECOND, start));
        assert!(!strikes.add_strike(3, SECOND, start + SECOND * 2), "the first two are forgotten");
        assert!(!strikes.add_strike(3, SECOND, start + SECOND * 2));
        assert!(strikes.add_strike(3, SECOND, start + SECOND * 2));
        assert!(!strikes.add_strike(3, SECOND, start + SECOND * 2), "counting begins again");
    }
}
