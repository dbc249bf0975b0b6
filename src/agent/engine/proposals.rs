//! Writes self-made bindings: those that bind all that a peer offers, by the peer's entry.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::Engine;
use super::paced::PacedPeers;
use crate::agent::autobind;
use crate::api::RemoteServiceBinding;
use crate::model::ClusterName;
use crate::store::{NamedKey, Store};

/// The self-made bindings, and the peers whose bindings must be compared with their offers.
#[derive(Default)]
pub(super) struct SelfMadeBindings {
    stale: BTreeSet<ClusterName>,
    existing: BTreeSet<NamedKey>,
    pub(super) paced: PacedPeers,
}

impl SelfMadeBindings {
    /// Notes that the self-made binding of a peer may differ from its offers.
    pub(super) fn mark(&mut self, cluster: ClusterName) {
        self.stale.insert(cluster);
    }

    pub(super) fn mark_all(&mut self, clusters: impl IntoIterator<Item = ClusterName>) {
        self.stale.extend(clusters);
    }

    fn take_stale(&mut self) -> BTreeSet<ClusterName> {
        std::mem::take(&mut self.stale)
    }

    /// Notes whether a binding exists that made itself.
    pub(super) fn note(&mut self, key: &NamedKey, exists: bool) {
        if exists {
            self.existing.insert(key.clone());
        } else {
            self.existing.remove(key);
        }
    }

    /// Returns the self-made bindings of a peer except the wanted one.
    fn leftovers(&self, cluster: &ClusterName, wanted: Option<&NamedKey>) -> Vec<NamedKey> {
        let of_peer = self.existing.iter().filter(|key| autobind::is_binding_of(key, cluster));
        of_peer.filter(|key| Some(*key) != wanted).cloned().collect()
    }
}

impl<S: Store> Engine<S> {
    /// Updates the self-made bindings from the offers.
    pub(super) async fn propose_bindings(&mut self) {
        if !self.leading {
            return;
        }
        for cluster in self.self_made.take_stale() {
            if !self.self_made.paced.admit_peer(&cluster, self.rates.peer_object, Instant::now()) {
                continue; // it is updated when its time has come
            }
            let peer = self.facts.peers.get(&cluster).filter(|p| autobind::is_wanted(p)).cloned();
            let wanted = peer.as_ref().map(autobind::binding_key);
            for key in self.self_made.leftovers(&cluster, wanted.as_ref()) {
                self.propose(&cluster, &key, None).await;
            }
            let synced = self.acceptor.offers.get(&cluster).is_some_and(|o| o.synced);
            let (Some(peer), Some(key), true) = (peer, wanted, synced) else { continue };
            let existing = self.acceptor.get(&key).cloned();
            if existing.as_ref().is_some_and(|b| !autobind::is_ours(b)) {
                continue;
            }
            let known = self.acceptor.offers.get(&cluster).into_iter().flat_map(|o| o.known_offers());
            let offered: Vec<_> = known.map(|(key, offer)| (key, offer.only_port())).collect();
            let proposal = autobind::build_proposal(&peer, &offered, existing.as_deref());
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
        let problem = self.store.propose_binding(key, binding).await.err().map(|e| e.to_string());
        if problem.is_some() {
            self.self_made.mark(cluster.clone());
            self.schedule_retry();
        }
        self.note_problem(&format!("binding {key}"), problem);
    }
}
