//! Takes over the state of a former process from the store: the owners of objects, the names that they hold, and the
//! peers' last offers.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use crate::api::{Kind, ObjectKey};
use crate::store::{KnownExposition, Owner, Store};
use crate::translate::{ExpositionRefusal, service_of};

/// Pause before the store is asked again for the peers' last offers.
const RECALL_PAUSE: Duration = Duration::from_secs(10);
/// Name of the place in problems of a store that cannot return them.
const PLACE: &str = "what peers said last";

impl<S: Store> Engine<S> {
    /// Takes over what the store remembers from before this process.
    pub(super) async fn recall(&mut self) {
        if let Some(owners) = self.list_owners().await {
            self.owners.inherit(owners);
        }
        match self.store.held_names().await {
            Ok(holdings) => {
                for (owner, hosts) in &holdings.services {
                    let services = hosts.iter().filter_map(|host| service_of(host.as_str()));
                    let keys: Vec<_> = services.map(|(name, namespace)| service_key(namespace, name)).collect();
                    self.inventory.record_own(&owner.0, keys.iter());
                }
                self.donor.adopt_holdings(&holdings);
                self.acceptor.adopt_holdings(&holdings);
                self.unread.keep_holdings(holdings);
            }
            Err(e) => self.note_problem("store", Some(e.to_string())),
        }
        self.recall_peers().await;
    }

    /// Finds the owners whose objects could not be removed while this replica did not write.
    pub(super) async fn recover_owners(&mut self) {
        if let Some(owners) = self.list_owners().await {
            self.owners.recover(owners);
        }
    }

    /// Returns the owners of the store's objects. A failure is a problem of the store.
    async fn list_owners(&mut self) -> Option<Vec<Owner>> {
        match self.store.list_owners().await {
            Ok(owners) => Some(owners),
            Err(e) => {
                self.note_problem("store", Some(e.to_string()));
                None
            }
        }
    }

    /// Reads the peers' last offers from the store. If it cannot return them, it is asked again after a while: peers
    /// that answer send them anyway.
    pub(super) async fn recall_peers(&mut self) {
        match self.store.recall_expositions().await {
            Ok(known) => {
                self.memory.end_recall(known);
                self.note_problem(PLACE, None);
            }
            Err(e) => {
                self.memory.recall_at(Instant::now() + RECALL_PAUSE);
                self.note_problem(PLACE, Some(e.to_string()));
            }
        }
    }

    /// Takes over remembered expositions, and judges them again: the peers and the configuration may have changed.
    pub(super) fn adopt_remembered(&mut self) {
        for (cluster, KnownExposition { version, exposition }) in self.memory.take_recalled() {
            if self.acceptor.offers.get(&cluster).is_some_and(|o| o.synced) {
                continue; // the peer itself has sent newer offers
            }
            let key = exposition.key.clone();
            if self.may_be_peer(&cluster) {
                continue;
            }
            self.memory.adopt_exposition((cluster.clone(), key.clone()), exposition.clone());
            self.memory.note_use((cluster.clone(), key.clone()));
            if self.facts.peers.get(&cluster).is_none_or(|p| p.endpoint.is_none()) {
                self.memory.forget((cluster, key));
                continue;
            }
            match self.check_exposition(&cluster, &exposition) {
                Ok(()) => {
                    self.acceptor.add_offer(&cluster, &key, &version, Arc::new(exposition));
                }
                // It was in force until this process started, and stays until its names have been looked up again.
                Err(ExpositionRefusal::NotLookedUp(names)) if self.names.want_names(&cluster, &names) => {
                    self.acceptor.add_offer(&cluster, &key, &version, Arc::new(exposition));
                }
                Err(why) => self.reject_exposition(&cluster, &exposition, why),
            }
        }
    }
}

fn service_key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::Service, namespace: namespace.to_owned(), name: name.to_owned() }
}
