//! Reconciles: evaluates, writes, offers and acknowledges marked policies and local names.

use std::time::Instant;

use super::{BURST, Engine, Purpose, ROUND, local_owner, policy_owner, shared_owner};
use crate::agent::autobind;
use crate::agent::donor::{Evaluated, Offering, Write};
use crate::agent::writer::Outcome;
use crate::api::{Object, RemoteServiceBinding};
use crate::model::ClusterName;
use crate::store::{InputKey, NamedKey, Owner, Store};
use crate::translate::{self, LocalName};

impl<S: Store> Engine<S> {
    /// Evaluates marked keys, as far as the writer has room; the rest follows as it gets room. Returns whether there is
    /// more to do at once. Other events are handled in between in any case.
    pub(super) fn reconcile(&mut self) -> bool {
        let begun = Instant::now();
        let mut evaluated = 0;
        self.tell_gaps();
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
        // A name that needs the shared objects may be among the waiting ones.
        if self.shared_stale && self.acceptor.is_clean() && !self.shared_must_wait() && !self.is_leant_on_still() {
            self.shared_stale = false;
            self.want_shared();
        }
        self.apply_kept();
        if evaluated > 0 {
            self.metrics.reconciles.inc_by(evaluated as u64);
            self.metrics.reconcile_seconds.observe(begun.elapsed().as_secs_f64());
        }
        !has_time(evaluated)
    }

    fn reconcile_policy(&mut self, key: NamedKey) {
        let owner = policy_owner(&key);
        let inherited = self.inherited.contains(&owner);
        let unknown = |policy: &_, exposed: &_| {
            self.blind.policy_needs(policy, exposed, &self.facts).filter(|_| inherited).map(str::to_owned)
        };
        let objects = match self.donor.evaluate(&key, &self.inventory, &self.facts, unknown) {
            None => return,
            Some(Evaluated::Objects(objects)) => objects,
            Some(Evaluated::Held(place)) => {
                self.audit_policy_conflicts(&key);
                self.hold(owner.clone(), place);
                self.purposes.insert(owner, Purpose::Policy(key.clone()));
                self.opened_for(&key);
                self.mark_status(InputKey::Policy(key));
                return;
            }
        };
        self.audit_policy_conflicts(&key);
        if S::EARLY {
            let offerings = self.donor.offer(&key, self.opening.is_none());
            self.publish(&key, offerings);
        }
        self.want(owner, Purpose::Policy(key.clone()), objects);
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
            self.acceptor.written(&name, Write::Held(place.clone()));
            self.hold(owner.clone(), place);
            self.purposes.insert(owner, Purpose::Local(name));
            return;
        }
        // Existing objects stay until the donor has reported its present offers: the memory of them may be older.
        let hold = evaluation.hold || (self.leading && self.acceptor.is_awaited(&name, &self.facts));
        if hold && self.inherited.contains(&owner) {
            self.share_held(&name, evaluation.shared);
            if evaluation.hold {
                self.acceptor.written(&name, Write::Done); // they are unchanged; the status says the rest
            }
            self.purposes.insert(owner, Purpose::Local(name));
            return;
        }
        self.acceptor.wish(&name, !evaluation.objects.is_empty());
        self.share(&name, evaluation.shared);
        self.want(owner, Purpose::Local(name), evaluation.objects);
    }

    /// Keeps the shared objects for a name that is held, if they exist: its objects may use them. A name that no donor
    /// served before this process needs none.
    fn share_held(&mut self, name: &LocalName, shared: bool) {
        self.share(name, shared || self.inherited.contains(&shared_owner()) || !self.sharing.is_empty());
    }

    /// Notes whether a name uses the shared objects. They are written before the first name that needs them, and
    /// removed after the last.
    fn share(&mut self, name: &LocalName, shared: bool) {
        if !shared {
            if self.sharing.remove(name) {
                self.unsharing.insert(name.clone());
                self.shared_stale |= self.sharing.is_empty();
            }
        } else if self.sharing.is_empty() {
            self.settle(&Purpose::Shared, Write::Pending);
            self.sharing.insert(name.clone());
            if self.inherited.contains(&shared_owner()) {
                self.purposes.insert(shared_owner(), Purpose::Shared);
                self.shared_stale = true;
            } else {
                self.want_shared();
            }
        } else {
            self.sharing.insert(name.clone());
        }
    }

    /// Returns whether the shared objects must wait for names. Those from before this process exist, whatever version
    /// of Wharf wrote them, and names may be of that version as well: a listener with fewer routes than before is
    /// written after the names that use the old routes.
    fn shared_must_wait(&self) -> bool {
        let old =
            |name: &LocalName| self.inherited.contains(&local_owner(name)) || self.acceptor.is_being_written(name);
        self.inherited.contains(&shared_owner()) && self.sharing.iter().any(old)
    }

    /// Returns whether callers may still be led to the shared objects, because names that used them are not yet written
    /// without.
    fn is_leant_on_still(&mut self) -> bool {
        self.unsharing.retain(|name| self.acceptor.is_being_written(name));
        self.sharing.is_empty() && !self.unsharing.is_empty()
    }

    /// Requests the objects that all bindings of HTTP services share at the egress gateway.
    pub(super) fn want_shared(&mut self) {
        let leant_on = !self.sharing.is_empty() || (self.holds_locals() && self.held.contains(&shared_owner()));
        let objects = match !leant_on {
            true => Vec::new(),
            false => translate::shared_egress(&self.inventory, &self.facts),
        };
        self.want(shared_owner(), Purpose::Shared, objects);
    }

    pub(super) fn want(&mut self, owner: Owner, purpose: Purpose, objects: Vec<Object>) {
        if objects.is_empty() && !self.held.contains(&owner) && !self.purposes.contains_key(&owner) {
            // Nothing exists, and nothing is wanted: no write is needed.
            self.settle(&purpose, Write::Done);
            return;
        }
        self.purposes.insert(owner.clone(), purpose);
        self.write(owner, objects);
    }

    pub(super) fn write(&mut self, owner: Owner, objects: Vec<Object>) {
        self.inherited.remove(&owner);
        let keys: Vec<_> = objects.iter().map(Object::key).filter(|key| key.kind.is_named_by_policies()).collect();
        let changed = self.inventory.note_own(&owner.0, keys.iter());
        self.donor.touch_lacking_of(&changed);
        if objects.is_empty() {
            self.held.remove(&owner);
        } else {
            self.held.insert(owner.clone());
        }
        self.writer.want(owner, objects);
    }

    pub(super) fn take_outcome(&mut self, Outcome { owner, result, outdated }: Outcome) {
        let write = match result {
            Ok(applied) if applied.waiting && applied.conflicts.is_empty() => Write::Pending,
            Ok(applied) => {
                self.metrics.objects_written.inc_by(applied.written as u64);
                self.metrics.objects_removed.inc_by(applied.removed as u64);
                self.note_problem(&format!("owner {}", owner.0), None);
                if applied.conflicts.is_empty() {
                    Write::Done
                } else {
                    self.metrics.object_conflicts.inc();
                    Write::Conflict(applied.conflicts)
                }
            }
            Err(e) => {
                tracing::error!(place = %e.place, message = %e.message, "objects could not be written");
                self.metrics.write_errors.inc();
                self.held.insert(owner.clone()); // some of them may exist
                self.note_problem(&format!("owner {}", owner.0), Some(e.to_string()));
                Write::Failed(e.to_string())
            }
        };
        if outdated {
            return; // the newest request may need objects that do not exist yet
        }
        let Some(purpose) = self.purposes.get(&owner).cloned() else {
            if let Write::Failed(_) = write {
                self.writer.want(owner, Vec::new()); // left over from before, and still to be removed
            }
            return;
        };
        let (failed, waits) = (matches!(write, Write::Failed(_)), write == Write::Pending);
        self.settle(&purpose, write);
        if failed {
            self.repair(&owner);
        } else if !waits && !self.held.contains(&owner) {
            self.purposes.remove(&owner);
        }
    }

    pub(super) fn settle(&mut self, purpose: &Purpose, write: Write) {
        match purpose {
            Purpose::Policy(key) => {
                let offerings = self.donor.written(key, write.clone(), self.opening.is_none() && self.synced);
                self.publish(key, offerings);
                self.release(&policy_owner(key), &write);
                self.opened_for(key);
                self.mark_status(InputKey::Policy(key.clone()));
            }
            Purpose::Local(name) => {
                self.release(&local_owner(name), &write);
                self.acceptor.written(name, write);
                for binding in self.acceptor.bindings_of(name) {
                    self.mark_status(InputKey::Binding(binding));
                }
            }
            Purpose::Shared => {
                for name in self.acceptor.shared_written(write) {
                    for binding in self.acceptor.bindings_of(&name) {
                        self.mark_status(InputKey::Binding(binding));
                    }
                }
            }
        }
    }

    /// Publishes offers on the board. `policy` is their source.
    pub(super) fn publish(&mut self, policy: &NamedKey, offerings: Vec<Offering>) {
        for (key, to) in offerings {
            let before = self.board.versions(&key);
            let problem = self.board.set(&key, &to).err().map(|e| e.to_string());
            let after = self.board.versions(&key);
            self.audit_offers(policy, &key, &before, &after);
            self.subscribers.retain(&key, |cluster| to.contains_key(cluster));
            if let Some(problem) = &problem {
                tracing::error!(exposition = %key, %problem, "an exposition cannot be offered");
            }
            self.note_problem(&format!("exposition {key}"), problem);
        }
    }

    /// Sends the verdicts on donors' expositions.
    pub(super) fn acknowledge(&mut self) {
        for (cluster, key, verdict) in self.acceptor.verdicts() {
            self.audit_verdict(&cluster, &key, &verdict);
            self.links.acknowledge(&cluster, key, verdict);
        }
    }

    /// Tells donors' tasks which expositions are used, which are no longer held, and which must be sent again.
    pub(super) fn tell_holdings(&mut self) {
        for ((cluster, key), used) in self.acceptor.take_use_changes() {
            if let Some(control) = self.links.control(&cluster) {
                control.set_used(&key, used);
            }
            self.use_changed.push((cluster, key));
        }
        for (cluster, key) in self.acceptor.take_made_room() {
            if let Some(control) = self.links.control(&cluster) {
                control.let_go(&key);
            }
            self.forgotten.push((cluster, key));
        }
        self.forgotten.extend(self.acceptor.take_dropped()); // what is not held is not remembered either
        for (cluster, key) in self.acceptor.take_fetches() {
            if let Some(control) = self.links.control(&cluster) {
                control.fetch(&key);
            }
        }
    }

    /// Updates the self-made bindings from the offers.
    pub(super) async fn propose_bindings(&mut self) {
        if !self.leading {
            return;
        }
        for cluster in std::mem::take(&mut self.proposals) {
            let rate = self.rates.peer_object;
            if !self.paced_proposals.admit(&cluster, rate, tokio::time::Instant::now()) {
                continue; // it is updated when its time has come
            }
            let peer = self.facts.peers.get(&cluster).filter(|p| autobind::wanted(p)).cloned();
            let wanted = peer.as_ref().map(autobind::key);
            let leftover = |k: &&NamedKey| autobind::is_for(k, &cluster) && Some(*k) != wanted.as_ref();
            for key in self.self_made.iter().filter(leftover).cloned().collect::<Vec<_>>() {
                self.propose(&cluster, &key, None).await;
            }
            let synced = self.acceptor.offers.get(&cluster).is_some_and(|o| o.synced);
            let (Some(peer), Some(key), true) = (peer, wanted, synced) else { continue };
            let existing = self.acceptor.get(&key).cloned();
            if existing.as_ref().is_some_and(|b| !autobind::is_ours(b)) {
                continue;
            }
            let known = self.acceptor.offers.get(&cluster).into_iter().flat_map(|o| o.known());
            let offered: Vec<_> = known.map(|(key, offer)| (key, offer.only_port())).collect();
            let proposal = autobind::propose(&peer, &offered, existing.as_deref());
            let same = match (&proposal, &existing) {
                (Some(new), Some(old)) => new.spec == old.spec && new.metadata.labels == old.metadata.labels,
                (None, None) => true,
                _ => false,
            };
            if !same {
                self.propose(&cluster, &key, proposal.as_ref()).await;
            }
        }
    }

    async fn propose(&mut self, cluster: &ClusterName, key: &NamedKey, binding: Option<&RemoteServiceBinding>) {
        let problem = self.store.propose(key, binding).await.err().map(|e| e.to_string());
        if problem.is_some() {
            self.proposals.insert(cluster.clone());
            self.try_again_soon();
        }
        self.note_problem(&format!("binding {key}"), problem);
    }
}
