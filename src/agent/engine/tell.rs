//! What is told of it: problems and statuses.

use super::{Engine, STATUS_DELAY};
use crate::agent::report;
use crate::model::ClusterName;
use crate::store::{InputKey, Status, Store};

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

    pub(super) async fn write_statuses(&mut self) {
        self.status_due = None;
        if !self.synced {
            return;
        }
        let now = report::now();
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
            let problem = self.store.set_status(status).await.err().map(|e| e.to_string());
            self.note_problem("status", problem);
        }
    }
}
