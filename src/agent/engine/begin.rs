//! Handles new beginnings: the store is read, this replica becomes or ceases to be the leader, the gateway's address
//! changes. Each time everything is evaluated again, and leftovers are removed.

use std::collections::{BTreeSet, HashSet};

use super::owners::{OwnerPurpose, local_owner, policy_owner, shared_owner};
use super::{Engine, PATIENCE};
use crate::agent::gateway::GatewaySight;
use crate::agent::{gateway, replicas};
use crate::api::Kind;
use crate::config::StoreConfig;
use crate::model::{DoubtKind, GatewayDoubt, OwnGateway};
use crate::store::{NamedKey, Owner, Store};

impl<S: Store> Engine<S> {
    /// Starts the evaluation after all inputs of the store have been read: now it is known what is missing and what is
    /// left over.
    pub(super) fn store_synced(&mut self) {
        self.update_ingress_addresses();
        self.update_egress_doubt();
        self.update_identity_doubt();
        self.refresh_peers();
        self.share_budget(); // also if no peer has changed since the configuration was read
        self.adopt_remembered();
        self.synced = true;
        self.opening = Some(self.donor.policy_keys().cloned().collect());
        self.reconcile_everything();
        self.open_board();
        tracing::info!(policies = self.donor.len(), bindings = self.acceptor.len(), "the store is read");
    }

    /// Handles a change of the leader: this replica or another one writes from now on.
    pub(super) async fn handle_leading(&mut self, leading: bool) {
        let before = std::mem::replace(&mut self.leading, leading);
        if !self.synced {
            return;
        }
        if leading && before {
            self.recover_owners().await; // it could not write in between
            self.reconcile_everything();
        } else if leading {
            self.recall().await; // the former leader may have received more
            self.adopt_remembered();
            self.reconcile_everything();
            self.mark_all_statuses();
        } else if before {
            self.links.stop().await;
            self.acceptor.reset_connections();
            self.store.report_replica(replicas::build_report(&self.subscribers));
        }
    }

    /// Evaluates everything, and removes leftovers.
    fn reconcile_everything(&mut self) {
        self.patient_until = Some(tokio::time::Instant::now() + PATIENCE);
        self.refresh_peers(); // now it dials, too
        self.donor.touch_all();
        self.acceptor.touch_all();
        self.self_made.mark_all(self.facts.peers.keys().cloned());
        self.reconcile();
        let policies = self.donor.policy_keys().map(policy_owner);
        let locals = self.acceptor.local_names().map(local_owner);
        let shared = std::iter::once(shared_owner());
        let wanted: HashSet<_> = policies.chain(locals).chain(shared).collect();
        for owner in self.owners.unwanted(&wanted) {
            self.remove_orphan(owner);
        }
        self.shared.mark_stale();
        self.apply_kept();
    }

    /// Removes objects that had no known owner for the whole grace period.
    pub(super) fn remove_orphans(&mut self) {
        for owner in self.owners.take_due(tokio::time::Instant::now()) {
            let wanted = match self.owners.purpose(&owner) {
                Some(OwnerPurpose::Policy(key)) => self.donor.has_policy(key),
                Some(OwnerPurpose::Local(name)) => self.acceptor.has_local(name),
                Some(OwnerPurpose::Shared) => true,
                None => false,
            };
            if !wanted {
                self.remove_orphan(owner);
            }
        }
        self.apply_kept();
    }

    /// Deletes the objects of an owner that nothing known asks for, unless an unreadable place may hide its policy or
    /// binding.
    fn remove_orphan(&mut self, owner: Owner) {
        match self.place_hiding_owner(&owner) {
            Some(place) => self.hold_objects(owner, place),
            None => {
                tracing::info!(owner = %owner.0, "deleting orphaned objects");
                self.write_objects(owner, Vec::new());
            }
        }
    }

    /// Updates the addresses of the ingress gateway.
    pub(super) fn update_ingress_addresses(&mut self) {
        const PLACE: &str = "ingress gateway";
        if !self.config.ingress.addresses.is_empty() {
            return; // the configuration sets them
        }
        let gateway = &self.facts.ingress;
        match gateway::find_addresses(gateway, &self.sight_gateway(gateway), &self.nodes) {
            Ok(addresses) => {
                self.note_problem(PLACE, None);
                self.doubt_ingress(None);
                if self.facts.ingress.addresses != addresses {
                    let told: Vec<_> = addresses.iter().map(|a| format!("{}:{}", a.address, a.port)).collect();
                    tracing::info!(addresses = %told.join(","), "the ingress gateway has new addresses");
                    self.facts.ingress.addresses = addresses;
                    self.donor.touch_all();
                }
            }
            // A cluster that only consumes needs no address.
            Err(_) if self.donor.len() == 0 => self.note_problem(PLACE, None),
            // The last known address stays: a recreated load balancer most likely keeps it.
            Err(why) => {
                self.note_problem(PLACE, Some(why.to_string()));
                self.doubt_ingress(Some(why));
            }
        }
    }

    fn sight_gateway(&self, gateway: &OwnGateway) -> GatewaySight<'_> {
        let (namespace, name) = (gateway.namespace.as_str(), gateway.service.as_str());
        if let Some(service) = self.inventory.service(namespace, name) {
            return GatewaySight::Seen(service);
        }
        match self.inventory.doubt_absence(Kind::Service, namespace, name) {
            Some(why) => GatewaySight::Unread(why),
            None if matches!(&self.config.store, StoreConfig::Kube(_)) => GatewaySight::Missing,
            None => GatewaySight::Untold,
        }
    }

    fn doubt_ingress(&mut self, doubt: Option<GatewayDoubt>) {
        if self.facts.doubts.ingress != doubt {
            if let Some(doubt) = &doubt {
                tracing::warn!(reason = doubt.kind.reason(), "the ingress gateway is not fit for others: {doubt}");
            }
            self.facts.doubts.ingress = doubt;
            self.donor.touch_all();
        }
    }

    /// Updates the reason why the egress gateway cannot take calls.
    pub(super) fn update_egress_doubt(&mut self) {
        let gateway = &self.facts.egress;
        let doubt = gateway::doubt_egress(gateway, &self.sight_gateway(gateway)).filter(|_| self.calls_by_egress());
        if self.facts.doubts.egress != doubt {
            if let Some(doubt) = &doubt {
                tracing::warn!(reason = doubt.kind.reason(), "the egress gateway is not fit for calls: {doubt}");
            }
            self.facts.doubts.egress = doubt;
            self.mark_all_statuses();
        }
    }

    /// Updates the reason why gateways cannot use the cluster's certificate.
    pub(super) fn update_identity_doubt(&mut self) {
        let doubt = self.identity.unfit_for_gateways().map(|message| GatewayDoubt {
            kind: DoubtKind::Identity,
            message,
            cure: "have a certificate issued for an RSA key of at least 2048 bits, or EC P-256 (`wharf ca issue` does)"
                .into(),
        });
        if self.facts.doubts.identity != doubt {
            if let Some(doubt) = &doubt {
                tracing::warn!(reason = doubt.kind.reason(), "gateways cannot use the identity: {doubt}");
            }
            self.facts.doubts.identity = doubt;
            self.mark_all_statuses();
        }
    }

    /// Opens the board once the first writes have shown what may be offered. Before, acceptors would take missing
    /// offers for withdrawn.
    pub(super) fn open_board(&mut self) {
        if self.opening.as_ref().is_some_and(BTreeSet::is_empty) {
            self.opening = None;
            self.apply_kept();
            self.board.open();
        }
    }

    /// Marks a policy as evaluated; opens the board after the last one.
    pub(super) fn mark_evaluated(&mut self, policy: &NamedKey) {
        if let Some(waiting) = &mut self.opening {
            waiting.remove(policy);
            self.open_board();
        }
    }
}
