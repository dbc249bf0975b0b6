//! Handles events: each marks what it touches, and decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::owners::{OwnerPurpose, policy_owner};
use super::{AWAY, Engine, GRACE, drain_due, may_consume};
use crate::agent::acceptor::{OfferEffect, PeerOffers};
use crate::agent::audit::AuditEvent;
use crate::agent::metrics::PeerLabel;
use crate::agent::{autobind, peers, replicas};
use crate::api::{Kind, ObjectKey};
use crate::config::Config;
use crate::identity::Identity;
use crate::model::{ClusterName, Exposition, ExpositionKey, NewerField, Peer, SpiffeId, Style};
use crate::peering::client::{DonorEvent, DonorNews};
use crate::peering::convert::{ReceivedExposition, WireRejection};
use crate::peering::subscribers::SubscriberChanges;
use crate::peering::{PeerTable, UnreadPeers};
use crate::store::{Change, HiddenInputs, Input, InputKey, KnownExposition, Owner, Store, format_rfc3339};
use crate::translate::{self, AffectedNames, Inventory};

impl<S: Store> Engine<S> {
    pub(super) fn handle_store_change(&mut self, change: Change) {
        match change {
            Change::Set(key, input) => self.handle_input(key, input),
            Change::Gone(key) => self.handle_gone(&key),
            Change::Problem { place, message, hidden } => {
                if hidden.is_empty() {
                    tracing::warn!(%place, %message, "there is a problem");
                } else {
                    tracing::warn!(%place, %message, "cannot read a place; what was read there before stays in force");
                }
                self.note_hidden(&place, &message, hidden);
                self.note_problem(&place, Some(message));
            }
            Change::Solved { place } => {
                self.note_hidden(&place, "", HiddenInputs::default());
                self.note_problem(&place, None);
            }
            Change::Drift(owner) => self.repair_owner(&owner),
            Change::Synced => self.told = true,
            Change::Replica(replica, report) => {
                self.subscribers.replace_replica_report(&replica, replicas::read_report(report))
            }
            Change::Nodes(nodes) => {
                self.nodes = nodes;
                self.update_ingress_addresses();
            }
            Change::Ambient { of, namespaces } => {
                for namespace in self.inventory.learn_ambient(of, namespaces) {
                    self.donor.touch_namespace(&namespace);
                }
                self.mark_ambient();
            }
            Change::AbsentFields(fields) => self.leave_out_fields(fields),
            Change::Mesh(settings) => self.take_mesh(settings),
        }
    }

    /// Notes fields that Istio's installed definitions do not declare, and marks all objects: they are written without
    /// these fields.
    fn leave_out_fields(&mut self, absent: BTreeSet<NewerField>) {
        if self.facts.absent_fields == absent {
            return;
        }
        for field in &absent {
            tracing::warn!(kind = field.kind(), field = field.name(), "leaving out a field: {field}");
        }
        self.facts.absent_fields = absent;
        self.acceptor.touch_all();
    }

    pub(super) fn handle_input(&mut self, key: InputKey, input: Input) {
        match (key, input) {
            (InputKey::Policy(key), Input::Policy(policy)) => {
                self.audit.forget_object(&format!("ServiceExpositionPolicy {key}"));
                let first = self.donor.len() == 0;
                for (cluster, exposition, outcome) in self.donor.set_policy(key, policy) {
                    self.subscribers.assume_outcome(&cluster, &exposition, outcome);
                }
                if first {
                    self.update_ingress_addresses(); // now one is needed
                }
            }
            (InputKey::Binding(key), Input::Binding(binding)) => {
                self.self_made.mark_all(binding.spec.remote.iter().filter_map(|r| r.cluster.parse().ok()));
                self.self_made.note(&key, autobind::is_ours(&binding));
                if let Some(status) = binding.status.as_ref().filter(|_| !self.leading) {
                    self.acceptor.adopt_status(&key, &status.services);
                }
                self.audit.forget_object(&format!("RemoteServiceBinding {key}"));
                self.acceptor.set_binding(key.clone(), binding);
                self.mark_status(InputKey::Binding(key));
            }
            (InputKey::Peering(name), Input::Peering(peering)) => {
                if let Some(status) = &peering.status {
                    self.conditions.entry(name.clone()).or_insert_with(|| status.conditions.clone());
                }
                self.peers.set_peering(&self.facts.cluster, (*peering).clone());
                self.refresh_peers();
                // An object that cannot be used changes no peer, and its status has to say so.
                self.mark_status(InputKey::Peering(name));
            }
            (InputKey::Object(key), Input::Object(object)) => {
                self.touch_object(&key); // as it was
                self.change_inventory(|inventory| inventory.set_object(object));
                self.touch_object(&key);
            }
            (key, _) => tracing::error!(%key, "the store reported an object under the wrong key"),
        }
    }

    pub(super) fn handle_gone(&mut self, key: &InputKey) {
        match key {
            InputKey::Policy(policy) => {
                self.audit.forget_object(&format!("ServiceExpositionPolicy {policy}"));
                let withdrawn = self.donor.remove_policy(policy);
                self.publish_offers(policy, withdrawn);
                self.mark_evaluated(policy);
                if self.donor.len() == 0 {
                    self.update_ingress_addresses();
                }
                self.want_objects(policy_owner(policy), OwnerPurpose::Policy(policy.clone()), Vec::new());
            }
            InputKey::Binding(binding) => {
                if let Some(object) = self.acceptor.get(binding) {
                    let clusters = object.spec.remote.iter().filter_map(|r| r.cluster.parse().ok());
                    self.self_made.mark_all(clusters);
                }
                self.audit.forget_object(&format!("RemoteServiceBinding {binding}"));
                self.self_made.note(binding, false);
                self.acceptor.remove_binding(binding);
            }
            InputKey::Peering(name) => {
                self.peers.remove_peering(name);
                self.refresh_peers();
            }
            InputKey::Object(object) => {
                self.touch_object(object);
                self.change_inventory(|inventory| inventory.remove_object(object));
                self.touch_egress(object);
            }
        }
        self.mark_status(key.clone());
    }

    /// Applies a change of users' objects. Others' rules for the egress gateway concern all names whose calls use it:
    /// those of the rule's namespace, or all names if it is the gateway's namespace.
    fn change_inventory(&mut self, change: impl FnOnce(&mut Inventory)) {
        let host = self.facts.egress.host();
        let before = self.inventory.rules_over(&host);
        let is_shut = |inventory: &Inventory| {
            translate::is_gateway_shut(inventory, &self.facts.egress, &self.facts.root_namespace)
        };
        let was_shut = is_shut(&self.inventory);
        change(&mut self.inventory);
        let after = self.inventory.rules_over(&host);
        if self.facts.style == Style::EgressIngress && was_shut != is_shut(&self.inventory) {
            self.acceptor.touch_all();
        }
        if self.facts.style != Style::EgressIngress || before == after {
            return;
        }
        let gateway = self.facts.egress.namespace.as_str();
        for rule in before.symmetric_difference(&after) {
            if rule.namespace == gateway {
                self.acceptor.touch_all();
                self.shared.mark_stale();
                continue;
            }
            let of = Some(vec![rule.namespace.clone()]);
            self.acceptor.touch_affected(&AffectedNames::Pattern { end: String::new(), of });
            if after.contains(rule) && rule.is_in_front(&self.facts.egress.namespace, &self.facts.root_namespace) {
                let (namespace, name, covers) = (&rule.namespace, &rule.name, &rule.host);
                tracing::warn!(
                    %namespace, %name, host = %covers,
                    "a DestinationRule covers the egress gateway: bound services may not be called from its namespace; \
                     remove it, or move it to the gateway's namespace"
                );
            }
        }
    }

    pub(super) fn touch_object(&mut self, key: &ObjectKey) {
        let gateway = &self.facts.ingress;
        if key.kind == Kind::Service
            && key.name == gateway.service.as_str()
            && key.namespace == gateway.namespace.as_str()
        {
            self.update_ingress_addresses();
        }
        self.touch_egress(key);
        self.donor.touch_object(key, &self.facts);
        for affected in self.inventory.bears_on(key) {
            self.acceptor.touch_affected(&affected);
        }
    }

    fn touch_egress(&mut self, key: &ObjectKey) {
        let egress = &self.facts.egress;
        let is_it = key.name == egress.service.as_str() && key.namespace == egress.namespace.as_str();
        if self.synced && key.kind == Kind::Service && is_it {
            self.update_egress_doubt();
        }
    }

    /// Repairs an object of ours that somebody changed or removed: what should exist is evaluated and written again.
    pub(super) fn repair_owner(&mut self, owner: &Owner) {
        match self.owners.purpose(owner).cloned() {
            Some(OwnerPurpose::Policy(key)) if self.donor.touch_policy(&key) => {}
            Some(OwnerPurpose::Local(name)) if self.acceptor.touch_local(&name) => {}
            Some(OwnerPurpose::Shared) => self.shared.mark_stale(),
            // Its owner is gone, or not reported yet.
            _ if self.synced => {
                self.owners.await_purpose(owner.clone(), tokio::time::Instant::now() + GRACE);
            }
            _ => {}
        }
    }

    pub(super) async fn handle_donor(&mut self, event: DonorEvent) {
        let DonorEvent { cluster, news, .. } = event;
        if self.links.state_of(&cluster).is_none() {
            return; // the stream was closed while this event was on its way
        }
        // Only these fields change the statuses of all bindings of the donor. Everything else is reported by local
        // name.
        let here = |o: &PeerOffers| (o.connected || o.missed, o.synced, o.refused.clone());
        let step = |e: &Self| e.acceptor.offers.get(&cluster).map(here);
        let before = step(self);
        match news {
            DonorNews::Connected { .. } => {
                self.acceptor.begin_stream(&cluster);
                let offers = self.acceptor.offers.entry(cluster.clone()).or_default();
                (offers.connected, offers.missed, offers.unreachable) = (true, false, None);
                if offers.refused.take().is_some() {
                    offers.synced = false; // its present offers are still to come
                    self.acceptor.touch_peer(&cluster);
                }
            }
            DonorNews::Batch { changed, gone, mark, synced } => {
                for heard in changed {
                    self.handle_offer(&cluster, heard).await;
                }
                for key in gone {
                    self.forget_exposition(&cluster, &key).await;
                }
                if synced && !self.names.delay_step(&cluster) {
                    self.acceptor.handle_in_step(&cluster);
                }
                self.links.confirm_batch(&cluster, mark);
                self.self_made.mark(cluster.clone());
            }
            DonorNews::Disconnected { reason, refused: true, .. } => self.handle_refused(&cluster, reason).await,
            DonorNews::Disconnected { reason, misbehaving, .. } => {
                if misbehaving {
                    self.metrics.peer_misbehaviours.get_or_create(&PeerLabel { peer: cluster.to_string() }).inc();
                }
                let offers = self.acceptor.offers.entry(cluster.clone()).or_default();
                offers.misbehaving |= misbehaving;
                if std::mem::replace(&mut offers.connected, false) {
                    offers.missed = true;
                    self.missed.insert(cluster.clone(), tokio::time::Instant::now() + AWAY);
                }
                if offers.unreachable.replace(reason).is_none() && !offers.synced {
                    self.acceptor.touch_peer(&cluster); // it had been held back in the hope of an answer
                }
            }
        }
        if step(self) != before {
            for binding in self.acceptor.bindings_from(&cluster) {
                self.mark_status(InputKey::Binding(binding));
            }
            self.mark_peer(&cluster);
        } else {
            self.mark_peer_paced(&cluster);
        }
    }

    /// Marks bindings of peers that have not come back in time.
    pub(super) fn mark_away_peers(&mut self) {
        for cluster in drain_due(&mut self.missed, tokio::time::Instant::now()) {
            let offers = self.acceptor.offers.get_mut(&cluster);
            if offers.is_some_and(|o| std::mem::replace(&mut o.missed, false)) {
                for binding in self.acceptor.bindings_from(&cluster) {
                    self.mark_status(InputKey::Binding(binding));
                }
            }
        }
    }

    pub(super) async fn handle_offer(
        &mut self,
        cluster: &ClusterName,
        heard: Result<ReceivedExposition, WireRejection>,
    ) {
        let (key, why) = match heard {
            Ok(heard) => return self.handle_heard(cluster, heard).await,
            Err(rejection) if rejection.surplus => {
                self.acceptor.count_left_out(cluster);
                return;
            }
            Err(rejection) => (rejection.key.clone(), rejection.to_string()),
        };
        self.note_rejection(cluster, key.as_ref().map_or(&"without a name" as &dyn Display, |key| key), &why);
        if let Some(key) = key {
            self.names.forget_exposition(cluster, &key);
            self.acceptor.reject_offer(cluster, &key, why.into());
        }
    }

    /// Keeps an exposition that is fit to be used. Returns the reason if a binding wants it and there is no room.
    async fn keep_offer(
        &mut self,
        cluster: &ClusterName,
        key: &ExpositionKey,
        version: String,
        exposition: Arc<Exposition>,
    ) -> Option<String> {
        match self.acceptor.add_offer(cluster, key, &version, exposition) {
            OfferEffect::Same => None,
            OfferEffect::News => {
                self.audit_heard(AuditEvent::Offered, cluster, key, &version);
                let kept = self.acceptor.offers.get(cluster).and_then(|o| o.get(key)).and_then(|o| o.exposition());
                let known = kept.map(|e| KnownExposition { version, exposition: (**e).clone() });
                self.remember_exposition(cluster, key, known).await;
                None
            }
            OfferEffect::LeftOut => {
                self.drop_holding(cluster, key);
                self.remember_exposition(cluster, key, None).await;
                None
            }
            OfferEffect::NoRoom(why) => Some(why),
        }
    }

    /// Takes in a well-formed exposition. If it depends on names without an answer, it waits for them.
    pub(super) async fn handle_heard(&mut self, cluster: &ClusterName, heard: ReceivedExposition) {
        let ReceivedExposition { version, exposition } = heard;
        let key = exposition.key.clone();
        self.names.forget_exposition(cluster, &key);
        match self.check_exposition(cluster, &exposition) {
            Ok(()) => {
                if let Some(why) = self.keep_offer(cluster, &key, version, Arc::new(exposition)).await {
                    self.note_rejection(cluster, &key, &why);
                    self.acceptor.reject_offer(cluster, &key, why.into());
                }
            }
            Err(translate::ExpositionRefusal::NotLookedUp(names)) if self.names.want_names(cluster, &names) => {
                // The donor sends it again when the names have answers, if it was dropped meanwhile.
                let room = self.acceptor.bytes_left(cluster);
                if !self.names.keep_waiting(cluster, ReceivedExposition { version, exposition }, room) {
                    self.acceptor.count_left_out(cluster);
                    self.drop_holding(cluster, &key);
                }
            }
            Err(why) => self.reject_exposition(cluster, &exposition, why),
        }
    }

    /// Counts a rejection, and logs it, at most once a second for each peer.
    fn note_rejection(&self, cluster: &ClusterName, exposition: &dyn Display, why: &dyn Display) {
        if let Some(more) = self.rejections.admit_line(cluster.clone(), Instant::now()) {
            tracing::warn!(%cluster, %exposition, %why, more, "an exposition is rejected");
        }
        self.metrics.expositions_rejected.get_or_create(&PeerLabel { peer: cluster.to_string() }).inc();
    }

    fn drop_holding(&self, cluster: &ClusterName, key: &ExpositionKey) {
        if let Some(control) = self.links.control_of(cluster) {
            control.let_go(key);
        }
    }

    pub(super) fn reject_exposition(
        &mut self,
        cluster: &ClusterName,
        exposition: &Exposition,
        why: translate::ExpositionRefusal,
    ) {
        self.note_rejection(cluster, &exposition.key, &why);
        self.names.note_refusal(cluster, exposition, &why);
        self.acceptor.reject_offer(cluster, &exposition.key, why.into());
    }

    /// Judges a peer's expositions again: its entry or the addresses of its gateways' names changed, and what was fit
    /// to be used may not be any more.
    pub(super) fn rejudge_peer(&mut self, cluster: &ClusterName) {
        for exposition in self.acceptor.in_force(cluster) {
            match self.check_exposition(cluster, &exposition) {
                Ok(()) => {}
                Err(translate::ExpositionRefusal::NotLookedUp(names)) if self.names.want_names(cluster, &names) => {}
                Err(why) => {
                    self.note_rejection(cluster, &exposition.key, &why);
                    self.names.note_refusal(cluster, &exposition, &why);
                    self.acceptor.revoke_offer(cluster, &exposition.key, why.into());
                }
            }
        }
    }

    /// Checks that an exposition may be configured here.
    pub(super) fn check_exposition(
        &self,
        cluster: &ClusterName,
        exposition: &Exposition,
    ) -> Result<(), translate::ExpositionRefusal> {
        translate::validate_exposition(cluster, exposition, &self.facts, self.names.answers_of(cluster))
    }

    pub(super) async fn forget_exposition(&mut self, cluster: &ClusterName, key: &ExpositionKey) {
        self.names.forget_exposition(cluster, key);
        self.links.forget_exposition(cluster, key);
        let version = self.acceptor.offers.get(cluster).and_then(|o| o.get(key)).map(|o| o.version.to_string());
        if self.acceptor.withdraw_offer(cluster, key) {
            self.audit_heard(AuditEvent::Withdrawn, cluster, key, version.as_deref().unwrap_or_default());
            self.remember_exposition(cluster, key, None).await;
        }
    }

    /// Handles a donor's statement that it offers nothing to this cluster, which equals an empty list.
    pub(super) async fn handle_refused(&mut self, cluster: &ClusterName, reason: String) {
        let offers = self.acceptor.offers.entry(cluster.clone()).or_default();
        (offers.connected, offers.missed, offers.synced) = (false, false, true);
        self.names.forget_peer(cluster);
        let offers = self.acceptor.offers.entry(cluster.clone()).or_default();
        offers.refused = Some(reason);
        let gone: Vec<_> = offers.held_versions().into_keys().collect();
        for key in gone {
            self.forget_exposition(cluster, &key).await;
        }
        self.acceptor.touch_peer(cluster);
        self.self_made.mark(cluster.clone());
    }

    /// Handles changes of the acceptors: they came, went, or sent outcomes.
    pub(super) fn handle_subscribers(&mut self, changed: SubscriberChanges) {
        if !self.leading {
            self.store.report_replica(replicas::build_report(&self.subscribers));
        }
        for (cluster, exposition) in changed.outcomes {
            self.audit_outcome(&cluster, &exposition);
            if let Some(policy) = self.donor.policy_of(&exposition).cloned() {
                self.mark_status(InputKey::Policy(policy));
            }
        }
        for cluster in changed.clusters {
            self.judge_certificate(&cluster);
            self.mark_peer(&cluster);
        }
        if changed.everything {
            let policies: Vec<_> = self.donor.policy_keys().cloned().collect();
            policies.into_iter().for_each(|key| self.mark_status(InputKey::Policy(key)));
            let peers: Vec<_> = self.facts.peers.keys().cloned().collect();
            peers.iter().for_each(|cluster| self.mark_peer(cluster));
            self.judge_certificates();
        }
    }

    pub(super) fn handle_config(&mut self, config: Result<Box<Config>, String>) {
        match config {
            Err(problem) => {
                tracing::error!(%problem, "the configuration cannot be used; the last good one stays in force");
                self.note_problem("configuration", Some(problem));
            }
            Ok(config) => {
                self.note_problem("configuration", None);
                let rest =
                    Config { peers: self.config.peers.clone(), trust_any: self.config.trust_any, ..(*config).clone() };
                if rest != self.config {
                    tracing::warn!("the configuration has changes besides peers; they take effect at the next start");
                }
                self.peers.set_configured(config.peers.clone());
                self.config.peers = config.peers;
                if self.facts.trust_any != config.trust_any {
                    self.donor.touch_all();
                }
                self.config.trust_any = config.trust_any;
                self.facts.trust_any = config.trust_any;
                self.refresh_peers();
            }
        }
    }

    pub(super) fn handle_identity(&mut self, inlet: &mut watch::Receiver<Arc<Identity>>) {
        self.identity = inlet.borrow_and_update().clone();
        tracing::info!(expires = %format_rfc3339(self.identity.not_after), "a new certificate is in use");
        for name in self.peers.peer_names() {
            self.mark_status(InputKey::Peering(name)); // the status shows the expiry of our certificate
        }
        self.judge_certificates();
        self.update_identity_doubt();
        if self.facts.identity != self.identity.spiffe_id {
            self.facts.identity = self.identity.spiffe_id.clone();
            self.donor.touch_all();
            self.announce_peers();
        }
    }

    /// Applies changes of the peers: dials, hangs up, and marks everything that names one of them.
    pub(super) fn refresh_peers(&mut self) {
        let all = self.peers.valid_peers();
        let changed = peers::changed_peers(&self.facts.peers, &all);
        let consumers =
            changed.iter().any(|name| may_consume(&self.facts, name) || all.get(name).is_some_and(|p| p.consume));
        let identities = |peers: &BTreeMap<ClusterName, Peer>| -> BTreeSet<SpiffeId> {
            changed.iter().filter_map(|name| Some(peers.get(name)?.identity.clone())).collect()
        };
        let touched = &identities(&self.facts.peers) | &identities(&all);
        self.facts.peers = all;
        // The status of a peer also depends on whether another one has its identity.
        let sharing = self.facts.peers.values().filter(|peer| touched.contains(&peer.identity));
        let sharing: Vec<_> = sharing.map(|peer| InputKey::Peering(peer.name.to_string())).collect();
        sharing.into_iter().for_each(|key| self.mark_status(key));
        self.share_budget();
        if consumers {
            self.donor.touch_all();
        }
        for cluster in &changed {
            if self.facts.peers.contains_key(cluster) {
                self.rejudge_peer(cluster);
            } else {
                self.subscribers.forget_cluster(cluster);
            }
            self.acceptor.touch_peer(cluster);
            self.self_made.mark(cluster.clone());
            self.mark_status(InputKey::Peering(cluster.to_string()));
        }
        self.announce_peers();
        self.follow_links();
    }

    /// Dials and hangs up, according to the peers' entries.
    pub(super) fn follow_links(&mut self) {
        if self.synced && self.leading {
            let held = |cluster: &ClusterName| self.acceptor.held_versions(cluster);
            let used = |cluster: &ClusterName| self.acceptor.used_expositions(cluster);
            let gone = self.links.follow_peers(&self.facts, held, used);
            for gone in gone {
                for key in self.acceptor.drop_peer(&gone) {
                    self.memory.forget((gone.clone(), key));
                }
                self.names.forget_peer(&gone);
                self.metrics.remove_peer(gone.as_str());
                self.paced_statuses.forget_peer(&gone);
                self.self_made.paced.forget_peer(&gone);
            }
        }
    }

    /// Gives each donor its share of the memory for offers.
    pub(super) fn share_budget(&mut self) {
        let donors = self.facts.peers.values().filter(|p| p.endpoint.is_some()).count();
        self.acceptor.set_budget(self.limits.held_of_one(donors));
    }

    pub(super) fn announce_peers(&self) {
        // Until the store is read, any cluster may turn out to be a peer by an object there.
        let unread = if self.synced { self.unread.blind.unread_peers() } else { Some(UnreadPeers::any()) };
        self.table.send_if_modified(|table| {
            let new = Arc::new(PeerTable::from(&self.facts).with_unread(unread));
            let changed = **table != *new;
            *table = new;
            changed
        });
    }
}
