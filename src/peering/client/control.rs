//! The owner's instructions to a donor's task about its holdings: names that it uses, names that it let go, and names
//! that it wants to receive again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::ExpositionKey;

/// A handle; clones share the instructions.
///
/// Nothing in it is larger than what the owner holds and what its bindings name.
#[derive(Clone, Default)]
pub struct HoldingsControl {
    wishes: Arc<Mutex<OwnerWishes>>,
    fetch: Arc<Notify>,
}

#[derive(Default)]
struct OwnerWishes {
    used: BTreeSet<ExpositionKey>,
    let_go: BTreeSet<ExpositionKey>,
    wanted: BTreeSet<ExpositionKey>,
}

impl HoldingsControl {
    /// Sets whether a name is used: a used name is held although the donor offers more than is held of it.
    pub fn set_used(&self, key: &ExpositionKey, used: bool) {
        let mut wishes = self.lock();
        if used {
            wishes.used.insert(key.clone());
        } else {
            wishes.used.remove(key);
            wishes.wanted.remove(key);
        }
    }

    /// Records that the owner does not hold a name any more. The donor sends it again to the next stream.
    pub fn let_go(&self, key: &ExpositionKey) {
        self.lock().let_go.insert(key.clone());
    }

    /// Asks for the content of a name that the owner holds without content, or does not hold: a new stream, whose hello
    /// does not mention the name, makes the donor send it.
    pub fn request_content(&self, key: &ExpositionKey) {
        self.lock().wanted.insert(key.clone());
        self.fetch.notify_one();
    }

    pub(super) fn is_used(&self, key: &ExpositionKey) -> bool {
        self.lock().used.contains(key)
    }

    pub(super) fn take_let_go(&self) -> BTreeSet<ExpositionKey> {
        std::mem::take(&mut self.lock().let_go)
    }

    pub(super) fn take_wanted(&self) -> BTreeSet<ExpositionKey> {
        std::mem::take(&mut self.lock().wanted)
    }

    /// Waits until something is to be fetched.
    pub(super) async fn fetch_is_due(&self) {
        while self.lock().wanted.is_empty() {
            self.fetch.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, OwnerWishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
