//! The acceptor's half of the state: bindings, what peers offer, and what both come to.
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
    self, Affected, Inventory, LocalName, Missing, Passthroughs, PortMemory, Reason, Source, SourceOutcome, Split,
    Wanted,
};

pub use heard::Taken;
pub use offers::{Offer, OfferSummary, PeerOffers, Placed, Unfit, exposition_bytes};

use remembered::{Remembered, memory_of};

use tokio::time::Instant;

use super::donor::Write;
use super::fair::FairQueue;
use super::pace::{PacedNames, WriteRates};
use super::since::Since;

struct Binding {
    object: Arc<RemoteServiceBinding>,
    split: Split,
    conditions: Vec<Condition>,
    /// Since when each service is as it is told.
    since: Since,
}

/// One entry of a binding that feeds a local name, and what became of it.
struct Request {
    wanted: Arc<Wanted>,
    outcome: Option<SourceOutcome>,
    /// The ports that it came to last, also before this process.
    memory: PortMemory,
}

#[derive(Default)]
struct Local {
    /// By binding, in the order of its entries.
    requests: BTreeMap<NamedKey, Vec<Request>>,
    write: Write,
    /// It leans on the objects that all bindings share.
    shared: bool,
    /// Its objects were handed to the writer.
    wished: bool,
    /// Its objects are in the store, first of all the Service: Wharf has the name, and keeps it.
    standing: bool,
    /// The objects of other namespaces that are in its way, for the cluster's operator.
    culprit: Option<String>,
}

impl Local {
    fn all(&self) -> impl Iterator<Item = &Request> {
        self.requests.values().flatten()
    }
}

/// What evaluating a local name came to.
#[derive(Default)]
pub struct Evaluation {
    pub objects: Vec<Object>,
    /// They lean on those that all bindings share at the egress gateway.
    pub shared: bool,
    /// A peer was not heard since the start, and nothing is remembered of it: what was configured before this process
    /// may come from it, and stays.
    pub hold: bool,
}

/// What is told to a donor of one of its expositions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Offered,
    Bound,
    Rejected { reason: String, message: String },
}

impl Verdict {
    fn rejected(reason: Reason) -> Verdict {
        Verdict::Rejected { reason: reason.to_string(), message: reason.for_donor().to_owned() }
    }
}

/// How far asking for a content again has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FetchState {
    Wanted,
    /// The stream that brings it has begun.
    Underway,
    /// The donor told all, and not this.
    Missed,
}

/// An exposition of a donor.
pub type Exposed = (ClusterName, ExpositionKey);

fn exposed(wanted: &Wanted) -> Exposed {
    (wanted.cluster.clone(), wanted.exposed.clone())
}

#[derive(Default)]
pub struct Acceptor {
    bindings: BTreeMap<NamedKey, Binding>,
    locals: BTreeMap<LocalName, Local>,
    pub offers: BTreeMap<ClusterName, PeerOffers>,
    users: HashMap<Exposed, BTreeSet<LocalName>>,
    passthroughs: Passthroughs,
    /// How far the objects are that all bindings share.
    shared: Write,
    dirty: FairQueue<LocalName>,
    /// How fast peers may have names evaluated.
    pub paced: PacedNames,
    /// Names of which it is not noted yet what they want to pass through: all that are marked are noted before the first of
    /// them is evaluated, so that the order of names decides nothing.
    unnoted: BTreeSet<LocalName>,
    /// Expositions about which the verdict may have changed since it was last told.
    untold: BTreeSet<Exposed>,
    /// What may be held of one peer, in bytes.
    budget: usize,
    /// Names that were held and are not any more, to make room; their peers' tasks are still to be told.
    made_room: Vec<Exposed>,
    /// Expositions that may be used or not used since that was last told.
    use_changes: BTreeSet<Exposed>,
    /// Those whose content is to be asked for again, and those of them whose peers' tasks are still to be told.
    asked: BTreeMap<Exposed, FetchState>,
    fetches: BTreeSet<Exposed>,
}

impl Acceptor {
    /// An empty one, in which peers' changes come through at these rates.
    pub fn paced_by(rates: WriteRates) -> Acceptor {
        Acceptor { paced: PacedNames::new(rates), ..Acceptor::default() }
    }

    pub fn set(&mut self, key: NamedKey, mut object: Arc<RemoteServiceBinding>) {
        let status = match object.status {
            Some(_) => Arc::make_mut(&mut object).status.take().unwrap_or_default(),
            None => BindingStatus::default(),
        };
        let split = translate::sources(&object);
        // What a former process told of it counts once, when the binding is new here.
        let told: &[ServiceStatus] = if self.bindings.contains_key(&key) { &[] } else { &status.services };
        self.attach(&key, &split, told);
        match self.bindings.get_mut(&key) {
            Some(binding) => {
                binding.object = object;
                binding.split = split;
            }
            None => {
                let (conditions, since) = (status.conditions, Since::told(&status.services));
                self.bindings.insert(key, Binding { object, split, conditions, since });
            }
        }
    }

    pub fn remove(&mut self, key: &NamedKey) {
        self.attach(key, &Split::default(), &[]);
        self.bindings.remove(key);
    }

    /// Makes the local names hold what a binding asks for now. Only those for which it asks something else than before
    /// are touched: one service more in a binding of a thousand is one local name's work.
    fn attach(&mut self, key: &NamedKey, split: &Split, told: &[ServiceStatus]) {
        let remembered = Remembered::of(told);
        let mut groups: BTreeMap<&LocalName, Vec<&Arc<Wanted>>> = BTreeMap::new();
        for wanted in split.wanted() {
            groups.entry(&wanted.local).or_default().push(wanted);
        }
        let before = self.bindings.get(key).into_iter().flat_map(|b| b.split.wanted());
        let gone: BTreeSet<_> = before.map(|w| w.local.clone()).filter(|l| !groups.contains_key(l)).collect();
        for (local, wanted) in groups {
            self.ask(key, local, &wanted, &remembered);
        }
        for local in gone {
            self.ask(key, &local, &[], &remembered);
        }
    }

    fn ask(&mut self, key: &NamedKey, name: &LocalName, wanted: &[&Arc<Wanted>], remembered: &Remembered<'_>) {
        let local = self.locals.entry(name.clone()).or_default();
        let before = local.requests.remove(key).unwrap_or_default();
        let same = before.len() == wanted.len() && before.iter().zip(wanted).all(|(r, w)| asks_the_same(&r.wanted, w));
        let mut outcomes: Vec<_> = before.iter().map(|r| r.outcome.clone().filter(|_| same)).collect();
        outcomes.resize_with(wanted.len(), || None);
        let mut seen: HashMap<Exposed, usize> = HashMap::new();
        let requests = wanted.iter().zip(outcomes).map(|(w, outcome)| {
            let nth = seen.entry(exposed(w)).or_default();
            let memory = memory_of(w, *nth, &before, remembered);
            *nth += 1;
            Request { wanted: Arc::clone(w), outcome, memory }
        });
        let requests: Vec<_> = requests.collect();
        if !requests.is_empty() {
            local.requests.insert(key.clone(), requests);
        }
        if same {
            return;
        }
        self.paced.set_free(name);
        self.unnoted.insert(name.clone());
        self.dirty.push(name.clone());
        let still: BTreeSet<_> = local.all().map(|r| exposed(&r.wanted)).collect();
        for old in before.iter().map(|r| exposed(&r.wanted)).filter(|e| !still.contains(e)) {
            if let Some(locals) = self.users.get_mut(&old) {
                locals.remove(name);
                if locals.is_empty() {
                    self.users.remove(&old);
                    self.asked.remove(&old);
                    if let Some(offers) = self.offers.get_mut(&old.0) {
                        offers.look_again();
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

    /// The clusters that bindings name.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.users.keys().map(|(cluster, _)| cluster)
    }

    /// Everything about a peer may have changed: its configuration, or whether it answers.
    pub fn touch_peer(&mut self, cluster: &ClusterName) {
        let of_peer = self.users.iter().filter(|((c, _), _)| c == cluster);
        self.mark(of_peer.flat_map(|(_, locals)| locals.iter().cloned()).collect::<Vec<_>>());
    }

    fn mark(&mut self, names: impl IntoIterator<Item = LocalName>) {
        for name in names {
            self.paced.set_free(&name);
            self.unnoted.insert(name.clone());
            self.dirty.push(name);
        }
    }

    /// Something of the user's has come or gone that bears on this name. False if nothing feeds it.
    pub fn touch_local(&mut self, local: &LocalName) -> bool {
        let there = self.locals.contains_key(local);
        if there {
            self.mark([local.clone()]);
        }
        there
    }

    /// The same of all names that an object bears on.
    pub fn touch_affected(&mut self, affected: &Affected) {
        match affected {
            Affected::Name(name) => drop(self.touch_local(name)),
            Affected::Pattern { .. } => {
                self.mark(self.locals.keys().filter(|name| affected.covers(name)).cloned().collect::<Vec<_>>());
            }
        }
    }

    /// The clusters that feed a local name.
    pub fn clusters_of(&self, name: &LocalName) -> BTreeSet<ClusterName> {
        self.locals.get(name).into_iter().flat_map(Local::all).map(|r| r.wanted.cluster.clone()).collect()
    }

    pub fn has_local(&self, name: &LocalName) -> bool {
        self.locals.contains_key(name)
    }

    pub fn touch_all(&mut self) {
        self.mark(self.locals.keys().cloned().collect::<Vec<_>>());
    }

    /// Takes up which local names held which hosts before this process.
    pub fn remember(&mut self, holdings: &HeldNames) {
        for (name, local) in &mut self.locals {
            let services = holdings.services.get(&Owner(name.owner().into()));
            local.standing = services.is_some_and(|hosts| hosts.contains(&name.host()));
            local.wished = local.standing;
        }
        let of = |name: &LocalName| holdings.gateways.get(&Owner(name.owner().into()));
        let held = self.locals.keys().filter_map(|name| Some((name, of(name)?)));
        let held = held.flat_map(|(name, hosts)| hosts.iter().map(move |host| (name.clone(), host.clone())));
        self.passthroughs.remember(held.collect::<Vec<_>>());
    }

    /// Whether every local name is evaluated.
    pub fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    /// The next name that is to be evaluated, of a namespace that may have a turn. One that a peer changes too often is held
    /// back.
    pub fn next_dirty(&mut self, now: Instant, may: impl Fn(&str) -> bool) -> Option<LocalName> {
        loop {
            let name = self.dirty.pop(&may)?;
            if self.paced.admit(&name, now) {
                return Some(name);
            }
        }
    }

    /// Names that were held back for long enough are to be evaluated.
    pub fn release(&mut self, now: Instant) {
        self.dirty.extend(self.paced.release(now));
    }

    fn sources(&self, name: &LocalName, facts: &ClusterFacts) -> Vec<Source> {
        let requests = self.locals.get(name).into_iter().flat_map(Local::all);
        let version = |w: &Wanted| Some(self.offers.get(&w.cluster)?.get(&w.exposed)?.version.to_string());
        let source = |r: &Request| Source {
            wanted: r.wanted.clone(),
            exposition: self.lookup(&r.wanted.cluster, &r.wanted.exposed, facts),
            version: version(&r.wanted).unwrap_or_default(),
            memory: r.memory.clone(),
        };
        requests.map(source).collect()
    }

    fn note_passthroughs(&mut self, facts: &ClusterFacts) {
        for name in std::mem::take(&mut self.unnoted) {
            let sources = self.sources(&name, facts);
            self.dirty.extend(self.passthroughs.update(&name, &sources));
        }
    }

    /// What a local name comes to now.
    pub fn evaluate(&mut self, name: &LocalName, inventory: &Inventory, facts: &ClusterFacts) -> Evaluation {
        self.note_passthroughs(facts);
        let sources = self.sources(name, facts);
        for Source { wanted, exposition, .. } in &sources {
            if exposition.is_err() && self.is_to_fetch(&wanted.cluster, &wanted.exposed) {
                let asked = exposed(wanted);
                if !self.asked.contains_key(&asked) {
                    self.asked.insert(asked.clone(), FetchState::Wanted);
                    self.fetches.insert(asked);
                }
            }
        }
        self.dirty.extend(self.passthroughs.update(name, &sources));
        self.dirty.remove(name);
        if sources.is_empty() {
            self.locals.remove(name);
            self.dirty.extend(self.passthroughs.forget(name));
            return Evaluation::default();
        }
        let hold = sources.iter().any(|s| matches!(s.exposition, Err(Missing::PeerUnreachable(_))));
        let standing = self.locals.get(name).is_some_and(|local| local.standing);
        let bound = translate::bind(name, &sources, inventory, &self.passthroughs, facts, standing);
        if let Some(local) = self.locals.get_mut(name) {
            local.culprit = tell_operator(name, bound.culprit(), local.culprit.take());
            for (request, outcome) in local.requests.values_mut().flatten().zip(bound.outcomes) {
                request.memory.clone_from(&outcome.memory);
                request.outcome = Some(outcome);
            }
            local.write.begin();
            local.shared = bound.shared;
        }
        Evaluation { objects: bound.objects, shared: bound.shared, hold }
    }

    /// What the last evaluation came to is about to be written (`wished`: there are objects): the name holds what they pass
    /// through.
    pub fn wish(&mut self, name: &LocalName, wished: bool) {
        let Some(local) = self.locals.get_mut(name) else { return };
        local.wished = wished;
        let accepted = local.all().filter(|r| r.outcome.as_ref().is_some_and(|o| o.problem.is_none()));
        let offers = accepted.filter_map(|r| self.offers.get(&r.wanted.cluster)?.get(&r.wanted.exposed));
        let hosts: BTreeSet<Host> = offers.filter_map(|o| o.exposition()).map(|e| e.host.clone()).collect();
        self.dirty.extend(self.passthroughs.hold(name, &hosts));
    }

    /// Whether a donor of this name is being dialled for the first time, so that nobody knows what it says now.
    pub fn is_awaited(&self, name: &LocalName, facts: &ClusterFacts) -> bool {
        let dialled = |cluster: &ClusterName| facts.peers.get(cluster).is_some_and(|p| p.endpoint.is_some());
        let awaited = |cluster: &ClusterName| dialled(cluster) && self.is_unheard(cluster);
        self.locals.get(name).is_some_and(|local| local.all().any(|r| awaited(&r.wanted.cluster)))
    }

    /// Whether it is not known yet what this donor says since the start, nor that it cannot be reached.
    pub fn is_unheard(&self, cluster: &ClusterName) -> bool {
        self.offers.get(cluster).is_none_or(|o| !o.synced && o.unreachable.is_none() && o.refused.is_none())
    }

    /// Whether what a binding comes to is on its way, and will be known in a moment.
    pub fn is_settling(&self, key: &NamedKey, facts: &ClusterFacts) -> bool {
        let Some(binding) = self.bindings.get(key) else { return false };
        let told_before = !binding.conditions.is_empty();
        let names: BTreeSet<_> = binding.split.wanted().map(|w| &w.local).collect();
        !binding.split.potential
            && names.into_iter().any(|name| {
                let pending = self.locals.get(name).is_some_and(|l| *self.write_of(l) == Write::Pending);
                pending && (told_before || !self.is_awaited(name, facts))
            })
    }

    /// Nobody is dialled any more; what was heard stays.
    pub fn lose_touch(&mut self) {
        for offers in self.offers.values_mut() {
            (offers.connected, offers.synced, offers.unreachable) = (false, false, None);
            offers.missed = false;
        }
    }

    /// The objects of a local name are written, or cannot be.
    pub fn written(&mut self, name: &LocalName, write: Write) {
        let Some(local) = self.locals.get_mut(name) else { return };
        let stood = local.standing;
        local.standing = match &write {
            Write::Done => local.wished,
            Write::Conflict(keys) => local.wished && !keys.contains(&name.service()),
            Write::Pending | Write::Failed(_) | Write::Held(_) => stood,
        };
        local.write = write;
        self.untold.extend(local.all().map(|r| exposed(&r.wanted)));
        if stood && !local.standing {
            // Withdrawn, or taken over by somebody: another claim to the name, which could not take it away, counts now.
            self.mark([name.clone()]);
        }
    }

    /// The objects that all bindings share are written, or cannot be. Returns the names that lean on them, if that is
    /// news.
    pub fn shared_written(&mut self, write: Write) -> Vec<LocalName> {
        if self.shared == write {
            return Vec::new();
        }
        self.shared = write;
        let leaning = self.locals.iter().filter(|(_, l)| l.shared);
        self.untold.extend(leaning.clone().flat_map(|(_, l)| l.all()).map(|r| exposed(&r.wanted)));
        leaning.map(|(name, _)| name.clone()).collect()
    }

    /// How far a local name's objects are, with those that it leans on.
    fn write_of<'a>(&'a self, local: &'a Local) -> &'a Write {
        match (&local.write, &self.shared) {
            (Write::Done, shared) if local.shared => shared,
            (own, _) => own,
        }
    }

    /// Whether the objects of a local name are on their way.
    pub fn is_being_written(&self, name: &LocalName) -> bool {
        self.locals.get(name).is_some_and(|local| local.write == Write::Pending)
    }

    /// The bindings that feed a local name: their statuses change with it.
    pub fn bindings_of(&self, name: &LocalName) -> Vec<NamedKey> {
        self.locals.get(name).into_iter().flat_map(|l| l.requests.keys().cloned()).collect()
    }

    /// The bindings that name a peer.
    pub fn bindings_from(&self, cluster: &ClusterName) -> BTreeSet<NamedKey> {
        let names = |b: &Binding| b.split.wanted().any(|w| w.cluster == *cluster);
        self.bindings.iter().filter(|(_, b)| names(b)).map(|(key, _)| key.clone()).collect()
    }

    /// What has to be told to donors since the last call, with the exposition it is about.
    pub fn verdicts(&mut self) -> Vec<(ClusterName, ExpositionKey, Verdict)> {
        let untold = std::mem::take(&mut self.untold);
        let known = |c: &ClusterName, k: &ExpositionKey| {
            self.offers.get(c).is_some_and(|o| o.get(k).is_some() || o.rejection(k).is_some())
        };
        let told = untold.into_iter().filter(|(c, k)| known(c, k));
        told.filter_map(|user| self.verdict(&user).map(|v| (user.0, user.1, v))).collect()
    }

    /// None while it is not decided.
    fn verdict(&self, user: &Exposed) -> Option<Verdict> {
        if let Some(unfit) = self.offers.get(&user.0)?.rejection(&user.1) {
            return Some(Verdict::Rejected { reason: "Rejected".into(), message: unfit.told.clone() });
        }
        let Some(locals) = self.users.get(user) else { return Some(Verdict::Offered) };
        let mut verdict = None;
        for local in locals.iter().filter_map(|name| self.locals.get(name)) {
            for request in local.all().filter(|r| r.wanted.cluster == user.0 && r.wanted.exposed == user.1) {
                match (request.outcome.as_ref()?.problem.as_ref(), self.write_of(local)) {
                    (None, Write::Done) => return Some(Verdict::Bound),
                    (None, Write::Pending | Write::Failed(_) | Write::Held(_)) => {}
                    (None, Write::Conflict(_)) => verdict = Some(Verdict::rejected(Reason::NameConflict)),
                    (Some(p), _) => verdict = Some(Verdict::rejected(p.reason)),
                }
            }
        }
        verdict
    }

    /// The bindings that use an exposition.
    pub fn used_by(&self, cluster: &ClusterName, key: &ExpositionKey) -> BTreeSet<NamedKey> {
        self.uses(cluster, key).cloned().collect()
    }

    /// The bindings that ask for an exposition, and whether somebody else has a local name that they want for it.
    pub fn contested(&self, cluster: &ClusterName, key: &ExpositionKey) -> BTreeMap<NamedKey, bool> {
        let locals = self.users.get(&(cluster.clone(), key.clone())).into_iter().flatten();
        let mut contested = BTreeMap::new();
        for (binding, requests) in locals.filter_map(|l| self.locals.get(l)).flat_map(|l| &l.requests) {
            for request in requests.iter().filter(|r| r.wanted.cluster == *cluster && r.wanted.exposed == *key) {
                let problem = request.outcome.as_ref().and_then(|o| o.problem.as_ref());
                let conflicts = problem.is_some_and(|p| p.reason == Reason::NameConflict);
                *contested.entry(binding.clone()).or_default() |= conflicts;
            }
        }
        contested
    }

    /// Whether any does. It is asked of all that a peer offers whenever the peer's status is told.
    pub fn is_used(&self, cluster: &ClusterName, key: &ExpositionKey) -> bool {
        self.uses(cluster, key).next().is_some()
    }

    fn uses(&self, cluster: &ClusterName, key: &ExpositionKey) -> impl Iterator<Item = &NamedKey> {
        let locals = self.users.get(&(cluster.clone(), key.clone())).into_iter().flatten();
        let requests = locals.filter_map(|l| self.locals.get(l)).flat_map(|l| &l.requests);
        let asks = |r: &Request| r.wanted.cluster == *cluster && r.wanted.exposed == *key;
        requests.filter(move |(_, of)| of.iter().any(asks)).map(|(binding, _)| binding)
    }

    pub fn local_names(&self) -> impl Iterator<Item = &LocalName> {
        self.locals.keys()
    }

    pub fn keys(&self) -> impl Iterator<Item = &NamedKey> {
        self.bindings.keys()
    }

    /// What was told last of each binding.
    pub fn conditions(&self) -> impl Iterator<Item = (&NamedKey, &[Condition])> {
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

/// Names what is in the way to the cluster's operator, once. Statuses do not: tenants of other namespaces read them.
fn tell_operator(name: &LocalName, culprit: Option<&str>, before: Option<String>) -> Option<String> {
    if let Some(object) = culprit.filter(|c| before.as_deref() != Some(*c)) {
        tracing::warn!(local = %name, %object, "an object of another namespace lays claim to a local name");
    }
    culprit.map(str::to_owned)
}

/// Whether two entries ask for the same; where they stand in the binding does not matter.
fn asks_the_same(a: &Wanted, b: &Wanted) -> bool {
    let rest = |w: &Wanted| (w.weight, w.priority, w.shares, w.self_made);
    (&a.cluster, &a.exposed, &a.ports, rest(a)) == (&b.cluster, &b.exposed, &b.ports, rest(b))
}
