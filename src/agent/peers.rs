//! The peers: those of the configuration file, overlaid with the store's ClusterPeerings.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::ClusterPeering;
use crate::config::with_usable_roots;
use crate::model::{ClusterName, Peer, SpiffeId};

#[derive(Default)]
pub struct PeerRegistry {
    configured: BTreeMap<ClusterName, Peer>,
    /// Peerings by the object's name. One that cannot be used holds the reason.
    objects: BTreeMap<String, (ClusterPeering, Result<Peer, String>)>,
}

impl PeerRegistry {
    pub fn set_configured(&mut self, peers: BTreeMap<ClusterName, Peer>) {
        self.configured = peers;
    }

    pub fn set_peering(&mut self, own: &ClusterName, object: ClusterPeering) {
        let name = object.metadata.name.clone().unwrap_or_default();
        let peer = match name.parse::<ClusterName>() {
            Ok(cluster) if cluster == *own => Err(format!("metadata.name: {cluster} is this cluster itself")),
            Ok(cluster) => object.spec.to_peer(cluster).and_then(with_usable_roots).map_err(|e| format!("spec.{e}")),
            Err(e) => Err(format!("metadata.name: {e}")),
        };
        self.objects.insert(name, (object, peer));
    }

    pub fn remove_peering(&mut self, name: &str) {
        self.objects.remove(name);
    }

    /// Returns all valid peers. An object wins over the file, because `kubectl` shows it.
    pub fn valid_peers(&self) -> BTreeMap<ClusterName, Peer> {
        let mut all = self.configured.clone();
        all.extend(self.objects.values().filter_map(|(_, peer)| peer.clone().ok()).map(|p| (p.name.clone(), p)));
        all
    }

    /// Returns the generation of the object, and the reason why it cannot be used, if there is one.
    pub fn peering_state(&self, name: &str) -> Option<(Option<i64>, Option<&str>)> {
        let (object, peer) = self.objects.get(name)?;
        Some((object.metadata.generation, peer.as_ref().err().map(String::as_str)))
    }

    /// Returns the names of all objects, valid or not, and of all peers of the file.
    pub fn peer_names(&self) -> BTreeSet<String> {
        self.objects.keys().cloned().chain(self.configured.keys().map(ToString::to_string)).collect()
    }
}

/// Returns the names of the other peers that have an identity.
pub fn with_identity<'a>(
    peers: &'a BTreeMap<ClusterName, Peer>,
    identity: &SpiffeId,
    but: &ClusterName,
) -> Vec<&'a ClusterName> {
    peers.values().filter(|peer| peer.identity == *identity && peer.name != *but).map(|peer| &peer.name).collect()
}

/// Returns the names of the peers that differ between two sets.
pub fn changed_peers(
    before: &BTreeMap<ClusterName, Peer>,
    after: &BTreeMap<ClusterName, Peer>,
) -> BTreeSet<ClusterName> {
    let differs = |name: &&ClusterName| before.get(*name) != after.get(*name);
    before.keys().chain(after.keys()).filter(differs).cloned().collect()
}
