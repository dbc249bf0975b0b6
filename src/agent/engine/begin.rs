//! Beginnings: the store is read, this replica leads from now on or does not, the gateway is somewhere else. Each time
//! everything is looked at anew, and what is left over is removed.

use std::collections::{BTreeSet, HashSet};

use super::{Engine, PATIENCE, Purpose, local_owner, policy_owner, shared_owner, take_due};
use crate::agent::{gateway, replicas};
use crate::store::{NamedKey, Owner, Store};

impl<S: Store> Engine<S> {
    /// All that the store holds has been read: now it can be told what is missing, and what is left over.
    pub(super) fn store_synced(&mut self) {
        self.look_for_gateway();
        self.refresh_peers();
        self.share_budget(); // also if no peer has changed since the configuration was read
        self.adopt_remembered();
        self.synced = true;
        self.opening = Some(self.donor.keys().cloned().collect());
        self.take_up();
        self.open_board();
        tracing::info!(policies = self.donor.len(), bindings = self.acceptor.len(), "the store is read");
    }

    /// Another replica writes from now on, or this one.
    pub(super) async fn take_leading(&mut self, leading: bool) {
        let before = std::mem::replace(&mut self.leading, leading);
        if !self.synced {
            return;
        }
        if leading && before {
            self.take_up(); // in between it could not write
        } else if leading {
            self.recall().await; // the replica that led before may have heard more
            self.adopt_remembered();
            self.take_up();
            self.mark_all_statuses();
        } else if before {
            self.links.stop().await;
            self.acceptor.lose_touch();
            self.store.report(replicas::report(&self.subscribers));
        }
    }

    /// Looks at everything there is, and at what is left over.
    fn take_up(&mut self) {
        self.patient_until = Some(tokio::time::Instant::now() + PATIENCE);
        self.refresh_peers(); // now with dialling
        self.donor.touch_all();
        self.acceptor.touch_all();
        self.reconcile();
        let policies = self.donor.keys().map(policy_owner);
        let locals = self.acceptor.local_names().map(local_owner);
        let shared = std::iter::once(shared_owner());
        let wanted: HashSet<_> = policies.chain(locals).chain(shared).collect();
        let orphans: Vec<_> = self.held.iter().filter(|o| !wanted.contains(*o)).cloned().collect();
        for owner in orphans {
            self.remove_orphan(owner);
        }
        self.shared_stale = true;
        self.apply_kept();
    }

    /// Removes objects that nobody wanted for a while.
    pub(super) fn sweep(&mut self) {
        for owner in take_due(&mut self.orphans) {
            let wanted = match self.purposes.get(&owner) {
                Some(Purpose::Policy(key)) => self.donor.has(key),
                Some(Purpose::Local(name)) => self.acceptor.has_local(name),
                Some(Purpose::Shared) => true,
                None => false,
            };
            if !wanted {
                self.remove_orphan(owner);
            }
        }
        self.apply_kept();
    }

    /// Nothing is known that wants an owner's objects: they go, unless that may be in what cannot be read.
    fn remove_orphan(&mut self, owner: Owner) {
        match self.held_back(&owner) {
            Some(place) => self.hold(owner, place),
            None => {
                tracing::info!(owner = %owner.0, "deleting orphaned objects");
                self.write(owner, Vec::new());
            }
        }
    }

    /// Where the ingress gateway is reached may have changed.
    pub(super) fn look_for_gateway(&mut self) {
        const PLACE: &str = "ingress gateway";
        if !self.config.ingress.addresses.is_empty() {
            return; // the configuration says it
        }
        let gateway = &self.facts.ingress;
        let service = self.inventory.service(gateway.namespace.as_str(), gateway.service.as_str());
        match gateway::addresses(gateway, service, &self.nodes) {
            Ok(addresses) => {
                self.note_problem(PLACE, None);
                if self.facts.ingress.addresses != addresses {
                    tracing::info!(?addresses, "the ingress gateway is reached there");
                    self.facts.ingress.addresses = addresses;
                    self.donor.touch_all();
                }
            }
            // Whoever only consumes needs none.
            Err(_) if self.donor.len() == 0 => self.note_problem(PLACE, None),
            // What was known last stays: a load balancer that is made anew most likely keeps its address.
            Err(why) => self.note_problem(PLACE, Some(why)),
        }
    }

    /// What is not on the board is taken for withdrawn: it opens when the first writes have said what may be offered.
    pub(super) fn open_board(&mut self) {
        if self.opening.as_ref().is_some_and(BTreeSet::is_empty) {
            self.opening = None;
            self.apply_kept();
            self.board.open();
        }
    }

    /// It is known of a policy what it comes to.
    pub(super) fn opened_for(&mut self, policy: &NamedKey) {
        if let Some(waiting) = &mut self.opening {
            waiting.remove(policy);
            self.open_board();
        }
    }
}
