//! What is told of it: problems and statuses, and what is remembered.

use super::{Engine, RETRY, STATUS_DELAY};
use crate::agent::report;
use crate::model::{ClusterName, ExpositionKey};
use crate::store::{InputKey, Known, Status, Store};

/// What problems of the store's memory are told under.
const MEMORY: &str = "memory of peers";

impl<S: Store> Engine<S> {
    pub(super) fn note_problem(&mut self, place: &str, problem: Option<String>) {
        match problem {
            Some(message) => self.problems.insert(place.to_owned(), message),
            None => self.problems.remove(place),
        };
    }

    pub(in crate::agent) fn mark_status(&mut self, key: InputKey) {
        self.stale.insert(key);
        self.status_due.get_or_insert_with(|| tokio::time::Instant::now() + STATUS_DELAY);
    }

    pub(super) fn mark_peer(&mut self, cluster: &ClusterName) {
        self.mark_status(InputKey::Peering(cluster.to_string()));
    }

    /// Something that is written beside the objects could not be: it is tried again after a while.
    pub(super) fn try_again_soon(&mut self) {
        self.status_due.get_or_insert_with(|| tokio::time::Instant::now() + RETRY);
    }

    /// Notes what a peer offers for the time after this process, or that it is gone.
    pub(super) async fn remember(&mut self, cluster: &ClusterName, key: &ExpositionKey, known: Option<Known>) {
        let result = self.store.remember(cluster, key, known.as_ref()).await;
        let name = (cluster.clone(), key.clone());
        if let Err(e) = result {
            self.unremembered.insert(name, known);
            self.try_again_soon();
            self.note_problem(MEMORY, Some(e.to_string()));
        } else if self.unremembered.remove(&name).is_some() && self.unremembered.is_empty() {
            self.note_problem(MEMORY, None);
        }
    }

    pub(super) async fn write_statuses(&mut self) {
        self.status_due = None;
        if !self.synced {
            return;
        }
        for ((cluster, key), known) in self.unremembered.clone() {
            self.remember(&cluster, &key, known).await;
        }
        let now = report::now();
        let mut problem = None;
        for key in std::mem::take(&mut self.stale) {
            let status = match &key {
                InputKey::Policy(k) => {
                    self.donor.status(k, &now, |e| self.subscribers.outcomes(e)).map(|s| Status::Policy(k.clone(), s))
                }
                InputKey::Binding(k) => {
                    self.acceptor.status(k, &self.facts, &now).map(|s| Status::Binding(k.clone(), s))
                }
                InputKey::Peering(name) => self.peering_status(name, &now).map(|s| Status::Peering(name.clone(), s)),
                InputKey::Object(_) => None,
            };
            let gone = !matches!(key, InputKey::Object(_));
            let Some(status) = status.or_else(|| gone.then(|| Status::Gone(key.clone()))) else { continue };
            if let Err(e) = self.store.set_status(status).await {
                problem = Some(e.to_string());
                self.stale.insert(key);
                self.try_again_soon();
            }
        }
        self.note_problem("status", problem);
    }
}
