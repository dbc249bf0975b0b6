//! The acceptor's half of the state: bindings, what peers offer, and what both come to.
//!
//! The unit of work is the *local name*: several bindings, and several clusters, may stand behind one. Holds no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::api::{BindingStatus, CONNECTION, Condition, Object, RemoteServiceBinding, ServiceStatus, set_condition};
use crate::model::{ClusterFacts, ClusterName, Exposition, ExpositionKey};
use crate::store::{Known, NamedKey};
use crate::translate::{self, Inventory, LocalName, Missing, Source, SourceOutcome, SourceRef};

use super::donor::Write;

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
}

pub struct Offer {
    pub version: String,
    /// The exposition, or why it is not fit to be used.
    pub exposition: Result<Arc<Exposition>, String>,
}

struct Binding {
    object: Arc<RemoteServiceBinding>,
    /// The sources that it asks for, in the order of its entries; a problem instead of an entry that is not valid.
    sources: Vec<translate::SourceRequest>,
    conditions: Vec<Condition>,
}

#[derive(Default)]
struct Local {
    /// Which entries of which bindings feed this name.
    requests: BTreeSet<SourceRef>,
    outcomes: BTreeMap<SourceRef, SourceOutcome>,
    write: Write,
}

/// What evaluating a local name came to.
pub enum Evaluation {
    /// These are the objects.
    Objects(Vec<Object>),
    /// A peer was not heard since the start, and nothing is remembered of it: what is configured stays.
    Hold,
}

/// What is told to a donor of one of its expositions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Offered,
    Bound,
    Rejected { reason: String, message: String },
}

#[derive(Default)]
pub struct Acceptor {
    bindings: BTreeMap<NamedKey, Binding>,
    locals: BTreeMap<LocalName, Local>,
    pub offers: BTreeMap<ClusterName, PeerOffers>,
    users: HashMap<(ClusterName, ExpositionKey), BTreeSet<LocalName>>,
    dirty: BTreeSet<LocalName>,
    /// Verdicts that have changed since they were last told.
    untold: BTreeSet<(ClusterName, ExpositionKey)>,
}

impl Acceptor {
    pub fn set(&mut self, key: NamedKey, object: Arc<RemoteServiceBinding>) {
        let before = self.bindings.remove(&key);
        self.detach(&key, before.as_ref());
        let conditions = match before {
            Some(binding) => binding.conditions,
            None => object.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default(),
        };
        let sources = translate::sources(&object);
        for (reference, source) in sources.iter().filter_map(|s| s.as_ref().ok().map(|s| (s.reference.clone(), s))) {
            self.locals.entry(source.local.clone()).or_default().requests.insert(reference);
            let user = (source.cluster.clone(), source.exposition.clone());
            self.users.entry(user.clone()).or_default().insert(source.local.clone());
            self.untold.insert(user);
            self.dirty.insert(source.local.clone());
        }
        self.bindings.insert(key, Binding { object, sources, conditions });
    }

    pub fn remove(&mut self, key: &NamedKey) {
        let before = self.bindings.remove(key);
        self.detach(key, before.as_ref());
    }

    fn detach(&mut self, key: &NamedKey, binding: Option<&Binding>) {
        for source in binding.into_iter().flat_map(|b| b.sources.iter().flatten()) {
            if let Some(local) = self.locals.get_mut(&source.local) {
                local.requests.retain(|r| r.binding != *key);
                local.outcomes.retain(|r, _| r.binding != *key);
            }
            self.dirty.insert(source.local.clone());
            let user = (source.cluster.clone(), source.exposition.clone());
            let still = self.feeds(&source.local, &user);
            if let Some(locals) = self.users.get_mut(&user)
                && !still
            {
                locals.remove(&source.local);
                if locals.is_empty() {
                    self.users.remove(&user);
                }
            }
            self.untold.insert(user);
        }
    }

    /// Whether any request of a local name is for this exposition.
    fn feeds(&self, local: &LocalName, (cluster, exposition): &(ClusterName, ExpositionKey)) -> bool {
        let requests = self.locals.get(local).into_iter().flat_map(|l| &l.requests);
        requests.filter_map(|r| self.request(r)).any(|s| s.cluster == *cluster && s.exposition == *exposition)
    }

    fn request(&self, reference: &SourceRef) -> Option<&translate::SourceOf> {
        let sources = &self.bindings.get(&reference.binding)?.sources;
        sources.iter().flatten().find(|s| s.reference == *reference)
    }

    /// A peer offers this now. Returns whether that is news.
    pub fn offer(&mut self, cluster: &ClusterName, key: ExpositionKey, offer: Offer) -> bool {
        let offers = &mut self.offers.entry(cluster.clone()).or_default().known;
        if offers.get(&key).is_some_and(|old| old.version == offer.version && old.exposition == offer.exposition) {
            return false;
        }
        offers.insert(key.clone(), offer);
        self.touch_users(cluster, &key);
        true
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

    /// A Service of the user has come or gone under this name.
    pub fn touch_local(&mut self, local: &LocalName) {
        if self.locals.contains_key(local) {
            self.dirty.insert(local.clone());
        }
    }

    pub fn touch_all(&mut self) {
        self.dirty.extend(self.locals.keys().cloned());
    }

    pub fn next_dirty(&mut self) -> Option<LocalName> {
        self.dirty.pop_first()
    }

    /// What a local name comes to now.
    pub fn evaluate(&mut self, name: &LocalName, inventory: &Inventory, facts: &ClusterFacts) -> Evaluation {
        let Some(local) = self.locals.get(name) else { return Evaluation::Objects(Vec::new()) };
        if local.requests.is_empty() {
            self.locals.remove(name);
            return Evaluation::Objects(Vec::new());
        }
        let references: Vec<_> = local.requests.iter().cloned().collect();
        let sources: Vec<Source<'_>> = references
            .iter()
            .filter_map(|r| {
                let request = self.request(r)?;
                let exposition = self.lookup(&request.cluster, &request.exposition, facts);
                Some(Source { request, exposition })
            })
            .collect();
        let hold = sources.iter().any(|s| matches!(s.exposition, Err(Missing::PeerUnreachable(_))));
        let bound = translate::bind(name, &sources, inventory, facts);
        drop(sources);
        let Some(local) = self.locals.get_mut(name) else { return Evaluation::Objects(Vec::new()) };
        local.outcomes = bound.outcomes;
        local.write = Write::Pending;
        if hold { Evaluation::Hold } else { Evaluation::Objects(bound.objects) }
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
            Some(Offer { exposition: Ok(exposition), .. }) => Ok(exposition.clone()),
            Some(Offer { exposition: Err(why), .. }) => Err(Missing::Rejected(why.clone())),
            None => Err(match (&offers.refused, offers.synced, &offers.unreachable) {
                (Some(why), ..) => Missing::NotPermitted(why.clone()),
                (None, true, _) => Missing::NotExposed,
                (None, false, why) => Missing::PeerUnreachable(why.clone().unwrap_or_else(|| "connecting".into())),
            }),
        }
    }

    /// The objects of a local name are written, or cannot be.
    pub fn written(&mut self, name: &LocalName, write: Write) {
        let Some(local) = self.locals.get_mut(name) else { return };
        local.write = write;
        let requests: Vec<_> = local.requests.iter().cloned().collect();
        let told: Vec<_> = requests
            .iter()
            .filter_map(|r| self.request(r))
            .map(|s| (s.cluster.clone(), s.exposition.clone()))
            .collect();
        self.untold.extend(told);
    }

    /// The bindings that feed a local name: their statuses change with it.
    pub fn bindings_of(&self, name: &LocalName) -> BTreeSet<NamedKey> {
        self.locals.get(name).into_iter().flat_map(|l| l.requests.iter().map(|r| r.binding.clone())).collect()
    }

    /// The bindings that name a peer.
    pub fn bindings_from(&self, cluster: &ClusterName) -> BTreeSet<NamedKey> {
        let names = |b: &Binding| b.sources.iter().flatten().any(|s| s.cluster == *cluster);
        self.bindings.iter().filter(|(_, b)| names(b)).map(|(key, _)| key.clone()).collect()
    }

    /// What has to be told to donors since the last call, with the exposition it is about.
    pub fn verdicts(&mut self) -> Vec<(ClusterName, ExpositionKey, Verdict)> {
        let untold = std::mem::take(&mut self.untold);
        let known = |c: &ClusterName, k: &ExpositionKey| self.offers.get(c).is_some_and(|o| o.known.contains_key(k));
        let told = untold.into_iter().filter(|(c, k)| known(c, k));
        told.filter_map(|(c, k)| self.verdict(&c, &k).map(|v| (c, k, v))).collect()
    }

    /// None while it is not decided.
    fn verdict(&self, cluster: &ClusterName, key: &ExpositionKey) -> Option<Verdict> {
        if let Some(Offer { exposition: Err(why), .. }) = self.offers.get(cluster)?.known.get(key) {
            return Some(Verdict::Rejected { reason: "Invalid".into(), message: why.clone() });
        }
        let Some(locals) = self.users.get(&(cluster.clone(), key.clone())) else { return Some(Verdict::Offered) };
        let mut verdict = None;
        for local in locals.iter().filter_map(|name| self.locals.get(name)) {
            for (reference, outcome) in &local.outcomes {
                let ours = self.request(reference).is_some_and(|s| s.cluster == *cluster && s.exposition == *key);
                match (&outcome.problem, &local.write) {
                    _ if !ours => {}
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
        let locals = self.users.get(&(cluster.clone(), key.clone())).into_iter().flatten();
        let references = locals.filter_map(|l| self.locals.get(l)).flat_map(|l| &l.requests);
        let ours = references.filter(|r| self.request(r).is_some_and(|s| s.cluster == *cluster && s.exposition == *key));
        ours.map(|r| r.binding.clone()).collect()
    }

    pub fn local_names(&self) -> impl Iterator<Item = &LocalName> {
        self.locals.keys()
    }

    pub fn keys(&self) -> impl Iterator<Item = &NamedKey> {
        self.bindings.keys()
    }

    pub fn get(&self, key: &NamedKey) -> Option<&Arc<RemoteServiceBinding>> {
        self.bindings.get(key).map(|b| &b.object)
    }

    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    pub fn status(&mut self, key: &NamedKey, facts: &ClusterFacts, now: &str) -> Option<BindingStatus> {
        let binding = self.bindings.get(key)?;
        let mut conditions = binding.conditions.clone();
        let generation = binding.object.metadata.generation;
        let services = self.services(binding);
        let potential = is_potential(&binding.object);
        for condition in [
            bound(&services, potential),
            self.programmed(binding, potential),
            self.connected(binding, facts),
        ] {
            set_condition(&mut conditions, Condition { observed_generation: generation, ..condition }, now);
        }
        if let Some(binding) = self.bindings.get_mut(key) {
            binding.conditions.clone_from(&conditions);
        }
        Some(BindingStatus { observed_generation: generation, conditions, services })
    }

    fn services(&self, binding: &Binding) -> Vec<ServiceStatus> {
        let status = |source: &translate::SourceRequest| match source {
            Err(problem) => ServiceStatus {
                reason: problem.reason.to_string(),
                message: format!("{}: {}", problem.field, problem.message),
                ..ServiceStatus::default()
            },
            Ok(s) => {
                let outcome = self.locals.get(&s.local).and_then(|l| l.outcomes.get(&s.reference));
                let problem = outcome.and_then(|o| o.problem.as_ref());
                let offer = self.offers.get(&s.cluster).and_then(|o| o.known.get(&s.exposition));
                let bound = outcome.is_some() && problem.is_none();
                ServiceStatus {
                    cluster: s.cluster.to_string(),
                    exposition: s.exposition.to_string(),
                    local_host: s.local.host().to_string(),
                    version: offer.filter(|_| bound).map(|o| o.version.clone()).unwrap_or_default(),
                    bound,
                    reason: problem.map_or(if bound { "Bound" } else { "Pending" }, |p| p.reason).to_owned(),
                    message: problem
                        .map(|p| p.message.clone())
                        .or_else(|| outcome.map(|o| o.notes.join("; ")))
                        .unwrap_or_default(),
                }
            }
        };
        binding.sources.iter().map(status).collect()
    }

    fn programmed(&self, binding: &Binding, potential: bool) -> Condition {
        if potential {
            return Condition::new("Programmed", false, "Potential", "an offer: label it connection=live to configure it");
        }
        let locals: BTreeSet<_> = binding.sources.iter().flatten().map(|s| &s.local).collect();
        let writes = locals.iter().filter_map(|name| self.locals.get(*name)).map(|l| &l.write);
        let worst = writes.max_by_key(|w| match w {
            Write::Done => 0,
            Write::Pending => 1,
            Write::Failed(_) => 2,
            Write::Conflict(_) => 3,
        });
        let problem = locals.iter().filter_map(|name| self.locals.get(*name)).flat_map(|l| &l.outcomes).find_map(
            |(reference, outcome)| {
                let ours = binding.sources.iter().flatten().any(|s| s.reference == *reference);
                outcome.problem.as_ref().filter(|_| ours)
            },
        );
        match (worst, problem) {
            (Some(Write::Done), Some(p)) => Condition::new("Programmed", false, p.reason, p.message.clone()),
            (Some(write), _) => write.condition(),
            (None, _) => Condition::new("Programmed", false, "Invalid", "nothing in it is valid; see Bound"),
        }
    }

    fn connected(&self, binding: &Binding, facts: &ClusterFacts) -> Condition {
        let clusters: BTreeSet<_> = binding.sources.iter().flatten().map(|s| &s.cluster).collect();
        let mut away = Vec::new();
        let mut reason = "PeerUnreachable";
        for cluster in clusters {
            let offers = self.offers.get(cluster);
            if facts.peers.get(cluster).is_none_or(|p| p.endpoint.is_none()) {
                reason = "PeerUnknown";
                away.push(format!("{cluster} is not among the peers that this agent dials: add a peering with its endpoint"));
            } else if !offers.is_some_and(|o| o.connected) {
                let why = offers.and_then(|o| o.refused.clone().or_else(|| o.unreachable.clone()));
                away.push(format!("{cluster}: {}", why.unwrap_or_else(|| "connecting".into())));
            }
        }
        if away.is_empty() {
            Condition::new("PeerConnected", true, "Connected", "every cluster of this binding is connected")
        } else {
            let message = format!("{}; what is configured stays as it is", away.join("; "));
            Condition::new("PeerConnected", false, reason, message)
        }
    }
}

pub fn is_potential(binding: &RemoteServiceBinding) -> bool {
    binding.metadata.labels.as_ref().and_then(|l| l.get(CONNECTION)).is_some_and(|v| v == "potential")
}

fn bound(services: &[ServiceStatus], potential: bool) -> Condition {
    if potential {
        return Condition::new("Bound", false, "Potential", "an offer: label it connection=live to use it");
    }
    match services.iter().find(|s| !s.bound) {
        None => Condition::new("Bound", true, "Bound", "every service is exposed to this cluster, and bound"),
        Some(first) => {
            let missing: Vec<_> = services
                .iter()
                .filter(|s| !s.bound)
                .map(|s| format!("{}:{}: {}", s.cluster, s.exposition, s.message))
                .collect();
            Condition::new("Bound", false, first.reason.clone(), missing.join("; "))
        }
    }
}

/// Turns a remembered exposition into an offer.
pub fn remembered(known: Known) -> Offer {
    Offer { version: known.version, exposition: Ok(Arc::new(known.exposition)) }
}

impl Acceptor {
    /// What is held of a peer: each exposition's version.
    pub fn held(&self, cluster: &ClusterName) -> BTreeMap<ExpositionKey, String> {
        let known = self.offers.get(cluster).into_iter().flat_map(|o| &o.known);
        known.map(|(key, offer)| (key.clone(), offer.version.clone())).collect()
    }

    /// A peer is no longer dialled: what it offered counts no more. Returns what was known of it.
    pub fn drop_peer(&mut self, cluster: &ClusterName) -> Vec<ExpositionKey> {
        self.touch_peer(cluster);
        self.offers.remove(cluster).map(|o| o.known.into_keys().collect()).unwrap_or_default()
    }
}
