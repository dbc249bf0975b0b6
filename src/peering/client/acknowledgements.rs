//! The owner's outcomes of what the donor sent, on their way back to the donor.
//!
//! The state is not a queue: it is the newest outcome of each exposition, and the set of those that the donor has not
//! received. A new stream begins with all of them, since the donor may have been restarted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use tokio::sync::Notify;

use super::StreamMark;
use crate::model::ExpositionKey;
use crate::peering::convert::{ExpositionOutcome, ack_to_wire};
use crate::peering::limits::{MAX_REJECTED_NAMES, MAX_REJECTION};
use crate::peering::{Limits, clean_prose, pb};

/// A handle; clones share the outcomes.
#[derive(Clone)]
pub struct Acknowledgements {
    limits: Arc<Limits>,
    state: Arc<Mutex<AcknowledgementState>>,
    due: Arc<Notify>,
}

#[derive(Default)]
struct AcknowledgementState {
    mark: StreamMark,
    /// An acknowledgement is due even if no outcome is new.
    due: bool,
    outcomes: BTreeMap<ExpositionKey, ExpositionOutcome>,
    /// Outcomes with a sentence.
    sentences: usize,
    unsaid: BTreeSet<ExpositionKey>,
}

impl Acknowledgements {
    pub(super) fn new(limits: Arc<Limits>) -> Acknowledgements {
        Acknowledgements { limits, state: Arc::default(), due: Arc::default() }
    }

    /// Records that a batch was processed, up to its mark.
    pub fn record_batch(&self, mark: StreamMark) {
        self.update_state(|state| {
            if mark.stream == state.mark.stream && mark.revision > state.mark.revision {
                state.mark = mark;
                state.due = true;
            }
        });
    }

    /// Records the outcome of an exposition that the owner holds, or uses. The newest outcome counts. The first
    /// [`MAX_REJECTED_NAMES`] rejections are sent with a sentence, the others with their reason only.
    pub fn report_outcome(&self, key: &ExpositionKey, outcome: ExpositionOutcome) {
        let max = self.limits.max_expositions.saturating_mul(2);
        self.update_state(|state| {
            if state.outcomes.len() < max || state.outcomes.contains_key(key) {
                state.put_outcome(key, outcome);
            }
        });
    }

    /// Records that an exposition was rejected on its arrival. Of names that are not held, only as many are sent as
    /// have a sentence.
    pub(super) fn report_refusal(&self, key: &ExpositionKey, outcome: ExpositionOutcome) {
        self.update_state(|state| {
            if state.sentences < MAX_REJECTED_NAMES || state.outcomes.contains_key(key) {
                state.put_outcome(key, outcome);
            }
        });
    }

    /// Forgets an exposition that is gone, and its outcome.
    pub fn forget_outcome(&self, key: &ExpositionKey) {
        let mut state = self.lock();
        if state.outcomes.remove(key).is_some_and(|o| !o.message.is_empty()) {
            state.sentences -= 1;
        }
        state.unsaid.remove(key);
    }

    /// Begins a stream: all outcomes are due again.
    pub(super) fn begin_stream(&self, stream: u64) {
        let mut state = self.lock();
        state.mark = StreamMark { stream, revision: 0 };
        state.due = false;
        state.unsaid = state.outcomes.keys().cloned().collect();
    }

    /// Makes the answer to a heartbeat due.
    pub(super) fn answer_heartbeat(&self) {
        self.update_state(|state| state.due = true);
    }

    /// Waits until something is due on this stream, and takes as much of it as fits a message. None: another stream has
    /// begun.
    pub(super) async fn next_message(&self, stream: u64) -> Option<pb::Acknowledgement> {
        loop {
            // Registered before looking, so that what comes in between is not missed.
            let notified = self.due.notified();
            {
                let mut state = self.lock();
                if state.mark.stream != stream {
                    return None;
                }
                // An exposition that is not processed yet has no outcome.
                if state.due || !state.unsaid.is_empty() {
                    return Some(state.take_message(self.limits.max_batch_bytes));
                }
            }
            notified.await;
        }
    }

    fn update_state(&self, change: impl FnOnce(&mut AcknowledgementState)) {
        let mut state = self.lock();
        change(&mut state);
        let due = state.due || !state.unsaid.is_empty();
        drop(state);
        if due {
            self.due.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, AcknowledgementState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AcknowledgementState {
    fn put_outcome(&mut self, key: &ExpositionKey, mut outcome: ExpositionOutcome) {
        let before = self.outcomes.get(key);
        let had_sentence = before.is_some_and(|o| !o.message.is_empty());
        if had_sentence || self.sentences < MAX_REJECTED_NAMES {
            outcome.message = clean_prose(&outcome.message, MAX_REJECTION);
        } else {
            outcome.message.clear();
        }
        if before != Some(&outcome) {
            self.sentences += usize::from(!outcome.message.is_empty());
            self.sentences -= usize::from(had_sentence);
            self.outcomes.insert(key.clone(), outcome);
            self.unsaid.insert(key.clone());
        }
    }

    fn take_message(&mut self, max_bytes: usize) -> pb::Acknowledgement {
        self.due = false;
        let mut room = max_bytes;
        let mut outcomes = Vec::new();
        while room > 0
            && let Some(key) = self.unsaid.pop_first()
        {
            if let Some(outcome) = self.outcomes.get(&key) {
                let wire = ack_to_wire(&key, outcome);
                room = room.saturating_sub(wire.encoded_len());
                outcomes.push(wire);
            }
        }
        pb::Acknowledgement { revision: self.mark.revision, outcomes }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::peering::convert::key_from_wire;

    fn key(n: u32) -> ExpositionKey {
        key_from_wire("default", &format!("s{n}")).unwrap()
    }

    fn acknowledgements() -> Acknowledgements {
        let acknowledgements = Acknowledgements::new(Arc::new(Limits { max_batch_bytes: 100, ..Limits::default() }));
        acknowledgements.begin_stream(1);
        acknowledgements
    }

    #[tokio::test]
    async fn only_the_newest_word_is_said_and_said_again_to_the_next_stream() {
        let acknowledgements = acknowledgements();
        acknowledgements.report_outcome(&key(1), ExpositionOutcome::offered());
        acknowledgements.report_outcome(&key(1), ExpositionOutcome::bound());
        acknowledgements.record_batch(StreamMark { stream: 1, revision: 5 });
        let said = acknowledgements.next_message(1).await.unwrap();
        assert_eq!((said.revision, said.outcomes.len()), (5, 1));
        assert_eq!(said.outcomes[0].state(), pb::outcome::State::Bound);
        assert!(acknowledgements.next_message(1).now_or_never().is_none());
        acknowledgements.begin_stream(2);
        assert_eq!(acknowledgements.next_message(1).await, None);
        acknowledgements.record_batch(StreamMark { stream: 1, revision: 6 });
        let said = acknowledgements.next_message(2).await.unwrap();
        assert_eq!((said.revision, said.outcomes.len()), (0, 1), "a mark of an old stream says nothing to the new one");
    }

    #[tokio::test]
    async fn much_is_said_in_bounded_parts() {
        let acknowledgements = acknowledgements();
        (0..10).for_each(|n| {
            acknowledgements.report_outcome(&key(n), ExpositionOutcome::rejected("Invalid", "x".repeat(60)))
        });
        let mut parts = 0;
        let mut said = 0;
        while let Some(Some(part)) = acknowledgements.next_message(1).now_or_never() {
            parts += 1;
            said += part.outcomes.len();
        }
        assert_eq!((parts, said), (5, 10));
    }

    #[tokio::test]
    async fn a_flood_of_rejections_keeps_few_sentences_and_leaves_room_for_what_is_bound() {
        let acknowledgements = Acknowledgements::new(Arc::new(Limits { max_expositions: 200, ..Limits::default() }));
        let rejected = || ExpositionOutcome::rejected("Invalid", "x".repeat(9000));
        (0..1000).for_each(|n| acknowledgements.report_refusal(&key(n), rejected()));
        let lengths = |a: &Acknowledgements| {
            let state = a.lock();
            let messages: Vec<_> = state.outcomes.values().map(|o| o.message.len()).filter(|n| *n > 0).collect();
            (state.outcomes.len(), messages.len(), messages.into_iter().max())
        };
        assert_eq!(lengths(&acknowledgements), (MAX_REJECTED_NAMES, MAX_REJECTED_NAMES, Some(MAX_REJECTION)));
        acknowledgements.report_outcome(&key(2000), ExpositionOutcome::bound());
        acknowledgements.report_outcome(&key(2001), rejected());
        assert_eq!(lengths(&acknowledgements).0, MAX_REJECTED_NAMES + 2);
        assert_eq!(lengths(&acknowledgements).1, MAX_REJECTED_NAMES, "the reason alone is said");
        acknowledgements.forget_outcome(&key(0));
        acknowledgements.report_outcome(&key(2001), rejected());
        acknowledgements.report_outcome(&key(2001), ExpositionOutcome::rejected("NameConflict", "y"));
        acknowledgements.report_outcome(&key(2002), rejected());
        assert_eq!(lengths(&acknowledgements), (MAX_REJECTED_NAMES + 2, MAX_REJECTED_NAMES, Some(MAX_REJECTION)));
    }

    #[tokio::test]
    async fn what_is_reported_while_waiting_is_not_missed() {
        let acknowledgements = acknowledgements();
        let (said, ()) = tokio::join!(acknowledgements.next_message(1), async { acknowledgements.answer_heartbeat() });
        assert_eq!(said.unwrap().outcomes.len(), 0);
    }
}
