//! Keeps the objects whose status must be written, and the time of the next attempt.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::InputKey;

/// Delay of a status write after the change that it reports, so that a burst of changes causes one write each.
const STATUS_DELAY: Duration = Duration::from_millis(50);
/// Pause before a write that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct StatusQueue {
    keys: BTreeSet<InputKey>,
    due: Option<Instant>,
}

impl StatusQueue {
    /// Adds an object whose status may differ now.
    pub(super) fn mark(&mut self, key: InputKey, now: Instant) {
        self.postpone(key, now + STATUS_DELAY);
    }

    /// Adds an object whose status must not be written before `time`.
    pub(super) fn postpone(&mut self, key: InputKey, time: Instant) {
        self.keys.insert(key);
        self.wake_at(time);
    }

    /// Adds an object whose status could not be written.
    pub(super) fn retry(&mut self, key: InputKey, now: Instant) {
        self.keys.insert(key);
        self.retry_soon(now);
    }

    /// Schedules another attempt at the latest after a pause.
    pub(super) fn retry_soon(&mut self, now: Instant) {
        self.wake_at(now + RETRY_PAUSE);
    }

    fn wake_at(&mut self, time: Instant) {
        self.due = Some(self.due.map_or(time, |due| due.min(time)));
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due
    }

    /// Ends a wait. The objects stay.
    pub(super) fn stop_wait(&mut self) {
        self.due = None;
    }

    /// Removes all objects, and returns them.
    pub(super) fn take_all(&mut self) -> BTreeSet<InputKey> {
        std::mem::take(&mut self.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peering(name: &str) -> InputKey {
        InputKey::Peering(name.into())
    }

    #[test]
    fn a_burst_is_written_once_and_not_put_off_by_itself() {
        let (mut queue, start) = (StatusQueue::default(), Instant::now());
        for n in 0..10 {
            queue.mark(peering("east"), start + n * STATUS_DELAY / 4);
        }
        assert_eq!(queue.next_due(), Some(start + STATUS_DELAY));
        queue.stop_wait();
        assert_eq!(queue.take_all(), BTreeSet::from([peering("east")]));
        assert_eq!((queue.next_due(), queue.take_all()), (None, BTreeSet::new()));
    }

    #[test]
    fn a_status_that_has_to_wait_delays_no_other() {
        let (mut queue, start) = (StatusQueue::default(), Instant::now());
        queue.postpone(peering("east"), start + 30 * RETRY_PAUSE);
        assert_eq!(queue.next_due(), Some(start + 30 * RETRY_PAUSE));
        queue.retry(peering("north"), start);
        assert_eq!(queue.next_due(), Some(start + RETRY_PAUSE));
        queue.mark(peering("west"), start);
        assert_eq!(queue.next_due(), Some(start + STATUS_DELAY));
        queue.postpone(peering("south"), start + 20 * RETRY_PAUSE);
        assert_eq!(queue.next_due(), Some(start + STATUS_DELAY));
    }
}
