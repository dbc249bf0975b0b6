//! Looks up the names of peers' gateways, and applies the answers.

use tokio::time::Instant;

use super::Engine;
use crate::agent::lookup::{LookupAnswer, LookupQuestion};
use crate::model::{ClusterName, Exposition, Host, NameAnswer};
use crate::store::Store;
use crate::translate::ExpositionRefusal;

impl<S: Store> Engine<S> {
    /// Asks for the names that are due, and continues without late answers.
    pub(super) async fn look_up_names(&mut self) {
        let now = Instant::now();
        for cluster in self.names.due_peers(now) {
            for name in self.names.drain_late(&cluster, now) {
                self.apply_answer(&cluster, name, Err("no answer in time".to_owned())).await;
            }
            let in_force = self.acceptor.in_force(&cluster);
            for name in self.names.drain_due(&cluster, in_force.iter().map(|e| &**e), now) {
                // If the queue is full, the name is asked again as if there had been no answer.
                let _ = self.lookups.try_send(LookupQuestion { cluster: cluster.clone(), name });
            }
        }
    }

    pub(super) async fn handle_answer(&mut self, answer: LookupAnswer) {
        let LookupAnswer { cluster, name, answer } = answer;
        self.apply_answer(&cluster, name, answer).await;
    }

    async fn apply_answer(&mut self, cluster: &ClusterName, name: Host, answer: NameAnswer) {
        tracing::debug!(%cluster, %name, ?answer, "the name of a gateway was looked up");
        if !self.names.handle_answer(cluster, name, answer, Instant::now()) {
            return;
        }
        let is_ready =
            |e: &&Exposition| !matches!(self.check_exposition(cluster, e), Err(ExpositionRefusal::NotLookedUp(_)));
        let ready: Vec<_> = self.names.waiting_expositions(cluster).filter(is_ready).map(|e| e.key.clone()).collect();
        for key in ready {
            if let Some(heard) = self.names.take_waiting(cluster, &key) {
                self.handle_heard(cluster, heard).await;
            }
        }
        self.rejudge_peer(cluster);
        if self.names.catch_up(cluster) {
            self.acceptor.handle_in_step(cluster);
        }
        if self.names.take_overflow(cluster) {
            self.links.hang_up(cluster);
            self.follow_links(); // there is room now, and the donor sends again what found none
        }
        self.ask_for_pardoned(cluster);
        self.self_made.mark(cluster.clone());
        self.mark_peer(cluster);
    }

    /// Dials a donor again if an exposition that was refused, and so is not held, would be accepted now: the donor
    /// sends it again.
    fn ask_for_pardoned(&mut self, cluster: &ClusterName) {
        let Some(peer) = self.facts.peers.get(cluster) else { return };
        if self.names.take_pardon(cluster, &self.facts.gateway_rules(peer)) {
            tracing::info!(%cluster, "the names of a peer's gateways have allowed addresses again");
            self.links.hang_up(cluster);
            self.follow_links();
        }
    }
}
