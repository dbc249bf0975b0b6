//! Deadlines for the answers of one connection to move on. HTTP/2 lets a peer leave an answer unread for as long as it
//! likes, and hyper does not poll an answer while it is unread; so the clock is the connection's.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

#[derive(Default)]
pub(super) struct AnswerDeadlines {
    state: Mutex<DeadlineState>,
    /// Notified when the first of them comes nearer.
    nearer: Notify,
}

#[derive(Default)]
struct DeadlineState {
    next: u64,
    by_call: BTreeMap<u64, Instant>,
}

impl AnswerDeadlines {
    /// Returns a number for a call; it has no deadline yet.
    pub(super) fn begin_call(&self) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        state.next
    }

    pub(super) fn set_deadline(&self, call: u64, at: Instant) {
        let mut state = self.lock();
        let nearer = state.by_call.values().all(|other| at < *other);
        state.by_call.insert(call, at);
        drop(state);
        if nearer {
            self.nearer.notify_one();
        }
    }

    pub(super) fn clear_deadline(&self, call: u64) {
        self.lock().by_call.remove(&call);
    }

    /// Waits until one of them has passed.
    pub(super) async fn wait_until_passed(&self) {
        loop {
            let first = self.lock().by_call.values().min().copied();
            match first {
                Some(at) if at <= Instant::now() => return,
                Some(at) => {
                    tokio::select! {
                        () = sleep_until(at) => {}
                        () = self.nearer.notified() => {} // holds a permit if it came nearer since
                    }
                }
                None => self.nearer.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, DeadlineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_over_when_the_first_deadline_of_its_answers_passes() {
        let deadlines = AnswerDeadlines::default();
        let (slow, quick) = (deadlines.begin_call(), deadlines.begin_call());
        let begun = Instant::now();
        deadlines.set_deadline(slow, begun + Duration::from_millis(60));
        deadlines.set_deadline(quick, begun + Duration::from_millis(10));
        deadlines.clear_deadline(quick);
        deadlines.wait_until_passed().await;
        assert!(begun.elapsed() >= Duration::from_millis(60), "{:?}", begun.elapsed());
        deadlines.clear_deadline(slow);
        assert!(deadlines.wait_until_passed().now_or_never().is_none());
    }
}
