//! The acceptor's half of the state: bindings, peers' offers, and the local names that follow from both.
//!
//! The unit of work is the *local name*: several bindings, and several clusters, may stand behind one. Holds no I/O.

mod heard;
mod offers;
mod remembered;
mod status;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::api::{BindingStatus, CONNECTION, Condition, Object, RemoteServiceBinding, ServiceStatus};
use crate::model::{ClusterFacts, ClusterName, ExpositionKey, Host};
use crate::store::{HeldNames, NamedKey, Owner};
use crate::translate::{
    self, AffectedNames, Inventory, LocalName, MissingExposition, PassthroughHosts, PortMemory, ProblemReason, Source,
    SourceOutcome, SplitBinding, WantedService,
};

pub use heard::OfferEffect;
pub use offers::{HeldOffer, OfferPlacement, OfferSummary, PeerOffers, UnfitReason, exposition_bytes};

use remembered::{RememberedServices, memory_of};

use tokio::time::Instant;

use super::donor::WriteState;
use super::fair::FairQueue;
use super::pace::{PacedNames, WriteRates};
use super::since::LastChanges;

struct BindingState {
    object: Arc<RemoteServiceBinding>,
    split: SplitBinding,
    conditions: Vec<Condition>,
    /// Time of the last change of each service's reported status.
    since: LastChanges,
}

/// One entry of a binding that feeds a local name, with its outcome.
struct BindingRequest {
    wanted: Arc<WantedService>,
    outcome: Option<SourceOutcome>,
    /// The entry's last ports, also from before this process.
    memory: PortMemory,
}

#[derive(Default)]
struct LocalNameState {
    /// Entries by binding, each in the order of the binding.
    requests: BTreeMap<NamedKey, Vec<BindingRequest>>,
    write: WriteState,
    /// It uses the objects that all bindings share.
    shared: bool,
    /// Its objects have been handed to the writer.
    wished: bool,
    /// Its objects are in the store, above all the Service: Wharf holds the name, and keeps it.
    standing: bool,
    /// Objects of other namespaces that block it, for the cluster's operator.
    culprit: Option<String>,
}

impl LocalNameState {
    fn all_requests(&self) -> impl Iterator<Item = &BindingRequest> {
        self.requests.values().flatten()
    }
}

/// The result of evaluating a local name.
#[derive(Default)]
pub struct LocalEvaluation {
    pub objects: Vec<Object>,
    /// The objects use those that all bindings share at the egress gateway.
    pub shared: bool,
    /// A peer has not reported since the start, and nothing is remembered of it. Objects from before this process may
    /// come from it, and stay.
    pub hold: bool,
}

/// The acknowledgement to a donor about one of its expositions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OfferVerdict {
    Offered,
    Bound,
    Rejected { reason: String, message: String },
}

impl OfferVerdict {
    fn rejected(reason: ProblemReason) -> OfferVerdict {
        OfferVerdict::Rejected { reason: reason.to_string(), message: reason.for_donor().to_owned() }
    }
}

/// The progress of requesting a content again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FetchState {
    Wanted,
    /// The stream that brings it has begun.
    Underway,
    /// The donor sent all that it offers, without this exposition.
    Missed,
}

/// An exposition of a donor, by cluster and key.
pub type PeerExposition = (ClusterName, ExpositionKey);

fn exposition_of(wanted: &WantedService) -> PeerExposition {
    (wanted.cluster.clone(), wanted.exposed.clone())
}

#[derive(Default)]
pub struct AcceptorSide {
    bindings: BTreeMap<NamedKey, BindingState>,
    locals: BTreeMap<LocalName, LocalNameState>,
    pub offers: BTreeMap<ClusterName, PeerOffers>,
    users: HashMap<PeerExposition, BTreeSet<LocalName>>,
    passthroughs: PassthroughHosts,
    /// State of the objects that all bindings share.
    shared: WriteState,
    dirty: FairQueue<LocalName>,
    /// Limits the rate at which peers have names evaluated.
    pub paced: PacedNames,
    /// Names whose wishes for pass-through hosts are not noted yet. All marked names are noted before the first of them
    /// is evaluated, so that the order of names decides nothing.
    unnoted: BTreeSet<LocalName>,
    /// Expositions whose verdict may have changed since it was last sent.
    untold: BTreeSet<PeerExposition>,
    /// Budget of each peer, in bytes.
    budget: usize,
    /// Names that were dropped to make room. Their peers' tasks do not know that yet.
    made_room: Vec<PeerExposition>,
    /// Expositions whose use by bindings may have changed since it was last reported.
    use_changes: BTreeSet<PeerExposition>,
    /// Expositions whose content is requested again, and those of them that their peers' tasks do not know yet.
    asked: BTreeMap<PeerExposition, FetchState>,
    fetches: BTreeSet<PeerExposition>,
}

impl AcceptorSide {
    /// Builds an empty acceptor that limits peers' changes to these rates.
    pub fn paced_by(rates: WriteRates) -> AcceptorSide {
        AcceptorSide { paced: PacedNames::new(rates), ..AcceptorSide::default() }
    }

    pub fn set_binding(&mut self, key: NamedKey, mut object: Arc<RemoteServiceBinding>) {
        let status = match object.status {
            Some(_) => Arc::make_mut(&mut object).status.take().unwrap_or_default(),
            None => BindingStatus::default(),
        };
        let split = translate::split_binding(&object);
        // The status of a former process counts once, when the binding is new here.
        let told: &[ServiceStatus] = if self.bindings.contains_key(&key) { &[] } else { &status.services };
        self.attach_binding(&key, &split, told);
        match self.bindings.get_mut(&key) {
            Some(binding) => {
                binding.object = object;
                binding.split = split;
            }
            None => {
                let (conditions, since) = (status.conditions, LastChanges::from_services(&status.services));
                self.bindings.insert(key, BindingState { object, split, conditions, since });
            }
        }
    }

    pub fn remove_binding(&mut self, key: &NamedKey) {
        self.attach_binding(key, &SplitBinding::default(), &[]);
        self.bindings.remove(key);
    }

    /// Connects a binding's entries to their local names. Only names whose entries change are touched: one more service
    /// in a binding of a thousand is the work of one local name.
    fn attach_binding(&mut self, key: &NamedKey, split: &SplitBinding, told: &[ServiceStatus]) {
        let remembered = RememberedServices::from_services(told);
        let mut groups: BTreeMap<&LocalName, Vec<&Arc<WantedService>>> = BTreeMap::new();
        for wanted in split.wanted() {
            groups.entry(&wanted.local).or_default().push(wanted);
        }
        let before = self.bindings.get(key).into_iter().flat_map(|b| b.split.wanted());
        let gone: BTreeSet<_> = before.map(|w| w.local.clone()).filter(|l| !groups.contains_key(l)).collect();
        for (local, wanted) in groups {
            self.update_requests(key, local, &wanted, &remembered);
        }
        for local in gone {
            self.update_requests(key, &local, &[], &remembered);
        }
    }

    fn update_requests(
        &mut self,
        key: &NamedKey,
        name: &LocalName,
        wanted: &[&Arc<WantedService>],
        remembered: &RememberedServices<'_>,
    ) {
        let local = self.locals.entry(name.clone()).or_default();
        let before = local.requests.remove(key).unwrap_or_default();
        let same = before.len() == wanted.len() && before.iter().zip(wanted).all(|(r, w)| asks_the_same(&r.wanted, w));
        let mut outcomes: Vec<_> = before.iter().map(|r| r.outcome.clone().filter(|_| same)).collect();
        outcomes.resize_with(wanted.len(), || None);
        let mut seen: HashMap<PeerExposition, usize> = HashMap::new();
        let requests = wanted.iter().zip(outcomes).map(|(w, outcome)| {
            let nth = seen.entry(exposition_of(w)).or_default();
            let memory = memory_of(w, *nth, &before, remembered);
            *nth += 1;
            BindingRequest { wanted: Arc::clone(w), outcome, memory }
        });
        let requests: Vec<_> = requests.collect();
        if !requests.is_empty() {
            local.requests.insert(key.clone(), requests);
        }
        if same {
            return;
        }
        self.paced.free_name(name);
        self.unnoted.insert(name.clone());
        self.dirty.push(name.clone());
        let still: BTreeSet<_> = local.all_requests().map(|r| exposition_of(&r.wanted)).collect();
        for old in before.iter().map(|r| exposition_of(&r.wanted)).filter(|e| !still.contains(e)) {
            if let Some(locals) = self.users.get_mut(&old) {
                locals.remove(name);
                if locals.is_empty() {
                    self.users.remove(&old);
                    self.asked.remove(&old);
                    if let Some(offers) = self.offers.get_mut(&old.0) {
                        offers.mark_maybe_unused();
                    }
                    self.use_changes.insert(old.clone());
                }
            }
            self.untold.insert(old);
        }
        for user in still {
            self.users.entry(user.clone()).or_default().insert(name.clone());
            self.use_changes.insert(user.clone());
            self.untold.insert(user);
        }
    }

    /// Returns the clusters that bindings name.
    pub fn named_clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.users.keys().map(|(cluster, _)| cluster)
    }

    /// Marks all names that a peer feeds: its configuration or its connection may have changed.
    pub fn touch_peer(&mut self, cluster: &ClusterName) {
        let of_peer = self.users.iter().filter(|((c, _), _)| c == cluster);
        self.mark_names(of_peer.flat_map(|(_, locals)| locals.iter().cloned()).collect::<Vec<_>>());
    }

    fn mark_names(&mut self, names: impl IntoIterator<Item = LocalName>) {
        for name in names {
            self.paced.free_name(&name);
            self.unnoted.insert(name.clone());
            self.dirty.push(name);
        }
    }

    /// Marks a local name after a change of an object that it depends on. False if no binding feeds it.
    pub fn touch_local(&mut self, local: &LocalName) -> bool {
        let there = self.locals.contains_key(local);
        if there {
            self.mark_names([local.clone()]);
        }
        there
    }

    /// Marks all names that a change of an object affects.
    pub fn touch_affected(&mut self, affected: &AffectedNames) {
        match affected {
            AffectedNames::Name(name) => drop(self.touch_local(name)),
            AffectedNames::Pattern { .. } => {
                self.mark_names(
                    self.locals.keys().filter(|name| affected.covers_name(name)).cloned().collect::<Vec<_>>(),
                );
            }
        }
    }

    /// Returns the clusters that feed a local name.
    pub fn clusters_of(&self, name: &LocalName) -> BTreeSet<ClusterName> {
        self.locals
            .get(name)
            .into_iter()
            .flat_map(LocalNameState::all_requests)
            .map(|r| r.wanted.cluster.clone())
            .collect()
    }

    pub fn has_local(&self, name: &LocalName) -> bool {
        self.locals.contains_key(name)
    }

    pub fn touch_all(&mut self) {
        self.mark_names(self.locals.keys().cloned().collect::<Vec<_>>());
    }

    /// Takes over which local names held which hosts before this process.
    pub fn adopt_holdings(&mut self, holdings: &HeldNames) {
        for (name, local) in &mut self.locals {
            let services = holdings.services.get(&Owner(name.owner_label().into()));
            local.standing = services.is_some_and(|hosts| hosts.contains(&name.host()));
            local.wished = local.standing;
        }
        self.recall_ports(holdings);
        let of = |name: &LocalName| holdings.gateways.get(&Owner(name.owner_label().into()));
        let held = self.locals.keys().filter_map(|name| Some((name, of(name)?)));
        let held = held.flat_map(|(name, hosts)| hosts.iter().map(move |host| (name.clone(), host.clone())));
        self.passthroughs.restore_holders(held.collect::<Vec<_>>());
    }

    /// Returns whether every local name is evaluated.
    pub fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Returns the next name to evaluate, of a namespace that may have a turn. A name that a peer changes too often is
    /// held back.
    pub fn next_dirty(&mut self, now: Instant, may: impl Fn(&str) -> bool) -> Option<LocalName> {
        loop {
            let name = self.dirty.pop(&may)?;
            if self.paced.admit_name(&name, now) {
                return Some(name);
            }
        }
    }

    /// Marks the names that were held back for long enough.
    pub fn release_names(&mut self, now: Instant) {
        self.dirty.extend(self.paced.release_due(now));
    }

    fn build_sources(&self, name: &LocalName, facts: &ClusterFacts) -> Vec<Source> {
        let requests = self.locals.get(name).into_iter().flat_map(LocalNameState::all_requests);
        let version = |w: &WantedService| Some(self.offers.get(&w.cluster)?.get(&w.exposed)?.version.to_string());
        let source = |r: &BindingRequest| Source {
            wanted: r.wanted.clone(),
            exposition: self.find_exposition(&r.wanted.cluster, &r.wanted.exposed, facts),
            version: version(&r.wanted).unwrap_or_default(),
            memory: r.memory.clone(),
        };
        requests.map(source).collect()
    }

    fn note_passthroughs(&mut self, facts: &ClusterFacts) {
        for name in std::mem::take(&mut self.unnoted) {
            let sources = self.build_sources(&name, facts);
            self.dirty.extend(self.passthroughs.update_sources(&name, &sources));
        }
    }

    /// Evaluates a local name.
    pub fn evaluate(&mut self, name: &LocalName, inventory: &Inventory, facts: &ClusterFacts) -> LocalEvaluation {
        self.note_passthroughs(facts);
        let sources = self.build_sources(name, facts);
        for Source { wanted, exposition, .. } in &sources {
            if exposition.is_err() && self.is_to_fetch(&wanted.cluster, &wanted.exposed) {
                let asked = exposition_of(wanted);
                if !self.asked.contains_key(&asked) {
                    self.asked.insert(asked.clone(), FetchState::Wanted);
                    self.fetches.insert(asked);
                }
            }
        }
        self.dirty.extend(self.passthroughs.update_sources(name, &sources));
        self.dirty.remove(name);
        if sources.is_empty() {
            self.locals.remove(name);
            self.dirty.extend(self.passthroughs.forget_remembered(name));
            return LocalEvaluation::default();
        }
        let hold = sources.iter().any(|s| matches!(s.exposition, Err(MissingExposition::PeerUnreachable(_))));
        let standing = self.locals.get(name).is_some_and(|local| local.standing);
        let bound = translate::bind_local_name(name, &sources, inventory, &self.passthroughs, facts, standing);
        if let Some(local) = self.locals.get_mut(name) {
            local.culprit = log_blocking_object(name, bound.culprit(), local.culprit.take());
            for (request, outcome) in local.requests.values_mut().flatten().zip(bound.outcomes) {
                request.memory.clone_from(&outcome.memory);
                request.outcome = Some(outcome);
            }
            local.write.begin_write();
            local.shared = bound.shared;
        }
        LocalEvaluation { objects: bound.objects, shared: bound.shared, hold }
    }

    /// Notes that the result of the last evaluation is about to be written, so that the name holds the hosts that it
    /// passes through. `wished`: there are objects.
    pub fn note_wish(&mut self, name: &LocalName, wished: bool) {
        let Some(local) = self.locals.get_mut(name) else { return };
        local.wished = wished;
        let accepted = local.all_requests().filter(|r| r.outcome.as_ref().is_some_and(|o| o.problem.is_none()));
        let offers = accepted.filter_map(|r| self.offers.get(&r.wanted.cluster)?.get(&r.wanted.exposed));
        let hosts: BTreeSet<Host> = offers.filter_map(|o| o.exposition()).map(|e| e.host.clone()).collect();
        self.dirty.extend(self.passthroughs.set_held_hosts(name, &hosts));
    }

    /// Returns whether a donor of this name is being dialled for the first time, so that its current offers are
    /// unknown.
    pub fn is_awaited(&self, name: &LocalName, facts: &ClusterFacts) -> bool {
        let dialled = |cluster: &ClusterName| facts.peers.get(cluster).is_some_and(|p| p.endpoint.is_some());
        let awaited = |cluster: &ClusterName| dialled(cluster) && self.is_unheard(cluster);
        self.locals.get(name).is_some_and(|local| local.all_requests().any(|r| awaited(&r.wanted.cluster)))
    }

    /// Returns whether a donor has neither reported its offers since the start nor turned out to be out of reach.
    pub fn is_unheard(&self, cluster: &ClusterName) -> bool {
        self.offers.get(cluster).is_none_or(|o| !o.synced && o.unreachable.is_none() && o.refused.is_none())
    }

    /// Returns whether a binding's result is still pending, and will be known in a moment.
    pub fn is_settling(&self, key: &NamedKey, facts: &ClusterFacts) -> bool {
        let Some(binding) = self.bindings.get(key) else { return false };
        let told_before = !binding.conditions.is_empty();
        let names: BTreeSet<_> = binding.split.wanted().map(|w| &w.local).collect();
        !binding.split.potential
            && names.into_iter().any(|name| {
                let pending = self.locals.get(name).is_some_and(|l| *self.write_of(l) == WriteState::Pending);
                pending && (told_before || !self.is_awaited(name, facts))
            })
    }

    /// Forgets the state of all connections, as no donor is dialled any more. Offers stay.
    pub fn reset_connections(&mut self) {
        for offers in self.offers.values_mut() {
            (offers.connected, offers.synced, offers.unreachable) = (false, false, None);
            offers.missed = false;
        }
    }

    /// Takes in the result of writing a local name's objects.
    pub fn handle_write_result(&mut self, name: &LocalName, write: WriteState) {
        let Some(local) = self.locals.get_mut(name) else { return };
        let stood = local.standing;
        local.standing = match &write {
            WriteState::Done => local.wished,
            WriteState::Conflict(keys) => local.wished && !keys.contains(&name.service_key()),
            WriteState::Pending | WriteState::Failed(_) | WriteState::Held(_) => stood,
        };
        local.write = write;
        self.untold.extend(local.all_requests().map(|r| exposition_of(&r.wanted)));
        if stood && !local.standing {
            // The name is free again, or somebody took it over: other claims to it that had to wait count now.
            self.mark_names([name.clone()]);
        }
    }

    /// Takes in the result of writing the objects that all bindings share. Returns the names that use them, if the
    /// result is new.
    pub fn handle_shared_result(&mut self, write: WriteState) -> Vec<LocalName> {
        if self.shared == write {
            return Vec::new();
        }
        self.shared = write;
        let leaning = self.locals.iter().filter(|(_, l)| l.shared);
        self.untold.extend(leaning.clone().flat_map(|(_, l)| l.all_requests()).map(|r| exposition_of(&r.wanted)));
        leaning.map(|(name, _)| name.clone()).collect()
    }

    /// Returns the state of a local name's objects, with the shared ones that they need.
    fn write_of<'a>(&'a self, local: &'a LocalNameState) -> &'a WriteState {
        match (&local.write, &self.shared) {
            (WriteState::Done, shared) if local.shared => shared,
            (own, _) => own,
        }
    }

    /// Returns whether the objects of a local name are about to be written.
    pub fn is_being_written(&self, name: &LocalName) -> bool {
        self.locals.get(name).is_some_and(|local| local.write == WriteState::Pending)
    }

    /// Returns the bindings that feed a local name. Their statuses change with it.
    pub fn bindings_of(&self, name: &LocalName) -> Vec<NamedKey> {
        self.locals.get(name).into_iter().flat_map(|l| l.requests.keys().cloned()).collect()
    }

    /// Returns the bindings that name a peer.
    pub fn bindings_from(&self, cluster: &ClusterName) -> BTreeSet<NamedKey> {
        let names = |b: &BindingState| b.split.wanted().any(|w| w.cluster == *cluster);
        self.bindings.iter().filter(|(_, b)| names(b)).map(|(key, _)| key.clone()).collect()
    }

    /// Returns the verdicts to send to donors since the last call, each with its exposition.
    pub fn drain_verdicts(&mut self) -> Vec<(ClusterName, ExpositionKey, OfferVerdict)> {
        let untold = std::mem::take(&mut self.untold);
        let known = |c: &ClusterName, k: &ExpositionKey| {
            self.offers.get(c).is_some_and(|o| o.get(k).is_some() || o.rejection_of(k).is_some())
        };
        let told = untold.into_iter().filter(|(c, k)| known(c, k));
        told.filter_map(|user| self.judge_exposition(&user).map(|v| (user.0, user.1, v))).collect()
    }

    /// Returns the verdict on an exposition. None while it is undecided.
    fn judge_exposition(&self, user: &PeerExposition) -> Option<OfferVerdict> {
        if let Some(unfit) = self.offers.get(&user.0)?.rejection_of(&user.1) {
            return Some(OfferVerdict::Rejected { reason: "Rejected".into(), message: unfit.told.clone() });
        }
        let Some(locals) = self.users.get(user) else { return Some(OfferVerdict::Offered) };
        let mut verdict = None;
        for local in locals.iter().filter_map(|name| self.locals.get(name)) {
            for request in local.all_requests().filter(|r| r.wanted.cluster == user.0 && r.wanted.exposed == user.1) {
                match (request.outcome.as_ref()?.problem.as_ref(), self.write_of(local)) {
                    (None, WriteState::Done) => return Some(OfferVerdict::Bound),
                    (None, WriteState::Pending | WriteState::Failed(_) | WriteState::Held(_)) => {}
                    (None, WriteState::Conflict(_)) => {
                        verdict = Some(OfferVerdict::rejected(ProblemReason::NameConflict))
                    }
                    (Some(p), _) => verdict = Some(OfferVerdict::rejected(p.reason)),
                }
            }
        }
        verdict
    }

    /// Returns the bindings that use an exposition.
    pub fn used_by(&self, cluster: &ClusterName, key: &ExpositionKey) -> BTreeSet<NamedKey> {
        self.bindings_using(cluster, key).cloned().collect()
    }

    /// Returns the bindings that ask for an exposition, and whether somebody else holds a local name that they want for
    /// it.
    pub fn contested_bindings(&self, cluster: &ClusterName, key: &ExpositionKey) -> BTreeMap<NamedKey, bool> {
        let locals = self.users.get(&(cluster.clone(), key.clone())).into_iter().flatten();
        let mut contested = BTreeMap::new();
        for (binding, requests) in locals.filter_map(|l| self.locals.get(l)).flat_map(|l| &l.requests) {
            for request in requests.iter().filter(|r| r.wanted.cluster == *cluster && r.wanted.exposed == *key) {
                let problem = request.outcome.as_ref().and_then(|o| o.problem.as_ref());
                let conflicts = problem.is_some_and(|p| p.reason == ProblemReason::NameConflict);
                *contested.entry(binding.clone()).or_default() |= conflicts;
            }
        }
        contested
    }

    /// Returns whether any binding uses an exposition. Called for each offer of a peer on every update of the peer's
    /// status, so it collects no names.
    pub fn is_used(&self, cluster: &ClusterName, key: &ExpositionKey) -> bool {
        self.bindings_using(cluster, key).next().is_some()
    }

    fn bindings_using(&self, cluster: &ClusterName, key: &ExpositionKey) -> impl Iterator<Item = &NamedKey> {
        let locals = self.users.get(&(cluster.clone(), key.clone())).into_iter().flatten();
        let requests = locals.filter_map(|l| self.locals.get(l)).flat_map(|l| &l.requests);
        let asks = |r: &BindingRequest| r.wanted.cluster == *cluster && r.wanted.exposed == *key;
        requests.filter(move |(_, of)| of.iter().any(asks)).map(|(binding, _)| binding)
    }

    pub fn local_names(&self) -> impl Iterator<Item = &LocalName> {
        self.locals.keys()
    }

    pub fn binding_keys(&self) -> impl Iterator<Item = &NamedKey> {
        self.bindings.keys()
    }

    /// Returns the last reported conditions of each binding.
    pub fn binding_conditions(&self) -> impl Iterator<Item = (&NamedKey, &[Condition])> {
        self.bindings.iter().map(|(key, binding)| (key, binding.conditions.as_slice()))
    }

    pub fn get(&self, key: &NamedKey) -> Option<&Arc<RemoteServiceBinding>> {
        self.bindings.get(key).map(|b| &b.object)
    }

    pub fn len(&self) -> usize {
        self.bindings.len()
    }
}

pub fn is_potential(binding: &RemoteServiceBinding) -> bool {
    binding.metadata.labels.as_ref().and_then(|l| l.get(CONNECTION)).is_some_and(|v| v == "potential")
}

/// Logs the object that blocks a local name, once, for the cluster's operator. Statuses do not name it: tenants of
/// other namespaces read them.
fn log_blocking_object(name: &LocalName, culprit: Option<&str>, before: Option<String>) -> Option<String> {
    if let Some(object) = culprit.filter(|c| before.as_deref() != Some(*c)) {
        tracing::warn!(local = %name, %object, "an object of another namespace claims a local name");
    }
    culprit.map(str::to_owned)
}

/// Returns whether two entries ask for the same. Their place in the binding does not matter.
fn asks_the_same(a: &WantedService, b: &WantedService) -> bool {
    let rest = |w: &WantedService| (w.weight, w.priority, w.shares, w.self_made);
    (&a.cluster, &a.exposed, &a.ports, rest(a)) == (&b.cluster, &b.exposed, &b.ports, rest(b))
}
