//! Who the peers are: those of the configuration file, overlaid with the store's ClusterPeerings.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::ClusterPeering;
use crate::config::with_usable_roots;
use crate::model::{ClusterName, Peer};

#[derive(Default)]
pub struct Peers {
    configured: BTreeMap<ClusterName, Peer>,
    /// By the object's name; a peering that cannot be used says why.
    objects: BTreeMap<String, (ClusterPeering, Result<Peer, String>)>,
}

impl Peers {
    pub fn configure(&mut self, peers: BTreeMap<ClusterName, Peer>) {
        self.configured = peers;
    }

    pub fn set(&mut self, own: &ClusterName, object: ClusterPeering) {
        let name = object.metadata.name.clone().unwrap_or_default();
        let peer = match name.parse::<ClusterName>() {
            Ok(cluster) if cluster == *own => Err(format!("metadata.name: {cluster} is this cluster itself")),
            Ok(cluster) => object.spec.to_peer(cluster).and_then(with_usable_roots).map_err(|e| format!("spec.{e}")),
            Err(e) => Err(format!("metadata.name: {e}")),
        };
        self.objects.insert(name, (object, peer));
    }

    pub fn remove(&mut self, name: &str) {
        self.objects.remove(name);
    }

    /// All peers that are valid. An object wins over the file: it is what `kubectl` shows.
    pub fn all(&self) -> BTreeMap<ClusterName, Peer> {
        let mut all = self.configured.clone();
        all.extend(self.objects.values().filter_map(|(_, peer)| peer.clone().ok()).map(|p| (p.name.clone(), p)));
        all
    }

    /// The generation of the object, and why it cannot be used, if it cannot.
    pub fn object(&self, name: &str) -> Option<(Option<i64>, Option<&str>)> {
        let (object, peer) = self.objects.get(name)?;
        Some((object.metadata.generation, peer.as_ref().err().map(String::as_str)))
    }

    /// The names of all objects, valid or not, and of all peers of the file.
    pub fn names(&self) -> BTreeSet<String> {
        self.objects.keys().cloned().chain(self.configured.keys().map(ToString::to_string)).collect()
    }
}

/// The names of the peers that differ between two sets.
pub fn changed(before: &BTreeMap<ClusterName, Peer>, after: &BTreeMap<ClusterName, Peer>) -> BTreeSet<ClusterName> {
    let differs = |name: &&ClusterName| before.get(*name) != after.get(*name);
    before.keys().chain(after.keys()).filter(differs).cloned().collect()
}
