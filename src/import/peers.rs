//! Finds the peer that an address belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use crate::model::{Address, ClusterName, InvalidName, Peer};

/// A person's word about addresses: `NAME` for all that no peering knows, or `NAME=ADDRESS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHint {
    pub name: ClusterName,
    pub address: Option<Address>,
}

impl FromStr for PeerHint {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<PeerHint, InvalidName> {
        Ok(match s.split_once('=') {
            Some((name, address)) => PeerHint { name: name.parse()?, address: Some(address.parse()?) },
            None => PeerHint { name: s.parse()?, address: None },
        })
    }
}

/// The peers that are known, and a person's word about addresses.
#[derive(Debug, Default)]
pub struct PeerBook {
    peers: BTreeMap<ClusterName, Peer>,
    hinted: BTreeMap<Address, BTreeSet<ClusterName>>,
    /// The peer of the addresses that no peering knows.
    others: BTreeSet<ClusterName>,
}

/// The peer that has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AddressOwner {
    /// Its peering names the address, or a person does.
    Known(ClusterName),
    /// Its peering allows the address for gateways, and no other peering does.
    Allowed(ClusterName),
    Ambiguous(BTreeSet<ClusterName>),
    Unknown,
}

impl PeerBook {
    pub fn add_peer(&mut self, peer: Peer) {
        self.peers.insert(peer.name.clone(), peer);
    }

    pub fn add_hint(&mut self, hint: PeerHint) {
        match hint.address {
            Some(address) => drop(self.hinted.entry(address).or_default().insert(hint.name)),
            None => drop(self.others.insert(hint.name)),
        }
    }

    pub(super) fn find_peer(&self, name: &ClusterName) -> Option<&Peer> {
        self.peers.get(name)
    }

    /// Finds the peer that an address surely belongs to: by a person's word about it, or because a peering names it.
    pub(super) fn find_named(&self, address: &Address) -> AddressOwner {
        if let Some(names) = self.hinted.get(address) {
            return known_owner(names.iter().cloned());
        }
        known_owner(self.peers.values().filter(|p| names_address(p, address)).map(|p| p.name.clone()))
    }

    /// Finds the owner of an address: first by a person's word about it, then by what the peerings name, and last by
    /// what they allow. An allowed network says where a peer's gateways may be, so it counts only if nothing else does
    /// and no other peering allows the address.
    pub(super) fn find_owner(&self, address: &Address) -> AddressOwner {
        let named = self.find_named(address);
        if named != AddressOwner::Unknown {
            return named;
        }
        let allowing: BTreeSet<_> =
            self.peers.values().filter(|p| p.allowed_gateways.lists_address(address)).map(|p| p.name.clone()).collect();
        if self.others.is_empty() {
            return match known_owner(allowing.into_iter()) {
                AddressOwner::Known(name) => AddressOwner::Allowed(name),
                other => other,
            };
        }
        let mut both = self.others.clone();
        // A person who names one peer for the rest may not have thought of another whose network this is.
        both.extend(allowing);
        known_owner(both.into_iter())
    }
}

fn known_owner(mut names: impl Iterator<Item = ClusterName>) -> AddressOwner {
    match (names.next(), names.next()) {
        (None, _) => AddressOwner::Unknown,
        (Some(only), None) => AddressOwner::Known(only),
        (Some(first), Some(second)) => AddressOwner::Ambiguous([first, second].into_iter().chain(names).collect()),
    }
}

/// Returns whether a peer's entry has this address: its gateway's, or its agent's, which may be the same load balancer.
fn names_address(peer: &Peer, address: &Address) -> bool {
    let gateways = peer.gateway.iter().chain(&peer.gateway_hint).map(|g| &g.address);
    gateways.chain(peer.endpoint.as_ref().map(|e| &e.host)).any(|a| a == address)
}
