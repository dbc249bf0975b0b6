//! The donors that this cluster watches, with one client for each.

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::acceptor::OfferVerdict;
use crate::model::{ClusterFacts, ClusterName, ExpositionKey, Peer};
use crate::peering::client::{
    AcceptorContext, BackoffJitter, DonorBudget, DonorEvent, DonorHandle, DonorSpec, DonorState, HoldingsControl,
    StreamMark, watch_donor_within,
};
use crate::peering::convert::{ExpositionChecks, ExpositionOutcome};

pub struct DonorLinks {
    own: AcceptorContext,
    events: mpsc::Sender<DonorEvent>,
    budget: DonorBudget,
    /// Runtime of the donors' tasks.
    wire: Handle,
    links: BTreeMap<ClusterName, DonorLink>,
    /// Clients that are ending. Each of them is awaited.
    stopping: Vec<tokio::task::JoinHandle<()>>,
}

struct DonorLink {
    /// The peer's entry when it was dialled.
    peer: Peer,
    handle: DonorHandle,
    /// Expositions acknowledged as bound or rejected on this connection.
    told: BTreeSet<ExpositionKey>,
}

impl DonorLinks {
    pub fn new(own: AcceptorContext, events: mpsc::Sender<DonorEvent>, wire: Handle) -> DonorLinks {
        let budget = DonorBudget::new(&own.limits);
        DonorLinks { own, events, budget, wire, links: BTreeMap::new(), stopping: Vec::new() }
    }

    /// Watches exactly the peers that have an endpoint. Returns those that are no longer watched.
    pub fn follow_peers(
        &mut self,
        facts: &ClusterFacts,
        held: impl Fn(&ClusterName) -> BTreeMap<ExpositionKey, String>,
        used: impl Fn(&ClusterName) -> Vec<ExpositionKey>,
    ) -> BTreeSet<ClusterName> {
        let watched = |name: &ClusterName| facts.peers.get(name).filter(|p| p.endpoint.is_some());
        let before: BTreeSet<_> = self.links.keys().cloned().collect();
        let gone: BTreeSet<_> = before.into_iter().filter(|name| watched(name).is_none()).collect();
        for name in &gone {
            self.hang_up(name);
        }
        for peer in facts.peers.values() {
            let Some(endpoint) = &peer.endpoint else { continue };
            // The peer's offers were judged by these parts of its entry. If they change, the offers are sent and judged
            // again.
            let same = |link: &DonorLink| judged_by(&link.peer) == judged_by(peer);
            if self.links.get(&peer.name).is_some_and(same) {
                continue;
            }
            self.hang_up(&peer.name);
            let spec = DonorSpec {
                cluster: peer.name.clone(),
                endpoint: endpoint.clone(),
                identity: peer.identity.clone(),
                ca_bundle: peer.ca_bundle.clone(),
                checks: ExpositionChecks { gateways: peer.gateway.is_empty().then(|| facts.gateway_rules(peer)) },
                held: held(&peer.name),
            };
            let _on_the_wire = self.wire.enter();
            let handle = watch_donor_within(
                self.budget.clone(),
                spec,
                self.own.clone(),
                self.events.clone(),
                BackoffJitter::random(),
            );
            used(&peer.name).iter().for_each(|key| handle.control.set_used(key, true));
            self.links.insert(peer.name.clone(), DonorLink { peer: peer.clone(), handle, told: BTreeSet::new() });
        }
        gone
    }

    pub fn hang_up(&mut self, name: &ClusterName) {
        self.stopping.retain(|task| !task.is_finished());
        if let Some(link) = self.links.remove(name) {
            self.stopping.push(tokio::spawn(link.handle.stop()));
        }
    }

    /// Returns the control that tells a donor's task about the holdings.
    pub fn control_of(&self, name: &ClusterName) -> Option<&HoldingsControl> {
        self.links.get(name).map(|l| &l.handle.control)
    }

    pub fn state_of(&self, name: &ClusterName) -> Option<DonorState> {
        self.links.get(name).map(|l| l.handle.state.borrow().clone())
    }

    /// Notes that a batch of this stream was taken in.
    pub fn confirm_batch(&self, name: &ClusterName, mark: StreamMark) {
        if let Some(link) = self.links.get(name) {
            link.handle.acknowledgements.record_batch(mark);
        }
    }

    /// Acknowledges an exposition to its donor.
    pub fn acknowledge_exposition(&mut self, name: &ClusterName, key: ExpositionKey, verdict: OfferVerdict) {
        let Some(link) = self.links.get_mut(name) else { return };
        let outcome = match verdict {
            OfferVerdict::Offered if !link.told.remove(&key) => return, // this is the donor's default
            OfferVerdict::Offered => ExpositionOutcome::offered(),
            OfferVerdict::Bound => ExpositionOutcome::bound(),
            OfferVerdict::Rejected { reason, message } => ExpositionOutcome::rejected(reason, message),
        };
        link.handle.acknowledgements.report_outcome(&key, outcome);
        link.told.insert(key);
    }

    /// Forgets the acknowledgement of an exposition that is withdrawn, or sent again.
    pub fn forget_exposition(&mut self, name: &ClusterName, key: &ExpositionKey) {
        if let Some(link) = self.links.get_mut(name) {
            link.told.remove(key);
            link.handle.acknowledgements.forget_outcome(key);
        }
    }

    /// Ends all streams, and waits for their tasks.
    pub async fn stop(&mut self) {
        let names: Vec<_> = self.links.keys().cloned().collect();
        names.iter().for_each(|name| self.hang_up(name));
        for task in self.stopping.drain(..) {
            if let Err(e) = task.await
                && e.is_panic()
            {
                std::panic::resume_unwind(e.into_panic());
            }
        }
    }
}

/// Returns the parts of a peer's entry that decide about its offers.
fn judged_by(peer: &Peer) -> impl PartialEq {
    (
        peer.endpoint.clone(),
        peer.identity.clone(),
        peer.gateway.clone(),
        peer.trust_domain.clone(),
        peer.allowed_gateways.clone(),
        peer.ca_bundle.clone(),
    )
}

/// Returns the last time at which everything that the peer offers was known to be held.
pub fn last_sync(state: &DonorState) -> Option<OffsetDateTime> {
    state.last_sync.map(OffsetDateTime::from)
}
