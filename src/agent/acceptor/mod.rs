//! The acceptor's half of the state: bindings, what peers offer, and what both come to.
//!
//! The unit of work is the *local name*: several bindings, and several clusters, may stand behind one. Holds no I/O.

mod status;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::api::{BindingStatus, CONNECTION, Condition, Object, RemoteServiceBinding};
use crate::model::{ClusterFacts, ClusterName, Exposition, ExpositionKey};
use crate::store::NamedKey;
use crate::translate::{self, Inventory, LocalName, Missing, Passthroughs, Source, SourceOutcome, Split, Wanted};

use super::donor::Write;
use super::since::Since;

/// What a peer was last heard to offer.
#[derive(Default)]
pub struct PeerOffers {
    pub known: BTreeMap<ExpositionKey, Offer>,
    /// In step with the peer since this process started, so that what is not here is not offered.
    pub synced: bool,
    /// Why the peer refuses to talk to this cluster, if it does.
    pub refused: Option<String>,
    /// Why it cannot be reached, if it cannot.
    pub unreachable: Option<String>,
    pub connected: bool,
    /// It was connected until a moment ago, and may be back in another: bindings do not say yet that it is away.
    pub missed: bool,
}

pub struct Offer {
    pub version: String,
    /// The last one that was fit to be used, if there ever was one.
    pub exposition: Option<Arc<Exposition>>,
    /// Why the newest is not fit to be used. What was good before stays in force.
    pub rejected: Option<Unfit>,
}

/// Why an exposition is not fit to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    pub why: String,
    /// What the donor is told of it.
    pub told: String,
}

impl From<String> for Unfit {
    fn from(why: String) -> Unfit {
        Unfit { told: why.clone(), why }
    }
}

impl From<translate::Rejection> for Unfit {
    fn from(rejection: translate::Rejection) -> Unfit {
        Unfit { why: rejection.to_string(), told: rejection.for_donor() }
    }
}

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
}

#[derive(Default)]
struct Local {
    /// By binding, in the order of its entries.
    requests: BTreeMap<NamedKey, Vec<Request>>,
    write: Write,
    /// It leans on the objects that all bindings share.
    shared: bool,
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

/// An exposition of a donor.
type Exposed = (ClusterName, ExpositionKey);

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
    dirty: BTreeSet<LocalName>,
    /// Expositions about which the verdict may have changed since it was last told.
    untold: BTreeSet<Exposed>,
}

impl Acceptor {
    pub fn set(&mut self, key: NamedKey, mut object: Arc<RemoteServiceBinding>) {
        let status = match object.status {
            Some(_) => Arc::make_mut(&mut object).status.take().unwrap_or_default(),
            None => BindingStatus::default(),
        };
        let split = translate::sources(&object);
        self.attach(&key, &split);
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
        self.attach(key, &Split::default());
        self.bindings.remove(key);
    }

    /// Makes the local names hold what a binding asks for now. Only those for which it asks something else than before
    /// are touched: one service more in a binding of a thousand is one local name's work.
    fn attach(&mut self, key: &NamedKey, split: &Split) {
        let mut groups: BTreeMap<&LocalName, Vec<&Arc<Wanted>>> = BTreeMap::new();
        for wanted in split.wanted() {
            groups.entry(&wanted.local).or_default().push(wanted);
        }
        let before = self.bindings.get(key).into_iter().flat_map(|b| b.split.wanted());
        let gone: BTreeSet<_> = before.map(|w| w.local.clone()).filter(|l| !groups.contains_key(l)).collect();
        for (local, wanted) in groups {
            self.ask(key, local, &wanted);
        }
        for local in gone {
            self.ask(key, &local, &[]);
        }
    }

    fn ask(&mut self, key: &NamedKey, name: &LocalName, wanted: &[&Arc<Wanted>]) {
        let local = self.locals.entry(name.clone()).or_default();
        let before = local.requests.remove(key).unwrap_or_default();
        let same = before.len() == wanted.len() && before.iter().zip(wanted).all(|(r, w)| asks_the_same(&r.wanted, w));
        let mut outcomes: Vec<_> = before.iter().map(|r| r.outcome.clone().filter(|_| same)).collect();
        outcomes.resize_with(wanted.len(), || None);
        let requests = wanted.iter().zip(outcomes).map(|(w, outcome)| Request { wanted: Arc::clone(w), outcome });
        let requests: Vec<_> = requests.collect();
        if !requests.is_empty() {
            local.requests.insert(key.clone(), requests);
        }
        if same {
            return;
        }
        self.dirty.insert(name.clone());
        let still: BTreeSet<_> = local.all().map(|r| exposed(&r.wanted)).collect();
        for old in before.iter().map(|r| exposed(&r.wanted)).filter(|e| !still.contains(e)) {
            if let Some(locals) = self.users.get_mut(&old) {
                locals.remove(name);
                if locals.is_empty() {
                    self.users.remove(&old);
                }
            }
            self.untold.insert(old);
        }
        for user in still {
            self.users.entry(user.clone()).or_default().insert(name.clone());
            self.untold.insert(user);
        }
    }

    /// A peer offers this now. Returns whether that is news.
    pub fn offer(
        &mut self,
        cluster: &ClusterName,
        key: &ExpositionKey,
        version: &str,
        exposition: Arc<Exposition>,
    ) -> bool {
        let known = &mut self.offers.entry(cluster.clone()).or_default().known;
        let same =
            |o: &Offer| o.version == version && o.exposition.as_ref() == Some(&exposition) && o.rejected.is_none();
        if known.get(key).is_some_and(same) {
            return false;
        }
        let offer = Offer { version: version.to_owned(), exposition: Some(exposition), rejected: None };
        known.insert(key.clone(), offer);
        self.touch_users(cluster, key);
        true
    }

    /// A peer offers something that is not fit to be used.
    pub fn reject(&mut self, cluster: &ClusterName, key: &ExpositionKey, why: Unfit) {
        let known = &mut self.offers.entry(cluster.clone()).or_default().known;
        let blank = || Offer { version: String::new(), exposition: None, rejected: None };
        known.entry(key.clone()).or_insert_with(blank).rejected = Some(why);
        self.touch_users(cluster, key);
    }

    /// A peer offers this no longer.
    pub fn withdraw(&mut self, cluster: &ClusterName, key: &ExpositionKey) -> bool {
        let known = self.offers.get_mut(cluster).and_then(|o| o.known.remove(key)).is_some();
        if known {
            self.touch_users(cluster, key);
        }
        known
    }

    fn touch_users(&mut self, cluster: &ClusterName, key: &ExpositionKey) {
        let user = (cluster.clone(), key.clone());
        self.dirty.extend(self.users.get(&user).into_iter().flatten().cloned());
        self.untold.insert(user);
    }

    /// Everything about a peer may have changed: its configuration, or whether it answers.
    pub fn touch_peer(&mut self, cluster: &ClusterName) {
        let of_peer = self.users.iter().filter(|((c, _), _)| c == cluster);
        self.dirty.extend(of_peer.flat_map(|(_, locals)| locals.iter().cloned()));
    }

    /// Something of the user's has come or gone that bears on this name. False if nothing feeds it.
    pub fn touch_local(&mut self, local: &LocalName) -> bool {
        let there = self.locals.contains_key(local);
        if there {
            self.dirty.insert(local.clone());
        }
        there
    }

    pub fn has_local(&self, name: &LocalName) -> bool {
        self.locals.contains_key(name)
    }

    pub fn touch_all(&mut self) {
        self.dirty.extend(self.locals.keys().cloned());
    }

    /// Whether every local name is evaluated.
    pub fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    pub fn next_dirty(&mut self) -> Option<LocalName> {
        self.dirty.pop_first()
    }

    /// What a local name comes to now.
    pub fn evaluate(&mut self, name: &LocalName, inventory: &Inventory, facts: &ClusterFacts) -> Evaluation {
        let sources: Vec<Source> = match self.locals.get(name) {
            None => Vec::new(),
            Some(local) => local
                .all()
                .map(|r| Source {
                    wanted: r.wanted.clone(),
                    exposition: self.lookup(&r.wanted.cluster, &r.wanted.exposed, facts),
                })
                .collect(),
        };
        self.dirty.extend(self.passthroughs.update(name, &sources));
        if sources.is_empty() {
            self.locals.remove(name);
            return Evaluation::default();
        }
        let hold = sources.iter().any(|s| matches!(s.exposition, Err(Missing::PeerUnreachable(_))));
        let bound = translate::bind(name, &sources, inventory, &self.passthroughs, facts);
        if let Some(local) = self.locals.get_mut(name) {
            for (request, outcome) in local.requests.values_mut().flatten().zip(bound.outcomes) {
                request.outcome = Some(outcome);
            }
            local.write.begin();
            local.shared = bound.shared;
        }
        Evaluation { objects: bound.objects, shared: bound.shared, hold }
    }

    fn lookup(
        &self,
        cluster: &ClusterName,
        key: &ExpositionKey,
        facts: &ClusterFacts,
    ) -> Result<Arc<Exposition>, Missing> {
        if facts.peers.get(cluster).is_none_or(|p| p.endpoint.is_none()) {
            return Err(Missing::PeerUnknown);
        }
        let Some(offers) = self.offers.get(cluster) else {
            return Err(Missing::PeerUnreachable("it was not heard of yet".into()));
        };
        match offers.known.get(key) {
            Some(Offer { exposition: Some(exposition), .. }) => Ok(exposition.clone()),
            Some(offer) => {
                let why = offer.rejected.as_ref().map(|unfit| unfit.why.clone());
                Err(Missing::Rejected(why.unwrap_or_default()))
            }
            None => Err(match (&offers.refused, offers.synced, &offers.unreachable) {
                (Some(why), ..) => Missing::NotPermitted(why.clone()),
                (None, true, _) => Missing::NotExposed,
                (None, false, why) => Missing::PeerUnreachable(why.clone().unwrap_or_else(|| "connecting".into())),
            }),
        }
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
        local.write = write;
        self.untold.extend(local.all().map(|r| exposed(&r.wanted)));
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
        let known = |c: &ClusterName, k: &ExpositionKey| self.offers.get(c).is_some_and(|o| o.known.contains_key(k));
        let told = untold.into_iter().filter(|(c, k)| known(c, k));
        told.filter_map(|user| self.verdict(&user).map(|v| (user.0, user.1, v))).collect()
    }

    /// None while it is not decided.
    fn verdict(&self, user: &Exposed) -> Option<Verdict> {
        if let Some(unfit) = &self.offers.get(&user.0)?.known.get(&user.1)?.rejected {
            return Some(Verdict::Rejected { reason: "Rejected".into(), message: unfit.told.clone() });
        }
        let Some(locals) = self.users.get(user) else { return Some(Verdict::Offered) };
        let mut verdict = None;
        for local in locals.iter().filter_map(|name| self.locals.get(name)) {
            for request in local.all().filter(|r| r.wanted.cluster == user.0 && r.wanted.exposed == user.1) {
                match (request.outcome.as_ref()?.problem.as_ref(), self.write_of(local)) {
                    (None, Write::Done) => return Some(Verdict::Bound),
                    (None, Write::Pending | Write::Failed(_)) => {}
                    (None, Write::Conflict(_)) => {
                        let message = "objects of somebody else are in the way at the acceptor".into();
                        verdict = Some(Verdict::Rejected { reason: "NameConflict".into(), message });
                    }
                    (Some(p), _) => {
                        let (reason, message) = (p.reason.to_string(), p.message.clone());
                        verdict = Some(Verdict::Rejected { reason, message });
                    }
                }
            }
        }
        verdict
    }

    /// The bindings that use an exposition.
    pub fn used_by(&self, cluster: &ClusterName, key: &ExpositionKey) -> BTreeSet<NamedKey> {
        self.uses(cluster, key).cloned().collect()
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

/// Whether two entries ask for the same; where they stand in the binding does not matter.
fn asks_the_same(a: &Wanted, b: &Wanted) -> bool {
    (&a.cluster, &a.exposed, a.port, a.weight, a.priority) == (&b.cluster, &b.exposed, b.port, b.weight, b.priority)
}

impl Acceptor {
    /// What is held of a peer: each exposition's version. What was rejected has none: the peer is to tell it again, or
    /// that it is gone.
    pub fn held(&self, cluster: &ClusterName) -> BTreeMap<ExpositionKey, String> {
        let known = self.offers.get(cluster).into_iter().flat_map(|o| &o.known);
        let version = |o: &Offer| if o.rejected.is_none() { o.version.clone() } else { String::new() };
        known.map(|(key, offer)| (key.clone(), version(offer))).collect()
    }

    /// What is in force of a peer.
    pub fn in_force(&self, cluster: &ClusterName) -> Vec<Arc<Exposition>> {
        let known = self.offers.get(cluster).into_iter().flat_map(|o| o.known.values());
        known.filter_map(|offer| offer.exposition.clone()).collect()
    }

    /// What was fit to be used is not any more: nothing of it stays in force.
    pub fn condemn(&mut self, cluster: &ClusterName, key: &ExpositionKey, why: Unfit) {
        self.withdraw(cluster, key);
        self.reject(cluster, key, why);
    }

    /// A peer is no longer dialled: what it offered counts no more. Returns what was known of it.
    pub fn drop_peer(&mut self, cluster: &ClusterName) -> Vec<ExpositionKey> {
        self.touch_peer(cluster);
        self.offers.remove(cluster).map(|o| o.known.into_keys().collect()).unwrap_or_default()
    }
}
