//! Handles peers whose certificate is revoked.
//!
//! TLS refuses their new connections, at this agent and at the gateways. Envoy checks revocation lists only in
//! handshakes, so the open connections of such a peer at a gateway are ended by taking its permission away, as if it
//! were no peer that may consume.
//!
//! The certificate that a peer showed last decides. After a renewal, a peer whose stream is older has shown the old
//! certificate. If that one is revoked, the stream ends, and the peer comes back with the new one. For this it has a
//! grace period in which it loses nothing.

use std::time::Duration;

use super::{Engine, drain_due};
use crate::model::ClusterName;
use crate::store::Store;

/// Grace period for one more handshake. The rest of two seconds is for the gateways.
const MOMENT: Duration = Duration::from_millis(700);

impl<S: Store> Engine<S> {
    /// Judges all peers after a possible change of the revocation lists.
    pub(super) fn judge_certificates(&mut self) {
        let clusters: Vec<_> = self.facts.peers.keys().chain(&self.facts.revoked).cloned().collect();
        for cluster in &clusters {
            self.judge_certificate(cluster);
        }
    }

    /// Judges a peer after a possible change of the list, or of the certificate that it shows.
    pub(super) fn judge_certificate(&mut self, cluster: &ClusterName) {
        let shown = self.subscribers.shown_certificates(cluster).unwrap_or_default();
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

    /// Takes permissions from peers that did not show another certificate within their grace period.
    pub(super) fn condemn_suspects(&mut self) {
        for cluster in drain_due(&mut self.suspects, tokio::time::Instant::now()) {
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
