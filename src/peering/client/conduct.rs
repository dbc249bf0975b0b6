//! Limits for the work that a donor may cause its acceptor. Pure: the clock comes from outside.

use std::time::Duration;

use tokio::time::Instant;

use crate::peering::Limits;
use crate::peering::limits::{CONDUCT_PERIOD, DONOR_INTERVAL, DONOR_UNIT};
use crate::peering::pace::Pace;

/// The reason why a donor's stream is ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DonorMisconduct {
    #[error(
        "{count} of its expositions were rejected within a minute, and at most {max} may be (the last: {last}); mend or \
         remove them at the donor, or raise limits.peerExpositions"
    )]
    Rejections { count: usize, max: usize, last: String },
    #[error(
        "it sent {count} messages, changes and withdrawals within a minute, and at most {max} are taken; find what changes \
         so often at the donor, or raise limits.peerExpositions"
    )]
    Entries { count: usize, max: usize },
    #[error("it sent a message that is too large: {0}; no donor that keeps to the protocol does")]
    MessageSize(String),
    #[error("{0}; no donor that keeps to the protocol sends it")]
    Malformed(#[from] crate::peering::fields::MalformedMessage),
}

/// Counts what a donor did in this period. The counts go on over streams: a new stream does not reset them.
#[derive(Debug, Default)]
pub(super) struct DonorConduct {
    begun: Option<Instant>,
    entries: usize,
    rejections: usize,
    pace: Option<Pace>,
}

impl DonorConduct {
    /// Records a message with so many entries and bytes. Returns the time that the next message has to wait.
    pub(super) fn record_message(
        &mut self,
        entries: usize,
        bytes: usize,
        limits: &Limits,
        now: Instant,
    ) -> Result<Duration, DonorMisconduct> {
        self.begin_period(CONDUCT_PERIOD, now);
        self.entries += 1 + entries;
        let (count, max) = (self.entries, limits.max_entries);
        if count > max {
            return Err(DonorMisconduct::Entries { count, max });
        }
        let units = u32::try_from(1 + entries + bytes / DONOR_UNIT).unwrap_or(u32::MAX);
        let pace = self.pace.get_or_insert_with(|| Pace::new(DONOR_INTERVAL, limits.donor_burst(), now.into_std()));
        Ok(pace.take_units(units, now.into_std()))
    }

    /// Records that one of its entries is rejected.
    pub(super) fn record_rejection(&mut self, why: &str, limits: &Limits) -> Result<(), DonorMisconduct> {
        self.rejections += 1;
        let (count, max) = (self.rejections, limits.max_rejections);
        if count > max { Err(DonorMisconduct::Rejections { count, max, last: why.to_owned() }) } else { Ok(()) }
    }

    fn begin_period(&mut self, period: Duration, now: Instant) {
        if self.begun.is_none_or(|begun| now.duration_since(begun) >= period) {
            *self = DonorConduct { begun: Some(now), pace: self.pace.take(), ..DonorConduct::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { max_entries: 100, max_rejections: 3, ..Limits::default() }
    }

    #[test]
    fn a_donor_that_keeps_to_the_limits_of_each_minute_is_never_ended() {
        let (limits, start) = (limits(), Instant::now());
        let mut conduct = DonorConduct::default();
        for minute in 0..10 {
            conduct.record_message(99, 0, &limits, start + CONDUCT_PERIOD * minute).unwrap();
            (0..3).for_each(|_| conduct.record_rejection("port 0", &limits).unwrap());
        }
    }

    #[test]
    fn rejections_beyond_the_limit_of_a_minute_are_misconduct() {
        let (limits, now) = (limits(), Instant::now());
        let mut conduct = DonorConduct::default();
        conduct.record_message(4, 0, &limits, now).unwrap();
        (0..3).for_each(|_| conduct.record_rejection("port 0", &limits).unwrap());
        let why = conduct.record_rejection("port 0", &limits).unwrap_err();
        assert_eq!(why, DonorMisconduct::Rejections { count: 4, max: 3, last: "port 0".into() });
    }

    #[test]
    fn a_donor_that_changes_without_end_is_read_at_its_pace() {
        let (limits, now) = (Limits::default(), Instant::now());
        let mut conduct = DonorConduct::default();
        let burst = limits.donor_burst() as usize;
        assert_eq!(conduct.record_message(burst - 1, 0, &limits, now), Ok(Duration::ZERO));
        assert_eq!(conduct.record_message(49, 0, &limits, now), Ok(DONOR_INTERVAL * 50));
        assert_eq!(conduct.record_message(0, 49 * DONOR_UNIT, &limits, now), Ok(DONOR_INTERVAL * 100));
    }

    #[test]
    fn empty_messages_count_and_a_new_stream_is_no_new_start() {
        let (limits, now) = (limits(), Instant::now());
        let mut conduct = DonorConduct::default();
        (0..100).for_each(|_| assert!(conduct.record_message(0, 0, &limits, now).is_ok()));
        assert_eq!(conduct.record_message(0, 0, &limits, now), Err(DonorMisconduct::Entries { count: 101, max: 100 }));
        assert_eq!(conduct.record_message(0, 0, &limits, now + CONDUCT_PERIOD), Ok(Duration::ZERO));
    }
}
