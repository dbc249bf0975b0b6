//! Reconciles: evaluates, writes, offers and acknowledges marked policies and local names.

use std::time::Instant;

use super::owners::{OwnerPurpose, local_owner, policy_owner};
use super::{BURST, Engine, ROUND};
use crate::agent::donor::{BoardChange, PolicyEvaluation, WriteState};
use crate::agent::writer::WriteOutcome;
use crate::api::Object;
use crate::store::{InputKey, NamedKey, Owner, Store};
use crate::translate::LocalName;

impl<S: Store> Engine<S> {
    /// Evaluates marked keys, as far as the writer has room; the rest follows as it gets room. Returns whether there is
    /// more to do at once. Other events are handled in between in any case.
    pub(super) fn reconcile(&mut self) -> bool {
        let begun = Instant::now();
        let mut evaluated = 0;
        self.update_gaps();
        let has_time = |evaluated: usize| evaluated < BURST && (evaluated == 0 || begun.elapsed() < ROUND);
        // One of each side in turn, so that neither waits for all of the other.
        while has_time(evaluated) {
            let policy = self.donor.next_dirty(|tenant| self.writer.has_room(tenant));
            let local = self.acceptor.next_dirty(tokio::time::Instant::now(), |tenant| self.writer.has_room(tenant));
            if policy.is_none() && local.is_none() {
                break;
            }
            evaluated += usize::from(policy.is_some()) + usize::from(local.is_some());
            if let Some(key) = policy {
                self.reconcile_policy(key);
            }
            if let Some(name) = local {
                self.reconcile_local(name);
            }
        }
        self.reconcile_shared();
        self.apply_kept();
        if evaluated > 0 {
            self.metrics.reconciles.inc_by(evaluated as u64);
            self.metrics.reconcile_seconds.observe(begun.elapsed().as_secs_f64());
        }
        !has_time(evaluated)
    }

    fn reconcile_policy(&mut self, key: NamedKey) {
        let owner = policy_owner(&key);
        let inherited = self.owners.is_inherited(&owner);
        let unknown = |policy: &_, exposed: &_| {
            self.unread.blind.policy_needs(policy, exposed, &self.facts).filter(|_| inherited).map(str::to_owned)
        };
        let objects = match self.donor.evaluate(&key, &self.inventory, &self.facts, unknown) {
            None => return,
            Some(PolicyEvaluation::Objects(objects)) => objects,
            Some(PolicyEvaluation::Held(place)) => {
                self.audit_policy_conflicts(&key);
                self.hold_objects(owner.clone(), place);
                self.owners.assign(owner, OwnerPurpose::Policy(key.clone()));
                self.mark_evaluated(&key);
                self.mark_status(InputKey::Policy(key));
                return;
            }
        };
        self.audit_policy_conflicts(&key);
        if S::EARLY {
            let offerings = self.donor.update_offers(&key, self.opening.is_none());
            self.publish_offers(&key, offerings);
        }
        self.want_objects(owner, OwnerPurpose::Policy(key.clone()), objects);
        self.mark_status(InputKey::Policy(key));
    }

    pub(super) fn reconcile_local(&mut self, name: LocalName) {
        let owner = local_owner(&name);
        let evaluation = self.acceptor.evaluate(&name, &self.inventory, &self.facts);
        for binding in self.acceptor.bindings_of(&name) {
            self.mark_status(InputKey::Binding(binding));
        }
        if let Some(place) = self.local_is_unknown(&name, &owner) {
            self.share_held(&name, evaluation.shared);
            self.acceptor.handle_write_result(&name, WriteState::Held(place.clone()));
            self.hold_objects(owner.clone(), place);
            self.owners.assign(owner, OwnerPurpose::Local(name));
            return;
        }
        // Existing objects stay until the donor has reported its present offers: the memory of them may be older.
        let hold = evaluation.hold || (self.leading && self.acceptor.is_awaited(&name, &self.facts));
        if hold && self.owners.is_inherited(&owner) {
            self.share_held(&name, evaluation.shared);
            if evaluation.hold {
                self.acceptor.handle_write_result(&name, WriteState::Done); // they are unchanged; the status says the rest
            }
            self.owners.assign(owner, OwnerPurpose::Local(name));
            return;
        }
        self.acceptor.note_wish(&name, !evaluation.objects.is_empty());
        self.share(&name, evaluation.shared);
        self.want_objects(owner, OwnerPurpose::Local(name), evaluation.objects);
    }

    pub(super) fn want_objects(&mut self, owner: Owner, purpose: OwnerPurpose, objects: Vec<Object>) {
        if objects.is_empty() && !self.owners.is_known(&owner) {
            // Nothing exists, and nothing is wanted: no write is needed.
            self.apply_write_state(&purpose, WriteState::Done);
            return;
        }
        self.owners.assign(owner.clone(), purpose);
        self.write_objects(owner, objects);
    }

    pub(super) fn write_objects(&mut self, owner: Owner, objects: Vec<Object>) {
        self.owners.begin_write(&owner, !objects.is_empty());
        let keys: Vec<_> = objects.iter().map(Object::key).filter(|key| key.kind.is_named_by_policies()).collect();
        let changed = self.inventory.record_own(&owner.0, keys.iter());
        self.donor.touch_lacking_of(&changed);
        self.writer.want_objects(owner, objects);
    }

    pub(super) fn handle_outcome(&mut self, WriteOutcome { owner, result, outdated }: WriteOutcome) {
        let write = match result {
            Ok(applied) if applied.waiting && applied.conflicts.is_empty() => WriteState::Pending,
            Ok(applied) => {
                self.metrics.objects_written.inc_by(applied.written as u64);
                self.metrics.objects_removed.inc_by(applied.removed as u64);
                self.note_problem(&format!("owner {}", owner.0), None);
                if applied.conflicts.is_empty() {
                    WriteState::Done
                } else {
                    self.metrics.object_conflicts.inc();
                    WriteState::Conflict(applied.conflicts)
                }
            }
            Err(e) => {
                tracing::error!(place = %e.place, message = %e.message, "objects could not be written");
                self.metrics.write_errors.inc();
                self.owners.fail_write(&owner);
                self.note_problem(&format!("owner {}", owner.0), Some(e.to_string()));
                WriteState::Failed(e.to_string())
            }
        };
        if outdated {
            return; // the newest request may need objects that do not exist yet
        }
        let Some(purpose) = self.owners.purpose(&owner).cloned() else {
            if let WriteState::Failed(_) = write {
                self.writer.want_objects(owner, Vec::new()); // left over from before, and still to be removed
            }
            return;
        };
        let (failed, waits) = (matches!(write, WriteState::Failed(_)), write == WriteState::Pending);
        self.apply_write_state(&purpose, write);
        if failed {
            self.repair_owner(&owner);
        } else if !waits {
            self.owners.end_write(&owner);
        }
    }

    pub(super) fn apply_write_state(&mut self, purpose: &OwnerPurpose, write: WriteState) {
        match purpose {
            OwnerPurpose::Policy(key) => {
                let offerings =
                    self.donor.handle_write_result(key, write.clone(), self.opening.is_none() && self.synced);
                self.publish_offers(key, offerings);
                self.release_objects(&policy_owner(key), &write);
                self.mark_evaluated(key);
                self.mark_status(InputKey::Policy(key.clone()));
            }
            OwnerPurpose::Local(name) => {
                self.release_objects(&local_owner(name), &write);
                self.acceptor.handle_write_result(name, write);
                for binding in self.acceptor.bindings_of(name) {
                    self.mark_status(InputKey::Binding(binding));
                }
            }
            OwnerPurpose::Shared => {
                for name in self.acceptor.handle_shared_result(write) {
                    for binding in self.acceptor.bindings_of(&name) {
                        self.mark_status(InputKey::Binding(binding));
                    }
                }
            }
        }
    }

    /// Publishes offers on the board. `policy` is their source.
    pub(super) fn publish_offers(&mut self, policy: &NamedKey, offerings: Vec<BoardChange>) {
        for (key, to) in offerings {
            let before = self.board.offered_versions(&key);
            let problem = self.board.set_offers(&key, &to).err().map(|e| e.to_string());
            let after = self.board.offered_versions(&key);
            self.audit_offers(policy, &key, &before, &after);
            self.subscribers.retain_outcomes(&key, |cluster| to.contains_key(cluster));
            if let Some(problem) = &problem {
                tracing::error!(exposition = %key, %problem, "an exposition cannot be offered");
            }
            self.note_problem(&format!("exposition {key}"), problem);
        }
    }

    /// Sends the verdicts on donors' expositions.
    pub(super) fn send_verdicts(&mut self) {
        for (cluster, key, verdict) in self.acceptor.drain_verdicts() {
            self.audit_verdict(&cluster, &key, &verdict);
            self.links.acknowledge_exposition(&cluster, key, verdict);
        }
    }

    /// Tells donors' tasks which expositions are used, which are no longer held, and which must be sent again.
    pub(super) fn send_holdings(&mut self) {
        for ((cluster, key), used) in self.acceptor.drain_use_changes() {
            if let Some(control) = self.links.control_of(&cluster) {
                control.set_used(&key, used);
            }
            self.memory.note_use((cluster, key));
        }
        for (cluster, key) in self.acceptor.drain_made_room() {
            if let Some(control) = self.links.control_of(&cluster) {
                control.let_go(&key);
            }
            self.memory.forget((cluster, key));
        }
        for name in self.acceptor.drain_dropped() {
            self.memory.forget(name); // what is not held is not remembered either
        }
        for (cluster, key) in self.acceptor.drain_fetches() {
            if let Some(control) = self.links.control_of(&cluster) {
                control.request_content(&key);
            }
        }
    }
}
