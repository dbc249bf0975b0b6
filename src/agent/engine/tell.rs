//! Reports the engine's state: problems and statuses.

use super::Engine;
use crate::agent::ambient;
use crate::api::{Condition, ConditionStatus};
use crate::model::ClusterName;
use crate::store::{self, InputKey, NamedKey, ObjectStatus, Store};

/// Tells if a status must wait before it is written.
enum StatusDelay {
    No,
    /// The status is marked again when its result is known.
    UntilTold,
    Until(tokio::time::Instant),
}

impl<S: Store> Engine<S> {
    pub(super) fn note_problem(&mut self, place: &str, problem: Option<String>) {
        match problem {
            Some(message) => self.problems.insert(place.to_owned(), message),
            None => self.problems.remove(place),
        };
    }

    pub(in crate::agent) fn mark_status(&mut self, key: InputKey) {
        self.statuses.mark(key, tokio::time::Instant::now());
    }

    /// Delays statuses whose result is still pending; otherwise every start would write each status twice.
    fn status_delay(&self, key: &InputKey) -> StatusDelay {
        let until_told = |told: bool| if told { StatusDelay::UntilTold } else { StatusDelay::No };
        match key {
            InputKey::Policy(key) => until_told(self.donor.is_pending(key)),
            InputKey::Binding(key) => until_told(self.acceptor.is_settling(key, &self.facts)),
            InputKey::Peering(name) => {
                let Ok(cluster) = name.parse::<ClusterName>() else { return StatusDelay::No };
                let told = |type_: &str, status: ConditionStatus| {
                    let before = self.conditions.get(name).into_iter().flatten();
                    before.into_iter().any(|c| c.type_ == type_ && c.status == status)
                };
                let dialled = self.facts.peers.get(&cluster).is_some_and(|p| p.endpoint.is_some());
                let was_connected = told("Connected", ConditionStatus::True);
                if dialled && was_connected && self.acceptor.is_unheard(&cluster) {
                    return StatusDelay::UntilTold;
                }
                // A peer that was back since the start is not awaited again.
                let back =
                    self.subscribers.get(&cluster).is_some_and(|s| s.subscriptions > 0 || s.last_heard.is_some());
                let waits = told("Subscribed", ConditionStatus::True) && !back;
                match self.patient_until {
                    Some(time) if waits && tokio::time::Instant::now() < time => StatusDelay::Until(time),
                    _ => StatusDelay::No,
                }
            }
            InputKey::Object(_) => StatusDelay::No,
        }
    }

    pub(super) fn mark_all_statuses(&mut self) {
        let policies: Vec<_> = self.donor.policy_keys().cloned().map(InputKey::Policy).collect();
        let bindings: Vec<_> = self.acceptor.binding_keys().cloned().map(InputKey::Binding).collect();
        let peers = self.peers.peer_names().into_iter().map(InputKey::Peering);
        policies.into_iter().chain(bindings).chain(peers).for_each(|key| self.mark_status(key));
    }

    /// Marks objects whose condition about ambient mode is wrong.
    pub(super) fn mark_ambient(&mut self) {
        let wrong = |(key, told): &(&NamedKey, &[Condition])| {
            self.inventory.is_ambient(&key.namespace).is_some_and(|is| is != ambient::is_reported(told))
        };
        let policies = self.donor.policy_conditions().filter(wrong).map(|(key, _)| InputKey::Policy(key.clone()));
        let bindings = self.acceptor.binding_conditions().filter(wrong).map(|(key, _)| InputKey::Binding(key.clone()));
        let marked: Vec<_> = policies.chain(bindings).collect();
        marked.into_iter().for_each(|key| self.mark_status(key));
    }

    pub(super) fn mark_peer(&mut self, cluster: &ClusterName) {
        self.mark_status(InputKey::Peering(cluster.to_string()));
    }

    /// Schedules another attempt to write what belongs to no owner and could not be written.
    pub(super) fn schedule_retry(&mut self) {
        self.statuses.retry_soon(tokio::time::Instant::now());
    }

    pub(super) async fn write_statuses(&mut self) {
        self.statuses.stop_wait();
        if !self.synced {
            return;
        }
        if !self.leading {
            self.statuses.take_all(); // the leading replica writes them, and the next leader evaluates everything
            return;
        }
        let now = store::current_timestamp();
        let mut problem = None;
        for key in self.statuses.take_all() {
            match self.status_delay(&key) {
                StatusDelay::No => {}
                StatusDelay::UntilTold => continue,
                StatusDelay::Until(time) => {
                    self.statuses.postpone(key, time);
                    continue;
                }
            }
            let status = match &key {
                InputKey::Policy(k) => self.policy_status(k, &now).map(|s| ObjectStatus::Policy(k.clone(), s)),
                InputKey::Binding(k) => self.binding_status(k, &now).map(|s| ObjectStatus::Binding(k.clone(), s)),
                InputKey::Peering(name) => {
                    self.peering_status(name, &now).map(|s| ObjectStatus::Peering(name.clone(), s))
                }
                InputKey::Object(_) => None,
            };
            let gone = !matches!(key, InputKey::Object(_));
            let Some(status) = status.or_else(|| gone.then(|| ObjectStatus::Gone(key.clone()))) else { continue };
            if let Err(e) = self.store.set_status(status).await {
                problem = Some(e.to_string());
                self.statuses.retry(key, tokio::time::Instant::now());
            }
        }
        self.note_problem("status", problem);
    }
}
