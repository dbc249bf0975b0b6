//! Limits writes that a peer causes besides the objects of local names: the status of its peering, and its self-made
//! binding.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{Engine, drain_due};
use crate::agent::acceptor::AcceptorSide;
use crate::agent::pace::{TokenBucket, TokenRate};
use crate::model::ClusterName;
use crate::store::{InputKey, Store};

/// The pace of one kind of object for each peer.
#[derive(Default)]
pub struct PacedPeers {
    buckets: BTreeMap<ClusterName, TokenBucket>,
    waiting: BTreeMap<ClusterName, Instant>,
}

impl PacedPeers {
    /// Returns whether the write may happen now. Otherwise it is due later, once.
    pub fn admit_peer(&mut self, cluster: &ClusterName, rate: TokenRate, now: Instant) -> bool {
        if self.waiting.contains_key(cluster) {
            return false;
        }
        match self.buckets.entry(cluster.clone()).or_default().admit(rate, now) {
            Ok(()) => true,
            Err(next) => {
                self.waiting.insert(cluster.clone(), next);
                false
            }
        }
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }

    pub fn forget_peer(&mut self, cluster: &ClusterName) {
        self.buckets.remove(cluster);
        self.waiting.remove(cluster);
    }
}

/// Returns the time at which held back work is due.
pub(super) fn next_due(acceptor: &AcceptorSide, peers: [&PacedPeers; 2]) -> Option<Instant> {
    let due_peers = peers.into_iter().filter_map(PacedPeers::next_due);
    due_peers.chain(acceptor.paced.next_due()).min()
}

impl<S: Store> Engine<S> {
    pub(super) fn release_paced(&mut self) {
        let now = Instant::now();
        self.acceptor.release_names(now);
        for cluster in drain_due(&mut self.paced_statuses.waiting, now) {
            self.mark_peer(&cluster);
        }
        let due = drain_due(&mut self.self_made.paced.waiting, now);
        self.self_made.mark_all(due);
    }

    /// Marks a peer's status after a message of the peer changed its numbers.
    pub(super) fn mark_peer_paced(&mut self, cluster: &ClusterName) {
        if self.paced_statuses.admit_peer(cluster, self.rates.peer_object, Instant::now()) {
            self.mark_peer(cluster);
        }
    }

    /// Marks the bindings of names that start or stop flapping.
    pub(super) fn mark_flapping(&mut self) {
        for (name, cluster) in self.acceptor.paced.drain_turned() {
            for binding in self.acceptor.bindings_of(&name) {
                self.mark_status(InputKey::Binding(binding));
            }
            self.mark_peer(&cluster);
        }
    }
}
