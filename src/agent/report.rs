//! Reports the engine's state: statuses of peerings, the answer of `/status`, the metrics.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use time::OffsetDateTime;

use super::acceptor::{HeldOffer, OfferSummary, PeerOffers, exposition_bytes, is_potential};
use super::admin::EngineQuery;
use super::engine::Engine;
use super::excerpt::{MAX_STATUS_BYTES, ViewBudget, ViewFilter, ViewKind};
use super::istiod::metrics_text::GatewayRole;
use super::links::last_sync;
use super::metrics::PeerLabel;
use super::view::{AgentView, BindingView, IstiodView, LeftOut, OfferView, PeerView, PolicyView, ProblemView};
use super::{pace, peers, readiness};
use crate::api::{BindingStatus, Condition, PeeringStatus, PolicyStatus, set_condition};
use crate::model::{ClusterName, ExpositionKey, Peer};
use crate::peering::limits::PAUSE;
use crate::peering::subscribers::{NameClash, PeerPause};
use crate::store::{NamedKey, Store, current_timestamp, format_rfc3339};

/// Most bytes of the offers that `/status` lists with their content.
const STATUS_CONTENTS: usize = 1 << 20;

/// Raises a counter of the metrics to a count from elsewhere.
fn raise_counter(metric: &Counter, counted: &AtomicU64) {
    let counted = counted.load(Ordering::Relaxed);
    metric.inc_by(counted.saturating_sub(metric.get()));
}

impl<S: Store> Engine<S> {
    pub(super) fn answer_query(&mut self, query: EngineQuery) {
        // The caller may have gone; that is no error.
        match query {
            EngineQuery::Ready(reply) => drop(reply.send(self.check_ready())),
            EngineQuery::Metrics(reply) => {
                self.update_metrics();
                drop(reply.send(self.metrics.to_text()));
            }
            EngineQuery::Status(filter, reply) => drop(reply.send(Box::new(self.build_view(&filter)))),
        }
    }

    fn check_ready(&self) -> Result<(), String> {
        if self.synced { Ok(()) } else { Err("the store has not been read to its end yet".into()) }
    }

    fn update_metrics(&mut self) {
        let m = &self.metrics;
        m.policies.set(self.donor.len() as i64);
        m.bindings.set(self.acceptor.len() as i64);
        m.problems.set(self.problems.len() as i64);
        m.leading.set(self.leading.into());
        m.certificate_expiry.set(self.identity.not_after.unix_timestamp());
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as i64;
        m.connections.set(count(&self.counters.connections));
        raise_counter(&m.handshakes_failed, &self.counters.handshakes_failed);
        raise_counter(&m.connections_refused, &self.counters.connections_refused);
        raise_counter(&m.calls_refused, &self.counters.calls_refused);
        for (cluster, peer) in &self.facts.peers {
            let label = PeerLabel { peer: cluster.to_string() };
            if peer.endpoint.is_some() {
                let state = self.links.state_of(cluster).unwrap_or_default();
                m.peer_connected.get_or_create(&label).set(state.connected_since.is_some().into());
                let synced = last_sync(&state).map_or(0, OffsetDateTime::unix_timestamp);
                m.peer_last_sync.get_or_create(&label).set(synced);
                m.peer_offered.get_or_create(&label).set(self.offered_by(cluster) as i64);
                let offers = self.acceptor.offers.get(cluster);
                m.peer_left_out.get_or_create(&label).set(offers.map_or(0, |o| o.tally.left_out as i64));
                m.peer_held_bytes.get_or_create(&label).set(offers.map_or(0, |o| o.held_bytes() as i64));
            }
            if peer.consume {
                m.peer_exposed.get_or_create(&label).set(self.donor.offered_to(cluster) as i64);
                let subscriptions = self.subscribers.get(cluster).map_or(0, |s| s.subscriptions);
                m.peer_subscriptions.get_or_create(&label).set(subscriptions as i64);
            }
        }
    }

    fn offered_by(&self, cluster: &ClusterName) -> usize {
        self.acceptor.offers.get(cluster).map_or(0, PeerOffers::len)
    }

    pub(super) fn policy_status(&mut self, key: &NamedKey, now: &str) -> Option<PolicyStatus> {
        let ambient = self.inventory.is_ambient(&key.namespace);
        let mut status =
            self.donor.build_status(key, &self.facts, ambient, now, |e| self.subscribers.outcomes_by_cluster(e))?;
        self.gateways.apply_condition(GatewayRole::Ingress, &mut status.conditions, status.observed_generation);
        readiness::set_policy_conditions(&mut status, now);
        self.donor.keep_conditions(key, &status.conditions);
        Some(status)
    }

    pub(super) fn binding_status(&mut self, key: &NamedKey, now: &str) -> Option<BindingStatus> {
        let ambient = self.inventory.is_ambient(&key.namespace);
        let mut status = self.acceptor.build_status(key, &self.facts, ambient, now)?;
        if self.calls_by_egress() {
            self.gateways.apply_condition(GatewayRole::Egress, &mut status.conditions, status.observed_generation);
        }
        readiness::set_binding_conditions(&mut status, now);
        self.acceptor.keep_conditions(key, &status.conditions);
        Some(status)
    }

    /// Builds the status of a peering, which is in the file or an object.
    pub(super) fn peering_status(&mut self, name: &str, now: &str) -> Option<PeeringStatus> {
        let cluster: Option<ClusterName> = name.parse().ok();
        let peer = cluster.as_ref().and_then(|c| self.facts.peers.get(c)).cloned();
        let (generation, problem) = match self.peers.peering_state(name) {
            Some((generation, problem)) => (generation, problem.map(str::to_owned)),
            None => (None, None),
        };
        if peer.is_none() && problem.is_none() {
            self.conditions.remove(name);
            return None;
        }
        let mut fresh = Vec::new();
        if let Some(problem) = problem {
            fresh.push(Condition::new("Accepted", false, "Invalid", problem));
        }
        let mut status = PeeringStatus { observed_generation: generation, ..PeeringStatus::default() };
        if let (Some(cluster), Some(peer)) = (&cluster, &peer) {
            self.describe_peering(cluster, peer, &mut status, &mut fresh);
        }
        let conditions = self.conditions.entry(name.to_owned()).or_default();
        let told = [readiness::READY, readiness::RECONCILING, readiness::STALLED];
        conditions.retain(|c| fresh.iter().any(|f| f.type_ == c.type_) || told.contains(&c.type_.as_str()));
        for condition in fresh {
            set_condition(conditions, condition, generation, now);
        }
        status.conditions.clone_from(conditions);
        readiness::set_peering_conditions(&mut status, now);
        conditions.clone_from(&status.conditions);
        Some(status)
    }

    fn describe_peering(
        &self,
        cluster: &ClusterName,
        peer: &Peer,
        status: &mut PeeringStatus,
        conditions: &mut Vec<Condition>,
    ) {
        status.own_certificate_expires = Some(format_rfc3339(self.identity.not_after));
        if peer.endpoint.is_some() {
            let offers = self.acceptor.offers.get(cluster);
            let state = self.links.state_of(cluster).unwrap_or_default();
            conditions.push(connected_condition(cluster, offers));
            let flapping = self.acceptor.paced.flapping_of(cluster);
            if flapping > 0 {
                let message = format!(
                    "it changes {flapping} local names so often that not every change is written; the bindings of those say \
                     so, too. Find what changes there"
                );
                conditions.push(Condition::new(pace::FLAPPING, true, pace::FLAPPING, message));
            }
            status.last_sync = last_sync(&state).map(format_rfc3339);
            status.revision = state.revision;
            status.offered = self.offered_by(cluster) as u32;
            let known = offers.into_iter().flat_map(PeerOffers::known_offers);
            status.bound = known.filter(|(key, _)| self.acceptor.is_used(cluster, key)).count() as u32;
            status.certificate_expires = state.certificate_expires.map(format_rfc3339);
            status.protocol_version = state.protocol_version;
        }
        let paused = self.subscribers.pause_of(cluster).map(|pause| misbehaving_condition(cluster, &pause));
        if !peer.consume && !self.facts.trust_any {
            conditions.extend(paused);
        } else {
            let subscriber = self.subscribers.get(cluster);
            let count = subscriber.as_ref().map_or(0, |s| s.subscriptions);
            let clash = subscriber.as_ref().and_then(|s| s.clash.as_ref());
            let revoked = self.facts.revoked.contains(cluster);
            let sharing = peers::with_identity(&self.facts.peers, &peer.identity, cluster);
            conditions.push(paused.unwrap_or_else(|| match (clash, count) {
                _ if revoked => Condition::new("Subscribed", false, "CertificateRevoked", certificate_revoked(cluster)),
                _ if !sharing.is_empty() => identity_shared(peer, &sharing),
                (Some(clash), _) => Condition::new("Subscribed", false, "NameClash", name_clash(cluster, clash)),
                (None, 0) => Condition::new("Subscribed", false, "NotSubscribed", "the peer is not subscribed now"),
                (None, n) => Condition::new("Subscribed", true, "Subscribed", format!("{n} subscriptions are open")),
            }));
            status.exposed = self.donor.offered_to(cluster) as u32;
            if status.certificate_expires.is_none() {
                status.certificate_expires = subscriber.and_then(|s| s.certificate_expires).map(format_rfc3339);
            }
        }
    }

    /// Builds the requested lists, as far as one answer holds them. Offers come last, because others decide about their
    /// number.
    fn build_view(&mut self, filter: &ViewFilter) -> AgentView {
        let now = current_timestamp();
        let mut budget = ViewBudget::new(MAX_STATUS_BYTES);
        let mut left_out = LeftOut::default();
        let problems = self.problems.iter();
        let problems = problems.map(|(place, message)| ProblemView { place: place.clone(), message: message.clone() });
        let problems = keep_within(&mut budget, problems, &mut left_out.problems);
        let names = if filter.wants_kind(ViewKind::Peers) { self.peers.peer_names() } else { BTreeSet::new() };
        let peers = names.into_iter().filter_map(|name| self.peer_view(name, &now));
        let peers = keep_within(&mut budget, peers, &mut left_out.peers);
        let wanted = |kind: ViewKind, key: &NamedKey| filter.wants_kind(kind) && filter.wants_namespace(&key.namespace);
        let keys: Vec<_> = self.donor.policy_keys().filter(|k| wanted(ViewKind::Policies, k)).cloned().collect();
        let policies = keys.into_iter().filter_map(|key| self.policy_view(key, &now));
        let policies = keep_within(&mut budget, policies, &mut left_out.policies);
        let keys: Vec<_> = self.acceptor.binding_keys().filter(|k| wanted(ViewKind::Bindings, k)).cloned().collect();
        let bindings = keys.into_iter().filter_map(|key| self.binding_view(key, &now));
        let bindings = keep_within(&mut budget, bindings, &mut left_out.bindings);
        let offers = keep_within(&mut budget, self.offer_views(filter), &mut left_out.offers);
        AgentView {
            cluster: self.facts.cluster.to_string(),
            identity: self.facts.identity.to_string(),
            instance: self.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            certificate_expires: format_rfc3339(self.identity.not_after),
            synced: self.synced,
            istiod: self.config.istiod.as_ref().map(|metrics| IstiodView {
                metrics: metrics.to_string(),
                unanswered: self.gateways.watch.unanswered.clone(),
            }),
            problems,
            policies,
            bindings,
            peers,
            offers,
            left_out,
        }
    }

    fn policy_view(&mut self, key: NamedKey, now: &str) -> Option<PolicyView> {
        let status = self.policy_status(&key, now)?;
        Some(PolicyView { namespace: key.namespace, name: key.name, outdated: false, status })
    }

    fn binding_view(&mut self, key: NamedKey, now: &str) -> Option<BindingView> {
        let status = self.binding_status(&key, now)?;
        let potential = self.acceptor.get(&key).is_some_and(|b| is_potential(b));
        let connection = if potential { "potential" } else { "live" }.to_owned();
        Some(BindingView { namespace: key.namespace, name: key.name, connection, outdated: false, status })
    }

    fn peer_view(&mut self, name: String, now: &str) -> Option<PeerView> {
        let status = self.peering_status(&name, now)?;
        let peer = name.parse::<ClusterName>().ok().and_then(|c| self.facts.peers.get(&c));
        Some(PeerView {
            endpoint: peer.and_then(|p| p.endpoint.as_ref()).map(ToString::to_string),
            consume: peer.is_some_and(|p| p.consume),
            identity: peer.map(|p| p.identity.to_string()).unwrap_or_default(),
            name,
            status,
        })
    }

    /// Lists the offers of peers. The first have their content, as far as it is held; all have it if only offers are
    /// requested.
    fn offer_views(&self, filter: &ViewFilter) -> impl Iterator<Item = OfferView> {
        let mut contents = if filter.asks_for(ViewKind::Offers) { usize::MAX } else { STATUS_CONTENTS };
        let peers = self.acceptor.offers.iter().filter(|_| filter.wants_kind(ViewKind::Offers));
        let known =
            peers.clone().flat_map(|(cluster, o)| o.known_offers().map(move |(key, offer)| (cluster, key, offer)));
        let known = known.filter(|(_, key, _)| filter.wants_namespace(key.namespace.as_str()));
        let refused = peers.flat_map(|(cluster, o)| o.refused_names().map(move |(key, why)| (cluster, key, why)));
        let refused = refused.filter(|(_, key, _)| filter.wants_namespace(key.namespace.as_str()));
        let known = known.map(move |(cluster, key, offer)| {
            let mut view = self.offer_view(cluster, key, offer);
            if let Some(exposition) = offer.exposition() {
                let left = contents.checked_sub(exposition_bytes(exposition));
                view.exposition = left.map(|_| (**exposition).clone());
                contents = left.unwrap_or_default();
            }
            view
        });
        known.chain(refused.map(|(cluster, key, why)| OfferView {
            cluster: cluster.to_string(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            rejected: why.why.clone(),
            bound_by: self.users_of(cluster, key),
            ..OfferView::default()
        }))
    }

    fn users_of(&self, cluster: &ClusterName, key: &ExpositionKey) -> Vec<String> {
        self.acceptor.used_by(cluster, key).into_iter().map(|b| b.to_string()).collect()
    }

    fn offer_view(&self, cluster: &ClusterName, key: &ExpositionKey, offer: &HeldOffer) -> OfferView {
        let OfferSummary { tls, ports, more_ports } = offer.to_summary();
        OfferView {
            cluster: cluster.to_string(),
            version: offer.version.to_string(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            tls: tls.to_string(),
            ports: ports.iter().map(|(number, protocol)| format!("{number}/{}", protocol.as_str())).collect(),
            more_ports,
            exposition: None,
            bound_by: self.users_of(cluster, key),
            rejected: offer.rejected.as_ref().map(|unfit| unfit.why.clone()).unwrap_or_default(),
        }
    }
}

/// Returns the items that the budget has room for. The number of the others goes to `left_out`.
fn keep_within<T: Serialize>(budget: &mut ViewBudget, items: impl Iterator<Item = T>, left_out: &mut usize) -> Vec<T> {
    let (kept, others) = budget.collect_fitting(items);
    *left_out = others;
    kept
}

fn name_clash(cluster: &ClusterName, clash: &NameClash) -> String {
    format!(
        "another cluster (instance {}) subscribes with a certificate of the name {cluster}, and was refused last at {}: \
         every cluster needs a name and certificate of its own",
        clash.refused,
        format_rfc3339(clash.at.into())
    )
}

fn misbehaving_condition(cluster: &ClusterName, pause: &PeerPause) -> Condition {
    let message = format!(
        "{cluster} breaks the limits of the protocol: {}. Its calls are refused until {}; ask its operator what runs there, \
         and take it off the peers if nobody knows",
        pause.why,
        format_rfc3339((pause.since + PAUSE).into())
    );
    Condition::new("Subscribed", false, "Misbehaving", message)
}

/// Builds the condition about an identity that stands for several peers, whose calls are refused for that reason.
fn identity_shared(peer: &Peer, sharing: &[&ClusterName]) -> Condition {
    let others: Vec<_> = sharing.iter().map(|name| name.as_str()).collect();
    let message = format!(
        "{} is the identity of {}, too, so calls with it are refused: give each peer its own `identity`, or remove an entry",
        peer.identity,
        others.join(", ")
    );
    Condition::new("Subscribed", false, "IdentityShared", message)
}

fn certificate_revoked(cluster: &ClusterName) -> String {
    format!(
        "the certificate that {cluster} showed last is revoked: nothing is offered to it, and gateways let it in no more, \
         until its agent shows another; issue one (`wharf ca issue {cluster}`)"
    )
}

fn connected_condition(cluster: &ClusterName, offers: Option<&PeerOffers>) -> Condition {
    let Some(offers) = offers else {
        return Condition::new("Connected", false, "Connecting", format!("{cluster} has not answered yet"));
    };
    let misbehaves = |holds: bool, message: String| Condition::new("Connected", holds, "Misbehaving", message);
    match (&offers.refused, offers.connected, offers.synced) {
        (Some(why), ..) => Condition::new("Connected", false, "NotPermitted", why.clone()),
        (None, true, true) if offers.tally.left_out > 0 => misbehaves(true, too_much(offers)),
        (None, true, true) => Condition::new("Connected", true, "InStep", in_step(offers)),
        (None, true, false) => Condition::new("Connected", false, "Syncing", "subscribed, and catching up"),
        (None, false, _) => {
            let why = offers.unreachable.clone().unwrap_or_else(|| "connecting".into());
            if offers.misbehaving {
                return misbehaves(false, format!("{why}; what is configured stays as it is"));
            }
            Condition::new("Connected", false, "PeerUnreachable", why)
        }
    }
}

fn in_step(offers: &PeerOffers) -> String {
    let mut rejected = offers.all_rejections().peekable();
    match rejected.peek() {
        None => "subscribed, and in step".to_owned(),
        Some(first) => {
            let why = first.why.clone();
            format!("subscribed, and in step; {} of its offers are rejected: {why}", rejected.count())
        }
    }
}

fn too_much(offers: &PeerOffers) -> String {
    format!(
        "it offers more than is held of one peer: {} expositions are held, in {} bytes, and {} are left out; what bindings use \
         comes first. Have it expose less to this cluster, or raise limits.peerExpositions and limits.peerBytes",
        offers.len(),
        offers.held_bytes(),
        offers.tally.left_out
    )
}
