//! Peers whose certificate is revoked.
//!
//! TLS refuses their new connections, at this agent and at the gateways. But Envoy looks at lists in handshakes only, so
//! what such a peer has open at a gateway ends by taking its permission away: as if it were no peer that may consume.
//!
//! What counts is the certificate that a peer showed last. A peer that was renewed has shown the old one, if its stream is
//! older than that: when the old one is revoked the stream ends, and the peer comes back with the new one. It has a
//! moment for this, in which nothing is taken from it.

use std::time::Duration;

use super::{Engine, take_due};
use crate::model::ClusterName;
use crate::store::Store;

/// For one more handshake. The rest of two seconds is for the gateways.
const MOMENT: Duration = Duration::from_millis(700);

impl<S: Store> Engine<S> {
    /// There may be other lists: looks at all peers.
    pub(super) fn judge_certificates(&mut self) {
        let clusters: Vec<_> = self.facts.peers.keys().chain(&self.facts.revoked).cloned().collect();
        for cluster in &clusters {
            self.judge_certificate(cluster);
        }
    }

    /// There may be another list, or the peer may have shown another certificate.
    pub(super) fn judge_certificate(&mut self, cluster: &ClusterName) {
        let shown = self.subscribers.shown(cluster).unwrap_or_default();
        if shown.revoked_by(&self.identity.crls).is_none() {
            self.suspects.remove(cluster);
            if self.facts.revoked.remove(cluster) {
                tracing::info!(%cluster, "the peer shows a certificate that is not revoked: it may consume again");
                self.permissions_changed(cluster);
            }
        } else if !self.facts.revoked.contains(cluster) {
            let due = tokio::time::Instant::now() + MOMENT;
            self.suspects.entry(cluster.clone()).or_insert(due);
        }
    }

    /// Takes their permissions from those that had a moment to show another certificate.
    pub(super) fn condemn_suspects(&mut self) {
        for cluster in take_due(&mut self.suspects) {
            tracing::warn!(%cluster, "the certificate that the peer showed last is revoked: it may not consume any more");
            self.facts.revoked.insert(cluster.clone());
            self.permissions_changed(&cluster);
        }
    }

    fn permissions_changed(&mut self, cluster: &ClusterName) {
        self.donor.touch_all();
        self.mark_peer(cluster);
    }
}
