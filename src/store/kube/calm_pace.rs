//! The pace of statuses that change no condition, such as the list of clusters that have bound something.
//!
//! They wait for those that do, so that in a burst each object's status is written once or twice and not for every
//! acceptor again. Then they are written at once, so that no status is behind for minutes. A budget that refills slowly
//! bounds what is written when peers go on changing their minds: acknowledgements of peers are behind these statuses.

use std::time::Duration;

use tokio::time::Instant;

/// Statuses that may be written one right after the other.
const BUDGET: u32 = 5_000;
/// The time in which the budget gains one status.
const REFILL: Duration = Duration::from_millis(50);
/// The time from one to the next, so that others get their turn at the API server.
const GAP: Duration = Duration::from_millis(5);
/// The time after a status that changes a condition.
const QUIET: Duration = Duration::from_secs(1);
/// The longest time that one waits while others change conditions all the time.
const LONGEST: Duration = Duration::from_secs(30);

/// Decides when the next of these statuses is written. It has no clock: every call passes the time.
#[derive(Debug)]
pub struct CalmPace {
    next: Instant,
    budget: u32,
    refilled: Instant,
    waiting_since: Option<Instant>,
}

impl CalmPace {
    pub fn new(now: Instant) -> CalmPace {
        CalmPace { next: now, budget: BUDGET, refilled: now, waiting_since: None }
    }

    /// Records that a status that changes a condition is written: the others wait a moment for more of its kind.
    pub fn record_urgent(&mut self, now: Instant) {
        self.next = self.next.max(now + QUIET);
    }

    /// Records that statuses that change no condition wait from now on, if they did not before.
    pub fn record_waiting(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// Returns whether one of them may be written now.
    pub fn is_due(&self, now: Instant) -> bool {
        let overdue = self.waiting_since.is_some_and(|since| now.duration_since(since) > LONGEST);
        overdue || self.next <= now
    }

    /// Records that one of them is written.
    pub fn record_written(&mut self, now: Instant) {
        self.refill_budget(now);
        self.budget = self.budget.saturating_sub(1);
        self.next = now + if self.budget == 0 { REFILL } else { GAP };
        self.waiting_since = None;
    }

    /// Returns the time of the next one.
    pub fn next_time(&self) -> Instant {
        self.next
    }

    fn refill_budget(&mut self, now: Instant) {
        let gained = now.duration_since(self.refilled).as_nanos() / REFILL.as_nanos();
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        self.budget = self.budget.saturating_add(gained).min(BUDGET);
        self.refilled += if self.budget == BUDGET { now.duration_since(self.refilled) } else { REFILL * gained };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes whenever one is due, and counts those until an end.
    fn written_until(pace: &mut CalmPace, from: Instant, end: Instant) -> u32 {
        let (mut now, mut count) = (from, 0);
        loop {
            now = now.max(pace.next_time());
            if now >= end {
                return count;
            }
            assert!(pace.is_due(now), "the time that it names is the time at which one is due");
            pace.record_written(now);
            count += 1;
        }
    }

    #[tokio::test]
    async fn a_burst_of_a_thousand_is_written_within_fifteen_seconds() {
        let start = Instant::now();
        let mut pace = CalmPace::new(start);
        pace.record_urgent(start);
        assert!(!pace.is_due(start + QUIET / 2), "it waits for those that change conditions");
        assert!(written_until(&mut pace, start, start + Duration::from_secs(15)) > 1_000);
    }

    #[tokio::test]
    async fn statuses_that_change_all_the_time_are_written_at_a_bounded_rate() {
        let start = Instant::now();
        let mut pace = CalmPace::new(start);
        let end = start + Duration::from_secs(600);
        let first = written_until(&mut pace, start, end);
        assert!(first <= BUDGET + 600 * 20 + 1, "{first}");
        let minute = written_until(&mut pace, end, end + Duration::from_secs(60));
        assert!(minute <= 60 * 20 + 1, "{minute} in a minute");
        let later = end + Duration::from_secs(3600);
        assert!(written_until(&mut pace, later, later + Duration::from_secs(60)) > 2_000, "rest fills the budget");
    }

    #[tokio::test]
    async fn one_waits_no_longer_than_half_a_minute_while_conditions_change_all_the_time() {
        let start = Instant::now();
        let mut pace = CalmPace::new(start);
        pace.record_waiting(start);
        let mut now = start;
        while now < start + LONGEST {
            pace.record_urgent(now);
            assert!(!pace.is_due(now));
            now += QUIET / 4;
        }
        pace.record_urgent(now);
        assert!(pace.is_due(now + QUIET / 4));
    }
}
