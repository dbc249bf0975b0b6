//! TLS handshakes in flight. Anybody can begin one, so they are few and short.
//!
//! When there are too many, the oldest is given up and not the newest refused: an honest handshake is done in two round
//! trips, so under a flood of stalled ones it is the stalled that are old.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

pub(super) struct Handshakes {
    max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    in_flight: BTreeMap<u64, CancellationToken>,
}

impl Handshakes {
    pub(super) fn new(max: usize) -> Handshakes {
        Handshakes { max: max.max(1), state: Mutex::default() }
    }

    pub(super) fn begin(&self) -> Handshake<'_> {
        let given_up = CancellationToken::new();
        let mut state = self.lock();
        while state.in_flight.len() >= self.max
            && let Some((_, oldest)) = state.in_flight.pop_first()
        {
            oldest.cancel();
        }
        state.next += 1;
        let id = state.next;
        state.in_flight.insert(id, given_up.clone());
        Handshake { all: self, id, given_up }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One handshake; over when it is dropped.
pub(super) struct Handshake<'a> {
    all: &'a Handshakes,
    id: u64,
    pub(super) given_up: CancellationToken,
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.all.lock().in_flight.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_given_up_for_the_newest() {
        let handshakes = Handshakes::new(2);
        let (one, two, three) = (handshakes.begin(), handshakes.begin(), handshakes.begin());
        assert!(one.given_up.is_cancelled());
        assert!(!two.given_up.is_cancelled() && !three.given_up.is_cancelled());
        drop(two);
        let four = handshakes.begin();
        assert!(!three.given_up.is_cancelled() && !four.given_up.is_cancelled());
    }
}
